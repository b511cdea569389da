"""What tables are asked to be, and what any table must keep to. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from broker.model.errors import LimitExceededError, ResourceInUseError, ResourceNotFoundError, ValidationError
from broker.model.tables import (
    NO_THROUGHPUT_CHANGES,
    WARM_THROUGHPUT_DEFAULT,
    Encryption,
    Index,
    KeyAttribute,
    KeyAttributeType,
    Restoration,
    SomeThroughput,
    StreamSettings,
    StreamViewType,
    Table,
    TableClass,
    Throughput,
)
from broker.tables.settings import changed_encryption, on_demand_maximum, warm_throughput
from broker.tables.validate import (
    INVALID,
    check_definitions_used,
    check_stream_settings,
    check_throughput,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from broker.tables.settings import IndexSettings

# Source: Developer Guide, "Quotas in Amazon DynamoDB".
LOCAL_INDEXES_MAX: Final = 5
GLOBAL_INDEXES_MAX: Final = 20
PROJECTED_ATTRIBUTES_MAX: Final = 100

_LOCAL: Final = "local_secondary_indexes"
_GLOBAL: Final = "global_secondary_indexes"
_INDEX_UPDATES: Final = "global_secondary_index_updates"


class BillingMode(StrEnum):
    """How a table's capacity is limited: as provisioned, or not at all."""

    PROVISIONED = "PROVISIONED"
    PAY_PER_REQUEST = "PAY_PER_REQUEST"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTable:
    """A table to create."""

    name: str
    partition_key: KeyAttribute
    sort_key: KeyAttribute | None = None
    # None: no stream.
    view_type: StreamViewType | None = None
    stream_settings: StreamSettings = field(default_factory=StreamSettings)
    indexes: tuple[Index, ...] = ()
    # By the names of global indexes, as far as they are asked for.
    index_settings: Mapping[str, IndexSettings] = field(default_factory=dict)
    # None: pay per request.
    throughput: Throughput | None = None
    warm_throughput: SomeThroughput | None = None
    on_demand_maximum: SomeThroughput | None = None
    table_class: TableClass | None = None
    encryption: Encryption | None = None
    is_protected: bool = False
    tags: Mapping[str, str] = field(default_factory=dict)

    def table(self, uuid: str) -> Table:
        """Its definition, still without ids, time and stream. Raises ValidationError if there can be no such table."""
        table = Table(
            name=self.name,
            id=0,
            uuid=uuid,
            create_time_ms=0,
            partition_key=self.partition_key,
            sort_key=self.sort_key,
            stream_settings=self.stream_settings,
            indexes=_in_order(
                _with_settings(index, self.index_settings.get(index.name), is_provisioned=self.throughput is not None)
                for index in self.indexes
            ),
            throughput=self.throughput,
            warm_throughput=warm_throughput(self.warm_throughput, WARM_THROUGHPUT_DEFAULT, self.throughput),
            on_demand_maximum=on_demand_maximum(
                self.on_demand_maximum, None, is_provisioned=self.throughput is not None
            ),
            table_class=self.table_class,
            encryption=self.encryption,
            is_protected=self.is_protected,
            tags=dict(self.tags),
        )
        check_table(table)
        return table


