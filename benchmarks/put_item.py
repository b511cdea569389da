"""Durable unary PutItem, 32 in flight, against a server that only echoes: the price of a write over that of a call."""

from __future__ import annotations

import base64
import itertools
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from benchmarks.echo_server import SERVICE
from benchmarks.http2_load import NUMBER_MARK, Specification
from benchmarks.items import create_table, item_of_about
from benchmarks.measure import ROOT, Effort, Server, Stopwatch, alternate, broker, echo_server, medians
from headrace.v1.item_service_pb2 import PutItemRequest, UpdateItemRequest
from tests.rpc import NEW_AND_OLD_IMAGES, Client

IN_FLIGHT: Final = 32
ITEM_BYTES: Final = 500
PUT_ITEM: Final = "/headrace.v1.ItemService/PutItem"
TARGET_RATIO: Final = 0.6
# Call numbers are never used twice, so that every put is an insert.
_numbers: Final = itertools.count(step=10_000_000)


def run(folder: Path, effort: Effort) -> dict[str, Any]:
    """Runs both sides alternately."""
    with broker(folder / "put_item") as target, echo_server() as echo:
        with Client(target.endpoint) as client:
            table = create_table(client, view_type=NEW_AND_OLD_IMAGES)
        request = PutItemRequest(table_name=table.name, item=item_of_about(ITEM_BYTES, NUMBER_MARK.decode()))
        results = alternate(
            effort.runs,
            echo=lambda: load(echo, f"/{SERVICE}/Echo", request, effort.seconds),
            put=lambda: load(target, PUT_ITEM, request, effort.seconds),
        )
        with Client(target.endpoint) as client:
            _check(client, table.stream_arn, sum(int(each["completed"]) for each in results["put"]))
    put, echo_figures = medians(results["put"]), medians(results["echo"])
    return {
        "what": f"unary PutItem of {ITEM_BYTES} B items, durable, {IN_FLIGHT} in flight on one connection",
        "put": put,
        "echo": echo_figures,
        "ratio": round(put["per_second"] / echo_figures["per_second"], 3),
        "target_ratio": TARGET_RATIO,
    }


def load(
    server: Server,
    path: str,
    request: PutItemRequest | UpdateItemRequest,
    seconds: float,
    first_number: int | None = None,
) -> dict[str, Any]:
    """Keeps so many calls in flight; each request carries a number in place of NUMBER_MARK: its own, unless told."""
    specification = Specification(
        endpoint=server.endpoint,
        path=path,
        request=base64.b64encode(request.SerializeToString()).decode(),
        in_flight=IN_FLIGHT,
        seconds=seconds,
        first_number=next(_numbers) if first_number is None else first_number,
    )
    watch = Stopwatch(server)
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.http2_load"],
        input=json.dumps(asdict(specification)),
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        timeout=seconds + 30,
    )
    _, server_cpu, _ = watch.stop()
    result = json.loads(done.stdout)
    assert not result["failed"], result
    return {
        "per_second": round(result["completed"] / result["seconds"]),
        "completed": result["completed"],
        "p50_ms": round(result["p50_ms"], 2),
        "p99_ms": round(result["p99_ms"], 2),
        "server_cpu_us_per_call": round(server_cpu / result["completed"] * 1e6, 1),
        "server_cpu_share": round(server_cpu / result["seconds"], 2),
        "client_cpu_share": round(result["client_cpu_seconds"] / result["seconds"], 2),
    }


def _check(client: Client, stream_arn: str, writes: int) -> None:
    """Every acknowledged put has its record, or the figure is worth nothing."""
    records = sum(len(response.records) for response in client.read(client.iterator(stream_arn)))
    assert records == writes, f"{writes} acknowledged puts, {records} records"
