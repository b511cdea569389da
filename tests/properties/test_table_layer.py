"""Everything that is done to items, at random, against a plain model: what each call answers, what every index and the
stream hold afterwards, with calls side by side, indexes that come and go, expiry and restarts in between.

The services are called as the server calls them; there is no network, so a machine makes hundreds of steps a second.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from broker.encoding.keys import table_prefix
from broker.model.errors import HeadraceError, TransactionCanceledError, cancellation_code
from broker.model.tables import Index, KeyAttribute, KeyAttributeType, ProjectionType, StreamViewType
from broker.rpc.item_service import ItemService
from broker.rpc.mirror import ITEM_SERVICE
from broker.storage.layout import decode_size
from broker.storage.rocks import Family, Store
from broker.tables.capacity import CapacityMetering
from broker.tables.definition import NewTable, TableChange
from broker.tables.housekeeping import Backfill, Expiry
from broker.tables.read import ItemReader
from broker.tables.transactions import RequestTokens
from headrace.v1 import item_service_pb2 as pb
from headrace.v1.stream_service_pb2 import GetRecordsResponse
from tests.model import IndexModel
from tests.unit.engine import NOON_MS, Engine, FakeClock, running
from tests.values import Attributes, Value, size_bytes, to_attribute_value, to_item, value
from tests.values import from_item as public_attributes

TABLE = "orders"
CUSTOMER = KeyAttribute(name="customer", type=KeyAttributeType.STRING)
NUMBER = KeyAttribute(name="n", type=KeyAttributeType.NUMBER)
AMOUNT = KeyAttribute(name="amount", type=KeyAttributeType.NUMBER)
STAGE = KeyAttribute(name="stage", type=KeyAttributeType.STRING)
BY_AMOUNT = Index(
    name="by-amount",
    id=0,
    is_global=False,
    partition_keys=(CUSTOMER,),
    sort_keys=(AMOUNT,),
    projection_type=ProjectionType.INCLUDE,
    non_key_attributes=("stage",),
)
BY_STAGE = Index(
    name="by-stage",
    id=0,
    is_global=True,
    partition_keys=(STAGE,),
    sort_keys=(AMOUNT,),
    projection_type=ProjectionType.KEYS_ONLY,
)
PLACE = KeyAttribute(name="place", type=KeyAttributeType.BINARY)
BY_PLACE = Index(
    name="by-place",
    id=0,
    is_global=True,
    partition_keys=(STAGE, PLACE),
    sort_keys=(CUSTOMER, AMOUNT, NUMBER),
    projection_type=ProjectionType.ALL,
)
ADDED = {index.name: index for index in (BY_STAGE, BY_PLACE)}
INDEX_NAMES = ["by-amount", *ADDED]
NOW = NOON_MS // 1000
Key = tuple[str, int]


def s(text: str) -> Value:
    return value(text)


def n(number: int) -> Value:
    return value(number)


class Condition(NamedTuple):
    text: str
    holds: Callable[[Attributes], bool]
    values: dict[str, Value]


def number_of(item: Attributes, name: str) -> Decimal | None:
    kind, content = item.get(name, ("", None))
    return content if kind == "N" else None


CONDITIONS = [
    Condition("attribute_exists(customer)", bool, {}),
    Condition("attribute_not_exists(customer)", lambda item: not item, {}),
    Condition("amount > :one", lambda item: (number_of(item, "amount") or 0) > 1, {":one": n(1)}),
    Condition("NOT stage = :paid", lambda item: item.get("stage") != s("paid"), {":paid": s("paid")}),
    Condition("size(tags) >= :one OR n < :one", lambda item: "tags" in item or item.get("n") == n(0), {":one": n(1)}),
    Condition(
        "amount BETWEEN :one AND :two AND begins_with(stage, :p)",
        lambda item: number_of(item, "amount") in (1, 2) and item.get("stage") == s("paid"),
        {":one": n(1), ":two": n(2), ":p": s("pa")},
    ),
]


class InvalidError(Exception):
    """The model's word for a write that is refused for what it would make of the item."""


