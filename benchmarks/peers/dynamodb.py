"""Headrace beside dynalite and moto, which speak DynamoDB's protocol too, with the same requests, byte for byte.

    python -m benchmarks.peers.dynamodb            some four minutes; JSON to stdout and into bench-results/
    python -m benchmarks.peers.dynamodb --quick    shorter runs

Headrace syncs every write to disk before it answers. dynalite writes to disk and does not sync; moto keeps all in
memory.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from benchmarks.http1_load import NUMBER_MARK, Connection, Specification, request_bytes
from benchmarks.items import item_of_about
from benchmarks.measure import ROOT, Effort, Server, Stopwatch, alternate, facts, medians, progress, report
from benchmarks.peers.process import peer
from tests.broker_process import BrokerProcess
from tests.values import from_item

DYNALITE: Final = Path(__file__).parent / "javascript" / "node_modules" / "dynalite" / "cli.js"
TABLE: Final = "bench"
ITEM_BYTES: Final = 500
ITEMS: Final = 20_000
# Items under one partition key, for Query: more than 1 MB of them.
COLLECTION: Final = 2_500
COLLECTION_KEY: Final = "collection"
FEW_ITEMS: Final = 40
BATCH: Final = 25
RECORDS_A_CALL: Final = 1000
CONNECTIONS: Final = (1, 32)
READERS: Final = (1, 8)
QUICK: Final = Effort(seconds=1.0, runs=1)
FULL: Final = Effort(seconds=2.0, runs=5)

_DYNAMODB: Final = "DynamoDB_20120810"
_STREAMS: Final = "DynamoDBStreams_20120810"
_NEXT: Final = re.compile(rb'"NextShardIterator":\s*"([^"]+)"')
_LOAD_TIMEOUT_S: Final = 60.0


class Target:
    """A server with a table that is filled."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._connection = Connection(server.endpoint)
        # dynalite's stores and ours alike do not care that numbers go on over all runs.
        self._numbers = itertools.count(ITEMS, 10_000_000)
        self._create()

    def call(self, operation: str, content: dict[str, Any], service: str = _DYNAMODB) -> dict[str, Any]:
        """One call, its response parsed. Raises AssertionError if it fails."""
        request = request_bytes(self._server.endpoint, f"{service}.{operation}", json.dumps(content))
        _, answer = self._connection.call(request)
        head, _, body = answer.partition(b"\r\n\r\n")
        assert b" 200 " in head[:16], answer[:1000]
        parsed: dict[str, Any] = json.loads(_unchunked(head, body))
        return parsed

    def load(
        self, operation: str, content: dict[str, Any], connections: int, effort: Effort, numbers: int
    ) -> dict[str, Any]:
        """Calls an operation again and again."""
        specification = Specification(
            endpoint=self._server.endpoint,
            target=f"{_DYNAMODB}.{operation}",
            body=json.dumps(content),
            connections=connections,
            seconds=effort.seconds,
            first_number=next(self._numbers) if not numbers else 0,
            numbers=numbers,
        )
        watch = Stopwatch(self._server)
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.http1_load"],
            input=json.dumps(asdict(specification)),
            stdout=subprocess.PIPE,
            text=True,
            timeout=_LOAD_TIMEOUT_S,
            check=True,
            cwd=ROOT,
        )
        _, server_cpu, _ = watch.stop()
        result = json.loads(done.stdout)
        assert not result["failed"], result
        return {
            "per_second": result["completed"] / result["seconds"],
            "mb_per_second": result["received_bytes"] / result["seconds"] / 1e6,
            "p50_ms": result["p50_ms"],
            "p99_ms": result["p99_ms"],
            "server_cpu_us": server_cpu / result["completed"] * 1e6,
            "client_cpu_us": result["client_cpu_seconds"] / result["completed"] * 1e6,
        }

    def read_stream(self, effort: Effort) -> dict[str, Any]:
        """Reads the records of the first shard from their beginning, 1,000 a call."""
        # The last one may have been idle for longer than a server keeps it.
        self._connection = Connection(self._server.endpoint)
        arn = self.call("DescribeTable", {"TableName": TABLE})["Table"]["LatestStreamArn"]
        shard = self.call("DescribeStream", {"StreamArn": arn}, _STREAMS)["StreamDescription"]["Shards"][0]["ShardId"]
        start = {"StreamArn": arn, "ShardId": shard, "ShardIteratorType": "TRIM_HORIZON"}
        iterator = self.call("GetShardIterator", start, _STREAMS)["ShardIterator"]
        records = received = 0
        begin = time.perf_counter()
        while time.perf_counter() - begin < effort.seconds:
            content = json.dumps({"ShardIterator": iterator, "Limit": RECORDS_A_CALL})
            _, answer = self._connection.call(request_bytes(self._server.endpoint, f"{_STREAMS}.GetRecords", content))
            count = answer.count(b'"eventID"')
            records += count
            received += len(answer)
            found = _NEXT.search(answer)
            if not count or found is None:
                break
            iterator = found[1].decode()
        seconds = time.perf_counter() - begin
        assert records
        return {"per_second": records / seconds, "mb_per_second": received / seconds / 1e6}

    def _create(self) -> None:
        self.call(
            "CreateTable",
            {
                "TableName": TABLE,
                "KeySchema": [
                    {"AttributeName": "id", "KeyType": "HASH"},
                    {"AttributeName": "line", "KeyType": "RANGE"},
                ],
                "AttributeDefinitions": [
                    {"AttributeName": "id", "AttributeType": "S"},
                    {"AttributeName": "line", "AttributeType": "N"},
                ],
                "ProvisionedThroughput": {"ReadCapacityUnits": 1_000_000, "WriteCapacityUnits": 1_000_000},
                "StreamSpecification": {"StreamEnabled": True, "StreamViewType": "NEW_IMAGE"},
            },
        )
        while self.call("DescribeTable", {"TableName": TABLE})["Table"]["TableStatus"] != "ACTIVE":
            time.sleep(0.02)
        many = ((f"{number:012d}", 0) for number in range(ITEMS))
        collection = ((COLLECTION_KEY, line) for line in range(COLLECTION))
        for keys in _batches(itertools.chain(many, collection)):
            puts = [{"PutRequest": {"Item": _item(id_, line)}} for id_, line in keys]
            assert not self.call("BatchWriteItem", {"RequestItems": {TABLE: puts}})["UnprocessedItems"]


