"""Consumer groups at rest: what each has processed of each shard, and under which epoch it may say so."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from broker.model.errors import LeaseFencedError, ResourceInUseError, ResourceNotFoundError, ValidationError
from broker.model.sequence import format_sequence_number
from broker.storage.documents import Documents
from broker.tables.validate import check_name

if TYPE_CHECKING:
    from broker.consumers.consume import Member
    from broker.model.tables import Shard
    from broker.storage.commit import Committer, Group
    from broker.storage.rocks import Store

GROUP_NAME_LENGTH_MAX: Final = 128
_GROUP_NAME: Final = re.compile(r"[a-zA-Z0-9_.:-]+", re.ASCII)


def check_group_name(name: str) -> None:
    """1 to 128 characters of a-z, A-Z, 0-9, '_', '-', '.' and ':'."""
    check_name(name, "group_name", GROUP_NAME_LENGTH_MAX, _GROUP_NAME)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardState:
    """A group's state on one shard."""

    # All records up to this number are processed.
    checkpoint: int
    # Rises with each lease; an acknowledgement under an older one is refused.
    epoch: int
    # The shard is closed and processed to its end.
    is_finished: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerGroup:
    """A named reader of one stream."""

    name: str
    stream_arn: str
    create_time_ms: int
    # Where shards without parents begin: just after this number; -1 for the oldest record held.
    start_after: int
    shards: dict[str, ShardState] = field(default_factory=dict)


class ConsumerGroups:
    """All groups of a store. Every change is an operation of the group commit, so it survives what a write survives."""

    def __init__(self, store: Store, committer: Committer) -> None:
        self._committer = committer
        self.documents = Documents(store, "consumer", ConsumerGroup)

    def get(self, name: str) -> ConsumerGroup:
        """A group. Raises ResourceNotFoundError."""
        group = self.documents.get(name)
        if group is None:
            raise ResourceNotFoundError(f"Consumer group {name} not found", group_name=name)
        return group

    async def ensure(self, name: str, stream_arn: str, start_after: int) -> ConsumerGroup:
        """The group of a name, made if there is none. Raises ValidationError if it reads another stream."""
        group = self.documents.get(name)
        if group is None:
            group = await self._committer.commit(
                _Create(groups=self, name=name, arn=stream_arn, start_after=start_after)
            )
        if group.stream_arn != stream_arn:
            raise ValidationError(
                f"Consumer group {name} reads another stream: {group.stream_arn}", field="stream_arn", group_name=name
            )
        return group

    async def lease(self, name: str, shard: Shard, horizon: int) -> ShardState:
        """Begins a lease of a shard: a new epoch, from the checkpoint there is. Raises ResourceNotFoundError."""
        state: ShardState = await self._committer.commit(_Lease(groups=self, name=name, shard=shard, horizon=horizon))
        return state

    async def checkpoint(self, name: str, shard_id: str, epoch: int, number: int, *, is_finished: bool) -> None:
        """Notes that a shard is processed up to a sequence number; returns when that is durable.

        Raises LeaseFencedError if the epoch is not the newest, ValidationError if the number is below the checkpoint.
        """
        await self._committer.commit(
            _Checkpoint(groups=self, name=name, shard_id=shard_id, epoch=epoch, number=number, is_finished=is_finished)
        )

    async def delete(self, name: str) -> None:
        """Forgets a group. Raises ResourceNotFoundError."""
        await self._committer.commit(_Delete(groups=self, name=name))

    async def forget(self, name: str) -> None:
        """Deletes a group, if there is one, whose owner is deleted. Live members are told on their next move."""
        if self.documents.get(name) is not None:
            await self.delete(name)


_STATE_BYTES: Final = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class _Create:
    groups: ConsumerGroups
    name: str
    arn: str
    start_after: int

    @property
    def size_bytes(self) -> int:
        return _STATE_BYTES

    def plan(self, group: Group) -> ConsumerGroup:
        there = self.groups.documents.get(self.name)
        if there is not None:
            # Another member of the same group came at the same time.
            return there
        made = ConsumerGroup(
            name=self.name, stream_arn=self.arn, create_time_ms=group.now_ms, start_after=self.start_after
        )
        self.groups.documents.put(group, self.name, made)
        return made


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lease:
    groups: ConsumerGroups
    name: str
    shard: Shard
    horizon: int

    @property
    def size_bytes(self) -> int:
        return _STATE_BYTES

    def plan(self, group: Group) -> ShardState:
        consumer = self.groups.get(self.name)
        state = consumer.shards.get(self.shard.shard_id)
        if state is None:
            # Children are read from their beginning, wherever the group began.
            start = self.horizon if self.shard.parent_shard_id else max(self.horizon, consumer.start_after)
            state = ShardState(checkpoint=start, epoch=0)
        state = replace(state, epoch=state.epoch + 1)
        _put(self.groups, group, consumer, self.shard.shard_id, state)
        return state


@dataclass(frozen=True, slots=True, kw_only=True)
class _Checkpoint:
    groups: ConsumerGroups
    name: str
    shard_id: str
    epoch: int
    number: int
    is_finished: bool

    @property
    def size_bytes(self) -> int:
        return _STATE_BYTES

    def plan(self, group: Group) -> None:
        consumer = self.groups.get(self.name)
        state = consumer.shards.get(self.shard_id)
        if state is None or state.epoch != self.epoch:
            raise LeaseFencedError(
                f"The lease of {self.shard_id} was taken over: epoch {self.epoch} is not the newest",
                shard_id=self.shard_id,
                lease_epoch=self.epoch,
            )
        if self.number < state.checkpoint:
            raise ValidationError(
                f"sequence_number is below the checkpoint {format_sequence_number(state.checkpoint)}",
                field="sequence_number",
                limit=format_sequence_number(state.checkpoint),
            )
        state = replace(state, checkpoint=self.number, is_finished=self.is_finished)
        _put(self.groups, group, consumer, self.shard_id, state)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Delete:
    groups: ConsumerGroups
    name: str

    @property
    def size_bytes(self) -> int:
        return _STATE_BYTES

    def plan(self, group: Group) -> None:
        self.groups.get(self.name)
        self.groups.documents.delete(group, self.name)


def _put(groups: ConsumerGroups, group: Group, consumer: ConsumerGroup, shard_id: str, state: ShardState) -> None:
    groups.documents.put(group, consumer.name, replace(consumer, shards=consumer.shards | {shard_id: state}))


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
