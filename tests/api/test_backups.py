"""Backups through the API: what is asked for and refused, and what a restored store goes on with."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from headrace.v1 import backup_service_pb2 as pb
from headrace.v1.consumer_service_pb2 import ConsumeStart, DescribeConsumerGroupRequest
from headrace.v1.item_service_pb2 import QueryRequest
from headrace.v1.table_service_pb2 import DescribeTableRequest, ListTagsOfResourceRequest
from tests.broker_process import BrokerProcess
from tests.conftest import eventually
from tests.consuming import TRIM_HORIZON, Member
from tests.restoring import backup_folder, restored, run_restore
from tests.rpc import (
    Client,
    TestTable,
    batch,
    create_table_request,
    definitions,
    global_index,
    local_index,
    put,
    refused,
    unique_name,
)
from tests.values import item, to_attribute_value, value

MISSING_ARN = "arn:aws:dynamodb:eu-north-1:000000000000:backup/00000000000001-00000000"


@pytest.fixture
def backup(client: Client, table: TestTable) -> Iterator[pb.BackupDetails]:
    """A backup with two items in the test's table."""
    client.write_items(batch(table.name, put(item(id="a", n=1)), put(item(id="b", n=2))))
    made = client.backups.CreateBackup(pb.CreateBackupRequest(backup_name=unique_name("backup"))).backup_details
    yield made
    client.backups.DeleteBackup(pb.DeleteBackupRequest(backup_arn=made.backup_arn))


def restore(client: Client, arn: str, source: str, target: str) -> pb.RestoreTableFromBackupResponse:
    return client.backups.RestoreTableFromBackup(
        pb.RestoreTableFromBackupRequest(backup_arn=arn, source_table_name=source, target_table_name=target)
    )


def test_a_backup_is_described_as_it_was_made(client: Client, backup: pb.BackupDetails, table: TestTable) -> None:
    assert backup.backup_status == pb.BACKUP_STATUS_AVAILABLE
    assert backup.backup_size_bytes > 0
    assert len(backup.sequence_number) == 21
    described = client.backups.DescribeBackup(pb.DescribeBackupRequest(backup_arn=backup.backup_arn)).backup_description
    assert described.backup_details == backup
    assert table.name in described.table_names


def test_a_restored_table_is_ordinary_but_has_no_stream(
    client: Client, backup: pb.BackupDetails, table: TestTable
) -> None:
    before = client.contents(table)
    client.delete(table.name, item(id="a"))
    name = unique_name("restored")
    description = restore(client, backup.backup_arn, table.name, name).table_description
    assert description == client.tables.DescribeTable(DescribeTableRequest(table_name=name)).table
    assert [element.attribute_name for element in description.key_schema] == list(table.key_names)
    assert not description.HasField("stream_specification")
    assert description.latest_stream_arn == ""
    copy = TestTable(name=name, stream_arn="", key_names=table.key_names)
    assert client.contents(copy) == before
    client.put(name, item(id="a", n=3))
    assert client.get(name, item(id="a")) != before[next(iter(before))]


def test_a_restored_table_has_its_indexes_and_nothing_of_what_dynamodb_leaves_out(client: Client) -> None:
    request = create_table_request(unique_name(), keys="customer:S n:N")
    request.attribute_definitions.extend(definitions("amount:N stage:S"))
    request.local_secondary_indexes.append(local_index("by-amount", "customer amount"))
    request.global_secondary_indexes.append(global_index("by-stage", "stage"))
    request.tags.add(key="team", value="blue")
    client.tables.CreateTable(request)
    orders = [item(customer="a", n=n, amount=10 - n, stage="open") for n in range(3)]
    client.write_items(batch(request.table_name, *map(put, orders)))
    made = client.backups.CreateBackup(pb.CreateBackupRequest(backup_name=unique_name("backup"))).backup_details
    client.delete(request.table_name, item(customer="a", n=1))
    name = unique_name("restored")
    description = restore(client, made.backup_arn, request.table_name, name).table_description
    indexes = [*description.local_secondary_indexes, *description.global_secondary_indexes]
    assert [(index.index_name, index.item_count, index.backfilling) for index in indexes] == [
        ("by-amount", 3, False),
        ("by-stage", 3, False),
    ]
    assert description.item_count == 3
    query = QueryRequest(
        table_name=name,
        index_name="by-amount",
        key_condition_expression="customer = :c",
        expression_attribute_values={":c": to_attribute_value(value("a"))},
    )
    assert [found.attributes["n"].n for found in client.items.Query(query).items] == ["2", "1", "0"]
    arn = ListTagsOfResourceRequest(resource_arn=description.table_arn)
    assert not client.tables.ListTagsOfResource(arn).tags
    client.backups.DeleteBackup(pb.DeleteBackupRequest(backup_arn=made.backup_arn))


