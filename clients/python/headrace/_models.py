"""What the client takes and returns: plain, frozen data. Words and names are DynamoDB's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, NamedTuple, TypeAlias

from headrace.errors import HeadraceError

Item: TypeAlias = dict[str, Any]
KeyType: TypeAlias = Literal["S", "N", "B"]
KeyAttributes: TypeAlias = tuple[str, KeyType] | tuple[tuple[str, KeyType], ...]
ViewType: TypeAlias = Literal["KEYS_ONLY", "NEW_IMAGE", "OLD_IMAGE", "NEW_AND_OLD_IMAGES"]
ShardIteratorType: TypeAlias = Literal[
    "TRIM_HORIZON", "LATEST", "AT_SEQUENCE_NUMBER", "AFTER_SEQUENCE_NUMBER", "AT_TIMESTAMP"
]
NackReason: TypeAlias = Literal["TRANSIENT", "FATAL", "SHUTDOWN"]
ProjectionType: TypeAlias = Literal["ALL", "KEYS_ONLY", "INCLUDE"]
TableClass: TypeAlias = Literal["STANDARD", "STANDARD_INFREQUENT_ACCESS"]
ReturnValues: TypeAlias = Literal["NONE", "ALL_OLD", "UPDATED_OLD", "ALL_NEW", "UPDATED_NEW"]
Select: TypeAlias = Literal["ALL_ATTRIBUTES", "ALL_PROJECTED_ATTRIBUTES", "SPECIFIC_ATTRIBUTES", "COUNT"]


class KeyAttribute(NamedTuple):
    """An attribute of a primary key."""

    name: str
    type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSettings:
    """How long a table's streams keep records, and how they are divided into shards.

    None: as it is, or for a new table the default: 24 hours, no bound in bytes, 1 to 4 shards, which roll after 4 hours
    and are not merged.
    """

    # 1 second to 365 days.
    retention_s: int | None = None
    # 4 MiB or more; 0: no bound.
    retention_bytes: int | None = None
    # Up to 64; equal to each other, shards are split and merged only on demand.
    min_shards: int | None = None
    max_shards: int | None = None
    # Whether neighbours that are quiet are merged: only for readers that know both parents of a shard.
    automatic_merges: bool | None = None
    # How long a shard with records stays open before another one follows it; up to 365 days; 0: for ever.
    shard_roll_period_s: int | None = None


class ProvisionedThroughput(NamedTuple):
    """Capacity units a second: reads of 4 KB, strongly consistent, and writes of 1 KB."""

    read_capacity_units: int
    write_capacity_units: int


class OnDemandThroughput(NamedTuple):
    """The most request units a second of a table or index on demand. To set: None leaves it, -1 removes it."""

    max_read_request_units: int | None = None
    max_write_request_units: int | None = None


class WarmThroughput(NamedTuple):
    """Units a second for which a table or index is prepared; the broker only remembers them. To set: None leaves it."""

    read_units_per_second: int | None = None
    write_units_per_second: int | None = None


class ThroughputChanges(NamedTuple):
    """When provisioned throughput was last raised and lowered; None: never."""

    last_increase_date_time: datetime | None
    last_decrease_date_time: datetime | None
    # In UTC.
    number_of_decreases_today: int


class RestoreSummary(NamedTuple):
    """What a table was restored from."""

    # None: from its change log.
    source_backup_arn: str | None
    source_table_arn: str
    # As of when.
    restore_date_time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalIndex:
    """A local secondary index to create: the table's partition key with another sort key."""

    # 3 to 255 characters of a-z, A-Z, 0-9, "_", "-" and "."; unique among all indexes of the table.
    index_name: str
    sort_key: tuple[str, KeyType]
    # What it holds besides the key attributes: all, nothing, or, with INCLUDE, 1 to 20 named attributes.
    projection: ProjectionType = "ALL"
    non_key_attributes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class GlobalIndex:
    """A global secondary index to create, by any attributes; only items that have them are in it."""

    # As in LocalIndex.
    index_name: str
    # One attribute, or up to 4 of them: a query names all.
    partition_key: KeyAttributes
    # None, one attribute, or up to 4 of them in the order in which they sort: a query names the first ones.
    sort_key: KeyAttributes | None = None
    projection: ProjectionType = "ALL"
    non_key_attributes: tuple[str, ...] = ()
    # Read and write capacity units a second; required if the table is provisioned, refused if it is not.
    provisioned_throughput: tuple[int, int] | None = None
    # None: no maximum; refused if the table is provisioned.
    on_demand_throughput: OnDemandThroughput | None = None
    warm_throughput: WarmThroughput | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GlobalIndexUpdate:
    """Throughput of a global index to change; None: as it is."""

    # As in GlobalIndex.
    provisioned_throughput: tuple[int, int] | None = None
    on_demand_throughput: OnDemandThroughput | None = None
    warm_throughput: WarmThroughput | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexDescription:
    """A secondary index as it is now."""

    index_name: str
    index_arn: str
    partition_keys: tuple[KeyAttribute, ...]
    # In the order in which they sort; empty if there is none.
    sort_keys: tuple[KeyAttribute, ...]
    # ALL, KEYS_ONLY or INCLUDE.
    projection: str
    non_key_attributes: tuple[str, ...]
    # CREATING, UPDATING, DELETING or ACTIVE; it can be read when it is ACTIVE.
    index_status: str
    # Whether it is still being filled with the items that the table had.
    backfilling: bool
    # None: on demand, or local.
    provisioned_throughput: ProvisionedThroughput | None
    item_count: int
    index_size_bytes: int
    throughput_changes: ThroughputChanges | None = None
    # None: no maximum.
    on_demand_throughput: OnDemandThroughput | None = None
    # None: local.
    warm_throughput: WarmThroughput | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TableDescription:
    """A table as it is now."""

    table_name: str
    table_arn: str
    # A UUID; a table made again under the same name has another.
    table_id: str
    # CREATING, UPDATING, DELETING or ACTIVE.
    table_status: str
    partition_key: KeyAttribute
    sort_key: KeyAttribute | None
    creation_date_time: datetime
    # Which images its stream records; None while no stream is enabled.
    stream_view_type: str | None
    # The newest stream, enabled or not; None if there never was one.
    latest_stream_label: str | None
    latest_stream_arn: str | None
    # What holds for its streams, defaults filled in.
    stream_settings: StreamSettings
    # PROVISIONED or PAY_PER_REQUEST, and then nothing is provisioned.
    billing_mode: str
    provisioned_throughput: ProvisionedThroughput | None
    # In the order of their names.
    local_indexes: tuple[IndexDescription, ...]
    global_indexes: tuple[IndexDescription, ...]
    # While true it cannot be deleted.
    deletion_protection_enabled: bool
    # What it holds; the size by DynamoDB's rules.
    item_count: int
    table_size_bytes: int
    throughput_changes: ThroughputChanges | None = None
    # When it was last put on demand; None: never.
    last_update_to_pay_per_request_date_time: datetime | None = None
    # None: no maximum.
    on_demand_throughput: OnDemandThroughput | None = None
    # None: a broker that does not tell.
    warm_throughput: WarmThroughput | None = None
    # STANDARD or STANDARD_INFREQUENT_ACCESS, which the broker only remembers, and when it was last changed.
    table_class: str = "STANDARD"
    table_class_update_date_time: datetime | None = None
    # The key that encryption was asked for with, which the broker only remembers; None: none was.
    kms_master_key_arn: str | None = None
    # None: it was not restored.
    restore_summary: RestoreSummary | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeToLive:
    """Whether, and by which attribute, the items of a table expire."""

    # ENABLING, ENABLED or DISABLED.
    time_to_live_status: str
    # None while items do not expire.
    attribute_name: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PointInTimeRecovery:
    """To which times a table can be restored from its change log."""

    enabled: bool
    # As it was asked for; None, as the following, if it is off.
    recovery_period_in_days: int | None
    # What can be restored now; both are now, if the table's stream has no old images.
    earliest_restorable_date_time: datetime | None
    latest_restorable_date_time: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupDetails:
    """What a backup is."""

    backup_arn: str
    # Need not be unique.
    backup_name: str
    # CREATING, AVAILABLE or DELETED.
    backup_status: str
    # Of its files; on the broker's disk it shares those that have not changed since.
    backup_size_bytes: int
    backup_creation_date_time: datetime
    # It holds exactly the writes up to this number; None while it is being made.
    sequence_number: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupDescription(BackupDetails):
    """A backup and what is in it."""

    table_names: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadUsage:
    """What was read of a stream since the node started, as DynamoDB meters it."""

    read_request_units: int
    returned_records: int
    returned_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """A stream in a listing."""

    stream_arn: str
    table_name: str
    stream_label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """A slice of a stream: the records of a range of partition key hashes, in order."""

    shard_id: str
    starting_sequence_number: str
    # None while the shard is open.
    ending_sequence_number: str | None
    parent_shard_id: str | None
    # The second parent of a merged shard.
    adjacent_parent_shard_id: str | None
    # Both are covered.
    starting_hash_key: int
    ending_hash_key: int

    @property
    def is_open(self) -> bool:
        """Whether more records may come."""
        return self.ending_sequence_number is None


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamDescription:
    """A stream as it is now, with all its shards."""

    stream_arn: str
    stream_label: str
    # ENABLING, ENABLED, DISABLING or DISABLED.
    stream_status: str
    stream_view_type: str
    creation_request_date_time: datetime
    table_name: str
    # The names of the table's key attributes.
    partition_key: str
    sort_key: str | None
    shards: tuple[Shard, ...]
    # What its log holds now.
    retained_records: int
    retained_bytes: int
    read_usage: ReadUsage


