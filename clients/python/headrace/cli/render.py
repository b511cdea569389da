"""Writes results to stdout: tables for people through rich, JSON for programs.

JSON is exact: a number is written with all its digits, never through a float. JSON has no binary and no sets; binary
becomes base64 text and a set a sorted list.
"""

from __future__ import annotations

import json
import re
import sys
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

from headrace.cli.output import is_terminal, write_lines, write_text
from headrace.dynamodb_json import number_text

if TYPE_CHECKING:
    from rich.console import Console, JustifyMethod, RenderableType

__all__ = [
    "byte_count_text",
    "duration_text",
    "json_text",
    "print_fields",
    "print_json",
    "print_table",
    "size_text",
    "time_text",
]

_KILO = 1000
# How many spaces are between two columns of a table; and if that is too much.
_GAPS = (3, 2, 2)
# A word that is cut keeps at least so many characters, its beginning, an ellipsis and its end; and if that is too much.
_CUT_WORD_WIDTHS = (11, 11, 7)
# What would be another value if it were cut.
_NEVER_CUT = (int, float, Decimal, datetime)
# Wide enough that rich folds nothing when another program reads.
PIPE_WIDTH = 1000


def print_json(document: object) -> None:
    """Write one JSON document on one line."""
    write_text(json_text(document))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write rows under headings; numbers are aligned to the right.

    On a terminal that is too narrow, cells are wrapped between words, and words such as ids and ARNs are cut in the
    middle: their beginnings and their ends tell them apart. A number or a time is never cut.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    values = [tuple(row) for row in rows]
    cells = [[_cell(value) for value in row] for row in values]
    console = _console()
    layout = _Layout([None] * len(columns), _GAPS[0])
    if is_terminal():
        layout = _fit(columns, values, cells, console.width)
        cells = [[_cut_words(cell, width) for cell, width in zip(row, layout.widths, strict=True)] for row in cells]
        # If nothing more can give way the terminal wraps the lines: better than a number that is cut.
        console.width = max(console.width, layout.total)
    padding = (0, layout.gap // 2, 0, (layout.gap - 1) // 2)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=padding)
    for position, column in enumerate(columns):
        is_numeric = bool(values) and all(isinstance(row[position], int | float | Decimal) for row in values)
        justify: JustifyMethod = "right" if is_numeric else "left"
        table.add_column(Text(column), justify=justify, overflow="fold", width=layout.widths[position])
    for row in cells:
        table.add_row(*map(Text, row))
    _print(table, console)


def print_fields(values: Mapping[str, object]) -> None:
    """Write one thing as lines of name and value."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in values.items():
        table.add_row(Text(name), Text(_cell(value)))
    _print(table, _console())


def json_text(value: Any) -> str:
    """Turn what the client returns, plain values or its data classes, into JSON text."""
    if is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    elif isinstance(value, tuple) and hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Mapping):
        members = (
            f"{json.dumps(str(name), ensure_ascii=False)}: {json_text(member)}" for name, member in value.items()
        )
        return "{" + ", ".join(members) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(json_text, value)) + "]"
    if isinstance(value, set | frozenset):
        return "[" + ", ".join(map(json_text, sorted(value))) + "]"
    if isinstance(value, Decimal):
        return number_text(value)
    if isinstance(value, bytes):
        return json.dumps(b64encode(value).decode("ascii"))
    if isinstance(value, datetime):
        return json.dumps(time_text(value))
    return json.dumps(value, ensure_ascii=False)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    if isinstance(value, datetime):
        return time_text(value)
    if isinstance(value, int | float | Decimal):
        return number_text(value)
    return json_text(value)


def time_text(time: datetime) -> str:
    """Write a time as ISO 8601 with milliseconds, UTC."""
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def duration_text(seconds: int) -> str:
    """Write a duration in the largest unit that it is whole in, such as 7d, 90m or 61s."""
    for unit, unit_seconds in (("d", 24 * 60 * 60), ("h", 60 * 60), ("m", 60)):
        if seconds and seconds % unit_seconds == 0:
            return f"{seconds // unit_seconds}{unit}"
    return f"{seconds}s"


def size_text(size_bytes: int) -> str:
    """Write a size in the largest unit that it is whole in, such as 1GiB or 1500B."""
    for unit, unit_bytes in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size_bytes and size_bytes % unit_bytes == 0:
            return f"{size_bytes // unit_bytes}{unit}"
    return f"{size_bytes}B"


def byte_count_text(size_bytes: int) -> str:
    """Write how much something takes, for people: 999 B, 1.5 kB or 20.0 MB."""
    if size_bytes < _KILO:
        return f"{size_bytes} B"
    size = size_bytes / _KILO
    for unit in ("kB", "MB", "GB"):
        # As it is shown: 999,950 bytes are 1.0 MB.
        if round(size, 1) < _KILO:
            return f"{size:.1f} {unit}"
        size /= _KILO
    return f"{size:.1f} TB"


class _Layout(NamedTuple):
    """How wide the columns of a table are, or as wide as they like, and what is between them."""

    widths: Sequence[int | None]
    gap: int

    @property
    def total(self) -> int:
        return sum(width or 0 for width in self.widths) + self.gap * (len(self.widths) - 1)


def _fit(
    columns: Sequence[str], rows: Sequence[Sequence[object]], cells: Sequence[Sequence[str]], total: int
) -> _Layout:
    """Lay out a table for a width: the widest columns give way first, none below what it needs."""
    widest = [
        max(len(column), *(len(line) for row in cells for line in row[position].splitlines()), 0)
        for position, column in enumerate(columns)
    ]
    layout = _Layout(widest, _GAPS[0])
    for gap, word_width in zip(_GAPS, _CUT_WORD_WIDTHS, strict=True):
        needed = []
        for position, column in enumerate(columns):
            parts = column.split()
            for row, texts in zip(rows, cells, strict=True):
                text = texts[position]
                indent = len(text) - len(text.lstrip())
                is_whole = isinstance(row[position], _NEVER_CUT)
                parts += [text] if is_whole else [" " * indent + word[:word_width] for word in text.split()]
            needed.append(max(map(len, parts), default=0))
        layout = _Layout(_shrink(widest, needed, _Layout(widest, gap).total - total), gap)
        if layout.total <= total:
            break
    return layout


def _shrink(widths: Sequence[int], needed: Sequence[int], excess: int) -> list[int]:
    """Take so much from the widest columns, as far as they have more than they need."""
    shrunk = [*widths]
    for _ in range(excess):
        yielding = [place for place, width in enumerate(shrunk) if width > needed[place]]
        if not yielding:
            break
        shrunk[max(yielding, key=shrunk.__getitem__)] -= 1
    return shrunk


def _cut_words(text: str, width: int | None) -> str:
    """Cut the words that do not fit, in the middle."""
    if width is None:
        return text

    def cut(match: re.Match[str]) -> str:
        word = match[0]
        # The first word may be indented, as in a tree.
        before = text[: match.start()]
        indent = len(before) if before.isspace() else 0
        room = max(width - indent, _CUT_WORD_WIDTHS[-1])
        if len(word) <= room:
            return word
        end = (room - 1) // 2
        return f"{word[: room - 1 - end]}…{word[-end:]}"

    return re.sub(r"\S+", cut, text)


def _console() -> Console:
    from rich.console import Console

    width = None if is_terminal() else PIPE_WIDTH
    return Console(file=sys.stdout, highlight=False, width=width)


def _print(renderable: RenderableType, console: Console) -> None:
    """Write what rich makes of it, without the spaces rich pads lines with."""
    with console.capture() as capture:
        console.print(renderable)
    write_lines(line.rstrip() for line in capture.get().splitlines())
