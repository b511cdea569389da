"""The item service's messages with every Item left as bytes: the same on the wire, but parsed one by one, when wanted.

An item is parsed on its own for two reasons. One that is malformed spoils itself, not the batch it came in. And
protobuf's parsers follow 100 nested messages, which 32 levels of maps just fit if the item is where they begin.
"""

from __future__ import annotations

from typing import Final

from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool

from headrace.v1 import attribute_value_pb2, error_pb2, item_service_pb2

_ITEM: Final = f".{attribute_value_pb2.Item.DESCRIPTOR.full_name}"


def _mirror() -> DescriptorPool:
    pool = DescriptorPool()
    for module in (attribute_value_pb2, error_pb2, item_service_pb2):
        file = FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(file)
        if module is item_service_pb2:
            for field in (field for message in file.message_type for field in message.field):
                if field.type_name == _ITEM:
                    field.type = FieldDescriptorProto.TYPE_BYTES
                    field.ClearField("type_name")
            for message in file.message_type:
                _tell_absent_from_empty(message)
        pool.Add(file)
    return pool


def _tell_absent_from_empty(message: DescriptorProto) -> None:
    """An item without attributes is not the same as none, as also a message tells that is empty, but bytes do not."""
    for field in message.field:
        if field.type == FieldDescriptorProto.TYPE_BYTES and field.label != FieldDescriptorProto.LABEL_REPEATED:
            field.proto3_optional = True
            field.oneof_index = len(message.oneof_decl)
            message.oneof_decl.add(name=f"_{field.name}")


ITEM_SERVICE: Final = _mirror().FindServiceByName(item_service_pb2.DESCRIPTOR.services_by_name["ItemService"].full_name)
