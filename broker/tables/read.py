"""Reads of items."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from broker.encoding.keys import table_prefix
from broker.storage import layout
from broker.storage.rocks import Family

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.encoding.keys import ItemKey
    from broker.storage.commit import Committer
    from broker.storage.layout import StoredItem
    from broker.storage.rocks import Snapshot, Store
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

    async def snapshot(self, table: OpenTable) -> TableSnapshot:
        """All items of a table as they are now."""
        number, snapshot = await self._committer.snapshot(Family.ITEMS)
        return TableSnapshot(table.definition.id, number, snapshot)


class TableSnapshot:
    """A table as it was at one sequence number."""

    def __init__(self, table_id: int, sequence_number: int, snapshot: Snapshot) -> None:
        self.sequence_number = sequence_number
        self._table_id = table_id
        self._snapshot = snapshot

    def scan(self, after: bytes) -> Iterator[tuple[bytes, StoredItem]]:
        """The items after a stored key (or all, if it is empty), in the order of their stored keys."""
        begin, end = table_prefix(self._table_id), table_prefix(self._table_id + 1)
        if after:
            begin = max(begin, min(after + _SUCCESSOR, end))
        for key, value in self._snapshot.scan(begin, end):
            yield key, layout.decode_item(value)
