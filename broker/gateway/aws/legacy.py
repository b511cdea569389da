"""DynamoDB's legacy parameters as the expressions that replaced them.

Source: Amazon DynamoDB Developer Guide, "Legacy conditional parameters". Each is rewritten before the request goes on,
so the engine knows expressions alone. Names become placeholders: a legacy name is never a path, whatever is in it.

The limits of an expression, 4 KB and 300 operators, are also those of what becomes one, though AWS has none for legacy
parameters. There is room for 300 PUT of an update, 80 ADD to lists, or 400 of its other actions; for 130 conditions of
Expected or a filter, 60 if they are NOT_CONTAINS; and for 100 operands of an IN. What has more is refused.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from itertools import count
from typing import Any, Final, TypeAlias

from broker.expressions.update import INCORRECT_TYPE
from broker.gateway.aws.errors import lower_first
from broker.gateway.aws.shapes import structure, unexpected
from broker.model.errors import ValidationError
from broker.model.values import ATTRIBUTE_NAME_BYTES_MAX
from broker.tables.query import NO_PROJECTION

Json: TypeAlias = dict[str, Any]

ATTRIBUTES_TO_GET_MAX: Final = 255

_INVALID: Final = "One or more parameter values were invalid: "
_FILTERS: Final = ("Expected", "QueryFilter", "ScanFilter")
# By operation: its legacy parameters.
_LEGACY: Final[Mapping[str, frozenset[str]]] = {
    "PutItem": frozenset(("Expected", "ConditionalOperator")),
    "DeleteItem": frozenset(("Expected", "ConditionalOperator")),
    "UpdateItem": frozenset(("Expected", "ConditionalOperator", "AttributeUpdates")),
    "GetItem": frozenset(("AttributesToGet",)),
    "Query": frozenset(("AttributesToGet", "KeyConditions", "QueryFilter", "ConditionalOperator")),
    "Scan": frozenset(("AttributesToGet", "ScanFilter", "ConditionalOperator")),
}
OPERATIONS: Final = frozenset((*_LEGACY, "BatchGetItem"))
# What may not be there beside legacy parameters.
_EXPRESSIONS: Final = (
    "ProjectionExpression",
    "ConditionExpression",
    "UpdateExpression",
    "KeyConditionExpression",
    "FilterExpression",
)

_SCALARS: Final = ("S", "N", "B")
_SETS: Final = ("SS", "NS", "BS")
# By comparison operator: what it is as an expression, how many operands it takes (None: one or more), of which types
# (empty: of all).
_OPERATORS: Final[Mapping[str, tuple[str, int | None, tuple[str, ...]]]] = {
    "EQ": ("{name}={0}", 1, ()),
    "NE": ("{name}<>{0}", 1, ()),
    "LE": ("{name}<={0}", 1, _SCALARS),
    "LT": ("{name}<{0}", 1, _SCALARS),
    "GE": ("{name}>={0}", 1, _SCALARS),
    "GT": ("{name}>{0}", 1, _SCALARS),
    "NOT_NULL": ("attribute_exists({name})", 0, ()),
    "NULL": ("attribute_not_exists({name})", 0, ()),
    "CONTAINS": ("contains({name},{0})", 1, _SCALARS),
    # Unlike NE, it does not hold for an attribute that is missing.
    "NOT_CONTAINS": ("attribute_exists({name}) AND NOT contains({name},{0})", 1, _SCALARS),
    "BEGINS_WITH": ("begins_with({name},{0})", 1, ("S", "B")),
    "IN": ("{name} IN ({all})", None, _SCALARS),
    "BETWEEN": ("{name} BETWEEN {0} AND {1}", 2, _SCALARS),
}
_OF_KEYS: Final = frozenset(("EQ", "LE", "LT", "GE", "GT", "BEGINS_WITH", "BETWEEN"))
_ADDED: Final = ("N", "L", *_SETS)


def modernize(operation: str, request: Json) -> Json:
    """The same request without legacy parameters; the request itself if it has none.

    Raises ValidationError for legacy parameters that contradict each other, or beside expressions; SerializationError
    for another JSON type than a parameter's.
    """
    if operation == "BatchGetItem":
        return _modernize_batch(request)
    if _LEGACY[operation].isdisjoint(request):
        return request
    return _Rewriting(request, _LEGACY[operation]).result()


def _modernize_batch(request: Json) -> Json:
    content = structure(request.get("RequestItems"), "RequestItems")
    tables = {name: structure(keys, name) for name, keys in content.items()}
    if all(keys.get("AttributesToGet") is None for keys in tables.values()):
        return request
    if any(keys.get("ProjectionExpression") is not None for keys in tables.values()):
        # The tables of one request are one request.
        raise _mixed(["AttributesToGet"], ["ProjectionExpression"])
    legacy = _LEGACY["GetItem"]
    return {
        **request,
        "RequestItems": {name: _Rewriting(keys, legacy).result() for name, keys in tables.items()},
    }


class _Rewriting:
    """One request on its way from legacy parameters to expressions."""

    def __init__(self, request: Json, legacy: frozenset[str]) -> None:
        self._legacy = {name: request[name] for name in legacy if request.get(name) is not None}
        self._request = {name: value for name, value in request.items() if name not in legacy}
        self._names = _given(request, "ExpressionAttributeNames")
        self._values = _given(request, "ExpressionAttributeValues")
        self._placeholders: dict[str, str] = {}
        self._numbers = count()

    def result(self) -> Json:
        """The request with expressions."""
        legacy, request = self._legacy, self._request
        self._check_not_mixed()
        joins = self._conditional_operator()
        if "Expected" in legacy:
            expected = structure(legacy["Expected"], "Expected")
            self._set("ConditionExpression", map(self._expectation, expected, expected.values()), joins)
        for filter_ in ("QueryFilter", "ScanFilter"):
            if filter_ in legacy:
                conditions = structure(legacy[filter_], filter_)
                self._set("FilterExpression", map(self._condition, conditions, conditions.values()), joins)
        if "KeyConditions" in legacy:
            self._set("KeyConditionExpression", self._key_conditions(legacy["KeyConditions"]), " AND ")
        if "AttributeUpdates" in legacy:
            self._set("UpdateExpression", self._updates(legacy["AttributeUpdates"]), " ")
        if "AttributesToGet" in legacy:
            select = request.get("Select")
            if select not in {None, "SPECIFIC_ATTRIBUTES"}:
                raise ValidationError(
                    f"Cannot specify the AttributesToGet when choosing to get {select}", field="AttributesToGet"
                )
            self._set("ProjectionExpression", map(self._name, _attribute_names(legacy["AttributesToGet"])), ",")
        if self._names:
            request["ExpressionAttributeNames"] = self._names
        if self._values:
            request["ExpressionAttributeValues"] = self._values
        return request

    def _check_not_mixed(self) -> None:
        expressions = [name for name in _EXPRESSIONS if self._request.get(name) is not None]
        # The one mixture that DynamoDB takes: it came to Query before key conditions could be expressions.
        if "KeyConditionExpression" in expressions:
            mixed = list(self._legacy)
        else:
            mixed = [name for name in self._legacy if name != "KeyConditions"]
        if expressions and mixed:
            raise _mixed(sorted(mixed), expressions)
        if not expressions and self._legacy:
            for placeholders in ("ExpressionAttributeNames", "ExpressionAttributeValues"):
                if self._request.get(placeholders) is not None:
                    raise ValidationError(
                        f"{placeholders} can only be specified when using expressions", field=placeholders
                    )

    def _conditional_operator(self) -> str:
        if "ConditionalOperator" not in self._legacy:
            return " AND "
        operator = _word(self._legacy["ConditionalOperator"], "ConditionalOperator", ("OR", "AND"))
        conditions = [structure(self._legacy[name], name) for name in _FILTERS if name in self._legacy]
        if not any(conditions):
            raise ValidationError(
                f"{_INVALID}ConditionalOperator cannot be used without Filter or Expected", field="ConditionalOperator"
            )
        if len(conditions[0]) == 1:
            raise ValidationError(
                f"{_INVALID}ConditionalOperator can only be used when Filter or Expected has two or more elements",
                field="ConditionalOperator",
            )
        return f" {operator} "

    def _set(self, expression: str, parts: Iterable[str], joined_by: str) -> None:
        text = joined_by.join(parts)
        if text:
            self._request[expression] = text

    def _name(self, name: str) -> str:
        """The placeholder of an attribute's name."""
        if name not in self._placeholders:
            _check_name(name)
            self._placeholders[name] = self._unused("#", self._names)
            self._names[self._placeholders[name]] = name
        return self._placeholders[name]

    def _value(self, value: Any) -> str:
        placeholder = self._unused(":", self._values)
        self._values[placeholder] = value
        return placeholder

    def _unused(self, prefix: str, used: Json) -> str:
        """A placeholder that the request does not have yet."""
        return next(placeholder for number in self._numbers if (placeholder := f"{prefix}{number}") not in used)

    def _expectation(self, name: str, expected: Any) -> str:
        expected = structure(expected, "Expected")
        exists, value = expected.get("Exists"), expected.get("Value")
        is_comparison = expected.get("ComparisonOperator") is not None
        if exists is not None and not isinstance(exists, bool):
            raise unexpected(exists, "Exists")
        if is_comparison and exists is not None:
            raise _wrong(f"Exists and ComparisonOperator cannot be used together for Attribute: {name}", name)
        if is_comparison:
            if value is None:
                return self._condition(name, expected)
            if expected.get("AttributeValueList") is not None:
                raise _wrong(f"Value and AttributeValueList cannot be used together for Attribute: {name}", name)
            return self._condition(name, {**expected, "AttributeValueList": [value]})
        if expected.get("AttributeValueList") is not None:
            raise _wrong(f"AttributeValueList can only be used with a ComparisonOperator for Attribute: {name}", name)
        if exists is False:
            if value is not None:
                raise _wrong(f"Value cannot be used when Exists is false for Attribute: {name}", name)
            return f"attribute_not_exists({self._name(name)})"
        if value is None:
            shown = "null" if exists is None else "true"
            raise _wrong(f"Value must be provided when Exists is {shown} for Attribute: {name}", name)
        return f"{self._name(name)}={self._value(value)}"

    def _key_conditions(self, conditions: Any) -> Iterable[str]:
        # How many there may be depends on the key of the table or index.
        if not structure(conditions, "KeyConditions"):
            raise ValidationError("Conditions can be of length 1 or 2 only", field="KeyConditions")
        return [self._key_condition(name, condition) for name, condition in conditions.items()]

    def _key_condition(self, name: str, condition: Any) -> str:
        operator = structure(condition, "KeyConditions").get("ComparisonOperator")
        if _word(operator, "ComparisonOperator", _OPERATORS) not in _OF_KEYS:
            raise ValidationError("Attempted conditional constraint is not an indexable operation", field=name)
        return self._condition(name, condition)

    def _condition(self, name: str, condition: Any) -> str:
        condition = structure(condition, name)
        operator = _word(condition.get("ComparisonOperator"), "ComparisonOperator", _OPERATORS)
        text, operands_count, types = _OPERATORS[operator]
        operands = condition.get("AttributeValueList")
        if operands is None:
            operands = []
        if not isinstance(operands, list):
            raise unexpected(operands, "AttributeValueList")
        if not operands if operands_count is None else len(operands) != operands_count:
            raise _wrong(f"Invalid number of argument(s) for the {operator} ComparisonOperator", name)
        kinds = {_kind(operand) for operand in operands}
        if len(kinds) > 1:
            raise _wrong("AttributeValues inside AttributeValueList must be of same type", name)
        for kind in kinds:
            if types and kind not in types:
                raise _wrong(f"ComparisonOperator {operator} is not valid for {kind} AttributeValue type", name)
        placeholder, values = self._name(name), [self._value(operand) for operand in operands]
        return text.format(*values, name=placeholder, all=",".join(values))

    def _updates(self, updates: Any) -> Iterable[str]:
        """The sections of an update expression."""
        sections: dict[str, list[str]] = {}
        for name, update in structure(updates, "AttributeUpdates").items():
            section, text = self._update(name, structure(update, name))
            sections.setdefault(section, []).append(text)
        return [f"{section} {','.join(texts)}" for section, texts in sections.items()]

    def _update(self, name: str, update: Json) -> tuple[str, str]:
        action, value = update.get("Action"), update.get("Value")
        action = "PUT" if action is None else _word(action, "Action", ("ADD", "DELETE", "PUT"))
        placeholder = self._name(name)
        if value is None:
            if action != "DELETE":
                raise _wrong("Only DELETE action is allowed when no attribute value is specified", name)
            return "REMOVE", placeholder
        kind = _kind(value)
        match action:
            case "PUT":
                return "SET", f"{placeholder}={self._value(value)}"
            case "ADD" if kind == "L":
                before = f"if_not_exists({placeholder},{self._value({'L': []})})"
                return "SET", f"{placeholder}=list_append({before},{self._value(value)})"
            case "ADD" if kind in _ADDED:
                return "ADD", f"{placeholder} {self._value(value)}"
            case "ADD":
                raise _wrong(f"ADD action is not supported for the type {kind}", name)
            case "DELETE" if kind in _SETS:
                return "DELETE", f"{placeholder} {self._value(value)}"
        raise _wrong(f"DELETE action with value is not supported for the type {kind}", name)


