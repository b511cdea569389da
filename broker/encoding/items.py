"""Items: protobuf to canonical bytes on the way in, bytes to plain values where an expression must look inside.

Canonical means: valid by DynamoDB's rules, numbers in normal form, sets sorted, unknown fields dropped, attributes in
a fixed order. So two items are equal exactly if their bytes are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from itertools import pairwise
from typing import Any, Final, NamedTuple, TypeAlias

from google.protobuf.message import DecodeError

from broker.encoding.wire import LOOKED_THROUGH_BYTES, look_through
from broker.model import numbers
from broker.model.errors import ValidationError
from broker.model.values import (
    ATTRIBUTE_NAME_BYTES_MAX,
    ITEM_ENCODED_BYTES_MAX,
    ITEM_SIZE_BYTES_MAX,
    NESTING_LEVELS_MAX,
    STORED_NESTING_LEVELS_MAX,
    Attributes,
    Value,
)
from headrace.v1 import attribute_value_pb2 as pb

_LIST_OR_MAP_BYTES: Final = 3
_ELEMENT_BYTES: Final = 1
# Answers are kept for so many names and so many numbers, each of at most so many characters.
_KEPT_ANSWERS_MAX: Final = 8192
_KEPT_LENGTH_MAX: Final = 48
# Lengths of names that were checked: the items of a table share their names.
_KEPT_NAME_BYTES: Final[dict[str, int]] = {}
# DiscardUnknownFields silently ends 64 messages below the one it is called on, and a level of maps takes three: it is
# called again where so many levels are left.
_LEVELS_DISCARDED_AT_ONCE: Final = 16


# An item as a message, for who must look inside; made and taken apart only here and in `keys`.
Item: TypeAlias = pb.Item


class EncodedItem(NamedTuple):
    """An item as canonical bytes of a protobuf Item, and its size by DynamoDB's rules."""

    encoded: bytes
    size_bytes: int


def parse_item(data: bytes) -> Item:
    """The item that some bytes are. Raises ValidationError if they are none, nest far too deep, or are far too many."""
    if len(data) > ITEM_ENCODED_BYTES_MAX:
        raise ValidationError(
            f"Item size has exceeded the maximum allowed size: as a message {len(data)} bytes, limit "
            f"{ITEM_ENCODED_BYTES_MAX}",
            field="item",
            limit=ITEM_ENCODED_BYTES_MAX,
        )
    if len(data) > LOOKED_THROUGH_BYTES:
        look_through(data, pb.Item)
    try:
        return pb.Item.FromString(data)
    except DecodeError as error:
        raise ValidationError(
            f"The item is not a valid message, or nests more than {NESTING_LEVELS_MAX} levels deep",
            field="item",
            limit=NESTING_LEVELS_MAX,
        ) from error


def stored_item(data: bytes) -> Item:
    """The item that canonical bytes are: what was checked when it was written need not be looked through again."""
    return pb.Item.FromString(data)


def has_many_values(holder: Item | pb.AttributeValue, most: int) -> bool:
    """Tell whether an item or a value holds more than so many values, elements of sets included."""
    return _values_left(holder, most) < 0


def _values_left(holder: Any, most: int) -> int:
    """Return how many more values are allowed; negative, and no exact number, if there are too many already."""
    # Not by its class: a value of the item service's mirror has one of its own.
    if holder.DESCRIPTOR.name == pb.AttributeValue.DESCRIPTOR.name:
        match holder.WhichOneof("kind"):
            case "m":
                return _values_left(holder.m, most)
            case "l":
                values = holder.l.values
            case "ss" | "ns" | "bs" as kind:
                return most - len(getattr(holder, kind).values)
            case _:
                return most
    else:
        values = holder.attributes.values()
    most -= len(values)
    for value in values:
        if most < 0:
            break
        most = _values_left(value, most)
    return most


def parts_of(item: Item, names: Iterable[str]) -> Item:
    """A copy of those attributes of an item that have these names."""
    part = pb.Item()
    for name in names:
        # Looking a missing name up would add it.
        if name in item.attributes:
            part.attributes[name].CopyFrom(item.attributes[name])
    return part


def canonicalize(item: Item, levels_max: int = NESTING_LEVELS_MAX) -> EncodedItem:
    """Checks an item and makes it canonical, changing the message given.

    An item that was accepted before, here or elsewhere, may have STORED_NESTING_LEVELS_MAX levels. Raises
    ValidationError for a value that breaks DynamoDB's rules or an item over 400 KB.
    """
    item.DiscardUnknownFields()
    size = 0
    attributes = item.attributes
    for name in attributes:
        value = attributes[name]
        # This loop is the hottest of the write path; a content that is there says its kind faster than the message.
        text = value.s
        if text:
            size += len(text) if text.isascii() else len(text.encode())
        elif number := value.n:
            normal, number_bytes = _normal_number(number)
            size += number_bytes
            if normal != number:
                value.n = normal
        else:
            size += _canonical_value(value, value.WhichOneof("kind"), levels_max)
        size += _KEPT_NAME_BYTES.get(name) or _name_bytes(name)
    return _encoded(item, size, "Item size")


