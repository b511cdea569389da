"""What a replica needs next: decisions as functions of values, without I/O.

    CREATING ──> BOOTSTRAPPING ──> ACTIVE
        ^              ^              │
        │              └── gap ───────┤   changes were lost: a new copy
        └───────────── FAILED <───────┘   a person must act; looked at again every half minute

Why a copy that is interrupted, resumed and followed from its FIRST sequence number is right. Let S be a sequence number
that is durable before the first item is copied. Every snapshot read later holds at least the changes up to S. Take any
key: what the copy brought is the item as it was in some snapshot, or nothing, and every later change of that key has a
record after S, which is followed. So a put is applied, and so is a delete that happened between two snapshots, of an
item that the first had already brought. To start at the second snapshot would lose exactly that delete. Records that
the copy contains already come once more and change nothing, because a change is applied only if its version is newer.

Splits and merges of the source's shards take nothing from this. S is a position in the whole stream: a shard that ends
at or before S holds no record after it, and of all others the broker gives each record after S, those of a closed shard
before those of the shards that follow it. So the records of a key come in order, whichever shards they are in; and were
they not in order, the versions would still tell.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final, Self

from headrace import errors
from headrace.v1 import record_pb2, table_pb2, table_service_pb2
from headrace.v1 import replication_service_pb2 as pb

# The broker keeps this much of an error, in characters.
LAST_ERROR_LENGTH_MAX: Final = 1024

_VIEW_TYPES_WITH_NEW_IMAGE: Final = (
    record_pb2.STREAM_VIEW_TYPE_NEW_IMAGE,
    record_pb2.STREAM_VIEW_TYPE_NEW_AND_OLD_IMAGES,
)


class Status(Enum):
    """Where a replica is in its life."""

    CREATING = pb.REPLICA_STATUS_CREATING
    BOOTSTRAPPING = pb.REPLICA_STATUS_BOOTSTRAPPING
    ACTIVE = pb.REPLICA_STATUS_ACTIVE
    FAILED = pb.REPLICA_STATUS_FAILED


class Phase(Enum):
    """What a peer does for a replica."""

    BEGIN = "begin"
    COPY = "copy"
    FOLLOW = "follow"


class NeedsPersonError(Exception):
    """The replica cannot go on until somebody changes something; the text says what."""


class StartOverError(Exception):
    """Changes may have been lost, so the table must be copied again; the text says why."""


class LinkError(errors.HeadraceError):
    """A call to one of the two brokers that failed; the message says to which, `cause` how."""

    def __init__(self, side: str, endpoint: str, cause: errors.HeadraceError) -> None:
        super().__init__(f"{side} {endpoint}: {cause.message}", reason=cause.reason, metadata=cause.metadata)
        self.side = side
        self.cause = cause


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a replica is, as the source's broker keeps it."""

    status: Status = Status.CREATING
    target_region: str = ""
    snapshot_sequence_number: str = ""
    bootstrap_start_key: bytes = b""
    items_copied: int = 0
    records_applied: int = 0
    last_applied_sequence_number: str = ""
    replication_lag_ms: int = 0
    last_error: str = ""

    @classmethod
    def from_message(cls, message: pb.ReplicaProgress) -> Self:
        """What the broker told."""
        known = message.status in {status.value for status in Status}
        return cls(
            status=Status(message.status) if known else Status.CREATING,
            target_region=message.target_region,
            snapshot_sequence_number=message.snapshot_sequence_number,
            bootstrap_start_key=message.bootstrap_start_key,
            items_copied=message.items_copied,
            records_applied=message.records_applied,
            last_applied_sequence_number=message.last_applied_sequence_number,
            replication_lag_ms=message.replication_lag_ms,
            last_error=message.last_error,
        )

    def to_message(self) -> pb.ReplicaProgress:
        """What the broker is told."""
        return pb.ReplicaProgress(
            status=self.status.value,
            target_region=self.target_region,
            snapshot_sequence_number=self.snapshot_sequence_number,
            bootstrap_start_key=self.bootstrap_start_key,
            items_copied=self.items_copied,
            records_applied=self.records_applied,
            last_applied_sequence_number=self.last_applied_sequence_number,
            replication_lag_ms=self.replication_lag_ms,
            last_error=self.last_error,
        )

    @property
    def phase(self) -> Phase:
        """What is to be done next. Without a sequence number to follow from, nothing that was copied counts."""
        if not self.snapshot_sequence_number or self.status in {Status.CREATING, Status.FAILED}:
            return Phase.BEGIN
        return Phase.COPY if self.status is Status.BOOTSTRAPPING else Phase.FOLLOW

    def is_beyond(self, earlier: Progress) -> bool:
        """Whether something was copied, applied or completed since."""
        return replace(self, last_error=earlier.last_error) != earlier

    def begun(self, *, snapshot_sequence_number: str, target_region: str) -> Self:
        """The copy may begin once this is durable."""
        return replace(
            self,
            status=Status.BOOTSTRAPPING,
            target_region=target_region,
            snapshot_sequence_number=snapshot_sequence_number,
            bootstrap_start_key=b"",
            items_copied=0,
        )

    def copied(self, *, start_key: bytes, items: int) -> Self:
        """The target has `items` more, everything up to `start_key`."""
        return replace(self, bootstrap_start_key=start_key, items_copied=self.items_copied + items)

    def bootstrapped(self) -> Self:
        """The target has every item of the copy."""
        return replace(self, status=Status.ACTIVE, bootstrap_start_key=b"")

    def applied(self, *, records: int, last_sequence_number: str, lag_ms: int) -> Self:
        """The target has applied `records` more of the stream."""
        return replace(
            self,
            records_applied=self.records_applied + records,
            # The shards take turns, so the records of one may be older than the last ones of another.
            last_applied_sequence_number=max(self.last_applied_sequence_number, last_sequence_number),
            replication_lag_ms=lag_ms,
        )

    def troubled(self, why: str) -> Self:
        """Something is wrong that may heal by itself."""
        return replace(self, last_error=why[:LAST_ERROR_LENGTH_MAX])

    def failed(self, why: str) -> Self:
        """A person must act. What happens until then is not followed, so afterwards the table is copied again."""
        return replace(self.start_over(why), status=Status.FAILED)

    def start_over(self, why: str) -> Self:
        """Nothing that was copied counts any more."""
        return replace(
            self.troubled(why), status=Status.BOOTSTRAPPING, snapshot_sequence_number="", bootstrap_start_key=b""
        )