def run(folder: Path, effort: Effort) -> dict[str, Any]:
    """Starts all, fills all, and alternates."""
    with ExitStack() as stack:
        servers = {
            "headrace": stack.enter_context(_headrace(folder / "headrace")),
            "dynalite": stack.enter_context(peer(folder / "dynalite", lambda port: _dynalite(folder, port))),
            "moto": stack.enter_context(peer(folder / "moto", _moto)),
        }
        progress("  filling the tables")
        targets = {name: Target(server) for name, server in servers.items()}

        def everywhere(measure: Callable[[Target], dict[str, Any]]) -> dict[str, Callable[[], dict[str, Any]]]:
            return {name: lambda target=target: measure(target) for name, target in targets.items()}  # type: ignore[misc]

        results = {}
        # Reads come first: a server with another number of items, or records, would read another table.
        readers = everywhere(lambda target: target.read_stream(effort))
        # It has no streams.
        del readers["dynalite"]
        results["GetRecords, 1,000 records a call"] = _compare(effort, readers)
        one = {"TableName": TABLE, "Key": {"id": {"S": NUMBER_MARK}, "line": {"N": "0"}}}
        put = {"TableName": TABLE, "Item": _item(NUMBER_MARK, 0)}
        batch = {"RequestItems": {TABLE: [{"PutRequest": {"Item": _item(NUMBER_MARK, line)}} for line in range(BATCH)]}}
        few, page = _query(FEW_ITEMS), _query(COLLECTION)
        work: tuple[tuple[str, str, dict[str, Any], tuple[int, ...], int], ...] = (
            ("GetItem", "GetItem", one, CONNECTIONS, ITEMS),
            ("Query of 40 items", "Query", few, READERS, 1),
            ("Query of 1 MB", "Query", page, READERS, 1),
            ("PutItem", "PutItem", put, CONNECTIONS, 0),
            ("BatchWriteItem of 25", "BatchWriteItem", batch, CONNECTIONS, 0),
        )
        for what, operation, content, connections, numbers in work:
            for count in connections:
                title = f"{what}, {count} connection{'s' * (count > 1)}"
                progress(f"{title} ...")
                sides = everywhere(
                    lambda t, o=operation, c=content, n=count, m=numbers: t.load(o, c, n, effort, m)  # type: ignore[misc]
                )
                if count > 1:
                    # Its server is for development: it keeps no connection, and drops some when there are many.
                    del sides["moto"]
                results[title] = _compare(effort, sides)
        return results


