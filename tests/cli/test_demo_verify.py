"""The demo's final checks must be able to fail: each kind of difference is found and named."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest

from headrace import Version
from headrace.demo.verify import CarrierTotals, ExpectedFlights, compare_items, compare_totals


def flight(code: str, delay: int | None = None, carrier: str = "UA") -> dict[str, Any]:
    item = {"flight_code": code, "time_hour": "2013-01-01T10:00:00Z", "carrier": carrier}
    return item if delay is None else {**item, "arr_delay": delay}


async def snapshot(
    flights: Iterable[dict[str, Any]], *, time: int = 1
) -> AsyncIterator[tuple[dict[str, Any], Version]]:
    for item in flights:
        yield item, Version(time, "us-east-1")


def expected_of(*flights: dict[str, Any]) -> ExpectedFlights:
    expected = ExpectedFlights()
    for item in flights:
        expected.add(item)
    return expected


async def test_what_was_written_in_any_order_is_what_was_expected() -> None:
    expected = expected_of(flight("a", 1), flight("b"), flight("c"))
    expected.remove(flight("b"))

    assert await expected.difference(snapshot([flight("c"), flight("a", 1)])) is None
    assert len(expected) == 2


@pytest.mark.parametrize(
    ("held", "words"),
    [
        ([flight("a", 1)], ["1 items are missing", "'b'"]),
        ([flight("a", 1), flight("b", 9)], ["should not be there", "'b'"]),
        ([flight("a", 1), flight("b", 2), flight("c")], ["should not be there", "'c'"]),
        ([flight("a", 1), flight("b", 2), flight("b", 2)], ["should not be there", "'b'"]),
    ],
)
async def test_a_missing_changed_surplus_or_doubled_item_is_named(held: list[dict[str, Any]], words: list[str]) -> None:
    difference = await expected_of(flight("a", 1), flight("b", 2)).difference(snapshot(held))

    assert difference is not None
    assert all(word in difference for word in words), difference


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ([flight("a")], [flight("b")]),
        ([flight("a", 1)], [flight("a", 2)]),
        ([flight("a"), flight("b")], [flight("a")]),
        ([flight("a")], [flight("a"), flight("b")]),
        ([], [flight("a")]),
    ],
)
async def test_regions_that_differ_in_an_item_are_not_equal(
    one: list[dict[str, Any]], two: list[dict[str, Any]]
) -> None:
    assert await compare_items(snapshot(one), snapshot(two)) is not None


async def test_regions_that_differ_in_a_version_are_not_equal() -> None:
    assert await compare_items(snapshot([flight("a")], time=1), snapshot([flight("a")], time=2)) is not None


async def test_equal_regions_are_equal() -> None:
    flights = [flight("a", 1), flight("b")]

    assert await compare_items(snapshot(flights), snapshot(flights)) is None
    assert await compare_items(snapshot([]), snapshot([])) is None


@pytest.mark.parametrize(
    "kept",
    [
        [],
        [{"carrier": "UA", "flights": 1, "arrival_delay_minutes": 3}],
        [{"carrier": "UA", "flights": 2, "arrival_delay_minutes": 4}],
        [
            {"carrier": "UA", "flights": 2, "arrival_delay_minutes": 3},
            {"carrier": "AA", "flights": 0, "arrival_delay_minutes": 0},
        ],
    ],
)
def test_wrong_missing_or_surplus_totals_are_named(kept: list[dict[str, Any]]) -> None:
    expected = {"UA": CarrierTotals(flights=2, arrival_delay_minutes=3)}

    difference = compare_totals(kept, expected)

    assert difference is not None
    assert "UA" in difference or "AA" in difference


def test_totals_come_from_the_flights_as_they_are_at_the_end() -> None:
    expected = expected_of(flight("a", 5), flight("b", carrier="AA"), flight("c", -2))
    expected.remove(flight("a", 5))
    expected.add(flight("a", 20))

    assert expected.totals == {
        "UA": CarrierTotals(flights=2, arrival_delay_minutes=18),
        "AA": CarrierTotals(flights=1, arrival_delay_minutes=0),
    }
