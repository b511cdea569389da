"""boto3 as it is, against a real broker: what works with DynamoDB works here, with the same shapes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import boto3
import botocore.exceptions
import pytest
from boto3.dynamodb.conditions import Attr, Key

from tests.aws.conftest import ONE_ATTEMPT, REGION, connection, create_orders
from tests.broker_process import BrokerProcess
from tests.rpc import Client
from tests.values import item

WHOLE = {
    "id": {"S": "a"},
    "line": {"N": "1"},
    "state": {"S": "open"},
    "price": {"N": "12345678901234567890123456789012345678"},
    "photo": {"B": b"\x00\xff"},
    "paid": {"BOOL": False},
    "note": {"NULL": True},
    "tags": {"SS": ["a", "b"]},
    "sizes": {"NS": ["-1", "2.5"]},
    "parts": {"BS": [b"x", b"y"]},
    "lines": {"L": [{"S": ""}, {"M": {"deep": {"L": []}}}]},
}
A1 = {"id": {"S": "a"}, "line": {"N": "1"}}
B1 = {"id": {"S": "b"}, "line": {"N": "1"}}


def pages(paginate: Callable[..., Any], **arguments: Any) -> list[dict[str, Any]]:
    return list(paginate(**arguments))


# 1. Tables.


def test_a_table_is_described_as_dynamodb_does(dynamodb: Any, orders: str) -> None:
    table = dynamodb.describe_table(TableName=orders)["Table"]
    assert table["TableStatus"] == "ACTIVE"
    assert table["TableArn"] == f"arn:aws:dynamodb:{REGION}:000000000000:table/{orders}"
    assert table["BillingModeSummary"] == {
        "BillingMode": "PAY_PER_REQUEST",
        "LastUpdateToPayPerRequestDateTime": table["CreationDateTime"],
    }
    assert (table["ItemCount"], table["TableSizeBytes"]) == (0, 0)
    none = {"ReadCapacityUnits": 0, "WriteCapacityUnits": 0, "NumberOfDecreasesToday": 0}
    assert table["ProvisionedThroughput"] == none
    assert table["DeletionProtectionEnabled"] is False
    (everywhere,) = table["GlobalSecondaryIndexes"]
    assert (everywhere["IndexStatus"], everywhere["ProvisionedThroughput"]) == ("ACTIVE", none)
    assert everywhere["Projection"] == {"ProjectionType": "ALL"}
    (local,) = table["LocalSecondaryIndexes"]
    assert local["ItemCount"] == 0
    assert "IndexStatus" not in local
    assert table["StreamSpecification"] == {"StreamEnabled": True, "StreamViewType": "NEW_AND_OLD_IMAGES"}
    assert table["LatestStreamArn"].endswith(table["LatestStreamLabel"])


def test_without_a_billing_mode_throughput_must_be_given_as_in_dynamodb(dynamodb: Any) -> None:
    key: dict[str, Any] = {
        "KeySchema": [{"AttributeName": "id", "KeyType": "HASH"}],
        "AttributeDefinitions": [{"AttributeName": "id", "AttributeType": "S"}],
    }
    with pytest.raises(dynamodb.exceptions.ClientError, match="ReadCapacityUnits and WriteCapacityUnits must both"):
        dynamodb.create_table(TableName="provisioned", **key)
    throughput = {"ReadCapacityUnits": 5, "WriteCapacityUnits": 6}
    made = dynamodb.create_table(TableName="provisioned", ProvisionedThroughput=throughput, **key)["TableDescription"]
    assert made["ProvisionedThroughput"] == {**throughput, "NumberOfDecreasesToday": 0}
    changed = dynamodb.update_table(TableName="provisioned", BillingMode="PAY_PER_REQUEST")["TableDescription"]
    assert changed["BillingModeSummary"]["BillingMode"] == "PAY_PER_REQUEST"
    assert dynamodb.delete_table(TableName="provisioned")["TableDescription"]["TableStatus"] == "DELETING"
    dynamodb.get_waiter("table_not_exists").wait(TableName="provisioned")


def test_tables_are_listed_page_by_page(dynamodb: Any) -> None:
    names = sorted(create_orders(dynamodb) for _ in range(3))
    found = pages(dynamodb.get_paginator("list_tables").paginate, PaginationConfig={"PageSize": 2})
    assert set(names) <= {name for page in found for name in page["TableNames"]}
    assert all(len(page["TableNames"]) <= 2 for page in found)


def test_an_index_is_added_and_removed(dynamodb: Any, orders: str) -> None:
    dynamodb.put_item(TableName=orders, Item={**A1, "who": {"S": "ann"}})
    create = {
        "IndexName": "by_who",
        "KeySchema": [{"AttributeName": "who", "KeyType": "HASH"}],
        "Projection": {"ProjectionType": "INCLUDE", "NonKeyAttributes": ["state"]},
    }
    updated = dynamodb.update_table(
        TableName=orders,
        AttributeDefinitions=[{"AttributeName": "who", "AttributeType": "S"}],
        GlobalSecondaryIndexUpdates=[{"Create": create}],
    )["TableDescription"]
    assert {index["IndexName"] for index in updated["GlobalSecondaryIndexes"]} == {"by_state", "by_who"}
    dynamodb.get_waiter("table_exists").wait(TableName=orders)
    dynamodb.update_table(TableName=orders, GlobalSecondaryIndexUpdates=[{"Delete": {"IndexName": "by_who"}}])


def test_expiry_tags_limits_and_endpoints(dynamodb: Any, orders: str) -> None:
    assert dynamodb.describe_time_to_live(TableName=orders)["TimeToLiveDescription"] == {"TimeToLiveStatus": "DISABLED"}
    for is_enabled, status in ((True, ("ENABLED", "ENABLING")), (False, ("DISABLED",))):
        specification = {"Enabled": is_enabled, "AttributeName": "until"}
        set_ = dynamodb.update_time_to_live(TableName=orders, TimeToLiveSpecification=specification)
        assert set_["TimeToLiveSpecification"] == specification
        description = dynamodb.describe_time_to_live(TableName=orders)["TimeToLiveDescription"]
        assert description["TimeToLiveStatus"] in status
    arn = dynamodb.describe_table(TableName=orders)["Table"]["TableArn"]
    tags = [{"Key": f"k{number:02}", "Value": "" if number == 3 else "v"} for number in range(12)]
    dynamodb.tag_resource(ResourceArn=arn, Tags=tags)
    found = pages(dynamodb.get_paginator("list_tags_of_resource").paginate, ResourceArn=arn)
    assert [tag for page in found for tag in page["Tags"]] == tags
    dynamodb.untag_resource(ResourceArn=arn, TagKeys=[tag["Key"] for tag in tags])
    assert dynamodb.list_tags_of_resource(ResourceArn=arn)["Tags"] == []
    assert dynamodb.describe_limits()["TableMaxReadCapacityUnits"] == 40_000
    (endpoint,) = dynamodb.describe_endpoints()["Endpoints"]
    assert f"http://{endpoint['Address']}" == dynamodb.meta.endpoint_url
    backups = dynamodb.describe_continuous_backups(TableName=orders)["ContinuousBackupsDescription"]
    assert backups["PointInTimeRecoveryDescription"] == {"PointInTimeRecoveryStatus": "DISABLED"}


def test_a_table_is_backed_up_and_restored(dynamodb: Any, orders: str) -> None:
    dynamodb.put_item(TableName=orders, Item=WHOLE)
    made = dynamodb.create_backup(TableName=orders, BackupName="nightly")["BackupDetails"]
    assert f"table/{orders}/backup/" in made["BackupArn"]
    assert made["BackupStatus"] == "AVAILABLE"
    (listed,) = dynamodb.list_backups(TableName=orders)["BackupSummaries"]
    assert (listed["BackupArn"], listed["TableName"]) == (made["BackupArn"], orders)
    described = dynamodb.describe_backup(BackupArn=made["BackupArn"])["BackupDescription"]
    assert described["SourceTableDetails"]["TableName"] == orders
    restored = f"{orders}-restored"
    dynamodb.restore_table_from_backup(BackupArn=made["BackupArn"], TargetTableName=restored)
    assert dynamodb.get_item(TableName=restored, Key=A1)["Item"] == WHOLE
    with pytest.raises(dynamodb.exceptions.TableAlreadyExistsException):
        dynamodb.restore_table_from_backup(BackupArn=made["BackupArn"], TargetTableName=restored)
    assert dynamodb.delete_backup(BackupArn=made["BackupArn"])["BackupDescription"]["BackupDetails"]["BackupStatus"]
    with pytest.raises(dynamodb.exceptions.BackupNotFoundException):
        dynamodb.describe_backup(BackupArn=made["BackupArn"])


def test_backups_are_listed_page_by_page(dynamodb: Any, orders: str) -> None:
    made = [
        dynamodb.create_backup(TableName=orders, BackupName="paged")["BackupDetails"]["BackupArn"] for _ in range(3)
    ]
    for table in ({"TableName": orders}, {}):
        found = pages(dynamodb.get_paginator("list_backups").paginate, **table, PaginationConfig={"PageSize": 1})
        listed = [backup["BackupArn"] for page in found for backup in page["BackupSummaries"]]
        assert [arn for arn in listed if arn in made] == made
        assert len(found) >= 3
    for arn in made:
        dynamodb.delete_backup(BackupArn=arn)


# 2. Items.


def test_an_item_of_all_types_comes_back_as_it_was(dynamodb: Any, orders: str) -> None:
    assert "Attributes" not in dynamodb.put_item(TableName=orders, Item=WHOLE, ReturnValues="ALL_OLD")
    assert dynamodb.get_item(TableName=orders, Key=A1, ConsistentRead=True)["Item"] == WHOLE
    assert "Item" not in dynamodb.get_item(TableName=orders, Key=B1)
    # There, but nothing of it was asked for.
    assert dynamodb.get_item(TableName=orders, Key=A1, ProjectionExpression="nothing")["Item"] == {}
    deleted = dynamodb.delete_item(TableName=orders, Key=A1, ReturnValues="ALL_OLD")
    assert deleted["Attributes"] == WHOLE


def test_an_update_returns_what_is_asked_for(dynamodb: Any, orders: str) -> None:
    dynamodb.put_item(TableName=orders, Item=WHOLE)
    update: dict[str, Any] = {
        "TableName": orders,
        "Key": A1,
        "UpdateExpression": "SET price = :p, #l[0] = :s REMOVE note ADD tags :t DELETE sizes :d",
        "ExpressionAttributeNames": {"#l": "lines"},
        "ExpressionAttributeValues": {
            ":p": {"N": "1.50"},
            ":s": {"S": "first"},
            ":t": {"SS": ["c"]},
            ":d": {"NS": ["2.5"]},
        },
    }
    new = dynamodb.update_item(**update, ReturnValues="ALL_NEW")["Attributes"]
    assert new["price"] == {"N": "1.5"}
    assert (new["tags"], new["sizes"]) == ({"SS": ["a", "b", "c"]}, {"NS": ["-1"]})
    assert new["lines"]["L"][0] == {"S": "first"}
    assert "note" not in new
    assert set(dynamodb.update_item(**update, ReturnValues="UPDATED_OLD")["Attributes"]) >= {"price", "tags"}


def test_a_failed_condition_shows_the_item_if_that_is_asked_for(dynamodb: Any, orders: str) -> None:
    dynamodb.put_item(TableName=orders, Item=WHOLE)
    failing = {"ConditionExpression": "attribute_not_exists(id)"}
    with pytest.raises(dynamodb.exceptions.ConditionalCheckFailedException) as plain:
        dynamodb.put_item(TableName=orders, Item=A1, **failing)
    assert plain.value.response["Error"]["Message"] == "The conditional request failed"
    assert "Item" not in plain.value.response
    for write in (dynamodb.put_item, dynamodb.update_item, dynamodb.delete_item):
        what = {"Item": A1} if write == dynamodb.put_item else {"Key": A1}
        with pytest.raises(dynamodb.exceptions.ConditionalCheckFailedException) as shown:
            write(TableName=orders, **what, **failing, ReturnValuesOnConditionCheckFailure="ALL_OLD")
        assert shown.value.response["Item"] == WHOLE
        assert shown.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400


def test_query_and_scan_with_pages_filters_and_counts(dynamodb: Any, orders: str) -> None:
    items = [
        {"id": {"S": "a"}, "line": {"N": str(line)}, "state": {"S": "odd" if line % 2 else "even"}} for line in range(9)
    ]
    for item_ in items:
        dynamodb.put_item(TableName=orders, Item=item_)
    query: dict[str, Any] = {
        "TableName": orders,
        "KeyConditionExpression": "id = :id AND line < :seven",
        "ExpressionAttributeValues": {":id": {"S": "a"}, ":seven": {"N": "7"}},
    }
    found = pages(dynamodb.get_paginator("query").paginate, **query, PaginationConfig={"PageSize": 2})
    assert [item_ for page in found for item_ in page["Items"]] == items[:7]
    assert len(found) == 4
    assert dynamodb.query(**query, ScanIndexForward=False, Limit=1)["Items"] == [items[6]]
    counted = dynamodb.query(**query, Select="COUNT")
    assert counted["Count"] == 7
    assert "Items" not in counted
    none = dynamodb.query(**{**query, "ExpressionAttributeValues": {":id": {"S": "z"}, ":seven": {"N": "7"}}})
    assert (none["Items"], none["Count"], none["ScannedCount"]) == ([], 0, 0)
    by_state = dynamodb.query(
        TableName=orders,
        IndexName="by_state",
        KeyConditionExpression="#s = :s",
        ExpressionAttributeNames={"#s": "state"},
        ExpressionAttributeValues={":s": {"S": "odd"}},
    )
    assert by_state["Count"] == 4
    scan: dict[str, Any] = {
        "TableName": orders,
        "FilterExpression": "#s = :s",
        "ExpressionAttributeNames": {"#s": "state"},
        "ExpressionAttributeValues": {":s": {"S": "even"}},
        "TotalSegments": 3,
    }
    segments = [
        page for segment in range(3) for page in pages(dynamodb.get_paginator("scan").paginate, **scan, Segment=segment)
    ]
    assert sum(page["Count"] for page in segments) == 5
    assert sum(page["ScannedCount"] for page in segments) == 9


def test_batches(dynamodb: Any, orders: str) -> None:
    items = [{"id": {"S": f"i{number}"}, "line": {"N": "1"}} for number in range(25)]
    other = create_orders(dynamodb)
    written = dynamodb.batch_write_item(
        RequestItems={
            orders: [{"PutRequest": {"Item": item_}} for item_ in items[:20]],
            other: [{"PutRequest": {"Item": item_}} for item_ in items[20:]],
        },
        ReturnConsumedCapacity="TOTAL",
    )
    assert written["UnprocessedItems"] == {}
    assert {each["TableName"]: each["CapacityUnits"] for each in written["ConsumedCapacity"]} == {orders: 20, other: 5}
    found = dynamodb.batch_get_item(
        RequestItems={orders: {"Keys": [*items[:20], B1]}, other: {"Keys": items[20:], "ProjectionExpression": "line"}}
    )
    assert found["UnprocessedKeys"] == {}
    assert found["Responses"][orders] == items[:20]
    assert found["Responses"][other] == [{"line": {"N": "1"}}] * 5
    dynamodb.batch_write_item(RequestItems={orders: [{"DeleteRequest": {"Key": items[0]}}]})
    assert "Item" not in dynamodb.get_item(TableName=orders, Key=items[0])


def test_what_a_batch_does_not_read_is_asked_for_again(dynamodb: Any, orders: str) -> None:
    big = "x" * 350_000
    items = [{"id": {"S": f"i{number}"}, "line": {"N": "1"}, "text": {"S": big}} for number in range(5)]
    for item_ in items:
        dynamodb.put_item(TableName=orders, Item=item_)
    wanted = {orders: {"Keys": [{"id": i["id"], "line": i["line"]} for i in items], "ConsistentRead": True}}
    found = []
    while wanted:
        response = dynamodb.batch_get_item(RequestItems=wanted)
        found += response["Responses"][orders]
        wanted = response["UnprocessedKeys"]
    assert found == items


def test_transactions(dynamodb: Any, orders: str) -> None:
    put = {"Put": {"TableName": orders, "Item": WHOLE}}
    update = {
        "Update": {
            "TableName": orders,
            "Key": B1,
            "UpdateExpression": "SET n = :n",
            "ExpressionAttributeValues": {":n": {"N": "1"}},
        }
    }
    done = dynamodb.transact_write_items(
        TransactItems=[put, update], ClientRequestToken="once", ReturnConsumedCapacity="TOTAL"
    )
    (consumed,) = done["ConsumedCapacity"]
    assert consumed["WriteCapacityUnits"] == consumed["CapacityUnits"]
    found = dynamodb.transact_get_items(
        TransactItems=[
            {"Get": {"TableName": orders, "Key": key}} for key in (A1, B1, {"id": {"S": "c"}, "line": {"N": "1"}})
        ]
    )["Responses"]
    assert found == [{"Item": WHOLE}, {"Item": {**B1, "n": {"N": "1"}}}, {}]
    with pytest.raises(dynamodb.exceptions.IdempotentParameterMismatchException):
        dynamodb.transact_write_items(TransactItems=[put], ClientRequestToken="once")


@pytest.mark.parametrize("shows", [True, False])
def test_a_cancelled_transaction_says_why_for_each_action(dynamodb: Any, orders: str, *, shows: bool) -> None:
    dynamodb.put_item(TableName=orders, Item=WHOLE)
    check = {
        "TableName": orders,
        "Key": A1,
        "ConditionExpression": "attribute_not_exists(id)",
        **({"ReturnValuesOnConditionCheckFailure": "ALL_OLD"} if shows else {}),
    }
    with pytest.raises(dynamodb.exceptions.TransactionCanceledException) as cancelled:
        dynamodb.transact_write_items(
            TransactItems=[{"Put": {"TableName": orders, "Item": B1}}, {"ConditionCheck": check}]
        )
    innocent, guilty = cancelled.value.response["CancellationReasons"]
    assert innocent == {"Code": "None"}
    assert guilty == {
        "Code": "ConditionalCheckFailed",
        "Message": "The conditional request failed",
        **({"Item": WHOLE} if shows else {}),
    }
    assert "[None, ConditionalCheckFailed]" in str(cancelled.value)
    assert "Item" not in dynamodb.get_item(TableName=orders, Key=B1)


def test_the_size_of_an_item_collection(dynamodb: Any, orders: str) -> None:
    put = dynamodb.put_item(TableName=orders, Item=A1, ReturnItemCollectionMetrics="SIZE")
    size = len("id") + len("a") + len("line") + 2
    metrics = {"ItemCollectionKey": {"id": {"S": "a"}}, "SizeEstimateRangeGB": [size / 2**30] * 2}
    assert put["ItemCollectionMetrics"] == metrics
    requests = {orders: [{"PutRequest": {"Item": B1}}, {"PutRequest": {"Item": A1}}]}
    batch = dynamodb.batch_write_item(RequestItems=requests, ReturnItemCollectionMetrics="SIZE")
    assert batch["ItemCollectionMetrics"] == {orders: [{**metrics, "ItemCollectionKey": {"id": {"S": "b"}}}, metrics]}
    delete = {"Delete": {"TableName": orders, "Key": A1}}
    transaction = dynamodb.transact_write_items(TransactItems=[delete], ReturnItemCollectionMetrics="SIZE")
    assert transaction["ItemCollectionMetrics"] == {orders: [{**metrics, "SizeEstimateRangeGB": [0.0, 0.0]}]}
    assert "ItemCollectionMetrics" not in dynamodb.put_item(TableName=orders, Item=A1)


def test_consumed_capacity_by_index(dynamodb: Any, orders: str) -> None:
    consumed = dynamodb.put_item(TableName=orders, Item=WHOLE, ReturnConsumedCapacity="INDEXES")["ConsumedCapacity"]
    one = {"CapacityUnits": 1.0}
    assert consumed == {
        "TableName": orders,
        "CapacityUnits": 3.0,
        "Table": one,
        "LocalSecondaryIndexes": {"line_state": one},
        "GlobalSecondaryIndexes": {"by_state": one},
    }
    read = dynamodb.get_item(TableName=orders, Key=A1, ReturnConsumedCapacity="TOTAL")["ConsumedCapacity"]
    assert read == {"TableName": orders, "CapacityUnits": 0.5}


def test_the_resource_and_its_conditions(resource: Any, orders: str) -> None:
    table = resource.Table(orders)
    with table.batch_writer() as batch:
        for line in range(60):
            batch.put_item(Item={"id": "a", "line": line, "price": Decimal("0.10") * line, "state": "open"})
    found = table.query(
        KeyConditionExpression=Key("id").eq("a") & Key("line").between(10, 19), FilterExpression=Attr("price").gt(1)
    )
    assert [item_["line"] for item_ in found["Items"]] == list(range(11, 20))
    assert found["Items"][0]["price"] == Decimal("1.1")
    assert table.scan(FilterExpression=Attr("line").is_in([1, 2]))["Count"] == 2
    table.update_item(
        Key={"id": "a", "line": 1}, UpdateExpression="SET price = price + :p", ExpressionAttributeValues={":p": 1}
    )
    assert table.get_item(Key={"id": "a", "line": 1})["Item"]["price"] == Decimal("1.1")
    table.load()
    assert table.item_count == 60


# 3. Streams, and both protocols on one table.


def read_stream(streams: Any, arn: str) -> list[dict[str, Any]]:
    """All records of a stream, its shards one after the other."""
    found = []
    shards = streams.describe_stream(StreamArn=arn)["StreamDescription"]["Shards"]
    for shard in shards:
        iterator = streams.get_shard_iterator(
            StreamArn=arn, ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
        )["ShardIterator"]
        while iterator is not None:
            page = streams.get_records(ShardIterator=iterator, Limit=2)
            if not page["Records"]:
                break
            found += page["Records"]
            iterator = page.get("NextShardIterator")
    return found


def test_a_stream_is_read_to_its_end(dynamodb: Any, streams: Any, orders: str) -> None:
    dynamodb.put_item(TableName=orders, Item=WHOLE)
    dynamodb.put_item(TableName=orders, Item=A1)
    dynamodb.delete_item(TableName=orders, Key=A1)
    (stream,) = streams.list_streams(TableName=orders)["Streams"]
    arn = stream["StreamArn"]
    assert arn == dynamodb.describe_table(TableName=orders)["Table"]["LatestStreamArn"]
    insert, modify, remove = read_stream(streams, arn)
    assert [record["eventName"] for record in (insert, modify, remove)] == ["INSERT", "MODIFY", "REMOVE"]
    change = insert["dynamodb"]
    assert (change["Keys"], change["NewImage"]) == (A1, WHOLE)
    assert "OldImage" not in change
    assert change["StreamViewType"] == "NEW_AND_OLD_IMAGES"
    assert (modify["dynamodb"]["OldImage"], modify["dynamodb"]["NewImage"]) == (WHOLE, A1)
    assert (insert["eventSource"], insert["awsRegion"], insert["eventVersion"]) == ("aws:dynamodb", REGION, "1.1")
    event = hashlib.md5(f"{arn}/{change['SequenceNumber']}".encode(), usedforsecurity=False).hexdigest()
    assert insert["eventID"] == event
    shard = streams.describe_stream(StreamArn=arn)["StreamDescription"]["Shards"][0]
    after = streams.get_shard_iterator(
        StreamArn=arn,
        ShardId=shard["ShardId"],
        ShardIteratorType="AFTER_SEQUENCE_NUMBER",
        SequenceNumber=change["SequenceNumber"],
    )["ShardIterator"]
    assert streams.get_records(ShardIterator=after)["Records"] == [modify, remove]


def test_a_disabled_stream_ends_and_its_shards_have_no_next_iterator(dynamodb: Any, streams: Any, orders: str) -> None:
    dynamodb.put_item(TableName=orders, Item=WHOLE)
    arn = dynamodb.describe_table(TableName=orders)["Table"]["LatestStreamArn"]
    dynamodb.update_table(TableName=orders, StreamSpecification={"StreamEnabled": False})
    description = streams.describe_stream(StreamArn=arn)["StreamDescription"]
    assert description["StreamStatus"] == "DISABLED"
    (shard,) = description["Shards"]
    assert shard["SequenceNumberRange"]["EndingSequenceNumber"]
    iterator = streams.get_shard_iterator(StreamArn=arn, ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON")
    page = streams.get_records(ShardIterator=iterator["ShardIterator"])
    assert len(page["Records"]) == 1
    assert "NextShardIterator" not in page
    children = streams.describe_stream(StreamArn=arn, ShardFilter={"Type": "CHILD_SHARDS", "ShardId": shard["ShardId"]})
    assert children["StreamDescription"]["Shards"] == []


def test_both_protocols_write_and_read_one_table(
    dynamodb: Any, streams: Any, open_broker: BrokerProcess, orders: str
) -> None:
    dynamodb.put_item(TableName=orders, Item={**A1, "by": {"S": "boto3"}})
    with Client(open_broker.grpc) as grpc:
        grpc.put(orders, item(id="b", line=1, by="grpc"))
        arn = dynamodb.describe_table(TableName=orders)["Table"]["LatestStreamArn"]
        theirs = grpc.records(arn)
    assert dynamodb.get_item(TableName=orders, Key=B1)["Item"]["by"] == {"S": "grpc"}
    ours = read_stream(streams, arn)
    assert len(ours) == 2
    assert [record["dynamodb"]["SequenceNumber"] for record in ours] == [record.sequence_number for record in theirs]


# 4. Who may call.


def test_only_who_signs_with_a_known_key_is_let_in(tmp_path: Path) -> None:
    credentials = tmp_path / "credentials"
    credentials.write_text("[writer]\naws_access_key_id = AKIDWRITER\naws_secret_access_key = open/sesame+1\n")
    credentials.chmod(0o600)
    with BrokerProcess(tmp_path, region=REGION, extra=("--credentials", str(credentials))) as broker:
        good = {**connection(broker), "aws_access_key_id": "AKIDWRITER", "aws_secret_access_key": "open/sesame+1"}
        assert boto3.client("dynamodb", **good).list_tables()["TableNames"] == []
        refusals = {
            "UnrecognizedClientException": {"aws_access_key_id": "AKIDOTHER"},
            "InvalidSignatureException": {"aws_secret_access_key": "wrong"},
        }
        for name, wrong in refusals.items():
            with pytest.raises(botocore.exceptions.ClientError) as refused:
                boto3.client("dynamodb", **{**good, **wrong}).list_tables()
            assert refused.value.response["Error"]["Code"] == name
        with pytest.raises(botocore.exceptions.ClientError, match="scoped to") as refused:
            boto3.client("dynamodb", **{**good, "region_name": "us-south-1"}).list_tables()
        unsigned = ONE_ATTEMPT.merge(botocore.config.Config(signature_version=botocore.UNSIGNED))
        with pytest.raises(botocore.exceptions.ClientError) as refused:
            boto3.client("dynamodb", **{**good, "config": unsigned}).list_tables()
        assert refused.value.response["Error"]["Code"] == "MissingAuthenticationTokenException"
