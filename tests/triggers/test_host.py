"""Triggers end to end: a real broker, a real trigger host, real workers; and what is left of it after a kill."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Self

import pytest
from click.testing import CliRunner

from headrace.cli import main
from headrace.v1 import consumer_service_pb2
from headrace.v1 import trigger_service_pb2 as pb
from headrace.v1.attribute_value_pb2 import AttributeValue, Item
from tests.broker_process import BrokerProcess
from tests.companion_process import CompanionProcess
from tests.conftest import eventually
from tests.other_user import ask_for_work, needs_another_user
from tests.rpc import Client, TestTable
from tests.triggers.hosts import Headrace, create, headrace_at, item
from tests.triggers.noting_function import NotingFunction

KILL_ROUNDS = 6


def logged(client: Client, table: TestTable) -> list[str]:
    """The sequence numbers of a table's stream."""
    return [record.sequence_number for record in client.records(table.stream_arn)]


def counts(headrace: Headrace, trigger: str) -> dict[str, Any]:
    counts: dict[str, Any] = headrace("trigger", "describe", trigger)["counts"]
    return counts


def assert_at_least_once_without_gap(batches: Sequence[Sequence[str]], expected: Sequence[str]) -> None:
    """Each batch is a run of the stream that begins no later than where the ones before it ended."""
    place = {number: index for index, number in enumerate(expected)}
    done = 0
    for batch in batches:
        begin = place[batch[0]]
        assert list(batch) == list(expected[begin : begin + len(batch)]), "a batch leaves out or turns records"
        assert begin <= done, f"a gap: {done} records were done when a batch began with record {begin}"
        done = max(done, begin + len(batch))
    assert done == len(expected), f"{done} of {len(expected)} records"


@pytest.mark.usefixtures("host")
def test_a_function_gets_every_change_and_the_log_and_counts_can_be_seen(
    headrace: Headrace, client: Client, table: TestTable, function: NotingFunction, trigger: str
) -> None:
    client.put(table.name, item("a", 1))
    function.rewrite("print('records:', len(event['Records']))")
    create(headrace, trigger, table, function)
    client.put(table.name, item("a", 2))
    client.delete(table.name, Item(attributes={"id": AttributeValue(s="a")}))
    eventually(lambda: len(function.sequence_numbers()) == 3)
    assert function.sequence_numbers() == logged(client, table)

    records = [record for call in function.calls() for record in call.event["Records"]]
    assert [record["eventName"] for record in records] == ["INSERT", "MODIFY", "REMOVE"]
    assert {record["eventSourceARN"] for record in records} == {table.stream_arn}
    assert records[1]["dynamodb"]["OldImage"] == {"id": {"S": "a"}, "value": {"N": "1"}}
    assert records[1]["dynamodb"]["NewImage"] == {"id": {"S": "a"}, "value": {"N": "2"}}

    eventually(lambda: counts(headrace, trigger)["records"] == 3)
    described = headrace("trigger", "describe", trigger)
    assert described["last_processing_result"] == "OK"
    assert described["counts"]["invocations"] == len(function.calls())
    assert described["counts"]["errors"] == 0
    assert described["counts"]["duration_ms"] > 0
    assert 0 <= described["counts"]["iterator_age_ms"] < 60_000

    def lines() -> list[str]:
        printed = CliRunner().invoke(main, ["trigger", "logs", trigger, "--endpoint", client.endpoint]).stdout
        return printed.splitlines()

    eventually(lambda: sum("REPORT RequestId" in line for line in lines()) == len(function.calls()))
    assert any("  records: " in line for line in lines())


@pytest.mark.usefixtures("host")
def test_batches_are_no_larger_than_asked(
    headrace: Headrace, client: Client, table: TestTable, function: NotingFunction, trigger: str
) -> None:
    for number in range(25):
        client.put(table.name, item(f"k{number}", number))
    create(headrace, trigger, table, function, "--batch-size", "10")
    eventually(lambda: len(function.sequence_numbers()) == 25)
    assert [len(call.sequence_numbers) for call in function.calls()] == [10, 10, 5]
    assert len({call.pid for call in function.calls()}) == 1, "the worker is kept warm"


