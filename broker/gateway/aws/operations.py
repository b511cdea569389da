"""DynamoDB's operations, each a call of our services: where the two differ in shape, it is told here.

Requests and responses are JSON values in the shapes of the Amazon DynamoDB API Reference.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable, Mapping
from hashlib import md5
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from broker.gateway.aws import legacy
from broker.gateway.aws.errors import (
    conditional_check_failed,
    policy_not_found,
    table_to_back_up_not_found,
    table_to_describe_not_found,
    transaction_canceled,
)
from broker.gateway.aws.partiql.execute import PartiQL
from broker.model.errors import BackupNotFoundError, ResourceNotFoundError, TableNotFoundError, ValidationError
from broker.tables.validate import table_name_of

if TYPE_CHECKING:
    from broker.model.turns import Turns

Json: TypeAlias = dict[str, Any]
Call: TypeAlias = Callable[[str, Json], Awaitable[Json]]
Operation: TypeAlias = Callable[[Json], Awaitable[Json]]
# None is answered with an empty body.
AnyOperation: TypeAlias = Callable[[Json], Awaitable[Json | None]]

# What AWS allows a new account; nothing is limited by account here. Source: Developer Guide, "Quotas in DynamoDB".
_ACCOUNT_CAPACITY_UNITS: Final = 80_000
_TABLE_CAPACITY_UNITS: Final = 40_000
_GIGABYTE: Final = 1024**3
_ENDPOINT_CACHE_MINUTES: Final = 1440
# Of a table that is being deleted. Source: API Reference, the example of DeleteTable.
_TOLD_OF_DELETED: Final = (
    "TableName",
    "TableArn",
    "TableId",
    "TableStatus",
    "ItemCount",
    "TableSizeBytes",
    "ProvisionedThroughput",
    "BillingModeSummary",
    "DeletionProtectionEnabled",
)
# In the ARN of a backup at which a page of them ends; no table has this name.
_ANY_TABLE: Final = "-"
_ACTIONS: Final = ("ConditionCheck", "Put", "Delete", "Update")

_INDEX_OVERRIDES: Final = ("GlobalSecondaryIndexOverride", "LocalSecondaryIndexOverride", "VectorIndexOverride")
# Parameters that would change what an operation does, and do not here.
_UNSUPPORTED: Final[Mapping[str, tuple[str, ...]]] = {
    "CreateTable": ("ResourcePolicy", "GlobalTableSourceArn", "GlobalTableSettingsReplicationMode", "VectorIndexes"),
    "UpdateTable": (
        "ReplicaUpdates",
        "GlobalTableWitnessUpdates",
        "MultiRegionConsistency",
        "GlobalTableSettingsReplicationMode",
        "DisassociationProtectionEnabled",
        "VectorIndexUpdates",
    ),
    "ListBackups": ("TimeRangeLowerBound", "TimeRangeUpperBound"),
    "RestoreTableFromBackup": _INDEX_OVERRIDES,
    "RestoreTableToPointInTime": _INDEX_OVERRIDES,
}


class DynamoDB:
    """The operations of DynamoDB and of DynamoDB Streams."""

    def __init__(self, call: Call, region: str, turns: Turns) -> None:
        """`call` carries out a method of our services. Long work takes `turns`."""
        self.turns = turns
        self._call = call
        self._region = region
        operations: dict[str, Operation] = {
            "PutItem": self._writing("PutItem"),
            "UpdateItem": self._writing("UpdateItem"),
            "DeleteItem": self._writing("DeleteItem"),
            "GetItem": self._get_item,
            "BatchGetItem": self._batch_get_item,
            "BatchWriteItem": self._batch_write_item,
            "Query": self._paging("Query"),
            "Scan": self._paging("Scan"),
            "TransactWriteItems": self._transact_write_items,
            "TransactGetItems": self._transact_get_items,
            "CreateTable": self._create_table,
            "UpdateTable": self._update_table,
            "DescribeTable": self._describe_table,
            "DeleteTable": self._delete_table,
            "ListTables": self._list_tables,
            "UpdateTimeToLive": self._update_time_to_live,
            "DescribeTimeToLive": self._describe_time_to_live,
            "ListTagsOfResource": self._list_tags,
            "UpdateContinuousBackups": self._update_continuous_backups,
            "DescribeContinuousBackups": self._describe_continuous_backups,
            "RestoreTableToPointInTime": self._restore_to_point_in_time,
            "DescribeLimits": self._describe_limits,
            "CreateBackup": self._create_backup,
            "DescribeBackup": self._describe_backup,
            "DeleteBackup": self._delete_backup,
            "ListBackups": self._list_backups,
            "RestoreTableFromBackup": self._restore_table,
            "DescribeContributorInsights": self._describe_contributor_insights,
            "DescribeKinesisStreamingDestination": self._describe_kinesis_destination,
            "GetResourcePolicy": self._get_resource_policy,
            "ListExports": _listing_none("ExportSummaries"),
            "ListImports": _listing_none("ImportSummaryList"),
        }
        for name in legacy.OPERATIONS:
            operations[name] = _modernized(name, operations[name])
        # A statement reads or writes items, so a table that is not there is told as those operations tell it.
        statements = PartiQL({**operations, "DescribeTable": self._describe_for_items}, turns)
        self.tables_and_items: Mapping[str, AnyOperation] = {
            **operations,
            "TagResource": self._answering_nothing("TagResource"),
            "UntagResource": self._answering_nothing("UntagResource"),
            "ExecuteStatement": statements.execute_statement,
            "BatchExecuteStatement": statements.execute_batch,
            "ExecuteTransaction": statements.execute_transaction,
        }
        self.streams: Mapping[str, AnyOperation] = {
            "ListStreams": self._list_streams,
            "DescribeStream": self._describe_stream,
            "GetShardIterator": self._get_shard_iterator,
            "GetRecords": self._get_records,
        }

    # Items.

    def _writing(self, name: str) -> Operation:
        async def write(request: Json) -> Json:
            response = await self._call(name, request)
            failure = response.get("ConditionCheckFailure")
            if failure is not None:
                raise conditional_check_failed(failure.get("Item"))
            metrics = response.get("ItemCollectionMetrics")
            if metrics is not None:
                response["ItemCollectionMetrics"] = _collection(metrics)
            return _with_capacity(response, request)

        return write

    async def _get_item(self, request: Json) -> Json:
        return _with_capacity(await self._call("GetItem", request), request)

    async def _batch_get_item(self, request: Json) -> Json:
        tables = request["RequestItems"]
        asked = {
            "Tables": [{**keys, "TableName": name} for name, keys in tables.items()],
            "ReturnConsumedCapacity": request.get("ReturnConsumedCapacity"),
        }
        response = await self._call("BatchGetItem", asked)
        unprocessed = {keys.pop("TableName"): keys for keys in response.get("UnprocessedKeys", ())}
        found = {items["TableName"]: items.get("Items", []) for items in response.get("Tables", ())}
        return _with_capacities({"Responses": found, "UnprocessedKeys": unprocessed}, response, tables)

    async def _batch_write_item(self, request: Json) -> Json:
        operations = [
            _write_operation(name, write) for name, writes in request["RequestItems"].items() for write in writes
        ]
        asked = {"Operations": operations} | {
            name: request.get(name) for name in ("ReturnConsumedCapacity", "ReturnItemCollectionMetrics")
        }
        response = await self._call("BatchWriteItem", asked)
        unprocessed: dict[str, list[Json]] = {}
        for operation in response.get("UnprocessedOperations", ()):
            ((kind, write),) = operation.items()
            part = "Item" if kind == "Put" else "Key"
            unprocessed.setdefault(write["TableName"], []).append({f"{kind}Request": {part: write[part]}})
        tables = request["RequestItems"]
        return _with_capacities({"UnprocessedItems": unprocessed, **_collections(response, tables)}, response, tables)

    def _paging(self, name: str) -> Operation:
        async def page(request: Json) -> Json:
            response = _with_capacity(await self._call(name, request), request)
            response.setdefault("Count", 0)
            response.setdefault("ScannedCount", 0)
            if request.get("Select") != "COUNT":
                response.setdefault("Items", [])
            return response

        return page

    async def _transact_write_items(self, request: Json) -> Json:
        for action in request["TransactItems"]:
            if sum(action.get(kind) is not None for kind in _ACTIONS) != 1:
                raise ValidationError("TransactItems can only contain one of Check, Put, Update or Delete")
        response = await self._call("TransactWriteItems", request)
        reasons = response.pop("CancellationReasons", None)
        if reasons is not None:
            raise transaction_canceled(reasons)
        tables = [
            action[kind]["TableName"] for action in request["TransactItems"] for kind in _ACTIONS if kind in action
        ]
        return _with_capacities(_collections(response, tables), response, tables, transactional=True)

    async def _transact_get_items(self, request: Json) -> Json:
        gets = [action["Get"] for action in request["TransactItems"]]
        response = await self._call("TransactGetItems", {**request, "TransactItems": gets})
        tables = [get["TableName"] for get in gets]
        return _with_capacities({"Responses": response["Responses"]}, response, tables, transactional=True)

    # Tables.

    async def _create_table(self, request: Json) -> Json:
        _check_supported("CreateTable", request)
        # Without a billing mode AWS means PROVISIONED, we mean PAY_PER_REQUEST.
        response = await self._call("CreateTable", {"BillingMode": "PROVISIONED", **request})
        return {"TableDescription": _table(response["TableDescription"])}

    async def _update_table(self, request: Json) -> Json:
        _check_supported("UpdateTable", request)
        response = await self._on_table("UpdateTable", request)
        return {"TableDescription": _table(response["TableDescription"])}

    async def _describe_table(self, request: Json) -> Json:
        response = await self._on_table("DescribeTable", request)
        return {"Table": _table(response["Table"])}

    async def _describe_for_items(self, request: Json) -> Json:
        return await self._call("DescribeTable", request)

    async def _delete_table(self, request: Json) -> Json:
        response = await self._on_table("DeleteTable", request)
        description = _table(response["TableDescription"])
        return {"TableDescription": {name: description[name] for name in _TOLD_OF_DELETED if name in description}}

    async def _on_table(self, name: str, request: Json) -> Json:
        """Carries out what is asked of a table itself, whose error names the table."""
        try:
            return await self._call(name, request)
        except TableNotFoundError as error:
            raise table_to_describe_not_found(error.name) from error

    async def _on_backed_up(self, name: str, request: Json) -> Json:
        """Carries out what is asked of the backups of a table, whose error is one of its own."""
        try:
            return await self._call(name, request)
        except TableNotFoundError as error:
            raise table_to_back_up_not_found(error.name) from error

    async def _list_tables(self, request: Json) -> Json:
        return {"TableNames": [], **await self._call("ListTables", request)}

    async def _update_time_to_live(self, request: Json) -> Json:
        response = await self._on_table("UpdateTimeToLive", request)
        specification = {"Enabled": False, **response["TimeToLiveSpecification"]}
        return {"TimeToLiveSpecification": specification}

    async def _describe_time_to_live(self, request: Json) -> Json:
        return {"TimeToLiveDescription": await self._on_table("DescribeTimeToLive", request)}

    def _answering_nothing(self, name: str) -> Callable[[Json], Awaitable[None]]:
        async def carry_out(request: Json) -> None:
            await self._call(name, request)

        return carry_out

    async def _list_tags(self, request: Json) -> Json:
        response = await self._call("ListTagsOfResource", request)
        tags = [{"Value": "", **tag} for tag in response.get("Tags", ())]
        return {**response, "Tags": tags}

    async def _update_continuous_backups(self, request: Json) -> Json:
        return _recovery(await self._on_backed_up("UpdateContinuousBackups", request))

    async def _describe_continuous_backups(self, request: Json) -> Json:
        return _recovery(await self._on_backed_up("DescribeContinuousBackups", request))

    async def _restore_to_point_in_time(self, request: Json) -> Json:
        _check_supported("RestoreTableToPointInTime", request)
        response = await self._on_backed_up("RestoreTableToPointInTime", request)
        return {"TableDescription": _table(response["TableDescription"])}

    async def _describe_limits(self, _: Json) -> Json:
        return {
            "AccountMaxReadCapacityUnits": _ACCOUNT_CAPACITY_UNITS,
            "AccountMaxWriteCapacityUnits": _ACCOUNT_CAPACITY_UNITS,
            "TableMaxReadCapacityUnits": _TABLE_CAPACITY_UNITS,
            "TableMaxWriteCapacityUnits": _TABLE_CAPACITY_UNITS,
        }

    # What there never is here: the answers for a table for which it was never switched on.

    async def _describe_contributor_insights(self, request: Json) -> Json:
        table = (await self._on_table("DescribeTable", {"TableName": request["TableName"]}))["Table"]
        result = {"TableName": table["TableName"], "ContributorInsightsStatus": "DISABLED"}
        index_name = request.get("IndexName")
        if index_name is None:
            return result
        if index_name not in {index["IndexName"] for index in table.get("GlobalSecondaryIndexes", ())}:
            raise ResourceNotFoundError(
                f"Requested resource not found: Index: {index_name} of table: {table['TableName']} not found"
            )
        return {**result, "IndexName": index_name}

    async def _describe_kinesis_destination(self, request: Json) -> Json:
        table = (await self._on_table("DescribeTable", {"TableName": request["TableName"]}))["Table"]
        return {"TableName": table["TableName"], "KinesisDataStreamDestinations": []}

    async def _get_resource_policy(self, request: Json) -> Json:
        arn = request["ResourceArn"]
        # Both raise if there is no such table or stream.
        if "/stream/" in arn:
            await self._call("DescribeStream", {"StreamArn": arn, "Limit": 1})
        else:
            await self._call("ListTagsOfResource", {"ResourceArn": arn})
        raise policy_not_found(arn)

    # Backups. Ours are of all tables: a table's backup is named by both, arn:...:table/NAME/backup/ID.

    async def _create_backup(self, request: Json) -> Json:
        table = (await self._on_backed_up("DescribeTable", {"TableName": request["TableName"]}))["Table"]
        response = await self._call("CreateBackup", {"BackupName": request.get("BackupName")})
        return {"BackupDetails": _backup_details(response["BackupDetails"], table["TableName"])}

    async def _describe_backup(self, request: Json) -> Json:
        return await self._on_backup("DescribeBackup", request)

    async def _delete_backup(self, request: Json) -> Json:
        return await self._on_backup("DeleteBackup", request)

    async def _on_backup(self, name: str, request: Json) -> Json:
        response, table_name = await self._call_on_backup(name, request)
        described = response["BackupDescription"]
        source = {"ItemCount": 0, "TableSizeBytes": 0, **described["SourceTableDetails"]}
        source["ProvisionedThroughput"] = _units(source)
        features = described.get("SourceTableFeatureDetails", {})
        for index in features.get("GlobalSecondaryIndexes", ()):
            index["ProvisionedThroughput"] = _units(index)
        description = {
            "BackupDetails": _backup_details(described["BackupDetails"], table_name),
            "SourceTableDetails": source,
            "SourceTableFeatureDetails": features,
        }
        return {"BackupDescription": description}

    async def _call_on_backup(self, name: str, request: Json) -> tuple[Json, str]:
        """Call a method for the table's backup that a request names; return the response and the table's name."""
        sent = request.get("BackupArn")
        arn, table_name = _split_backup_arn(sent)
        try:
            return await self._call(name, {**request, "BackupArn": arn, "SourceTableName": table_name}), table_name
        except BackupNotFoundError:
            # The ARN of the whole backup means nothing to the caller.
            raise BackupNotFoundError(f"Backup not found: {sent}", backup_arn=sent) from None

    async def _list_backups(self, request: Json) -> Json:
        _check_supported("ListBackups", request)
        named = request.get("TableName")
        table_name = None if named is None else table_name_of(named, self._region)
        start = request.get("ExclusiveStartBackupArn")
        asked = {
            "ExclusiveStartBackupArn": start and _split_backup_arn(start)[0],
            "Limit": request.get("Limit"),
        }
        response = await self._call("ListBackups", asked)
        summaries: list[Json] = []
        for details in response.get("BackupSummaries", ()):
            described = await self._call("DescribeBackup", {"BackupArn": details["BackupArn"]})
            names = described["BackupDescription"].get("TableNames", ())
            summaries.extend(
                {"TableName": name, **_backup_details(details, name)}
                for name in names
                if table_name is None or name == table_name
            )
        result: Json = {"BackupSummaries": summaries}
        if "LastEvaluatedBackupArn" in response:
            result["LastEvaluatedBackupArn"] = _backup_arn(response["LastEvaluatedBackupArn"], table_name or _ANY_TABLE)
        return result

    async def _restore_table(self, request: Json) -> Json:
        _check_supported("RestoreTableFromBackup", request)
        response, _ = await self._call_on_backup("RestoreTableFromBackup", request)
        return {"TableDescription": _table(response["TableDescription"])}

    # Streams.

    async def _list_streams(self, request: Json) -> Json:
        return {"Streams": [], **await self._call("ListStreams", request)}

    async def _describe_stream(self, request: Json) -> Json:
        # Clients of AWS know one parent of a shard.
        response = await self._call("DescribeStream", {**request, "AsTree": True})
        stream = response["StreamDescription"]
        for ours in ("RetainedRecords", "RetainedBytes", "ReadUsage"):
            stream.pop(ours, None)
        for shard in stream.setdefault("Shards", []):
            for ours in ("HashKeyRange", "AdjacentParentShardId"):
                shard.pop(ours, None)
        return response

    async def _get_shard_iterator(self, request: Json) -> Json:
        return await self._call("GetShardIterator", request)

    async def _get_records(self, request: Json) -> Json:
        asked = {"ShardIterator": request.get("ShardIterator"), "Limit": request.get("Limit")}
        response = await self._call("GetRecords", asked)
        stream_arn = response["StreamArn"]
        result: Json = {
            "Records": [_record(record, stream_arn, self._region) for record in response.get("Records", ())]
        }
        if "NextShardIterator" in response:
            result["NextShardIterator"] = response["NextShardIterator"]
        return result


def _modernized(name: str, operation: Operation) -> Operation:
    async def carry_out(request: Json) -> Json:
        modern = legacy.modernize(name, request)
        try:
            return await operation(modern)
        except ValidationError as error:
            told = legacy.restated(error, request)
            if told is error:
                raise
            raise told from error

    return carry_out


def describe_endpoints(host: str) -> Json:
    """DescribeEndpoints: the one that was asked."""
    return {"Endpoints": [{"Address": host, "CachePeriodInMinutes": _ENDPOINT_CACHE_MINUTES}]}


def _check_supported(operation: str, request: Json) -> None:
    for name in _UNSUPPORTED[operation]:
        if request.get(name) is not None:
            raise ValidationError(f"{name} is not supported", field=name)


def _write_operation(table_name: str, write: Json) -> Json:
    put, delete = write.get("PutRequest"), write.get("DeleteRequest")
    if put is not None and delete is None:
        return {"Put": {"TableName": table_name, "Item": put["Item"]}}
    if delete is not None and put is None:
        return {"Delete": {"TableName": table_name, "Key": delete["Key"]}}
    raise ValidationError(
        "Supplied AttributeValue has more than one datatypes set, or none: a write request must have exactly one of "
        "PutRequest and DeleteRequest",
        field="RequestItems",
    )


def _listing_none(member: str) -> Operation:
    """A list of what there never is here."""

    async def answer(request: Json) -> Json:
        if request.get("NextToken") is not None:
            raise ValidationError("NextToken is not one that this operation has given", field="NextToken")
        return {member: []}

    return answer


def _with_capacity(response: Json, request: Json) -> Json:
    consumed = response.get("ConsumedCapacity")
    if consumed is not None:
        response["ConsumedCapacity"] = _consumed(consumed, request["TableName"], transactional=False)
    return response


def _with_capacities(result: Json, response: Json, named: Iterable[str], *, transactional: bool = False) -> Json:
    consumed = response.get("ConsumedCapacity")
    if consumed is not None:
        sent = _as_sent(named)
        result["ConsumedCapacity"] = [
            _consumed(each, sent[each["TableName"]], transactional=transactional) for each in consumed
        ]
    return result


def _collections(response: Json, named: Iterable[str]) -> Json:
    """The sizes of item collections by table, if there are any."""
    collections = response.get("ItemCollectionMetrics")
    if not collections:
        return {}
    tables: dict[str, list[Json]] = {}
    sent = _as_sent(named)
    for metrics in collections:
        tables.setdefault(sent[metrics["TableName"]], []).append(_collection(metrics))
    return {"ItemCollectionMetrics": tables}


def _as_sent(named: Iterable[str]) -> dict[str, str]:
    """How a request names each table, by the table's name: whoever sends an ARN is answered with it."""
    return {name.rpartition("/")[2]: name for name in named}


