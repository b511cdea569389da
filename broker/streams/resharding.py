"""When shards are split, merged and rolled. Pure.

How many shards a stream has follows the write rate, within the table's bounds and with hysteresis. A shard is split
when it alone was busy for half a minute. If the table allows merges, two neighbours are merged when both together were
quiet for ten minutes and no other shard is busy: or a hot key, whose shard splitting does not relieve, would have the
stream split and merged for ever. What is quiet lies far below what is busy, so a stream does not go back and forth.

A shard that holds records and has been open for long is rolled: it is closed, and one over the same hashes follows it.
That is how programs that read closed shards only get their records.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from broker.model.tables import OPEN_LANES_MAX
from broker.streams.shards import create_time_ms, held_lanes, open_lanes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from broker.model.tables import Shard, Stream
    from broker.storage.layout import LogSize

# What a DynamoDB partition, and a Kinesis shard, is said to take is 1,000 writes and 1 MB a second; a shard here takes
# several times that, and every shard costs its readers something.
BUSY_RECORDS_PER_SECOND: Final = 4_000
BUSY_BYTES_PER_SECOND: Final = 4 * 1024 * 1024
BUSY_SECONDS: Final = 30.0
# Two neighbours are quiet when they write less than this part of what makes one busy.
QUIET_SHARE: Final = 0.125
QUIET_SECONDS: Final = 600.0
# Rolls make no more lanes than this, so that there is room for splits and merges. 64 shards that roll every 4 hours and
# are held for 24 fit: 448 are held when a roll is due, and 512 after it.
ROLLED_LANES_MAX: Final = 512
# A seam is far from the middle of a shard beyond this part of its hashes.
_FAR_SHARE: Final = 4
_MILLIS_PER_SECOND: Final = 1000


@dataclass(frozen=True, slots=True)
class Split:
    """One shard becomes two; the second begins at a hash, or in the middle."""

    shard_id: str
    starting_hash: int | None = None


@dataclass(frozen=True, slots=True)
class Merge:
    """Two neighbours become one."""

    shard_id: str
    adjacent_shard_id: str


class Resharding:
    """Watches the logs of all streams; says which shards to split and merge."""

    def __init__(self) -> None:
        # By shard: what had been appended when it was looked at last, and since when it, or it and its right
        # neighbour, have been what they are now.
        self._sizes: dict[int, LogSize] = {}
        self._busy_seconds: dict[int, float] = {}
        self._quiet_seconds: dict[tuple[int, int], float] = {}

    def observe(self, stream: Stream, sizes: Mapping[int, LogSize], seconds: float) -> list[Split | Merge]:
        """What to do about a stream, given what was ever appended to each shard, so many seconds after the last look.

        A shard takes part in one action at most. Open shards stay within the table's bounds, if they were.
        """
        shards = stream.open_shards
        rates = {shard.id: self._rate(shard.id, sizes, seconds) for shard in shards}
        if stream.settings.min_shards == stream.settings.shards_max:
            # Its owner splits and merges.
            return []
        splits_left = stream.settings.shards_max - len(shards)
        lanes_left = OPEN_LANES_MAX - open_lanes(stream)
        merges_left = len(shards) - stream.settings.min_shards if stream.settings.automatic_merges else 0
        actions: list[Split | Merge] = []
        for shard in shards:
            is_busy = rates[shard.id] >= 1
            busy_seconds = self._busy_seconds.get(shard.id, 0.0) + seconds if is_busy else 0.0
            self._busy_seconds[shard.id] = busy_seconds
            seam = _seam_to_split_at(shard, lanes_left)
            can_split = shard.first_hash < shard.last_hash and (lanes_left > 0 or seam is not None)
            if busy_seconds >= BUSY_SECONDS and splits_left > 0 and can_split:
                splits_left -= 1
                lanes_left -= seam is None
                actions.append(Split(shard.shard_id, seam))
        taken = {action.shard_id for action in actions}
        for left, right in pairwise(shards):
            pair = (left.id, right.id)
            is_quiet = rates[left.id] + rates[right.id] < QUIET_SHARE and max(rates.values()) < 1
            # How long they were there before they are seen for the first time is not known.
            quiet_seconds = self._quiet_seconds.get(pair, -seconds) + seconds if is_quiet else 0.0
            self._quiet_seconds[pair] = quiet_seconds
            is_free = taken.isdisjoint((left.shard_id, right.shard_id))
            if quiet_seconds >= QUIET_SECONDS and merges_left > 0 and is_free:
                merges_left -= 1
                taken |= {left.shard_id, right.shard_id}
                actions.append(Merge(left.shard_id, right.shard_id))
        return actions

    def forget_all_but(self, shards: set[int]) -> None:
        """Drops what is known of shards that are no longer open."""
        self._sizes = {shard: size for shard, size in self._sizes.items() if shard in shards}
        self._busy_seconds = {shard: time for shard, time in self._busy_seconds.items() if shard in shards}
        self._quiet_seconds = {pair: time for pair, time in self._quiet_seconds.items() if shards.issuperset(pair)}

    def _rate(self, shard: int, sizes: Mapping[int, LogSize], seconds: float) -> float:
        """A shard's writes since the last look, as a share of what makes it busy; 0 at the first look."""
        size = sizes.get(shard)
        before = self._sizes.get(shard)
        if size is None:
            # Nothing was written to it since the node started.
            return 0.0
        self._sizes[shard] = size
        if before is None:
            return 0.0
        records = (size.records - before.records) / seconds / BUSY_RECORDS_PER_SECOND
        payload = (size.payload_bytes - before.payload_bytes) / seconds / BUSY_BYTES_PER_SECOND
        return max(records, payload)


