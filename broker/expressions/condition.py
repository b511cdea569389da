"""What a condition answers for an item."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Container


@dataclass(frozen=True, slots=True, kw_only=True)
class AttributeExists:
    """attribute_exists(name), or with exists False attribute_not_exists(name)."""

    name: str
    exists: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """Terms that must all hold."""

    terms: tuple[AttributeExists, ...]

    def holds(self, attributes: Container[str]) -> bool:
        """Whether it holds for an item; a missing item has no attributes."""
        return all((term.name in attributes) == term.exists for term in self.terms)
