"""GetRecords at the tip: what comes while a response is being written, and what is held while nothing comes."""

from __future__ import annotations

import asyncio
from itertools import count
from types import CoroutineType
from typing import Any, cast

import pytest

from broker.encoding.items import canonicalize
from broker.model.errors import ProvisionedThroughputExceededError
from broker.model.tables import Stream, StreamViewType, Throughput
from broker.rpc.response_budget import PAGE_BYTES_MIN, ReaderBudget, ResponseBudget
from broker.rpc.stream_service import StreamService
from broker.streams.iterators import Iterators
from broker.streams.lanes import lanes
from broker.streams.metering import Metering
from broker.streams.tail import PAGE_BYTES_MAX
from broker.tables.capacity import CapacityMetering
from broker.tables.definition import NewTable
from broker.tables.operations import Put
from headrace.v1 import stream_service_pb2 as pb
from tests.unit.engine import ID, TIMEOUT_S, Engine
from tests.values import item


async def put(engine: Engine, key: str, size: int = 10) -> None:
    table = engine.catalog.open_table("pets")
    whole = item(id=key, text="x" * size)
    await engine.committer.commit(Put(table, table.keys.of_item(whole), canonicalize(whole), None))


def stream_of(engine: Engine) -> Stream:
    (stream,) = engine.catalog.streams.all()
    return stream


def hash_of(engine: Engine, key: str) -> int:
    return engine.catalog.open_table("pets").keys.of_item(item(id=key)).hash


@pytest.fixture
async def service(engine: Engine) -> StreamService:
    await engine.table()
    iterators = Iterators(b"s" * 32, engine.clock)
    return StreamService(
        engine.catalog,
        engine.log,
        engine.watermarks,
        iterators,
        Metering(),
        CapacityMetering(engine.clock),
        ResponseBudget(),
    )


class Context:
    """Takes responses; does something while the first is being written."""

    def __init__(self, meanwhile: Any = None) -> None:
        self._meanwhile = meanwhile
        self.responses: list[pb.GetRecordsResponse] = []
        self.wrote = asyncio.Condition()

    async def write(self, response: pb.GetRecordsResponse | bytes) -> None:
        if not self.responses and self._meanwhile is not None:
            await self._meanwhile()
        async with self.wrote:
            whole = pb.GetRecordsResponse.FromString(response) if isinstance(response, bytes) else response
            self.responses.append(whole)
            self.wrote.notify_all()

    async def written(self, responses: int) -> None:
        async with asyncio.timeout(TIMEOUT_S), self.wrote:
            await self.wrote.wait_for(lambda: len(self.responses) >= responses)


def latest() -> pb.GetRecordsRequest:
    return pb.GetRecordsRequest(table_name="pets", shard_iterator_type=pb.SHARD_ITERATOR_TYPE_LATEST, follow=True)


async def test_a_record_that_comes_while_the_first_response_is_written_does_not_wait_for_the_heartbeat(
    engine: Engine, service: StreamService
) -> None:
    context: Any = Context(lambda: put(engine, "a"))
    following = asyncio.create_task(service.GetRecords(latest(), context))
    await context.written(2)
    following.cancel()
    await asyncio.wait({following})
    assert [len(response.records) for response in context.responses] == [0, 1]


async def test_a_subscriber_that_waits_at_the_tip_holds_nothing_of_what_it_was_sent(
    engine: Engine, service: StreamService
) -> None:
    context: Any = Context()
    work = cast("CoroutineType[Any, Any, None]", service.GetRecords(latest(), context))
    following = asyncio.create_task(work)
    await context.written(1)
    await put(engine, "a", size=100_000)
    await context.written(2)
    await asyncio.sleep(0)
    inner = cast("CoroutineType[Any, Any, None]", work.cr_await)
    assert inner.cr_frame is not None
    held = [value for value in inner.cr_frame.f_locals.values() if isinstance(value, bytes | memoryview)]
    following.cancel()
    await asyncio.wait({following})
    assert held == []


