"""Whatever JSON is where legacy parameters go, a request is rewritten or refused; one without them is left alone."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.gateway.aws.legacy import _LEGACY, OPERATIONS, modernize
from broker.model.errors import HeadraceError

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
            "FilterExpression": "#legacy1 = :legacy1",
            "ExpressionAttributeNames": {"#legacy1": "n"},
            "ExpressionAttributeValues": {":legacy1": {"N": "0"}},
        },
    )
    assert rewritten == {
        "KeyConditionExpression": "#legacy2 = :legacy2",
        "FilterExpression": "#legacy1 = :legacy1",
        "ExpressionAttributeNames": {"#legacy1": "n", "#legacy2": "a.b"},
        "ExpressionAttributeValues": {":legacy1": {"N": "0"}, ":legacy2": {"S": "x"}},
    }
