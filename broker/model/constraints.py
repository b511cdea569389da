"""The words in which AWS says what a value must satisfy; both protocols use them."""

from __future__ import annotations

from collections.abc import Iterable, Sized
from typing import Any, Final

NOT_NULL: Final = "Member must not be null"
# As much of a faulty value as a message repeats.
_SHOWN_LENGTH_MAX: Final = 200


def value_at_least(least: int) -> str:
    """Word the least value of a number."""
    return f"Member must have value greater than or equal to {least}"


def value_at_most(most: int) -> str:
    """Word the greatest value of a number."""
    return f"Member must have value less than or equal to {most}"


def length_at_least(least: int) -> str:
    """Word the least length of a text, a list or a map."""
    return f"Member must have length greater than or equal to {least}"


def length_at_most(most: int) -> str:
    """Word the greatest length of a text, a list or a map."""
    return f"Member must have length less than or equal to {most}"


def matches(pattern: str) -> str:
    """Word the regular expression of a text."""
    return f"Member must satisfy regular expression pattern: {pattern}"


def one_of(values: Iterable[str]) -> str:
    """Word the values of an enumeration."""
    return f"Member must satisfy enum value set: [{', '.join(values)}]"


def shown_value(value: Any) -> str:
    """Write a faulty value as AWS does, but at most 200 characters of it, and not what a list or map holds."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return f"'{str(value).lower()}'"
    if isinstance(value, Sized) and not isinstance(value, str):
        if not value:
            return "'{}'" if isinstance(value, dict) else "'[]'"
        return f"'[{len(value)} elements]'"
    text = str(value)
    return f"'{text[:_SHOWN_LENGTH_MAX]}...'" if len(text) > _SHOWN_LENGTH_MAX else f"'{text}'"
