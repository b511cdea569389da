"""Between the public messages and the model. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from google.protobuf import timestamp_pb2

from broker.model.constraints import length_at_least, one_of
from broker.model.errors import ConstraintError, ValidationError
from broker.model.sequence import format_sequence_number
from broker.model.tables import (
    Index,
    KeyAttributeType,
    ProjectionType,
    SomeThroughput,
    StreamSettings,
    StreamViewType,
    TableClass,
    Throughput,
    ThroughputChanges,
    index_arn,
    key_arn,
    table_arn,
)
from broker.tables.definition import BillingMode, NewTable, TableChange, key_types
from broker.tables.settings import IndexSettings, check_encryption
from broker.tables.validate import (
    INVALID,
    TAGS_MAX,
    check_attribute_definitions,
    check_count,
    check_definitions_used,
    check_key_schema,
    check_projection,
    check_table_name,
    check_tags,
    check_throughput,
)
from headrace.v1 import (
    backup_service_pb2,
    item_service_pb2,
    record_pb2,
    stream_service_pb2,
    table_pb2,
    table_service_pb2,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from google.protobuf.message import Message

    from broker.model.tables import Encryption, KeyAttribute, Restoration, Shard, Stream, Table
    from broker.streams.lanes import Lane
    from broker.streams.metering import ReadUsage
    from broker.tables.capacity import Consumption, Units
    from broker.tables.catalog import Catalog

    _HasThroughput: TypeAlias = (
        table_service_pb2.CreateTableRequest | table_service_pb2.UpdateTableRequest | table_pb2.GlobalSecondaryIndex
    )

_MILLIS_PER_SECOND: Final = 1000
_NANOS_PER_MILLI: Final = 1_000_000

_VIEW_TYPE_TO_PB: Final = {view: record_pb2.StreamViewType.Value(f"STREAM_VIEW_TYPE_{view}") for view in StreamViewType}
_VIEW_TYPE_FROM_PB: Final = {number: view for view, number in _VIEW_TYPE_TO_PB.items()}
_SCALAR_TO_PB: Final = {
    letter: table_pb2.ScalarAttributeType.Value(f"SCALAR_ATTRIBUTE_TYPE_{letter}") for letter in KeyAttributeType
}
_SCALAR_FROM_PB: Final = {number: letter.value for letter, number in _SCALAR_TO_PB.items()}
_PROJECTION_TO_PB: Final = {
    projection: table_pb2.ProjectionType.Value(f"PROJECTION_TYPE_{projection}") for projection in ProjectionType
}
_PROJECTION_FROM_PB: Final = {number: projection for projection, number in _PROJECTION_TO_PB.items()}
_BILLING_TO_PB: Final = {mode: table_pb2.BillingMode.Value(f"BILLING_MODE_{mode}") for mode in BillingMode}
_BILLING_FROM_PB: Final = {number: mode for mode, number in _BILLING_TO_PB.items()} | {
    table_pb2.BILLING_MODE_UNSPECIFIED: BillingMode.PAY_PER_REQUEST
}
_CLASS_TO_PB: Final = {each: table_pb2.TableClass.Value(f"TABLE_CLASS_{each}") for each in TableClass}
_CLASS_FROM_PB: Final = {number: each for each, number in _CLASS_TO_PB.items()}
_SSE_TYPES: Final = {
    table_pb2.SSE_TYPE_UNSPECIFIED: "",
    table_pb2.SSE_TYPE_AES256: "AES256",
    table_pb2.SSE_TYPE_KMS: "KMS",
}
_CAPACITY_LEVELS: Final = (
    item_service_pb2.RETURN_CONSUMED_CAPACITY_TOTAL,
    item_service_pb2.RETURN_CONSUMED_CAPACITY_INDEXES,
)
_KEY_ROLES: Final = {table_pb2.KEY_TYPE_HASH: "HASH", table_pb2.KEY_TYPE_RANGE: "RANGE"}


def text_of(request: Message, field: str) -> str | None:
    """Read a text that may be absent: None then. Raises ValidationError if it is there and empty."""
    if not request.HasField(field):
        return None
    text: str = getattr(request, field)
    if not text:
        raise ConstraintError(text, field, length_at_least(1), limit=1)
    return text


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
                f"{INVALID}StreamViewType must be one of [{', '.join(StreamViewType)}] when StreamEnabled is true",
                field="stream_specification.stream_view_type",
            )
        return view_type
    if specification.stream_view_type:
        raise ValidationError(
            f"{INVALID}StreamViewType must not be given when StreamEnabled is false",
            field="stream_specification.stream_view_type",
        )
    return None


def key_schema_pairs(schema: Iterable[table_pb2.KeySchemaElement]) -> list[tuple[str, str]]:
    """(name, role) pairs; an unknown role is empty."""
    return [(element.attribute_name, _KEY_ROLES.get(element.key_type, "")) for element in schema]


def definition_pairs(definitions: Iterable[table_pb2.AttributeDefinition]) -> list[tuple[str, str | None]]:
    """(name, type letter) pairs; an unknown type is None."""
    return [(d.attribute_name, _SCALAR_FROM_PB.get(d.attribute_type)) for d in definitions]


def tag_pairs(tags: Iterable[table_pb2.Tag]) -> list[tuple[str, str]]:
    """(key, value) pairs."""
    return [(tag.key, tag.value) for tag in tags]


def new_table(request: table_service_pb2.CreateTableRequest, name: str) -> NewTable:
    """The table that a request asks for, under a name that was checked. Raises ValidationError."""
    definitions = check_attribute_definitions(definition_pairs(request.attribute_definitions))
    (partition_key,), sort_keys = check_key_schema(key_schema_pairs(request.key_schema), definitions)
    indexes = (
        *(
            _index(index, definitions, f"local_secondary_indexes.{number}.member")
            for number, index in enumerate(request.local_secondary_indexes, 1)
        ),
        *(
            _index(index, definitions, f"global_secondary_indexes.{number}.member")
            for number, index in enumerate(request.global_secondary_indexes, 1)
        ),
    )
    keys = (partition_key, *sort_keys, *(key for index in indexes for key in index.key_attributes))
    used = dict.fromkeys(key.name for key in keys)
    check_definitions_used(definitions, used, has_indexes=bool(indexes))
    tags = check_tags(tag_pairs(request.tags))
    check_count(tags, "tags", 0, TAGS_MAX)
    return NewTable(
        name=name,
        partition_key=partition_key,
        sort_key=sort_keys[0] if sort_keys else None,
        view_type=view_type_to_enable(request.stream_specification),
        stream_settings=replace(StreamSettings(), **changed_settings(request.stream_settings)),
        indexes=indexes,
        index_settings={
            index.index_name: _index_settings(index, index.index_name) for index in request.global_secondary_indexes
        },
        throughput=_new_table_throughput(request),
        warm_throughput=_warm_throughput(request),
        on_demand_maximum=_on_demand_maximum(request),
        table_class=_table_class(request.table_class),
        encryption=_encryption(request.sse_specification),
        is_protected=request.deletion_protection_enabled,
        tags=tags,
    )


def table_change(request: table_service_pb2.UpdateTableRequest) -> TableChange:
    """The change that a request asks for. Raises ValidationError."""
    updates = request.global_secondary_index_updates
    if not {field.name for field, _ in request.ListFields()} - {"table_name", "attribute_definitions"}:
        raise ValidationError(
            "At least one of ProvisionedThroughput, BillingMode, UpdateStreamEnabled, GlobalSecondaryIndexUpdates or "
            "SSESpecification or ReplicaUpdates is required",
            field="stream_specification",
        )
    definitions = check_attribute_definitions(definition_pairs(request.attribute_definitions))
    new_indexes, deleted, settings = [], [], []
    for number, update in enumerate(updates, 1):
        field = f"global_secondary_index_updates.{number}.member.{update.WhichOneof('change')}"
        match update.WhichOneof("change"):
            case "create":
                new_indexes.append(_index(update.create, definitions, field))
                settings.append(_index_settings(update.create, update.create.index_name))
            case "update":
                check_table_name(update.update.index_name, f"{field}.index_name")
                settings.append(_index_update(update.update))
            case "delete":
                check_table_name(update.delete.index_name, f"{field}.index_name")
                deleted.append(update.delete.index_name)
            case _:
                raise ValidationError(
                    f"{INVALID}One of GlobalSecondaryIndexUpdate.Update, GlobalSecondaryIndexUpdate.Create, "
                    "GlobalSecondaryIndexUpdate.Delete must not be null",
                    field="global_secondary_index_updates",
                )
    switches_stream = request.HasField("stream_specification")
    protection = request.HasField("deletion_protection_enabled")
    return TableChange(
        switches_stream=switches_stream,
        view_type=view_type_to_enable(request.stream_specification) if switches_stream else None,
        stream_settings=changed_settings(request.stream_settings),
        definitions=definitions,
        new_indexes=tuple(new_indexes),
        deleted_indexes=tuple(deleted),
        index_settings=tuple(settings),
        billing_mode=billing_mode(request.billing_mode) if request.billing_mode else None,
        throughput=_throughput_of(request),
        warm_throughput=_warm_throughput(request),
        on_demand_maximum=_on_demand_maximum(request),
        table_class=_table_class(request.table_class),
        switches_encryption=request.HasField("sse_specification"),
        encryption=_encryption(request.sse_specification),
        is_protected=request.deletion_protection_enabled if protection else None,
    )


def billing_mode(mode: table_pb2.BillingMode.ValueType) -> BillingMode:
    """A billing mode; PAY_PER_REQUEST if it is not set. Raises ValidationError."""
    known = _BILLING_FROM_PB.get(mode)
    if known is None:
        raise ConstraintError(mode, "billing_mode", one_of(BillingMode))
    return known


def throughput(message: table_pb2.ProvisionedThroughput) -> Throughput:
    """What is to be provisioned."""
    return Throughput(read_units=message.read_capacity_units, write_units=message.write_capacity_units)


def _throughput_of(message: _HasThroughput | table_service_pb2.UpdateGlobalSecondaryIndex) -> Throughput | None:
    return throughput(message.provisioned_throughput) if message.HasField("provisioned_throughput") else None


def _warm_throughput(message: _HasThroughput | table_service_pb2.UpdateGlobalSecondaryIndex) -> SomeThroughput | None:
    if not message.HasField("warm_throughput"):
        return None
    asked = message.warm_throughput
    return SomeThroughput(
        read_units=asked.read_units_per_second if asked.HasField("read_units_per_second") else None,
        write_units=asked.write_units_per_second if asked.HasField("write_units_per_second") else None,
    )


def _on_demand_maximum(message: _HasThroughput | table_service_pb2.UpdateGlobalSecondaryIndex) -> SomeThroughput | None:
    return maximum(message.on_demand_throughput) if message.HasField("on_demand_throughput") else None


def maximum(message: table_pb2.OnDemandThroughput) -> SomeThroughput:
    """The maximum on demand that a request asks for."""
    return SomeThroughput(
        read_units=message.max_read_request_units if message.HasField("max_read_request_units") else None,
        write_units=message.max_write_request_units if message.HasField("max_write_request_units") else None,
    )


def restore_overrides(
    request: backup_service_pb2.RestoreTableFromBackupRequest | backup_service_pb2.RestoreTableToPointInTimeRequest,
) -> TableChange:
    """What a restored table is to have otherwise than its source. Raises ValidationError."""
    asked = request.provisioned_throughput_override
    return TableChange(
        billing_mode=billing_mode(request.billing_mode_override) if request.billing_mode_override else None,
        throughput=throughput(asked) if request.HasField("provisioned_throughput_override") else None,
        on_demand_maximum=(
            maximum(request.on_demand_throughput_override)
            if request.HasField("on_demand_throughput_override")
            else None
        ),
        switches_encryption=request.HasField("sse_specification_override"),
        encryption=_encryption(request.sse_specification_override),
    )


def _index_settings(
    message: table_pb2.GlobalSecondaryIndex | table_service_pb2.UpdateGlobalSecondaryIndex, name: str
) -> IndexSettings:
    """What is asked of an index besides what it is created with."""
    return IndexSettings(
        name=name, warm_throughput=_warm_throughput(message), on_demand_maximum=_on_demand_maximum(message)
    )


def _index_update(message: table_service_pb2.UpdateGlobalSecondaryIndex) -> IndexSettings:
    settings = replace(_index_settings(message, message.index_name), throughput=_throughput_of(message))
    if settings == IndexSettings(name=message.index_name):
        raise ValidationError(
            f"{INVALID}One of ProvisionedThroughput, OnDemandThroughput and WarmThroughput must be specified for "
            f"index: {message.index_name}",
            field="global_secondary_index_updates.update",
        )
    return settings


def _table_class(table_class: table_pb2.TableClass.ValueType) -> TableClass | None:
    if not table_class:
        return None
    known = _CLASS_FROM_PB.get(table_class)
    if known is None:
        raise ConstraintError(table_class, "table_class", one_of(TableClass))
    return known


def _encryption(message: table_pb2.SseSpecification) -> Encryption | None:
    """The encryption asked for; None: off, as if there were no message. Raises ValidationError."""
    return check_encryption(
        is_enabled=message.enabled,
        sse_type=_SSE_TYPES.get(message.sse_type, str(message.sse_type)),
        key=message.kms_master_key_id,
    )


def _new_table_throughput(request: table_service_pb2.CreateTableRequest) -> Throughput | None:
    provisioned = _throughput_of(request)
    is_provisioned = billing_mode(request.billing_mode) is BillingMode.PROVISIONED
    if provisioned is not None:
        check_throughput(provisioned, is_provisioned=is_provisioned)
    elif is_provisioned:
        raise ValidationError(
            f"{INVALID}ReadCapacityUnits and WriteCapacityUnits must both be specified when BillingMode is PROVISIONED",
            field="provisioned_throughput",
        )
    return provisioned


def _index(
    message: table_pb2.LocalSecondaryIndex | table_pb2.GlobalSecondaryIndex,
    definitions: Mapping[str, KeyAttributeType],
    field: str,
) -> Index:
    """An index to create, which is at a path in the request; it gets its id when it is."""
    check_table_name(message.index_name, f"{field}.index_name")
    is_global = isinstance(message, table_pb2.GlobalSecondaryIndex)
    partition_keys, sort_keys = check_key_schema(
        key_schema_pairs(message.key_schema), definitions, field=f"{field}.key_schema", is_global=is_global
    )
    names = tuple(message.projection.non_key_attributes)
    return Index(
        name=message.index_name,
        id=0,
        is_global=is_global,
        partition_keys=partition_keys,
        sort_keys=sort_keys,
        projection_type=check_projection(_PROJECTION_FROM_PB.get(message.projection.projection_type), names),
        non_key_attributes=names,
        throughput=_throughput_of(message) if isinstance(message, table_pb2.GlobalSecondaryIndex) else None,
    )


def key_schema(
    partition_keys: Iterable[KeyAttribute], sort_keys: Iterable[KeyAttribute]
) -> list[table_pb2.KeySchemaElement]:
    """A key as messages."""
    return [
        table_pb2.KeySchemaElement(attribute_name=attribute.name, key_type=role)
        for attributes, role in ((partition_keys, table_pb2.KEY_TYPE_HASH), (sort_keys, table_pb2.KEY_TYPE_RANGE))
        for attribute in attributes
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
        key_schema=key_schema(table.partition_keys, table.sort_keys),
        attribute_definitions=[
            table_pb2.AttributeDefinition(attribute_name=name, attribute_type=_SCALAR_TO_PB[type_])
            for name, type_ in key_types(table).items()
        ],
        creation_date_time=timestamp(table.create_time_ms),
        stream_settings=stream_settings(table.stream_settings),
        billing_mode=billing_mode_of(table),
        provisioned_throughput=provisioned(table.throughput),
        throughput_changes=_changes(table.throughput_changes, catalog.now_ms),
        warm_throughput=_warm(table.warm_throughput),
        on_demand_throughput=on_demand(table.on_demand_maximum),
        sse_description=encryption(table.encryption, catalog.region),
        local_secondary_indexes=[index_description(i, table, catalog) for i in table.indexes if not i.is_global],
        global_secondary_indexes=[index_description(i, table, catalog) for i in table.indexes if i.is_global],
        deletion_protection_enabled=table.is_protected,
    )
    description.item_count, description.table_size_bytes = catalog.size_of(table.id)
    if table.last_on_demand_ms is not None:
        description.last_update_to_pay_per_request_date_time.CopyFrom(timestamp(table.last_on_demand_ms))
    if table.table_class is not None:
        description.table_class_summary.table_class = _CLASS_TO_PB[table.table_class]
        if table.table_class_time_ms is not None:
            description.table_class_summary.last_update_date_time.CopyFrom(timestamp(table.table_class_time_ms))
    if table.restored_from is not None:
        description.restore_summary.CopyFrom(_restore_summary(table.restored_from, catalog.region))
    stream = catalog.newest_stream(table)
    if stream is not None:
        description.latest_stream_label = stream.label
        description.latest_stream_arn = catalog.stream_arn(stream)
        if stream.is_enabled:
            description.stream_specification.CopyFrom(stream_specification(stream))
    return description


def index_description(index: Index, table: Table, catalog: Catalog) -> table_pb2.IndexDescription:
    """An index as users see it."""
    items, size_bytes = catalog.size_of(index.id)
    return table_pb2.IndexDescription(
        index_name=index.name,
        index_arn=index_arn(catalog.region, table.name, index.name),
        key_schema=key_schema(index.partition_keys, index.sort_keys),
        projection=_projection(index),
        index_status=table_pb2.INDEX_STATUS_CREATING if index.is_backfilling else table_pb2.INDEX_STATUS_ACTIVE,
        backfilling=index.is_backfilling,
        provisioned_throughput=None if index.throughput is None else provisioned(index.throughput),
        throughput_changes=None if index.throughput is None else _changes(index.throughput_changes, catalog.now_ms),
        warm_throughput=_warm(index.warm_throughput) if index.is_global else None,
        on_demand_throughput=on_demand(index.on_demand_maximum),
        item_count=items,
        index_size_bytes=size_bytes,
    )


def _projection(index: Index) -> table_pb2.Projection:
    return table_pb2.Projection(
        projection_type=_PROJECTION_TO_PB[index.projection_type], non_key_attributes=index.non_key_attributes
    )


def local_index(index: Index) -> table_pb2.LocalSecondaryIndex:
    """A local index as it is asked for."""
    return table_pb2.LocalSecondaryIndex(
        index_name=index.name,
        key_schema=key_schema(index.partition_keys, index.sort_keys),
        projection=_projection(index),
    )


def global_index(index: Index) -> table_pb2.GlobalSecondaryIndex:
    """A global index as it is asked for, but for its warm throughput."""
    return table_pb2.GlobalSecondaryIndex(
        index_name=index.name,
        key_schema=key_schema(index.partition_keys, index.sort_keys),
        projection=_projection(index),
        provisioned_throughput=provisioned(index.throughput),
        on_demand_throughput=on_demand(index.on_demand_maximum),
    )


def stream_specification(stream: Stream) -> table_pb2.StreamSpecification:
    """An enabled stream as it is asked for."""
    return table_pb2.StreamSpecification(stream_enabled=True, stream_view_type=_VIEW_TYPE_TO_PB[stream.view_type])


def billing_mode_of(table: Table) -> table_pb2.BillingMode.ValueType:
    """How a table's capacity is limited."""
    return _BILLING_TO_PB[BillingMode.PAY_PER_REQUEST if table.throughput is None else BillingMode.PROVISIONED]


