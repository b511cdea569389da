"""Replicas of tables whose streams split, merge and age out: real brokers, real peers, and equal regions in the end."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import grpc
import pytest

from headrace.v1 import record_pb2
from headrace.v1 import replication_service_pb2 as pb
from headrace.v1.consumer_service_pb2 import (
    SHARD_PROGRESS_AT_TIP,
    ConsumerGroupDescription,
    DescribeConsumerGroupRequest,
    ExplainConsumerGroupRequest,
)
from headrace.v1.stream_service_pb2 import DescribeStreamRequest, Shard
from headrace.v1.table_service_pb2 import DescribeTableRequest
from tests.broker_process import BrokerProcess
from tests.companion_process import CompanionProcess
from tests.conftest import eventually
from tests.replication.two_regions import (
    CONVERGE_TIMEOUT_S,
    check_converged,
    create_replica,
    fill,
    progress,
    wait_until_active,
    writing,
)
from tests.rpc import Client, TestTable, create_table_request, unique_name
from tests.values import item

ITEMS = 2_000
SHARDS_MAX = 6


@pytest.fixture
def source(two_regions: tuple[BrokerProcess, BrokerProcess]) -> Iterator[Client]:
    with Client(two_regions[0].grpc) as client:
        yield client


@pytest.fixture
def target(two_regions: tuple[BrokerProcess, BrokerProcess]) -> Iterator[Client]:
    with Client(two_regions[1].grpc) as client:
        yield client


class Resharder:
    """Splits and merges the shards of a stream, one after the other, until it is told to end or the broker goes."""

    def __init__(self, endpoint: str, table: TestTable, choices: random.Random) -> None:
        self._endpoint = endpoint
        self._stream_arn = table.stream_arn
        self._choices = choices
        self._ending = threading.Event()
        self.changes = 0
        self.failure: grpc.RpcError | None = None

    def run(self) -> None:
        with Client(self._endpoint) as client:
            # The pause is what the test varies: records must come between two changes.
            while not self._ending.wait(self._choices.uniform(0.0, 0.1)):
                try:
                    self._change(client)
                except grpc.RpcError as error:
                    self.failure = error
                    return
                self.changes += 1

    def end(self) -> None:
        self._ending.set()

    def _change(self, client: Client) -> None:
        shards = open_shards(client, self._stream_arn)
        if len(shards) == 1 or (len(shards) < SHARDS_MAX and self._choices.random() < 0.5):
            client.split(self._stream_arn, self._choices.choice(shards).shard_id)
        else:
            place = self._choices.randrange(len(shards) - 1)
            client.merge(self._stream_arn, shards[place].shard_id, shards[place + 1].shard_id)


@contextmanager
def resharding(endpoint: str, table: TestTable, choices: random.Random) -> Iterator[Resharder]:
    """Splits and merges in the background for as long as the block runs."""
    resharder = Resharder(endpoint, table, random.Random(choices.random()))
    thread = threading.Thread(target=resharder.run, daemon=True)
    thread.start()
    try:
        yield resharder
    finally:
        resharder.end()
        thread.join(30)
    assert not thread.is_alive()
    if resharder.failure is not None:
        raise resharder.failure


def open_shards(client: Client, stream_arn: str) -> list[Shard]:
    """The open shards, by their hashes."""
    request = DescribeStreamRequest(stream_arn=stream_arn)
    shards: list[Shard] = []
    while True:
        page = client.streams.DescribeStream(request).stream_description
        shards += (shard for shard in page.shards if not shard.sequence_number_range.ending_sequence_number)
        if not page.last_evaluated_shard_id:
            return sorted(shards, key=lambda shard: shard.hash_key_range.starting_hash_key)
        request.exclusive_start_shard_id = page.last_evaluated_shard_id


def group_of(client: Client, replica: str) -> ConsumerGroupDescription:
    request = DescribeConsumerGroupRequest(group_name=f"replica:{replica}")
    return client.consumers.DescribeConsumerGroup(request).consumer_group


def _is_beyond(resharder: Resharder, changes: int) -> bool:
    return resharder.changes > changes


def wait_until_converged(source: Client, table: TestTable, target: Client, copy: TestTable, replica: str) -> None:
    """Returns when everything is followed and acked, and both regions hold the same; nobody may write any more."""

    def is_followed() -> bool:
        found = progress(source, replica)
        assert found.status == pb.REPLICA_STATUS_ACTIVE, found
        # Of shards that the group has not begun only the explanation tells.
        request = ExplainConsumerGroupRequest(group_name=f"replica:{replica}")
        shards = source.consumers.ExplainConsumerGroup(request).shards
        return {shard.progress for shard in shards} == {SHARD_PROGRESS_AT_TIP}

    eventually(is_followed, timeout_s=CONVERGE_TIMEOUT_S)
    check_converged(source, table, target, copy)


def test_a_copy_equals_its_source_though_the_stream_splits_and_merges_all_the_time(
    two_regions: tuple[BrokerProcess, BrokerProcess],
    source: Client,
    target: Client,
    tmp_path: Path,
    rng: random.Random,
) -> None:
    north, south = two_regions
    table = source.create_table()
    fill(source, table, ITEMS)
    with CompanionProcess("replicator", north.grpc, tmp_path).wait_ready() as peer:
        with writing(north.grpc, table, rng, keys=2 * ITEMS), resharding(north.grpc, table, rng) as resharder:
            name = create_replica(source, table, south)
            wait_until_active(source, name, peer.log())
            changes_while_copied = resharder.changes
            # It follows through them too, not only up to the first.
            eventually(lambda: resharder.changes > changes_while_copied + 10)
        wait_until_converged(source, table, target, table, name)
        # What follows the last change comes through as well.
        source.put(table.name, item(id="k1", text="after all"))
        wait_until_converged(source, table, target, table, name)
    found = progress(source, name)
    assert found.records_applied > 0
    assert found.last_error == ""
    assert group_of(source, name).parked_keys == 0


def test_a_copy_follows_a_stream_whose_shards_roll_all_the_time(tmp_path: Path, rng: random.Random) -> None:
    environment = {"HEADRACE_UPKEEP_INTERVAL_SECONDS": "0.1"}
    with (
        BrokerProcess(tmp_path / "north", region="eu-north-1", environment=environment) as north,
        BrokerProcess(tmp_path / "south", region="us-south-1") as south,
        Client(north.grpc) as source,
        Client(south.grpc) as target,
    ):
        request = create_table_request(unique_name(), view_type=record_pb2.STREAM_VIEW_TYPE_NEW_IMAGE)
        request.stream_settings.retention_period_in_seconds = 300
        request.stream_settings.shard_roll_period_in_seconds = 1
        request.stream_settings.min_shards = request.stream_settings.max_shards = 2
        made = source.tables.CreateTable(request).table_description
        table = TestTable(name=made.table_name, stream_arn=made.latest_stream_arn, key_names=("id",))
        fill(source, table, 500)

        def rolls() -> int:
            return len(source.shards(table.stream_arn)) // 2 - 1

        with CompanionProcess("replicator", north.grpc, tmp_path).wait_ready():
            with writing(north.grpc, table, rng, keys=1_000):
                name = create_replica(source, table, south)
                wait_until_active(source, name)
                rolls_while_copied = rolls()
                eventually(lambda: rolls() >= rolls_while_copied + 3)
            wait_until_converged(source, table, target, table, name)
        assert progress(source, name).last_error == ""


# With one leader the progress of a replica has one writer; the shards that come later are the leader's, too.
def test_of_two_peers_one_holds_all_shards_and_the_other_takes_over_all(
    two_regions: tuple[BrokerProcess, BrokerProcess], source: Client, target: Client, tmp_path: Path
) -> None:
    north, south = two_regions
    table = source.create_table()
    name = create_replica(source, table, south)

    def holder() -> str:
        shards = [shard for shard in group_of(source, name).shards if not shard.shard_end]
        opened = {shard.shard_id for shard in open_shards(source, table.stream_arn)}
        assert {shard.shard_id for shard in shards} == opened
        (holder,) = {shard.member_name for shard in shards}
        return holder

    with CompanionProcess("replicator", north.grpc, tmp_path).wait_ready() as leader:
        wait_until_active(source, name)
        with CompanionProcess("replicator", north.grpc, tmp_path).wait_ready():
            eventually(lambda: len(group_of(source, name).member_names) == 2)
            first, second = group_of(source, name).member_names
            fill(source, table, 500)
            source.split(table.stream_arn, open_shards(source, table.stream_arn)[0].shard_id)
            source.split(table.stream_arn, open_shards(source, table.stream_arn)[1].shard_id)
            wait_until_converged(source, table, target, table, name)
            assert eventually(holder) == first
            leader.kill()
            # It leads in a session of its own, after it has looked at what is durable.
            eventually(lambda: eventually(holder) == second)
            fill(source, table, 1_000, text_length=10)
            wait_until_converged(source, table, target, table, name)


def test_a_replica_whose_changes_have_aged_out_is_copied_again(tmp_path: Path) -> None:
    """Retention of a second, looked after ten times a second, in a stream of several shards."""
    environment = {"HEADRACE_UPKEEP_INTERVAL_SECONDS": "0.1"}
    with (
        BrokerProcess(tmp_path / "north", region="eu-north-1", environment=environment) as north,
        BrokerProcess(tmp_path / "south", region="us-south-1") as south,
        Client(north.grpc) as source,
        Client(south.grpc) as target,
    ):
        request = create_table_request(unique_name(), view_type=record_pb2.STREAM_VIEW_TYPE_NEW_IMAGE)
        request.stream_settings.retention_period_in_seconds = 1
        request.stream_settings.min_shards = request.stream_settings.max_shards = 4
        made = source.tables.CreateTable(request).table_description
        table = TestTable(name=made.table_name, stream_arn=made.latest_stream_arn, key_names=("id",))
        fill(source, table, 500)
        name = create_replica(source, table, south)
        with CompanionProcess("replicator", north.grpc, tmp_path).wait_ready():
            wait_until_active(source, name)
            wait_until_converged(source, table, target, table, name)
        source.delete(table.name, item(id="k1"))
        source.put(table.name, item(id="k2", text="changed"))

        def has_aged_out() -> bool:
            described = source.streams.DescribeStream(DescribeStreamRequest(stream_arn=table.stream_arn))
            return described.stream_description.retained_records == 0

        eventually(has_aged_out)
        with CompanionProcess("replicator", north.grpc, tmp_path).wait_ready():
            eventually(lambda: "copying again" in progress(source, name).last_error)
            eventually(lambda: progress(source, name).status == pb.REPLICA_STATUS_ACTIVE)
            wait_until_converged(source, table, target, table, name)
        assert "last_lost_sequence_number" in progress(source, name).last_error
        # The copy has the stream of its source, in everything.
        copied = target.tables.DescribeTable(DescribeTableRequest(table_name=table.name)).table
        assert copied.stream_settings == made.stream_settings


@pytest.mark.crash
@pytest.mark.timeout(300)
def test_peers_that_are_killed_while_the_stream_is_resharded_leave_equal_regions(
    two_regions: tuple[BrokerProcess, BrokerProcess],
    source: Client,
    target: Client,
    tmp_path: Path,
    rng: random.Random,
    request: pytest.FixtureRequest,
) -> None:
    rounds: int = request.config.option.crash_rounds
    north, south = two_regions
    table = source.create_table()
    fill(source, table, ITEMS)
    name = create_replica(source, table, south)
    with writing(north.grpc, table, rng, keys=2 * ITEMS), resharding(north.grpc, table, rng) as resharder:
        for _ in range(rounds):
            with CompanionProcess("replicator", north.grpc, tmp_path).wait_ready() as peer:
                # The moment of the crash is what the test varies.
                crash_after = resharder.changes + rng.randrange(1, 8)
                eventually(partial(_is_beyond, resharder, crash_after))
                peer.kill()
    with CompanionProcess("replicator", north.grpc, tmp_path).wait_ready():
        wait_until_active(source, name)
        wait_until_converged(source, table, target, table, name)
