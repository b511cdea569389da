"""The slowest put beside a scrape of /metrics each second, against the slowest without: a node of 5,000 tables."""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import grpc

from benchmarks.items import item_of_about
from benchmarks.measure import READY_TIMEOUT_S, Effort, Server, alternate, broker, medians
from headrace.v1 import item_service_pb2_grpc
from headrace.v1.item_service_pb2 import PutItemRequest
from tests.rpc import Client

ITEM_BYTES: Final = 500
TABLES: Final = 5_000
PUTS_PER_SECOND: Final = 200
TARGET_RATIO_SLOWEST: Final = 1.5

# In a process of its own, whose work for a response of a megabyte does not delay the puts that are measured.
_SCRAPER: Final = """
import sys, time, urllib.request
while True:
    begin = time.monotonic()
    body = urllib.request.urlopen(sys.argv[1], timeout=10).read()
    print(len(body), time.monotonic() - begin, flush=True)
    time.sleep(max(0.0, begin + 1 - time.monotonic()))
"""


def run(folder: Path, effort: Effort) -> dict[str, Any]:
    """Measures both with the same puts."""
    with broker(folder / "scrapes") as server:
        with Client(server.endpoint) as client:
            names = [client.create_table().name for _ in range(TABLES)]
            for name in names:
                # What is counted of a table shows once it was used.
                client.put(name, item_of_about(ITEM_BYTES, "1"))
        results = alternate(
            effort.runs,
            without=lambda: asyncio.run(_puts(server.endpoint, names[0], effort)),
            beside=lambda: _beside_scrapes(server, names[0], effort),
        )
    without, beside = medians(results["without"]), medians(results["beside"])
    return {
        "what": f"puts of {ITEM_BYTES} B, {PUTS_PER_SECOND} a second, {TABLES} tables, a scrape each second",
        "without": without,
        "beside": beside,
        "ratio_slowest": round(beside["slowest_ms"] / without["slowest_ms"], 3),
        "target_ratio_slowest": TARGET_RATIO_SLOWEST,
    }


def _beside_scrapes(server: Server, table_name: str, effort: Effort) -> dict[str, float]:
    with _scraping(server) as lines:
        # The first scrape is over, so the puts are beside the others.
        next(lines)
        measured = asyncio.run(_puts(server.endpoint, table_name, effort))
        size, seconds = next(lines).split()
    return {**measured, "scrape_bytes": float(size), "scrape_ms": round(float(seconds) * 1e3, 1)}


@contextmanager
def _scraping(server: Server) -> Iterator[Iterator[str]]:
    command = [sys.executable, "-c", _SCRAPER, f"http://{server.http}/metrics"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield iter(process.stdout)
        finally:
            process.terminate()
            process.wait(READY_TIMEOUT_S)


async def _puts(endpoint: str, table_name: str, effort: Effort) -> dict[str, float]:
    clock = asyncio.get_running_loop().time
    seconds: list[float] = []
    request = PutItemRequest(table_name=table_name, item=item_of_about(ITEM_BYTES, "1"))
    async with grpc.aio.insecure_channel(endpoint) as channel:
        items: Any = item_service_pb2_grpc.ItemServiceStub(channel)
        for number in range(int(effort.seconds * PUTS_PER_SECOND)):
            request.item.attributes["delay"].n = str(number)
            begin = clock()
            await items.PutItem(request, timeout=10)
            seconds.append(clock() - begin)
            await asyncio.sleep(max(0.0, begin + 1 / PUTS_PER_SECOND - clock()))
    hundredths = statistics.quantiles(seconds, n=100)
    return {
        "p50_ms": round(hundredths[49] * 1e3, 3),
        "p99_ms": round(hundredths[98] * 1e3, 3),
        "slowest_ms": round(max(seconds) * 1e3, 3),
    }
