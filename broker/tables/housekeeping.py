"""What is done to items in the background: new indexes are filled with those there are, and expired ones are deleted.

Both go through the group commit in small operations that look at the item again, so they race with nothing; whatever
was begun when the process ended is found again by what is left to do.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from broker.encoding.items import parse_item
from broker.encoding.keys import table_prefix
from broker.model.errors import CorruptionError, HeadraceError
from broker.storage.commit import Change
from broker.storage.documents import Documents
from broker.storage.rocks import Family
from broker.tables.operations import replace_item

if TYPE_CHECKING:
    from collections.abc import Sequence

    from broker.model.clock import Clock
    from broker.storage.commit import Committer, Group, Operation
    from broker.storage.rocks import Store
    from broker.tables.catalog import Catalog, OpenTable

# So many items, and about so many bytes of them, are one submission: so much it may hold up the other writes.
BATCH_ITEMS_MAX: Final = 100
BATCH_BYTES_MAX: Final = 256 * 1024
# How many items a sweep deletes of one table before the next one has its turn.
SWEEP_ITEMS_MAX: Final = 10_000
# What expired longer ago than this never does. Source: Developer Guide, "Using DynamoDB Time to Live (TTL)".
EXPIRED_SECONDS_MAX: Final = 5 * 365 * 24 * 3600

_RETRY_SECONDS: Final = 1.0
_MILLIS_PER_SECOND: Final = 1000
_OPERATION_BYTES: Final = 1024
# The smallest byte string after a key is the key and this.
_SUCCESSOR: Final = b"\x00"

_log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a table's backfill has come: it goes on there after a restart, if it is still about the same indexes."""

    ids: tuple[int, ...]
    # The last item that was looked at, as its stored key.
    last: bytes


class Backfill:
    """Fills indexes that were added to tables with items, and those by time of expiry."""

    def __init__(self, catalog: Catalog, committer: Committer, store: Store) -> None:
        self._catalog = catalog
        # By the table's id.
        self._progress = Documents(store, "backfill", Progress)
        self._committer = committer
        self._store = store

    async def run(self) -> None:
        """Fills whatever is to be filled until it is cancelled."""
        while True:
            self._catalog.backfill_wanted.clear()
            try:
                await self.round()
            except (HeadraceError, CorruptionError) as error:
                _log.warning("a backfill was not finished error=%s", error)
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            await self._catalog.backfill_wanted.wait()

    async def round(self) -> None:
        """Fills all indexes that are to be filled now."""
        for definition in self._catalog.tables.all():
            table = self._catalog.find_table(definition.name)
            if table is not None and (ids := _backfilling(table)):
                await self._fill(table, ids)
                for id_ in ids:
                    await self._catalog.finish_backfill(definition.name, id_)
                _log.info("filled indexes table=%s indexes=%d", definition.name, len(ids))
        await self._forget_finished()

    async def _fill(self, table: OpenTable, ids: list[int]) -> None:
        begin, end = (table_prefix(id_) for id_ in (table.definition.id, table.definition.id + 1))
        name = str(table.definition.id)
        progress = self._progress.get(name)
        if progress is not None and progress.ids == tuple(ids):
            begin = progress.last + _SUCCESSOR
        while not table.is_deleted:
            fills = self._next(table, begin, end)
            if not fills:
                return
            progress = Progress(ids=tuple(ids), last=fills[-1].stored)
            note = Change(partial(self._progress.put, name=name, document=progress))
            await _carry_out(self._committer, [*fills, note])
            begin = progress.last + _SUCCESSOR

    def _next(self, table: OpenTable, begin: bytes, end: bytes) -> list[_Fill]:
        fills: list[_Fill] = []
        size = 0
        for key, value in self._store.scan(Family.ITEMS, begin, end):
            fills.append(_Fill(table, key, len(value)))
            size += len(value)
            if len(fills) == BATCH_ITEMS_MAX or size >= BATCH_BYTES_MAX:
                break
        return fills

    async def _forget_finished(self) -> None:
        """Drops how far backfills have come that are done, or whose tables are gone."""
        tables = {str(table.id): self._catalog.find_table(table.name) for table in self._catalog.tables.all()}
        for name in [name for name, _ in self._progress.items()]:
            table = tables.get(name)
            if table is None or not _backfilling(table):
                await self._committer.change_when_room(partial(self._progress.delete, name=name))


