"""From the start of a put to its record in a subscriber's hands, one put at a time, against the put alone."""

from __future__ import annotations

import asyncio
import itertools
import statistics
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, TypeAlias

import grpc

from benchmarks.items import create_table, item_of_about
from benchmarks.measure import Effort, broker, medians, progress
from headrace.v1 import item_service_pb2_grpc, stream_service_pb2_grpc
from headrace.v1.item_service_pb2 import PutItemRequest
from headrace.v1.stream_service_pb2 import GetRecordsRequest
from tests.rpc import LATEST, NEW_AND_OLD_IMAGES, Client

ITEM_BYTES: Final = 500
WARM_UP_PUTS: Final = 50
PUTS_PER_SECOND: Final = 200
TARGET_RATIO_P50: Final = 1.5
TARGET_RATIO_P99: Final = 3.0

Write: TypeAlias = Callable[[], Awaitable[None]]
# When the record of each write reached the subscriber, by the clock of the event loop.
Arrived: TypeAlias = "asyncio.Queue[float]"


def run(folder: Path, effort: Effort) -> dict[str, Any]:
    """Measures both with the same puts."""
    with broker(folder / "latency") as server:
        with Client(server.endpoint) as client:
            table = create_table(client, view_type=NEW_AND_OLD_IMAGES)
            shard_iterator = client.iterator(table.stream_arn, LATEST)
        results = asyncio.run(_measure(server.endpoint, table.name, shard_iterator, effort))
    put, delivery = medians([each["put"] for each in results]), medians([each["delivery"] for each in results])
    return {
        "what": f"put to subscriber, {ITEM_BYTES} B items, durable, one at a time, {PUTS_PER_SECOND} a second",
        "put": put,
        "delivery": delivery,
        "ratio_p50": round(delivery["p50_ms"] / put["p50_ms"], 3),
        "ratio_p99": round(delivery["p99_ms"] / put["p99_ms"], 3),
        "target_ratio_p50": TARGET_RATIO_P50,
        "target_ratio_p99": TARGET_RATIO_P99,
    }


async def _measure(
    endpoint: str, table_name: str, shard_iterator: str, effort: Effort
) -> list[dict[str, dict[str, float]]]:
    async with subscribed(endpoint, table_name, shard_iterator) as (put, arrived):
        await one_at_a_time(put, arrived, WARM_UP_PUTS)
        results = []
        for _ in range(effort.runs):
            results.append(await one_at_a_time(put, arrived, int(effort.seconds * PUTS_PER_SECOND)))
            progress(f"  {results[-1]}")
    return results


@asynccontextmanager
async def subscribed(endpoint: str, table_name: str, shard_iterator: str) -> AsyncIterator[tuple[Write, Arrived]]:
    """A put, and the times at which the records of puts arrive at a subscriber."""
    clock = asyncio.get_running_loop().time
    numbers = itertools.count()
    arrived: Arrived = asyncio.Queue(maxsize=1)
    # The channels are two, so that neither waits for the other's bytes.
    async with grpc.aio.insecure_channel(endpoint) as writing, grpc.aio.insecure_channel(endpoint) as reading:
        items: Any = item_service_pb2_grpc.ItemServiceStub(writing)
        streams: Any = stream_service_pb2_grpc.StreamServiceStub(reading)

        async def put() -> None:
            item = item_of_about(ITEM_BYTES, f"{next(numbers):012d}")
            await items.PutItem(PutItemRequest(table_name=table_name, item=item), timeout=10)

        async def subscribe() -> None:
            async for response in streams.GetRecords(GetRecordsRequest(shard_iterator=shard_iterator, follow=True)):
                now = clock()
                assert len(response.records) <= 1
                if response.records:
                    await arrived.put(now)

        subscribing = asyncio.create_task(subscribe())
        try:
            yield put, arrived
        finally:
            subscribing.cancel()
            await asyncio.wait({subscribing})


async def one_at_a_time(write: Write, arrived: Arrived, count: int) -> dict[str, dict[str, float]]:
    """Writes so many times, so many a second, each after the one before has arrived."""
    clock = asyncio.get_running_loop().time
    writes: list[float] = []
    deliveries: list[float] = []
    for _ in range(count):
        begin = clock()
        await write()
        writes.append(clock() - begin)
        deliveries.append(await asyncio.wait_for(arrived.get(), 10) - begin)
        await asyncio.sleep(max(0.0, begin + 1 / PUTS_PER_SECOND - clock()))
    return {"put": _percentiles(writes), "delivery": _percentiles(deliveries)}


def _percentiles(seconds: list[float]) -> dict[str, float]:
    hundredths = statistics.quantiles(seconds, n=100)
    return {"p50_ms": round(hundredths[49] * 1e3, 3), "p99_ms": round(hundredths[98] * 1e3, 3)}