class Version(NamedTuple):
    """Which write this was, among all writes of all regions; of two writes to one item the greater wins."""

    # Hybrid logical clock: milliseconds since 1970 in the upper 48 bits, a counter in the lower 16.
    hybrid_time: int
    origin_region: str


@dataclass(frozen=True, slots=True)
class Put:
    """Creates an item, or replaces the whole item with the same key."""

    item: Mapping[str, Any]
    # The write happens only if this holds for the item as it was.
    condition: str | None = None
    # What the placeholders "#name" and ":value" in expressions stand for.
    names: Mapping[str, str] | None = None
    values: Mapping[str, Any] | None = None
    # What the result has of the item: NONE or ALL_OLD.
    return_values: ReturnValues = "NONE"
    # Whether the error has the item if the condition does not hold.
    return_old_on_failure: bool = False


@dataclass(frozen=True, slots=True)
class Update:
    """Changes attributes of an item; creates the item if it is missing."""

    key: Mapping[str, Any]
    # For example "SET seen = :now REMOVE draft"; None: nothing, but a missing item is made of its key alone.
    update: str | None
    condition: str | None = None
    names: Mapping[str, str] | None = None
    values: Mapping[str, Any] | None = None
    # What the result has of the item: NONE, ALL_OLD, UPDATED_OLD, ALL_NEW or UPDATED_NEW.
    return_values: ReturnValues = "NONE"
    return_old_on_failure: bool = False


