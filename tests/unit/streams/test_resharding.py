"""The number of shards follows the write rate, within bounds, and does not go back and forth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.model.tables import OPEN_LANES_MAX, Stream, StreamSettings, StreamViewType, Table
from broker.storage.layout import LogSize
from broker.streams.resharding import (
    BUSY_BYTES_PER_SECOND,
    BUSY_RECORDS_PER_SECOND,
    BUSY_SECONDS,
    QUIET_SECONDS,
    QUIET_SHARE,
    ROLLED_LANES_MAX,
    Merge,
    Resharding,
    Split,
    due_rolls,
    roll_period_seconds,
)
from broker.streams.shards import (
    closed_stream,
    create_time_ms,
    merge_shards,
    new_stream,
    open_lanes,
    roll_shards,
    split_shard,
    trimmed_stream,
)
from tests.unit.engine import ID, NOON_MS

SECONDS = 10.0
Rate = Callable[[Stream], dict[int, LogSize]]


class Simulation:
    """A stream that is written to at a rate per hash, and resharded as the policy says."""

    def __init__(self, min_shards: int = 1, max_shards: int = 4, *, automatic_merges: bool = True) -> None:
        self._ids = count(1)
        settings = StreamSettings(min_shards=min_shards, max_shards=max_shards, automatic_merges=automatic_merges)
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
                    case Split(shard_id, starting_hash):
                        self.stream = split_shard(
                            self.stream, shard_id, starting_hash, self._number, NOON_MS, lambda: next(self._ids)
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
    simulation.stream = replace(simulation.stream, settings=StreamSettings(automatic_merges=True))
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
    simulation.stream = replace(
        simulation.stream, settings=StreamSettings(min_shards=1, max_shards=2, automatic_merges=True)
    )
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


def test_nothing_is_merged_unless_the_table_allows_it() -> None:
    simulation = Simulation(automatic_merges=False)
    simulation.run(300, BUSY_RECORDS_PER_SECOND * 8)
    assert simulation.open == 4
    assert simulation.run(QUIET_SECONDS * 10, 0) == 0
    assert StreamSettings().automatic_merges is False


def test_a_merged_shard_that_is_busy_is_split_where_it_was_merged() -> None:
    simulation = Simulation(1, 2)
    simulation.stream = split_shard(
        simulation.stream, simulation.stream.shards[0].shard_id, 2**62, 5, NOON_MS, lambda: next(simulation._ids)
    )
    simulation.run(QUIET_SECONDS * 2, 0)
    assert simulation.open == 1
    simulation.run(BUSY_SECONDS + SECONDS, BUSY_RECORDS_PER_SECOND * 2)
    assert [shard.first_hash for shard in simulation.stream.open_shards] == [0, 2**62]
    assert open_lanes(simulation.stream) == 2


def test_a_stream_with_as_many_lanes_as_it_may_have_is_split_at_seams_only() -> None:
    simulation = Simulation(1, 64)
    (root,) = simulation.stream.shards
    seams = tuple(range(1, OPEN_LANES_MAX))
    simulation.stream = replace(simulation.stream, shards=(replace(root, seams=seams),))
    simulation.run(3600, BUSY_RECORDS_PER_SECOND * 100)
    assert open_lanes(simulation.stream) == OPEN_LANES_MAX
    # The shard at the end, where all the records come, has no seam any more.
    assert simulation.open == 2


QUARTER = 2**62


@pytest.mark.parametrize(
    ("seam", "second_begins"),
    [
        (QUARTER, QUARTER),
        (3 * QUARTER, 3 * QUARTER),
        # So near to an end that one of the two would be as busy as the whole.
        (QUARTER - 1, 2 * QUARTER),
        (3 * QUARTER + 1, 2 * QUARTER),
        (1, 2 * QUARTER),
    ],
)
def test_a_busy_shard_is_split_at_a_seam_unless_that_is_far_from_its_middle(seam: int, second_begins: int) -> None:
    simulation = Simulation(1, 2)
    (root,) = simulation.stream.shards
    simulation.stream = replace(simulation.stream, shards=(replace(root, seams=(seam,)),))
    simulation.run(60, BUSY_RECORDS_PER_SECOND * 2)
    assert [shard.first_hash for shard in simulation.stream.open_shards] == [0, second_begins]


def rolling(**settings: int) -> Stream:
    made = Simulation(settings.pop("shards", 1), 64).stream
    return replace(made, settings=StreamSettings(**settings))  # type: ignore[arg-type]


FOUR_HOURS_MS = 4 * 60 * 60 * 1000


def test_a_shard_that_holds_records_rolls_when_it_is_four_hours_old() -> None:
    stream = rolling()
    (shard,) = stream.shards
    assert due_rolls(stream, NOON_MS + FOUR_HOURS_MS - 1, lambda _: True) == []
    assert due_rolls(stream, NOON_MS + FOUR_HOURS_MS, lambda _: True) == [shard.shard_id]
    assert due_rolls(stream, NOON_MS + FOUR_HOURS_MS, lambda _: False) == []
    # A clock that was set back makes no shard old.
    assert due_rolls(stream, NOON_MS - FOUR_HOURS_MS, lambda _: True) == []


def test_a_table_says_when_its_shards_roll_and_0_is_never() -> None:
    stream = rolling(roll_seconds=3600)
    (shard,) = stream.shards
    assert due_rolls(stream, NOON_MS + 3_599_999, lambda _: True) == []
    assert due_rolls(stream, NOON_MS + 3_600_000, lambda _: True) == [shard.shard_id]
    assert due_rolls(rolling(roll_seconds=0), NOON_MS + 1000 * FOUR_HOURS_MS, lambda _: True) == []


def test_shards_roll_also_where_their_number_is_left_to_the_user() -> None:
    stream = rolling(shards=3, min_shards=3, max_shards=3)
    assert len(due_rolls(stream, NOON_MS + FOUR_HOURS_MS, lambda _: True)) == 3


@pytest.mark.parametrize(
    ("retention_seconds", "period_seconds"),
    [(30, 60), (360, 60), (366, 61), (3600, 600), (86_399, 14_399), (86_400, 14_400), (7 * 86_400, 14_400)],
)
def test_shards_roll_sooner_where_records_are_held_for_less_than_a_day(
    retention_seconds: int, period_seconds: int
) -> None:
    assert StreamSettings(retention_seconds=retention_seconds).roll_period_seconds == period_seconds


def test_a_disabled_stream_does_not_roll() -> None:
    assert due_rolls(closed_stream(rolling(), 9, NOON_MS), NOON_MS + FOUR_HOURS_MS, lambda _: True) == []


@pytest.mark.parametrize("shards", [1, 4, 64])
@pytest.mark.parametrize("retention_days", [1, 7, 365])
def test_however_long_records_are_held_shards_roll_and_stay_within_their_bound(
    shards: int, retention_days: int
) -> None:
    stream = rolling(shards=shards, retention_seconds=retention_days * 86_400)
    ids, number = count(1000), 100
    retention_ms = stream.settings.retention_seconds * 1000
    step_ms = round(roll_period_seconds(stream) * 250)
    assert (roll_period_seconds(stream) == FOUR_HOURS_MS / 1000) == (
        retention_days == 1 or shards * retention_days <= 64
    )
    now_ms, rolls, longest_ms = NOON_MS, 0, 0
    while now_ms < NOON_MS + 3 * retention_ms:
        now_ms += step_ms
        gone = {
            shard.id
            for shard in stream.shards
            if shard.closed_time_ms is not None and shard.closed_time_ms < now_ms - retention_ms
        }
        stream = trimmed_stream(stream, [], gone)
        due = due_rolls(stream, now_ms, lambda _: True)
        if due:
            longest_ms = max(longest_ms, *(now_ms - create_time_ms(stream.shard(id_)) for id_ in due))  # type: ignore[arg-type]
            number += 1
            stream = roll_shards(stream, due, number, now_ms, lambda: next(ids))
            rolls += len(due)
        assert len(stream.shards) <= ROLLED_LANES_MAX
    assert rolls > shards
    # None had to wait because there was no room, and there is time left to read what it held.
    assert longest_ms <= roll_period_seconds(stream) * 1000 + step_ms
    assert longest_ms < retention_ms / 2


def test_beyond_the_bound_rolling_stops_and_goes_on_when_shards_have_vanished() -> None:
    stream = rolling(shards=2)
    old = stream.open_shards[0]
    closed = [replace(old, id=99 + place, shard_id=f"shardId-{place}") for place in range(ROLLED_LANES_MAX - 3)]
    full = replace(
        stream,
        shards=(*(replace(s, ending_sequence_number=9, closed_time_ms=NOON_MS) for s in closed), *stream.shards),
    )
    # There is room for one of the two.
    due = due_rolls(full, NOON_MS + FOUR_HOURS_MS, lambda _: True)
    assert due == [old.shard_id]
    rolled = roll_shards(full, due, 20, NOON_MS + FOUR_HOURS_MS, lambda: 5000)
    assert due_rolls(rolled, NOON_MS + 9 * FOUR_HOURS_MS, lambda _: True) == []
    assert len(due_rolls(trimmed_stream(rolled, [], {99, 100}), NOON_MS + 9 * FOUR_HOURS_MS, lambda _: True)) == 2
