"""What the client takes and returns: plain, frozen data. Words and names are DynamoDB's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, NamedTuple, TypeAlias

from headrace.errors import HeadraceError

Item: TypeAlias = dict[str, Any]
KeyType: TypeAlias = Literal["S", "N", "B"]
ViewType: TypeAlias = Literal["KEYS_ONLY", "NEW_IMAGE", "OLD_IMAGE", "NEW_AND_OLD_IMAGES"]
ShardIteratorType: TypeAlias = Literal["TRIM_HORIZON", "LATEST", "AT_SEQUENCE_NUMBER", "AFTER_SEQUENCE_NUMBER"]


class KeyAttribute(NamedTuple):
    """An attribute of a primary key."""

    name: str
    type: str


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


@dataclass(frozen=True, slots=True)
class Update:
    """Changes attributes of an item; creates the item if it is missing."""

    key: Mapping[str, Any]
    # For example "SET seen = :now REMOVE draft".
    update: str
    condition: str | None = None
    names: Mapping[str, str] | None = None
    values: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Delete:
    """Removes an item; succeeds if there is none."""

    key: Mapping[str, Any]
    condition: str | None = None
    names: Mapping[str, str] | None = None
    values: Mapping[str, Any] | None = None


Operation: TypeAlias = Put | Update | Delete


@dataclass(frozen=True, slots=True)
class WriteResult:
    """The outcome of one operation of write_items."""

    operation: Operation
    # None: written and on disk.
    error: HeadraceError | None = None


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


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerGroup:
    """A consumer group as it is now."""

    group_name: str
    stream_arn: str
    create_time: datetime
    shards: tuple[ShardCheckpoint, ...]
    # The members now connected, the one that holds the shards first.
    member_names: tuple[str, ...]
