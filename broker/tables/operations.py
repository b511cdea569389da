"""Writes of single items, as objects whose `plan` decides against the state and changes the group.

One place decides what a change is: `replace_item`. Put, update, delete and replicated changes all end there, so a
change and its record cannot differ.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.encoding import items
from broker.model.errors import ConditionalCheckFailedError, ResourceNotFoundError

if TYPE_CHECKING:
    from broker.encoding.items import EncodedItem
    from broker.encoding.keys import ItemKey
    from broker.expressions.condition import Condition
    from broker.expressions.update import Update
    from broker.model.clock import Version
    from broker.model.values import Attributes
    from broker.storage.commit import Group
    from broker.storage.layout import StoredItem
    from broker.tables.catalog import OpenTable

# What an operation takes in the queue besides its item.
_OVERHEAD_BYTES = 256


class Put:
    """Creates or replaces an item."""

    __slots__ = ("_condition", "_item", "_key", "_table", "size_bytes")

    def __init__(self, table: OpenTable, key: ItemKey, item: EncodedItem, condition: Condition | None) -> None:
        self._table = table
        self._key = key
        self._item = item
        self._condition = condition
        self.size_bytes = len(item.encoded) + _OVERHEAD_BYTES

    def plan(self, group: Group) -> None:
        """Raises ConditionalCheckFailedError if the condition does not hold."""
        old = _existing(group, self._table, self._key)
        if self._condition is not None:
            _check_condition(self._condition, None if old is None else items.decode(old.item.encoded))
        replace_item(group, self._table, self._key, old, self._item)


class Delete:
    """Removes an item, if there is one."""

    __slots__ = ("_condition", "_key", "_table", "size_bytes")

    def __init__(self, table: OpenTable, key: ItemKey, condition: Condition | None) -> None:
        self._table = table
        self._key = key
        self._condition = condition
        self.size_bytes = _OVERHEAD_BYTES

    def plan(self, group: Group) -> None:
        """Raises ConditionalCheckFailedError if the condition does not hold."""
        old = _existing(group, self._table, self._key)
        if self._condition is not None:
            _check_condition(self._condition, None if old is None else items.decode(old.item.encoded))
        replace_item(group, self._table, self._key, old, None)


class Change:
    """Changes attributes of an item (UpdateItem)."""

    __slots__ = ("_condition", "_key", "_table", "_update", "size_bytes")

    def __init__(self, table: OpenTable, key: ItemKey, update: Update, condition: Condition | None, size: int) -> None:
        self._table = table
        self._key = key
        self._update = update
        self._condition = condition
        self.size_bytes = size + _OVERHEAD_BYTES

    def plan(self, group: Group) -> None:
        """Raises ConditionalCheckFailedError, or ValidationError if the item becomes too large."""
        old = _existing(group, self._table, self._key)
        attributes = None if old is None else items.decode(old.item.encoded)
        if self._condition is not None:
            _check_condition(self._condition, attributes)
        if attributes is None:
            if not self._update.creates:
                return
            attributes = items.decode(self._key.encoded)
        replace_item(group, self._table, self._key, old, items.encode(self._update.apply(attributes)))


def replace_item(
    group: Group,
    table: OpenTable,
    key: ItemKey,
    old: StoredItem | None,
    new: EncodedItem | None,
    version: Version | None = None,
) -> None:
    """Changes an item from `old` to `new` and appends the record of it; does nothing if they are equal.

    Without a version the write begins here and gets its own.
    """
    old_item = None if old is None else old.item
    if old_item is None:
        if new is None:
            return
    elif new is not None and old_item.encoded == new.encoded and version is None:
        return
    if version is None:
        version = group.next_version()
    group.put_item(key.stored, new, version)
    stream = table.stream
    if stream is not None and not (old_item is not None and new is not None and old_item.encoded == new.encoded):
        group.append_record(table.shard_of(key.hash), stream.view_type, key, old_item, new, version)


def _existing(group: Group, table: OpenTable, key: ItemKey) -> StoredItem | None:
    if table.is_deleted:
        # It was there when the request was checked.
        name = table.definition.name
        raise ResourceNotFoundError(f"Requested resource not found: Table: {name} not found", table_name=name)
    return group.get_item(key.stored)


def _check_condition(condition: Condition, attributes: Attributes | None) -> None:
    if not condition.holds(attributes or {}):
        raise ConditionalCheckFailedError("The conditional request failed", field="condition_expression")
