"""Two real brokers and real peers: a replica equals its source, also when anything is killed at any moment.

pytest -m crash tests/replication --crash-rounds 200 --seed N     a long search, or a repeat of one
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from headrace.replication import verify_replica
from headrace.v1 import record_pb2, stream_service_pb2, table_pb2, table_service_pb2
from headrace.v1 import replication_service_pb2 as pb
from tests.broker_process import BrokerProcess
from tests.companion_process import CompanionProcess
from tests.conftest import eventually
from tests.replication.two_regions import (
    check_converged,
    create_replica,
    fill,
    progress,
    versioned_contents,
    wait_until_active,
    wait_until_caught_up,
    writing,
)
from tests.rpc import Client, TestTable, unique_name
from tests.values import attributes, item, value

ITEMS = 5_000


@dataclass(slots=True)
class Regions:
    north: BrokerProcess
    south: BrokerProcess

    def check_converged(self, table: TestTable, name: str, copy: TestTable | None = None) -> None:
        """Waits until the replica has caught up, then compares."""
        with Client(self.north.grpc) as source, Client(self.south.grpc) as target:
            wait_until_caught_up(source, table, name)
            check_converged(source, table, target, copy or table)


@pytest.fixture
def regions(tmp_path: Path) -> Iterator[Regions]:
    """Two regions of the test's own, for killing."""
    with (
        BrokerProcess(tmp_path / "north", region="eu-north-1") as north,
        BrokerProcess(tmp_path / "south", region="us-south-1") as south,
    ):
        yield Regions(north, south)


@pytest.fixture
def source(two_regions: tuple[BrokerProcess, BrokerProcess]) -> Iterator[Client]:
    with Client(two_regions[0].grpc) as client:
        yield client


@pytest.fixture
def target(two_regions: tuple[BrokerProcess, BrokerProcess]) -> Iterator[Client]:
    with Client(two_regions[1].grpc) as client:
        yield client


