"""Records and deliveries as a consumer session gives them, for tests that need no broker."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from typing import Final

from headrace.consumer import Delivery
from headrace.v1 import record_pb2
from headrace.v1.attribute_value_pb2 import AttributeValue, Item

STREAM_ARN: Final = "arn:aws:dynamodb:eu-west-1:123456789012:table/orders/stream/2026-01-05T09:00:00.125"
REGION: Final = "eu-west-1"
WRITTEN_MS: Final = 1_700_000_000_000


def record(number: int, *, text: str = "", size_bytes: int = 100) -> record_pb2.Record:
    """A record whose sequence number is this, written so many milliseconds after WRITTEN_MS."""
    made = record_pb2.Record(
        event_name=record_pb2.EVENT_NAME_INSERT,
        sequence_number=f"{number:021}",
        keys=Item(attributes={"id": AttributeValue(n=str(number))}),
        new_image=Item(attributes={"text": AttributeValue(s=text)}),
        size_bytes=size_bytes,
        stream_view_type=record_pb2.STREAM_VIEW_TYPE_NEW_IMAGE,
    )
    made.approximate_creation_date_time.FromMilliseconds(WRITTEN_MS + number)
    return made


def delivery(
    numbers: Iterable[int],
    *,
    shard: str = "shard-1",
    epoch: int = 1,
    read_to: int | None = None,
    text: str = "",
    size_bytes: int = 100,
) -> Delivery:
    """These records of a shard; `read_to` is the sequence number to ack, that of the last record unless given."""
    records = [record(number, text=text, size_bytes=size_bytes) for number in numbers]
    return Delivery(
        records=records,
        shard_id=shard,
        lease_epoch=epoch,
        sequence_number=records[-1].sequence_number if read_to is None else f"{read_to:021}",
        millis_behind_latest=0,
    )


def numbers(event: bytes) -> list[int]:
    """The sequence numbers of an event's records."""
    return [int(each["dynamodb"]["SequenceNumber"]) for each in json.loads(event)["Records"]]


class FakeSession:
    """A session that gives what the test puts in, until the test breaks it."""

    def __init__(self, *deliveries: Delivery) -> None:
        self.stream_arn = STREAM_ARN
        self.region = REGION
        self.acked: list[tuple[str, int, int, bool]] = []
        # Shard, epoch and number of the record that failed.
        self.nacked: list[tuple[str, int, int]] = []
        self.taken = 0
        # Shards that have moved to another host.
        self.moved: set[str] = set()
        self.ack_error: Exception | None = None
        self._items: asyncio.Queue[Delivery | Exception] = asyncio.Queue()
        for each in deliveries:
            self._items.put_nowait(each)

    def put(self, item: Delivery | Exception) -> None:
        """Gives this next; an exception breaks the session."""
        self._items.put_nowait(item)

    async def _deliveries(self) -> AsyncIterator[Delivery]:
        while True:
            item = await self._items.get()
            if isinstance(item, Exception):
                raise item
            self.taken += 1
            yield item

    def __aiter__(self) -> AsyncIterator[Delivery]:
        return self._deliveries()

    def holds(self, delivery: Delivery) -> bool:
        nacked = {(shard, epoch) for shard, epoch, _ in self.nacked}
        return delivery.shard_id not in self.moved and (delivery.shard_id, delivery.lease_epoch) not in nacked

    async def ack(self, delivery: Delivery, *, durable: bool = False) -> None:
        if self.ack_error is not None:
            raise self.ack_error
        self.acked.append((delivery.shard_id, delivery.lease_epoch, int(delivery.sequence_number), durable))

    async def nack(self, delivery: Delivery, sequence_number: str, *, message: str = "") -> None:
        assert message
        if self.ack_error is not None:
            raise self.ack_error
        self.nacked.append((delivery.shard_id, delivery.lease_epoch, int(sequence_number)))
