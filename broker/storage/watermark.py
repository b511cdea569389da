"""Watermarks: up to which sequence number each shard's log may be read. They only rise; readers wait for them."""

from __future__ import annotations

import asyncio


class Watermark:
    """The last durable sequence number of one shard, and who waits for more."""

    __slots__ = ("_changed", "value")

    def __init__(self, value: int) -> None:
        self.value = value
        self._changed: asyncio.Event | None = None

    def advance(self, value: int) -> None:
        """Raises the mark and wakes all who wait."""
        self.value = max(self.value, value)
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    async def past(self, value: int, timeout_seconds: float) -> bool:
        """Waits until the mark is above a value; False if that did not come in time."""
        if self.value > value:
            return True
        # One event serves all waiters until it fires, so a wake-up costs nothing per reader that is not there.
        if self._changed is None:
            self._changed = asyncio.Event()
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._changed.wait()
        except TimeoutError:
            return False
        return True


class Watermarks:
    """The watermark of every shard."""

    def __init__(self) -> None:
        self._marks: dict[int, Watermark] = {}

    def of(self, shard: int) -> Watermark:
        """A shard's watermark; zero for a shard without records."""
        mark = self._marks.get(shard)
        if mark is None:
            mark = self._marks[shard] = Watermark(0)
        return mark
