"""Whether a data folder still holds all that was acknowledged, found out before anything in it is changed."""

from __future__ import annotations

import fcntl
import logging
import os
import struct
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from broker.model.clock import iso_label
from broker.model.errors import CorruptionError
from broker.model.sequence import format_sequence_number
from broker.storage.note import CURRENT, read_current, read_note
from broker.storage.wal import Hole, LogEnd, read_damage, read_log_end

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.storage import layout

# RocksDB's lock, its pointer to the newest manifest, and what shows that there was a store without such a pointer.
_LOCK: Final = "LOCK"
_STORED: Final = ("*.sst", "*.log")
# How much of another process's command line a message repeats.
_COMMAND_MAX: Final = 200
# As far as a version from another region may be ahead.
AHEAD_MS_MAX: Final = 60 * 60 * 1000
# No two machines have the same time, so a little ahead is nothing to tell.
WARNED_AHEAD_MS: Final = 1000
_MILLIS_PER_SECOND: Final = 1000

_log: Final = logging.getLogger(__name__)


class StoreOpenError(Exception):
    """The data folder cannot be made, is held by another process, or is not a store."""


class LossError(StoreOpenError):
    """The data folder has lost acknowledged writes, or part of what it needs to tell."""


class ClockError(StoreOpenError):
    """The store was written with a clock far ahead of this machine's."""


class Recovered(NamedTuple):
    """What a store holds after its log was replayed."""

    # RocksDB's sequence number.
    position: int
    counters: layout.Counters


class Evidence(NamedTuple):
    """What is known of a store's end without opening it."""

    note: layout.Note | None
    end: LogEnd


def holder_of(folder: Path) -> str:
    """Which process has a store open, for people; empty if none has, or it cannot be found out.

    It only asks: opening a store that is in use would rename RocksDB's own log before it is refused.
    """
    try:
        descriptor = os.open(folder / _LOCK, os.O_RDWR)
    except OSError:
        return ""
    try:
        pid = _lock_holder(descriptor)
    except OSError:
        return ""
    finally:
        os.close(descriptor)
    if pid is None:
        return ""
    if pid <= 0:
        # In a container of its own, whose processes are not seen from here.
        return "another process"
    with suppress(OSError):
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        return f"process {pid} ({command[:_COMMAND_MAX]})"
    return f"process {pid}"


def _lock_holder(descriptor: int) -> int | None:
    """The process that has the POSIX lock of a file; None if none has."""
    # struct flock: type, whence, start, length, process; the BSDs have another order.
    is_linux = sys.platform.startswith("linux")
    lock_format = "hhqqi4x" if is_linux else "qqihh"
    asked = (fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0) if is_linux else (0, 0, 0, fcntl.F_WRLCK, os.SEEK_SET)
    answer = struct.unpack(lock_format, fcntl.fcntl(descriptor, fcntl.F_GETLK, struct.pack(lock_format, *asked)))
    kind, pid = (answer[0], answer[4]) if is_linux else (answer[3], answer[2])
    return None if kind == fcntl.F_UNLCK else pid


def gather_evidence(folder: Path) -> Evidence:
    """Reads the note and the log of a store that nobody has open. Raises LossError if the store itself is gone.

    Raises OSError.
    """
    try:
        note = read_note(folder)
    except CorruptionError:
        # It is a copy of what the store knows; the store itself may be whole, and gets a new one.
        _log.warning("the durable note is damaged; what the log has lost at its end cannot be told data=%s", folder)
        note = None
    is_store = (folder / CURRENT).exists()
    if not is_store and (note is not None or any(any(folder.glob(pattern)) for pattern in _STORED)):
        raise LossError(
            f"the data folder {folder} has lost its store: {CURRENT} is missing"
            + ("" if note is None else f"; {_durable(note)}")
            + "; restore a backup, or start with an empty folder"
        )
    _check_manifest(folder, note)
    return Evidence(note, read_log_end(folder))


