"""Consumer groups: checkpoints that live in the broker, shards that move between members, fencing, credit, failures.

Style of the tests: a Member is one Consume call, driven step by step, so that who does what when is in the test.
"""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from headrace.v1 import consumer_service_pb2 as pb
from headrace.v1 import record_pb2
from headrace.v1.consumer_service_pb2 import (
    ConsumeAck,
    ConsumeNack,
    ConsumeRequest,
    ConsumeStart,
    DeleteConsumerGroupRequest,
    ListConsumerGroupsRequest,
)
from headrace.v1.table_service_pb2 import DeleteTableRequest, UpdateTableRequest
from tests.conftest import eventually
from tests.consuming import (
    AFTER_SEQUENCE_NUMBER,
    AT_TIMESTAMP,
    EXCLUSIVE,
    LATEST,
    TRANSIENT,
    TRIM_HORIZON,
    Join,
    Member,
    describe,
    numbers,
    refusal,
    write,
)
from tests.rpc import Client, TestTable, refused, unique_name


def checkpoint(client: Client, group: str) -> str:
    return describe(client, group).shards[0].sequence_number


def test_a_new_group_starts_at_the_trim_horizon_and_reads_in_order(
    client: Client, table: TestTable, join: Join
) -> None:
    write(client, table, 0, 1500)
    member = join(unique_name("group"))
    started = member.started()
    assert (started.stream_arn, started.standby) == (table.stream_arn, False)
    assert started.region == table.stream_arn.split(":")[3]
    assert member.assigned().checkpoint == ""
    assert numbers(member.records(1500)) == list(range(1500))
    write(client, table, 1500, 1510)
    assert numbers(member.records(10)) == list(range(1500, 1510))


def test_a_new_group_may_start_at_the_latest_record(client: Client, table: TestTable, join: Join) -> None:
    write(client, table, 0, 5)
    member = join(unique_name("group"), LATEST)
    member.started()
    member.assigned()
    write(client, table, 5, 8)
    assert numbers(member.records(3)) == [5, 6, 7]


def test_a_new_group_may_start_after_a_sequence_number(client: Client, table: TestTable, join: Join) -> None:
    write(client, table, 0, 10)
    sequence_number = client.records(table.stream_arn)[3].sequence_number
    member = join(unique_name("group"), AFTER_SEQUENCE_NUMBER, starting_sequence_number=sequence_number)
    member.started()
    assert numbers(member.records(6)) == list(range(4, 10))


# LATEST is where a group begins, not where each member does: what is written while nobody reads must not be lost.
def test_a_group_that_started_at_latest_keeps_its_beginning_even_without_a_checkpoint(
    client: Client, table: TestTable, join: Join
) -> None:
    write(client, table, 0, 5)
    group = unique_name("group")
    with join(group, LATEST) as first:
        first.started()
        first.assigned()
    write(client, table, 5, 8)
    second = join(group, LATEST)
    second.started()
    assert numbers(second.records(3)) == [5, 6, 7]


@pytest.mark.parametrize("position", [TRIM_HORIZON, LATEST])
def test_a_group_goes_on_exactly_after_its_checkpoint_whatever_position_the_next_member_names(
    client: Client, table: TestTable, join: Join, position: pb.StartingPosition.ValueType
) -> None:
    write(client, table, 0, 300)
    group = unique_name("group")
    with join(group) as first:
        first.started()
        records = first.records(300)
        acked = records[122].sequence_number
        first.ack(acked)
        assert first.checkpointed() == acked
    second = join(group, position)
    second.started()
    assert second.assigned().checkpoint == acked
    assert numbers(second.records(177)) == list(range(123, 300))


def test_what_was_delivered_but_not_acknowledged_comes_again(client: Client, table: TestTable, join: Join) -> None:
    write(client, table, 0, 10)
    group = unique_name("group")
    with join(group) as first:
        first.started()
        first.records(10)
    second = join(group)
    second.started()
    assert numbers(second.records(10)) == list(range(10))


def test_groups_of_one_stream_do_not_disturb_each_other(client: Client, table: TestTable, join: Join) -> None:
    write(client, table, 0, 10)
    one, two = join(unique_name("group")), join(unique_name("group"))
    for member in (one, two):
        member.started()
    one.records(10)
    one.ack()
    one.checkpointed()
    assert numbers(two.records(10)) == list(range(10))


