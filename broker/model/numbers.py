"""DynamoDB's numbers as decimal text: what is accepted, and the one normal form of each value.

Source: Developer Guide, "Supported data types", Number; texts of errors as the service gives them.
"""

from __future__ import annotations

import re
from typing import Final

from broker.model.errors import ValidationError

SIGNIFICANT_DIGITS_MAX: Final = 38
EXPONENT_MAX: Final = 125
EXPONENT_MIN: Final = -130

_SYNTAX: Final = re.compile(r"([+-]?)(\d*)(?:\.(\d*))?(?:[eE]([+-]?\d+))?", re.ASCII)
# Longer exponents are out of range whatever the digits say, and slow to convert.
_EXPONENT_DIGITS_MAX: Final = 10


def _is_plain_integer(text: str) -> bool:
    """Whether it is a positive integer in normal form: what most numbers are, so worth a shortcut."""
    return text.isdecimal() and text.isascii() and len(text) <= SIGNIFICANT_DIGITS_MAX and text[0] != "0"


def normalize(text: str) -> str:
    """The normal form of a number: plain decimal, no exponent, no sign on zero, no needless zeros.

    Raises ValidationError for bad syntax, more than 38 significant digits, or a magnitude outside
    1E-130 to 9.99...E+125.
    """
    if _is_plain_integer(text):
        return text
    negative, digits, exponent = scientific(text)
    if not digits:
        return "0"
    point = exponent + 1
    if point <= 0:
        plain = "0." + "0" * -point + digits
    elif point >= len(digits):
        plain = digits + "0" * (point - len(digits))
    else:
        plain = f"{digits[:point]}.{digits[point:]}"
    return "-" + plain if negative else plain


def scientific(text: str) -> tuple[bool, str, int]:
    """A number as (is negative, significant digits, exponent of the first digit); zero has no digits.

    Raises ValidationError as `normalize` does.
    """
    if _is_plain_integer(text):
        return False, text.rstrip("0"), len(text) - 1
    match = _SYNTAX.fullmatch(text)
    if not text:
        raise ValidationError("The parameter cannot be converted to a numeric value", field="N")
    if match is None or not (match[2] or match[3]) or len(match[4] or "") > _EXPONENT_DIGITS_MAX:
        raise ValidationError(f"The parameter cannot be converted to a numeric value: {text[:100]}", field="N")
    whole, fraction = match[2], match[3] or ""
    digits = (whole + fraction).lstrip("0")
    exponent = int(match[4] or 0) + len(digits) - len(fraction) - 1
    digits = digits.rstrip("0")
    if not digits:
        return False, "", 0
    if exponent > EXPONENT_MAX:
        raise ValidationError(
            "Number overflow. Attempting to store a number with magnitude larger than supported range",
            field="N",
            limit=f"9.99E+{EXPONENT_MAX}",
        )
    if exponent < EXPONENT_MIN:
        raise ValidationError(
            "Number underflow. Attempting to store a number with magnitude smaller than supported range",
            field="N",
            limit=f"1E{EXPONENT_MIN}",
        )
    if len(digits) > SIGNIFICANT_DIGITS_MAX:
        raise ValidationError(
            f"Attempting to store more than {SIGNIFICANT_DIGITS_MAX} significant digits in a Number",
            field="N",
            limit=SIGNIFICANT_DIGITS_MAX,
        )
    return match[1] == "-", digits, exponent


def size_bytes(normal: str) -> int:
    """What DynamoDB counts for a number in normal form: about a byte per two significant digits, plus one.

    Follows the closed form that dynalite found to agree with the service.
    """
    negative, digits, exponent = scientific(normal)
    if not digits:
        return 1
    count = len(digits)
    return 1 + (count + 1) // 2 + (1 if count % 2 == 0 and exponent % 2 == 0 else 0) + (1 if negative else 0)
