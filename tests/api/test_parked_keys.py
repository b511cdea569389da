"""Records that fail: delivered again, and after so many attempts parked with their key while all others go on."""

from __future__ import annotations

import io
import zipfile

import pytest
from google.protobuf.duration_pb2 import Duration

from headrace.v1 import consumer_service_pb2 as pb
from headrace.v1.consumer_service_pb2 import (
    DeleteConsumerGroupRequest,
    DiscardParkedKeyRequest,
    GetParkedRecordsRequest,
    ListParkedKeysRequest,
    RedriveParkedKeysRequest,
)
from headrace.v1.trigger_service_pb2 import CreateTriggerRequest, DeleteTriggerRequest
from tests.broker_process import BrokerProcess
from tests.conftest import eventually
from tests.consuming import FATAL, SHUTDOWN, TRIM_HORIZON, Join, Member, describe, explain, numbers, refusal
from tests.rpc import Client, TestTable, batch, put, refused, unique_name
from tests.values import attributes, from_item, item


def write(client: Client, table: TestTable, *keys: str, first: int = 0) -> None:
    """One record of each key, in order, with rising values."""
    client.write_items(batch(table.name, *(put(item(id=key, n=n)) for n, key in enumerate(keys, first))))


def parked_keys(client: Client, group: str) -> list[pb.ParkedKey]:
    return list(client.consumers.ListParkedKeys(ListParkedKeysRequest(group_name=group)).parked_keys)


def parked_values(client: Client, group: str, parked_id: str) -> list[int]:
    """The values of a parked key's records, page by page."""
    values: list[int] = []
    after: str | None = None
    while True:
        request = GetParkedRecordsRequest(group_name=group, parked_id=parked_id, exclusive_start_sequence_number=after)
        page = client.consumers.GetParkedRecords(request)
        values += numbers(list(page.records))
        after = page.last_evaluated_sequence_number
        if not after:
            return values


def redrive(client: Client, group: str, parked_id: str | None = None) -> int:
    request = RedriveParkedKeysRequest(group_name=group, parked_id=parked_id)
    return client.consumers.RedriveParkedKeys(request).redriven_keys


def ready(join: Join, group: str, **settings: object) -> Member:
    member = join(group, **settings)
    member.started()
    return member


def test_a_failed_record_comes_again_with_all_that_follows_and_counts_its_attempts(
    client: Client, table: TestTable, join: Join
) -> None:
    write(client, table, "a", "b", "c")
    group = unique_name("group")
    member = ready(join, group)
    response = member.batch()
    for attempts, index in ((1, 1), (2, 0)):
        nacked = member.nack(response, index, message="no luck", retry_delay=Duration())
        assert (nacked.attempts, nacked.parked, nacked.HasField("retry_time")) == (attempts, False, True)
        # All before it is processed, and the lease is a new one: what was sent after it is void.
        assert describe(client, group).shards[0].lease_epoch > response.lease_epoch
        assert describe(client, group).shards[0].records_behind_latest == 2
        void, response = response, member.batch()
        assert numbers(list(response.records)) == [1, 2]
        member.ack_response(void)
        assert refusal(member) == ("LEASE_FENCED", "")
    shard = explain(client, group).shards[0]
    assert (shard.attempts, shard.last_error) == (2, "no luck")


def test_attempts_outlive_the_member_and_its_broker(tmp_path_factory: pytest.TempPathFactory) -> None:
    with BrokerProcess(tmp_path_factory.mktemp("attempts")) as broker:
        with Client(broker.grpc) as client:
            table = client.create_table()
            write(client, table, "a", "b", "a")
        start = pb.ConsumeStart(
            table_name=table.name, group_name="group", starting_position=TRIM_HORIZON, max_attempts=3
        )
        for attempts in (1, 2, 3):
            with Client(broker.grpc) as client, Member(client, start) as member:
                member.started()
                nacked = member.nack(member.batch(), 0, message="boom")
                assert (nacked.attempts, nacked.parked) == (attempts, attempts == 3)
            broker.kill()
            broker.start()
        with Client(broker.grpc) as client:
            with Member(client, start) as member:
                member.started()
                assert numbers(member.records(1)) == [1]
            (key,) = parked_keys(client, "group")
            assert parked_values(client, "group", key.parked_id) == [0, 2]


def test_a_poison_key_is_parked_whole_and_in_order_while_the_others_go_on(
    client: Client, table: TestTable, join: Join
) -> None:
    write(client, table, "bad", "good", "bad", "good")
    group = unique_name("group")
    member = ready(join, group)
    response = member.batch()
    nacked = member.nack(response, 0, FATAL, message="poison")
    assert (nacked.attempts, nacked.parked, nacked.HasField("retry_time")) == (1, True, False)
    assert numbers(member.records(2)) == [1, 3]
    write(client, table, "bad", "good", first=4)
    assert numbers(member.records(1)) == [5]
    member.ack()
    member.until("checkpointed")
    (key,) = parked_keys(client, group)
    assert from_item(key.key) == attributes(id="bad")
    assert key.parked_id.startswith("parkedId-")
    assert (key.shard_id, key.sequence_number) == (response.shard_id, response.records[0].sequence_number)
    assert (key.attempts, key.last_error, key.records, key.redriving) == (1, "poison", 3, False)
    assert key.bytes > 0
    assert key.HasField("park_time")
    assert parked_values(client, group, key.parked_id) == [0, 2, 4]
    described = describe(client, group)
    assert (described.parked_keys, described.parked_records) == (1, 3)
    assert described.shards[0].records_behind_latest == 0
    assert explain(client, group).summary.endswith("1 keys are parked.")


