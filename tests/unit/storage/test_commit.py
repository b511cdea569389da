"""The group commit: in order, durable before anyone hears of it, bounded, and stopped for good by a failing disk."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.encoding.items import EncodedItem, canonicalize
from broker.encoding.keys import ItemKey
from broker.model.clock import Version
from broker.model.errors import ConditionalCheckFailedError, ThrottlingError, UnavailableError
from broker.model.tables import HASH_MAX, Shard, StreamViewType
from broker.storage import commit, layout
from broker.storage.commit import Group
from broker.storage.journal import EmbeddedJournal, Entry
from broker.storage.rocks import Family, Store
from headrace.v1.stream_service_pb2 import GetRecordsResponse
from tests.unit.engine import NOON_MS, REGION, TIMEOUT_S, Do, Engine, FakeClock, run_on_new_store, running
from tests.values import item

ITEM = canonicalize(item(id="a"))
SHARD = Shard(id=1, shard_id="shardId-1", first_hash=0, last_hash=HASH_MAX, starting_sequence_number=1)
DISK = OSError("the disk is gone")


def put(key: bytes = b"key", value: bytes | None = b"value") -> Do:
    return Do(does=lambda group: group.put(Family.CATALOG, key, value))


def put_item(key: bytes = b"item") -> Do:
    return Do(does=lambda group: group.put_item(key, ITEM, Version(1, REGION)))


def append(shard: Shard = SHARD, new: EncodedItem = ITEM) -> Do:
    key = ItemKey(b"stored", lambda: canonicalize(item(id="a")))
    view_type = StreamViewType.NEW_IMAGE
    return Do(does=lambda group: group.append_record(shard, view_type, key, None, new, group.next_version()))


def refuse(_: Group) -> None:
    raise ConditionalCheckFailedError("no")


def blocks(store: Store, shard: int = 1) -> list[layout.Block]:
    return [layout.Block(value) for _, value in store.scan(Family.LOG, layout.log_prefix(shard), layout.log_end(shard))]


async def answer(future: asyncio.Future[Any]) -> Any:
    async with asyncio.timeout(TIMEOUT_S):
        return await future


async def is_waiting(awaited: asyncio.Future[Any]) -> bool:
    """Whether something still waits after everything else that can happen has happened."""
    done, _ = await asyncio.wait((awaited,), timeout=0.01)
    return not done


def stray_exceptions() -> Callable[[], list[dict[str, Any]]]:
    """Notes from now on what the loop would only log, such as exceptions that nobody has looked at."""
    seen: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: seen.append(context))

    def so_far() -> list[dict[str, Any]]:
        gc.collect()
        return seen

    return so_far


@asynccontextmanager
async def held(engine: Engine) -> AsyncIterator[asyncio.Future[list[Any]]]:
    """The disk syncs the group of one submission for as long as the block lasts."""
    engine.journal.hold()
    future = engine.committer.submit((put(b"first"),))
    await engine.journal.sync_begun(1)
    yield future
    engine.journal.release()


# 1. Order.


async def test_a_caller_is_answered_only_after_the_sync(engine: Engine) -> None:
    async with held(engine) as future:
        assert engine.store.get(Family.CATALOG, b"first") == b"value"
        assert await is_waiting(future)
    assert await answer(future) == [None]


async def test_a_watermark_rises_only_after_the_sync(engine: Engine) -> None:
    engine.journal.hold()
    future = engine.committer.submit((append(), append()))
    await engine.journal.sync_begun(1)
    assert len(blocks(engine.store)) == 1
    assert engine.watermarks.of(1).value == 0
    engine.journal.release()
    await answer(future)
    assert engine.watermarks.of(1).value == 2


async def test_who_is_answered_finds_the_records_of_the_write(engine: Engine) -> None:
    seen: list[int] = []
    future = engine.committer.submit((append(),))
    future.add_done_callback(lambda _: seen.append(engine.watermarks.of(1).value))
    await answer(future)
    await asyncio.sleep(0)
    assert seen == [1]


async def test_the_end_of_a_shard_is_seen_only_after_the_sync(engine: Engine) -> None:
    engine.journal.hold()
    future = engine.committer.submit((append(), Do(does=lambda group: group.close_shard(SHARD, 9))))
    await engine.journal.sync_begun(1)
    assert engine.watermarks.of(1).value == 0
    engine.journal.release()
    await answer(future)
    assert engine.watermarks.of(1).value == 9


async def test_operations_are_evaluated_in_order_and_see_what_came_before(engine: Engine) -> None:
    def read(group: Group) -> bytes | None:
        return group.get(Family.CATALOG, b"key")

    operations = (Do(does=read), put(value=b"1"), Do(does=read), put(value=b"2"), Do(does=read), put(value=None))
    assert await answer(engine.committer.submit((*operations, Do(does=read)))) == [
        *(None, None, b"1", None, b"2", None, None)
    ]
    await engine.committer.commit(put(value=b"3"))
    assert await engine.do(read) == b"3"


async def test_a_group_sees_writes_that_are_not_synced_yet(engine: Engine) -> None:
    async with held(engine) as first:
        read = engine.committer.submit((Do(does=lambda group: group.get(Family.CATALOG, b"first")),))
    assert await answer(first) == [None]
    assert await answer(read) == [b"value"]


async def test_items_are_seen_as_the_group_has_left_them(engine: Engine) -> None:
    def change(group: Group) -> list[bool]:
        there = [group.get_item(b"item") is not None]
        group.put_item(b"item", ITEM, Version(5, "south"))
        stored = group.get_item(b"item")
        assert stored is not None
        assert stored == (ITEM, Version(5, "south"))
        group.put_item(b"item", None, Version(6, "south"))
        return [*there, group.get_item(b"item") is not None]

    assert await engine.do(change) == [False, False]


async def test_those_who_come_during_a_sync_share_the_next(engine: Engine) -> None:
    async with held(engine):
        later = [engine.committer.submit((put(str(number).encode()),)) for number in range(50)]
    for future in later:
        await answer(future)
    assert len(engine.journal.entries) == 2
    assert engine.committer.groups_total == 2
    assert engine.committer.operations_total == 51


async def test_a_full_group_is_evaluated_during_the_sync_of_the_one_before(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commit, "GROUP_OPERATIONS_MAX", 4)
    engine.journal.hold()
    futures = [engine.committer.submit((put(),)) for _ in range(20)]
    await engine.journal.sync_begun(1)
    assert await is_waiting(futures[-1])
    assert len(engine.journal.entries) == 2
    engine.journal.release()
    for future in futures:
        await answer(future)
    assert len(engine.journal.entries) == 5


async def test_a_submission_larger_than_a_group_is_answered_with_its_last_group(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commit, "GROUP_OPERATIONS_MAX", 4)
    operations = [Do(does=lambda _, number=number: number) for number in range(10)]  # type: ignore[misc]
    engine.journal.hold()
    small, large = engine.committer.submit(operations[:1]), engine.committer.submit(operations)
    await engine.journal.sync_begun(1)
    assert await is_waiting(large)
    engine.journal.release()
    assert await answer(small) == [0]
    assert await answer(large) == list(range(10))
    assert len(engine.journal.entries) == 3
    assert engine.committer.queued_operations == 0


async def test_a_group_is_closed_when_it_holds_many_bytes(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit, "GROUP_BYTES_MAX", 250)
    await answer(engine.committer.submit([put() for _ in range(6)]))
    assert len(engine.journal.entries) == 2


async def test_a_group_is_closed_when_evaluating_it_takes_long(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    await answer(engine.committer.submit([put(), put(), put()]))
    assert engine.committer.groups_total == 1
    monkeypatch.setattr(commit, "GROUP_SECONDS_MAX", -1.0)
    await answer(engine.committer.submit([put(), put(), put()]))
    assert engine.committer.groups_total == 1 + 3


async def test_records_count_for_the_size_of_a_group(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit, "GROUP_BYTES_MAX", 3000)
    large = canonicalize(item(id="a", text="x" * 1900))
    await answer(engine.committer.submit([append(new=large) for _ in range(4)]))
    assert len(engine.journal.entries) == 2


async def test_nothing_to_do_is_answered_too(engine: Engine) -> None:
    assert await answer(engine.committer.submit(())) == []


# 2. Log blocks.


async def test_a_group_makes_one_block_per_shard(engine: Engine) -> None:
    other = Shard(id=2, shard_id="shardId-2", first_hash=0, last_hash=HASH_MAX, starting_sequence_number=1)
    await answer(engine.committer.submit((append(), append(other), append(), append(other), append(other))))
    numbers = {
        shard: [[block.sequence_number(n) for n in range(block.count)] for block in blocks(engine.store, shard)]
        for shard in (1, 2)
    }
    assert numbers == {1: [[1, 3]], 2: [[2, 4, 5]]}
    assert (engine.watermarks.of(1).value, engine.watermarks.of(2).value) == (3, 5)


async def test_a_block_is_closed_when_it_holds_many_bytes(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit, "BLOCK_BYTES_MAX", 150)
    await answer(engine.committer.submit([append() for _ in range(7)]))
    made = blocks(engine.store)
    assert len(engine.journal.entries) == 1
    assert [block.sequence_number(n) for block in made for n in range(block.count)] == list(range(1, 8))
    assert len(made) > 1
    # All but the last record of a block fit.
    assert all(block.payload_bytes - len(block.slice(block.count - 1, block.count)) < 150 for block in made)
    records = GetRecordsResponse.FromString(b"".join(block.slice(0, block.count) for block in made)).records
    assert [int(record.sequence_number) for record in records] == list(range(1, 8))
    assert engine.watermarks.of(1).value == 7


async def test_all_records_of_a_group_have_its_time(engine: Engine) -> None:
    await answer(engine.committer.submit((append(), append())))
    engine.clock.ms += 5
    await answer(engine.committer.submit((append(),)))
    assert [block.time_ms for block in blocks(engine.store)] == [NOON_MS, NOON_MS + 5]


# 3. Refused operations.


async def test_a_refused_operation_is_one_result_among_the_others(engine: Engine) -> None:
    first, refused, last = await answer(engine.committer.submit((put(b"a"), Do(does=refuse), put(b"b"))))
    assert (first, last) == (None, None)
    assert isinstance(refused, ConditionalCheckFailedError)
    assert engine.store.get(Family.CATALOG, b"b") == b"value"


async def test_a_refused_operation_alone_is_raised(engine: Engine) -> None:
    with pytest.raises(ConditionalCheckFailedError):
        await engine.do(refuse)


async def test_a_caller_that_is_gone_does_not_disturb_the_others(engine: Engine) -> None:
    async with held(engine) as gone:
        gone.cancel()
        stays = engine.committer.submit((put(),))
    assert await answer(stays) == [None]


# 4. Reads of items.


async def test_a_read_waits_for_the_sync_of_the_items_last_change(engine: Engine) -> None:
    engine.journal.hold()
    future = engine.committer.submit((put_item(b"changed"),))
    await engine.journal.sync_begun(1)
    settled = asyncio.create_task(engine.committer.settled(b"changed"))
    assert await is_waiting(settled)
    async with asyncio.timeout(TIMEOUT_S):
        await engine.committer.settled(b"other")
    engine.journal.release()
    await answer(future)
    async with asyncio.timeout(TIMEOUT_S):
        await settled
        await engine.committer.settled(b"changed")


async def test_a_read_waits_for_a_group_that_waits_for_its_sync(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commit, "GROUP_OPERATIONS_MAX", 1)
    engine.journal.hold()
    futures = [engine.committer.submit((put_item(key),)) for key in (b"first", b"second", b"third")]
    await engine.journal.sync_begun(1)
    # The second group is written, not synced; the third is not even planned, so nobody can have read it.
    settled = asyncio.create_task(engine.committer.settled(b"second"))
    assert await is_waiting(settled)
    async with asyncio.timeout(TIMEOUT_S):
        await engine.committer.settled(b"third")
    engine.journal.release()
    for future in futures:
        await answer(future)
    await settled


async def test_a_reader_that_gives_up_does_not_disturb_the_others(engine: Engine) -> None:
    engine.journal.hold()
    future = engine.committer.submit((put_item(b"item"),))
    await engine.journal.sync_begun(1)
    readers = [asyncio.create_task(engine.committer.settled(b"item")) for _ in range(2)]
    assert await is_waiting(readers[0])
    readers[0].cancel()
    assert await is_waiting(readers[1])
    engine.journal.release()
    async with asyncio.timeout(TIMEOUT_S):
        await readers[1]
    await answer(future)


async def test_a_snapshot_holds_exactly_the_writes_up_to_its_number_and_only_durable_ones(engine: Engine) -> None:
    def write(key: bytes) -> Callable[[Group], int]:
        def does(group: Group) -> int:
            group.put_item(key, ITEM, group.next_version())
            return group.next_sequence_number()

        return does

    await engine.do(write(b"a"))
    engine.journal.hold()
    second = engine.committer.submit((Do(does=write(b"b")),))
    await engine.journal.sync_begun(2)
    third = engine.committer.submit((Do(does=write(b"c")),))
    taking = asyncio.create_task(engine.committer.snapshot(Family.ITEMS, b"", b"\xff"))
    assert await is_waiting(taking)
    engine.journal.release()
    async with asyncio.timeout(TIMEOUT_S):
        number, entries = await taking
    assert await answer(second) == [number] == [2]
    assert await answer(third) == [3]
    assert [key for key, _ in entries] == [b"a", b"b"]


# 5. Bounds.


async def test_beyond_the_queues_operations_callers_are_told_to_come_again(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commit, "QUEUE_OPERATIONS_MAX", 3)
    async with held(engine):
        accepted = engine.committer.submit((put(), put(), put()))
        assert engine.committer.queued_operations == 3
        with pytest.raises(ThrottlingError, match="3 operations") as throttled:
            engine.committer.submit((put(b"refused"),))
        assert throttled.value.retry_after_ms > 0
        assert throttled.value.metadata["limit"] == "3"
    await answer(accepted)
    assert engine.store.get(Family.CATALOG, b"refused") is None
    await engine.committer.commit(put(b"refused"))


async def test_beyond_the_queues_bytes_callers_are_told_to_come_again(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commit, "QUEUE_BYTES_MAX", 250)
    async with held(engine):
        engine.committer.submit((put(), put()))
        with pytest.raises(ThrottlingError, match="250 bytes"):
            engine.committer.submit((put(),))
        engine.committer.submit((Do(does=lambda _: None, size_bytes=50),))


async def test_what_never_fits_is_let_in_alone(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit, "QUEUE_BYTES_MAX", 10)
    async with held(engine):
        alone = engine.committer.submit((put(),))
        with pytest.raises(ThrottlingError):
            engine.committer.submit((put(),))
    await answer(alone)


async def test_who_can_wait_waits_for_room(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit, "QUEUE_OPERATIONS_MAX", 2)

    async def write() -> list[Any]:
        return await (await engine.committer.submit_when_room((put(), put())))

    async with held(engine):
        writers = [asyncio.create_task(write()) for _ in range(5)]
        assert all([await is_waiting(writer) for writer in writers])
        assert engine.committer.queued_operations == 2
    async with asyncio.timeout(TIMEOUT_S):
        assert await asyncio.gather(*writers) == [[None, None]] * 5


async def test_the_queue_is_empty_after_all_is_done(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit, "QUEUE_OPERATIONS_MAX", 10)
    for _ in range(10):
        await answer(engine.committer.submit([put() for _ in range(10)]))
    assert engine.committer.queued_operations == 0


# 6. The end.


async def test_close_finishes_what_waits_and_refuses_the_rest(engine: Engine) -> None:
    async with held(engine) as first:
        waiting = engine.committer.submit((put(b"waiting"),))
        engine.committer.close()
        with pytest.raises(UnavailableError):
            engine.committer.submit((put(b"late"),))
    async with asyncio.timeout(TIMEOUT_S):
        await engine.committing
    assert (first.result(), waiting.result()) == ([None], [None])
    assert engine.journal.synced == 2
    assert engine.store.get(Family.CATALOG, b"late") is None


async def test_close_ends_an_idle_committer_and_may_be_said_twice(engine: Engine) -> None:
    engine.committer.close()
    engine.committer.close()
    async with asyncio.timeout(TIMEOUT_S):
        await engine.committing


# 7. Failures: nobody is left waiting, nothing is called done, and nothing more is taken.


async def assert_stopped(engine: Engine, error: BaseException) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        with pytest.raises(type(error)) as raised:
            await engine.committing
        assert raised.value is error
        with pytest.raises(UnavailableError):
            await engine.committer.submit_when_room((put(b"late"),))
    entries = len(engine.journal.entries)
    with pytest.raises(UnavailableError):
        engine.committer.submit((put(b"late"),))
    assert len(engine.journal.entries) == entries


async def test_a_failed_write_stops_everything(engine: Engine) -> None:
    async with held(engine) as first:
        second, third = (engine.committer.submit((put(),)) for _ in range(2))
        engine.journal.append_error = DISK
    for future in (second, third):
        with pytest.raises(UnavailableError) as unavailable:
            await answer(future)
        assert unavailable.value.__cause__ is DISK
    assert await answer(first) == [None]
    await assert_stopped(engine, DISK)


async def test_a_failed_sync_stops_everything(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit, "QUEUE_OPERATIONS_MAX", 1)
    engine.journal.hold()
    engine.journal.sync_error = DISK
    first = engine.committer.submit((put_item(b"item"), append()))
    await engine.journal.sync_begun(1)
    second = engine.committer.submit((put(),))
    reader = asyncio.create_task(engine.committer.settled(b"item"))
    snapshot = asyncio.create_task(engine.committer.snapshot(Family.ITEMS, b"", b"\xff"))
    room = asyncio.create_task(engine.committer.submit_when_room((put(),)))
    assert await is_waiting(room)
    engine.journal.release()
    awaited: asyncio.Future[Any]
    for awaited in (first, second, reader, snapshot):
        with pytest.raises(UnavailableError) as unavailable:
            await answer(awaited)
        assert unavailable.value.__cause__ is DISK
    with pytest.raises(UnavailableError):
        await answer(room)
    assert engine.watermarks.of(1).value == 0
    await assert_stopped(engine, DISK)


@pytest.mark.parametrize("sync_fails", [False, True])
async def test_a_failed_write_lets_the_sync_under_way_end_first(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, *, sync_fails: bool
) -> None:
    stray = stray_exceptions()
    monkeypatch.setattr(commit, "GROUP_OPERATIONS_MAX", 2)
    engine.journal.hold()
    # The first group syncs while the second is written; it was well written, so its callers get the sync's answer.
    first = engine.committer.submit((append(), append()))
    second = engine.committer.submit((put(), Do(does=lambda _: setattr(engine.journal, "append_error", DISK))))
    await engine.journal.sync_begun(1)
    assert await is_waiting(second)
    if sync_fails:
        engine.journal.sync_error = DISK
    engine.journal.release()
    with pytest.raises(UnavailableError):
        await answer(second)
    if sync_fails:
        with pytest.raises(UnavailableError):
            await answer(first)
        assert engine.watermarks.of(1).value == 0
    else:
        await answer(first)
        assert engine.watermarks.of(1).value == 2
    await assert_stopped(engine, DISK)
    assert stray() == []


async def test_a_fault_in_a_plan_stops_everything_before_it_is_written(engine: Engine) -> None:
    fault = AssertionError("a broken invariant")

    def fail(_: Group) -> None:
        raise fault

    before, failing, after = (engine.committer.submit((do,)) for do in (put(b"a"), Do(does=fail), put(b"b")))
    for future in (before, failing, after):
        with pytest.raises(UnavailableError):
            await answer(future)
    assert engine.journal.entries == []
    await assert_stopped(engine, fault)


async def test_a_cancelled_committer_leaves_nobody_waiting(engine: Engine) -> None:
    engine.journal.hold()
    futures = [engine.committer.submit((put(),))]
    await engine.journal.sync_begun(1)
    futures.append(engine.committer.submit((put(),)))
    engine.committing.cancel()
    engine.journal.release()
    await asyncio.wait({engine.committing}, timeout=TIMEOUT_S)
    for future in futures:
        with pytest.raises(UnavailableError):
            await answer(future)
    with pytest.raises(UnavailableError):
        engine.committer.submit((put(),))


async def test_nobody_need_listen_to_a_failure(engine: Engine) -> None:
    stray = stray_exceptions()
    engine.journal.sync_error = DISK
    engine.committer.submit((put(),))
    await assert_stopped(engine, DISK)
    assert stray() == []


# 8. What only rises, rises over restarts, whatever the clock does.


async def test_numbers_times_and_ids_go_on_after_a_restart_even_if_the_clock_went_back(tmp_path: Path) -> None:
    def take(group: Group) -> tuple[int, int, int]:
        return group.next_sequence_number(), group.next_version().hybrid_time, group.next_id()

    taken = []
    for now_ms in (NOON_MS, NOON_MS - 3_600_000, 0, NOON_MS + 1):
        store = Store(tmp_path / "store")
        async with running(store, FakeClock(now_ms)) as engine:
            taken += [await engine.do(take), await engine.do(take)]
        store.close()
        del store, engine
    for counts in zip(*taken, strict=True):
        assert list(counts) == sorted(set(counts))


# A time is a place in the log: retention and AT_TIMESTAMP look for it by halving.
async def test_the_times_and_sizes_of_a_shards_blocks_never_fall_over_restarts_either(tmp_path: Path) -> None:
    clock = FakeClock()
    for step in (0, 500, -3000, 100, 5000):
        clock.ms += step
        store = Store(tmp_path / "store")
        async with running(store, clock) as engine:
            await engine.committer.commit(append())
            await answer(engine.committer.submit((append(), append())))
        store.close()
    store = Store(tmp_path / "store")
    found = blocks(store)
    store.close()
    times = [block.time_ms for block in found]
    assert times == sorted(times)
    assert (times[0], times[-1]) == (NOON_MS, NOON_MS + 2600)
    assert [block.before.records for block in found] == [0, 1, 3, 4, 6, 7, 9, 10, 12, 13]
    for block, following in pairwise(found):
        assert block.after == following.before


async def test_an_observed_version_is_remembered_over_a_restart(tmp_path: Path) -> None:
    ahead = Version((NOON_MS + 60_000) << 16, "south")
    store = Store(tmp_path / "store")
    async with running(store, FakeClock()) as engine:
        await engine.do(lambda group: group.observe_version(ahead))
    store.close()
    del store, engine
    store = Store(tmp_path / "store")
    async with running(store, FakeClock()) as engine:
        assert await engine.do(lambda group: group.next_version()) > ahead
    store.close()


async def test_a_version_names_this_region(engine: Engine) -> None:
    assert await engine.do(lambda group: group.next_version()) == Version(NOON_MS << 16, REGION)


async def test_the_last_sequence_number_is_that_of_the_last_group(engine: Engine) -> None:
    await answer(engine.committer.submit((append(), append())))
    assert engine.committer.last_sequence_number == 2
    assert engine.journal.entries[-1].position == 2


# 9. Range deletes.


async def test_a_range_delete_takes_what_was_there_and_what_the_group_has_put(engine: Engine) -> None:
    for key in (b"a", b"b", b"c"):
        await engine.committer.commit(put(key, b"old"))

    def does(group: Group) -> None:
        group.put(Family.CATALOG, b"aa", b"of this group")
        group.put(Family.CATALOG, b"c", b"beyond the end")
        group.delete_range(Family.CATALOG, b"a", b"c")
        group.put(Family.CATALOG, b"b", b"put afterwards")

    await engine.do(does)
    kept = dict(engine.store.scan(Family.CATALOG, b"a", b"d"))
    kept.pop(layout.COUNTERS_KEY, None)
    assert kept == {b"b": b"put afterwards", b"c": b"beyond the end"}


async def test_a_range_delete_takes_items_that_the_group_has_put(engine: Engine) -> None:
    def does(group: Group) -> None:
        group.put_item(b"table1/a", ITEM, Version(1, REGION))
        group.put_item(b"table2/a", ITEM, Version(1, REGION))
        group.delete_range(Family.ITEMS, b"table1/", b"table10")

    await engine.do(does)
    assert [key for key, _ in engine.store.scan(Family.ITEMS, b"", b"\xff")] == [b"table2/a"]


KEYS = st.sampled_from([b"a", b"b", b"c", b"d"])
STEPS = st.lists(
    st.tuples(st.just("put"), KEYS, st.sampled_from([b"1", b"2", None]))
    | st.tuples(KEYS, KEYS).map(lambda ends: ("delete", min(ends), max(ends))),
    max_size=10,
)


@settings(max_examples=25)
@given(st.lists(STEPS, max_size=3))
def test_a_group_does_to_the_store_what_its_steps_say(groups: list[list[tuple[str, bytes, Any]]]) -> None:
    expected: dict[bytes, bytes] = {}

    def does(group: Group, steps: list[tuple[str, bytes, Any]]) -> None:
        for kind, key, more in steps:
            if kind == "put":
                group.put(Family.TOMBSTONES, key, more)
                if more is None:
                    expected.pop(key, None)
                else:
                    expected[key] = more
                assert group.get(Family.TOMBSTONES, key) == more
            else:
                group.delete_range(Family.TOMBSTONES, key, more)
                for gone in [each for each in expected if key <= each < more]:
                    del expected[gone]

    async def scenario(engine: Engine) -> None:
        for steps in groups:
            await engine.do(lambda group, steps=steps: does(group, steps))  # type: ignore[misc]
        assert dict(engine.store.scan(Family.TOMBSTONES, b"", b"\xff")) == expected

    run_on_new_store(scenario)


# 10. The journal of a single node.


async def test_what_the_journal_has_synced_is_in_the_store(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    journal = EmbeddedJournal(store)
    await journal.sync()
    journal.append(Entry(position=1, mutations={Family.CATALOG: {b"key": b"value"}}, range_deletes=()))
    await journal.sync()
    await journal.close()
    store.close()
    del store, journal
    again = Store(tmp_path / "store")
    assert again.get(Family.CATALOG, b"key") == b"value"
    again.close()


async def test_sizes_are_counted_and_never_below_nothing(engine: Engine) -> None:
    def resize(*changes: tuple[int, int | None, int | None]) -> Callable[[Group], None]:
        def work(group: Group) -> None:
            for change in changes:
                group.resize(*change)

        return work

    await engine.do(resize((7, None, 100)))
    await engine.do(resize((7, 100, 60), (7, None, 5)))
    assert engine.committer.sizes[7] == (2, 65)
    await engine.do(resize((7, 60, None)))
    assert engine.committer.sizes[7] == (1, 5)
    # What was there before anything was counted.
    await engine.do(resize((7, 50, None), (8, 50, None)))
    assert (engine.committer.sizes[7], engine.committer.sizes[8]) == ((0, 0), (0, 0))
    await engine.do(lambda group: group.forget_size(7))
    assert 7 not in engine.committer.sizes
