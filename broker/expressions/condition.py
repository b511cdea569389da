"""Conditions and filters: parsed once by text, bound to the placeholders of a request, then asked of items.

Binding makes one function of each node of the tree, so that asking costs a few calls. A path that leads nowhere is no
error here: comparisons with it are false, but for `<>`.
"""

from __future__ import annotations

from decimal import Decimal
from enum import StrEnum
from functools import lru_cache
from operator import ge, gt, le, lt
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from broker.expressions.parser import (
    FUNCTION_RANK,
    MISUSE_RANK,
    TREES_KEPT_MAX,
    Parser,
    PathRef,
    ValueRef,
    unwrapped,
)
from broker.expressions.paths import getter, shown
from broker.expressions.placeholders import Where

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from broker.expressions.paths import Path
    from broker.expressions.placeholders import Placeholders
    from broker.model.values import Attributes, Value

    Test: TypeAlias = Callable[[Attributes], bool]
    Get: TypeAlias = Callable[[Attributes], Value | None]

IN_OPERANDS_MAX: Final = 100

# Those of S, N and B compare; their Python values do as DynamoDB's, numbers as decimals.
_ORDERED: Final = frozenset("SNB")
_ORDERINGS: Final = {"<": lt, "<=": le, ">": gt, ">=": ge}
_COMPARATORS: Final = ("=", "<>", *_ORDERINGS)
_TYPE_NAMES: Final = ("B", "NULL", "SS", "BOOL", "L", "BS", "N", "NS", "S", "M")
_SIZED: Final = frozenset(("S", "B", "SS", "NS", "BS", "L", "M"))
_CONTAINERS: Final = frozenset(("S", "B", "SS", "NS", "BS", "L"))
_SET_OF: Final = {"SS": "S", "NS": "N", "BS": "B"}
# By name: how many operands.
_FUNCTIONS: Final = {
    "attribute_exists": 1,
    "attribute_not_exists": 1,
    "attribute_type": 2,
    "begins_with": 2,
    "contains": 2,
}
# Those that ask for a path, not for a value.
_OF_PATHS: Final = ("attribute_exists", "attribute_not_exists")
_SIZE: Final = "size"


class ExpressionKind(StrEnum):
    """Which parameter of a request a condition is."""

    CONDITION = "ConditionExpression"
    FILTER = "FilterExpression"
    KEY_CONDITION = "KeyConditionExpression"


_WHERES: Final = {kind: Where(kind) for kind in ExpressionKind}


class Size(NamedTuple):
    """size(operand)."""

    operands: tuple[object, ...]


class Comparison(NamedTuple):
    """One operand compared with others: a comparator, BETWEEN or IN."""

    operator: str
    operands: tuple[object, ...]


class Function(NamedTuple):
    """A function that is true or false."""

    name: str
    operands: tuple[object, ...]


class Logical(NamedTuple):
    """AND, OR or NOT of conditions."""

    operator: str
    parts: tuple[object, ...]


class Condition(NamedTuple):
    """A condition that is ready to be asked."""

    # Whether it holds for an item; a missing item has no attributes.
    holds: Test
    # The attributes that it mentions.
    names: frozenset[str]


def parse_condition(
    text: str, placeholders: Placeholders, kind: ExpressionKind = ExpressionKind.CONDITION
) -> Condition:
    """Reads a condition. Raises ValidationError."""
    names: set[str] = set()
    test = _Binding(placeholders, _WHERES[kind], names).test(condition_tree(text, kind))
    return Condition(test, frozenset(names))


@lru_cache(TREES_KEPT_MAX)
def condition_tree(text: str, kind: ExpressionKind) -> object:
    """The tree of a condition. Raises ValidationError."""
    parser = Parser(text, _WHERES[kind])
    tree = _condition(parser, _or(parser))
    parser.finish()
    return tree


# The grammar, from the operator that binds least.


def _or(parser: Parser) -> object:
    return _joined(parser, "OR", _and)


def _and(parser: Parser) -> object:
    return _joined(parser, "AND", _not)


def _joined(parser: Parser, word: str, part: Callable[[Parser], object]) -> object:
    first = part(parser)
    if not parser.is_keyword(word):
        return first
    parts = [_condition(parser, first)]
    while parser.accept_keyword(word):
        parser.operator()
        parts.append(_condition(parser, part(parser)))
    return Logical(word, tuple(parts))


def _not(parser: Parser) -> object:
    if not parser.accept_keyword("NOT"):
        return _primary(parser)
    parser.operator()
    parser.enter()
    negated = _condition(parser, _not(parser))
    parser.leave()
    return Logical("NOT", (negated,))


def _primary(parser: Parser) -> object:
    """A condition; or an operand in parentheses, of which only what follows them tells that it is one."""
    if parser.accept("("):
        parser.enter()
        inner = _or(parser)
        parser.expect(")")
        parser.leave()
        node: object = parser.wrapped(inner)
    else:
        node = _term(parser)
    if parser.upcoming in _COMPARATORS or parser.is_keyword("BETWEEN") or parser.is_keyword("IN"):
        return _compared(parser, _as_operand(parser, unwrapped(node)))
    return node


