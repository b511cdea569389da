"""TransactWriteItems and TransactGetItems, and what single writes return. Source: DynamoDB API Reference."""

from __future__ import annotations

from typing import Any

import pytest

from broker.encoding.varint import field_bytes
from headrace.v1 import item_service_pb2 as pb
from tests.rpc import Client, TestTable, refused, unique_name
from tests.values import attributes, from_item, item, to_attribute_value, value

SHOWS = pb.RETURN_VALUES_ON_CONDITION_CHECK_FAILURE_ALL_OLD


def put(table: TestTable, number: int, **more: Any) -> pb.TransactWriteItem:
    condition = more.pop("condition", None)
    return pb.TransactWriteItem(
        put=pb.PutItemRequest(table_name=table.name, item=item(id=f"k{number}", **more), condition_expression=condition)
    )


def check(table: TestTable, number: int, condition: str | None, **fields: Any) -> pb.TransactWriteItem:
    return pb.TransactWriteItem(
        condition_check=pb.ConditionCheck(
            table_name=table.name, key=item(id=f"k{number}"), condition_expression=condition, **fields
        )
    )


def transact(client: Client, *actions: pb.TransactWriteItem, **fields: Any) -> pb.TransactWriteItemsResponse:
    return client.items.TransactWriteItems(pb.TransactWriteItemsRequest(transact_items=actions, **fields))


def test_a_transaction_of_several_tables_is_one_point_in_the_streams(client: Client) -> None:
    one, two = client.create_table(), client.create_table()
    client.put(one.name, item(id="k1", n=1))
    update = pb.UpdateItemRequest(
        table_name=one.name,
        key=item(id="k1"),
        update_expression="SET n = n + :n",
        expression_attribute_values={":n": to_attribute_value(value(1))},
    )
    delete = pb.DeleteItemRequest(table_name=two.name, key=item(id="gone"))
    transact(
        client,
        pb.TransactWriteItem(update=update),
        put(two, 1, text="x"),
        check(two, 2, "attribute_not_exists(id)"),
        pb.TransactWriteItem(delete=delete),
    )
    assert client.get(one.name, item(id="k1")) == attributes(id="k1", n=2)
    assert client.get(two.name, item(id="k1")) == attributes(id="k1", text="x")
    # A check, and a delete of what is not there, make no record.
    assert [record.event_name for record in client.records(one.stream_arn)] == [1, 2]
    assert [record.event_name for record in client.records(two.stream_arn)] == [1]


def test_all_conditions_are_looked_at_and_each_action_has_its_reason(client: Client, table: TestTable) -> None:
    client.put(table.name, item(id="k1", n=1))
    actions = [
        put(table, 0),
        put(table, 1, condition="attribute_not_exists(id)"),
        check(table, 2, "attribute_exists(id)"),
        put(table, 3),
    ]
    with client.unchanged(table), refused("FAILED_PRECONDITION", "TRANSACTION_CANCELED") as expected:
        transact(client, *actions)
    assert (
        expected.refusal.metadata["cancellation_reasons"] == "None,ConditionalCheckFailed,ConditionalCheckFailed,None"
    )
    assert "[None, ConditionalCheckFailed, ConditionalCheckFailed, None]" in expected.refusal.message


def test_a_cancelled_transaction_shows_items_where_it_was_asked_to(client: Client, table: TestTable) -> None:
    client.put(table.name, item(id="k1", n=1, text="x" * 100_000))
    with client.unchanged(table):
        response = transact(
            client,
            check(table, 1, "attribute_not_exists(id)", return_values_on_condition_check_failure=SHOWS),
            check(table, 2, "attribute_exists(id)", return_values_on_condition_check_failure=SHOWS),
            put(table, 3),
        )
    codes = [reason.code for reason in response.cancellation_reasons]
    assert codes == ["ConditionalCheckFailed", "ConditionalCheckFailed", "None"]
    assert from_item(response.cancellation_reasons[0].item)["n"] == value(1)
    assert not response.cancellation_reasons[1].HasField("item")
    assert response.cancellation_reasons[2].message == ""


def test_an_update_that_does_not_fit_its_item_cancels_the_transaction(client: Client, table: TestTable) -> None:
    client.put(table.name, item(id="k1", text="x"))
    update = pb.UpdateItemRequest(
        table_name=table.name,
        key=item(id="k1"),
        update_expression="ADD #t :n",
        expression_attribute_names={"#t": "text"},
        expression_attribute_values={":n": to_attribute_value(value(1))},
    )
    with client.unchanged(table), refused("FAILED_PRECONDITION", "TRANSACTION_CANCELED") as expected:
        transact(client, put(table, 2), pb.TransactWriteItem(update=update))
    assert expected.refusal.metadata["cancellation_reasons"] == "None,ValidationError"


