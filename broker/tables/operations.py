"""Writes of single items, as objects whose `plan` decides against the state and changes the group.

Every write first decides what the item shall be, which may refuse it, and then replaces the item, which cannot fail: so
a transaction can decide all its writes before it carries out any. One place says what a change is: `replace_item`. Put,
update, delete, expiry and replicated changes all end there, so a change, its record and its index entries agree.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from broker.encoding import items
from broker.model.errors import ConditionalCheckFailedError, HeadraceError, ThrottlingError, forget_frames
from broker.tables.capacity import Consumption, write_units

if TYPE_CHECKING:
    from collections.abc import Sequence

    from broker.encoding.items import EncodedItem, Item
    from broker.encoding.keys import ItemKey
    from broker.expressions.condition import Condition
    from broker.expressions.update import Update
    from broker.model.clock import Version
    from broker.model.values import Attributes
    from broker.storage.commit import Group
    from broker.storage.layout import StoredItem
    from broker.tables.capacity import CapacityMetering
    from broker.tables.catalog import OpenTable
    from broker.tables.indexes import IndexChange

# What an operation takes in the queue besides its item.
_OVERHEAD_BYTES: Final = 256
# The items in one response have at most so many bytes; a client takes 4 MiB.
SHOWN_BYTES_MAX: Final = 3_584 * 1024
_RETRY_AFTER_MS: Final = 50


class Decision(NamedTuple):
    """What a write makes of an item; nothing if both are the same."""

    old: StoredItem | None
    new: EncodedItem | None


class Outcome(NamedTuple):
    """What a write has made of an item, if its caller wants to see that, and what it took."""

    old: EncodedItem | None
    new: EncodedItem | None
    consumption: Consumption

    @property
    def encoded_bytes(self) -> int:
        """How much there is to look at."""
        return sum(len(item.encoded) for item in (self.old, self.new) if item is not None)


class ShownItems:
    """Room in one response for the items that its writes return, or for which their conditions do not hold."""

    __slots__ = ("_bytes_left",)

    def __init__(self) -> None:
        self._bytes_left = SHOWN_BYTES_MAX

    def has_room(self, item: EncodedItem | None) -> bool:
        """Takes room for an item, if there is enough of it; there is for one alone."""
        size = 0 if item is None else len(item.encoded)
        if size > self._bytes_left:
            return False
        self._bytes_left -= size
        return True


class Wanted(NamedTuple):
    """What the caller of a write wants to be told besides that it is done."""

    # The item before or after the write; otherwise only what the write took.
    items: bool
    # The item for which the condition does not hold.
    failed_item: bool
    room: ShownItems


class Write(Protocol):
    """A write of one item."""

    table: OpenTable
    key: ItemKey
    # About how much memory it holds.
    size_bytes: int

    @property
    def grows(self) -> bool:
        """Whether it may put more than was there."""

    def decide(self, group: Group) -> Decision:
        """What the item shall be. Raises HeadraceError; changes nothing."""

    def note_failed(self, error: ConditionalCheckFailedError) -> None:
        """Decides whether a failed condition shows its item: if that is wanted, and there is room."""


class _SingleWrite:
    """A write that is carried out by itself."""

    __slots__ = ("_condition", "_metering", "_wanted", "key", "size_bytes", "table")
    grows = False

    def __init__(
        self,
        table: OpenTable,
        key: ItemKey,
        condition: Condition | None,
        size_bytes: int,
        metering: CapacityMetering | None,
        wanted: Wanted | None,
    ) -> None:
        """Without `metering` the write consumes nothing."""
        self.table = table
        self.key = key
        self.size_bytes = size_bytes + _OVERHEAD_BYTES
        self._condition = condition
        self._metering = metering
        # Most callers only want to know that it is done.
        self._wanted = wanted

    def plan(self, group: Group) -> Outcome | None:
        """Carries the write out.

        Raises what `decide` raises, ProvisionedThroughputExceededError, and ThrottlingError beyond the maximum of a
        table on demand, or if there is no room to show what it would make.
        """
        table, metering, wanted = self.table, self._metering, self._wanted
        table.check_exists()
        if metering is not None:
            metering.admit_write(table.definition)
        try:
            old, new = self.decide(group)
        except ConditionalCheckFailedError as error:
            if metering is not None:
                error.consumption = consumption_of(table, error.item, None, ())
                metering.consume(error.consumption)
            self.note_failed(error)
            raise
        old_item = None if old is None else old.item
        if wanted is not None and wanted.items and not wanted.room.has_room(self._largest_shown(old_item, new)):
            raise ThrottlingError(
                f"The items that the writes of one request return have more than {SHOWN_BYTES_MAX} bytes; send this "
                "write again in another request",
                retry_after_ms=_RETRY_AFTER_MS,
                field="return_values",
                limit=SHOWN_BYTES_MAX,
            )
        changes = replace_item(group, table, self.key, old, new)
        if metering is None:
            return None
        definition = table.definition
        if not changes and wanted is None and definition.throughput is None and definition.on_demand_maximum is None:
            metering.count_write(definition, write_units(larger_size(old_item, new)))
            return None
        consumption = consumption_of(table, old_item, new, changes)
        metering.consume(consumption)
        if wanted is None:
            return None
        # What nobody asks for is not held.
        return Outcome(old_item, new, consumption) if wanted.items else Outcome(None, None, consumption)

    def decide(self, group: Group) -> Decision:
        """What the item shall be."""
        raise NotImplementedError

    def note_failed(self, error: ConditionalCheckFailedError) -> None:
        """Decides whether a failed condition shows its item."""
        wanted = self._wanted
        error.show_item_if(wanted is not None and wanted.failed_item and wanted.room.has_room(error.item))

    def _largest_shown(self, old: EncodedItem | None, new: EncodedItem | None) -> EncodedItem | None:  # noqa: ARG002
        """The largest item that the write may have to show."""
        return old

    def _existing(self, group: Group) -> StoredItem | None:
        """The item as it is. Raises ConditionalCheckFailedError if the condition does not hold for it."""
        old = group.get_item(self.key.stored)
        condition = self._condition
        if condition is not None:
            found = {}
            if old is not None:
                found = items.decode_some(items.stored_item(old.item.encoded), condition.names)
            self._check(condition, None if old is None else old.item, found)
        return old

    def _check(self, condition: Condition, old: EncodedItem | None, attributes: Attributes) -> None:
        if not condition.holds(attributes):
            raise ConditionalCheckFailedError("The conditional request failed", item=old, field="condition_expression")


class Put(_SingleWrite):
    """Creates or replaces an item, which is checked against the table's indexes before."""

    __slots__ = ("item",)
    grows = True

    def __init__(
        self,
        table: OpenTable,
        key: ItemKey,
        item: EncodedItem,
        condition: Condition | None,
        metering: CapacityMetering | None = None,
        wanted: Wanted | None = None,
    ) -> None:
        super().__init__(table, key, condition, len(item.encoded), metering, wanted)
        self.item = item

    def decide(self, group: Group) -> Decision:
        """Raises ConditionalCheckFailedError if the condition does not hold."""
        return Decision(self._existing(group), self.item)