def _compared(parser: Parser, left: object) -> Comparison:
    parser.operator()
    if parser.accept_keyword("BETWEEN"):
        lower = _operand(parser)
        parser.expect_keyword("AND")
        return Comparison("BETWEEN", (left, lower, _operand(parser)))
    if parser.accept_keyword("IN"):
        parser.expect("(")
        return Comparison("IN", (left, *parser.arguments(lambda: _operand(parser))))
    operator = parser.upcoming
    parser.expect(operator)
    return Comparison(operator, (left, _operand(parser)))


def _operand(parser: Parser) -> object:
    return unwrapped(_maybe_wrapped_operand(parser))


def _maybe_wrapped_operand(parser: Parser) -> object:
    if not parser.accept("("):
        return _as_operand(parser, _term(parser))
    parser.enter()
    inner = _maybe_wrapped_operand(parser)
    parser.expect(")")
    parser.leave()
    return parser.wrapped(inner)


def _term(parser: Parser) -> object:
    name = parser.function()
    if name is not None:
        parser.operator()
        operands = tuple(parser.arguments(lambda: _operand(parser)))
        if name == _SIZE:
            return Size(operands)
        if name not in _FUNCTIONS:
            parser.fault(FUNCTION_RANK, f"Invalid function name; function: {name}")
        return Function(name, operands)
    return parser.value() if parser.upcoming[0] == ":" else parser.path()


def _condition(parser: Parser, node: object) -> object:
    """A node where only a condition may stand."""
    node = unwrapped(node)
    if isinstance(node, Size):
        _note_misuse(parser, _SIZE)
    elif isinstance(node, PathRef | ValueRef):
        parser.fail()
    return node


def _as_operand(parser: Parser, node: object) -> object:
    """A node where only an operand may stand."""
    if isinstance(node, Function):
        _note_misuse(parser, node.name)
    elif not isinstance(node, Size | PathRef | ValueRef):
        parser.fail()
    return node


def _note_misuse(parser: Parser, function: str) -> None:
    parser.fault(MISUSE_RANK, f"The function is not allowed to be used this way in an expression; function: {function}")


class _Operand(NamedTuple):
    """An operand with its placeholders resolved."""

    get: Get
    # What is known of it without an item.
    literal: Value | None = None
    path: Path | None = None


