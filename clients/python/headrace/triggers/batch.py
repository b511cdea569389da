"""Cuts what a consumer session delivers into the batches a function is called with."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from headrace.consumer import Delivery
from headrace.triggers.event import EventBuilder
from headrace.v1 import record_pb2

# How much may wait to be batched; one delivery more is let in. Beyond it the session is not read, and HTTP/2 holds the
# broker back.
WAITING_BYTES_MAX: Final = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Records of one shard, in order, as one event."""

    event: bytes
    record_count: int
    last_record_time_ms: int
    """When the newest of its records was written."""
    position: Delivery
    """What to ack when the batch is processed."""


class BatchQueue:
    """Deliveries in, batches out, in order. A batch takes what is there at once, up to `batch_size` records."""

    def __init__(
        self, *, stream_arn: str, region: str, batch_size: int, waiting_bytes_max: int = WAITING_BYTES_MAX
    ) -> None:
        self._stream_arn = stream_arn
        self._region = region
        self._batch_size = batch_size
        self._waiting_bytes_max = waiting_bytes_max
        self._waiting: deque[Delivery] = deque()
        self._waiting_bytes = 0
        self._has_changed = asyncio.Condition()

    @property
    def is_full(self) -> bool:
        """Whether the next put() would wait."""
        return self._waiting_bytes >= self._waiting_bytes_max

    async def put(self, delivery: Delivery) -> None:
        """Adds a delivery; waits while too much is there already."""
        async with self._has_changed:
            await self._has_changed.wait_for(lambda: not self.is_full)
            self._waiting.append(delivery)
            self._waiting_bytes += _size_bytes(delivery.records)
            self._has_changed.notify_all()

    async def take(self) -> Batch:
        """The next batch; waits for its first record only. Cancelling it loses nothing."""
        async with self._has_changed:
            await self._has_changed.wait_for(lambda: self._waiting)
            batch = self._form()
            self._has_changed.notify_all()
            return batch

    def _form(self) -> Batch:
        event = EventBuilder(stream_arn=self._stream_arn, region=self._region)
        first = position = self._waiting[0]
        is_full = False
        while self._waiting and not is_full:
            delivery = self._waiting[0]
            # AWS: all records of an event come from one shard. A newer lease is acked by itself.
            if (delivery.shard_id, delivery.lease_epoch) != (first.shard_id, first.lease_epoch):
                break
            taken = 0
            for record in delivery.records:
                is_full = event.record_count == self._batch_size or not event.add(record)
                if is_full:
                    break
                taken += 1
            if taken == 0:
                break
            position = self._take_records(taken)
        return Batch(
            event=event.build(),
            record_count=event.record_count,
            last_record_time_ms=position.records[-1].approximate_creation_date_time.ToMilliseconds(),
            position=position,
        )

    def _take_records(self, count: int) -> Delivery:
        """Takes the first records of the first delivery; what is left of it stays first."""
        delivery = self._waiting.popleft()
        records = delivery.records[:count]
        self._waiting_bytes -= _size_bytes(records)
        if count == len(delivery.records):
            return delivery
        self._waiting.appendleft(replace(delivery, records=delivery.records[count:]))
        return replace(delivery, records=records, sequence_number=records[-1].sequence_number)


def _size_bytes(records: Sequence[record_pb2.Record]) -> int:
    return sum(record.size_bytes for record in records)
