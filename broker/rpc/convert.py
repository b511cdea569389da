"""Between the public messages and the model. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from google.protobuf import timestamp_pb2

from broker.model.errors import ValidationError
from broker.model.sequence import format_sequence_number
from broker.model.tables import KeyAttributeType, StreamSettings, StreamViewType, table_arn
from headrace.v1 import record_pb2, stream_service_pb2, table_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable

    from broker.model.tables import KeyAttribute, Shard, Stream, Table
    from broker.streams.metering import ReadUsage
    from broker.tables.catalog import Catalog

_MILLIS_PER_SECOND: Final = 1000
_NANOS_PER_MILLI: Final = 1_000_000

_VIEW_TYPE_TO_PB: Final = {view: record_pb2.StreamViewType.Value(f"STREAM_VIEW_TYPE_{view}") for view in StreamViewType}
_VIEW_TYPE_FROM_PB: Final = {number: view for view, number in _VIEW_TYPE_TO_PB.items()}
_SCALAR_TO_PB: Final = {
    letter: table_pb2.ScalarAttributeType.Value(f"SCALAR_ATTRIBUTE_TYPE_{letter}") for letter in KeyAttributeType
}
_SCALAR_FROM_PB: Final = {number: letter.value for letter, number in _SCALAR_TO_PB.items()}
_KEY_ROLES: Final = {table_pb2.KEY_TYPE_HASH: "HASH", table_pb2.KEY_TYPE_RANGE: "RANGE"}


def timestamp(millis: int) -> timestamp_pb2.Timestamp:
    """A time in milliseconds since 1970 UTC as a message."""
    seconds, rest = divmod(millis, _MILLIS_PER_SECOND)
    return timestamp_pb2.Timestamp(seconds=seconds, nanos=rest * _NANOS_PER_MILLI)


def millis(time: timestamp_pb2.Timestamp) -> int:
    """A message as a time in milliseconds since 1970 UTC."""
    return time.seconds * _MILLIS_PER_SECOND + time.nanos // _NANOS_PER_MILLI


def view_type_to_enable(specification: table_pb2.StreamSpecification) -> StreamViewType | None:
    """The view type of a stream to be on, or None if it is to be off. Raises ValidationError."""
    view_type = _VIEW_TYPE_FROM_PB.get(specification.stream_view_type)
    if specification.stream_enabled:
        if view_type is None:
            raise ValidationError(
                "One or more parameter values were invalid: stream_view_type must satisfy enum value set: "
                f"[{', '.join(StreamViewType)}] when stream_enabled is true",
                field="stream_specification.stream_view_type",
            )
        return view_type
    if specification.stream_view_type:
        raise ValidationError(
            "One or more parameter values were invalid: stream_view_type must not be given when stream_enabled is "
            "false",
            field="stream_specification.stream_view_type",
        )
    return None


def key_schema_pairs(schema: Iterable[table_pb2.KeySchemaElement]) -> list[tuple[str, str]]:
    """(name, role) pairs; an unknown role is empty."""
    return [(element.attribute_name, _KEY_ROLES.get(element.key_type, "")) for element in schema]


def definition_letters(definitions: Iterable[table_pb2.AttributeDefinition]) -> dict[str, str | None]:
    """Type letters by name; an unknown type is None."""
    return {d.attribute_name: _SCALAR_FROM_PB.get(d.attribute_type) for d in definitions}


def key_schema(attributes: Iterable[KeyAttribute]) -> list[table_pb2.KeySchemaElement]:
    """A primary key as messages."""
    roles = (table_pb2.KEY_TYPE_HASH, table_pb2.KEY_TYPE_RANGE)
    return [
        table_pb2.KeySchemaElement(attribute_name=attribute.name, key_type=role)
        for attribute, role in zip(attributes, roles, strict=False)
    ]


def table_description(
    table: Table, catalog: Catalog, status: table_pb2.TableStatus.ValueType = table_pb2.TABLE_STATUS_ACTIVE
) -> table_pb2.TableDescription:
    """A table as users see it."""
    description = table_pb2.TableDescription(
        table_name=table.name,
        table_arn=table_arn(catalog.region, table.name),
        table_id=table.uuid,
        table_status=status,
        key_schema=key_schema(table.key_attributes),
        attribute_definitions=[
            table_pb2.AttributeDefinition(attribute_name=a.name, attribute_type=_SCALAR_TO_PB[a.type])
            for a in table.key_attributes
        ],
        creation_date_time=timestamp(table.create_time_ms),
        stream_settings=stream_settings(table.stream_settings),
    )
    stream = catalog.newest_stream(table)
    if stream is not None:
        description.latest_stream_label = stream.label
        description.latest_stream_arn = catalog.stream_arn(stream)
        if stream.is_enabled:
            description.stream_specification.stream_enabled = True
            description.stream_specification.stream_view_type = _VIEW_TYPE_TO_PB[stream.view_type]
    return description


def stream_description(
    stream: Stream, arn: str, shards: Iterable[Shard], last_evaluated_shard_id: str
) -> stream_service_pb2.StreamDescription:
    """A stream as users see it, with one page of its shards."""
    return stream_service_pb2.StreamDescription(
        stream_arn=arn,
        stream_label=stream.label,
        stream_status=(
            stream_service_pb2.STREAM_STATUS_ENABLED if stream.is_enabled else stream_service_pb2.STREAM_STATUS_DISABLED
        ),
        stream_view_type=_VIEW_TYPE_TO_PB[stream.view_type],
        creation_request_date_time=timestamp(stream.create_time_ms),
        table_name=stream.table_name,
        key_schema=key_schema(stream.key_attributes),
        shards=[shard(each) for each in shards],
        last_evaluated_shard_id=last_evaluated_shard_id,
    )


def changed_settings(settings: StreamSettings, change: table_pb2.StreamSettings) -> StreamSettings:
    """Settings with those replaced that are present in a message."""
    changes: dict[str, int] = {}
    if change.HasField("retention_period_in_seconds"):
        changes["retention_seconds"] = change.retention_period_in_seconds
    for name in ("retention_bytes", "min_shards", "max_shards"):
        if change.HasField(name):
            changes[name] = getattr(change, name)
    return replace(settings, **changes)


def stream_settings(settings: StreamSettings) -> table_pb2.StreamSettings:
    """Settings as users see them, defaults filled in."""
    return table_pb2.StreamSettings(
        retention_period_in_seconds=settings.retention_seconds,
        retention_bytes=settings.retention_bytes,
        min_shards=settings.min_shards,
        max_shards=settings.shards_max,
    )


def read_usage(usage: ReadUsage) -> stream_service_pb2.ReadUsage:
    """What was read of a stream as users see it."""
    return stream_service_pb2.ReadUsage(
        read_request_units=usage.read_request_units,
        returned_records=usage.returned_records,
        returned_bytes=usage.returned_bytes,
    )


def shard(shard: Shard) -> stream_service_pb2.Shard:
    """A shard as users see it."""
    ending = shard.ending_sequence_number
    return stream_service_pb2.Shard(
        shard_id=shard.shard_id,
        sequence_number_range=stream_service_pb2.SequenceNumberRange(
            starting_sequence_number=format_sequence_number(shard.starting_sequence_number),
            ending_sequence_number="" if ending is None else format_sequence_number(ending),
        ),
        parent_shard_id=shard.parent_shard_id,
        adjacent_parent_shard_id=shard.adjacent_parent_shard_id,
        hash_key_range=stream_service_pb2.HashKeyRange(
            starting_hash_key=shard.first_hash, ending_hash_key=shard.last_hash
        ),
    )
