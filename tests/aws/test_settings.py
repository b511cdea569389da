"""A table's settings, as programs that manage infrastructure set and read them: what was asked for is what is shown."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection
from typing import Any

import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.aws.conftest import REGION
from tests.broker_process import BrokerProcess

_UNIQUE = itertools.count(1)
KEY: dict[str, Any] = {
    "KeySchema": [{"AttributeName": "id", "KeyType": "HASH"}],
    "AttributeDefinitions": [{"AttributeName": "id", "AttributeType": "S"}],
}
BY_STATE: dict[str, Any] = {
    "IndexName": "by_state",
    "KeySchema": [{"AttributeName": "state", "KeyType": "HASH"}],
    "Projection": {"ProjectionType": "ALL"},
}
WITH_INDEX: dict[str, Any] = {
    **KEY,
    "AttributeDefinitions": [*KEY["AttributeDefinitions"], {"AttributeName": "state", "AttributeType": "S"}],
    "GlobalSecondaryIndexes": [BY_STATE],
}
ON_DEMAND = {"BillingMode": "PAY_PER_REQUEST"}
WARM = {"ReadUnitsPerSecond": 12_000, "WriteUnitsPerSecond": 4_000, "Status": "ACTIVE"}


def units(reads: int, writes: int) -> dict[str, int]:
    return {"ReadCapacityUnits": reads, "WriteCapacityUnits": writes}


@pytest.fixture
def made_table(dynamodb: Any) -> Callable[..., str]:
    """Makes a table with some settings; returns its name."""

    def make(**settings: Any) -> str:
        name = f"settings-{next(_UNIQUE)}"
        dynamodb.create_table(TableName=name, **{**KEY, **settings})
        return name

    return make


def described(dynamodb: Any, name: str) -> dict[str, Any]:
    table: dict[str, Any] = dynamodb.describe_table(TableName=name)["Table"]
    return table


def test_a_table_that_says_nothing_has_dynamodbs_defaults(dynamodb: Any, made_table: Callable[..., str]) -> None:
    table = described(dynamodb, made_table(**WITH_INDEX, **ON_DEMAND))
    assert table["WarmThroughput"] == WARM
    assert table["GlobalSecondaryIndexes"][0]["WarmThroughput"] == WARM
    absent = {"OnDemandThroughput", "TableClassSummary", "SSEDescription", "RestoreSummary"}
    assert not absent & set(table)


def test_settings_are_shown_as_they_were_asked_for_and_stay_when_another_changes(
    dynamodb: Any, made_table: Callable[..., str]
) -> None:
    """What Terraform does: create, read, change one thing, read; nothing else may differ."""
    name = made_table(
        **{
            **WITH_INDEX,
            "GlobalSecondaryIndexes": [
                {
                    **BY_STATE,
                    "OnDemandThroughput": {"MaxReadRequestUnits": 7},
                    "WarmThroughput": {"ReadUnitsPerSecond": 12_500, "WriteUnitsPerSecond": 4_500},
                }
            ],
        },
        **ON_DEMAND,
        WarmThroughput={"ReadUnitsPerSecond": 13_000, "WriteUnitsPerSecond": 5_000},
        OnDemandThroughput={"MaxReadRequestUnits": 10, "MaxWriteRequestUnits": 5},
        TableClass="STANDARD_INFREQUENT_ACCESS",
        SSESpecification={"Enabled": True},
        DeletionProtectionEnabled=True,
    )
    before = described(dynamodb, name)
    assert before["WarmThroughput"] == {"ReadUnitsPerSecond": 13_000, "WriteUnitsPerSecond": 5_000, "Status": "ACTIVE"}
    assert before["OnDemandThroughput"] == {"MaxReadRequestUnits": 10, "MaxWriteRequestUnits": 5}
    assert before["TableClassSummary"] == {"TableClass": "STANDARD_INFREQUENT_ACCESS"}
    assert before["SSEDescription"]["KMSMasterKeyArn"].startswith(f"arn:aws:kms:{REGION}:000000000000:key/")
    assert {name: before["SSEDescription"][name] for name in ("Status", "SSEType")} == {
        "Status": "ENABLED",
        "SSEType": "KMS",
    }
    (index,) = before["GlobalSecondaryIndexes"]
    assert index["OnDemandThroughput"] == {"MaxReadRequestUnits": 7}
    assert index["WarmThroughput"] == {"ReadUnitsPerSecond": 12_500, "WriteUnitsPerSecond": 4_500, "Status": "ACTIVE"}
    key = f"arn:aws:kms:{REGION}:000000000000:key/mine"
    for change, member, after in (
        (
            {"WarmThroughput": {"WriteUnitsPerSecond": 6_000}},
            "WarmThroughput",
            {"ReadUnitsPerSecond": 13_000, "WriteUnitsPerSecond": 6_000, "Status": "ACTIVE"},
        ),
        (
            {"OnDemandThroughput": {"MaxWriteRequestUnits": -1}},
            "OnDemandThroughput",
            {"MaxReadRequestUnits": 10},
        ),
        ({"OnDemandThroughput": {"MaxReadRequestUnits": -1}}, "OnDemandThroughput", None),
        (
            {"SSESpecification": {"Enabled": True, "SSEType": "KMS", "KMSMasterKeyId": "mine"}},
            "SSEDescription",
            {"Status": "ENABLED", "SSEType": "KMS", "KMSMasterKeyArn": key},
        ),
        ({"SSESpecification": {"Enabled": False}}, "SSEDescription", None),
        ({"DeletionProtectionEnabled": False}, "DeletionProtectionEnabled", False),
    ):
        told = dynamodb.update_table(TableName=name, **change)["TableDescription"]
        expected = {**before, member: after} if after is not None else {k: v for k, v in before.items() if k != member}
        assert told == described(dynamodb, name) == expected
        before = expected


def test_a_table_class_that_changes_has_the_time_of_the_change(dynamodb: Any, made_table: Callable[..., str]) -> None:
    name = made_table(**ON_DEMAND)
    earliest = datetime.now(UTC) - timedelta(seconds=5)
    dynamodb.update_table(TableName=name, TableClass="STANDARD_INFREQUENT_ACCESS")
    summary = described(dynamodb, name)["TableClassSummary"]
    assert summary["TableClass"] == "STANDARD_INFREQUENT_ACCESS"
    assert earliest < summary["LastUpdateDateTime"] < datetime.now(UTC) + timedelta(seconds=5)


def test_an_index_is_changed_by_one_setting_alone(dynamodb: Any, made_table: Callable[..., str]) -> None:
    name = made_table(**WITH_INDEX, **ON_DEMAND)
    for change in (
        {"OnDemandThroughput": {"MaxReadRequestUnits": 3}},
        {"WarmThroughput": {"ReadUnitsPerSecond": 12_001}},
    ):
        update = {"Update": {"IndexName": "by_state", **change}}
        dynamodb.update_table(TableName=name, GlobalSecondaryIndexUpdates=[update])
    (index,) = described(dynamodb, name)["GlobalSecondaryIndexes"]
    assert index["OnDemandThroughput"] == {"MaxReadRequestUnits": 3}
    assert index["WarmThroughput"] == {**WARM, "ReadUnitsPerSecond": 12_001}
    with pytest.raises(ClientError, match="must be specified for index: by_state"):
        dynamodb.update_table(TableName=name, GlobalSecondaryIndexUpdates=[{"Update": {"IndexName": "by_state"}}])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"WarmThroughput": {"ReadUnitsPerSecond": 11_999}}, "must not be lower than 12000"),
        ({"WarmThroughput": {}}, "At least one of ReadUnitsPerSecond and WriteUnitsPerSecond"),
        ({"OnDemandThroughput": {"MaxReadRequestUnits": 0}}, "out of bounds"),
        ({"OnDemandThroughput": {}}, "At least one of MaxReadRequestUnits and MaxWriteRequestUnits"),
        ({"TableClass": "COLD"}, "enum value set: .*STANDARD, STANDARD_INFREQUENT_ACCESS"),
        ({"SSESpecification": {"Enabled": True, "SSEType": "AES256"}}, "SSEType AES256 is not supported"),
        ({"SSESpecification": {"Enabled": False}}, "already encrypted by default"),
    ],
)
def test_a_setting_with_a_fault_is_refused_and_changes_nothing(
    dynamodb: Any, made_table: Callable[..., str], change: dict[str, Any], says: str
) -> None:
    name = made_table(**ON_DEMAND)
    before = described(dynamodb, name)
    with pytest.raises(ClientError, match=f"(?s)ValidationException.*{says}"):
        dynamodb.update_table(TableName=name, DeletionProtectionEnabled=True, **change)
    assert described(dynamodb, name) == before


def test_beyond_its_maximum_a_table_on_demand_is_throttled(dynamodb: Any, made_table: Callable[..., str]) -> None:
    name = made_table(**ON_DEMAND, OnDemandThroughput={"MaxReadRequestUnits": 1, "MaxWriteRequestUnits": 1})
    big = {"id": {"S": "a"}, "text": {"S": "x" * 390_000}}
    # 381 write units, and there are 300 in the beginning; then 96 read units at a time.
    dynamodb.put_item(TableName=name, Item=big)
    with pytest.raises(ClientError, match=r"ThrottlingException.*exceeds the maximum OnDemandThroughput"):
        dynamodb.put_item(TableName=name, Item={"id": {"S": "b"}})
    for _ in range(4):
        dynamodb.get_item(TableName=name, Key={"id": {"S": "a"}}, ConsistentRead=True)
    with pytest.raises(ClientError, match="ThrottlingException"):
        dynamodb.get_item(TableName=name, Key={"id": {"S": "a"}})
    keys = {"Keys": [{"id": {"S": "a"}}]}
    with pytest.raises(ClientError, match="ThrottlingException"):
        dynamodb.batch_get_item(RequestItems={name: keys})
    put = {"PutRequest": {"Item": {"id": {"S": "c"}}}}
    unprocessed = dynamodb.batch_write_item(RequestItems={name: [put]})["UnprocessedItems"]
    assert unprocessed == {name: [put]}
    with pytest.raises(dynamodb.exceptions.TransactionCanceledException) as cancelled:
        dynamodb.transact_write_items(TransactItems=[{"Put": {"TableName": name, "Item": {"id": {"S": "d"}}}}])
    assert cancelled.value.response["CancellationReasons"][0]["Code"] == "ThrottlingError"
    dynamodb.update_table(TableName=name, OnDemandThroughput={"MaxReadRequestUnits": -1, "MaxWriteRequestUnits": -1})
    dynamodb.put_item(TableName=name, Item={"id": {"S": "b"}})
    assert dynamodb.get_item(TableName=name, Key={"id": {"S": "b"}})["Item"] == {"id": {"S": "b"}}


def test_a_table_that_never_was_on_demand_says_nothing_of_its_billing(
    dynamodb: Any, made_table: Callable[..., str]
) -> None:
    name = made_table(ProvisionedThroughput=units(5, 5))
    assert "BillingModeSummary" not in described(dynamodb, name)
    dynamodb.update_table(TableName=name, **ON_DEMAND)
    on_demand = described(dynamodb, name)["BillingModeSummary"]
    assert on_demand["BillingMode"] == "PAY_PER_REQUEST"
    assert on_demand["LastUpdateToPayPerRequestDateTime"] > described(dynamodb, name)["CreationDateTime"]
    dynamodb.update_table(TableName=name, BillingMode="PROVISIONED", ProvisionedThroughput=units(5, 5))
    assert described(dynamodb, name)["BillingModeSummary"] == {**on_demand, "BillingMode": "PROVISIONED"}


def test_changes_of_provisioned_throughput_are_told_with_their_times(
    dynamodb: Any, made_table: Callable[..., str]
) -> None:
    index = {**BY_STATE, "ProvisionedThroughput": units(10, 10)}
    name = made_table(**{**WITH_INDEX, "GlobalSecondaryIndexes": [index]}, ProvisionedThroughput=units(10, 10))
    assert described(dynamodb, name)["ProvisionedThroughput"] == {**units(10, 10), "NumberOfDecreasesToday": 0}
    dynamodb.update_table(TableName=name, ProvisionedThroughput=units(15, 10))
    dynamodb.update_table(TableName=name, ProvisionedThroughput=units(15, 3))
    update = {"Update": {"IndexName": "by_state", "ProvisionedThroughput": units(11, 10)}}
    dynamodb.update_table(TableName=name, GlobalSecondaryIndexUpdates=[update])
    table = described(dynamodb, name)
    told = table["ProvisionedThroughput"]
    assert {name: told[name] for name in units(0, 0)} == units(15, 3)
    assert table["CreationDateTime"] < told["LastIncreaseDateTime"] < told["LastDecreaseDateTime"]
    # One if midnight lies between.
    assert told["NumberOfDecreasesToday"] in {0, 1}
    of_index = table["GlobalSecondaryIndexes"][0]["ProvisionedThroughput"]
    assert of_index["LastIncreaseDateTime"] > told["LastDecreaseDateTime"]
    assert "LastDecreaseDateTime" not in of_index


def test_the_answer_of_delete_table_is_short(dynamodb: Any, made_table: Callable[..., str]) -> None:
    name = made_table(**WITH_INDEX, **ON_DEMAND)
    deleted = dynamodb.delete_table(TableName=name)["TableDescription"]
    assert (deleted["TableName"], deleted["TableStatus"]) == (name, "DELETING")
    for member in ("AttributeDefinitions", "KeySchema", "CreationDateTime", "GlobalSecondaryIndexes"):
        assert member not in deleted


def test_tagging_is_answered_with_an_empty_body(
    open_broker: BrokerProcess, dynamodb: Any, made_table: Callable[..., str]
) -> None:
    arn = described(dynamodb, made_table(**ON_DEMAND))["TableArn"]
    host, port = open_broker.http.split(":")
    for operation, members in (
        ("TagResource", f'"Tags": [{{"Key": "team", "Value": "blue"}}], "ResourceArn": "{arn}"'),
        ("UntagResource", f'"TagKeys": ["team"], "ResourceArn": "{arn}"'),
    ):
        with closing(HTTPConnection(host, int(port), timeout=10)) as connection:
            target = {"X-Amz-Target": f"DynamoDB_20120810.{operation}"}
            connection.request("POST", "/", "{" + members + "}", target)
            answer = connection.getresponse()
            assert (answer.status, answer.read(), answer.headers["x-amz-crc32"]) == (200, b"", "0")
    assert dynamodb.list_tags_of_resource(ResourceArn=arn)["Tags"] == []


def test_what_was_never_switched_on_is_told_as_dynamodb_does(dynamodb: Any, made_table: Callable[..., str]) -> None:
    name = made_table(
        **WITH_INDEX, **ON_DEMAND, StreamSpecification={"StreamEnabled": True, "StreamViewType": "KEYS_ONLY"}
    )
    table = described(dynamodb, name)

    def without_metadata(answer: dict[str, Any]) -> dict[str, Any]:
        return {member: value for member, value in answer.items() if member != "ResponseMetadata"}

    insights = {"TableName": name, "ContributorInsightsStatus": "DISABLED"}
    assert without_metadata(dynamodb.describe_contributor_insights(TableName=name)) == insights
    of_index = dynamodb.describe_contributor_insights(TableName=name, IndexName="by_state")
    assert without_metadata(of_index) == {**insights, "IndexName": "by_state"}
    kinesis = without_metadata(dynamodb.describe_kinesis_streaming_destination(TableName=name))
    assert kinesis == {"TableName": name, "KinesisDataStreamDestinations": []}
    assert without_metadata(dynamodb.list_exports()) == {"ExportSummaries": []}
    assert without_metadata(dynamodb.list_exports(TableArn=table["TableArn"], MaxResults=25)) == {"ExportSummaries": []}
    assert without_metadata(dynamodb.list_imports(PageSize=1)) == {"ImportSummaryList": []}
    for arn in (table["TableArn"], table["LatestStreamArn"]):
        with pytest.raises(dynamodb.exceptions.PolicyNotFoundException, match=arn):
            dynamodb.get_resource_policy(ResourceArn=arn)


def test_what_was_never_switched_on_of_a_table_that_is_not_there_is_not_found(
    dynamodb: Any, made_table: Callable[..., str]
) -> None:
    table = described(dynamodb, made_table(**ON_DEMAND))
    missing = dynamodb.exceptions.ResourceNotFoundException
    with pytest.raises(missing):
        dynamodb.describe_contributor_insights(TableName="nosuch")
    with pytest.raises(missing, match="Index: nosuch"):
        dynamodb.describe_contributor_insights(TableName=table["TableName"], IndexName="nosuch")
    with pytest.raises(missing):
        dynamodb.describe_kinesis_streaming_destination(TableName="nosuch")
    for arn in (f"{table['TableArn']}x", f"{table['TableArn']}/stream/2026-01-01T00:00:00.000"):
        with pytest.raises(missing):
            dynamodb.get_resource_policy(ResourceArn=arn)


@pytest.mark.parametrize("most", [0, 26])
def test_a_page_of_exports_or_imports_has_bounds(made: Callable[..., Any], most: int) -> None:
    unchecked = made("dynamodb", config=Config(parameter_validation=False, retries={"total_max_attempts": 1}))
    for call, limit in ((unchecked.list_exports, "MaxResults"), (unchecked.list_imports, "PageSize")):
        with pytest.raises(ClientError, match=r"ValidationException.*Member must have value"):
            call(**{limit: most})
        with pytest.raises(ClientError, match=r"ValidationException.*[Nn]extToken"):
            call(NextToken="more")


def test_a_backup_tells_of_its_table_as_it_was_also_after_it_changed(
    dynamodb: Any, made_table: Callable[..., str]
) -> None:
    index = {**BY_STATE, "ProvisionedThroughput": units(2, 3)}
    name = made_table(
        **{**WITH_INDEX, "GlobalSecondaryIndexes": [index]},
        ProvisionedThroughput=units(5, 6),
        StreamSpecification={"StreamEnabled": True, "StreamViewType": "NEW_IMAGE"},
    )
    dynamodb.update_time_to_live(TableName=name, TimeToLiveSpecification={"Enabled": True, "AttributeName": "until"})
    dynamodb.put_item(TableName=name, Item={"id": {"S": "a"}})
    table = described(dynamodb, name)
    arn = dynamodb.create_backup(TableName=name, BackupName="nightly")["BackupDetails"]["BackupArn"]
    dynamodb.delete_table(TableName=name)
    for description in (
        dynamodb.describe_backup(BackupArn=arn)["BackupDescription"],
        dynamodb.delete_backup(BackupArn=arn)["BackupDescription"],
    ):
        assert description["SourceTableDetails"] == {
            "TableName": name,
            "TableId": table["TableId"],
            "TableArn": table["TableArn"],
            "TableSizeBytes": table["TableSizeBytes"],
            "KeySchema": table["KeySchema"],
            "TableCreationDateTime": table["CreationDateTime"],
            "ProvisionedThroughput": units(5, 6),
            "ItemCount": 1,
            "BillingMode": "PROVISIONED",
        }
        assert description["SourceTableFeatureDetails"] == {
            "GlobalSecondaryIndexes": [index],
            "StreamDescription": {"StreamEnabled": True, "StreamViewType": "NEW_IMAGE"},
            "TimeToLiveDescription": {"TimeToLiveStatus": "ENABLED", "AttributeName": "until"},
        }


def test_a_backup_of_another_table_is_not_found(dynamodb: Any, made_table: Callable[..., str]) -> None:
    name = made_table(**ON_DEMAND)
    arn = dynamodb.create_backup(TableName=name, BackupName="nightly")["BackupDetails"]["BackupArn"]
    of_another, unknown = arn.replace(name, "nosuch"), f"{arn}0"
    for operation, sent, more in (
        ("describe_backup", of_another, {}),
        ("delete_backup", of_another, {}),
        ("describe_backup", unknown, {}),
        ("restore_table_from_backup", unknown, {"TargetTableName": f"{name}-restored"}),
    ):
        with pytest.raises(dynamodb.exceptions.BackupNotFoundException) as refused:
            getattr(dynamodb, operation)(BackupArn=sent, **more)
        # As it was sent, not as the backup of the whole node is named.
        assert refused.value.response["Error"]["Message"] == f"Backup not found: {sent}"
    dynamodb.delete_backup(BackupArn=arn)


def test_a_restored_table_tells_what_it_was_restored_from_and_takes_other_settings(
    dynamodb: Any, made_table: Callable[..., str]
) -> None:
    name = made_table(**ON_DEMAND, TableClass="STANDARD_INFREQUENT_ACCESS", SSESpecification={"Enabled": True})
    made = dynamodb.create_backup(TableName=name, BackupName="nightly")["BackupDetails"]
    dynamodb.restore_table_from_backup(BackupArn=made["BackupArn"], TargetTableName=f"{name}-same")
    same = described(dynamodb, f"{name}-same")
    assert same["RestoreSummary"] == {
        "SourceBackupArn": made["BackupArn"],
        "SourceTableArn": described(dynamodb, name)["TableArn"],
        "RestoreDateTime": made["BackupCreationDateTime"],
        "RestoreInProgress": False,
    }
    assert same["TableClassSummary"] == {"TableClass": "STANDARD_INFREQUENT_ACCESS"}
    assert same["SSEDescription"] == described(dynamodb, name)["SSEDescription"]
    dynamodb.restore_table_from_backup(
        BackupArn=made["BackupArn"],
        TargetTableName=f"{name}-other",
        BillingModeOverride="PROVISIONED",
        ProvisionedThroughputOverride=units(7, 8),
        SSESpecificationOverride={"Enabled": False},
    )
    other = described(dynamodb, f"{name}-other")
    assert other["ProvisionedThroughput"] == {**units(7, 8), "NumberOfDecreasesToday": 0}
    assert "SSEDescription" not in other
    assert "BillingModeSummary" not in other
    with pytest.raises(ClientError, match="when BillingMode is PROVISIONED"):
        dynamodb.restore_table_from_backup(
            BackupArn=made["BackupArn"],
            TargetTableName=f"{name}-faulty",
            BillingModeOverride="PROVISIONED",
            ProvisionedThroughputOverride=units(7, 8),
            OnDemandThroughputOverride={"MaxReadRequestUnits": 1},
        )
    assert f"{name}-faulty" not in dynamodb.list_tables()["TableNames"]
    dynamodb.delete_backup(BackupArn=made["BackupArn"])


def test_point_in_time_recovery_is_switched_on_told_and_used(dynamodb: Any, made_table: Callable[..., str]) -> None:
    name = made_table(
        **WITH_INDEX, **ON_DEMAND, StreamSpecification={"StreamEnabled": True, "StreamViewType": "NEW_AND_OLD_IMAGES"}
    )

    def told() -> dict[str, Any]:
        description = dynamodb.describe_continuous_backups(TableName=name)["ContinuousBackupsDescription"]
        assert description["ContinuousBackupsStatus"] == "ENABLED"
        recovery: dict[str, Any] = description["PointInTimeRecoveryDescription"]
        return recovery

    assert told() == {"PointInTimeRecoveryStatus": "DISABLED"}
    with pytest.raises(dynamodb.exceptions.PointInTimeRecoveryUnavailableException):
        dynamodb.restore_table_to_point_in_time(
            SourceTableName=name, TargetTableName=f"{name}-copy", UseLatestRestorableTime=True
        )
    specification = {"PointInTimeRecoveryEnabled": True, "RecoveryPeriodInDays": 7}
    dynamodb.put_item(TableName=name, Item={"id": {"S": "a"}, "n": {"N": "1"}})
    updated = dynamodb.update_continuous_backups(TableName=name, PointInTimeRecoverySpecification=specification)
    enabled = updated["ContinuousBackupsDescription"]["PointInTimeRecoveryDescription"]
    assert (enabled["PointInTimeRecoveryStatus"], enabled["RecoveryPeriodInDays"]) == ("ENABLED", 7)
    created = described(dynamodb, name)["CreationDateTime"]
    assert enabled["EarliestRestorableDateTime"] == created.replace(microsecond=0) + timedelta(
        seconds=int(created.microsecond > 0)
    )
    # As boto3 sends whole seconds, the first one after what was put.
    while (latest := told()["LatestRestorableDateTime"]) == enabled["LatestRestorableDateTime"]:
        pass
    dynamodb.put_item(TableName=name, Item={"id": {"S": "a"}, "n": {"N": "2"}})
    restored = dynamodb.restore_table_to_point_in_time(
        SourceTableName=name, TargetTableName=f"{name}-copy", RestoreDateTime=latest
    )["TableDescription"]
    assert restored["RestoreSummary"] == {
        "SourceTableArn": described(dynamodb, name)["TableArn"],
        "RestoreDateTime": latest,
        "RestoreInProgress": False,
    }
    assert dynamodb.get_item(TableName=f"{name}-copy", Key={"id": {"S": "a"}})["Item"]["n"] == {"N": "1"}
    with pytest.raises(dynamodb.exceptions.InvalidRestoreTimeException):
        dynamodb.restore_table_to_point_in_time(
            SourceTableName=name,
            TargetTableName=f"{name}-late",
            RestoreDateTime=datetime.now(UTC) + timedelta(hours=1),
        )
    dynamodb.update_continuous_backups(
        TableName=name, PointInTimeRecoverySpecification={"PointInTimeRecoveryEnabled": False}
    )
    assert told() == {"PointInTimeRecoveryStatus": "DISABLED"}


def test_operations_of_backups_have_their_own_error_for_a_table_that_is_not_there(dynamodb: Any) -> None:
    missing = dynamodb.exceptions.TableNotFoundException
    with pytest.raises(missing, match="Table not found: nosuch"):
        dynamodb.create_backup(TableName="nosuch", BackupName="nightly")
    with pytest.raises(missing):
        dynamodb.describe_continuous_backups(TableName="nosuch")
    with pytest.raises(missing):
        dynamodb.update_continuous_backups(
            TableName="nosuch", PointInTimeRecoverySpecification={"PointInTimeRecoveryEnabled": True}
        )
    for source in (
        {"SourceTableName": "nosuch"},
        {"SourceTableArn": f"arn:aws:dynamodb:{REGION}:000000000000:table/nosuch"},
    ):
        with pytest.raises(missing):
            dynamodb.restore_table_to_point_in_time(TargetTableName="copy", UseLatestRestorableTime=True, **source)
