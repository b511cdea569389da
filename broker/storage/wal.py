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


def _entries(path: Path) -> Iterator[_Batch | _Damage]:
    """The entries of a file in order, and the damaged places between them. What ends with the file is no damage."""
    size = path.stat().st_size
    if not size:
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        offset = 0
        begun: _Batch | None = None
        while offset + _HEAD_BYTES <= size:
            rest = _BLOCK_BYTES - offset % _BLOCK_BYTES
            if rest < _HEAD_BYTES:
                offset += rest
                continue
            checksum, length, kind = _HEAD.unpack_from(data, offset)
            if kind == 0 and length == 0:
                # Preallocated, or never written: nothing more is in this block.
                begun = None
                offset += rest
                continue
            end = offset + _HEAD_BYTES + length
            if end > size and _HEAD_BYTES + length <= rest:
                # Written to its first part only.
                return
            if _HEAD_BYTES + length > rest or not _is_whole(data, offset, end, checksum):
                yield _Damage(offset)
                begun = None
                offset = _next_record(data, offset + 1, offset + rest, size)
                continue
            if kind in (_FULL, _FIRST) and length >= _BATCH.size:
                begun = _Batch(offset, end, *_BATCH.unpack_from(data, offset + _HEAD_BYTES))
            if kind in (_FULL, _LAST) and begun is not None:
                yield begun._replace(end=end)
                begun = None
            offset = end


def _is_whole(data: mmap.mmap, offset: int, end: int, checksum: int) -> bool:
    found: int = google_crc32c.value(data[offset + _TYPE_OFFSET : end])
    return ((found >> 15 | found << 17) + _MASK_DELTA) & _UINT32 == checksum


def _next_record(data: mmap.mmap, begin: int, block_end: int, size: int) -> int:
    """Where the next whole record begins in a block, if its own length tells; otherwise the end of the block."""
    for offset in range(begin, min(block_end, size) - _HEAD_BYTES):
        checksum, length, kind = _HEAD.unpack_from(data, offset)
        end = offset + _HEAD_BYTES + length
        is_possible = _FULL <= kind <= _LAST and length > 0 and end <= min(block_end, size)
        if is_possible and _is_whole(data, offset, end, checksum):
            return offset
    return block_end
