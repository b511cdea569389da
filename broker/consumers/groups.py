"""Consumer groups at rest: what each has processed of each source, and under which epoch it may say so.

A source is what is leased and acknowledged: a shard of the stream, a range of a snapshot, or a parked key that is
redriven. The states of shards and ranges are here, those of parked keys in `parking`.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from broker.consumers.parking import ParkedKey, Parking
from broker.encoding.keys import key_hash
from broker.encoding.records import record_key
from broker.model.errors import LeaseFencedError, ResourceNotFoundError, ValidationError
from broker.model.gaps import Gap, TrimmedDataAccessError, spanning
from broker.model.sequence import format_sequence_number
from broker.storage.documents import Documents
from broker.streams.shards import gap_after, gap_of_forgotten_shards, horizon
from broker.tables.validate import check_name

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from broker.model.tables import Shard, Stream
    from broker.storage.commit import Committer, Group
    from broker.storage.rocks import Store
    from broker.tables.catalog import Catalog

GROUP_NAME_LENGTH_MAX: Final = 128
_GROUP_NAME: Final = re.compile(r"[a-zA-Z0-9_.:-]+", re.ASCII)
# So many parked keys are redriven at a time, the oldest first.
REDRIVEN_KEYS_MAX: Final = 64
# How long a retry waits after the first failure, doubled with each further one, and at most.
BACKOFF_SECONDS_FIRST: Final = 0.1
BACKOFF_SECONDS_MAX: Final = 30.0
_BACKOFF_DOUBLINGS_MAX: Final = 10
_RANGE_PREFIX: Final = "snapshotId-"


def check_group_name(name: str) -> None:
    """1 to 128 characters of a-z, A-Z, 0-9, '_', '-', '.' and ':'."""
    check_name(name, "group_name", GROUP_NAME_LENGTH_MAX, _GROUP_NAME)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardState:
    """A group's state on one shard, or on one range of a snapshot."""

    # All records up to this number are processed.
    checkpoint: int
    # The sequence number that the newest lease took as it began, so no two leases have the same one, not even those of
    # groups of one name; an acknowledgement under an older one is refused. 0: it was never leased.
    epoch: int = 0
    # The shard is closed and processed to its end.
    is_finished: bool = False
    # The record that is next, if it has failed; how often; and what was said the last time.
    failed_number: int = 0
    attempts: int = 0
    last_error: str = ""
    # It is not delivered again before this time, whoever holds the shard then.
    retry_time_ms: int = 0
    # The place of the checkpoint in a range of a snapshot.
    place: bytes = b""
    # What was lost between the shard's parents and the shard: told to whoever holds it until more is acknowledged.
    gap: Gap | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupDefinition:
    """A group as it was made; its states are kept apart, so that an acknowledgement writes only what it changes."""

    name: str
    stream_arn: str
    create_time_ms: int
    # Where the group begins in the whole stream: just after this number; below zero for the oldest record held.
    start_after: int
    # The ranges of the snapshot that comes before the stream; 0 if there is none, or all are processed.
    snapshot_ranges: int = 0

    @property
    def range_ids(self) -> list[str]:
        """The ids of the ranges of the snapshot."""
        return [f"{_RANGE_PREFIX}{self.create_time_ms:020d}-{index:08x}" for index in range(self.snapshot_ranges)]


