"""ItemService: requests to operations and reads, the hottest path of the broker.

Requests are those of `mirror`: where the proto says Item they hold its bytes, which no generated type can say.
Responses are put together from stored bytes.
"""

from __future__ import annotations

import asyncio
from functools import partial
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from broker.encoding import items as item_encoding
from broker.encoding.items import canonical_value, canonicalize, has_many_values, parse_item
from broker.encoding.keys import KEY_MISMATCH
from broker.encoding.varint import field_bytes
from broker.encoding.wire import LOOKED_THROUGH_BYTES
from broker.expressions.condition import ExpressionKind, parse_condition
from broker.expressions.key_condition import match_keys, parse_key_conditions
from broker.expressions.placeholders import PLACEHOLDERS_BYTES_MAX, PLACEHOLDERS_MAX, Placeholders
from broker.expressions.projection import parse_projection
from broker.expressions.update import NO_UPDATE, parse_update
from broker.model.constraints import one_of, value_at_least
from broker.model.errors import (
    ConditionalCheckFailedError,
    ConstraintError,
    HeadraceError,
    ItemKeyError,
    ProvisionedThroughputExceededError,
    ThrottlingError,
    TransactionCanceledError,
    ValidationError,
    cancellation_code,
    forget_frames,
)
from broker.model.turns import SHORT_BYTES, TURN_BYTES, TURN_SECONDS
from broker.rpc.convert import consumed_capacity
from broker.rpc.handlers import pipeline
from broker.rpc.status import to_message
from broker.tables.capacity import Consumption, by_table, read_units
from broker.tables.operations import SHOWN_BYTES_MAX, Change, Check, Delete, Put, ShownItems, Wanted
from broker.tables.query import Reading, Select, check_segments, check_select, open_index, query, scan
from broker.tables.transactions import RequestToken, Transaction
from broker.tables.validate import check_count, check_length, check_table_name
from headrace.v1 import item_service_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from broker.encoding.items import EncodedItem, Item
    from broker.encoding.keys import ItemKey
    from broker.expressions.condition import Condition
    from broker.expressions.key_condition import KeyCondition
    from broker.expressions.projection import Projection
    from broker.expressions.update import Update
    from broker.rpc.handlers import Requests
    from broker.rpc.status import Context
    from broker.storage.commit import Committer, Operation
    from broker.tables.capacity import CapacityMetering
    from broker.tables.catalog import Catalog, OpenTable
    from broker.tables.indexes import IndexCodec
    from broker.tables.operations import Outcome, Write
    from broker.tables.query import Page
    from broker.tables.read import ItemReader
    from broker.tables.transactions import RequestTokens

BATCH_WRITE_OPERATIONS_MAX: Final = 25
BATCH_GET_KEYS_MAX: Final = 100
# A response of BatchGetItem is not begun beyond it; a client takes 4 MB.
BATCH_GET_BYTES_MAX: Final = 1024 * 1024
WRITE_ITEMS_OPERATIONS_MAX: Final = 1000
TRANSACTION_ACTIONS_MAX: Final = 100
TRANSACTION_BYTES_MAX: Final = 4 * 1024 * 1024
# What a client takes, less what a response may hold besides the items.
TRANSACTION_ENCODED_BYTES_MAX: Final = TRANSACTION_BYTES_MAX - 64 * 1024
TOKEN_LENGTH_MAX: Final = 36
# More take longer than a turn of the event loop may: a value takes about 0.7 us.
_TURN_VALUES: Final = 10_000
# What a page costs besides its items, told as bytes that are looked at. What these cost is counted where they are read.
_PAGE_BYTES: Final = 512

Prepared = TypeVar("Prepared")

# An absent response, and an element of `repeated WriteResult results = 1` that says: written.
_EMPTY: Final = b""
_WRITTEN: Final = b"\x0a\x00"
# Tags of length-delimited fields.
_FIELD_1: Final = b"\x0a"
_FIELD_2: Final = b"\x12"
_FIELD_3: Final = b"\x1a"
_FIELD_4: Final = b"\x22"
_FIELD_5: Final = b"\x2a"

_RETURN_VALUES_OF_CHANGES: Final = frozenset(pb.ReturnValues.values())
_RETURN_VALUES_OF_OTHERS: Final = frozenset(
    (pb.RETURN_VALUES_UNSPECIFIED, pb.RETURN_VALUES_NONE, pb.RETURN_VALUES_ALL_OLD)
)
_NO_VALUES: Final = (pb.RETURN_VALUES_UNSPECIFIED, pb.RETURN_VALUES_NONE)
_SHOWS_FAILED: Final = pb.RETURN_VALUES_ON_CONDITION_CHECK_FAILURE_ALL_OLD
_TELLS_SIZE: Final = pb.RETURN_ITEM_COLLECTION_METRICS_SIZE
_SELECTS: Final[dict[int, Select | None]] = {
    pb.SELECT_UNSPECIFIED: None,
    **{pb.Select.Value(f"SELECT_{select}"): select for select in Select},
}


