"""Consumer groups as tests speak to them: a Member is one Consume call, driven step by step.

So who does what when is in the test.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from typing import Any, Final, Self

from headrace.v1 import consumer_service_pb2 as pb
from headrace.v1 import record_pb2
from headrace.v1.consumer_service_pb2 import (
    ConsumeAck,
    ConsumeNack,
    ConsumeRequest,
    ConsumeResponse,
    ConsumeStart,
    DescribeConsumerGroupRequest,
    ExplainConsumerGroupRequest,
)
from tests.rpc import Client, TestTable, batch, put
from tests.values import item

TRIM_HORIZON: Final = pb.STARTING_POSITION_TRIM_HORIZON
LATEST: Final = pb.STARTING_POSITION_LATEST
AFTER_SEQUENCE_NUMBER: Final = pb.STARTING_POSITION_AFTER_SEQUENCE_NUMBER
AT_TIMESTAMP: Final = pb.STARTING_POSITION_AT_TIMESTAMP
SNAPSHOT: Final = pb.STARTING_POSITION_SNAPSHOT
EXCLUSIVE: Final = pb.ASSIGNMENT_MODE_EXCLUSIVE
TRANSIENT: Final = pb.NACK_REASON_TRANSIENT
FATAL: Final = pb.NACK_REASON_FATAL
SHUTDOWN: Final = pb.NACK_REASON_SHUTDOWN


class Member:
    """One Consume call of a group: sends acks, and hands out what arrives."""

    def __init__(self, client: Client, start: ConsumeStart) -> None:
        self._requests: queue.SimpleQueue[ConsumeRequest | None] = queue.SimpleQueue()
        self._requests.put(ConsumeRequest(start=start))
        self._call = client.consumers.Consume(self._sent())
        # The newest lease that was given, and up to where it was read.
        self.shard_id = ""
        self.lease_epoch = 0
        self.read_up_to = ""
        # The epochs of all shards held now.
        self.leases: dict[str, int] = {}

    def _sent(self) -> Iterator[ConsumeRequest]:
        while (request := self._requests.get()) is not None:
            yield request

    def receive(self) -> ConsumeResponse:
        """The next response; the call's deadline bounds the wait."""
        response: ConsumeResponse = next(self._call)
        if response.WhichOneof("event") == "assigned":
            self.shard_id, self.lease_epoch = response.shard_id, response.lease_epoch
            assert response.lease_epoch > self.leases.get(response.shard_id, 0)
            self.leases[response.shard_id] = response.lease_epoch
        if response.WhichOneof("event") == "revoked":
            del self.leases[response.shard_id]
        if response.records:
            assert response.lease_epoch == self.leases[response.shard_id]
            assert response.sequence_number >= response.records[-1].sequence_number
            self.read_up_to = response.sequence_number
        return response

    def started(self) -> pb.ConsumeStarted:
        response = self.receive()
        assert response.WhichOneof("event") == "started", response
        return response.started

    def assigned(self) -> pb.ShardAssigned:
        """Waits until the member holds the shard."""
        while True:
            response = self.receive()
            assert not response.records
            if response.WhichOneof("event") == "assigned":
                return response.assigned

    def records(self, count: int) -> list[record_pb2.Record]:
        """Waits for so many records, exactly."""
        received: list[record_pb2.Record] = []
        while len(received) < count:
            received += self.receive().records
        assert len(received) == count
        return received

    def ack(
        self, sequence_number: str | None = None, *, lease_epoch: int | None = None, shard_id: str | None = None
    ) -> None:
        ack = ConsumeAck(
            shard_id=self.shard_id if shard_id is None else shard_id,
            lease_epoch=self.lease_epoch if lease_epoch is None else lease_epoch,
            sequence_number=self.read_up_to if sequence_number is None else sequence_number,
        )
        self._requests.put(ConsumeRequest(ack=ack))

    def ack_response(self, response: ConsumeResponse) -> None:
        """Says that a response is processed."""
        self.ack(response.sequence_number, shard_id=response.shard_id, lease_epoch=response.lease_epoch)

    def nack(
        self, response: ConsumeResponse, index: int = 0, reason: pb.NackReason.ValueType = TRANSIENT, **more: Any
    ) -> pb.Nacked:
        """Says that one record of a response failed, and waits for the answer."""
        nack = ConsumeNack(
            shard_id=response.shard_id,
            lease_epoch=response.lease_epoch,
            sequence_number=response.records[index].sequence_number,
            reason=reason,
            **more,
        )
        self.send(nack=nack)
        return self.until("nacked").nacked

    def send(self, **kind: Any) -> None:
        """Sends any message."""
        self._requests.put(ConsumeRequest(**kind))

    def until(self, event: str) -> ConsumeResponse:
        """Waits for an event, whatever comes before."""
        while True:
            response = self.receive()
            if response.WhichOneof("event") == event:
                return response

    def batch(self) -> ConsumeResponse:
        """Waits for a response with records."""
        while True:
            response = self.receive()
            if response.records:
                return response

    def finish(self, ends: int) -> list[record_pb2.Record]:
        """Acks everything until so many shards have ended and that is on disk; returns the records."""
        records: list[record_pb2.Record] = []
        ended: dict[tuple[str, int], str] = {}
        while ends:
            response = self.receive()
            event = response.WhichOneof("event")
            if response.records:
                records += response.records
                self.ack_response(response)
            if event == "shard_ended":
                ended[response.shard_id, response.lease_epoch] = response.sequence_number
                self.ack_response(response)
            lease = (response.shard_id, response.lease_epoch)
            if event == "checkpointed" and ended.get(lease) == response.sequence_number:
                del ended[lease]
                ends -= 1
        return records

    def checkpointed(self) -> str:
        """Waits until the broker says that an ack is on disk, and returns the sequence number it names."""
        while True:
            response = self.receive()
            if response.WhichOneof("event") == "checkpointed":
                return response.sequence_number

    def drain(self) -> None:
        """Receives until the call ends."""
        for _ in self._call:
            pass

    def half_close(self) -> None:
        """Says that nothing more will be sent: the orderly way to leave."""
        self._requests.put(None)

    def close(self) -> None:
        """Drops the call, as a member does that crashes."""
        self._requests.put(None)
        self._call.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


Join = Callable[..., Member]


def refusal(member: Member) -> tuple[str, str]:
    """Waits for an ack or nack to be refused; returns the reason and the field."""
    error = member.until("refused").refused
    return error.reason, error.metadata.get("field", "")


def write(client: Client, table: TestTable, first: int, end: int) -> None:
    for start in range(first, end, 1_000):
        client.write_items(batch(table.name, *(put(item(id="a", n=n)) for n in range(start, min(end, start + 1_000)))))


def numbers(records: list[record_pb2.Record]) -> list[int]:
    return [int(record.new_image.attributes["n"].n) for record in records]


def describe(client: Client, group: str) -> pb.ConsumerGroupDescription:
    return client.consumers.DescribeConsumerGroup(DescribeConsumerGroupRequest(group_name=group)).consumer_group


def explain(client: Client, group: str) -> pb.ExplainConsumerGroupResponse:
    return client.consumers.ExplainConsumerGroup(ExplainConsumerGroupRequest(group_name=group))
