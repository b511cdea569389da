"""PartiQL statements as requests of DynamoDB's other operations.

Which one a SELECT is depends on the keys of what it reads: with values for the partition key it is a Query for each of
them, otherwise a Scan of everything. What changes or checks an item must say its whole primary key.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import product, takewhile
from math import prod
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

from broker.gateway.aws.partiql.statements import (
    And,
    Between,
    Comparison,
    Condition,
    Delete,
    Exists,
    Function,
    In,
    Insert,
    Is,
    ListOf,
    MapOf,
    Not,
    Operand,
    Or,
    Parameter,
    Path,
    Scalar,
    Select,
    SetOf,
    Update,
)
from broker.model.errors import ValidationError
from broker.model.numbers import normalize

Json: TypeAlias = dict[str, Any]
Write: TypeAlias = Insert | Update | Delete
_T = TypeVar("_T")

# Source: Developer Guide, "PartiQL operators": IN, "at max 50 hash attribute values".
PARTITIONS_MAX: Final = 50

_SWAPPED: Final[Mapping[str, str]] = {"=": "=", "<>": "<>", "<": ">", "<=": ">=", ">": "<", ">=": "<="}
_ARGUMENTS: Final[Mapping[str, int]] = {"attribute_type": 2, "begins_with": 2, "contains": 2}
_SET_FUNCTIONS: Final[Mapping[str, str]] = {"set_add": "ADD", "set_delete": "DELETE"}
_SET_TYPES: Final[Mapping[str, str]] = {"S": "SS", "N": "NS", "B": "BS"}


class Keys(NamedTuple):
    """The key attributes of a table or index; an index may have several in either part."""

    partition: tuple[str, ...]
    sort: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """All of them."""
        return self.partition + self.sort


@dataclass(frozen=True, slots=True)
class Reading:
    """What a SELECT reads: pages of one request after the other; an item is to be shown as `paths` say."""

    operation: str
    requests: tuple[Json, ...]
    paths: tuple[Path, ...]

    def shown(self, item: Json) -> Json:
        """What was selected of an item: all of it, or each path's value under the name of its last step."""
        if not self.paths:
            return item
        found = ((_label(path), _at(item, path)) for path in self.paths)
        return {label: value for label, value in found if value is not None}


def select_reading(select: Select, keys: Keys, parameters: list[Json]) -> Reading:
    """The pages of a SELECT; `keys` are those of the table or index it reads."""
    conditions = _conjuncts(select.where)
    partitions = _partitions(conditions, keys, parameters)
    _check_labels(select.paths)
    if partitions is None:
        if select.order:
            raise ValidationError(
                "Must have at least one non-optional hash key condition in WHERE clause when using ORDER BY clause.",
                field="Statement",
            )
        return Reading("Scan", (_page_request(select, [], conditions, parameters),), select.paths)
    on_sort_key = _sort_conditions(conditions, keys)
    is_descending = _order(select, keys, partitions, on_sort_key)
    requests = []
    for partition in partitions:
        key: list[Condition] = [Comparison("=", Path((name,)), of.operand) for name, of in partition.items()]
        request = _page_request(select, key + on_sort_key, conditions, parameters)
        request["ScanIndexForward"] = not is_descending
        requests.append(request)
    return Reading("Query", tuple(requests), select.paths)


def get_request(select: Select, keys: Keys, parameters: list[Json]) -> Json:
    """The Get of a SELECT of one item by its primary key, as in TransactGetItems."""
    if select.index_name is not None or select.order:
        raise ValidationError("A SELECT in a batch or transaction reads one item, and of a table", field="Statement")
    key, rest = _key(select.where, keys, parameters)
    if rest:
        raise ValidationError(
            "A SELECT in a batch or transaction must have equality on all key attributes, and no other condition",
            field="Statement",
        )
    _check_labels(select.paths)
    expressions = _Expressions(parameters)
    request = {"TableName": select.table, "Key": key}
    if select.paths:
        request["ProjectionExpression"] = expressions.roots(select.paths)
    return request | expressions.members()


