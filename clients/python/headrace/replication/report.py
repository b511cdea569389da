"""Keeps a replica's progress at the source's broker: reported about once a second, and at once where that matters."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Final, Self

from headrace.replication.lifecycle import LinkError, Progress
from headrace.replication.region import Region
from headrace.v1 import replication_service_pb2 as pb

# How much of a copy is done again after a crash, and how fresh `headrace replica describe` is.
REPORT_INTERVAL_S: Final = 1.0
_FINAL_TIMEOUT_S: Final = 2.0

_LOGGER: Final = logging.getLogger(__name__)


class ReplicaEntry:
    """One replica in the registry of the source's broker; not another one that has its name later."""

    def __init__(self, source: Region, replica: pb.ReplicaDescription) -> None:
        self.name = replica.replica_name
        self._create_time = replica.create_time
        self._source = source

    def is_of(self, replica: pb.ReplicaDescription | None) -> bool:
        """Whether a description is of this very replica."""
        return replica is not None and replica.replica_name == self.name and replica.create_time == self._create_time

    async def progress(self) -> Progress | None:
        """What is durable; None if the replica was deleted."""
        replica = await self._source.describe_replica(self.name)
        return Progress.from_message(replica.progress) if replica is not None and self.is_of(replica) else None

    async def report(self, progress: Progress) -> None:
        """Makes the progress durable, unless the replica was deleted."""
        # A replica made again under the name must not inherit the progress of this one: it would never be copied.
        if await self.progress() is not None:
            await self._source.report_replica(self.name, progress)


class Reporter:
    """The progress of one replica. `async with` runs it; leaving reports what is not reported, within two seconds."""

    def __init__(self, entry: ReplicaEntry, progress: Progress) -> None:
        self._entry = entry
        self.progress = progress
        self._reported = progress
        # One report at a time, or an older one could overtake a newer one.
        self._reporting = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name=f"progress of replica {self._entry.name}")
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait({self._task})
        # What is lost here is copied or applied once more.
        with contextlib.suppress(LinkError, TimeoutError):
            async with asyncio.timeout(_FINAL_TIMEOUT_S):
                await self._report()

    def note(self, progress: Progress) -> None:
        """Reports this soon."""
        self.progress = progress

    async def commit(self, progress: Progress) -> None:
        """Reports this now; returns when it is durable."""
        self.progress = progress
        await self._report()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(REPORT_INTERVAL_S)
            try:
                await self._report()
            except LinkError as error:
                # Whatever else the link does at the source fails too, and is handled there.
                _LOGGER.info("progress is not reported replica=%s error=%s", self._entry.name, error)

    async def _report(self) -> None:
        async with self._reporting:
            progress = self.progress
            if progress != self._reported:
                await self._entry.report(progress)
                self._reported = progress
