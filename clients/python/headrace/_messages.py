"""Requests out of plain values, and descriptions out of responses. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, TypeVar, cast

from google.protobuf.timestamp_pb2 import Timestamp

from headrace._models import (
    Action,
    BackupDescription,
    BackupDetails,
    Capacity,
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
    KeyAttributes,
    Keys,
    LocalIndex,
    OnDemandThroughput,
    Operation,
    Page,
    ParkedKey,
    PointInTimeRecovery,
    ProvisionedThroughput,
    Put,
    ReadUsage,
    RestoreSummary,
    Shard,
    ShardCheckpoint,
    ShardExplanation,
    Stream,
    StreamDescription,
    StreamSettings,
    TableDescription,
    ThroughputChanges,
    TimeToLive,
    Update,
    WarmThroughput,
)
from headrace._values import fill_attributes, from_item, to_item
from headrace.errors import (
    CancellationReason,
    ConditionalCheckFailedError,
    HeadraceError,
    TransactionCanceledError,
    ValidationError,
    from_message,
)
from headrace.v1 import (
    attribute_value_pb2,
    backup_service_pb2,
    consumer_service_pb2,
    item_service_pb2,
    record_pb2,
    stream_service_pb2,
    table_pb2,
    table_service_pb2,
)

if TYPE_CHECKING:
    # Exists only for type checkers: what mypy-protobuf derives the enums from.
    from google.protobuf.internal.enum_type_wrapper import _EnumTypeWrapper

_EnumValue = TypeVar("_EnumValue", bound=int)
_Value = TypeVar("_Value")
_WriteRequest: TypeAlias = (
    item_service_pb2.PutItemRequest | item_service_pb2.UpdateItemRequest | item_service_pb2.DeleteItemRequest
)

# Every enum has a value 0 of this name, after the enum's own name in upper snake case.
_UNSPECIFIED = "UNSPECIFIED"


def enum_value(enum: _EnumTypeWrapper[_EnumValue], name: str, field: str) -> _EnumValue:
    """The enum's value called `name`, its prefix left out.

    Raises: ValidationError naming the field and the names allowed.
    """
    prefix = enum.keys()[0].removesuffix(_UNSPECIFIED)
    names = [key.removeprefix(prefix) for key in enum.keys()[1:]]
    if name not in names:
        raise ValidationError(f"{field}: {name!r} is not one of {', '.join(names)}", metadata={"field": field})
    return enum.Value(prefix + name)


def enum_name(enum: _EnumTypeWrapper[_EnumValue], value: _EnumValue) -> str:
    """The name of an enum's value, its prefix left out: ACTIVE for TABLE_STATUS_ACTIVE."""
    return enum.Name(value).removeprefix(enum.keys()[0].removesuffix(_UNSPECIFIED))


# Requests


def to_create_table_request(
    table: str,
    partition_key: tuple[str, str],
    sort_key: tuple[str, str] | None,
    local_indexes: Iterable[LocalIndex],
    global_indexes: Iterable[GlobalIndex],
) -> table_service_pb2.CreateTableRequest:
    request = table_service_pb2.CreateTableRequest(table_name=table)
    sort_keys = () if sort_key is None else (sort_key,)
    keys = _Keys((partition_key,), sort_keys)
    request.key_schema.extend(keys.schema)
    definitions = keys.definitions
    for local in local_indexes:
        keys = _Keys((partition_key,), (local.sort_key,))
        definitions |= keys.definitions
        request.local_secondary_indexes.add(
            index_name=local.index_name, key_schema=keys.schema, projection=_to_projection(local)
        )
    for index in global_indexes:
        definitions |= _keys_of_global(index).definitions
        request.global_secondary_indexes.append(_to_global_index(index))
    request.attribute_definitions.extend(map(_to_attribute_definition, definitions))
    return request


