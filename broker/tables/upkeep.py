"""What a node does by itself: it trims what is past retention, rolls shards, splits and merges them by write rate."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from broker.encoding.keys import table_prefix
from broker.model.errors import CorruptionError, HeadraceError
from broker.storage import layout
from broker.storage.rocks import Family
from broker.streams.resharding import Merge, Resharding, Split, due_rolls

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.model.clock import Clock
    from broker.model.tables import Stream
    from broker.storage.commit import Committer
    from broker.storage.rocks import Store
    from broker.streams.tail import LogReader, Trim
    from broker.tables.catalog import Catalog

# The disk space of trimmed records is given back after so many bytes of them; RocksDB itself would take its time.
COMPACT_BYTES: Final = 32 * 1024 * 1024

# What holds the items and entries of a table or an index.
_FAMILIES_OF_TABLES: Final = (Family.ITEMS, Family.TOMBSTONES, Family.INDEXES)
_MILLIS_PER_SECOND: Final = 1000

_log: Final = logging.getLogger(__name__)


class Upkeep:
    """The one background task of the tables. A round that fails is logged and followed by the next."""

    def __init__(
        self,
        catalog: Catalog,
        committer: Committer,
        reader: LogReader,
        store: Store,
        clock: Clock,
        forget_stream: Callable[[Stream], None],
    ) -> None:
        """`forget_stream` is told of each stream that has vanished."""
        self._catalog = catalog
        self._committer = committer
        self._reader = reader
        self._store = store
        self._clock = clock
        self._forget_stream = forget_stream
        self._resharding = Resharding()
        # When each stream's write rate was looked at last.
        self._observed_ms: dict[str, int] = {}
        self._compacting: asyncio.Task[None] | None = None
        self._is_stopping = False
        # Trimmed and not given back yet: bytes, and up to where in each shard.
        self._loose_bytes = 0
        self._loose: dict[int, int] = {}
        # Tables and indexes that were dropped, whose space is not given back yet.
        self._dropped: list[int] = []
        self.trimmed_bytes_total = 0

    async def run(self, interval_seconds: float) -> None:
        """Does a round every so many seconds until it is cancelled."""
        try:
            while True:
                await asyncio.sleep(interval_seconds)
                await self.round()
        finally:
            self._is_stopping = True
            if self._compacting is not None:
                # RocksDB must not be closed under it.
                await asyncio.wait((self._compacting,))

    def note_dropped(self, id_: int) -> None:
        """Notes that a table or index is dropped: its disk space is given back after the next round."""
        self._dropped.append(id_)

    async def round(self) -> None:
        """Trims all streams once and looks at their shards once."""
        for stream in self._catalog.streams.all():
            try:
                await self._trim(stream.name)
                await self._roll(stream.name)
                await self._reshard(stream.name)
            except CorruptionError as error:
                # What else there is can still be trimmed.
                _log.error("upkeep of a stream met damaged data stream=%s error=%s", stream.name, error)
            except HeadraceError as error:
                # The node stops, is too busy, or someone deleted what this was about; the next round sees what is.
                _log.warning("upkeep of a stream was not finished stream=%s error=%s", stream.name, error)
            # Each stream costs a few reads; others get their turn in between.
            await asyncio.sleep(0)
        streams = self._catalog.streams.all()
        names = {stream.name for stream in streams}
        self._observed_ms = {name: time_ms for name, time_ms in self._observed_ms.items() if name in names}
        open_shards = {shard.id for stream in streams for shard in stream.open_shards}
        self._resharding.forget_all_but(open_shards)
        self._committer.forget_log_sizes(open_shards)
        if (self._loose_bytes >= COMPACT_BYTES or self._dropped) and (
            self._compacting is None or self._compacting.done()
        ):
            self._compacting = asyncio.create_task(self._compact(), name="compact the log")

    async def _trim(self, name: str) -> None:
        stream = self._catalog.streams.get(name)
        if stream is None:
            return
        # By the clock that the records are dated with: it may be ahead of the node's.
        cutoff_ms = self._committer.clock.now_ms() - stream.settings.retention_seconds * _MILLIS_PER_SECOND
        trims = {trim.shard: trim for shard in stream.shards if (trim := self._reader.trim_by_time(shard, cutoff_ms))}
        bytes_max = stream.settings.retention_bytes
        if bytes_max:
            for trim in await self._reader.trim_by_bytes(stream, bytes_max):
                if trim.shard not in trims or trims[trim.shard].last_sequence_number < trim.last_sequence_number:
                    trims[trim.shard] = trim
        # All records of a shard are older than its end; but only what is durable could be trimmed.
        vanishing = {
            shard.id
            for shard in stream.shards
            if shard.closed_time_ms is not None
            and shard.closed_time_ms < cutoff_ms
            and self._reader.is_readable_to_its_end(shard)
        }
        if not trims and not vanishing:
            return
        for shard in await self._catalog.trim(stream, trims.values(), vanishing):
            self._reader.forget(shard)
        if self._catalog.streams.get(name) is None:
            self._forget_stream(stream)
        self._note(stream, list(trims.values()))

    async def _roll(self, name: str) -> None:
        stream = self._catalog.streams.get(name)
        if stream is None:
            return
        # Shards are made at the time of a group, which never falls: their age is measured by that, not by the clock.
        due = due_rolls(stream, self._committer.now_ms, self._reader.holds_records)
        if due:
            await self._catalog.roll_shards(stream, due)
            _log.debug("rolled shards stream=%s shards=%d", name, len(due))

    async def _reshard(self, name: str) -> None:
        stream, now_ms = self._catalog.streams.get(name), self._clock.now_ms()
        if stream is None:
            return
        since_ms = now_ms - self._observed_ms.get(name, now_ms)
        self._observed_ms[name] = now_ms
        # A clock that went back, or the first look: a rate takes two.
        seconds = max(since_ms, 1) / _MILLIS_PER_SECOND
        for action in self._resharding.observe(stream, self._committer.log_sizes, seconds):
            await self._carry_out(stream, action)

    def _note(self, stream: Stream, trims: list[Trim]) -> None:
        size = sum(trim.payload_bytes for trim in trims)
        self.trimmed_bytes_total += size
        self._loose_bytes += size
        self._loose |= {trim.shard: trim.last_sequence_number for trim in trims}
        if trims:
            _log.debug("trimmed stream=%s shards=%d bytes=%d", stream.name, len(trims), size)

    async def _carry_out(self, stream: Stream, action: Split | Merge) -> None:
        match action:
            case Split(shard_id, starting_hash):
                children = await self._catalog.split_shard(stream, shard_id, starting_hash)
                _log.info("split a busy shard stream=%s shard=%s children=%d", stream.name, shard_id, len(children))
            case Merge(shard_id, adjacent_shard_id):
                await self._catalog.merge_shards(stream, shard_id, adjacent_shard_id)
                _log.info("merged quiet shards stream=%s shards=%s,%s", stream.name, shard_id, adjacent_shard_id)

    async def _compact(self) -> None:
        """Gives back the disk space of what was trimmed: files that hold nothing else are dropped, not rewritten."""
        dropped, self._dropped = self._dropped, []
        for id_ in dropped:
            begin, end = table_prefix(id_), table_prefix(id_ + 1)
            if not all([await self._compact_range(family, begin, end) for family in _FAMILIES_OF_TABLES]):
                self._dropped.append(id_)
        loose, self._loose, self._loose_bytes = self._loose, {}, 0
        for shard, number in loose.items():
            if not await self._compact_range(Family.LOG, layout.log_prefix(shard), layout.log_key(shard, number + 1)):
                self._loose = {shard: number, **self._loose}

    async def _compact_range(self, family: Family, begin: bytes, end: bytes) -> bool:
        """Returns whether it was done."""
        if self._is_stopping:
            return False
        try:
            await asyncio.to_thread(self._store.compact, family, begin, end)
        except Exception:  # noqa: BLE001 - rocksdict has no class of its own for what RocksDB says
            # The disk may be full, just when its space is wanted. The next compaction tries again.
            _log.exception("a part of the store could not be compacted family=%s", family)
            return False
        return True
