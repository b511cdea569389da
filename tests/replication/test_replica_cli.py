"""`headrace replica` and `headrace replicator`, from the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from headrace.cli import main
from tests.broker_process import BrokerProcess
from tests.companion_process import CompanionProcess
from tests.replication.two_regions import create_replica, wait_until_active
from tests.rpc import Client, unique_name
from tests.values import item


@pytest.fixture
def north(two_regions: tuple[BrokerProcess, BrokerProcess]) -> BrokerProcess:
    return two_regions[0]


@pytest.fixture
def south(two_regions: tuple[BrokerProcess, BrokerProcess]) -> BrokerProcess:
    return two_regions[1]


def headrace(*arguments: str, broker: BrokerProcess) -> Result:
    return CliRunner().invoke(main, [*arguments, "--endpoint", broker.grpc])


def document(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_replica_is_created_listed_described_and_deleted(north: BrokerProcess, south: BrokerProcess) -> None:
    name = unique_name("replica")
    with Client(north.grpc) as client:
        table = client.create_table().name
    create = ["replica", "create", name, "--table", table, "--target", south.grpc, "--target-table", "the-copy"]
    created = document(headrace(*create, "-o", "json", broker=north))
    assert created["replica_name"] == name
    assert created["status"] == "CREATING"
    assert (created["source_table_name"], created["target_table_name"]) == (table, "the-copy")
    assert document(headrace("replica", "describe", name, "-o", "json", broker=north)) == created
    assert created in document(headrace("replica", "list", "-o", "json", broker=north))
    shown = headrace("replica", "describe", name, broker=north)
    assert "CREATING" in shown.stdout
    assert south.grpc in shown.stdout
    assert name in headrace("replica", "list", broker=north).stdout
    kept = CliRunner().invoke(main, ["replica", "delete", name, "--endpoint", north.grpc], input="n\n")
    assert (kept.exit_code, kept.stdout) == (1, "")
    assert headrace("replica", "describe", name, broker=north).exit_code == 0
    assert headrace("replica", "delete", name, "--yes", broker=north).exit_code == 0
    gone = headrace("replica", "describe", name, broker=north)
    assert gone.exit_code == 1
    assert "RESOURCE_NOT_FOUND" in gone.stderr


def test_the_target_table_is_named_as_the_source_unless_told(north: BrokerProcess, south: BrokerProcess) -> None:
    with Client(north.grpc) as client:
        table = client.create_table().name
    create = ["replica", "create", unique_name("replica"), "--table", table, "--target", south.grpc, "-o", "json"]
    assert document(headrace(*create, broker=north))["target_table_name"] == table


def test_a_table_that_does_not_exist_has_no_replica(north: BrokerProcess, south: BrokerProcess) -> None:
    result = headrace("replica", "create", "copy", "--table", "nowhere", "--target", south.grpc, broker=north)
    assert result.exit_code == 1
    assert "RESOURCE_NOT_FOUND" in result.stderr


def test_a_target_that_is_no_endpoint_is_wrong_usage(north: BrokerProcess) -> None:
    result = headrace("replica", "create", "copy", "--table", "flights", "--target", "nowhere", broker=north)
    assert result.exit_code == 2
    assert "HOST:PORT" in result.stderr


def test_verify_exits_with_1_only_if_the_regions_differ(
    north: BrokerProcess, south: BrokerProcess, tmp_path: Path
) -> None:
    with Client(north.grpc) as source, Client(south.grpc) as target:
        table = source.create_table()
        source.put(table.name, item(id="a", n=1))
        source.put(table.name, item(id="b", n=1))
        name = create_replica(source, table, south)
        with CompanionProcess("replicator", north.grpc, tmp_path).wait_ready():
            wait_until_active(source, name)
        equal = document(headrace("replica", "verify", name, "-o", "json", broker=north))
        assert (equal["are_equal"], equal["source_items"], equal["target_items"]) == (True, 2, 2)
        assert headrace("replica", "verify", name, broker=north).exit_code == 0
        target.delete(table.name, item(id="a"))
    differing = headrace("replica", "verify", name, "-o", "json", broker=north)
    assert differing.exit_code == 1
    found = json.loads(differing.stdout)
    assert (found["are_equal"], found["missing"]) == (False, {"count": 1, "sample_keys": [{"id": "a"}]})
    assert (found["extra"]["count"], found["different"]["count"]) == (0, 0)
    shown = headrace("replica", "verify", name, broker=north)
    assert shown.exit_code == 1
    assert '1, for example {"id": "a"}' in shown.stdout


def test_verify_of_a_target_that_is_away_says_which_side(north: BrokerProcess) -> None:
    with Client(north.grpc) as client:
        table = client.create_table().name
    name = unique_name("replica")
    # Nobody listens at port 1.
    headrace("replica", "create", name, "--table", table, "--target", "127.0.0.1:1", broker=north)
    result = headrace("replica", "verify", name, broker=north)
    assert result.exit_code == 1
    assert "UNAVAILABLE: target 127.0.0.1:1" in result.stderr


def test_the_replicator_is_not_ready_before_its_source_is(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "headrace.cli", "replicator", "--endpoint", "127.0.0.1:1"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            process.communicate(timeout=2)
        process.terminate()
        out, _ = process.communicate(timeout=15)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, out) == (0, b"")
    assert "the source is away" in (tmp_path / "log").read_text()