def fill_index_updates(
    request: table_service_pb2.UpdateTableRequest,
    create: GlobalIndex | None,
    update: Mapping[str, tuple[int, int] | GlobalIndexUpdate] | None,
    delete: str | None,
) -> None:
    """Adds changes of global indexes to a request."""
    updates = request.global_secondary_index_updates
    if create is not None:
        definitions = _keys_of_global(create).definitions
        request.attribute_definitions.extend(map(_to_attribute_definition, definitions))
        updates.add(create=_to_global_index(create))
    for name, asked in (update or {}).items():
        wanted = asked if isinstance(asked, GlobalIndexUpdate) else GlobalIndexUpdate(provisioned_throughput=asked)
        change = table_service_pb2.UpdateGlobalSecondaryIndex(index_name=name)
        _fill_throughput(change, wanted)
        updates.add(update=change)
    if delete is not None:
        updates.add(delete=table_service_pb2.DeleteGlobalSecondaryIndex(index_name=delete))


def fill_settings(
    request: table_service_pb2.CreateTableRequest | table_service_pb2.UpdateTableRequest,
    *,
    on_demand_throughput: tuple[int | None, int | None] | None,
    warm_throughput: tuple[int | None, int | None] | None,
    table_class: str | None,
    encryption: bool | str | None,
) -> None:
    """Sets what creating and updating a table have in common."""
    if on_demand_throughput is not None:
        request.on_demand_throughput.CopyFrom(_to_on_demand(on_demand_throughput))
    if warm_throughput is not None:
        request.warm_throughput.CopyFrom(_to_warm(warm_throughput))
    if table_class is not None:
        request.table_class = enum_value(table_pb2.TableClass, table_class, "table_class")
    if encryption is not None:
        key = encryption if isinstance(encryption, str) else ""
        request.sse_specification.CopyFrom(
            table_pb2.SseSpecification(enabled=encryption is not False, kms_master_key_id=key)
        )


def _fill_throughput(
    message: table_pb2.GlobalSecondaryIndex | table_service_pb2.UpdateGlobalSecondaryIndex,
    wanted: GlobalIndex | GlobalIndexUpdate,
) -> None:
    if wanted.provisioned_throughput is not None:
        message.provisioned_throughput.CopyFrom(to_throughput(wanted.provisioned_throughput))
    if wanted.on_demand_throughput is not None:
        message.on_demand_throughput.CopyFrom(_to_on_demand(wanted.on_demand_throughput))
    if wanted.warm_throughput is not None:
        message.warm_throughput.CopyFrom(_to_warm(wanted.warm_throughput))


def _to_on_demand(throughput: tuple[int | None, int | None]) -> table_pb2.OnDemandThroughput:
    reads, writes = throughput
    return table_pb2.OnDemandThroughput(max_read_request_units=reads, max_write_request_units=writes)


def _to_warm(throughput: tuple[int | None, int | None]) -> table_pb2.WarmThroughput:
    reads, writes = throughput
    return table_pb2.WarmThroughput(read_units_per_second=reads, write_units_per_second=writes)


def to_throughput(throughput: tuple[int, int]) -> table_pb2.ProvisionedThroughput:
    read_capacity_units, write_capacity_units = throughput
    return table_pb2.ProvisionedThroughput(
        read_capacity_units=read_capacity_units, write_capacity_units=write_capacity_units
    )


def to_tags(tags: Mapping[str, str] | None) -> list[table_pb2.Tag]:
    return [table_pb2.Tag(key=key, value=value) for key, value in (tags or {}).items()]


class _Keys:
    """The key attributes of a table or an index: their roles, and their types, in order."""

    def __init__(self, partition_keys: Iterable[tuple[str, str]], sort_keys: Iterable[tuple[str, str]]) -> None:
        keys = [
            *((key, table_pb2.KEY_TYPE_HASH) for key in partition_keys),
            *((key, table_pb2.KEY_TYPE_RANGE) for key in sort_keys),
        ]
        self.schema = [table_pb2.KeySchemaElement(attribute_name=name, key_type=role) for (name, _), role in keys]
        # A dict, for a set has no order. The broker refuses a name that has two types.
        self.definitions = dict.fromkeys(key for key, _ in keys)


def _keys_of_global(index: GlobalIndex) -> _Keys:
    return _Keys(_attributes(index.partition_key), () if index.sort_key is None else _attributes(index.sort_key))


