"""Follows the source's stream: what is read is sent to the target, what the target has applied is acked at the source.

The order is what makes a crash harmless: a record is acked only after the target said that it is on its disk. What was
applied and not acked comes again and changes nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from headrace.consumer import ConsumerSession, Delivery
from headrace.replication.region import Region
from headrace.replication.report import Reporter
from headrace.replication.send import REQUEST_BYTES_MAX, REQUEST_CHANGES_MAX, ChangeSender
from headrace.replication.tasks import run_together, unless_stopped
from headrace.v1 import record_pb2
from headrace.v1 import replication_service_pb2 as pb

# Deliveries read and not sent yet, each of at most 1 MiB. When they are full the broker waits and makes larger ones.
_DELIVERIES_WAITING_MAX: Final = 16

# How soon a table that was deleted, or whose stream was switched off or made anew, is noticed.
WATCH_INTERVAL_S: Final = 5.0


def wall_clock_ms() -> int:
    """Milliseconds since 1970 UTC."""
    return time.time_ns() // 1_000_000


@dataclass(slots=True)
class Batch:
    """Deliveries that go to the target in one request."""

    records: list[record_pb2.Record] = field(default_factory=list)
    record_bytes: int = 0
    read: int = 0
    # The last delivery of each shard: acking it acks those before.
    last_deliveries: dict[str, Delivery] = field(default_factory=dict)
    last_record: record_pb2.Record | None = None

    @property
    def is_empty(self) -> bool:
        """Whether it has taken no delivery."""
        return not self.last_deliveries

    def has_room_for(self, delivery: Delivery) -> bool:
        """Whether one request can carry this delivery too. One delivery always fits."""
        return self.is_empty or (
            self.read + len(delivery.records) <= REQUEST_CHANGES_MAX
            and self.record_bytes + sum(record.ByteSize() for record in delivery.records) <= REQUEST_BYTES_MAX
        )

    def add(self, delivery: Delivery, *, unwanted_origin: str | None) -> None:
        """Takes the records of a delivery, except those that began in the region `unwanted_origin`.

        Old images are left out: the target has its own, and they may be half of the bytes.
        """
        for record in delivery.records:
            if record.version.origin_region != unwanted_origin:
                record.ClearField("old_image")
                self.records.append(record)
                self.record_bytes += record.ByteSize()
        self.read += len(delivery.records)
        self.last_deliveries[delivery.shard_id] = delivery
        self.last_record = delivery.records[-1]


class Follower:
    """Follows one session, until it is stopped or something fails."""

    def __init__(
        self,
        session: ConsumerSession,
        *,
        source: Region,
        target: Region,
        target_table_name: str,
        reporter: Reporter,
        stopping: asyncio.Event,
        check: Callable[[], Awaitable[None]],
        now_ms: Callable[[], int] = wall_clock_ms,
    ) -> None:
        """`check` is awaited now and then, and raises if there is no point in going on."""
        self._session = session
        self._source = source
        self._target = target
        self._target_table_name = target_table_name
        self._reporter = reporter
        self._stopping = stopping
        self._check = check
        self._now_ms = now_ms
        target_region = reporter.progress.target_region
        # Within one region every record began there.
        self._unwanted_origin = target_region if target_region != session.region else None
        self._deliveries: asyncio.Queue[Delivery | None] = asyncio.Queue(_DELIVERIES_WAITING_MAX)

    async def run(self) -> None:
        """Returns when it is stopped and everything it has read is applied, acked and noted."""
        async with self._target.applying() as duplex:
            sender = ChangeSender[Batch](self._target, self._target_table_name, duplex)
            await run_together(self._read(), self._send(sender), self._acknowledge(sender), self._watch())

    async def _read(self) -> None:
        while not self._stopping.is_set():
            with self._source.blamed():
                delivery = await unless_stopped(self._stopping, anext(self._session))
            if delivery is not None:
                await self._deliveries.put(delivery)
        await self._deliveries.put(None)

    async def _send(self, sender: ChangeSender[Batch]) -> None:
        batch = Batch()
        while (delivery := await self._deliveries.get()) is not None:
            if not batch.has_room_for(delivery):
                await self._carry(batch, sender)
                batch = Batch()
            batch.add(delivery, unwanted_origin=self._unwanted_origin)
            # While the target is busy deliveries come together: the further behind, the larger the requests.
            if self._deliveries.empty():
                await self._carry(batch, sender)
                batch = Batch()
        if not batch.is_empty:
            await self._carry(batch, sender)
        await sender.finish()

    async def _carry(self, batch: Batch, sender: ChangeSender[Batch]) -> None:
        if batch.records:
            await sender.send(pb.ApplyChangesRequest(records=batch.records), batch)
        else:
            await sender.pass_on(batch)

    async def _acknowledge(self, sender: ChangeSender[Batch]) -> None:
        last: Batch | None = None
        async for batch in sender.applied():
            await self._ack(batch, durable=False)
            last = batch
            assert batch.last_record is not None
            created_ms = batch.last_record.approximate_creation_date_time.ToMilliseconds()
            self._reporter.note(
                self._reporter.progress.applied(
                    records=batch.read,
                    last_sequence_number=batch.last_record.sequence_number,
                    lag_ms=max(0, self._now_ms() - created_ms),
                )
            )
        if last is not None:
            # Nobody acks after the last batch, so only here it is worth the wait for the disk.
            await self._ack(last, durable=True)

    async def _ack(self, batch: Batch, *, durable: bool) -> None:
        with self._source.blamed():
            for delivery in batch.last_deliveries.values():
                await self._session.ack(delivery, durable=durable)

    async def _watch(self) -> None:
        while not self._stopping.is_set():
            await self._check()
            await unless_stopped(self._stopping, asyncio.sleep(WATCH_INTERVAL_S))