def canonical_value(value: pb.AttributeValue) -> Value:
    """Checks one value, makes it canonical and decodes it. Raises ValidationError as `canonicalize` does."""
    value.DiscardUnknownFields()
    kind = value.WhichOneof("kind")
    _canonical_value(value, kind, NESTING_LEVELS_MAX)
    return _decode_value(value)


def decode(encoded: bytes) -> Attributes:
    """The attributes of a canonical item."""
    item = pb.Item.FromString(encoded)
    return {name: _decode_value(value) for name, value in item.attributes.items()}


def decode_some(item: Item, names: Iterable[str]) -> Attributes:
    """Those attributes of a canonical item that have these names."""
    attributes = item.attributes
    # Looking a missing name up would add it.
    return {name: _decode_value(attributes[name]) for name in names if name in attributes}


def with_changes(item: Item, size_bytes: int, changes: Mapping[str, Value | None]) -> EncodedItem:
    """A canonical item with some attributes replaced, or removed by None; changes the message given.

    Only what changes is checked. Raises ValidationError for a value that breaks a rule, or an item over 400 KB.
    """
    attributes = item.attributes
    for name, value in changes.items():
        if name in attributes:
            old = attributes[name]
            old_bytes = _canonical_value(old, old.WhichOneof("kind"), STORED_NESTING_LEVELS_MAX)
            size_bytes -= old_bytes + _name_bytes(name)
            del attributes[name]
        if value is not None:
            new = attributes[name]
            _encode_value(value, new)
            size_bytes += _canonical_value(new, new.WhichOneof("kind"), NESTING_LEVELS_MAX) + _name_bytes(name)
    return _encoded(item, size_bytes, "Item size to update")


def encode(attributes: Attributes) -> EncodedItem:
    """A canonical item of valid values, of stored ones too. Raises ValidationError if it is over 400 KB."""
    item = pb.Item()
    for name, value in attributes.items():
        _encode_value(value, item.attributes[name])
    return canonicalize(item, STORED_NESTING_LEVELS_MAX)


def _encoded(item: Item, size: int, what: str) -> EncodedItem:
    """A checked item as bytes. Raises ValidationError if it is too large, by DynamoDB's rules or as it is stored."""
    if size > ITEM_SIZE_BYTES_MAX:
        raise ValidationError(
            f"{what} has exceeded the maximum allowed size: {size} bytes, limit {ITEM_SIZE_BYTES_MAX}",
            field="item",
            limit=ITEM_SIZE_BYTES_MAX,
        )
    encoded = item.SerializeToString(deterministic=True)
    if len(encoded) > ITEM_ENCODED_BYTES_MAX:
        raise ValidationError(
            f"{what} has exceeded the maximum allowed size: with all digits of its numbers {len(encoded)} bytes, limit "
            f"{ITEM_ENCODED_BYTES_MAX}",
            field="item",
            limit=ITEM_ENCODED_BYTES_MAX,
        )
    return EncodedItem(encoded, size)


def _name_bytes(name: str) -> int:
    """The length of an attribute's name, checked."""
    length = len(name.encode())
    if not length:
        raise ValidationError("Empty attribute name", field="attribute_name", limit=1)
    if length > ATTRIBUTE_NAME_BYTES_MAX:
        raise ValidationError(
            f"Attribute name is too long: limit {ATTRIBUTE_NAME_BYTES_MAX} bytes",
            field="attribute_name",
            limit=ATTRIBUTE_NAME_BYTES_MAX,
        )
    if len(name) <= _KEPT_LENGTH_MAX and len(_KEPT_NAME_BYTES) < _KEPT_ANSWERS_MAX:
        _KEPT_NAME_BYTES[name] = length
    return length


def _canonical_number(value: pb.AttributeValue) -> int:
    text = value.n
    normal, size = _normal_number(text)
    if normal != text:
        value.n = normal
    return size


def _normal_number(text: str) -> tuple[str, int]:
    """A number's normal form and size."""
    # The numbers of real tables come again and again, so the answers for short ones are kept.
    return _kept_number(text) if len(text) <= _KEPT_LENGTH_MAX else _checked_number(text)


def _checked_number(text: str) -> tuple[str, int]:
    normal = numbers.normalize(text)
    return normal, numbers.size_bytes(normal)


