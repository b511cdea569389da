"""The durable note: a small file beside RocksDB's that says what was durable when it was written.

RocksDB does not know that the end of its log is gone. The note does: a store that ends before it has lost acknowledged
writes.
"""

from __future__ import annotations

import asyncio
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from broker.model.errors import HeadraceError
from broker.storage import layout

if TYPE_CHECKING:
    from pathlib import Path

    from broker.model.clock import Clock
    from broker.storage.commit import Committer
    from broker.storage.rocks import Store

NOTE_NAME: Final = "durable-note"
_UNFINISHED: Final = ".unfinished"
CURRENT: Final = "CURRENT"
_MANIFEST_PREFIX: Final = "MANIFEST-"

_log: Final = logging.getLogger(__name__)


def read_note(folder: Path) -> layout.Note | None:
    """The note of a store; None if it has none. Raises CorruptionError, OSError."""
    try:
        return layout.decode_note((folder / NOTE_NAME).read_bytes())
    except FileNotFoundError:
        return None


def write_note(folder: Path, note: layout.Note) -> None:
    """Replaces the note, durably: whenever the process ends, the old one or the new one is there. Raises OSError."""
    unfinished = folder / (NOTE_NAME + _UNFINISHED)
    with unfinished.open("wb") as file:
        file.write(layout.encode_note(note))
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(folder / NOTE_NAME)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_current(folder: Path) -> tuple[int, Path] | None:
    """The number and the file of RocksDB's newest manifest; None if nothing names one. Raises OSError."""
    try:
        name = (folder / CURRENT).read_text(errors="replace").strip()
    except FileNotFoundError:
        return None
    number = name.removeprefix(_MANIFEST_PREFIX)
    return (int(number), folder / name) if number.isdecimal() and number.isascii() else None


def durable_manifest(folder: Path) -> tuple[int, int]:
    """The number of RocksDB's newest manifest, and how much of it is durable. Raises OSError."""
    current = read_current(folder)
    if current is None:
        raise FileNotFoundError(f"{folder / CURRENT} names no manifest")
    number, path = current
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        # RocksDB may just have appended to it.
        os.fsync(file.fileno())
    return number, size


class NoteKeeper:
    """Renews a store's note from time to time, beside the event loop."""

    def __init__(self, folder: Path, store: Store, committer: Committer, clock: Clock) -> None:
        self._folder = folder
        self._store = store
        self._committer = committer
        self._clock = clock
        # One thread, so that the notes are written in order.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="durable-note")
        # The position and the manifest of the last note.
        self._written: tuple[int, int, int] | None = None

    async def run(self, interval_seconds: float) -> None:
        """Renews the note every so many seconds until it is cancelled."""
        while True:
            with suppress(HeadraceError):
                # If a commit under way fails, the committer ends the node.
                await self.renew()
            await asyncio.sleep(interval_seconds)

    async def renew(self) -> None:
        """Writes what is durable now, if that is more than the note says. Raises UnavailableError."""
        position, counters = self._store.position, self._committer.counters
        await self._committer.all_settled()
        await asyncio.get_running_loop().run_in_executor(self._thread, self._write, position, counters)

    async def close(self) -> None:
        """Writes the last note, when nothing is written to the store any more."""
        with suppress(HeadraceError):
            # After a write that failed nothing is known to be durable beyond the note there is.
            await self.renew()
        self._thread.shutdown()

    def _write(self, position: int, counters: layout.Counters) -> None:
        try:
            # A folder that took the place of this one gets no note of this store: it has no such manifest.
            manifest = durable_manifest(self._folder)
            if (position, *manifest) != self._written:
                write_note(self._folder, layout.Note(position, counters, self._clock.now_ms(), *manifest))
                self._written = (position, *manifest)
        except OSError as error:
            # The old note still holds: it promises less.
            _log.warning("the durable note could not be written error=%s", error)
