"""The seam between deciding and making durable.

An entry holds the effects of a group of operations, not the operations: whoever applies it, here or on another node,
decides nothing and reads no clock. Today append is RocksDB's own batch and there is no second log. A replicated
journal would send the entry to its log instead, conditional on the position it was planned after, and apply it when
the log has taken it.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from broker.storage.rocks import Family, Mutations, Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """The effects of one group commit. Range deletes come before the mutations."""

    # The store's sequence number after the entry.
    position: int
    mutations: Mutations
    range_deletes: tuple[tuple[Family, bytes, bytes], ...]


class Journal(Protocol):
    """Where entries become durable, in order."""

    def append(self, entry: Entry) -> None:
        """Applies an entry to the state. It may still be lost until `sync` has returned.

        Raises any error of the storage; then it is unknown whether the entry will be found after a restart.
        """

    async def sync(self) -> None:
        """Returns when every entry appended before the call survives a power failure."""

    async def close(self) -> None:
        """Waits for a sync under way."""


class EmbeddedJournal:
    """The journal of a single node: the write-ahead log of its own store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="journal-sync")

    def append(self, entry: Entry) -> None:
        """Writes the entry as one atomic batch."""
        self._store.write(entry.mutations, entry.range_deletes)

    async def sync(self) -> None:
        """Syncs the write-ahead log in a thread, so that the event loop goes on."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._store.sync)

    async def close(self) -> None:
        """Ends the thread; the last sync has been awaited by its caller."""
        self._thread.shutdown(wait=True)
