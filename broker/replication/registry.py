"""The registry of replicas: what is to be copied where, and how far each copy is."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from broker.model.errors import ResourceInUseError, ResourceNotFoundError
from broker.storage.documents import Documents

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.storage.commit import Committer, Group
    from broker.storage.rocks import Store

NAME_LENGTH_MAX: Final = 64
ENDPOINT_LENGTH_MAX: Final = 255
ERROR_LENGTH_MAX: Final = 1024
START_KEY_BYTES_MAX: Final = 8192

_log: Final = logging.getLogger(__name__)


class ReplicaStatus(StrEnum):
    """Where a replica is in its life."""

    CREATING = "CREATING"
    BOOTSTRAPPING = "BOOTSTRAPPING"
    ACTIVE = "ACTIVE"
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaProgress:
    """How far a replica is, as its peer reports it."""

    status: ReplicaStatus = ReplicaStatus.CREATING
    target_region: str = ""
    snapshot_sequence_number: str = ""
    bootstrap_start_key: bytes = b""
    items_copied: int = 0
    records_applied: int = 0
    last_applied_sequence_number: str = ""
    replication_lag_ms: int = 0
    last_error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """A copy of a table in another broker."""

    name: str
    source_table_name: str
    target_endpoint: str
    target_table_name: str
    create_time_ms: int
    progress: ReplicaProgress = field(default_factory=ReplicaProgress)

    @property
    def group_name(self) -> str:
        """The consumer group its peer reads as."""
        return f"replica:{self.name}"


class Replicas:
    """All replicas that begin at this store."""

    def __init__(self, store: Store, committer: Committer) -> None:
        self._committer = committer
        self.documents = Documents(store, "replica", Replica)

    def exists(self, name: str) -> bool:
        """Whether there is a replica of a name."""
        return self.documents.get(name) is not None

    def get(self, name: str) -> Replica:
        """A replica. Raises ResourceNotFoundError."""
        replica = self.documents.get(name)
        if replica is None:
            raise ResourceNotFoundError(f"Replica {name} not found", replica_name=name)
        return replica

    async def create(self, replica: Replica) -> Replica:
        """Adds a replica. Raises ResourceInUseError if the name is taken."""

        def plan(group: Group) -> Replica:
            if self.documents.get(replica.name) is not None:
                raise ResourceInUseError(f"Replica already exists: {replica.name}", replica_name=replica.name)
            made = replace(replica, create_time_ms=group.now_ms)
            self.documents.put(group, made.name, made)
            return made

        return await self._committer.change(plan)

    async def report(self, name: str, progress: ReplicaProgress) -> None:
        """Replaces a replica's progress. Raises ResourceNotFoundError."""

        def plan(group: Group) -> None:
            self.documents.put(group, name, replace(self.get(name), progress=progress))

        await self._committer.change(plan)

    async def delete(self, name: str, forget_consumer: Callable[[Group, str], None]) -> None:
        """Forgets a replica and, in the same commit, its consumer group. Raises ResourceNotFoundError."""

        def plan(group: Group) -> None:
            forget_consumer(group, self.get(name).group_name)
            self.documents.delete(group, name)

        await self._committer.change(plan)


def plan_end_all(store: Store, group: Group) -> None:
    """Ends all replicas of a store that has lost writes, and leaves their copies as they are.

    A peer that copied such a table again would delete from the copy what the store has lost, and the copy may be all
    that is left of it.
    """
    replicas = Documents(store, "replica", Replica)
    for replica in replicas.all():
        replicas.delete(group, replica.name)
        _log.warning(
            "a replica ends, and its copy stays as it is replica=%s table=%s target=%s target_table=%s",
            replica.name,
            replica.source_table_name,
            replica.target_endpoint,
            replica.target_table_name,
        )
