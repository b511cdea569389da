"""Key conditions: the one partition key that a query reads, and which of its sort keys.

An index may have several attributes in either part of its key. A query then names every partition key attribute, by
equality, and the first sort key attributes without a gap, all but the last by equality. Source: Developer Guide,
"Multi-attribute keys pattern".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn, TypeAlias

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
    from collections.abc import Iterator, Mapping, Sequence

    from broker.expressions.placeholders import Placeholders
    from broker.model.values import Value

_WHERE: Final = Where(ExpressionKind.KEY_CONDITION)
_FIELD: Final = "key_condition_expression"
# What `:value OP key` means as `key OP :value`.
_MIRRORED: Final = {"=": "=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}
_MISSED: Final = "Query condition missed key schema element: "
_NOT_SUPPORTED: Final = "Query key condition not supported"
# Counted alike whether there is a sort key or not.
_CONDITIONS_MAX_AT_LEAST: Final = 2


class AttributeCondition(NamedTuple):
    """What one key attribute must satisfy."""

    # One of = < <= > >= BETWEEN begins_with.
    operator: str
    # Two for BETWEEN, else one.
    operands: tuple[Value, ...]


# By the name of the attribute.
KeyConditions: TypeAlias = "Mapping[str, AttributeCondition]"


class KeyCondition(NamedTuple):
    """What a query reads."""

    # Of all its attributes, in order.
    partition: tuple[Value, ...]
    # Of the first attributes of the sort key; all but the last are "=".
    sort: tuple[AttributeCondition, ...]


def parse_key_conditions(text: str, placeholders: Placeholders) -> KeyConditions:
    """Read the conditions of a query on its keys, by attribute, whatever the keys are. Raises ValidationError."""
    tree = condition_tree(text, ExpressionKind.KEY_CONDITION)
    # Whatever is wrong with it as a condition is told first, and all its placeholders count as used.
    parse_condition(text, placeholders, ExpressionKind.KEY_CONDITION)
    found: dict[str, AttributeCondition] = {}
    for node in _parts(tree):
        name, condition = _simple(node, placeholders)
        if name in found:
            _fail("KeyConditionExpressions must only contain one condition per key")
        found[name] = condition
    return found


def match_keys(conditions: KeyConditions, partition_keys: Sequence[str], sort_keys: Sequence[str]) -> KeyCondition:
    """Match conditions with the key attributes of a table or index. Raises ValidationError if they are of no query."""
    found = dict(conditions)
    conditions_max = max(_CONDITIONS_MAX_AT_LEAST, len(partition_keys) + len(sort_keys))
    if len(found) > conditions_max:
        _fail(
            f"Conditions can be of length 1 {'or' if conditions_max == _CONDITIONS_MAX_AT_LEAST else 'to'} "
            f"{conditions_max} only"
        )
    partition = tuple(_taken_partition_key(found, name) for name in partition_keys)
    sort: list[AttributeCondition] = []
    for name in sort_keys:
        if name not in found:
            if found:
                # A later attribute, or one that is no key.
                _fail(f"{_MISSED}{name}")
            break
        sort.append(found.pop(name))
        if sort[-1].operator != "=":
            break
    if found:
        _fail(_NOT_SUPPORTED)
    return KeyCondition(partition, tuple(sort))


def _taken_partition_key(found: dict[str, AttributeCondition], name: str) -> Value:
    condition = found.pop(name, None)
    if condition is None:
        _fail(f"{_MISSED}{name}")
    if condition.operator != "=":
        _fail(_NOT_SUPPORTED)
    return condition.operands[0]


def _parts(tree: object) -> Iterator[object]:
    if isinstance(tree, Logical):
        if tree.operator != "AND":
            _WHERE.fail(f"Invalid operator used in KeyConditionExpression: {tree.operator}")
        for part in tree.parts:
            yield from _parts(part)
    else:
        yield tree


def _simple(node: object, placeholders: Placeholders) -> tuple[str, AttributeCondition]:
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
    return str(path[0]), AttributeCondition(operator, values)


def _fail(message: str) -> NoReturn:
    raise ValidationError(message, field=_FIELD)
