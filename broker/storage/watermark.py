"""Watermarks: up to which sequence number each shard's log may be read. They only rise; readers wait for them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class Watermark:
    """The last durable sequence number of one shard, and who wants to know when it rises."""

    __slots__ = ("readers", "value")

    def __init__(self, value: int) -> None:
        self.value = value
        self.readers: set[Wakeup] = set()

    def advance(self, value: int) -> None:
        """Raises the mark and wakes all readers."""
        self.value = max(self.value, value)
        # Waking a reader that does not wait is setting a flag: one that is slow costs a writer nothing.
        for reader in self.readers:
            if not reader.is_muted:
                reader.notify()


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

    def value(self, shard: int) -> int:
        """Return a shard's watermark as a number. Keeps nothing for a shard that is gone."""
        mark = self._marks.get(shard)
        return 0 if mark is None else mark.value

    def forget(self, shard: int) -> None:
        """Drops the mark of a shard that is gone; who still watches it is woken."""
        mark = self._marks.pop(shard, None)
        if mark is not None:
            mark.advance(mark.value)


class Wakeup:
    """Wakes one reader when any of the shards it watches has more.

    The reader clears it, watches, reads all there is, and then waits: what comes in between is not missed.
    """

    __slots__ = ("_event", "_marks", "_watermarks", "is_muted")

    def __init__(self, watermarks: Watermarks) -> None:
        # While this is set, more to read is no reason to wake: for a reader that could take none of it.
        self.is_muted = False
        self._watermarks = watermarks
        self._event = asyncio.Event()
        self._marks: dict[int, Watermark] = {}

    def watch(self, shards: Iterable[int]) -> None:
        """Watches these shards from now on, and no others."""
        wanted = set(shards)
        for shard in self._marks.keys() - wanted:
            self._marks.pop(shard).readers.discard(self)
        for shard in wanted - self._marks.keys():
            mark = self._marks[shard] = self._watermarks.of(shard)
            mark.readers.add(self)

    def notify(self) -> None:
        """Wakes the reader, also for another reason."""
        self._event.set()

    def clear(self) -> None:
        """Forgets what has happened so far."""
        self._event.clear()

    async def wait(self, timeout_seconds: float) -> bool:
        """Returns when something has happened since `clear`; False if nothing did in time."""
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._event.wait()
        except TimeoutError:
            return False
        return True

    def close(self) -> None:
        """Watches nothing any more."""
        self.watch(())