def _attributes(key: KeyAttributes) -> Iterable[tuple[str, str]]:
    """The attributes of a key that is given as one of them, or as several."""
    if key and isinstance(key[0], str):
        return (cast("tuple[str, str]", key),)
    return cast("tuple[tuple[str, str], ...]", key)


def _to_attribute_definition(key: tuple[str, str]) -> table_pb2.AttributeDefinition:
    name, type_name = key
    attribute_type = enum_value(table_pb2.ScalarAttributeType, type_name, f"the type of key attribute {name!r}")
    return table_pb2.AttributeDefinition(attribute_name=name, attribute_type=attribute_type)


def _to_global_index(index: GlobalIndex) -> table_pb2.GlobalSecondaryIndex:
    message = table_pb2.GlobalSecondaryIndex(
        index_name=index.index_name,
        key_schema=_keys_of_global(index).schema,
        projection=_to_projection(index),
    )
    _fill_throughput(message, index)
    return message


def _to_projection(index: LocalIndex | GlobalIndex) -> table_pb2.Projection:
    projection_type = enum_value(table_pb2.ProjectionType, index.projection, "projection")
    return table_pb2.Projection(projection_type=projection_type, non_key_attributes=index.non_key_attributes)


def to_stream_settings(settings: StreamSettings) -> table_pb2.StreamSettings:
    return table_pb2.StreamSettings(
        retention_period_in_seconds=settings.retention_s,
        retention_bytes=settings.retention_bytes,
        min_shards=settings.min_shards,
        max_shards=settings.max_shards,
        automatic_merges=settings.automatic_merges,
        shard_roll_period_in_seconds=settings.shard_roll_period_s,
    )


def to_timestamp(time: datetime) -> Timestamp:
    """A time as a message; one without a zone is the local time, as everywhere in Python."""
    timestamp = Timestamp()
    timestamp.FromDatetime(time.astimezone(UTC))
    return timestamp


def to_stream_specification(stream: str | None) -> table_pb2.StreamSpecification:
    if stream is None:
        return table_pb2.StreamSpecification(stream_enabled=False)
    view_type = enum_value(record_pb2.StreamViewType, stream, "stream")
    return table_pb2.StreamSpecification(stream_enabled=True, stream_view_type=view_type)


def to_put_request(table: str, put: Put) -> item_service_pb2.PutItemRequest:
    request = item_service_pb2.PutItemRequest(table_name=table)
    _fill_put(request, put)
    return request


def to_update_request(table: str, update: Update) -> item_service_pb2.UpdateItemRequest:
    request = item_service_pb2.UpdateItemRequest(table_name=table)
    _fill_update(request, update)
    return request


def to_delete_request(table: str, delete: Delete) -> item_service_pb2.DeleteItemRequest:
    request = item_service_pb2.DeleteItemRequest(table_name=table)
    _fill_delete(request, delete)
    return request


def fill_operation(target: item_service_pb2.WriteOperation, operation: Operation) -> None:
    """Sets one operation of a batch whose table is named by the batch."""
    if isinstance(operation, Put):
        target.put.SetInParent()
        _fill_put(target.put, operation)
    elif isinstance(operation, Update):
        target.update.SetInParent()
        _fill_update(target.update, operation)
    else:
        target.delete.SetInParent()
        _fill_delete(target.delete, operation)


def to_batch_write_request(
    operations: Mapping[str, Iterable[Put | Delete]],
) -> item_service_pb2.BatchWriteItemRequest:
    request = item_service_pb2.BatchWriteItemRequest()
    for table, operation in _by_table(operations):
        if isinstance(operation, Put):
            request.operations.add(put=to_put_request(table, operation))
        else:
            request.operations.add(delete=to_delete_request(table, operation))
    return request