# The shard waits for a batch that fails, as in Lambda; new code lets it go on with the same records.
@pytest.mark.usefixtures("host")
def test_a_batch_that_fails_is_tried_again_until_the_code_is_mended(
    headrace: Headrace, client: Client, table: TestTable, function: NotingFunction, trigger: str
) -> None:
    function.rewrite("raise ValueError('not yet')")
    create(headrace, trigger, table, function, "--batch-size", "1")
    client.put(table.name, item("a", 1))
    client.put(table.name, item("a", 2))
    first, second = logged(client, table)
    eventually(lambda: len(function.calls()) >= 3)
    assert set(function.sequence_numbers()) == {first}
    eventually(lambda: counts(headrace, trigger)["errors"] >= 3)
    described = headrace("trigger", "describe", trigger)
    assert described["last_processing_result"] == "PROBLEM: Function call failed"
    assert described["counts"]["records"] == 0

    function.rewrite()
    headrace("trigger", "update", trigger, "--code", str(function.file))
    eventually(lambda: second in function.sequence_numbers())
    assert_at_least_once_without_gap([call.sequence_numbers for call in function.calls()], [first, second])
    eventually(lambda: headrace("trigger", "describe", trigger)["last_processing_result"] == "OK")


# More waits than a host holds in memory, and an event carries 6 MB: sessions are opened anew and batches cut, and still
# nothing is left out.
@pytest.mark.usefixtures("host")
def test_large_records_behind_a_failing_batch_are_neither_held_in_memory_nor_lost(
    headrace: Headrace, client: Client, table: TestTable, function: NotingFunction, trigger: str
) -> None:
    function.rewrite("raise ValueError('not yet')")
    create(headrace, trigger, table, function)
    for number in range(60):
        large = item(f"k{number}", number)
        large.attributes["text"].s = "x" * 390_000
        client.put(table.name, large)
    eventually(lambda: len(function.calls()) >= 4)
    function.rewrite()
    headrace("trigger", "update", trigger, "--code", str(function.file))
    expected = logged(client, table)
    eventually(lambda: len(set(function.sequence_numbers())) == 60, timeout_s=20)
    assert_at_least_once_without_gap([call.sequence_numbers for call in function.calls()], expected)
    assert max(len(call.sequence_numbers) for call in function.calls()) <= 6 * 1024 * 1024 // 390_000


@pytest.mark.usefixtures("host")
def test_a_disabled_trigger_keeps_its_place(
    headrace: Headrace, client: Client, table: TestTable, function: NotingFunction, trigger: str
) -> None:
    create(headrace, trigger, table, function)
    client.put(table.name, item("a", 1))
    eventually(lambda: len(function.sequence_numbers()) == 1)
    headrace("trigger", "disable", trigger)
    group = f"trigger:{trigger}"
    eventually(lambda: headrace("consumer", "describe", group)["member_names"] == [])
    client.put(table.name, item("a", 2))
    headrace("trigger", "enable", trigger)
    eventually(lambda: len(function.sequence_numbers()) == 2)
    assert function.sequence_numbers() == logged(client, table), "neither left out nor done again"


@pytest.mark.usefixtures("host")
def test_a_deleted_trigger_ends_and_leaves_nothing(
    headrace: Headrace, client: Client, table: TestTable, function: NotingFunction, trigger: str
) -> None:
    create(headrace, trigger, table, function)
    client.put(table.name, item("a", 1))
    eventually(lambda: len(function.sequence_numbers()) == 1)
    (call,) = function.calls()
    CliRunner().invoke(main, ["trigger", "delete", trigger, "--yes", "--endpoint", client.endpoint])
    eventually(lambda: not Path(f"/proc/{call.pid}").exists())
    client.put(table.name, item("a", 2))
    assert f"trigger:{trigger}" not in [group["group_name"] for group in headrace("consumer", "list")]
    assert len(function.calls()) == 1


