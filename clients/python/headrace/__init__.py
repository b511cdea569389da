"""Headrace from Python: tables, items, change streams and durable consumers.

    with headrace.Client() as client:
        client.create_table("flights", partition_key=("id", "S"), stream="NEW_AND_OLD_IMAGES")
        client.put_item("flights", {"id": "UA-1545", "dep_delay": 2})

`AsyncClient` is the same for asyncio. Everything public is named here; importing it loads nothing but this module.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from headrace._async.client import AsyncClient
    from headrace._async.consume import AsyncConsumerBatch
    from headrace._async.consumer_function import AsyncConsumerFunction
    from headrace._capacity import CapacityMeter
    from headrace._consumes import consumes
    from headrace._models import (
        Action,
        BackupDescription,
        BackupDetails,
        Capacity,
        ConditionCheck,
        ConsumedCapacity,
        ConsumerGroup,
        ConsumerGroupExplanation,
        Delete,
        Gap,
        Get,
        GlobalIndex,
        GlobalIndexUpdate,
        IndexDescription,
        Item,
        KeyAttribute,
        Keys,
        KeyType,
        LocalIndex,
        NackReason,
        OnDemandThroughput,
        Operation,
        Page,
        ParkedKey,
        PointInTimeRecovery,
        ProjectionType,
        ProvisionedThroughput,
        Put,
        ReadUsage,
        RestoreSummary,
        ReturnValues,
        Select,
        Shard,
        ShardCheckpoint,
        ShardExplanation,
        ShardIteratorType,
        Stream,
        StreamDescription,
        StreamSettings,
        TableClass,
        TableDescription,
        ThroughputChanges,
        TimeToLive,
        Update,
        Version,
        ViewType,
        WarmThroughput,
        WriteResult,
    )
    from headrace._records import ChangeRecord, RecordBatch
    from headrace._sync.client import Client
    from headrace._sync.consume import ConsumerBatch
    from headrace._sync.consumer_function import ConsumerFunction
    from headrace.errors import (
        BackupInUseError,
        BackupNotFoundError,
        CancellationReason,
        ConditionalCheckFailedError,
        DeadlineExceededError,
        ExpiredIteratorError,
        HeadraceError,
        IdempotentParameterMismatchError,
        InvalidRestoreTimeError,
        LeaseFencedError,
        LimitExceededError,
        PointInTimeRecoveryUnavailableError,
        ProvisionedThroughputExceededError,
        ResourceInUseError,
        ResourceNotFoundError,
        TableAlreadyExistsError,
        ThrottlingError,
        TransactionCanceledError,
        TrimmedDataAccessError,
        UnavailableError,
        ValidationError,
    )

__all__ = [
    "Action",
    "AsyncClient",
    "AsyncConsumerBatch",
    "AsyncConsumerFunction",
    "BackupDescription",
    "BackupDetails",
    "BackupInUseError",
    "BackupNotFoundError",
    "CancellationReason",
    "Capacity",
    "CapacityMeter",
    "ChangeRecord",
    "Client",
    "ConditionCheck",
    "ConditionalCheckFailedError",
    "ConsumedCapacity",
    "ConsumerBatch",
    "ConsumerFunction",
    "ConsumerGroup",
    "ConsumerGroupExplanation",
    "DeadlineExceededError",
    "Delete",
    "ExpiredIteratorError",
    "Gap",
    "Get",
    "GlobalIndex",
    "GlobalIndexUpdate",
    "HeadraceError",
    "IdempotentParameterMismatchError",
    "IndexDescription",
    "InvalidRestoreTimeError",
    "Item",
    "KeyAttribute",
    "KeyType",
    "Keys",
    "LeaseFencedError",
    "LimitExceededError",
    "LocalIndex",
    "NackReason",
    "OnDemandThroughput",
    "Operation",
    "Page",
    "ParkedKey",
    "PointInTimeRecovery",
    "PointInTimeRecoveryUnavailableError",
    "ProjectionType",
    "ProvisionedThroughput",
    "ProvisionedThroughputExceededError",
    "Put",
    "ReadUsage",
    "RecordBatch",
    "ResourceInUseError",
    "ResourceNotFoundError",
    "RestoreSummary",
    "ReturnValues",
    "Select",
    "Shard",
    "ShardCheckpoint",
    "ShardExplanation",
    "ShardIteratorType",
    "Stream",
    "StreamDescription",
    "StreamSettings",
    "TableAlreadyExistsError",
    "TableClass",
    "TableDescription",
    "ThrottlingError",
    "ThroughputChanges",
    "TimeToLive",
    "TransactionCanceledError",
    "TrimmedDataAccessError",
    "UnavailableError",
    "Update",
    "ValidationError",
    "Version",
    "ViewType",
    "WarmThroughput",
    "WriteResult",
    "consumes",
]

_MODULES = {
    "AsyncClient": "headrace._async.client",
    "AsyncConsumerBatch": "headrace._async.consume",
    "CancellationReason": "headrace.errors",
    "CapacityMeter": "headrace._capacity",
    "ChangeRecord": "headrace._records",
    "Client": "headrace._sync.client",
    "AsyncConsumerFunction": "headrace._async.consumer_function",
    "ConsumerBatch": "headrace._sync.consume",
    "ConsumerFunction": "headrace._sync.consumer_function",
    "RecordBatch": "headrace._records",
    "consumes": "headrace._consumes",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = _MODULES.get(name, "headrace.errors" if name.endswith("Error") else "headrace._models")
    value: object = getattr(import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