def due_rolls(stream: Stream, now_ms: int, holds_records: Callable[[Shard], bool]) -> list[str]:
    """The ids of the shards to roll: those that hold records and have been open for as long as the table says.

    `now_ms` must never fall, and shards must be made at such times: then a clock that is set forward has a shard rolled
    once, and one that is set back never.

    Once the stream has as many lanes as rolls may make, nothing is rolled until shards vanish.
    """
    # In most rounds no shard of most streams is due: so what is cheap to tell comes first.
    least_ms = stream.settings.roll_period_seconds * _MILLIS_PER_SECOND
    old = [s for s in stream.shards if s.is_open and least_ms and now_ms - create_time_ms(s) >= least_ms]
    if not old:
        return []
    period_ms = roll_period_seconds(stream) * _MILLIS_PER_SECOND
    room = ROLLED_LANES_MAX - held_lanes(stream)
    due = []
    # The oldest come first, so that none waits for ever when there is no room for all.
    for shard in sorted(old, key=create_time_ms):
        lanes = 1 + len(shard.seams)
        if now_ms - create_time_ms(shard) >= period_ms and lanes <= room and holds_records(shard):
            room -= lanes
            due.append(shard.shard_id)
    return due


def roll_period_seconds(stream: Stream) -> float:
    """How long a stream's shards stay open at least; 0: for ever.

    It is what the table says, or more if so many shards could not be held for as long as the stream's records are.
    """
    settings, lanes = stream.settings, open_lanes(stream)
    if not settings.roll_period_seconds or not lanes:
        return 0
    # For each open lane so many closed ones are held: all but the open one and the one that is about to be made.
    closed_max = ROLLED_LANES_MAX / lanes - 2
    return max(settings.roll_period_seconds, settings.retention_seconds / closed_max)


def _seam_to_split_at(shard: Shard, lanes_left: int) -> int | None:
    """The seam nearest to the middle of a shard; None if it has none, or the middle is better.

    A split at a seam makes no new lane. But one far from the middle leaves nearly all of a busy shard together, so that
    is only for a stream that may have no more lanes.
    """
    middle = (shard.first_hash + shard.last_hash + 1) // 2
    seam = min(shard.seams, key=lambda seam: abs(seam - middle), default=None)
    is_far = seam is not None and abs(seam - middle) > (shard.last_hash - shard.first_hash + 1) // _FAR_SHARE
    return None if is_far and lanes_left > 0 else seam