def check_request(exists: Exists, keys: Keys, parameters: list[Json]) -> Json:
    """The ConditionCheck of an EXISTS."""
    select = exists.select
    if select.index_name is not None or select.order or select.paths:
        raise ValidationError("The SELECT of an EXISTS is SELECT * of one item of a table", field="Statement")
    key, rest = _key(select.where, keys, parameters)
    expressions = _Expressions(parameters)
    condition = _and(expressions, [Not(_no_item(keys)), *rest])
    return {"TableName": select.table, "Key": key, "ConditionExpression": condition} | expressions.members()


def write_request(statement: Write, keys: Keys, parameters: list[Json]) -> tuple[str, Json]:
    """Put, Update or Delete, and its request as in TransactWriteItems."""
    expressions = _Expressions(parameters)
    request: Json = {"TableName": statement.table}
    if isinstance(statement, Insert):
        item = _value(statement.value, parameters)
        if "M" not in item:
            raise ValidationError("The VALUE of an INSERT must be a map", field="Statement")
        request["Item"] = item["M"]
        request["ConditionExpression"] = expressions.condition(_no_item(keys))
        return "Put", request | expressions.members()
    request["Key"], rest = _key(statement.where, keys, parameters)
    if isinstance(statement, Update):
        request["UpdateExpression"] = _update(statement, expressions)
        request["ConditionExpression"] = _and(expressions, [Not(_no_item(keys)), *rest])
        return "Update", request | expressions.members()
    if statement.returning not in {None, "ALL_OLD"}:
        raise ValidationError("DELETE can only be RETURNING ALL OLD *", field="Statement")
    if rest:
        # Where there is no item, nothing is to be deleted, and that is well.
        request["ConditionExpression"] = expressions.condition(Or((_no_item(keys), And(tuple(rest)))))
    return "Delete", request | expressions.members()


class _Expressions:
    """The expressions of one request, which share its placeholders."""

    def __init__(self, parameters: list[Json]) -> None:
        self._parameters = parameters
        self._names: dict[str, str] = {}
        self._values: Json = {}

    def members(self) -> Json:
        """The placeholders that were used."""
        result: Json = {}
        if self._names:
            result["ExpressionAttributeNames"] = {place: name for name, place in self._names.items()}
        if self._values:
            result["ExpressionAttributeValues"] = self._values
        return result

    def roots(self, paths: Iterable[Path]) -> str:
        """The attributes that hold what the paths mean."""
        return ",".join(dict.fromkeys(self.path(Path(path.steps[:1])) for path in paths))

    def path(self, path: Path) -> str:
        """A document path."""
        written = ""
        for step in path.steps:
            if isinstance(step, int):
                written += f"[{step}]"
            else:
                written += ("." if written else "") + self._names.setdefault(step, f"#{len(self._names)}")
        return written

    def value(self, operand: Operand) -> str:
        """A literal."""
        place = f":{len(self._values)}"
        self._values[place] = _value(operand, self._parameters)
        return place

    def is_set(self, operand: Operand) -> bool:
        """Whether a literal is a set."""
        return not _value(operand, self._parameters).keys().isdisjoint(_SET_TYPES.values())

    def operand(self, operand: Operand) -> str:
        """What a condition compares."""
        if isinstance(operand, Path):
            return self.path(operand)
        if isinstance(operand, Function):
            if operand.name != "size":
                raise _unsupported(operand)
            _check_arguments(operand, 1)
            return f"size({self.operand(operand.arguments[0])})"
        return self.value(operand)

    def condition(self, condition: Condition) -> str:
        """A condition, as ConditionExpression and FilterExpression have it."""
        match condition:
            case And(conditions):
                return " AND ".join(self._nested(each) for each in conditions)
            case Or(conditions):
                return " OR ".join(self._nested(each) for each in conditions)
            case Not(inner):
                return f"NOT {self._nested(inner)}"
            case Comparison(comparator, left, right):
                return f"{self.operand(left)} {comparator} {self.operand(right)}"
            case Between(operand, low, high):
                return f"{self.operand(operand)} BETWEEN {self.operand(low)} AND {self.operand(high)}"
            case In(operand, elements):
                return f"{self.operand(operand)} IN ({','.join(map(self.operand, elements))})"
            case Is(operand, "MISSING"):
                return f"attribute_not_exists({self.operand(operand)})"
            case Is(operand, _):
                return f"attribute_type({self.operand(operand)},{self.value(Scalar('S', 'NULL'))})"
            case Function(name, arguments):
                if name not in _ARGUMENTS:
                    raise _unsupported(condition)
                _check_arguments(condition, _ARGUMENTS[name])
                return f"{name}({','.join(map(self.operand, arguments))})"

    def _nested(self, condition: Condition) -> str:
        written = self.condition(condition)
        return f"({written})" if isinstance(condition, And | Or | Not) else written


