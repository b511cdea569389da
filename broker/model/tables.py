"""Tables, streams and shards at rest: what the catalog keeps."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

# What a region may be called: it stands in ARNs, versions and records.
REGION_NAME: Final = re.compile(r"[a-z0-9-]{1,64}", re.ASCII)
# Stands where an AWS account id stands in an ARN.
ACCOUNT: Final = "000000000000"
# The id of the key that DynamoDB encrypts with if none is named. AWS's ids are UUIDs.
_MANAGED_KEY: Final = "00000000-0000-0000-0000-000000000000"
HASH_MAX: Final = 2**64 - 1

# A stream's open shards; a reader of a whole stream has a position in each.
OPEN_SHARDS_MAX: Final = 64
# Open and closed ones: what a client that splits and merges in a loop can make of a stream.
HELD_SHARDS_MAX: Final = 1_024
# The lanes of a stream's open shards, and of all its shards. Merges do not remove lanes, so without a bound a client
# that splits at random hashes and merges again would add lanes for ever.
OPEN_LANES_MAX: Final = 128
HELD_LANES_MAX: Final = 4_096
# So many shards that have vanished are remembered, for each open one and in all, so that a reader that comes late knows
# exactly what it has lost. Of up to 4 open shards that roll every 4 hours that is what vanished in the last 64 hours.
VANISHED_SHARDS_PER_OPEN_SHARD: Final = 16
VANISHED_SHARDS_MAX: Final = 64
MIN_SHARDS_DEFAULT: Final = 1
# Shards follow the write rate, not the number of cores or nodes, and every shard costs each reader something.
MAX_SHARDS_DEFAULT: Final = 4
# DynamoDB's figure. Source: Developer Guide, "Change data capture for DynamoDB Streams".
RETENTION_SECONDS_DEFAULT: Final = 24 * 60 * 60
RETENTION_SECONDS_MAX: Final = 365 * 24 * 60 * 60
_DAY_MS: Final = 24 * 60 * 60 * 1000
# Several of the largest blocks a log can have, so that the newest records are always held.
RETENTION_BYTES_MIN: Final = 4 * 1024 * 1024
# DynamoDB's figure. Source: AWS Database Blog, "DynamoDB Streams use cases and design patterns".
ROLL_SECONDS_DEFAULT: Final = 4 * 60 * 60
ROLL_SECONDS_MAX: Final = 365 * 24 * 60 * 60
# Where records are kept for less than a day, shards roll sooner: so a reader of closed shards has most of the retention
# left to read them, as at AWS. But they do not roll more often than this.
_ROLLS_PER_RETENTION: Final = 6
_DERIVED_ROLL_SECONDS_MIN: Final = 60


class KeyAttributeType(StrEnum):
    """The type of a key attribute."""

    STRING = "S"
    NUMBER = "N"
    BINARY = "B"


class StreamViewType(StrEnum):
    """Which images of a changed item its record holds."""

    KEYS_ONLY = "KEYS_ONLY"
    NEW_IMAGE = "NEW_IMAGE"
    OLD_IMAGE = "OLD_IMAGE"
    NEW_AND_OLD_IMAGES = "NEW_AND_OLD_IMAGES"

    @property
    def has_new_image(self) -> bool:
        """Whether records hold the item after the change."""
        return self in (StreamViewType.NEW_IMAGE, StreamViewType.NEW_AND_OLD_IMAGES)

    @property
    def has_old_image(self) -> bool:
        """Whether records hold the item before the change."""
        return self in (StreamViewType.OLD_IMAGE, StreamViewType.NEW_AND_OLD_IMAGES)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyAttribute:
    """One attribute of a primary key."""

    name: str
    type: KeyAttributeType


class ProjectionType(StrEnum):
    """Which attributes an index holds besides the key attributes of the table and its own."""

    ALL = "ALL"
    KEYS_ONLY = "KEYS_ONLY"
    INCLUDE = "INCLUDE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Throughput:
    """Capacity units a second that are provisioned."""

    read_units: int
    write_units: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SomeThroughput:
    """Read units, write units, both or neither: a part of a request, or bounds of which either may be absent."""

    read_units: int | None = None
    write_units: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ThroughputChanges:
    """When provisioned throughput was last raised and lowered; None: never."""

    last_increase_ms: int | None = None
    last_decrease_ms: int | None = None
    # On the UTC day of the last decrease.
    decreases: int = 0

    def decreases_on_day_of(self, now_ms: int) -> int:
        """How often the throughput was lowered on the UTC day of a time."""
        last = self.last_decrease_ms
        return self.decreases if last is not None and last // _DAY_MS == now_ms // _DAY_MS else 0

    def after(self, before: Throughput, now: Throughput, now_ms: int) -> ThroughputChanges:
        """The changes with one more, which may raise one kind of units and lower the other."""
        is_raised = now.read_units > before.read_units or now.write_units > before.write_units
        is_lowered = now.read_units < before.read_units or now.write_units < before.write_units
        return ThroughputChanges(
            last_increase_ms=now_ms if is_raised else self.last_increase_ms,
            last_decrease_ms=now_ms if is_lowered else self.last_decrease_ms,
            decreases=self.decreases_on_day_of(now_ms) + 1 if is_lowered else self.decreases,
        )


class TableClass(StrEnum):
    """How DynamoDB stores and bills a table; here it is only remembered."""

    STANDARD = "STANDARD"
    STANDARD_INFREQUENT_ACCESS = "STANDARD_INFREQUENT_ACCESS"


@dataclass(frozen=True, slots=True, kw_only=True)
class Encryption:
    """The key of AWS's key service that a table is to be encrypted with; here it is only remembered."""

    # As it was given: an id, an ARN or an alias. Empty: the key that AWS manages for DynamoDB.
    key: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Restoration:
    """What a table was restored from: a table, as it was at a time, from a backup or from its change log."""

    source_table_name: str
    time_ms: int
    # None: from its change log.
    backup_arn: str | None = None