def test_an_ack_is_seen_in_the_description_with_its_holder_and_lag(
    client: Client, table: TestTable, join: Join
) -> None:
    write(client, table, 0, 10)
    group = unique_name("group")
    member = join(group, member_name="worker-1")
    member.started()
    records = member.records(10)
    behind = describe(client, group)
    assert (behind.group_name, behind.stream_arn, list(behind.member_names)) == (group, table.stream_arn, ["worker-1"])
    assert behind.shards[0].sequence_number == ""
    assert behind.shards[0].millis_behind_latest > 0
    member.ack()
    member.checkpointed()
    done = describe(client, group).shards[0]
    assert done.sequence_number >= records[-1].sequence_number
    assert (done.millis_behind_latest, done.shard_end) == (0, False)
    assert (done.shard_id, done.lease_epoch) == (member.shard_id, member.lease_epoch)


def test_acks_sent_in_a_row_end_at_the_last(client: Client, table: TestTable, join: Join) -> None:
    write(client, table, 0, 200)
    group = unique_name("group")
    member = join(group)
    member.started()
    for record in member.records(200):
        member.ack(record.sequence_number)
    last = member.read_up_to
    member.ack(last)
    while member.checkpointed() != last:
        pass
    assert checkpoint(client, group) == last


def test_a_second_member_stands_by_and_takes_over_after_the_last_checkpoint(
    client: Client, table: TestTable, join: Join
) -> None:
    write(client, table, 0, 20)
    group = unique_name("group")
    first = join(group, member_name="first", assignment_mode=EXCLUSIVE)
    assert not first.started().standby
    records = first.records(20)
    second = join(group, member_name="second", assignment_mode=EXCLUSIVE)
    assert second.started().standby
    assert list(describe(client, group).member_names) == ["first", "second"]
    first.ack(records[9].sequence_number)
    first.checkpointed()
    first.close()
    assert second.assigned().checkpoint == records[9].sequence_number
    assert second.lease_epoch > first.lease_epoch
    assert numbers(second.records(10)) == list(range(10, 20))


def test_a_member_that_leaves_in_order_hands_over_too(client: Client, table: TestTable, join: Join) -> None:
    write(client, table, 0, 5)
    group = unique_name("group")
    first, second = join(group, assignment_mode=EXCLUSIVE), None
    first.started()
    first.records(5)
    first.ack()
    first.checkpointed()
    second = join(group, assignment_mode=EXCLUSIVE)
    assert second.started().standby
    first.half_close()
    second.assigned()
    write(client, table, 5, 6)
    assert numbers(second.records(1)) == [5]


# The epoch is what keeps a holder that was paused from moving the checkpoint of its successor.
def test_an_ack_under_an_older_lease_is_refused_and_moves_nothing(client: Client, table: TestTable, join: Join) -> None:
    write(client, table, 0, 10)
    group = unique_name("group")
    with join(group) as first:
        first.started()
        first.records(10)
    second = join(group)
    second.started()
    second.records(10)
    assert second.lease_epoch > first.lease_epoch
    second.ack(lease_epoch=first.lease_epoch)
    assert refusal(second) == ("LEASE_FENCED", "")
    assert checkpoint(client, group) == ""
    # The session goes on.
    second.ack()
    assert second.checkpointed() == second.read_up_to


def test_an_ack_of_a_member_that_holds_nothing_is_refused(client: Client, table: TestTable, join: Join) -> None:
    write(client, table, 0, 10)
    group = unique_name("group")
    first = join(group)
    first.started()
    first.records(10)
    second = join(group)
    second.started()
    second.ack(first.read_up_to, lease_epoch=first.lease_epoch, shard_id=first.shard_id)
    assert refusal(second) == ("LEASE_FENCED", "")
    assert checkpoint(client, group) == ""