def to_batch_get_request(
    keys: Mapping[str, Keys | Iterable[Mapping[str, Any]]],
) -> item_service_pb2.BatchGetItemRequest:
    request = item_service_pb2.BatchGetItemRequest()
    for table, of_table in keys.items():
        wanted = of_table if isinstance(of_table, Keys) else Keys(of_table)
        request.tables.add(
            table_name=table,
            keys=map(to_item, wanted.keys),
            consistent_read=wanted.consistent_read,
            projection_expression=wanted.projection,
            expression_attribute_names=wanted.names,
        )
    return request


def to_transact_write_request(
    actions: Iterable[tuple[str, Action]], client_request_token: str
) -> item_service_pb2.TransactWriteItemsRequest:
    request = item_service_pb2.TransactWriteItemsRequest(client_request_token=client_request_token)
    for table, action in actions:
        target = request.transact_items.add()
        if isinstance(action, Put):
            target.put.CopyFrom(to_put_request(table, action))
        elif isinstance(action, Update):
            target.update.CopyFrom(to_update_request(table, action))
        elif isinstance(action, Delete):
            target.delete.CopyFrom(to_delete_request(table, action))
        else:
            check = target.condition_check
            check.table_name = table
            fill_attributes(check.key.attributes, action.key)
            _fill_condition(check, action)
    return request


def to_transact_get_request(gets: Iterable[tuple[str, Get]]) -> item_service_pb2.TransactGetItemsRequest:
    request = item_service_pb2.TransactGetItemsRequest()
    for table, get in gets:
        request.transact_items.add(
            table_name=table,
            key=to_item(get.key),
            projection_expression=get.projection,
            expression_attribute_names=get.names,
        )
    return request


def fill_read(
    request: item_service_pb2.QueryRequest | item_service_pb2.ScanRequest,
    *,
    index: str | None,
    filter_expression: str | None,
    projection: str | None,
    names: Mapping[str, str] | None,
    values: Mapping[str, Any] | None,
    select: str | None,
    limit: int | None,
    exclusive_start_key: Mapping[str, Any] | None,
    consistent_read: bool,
) -> None:
    """Sets what Query and Scan have in common."""
    # An empty text is sent, so that the broker can refuse it; it is not the same as none.
    if index is not None:
        request.index_name = index
    if filter_expression is not None:
        request.filter_expression = filter_expression
    if projection is not None:
        request.projection_expression = projection
    request.expression_attribute_names.update(names or {})
    fill_attributes(request.expression_attribute_values, values or {})
    if select is not None:
        request.select = enum_value(item_service_pb2.Select, select, "select")
    if limit is not None:
        request.limit = limit
    if exclusive_start_key is not None:
        request.exclusive_start_key.CopyFrom(to_item(exclusive_start_key))
    request.consistent_read = consistent_read


def _by_table(values: Mapping[str, Iterable[_Value]]) -> Iterable[tuple[str, _Value]]:
    return ((table, value) for table, of_table in values.items() for value in of_table)


def _fill_put(request: item_service_pb2.PutItemRequest, put: Put) -> None:
    fill_attributes(request.item.attributes, put.item)
    _fill_condition(request, put)
    _fill_return_values(request, put)


def _fill_update(request: item_service_pb2.UpdateItemRequest, update: Update) -> None:
    fill_attributes(request.key.attributes, update.key)
    if update.update is not None:
        request.update_expression = update.update
    _fill_condition(request, update)
    _fill_return_values(request, update)


def _fill_delete(request: item_service_pb2.DeleteItemRequest, delete: Delete) -> None:
    fill_attributes(request.key.attributes, delete.key)
    _fill_condition(request, delete)
    _fill_return_values(request, delete)


def _fill_condition(request: _WriteRequest | item_service_pb2.ConditionCheck, action: Action) -> None:
    if action.condition is not None:
        request.condition_expression = action.condition
    if action.names:
        request.expression_attribute_names.update(action.names)
    if action.values:
        fill_attributes(request.expression_attribute_values, action.values)
    if action.return_old_on_failure:
        request.return_values_on_condition_check_failure = (
            item_service_pb2.RETURN_VALUES_ON_CONDITION_CHECK_FAILURE_ALL_OLD
        )