class ItemService:
    """Implements headrace.v1.ItemService."""

    def __init__(
        self,
        catalog: Catalog,
        committer: Committer,
        reader: ItemReader,
        capacity: CapacityMetering,
        tokens: RequestTokens,
    ) -> None:
        self._catalog = catalog
        self._committer = committer
        self._reader = reader
        self._turns = reader.turns
        self._capacity = capacity
        self._tokens = tokens

    async def PutItem(self, request: Any) -> bytes:
        """Creates or replaces an item."""
        return await self._write(request, await self._prepared(request, self._put))

    async def UpdateItem(self, request: Any) -> bytes:
        """Changes attributes of an item."""
        return await self._write(request, await self._prepared(request, self._update))

    async def DeleteItem(self, request: Any) -> bytes:
        """Removes an item."""
        return await self._write(request, await self._prepared(request, self._delete))

    async def _prepared(self, request: Any, prepare: Callable[[Any, str], Prepared]) -> Prepared:
        """Return what a request asks for, checked; long requests take turns."""
        if request.ByteSize() <= SHORT_BYTES:
            return prepare(request, request.table_name)
        return await self._in_turn(request, lambda: prepare(request, request.table_name))

    async def _in_turn(self, request: Any, prepare: Callable[[], Prepared]) -> Prepared:
        """Prepare a request, or one of a batch, in a turn of its own, or apart if it alone would hold the loop."""
        size = request.ByteSize()
        if size > LOOKED_THROUGH_BYTES or (size > TURN_BYTES and _has_many_values(request)):
            return await self._turns.apart(lambda: self._foreseen(prepare()))
        await self._turns.take(size)
        return prepare()

    def _foreseen(self, prepared: Prepared) -> Prepared:
        """Work out a long update now rather than within a group commit, for the item as it is now."""
        if isinstance(prepared, Change):
            prepared.foresee(self._reader.peek(prepared.key))
        return prepared

    async def _write(self, request: Any, operation: Put | Delete | Change) -> bytes:
        try:
            outcome = await self._committer.commit(operation)
        except ConditionalCheckFailedError as error:
            if not error.is_shown:
                raise
            return _condition_failure(request, error, (_FIELD_2, _FIELD_3))
        if outcome is None:
            response = _EMPTY
        elif outcome.encoded_bytes <= TURN_BYTES:
            response = _written(request, outcome, (_FIELD_1, _FIELD_3))
        else:
            response = await self._turns.apart(lambda: _written(request, outcome, (_FIELD_1, _FIELD_3)))
        if request.return_item_collection_metrics == _TELLS_SIZE:
            response += self._collections(_FIELD_4, (operation,))
        return response

    def _collections(self, tag: bytes, writes: Iterable[Write]) -> bytes:
        """The sizes of the item collections that were written to, each once, as fields of a response."""
        told: dict[bytes, bytes] = {}
        for write in writes:
            table, key = write.table, write.key
            place = table.indexes.collection_key(key)
            if place is None or place in told:
                continue
            size = self._reader.collection_bytes(place)
            metrics = pb.ItemCollectionMetrics(table_name=table.definition.name, size_bytes=size)
            partition = item_encoding.parts_of(parse_item(key.item().encoded), (table.definition.partition_key.name,))
            told[place] = metrics.SerializeToString() + field_bytes(_FIELD_2, partition.SerializeToString())
        return b"".join(field_bytes(tag, metrics) for metrics in told.values())

    async def GetItem(self, request: Any) -> bytes:
        """Reads an item."""
        projection, placeholders = _projection(request)
        key_item = parse_item(request.key)
        table = self._catalog.open_table(request.table_name)
        if placeholders is not None:
            placeholders.check_keys_are_whole(table.definition)
        key = table.keys.of_key(key_item)
        item, consumption = self._read(table, key, consistent=request.consistent_read)
        await self._reader.settle((key,))
        if item is None:
            response = _EMPTY
        elif projection is None or len(item.encoded) <= TURN_BYTES:
            response = field_bytes(_FIELD_1, _projected(item, projection))
        else:
            response = await self._turns.apart(lambda: field_bytes(_FIELD_1, _projected(item, projection)))
        return response + _capacity_field(_FIELD_2, consumption, request)

    def _read(self, table: OpenTable, key: ItemKey, *, consistent: bool) -> tuple[EncodedItem | None, Consumption]:
        """An item that may not be durable yet, and what it took.

        Check and charge have no wait in between, so of many calls side by side none slips through.

        Raises ProvisionedThroughputExceededError, ThrottlingError.
        """
        definition = table.definition
        self._capacity.admit_read(definition)
        item = self._reader.peek(key)
        consumption = Consumption(definition)
        consumption.read(read_units(0 if item is None else item.size_bytes, consistent=consistent))
        self._capacity.consume(consumption)
        return item, consumption

    async def BatchGetItem(self, request: Any) -> bytes:
        """Reads up to 100 items."""
        wanted = self._batch_keys(request)
        sections: list[bytes] = []
        unprocessed: list[bytes] = []
        consumptions: list[Consumption] = []
        size = 0
        throttled: HeadraceError | None = None
        for keys_of_table, (table, keys, projection) in zip(request.tables, wanted, strict=True):
            consumption = Consumption(table.definition)
            found: list[bytes] = []
            left: list[bytes] = []
            for encoded_key, key in zip(keys_of_table.keys, keys, strict=True):
                if size >= BATCH_GET_BYTES_MAX:
                    left.append(encoded_key)
                    continue
                try:
                    item, units = self._read(table, key, consistent=keys_of_table.consistent_read)
                except (ThrottlingError, ProvisionedThroughputExceededError) as error:
                    throttled = error
                    left.append(encoded_key)
                    continue
                consumption.add(units)
                if item is not None:
                    found.append(field_bytes(_FIELD_2, _projected(item, projection)))
                    size += len(found[-1])
            name = field_bytes(_FIELD_1, keys_of_table.table_name.encode())
            sections.append(field_bytes(_FIELD_1, b"".join((name, *found))))
            if left:
                del keys_of_table.keys[:]
                keys_of_table.keys.extend(left)
                unprocessed.append(field_bytes(_FIELD_2, keys_of_table.SerializeToString()))
            consumptions.append(consumption)
        if throttled is not None and not any(consumption.total.reads for consumption in consumptions):
            raise throttled
        await self._reader.settle(key for _, keys, _ in wanted for key in keys)
        return b"".join((*sections, *unprocessed, *_capacity_fields(_FIELD_3, consumptions, request)))

    async def BatchWriteItem(self, request: Any) -> bytes:
        """Puts and deletes up to 25 items."""
        if len(request.operations) > BATCH_WRITE_OPERATIONS_MAX:
            raise ValidationError(
                f"Too many items requested for the BatchWriteItem call: {len(request.operations)}, limit "
                f"{BATCH_WRITE_OPERATIONS_MAX}",
                field="operations",
                limit=BATCH_WRITE_OPERATIONS_MAX,
            )
        check_count(request.operations, "operations", 1, BATCH_WRITE_OPERATIONS_MAX)
        wanted = Wanted(items=False, failed_item=False, room=ShownItems()) if _wants_capacity(request) else None
        operations: list[Put | Delete | Change] = []
        keys: set[bytes] = set()
        is_long = request.ByteSize() > TURN_BYTES
        for write in request.operations:
            if (
                write.WhichOneof("operation") == "update"
                or write.put.HasField("condition_expression")
                or write.delete.HasField("condition_expression")
            ):
                raise ValidationError("A batch holds puts and deletes without conditions", field="operations")
            if write.put.return_values not in _NO_VALUES or write.delete.return_values not in _NO_VALUES:
                raise ValidationError("A batch returns no values", field="return_values")
            prepare = partial(self._operation, write, "", wanted)
            try:
                operation = await self._in_turn(write, prepare) if is_long else prepare()
            except ItemKeyError as error:
                # Here DynamoDB tells of an item what it tells of a key.
                raise ValidationError(KEY_MISMATCH, **error.metadata) from None
            if operation.key.stored in keys:
                raise ValidationError("Provided list of item keys contains duplicates", field="operations")
            keys.add(operation.key.stored)
            operations.append(operation)
        try:
            results = await self._committer.submit(operations)
        except ThrottlingError as error:
            results = [error for _ in operations]
        unprocessed: list[bytes] = []
        consumed: list[Consumption] = []
        written: list[Write] = []
        for write, operation, result in zip(request.operations, operations, results, strict=True):
            if isinstance(result, ThrottlingError | ProvisionedThroughputExceededError):
                unprocessed.append(field_bytes(_FIELD_1, write.SerializeToString()))
            elif isinstance(result, HeadraceError):
                raise result
            else:
                written.append(operation)
                if result is not None:
                    consumed.append(result.consumption)
        refusals = [
            result for result in results if isinstance(result, ThrottlingError | ProvisionedThroughputExceededError)
        ]
        is_all_exceeded = len(refusals) == len(operations) and isinstance(
            refusals[0], ProvisionedThroughputExceededError
        )
        # What was written may be written again; but a response that no client takes helps nobody.
        if is_all_exceeded or sum(map(len, unprocessed)) > SHOWN_BYTES_MAX:
            raise refusals[0]
        response = b"".join((*unprocessed, *_capacity_fields(_FIELD_2, by_table(consumed), request)))
        if request.return_item_collection_metrics == _TELLS_SIZE:
            response += self._collections(_FIELD_3, written)
        return response

    async def WriteItems(self, requests: Requests, context: Context) -> None:
        """Carries out batch after batch."""
        await pipeline(requests, context, self._start_batch)

    async def Query(self, request: Any) -> bytes:
        """Reads a page of the items of a partition key."""
        reading, condition = await self._prepared(request, self._query)
        is_reverse = request.HasField("scan_index_forward") and not request.scan_index_forward
        return await self._page(
            request, reading, lambda: query(self._reader, reading, condition, is_reverse=is_reverse)
        )

    def _query(self, request: Any, table_name: str) -> tuple[Reading, KeyCondition]:
        if not request.HasField("key_condition_expression"):
            raise ValidationError(
                "Either the KeyConditions or KeyConditionExpression parameter must be specified in the request.",
                field="key_condition_expression",
            )
        placeholders = _placeholders(request)
        asked = _asked(request, placeholders)
        conditions = parse_key_conditions(request.key_condition_expression, placeholders)
        placeholders.check_all_used()
        table = self._catalog.open_table(table_name)
        index = open_index(table, asked.index_name)
        ranges = (table.keys if index is None else index.keys).ranges
        condition = match_keys(conditions, ranges.partition_names, ranges.sort_names)
        placeholders.check_keys_are_whole(table.definition)
        return asked.of(table, index, filters_on_keys=request.allow_key_attributes_in_filter), condition

    async def Scan(self, request: Any) -> bytes:
        """Reads a page of all items."""
        reading, segments = await self._prepared(request, self._scan)
        return await self._page(request, reading, lambda: scan(self._reader, reading, *segments))

    def _scan(self, request: Any, table_name: str) -> tuple[Reading, tuple[int, int]]:
        segments = check_segments(
            request.segment if request.HasField("segment") else None,
            request.total_segments if request.HasField("total_segments") else None,
        )
        placeholders = _placeholders(request)
        asked = _asked(request, placeholders)
        placeholders.check_all_used()
        table = self._catalog.open_table(table_name)
        placeholders.check_keys_are_whole(table.definition)
        return asked.of(table, open_index(table, asked.index_name)), segments

    async def _page(self, request: Any, reading: Reading, read: Callable[[], Any]) -> bytes:
        definition = reading.table.definition
        index = None if reading.index is None else reading.index.definition
        await self._turns.take(_PAGE_BYTES)
        self._capacity.admit_read(definition, index)
        page: Page = await read()
        consumption = Consumption(definition)
        consumption.read(read_units(page.read_bytes, consistent=reading.is_consistent), index)
        if page.fetched_units:
            consumption.read(page.fetched_units)
        # A page of few items was made in one turn, so of these none slips through.
        self._capacity.consume(consumption)
        await page.settled
        counts = pb.QueryResponse(count=page.count, scanned_count=page.scanned_count).SerializeToString()
        last = _EMPTY if page.last_key is None else field_bytes(_FIELD_4, page.last_key)
        shown = [field_bytes(_FIELD_1, item) for item in page.items]
        return b"".join((*shown, counts, last, _capacity_field(_FIELD_5, consumption, request)))

    async def TransactWriteItems(self, request: Any) -> bytes:
        """Carries out up to 100 writes and checks, all or none."""
        check_count(request.transact_items, "transact_items", 1, TRANSACTION_ACTIONS_MAX)
        if request.HasField("client_request_token"):
            check_length(request.client_request_token, "client_request_token", 1, TOKEN_LENGTH_MAX)
        size = request.ByteSize()
        if size > TRANSACTION_BYTES_MAX:
            raise ValidationError(
                f"A transaction has at most {TRANSACTION_BYTES_MAX} bytes, this one {size}",
                field="transact_items",
                limit=TRANSACTION_BYTES_MAX,
            )
        room = ShownItems()
        writes = []
        for action in request.transact_items:
            prepare = partial(self._action, action, room)
            writes.append(await self._in_turn(action, prepare) if size > TURN_BYTES else prepare())
        if len({write.key.stored for write in writes}) < len(writes):
            raise ValidationError(
                "Transaction request cannot include multiple operations on one item", field="transact_items"
            )
        transaction = Transaction(writes, self._capacity, self._tokens, _token(request, writes))
        try:
            consumed = await self._committer.commit(transaction)
        except TransactionCanceledError as error:
            if not any(_shows_failed(action) for action in request.transact_items):
                raise
            reasons = (field_bytes(_FIELD_1, _reason(cause)) for cause in error.causes)
            return b"".join((*reasons, *_capacity_fields(_FIELD_2, error.consumed, request)))
        response = b"".join(_capacity_fields(_FIELD_2, consumed, request))
        if request.return_item_collection_metrics == _TELLS_SIZE:
            response += self._collections(_FIELD_3, (write for write in writes if not isinstance(write, Check)))
        return response

    async def TransactGetItems(self, request: Any) -> bytes:
        """Reads up to 100 items as they are at one moment."""
        check_count(request.transact_items, "transact_items", 1, TRANSACTION_ACTIONS_MAX)
        projections = [_projection(each) for each in request.transact_items]
        key_items = [parse_item(each.key) for each in request.transact_items]
        tables = [self._catalog.open_table(each.table_name) for each in request.transact_items]
        for (_, placeholders), table in zip(projections, tables, strict=True):
            if placeholders is not None:
                placeholders.check_keys_are_whole(table.definition)
        keys = _keys_or_cancel(tables, key_items)
        if len({key.stored for key in keys}) < len(keys):
            raise ValidationError(
                "Transaction request cannot include multiple operations on one item", field="transact_items"
            )
        # All of one moment, that of the first turn.
        for table in tables:
            self._capacity.admit_read(table.definition)
        found = [self._reader.peek(key) for key in keys]
        consumptions = []
        for table, item in zip(tables, found, strict=True):
            consumption = Consumption(table.definition)
            consumption.read(read_units(0 if item is None else item.size_bytes, consistent=True, transactional=True))
            self._capacity.consume(consumption)
            consumptions.append(consumption)
        await self._reader.settle(keys)
        responses = [
            field_bytes(_FIELD_1, _EMPTY if item is None else field_bytes(_FIELD_1, _projected(item, projection)))
            for item, (projection, _) in zip(found, projections, strict=True)
        ]
        size = sum(item.size_bytes for item in found if item is not None)
        encoded_size = sum(map(len, responses))
        if size > TRANSACTION_BYTES_MAX or encoded_size > TRANSACTION_ENCODED_BYTES_MAX:
            raise ValidationError(
                f"The items of a transaction have at most {TRANSACTION_BYTES_MAX} bytes, "
                f"these {max(size, encoded_size)}",
                field="transact_items",
                limit=TRANSACTION_BYTES_MAX,
            )
        return b"".join((*responses, *_capacity_fields(_FIELD_2, by_table(consumptions), request)))

    async def _start_batch(self, request: Any) -> asyncio.Future[Any]:
        check_count(request.operations, "operations", 1, WRITE_ITEMS_OPERATIONS_MAX)
        table_name = request.table_name
        operations: list[Operation] = []
        refused: dict[int, HeadraceError] = {}
        room = ShownItems()
        is_long = request.ByteSize() > TURN_BYTES
        clock = asyncio.get_running_loop().time
        if is_long:
            await self._turns.take(TURN_BYTES)
        turn_end = clock() + TURN_SECONDS
        for index, write in enumerate(request.operations):
            try:
                if is_long:
                    if write.ByteSize() > TURN_BYTES:
                        prepare = partial(self._operation, write, table_name, room=room)
                        operations.append(await self._in_turn(write, prepare))
                        continue
                    if clock() > turn_end:
                        await self._turns.take(TURN_BYTES)
                        turn_end = clock() + TURN_SECONDS
                operations.append(self._operation(write, table_name, room=room))
            except HeadraceError as error:
                forget_frames(error)
                refused[index] = error
        submitted = await self._committer.submit_when_room(operations)
        return asyncio.ensure_future(_batch_response(request.operations, submitted, refused))

    def _operation(
        self, write: Any, table_name: str, wanted: Wanted | None = None, room: ShownItems | None = None
    ) -> Put | Delete | Change:
        """The operation of an element of a batch; what its caller wants is told by `wanted`, or else by the element."""
        kind = write.WhichOneof("operation")
        if kind == "put":
            put = write.put
            return self._put(put, put.table_name or table_name, wanted, room)
        if kind == "delete":
            return self._delete(write.delete, write.delete.table_name or table_name, wanted, room)
        if kind == "update":
            return self._update(write.update, write.update.table_name or table_name, room)
        raise ValidationError("operation must be one of put, delete, update", field="operation")

    def _action(self, action: Any, room: ShownItems) -> Write:
        """What an action of a transaction does."""
        kind = action.WhichOneof("action")
        if kind is None:
            raise ValidationError(
                "TransactItems can only contain one of Check, Put, Update or Delete", field="transact_items"
            )
        request = getattr(action, kind)
        if kind == "condition_check":
            return self._check(request, room)
        if request.return_values not in _NO_VALUES:
            raise ValidationError("An action of a transaction returns no values", field="return_values")
        if kind == "put":
            return self._put(request, request.table_name, room=room)
        if kind == "delete":
            return self._delete(request, request.table_name, room=room)
        return self._update(request, request.table_name, room)

    def _put(self, request: Any, table_name: str, wanted: Wanted | None = None, room: ShownItems | None = None) -> Put:
        condition, placeholders = _condition(request)
        wanted = wanted or _wanted(request, _RETURN_VALUES_OF_OTHERS, "ALL_OLD or NONE", room)
        item = parse_item(request.item)
        encoded = canonicalize(item)
        table = self._catalog.open_table(table_name)
        key = table.keys.of_item(item)
        if table.indexes:
            table.indexes.check(key, item, encoded, item.attributes)
        if placeholders is not None:
            placeholders.check_keys_are_whole(table.definition)
        return Put(table, key, encoded, condition, self._capacity, wanted)

    def _delete(
        self, request: Any, table_name: str, wanted: Wanted | None = None, room: ShownItems | None = None
    ) -> Delete:
        condition, placeholders = _condition(request)
        wanted = wanted or _wanted(request, _RETURN_VALUES_OF_OTHERS, "ALL_OLD or NONE", room)
        key = parse_item(request.key)
        table = self._catalog.open_table(table_name)
        if placeholders is not None:
            placeholders.check_keys_are_whole(table.definition)
        return Delete(table, table.keys.of_key(key), condition, self._capacity, wanted)

    def _update(self, request: Any, table_name: str, room: ShownItems | None = None) -> Change:
        update: Update = NO_UPDATE
        condition, placeholders = None, None
        has_update, has_condition = request.HasField("update_expression"), request.HasField("condition_expression")
        if has_update or has_condition:
            placeholders = _placeholders(request)
            if has_update:
                update = parse_update(request.update_expression, placeholders)
            if has_condition:
                condition = parse_condition(request.condition_expression, placeholders)
            placeholders.check_all_used()
        else:
            _check_no_placeholders(request)
        wanted = _wanted(request, _RETURN_VALUES_OF_CHANGES, "NONE, ALL_OLD, UPDATED_OLD, ALL_NEW, UPDATED_NEW", room)
        key_item = parse_item(request.key)
        table = self._catalog.open_table(table_name)
        key = table.keys.of_key(key_item)
        update.check_keeps(table.keys.names)
        if placeholders is not None:
            placeholders.check_keys_are_whole(table.definition)
        return Change(table, key, update, condition, request.ByteSize(), self._capacity, wanted)

    def _check(self, request: Any, room: ShownItems) -> Check:
        if not request.HasField("condition_expression"):
            raise ValidationError("A ConditionCheck must have a ConditionExpression", field="condition_expression")
        condition, placeholders = _condition(request)
        assert condition is not None
        key = parse_item(request.key)
        table = self._catalog.open_table(request.table_name)
        if placeholders is not None:
            placeholders.check_keys_are_whole(table.definition)
        wanted = None
        if request.return_values_on_condition_check_failure == _SHOWS_FAILED:
            wanted = Wanted(items=False, failed_item=True, room=room)
        return Check(table, table.keys.of_key(key), condition, wanted)

    def _batch_keys(self, request: Any) -> list[tuple[OpenTable, list[ItemKey], Projection | None]]:
        """What a batch reads, all of it checked before anything is read."""
        if len({keys.table_name for keys in request.tables}) < len(request.tables):
            raise ValidationError("Each table may be named once", field="tables")
        count = sum(len(keys.keys) for keys in request.tables)
        if count > BATCH_GET_KEYS_MAX:
            raise ValidationError(
                f"Too many items requested for the BatchGetItem call: {count}, limit {BATCH_GET_KEYS_MAX}",
                field="tables",
                limit=BATCH_GET_KEYS_MAX,
            )
        if not request.tables or not all(keys.keys for keys in request.tables):
            raise ValidationError("tables and the keys of each must have 1 element at least", field="tables", limit=1)
        projections = [_projection(keys) for keys in request.tables]
        wanted = []
        # A table may be named by its name and by its ARN, so keys are compared over all of them.
        seen: set[bytes] = set()
        for keys_of_table, (projection, placeholders) in zip(request.tables, projections, strict=True):
            table = self._catalog.open_table(keys_of_table.table_name)
            if placeholders is not None:
                placeholders.check_keys_are_whole(table.definition)
            keys = [table.keys.of_key(parse_item(key)) for key in keys_of_table.keys]
            seen.update(key.stored for key in keys)
            wanted.append((table, keys, projection))
        if len(seen) < count:
            raise ValidationError("Provided list of item keys contains duplicates", field="keys")
        return wanted


