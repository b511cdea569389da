"""What AWS's description demands of a request: both sides of each kind of constraint, and how faults are told."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from broker.gateway.aws.constraints import request_checks
from broker.gateway.aws.errors import AwsError, translate
from broker.model.constraints import shown_value, value_at_least
from broker.model.errors import ConstraintError, SerializationError, ValidationError

ROOT = Path(__file__).parent.parent.parent.parent
TARGETS = [
    f"DynamoDB_20120810.{operation}"
    for operation in (
        "GetItem",
        "Query",
        "Scan",
        "CreateTable",
        "BatchGetItem",
        "BatchWriteItem",
        "TransactWriteItems",
        "TagResource",
        "ListTables",
        "UpdateTable",
        "ListTagsOfResource",
    )
]
CHECKS = request_checks(TARGETS)
TABLE: dict[str, Any] = {
    "TableName": "orders",
    "AttributeDefinitions": [{"AttributeName": "id", "AttributeType": "S"}],
    "KeySchema": [{"AttributeName": "id", "KeyType": "HASH"}],
}
ARN = "arn:aws:dynamodb:local:000000000000:table/orders"


def check(operation: str, request: Any) -> None:
    CHECKS[f"DynamoDB_20120810.{operation}"](request)


def fault(operation: str, request: Any) -> str:
    with pytest.raises((AwsError, ValidationError)) as refused:
        check(operation, request)
    return str(refused.value)


def test_the_model_is_what_botocore_describes() -> None:
    script = ROOT / "protos" / "aws_model.py"
    spec = importlib.util.spec_from_file_location("aws_model", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.MODEL.read_text() == module.described(), f"run {script}"


@pytest.mark.parametrize(
    ("operation", "request_"),
    [
        ("GetItem", {"TableName": "abc", "Key": {}}),
        ("GetItem", {"TableName": "a" * 255, "Key": {}, "ReturnConsumedCapacity": "INDEXES", "ConsistentRead": True}),
        ("GetItem", {"TableName": ARN, "Key": {}}),
        ("GetItem", {"TableName": "arn:" + "x" * 1020, "Key": {}}),
        ("GetItem", {"TableName": "abc", "Key": {}, "NoSuchMember": 1, "ConsistentRead": None}),
        ("GetItem", {"TableName": "abc", "Key": {}, "AttributesToGet": ["a"] * 255}),
        ("Scan", {"TableName": "abc", "Limit": 1, "TotalSegments": 1_000_000, "Segment": 999_999}),
        ("Scan", {"TableName": "abc", "ScanFilter": {}, "ExclusiveStartKey": {}, "FilterExpression": ""}),
        ("Scan", {"TableName": "abc", "ExpressionAttributeNames": {"#a": "a"}}),
        ("ListTables", {"Limit": 100, "ExclusiveStartTableName": "a_.-Z9"}),
        ("TagResource", {"ResourceArn": ARN, "Tags": [{"Key": "k", "Value": ""}, {"Key": "k" * 128, "Value": ""}]}),
        ("BatchWriteItem", {"RequestItems": {"abc": [{"PutRequest": {"Item": {}}}] * 25}}),
        ("CreateTable", TABLE),
    ],
)
def test_what_satisfies_the_constraints_passes(operation: str, request_: Any) -> None:
    check(operation, request_)


@pytest.mark.parametrize(
    ("operation", "request_", "path", "value", "constraint"),
    [
        ("GetItem", {"Key": {}}, "tableName", "null", "Member must not be null"),
        ("GetItem", {"TableName": None, "Key": {}}, "tableName", "null", "Member must not be null"),
        ("GetItem", {"TableName": "ab", "Key": {}}, "tableName", "'ab'", "length greater than or equal to 3"),
        ("GetItem", {"TableName": "a" * 256, "Key": {}}, "tableName", f"'{'a' * 200}...'", "less than or equal to 255"),
        ("GetItem", {"TableName": "a;b", "Key": {}}, "tableName", "'a;b'", "expression pattern: [a-zA-Z0-9_.-]+"),
        (
            "GetItem",
            {"TableName": "arn:" + "x" * 1021, "Key": {}},
            "tableName",
            f"'arn:{'x' * 196}...'",
            "less than or equal to 1024",
        ),
        (
            "GetItem",
            {"TableName": "abc", "Key": {}, "ReturnConsumedCapacity": "ALL"},
            "returnConsumedCapacity",
            "'ALL'",
            "Member must satisfy enum value set: [INDEXES, TOTAL, NONE]",
        ),
        (
            "GetItem",
            {"TableName": "abc", "Key": {}, "AttributesToGet": ["a"] * 256},
            "attributesToGet",
            "'[256 elements]'",
            "less than or equal to 255",
        ),
        ("Scan", {"TableName": "abc", "Limit": 0}, "limit", "'0'", "value greater than or equal to 1"),
        ("Scan", {"TableName": "abc", "Segment": -1}, "segment", "'-1'", "value greater than or equal to 0"),
        ("Scan", {"TableName": "abc", "TotalSegments": 1_000_001}, "totalSegments", "'1000001'", "equal to 1000000"),
        ("Scan", {"TableName": "abc", "IndexName": "ab"}, "indexName", "'ab'", "length greater than or equal to 3"),
        ("ListTables", {"Limit": 101}, "limit", "'101'", "value less than or equal to 100"),
        ("ListTables", {"ExclusiveStartTableName": "ab"}, "exclusiveStartTableName", "'ab'", "or equal to 3"),
        ("TagResource", {"ResourceArn": ARN, "Tags": [{"Key": "k"}]}, "tags.1.member.value", "null", "not be null"),
        (
            "CreateTable",
            {**TABLE, "KeySchema": [*TABLE["KeySchema"], {"AttributeName": "a", "KeyType": "SORT"}]},
            "keySchema.2.member.keyType",
            "'SORT'",
            "[HASH, RANGE]",
        ),
        (
            "CreateTable",
            {**TABLE, "KeySchema": TABLE["KeySchema"] * 9},
            "keySchema",
            "'[9 elements]'",
            "length less than or equal to 8",
        ),
        ("BatchGetItem", {"RequestItems": {}}, "requestItems", "'{}'", "length greater than or equal to 1"),
        (
            "BatchGetItem",
            {"RequestItems": {"Orders": {"Keys": []}}},
            "requestItems.Orders.member.keys",
            "'[]'",
            "length greater than or equal to 1",
        ),
        (
            "BatchWriteItem",
            {"RequestItems": {"Orders": [{"PutRequest": {}}]}},
            "requestItems.Orders.member.1.member.putRequest.item",
            "null",
            "not be null",
        ),
        (
            "BatchWriteItem",
            {"RequestItems": {"Orders": [{"PutRequest": {"Item": {}}}] * 26}},
            "requestItems.Orders.member",
            "'[26 elements]'",
            "less than or equal to 25",
        ),
        ("ListTagsOfResource", {"ResourceArn": ARN, "NextToken": ""}, "nextToken", "''", "greater than or equal to 1"),
    ],
)
def test_what_breaks_one_is_told_in_awss_form(
    operation: str, request_: Any, path: str, value: str, constraint: str
) -> None:
    message = fault(operation, request_)
    assert message.startswith(
        f"1 validation error detected: Value {value} at '{path}' failed to satisfy constraint: Member must"
    )
    assert message.endswith(constraint)


def test_all_faults_of_a_request_are_told_together_in_the_order_of_the_description() -> None:
    request = {"Limit": 0, "Select": "ALL", "IndexName": ";", "TableName": "abc"}
    told = fault("Scan", request)
    assert told.startswith("4 validation errors detected: Value ';' at 'indexName'")
    faults = told.partition(": ")[2].split("; Value")
    assert [each.split("'")[3] for each in faults] == ["indexName", "indexName", "limit", "select"]


def test_at_most_ten_faults_are_told_however_many_there_are() -> None:
    schema = [{"AttributeName": "", "KeyType": "SORT"}] * 8
    told = fault("CreateTable", {**TABLE, "KeySchema": schema, "AttributeDefinitions": schema})
    assert told.startswith("10 validation errors detected: ")
    assert told.count("failed to satisfy constraint") == 10
    assert len(told) < 2000


@pytest.mark.parametrize(
    ("member", "empty", "message"),
    [
        ("ExpressionAttributeNames", {}, "ExpressionAttributeNames must not be empty"),
        ("ExpressionAttributeValues", {}, "ExpressionAttributeValues must not be empty"),
    ],
)
def test_some_members_that_are_empty_have_a_text_of_their_own(member: str, empty: Any, message: str) -> None:
    assert fault("Scan", {"TableName": "abc", member: empty}) == message
    # DynamoDB looks at these after the constraints of its description.
    assert fault("Scan", {"TableName": "ab", member: empty}).startswith("1 validation error detected: Value 'ab'")


@pytest.mark.parametrize("kind", ["LocalSecondaryIndexes", "GlobalSecondaryIndexes"])
def test_an_empty_list_of_indexes_is_not_none(kind: str) -> None:
    told = fault("CreateTable", {**TABLE, kind: []})
    assert told == f"One or more parameter values were invalid: List of {kind} is empty"


@pytest.mark.parametrize(
    ("operation", "request_", "where"),
    [
        ("GetItem", [], ""),
        ("GetItem", {"TableName": 7, "Key": {}}, "tableName"),
        ("GetItem", {"TableName": "ab", "Key": {}, "ConsistentRead": "yes"}, "consistentRead"),
        ("Scan", {"TableName": "abc", "Limit": "7"}, "limit"),
        ("Scan", {"TableName": "abc", "Limit": True}, "limit"),
        ("CreateTable", {**TABLE, "KeySchema": [None]}, "keySchema.1.member"),
        ("CreateTable", {**TABLE, "KeySchema": {}}, "keySchema"),
        ("BatchGetItem", {"RequestItems": []}, "requestItems"),
    ],
)
def test_another_type_is_no_validation_error_and_comes_first(operation: str, request_: Any, where: str) -> None:
    with pytest.raises(SerializationError) as refused:
        check(operation, request_)
    assert str(refused.value).endswith(f" at {where}" if where else "where a structure is expected")


def test_a_null_member_is_taken_out_as_if_it_were_absent() -> None:
    request: dict[str, Any] = {
        "TransactItems": [{"Put": {"TableName": "abc", "Item": {"id": None}, "NoSuchMember": None}, "Delete": None}],
        "ClientRequestToken": None,
    }
    check("TransactWriteItems", request)
    assert request == {"TransactItems": [{"Put": {"TableName": "abc", "Item": {"id": None}}}]}


def test_items_are_not_walked() -> None:
    check("GetItem", {"TableName": "abc", "Key": {"id": {"S": 7, "N": []}, "": None}})


def test_an_error_of_the_engine_has_its_path_in_each_protocols_spelling() -> None:
    error = ConstraintError(0, "provisioned_throughput.read_capacity_units", value_at_least(1), limit=1)
    told = "failed to satisfy constraint: Member must have value greater than or equal to 1"
    assert error.message == f"Value '0' at 'provisioned_throughput.read_capacity_units' {told}"
    assert error.metadata == {"field": "provisioned_throughput.read_capacity_units", "limit": "1"}
    translated = translate(error)
    assert translated.name == "ValidationException"
    path = "provisionedThroughput.readCapacityUnits"
    assert translated.message == f"1 validation error detected: Value '0' at '{path}' {told}"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "null"),
        (True, "'true'"),
        (-1, "'-1'"),
        ("", "''"),
        ("a" * 200, f"'{'a' * 200}'"),
        ("a" * 201, f"'{'a' * 200}...'"),
        ([], "'[]'"),
        ({}, "'{}'"),
        ([1, 2], "'[2 elements]'"),
    ],
)
def test_a_faulty_value_is_shown_as_aws_does_and_never_at_length(value: Any, shown: str) -> None:
    assert shown_value(value) == shown
