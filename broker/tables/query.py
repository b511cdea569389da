"""Query and Scan: which stored keys a request means, and one page of what lies there.

A page ends at its limit of items, or before the item that would make more than 1 MB of them; items count before the
filter. Its last key is that of the last item read; at a limit of items there is one even if nothing follows. Source:
Developer Guide, "Paginating table query results"; error texts as the service gives them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Final

from broker.encoding import items
from broker.encoding.keys import HASH_BYTES, KEY_MISMATCH, prefix_end, table_prefix
from broker.model.errors import ValidationError
from broker.model.tables import HASH_MAX, ProjectionType
from broker.model.turns import TURN_BYTES
from broker.storage.rocks import Family
from broker.tables.capacity import read_units
from broker.tables.validate import check_range

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from broker.encoding.items import EncodedItem, Item
    from broker.expressions.condition import Condition
    from broker.expressions.key_condition import KeyCondition
    from broker.expressions.projection import Projection
    from broker.tables.catalog import OpenTable
    from broker.tables.indexes import IndexCodec
    from broker.tables.read import ItemReader

PAGE_BYTES_MAX: Final = 1024 * 1024
# Numbers may take more bytes in a message than DynamoDB counts for them.
PAGE_ENCODED_BYTES_MAX: Final = 2 * 1024 * 1024
TOTAL_SEGMENTS_MAX: Final = 1_000_000
# After so many items, or bytes of items that were looked into, other work gets its turn.
_ITEMS_AT_ONCE: Final = 64
_BYTES_AT_ONCE: Final = 64 * 1024
# What an item costs that is not looked into, told as bytes of one that is: about 10 us, and more for a large one.
_ITEM_COST_BYTES: Final = 64
_CHEAPER: Final = 64
# What an item takes in a response besides itself.
_FRAME_BYTES: Final = 4

_SUCCESSOR: Final = b"\x00"
# How the refusal begins to project what is selected otherwise.
NO_PROJECTION: Final = "Cannot specify the ProjectionExpression when choosing to get "
_INVALID_START: Final = "The provided starting key is invalid"


class Select(StrEnum):
    """Which attributes a page holds."""

    ALL_ATTRIBUTES = "ALL_ATTRIBUTES"
    ALL_PROJECTED_ATTRIBUTES = "ALL_PROJECTED_ATTRIBUTES"
    SPECIFIC_ATTRIBUTES = "SPECIFIC_ATTRIBUTES"
    COUNT = "COUNT"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What is to be read of a table or index, however the items are chosen."""

    table: OpenTable
    # None: the table itself.
    index: IndexCodec | None = None
    # None: whole items of a table, what an index projects, or what the projection names.
    select: Select | None = None
    filter: Condition | None = None
    # Query refuses a filter on key attributes, unless it is to take it.
    filters_on_keys: bool = False
    projection: Projection | None = None
    limit: int | None = None
    start_key: Item | None = None
    is_consistent: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One page."""

    # Those that passed the filter, as encoded Items; empty if only their number was asked for.
    items: list[bytes]
    count: int
    scanned_count: int
    # Where the page ended, as an encoded Item; None if nothing is left.
    last_key: bytes | None
    # What was read, by DynamoDB's rules, and what completing items of an index from its table consumed.
    read_bytes: int
    fetched_units: float
    # It is to be shown to nobody before this has been awaited.
    settled: Awaitable[None]


class _Range:
    """Stored keys of one table or index, in one direction."""

    def __init__(self, begin: bytes, end: bytes, *, is_reverse: bool) -> None:
        self.begin = begin
        self.end = end
        self.is_reverse = is_reverse

    def holds(self, stored: bytes) -> bool:
        """Whether a stored key lies in it."""
        return self.begin <= stored < self.end

    def go_on_after(self, stored: bytes) -> None:
        """Leaves out everything up to a stored key."""
        if self.is_reverse:
            self.end = min(self.end, stored)
        else:
            self.begin = max(self.begin, stored + _SUCCESSOR)


def open_index(table: OpenTable, name: str | None) -> IndexCodec | None:
    """The index a request names; None for the table. Raises ValidationError if it is not there or not readable yet."""
    if name is None:
        return None
    index = table.indexes.get(name)
    if index is None:
        raise ValidationError(f"The table does not have the specified index: {name}", field="index_name")
    if index.definition.is_backfilling:
        raise ValidationError(
            f"Cannot read from backfilling global secondary index: {name}", field="index_name", index_name=name
        )
    return index


async def query(reader: ItemReader, reading: Reading, condition: KeyCondition, *, is_reverse: bool) -> Page:
    """One page of the items of a partition key. Raises ValidationError."""
    index, table = reading.index, reading.table
    names, ranges = (table.keys.names, table.keys.ranges) if index is None else (index.keys.names, index.keys.ranges)
    _check_reading(reading)
    if reading.filter is not None and not reading.filters_on_keys:
        for name in sorted(reading.filter.names & names):
            raise ValidationError(
                f"Filter Expression can only contain non-primary key attributes: Primary key attribute: {name}",
                field="filter_expression",
                attribute=name,
            )
    partition = ranges.partition(condition.partition)
    begin, end = partition, prefix_end(partition)
    if condition.sort:
        first, last = ranges.sort_range(condition.sort)
        begin, end = partition + first, end if last is None else partition + last
    keys = _Range(begin, end, is_reverse=is_reverse)
    if reading.start_key is not None:
        stored = _start(reading, reading.start_key)
        if not stored.startswith(partition):
            raise ValidationError(
                "The provided starting key is outside query boundaries based on provided conditions",
                field="exclusive_start_key",
            )
        if not keys.holds(stored):
            raise ValidationError(
                "The provided starting key does not match the range key predicate", field="exclusive_start_key"
            )
        keys.go_on_after(stored)
    return await _page(reader, reading, keys)


async def scan(reader: ItemReader, reading: Reading, segment: int = 0, total_segments: int = 1) -> Page:
    """One page of all items, or of one of so many segments of them. Raises ValidationError."""
    index, table = reading.index, reading.table
    _check_reading(reading)
    table_id = table.definition.id if index is None else index.definition.id
    begin, end = (_segment_begin(table_id, each, total_segments) for each in (segment, segment + 1))
    keys = _Range(begin, end, is_reverse=False)
    if reading.start_key is not None:
        stored = _start(reading, reading.start_key)
        if not keys.holds(stored):
            raise ValidationError(
                f"{_INVALID_START}: Invalid ExclusiveStartKey. Please use ExclusiveStartKey with correct Segment. "
                f"TotalSegments: {total_segments} Segment: {segment}",
                field="exclusive_start_key",
            )
        keys.go_on_after(stored)
    return await _page(reader, reading, keys)


def check_segments(segment: int | None, total_segments: int | None) -> tuple[int, int]:
    """Which part of how many a scan shall read. Raises ValidationError."""
    if segment is None and total_segments is None:
        return 0, 1
    if total_segments is None:
        raise ValidationError(
            "The TotalSegments parameter is required but was not present in the request when Segment parameter is "
            "present",
            field="total_segments",
        )
    if segment is None:
        raise ValidationError(
            "The Segment parameter is required but was not present in the request when parameter TotalSegments is "
            "present",
            field="segment",
        )
    check_range(total_segments, "total_segments", 1, TOTAL_SEGMENTS_MAX)
    if not 0 <= segment < total_segments:
        raise ValidationError(
            "The Segment parameter is zero-based and must be less than parameter TotalSegments: Segment: "
            f"{segment} is not less than TotalSegments: {total_segments}",
            field="segment",
            limit=total_segments,
        )
    return segment, total_segments


def _segment_begin(table_id: int, segment: int, total_segments: int) -> bytes:
    if segment == total_segments:
        return table_prefix(table_id + 1)
    return table_prefix(table_id) + (segment * (HASH_MAX + 1) // total_segments).to_bytes(HASH_BYTES, "big")


def check_select(select: Select | None, *, has_index: bool, has_projection: bool) -> None:
    """Check that what a request selects goes with its other parameters. Raises ValidationError."""
    if select is Select.ALL_PROJECTED_ATTRIBUTES and not has_index:
        raise ValidationError(
            "ALL_PROJECTED_ATTRIBUTES can be used only when Querying using an IndexName", field="select"
        )
    if select is Select.SPECIFIC_ATTRIBUTES and not has_projection:
        raise ValidationError(
            "Must specify the AttributesToGet or ProjectionExpression when choosing to get SPECIFIC_ATTRIBUTES",
            field="projection_expression",
        )
    if has_projection and select not in (None, Select.SPECIFIC_ATTRIBUTES):
        raise ValidationError(f"{NO_PROJECTION}{select}", field="projection_expression")


def _check_reading(reading: Reading) -> None:
    """Check that a global index has what is asked of it. Raises ValidationError."""
    index = reading.index
    if index is None or not index.definition.is_global:
        return
    name = index.definition.name
    if reading.is_consistent:
        raise ValidationError(
            "Consistent reads are not supported on global secondary indexes", field="consistent_read", index_name=name
        )
    if reading.select is Select.ALL_ATTRIBUTES and index.definition.projection_type is not ProjectionType.ALL:
        raise ValidationError(
            "One or more parameter values were invalid: Select type ALL_ATTRIBUTES is not supported for global "
            f"secondary index {name} because its projection type is not ALL",
            field="select",
            index_name=name,
        )
    if reading.projection is not None and index.names is not None:
        missing = sorted(reading.projection.names - index.names)
        if missing:
            raise ValidationError(
                f"One or more parameter values were invalid: Global secondary index {name} does not project "
                f"[{', '.join(missing)}]",
                field="projection_expression",
                index_name=name,
            )


def _stored_key(reading: Reading, key: Item) -> bytes:
    index, table = reading.index, reading.table
    items.canonicalize(key)
    if index is None:
        return table.keys.of_key(key).stored
    if key.attributes.keys() == index.key_names:
        entry = index.keys.entry(key.attributes)
        if entry is not None:
            return entry + table.keys.of_key(items.parts_of(key, table.keys.names)).place
    raise ValidationError(KEY_MISMATCH, field="exclusive_start_key")


def _start(reading: Reading, start_key: Item) -> bytes:
    """The stored key that an exclusive start key means; there need be nothing under it."""
    try:
        return _stored_key(reading, start_key)
    except ValidationError as error:
        raise ValidationError(
            f"{_INVALID_START}: {error.message}", **(error.metadata | {"field": "exclusive_start_key"})
        ) from error


async def _page(reader: ItemReader, reading: Reading, keys: _Range) -> Page:
    family = Family.ITEMS if reading.index is None else Family.INDEXES
    # Both of one moment: there is no turn of the loop in between.
    table = reader.moment(reading.table) if _needs_table(reading) else None
    entries = reader.entries(family, keys.begin, keys.end, is_reverse=keys.is_reverse)
    needs_look = reading.filter is not None or reading.projection is not None
    shows_items = reading.select is not Select.COUNT
    found: list[bytes] = []
    count = scanned = read_bytes = fetched_bytes = found_bytes = looked_bytes = spent_bytes = 0
    fetched_units = 0.0
    last: EncodedItem | None = None
    is_full = False
    for item in entries.items:
        encoded = item.encoded
        whole_bytes = 0
        if table is not None:
            whole = table.get(reading.table.keys.of_item(items.stored_item(encoded)))
            assert whole is not None, "an entry and its item are written together"
            whole_bytes, encoded = whole.size_bytes, whole.encoded
        # The item that does not fit begins the next page and is not paid for; an item alone always fits.
        is_full = scanned > 0 and read_bytes + fetched_bytes + item.size_bytes + whole_bytes > PAGE_BYTES_MAX
        if is_full:
            break
        scanned += 1
        read_bytes += item.size_bytes
        last = item
        if table is not None:
            fetched_units += read_units(whole_bytes, consistent=reading.is_consistent)
            fetched_bytes += whole_bytes
        shown: bytes | None = encoded
        if needs_look:
            looked_bytes += len(encoded)
            if len(encoded) <= TURN_BYTES:
                shown = _shown(reading, encoded)
            else:
                shown = await reader.turns.apart(partial(_shown, reading, encoded))
        if shown is not None:
            count += 1
            if shows_items:
                found.append(shown)
                found_bytes += len(shown) + _FRAME_BYTES
        is_full = scanned == reading.limit or found_bytes >= PAGE_ENCODED_BYTES_MAX
        if is_full:
            break
        if scanned % _ITEMS_AT_ONCE == 0 or looked_bytes >= _BYTES_AT_ONCE:
            # Many reads side by side take turns, too.
            cost = scanned * _ITEM_COST_BYTES + read_bytes // _CHEAPER
            await reader.turns.take(max(looked_bytes, cost - spent_bytes))
            looked_bytes, spent_bytes = 0, cost
    reader.turns.spend(max(looked_bytes, scanned * _ITEM_COST_BYTES + read_bytes // _CHEAPER - spent_bytes))
    return Page(
        items=found,
        count=count,
        scanned_count=scanned,
        last_key=_key_of(reading, last) if is_full and last is not None else None,
        read_bytes=read_bytes,
        fetched_units=fetched_units,
        settled=entries.settled,
    )


def _needs_table(reading: Reading) -> bool:
    """Whether items of a local index must be completed from the table."""
    index = reading.index
    if index is None or index.definition.is_global or index.names is None:
        return False
    if reading.select is Select.ALL_ATTRIBUTES:
        return True
    wanted: frozenset[str] = frozenset() if reading.filter is None else reading.filter.names
    if reading.projection is not None:
        wanted |= reading.projection.names
    return not wanted <= index.names


def _shown(reading: Reading, encoded: bytes) -> bytes | None:
    """What the page shows of an item; None if the filter leaves it out."""
    item = items.stored_item(encoded)
    # Only what the expressions mention is looked at.
    if reading.filter is not None and not reading.filter.holds(items.decode_some(item, reading.filter.names)):
        return None
    projection = reading.projection
    if projection is None:
        return encoded
    return items.encode(projection.apply(items.decode_some(item, projection.names))).encoded


def _key_of(reading: Reading, item: EncodedItem) -> bytes:
    """The key of an item or entry, as an exclusive start key names it."""
    whole = items.stored_item(item.encoded)
    if reading.index is None:
        return reading.table.keys.of_item(whole).item().encoded
    return items.canonicalize(items.parts_of(whole, reading.index.key_names)).encoded
