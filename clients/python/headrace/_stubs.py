"""The generated stubs of one channel, with their true types."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import grpc
import grpc.aio

from headrace import _lazy
from headrace.v1.backup_service_pb2_grpc import BackupServiceStub
from headrace.v1.consumer_service_pb2_grpc import ConsumerServiceStub
from headrace.v1.item_service_pb2_grpc import ItemServiceStub
from headrace.v1.replication_service_pb2_grpc import ReplicationServiceStub
from headrace.v1.stream_service_pb2_grpc import StreamServiceStub
from headrace.v1.table_service_pb2_grpc import TableServiceStub

if TYPE_CHECKING:
    # At run time the same stub classes serve both stacks; only the type stubs tell them apart.
    from headrace.v1.backup_service_pb2_grpc import BackupServiceAsyncStub
    from headrace.v1.consumer_service_pb2_grpc import ConsumerServiceAsyncStub
    from headrace.v1.item_service_pb2_grpc import ItemServiceAsyncStub
    from headrace.v1.replication_service_pb2_grpc import ReplicationServiceAsyncStub
    from headrace.v1.stream_service_pb2_grpc import StreamServiceAsyncStub
    from headrace.v1.table_service_pb2_grpc import TableServiceAsyncStub


def _with_lazy_records(channel: Any, streams: Any, consumers: Any) -> None:
    """Has the two calls that bring records leave them undecoded."""
    from headrace.v1.consumer_service_pb2 import ConsumeRequest
    from headrace.v1.stream_service_pb2 import GetRecordsRequest

    streams.GetRecords = channel.unary_stream(
        "/headrace.v1.StreamService/GetRecords",
        request_serializer=GetRecordsRequest.SerializeToString,
        response_deserializer=_lazy.get_records_response(),
    )
    consumers.Consume = channel.stream_stream(
        "/headrace.v1.ConsumerService/Consume",
        request_serializer=ConsumeRequest.SerializeToString,
        response_deserializer=_lazy.consume_response(),
    )


class AsyncStubs:
    """The services of a broker, for asyncio."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.tables = cast("TableServiceAsyncStub", TableServiceStub(channel))
        self.items = cast("ItemServiceAsyncStub", ItemServiceStub(channel))
        self.streams = cast("StreamServiceAsyncStub", StreamServiceStub(channel))
        self.consumers = cast("ConsumerServiceAsyncStub", ConsumerServiceStub(channel))
        self.replication = cast("ReplicationServiceAsyncStub", ReplicationServiceStub(channel))
        self.backups = cast("BackupServiceAsyncStub", BackupServiceStub(channel))
        _with_lazy_records(channel, self.streams, self.consumers)


class Stubs:
    """The services of a broker, for threads."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.tables = TableServiceStub(channel)
        self.items = ItemServiceStub(channel)
        self.streams = StreamServiceStub(channel)
        self.consumers = ConsumerServiceStub(channel)
        self.replication = ReplicationServiceStub(channel)
        self.backups = BackupServiceStub(channel)
        _with_lazy_records(channel, self.streams, self.consumers)
