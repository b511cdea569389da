"""RocksDB's write-ahead log, read without RocksDB: up to where it can be replayed, and whether entries lie beyond that.

RocksDB replays up to the first record that is damaged and drops the rest. After a power failure that is right, because
the tail was never synced. In the middle it loses acknowledged writes, and RocksDB does not say so. The committer has at
most two entries that are not synced, so whoever finds more than two behind a damaged place has found a loss.

Source: RocksDB wiki, "Write Ahead Log File Format".
"""

from __future__ import annotations

import mmap
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

import google_crc32c

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# How many entries may be in the log and not synced: see `commit.Committer.run`.
UNSYNCED_ENTRIES_MAX: Final = 2

_BLOCK_BYTES: Final = 32 * 1024
# Masked CRC-32C of the rest of the record, length of the payload, type.
_HEAD: Final = struct.Struct("<IHB")
_HEAD_BYTES: Final = _HEAD.size
_TYPE_OFFSET: Final = 6
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4
_MASK_DELTA: Final = 0xA282EAD8
_UINT32: Final = 0xFFFFFFFF
# A batch begins with its first sequence number and how many it takes.
_BATCH: Final = struct.Struct("<QI")


class Hole(NamedTuple):
    """A damaged place of the log with entries behind it."""

    file: str
    offset: int
    # RocksDB's sequence number of the last entry before it.
    position: int
    # How many whole entries lie behind it, and the last of RocksDB's sequence numbers in them.
    entries_after: int
    last_position: int


class LogEnd(NamedTuple):
    """Up to where a log can be replayed."""

    # RocksDB's sequence number of the last entry; 0 if there is none.
    position: int
    # Where that entry ends, for people: a file and an offset. Empty if there is no entry.
    place: str
    # Set if acknowledged entries lie beyond.
    hole: Hole | None


class _Batch(NamedTuple):
    offset: int
    end: int
    first: int
    keys: int


class _Record(NamedTuple):
    offset: int
    end: int
    kind: int
    # What a batch begins with.
    head: bytes


class _Damage(NamedTuple):
    offset: int


def read_log_end(folder: Path) -> LogEnd:
    """Reads all log files of a store that nobody has open. Raises OSError."""
    position, place = 0, ""
    damage: Hole | None = None
    is_gap = False
    for path in sorted(folder.glob("*.log"), key=_number):
        is_first = True
        for found in _entries(path):
            if isinstance(found, _Damage):
                damage = damage or Hole(path.name, found.offset, position, 0, position)
                continue
            last = found.first + found.keys - 1
            if is_first and damage is not None and not damage.entries_after and found.first == position + 1:
                # An older file ends with what a crash left half written, and the log went on after the recovery.
                damage = None
            elif not is_first and damage is None and found.first > position + 1:
                # Nothing here is damaged, but entries are missing: a page of zeros ends a block without a word.
                damage, is_gap = Hole(path.name, found.offset, position, 0, position), True
            is_first = False
            if damage is not None:
                damage = damage._replace(entries_after=damage.entries_after + 1, last_position=last)
            else:
                position, place = last, f"{path.name}:{found.end}"
    is_loss = damage is not None and (damage.entries_after > 0 if is_gap else _is_beyond_a_crash(damage))
    return LogEnd(position, place, damage if is_loss else None)


def _is_beyond_a_crash(hole: Hole) -> bool:
    # The damaged entry itself is one of those that a crash may leave half written.
    return hole.entries_after >= UNSYNCED_ENTRIES_MAX


def _number(path: Path) -> int:
    return int(path.stem) if path.stem.isdecimal() else 0


def read_damage(path: Path) -> tuple[int | None, bool]:
    """The first damaged place of a file in the form of RocksDB's logs, and whether whole records lie behind it.

    A record that is cut by the end of the file is damaged too. Raises OSError.
    """
    damage = None
    for found in _records(path):
        if isinstance(found, _Damage):
            damage = found.offset if damage is None else damage
        elif damage is not None:
            return damage, True
    return damage, False


def _entries(path: Path) -> Iterator[_Batch | _Damage]:
    """The entries of a file in order, and the damaged places between them."""
    begin, head = -1, b""
    for found in _records(path):
        if isinstance(found, _Damage):
            yield found
            begin = -1
            continue
        if found.kind in (_FULL, _FIRST):
            begin, head = found.offset, found.head
        elif begin >= 0 and len(head) < _BATCH.size:
            # The end of a block has cut even the head of the batch.
            head = (head + found.head)[: _BATCH.size]
        if found.kind in (_FULL, _LAST) and begin >= 0:
            if len(head) == _BATCH.size:
                yield _Batch(begin, found.end, *_BATCH.unpack(head))
            begin = -1


def _records(path: Path) -> Iterator[_Record | _Damage]:
    """The parts of which entries are made, and the damaged places between them."""
    size = path.stat().st_size
    if not size:
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        offset = 0
        while offset + _HEAD_BYTES <= size:
            block_end = offset - offset % _BLOCK_BYTES + _BLOCK_BYTES
            if block_end - offset < _HEAD_BYTES:
                offset = block_end
                continue
            checksum, length, kind = _HEAD.unpack_from(data, offset)
            if kind == 0 and length == 0:
                # Preallocated, or never written: nothing more is in this block.
                offset = block_end
                continue
            begin, end = offset + _HEAD_BYTES, offset + _HEAD_BYTES + length
            if end > min(block_end, size) or not _is_whole(data, offset, end, checksum):
                yield _Damage(offset)
                offset = _next_record(data, offset + 1, min(block_end, size))
                continue
            yield _Record(offset, end, kind, data[begin : min(begin + _BATCH.size, end)])
            offset = end


def _is_whole(data: mmap.mmap, offset: int, end: int, checksum: int) -> bool:
    found: int = google_crc32c.value(data[offset + _TYPE_OFFSET : end])
    return ((found >> 15 | found << 17) + _MASK_DELTA) & _UINT32 == checksum


def _next_record(data: mmap.mmap, begin: int, block_end: int) -> int:
    """Where the next whole record begins in a block, as its own length tells; the end of the block if there is none."""
    for offset in range(begin, block_end - _HEAD_BYTES):
        checksum, length, kind = _HEAD.unpack_from(data, offset)
        end = offset + _HEAD_BYTES + length
        if _FULL <= kind <= _LAST and length > 0 and end <= block_end and _is_whole(data, offset, end, checksum):
            return offset
    return block_end
