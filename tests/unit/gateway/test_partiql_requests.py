"""PartiQL's trees as requests: how a SELECT reads, and what its expressions are."""

# ruff: noqa: S608 - these statements are not SQL.

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from broker.gateway.aws.partiql.requests import PARTITIONS_MAX, Keys, Reading, select_reading
from broker.gateway.aws.partiql.statements import Select, parse_statement
from broker.model.errors import ValidationError

ORDERS = Keys(("OrderID",), ())
LINES = Keys(("OrderID",), ("Line",))
# An index with several attributes in both parts of its key.
SEVERAL = Keys(("p", "q"), ("x", "y", "z"))


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


@pytest.mark.parametrize(
    ("where", "operation", "requests"),
    [
        ("p = 1 AND q = 2", "Query", 1),
        ("q = 2 AND Total > 1 AND p = 1", "Query", 1),
        ("p IN [1, 2] AND q IN [3, 4, 5]", "Query", 6),
        ("p IN [1, 2, 1] AND (q = 3 OR q = 4)", "Query", 4),
        ("p = 1", "Scan", 1),
        ("q = 1 AND x = 1", "Scan", 1),
        ("p = 1 AND q > 2", "Scan", 1),
        ("p = 1 OR q = 2", "Scan", 1),
    ],
)
def test_a_select_is_a_query_if_it_has_values_for_every_partition_key_attribute(
    where: str, operation: str, requests: int
) -> None:
    found = reading(where, SEVERAL)
    assert (found.operation, len(found.requests)) == (operation, requests)


def test_a_scan_filters_by_all_conditions_also_those_on_a_part_of_the_partition_key() -> None:
    (request,) = reading("p = 1 AND Total > 1", SEVERAL).requests
    assert request["FilterExpression"] == "#0 = :0 AND #1 > :1"
    assert "KeyConditionExpression" not in request


@pytest.mark.parametrize(
    ("conditions", "on_sort_key", "rest"),
    [
        ("x = 1", ["x ="], []),
        ("x > 1", ["x >"], []),
        ("y = 2 AND x = 1", ["x =", "y ="], []),
        ("y >= 2 AND x = 1 AND z = 3", ["x =", "y >="], ["z ="]),
        ("x = 1 AND y = 2 AND z = 3 AND w = 4", ["x =", "y =", "z ="], ["w ="]),
        ("x > 1 AND y = 2", ["x >"], ["y ="]),
        ("y = 2", [], ["y ="]),
        ("x = 1 AND z = 3", ["x ="], ["z ="]),
    ],
)
def test_conditions_on_the_first_sort_key_attributes_are_part_of_the_query(
    conditions: str, on_sort_key: list[str], rest: list[str]
) -> None:
    (request,) = reading(f"{conditions} AND p = 1 AND q = 2", SEVERAL).requests

    def named(expression: str) -> list[str]:
        for place, name in request["ExpressionAttributeNames"].items():
            expression = expression.replace(place, name)
        return [part.rsplit(" ", 1)[0] for part in expression.split(" AND ") if part]

    assert named(request["KeyConditionExpression"]) == ["p =", "q =", *on_sort_key]
    assert named(request.get("FilterExpression", "")) == rest


# Values of p and q in the order in which they are read, and whether sort keys are read forward.
@pytest.mark.parametrize(
    ("where", "partitions", "is_forward"),
    [
        ("p IN [2, 1] AND q = 5", ["25", "15"], True),
        ("p IN [2, 1] AND q = 5 ORDER BY p", ["15", "25"], True),
        ("p IN [2, 1] AND q = 5 ORDER BY q, p DESC, x DESC, y DESC", ["25", "15"], False),
        ("p IN [1, 2] AND q IN [3, 4] ORDER BY p DESC, q", ["23", "24", "13", "14"], True),
        ("p IN [1, 2] AND q IN [3, 4] ORDER BY q DESC", ["14", "24", "13", "23"], True),
        ("p = 1 AND q = 2 ORDER BY x DESC, y DESC, z DESC", ["12"], False),
        ("p = 1 AND q = 2 ORDER BY x, y", ["12"], True),
        ("p = 1 AND q = 2 AND x = 3 ORDER BY y DESC", ["12"], False),
        ("p = 1 AND q = 2 AND x = 3 ORDER BY p, x, y DESC, x", ["12"], False),
    ],
)
def test_the_order_may_name_the_attributes_as_the_key_has_them(
    where: str, partitions: list[str], *, is_forward: bool
) -> None:
    requests = reading(where, SEVERAL).requests
    values = [request["ExpressionAttributeValues"] for request in requests]
    assert [each[":0"]["N"] + each[":1"]["N"] for each in values] == partitions
    assert {request["ScanIndexForward"] for request in requests} == {is_forward}


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("p = 1 AND q = 2 ORDER BY y", "in the order of the key"),
        ("p = 1 AND q = 2 ORDER BY x, z", "in the order of the key"),
        ("p = 1 AND q = 2 AND x > 3 ORDER BY y", "in the order of the key"),
        ("p = 1 AND q = 2 ORDER BY x, y DESC", "one direction for all sort key attributes"),
        ("p IN [1, 2] AND q = 2 ORDER BY x", "must begin with the partition key"),
        ("p IN [1, 2] AND q IN [3, 4] ORDER BY p, x", "must begin with the partition key"),
        ("p = 1 AND q = 2 ORDER BY w", "must be part of the primary key"),
    ],
)
def test_an_order_that_the_index_does_not_have_is_refused(where: str, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        reading(where, SEVERAL)


def test_all_combinations_of_partition_key_values_count() -> None:
    assert len(reading("p IN [1, 2] AND q IN [" + ",".join(map(str, range(25))) + "]", SEVERAL).requests) == 50
    with pytest.raises(ValidationError, match="at most 50 values of the partition key, found 52"):
        reading("p IN [1, 2] AND q IN [" + ",".join(map(str, range(26))) + "]", SEVERAL)


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
