"""Items as JSON in AWS's manner: there and back, and what is no attribute value."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from boto3.dynamodb.types import Binary, TypeDeserializer, TypeSerializer
from hypothesis import given

from broker.encoding.items import canonicalize, parse_item
from broker.encoding.json_items import decode_json_item, encode_json_item, fill_value
from broker.model.errors import HeadraceError, SerializationError, ValidationError
from headrace.v1.attribute_value_pb2 import AttributeValue
from tests.unit.strategies import ATTRIBUTES
from tests.values import Attributes, from_item, to_item


@given(ATTRIBUTES)
def test_an_item_is_the_same_there_and_back(attributes: Attributes) -> None:
    encoded = canonicalize(to_item(attributes)).encoded
    # Through real JSON, as it travels.
    content = orjson.loads(orjson.dumps(decode_json_item(encoded)))
    assert from_item(parse_item(encode_json_item(content))) == attributes


def test_what_boto3_makes_of_values_is_read_and_written() -> None:
    plain = {"s": "", "n": 7, "b": b"\x00", "yes": True, "none": None, "l": [1, {"m": {"x"}}]}
    content = {name: TypeSerializer().serialize(value) for name, value in plain.items()}
    as_sent = json.loads(json.dumps(content, default=_binary))
    back = decode_json_item(canonicalize(parse_item(encode_json_item(as_sent))).encoded)
    back["b"]["B"] = b"\x00" if back["b"]["B"] == "AA==" else back["b"]["B"]
    read = {name: TypeDeserializer().deserialize(value) for name, value in back.items()}
    assert read == {**plain, "b": Binary(b"\x00")}


def _binary(value: object) -> object:
    import base64

    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    assert isinstance(value, set)
    return sorted(value)


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ({}, ValidationError),
        ({"S": None}, ValidationError),
        ({"S": "a", "N": "1"}, ValidationError),
        ({"X": "a"}, ValidationError),
        ({"S": 1}, SerializationError),
        ({"N": 1}, SerializationError),
        ({"B": "not base64!"}, SerializationError),
        ({"B": "é"}, SerializationError),
        ({"BOOL": "true"}, SerializationError),
        ({"NULL": 1}, SerializationError),
        ({"SS": "a"}, SerializationError),
        ({"SS": [1]}, SerializationError),
        ({"NS": [None]}, SerializationError),
        ({"BS": ["*"]}, SerializationError),
        ({"L": {}}, SerializationError),
        ({"L": [1]}, SerializationError),
        ({"M": []}, SerializationError),
        ({"M": {"a": 1}}, SerializationError),
        ("a", SerializationError),
        (None, SerializationError),
        ([], SerializationError),
    ],
)
def test_what_is_no_attribute_value_is_refused(value: Any, error: type[HeadraceError]) -> None:
    with pytest.raises(error):
        encode_json_item({"a": value})
    with pytest.raises(error):
        encode_json_item({"deep": {"L": [{"M": {"a": value}}]}})


@pytest.mark.parametrize("item", [None, [], "a", 1])
def test_what_is_no_item_is_refused(item: Any) -> None:
    with pytest.raises(SerializationError):
        encode_json_item(item)


def test_a_member_that_is_null_is_absent() -> None:
    assert decode_json_item(encode_json_item({"a": {"N": None, "S": "x"}})) == {"a": {"S": "x"}}


@pytest.mark.parametrize("kind", ["L", "M"])
def test_nesting_is_bounded(kind: str) -> None:
    def nested(containers: int) -> Any:
        value: Any = {"S": "end"}
        for _ in range(containers):
            value = {"L": [value]} if kind == "L" else {"M": {"a": value}}
        return {"a": value}

    assert canonicalize(parse_item(encode_json_item(nested(31))))
    value = AttributeValue()
    fill_value(value, nested(31)["a"])
    for containers in (32, 33, 200):
        with pytest.raises(ValidationError, match="Nesting Levels have exceeded supported limits"):
            encode_json_item(nested(containers))
        with pytest.raises(ValidationError, match="Nesting Levels have exceeded supported limits"):
            fill_value(AttributeValue(), nested(containers)["a"])
