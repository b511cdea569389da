"""Projections and key conditions."""

from __future__ import annotations

import pytest

from broker.expressions.key_condition import AttributeCondition, KeyCondition, match_keys, parse_key_conditions
from broker.expressions.placeholders import Placeholders
from broker.expressions.projection import parse_projection
from broker.model.errors import ValidationError
from broker.model.values import Attributes, Value

NAMES = {"#n": "name", "#d": "a.b"}
VALUES: dict[str, Value] = {":k": ("S", "k"), ":a": ("N", "1"), ":b": ("N", "2")}
ITEM: Attributes = {
    "id": ("S", "k"),
    "a.b": ("S", "dotted"),
    "l": ("L", [("N", "0"), ("M", {"x": ("N", "1"), "y": ("N", "2")}), ("N", "2")]),
    "m": ("M", {"x": ("N", "1"), "deep": ("M", {"y": ("S", "z")}), "bare": ("M", {})}),
}


@pytest.mark.parametrize(
    ("text", "taken"),
    [
        ("id", {"id": ("S", "k")}),
        ("id, gone", {"id": ("S", "k")}),
        ("gone", {}),
        ("#d", {"a.b": ("S", "dotted")}),
        ("m.x", {"m": ("M", {"x": ("N", "1")})}),
        ("m.deep.y,m.x", {"m": ("M", {"x": ("N", "1"), "deep": ("M", {"y": ("S", "z")})})}),
        ("m.bare", {"m": ("M", {"bare": ("M", {})})}),
        ("m.gone", {}),
        ("m.x.y", {}),
        ("l[2], l[0]", {"l": ("L", [("N", "0"), ("N", "2")])}),
        ("l[1].y, l[9]", {"l": ("L", [("M", {"y": ("N", "2")})])}),
        ("l.x", {}),
        ("l[4294967294]", {}),
        (f"m{'.x' * 31}", {}),
    ],
)
def test_a_projection_takes_the_parts_that_are_there_in_their_hierarchy(text: str, taken: Attributes) -> None:
    placeholders = Placeholders(NAMES, {})
    assert parse_projection(text, placeholders).apply(ITEM) == taken


def test_a_projection_knows_the_attributes_it_takes_of() -> None:
    assert parse_projection("m.x, l[0], #n", Placeholders(NAMES, {})).names == {"m", "l", "name"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "The expression can not be empty;"),
        ("id,", 'Syntax error; token: "<EOF>"'),
        ("id m", 'Syntax error; token: "m"'),
        (":v", 'Syntax error; token: ":v"'),
        ("name", "reserved keyword: name"),
        ("#x", "attribute name: #x"),
        ("m, m.x", "path one: [m], path two: [m, x]"),
        ("id, id", "overlap with each other"),
        (f"id, m{'.x' * 32}", "The document path has too many nesting elements; nesting levels: 33"),
        ("l[4294967295]", "List index is not within the allowable range; index: [4294967295]"),
        ("m.x, m[1]", "conflict with each other"),
    ],
)
def test_what_is_wrong_with_a_projection_is_told(text: str, message: str) -> None:
    with pytest.raises(ValidationError) as refused:
        parse_projection(text, Placeholders(NAMES, {}))
    assert refused.value.message.startswith("Invalid ProjectionExpression: ")
    assert message in refused.value.message
    assert refused.value.metadata["field"] == "projection_expression"


def key_condition(
    text: str, partition_keys: tuple[str, ...] = ("id",), sort_keys: tuple[str, ...] = ("sk",)
) -> KeyCondition:
    conditions = parse_key_conditions(text, Placeholders({"#id": "id"} | NAMES, VALUES))
    return match_keys(conditions, partition_keys, sort_keys)


