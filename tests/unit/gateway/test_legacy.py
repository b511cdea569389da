"""Legacy parameters as expressions: which they become, what they mean; any JSON is rewritten or refused."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.expressions.condition import Condition, ExpressionKind, parse_condition
from broker.expressions.placeholders import Placeholders
from broker.expressions.update import Update, parse_update
from broker.gateway.aws.legacy import _LEGACY, OPERATIONS, Json, modernize
from broker.model.errors import HeadraceError, SerializationError, ValidationError
from broker.model.values import Attributes, Value
from tests.unit.expressions import evaluate

_WORDS = st.sampled_from(
    (
        "Value",
        "Exists",
        "Action",
        "ComparisonOperator",
        "AttributeValueList",
        "EQ",
        "IN",
        "BETWEEN",
        "NULL",
        "ADD",
        "DELETE",
        "AND",
        "S",
        "N",
        "SS",
        "L",
        "a",
    )
)
_JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 2) | _WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_WORDS, inner, max_size=3),
    max_leaves=8,
)
_PARAMETERS = (
    "Expected",
    "ConditionalOperator",
    "AttributeUpdates",
    "AttributesToGet",
    "KeyConditions",
    "QueryFilter",
    "ScanFilter",
    "ConditionExpression",
    "ExpressionAttributeNames",
    "ExpressionAttributeValues",
    "RequestItems",
)


@given(st.sampled_from(sorted(OPERATIONS)), st.dictionaries(st.sampled_from(_PARAMETERS), _JSON, max_size=4))
def test_any_json_is_rewritten_or_refused(operation: str, request: dict[str, Any]) -> None:
    before = repr(request)
    with suppress(HeadraceError):
        rewritten = modernize(operation, request)
        assert operation == "BatchGetItem" or _LEGACY[operation].isdisjoint(rewritten)
    assert repr(request) == before


@pytest.mark.parametrize("operation", sorted(OPERATIONS))
def test_a_request_of_today_is_left_alone(operation: str) -> None:
    request = {"TableName": "t", "Key": {"id": {"S": "a"}}, "ConditionExpression": "a = :a", "RequestItems": {"t": {}}}
    assert modernize(operation, request) is request


def test_names_and_values_are_placeholders_that_nobody_else_uses() -> None:
    rewritten = modernize(
        "Query",
        {
            "KeyConditions": {"a.b": {"ComparisonOperator": "EQ", "AttributeValueList": [{"S": "x"}]}},
            "FilterExpression": "#0 = :2",
            "ExpressionAttributeNames": {"#0": "n"},
            "ExpressionAttributeValues": {":2": {"N": "0"}},
        },
    )
    assert rewritten == {
        "KeyConditionExpression": "#1=:3",
        "FilterExpression": "#0 = :2",
        "ExpressionAttributeNames": {"#0": "n", "#1": "a.b"},
        "ExpressionAttributeValues": {":2": {"N": "0"}, ":3": {"S": "x"}},
    }


def comparison(operator: str, *operands: Any) -> Json:
    return {"ComparisonOperator": operator, "AttributeValueList": list(operands)}


X, Y = {"S": "x"}, {"S": "y"}


@pytest.mark.parametrize(
    ("expected", "text"),
    [
        ({"Value": X}, "#0=:1"),
        ({"Value": X, "Exists": True}, "#0=:1"),
        ({"Value": X, "ComparisonOperator": "GE"}, "#0>=:1"),
        ({"Exists": False}, "attribute_not_exists(#0)"),
        (comparison("EQ", X), "#0=:1"),
        (comparison("NE", X), "#0<>:1"),
        (comparison("LE", X), "#0<=:1"),
        (comparison("LT", X), "#0<:1"),
        (comparison("GE", X), "#0>=:1"),
        (comparison("GT", X), "#0>:1"),
        (comparison("NOT_NULL"), "attribute_exists(#0)"),
        (comparison("NULL"), "attribute_not_exists(#0)"),
        (comparison("CONTAINS", X), "contains(#0,:1)"),
        (comparison("NOT_CONTAINS", X), "attribute_exists(#0) AND NOT contains(#0,:1)"),
        (comparison("BEGINS_WITH", X), "begins_with(#0,:1)"),
        (comparison("IN", X, Y), "#0 IN (:1,:2)"),
        (comparison("BETWEEN", X, Y), "#0 BETWEEN :1 AND :2"),
    ],
)
def test_a_condition_as_an_expression(expected: Json, text: str) -> None:
    numbered = {
        placeholder: value for placeholder, value in zip((":1", ":2"), (X, Y), strict=True) if placeholder in text
    }
    assert modernize("DeleteItem", {"Expected": {"a.b": expected}}) == {
        "ConditionExpression": text,
        "ExpressionAttributeNames": {"#0": "a.b"},
        **({"ExpressionAttributeValues": numbered} if numbered else {}),
    }


@pytest.mark.parametrize(
    ("update", "text"),
    [
        ({"Value": X}, "SET #0=:1"),
        ({"Action": "PUT", "Value": X}, "SET #0=:1"),
        ({"Action": "ADD", "Value": {"N": "1"}}, "ADD #0 :1"),
        ({"Action": "ADD", "Value": {"NS": ["1"]}}, "ADD #0 :1"),
        ({"Action": "ADD", "Value": {"L": [X]}}, "SET #0=list_append(if_not_exists(#0,:1),:2)"),
        ({"Action": "DELETE"}, "REMOVE #0"),
        ({"Action": "DELETE", "Value": {"SS": ["x"]}}, "DELETE #0 :1"),
    ],
)
def test_an_update_as_an_expression(update: Json, text: str) -> None:
    rewritten = modernize("UpdateItem", {"AttributeUpdates": {"a.b": update}})
    assert rewritten["UpdateExpression"] == text
    assert rewritten["ExpressionAttributeNames"] == {"#0": "a.b"}


def test_sections_of_an_update_are_joined() -> None:
    put, removed = {"Value": X}, {"Action": "DELETE"}
    rewritten = modernize("UpdateItem", {"AttributeUpdates": {"a": put, "b": removed, "c": put}})
    assert rewritten["UpdateExpression"] == "SET #0=:1,#3=:4 REMOVE #2"


def test_each_table_of_a_batch_has_its_projection() -> None:
    tables = {"t": {"Keys": [], "AttributesToGet": ["a", "b.c"]}, "u": {"Keys": []}}
    assert modernize("BatchGetItem", {"RequestItems": tables}) == {
        "RequestItems": {
            "t": {
                "Keys": [],
                "ProjectionExpression": "#0,#1",
                "ExpressionAttributeNames": {"#0": "a", "#1": "b.c"},
            },
            "u": tables["u"],
        }
    }


# A value that nests as deep as JSON may cannot even be printed.
@pytest.mark.parametrize(
    "parameter", ["ConditionalOperator", "Expected", "AttributeUpdates", "ExpressionAttributeNames"]
)
def test_json_of_another_type_is_refused_however_deep(parameter: str) -> None:
    deep = orjson.loads(b"[" * 1000 + b"]" * 1000)
    expected = {"a": {"Exists": False}, "b": {"Exists": False}}
    with pytest.raises(SerializationError):
        modernize("UpdateItem", {"Expected": expected, parameter: deep})


@pytest.mark.parametrize(
    ("entry", "room"),
    [
        (comparison("EQ", X), 130),
        (comparison("NULL"), 130),
        (comparison("BETWEEN", X, X), 130),
        (comparison("NOT_CONTAINS", X), 60),
        (comparison("IN", *[X] * 100), 1),
        ({"Value": X}, 300),
        ({"Action": "ADD", "Value": {"L": [X]}}, 80),
        ({"Action": "ADD", "Value": {"N": "1"}}, 400),
        ({"Action": "DELETE"}, 400),
    ],
)
def test_an_expression_has_room_for_many(entry: Json, room: int) -> None:
    entries = {f"attribute-{number}": entry for number in range(room)}
    if "ComparisonOperator" in entry:
        condition(modernize("PutItem", {"Expected": entries}))
    else:
        update(modernize("UpdateItem", {"AttributeUpdates": entries}))


# What the Developer Guide's "Legacy conditional parameters" says, asked of the values themselves.
_TYPES = {
    **dict.fromkeys(("LE", "LT", "GE", "GT", "CONTAINS", "NOT_CONTAINS", "IN", "BETWEEN"), ("S", "N", "B")),
    "BEGINS_WITH": ("S", "B"),
}
_ORDERINGS = {"LE": "<=", "LT": "<", "GE": ">=", "GT": ">"}


def compared(attribute: Value | None, operator: str, operands: list[Value]) -> bool:
    match operator:
        case "NULL" | "NOT_NULL":
            return (attribute is None) == (operator == "NULL")
        case "EQ":
            return evaluate.equal(attribute, operands[0])
        case "NE":
            return not evaluate.equal(attribute, operands[0])
        case "CONTAINS":
            return evaluate.contains(attribute, operands[0])
        case "NOT_CONTAINS":
            return attribute is not None and not evaluate.contains(attribute, operands[0])
        case "BEGINS_WITH":
            prefix = evaluate.plain(operands[0])
            return evaluate.same_type(attribute, operands[0], "SB") and evaluate.plain(attribute).startswith(prefix)
        case "IN":
            return any(evaluate.equal(attribute, operand) for operand in operands)
        case "BETWEEN":
            return evaluate.ordered(operands[0], "<=", attribute) and evaluate.ordered(attribute, "<=", operands[1])
    return evaluate.ordered(attribute, _ORDERINGS[operator], operands[0])


@st.composite
def comparisons(draw: st.DrawFn) -> tuple[str, list[Value]]:
    operator = draw(st.sampled_from((*_TYPES, "EQ", "NE", "NULL", "NOT_NULL")))
    if operator in ("NULL", "NOT_NULL"):
        return operator, []
    kinds = _TYPES.get(operator, tuple({value[0] for value in evaluate.VALUES}))
    kind = draw(st.sampled_from(sorted(kinds)))
    values = st.sampled_from([value for value in evaluate.VALUES if value[0] == kind])
    size = {"IN": draw(st.integers(1, 3)), "BETWEEN": 2}.get(operator, 1)
    return operator, sorted((draw(values) for _ in range(size)), key=evaluate.plain) if size > 1 else [draw(values)]


@given(
    evaluate.items,
    st.dictionaries(st.sampled_from(("a", "b", "c", "gone")), comparisons(), min_size=2),
    st.sampled_from((None, "AND", "OR")),
    st.sampled_from((("PutItem", "Expected"), ("Query", "QueryFilter"), ("Scan", "ScanFilter"))),
)
def test_conditions_mean_what_they_meant(
    item: Attributes, conditions: dict[str, Any], joined_by: str | None, where: tuple[str, str]
) -> None:
    operation, parameter = where
    legacy = {
        name: comparison(operator, *(json_of(operand) for operand in operands))
        for name, (operator, operands) in conditions.items()
    }
    rewritten = modernize(operation, {parameter: legacy, "ConditionalOperator": joined_by})
    answers = [compared(item.get(name), *each) for name, each in conditions.items()]
    assert condition(rewritten).holds(item) == (any if joined_by == "OR" else all)(answers)


def updated(item: Attributes, name: str, action: str, value: Value | None) -> None:
    """Carries out one action; raises ValueError if the attribute is of another type."""
    before = item.get(name)
    if action == "PUT":
        assert value is not None
        item[name] = value
    elif value is None:
        item.pop(name, None)
    elif before is not None and before[0] != value[0]:
        raise ValueError
    elif action == "DELETE":
        left = set(before[1] if before else ()) - set(value[1])
        item.pop(name, None)
        if left:
            item[name] = (value[0], tuple(sorted(left)))
    elif value[0] == "N":
        item[name] = ("N", str(int(before[1] if before else "0") + int(value[1])))
    elif value[0] == "L":
        item[name] = ("L", [*(before[1] if before else ()), *value[1]])
    else:
        item[name] = (value[0], tuple(sorted({*(before[1] if before else ()), *value[1]})))


def _of(*kinds: str) -> st.SearchStrategy[Value]:
    return st.sampled_from([value for value in evaluate.VALUES if value[0] in kinds])


_ACTIONS = st.one_of(
    st.tuples(st.just("PUT"), st.sampled_from(evaluate.VALUES)),
    st.tuples(st.just("ADD"), _of("N", "L", "SS", "NS", "BS")),
    st.tuples(st.just("DELETE"), st.none() | _of("SS", "NS", "BS")),
)


@given(evaluate.items, st.dictionaries(st.sampled_from(("a", "b", "c", "gone")), _ACTIONS, min_size=1))
def test_updates_mean_what_they_meant(item: Attributes, actions: dict[str, tuple[str, Value | None]]) -> None:
    legacy = {
        name: {"Action": action, "Value": None if value is None else json_of(value)}
        for name, (action, value) in actions.items()
    }
    rewritten = update(modernize("UpdateItem", {"AttributeUpdates": legacy}))
    assert rewritten.creates == any(action != "DELETE" for action, _ in actions.values())
    after = dict(item)
    try:
        for name, (action, value) in actions.items():
            updated(after, name, action, value)
    except ValueError:
        with pytest.raises(ValidationError):
            rewritten.apply(item)
    else:
        assert rewritten.apply(item) == after


def condition(rewritten: Json) -> Condition:
    """The condition or filter of a request, as the engine reads it."""
    is_filter = "FilterExpression" in rewritten
    kind = ExpressionKind.FILTER if is_filter else ExpressionKind.CONDITION
    placeholders = _placeholders(rewritten)
    parsed = parse_condition(rewritten[kind], placeholders, kind)
    placeholders.check_all_used()
    return parsed


def update(rewritten: Json) -> Update:
    """The update of a request, as the engine reads it."""
    placeholders = _placeholders(rewritten)
    parsed = parse_update(rewritten["UpdateExpression"], placeholders)
    placeholders.check_all_used()
    return parsed


def _placeholders(rewritten: Json) -> Placeholders:
    values = rewritten.get("ExpressionAttributeValues", {})
    return Placeholders(
        rewritten["ExpressionAttributeNames"], {placeholder: value_of(value) for placeholder, value in values.items()}
    )


def json_of(value: Value) -> Json:
    """A value as AWS writes it, but for binary data, which stays as it is."""
    kind, content = value
    match kind:
        case "L":
            return {kind: [json_of(element) for element in content]}
        case "M":
            return {kind: {name: json_of(entry) for name, entry in content.items()}}
    return {kind: content}


def value_of(content: Json) -> Value:
    """A value from what `json_of` makes of it."""
    ((kind, inner),) = content.items()
    match kind:
        case "L":
            return kind, [value_of(element) for element in inner]
        case "M":
            return kind, {name: value_of(entry) for name, entry in inner.items()}
    return kind, tuple(inner) if kind in ("SS", "NS", "BS") else inner
