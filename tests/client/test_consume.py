"""client.consume: batches, acks, and joining again when the connection breaks."""

from __future__ import annotations

import asyncio
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
        await context.write(pb.ConsumeResponse(shard_id=SHARD, lease_epoch=epoch, assigned=pb.ShardAssigned()))
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
            assignment_mode=pb.ASSIGNMENT_MODE_SHARED,
            on_gap=pb.GAP_POLICY_FAIL,
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
        await context.write(pb.ConsumeResponse(shard_id=SHARD, lease_epoch=2, assigned=pb.ShardAssigned()))
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


class Requests:
    """A group that sends three records at once, then what each test wants; keeps what it is told."""

    def __init__(self) -> None:
        self.received: list[pb.ConsumeRequest] = []
        self.is_answered = asyncio.Event()

    async def consume(self, requests: object, context: Any) -> None:
        del requests
        await context.read()
        await context.write(pb.ConsumeResponse(started=pb.ConsumeStarted(stream_arn="arn")))
        for epoch in (1, 2):
            await context.write(pb.ConsumeResponse(shard_id=SHARD, lease_epoch=epoch, assigned=pb.ShardAssigned()))
            numbers = (1, 2, 3) if epoch == 1 else (2, 3)
            await context.write(
                pb.ConsumeResponse(
                    shard_id=SHARD,
                    lease_epoch=epoch,
                    sequence_number=seq(3),
                    records=[record_pb2.Record(sequence_number=seq(number)) for number in numbers],
                )
            )
            request = await context.read()
            if request is grpc.aio.EOF:
                return
            self.received.append(request)
            if request.HasField("nack"):
                await context.write(
                    pb.ConsumeResponse(
                        shard_id=SHARD,
                        lease_epoch=epoch,
                        sequence_number=request.nack.sequence_number,
                        nacked=pb.Nacked(attempts=1),
                    )
                )
        self.is_answered.set()
        await context.read()


async def test_a_function_that_fails_at_a_record_nacks_it_and_acks_the_batch_when_it_succeeds() -> None:
    group, seen, failures = Requests(), list[str](), [RuntimeError("no such customer")]

    @headrace.consumes("flights", group="g", per_record=True)
    async def handle(record: headrace.ChangeRecord) -> None:
        if record.sequence_number == seq(2) and failures:
            raise failures.pop()
        seen.append(record.sequence_number)

    assert isinstance(handle, headrace.AsyncConsumerFunction)
    async with (
        fake_broker(Consume=group.consume) as endpoint,
        headrace.AsyncClient(endpoint) as client,
        asyncio.timeout(10),
    ):
        running = asyncio.create_task(handle.run(client))
        await group.is_answered.wait()
        await handle.stop()
        await running
    nack, ack = group.received
    assert (nack.nack.sequence_number, nack.nack.reason) == (seq(2), pb.NACK_REASON_TRANSIENT)
    assert nack.nack.message == "RuntimeError: no such customer"
    assert (ack.ack.sequence_number, ack.ack.lease_epoch) == (seq(3), 2)
    assert seen == [seq(1), seq(2), seq(3)]


async def test_a_function_for_threads_gets_batches_and_a_failed_one_comes_again_whole() -> None:
    group, sizes, failures = Requests(), list[int](), [ValueError("x" * 5_000)]

    @headrace.consumes("flights", group="g")
    def handle(batch: headrace.ConsumerBatch) -> None:
        sizes.append(len(batch.records))
        if failures:
            raise failures.pop()

    assert isinstance(handle, headrace.ConsumerFunction)
    async with fake_broker(Consume=group.consume) as endpoint, asyncio.timeout(10):
        with headrace.Client(endpoint) as client:
            running = asyncio.create_task(asyncio.to_thread(handle.run, client))
            await group.is_answered.wait()
            await asyncio.to_thread(handle.stop)
            await running
    nack, ack = group.received
    assert nack.nack.sequence_number == seq(1)
    assert len(nack.nack.message) == 1_024
    assert ack.ack.sequence_number == seq(3)
    assert sizes == [3, 2]


# What is being processed is acked before the member leaves, and nothing more is begun.
async def test_a_function_may_stop_its_own_run() -> None:
    group, seen = Requests(), list[str]()

    @headrace.consumes("flights", group="g", per_record=True)
    async def handle(record: headrace.ChangeRecord) -> None:
        seen.append(record.sequence_number)
        await handle.stop()

    async with (
        fake_broker(Consume=group.consume) as endpoint,
        headrace.AsyncClient(endpoint) as client,
        asyncio.timeout(10),
    ):
        await handle.run(client)
    assert [request.ack.sequence_number for request in group.received] == [seq(3)]
    assert seen == [seq(1), seq(2), seq(3)]


def test_a_consumer_function_knows_its_options_when_it_is_made() -> None:
    with pytest.raises(TypeError, match="max_attemps"):
        headrace.consumes("flights", group="g", max_attemps=3)


def test_a_consumer_function_can_be_called_by_itself() -> None:
    @headrace.consumes("flights", group="g", start="LATEST")
    def handle(batch: object) -> object:
        return batch

    assert handle("x") == "x"
