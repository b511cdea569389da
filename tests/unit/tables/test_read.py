from __future__ import annotations

import asyncio

import pytest

from broker.encoding.items import canonicalize
from broker.tables.catalog import OpenTable
from broker.tables.operations import Delete, Put
from broker.tables.read import ItemReader
from tests.unit.engine import TIMEOUT_S, Engine
from tests.values import from_item, item, value

STORED = canonicalize(item(id="a"))
ENCODED = STORED.encoded


@pytest.fixture
def reader(engine: Engine) -> ItemReader:
    return ItemReader(engine.store, engine.committer)


def put(table: OpenTable, key: str) -> Put:
    whole = item(id=key)
    return Put(table, table.keys.of_item(whole), canonicalize(whole), None)


async def test_an_item_is_read_as_it_is_stored(engine: Engine, reader: ItemReader) -> None:
    table = await engine.table()
    key = table.keys.of_key(item(id="a"))
    assert await reader.get(key) is None
    await engine.committer.commit(put(table, "a"))
    assert await reader.get(key) == STORED
    await engine.committer.commit(Delete(table, key, None))
    assert await reader.get(key) is None


# A crash could still take the write back: nobody may have seen it then.
async def test_a_read_does_not_tell_what_is_not_durable(engine: Engine, reader: ItemReader) -> None:
    table = await engine.table()
    begun = len(engine.journal.entries)
    engine.journal.hold()
    writing = asyncio.create_task(engine.committer.commit(put(table, "a")))
    await engine.journal.sync_begun(begun + 1)
    reading = asyncio.create_task(reader.get(table.keys.of_key(item(id="a"))))
    other = asyncio.create_task(reader.get(table.keys.of_key(item(id="b"))))
    async with asyncio.timeout(TIMEOUT_S):
        assert await other is None
    assert not reading.done()
    engine.journal.release()
    async with asyncio.timeout(TIMEOUT_S):
        assert await reading == STORED
        await writing


async def test_a_snapshot_has_the_items_of_its_table_only(engine: Engine, reader: ItemReader) -> None:
    before, table, after = [await engine.table(name) for name in ("before", "table", "after")]
    for each in (before, table, after):
        await engine.committer.commit(put(each, "a"))
    snapshot = await reader.snapshot(table, b"")
    assert [stored.item.encoded for _, stored in snapshot.items] == [ENCODED]
    assert snapshot.sequence_number == engine.committer.last_sequence_number


async def test_a_scan_goes_on_after_any_of_its_keys(engine: Engine, reader: ItemReader) -> None:
    table = await engine.table()
    for number in range(10):
        await engine.committer.commit(put(table, str(number)))
    keys = [key for key, _ in (await reader.snapshot(table, b"")).items]
    assert keys == sorted(keys)
    assert len(keys) == 10
    for place, after in enumerate(keys):
        rest = [key for key, _ in (await reader.snapshot(table, after)).items]
        assert rest == keys[place + 1 :]


@pytest.mark.parametrize("after", [b"\x00", b"\xff" * 20, b"\x00\x00\x00\x00zzz"])
async def test_a_scan_never_leaves_its_table(engine: Engine, reader: ItemReader, after: bytes) -> None:
    tables = [await engine.table(name) for name in ("one", "two", "three")]
    for table in tables:
        await engine.committer.commit(put(table, "a"))
    found = list((await reader.snapshot(tables[1], after)).items)
    assert len(found) == (0 if after.startswith(b"\xff") else 1)


async def test_items_keep_their_versions_in_a_snapshot(engine: Engine, reader: ItemReader) -> None:
    table = await engine.table()
    await engine.committer.commit(put(table, "a"))
    ((_, stored),) = (await reader.snapshot(table, b"")).items
    assert stored.version.origin_region == "north"
    assert from_item(item(id="a")) == {"id": value("a")}
