"""Durable items a second over WriteItems, in batches, against a disk that only syncs the same bytes."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final

import grpc

from benchmarks.items import create_table, item_of_about
from benchmarks.measure import Effort, Server, Stopwatch, alternate, broker, medians
from headrace.v1.item_service_pb2 import PutItemRequest, WriteItemsRequest, WriteItemsResponse, WriteOperation
from tests.rpc import NEW_AND_OLD_IMAGES, Client

BATCHES: Final = (100, 400)
ITEM_BYTES: Final = 500
CALLS: Final = 2
BATCHES_IN_FLIGHT_PER_CALL: Final = 8
TARGET_PER_SECOND: Final = 40_000
# Where a put's key and version stand, as so many digits each.
_KEY_MARK: Final = "#" * 12
_VERSION_MARK: Final = "$" * 12


def run(folder: Path, effort: Effort) -> dict[str, Any]:
    """Runs each batch size and the bare disk alternately."""
    with broker(folder / "write_items") as server:
        with Client(server.endpoint) as client:
            table = create_table(client, view_type=NEW_AND_OLD_IMAGES)
        numbers = itertools.count()
        sides = {
            f"batches_of_{size}": lambda size=size: asyncio.run(
                write(server, table.name, numbers, size, effort.seconds)
            )
            for size in BATCHES
        }
        sync = {f"sync_{size}": lambda size=size: _sync(folder, size, effort.seconds / 3) for size in BATCHES}
        results = {name: medians(each) for name, each in alternate(effort.runs, **sides, **sync).items()}
        with Client(server.endpoint) as client:
            records = sum(len(r.records) for r in client.read(client.iterator(table.stream_arn)))
            written = next(numbers)
            assert records == written, f"{written} acknowledged items, {records} records"
    best = max(results[name]["items_per_second"] for name in sides)
    return {
        "what": f"WriteItems of {ITEM_BYTES} B items, durable, {CALLS} calls of {BATCHES_IN_FLIGHT_PER_CALL} batches",
        **results,
        "ratio": {
            str(size): round(
                results[f"batches_of_{size}"]["items_per_second"] / results[f"sync_{size}"]["items_per_second"], 3
            )
            for size in BATCHES
        },
        "best_items_per_second": best,
        "target_items_per_second": TARGET_PER_SECOND,
    }


class _Batches:
    """Serialized batches in which only the keys differ, and a part of the content: the same put again is no change."""

    def __init__(self, table_name: str, size: int, numbers: Iterator[int]) -> None:
        put = PutItemRequest(item=item_of_about(ITEM_BYTES, _KEY_MARK, _VERSION_MARK))
        self._operation = WriteItemsRequest(operations=[WriteOperation(put=put)]).SerializeToString()
        self._head = WriteItemsRequest(table_name=table_name).SerializeToString()
        self._size = size
        self._numbers = numbers
        self._versions = itertools.count()

    def next(self) -> bytes:
        return self._head + b"".join(self._put() for _ in range(self._size))

    def _put(self) -> bytes:
        put = self._operation
        for mark, numbers in ((_KEY_MARK, self._numbers), (_VERSION_MARK, self._versions)):
            put = put.replace(mark.encode(), b"%0*d" % (len(mark), next(numbers)))
        return put


async def write(server: Server, table_name: str, numbers: Iterator[int], size: int, seconds: float) -> dict[str, Any]:
    """Keeps batches of so many items in flight."""
    batches = _Batches(table_name, size, numbers)
    async with grpc.aio.insecure_channel(server.endpoint) as channel:
        method: Any = channel.stream_stream("/headrace.v1.ItemService/WriteItems")
        watch = Stopwatch(server)
        deadline = asyncio.get_running_loop().time() + seconds
        written = sum(await asyncio.gather(*(_call(method, batches, deadline) for _ in range(CALLS))))
        elapsed, server_cpu, own_cpu = watch.stop()
    return {
        "items_per_second": round(written / elapsed),
        "mb_per_second": round(written * ITEM_BYTES / elapsed / 1e6, 1),
        "server_cpu_us_per_item": round(server_cpu / written * 1e6, 2),
        "server_cpu_share": round(server_cpu / elapsed, 2),
        "client_cpu_share": round(own_cpu / elapsed, 2),
    }


async def _call(method: Any, batches: _Batches, deadline: float) -> int:
    """Keeps batches in flight on one call until the deadline; returns how many items were acknowledged."""
    room = asyncio.Semaphore(BATCHES_IN_FLIGHT_PER_CALL)
    clock = asyncio.get_running_loop().time

    async def requests() -> AsyncIterator[bytes]:
        while clock() < deadline:
            await room.acquire()
            yield batches.next()

    written = 0
    async for raw in method(requests(), timeout=120):
        response = WriteItemsResponse.FromString(raw)
        assert not any(result.HasField("error") for result in response.results), response.results[0]
        written += len(response.results)
        room.release()
    return written


def _sync(folder: Path, size: int, seconds: float) -> dict[str, Any]:
    """Appends as many bytes as a batch's items have, with one fdatasync a batch."""
    data = os.urandom(size * ITEM_BYTES)
    path = folder / "sync"
    file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    batches, begin = 0, time.perf_counter()
    try:
        while time.perf_counter() - begin < seconds:
            os.write(file, data)
            os.fdatasync(file)
            batches += 1
    finally:
        elapsed = time.perf_counter() - begin
        os.close(file)
        path.unlink()
    return {"items_per_second": round(batches * size / elapsed), "sync_ms": round(elapsed / batches * 1e3, 3)}
