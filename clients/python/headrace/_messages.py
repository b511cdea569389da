"""Requests out of plain values, and descriptions out of responses. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

from google.protobuf.timestamp_pb2 import Timestamp

from headrace._models import (
    BackupDescription,
    BackupDetails,
    ConsumerGroup,
    ConsumerGroupExplanation,
    Delete,
    Gap,
    KeyAttribute,
    Operation,
    ParkedKey,
    Put,
    ReadUsage,
    Shard,
    ShardCheckpoint,
    ShardExplanation,
    Stream,
    StreamDescription,
    StreamSettings,
    TableDescription,
    Update,
)
from headrace._values import fill_attributes, from_item
from headrace.errors import ValidationError
from headrace.v1 import (
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
    stream: str | None,
    stream_settings: StreamSettings | None,
) -> table_service_pb2.CreateTableRequest:
    request = table_service_pb2.CreateTableRequest(table_name=table)
    for key, role in ((partition_key, table_pb2.KEY_TYPE_HASH), (sort_key, table_pb2.KEY_TYPE_RANGE)):
        if key is None:
            continue
        name, type_name = key
        attribute_type = enum_value(table_pb2.ScalarAttributeType, type_name, f"the type of key attribute {name!r}")
        request.key_schema.add(attribute_name=name, key_type=role)
        request.attribute_definitions.add(attribute_name=name, attribute_type=attribute_type)
    if stream is not None:
        request.stream_specification.CopyFrom(to_stream_specification(stream))
    if stream_settings is not None:
        request.stream_settings.CopyFrom(to_stream_settings(stream_settings))
    return request


def to_stream_settings(settings: StreamSettings) -> table_pb2.StreamSettings:
    return table_pb2.StreamSettings(
        retention_period_in_seconds=settings.retention_s,
        retention_bytes=settings.retention_bytes,
        min_shards=settings.min_shards,
        max_shards=settings.max_shards,
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


def _fill_put(request: item_service_pb2.PutItemRequest, put: Put) -> None:
    fill_attributes(request.item.attributes, put.item)
    _fill_expressions(request, put)


def _fill_update(request: item_service_pb2.UpdateItemRequest, update: Update) -> None:
    fill_attributes(request.key.attributes, update.key)
    request.update_expression = update.update
    _fill_expressions(request, update)


def _fill_delete(request: item_service_pb2.DeleteItemRequest, delete: Delete) -> None:
    fill_attributes(request.key.attributes, delete.key)
    _fill_expressions(request, delete)


def _fill_expressions(
    request: item_service_pb2.PutItemRequest | item_service_pb2.UpdateItemRequest | item_service_pb2.DeleteItemRequest,
    operation: Operation,
) -> None:
    if operation.condition is not None:
        request.condition_expression = operation.condition
    if operation.names:
        request.expression_attribute_names.update(operation.names)
    if operation.values:
        fill_attributes(request.expression_attribute_values, operation.values)


# Descriptions


def to_table_description(message: table_pb2.TableDescription) -> TableDescription:
    types = {
        definition.attribute_name: enum_name(table_pb2.ScalarAttributeType, definition.attribute_type)
        for definition in message.attribute_definitions
    }
    keys = [KeyAttribute(name, types[name]) for name in _key_names(message.key_schema)]
    specification = message.stream_specification
    return TableDescription(
        table_name=message.table_name,
        table_arn=message.table_arn,
        table_id=message.table_id,
        table_status=enum_name(table_pb2.TableStatus, message.table_status),
        partition_key=keys[0],
        sort_key=keys[1] if len(keys) > 1 else None,
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
        ),
    )


def to_backup_details(message: backup_service_pb2.BackupDetails) -> BackupDetails:
    """A backup in a listing."""
    return BackupDetails(**_backup_fields(message))


def to_backup_description(message: backup_service_pb2.BackupDescription) -> BackupDescription:
    """A backup and what is in it."""
    return BackupDescription(**_backup_fields(message.backup_details), table_names=tuple(message.table_names))


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