def _check_manifest(folder: Path, note: layout.Note | None) -> None:
    """Raises LossError if RocksDB's list of its files is cut or damaged: RocksDB would take the rest for all of it."""
    current = read_current(folder)
    if current is None:
        return
    number, path = current
    with suppress(FileNotFoundError):
        size = path.stat().st_size
        damage, is_followed = read_damage(path)
        noted = note.manifest_bytes if note is not None and note.manifest == number else 0
        # What a crash leaves unfinished is at the end, and beyond what was durable.
        if size < noted or is_followed or (damage is not None and damage < noted):
            where = f"{size} of {noted} bytes are left" if damage is None else f"at byte {damage}"
            raise LossError(
                f"the data folder {folder} has lost acknowledged writes: {path.name}, RocksDB's list of its files, is "
                f"damaged ({where}); restore a backup"
            )


def find_loss(folder: Path, evidence: Evidence, peek: Callable[[], Recovered | None]) -> LossError | None:
    """What a store has lost, as the error to raise; None if it holds all that was acknowledged.

    `peek` tells what the replay finds, without changing the folder; None if it cannot.
    """
    note, end = evidence
    if end.hole is None and (note is None or not end.place or end.position >= note.position):
        # A log without entries is told apart when the store is open: opening it cannot make the loss greater.
        return None
    found = peek()
    if end.hole is None and note is not None and found is not None and found.position >= note.position:
        # All was moved from the log to files.
        return None
    return loss_error(folder, note, found, end.hole)


def check_stored_time(folder: Path, counters: layout.Counters, now_ms: int, *, is_accepted: bool) -> None:
    """Warns if the newest time in a store is ahead of the clock.

    Raises ClockError if it is too far ahead, unless that is accepted.
    """
    ahead_ms = counters.newest_ms - now_ms
    if ahead_ms <= WARNED_AHEAD_MS:
        return
    told = f"the newest time in the data folder {folder}, {iso_label(counters.newest_ms)}Z, is {ahead_ms // 1000} s"
    if ahead_ms > AHEAD_MS_MAX and not is_accepted:
        raise ClockError(
            f"{told} ahead of this machine's clock, limit {AHEAD_MS_MAX // _MILLIS_PER_SECOND} s: set the clock, or "
            "start with --accept-clock (what follows, and the way back: docs/operations.md, A clock that was ahead)"
        )
    _log.warning("%s ahead of this machine's clock", told)


def loss_error(
    folder: Path, note: layout.Note | None, found: Recovered | None, hole: Hole | None = None, cause: str = ""
) -> LossError:
    """The error that says what is missing, and what can be done."""
    parts = [f"the data folder {folder} has lost acknowledged writes"]
    if hole is not None:
        parts.append(
            f"its log is damaged in {hole.file} at byte {hole.offset}, and {hole.entries_after} entries that were "
            "written later lie behind that place"
        )
    if cause:
        parts.append(f"RocksDB says: {cause}")
    if note is not None:
        parts.append(_durable(note))
    if found is not None:
        last = found.counters.sequence_number
        parts.append(f"what can be read ends at sequence number {format_sequence_number(last)}")
        if note is not None and last < note.counters.sequence_number:
            parts.append(
                f"missing are at least {note.counters.sequence_number - last}, from {format_sequence_number(last + 1)} "
                f"to {format_sequence_number(note.counters.sequence_number)}"
            )
        elif note is not None and found.position < note.position:
            parts.append(f"missing are at least {note.position - found.position} changed keys")
    parts.append(
        "restore a backup, or start once with --accept-loss, which goes on with what can be read and gives every "
        "stream a new ARN"
    )
    return LossError("; ".join(parts))


def _durable(note: layout.Note) -> str:
    number = format_sequence_number(note.counters.sequence_number)
    return f"sequence number {number} was durable at {iso_label(note.time_ms)}Z"
