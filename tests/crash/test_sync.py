"""An acknowledged write is synced, and nothing is shown to anybody before it is.

SIGKILL cannot show this, for the kernel keeps what a dead process wrote. So a gate is preloaded before fsync and
fdatasync (sync_gate.c): while it is shut, whatever the broker acknowledges or shows, it would lose with the power.
"""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from headrace.v1.item_service_pb2 import PutItemRequest
from headrace.v1.stream_service_pb2 import GetRecordsRequest
from tests.broker_process import BrokerProcess
from tests.conftest import eventually
from tests.rpc import LATEST, Client, TestTable, batch, put, refusal_of
from tests.values import attributes, item

COMPILER = shutil.which("cc") or shutil.which("gcc")
# Long enough for a broker that does not wait for the sync to give itself away: it answers in about a millisecond.
HELD_S = 0.5

pytestmark = [
    pytest.mark.crash,
    pytest.mark.skipif(COMPILER is None, reason="the gate before fsync is C and needs a compiler"),
]


class Gate:
    """The gate before fsync and fdatasync of one broker."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def shut(self) -> None:
        self._set("hold")

    def open(self) -> None:
        self._set("pass")

    def fail(self) -> None:
        self._set("fail")

    def _set(self, state: str) -> None:
        # Renamed into place, so that the broker never reads half of it.
        new = self.path.with_suffix(".new")
        new.write_text(state)
        new.rename(self.path)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    assert COMPILER is not None
    target = tmp_path_factory.mktemp("gate") / "sync_gate.so"
    source = Path(__file__).with_name("sync_gate.c")
    subprocess.run([COMPILER, "-shared", "-fPIC", "-o", target, source, "-ldl"], check=True, timeout=60)
    return target


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    gate = Gate(tmp_path / "gate")
    yield gate
    # A broker that waits at the gate could not stop.
    gate.open()


@pytest.fixture
def gated(tmp_path: Path, library: Path, gate: Gate) -> Iterator[BrokerProcess]:
    environment = {"LD_PRELOAD": str(library), "HEADRACE_TEST_SYNC_GATE": str(gate.path)}
    process = BrokerProcess(tmp_path, environment=environment).start()
    yield process
    gate.open()
    process.kill()


@pytest.fixture
def client(gated: BrokerProcess) -> Iterator[Client]:
    with Client(gated.grpc) as stubs:
        yield stubs


@pytest.fixture
def table(client: Client) -> TestTable:
    return client.create_table()


def put_in_background(client: Client, table: TestTable, content: dict[str, object]) -> threading.Thread:
    writer = threading.Thread(target=client.put, args=(table.name, item(content)))
    writer.start()
    return writer


def test_a_put_is_acknowledged_only_after_the_sync(client: Client, table: TestTable, gate: Gate) -> None:
    gate.shut()
    request = PutItemRequest(table_name=table.name, item=item(id="a"))
    with pytest.raises(grpc.RpcError) as caught:
        client.items.PutItem(request, timeout=HELD_S)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    gate.open()
    client.put(table.name, item(id="b"))


def test_a_batch_is_answered_only_after_the_sync(client: Client, table: TestTable, gate: Gate) -> None:
    gate.shut()
    with pytest.raises(grpc.RpcError) as caught:
        list(client.items.WriteItems(iter([batch(table.name, put(item(id="a")))]), timeout=HELD_S))
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def assert_not_shown(read: Callable[[], object], before: object) -> None:
    """A read may show what was there before, or wait for the sync; it may not show what could still be lost."""
    try:
        seen = read()
    except grpc.RpcError as error:
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED  # noqa: PT017
    else:
        assert seen == before


# RocksDB shows a write to readers before it is synced; the broker must not.
def test_readers_see_a_write_only_after_the_sync(client: Client, table: TestTable, gate: Gate) -> None:
    client.put(table.name, item(id="a", n=1))
    latest = client.iterator(table.stream_arn, LATEST)
    gate.shut()
    writer = put_in_background(client, table, {"id": "a", "n": 2})
    follower = client.streams.GetRecords(GetRecordsRequest(shard_iterator=latest, follow=True), timeout=HELD_S)
    assert list(next(follower).records) == []
    with pytest.raises(grpc.RpcError) as caught:
        next(follower)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    with Client(client.endpoint, deadline_s=HELD_S) as impatient:
        assert_not_shown(lambda: impatient.get(table.name, item(id="a")), attributes(id="a", n=1))
        assert_not_shown(lambda: list(impatient.contents(table).values()), [attributes(id="a", n=1)])
        assert_not_shown(lambda: len(impatient.records(table.stream_arn)), 1)
    gate.open()
    writer.join(20)
    assert client.get(table.name, item(id="a")) == attributes(id="a", n=2)
    assert len(client.records(table.stream_arn)) == 2


def test_writes_that_waited_for_the_sync_are_there_after_it(client: Client, table: TestTable, gate: Gate) -> None:
    gate.shut()
    writers = [put_in_background(client, table, {"id": str(n)}) for n in range(10)]
    gate.open()
    for writer in writers:
        writer.join(20)
    assert len(client.contents(table)) == len(client.records(table.stream_arn)) == 10


# A disk that stalls must not fill the memory with what waits for it: beyond a bound writers are told to come again.
def test_more_than_may_wait_is_throttled_and_what_was_taken_is_written(
    client: Client, table: TestTable, gate: Gate
) -> None:
    gate.shut()
    text = "x" * 400_000
    # 80 MB, where at most 64 MiB may wait.
    requests = [PutItemRequest(table_name=table.name, item=item(id=str(n), text=text)) for n in range(200)]
    calls = [client.items.PutItem.future(request, timeout=60) for request in requests]
    refusals = [refusal_of(error) for call in _first_done(calls) if (error := call.exception()) is not None]
    assert {(refusal.code.name, refusal.reason) for refusal in refusals} == {("RESOURCE_EXHAUSTED", "THROTTLING")}
    assert all(refusal.retry_delay_s for refusal in refusals)
    gate.open()
    written = sum(call.exception() is None for call in calls)
    assert 0 < written < len(calls)
    assert len(client.contents(table)) == len(client.records(table.stream_arn)) == written


def _first_done(calls: list[Any]) -> list[Any]:
    """The calls that ended already, once there is one."""
    return eventually(lambda: [call for call in calls if call.done()])


# After a sync that failed nobody knows what is on disk, even if the next one succeeds. The node must stop.
def test_a_failed_sync_is_never_acknowledged_and_stops_the_broker(
    client: Client, table: TestTable, gate: Gate, gated: BrokerProcess
) -> None:
    client.put(table.name, item(id="before"))
    gate.fail()
    with pytest.raises(grpc.RpcError) as caught:
        client.put(table.name, item(id="lost"))
    assert caught.value.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL}
    gate.open()
    with pytest.raises(grpc.RpcError):
        client.put(table.name, item(id="after"))
    assert gated.wait() == 1
    gated.start()
    with Client(gated.grpc) as again:
        eventually(lambda: again.get(table.name, item(id="before")) is not None)
        assert again.get(table.name, item(id="after")) is None
        assert len(again.contents(table)) == len(again.records(table.stream_arn))
