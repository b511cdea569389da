"""A change made elsewhere, as an operation: last writer wins, by version.

The change is applied only if its version is greater than that of the item, or of the tombstone a removed item left. So
changes may come twice, or again after newer ones, and every region that has seen the same changes holds the same items.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from broker.model.errors import ValidationError
from broker.storage import layout
from broker.storage.rocks import Family
from broker.tables.operations import replace_item

if TYPE_CHECKING:
    from broker.encoding.items import EncodedItem
    from broker.encoding.keys import ItemKey
    from broker.model.clock import Version
    from broker.storage.commit import Group
    from broker.tables.catalog import OpenTable

# A version further ahead than this is a broken clock's: applying it would drag this region's clock along for ever.
CLOCK_DRIFT_MS_MAX: Final = 60 * 60 * 1000
_OVERHEAD_BYTES: Final = 256


class ApplyChange:
    """Makes an item what it is elsewhere; None removes it and leaves a tombstone."""

    __slots__ = ("_item", "_key", "_table", "_version", "size_bytes")

    def __init__(self, table: OpenTable, key: ItemKey, item: EncodedItem | None, version: Version) -> None:
        self._table = table
        self._key = key
        self._item = item
        self._version = version
        self.size_bytes = _OVERHEAD_BYTES + (0 if item is None else len(item.encoded))

    @property
    def grows(self) -> bool:
        """Whether there is an item afterwards."""
        return self._item is not None

    def plan(self, group: Group) -> bool:
        """Returns whether the change was newer and so was applied.

        Raises ValidationError if its version lies more than an hour ahead of the clock.
        """
        self._table.check_exists()
        key, version = self._key, self._version
        if version.wall_ms > group.now_ms + CLOCK_DRIFT_MS_MAX:
            raise ValidationError(
                f"The version lies {version.wall_ms - group.now_ms} ms ahead of this region's clock: limit "
                f"{CLOCK_DRIFT_MS_MAX} ms",
                field="version.hybrid_time",
                limit=CLOCK_DRIFT_MS_MAX,
            )
        old = group.get_item(key.stored)
        tombstone = group.get(Family.TOMBSTONES, key.stored)
        known = [] if old is None else [old.version]
        if tombstone is not None:
            known.append(layout.decode_tombstone(tombstone))
        if known and max(known) >= version:
            return False
        group.observe_version(version)
        replace_item(group, self._table, key, old, self._item, version)
        if self._item is None:
            group.put(Family.TOMBSTONES, key.stored, layout.encode_tombstone(version))
        elif tombstone is not None:
            group.put(Family.TOMBSTONES, key.stored, None)
        return True