def _update(update: Update, expressions: _Expressions) -> str:
    clauses: dict[str, list[str]] = {}
    for path, value in update.sets:
        target = expressions.path(path)
        if isinstance(value, Function) and value.name in _SET_FUNCTIONS:
            _check_arguments(value, 2)
            before, elements = value.arguments
            if before != path:
                raise ValidationError(f"{value.name} must have the path that is set first", field="Statement")
            if not expressions.is_set(elements):
                raise ValidationError(f"The second argument of {value.name} must be a set", field="Statement")
            clauses.setdefault(_SET_FUNCTIONS[value.name], []).append(f"{target} {expressions.value(elements)}")
        else:
            clauses.setdefault("SET", []).append(f"{target} = {_assigned(value, expressions)}")
    if update.removes:
        clauses["REMOVE"] = [expressions.path(path) for path in update.removes]
    return " ".join(f"{clause} {','.join(actions)}" for clause, actions in clauses.items())


def _assigned(value: Operand, expressions: _Expressions) -> str:
    if not isinstance(value, Function):
        return expressions.operand(value)
    if value.name in {"+", "-"}:
        if any(isinstance(each, Function) and each.name in {"+", "-"} for each in value.arguments):
            raise ValidationError("SET can have one + or - for each path", field="Statement")
        return f" {value.name} ".join(_assigned(each, expressions) for each in value.arguments)
    if value.name != "list_append":
        raise _unsupported(value)
    _check_arguments(value, 2)
    return f"list_append({','.join(map(expressions.operand, value.arguments))})"


def _page_request(select: Select, key: list[Condition], rest: list[Condition], parameters: list[Json]) -> Json:
    expressions = _Expressions(parameters)
    request: Json = {"TableName": select.table, "IndexName": select.index_name}
    if key:
        request["KeyConditionExpression"] = _and(expressions, key)
        request["AllowKeyAttributesInFilter"] = True
    if rest:
        request["FilterExpression"] = _and(expressions, rest)
    if select.paths:
        request["ProjectionExpression"] = expressions.roots(select.paths)
    return request | expressions.members()


def _and(expressions: _Expressions, conditions: list[Condition]) -> str:
    return expressions.condition(conditions[0] if len(conditions) == 1 else And(tuple(conditions)))


def _no_item(keys: Keys) -> Condition:
    return Is(Path(keys.partition[:1]), "MISSING")


# What a WHERE says of keys.


def _conjuncts(where: Condition | None) -> list[Condition]:
    if where is None:
        return []
    if isinstance(where, And):
        return [part for condition in where.conditions for part in _conjuncts(condition)]
    return [where]


def _taken(conditions: list[Condition], name: str, meaning: Callable[[str, Condition], _T]) -> _T | None:
    """What the first condition that means something for an attribute means; it is taken out. None if none does."""
    for number, condition in enumerate(conditions):
        found = meaning(name, condition)
        if found is not None:
            del conditions[number]
            return found
    return None


def _key(where: Condition | None, keys: Keys, parameters: list[Json]) -> tuple[Json, list[Condition]]:
    """The primary key, and what else is to hold."""
    conditions = _conjuncts(where)
    key: Json = {}
    for name in keys.names:
        operand: Operand | None = _taken(conditions, name, _equal_to)
        if operand is None:
            raise ValidationError(
                "Where clause does not contain a mandatory equality on all key attributes", field="Statement"
            )
        key[name] = _value(operand, parameters)
    return key, conditions


