"""Who is connected, by group, and who of them holds what."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from broker.consumers.assignment import AssignmentMode, assign
from broker.consumers.consume import Session
from broker.consumers.events import SourceKind
from broker.consumers.explain import SourceView
from broker.consumers.groups import lost_before, ready_sources
from broker.consumers.sources import LogShard, RedrivenKey, Snapshot, SnapshotRange
from broker.model.errors import (
    LimitExceededError,
    ResourceInUseError,
    ResourceNotFoundError,
    ThrottlingError,
    UnavailableError,
    ValidationError,
)
from broker.storage.watermark import Wakeup
from broker.streams.shards import gap_after
from broker.streams.tail import Lag

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.consumers.consume import MemberSettings, Outlet
    from broker.consumers.explain import Holding
    from broker.consumers.groups import ConsumerGroup, ConsumerGroups, Start
    from broker.consumers.held import Held
    from broker.consumers.parking import ParkedKey
    from broker.consumers.sources import Source
    from broker.model.clock import Clock
    from broker.model.tables import Shard, Stream
    from broker.storage.commit import Committer
    from broker.storage.watermark import Watermarks
    from broker.streams.tail import LogReader
    from broker.tables.catalog import Catalog, OpenTable
    from broker.tables.read import ItemReader

MEMBERS_MAX: Final = 1_000
# A snapshot holds files and memory of the store until it is read.
SNAPSHOTS_MAX: Final = 16
# Into so many ranges a snapshot is divided: so many members can read it at once.
SNAPSHOT_RANGES: Final = 16
NO_LAG: Final = Lag(0, 0)
_RETRY_AFTER_MS: Final = 5_000


class LiveGroup:
    """The members of one group, and what each of them should hold."""

    def __init__(self, name: str, members: Members) -> None:
        self.name = name
        # The one that has been there longest comes first.
        self.sessions: list[Session] = []
        self._members = members
        self._given = 0
        # Who finished each shard whose children may still be given away.
        self._finishers: dict[str, Session] = {}

    def join(self, session: Session) -> None:
        """Adds a member. Raises ValidationError if it wants another assignment mode than the others."""
        mode = session.settings.mode
        if self.sessions and self.sessions[0].settings.mode is not mode:
            raise ValidationError(
                f"The members of {self.name} have the assignment mode {self.sessions[0].settings.mode}",
                field="assignment_mode",
            )
        if len(self.sessions) >= MEMBERS_MAX:
            raise LimitExceededError(
                f"A group has at most {MEMBERS_MAX} members", field="group_name", limit=MEMBERS_MAX
            )
        self.sessions.append(session)
        self.rebalance()

    def leave(self, session: Session) -> None:
        """Removes a member; what it held goes to the others."""
        self.sessions.remove(session)
        self._finishers = {id_: finisher for id_, finisher in self._finishers.items() if finisher is not session}
        if not self.sessions:
            self._members.forget(self)
        self.rebalance()

    def is_standby(self, session: Session) -> bool:
        """Whether another member holds everything."""
        return session.settings.mode is AssignmentMode.EXCLUSIVE and session is not self.sessions[0]

    def finished(self, source_id: str, session: Session) -> None:
        """Notes who has finished a source: it is favoured when its children are given away."""
        self._finishers[source_id] = session
        self.rebalance()

    def parking_changed(self) -> None:
        """Notes that parked records have come or gone."""
        for session in self.sessions:
            session.parking_changed()

    def rebalance(self) -> None:
        """Gives and takes, as far as the group's state or its members have changed.

        If the group, its stream or its snapshot is gone, the sessions end.
        """
        if not self.sessions:
            return
        try:
            self._rebalance()
        except (ResourceNotFoundError, UnavailableError) as error:
            for session in self.sessions:
                session.end(error)

    def holders(self) -> dict[str, tuple[Session, Held]]:
        """Who holds each source that anyone holds."""
        return {id_: (session, held) for session in self.sessions for id_, held in session.held.items()}

    def _rebalance(self) -> None:
        consumer = self._members.groups.get(self.name)
        if not consumer.snapshot_ranges:
            self._members.drop_snapshot(consumer)
        stream = self._members.catalog.stream(consumer.stream_arn)
        parked = self._members.groups.parking.keys(self.name)
        ready = ready_sources(consumer, stream, parked, self.holders())
        self._take_what_is_not_ready(consumer, parked, set(ready))
        holders = self.holders()
        # What is on its way from one member to another is free for the count.
        settled = sorted((pair for pair in holders.values() if not pair[1].deadline_ms), key=lambda pair: pair[1].order)
        targets = assign(
            self.sessions[0].settings.mode,
            ready,
            {held.source.id: session for session, held in settled},
            [session for session in self.sessions if not session.is_leaving] or self.sessions,
            self._favourites(stream),
        )
        for source_id in ready:
            holder, target = holders.get(source_id), targets[source_id]
            if holder is None:
                self._given += 1
                target.give(self._source(source_id, consumer, stream), self._given)
            elif holder[0] is not target and not holder[1].deadline_ms:
                holder[0].revoke(source_id)
                if source_id not in holder[0].held:
                    # It was not leased yet, so there is nothing to wait for.
                    self._given += 1
                    target.give(self._source(source_id, consumer, stream), self._given)

    def _take_what_is_not_ready(self, consumer: ConsumerGroup, parked: list[ParkedKey], ready: set[str]) -> None:
        """Takes what is finished, discarded or no longer held, and what a newer lease or a newer group has."""
        epochs = {id_: state.epoch for id_, state in consumer.shards.items()}
        epochs |= {key.parked_id: key.epoch for key in parked}
        for session in self.sessions:
            for source_id, held in list(session.held.items()):
                # The epoch of a lease that is only just planned is not known here yet.
                is_fenced = held.epoch and epochs.get(source_id) != held.epoch
                if source_id in ready and not is_fenced:
                    continue
                if held.pending:
                    # It may be just this that its last acknowledgement, on its way to the disk, has brought about.
                    held.is_doubtful = True
                else:
                    session.take_away(source_id)

    def _favourites(self, stream: Stream) -> dict[str, set[Session]]:
        needed = {parent_id for shard in stream.shards for parent_id in shard.parent_ids}
        self._finishers = {id_: session for id_, session in self._finishers.items() if id_ in needed}
        return {
            shard.shard_id: {self._finishers[id_] for id_ in shard.parent_ids if id_ in self._finishers}
            for shard in stream.shards
        }

    def _source(self, source_id: str, consumer: ConsumerGroup, stream: Stream) -> Source:
        members = self._members
        shard = stream.shard(source_id)
        if shard is not None:
            return LogShard(shard, self.name, consumer.stream_arn, members.catalog, members.groups, members.reader)
        if source_id in consumer.shards:
            snapshot = members.snapshot(consumer)
            if snapshot is None:
                raise UnavailableError("The snapshot that the group reads has made way for others; start again")
            index = consumer.range_ids.index(source_id)
            return SnapshotRange(index, source_id, self.name, members.groups, snapshot)
        return RedrivenKey(source_id, self.name, members.groups)


class Members:
    """All groups that have members, and the snapshots that they read."""

    def __init__(
        self,
        groups: ConsumerGroups,
        catalog: Catalog,
        reader: LogReader,
        items: ItemReader,
        committer: Committer,
        watermarks: Watermarks,
        clock: Clock,
    ) -> None:
        self.groups = groups
        self.catalog = catalog
        self.reader = reader
        self._items = items
        self._committer = committer
        self._watermarks = watermarks
        self._clock = clock
        self._live: dict[str, LiveGroup] = {}
        # By group and where it begins, which tells it from an older group of the same name; the oldest first.
        self._snapshots: dict[tuple[str, int], Snapshot] = {}
        self._opening_snapshots = 0

    def live(self, group_name: str) -> LiveGroup | None:
        """The members of a group; None if it has none."""
        return self._live.get(group_name)

    def of(self, group_name: str) -> list[str]:
        """The names of a group's members, the one that has been there longest first."""
        live = self._live.get(group_name)
        return [] if live is None else [session.name for session in live.sessions]

    async def session(self, settings: MemberSettings, stream_arn: str, start: Start, outlet: Outlet) -> Session:
        """A new member's session, not running yet; makes the group if there is none.

        Raises ValidationError, ResourceNotFoundError, and, with nothing made, ThrottlingError if too many snapshots are
        being read.
        """
        name = settings.group_name
        self.groups.check_owner(name)
        snapshot = None
        if start.snapshot_ranges and self.groups.find(name) is None:
            snapshot = await self._open_snapshot(self.catalog.stream(stream_arn), start.snapshot_ranges)
            start = replace(start, after=snapshot.items.sequence_number)
        consumer, is_new = await self.groups.ensure(name, stream_arn, start)
        if is_new and snapshot is not None:
            self._snapshots[name, consumer.start_after] = snapshot
        elif consumer.snapshot_ranges and self.snapshot(consumer) is None:
            await self._reopen_snapshot(consumer)
        wakeup = Wakeup(self._watermarks)
        return Session(settings, self.join, self.groups, self._committer, self._clock, wakeup, outlet)

    def join(self, session: Session) -> LiveGroup:
        """Adds a member to its group. Raises ValidationError if it wants another assignment mode than the others."""
        name = session.settings.group_name
        live = self._live.get(name) or LiveGroup(name, self)
        live.join(session)
        self._live[name] = live
        return live

    def snapshot(self, consumer: ConsumerGroup) -> Snapshot | None:
        """The snapshot that a group reads, if it is still held."""
        return self._snapshots.get((consumer.name, consumer.start_after))

    def drop_snapshot(self, consumer: ConsumerGroup) -> None:
        """Gives back what the snapshot of a group holds, which the group has read."""
        self._snapshots.pop((consumer.name, consumer.start_after), None)

    def rebalance(self, group_name: str) -> None:
        """Lets the members of a group take notice of a change of its state."""
        live = self._live.get(group_name)
        if live is not None:
            live.rebalance()
            live.parking_changed()

    def forget(self, live: LiveGroup) -> None:
        """Notes that a group has no members any more."""
        del self._live[live.name]

    async def delete_group(self, group_name: str) -> None:
        """Forgets a group. Raises ResourceInUseError while it has members, ResourceNotFoundError if there is none."""
        if members := self.of(group_name):
            raise ResourceInUseError(f"Consumer group {group_name} has {len(members)} members", group_name=group_name)
        await self.groups.delete(group_name)
        self._drop_read_snapshots()

    def lags(self) -> Iterator[tuple[str, str, Lag]]:
        """How far each group is behind in each shard that it has not finished: group, shard, lag."""
        for consumer in self.groups.all():
            stream = self.stream_of(consumer)
            for shard in _shards(stream):
                if not consumer.is_finished(shard):
                    yield consumer.name, shard.shard_id, self.reader.lag(shard, consumer.state_of(shard).checkpoint)

    def views(self, consumer: ConsumerGroup) -> list[SourceView]:
        """What is known of each source of a group: redriven keys, ranges of the snapshot, shards."""
        live, parking = self._live.get(consumer.name), self.groups.parking
        holdings = {} if live is None else {id_: who.holding(held) for id_, (who, held) in live.holders().items()}
        views = [
            SourceView(
                source_id=key.parked_id,
                kind=SourceKind.PARKED,
                epoch=key.epoch,
                records_behind=parking.usage(key)[0],
                attempts=key.attempts,
                last_error=key.last_error,
                holding=holdings.get(key.parked_id),
            )
            for key in parking.keys(consumer.name)
            if key.is_redriving
        ]
        unread = [range_id for range_id in consumer.range_ids if not consumer.shards[range_id].is_finished]
        for range_id in unread:
            state = consumer.shards[range_id]
            views.append(
                SourceView(
                    source_id=range_id,
                    kind=SourceKind.SNAPSHOT,
                    epoch=state.epoch,
                    attempts=state.attempts,
                    last_error=state.last_error,
                    holding=holdings.get(range_id),
                )
            )
        stream = self.stream_of(consumer)
        if stream is not None:
            views += [
                self._shard_view(consumer, stream, shard, len(unread), holdings.get(shard.shard_id))
                for shard in stream.shards
            ]
        return views

    def _shard_view(
        self, consumer: ConsumerGroup, stream: Stream, shard: Shard, unread_ranges: int, holding: Holding | None
    ) -> SourceView:
        state, is_finished = consumer.state_of(shard), consumer.is_finished(shard)
        lag = NO_LAG if is_finished else self.reader.lag(shard, state.checkpoint)
        parents = [stream.shard(id_) for id_ in shard.parent_ids]
        unread_parents = [parent for parent in parents if parent is not None and not consumer.is_finished(parent)]
        gap = state.gap if shard.shard_id in consumer.shards else lost_before(consumer, stream, shard)
        return SourceView(
            source_id=shard.shard_id,
            kind=SourceKind.LOG,
            epoch=state.epoch,
            is_finished=is_finished,
            records_behind=lag.records,
            millis_behind=lag.millis,
            attempts=state.attempts,
            last_error=state.last_error,
            gap=None if is_finished else gap or gap_after(shard, state.checkpoint),
            waits_for=[parent.shard_id for parent in unread_parents],
            unread_ranges=unread_ranges,
            holding=holding,
        )

    def stream_of(self, consumer: ConsumerGroup) -> Stream | None:
        """The stream that a group reads; None if it is no longer held."""
        try:
            return self.catalog.stream(consumer.stream_arn)
        except ResourceNotFoundError:
            return None

    def _table(self, stream: Stream) -> OpenTable | None:
        """The table whose changes a stream records, if it is still there."""
        if self.catalog.tables.get(stream.table_name) is None:
            return None
        table = self.catalog.open_table(stream.table_name)
        return table if table.definition.id == stream.table_id else None

    async def _open_snapshot(self, stream: Stream, ranges: int) -> Snapshot:
        table = self._table(stream)
        if table is None:
            raise ResourceNotFoundError(
                f"Table {stream.table_name}, whose items the group is to begin with, is not found",
                table_name=stream.table_name,
            )
        self._make_room()
        self._opening_snapshots += 1
        try:
            items = await self._items.open_snapshot(table, ranges)
        finally:
            self._opening_snapshots -= 1
        return Snapshot(items=items, table=table, view_type=stream.view_type)

    async def _reopen_snapshot(self, consumer: ConsumerGroup) -> None:
        """Reads the rest of a snapshot as it is now: the first was lost by a restart, or made way for others."""
        stream = self.catalog.stream(consumer.stream_arn)
        if self._table(stream) is None:
            await self.groups.end_snapshot(consumer.name)
            return
        snapshot = await self._open_snapshot(stream, consumer.snapshot_ranges)
        # Another member may have come at the same time.
        if self.snapshot(consumer) is None:
            self._snapshots[consumer.name, consumer.start_after] = snapshot

    def _make_room(self) -> None:
        """Makes room for a snapshot: if there are too many, that of a group without members makes way.

        Raises ThrottlingError if there is none.
        """
        self._drop_read_snapshots()
        if len(self._snapshots) + self._opening_snapshots < SNAPSHOTS_MAX:
            return
        idle = next((key for key in self._snapshots if key[0] not in self._live), None)
        if idle is None:
            raise ThrottlingError(
                f"{SNAPSHOTS_MAX} groups are reading snapshots, which is the limit",
                retry_after_ms=_RETRY_AFTER_MS,
                limit=SNAPSHOTS_MAX,
            )
        del self._snapshots[idle]

    def _drop_read_snapshots(self) -> None:
        """Drops the snapshots of groups that have read them, or are gone."""
        for name, start_after in list(self._snapshots):
            consumer = self.groups.find(name)
            if consumer is None or consumer.start_after != start_after or not consumer.snapshot_ranges:
                del self._snapshots[name, start_after]


def _shards(stream: Stream | None) -> tuple[Shard, ...]:
    return () if stream is None else stream.shards