def _fill_return_values(request: _WriteRequest, operation: Operation) -> None:
    if operation.return_values != "NONE":
        request.return_values = enum_value(item_service_pb2.ReturnValues, operation.return_values, "return_values")


# Results


class MeteredRequest(Protocol):
    """A request that may ask for what it consumes."""

    return_consumed_capacity: item_service_pb2.ReturnConsumedCapacity.ValueType


class MeteredResponse(Protocol):
    """A response that may tell what was consumed: of one table, or of each."""

    @property
    def consumed_capacity(self) -> item_service_pb2.ConsumedCapacity | Iterable[item_service_pb2.ConsumedCapacity]:
        """What was consumed."""


class HasItem(Protocol):
    """A response, or a part of one, that may have an item."""

    @property
    def item(self) -> attribute_value_pb2.Item:
        """The item."""

    def HasField(self, field_name: Literal["item"], /) -> bool:  # noqa: N802 - the word of protobuf
        """Whether it has one."""


class WriteOutcome(Protocol):
    """What the response of each single write, and each result of WriteItems, tells."""

    @property
    def attributes(self) -> attribute_value_pb2.Item:
        """What the write returns of the item."""

    @property
    def condition_check_failure(self) -> item_service_pb2.ConditionCheckFailure:
        """What it shows if its condition did not hold."""

    def HasField(self, field_name: Literal["attributes", "condition_check_failure"], /) -> bool:  # noqa: N802
        """Whether it has this."""


def to_found(message: HasItem) -> Item | None:
    """The item, None if there is none."""
    return from_item(message.item) if message.HasField("item") else None


def to_attributes(outcome: WriteOutcome) -> Item | None:
    """What a write returned, None if there is nothing of it.

    Raises: ConditionalCheckFailedError with the item, if the condition of the write did not hold.
    """
    if outcome.HasField("condition_check_failure"):
        raise to_condition_error(outcome.condition_check_failure)
    return from_item(outcome.attributes) if outcome.HasField("attributes") else None


def to_condition_error(failure: item_service_pb2.ConditionCheckFailure) -> ConditionalCheckFailedError:
    return ConditionalCheckFailedError("the conditional request failed", item=to_found(failure))


def to_write_error(result: item_service_pb2.WriteResult) -> HeadraceError | None:
    if result.HasField("error"):
        return from_message(result.error)
    if result.HasField("condition_check_failure"):
        return to_condition_error(result.condition_check_failure)
    return None


def to_transaction_error(
    reasons: Iterable[item_service_pb2.CancellationReason],
) -> TransactionCanceledError:
    told = [CancellationReason(reason.code, reason.message, to_found(reason)) for reason in reasons]
    codes = ", ".join(reason.code for reason in told)
    return TransactionCanceledError(f"the transaction was cancelled, for these reasons: [{codes}]", reasons=told)


def to_page(message: item_service_pb2.QueryResponse | item_service_pb2.ScanResponse) -> Page:
    consumed = message.consumed_capacity
    return Page(
        items=tuple(map(from_item, message.items)),
        count=message.count,
        scanned_count=message.scanned_count,
        last_evaluated_key=from_item(message.last_evaluated_key) if message.HasField("last_evaluated_key") else None,
        consumed_capacity=to_consumed_capacity(consumed) if message.HasField("consumed_capacity") else None,
    )


def to_consumed_capacities(response: MeteredResponse) -> Iterable[ConsumedCapacity]:
    consumed = response.consumed_capacity
    return map(
        to_consumed_capacity, [consumed] if isinstance(consumed, item_service_pb2.ConsumedCapacity) else consumed
    )


def to_consumed_capacity(message: item_service_pb2.ConsumedCapacity) -> ConsumedCapacity:
    return ConsumedCapacity(
        table_name=message.table_name,
        total=_to_capacity(message.total),
        table=_to_capacity(message.table),
        local_indexes={name: _to_capacity(part) for name, part in message.local_secondary_indexes.items()},
        global_indexes={name: _to_capacity(part) for name, part in message.global_secondary_indexes.items()},
    )


def _to_capacity(message: item_service_pb2.Capacity) -> Capacity:
    return Capacity(message.capacity_units, message.read_capacity_units, message.write_capacity_units)


