"""Records that a reader has not read and that are no longer held: never skipped silently, but told exactly."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from broker.model.clock import iso_label
from broker.model.errors import HeadraceError
from broker.model.sequence import format_sequence_number

if TYPE_CHECKING:
    from collections.abc import Sequence


class Gap(NamedTuple):
    """A part of a shard that is lost to a reader."""

    # Empty if they were in several shards, or in shards that nothing is known of any more.
    shard_id: str
    # The lost records lie from this number on.
    first_lost: int
    # The number of the last lost record.
    last_lost: int
    # They were written between these times, in milliseconds since 1970 UTC; the second is that of the last one.
    lost_from_ms: int
    lost_to_ms: int


def spanning(gaps: Sequence[Gap]) -> Gap | None:
    """One gap over all that several hold; None if there are none."""
    if len(gaps) <= 1:
        return gaps[0] if gaps else None
    return Gap(
        shard_id="",
        first_lost=min(gap.first_lost for gap in gaps),
        last_lost=max(gap.last_lost for gap in gaps),
        lost_from_ms=min(gap.lost_from_ms for gap in gaps),
        lost_to_ms=max(gap.lost_to_ms for gap in gaps),
    )


class TrimmedDataAccessError(HeadraceError):
    """A position before the oldest record held. Metadata tells the gap, and the earliest position that is valid."""

    reason = "TRIMMED_DATA_ACCESS"

    def __init__(self, gap: Gap) -> None:
        first_lost, last_lost = format_sequence_number(gap.first_lost), format_sequence_number(gap.last_lost)
        super().__init__(
            f"The operation attempted to read past the oldest stream record in {gap.shard_id or 'the stream'}: the "
            f"records from {first_lost} to {last_lost} are no longer held",
            shard_id=gap.shard_id,
            first_lost_sequence_number=first_lost,
            last_lost_sequence_number=last_lost,
            lost_from=iso_label(gap.lost_from_ms),
            lost_to=iso_label(gap.lost_to_ms),
            earliest_sequence_number=format_sequence_number(gap.last_lost + 1),
        )
        self.gap = gap
