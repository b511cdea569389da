"""What comes before anything is looked up: texts that are there but empty, and tables named by their ARNs."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from headrace.v1 import item_service_pb2 as pb
from headrace.v1.backup_service_pb2 import ListBackupsRequest
from headrace.v1.consumer_service_pb2 import (
    GetParkedRecordsRequest,
    ListConsumerGroupsRequest,
    ListParkedKeysRequest,
    RedriveParkedKeysRequest,
)
from headrace.v1.replication_service_pb2 import CreateReplicaRequest, ListReplicasRequest
from headrace.v1.stream_service_pb2 import (
    SHARD_ITERATOR_TYPE_AT_SEQUENCE_NUMBER,
    SHARD_ITERATOR_TYPE_TRIM_HORIZON,
    DescribeStreamRequest,
    GetRecordsRequest,
    GetShardIteratorRequest,
    ListStreamsRequest,
)
from headrace.v1.table_service_pb2 import (
    DescribeTableRequest,
    ListTablesRequest,
    ListTagsOfResourceRequest,
    UpdateTableRequest,
)
from headrace.v1.trigger_service_pb2 import ListTriggersRequest
from tests.rpc import Client, TestTable, refused
from tests.values import attributes, item, to_attribute_value, value

KEY = item(id="a")
NOWHERE = "no-such-table"
VALUES = {":v": to_attribute_value(value("a"))}

# By service: requests in which one optional text is empty. No table is there: it is not looked up.
EMPTY: list[tuple[str, Message, str]] = [
    ("items.PutItem", pb.PutItemRequest(item=KEY, condition_expression=""), "condition_expression"),
    ("items.DeleteItem", pb.DeleteItemRequest(key=KEY, condition_expression=""), "condition_expression"),
    ("items.UpdateItem", pb.UpdateItemRequest(key=KEY, condition_expression=""), "condition_expression"),
    ("items.UpdateItem", pb.UpdateItemRequest(key=KEY, update_expression=""), "update_expression"),
    ("items.GetItem", pb.GetItemRequest(key=KEY, projection_expression=""), "projection_expression"),
    ("items.Scan", pb.ScanRequest(filter_expression=""), "filter_expression"),
    ("items.Scan", pb.ScanRequest(projection_expression=""), "projection_expression"),
    ("items.Scan", pb.ScanRequest(index_name=""), "index_name"),
    ("items.Scan", pb.ScanRequest(exclusive_start_key=item()), "exclusive_start_key"),
    ("items.Query", pb.QueryRequest(key_condition_expression="", index_name=""), "index_name"),
    (
        "items.Query",
        pb.QueryRequest(key_condition_expression="id = :v", expression_attribute_values=VALUES, filter_expression=""),
        "filter_expression",
    ),
    (
        "items.Query",
        pb.QueryRequest(
            key_condition_expression="id = :v", expression_attribute_values=VALUES, projection_expression=""
        ),
        "projection_expression",
    ),
    (
        "items.Query",
        pb.QueryRequest(
            key_condition_expression="id = :v", expression_attribute_values=VALUES, exclusive_start_key=item()
        ),
        "exclusive_start_key",
    ),
    (
        "items.BatchGetItem",
        pb.BatchGetItemRequest(tables=[pb.TableKeys(table_name=NOWHERE, keys=[KEY], projection_expression="")]),
        "projection_expression",
    ),
    (
        "items.TransactGetItems",
        pb.TransactGetItemsRequest(
            transact_items=[pb.TransactGetItem(table_name=NOWHERE, key=KEY, projection_expression="")]
        ),
        "projection_expression",
    ),
    (
        "items.TransactWriteItems",
        pb.TransactWriteItemsRequest(
            transact_items=[pb.TransactWriteItem(delete=pb.DeleteItemRequest(table_name=NOWHERE, key=KEY))],
            client_request_token="",
        ),
        "client_request_token",
    ),
    (
        "items.TransactWriteItems",
        pb.TransactWriteItemsRequest(
            transact_items=[
                pb.TransactWriteItem(
                    condition_check=pb.ConditionCheck(table_name=NOWHERE, key=KEY, condition_expression="")
                )
            ]
        ),
        "condition_expression",
    ),
    ("tables.ListTables", ListTablesRequest(exclusive_start_table_name=""), "exclusive_start_table_name"),
    ("tables.ListTables", ListTablesRequest(exclusive_start_table_name="ab"), "exclusive_start_table_name"),
    ("tables.ListTables", ListTablesRequest(exclusive_start_table_name="a;b"), "exclusive_start_table_name"),
    ("tables.ListTagsOfResource", ListTagsOfResourceRequest(resource_arn="x", next_token=""), "next_token"),
    ("streams.ListStreams", ListStreamsRequest(table_name=""), "table_name"),
    ("streams.ListStreams", ListStreamsRequest(exclusive_start_stream_arn=""), "exclusive_start_stream_arn"),
    ("streams.DescribeStream", DescribeStreamRequest(exclusive_start_shard_id=""), "exclusive_start_shard_id"),
    (
        "streams.GetShardIterator",
        GetShardIteratorRequest(
            shard_iterator_type=SHARD_ITERATOR_TYPE_AT_SEQUENCE_NUMBER, sequence_number="", stream_arn="x"
        ),
        "sequence_number",
    ),
    ("backups.ListBackups", ListBackupsRequest(exclusive_start_backup_arn=""), "exclusive_start_backup_arn"),
    ("consumers.ListConsumerGroups", ListConsumerGroupsRequest(page_token=""), "page_token"),
    ("consumers.ListParkedKeys", ListParkedKeysRequest(group_name="x", page_token=""), "page_token"),
    ("consumers.RedriveParkedKeys", RedriveParkedKeysRequest(group_name="x", parked_id=""), "parked_id"),
    (
        "consumers.GetParkedRecords",
        GetParkedRecordsRequest(group_name="x", exclusive_start_sequence_number=""),
        "exclusive_start_sequence_number",
    ),
    ("triggers.ListTriggers", ListTriggersRequest(page_token=""), "page_token"),
    ("replication.ListReplicas", ListReplicasRequest(page_token=""), "page_token"),
    (
        "replication.CreateReplica",
        CreateReplicaRequest(
            replica_name="copy", source_table_name=NOWHERE, target_endpoint="h:1", target_table_name=""
        ),
        "target_table_name",
    ),
]


def call(client: Client, method: str, request: Message) -> Any:
    service, name = method.split(".")
    return getattr(getattr(client, service), name)(request)


@pytest.mark.parametrize(("method", "request_", "field"), EMPTY)
def test_a_text_that_is_there_but_empty_is_not_absent(
    client: Client, method: str, request_: Message, field: str
) -> None:
    table_name = request_.DESCRIPTOR.fields_by_name.get("table_name")
    if table_name is not None and field != "table_name":
        request_.table_name = NOWHERE  # type: ignore[attr-defined]
    with refused("INVALID_ARGUMENT", "VALIDATION", field=field):
        call(client, method, request_)


def test_an_empty_key_condition_is_not_absent(client: Client, table: TestTable) -> None:
    with refused("INVALID_ARGUMENT", "VALIDATION", field="key_condition_expression", says="can not be empty"):
        client.items.Query(pb.QueryRequest(table_name=table.name, key_condition_expression=""))
    with refused("INVALID_ARGUMENT", "VALIDATION", field="key_condition_expression", says="must be specified"):
        client.items.Query(pb.QueryRequest(table_name=table.name))


def test_an_operation_of_a_batch_tells_an_empty_condition_from_none(client: Client, table: TestTable) -> None:
    writes = [
        pb.WriteOperation(put=pb.PutItemRequest(item=item(id="a"), condition_expression="")),
        pb.WriteOperation(put=pb.PutItemRequest(item=item(id="b"))),
    ]
    (response,) = client.write_items(pb.WriteItemsRequest(table_name=table.name, operations=writes))
    assert [result.error.reason for result in response.results] == ["VALIDATION", ""]
    assert client.contents(table).keys() == {(value("b"),)}
    with refused("INVALID_ARGUMENT", "VALIDATION", says="without conditions"):
        client.items.BatchWriteItem(
            pb.BatchWriteItemRequest(
                operations=[
                    pb.WriteOperation(
                        delete=pb.DeleteItemRequest(table_name=table.name, key=KEY, condition_expression="")
                    )
                ]
            )
        )


def test_no_text_of_the_item_service_that_may_be_absent_lacks_presence() -> None:
    """Names that are required in any case, or that an operation of a batch inherits, are the only plain texts."""
    plain = {
        f"{message.name}.{field.name}"
        for message in pb.DESCRIPTOR.message_types_by_name.values()
        if not message.name.endswith(("Response", "Capacity", "Metrics", "Reason", "Items", "Failure", "Result"))
        for field in message.fields
        if field.type == FieldDescriptor.TYPE_STRING and not field.has_presence and not field.is_repeated
    }
    assert {name.partition(".")[2] for name in plain} == {"table_name"}


# Tables by their ARNs.


def arn_of(client: Client, table: TestTable) -> str:
    return client.tables.DescribeTable(DescribeTableRequest(table_name=table.name)).table.table_arn


def test_a_tables_arn_stands_for_its_name(client: Client, table: TestTable) -> None:
    arn = arn_of(client, table)
    client.put(arn, item(id="a", n=1))
    assert client.get(arn, KEY) == client.get(table.name, KEY) == attributes(id="a", n=1)
    writes = [pb.WriteOperation(put=pb.PutItemRequest(item=item(id="b")))]
    (response,) = client.write_items(pb.WriteItemsRequest(table_name=arn, operations=writes))
    assert not response.results[0].HasField("error")
    request = pb.QueryRequest(table_name=arn, key_condition_expression="id = :v", expression_attribute_values=VALUES)
    assert client.items.Query(request).count == 1
    assert client.items.Scan(pb.ScanRequest(table_name=arn)).count == 2
    client.tables.UpdateTable(UpdateTableRequest(table_name=arn, deletion_protection_enabled=False))
    (stream,) = client.streams.ListStreams(ListStreamsRequest(table_name=arn)).streams
    assert stream.table_name == table.name
    first = next(
        client.streams.GetRecords(
            GetRecordsRequest(table_name=arn, shard_iterator_type=SHARD_ITERATOR_TYPE_TRIM_HORIZON)
        )
    )
    assert first.stream_arn == table.stream_arn


def test_a_name_and_an_arn_are_one_item(client: Client, table: TestTable) -> None:
    arn = arn_of(client, table)
    deletes = [pb.WriteOperation(delete=pb.DeleteItemRequest(table_name=name, key=KEY)) for name in (table.name, arn)]
    with refused("INVALID_ARGUMENT", "VALIDATION", says="duplicates"):
        client.items.BatchWriteItem(pb.BatchWriteItemRequest(operations=deletes))
    keys = [pb.TableKeys(table_name=name, keys=[KEY]) for name in (table.name, arn)]
    with refused("INVALID_ARGUMENT", "VALIDATION", says="duplicates"):
        client.items.BatchGetItem(pb.BatchGetItemRequest(tables=keys))


def test_the_arn_of_another_region_is_refused(client: Client, table: TestTable) -> None:
    arn = arn_of(client, table)
    elsewhere = arn.replace(arn.split(":")[3], "elsewhere-1")
    with refused("INVALID_ARGUMENT", "VALIDATION", field="table_name", says="another region or account"):
        client.get(elsewhere, KEY)
    with refused("INVALID_ARGUMENT", "VALIDATION", field="table_name", says="Invalid ResourceArn"):
        client.get(f"{arn}/index/by-n", KEY)
    with refused("NOT_FOUND", "RESOURCE_NOT_FOUND", says=": Table: gone not found"):
        client.get(arn.replace(table.name, "gone"), KEY)


# Keys that do not fit.


def test_a_key_that_does_not_fit_cancels_a_reading_transaction(client: Client, table: TestTable) -> None:
    gets = [
        pb.TransactGetItem(table_name=table.name, key=KEY),
        pb.TransactGetItem(table_name=table.name, key=item(id="b", more=1)),
    ]
    with refused("FAILED_PRECONDITION", "TRANSACTION_CANCELED") as expected:
        client.items.TransactGetItems(pb.TransactGetItemsRequest(transact_items=gets))
    assert expected.refusal.metadata["cancellation_reasons"] == "None,ValidationError"
    assert len(client.items.TransactGetItems(pb.TransactGetItemsRequest(transact_items=gets[:1])).responses) == 1


def test_what_needs_no_table_is_checked_before_the_table_is_looked_up(client: Client) -> None:
    faults: list[tuple[str, Message, str]] = [
        ("items.GetItem", pb.GetItemRequest(key=KEY, projection_expression="a,"), "projection_expression"),
        ("items.DeleteItem", pb.DeleteItemRequest(key=KEY, condition_expression="a ="), "condition_expression"),
        ("items.UpdateItem", pb.UpdateItemRequest(key=KEY, update_expression="SET"), "update_expression"),
        ("items.Scan", pb.ScanRequest(limit=0), "limit"),
        ("items.Scan", pb.ScanRequest(segment=1), "total_segments"),
        ("items.Query", pb.QueryRequest(key_condition_expression="id = :v", limit=0), "limit"),
        ("items.Query", pb.QueryRequest(), "key_condition_expression"),
        ("items.Query", pb.QueryRequest(key_condition_expression="id ="), "key_condition_expression"),
        ("items.Query", pb.QueryRequest(key_condition_expression="id = :missing"), "key_condition_expression"),
        (
            "items.Query",
            pb.QueryRequest(
                key_condition_expression="id = :v",
                expression_attribute_values={**VALUES, ":unused": VALUES[":v"]},
            ),
            "expression_attribute_values",
        ),
        ("items.Scan", pb.ScanRequest(select=pb.SELECT_COUNT, projection_expression="a"), "projection_expression"),
        ("items.Scan", pb.ScanRequest(select=pb.SELECT_SPECIFIC_ATTRIBUTES), "projection_expression"),
        ("items.Scan", pb.ScanRequest(select=pb.SELECT_ALL_PROJECTED_ATTRIBUTES), "select"),
    ]
    for method, request, field in faults:
        request.table_name = NOWHERE  # type: ignore[attr-defined]
        with refused("INVALID_ARGUMENT", "VALIDATION", field=field):
            call(client, method, request)


@pytest.mark.parametrize("count", [34, 35])
def test_names_and_values_together_have_2_mib_of_bytes(client: Client, count: int) -> None:
    # 61,680 bytes each, so 34 have less than 2 MiB and 35 more; of characters they have a quarter.
    names = {f"#n{number}": "\U0001d11e" * 15_420 for number in range(count)}
    request = pb.ScanRequest(
        table_name=NOWHERE, filter_expression="attribute_exists(a)", expression_attribute_names=names
    )
    with refused("INVALID_ARGUMENT", "VALIDATION") as refusal:
        client.items.Scan(request)
    assert refusal.refusal is not None
    told = refusal.refusal.metadata.get("limit")
    assert told == (None if count == 34 else str(2 * 1024 * 1024)), refusal.refusal