def test_a_transaction_has_1_to_100_actions_and_4_mb(client: Client, table: TestTable) -> None:
    with refused("INVALID_ARGUMENT", "VALIDATION", field="transact_items", limit=1):
        transact(client)
    with client.unchanged(table), refused("INVALID_ARGUMENT", "VALIDATION", field="transact_items", limit=100):
        transact(client, *(put(table, number) for number in range(101)))
    transact(client, *(put(table, number) for number in range(100)))
    assert len(client.contents(table)) == 100
    large = [put(table, number, text="x" * 390_000) for number in range(11)]
    with client.unchanged(table), refused("INVALID_ARGUMENT", "VALIDATION", field="transact_items", limit=4 * 1024**2):
        transact(client, *large)
    transact(client, *large[:10])
    gets = [pb.TransactGetItem(table_name=table.name, key=item(id=f"k{number}")) for number in range(10)]
    for number in (10, 11):
        client.put(table.name, item(id=f"k{number}", text="x" * 390_000))
    assert len(client.items.TransactGetItems(pb.TransactGetItemsRequest(transact_items=gets)).responses) == 10
    gets.append(pb.TransactGetItem(table_name=table.name, key=item(id="k10")))
    with refused("INVALID_ARGUMENT", "VALIDATION", field="transact_items", limit=4 * 1024**2):
        client.items.TransactGetItems(pb.TransactGetItemsRequest(transact_items=gets))


def bad_actions(table: TestTable) -> dict[str, tuple[list[pb.TransactWriteItem], str, str]]:
    returning = put(table, 1)
    returning.put.return_values = pb.RETURN_VALUES_ALL_OLD
    missing = put(table, 1)
    missing.put.table_name = unique_name()
    return {
        "two on one item": ([put(table, 1), check(table, 1, "attribute_exists(id)")], "transact_items", "one item"),
        "no action": ([pb.TransactWriteItem()], "transact_items", "Check, Put, Update or Delete"),
        "check of nothing": ([check(table, 1, None)], "condition_expression", "must have a ConditionExpression"),
        "check of an empty text": ([check(table, 1, "")], "condition_expression", "can not be empty"),
        "asks for values": ([returning], "return_values", "returns no values"),
        "syntax": ([put(table, 1), check(table, 2, "id =")], "condition_expression", "Syntax error"),
    }


@pytest.mark.parametrize("fault", list(bad_actions(TestTable(name="", stream_arn="", key_names=()))))
def test_a_faulty_transaction_is_refused_as_a_whole(client: Client, table: TestTable, fault: str) -> None:
    actions, field, says = bad_actions(table)[fault]
    with client.unchanged(table), refused("INVALID_ARGUMENT", "VALIDATION", field=field, says=says):
        transact(client, put(table, 9), *actions)


def test_a_token_stands_for_one_request(client: Client, table: TestTable) -> None:
    token = unique_name("token")
    for _ in range(3):
        add = pb.UpdateItemRequest(
            table_name=table.name,
            key=item(id="k1"),
            update_expression="ADD n :n",
            expression_attribute_values={":n": to_attribute_value(value(1))},
        )
        transact(client, pb.TransactWriteItem(update=add), client_request_token=token)
    assert client.get(table.name, item(id="k1")) == attributes(id="k1", n=1)
    with (
        client.unchanged(table),
        refused("INVALID_ARGUMENT", "IDEMPOTENT_PARAMETER_MISMATCH", field="client_request_token"),
    ):
        transact(client, put(table, 2), client_request_token=token)
    with refused("INVALID_ARGUMENT", "VALIDATION", field="client_request_token", limit=36):
        transact(client, put(table, 2), client_request_token="x" * 37)
    transact(client, put(table, 2), client_request_token=(token + "x" * 36)[:36])


def test_a_cancelled_transaction_may_be_sent_again_with_its_token(client: Client, table: TestTable) -> None:
    token = unique_name("token")
    actions = [put(table, 1), check(table, 2, "attribute_exists(id)")]
    with refused("FAILED_PRECONDITION", "TRANSACTION_CANCELED"):
        transact(client, *actions, client_request_token=token)
    client.put(table.name, item(id="k2"))
    transact(client, *actions, client_request_token=token)
    assert client.get(table.name, item(id="k1")) == attributes(id="k1")