class Expiry:
    """Deletes items whose time has come."""

    def __init__(self, catalog: Catalog, committer: Committer, store: Store, clock: Clock) -> None:
        self._catalog = catalog
        self._committer = committer
        self._store = store
        self._clock = clock
        self.deleted_total = 0

    async def run(self, interval_seconds: float) -> None:
        """Sweeps every so many seconds until it is cancelled."""
        while True:
            await asyncio.sleep(interval_seconds)
            try:
                await self.round()
            except (HeadraceError, CorruptionError) as error:
                # The node stops, or is too busy, or a part of the store is damaged.
                _log.warning("a sweep of expired items was not finished error=%s", error)

    async def round(self) -> None:
        """Deletes what has expired of each table, up to a bound."""
        for definition in self._catalog.tables.all():
            table = self._catalog.find_table(definition.name)
            if table is not None:
                await self._sweep(table)

    async def _sweep(self, table: OpenTable) -> None:
        now = self._clock.now_ms() // _MILLIS_PER_SECOND
        for _ in range(SWEEP_ITEMS_MAX // BATCH_ITEMS_MAX):
            expiry = table.indexes.expiry
            if expiry is None or table.is_deleted:
                return
            begin, end = expiry.before(max(0, now - EXPIRED_SECONDS_MAX)), expiry.before(now)
            places = [
                expiry.place(key) for key, _ in islice(self._store.scan(Family.INDEXES, begin, end), BATCH_ITEMS_MAX)
            ]
            if not places:
                return
            prefix = table_prefix(table.definition.id)
            deleted = await _carry_out(self._committer, [_Expire(table, prefix + place, now) for place in places])
            self.deleted_total += sum(deleted)


class _Fill:
    """Adds an item, if it is still there, to the indexes that are being filled."""

    __slots__ = ("_table", "size_bytes", "stored")
    # It is small beside the items, and an index that is half filled helps nobody.
    grows = False

    def __init__(self, table: OpenTable, stored: bytes, item_bytes: int = 0) -> None:
        self._table = table
        self.stored = stored
        self.size_bytes = _OPERATION_BYTES + item_bytes

    def plan(self, group: Group) -> None:
        """Looks at the item as it is now."""
        table = self._table
        item = None if table.is_deleted else group.get_item(self.stored)
        if item is not None:
            table.indexes.fill(group, table.keys.of_item(parse_item(item.item.encoded)), item)


class _Expire:
    """Deletes an item if it has expired; the service does it, says the record."""

    __slots__ = ("_now", "_stored", "_table", "size_bytes")
    grows = False

    def __init__(self, table: OpenTable, stored: bytes, now: int) -> None:
        self._table = table
        self._stored = stored
        self._now = now
        self.size_bytes = _OPERATION_BYTES

    def plan(self, group: Group) -> bool:
        """Returns whether it has; its time may have been moved since it was looked at."""
        table, expiry = self._table, self._table.indexes.expiry
        old = None if table.is_deleted or expiry is None else group.get_item(self._stored)
        if old is None or expiry is None:
            return False
        item = parse_item(old.item.encoded)
        time = expiry.time(item)
        if time is None or not self._now - EXPIRED_SECONDS_MAX <= time < self._now:
            return False
        replace_item(group, table, table.keys.of_item(item), old, None, is_expiry=True)
        return True


async def _carry_out(committer: Committer, operations: Sequence[Operation]) -> list[Any]:
    """The results of operations. Raises the first HeadraceError among them."""
    results = await (await committer.submit_when_room(operations))
    for result in results:
        if isinstance(result, HeadraceError):
            raise result
    return results


def _backfilling(table: OpenTable) -> list[int]:
    """The ids of the indexes of a table that are to be filled."""
    definition = table.definition
    ids = [index.id for index in definition.indexes if index.is_backfilling]
    if definition.time_to_live is not None and definition.time_to_live.is_backfilling:
        ids.append(definition.time_to_live.id)
    return ids