# Requests.


def _keys_or_cancel(tables: Sequence[OpenTable], items: Sequence[Item]) -> list[ItemKey]:
    """The keys that a transaction reads. Raises TransactionCanceledError if one does not fit its table."""
    keys: list[ItemKey] = []
    causes: list[HeadraceError | None] = []
    for table, item in zip(tables, items, strict=True):
        try:
            keys.append(table.keys.of_key(item))
            causes.append(None)
        except ValidationError as error:
            forget_frames(error)
            causes.append(error)
    if len(keys) < len(causes):
        raise TransactionCanceledError(causes)
    return keys


def _condition(request: Any) -> tuple[Condition, Placeholders] | tuple[None, None]:
    """The condition of a request, which most do not have, and its placeholders."""
    if not request.HasField("condition_expression"):
        _check_no_placeholders(request)
        return None, None
    placeholders = _placeholders(request)
    condition = parse_condition(request.condition_expression, placeholders)
    placeholders.check_all_used()
    return condition, placeholders


def _projection(request: Any) -> tuple[Projection, Placeholders] | tuple[None, None]:
    """The projection of a request whose only expression it is, and its placeholders."""
    if not request.HasField("projection_expression"):
        if request.expression_attribute_names:
            raise ValidationError(
                "ExpressionAttributeNames can only be specified when using expressions",
                field="expression_attribute_names",
            )
        return None, None
    placeholders = Placeholders(dict(request.expression_attribute_names), {})
    projection = parse_projection(request.projection_expression, placeholders)
    placeholders.check_all_used()
    return projection, placeholders


