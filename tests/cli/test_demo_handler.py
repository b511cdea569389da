"""The demo's Lambda handler: delivery is at least once, its effect must be exactly once."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace import dynamodb_json
from headrace.demo.verify import ExpectedFlights, compare_totals


class CrashError(Exception):
    """Raised by the table in place of a write, as if the function was killed there."""


class TotalsTable:
    """The calls that the handler makes, on a dict; every write can be made to fail."""

    def __init__(self) -> None:
        self.items: dict[str, dict[str, Any]] = {}
        self.writes_until_crash: int | None = None

    def get_item(self, _table: str, key: Mapping[str, Any]) -> dict[str, Any] | None:
        found = self.items.get(key["carrier"])
        return None if found is None else dict(found)

    def put_item(self, _table: str, item: Mapping[str, Any]) -> None:
        if self.writes_until_crash is not None:
            if self.writes_until_crash == 0:
                raise CrashError
            self.writes_until_crash -= 1
        self.items[item["carrier"]] = dict(item)


@pytest.fixture(scope="module")
def carrier_totals() -> Iterator[Any]:
    os.environ["TOTALS_TABLE"] = "carrier_totals"
    module = importlib.import_module("headrace.demo.carrier_totals")
    module.client.close()
    yield module
    del os.environ["TOTALS_TABLE"]


def flight(code: str, carrier: str, delay: int | None) -> dict[str, Any]:
    item = {"flight_code": code, "time_hour": "2013-01-01T10:00:00Z", "carrier": carrier}
    return item if delay is None else {**item, "arr_delay": delay}


def record(number: int, old: dict[str, Any] | None, new: dict[str, Any] | None) -> dict[str, Any]:
    change: dict[str, Any] = {"SequenceNumber": f"{number:021d}"}
    if old is not None:
        change["OldImage"] = dynamodb_json.from_item(old)
    if new is not None:
        change["NewImage"] = dynamodb_json.from_item(new)
    return {"dynamodb": change}


writes = st.tuples(
    st.sampled_from("abcd"), st.sampled_from(["UA", "AA", "B6"]), st.none() | st.integers(-60, 600), st.booleans()
)


# Writes become records, records batches of any size; any batch may fail at any of its writes and then comes again, and
# a batch that was done may come again too, because the checkpoint was lost. The totals must be right all the same.
@given(
    st.lists(writes, max_size=40),
    st.lists(st.tuples(st.integers(1, 7), st.none() | st.integers(0, 3), st.booleans()), min_size=1, max_size=60),
)
def test_totals_are_exact_however_batches_fail_and_repeat(
    carrier_totals: Any,
    history: list[tuple[str, str, int | None, bool]],
    deliveries: list[tuple[int, int | None, bool]],
) -> None:
    expected = ExpectedFlights()
    flights: dict[str, dict[str, Any]] = {}
    records = []
    for number, (code, carrier, delay, is_delete) in enumerate(history):
        old, new = flights.pop(code, None), None if is_delete else flight(code, carrier, delay)
        if old is not None:
            expected.remove(old)
        if new is not None:
            flights[code] = new
            expected.add(new)
        if old != new:
            records.append(record(number, old, new))
    table = carrier_totals.client = TotalsTable()

    position = 0
    for size, crash_after, is_checkpoint_lost in [*deliveries, (len(records) + 1, None, False)]:
        batch = records[position : position + size]
        table.writes_until_crash = crash_after
        try:
            carrier_totals.handler({"Records": batch}, None)
        except CrashError:
            continue
        if not is_checkpoint_lost:
            position += len(batch)

    assert position == len(records)
    assert compare_totals(table.items.values(), expected.totals) is None


def test_a_record_moves_a_flight_from_one_carrier_to_another(carrier_totals: Any) -> None:
    table = carrier_totals.client = TotalsTable()

    carrier_totals.handler({"Records": [record(1, None, flight("a", "UA", 10))]}, None)
    carrier_totals.handler({"Records": [record(2, flight("a", "UA", 10), flight("a", "AA", 25))]}, None)

    assert {carrier: (item["flights"], item["arrival_delay_minutes"]) for carrier, item in table.items.items()} == {
        "UA": (0, 0),
        "AA": (1, 25),
    }
