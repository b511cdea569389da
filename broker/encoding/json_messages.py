"""Requests and responses as JSON in AWS's manner, to protobuf messages and back, by their descriptors.

A field `table_name` is the member "TableName"; an enum value BILLING_MODE_PROVISIONED is "PROVISIONED"; a time is a
number of seconds since 1970; an item is as in `json_items`, also where the message holds it as bytes. Members that a
message does not have are passed over and null is as absent, as AWS's JSON protocol has it. In responses there is what
is set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message

from broker.encoding.items import Item
from broker.encoding.json_items import decode_json_item, encode_json_item, fill_value, json_of_item
from broker.model.constraints import one_of
from broker.model.errors import ConstraintError, SerializationError
from headrace.v1 import attribute_value_pb2

_ITEM: Final = Item.DESCRIPTOR.full_name
_VALUE: Final = attribute_value_pb2.AttributeValue.DESCRIPTOR.full_name
# Words of fields that AWS writes in capitals.
_ABBREVIATIONS: Final = {"sse": "SSE", "kms": "KMS"}
_TIMESTAMP: Final = "google.protobuf.Timestamp"
_MICROS_PER_SECOND: Final = 1_000_000
_NANOS_PER_MICRO: Final = 1_000
_NANOS_PER_SECOND: Final = 1_000_000_000
_INTEGER_BOUNDS: Final = {
    FieldDescriptor.TYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.TYPE_FIXED64: (0, 2**64 - 1),
}


class MessageCodec:
    """Translates messages of one type."""

    def __init__(self, descriptor: Descriptor, known: dict[str, MessageCodec] | None = None) -> None:
        """`known` holds the codecs of the same descriptors' pool that are made already."""
        known = {} if known is None else known
        known[descriptor.full_name] = self
        self._setters: dict[str, Callable[[Message, Any], None]] = {}
        self._readers: dict[int, tuple[str, Callable[[Any], Any]]] = {}
        for field in descriptor.fields:
            name = _member_name(field.name)
            self._setters[name] = _setter(field, name, known)
            self._readers[field.number] = (name, _reader(field, known))

    def fill(self, message: Message, content: Any) -> None:
        """Sets a message's fields. Raises SerializationError for another JSON type than a field's; ValidationError."""
        if type(content) is not dict:
            raise _unexpected(content, "a structure")
        setters = self._setters
        for name, value in content.items():
            if value is not None and (set_field := setters.get(name)) is not None:
                set_field(message, value)

    def json_of(self, message: Message) -> dict[str, Any]:
        """What is set in a message."""
        readers = self._readers
        result = {}
        for field, value in message.ListFields():
            name, read = readers[field.number]
            result[name] = read(value)
        return result


def _member_name(field_name: str) -> str:
    return "".join(_ABBREVIATIONS.get(word) or word.capitalize() for word in field_name.split("_"))


def _codec(descriptor: Descriptor, known: dict[str, MessageCodec]) -> MessageCodec:
    return known.get(descriptor.full_name) or MessageCodec(descriptor, known)


def _setter(field: FieldDescriptor, name: str, known: dict[str, MessageCodec]) -> Callable[[Message, Any], None]:
    field_name, value_field = field.name, _map_value(field)
    if value_field is not None:
        return _map_setter(field_name, value_field, name, known)
    message_type = _message_type(field)
    if message_type is not None:
        fill = _filler(message_type, known)
        if field.is_repeated:

            def add_all(message: Message, content: Any) -> None:
                elements = getattr(message, field_name)
                for element in _list(content, name):
                    fill(elements.add(), element)

            return add_all

        def set_message(message: Message, content: Any) -> None:
            inner = getattr(message, field_name)
            # A message that is there but empty differs from none.
            inner.SetInParent()
            fill(inner, content)

        return set_message
    parse = _parser(field, name)
    if field.is_repeated:

        def extend(message: Message, content: Any) -> None:
            getattr(message, field_name).extend(parse(element) for element in _list(content, name))

        return extend

    def set_scalar(message: Message, content: Any) -> None:
        setattr(message, field_name, parse(content))

    return set_scalar


def _map_setter(
    field_name: str, value_field: FieldDescriptor, name: str, known: dict[str, MessageCodec]
) -> Callable[[Message, Any], None]:
    message_type = _message_type(value_field)
    if message_type is not None:
        fill = _filler(message_type, known)

        def fill_entries(message: Message, content: Any) -> None:
            entries = getattr(message, field_name)
            for key, value in _map(content, name).items():
                fill(entries[key], value)

        return fill_entries
    parse = _parser(value_field, name)

    def set_entries(message: Message, content: Any) -> None:
        entries = getattr(message, field_name)
        for key, value in _map(content, name).items():
            entries[key] = parse(value)

    return set_entries


