"""The parameters that code older than expressions uses, through boto3."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.exceptions import ClientError

A1 = {"id": {"S": "a"}, "line": {"N": "1"}}
WHOLE = {
    **A1,
    "n": {"N": "5"},
    "t": {"S": "text"},
    "tags": {"SS": ["x", "y"]},
    "l": {"L": [{"S": "first"}]},
    "dots.and[0]": {"S": "plain"},
}


@pytest.fixture
def stored(dynamodb: Any, orders: str) -> str:
    dynamodb.put_item(TableName=orders, Item=WHOLE)
    return orders


def comparison(operator: str, *operands: dict[str, Any]) -> dict[str, Any]:
    return {"ComparisonOperator": operator, **({"AttributeValueList": list(operands)} if operands else {})}


HOLD = [
    {"n": comparison("EQ", {"N": "5.0"})},
    {"n": comparison("NE", {"N": "6"})},
    {"n": comparison("NE", {"S": "5"})},
    {"missing": comparison("NE", {"S": "5"})},
    {"n": comparison("LE", {"N": "5"})},
    {"n": comparison("LT", {"N": "5.1"})},
    {"n": comparison("GE", {"N": "5"})},
    {"n": comparison("GT", {"N": "-5"})},
    {"n": comparison("NOT_NULL")},
    {"missing": comparison("NULL")},
    {"tags": comparison("CONTAINS", {"S": "x"})},
    {"t": comparison("CONTAINS", {"S": "ex"})},
    {"tags": comparison("NOT_CONTAINS", {"S": "z"})},
    {"n": comparison("NOT_CONTAINS", {"S": "5"})},
    {"t": comparison("BEGINS_WITH", {"S": "te"})},
    {"n": comparison("IN", {"N": "4"}, {"N": "5"})},
    {"n": comparison("BETWEEN", {"N": "5"}, {"N": "6"})},
    {"dots.and[0]": comparison("EQ", {"S": "plain"})},
]
FAIL = [
    {"n": comparison("EQ", {"S": "5"})},
    {"missing": comparison("EQ", {"N": "5"})},
    {"n": comparison("NE", {"N": "5"})},
    {"n": comparison("LT", {"N": "5"})},
    {"t": comparison("GT", {"N": "1"})},
    {"missing": comparison("LE", {"N": "5"})},
    {"missing": comparison("NOT_NULL")},
    {"n": comparison("NULL")},
    {"tags": comparison("CONTAINS", {"S": "z"})},
    {"tags": comparison("NOT_CONTAINS", {"S": "x"})},
    {"missing": comparison("NOT_CONTAINS", {"S": "z"})},
    {"missing": comparison("BEGINS_WITH", {"S": "x"})},
    {"missing": comparison("IN", {"S": "x"})},
    {"missing": comparison("BETWEEN", {"N": "5"}, {"N": "6"})},
]


@pytest.mark.parametrize(("conditions", "holds"), [*((c, True) for c in HOLD), *((c, False) for c in FAIL)])
def test_a_comparison_means_what_it_meant(
    dynamodb: Any, stored: str, conditions: dict[str, Any], *, holds: bool
) -> None:
    assert dynamodb.scan(TableName=stored, ScanFilter=conditions)["Count"] == int(holds)
    put = {"TableName": stored, "Item": WHOLE, "Expected": conditions}
    if holds:
        dynamodb.put_item(**put)
    else:
        with pytest.raises(dynamodb.exceptions.ConditionalCheckFailedException):
            dynamodb.put_item(**put)


def test_values_and_existence_as_expected(dynamodb: Any, stored: str) -> None:
    for expected in ({"Value": {"N": "5"}}, {"Exists": True, "Value": {"N": "5"}}):
        dynamodb.put_item(TableName=stored, Item=WHOLE, Expected={"n": expected})
    dynamodb.put_item(TableName=stored, Item=WHOLE, Expected={"n": {"ComparisonOperator": "LT", "Value": {"N": "6"}}})
    dynamodb.put_item(TableName=stored, Item=WHOLE, Expected={"missing": {"Exists": False}})
    with pytest.raises(dynamodb.exceptions.ConditionalCheckFailedException):
        dynamodb.delete_item(TableName=stored, Key=A1, Expected={"n": {"Exists": False}})
    either = {"n": {"Value": {"N": "6"}}, "t": {"Value": {"S": "text"}}}
    with pytest.raises(dynamodb.exceptions.ConditionalCheckFailedException):
        dynamodb.delete_item(TableName=stored, Key=A1, Expected=either)
    dynamodb.delete_item(TableName=stored, Key=A1, Expected=either, ConditionalOperator="OR")


def test_attribute_updates(dynamodb: Any, stored: str) -> None:
    updates = {
        "t": {"Value": {"S": "put"}},
        "n": {"Action": "ADD", "Value": {"N": "2.5"}},
        "new": {"Action": "ADD", "Value": {"N": "1"}},
        "tags": {"Action": "DELETE", "Value": {"SS": ["x", "q"]}},
        "more": {"Action": "ADD", "Value": {"SS": ["m"]}},
        "l": {"Action": "ADD", "Value": {"L": [{"S": "second"}]}},
        "ll": {"Action": "ADD", "Value": {"L": [{"S": "only"}]}},
        "dots.and[0]": {"Action": "DELETE"},
    }
    new = dynamodb.update_item(TableName=stored, Key=A1, AttributeUpdates=updates, ReturnValues="ALL_NEW")["Attributes"]
    assert new == {
        **A1,
        "t": {"S": "put"},
        "n": {"N": "7.5"},
        "new": {"N": "1"},
        "tags": {"SS": ["y"]},
        "more": {"SS": ["m"]},
        "l": {"L": [{"S": "first"}, {"S": "second"}]},
        "ll": {"L": [{"S": "only"}]},
    }
    with pytest.raises(dynamodb.exceptions.ConditionalCheckFailedException):
        dynamodb.update_item(
            TableName=stored, Key=A1, AttributeUpdates={"n": {"Action": "DELETE"}}, Expected={"n": {"Exists": False}}
        )


def test_updates_of_what_is_not_there(dynamodb: Any, orders: str) -> None:
    taken_away = {"n": {"Action": "DELETE"}, "tags": {"Action": "DELETE", "Value": {"SS": ["x"]}}}
    dynamodb.update_item(TableName=orders, Key=A1, AttributeUpdates=taken_away)
    assert "Item" not in dynamodb.get_item(TableName=orders, Key=A1)
    dynamodb.update_item(TableName=orders, Key=A1, AttributeUpdates={})
    assert dynamodb.get_item(TableName=orders, Key=A1)["Item"] == A1


def test_reads(dynamodb: Any, orders: str) -> None:
    for line in range(6):
        dynamodb.put_item(
            TableName=orders, Item={"id": {"S": "a"}, "line": {"N": str(line)}, "n": {"N": str(line % 2)}}
        )
    a0 = {"id": {"S": "a"}, "line": {"N": "0"}}
    assert dynamodb.get_item(TableName=orders, Key=a0, AttributesToGet=["n", "no"])["Item"] == {"n": {"N": "0"}}
    found = dynamodb.query(
        TableName=orders,
        KeyConditions={
            "id": comparison("EQ", {"S": "a"}),
            "line": comparison("BETWEEN", {"N": "1"}, {"N": "4"}),
        },
        QueryFilter={"n": comparison("EQ", {"N": "1"})},
        AttributesToGet=["line"],
        ScanIndexForward=False,
    )
    assert found["Items"] == [{"line": {"N": "3"}}, {"line": {"N": "1"}}]
    mixed = dynamodb.query(
        TableName=orders,
        KeyConditions={"id": comparison("EQ", {"S": "a"})},
        FilterExpression="#0 = :1",
        ExpressionAttributeNames={"#0": "n"},
        ExpressionAttributeValues={":1": {"N": "0"}},
    )
    assert mixed["Count"] == 3
    either = {"n": comparison("EQ", {"N": "1"}), "line": comparison("EQ", {"N": "0"})}
    assert dynamodb.scan(TableName=orders, ScanFilter=either, ConditionalOperator="OR")["Count"] == 4
    batch = dynamodb.batch_get_item(RequestItems={orders: {"Keys": [a0], "AttributesToGet": ["line"]}})
    assert batch["Responses"] == {orders: [{"line": {"N": "0"}}]}


def test_what_is_selected_goes_with_the_attributes_to_get(dynamodb: Any, stored: str) -> None:
    asked = {"TableName": stored, "AttributesToGet": ["n", "dots.and[0]"]}
    items = [{"n": {"N": "5"}, "dots.and[0]": {"S": "plain"}}]
    assert dynamodb.scan(**asked)["Items"] == items
    assert dynamodb.scan(**asked, Select="SPECIFIC_ATTRIBUTES")["Items"] == items
    for select in ("ALL_ATTRIBUTES", "COUNT"):
        with pytest.raises(ClientError, match=f"Cannot specify the AttributesToGet when choosing to get {select}"):
            dynamodb.scan(**asked, Select=select)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (
            {"Expected": {"n": {"Exists": False}}, "ConditionExpression": "attribute_exists(n)"},
            r"Non-expression parameters: \{Expected\} Expression parameters: \{ConditionExpression\}",
        ),
        ({"Expected": {"n": {"Exists": True}}}, "Value must be provided when Exists is true"),
        ({"Expected": {"n": {"Exists": False, "Value": {"N": "1"}}}}, "Value cannot be used when Exists is false"),
        ({"Expected": {"n": {}}}, "Value must be provided when Exists is null"),
        ({"Expected": {"n": {"AttributeValueList": [{"N": "1"}]}}}, "only be used with a ComparisonOperator"),
        ({"Expected": {"n": {"Exists": False, **comparison("NULL")}}}, "Exists and ComparisonOperator cannot"),
        (
            {"Expected": {"n": {"Value": {"N": "1"}, **comparison("EQ", {"N": "1"})}}},
            "Value and AttributeValueList cannot",
        ),
        ({"Expected": {"n": comparison("EQ")}}, r"Invalid number of argument\(s\) for the EQ"),
        ({"Expected": {"n": comparison("NULL", {"N": "1"})}}, r"Invalid number of argument\(s\) for the NULL"),
        ({"Expected": {"n": comparison("IN")}}, r"Invalid number of argument\(s\) for the IN"),
        ({"Expected": {"n": comparison("IN", {"N": "1"}, {"S": "1"})}}, "must be of same type"),
        ({"Expected": {"n": comparison("GT", {"BOOL": True})}}, "GT is not valid for BOOL AttributeValue type"),
        ({"Expected": {"n": comparison("LIKE", {"N": "1"})}}, "enum value set"),
        ({"Expected": {"n": comparison("EQ", {"N": "one"})}}, "numeric value"),
        ({"Expected": {"n": comparison("CONTAINS", {"L": []})}}, "CONTAINS is not valid for L AttributeValue type"),
        ({"Expected": {"n": comparison("BETWEEN", {"N": "2"}, {"N": "1"})}}, "greater than or equal to lower bound"),
        ({"Expected": {"n": {"Value": {}}}}, "Supplied AttributeValue is empty"),
        (
            {"Expected": {"n": {"Exists": False}}, "ExpressionAttributeNames": {"#n": "n"}},
            "ExpressionAttributeNames can only be specified when using expressions",
        ),
        ({"ConditionalOperator": "AND"}, "cannot be used without Filter or Expected"),
        ({"ConditionalOperator": "AND", "Expected": {}}, "cannot be used without Filter or Expected"),
        ({"ConditionalOperator": "OR", "Expected": {"n": {"Exists": False}}}, "two or more elements"),
        ({"ConditionalOperator": "XOR", "Expected": {"n": {"Exists": False}}}, "enum value set"),
    ],
)
def test_expectations_that_contradict_themselves_are_refused(
    dynamodb: Any, stored: str, more: dict[str, Any], words: str
) -> None:
    with pytest.raises(ClientError, match=words) as refused:
        dynamodb.put_item(TableName=stored, Item=A1, **more)
    assert refused.value.response["Error"]["Code"] == "ValidationException"
    assert dynamodb.get_item(TableName=stored, Key=A1)["Item"] == WHOLE


@pytest.mark.parametrize(
    ("updates", "words"),
    [
        ({"n": {"Action": "PUT"}}, "Only DELETE action is allowed"),
        ({"n": {"Action": "ADD", "Value": {"S": "x"}}}, "ADD action is not supported for the type S"),
        ({"n": {"Action": "DELETE", "Value": {"N": "5"}}}, "not supported for the type N"),
        ({"n": {"Action": "SWAP", "Value": {"N": "5"}}}, "enum value set"),
        ({"t": {"Action": "ADD", "Value": {"N": "5"}}}, "Type mismatch for attribute to update"),
        ({"id": {"Value": {"S": "b"}}}, "part of the key"),
    ],
)
def test_updates_that_cannot_be_are_refused(dynamodb: Any, stored: str, updates: dict[str, Any], words: str) -> None:
    with pytest.raises(ClientError, match=words) as refused:
        dynamodb.update_item(TableName=stored, Key=A1, AttributeUpdates=updates)
    assert refused.value.response["Error"]["Code"] == "ValidationException"
    assert dynamodb.get_item(TableName=stored, Key=A1)["Item"] == WHOLE


def test_key_conditions_that_are_no_ranges_are_refused(dynamodb: Any, stored: str) -> None:
    conditions = {"id": comparison("EQ", {"S": "a"}), "line": comparison("NE", {"N": "1"})}
    with pytest.raises(ClientError, match="not an indexable operation"):
        dynamodb.query(TableName=stored, KeyConditions=conditions)
    with pytest.raises(ClientError, match="Duplicate value"):
        dynamodb.scan(TableName=stored, AttributesToGet=["a", "b", "a"])
