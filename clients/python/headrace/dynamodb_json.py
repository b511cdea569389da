"""DynamoDB JSON, the form in which AWS tools write items: {"id": {"S": "a"}, "n": {"N": "1.5"}}.

Translates between it and the plain Python values the client takes and returns, without loss: numbers are Decimal, sets
are sets, binary is bytes.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, TypeVar

__all__ = ["from_item", "from_value", "number_text", "to_item", "to_value"]

NESTING_DEPTH_MAX = 32

_T = TypeVar("_T")


def to_item(document: object) -> dict[str, Any]:
    """Read an item from parsed DynamoDB JSON.

    Raises ValueError naming the attribute that is wrong.
    """
    return _read_map(document, "", 0)


def to_value(document: object) -> Any:
    """Read one attribute value, such as {"N": "1"}. Raises ValueError."""
    return _read_value(document, "", 0)


def from_item(item: Mapping[str, Any]) -> dict[str, Any]:
    """Write an item as a document ready for json.dumps. Raises ValueError for a value that DynamoDB has no type for."""
    return {name: from_value(value) for name, value in item.items()}


def from_value(value: Any) -> dict[str, Any]:
    """Write one value as {TYPE: content}. Raises ValueError for a value that DynamoDB has no type for."""
    match value:
        case None:
            return {"NULL": True}
        case bool():
            return {"BOOL": value}
        case str():
            return {"S": value}
        case int() | float() | Decimal():
            return {"N": number_text(value)}
        case bytes() | bytearray():
            return {"B": _binary_text(value)}
        case set() | frozenset() if value:
            return _from_set(value)
        case list() | tuple():
            return {"L": [from_value(element) for element in value]}
        case Mapping():
            return {"M": from_item(value)}
    raise ValueError(f"DynamoDB has no type for {value!r}")


def number_text(number: float | Decimal) -> str:
    """Write a number with all its digits, without exponent and without needless zeros. Raises ValueError for NaN."""
    if isinstance(number, int):
        return str(number)
    exact = Decimal(repr(number)) if isinstance(number, float) else number
    if not exact.is_finite():
        raise ValueError(f"DynamoDB has no number {number}")
    text = format(exact, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def _from_set(elements: set[Any] | frozenset[Any]) -> dict[str, Any]:
    writers: list[tuple[str, type | tuple[type, ...], Callable[[Any], str]]] = [
        ("SS", str, str),
        ("NS", (int, float, Decimal), number_text),
        ("BS", bytes, _binary_text),
    ]
    for tag, element_type, write in writers:
        if all(isinstance(element, element_type) and not isinstance(element, bool) for element in elements):
            return {tag: [write(element) for element in sorted(elements)]}
    raise ValueError("a set must hold only strings, only numbers or only binary values")


def _read_map(document: object, path: str, depth: int) -> dict[str, Any]:
    if not isinstance(document, dict):
        raise _wrong(path, "must be a JSON object")
    return {name: _read_value(value, f"{path}.{name}" if path else name, depth) for name, value in document.items()}


def _read_value(document: object, path: str, depth: int) -> Any:
    if not isinstance(document, dict) or len(document) != 1:
        raise _wrong(path, 'must be an object with exactly one type, such as {"S": "text"}')
    if depth > NESTING_DEPTH_MAX:
        raise _wrong(path, f"is nested deeper than {NESTING_DEPTH_MAX} levels")
    [(tag, content)] = document.items()
    match tag:
        case "M":
            return _read_map(content, path, depth + 1)
        case "L":
            elements = _checked(content, list, path, tag)
            return [_read_value(element, f"{path}[{position}]", depth + 1) for position, element in enumerate(elements)]
        case "SS" | "NS" | "BS":
            return _read_set(tag, content, path)
        case "S":
            return _checked(content, str, path, tag)
        case "N":
            return _read_number(content, path)
        case "B":
            return _read_binary(content, path)
        case "BOOL":
            return _checked(content, bool, path, tag)
        case "NULL":
            if content is not True:
                raise _wrong(path, "NULL must be true")
            return None
    raise _wrong(path, f"has the unknown type {tag!r}; it must be one of S, N, B, BOOL, NULL, SS, NS, BS, L, M")


def _read_set(tag: str, content: object, path: str) -> set[Any]:
    contents = _checked(content, list, path, tag)
    elements: set[Any]
    match tag:
        case "SS":
            elements = {_checked(element, str, path, tag) for element in contents}
        case "NS":
            elements = {_read_number(element, path) for element in contents}
        case _:
            elements = {_read_binary(element, path) for element in contents}
    if not contents:
        raise _wrong(path, f"{tag} must not be empty")
    if len(elements) != len(contents):
        raise _wrong(path, f"{tag} must not hold an element twice")
    return elements


def _read_number(content: object, path: str) -> Decimal:
    text = _checked(content, str, path, "N")
    try:
        number = Decimal(text)
    except InvalidOperation:
        number = Decimal("NaN")
    if not number.is_finite():
        raise _wrong(path, f"N must be a number as text, not {text!r}")
    return number


def _read_binary(content: object, path: str) -> bytes:
    try:
        return b64decode(_checked(content, str, path, "B"), validate=True)
    except ValueError as error:
        raise _wrong(path, "B must be base64 text") from error


def _checked(content: object, expected: type[_T], path: str, tag: str) -> _T:
    if not isinstance(content, expected):
        names = {str: "a string", list: "an array", bool: "true or false"}
        raise _wrong(path, f"{tag} must be {names[expected]}")
    return content


def _wrong(path: str, problem: str) -> ValueError:
    return ValueError(f"attribute {path}: {problem}" if path else f"the item {problem}")


def _binary_text(binary: bytes | bytearray) -> str:
    return b64encode(binary).decode("ascii")