def added(item: Attributes) -> Attributes:
    if "amount" in item and item["amount"][0] != "N":
        raise InvalidError
    return item | {"amount": n(int(number_of(item, "amount") or 0) + 1)}


def tagged(item: Attributes) -> Attributes:
    tags = item["tags"][1] if "tags" in item else frozenset()
    return item | {"tags": value({*tags, "x"})}


def untagged(item: Attributes) -> Attributes:
    left = item["tags"][1] - {"x"} if "tags" in item else frozenset()
    return without("tags")(item) | ({"tags": value(left)} if left else {})


class Update(NamedTuple):
    text: str
    apply: Callable[[Attributes], Attributes]
    values: dict[str, Value]
    touched: tuple[str, ...]
    creates: bool = True


def without(*names: str) -> Callable[[Attributes], Attributes]:
    return lambda item: {name: of for name, of in item.items() if name not in names}


def deepened(item: Attributes) -> Attributes:
    if "amount" not in item or "body" not in item:
        raise InvalidError
    parts = dict(item["body"][1]) | {"deep": item["amount"]}
    return without("stage")(item) | {"body": ("M", frozenset(parts.items()))}


UPDATES = [
    Update("", dict, {}, ()),
    Update("SET stage = :paid", lambda item: item | {"stage": s("paid")}, {":paid": s("paid")}, ("stage",)),
    Update("ADD amount :one", added, {":one": n(1)}, ("amount",)),
    Update("SET amount = if_not_exists(amount, :zero) + :one", added, {":one": n(1), ":zero": n(0)}, ("amount",)),
    Update("REMOVE amount, stage", without("amount", "stage"), {}, ("amount", "stage"), creates=False),
    Update("SET place = :b", lambda item: item | {"place": value(b"\x00")}, {":b": value(b"\x00")}, ("place",)),
    Update("REMOVE place", without("place"), {}, ("place",), creates=False),
    Update("ADD tags :x", tagged, {":x": value({"x"})}, ("tags",)),
    Update("DELETE tags :x", untagged, {":x": value({"x"})}, ("tags",), creates=False),
    Update(
        "SET body.deep = amount REMOVE stage",
        deepened,
        {},
        ("body", "stage"),
    ),
]


OPERATORS = ["=", "<", "<=", ">", ">=", "BETWEEN"]
RETURNS = ["NONE", "ALL_OLD", "UPDATED_OLD", "ALL_NEW", "UPDATED_NEW"]
keys = st.tuples(st.sampled_from("ab"), st.integers(0, 3))
KEY_PARTS = {
    "amount": st.integers(0, 3).map(n),
    "stage": st.sampled_from(["open", "paid"]).map(s),
    "place": st.sampled_from([b"\x00", b"\xff"]).map(value),
}
MORE_PARTS = {
    "tags": st.sampled_from([{"x"}, {"x", "y"}]).map(value),
    "body": st.sampled_from([{}, {"k": "v"}]).map(value),
    "until": st.sampled_from([NOW - 10, NOW + 50, NOW + 150]).map(n),
}
# Often with all that makes an item a part of every index.
payloads = st.one_of(
    st.fixed_dictionaries({}, optional=KEY_PARTS | MORE_PARTS), st.fixed_dictionaries(KEY_PARTS, optional=MORE_PARTS)
)


class Write(NamedTuple):
    kind: str
    key: Key
    payload: Attributes
    update: Update
    condition: Condition | None
    returns: str
    shows_failed: bool


writes = st.builds(
    Write,
    st.sampled_from(["put", "put", "update", "update", "delete"]),
    keys,
    payloads,
    st.sampled_from(UPDATES),
    st.one_of(st.none(), st.sampled_from(CONDITIONS)),
    st.sampled_from(RETURNS),
    st.booleans(),
)


def key_of(key: Key) -> Attributes:
    return {"customer": s(key[0]), "n": n(key[1])}


