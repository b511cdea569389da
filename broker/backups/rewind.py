"""A table as it was at a time: its items as they are, and then each change since, taken back.

The change log of a table whose records hold old images tells how an item was before each change. Records are read from
the newest to the first one after the time, so that whatever is taken back last is how the item was; no key has to be
remembered on the way.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

from broker.encoding.items import EncodedItem, canonicalize, parse_item
from broker.encoding.records import record_key, record_old_image
from broker.model.values import STORED_NESTING_LEVELS_MAX
from broker.storage import layout
from broker.storage.rocks import Family
from broker.tables.operations import replace_item

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.encoding.keys import ItemKey
    from broker.model.tables import Stream
    from broker.storage.commit import Group
    from broker.storage.rocks import Store
    from broker.tables.catalog import OpenTable

RECOVERY_PERIOD_DAYS_MAX: Final = 35
# Of taking back, what is one submission: so much it may hold up the other writes.
ITEMS_MAX: Final = 100
BYTES_MAX: Final = 1024 * 1024
# And so much is looked at for it, however few items that concerns.
RECORDS_MAX: Final = 1_000

_DAY_MS: Final = 24 * 60 * 60 * 1000
_OVERHEAD_BYTES: Final = 256


class Window(NamedTuple):
    """The times to which a table can be restored, both included."""

    earliest_ms: int
    latest_ms: int


def window(stream: Stream | None, period_days: int, now_ms: int) -> Window:
    """Say to which times a table can be restored, given its enabled stream.

    Those are the times since which the stream holds each change with its old image. Without one only the table as it is
    now can be restored.
    """
    if stream is None or not stream.view_type.has_old_image:
        return Window(now_ms, now_ms)
    trimmed_ms = max(stream.trimmed_time_ms, *(shard.trimmed_time_ms for shard in stream.shards))
    earliest_ms = max(stream.create_time_ms, trimmed_ms, now_ms - period_days * _DAY_MS)
    return Window(min(earliest_ms, now_ms), now_ms)


def changes_after(store: Store, stream: Stream, time_ms: int) -> Iterator[bytes]:
    """Give the records of a stream that are newer than a time; those of one key from the newest to the oldest."""
    # Parents stand before children, and a key is in one of them at a time.
    for shard in reversed(stream.shards):
        for _, value in store.scan_back(Family.LOG, layout.log_prefix(shard.id), layout.log_end(shard.id)):
            block = layout.Block(value)
            # The times of a log's blocks never fall.
            if block.time_ms <= time_ms:
                break
            for _, record in reversed(block.records(0, block.count)):
                yield record


class TakeBack:
    """Makes an item what it was before a change; None: there was none."""

    __slots__ = ("_before", "_table", "key", "size_bytes")
    grows = True

    def __init__(self, table: OpenTable, key: ItemKey, before: EncodedItem | None) -> None:
        self._table = table
        self._before = before
        self.key = key
        self.size_bytes = _OVERHEAD_BYTES + (0 if before is None else len(before.encoded))

    def plan(self, group: Group) -> None:
        """Write as any write does; nobody else writes to the table."""
        replace_item(group, self._table, self.key, group.get_item(self.key.stored), self._before)


def take_back(records: Iterator[bytes], table: OpenTable) -> list[TakeBack]:
    """Make operations of the next records, at most one for each key; none if there are no more records."""
    operations: dict[bytes, TakeBack] = {}
    size_bytes = 0
    for record in islice(records, RECORDS_MAX):
        key = table.keys.of_key(parse_item(record_key(record)))
        image = record_old_image(record)
        before = None if image is None else canonicalize(parse_item(image), STORED_NESTING_LEVELS_MAX)
        # The older change of a key takes the place of the newer one.
        operations[key.stored] = TakeBack(table, key, before)
        size_bytes += len(record)
        if len(operations) >= ITEMS_MAX or size_bytes >= BYTES_MAX:
            break
    return list(operations.values())
