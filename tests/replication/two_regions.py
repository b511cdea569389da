"""Two real regions, writers of the source's table, and what must be true of a replica in the end."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

import grpc

from headrace.v1 import replication_service_pb2 as pb
from headrace.v1.item_service_pb2 import WriteItemsRequest, WriteOperation
from tests.broker_process import BrokerProcess
from tests.conftest import eventually
from tests.guarantees import BrokenError
from tests.rpc import Client, TestTable, batch, delete, put, unique_name
from tests.values import Attributes, Key, from_item, item, key_of

CONVERGE_TIMEOUT_S: Final = 60.0
ACTIVE: Final = pb.REPLICA_STATUS_ACTIVE

# By key: the item and its version.
Versioned = dict[Key, tuple[Attributes, int, str]]


def versioned_contents(client: Client, table: TestTable) -> Versioned:
    """All items of a table with the versions of the writes that made them."""
    found: Versioned = {}
    for response in client.replication.ReadSnapshot(pb.ReadSnapshotRequest(table_name=table.name)):
        for entry in response.items:
            content = from_item(entry.item)
            key = key_of(content, table.key_names)
            found[key] = (content, entry.version.hybrid_time, entry.version.origin_region)
    return found


def check_converged(source: Client, table: TestTable, target: Client, copy: TestTable) -> None:
    """Both regions hold the same items, and the same versions of them."""
    original, replica = versioned_contents(source, table), versioned_contents(target, copy)
    for key in original.keys() | replica.keys():
        if original.get(key) != replica.get(key):
            raise BrokenError(
                "Converged", f"{key} is {original.get(key)} at the source, {replica.get(key)} at the replica"
            )


def progress(source: Client, name: str) -> pb.ReplicaProgress:
    """How far a replica is."""
    return source.replication.DescribeReplica(pb.DescribeReplicaRequest(replica_name=name)).replica.progress


def create_replica(source: Client, table: TestTable, target: BrokerProcess, *, target_table: str | None = None) -> str:
    """A replica with a name of its own."""
    name = unique_name("replica")
    source.replication.CreateReplica(
        pb.CreateReplicaRequest(
            replica_name=name,
            source_table_name=table.name,
            target_endpoint=target.grpc,
            target_table_name=target_table,
        )
    )
    return name


def wait_until_active(source: Client, name: str, log: object = "") -> pb.ReplicaProgress:
    """Returns when the first copy is complete."""

    def is_active() -> pb.ReplicaProgress | None:
        found = progress(source, name)
        assert found.status == ACTIVE, f"{found}\n{log}"
        return found

    found = eventually(is_active, timeout_s=CONVERGE_TIMEOUT_S)
    assert found is not None
    return found


def wait_until_caught_up(source: Client, table: TestTable, name: str) -> None:
    """Returns when the replica is active and has applied the newest record of the source."""
    newest = max((record.sequence_number for record in source.records(table.stream_arn)), default="")

    def is_caught_up() -> bool:
        found = progress(source, name)
        position = found.last_applied_sequence_number or found.snapshot_sequence_number
        assert found.status == ACTIVE, found
        # What was committed before the snapshot is not applied as a record.
        assert max(position, found.snapshot_sequence_number) >= newest, found
        return True

    eventually(is_caught_up, timeout_s=CONVERGE_TIMEOUT_S)


def fill(client: Client, table: TestTable, count: int, *, text_length: int = 200) -> None:
    """Puts items that the writers below change and delete."""
    per_batch = 500
    batches: list[WriteItemsRequest] = [
        batch(
            table.name, *(put(item(id=f"k{n}", text="x" * text_length, n=0)) for n in range(start, start + per_batch))
        )
        for start in range(0, count, per_batch)
    ]
    client.write_items(*batches)


@dataclass(slots=True)
class Writer:
    """Puts and deletes items of the source at random until it is told to end; ends too when the broker is gone."""

    endpoint: str
    table: TestTable
    choices: random.Random
    keys: int
    written: int = 0
    failure: BaseException | None = None
    _ending: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        try:
            with Client(self.endpoint) as client:
                while not self._ending.is_set():
                    client.write_items(batch(self.table.name, *(self._operation() for _ in range(20))))
                    self.written += 20
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                self.failure = error

    def end(self) -> None:
        self._ending.set()

    def _operation(self) -> WriteOperation:
        key = f"k{self.choices.randrange(self.keys)}"
        if self.choices.random() < 0.3:
            return delete(item(id=key))
        return put(item(id=key, text="y" * self.choices.randrange(200), n=self.choices.randrange(1_000_000)))


@contextmanager
def writing(endpoint: str, table: TestTable, choices: random.Random, *, keys: int) -> Iterator[Writer]:
    """A writer in the background for as long as the block runs."""
    writer = Writer(endpoint, table, random.Random(choices.random()), keys)
    thread = threading.Thread(target=writer.run, daemon=True)
    thread.start()
    try:
        yield writer
    finally:
        writer.end()
        thread.join(30)
    assert not thread.is_alive()
    if writer.failure is not None:
        raise writer.failure