def restated(error: ValidationError, request: Json) -> ValidationError:
    """The error that DynamoDB gives to a request with parameters of before for one of the request it becomes."""
    if "AttributeUpdates" in request and error.message == INCORRECT_TYPE:
        return ValidationError("Type mismatch for attribute to update", field="AttributeUpdates")
    if "AttributesToGet" in request and error.message.startswith(NO_PROJECTION):
        return ValidationError(
            error.message.replace("ProjectionExpression", "AttributesToGet", 1), field="AttributesToGet"
        )
    return error


def _check_name(name: str) -> None:
    """Raises ValidationError for a name that no attribute can have."""
    if not 1 <= len(name.encode()) <= ATTRIBUTE_NAME_BYTES_MAX:
        fault = f"is too long: limit {ATTRIBUTE_NAME_BYTES_MAX} bytes" if name else "is empty"
        raise _wrong(f"An attribute name {fault}", name[:100])


def _given(request: Json, placeholders: str) -> Json:
    """A copy of the placeholders that a request has."""
    given = request.get(placeholders)
    return {} if given is None else dict(structure(given, placeholders))


def _attribute_names(names: Any) -> list[str]:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise unexpected(names, "AttributesToGet")
    if not 1 <= len(names) <= ATTRIBUTES_TO_GET_MAX:
        raise ValidationError(
            f"AttributesToGet must have from 1 to {ATTRIBUTES_TO_GET_MAX} names",
            field="AttributesToGet",
            limit=ATTRIBUTES_TO_GET_MAX,
        )
    if len(set(names)) < len(names):
        (first, *_) = (name for number, name in enumerate(names) if name in names[:number])
        raise _wrong(f"Duplicate value in attribute name: {first}", "AttributesToGet")
    return names


