"""A committer at work on a real store, with the two things a test must hold in its hand: time and the disk's sync."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

from broker.model.tables import Index, KeyAttribute, KeyAttributeType, StreamSettings, StreamViewType, Table
from broker.storage.commit import Committer, Group
from broker.storage.journal import Entry
from broker.storage.rocks import Store
from broker.storage.watermark import Watermarks
from broker.streams.tail import LogReader
from broker.tables.catalog import Catalog, OpenTable
from broker.tables.definition import NewTable, TableChange

NOON_MS = 1_700_000_000_000
REGION = "north"
# More than any step of these tests takes; it only turns a hang into a failure.
TIMEOUT_S = 10.0

ID = KeyAttribute(name="id", type=KeyAttributeType.STRING)
AT = KeyAttribute(name="at", type=KeyAttributeType.NUMBER)


class FakeClock:
    """A clock that stands still until a test moves it, in either direction."""

    def __init__(self, ms: int = NOON_MS) -> None:
        self.ms = ms

    def now_ms(self) -> int:
        return self.ms


class FakeJournal:
    """Applies entries to the store as the real one does; syncs wait while held, and either step fails on demand."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._open = asyncio.Event()
        self._open.set()
        self._changed = asyncio.Condition()
        self._begun = 0
        self.entries: list[Entry] = []
        self.synced = 0
        self.append_error: Exception | None = None
        self.sync_error: Exception | None = None

    def append(self, entry: Entry) -> None:
        if self.append_error is not None:
            raise self.append_error
        self.entries.append(entry)
        self._store.write(entry.mutations, entry.range_deletes)

    async def sync(self) -> None:
        covered = len(self.entries)
        async with self._changed:
            self._begun += 1
            self._changed.notify_all()
        await self._open.wait()
        if self.sync_error is not None:
            raise self.sync_error
        self.synced = covered

    async def close(self) -> None:
        pass

    def hold(self) -> None:
        """Lets no sync end."""
        self._open.clear()

    def release(self) -> None:
        """Lets syncs end again."""
        self._open.set()

    async def sync_begun(self, number: int) -> None:
        """Returns when so many syncs have begun."""
        async with asyncio.timeout(TIMEOUT_S), self._changed:
            await self._changed.wait_for(lambda: self._begun >= number)


@dataclass(frozen=True, slots=True, kw_only=True)
class Do:
    """An operation that does what a test says."""

    does: Callable[[Group], Any]
    size_bytes: int = 100
    grows: bool = False

    def plan(self, group: Group) -> Any:
        return self.does(group)


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """What a node builds, without its servers."""

    store: Store
    clock: FakeClock
    journal: FakeJournal
    watermarks: Watermarks
    committer: Committer
    committing: asyncio.Task[None]
    catalog: Catalog
    log: LogReader

    async def do(self, does: Callable[[Group], Any]) -> Any:
        """Carries out one operation."""
        async with asyncio.timeout(TIMEOUT_S):
            return await self.committer.commit(Do(does=does))

    async def set_stream(self, name: str, view_type: StreamViewType | None) -> Table:
        """Enables a table's stream, or with None disables it."""
        return await self.catalog.update_table(name, TableChange(switches_stream=True, view_type=view_type))

    async def table(
        self,
        name: str = "pets",
        view_type: StreamViewType | None = StreamViewType.NEW_AND_OLD_IMAGES,
        sort_key: KeyAttribute | None = None,
        indexes: tuple[Index, ...] = (),
        **settings: Any,
    ) -> OpenTable:
        """A new table with the partition key `id`."""
        await self.catalog.create_table(
            NewTable(
                name=name,
                partition_key=ID,
                sort_key=sort_key,
                view_type=view_type,
                stream_settings=StreamSettings(**settings),
                indexes=indexes,
            )
        )
        return self.catalog.open_table(name)


@asynccontextmanager
async def running(store: Store, clock: FakeClock, region: str = REGION) -> AsyncIterator[Engine]:
    """An engine whose committer runs until the end of the block."""
    journal, watermarks = FakeJournal(store), Watermarks()
    committer = Committer(store, journal, watermarks, clock, region)
    catalog = Catalog(store, committer, region, Random(1))
    log = LogReader(store, watermarks, clock)
    for stream in catalog.streams.all():
        log.recover(stream)
    committing = asyncio.create_task(committer.run())
    try:
        yield Engine(
            store=store,
            clock=clock,
            journal=journal,
            watermarks=watermarks,
            committer=committer,
            committing=committing,
            catalog=catalog,
            log=log,
        )
    finally:
        committer.close()
        journal.release()
        await asyncio.wait({committing})
        if not committing.cancelled():
            # A test that makes the disk fail has looked at this already.
            committing.exception()


def run_on_new_store(scenario: Callable[[Engine], Awaitable[None]]) -> None:
    """Runs a scenario on an engine of its own: for tests that Hypothesis runs many times."""

    async def run(folder: str) -> None:
        store = Store(Path(folder))
        async with running(store, FakeClock()) as engine:
            await scenario(engine)
        store.close()

    with TemporaryDirectory() as folder:
        asyncio.run(run(folder))