class _Asked(NamedTuple):
    """What a page is to be, as far as the request alone tells."""

    index_name: str | None
    select: Select | None
    filter: Condition | None
    projection: Projection | None
    limit: int | None
    start_key: Item | None
    is_consistent: bool

    def of(self, table: OpenTable, index: IndexCodec | None, *, filters_on_keys: bool = False) -> Reading:
        """The same of a table, or of one of its indexes."""
        return Reading(
            table=table,
            index=index,
            select=self.select,
            filter=self.filter,
            filters_on_keys=filters_on_keys,
            projection=self.projection,
            limit=self.limit,
            start_key=self.start_key,
            is_consistent=self.is_consistent,
        )


def _asked(request: Any, placeholders: Placeholders) -> _Asked:
    """Check all of a request for a page that needs no table, but for what Query and Scan have on their own."""
    if request.select not in _SELECTS:
        raise ConstraintError(request.select, "select", one_of(Select))
    limit, index_name = None, None
    if request.HasField("limit"):
        limit = request.limit
        if limit < 1:
            raise ConstraintError(limit, "limit", value_at_least(1), limit=1)
    if request.HasField("index_name"):
        index_name = request.index_name
        check_table_name(index_name, "index_name")
    condition, projection, start_key = None, None, None
    if request.HasField("filter_expression"):
        condition = parse_condition(request.filter_expression, placeholders, ExpressionKind.FILTER)
    if request.HasField("projection_expression"):
        projection = parse_projection(request.projection_expression, placeholders)
    if request.HasField("exclusive_start_key"):
        start_key = parse_item(request.exclusive_start_key)
        if not start_key.attributes:
            raise ValidationError("The provided starting key is invalid", field="exclusive_start_key")
    select = _SELECTS[request.select]
    check_select(select, has_index=index_name is not None, has_projection=projection is not None)
    return _Asked(
        index_name=index_name,
        select=select,
        filter=condition,
        projection=projection,
        limit=limit,
        start_key=start_key,
        is_consistent=request.consistent_read,
    )


