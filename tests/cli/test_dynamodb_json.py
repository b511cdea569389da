"""DynamoDB JSON <-> plain values: nothing may be lost on the way, and errors must name the attribute."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace import dynamodb_json

numbers = st.integers(-(10**37), 10**37) | st.decimals(
    min_value=-(10**20), max_value=10**20, allow_nan=False, allow_infinity=False, places=17
)
scalars = st.none() | st.booleans() | st.text() | numbers | st.binary()
sets = st.sets(st.text(), min_size=1) | st.sets(numbers.map(Decimal), min_size=1) | st.sets(st.binary(), min_size=1)
values = st.recursive(
    scalars | sets,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(min_size=1), values, max_size=6))
def test_an_item_survives_the_round_trip_through_json_text(item: dict[str, Any]) -> None:
    text = json.dumps(dynamodb_json.from_item(item))

    assert dynamodb_json.to_item(json.loads(text)) == item


def test_all_ten_types_are_read() -> None:
    document = {
        "s": {"S": "text"},
        "n": {"N": "-1.50"},
        "b": {"B": "AAE="},
        "bool": {"BOOL": False},
        "null": {"NULL": True},
        "ss": {"SS": ["a", "b"]},
        "ns": {"NS": ["1", "2.5"]},
        "bs": {"BS": ["AA=="]},
        "l": {"L": [{"S": "x"}, {"N": "1"}]},
        "m": {"M": {"inner": {"L": []}}},
    }

    assert dynamodb_json.to_item(document) == {
        "s": "text",
        "n": Decimal("-1.5"),
        "b": b"\x00\x01",
        "bool": False,
        "null": None,
        "ss": {"a", "b"},
        "ns": {Decimal(1), Decimal("2.5")},
        "bs": {b"\x00"},
        "l": ["x", Decimal(1)],
        "m": {"inner": []},
    }


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"a": "text"}, ["attribute a", "exactly one type"]),
        ({"a": {"S": "x", "N": "1"}}, ["attribute a", "exactly one type"]),
        ({"a": {"X": 1}}, ["attribute a", "unknown type 'X'"]),
        ({"a": {"N": 1}}, ["attribute a", "N must be a string"]),
        ({"a": {"N": "one"}}, ["attribute a", "'one'"]),
        ({"a": {"N": "Infinity"}}, ["attribute a", "Infinity"]),
        ({"a": {"B": "***"}}, ["attribute a", "base64"]),
        ({"a": {"NULL": False}}, ["attribute a", "NULL must be true"]),
        ({"a": {"SS": []}}, ["attribute a", "SS must not be empty"]),
        ({"a": {"NS": ["1", "1.0"]}}, ["attribute a", "twice"]),
        ({"a": {"L": [{"S": "x"}, {"BOOL": "yes"}]}}, ["attribute a[1]", "true or false"]),
        ({"a": {"M": {"b": {"S": 5}}}}, ["attribute a.b", "S must be a string"]),
        ([], ["the item", "object"]),
    ],
)
def test_a_wrong_document_is_refused_by_the_path_of_its_attribute(document: object, words: list[str]) -> None:
    with pytest.raises(ValueError) as caught:
        dynamodb_json.to_item(document)

    for word in words:
        assert word in str(caught.value)


def test_nesting_deeper_than_dynamodb_allows_is_refused_and_not_a_stack_overflow() -> None:
    document: dict[str, Any] = {"S": "bottom"}
    for _ in range(5000):
        document = {"L": [document]}

    with pytest.raises(ValueError, match="32 levels"):
        dynamodb_json.to_value(document)


@pytest.mark.parametrize("value", [set(), {1, "a"}, {True}, object(), float("nan"), Decimal("Infinity")])
def test_a_value_without_a_dynamodb_type_is_refused(value: object) -> None:
    with pytest.raises(ValueError):
        dynamodb_json.from_value(value)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (Decimal("1E+3"), "1000"),
        (Decimal("-0"), "0"),
        (Decimal("1.500"), "1.5"),
        (Decimal("1E-10"), "0.0000000001"),
        (Decimal(12345678901234567890123456789012345678), "12345678901234567890123456789012345678"),
        (1e21, "1000000000000000000000"),
        (0.1, "0.1"),
    ],
)
def test_numbers_are_written_with_every_digit_and_no_exponent(number: float | Decimal, text: str) -> None:
    assert dynamodb_json.number_text(number) == text
