"""Key conditions: the one partition key that a query reads, and which of its sort keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn

from broker.expressions.condition import (
    Comparison,
    ExpressionKind,
    Function,
    Logical,
    Size,
    condition_tree,
    parse_condition,
)
from broker.expressions.parser import PathRef, ValueRef
from broker.expressions.placeholders import Where
from broker.model.errors import ValidationError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.expressions.placeholders import Placeholders
    from broker.model.values import Value

_WHERE: Final = Where(ExpressionKind.KEY_CONDITION)
_FIELD: Final = "key_condition_expression"
# What `:value OP key` means as `key OP :value`.
_MIRRORED: Final = {"=": "=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}
_CONDITIONS_MAX: Final = 2


class SortKeyCondition(NamedTuple):
    """What sort keys must satisfy."""

    # One of = < <= > >= BETWEEN begins_with.
    operator: str
    # Two for BETWEEN, else one.
    operands: tuple[Value, ...]


class KeyCondition(NamedTuple):
    """What a query reads."""

    partition: Value
    # None: all sort keys.
    sort: SortKeyCondition | None


def parse_key_condition(
    text: str, placeholders: Placeholders, partition_key: str, sort_key: str | None
) -> KeyCondition:
    """Reads a key condition for a table or index with these key attributes. Raises ValidationError."""
    tree = condition_tree(text, ExpressionKind.KEY_CONDITION)
    # Whatever is wrong with it as a condition is told first, and all its placeholders count as used.
    parse_condition(text, placeholders, ExpressionKind.KEY_CONDITION)
    found: dict[str, SortKeyCondition] = {}
    for node in _parts(tree):
        name, condition = _simple(node, placeholders)
        if name in found:
            _fail("KeyConditionExpressions must only contain one condition per key")
        found[name] = condition
    if len(found) > _CONDITIONS_MAX:
        _fail("Conditions can be of length 1 or 2 only")
    partition = found.pop(partition_key, None)
    if partition is None:
        _fail(f"Query condition missed key schema element: {partition_key}")
    if partition.operator != "=":
        _fail("Query key condition not supported")
    sort = found.pop(sort_key, None) if sort_key is not None else None
    if found:
        # There are two, and the other one is of no key attribute.
        _fail(
            f"Query condition missed key schema element: {sort_key}"
            if sort_key
            else "Query key condition not supported"
        )
    return KeyCondition(partition.operands[0], sort)


def _parts(tree: object) -> Iterator[object]:
    if isinstance(tree, Logical):
        if tree.operator != "AND":
            _WHERE.fail(f"Invalid operator used in KeyConditionExpression: {tree.operator}")
        for part in tree.parts:
            yield from _parts(part)
    else:
        yield tree


def _simple(node: object, placeholders: Placeholders) -> tuple[str, SortKeyCondition]:
    """A condition on one attribute: its name, and the condition with the attribute first."""
    assert isinstance(node, Comparison | Function)
    operator = node.operator if isinstance(node, Comparison) else node.name
    if operator not in (*_MIRRORED, "BETWEEN", "begins_with"):
        _WHERE.fail(f"Invalid operator used in KeyConditionExpression: {operator}")
    operands = node.operands
    if any(isinstance(operand, Size) for operand in operands):
        _WHERE.fail("KeyConditionExpressions cannot contain nested operations")
    paths = [operand for operand in operands if isinstance(operand, PathRef)]
    if not paths:
        _WHERE.fail("Invalid condition in KeyConditionExpression: No key attribute specified")
    if len(paths) > 1:
        _WHERE.fail("Invalid condition in KeyConditionExpression: Multiple attribute names used in one condition")
    path = paths[0].resolved(placeholders, _WHERE)
    if len(path) > 1:
        _WHERE.fail("KeyConditionExpressions cannot have conditions on nested attributes")
    if not isinstance(operands[0], PathRef):
        if operator not in _MIRRORED:
            _WHERE.fail(
                f"Invalid condition in KeyConditionExpression: {operator} operator must have the key attribute as its "
                "first operand"
            )
        operator = _MIRRORED[operator]
    values = tuple(
        placeholders.value(operand.reference, _WHERE) for operand in operands if isinstance(operand, ValueRef)
    )
    return str(path[0]), SortKeyCondition(operator, values)


def _fail(message: str) -> NoReturn:
    raise ValidationError(message, field=_FIELD)