# Descriptions


def to_table_description(message: table_pb2.TableDescription) -> TableDescription:
    types = {
        definition.attribute_name: enum_name(table_pb2.ScalarAttributeType, definition.attribute_type)
        for definition in message.attribute_definitions
    }
    partition_key, *sort_keys = _to_keys(message.key_schema, types)
    specification = message.stream_specification
    # A broker that says nothing of it provisions nothing.
    is_provisioned = message.billing_mode == table_pb2.BILLING_MODE_PROVISIONED
    return TableDescription(
        table_name=message.table_name,
        table_arn=message.table_arn,
        table_id=message.table_id,
        table_status=enum_name(table_pb2.TableStatus, message.table_status),
        partition_key=partition_key,
        sort_key=sort_keys[0] if sort_keys else None,
        creation_date_time=message.creation_date_time.ToDatetime(UTC),
        stream_view_type=(
            enum_name(record_pb2.StreamViewType, specification.stream_view_type)
            if specification.stream_enabled
            else None
        ),
        latest_stream_label=message.latest_stream_label or None,
        latest_stream_arn=message.latest_stream_arn or None,
        stream_settings=StreamSettings(
            retention_s=message.stream_settings.retention_period_in_seconds,
            retention_bytes=message.stream_settings.retention_bytes,
            min_shards=message.stream_settings.min_shards,
            max_shards=message.stream_settings.max_shards,
            automatic_merges=message.stream_settings.automatic_merges,
            shard_roll_period_s=message.stream_settings.shard_roll_period_in_seconds,
        ),
        billing_mode="PROVISIONED" if is_provisioned else "PAY_PER_REQUEST",
        provisioned_throughput=_to_throughput(message.provisioned_throughput) if is_provisioned else None,
        local_indexes=tuple(_to_index(index, types) for index in message.local_secondary_indexes),
        global_indexes=tuple(_to_index(index, types) for index in message.global_secondary_indexes),
        deletion_protection_enabled=message.deletion_protection_enabled,
        item_count=message.item_count,
        table_size_bytes=message.table_size_bytes,
        throughput_changes=_to_changes(message),
        last_update_to_pay_per_request_date_time=_to_time(message, "last_update_to_pay_per_request_date_time"),
        on_demand_throughput=_from_on_demand(message),
        warm_throughput=_from_warm(message),
        table_class=(
            enum_name(table_pb2.TableClass, message.table_class_summary.table_class)
            if message.HasField("table_class_summary")
            else "STANDARD"
        ),
        table_class_update_date_time=_to_time(message.table_class_summary, "last_update_date_time"),
        kms_master_key_arn=message.sse_description.kms_master_key_arn or None,
        restore_summary=_to_restore_summary(message),
    )


def _to_index(message: table_pb2.IndexDescription, types: Mapping[str, str]) -> IndexDescription:
    partition_count = sum(element.key_type == table_pb2.KEY_TYPE_HASH for element in message.key_schema)
    keys = _to_keys(message.key_schema, types)
    return IndexDescription(
        index_name=message.index_name,
        index_arn=message.index_arn,
        partition_keys=keys[:partition_count],
        sort_keys=keys[partition_count:],
        projection=enum_name(table_pb2.ProjectionType, message.projection.projection_type),
        non_key_attributes=tuple(message.projection.non_key_attributes),
        index_status=enum_name(table_pb2.IndexStatus, message.index_status),
        backfilling=message.backfilling,
        provisioned_throughput=(
            _to_throughput(message.provisioned_throughput) if message.HasField("provisioned_throughput") else None
        ),
        item_count=message.item_count,
        index_size_bytes=message.index_size_bytes,
        throughput_changes=_to_changes(message),
        on_demand_throughput=_from_on_demand(message),
        warm_throughput=_from_warm(message),
    )


def _to_changes(message: table_pb2.TableDescription | table_pb2.IndexDescription) -> ThroughputChanges | None:
    if not message.HasField("throughput_changes"):
        return None
    changes = message.throughput_changes
    return ThroughputChanges(
        _to_time(changes, "last_increase_date_time"),
        _to_time(changes, "last_decrease_date_time"),
        changes.number_of_decreases_today,
    )


