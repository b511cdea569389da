"""Conditions as random trees, printed as text and answered by a plain reading of the guide."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st

from broker.expressions.placeholders import Placeholders
from broker.model.values import Attributes, Value

VALUES: list[Value] = [
    ("S", ""),
    ("S", "a"),
    ("S", "ab"),
    ("S", "\u00e9"),
    ("S", "\U0001f600"),
    ("N", "-1"),
    ("N", "2"),
    ("N", "10"),
    ("B", b""),
    ("B", b"a"),
    ("B", b"\xff"),
    ("BOOL", True),
    ("NULL", True),
    ("SS", ("a", "ab")),
    ("NS", ("10", "2")),
    ("BS", (b"a",)),
    ("L", [("S", "a"), ("N", "2")]),
    ("M", {"x": ("N", "2"), "y": ("L", [("S", "ab")])}),
]
PATHS: list[tuple[str | int, ...]] = [
    ("a",),
    ("b",),
    ("c",),
    ("gone",),
    ("c", "x"),
    ("c", "y", 0),
    ("b", 1),
    ("a", 0, "x"),
]
COMPARATORS = ["=", "<>", "<", "<=", ">", ">="]

items = st.dictionaries(st.sampled_from("abc"), st.sampled_from(VALUES))
operands = st.one_of(
    st.sampled_from(PATHS).map(lambda path: ("path", path)),
    st.sampled_from(VALUES).map(lambda value: ("value", value)),
    st.sampled_from(PATHS).map(lambda path: ("size", path)),
)
paths = st.sampled_from(PATHS).map(lambda path: ("path", path))


def _trees(part: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        st.tuples(st.just("NOT"), part),
        st.tuples(st.sampled_from(["AND", "OR"]), part, part),
    )


trees = st.recursive(
    st.one_of(
        st.tuples(st.sampled_from(COMPARATORS), operands, operands),
        st.tuples(st.just("BETWEEN"), operands, operands, operands),
        st.tuples(st.just("IN"), operands, operands, operands),
        st.tuples(st.sampled_from(["attribute_exists", "attribute_not_exists"]), paths),
        st.tuples(
            st.just("attribute_type"),
            operands,
            st.sampled_from(["S", "N", "L", "M", "NULL"]).map(lambda t: ("value", ("S", t))),
        ),
        st.tuples(st.sampled_from(["begins_with", "contains"]), operands, operands),
    ),
    _trees,
    max_leaves=8,
)


class Printer:
    """Prints a tree, and collects the placeholders that it needs."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}
        self.values: dict[str, Value] = {}

    def placeholders(self) -> Placeholders:
        return Placeholders(self.names, self.values)

    def text(self, tree: Any) -> str:
        match tree:
            case ("NOT", part):
                return f"NOT {self.part(part)}"
            case ("AND" | "OR" as word, one, two):
                return f"{self.part(one)} {word} {self.part(two)}"
            case ("BETWEEN", one, two, three):
                return f"{self.operand(one)} between {self.operand(two)} and {self.operand(three)}"
            case ("IN", one, *others):
                return f"{self.operand(one)} IN ({', '.join(map(self.operand, others))})"
            case (comparator, one, two) if comparator in COMPARATORS:
                return f"{self.operand(one)}{comparator}{self.operand(two)}"
            case (function, *arguments):
                return f"{function}({','.join(map(self.operand, arguments))})"
        raise AssertionError(tree)

    def part(self, tree: Any) -> str:
        text = self.text(tree)
        return f"({text})" if tree[0] in ("AND", "OR") else text

    def operand(self, operand: Any) -> str:
        kind, content = operand
        if kind == "value":
            reference = f":v{len(self.values)}"
            self.values[reference] = content
            return reference
        path = self.path(content)
        return f"size ( {path} )" if kind == "size" else path

    def path(self, path: tuple[str | int, ...]) -> str:
        text = ""
        for step in path:
            if isinstance(step, int):
                text += f"[{step}]"
            else:
                reference = f"#n{step}"
                self.names[reference] = step
                text += f".{reference}" if text else reference
        return text


def holds(tree: Any, item: Attributes) -> bool:
    match tree:
        case ("NOT", part):
            return not holds(part, item)
        case ("AND", one, two):
            return holds(one, item) and holds(two, item)
        case ("OR", one, two):
            return holds(one, item) or holds(two, item)
    name, operands_ = tree[0], [look(operand, item) for operand in tree[1:]]
    one = operands_[0]
    match name:
        case "attribute_exists":
            return one is not None
        case "attribute_not_exists":
            return one is None
        case "attribute_type":
            return one is not None and one[0] == operands_[1][1]
        case "BETWEEN":
            return ordered(operands_[1], "<=", one) and ordered(one, "<=", operands_[2])
        case "IN":
            return any(equal(one, other) for other in operands_[1:])
        case "=":
            return equal(one, operands_[1])
        case "<>":
            return not equal(one, operands_[1])
        case "begins_with":
            return same_type(one, operands_[1], "SB") and plain(one)[: len(plain(operands_[1]))] == plain(operands_[1])
        case "contains":
            return contains(one, operands_[1])
    return ordered(one, name, operands_[1])


def look(operand: Any, item: Attributes) -> Any:
    kind, content = operand
    if kind == "value":
        return content
    value: Any = ("M", item)
    for step in content:
        if value is None:
            break
        is_list = isinstance(step, int)
        if value[0] != ("L" if is_list else "M"):
            value = None
        elif is_list:
            value = value[1][step] if step < len(value[1]) else None
        else:
            value = value[1].get(step)
    if kind == "size":
        if value is None or value[0] in ("N", "BOOL", "NULL"):
            return None
        if value[0] == "S":
            # UTF-16 units.
            return "N", str(sum(2 if ord(character) > 0xFFFF else 1 for character in value[1]))
        return "N", str(len(value[1]))
    return value


def plain(value: Any) -> Any:
    """What a value orders and equals by."""
    kind, content = value
    match kind:
        case "N":
            return Decimal(content)
        case "S":
            return content.encode()
        case "NS":
            return {Decimal(element) for element in content}
        case "SS":
            return {element.encode() for element in content}
        case "BS":
            return set(content)
        case "L":
            return [(element[0], plain(element)) for element in content]
        case "M":
            return {name: (entry[0], plain(entry)) for name, entry in content.items()}
    return content


def same_type(one: Any, two: Any, kinds: str) -> bool:
    return one is not None and two is not None and one[0] == two[0] and one[0] in kinds


def equal(one: Any, two: Any) -> bool:
    return one is not None and two is not None and one[0] == two[0] and plain(one) == plain(two)


def ordered(one: Any, comparator: str, two: Any) -> bool:
    if not same_type(one, two, "SNB"):
        return False
    left, right = plain(one), plain(two)
    return bool({"<": left < right, "<=": left <= right, ">": left > right, ">=": left >= right}[comparator])


def contains(one: Any, two: Any) -> bool:
    if one is None or two is None:
        return False
    if one[0] in ("S", "B"):
        return one[0] == two[0] and re.search(re.escape(plain(two)), plain(one)) is not None
    if one[0] == "L":
        return any(equal(element, two) for element in one[1])
    return one[0] in ("SS", "NS", "BS") and one[0][0] == two[0] and plain(two) in plain(one)
