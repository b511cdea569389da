"""Reading a shard's log: pages of stored bytes, up to the watermark, and waiting there.

Nothing is queued for a reader: each pulls from its own position, so a slow one costs nothing and loses nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from broker.storage import layout
from broker.storage.rocks import Family

if TYPE_CHECKING:
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
    # The position after the page: pass it as `after` to go on.
    last_sequence_number: int
    # How long ago the last record of the page was written if more are readable now; 0 at the tip.
    millis_behind_latest: int
    # Whether the shard is closed and this page reaches its end.
    is_end: bool


class LogReader:
    """Reads the logs of all shards of a store."""

    def __init__(self, store: Store, watermarks: Watermarks, clock: Clock) -> None:
        self._store = store
        self._watermarks = watermarks
        self._clock = clock
        self.records_total = 0
        self.bytes_total = 0

    def recover(self, stream: Stream) -> None:
        """Sets the watermarks of a stream's shards to what is on disk, when the store is opened."""
        for shard in stream.shards:
            last = self._store.last_before(Family.LOG, layout.log_prefix(shard.id), layout.log_end(shard.id))
            number = 0 if last is None else layout.log_key_sequence_number(last[0])
            self._watermarks.of(shard.id).advance(max(number, shard.ending_sequence_number or 0))

    def tip(self, shard: Shard) -> int:
        """The position just after the newest readable record."""
        return max(self._watermarks.of(shard.id).value, horizon(shard))

    def read(self, shard: Shard, after: int, records_max: int) -> Page:
        """The next page after a position: up to `records_max` records and 512 KiB, but one record if there is one."""
        watermark = self._watermarks.of(shard.id).value
        parts: list[memoryview] = []
        count = size = time_ms = 0
        position = after
        begin, end = layout.log_key(shard.id, after + 1), layout.log_key(shard.id, watermark + 1)
        for _, value in self._store.scan(Family.LOG, begin, end):
            block = layout.Block(value)
            first = block.find(position)
            stop = _fit(block, first, records_max - count, PAGE_BYTES_MAX - size, is_first=count == 0)
            if stop > first:
                part = block.slice(first, stop)
                parts.append(part)
                size += len(part)
                count += stop - first
                position = block.last_sequence_number if stop == block.count else block.sequence_number(stop - 1)
                time_ms = block.time_ms
            # The next block is likely as large as this one, and merely looking at it costs as much as reading it.
            if stop < block.count or _fit(block, 0, records_max - count, PAGE_BYTES_MAX - size, is_first=False) == 0:
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
            last_sequence_number=position,
            millis_behind_latest=max(0, self._clock.now_ms() - time_ms) if has_more else 0,
            is_end=is_closed and not has_more,
        )

    def age_after(self, shard: Shard, after: int) -> int:
        """How long ago the first readable record after a position was written, in milliseconds; 0 if there is none."""
        begin = layout.log_key(shard.id, after + 1)
        end = layout.log_key(shard.id, self._watermarks.of(shard.id).value + 1)
        for _, value in self._store.scan(Family.LOG, begin, end):
            return max(0, self._clock.now_ms() - layout.Block(value).time_ms)
        return 0

    async def wait(self, shard: Shard, after: int, timeout_seconds: float) -> bool:
        """Waits until there is something after a position; False if nothing came in time."""
        return await self._watermarks.of(shard.id).past(after, timeout_seconds)


def horizon(shard: Shard) -> int:
    """The position before a shard's first possible record."""
    return shard.starting_sequence_number - 1


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
