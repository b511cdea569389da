"""Groups of several members on streams of several shards: who gets what, how it moves, and why it does not."""

from __future__ import annotations

import threading
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from headrace.v1 import consumer_service_pb2 as pb
from headrace.v1 import record_pb2
from headrace.v1.stream_service_pb2 import DescribeStreamRequest
from headrace.v1.table_service_pb2 import DeleteTableRequest, UpdateTableRequest
from tests.broker_process import BrokerProcess
from tests.conftest import eventually
from tests.consuming import (
    AFTER_SEQUENCE_NUMBER,
    AT_TIMESTAMP,
    EXCLUSIVE,
    SHUTDOWN,
    SNAPSHOT,
    TRIM_HORIZON,
    Join,
    Member,
    describe,
    explain,
    numbers,
    refusal,
    write,
)
from tests.rpc import NEW_AND_OLD_IMAGES, Client, TestTable, batch, create_table_request, put, refused, unique_name
from tests.values import item

KEYS = [f"key-{number}" for number in range(40)]


def write_all(client: Client, table: TestTable, value: int) -> None:
    """One record of each key; that is some for every shard."""
    client.write_items(batch(table.name, *(put(item(id=key, n=value)) for key in KEYS)))


@pytest.fixture
def table(client: Client) -> TestTable:
    """A table whose stream has four shards."""
    request = create_table_request(unique_name(), view_type=NEW_AND_OLD_IMAGES)
    request.stream_settings.min_shards = 4
    made = client.tables.CreateTable(request).table_description
    return TestTable(name=made.table_name, stream_arn=made.latest_stream_arn, key_names=("id",))


def assigned(member: Member, count: int) -> None:
    """Waits until a member holds so many shards."""
    while len(member.leases) != count:
        member.receive()


def values_by_key(records: list[record_pb2.Record]) -> dict[str, list[int]]:
    values: dict[str, list[int]] = defaultdict(list)
    for record in records:
        values[record.keys.attributes["id"].s].append(int(record.new_image.attributes["n"].n))
    return values


def test_a_sole_member_reads_all_shards_over_one_call(client: Client, table: TestTable, join: Join) -> None:
    write_all(client, table, 1)
    member = join(unique_name("group"))
    assert not member.started().standby
    assert values_by_key(member.records(40)) == {key: [1] for key in KEYS}
    assert member.leases.keys() == {shard.shard_id for shard in client.shards(table.stream_arn)}


def test_members_that_come_and_go_move_no_more_than_their_share(client: Client, join: Join) -> None:
    group = unique_name("group")
    first = join(group, member_name="first")
    first.started()
    assigned(first, 4)
    second = join(group, member_name="second")
    second.started()
    assigned(second, 2)
    assigned(first, 2)
    before = {shard.shard_id: shard.lease_epoch for shard in describe(client, group).shards}
    third = join(group, member_name="third")
    third.started()
    assigned(third, 1)
    # Two and one and one: only one shard has moved, and only from one of them.
    holders = {shard.shard_id: shard.member_name for shard in describe(client, group).shards}
    epochs = {shard.shard_id: shard.lease_epoch for shard in describe(client, group).shards}
    assert sorted(holders.values()) in (["first", "first", "second", "third"], ["first", "second", "second", "third"])
    assert len([id_ for id_ in epochs if epochs[id_] > before[id_]]) == 1
    second.close()
    eventually(lambda: list(describe(client, group).member_names) == ["first", "third"])
    eventually(lambda: all(shard.member_name for shard in describe(client, group).shards))
    after = {shard.shard_id: shard.member_name for shard in describe(client, group).shards}
    assert {id_ for id_ in after if after[id_] != holders[id_]} == {id_ for id_ in holders if holders[id_] == "second"}
    assert sorted(after.values()) == ["first", "first", "third", "third"]