def _check_no_placeholders(request: Any) -> None:
    if request.expression_attribute_names or request.expression_attribute_values:
        what = "Names" if request.expression_attribute_names else "Values"
        raise ValidationError(
            f"ExpressionAttribute{what} can only be specified when using expressions",
            field=f"expression_attribute_{what.lower()}",
        )


def _has_many_values(request: Any) -> bool:
    """Tell whether the values of a write or read are more than one turn of the event loop can look at."""
    kind = request.DESCRIPTOR.oneofs_by_name.get("operation") or request.DESCRIPTOR.oneofs_by_name.get("action")
    if kind is not None:
        chosen = request.WhichOneof(kind.name)
        return chosen is not None and _has_many_values(getattr(request, chosen))
    try:
        if has_many_values(parse_item(getattr(request, "item", _EMPTY)), _TURN_VALUES):
            return True
    except ValidationError:
        return False
    values = getattr(request, "expression_attribute_values", {}).values()
    return any(has_many_values(value, _TURN_VALUES) for value in values)


def _check_placeholders(request: Any) -> None:
    """Raise ValidationError for more placeholders than there may be. Looks at none of them."""
    names, values = request.expression_attribute_names, request.expression_attribute_values
    count = len(names) + len(values)
    if count > PLACEHOLDERS_MAX:
        raise ValidationError(
            f"ExpressionAttributeNames and ExpressionAttributeValues have at most {PLACEHOLDERS_MAX} entries, as many "
            f"as expressions can name; these have {count}",
            field="expression_attribute_values" if values else "expression_attribute_names",
            limit=PLACEHOLDERS_MAX,
        )


