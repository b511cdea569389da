"""A consumer group with one member that acks every response, against GetRecords by the same kind of client."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import grpc

from benchmarks.get_records import GET_RECORDS, ITEM_BYTES
from benchmarks.items import create_table, fill
from benchmarks.measure import Effort, Server, Stopwatch, alternate, broker, medians
from headrace import _lazy
from headrace.v1.consumer_service_pb2 import (
    STARTING_POSITION_TRIM_HORIZON,
    ConsumeAck,
    ConsumeRequest,
    ConsumeStart,
    DeleteConsumerGroupRequest,
    DescribeConsumerGroupRequest,
)
from headrace.v1.stream_service_pb2 import GetRecordsRequest
from tests.rpc import Client

RECORDS: Final = 100_000
TIMEOUT_S: Final = 60.0
_groups: Final = itertools.count()


def run(folder: Path, effort: Effort) -> dict[str, Any]:
    """Reads the same log by new groups, one after the other, and by GetRecords."""
    with broker(folder / "consume") as server, Client(server.endpoint) as client:
        table = create_table(client)
        fill(client, table.name, range(RECORDS), ITEM_BYTES)
        request = GetRecordsRequest(shard_iterator=client.iterator(table.stream_arn))
        results = alternate(
            effort.runs,
            get_records=lambda: asyncio.run(_repeat(server, effort.seconds, _get_records, request.SerializeToString())),
            consume=lambda: asyncio.run(_repeat(server, effort.seconds, _consume, table.stream_arn)),
        )
        for number in range(next(_groups)):
            name = _name(number)
            described = client.consumers.DescribeConsumerGroup(DescribeConsumerGroupRequest(group_name=name))
            # Not only were the records sent, the last ack is on disk.
            assert all(shard.records_behind_latest == 0 for shard in described.consumer_group.shards), described
            client.consumers.DeleteConsumerGroup(DeleteConsumerGroupRequest(group_name=name))
    figures = {name: medians(each) for name, each in results.items()}
    return {
        "what": f"{RECORDS} records of {ITEM_BYTES} B items by a new consumer group, each response acked when it comes",
        **figures,
        "ratio": round(figures["consume"]["records_per_second"] / figures["get_records"]["records_per_second"], 3),
    }


async def _repeat(server: Server, seconds: float, read: Any, argument: Any) -> dict[str, Any]:
    async with grpc.aio.insecure_channel(server.endpoint) as channel:
        clock = asyncio.get_running_loop().time
        watch = Stopwatch(server)
        deadline, reads = clock() + seconds, 0
        while clock() < deadline:
            async with asyncio.timeout(TIMEOUT_S):
                await read(channel, argument)
            reads += 1
        elapsed, server_cpu, own_cpu = watch.stop()
    return {
        "records_per_second": round(reads * RECORDS / elapsed),
        "server_cpu_us_per_record": round(server_cpu * 1e6 / (reads * RECORDS), 3),
        "server_cpu_share": round(server_cpu / elapsed, 2),
        "client_cpu_share": round(own_cpu / elapsed, 2),
    }


async def _get_records(channel: grpc.aio.Channel, request: bytes) -> None:
    method: Any = channel.unary_stream(GET_RECORDS, response_deserializer=_lazy.get_records_response())
    count = 0
    async for response in method(request):
        count += len(response.records)
    assert count == RECORDS


async def _consume(channel: grpc.aio.Channel, stream_arn: str) -> None:
    """Joins a new group; returns when the ack of the last record is on disk."""
    acks: asyncio.Queue[ConsumeAck] = asyncio.Queue()
    start = ConsumeStart(
        stream_arn=stream_arn,
        group_name=_name(next(_groups)),
        starting_position=STARTING_POSITION_TRIM_HORIZON,
        max_in_flight_records=100_000,
    )

    async def requests() -> AsyncIterator[bytes]:
        yield ConsumeRequest(start=start).SerializeToString()
        while True:
            yield ConsumeRequest(ack=await acks.get()).SerializeToString()

    method: Any = channel.stream_stream(
        "/headrace.v1.ConsumerService/Consume", response_deserializer=_lazy.consume_response()
    )
    call = method(requests())
    count, last = 0, ""
    async for response in call:
        if response.records:
            count += len(response.records)
            last = response.sequence_number
            acks.put_nowait(
                ConsumeAck(shard_id=response.shard_id, lease_epoch=response.lease_epoch, sequence_number=last)
            )
        elif count >= RECORDS and response.sequence_number == last:
            # The checkpoint is where the last record was.
            break
    call.cancel()


def _name(number: int) -> str:
    return f"bench-{number}"
