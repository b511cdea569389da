"""One member's session: all the sources it holds over one connection, in turn, within one credit.

    given --lease--> held --read, send--> in flight --ack--> ... --end acked--> finished
                      ^ |                    |
                      | +------ revoke ------+--> all acked, or the deadline --> released
                      +-- nack: a new epoch, and on with the record that failed, later

One task runs the session and is the only one that sends; acknowledgements come from another and are answered in order.
Nothing is read before there is credit for it, and one batch at a time is on its way to the connection.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

from broker.consumers.answers import Answers
from broker.consumers.assignment import AssignmentMode
from broker.consumers.events import (
    Assigned,
    Batch,
    Checkpointed,
    Ended,
    Failed,
    Heartbeat,
    Lost,
    Records,
    Refused,
    Revoked,
    Revoking,
    SourceKind,
    Started,
)
from broker.consumers.explain import Holding
from broker.consumers.groups import NackReason
from broker.consumers.held import Held, Sent
from broker.consumers.sources import LogShard
from broker.model.errors import (
    HeadraceError,
    LeaseFencedError,
    ResourceNotFoundError,
    ThrottlingError,
    ValidationError,
)
from broker.model.gaps import TrimmedDataAccessError
from broker.model.sequence import format_sequence_number
from broker.storage.commit import CHANGE_BYTES, Change
from broker.streams.tail import PAGE_RECORDS_MAX

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from broker.consumers.answers import Turn
    from broker.consumers.events import Event
    from broker.consumers.groups import ConsumerGroups, Failure, FailureOutcome, Lease
    from broker.consumers.parking import Diverted
    from broker.consumers.sources import Source
    from broker.model.clock import Clock
    from broker.storage.commit import Committer, Group
    from broker.storage.watermark import Wakeup

IN_FLIGHT_RECORDS_DEFAULT: Final = 10_000
IN_FLIGHT_RECORDS_MAX: Final = 100_000
IN_FLIGHT_BYTES_DEFAULT: Final = 16 * 1024 * 1024
IN_FLIGHT_BYTES_MAX: Final = 256 * 1024 * 1024
ATTEMPTS_DEFAULT: Final = 10
ATTEMPTS_MAX: Final = 1_000
REVOKE_SECONDS_DEFAULT: Final = 30
REVOKE_SECONDS_MAX: Final = 300
RETRY_SECONDS_MAX: Final = 15 * 60
HEARTBEAT_SECONDS: Final = 15.0
# Acknowledgements of a member that are not answered yet; beyond it no more are taken from the connection.
ANSWERS_MAX: Final = 256
# Ends are remembered so long that a late acknowledgement of one is no mistake.
FINISHED_SOURCES_MAX: Final = 1_024
# How long a batch with records of parked keys waits when too many writes wait.
_THROTTLED_SECONDS: Final = 0.05


class Outlet(Protocol):
    """Where a session's events go."""

    @property
    def batch_bytes_max(self) -> int:
        """How large the next batch may be; one record may be larger."""

    async def send(self, event: Event) -> None:
        """Returns when the event is handed to the connection."""


