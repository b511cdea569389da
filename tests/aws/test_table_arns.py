"""A table's ARN stands for its name in every operation; whoever sends an ARN is answered with it, as at AWS."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.aws.conftest import REGION, create_orders
from tests.aws.test_errors import UNCHECKED

A, B = ({"id": {"S": "a"}, "line": {"N": number}} for number in ("1", "2"))
BY_ID: dict[str, Any] = {"KeyConditionExpression": "id = :v", "ExpressionAttributeValues": {":v": {"S": "a"}}}


def arn_of(name: str, region: str = REGION, account: str = "000000000000", partition: str = "aws") -> str:
    return f"arn:{partition}:dynamodb:{region}:{account}:table/{name}"


def test_items_are_written_and_read_by_the_arn(dynamodb: Any, orders: str) -> None:
    arn = arn_of(orders)
    put = dynamodb.put_item(TableName=arn, Item=A, ReturnConsumedCapacity="TOTAL", ReturnItemCollectionMetrics="SIZE")
    assert put["ConsumedCapacity"]["TableName"] == arn
    assert dynamodb.get_item(TableName=arn, Key=A)["Item"] == A
    dynamodb.update_item(TableName=arn, Key=A, UpdateExpression="SET #s = id", ExpressionAttributeNames={"#s": "state"})
    assert dynamodb.query(TableName=arn, **BY_ID)["Count"] == dynamodb.scan(TableName=arn)["Count"] == 1
    assert dynamodb.scan(TableName=arn, IndexName="by_state")["Count"] == 1
    dynamodb.delete_item(TableName=arn, Key=A)
    assert dynamodb.scan(TableName=orders)["Count"] == 0


def test_batches_are_answered_by_what_was_sent(dynamodb: Any, orders: str) -> None:
    arn, told = arn_of(orders), {"ReturnConsumedCapacity": "TOTAL"}
    written = dynamodb.batch_write_item(
        RequestItems={arn: [{"PutRequest": {"Item": A}}]}, ReturnItemCollectionMetrics="SIZE", **told
    )
    assert [each["TableName"] for each in written["ConsumedCapacity"]] == [arn]
    assert list(written["ItemCollectionMetrics"]) == [arn]
    read = dynamodb.batch_get_item(RequestItems={arn: {"Keys": [A]}}, **told)
    assert read["Responses"] == {arn: [A]}
    assert [each["TableName"] for each in read["ConsumedCapacity"]] == [arn]
    # Both at once are two names of one table.
    read = dynamodb.batch_get_item(RequestItems={arn: {"Keys": [A]}, orders: {"Keys": [B]}})
    assert read["Responses"] == {arn: [A], orders: []}


def test_transactions_take_arns(dynamodb: Any, orders: str) -> None:
    arn = arn_of(orders)
    put = {"Put": {"TableName": arn, "Item": A}}
    check = {"ConditionCheck": {"TableName": arn, "Key": B, "ConditionExpression": "attribute_not_exists(id)"}}
    told = {"ReturnConsumedCapacity": "TOTAL"}
    written = dynamodb.transact_write_items(TransactItems=[put, check], **told)
    assert [each["TableName"] for each in written["ConsumedCapacity"]] == [arn]
    read = dynamodb.transact_get_items(TransactItems=[{"Get": {"TableName": arn, "Key": A}}], **told)
    assert read["Responses"] == [{"Item": A}]
    assert [each["TableName"] for each in read["ConsumedCapacity"]] == [arn]


def test_the_name_and_the_arn_are_one_item(unchecked: Any, orders: str) -> None:
    arn = arn_of(orders)
    calls: list[Callable[[], Any]] = [
        lambda: unchecked.batch_get_item(RequestItems={name: {"Keys": [A]} for name in (orders, arn)}),
        lambda: unchecked.batch_write_item(
            RequestItems={orders: [{"PutRequest": {"Item": A}}], arn: [{"DeleteRequest": {"Key": A}}]}
        ),
        lambda: unchecked.transact_write_items(
            TransactItems=[{"Put": {"TableName": name, "Item": A}} for name in (orders, arn)]
        ),
        lambda: unchecked.transact_get_items(
            TransactItems=[{"Get": {"TableName": name, "Key": A}} for name in (orders, arn)]
        ),
    ]
    for call in calls:
        with pytest.raises(ClientError, match=r"contains duplicates|multiple operations on one item"):
            call()
    assert unchecked.scan(TableName=orders)["Count"] == 0


def test_tables_are_described_changed_and_deleted_by_the_arn(dynamodb: Any, streams: Any) -> None:
    name = create_orders(dynamodb)
    arn = arn_of(name)
    assert dynamodb.describe_table(TableName=arn)["Table"]["TableName"] == name
    dynamodb.update_table(TableName=arn, DeletionProtectionEnabled=False)
    expiry = {"Enabled": True, "AttributeName": "until"}
    dynamodb.update_time_to_live(TableName=arn, TimeToLiveSpecification=expiry)
    assert dynamodb.describe_time_to_live(TableName=arn)["TimeToLiveDescription"]["AttributeName"] == "until"
    assert dynamodb.describe_continuous_backups(TableName=arn)["ContinuousBackupsDescription"]
    backup = dynamodb.create_backup(TableName=arn, BackupName="by-arn")["BackupDetails"]["BackupArn"]
    assert backup.startswith(f"{arn}/backup/")
    listed = dynamodb.list_backups(TableName=arn)["BackupSummaries"]
    assert {each["TableName"] for each in listed} == {name}
    assert backup in [each["BackupArn"] for each in listed]
    dynamodb.delete_backup(BackupArn=backup)
    assert [each["TableName"] for each in streams.list_streams(TableName=name)["Streams"]] == [name]
    dynamodb.delete_table(TableName=arn)
    assert name not in dynamodb.list_tables(ExclusiveStartTableName=name[:-1])["TableNames"]
    with pytest.raises(dynamodb.exceptions.ResourceNotFoundException, match=f": Table: {name} not found"):
        dynamodb.delete_table(TableName=arn)


def test_a_table_is_created_by_its_arn(dynamodb: Any) -> None:
    made = dynamodb.create_table(
        TableName=arn_of("made-by-arn"),
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )["TableDescription"]
    assert (made["TableName"], made["TableArn"]) == ("made-by-arn", arn_of("made-by-arn"))
    dynamodb.delete_table(TableName="made-by-arn")


def test_a_statement_may_name_its_table_by_the_arn(dynamodb: Any, orders: str) -> None:
    dynamodb.put_item(TableName=orders, Item=A)
    statement = "SELECT * FROM \"NAME\" WHERE id = 'a'".replace("NAME", arn_of(orders))
    assert dynamodb.execute_statement(Statement=statement)["Items"] == [A]


@pytest.mark.parametrize(
    ("arn", "words"),
    [
        (arn_of("NAME", region="eu-west-3"), "another region or account; tables here are arn:aws:dynamodb:eu-north-1:"),
        (arn_of("NAME", account="123456789012"), "another region or account"),
        (arn_of("NAME", partition="aws-cn"), "another region or account"),
        (arn_of("NAME/index/by_state"), "Invalid ResourceArn provided as input"),
        (arn_of("NAME/stream/2026-01-01T00:00:00.000"), "Invalid ResourceArn provided as input"),
        ("arn:aws:sqs:eu-north-1:000000000000:NAME", "Invalid ResourceArn provided as input"),
        ("arn:NAME", "Invalid ResourceArn provided as input"),
    ],
)
def test_the_arn_of_no_table_here_is_refused(unchecked: Any, orders: str, arn: str, words: str) -> None:
    named = arn.replace("NAME", orders)
    calls: list[Callable[[], Any]] = [
        lambda: unchecked.get_item(TableName=named, Key=A),
        lambda: unchecked.describe_table(TableName=named),
        lambda: unchecked.batch_get_item(RequestItems={named: {"Keys": [A]}}),
        lambda: unchecked.list_backups(TableName=named),
    ]
    for call in calls:
        with pytest.raises(ClientError, match=f"ValidationException.*Invalid TableArn: .*{words}"):
            call()


def test_the_arn_of_a_table_that_is_not_there_is_not_found(unchecked: Any) -> None:
    with pytest.raises(
        unchecked.exceptions.ResourceNotFoundException, match=r"operation.*: Requested resource not found$"
    ):
        unchecked.get_item(TableName=arn_of("nothing-there"), Key=A)
    with pytest.raises(ClientError, match=r"Value 'ab' at 'tableName' .* greater than or equal to 3$"):
        unchecked.get_item(TableName=arn_of("ab"), Key=A)


@pytest.fixture(scope="module")
def unchecked(made: Callable[..., Any]) -> Any:
    return made("dynamodb", config=UNCHECKED)
