"""The registry of replicas: what is to be copied where, and how far each copy is."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from broker.model.errors import ResourceInUseError, ResourceNotFoundError
from broker.storage.documents import Documents

if TYPE_CHECKING:
    from broker.storage.commit import Committer, Group
    from broker.storage.rocks import Store

NAME_LENGTH_MAX: Final = 64
ENDPOINT_LENGTH_MAX: Final = 255
ERROR_LENGTH_MAX: Final = 1024
START_KEY_BYTES_MAX: Final = 8192


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

    def get(self, name: str) -> Replica:
        """A replica. Raises ResourceNotFoundError."""
        replica = self.documents.get(name)
        if replica is None:
            raise ResourceNotFoundError(f"Replica {name} not found", replica_name=name)
        return replica

    async def create(self, replica: Replica) -> Replica:
        """Adds a replica. Raises ResourceInUseError if the name is taken."""
        made: Replica = await self._committer.commit(_Create(replicas=self, replica=replica))
        return made

    async def report(self, name: str, progress: ReplicaProgress) -> None:
        """Replaces a replica's progress. Raises ResourceNotFoundError."""
        await self._committer.commit(_Report(replicas=self, name=name, progress=progress))

    async def delete(self, name: str) -> None:
        """Forgets a replica. Raises ResourceNotFoundError."""
        await self._committer.commit(_Delete(replicas=self, name=name))


_REPLICA_BYTES: Final = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class _Create:
    replicas: Replicas
    replica: Replica

    @property
    def size_bytes(self) -> int:
        return _REPLICA_BYTES

    def plan(self, group: Group) -> Replica:
        name = self.replica.name
        if self.replicas.documents.get(name) is not None:
            raise ResourceInUseError(f"Replica already exists: {name}", replica_name=name)
        replica = replace(self.replica, create_time_ms=group.now_ms)
        self.replicas.documents.put(group, name, replica)
        return replica


@dataclass(frozen=True, slots=True, kw_only=True)
class _Report:
    replicas: Replicas
    name: str
    progress: ReplicaProgress

    @property
    def size_bytes(self) -> int:
        return _REPLICA_BYTES

    def plan(self, group: Group) -> None:
        replica = replace(self.replicas.get(self.name), progress=self.progress)
        self.replicas.documents.put(group, self.name, replica)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Delete:
    replicas: Replicas
    name: str

    @property
    def size_bytes(self) -> int:
        return _REPLICA_BYTES

    def plan(self, group: Group) -> None:
        self.replicas.get(self.name)
        self.replicas.documents.delete(group, self.name)