@dataclass(frozen=True, slots=True, kw_only=True)
class TableChange:
    """What to change of a table; what is left out stays as it is."""

    # Without a view type, switching disables the stream there is.
    switches_stream: bool = False
    view_type: StreamViewType | None = None
    # By the names of the settings' fields.
    stream_settings: Mapping[str, Any] = field(default_factory=dict)
    # The types of key attributes, old and new.
    definitions: Mapping[str, KeyAttributeType] = field(default_factory=dict)
    new_indexes: tuple[Index, ...] = ()
    deleted_indexes: tuple[str, ...] = ()
    # Of indexes old and new.
    index_settings: tuple[IndexSettings, ...] = ()
    billing_mode: BillingMode | None = None
    throughput: Throughput | None = None
    warm_throughput: SomeThroughput | None = None
    on_demand_maximum: SomeThroughput | None = None
    table_class: TableClass | None = None
    # Whether the encryption changes, and to which; None: off.
    switches_encryption: bool = False
    encryption: Encryption | None = None
    is_protected: bool | None = None

    def apply(self, table: Table, now_ms: int) -> Table:
        """The definition after the change, but for the stream's switch; new indexes have no ids yet.

        Raises ValidationError, ResourceNotFoundError, ResourceInUseError, LimitExceededError.
        """
        self._check_index_updates()
        is_provisioned = self._is_provisioned(table)
        throughput = self._throughput(table, is_provisioned=is_provisioned)
        changed = replace(
            table,
            stream_settings=replace(table.stream_settings, **self.stream_settings),
            indexes=_in_order(self._indexes(table, now_ms, is_provisioned=is_provisioned)),
            throughput=throughput,
            throughput_changes=(
                table.throughput_changes
                if throughput is None or table.throughput is None
                else table.throughput_changes.after(table.throughput, throughput, now_ms)
            ),
            on_demand_since_ms=(
                now_ms if not is_provisioned and table.throughput is not None else table.last_on_demand_ms
            ),
            warm_throughput=warm_throughput(self.warm_throughput, table.warm_throughput, throughput),
            on_demand_maximum=on_demand_maximum(
                self.on_demand_maximum, table.on_demand_maximum, is_provisioned=is_provisioned
            ),
            encryption=(
                changed_encryption(table.encryption, self.encryption) if self.switches_encryption else table.encryption
            ),
            is_protected=table.is_protected if self.is_protected is None else self.is_protected,
        )
        if self.table_class is not None:
            is_other = self.table_class is not (table.table_class or TableClass.STANDARD)
            changed = replace(
                changed,
                table_class=self.table_class,
                table_class_time_ms=now_ms if is_other else table.table_class_time_ms,
            )
        check_table(changed)
        used = key_types(changed, self.definitions)
        check_definitions_used(self.definitions, used, has_indexes=True)
        return changed

    def _check_index_updates(self) -> None:
        """What can be told without the table."""
        created = [index.name for index in self.new_indexes]
        updated = [settings.name for settings in self.index_settings if settings.name not in created]
        for name, count in Counter([*created, *self.deleted_indexes, *updated]).items():
            if count > 1:
                raise ValidationError(
                    f"{INVALID}Only one global secondary index update per index is allowed simultaneously. "
                    f"Index: {name}",
                    field=_INDEX_UPDATES,
                )
        if len(created) + len(self.deleted_indexes) > 1:
            raise LimitExceededError(
                "Subscriber limit exceeded: Only 1 online index can be created or deleted simultaneously per table",
                field=_INDEX_UPDATES,
                limit=1,
            )

    def _is_provisioned(self, table: Table) -> bool:
        if self.billing_mode is None:
            return table.throughput is not None
        return self.billing_mode is BillingMode.PROVISIONED

    def _throughput(self, table: Table, *, is_provisioned: bool) -> Throughput | None:
        if self.throughput is not None:
            check_throughput(self.throughput, is_provisioned=is_provisioned)
            if self.throughput == table.throughput:
                raise _unchanged_throughput("table", self.throughput)
            return self.throughput
        if is_provisioned and table.throughput is None:
            raise ValidationError(
                f"{INVALID}ProvisionedThroughput must be specified when BillingMode is PROVISIONED",
                field="provisioned_throughput",
            )
        return table.throughput if is_provisioned else None

    def _indexes(self, table: Table, now_ms: int, *, is_provisioned: bool) -> list[Index]:
        indexes = {index.name: index for index in table.indexes}
        for name in self.deleted_indexes:
            del indexes[_global_index(table, name).name]
        wanted = {settings.name: settings for settings in self.index_settings}
        created = {index.name for index in self.new_indexes}
        for name in wanted.keys() - created:
            if _global_index(table, name).is_backfilling:
                raise ResourceInUseError(
                    f"Attempt to change a resource which is still in use: Index is being created: {name}",
                    index_name=name,
                )
        kept = [
            _changed_index(index, wanted.get(index.name), now_ms, is_provisioned=is_provisioned)
            for index in indexes.values()
        ]
        new = [
            _with_settings(replace(index, is_backfilling=True), wanted.get(index.name), is_provisioned=is_provisioned)
            for index in self.new_indexes
        ]
        return [*kept, *new]


