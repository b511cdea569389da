"""Secondary indexes: which entry an item has in each, and what a change of the item changes there.

An entry is the projected item under the index's key, written in the group that writes the item, so an index never
differs from its table. The index by time of expiry is one more of them: its key is the time, its entries are empty.
Among the entries, under the table's id, are the sizes of item collections.
"""

from __future__ import annotations

import sys
from decimal import Decimal
from typing import TYPE_CHECKING, Final, NamedTuple

from broker.encoding import items
from broker.encoding.items import EncodedItem, Item
from broker.encoding.keys import TABLE_ID_BYTES, IndexKeyCodec, table_prefix
from broker.model.errors import ValidationError
from broker.model.tables import KeyAttributeType, ProjectionType
from broker.model.values import ITEM_SIZE_BYTES_MAX, STORED_NESTING_LEVELS_MAX
from broker.storage import layout
from broker.storage.rocks import Family

if TYPE_CHECKING:
    from collections.abc import Container

    from broker.encoding.keys import ItemKey, KeyCodec
    from broker.model.clock import Version
    from broker.model.tables import Index, Table, TimeToLive
    from broker.storage.commit import Group
    from broker.storage.layout import StoredItem

# A time of expiry in the key of an entry: seconds since 1970 UTC.
TIME_BYTES: Final = 8
TIME_MAX: Final = 2 ** (8 * TIME_BYTES) - 1


class IndexChange(NamedTuple):
    """What a change of an item changes in one index: the sizes of the entry before and after, None if there is none."""

    of: Index
    old_bytes: int | None
    new_bytes: int | None
    # The entry has another key than before.
    has_moved: bool


class IndexCodec:
    """Makes the entries of one index."""

    def __init__(self, index: Index, table: Table, table_keys: KeyCodec) -> None:
        self.definition = index
        self.keys = IndexKeyCodec(index)
        # What every entry holds.
        self.key_names = frozenset(a.name for a in (*table.key_attributes, *index.key_attributes))
        self.names = (
            None if index.projection_type is ProjectionType.ALL else self.key_names | {*index.non_key_attributes}
        )
        # The check of an item's own key covers its attributes here too, unless the index takes fewer bytes of one.
        limits = {attribute.name: attribute.bytes_max for attribute in table_keys.attributes}
        self._checked = [a for a in self.keys.attributes if a.bytes_max < limits.get(a.name, sys.maxsize)]

    def entry(self, place: bytes, item: Item, encoded: EncodedItem) -> tuple[bytes, EncodedItem] | None:
        """The key and the content of an item's entry; None if the item does not belong into the index."""
        key = self.keys.entry(item.attributes)
        if key is None:
            return None
        if self.names is None:
            return key + place, encoded
        return key + place, items.canonicalize(items.parts_of(item, self.names), STORED_NESTING_LEVELS_MAX)

    def check(self, item: Item, written: Container[str]) -> None:
        """Raises ValidationError if an attribute of the index's key is written and cannot be one."""
        index = self.definition
        for attribute in self._checked:
            # Looking a missing name up would add it.
            if attribute.name not in written or attribute.name not in item.attributes:
                continue
            value = item.attributes[attribute.name]
            kind = value.WhichOneof("kind")
            if kind != attribute.kind:
                raise ValidationError(
                    f"One or more parameter values were invalid: Type mismatch for Index Key {attribute.name} "
                    f"Expected: {attribute.kind.upper()} Actual: {(kind or 'none').upper()} IndexName: {index.name}",
                    field=attribute.name,
                    index_name=index.name,
                )
            if not getattr(value, kind):
                what = "string" if attribute.type is KeyAttributeType.STRING else "binary"
                raise ValidationError(
                    "One or more parameter values are not valid. A value specified for a secondary index key is not "
                    f"supported. The AttributeValue for a key attribute cannot contain an empty {what} value. "
                    f"IndexName: {index.name}, IndexKey: {attribute.name}",
                    field=attribute.name,
                    index_name=index.name,
                    limit=1,
                )
            try:
                attribute.content(value)
            except ValidationError as error:
                raise ValidationError(error.message, **error.metadata, index_name=index.name) from error


class ExpiryCodec:
    """Makes the entries of the index by time of expiry."""

    def __init__(self, time_to_live: TimeToLive) -> None:
        self.attribute = time_to_live.attribute
        self.prefix = table_prefix(time_to_live.id)

    def time(self, item: Item) -> int | None:
        """When an item expires, in whole seconds; None if never, also if the attribute is no number."""
        if self.attribute not in item.attributes:
            return None
        value = item.attributes[self.attribute]
        if value.WhichOneof("kind") != "n":
            return None
        time = int(Decimal(value.n))
        return time if 0 <= time <= TIME_MAX else None

    def key(self, place: bytes, item: Item) -> bytes | None:
        """The key of an item's entry; None if it has none."""
        time = self.time(item)
        return None if time is None else self.before(time) + place

    def before(self, time: int) -> bytes:
        """After the keys of all items that expire before a time."""
        return self.prefix + time.to_bytes(TIME_BYTES, "big")

    def place(self, key: bytes) -> bytes:
        """The place of the item whose entry has a key."""
        return key[TABLE_ID_BYTES + TIME_BYTES :]


