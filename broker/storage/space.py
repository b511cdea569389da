"""How much room the disk has left, and what is kept back of it.

A write that finds no room fails the node, and one that starts on a full disk cannot replay its log. So growing is
refused while there is still room for everything else: deletes, trimming, compactions, and the next start.
"""

from __future__ import annotations

import asyncio
import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from broker.model.errors import DiskFullError

if TYPE_CHECKING:
    from collections.abc import Callable

# Of a small file system no more than this part is kept back.
_RESERVED_SHARE: Final = 8
# The log may take so much of what is kept back: a replay writes it once more. The largest files of the store are a
# quarter of that, and a compaction writes about a dozen of them before it gives back those it has read.
_LOG_SHARE: Final = 4
# So much of it is a file, which is given up when others fill the disk: enough to start and for some thousand deletes.
_FILE_SHARE: Final = 8
_FILE_BYTES_MAX: Final = 16 * 1024 * 1024
FILE_NAME: Final = "reserved-space"
CHECK_SECONDS: Final = 10.0

_log: Final = logging.getLogger(__name__)


class Room(NamedTuple):
    """What a file system has, in bytes."""

    free: int
    total: int


class FolderLostError(Exception):
    """The data folder is no longer the one that was opened."""


def room_of(path: Path) -> Room:
    """What the file system of a folder has. Raises OSError."""
    found = os.statvfs(path)
    return Room(found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize)


class Space:
    """The room for a store's folder. `look` costs some microseconds."""

    def __init__(self, folder: Path, reserve_bytes: int, room: Callable[[Path], Room] = room_of) -> None:
        """Keeps `reserve_bytes` back, or an eighth of the file system if that is less. Raises OSError."""
        self._folder = folder
        self._room = room
        now = room(folder)
        self.reserve_bytes = min(reserve_bytes, now.total // _RESERVED_SHARE)
        self.free_bytes = now.free
        self.is_short = False
        # Whether there may be too little room to move a whole log into files, and to compact these.
        self.is_tight = now.free < self._tight_bytes
        self.refused_total = 0
        self._tell: Callable[[bool], None] = lambda _: None

    def tell(self, tell: Callable[[bool], None]) -> None:
        """Has somebody told whenever the disk becomes tight, or no longer is."""
        self._tell = tell

    @property
    def log_bytes_max(self) -> int:
        """How much the log may hold so that a replay has room to write it into files."""
        return self.reserve_bytes // _LOG_SHARE

    @property
    def _tight_bytes(self) -> int:
        return self.reserve_bytes * 3 // 4

    @property
    def _file_bytes(self) -> int:
        return min(self.reserve_bytes // _FILE_SHARE, _FILE_BYTES_MAX)

    def look(self) -> bool:
        """Looks at the file system; returns whether growing is refused."""
        with suppress(OSError):
            # What is wrong with the folder is told by whoever writes to it.
            self.free_bytes = self._room(self._folder).free
        # It ends with a quarter more, so that it does not come and go with each file of the store.
        limit = self.reserve_bytes * 5 // 4 if self.is_short else self.reserve_bytes
        is_short = self.free_bytes < limit
        if is_short is not self.is_short:
            self.is_short = is_short
            _log.log(
                logging.WARNING if is_short else logging.INFO,
                "the disk is %s free_bytes=%d reserve_bytes=%d",
                "nearly full, writes that need room are refused" if is_short else "no longer full",
                self.free_bytes,
                self.reserve_bytes,
            )
        is_tight = self.free_bytes < (self.reserve_bytes if self.is_tight else self._tight_bytes)
        if is_tight is not self.is_tight:
            self.is_tight = is_tight
            self._tell(is_tight)
        return is_short

    def refusal(self) -> DiskFullError:
        """The error of a write that needs room."""
        self.refused_total += 1
        return DiskFullError(
            f"The disk of the node is nearly full: {self.free_bytes} bytes are free. Writes that need room are refused "
            f"below {self.reserve_bytes}; reads and deletes go on",
            free_bytes=self.free_bytes,
            limit=self.reserve_bytes,
        )

    def keep_file(self) -> None:
        """Makes the reserved file if there is ample room, or gives it up if there is hardly any. Blocks on the disk."""
        path = self._folder / FILE_NAME
        if self.free_bytes < self._file_bytes:
            if path.exists():
                _log.warning("the disk is full; the reserved space is given up bytes=%d", self._file_bytes)
                path.unlink(missing_ok=True)
        elif self.free_bytes > self.reserve_bytes + 2 * self._file_bytes and not path.exists():
            try:
                with path.open("wb") as file:
                    os.posix_fallocate(file.fileno(), 0, max(1, self._file_bytes))
            except OSError as error:
                _log.warning("no space could be reserved error=%s", error)
                path.unlink(missing_ok=True)


class FolderWatch:
    """Notices that the data folder is removed or replaced, and keeps its reserved file."""

    def __init__(self, folder: Path, space: Space) -> None:
        """Remembers the folder, in which a store is open. Raises OSError."""
        self._folder = folder
        self._space = space
        self._opened = _identity(folder)

    async def run(self, interval_seconds: float = CHECK_SECONDS) -> None:
        """Looks every so many seconds until it is cancelled. Raises FolderLostError."""
        while True:
            self.check()
            self._space.look()
            await asyncio.to_thread(self._space.keep_file)
            await asyncio.sleep(interval_seconds)

    def check(self) -> None:
        """Raises FolderLostError if the folder is not the one that was opened."""
        try:
            found = _identity(self._folder)
        except OSError as error:
            raise FolderLostError(
                f"the data folder {self._folder} was removed while the node had it open: {error.strerror}"
            ) from error
        if found != self._opened:
            raise FolderLostError(f"the data folder {self._folder} was replaced while the node had it open")


def _identity(folder: Path) -> tuple[int, ...]:
    """Which folder this is, and which of RocksDB's locks is in it."""
    statuses = (folder.stat(), (folder / "LOCK").stat())
    return tuple(number for status in statuses for number in (status.st_dev, status.st_ino))
