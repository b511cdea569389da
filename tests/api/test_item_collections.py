"""The sizes of item collections, as writes tell them. Source: DynamoDB API Reference, "ItemCollectionMetrics"."""

from __future__ import annotations

from typing import Any

import pytest

from headrace.v1 import item_service_pb2 as pb
from headrace.v1 import table_pb2
from tests.rpc import Client, create_table_request, definitions, global_index, local_index, unique_name
from tests.values import attributes, from_item, item, size_bytes

SIZE = pb.RETURN_ITEM_COLLECTION_METRICS_SIZE
KEYS_ONLY = table_pb2.Projection(projection_type=table_pb2.PROJECTION_TYPE_KEYS_ONLY)


@pytest.fixture
def orders(client: Client) -> str:
    """A table with two local indexes and a global one, which is no part of a collection."""
    request = create_table_request(unique_name(), keys="customer:S n:N")
    request.attribute_definitions.extend(definitions("amount:N stage:S"))
    request.local_secondary_indexes.extend(
        [local_index("by-amount", "customer amount"), local_index("by-stage", "customer stage", KEYS_ONLY)]
    )
    request.global_secondary_indexes.append(global_index("of-stage", "stage"))
    client.tables.CreateTable(request)
    return request.table_name


def told(metrics: pb.ItemCollectionMetrics) -> tuple[str, Any, int]:
    return metrics.table_name, from_item(metrics.item_collection_key), metrics.size_bytes


def test_a_write_tells_the_size_of_its_items_collection(client: Client, orders: str) -> None:
    first = {"customer": "ann", "n": 1, "amount": 5, "note": "x" * 50}
    response = client.items.PutItem(
        pb.PutItemRequest(table_name=orders, item=item(first), return_item_collection_metrics=SIZE)
    )
    # Its entry in by-amount is the whole item, and it has none in by-stage.
    once = 2 * size_bytes(attributes(first))
    assert told(response.item_collection_metrics) == (orders, attributes(customer="ann"), once)
    response = client.items.PutItem(
        pb.PutItemRequest(
            table_name=orders, item=item(customer="ann", n=2, stage="open"), return_item_collection_metrics=SIZE
        )
    )
    # Its entry in by-stage has the keys of both, which are all it has.
    second = 2 * size_bytes(attributes(customer="ann", n=2, stage="open"))
    assert response.item_collection_metrics.size_bytes == once + second
    update = client.items.UpdateItem(
        pb.UpdateItemRequest(
            table_name=orders,
            key=item(customer="ann", n=1),
            update_expression="REMOVE amount",
            return_item_collection_metrics=SIZE,
        )
    )
    without = size_bytes(attributes(customer="ann", n=1, note="x" * 50))
    assert update.item_collection_metrics.size_bytes == without + second
    delete = client.items.DeleteItem(
        pb.DeleteItemRequest(table_name=orders, key=item(customer="ann", n=1), return_item_collection_metrics=SIZE)
    )
    assert delete.item_collection_metrics.size_bytes == second
    delete = client.items.DeleteItem(
        pb.DeleteItemRequest(table_name=orders, key=item(customer="ann", n=2), return_item_collection_metrics=SIZE)
    )
    assert told(delete.item_collection_metrics) == (orders, attributes(customer="ann"), 0)


def test_a_batch_and_a_transaction_tell_each_collection_once(client: Client, orders: str) -> None:
    plain = client.create_table(keys="id:S").name
    puts = [
        pb.PutItemRequest(table_name=orders, item=item(customer="ann", n=1)),
        pb.PutItemRequest(table_name=orders, item=item(customer="ann", n=2)),
        pb.PutItemRequest(table_name=orders, item=item(customer="bob", n=1)),
        pb.PutItemRequest(table_name=plain, item=item(id="x")),
    ]
    size = size_bytes(attributes(customer="ann", n=1))
    batch = client.items.BatchWriteItem(
        pb.BatchWriteItemRequest(
            operations=[pb.WriteOperation(put=put) for put in puts], return_item_collection_metrics=SIZE
        )
    )
    expected = [(orders, attributes(customer="ann"), 2 * size), (orders, attributes(customer="bob"), size)]
    assert [told(each) for each in batch.item_collection_metrics] == expected
    delete = pb.DeleteItemRequest(table_name=orders, key=item(customer="bob", n=1))
    check = pb.ConditionCheck(
        table_name=orders, key=item(customer="eve", n=1), condition_expression="attribute_not_exists(n)"
    )
    transaction = client.items.TransactWriteItems(
        pb.TransactWriteItemsRequest(
            transact_items=[pb.TransactWriteItem(delete=delete), pb.TransactWriteItem(condition_check=check)],
            return_item_collection_metrics=SIZE,
        )
    )
    assert [told(each) for each in transaction.item_collection_metrics] == [(orders, attributes(customer="bob"), 0)]


def test_nothing_is_told_unasked_or_of_a_table_without_local_indexes(client: Client, orders: str) -> None:
    plain = client.create_table(keys="id:S").name
    unasked = client.items.PutItem(pb.PutItemRequest(table_name=orders, item=item(customer="ann", n=1)))
    assert not unasked.HasField("item_collection_metrics")
    without = client.items.PutItem(
        pb.PutItemRequest(table_name=plain, item=item(id="x"), return_item_collection_metrics=SIZE)
    )
    assert not without.HasField("item_collection_metrics")


def test_a_write_that_is_not_carried_out_tells_nothing(client: Client, orders: str) -> None:
    client.put(orders, item(customer="ann", n=1))
    response = client.items.PutItem(
        pb.PutItemRequest(
            table_name=orders,
            item=item(customer="ann", n=1, note="x"),
            condition_expression="attribute_not_exists(n)",
            return_values_on_condition_check_failure=pb.RETURN_VALUES_ON_CONDITION_CHECK_FAILURE_ALL_OLD,
            return_item_collection_metrics=SIZE,
        )
    )
    assert response.HasField("condition_check_failure")
    assert not response.HasField("item_collection_metrics")