class Model:
    """What the table should hold, and each change that its stream should have."""

    def __init__(self) -> None:
        self.items: dict[Key, Attributes] = {}
        self.changes: list[tuple[Attributes | None, Attributes | None, bool]] = []

    def decide(self, write: Write) -> Attributes | None:
        """What the item shall be. Raises InvalidError, or LookupError if the condition does not hold."""
        old = self.items.get(write.key)
        if write.condition is not None and not write.condition.holds(old or {}):
            raise LookupError
        if write.kind == "put":
            return key_of(write.key) | write.payload
        if write.kind == "delete":
            return None
        if old is None and not write.update.creates:
            return None
        return write.update.apply(old or key_of(write.key))

    def carry_out(self, key: Key, new: Attributes | None, *, is_expiry: bool = False) -> None:
        old = self.items.get(key)
        if old == new:
            return
        self.changes.append((old, new, is_expiry))
        if new is None:
            del self.items[key]
        else:
            self.items[key] = new

    def in_index(self, index: Index) -> list[Attributes]:
        """The entries of an index."""
        return model_of(index).entries(self.items.values(), ("customer", "n"))


def model_of(index: Index) -> IndexModel:
    """An index as the oracle knows it."""
    partition, sort = (
        {str(attribute.name): str(attribute.type) for attribute in attributes}
        for attributes in (index.partition_keys, index.sort_keys)
    )
    projected = None if index.projection_type is ProjectionType.ALL else frozenset(index.non_key_attributes)
    return IndexModel(partition_keys=partition, sort_keys=sort, projected=projected)


THE_TABLE = IndexModel(partition_keys={"customer": "S"}, sort_keys={"n": "N"}, projected=None)


