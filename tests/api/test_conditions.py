"""Conditions and updates over gRPC: what they do to items, and what is refused by every call that takes them."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.message import Message

from headrace.v1 import attribute_value_pb2 as pb
from headrace.v1.item_service_pb2 import (
    BatchGetItemRequest,
    ConditionCheck,
    DeleteItemRequest,
    GetItemRequest,
    PutItemRequest,
    QueryRequest,
    ScanRequest,
    TableKeys,
    TransactGetItem,
    TransactGetItemsRequest,
    TransactWriteItem,
    TransactWriteItemsRequest,
    UpdateItemRequest,
    WriteItemsRequest,
    WriteOperation,
)
from tests.rpc import Client, TestTable, refused
from tests.values import attributes, item, size_bytes, to_attribute_value, value

KEY = item(id="a")


def update(
    client: Client,
    table: TestTable,
    expression: str | None,
    *,
    condition: str | None = None,
    names: dict[str, str] | None = None,
    values: dict[str, object] | None = None,
    key: pb.Item = KEY,
) -> None:
    client.items.UpdateItem(
        UpdateItemRequest(
            table_name=table.name,
            key=key,
            update_expression=expression,
            condition_expression=condition,
            expression_attribute_names=names,
            expression_attribute_values={name: to_attribute_value(value(of)) for name, of in (values or {}).items()},
        )
    )


def put_if(
    client: Client, table: TestTable, condition: str, names: dict[str, str] | None = None, **more: object
) -> None:
    client.items.PutItem(
        PutItemRequest(
            table_name=table.name,
            item=item({"id": "a", **more}),
            condition_expression=condition,
            expression_attribute_names=names,
        )
    )


# The idiom to create an item only once.
def test_a_put_can_ask_that_the_item_is_not_there(client: Client, table: TestTable) -> None:
    put_if(client, table, "attribute_not_exists(id)", n=1)
    with client.unchanged(table), refused("FAILED_PRECONDITION", "CONDITIONAL_CHECK_FAILED"):
        put_if(client, table, "attribute_not_exists(id)", n=2)
    assert client.get(table.name, KEY) == attributes(id="a", n=1)


def test_a_put_can_ask_that_the_item_is_there(client: Client, table: TestTable) -> None:
    with client.unchanged(table), refused("FAILED_PRECONDITION", "CONDITIONAL_CHECK_FAILED"):
        put_if(client, table, "attribute_exists(id)")
    client.put(table.name, KEY)
    put_if(client, table, "attribute_exists(id)", n=2)
    assert client.get(table.name, KEY) == attributes(id="a", n=2)


def test_conditions_joined_by_and_must_all_hold(client: Client, table: TestTable) -> None:
    client.put(table.name, item(id="a", x=1))
    names = {"#y": "y"}
    all_three = "attribute_exists(x) AND attribute_not_exists(#y) and attribute_exists ( id )"
    put_if(client, table, all_three, names, x=1, y=1)
    with client.unchanged(table), refused("FAILED_PRECONDITION", "CONDITIONAL_CHECK_FAILED"):
        put_if(client, table, all_three, names, x=2)


def test_a_delete_can_ask_too(client: Client, table: TestTable) -> None:
    request = DeleteItemRequest(table_name=table.name, key=KEY, condition_expression="attribute_exists(ready)")
    with client.unchanged(table), refused("FAILED_PRECONDITION", "CONDITIONAL_CHECK_FAILED"):
        client.items.DeleteItem(request)
    client.put(table.name, item(id="a"))
    with client.unchanged(table), refused("FAILED_PRECONDITION", "CONDITIONAL_CHECK_FAILED"):
        client.items.DeleteItem(request)
    client.put(table.name, item(id="a", ready=True))
    client.items.DeleteItem(request)
    assert client.get(table.name, KEY) is None


def test_an_update_sets_and_removes_and_leaves_the_rest(client: Client, table: TestTable) -> None:
    client.put(table.name, item(id="a", keep=1, change=1, drop=1))
    update(
        client,
        table,
        "SET #c = :c, added = :l REMOVE #d",
        names={"#c": "change", "#d": "drop"},
        values={":c": "two", ":l": [1]},
    )
    assert client.get(table.name, KEY) == attributes(id="a", keep=1, change="two", added=[1])


def test_keywords_of_an_update_may_be_in_any_case_and_order(client: Client, table: TestTable) -> None:
    client.put(table.name, item(id="a", b=1))
    update(client, table, " remove b\n\tset c=:v ", values={":v": 2})
    assert client.get(table.name, KEY) == attributes(id="a", c=2)


@pytest.mark.parametrize("expression", [None, "SET n = :v"])
def test_an_update_creates_a_missing_item(client: Client, table: TestTable, expression: str | None) -> None:
    update(client, table, expression, values={":v": 1} if expression else None)
    assert client.get(table.name, KEY) == (attributes(id="a", n=1) if expression else attributes(id="a"))
    (record,) = client.records(table.stream_arn)
    assert record.event_name == 1


def test_an_update_that_only_removes_creates_nothing(client: Client, table: TestTable) -> None:
    with client.unchanged(table):
        update(client, table, "REMOVE n")


@pytest.mark.parametrize("expression", ["SET n = :v", "REMOVE absent", None])
def test_an_update_that_changes_nothing_makes_no_record(
    client: Client, table: TestTable, expression: str | None
) -> None:
    client.put(table.name, item(id="a", n=1))
    with client.unchanged(table):
        update(client, table, expression, values={":v": 1} if expression == "SET n = :v" else None)


def test_a_condition_of_an_update_is_checked_against_the_item_before_it(client: Client, table: TestTable) -> None:
    with client.unchanged(table), refused("FAILED_PRECONDITION", "CONDITIONAL_CHECK_FAILED"):
        update(client, table, "SET n = :v", condition="attribute_exists(n)", values={":v": 1})
    update(client, table, "SET n = :v", condition="attribute_not_exists(n)", values={":v": 1})
    assert client.get(table.name, KEY) == attributes(id="a", n=1)


def test_a_substituted_name_may_hold_anything_even_a_dot_or_a_reserved_word(client: Client, table: TestTable) -> None:
    update(client, table, "SET #a = :v, #b = :v", names={"#a": "a.b[0]", "#b": "SELECT"}, values={":v": 1})
    assert client.get(table.name, KEY) == attributes({"id": "a", "a.b[0]": 1, "SELECT": 1})


BAD_EXPRESSIONS: dict[str, tuple[str, str, dict[str, str], dict[str, object]]] = {
    "syntax": ("SET n :v", "", {}, {":v": 1}),
    "no such clause": ("PUT n = :v", "", {}, {":v": 1}),
    "section twice": ("SET n = :v SET m = :v", "", {}, {":v": 1}),
    "name twice": ("SET n = :v, n = :v", "", {}, {":v": 1}),
    "set and removed": ("SET n = :v REMOVE n", "", {}, {":v": 1}),
    "reserved word": ("SET status = :v", "", {}, {":v": 1}),
    "reserved word in another case": ("SET Status = :v", "", {}, {":v": 1}),
    "name starts with a digit": ("SET 1n = :v", "", {}, {":v": 1}),
    "value not given": ("SET n = :v", "", {}, {}),
    "value not used": ("SET n = :v", "", {}, {":v": 1, ":w": 1}),
    "name not given": ("SET #n = :v", "", {}, {":v": 1}),
    "name not used": ("SET n = :v", "", {"#n": "n"}, {":v": 1}),
    "malformed value placeholder": ("SET n = :v", "", {}, {":v": 1, "w": 1}),
    "malformed name placeholder": ("SET n = :v", "", {"n": "n"}, {":v": 1}),
    "names without expression": ("", "", {"#n": "n"}, {}),
    "values without expression": ("", "", {}, {":v": 1}),
    "partition key": ("SET id = :v", "", {}, {":v": "b"}),
    "partition key removed": ("REMOVE id", "", {}, {}),
    "partition key by another name": ("SET #k = :v", "", {"#k": "id"}, {":v": "b"}),
    "trailing text": ("SET n = :v, ", "", {}, {":v": 1}),
    "expression too long": ("SET " + "n" * 5000 + " = :v", "", {}, {":v": 1}),
    "condition syntax": ("SET n = :v", "attribute_exists(n", {}, {":v": 1}),
    "condition with an unknown function": ("SET n = :v", "exists(n)", {}, {":v": 1}),
    "condition with a function in capitals": ("SET n = :v", "ATTRIBUTE_EXISTS(n)", {}, {":v": 1}),
    "condition without an operand": ("SET n = :v", "attribute_exists()", {}, {":v": 1}),
    "condition with a reserved word": ("SET n = :v", "attribute_exists(status)", {}, {":v": 1}),
    "condition that ends in AND": ("SET n = :v", "attribute_exists(n) AND", {}, {":v": 1}),
    "condition of blanks": ("SET n = :v", "   ", {}, {":v": 1}),
}


@pytest.mark.parametrize("fault", BAD_EXPRESSIONS)
def test_bad_expressions_are_refused(client: Client, table: TestTable, fault: str) -> None:
    expression, condition, names, values = BAD_EXPRESSIONS[fault]
    with client.unchanged(table), refused("INVALID_ARGUMENT", "VALIDATION") as expected:
        update(client, table, expression, condition=condition, names=names, values=values)
    assert expected.refusal.metadata["field"], expected.refusal


KEYS_HAVE_NO_PARTS = "Key attributes must be scalars; list random access '[]' and map lookup '.' are not allowed: "


@pytest.mark.parametrize("path", ["id.x", "id[0]", "#k.x", "line[0]"])
def test_a_path_into_a_key_attribute_is_refused_by_every_call_that_takes_one(client: Client, path: str) -> None:
    table = client.create_table(keys="id:S line:N")
    key = item(id="a", line=1)
    client.put(table.name, key)
    names: dict[str, Any] = {"expression_attribute_names": {"#k": "id"} if "#k" in path else {}}
    condition: dict[str, Any] = {"condition_expression": f"attribute_not_exists({path})", **names}
    filter_: dict[str, Any] = {"filter_expression": f"attribute_not_exists({path})", **names}
    projection: dict[str, Any] = {"projection_expression": path, **names}
    of_table: dict[str, Any] = {"table_name": table.name}
    query: dict[str, Any] = {
        **of_table,
        "key_condition_expression": "id = :id",
        "expression_attribute_values": {":id": pb.AttributeValue(s="a")},
        "allow_key_attributes_in_filter": True,
    }
    put = PutItemRequest(**of_table, item=key, **condition)
    check = ConditionCheck(**of_table, key=key, **condition)
    calls: list[tuple[str, Message]] = [
        ("PutItem", put),
        ("DeleteItem", DeleteItemRequest(**of_table, key=key, **condition)),
        ("UpdateItem", UpdateItemRequest(**of_table, key=key, update_expression="REMOVE n", **condition)),
        ("UpdateItem", UpdateItemRequest(**of_table, key=key, update_expression=f"SET n = {path}", **names)),
        ("TransactWriteItems", TransactWriteItemsRequest(transact_items=[TransactWriteItem(put=put)])),
        ("TransactWriteItems", TransactWriteItemsRequest(transact_items=[TransactWriteItem(condition_check=check)])),
        ("GetItem", GetItemRequest(**of_table, key=key, **projection)),
        ("BatchGetItem", BatchGetItemRequest(tables=[TableKeys(**of_table, keys=[key], **projection)])),
        (
            "TransactGetItems",
            TransactGetItemsRequest(transact_items=[TransactGetItem(**of_table, key=key, **projection)]),
        ),
        ("Query", QueryRequest(**query, **filter_)),
        ("Query", QueryRequest(**query, **projection)),
        ("Scan", ScanRequest(**of_table, **filter_)),
        ("Scan", ScanRequest(**of_table, **projection)),
    ]
    told = KEYS_HAVE_NO_PARTS + f"Key: {'line' if 'line' in path else 'id'}"
    for name, request in calls:
        with client.unchanged(table), refused("INVALID_ARGUMENT", "VALIDATION", says=told):
            getattr(client.items, name)(request)
    batch = WriteItemsRequest(table_name=table.name, operations=[WriteOperation(put=put)])
    (response,) = client.write_items(batch)
    assert response.results[0].error.message == told


def test_deletes_from_sets_on_paths_that_do_not_fit_are_refused_with_all_that_is_asked_beside_them(
    client: Client, table: TestTable
) -> None:
    client.put(table.name, item(id="a", title="x", options={"a": 1}, steps=["x", {"tags": {"b"}}]))
    for path in (
        "title.tags",
        "title[0]",
        "options[0]",
        "steps.top",
        "gone.tags",
        "options.gone.tags",
        "steps[1].tags.x",
    ):
        says = "The document path provided in the update expression is invalid for update"
        with client.unchanged(table), refused("INVALID_ARGUMENT", "VALIDATION", field="update_expression", says=says):
            update(client, table, f"SET done = :d DELETE {path} :s", values={":s": {"b"}, ":d": True})
    update(client, table, "SET done = :d DELETE steps[1].tags :s", values={":s": {"b"}, ":d": True})
    expected = attributes(id="a", title="x", options={"a": 1}, steps=["x", {}], done=True)
    assert client.get(table.name, KEY) == expected


def test_an_expression_of_4096_bytes_is_taken_and_one_of_4097_is_not(client: Client, table: TestTable) -> None:
    short = "SET n = :v"
    update(client, table, short + " " * (4096 - len(short)), values={":v": 1})
    with (
        client.unchanged(table),
        refused("INVALID_ARGUMENT", "VALIDATION", field="update_expression", limit=4096),
    ):
        update(client, table, short + " " * (4097 - len(short)), values={":v": 2})


def test_bad_values_of_an_expression_are_refused(client: Client, table: TestTable) -> None:
    for bad in (pb.AttributeValue(), pb.AttributeValue(n="x"), pb.AttributeValue(ss=pb.StringSet())):
        request = UpdateItemRequest(
            table_name=table.name, key=KEY, update_expression="SET n = :v", expression_attribute_values={":v": bad}
        )
        with client.unchanged(table), refused("INVALID_ARGUMENT", "VALIDATION", says=":v"):
            client.items.UpdateItem(request)


def test_an_update_may_not_make_an_item_larger_than_400_kb(client: Client, table: TestTable) -> None:
    half = "x" * (200 * 1024)
    client.put(table.name, item(id="a", one=half))
    room = 400 * 1024 - size_bytes(attributes(id="a", one=half, two=""))
    with (
        client.unchanged(table),
        refused("INVALID_ARGUMENT", "VALIDATION", limit=400 * 1024, says="Item size to update has exceeded"),
    ):
        update(client, table, "SET two = :v", values={":v": "x" * (room + 1)})
    update(client, table, "SET two = :v", values={":v": "x" * room})


# An update evaluates after the condition: what it did not write must not be seen by the next one.
def test_updates_of_one_item_in_one_batch_build_on_each_other(client: Client, table: TestTable) -> None:
    operations = [
        WriteOperation(
            update=UpdateItemRequest(
                key=KEY,
                update_expression=f"SET n{n} = :v",
                condition_expression=f"attribute_exists(n{n - 1})" if n else "attribute_not_exists(id)",
                expression_attribute_values={":v": pb.AttributeValue(n=str(n))},
            )
        )
        for n in range(10)
    ]
    (response,) = client.write_items(WriteItemsRequest(table_name=table.name, operations=operations))
    assert [result.error.reason for result in response.results] == [""] * 10
    assert client.get(table.name, KEY) == attributes({"id": "a", **{f"n{n}": n for n in range(10)}})
    assert len(client.records(table.stream_arn)) == 10