@dataclass(frozen=True, slots=True)
class Delete:
    """Removes an item; succeeds if there is none."""

    key: Mapping[str, Any]
    condition: str | None = None
    names: Mapping[str, str] | None = None
    values: Mapping[str, Any] | None = None
    # What the result has of the item: NONE or ALL_OLD.
    return_values: ReturnValues = "NONE"
    return_old_on_failure: bool = False


Operation: TypeAlias = Put | Update | Delete


@dataclass(frozen=True, slots=True)
class ConditionCheck:
    """A condition on an item that a transaction does not change."""

    key: Mapping[str, Any]
    condition: str
    names: Mapping[str, str] | None = None
    values: Mapping[str, Any] | None = None
    return_old_on_failure: bool = False


Action: TypeAlias = Operation | ConditionCheck


@dataclass(frozen=True, slots=True)
class Get:
    """An item to read in a transaction."""

    key: Mapping[str, Any]
    # Document paths, joined by commas, of what to return; None: the whole item.
    projection: str | None = None
    names: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Keys:
    """Items of one table to read in a batch."""

    keys: Iterable[Mapping[str, Any]]
    # As in Get, for all of them.
    projection: str | None = None
    names: Mapping[str, str] | None = None
    # Reads see every finished write in any case; it only doubles what is consumed.
    consistent_read: bool = False