def provisioned(throughput: Throughput | None) -> table_pb2.ProvisionedThroughput:
    """What is provisioned; zeros on demand."""
    if throughput is None:
        return table_pb2.ProvisionedThroughput()
    return table_pb2.ProvisionedThroughput(
        read_capacity_units=throughput.read_units, write_capacity_units=throughput.write_units
    )


def _changes(changes: ThroughputChanges, now_ms: int) -> table_pb2.ThroughputChanges:
    increase_ms, decrease_ms = changes.last_increase_ms, changes.last_decrease_ms
    return table_pb2.ThroughputChanges(
        last_increase_date_time=None if increase_ms is None else timestamp(increase_ms),
        last_decrease_date_time=None if decrease_ms is None else timestamp(decrease_ms),
        number_of_decreases_today=changes.decreases_on_day_of(now_ms),
    )


def _warm(throughput: Throughput) -> table_pb2.WarmThroughput:
    return table_pb2.WarmThroughput(
        read_units_per_second=throughput.read_units, write_units_per_second=throughput.write_units
    )


def on_demand(maximum: SomeThroughput | None) -> table_pb2.OnDemandThroughput | None:
    """A maximum on demand as users see it; None if there is none."""
    if maximum is None:
        return None
    return table_pb2.OnDemandThroughput(
        max_read_request_units=maximum.read_units, max_write_request_units=maximum.write_units
    )


