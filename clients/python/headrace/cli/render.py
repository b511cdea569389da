"""Writes results to stdout: tables for people through rich, JSON for programs.

JSON is exact: a number is written with all its digits, never through a float. JSON has no binary and no sets; binary
becomes base64 text and a set a sorted list.
"""

from __future__ import annotations

import json
import sys
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import click

from headrace.dynamodb_json import number_text

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["duration_text", "json_text", "print_fields", "print_json", "print_table", "size_text", "time_text"]

# Wide enough that rich folds nothing when another program reads.
PIPE_WIDTH = 1000


def print_json(document: object) -> None:
    """Write one JSON document on one line."""
    click.echo(json_text(document))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write rows under headings; numbers are aligned to the right."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    rows = [tuple(row) for row in rows]
    for position, column in enumerate(columns):
        is_numeric = bool(rows) and all(isinstance(row[position], int | float | Decimal) for row in rows)
        table.add_column(Text(column), justify="right" if is_numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(_cell(value)) for value in row))
    _print(table)


def print_fields(values: Mapping[str, object]) -> None:
    """Write one thing as lines of name and value."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in values.items():
        table.add_row(Text(name), Text(_cell(value)))
    _print(table)


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


def _print(renderable: RenderableType) -> None:
    """Write what rich makes of it, without the spaces rich pads lines with."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else PIPE_WIDTH
    console = Console(file=sys.stdout, highlight=False, width=width)
    with console.capture() as capture:
        console.print(renderable)
    click.echo("\n".join(line.rstrip() for line in capture.get().splitlines()))
