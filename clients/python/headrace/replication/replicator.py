"""Runs a link for every replica that the source's broker lists."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from random import Random
from typing import Final

from headrace._backoff import Backoff
from headrace.replication.lifecycle import LinkError
from headrace.replication.link import RETRY_INITIAL_S, RETRY_MAX_S, Link
from headrace.replication.region import Region
from headrace.replication.tasks import unless_stopped
from headrace.v1 import replication_service_pb2 as pb

POLL_INTERVAL_S: Final = 1.0

# What the broker allows for a member's name.
_MEMBER_NAME_LENGTH_MAX: Final = 128

_LOGGER: Final = logging.getLogger(__name__)


class Replicator:
    """The replication peer: keeps all replicas of one source equal to their tables until it is stopped.

    Several may run for one source: for each replica one of them leads, the others stand by.
    """

    def __init__(self, endpoint: str, *, random: Random) -> None:
        self._endpoint = endpoint
        self._random = random
        self._member_name = f"{socket.gethostname()}-{os.getpid()}"[-_MEMBER_NAME_LENGTH_MAX:]
        self._stopping = asyncio.Event()
        self._links: dict[str, tuple[Link, asyncio.Task[None]]] = {}

    async def run(self, when_ready: Callable[[], None]) -> None:
        """Returns when it is stopped and all its links have ended; calls `when_ready` once the source has answered."""
        backoff = Backoff(initial_s=RETRY_INITIAL_S, max_s=RETRY_MAX_S, random=self._random)
        is_ready = False
        async with Region("source", self._endpoint) as source:
            try:
                while not self._stopping.is_set():
                    try:
                        replicas = await source.list_replicas()
                    except LinkError as error:
                        pause_s = backoff.next_s()
                        _LOGGER.warning("the source is away error=%s retry_s=%.1f", error, pause_s)
                    else:
                        backoff.reset()
                        pause_s = POLL_INTERVAL_S
                        self._adjust(replicas, source)
                        if not is_ready:
                            is_ready = True
                            when_ready()
                    await unless_stopped(self._stopping, asyncio.sleep(pause_s))
            except asyncio.CancelledError:
                for _, task in self._links.values():
                    task.cancel()
                raise
            finally:
                for link, _ in self._links.values():
                    link.stop()
                if self._links:
                    await asyncio.wait([task for _, task in self._links.values()])

    def stop(self) -> None:
        """Makes `run` return soon: what is under way is applied, acked and noted first."""
        self._stopping.set()

    def _adjust(self, replicas: list[pb.ReplicaDescription], source: Region) -> None:
        """Stops the links of deleted replicas, and starts those of new ones once a namesake's link has ended."""
        listed = {replica.replica_name: replica for replica in replicas}
        for name, (link, task) in list(self._links.items()):
            if not link.entry.is_of(listed.get(name)):
                link.stop(is_deleted=True)
            if task.done():
                task.result()
                del self._links[name]
        for name, replica in listed.items():
            if name not in self._links:
                link = Link(replica, source, member_name=self._member_name, random=self._random)
                self._links[name] = (link, asyncio.create_task(link.run(), name=f"replica {name}"))
