"""client.consume: batches, acks, and joining again when the connection breaks."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

import grpc
import pytest

import headrace
from headrace.v1 import consumer_service_pb2 as pb
from headrace.v1 import record_pb2
from tests.client.conftest import Connect
from tests.client.fake_broker import abort, fake_broker

SHARD = "shardId-00000001700000000000-0a1b2c3d"


def seq(number: int) -> str:
    return f"{number:021d}"


class Group:
    """A consumer group with one shard: sends what is not acked one record at a time; breaks after some records."""

    def __init__(self, numbers: list[int], *, breaks_after: list[int]) -> None:
        self.starts: list[pb.ConsumeStart] = []
        self.checkpoint = 0
        self._numbers = numbers
        self._breaks_after = breaks_after

    async def consume(self, requests: object, context: Any) -> None:
        del requests
        self.starts.append((await context.read()).start)
        await context.write(pb.ConsumeResponse(started=pb.ConsumeStarted(stream_arn="arn", region="local-1")))
        epoch = len(self.starts)
        for number in [number for number in self._numbers if number > self.checkpoint]:
            await context.write(
                pb.ConsumeResponse(
                    shard_id=SHARD,
                    lease_epoch=epoch,
                    sequence_number=seq(number),
                    records=[record_pb2.Record(sequence_number=seq(number))],
                )
            )
            if number in self._breaks_after:
                self._breaks_after.remove(number)
                await abort(context, grpc.StatusCode.UNAVAILABLE, message="draining")
            request = await context.read()
            if request is grpc.aio.EOF:
                return
            self.checkpoint = int(request.ack.sequence_number)
            await context.write(
                pb.ConsumeResponse(
                    shard_id=SHARD,
                    lease_epoch=epoch,
                    sequence_number=request.ack.sequence_number,
                    checkpointed=pb.Checkpointed(),
                )
            )
        await context.read()


@pytest.mark.parametrize("durable", [False, True])
async def test_what_was_not_acked_comes_again_after_the_connection_broke(connect: Connect, *, durable: bool) -> None:
    group = Group([1, 2, 3, 4], breaks_after=[2, 4])
    received: list[tuple[str, int, bool]] = []
    async with (
        fake_broker(Consume=group.consume) as endpoint,
        connect(endpoint) as client,
        aclosing(client.consume("flights", group="g", member="m")) as batches,
    ):
        async for batch in batches:
            (record,) = batch.records
            is_acked = await batch.ack(durable=durable)
            received.append((record.sequence_number, batch.lease_epoch, is_acked))
            if is_acked and record.sequence_number == seq(4):
                break
    acked = [number for number, _, is_acked in received if is_acked]
    assert acked == [seq(1), seq(2), seq(3), seq(4)] or not durable
    assert [number for number, _, _ in received][-1] == seq(4)
    # Nothing is skipped: each batch is the one after the last that the broker has as acked, or comes again.
    assert {number for number, _, _ in received} == {seq(1), seq(2), seq(3), seq(4)}
    assert [number for number, _, _ in received] == sorted(number for number, _, _ in received)
    assert group.starts == [
        pb.ConsumeStart(
            table_name="flights",
            group_name="g",
            member_name="m",
            starting_position=pb.STARTING_POSITION_TRIM_HORIZON,
            max_batch_records=1_000,
            max_in_flight_records=10_000,
        )
    ] * len(group.starts)
    assert len(group.starts) >= 2


async def test_a_group_that_cannot_be_joined_raises_at_once(connect: Connect) -> None:
    async def consume(requests: object, context: Any) -> None:
        del requests
        await abort(context, grpc.StatusCode.NOT_FOUND, "RESOURCE_NOT_FOUND")

    async with fake_broker(Consume=consume) as endpoint, connect(endpoint) as client:
        with pytest.raises(headrace.ResourceNotFoundError):
            await anext(client.consume("flights", group="g"))


# A wrong endpoint must show, not be tried for a quarter of an hour.
async def test_a_broker_that_never_was_there_is_unavailable_at_once(connect: Connect) -> None:
    async with connect("127.0.0.1:1") as client:
        with pytest.raises(headrace.UnavailableError):
            await anext(client.consume("flights", group="g"))


async def test_a_gap_ends_consuming(connect: Connect) -> None:
    async def consume(requests: object, context: Any) -> None:
        del requests
        await context.read()
        await context.write(pb.ConsumeResponse(started=pb.ConsumeStarted()))
        await abort(context, grpc.StatusCode.OUT_OF_RANGE, "TRIMMED_DATA_ACCESS", metadata={"lost_from": seq(1)})

    async with fake_broker(Consume=consume) as endpoint, connect(endpoint) as client:
        with pytest.raises(headrace.TrimmedDataAccessError) as gap:
            await anext(client.consume("flights", group="g"))
    assert gap.value.metadata == {"lost_from": seq(1)}


async def test_a_fenced_member_joins_again_to_stand_by(connect: Connect) -> None:
    joined = 0

    async def consume(requests: object, context: Any) -> None:
        nonlocal joined
        del requests
        joined += 1
        await context.read()
        await context.write(pb.ConsumeResponse(started=pb.ConsumeStarted()))
        if joined == 1:
            await abort(context, grpc.StatusCode.ABORTED, "LEASE_FENCED")
        await context.write(
            pb.ConsumeResponse(shard_id=SHARD, lease_epoch=2, sequence_number=seq(1), records=[record_pb2.Record()])
        )
        await context.read()

    async with (
        fake_broker(Consume=consume) as endpoint,
        connect(endpoint) as client,
        aclosing(client.consume("flights", group="g")) as batches,
    ):
        assert (await anext(batches)).lease_epoch == 2
    assert joined == 2
