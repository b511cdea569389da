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


class Version(NamedTuple):
    """Which write this was; of two writes to one item the greater wins, in every region."""

    hybrid_time: int
    origin_region: str

    @property
    def wall_ms(self) -> int:
        """The part of the hybrid time that is a clock's, in milliseconds since 1970 UTC."""
        return self.hybrid_time >> _COUNTER_BITS


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
