"""What a node does by itself: it trims what is past retention, and lets the number of shards follow the writes."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from broker.model.errors import HeadraceError
from broker.storage import layout
from broker.storage.rocks import Family
from broker.streams.resharding import Merge, Resharding, Split

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
        self._last_round_ms = clock.now_ms()
        self._compacting: asyncio.Task[None] | None = None
        # Trimmed and not given back yet: bytes, and up to where in each shard.
        self._loose_bytes = 0
        self._loose: dict[int, int] = {}
        self.trimmed_bytes_total = 0

    async def run(self, interval_seconds: float) -> None:
        """Does a round every so many seconds until it is cancelled."""
        try:
            while True:
                await asyncio.sleep(interval_seconds)
                try:
                    await self.round()
                except HeadraceError as error:
                    # The node stops, or someone deleted what this was about; the next round sees what is.
                    _log.warning("a round of upkeep was not finished error=%s", error)
        finally:
            if self._compacting is not None:
                # RocksDB must not be closed under it.
                await asyncio.wait((self._compacting,))

    async def round(self) -> None:
        """Trims all streams once and looks at their shards once."""
        now_ms = self._clock.now_ms()
        seconds = max(now_ms - self._last_round_ms, 1) / _MILLIS_PER_SECOND
        self._last_round_ms = now_ms
        for stream in self._catalog.streams.all():
            await self._trim(stream, now_ms)
            # Each stream costs a few reads; others get their turn in between.
            await asyncio.sleep(0)
        for stream in self._catalog.streams.all():
            for action in self._resharding.observe(stream, self._committer.log_sizes, seconds):
                await self._reshard(stream, action)
        open_shards = {shard.id for stream in self._catalog.streams.all() for shard in stream.open_shards}
        self._resharding.forget_all_but(open_shards)
        self._committer.forget_log_sizes(open_shards)
        if self._loose_bytes >= COMPACT_BYTES and (self._compacting is None or self._compacting.done()):
            self._compacting = asyncio.create_task(self._compact(), name="compact the log")

    async def _trim(self, stream: Stream, now_ms: int) -> None:
        cutoff_ms = now_ms - stream.settings.retention_seconds * _MILLIS_PER_SECOND
        trims = {trim.shard: trim for shard in stream.shards if (trim := self._reader.trim_by_time(shard, cutoff_ms))}
        bytes_max = stream.settings.retention_bytes
        if bytes_max:
            for trim in self._reader.trim_by_bytes(stream, bytes_max):
                if trim.shard not in trims or trims[trim.shard].last_sequence_number < trim.last_sequence_number:
                    trims[trim.shard] = trim
        is_aged = any(shard.closed_time_ms is not None and shard.closed_time_ms < cutoff_ms for shard in stream.shards)
        if not trims and not is_aged:
            return
        gone = await self._catalog.trim(stream, trims.values(), cutoff_ms)
        for shard in gone:
            self._reader.forget(shard)
        if self._catalog.streams.get(stream.name) is None:
            self._forget_stream(stream)
        self._note(stream, list(trims.values()))

    def _note(self, stream: Stream, trims: list[Trim]) -> None:
        size = sum(trim.payload_bytes for trim in trims)
        self.trimmed_bytes_total += size
        self._loose_bytes += size
        self._loose |= {trim.shard: trim.last_sequence_number for trim in trims}
        if trims:
            _log.debug("trimmed stream=%s shards=%d bytes=%d", stream.name, len(trims), size)

    async def _reshard(self, stream: Stream, action: Split | Merge) -> None:
        match action:
            case Split(shard_id):
                children = await self._catalog.split_shard(stream, shard_id, None)
                _log.info("split a busy shard stream=%s shard=%s children=%d", stream.name, shard_id, len(children))
            case Merge(shard_id, adjacent_shard_id):
                await self._catalog.merge_shards(stream, shard_id, adjacent_shard_id)
                _log.info("merged quiet shards stream=%s shards=%s,%s", stream.name, shard_id, adjacent_shard_id)

    async def _compact(self) -> None:
        """Gives back the disk space of what was trimmed: files that hold nothing else are dropped, not rewritten."""
        loose, self._loose, self._loose_bytes = self._loose, {}, 0
        for shard, number in loose.items():
            begin, end = layout.log_prefix(shard), layout.log_key(shard, number + 1)
            await asyncio.to_thread(self._store.compact, Family.LOG, begin, end)
