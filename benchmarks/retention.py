"""Disk use under steady writes: with a retention by time, with one by bytes, and with none to compare with."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from benchmarks.items import create_table
from benchmarks.measure import Effort, alternate, broker, medians
from benchmarks.write_items import ITEM_BYTES, write
from headrace.v1.stream_service_pb2 import DescribeStreamRequest
from headrace.v1.table_pb2 import StreamSettings
from tests.rpc import Client

BATCH: Final = 100
# The same items again and again, so that the table itself does not grow.
KEYS: Final = 10_000
RUNS: Final = 1
# A run must be long enough for RocksDB's log and buffers to fill, be flushed and be dropped several times.
SECONDS_FACTOR: Final = 15
SAMPLE_SECONDS: Final = 0.25
ENVIRONMENT: Final = {"HEADRACE_UPKEEP_INTERVAL_SECONDS": "1"}
RETENTION_SECONDS: Final = 2
RETENTION_BYTES: Final = 64 * 1024 * 1024
SIDES: Final = {
    "no_retention": StreamSettings(),
    f"{RETENTION_SECONDS}_seconds": StreamSettings(retention_period_in_seconds=RETENTION_SECONDS),
    f"{RETENTION_BYTES >> 20}_mib": StreamSettings(retention_bytes=RETENTION_BYTES),
}


def run(folder: Path, effort: Effort) -> dict[str, Any]:
    """A broker of its own for each side; its folder is removed after the side."""

    def side(name: str) -> dict[str, Any]:
        own = folder / f"retention-{name}"
        try:
            return _run(own, SIDES[name], effort.seconds * SECONDS_FACTOR)
        finally:
            shutil.rmtree(own, ignore_errors=True)

    results = alternate(RUNS, **{name: lambda name=name: side(name) for name in SIDES})
    return {
        "what": f"the folder's size in MB while {KEYS} items of {ITEM_BYTES} B are written again and again",
        **{name: medians(each) for name, each in results.items()},
    }


def _run(folder: Path, settings: StreamSettings, seconds: float) -> dict[str, Any]:
    with broker(folder, ENVIRONMENT) as server, Client(server.endpoint) as client:
        table = create_table(client, settings=settings)
        numbers = (number % KEYS for number in itertools.count())
        with _sampled(folder / "data") as sizes:
            figures = asyncio.run(write(server, table.name, numbers, BATCH, seconds))
        stream = client.streams.DescribeStream(DescribeStreamRequest(stream_arn=table.stream_arn)).stream_description
    quarter = max(1, len(sizes) // 4)
    peaks = [max(sizes[place : place + quarter]) for place in range(0, 4 * quarter, quarter) if place < len(sizes)]
    return {
        "items_per_second": figures["items_per_second"],
        "retained_mb": round(stream.retained_bytes / 1e6, 1),
        **{f"peak_mb_quarter_{number}": round(peak / 1e6, 1) for number, peak in enumerate(peaks, 1)},
        # 1 is flat.
        "last_over_second_quarter": round(peaks[-1] / peaks[min(1, len(peaks) - 1)], 3),
    }


@contextmanager
def _sampled(folder: Path) -> Iterator[list[int]]:
    """Fills the list with the folder's size, several times a second, until it is left."""
    sizes: list[int] = []
    stop = threading.Event()

    def sample() -> None:
        while not stop.wait(SAMPLE_SECONDS):
            sizes.append(sum(_blocks(file) for file in folder.rglob("*")))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield sizes
    finally:
        stop.set()
        thread.join()


def _blocks(file: Path) -> int:
    """What a file takes on the disk; nothing if it has just been removed."""
    try:
        return file.stat().st_blocks * 512
    except FileNotFoundError:
        return 0
