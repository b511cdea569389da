"""Items and attribute values as AWS writes them in JSON, to protobuf and back: {"price": {"N": "9.99"}}.

Source: Amazon DynamoDB API Reference, "AttributeValue". Binary is base64. What is checked here is the JSON alone; what
a value must keep to is checked where it is made canonical.
"""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode
from typing import Any, Final

from broker.encoding.items import Item, nested_too_deep, stored_item
from broker.model.errors import SerializationError, ValidationError
from broker.model.values import NESTING_LEVELS_MAX

_EMPTY_VALUE: Final = "Supplied AttributeValue is empty, must contain exactly one of the supported datatypes"
_SEVERAL_VALUES: Final = (
    "Supplied AttributeValue has more than one datatypes set, must contain exactly one of the supported datatypes"
)


def encode_json_item(content: Any) -> bytes:
    """An item as the bytes of a message.

    Raises SerializationError, and ValidationError for a value of no type, or of two.
    """
    item = Item()
    _fill_entries(item, content, 0)
    return item.SerializeToString()


def decode_json_item(encoded: bytes) -> dict[str, Any]:
    """An item as JSON, from its bytes."""
    return json_of_item(stored_item(encoded))


def json_of_item(item: Any) -> dict[str, Any]:
    """An item as JSON; `item` is a message of that shape."""
    attributes = item.attributes
    result = {}
    # This loop is the hottest of reads; a content that is there says its kind faster than the message.
    for name in attributes:
        value = attributes[name]
        if text := value.s:
            result[name] = {"S": text}
        elif number := value.n:
            result[name] = {"N": number}
        else:
            result[name] = _json_of(value)
    return result


def fill_value(value: Any, content: Any, level: int = 1) -> None:
    """Sets an AttributeValue message to a value in JSON. Raises as `encode_json_item` does."""
    kind, inner = _only_member(content)
    match kind:
        case "S":
            value.s = _text(inner)
        case "N":
            value.n = _text(inner)
        case "B":
            value.b = _binary(inner)
        case "BOOL":
            value.bool = _boolean(inner)
        case "NULL":
            value.null = _boolean(inner)
        case "SS":
            value.ss.values.extend(_text(element) for element in _list(inner))
            value.ss.SetInParent()
        case "NS":
            value.ns.values.extend(_text(element) for element in _list(inner))
            value.ns.SetInParent()
        case "BS":
            value.bs.values.extend(_binary(element) for element in _list(inner))
            value.bs.SetInParent()
        case "L":
            value.l.SetInParent()
            elements = _list(inner)
            _check_level(level, elements)
            for element in elements:
                fill_value(value.l.values.add(), element, level + 1)
        case "M":
            value.m.SetInParent()
            _fill_entries(value.m, inner, level)
        case _:
            raise ValidationError(_EMPTY_VALUE, field="AttributeValue")


def _fill_entries(item: Any, content: Any, level: int) -> None:
    if type(content) is not dict:
        raise _unexpected(content, "a map of attribute values")
    _check_level(level, content)
    attributes = item.attributes
    for name, value in content.items():
        # Most attributes are texts and numbers: this loop is the hottest of a write.
        if type(value) is dict and len(value) == 1:
            ((kind, inner),) = value.items()
            if kind == "S" and type(inner) is str:
                attributes[name].s = inner
                continue
            if kind == "N" and type(inner) is str:
                attributes[name].n = inner
                continue
        fill_value(attributes[name], value, level + 1)


def _only_member(content: Any) -> tuple[str, Any]:
    if type(content) is not dict:
        raise _unexpected(content, "an attribute value")
    # A member that is null counts as absent, as everywhere in AWS's JSON.
    members = [(kind, inner) for kind, inner in content.items() if inner is not None]
    if not members:
        raise ValidationError(_EMPTY_VALUE, field="AttributeValue")
    if len(members) > 1:
        raise ValidationError(_SEVERAL_VALUES, field="AttributeValue")
    return members[0]


def _check_level(level: int, content: Any) -> None:
    """Raises ValidationError if a list or map on a level has content too deep; so deep JSON is not followed."""
    if level >= NESTING_LEVELS_MAX and content:
        raise nested_too_deep("AttributeValue")


def _text(inner: Any) -> str:
    if type(inner) is not str:
        raise _unexpected(inner, "a string")
    return inner


def _binary(inner: Any) -> bytes:
    try:
        return b64decode(_text(inner), validate=True)
    except (binascii.Error, ValueError) as error:
        raise SerializationError("A binary value is not base64") from error


def _boolean(inner: Any) -> bool:
    if type(inner) is not bool:
        raise _unexpected(inner, "a boolean")
    return inner


def _list(inner: Any) -> list[Any]:
    if type(inner) is not list:
        raise _unexpected(inner, "a list")
    return inner


def _unexpected(content: Any, wanted: str) -> SerializationError:
    return SerializationError(f"{type(content).__name__} found where {wanted} is expected")


def _json_of(value: Any) -> dict[str, Any]:
    match value.WhichOneof("kind"):
        case "s":
            return {"S": value.s}
        case "n":
            return {"N": value.n}
        case "b":
            return {"B": b64encode(value.b).decode()}
        case "bool":
            return {"BOOL": value.bool}
        case "null":
            return {"NULL": True}
        case "ss":
            return {"SS": list(value.ss.values)}
        case "ns":
            return {"NS": list(value.ns.values)}
        case "bs":
            return {"BS": [b64encode(element).decode() for element in value.bs.values]}
        case "l":
            return {"L": list(map(_json_of, value.l.values))}
        case "m":
            return {"M": json_of_item(value.m)}
        case kind:
            raise AssertionError(f"a stored item holds no value of kind {kind}")
