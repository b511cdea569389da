"""The broker as a process: how it starts, what it refuses to start with, how it stops, what a restart keeps."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from headrace.v1.consumer_service_pb2 import DescribeConsumerGroupRequest
from headrace.v1.table_service_pb2 import DescribeTableRequest, ListTablesRequest, UpdateTableRequest
from tests.broker_process import LOOPBACK_ANY_PORT, BrokerProcess, serve_command
from tests.rpc import LATEST, Client, batch, put, refused
from tests.values import attributes, item

EXIT_TIMEOUT_S = 20


def refusal_to_start(data: Path, *extra: str, grpc: str = LOOPBACK_ANY_PORT, http: str = LOOPBACK_ANY_PORT) -> str:
    """The one line on stderr of a broker that does not start; asserts that it says no more and exits with 2."""
    command = serve_command(data, region="eu-north-1", grpc=grpc, http=http, extra=extra)
    done = subprocess.run(command, capture_output=True, text=True, timeout=EXIT_TIMEOUT_S, check=False)
    assert (done.returncode, done.stdout) == (2, ""), done
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith(("Usage:", "Try "))]
    assert len(lines) == 1, done.stderr
    return lines[0]


@contextmanager
def occupied_port() -> Iterator[str]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("which", ["grpc", "http"])
def test_an_occupied_port_is_one_clear_line(tmp_path: Path, which: str) -> None:
    with occupied_port() as address:
        line = refusal_to_start(tmp_path, **{which: address})
    assert address in line


def test_an_unknown_key_in_the_settings_file_is_one_clear_line(tmp_path: Path) -> None:
    file = tmp_path / "headrace.toml"
    file.write_text('regoin = "eu"\n')
    line = refusal_to_start(tmp_path / "data", "--config", str(file))
    assert "regoin" in line
    assert str(file) in line


@pytest.mark.parametrize("content", ["region = 1", "region = ", "insecure = 'yes'"])
def test_a_settings_file_that_is_wrong_is_one_clear_line(tmp_path: Path, content: str) -> None:
    file = tmp_path / "headrace.toml"
    file.write_text(content)
    assert str(file) in refusal_to_start(tmp_path / "data", "--config", str(file))


def test_an_unknown_flag_is_refused(tmp_path: Path) -> None:
    assert "--regoin" in refusal_to_start(tmp_path / "data", "--regoin", "eu")


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.1:", ":7420", "127.0.0.1:http", "127.0.0.1:70000", "-"])
def test_a_malformed_address_is_one_clear_line(tmp_path: Path, address: str) -> None:
    assert "grpc" in refusal_to_start(tmp_path, grpc=address)


# Anyone who reaches the port can read and write everything.
@pytest.mark.parametrize("which", ["grpc", "http"])
def test_a_broker_off_loopback_must_be_asked_for(tmp_path: Path, which: str) -> None:
    assert "insecure" in refusal_to_start(tmp_path, **{which: "0.0.0.0:0"})


def files_of(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Every file of a folder: which it is, when it was changed, what is in it."""
    found = {}
    for path in (folder, *folder.rglob("*")):
        status = path.stat()
        # RocksDB of the running broker writes figures into its own log from time to time.
        is_log = path.name == "LOG"
        content = b"" if path.is_dir() or is_log else path.read_bytes()
        found[str(path.relative_to(folder))] = (status.st_ino, 0 if is_log else status.st_mtime_ns, content)
    return found


def test_a_folder_that_is_in_use_is_one_clear_line_that_names_the_process(tmp_path: Path) -> None:
    with BrokerProcess(tmp_path) as running:
        line = refusal_to_start(running.data)
        assert str(running.data) in line
        assert f"in use by process {running.pid} (" in line
        with Client(running.grpc) as client:
            client.create_table()


# RocksDB renames its own log before it finds the lock, and rocksdict writes its settings.
def test_a_start_on_a_folder_in_use_changes_nothing_there(tmp_path: Path) -> None:
    # Without the note of the running broker, which is renewed in its own time.
    with BrokerProcess(tmp_path, environment={"HEADRACE_UPKEEP_INTERVAL_SECONDS": "3600"}) as running:
        with Client(running.grpc) as client:
            client.create_table()
        before = files_of(running.data)
        refusal_to_start(running.data)
        refusal_to_start(running.data, "--accept-loss", "--accept-clock")
        assert files_of(running.data) == before


