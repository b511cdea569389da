"""Writes of items: what each does to the item, to its version, and to the stream."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.encoding.items import canonicalize, parse_item
from broker.expressions.condition import Condition, parse_condition
from broker.expressions.placeholders import Placeholders
from broker.expressions.update import NO_UPDATE, Update, parse_update
from broker.model.clock import Version
from broker.model.errors import ConditionalCheckFailedError, ResourceNotFoundError, ValidationError
from broker.model.tables import StreamViewType
from broker.storage.commit import Operation
from broker.storage.layout import StoredItem, decode_item
from broker.storage.rocks import Family
from broker.tables.catalog import OpenTable
from broker.tables.operations import Change, Delete, Put, replace_item
from headrace.v1 import record_pb2
from headrace.v1.stream_service_pb2 import GetRecordsResponse
from tests.unit.engine import NOON_MS, REGION, Engine, run_on_new_store
from tests.values import Attributes, from_item, item, value

FIRST = Version(NOON_MS << 16, REGION)
MISSING = parse_condition("attribute_not_exists(id)", Placeholders({}, {}))
THERE = parse_condition("attribute_exists(id)", Placeholders({}, {}))


def put(table: OpenTable, condition: Condition | None = None, **plain: object) -> Put:
    whole = item(plain)
    key = table.keys.of_item(whole)
    return Put(table, key, canonicalize(whole), condition)


def delete(table: OpenTable, key: str, condition: Condition | None = None) -> Delete:
    return Delete(table, table.keys.of_key(item(id=key)), condition)


def change(
    table: OpenTable, key: str, sets: dict[str, Any] | None = None, *removes: str, condition: Condition | None = None
) -> Change:
    return Change(table, table.keys.of_key(item(id=key)), update_of(sets or {}, removes), condition, 0)


def update_of(sets: dict[str, Any], removes: Collection[str]) -> Update:
    text = " SET " + ", ".join(f"{name} = :{name}" for name in sets) if sets else ""
    text += " REMOVE " + ", ".join(removes) if removes else ""
    return parse_update(text, Placeholders({}, {f":{name}": of for name, of in sets.items()})) if text else NO_UPDATE


def stored(engine: Engine, table: OpenTable, key: str = "a") -> StoredItem | None:
    found = engine.store.get(Family.ITEMS, table.keys.of_key(item(id=key)).stored)
    return None if found is None else decode_item(found)


def attributes_of(engine: Engine, table: OpenTable, key: str = "a") -> Attributes | None:
    found = stored(engine, table, key)
    return None if found is None else from_item(parse_item(found.item.encoded))


def records(engine: Engine, table: OpenTable) -> list[record_pb2.Record]:
    (stream,) = (s for s in engine.catalog.streams.all() if s.table_name == table.definition.name)
    page = engine.log.read(stream.shards[0], 0, 1000)
    return list(GetRecordsResponse.FromString(b"".join(page.parts)).records)


def events(engine: Engine, table: OpenTable) -> list[str]:
    return [record_pb2.EventName.Name(r.event_name).removeprefix("EVENT_NAME_") for r in records(engine, table)]


async def test_a_new_item_is_an_insert_a_changed_one_a_modify_a_deleted_one_a_remove(engine: Engine) -> None:
    table = await engine.table()
    for operation in (put(table, id="a"), put(table, id="a", n=1), delete(table, "a")):
        await engine.committer.commit(operation)
    assert events(engine, table) == ["INSERT", "MODIFY", "REMOVE"]
    images = [(from_item(r.old_image), from_item(r.new_image)) for r in records(engine, table)]
    bare, full = {"id": value("a")}, {"id": value("a"), "n": value(1)}
    assert images == [({}, bare), (bare, full), (full, {})]
    assert stored(engine, table) is None


# Source: DynamoDB Streams API Reference: a PutItem or UpdateItem that changes no data writes no record.
async def test_a_write_that_changes_nothing_makes_no_record_and_no_version(engine: Engine) -> None:
    table = await engine.table()
    await engine.committer.commit(put(table, id="a", n=1, tags={"x", "y"}))
    before = stored(engine, table)
    engine.clock.ms += 1000
    for operation in (
        put(table, id="a", tags={"y", "x"}, n=1),
        change(table, "a"),
        change(table, "a", {"n": ("N", "1")}),
        change(table, "a", {}, "gone"),
        change(table, "b", {}, "gone"),
        delete(table, "missing"),
    ):
        await engine.committer.commit(operation)
    assert events(engine, table) == ["INSERT"]
    assert stored(engine, table) == before
    assert stored(engine, table, "b") is None


async def test_an_update_creates_what_is_missing(engine: Engine) -> None:
    table = await engine.table()
    await engine.committer.commit(change(table, "a", {"n": ("N", "1")}))
    await engine.committer.commit(Change(table, table.keys.of_key(item(id="b")), NO_UPDATE, None, 0))
    assert attributes_of(engine, table) == {"id": value("a"), "n": value(1)}
    assert attributes_of(engine, table, "b") == {"id": value("b")}
    assert events(engine, table) == ["INSERT", "INSERT"]


async def test_an_update_changes_what_it_names_and_leaves_the_rest(engine: Engine) -> None:
    table = await engine.table()
    await engine.committer.commit(put(table, id="a", kept=[1, {"x": b"y"}], gone=1, n=1))
    await engine.committer.commit(change(table, "a", {"n": ("SS", ("p", "q"))}, "gone"))
    assert attributes_of(engine, table) == {
        "id": value("a"),
        "kept": value([1, {"x": b"y"}]),
        "n": value({"p", "q"}),
    }


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("kind", ["put", "delete", "change"])
async def test_a_write_whose_condition_does_not_hold_changes_nothing(engine: Engine, kind: str, *, there: bool) -> None:
    table = await engine.table()
    if there:
        await engine.committer.commit(put(table, id="a"))
    failing, holding = (MISSING, THERE) if there else (THERE, MISSING)

    def operation(condition: Condition) -> Put | Delete | Change:
        if kind == "put":
            return put(table, condition, id="a", n=1)
        if kind == "delete":
            return delete(table, "a", condition)
        return change(table, "a", {"n": ("N", "1")}, condition=condition)

    before, recorded = stored(engine, table), events(engine, table)
    with pytest.raises(ConditionalCheckFailedError) as failed:
        await engine.committer.commit(operation(failing))
    assert failed.value.metadata["field"] == "condition_expression"
    assert stored(engine, table) == before
    assert events(engine, table) == recorded
    await engine.committer.commit(operation(holding))
    assert (stored(engine, table) == before) == (kind == "delete" and not there)


# Each is evaluated against what those before it in the group have left.
async def test_of_many_conditional_puts_in_one_group_one_wins(engine: Engine) -> None:
    table = await engine.table()
    puts = [put(table, MISSING, id="a", n=number) for number in range(5)]
    results = await engine.committer.submit(puts)
    assert [isinstance(result, ConditionalCheckFailedError) for result in results] == [False, True, True, True, True]
    assert attributes_of(engine, table) == {"id": value("a"), "n": value(0)}
    assert events(engine, table) == ["INSERT"]


async def test_an_update_that_was_worked_out_ahead_is_not_worked_out_again(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = await engine.table()
    await engine.committer.commit(put(table, id="a", n=1))
    old = stored(engine, table)
    assert old is not None
    for before, key in ((old.item, "a"), (None, "b")):
        made = change(table, key, {"more": ("S", "x")})
        made.foresee(before)
        with monkeypatch.context() as patch:
            patch.setattr(Update, "apply", None)
            await engine.committer.commit(made)
    assert attributes_of(engine, table) == {"id": value("a"), "n": value(1), "more": value("x")}
    assert attributes_of(engine, table, "b") == {"id": value("b"), "more": value("x")}


async def test_an_update_that_was_worked_out_ahead_for_another_item_is_worked_out_again(engine: Engine) -> None:
    table = await engine.table()
    await engine.committer.commit(put(table, id="a", n=1))
    made = change(table, "a", {"more": ("S", "x")}, condition=THERE)
    made.foresee(None)
    await engine.committer.commit(made)
    assert attributes_of(engine, table) == {"id": value("a"), "n": value(1), "more": value("x")}


async def test_a_refusal_that_was_worked_out_ahead_stands_if_the_item_is_still_the_same(engine: Engine) -> None:
    table = await engine.table()
    made = change(table, "a", {"more": ("S", "x")}, condition=THERE)
    made.foresee(None)
    with pytest.raises(ConditionalCheckFailedError):
        await engine.committer.commit(made)
    await engine.committer.commit(put(table, id="a"))
    await engine.committer.commit(made)
    assert attributes_of(engine, table) == {"id": value("a"), "more": value("x")}


async def test_an_update_that_makes_an_item_too_large_changes_nothing(engine: Engine) -> None:
    table = await engine.table()
    await engine.committer.commit(put(table, id="a", text="x" * 400_000))
    before = stored(engine, table)
    with pytest.raises(ValidationError, match="Item size to update") as refused:
        await engine.committer.commit(change(table, "a", {"more": ("S", "x" * 10_000)}))
    assert refused.value.metadata == {"field": "item", "limit": "409600"}
    assert stored(engine, table) == before
    assert events(engine, table) == ["INSERT"]


async def test_every_write_that_begins_here_is_newer_than_the_last(engine: Engine) -> None:
    table = await engine.table()
    engine.clock.ms += 1
    await engine.committer.commit(put(table, id="a", n=1))
    engine.clock.ms -= 1000
    await engine.committer.commit(put(table, id="a", n=2))
    await engine.committer.commit(delete(table, "a"))
    versions = [(r.version.hybrid_time, r.version.origin_region) for r in records(engine, table)]
    first = (NOON_MS + 1) << 16
    assert versions == [(first, REGION), (first + 1, REGION), (first + 2, REGION)]


@pytest.mark.parametrize("view_type", StreamViewType)
async def test_records_hold_the_images_of_their_view_type(engine: Engine, view_type: StreamViewType) -> None:
    table = await engine.table("pets", view_type)
    for operation in (put(table, id="a"), put(table, id="a", n=1), delete(table, "a")):
        await engine.committer.commit(operation)
    seen = records(engine, table)
    new, old = "NEW" in view_type, "OLD" in view_type
    assert [r.HasField("new_image") for r in seen] == [new, new, False]
    assert [r.HasField("old_image") for r in seen] == [False, old, old]
    assert all(from_item(r.keys) == {"id": value("a")} for r in seen)


async def test_a_table_without_a_stream_keeps_no_records(engine: Engine) -> None:
    table = await engine.table("pets", None)
    await engine.committer.commit(put(table, id="a"))
    assert attributes_of(engine, table) == {"id": value("a")}
    assert list(engine.store.scan(Family.LOG, b"", b"\xff")) == []


async def test_operations_of_a_deleted_table_are_refused_by_its_name(engine: Engine) -> None:
    table = await engine.table()
    await engine.catalog.delete_table("pets")
    for operation in (put(table, id="a"), delete(table, "a"), change(table, "a")):
        with pytest.raises(ResourceNotFoundError, match="Table: pets not found"):
            await engine.committer.commit(operation)
    assert stored(engine, table) is None


# What replication does: the image is the same, the write is another one.
async def test_an_equal_item_with_a_newer_version_gets_the_version_and_no_record(engine: Engine) -> None:
    table = await engine.table()
    await engine.committer.commit(put(table, id="a", n=1))
    before = stored(engine, table)
    assert before is not None
    newer = Version(before.version.hybrid_time + 5, "south")
    key = table.keys.of_key(item(id="a"))
    await engine.do(lambda group: replace_item(group, table, key, before, before.item, newer))
    assert stored(engine, table) == (before.item, newer)
    assert events(engine, table) == ["INSERT"]


async def test_an_operation_counts_what_it_holds(engine: Engine) -> None:
    table = await engine.table()
    assert put(table, id="a", text="x" * 1000).size_bytes > 1000
    assert 0 < delete(table, "a").size_bytes < 1000
    assert Change(table, table.keys.of_key(item(id="a")), NO_UPDATE, None, 5000).size_bytes > 5000


PLAIN = st.fixed_dictionaries({}, optional={"n": st.integers(0, 1), "m": st.sampled_from(["x", "y"])})
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["put", "delete", "set", "remove"]),
        st.sampled_from("ab"),
        PLAIN,
        st.sampled_from([None, None, "there", "missing"]),
    ),
    max_size=12,
)


def operation_of(table: OpenTable, kind: str, key: str, plain: dict[str, object], wanted: str | None) -> Operation:
    condition = {None: None, "there": THERE, "missing": MISSING}[wanted]
    match kind:
        case "put":
            return put(table, condition, id=key, **plain)
        case "delete":
            return delete(table, key, condition)
        case "set":
            sets: dict[str, Any] = {name: ("S", str(content)) for name, content in plain.items()}
            return change(table, key, sets, condition=condition)
    return change(table, key, {}, "n", condition=condition)


@settings(max_examples=25)
@given(STEPS, st.integers(0, 12))
def test_the_stream_replayed_onto_an_empty_table_is_the_table(
    steps: list[tuple[str, str, dict[str, object], str | None]], together: int
) -> None:
    async def scenario(engine: Engine) -> None:
        table = await engine.table()
        operations = [operation_of(table, *step) for step in steps]
        # Some in one group, the others in groups of their own: nobody can tell.
        await engine.committer.submit(operations[:together])
        for operation in operations[together:]:
            await engine.committer.submit((operation,))

        replayed: dict[str, Attributes] = {}
        for record in records(engine, table):
            key = record.keys.attributes["id"].s
            assert from_item(record.old_image) == replayed.get(key, {})
            assert record.HasField("old_image") == (key in replayed)
            assert record.old_image != record.new_image
            if record.HasField("new_image"):
                replayed[key] = from_item(record.new_image)
            else:
                del replayed[key]
        there = {key: attributes_of(engine, table, key) for key in "ab"}
        assert replayed == {key: found for key, found in there.items() if found is not None}

    run_on_new_store(scenario)
