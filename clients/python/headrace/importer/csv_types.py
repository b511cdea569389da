"""The types of CSV columns: inferred from the first rows, or given.

The rule. A column's type is decided once, from its non-empty cells among the first 1,000 rows:

- N if every one is a decimal number of at most 38 significant digits, written without a plus sign and without leading
  zeros (a column of "007" is text);
- BOOL if every one is true or false in any case;
- S otherwise, and also if there is no such cell.

Key attributes take the type the table's key has. A given type beats both. An empty cell is an absent attribute.
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal

__all__ = ["COLUMN_TYPES", "SAMPLE_ROWS", "infer_column_types", "infer_type", "parse_cell"]

COLUMN_TYPES = ("S", "N", "B", "BOOL")
SAMPLE_ROWS = 1000
# DynamoDB Developer Guide, "Supported data types", Number: up to 38 digits of precision, 1E-130 to 9.9...E+125.
NUMBER_DIGITS_MAX = 38
NUMBER_EXPONENTS = range(-130, 126)

_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,3})?", re.ASCII)
_BOOLEANS = {"true": True, "false": False}


def infer_column_types(columns: Sequence[str], sample: Iterable[Sequence[str]]) -> dict[str, str]:
    """Decide the type of each column from sample rows, in which an absent cell is empty."""
    cells: list[list[str]] = [[] for _ in columns]
    for row in sample:
        for column_cells, cell in zip(cells, row, strict=True):
            if cell:
                column_cells.append(cell)
    return {column: infer_type(column_cells) for column, column_cells in zip(columns, cells, strict=True)}


def infer_type(cells: Sequence[str]) -> str:
    """Decide the type of one column from its non-empty cells."""
    if cells and all(map(_is_number, cells)):
        return "N"
    if cells and all(cell.lower() in _BOOLEANS for cell in cells):
        return "BOOL"
    return "S"


def parse_cell(cell: str, column_type: str) -> str | int | Decimal | bytes | bool:
    """Turn a non-empty cell into a value of its column's type. Raises ValueError if it is none."""
    return _PARSERS[column_type](cell)


def _is_number(cell: str) -> bool:
    if _NUMBER.fullmatch(cell) is None:
        return False
    number = Decimal(cell)
    return not number or (len(number.as_tuple().digits) <= NUMBER_DIGITS_MAX and number.adjusted() in NUMBER_EXPONENTS)


def _parse_number(cell: str) -> int | Decimal:
    if not _is_number(cell):
        raise ValueError(f"{cell!r} is not a number")
    return Decimal(cell) if any(character in cell for character in ".eE") else int(cell)


def _parse_boolean(cell: str) -> bool:
    try:
        return _BOOLEANS[cell.lower()]
    except KeyError:
        raise ValueError(f"{cell!r} is neither true nor false") from None


def _parse_binary(cell: str) -> bytes:
    try:
        return b64decode(cell, validate=True)
    except ValueError:
        raise ValueError(f"{cell!r} is not base64") from None


_PARSERS: Mapping[str, Callable[[str], str | int | Decimal | bytes | bool]] = {
    "S": str,
    "N": _parse_number,
    "B": _parse_binary,
    "BOOL": _parse_boolean,
}