def _from_on_demand(message: table_pb2.TableDescription | table_pb2.IndexDescription) -> OnDemandThroughput | None:
    if not message.HasField("on_demand_throughput"):
        return None
    told = message.on_demand_throughput
    return OnDemandThroughput(
        told.max_read_request_units if told.HasField("max_read_request_units") else None,
        told.max_write_request_units if told.HasField("max_write_request_units") else None,
    )


def _from_warm(message: table_pb2.TableDescription | table_pb2.IndexDescription) -> WarmThroughput | None:
    if not message.HasField("warm_throughput"):
        return None
    told = message.warm_throughput
    return WarmThroughput(told.read_units_per_second, told.write_units_per_second)


def _to_restore_summary(message: table_pb2.TableDescription) -> RestoreSummary | None:
    if not message.HasField("restore_summary"):
        return None
    told = message.restore_summary
    return RestoreSummary(told.source_backup_arn or None, told.source_table_arn, told.restore_date_time.ToDatetime(UTC))


def _to_time(message: Any, field: str) -> datetime | None:
    """A time that may be absent."""
    return getattr(message, field).ToDatetime(UTC) if message.HasField(field) else None


def _to_throughput(message: table_pb2.ProvisionedThroughput) -> ProvisionedThroughput:
    return ProvisionedThroughput(message.read_capacity_units, message.write_capacity_units)


def _to_keys(key_schema: Iterable[table_pb2.KeySchemaElement], types: Mapping[str, str]) -> tuple[KeyAttribute, ...]:
    """The attributes of the partition key, then those of the sort key."""
    return tuple(KeyAttribute(name, types[name]) for name in _key_names(key_schema))


def to_time_to_live(message: table_service_pb2.DescribeTimeToLiveResponse) -> TimeToLive:
    return TimeToLive(
        time_to_live_status=enum_name(table_service_pb2.TimeToLiveStatus, message.time_to_live_status),
        attribute_name=message.attribute_name or None,
    )


def to_backup_details(message: backup_service_pb2.BackupDetails) -> BackupDetails:
    """A backup in a listing."""
    return BackupDetails(**_backup_fields(message))


def to_backup_description(message: backup_service_pb2.BackupDescription) -> BackupDescription:
    """A backup and what is in it."""
    return BackupDescription(**_backup_fields(message.backup_details), table_names=tuple(message.table_names))


def to_recovery(message: backup_service_pb2.ContinuousBackupsDescription) -> PointInTimeRecovery:
    told = message.point_in_time_recovery_description
    return PointInTimeRecovery(
        enabled=told.point_in_time_recovery_status == backup_service_pb2.CONTINUOUS_BACKUPS_STATUS_ENABLED,
        recovery_period_in_days=told.recovery_period_in_days or None,
        earliest_restorable_date_time=_to_time(told, "earliest_restorable_date_time"),
        latest_restorable_date_time=_to_time(told, "latest_restorable_date_time"),
    )


def _backup_fields(message: backup_service_pb2.BackupDetails) -> dict[str, Any]:
    return {
        "backup_arn": message.backup_arn,
        "backup_name": message.backup_name,
        "backup_status": enum_name(backup_service_pb2.BackupStatus, message.backup_status),
        "backup_size_bytes": message.backup_size_bytes,
        "backup_creation_date_time": message.backup_creation_date_time.ToDatetime(UTC),
        "sequence_number": message.sequence_number or None,
    }


def to_stream(message: stream_service_pb2.Stream) -> Stream:
    return Stream(stream_arn=message.stream_arn, table_name=message.table_name, stream_label=message.stream_label)