class _Binding:
    """Makes functions of a tree's nodes for one request."""

    def __init__(self, placeholders: Placeholders, where: Where, names: set[str]) -> None:
        self._placeholders = placeholders
        self._where = where
        self._names = names

    def test(self, node: object) -> Test:
        """Whether a condition holds."""
        if isinstance(node, Comparison):
            return self._comparison(node)
        if isinstance(node, Function):
            return self._function(node)
        assert isinstance(node, Logical)
        tests = [self.test(part) for part in node.parts]
        first, last = tests[0], tests[-1]
        if node.operator == "NOT":
            return lambda item: not first(item)
        if node.operator == "AND":
            if len(tests) == 2:  # noqa: PLR2004 (what most conditions are, without a loop)
                return lambda item: first(item) and last(item)
            return lambda item: all(test(item) for test in tests)
        return lambda item: any(test(item) for test in tests)

    def _operands(self, name: str, nodes: Sequence[object]) -> list[_Operand]:
        """Operands, of which the first must not be among the others."""
        operands = [self._operand(node) for node in nodes]
        first = operands[0].path if operands else None
        if first is not None and any(other.path == first for other in operands[1:]):
            self._where.fail(
                "The first operand must be distinct from the remaining operands for this operator or function; "
                f"operator: {name}, first operand: {shown(first)}"
            )
        return operands

    def _operand(self, node: object) -> _Operand:
        if isinstance(node, PathRef):
            path = node.resolved(self._placeholders, self._where)
            self._names.add(str(path[0]))
            return _Operand(getter(path), path=path)
        if isinstance(node, ValueRef):
            value = self._placeholders.value(node.reference, self._where)
            return _Operand(lambda _: value, literal=value)
        assert isinstance(node, Size)
        operands = self._operands(_SIZE, node.operands)
        self._check_count(_SIZE, operands, 1)
        if isinstance(node.operands[0], Size):
            self._where.fail(f"The function is not allowed to be used this way in an expression; function: {_SIZE}")
        self._check_type(_SIZE, operands[0], _SIZED)
        sized = operands[0].get
        return _Operand(lambda item: _size(sized(item)))

    def _comparison(self, node: Comparison) -> Test:
        operator = node.operator
        operands = self._operands(operator, node.operands)
        left = operands[0].get
        if operator == "IN":
            if not 1 <= len(operands) - 1 <= IN_OPERANDS_MAX:
                self._check_count(operator, operands, IN_OPERANDS_MAX + 1)
            others = [operand.get for operand in operands[1:]]
            return lambda item: (value := left(item)) is not None and any(other(item) == value for other in others)
        if operator == "BETWEEN":
            return self._between(*operands)
        right = operands[1].get
        if operator == "=":
            return lambda item: (value := left(item)) is not None and value == right(item)
        if operator == "<>":
            return lambda item: (value := left(item)) is None or value != right(item)
        for operand in operands:
            self._check_type(operator, operand, _ORDERED)
        holds = _ORDERINGS[operator]
        return lambda item: _compare(left(item), right(item), holds)

    def _between(self, operand: _Operand, lower: _Operand, upper: _Operand) -> Test:
        for each in (operand, lower, upper):
            self._check_type("BETWEEN", each, _ORDERED)
        if lower.literal is not None and upper.literal is not None:
            bounds = (
                f"lower bound operand: AttributeValue: {_shown_value(lower.literal)}, "
                f"upper bound operand: AttributeValue: {_shown_value(upper.literal)}"
            )
            if lower.literal[0] != upper.literal[0]:
                self._where.fail(f"The BETWEEN operator requires same data type for lower and upper bounds; {bounds}")
            if _compare(lower.literal, upper.literal, gt):
                self._where.fail(
                    "The BETWEEN operator requires upper bound to be greater than or equal to lower bound; " + bounds
                )
        value, low, high = operand.get, lower.get, upper.get
        return lambda item: _compare(found := value(item), low(item), ge) and _compare(found, high(item), le)

    def _function(self, node: Function) -> Test:
        name = node.name
        operands = self._operands(name, node.operands)
        self._check_count(name, operands, _FUNCTIONS[name])
        first, get = operands[0], operands[0].get
        if name in _OF_PATHS and first.path is None:
            self._where.fail(f"Operator or function requires a document path; operator or function: {name}")
        match name:
            case "attribute_exists":
                return lambda item: get(item) is not None
            case "attribute_not_exists":
                return lambda item: get(item) is None
            case "attribute_type":
                kind = self._type_name(operands[1])
                return lambda item: (value := get(item)) is not None and value[0] == kind
            case "begins_with":
                for operand in operands:
                    self._check_type(name, operand, frozenset("SB"))
                prefix = operands[1].get
                return lambda item: _begins_with(get(item), prefix(item))
            case _:
                self._check_type(name, first, _CONTAINERS)
                member = operands[1].get
                return lambda item: _contains(get(item), member(item))

    def _type_name(self, operand: _Operand) -> str:
        self._check_type("attribute_type", operand, frozenset("S"))
        kind = "" if operand.literal is None else str(operand.literal[1])
        if kind not in _TYPE_NAMES:
            self._where.fail(
                f"Invalid attribute type name found; type: {kind[:100]}, valid types: {{{','.join(_TYPE_NAMES)}}}"
            )
        return kind

    def _check_count(self, name: str, operands: Sequence[_Operand], count: int) -> None:
        if len(operands) != count:
            self._where.fail(
                f"Incorrect number of operands for operator or function; operator or function: {name}, "
                f"number of operands: {len(operands)}",
                limit=count,
            )

    def _check_type(self, name: str, operand: _Operand, allowed: frozenset[str]) -> None:
        """Refuses a placeholder's value of a type that could never do."""
        if operand.literal is not None and operand.literal[0] not in allowed:
            self._where.fail(
                f"Incorrect operand type for operator or function; operator or function: {name}, "
                f"operand type: {operand.literal[0]}"
            )


def _compare(one: Value | None, two: Value | None, holds: Callable[[Any, Any], bool]) -> bool:
    if one is None or two is None or one[0] != two[0] or one[0] not in _ORDERED:
        return False
    if one[0] == "N":
        return holds(Decimal(one[1]), Decimal(two[1]))
    return holds(one[1], two[1])


def _size(value: Value | None) -> Value | None:
    """Count UTF-16 units of a string, bytes of binary data, elements of a set, list or map; None for other types."""
    if value is None or value[0] not in _SIZED:
        return None
    kind, content = value
    if kind == "S" and not content.isascii():
        return "N", str(len(content.encode("utf-16-le")) // 2)
    return "N", str(len(content))


def _begins_with(value: Value | None, prefix: Value | None) -> bool:
    if value is None or prefix is None or value[0] != prefix[0] or value[0] not in ("S", "B"):
        return False
    begins: bool = value[1].startswith(prefix[1])
    return begins


def _contains(container: Value | None, member: Value | None) -> bool:
    if container is None or member is None:
        return False
    kind, content = container
    if kind == "L":
        return member in content
    if kind in ("S", "B"):
        return member[0] == kind and member[1] in content
    return _SET_OF.get(kind) == member[0] and member[1] in content


def _shown_value(value: Value) -> str:
    content = str(value[1])
    return f"{{{value[0]}:{content[:100]}}}"
