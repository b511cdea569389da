"""ConsumerSession against a scripted broker: what is sent, what is waited for, what is raised."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from headrace import errors
from headrace._channel import open_async_channel, open_channel
from headrace._sync.consumer import ConsumerSession as ThreadsSession
from headrace.consumer import ConsumerSession
from headrace.v1 import consumer_service_pb2 as pb
from headrace.v1 import error_pb2, record_pb2
from tests.client.fake_broker import Script, abort, fake_broker

SHARD = "shardId-00000001700000000000-0a1b2c3d"
ARN = "arn:aws:dynamodb:local-1:000000000000:table/flights/stream/2024-01-01T00:00:00.000"


def seq(number: int) -> str:
    return f"{number:021d}"


STARTED = pb.ConsumeResponse(started=pb.ConsumeStarted(stream_arn=ARN, region="local-1"))
HEARTBEAT = pb.ConsumeResponse()


def assigned(epoch: int = 1, shard_id: str = SHARD) -> pb.ConsumeResponse:
    return pb.ConsumeResponse(shard_id=shard_id, lease_epoch=epoch, assigned=pb.ShardAssigned())


def records(*numbers: int, epoch: int = 1, shard_id: str = SHARD) -> pb.ConsumeResponse:
    return pb.ConsumeResponse(
        shard_id=shard_id,
        lease_epoch=epoch,
        sequence_number=seq(numbers[-1]),
        millis_behind_latest=7,
        records=[record_pb2.Record(sequence_number=seq(number)) for number in numbers],
    )


def checkpointed(number: int) -> pb.ConsumeResponse:
    return pb.ConsumeResponse(
        shard_id=SHARD, lease_epoch=1, sequence_number=seq(number), checkpointed=pb.Checkpointed()
    )


def shard_ended(number: int) -> pb.ConsumeResponse:
    return pb.ConsumeResponse(
        shard_id=SHARD, lease_epoch=1, sequence_number=seq(number), shard_ended=pb.ShardEnded(child_shard_ids=["c"])
    )


@asynccontextmanager
async def broker_session(consume: Script, **options: Any) -> AsyncIterator[ConsumerSession]:
    """A session of the group "g" with a broker that answers Consume by this script."""
    options = {"table_name": "flights", **options}
    async with (
        fake_broker(Consume=consume) as endpoint,
        open_async_channel(endpoint) as channel,
        ConsumerSession(channel, group_name="g", **options) as session,
    ):
        yield session


@asynccontextmanager
async def session_with(script: Callable[[Any], Awaitable[None]]) -> AsyncIterator[ConsumerSession]:
    """A session whose broker runs `script` after it has answered the start, then waits for the client to leave."""

    async def consume(requests: object, context: Any) -> None:
        del requests
        assert (await context.read()).WhichOneof("kind") == "start"
        await context.write(STARTED)
        await script(context)
        while await context.read() is not grpc.aio.EOF:
            pass

    async with broker_session(consume) as session:
        yield session


async def test_entering_sends_the_start_and_learns_the_stream() -> None:
    starts: list[pb.ConsumeStart] = []

    async def consume(requests: object, context: Any) -> None:
        del requests
        starts.append((await context.read()).start)
        await context.write(STARTED)

    async with broker_session(
        consume,
        table_name="",
        stream_arn=ARN,
        starting_position="AFTER_SEQUENCE_NUMBER",
        starting_sequence_number=seq(5),
        member_name="m",
        max_batch_records=10,
        max_in_flight_records=20,
        revoke_timeout_s=300,
    ) as session:
        assert (session.stream_arn, session.region, session.is_standby) == (ARN, "local-1", False)
    assert starts == [
        pb.ConsumeStart(
            stream_arn=ARN,
            group_name="g",
            member_name="m",
            starting_position=pb.STARTING_POSITION_AFTER_SEQUENCE_NUMBER,
            starting_sequence_number=seq(5),
            max_batch_records=10,
            max_in_flight_records=20,
            assignment_mode=pb.ASSIGNMENT_MODE_SHARED,
            on_gap=pb.GAP_POLICY_FAIL,
            revoke_timeout_in_seconds=300,
        )
    ]


async def test_deliveries_come_in_order_and_heartbeats_do_not_show() -> None:
    async def script(context: Any) -> None:
        for response in (assigned(), HEARTBEAT, records(1, 2), HEARTBEAT, records(3)):
            await context.write(response)

    async with session_with(script) as session:
        first, second = await anext(session), await anext(session)
    assert [record.sequence_number for record in first.records] == [seq(1), seq(2)]
    assert (first.shard_id, first.lease_epoch, first.sequence_number, first.millis_behind_latest) == (
        SHARD,
        1,
        seq(2),
        7,
    )
    assert second.sequence_number == seq(3)


async def test_an_ack_names_shard_epoch_and_position() -> None:
    acks: list[pb.ConsumeAck] = []

    async def script(context: Any) -> None:
        await context.write(assigned(9))
        await context.write(records(1, 2, epoch=9))
        acks.append((await context.read()).ack)

    async with session_with(script) as session:
        await session.ack(await anext(session))
    assert acks == [pb.ConsumeAck(shard_id=SHARD, lease_epoch=9, sequence_number=seq(2))]


async def test_a_durable_ack_waits_for_its_checkpoint_and_keeps_what_arrives_meanwhile() -> None:
    confirmed: list[bool] = []

    async def script(context: Any) -> None:
        await context.write(assigned())
        await context.write(records(1))
        await context.read()
        for response in (records(2), checkpointed(0), records(3)):
            await context.write(response)
        confirmed.append(True)
        await context.write(checkpointed(1))

    async with session_with(script) as session:
        delivery = await anext(session)
        await session.ack(delivery, durable=True)
        assert confirmed == [True]
        assert [(await anext(session)).sequence_number for _ in range(2)] == [seq(2), seq(3)]


async def test_acks_and_iteration_may_run_in_different_tasks() -> None:
    async def script(context: Any) -> None:
        await context.write(assigned())
        for number in range(1, 51):
            await context.write(records(number))
        for _ in range(50):
            await context.write(checkpointed(int((await context.read()).ack.sequence_number)))

    async with session_with(script) as session, asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        for _ in range(50):
            tasks.create_task(session.ack(await anext(session), durable=True))


async def test_a_cancelled_wait_for_a_delivery_loses_nothing() -> None:
    go_on = asyncio.Event()

    async def script(context: Any) -> None:
        await context.write(assigned())
        await go_on.wait()
        await context.write(records(1))

    async with session_with(script) as session:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(session), 0.05)
        go_on.set()
        assert (await anext(session)).sequence_number == seq(1)


# The children of a shard begin only when its end is acked; that must not happen before its last records are.
async def test_the_end_of_a_shard_is_acked_only_after_all_before_it() -> None:
    acks: list[str] = []

    async def script(context: Any) -> None:
        for response in (assigned(), records(1), records(2), shard_ended(9), assigned(shard_id="child")):
            await context.write(response)
        await context.write(records(10, shard_id="child"))
        acks.extend([(await context.read()).ack.sequence_number for _ in range(2)])

    async with session_with(script) as session:
        first, second, _ = [await anext(session) for _ in range(3)]
        await session.ack(first)
        await session.ack(second)
    assert acks == [seq(1), seq(9)]


async def test_the_end_of_a_shard_is_acked_at_once_when_nothing_is_open() -> None:
    acks: list[str] = []

    async def script(context: Any) -> None:
        await context.write(assigned())
        await context.write(shard_ended(9))
        acks.append((await context.read()).ack.sequence_number)
        await context.write(assigned(shard_id="child"))
        await context.write(records(10, shard_id="child"))

    async with session_with(script) as session:
        assert (await anext(session)).shard_id == "child"
    assert acks == [seq(9)]


async def test_an_ack_of_a_lease_that_was_assigned_anew_is_fenced_here() -> None:
    async def script(context: Any) -> None:
        for response in (assigned(1), records(1, epoch=1), assigned(2), records(1, epoch=2)):
            await context.write(response)

    async with session_with(script) as session:
        old, new = await anext(session), await anext(session)
        assert (session.holds(old), session.holds(new)) == (False, True)
        with pytest.raises(errors.LeaseFencedError):
            await session.ack(old)
        with pytest.raises(errors.LeaseFencedError):
            await session.nack(old, seq(1))


def revoked(epoch: int = 1) -> pb.ConsumeResponse:
    return pb.ConsumeResponse(shard_id=SHARD, lease_epoch=epoch, revoked=pb.ShardRevoked())


# Another member has the shard: what it delivered and nobody has looked at must not be processed here too.
async def test_deliveries_of_a_shard_that_was_revoked_are_dropped() -> None:
    async def script(context: Any) -> None:
        for response in (assigned(), assigned(shard_id="other"), records(1), records(2, shard_id="other"), revoked()):
            await context.write(response)
        # Too late, and of a lease that is gone.
        await context.write(records(3))
        await context.write(records(4, shard_id="other"))

    async with session_with(script) as session:
        first = await anext(session)
        second, third = await anext(session), await anext(session)
        assert not session.holds(first)
    assert first.shard_id == SHARD
    assert [(each.shard_id, each.sequence_number) for each in (second, third)] == [("other", seq(2)), ("other", seq(4))]


async def test_a_durable_ack_that_is_refused_is_fenced_and_the_session_goes_on() -> None:
    async def script(context: Any) -> None:
        for response in (assigned(), assigned(shard_id="other"), records(1)):
            await context.write(response)
        await context.read()
        error = error_pb2.Error(code=10, reason="LEASE_FENCED", message="gone")
        await context.write(pb.ConsumeResponse(shard_id=SHARD, lease_epoch=1, sequence_number=seq(1), refused=error))
        await context.write(records(2, shard_id="other"))

    async with session_with(script) as session:
        delivery = await anext(session)
        with pytest.raises(errors.LeaseFencedError):
            await session.ack(delivery, durable=True)
        assert (await anext(session)).shard_id == "other"


async def test_an_ack_that_makes_no_sense_ends_the_session_with_the_reason() -> None:
    async def script(context: Any) -> None:
        for response in (assigned(), records(1)):
            await context.write(response)
        error = error_pb2.Error(code=3, reason="VALIDATION", message="no", metadata={"field": "sequence_number"})
        await context.write(pb.ConsumeResponse(shard_id=SHARD, lease_epoch=1, sequence_number=seq(9), refused=error))

    async with session_with(script) as session:
        await anext(session)
        with pytest.raises(errors.ValidationError) as refused:
            await anext(session)
    assert refused.value.metadata == {"field": "sequence_number"}


async def test_a_nack_names_the_record_and_what_follows_it_is_void_until_the_shard_comes_again() -> None:
    nacks: list[pb.ConsumeNack] = []

    async def script(context: Any) -> None:
        for response in (assigned(), records(1, 2), records(3)):
            await context.write(response)
        nacks.append((await context.read()).nack)
        await context.write(records(4))
        for response in (
            pb.ConsumeResponse(shard_id=SHARD, lease_epoch=1, nacked=pb.Nacked(attempts=1)),
            assigned(2),
            records(2, 3, epoch=2),
        ):
            await context.write(response)

    async with session_with(script) as session:
        delivery, behind = await anext(session), await anext(session)
        await session.nack(delivery, seq(2), reason="TRANSIENT", retry_delay_s=0.25, message="later")
        assert not session.holds(behind)
        again = await anext(session)
    assert (again.lease_epoch, again.sequence_number) == (2, seq(3))
    (nack,) = nacks
    assert (nack.shard_id, nack.lease_epoch, nack.sequence_number) == (SHARD, 1, seq(2))
    assert (nack.reason, nack.message) == (pb.NACK_REASON_TRANSIENT, "later")
    assert nack.retry_delay.ToMilliseconds() == 250


def refused(number: int, reason: str) -> pb.ConsumeResponse:
    error = error_pb2.Error(reason=reason, message="no")
    return pb.ConsumeResponse(shard_id=SHARD, lease_epoch=1, sequence_number=seq(number), refused=error)


async def test_a_nack_that_is_fenced_says_so_and_the_session_goes_on() -> None:
    async def script(context: Any) -> None:
        for response in (assigned(), assigned(shard_id="other"), records(1), records(2)):
            await context.write(response)
        assert (await context.read()).HasField("ack")
        assert (await context.read()).HasField("nack")
        # The ack of the same lease is refused too, and is not the answer to the nack.
        for response in (refused(1, "LEASE_FENCED"), refused(2, "LEASE_FENCED"), records(9, shard_id="other")):
            await context.write(response)

    async with session_with(script) as session:
        first, second = await anext(session), await anext(session)
        await session.ack(first)
        for _ in range(2):
            with pytest.raises(errors.LeaseFencedError):
                await session.nack(second, seq(2))
        assert (await anext(session)).shard_id == "other"


# The lease goes on at the broker, but what came under it since the nack is gone here.
async def test_a_nack_of_a_record_that_is_gone_ends_the_session() -> None:
    async def script(context: Any) -> None:
        for response in (assigned(), records(1)):
            await context.write(response)
        await context.read()
        await context.write(refused(1, "VALIDATION"))

    async with session_with(script) as session:
        delivery = await anext(session)
        with pytest.raises(errors.UnavailableError):
            await session.nack(delivery, seq(1))
        with pytest.raises(errors.UnavailableError):
            await anext(session)


# The broker would refuse it too, but then what came after it is dropped here already.
async def test_a_nack_that_makes_no_sense_is_refused_here() -> None:
    async def script(context: Any) -> None:
        for response in (assigned(), records(1), records(2)):
            await context.write(response)

    async with session_with(script) as session:
        first, second = await anext(session), await anext(session)
        await session.ack(first)
        for options, field in (
            ({"sequence_number": seq(1)}, "sequence_number"),
            ({"sequence_number": seq(3)}, "sequence_number"),
            ({"sequence_number": seq(2), "reason": "SOMETIMES"}, "reason"),
            ({"sequence_number": seq(2), "retry_delay_s": 901.0}, "retry_delay_s"),
        ):
            with pytest.raises(errors.ValidationError) as invalid:
                await session.nack(second, **options)
            assert invalid.value.metadata["field"] == field
        assert session.holds(second)


# A number that is sent after a greater one is below the checkpoint, and that would end the session.
async def test_the_acks_of_several_threads_rise() -> None:
    acks: list[int] = []

    async def consume(requests: object, context: Any) -> None:
        del requests
        await context.read()
        await context.write(STARTED)
        await context.write(assigned())
        for number in range(1, 2_001):
            await context.write(records(number))
        while (request := await context.read()) is not grpc.aio.EOF:
            acks.append(int(request.ack.sequence_number))

    def ack_in_threads(endpoint: str) -> None:
        with (
            open_channel(endpoint) as channel,
            ThreadsSession(channel, table_name="flights", group_name="g") as session,
        ):
            deliveries = [next(session) for _ in range(2_000)]
            with ThreadPoolExecutor(8) as pool:
                list(pool.map(session.ack, deliveries))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        async with fake_broker(Consume=consume) as endpoint:
            await asyncio.to_thread(ack_in_threads, endpoint)
    finally:
        sys.setswitchinterval(interval)
    assert acks == sorted(acks)
    assert acks[-1] == 2_000


# Parked keys that are redriven come and end like shards, for as long as a session lives.
async def test_shards_that_have_ended_are_forgotten_in_the_end() -> None:
    count = 1_100

    async def script(context: Any) -> None:
        for number in range(count):
            end = pb.ConsumeResponse(
                shard_id=str(number), lease_epoch=1, sequence_number=seq(1), shard_ended=pb.ShardEnded()
            )
            done = pb.ConsumeResponse(
                shard_id=str(number), lease_epoch=1, sequence_number=seq(1), checkpointed=pb.Checkpointed()
            )
            for response in (assigned(shard_id=str(number)), end, done):
                await context.write(response)
        for response in (assigned(), records(1)):
            await context.write(response)

    async with session_with(script) as session:
        delivery = await anext(session)
        assert session.holds(delivery)
        assert len(session._shards) == 1_024 + 1


async def test_a_gap_is_told_with_the_records_after_it() -> None:
    async def script(context: Any) -> None:
        lost = pb.ShardGap(first_lost_sequence_number=seq(1), last_lost_sequence_number=seq(5))
        lost.lost_from.FromMilliseconds(1_000)
        lost.lost_to.FromMilliseconds(2_000)
        gap = pb.ConsumeResponse(shard_id=SHARD, lease_epoch=1, sequence_number=seq(5), gap=lost)
        for response in (assigned(), gap, records(6), records(7)):
            await context.write(response)

    async with session_with(script) as session:
        first, second = await anext(session), await anext(session)
    assert first.gap is not None
    assert (first.gap.first_lost_sequence_number, first.gap.last_lost_sequence_number) == (seq(1), seq(5))
    assert (first.gap.lost_from.timestamp(), first.gap.lost_to.timestamp()) == (1, 2)
    assert second.gap is None


async def test_a_delivery_says_where_its_records_come_from() -> None:
    async def script(context: Any) -> None:
        await context.write(assigned())
        response = records(1)
        response.source = pb.RECORD_SOURCE_SNAPSHOT
        await context.write(response)

    async with session_with(script) as session:
        assert (await anext(session)).source == "SNAPSHOT"


# The last acks of a consumer that leaves in good order must not be delivered again to the next.
async def test_leaving_lets_the_broker_take_the_last_ack() -> None:
    taken: list[str] = []

    async def consume(requests: object, context: Any) -> None:
        del requests
        await context.read()
        await context.write(STARTED)
        await context.write(assigned())
        await context.write(records(1))
        while (request := await context.read()) is not grpc.aio.EOF:
            taken.append(request.ack.sequence_number)

    async with fake_broker(Consume=consume) as endpoint, open_async_channel(endpoint) as channel:
        async with ConsumerSession(channel, table_name="flights", group_name="g") as session:
            await session.ack(await anext(session))
        assert taken == [seq(1)]


async def test_a_standby_says_so_until_it_holds_a_shard() -> None:
    async def consume(requests: object, context: Any) -> None:
        del requests
        await context.read()
        await context.write(pb.ConsumeResponse(started=pb.ConsumeStarted(stream_arn=ARN, standby=True)))
        await context.write(HEARTBEAT)
        await context.write(assigned())
        await context.write(records(1))
        await context.read()

    async with broker_session(consume) as session:
        assert session.is_standby
        await anext(session)
        assert not session.is_standby


@pytest.mark.parametrize(
    ("code", "reason", "expected"),
    [
        (grpc.StatusCode.NOT_FOUND, "RESOURCE_NOT_FOUND", errors.ResourceNotFoundError),
        (grpc.StatusCode.INVALID_ARGUMENT, "VALIDATION", errors.ValidationError),
        (grpc.StatusCode.UNAVAILABLE, "", errors.UnavailableError),
    ],
)
async def test_a_refused_start_raises_on_entering(
    code: grpc.StatusCode, reason: str, expected: type[errors.HeadraceError]
) -> None:
    async def consume(requests: object, context: Any) -> None:
        del requests
        await abort(context, code, reason)

    async with fake_broker(Consume=consume) as endpoint, open_async_channel(endpoint) as channel:
        with pytest.raises(expected):
            async with ConsumerSession(channel, table_name="flights", group_name="g"):
                pass


async def test_a_session_the_broker_ends_raises_on_reading_and_on_acking() -> None:
    async def consume(requests: object, context: Any) -> None:
        del requests
        await context.read()
        await context.write(STARTED)
        await context.write(assigned())
        await context.write(records(1))
        await abort(context, grpc.StatusCode.UNAVAILABLE, message="draining")

    async with broker_session(consume) as session:
        delivery = await anext(session)
        for _ in range(2):
            with pytest.raises(errors.UnavailableError):
                await anext(session)
        with pytest.raises(errors.UnavailableError):
            await session.ack(delivery)


async def test_no_broker_is_unavailable() -> None:
    async with open_async_channel("127.0.0.1:1") as channel:
        with pytest.raises(errors.UnavailableError):
            async with ConsumerSession(channel, table_name="flights", group_name="g"):
                pass
