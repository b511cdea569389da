"""The rules of index keys, on every attribute of them. Source: Developer Guide, "Detecting and correcting index key
violations", "Quotas in Amazon DynamoDB"."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from headrace.v1 import attribute_value_pb2, table_pb2
from headrace.v1 import item_service_pb2 as pb
from headrace.v1.backup_service_pb2 import CreateBackupRequest, RestoreTableFromBackupRequest
from headrace.v1.table_service_pb2 import DescribeTableRequest, GlobalSecondaryIndexUpdate, UpdateTableRequest
from tests.broker_process import BrokerProcess
from tests.conftest import eventually
from tests.rpc import (
    NEW_IMAGE,
    PROJECT_ALL,
    Client,
    TestTable,
    batch,
    create_table_request,
    definitions,
    global_index,
    refusal_of,
    refused,
    unique_name,
)
from tests.values import Attributes, attributes, from_item, item, to_attribute_value, to_item, value

KEYS_ONLY = table_pb2.Projection(projection_type=table_pb2.PROJECTION_TYPE_KEYS_ONLY)


def add_index(client: Client, table_name: str, index: table_pb2.GlobalSecondaryIndex, defined: str) -> None:
    """Adds an index to a table and waits until it can be read."""
    updates = [GlobalSecondaryIndexUpdate(create=index)]
    client.tables.UpdateTable(
        UpdateTableRequest(
            table_name=table_name, global_secondary_index_updates=updates, attribute_definitions=definitions(defined)
        )
    )

    def is_filled() -> bool:
        described = client.tables.DescribeTable(DescribeTableRequest(table_name=table_name)).table
        return not any(each.backfilling for each in described.global_secondary_indexes)

    eventually(is_filled)


def in_index(client: Client, table: TestTable, name: str) -> list[Attributes]:
    """What an index holds."""
    return [from_item(each) for each in client.items.Scan(pb.ScanRequest(table_name=table.name, index_name=name)).items]


# 1. A key attribute of the table in the key of an index: a partition key has up to 2,048 bytes, a sort key 1,024.

CALLS = ["PutItem", "UpdateItem", "WriteItems", "BatchWriteItem", "Put in a transaction", "Update in a transaction"]


def refusal(client: Client, table: str, call: str, key: attribute_value_pb2.Item) -> str:
    """Why an item that is nothing but its key is refused; empty if it is written."""
    put = pb.PutItemRequest(table_name=table, item=key)
    update = pb.UpdateItemRequest(table_name=table, key=key)
    try:
        match call:
            case "PutItem":
                client.items.PutItem(put)
            case "UpdateItem":
                client.items.UpdateItem(update)
            case "WriteItems":
                (response,) = client.write_items(batch(table, pb.WriteOperation(put=pb.PutItemRequest(item=key))))
                return response.results[0].error.message
            case "BatchWriteItem":
                client.items.BatchWriteItem(pb.BatchWriteItemRequest(operations=[pb.WriteOperation(put=put)]))
            case _:
                put_or_update = pb.TransactWriteItem(put=put) if "Put" in call else pb.TransactWriteItem(update=update)
                client.items.TransactWriteItems(pb.TransactWriteItemsRequest(transact_items=[put_or_update]))
    except grpc.RpcError as error:
        return refusal_of(error).message
    return ""


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("is_added", [False, True], ids=["with the table", "added later"])
def test_a_key_of_the_table_that_is_too_long_for_an_index_is_refused(
    client: Client, call: str, *, is_added: bool
) -> None:
    inverted = global_index("inverted", "order customer", KEYS_ONLY)
    request = create_table_request(unique_name(), keys="customer:S order:S", view_type=NEW_IMAGE)
    if not is_added:
        request.global_secondary_indexes.append(inverted)
    made = client.tables.CreateTable(request).table_description
    table = TestTable(name=made.table_name, stream_arn=made.latest_stream_arn, key_names=("customer", "order"))
    if is_added:
        add_index(client, table.name, inverted, "customer:S order:S")
    longest = attributes(customer="\u00e9" * 512, order="o" * 1024)
    assert refusal(client, table.name, call, to_item(longest)) == ""
    assert in_index(client, table, "inverted") == [longest]
    with client.unchanged(table):
        message = refusal(client, table.name, call, item(customer="x" * 1025, order="o"))
    # What an update makes of an item is known only when the transaction is carried out.
    too_long = "Aggregated size of all range keys has exceeded the size limit of 1024 bytes"
    assert ("[ValidationError]" if call == "Update in a transaction" else too_long) in message


def test_a_key_of_the_table_may_be_as_long_as_its_place_in_the_index_allows(client: Client) -> None:
    request = create_table_request(unique_name(), keys="customer:B order:B")
    request.global_secondary_indexes.append(global_index("inverted", "order"))
    client.tables.CreateTable(request)
    table = TestTable(name=request.table_name, stream_arn="", key_names=("customer", "order"))
    key = attributes(customer=b"x" * 2048, order=b"y" * 1024)
    assert refusal(client, table.name, "PutItem", to_item(key)) == ""
    assert in_index(client, table, "inverted") == [key]


def test_a_refused_key_names_the_index_and_the_limit(client: Client) -> None:
    request = create_table_request(unique_name(), keys="customer:S order:S")
    request.global_secondary_indexes.append(global_index("inverted", "order customer"))
    client.tables.CreateTable(request)
    put = pb.PutItemRequest(table_name=request.table_name, item=item(customer="x" * 1025, order="o"))
    with refused("INVALID_ARGUMENT", "VALIDATION", field="customer", limit=1024) as expected:
        client.items.PutItem(put)
    assert expected.refusal.metadata["index_name"] == "inverted"


def test_an_item_from_before_an_index_that_is_too_long_for_it_is_left_out_and_can_still_be_changed(
    client: Client,
) -> None:
    table = client.create_table(keys="customer:S order:S")
    key = item(customer="x" * 1025, order="o")
    client.put(table.name, key)
    client.put(table.name, item(customer="x" * 1024, order="o"))
    add_index(client, table.name, global_index("inverted", "order customer", KEYS_ONLY), "customer:S order:S")
    assert in_index(client, table, "inverted") == [attributes(customer="x" * 1024, order="o")]
    update = pb.UpdateItemRequest(
        table_name=table.name,
        key=key,
        update_expression="SET paid = :yes",
        expression_attribute_values={":yes": to_attribute_value(value(True))},  # noqa: FBT003
    )
    client.items.UpdateItem(update)
    assert client.get(table.name, key) == from_item(key) | attributes(paid=True)
    # A put writes the key anew.
    assert "1024 bytes" in refusal(client, table.name, "PutItem", key)
    client.delete(table.name, key)
    assert "1024 bytes" in refusal(client, table.name, "UpdateItem", key)


# 2. Global indexes with four attributes in each part of the key: each attribute has the limit of its part.

NAMES = ["h0", "h1", "h2", "h3", "r0", "r1", "r2", "r3"]


def of_eight(names: list[str]) -> table_pb2.GlobalSecondaryIndex:
    """An index with the first four attributes as partition key, and the others as sort key."""
    roles = [table_pb2.KEY_TYPE_HASH] * 4 + [table_pb2.KEY_TYPE_RANGE] * 4
    return table_pb2.GlobalSecondaryIndex(
        index_name="of-eight",
        key_schema=[
            table_pb2.KeySchemaElement(attribute_name=name, key_type=role)
            for name, role in zip(names, roles, strict=True)
        ],
        projection=PROJECT_ALL,
    )


def table_of_eight(client: Client, names: list[str], type_: str = "B") -> TestTable:
    """A table with the partition key `id`, and an index of these attributes, all of one type."""
    request = create_table_request(unique_name(), keys=f"id:{type_}", view_type=NEW_IMAGE)
    request.attribute_definitions.extend(definitions(" ".join(f"{name}:{type_}" for name in names if name != "id")))
    request.global_secondary_indexes.append(of_eight(names))
    made = client.tables.CreateTable(request).table_description
    return TestTable(name=made.table_name, stream_arn=made.latest_stream_arn, key_names=("id",))


@pytest.mark.parametrize("is_of_the_table", [False, True], ids=["an attribute of the index", "the table's key"])
@pytest.mark.parametrize("position", range(8))
def test_each_attribute_has_the_limit_of_its_part(client: Client, position: int, *, is_of_the_table: bool) -> None:
    names = NAMES.copy()
    if is_of_the_table:
        names[position] = "id"
    table = table_of_eight(client, names)
    most = 2048 if position < 4 else 1024
    whole = {"id": b"i"} | dict.fromkeys(names, b"x")
    fits = attributes(whole | {names[position]: b"y" * most})
    client.put(table.name, to_item(fits))
    assert in_index(client, table, "of-eight") == [fits]
    too_long = pb.PutItemRequest(table_name=table.name, item=item(whole | {names[position]: b"y" * (most + 1)}))
    with client.unchanged(table), refused("INVALID_ARGUMENT", "VALIDATION", field=names[position], limit=most):
        client.items.PutItem(too_long)


def test_the_longest_key_of_eight_attributes_is_taken(client: Client) -> None:
    table = table_of_eight(client, NAMES)
    # Zeros take the most room in a stored key.
    whole = attributes({"id": b"\x00" * 2048} | {name: b"\x00" * (2048 if name[0] == "h" else 1024) for name in NAMES})
    client.put(table.name, to_item(whole))
    condition = " AND ".join(f"{name} = :{name}" for name in NAMES)
    values = {f":{name}": to_attribute_value(whole[name]) for name in NAMES}
    found = client.items.Query(
        pb.QueryRequest(
            table_name=table.name,
            index_name="of-eight",
            key_condition_expression=condition,
            expression_attribute_values=values,
            limit=1,
        )
    )
    assert list(map(from_item, found.items)) == [whole]
    assert from_item(found.last_evaluated_key) == whole


@pytest.mark.parametrize("position", range(8))
@pytest.mark.parametrize("call", ["PutItem", "UpdateItem"])
def test_each_attribute_must_have_its_type_and_a_content(client: Client, position: int, call: str) -> None:
    table = table_of_eight(client, NAMES, "S")
    name = NAMES[position]
    whole = {"id": "i"} | dict.fromkeys(NAMES, "x")
    client.put(table.name, item(whole))
    for wrong, says in (
        (5, f"Type mismatch for Index Key {name} Expected: S Actual: N IndexName: of-eight"),
        ({"a"}, f"Type mismatch for Index Key {name} Expected: S Actual: SS IndexName: of-eight"),
        ("", f"cannot contain an empty string value. IndexName: of-eight, IndexKey: {name}"),
    ):
        put = pb.PutItemRequest(table_name=table.name, item=item(whole | {name: wrong}))
        update = pb.UpdateItemRequest(
            table_name=table.name,
            key=item(id="i"),
            update_expression=f"SET {name} = :v",
            expression_attribute_values={":v": to_attribute_value(value(wrong))},
        )
        with client.unchanged(table), refused("INVALID_ARGUMENT", "VALIDATION", field=name, says=says):
            if call == "PutItem":
                client.items.PutItem(put)
            else:
                client.items.UpdateItem(update)
    assert in_index(client, table, "of-eight") == [attributes(whole)]


def test_a_restart_and_a_backup_keep_the_attributes_of_an_index(tmp_path: Path) -> None:
    whole = attributes({"id": b"i"} | dict.fromkeys(NAMES, b"x"))
    with BrokerProcess(tmp_path) as broker, Client(broker.grpc) as client:
        table = table_of_eight(client, NAMES)
        client.put(table.name, to_item(whole))
        made = client.backups.CreateBackup(CreateBackupRequest(backup_name="all"))
        arn = made.backup_details.backup_arn
    with BrokerProcess(tmp_path) as broker, Client(broker.grpc) as client:
        assert in_index(client, table, "of-eight") == [whole]
        client.backups.RestoreTableFromBackup(
            RestoreTableFromBackupRequest(
                backup_arn=arn, source_table_name=table.name, target_table_name="restored-table"
            )
        )
        described = client.tables.DescribeTable(DescribeTableRequest(table_name="restored-table")).table
        (index,) = described.global_secondary_indexes
        assert list(index.key_schema) == list(of_eight(NAMES).key_schema)
        restored = TestTable(name="restored-table", stream_arn="", key_names=("id",))
        assert in_index(client, restored, "of-eight") == [whole]
