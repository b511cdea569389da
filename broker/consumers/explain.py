"""Why a group does or does not move. Pure: from what is known of each source to one word and one sentence."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from broker.consumers.events import SourceKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from broker.model.gaps import Gap

# How long a connection may take to accept what is sent, before its member is said not to read.
STUCK_MS: Final = 1_000


class Progress(StrEnum):
    """What a group does with a source."""

    NO_MEMBER = "NO_MEMBER"
    WAITING_FOR_PARENT = "WAITING_FOR_PARENT"
    WAITING_FOR_SNAPSHOT = "WAITING_FOR_SNAPSHOT"
    MOVING = "MOVING"
    AT_TIP = "AT_TIP"
    WAITING_FOR_ACK = "WAITING_FOR_ACK"
    WAITING_FOR_MEMBER = "WAITING_FOR_MEMBER"
    WAITING_FOR_RETRY = "WAITING_FOR_RETRY"
    REVOKING = "REVOKING"
    GAP = "GAP"
    FINISHED = "FINISHED"


# What does not move and needs someone to do something, the worst first.
_STALLED: Final = (
    Progress.GAP,
    Progress.NO_MEMBER,
    Progress.WAITING_FOR_MEMBER,
    Progress.WAITING_FOR_RETRY,
    Progress.WAITING_FOR_ACK,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """What the member that holds a source is doing with it."""

    member_name: str
    in_flight_records: int = 0
    in_flight_age_ms: int = 0
    # How long the connection has not taken what is sent.
    sending_ms: int = 0
    # The member may have no more before it acknowledges.
    is_credit_used_up: bool = False
    # There is nothing to read beyond what it has, or was told is set aside.
    is_all_sent: bool = False
    # The end was sent and is not acknowledged.
    is_end_sent: bool = False
    # Until when it is to be moved, in milliseconds from now.
    revoking_ms: int | None = None
    # When it is read again, in milliseconds from now; 0 if it is not waiting.
    retry_ms: int = 0
    # Records of parked keys come next, and there is no room for them.
    is_blocked: bool = False
    skips_gaps: bool = False
    # A record is parked when it has failed so often; 0: never.
    attempts_max: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceView:
    """What is known of a source."""

    source_id: str
    kind: SourceKind
    epoch: int = 0
    is_finished: bool = False
    # Records that are not processed, and how long ago the oldest of them was written.
    records_behind: int = 0
    millis_behind: int = 0
    attempts: int = 0
    last_error: str = ""
    gap: Gap | None = None
    # Its parents that are not processed to their ends.
    waits_for: Sequence[str] = ()
    # Ranges of the snapshot that come before it and are not processed.
    unread_ranges: int = 0
    holding: Holding | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Why a source does or does not move."""

    view: SourceView
    progress: Progress
    text: str


def explain(view: SourceView, members: int, *, is_parking_full: bool) -> Explanation:
    """Why a source of a group with so many members does or does not move, and what would make it move."""
    progress, text = _at_rest(view, members)
    if progress is None:
        progress, text = (
            (Progress.MOVING, "It is about to be given to a member; of parked keys the oldest come first.")
            if view.holding is None
            else _held(view, view.holding, is_parking_full=is_parking_full)
        )
    return Explanation(view=view, progress=progress, text=text)


def summarize(explanations: Sequence[Explanation], members: int, parked_keys: int) -> str:
    """In one sentence: whether the group moves and, if not, why."""
    parked = f"; {parked_keys} keys are parked" if parked_keys else ""
    behind = sum(explanation.view.records_behind for explanation in explanations)
    for progress in _STALLED:
        stalled = [explanation for explanation in explanations if explanation.progress is progress]
        if stalled:
            first = stalled[0]
            count = f"{len(stalled)} of {len(explanations)}"
            return f"{count} shards are {progress}; {first.view.source_id}: {first.text}{parked}"
    if not explanations:
        return f"Everything is processed to its end{parked}."
    if all(explanation.progress is Progress.AT_TIP for explanation in explanations):
        return f"Everything is processed; {members} members wait for more{parked}."
    return f"The group moves: {behind} records are not processed{parked}."


def _at_rest(view: SourceView, members: int) -> tuple[Progress | None, str]:
    """What can be said whoever holds it."""
    if view.is_finished:
        return Progress.FINISHED, "It is closed and processed to its end."
    is_skipped = view.holding is not None and view.holding.skips_gaps
    if view.gap is not None and not is_skipped:
        return Progress.GAP, (
            f"The records from {view.gap.first_lost} to {view.gap.last_lost} are no longer held: join with on_gap SKIP "
            "to go on after them, or delete the group and begin anew."
        )
    if view.unread_ranges:
        return Progress.WAITING_FOR_SNAPSHOT, (
            f"It is read when the snapshot is processed, of which {view.unread_ranges} ranges are left."
        )
    if view.waits_for:
        return Progress.WAITING_FOR_PARENT, f"It is read when {' and '.join(view.waits_for)} is processed to its end."
    if not members:
        return Progress.NO_MEMBER, "No member is connected: start a consumer of this group."
    return None, ""


def _held(view: SourceView, holding: Holding, *, is_parking_full: bool) -> tuple[Progress, str]:
    """What can be said of the member that holds it."""
    who = holding.member_name or "the member"
    # A record may also be larger than the room that is left.
    is_parking_due = 0 < holding.attempts_max <= view.attempts
    full = (
        " The group has parked as much as it may, so nothing more is parked: redrive or discard parked keys."
        if is_parking_full or is_parking_due or holding.is_blocked
        else ""
    )
    if holding.revoking_ms is not None:
        return Progress.REVOKING, (
            f"It moves to another member when {who} has acked {holding.in_flight_records} records, in "
            f"{max(0, holding.revoking_ms)} ms at the latest."
        )
    if holding.is_blocked:
        return Progress.WAITING_FOR_RETRY, f"Its next record is of a parked key.{full}"
    if holding.retry_ms > 0:
        return Progress.WAITING_FOR_RETRY, (
            f"The next record has failed {view.attempts} times, the last time with {view.last_error!r}; it is "
            f"delivered again in {holding.retry_ms} ms.{full}"
        )
    if holding.sending_ms >= STUCK_MS:
        return Progress.WAITING_FOR_MEMBER, (
            f"{who} has not read what was sent to it for {holding.sending_ms} ms: its process or connection is stuck."
        )
    is_all_sent = view.records_behind > 0 and holding.is_all_sent
    if holding.is_credit_used_up or holding.is_end_sent or is_all_sent:
        what = "the end of the shard" if holding.is_end_sent else f"{holding.in_flight_records} records of it"
        if is_all_sent and not holding.in_flight_records:
            what = "the position after records that are parked"
        used_up = ", and has used up its credit" if holding.is_credit_used_up else ""
        return Progress.WAITING_FOR_ACK, (
            f"{who} has {what}, the oldest for {holding.in_flight_age_ms} ms{used_up}: it goes on when {who} acks."
        )
    if not view.records_behind and not holding.in_flight_records and view.kind is SourceKind.LOG:
        return Progress.AT_TIP, "Everything is processed."
    return Progress.MOVING, f"{who} has {holding.in_flight_records} records of it, and more follow."
