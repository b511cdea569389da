"""The rules of index keys, on every attribute of them. Source: Developer Guide, "Detecting and correcting index key
violations", "Quotas in Amazon DynamoDB"."""

from __future__ import annotations

import grpc
import pytest

from headrace.v1 import attribute_value_pb2, table_pb2
from headrace.v1 import item_service_pb2 as pb
from headrace.v1.table_service_pb2 import DescribeTableRequest, GlobalSecondaryIndexUpdate, UpdateTableRequest
from tests.conftest import eventually
from tests.rpc import (
    NEW_IMAGE,
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
