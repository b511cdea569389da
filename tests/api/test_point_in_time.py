"""Point-in-time recovery over gRPC. Source: API Reference, UpdateContinuousBackups, RestoreTableToPointInTime."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from headrace.v1 import backup_service_pb2 as pb
from headrace.v1.table_service_pb2 import DescribeTableRequest
from tests.rpc import KEYS_ONLY, Client, TestTable, refused, unique_name
from tests.values import item

ENABLED, DISABLED = pb.CONTINUOUS_BACKUPS_STATUS_ENABLED, pb.CONTINUOUS_BACKUPS_STATUS_DISABLED


def switch(client: Client, name: str, *, on: bool = True, days: int | None = None) -> pb.PointInTimeRecoveryDescription:
    specification = pb.PointInTimeRecoverySpecification(point_in_time_recovery_enabled=on, recovery_period_in_days=days)
    request = pb.UpdateContinuousBackupsRequest(table_name=name, point_in_time_recovery_specification=specification)
    updated = client.backups.UpdateContinuousBackups(request).continuous_backups_description
    assert updated.continuous_backups_status == ENABLED
    return updated.point_in_time_recovery_description


def describe(client: Client, name: str) -> pb.PointInTimeRecoveryDescription:
    request = pb.DescribeContinuousBackupsRequest(table_name=name)
    described = client.backups.DescribeContinuousBackups(request).continuous_backups_description
    assert described.continuous_backups_status == ENABLED
    return described.point_in_time_recovery_description


def restore(client: Client, source: str, **asked: Any) -> TestTable:
    """A table restored to a point in time; the latest if none is asked for."""
    name = unique_name("restored")
    asked = asked or {"use_latest_restorable_time": True}
    request = pb.RestoreTableToPointInTimeRequest(source_table_name=source, target_table_name=name, **asked)
    response = client.backups.RestoreTableToPointInTime(request)
    assert response.table_description == client.tables.DescribeTable(DescribeTableRequest(table_name=name)).table
    return TestTable(name=name, stream_arn="", key_names=("id",))


def test_recovery_is_off_until_it_is_switched_on_and_can_be_switched_off(client: Client) -> None:
    table = client.create_table()
    off = describe(client, table.name)
    assert off == pb.PointInTimeRecoveryDescription(point_in_time_recovery_status=DISABLED)
    on = switch(client, table.name)
    assert (on.point_in_time_recovery_status, on.recovery_period_in_days) == (ENABLED, 35)
    created = client.tables.DescribeTable(DescribeTableRequest(table_name=table.name)).table.creation_date_time
    assert on.earliest_restorable_date_time == created
    assert on.latest_restorable_date_time.ToNanoseconds() > created.ToNanoseconds()
    assert switch(client, table.name, days=1).recovery_period_in_days == 1
    assert switch(client, table.name, on=False) == describe(client, table.name) == off
    with refused("FAILED_PRECONDITION", "POINT_IN_TIME_RECOVERY_UNAVAILABLE", says=table.name):
        restore(client, table.name)


def test_a_table_is_restored_to_a_time_and_to_the_latest(client: Client) -> None:
    table = client.create_table()
    for id_ in ("changed", "deleted", "kept"):
        client.put(table.name, item(id=id_, n=1))
    before = client.contents(table)
    between = switch(client, table.name).latest_restorable_date_time
    # What is written in the same millisecond would be in it.
    while describe(client, table.name).latest_restorable_date_time == between:
        pass
    client.put(table.name, item(id="changed", n=2))
    client.put(table.name, item(id="new", n=2))
    client.delete(table.name, item(id="deleted"))
    copy = restore(client, table.name, restore_date_time=between)
    assert client.contents(copy) == before
    described = client.tables.DescribeTable(DescribeTableRequest(table_name=copy.name)).table
    summary = described.restore_summary
    assert (summary.restore_date_time, summary.source_backup_arn, summary.restore_in_progress) == (between, "", False)
    assert summary.source_table_arn.endswith(f":table/{table.name}")
    assert not described.HasField("stream_specification")
    assert client.contents(restore(client, table.name)) == client.contents(table)


def test_a_source_is_named_by_its_arn_too(client: Client) -> None:
    table = client.create_table()
    client.put(table.name, item(id="a"))
    switch(client, table.name)
    arn = client.tables.DescribeTable(DescribeTableRequest(table_name=table.name)).table.table_arn
    name = unique_name("restored")
    request = pb.RestoreTableToPointInTimeRequest(
        source_table_arn=arn, target_table_name=name, use_latest_restorable_time=True
    )
    assert client.backups.RestoreTableToPointInTime(request).table_description.item_count == 1


@pytest.mark.parametrize("days", [1, 35])
def test_a_period_of_1_to_35_days_is_taken(client: Client, days: int) -> None:
    assert switch(client, client.create_table().name, days=days).recovery_period_in_days == days


@pytest.mark.parametrize(("days", "limit"), [(0, 1), (-1, 1), (36, 35)])
def test_another_period_is_refused(client: Client, days: int, limit: int) -> None:
    table = client.create_table()
    field = "point_in_time_recovery_specification.recovery_period_in_days"
    with refused("INVALID_ARGUMENT", "VALIDATION", field=field, limit=limit):
        switch(client, table.name, days=days)
    assert describe(client, table.name).point_in_time_recovery_status == DISABLED


def test_what_recovery_is_asked_for_must_make_sense(client: Client) -> None:
    table = client.create_table()
    with refused("INVALID_ARGUMENT", "VALIDATION", says="RecoveryPeriodInDays can only be specified when"):
        switch(client, table.name, on=False, days=5)
    with refused("INVALID_ARGUMENT", "VALIDATION", field="point_in_time_recovery_specification"):
        client.backups.UpdateContinuousBackups(pb.UpdateContinuousBackupsRequest(table_name=table.name))
    for call in (switch, describe, restore):
        with refused("NOT_FOUND", "RESOURCE_NOT_FOUND"):
            call(client, "nosuch")


def test_a_time_outside_of_the_window_is_refused(client: Client) -> None:
    table = client.create_table()
    window = switch(client, table.name)
    earliest = window.earliest_restorable_date_time.ToMilliseconds()
    too_early, far_ahead = Timestamp(), Timestamp()
    too_early.FromMilliseconds(earliest - 1)
    far_ahead.FromMilliseconds(earliest + 3_600_000)
    for time in (too_early, far_ahead):
        with refused("INVALID_ARGUMENT", "INVALID_RESTORE_TIME", field="restore_date_time"):
            restore(client, table.name, restore_date_time=time)
    restore(client, table.name, restore_date_time=window.earliest_restorable_date_time)


def test_without_old_images_only_the_latest_time_is_offered(client: Client) -> None:
    table = client.create_table(view_type=KEYS_ONLY)
    client.put(table.name, item(id="a"))
    window = switch(client, table.name)
    assert window.earliest_restorable_date_time == window.latest_restorable_date_time
    assert client.contents(restore(client, table.name)) == client.contents(table)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"use_latest_restorable_time": False}, "RestoreDateTime and UseLatestRestorableTime"),
        (
            {"use_latest_restorable_time": True, "restore_date_time": Timestamp(seconds=1)},
            "RestoreDateTime and UseLatestRestorableTime",
        ),
        (
            {"use_latest_restorable_time": True, "source_table_arn": "arn:aws:dynamodb:x:1:table/y"},
            "SourceTableArn and SourceTableName",
        ),
        ({"use_latest_restorable_time": True, "source_table_name": ""}, "SourceTableArn and SourceTableName"),
        ({"use_latest_restorable_time": True, "target_table_name": "no"}, "target_table_name"),
    ],
)
def test_a_restore_names_one_source_one_target_and_one_time(client: Client, asked: dict[str, Any], says: str) -> None:
    name = client.create_table().name
    switch(client, name)
    wanted = {"source_table_name": name, "target_table_name": unique_name("restored"), **asked}
    with refused("INVALID_ARGUMENT", "VALIDATION", says=says):
        client.backups.RestoreTableToPointInTime(pb.RestoreTableToPointInTimeRequest(**wanted))


def test_a_name_that_is_taken_is_refused(client: Client) -> None:
    table = client.create_table()
    switch(client, table.name)
    request = pb.RestoreTableToPointInTimeRequest(
        source_table_name=table.name, target_table_name=table.name, use_latest_restorable_time=True
    )
    with refused("FAILED_PRECONDITION", "TABLE_ALREADY_EXISTS"):
        client.backups.RestoreTableToPointInTime(request)