_kept_number: Final = lru_cache(_KEPT_ANSWERS_MAX)(_checked_number)


def _canonical_value(value: pb.AttributeValue, kind: str | None, levels: int) -> int:
    """Make a value of at most so many levels canonical in place; return the bytes DynamoDB counts for it."""
    match kind:
        case "s":
            return len(value.s.encode())
        case "n":
            return _canonical_number(value)
        case "b":
            return len(value.b)
        case "bool":
            return 1
        case "null":
            if not value.null:
                raise ValidationError(
                    "One or more parameter values were invalid: Null attribute value types must have the value of true",
                    field="NULL",
                )
            return 1
        case "ss":
            texts = _canonical_set(value.ss.values, "SS")
            return sum(len(text.encode()) for text in texts)
        case "ns":
            value.ns.values[:] = [_normal_number(text)[0] for text in value.ns.values]
            return sum(_normal_number(text)[1] for text in _canonical_set(value.ns.values, "NS"))
        case "bs":
            return sum(len(data) for data in _canonical_set(value.bs.values, "BS"))
        case "l":
            elements = value.l.values
            _enter_levels(value, levels, is_empty=not elements)
            size = _LIST_OR_MAP_BYTES
            for element in elements:
                size += _ELEMENT_BYTES + _canonical_value(element, element.WhichOneof("kind"), levels - 1)
            return size
        case "m":
            entries = value.m.attributes
            _enter_levels(value, levels, is_empty=not entries)
            size = _LIST_OR_MAP_BYTES
            for name in entries:
                entry = entries[name]
                size += _ELEMENT_BYTES + _name_bytes(name)
                size += _canonical_value(entry, entry.WhichOneof("kind"), levels - 1)
            return size
        case _:
            raise ValidationError(
                "Supplied AttributeValue is empty, must contain exactly one of the supported datatypes",
                field="AttributeValue",
            )


def _enter_levels(value: pb.AttributeValue, levels: int, *, is_empty: bool) -> None:
    """Go into a list or map that is the first of so many levels. Raises ValidationError if none is left inside."""
    if levels == _LEVELS_DISCARDED_AT_ONCE:
        value.DiscardUnknownFields()
    if levels == 1 and not is_empty:
        raise nested_too_deep("AttributeValue")


def nested_too_deep(field: str) -> ValidationError:
    """Return the error about a value with too many levels."""
    return ValidationError(
        f"Nesting Levels have exceeded supported limits: limit {NESTING_LEVELS_MAX}",
        field=field,
        limit=NESTING_LEVELS_MAX,
    )


def _canonical_set(values: Any, type_name: str) -> list[Any]:
    """Checks and sorts a repeated field of set elements in place; the elements are text or bytes."""
    elements = sorted(values)
    if not elements:
        name = {"SS": "An string set  may not be empty", "NS": "An number set  may not be empty"}
        text = name.get(type_name, "Binary sets should not be empty")
        raise ValidationError(f"One or more parameter values were invalid: {text}", field=type_name, limit=1)
    if any(a == b for a, b in pairwise(elements)):
        raise ValidationError(
            f"One or more parameter values were invalid: Input collection of type {type_name} contains duplicates.",
            field=type_name,
        )
    values[:] = elements
    return elements


def _decode_value(value: pb.AttributeValue) -> Value:
    match value.WhichOneof("kind"):
        case "s":
            return "S", value.s
        case "n":
            return "N", value.n
        case "b":
            return "B", value.b
        case "bool":
            return "BOOL", value.bool
        case "null":
            return "NULL", True
        case "ss":
            return "SS", tuple(value.ss.values)
        case "ns":
            return "NS", tuple(value.ns.values)
        case "bs":
            return "BS", tuple(value.bs.values)
        case "l":
            return "L", [_decode_value(element) for element in value.l.values]
        case "m":
            return "M", {name: _decode_value(entry) for name, entry in value.m.attributes.items()}
        case kind:
            raise AssertionError(f"a canonical item holds no value of kind {kind}")


def _encode_value(value: Value, into: pb.AttributeValue) -> None:
    type_name, content = value
    match type_name:
        case "S":
            into.s = content
        case "N":
            into.n = content
        case "B":
            into.b = content
        case "BOOL":
            into.bool = content
        case "NULL":
            into.null = True
        case "SS":
            into.ss.values[:] = content
        case "NS":
            into.ns.values[:] = content
        case "BS":
            into.bs.values[:] = content
        case "L":
            into.l.SetInParent()
            for element in content:
                _encode_value(element, into.l.values.add())
        case "M":
            into.m.SetInParent()
            for name, entry in content.items():
                _encode_value(entry, into.m.attributes[name])
        case _:
            raise AssertionError(f"unknown value type {type_name}")
