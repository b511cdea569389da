"""What is wrong with a request is told through AWS's protocol as DynamoDB tells it, and nothing is changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.aws.conftest import ONE_ATTEMPT, create_orders, post
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


def refusal_of(call: Callable[[], Any]) -> tuple[str, str]:
    """The code and the message of the error that a call ends with."""
    with pytest.raises(ClientError) as refused:
        call()
    error = refused.value.response["Error"]
    return error["Code"], error["Message"]


def test_an_element_of_a_transaction_has_one_action(unchecked: Any, orders: str) -> None:
    put = {"Put": {"TableName": orders, "Item": A1}}
    key = {"TableName": orders, "Key": keys(1)[0]}
    check = {"ConditionCheck": {**key, "ConditionExpression": "attribute_exists(id)"}}
    update = {"Update": {**key, "UpdateExpression": "SET x = line"}}
    for element in ({**check, **update}, {**put, "Delete": key}, {**put, **update}, {**put, **check, **update}, {}):
        told = refusal_of(lambda element=element: unchecked.transact_write_items(TransactItems=[element]))  # type: ignore[misc]
        message = "TransactItems can only contain one of Check, Put, Update or Delete"
        assert told == ("ValidationException", message)
    assert unchecked.scan(TableName=orders)["Count"] == 0
    unchecked.transact_write_items(TransactItems=[put])
    assert unchecked.scan(TableName=orders)["Count"] == 1


def test_a_key_that_does_not_fit_cancels_a_reading_transaction(unchecked: Any, orders: str) -> None:
    gets = [{"Get": {"TableName": orders, "Key": key}} for key in (keys(1)[0], {"id": {"S": "a"}})]
    with pytest.raises(unchecked.exceptions.TransactionCanceledException) as refused:
        unchecked.transact_get_items(TransactItems=gets)
    mismatch = {"Code": "ValidationError", "Message": "The provided key element does not match the schema"}
    assert refused.value.response["CancellationReasons"] == [{"Code": "None"}, mismatch]
    assert unchecked.transact_get_items(TransactItems=gets[:1])["Responses"] == [{}]


def test_a_batch_mixes_no_expressions_with_what_came_before_them(unchecked: Any, orders: str) -> None:
    other = create_orders(unchecked)
    old, new = {"Keys": keys(1), "AttributesToGet": ["x"]}, {"Keys": keys(1), "ProjectionExpression": "x"}
    for one, two in ((old, new), (new, old)):
        told = refusal_of(lambda one=one, two=two: unchecked.batch_get_item(RequestItems={orders: one, other: two}))  # type: ignore[misc]
        assert told[0] == "ValidationException"
        assert told[1] == (
            "Can not use both expression and non-expression parameters in the same request: Non-expression parameters: "
            "{AttributesToGet} Expression parameters: {ProjectionExpression}"
        )
    for both in (old, new):
        assert unchecked.batch_get_item(RequestItems={orders: both, other: both})["UnprocessedKeys"] == {}


def test_a_table_that_is_not_there_is_told_in_three_ways(unchecked: Any) -> None:
    item: dict[str, Callable[[], Any]] = {
        "get": lambda: unchecked.get_item(TableName="nosuch", Key=A1),
        "put": lambda: unchecked.put_item(TableName="nosuch", Item=A1),
        "update": lambda: unchecked.update_item(TableName="nosuch", Key=A1),
        "delete": lambda: unchecked.delete_item(TableName="nosuch", Key=A1),
        "scan": lambda: unchecked.scan(TableName="nosuch"),
        "batch get": lambda: unchecked.batch_get_item(RequestItems={"nosuch": {"Keys": [A1]}}),
        "batch write": lambda: unchecked.batch_write_item(RequestItems={"nosuch": puts(1)}),
        "transact": lambda: unchecked.transact_write_items(
            TransactItems=[{"Put": {"TableName": "nosuch", "Item": A1}}]
        ),
        "transact get": lambda: unchecked.transact_get_items(
            TransactItems=[{"Get": {"TableName": "nosuch", "Key": A1}}]
        ),
        "statement": lambda: unchecked.execute_statement(Statement="SELECT * FROM nosuch"),
    }
    for name, call in item.items():
        assert refusal_of(call) == ("ResourceNotFoundException", "Requested resource not found"), name
    expiry = {"AttributeName": "a", "Enabled": True}
    table: dict[str, Callable[[], Any]] = {
        "describe": lambda: unchecked.describe_table(TableName="nosuch"),
        "delete": lambda: unchecked.delete_table(TableName="nosuch"),
        "update": lambda: unchecked.update_table(TableName="nosuch", BillingMode="PAY_PER_REQUEST"),
        "expiry": lambda: unchecked.describe_time_to_live(TableName="nosuch"),
        "new expiry": lambda: unchecked.update_time_to_live(TableName="nosuch", TimeToLiveSpecification=expiry),
    }
    for name, call in table.items():
        message = "Requested resource not found: Table: nosuch not found"
        assert refusal_of(call) == ("ResourceNotFoundException", message), name
    for call in (
        lambda: unchecked.create_backup(TableName="nosuch", BackupName="backup"),
        lambda: unchecked.describe_continuous_backups(TableName="nosuch"),
    ):
        assert refusal_of(call) == ("TableNotFoundException", "Table not found: nosuch")


@pytest.mark.parametrize(
    ("tag", "words"),
    [
        ({"Key": "team"}, "Value null at 'tags.1.member.value' .* Member must not be null"),
        ({"Value": "a"}, "Value null at 'tags.1.member.key' .* Member must not be null"),
        ({"Key": "", "Value": ""}, "Value '' at 'tags.1.member.key' .* greater than or equal to 1"),
        ({"Key": "k" * 129, "Value": ""}, "'tags.1.member.key' .* less than or equal to 128"),
        ({"Key": "k", "Value": "v" * 257}, "'tags.1.member.value' .* less than or equal to 256"),
        ({"Key": "a!", "Value": ""}, "Tag keys may have letters, .* found '!'"),
        ({"Key": "a", "Value": "100%"}, "Tag values may have letters, .* found '%'"),
        ({"Key": "a", "Value": '"'}, "Tag values may have letters, .* found '\"'"),
        ({"Key": "a\nb", "Value": ""}, "Tag keys may have letters"),
        ({"Key": "aws:a", "Value": ""}, "Tag keys must not begin with 'aws:'"),
        ({"Key": "AWS:a", "Value": ""}, "Tag keys must not begin with 'aws:'"),
        ({"Key": "a", "Value": "aws:a"}, "Tag values must not begin with 'aws:'"),
    ],
)
def test_a_tag_that_cannot_be_is_refused(unchecked: Any, orders: str, tag: dict[str, str], words: str) -> None:
    arn = unchecked.describe_table(TableName=orders)["Table"]["TableArn"]
    with pytest.raises(ClientError, match=f"ValidationException.*{words}"):
        unchecked.tag_resource(ResourceArn=arn, Tags=[tag])
    assert unchecked.list_tags_of_resource(ResourceArn=arn)["Tags"] == []


def test_tags_have_letters_of_all_alphabets_numbers_blanks_and_a_few_signs(unchecked: Any, orders: str) -> None:
    arn = unchecked.describe_table(TableName=orders)["Table"]["TableArn"]
    tags = [
        {"Key": "größe ² 1 +-=._:/@", "Value": "ζ٣ +-=._:/@"},
        {"Key": "k" * 128, "Value": "v" * 256},
        {"Key": "a", "Value": ""},
    ]
    unchecked.tag_resource(ResourceArn=arn, Tags=tags)
    listed = unchecked.list_tags_of_resource(ResourceArn=arn)["Tags"]
    assert sorted(listed, key=lambda tag: tag["Key"]) == sorted(tags, key=lambda tag: tag["Key"])


@pytest.mark.parametrize("start", ["", "ab", "a;b", "a" * 256])
def test_a_listing_begins_after_the_name_of_a_table(unchecked: Any, start: str) -> None:
    code, message = refusal_of(lambda: unchecked.list_tables(ExclusiveStartTableName=start))
    assert code == "ValidationException"
    assert " at 'exclusiveStartTableName' failed to satisfy constraint: Member must" in message
    assert unchecked.list_tables(ExclusiveStartTableName="zzz")["TableNames"] == []
    assert unchecked.list_tables(ExclusiveStartTableName="z" * 255)["TableNames"] == []


def test_faults_of_one_request_are_told_together_before_the_table_is_looked_up(unchecked: Any) -> None:
    code, message = refusal_of(lambda: unchecked.scan(TableName="nosuch", Limit=0, Select="ALL"))
    assert code == "ValidationException"
    assert message == (
        "2 validation errors detected: Value '0' at 'limit' failed to satisfy constraint: Member must have value "
        "greater than or equal to 1; Value 'ALL' at 'select' failed to satisfy constraint: Member must satisfy enum "
        "value set: [ALL_ATTRIBUTES, ALL_PROJECTED_ATTRIBUTES, SPECIFIC_ATTRIBUTES, COUNT]"
    )
    for call, words in (
        (lambda: unchecked.put_item(TableName="nosuch", Item=A1, ConditionExpression="a ="), "Syntax error"),
        (lambda: unchecked.update_item(TableName="nosuch", Key=A1, UpdateExpression=""), "can not be empty"),
        (lambda: unchecked.scan(TableName="nosuch", FilterExpression="a = :v"), "not defined"),
        (lambda: unchecked.get_item(TableName="nosuch", Key=A1, ProjectionExpression="a, a"), "overlap"),
        (lambda: unchecked.query(TableName="nosuch"), "must be specified"),
    ):
        code, message = refusal_of(call)
        assert (code, words in message) == ("ValidationException", True), message


@pytest.mark.parametrize("item", [{"id": {"S": "a"}}, {"line": {"N": "1"}}, {**A1, "line": {"S": "1"}}, {}])
def test_an_item_of_a_batch_without_its_key_is_told_as_a_key_that_does_not_fit(
    unchecked: Any, orders: str, item: dict[str, Any]
) -> None:
    told = "The provided key element does not match the schema"
    requests = [*puts(1), {"PutRequest": {"Item": item}}]
    assert refusal_of(lambda: unchecked.batch_write_item(RequestItems={orders: requests})) == (
        "ValidationException",
        told,
    )
    code, message = refusal_of(lambda: unchecked.put_item(TableName=orders, Item=item))
    assert (code, message != told) == ("ValidationException", True)
    assert unchecked.scan(TableName=orders)["Count"] == 0
