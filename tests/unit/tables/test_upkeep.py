"""Retention: what is too old or too much goes, whole blocks at a time, and nothing else ever."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import pytest

from broker.encoding.items import canonicalize
from broker.model.errors import ThrottlingError, ValidationError
from broker.model.tables import RETENTION_SECONDS_DEFAULT, Shard, Stream, StreamSettings, StreamViewType
from broker.storage import commit, layout
from broker.storage.rocks import Family, Store
from broker.streams import resharding
from broker.streams.shards import horizon
from broker.streams.walk import OLDEST, Walk, begin
from broker.tables import upkeep
from broker.tables.definition import TableChange
from broker.tables.operations import Put
from broker.tables.upkeep import Upkeep
from tests.unit.engine import NOON_MS, TIMEOUT_S, Do, Engine, FakeClock
from tests.values import item

HOUR_MS = 60 * 60 * 1000
DAY_MS = RETENTION_SECONDS_DEFAULT * 1000


class Keeper:
    """An engine with its upkeep, done round by round."""

    def __init__(self, engine: Engine, store: Store, clock: FakeClock) -> None:
        self.engine = engine
        self.clock = clock
        self.gone: list[str] = []
        self.upkeep = Upkeep(
            engine.catalog, engine.committer, engine.log, store, clock, lambda stream: self.gone.append(stream.name)
        )

    async def round(self) -> None:
        async with asyncio.timeout(TIMEOUT_S):
            await self.upkeep.round()

    async def write(self, *keys: str, size: int = 10) -> None:
        table = self.engine.catalog.open_table("pets")
        for key in keys:
            whole = item(id=key, at=self.clock.ms, text="x" * size)
            await self.engine.committer.commit(Put(table, table.keys.of_item(whole), canonicalize(whole), None))

    @property
    def stream(self) -> Stream:
        return self.engine.catalog.streams.all()[-1]

    def shard(self, place: int = 0) -> Shard:
        return self.stream.shards[place]

    def shard_count(self) -> int:
        return len(self.stream.shards)

    def held(self) -> int:
        """How many records a reader from the trim horizon gets."""
        tip = self.engine.log.tip_of_stream(self.stream)
        walk = Walk(lambda: self.stream, begin(self.stream, None, OLDEST, tip), self.engine.log)
        records = 0
        while (step := walk.next(1000, 1_000_000)) is not None:
            records += step.page.count
        return records

    def blocks(self) -> int:
        """How many blocks the store holds of all shards that ever were."""
        return sum(1 for _ in self.engine.store.scan(Family.LOG, b"", b"\xff" * 16))

    async def settings(self, **changes: int) -> None:
        await self.engine.catalog.update_table("pets", TableChange(stream_settings=changes))


@pytest.fixture
async def keeper(engine: Engine, store: Store, clock: FakeClock) -> Keeper:
    # Those tests that are about rolling switch it on.
    await engine.table(roll_seconds=0)
    return Keeper(engine, store, clock)


async def test_records_are_held_for_24_hours_and_then_go(keeper: Keeper) -> None:
    await keeper.write("a", "b")
    keeper.clock.ms += HOUR_MS
    await keeper.write("c")
    keeper.clock.ms = NOON_MS + DAY_MS
    await keeper.round()
    assert keeper.held() == 3
    keeper.clock.ms += 1
    await keeper.round()
    assert (keeper.held(), keeper.blocks()) == (1, 1)
    assert (keeper.shard().trimmed_to, keeper.shard().trimmed_time_ms) == (3, NOON_MS)
    keeper.clock.ms += HOUR_MS
    await keeper.round()
    assert (keeper.held(), keeper.blocks()) == (0, 0)
    # An open shard stays, also without records, and goes on.
    assert keeper.shard().is_open
    await keeper.write("d")
    assert keeper.held() == 1


async def test_nothing_is_trimmed_twice_and_nothing_when_there_is_nothing(keeper: Keeper) -> None:
    await keeper.round()
    await keeper.write("a")
    before = keeper.engine.committer.groups_total
    await keeper.round()
    await keeper.round()
    assert keeper.engine.committer.groups_total == before
    keeper.clock.ms += DAY_MS + 1
    await keeper.round()
    await keeper.round()
    assert keeper.engine.committer.groups_total == before + 1


async def test_a_table_may_keep_records_for_longer_or_shorter(keeper: Keeper) -> None:
    await keeper.write("a")
    await keeper.settings(retention_seconds=60)
    keeper.clock.ms += 60_001
    await keeper.round()
    assert keeper.held() == 0
    await keeper.write("b")
    await keeper.settings(retention_seconds=7 * RETENTION_SECONDS_DEFAULT)
    keeper.clock.ms += 6 * DAY_MS
    await keeper.round()
    assert keeper.held() == 1


async def test_a_table_may_bound_the_bytes_of_its_log(keeper: Keeper) -> None:
    await keeper.settings(retention_bytes=4 * 1024 * 1024)
    for key in range(30):
        await keeper.write(str(key), size=300_000)
    await keeper.round()
    size = keeper.engine.log.retained(keeper.shard()).payload_bytes
    assert 3_500_000 < size <= 4 * 1024 * 1024
    assert keeper.held() == 13
    # The newest are held.
    assert horizon(keeper.shard()) < keeper.engine.log.tip(keeper.shard())


async def test_a_bound_in_bytes_drops_the_oldest_of_all_shards(keeper: Keeper) -> None:
    for key in range(10):
        await keeper.write(str(key), size=300_000)
    await keeper.engine.catalog.split_shard(keeper.stream, keeper.shard().shard_id, None)
    for key in range(10, 30):
        await keeper.write(str(key), size=300_000)
    await keeper.settings(retention_bytes=4 * 1024 * 1024)
    numbers = [keeper.engine.log.tip(shard) for shard in keeper.stream.shards]
    await keeper.round()
    parent, left, right = keeper.stream.shards
    assert keeper.engine.log.retained(parent).records == 0
    assert keeper.held() == 13
    # What is held of both children is newer than all that is gone of either.
    assert max(left.trimmed_to, right.trimmed_to) < max(numbers)
    firsts = [
        int.from_bytes(key[8:], "big")
        for shard in (left, right)
        for key, _ in list(keeper.engine.store.scan(Family.LOG, layout.log_prefix(shard.id), layout.log_end(shard.id)))[
            :1
        ]
    ]
    assert min(firsts) > max(left.trimmed_to, right.trimmed_to)


async def test_a_closed_shard_vanishes_with_its_last_record(keeper: Keeper) -> None:
    await keeper.settings(min_shards=2)
    await keeper.write("a")
    keeper.clock.ms += HOUR_MS
    children = await keeper.engine.catalog.split_shard(keeper.stream, keeper.shard().shard_id, None)
    keeper.clock.ms = NOON_MS + DAY_MS + 1
    await keeper.round()
    # Its record is gone, but it was open for an hour after that.
    assert len(keeper.stream.shards) == 3
    keeper.clock.ms += HOUR_MS
    await keeper.round()
    assert list(keeper.stream.shards) == children
    assert keeper.stream.trimmed_to == 2
    assert [shard.parent_shard_id for shard in children] == ["shardId-00000001700000000000-00000002"] * 2
    assert keeper.gone == []


async def test_a_disabled_stream_is_readable_for_24_hours_and_then_gone(keeper: Keeper) -> None:
    await keeper.write("a")
    keeper.clock.ms += HOUR_MS
    await keeper.engine.set_stream("pets", None)
    first = keeper.stream
    await keeper.engine.set_stream("pets", StreamViewType.KEYS_ONLY)
    keeper.clock.ms += DAY_MS
    await keeper.round()
    assert keeper.engine.catalog.streams.get(first.name) is not None
    keeper.clock.ms += 1
    await keeper.round()
    assert keeper.engine.catalog.streams.get(first.name) is None
    assert keeper.gone == [first.name]
    (left,) = keeper.engine.catalog.streams.all()
    assert left.is_enabled


async def test_the_stream_of_a_deleted_table_goes_too_and_its_table_may_be_made_anew(keeper: Keeper) -> None:
    await keeper.write("a")
    await keeper.engine.catalog.delete_table("pets")
    await keeper.engine.table("pets")
    keeper.clock.ms += DAY_MS + 1
    await keeper.write("b")
    await keeper.round()
    assert len(keeper.engine.catalog.streams.all()) == 1
    assert keeper.held() == 1


async def test_the_disk_space_of_trimmed_records_is_given_back(keeper: Keeper, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "COMPACT_BYTES", 1_000_000)
    compacted: list[Any] = []
    monkeypatch.setattr(keeper.engine.store, "compact", lambda *arguments: compacted.append(arguments))
    for key in range(5):
        await keeper.write(str(key), size=300_000)
    keeper.clock.ms += DAY_MS + 1
    await keeper.round()
    assert keeper.upkeep.trimmed_bytes_total > 1_500_000
    running = asyncio.create_task(keeper.upkeep.run(3600))
    await asyncio.sleep(0)
    running.cancel()
    await asyncio.wait((running,))
    shard = keeper.shard()
    assert compacted == [(Family.LOG, layout.log_prefix(shard.id), layout.log_key(shard.id, shard.trimmed_to + 1))]


async def test_a_busy_shard_is_split(keeper: Keeper, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resharding, "BUSY_RECORDS_PER_SECOND", 1)
    await keeper.round()
    for turn in range(5):
        keeper.clock.ms += 10_000
        await keeper.write(*(f"{turn}-{key}" for key in range(20)))
        await keeper.round()
    assert len(keeper.stream.open_shards) == 2
    await keeper.write(*(f"after-{key}" for key in range(20)))
    assert keeper.held() == 120
    # What no longer grows is forgotten.
    assert set(keeper.engine.committer.log_sizes) == {shard.id for shard in keeper.stream.open_shards}


async def test_settings_out_of_bounds_are_refused(keeper: Keeper) -> None:
    for changes, field in (
        ({"retention_seconds": 0}, "retention_period_in_seconds"),
        ({"retention_bytes": 4 * 1024 * 1024 - 1}, "retention_bytes"),
        ({"min_shards": 0}, "min_shards"),
        ({"min_shards": 65}, "min_shards"),
        ({"max_shards": 65}, "max_shards"),
        ({"min_shards": 3, "max_shards": 2}, "max_shards"),
        ({"roll_seconds": -1}, "shard_roll_period_in_seconds"),
        ({"roll_seconds": 365 * 24 * 60 * 60 + 1}, "shard_roll_period_in_seconds"),
    ):
        with pytest.raises(ValidationError) as refused:
            await keeper.settings(**changes)
        assert refused.value.metadata["field"] == f"stream_settings.{field}"
    assert keeper.engine.catalog.open_table("pets").definition.stream_settings == StreamSettings(roll_seconds=0)


async def test_a_compaction_that_fails_is_logged_and_tried_again(
    keeper: Keeper, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(upkeep, "COMPACT_BYTES", 1)
    monkeypatch.setattr(keeper.engine.store, "compact", fail)
    await keeper.write("a")
    keeper.clock.ms += DAY_MS + 1
    await keeper.round()
    assert keeper.upkeep._compacting is not None
    await asyncio.wait_for(keeper.upkeep._compacting, TIMEOUT_S)
    assert "could not be compacted" in caplog.text
    assert list(keeper.upkeep._loose) == [keeper.shard().id]


# When too much is written retention matters most.
async def test_records_are_trimmed_also_when_the_queue_of_writes_is_full(
    keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    await keeper.write("a")
    keeper.clock.ms += DAY_MS + 1
    monkeypatch.setattr(commit, "QUEUE_OPERATIONS_MAX", 1)
    keeper.engine.journal.hold()
    waiting = [keeper.engine.committer.submit([Do(does=lambda _: None)]) for _ in range(1)]
    keeping_up = asyncio.create_task(keeper.round())
    await keeper.engine.journal.sync_begun(3)
    keeper.engine.journal.release()
    await asyncio.wait_for(asyncio.gather(keeping_up, *waiting), TIMEOUT_S)
    assert keeper.held() == 0


async def test_ranges_that_are_dropped_do_not_overlap(keeper: Keeper) -> None:
    for turn in range(3):
        await keeper.write(str(turn))
        keeper.clock.ms += DAY_MS + 1
        await keeper.round()
    ranges = [
        (begin_, end)
        for entry in keeper.engine.journal.entries
        for family, begin_, end in entry.range_deletes
        if family is Family.LOG
    ]
    assert len(ranges) == 3
    # The last block of one may be dropped by the next once more.
    for (_, end), (following, _) in pairwise(ranges):
        assert int.from_bytes(end[8:], "big") - 1 == int.from_bytes(following[8:], "big")


ROLL_MS = 4 * HOUR_MS


async def test_a_shard_with_records_is_rolled_after_four_hours_and_one_without_is_not(keeper: Keeper) -> None:
    await keeper.settings(roll_seconds=ROLL_MS // 1000, min_shards=1, max_shards=1)
    keeper.clock.ms += ROLL_MS
    await keeper.round()
    assert keeper.shard_count() == 1
    await keeper.write("a", "b")
    await keeper.round()
    parent, child = keeper.shard(0), keeper.shard(1)
    assert (parent.is_open, child.is_open, child.parent_ids) == (False, True, [parent.shard_id])
    assert (child.first_hash, child.last_hash) == (parent.first_hash, parent.last_hash)
    await keeper.round()
    keeper.clock.ms += ROLL_MS
    await keeper.round()
    assert keeper.shard_count() == 2
    await keeper.write("c")
    await keeper.round()
    assert keeper.shard_count() == 3
    assert keeper.held() == 3


async def test_a_shard_whose_records_are_all_trimmed_is_not_rolled(keeper: Keeper) -> None:
    await keeper.write("a")
    keeper.clock.ms += DAY_MS + 1
    await keeper.settings(roll_seconds=60)
    await keeper.round()
    assert keeper.shard_count() == 1


# A clock that jumps makes a shard older than it is, once; what follows it is as young as the jump.
async def test_a_clock_that_jumps_rolls_each_shard_at_most_once(keeper: Keeper) -> None:
    await keeper.settings(roll_seconds=ROLL_MS // 1000, retention_seconds=365 * 86_400)
    await keeper.write("a")
    for jump_ms in (90 * DAY_MS, -90 * DAY_MS, 90 * DAY_MS, -DAY_MS, DAY_MS, -89 * DAY_MS):
        keeper.clock.ms += jump_ms
        for _ in range(3):
            await keeper.write("a")
            await keeper.round()
        assert keeper.shard_count() == 2
    keeper.clock.ms = NOON_MS + 91 * DAY_MS
    await keeper.round()
    assert keeper.shard_count() == 3
    # A write that changes nothing makes no record.
    assert keeper.held() == 7


async def test_a_busy_node_that_cannot_roll_now_does_so_in_a_later_round(
    keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object) -> None:
        raise ThrottlingError("Too many writes are waiting", retry_after_ms=50)

    await keeper.settings(roll_seconds=60)
    await keeper.write("a")
    keeper.clock.ms += HOUR_MS
    with monkeypatch.context() as patch:
        patch.setattr(keeper.engine.committer, "change", refuse)
        await keeper.round()
    assert keeper.shard_count() == 1
    await keeper.round()
    assert keeper.shard_count() == 2


# Records were once held as long as a clock had been ahead: their times stood still, and retention went by the clock.
async def test_what_a_clock_ahead_has_dated_is_trimmed_when_it_is_old_enough(keeper: Keeper, clock: FakeClock) -> None:
    clock.ms += 30 * DAY_MS
    await keeper.write("a", "b")
    clock.ms = NOON_MS
    await keeper.write("c")
    # The times of the records go on at half the speed of the clock.
    clock.ms += 2 * DAY_MS - HOUR_MS
    await keeper.round()
    assert keeper.held() == 3
    clock.ms += 2 * HOUR_MS
    await keeper.write("d")
    await keeper.round()
    assert keeper.held() == 1
