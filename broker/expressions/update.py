"""What an update makes of an item."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from broker.model.values import Attributes, Value


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """Attributes to set and to remove; the two do not overlap."""

    sets: dict[str, Value]
    removes: frozenset[str]

    @property
    def creates(self) -> bool:
        """Whether it creates an item that is missing: an update that only removes does not."""
        return bool(self.sets) or not self.removes

    @property
    def touched(self) -> AbstractSet[str]:
        """The attributes it names."""
        return self.sets.keys() | self.removes

    def apply(self, attributes: Attributes) -> Attributes:
        """The item after the update; the one given stays as it is."""
        kept = {name: value for name, value in attributes.items() if name not in self.removes}
        return kept | self.sets


NO_UPDATE = Update(sets={}, removes=frozenset())
