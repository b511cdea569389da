"""The log of a broker: a line an entry, each of key=value, and no word of clients that leave when they like."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from headrace.v1.consumer_service_pb2 import STARTING_POSITION_TRIM_HORIZON, ConsumeRequest
from headrace.v1.item_service_pb2 import QueryRequest, ScanRequest, WriteItemsRequest
from headrace.v1.replication_service_pb2 import ApplyChangesRequest, ReadSnapshotRequest
from headrace.v1.stream_service_pb2 import GetRecordsRequest
from tests.broker_process import BrokerProcess
from tests.rpc import TRIM_HORIZON, Client, TestTable, batch, put
from tests.values import item

LINE = re.compile(r"time=\S+ \S+ level=[A-Z]+ logger=\S+ message=.+")
# More than a client's window holds, so that the broker waits for it in the middle of a write.
RECORDS = 4_000
TEXT = "x" * 4_000
SHORT_S = 0.0005


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    folder: Path = tmp_path_factory.mktemp("logging")
    with BrokerProcess(folder, environment={"HEADRACE_LOG_LEVEL": "INFO"}) as running:
        yield running


@pytest.fixture(scope="module")
def client(process: BrokerProcess) -> Iterator[Client]:
    with Client(process.grpc) as stubs:
        yield stubs


@pytest.fixture(scope="module")
def table(client: Client) -> TestTable:
    made = client.create_table()
    for first in range(0, RECORDS, 200):
        client.write_items(batch(made.name, *(put(item(id=f"{n}", text=TEXT)) for n in range(first, first + 200))))
    return made


def endless(*first: Any) -> Callable[[], Iterator[Any]]:
    """Requests of a client that says no more, and does not end its side either."""

    def requests() -> Iterator[Any]:
        yield from first
        threading.Event().wait(2)

    return requests


def get_records(client: Client, table: TestTable, *, at_tip: bool = False) -> Any:
    iterator = client.iterator(table.stream_arn, TRIM_HORIZON)
    if at_tip:
        for response in client.read(iterator):
            iterator = response.next_shard_iterator
    return client.streams.GetRecords(GetRecordsRequest(shard_iterator=iterator, follow=True))


def consume(client: Client, table: TestTable) -> Any:
    start = ConsumeRequest()
    start.start.group_name = "leavers"
    start.start.stream_arn = table.stream_arn
    start.start.starting_position = STARTING_POSITION_TRIM_HORIZON
    return client.consumers.Consume(endless(start)())


def write_items(client: Client, table: TestTable) -> Any:
    many = [batch(table.name, *(put(item(id=f"w{n}", text="x")) for n in range(100))) for _ in range(50)]
    return client.items.WriteItems(endless(*many)())


def apply_changes(client: Client, table: TestTable) -> Any:
    return client.replication.ApplyChanges(endless(ApplyChangesRequest(table_name=table.name))())


def read_snapshot(client: Client, table: TestTable) -> Any:
    return client.replication.ReadSnapshot(ReadSnapshotRequest(table_name=table.name))


CALLS: dict[str, Callable[[Client, TestTable], Any]] = {
    "GetRecords": get_records,
    "GetRecords at the tip": lambda client, table: get_records(client, table, at_tip=True),
    "Consume": consume,
    "WriteItems": write_items,
    "ApplyChanges": apply_changes,
    "ReadSnapshot": read_snapshot,
}


@pytest.mark.parametrize("name", CALLS)
def test_a_stream_that_its_client_leaves_in_any_state_is_no_error(
    process: BrokerProcess, client: Client, table: TestTable, name: str
) -> None:
    before = process.log_size()
    # At once, after a response, and while the broker waits for a client that takes none.
    for taken in (0, 0, 1, 1):
        call = CALLS[name](client, table)
        for _ in range(taken):
            next(call)
        call.cancel()
        # The calls are served in order of their coming, so those before are known to the broker then.
        client.put(table.name, item(id="after"))
    # The whole connection goes.
    for _ in range(3):
        with Client(process.grpc) as leaver:
            CALLS[name](leaver, table)
            client.put(table.name, item(id="after"))
    assert_quiet(process, client, table, before)


@pytest.mark.parametrize("deadline_s", [SHORT_S, SHORT_S * 4, SHORT_S * 16])
def test_a_call_whose_deadline_passes_is_no_error(
    process: BrokerProcess, client: Client, table: TestTable, deadline_s: float
) -> None:
    before = process.log_size()
    query = QueryRequest(table_name=table.name, key_condition_expression="id = :v")
    query.expression_attribute_values[":v"].s = "1"
    calls: list[Callable[[], Any]] = [
        lambda: client.items.Query(query, timeout=deadline_s),
        lambda: client.items.Scan(ScanRequest(table_name=table.name), timeout=deadline_s),
        lambda: list(client.items.WriteItems(iter([WriteItemsRequest()] * 3), timeout=deadline_s)),
        lambda: list(client.replication.ReadSnapshot(ReadSnapshotRequest(table_name=table.name), timeout=deadline_s)),
    ]
    for call in calls * 10:
        try:
            call()
        except grpc.RpcError:
            continue
    assert_quiet(process, client, table, before)


def assert_quiet(process: BrokerProcess, client: Client, table: TestTable, since: int) -> None:
    """Nothing but information was logged since an offset, and each entry is one line."""
    client.put(table.name, item(id="last"))
    for line in process.log_tail(since).splitlines():
        assert LINE.fullmatch(line), line
        assert " level=INFO " in line, line