def _compare(effort: Effort, sides: dict[str, Callable[[], dict[str, Any]]]) -> dict[str, Any]:
    figures = {name: medians(each) for name, each in alternate(effort.runs, **sides).items()}
    ours = figures["headrace"]["per_second"]
    ratios = {f"to_{name}": round(ours / each["per_second"], 2) for name, each in figures.items() if name != "headrace"}
    return {**figures, "headrace": {**figures["headrace"], **ratios}}


def _query(limit: int) -> dict[str, Any]:
    return {
        "TableName": TABLE,
        "KeyConditionExpression": "id = :id",
        "ExpressionAttributeValues": {":id": {"S": COLLECTION_KEY}},
        "Limit": limit,
    }


def _item(id_: str, line: int) -> dict[str, Any]:
    content = {**from_item(item_of_about(ITEM_BYTES, id_)), "line": ("N", line)}
    return {name: {tag: str(value) if tag == "N" else value} for name, (tag, value) in content.items()}


def _batches(keys: Iterator[tuple[str, int]]) -> Iterator[list[tuple[str, int]]]:
    while batch := list(itertools.islice(keys, BATCH)):
        yield batch


def _unchunked(head: bytes, body: bytes) -> bytes:
    if b"chunked" not in head.lower():
        return body
    parts = []
    while body:
        size, _, body = body.partition(b"\r\n")
        length = int(size, 16)
        parts.append(body[:length])
        body = body[length + 2 :]
    return b"".join(parts)


@contextmanager
def _headrace(folder: Path) -> Iterator[Server]:
    with BrokerProcess(folder, extra=("--auth", "none")) as process:
        yield Server(endpoint=process.http, pid=process.pid)


def _dynalite(folder: Path, port: int) -> list[str]:
    at_once = ["--createTableMs", "0", "--deleteTableMs", "0", "--updateTableMs", "0"]
    # The node of a Python environment is a launcher, whose CPU is not that of the server.
    node = subprocess.run(["node", "-p", "process.execPath"], stdout=subprocess.PIPE, text=True, check=True).stdout
    return [node.strip(), str(DYNALITE), "--port", str(port), "--path", str(folder / "dynalite" / "data"), *at_once]


def _moto(port: int) -> list[str]:
    return [str(Path(sys.executable).parent / "moto_server"), "--host", "127.0.0.1", "--port", str(port)]


def main() -> None:
    """Writes one JSON document."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.dynamodb", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="shorter runs")
    parser.add_argument("--data", type=Path, help="folder for the servers' data, on the disk to measure")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="headrace-bench-", dir=arguments.data) as name:
        folder = Path(name)
        document = facts(folder, ("aiohttp", "orjson", "moto")) | {"quick": arguments.quick}
        document["synced"] = {"headrace": True, "dynalite": False, "moto": False}
        document["results"] = run(folder, QUICK if arguments.quick else FULL)
        report(document, "peers-dynamodb-")


if __name__ == "__main__":
    main()
