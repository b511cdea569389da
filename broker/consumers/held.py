"""A source that a member holds: how far it is read, and what of it the member has not acknowledged."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import asyncio

    from broker.consumers.sources import Source


class Sent(NamedTuple):
    """A response that is not acknowledged."""

    number: int
    records: int
    size_bytes: int
    time_ms: int


@dataclass(slots=True, eq=False, kw_only=True)
class Held:
    """A source that a member holds."""

    source: Source
    # Rises with each source that is given to anyone.
    order: int
    # 0 until the lease is durable.
    epoch: int = 0
    # Up to where it is read, and up to where the member was told so.
    position: int = 0
    sent_to: int = 0
    told_at: float = 0.0
    in_flight: deque[Sent] = field(default_factory=deque)
    # Where it ends, once that was sent.
    end: int | None = None
    # Not read before this time of the event loop; 0 if it need not wait.
    retry_at: float = 0.0
    # So many acknowledgements are on their way to the disk, and so many of them are negative: those will make void what
    # was sent, so nothing more may be.
    pending: int = 0
    pending_nacks: int = 0
    # While some were on their way, the group had no more need of this lease; to be looked at again after them.
    is_doubtful: bool = False
    # Records of parked keys come next, and there is no room for them.
    is_blocked: bool = False
    # What the next batch takes, when it did not fit into what was left of the credit; 0 if it did.
    wanted_bytes: int = 0
    # It is to move, at this time of the wall clock at the latest; 0 if it is not.
    deadline_ms: int = 0
    is_revoking_told: bool = False
    deadline: asyncio.TimerHandle | None = None

    @property
    def in_flight_records(self) -> int:
        """Records that are sent and not acknowledged."""
        return sum(sent.records for sent in self.in_flight)

    @property
    def has_in_flight(self) -> bool:
        """Whether there are any."""
        return any(sent.records for sent in self.in_flight)

    @property
    def about(self) -> dict[str, Any]:
        """The fields that all events about the source have."""
        return {"kind": self.source.kind, "source_id": self.source.id, "epoch": self.epoch}
