"""How long one request of each kind keeps everybody else waiting, and many of a kind at once.

Another process asks for `/healthz` all the time, on a connection of its own; the longest answer while the requests are
served, less the median of an idle broker, is the stall. Requests are as large as they may be, with as many small values
as they hold, and then larger, so that they are refused.
"""

from __future__ import annotations

import http.client
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc

from benchmarks.measure import Effort, Server, broker, progress
from headrace.v1 import item_service_pb2 as pb
from headrace.v1.attribute_value_pb2 import AttributeValue, Item
from tests.rpc import Client

TARGET_MS: Final = 100
CALL_SECONDS: Final = 120.0
# A list of empty texts: no item has more values in its 400 KB.
ITEM_VALUES: Final = 409_000
_PATH: Final = "/headrace.v1.ItemService/"


@dataclass(frozen=True, slots=True)
class Kind:
    """Requests that are sent at once."""

    name: str
    send: Callable[[], str]
    at_once: int = 1


def run(folder: Path, effort: Effort) -> dict[str, Any]:
    """Each kind is sent as often as there are runs; the longest stall of all counts."""
    results: dict[str, Any] = {}
    with broker(folder / "stalls", {"HEADRACE_AUTH": "none"}) as server, Client(server.endpoint) as client:
        host, port = server.http.rpartition(":")[::2]
        with _pinging(host, int(port)) as pings:
            time.sleep(1)
            idle = pings()
        base = statistics.median(idle)
        for kind in _kinds(server, client):
            stalls, seconds = [], []
            outcomes: set[str] = set()
            for _ in range(max(1, effort.runs - 2)):
                with _pinging(host, int(port)) as pings:
                    begin = time.perf_counter()
                    with ThreadPoolExecutor(kind.at_once) as pool:
                        outcomes |= set(pool.map(lambda _, send=kind.send: send(), range(kind.at_once)))
                    seconds.append(time.perf_counter() - begin)
                    stalls.append(max(pings(), default=0.0) - base)
            results[kind.name] = {
                "stall_ms": round(max(stalls) * 1000, 1),
                "seconds": round(statistics.median(seconds), 3),
                "answers": sorted(map(str, outcomes)),
            }
            progress(f"  {kind.name}: {results[kind.name]}")
    longest = max(results, key=lambda name: results[name]["stall_ms"])
    return {
        "what": "the longest answer of /healthz while requests of a kind are served, less an idle one's",
        "idle_ms": round(base * 1000, 2),
        "kinds": results,
        "longest": {longest: results[longest]["stall_ms"]},
        "target_ms": TARGET_MS,
        "beyond_target": {name: each["stall_ms"] for name, each in results.items() if each["stall_ms"] > TARGET_MS},
    }


_PINGER: Final = """
import http.client, sys, time
connection = http.client.HTTPConnection(sys.argv[1], int(sys.argv[2]), timeout=120)
connection.connect()
print("ready", flush=True)
while True:
    begin = time.perf_counter()
    connection.request("GET", "/healthz")
    connection.getresponse().read()
    print(time.perf_counter() - begin, flush=True)
    time.sleep(0.002)
"""


@contextmanager
def _pinging(host: str, port: int) -> Iterator[Callable[[], list[float]]]:
    """Another process that asks all the time; what is given ends it and returns how long each answer took."""
    command = [sys.executable, "-c", _PINGER, host, str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.05)

        def stop() -> list[float]:
            time.sleep(0.05)
            process.terminate()
            lines = process.stdout.read().splitlines() if process.stdout is not None else []
            return [float(line) for line in lines]

        try:
            yield stop
        finally:
            process.terminate()


