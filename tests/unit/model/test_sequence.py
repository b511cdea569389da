from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.model.errors import ValidationError
from broker.model.sequence import SEQUENCE_NUMBER_MAX, format_sequence_number, parse_sequence_number

NUMBERS = st.integers(0, SEQUENCE_NUMBER_MAX)


@given(NUMBERS)
def test_a_sequence_number_survives_its_text(number: int) -> None:
    text = format_sequence_number(number)
    assert len(text) == 21
    assert parse_sequence_number(text) == number


@given(NUMBERS, NUMBERS)
def test_text_order_is_numeric_order(one: int, other: int) -> None:
    assert (format_sequence_number(one) < format_sequence_number(other)) == (one < other)


@pytest.mark.parametrize("text", ["", "1", "0" * 20, "0" * 41, "0" * 20 + "x", "-" + "0" * 20, " " * 21, "\u0663" * 21])
def test_what_is_not_21_to_40_digits_is_refused(text: str) -> None:
    with pytest.raises(ValidationError) as refused:
        parse_sequence_number(text, "exclusive_start")
    assert refused.value.metadata == {"field": "exclusive_start", "limit": "40"}


def test_forty_digits_are_taken_if_the_number_fits() -> None:
    assert parse_sequence_number(str(SEQUENCE_NUMBER_MAX).zfill(40)) == SEQUENCE_NUMBER_MAX
    with pytest.raises(ValidationError):
        parse_sequence_number(str(SEQUENCE_NUMBER_MAX + 1).zfill(40))
