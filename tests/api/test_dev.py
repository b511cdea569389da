"""`headrace dev`: a broker, a trigger host and a replicator by one command, seen from outside."""

from __future__ import annotations

import io
import os
import signal
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.v1 import consumer_service_pb2, replication_service_pb2, trigger_service_pb2
from tests.broker_process import BrokerProcess
from tests.conftest import eventually
from tests.rpc import Client
from tests.values import item

HANDLER = "def handler(event, context):\n    print('seen', event['Records'][0]['eventName'])\n"


@pytest.fixture
def dev(tmp_path: Path) -> Iterator[BrokerProcess]:
    with BrokerProcess(tmp_path, command="dev").start() as process:
        yield process


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def archive() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as zipped:
        zipped.writestr("seen.py", HANDLER)
    return content.getvalue()


def companions(dev: BrokerProcess) -> dict[str, int]:
    """The processes beside the broker, by their commands, when both are there."""
    found = {}
    for pid in children(dev.pid):
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        # Not the shell that is about to become one.
        if arguments[1:3] == [b"-m", b"headrace.cli"]:
            found[arguments[3].decode()] = pid
    assert found.keys() == {"trigger-host", "replicator"}
    return found


# As the system ends one when memory is short.
def test_a_companion_that_dies_is_told_at_once_and_started_again(dev: BrokerProcess) -> None:
    before = eventually(lambda: companions(dev))
    os.kill(before["trigger-host"], signal.SIGKILL)
    line = "a companion has ended command=trigger-host exit_code=-9 starts_again_in_seconds=1"
    eventually(lambda: line in dev.log_tail())
    after = eventually(lambda: companions(dev))
    assert after["trigger-host"] != before["trigger-host"]
    assert after["replicator"] == before["replicator"]
    assert dev.stop() == 0
    assert dev.log_tail().count("a companion has ended") == 1


# The node's files are private; those that a function makes are the user's business.
def test_functions_keep_the_umask_of_the_user(dev: BrokerProcess) -> None:
    def umask(pid: int) -> int:
        (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("Umask:")]
        return int(line.split()[1], 8)

    own = umask(os.getpid())
    assert own != 0o077, "the test would not notice"
    assert [umask(pid) for pid in eventually(lambda: companions(dev)).values()] == [own, own]
    assert umask(dev.pid) == 0o077


# What the three are for: a write runs a trigger and reaches a replica, and nothing else was started by hand.
def test_one_command_runs_triggers_and_replicas_and_ends_them(dev: BrokerProcess) -> None:
    with Client(dev.grpc) as client:
        orders = client.create_table()
        client.triggers.CreateTrigger(
            trigger_service_pb2.CreateTriggerRequest(
                trigger_name="seen",
                table_name=orders.name,
                function=trigger_service_pb2.Function(handler="seen.handler", runtime="python"),
                code=archive(),
                starting_position=consumer_service_pb2.STARTING_POSITION_TRIM_HORIZON,
            )
        )
        client.replication.CreateReplica(
            replication_service_pb2.CreateReplicaRequest(
                replica_name="copy",
                source_table_name=orders.name,
                target_endpoint=dev.grpc,
                target_table_name=f"{orders.name}-copy",
            )
        )
        client.put(orders.name, item(dict.fromkeys(orders.key_names, "a")))

        def is_handled() -> bool:
            request = trigger_service_pb2.DescribeTriggerRequest(trigger_name="seen")
            return client.triggers.DescribeTrigger(request).trigger.counts.records == 1

        def is_copied() -> bool:
            request = replication_service_pb2.DescribeReplicaRequest(replica_name="copy")
            progress = client.replication.DescribeReplica(request).replica.progress
            return progress.items_copied + progress.records_applied >= 1

        eventually(is_handled, timeout_s=30)
        eventually(is_copied, timeout_s=30)
    started = children(dev.pid)
    assert len(started) == 2
    assert dev.stop() == 0
    eventually(lambda: not any(is_alive(pid) for pid in started), timeout_s=10)