@pytest.mark.usefixtures("host")
def test_latest_begins_with_what_comes_after(
    headrace: Headrace, client: Client, table: TestTable, function: NotingFunction, trigger: str
) -> None:
    client.put(table.name, item("a", 1))
    create(headrace, trigger, table, function, "--from", "LATEST")
    group = f"trigger:{trigger}"
    eventually(lambda: group in [each["group_name"] for each in headrace("consumer", "list")])
    eventually(lambda: headrace("consumer", "describe", group)["member_names"])
    client.put(table.name, item("a", 2))
    eventually(function.calls)
    assert function.sequence_numbers() == logged(client, table)[1:]


# Everything stays with the function, however often another user of the machine asks for work.
@needs_another_user
@pytest.mark.usefixtures("host")
def test_another_user_of_the_machine_takes_no_events(
    headrace: Headrace, client: Client, table: TestTable, function: NotingFunction, trigger: str
) -> None:
    create(headrace, trigger, table, function, "--batch-size", "1")
    client.put(table.name, item("a", 0))
    (call,) = eventually(function.calls)
    environment = Path(f"/proc/{call.pid}/environ").read_bytes().split(b"\0")
    (address,) = [each.partition(b"=")[2] for each in environment if each.startswith(b"AWS_LAMBDA_RUNTIME_API=")]
    with ThreadPoolExecutor(2) as pollers:
        asking = [pollers.submit(ask_for_work, address.decode(), 50) for _ in range(2)]
        for number in range(1, 60):
            client.put(table.name, item("a", number))
        asked = [each.result() for each in asking]
    eventually(lambda: len(set(function.sequence_numbers())) == 60, timeout_s=20)
    assert [(each.stdout, each.returncode == 9) for each in asked] == [("", False)] * 2
    assert function.sequence_numbers() == logged(client, table)
    assert counts(headrace, trigger)["errors"] == 0


# The host comes much later: nothing that was written after the trigger was created is left out.
def test_latest_is_decided_when_the_trigger_is_created(
    headrace: Headrace, client: Client, table: TestTable, function: NotingFunction, trigger: str, tmp_path: Path
) -> None:
    client.put(table.name, item("a", 1))
    function.rewrite(before="assert os.environ['GREETING'] == 'hello'")
    create(headrace, trigger, table, function, "--from", "LATEST", "--env", "GREETING=hello")
    client.put(table.name, item("a", 2))
    client.put(table.name, item("a", 3))
    with CompanionProcess("trigger-host", client.endpoint, tmp_path) as host:
        host.wait_ready()
        eventually(lambda: len(function.sequence_numbers()) == 2)
    assert function.sequence_numbers() == logged(client, table)[1:]


@pytest.mark.usefixtures("host")
def test_a_folder_with_packages_is_run_and_the_broker_is_found(
    headrace: Headrace, client: Client, table: TestTable, tmp_path: Path, trigger: str
) -> None:
    target = client.create_table(view_type=None)
    code = tmp_path / "code" / "shop"
    code.mkdir(parents=True)
    (code / "__init__.py").touch()
    (code / "totals.py").write_text("def total(event):\n    return len(event['Records'])\n")
    (code / "app.py").write_text(
        "import headrace\nfrom shop.totals import total\nclient = headrace.Client()\n"
        f"def count(event, context):\n    client.put_item({target.name!r}, {{'id': 'total', 'n': total(event)}})\n"
    )
    client.put(table.name, item("a", 1))
    handler = f"{code / 'app.py'}:count"
    made = headrace(
        "trigger", "create", trigger, "--table", table.name, "--handler", handler, "--code", str(code.parent)
    )
    assert made["function"]["handler"] == "shop.app.count"
    eventually(lambda: client.get(target.name, Item(attributes={"id": AttributeValue(s="total")})))


