"""Backfill and expiry beside writers, restarts and tables that go."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from broker.encoding.items import canonical_value, canonicalize
from broker.expressions.placeholders import Placeholders
from broker.expressions.update import parse_update
from broker.model.errors import ValidationError
from broker.model.tables import Index, KeyAttribute, KeyAttributeType, ProjectionType
from broker.storage.commit import Group
from broker.storage.rocks import Family, Store
from broker.tables import housekeeping
from broker.tables.catalog import OpenTable
from broker.tables.definition import TableChange
from broker.tables.housekeeping import Backfill, Expiry
from broker.tables.operations import Change, Put
from tests.unit.engine import NOON_MS, TIMEOUT_S, Engine, FakeClock, running
from tests.values import item, to_attribute_value, value

BY_STATE = Index(
    name="by-state",
    id=0,
    is_global=True,
    partition_keys=(KeyAttribute(name="stage", type=KeyAttributeType.STRING),),
    projection_type=ProjectionType.ALL,
)


def put(table: OpenTable, key: str, **more: object) -> Put:
    whole = item({"id": key, **more})
    return Put(table, table.keys.of_item(whole), canonicalize(whole), None)


def backfill(engine: Engine) -> Backfill:
    return Backfill(engine.catalog, engine.committer, engine.store)


def entries(engine: Engine) -> int:
    (index,) = engine.catalog.open_table("pets").definition.indexes
    return engine.catalog.size_of(index.id)[0]


async def test_a_backfill_begins_by_itself_and_skips_what_cannot_be_in_the_index(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = await engine.table()
    await engine.committer.submit([put(table, f"k{number}", stage="open") for number in range(250)])
    # Of the wrong type, empty, too long, or without it.
    faulty: list[dict[str, object]] = [{"stage": 5}, {"stage": ""}, {"stage": "x" * 3000}, {}]
    await engine.committer.submit([put(table, f"f{number}", **each) for number, each in enumerate(faulty)])
    filling = asyncio.create_task(backfill(engine).run())
    await engine.catalog.update_table("pets", TableChange(new_indexes=(BY_STATE,)))
    finished = asyncio.Event()
    finish = engine.catalog.finish_backfill

    async def finishing(table_name: str, id_: int) -> None:
        await finish(table_name, id_)
        finished.set()

    monkeypatch.setattr(engine.catalog, "finish_backfill", finishing)
    async with asyncio.timeout(TIMEOUT_S):
        await finished.wait()
    assert not engine.catalog.open_table("pets").definition.indexes[0].is_backfilling
    assert entries(engine) == 250
    filling.cancel()
    await asyncio.wait({filling})


async def test_a_backfill_that_a_restart_broke_off_is_done_again(tmp_path: Path) -> None:
    store, clock = Store(tmp_path), FakeClock()
    async with running(store, clock) as engine:
        table = await engine.table()
        await engine.committer.submit([put(table, f"k{number}", stage="open") for number in range(300)])
        await engine.catalog.update_table("pets", TableChange(new_indexes=(BY_STATE,)))
        # Some of it is there already.
        keys = [key for key, _ in store.scan(Family.ITEMS, b"", b"\xff")][:100]
        await engine.committer.submit([housekeeping._Fill(table, key) for key in keys])
        assert entries(engine) == 100
    store.close()
    del store, engine, table
    again = Store(tmp_path)
    async with running(again, clock) as engine:
        await backfill(engine).round()
        assert entries(engine) == 300
        await backfill(engine).round()
        assert entries(engine) == 300
    again.close()


# What is no key of the index any user thinks of must not make the item untouchable.
async def test_an_item_that_cannot_be_in_a_new_index_can_be_updated(engine: Engine) -> None:
    table = await engine.table()
    await engine.committer.commit(put(table, "a", stage=5))
    await engine.catalog.update_table("pets", TableChange(new_indexes=(BY_STATE,)))
    await backfill(engine).round()

    def change(expression: str, content: object) -> Change:
        placeholders = Placeholders({}, {":v": canonical_value(to_attribute_value(value(content)))})
        update = parse_update(expression, placeholders, table.keys.names)
        return Change(table, table.keys.of_key(item(id="a")), update, None, 0)

    await engine.committer.commit(change("SET n = :v", 1))
    with pytest.raises(ValidationError, match="Type mismatch for Index Key stage Expected: S Actual: N"):
        await engine.committer.commit(change("SET stage = :v", 6))
    assert entries(engine) == 0
    await engine.committer.commit(change("SET stage = :v", "open"))
    assert entries(engine) == 1


async def test_a_backfill_goes_on_after_a_restart_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, clock = Store(tmp_path), FakeClock()
    async with running(store, clock) as engine:
        table = await engine.table()
        await engine.committer.submit([put(table, f"k{number}", stage="open") for number in range(300)])
        await engine.catalog.update_table("pets", TableChange(new_indexes=(BY_STATE,)))
        filling, next_fills = backfill(engine), Backfill._next

        def next_until_broken_off(
            self: Backfill, table: OpenTable, begin: bytes, end: bytes
        ) -> list[housekeeping._Fill]:
            fills = next_fills(self, table, begin, end)
            if entries(engine) == 200:
                raise ConnectionError
            return fills

        monkeypatch.setattr(Backfill, "_next", next_until_broken_off)
        with pytest.raises(ConnectionError):
            await filling.round()
        monkeypatch.undo()
    store.close()
    del store, engine, table, filling
    again = Store(tmp_path)
    async with running(again, clock) as engine:
        planned: list[bytes] = []
        plan = housekeeping._Fill.plan

        def noting(self: housekeeping._Fill, group: Group) -> None:
            planned.append(self.stored)
            plan(self, group)

        monkeypatch.setattr(housekeeping._Fill, "plan", noting)
        await backfill(engine).round()
        assert (len(planned), entries(engine)) == (100, 300)
        # Another index begins at the beginning.
        await engine.catalog.update_table("pets", TableChange(new_indexes=(replace(BY_STATE, name="again"),)))
        await backfill(engine).round()
        assert len(planned) == 400
        assert list(again.scan(Family.CATALOG, b"backfill/", b"backfill0")) == []
    again.close()


async def test_large_items_are_filled_in_small_batches(engine: Engine) -> None:
    table = await engine.table()
    await engine.committer.submit([put(table, f"k{n}", stage="open", text="x" * 100_000) for n in range(10)])
    await engine.catalog.update_table("pets", TableChange(new_indexes=(BY_STATE,)))
    fills = backfill(engine)._next(table, b"", b"\xff")
    assert len(fills) == 3
    assert all(fill.size_bytes > 100_000 for fill in fills)
    await backfill(engine).round()
    assert entries(engine) == 10


async def test_a_table_or_index_that_goes_meanwhile_ends_its_backfill(engine: Engine) -> None:

    async def drop_index() -> None:
        await engine.catalog.update_table("pets", TableChange(deleted_indexes=("by-state",)))

    async def delete_table() -> None:
        await engine.catalog.delete_table("pets")

    for goes in (drop_index, delete_table):
        table = await engine.table()
        await engine.committer.submit([put(table, f"k{number}", stage="open") for number in range(300)])
        await engine.catalog.update_table("pets", TableChange(new_indexes=(BY_STATE,)))
        id_ = table.definition.indexes[0].id
        async with asyncio.timeout(TIMEOUT_S):
            await asyncio.gather(backfill(engine).round(), goes())
        assert engine.catalog.size_of(id_) == (0, 0)
        if engine.catalog.find_table("pets") is not None:
            await engine.catalog.delete_table("pets")
    assert list(engine.store.scan(Family.INDEXES, b"", b"\xff")) == []


async def test_an_item_whose_time_was_moved_is_not_deleted(engine: Engine) -> None:
    table = await engine.table()
    await engine.catalog.update_time_to_live("pets", "until", is_enabled=True)
    now = NOON_MS // 1000
    await engine.committer.submit([put(table, key, until=now - 5) for key in "abc"])
    expiry = Expiry(engine.catalog, engine.committer, engine.store, engine.clock)
    stored = [table.keys.of_key(item(id=key)).stored for key in "abc"]
    moved = put(table, "b", until=now + 5)
    # In the same group commit as the sweep's operations, before them.
    results = await engine.committer.submit([moved, *(housekeeping._Expire(table, each, now) for each in stored)])
    assert results[1:] == [True, False, True]
    await expiry.round()
    assert (expiry.deleted_total, engine.catalog.size_of(table.definition.id)[0]) == (0, 1)
    engine.clock.ms += 6_000
    await expiry.round()
    assert (expiry.deleted_total, engine.catalog.size_of(table.definition.id)[0]) == (1, 0)


async def test_a_sweep_takes_so_many_and_goes_on_the_next_time(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    table = await engine.table()
    await engine.catalog.update_time_to_live("pets", "until", is_enabled=True)
    await engine.committer.submit([put(table, f"k{n}", until=NOON_MS // 1000 - 5) for n in range(450)])
    expiry = Expiry(engine.catalog, engine.committer, engine.store, engine.clock)
    monkeypatch.setattr(housekeeping, "SWEEP_ITEMS_MAX", 200)
    for left in (250, 50, 0):
        await expiry.round()
        assert engine.catalog.size_of(table.definition.id)[0] == left