def test_backups_are_listed_by_pages(client: Client, backup: pb.BackupDetails) -> None:
    second = client.backups.CreateBackup(pb.CreateBackupRequest(backup_name=backup.backup_name)).backup_details
    assert second.backup_arn > backup.backup_arn
    listed: list[pb.BackupDetails] = []
    request = pb.ListBackupsRequest(limit=1)
    while True:
        page = client.backups.ListBackups(request)
        listed += page.backup_summaries
        if not page.last_evaluated_backup_arn:
            break
        assert len(page.backup_summaries) == 1
        request.exclusive_start_backup_arn = page.last_evaluated_backup_arn
    assert [each for each in listed if each.backup_name == backup.backup_name] == [backup, second]
    deleted = client.backups.DeleteBackup(pb.DeleteBackupRequest(backup_arn=second.backup_arn)).backup_description
    assert deleted.backup_details.backup_status == pb.BACKUP_STATUS_DELETED
    with refused("NOT_FOUND", "BACKUP_NOT_FOUND"):
        client.backups.DescribeBackup(pb.DescribeBackupRequest(backup_arn=second.backup_arn))


@pytest.mark.parametrize(("name", "limit"), [("ab", 3), ("a" * 256, 255), ("with space", None)])
def test_a_name_follows_the_rules_of_dynamodb(client: Client, name: str, limit: int | None) -> None:
    with refused("INVALID_ARGUMENT", "VALIDATION", field="backup_name", limit=limit):
        client.backups.CreateBackup(pb.CreateBackupRequest(backup_name=name))


@pytest.mark.parametrize("limit", [0, 101])
def test_a_page_has_bounds(client: Client, limit: int) -> None:
    with refused("INVALID_ARGUMENT", "VALIDATION", field="limit"):
        client.backups.ListBackups(pb.ListBackupsRequest(limit=limit))


def test_what_is_not_there_is_refused_by_name(client: Client, backup: pb.BackupDetails, table: TestTable) -> None:
    for arn, code, reason in (
        ("", "INVALID_ARGUMENT", "VALIDATION"),
        ("nightly", "INVALID_ARGUMENT", "VALIDATION"),
        (MISSING_ARN, "NOT_FOUND", "BACKUP_NOT_FOUND"),
        (backup.backup_arn.replace("eu-north-1", "south"), "NOT_FOUND", "BACKUP_NOT_FOUND"),
    ):
        with refused(code, reason):
            client.backups.DescribeBackup(pb.DescribeBackupRequest(backup_arn=arn))
        with refused(code, reason):
            client.backups.DeleteBackup(pb.DeleteBackupRequest(backup_arn=arn))
        with refused(code, reason):
            restore(client, arn, table.name, unique_name())
    with refused("INVALID_ARGUMENT", "VALIDATION", field="source_table_name"):
        restore(client, backup.backup_arn, "no-such-table", unique_name())
    with refused("INVALID_ARGUMENT", "VALIDATION", field="target_table_name", limit=3):
        restore(client, backup.backup_arn, table.name, "ab")
    with client.unchanged(table), refused("FAILED_PRECONDITION", "TABLE_ALREADY_EXISTS"):
        restore(client, backup.backup_arn, table.name, table.name)