def test_a_copy_made_while_everything_is_written_equals_its_source(
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
        with writing(north.grpc, table, rng, keys=2 * ITEMS) as writer:
            name = create_replica(source, table, south)
            wait_until_active(source, name, peer.log())
            written_while_copied = writer.written
            # It follows too, not only what came during the copy.
            eventually(lambda: writer.written > written_while_copied + 200)
        wait_until_caught_up(source, table, name)
        check_converged(source, table, target, table)
    found = progress(source, name)
    assert found.items_copied >= ITEMS / 2
    assert found.records_applied > 0
    assert (found.target_region, found.last_error) == (south.region, "")


def test_a_stopped_peer_has_acked_what_it_applied(
    two_regions: tuple[BrokerProcess, BrokerProcess], source: Client, target: Client, tmp_path: Path
) -> None:
    north, south = two_regions
    table = source.create_table()
    name = create_replica(source, table, south)
    with CompanionProcess("replicator", north.grpc, tmp_path).wait_ready() as peer:
        wait_until_active(source, name)
        fill(source, table, 1_000)
        assert peer.stop() == 0, peer.log()
    applied = progress(source, name).last_applied_sequence_number
    records = {record.sequence_number: record for record in source.records(table.stream_arn)}
    # Exactly what is noted is there: nothing was cut off between the target's answer and the report.
    expected = {record.new_image.attributes["id"].s for number, record in records.items() if number <= applied}
    assert {key[0] for key in versioned_contents(target, table)} == {value(key) for key in expected}
    with CompanionProcess("replicator", north.grpc, tmp_path).wait_ready():
        wait_until_caught_up(source, table, name)
        check_converged(source, table, target, table)
    # Nothing came twice.
    assert progress(source, name).records_applied == 1_000


def test_the_copy_has_a_stream_of_its_own_with_the_versions_of_the_source(
    two_regions: tuple[BrokerProcess, BrokerProcess], source: Client, target: Client, tmp_path: Path
) -> None:
    north, south = two_regions
    table = source.create_table(keys="id:S n:N", view_type=record_pb2.STREAM_VIEW_TYPE_NEW_IMAGE)
    copy_name = unique_name("copy")
    name = create_replica(source, table, south, target_table=copy_name)
    with CompanionProcess("replicator", north.grpc, tmp_path).wait_ready():
        wait_until_active(source, name)
        source.put(table.name, item(id="a", n=1, text="first"))
        source.put(table.name, item(id="a", n=1, text="second"))
        source.delete(table.name, item(id="a", n=1))
        wait_until_caught_up(source, table, name)
    streams = target.streams.ListStreams(_streams_of(copy_name)).streams
    original, copied = source.records(table.stream_arn), target.records(streams[0].stream_arn)
    assert [record.event_name for record in copied] == [record.event_name for record in original]
    assert [record.version for record in copied] == [record.version for record in original]


def test_writes_at_the_replica_stay_there_until_the_source_writes_the_item(
    two_regions: tuple[BrokerProcess, BrokerProcess], source: Client, target: Client, tmp_path: Path
) -> None:
    north, south = two_regions
    table = source.create_table()
    name = create_replica(source, table, south)
    with CompanionProcess("replicator", north.grpc, tmp_path).wait_ready():
        wait_until_active(source, name)
        source.put(table.name, item(id="a", text="from the source"))
        wait_until_caught_up(source, table, name)
        target.put(table.name, item(id="a", text="from the replica"))
        target.put(table.name, item(id="local"))
        source.put(table.name, item(id="b"))
        wait_until_caught_up(source, table, name)
        assert target.get(table.name, item(id="a")) == attributes(id="a", text="from the replica")
        source.put(table.name, item(id="a", text="from the source again"))
        wait_until_caught_up(source, table, name)
    assert target.get(table.name, item(id="a")) == attributes(id="a", text="from the source again")
    assert target.get(table.name, item(id="local")) == attributes(id="local")
    assert source.get(table.name, item(id="local")) is None


def test_an_enabled_stream_that_was_switched_off_in_between_leaves_no_gap(
    two_regions: tuple[BrokerProcess, BrokerProcess], source: Client, target: Client, tmp_path: Path
) -> None:
    north, south = two_regions
    table = source.create_table()
    fill(source, table, 500)
    name = create_replica(source, table, south)
    with CompanionProcess("replicator", north.grpc, tmp_path).wait_ready():
        wait_until_active(source, name)
    _switch_stream(source, table, enabled=False)
    source.delete(table.name, item(id="k1"))
    source.put(table.name, item(id="k2", text="unrecorded"))
    _switch_stream(source, table, enabled=True)
    source.put(table.name, item(id="k3", text="recorded"))
    with CompanionProcess("replicator", north.grpc, tmp_path).wait_ready():

        def is_equal() -> bool:
            assert progress(source, name).status == pb.REPLICA_STATUS_ACTIVE
            check_converged(source, table, target, table)
            return True

        eventually(is_equal, timeout_s=30)
        source.put(table.name, item(id="k4", text="recorded"))
        eventually(is_equal, timeout_s=30)
    assert "made anew" in progress(source, name).last_error


# Start keys must hold nothing of the region, or two regions cannot be compared. Here the numbers of the tables differ.
async def test_two_regions_are_compared_whatever_else_they_hold(
    two_regions: tuple[BrokerProcess, BrokerProcess], source: Client, target: Client, tmp_path: Path
) -> None:
    north, south = two_regions
    for _ in range(3):
        target.create_table(name=unique_name("other"))
    table = source.create_table()
    # Several responses of a snapshot.
    await asyncio.to_thread(fill, source, table, 3_000, text_length=2_000)
    name = create_replica(source, table, south)
    with CompanionProcess("replicator", north.grpc, tmp_path).wait_ready():
        await asyncio.to_thread(wait_until_active, source, name)
    description = source.replication.DescribeReplica(pb.DescribeReplicaRequest(replica_name=name)).replica
    verification = await verify_replica(description, north.grpc)
    assert (verification.source_items, verification.target_items) == (3_000, 3_000)
    assert verification.are_equal
    assert verification.in_motion == 0
    target.delete(table.name, item(id="k7"))
    target.put(table.name, item(id="extra"))
    target.put(table.name, item(id="k8", text="different"))
    verification = await verify_replica(description, north.grpc)
    counts = (verification.missing.count, verification.extra.count, verification.different.count)
    assert counts == (1, 1, 1)


@pytest.fixture
def rounds(request: pytest.FixtureRequest) -> int:
    chosen: int = request.config.option.crash_rounds
    return chosen


@pytest.mark.crash
@pytest.mark.timeout(900)
def test_a_peer_that_is_killed_again_and_again_leaves_equal_regions(
    regions: Regions, tmp_path: Path, rng: random.Random, rounds: int
) -> None:
    north, south = regions.north, regions.south
    replicas: dict[str, str] = {}
    with Client(north.grpc) as source:
        table = source.create_table()
        fill(source, table, 4 * ITEMS)
        with writing(north.grpc, table, rng, keys=5 * ITEMS):
            for turn in range(rounds):
                # Every third round begins another copy, so that copying is hit as often as following.
                if turn % 3 == 0:
                    copy = unique_name("copy")
                    replicas[create_replica(source, table, south, target_table=copy)] = copy
                peer = CompanionProcess("replicator", north.grpc, tmp_path)
                try:
                    peer.wait_ready()
                    # The moment of the crash is what the test varies; nothing waits for the time to pass.
                    time.sleep(rng.uniform(0, 0.8))
                finally:
                    peer.kill()
        with CompanionProcess("replicator", north.grpc, tmp_path).wait_ready():
            for name, copy in replicas.items():
                regions.check_converged(table, name, TestTable(name=copy, stream_arn="", key_names=table.key_names))


@pytest.mark.crash
@pytest.mark.timeout(900)
@pytest.mark.parametrize("side", ["source", "target"])
def test_a_broker_that_is_killed_again_and_again_leaves_equal_regions(
    regions: Regions, tmp_path: Path, rng: random.Random, rounds: int, side: str
) -> None:
    north, south = regions.north, regions.south
    victim = north if side == "source" else south
    replicas: dict[str, str] = {}
    with Client(north.grpc) as source:
        table = source.create_table()
        fill(source, table, 2 * ITEMS)
    with CompanionProcess("replicator", north.grpc, tmp_path).wait_ready() as peer:
        for turn in range(max(2, rounds // 2)):
            with writing(north.grpc, table, rng, keys=3 * ITEMS):
                if turn % 2 == 0:
                    copy = unique_name("copy")
                    with Client(north.grpc) as source:
                        replicas[create_replica(source, table, south, target_table=copy)] = copy
                # The moment of the crash is what the test varies; nothing waits for the time to pass.
                time.sleep(rng.uniform(0, 1.5))
                victim.kill()
                victim.start(keep_ports=True)
        for name, copy in replicas.items():
            regions.check_converged(table, name, TestTable(name=copy, stream_arn="", key_names=table.key_names))
        assert peer.stop() == 0, peer.log()


@pytest.mark.crash
@pytest.mark.timeout(300)
def test_another_peer_goes_on_when_the_leader_is_killed(regions: Regions, tmp_path: Path, rng: random.Random) -> None:
    north, south = regions.north, regions.south
    with Client(north.grpc) as source:
        table = source.create_table()
        fill(source, table, ITEMS)
        name = create_replica(source, table, south)
    peers = [CompanionProcess("replicator", north.grpc, tmp_path).wait_ready() for _ in range(3)]
    with writing(north.grpc, table, rng, keys=2 * ITEMS):
        for peer in peers[:2]:
            time.sleep(rng.uniform(0, 0.5))
            peer.kill()
    regions.check_converged(table, name)
    assert peers[2].stop() == 0, peers[2].log()


def _streams_of(table_name: str) -> stream_service_pb2.ListStreamsRequest:
    return stream_service_pb2.ListStreamsRequest(table_name=table_name)


def _switch_stream(client: Client, table: TestTable, *, enabled: bool) -> None:
    specification = table_pb2.StreamSpecification(stream_enabled=enabled)
    if enabled:
        specification.stream_view_type = record_pb2.STREAM_VIEW_TYPE_NEW_AND_OLD_IMAGES
    client.tables.UpdateTable(
        table_service_pb2.UpdateTableRequest(table_name=table.name, stream_specification=specification)
    )
