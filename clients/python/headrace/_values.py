"""Plain Python values to protobuf and back. Every item written or read passes here, so it is kept fast.

    str -> S    int, float, Decimal -> N    bytes, bytearray, memoryview -> B    bool -> BOOL    None -> NULL
    set, frozenset of one of str, numbers, bytes -> SS, NS, BS    list, tuple -> L    mapping with str keys -> M

Back, whole numbers are int and others Decimal, so no digit is lost; sets, lists and maps are set, list and dict.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, Final, Protocol

from headrace.errors import ValidationError
from headrace.v1 import attribute_value_pb2 as pb


class _Attributes(Protocol):
    """A protobuf map of names to values; the generated stubs give each its own class."""

    def __getitem__(self, name: str, /) -> pb.AttributeValue: ...


def to_item(values: Mapping[str, Any]) -> pb.Item:
    """The item with these attributes.

    Raises: ValidationError for a value of a type that has no counterpart; it names the attribute's path.
    """
    item = pb.Item()
    fill_attributes(item.attributes, values)
    return item


def fill_attributes(attributes: _Attributes, values: Mapping[str, Any]) -> None:
    """Adds values to a protobuf map, as in an item or the placeholders of an expression.

    Raises: ValidationError as to_item().
    """
    for name, value in values.items():
        try:
            attribute = attributes[name]
        except TypeError:
            raise ValidationError(f"attribute names are str, not {type(name).__name__}: {name!r}") from None
        try:
            (_ENCODERS.get(type(value)) or _encoder_of_subclass(value))(attribute, value)
        except _UnsupportedValueError as error:
            raise error.inside(name) from None


def from_item(item: pb.Item) -> dict[str, Any]:
    """The attributes of an item."""
    return {name: _DECODERS[value.WhichOneof("kind")](value) for name, value in item.attributes.items()}


class _UnsupportedValueError(ValidationError):
    """A value that cannot be an attribute; gathers its path on the way out."""

    def __init__(self, problem: str, path: str = "") -> None:
        super().__init__(f"{path}: {problem}" if path else problem, metadata={"field": path} if path else None)
        self.problem = problem
        self.path = path

    def inside(self, step: str) -> _UnsupportedValueError:
        separator = "." if self.path and not self.path.startswith("[") else ""
        return _UnsupportedValueError(self.problem, f"{step}{separator}{self.path}")


# Encoders set the one field of the value given, which is empty.


def _encode_str(target: pb.AttributeValue, value: str) -> None:
    target.s = value


def _encode_int(target: pb.AttributeValue, value: int) -> None:
    target.n = _int_text(value)


def _encode_float(target: pb.AttributeValue, value: float) -> None:
    target.n = _float_text(value)


def _encode_decimal(target: pb.AttributeValue, value: Decimal) -> None:
    target.n = _decimal_text(value)


def _encode_bytes(target: pb.AttributeValue, value: bytes | bytearray | memoryview) -> None:
    target.b = bytes(value)


def _encode_bool(target: pb.AttributeValue, value: bool) -> None:
    target.bool = value


def _encode_none(target: pb.AttributeValue, value: None) -> None:
    del value
    target.null = True


def _encode_set(target: pb.AttributeValue, value: set[Any] | frozenset[Any]) -> None:
    if not value:
        raise _UnsupportedValueError("a set needs at least one element")
    if all(isinstance(element, str) for element in value):
        target.ss.values.extend(value)
    elif all(isinstance(element, bytes) for element in value):
        target.bs.values.extend(value)
    else:
        target.ns.values.extend([_number_text(element) for element in value])


def _encode_list(target: pb.AttributeValue, value: list[Any] | tuple[Any, ...]) -> None:
    target.l.SetInParent()
    elements = target.l.values
    for index, element in enumerate(value):
        try:
            (_ENCODERS.get(type(element)) or _encoder_of_subclass(element))(elements.add(), element)
        except _UnsupportedValueError as error:
            raise error.inside(f"[{index}]") from None


def _encode_map(target: pb.AttributeValue, value: Mapping[str, Any]) -> None:
    target.m.SetInParent()
    fill_attributes(target.m.attributes, value)


def _int_text(value: int) -> str:
    try:
        return int.__repr__(value)
    except ValueError:
        raise _UnsupportedValueError("a number has at most 38 significant digits") from None


def _float_text(value: float) -> str:
    # float's own repr: the shortest text that reads back as the same float, also for subclasses such as NumPy's.
    if value - value != 0:
        raise _UnsupportedValueError(f"{value!r} is not a number that can be stored")
    return float.__repr__(value)


def _decimal_text(value: Decimal) -> str:
    if not value.is_finite():
        raise _UnsupportedValueError(f"{value!r} is not a number that can be stored")
    return str(value)


def _number_text(value: Any) -> str:
    if isinstance(value, bool):
        pass
    elif isinstance(value, int):
        return _int_text(value)
    elif isinstance(value, float):
        return _float_text(value)
    elif isinstance(value, Decimal):
        return _decimal_text(value)
    raise _UnsupportedValueError("a set holds only str, only numbers or only bytes")


_ENCODERS: Final[dict[type, Callable[[pb.AttributeValue, Any], None]]] = {
    str: _encode_str,
    int: _encode_int,
    float: _encode_float,
    Decimal: _encode_decimal,
    bytes: _encode_bytes,
    bytearray: _encode_bytes,
    memoryview: _encode_bytes,
    bool: _encode_bool,
    type(None): _encode_none,
    set: _encode_set,
    frozenset: _encode_set,
    list: _encode_list,
    tuple: _encode_list,
    dict: _encode_map,
}


def _encoder_of_subclass(value: object) -> Callable[[pb.AttributeValue, Any], None]:
    for supertype, encoder in _ENCODERS.items():
        if isinstance(value, supertype):
            return encoder
    if isinstance(value, Mapping):
        return _encode_map
    raise _UnsupportedValueError(f"a value of type {type(value).__name__} cannot be an attribute")


def _number(text: str) -> int | Decimal:
    # The broker sends numbers in normal form: whole numbers without a point or an exponent.
    try:
        return int(text)
    except ValueError:
        return Decimal(text)


def _decode_list(value: pb.AttributeValue) -> list[Any]:
    return [_DECODERS[element.WhichOneof("kind")](element) for element in value.l.values]


def _decode_unknown(value: pb.AttributeValue) -> Any:
    raise ValidationError(f"an attribute value of a type this client does not know: {value!r}")


_DECODERS: Final[dict[str | None, Callable[[pb.AttributeValue], Any]]] = {
    "s": lambda value: value.s,
    "n": lambda value: _number(value.n),
    "b": lambda value: value.b,
    "bool": lambda value: value.bool,
    "null": lambda value: None,  # noqa: ARG005 - there is one null
    "ss": lambda value: set(value.ss.values),
    "ns": lambda value: {_number(text) for text in value.ns.values},
    "bs": lambda value: set(value.bs.values),
    "l": _decode_list,
    "m": lambda value: from_item(value.m),
    None: _decode_unknown,
}
