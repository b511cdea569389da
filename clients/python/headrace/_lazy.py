"""Records as they arrived: decoded when somebody looks at them, for most of the time goes into decoding.

A message and a field of bytes are the same on the wire. So responses are parsed by twins of their messages in which
each record is bytes, and records by a twin in which the keys and images are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

from headrace.v1 import attribute_value_pb2, consumer_service_pb2, record_pb2, stream_service_pb2

if TYPE_CHECKING:
    from google.protobuf.descriptor import FileDescriptor
    from google.protobuf.descriptor_pool import DescriptorPool

Value = TypeVar("Value")


class Lazy(Sequence[Value]):
    """Values that are each decoded, once, when they are first asked for."""

    __slots__ = ("_decode", "_values", "encoded")

    def __init__(self, encoded: Iterable[bytes], decode: Callable[[bytes], Value]) -> None:
        self.encoded = list(encoded)
        self._decode = decode
        self._values: list[Value | None] = [None] * len(self.encoded)

    def __len__(self) -> int:
        return len(self.encoded)

    @overload
    def __getitem__(self, index: int) -> Value: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Value]: ...
    def __getitem__(self, index: int | slice) -> Value | Sequence[Value]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        value = self._values[index]
        if value is None:
            value = self._values[index] = self._decode(self.encoded[index])
        return value

    def __iter__(self) -> Iterator[Value]:
        for place, value in enumerate(self._values):
            yield self[place] if value is None else value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return f"<{len(self)} records>"


@cache
def get_records_response() -> Callable[[bytes], stream_service_pb2.GetRecordsResponse]:
    """Parses a GetRecordsResponse; its records are bytes, whatever the type says."""
    return _twin_parser(stream_service_pb2.GetRecordsResponse, record_pb2.Record)


@cache
def consume_response() -> Callable[[bytes], consumer_service_pb2.ConsumeResponse]:
    """Parses a ConsumeResponse; its records are bytes, whatever the type says."""
    return _twin_parser(consumer_service_pb2.ConsumeResponse, record_pb2.Record)


@cache
def record() -> Callable[[bytes], record_pb2.Record]:
    """Parses a Record; its keys and images are bytes, whatever the type says. What is absent is empty."""
    return _twin_parser(record_pb2.Record, attribute_value_pb2.Item)


def encoded_records(
    response: stream_service_pb2.GetRecordsResponse | consumer_service_pb2.ConsumeResponse,
) -> Sequence[bytes]:
    """The records of a response that was parsed here."""
    return cast("Sequence[bytes]", response.records)


def _twin_parser(message: type[Value], opaque: type[Any]) -> Callable[[bytes], Value]:
    """Parses bytes of `message`, with its fields of the type `opaque` left as bytes."""
    from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
    from google.protobuf.descriptor_pool import DescriptorPool
    from google.protobuf.message_factory import GetMessageClass

    descriptor = cast("Any", message).DESCRIPTOR
    twin = FileDescriptorProto()
    descriptor.file.CopyToProto(twin)
    type_name = f".{opaque.DESCRIPTOR.full_name}"
    for field in (field for each in twin.message_type for field in each.field if each.name == descriptor.name):
        if field.type_name == type_name:
            field.type = FieldDescriptorProto.TYPE_BYTES
            field.ClearField("type_name")
    pool = DescriptorPool()
    _add_dependencies(pool, descriptor.file, set())
    pool.Add(twin)
    parse: Callable[[bytes], Value] = GetMessageClass(pool.FindMessageTypeByName(descriptor.full_name)).FromString  # type: ignore[assignment]
    return parse


def _add_dependencies(pool: DescriptorPool, file: FileDescriptor, added: set[str]) -> None:
    for dependency in file.dependencies:
        if dependency.name not in added:
            added.add(dependency.name)
            _add_dependencies(pool, dependency, added)
            pool.AddSerializedFile(dependency.serialized_pb)