def _collection(metrics: Json) -> Json:
    # AWS estimates; here it is known.
    size = int(metrics.get("SizeBytes", 0)) / _GIGABYTE
    return {"ItemCollectionKey": metrics["ItemCollectionKey"], "SizeEstimateRangeGB": [size, size]}


def _consumed(consumed: Json, table_name: str, *, transactional: bool) -> Json:
    result = {"TableName": table_name, **_capacity(consumed.get("Total", {}), transactional=transactional)}
    if "Table" in consumed:
        result["Table"] = _capacity(consumed["Table"], transactional=transactional)
    for kind in ("LocalSecondaryIndexes", "GlobalSecondaryIndexes"):
        if kind in consumed:
            result[kind] = {name: _capacity(part, transactional=transactional) for name, part in consumed[kind].items()}
    return result


def _capacity(capacity: Json, *, transactional: bool) -> Json:
    # Only transactions tell reads and writes apart.
    return {
        "CapacityUnits": capacity.get("CapacityUnits", 0.0),
        **({name: units for name, units in capacity.items() if name != "CapacityUnits"} if transactional else {}),
    }


def _table(description: Json) -> Json:
    """A table in DynamoDB's shape, which tells also zeros."""
    description.pop("StreamSettings", None)
    mode, since = description.pop("BillingMode"), description.pop("LastUpdateToPayPerRequestDateTime", None)
    if since is not None:
        description["BillingModeSummary"] = {"BillingMode": mode, "LastUpdateToPayPerRequestDateTime": since}
    description["WarmThroughput"]["Status"] = "ACTIVE"
    restored = description.get("RestoreSummary")
    if restored is not None:
        restored["RestoreInProgress"] = False
        if "SourceBackupArn" in restored:
            source = restored["SourceTableArn"].rpartition("/")[2]
            restored["SourceBackupArn"] = _backup_arn(restored["SourceBackupArn"], source)
    for name in ("ItemCount", "TableSizeBytes"):
        description.setdefault(name, 0)
    description.setdefault("DeletionProtectionEnabled", False)
    description["ProvisionedThroughput"] = _throughput(description)
    for index in description.get("LocalSecondaryIndexes", ()):
        # Local indexes are as old as their table, so AWS does not give them a status.
        index.pop("IndexStatus", None)
        _fill_index(index)
    for index in description.get("GlobalSecondaryIndexes", ()):
        index["ProvisionedThroughput"] = _throughput(index)
        index["WarmThroughput"]["Status"] = "ACTIVE"
        _fill_index(index)
    return description


