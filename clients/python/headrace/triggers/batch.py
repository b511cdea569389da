"""Cuts what a consumer session delivers into the batches a function is called with."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from headrace.consumer import Delivery
from headrace.triggers.event import EventBuilder


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Records of one shard, in order, as one event."""

    event: bytes
    record_count: int
    first_sequence_number: str
    last_record_time_ms: int
    """When the newest of its records was written."""
    position: Delivery
    """What to ack when the batch is processed."""


class BatchQueue:
    """Deliveries in, batches out: in order within a shard, while the shards that have something take turns.

    A batch takes what is there at once of its shard, up to `batch_size` records. What waits of a lease that is lost is
    dropped, as far as `holds` knows. How much may wait is bounded by the credit of the session.
    """

    def __init__(self, *, stream_arn: str, region: str, batch_size: int, holds: Callable[[Delivery], bool]) -> None:
        self._stream_arn = stream_arn
        self._region = region
        self._batch_size = batch_size
        self._holds = holds
        # By shard, the one whose turn it is first; a shard of which nothing waits is not in it.
        self._waiting: dict[str, deque[Delivery]] = {}
        # By shard: where the batch ended that failed last.
        self._failed_to: dict[str, str] = {}
        self._has_more = asyncio.Event()

    def put(self, delivery: Delivery) -> None:
        """Adds a delivery. What waits of an older lease of its shard comes again under the newer one."""
        deliveries = self._waiting.setdefault(delivery.shard_id, deque())
        if deliveries and deliveries[-1].lease_epoch != delivery.lease_epoch:
            deliveries.clear()
        deliveries.append(delivery)
        self._has_more.set()

    def keep_together(self, batch: Batch) -> None:
        """Says that a batch has failed: when its records are delivered again, later ones do not join them."""
        self._failed_to[batch.position.shard_id] = batch.position.sequence_number

    async def take(self) -> Batch:
        """The next batch; waits for its first record only. Cancelling it loses nothing."""
        while (shard_id := self._next_shard()) is None:
            self._has_more.clear()
            await self._has_more.wait()
        deliveries = self._waiting.pop(shard_id)
        batch = self._form(deliveries)
        if deliveries:
            self._waiting[shard_id] = deliveries
        return batch

    def _next_shard(self) -> str | None:
        """The shard whose turn it is, if anything waits; drops what is lost."""
        for shard_id, deliveries in list(self._waiting.items()):
            if not self._holds(deliveries[0]):
                del self._waiting[shard_id]
        return next(iter(self._waiting), None)

    def _form(self, waiting: deque[Delivery]) -> Batch:
        event = EventBuilder(stream_arn=self._stream_arn, region=self._region)
        position = waiting[0]
        first_sequence_number = position.records[0].sequence_number
        failed_to = self._failed_to.pop(position.shard_id, "")
        # Records that have come since the batch failed do not join it.
        is_again = first_sequence_number <= failed_to
        is_full = False
        while waiting and not is_full:
            taken = 0
            for record in waiting[0].records:
                is_full = (
                    event.record_count == self._batch_size
                    or (is_again and record.sequence_number > failed_to)
                    or not event.add(record)
                )
                if is_full:
                    break
                taken += 1
            if taken == 0:
                break
            position = _take_records(waiting, taken)
        if is_again and position.sequence_number < failed_to:
            # Only its first part is here; the rest comes alone, too.
            self._failed_to[position.shard_id] = failed_to
        return Batch(
            event=event.build(),
            record_count=event.record_count,
            first_sequence_number=first_sequence_number,
            last_record_time_ms=position.records[-1].approximate_creation_date_time.ToMilliseconds(),
            position=position,
        )


def _take_records(waiting: deque[Delivery], count: int) -> Delivery:
    """Takes the first records of the first delivery; what is left of it stays first."""
    delivery = waiting.popleft()
    if count == len(delivery.records):
        return delivery
    records = delivery.records[:count]
    waiting.appendleft(replace(delivery, records=delivery.records[count:]))
    return replace(delivery, records=records, sequence_number=records[-1].sequence_number)
