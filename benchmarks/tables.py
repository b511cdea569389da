"""What the table layer costs: a conditional UpdateItem over a plain PutItem, pages of Query, a Scan of much."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from benchmarks import http2_load
from benchmarks.items import create_table, fill, item_of_about
from benchmarks.measure import Effort, Server, alternate, broker, medians
from benchmarks.put_item import ITEM_BYTES, PUT_ITEM, load
from headrace import Client as PythonClient
from headrace.v1.item_service_pb2 import PutItemRequest, QueryRequest, ScanRequest, UpdateItemRequest
from tests.rpc import NEW_AND_OLD_IMAGES, Client
from tests.values import item, to_attribute_value, value

UPDATE_ITEM: Final = "/headrace.v1.ItemService/UpdateItem"
UPDATE_COST_MAX: Final = 1.5
QUERY_TARGET_MB: Final = 30
# Ten pages.
QUERY_ITEMS: Final = 20_000
SCAN_ITEMS: Final = 1_000_000
SCAN_ITEMS_QUICK: Final = 100_000
_QUICK_SECONDS: Final = 2.0


def run(folder: Path, effort: Effort) -> dict[str, Any]:
    """Each part on a broker of its own."""
    return {"update_item": _update_item(folder, effort), "query": _query(folder, effort), "scan": _scan(folder, effort)}


def _update_item(folder: Path, effort: Effort) -> dict[str, Any]:
    """Each update, and each put that it is compared with, changes an item that is there already."""
    mark = http2_load.NUMBER_MARK.decode()
    with broker(folder / "update_item") as target:
        with Client(target.endpoint) as client:
            table = create_table(client, view_type=NEW_AND_OLD_IMAGES)
        make, put = (
            PutItemRequest(table_name=table.name, item=item_of_about(ITEM_BYTES, mark, remark)) for remark in "ab"
        )
        update = UpdateItemRequest(
            table_name=table.name,
            key=item(id=mark),
            update_expression="SET #d = #d + :one",
            condition_expression="attribute_exists(id) AND #d < :most",
            expression_attribute_names={"#d": "delay"},
            expression_attribute_values={
                name: to_attribute_value(value(number)) for name, number in ((":one", 1), (":most", 100))
            },
        )
        numbers = iter(range(0, 10**12, 10_000_000))
        firsts: list[int] = []

        def puts() -> dict[str, Any]:
            firsts.append(next(numbers))
            # It makes more in a longer time than either changes.
            load(target, PUT_ITEM, make, effort.seconds * 1.5, firsts[-1])
            return load(target, PUT_ITEM, put, effort.seconds, firsts[-1])

        results = alternate(
            effort.runs, put=puts, update=lambda: load(target, UPDATE_ITEM, update, effort.seconds, firsts[-1])
        )
    put_figures, update_figures = medians(results["put"]), medians(results["update"])
    return {
        "what": f"UpdateItem with a condition and a sum, and PutItem, of {ITEM_BYTES} B items that are there",
        "put": put_figures,
        "update": update_figures,
        "cost": round(put_figures["per_second"] / update_figures["per_second"], 2),
        "cost_of_server_cpu": round(
            update_figures["server_cpu_us_per_call"] / put_figures["server_cpu_us_per_call"], 2
        ),
        "cost_max": UPDATE_COST_MAX,
    }


def _query(folder: Path, effort: Effort) -> dict[str, Any]:
    """One partition, page after page, by a generated stub and by the Python client."""
    with broker(folder / "query") as target, Client(target.endpoint) as client:
        table = client.create_table(keys="carrier:S id:S", view_type=None)
        fill(client, table.name, range(QUERY_ITEMS), ITEM_BYTES)
        request = QueryRequest(
            table_name=table.name,
            key_condition_expression="carrier = :c",
            expression_attribute_values={":c": to_attribute_value(value("UA"))},
        )

        def by_stub() -> int:
            count = 0
            request.ClearField("exclusive_start_key")
            while True:
                page = client.items.Query(request)
                count += page.count
                if not page.HasField("last_evaluated_key"):
                    return count
                request.exclusive_start_key.CopyFrom(page.last_evaluated_key)

        with PythonClient(target.endpoint) as python:

            def by_client() -> int:
                items = python.query(table.name, key_condition="carrier = :c", values={":c": "UA"})
                return sum(1 for _ in items)

            results = alternate(
                effort.runs,
                stub=lambda: _read(target, by_stub, QUERY_ITEMS),
                client=lambda: _read(target, by_client, QUERY_ITEMS),
            )
    return {
        "what": f"Query of a partition of {QUERY_ITEMS} items of {ITEM_BYTES} B in pages of 1 MB",
        "stub": medians(results["stub"]),
        "python_client": medians(results["client"]),
        "target_mb_per_second": QUERY_TARGET_MB,
    }


def _scan(folder: Path, effort: Effort) -> dict[str, Any]:
    """All of a large table; what the broker's memory grows by."""
    count = SCAN_ITEMS_QUICK if effort.seconds < _QUICK_SECONDS else SCAN_ITEMS
    with broker(folder / "scan") as target, Client(target.endpoint) as client:
        table = client.create_table(view_type=None)
        fill(client, table.name, range(count), ITEM_BYTES)
        before = most = target.memory_mb()

        def scan() -> int:
            nonlocal most
            found, request = 0, ScanRequest(table_name=table.name)
            while True:
                page = client.items.Scan(request)
                found += page.count
                most = max(most, target.memory_mb())
                if not page.HasField("last_evaluated_key"):
                    return found
                request.exclusive_start_key.CopyFrom(page.last_evaluated_key)

        figures = _read(target, scan, count)
    return {
        "what": f"Scan of {count} items of {ITEM_BYTES} B in pages of 1 MB, by a stub",
        **figures,
        "server_memory_mb_before": round(before),
        "server_memory_mb_most": round(most),
    }


def _read(server: Server, read: Callable[[], int], expected: int) -> dict[str, Any]:
    cpu, begin = server.cpu_seconds(), time.monotonic()
    count = read()
    seconds = time.monotonic() - begin
    assert count == expected, (count, expected)
    return {
        "items_per_second": round(count / seconds),
        "mb_per_second": round(count * ITEM_BYTES / seconds / 1e6, 1),
        "server_cpu_us_per_item": round((server.cpu_seconds() - cpu) / count * 1e6, 1),
    }
