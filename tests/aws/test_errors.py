"""What is wrong with a request is told through AWS's protocol as DynamoDB tells it, and nothing is changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.aws.conftest import ONE_ATTEMPT, post
from tests.broker_process import BrokerProcess

A1 = {"id": {"S": "a"}, "line": {"N": "1"}}
UNCHECKED = ONE_ATTEMPT.merge(Config(parameter_validation=False))


@pytest.fixture(scope="module")
def unchecked(made: Callable[..., Any]) -> Any:
    """A client that leaves all checks to the broker."""
    return made("dynamodb", config=UNCHECKED)


def keys(count: int) -> list[dict[str, Any]]:
    return [{"id": {"S": f"k{number}"}, "line": {"N": "1"}} for number in range(count)]


def puts(count: int, size: int = 1) -> list[dict[str, Any]]:
    return [{"PutRequest": {"Item": {**key, "text": {"S": "x" * size}}}} for key in keys(count)]


# Operation, arguments without the table's name, the error's code, words of its message.
FAULTS: list[tuple[str, dict[str, Any], str, str]] = [
    ("put_item", {"Item": {"id": {"S": "a"}}}, "ValidationException", "Missing the key line"),
    ("put_item", {"Item": {**A1, "line": {"S": "1"}}}, "ValidationException", "line"),
    ("put_item", {"Item": {**A1, "id": {"S": ""}}}, "ValidationException", "empty string value"),
    ("put_item", {"Item": {**A1, "id": {"S": "x" * 2049}}}, "ValidationException", "2048"),
    ("put_item", {"Item": {**A1, "text": {"S": "x" * 409_600}}}, "ValidationException", "maximum allowed size"),
    ("put_item", {"Item": {**A1, "n": {"N": "one"}}}, "ValidationException", "numeric value"),
    ("put_item", {"Item": {**A1, "n": {"N": "1" * 39}}}, "ValidationException", "38"),
    ("put_item", {"Item": {**A1, "n": {"N": "1E126"}}}, "ValidationException", "[Oo]verflow|large|range"),
    ("put_item", {"Item": {**A1, "s": {"SS": []}}}, "ValidationException", "may not be empty"),
    ("put_item", {"Item": {**A1, "s": {"SS": ["a", "a"]}}}, "ValidationException", "duplicates"),
    ("put_item", {"Item": {**A1, "n": {"NULL": False}}}, "ValidationException", "must have the value of true"),
    ("put_item", {"Item": {**A1, "n": {}}}, "ValidationException", "must contain exactly one"),
    ("put_item", {"Item": {**A1, "n": {"S": "a", "N": "1"}}}, "ValidationException", "more than one"),
    ("put_item", {"Item": {**A1, "n": {"S": 1}}}, "SerializationException", "string"),
    ("put_item", {"Item": A1, "ReturnValues": "ALL_NEW"}, "ValidationException", "ReturnValues"),
    ("put_item", {"Item": A1, "ReturnValues": "ALL"}, "ValidationException", "enum value set"),
    ("put_item", {"Item": A1, "ReturnValues": 7}, "SerializationException", "string"),
    ("put_item", {"Item": A1, "ConditionExpression": "id ="}, "ValidationException", "Syntax error"),
    ("put_item", {"Item": A1, "ConditionExpression": "size(id) > :n"}, "ValidationException", ":n"),
    ("put_item", {"Item": A1, "ConditionExpression": "name = id"}, "ValidationException", "reserved keyword"),
    ("get_item", {"Key": {"id": {"S": "a"}}}, "ValidationException", "schema"),
    ("get_item", {"Key": {**A1, "more": {"S": "a"}}}, "ValidationException", "schema"),
    ("get_item", {"Key": A1, "ConsistentRead": "yes"}, "SerializationException", "boolean"),
    ("get_item", {"Key": A1, "ProjectionExpression": "a, a"}, "ValidationException", "overlap"),
    (
        "update_item",
        {"Key": A1, "UpdateExpression": "SET id = :v", "ExpressionAttributeValues": {":v": {"S": "b"}}},
        "ValidationException",
        "part of the key",
    ),
    ("update_item", {"Key": A1, "UpdateExpression": "SET a = :v"}, "ValidationException", ":v"),
    ("query", {}, "ValidationException", "[Kk]ey_?[Cc]ondition"),
    (
        "query",
        {"KeyConditionExpression": "line = :v", "ExpressionAttributeValues": {":v": {"N": "1"}}},
        "ValidationException",
        "id",
    ),
    ("scan", {"Limit": 0}, "ValidationException", "1"),
    ("scan", {"Limit": "7"}, "SerializationException", "integer"),
    ("scan", {"Limit": 2**40}, "SerializationException", "Limit"),
    ("scan", {"TotalSegments": 2}, "ValidationException", "[Ss]egment"),
    ("scan", {"IndexName": "nothing"}, "ValidationException", "index"),
]


@pytest.mark.parametrize(("operation", "arguments", "code", "words"), FAULTS)
def test_what_is_wrong_with_a_request_is_told_with_dynamodbs_error(
    unchecked: Any, orders: str, operation: str, arguments: dict[str, Any], code: str, words: str
) -> None:
    unchecked.put_item(TableName=orders, Item={**A1, "before": {"BOOL": True}})
    with pytest.raises(ClientError, match=words) as refused:
        getattr(unchecked, operation)(TableName=orders, **arguments)
    assert refused.value.response["Error"]["Code"] == code
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400
    assert unchecked.scan(TableName=orders)["Items"] == [{**A1, "before": {"BOOL": True}}]


@pytest.mark.parametrize("operation", ["put_item", "get_item", "query", "scan", "describe_table", "delete_table"])
def test_a_table_that_is_not_there_or_not_named(unchecked: Any, operation: str) -> None:
    query = {"KeyConditionExpression": "id = :v", "ExpressionAttributeValues": {":v": {"S": "a"}}}
    wanted: dict[str, dict[str, Any]] = {"put_item": {"Item": A1}, "get_item": {"Key": A1}, "query": query}
    with pytest.raises(unchecked.exceptions.ResourceNotFoundException):
        getattr(unchecked, operation)(TableName="nothing", **wanted.get(operation, {}))


@pytest.mark.parametrize(
    ("operation", "content"),
    [
        ("PutItem", {"TableName": ["t"], "Item": A1}),
        ("PutItem", {"TableName": "pets", "Item": [A1]}),
        ("PutItem", {"TableName": "pets", "Item": {"id": "a"}}),
        ("PutItem", {"TableName": "pets", "Item": A1, "ExpressionAttributeNames": ["#a"]}),
        ("PutItem", {"TableName": "pets", "Item": A1, "ExpressionAttributeNames": {"#a": None}}),
        ("PutItem", {"TableName": "pets", "Item": A1, "ExpressionAttributeValues": {":a": 1}}),
        ("CreateTable", {"TableName": "pets", "KeySchema": {}}),
        ("CreateTable", {"TableName": "pets", "KeySchema": [None]}),
        ("CreateTable", {"TableName": "pets", "KeySchema": ["id"]}),
        ("CreateTable", {"TableName": "pets", "ProvisionedThroughput": {"ReadCapacityUnits": 1.5}}),
        ("BatchGetItem", {"RequestItems": []}),
        ("BatchGetItem", {"RequestItems": {"t": []}}),
        ("BatchGetItem", {"RequestItems": {"t": {"Keys": {}}}}),
        ("BatchWriteItem", {"RequestItems": {"t": {}}}),
        ("BatchWriteItem", {"RequestItems": {"t": [1]}}),
        ("BatchWriteItem", {"RequestItems": {"t": [{"PutRequest": []}]}}),
        ("TransactGetItems", {"TransactItems": {}}),
        ("TransactGetItems", {"TransactItems": [{"Get": []}]}),
        ("TransactWriteItems", {"TransactItems": [{"Put": []}]}),
        ("Scan", {"TableName": "pets", "Limit": "7"}),
        ("Scan", {"TableName": "pets", "Limit": True}),
        ("Scan", {"TableName": "pets", "ExclusiveStartKey": "a"}),
        ("UpdateTimeToLive", {"TableName": "pets", "TimeToLiveSpecification": True}),
    ],
)
def test_another_type_than_the_operations_is_refused(
    open_broker: BrokerProcess, operation: str, content: dict[str, Any]
) -> None:
    status, answer = post(open_broker, f"DynamoDB_20120810.{operation}", content)
    assert (status, answer["__type"]) == (400, "com.amazon.coral.service#SerializationException"), answer


def test_limits_of_batches_and_transactions(unchecked: Any, orders: str) -> None:
    def refusal(operation: str, **arguments: Any) -> tuple[str, str]:
        with pytest.raises(ClientError) as refused:
            getattr(unchecked, operation)(**arguments)
        error = refused.value.response["Error"]
        return error["Code"], error["Message"]

    code, message = refusal("batch_write_item", RequestItems={orders: puts(26)})
    assert (code, "25" in message) == ("ValidationException", True)
    code, message = refusal("batch_get_item", RequestItems={orders: {"Keys": keys(101)}})
    assert (code, "100" in message) == ("ValidationException", True)
    code, message = refusal("batch_write_item", RequestItems={orders: [*puts(1), *puts(1)]})
    assert (code, "duplicates" in message) == ("ValidationException", True)
    actions = [{"Put": {"TableName": orders, "Item": key}} for key in keys(101)]
    code, message = refusal("transact_write_items", TransactItems=actions)
    assert (code, "100" in message) == ("ValidationException", True)
    large = [{"Put": {"TableName": orders, **put["PutRequest"]}} for put in puts(12, 380_000)]
    code, message = refusal("transact_write_items", TransactItems=large)
    assert (code, "4194304" in message) == ("ValidationException", True)
    both: dict[str, Any] = {"PutRequest": {"Item": A1}, "DeleteRequest": {"Key": A1}}
    none: dict[str, Any] = {}
    for wrong in ([none], [both], [none, both]):
        assert refusal("batch_write_item", RequestItems={orders: wrong})[0] == "ValidationException"
    assert unchecked.scan(TableName=orders)["Count"] == 0
    # On the other side of each limit.
    unchecked.batch_write_item(RequestItems={orders: puts(25)})
    unchecked.transact_write_items(TransactItems=actions[:100])
    assert len(unchecked.batch_get_item(RequestItems={orders: {"Keys": keys(100)}})["Responses"][orders]) == 100
    assert unchecked.scan(TableName=orders)["Count"] == 100


def test_tables_that_cannot_be(unchecked: Any, orders: str) -> None:
    table: dict[str, Any] = {
        "KeySchema": [{"AttributeName": "id", "KeyType": "HASH"}],
        "AttributeDefinitions": [{"AttributeName": "id", "AttributeType": "S"}],
        "BillingMode": "PAY_PER_REQUEST",
    }
    with pytest.raises(unchecked.exceptions.ResourceInUseException):
        unchecked.create_table(TableName=orders, **table)
    wrong: dict[str, Any]
    for name in ("ab", "x" * 256, "with space", ""):
        with pytest.raises(ClientError, match="ValidationException"):
            unchecked.create_table(TableName=name, **table)
    for wrong in (
        {"KeySchema": []},
        {"KeySchema": [{"AttributeName": "other", "KeyType": "HASH"}]},
        {"AttributeDefinitions": [{"AttributeName": "id", "AttributeType": "SS"}]},
        {"BillingMode": "FREE"},
        {"ProvisionedThroughput": {"ReadCapacityUnits": 1, "WriteCapacityUnits": 1}},
        {"StreamSpecification": {"StreamEnabled": True}},
    ):
        with pytest.raises(ClientError, match="ValidationException"):
            unchecked.create_table(TableName="wrong", **{**table, **wrong})
    assert "wrong" not in unchecked.list_tables()["TableNames"]


def test_stream_and_iterator_errors(dynamodb: Any, made: Callable[..., Any], orders: str) -> None:
    streams = made("dynamodbstreams", config=UNCHECKED)
    arn = dynamodb.describe_table(TableName=orders)["Table"]["LatestStreamArn"]
    shard = streams.describe_stream(StreamArn=arn)["StreamDescription"]["Shards"][0]["ShardId"]
    with pytest.raises(streams.exceptions.ResourceNotFoundException):
        streams.describe_stream(StreamArn=arn.replace(orders, "nothing"))
    with pytest.raises(streams.exceptions.ResourceNotFoundException):
        streams.get_shard_iterator(StreamArn=arn, ShardId=shard[:-1] + "f", ShardIteratorType="LATEST")
    position: dict[str, Any] = {"StreamArn": arn, "ShardId": shard}
    wrong: dict[str, Any]
    for wrong in (
        {"ShardIteratorType": "SOMEWHERE"},
        {},
        {"ShardIteratorType": "AT_SEQUENCE_NUMBER"},
        {"ShardIteratorType": "LATEST", "SequenceNumber": "1" * 21},
        {"ShardIteratorType": "LATEST", "ShardId": None},
    ):
        with pytest.raises(ClientError, match="ValidationException"):
            streams.get_shard_iterator(**{**position, **wrong})
    iterator = streams.get_shard_iterator(**position, ShardIteratorType="LATEST")["ShardIterator"]
    for limit in (0, 1001):
        with pytest.raises(ClientError, match="ValidationException"):
            streams.get_records(ShardIterator=iterator, Limit=limit)
    for unknown in ("", "nothing", iterator[:-4] + "AAAA"):
        with pytest.raises(ClientError, match="ValidationException"):
            streams.get_records(ShardIterator=unknown)
    assert streams.get_records(ShardIterator=iterator)["Records"] == []


def test_what_is_beyond_the_throughput_is_refused(dynamodb: Any) -> None:
    dynamodb.create_table(
        TableName="narrow",
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        ProvisionedThroughput={"ReadCapacityUnits": 1, "WriteCapacityUnits": 1},
    )
    large = {"id": {"S": "a"}, "text": {"S": "x" * 390_000}}
    # A table begins with a burst of 300 units.
    dynamodb.put_item(TableName="narrow", Item=large)
    with pytest.raises(dynamodb.exceptions.ProvisionedThroughputExceededException):
        dynamodb.put_item(TableName="narrow", Item=large)
    dynamodb.delete_table(TableName="narrow")


def test_what_is_not_supported_is_refused_by_name(dynamodb: Any, orders: str) -> None:
    with pytest.raises(ClientError, match=r"ValidationException.*ReplicaUpdates is not supported"):
        dynamodb.update_table(TableName=orders, ReplicaUpdates=[{"Create": {"RegionName": "us-south-1"}}])
