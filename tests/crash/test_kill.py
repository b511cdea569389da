"""SIGKILL of a real broker while it writes, at random moments, again and again on the same data.

After each restart every acknowledged write is there with its record, each other write is there with its record or not
at all, no record comes twice, and what a reader saw before it still sees at the same place.

    pytest -m crash --crash-rounds 200 --seed N     a long search, or a repeat of one

A process that is killed loses what it had in memory, not what the kernel had: that the broker syncs before it
acknowledges is shown by test_sync.py.
"""

from __future__ import annotations

import asyncio
import queue
import random
import threading
from collections.abc import Callable, Iterator
from itertools import count

import grpc
import pytest

from headrace.v1 import consumer_service_pb2 as consumer_pb
from headrace.v1.consumer_service_pb2 import ConsumeAck, ConsumeRequest, ConsumeResponse, ConsumeStart
from headrace.v1.table_service_pb2 import DescribeTableRequest, UpdateTableRequest
from tests.broker_process import BrokerProcess
from tests.crash.load import Load
from tests.guarantees import (
    Logged,
    check_atomic,
    check_durable,
    check_ordered,
    check_reliable,
    check_resumable,
    check_unique,
    logged,
)
from tests.rpc import NEW_IMAGE, Client, TestTable, batch, create_table_request, put
from tests.values import item

pytestmark = [pytest.mark.crash, pytest.mark.timeout(900)]

JOIN_TIMEOUT_S = 20.0
ROUNDS_PER_TABLE = 8


class Background(threading.Thread):
    """Does something with a broker until the broker is gone."""

    def __init__(self, client: Client) -> None:
        super().__init__(daemon=True)
        self.client = client
        self.failure: BaseException | None = None
        # Set when there is something to judge; a crash before that would prove nothing.
        self.has_begun = threading.Event()

    def work(self) -> None:
        raise NotImplementedError

    def run(self) -> None:
        try:
            self.work()
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                self.failure = error
        except BaseException as error:  # noqa: BLE001
            self.failure = error

    def then(self, crash: Callable[[], None]) -> Callable[[], None]:
        """The crash, put off until there is something to judge."""

        def crash_later() -> None:
            assert self.has_begun.wait(JOIN_TIMEOUT_S)
            crash()

        return crash_later

    def finish(self) -> None:
        """Waits for the end, and raises what ended it unless that was the broker's end."""
        self.join(JOIN_TIMEOUT_S)
        assert not self.is_alive()
        if self.failure is not None:
            raise self.failure


def judge(load: Load, log: list[Logged], client: Client, table: TestTable) -> None:
    contents = client.contents(table)
    check_ordered(log)
    check_unique(log)
    check_durable(load.writes, contents)
    check_reliable(load.writes, log, table.key_names)
    check_atomic(log, contents, table.key_names)


async def test_every_acknowledged_write_survives_with_its_record(
    crashing: BrokerProcess, table: TestTable, rng: random.Random, rounds: int
) -> None:
    load = Load(table.name, rng)
    seen: list[Logged] = []
    for round_ in range(rounds):
        if round_ % ROUNDS_PER_TABLE == ROUNDS_PER_TABLE - 1:
            # The data folder grows on; a table that does would make each round slower to judge than the last.
            with Client(crashing.grpc) as client:
                table = client.create_table()
            load, seen = Load(table.name, rng), []
        before = load.acknowledged
        await load.run(crashing.grpc, crashing.kill, after_s=rng.uniform(0, 0.5))
        assert load.acknowledged > before
        # Every other life begins where the clients expect it.
        crashing.start(keep_ports=rng.random() < 0.5)
        with Client(crashing.grpc) as client:
            log = logged(client.records(table.stream_arn))
            # What was read stays where it was: sequence numbers never go back and are never given twice.
            check_resumable(log, [seen, log[len(seen) :]])
            judge(load, log, client, table)
        seen = log
    assert crashing.stop() == 0


async def test_a_clean_stop_under_load_is_as_safe_as_a_crash(
    crashing: BrokerProcess, table: TestTable, rng: random.Random
) -> None:
    load = Load(table.name, rng)
    codes: list[int] = []
    for _ in range(3):
        await load.run(crashing.grpc, lambda: codes.append(crashing.stop()), after_s=rng.uniform(0, 0.3))
        crashing.start()
        with Client(crashing.grpc) as client:
            judge(load, logged(client.records(table.stream_arn)), client, table)
    assert codes == [0, 0, 0]


class Follower(Background):
    """Follows a stream from its beginning and keeps what it saw."""

    def __init__(self, client: Client, table: TestTable) -> None:
        super().__init__(client)
        self.shard_iterator = client.iterator(table.stream_arn)
        self.seen: list[Logged] = []

    def work(self) -> None:
        for response in self.client.read(self.shard_iterator, follow=True):
            self.seen += logged(response.records)
            if self.seen:
                self.has_begun.set()


