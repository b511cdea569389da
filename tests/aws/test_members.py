"""Every member of every operation with values that it should not have: empty ones, and all kinds of faulty ones.

What is there but empty is never taken for absent. And what is wrong is told with AWS's names alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor

from headrace.v1 import (
    attribute_value_pb2,
    backup_service_pb2,
    consumer_service_pb2,
    error_pb2,
    item_service_pb2,
    record_pb2,
    replication_service_pb2,
    stream_service_pb2,
    table_pb2,
    table_service_pb2,
    trigger_service_pb2,
)
from tests.aws.conftest import create_orders, post
from tests.aws.described import Described, Path, World
from tests.aws.test_compatibility_page import SERVICES, STATUS
from tests.broker_process import BrokerProcess

OPERATIONS = [
    Described(service, name) for service in SERVICES for name in Described.names(service) if STATUS[name] == "yes"
]
BY_NAME = pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
EMPTIES: dict[str, Any] = {"string": "", "list": [], "map": {}}
# By the end of a path: why it may be empty.
LEGAL: dict[Path, str] = {
    ("Tags", None, "Value"): "AWS lets the value of a tag be empty",
    ("CreateTable", "Tags"): "no tags, as tools that always send the member mean it",
    ("UpdateTable", "AttributeDefinitions"): "a change that concerns no index needs none",
    ("AttributeUpdates",): "documented: an update that changes nothing makes an item of its key",
    ("Expected",): "a condition of no parts, which always holds, at AWS too",
    ("QueryFilter",): "a filter of no parts, which always holds, at AWS too",
    ("ScanFilter",): "a filter of no parts, which always holds, at AWS too",
}
# By the last member of a path that has a name: how DynamoDB tells that it is empty, if not by the name.
TOLD: dict[str, str] = {
    "Key": "The provided key element does not match the schema",
    "Keys": "The provided key element does not match the schema",
    "Item": "Missing the key id in the item",
    "ExclusiveStartKey": "The provided starting key is invalid",
    "AttributeDefinitions": "Some index key attribute have no definition",
    "AttributesToGet": "An attribute name is empty",
    "ExpressionAttributeNames": "Empty attribute name",
    "KeyConditions": "Conditions can be of length 1 or 2 only",
    "AttributeValueList": "Invalid number of argument",
    "Tags": "Atleast one Tag needs to be provided",
    "TagKeys": "Atleast one Tag Key needs to be provided",
    "ResourceArn": "ResourceArn",
}
MODULES = (
    attribute_value_pb2,
    backup_service_pb2,
    consumer_service_pb2,
    error_pb2,
    item_service_pb2,
    record_pb2,
    replication_service_pb2,
    stream_service_pb2,
    table_pb2,
    table_service_pb2,
    trigger_service_pb2,
)


@pytest.fixture(scope="module")
def world(dynamodb: Any, streams: Any) -> World:
    table = create_orders(dynamodb)
    described = dynamodb.describe_table(TableName=table)["Table"]
    stream = streams.describe_stream(StreamArn=described["LatestStreamArn"])["StreamDescription"]
    position = {"StreamArn": stream["StreamArn"], "ShardId": stream["Shards"][0]["ShardId"]}
    return World(
        table=table,
        table_arn=described["TableArn"],
        stream_arn=stream["StreamArn"],
        shard_id=position["ShardId"],
        shard_iterator=streams.get_shard_iterator(**position, ShardIteratorType="LATEST")["ShardIterator"],
        backup_arn=dynamodb.create_backup(TableName=table, BackupName="described")["BackupDetails"]["BackupArn"],
    )


def is_legal(operation: Described, path: Path) -> bool:
    whole = (operation.name, *path)
    return any(whole[-len(end) :] == end for end in LEGAL)


@BY_NAME
def test_a_member_that_is_there_but_empty_is_refused(
    open_broker: BrokerProcess, world: World, operation: Described
) -> None:
    for path, shape in operation.members():
        if shape.type_name not in EMPTIES:
            continue
        request = world.request_with(operation, path, EMPTIES[shape.type_name])
        status, answer = post(open_broker, operation.target, request)
        if is_legal(operation, path):
            assert status == 200, (path, answer)
            continue
        assert status == 400, (path, answer)
        kind, message = answer["__type"].rpartition("#")[2], answer["message"]
        reasons = "".join(str(reason.get("Message")) for reason in answer.get("CancellationReasons", ()))
        assert kind == ("TransactionCanceledException" if reasons else "ValidationException"), (path, answer)
        name = next(step for step in reversed(path) if step is not None)
        known = [name, name[0].lower() + name[1:], TOLD.get(name, name), "is not supported"]
        if operation.name == "BatchWriteItem":
            known.append(TOLD["Key"])
        assert any(text in message + reasons for text in known), (path, answer)


def test_the_members_that_may_be_empty_are_members() -> None:
    ends = [(operation.name, *path) for operation in OPERATIONS for path, _ in operation.members()]
    for legal in LEGAL:
        assert any(whole[-len(legal) :] == legal for whole in ends), legal


# Nulls, which clients of some languages send for what is not set.


def with_nulls(content: Any, shape: Any) -> Any:
    """The content with each member null that is not in it."""
    if shape is None or shape.name == "AttributeValue":
        return content
    if shape.type_name == "structure":
        return {
            name: with_nulls(content[name], member) if name in content else None
            for name, member in shape.members.items()
        }
    if shape.type_name == "list":
        return [with_nulls(element, shape.member) for element in content]
    if shape.type_name == "map":
        return {key: with_nulls(value, shape.value) for key, value in content.items()}
    return content


@pytest.mark.parametrize(
    "operation", [each for each in OPERATIONS if not each.name.startswith("Delete")], ids=lambda each: each.name
)
def test_a_member_that_is_null_is_absent(open_broker: BrokerProcess, world: World, operation: Described) -> None:
    status, answer = post(open_broker, operation.target, world.request(operation))
    if operation.name == "UpdateTimeToLive":
        # Once only; the second time it is refused either way.
        status, answer = post(open_broker, operation.target, world.request(operation))
    with_null = post(open_broker, operation.target, with_nulls(world.request(operation), operation.input))
    assert (with_null[0], with_null[1].keys(), with_null[1].get("message")) == (
        status,
        answer.keys(),
        answer.get("message"),
    )


KEY = {"id": {"S": "nulls"}, "line": {"N": "1"}}


@pytest.mark.parametrize(
    "action",
    [
        {"Put": {"Item": KEY}},
        {"Update": {"Key": KEY, "UpdateExpression": "SET seen = line"}},
        {"ConditionCheck": {"Key": KEY, "ConditionExpression": "attribute_not_exists(nothing)"}},
        {"Delete": {"Key": KEY}},
    ],
    ids=lambda action: next(iter(action)),
)
def test_an_action_of_a_transaction_may_have_nulls_beside_it(
    open_broker: BrokerProcess, world: World, action: dict[str, Any]
) -> None:
    ((kind, content),) = action.items()
    item = dict.fromkeys(("ConditionCheck", "Put", "Delete", "Update")) | {kind: {"TableName": world.table, **content}}
    request = {"TransactItems": [item], "ReturnConsumedCapacity": "TOTAL"}
    status, answer = post(open_broker, "DynamoDB_20120810.TransactWriteItems", request)
    assert (status, answer["ConsumedCapacity"][0]["TableName"]) == (200, world.table), answer


def test_a_billing_mode_of_null_is_the_mode_of_none_given(open_broker: BrokerProcess) -> None:
    request = TABLE | {"TableName": "null-mode", "BillingMode": None, "ProvisionedThroughput": UNITS}
    status, answer = post(open_broker, "DynamoDB_20120810.CreateTable", request)
    assert status == 200, answer
    assert answer["TableDescription"]["ProvisionedThroughput"]["ReadCapacityUnits"] == UNITS["ReadCapacityUnits"]


# Names of ours in answers.


def field_names() -> set[str]:
    names: set[str] = set()

    def take(message: Descriptor) -> None:
        names.update(field.name for field in message.fields)
        for nested in message.nested_types:
            take(nested)

    for module in MODULES:
        for message in module.DESCRIPTOR.message_types_by_name.values():
            take(message)
    return names


# Names of one word are English too; two of them stand where AWS has something else.
OURS = re.compile(
    r"\b(" + "|".join(sorted(name for name in field_names() if "_" in name)) + r")\b|'(operations|tables)\b"
)


def test_the_search_knows_the_names_of_fields() -> None:
    for name in (
        "table_name",
        "transact_items",
        "index_name",
        "key_schema",
        "provisioned_throughput.read_capacity_units",
    ):
        assert OURS.search(f"Value 0 at {name} failed"), name
    assert OURS.search("Value '[]' at 'operations' failed")
    assert not OURS.search("Value 'a' at 'tableName' failed; attribute_exists(a); too many operations")


def faulty(shape: Any, sample: Any) -> Iterator[Any]:
    """Values that a member of a shape should not have, and some that it may."""
    yield from (None, True, -1, 0, 1.5, 10**12, 2**70, "", "a", "x;y z", "é" * 300, "1" * 2_000, [], {}, [None], [[]])
    match shape.type_name:
        case "string":
            yield from ("SOMETHING", "arn:aws:dynamodb:elsewhere:000000000000:table/t", "a" * 70_000)
        case "list":
            yield from (sample * 2, sample * 30, sample * 101, [*sample, *sample, {}])
        case "map":
            yield from ({f"key{number}": value for number in range(101) for value in sample.values()}, {"": None})
        case "structure":
            yield dict.fromkeys(shape.members, "x")


@BY_NAME
def test_no_fault_of_a_member_is_told_with_a_name_of_ours(
    open_broker: BrokerProcess, world: World, operation: Described
) -> None:
    for path, shape in operation.members():
        sample = world.smallest(shape)
        for value in faulty(shape, sample):
            status, answer = post(open_broker, operation.target, world.request_with(operation, path, value))
            assert status in {200, 400}, (path, value, answer)
            if status == 400:
                found = OURS.search(json.dumps(answer).replace(json.dumps(value), ""))
                assert found is None, (path, str(value)[:100], answer)


A1 = {"id": {"S": "a"}, "line": {"N": "1"}}
HASH = {"AttributeName": "id", "KeyType": "HASH"}
TABLE: dict[str, Any] = {
    "TableName": "never",
    "BillingMode": "PAY_PER_REQUEST",
    "KeySchema": [HASH],
    "AttributeDefinitions": [{"AttributeName": "id", "AttributeType": "S"}],
}
INDEX: dict[str, Any] = {"IndexName": "index", "KeySchema": [HASH], "Projection": {"ProjectionType": "ALL"}}
UNITS = {"ReadCapacityUnits": 5, "WriteCapacityUnits": 5}
BY_ID: dict[str, Any] = {
    "KeyConditionExpression": "id = :v",
    "ExpressionAttributeValues": {":v": {"S": "a"}},
}


def put(table: str, **more: Any) -> dict[str, Any]:
    return {"Put": {"TableName": table, "Item": A1, **more}}


# Operation, request (without its table's name), the error's code. Each is refused where the request is carried out.
DEEPER: list[tuple[str, dict[str, Any], str]] = [
    ("CreateTable", TABLE | {"TableName": "T"}, "ResourceInUseException"),
    ("CreateTable", TABLE | {"KeySchema": [HASH] * 3}, "ValidationException"),
    ("CreateTable", TABLE | {"KeySchema": [HASH] * 2}, "ValidationException"),
    ("CreateTable", TABLE | {"KeySchema": [{**HASH, "KeyType": "RANGE"}]}, "ValidationException"),
    ("CreateTable", TABLE | {"KeySchema": [{**HASH, "AttributeName": "é" * 200}]}, "ValidationException"),
    ("CreateTable", TABLE | {"AttributeDefinitions": TABLE["AttributeDefinitions"] * 2}, "ValidationException"),
    ("CreateTable", TABLE | {"ProvisionedThroughput": UNITS}, "ValidationException"),
    ("CreateTable", TABLE | {"BillingMode": "PROVISIONED"}, "ValidationException"),
    (
        "CreateTable",
        TABLE | {"BillingMode": "PROVISIONED", "ProvisionedThroughput": {**UNITS, "ReadCapacityUnits": 10**13}},
        "ValidationException",
    ),
    ("CreateTable", TABLE | {"StreamSpecification": {"StreamEnabled": True}}, "ValidationException"),
    (
        "CreateTable",
        TABLE | {"StreamSpecification": {"StreamEnabled": False, "StreamViewType": "KEYS_ONLY"}},
        "ValidationException",
    ),
    ("CreateTable", TABLE | {"LocalSecondaryIndexes": [INDEX]}, "ValidationException"),
    ("CreateTable", TABLE | {"GlobalSecondaryIndexes": [INDEX] * 2}, "ValidationException"),
    ("CreateTable", TABLE | {"GlobalSecondaryIndexes": [INDEX | {"Projection": {}}]}, "ValidationException"),
    (
        "CreateTable",
        TABLE | {"GlobalSecondaryIndexes": [INDEX | {"Projection": {"ProjectionType": "INCLUDE"}}]},
        "ValidationException",
    ),
    (
        "CreateTable",
        TABLE | {"GlobalSecondaryIndexes": [INDEX | {"ProvisionedThroughput": UNITS}]},
        "ValidationException",
    ),
    ("CreateTable", TABLE | {"Tags": [{"Key": "a", "Value": ""}] * 2}, "ValidationException"),
    ("CreateTable", TABLE | {"Tags": [{"Key": f"k{n}", "Value": ""} for n in range(51)]}, "ValidationException"),
    ("UpdateTable", {}, "ValidationException"),
    ("UpdateTable", {"BillingMode": "PROVISIONED"}, "ValidationException"),
    ("UpdateTable", {"ProvisionedThroughput": UNITS}, "ValidationException"),
    ("UpdateTable", {"GlobalSecondaryIndexUpdates": [{}]}, "ValidationException"),
    (
        "UpdateTable",
        {"GlobalSecondaryIndexUpdates": [{"Delete": {"IndexName": "nosuch"}}]},
        "ResourceNotFoundException",
    ),
    (
        "UpdateTable",
        {"GlobalSecondaryIndexUpdates": [{"Delete": {"IndexName": "by_state"}}] * 2},
        "ValidationException",
    ),
    (
        "UpdateTable",
        {"StreamSpecification": {"StreamEnabled": True, "StreamViewType": "KEYS_ONLY"}},
        "ValidationException",
    ),
    ("UpdateTimeToLive", {"TimeToLiveSpecification": {"AttributeName": "a", "Enabled": False}}, "ValidationException"),
    ("GetItem", {"Key": {"id": {"S": "a"}}}, "ValidationException"),
    ("PutItem", {"Item": {**A1, "line": {"S": "1"}}}, "ValidationException"),
    ("PutItem", {"Item": {**A1, "state": {"N": "1"}}}, "ValidationException"),
    ("PutItem", {"Item": A1, "ReturnValues": "ALL_NEW"}, "ValidationException"),
    ("PutItem", {"Item": A1, "ConditionExpression": "attribute_exists(nothing)"}, "ConditionalCheckFailedException"),
    ("UpdateItem", {"Key": A1, "UpdateExpression": "SET line = nothing"}, "ValidationException"),
    ("UpdateItem", {"Key": A1, "UpdateExpression": "SET a = nothing"}, "ValidationException"),
    ("Query", {}, "ValidationException"),
    ("Query", BY_ID | {"IndexName": "nosuch"}, "ValidationException"),
    ("Query", BY_ID | {"IndexName": "by_state"}, "ValidationException"),
    ("Query", BY_ID | {"Select": "ALL_PROJECTED_ATTRIBUTES"}, "ValidationException"),
    ("Query", BY_ID | {"Select": "COUNT", "ProjectionExpression": "a"}, "ValidationException"),
    ("Query", BY_ID | {"Select": "SPECIFIC_ATTRIBUTES"}, "ValidationException"),
    ("Query", BY_ID | {"FilterExpression": "id = :v"}, "ValidationException"),
    ("Query", BY_ID | {"ExclusiveStartKey": {"id": {"S": "b"}, "line": {"N": "1"}}}, "ValidationException"),
    ("Scan", {"IndexName": "by_state", "ConsistentRead": True}, "ValidationException"),
    ("Scan", {"Segment": 1}, "ValidationException"),
    ("Scan", {"TotalSegments": 1}, "ValidationException"),
    ("Scan", {"Segment": 2, "TotalSegments": 2}, "ValidationException"),
    ("Scan", {"ExclusiveStartKey": {"id": {"S": "b"}}}, "ValidationException"),
    ("BatchGetItem", {"RequestItems": {"T": {"Keys": [A1, A1]}}}, "ValidationException"),
    ("BatchWriteItem", {"RequestItems": {"T": [{"PutRequest": {"Item": A1}}] * 2}}, "ValidationException"),
    (
        "BatchWriteItem",
        {"RequestItems": {name: [{"PutRequest": {"Item": A1}}] * 13 for name in ("T", "other")}},
        "ValidationException",
    ),
    ("TransactWriteItems", {"TransactItems": [put("T"), put("T")]}, "ValidationException"),
    ("TransactWriteItems", {"TransactItems": [put("T", ReturnValues="ALL_OLD"), {"Put": None}]}, "ValidationException"),
    (
        "TransactWriteItems",
        {"TransactItems": [put("T", ConditionExpression="attribute_exists(nothing)")]},
        "TransactionCanceledException",
    ),
    ("TransactGetItems", {"TransactItems": [{"Get": {"TableName": "T", "Key": A1}}] * 2}, "ValidationException"),
    ("ListTagsOfResource", {"ResourceArn": "arn:of:nothing"}, "ValidationException"),
    ("CreateBackup", {"BackupName": "a;b"}, "ValidationException"),
    (
        "DescribeBackup",
        {"BackupArn": "arn:aws:dynamodb:here:000000000000:table/abc/backup/nothing"},
        "BackupNotFoundException",
    ),
    ("DescribeBackup", {"BackupArn": "arn:" + "x" * 40}, "ValidationException"),
    ("GetRecords", {"ShardIterator": "nothing"}, "ValidationException"),
    ("GetRecords", {"ShardIterator": "nothing", "Limit": 1001}, "ValidationException"),
    ("ListStreams", {"ExclusiveStartStreamArn": "arn:" + "x" * 40}, "ValidationException"),
    ("DescribeStream", {"StreamArn": "arn:" + "x" * 40}, "ValidationException"),
    (
        "DescribeStream",
        {"StreamArn": "S", "ShardFilter": {"Type": "CHILD_SHARDS", "ShardId": "s" * 30}},
        "ValidationException",
    ),
    ("GetShardIterator", {"StreamArn": "S", "ShardIteratorType": "AT_SEQUENCE_NUMBER"}, "ValidationException"),
    ("GetShardIterator", {"StreamArn": "S", "SequenceNumber": "1" * 21}, "ValidationException"),
    (
        "GetShardIterator",
        {"StreamArn": "S", "ShardIteratorType": "AT_SEQUENCE_NUMBER", "SequenceNumber": "9" * 21},
        "ValidationException",
    ),
    (
        "GetShardIterator",
        {"StreamArn": "S", "ShardIteratorType": "AT_SEQUENCE_NUMBER", "SequenceNumber": "x" * 21},
        "ValidationException",
    ),
    ("ExecuteStatement", {"Statement": "SELECT"}, "ValidationException"),
    ("ExecuteStatement", {"Statement": 'SELECT * FROM "ab"'}, "ValidationException"),
    ("ExecuteStatement", {"Statement": 'SELECT * FROM "T"."nosuch"'}, "ValidationException"),
    ("ExecuteStatement", {"Statement": "SELECT * FROM \"T\" WHERE id = ''"}, "ValidationException"),
    ("ExecuteStatement", {"Statement": "UPDATE \"T\" SET line = 2 WHERE id = 'a' AND line = 1"}, "ValidationException"),
]


@pytest.mark.parametrize(("name", "request_", "code"), DEEPER)
def test_no_error_of_a_request_that_is_carried_out_is_told_with_a_name_of_ours(
    open_broker: BrokerProcess, world: World, name: str, request_: dict[str, Any], code: str
) -> None:
    text = json.dumps(request_).replace('"T"', f'"{world.table}"').replace('\\"T\\"', f'\\"{world.table}\\"')
    request = json.loads(text.replace('"StreamArn": "S"', f'"StreamArn": "{world.stream_arn}"'))
    (operation,) = (each for each in OPERATIONS if each.name == name)
    if "TableName" in operation.input.members:
        request.setdefault("TableName", world.table)
    if name == "GetShardIterator":
        request = {"ShardId": world.shard_id, "ShardIteratorType": "LATEST", **request}
    status, answer = post(open_broker, operation.target, request)
    assert (status, answer.get("__type", "").rpartition("#")[2]) == (400, code), answer
    assert OURS.search(json.dumps(answer)) is None, answer