def test_redriven_records_come_in_order_before_newer_ones_and_then_the_key_flows(
    client: Client, table: TestTable, join: Join
) -> None:
    write(client, table, "bad", "good", "bad")
    group = unique_name("group")
    member = ready(join, group)
    member.nack(member.batch(), 0, FATAL)
    member.records(1)
    member.ack()
    member.checkpointed()
    (key,) = parked_keys(client, group)
    assert redrive(client, group) == 1
    assert redrive(client, group, key.parked_id) == 0
    assert parked_keys(client, group)[0].redriving
    response = member.batch()
    assert (response.shard_id, response.source) == (key.parked_id, pb.RECORD_SOURCE_PARKED)
    assert numbers(list(response.records)) == [0, 2]
    # A newer record of the key waits behind the others.
    write(client, table, "bad", first=3)
    newer = member.batch()
    assert (newer.shard_id, numbers(list(newer.records))) == (key.parked_id, [3])
    member.ack_response(response)
    member.ack_response(newer)
    assert member.until("shard_ended").shard_id == key.parked_id
    assert parked_keys(client, group) == []
    write(client, table, "bad", first=4)
    flowing = member.batch()
    assert (flowing.source, numbers(list(flowing.records))) == (pb.RECORD_SOURCE_LOG, [4])


def test_a_redriven_key_that_fails_again_stays_parked_from_there_on(
    client: Client, table: TestTable, join: Join
) -> None:
    write(client, table, "bad", "bad", "bad")
    group = unique_name("group")
    member = ready(join, group)
    member.nack(member.batch(), 0, FATAL, message="first")
    eventually(lambda: parked_keys(client, group)[0].records == 3)
    redrive(client, group)
    response = member.batch()
    nacked = member.nack(response, 1, message="second")
    assert (nacked.attempts, nacked.parked) == (2, True)
    assert member.until("revoked").shard_id == response.shard_id
    (key,) = parked_keys(client, group)
    assert (key.redriving, key.attempts, key.last_error, key.records) == (False, 2, "second", 2)
    assert key.sequence_number == response.records[1].sequence_number
    # Who merely leaves leaves it redriven.
    redrive(client, group, key.parked_id)
    response = member.batch()
    assert numbers(list(response.records)) == [1, 2]
    member.nack(response, 1, SHUTDOWN)
    assert numbers(list(member.batch().records)) == [2]
    assert parked_keys(client, group)[0].redriving


def test_a_redriven_key_is_explained_like_a_shard(client: Client, table: TestTable, join: Join) -> None:
    write(client, table, "bad", "bad")
    group = unique_name("group")
    with join(group) as member:
        member.started()
        member.nack(member.batch(), 0, FATAL)
        eventually(lambda: parked_keys(client, group)[0].records == 2)
    redrive(client, group)
    eventually(lambda: not describe(client, group).member_names)
    explained = explain(client, group).shards[0]
    assert explained.shard_id == parked_keys(client, group)[0].parked_id
    assert (explained.progress, explained.records_behind_latest) == (pb.SHARD_PROGRESS_NO_MEMBER, 2)


def test_a_discarded_key_is_gone_and_its_newer_records_are_delivered(
    client: Client, table: TestTable, join: Join
) -> None:
    write(client, table, "bad", "bad")
    group = unique_name("group")
    member = ready(join, group)
    member.nack(member.batch(), 0, FATAL)
    eventually(lambda: parked_keys(client, group)[0].records == 2)
    (key,) = parked_keys(client, group)
    request = DiscardParkedKeyRequest(group_name=group, parked_id=key.parked_id)
    assert client.consumers.DiscardParkedKey(request).discarded_records == 2
    assert parked_keys(client, group) == []
    with refused("NOT_FOUND", "RESOURCE_NOT_FOUND", says=key.parked_id):
        client.consumers.DiscardParkedKey(request)
    write(client, table, "bad", first=2)
    assert numbers(member.records(1)) == [2]


def test_parked_keys_are_listed_page_by_page_the_oldest_first(client: Client, table: TestTable, join: Join) -> None:
    names = [f"key-{n}" for n in range(5)]
    write(client, table, *names)
    group = unique_name("group")
    member = ready(join, group)
    for _ in names:
        member.nack(member.batch(), 0, FATAL)
    listed: list[str] = []
    token: str | None = None
    while True:
        request = ListParkedKeysRequest(group_name=group, page_size=2, page_token=token)
        page = client.consumers.ListParkedKeys(request)
        assert len(page.parked_keys) <= 2
        listed += [key.key.attributes["id"].s for key in page.parked_keys]
        token = page.next_page_token
        if not token:
            break
    assert listed == names