# What no table snapshot could give: streams, groups and tables that agree, on a copy of the folder made elsewhere.
def test_a_restored_store_goes_on_where_the_backup_was(tmp_path: Path) -> None:
    with BrokerProcess(tmp_path / "first") as broker, Client(broker.grpc) as client:
        table = client.create_table()
        client.write_items(batch(table.name, *(put(item(id=f"{n}")) for n in range(10))))
        member = Member(
            client, ConsumeStart(table_name=table.name, group_name="readers", starting_position=TRIM_HORIZON)
        )
        member.ack(member.records(10)[5].sequence_number)
        member.checkpointed()
        member.close()
        made = client.backups.CreateBackup(pb.CreateBackupRequest(backup_name="nightly")).backup_details
        records, contents, checkpoint = client.records(table.stream_arn), client.contents(table), checkpoint_of(client)
        client.write_items(batch(table.name, *(put(item(id=f"later-{n}")) for n in range(10))))
        shutil.copytree(backup_folder(broker, made.backup_arn), tmp_path / "copied")
    shutil.rmtree(tmp_path / "first")
    with restored(tmp_path / "copied", tmp_path / "second") as broker, Client(broker.grpc) as client:
        assert client.records(table.stream_arn) == records
        assert client.contents(table) == contents
        assert checkpoint_of(client) == checkpoint
        # A store knows the backups in its folder, and a new one has none.
        assert not client.backups.ListBackups(pb.ListBackupsRequest()).backup_summaries
        assert client.backups.CreateBackup(pb.CreateBackupRequest(backup_name="again")).backup_details.backup_arn


def checkpoint_of(client: Client) -> tuple[str, int]:
    request = DescribeConsumerGroupRequest(group_name="readers")
    (checkpoint,) = client.consumers.DescribeConsumerGroup(request).consumer_group.shards
    return checkpoint.sequence_number, checkpoint.lease_epoch


def test_a_restore_is_refused_where_it_would_do_harm(
    broker: BrokerProcess, backup: pb.BackupDetails, tmp_path: Path
) -> None:
    source = backup_folder(broker, backup.backup_arn)
    (tmp_path / "mine").touch()
    for data, extra, words in (
        (tmp_path, (), "not empty"),
        (broker.data, (), "not empty"),
        (tmp_path / "new", ("--region", "us-south-1"), "is of region eu-north-1"),
    ):
        done = run_restore(source, data, *extra)
        assert (done.returncode, done.stdout) == (1, "")
        assert words in done.stderr
        assert done.stderr.count("\n") == 1
    assert run_restore(tmp_path, tmp_path / "new").returncode == 1
    assert not (tmp_path / "new").exists()


def test_backups_may_have_a_folder_of_their_own_and_are_found_after_a_restart(tmp_path: Path) -> None:
    extra = ("--backups", str(tmp_path / "elsewhere"))
    with BrokerProcess(tmp_path / "broker", extra=extra) as broker:
        with Client(broker.grpc) as client:
            made = client.backups.CreateBackup(pb.CreateBackupRequest(backup_name="nightly")).backup_details
        assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == [made.backup_arn.rpartition("/")[2]]
        assert broker.stop() == 0
        broker.start()
        with Client(broker.grpc) as client:
            assert list(client.backups.ListBackups(pb.ListBackupsRequest()).backup_summaries) == [made]


# Linking takes no time, and copying would hold everybody up.
def test_a_folder_on_another_file_system_is_refused(tmp_path: Path) -> None:
    other = Path("/dev/shm")  # noqa: S108 - a file system that most systems have
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs a second file system")
    broker = BrokerProcess(tmp_path, extra=("--backups", str(other / tmp_path.name)))
    with pytest.raises(AssertionError, match="must be on the same file system"):
        broker.start()
    (other / tmp_path.name).rmdir()


def test_a_restore_whose_caller_gives_up_leaves_no_table(tmp_path: Path) -> None:
    with BrokerProcess(tmp_path) as broker, Client(broker.grpc) as client:
        table = client.create_table()
        client.write_items(*(batch(table.name, *(put(item(id=f"{k}-{n}")) for n in range(1000))) for k in range(10)))
        made = client.backups.CreateBackup(pb.CreateBackupRequest(backup_name="nightly")).backup_details
        request = pb.RestoreTableFromBackupRequest(
            backup_arn=made.backup_arn, source_table_name=table.name, target_table_name="copy"
        )
        with pytest.raises(grpc.RpcError) as failed:
            client.backups.RestoreTableFromBackup(request, timeout=0.05)
        assert failed.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED

        def create() -> TestTable:
            try:
                return client.create_table(name="copy")
            except grpc.RpcError as error:
                raise AssertionError("the name is not free yet") from error

        assert client.contents(eventually(create)) == {}
        client.backups.DeleteBackup(pb.DeleteBackupRequest(backup_arn=made.backup_arn))
