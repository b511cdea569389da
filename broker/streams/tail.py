"""Reading a shard's log: pages of stored bytes up to the watermark, how far behind a place is, and what to trim.

Nothing is queued for a reader: each pulls from its own position, so a slow one costs nothing and loses nothing.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, NamedTuple

from broker.model.gaps import TrimmedDataAccessError
from broker.storage import layout
from broker.storage.rocks import Family
from broker.streams.shards import gap_after, horizon

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.model.clock import Clock
    from broker.model.tables import Shard, Stream
    from broker.storage.rocks import Store
    from broker.storage.watermark import Watermarks

PAGE_RECORDS_MAX: Final = 1000
# DynamoDB allows 1 MiB; half of that stays in the processor's caches between being joined and being sent.
PAGE_BYTES_MAX: Final = 512 * 1024
# A block at least this large is not begun by a page that cannot take all of it: it would be read and checked twice.
WHOLE_BLOCK_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Some records of a shard, in order, as stored bytes."""

    # Together they are elements of `repeated Record records = 1`; slices of what is stored, so nothing is copied yet.
    parts: list[memoryview]
    count: int
    size_bytes: int
    # The position after the page: pass it as `after` to go on.
    last_sequence_number: int
    # How long ago the last record of the page was written if more are readable now; 0 at the tip.
    millis_behind_latest: int
    # Whether the shard is closed and this page reaches its end.
    is_end: bool
    # Whether more is readable now after the page.
    has_more: bool = False
    # When the last record of the page was written, in milliseconds since 1970 UTC; 0 if there is none.
    time_ms: int
    # The blocks the parts are of, and which of their records.
    slices: list[tuple[layout.Block, int, int]] = field(repr=False, compare=False)

    def records(self) -> list[tuple[int, bytes]]:
        """Each record's sequence number and bytes, for the rare caller that must look at them one by one."""
        return [record for block, first, stop in self.slices for record in block.records(first, stop)]


def empty_page(after: int, *, is_end: bool) -> Page:
    """A page without records, at a position."""
    return Page(
        parts=[],
        count=0,
        size_bytes=0,
        last_sequence_number=after,
        millis_behind_latest=0,
        is_end=is_end,
        time_ms=0,
        slices=[],
    )


class Lag(NamedTuple):
    """How far a position is behind the tip."""

    records: int
    # How long ago the first of them was written; 0 if there is none.
    millis: int


class Trim(NamedTuple):
    """A place up to which a shard's log may be dropped."""

    shard: int
    last_sequence_number: int
    # When the last record up to there was written.
    time_ms: int
    payload_bytes: int


