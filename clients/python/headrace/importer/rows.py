"""What reading a file yields: rows, and lines that are none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

__all__ = ["ReadRow", "Rejected", "Row"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """An item and the line of the file where it begins, counted from 1."""

    line_number: int
    item: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """A line that holds no item, or whose item was refused, and why."""

    line_number: int
    reason: str


ReadRow: TypeAlias = Row | Rejected
