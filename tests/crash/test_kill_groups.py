"""SIGKILL of members of a consumer group, and of its broker, while its stream is written to, split and merged.

Every record reaches the group at least once, the records of each item in order and without a gap, whoever died when;
and when members only come and leave, every record reaches it exactly once.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path

import grpc
import pytest

from headrace.v1.item_service_pb2 import PutItemRequest
from headrace.v1.stream_service_pb2 import GetRecordsRequest
from tests.broker_process import BrokerProcess
from tests.conftest import eventually
from tests.crash.test_kill_shards import SHARDS_MAX, all_shards, open_shards
from tests.rpc import TRIM_HORIZON, Client, TestTable
from tests.values import item

pytestmark = [pytest.mark.crash, pytest.mark.timeout(900)]

GROUP = "survivors"
KEYS = [f"item-{number}" for number in range(24)]
CATCH_UP_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 20.0


class Members:
    """The processes of a group."""

    def __init__(self, broker: BrokerProcess, table: TestTable, output: Path) -> None:
        self._broker = broker
        self._table = table
        self.output = output
        self._names = count(1)
        self._running: list[subprocess.Popen[bytes]] = []

    def __len__(self) -> int:
        return len(self._running)

    def start(self) -> None:
        arguments = (self._broker.grpc, self._table.name, GROUP, f"member-{next(self._names)}", str(self.output))
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.group_member", *arguments], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        self._running.append(process)

    def kill(self, choices: random.Random) -> None:
        process = self._running.pop(choices.randrange(len(self._running)))
        process.kill()
        self._reap(process)

    def leave(self, choices: random.Random) -> None:
        """One of them leaves in good order."""
        process = self._running.pop(choices.randrange(len(self._running)))
        process.send_signal(signal.SIGTERM)
        assert self._reap(process) == 0

    def end(self) -> None:
        for process in self._running:
            process.kill()
            self._reap(process)

    @staticmethod
    def _reap(process: subprocess.Popen[bytes]) -> int:
        with process:
            return process.wait(STOP_TIMEOUT_S)


@pytest.fixture
def members(crashing: BrokerProcess, table: TestTable, tmp_path: Path) -> Iterator[Members]:
    made = Members(crashing, table, tmp_path / "processed")
    made.output.touch()
    yield made
    made.end()


class Writer(threading.Thread):
    """Changes the items one after the other until it is stopped; the broker may be away in between."""

    def __init__(self, broker: BrokerProcess, table: TestTable, choices: random.Random) -> None:
        super().__init__(daemon=True)
        self._broker = broker
        self._table = table
        self._choices = choices
        self._stopping = threading.Event()
        self.failure: BaseException | None = None

    def run(self) -> None:
        numbers = count(1)
        try:
            while not self._stopping.is_set():
                with Client(self._broker.grpc) as client:
                    try:
                        while not self._stopping.is_set():
                            changed = item(id=self._choices.choice(KEYS), n=next(numbers))
                            client.items.PutItem(PutItemRequest(table_name=self._table.name, item=changed))
                    except grpc.RpcError as error:
                        if error.code() not in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}:
                            raise
                self._stopping.wait(0.05)
        except BaseException as error:  # noqa: BLE001
            self.failure = error

    def stop(self) -> None:
        self._stopping.set()
        self.join(STOP_TIMEOUT_S)
        assert not self.is_alive()
        if self.failure is not None:
            raise self.failure


def reshard(broker: BrokerProcess, table: TestTable, choices: random.Random) -> None:
    with Client(broker.grpc) as client:
        shards = open_shards(all_shards(client, table.stream_arn))
        place = choices.randrange(len(shards))
        if len(shards) < SHARDS_MAX and (choices.random() < 0.6 or place + 1 == len(shards)):
            client.split(table.stream_arn, shards[place].shard_id)
        elif place + 1 < len(shards):
            client.merge(table.stream_arn, shards[place].shard_id, shards[place + 1].shard_id)


def processed(output: Path) -> list[tuple[str, str]]:
    """What the group has processed, in the order in which it did: (sequence number, key)."""
    lines = output.read_text().splitlines()
    return [(number, key) for number, _, key in (line.partition(" ") for line in lines)]


def logged(client: Client, table: TestTable) -> list[tuple[str, str]]:
    request = GetRecordsRequest(table_name=table.name, shard_iterator_type=TRIM_HORIZON)
    return [
        (record.sequence_number, record.keys.attributes["id"].s)
        for response in client.streams.GetRecords(request)
        for record in response.records
    ]


def judge(broker: BrokerProcess, table: TestTable, output: Path) -> list[tuple[str, str]]:
    """Waits until the group has caught up, and checks that each item's records came in order and without a gap."""
    with Client(broker.grpc) as client:
        log = logged(client, table)
        assert log
        eventually(lambda: set(log) <= set(processed(output)), timeout_s=CATCH_UP_TIMEOUT_S)
    history: dict[str, list[str]] = defaultdict(list)
    for number, key in log:
        history[key].append(number)
    done = processed(output)
    # What a writer was not told of may be in neither; what is processed is in the log.
    assert set(done) == set(log)
    seen: dict[str, int] = defaultdict(int)
    for number, key in done:
        place = history[key].index(number)
        # It may come again, but never before one that was not processed yet.
        assert place <= seen[key], f"{number} of {key} came before {history[key][seen[key]]}"
        seen[key] = max(seen[key], place + 1)
    return done


def test_no_record_is_lost_or_out_of_order_whoever_is_killed(
    crashing: BrokerProcess, table: TestTable, members: Members, rng: random.Random, rounds: int
) -> None:
    writer = Writer(crashing, table, random.Random(rng.random()))
    writer.start()
    for _ in range(3):
        members.start()

    def replace_member() -> None:
        members.kill(rng)
        members.start()

    def restart_broker() -> None:
        crashing.kill()
        crashing.start(keep_ports=True)

    actions: list[Callable[[], None]] = [
        replace_member,
        restart_broker,
        lambda: members.leave(rng) if len(members) > 2 else members.start(),
        members.start if rounds < 50 else replace_member,
    ]
    for _ in range(rounds):
        # The moment is what the test varies; nothing waits for the time to pass.
        writer.join(rng.uniform(0.05, 0.4))
        rng.choice(actions)()
        with suppress(grpc.RpcError):
            reshard(crashing, table, rng)
    writer.stop()
    judge(crashing, table, members.output)


def test_members_that_come_and_leave_in_good_order_process_every_record_once(
    crashing: BrokerProcess, table: TestTable, members: Members, rng: random.Random, rounds: int
) -> None:
    writer = Writer(crashing, table, random.Random(rng.random()))
    writer.start()
    members.start()
    for _ in range(rounds):
        writer.join(rng.uniform(0.05, 0.3))
        if len(members) > 1 and rng.random() < 0.5:
            members.leave(rng)
        else:
            members.start()
        reshard(crashing, table, rng)
    writer.stop()
    done = judge(crashing, table, members.output)
    assert len(done) == len(set(done))