# Its iterator is valid for 15 minutes, however much is written to the rest of the shard.
async def test_a_reader_of_a_lane_is_told_its_position_while_only_another_lane_is_written(engine: Engine) -> None:
    await engine.table()
    left, right = await engine.catalog.split_shard(stream_of(engine), stream_of(engine).shards[0].shard_id, None)
    await engine.catalog.merge_shards(stream_of(engine), left.shard_id, right.shard_id)
    quiet, busy = lanes(stream_of(engine).open_shards[0])
    keys = (str(number) for number in count())
    busy_keys = (key for key in keys if busy.first_hash <= hash_of(engine, key) <= busy.last_hash)
    # Each look at the clock is 5 seconds later than the one before.
    service = StreamService(
        engine.catalog,
        engine.log,
        engine.watermarks,
        Iterators(b"s" * 32, engine.clock),
        Metering(),
        CapacityMetering(engine.clock),
        ResponseBudget(),
        now=map(float, count(step=5)).__next__,
    )
    asked = pb.GetShardIteratorRequest(
        stream_arn=engine.catalog.stream_arn(stream_of(engine)),
        shard_id=quiet.id,
        shard_iterator_type=pb.SHARD_ITERATOR_TYPE_TRIM_HORIZON,
    )
    iterator = (await service.GetShardIterator(asked)).shard_iterator
    context: Any = Context()
    following = asyncio.create_task(
        service.GetRecords(pb.GetRecordsRequest(shard_iterator=iterator, follow=True), context)
    )
    async with asyncio.timeout(TIMEOUT_S):
        while len(context.responses) < 3:
            await put(engine, next(busy_keys))
    following.cancel()
    await asyncio.wait({following})
    assert not any(response.records for response in context.responses)
    positions = [Iterators(b"s" * 32, engine.clock).check(r.next_shard_iterator) for r in context.responses]
    assert positions[0].places[0].after < positions[-1].places[0].after


# Source: Developer Guide, "Change data capture for DynamoDB Streams": twice the table's write capacity.
async def test_the_stream_of_a_provisioned_table_is_read_at_twice_its_write_units(engine: Engine) -> None:
    one = Throughput(read_units=1, write_units=1)
    new = NewTable(name="pets", partition_key=ID, view_type=StreamViewType.KEYS_ONLY, throughput=one)
    table = await engine.catalog.create_table(new)
    for key in "abc":
        await put(engine, key)
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        engine.clock.ms += round(seconds * 1000)

    capacity = CapacityMetering(engine.clock)
    service = StreamService(
        engine.catalog,
        engine.log,
        engine.watermarks,
        Iterators(b"s" * 32, engine.clock),
        Metering(),
        capacity,
        ResponseBudget(),
        sleep,
    )
    request = pb.GetRecordsRequest(table_name="pets", shard_iterator_type=pb.SHARD_ITERATOR_TYPE_TRIM_HORIZON, limit=1)
    # All of the burst but one unit is used up.
    capacity.consume_stream_read(table, 2 * 300 - 1)
    context: Any = Context()
    await service.GetRecords(request, context)
    assert sum(len(response.records) for response in context.responses) == 3
    assert pauses == [0.5] * 3
    capacity.consume_stream_read(table, 1)
    with pytest.raises(ProvisionedThroughputExceededError) as refused:
        await service.GetRecords(request, context)
    assert refused.value.retry_after_ms == 500
    await engine.catalog.delete_table("pets")
    context = Context()
    request = pb.GetRecordsRequest(
        stream_arn=engine.catalog.stream_arn(engine.catalog.streams.all()[0]),
        shard_iterator_type=pb.SHARD_ITERATOR_TYPE_TRIM_HORIZON,
        limit=1,
    )
    await service.GetRecords(request, context)
    assert sum(len(response.records) for response in context.responses) == 3


async def test_a_reader_earns_the_size_of_its_pages() -> None:
    everyone = ResponseBudget()
    one = ReaderBudget(everyone)
    # While nothing is outstanding the first page may be as large as any.
    assert one.page_bytes_max == PAGE_BYTES_MAX
    everyone.outstanding_bytes = 10**9
    assert one.page_bytes_max == PAGE_BYTES_MIN
    everyone.outstanding_bytes = 4 * 2**20

    class Sink:
        async def write(self, _: bytes) -> None:
            assert everyone.outstanding_bytes > 4 * 2**20

    sizes = []
    for _ in range(60):
        sizes.append(one.page_bytes_max)
        await one.write(cast("Any", Sink()), b"x" * sizes[-1])
    assert sizes == sorted(sizes)
    assert (sizes[0], sizes[-1]) == (PAGE_BYTES_MIN, PAGE_BYTES_MAX)
    # Who is known to read is not slowed down to the least by those who do not.
    everyone.outstanding_bytes = 10**9
    assert one.page_bytes_max == 64 * 1024
    assert ReaderBudget(everyone).page_bytes_max == PAGE_BYTES_MIN
