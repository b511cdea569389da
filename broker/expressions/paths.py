"""Document paths: where in an item a value lies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from broker.expressions.placeholders import Where
    from broker.model.values import Attributes, Value

# The name of an attribute, then names of map entries (str) and indexes of list elements (int).
Path: TypeAlias = tuple[Any, ...]
# From the paths that a projection names to what it takes below each step; an empty tree takes all.
Tree: TypeAlias = dict[Any, "Tree"]


def shown(path: Path) -> str:
    """A path as DynamoDB's messages show it."""
    return f"[{', '.join(f'[{step}]' if isinstance(step, int) else step for step in path)}]"


def getter(path: Path) -> Callable[[Attributes], Value | None]:
    """A function that finds a path's value in an item, or None: also where it steps into what has no parts."""
    name = path[0]
    if len(path) == 1:
        return lambda attributes: attributes.get(name)
    return lambda attributes: find(attributes, path)


def find(attributes: Attributes, path: Path) -> Value | None:
    """The value of a path in an item, or None."""
    value = attributes.get(path[0])
    for step in path[1:]:
        if value is None:
            return None
        value = part(value, step)
    return value


def part(value: Value, step: str | int) -> Value | None:
    """An entry of a map or an element of a list; None if the value has no such part."""
    kind, content = value
    if isinstance(step, int):
        return content[step] if kind == "L" and step < len(content) else None
    return content.get(step) if kind == "M" else None


def check_apart(paths: Sequence[Path], where: Where) -> None:
    """Raises ValidationError if two paths overlap, or take one value both for a list and for a map."""
    if len(paths) < 2 or len({path[0] for path in paths}) == len(paths):  # noqa: PLR2004 (two of them)
        return
    seen: dict[Path, Path] = {}
    # By place: what is used as a list, and what as a map.
    kinds: dict[Path, tuple[type, Path]] = {}
    for path in paths:
        for length in range(1, len(path) + 1):
            overlapping = seen.get(path[:length])
            if overlapping is not None:
                _fail_overlap(overlapping, path, where)
        for other in seen:
            if other[: len(path)] == path:
                _fail_overlap(other, path, where)
        for length in range(1, len(path)):
            kind, first = kinds.setdefault(path[:length], (type(path[length]), path))
            if kind is not type(path[length]):
                where.fail(
                    "Two document paths conflict with each other; must remove or rewrite one of these paths; "
                    f"path one: {shown(first)}, path two: {shown(path)}"
                )
        seen[path] = path


def _fail_overlap(one: Path, two: Path, where: Where) -> None:
    where.fail(
        "Two document paths overlap with each other; must remove or rewrite one of these paths; "
        f"path one: {shown(one)}, path two: {shown(two)}"
    )


def tree_of(paths: Iterable[Path]) -> Tree:
    """The paths, none of which overlap, as one tree."""
    tree: Tree = {}
    for path in paths:
        below = tree
        for step in path:
            below = below.setdefault(step, {})
    return tree


def pick(attributes: Attributes, tree: Tree) -> Attributes:
    """What a tree takes of an item, in its hierarchy; elements of lists close ranks."""
    picked: Attributes = {}
    for name, below in tree.items():
        value = attributes.get(name)
        taken = value if value is None or not below else _pick_parts(value, below)
        if taken is not None:
            picked[name] = taken
    return picked


def _pick_parts(value: Value, tree: Tree) -> Value | None:
    """What a tree takes of a list or map; None if that is nothing."""
    taken: list[tuple[Any, Value]] = []
    for step, below in tree.items():
        found = part(value, step)
        if found is not None and below:
            found = _pick_parts(found, below)
        if found is not None:
            taken.append((step, found))
    if not taken:
        return None
    if value[0] == "L":
        return "L", [found for _, found in sorted(taken, key=lambda each: each[0])]
    return "M", dict(taken)
