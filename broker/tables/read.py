"""Reads of items."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from broker.encoding.keys import TABLE_ID_BYTES, table_prefix
from broker.storage import layout
from broker.storage.rocks import Family

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.encoding.keys import ItemKey
    from broker.storage.commit import Committer
    from broker.storage.layout import StoredItem
    from broker.storage.rocks import Store
    from broker.tables.catalog import OpenTable

# The smallest byte string after a key is the key and this.
_SUCCESSOR: Final = b"\x00"


class ItemReader:
    """Reads items that are durable."""

    def __init__(self, store: Store, committer: Committer) -> None:
        self._store = store
        self._committer = committer

    async def get(self, key: ItemKey) -> bytes | None:
        """An item as an encoded Item, or None; waits for the sync of the item's last change if that is under way."""
        value = self._store.get(Family.ITEMS, key.stored)
        await self._committer.settled(key.stored)
        return None if value is None else layout.decode_item(value).item.encoded

    async def snapshot(self, table: OpenTable, after: bytes) -> TableSnapshot:
        """The items of a table as they are now: those after a place, or all if that is empty."""
        prefix, end = table_prefix(table.definition.id), table_prefix(table.definition.id + 1)
        begin = min(prefix + after + _SUCCESSOR, end) if after else prefix
        number, entries = await self._committer.snapshot(Family.ITEMS, begin, end)
        return TableSnapshot(number, ((key[TABLE_ID_BYTES:], layout.decode_item(value)) for key, value in entries))


class TableSnapshot(NamedTuple):
    """A table as it was at one sequence number."""

    sequence_number: int
    # By place, in its order; to be read once. A place is a stored key without the table's id, which differs between
    # regions: equal keys have equal places everywhere.
    items: Iterator[tuple[bytes, StoredItem]]