_DEFINED: Final = tuple(field.name for field in fields(GroupDefinition))


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerGroup(GroupDefinition):
    """A named reader of one stream."""

    # By shard or range, as the planned operations have left them. Shards that were opened after the group was made, and
    # not leased yet, have none.
    shards: dict[str, ShardState] = field(default_factory=dict)

    @property
    def definition(self) -> GroupDefinition:
        """The group without its states."""
        return GroupDefinition(**{name: getattr(self, name) for name in _DEFINED})

    def is_finished(self, shard: Shard) -> bool:
        """Whether a shard needs no more processing."""
        state = self.shards.get(shard.shard_id)
        if state is None:
            return shard.ending_sequence_number is not None and shard.ending_sequence_number <= self.start_after
        return state.is_finished

    def state_of(self, shard: Shard) -> ShardState:
        """The state of a shard; that of one never leased begins where the shard does."""
        state = self.shards.get(shard.shard_id)
        return state or ShardState(checkpoint=max(self.start_after, shard.starting_sequence_number - 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Where a new group begins."""

    # Just after this number in the whole stream; below zero for the oldest record held.
    after: int
    # Whether what is no longer held after that number counts as lost.
    is_exact: bool = False
    # In how many ranges the items of the table come first.
    snapshot_ranges: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """What a member needs to know of a source that it holds from now on."""

    epoch: int
    checkpoint: int
    place: bytes = b""
    # The record after the checkpoint has failed, and is not delivered again before this time.
    retry_time_ms: int = 0
    # What the group has lost between the shard's parents and this shard, if the member goes on in spite of that.
    gap: Gap | None = None


class NackReason(StrEnum):
    """Why a record was not processed."""

    TRANSIENT = "TRANSIENT"
    FATAL = "FATAL"
    SHUTDOWN = "SHUTDOWN"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A record that was not processed, while all before it were."""

    number: int
    reason: NackReason
    message: str = ""
    # The record is parked when it has failed so often; 0: never.
    attempts_max: int = 0
    # How long to wait before it is delivered again; None: twice as long each time.
    retry_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureOutcome:
    """What becomes of a source after a failure."""

    lease: Lease
    attempts: int
    # The key of the record is parked.
    is_parked: bool
    # The source is no longer to be read.
    is_over: bool = False


class ConsumerGroups:
    """All groups of a store. Every change is an operation of the group commit, so it survives what a write survives.

    A group named "kind:name" belongs to the trigger or replica of that name and lives no longer than it: `owners` says,
    by kind, whether one of a name exists.
    """

    def __init__(
        self, store: Store, committer: Committer, catalog: Catalog, owners: Mapping[str, Callable[[str], bool]]
    ) -> None:
        self._committer = committer
        self._catalog = catalog
        self._owners = owners
        self._definitions = Documents(store, "consumer", GroupDefinition)
        self._states = Documents(store, "consumer_state", ShardState)
        self._groups = {definition.name: _group(definition) for definition in self._definitions.all()}
        for name, state in self._states.items():
            group_name, _, source_id = name.partition("/")
            self._groups[group_name].shards[source_id] = state
        self.parking = Parking(store)

    def find(self, name: str) -> ConsumerGroup | None:
        """A group, or None."""
        return self._groups.get(name)

    def all(self) -> list[ConsumerGroup]:
        """All groups, by name."""
        return [self._groups[definition.name] for definition in self._definitions.all()]

    def page(self, after: str, limit: int) -> tuple[list[ConsumerGroup], bool]:
        """Up to `limit` groups whose names follow `after`, and whether more remain."""
        definitions, has_more = self._definitions.page(after, limit)
        return [self._groups[definition.name] for definition in definitions], has_more

    def get(self, name: str) -> ConsumerGroup:
        """A group. Raises ResourceNotFoundError."""
        group = self._groups.get(name)
        if group is None:
            raise ResourceNotFoundError(f"Consumer group {name} not found", group_name=name)
        return group

    def check_owner(self, name: str) -> None:
        """Raises ResourceNotFoundError if what a group belongs to is gone."""
        kind, separator, owner = name.partition(":")
        if separator and kind in self._owners and not self._owners[kind](owner):
            raise ResourceNotFoundError(
                f"Consumer group {name} belongs to a {kind} that does not exist", group_name=name
            )

    async def ensure(self, name: str, stream_arn: str, start: Start) -> tuple[ConsumerGroup, bool]:
        """The group of a name, and whether it was made just now as there was none.

        Raises ValidationError if it reads another stream, ResourceNotFoundError if what it belongs to is gone.
        """

        def plan(group: Group) -> tuple[ConsumerGroup, bool]:
            self.check_owner(name)
            # Another member of the same group may have come at the same time.
            found = self._groups.get(name)
            if found is not None:
                return found, False
            return self._plan_make(group, name, stream_arn, start), True

        self.check_owner(name)
        known = self._groups.get(name)
        consumer, is_new = (known, False) if known is not None else await self._committer.change(plan)
        if consumer.stream_arn != stream_arn:
            raise ValidationError(
                f"Consumer group {name} reads another stream: {consumer.stream_arn}",
                field="stream_arn",
                group_name=name,
            )
        return consumer, is_new

    async def end_snapshot(self, name: str) -> None:
        """Goes on without the rest of a snapshot, whose table is gone. Raises ResourceNotFoundError."""

        def plan(group: Group) -> None:
            self._end_snapshot(group, self.get(name))

        await self._committer.change(plan)

    async def delete(self, name: str) -> None:
        """Forgets a group, and all that it has parked. Raises ResourceNotFoundError."""

        def plan(group: Group) -> None:
            self.get(name)
            self.plan_forget(group, name)

        await self._committer.change(plan)

    async def redrive(self, name: str, parked_id: str) -> int:
        """Has a parked key, or with an empty id all, delivered again; returns how many were not before.

        Raises ResourceNotFoundError.
        """

        def plan(group: Group) -> int:
            self.get(name)
            return self.parking.plan_redrive(group, name, parked_id)

        return await self._committer.change(plan)

    async def discard(self, name: str, parked_id: str) -> int:
        """Drops a parked key; returns how many records that were. Raises ResourceNotFoundError."""

        def plan(group: Group) -> int:
            self.get(name)
            return self.parking.plan_discard(group, name, parked_id)

        return await self._committer.change(plan)

    def plan_begin_after_commits(self, group: Group, name: str, stream_arn: str) -> None:
        """Makes a group that begins after all that is committed before this operation, as part of its commit.

        Raises ResourceNotFoundError, before any change, if there is no such stream.
        """
        start = Start(after=group.last_sequence_number)
        self._plan_make(group, name, stream_arn, start)

    def plan_forget(self, group: Group, name: str) -> None:
        """Deletes a group, if there is one, as part of the commit that deletes its owner.

        Live members are told on their next move.
        """
        consumer = self._groups.pop(name, None)
        if consumer is not None:
            self._definitions.delete(group, name)
            for source_id in consumer.shards:
                self._states.delete(group, _state_name(name, source_id))
            self.parking.plan_forget(group, name)

    def plan_lease(self, group: Group, name: str, source_id: str, *, may_skip: bool) -> Lease:
        """Begins a lease of a shard or range: a new epoch, from the checkpoint there is.

        Raises ResourceNotFoundError, LeaseFencedError if there is nothing left to hold, and, unless the member may skip
        them, TrimmedDataAccessError if records before the shard were lost.
        """
        consumer = self.get(name)
        stream = self._catalog.stream(consumer.stream_arn)
        state, shard = consumer.shards.get(source_id), stream.shard(source_id)
        if state is None and shard is not None:
            state = replace(consumer.state_of(shard), gap=lost_before(consumer, stream, shard))
        if state is None or state.is_finished:
            raise _fenced(source_id, 0)
        if state.gap is not None and not may_skip:
            raise TrimmedDataAccessError(state.gap)
        state = replace(state, epoch=group.next_sequence_number())
        self._put(group, name, source_id, state)
        self._drop(group, consumer, needless_states(consumer, stream))
        return _lease(state)

    def plan_acknowledge(
        self, group: Group, name: str, source_id: str, epoch: int, number: int, *, is_end: bool, place: bytes = b""
    ) -> None:
        """Notes that a source is processed up to a sequence number, or to its end.

        Raises ResourceNotFoundError, LeaseFencedError if the epoch is not the newest, ValidationError if the number is
        below the checkpoint.
        """
        consumer = self.get(name)
        state = self.leased(name, source_id, epoch)
        if number < state.checkpoint:
            raise ValidationError(
                f"sequence_number is below the checkpoint {format_sequence_number(state.checkpoint)}",
                field="sequence_number",
                limit=format_sequence_number(state.checkpoint),
            )
        if number >= state.failed_number:
            state = _without_failure(state)
        state = replace(state, checkpoint=number, is_finished=is_end, place=place, gap=None)
        self._put(group, name, source_id, state)
        if is_end and consumer.snapshot_ranges and _is_snapshot_finished(consumer):
            self._end_snapshot(group, consumer)

    def plan_fail(
        self,
        group: Group,
        name: str,
        source_id: str,
        epoch: int,
        failure: Failure,
        *,
        record: tuple[int, bytes] | None,
        places: tuple[bytes, bytes] = (b"", b""),
    ) -> FailureOutcome:
        """Notes that a record was not processed, and parks its key if that is due and there is room.

        `record` is what to park: a sequence number and the record, or None if it is no longer held; `places` are those
        just before and after it. The lease goes on under a new epoch, so that what was sent beyond the record can no
        longer be acknowledged.

        Raises ResourceNotFoundError, LeaseFencedError, ValidationError if the record was processed before.
        """
        state = self.leased(name, source_id, epoch)
        if failure.number <= state.checkpoint:
            raise ValidationError(
                f"sequence_number is not above the checkpoint {format_sequence_number(state.checkpoint)}",
                field="sequence_number",
                limit=format_sequence_number(state.checkpoint),
            )
        if state.failed_number != failure.number:
            state = _without_failure(state)
        state = replace(state, epoch=group.next_sequence_number(), checkpoint=failure.number - 1)
        if failure.reason is not NackReason.SHUTDOWN:
            attempts = state.attempts + 1
            wait = backoff_seconds(attempts) if failure.retry_seconds is None else failure.retry_seconds
            state = replace(
                state,
                failed_number=failure.number,
                attempts=attempts,
                last_error=failure.message,
                retry_time_ms=group.now_ms + round(wait * 1000),
            )
        is_due = failure.reason is NackReason.FATAL or (
            failure.reason is NackReason.TRANSIENT and 0 < failure.attempts_max <= state.attempts
        )
        is_parked, attempts = False, state.attempts
        if is_due and record is not None:
            parked = self._parked_key(name, source_id, state, *record)
            is_parked = self.parking.plan_park(group, parked, record[1])
        if is_parked:
            state = replace(_without_failure(state), checkpoint=failure.number)
        state = replace(state, place=places[is_parked])
        self._put(group, name, source_id, state)
        return FailureOutcome(lease=_lease(state), attempts=attempts, is_parked=is_parked)

    def leased(self, name: str, source_id: str, epoch: int) -> ShardState:
        """The state of a shard or range that is held under an epoch.

        Raises ResourceNotFoundError, LeaseFencedError if the epoch is not the newest.
        """
        state = self.get(name).shards.get(source_id)
        if state is None or state.epoch != epoch:
            raise _fenced(source_id, epoch)
        return state

    def _parked_key(self, name: str, source_id: str, state: ShardState, number: int, record: bytes) -> ParkedKey:
        key = record_key(record)
        partition_key = self._catalog.stream(self.get(name).stream_arn).key_attributes[0]
        return ParkedKey(
            id=0,
            group_name=name,
            key=key,
            key_hash=key_hash(key, partition_key),
            shard_id=source_id,
            sequence_number=number,
            attempts=state.attempts,
            last_error=state.last_error,
            park_time_ms=0,
        )

    def _plan_make(self, group: Group, name: str, stream_arn: str, start: Start) -> ConsumerGroup:
        made = new_group(name, stream_arn, self._catalog.stream(stream_arn), start, group.now_ms)
        self._definitions.put(group, name, made.definition)
        consumer = self._groups[name] = replace(made, shards={})
        for source_id, state in made.shards.items():
            self._put(group, name, source_id, state)
        return consumer

    def _put(self, group: Group, name: str, source_id: str, state: ShardState) -> None:
        self._states.put(group, _state_name(name, source_id), state)
        self._groups[name].shards[source_id] = state

    def _drop(self, group: Group, consumer: ConsumerGroup, source_ids: Iterable[str]) -> None:
        for source_id in source_ids:
            self._states.delete(group, _state_name(consumer.name, source_id))
            del consumer.shards[source_id]

    def _end_snapshot(self, group: Group, consumer: ConsumerGroup) -> None:
        self._drop(group, consumer, consumer.range_ids)
        ended = replace(consumer, snapshot_ranges=0)
        self._definitions.put(group, ended.name, ended.definition)
        self._groups[ended.name] = ended


def new_group(name: str, stream_arn: str, stream: Stream, start: Start, now_ms: int) -> ConsumerGroup:
    """A group that has processed everything up to where it begins, and nothing after that."""
    consumer = ConsumerGroup(
        name=name,
        stream_arn=stream_arn,
        create_time_ms=now_ms,
        start_after=start.after,
        snapshot_ranges=start.snapshot_ranges,
    )
    shards = {}
    unread = {shard.shard_id for shard in stream.shards if not consumer.is_finished(shard)}
    for shard in stream.shards:
        begin = shard.starting_sequence_number - 1 if start.is_exact else horizon(shard)
        # A shard that follows one to be read has no state before that: so it is seen if the parent vanishes unread, or
        # has vanished before. If the shard itself is trimmed, nothing of its parents was left to read.
        follows_unread = not unread.isdisjoint(shard.parent_ids) or (
            start.is_exact and lost_before(consumer, stream, shard) is not None
        )
        if begin < shard.starting_sequence_number and follows_unread:
            continue
        shards[shard.shard_id] = ShardState(checkpoint=max(start.after, begin), is_finished=consumer.is_finished(shard))
    ranges = {range_id: ShardState(checkpoint=0) for range_id in consumer.range_ids}
    return replace(consumer, shards=shards | ranges)


def ready_sources(
    consumer: ConsumerGroup, stream: Stream, parked: Iterable[ParkedKey], held: Collection[str] = ()
) -> list[str]:
    """What may be read now, parents before children: a shard once its parents are processed, or no longer held.

    No shard before the snapshot is processed. Parked keys that are redriven come first: those that members hold, then
    the oldest.
    """
    waiting = [key.parked_id for key in parked if key.is_redriving]
    begun = [id_ for id_ in waiting if id_ in held]
    redriven = [*begun, *(id_ for id_ in waiting if id_ not in held)][:REDRIVEN_KEYS_MAX]
    if consumer.snapshot_ranges:
        return redriven + [id_ for id_ in consumer.range_ids if not consumer.shards[id_].is_finished]
    unfinished = [shard for shard in stream.shards if not consumer.is_finished(shard)]
    waits_for = {shard.shard_id for shard in unfinished}
    return redriven + [shard.shard_id for shard in unfinished if waits_for.isdisjoint(shard.parent_ids)]


def lost_before(consumer: ConsumerGroup, stream: Stream, shard: Shard) -> Gap | None:
    """What a group has lost between its last checkpoints and a shard it has not begun: records of vanished parents."""
    vanished = {id_: state for id_, state in consumer.shards.items() if stream.shard(id_) is None}
    # A parent without a state came and went while nobody read; the group had stopped somewhere before it.
    begun = max(0, consumer.start_after)
    stopped_at = min((state.checkpoint for state in vanished.values() if not state.is_finished), default=begun)
    remembered = {gone.shard_id: gone for gone in stream.vanished}
    gaps = []
    ancestors = deque(shard.parent_ids)
    while ancestors:
        parent_id = ancestors.popleft()
        state, parent = vanished.get(parent_id), remembered.get(parent_id)
        if stream.shard(parent_id) is not None or (state is not None and state.is_finished):
            continue
        checkpoint = stopped_at if state is None else state.checkpoint
        gap = gap_of_forgotten_shards(stream, checkpoint) if parent is None else gap_after(parent, checkpoint)
        if state is not None and state.gap is not None:
            # Nobody has acknowledged what was lost before the parent.
            gaps.append(state.gap)
        if gap is not None:
            gaps.append(gap)
        elif state is None and parent is not None:
            # It held nothing; what it follows may have.
            ancestors.extend(parent.parent_ids)
    return spanning(gaps)


def needless_states(consumer: ConsumerGroup, stream: Stream) -> list[str]:
    """The states of shards that are no longer held, unless they tell what was lost before a shard."""
    held = {shard.shard_id for shard in stream.shards}
    for shard in stream.shards:
        if shard.shard_id not in consumer.shards and not held.issuperset(shard.parent_ids):
            return []
    held.update(consumer.range_ids)
    return [id_ for id_ in consumer.shards if id_ not in held]


def backoff_seconds(attempts: int) -> float:
    """How long a record waits that has failed so often: twice as long each time, up to a bound."""
    doublings = min(max(attempts - 1, 0), _BACKOFF_DOUBLINGS_MAX)
    return min(BACKOFF_SECONDS_FIRST * 2.0**doublings, BACKOFF_SECONDS_MAX)


def _group(definition: GroupDefinition) -> ConsumerGroup:
    return ConsumerGroup(**{name: getattr(definition, name) for name in _DEFINED})


def _state_name(group_name: str, source_id: str) -> str:
    # No group's name has a slash.
    return f"{group_name}/{source_id}"


def _lease(state: ShardState) -> Lease:
    return Lease(
        epoch=state.epoch,
        checkpoint=state.checkpoint,
        place=state.place,
        retry_time_ms=state.retry_time_ms,
        gap=state.gap,
    )


def _without_failure(state: ShardState) -> ShardState:
    return replace(state, failed_number=0, attempts=0, last_error="", retry_time_ms=0) if state.attempts else state


def _is_snapshot_finished(consumer: ConsumerGroup) -> bool:
    return all(consumer.shards[range_id].is_finished for range_id in consumer.range_ids)


def _fenced(source_id: str, epoch: int) -> LeaseFencedError:
    return LeaseFencedError(
        f"The lease of {source_id} was taken over: epoch {epoch} is not the newest",
        shard_id=source_id,
        lease_epoch=epoch,
    )