def test_a_shard_moves_when_it_is_acked_and_goes_on_after_its_checkpoint(
    client: Client, table: TestTable, join: Join
) -> None:
    write_all(client, table, 1)
    group = unique_name("group")
    first = join(group)
    first.started()
    sent = [first.batch() for _ in range(4)]
    second = join(group)
    second.started()
    revoking = [first.until("revoking"), first.until("revoking")]
    deadline = revoking[0].revoking.deadline.ToDatetime()
    assert 0 < (deadline.timestamp() - describe(client, group).create_time.ToDatetime().timestamp()) < 60
    moving = {response.shard_id for response in revoking}
    # What is written meanwhile waits for the next holder.
    write_all(client, table, 2)
    for response in sent:
        if response.shard_id in moving:
            first.ack_response(response)
    assigned(first, 2)
    assert not moving & first.leases.keys()
    taken_over = [second.batch() for _ in range(2)]
    assert {response.shard_id for response in taken_over} == moving
    for response in taken_over:
        (old,) = [each for each in sent if each.shard_id == response.shard_id]
        assert response.lease_epoch > old.lease_epoch
        assert set(numbers(list(response.records))) == {2}
    # The epoch fences whoever had it before.
    first.ack_response(sent[0] if sent[0].shard_id in moving else sent[1])
    first.ack_response(next(response for response in sent if response.shard_id in moving))
    assert refusal(first) == ("LEASE_FENCED", "")


def test_a_shard_is_taken_away_at_the_deadline(client: Client, table: TestTable, join: Join) -> None:
    write_all(client, table, 1)
    group = unique_name("group")
    slow = join(group, revoke_timeout_in_seconds=1)
    slow.started()
    sent = {response.shard_id: response for response in [slow.batch() for _ in range(4)]}
    # It neither acks nor even reads from here on.
    other = join(group)
    other.started()
    moved = [other.batch(), other.batch()]
    for response in moved:
        assert numbers(list(response.records)) == numbers(list(sent[response.shard_id].records))
        other.ack_response(response)
    slow.ack_response(sent[moved[0].shard_id])
    assert refusal(slow) == ("LEASE_FENCED", "")


def test_exclusive_members_stand_by_and_must_all_be_so(join: Join) -> None:
    group = unique_name("group")
    first = join(group, assignment_mode=EXCLUSIVE)
    assert not first.started().standby
    assigned(first, 4)
    second = join(group, assignment_mode=EXCLUSIVE)
    assert second.started().standby
    shared = join(group)
    with refused("INVALID_ARGUMENT", "VALIDATION", field="assignment_mode"):
        shared.receive()
    first.close()
    assigned(second, 4)


def test_a_member_that_says_it_leaves_hands_its_shard_to_another(client: Client, table: TestTable, join: Join) -> None:
    group = unique_name("group")
    leaving, other = join(group), join(group)
    leaving.started()
    other.started()
    assigned(other, 2)
    assigned(leaving, 2)
    write_all(client, table, 1)
    response = leaving.batch()
    nacked = leaving.nack(response, 0, SHUTDOWN)
    assert (nacked.attempts, nacked.parked) == (0, False)
    taken_over = next(r for r in iter(other.batch, None) if r.shard_id == response.shard_id)
    assert list(taken_over.records) == list(response.records)
    assert taken_over.lease_epoch > response.lease_epoch


