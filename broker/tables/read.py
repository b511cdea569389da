"""Reads of items."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from broker.encoding.keys import HASH_BYTES, TABLE_ID_BYTES, table_prefix
from broker.model.tables import HASH_MAX
from broker.model.turns import Turns
from broker.storage import layout
from broker.storage.rocks import Family

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable, Iterator

    from broker.encoding.items import EncodedItem
    from broker.encoding.keys import ItemKey
    from broker.storage.commit import Committer
    from broker.storage.layout import StoredItem
    from broker.storage.rocks import Cursor, Store
    from broker.tables.catalog import OpenTable

# The smallest byte string after a key is the key and this.
_SUCCESSOR: Final = b"\x00"


class ItemReader:
    """Reads items that are durable."""

    def __init__(self, store: Store, committer: Committer, turns: Turns | None = None) -> None:
        self._store = store
        self._committer = committer
        # In which long reads share the event loop.
        self.turns = turns or Turns()

    async def get(self, key: ItemKey) -> EncodedItem | None:
        """An item, or None; waits for the sync of the item's last change if that is under way."""
        item = self.peek(key)
        await self.settle((key,))
        return item

    def peek(self, key: ItemKey) -> EncodedItem | None:
        """An item as it is now; to be shown to nobody before `settle` has returned."""
        value = self._store.get(Family.ITEMS, key.stored)
        return None if value is None else layout.decode_item(value).item

    async def settle(self, keys: Iterable[ItemKey]) -> None:
        """Returns when what was peeked at under these keys is durable."""
        for key in keys:
            await self._committer.settled(key.stored)

    def collection_bytes(self, place: bytes) -> int:
        """How much the item collection holds, about now, whose size is held there."""
        value = self._store.get(Family.INDEXES, place)
        return 0 if value is None else layout.decode_size(value).bytes

    def moment(self, table: OpenTable) -> ItemsAtOneMoment:
        """The items of a table as they are now, to be looked up later."""
        begin, end = table_prefix(table.definition.id), table_prefix(table.definition.id + 1)
        return ItemsAtOneMoment(self._store.cursor(Family.ITEMS, begin, end))

    def entries(self, family: Family, begin: bytes, end: bytes, *, is_reverse: bool) -> Entries:
        """The items or index entries with begin <= stored key < end as they are at this moment."""
        scan = self._store.scan_back if is_reverse else self._store.scan
        entries = scan(family, begin, end)
        return Entries((layout.decode_item(value).item for _, value in entries), settled=self._committer.all_settled())

    async def snapshot(self, table: OpenTable, after: bytes) -> TableSnapshot:
        """The items of a table as they are now: those after a place, or all if that is empty."""
        prefix, end = table_prefix(table.definition.id), table_prefix(table.definition.id + 1)
        begin = min(prefix + after + _SUCCESSOR, end) if after else prefix
        number, entries = await self._committer.snapshot(Family.ITEMS, begin, end)
        return TableSnapshot(number, ((key[TABLE_ID_BYTES:], layout.decode_item(value)) for key, value in entries))

    async def open_snapshot(self, table: OpenTable, ranges: int) -> RangedSnapshot:
        """The items of a table as they are now, divided into ranges of equal width of the partition key's hash."""
        prefix = table_prefix(table.definition.id)
        firsts = [index * (HASH_MAX + 1) // ranges for index in range(ranges)]
        begins = [prefix + first.to_bytes(HASH_BYTES, "big") for first in firsts]
        ends = [*begins[1:], table_prefix(table.definition.id + 1)]
        number, cursors = await self._committer.cursors(
            Family.ITEMS, [(begin, end) for begin, end in zip(begins, ends, strict=True)]
        )
        return RangedSnapshot(number, prefix, begins, cursors)


class Entries(NamedTuple):
    """Items or index entries as they were at one moment, in the order of their keys or in reverse; to be read once."""

    items: Iterator[EncodedItem]
    # They are to be shown to nobody before this has been awaited.
    settled: Awaitable[None]


class ItemsAtOneMoment:
    """A table as it was at one moment. It holds files and memory of the store until it is dropped."""

    __slots__ = ("_cursor",)

    def __init__(self, cursor: Cursor) -> None:
        self._cursor = cursor

    def get(self, key: ItemKey) -> EncodedItem | None:
        """An item, or None."""
        for stored, value in self._cursor.entries(key.stored):
            return layout.decode_item(value).item if stored == key.stored else None
        return None


class RangedSnapshot:
    """A table as it was at one sequence number, each of its ranges readable from any place, again and again.

    It holds files and memory of the store until it is dropped.
    """

    def __init__(self, sequence_number: int, prefix: bytes, begins: list[bytes], cursors: list[Cursor]) -> None:
        self.sequence_number = sequence_number
        self._prefix = prefix
        self._begins = begins
        self._cursors = cursors

    def read(self, index: int, after_place: bytes, items_max: int, bytes_max: int) -> list[tuple[bytes, StoredItem]]:
        """The next items of a range after a place, or from its beginning if that is empty; none at its end.

        At most so many items and bytes, but one item if there is one.
        """
        begin = (
            max(self._begins[index], self._prefix + after_place + _SUCCESSOR) if after_place else self._begins[index]
        )
        items: list[tuple[bytes, StoredItem]] = []
        size = 0
        for key, value in self._cursors[index].entries(begin):
            size += len(value)
            if items and size > bytes_max:
                break
            items.append((key[TABLE_ID_BYTES:], layout.decode_item(value)))
            if len(items) == items_max:
                break
        return items


class TableSnapshot(NamedTuple):
    """A table as it was at one sequence number."""

    sequence_number: int
    # By place, in its order; to be read once. A place is a stored key without the table's id, which differs between
    # regions: equal keys have equal places everywhere.
    items: Iterator[tuple[bytes, StoredItem]]