def encryption(encryption: Encryption | None, region: str) -> table_pb2.SseDescription | None:
    """The encryption of a table as users see it; None if it is off."""
    if encryption is None:
        return None
    return table_pb2.SseDescription(
        status=table_pb2.SSE_STATUS_ENABLED,
        sse_type=table_pb2.SSE_TYPE_KMS,
        kms_master_key_arn=key_arn(region, encryption.key),
    )


def _restore_summary(restored: Restoration, region: str) -> table_pb2.RestoreSummary:
    return table_pb2.RestoreSummary(
        source_backup_arn=restored.backup_arn or "",
        source_table_arn=table_arn(region, restored.source_table_name),
        restore_date_time=timestamp(restored.time_ms),
    )


def stream_description(
    stream: Stream, arn: str, shards: Iterable[stream_service_pb2.Shard], last_evaluated_shard_id: str
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
        key_schema=key_schema(stream.key_attributes[:1], stream.key_attributes[1:]),
        shards=shards,
        last_evaluated_shard_id=last_evaluated_shard_id,
    )


def changed_settings(change: table_pb2.StreamSettings) -> dict[str, Any]:
    """The settings that are present in a message, by the names of their fields."""
    changes: dict[str, Any] = {}
    if change.HasField("retention_period_in_seconds"):
        changes["retention_seconds"] = change.retention_period_in_seconds
    if change.HasField("shard_roll_period_in_seconds"):
        changes["roll_seconds"] = change.shard_roll_period_in_seconds
    for name in ("retention_bytes", "min_shards", "max_shards", "automatic_merges"):
        if change.HasField(name):
            changes[name] = getattr(change, name)
    return changes