class Delete(_SingleWrite):
    """Removes an item, if there is one."""

    __slots__ = ()

    def __init__(
        self,
        table: OpenTable,
        key: ItemKey,
        condition: Condition | None,
        metering: CapacityMetering | None = None,
        wanted: Wanted | None = None,
    ) -> None:
        super().__init__(table, key, condition, 0, metering, wanted)

    def decide(self, group: Group) -> Decision:
        """Raises ConditionalCheckFailedError if the condition does not hold."""
        return Decision(self._existing(group), None)


class _Made(NamedTuple):
    """An item that an update has made, as a message too."""

    message: Item
    item: EncodedItem


class Change(_SingleWrite):
    """Changes attributes of an item (UpdateItem)."""

    __slots__ = ("_foreseen", "_update")
    grows = True

    def __init__(
        self,
        table: OpenTable,
        key: ItemKey,
        update: Update,
        condition: Condition | None,
        size_bytes: int,
        metering: CapacityMetering | None = None,
        wanted: Wanted | None = None,
    ) -> None:
        super().__init__(table, key, condition, size_bytes, metering, wanted)
        self._update = update
        # The item for which the result was worked out ahead, and the result.
        self._foreseen: tuple[EncodedItem | None, _Made | HeadraceError | None] | None = None

    def foresee(self, old: EncodedItem | None) -> None:
        """Work out what becomes of an item, for an update that would hold up a group commit.

        `decide` takes the result if the item is still the same then. It depends on the update and the item alone, so
        any thread may do it.
        """
        made: _Made | HeadraceError | None
        try:
            made = self._make(old)
        except HeadraceError as error:
            forget_frames(error)
            made = error
        self._foreseen = (old, made)

    def decide(self, group: Group) -> Decision:
        """Raises ConditionalCheckFailedError, or ValidationError if the update does not fit the item or an index."""
        stored = group.get_item(self.key.stored)
        old = None if stored is None else stored.item
        if self._foreseen is not None and self._foreseen[0] == old:
            made = self._foreseen[1]
            if isinstance(made, HeadraceError):
                raise made
        else:
            made = self._make(old)
        if made is None:
            return Decision(None, None)
        if self.table.indexes:
            # A new item is written with its key, which may be one of an index too.
            written = made.message.attributes if old is None else self._update.touched
            self.table.indexes.check(self.key, made.message, made.item, written)
        return Decision(stored, made.item)

    def _make(self, old: EncodedItem | None) -> _Made | None:
        """Return what becomes of an item; None if there is none and none is made. Raises as `decide` does."""
        update, condition = self._update, self._condition
        if condition is not None and old is None:
            self._check(condition, None, {})
        if old is None and not update.creates:
            return None
        encoded, size_bytes = self.key.item() if old is None else old
        item = items.stored_item(encoded)
        # Only what the expressions mention is looked at.
        names = update.names if condition is None else update.names | condition.names
        attributes = items.decode_some(item, names)
        if condition is not None and old is not None:
            self._check(condition, old, attributes)
        after = update.apply(attributes, is_new=old is None)
        new = items.with_changes(item, size_bytes, {name: after.get(name) for name in update.touched})
        return _Made(item, new)

    def _largest_shown(self, old: EncodedItem | None, new: EncodedItem | None) -> EncodedItem | None:
        return old if new is None or (old is not None and len(old.encoded) > len(new.encoded)) else new


