"""Makes the target's table equal to the source's as it is now: the first copy, and every copy after a gap.

Both tables are read side by side (headrace.replication.compare) and only differences are sent. With an empty table at
the target that is a plain copy; after a crash it goes on behind the last item that is applied; after a gap it finds
what was deleted at the source meanwhile.

A removal takes care, for it must neither hit an item that the replica is right to have nor outlive a later write:
1. Only an item that began in the source's region is removed. What was written at the replica itself, or came to it from
   a third region, stays.
2. The target is read first, so everything read there was at the source before. The source is asked once more for the
   very key: if it has no such item now, the item was deleted there after it was written.
3. The removal gets the next version after the item's own. The true delete has that or a greater one, and every later
   write of the item a greater one still: so the removal never wins against them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from headrace.replication.compare import Comparison, Difference, Position, Side, key_item
from headrace.replication.region import Region, Snapshot
from headrace.replication.report import Reporter
from headrace.replication.send import ChangeSender, requests_of
from headrace.replication.tasks import run_together, unless_stopped
from headrace.v1 import record_pb2
from headrace.v1 import replication_service_pb2 as pb

# Removals that are checked at the source at a time.
_CHECKS_MAX: Final = 32

_LOGGER: Final = logging.getLogger(__name__)


class Bootstrap:
    """One copy, from where the progress says to the end, or until it is stopped."""

    def __init__(
        self,
        *,
        source: Region,
        source_table_name: str,
        target: Region,
        target_table_name: str,
        key_names: Sequence[str],
        reporter: Reporter,
        stopping: asyncio.Event,
    ) -> None:
        self._source = source
        self._source_table_name = source_table_name
        self._target = target
        self._target_table_name = target_table_name
        self._key_names = tuple(key_names)
        self._reporter = reporter
        self._stopping = stopping
        self._kept = 0

    async def run(self) -> bool:
        """Returns whether the copy is complete; if not it was stopped, and what was sent is applied and noted."""
        start_key = self._reporter.progress.bootstrap_start_key
        # The target's snapshot comes first: see the removals above.
        async with (
            self._target.snapshot(self._target_table_name, start_key) as replica,
            self._source.snapshot(self._source_table_name, start_key) as original,
            self._target.applying() as duplex,
        ):
            sender = ChangeSender[Position | None](self._target, self._target_table_name, duplex)
            comparison = Comparison(self._key_names, start_key=start_key)
            await run_together(self._send(comparison, original, replica, sender), self._note(sender))
        if comparison.next_side is not None:
            return False
        if self._kept:
            _LOGGER.warning(
                "items exist only at the replica and were kept table=%s items=%d", self._target_table_name, self._kept
            )
        return True

    async def _send(
        self, comparison: Comparison, original: Snapshot, replica: Snapshot, sender: ChangeSender[Position | None]
    ) -> None:
        # Within one region nothing tells a copy from an item of the replica's own, and nothing needs to: there a copy
        # begins with an empty table (lifecycle.check_target_is_free).
        removes = original.region_name != replica.region_name
        while (side := comparison.next_side) is not None:
            snapshot = original if side is Side.LEFT else replica
            chunk = await unless_stopped(self._stopping, snapshot.next_chunk())
            if self._stopping.is_set():
                break
            if chunk is None:
                differences = comparison.add(side, (), None)
            else:
                differences = comparison.add(side, chunk.items, chunk.next_start_key)
            removals = await self._removals(differences, original.region_name) if removes else ()
            for request in requests_of(_items(differences), removals):
                await sender.send(request, None)
            await sender.pass_on(comparison.position)
        await sender.finish()

    async def _note(self, sender: ChangeSender[Position | None]) -> None:
        begun = self._reporter.progress
        async for position in sender.applied():
            if position is not None:
                self._reporter.note(
                    begun.copied(start_key=position.start_key or begun.bootstrap_start_key, items=position.left_items)
                )

    async def _removals(self, differences: Sequence[Difference], source_region: str) -> list[record_pb2.Record]:
        alone = [difference.right for difference in differences if difference.left is None]
        extra = [item for item in alone if item is not None and item.version.origin_region == source_region]
        self._kept += len(alone) - len(extra)
        removals: list[record_pb2.Record] = []
        for start in range(0, len(extra), _CHECKS_MAX):
            checked = [removal(item, self._key_names) for item in extra[start : start + _CHECKS_MAX]]
            found = await asyncio.gather(
                *(self._source.has_item(self._source_table_name, record.keys) for record in checked)
            )
            removals += [record for record, is_there in zip(checked, found, strict=True) if not is_there]
        return removals


def removal(item: pb.VersionedItem, key_names: Sequence[str]) -> record_pb2.Record:
    """Removes an item of the source's region, and nothing that was written after it."""
    version = record_pb2.Version(hybrid_time=item.version.hybrid_time + 1, origin_region=item.version.origin_region)
    return record_pb2.Record(
        event_name=record_pb2.EVENT_NAME_REMOVE, keys=key_item(item.item, key_names), version=version
    )


def _items(differences: Sequence[Difference]) -> list[pb.VersionedItem]:
    return [difference.left for difference in differences if difference.left is not None]