# The two big fears of whoever reshards: that a consumer stops, and that a key's changes change places.
def test_members_follow_splits_and_merges_in_order_without_being_told(
    client: Client, table: TestTable, join: Join
) -> None:
    group = unique_name("group")
    members = [join(group), join(group)]
    received: list[list[tuple[float, record_pb2.Record]]] = [[], []]
    clock = iter(range(1_000_000))
    total = len(KEYS) * 8
    done = threading.Event()

    def consume(index: int) -> None:
        member = members[index]
        member.started()
        while not done.is_set():
            try:
                response = member.receive()
            except grpc.RpcError:
                # The end of the test ends the call that this waits in.
                assert done.is_set()
                return
            received[index] += [(next(clock), record) for record in response.records]
            if sum(map(len, received)) >= total:
                done.set()
            if response.records or response.WhichOneof("event") == "shard_ended":
                member.ack_response(response)

    threads = [threading.Thread(target=consume, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for round_ in range(8):
        write_all(client, table, round_)
        shards = [s for s in client.shards(table.stream_arn) if not s.sequence_number_range.ending_sequence_number]
        shards.sort(key=lambda shard: shard.hash_key_range.starting_hash_key)
        if round_ % 2:
            client.merge(table.stream_arn, shards[1].shard_id, shards[2].shard_id)
        else:
            client.split(table.stream_arn, shards[round_ % len(shards)].shard_id)
    assert done.wait(12)
    # Both wait in a call; ending it lets them go.
    for member in members:
        member.close()
    for thread in threads:
        thread.join(5)
    in_order = [record for _, record in sorted((each for one in received for each in one), key=lambda each: each[0])]
    assert {key: list(dict.fromkeys(values)) for key, values in values_by_key(in_order).items()} == {
        key: list(range(8)) for key in KEYS
    }
    assert all(received)


def test_a_group_may_begin_at_a_time(client: Client, table: TestTable, join: Join) -> None:
    write_all(client, table, 1)
    records = [r for shard in client.shards(table.stream_arn) for r in _records(client, table, shard.shard_id)]
    last = max(record.approximate_creation_date_time.ToNanoseconds() for record in records)
    time = Timestamp()
    time.FromNanoseconds(last + 1_000_000)
    eventually(lambda: _write_later(client, table, last))
    member = join(unique_name("group"), AT_TIMESTAMP, starting_timestamp=time)
    member.started()
    seen = numbers(member.records(40))
    assert set(seen) == {3}
    # A time before everything means the oldest record held.
    member = join(unique_name("group"), AT_TIMESTAMP, starting_timestamp=Timestamp(seconds=1))
    member.started()
    assert set(numbers(member.records(80))) >= {1, 3}


def _write_later(client: Client, table: TestTable, after_ns: int) -> bool:
    """Writes once the clock has moved; a probe that does so only once."""
    probe = client.create_table()
    client.put(probe.name, item(id="a"))
    (record,) = client.records(probe.stream_arn)
    if record.approximate_creation_date_time.ToNanoseconds() <= after_ns:
        return False
    write_all(client, table, 3)
    return True


def _records(client: Client, table: TestTable, shard_id: str) -> list[record_pb2.Record]:
    iterator = client.iterator(table.stream_arn, shard_id=shard_id)
    return [record for response in client.read(iterator) for record in response.records]


def test_the_credit_in_bytes_bounds_what_is_in_flight_over_all_shards(
    client: Client, table: TestTable, join: Join
) -> None:
    large = "x" * 100_000
    client.write_items(batch(table.name, *(put(item(id=key, n=1, text=large)) for key in KEYS)))
    group = unique_name("group")
    member = join(group, max_in_flight_bytes=450_000)
    member.started()
    in_flight: list[pb.ConsumeResponse] = []
    seen = 0
    while seen < 40:
        response = member.receive()
        if response.records:
            in_flight.append(response)
            seen += len(response.records)
        held = sum(response.ByteSize() for response in in_flight)
        assert held < 460_000
        if held > 340_000:
            member.ack_response(in_flight.pop(0))


# A snapshot, and the changes after it.


def test_a_snapshot_comes_first_as_inserts_and_then_the_changes_after_it(
    client: Client, table: TestTable, join: Join
) -> None:
    write_all(client, table, 1)
    write_all(client, table, 2)
    group = unique_name("group")
    member = join(group, SNAPSHOT)
    member.started()
    write_all(client, table, 3)
    items = member.finish(16)
    assert values_by_key(items) == {key: [2] for key in KEYS}
    assert {record.event_name for record in items} == {record_pb2.EVENT_NAME_INSERT}
    assert all(record.keys.attributes["id"] == record.new_image.attributes["id"] for record in items)
    assert all(record.version.hybrid_time for record in items)
    changes: list[record_pb2.Record] = []
    while len(changes) < 40:
        response = member.receive()
        if response.records:
            assert response.source == pb.RECORD_SOURCE_LOG
        changes += response.records
    assert values_by_key(changes) == {key: [3] for key in KEYS}


def test_a_snapshot_is_shared_by_members_and_goes_on_after_its_checkpoints(
    client: Client, table: TestTable, join: Join
) -> None:
    write_all(client, table, 1)
    group = unique_name("group")
    first = join(group, SNAPSHOT, max_in_flight_records=3, max_batch_records=1)
    first.started()
    taken = [first.batch() for _ in range(3)]
    assert {response.source for response in taken} == {pb.RECORD_SOURCE_SNAPSHOT}
    first.ack_response(taken[0])
    first.checkpointed()
    assert "snapshot" in explain(client, group).shards[-1].text
    assert explain(client, group).shards[-1].progress == pb.SHARD_PROGRESS_WAITING_FOR_SNAPSHOT
    first.close()
    # What was changed meanwhile is not in it: the node still has the snapshot.
    write_all(client, table, 2)
    second = join(group)
    second.started()
    items = second.finish(16)
    assert set(values_by_key(items)) == set(KEYS) - {taken[0].records[0].keys.attributes["id"].s}
    assert set(numbers(items)) == {1}


def test_a_table_without_images_in_its_stream_still_has_a_snapshot_with_images(client: Client) -> None:
    keys_only = client.create_table(view_type=record_pb2.STREAM_VIEW_TYPE_KEYS_ONLY)
    client.put(keys_only.name, item(id="a", n=1))
    start = pb.ConsumeStart(table_name=keys_only.name, group_name=unique_name("group"), starting_position=SNAPSHOT)
    with Member(client, start) as member:
        member.started()
        assert numbers(member.finish(16)) == [1]
    client.tables.DeleteTable(DeleteTableRequest(table_name=keys_only.name))
    start = pb.ConsumeStart(
        stream_arn=keys_only.stream_arn, group_name=unique_name("group"), starting_position=SNAPSHOT
    )
    with refused("NOT_FOUND", "RESOURCE_NOT_FOUND"), Member(client, start) as member:
        member.receive()


@pytest.fixture
def own_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    """A broker that a test may restart, and that trims ten times a second."""
    environment = {"HEADRACE_UPKEEP_INTERVAL_SECONDS": "0.1"}
    with BrokerProcess(tmp_path_factory.mktemp("own"), environment=environment) as broker:
        yield broker


def test_a_snapshot_is_resumed_after_a_restart(own_broker: BrokerProcess) -> None:
    with Client(own_broker.grpc) as client:
        table = client.create_table()
        write_all(client, table, 1)
        start = pb.ConsumeStart(table_name=table.name, group_name="group", starting_position=SNAPSHOT)
        start.max_batch_records = 1
        with Member(client, start) as member:
            member.started()
            done = [member.batch() for _ in range(5)]
            for response in done:
                member.ack_response(response)
                member.checkpointed()
        write_all(client, table, 2)
    own_broker.kill()
    own_broker.start()
    with Client(own_broker.grpc) as client, Member(client, start) as member:
        member.started()
        # A range whose last item was acked may have ended by that.
        ranges = [shard for shard in explain(client, "group").shards if shard.shard_id.startswith("snapshotId-")]
        rest = member.finish(len(ranges))
        # Each item that was not acked comes once, as it is now; and then each change after the first snapshot.
        processed = {response.records[0].keys.attributes["id"].s for response in done}
        assert values_by_key(rest) == {key: [2] for key in KEYS if key not in processed}
        assert values_by_key(member.records(40)) == {key: [2] for key in KEYS}


# Records that are gone.


def _is_trimmed(client: Client, table: TestTable) -> bool:
    request = DescribeStreamRequest(stream_arn=table.stream_arn)
    return client.streams.DescribeStream(request).stream_description.retained_records == 0


def test_a_gap_fails_or_is_told_and_skipped(own_broker: BrokerProcess) -> None:
    with Client(own_broker.grpc) as client:
        request = create_table_request(unique_name(), view_type=NEW_AND_OLD_IMAGES)
        request.stream_settings.retention_period_in_seconds = 1
        made = client.tables.CreateTable(request).table_description
        table = TestTable(name=made.table_name, stream_arn=made.latest_stream_arn, key_names=("id",))
        start = pb.ConsumeStart(table_name=table.name, group_name="group", starting_position=TRIM_HORIZON)
        with Member(client, start) as member:
            member.started()
            member.until("assigned")
        write(client, table, 0, 5)
        (shard,) = client.shards(table.stream_arn)
        lost = _records(client, table, shard.shard_id)
        eventually(lambda: _is_trimmed(client, table))
        assert explain(client, "group").shards[0].progress == pb.SHARD_PROGRESS_GAP
        assert "GAP" in explain(client, "group").summary
        with (
            refused("OUT_OF_RANGE", "TRIMMED_DATA_ACCESS") as failed,
            Member(client, start) as member,
        ):
            member.drain()
        assert failed.refusal.metadata["last_lost_sequence_number"] == lost[-1].sequence_number
        start.on_gap = pb.GAP_POLICY_SKIP
        with Member(client, start) as member:
            member.started()
            gap = member.until("gap")
            assert gap.gap.last_lost_sequence_number == gap.sequence_number == lost[-1].sequence_number
            assert gap.gap.lost_to.ToNanoseconds() >= lost[-1].approximate_creation_date_time.ToNanoseconds()
            write(client, table, 5, 6)
            assert numbers(member.records(1)) == [5]
        # A group that names where it begins is told what it has missed.
        exact = pb.ConsumeStart(
            table_name=table.name,
            group_name="exact",
            starting_position=AFTER_SEQUENCE_NUMBER,
            starting_sequence_number=lost[0].sequence_number,
        )
        with refused("OUT_OF_RANGE", "TRIMMED_DATA_ACCESS"), Member(client, exact) as member:
            member.drain()


# Why it does not move.


def progress(client: Client, group: str) -> set[str]:
    return {pb.ShardProgress.Name(s.progress).removeprefix("SHARD_PROGRESS_") for s in explain(client, group).shards}


def test_explain_follows_what_a_group_does(client: Client, table: TestTable, join: Join) -> None:
    group = unique_name("group")
    with refused("NOT_FOUND", "RESOURCE_NOT_FOUND"):
        explain(client, group)
    with join(group, member_name="worker") as member:
        member.started()
        assigned(member, 4)
        eventually(lambda: progress(client, group) == {"AT_TIP"})
        assert explain(client, group).summary.startswith("Everything is processed")
        write_all(client, table, 1)
        sent = [member.batch() for _ in range(4)]
        eventually(lambda: progress(client, group) == {"WAITING_FOR_ACK"})
        shard = explain(client, group).shards[0]
        assert (shard.member_name, shard.lease_epoch) == ("worker", member.leases[shard.shard_id])
        assert shard.in_flight_records == shard.records_behind_latest > 0
        assert shard.in_flight_age_ms >= 0
        member.nack(sent[0], 0, message="out of order", retry_delay={"seconds": 600})
        shard = next(s for s in explain(client, group).shards if s.shard_id == sent[0].shard_id)
        assert (shard.progress, shard.attempts) == (pb.SHARD_PROGRESS_WAITING_FOR_RETRY, 1)
        assert shard.last_error == "out of order"
        assert "out of order" in shard.text
        other = join(group)
        other.started()
        eventually(lambda: "REVOKING" in progress(client, group))
        other.close()
    eventually(lambda: progress(client, group) == {"NO_MEMBER"})
    client.split(table.stream_arn, client.shards(table.stream_arn)[0].shard_id)
    assert progress(client, group) == {"NO_MEMBER", "WAITING_FOR_PARENT"}
    described = explain(client, group).consumer_group
    assert (described.group_name, sum(s.records_behind_latest for s in described.shards)) == (group, 40)


def test_a_member_that_does_not_read_is_named_and_others_can_have_its_shards(
    client: Client, table: TestTable, join: Join
) -> None:
    large = "x" * 300_000
    for n in range(4):
        client.write_items(batch(table.name, *(put(item(id=key, n=n, text=large)) for key in KEYS)))
    group = unique_name("group")
    stuck = join(group, member_name="stuck", max_in_flight_bytes=2**28, revoke_timeout_in_seconds=1)
    stuck.started()
    eventually(lambda: "WAITING_FOR_MEMBER" in progress(client, group))
    assert any("stuck has not read" in shard.text for shard in explain(client, group).shards)
    other = join(group, max_batch_records=1)
    other.started()
    assigned(other, 2)
    assert other.batch().records


def test_a_group_whose_shards_are_all_processed_has_nothing_to_explain(
    client: Client, table: TestTable, join: Join
) -> None:
    request = UpdateTableRequest(table_name=table.name)
    request.stream_specification.stream_enabled = False
    group = unique_name("group")
    member = join(group)
    member.started()
    assigned(member, 4)
    client.tables.UpdateTable(request)
    member.finish(4)
    explained = explain(client, group)
    assert (list(explained.shards), explained.summary) == ([], "Everything is processed to its end.")
    assert [shard.shard_end for shard in explained.consumer_group.shards] == [True] * 4


def test_the_lag_of_a_group_is_a_metric(broker: BrokerProcess) -> None:
    def lags(kind: str, group: str) -> list[float]:
        with urllib.request.urlopen(f"http://{broker.http}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        prefix, label = f"headrace_consumer_lag_{kind}{{", f'group="{group}"'
        return [float(line.rpartition(" ")[2]) for line in lines if line.startswith(prefix) and label in line]

    with Client(broker.grpc) as client:
        table = client.create_table()
        group = unique_name("group")
        start = pb.ConsumeStart(table_name=table.name, group_name=group, starting_position=TRIM_HORIZON)
        with Member(client, start) as member:
            member.started()
            write(client, table, 0, 7)
            records: list[Any] = member.records(7)
            assert lags("records", group) == [7]
            assert lags("milliseconds", group)[0] >= 0
            member.ack(records[4].sequence_number)
            member.checkpointed()
            assert lags("records", group) == [2]