class Check(_SingleWrite):
    """Only checks a condition; part of a transaction."""

    __slots__ = ()

    def __init__(self, table: OpenTable, key: ItemKey, condition: Condition, wanted: Wanted | None = None) -> None:
        super().__init__(table, key, condition, 0, None, wanted)

    def decide(self, group: Group) -> Decision:
        """Raises ConditionalCheckFailedError if the condition does not hold."""
        old = self._existing(group)
        return Decision(old, None if old is None else old.item)


def replace_item(
    group: Group,
    table: OpenTable,
    key: ItemKey,
    old: StoredItem | None,
    new: EncodedItem | None,
    version: Version | None = None,
    *,
    is_expiry: bool = False,
) -> list[IndexChange]:
    """Changes an item from `old` to `new`, its record and its index entries; does nothing if they are equal.

    Without a version the write begins here and gets its own.
    """
    old_item = None if old is None else old.item
    if old_item is None:
        if new is None:
            return _NO_CHANGES
        is_equal = False
    else:
        is_equal = new is not None and old_item.encoded == new.encoded
        if is_equal and version is None:
            return _NO_CHANGES
    if version is None:
        version = group.next_version()
    group.put_item(key.stored, new, version)
    if is_equal:
        # The same item, written elsewhere: only its version changes.
        return _NO_CHANGES
    group.resize(
        table.definition.id,
        None if old_item is None else old_item.size_bytes,
        None if new is None else new.size_bytes,
    )
    changes = table.indexes.replace(group, key, old_item, new, version) if table.indexes else _NO_CHANGES
    stream = table.stream
    if stream is not None:
        group.append_record(
            table.shard_of(key.hash), stream.view_type, key, old_item, new, version, is_expiry=is_expiry
        )
    return changes


def consumption_of(
    table: OpenTable,
    old: EncodedItem | None,
    new: EncodedItem | None,
    changes: Sequence[IndexChange],
    *,
    transactional: bool = False,
) -> Consumption:
    """What a write consumes by DynamoDB's rules: of the table, and of each index whose entries it changed.

    A transaction doubles the units of the table alone: an entry is written once, when the transaction is carried out.
    """
    consumption = Consumption(table.definition)
    consumption.write(write_units(larger_size(old, new), transactional=transactional))
    for change in changes:
        sizes = [size for size in (change.old_bytes, change.new_bytes) if size is not None]
        # An entry that moves is deleted and put.
        written = sizes if change.has_moved else [max(sizes)]
        consumption.write(sum(write_units(size) for size in written), change.of)
    return consumption


def larger_size(old: EncodedItem | None, new: EncodedItem | None) -> int:
    """The size of an item before or after a write, whichever is larger."""
    return max(0 if old is None else old.size_bytes, 0 if new is None else new.size_bytes)


_NO_CHANGES: Final[list[IndexChange]] = []
