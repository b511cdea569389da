"""What must be true at the end, computed apart from the broker, and the comparisons with what the regions hold."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from headrace import Version
from headrace.demo.flights import PARTITION_KEY, SORT_KEY

__all__ = ["CarrierTotals", "ExpectedFlights", "compare_items", "compare_totals"]

Flight = Mapping[str, Any]
Versioned = tuple[Flight, Version]


@dataclass(slots=True)
class CarrierTotals:
    """The totals of one carrier."""

    flights: int = 0
    arrival_delay_minutes: int = 0


@dataclass(slots=True)
class ExpectedFlights:
    """What the flights table must hold after the writes it was told of: a fingerprint of each item, and the totals."""

    totals: dict[str, CarrierTotals] = field(default_factory=dict)
    _fingerprints: dict[tuple[str, str], int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._fingerprints)

    def add(self, flight: Flight) -> None:
        """A new flight was put."""
        self._fingerprints[_key(flight)] = _fingerprint(flight)
        self._count(flight, 1)

    def remove(self, flight: Flight) -> None:
        """A flight, as it was last, was deleted."""
        del self._fingerprints[_key(flight)]
        self._count(flight, -1)

    async def difference(self, snapshot: AsyncIterable[Versioned]) -> str | None:
        """The first way in which a table differs from what is expected; None if it is exactly that."""
        missing = dict(self._fingerprints)
        async for flight, _ in snapshot:
            if missing.pop(_key(flight), None) != _fingerprint(flight):
                return f"{_key(flight)} should not be there, or not like this: {flight}"
        return f"{len(missing):,} items are missing, one is {next(iter(missing))}" if missing else None

    def _count(self, flight: Flight, sign: int) -> None:
        totals = self.totals.setdefault(flight["carrier"], CarrierTotals())
        totals.flights += sign
        totals.arrival_delay_minutes += sign * flight.get("arr_delay", 0)


async def compare_items(one: AsyncIterable[Versioned], two: AsyncIterable[Versioned]) -> str | None:
    """The first difference between two snapshots, item by item with their versions; None if they are equal.

    Snapshots come in the order of their stored keys, which is the same in all regions.
    """
    position = 0
    others = aiter(two)
    async for item in one:
        position += 1
        other = await anext(others, None)
        if item != other:
            return f"item {position:,} is {item} in one region and {other} in the other"
    surplus = await anext(others, None)
    return None if surplus is None else f"after {position:,} equal items one region ends and the other has {surplus}"


def compare_totals(kept: Iterable[Mapping[str, Any]], expected: Mapping[str, CarrierTotals]) -> str | None:
    """The first difference between the totals the trigger kept and those computed directly; None if they are equal."""
    kept_by_carrier = {
        item["carrier"]: CarrierTotals(flights=item["flights"], arrival_delay_minutes=item["arrival_delay_minutes"])
        for item in kept
    }
    for carrier in sorted(kept_by_carrier.keys() | expected.keys()):
        if kept_by_carrier.get(carrier) != expected.get(carrier):
            return f"{carrier}: the trigger has {kept_by_carrier.get(carrier)}, directly {expected.get(carrier)}"
    return None


def _key(flight: Flight) -> tuple[str, str]:
    return flight[PARTITION_KEY], flight[SORT_KEY]


def _fingerprint(flight: Flight) -> int:
    return hash(frozenset(flight.items()))
