"""Attribute values in the form that tests compare: a type tag and an immutable Python value.

    ("S", str) ("N", Decimal) ("B", bytes) ("BOOL", bool) ("NULL", True)
    ("SS" | "NS" | "BS", frozenset) ("L", tuple of values) ("M", frozenset of (name, value))

Two values are equal here exactly when DynamoDB calls them equal: numbers by value, sets and maps without order. The tag
keeps apart what Python does not (True, 1 and Decimal(1)). It shares no code with broker and SDK, so it can judge both.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Context, Decimal
from typing import Any

from headrace.v1 import attribute_value_pb2 as pb

Value = tuple[str, Any]
Attributes = dict[str, Value]
# The values of the key attributes, partition key first.
Key = tuple[Value, ...]

_EXACT = Context(prec=400)


def value(plain: object) -> Value:
    """The value that a plain Python object stands for."""
    match plain:
        case None:
            return ("NULL", True)
        case bool():
            return ("BOOL", plain)
        case str():
            return ("S", plain)
        case int() | Decimal():
            return ("N", Decimal(plain))
        case bytes():
            return ("B", plain)
        case list() | tuple():
            return ("L", tuple(value(element) for element in plain))
        case dict():
            return ("M", frozenset((name, value(member)) for name, member in plain.items()))
        case set() | frozenset():
            members = [value(member) for member in plain]
            (tag,) = {tag for tag, _ in members}
            return (tag + "S", frozenset(member for _, member in members))
    raise TypeError(f"no attribute value for {plain!r}")


def attributes(plain: Mapping[str, object] | None = None, **more: object) -> Attributes:
    """The attributes that plain Python values stand for."""
    return {name: value(member) for name, member in {**(plain or {}), **more}.items()}


def item(plain: Mapping[str, object] | None = None, **more: object) -> pb.Item:
    """The protobuf item that plain Python values stand for."""
    return to_item(attributes(plain, **more))


def to_item(content: Mapping[str, Value]) -> pb.Item:
    """The protobuf form of attributes."""
    return pb.Item(attributes={name: to_attribute_value(member) for name, member in content.items()})


def to_attribute_value(of: Value) -> pb.AttributeValue:
    """The protobuf form of a value. Numbers are spelled as Python spells a Decimal: not always the normal form."""
    match of:
        case ("S", content):
            return pb.AttributeValue(s=content)
        case ("N", content):
            return pb.AttributeValue(n=str(content))
        case ("B", content):
            return pb.AttributeValue(b=content)
        case ("BOOL", content):
            return pb.AttributeValue(bool=content)
        case ("NULL", _):
            return pb.AttributeValue(null=True)
        case ("SS", content):
            return pb.AttributeValue(ss=pb.StringSet(values=content))
        case ("NS", content):
            return pb.AttributeValue(ns=pb.NumberSet(values=map(str, content)))
        case ("BS", content):
            return pb.AttributeValue(bs=pb.BinarySet(values=content))
        case ("L", content):
            return pb.AttributeValue(l=pb.List(values=map(to_attribute_value, content)))
        case ("M", content):
            return pb.AttributeValue(m=to_item(dict(content)))
    raise TypeError(f"not a value: {of!r}")


def from_item(of: pb.Item) -> Attributes:
    """The attributes of a protobuf item."""
    return {name: from_attribute_value(member) for name, member in of.attributes.items()}


def from_attribute_value(of: pb.AttributeValue) -> Value:
    """The value of a protobuf attribute value; refuses sets with duplicates, which the broker must never send."""
    match of.WhichOneof("kind"):
        case "s":
            return ("S", of.s)
        case "n":
            return ("N", Decimal(of.n))
        case "b":
            return ("B", of.b)
        case "bool":
            return ("BOOL", of.bool)
        case "null":
            return ("NULL", of.null)
        case "ss":
            return ("SS", _without_duplicates(of.ss.values))
        case "ns":
            return ("NS", _without_duplicates(map(Decimal, of.ns.values)))
        case "bs":
            return ("BS", _without_duplicates(of.bs.values))
        case "l":
            return ("L", tuple(from_attribute_value(element) for element in of.l.values))
        case "m":
            return ("M", frozenset(from_item(of.m).items()))
    raise AssertionError("an attribute value without a value")


def key_of(content: Mapping[str, Value], key_names: tuple[str, ...]) -> Key:
    """The primary key of an item."""
    return tuple(content[name] for name in key_names)


def size_bytes(content: Mapping[str, Value]) -> int:
    """What DynamoDB counts for attributes: names and values. Source: semantics of "DynamoDB item sizes and formats"."""
    return sum(len(name.encode()) + _value_size_bytes(member) for name, member in content.items())


def _value_size_bytes(of: Value) -> int:
    tag, content = of
    match tag:
        case "S":
            return len(content.encode())
        case "B":
            return len(content)
        case "N":
            return _number_size_bytes(content)
        case "BOOL" | "NULL":
            return 1
        case "SS" | "NS" | "BS":
            return sum(_value_size_bytes((tag[0], member)) for member in content)
        case "L":
            return 3 + sum(1 + _value_size_bytes(element) for element in content)
    return 3 + sum(1 + len(name.encode()) + _value_size_bytes(member) for name, member in content)


def _number_size_bytes(number: Decimal) -> int:
    if number == 0:
        return 1
    scientific = number.normalize(_EXACT)
    digits, exponent = len(scientific.as_tuple().digits), scientific.adjusted()
    pairs_evenly = digits % 2 == 0 and exponent % 2 == 0
    return 1 + (digits + 1) // 2 + (1 if pairs_evenly else 0) + (1 if number < 0 else 0)


def _without_duplicates(members: Any) -> frozenset[Any]:
    listed = list(members)
    unique = frozenset(listed)
    assert len(unique) == len(listed), f"a set with duplicates: {listed}"
    return unique