class TableLayer(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = Path(tempfile.mkdtemp())
        self.clock = FakeClock()
        self.model = Model()
        self.tokens = 0
        self.run(self.open())

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(asyncio.wait_for(work, 20))

    async def open(self) -> None:
        self.stack = AsyncExitStack()
        self.store = Store(self.folder)
        self.engine: Engine = await self.stack.enter_async_context(running(self.store, self.clock))
        e = self.engine
        self.capacity = CapacityMetering(self.clock)
        self.reader = ItemReader(e.store, e.committer)
        self.service = ItemService(e.catalog, e.committer, self.reader, self.capacity, RequestTokens(e.store))
        self.backfill = Backfill(e.catalog, e.committer, e.store)
        self.expiry = Expiry(e.catalog, e.committer, e.store, self.clock)

    async def close(self) -> None:
        await self.stack.aclose()
        self.store.close()

    def teardown(self) -> None:
        try:
            self.check_indexes()
        finally:
            self.run(self.close())
            self.loop.close()
            shutil.rmtree(self.folder)

    @initialize()
    def make_table(self) -> None:
        self.run(
            self.engine.catalog.create_table(
                NewTable(
                    name=TABLE,
                    partition_key=CUSTOMER,
                    sort_key=NUMBER,
                    view_type=StreamViewType.NEW_AND_OLD_IMAGES,
                    indexes=(BY_AMOUNT, BY_PLACE),
                )
            )
        )

    # Calls.

    async def call(self, name: str, request: Message) -> Any:
        """A call as the server makes it; its response, or the error."""
        method = ITEM_SERVICE.methods_by_name[name]
        mirrored = GetMessageClass(method.input_type).FromString(request.SerializeToString())
        response: Any = getattr(pb, method.output_type.name)
        try:
            return response.FromString(await getattr(self.service, name)(mirrored))
        except HeadraceError as error:
            return error

    def request(self, write: Write) -> tuple[str, Message]:
        more: dict[str, Any] = {}
        values = {} if write.condition is None else dict(write.condition.values)
        if write.condition is not None:
            more["condition_expression"] = write.condition.text
        if write.shows_failed:
            more["return_values_on_condition_check_failure"] = pb.RETURN_VALUES_ON_CONDITION_CHECK_FAILURE_ALL_OLD
        if write.kind == "update":
            values |= write.update.values
            # An empty text is refused, an absent one makes an item of its key alone.
            more["update_expression"] = write.update.text or None
        returns = write.returns if write.kind == "update" or write.returns == "ALL_OLD" else "NONE"
        more["return_values"] = pb.ReturnValues.Value(f"RETURN_VALUES_{returns}")
        more["expression_attribute_values"] = {name: to_attribute_value(of) for name, of in values.items()}
        if write.kind == "put":
            return "PutItem", pb.PutItemRequest(
                table_name=TABLE, item=to_item(key_of(write.key) | write.payload), **more
            )
        key = to_item(key_of(write.key))
        if write.kind == "delete":
            return "DeleteItem", pb.DeleteItemRequest(table_name=TABLE, key=key, **more)
        return "UpdateItem", pb.UpdateItemRequest(table_name=TABLE, key=key, **more)

    def expect(self, write: Write, answer: Any) -> None:
        """Carries a write out in the model, and compares the answer."""
        old = self.model.items.get(write.key)
        try:
            new = self.model.decide(write)
        except InvalidError:
            assert getattr(answer, "reason", None) == "VALIDATION", answer
            return
        except LookupError:
            if write.shows_failed:
                shown = answer.condition_check_failure
                assert (public_attributes(shown.item) if shown.HasField("item") else None) == old
            else:
                assert getattr(answer, "reason", None) == "CONDITIONAL_CHECK_FAILED", answer
            return
        assert not isinstance(answer, HeadraceError), answer
        self.model.carry_out(write.key, new)
        assert (public_attributes(answer.attributes) if answer.HasField("attributes") else None) == returned(
            write, old, new
        )

    @rule(together=st.lists(writes, min_size=1, max_size=6))
    def write(self, together: list[Write]) -> None:
        async def all_at_once() -> list[Any]:
            return await asyncio.gather(*(self.call(*self.request(write)) for write in together))

        for write, answer in zip(together, self.run(all_at_once()), strict=True):
            self.expect(write, answer)

    @rule(actions=st.lists(writes, min_size=1, max_size=4, unique_by=lambda write: write.key), twice=st.booleans())
    def transact(self, actions: list[Write], *, twice: bool) -> None:
        self.tokens += 1
        request = pb.TransactWriteItemsRequest(client_request_token=str(self.tokens) if twice else None)
        kinds = {"PutItem": "put", "UpdateItem": "update", "DeleteItem": "delete"}
        for write in actions:
            name, message = self.request(write._replace(returns="NONE", shows_failed=False))
            getattr(request.transact_items.add(), kinds[name]).CopyFrom(message)
        answer = self.run(self.call("TransactWriteItems", request))
        decided: list[Attributes | None] = []
        codes = []
        for write in actions:
            code = "None"
            try:
                decided.append(self.model.decide(write))
            except InvalidError:
                code = "ValidationError"
            except LookupError:
                code = "ConditionalCheckFailed"
            codes.append(code)
        if set(codes) == {"None"}:
            assert not isinstance(answer, HeadraceError), answer
            for write, new in zip(actions, decided, strict=True):
                self.model.carry_out(write.key, new)
            if twice:
                # Nothing new comes of it, whatever has become of the items.
                assert not isinstance(self.run(self.call("TransactWriteItems", request)), HeadraceError)
        else:
            assert isinstance(answer, TransactionCanceledError), answer
            assert [cancellation_code(cause) for cause in answer.causes] == codes

    @rule(wanted=st.lists(keys, min_size=1, max_size=5, unique=True), transactional=st.booleans())
    def get(self, wanted: list[Key], *, transactional: bool) -> None:
        expected = [self.model.items.get(key) for key in wanted]
        if transactional:
            gets = [pb.TransactGetItem(table_name=TABLE, key=to_item(key_of(key))) for key in wanted]
            answer = self.run(self.call("TransactGetItems", pb.TransactGetItemsRequest(transact_items=gets)))
            found = [public_attributes(each.item) if each.HasField("item") else None for each in answer.responses]
            assert found == expected
        else:
            tables = [pb.TableKeys(table_name=TABLE, keys=[to_item(key_of(key)) for key in wanted])]
            answer = self.run(self.call("BatchGetItem", pb.BatchGetItemRequest(tables=tables)))
            assert list(map(public_attributes, answer.tables[0].items)) == [item for item in expected if item]

    @rule(
        where=st.sampled_from(["", *INDEX_NAMES]),
        data=st.data(),
        condition=st.one_of(st.none(), st.sampled_from(CONDITIONS[2:4])),
        limit=st.one_of(st.none(), st.integers(1, 3)),
        is_reverse=st.booleans(),
    )
    def query(
        self, where: str, data: st.DataObject, condition: Condition | None, limit: int | None, *, is_reverse: bool
    ) -> None:
        """Every form of key condition on the values of one item, which mostly is there."""
        index = self.index(where)
        if where and index is None:
            return
        read = THE_TABLE if index is None else model_of(index)
        if condition is not None and {"amount", "stage"} & read.keys.keys():
            # A filter may not mention the key.
            condition = None
        entries = list(self.model.items.values()) if index is None else self.model.in_index(index)
        like = data.draw(st.sampled_from([*entries, {}]))
        like = {name: like.get(name) or data.draw(KEY_VALUES[name]) for name in read.keys}
        other = {name: data.draw(KEY_VALUES[name]) for name in read.sort_keys}
        sort_keys = list(read.sort_keys)
        for asked in range(len(sort_keys) + 1):
            # Equality on all of the partition key and the first sort key attributes, and a range of the next one.
            equal = [*read.partition_keys, *sort_keys[: max(0, asked - 1)]]
            for operator in OPERATORS if asked else [""]:
                bounds = {name: [like[name]] for name in equal}
                parts = [f"{name} = :{name}0" for name in equal]
                if operator:
                    name = sort_keys[asked - 1]
                    both = sorted((like[name], other[name]), key=_content)
                    bounds[name] = both if operator == "BETWEEN" else [like[name]]
                    parts.append(_range_condition(name, operator))
                request = pb.QueryRequest(
                    table_name=TABLE,
                    index_name=where or None,
                    # In any order.
                    key_condition_expression=" AND ".join(reversed(parts) if is_reverse else parts),
                    filter_expression=None if condition is None else condition.text,
                    limit=limit,
                    scan_index_forward=not is_reverse,
                )
                values = {f":{name}{number}": of for name, all_ in bounds.items() for number, of in enumerate(all_)}
                for name, of in (values | ({} if condition is None else condition.values)).items():
                    request.expression_attribute_values[name].CopyFrom(to_attribute_value(of))
                expected = [
                    item
                    for item in entries
                    if all(item[name] == like[name] for name in equal)
                    and (not operator or _is_within(item[sort_keys[asked - 1]], operator, bounds[sort_keys[asked - 1]]))
                    and (condition is None or condition.holds(item))
                ]
                found = self.pages("Query", request, limit)
                assert sorted(found, key=_place) == sorted(expected, key=_place)
                ranks = list(map(read.rank, found))
                assert ranks == sorted(ranks, reverse=is_reverse)

    @rule(
        where=st.sampled_from(["", *INDEX_NAMES]),
        total=st.integers(1, 3),
        limit=st.one_of(st.none(), st.integers(1, 3)),
        condition=st.one_of(st.none(), st.sampled_from(CONDITIONS)),
    )
    def scan(self, where: str, total: int, limit: int | None, condition: Condition | None) -> None:
        index = self.index(where)
        if where and index is None:
            return
        found: list[Attributes] = []
        for segment in range(total):
            request = pb.ScanRequest(
                table_name=TABLE, index_name=where or None, limit=limit, segment=segment, total_segments=total
            )
            if condition is not None:
                request.filter_expression = condition.text
                for name, of in condition.values.items():
                    request.expression_attribute_values[name].CopyFrom(to_attribute_value(of))
            found += self.pages("Scan", request, limit)
        entries = list(self.model.items.values()) if index is None else self.model.in_index(index)
        # What a local index does not have is looked up in the table; a global one filters by what it has.
        whole = self.model.items
        expected = [
            item
            for item in entries
            if condition is None
            or condition.holds(whole[_place(item)] if index is not None and not index.is_global else item)
        ]
        if condition is not None and index is not None and not index.is_global:
            # Completed from the table if the filter asks for more than the index has.
            found = [{name: of for name, of in item.items() if name in _projected(index)} for item in found]
        assert sorted(found, key=_place) == sorted(expected, key=_place)

    def pages(self, name: str, request: Any, limit: int | None) -> list[Attributes]:
        found: list[Attributes] = []
        for _ in range(50):
            page = self.run(self.call(name, request))
            assert not isinstance(page, HeadraceError), page
            assert page.count == len(page.items) <= page.scanned_count <= (limit or 100)
            found += map(public_attributes, page.items)
            if not page.HasField("last_evaluated_key"):
                return found
            request.exclusive_start_key.CopyFrom(page.last_evaluated_key)
        raise AssertionError("the pages do not end")

    # What happens to the table meanwhile.

    def index(self, name: str) -> Index | None:
        return next((each for each in self.definition.indexes if each.name == name), None)

    @property
    def definition(self) -> Any:
        return self.engine.catalog.open_table(TABLE).definition

    @rule(name=st.sampled_from(list(ADDED)), meanwhile=st.lists(writes, max_size=5))
    def add_index(self, name: str, meanwhile: list[Write]) -> None:
        if self.index(name) is not None:
            return

        async def fill() -> list[Any]:
            await self.engine.catalog.update_table(TABLE, TableChange(new_indexes=(ADDED[name],)))
            answers = await asyncio.gather(
                self.backfill.round(), *(self.call(*self.request(write)) for write in meanwhile)
            )
            return list(answers[1:])

        for write, answer in zip(meanwhile, self.run(fill()), strict=True):
            self.expect(write, answer)
        added_index = self.index(name)
        assert added_index is not None
        assert not added_index.is_backfilling

    @rule(name=st.sampled_from(list(ADDED)))
    def drop_index(self, name: str) -> None:
        if self.index(name) is not None:
            self.run(self.engine.catalog.update_table(TABLE, TableChange(deleted_indexes=(name,))))

    @rule(is_enabled=st.booleans())
    def switch_expiry(self, *, is_enabled: bool) -> None:
        if is_enabled is (self.definition.time_to_live is None):
            self.run(self.engine.catalog.update_time_to_live(TABLE, "until", is_enabled=is_enabled))
            self.run(self.backfill.round())

    @rule(seconds=st.sampled_from([0, 20, 100]))
    def expire(self, seconds: int) -> None:
        self.clock.ms += seconds * 1000
        self.run(self.expiry.round())
        if self.definition.time_to_live is None:
            return
        now = self.clock.ms // 1000
        due = [key for key, item in self.model.items.items() if (number_of(item, "until") or now) < now]
        # In the order of their times, which the stream's order is compared with.
        for key in sorted(due, key=lambda key: number_of(self.model.items[key], "until") or 0):
            self.model.carry_out(key, None, is_expiry=True)

    @rule()
    def restart(self) -> None:
        async def again() -> None:
            await self.close()
            await self.open()

        self.run(again())

    # What must hold after every step.

    @invariant()
    def check_stream(self) -> None:
        """Every record is the difference that an operation made, in the order of the operations."""
        if not self.engine.catalog.streams.all():
            return
        (stream,) = self.engine.catalog.streams.all()
        page = self.engine.log.read(stream.shards[0], 0, 10**6, 10**9)
        records = GetRecordsResponse.FromString(b"".join(page.parts)).records
        seen = [
            (
                public_attributes(record.old_image) if record.HasField("old_image") else None,
                public_attributes(record.new_image) if record.HasField("new_image") else None,
                record.user_identity.principal_id == "dynamodb.amazonaws.com",
            )
            for record in records
        ]
        # Those that expired at one time are in any order.
        left = list(self.model.changes)
        for change in seen:
            left.remove(change)
        assert left == []
        assert [change for change in seen if not change[2]] == [c for c in self.model.changes if not c[2]]
        for record, (old, new, _) in zip(records, seen, strict=True):
            event = "INSERT" if old is None else "REMOVE" if new is None else "MODIFY"
            assert record.event_name == {"INSERT": 1, "MODIFY": 2, "REMOVE": 3}[event]
            whole = new or old
            assert whole is not None
            assert public_attributes(record.keys) == {name: whole[name] for name in ("customer", "n")}

    @invariant()
    def check_sizes(self) -> None:
        if not self.engine.catalog.streams.all():
            return
        catalog = self.engine.catalog
        items = list(self.model.items.values())
        assert catalog.size_of(self.definition.id) == (len(items), sum(map(size_bytes, items)))
        for index in self.definition.indexes:
            entries = self.model.in_index(index)
            assert catalog.size_of(index.id) == (len(entries), sum(map(size_bytes, entries)))

    @invariant()
    def check_item_collections(self) -> None:
        if not self.engine.catalog.streams.all():
            return
        collections: dict[Any, list[int]] = {}
        entries = [
            entry for index in self.definition.indexes if not index.is_global for entry in self.model.in_index(index)
        ]
        for is_item, contents in ((1, self.model.items.values()), (0, entries)):
            for content in contents:
                collection = collections.setdefault(content["customer"], [0, 0])
                collection[0] += is_item
                collection[1] += size_bytes(content)
        begin, end = table_prefix(self.definition.id), table_prefix(self.definition.id + 1)
        held = [decode_size(size) for _, size in self.store.scan(Family.INDEXES, begin, end)]
        assert sorted(map(list, held)) == sorted(collections.values())

    def check_indexes(self) -> None:
        if self.engine.catalog.streams.all():
            for where in ("", *INDEX_NAMES):
                self.scan(where=where, total=1, limit=None, condition=None)


def returned(write: Write, old: Attributes | None, new: Attributes | None) -> Attributes | None:
    returns = write.returns if write.kind == "update" or write.returns == "ALL_OLD" else "NONE"
    whole = {"NONE": None, "ALL_OLD": old, "UPDATED_OLD": old, "ALL_NEW": new, "UPDATED_NEW": new}[returns]
    if whole is None or not returns.startswith("UPDATED"):
        return whole
    touched = {name: of for name, of in whole.items() if name in write.update.touched}
    if "body" in write.update.touched and "body" in touched:
        # Only the part that the update names.
        deep = frozenset(each for each in touched["body"][1] if each[0] == "deep")
        touched = touched | {"body": ("M", deep)} if deep else without("body")(touched)
    return touched or None


# Of each key attribute: what it may be, and what is asked for.
KEY_VALUES = {
    "customer": st.sampled_from("abc").map(s),
    "n": st.integers(0, 3).map(n),
    "amount": st.integers(0, 3).map(n),
    "stage": st.sampled_from(["open", "paid"]).map(s),
    "place": st.sampled_from([b"\x00", b"\xff"]).map(value),
}


def _range_condition(name: str, operator: str) -> str:
    return f"{name} BETWEEN :{name}0 AND :{name}1" if operator == "BETWEEN" else f"{name} {operator} :{name}0"


def _content(of: Value) -> Any:
    return of[1]


def _is_within(of: Value, operator: str, bounds: list[Value]) -> bool:
    found, low, high = of[1], bounds[0][1], bounds[-1][1]
    holds: dict[str, bool] = {
        "=": found == low,
        "<": found < low,
        "<=": found <= low,
        ">": found > low,
        ">=": found >= low,
        "BETWEEN": low <= found <= high,
    }
    return holds[operator]


def _projected(index: Index) -> set[str]:
    return {"customer", "n", *(a.name for a in index.key_attributes), *index.non_key_attributes}


def _place(item: Attributes) -> Key:
    return item["customer"][1], int(item["n"][1])


@pytest.mark.timeout(300)
def test_all_that_is_done_to_items_is_as_the_model_says() -> None:
    run_state_machine_as_test(
        TableLayer,
        settings=settings(
            max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
