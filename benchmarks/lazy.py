"""Responses as a client reads them that parses a record when it is looked at: `repeated bytes records = 1`."""

from __future__ import annotations

from typing import Any, Final

from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

from headrace.v1.consumer_service_pb2 import ConsumeResponse
from headrace.v1.stream_service_pb2 import GetRecordsResponse


def _lazy(message: Any, *fields: str) -> Any:
    """A message with the records and some other fields of this one; the rest stays unknown to it."""
    whole = DescriptorProto()
    message.DESCRIPTOR.CopyToProto(whole)
    wanted = {field.name: field for field in whole.field if field.name in {"records", *fields}}
    wanted["records"].type = FieldDescriptorProto.TYPE_BYTES
    wanted["records"].ClearField("type_name")
    lazy = DescriptorProto(name=whole.name, field=wanted.values())
    file = FileDescriptorProto(
        name="headrace/benchmarks.proto", package="headrace.benchmarks", syntax="proto3", message_type=[lazy]
    )
    added = DescriptorPool().AddSerializedFile(file.SerializeToString())
    return GetMessageClass(added.message_types_by_name[lazy.name])


RecordsLeftAsBytes: Final = _lazy(GetRecordsResponse)
DeliveryLeftAsBytes: Final = _lazy(ConsumeResponse, "shard_id", "lease_epoch", "sequence_number")