# A reader must never be shown what a crash can still take back, or its checkpoint would name what is not there.
async def test_a_follower_never_saw_a_record_that_is_gone(
    crashing: BrokerProcess, table: TestTable, rng: random.Random, rounds: int
) -> None:
    load = Load(table.name, rng)
    for _ in range(max(2, rounds // 3)):
        with Client(crashing.grpc) as client:
            follower = Follower(client, table)
            follower.start()
            await load.run(crashing.grpc, follower.then(crashing.kill), after_s=rng.uniform(0.05, 0.4))
            await asyncio.to_thread(follower.finish)
        crashing.start()
        with Client(crashing.grpc) as client:
            log = logged(client.records(table.stream_arn))
        check_resumable(log[: len(follower.seen)], [follower.seen])


class Worker(Background):
    """The one member of a group: acknowledges what it reads at once, and keeps what it was told."""

    def __init__(self, client: Client, table: TestTable) -> None:
        super().__init__(client)
        self._requests: queue.SimpleQueue[ConsumeRequest | None] = queue.SimpleQueue()
        start = ConsumeStart(
            table_name=table.name,
            group_name="survivor",
            starting_position=consumer_pb.STARTING_POSITION_TRIM_HORIZON,
            max_batch_records=50,
        )
        self._requests.put(ConsumeRequest(start=start))
        self._call: Iterator[ConsumeResponse] = client.consumers.Consume(iter(self._requests.get, None))
        assert not next(self._call).started.standby
        assigned = next(self._call)
        self.resumed_after = assigned.assigned.checkpoint
        self.lease_epoch = assigned.lease_epoch
        self.read: list[Logged] = []
        self.confirmed = ""

    def work(self) -> None:
        try:
            for response in self._call:
                if response.WhichOneof("event") == "checkpointed":
                    self.confirmed = response.sequence_number
                    self.has_begun.set()
                elif response.records:
                    self.read += logged(response.records)
                    ack = ConsumeAck(
                        shard_id=response.shard_id,
                        lease_epoch=response.lease_epoch,
                        sequence_number=response.sequence_number,
                    )
                    self._requests.put(ConsumeRequest(ack=ack))
        finally:
            self._requests.put(None)


async def test_a_checkpoint_survives_and_the_group_goes_on_exactly_after_it(
    crashing: BrokerProcess, table: TestTable, rng: random.Random, rounds: int
) -> None:
    load = Load(table.name, rng)
    confirmed, lease_epoch = "", 0
    for _ in range(max(2, rounds // 3)):
        with Client(crashing.grpc) as client:
            worker = Worker(client, table)
            assert worker.resumed_after >= confirmed
            assert worker.lease_epoch > lease_epoch
            worker.start()
            await load.run(crashing.grpc, worker.then(crashing.kill), after_s=rng.uniform(0.1, 0.4))
            await asyncio.to_thread(worker.finish)
        confirmed, lease_epoch = worker.confirmed, worker.lease_epoch
        crashing.start()
        with Client(crashing.grpc) as client:
            log = logged(client.records(table.stream_arn))
        unread = [entry for entry in log if entry.sequence_number > worker.resumed_after]
        check_resumable(unread[: len(worker.read)], [worker.read])


class TableChanger(Background):
    """Makes tables, writes one item into each and disables the stream, one after the other."""

    def __init__(self, client: Client, prefix: str) -> None:
        super().__init__(client)
        self._prefix = prefix
        self.made: dict[str, str] = {}
        self.disabled: set[str] = set()

    def work(self) -> None:
        for number in count():
            request = create_table_request(f"{self._prefix}-{number}", view_type=NEW_IMAGE)
            table = self.client.tables.CreateTable(request).table_description
            self.client.write_items(batch(table.table_name, put(item(id="a"))))
            self.made[table.table_name] = table.latest_stream_arn
            self.has_begun.set()
            disable = UpdateTableRequest(table_name=table.table_name)
            disable.stream_specification.stream_enabled = False
            self.client.tables.UpdateTable(disable)
            self.disabled.add(table.table_name)


# Tables and streams are changed in the same order as items: one that was acknowledged must be there, and whole.
def test_acknowledged_changes_of_tables_survive(crashing: BrokerProcess, rng: random.Random, rounds: int) -> None:
    for round_ in range(max(2, rounds // 3)):
        with Client(crashing.grpc) as client:
            changer = TableChanger(client, f"round{round_}")
            changer.start()
            changer.join(rng.uniform(0.1, 0.5))
            changer.then(crashing.kill)()
            changer.finish()
        crashing.start()
        with Client(crashing.grpc) as client:
            for name, stream_arn in changer.made.items():
                described = client.tables.DescribeTable(DescribeTableRequest(table_name=name)).table
                assert described.latest_stream_arn == stream_arn
                assert [record.keys for record in client.records(stream_arn)] == [item(id="a")]
                if name in changer.disabled:
                    assert not described.HasField("stream_specification")
