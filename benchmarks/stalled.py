"""A thousand subscribers that never read, against none: what they cost in memory, and what they cost the writers."""

from __future__ import annotations

import itertools
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from benchmarks.get_records import GET_RECORDS, ITEM_BYTES
from benchmarks.http2_load import NUMBER_MARK
from benchmarks.items import create_table, fill, item_of_about
from benchmarks.measure import Effort, alternate, broker, medians
from benchmarks.put_item import PUT_ITEM, load
from benchmarks.subscribers import Specification, stalled
from headrace.v1.item_service_pb2 import PutItemRequest
from headrace.v1.stream_service_pb2 import GetRecordsRequest
from tests.rpc import LATEST, TRIM_HORIZON, Client

SUBSCRIBERS: Final = 1000
RECORDS_BEFORE: Final = 20_000
RECORDS_WHILE: Final = 40_000
TARGET_MB: Final = 100
TARGET_PUTS: Final = 0.9
_folders: Final = itertools.count()


def run(folder: Path, effort: Effort) -> dict[str, Any]:
    """Each run is a broker of its own, so that memory it has kept for later counts for nobody else."""
    sides = {"none": (0, TRIM_HORIZON), "behind": (SUBSCRIBERS, TRIM_HORIZON), "at_tip": (SUBSCRIBERS, LATEST)}

    def side(name: str) -> dict[str, Any]:
        subscribers, start = sides[name]
        return _run(folder / f"stalled-{next(_folders)}", effort.seconds, subscribers, start)

    results = alternate(effort.runs, **{name: lambda name=name: side(name) for name in sides})
    figures = {name: medians(each) for name, each in results.items()}
    stalled_sides = [name for name in sides if name != "none"]
    return {
        "what": f"{SUBSCRIBERS} subscribers that never read, from the trim horizon (behind) or from the tip on",
        **figures,
        # What RocksDB and the writes take without any subscriber is not theirs.
        "cost_mb": {
            name: round(figures[name]["grown_mb_written"] - figures["none"]["grown_mb_written"], 1)
            for name in stalled_sides
        },
        "put_ratio": {
            name: round(figures[name]["puts_per_second"] / figures["none"]["puts_per_second"], 3)
            for name in stalled_sides
        },
        "target_cost_mb": TARGET_MB,
        "target_put_ratio": TARGET_PUTS,
    }


def _run(folder: Path, seconds: float, subscribers: int, start: Any) -> dict[str, Any]:
    with ExitStack() as stack:
        server = stack.enter_context(broker(folder))
        client = stack.enter_context(Client(server.endpoint))
        table = create_table(client)
        fill(client, table.name, range(RECORDS_BEFORE), ITEM_BYTES)
        before = server.memory_mb()
        if subscribers:
            request = GetRecordsRequest(shard_iterator=client.iterator(table.stream_arn, start), follow=True)
            specification = Specification(
                endpoint=server.endpoint,
                path=GET_RECORDS,
                request=request.SerializeToString().hex(),
                subscribers=subscribers,
            )
            stack.enter_context(stalled(specification))
        opened = server.memory_mb()
        fill(client, table.name, range(RECORDS_BEFORE, RECORDS_BEFORE + RECORDS_WHILE), ITEM_BYTES)
        written = server.memory_mb()
        put = PutItemRequest(table_name=table.name, item=item_of_about(ITEM_BYTES, NUMBER_MARK.decode()))
        puts = load(server, PUT_ITEM, put, seconds)
        return {
            "grown_mb_opened": round(opened - before, 1),
            "grown_mb_written": round(written - before, 1),
            "grown_mb_after_puts": round(server.memory_mb() - before, 1),
            "puts_per_second": puts["per_second"],
            "put_p50_ms": puts["p50_ms"],
            "put_p99_ms": puts["p99_ms"],
            "server_cpu_us_per_put": puts["server_cpu_us_per_call"],
        }
