"""Memory that the broker has freed, given back to the system.

The C library keeps what it was given: after 100 refused requests of 16 MB at once about a gigabyte stayed with the
process, though nothing used it.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

CHECK_SECONDS: Final = 5.0
# So much more than after the last time is worth a try, which takes some 80 ms for each GiB that it gives back.
GROWTH_BYTES: Final = 256 * 1024 * 1024

_STATM: Final = Path("/proc/self/statm")

_log: Final = logging.getLogger(__name__)


def resident_bytes() -> int:
    """How much memory the process has; 0 where the system does not tell."""
    try:
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def trim() -> None:
    """Give back what the C library keeps, if it knows how to. Does not hold the interpreter."""
    library = ctypes.CDLL(None)
    if hasattr(library, "malloc_trim"):
        library.malloc_trim(0)


class FreedMemory:
    """Has freed memory given back whenever the process has grown."""

    def __init__(self, resident: Callable[[], int] = resident_bytes, give_back: Callable[[], None] = trim) -> None:
        self._resident = resident
        self._give_back = give_back
        self._least_bytes = resident()

    async def run(self, interval_seconds: float = CHECK_SECONDS) -> None:
        """Looks every so many seconds until it is cancelled."""
        while True:
            await asyncio.sleep(interval_seconds)
            await self.look()

    async def look(self) -> None:
        """Gives memory back if there is much more than after the last time."""
        before = self._resident()
        if before - self._least_bytes < GROWTH_BYTES:
            self._least_bytes = min(self._least_bytes, before)
            return
        await asyncio.to_thread(self._give_back)
        self._least_bytes = self._resident()
        _log.debug("gave freed memory back bytes=%d resident_bytes=%d", before - self._least_bytes, self._least_bytes)
