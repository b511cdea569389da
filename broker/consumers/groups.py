"""Consumer groups at rest: what each has processed of each shard, and under which epoch it may say so."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from broker.model.errors import LeaseFencedError, ResourceNotFoundError, ValidationError
from broker.model.sequence import format_sequence_number
from broker.storage.documents import Documents
from broker.tables.validate import check_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

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
    """All groups of a store. Every change is an operation of the group commit, so it survives what a write survives.

    A group named "kind:name" belongs to the trigger or replica of that name and lives no longer than it: `owners` says,
    by kind, whether one of a name exists.
    """

    def __init__(self, store: Store, committer: Committer, owners: Mapping[str, Callable[[str], bool]]) -> None:
        self._committer = committer
        self._owners = owners
        self.documents = Documents(store, "consumer", ConsumerGroup)

    def get(self, name: str) -> ConsumerGroup:
        """A group. Raises ResourceNotFoundError."""
        group = self.documents.get(name)
        if group is None:
            raise ResourceNotFoundError(f"Consumer group {name} not found", group_name=name)
        return group

    async def ensure(self, name: str, stream_arn: str, start_after: int) -> ConsumerGroup:
        """The group of a name, made if there is none.

        Raises ValidationError if it reads another stream, ResourceNotFoundError if what it belongs to is gone.
        """

        def plan(group: Group) -> ConsumerGroup:
            self._check_owner(name)
            # Another member of the same group may have come at the same time.
            consumer = self.documents.get(name)
            if consumer is None:
                consumer = ConsumerGroup(
                    name=name, stream_arn=stream_arn, create_time_ms=group.now_ms, start_after=start_after
                )
                self.documents.put(group, name, consumer)
            return consumer

        self._check_owner(name)
        consumer = self.documents.get(name)
        if consumer is None:
            consumer = await self._committer.change(plan)
        if consumer.stream_arn != stream_arn:
            raise ValidationError(
                f"Consumer group {name} reads another stream: {consumer.stream_arn}",
                field="stream_arn",
                group_name=name,
            )
        return consumer

    async def lease(self, name: str, shard: Shard, horizon: int) -> ShardState:
        """Begins a lease of a shard: a new epoch, from the checkpoint there is. Raises ResourceNotFoundError."""

        def plan(group: Group) -> ShardState:
            consumer = self.get(name)
            state = consumer.shards.get(shard.shard_id)
            if state is None:
                # Children are read from their beginning, wherever the group began.
                start = horizon if shard.parent_shard_id else max(horizon, consumer.start_after)
                state = ShardState(checkpoint=start, epoch=0)
            state = replace(state, epoch=state.epoch + 1)
            self._put(group, consumer, shard.shard_id, state)
            return state

        return await self._committer.change(plan)

    async def checkpoint(self, name: str, shard_id: str, epoch: int, number: int, *, is_finished: bool) -> None:
        """Notes that a shard is processed up to a sequence number; returns when that is durable.

        Raises LeaseFencedError if the epoch is not the newest, ValidationError if the number is below the checkpoint.
        """

        def plan(group: Group) -> None:
            consumer = self.get(name)
            state = consumer.shards.get(shard_id)
            if state is None or state.epoch != epoch:
                raise LeaseFencedError(
                    f"The lease of {shard_id} was taken over: epoch {epoch} is not the newest",
                    shard_id=shard_id,
                    lease_epoch=epoch,
                )
            if number < state.checkpoint:
                raise ValidationError(
                    f"sequence_number is below the checkpoint {format_sequence_number(state.checkpoint)}",
                    field="sequence_number",
                    limit=format_sequence_number(state.checkpoint),
                )
            self._put(group, consumer, shard_id, replace(state, checkpoint=number, is_finished=is_finished))

        await self._committer.change(plan)

    async def delete(self, name: str) -> None:
        """Forgets a group. Raises ResourceNotFoundError."""

        def plan(group: Group) -> None:
            self.get(name)
            self.documents.delete(group, name)

        await self._committer.change(plan)

    def plan_forget(self, group: Group, name: str) -> None:
        """Deletes a group, if there is one, as part of the commit that deletes its owner.

        Live members are told on their next move.
        """
        if self.documents.get(name) is not None:
            self.documents.delete(group, name)

    def _check_owner(self, name: str) -> None:
        kind, separator, owner = name.partition(":")
        if separator and kind in self._owners and not self._owners[kind](owner):
            raise ResourceNotFoundError(
                f"Consumer group {name} belongs to a {kind} that does not exist", group_name=name
            )

    def _put(self, group: Group, consumer: ConsumerGroup, shard_id: str, state: ShardState) -> None:
        self.documents.put(group, consumer.name, replace(consumer, shards=consumer.shards | {shard_id: state}))
