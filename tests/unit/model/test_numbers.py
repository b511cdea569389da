"""Numbers: what is taken, the one text of each value, and the bytes it counts. Decimal is the oracle."""

from __future__ import annotations

import re
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.model.errors import ValidationError
from broker.model.numbers import normalize, size_bytes
from tests import values
from tests.unit.strategies import NUMBERS, spellings

NORMAL_FORM = re.compile(r"0|-?(?:[1-9][0-9]*|0(?=\.))(?:\.[0-9]*[1-9])?")


@given(st.data())
def test_a_number_keeps_its_value_however_it_is_spelled(data: st.DataObject) -> None:
    number = data.draw(NUMBERS)
    assert Decimal(normalize(data.draw(spellings(number)))) == number


@given(st.data())
def test_every_spelling_has_the_same_normal_form(data: st.DataObject) -> None:
    number = data.draw(NUMBERS)
    first, second = normalize(data.draw(spellings(number))), normalize(data.draw(spellings(number)))
    assert first == second
    assert normalize(first) == first
    assert NORMAL_FORM.fullmatch(first)


@given(NUMBERS, NUMBERS)
def test_different_values_have_different_texts(one: Decimal, other: Decimal) -> None:
    assert (normalize(str(one)) == normalize(str(other))) == (one == other)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("0", "0"),
        ("-0", "0"),
        ("-0.0e-200", "0"),
        ("0e999", "0"),
        ("000", "0"),
        ("007", "7"),
        ("+7", "7"),
        (".5", "0.5"),
        ("-.5", "-0.5"),
        ("5.", "5"),
        ("1.50", "1.5"),
        ("1e3", "1000"),
        ("1E+3", "1000"),
        ("12.5e-1", "1.25"),
        ("1e-3", "0.001"),
        ("1e125", "1" + "0" * 125),
        ("-1e-130", "-0." + "0" * 129 + "1"),
        # Zeros at the ends are not significant.
        ("1" + "0" * 60, "1" + "0" * 60),
        ("1." + "0" * 60, "1"),
        ("0." + "0" * 60 + "1", "0." + "0" * 60 + "1"),
    ],
)
def test_the_normal_form_is_plain_decimal_without_needless_signs_and_zeros(text: str, normal: str) -> None:
    assert normalize(text) == normal


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "1 ",
        " 1",
        "1\n",
        "1\x00",
        "1,5",
        "1_000",
        "1-1",
        "1.2.3",
        "0x1",
        "1f",
        "NaN",
        "nan",
        "Infinity",
        "-inf",
    ],
)
@pytest.mark.parametrize("sign", ["", "-"])
def test_what_is_not_a_plain_number_is_refused(sign: str, text: str) -> None:
    with pytest.raises(ValidationError, match="cannot be converted to a numeric value"):
        normalize(sign + text)


@pytest.mark.parametrize(
    "text",
    ["+", ".", "-.", "e5", ".e5", "1e", "1e+", "1e1.5", "--1", "+-1", "\uff11", "\u0663", "\u22121"],
)
def test_what_only_resembles_a_number_is_refused(text: str) -> None:
    with pytest.raises(ValidationError, match="cannot be converted to a numeric value"):
        normalize(text)


@pytest.mark.parametrize("sign", ["", "-"])
@pytest.mark.parametrize("text", ["9" * 38, "9." + "9" * 37 + "E125", "1e-130", "9." + "9" * 37 + "e-130", "1e125"])
def test_the_largest_and_smallest_magnitudes_are_taken(sign: str, text: str) -> None:
    assert Decimal(normalize(sign + text)) == Decimal(sign + text)


@pytest.mark.parametrize("sign", ["", "-"])
@pytest.mark.parametrize(
    ("text", "words", "limit"),
    [
        ("1" * 39, "more than 38 significant digits", "38"),
        ("1." + "0" * 37 + "1", "more than 38 significant digits", "38"),
        ("1e126", "overflow", "9.99E+125"),
        ("10e125", "overflow", "9.99E+125"),
        ("1" + "0" * 126, "overflow", "9.99E+125"),
        ("1e999999999", "overflow", "9.99E+125"),
        ("1e-131", "underflow", "1E-130"),
        ("0.1e-130", "underflow", "1E-130"),
        ("1e-999999999", "underflow", "1E-130"),
    ],
)
def test_beyond_the_limits_the_limit_is_named(sign: str, text: str, words: str, limit: str) -> None:
    with pytest.raises(ValidationError, match=words) as refused:
        normalize(sign + text)
    assert refused.value.metadata == {"field": "N", "limit": limit}


def test_an_absurd_exponent_is_refused_without_computing_it() -> None:
    with pytest.raises(ValidationError):
        normalize("1e" + "9" * 1_000_000)


def test_the_error_does_not_repeat_a_long_text() -> None:
    with pytest.raises(ValidationError) as refused:
        normalize("x" * 100_000)
    assert len(refused.value.message) < 200


@given(NUMBERS)
def test_a_number_counts_as_the_closed_form_says(number: Decimal) -> None:
    assert size_bytes(normalize(str(number))) == values.size_bytes({"": ("N", number)})


# dynalite 4.0.0, whose closed form was compared with the service.
@pytest.mark.parametrize(
    ("normal", "size"),
    [("0", 1), ("1", 2), ("-1", 3), ("12", 2), ("1.2", 3), ("101", 3), ("1000", 2), ("0.12", 2), ("9" * 38, 20)],
)
def test_a_number_counts_about_half_a_byte_per_digit(normal: str, size: int) -> None:
    assert size_bytes(normal) == size