def _fill_index(index: Json) -> None:
    for name in ("ItemCount", "IndexSizeBytes"):
        index.setdefault(name, 0)


def _throughput(description: Json) -> Json:
    return {"NumberOfDecreasesToday": 0, **_units(description), **description.pop("ThroughputChanges", {})}


def _units(description: Json) -> Json:
    return {"ReadCapacityUnits": 0, "WriteCapacityUnits": 0, **description.get("ProvisionedThroughput", {})}


def _recovery(response: Json) -> Json:
    """Point-in-time recovery, its times in whole seconds inside of the window: AWS's clients send no others."""
    recovery = response["ContinuousBackupsDescription"]["PointInTimeRecoveryDescription"]
    if "EarliestRestorableDateTime" in recovery:
        earliest = math.ceil(recovery["EarliestRestorableDateTime"])
        recovery["EarliestRestorableDateTime"] = earliest
        recovery["LatestRestorableDateTime"] = max(earliest, math.floor(recovery["LatestRestorableDateTime"]))
    return response


def _backup_details(details: Json, table_name: str) -> Json:
    arn = _backup_arn(details["BackupArn"], table_name)
    result = {name: details[name] for name in ("BackupName", "BackupStatus", "BackupCreationDateTime")}
    return {**result, "BackupArn": arn, "BackupType": "USER", "BackupSizeBytes": details.get("BackupSizeBytes", 0)}


