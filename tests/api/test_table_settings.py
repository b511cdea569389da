"""Settings of tables and indexes over gRPC. Source: API Reference, WarmThroughput, OnDemandThroughput, and others."""

from __future__ import annotations

import pytest

from headrace.v1 import backup_service_pb2, table_pb2
from headrace.v1.table_service_pb2 import (
    DescribeTableRequest,
    GlobalSecondaryIndexUpdate,
    UpdateGlobalSecondaryIndex,
    UpdateTableRequest,
)
from tests.rpc import Client, create_table_request, definitions, global_index, refused, unique_name
from tests.values import item

STANDARD, RARE = table_pb2.TABLE_CLASS_STANDARD, table_pb2.TABLE_CLASS_STANDARD_INFREQUENT_ACCESS


def warm(reads: int | None = None, writes: int | None = None) -> table_pb2.WarmThroughput:
    return table_pb2.WarmThroughput(read_units_per_second=reads, write_units_per_second=writes)


def maximum(reads: int | None = None, writes: int | None = None) -> table_pb2.OnDemandThroughput:
    return table_pb2.OnDemandThroughput(max_read_request_units=reads, max_write_request_units=writes)


def describe(client: Client, name: str) -> table_pb2.TableDescription:
    return client.tables.DescribeTable(DescribeTableRequest(table_name=name)).table


def test_settings_are_described_as_they_were_asked_for(client: Client) -> None:
    request = create_table_request(unique_name())
    request.attribute_definitions.extend(definitions("stage:S"))
    index = global_index("by-stage", "stage")
    index.warm_throughput.CopyFrom(warm(writes=4_001))
    index.on_demand_throughput.CopyFrom(maximum(writes=9))
    request.global_secondary_indexes.append(index)
    request.warm_throughput.CopyFrom(warm(12_001))
    request.on_demand_throughput.CopyFrom(maximum(5))
    request.table_class = RARE
    request.sse_specification.CopyFrom(table_pb2.SseSpecification(enabled=True, kms_master_key_id="alias/mine"))
    made = client.tables.CreateTable(request).table_description
    assert made == describe(client, request.table_name)
    assert made.warm_throughput == warm(12_001, 4_000)
    assert made.on_demand_throughput == maximum(5)
    assert made.table_class_summary.table_class == RARE
    assert made.sse_description == table_pb2.SseDescription(
        status=table_pb2.SSE_STATUS_ENABLED,
        sse_type=table_pb2.SSE_TYPE_KMS,
        kms_master_key_arn="arn:aws:kms:eu-north-1:000000000000:alias/mine",
    )
    assert made.last_update_to_pay_per_request_date_time == made.creation_date_time
    (described,) = made.global_secondary_indexes
    assert (described.warm_throughput, described.on_demand_throughput) == (warm(12_000, 4_001), maximum(writes=9))


def test_one_setting_is_changed_and_nothing_else(client: Client) -> None:
    before = describe(client, client.create_table().name)
    name = before.table_name
    for change in (
        UpdateTableRequest(table_name=name, warm_throughput=warm(writes=5_000)),
        UpdateTableRequest(table_name=name, on_demand_throughput=maximum(writes=5)),
        UpdateTableRequest(table_name=name, table_class=STANDARD),
        UpdateTableRequest(table_name=name, sse_specification=table_pb2.SseSpecification(enabled=True)),
    ):
        ((member, _),) = [found for found in change.ListFields() if found[0].name != "table_name"]
        changed = client.tables.UpdateTable(change).table_description
        assert describe(client, name) == changed
        told = {field.name for field, value in changed.ListFields() if getattr(before, field.name) != value}
        assert told == {
            {"table_class": "table_class_summary", "sse_specification": "sse_description"}.get(member.name, member.name)
        }
        before = changed


@pytest.mark.parametrize(
    ("change", "field", "limit"),
    [
        (UpdateTableRequest(warm_throughput=warm()), "warm_throughput", None),
        (UpdateTableRequest(warm_throughput=warm(11_999)), "warm_throughput.read_units_per_second", 12_000),
        (UpdateTableRequest(warm_throughput=warm(writes=10**12 + 1)), "warm_throughput.write_units_per_second", 10**12),
        (UpdateTableRequest(on_demand_throughput=maximum()), "on_demand_throughput", None),
        (UpdateTableRequest(on_demand_throughput=maximum(0)), "on_demand_throughput.max_read_request_units", 1),
        (
            UpdateTableRequest(on_demand_throughput=maximum(writes=10**12 + 1)),
            "on_demand_throughput.max_write_request_units",
            10**12,
        ),
        (UpdateTableRequest(table_class=9), "table_class", None),  # type: ignore[arg-type]
        (
            UpdateTableRequest(sse_specification=table_pb2.SseSpecification(enabled=True, sse_type=9)),  # type: ignore[arg-type]
            "sse_specification.sse_type",
            None,
        ),
        (UpdateTableRequest(sse_specification=table_pb2.SseSpecification()), "sse_specification", None),
    ],
    ids=range(9),
)
def test_a_setting_with_a_fault_is_refused(
    client: Client, change: UpdateTableRequest, field: str, limit: int | None
) -> None:
    before = describe(client, client.create_table().name)
    asked = UpdateTableRequest()
    asked.CopyFrom(change)
    asked.table_name = before.table_name
    with refused("INVALID_ARGUMENT", "VALIDATION", field=field, limit=limit):
        client.tables.UpdateTable(asked)
    assert describe(client, before.table_name) == before


def test_an_update_of_an_index_that_asks_for_nothing_is_refused(client: Client) -> None:
    name = client.create_table().name
    update = GlobalSecondaryIndexUpdate(update=UpdateGlobalSecondaryIndex(index_name="by-stage"))
    with refused("INVALID_ARGUMENT", "VALIDATION", says="by-stage"):
        client.tables.UpdateTable(UpdateTableRequest(table_name=name, global_secondary_index_updates=[update]))


def test_beyond_its_maximum_a_table_says_when_to_come_again(client: Client) -> None:
    name = client.create_table().name
    client.tables.UpdateTable(UpdateTableRequest(table_name=name, on_demand_throughput=maximum(writes=1)))
    client.put(name, item(id="a", text="x" * 390_000))
    with refused("RESOURCE_EXHAUSTED", "THROTTLING", limit=1, says="maximum OnDemandThroughput") as expected:
        client.put(name, item(id="b"))
    assert expected.refusal is not None
    assert expected.refusal.retry_delay_s is not None
    assert 10 < expected.refusal.retry_delay_s < 100


def test_a_backup_tells_of_a_table_only_if_it_is_asked(client: Client) -> None:
    described = describe(client, client.create_table().name)
    request = backup_service_pb2.CreateBackupRequest(backup_name="nightly")
    arn = client.backups.CreateBackup(request).backup_details.backup_arn
    asked = backup_service_pb2.DescribeBackupRequest(backup_arn=arn)
    assert not client.backups.DescribeBackup(asked).backup_description.HasField("source_table_details")
    asked.source_table_name = described.table_name
    details = client.backups.DescribeBackup(asked).backup_description.source_table_details
    assert (details.table_id, details.table_arn) == (described.table_id, described.table_arn)
    asked.source_table_name = "nosuch"
    with refused("NOT_FOUND", "BACKUP_NOT_FOUND", says="nosuch"):
        client.backups.DescribeBackup(asked)
    client.backups.DeleteBackup(backup_service_pb2.DeleteBackupRequest(backup_arn=arn))
