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
# What there may be beyond the least there was. A try takes 1 ms, and some 80 ms for each GiB that it gives back.
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
    """Has freed memory given back while the process has much more than it once had."""

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
        """Gives memory back if there is much more than the least there was.

        It may be in use still; so this is tried every time, not only after growth.
        """
        now = self._resident()
        self._least_bytes = min(self._least_bytes, now)
        if now - self._least_bytes >= GROWTH_BYTES:
            await asyncio.to_thread(self._give_back)
            _log.debug("gave freed memory back resident_bytes=%d before=%d", self._resident(), now)