class LogReader:
    """Reads the logs of all shards of a store."""

    def __init__(self, store: Store, watermarks: Watermarks, clock: Clock) -> None:
        self._store = store
        self._watermarks = watermarks
        self._clock = clock
        self.records_total = 0
        self.bytes_total = 0
        # The oldest block that each shard was found to hold last time: where it ends, and its time.
        self._oldest: dict[int, tuple[int, int]] = {}

    def recover(self, stream: Stream) -> None:
        """Sets the watermarks of a stream's shards to what is on disk, when the store is opened."""
        for shard in stream.shards:
            last = self._store.last_before(Family.LOG, layout.log_prefix(shard.id), layout.log_end(shard.id))
            number = 0 if last is None else layout.log_key_sequence_number(last[0])
            self._watermarks.of(shard.id).advance(max(number, shard.ending_sequence_number or 0))

    def tip(self, shard: Shard) -> int:
        """The position just after the newest readable record."""
        return max(self._watermarks.of(shard.id).value, horizon(shard))

    def read(self, shard: Shard, after: int, records_max: int, bytes_max: int = PAGE_BYTES_MAX) -> Page:
        """The next page after a position: so many records and bytes at most, but one record if there is one.

        Raises TrimmedDataAccessError if records after the position are no longer held.
        """
        gap = gap_after(shard, after)
        if gap is not None:
            raise TrimmedDataAccessError(gap)
        watermark = self._watermarks.of(shard.id).value
        if after >= watermark:
            return self._nothing(shard, after, watermark)
        parts: list[memoryview] = []
        slices: list[tuple[layout.Block, int, int]] = []
        count = size = time_ms = 0
        position = after
        begin, end = layout.log_key(shard.id, after + 1), layout.log_key(shard.id, watermark + 1)
        for _, value in self._store.scan(Family.LOG, begin, end):
            block = layout.Block(value)
            first = block.find(position)
            stop = _fit(block, first, records_max - count, bytes_max - size, is_first=count == 0)
            if stop > first:
                part = block.slice(first, stop)
                parts.append(part)
                slices.append((block, first, stop))
                size += len(part)
                count += stop - first
                position = block.last_sequence_number if stop == block.count else block.sequence_number(stop - 1)
                time_ms = block.time_ms
            # The next block is likely as large as this one, and merely looking at it costs as much as reading it.
            if stop < block.count or _fit(block, 0, records_max - count, bytes_max - size, is_first=False) == 0:
                break
        else:
            # All that is readable was read: the position may move to the watermark, even over numbers of other shards.
            position = max(position, watermark)
        has_more = position < watermark
        self.records_total += count
        self.bytes_total += size
        is_closed = shard.ending_sequence_number is not None and watermark >= shard.ending_sequence_number
        return Page(
            parts=parts,
            count=count,
            size_bytes=size,
            last_sequence_number=position,
            millis_behind_latest=max(0, self._clock.now_ms() - time_ms) if has_more else 0,
            is_end=is_closed and not has_more,
            has_more=has_more,
            time_ms=time_ms,
            slices=slices,
        )

    def read_wanted(
        self, shard: Shard, after: int, records_max: int, bytes_max: int, is_wanted: Callable[[bytes], bool]
    ) -> Page:
        """As `read`, but only the records that are wanted; each is asked about.

        It looks at no more than one page of the shard, so it may find none though more is readable: the position moves
        over what is not wanted.
        """
        page = self.read(shard, after, PAGE_RECORDS_MAX, bytes_max)
        parts: list[memoryview] = []
        slices: list[tuple[layout.Block, int, int]] = []
        position = time_ms = 0
        is_cut = False
        for block, first, stop in page.slices:
            for index, (number, record) in enumerate(block.records(first, stop), first):
                if not is_wanted(record):
                    continue
                is_cut = len(parts) == records_max
                if is_cut:
                    break
                parts.append(memoryview(record))
                slices.append((block, index, index + 1))
                position, time_ms = number, block.time_ms
            if is_cut:
                break
        wanted = replace(page, parts=parts, slices=slices, count=len(parts), size_bytes=sum(map(len, parts)))
        if not is_cut:
            return wanted
        return replace(
            wanted,
            last_sequence_number=position,
            millis_behind_latest=max(0, self._clock.now_ms() - time_ms),
            is_end=False,
            has_more=True,
            time_ms=time_ms,
        )

    def holds_records(self, shard: Shard) -> bool:
        """Whether an open shard holds a readable record."""
        return self.tip(shard) > horizon(shard)

    @staticmethod
    def _nothing(shard: Shard, after: int, watermark: int) -> Page:
        is_end = shard.ending_sequence_number is not None and watermark >= shard.ending_sequence_number
        return empty_page(after, is_end=is_end)

    def tip_of_stream(self, stream: Stream) -> int:
        """The newest readable number of a whole stream, and at least the last one that was trimmed.

        Not beyond what is durable, as the beginning of a shard may be that was opened a moment ago.
        """
        return max(
            stream.trimmed_to,
            *(max(self._watermarks.of(shard.id).value, shard.trimmed_to) for shard in stream.shards),
        )

    def is_readable_to_its_end(self, shard: Shard) -> bool:
        """Whether a shard is closed, and all its records and its end are durable."""
        ending = shard.ending_sequence_number
        return ending is not None and self._watermarks.of(shard.id).value >= ending

    def lag(self, shard: Shard, after: int) -> Lag:
        """How many readable records follow a position, and how old the first of them is."""
        first = self._first_block(shard, after + 1)
        if first is None:
            return Lag(0, 0)
        records = self._end(shard).records - first.before.records - first.find(after)
        return Lag(records, max(0, self._clock.now_ms() - first.time_ms))

    def retained(self, shard: Shard) -> layout.LogSize:
        """How much of a shard's log is held and readable."""
        first = self._first_block(shard, shard.trimmed_to + 1)
        if first is None:
            return layout.EMPTY_LOG
        end = self._end(shard)
        return layout.LogSize(end.records - first.before.records, end.payload_bytes - first.before.payload_bytes)

    def position_at_time(self, stream: Stream, time_ms: int) -> int:
        """The position in a whole stream before the first record not older than a time; -1 for the oldest one held."""
        return max((self.last_before_time(shard, time_ms) for shard in stream.shards), default=-1)

    def last_before_time(self, shard: Shard, time_ms: int) -> int:
        """The last record of a shard that is older than a time; -1 if none is held."""
        block = self._last_block(shard, lambda block: block.time_ms < time_ms)
        return -1 if block is None else block.last_sequence_number

    def trim_by_time(self, shard: Shard, time_ms: int) -> Trim | None:
        """The last place up to which all blocks of a shard are older than a time, if that drops any."""
        held_to, oldest_ms = self._oldest.get(shard.id, (0, 0))
        if held_to > shard.trimmed_to and oldest_ms >= time_ms:
            return None
        first = self._first_block(shard, shard.trimmed_to + 1)
        if first is None:
            return None
        self._oldest[shard.id] = (first.last_sequence_number, first.time_ms)
        if first.time_ms >= time_ms:
            return None
        last = self._last_block(shard, lambda block: block.time_ms < time_ms)
        assert last is not None, "the first block is older"
        return _trim(shard, first, last)

    async def trim_by_bytes(self, stream: Stream, bytes_max: int) -> list[Trim]:
        """Places up to which to drop a stream's oldest records, so that its log holds about so many bytes.

        It cuts all shards at one number, and no block: what is before it goes and what is after it stays, in each.
        """
        firsts = [(shard, self._first_block(shard, shard.trimmed_to + 1)) for shard in stream.shards]
        shards = {shard: first for shard, first in firsts if first is not None}
        ends = {shard: self._end(shard).payload_bytes for shard in shards}
        if sum(ends[shard] - first.before.payload_bytes for shard, first in shards.items()) <= bytes_max:
            return []

        def first_after(shard: Shard, after: int) -> layout.Block | None:
            return self._first_block(shard, max(after, shard.trimmed_to) + 1)

        # The least position in the whole stream after which no more than that is held.
        low, high = -1, self.tip_of_stream(stream)
        while low + 1 < high:
            middle = (low + high) // 2
            after = ((shard, first_after(shard, middle)) for shard in shards)
            held = sum(ends[shard] - block.before.payload_bytes for shard, block in after if block is not None)
            low, high = (low, middle) if held <= bytes_max else (middle, high)
            # Each step costs a read of a block per shard; others get their turn in between.
            await asyncio.sleep(0)
        # Down to where it cuts through no block.
        while cut := [
            block.first_sequence_number
            for shard in shards
            if (block := first_after(shard, high)) is not None and block.first_sequence_number <= high
        ]:
            high = min(cut) - 1
        trims = []
        for shard, first in shards.items():
            last = self._last_block(shard, lambda block: block.last_sequence_number <= high)
            if last is not None:
                trims.append(_trim(shard, first, last))
        return trims

    def forget(self, shard: Shard) -> None:
        """Drops what is kept in memory of a shard that is gone."""
        self._oldest.pop(shard.id, None)
        self._watermarks.forget(shard.id)

    def _end(self, shard: Shard) -> layout.LogSize:
        """How much was appended to a shard up to its last readable block; nothing if it holds none."""
        begin, end = layout.log_prefix(shard.id), layout.log_key(shard.id, self._watermarks.value(shard.id) + 1)
        last = self._store.last_before(Family.LOG, begin, end)
        return layout.EMPTY_LOG if last is None else layout.Block(last[1]).after

    def _first_block(self, shard: Shard, number: int) -> layout.Block | None:
        """The first readable block that holds a record from a number on."""
        begin = layout.log_key(shard.id, number)
        end = layout.log_key(shard.id, self._watermarks.value(shard.id) + 1)
        for _, value in self._store.scan(Family.LOG, begin, end):
            return layout.Block(value)
        return None

    def _last_block(self, shard: Shard, holds: Callable[[layout.Block], bool]) -> layout.Block | None:
        """The last readable block for which something holds that, once it does not, does not for any later one."""
        found = None
        low, high = shard.trimmed_to + 1, self._watermarks.of(shard.id).value
        while low <= high:
            middle = (low + high) // 2
            block = self._first_block(shard, middle)
            if block is None:
                high = middle - 1
            elif holds(block):
                found, low = block, block.last_sequence_number + 1
            else:
                # All earlier blocks end before the middle, and before this one begins.
                high = min(middle, block.first_sequence_number) - 1
        return found


def _trim(shard: Shard, first: layout.Block, last: layout.Block) -> Trim:
    size = last.after.payload_bytes - first.before.payload_bytes
    return Trim(shard.id, last.last_sequence_number, last.time_ms, size)


def _fit(block: layout.Block, first: int, records: int, size_bytes: int, *, is_first: bool) -> int:
    """Up to which index of a block a page has room."""
    stop = min(block.count, first + records)
    if first == 0 and stop == block.count and block.payload_bytes <= size_bytes:
        return stop
    if not is_first and block.payload_bytes >= WHOLE_BLOCK_BYTES:
        return first
    offsets = block.offsets()
    start = offsets[first] if first < block.count else block.payload_bytes
    while stop > first:
        end = block.payload_bytes if stop == block.count else offsets[stop]
        if end - start <= size_bytes or (is_first and stop == first + 1):
            break
        stop -= 1
    return stop
