"""Time. The only module of the broker that reads the system's clock."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import NamedTuple, Protocol

# 16 bits of counter below 48 bits of milliseconds.
_COUNTER_BITS = 16


class Clock(Protocol):
    """Where the time comes from; tests pass their own."""

    def now_ms(self) -> int:
        """Milliseconds since 1970 UTC."""


class SystemClock:
    """The system's wall clock."""

    def now_ms(self) -> int:
        """Milliseconds since 1970 UTC."""
        return time.time_ns() // 1_000_000


class RisingClock:
    """A clock that never falls, not even below a time that was stored before.

    While the clock beneath it is behind, because it was set back or had been ahead, this one goes on at half its speed
    until the other has caught up. So times still tell what is older, and what is to age does.
    """

    __slots__ = ("_anchor", "_clock", "_last_ms")

    def __init__(self, clock: Clock, last_ms: int) -> None:
        self._clock = clock
        self._last_ms = last_ms
        # Since when the clock is behind: its time then, and the time here.
        self._anchor: tuple[int, int] | None = None

    def now_ms(self) -> int:
        """Milliseconds since 1970 UTC, or more."""
        now_ms = self._clock.now_ms()
        if now_ms >= self._last_ms:
            self._anchor = None
            self._last_ms = now_ms
            return now_ms
        if self._anchor is None or now_ms < self._anchor[0]:
            self._anchor = (now_ms, self._last_ms)
        behind_ms, last_ms = self._anchor
        self._last_ms = max(self._last_ms, last_ms + (now_ms - behind_ms) // 2)
        return self._last_ms


class Version(NamedTuple):
    """Which write this was; of two writes to one item the greater wins, in every region."""

    hybrid_time: int
    origin_region: str

    @property
    def wall_ms(self) -> int:
        """The part of the hybrid time that is a clock's, in milliseconds since 1970 UTC."""
        return wall_ms(self.hybrid_time)


def wall_ms(hybrid_time: int) -> int:
    """The part of a hybrid time that is a clock's, in milliseconds since 1970 UTC."""
    return hybrid_time >> _COUNTER_BITS


class HybridClock:
    """Hands out hybrid times that only rise: above all it has given and above all it has observed.

    Source: Kulkarni et al., "Logical Physical Clocks", OPODIS 2014.
    """

    __slots__ = ("last",)

    def __init__(self, last: int) -> None:
        self.last = last

    def next(self, now_ms: int) -> int:
        """The next hybrid time, at least `now_ms`."""
        self.last = max(now_ms << _COUNTER_BITS, self.last + 1)
        return self.last

    def observe(self, hybrid_time: int) -> None:
        """Notes a time that another region has given, so that later local writes are newer."""
        self.last = max(self.last, hybrid_time)


def iso_label(millis: int) -> str:
    """A time as DynamoDB writes stream labels: ISO 8601, UTC, milliseconds, no zone."""
    return datetime.fromtimestamp(millis / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{millis % 1000:03d}"


def label_ms(label: str) -> int:
    """The time that `iso_label` wrote."""
    return round(datetime.fromisoformat(label + "+00:00").timestamp() * 1000)
