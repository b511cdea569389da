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
SECONDS_FACTOR: Final = 20
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
    data = [each["data"] for each in sizes]
    quarter = max(1, len(data) // 4)
    peaks = [max(data[place : place + quarter]) for place in range(0, 4 * quarter, quarter)]
    return {
        "items_per_second": figures["items_per_second"],
        "retained_mb": round(stream.retained_bytes / 1e6, 1),
        **{f"data_peak_mb_quarter_{number}": round(peak / 1e6, 1) for number, peak in enumerate(peaks, 1)},
        # 1 is flat.
        "data_last_over_second_quarter": round(peaks[3] / peaks[1], 3),
        # Written first of all, and dropped when all that is in it was flushed: it rises and falls between two bounds.
        "write_ahead_log_peak_mb": round(max(each["log"] for each in sizes) / 1e6, 1),
        "all_peak_mb": round(max(each["data"] + each["log"] for each in sizes) / 1e6, 1),
    }


@contextmanager
def _sampled(folder: Path) -> Iterator[list[dict[str, int]]]:
    """Fills the list with what the folder takes, several times a second, until it is left."""
    sizes: list[dict[str, int]] = []
    stop = threading.Event()

    def sample() -> None:
        while not stop.wait(SAMPLE_SECONDS):
            each = {"data": 0, "log": 0}
            for file in folder.rglob("*"):
                each["log" if file.suffix == ".log" else "data"] += _blocks(file)
            sizes.append(each)

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
