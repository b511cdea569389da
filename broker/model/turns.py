"""Long work beside short: the event loop serves everybody, so nobody may hold it for long.

Work is measured by the bytes it looks at, which take up to 0.25 s a megabyte here when they are many small values.
1. Short work is done at once. It only counts, so that many requests together do not hold the loop either.
2. What would hold one turn of the loop for more than about 15 ms waits for a later turn.
3. What would do so alone is done apart, in one thread. It takes the interpreter from the loop and gives it back every
   5 ms. Such work must be pure: it may read what the loop changes only by looking up one key.
"""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

# What one turn of the event loop may look at.
TURN_BYTES: Final = 64 * 1024
# What work of many parts may take of one turn, where its parts tell less than the time.
TURN_SECONDS: Final = 0.01
# Less is not worth to be counted.
SHORT_BYTES: Final = 4 * 1024

Result = TypeVar("Result")


class Turns:
    """The turns of an event loop, shared among long pieces of work in the order of their coming."""

    def __init__(self) -> None:
        self._begun_bytes = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._thread = ThreadPoolExecutor(1, "long-work")

    async def take(self, size_bytes: int) -> None:
        """Return when work on so many bytes may be done in this turn of the loop."""
        if self._begun_bytes < TURN_BYTES and not self._waiting:
            self.spend(size_bytes)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # It may turn out longer than it tells, so only a few of those who wait begin at once.
        self._waiting.append((max(size_bytes, TURN_BYTES // 4), turn))
        await turn

    def spend(self, size_bytes: int) -> None:
        """Count work of this turn, for what tells only afterwards how long it was."""
        if not self._begun_bytes:
            asyncio.get_running_loop().call_soon(self._next_turn)
        self._begun_bytes += size_bytes

    async def apart(self, work: Callable[[], Result]) -> Result:
        """Do work in the thread. What it raises is raised."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def close(self) -> None:
        """Wait for the work in the thread, and take no more."""
        self._thread.shutdown()

    def _next_turn(self) -> None:
        self._begun_bytes = 0
        while self._waiting and self._begun_bytes < TURN_BYTES:
            size_bytes, turn = self._waiting.popleft()
            # Its caller may have left.
            if not turn.done():
                turn.set_result(None)
                self.spend(size_bytes)