def _placeholders(request: Any) -> Placeholders:
    _check_placeholders(request)
    names, given = dict(request.expression_attribute_names), request.expression_attribute_values
    # A request that is no longer than they may be has no more of them.
    if request.ByteSize() > PLACEHOLDERS_BYTES_MAX:
        size = sum(len(name.encode()) for name in names.values()) + sum(value.ByteSize() for value in given.values())
        if size > PLACEHOLDERS_BYTES_MAX:
            raise ValidationError(
                f"ExpressionAttributeNames and ExpressionAttributeValues have at most {PLACEHOLDERS_BYTES_MAX} bytes",
                field="expression_attribute_values",
                limit=PLACEHOLDERS_BYTES_MAX,
            )
    values = {}
    for name in given:
        value = given[name]
        try:
            values[name] = canonical_value(value)
        except ValidationError as error:
            raise ValidationError(
                f"ExpressionAttributeValues contains invalid value: {error.message} for key {name}",
                **(error.metadata | {"field": "expression_attribute_values"}),
            ) from error
    return Placeholders(names, values)


def _wanted(request: Any, allowed: frozenset[int], described: str, room: ShownItems | None) -> Wanted | None:
    """What a write is to tell besides that it is done; None, as for most, if it is nothing."""
    values = request.return_values
    if values not in allowed:
        raise ValidationError(f"ReturnValues can only be {described}", field="return_values")
    wants_items = values not in _NO_VALUES
    shows_failed = request.return_values_on_condition_check_failure == _SHOWS_FAILED
    if not (wants_items or shows_failed or _wants_capacity(request)):
        return None
    return Wanted(items=wants_items, failed_item=shows_failed, room=room or ShownItems())