def _kinds(server: Server, client: Client) -> Iterator[Kind]:
    table = client.create_table().name
    key = Item(attributes={"id": AttributeValue(s="a")})
    texts = [AttributeValue(s="")] * ITEM_VALUES
    many = Item(attributes={"id": AttributeValue(s="a")})
    many.attributes["l"].l.values.extend(texts)
    for place in range(64):
        wide = Item(attributes={f"attribute-{n}": AttributeValue(n=str(n)) for n in range(500)})
        wide.attributes["id"].s = f"w{place}"
        client.items.PutItem(pb.PutItemRequest(table_name=table, item=wide))

    def grpc_kind(name: str, method: str, request: Any, at_once: int = 1) -> Kind:
        data = request.SerializeToString()
        return Kind(f"grpc {name} {len(data) / 1e6:.1f} MB x {at_once}", lambda: _call(client, method, data), at_once)

    def http_kind(name: str, operation: str, request: Any, at_once: int = 1) -> Kind:
        body = json.dumps(request, separators=(",", ":")).encode()
        return Kind(
            f"http {name} {len(body) / 1e6:.1f} MB x {at_once}", lambda: _post(server, operation, body), at_once
        )

    # PutItem.
    yield grpc_kind("PutItem, all values it may have", "PutItem", pb.PutItemRequest(table_name=table, item=many))
    nulls = Item(attributes={f"a{n}": AttributeValue(null=True) for n in range(1_000_000)})
    yield grpc_kind("PutItem, 1,000,000 attributes", "PutItem", pb.PutItemRequest(table_name=table, item=nulls))
    del nulls
    numbers = Item(attributes={"id": AttributeValue(s="a")})
    numbers.attributes["n"].ns.values.extend(map(str, range(400_000)))
    yield grpc_kind("PutItem, NS of 400,000", "PutItem", pb.PutItemRequest(table_name=table, item=numbers))
    del numbers.attributes["n"].ns.values[80_000:]
    yield grpc_kind("PutItem, NS of 80,000", "PutItem", pb.PutItemRequest(table_name=table, item=numbers))
    wide = Item(attributes={f"attribute-{n}": AttributeValue(n="1") for n in range(1_000)})
    wide.attributes["id"].s = "a"
    yield grpc_kind("PutItem, 1,000 attributes", "PutItem", pb.PutItemRequest(table_name=table, item=wide), 200)
    # UpdateItem.
    update = pb.UpdateItemRequest(table_name=table, key=key, update_expression="SET a = :v0")
    for n in range(600_000):
        update.expression_attribute_values[f":v{n}"].n = "1"
    yield grpc_kind("UpdateItem, 600,000 values", "UpdateItem", update)
    update.expression_attribute_values.clear()
    for n in range(150_000):
        update.expression_attribute_values[f":v{n}"].n = "1"
    yield grpc_kind("UpdateItem, 150,000 values", "UpdateItem", update)
    update.expression_attribute_values.clear()
    update.expression_attribute_values[":v0"].l.values.extend(texts[:400_000])
    yield grpc_kind("UpdateItem, a list of 400,000", "UpdateItem", update)
    entries = update.expression_attribute_values[":v0"].m.attributes
    for n in range(120_000):
        entries[f"{n}"].s = ""
    yield grpc_kind("UpdateItem, a map of 120,000", "UpdateItem", update)
    # Batches and transactions.
    batch = pb.BatchWriteItemRequest()
    for n in range(9):
        put = batch.operations.add().put
        put.table_name = table
        put.item.CopyFrom(many)
        put.item.attributes["id"].s = f"b{n}"
    yield grpc_kind("BatchWriteItem, all values it may have", "BatchWriteItem", batch)
    stream = pb.WriteItemsRequest(table_name=table)
    for n in range(1_000):
        put = stream.operations.add().put
        put.item.CopyFrom(Item(attributes={f"attribute-{m}": AttributeValue(n="1") for m in range(600)}))
        put.item.attributes["id"].s = f"s{n}"
    yield grpc_kind("WriteItems, 600,000 attributes", "WriteItems", stream)
    updates = pb.WriteItemsRequest(table_name=table)
    each = updates.operations.add().update
    each.key.CopyFrom(key)
    each.update_expression = "SET a = :v0"
    for n in range(500_000):
        each.expression_attribute_values[f":v{n}"].n = "1"
    yield grpc_kind("WriteItems, 500,000 values", "WriteItems", updates)
    transaction = pb.TransactWriteItemsRequest()
    for n in range(100):
        put = transaction.transact_items.add().put
        put.table_name = table
        put.item.CopyFrom(Item(attributes={f"attribute-{m}": AttributeValue(n="1") for m in range(1_500)}))
        put.item.attributes["id"].s = f"t{n}"
    yield grpc_kind("TransactWriteItems, 150,000 attributes", "TransactWriteItems", transaction)
    # Expressions.
    values = {f":v{n}": AttributeValue(n="1") for n in range(400)}
    condition = pb.PutItemRequest(table_name=table, item=key)
    condition.condition_expression = " OR ".join(
        f"id IN ({', '.join(list(values)[n : n + 100])})" for n in range(0, 400, 100)
    )
    for name, value in values.items():
        condition.expression_attribute_values[name].CopyFrom(value)
    yield grpc_kind("PutItem, a condition of 400 values", "PutItem", condition, 100)
    # Reads.
    yield grpc_kind("Scan", "Scan", pb.ScanRequest(table_name=table), 200)
    filtered = pb.ScanRequest(table_name=table, filter_expression="absent = :v")
    filtered.expression_attribute_values[":v"].s = "x"
    yield grpc_kind("Scan with a filter", "Scan", filtered, 200)
    # The same over HTTP.
    yield http_kind("Scan", "Scan", {"TableName": table}, 200)
    values_of = {f":v{n}": {"N": "1"} for n in range(500_000)}
    yield http_kind(
        "UpdateItem, 500,000 values",
        "UpdateItem",
        {
            "TableName": table,
            "Key": {"id": {"S": "a"}},
            "UpdateExpression": "SET a = :v0",
            "ExpressionAttributeValues": values_of,
        },
    )
    listed = {"id": {"S": "a"}, "l": {"L": [{"S": ""}] * ITEM_VALUES}}
    yield http_kind("PutItem, all values it may have", "PutItem", {"TableName": table, "Item": listed})
    yield http_kind("GetItem, all values it may have", "GetItem", {"TableName": table, "Key": {"id": {"S": "a"}}})
    item = {f"attribute-{m}": {"N": "1"} for m in range(20_000)}
    writes = [{"PutRequest": {"Item": item | {"id": {"S": f"h{n}"}}}} for n in range(25)]
    yield http_kind("BatchWriteItem, 500,000 attributes", "BatchWriteItem", {"RequestItems": {table: writes}})
    text = "x" * 50_000
    statements = [{"Statement": f"INSERT INTO \"{table}\" VALUE {{'id': 'p{n}', 't': '{text}'}}"} for n in range(25)]
    yield http_kind("BatchExecuteStatement", "BatchExecuteStatement", {"Statements": statements}, 200)


def _call(client: Client, method: str, data: bytes) -> str:
    channel: Any = client.channel
    try:
        if method == "WriteItems":
            list(channel.stream_stream(_PATH + method)(iter((data,)), timeout=CALL_SECONDS))
        else:
            channel.unary_unary(_PATH + method)(data, timeout=CALL_SECONDS)
    except grpc.RpcError as error:
        return f"{error.code().name}: {(error.details() or '')[:60]}"
    return "OK"


def _post(server: Server, operation: str, body: bytes) -> str:
    host, port = server.http.rpartition(":")[::2]
    connection = http.client.HTTPConnection(host, int(port), timeout=CALL_SECONDS)
    try:
        connection.request("POST", "/", body, {"X-Amz-Target": f"DynamoDB_20120810.{operation}"})
        answer = connection.getresponse()
        content = answer.read()
        return "OK" if answer.status == 200 else f"{answer.status}: {json.loads(content)['message'][:60]}"
    except (ConnectionError, TimeoutError) as error:
        return type(error).__name__
    finally:
        connection.close()
