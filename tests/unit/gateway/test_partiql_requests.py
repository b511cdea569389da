"""PartiQL's trees as requests: how a SELECT reads, and what its expressions are."""

# ruff: noqa: S608 - these statements are not SQL.

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from broker.gateway.aws.partiql.requests import PARTITIONS_MAX, Keys, Reading, select_reading
from broker.gateway.aws.partiql.statements import Select, parse_statement
from broker.model.errors import ValidationError

ORDERS = Keys("OrderID", None)
LINES = Keys("OrderID", "Line")


def reading(where: str, keys: Keys = ORDERS, parameters: Sequence[dict[str, Any]] = ()) -> Reading:
    select, _ = parse_statement(f'SELECT * FROM "Orders" WHERE {where}')
    assert isinstance(select, Select)
    return select_reading(select, keys, list(parameters))


# The examples of the Developer Guide, "PartiQL select statements".
@pytest.mark.parametrize(
    ("where", "operation", "requests"),
    [
        ("OrderID = 100", "Query", 1),
        ("OrderID = 100 and Address='some address'", "Query", 1),
        ("OrderID = 100 or OrderID = 200", "Query", 2),
        ("OrderID IN [100, 300, 234]", "Query", 3),
        ("(OrderID IN [1, 2] OR 2.0 = OrderID) AND Total > 1", "Query", 2),
        ("OrderID > 1", "Scan", 1),
        ("Address='some address'", "Scan", 1),
        ("OrderID = 100 OR Address='some address'", "Scan", 1),
        ("NOT OrderID = 100", "Scan", 1),
        ("OrderID = Total", "Scan", 1),
        ("OrderID IN [1, Total]", "Scan", 1),
    ],
)
def test_a_select_is_a_scan_only_if_it_must_be(where: str, operation: str, requests: int) -> None:
    found = reading(where)
    assert (found.operation, len(found.requests)) == (operation, requests)


@pytest.mark.parametrize(
    ("where", "on_sort_key", "rest"),
    [
        ("OrderID = 1 AND Line = 2", "#0 = :0 AND #1 = :1", None),
        ("OrderID = 1 AND 2 < Line", "#0 = :0 AND #1 > :1", None),
        ("OrderID = 1 AND Line BETWEEN 1 AND 2", "#0 = :0 AND #1 BETWEEN :1 AND :2", None),
        ("OrderID = 1 AND begins_with(Line, 'a')", "#0 = :0 AND begins_with(#1,:1)", None),
        ("OrderID = 1 AND Line > 1 AND Line < 4", "#0 = :0 AND #1 > :1", "#1 < :2"),
        ("OrderID = 1 AND Line <> 2", "#0 = :0", "#1 <> :1"),
        ("OrderID = 1 AND (Line = 2 OR a.b[0] IS NULL)", "#0 = :0", "#1 = :1 OR attribute_type(#2.#3[0],:2)"),
        ("OrderID = 1 AND OrderID = 2", "#0 = :0", "#0 = :1"),
    ],
)
def test_one_condition_on_the_sort_key_is_part_of_the_query(where: str, on_sort_key: str, rest: str | None) -> None:
    (request,) = reading(where, LINES).requests
    assert request["KeyConditionExpression"] == on_sort_key
    assert request.get("FilterExpression") == rest


def test_a_select_has_at_most_50_values_of_the_partition_key() -> None:
    values = ",".join(map(str, range(PARTITIONS_MAX)))
    assert len(reading(f"OrderID IN [{values}]").requests) == PARTITIONS_MAX
    with pytest.raises(ValidationError):
        reading(f"OrderID IN [{values}, 50]")


@pytest.mark.parametrize("number", ["NaN", "sNaN", "Infinity", "1_0", "one", "", "1e200"])
@pytest.mark.parametrize("where", ["OrderID = ?", "OrderID IN [1, ?] ORDER BY OrderID"])
def test_what_is_no_number_is_no_key(where: str, number: str) -> None:
    with pytest.raises(ValidationError):
        reading(where, parameters=[{"N": number}])


def test_values_of_the_partition_key_that_are_one_number_are_read_once() -> None:
    assert len(reading("OrderID IN [1, 1.0, 1e0, 10e-1, 2]").requests) == 2