def _backup_arn(arn: str, table_name: str) -> str:
    return arn.replace(":backup/", f":table/{table_name}/backup/")


def _split_backup_arn(arn: Any) -> tuple[str, str]:
    """The ARN of one of our backups, and the table of which it is to AWS's clients."""
    if isinstance(arn, str):
        head, table_found, rest = arn.partition(":table/")
        table_name, backup_found, id_ = rest.partition("/backup/")
        if table_found and backup_found:
            return f"{head}:backup/{id_}", table_name
    raise ValidationError("BackupArn must be arn:...:table/NAME/backup/ID", field="BackupArn")


def _record(record: Json, stream_arn: str, region: str) -> Json:
    """A change record in DynamoDB's shape. Source: DynamoDB Streams API Reference, "Record"."""
    number = record["SequenceNumber"]
    change = {
        # AWS rounds down to the second.
        "ApproximateCreationDateTime": int(record["ApproximateCreationDateTime"]),
        "Keys": record["Keys"],
        "SequenceNumber": number,
        "SizeBytes": record["SizeBytes"],
        "StreamViewType": record["StreamViewType"],
    }
    for image in ("NewImage", "OldImage"):
        if image in record:
            change[image] = record[image]
    result = {
        "eventID": md5(f"{stream_arn}/{number}".encode(), usedforsecurity=False).hexdigest(),
        "eventName": record["EventName"],
        "eventVersion": "1.1",
        "eventSource": "aws:dynamodb",
        "awsRegion": region,
        "dynamodb": change,
    }
    if "UserIdentity" in record:
        result["userIdentity"] = record["UserIdentity"]
    return result