def _equal_to(name: str, condition: Condition) -> Operand | None:
    compared = _compared(name, condition)
    return compared.right if compared is not None and compared.comparator == "=" else None


def _compared(name: str, condition: Condition) -> Comparison | None:
    """A comparison of an attribute with a literal, written so; None if it is none."""
    if not isinstance(condition, Comparison):
        return None
    if condition.left == Path((name,)) and _are_literals((condition.right,)):
        return condition
    if condition.right == Path((name,)) and _are_literals((condition.left,)):
        return Comparison(_SWAPPED[condition.comparator], condition.right, condition.left)
    return None


def _partition_values(name: str, condition: Condition) -> list[Operand] | None:
    """The partition keys that a condition allows; None if it does not say."""
    if isinstance(condition, Or):
        operands: list[Operand] = []
        for part in condition.conditions:
            values = _partition_values(name, part)
            if values is None:
                return None
            operands += values
        return operands
    if isinstance(condition, In) and condition.operand == Path((name,)) and _are_literals(condition.elements):
        return list(condition.elements)
    operand = _equal_to(name, condition)
    return None if operand is None else [operand]


class _KeyValue(NamedTuple):
    """A value of a partition key attribute, as it is written, and what it is sorted by."""

    sortable: tuple[str, bytes | Decimal]
    operand: Operand


# The values of all partition key attributes, by name.
_Partition: TypeAlias = dict[str, _KeyValue]


def _partitions(conditions: list[Condition], keys: Keys, parameters: list[Json]) -> list[_Partition] | None:
    """The partition keys that the conditions allow, whose part in this is taken out; None if they do not say.

    They do not unless there are values for every attribute of the partition key.
    """
    rest = conditions.copy()
    values = []
    for name in keys.partition:
        operands = _taken(rest, name, _partition_values)
        if operands is None:
            return None
        values.append(operands)
    count = prod(map(len, values))
    if count > PARTITIONS_MAX:
        raise ValidationError(
            f"There can be at most {PARTITIONS_MAX} values of the partition key, found {count}",
            field="Statement",
            limit=PARTITIONS_MAX,
        )
    conditions[:] = rest
    distinct = [_distinct(operands, parameters) for operands in values]
    return [dict(zip(keys.partition, each, strict=True)) for each in product(*distinct)]


def _distinct(operands: list[Operand], parameters: list[Json]) -> list[_KeyValue]:
    """Values of a key attribute without those that are there twice."""
    found: dict[Any, _KeyValue] = {}
    for operand in operands:
        sortable = _sortable(_value(operand, parameters))
        found.setdefault(sortable, _KeyValue(sortable, operand))
    return list(found.values())


def _sortable(value: Json) -> tuple[str, bytes | Decimal]:
    ((type_, content),) = value.items()
    try:
        match type_:
            case "S":
                return type_, content.encode()
            case "N":
                return type_, Decimal(normalize(content))
            case "B":
                return type_, base64.b64decode(content, validate=True)
    except (AttributeError, TypeError, ArithmeticError, ValueError):
        pass
    raise ValidationError("The value of a key must be a string, a number or binary", field="Statement")


def _sort_conditions(conditions: list[Condition], keys: Keys) -> list[Condition]:
    """The conditions on the sort key that a Query takes, which are taken out: all but the last are equality."""
    taken: list[Condition] = []
    for name in keys.sort:
        condition = _taken(conditions, name, _sort_condition)
        if condition is None:
            break
        taken.append(condition)
        if not (isinstance(condition, Comparison) and condition.comparator == "="):
            break
    return taken


def _sort_condition(name: str, condition: Condition) -> Condition | None:
    """The condition, if a Query can find items by it, as it is one on the sort key."""
    path = Path((name,))
    compared = _compared(name, condition)
    if compared is not None and compared.comparator != "<>":
        return compared
    match condition:
        case Between(operand, low, high) if operand == path and _are_literals((low, high)):
            return condition
        case Function("begins_with", (operand, start)) if operand == path and _are_literals((start,)):
            return condition
    return None


