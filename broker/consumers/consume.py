"""One member's session: shards one after the other, parents first, from the checkpoint on, within its credit.

STANDBY --holder left--> HOLDER: lease a shard --> send pages while there is credit --> end of a closed shard
acknowledged ^                                                                    | +------------------------- next
shard -------------------------------+
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from broker.model.errors import LeaseFencedError, ResourceInUseError, ValidationError
from broker.model.sequence import format_sequence_number
from broker.streams.shards import horizon
from broker.streams.tail import PAGE_RECORDS_MAX

if TYPE_CHECKING:
    from broker.consumers.groups import ConsumerGroups, ShardState
    from broker.model.tables import Shard, Stream
    from broker.streams.tail import LogReader, Page
    from broker.tables.catalog import Catalog

IN_FLIGHT_RECORDS_DEFAULT: Final = 10_000
IN_FLIGHT_RECORDS_MAX: Final = 100_000
HEARTBEAT_SECONDS: Final = 15.0


class Outlet(Protocol):
    """Where a session's messages go. Each call returns when the message is handed to the connection."""

    async def started(self, *, standby: bool) -> None:
        """The member belongs to the group."""

    async def assigned(self, shard: Shard, state: ShardState) -> None:
        """The member holds a shard."""

    async def records(self, shard: Shard, epoch: int, page: Page) -> None:
        """Records of the shard, or none as a heartbeat."""

    async def shard_ended(self, shard: Shard, epoch: int, number: int, children: list[Shard]) -> None:
        """The shard is closed and read to its end."""

    async def checkpointed(self, shard_id: str, epoch: int, number: int) -> None:
        """An acknowledgement is durable."""

    async def heartbeat(self) -> None:
        """Still here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberSettings:
    """How a member wants to be served."""

    group_name: str
    member_name: str
    batch_records_max: int = PAGE_RECORDS_MAX
    in_flight_records_max: int = IN_FLIGHT_RECORDS_DEFAULT


class Member:
    """One connected member of a group."""

    def __init__(
        self, settings: MemberSettings, stream_arn: str, catalog: Catalog, groups: ConsumerGroups, reader: LogReader
    ) -> None:
        self.group_name = settings.group_name
        self.name = settings.member_name
        self._settings = settings
        self._stream_arn = stream_arn
        self._catalog = catalog
        self._groups = groups
        self._reader = reader
        self._is_holder = asyncio.Event()
        # The shard held now, and what was sent of it and is not acknowledged: (last sequence number, records).
        self._shard: Shard | None = None
        self._epoch = 0
        self._sent_to = 0
        self._sent: deque[tuple[int, int]] = deque()
        self._in_flight = 0
        # Where the shard ends, once its end was sent.
        self._end: int | None = None
        # The shard processed last, and under which epoch.
        self._finished = ("", 0)
        self._acknowledged = asyncio.Event()

    def become_holder(self) -> None:
        """Gives the member all shards of its group."""
        self._is_holder.set()

    async def run(self, members: Members, outlet: Outlet) -> None:
        """Serves the member until it is cancelled; it belongs to the group for as long as this runs."""
        members.join(self)
        try:
            await outlet.started(standby=not self._is_holder.is_set())
            await self._stand_by(outlet)
            while True:
                shard = self._next_shard()
                if shard is None:
                    # All shards are processed to their ends: nothing can come any more.
                    await asyncio.sleep(HEARTBEAT_SECONDS)
                    await outlet.heartbeat()
                else:
                    await self._serve_shard(shard, outlet)
        finally:
            members.leave(self)

    async def acknowledge(self, shard_id: str, epoch: int, number: int) -> None:
        """Moves the checkpoint; returns when that is durable.

        Raises LeaseFencedError for a lease that is not the newest, ValidationError for what was never sent.
        """
        if (shard_id, epoch) == self._finished:
            # Its last records and its end have the same number, and are acknowledged one after the other.
            return
        shard = self._shard
        if shard is None or shard_id != shard.shard_id or epoch != self._epoch:
            raise LeaseFencedError(
                f"This member does not hold {shard_id or 'a shard'} under epoch {epoch}",
                shard_id=shard_id,
                lease_epoch=epoch,
            )
        if number > self._sent_to:
            raise ValidationError(
                "sequence_number is beyond what was sent",
                field="sequence_number",
                limit=format_sequence_number(self._sent_to),
            )
        is_finished = self._end is not None and number >= self._end
        await self._groups.checkpoint(self.group_name, shard_id, epoch, number, is_finished=is_finished)
        if is_finished:
            self._finished = (shard_id, epoch)
        while self._sent and self._sent[0][0] <= number:
            self._in_flight -= self._sent.popleft()[1]
        self._acknowledged.set()

    async def _stand_by(self, outlet: Outlet) -> None:
        while not self._is_holder.is_set():
            try:
                async with asyncio.timeout(HEARTBEAT_SECONDS):
                    await self._is_holder.wait()
            except TimeoutError:
                await outlet.heartbeat()

    def _stream(self) -> Stream:
        return self._catalog.stream(self._stream_arn)

    def _next_shard(self) -> Shard | None:
        """The first shard that is not finished; its parents come before it in the list, so they are."""
        states = self._groups.get(self.group_name).shards
        for shard in self._stream().shards:
            state = states.get(shard.shard_id)
            if state is None or not state.is_finished:
                return shard
        return None

    async def _serve_shard(self, shard: Shard, outlet: Outlet) -> None:
        state = await self._groups.lease(self.group_name, shard, horizon(shard))
        self._shard, self._epoch, self._end = shard, state.epoch, None
        self._sent_to = state.checkpoint
        self._sent.clear()
        self._in_flight = 0
        await outlet.assigned(shard, state)
        while True:
            if self._in_flight >= self._settings.in_flight_records_max:
                await self._wait_for_acknowledgement(outlet)
                continue
            # The shard may have been closed since.
            stream = self._stream()
            current = next(s for s in stream.shards if s.id == shard.id)
            room = self._settings.in_flight_records_max - self._in_flight
            page = self._reader.read(current, self._sent_to, min(self._settings.batch_records_max, room))
            moved = page.last_sequence_number > self._sent_to
            self._sent_to = page.last_sequence_number
            if page.count:
                self._sent.append((page.last_sequence_number, page.count))
                self._in_flight += page.count
                await outlet.records(shard, state.epoch, page)
            if page.is_end:
                self._end = page.last_sequence_number
                await outlet.shard_ended(shard, state.epoch, self._end, stream.children(shard.shard_id))
                await self._wait_until_finished(outlet, shard.shard_id)
                return
            if not page.count and not moved and not await self._reader.wait(shard, self._sent_to, HEARTBEAT_SECONDS):
                await outlet.records(shard, state.epoch, page)

    async def _wait_for_acknowledgement(self, outlet: Outlet) -> None:
        self._acknowledged.clear()
        try:
            async with asyncio.timeout(HEARTBEAT_SECONDS):
                await self._acknowledged.wait()
        except TimeoutError:
            await outlet.heartbeat()

    async def _wait_until_finished(self, outlet: Outlet, shard_id: str) -> None:
        while True:
            state = self._groups.get(self.group_name).shards.get(shard_id)
            if state is None:
                raise LeaseFencedError(f"The group was made anew; it knows nothing of {shard_id}", shard_id=shard_id)
            if state.is_finished:
                return
            await self._wait_for_acknowledgement(outlet)


class Members:
    """Who is connected, by group. The first of each group holds all its shards; the others stand by, in order."""

    def __init__(self, groups: ConsumerGroups) -> None:
        self._groups = groups
        self._members: dict[str, list[Member]] = {}

    def of(self, group_name: str) -> list[str]:
        """The names of a group's members, the holder first."""
        return [member.name for member in self._members.get(group_name, [])]

    def join(self, member: Member) -> None:
        """Adds a member."""
        members = self._members.setdefault(member.group_name, [])
        members.append(member)
        if len(members) == 1:
            member.become_holder()

    def leave(self, member: Member) -> None:
        """Removes a member; if it was the holder the next one is."""
        members = self._members[member.group_name]
        members.remove(member)
        if not members:
            del self._members[member.group_name]
        else:
            members[0].become_holder()

    async def delete_group(self, group_name: str) -> None:
        """Forgets a group. Raises ResourceInUseError while it has members, ResourceNotFoundError if there is none."""
        if group_name in self._members:
            raise ResourceInUseError(
                f"Consumer group {group_name} has {len(self._members[group_name])} members", group_name=group_name
            )
        await self._groups.delete(group_name)
