"""The number of shards follows the write rate, within bounds, and does not go back and forth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import count

from hypothesis import given
from hypothesis import strategies as st

from broker.model.tables import Stream, StreamSettings, StreamViewType, Table
from broker.storage.layout import LogSize
from broker.streams.resharding import (
    BUSY_BYTES_PER_SECOND,
    BUSY_RECORDS_PER_SECOND,
    BUSY_SECONDS,
    QUIET_SECONDS,
    QUIET_SHARE,
    Merge,
    Resharding,
    Split,
)
from broker.streams.shards import merge_shards, new_stream, split_shard
from tests.unit.engine import ID, NOON_MS

SECONDS = 10.0
Rate = Callable[[Stream], dict[int, LogSize]]


class Simulation:
    """A stream that is written to at a rate per hash, and resharded as the policy says."""

    def __init__(self, min_shards: int = 1, max_shards: int = 4) -> None:
        self._ids = count(1)
        settings = StreamSettings(min_shards=min_shards, max_shards=max_shards)
        table = Table(
            name="t", id=1, uuid="u", create_time_ms=0, partition_key=ID, sort_key=None, stream_settings=settings
        )
        self.stream = new_stream(table, StreamViewType.KEYS_ONLY, NOON_MS, lambda: next(self._ids), 1, "")
        self._policy = Resharding()
        self._sizes: dict[int, LogSize] = {}
        self._number = 10

    @property
    def open(self) -> int:
        return len(self.stream.open_shards)

    def run(
        self, seconds: float, records_per_second: float, bytes_per_second: float = 0.0, *, only: int | None = None
    ) -> int:
        """Writes evenly for so long, or to one hash; returns how many splits and merges that made."""
        actions = 0
        for _ in range(round(seconds / SECONDS)):
            for shard in self.stream.open_shards:
                share = (shard.last_hash - shard.first_hash + 1) / 2**64 * SECONDS
                if only is not None:
                    share = SECONDS if shard.first_hash <= only <= shard.last_hash else 0.0
                size = self._sizes.get(shard.id, LogSize(0, 0))
                self._sizes[shard.id] = LogSize(
                    size.records + round(records_per_second * share),
                    size.payload_bytes + round(bytes_per_second * share),
                )
            for action in self._policy.observe(self.stream, self._sizes, SECONDS):
                actions += 1
                self._number += 1
                match action:
                    case Split(shard_id):
                        self.stream = split_shard(
                            self.stream, shard_id, None, self._number, NOON_MS, lambda: next(self._ids)
                        )
                    case Merge(shard_id, adjacent):
                        self.stream = merge_shards(
                            self.stream, shard_id, adjacent, self._number, NOON_MS, lambda: next(self._ids)
                        )
            self._policy.forget_all_but({shard.id for shard in self.stream.open_shards})
        return actions


def test_a_shard_that_is_busy_for_long_is_split_and_a_short_burst_changes_nothing() -> None:
    simulation = Simulation()
    simulation.run(SECONDS, BUSY_RECORDS_PER_SECOND)
    assert simulation.run(BUSY_SECONDS - SECONDS, BUSY_RECORDS_PER_SECOND) == 0
    assert simulation.run(SECONDS, 0) == 0
    assert simulation.run(BUSY_SECONDS, BUSY_RECORDS_PER_SECOND) == 1
    assert simulation.open == 2


def test_bytes_make_a_shard_busy_too() -> None:
    simulation = Simulation()
    simulation.run(BUSY_SECONDS + SECONDS, 10, BUSY_BYTES_PER_SECOND)
    assert simulation.open == 2


def test_what_a_shard_held_before_it_was_first_seen_is_no_write_rate() -> None:
    simulation = Simulation()
    simulation._sizes = {simulation.stream.shards[0].id: LogSize(10**9, 10**12)}
    assert simulation.run(BUSY_SECONDS * 3, 1) == 0


def test_how_long_neighbours_were_quiet_before_they_are_first_seen_does_not_count() -> None:
    simulation = Simulation(min_shards=2)
    simulation.stream = replace(simulation.stream, settings=StreamSettings())
    policy, sizes = Resharding(), dict[int, LogSize]()
    assert policy.observe(simulation.stream, sizes, QUIET_SECONDS * 10) == []
    left, right = simulation.stream.open_shards
    assert policy.observe(simulation.stream, sizes, QUIET_SECONDS) == [Merge(left.shard_id, right.shard_id)]


def test_quiet_neighbours_are_merged_after_long() -> None:
    simulation = Simulation()
    simulation.run(300, BUSY_RECORDS_PER_SECOND * 8)
    assert simulation.open == 4
    assert simulation.run(QUIET_SECONDS - SECONDS, 1) == 0
    # Two pairs at once, then what is left of them after as long again.
    assert simulation.run(SECONDS, 1) == 2
    assert simulation.run(QUIET_SECONDS + SECONDS, 1) == 1
    assert simulation.open == 1
    assert simulation.run(QUIET_SECONDS * 3, 0) == 0


@given(st.integers(1, 5), st.integers(0, 5), st.floats(0, 20))
def test_at_a_steady_rate_the_number_of_shards_settles_within_its_bounds(
    min_shards: int, more: int, load: float
) -> None:
    simulation = Simulation(min_shards, min_shards + more)
    for _ in range(12):
        simulation.run(QUIET_SECONDS, load * BUSY_RECORDS_PER_SECOND)
        assert min_shards <= simulation.open <= min_shards + more
    # Whatever it has become, it stays: what a split leaves is not quiet enough to be merged.
    assert simulation.run(QUIET_SECONDS * 4, load * BUSY_RECORDS_PER_SECOND) == 0
    assert QUIET_SHARE < 0.5


def test_equal_bounds_leave_it_to_the_user() -> None:
    simulation = Simulation(2, 2)
    assert simulation.run(QUIET_SECONDS * 2, BUSY_RECORDS_PER_SECOND * 10) == 0
    assert simulation.run(QUIET_SECONDS * 2, 0) == 0


def test_equal_bounds_leave_what_the_user_has_made() -> None:
    simulation = Simulation(1, 4)
    simulation.run(300, BUSY_RECORDS_PER_SECOND * 8)
    assert simulation.open == 4
    simulation.stream = replace(simulation.stream, settings=StreamSettings(min_shards=1, max_shards=1))
    assert simulation.run(QUIET_SECONDS * 4, 0) == 0


# Splitting does not relieve the shard of a hot key, and its empty neighbours are quiet.
def test_a_hot_key_does_not_have_a_stream_split_and_merged_for_ever() -> None:
    simulation = Simulation(1, 4)
    hot = 2**63 + 12_345
    actions = [simulation.run(SECONDS, BUSY_RECORDS_PER_SECOND * 2, only=hot) for _ in range(int(24 * 3600 / SECONDS))]
    assert sum(actions) == 3
    assert simulation.open == 4


def test_a_stream_beyond_its_bounds_is_not_split_further() -> None:
    simulation = Simulation(1, 4)
    simulation.run(300, BUSY_RECORDS_PER_SECOND * 8)
    simulation.stream = replace(simulation.stream, settings=StreamSettings(min_shards=1, max_shards=2))
    assert simulation.run(300, BUSY_RECORDS_PER_SECOND * 8) == 0
    simulation.run(QUIET_SECONDS * 4, 0)
    assert simulation.open == 1


def test_a_disabled_stream_is_left_alone() -> None:
    simulation = Simulation()
    simulation.stream = replace(
        simulation.stream,
        shards=tuple(replace(s, ending_sequence_number=9, closed_time_ms=NOON_MS) for s in simulation.stream.shards),
    )
    assert simulation.run(QUIET_SECONDS, 0) == 0