def test_sigterm_lets_the_call_finish_and_acks_it(
    headrace: Headrace, client: Client, table: TestTable, function: NotingFunction, trigger: str, tmp_path: Path
) -> None:
    finished = tmp_path / "finished"
    function.rewrite(f"time.sleep(1.0)\nopen({str(finished)!r}, 'a').write('x')")
    create(headrace, trigger, table, function)
    client.put(table.name, item("a", 1))
    with CompanionProcess("trigger-host", client.endpoint, tmp_path) as host:
        host.wait_ready()
        (call,) = eventually(function.calls)
        assert not finished.exists()
        host.terminate()
        assert host.wait() == 0
    assert finished.read_text() == "x"
    assert not Path(f"/proc/{call.pid}").exists()
    assert counts(headrace, trigger)["records"] == 1
    group = headrace("consumer", "describe", f"trigger:{trigger}")
    assert [shard["sequence_number"] for shard in group["shards"]] == logged(client, table)


# Nobody would enforce the time limit of a worker whose host is gone, and the next host starts another for its batch.
def test_a_worker_dies_with_its_host_and_the_batch_comes_again(
    headrace: Headrace, client: Client, table: TestTable, function: NotingFunction, trigger: str, tmp_path: Path
) -> None:
    function.rewrite("time.sleep(600)")
    create(headrace, trigger, table, function, "--timeout", "900")
    client.put(table.name, item("a", 1))
    with CompanionProcess("trigger-host", client.endpoint, tmp_path) as host:
        (call,) = eventually(function.calls)
        host.kill()
    eventually(lambda: not Path(f"/proc/{call.pid}").exists())
    function.rewrite()
    headrace("trigger", "update", trigger, "--code", str(function.file))
    with CompanionProcess("trigger-host", client.endpoint, tmp_path):
        eventually(lambda: len(function.calls()) == 2)
    assert function.sequence_numbers() == logged(client, table) * 2


def test_a_second_host_stands_by_and_takes_over(
    headrace: Headrace, client: Client, table: TestTable, function: NotingFunction, trigger: str, tmp_path: Path
) -> None:
    create(headrace, trigger, table, function)
    group = f"trigger:{trigger}"
    with CompanionProcess("trigger-host", client.endpoint, tmp_path) as first:
        client.put(table.name, item("a", 1))
        (call,) = eventually(function.calls)
        with CompanionProcess("trigger-host", client.endpoint, tmp_path):
            eventually(lambda: len(headrace("consumer", "describe", group)["member_names"]) == 2)
            client.put(table.name, item("a", 2))
            eventually(lambda: len(function.sequence_numbers()) == 2)
            assert {each.pid for each in function.calls()} == {call.pid}, "only the first host runs it"
            first.kill()
            client.put(table.name, item("a", 3))
            eventually(lambda: len(set(function.sequence_numbers())) == 3)
    assert_at_least_once_without_gap([call.sequence_numbers for call in function.calls()], logged(client, table))


class Writing:
    """Writes to a few keys from a thread, until told to stop. A write that the broker refuses is tried again."""

    def __init__(self, client: Client, table: TestTable, keys: int = 5) -> None:
        self._client = client
        self._table = table
        self._keys = keys
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.written = 0

    def _run(self) -> None:
        while not self._stop.wait(0.002):
            self._client.put(self._table.name, item(f"k{self.written % self._keys}", self.written))
            self.written += 1

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def _more_than(function: NotingFunction, count: int) -> bool:
    return len(set(function.sequence_numbers())) > count