def to_stream_description(
    message: stream_service_pb2.StreamDescription, shards: Iterable[stream_service_pb2.Shard]
) -> StreamDescription:
    """The description of a stream with the shards of all pages."""
    keys = _key_names(message.key_schema)
    return StreamDescription(
        stream_arn=message.stream_arn,
        stream_label=message.stream_label,
        stream_status=enum_name(stream_service_pb2.StreamStatus, message.stream_status),
        stream_view_type=enum_name(record_pb2.StreamViewType, message.stream_view_type),
        creation_request_date_time=message.creation_request_date_time.ToDatetime(UTC),
        table_name=message.table_name,
        partition_key=keys[0],
        sort_key=keys[1] if len(keys) > 1 else None,
        shards=tuple(map(to_shard, shards)),
        retained_records=message.retained_records,
        retained_bytes=message.retained_bytes,
        read_usage=ReadUsage(
            read_request_units=message.read_usage.read_request_units,
            returned_records=message.read_usage.returned_records,
            returned_bytes=message.read_usage.returned_bytes,
        ),
    )


def to_shard(message: stream_service_pb2.Shard) -> Shard:
    return Shard(
        shard_id=message.shard_id,
        starting_sequence_number=message.sequence_number_range.starting_sequence_number,
        ending_sequence_number=message.sequence_number_range.ending_sequence_number or None,
        parent_shard_id=message.parent_shard_id or None,
        adjacent_parent_shard_id=message.adjacent_parent_shard_id or None,
        starting_hash_key=message.hash_key_range.starting_hash_key,
        ending_hash_key=message.hash_key_range.ending_hash_key,
    )


def to_consumer_group(message: consumer_service_pb2.ConsumerGroupDescription) -> ConsumerGroup:
    return ConsumerGroup(
        group_name=message.group_name,
        stream_arn=message.stream_arn,
        create_time=message.create_time.ToDatetime(UTC),
        shards=tuple(
            ShardCheckpoint(
                shard_id=shard.shard_id,
                sequence_number=shard.sequence_number or None,
                lease_epoch=shard.lease_epoch,
                shard_end=shard.shard_end,
                millis_behind_latest=shard.millis_behind_latest,
                records_behind_latest=shard.records_behind_latest,
                member_name=shard.member_name or None,
            )
            for shard in message.shards
        ),
        member_names=tuple(message.member_names),
        parked_keys=message.parked_keys,
        parked_records=message.parked_records,
    )


def to_explanation(message: consumer_service_pb2.ExplainConsumerGroupResponse) -> ConsumerGroupExplanation:
    return ConsumerGroupExplanation(
        summary=message.summary,
        shards=tuple(
            ShardExplanation(
                shard_id=shard.shard_id,
                progress=enum_name(consumer_service_pb2.ShardProgress, shard.progress),
                text=shard.text,
                member_name=shard.member_name or None,
                lease_epoch=shard.lease_epoch,
                in_flight_records=shard.in_flight_records,
                in_flight_age_ms=shard.in_flight_age_ms,
                records_behind_latest=shard.records_behind_latest,
                millis_behind_latest=shard.millis_behind_latest,
                attempts=shard.attempts,
                last_error=shard.last_error,
            )
            for shard in message.shards
        ),
        group=to_consumer_group(message.consumer_group),
    )


def to_parked_key(message: consumer_service_pb2.ParkedKey) -> ParkedKey:
    return ParkedKey(
        parked_id=message.parked_id,
        key=from_item(message.key),
        shard_id=message.shard_id,
        sequence_number=message.sequence_number,
        attempts=message.attempts,
        last_error=message.last_error,
        park_time=message.park_time.ToDatetime(UTC),
        records=message.records,
        bytes=message.bytes,
        redriving=message.redriving,
    )


def to_gap(message: consumer_service_pb2.ShardGap) -> Gap:
    return Gap(
        first_lost_sequence_number=message.first_lost_sequence_number,
        last_lost_sequence_number=message.last_lost_sequence_number,
        lost_from=message.lost_from.ToDatetime(UTC),
        lost_to=message.lost_to.ToDatetime(UTC),
    )


def _key_names(key_schema: Iterable[table_pb2.KeySchemaElement]) -> list[str]:
    """The names of the key attributes, partition key first."""
    return [element.attribute_name for element in sorted(key_schema, key=lambda element: element.key_type)]