class Indexes:
    """All indexes of one table."""

    def __init__(self, table: Table, keys: KeyCodec) -> None:
        """`keys` are those of the table."""
        self._codecs = {index.name: IndexCodec(index, table, keys) for index in table.indexes}
        self.expiry = None if table.time_to_live is None else ExpiryCodec(table.time_to_live)
        self._local = [codec for codec in self._codecs.values() if not codec.definition.is_global]
        self._table_keys = keys

    def __bool__(self) -> bool:
        return bool(self._codecs) or self.expiry is not None

    def get(self, name: str) -> IndexCodec | None:
        """The index of a name."""
        return self._codecs.get(name)

    def check(self, key: ItemKey, item: Item, encoded: EncodedItem, written: Container[str]) -> None:
        """Raises ValidationError if an item cannot be written because of an index.

        Only what is written is looked at: an item may hold what was no key of an index when it was put.
        """
        for codec in self._codecs.values():
            codec.check(item, written)
        if self._local:
            entries = [codec.entry(key.place, item, encoded) for codec in self._local]
            size = encoded.size_bytes + sum(entry[1].size_bytes for entry in entries if entry is not None)
            if size > ITEM_SIZE_BYTES_MAX:
                raise ValidationError(
                    "One or more parameter values were invalid: Item size and its entries in local secondary indexes "
                    f"have exceeded the maximum allowed size: {size} bytes, limit {ITEM_SIZE_BYTES_MAX}",
                    field="item",
                    limit=ITEM_SIZE_BYTES_MAX,
                )

    def replace(
        self, group: Group, key: ItemKey, old: EncodedItem | None, new: EncodedItem | None, version: Version
    ) -> list[IndexChange]:
        """Changes the entries of an item that is changed from `old` to `new`; returns those that differ."""
        place = key.place
        old_item = None if old is None else items.stored_item(old.encoded)
        new_item = None if new is None else items.stored_item(new.encoded)
        changes: list[IndexChange] = []
        growth = (0 if new is None else new.size_bytes) - (0 if old is None else old.size_bytes)
        for codec in self._codecs.values():
            before = None if old is None or old_item is None else codec.entry(place, old_item, old)
            after = None if new is None or new_item is None else codec.entry(place, new_item, new)
            index = codec.definition
            if index.is_backfilling and before is not None and group.get(Family.INDEXES, before[0]) is None:
                # The backfill has not come to it yet, and will find it done.
                before = None
            if before == after:
                continue
            has_moved = before is not None and after is not None and after[0] != before[0]
            if before is not None and (after is None or has_moved):
                group.put(Family.INDEXES, before[0], None)
            if after is not None:
                group.put(Family.INDEXES, after[0], layout.encode_item(after[1], version))
            old_bytes = None if before is None else before[1].size_bytes
            new_bytes = None if after is None else after[1].size_bytes
            group.resize(index.id, old_bytes, new_bytes)
            if not index.is_global:
                growth += (new_bytes or 0) - (old_bytes or 0)
            changes.append(IndexChange(index, old_bytes, new_bytes, has_moved))
        collection = self.collection_key(key)
        if collection is not None:
            items_more = (new is not None) - (old is not None)
            _resize_collection(group, collection, items_more, growth)
        if self.expiry is not None:
            expired = None if old_item is None else self.expiry.key(place, old_item)
            expires = None if new_item is None else self.expiry.key(place, new_item)
            if expired != expires:
                if expired is not None:
                    group.put(Family.INDEXES, expired, None)
                if expires is not None:
                    group.put(Family.INDEXES, expires, b"")
        return changes

    def collection_key(self, key: ItemKey) -> bytes | None:
        """Where among the entries the size of an item's collection is held; None if the table has no local indexes.

        An item collection is all items of one partition key, with their entries in the local indexes.
        Source: Developer Guide, "Item collections in Local Secondary Indexes".
        """
        return self._table_keys.partition_of(key.stored) if self._local else None

    def fill(self, group: Group, key: ItemKey, item: StoredItem) -> None:
        """Adds the entries of an item to the indexes that are being filled, unless they are there."""
        whole, place = items.stored_item(item.item.encoded), key.place
        for codec in self._codecs.values():
            entry = codec.entry(place, whole, item.item) if codec.definition.is_backfilling else None
            if entry is not None and group.get(Family.INDEXES, entry[0]) is None:
                group.put(Family.INDEXES, entry[0], layout.encode_item(entry[1], item.version))
                group.resize(codec.definition.id, None, entry[1].size_bytes)
        if self.expiry is not None:
            expires = self.expiry.key(place, whole)
            if expires is not None:
                group.put(Family.INDEXES, expires, b"")


def _resize_collection(group: Group, key: bytes, items_more: int, bytes_more: int) -> None:
    held = group.get(Family.INDEXES, key)
    before = layout.NO_ITEMS if held is None else layout.decode_size(held)
    # A store of before there were such sizes has not counted what it held then.
    after = layout.Size(max(0, before.items + items_more), max(0, before.bytes + bytes_more))
    group.put(Family.INDEXES, key, layout.encode_size(after) if after.items else None)


def drop_entries(group: Group, id_: int) -> None:
    """Removes all entries of an index, or the sizes of a table's item collections, and what is counted under the id."""
    group.delete_range(Family.INDEXES, table_prefix(id_), table_prefix(id_ + 1))
    group.forget_size(id_)