def test_large_parked_records_are_read_in_pages(client: Client, table: TestTable, join: Join) -> None:
    large = "x" * 300_000
    # A change of a large item has both images.
    for n in range(4):
        client.put(table.name, item(id="bad", n=n, text=large))
    group = unique_name("group")
    member = ready(join, group, max_batch_records=1)
    member.nack(member.batch(), 0, FATAL)
    eventually(lambda: parked_keys(client, group)[0].records == 4)
    (key,) = parked_keys(client, group)
    request = GetParkedRecordsRequest(group_name=group, parked_id=key.parked_id)
    page = client.consumers.GetParkedRecords(request)
    assert 1 <= len(page.records) < 4
    assert page.last_evaluated_sequence_number == page.records[-1].sequence_number
    assert parked_values(client, group, key.parked_id) == [0, 1, 2, 3]


@pytest.fixture
def parked(client: Client, table: TestTable, join: Join) -> tuple[str, str]:
    """A group without members and the id of its parked key."""
    write(client, table, "bad", "good")
    group = unique_name("group")
    with join(group) as member:
        member.started()
        member.nack(member.batch(), 0, FATAL)
    eventually(lambda: not describe(client, group).member_names)
    return group, parked_keys(client, group)[0].parked_id


def test_a_deleted_group_has_nothing_parked(client: Client, parked: tuple[str, str], join: Join) -> None:
    group, parked_id = parked
    client.consumers.DeleteConsumerGroup(DeleteConsumerGroupRequest(group_name=group))
    with refused("NOT_FOUND", "RESOURCE_NOT_FOUND", says=group):
        parked_keys(client, group)
    again = ready(join, group)
    assert numbers(again.records(2)) == [0, 1]
    assert parked_keys(client, group) == []
    with refused("NOT_FOUND", "RESOURCE_NOT_FOUND", says=parked_id):
        parked_values(client, group, parked_id)


def test_what_a_trigger_has_parked_goes_with_it(client: Client, table: TestTable) -> None:
    def create(name: str) -> None:
        request = CreateTriggerRequest(trigger_name=name, table_name=table.name, code=_archive())
        request.starting_position = pb.STARTING_POSITION_TRIM_HORIZON
        request.function.handler, request.function.runtime = "main.handle", "python"
        client.triggers.CreateTrigger(request)

    name = unique_name("trigger")
    group = f"trigger:{name}"
    write(client, table, "bad")
    create(name)
    start = pb.ConsumeStart(table_name=table.name, group_name=group, starting_position=TRIM_HORIZON)
    with Member(client, start) as member:
        member.started()
        member.nack(member.batch(), 0, FATAL)
    assert describe(client, group).parked_keys == 1
    client.triggers.DeleteTrigger(DeleteTriggerRequest(trigger_name=name))
    create(name)
    with Member(client, start) as member:
        member.started()
        assert numbers(member.records(1)) == [0]
        assert describe(client, group).parked_keys == 0


def _archive() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("main.py", "def handle(event, context):\n    return None\n")
    return file.getvalue()


def test_bad_input_is_refused(client: Client, parked: tuple[str, str]) -> None:
    group, parked_id = parked
    with refused("INVALID_ARGUMENT", "VALIDATION", field="page_size"):
        client.consumers.ListParkedKeys(ListParkedKeysRequest(group_name=group, page_size=101))
    with refused("INVALID_ARGUMENT", "VALIDATION", field="exclusive_start_sequence_number"):
        client.consumers.GetParkedRecords(
            GetParkedRecordsRequest(group_name=group, parked_id=parked_id, exclusive_start_sequence_number="x")
        )
    with refused("INVALID_ARGUMENT", "VALIDATION", field="parked_id", limit=1):
        redrive(client, group, "")
    with refused("NOT_FOUND", "RESOURCE_NOT_FOUND"):
        redrive(client, "nobody")
    for name, id_ in ((group, "parkedId-none"), ("nobody", parked_id), (group, "x" * 1_000_000)):
        with refused("NOT_FOUND", "RESOURCE_NOT_FOUND"):
            redrive(client, name, id_)
        with refused("NOT_FOUND", "RESOURCE_NOT_FOUND"):
            client.consumers.DiscardParkedKey(DiscardParkedKeyRequest(group_name=name, parked_id=id_))
        with refused("NOT_FOUND", "RESOURCE_NOT_FOUND"):
            client.consumers.GetParkedRecords(GetParkedRecordsRequest(group_name=name, parked_id=id_))


def test_a_long_message_of_a_nack_is_cut(client: Client, table: TestTable, join: Join) -> None:
    write(client, table, "bad")
    group = unique_name("group")
    member = ready(join, group)
    member.nack(member.batch(), 0, FATAL, message="é" * 5_000)
    assert parked_keys(client, group)[0].last_error == "é" * 1_024
