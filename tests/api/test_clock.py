"""A store that was written with a clock ahead, met by a broker with the right one."""

from __future__ import annotations

import re
import urllib.request
from pathlib import Path
from typing import Final

import pytest

from headrace.v1.attribute_value_pb2 import Item
from headrace.v1.stream_service_pb2 import GetRecordsRequest
from headrace.v1.table_pb2 import StreamSettings
from headrace.v1.table_service_pb2 import UpdateTableRequest
from tests.broker_process import BrokerProcess
from tests.conftest import eventually
from tests.rpc import TRIM_HORIZON, Client, TestTable
from tests.values import item

HOUR_S: Final = 3600
DAY_S: Final = 24 * HOUR_S
# Read by every Python that finds it in its path: the broker takes the time from here alone.
SHIFT: Final = """
import time
real = time.time_ns
time.time_ns = lambda: real() + {seconds} * 10**9
"""
FAST_UPKEEP: Final = {"HEADRACE_UPKEEP_INTERVAL_SECONDS": "0.1"}


def write_ahead(tmp_path: Path, seconds: int) -> TestTable:
    """A store that a broker has written whose clock was so far ahead, with a stream that keeps records for a second."""
    folder = tmp_path / "shift"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(SHIFT.format(seconds=seconds))
    with (
        BrokerProcess(tmp_path, environment={"PYTHONPATH": str(folder)}) as process,
        Client(process.grpc) as client,
    ):
        table = client.create_table()
        keep_for(client, table, 1)
        for number in range(5):
            client.put(table.name, item(id=str(number)))
    return table


def keep_for(client: Client, table: TestTable, seconds: int) -> None:
    """Changes how long the table's stream keeps records."""
    settings = StreamSettings(retention_period_in_seconds=seconds)
    client.tables.UpdateTable(UpdateTableRequest(table_name=table.name, stream_settings=settings))


def metric(process: BrokerProcess, name: str) -> float:
    text = urllib.request.urlopen(f"http://{process.http}/metrics", timeout=10).read().decode()
    found = re.search(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE)
    assert found is not None, name
    return float(found[1])


def test_a_store_more_than_an_hour_ahead_is_refused_and_keeps_waiting_for_its_time(tmp_path: Path) -> None:
    write_ahead(tmp_path, 30 * DAY_S)
    process = BrokerProcess(tmp_path)
    with pytest.raises(AssertionError):
        process.start()
    line = process.log_tail().splitlines()[-1]
    assert line.startswith("headrace: ")
    assert "--accept-clock" in line
    seconds = re.search(r"is (\d+) s ahead", line)
    assert seconds is not None
    assert 30 * DAY_S - 60 < int(seconds[1]) <= 30 * DAY_S + 1


def test_a_store_that_is_ahead_for_less_than_an_hour_is_served_with_a_warning_and_a_metric(tmp_path: Path) -> None:
    write_ahead(tmp_path, HOUR_S - 60)
    with BrokerProcess(tmp_path) as process:
        assert "level=WARNING" in process.log_tail()
        assert "ahead of this machine's clock" in process.log_tail()
        assert HOUR_S - 200 < metric(process, "headrace_stored_time_ahead_seconds") <= HOUR_S - 60


def test_a_store_that_is_not_ahead_is_served_without_a_word(tmp_path: Path) -> None:
    write_ahead(tmp_path, 0)
    with BrokerProcess(tmp_path) as process:
        assert "level=WARNING" not in process.log_tail()
        assert metric(process, "headrace_stored_time_ahead_seconds") == 0


def held(client: Client, table: TestTable) -> list[Item]:
    """The keys of all records, read in one call: an iterator could be trimmed before it is used."""
    request = GetRecordsRequest(table_name=table.name, shard_iterator_type=TRIM_HORIZON)
    return [record.keys for response in client.streams.GetRecords(request) for record in response.records]


def test_an_accepted_clock_trims_what_is_old_and_what_is_written_on(tmp_path: Path) -> None:
    table = write_ahead(tmp_path, 30 * DAY_S)
    with (
        BrokerProcess(tmp_path, extra=("--accept-clock",), environment=FAST_UPKEEP) as process,
        Client(process.grpc) as client,
    ):
        client.put(table.name, item(id="new"))
        # The store's clock goes at half speed, so a second of retention takes two.
        eventually(lambda: held(client, table) == [])
        keep_for(client, table, HOUR_S)
        client.put(table.name, item(id="newer"))
        assert held(client, table) == [item(id="newer")]
        keep_for(client, table, 1)
        eventually(lambda: held(client, table) == [])
        assert metric(process, "headrace_stored_time_ahead_seconds") > 29 * DAY_S