class Circle(Protocol):
    """The members of a group, as one of them sees it."""

    def leave(self, session: Session) -> None:
        """Removes a member; what it held goes to the others."""

    def is_standby(self, session: Session) -> bool:
        """Whether another member holds everything."""

    def rebalance(self) -> None:
        """Gives and takes, as far as the group's state or its members have changed."""

    def finished(self, source_id: str, session: Session) -> None:
        """Notes who has finished a source: it is favoured when its children are given away."""

    def parking_changed(self) -> None:
        """Notes that parked records have come or gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberSettings:
    """How a member wants to be served."""

    group_name: str
    member_name: str = ""
    batch_records_max: int = PAGE_RECORDS_MAX
    in_flight_records_max: int = IN_FLIGHT_RECORDS_DEFAULT
    in_flight_bytes_max: int = IN_FLIGHT_BYTES_DEFAULT
    mode: AssignmentMode = AssignmentMode.SHARED
    skips_gaps: bool = False
    # 0: a record is tried for ever.
    attempts_max: int = ATTEMPTS_DEFAULT
    revoke_seconds: int = REVOKE_SECONDS_DEFAULT


class Session:
    """One connected member of a group."""

    def __init__(
        self,
        settings: MemberSettings,
        join: Callable[[Session], Circle],
        groups: ConsumerGroups,
        committer: Committer,
        clock: Clock,
        wakeup: Wakeup,
        outlet: Outlet,
    ) -> None:
        self.settings = settings
        self.name = settings.member_name
        # By id, in the order in which they are served.
        self.held: dict[str, Held] = {}
        # It has said that it is about to leave: nothing more is given to it if there is anyone else.
        self.is_leaving = False
        self.in_flight_records = 0
        self.in_flight_bytes = 0
        # Since when, in milliseconds, the connection has not taken what is being sent; 0 if nothing is.
        self.sending_since_ms = 0
        self._join = join
        self._groups = groups
        self._committer = committer
        self._clock = clock
        self._wakeup = wakeup
        self._outlet = outlet
        self._loop = asyncio.get_running_loop()
        self._sent_at = self._loop.time()
        self._answers = Answers(wakeup.notify)
        # The epoch and the end of sources that were finished.
        self._finished: dict[str, tuple[int, int]] = {}
        self._ending: HeadraceError | None = None
        # A batch that is too large for what is left of the credit has the next turn: no other takes of it before.
        self._is_credit_reserved = False

    async def run(self) -> None:
        """Serves the member until it is cancelled; it belongs to the group for as long as this runs.

        Raises ValidationError, ResourceNotFoundError if the group or its stream goes, TrimmedDataAccessError.
        """
        self._circle = self._join(self)
        try:
            await self._send(Started(is_standby=self._circle.is_standby(self)))
            while True:
                self._wakeup.clear()
                if self._ending is not None:
                    raise self._ending
                has_moved = await self._begin_leases()
                self._is_credit_reserved = False
                for held in list(self.held.values()):
                    # An answer may be that a lease begins anew: then the member is told before it gets more.
                    has_moved = await self._answers.send(self._send) or has_moved
                    if self._is_current(held):
                        has_moved = await self._serve(held) or has_moved
                has_moved = await self._answers.send(self._send) or has_moved
                if not has_moved:
                    await self._rest()
        finally:
            for held in list(self.held.values()):
                self._drop(held)
            self._circle.leave(self)
            self._wakeup.close()

    # What the group's circle does with its member. All of it takes effect at once; the member is told in its turn.

    def give(self, source: Source, order: int) -> None:
        """Lets the member hold a source."""
        self.held[source.id] = Held(source=source, order=order)
        self._watch(source)
        self._wakeup.notify()

    def revoke(self, source_id: str) -> None:
        """Begins to move a source away: it goes when what was sent of it is acknowledged, or at the deadline."""
        held = self.held[source_id]
        if not held.epoch:
            # The member does not know of it yet.
            self._drop(held)
            return
        seconds = self.settings.revoke_seconds
        held.deadline_ms = self._clock.now_ms() + seconds * 1000
        # Not left to the session's task: that may wait for a connection that takes nothing.
        held.deadline = self._loop.call_later(seconds, self._release, held)
        self._wakeup.notify()

    def take_away(self, source_id: str) -> None:
        """Ends the lease of a source that is no longer to be read, or not by this lease."""
        held = self.held[source_id]
        self._drop(held)
        if held.epoch:
            self._say(Revoked(**held.about))

    def end(self, error: HeadraceError) -> None:
        """Ends the session with an error."""
        self._ending = error
        self._wakeup.notify()

    def parking_changed(self) -> None:
        """Notes that there may be room to park, or more of a redriven key."""
        for held in self.held.values():
            if held.is_blocked:
                held.retry_at = 0.0
            if held.is_blocked or held.source.kind is SourceKind.PARKED:
                self._wakeup.notify()

    # What the member says.

    async def acknowledge(self, source_id: str, epoch: int, number: int) -> None:
        """Takes an acknowledgement; the answer is sent when it is durable. Returns when the next one may come."""
        await self._answers.no_more_than(ANSWERS_MAX - 1)
        held = self.held.get(source_id)
        if self._is_finished(source_id, epoch, number):
            self._say(Checkpointed(kind=_kind_of(source_id), source_id=source_id, epoch=epoch, number=number))
            return
        refusal = self._refusal(held, source_id, epoch, number)
        if held is None or refusal is not None:
            self._say(refusal)
            return
        is_end = held.end is not None and number >= held.end
        plan = partial(held.source.plan_acknowledge, epoch=epoch, number=number, is_end=is_end)
        await self._submit(held, Change(plan), partial(self._acknowledged, held, epoch, number))

    async def fail(self, source_id: str, epoch: int, failure: Failure) -> None:
        """Takes a negative acknowledgement, as `acknowledge` does."""
        await self._answers.no_more_than(ANSWERS_MAX - 1)
        held = self.held.get(source_id)
        refusal = self._refusal(held, source_id, epoch, failure.number)
        record = None
        if held is not None and refusal is None:
            record = held.source.record(failure.number)
            if record is None and not (isinstance(held.source, LogShard) and held.source.is_lost(failure.number)):
                refusal = self._refused(held, failure.number, "sequence_number is of no record that was sent")
        if held is None or refusal is not None:
            self._say(refusal)
            return
        held.pending_nacks += 1
        plan = partial(held.source.plan_fail, epoch=epoch, failure=failure, record=record)
        change = Change(plan, CHANGE_BYTES + (0 if record is None else len(record[1])))
        await self._submit(held, change, partial(self._failed, held, epoch, failure))

    async def answered(self) -> None:
        """Returns when everything that the member has said is answered."""
        await self._answers.no_more_than(0)

    async def _submit(self, held: Held, change: Change, settle: Callable[[Any], list[Event]]) -> None:
        held.pending += 1
        future = await self._committer.submit_when_room((change,))
        # What it brings about does not wait for the member to take the answers before this one.
        future.add_done_callback(partial(self._settled, held, self._answers.turn(), settle))

    def _settled(
        self, held: Held, turn: Turn, settle: Callable[[Any], list[Event]], future: asyncio.Future[list[Any]]
    ) -> None:
        held.pending -= 1
        try:
            turn.answer(settle(future.result()[0]))
        except HeadraceError as error:
            self.end(error)
        if held.is_doubtful and not held.pending:
            held.is_doubtful = False
            self._circle.rebalance()

    def _say(self, event: Event | None) -> None:
        self._answers.turn().answer([] if event is None else [event])

    def _refusal(self, held: Held | None, source_id: str, epoch: int, number: int) -> Refused | None:
        if held is None or not held.epoch or epoch != held.epoch:
            error = LeaseFencedError(
                f"This member does not hold {source_id[:100]} under epoch {epoch}",
                shard_id=source_id,
                lease_epoch=epoch,
            )
            return Refused(kind=_kind_of(source_id), source_id=source_id, epoch=epoch, number=number, error=error)
        if number > held.sent_to:
            return self._refused(held, number, "sequence_number is beyond what was sent")
        return None

    @staticmethod
    def _refused(held: Held, number: int, message: str) -> Refused:
        error = ValidationError(message, field="sequence_number", limit=format_sequence_number(held.sent_to))
        return Refused(**held.about, number=number, error=error)

    def _acknowledged(self, held: Held, epoch: int, number: int, result: bool | HeadraceError) -> list[Event]:
        """What follows from an acknowledgement that is durable, or was refused."""
        about: dict[str, Any] = held.about | {"epoch": epoch}
        is_current = self._is_current(held) and held.epoch == epoch
        if isinstance(result, HeadraceError):
            if self._is_finished(held.source.id, epoch, number):
                return [Checkpointed(**about, number=number)]
            if is_current and isinstance(result, LeaseFencedError):
                self._release(held)
            return [Refused(**about, number=number, error=_refusable(result))]
        events: list[Event] = [Checkpointed(**about, number=number)]
        if is_current:
            while held.in_flight and held.in_flight[0].number <= number:
                self._free(held.in_flight.popleft())
            if result:
                self._drop(held)
                self._remember(held, number)
                if held.source.kind is SourceKind.PARKED:
                    # It had no end before this.
                    events.append(Ended(**about, number=number, children=()))
                self._circle.finished(held.source.id, self)
        if held.source.kind is SourceKind.PARKED:
            self._circle.parking_changed()
        return events

    def _failed(self, held: Held, epoch: int, failure: Failure, result: FailureOutcome | HeadraceError) -> list[Event]:
        """What follows from a negative acknowledgement that is durable, or was refused."""
        held.pending_nacks -= 1
        about: dict[str, Any] = held.about | {"epoch": epoch}
        is_current = self._is_current(held) and held.epoch == epoch
        if isinstance(result, HeadraceError):
            if is_current and isinstance(result, LeaseFencedError):
                self._release(held)
            return [Refused(**about, number=failure.number, error=_refusable(result))]
        is_leaving = failure.reason is NackReason.SHUTDOWN
        self.is_leaving = self.is_leaving or is_leaving
        failed = Failed(
            **about,
            number=failure.number,
            attempts=result.attempts,
            is_parked=result.is_parked,
            retry_time_ms=None if result.is_parked or is_leaving else result.lease.retry_time_ms,
        )
        if not is_current:
            return [failed]
        if result.is_over or is_leaving:
            self._drop(held)
            self._circle.rebalance()
            return [failed, Revoked(**about)]
        self._begin(held, result.lease)
        return [failed, self._assigned(held)]

    def _is_finished(self, source_id: str, epoch: int, number: int) -> bool:
        """Whether an acknowledgement says again what has finished a source.

        Its last records and its end have the same number, and are acknowledged one after the other.
        """
        finished_epoch, end = self._finished.get(source_id, (0, 0))
        return finished_epoch == epoch > 0 and number <= end

    def _remember(self, held: Held, end: int) -> None:
        self._finished[held.source.id] = (held.epoch, end)
        if len(self._finished) > FINISHED_SOURCES_MAX:
            del self._finished[next(iter(self._finished))]

    # The session's own task.

    async def _send(self, event: Event) -> None:
        self.sending_since_ms = self._clock.now_ms()
        await self._outlet.send(event)
        self.sending_since_ms = 0
        self._sent_at = self._loop.time()

    async def _begin_leases(self) -> bool:
        """Leases what was given since; all of it in one group commit, if that has room."""
        given = [held for held in self.held.values() if not held.epoch]
        if not given:
            return False
        plans = [partial(held.source.plan_lease, may_skip=self.settings.skips_gaps) for held in given]
        future = await self._committer.submit_when_room([Change(plan) for plan in plans])
        leases = await future
        # What was said before is answered first: the end of a parent before its children begin.
        await self._answers.send(self._send)
        for held, lease in zip(given, leases, strict=True):
            if not self._is_current(held):
                continue
            if isinstance(lease, LeaseFencedError):
                # It was finished, or is no longer redriven, since it was given.
                self._drop(held)
                self._circle.rebalance()
            elif isinstance(lease, HeadraceError):
                raise lease
            else:
                self._begin(held, lease)
                await self._send(self._assigned(held))
                if lease.gap is not None:
                    await self._send(Lost(**held.about, gap=lease.gap, number=lease.checkpoint))
        return True

    async def _serve(self, held: Held) -> bool:
        """Does what is next for a source; returns whether that was anything."""
        if held.retry_at and held.retry_at <= self._loop.time():
            held.retry_at = 0.0
        if not held.epoch or held.pending_nacks:
            return False
        if held.deadline_ms:
            return await self._serve_revoking(held)
        if held.end is not None or held.retry_at:
            return False
        try:
            batch = self._read(held)
        except TrimmedDataAccessError as error:
            if not self.settings.skips_gaps:
                raise
            # The checkpoint moves with the next acknowledgement: whoever holds the shard before that is told, too.
            held.position = held.sent_to = error.gap.last_lost
            await self._send(Lost(**held.about, gap=error.gap, number=held.position))
            return True
        except ResourceNotFoundError:
            if held.source.kind is not SourceKind.PARKED:
                raise
            # It was discarded, and is being taken away.
            return False
        if batch is None:
            return False
        held.is_blocked = False
        if batch.count and isinstance(held.source, LogShard) and held.source.is_diverted():
            records = batch.records()
            if self._groups.parking.concerns(self.settings.group_name, records):
                return await self._serve_diverted(held, batch, records)
        return await self._send_batch(held, batch)

    def _read(self, held: Held) -> Batch | None:
        """The next batch of a source; None if there is none, or no credit for it. Raises TrimmedDataAccessError."""
        records_left, bytes_left = self._room()
        if records_left <= 0 or bytes_left <= 0 or self._is_credit_reserved:
            return None
        if held.wanted_bytes <= bytes_left:
            if not held.source.has_more(held.position):
                return None
            records_max = min(self.settings.batch_records_max, records_left)
            batch = held.source.read(held.position, records_max, min(self._outlet.batch_bytes_max, bytes_left))
            # One record may be larger than what is left; it is sent when nothing else is in flight.
            if batch.size_bytes <= bytes_left or not self.in_flight_bytes:
                held.wanted_bytes = 0
                return batch
            held.wanted_bytes = batch.size_bytes
        self._is_credit_reserved = True
        return None

    async def _serve_revoking(self, held: Held) -> bool:
        if not held.is_revoking_told:
            held.is_revoking_told = True
            await self._send(Revoking(**held.about, deadline_ms=held.deadline_ms))
            return True
        if held.has_in_flight or not self._is_current(held):
            return False
        self._release(held)
        return True

    async def _send_batch(self, held: Held, batch: Batch, *, is_diverted: bool = False) -> bool:
        now, epoch = self._loop.time(), held.epoch
        has_moved = batch.last_sequence_number > held.position
        held.position = batch.last_sequence_number
        # A position that has merely moved over numbers of others is worth a message now and then: the checkpoint of a
        # quiet shard must not age. One that has moved over parked records is told at once.
        is_worth_telling = held.position > held.sent_to and (is_diverted or now - held.told_at >= HEARTBEAT_SECONDS)
        if batch.count or is_worth_telling:
            sent = Sent(batch.last_sequence_number, batch.count, batch.size_bytes, self._clock.now_ms())
            held.sent_to, held.told_at = batch.last_sequence_number, now
            held.in_flight.append(sent)
            self.in_flight_records += sent.records
            self.in_flight_bytes += sent.size_bytes
            # The others have their turn first.
            self.held[held.source.id] = self.held.pop(held.source.id)
            await self._send(Records(**held.about, batch=batch))
            has_moved = True
        if batch.is_end and self._may_send(held, epoch):
            held.end = held.sent_to = batch.last_sequence_number
            children = held.source.children() if isinstance(held.source, LogShard) else ()
            await self._send(Ended(**held.about, number=held.end, children=children))
            has_moved = True
        return has_moved

    async def _serve_diverted(self, held: Held, batch: Batch, records: Sequence[tuple[int, bytes]]) -> bool:
        """Sets aside the records of parked keys, and sends the others."""
        name, epoch = self.settings.group_name, held.epoch

        def plan(group: Group) -> Diverted:
            self._groups.leased(name, held.source.id, epoch)
            return self._groups.parking.plan_divert(group, name, records)

        try:
            diverted = await self._committer.change(plan, size_bytes=batch.size_bytes)
        except LeaseFencedError:
            # Whoever has it now reads the same records.
            self._circle.rebalance()
            return True
        except ThrottlingError:
            # A page that waits for room would be memory that no bound counts; it is read again.
            held.retry_at = self._loop.time() + _THROTTLED_SECONDS
            return False
        kept, blocked_at = diverted.kept, diverted.blocked_at
        is_diverted = blocked_at is not None or len(kept) < batch.count
        if is_diverted:
            # Some of them may be of keys that are redriven.
            self._circle.parking_changed()
        if not self._may_send(held, epoch):
            return True
        if blocked_at is not None:
            held.is_blocked = True
            held.retry_at = self._loop.time() + HEARTBEAT_SECONDS
        left = Batch(
            parts=[record for _, record in kept],
            count=len(kept),
            size_bytes=sum(len(record) for _, record in kept),
            last_sequence_number=batch.last_sequence_number if blocked_at is None else blocked_at - 1,
            millis_behind_latest=batch.millis_behind_latest,
            is_end=batch.is_end and blocked_at is None,
            records=lambda: kept,
        )
        return await self._send_batch(held, left, is_diverted=is_diverted)

    async def _rest(self) -> None:
        """Waits until there may be something to do."""
        heartbeat_at = self._sent_at + HEARTBEAT_SECONDS
        # One that has passed since the source was looked at counts: it would be forgotten until the heartbeat.
        wake_at = min([heartbeat_at, *(held.retry_at for held in self.held.values() if held.retry_at)])
        self._wakeup.is_muted = not self._has_room()
        try:
            if await self._wakeup.wait(max(0.0, wake_at - self._loop.time())):
                return
        finally:
            self._wakeup.is_muted = False
        if self._loop.time() >= heartbeat_at:
            # Whatever nobody tells, such as a shard that has vanished, is noticed now.
            self._circle.rebalance()
            await self._send(Heartbeat())

    def _room(self) -> tuple[int, int]:
        """How many records, and bytes, may still be sent before some are acknowledged."""
        return (
            self.settings.in_flight_records_max - self.in_flight_records,
            self.settings.in_flight_bytes_max - self.in_flight_bytes,
        )

    def _has_room(self) -> bool:
        return min(self._room()) > 0

    def holding(self, held: Held) -> Holding:
        """What the member is doing with a source, for an explanation."""
        now_ms = self._clock.now_ms()
        retry_seconds = held.retry_at - self._loop.time()
        return Holding(
            member_name=self.name,
            in_flight_records=held.in_flight_records,
            in_flight_age_ms=max(0, now_ms - held.in_flight[0].time_ms) if held.in_flight else 0,
            sending_ms=max(0, now_ms - self.sending_since_ms) if self.sending_since_ms else 0,
            is_credit_used_up=not self._has_room(),
            is_all_sent=bool(held.in_flight) and not held.source.has_more(held.position),
            is_end_sent=held.end is not None,
            revoking_ms=held.deadline_ms - now_ms if held.deadline_ms else None,
            retry_ms=max(0, round(retry_seconds * 1000)),
            is_blocked=held.is_blocked,
            skips_gaps=self.settings.skips_gaps,
            attempts_max=self.settings.attempts_max,
        )

    def _begin(self, held: Held, lease: Lease) -> None:
        """Begins anew at a lease's checkpoint: what was sent before is void."""
        for sent in held.in_flight:
            self._free(sent)
        held.in_flight.clear()
        held.epoch = lease.epoch
        held.position = held.sent_to = lease.checkpoint
        held.told_at = self._loop.time()
        held.end, held.is_blocked, held.wanted_bytes, held.retry_at = None, False, 0, 0.0
        wait_ms = lease.retry_time_ms - self._clock.now_ms()
        if wait_ms > 0:
            # Not longer, whatever the clock was set to since.
            held.retry_at = self._loop.time() + min(wait_ms / 1000, RETRY_SECONDS_MAX)

    def _assigned(self, held: Held) -> Assigned:
        checkpoint = None if held.source.is_beginning(held.position) else held.position
        return Assigned(**held.about, checkpoint=checkpoint)

    def _release(self, held: Held) -> None:
        """Lets a source go that was to move, or that a newer lease has."""
        if self._is_current(held):
            self.take_away(held.source.id)
            self._circle.rebalance()

    def _drop(self, held: Held) -> None:
        if held.deadline is not None:
            held.deadline.cancel()
        for sent in held.in_flight:
            self._free(sent)
        held.in_flight.clear()
        del self.held[held.source.id]
        self._watch(held.source)
        self._wakeup.notify()

    def _free(self, sent: Sent) -> None:
        self.in_flight_records -= sent.records
        self.in_flight_bytes -= sent.size_bytes

    def _is_current(self, held: Held) -> bool:
        return self.held.get(held.source.id) is held

    def _may_send(self, held: Held, epoch: int) -> bool:
        """Whether what was read under an epoch may still be sent, after a wait in which much may have happened."""
        return self._is_current(held) and held.epoch == epoch and not held.pending_nacks and not held.deadline_ms

    def _watch(self, changed: Source) -> None:
        if isinstance(changed, LogShard):
            self._wakeup.watch(held.source.number for held in self.held.values() if isinstance(held.source, LogShard))


def _kind_of(source_id: str) -> SourceKind:
    prefix = source_id.partition("-")[0]
    return {"snapshotId": SourceKind.SNAPSHOT, "parkedId": SourceKind.PARKED}.get(prefix, SourceKind.LOG)


def _refusable(error: HeadraceError) -> HeadraceError:
    """An error that refuses what the member said; raises any other."""
    if isinstance(error, LeaseFencedError | ValidationError):
        return error
    raise error
