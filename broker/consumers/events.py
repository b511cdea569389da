"""What a session tells its member."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from broker.model.errors import HeadraceError
    from broker.model.gaps import Gap


class SourceKind(StrEnum):
    """Where records come from."""

    # A shard of the stream.
    LOG = "LOG"
    # A range of the table's items.
    SNAPSHOT = "SNAPSHOT"
    # A key that was parked and is redriven.
    PARKED = "PARKED"


@dataclass(slots=True, kw_only=True)
class Batch:
    """Some records of a source, in order, as stored bytes."""

    # Together they are elements of `repeated Record records = 1`.
    parts: Sequence[bytes | memoryview]
    count: int
    size_bytes: int
    # The position after the batch.
    last_sequence_number: int
    # How long ago the last record of the batch was written if more are readable now; 0 at the tip.
    millis_behind_latest: int = 0
    # Whether the source ends here.
    is_end: bool = False
    # Each record's sequence number and bytes, for the rare case that someone must look at them one by one.
    records: Callable[[], list[tuple[int, bytes]]]

    def take(self) -> Sequence[bytes | memoryview]:
        """The parts, which the batch then forgets.

        Whoever waits for a connection that is slow must not hold the blocks that the parts were cut from.
        """
        parts = self.parts
        self.parts, self.records = (), list
        return parts


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The member belongs to the group."""

    is_standby: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """Still here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceEvent:
    """Something about a source, under a lease."""

    kind: SourceKind
    source_id: str
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Assigned(SourceEvent):
    """The member holds the source, and gets what follows the checkpoint; None if that is its beginning."""

    checkpoint: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Records(SourceEvent):
    """Records of the source, or none if merely the position has moved."""

    batch: Batch


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended(SourceEvent):
    """The source is read to its end."""

    number: int
    children: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpointed(SourceEvent):
    """An acknowledgement is durable."""

    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Revoking(SourceEvent):
    """The source is to move; nothing more of it comes."""

    deadline_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Revoked(SourceEvent):
    """The member no longer holds the source."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost(SourceEvent):
    """Records that the group has not processed are no longer held; the source goes on after them."""

    gap: Gap
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed(SourceEvent):
    """A negative acknowledgement is durable."""

    number: int
    attempts: int
    is_parked: bool
    # When the record is delivered again; None if it is not, or to another member.
    retry_time_ms: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused(SourceEvent):
    """An acknowledgement, or a negative one, was refused and has changed nothing."""

    number: int
    error: HeadraceError


Event: TypeAlias = (
    Started | Heartbeat | Assigned | Records | Ended | Checkpointed | Revoking | Revoked | Lost | Failed | Refused
)