def _shows_failed(action: Any) -> bool:
    """Whether an action of a transaction shows the item for which its condition does not hold."""
    request = getattr(action, action.WhichOneof("action"))
    return bool(request.return_values_on_condition_check_failure == _SHOWS_FAILED)


def _wants_capacity(request: Any) -> bool:
    return bool(request.return_consumed_capacity > pb.RETURN_CONSUMED_CAPACITY_NONE)


def _token(request: Any, writes: Sequence[Write]) -> RequestToken | None:
    """The token of a request, whose expression values are canonical already."""
    if not request.HasField("client_request_token"):
        return None
    name = request.client_request_token
    digest = blake2b(digest_size=16)
    for action, write in zip(request.transact_items, writes, strict=True):
        # Clients write maps in any order, another one each time.
        if isinstance(write, Put):
            action.put.item = write.item.encoded
        else:
            getattr(action, action.WhichOneof("action")).key = write.key.item().encoded
        digest.update(field_bytes(_FIELD_1, action.SerializeToString(deterministic=True)))
    return RequestToken(name=name, digest=digest.digest())


# Responses.


def _projected(item: EncodedItem, projection: Projection | None) -> bytes:
    if projection is None:
        return item.encoded
    attributes = item_encoding.decode_some(item_encoding.stored_item(item.encoded), projection.names)
    return item_encoding.encode(projection.apply(attributes)).encoded