def _are_literals(operands: Iterable[Operand]) -> bool:
    return not any(isinstance(operand, Path | Function) for operand in operands)


def _order(select: Select, keys: Keys, partitions: list[_Partition], on_sort_key: list[Condition]) -> bool:
    """Brings the partitions into the order that is asked for; returns whether sort keys are to be descending."""
    asked: dict[str, bool] = {}
    for path, descends in select.order:
        (name, *deeper) = path.steps
        if deeper or name not in keys.names:
            raise ValidationError(
                f"Variable reference {name} in ORDER BY clause must be part of the primary key", field="Statement"
            )
        asked.setdefault(str(name), descends)
    several = {name for name in keys.partition if len({partition[name].sortable for partition in partitions}) > 1}
    equal = [name for name, on in zip(keys.sort, on_sort_key, strict=False) if _equal_to(name, on) is not None]
    # What has one value needs no order.
    left = [name for name in asked if name in several or (name in keys.sort and name not in equal)]
    by_partition = list(takewhile(several.__contains__, left))
    by_sort = left[len(by_partition) :]
    if by_sort and len(by_partition) < len(several):
        raise ValidationError(
            "ORDER BY must begin with the partition key where WHERE allows several of it", field="Statement"
        )
    # Sorting is stable, so the first attribute is the last to sort by.
    for name in reversed(by_partition):
        partitions.sort(key=lambda partition: partition[name].sortable, reverse=asked[name])
    if by_sort != [name for name in keys.sort if name not in equal][: len(by_sort)]:
        raise ValidationError("ORDER BY must have the sort key attributes in the order of the key", field="Statement")
    if len({asked[name] for name in by_sort}) > 1:
        raise ValidationError("ORDER BY must have one direction for all sort key attributes", field="Statement")
    return bool(by_sort) and asked[by_sort[0]]


# Values, and what is shown.


def _value(operand: Operand, parameters: list[Json]) -> Json:
    """A literal as an attribute value."""
    match operand:
        case Scalar(type_, content):
            return {type_: content}
        case Parameter(number):
            return parameters[number]
        case ListOf(elements):
            return {"L": [_value(element, parameters) for element in elements]}
        case MapOf(entries):
            return {"M": {name: _value(element, parameters) for name, element in entries}}
        case SetOf(elements):
            return _set([_value(element, parameters) for element in elements])
    raise ValidationError("Only a literal or a parameter can be here", field="Statement")


def _set(elements: Sequence[Json]) -> Json:
    types = {type_ for element in elements for type_ in element}
    if len(types) != 1 or not types <= _SET_TYPES.keys():
        raise ValidationError(
            "A set must have one element or more, all of them strings, numbers or binary", field="Statement"
        )
    (type_,) = types
    return {_SET_TYPES[type_]: [element[type_] for element in elements]}


def _label(path: Path) -> str:
    names = [number for number, step in enumerate(path.steps) if isinstance(step, str)]
    name, *indexes = path.steps[names[-1] :]
    return str(name) + "".join(f"[{index}]" for index in indexes)


def _check_labels(paths: tuple[Path, ...]) -> None:
    labels: set[str] = set()
    for path in paths:
        label = _label(path)
        if label in labels:
            raise ValidationError(f"Two of what is selected would be named {label}", field="Statement")
        labels.add(label)


def _at(item: Json, path: Path) -> Any:
    """The value at a path; None if there is none."""
    value: Any = {"M": item}
    for step in path.steps:
        if isinstance(step, str):
            value = value.get("M", {}).get(step)
        else:
            elements = value.get("L", ())
            value = elements[step] if step < len(elements) else None
        if value is None:
            return None
    return value


def _check_arguments(function: Function, count: int) -> None:
    if len(function.arguments) != count:
        raise ValidationError(
            f"{function.name} takes {count} arguments, found {len(function.arguments)}", field="Statement"
        )


def _unsupported(function: Function) -> ValidationError:
    return ValidationError(f"There is no function {function.name} here", field="Statement")
