"""One subscriber reading the log by GetRecords, against raw gRPC streaming of the same bytes in the same chunks."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import grpc

from benchmarks.echo_server import SERVICE
from benchmarks.items import item_of_about
from benchmarks.measure import Effort, Server, Stopwatch, alternate, broker, echo_server, medians
from headrace.v1.stream_service_pb2 import GetRecordsRequest, GetRecordsResponse
from tests.rpc import NEW_IMAGE, Client, batch, put

# An item of 780 bytes by DynamoDB's count makes a record of about 900 on the wire, with its new image.
ITEM_BYTES: Final = 780
RECORDS: Final = 60_000
BATCH: Final = 500
TARGET_RECORDS_PER_SECOND: Final = 1_000_000
TARGET_RATIO: Final = 0.6

Deserializer = Callable[[bytes], object]


def run(folder: Path, effort: Effort) -> dict[str, Any]:
    """Fills a stream, then reads it from its beginning again and again."""
    with broker(folder / "get_records") as server:
        with Client(server.endpoint) as client:
            table = client.create_table(view_type=NEW_IMAGE)
            for first in range(0, RECORDS, BATCH):
                numbers = range(first, first + BATCH)
                client.write_items(batch(table.name, *(put(item_of_about(ITEM_BYTES, f"{n:012d}")) for n in numbers)))
            shard_iterator = client.iterator(table.stream_arn)
        request = GetRecordsRequest(shard_iterator=shard_iterator).SerializeToString()
        chunks = asyncio.run(_receive(server, request))
        counts = [len(GetRecordsResponse.FromString(chunk).records) for chunk in chunks]
        assert sum(counts) == RECORDS
        size = sum(map(len, chunks))
        chunk_file = folder / "chunks"
        chunk_file.write_bytes(b"".join(struct.pack(">I", len(chunk)) + chunk for chunk in chunks))
        with echo_server(str(chunk_file)) as echo:
            results = alternate(
                effort.runs,
                raw=lambda: asyncio.run(_stream_raw(echo, size, effort.seconds, None)),
                records=lambda: asyncio.run(_get_records(server, request, size, effort.seconds, None)),
                raw_parsed=lambda: asyncio.run(_stream_raw(echo, size, effort.seconds, GetRecordsResponse.FromString)),
                records_parsed=lambda: asyncio.run(
                    _get_records(server, request, size, effort.seconds, GetRecordsResponse.FromString)
                ),
            )
    figures = {name: medians(each) for name, each in results.items()}
    return {
        "what": "GetRecords from the trim horizon to the tip, one subscriber",
        "record_bytes": round(size / RECORDS),
        "chunk_bytes_mean": round(size / len(chunks)),
        "chunk_records_mean": round(RECORDS / len(chunks)),
        **figures,
        "ratio": round(figures["records"]["records_per_second"] / figures["raw"]["records_per_second"], 3),
        "ratio_parsed": round(
            figures["records_parsed"]["records_per_second"] / figures["raw_parsed"]["records_per_second"], 3
        ),
        "target_records_per_second": TARGET_RECORDS_PER_SECOND,
        "target_ratio": TARGET_RATIO,
    }


async def _receive(server: Server, request: bytes) -> list[bytes]:
    async with grpc.aio.insecure_channel(server.endpoint) as channel:
        method: Any = channel.unary_stream("/headrace.v1.StreamService/GetRecords")
        return [chunk async for chunk in method(request, timeout=60)]


async def _get_records(
    server: Server, request: bytes, size: int, seconds: float, deserializer: Deserializer | None
) -> dict[str, Any]:
    """Reads the whole stream again and again until the time is up."""
    async with grpc.aio.insecure_channel(server.endpoint) as channel:
        method: Any = channel.unary_stream("/headrace.v1.StreamService/GetRecords", response_deserializer=deserializer)
        clock = asyncio.get_running_loop().time
        watch = Stopwatch(server)
        deadline, reads = clock() + seconds, 0
        while clock() < deadline:
            async for _ in method(request, timeout=60):
                pass
            reads += 1
        return _figures(watch, reads, size)


async def _stream_raw(server: Server, size: int, seconds: float, deserializer: Deserializer | None) -> dict[str, Any]:
    """The same from a server that has the responses ready."""
    async with grpc.aio.insecure_channel(server.endpoint) as channel:
        method: Any = channel.unary_stream(f"/{SERVICE}/Stream", response_deserializer=deserializer)
        clock = asyncio.get_running_loop().time
        watch = Stopwatch(server)
        deadline, reads = clock() + seconds, 0
        while clock() < deadline:
            async for _ in method(struct.pack(">Q", size), timeout=60):
                pass
            reads += 1
        return _figures(watch, reads, size)


def _figures(watch: Stopwatch, reads: int, size: int) -> dict[str, Any]:
    elapsed, server_cpu, own_cpu = watch.stop()
    return {
        "records_per_second": round(reads * RECORDS / elapsed),
        "mb_per_second": round(reads * size / elapsed / 1e6, 1),
        "server_cpu_share": round(server_cpu / elapsed, 2),
        "client_cpu_share": round(own_cpu / elapsed, 2),
    }