def lost_changes(error: LinkError) -> str | None:
    """Why the changes since the replica's position can no longer be read, or None if `error` does not say so."""
    if error.side != "source":
        return None
    if isinstance(error.cause, errors.TrimmedDataAccessError):
        return f"fell behind the source's stream, copying again: {error.cause.message}{_details(error.cause.metadata)}"
    if isinstance(error.cause, errors.ValidationError) and error.cause.metadata.get("field") == "stream_arn":
        return f"the source's stream was made anew, copying again: {error.cause.message}"
    return None


def check_source(name: str, table: table_pb2.TableDescription | None) -> table_pb2.TableDescription:
    """The source table, if it can be replicated. Raises NeedsPersonError."""
    if table is None:
        raise NeedsPersonError(f"the source table {name} does not exist")
    stream = table.stream_specification
    if not stream.stream_enabled:
        raise NeedsPersonError(f"the stream of the source table {name} is off: enable it with new images")
    if stream.stream_view_type not in _VIEW_TYPES_WITH_NEW_IMAGE:
        view_type = record_pb2.StreamViewType.Name(stream.stream_view_type).removeprefix("STREAM_VIEW_TYPE_")
        raise NeedsPersonError(
            f"the stream of the source table {name} records {view_type}: "
            "a replica needs NEW_IMAGE or NEW_AND_OLD_IMAGES; disable the stream and enable it with one of these"
        )
    return table


def check_target(source: table_pb2.TableDescription, target: table_pb2.TableDescription) -> None:
    """Raises NeedsPersonError if `target` cannot hold what `source` holds."""
    if source.table_id == target.table_id:
        raise NeedsPersonError(f"the table {source.table_name} cannot be its own replica")
    if _key_of(source) != _key_of(target):
        raise NeedsPersonError(
            f"the target table {target.table_name} has the key {_key_text(target)}, "
            f"the source table {source.table_name} has {_key_text(source)}"
        )


def check_target_is_free(table_name: str, *, source_region: str, target_region: str, has_items: bool) -> None:
    """Raises NeedsPersonError if a copy from the beginning could not tell the replica's items from others.

    Between regions an item's origin tells. Within a region nothing does, so a copy there begins with an empty table.
    """
    if source_region == target_region and has_items:
        raise NeedsPersonError(
            f"the target table {table_name} is in the region of its source and holds items, which cannot be told from "
            "old copies: delete the table, then it is made and copied anew"
        )


def target_table_request(source: table_pb2.TableDescription, name: str) -> table_service_pb2.CreateTableRequest:
    """What makes the replica's table: key, stream and its settings as the source's, so that triggers work on it too."""
    return table_service_pb2.CreateTableRequest(
        table_name=name,
        key_schema=source.key_schema,
        attribute_definitions=source.attribute_definitions,
        stream_specification=source.stream_specification,
        stream_settings=source.stream_settings if source.HasField("stream_settings") else None,
    )


def key_names(table: table_pb2.TableDescription) -> tuple[str, ...]:
    """The names of a table's key attributes, the partition key first."""
    return tuple(element.attribute_name for element in table.key_schema)


def _key_of(table: table_pb2.TableDescription) -> list[tuple[str, int, int]]:
    types = {definition.attribute_name: definition.attribute_type for definition in table.attribute_definitions}
    return [(element.attribute_name, element.key_type, types[element.attribute_name]) for element in table.key_schema]


def _key_text(table: table_pb2.TableDescription) -> str:
    return ", ".join(
        f"{name} ({table_pb2.KeyType.Name(role).removeprefix('KEY_TYPE_')}, "  # type: ignore[arg-type]
        f"{table_pb2.ScalarAttributeType.Name(kind).removeprefix('SCALAR_ATTRIBUTE_TYPE_')})"  # type: ignore[arg-type]
        for name, role, kind in _key_of(table)
    )


def _details(metadata: Mapping[str, str]) -> str:
    return f" ({', '.join(f'{name} {value}' for name, value in sorted(metadata.items()))})" if metadata else ""
