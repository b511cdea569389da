"""Plain values to protobuf and back."""

from __future__ import annotations

from collections import OrderedDict
from decimal import Decimal
from enum import IntEnum, StrEnum
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace._values import from_item, to_item
from headrace.errors import ValidationError
from headrace.v1 import attribute_value_pb2 as pb

numbers = st.integers() | st.decimals(allow_nan=False, allow_infinity=False)
text = st.text(st.characters(exclude_categories=["Cs"]))
scalars = st.none() | st.booleans() | text | st.binary() | numbers
sets = st.sets(text, min_size=1) | st.sets(st.binary(), min_size=1) | st.sets(numbers, min_size=1)
values = st.recursive(scalars | sets, lambda inner: st.lists(inner) | st.dictionaries(text, inner), max_leaves=8)


class Level(IntEnum):
    HIGH = 3


class Color(StrEnum):
    RED = "red"


@given(st.dictionaries(text, values))
def test_every_value_comes_back_equal(item: dict[str, Any]) -> None:
    assert from_item(pb.Item.FromString(to_item(item).SerializeToString())) == item


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_comes_back_as_the_shortest_decimal_that_reads_as_it(number: float) -> None:
    back = from_item(to_item({"n": number}))["n"]
    assert isinstance(back, int | Decimal)
    assert float(back) == number
    assert back == Decimal(repr(number))


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        ("", pb.AttributeValue(s="")),
        (0, pb.AttributeValue(n="0")),
        (-5, pb.AttributeValue(n="-5")),
        (Decimal("1.50"), pb.AttributeValue(n="1.50")),
        (2.5, pb.AttributeValue(n="2.5")),
        (b"", pb.AttributeValue(b=b"")),
        (bytearray(b"a"), pb.AttributeValue(b=b"a")),
        (memoryview(b"a"), pb.AttributeValue(b=b"a")),
        (True, pb.AttributeValue(bool=True)),
        (False, pb.AttributeValue(bool=False)),
        (None, pb.AttributeValue(null=True)),
        ({"a"}, pb.AttributeValue(ss=pb.StringSet(values=["a"]))),
        (frozenset({1}), pb.AttributeValue(ns=pb.NumberSet(values=["1"]))),
        ({b"a"}, pb.AttributeValue(bs=pb.BinarySet(values=[b"a"]))),
        ([], pb.AttributeValue(l=pb.List())),
        ((1,), pb.AttributeValue(l=pb.List(values=[pb.AttributeValue(n="1")]))),
        ({}, pb.AttributeValue(m=pb.Item())),
        (MappingProxyType({"a": 1}), pb.AttributeValue(m=pb.Item(attributes={"a": pb.AttributeValue(n="1")}))),
        (OrderedDict(a=1), pb.AttributeValue(m=pb.Item(attributes={"a": pb.AttributeValue(n="1")}))),
        (Level.HIGH, pb.AttributeValue(n="3")),
        (Color.RED, pb.AttributeValue(s="red")),
    ],
)
def test_each_python_type_has_its_attribute_type(value: object, encoded: pb.AttributeValue) -> None:
    assert to_item({"x": value}).attributes["x"] == encoded


# What comes back must be usable as what went in: a count is an int, not Decimal("3").
@pytest.mark.parametrize(
    ("number", "kind"), [("3", int), ("-12345678901234567890123456789012345678", int), ("2.5", Decimal)]
)
def test_whole_numbers_come_back_as_int_and_others_as_decimal(number: str, kind: type) -> None:
    item = pb.Item(attributes={"n": pb.AttributeValue(n=number)})
    back = from_item(item)["n"]
    assert type(back) is kind
    assert str(back) == number


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (object(), "a value of type object cannot be an attribute"),
        (set(), "a set needs at least one element"),
        ({"a", 1}, "a set holds only"),
        ({True}, "a set holds only"),
        ({(1, 2)}, "a set holds only"),
        (float("nan"), "cannot be stored|not a number"),
        (float("-inf"), "not a number"),
        (Decimal("NaN"), "not a number"),
        (Decimal("sNaN"), "not a number"),
        ({1: "a"}, "attribute names are str, not int"),
    ],
)
def test_what_has_no_attribute_type_is_refused_by_name(value: object, problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        to_item({"x": value})


# Python refuses to write out such a number at all.
def test_a_number_of_thousands_of_digits_is_refused() -> None:
    with pytest.raises(ValidationError, match="at most 38 significant digits"):
        to_item({"x": 10**5000})


def test_a_refused_value_deep_inside_is_named_by_its_path() -> None:
    with pytest.raises(ValidationError) as refused:
        to_item({"flight": {"legs": [{"gate": "A1"}, {"gate": object()}]}})
    assert refused.value.metadata == {"field": "flight.legs[1].gate"}
    assert str(refused.value).startswith("flight.legs[1].gate: ")


def test_a_value_of_an_unknown_type_is_not_taken_for_something_else() -> None:
    with pytest.raises(ValidationError, match="does not know"):
        from_item(pb.Item(attributes={"x": pb.AttributeValue()}))