def test_the_broker_sends_no_more_than_the_credit_until_it_is_acknowledged(
    client: Client, table: TestTable, join: Join
) -> None:
    write(client, table, 0, 100)
    group = unique_name("group")
    member = join(group, max_in_flight_records=30, max_batch_records=20)
    member.started()
    read = member.records(30)
    # Beyond its credit a member gets nothing: the next thing it sees is that its ack is on disk.
    member.ack(read[19].sequence_number)
    response = member.receive()
    assert (list(response.records), response.WhichOneof("event")) == ([], "checkpointed")
    read += member.records(20)
    while len(read) < 100:
        member.ack()
        response = member.receive()
        assert len(response.records) <= 20
        read += response.records
    assert numbers(read) == list(range(100))


def test_a_batch_holds_no_more_records_than_asked_for(client: Client, table: TestTable, join: Join) -> None:
    write(client, table, 0, 50)
    member = join(unique_name("group"), max_batch_records=7)
    member.started()
    read: list[record_pb2.Record] = []
    while len(read) < 50:
        response = member.receive()
        assert len(response.records) <= 7
        read += response.records
    assert numbers(read) == list(range(50))


def test_the_end_of_a_closed_shard_is_told_and_kept_once_it_is_acknowledged(
    client: Client, table: TestTable, join: Join
) -> None:
    write(client, table, 0, 5)
    request = UpdateTableRequest(table_name=table.name)
    request.stream_specification.stream_enabled = False
    group = unique_name("group")
    member = join(group)
    member.started()
    assert numbers(member.records(5)) == list(range(5))
    client.tables.UpdateTable(request)
    while (ended := member.receive()).WhichOneof("event") != "shard_ended":
        assert not ended.records
    assert list(ended.shard_ended.child_shard_ids) == []
    member.ack(ended.sequence_number)
    eventually(lambda: describe(client, group).shards[0].shard_end)
    assert describe(client, group).shards[0].millis_behind_latest == 0


def test_a_group_of_a_deleted_table_can_still_read_its_stream_by_arn(client: Client, table: TestTable) -> None:
    write(client, table, 0, 5)
    client.tables.DeleteTable(DeleteTableRequest(table_name=table.name))
    start = ConsumeStart(stream_arn=table.stream_arn, group_name=unique_name("group"), starting_position=TRIM_HORIZON)
    with Member(client, start) as member:
        member.started()
        assert numbers(member.records(5)) == list(range(5))


# What is wrong, as fields that replace those of a valid start, and the field that the error must name.
BAD_STARTS: dict[str, tuple[dict[str, Any], str]] = {
    "no stream": ({"table_name": ""}, "stream_arn"),
    "both table and stream": ({"stream_arn": "arn:aws:dynamodb:x:000000000000:table/t/stream/l"}, "stream_arn"),
    "malformed ARN": ({"table_name": "", "stream_arn": "nonsense"}, "stream_arn"),
    "no group": ({"group_name": ""}, "group_name"),
    "group name too long": ({"group_name": "g" * 129}, "group_name"),
    "group name with a blank": ({"group_name": "a b"}, "group_name"),
    "group name with a line's end": ({"group_name": "ab\n"}, "group_name"),
    "member name too long": ({"member_name": "m" * 129}, "member_name"),
    "no position": ({"starting_position": 0}, "starting_position"),
    "unknown position": ({"starting_position": 9}, "starting_position"),
    "a sequence number too many": ({"starting_sequence_number": "1" * 21}, "starting_sequence_number"),
    "no sequence number": ({"starting_position": AFTER_SEQUENCE_NUMBER}, "starting_sequence_number"),
    "no records a batch": ({"max_batch_records": 0}, "max_batch_records"),
    "too many records a batch": ({"max_batch_records": 1_001}, "max_batch_records"),
    "no credit": ({"max_in_flight_records": 0}, "max_in_flight_records"),
    "too much credit": ({"max_in_flight_records": 100_001}, "max_in_flight_records"),
    "negative credit": ({"max_in_flight_records": -1}, "max_in_flight_records"),
    "a group name of a megabyte": ({"group_name": "g" * 1_000_000}, "group_name"),
    "an ARN of another region": (
        {"table_name": "", "stream_arn": "arn:aws:kinesis:x:000000000000:stream/s"},
        "stream_arn",
    ),
    "no credit in bytes": ({"max_in_flight_bytes": 0}, "max_in_flight_bytes"),
    "negative credit in bytes": ({"max_in_flight_bytes": -(2**63)}, "max_in_flight_bytes"),
    "too much credit in bytes": ({"max_in_flight_bytes": 2**28 + 1}, "max_in_flight_bytes"),
    "unknown mode": ({"assignment_mode": 9}, "assignment_mode"),
    "unknown policy": ({"on_gap": 9}, "on_gap"),
    "a negative number of attempts": ({"max_attempts": -1}, "max_attempts"),
    "too many attempts": ({"max_attempts": 1_001}, "max_attempts"),
    "no time to revoke": ({"revoke_timeout_in_seconds": 0}, "revoke_timeout_in_seconds"),
    "too much time to revoke": ({"revoke_timeout_in_seconds": 301}, "revoke_timeout_in_seconds"),
    "no time": ({"starting_position": AT_TIMESTAMP}, "starting_timestamp"),
    "a time too many": ({"starting_timestamp": Timestamp(seconds=1)}, "starting_timestamp"),
}