def stream_settings(settings: StreamSettings) -> table_pb2.StreamSettings:
    """Settings as users see them, defaults filled in."""
    return table_pb2.StreamSettings(
        retention_period_in_seconds=settings.retention_seconds,
        retention_bytes=settings.retention_bytes,
        min_shards=settings.min_shards,
        max_shards=settings.shards_max,
        automatic_merges=settings.automatic_merges,
        shard_roll_period_in_seconds=settings.roll_period_seconds,
    )


def consumed_capacity(
    consumption: Consumption, level: item_service_pb2.ReturnConsumedCapacity.ValueType
) -> item_service_pb2.ConsumedCapacity | None:
    """What a call consumed of a table, in as much detail as was asked for; None if nothing was."""
    if level not in _CAPACITY_LEVELS:
        return None
    consumed = item_service_pb2.ConsumedCapacity(table_name=consumption.table.name, total=_capacity(consumption.total))
    if level == item_service_pb2.RETURN_CONSUMED_CAPACITY_INDEXES:
        consumed.table.CopyFrom(_capacity(consumption.own))
        for name, (index, units) in consumption.indexes.items():
            indexes = consumed.global_secondary_indexes if index.is_global else consumed.local_secondary_indexes
            indexes[name].CopyFrom(_capacity(units))
    return consumed


def _capacity(units: Units) -> item_service_pb2.Capacity:
    return item_service_pb2.Capacity(
        capacity_units=units.reads + units.writes, read_capacity_units=units.reads, write_capacity_units=units.writes
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


def lane(lane: Lane, parent_id: str) -> stream_service_pb2.Shard:
    """A lane as users see it: as a shard that follows one other."""
    shown = shard(lane.shard)
    shown.shard_id = lane.id
    shown.parent_shard_id = parent_id
    shown.adjacent_parent_shard_id = ""
    shown.hash_key_range.starting_hash_key = lane.first_hash
    shown.hash_key_range.ending_hash_key = lane.last_hash
    return shown
