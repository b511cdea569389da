"""Sequence numbers: one rising 64-bit counter per store, shown as 21 digits so that text order is numeric order."""

from __future__ import annotations

from typing import Final

from broker.model.errors import ValidationError

DIGITS: Final = 21
# DynamoDB's own bound on the text.
DIGITS_MAX: Final = 40
SEQUENCE_NUMBER_MAX: Final = 2**63 - 1


def format_sequence_number(number: int) -> str:
    """The public form of a sequence number."""
    return f"{number:021d}"


def parse_sequence_number(text: str, field: str = "sequence_number") -> int:
    """Reads the public form. Raises ValidationError unless it is 21 to 40 digits within 64 bits."""
    if not (DIGITS <= len(text) <= DIGITS_MAX and text.isascii() and text.isdecimal()):
        raise ValidationError(
            f"Invalid SequenceNumber: must be {DIGITS} to {DIGITS_MAX} decimal digits", field=field, limit=DIGITS_MAX
        )
    number = int(text)
    if number > SEQUENCE_NUMBER_MAX:
        raise ValidationError("Invalid SequenceNumber: beyond the largest sequence number", field=field)
    return number
