"""A table is restored as it was at a time: exactly that, for each time that is offered, and for no other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from random import Random

import pytest

from broker.backups.folder import BackupFolder
from broker.backups.registry import RESTORES_MAX, Backups
from broker.backups.rewind import ITEMS_MAX, RECORDS_MAX, take_back, window
from broker.encoding.items import canonicalize
from broker.encoding.keys import table_prefix
from broker.model.clock import iso_label
from broker.model.errors import (
    InvalidRestoreTimeError,
    LimitExceededError,
    PointInTimeRecoveryUnavailableError,
    ResourceNotFoundError,
    TableAlreadyExistsError,
    UnavailableError,
    ValidationError,
)
from broker.model.tables import Index, ProjectionType, Restoration, Stream, StreamViewType, Table, Throughput
from broker.storage import layout
from broker.storage.identity import open_identity
from broker.storage.rocks import Family
from broker.streams.tail import Trim
from broker.tables.catalog import OpenTable
from broker.tables.definition import BillingMode, TableChange
from broker.tables.operations import Delete, Put
from tests.unit.engine import AT, NOON_MS, REGION, TIMEOUT_S, Engine
from tests.values import item

DAY_MS = 86_400_000
# Encoded items, by the values of their keys.
State = dict[str, bytes]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "backups"


@pytest.fixture
async def backups(engine: Engine, root: Path, tmp_path: Path) -> AsyncIterator[Backups]:
    open_identity(engine.store, REGION, Random(1))
    folder = BackupFolder(root, tmp_path)
    made = Backups(folder, engine.store, engine.committer, engine.catalog, engine.clock, Random(7))
    yield made
    await made.close()


async def recoverable(
    engine: Engine, view_type: StreamViewType | None = StreamViewType.NEW_AND_OLD_IMAGES
) -> OpenTable:
    table = await engine.table("pets", view_type)
    await engine.catalog.update_recovery("pets", 35)
    return table


async def put(engine: Engine, table: OpenTable, key: str, number: int) -> bytes:
    whole = item(id=key, number=number)
    encoded = canonicalize(whole)
    await engine.committer.commit(Put(table, table.keys.of_item(whole), encoded, None))
    return encoded.encoded


async def delete(engine: Engine, table: OpenTable, key: str) -> None:
    await engine.committer.commit(Delete(table, table.keys.of_key(item(id=key)), None))


def contents(engine: Engine, table: Table) -> set[bytes]:
    begin, end = table_prefix(table.id), table_prefix(table.id + 1)
    return {layout.decode_item(value).item.encoded for _, value in engine.store.scan(Family.ITEMS, begin, end)}


def copies_in(folder: Path) -> list[Path]:
    return list(folder.iterdir())


async def has_begun(engine: Engine) -> None:
    """Returns when a restore has made its table, which is not filled yet."""
    for _ in count():
        if engine.catalog.restoring.all():
            return
        await asyncio.sleep(0)


def stream_of(table: OpenTable) -> Stream:
    assert table.stream is not None
    return table.stream


async def test_a_table_is_restored_as_it_was_at_any_time_over_splits_and_merges(
    engine: Engine, backups: Backups, root: Path, seed: int
) -> None:
    random = Random(seed)
    table = await recoverable(engine)
    state: State = {}
    # How the table was at the end of each millisecond in which something happened.
    history: dict[int, State] = {engine.clock.ms: {}}
    for step in range(300):
        if random.random() < 0.3:
            engine.clock.ms += random.randrange(1, 50)
        key = f"k{random.randrange(25)}"
        if random.random() < 0.3:
            await delete(engine, table, key)
            state.pop(key, None)
        else:
            state[key] = await put(engine, table, key, random.randrange(5))
        if step in {60, 150}:
            shard = random.choice(stream_of(table).open_shards)
            await engine.catalog.split_shard(stream_of(table), shard.shard_id, None)
        if step == 220:
            left, right, *_ = stream_of(table).open_shards
            await engine.catalog.merge_shards(stream_of(table), left.shard_id, right.shard_id)
        history[engine.clock.ms] = dict(state)
    engine.clock.ms += 1
    for number, time_ms in enumerate(random.sample(sorted(history), 12)):
        restored = await backups.restore_to_point_in_time("pets", f"copy{number}", time_ms)
        assert contents(engine, restored) == set(history[time_ms].values()), (time_ms, seed)
        sizes = engine.catalog.size_of(restored.id)
        assert sizes[0] == len(history[time_ms])
        assert restored.restored_from == Restoration(source_table_name="pets", time_ms=time_ms)
    latest = await backups.restore_to_point_in_time("pets", "latest", None)
    assert contents(engine, latest) == set(state.values())
    assert engine.catalog.restoring.all() == []
    assert copies_in(root) == []


async def test_old_images_alone_are_enough(engine: Engine, backups: Backups) -> None:
    table = await recoverable(engine, StreamViewType.OLD_IMAGE)
    before = await put(engine, table, "a", 1)
    engine.clock.ms += 10
    await put(engine, table, "a", 2)
    await put(engine, table, "b", 1)
    restored = await backups.restore_to_point_in_time("pets", "copy", NOON_MS)
    assert contents(engine, restored) == {before}


async def test_a_restored_table_has_what_the_source_has_now_and_nothing_that_dynamodb_leaves_out(
    engine: Engine, backups: Backups
) -> None:
    table = await recoverable(engine)
    for number in range(3):
        await put(engine, table, f"k{number}", number)
    engine.clock.ms += 10
    await put(engine, table, "k0", 7)
    by_number = Index(
        name="by-number",
        id=0,
        is_global=True,
        partition_keys=(replace(AT, name="number"),),
        projection_type=ProjectionType.ALL,
    )
    await engine.catalog.update_table("pets", TableChange(new_indexes=(by_number,), is_protected=True))
    await engine.catalog.tag_table(f"arn:aws:dynamodb:{REGION}:000000000000:table/pets", {"team": "blue"})
    await engine.catalog.update_time_to_live("pets", "until", is_enabled=True)
    restored = await backups.restore_to_point_in_time("pets", "copy", NOON_MS)
    (index,) = restored.indexes
    assert (index.name, index.is_backfilling, engine.catalog.size_of(index.id)[0]) == ("by-number", False, 3)
    opened = engine.catalog.open_table("copy")
    assert opened.stream is None
    assert (restored.tags, restored.time_to_live, restored.is_protected) == ({}, None, False)
    assert restored.recovery_period_days is None


async def test_a_restored_table_takes_other_settings_or_none_is_made(
    engine: Engine, backups: Backups, root: Path
) -> None:
    await recoverable(engine)
    units = Throughput(read_units=3, write_units=4)
    provisioned = TableChange(billing_mode=BillingMode.PROVISIONED, throughput=units)
    restored = await backups.restore_to_point_in_time("pets", "copy", None, provisioned)
    assert restored.throughput == units
    with pytest.raises(ValidationError, match="ProvisionedThroughput must be specified"):
        await backups.restore_to_point_in_time("pets", "other", None, replace(provisioned, throughput=None))
    assert engine.catalog.find_table("other") is None
    assert engine.catalog.restoring.all() == []
    assert copies_in(root) == []


async def test_the_window_begins_with_the_stream(engine: Engine, backups: Backups) -> None:
    table = await recoverable(engine, None)
    await put(engine, table, "a", 1)
    engine.clock.ms += 100
    await engine.set_stream("pets", StreamViewType.NEW_AND_OLD_IMAGES)
    await put(engine, table, "a", 2)
    begin_ms = engine.clock.ms
    engine.clock.ms += 100
    await put(engine, table, "a", 3)
    assert backups.recovery_window(table) == (begin_ms, engine.clock.ms)
    earliest, latest = iso_label(begin_ms), iso_label(engine.clock.ms)
    told = f"from EarliestRestorableDateTime, {earliest}Z, to LatestRestorableDateTime, {latest}Z"
    for time_ms in (begin_ms - 1, engine.clock.ms + 1):
        with pytest.raises(InvalidRestoreTimeError, match=told):
            await backups.restore_to_point_in_time("pets", "copy", time_ms)
    for time_ms, name in ((begin_ms, "first"), (engine.clock.ms, "last")):
        await backups.restore_to_point_in_time("pets", name, time_ms)


async def test_the_window_begins_where_the_log_was_trimmed(engine: Engine, backups: Backups) -> None:
    table = await recoverable(engine)
    states = {}
    for number in range(4):
        states[engine.clock.ms] = await put(engine, table, "a", number)
        engine.clock.ms += 100
    stream = stream_of(table)
    (shard,) = stream.shards
    log = engine.store.scan(Family.LOG, layout.log_prefix(shard.id), layout.log_end(shard.id))
    blocks = [layout.Block(value) for _, value in log]
    trimmed = blocks[1]
    await engine.catalog.trim(stream, [Trim(shard.id, trimmed.last_sequence_number, trimmed.time_ms, 0)], ())
    assert backups.recovery_window(table) == (trimmed.time_ms, engine.clock.ms)
    with pytest.raises(InvalidRestoreTimeError):
        await backups.restore_to_point_in_time("pets", "copy", trimmed.time_ms - 1)
    restored = await backups.restore_to_point_in_time("pets", "copy", trimmed.time_ms)
    assert contents(engine, restored) == {states[trimmed.time_ms]}


async def test_the_window_is_no_longer_than_the_period(engine: Engine) -> None:
    table = await recoverable(engine)
    stream = stream_of(table)
    assert window(stream, 2, NOON_MS + 2 * DAY_MS) == (NOON_MS, NOON_MS + 2 * DAY_MS)
    assert window(stream, 2, NOON_MS + 2 * DAY_MS + 1) == (NOON_MS + 1, NOON_MS + 2 * DAY_MS + 1)
    vanished = replace(stream, trimmed_time_ms=NOON_MS + 5)
    assert window(vanished, 2, NOON_MS + 10) == (NOON_MS + 5, NOON_MS + 10)


@pytest.mark.parametrize("view_type", [None, StreamViewType.KEYS_ONLY, StreamViewType.NEW_IMAGE])
async def test_without_old_images_only_the_table_as_it_is_can_be_restored(
    engine: Engine, backups: Backups, view_type: StreamViewType | None
) -> None:
    table = await recoverable(engine, view_type)
    await put(engine, table, "a", 1)
    engine.clock.ms += 1
    now = await put(engine, table, "a", 2)
    assert backups.recovery_window(table) == (NOON_MS + 1, NOON_MS + 1)
    with pytest.raises(InvalidRestoreTimeError):
        await backups.restore_to_point_in_time("pets", "copy", NOON_MS)
    assert contents(engine, await backups.restore_to_point_in_time("pets", "copy", None)) == {now}


async def test_a_table_without_recovery_or_a_name_that_is_taken_is_refused_before_anything_is_copied(
    engine: Engine, backups: Backups, root: Path
) -> None:
    table = await engine.table("pets")
    assert backups.recovery_window(table) is None
    with pytest.raises(PointInTimeRecoveryUnavailableError):
        await backups.restore_to_point_in_time("pets", "copy", None)
    with pytest.raises(ResourceNotFoundError):
        await backups.restore_to_point_in_time("nosuch", "copy", None)
    await engine.catalog.update_recovery("pets", 1)
    engine.journal.hold()
    with pytest.raises(TableAlreadyExistsError):
        await backups.restore_to_point_in_time("pets", "pets", None)
    with pytest.raises(ValidationError):
        await backups.restore_to_point_in_time("pets", "no", None)
    engine.journal.release()
    assert copies_in(root) == []


async def test_what_is_written_while_a_table_is_restored_is_not_in_it(engine: Engine, backups: Backups) -> None:
    table = await recoverable(engine)
    kept = {await put(engine, table, f"k{number}", number) for number in range(3 * ITEMS_MAX)}
    time_ms = engine.clock.ms
    engine.clock.ms += 1
    restoring = asyncio.create_task(backups.restore_to_point_in_time("pets", "copy", time_ms))
    number = 0
    while not restoring.done():
        await put(engine, table, f"k{number}", -1)
        number += 1
    assert number
    assert contents(engine, await restoring) == kept


async def test_a_restore_whose_caller_leaves_leaves_nothing(engine: Engine, backups: Backups, root: Path) -> None:
    table = await recoverable(engine)
    for number in range(2 * ITEMS_MAX):
        await put(engine, table, f"k{number}", number)
    restoring = asyncio.create_task(backups.restore_to_point_in_time("pets", "copy", NOON_MS))
    async with asyncio.timeout(TIMEOUT_S):
        await has_begun(engine)
        restoring.cancel()
        await asyncio.wait((restoring,))
        await backups.close()
    assert engine.catalog.restoring.all() == []
    assert [doc.name for doc in engine.catalog.tables.all()] == ["pets"]
    assert copies_in(root) == []


async def test_so_many_restores_at_once_and_no_more(engine: Engine, backups: Backups) -> None:
    await recoverable(engine)
    engine.journal.hold()
    restoring = [
        asyncio.create_task(backups.restore_to_point_in_time("pets", f"copy{number}", None))
        for number in range(RESTORES_MAX)
    ]
    await asyncio.sleep(0)
    with pytest.raises(LimitExceededError, match="8 restores are under way"):
        await backups.restore_to_point_in_time("pets", "more", None)
    engine.journal.release()
    async with asyncio.timeout(TIMEOUT_S):
        await asyncio.gather(*restoring)
    await backups.restore_to_point_in_time("pets", "more", None)


async def test_one_submission_looks_at_so_many_records_however_few_items_they_change(engine: Engine) -> None:
    table = await recoverable(engine)
    await put(engine, table, "a", 0)
    await put(engine, table, "a", 1)
    (shard,) = stream_of(table).shards
    (_, value) = next(engine.store.scan_back(Family.LOG, layout.log_prefix(shard.id), layout.log_end(shard.id)))
    ((_, record),) = layout.Block(value).records(0, 1)
    records = iter([record] * (RECORDS_MAX + 1))
    assert [len(take_back(records, table)) for _ in range(3)] == [1, 1, 0]


async def test_a_stop_of_the_node_ends_a_restore(engine: Engine, backups: Backups, root: Path) -> None:
    table = await recoverable(engine)
    for number in range(2 * ITEMS_MAX):
        await put(engine, table, f"k{number}", number)
    restoring = asyncio.create_task(backups.restore_to_point_in_time("pets", "copy", NOON_MS))
    async with asyncio.timeout(TIMEOUT_S):
        await has_begun(engine)
        await backups.close()
        with pytest.raises(UnavailableError, match="given up"):
            await restoring
    assert copies_in(root) == []