def test_a_folder_that_cannot_be_made_is_one_clear_line(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("not a folder")
    assert str(file) in refusal_to_start(file)


# Versions and ARNs in the store name the region; under another name they would be wrong.
def test_a_folder_of_another_region_is_one_clear_line(tmp_path: Path) -> None:
    process = BrokerProcess(tmp_path, region="us-west-1").start()
    process.stop()
    line = refusal_to_start(process.data)
    assert "us-west-1" in line
    assert "eu-north-1" in line


def test_the_ready_line_is_json_and_the_logs_go_elsewhere(tmp_path: Path) -> None:
    command = serve_command(tmp_path, region="eu-north-1", grpc=LOOPBACK_ANY_PORT, http=LOOPBACK_ANY_PORT)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        process.terminate()
        rest, logs = process.communicate(timeout=EXIT_TIMEOUT_S)
    assert set(ready) == {"version", "region", "grpc", "http"}
    assert ready["version"] == version("headrace-broker")
    assert ready["region"] == "eu-north-1"
    assert not ready["grpc"].endswith(":0")
    assert not ready["http"].endswith(":0")
    assert (rest, process.returncode) == ("", 0)
    assert logs


def test_a_broker_whose_ready_line_nobody_reads_ends_without_a_traceback(tmp_path: Path) -> None:
    command = serve_command(tmp_path, region="eu-north-1", grpc=LOOPBACK_ANY_PORT, http=LOOPBACK_ANY_PORT)
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        done = subprocess.run(
            command, stdout=write_end, stderr=subprocess.PIPE, text=True, timeout=EXIT_TIMEOUT_S, check=False
        )
    finally:
        os.close(write_end)
    assert done.returncode == 141
    assert "nobody reads the ready line" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_broker_says_that_it_is_healthy_over_grpc_and_http(broker: BrokerProcess) -> None:
    with grpc.insecure_channel(broker.grpc) as channel:
        request = health_pb2.HealthCheckRequest()
        stub: Any = health_pb2_grpc.HealthStub(channel)
        response = stub.Check(request, timeout=5)
    assert response.status == health_pb2.HealthCheckResponse.SERVING
    with urllib.request.urlopen(f"http://{broker.http}/healthz", timeout=5) as answer:
        assert answer.status == 200
        health = json.load(answer)
    assert health == {"status": "SERVING", "version": version("headrace-broker"), "region": broker.region}


def test_the_broker_alone_tells_its_version() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "broker", "--version"],
        capture_output=True,
        text=True,
        timeout=EXIT_TIMEOUT_S,
        check=True,
    )
    assert done.stdout == f"headrace-broker {version('headrace-broker')}\n"


def test_metrics_are_there_for_prometheus(broker: BrokerProcess) -> None:
    with urllib.request.urlopen(f"http://{broker.http}/metrics", timeout=5) as answer:
        assert b"\nheadrace_" in answer.read()


def test_a_stop_ends_open_streams_with_unavailable_and_the_broker_with_0(tmp_path: Path) -> None:
    with BrokerProcess(tmp_path) as process, Client(process.grpc) as client:
        table = client.create_table()
        responses = client.read(client.iterator(table.stream_arn), follow=True)
        position = next(responses).next_shard_iterator
        codes: list[int] = []
        stopping = threading.Thread(target=lambda: codes.append(process.stop()))
        stopping.start()
        with refused("UNAVAILABLE", "UNAVAILABLE"):
            list(responses)
        stopping.join(EXIT_TIMEOUT_S)
        assert codes == [0]
        # The follower goes on from where it was, with the iterator it holds.
        process.start(keep_ports=True)
        with Client(process.grpc) as again:
            again.put(table.name, item(id="a"))
            assert [r.keys for response in again.read(position) for r in response.records] == [item(id="a")]


def test_a_restart_keeps_tables_items_streams_iterators_and_groups(tmp_path: Path) -> None:
    with BrokerProcess(tmp_path) as process:
        with Client(process.grpc) as client:
            table = client.create_table(keys="customer:S order:N")
            other = client.create_table(view_type=None)
            client.write_items(batch(table.name, *(put(item(customer="c", order=n, n=n)) for n in range(100))))
            client.put(other.name, item(id="a"))
            disable = UpdateTableRequest(table_name=table.name)
            disable.stream_specification.stream_enabled = False
            client.tables.UpdateTable(disable)
            description = client.tables.DescribeTable(DescribeTableRequest(table_name=table.name)).table
            records, contents = client.records(table.stream_arn), client.contents(table)
            latest = client.iterator(table.stream_arn, LATEST)
        process.stop()
        process.start()
        with Client(process.grpc) as client:
            assert client.tables.DescribeTable(DescribeTableRequest(table_name=table.name)).table == description
            assert client.records(table.stream_arn) == records
            assert client.contents(table) == contents
            assert client.contents(other) == {(("S", "a"),): attributes(id="a")}
            *_, end = client.read(latest)
            assert (list(end.records), end.shard_end) == ([], True)
            # New sequence numbers and table ids begin where the old ones ended.
            fresh = client.create_table()
            client.put(fresh.name, item(id="a"))
            assert client.records(fresh.stream_arn)[0].sequence_number > records[-1].sequence_number
            assert len(client.contents(fresh)) == 1
            names = client.tables.ListTables(ListTablesRequest()).table_names
            assert sorted(names) == sorted([table.name, other.name, fresh.name])


def test_a_stop_without_work_is_quick_however_many_clients_are_connected(tmp_path: Path) -> None:
    with BrokerProcess(tmp_path) as process:
        clients = [Client(process.grpc) for _ in range(20)]
        table = clients[0].create_table()
        followers = [client.read(client.iterator(table.stream_arn), follow=True) for client in clients]
        for follower in followers:
            next(follower)
        assert process.stop() == 0
        for follower, client in zip(followers, clients, strict=True):
            with refused("UNAVAILABLE", "UNAVAILABLE"):
                list(follower)
            client.close()


def test_a_broker_that_starts_on_an_empty_folder_has_nothing(tmp_path: Path) -> None:
    with BrokerProcess(tmp_path) as process, Client(process.grpc) as client:
        assert list(client.tables.ListTables(ListTablesRequest()).table_names) == []
        with refused("NOT_FOUND", "RESOURCE_NOT_FOUND"):
            client.consumers.DescribeConsumerGroup(DescribeConsumerGroupRequest(group_name="nobody"))