def _changed_index(index: Index, wanted: IndexSettings | None, now_ms: int, *, is_provisioned: bool) -> Index:
    """An index after a change of it, or of its table's billing mode. Raises ValidationError."""
    if not index.is_global:
        return index
    before, throughput = index.throughput, None if wanted is None else wanted.throughput
    if throughput is not None:
        check_throughput(throughput, is_provisioned=is_provisioned, index_name=index.name)
        if throughput == before:
            raise _unchanged_throughput(f"index {index.name}", throughput)
        changes = index.throughput_changes
        if before is not None:
            changes = changes.after(before, throughput, now_ms)
        index = replace(index, throughput=throughput, throughput_changes=changes)
    elif not is_provisioned:
        index = replace(index, throughput=None)
    return _with_settings(index, wanted, is_provisioned=is_provisioned)


def _with_settings(index: Index, wanted: IndexSettings | None, *, is_provisioned: bool) -> Index:
    """An index with its warm throughput and its maximum on demand. Raises ValidationError."""
    if not index.is_global:
        return index
    warm, maximum = (None, None) if wanted is None else (wanted.warm_throughput, wanted.on_demand_maximum)
    return replace(
        index,
        warm_throughput=warm_throughput(warm, index.warm_throughput, index.throughput, index.name),
        on_demand_maximum=on_demand_maximum(
            maximum, index.on_demand_maximum, is_provisioned=is_provisioned, index_name=index.name
        ),
    )


def check_table(table: Table) -> None:
    """Raises ValidationError if there can be no such table: for its indexes, throughput, tags or stream settings."""
    check_stream_settings(table.stream_settings)
    is_provisioned = table.throughput is not None
    if table.throughput is not None:
        check_throughput(table.throughput, is_provisioned=True)
    _check_index_counts(table)
    key_types(table)
    for index in table.indexes:
        if not index.is_global:
            _check_local_index(table, index)
        elif index.throughput is not None:
            check_throughput(index.throughput, is_provisioned=is_provisioned, index_name=index.name)
        elif is_provisioned:
            raise ValidationError(
                f"{INVALID}ProvisionedThroughput must be specified for index: {index.name}",
                field=f"{_GLOBAL}.provisioned_throughput",
            )


def restored_table(
    source: Table, *, name: str, uuid: str, restored_from: Restoration, now_ms: int, overrides: TableChange
) -> Table:
    """The definition of a table that is restored, still without ids: what DynamoDB restores of another one.

    That is its key, indexes, capacity, class and encryption, as far as nothing else is asked for; not its stream,
    expiry, tags and protection. Raises ValidationError if there can be no such table.
    """
    wanted = Table(
        name=name,
        id=0,
        uuid=uuid,
        create_time_ms=now_ms,
        partition_key=source.partition_key,
        sort_key=source.sort_key,
        # It is filled as items are put, whatever the other one still lacked.
        indexes=tuple(
            replace(index, id=0, is_backfilling=False, throughput_changes=NO_THROUGHPUT_CHANGES)
            for index in source.indexes
        ),
        throughput=source.throughput,
        warm_throughput=source.warm_throughput,
        on_demand_maximum=source.on_demand_maximum,
        table_class=source.table_class,
        encryption=source.encryption,
        restored_from=restored_from,
    )
    # What is asked for may be as it was.
    if overrides.throughput == source.throughput:
        overrides = replace(overrides, throughput=None)
    if overrides.encryption == source.encryption:
        overrides = replace(overrides, switches_encryption=False)
    changed = overrides.apply(wanted, now_ms)
    return replace(changed, on_demand_since_ms=None, throughput_changes=NO_THROUGHPUT_CHANGES)