def _written(request: Any, outcome: Outcome, fields: tuple[bytes, bytes]) -> bytes:
    """What a write returns, in the fields for attributes and capacity."""
    match request.return_values:
        case pb.RETURN_VALUES_ALL_OLD:
            shown = None if outcome.old is None else outcome.old.encoded
        case pb.RETURN_VALUES_ALL_NEW:
            shown = None if outcome.new is None else outcome.new.encoded
        case pb.RETURN_VALUES_UPDATED_OLD:
            shown = _updated(request, outcome.old)
        case pb.RETURN_VALUES_UPDATED_NEW:
            shown = _updated(request, outcome.new)
        case _:
            shown = None
    attributes = _EMPTY if shown is None else field_bytes(fields[0], shown)
    return attributes + _capacity_field(fields[1], outcome.consumption, request)


def _updated(request: Any, item: EncodedItem | None) -> bytes | None:
    """The parts of an item that an update names; None if there are none."""
    if item is None or not request.update_expression:
        return None
    update = parse_update(request.update_expression, _placeholders(request))
    parts = update.updated(item_encoding.decode(item.encoded))
    return item_encoding.encode(parts).encoded if parts else None


def _condition_failure(request: Any, error: ConditionalCheckFailedError, fields: tuple[bytes, bytes]) -> bytes:
    """What a write returns that shows the item for which its condition does not hold."""
    item = _EMPTY if error.item is None else field_bytes(_FIELD_1, error.item.encoded)
    return field_bytes(fields[0], item) + _capacity_field(fields[1], error.consumption, request)


def _reason(cause: HeadraceError | None) -> bytes:
    """Why an action did or did not let its transaction be cancelled."""
    reason = pb.CancellationReason(code=cancellation_code(cause), message="" if cause is None else cause.message)
    encoded = reason.SerializeToString()
    if isinstance(cause, ConditionalCheckFailedError) and cause.item is not None:
        encoded += field_bytes(_FIELD_3, cause.item.encoded)
    return encoded


def _capacity_field(tag: bytes, consumption: Consumption, request: Any) -> bytes:
    if not _wants_capacity(request):
        return _EMPTY
    consumed = consumed_capacity(consumption, request.return_consumed_capacity)
    return _EMPTY if consumed is None else field_bytes(tag, consumed.SerializeToString())


def _capacity_fields(tag: bytes, consumptions: Iterable[Consumption], request: Any) -> list[bytes]:
    return [_capacity_field(tag, consumption, request) for consumption in consumptions]


async def _batch_response(
    writes: Sequence[Any], submitted: asyncio.Future[list[Any]], refused: dict[int, HeadraceError]
) -> bytes:
    """The results in the order of the requests, refused ones put back in their places."""
    outcomes: Sequence[Any] = await submitted
    if not refused and outcomes.count(None) == len(outcomes):
        return _WRITTEN * len(outcomes)
    if refused:
        rest = iter(outcomes)
        outcomes = [refused[i] if i in refused else next(rest) for i in range(len(outcomes) + len(refused))]
    return b"".join(
        field_bytes(_FIELD_1, _result(write, outcome)) for write, outcome in zip(writes, outcomes, strict=True)
    )


def _result(write: Any, outcome: Outcome | HeadraceError | None) -> bytes:
    if outcome is None:
        return _EMPTY
    kind = write.WhichOneof("operation")
    request = None if kind is None else getattr(write, kind)
    if not isinstance(outcome, HeadraceError):
        return _written(request, outcome, (_FIELD_2, _FIELD_4))
    if isinstance(outcome, ConditionalCheckFailedError) and outcome.is_shown:
        return _condition_failure(request, outcome, (_FIELD_3, _FIELD_4))
    return pb.WriteResult(error=to_message(outcome)).SerializeToString()