@dataclass(frozen=True, slots=True)
class WriteResult:
    """The outcome of one operation of write_items."""

    operation: Operation
    # None: written and on disk.
    error: HeadraceError | None = None
    # What the operation's return_values asked for; None if there is nothing of it.
    attributes: Item | None = None


class Capacity(NamedTuple):
    """Units consumed: a read unit is 4 KB read strongly consistent, a write unit 1 KB; two in a transaction."""

    # Both together.
    capacity_units: float = 0.0
    read_capacity_units: float = 0.0
    write_capacity_units: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumedCapacity:
    """What calls consumed of one table."""

    table_name: str
    # All of it: that of the table itself, and that of each index that took any, by name.
    total: Capacity
    table: Capacity
    local_indexes: Mapping[str, Capacity]
    global_indexes: Mapping[str, Capacity]


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What one call of Query or Scan read."""

    # Those that passed the filter; none with COUNT.
    items: tuple[Item, ...]
    # How many passed the filter, and how many were read.
    count: int
    scanned_count: int
    # Where the next page begins; None only if nothing is left.
    last_evaluated_key: Item | None
    # None unless the call was metered.
    consumed_capacity: ConsumedCapacity | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumeOptions:
    """How a stream is consumed; see AsyncClient.consume. What is None is left to the broker."""

    group: str
    start: str | datetime = "TRIM_HORIZON"
    member: str = ""
    max_batch_records: int = 1_000
    max_in_flight_records: int = 10_000
    max_in_flight_bytes: int | None = None
    on_gap: str = "FAIL"
    max_attempts: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardCheckpoint:
    """How far a consumer group is on one shard."""

    shard_id: str
    # All records up to this one are processed; None if none is.
    sequence_number: str | None
    lease_epoch: int
    # True when the shard is closed and processed to its end.
    shard_end: bool
    # How long ago the oldest unprocessed record was written; 0 if there is none.
    millis_behind_latest: int
    # How many records are not processed.
    records_behind_latest: int
    # The member that holds it; None if none does.
    member_name: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerGroup:
    """A consumer group as it is now."""

    group_name: str
    stream_arn: str
    create_time: datetime
    shards: tuple[ShardCheckpoint, ...]
    # The members now connected, the one that has been there longest first.
    member_names: tuple[str, ...]
    # Keys that are set aside, and their records.
    parked_keys: int
    parked_records: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardExplanation:
    """Why a shard of a consumer group does or does not move."""

    shard_id: str
    # NO_MEMBER, WAITING_FOR_PARENT, WAITING_FOR_SNAPSHOT, MOVING, AT_TIP, WAITING_FOR_ACK, WAITING_FOR_MEMBER,
    # WAITING_FOR_RETRY, REVOKING, GAP or FINISHED.
    progress: str
    # The same in one sentence, with what would make it move.
    text: str
    member_name: str | None
    lease_epoch: int
    # Records sent and not acked, and how long the oldest of them has been with the member.
    in_flight_records: int
    in_flight_age_ms: int
    # Records not processed, and how long ago the oldest of them was written.
    records_behind_latest: int
    millis_behind_latest: int
    # How often the record that is next has failed, and what was said of it the last time.
    attempts: int
    last_error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerGroupExplanation:
    """Why a consumer group does or does not move."""

    # In one sentence.
    summary: str
    # Each shard that is not finished, and each parked key that is redriven.
    shards: tuple[ShardExplanation, ...]
    group: ConsumerGroup


@dataclass(frozen=True, slots=True, kw_only=True)
class ParkedKey:
    """A key that a consumer group has set aside: a record of it failed, and all later ones wait behind it."""

    parked_id: str
    key: Item
    # The shard and the record that failed.
    shard_id: str
    sequence_number: str
    attempts: int
    last_error: str
    park_time: datetime
    # How many records wait, and their bytes.
    records: int
    bytes: int
    # Being delivered again.
    redriving: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """Records that a consumer group has not processed and that are no longer held."""

    # They lie between these two; the second is the last of them.
    first_lost_sequence_number: str
    last_lost_sequence_number: str
    # They were written between these times.
    lost_from: datetime
    lost_to: datetime