def key_types(
    table: Table, definitions: Mapping[str, KeyAttributeType] = MappingProxyType({})
) -> dict[str, KeyAttributeType]:
    """The types of all key attributes of a table and its indexes. Raises ValidationError if one has two.

    Definitions of these attributes must agree.
    """
    types: dict[str, KeyAttributeType] = {}
    for attribute in (*table.key_attributes, *(a for index in table.indexes for a in index.key_attributes)):
        known = types.setdefault(attribute.name, attribute.type)
        for wanted in (attribute.type, definitions.get(attribute.name, known)):
            if wanted is not known:
                raise ValidationError(
                    f"{INVALID}The type of a key attribute cannot be changed: Attribute: {attribute.name}, "
                    f"type: {known}, requested type: {wanted}",
                    field="attribute_definitions",
                )
    return types


def with_ids(table: Table, next_id: Callable[[], int]) -> Table:
    """A definition that has got the ids it still lacks: of the table itself if it is new, and of new indexes."""
    indexes = tuple(index if index.id else replace(index, id=next_id()) for index in table.indexes)
    return replace(table, id=table.id or next_id(), indexes=indexes)


def _check_index_counts(table: Table) -> None:
    locals_ = sum(not index.is_global for index in table.indexes)
    if locals_ > LOCAL_INDEXES_MAX:
        raise ValidationError(
            f"{INVALID}Number of LocalSecondaryIndexes exceeds per-table limit of {LOCAL_INDEXES_MAX}",
            field=_LOCAL,
            limit=LOCAL_INDEXES_MAX,
        )
    if len(table.indexes) - locals_ > GLOBAL_INDEXES_MAX:
        raise ValidationError(
            f"{INVALID}GlobalSecondaryIndex count exceeds the per-table limit of {GLOBAL_INDEXES_MAX}",
            field=_GLOBAL,
            limit=GLOBAL_INDEXES_MAX,
        )
    for name, count in Counter(index.name for index in table.indexes).items():
        if count > 1:
            raise ValidationError(f"{INVALID}Duplicate index name: {name}", field="index_name")
    if sum(len(index.non_key_attributes) for index in table.indexes) > PROJECTED_ATTRIBUTES_MAX:
        raise ValidationError(
            f"{INVALID}Number of NonKeyAttributes of all indexes exceeds per-table limit of {PROJECTED_ATTRIBUTES_MAX}",
            field="projection.non_key_attributes",
            limit=PROJECTED_ATTRIBUTES_MAX,
        )


def _check_local_index(table: Table, index: Index) -> None:
    if table.sort_key is None:
        raise ValidationError(
            f"{INVALID}Table KeySchema does not have a range key, which is required when specifying a "
            "LocalSecondaryIndex",
            field=_LOCAL,
        )
    if not index.sort_keys:
        raise ValidationError(
            f"{INVALID}Index KeySchema does not have a range key for index: {index.name}", field=f"{_LOCAL}.key_schema"
        )
    (partition_key,) = index.partition_keys
    if partition_key.name != table.partition_key.name:
        raise ValidationError(
            f"{INVALID}Index KeySchema does not have the same leading hash key as table KeySchema for index: "
            f"{index.name}. index hash key: {partition_key.name}, table hash key: {table.partition_key.name}",
            field=f"{_LOCAL}.key_schema",
        )


def _global_index(table: Table, name: str) -> Index:
    for index in table.indexes:
        if index.is_global and index.name == name:
            return index
    raise ResourceNotFoundError(
        f"Requested resource not found: Index: {name} of table: {table.name} not found", index_name=name
    )


def _unchanged_throughput(of: str, now: Throughput) -> ValidationError:
    reads, writes = now.read_units, now.write_units
    return ValidationError(
        f"The provisioned throughput for the {of} will not change. The requested value equals the current value. "
        f"Current ReadCapacityUnits provisioned for the {of}: {reads}. Requested ReadCapacityUnits: {reads}. "
        f"Current WriteCapacityUnits provisioned for the {of}: {writes}. Requested WriteCapacityUnits: {writes}. "
        "Refer to the Amazon DynamoDB Developer Guide for current limits and how to request higher limits.",
        field="provisioned_throughput",
    )


def _in_order(indexes: Iterable[Index]) -> tuple[Index, ...]:
    """Local ones first, by name."""
    return tuple(sorted(indexes, key=lambda index: (index.is_global, index.name)))
