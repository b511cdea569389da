"""Reads of items."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from broker.encoding.keys import table_prefix
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
        """The items of a table as they are now: those after a stored key, or all if it is empty."""
        table_id = table.definition.id
        begin, end = table_prefix(table_id), table_prefix(table_id + 1)
        if after:
            begin = max(begin, min(after + _SUCCESSOR, end))
        number, entries = await self._committer.snapshot(Family.ITEMS, begin, end)
        return TableSnapshot(number, ((key, layout.decode_item(value)) for key, value in entries))


class TableSnapshot(NamedTuple):
    """A table as it was at one sequence number."""

    sequence_number: int
    # By stored key, in its order; to be read once.
    items: Iterator[tuple[bytes, StoredItem]]