@pytest.mark.crash
@pytest.mark.timeout(180)
def test_killing_the_host_again_and_again_loses_nothing(
    headrace: Headrace,
    client: Client,
    table: TestTable,
    function: NotingFunction,
    trigger: str,
    tmp_path: Path,
    rng: Random,
) -> None:
    # A call takes a while before its effect, so that most kills hit one: an ack before its end would be a gap.
    function.rewrite(before="time.sleep(0.02)")
    create(headrace, trigger, table, function, "--batch-size", "7")
    with Writing(client, table) as writing:
        for _ in range(KILL_ROUNDS):
            with CompanionProcess("trigger-host", client.endpoint, tmp_path) as host:
                # Once a new host has begun to work, kill it a random moment later: in a call, between two, in an ack.
                eventually(partial(_more_than, function, len(set(function.sequence_numbers()))), timeout_s=20)
                time.sleep(rng.uniform(0.0, 0.3))
                host.kill()
    assert writing.written > 50
    expected = logged(client, table)
    with CompanionProcess("trigger-host", client.endpoint, tmp_path):
        eventually(lambda: set(function.sequence_numbers()) == set(expected), timeout_s=30)
    assert_at_least_once_without_gap([call.sequence_numbers for call in function.calls()], expected)


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[BrokerProcess]:
    """A broker of this test's own, to be killed."""
    with BrokerProcess(tmp_path / "broker") as process:
        yield process


def test_the_host_goes_on_when_the_broker_comes_back(
    own_broker: BrokerProcess, function: NotingFunction, tmp_path: Path
) -> None:
    headrace = headrace_at(own_broker.grpc)
    with CompanionProcess("trigger-host", own_broker.grpc, tmp_path):
        with Client(own_broker.grpc) as client:
            table = client.create_table()
            create(headrace, "orders", table, function, "--batch-size", "3")
            for number in range(10):
                client.put(table.name, item("a", number))
            eventually(lambda: len(set(function.sequence_numbers())) == 10)
        own_broker.kill()
        own_broker.start(keep_ports=True)
        with Client(own_broker.grpc) as client:
            for number in range(10, 20):
                client.put(table.name, item("a", number))
            eventually(lambda: len(set(function.sequence_numbers())) == 20, timeout_s=20)
            batches = [call.sequence_numbers for call in function.calls()]
            assert_at_least_once_without_gap(batches, logged(client, table))
            # What was done while the broker was away is counted, too.
            eventually(lambda: counts(headrace, "orders")["records"] >= 20)


def test_a_host_waits_for_the_broker_to_come_and_stops_while_it_waits(
    own_broker: BrokerProcess, tmp_path: Path
) -> None:
    endpoint = own_broker.grpc
    own_broker.kill()
    with CompanionProcess("trigger-host", endpoint, tmp_path) as host:
        assert not host.says_ready(1.0)
        own_broker.start(keep_ports=True)
        assert host.says_ready(10.0)
        own_broker.kill()
        host.terminate()
        assert host.wait() == 0


# A broker that is stuck answers no call, and the host must not wait for the deadline of each.
def test_a_host_stops_in_time_when_the_broker_is_stuck(
    own_broker: BrokerProcess, function: NotingFunction, tmp_path: Path
) -> None:
    with Client(own_broker.grpc) as client, CompanionProcess("trigger-host", own_broker.grpc, tmp_path) as host:
        table = client.create_table()
        create(headrace_at(own_broker.grpc), "orders", table, function)
        client.put(table.name, item("a", 1))
        eventually(function.calls)
        os.kill(own_broker.pid, signal.SIGSTOP)
        try:
            started = time.monotonic()
            host.terminate()
            assert host.wait() == 0
            assert time.monotonic() - started < 10
        finally:
            os.kill(own_broker.pid, signal.SIGCONT)


@pytest.mark.usefixtures("host")
def test_code_that_is_no_archive_is_a_problem_that_can_be_seen(
    headrace: Headrace, client: Client, table: TestTable, trigger: str
) -> None:
    client.triggers.CreateTrigger(
        pb.CreateTriggerRequest(
            trigger_name=trigger,
            table_name=table.name,
            function=pb.Function(handler="app.handler", runtime="python"),
            code=b"not a zip archive",
            starting_position=consumer_service_pb2.STARTING_POSITION_TRIM_HORIZON,
        )
    )

    def result() -> str:
        text: str = headrace("trigger", "describe", trigger)["last_processing_result"]
        return text

    eventually(lambda: result().startswith("PROBLEM: the code is not a readable zip archive"))