# Many clients write maps in another order each time; the request is the same.
def test_a_token_knows_its_request_in_whatever_order_its_attributes_come(client: Client, table: TestTable) -> None:
    name = unique_name("token")
    entries = [item({key: "x"}).SerializeToString() for key in ("id", "b", "c")]
    call: Any = client.channel.unary_unary("/headrace.v1.ItemService/TransactWriteItems")
    for order in (entries, entries[::-1]):
        whole = pb.PutItemRequest(table_name=table.name).SerializeToString() + field_bytes(b"\x12", b"".join(order))
        action = field_bytes(b"\x0a", field_bytes(b"\x12", whole))
        call(action + pb.TransactWriteItemsRequest(client_request_token=name).SerializeToString())
    assert client.get(table.name, item(id="x")) == attributes(id="x", b="x", c="x")
    assert len(client.records(table.stream_arn)) == 1


def test_a_cancelled_transaction_shows_as_much_as_a_response_holds(client: Client, table: TestTable) -> None:
    for number in range(12):
        client.put(table.name, item(id=f"k{number}", text="x" * 400_000))
    with client.unchanged(table):
        response = transact(
            client,
            *(
                check(table, number, "attribute_not_exists(id)", return_values_on_condition_check_failure=SHOWS)
                for number in range(12)
            ),
        )
    assert [reason.code for reason in response.cancellation_reasons] == ["ConditionalCheckFailed"] * 12
    assert [reason.HasField("item") for reason in response.cancellation_reasons] == [True] * 9 + [False] * 3


def test_items_that_no_response_holds_are_refused_by_name(client: Client, table: TestTable) -> None:
    whole = item({f"a{number:05}": True for number in range(50_000)})
    gets = []
    for number in range(9):
        whole.attributes["id"].s = f"k{number}"
        client.put(table.name, whole)
        gets.append(pb.TransactGetItem(table_name=table.name, key=item(id=f"k{number}")))
    with refused("INVALID_ARGUMENT", "VALIDATION", field="transact_items", limit=4 * 1024**2):
        client.items.TransactGetItems(pb.TransactGetItemsRequest(transact_items=gets))
    for get in gets:
        get.projection_expression = "a00000"
    response = client.items.TransactGetItems(pb.TransactGetItemsRequest(transact_items=gets))
    assert [from_item(each.item) for each in response.responses] == [attributes(a00000=True)] * 9


# What a write returns.


@pytest.mark.parametrize("call", ["PutItem", "DeleteItem"])
@pytest.mark.parametrize("values", [3, 4, 5, 17])
def test_a_put_and_a_delete_return_nothing_but_what_was_there(
    client: Client, table: TestTable, call: str, values: Any
) -> None:
    request: Any = (
        pb.PutItemRequest(table_name=table.name, item=item(id="a"), return_values=values)
        if call == "PutItem"
        else pb.DeleteItemRequest(table_name=table.name, key=item(id="a"), return_values=values)
    )
    with (
        client.unchanged(table),
        refused("INVALID_ARGUMENT", "VALIDATION", field="return_values", says="can only be ALL_OLD or NONE"),
    ):
        getattr(client.items, call)(request)


def test_a_failed_condition_can_show_the_item_however_large(client: Client, table: TestTable) -> None:
    whole = item(id="a", text="x" * 400_000)
    client.put(table.name, whole)
    put_again = pb.PutItemRequest(
        table_name=table.name,
        item=item(id="a"),
        condition_expression="attribute_not_exists(id)",
        return_values_on_condition_check_failure=SHOWS,
        return_consumed_capacity=pb.RETURN_CONSUMED_CAPACITY_TOTAL,
    )
    with client.unchanged(table):
        response = client.items.PutItem(put_again)
    assert response.condition_check_failure.item == whole
    # A failed condition consumes what the item that is there would.
    assert response.consumed_capacity.total.write_capacity_units == 391


def test_capacity_is_told_as_asked(client: Client, table: TestTable) -> None:
    request = pb.PutItemRequest(table_name=table.name, item=item(id="a", text="x" * 1500))
    assert not client.items.PutItem(request).HasField("consumed_capacity")
    request.item.attributes["n"].n = "1"
    request.return_consumed_capacity = pb.RETURN_CONSUMED_CAPACITY_TOTAL
    consumed = client.items.PutItem(request).consumed_capacity
    assert (consumed.table_name, consumed.total.write_capacity_units) == (table.name, 2)
    assert not consumed.HasField("table")
    request.item.attributes["n"].n = "2"
    request.return_consumed_capacity = pb.RETURN_CONSUMED_CAPACITY_INDEXES
    assert client.items.PutItem(request).consumed_capacity.table.write_capacity_units == 2
    get = pb.GetItemRequest(table_name=table.name, key=item(id="a"))
    for consistent, units in ((False, 0.5), (True, 1)):
        get.consistent_read = consistent
        get.return_consumed_capacity = pb.RETURN_CONSUMED_CAPACITY_TOTAL
        assert client.items.GetItem(get).consumed_capacity.total.read_capacity_units == units