@pytest.mark.parametrize("fault", BAD_STARTS)
def test_a_faulty_start_is_refused_and_makes_no_group(client: Client, table: TestTable, fault: str) -> None:
    spoiled, field = BAD_STARTS[fault]
    group = unique_name("group")
    valid: dict[str, Any] = {"table_name": table.name, "group_name": group, "starting_position": TRIM_HORIZON}
    start = ConsumeStart(**(valid | spoiled))
    with refused("INVALID_ARGUMENT", "VALIDATION", field=field), Member(client, start) as member:
        member.receive()
    with refused("NOT_FOUND", "RESOURCE_NOT_FOUND"):
        describe(client, group)


def test_the_first_message_must_be_the_start_and_the_only_one(client: Client, table: TestTable) -> None:
    call = client.consumers.Consume(iter([ConsumeRequest(ack=ConsumeAck(shard_id="x"))]))
    with refused("INVALID_ARGUMENT", "VALIDATION"):
        next(call)
    start = ConsumeStart(table_name=table.name, group_name=unique_name("group"), starting_position=TRIM_HORIZON)
    twice = client.consumers.Consume(iter([ConsumeRequest(start=start)] * 2))
    with refused("INVALID_ARGUMENT", "VALIDATION"):
        list(twice)


def test_a_stream_that_is_not_there_is_not_found(client: Client) -> None:
    without_stream = client.create_table(view_type=None).name
    for name in ("nowhere", without_stream):
        start = ConsumeStart(table_name=name, group_name=unique_name("group"), starting_position=TRIM_HORIZON)
        with refused("NOT_FOUND", "RESOURCE_NOT_FOUND"), Member(client, start) as member:
            member.receive()


# A group keeps one position per shard of one stream; silently moving it to another stream would lose its place.
def test_a_group_belongs_to_one_stream(client: Client, table: TestTable, join: Join) -> None:
    group = unique_name("group")
    with join(group) as member:
        member.started()
    other = client.create_table()
    start = ConsumeStart(table_name=other.name, group_name=group, starting_position=TRIM_HORIZON)
    with pytest.raises(grpc.RpcError), Member(client, start) as member:
        member.receive()
    assert describe(client, group).stream_arn == table.stream_arn


@pytest.mark.parametrize("fault", ["beyond what was sent", "below the checkpoint", "unknown shard", "epoch to come"])
def test_a_faulty_ack_is_refused_and_moves_nothing(client: Client, table: TestTable, join: Join, fault: str) -> None:
    write(client, table, 0, 10)
    group = unique_name("group")
    member = join(group, max_in_flight_records=5)
    member.started()
    records = member.records(5)
    member.ack(records[2].sequence_number)
    before = member.checkpointed()
    match fault:
        case "beyond what was sent":
            member.ack(f"{int(member.read_up_to) + 1_000_000:021d}")
        case "below the checkpoint":
            member.ack(records[0].sequence_number)
        case "unknown shard":
            member.ack(shard_id="shardId-00000001414562045508-2bac9cd2")
        case "epoch to come":
            member.ack(lease_epoch=member.lease_epoch + 1)
    is_fenced = fault in {"unknown shard", "epoch to come"}
    assert refusal(member) == (("LEASE_FENCED", "") if is_fenced else ("VALIDATION", "sequence_number"))
    assert checkpoint(client, group) == before
    member.ack()
    assert member.checkpointed() == member.read_up_to


