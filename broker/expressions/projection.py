"""Projections: which parts of an item a read returns."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from broker.expressions.parser import TREES_KEPT_MAX, Parser, PathRef
from broker.expressions.paths import check_apart, pick, tree_of
from broker.expressions.placeholders import Where

if TYPE_CHECKING:
    from broker.expressions.paths import Path
    from broker.expressions.placeholders import Placeholders
    from broker.model.values import Attributes

_WHERE = Where("ProjectionExpression")


class Projection:
    """Paths, none of which overlap."""

    __slots__ = ("_tree", "names")

    def __init__(self, paths: list[Path]) -> None:
        self._tree = tree_of(paths)
        # The attributes that it takes, or parts of.
        self.names = frozenset(str(name) for name in self._tree)

    def apply(self, attributes: Attributes) -> Attributes:
        """The parts of an item that it names and that are there."""
        return pick(attributes, self._tree)


def parse_projection(text: str, placeholders: Placeholders) -> Projection:
    """Reads a projection. Raises ValidationError."""
    paths = [path.resolved(placeholders, _WHERE) for path in _paths(text)]
    check_apart(paths, _WHERE)
    return Projection(paths)


@lru_cache(TREES_KEPT_MAX)
def _paths(text: str) -> tuple[PathRef, ...]:
    parser = Parser(text, _WHERE)
    paths = [parser.path()]
    while parser.accept(","):
        paths.append(parser.path())
    parser.finish()
    return tuple(paths)