@pytest.mark.parametrize(
    ("text", "operator", "operands"),
    [
        ("id = :k", None, ()),
        (":k = #id", None, ()),
        ("(id = :k)", None, ()),
        ("id = :k AND sk = :a", "=", (":a",)),
        ("sk < :a and id = :k", "<", (":a",)),
        ("(id = :k) AND (:a < sk)", ">", (":a",)),
        ("id = :k AND :a >= sk", "<=", (":a",)),
        ("id = :k AND sk BETWEEN :a AND :b", "BETWEEN", (":a", ":b")),
        ("id = :k AND begins_with(sk, :k)", "begins_with", (":k",)),
    ],
)
def test_a_key_condition_names_a_partition_and_a_range_of_it(
    text: str, operator: str | None, operands: tuple[str, ...]
) -> None:
    sort = () if operator is None else (AttributeCondition(operator, tuple(VALUES[each] for each in operands)),)
    assert key_condition(text) == KeyCondition((("S", "k"),), sort)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sk = :a", "Query condition missed key schema element: id"),
        ("id > :k", "Query key condition not supported"),
        ("id = :k AND else1 = :a", "Query condition missed key schema element: sk"),
        ("id = :k AND sk = :a AND else1 = :a", "Conditions can be of length 1 or 2 only"),
        ("id = :k AND id = :k", "must only contain one condition per key"),
        ("id = :k OR sk = :a", "Invalid operator used in KeyConditionExpression: OR"),
        ("NOT id = :k", "Invalid operator used in KeyConditionExpression: NOT"),
        ("id <> :k", "Invalid operator used in KeyConditionExpression: <>"),
        ("id IN (:k)", "Invalid operator used in KeyConditionExpression: IN"),
        ("id = :k AND attribute_exists(sk)", "Invalid operator used in KeyConditionExpression: attribute_exists"),
        ("id = :k AND contains(sk, :k)", "Invalid operator used in KeyConditionExpression: contains"),
        ("id = :k AND size(sk) = :a", "cannot contain nested operations"),
        ("id.x = :k", "cannot have conditions on nested attributes"),
        (":k = :k", "No key attribute specified"),
        ("id = sk", "Multiple attribute names used in one condition"),
        ("id = :k AND begins_with(:k, sk)", "begins_with operator must have the key attribute as its first operand"),
        ("id = :k AND :a BETWEEN sk AND :b", "BETWEEN operator must have the key attribute as its first operand"),
        ("id = :k AND sk BETWEEN :b AND :a", "upper bound to be greater than or equal to lower bound"),
        ("id = :k AND begins_with(sk, :a)", "operator or function: begins_with, operand type: N"),
        ("id = :k AND", 'Syntax error; token: "<EOF>"'),
        ("id = :x", "attribute value: :x"),
    ],
)
def test_what_is_wrong_with_a_key_condition_is_told(text: str, message: str) -> None:
    with pytest.raises(ValidationError) as refused:
        key_condition(text)
    assert message in refused.value.message
    assert refused.value.metadata["field"] == "key_condition_expression"


def test_without_a_sort_key_nothing_else_may_be_asked() -> None:
    with pytest.raises(ValidationError, match="Query key condition not supported"):
        key_condition("id = :k AND sk = :a", sort_keys=())


# An index of two partition and three sort key attributes. Source: Developer Guide, "Multi-attribute keys pattern".
SEVERAL: dict[str, tuple[str, ...]] = {"partition_keys": ("p", "q"), "sort_keys": ("x", "y", "z")}
BOTH = "p = :k AND q = :k"


@pytest.mark.parametrize(
    ("text", "sort"),
    [
        (BOTH, []),
        ("q = :k AND p = :k", []),
        (f"{BOTH} AND x = :a", [("=", ":a")]),
        (f"{BOTH} AND x < :a", [("<", ":a")]),
        (f"x = :a AND {BOTH} AND y = :b", [("=", ":a"), ("=", ":b")]),
        (f"y >= :b AND {BOTH} AND :a = x", [("=", ":a"), (">=", ":b")]),
        (f"{BOTH} AND x = :a AND y = :b AND z = :k", [("=", ":a"), ("=", ":b"), ("=", ":k")]),
        (f"{BOTH} AND x = :a AND y = :b AND z BETWEEN :a AND :b", [("=", ":a"), ("=", ":b"), ("BETWEEN", ":a", ":b")]),
        (f"{BOTH} AND (x = :a AND (y = :b AND begins_with(z, :k)))", [("=", ":a"), ("=", ":b"), ("begins_with", ":k")]),
    ],
)
def test_of_several_attributes_the_first_are_equal_and_the_last_is_a_range(
    text: str, sort: list[tuple[str, ...]]
) -> None:
    expected = tuple(AttributeCondition(operator, tuple(VALUES[each] for each in of)) for operator, *of in sort)
    assert key_condition(text, **SEVERAL) == KeyCondition((("S", "k"), ("S", "k")), expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("p = :k", "Query condition missed key schema element: q"),
        ("q = :k", "Query condition missed key schema element: p"),
        ("p = :k AND q > :k", "Query key condition not supported"),
        ("p = :k AND begins_with(q, :k)", "Query key condition not supported"),
        ("p = :k AND x = :a", "Query condition missed key schema element: q"),
        (f"{BOTH} AND y = :a", "Query condition missed key schema element: x"),
        (f"{BOTH} AND z = :a", "Query condition missed key schema element: x"),
        (f"{BOTH} AND x = :a AND z = :a", "Query condition missed key schema element: y"),
        (f"{BOTH} AND x > :a AND y = :a", "Query key condition not supported"),
        (f"{BOTH} AND x > :a AND y > :a", "Query key condition not supported"),
        (f"{BOTH} AND begins_with(x, :k) AND y = :a", "Query key condition not supported"),
        (f"{BOTH} AND x BETWEEN :a AND :b AND z = :a", "Query key condition not supported"),
        (f"{BOTH} AND else1 = :a", "Query condition missed key schema element: x"),
        (f"{BOTH} AND x = :a AND x < :b", "KeyConditionExpressions must only contain one condition per key"),
        (f"{BOTH} AND x = :a AND y = :a AND z = :a AND else1 = :a", "Conditions can be of length 1 to 5 only"),
    ],
)
def test_a_condition_that_skips_an_attribute_or_goes_on_after_a_range_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValidationError) as refused:
        key_condition(text, **SEVERAL)
    assert refused.value.message == message
    assert refused.value.metadata["field"] == "key_condition_expression"