def _kind(value: Any) -> str:
    """The type of an attribute value; what is wrong inside the value is told where it is read."""
    kinds = [kind for kind, content in structure(value, "AttributeValue").items() if content is not None]
    if len(kinds) != 1:
        what = "has more than one datatypes set" if kinds else "is empty"
        raise ValidationError(
            f"Supplied AttributeValue {what}, must contain exactly one of the supported datatypes",
            field="AttributeValue",
        )
    return kinds[0]


def _mixed(legacy: Collection[str], expressions: Collection[str]) -> ValidationError:
    return ValidationError(
        "Can not use both expression and non-expression parameters in the same request: Non-expression parameters: "
        f"{{{', '.join(legacy)}}} Expression parameters: {{{', '.join(expressions)}}}",
        field=min(legacy),
    )


def _wrong(message: str, field: str) -> ValidationError:
    return ValidationError(_INVALID + message, field=field)


def _word(content: Any, name: str, values: Collection[str]) -> str:
    if content is not None and not isinstance(content, str):
        raise unexpected(content, name)
    if content is None or content not in values:
        shown, rule = (
            ("null", "Member must not be null")
            if content is None
            else (f"'{content[:100]}'", f"Member must satisfy enum value set: [{', '.join(values)}]")
        )
        raise ValidationError(
            f"1 validation error detected: Value {shown} at '{lower_first(name)}' failed to satisfy constraint: {rule}",
            field=name,
        )
    return content