def _filler(message_type: Descriptor, known: dict[str, MessageCodec]) -> Callable[[Any, Any], None]:
    """Sets a message of a type."""
    fillers: dict[str, Callable[[Any, Any], None]] = {
        _VALUE: fill_value,
        _ITEM: _fill_item,
        _TIMESTAMP: _fill_time,
    }
    return fillers.get(message_type.full_name) or _codec(message_type, known).fill


def _fill_item(item: Any, content: Any) -> None:
    item.MergeFromString(encode_json_item(content))


def _fill_time(timestamp: Any, content: Any) -> None:
    if type(content) not in {int, float} or not 0 <= content < 2**40:
        raise _unexpected(content, "a time in seconds since 1970")
    # A float of seconds holds the present to less than a microsecond.
    timestamp.seconds, micros = divmod(round(content * _MICROS_PER_SECOND), _MICROS_PER_SECOND)
    timestamp.nanos = micros * _NANOS_PER_MICRO


def _parser(field: FieldDescriptor, name: str) -> Callable[[Any], Any]:
    """What a scalar field holds, from JSON."""
    if field.enum_type is not None:
        return _enum_parser(field.enum_type, field.name, name)
    if field.type == FieldDescriptor.TYPE_BYTES:
        # All bytes of requests are items.
        return encode_json_item
    if field.type in _INTEGER_BOUNDS:
        return _integer_parser(name, *_INTEGER_BOUNDS[field.type])
    wanted, words = (bool, "a boolean") if field.type == FieldDescriptor.TYPE_BOOL else (str, "a string")

    def parse(content: Any) -> Any:
        if type(content) is not wanted:
            raise _unexpected(content, words, name)
        return content

    return parse


def _enum_parser(enum: EnumDescriptor, field_name: str, name: str) -> Callable[[Any], int]:
    texts = _enum_texts(enum)
    numbers = {text: number for number, text in texts.items() if number}

    def parse(content: Any) -> int:
        if type(content) is not str:
            raise _unexpected(content, "a string", name)
        if content not in numbers:
            raise ConstraintError(content, field_name, one_of(numbers))
        return numbers[content]

    return parse


def _integer_parser(name: str, least: int, most: int) -> Callable[[Any], int]:
    def parse(content: Any) -> int:
        if type(content) is not int:
            raise _unexpected(content, "an integer", name)
        if not least <= content <= most:
            raise SerializationError(f"{content} at {name} is not from {least} to {most}")
        return content

    return parse


def _reader(field: FieldDescriptor, known: dict[str, MessageCodec]) -> Callable[[Any], Any]:
    value_field = _map_value(field)
    if value_field is not None:
        read = _value_reader(value_field, known)
        return lambda entries: {key: read(value) for key, value in entries.items()}
    read = _value_reader(field, known)
    if field.is_repeated:
        return lambda elements: [read(element) for element in elements]
    return read


def _value_reader(field: FieldDescriptor, known: dict[str, MessageCodec]) -> Callable[[Any], Any]:
    if field.enum_type is not None:
        return _enum_texts(field.enum_type).__getitem__
    if field.type == FieldDescriptor.TYPE_BYTES:
        return decode_json_item
    message_type = _message_type(field)
    if message_type is None:
        return _as_it_is
    own = {_ITEM: json_of_item, _TIMESTAMP: _seconds}.get(message_type.full_name)
    return own or _codec(message_type, known).json_of


def _as_it_is(value: Any) -> Any:
    return value


def _seconds(timestamp: Any) -> float:
    seconds: float = timestamp.seconds + timestamp.nanos / _NANOS_PER_SECOND
    return seconds


def _message_type(field: FieldDescriptor) -> Descriptor | None:
    """The type of the messages that a field holds; None if it holds none, or a map."""
    message_type: Descriptor | None = field.message_type
    return None if message_type is None or message_type.GetOptions().map_entry else message_type


def _map_value(field: FieldDescriptor) -> FieldDescriptor | None:
    """What a map holds under its keys, as a field; None if the field holds no map."""
    entry = field.message_type
    return entry.fields_by_name["value"] if entry is not None and entry.GetOptions().map_entry else None


def _enum_texts(enum: EnumDescriptor) -> Mapping[int, str]:
    """The values of an enum without its name before them."""
    (zero,) = (value.name for value in enum.values if value.number == 0)
    prefix = zero.removesuffix("UNSPECIFIED")
    return {value.number: value.name.removeprefix(prefix) for value in enum.values}


def _list(content: Any, name: str) -> list[Any]:
    if type(content) is not list:
        raise _unexpected(content, "a list", name)
    if None in content:
        raise SerializationError(f"null in the list {name}")
    return content


def _map(content: Any, name: str) -> dict[str, Any]:
    if type(content) is not dict:
        raise _unexpected(content, "a map", name)
    if None in content.values():
        raise SerializationError(f"null in the map {name}")
    return content


def _unexpected(content: Any, wanted: str, name: str = "") -> SerializationError:
    where = f" at {name}" if name else ""
    return SerializationError(f"{type(content).__name__} found where {wanted} is expected{where}")