# What DynamoDB gives every table from the beginning. Source: Developer Guide, "Understanding DynamoDB warm throughput".
WARM_THROUGHPUT_DEFAULT: Final = Throughput(read_units=12_000, write_units=4_000)
NO_THROUGHPUT_CHANGES: Final = ThroughputChanges()


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """A secondary index. `id` is its prefix on disk and never used again."""

    name: str
    id: int
    is_global: bool
    # One, or up to four of a global index.
    partition_keys: tuple[KeyAttribute, ...]
    # In the order in which they sort: none, one, or up to four of a global index.
    sort_keys: tuple[KeyAttribute, ...] = ()
    projection_type: ProjectionType
    # With INCLUDE.
    non_key_attributes: tuple[str, ...] = ()
    # Whether items that the table had before the index may be missing in it.
    is_backfilling: bool = False
    # None: not limited by itself.
    throughput: Throughput | None = None
    throughput_changes: ThroughputChanges = NO_THROUGHPUT_CHANGES
    # Of global ones. The maximum limits an index on demand; None: no maximum.
    warm_throughput: Throughput = WARM_THROUGHPUT_DEFAULT
    on_demand_maximum: SomeThroughput | None = None

    @property
    def key_attributes(self) -> tuple[KeyAttribute, ...]:
        """The attributes of the partition key, then those of the sort key."""
        return (*self.partition_keys, *self.sort_keys)


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeToLive:
    """By which attribute items expire; `id` is the prefix on disk of the index by that time."""

    attribute: str
    id: int
    # Whether items that the table had before may be missing in the index.
    is_backfilling: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSettings:
    """How long a table's streams keep records, and how they are divided into shards."""

    retention_seconds: int = RETENTION_SECONDS_DEFAULT
    # 0: no bound.
    retention_bytes: int = 0
    min_shards: int = MIN_SHARDS_DEFAULT
    # None: the default, or min_shards if that is more.
    max_shards: int | None = None
    # Whether quiet neighbours are merged. A reader that knows one parent of a shard cannot follow a merge.
    automatic_merges: bool = False
    # How long a shard with records stays open; 0: for ever; None: the default, or less if the retention is short.
    roll_seconds: int | None = None

    @property
    def shards_max(self) -> int:
        """Up to how many shards a stream is split by its write rate."""
        return max(self.min_shards, MAX_SHARDS_DEFAULT) if self.max_shards is None else self.max_shards

    @property
    def roll_period_seconds(self) -> int:
        """How long a shard with records stays open before it is rolled; 0: for ever."""
        if self.roll_seconds is not None:
            return self.roll_seconds
        share = self.retention_seconds // _ROLLS_PER_RETENTION
        return min(ROLL_SECONDS_DEFAULT, max(share, _DERIVED_ROLL_SECONDS_MIN))


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table's definition. `id` is its prefix on disk and never used again; `uuid` is what users see."""

    name: str
    id: int
    uuid: str
    create_time_ms: int
    partition_key: KeyAttribute
    sort_key: KeyAttribute | None
    # The newest stream, also after it was disabled; empty if there never was one.
    stream_label: str = ""
    stream_settings: StreamSettings = field(default_factory=StreamSettings)
    # By name, local ones first.
    indexes: tuple[Index, ...] = ()
    time_to_live: TimeToLive | None = None
    # None: pay per request.
    throughput: Throughput | None = None
    throughput_changes: ThroughputChanges = NO_THROUGHPUT_CHANGES
    # When it was last changed to pay per request; None: never since it was created.
    on_demand_since_ms: int | None = None
    warm_throughput: Throughput = WARM_THROUGHPUT_DEFAULT
    # None: no maximum; always so with provisioned throughput.
    on_demand_maximum: SomeThroughput | None = None
    # None: it was never named, which means STANDARD.
    table_class: TableClass | None = None
    # When it was last changed; None: never since the table was created.
    table_class_time_ms: int | None = None
    encryption: Encryption | None = None
    # Whether it may not be deleted.
    is_protected: bool = False
    tags: dict[str, str] = field(default_factory=dict)
    # None: off.
    recovery_period_days: int | None = None
    # None: it was created, not restored.
    restored_from: Restoration | None = None

    @property
    def last_on_demand_ms(self) -> int | None:
        """When pay per request was last set; None if it never was."""
        if self.on_demand_since_ms is None and self.throughput is None:
            return self.create_time_ms
        return self.on_demand_since_ms

    @property
    def partition_keys(self) -> tuple[KeyAttribute, ...]:
        """The partition key, as an index has it."""
        return (self.partition_key,)

    @property
    def sort_keys(self) -> tuple[KeyAttribute, ...]:
        """The sort key if there is one, as an index has it."""
        return () if self.sort_key is None else (self.sort_key,)

    @property
    def key_attributes(self) -> tuple[KeyAttribute, ...]:
        """The partition key, then the sort key if there is one."""
        return (*self.partition_keys, *self.sort_keys)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """A slice of a stream: the changes of the keys whose hash lies in [first_hash, last_hash], in order.

    `id` is its prefix in the log and never used again. It is open while `ending_sequence_number` is None.
    """

    id: int
    shard_id: str
    parent_shard_id: str = ""
    adjacent_parent_shard_id: str = ""
    first_hash: int
    last_hash: int
    starting_sequence_number: int
    # No record has this number.
    ending_sequence_number: int | None = None
    # Where merges joined its hash range, rising: each lane but the first begins at one of these hashes.
    seams: tuple[int, ...] = ()
    # When it was closed.
    closed_time_ms: int | None = None
    # The last record that was trimmed: its number, 0 if none was, and when it was written.
    trimmed_to: int = 0
    trimmed_time_ms: int = 0

    @property
    def is_open(self) -> bool:
        """Whether records may still be appended."""
        return self.ending_sequence_number is None

    @property
    def parent_ids(self) -> list[str]:
        """The ids of the shards it follows: none, one, or after a merge two."""
        return [id_ for id_ in (self.parent_shard_id, self.adjacent_parent_shard_id) if id_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """A table's change log as users see it. A stream is enabled while it has an open shard."""

    table_name: str
    table_id: int
    label: str
    create_time_ms: int
    view_type: StreamViewType
    key_attributes: tuple[KeyAttribute, ...]
    settings: StreamSettings
    # Those that hold records or may get some, in the order they were opened: parents before children.
    shards: tuple[Shard, ...]
    # Closed shards that hold nothing any more, the newest of them: no longer to be seen, but part of the lineage.
    vanished: tuple[Shard, ...] = ()
    # The last record of all shards that have ever vanished: its number, 0 if none has, and when it was written.
    trimmed_to: int = 0
    trimmed_time_ms: int = 0

    @property
    def name(self) -> str:
        """What it is called among all streams: the end of its ARN."""
        return stream_name(self.table_name, self.label)

    @property
    def open_shards(self) -> list[Shard]:
        """The shards that record changes, in the order of their hash ranges."""
        return sorted((shard for shard in self.shards if shard.is_open), key=lambda shard: shard.first_hash)

    def shard(self, shard_id: str) -> Shard | None:
        """The shard of a public id, if it is still held."""
        return next((shard for shard in self.shards if shard.shard_id == shard_id), None)

    @property
    def is_enabled(self) -> bool:
        """Whether changes of the table are recorded."""
        return any(shard.is_open for shard in self.shards)

    @property
    def lineage(self) -> tuple[Shard, ...]:
        """All shards that are known, parents before children."""
        return (*self.vanished, *self.shards)

    def children(self, shard_id: str) -> list[Shard]:
        """The shards that follow a closed one, those that have vanished too."""
        return [s for s in self.lineage if shard_id in (s.parent_shard_id, s.adjacent_parent_shard_id)]


def upgrade_table(document: dict[str, Any]) -> None:
    """Changes the document of a table as an earlier version wrote it.

    An index had one partition and one sort key; there was no warm throughput, which is at least the provisioned one.
    """
    indexes = document.get("indexes", ())
    for provisioned in (document, *indexes):
        _add_warm_throughput(provisioned)
    for index in indexes:
        if "partition_key" in index:
            sort_key = index.pop("sort_key", None)
            index["partition_keys"] = [index.pop("partition_key")]
            index["sort_keys"] = [] if sort_key is None else [sort_key]


def _add_warm_throughput(document: dict[str, Any]) -> None:
    throughput = document.get("throughput")
    if throughput is not None and "warm_throughput" not in document:
        default = WARM_THROUGHPUT_DEFAULT
        document["warm_throughput"] = {
            "read_units": max(default.read_units, throughput.get("read_units", 0)),
            "write_units": max(default.write_units, throughput.get("write_units", 0)),
        }


def stream_name(table_name: str, label: str) -> str:
    """The end of a stream's ARN, which is unique in a store."""
    return f"{table_name}/stream/{label}"


def table_arn(region: str, table_name: str) -> str:
    """The ARN of a table, in AWS's form."""
    return f"arn:aws:dynamodb:{region}:{ACCOUNT}:table/{table_name}"


def index_arn(region: str, table_name: str, index_name: str) -> str:
    """The ARN of an index, in AWS's form."""
    return f"{table_arn(region, table_name)}/index/{index_name}"


def key_arn(region: str, key: str) -> str:
    """The ARN of a key of AWS's key service, given as it may be: an ARN, an alias or an id; empty: DynamoDB's own."""
    if key.startswith("arn:"):
        return key
    resource = key if key.startswith("alias/") else f"key/{key or _MANAGED_KEY}"
    return f"arn:aws:kms:{region}:{ACCOUNT}:{resource}"


def stream_arn(region: str, table_name: str, label: str) -> str:
    """The ARN of a stream, in AWS's form."""
    return f"arn:aws:dynamodb:{region}:{ACCOUNT}:table/{stream_name(table_name, label)}"
