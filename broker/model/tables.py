"""Tables, streams and shards at rest: what the catalog keeps."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

# What a region may be called: it stands in ARNs, versions and records.
REGION_NAME: Final = re.compile(r"[a-z0-9-]{1,64}", re.ASCII)
# Stands where an AWS account id stands in an ARN.
ACCOUNT: Final = "000000000000"
HASH_MAX: Final = 2**64 - 1


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

    @property
    def key_attributes(self) -> tuple[KeyAttribute, ...]:
        """The partition key, then the sort key if there is one."""
        return (self.partition_key,) if self.sort_key is None else (self.partition_key, self.sort_key)


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
    ending_sequence_number: int | None = None

    @property
    def is_open(self) -> bool:
        """Whether records may still be appended."""
        return self.ending_sequence_number is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """A table's change log as users see it. A stream is enabled while it has an open shard."""

    table_name: str
    table_id: int
    label: str
    create_time_ms: int
    view_type: StreamViewType
    key_attributes: tuple[KeyAttribute, ...]
    shards: tuple[Shard, ...]

    @property
    def is_enabled(self) -> bool:
        """Whether changes of the table are recorded."""
        return any(shard.is_open for shard in self.shards)

    def children(self, shard_id: str) -> list[Shard]:
        """The shards that follow a closed one."""
        return [s for s in self.shards if shard_id in (s.parent_shard_id, s.adjacent_parent_shard_id)]


def table_arn(region: str, table_name: str) -> str:
    """The ARN of a table, in AWS's form."""
    return f"arn:aws:dynamodb:{region}:{ACCOUNT}:table/{table_name}"


def stream_arn(region: str, table_name: str, label: str) -> str:
    """The ARN of a stream, in AWS's form."""
    return f"{table_arn(region, table_name)}/stream/{label}"
