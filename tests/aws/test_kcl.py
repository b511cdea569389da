"""Amazon's own consumer of DynamoDB Streams reads every record once, whatever becomes of the shards.

It is the Kinesis Client Library with its adapter for DynamoDB Streams, in Java: kcl/ is built with Maven, and run
against a real broker. Where there is no Java or Maven the test is skipped; with HEADRACE_REQUIRE_JAVA=1, as .ci/run has
it, that is a failure.
"""

from __future__ import annotations

import os
import queue
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from headrace.v1.table_service_pb2 import UpdateTableRequest
from tests.broker_process import BrokerProcess
from tests.conftest import eventually
from tests.rpc import NEW_IMAGE, Client, TestTable, batch, create_table_request, put, unique_name
from tests.values import item

PROJECT = Path(__file__).parent / "kcl"
BUILD_TIMEOUT_S = 300
READ_TIMEOUT_S = 120
STOP_TIMEOUT_S = 40

KEYS = [f"key-{number}" for number in range(40)]


@pytest.fixture(scope="module")
def java_command() -> list[str]:
    """The consumer, built."""
    missing = [program for program in ("java", "javac", "mvn") if shutil.which(program) is None]
    if missing:
        reason = f"the Kinesis Client Library is not tried: there is no {' and no '.join(missing)} here"
        if os.environ.get("HEADRACE_REQUIRE_JAVA"):
            pytest.fail(reason)
        pytest.skip(reason)
    built = subprocess.run(
        ["mvn", "--batch-mode", "--quiet", "compile"],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=BUILD_TIMEOUT_S,
        check=False,
    )
    assert built.returncode == 0, built.stdout
    classes = os.pathsep.join((str(PROJECT / "build" / "classes"), str(PROJECT / "build" / "lib" / "*")))
    return ["java", "-cp", classes, "headrace.Consumer"]


class Consumer:
    """The consumer as it runs: the lines that it prints."""

    def __init__(self, command: list[str], broker: BrokerProcess, stream_arn: str, log: Path) -> None:
        self._log = log
        self._lines: queue.Queue[str | None] = queue.Queue()
        # What it got of each key, in the order in which it came.
        self.values: dict[str, list[int]] = {key: [] for key in KEYS}
        self.begun: list[str] = []
        self.ended: list[str] = []
        self.is_done = False
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                [*command, f"http://{broker.http}", broker.region, stream_arn],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait(STOP_TIMEOUT_S)
        self._reading.join(STOP_TIMEOUT_S)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()

    def read_to(self, last: int) -> None:
        """Returns when it has got the last value of every key."""
        deadline = time.monotonic() + READ_TIMEOUT_S
        while any(values[-1:] != [last] for values in self.values.values()):
            self._take(deadline - time.monotonic(), f"the values up to {last}")

    def stop(self) -> None:
        """Lets it end by itself, and takes what it still says."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while not self.is_done:
            self._take(deadline - time.monotonic(), "its end")

    def _take(self, timeout_s: float, awaited: str) -> None:
        try:
            line = self._lines.get(timeout=max(timeout_s, 0))
        except queue.Empty:
            line = None
        lengths = {key: values[-3:] for key, values in self.values.items()}
        assert line is not None, f"{awaited} did not come\n{lengths}\n{self.begun}\n{self._log.read_text()[-5_000:]}"
        match line.split():
            case ["record", _, key, value]:
                self.values[key].append(int(value))
            case ["begin", shard_id]:
                self.begun.append(shard_id)
            case ["end", shard_id]:
                self.ended.append(shard_id)
            case ["done"]:
                self.is_done = True

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)


class Writer:
    """A table whose keys all get rising values, while its shards change."""

    def __init__(self, client: Client) -> None:
        self._client = client
        request = create_table_request(unique_name(), view_type=NEW_IMAGE)
        request.stream_settings.shard_roll_period_in_seconds = 0
        # Short, so that a roll period of a second is not stretched; longer than the test takes.
        request.stream_settings.retention_period_in_seconds = 600
        made = client.tables.CreateTable(request).table_description
        self.table = TestTable(name=made.table_name, stream_arn=made.latest_stream_arn, key_names=("id",))
        self.value = 0

    def write(self, times: int = 1) -> None:
        for _ in range(times):
            self.value += 1
            writes = [put(item(id=key, n=self.value)) for key in KEYS]
            self._client.write_items(batch(self.table.name, *writes))

    def open_ids(self) -> list[str]:
        """The open shards as they are, in the order of their hashes."""
        shards = [shard for shard in self._client.shards(self.table.stream_arn) if not _is_closed(shard)]
        return [shard.shard_id for shard in sorted(shards, key=lambda shard: shard.hash_key_range.starting_hash_key)]

    def split(self, place: int) -> None:
        self._client.split(self.table.stream_arn, self.open_ids()[place])
        self.write()

    def merge(self, place: int) -> None:
        left, right = self.open_ids()[place : place + 2]
        self._client.merge(self.table.stream_arn, left, right)
        self.write()

    def roll(self) -> None:
        """Lets all open shards, which hold records, roll once."""
        before = set(self.open_ids())
        self._set_roll_period(1)
        eventually(lambda: before.isdisjoint(self.open_ids()), timeout_s=30)
        self._set_roll_period(0)
        self.write()

    def _set_roll_period(self, seconds: int) -> None:
        update = UpdateTableRequest(table_name=self.table.name)
        update.stream_settings.shard_roll_period_in_seconds = seconds
        self._client.tables.UpdateTable(update)


def _is_closed(shard: object) -> bool:
    return bool(shard.sequence_number_range.ending_sequence_number)  # type: ignore[attr-defined]


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[BrokerProcess]:
    environment = {"HEADRACE_UPKEEP_INTERVAL_SECONDS": "0.1"}
    with BrokerProcess(tmp_path / "broker", extra=("--auth", "none"), environment=environment) as process:
        yield process


@pytest.mark.timeout(BUILD_TIMEOUT_S + 2 * READ_TIMEOUT_S + STOP_TIMEOUT_S)
def test_the_kinesis_client_library_reads_every_record_once_over_splits_rolls_and_merges(
    java_command: list[str], broker: BrokerProcess, tmp_path: Path
) -> None:
    with Client(broker.grpc) as client:
        writer = Writer(client)
        # 1. All of this has happened before it begins.
        writer.write(2)
        writer.split(0)
        writer.split(0)
        writer.split(2)
        writer.merge(1)
        writer.roll()
        with Consumer(java_command, broker, writer.table.stream_arn, tmp_path / "kcl.log") as consumer:
            consumer.read_to(writer.value)
            # 2. And this while it reads.
            writer.split(1)
            writer.merge(0)
            writer.roll()
            writer.write(3)
            consumer.read_to(writer.value)
            writer.write()
            consumer.read_to(writer.value)
            consumer.stop()
        assert consumer.values == {key: list(range(1, writer.value + 1)) for key in KEYS}
        assert len(set(consumer.begun)) == len(consumer.begun)