SOME_NUMBER = f"{1:021d}"

# What is no valid message, and the field that the error must name.
MALFORMED: dict[str, tuple[dict[str, Any], str]] = {
    "an ack without a shard": ({"ack": ConsumeAck(lease_epoch=1, sequence_number=SOME_NUMBER)}, "shard_id"),
    "an ack of a shard with a huge name": (
        {"ack": ConsumeAck(shard_id="s" * 1_000_000, lease_epoch=1, sequence_number=SOME_NUMBER)},
        "shard_id",
    ),
    "an ack of no number": ({"ack": ConsumeAck(shard_id="s", lease_epoch=1, sequence_number="12")}, "sequence_number"),
    "a nack of no number": (
        {"nack": ConsumeNack(shard_id="s", lease_epoch=1, sequence_number="-" * 21, reason=TRANSIENT)},
        "sequence_number",
    ),
    "a nack without a reason": (
        {"nack": ConsumeNack(shard_id="s", lease_epoch=1, sequence_number=SOME_NUMBER)},
        "reason",
    ),
    "a nack with an unknown reason": (
        {"nack": ConsumeNack(shard_id="s", sequence_number=SOME_NUMBER, reason=9)},  # type: ignore[arg-type]
        "reason",
    ),
    "a retry in the past": (
        {
            "nack": ConsumeNack(
                shard_id="s", sequence_number=SOME_NUMBER, reason=TRANSIENT, retry_delay=Duration(seconds=-1)
            )
        },
        "retry_delay",
    ),
    "a retry next week": (
        {
            "nack": ConsumeNack(
                shard_id="s", sequence_number=SOME_NUMBER, reason=TRANSIENT, retry_delay=Duration(seconds=901)
            )
        },
        "retry_delay",
    ),
    "nothing": ({}, "kind"),
}


@pytest.mark.parametrize("fault", MALFORMED)
def test_a_malformed_message_ends_the_call(join: Join, fault: str) -> None:
    message, field = MALFORMED[fault]
    member = join(unique_name("group"))
    member.started()
    member.send(**message)
    with refused("INVALID_ARGUMENT", "VALIDATION", field=field):
        member.drain()


def test_groups_are_listed_by_name_page_by_page(client: Client, join: Join) -> None:
    names = sorted(unique_name("listed") for _ in range(5))
    for name in names:
        with join(name) as member:
            member.started()
    listed: list[str] = []
    token: str | None = None
    while True:
        page = client.consumers.ListConsumerGroups(ListConsumerGroupsRequest(page_size=2, page_token=token))
        assert len(page.consumer_groups) <= 2
        listed += [group.group_name for group in page.consumer_groups]
        token = page.next_page_token
        if not token:
            break
    assert listed == sorted(listed)
    assert [name for name in listed if name in names] == names


@pytest.mark.parametrize("page_size", [-1, 101])
def test_a_listing_of_groups_takes_up_to_100_a_page(client: Client, page_size: int) -> None:
    with refused("INVALID_ARGUMENT", "VALIDATION", field="page_size"):
        client.consumers.ListConsumerGroups(ListConsumerGroupsRequest(page_size=page_size))


def test_a_group_with_members_cannot_be_deleted_and_one_without_forgets_its_place(
    client: Client, table: TestTable, join: Join
) -> None:
    write(client, table, 0, 3)
    group = unique_name("group")
    request = DeleteConsumerGroupRequest(group_name=group)
    with join(group) as member:
        member.started()
        member.records(3)
        member.ack()
        member.checkpointed()
        with refused("FAILED_PRECONDITION", "RESOURCE_IN_USE", says=group):
            client.consumers.DeleteConsumerGroup(request)
    eventually(lambda: not describe(client, group).member_names)
    client.consumers.DeleteConsumerGroup(request)
    with refused("NOT_FOUND", "RESOURCE_NOT_FOUND", says=group):
        describe(client, group)
    with refused("NOT_FOUND", "RESOURCE_NOT_FOUND", says=group):
        client.consumers.DeleteConsumerGroup(request)
    again = join(group)
    again.started()
    assert numbers(again.records(3)) == [0, 1, 2]
