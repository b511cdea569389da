"""The gRPC server: its limits, health, reflection, and how it stops."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from broker.rpc import mirror
from broker.rpc.backup_service import BackupService
from broker.rpc.consumer_service import ConsumerService
from broker.rpc.handlers import REQUEST_BYTES_MAX, Drain, service_handler
from broker.rpc.item_service import ItemService
from broker.rpc.json_calls import JsonCalls
from broker.rpc.replication_service import ReplicationService
from broker.rpc.request_budget import RequestBudget
from broker.rpc.response_budget import ResponseBudget
from broker.rpc.stream_service import StreamService
from broker.rpc.table_service import TableService
from broker.rpc.trigger_service import TriggerService
from headrace.v1 import (
    backup_service_pb2,
    consumer_service_pb2,
    replication_service_pb2,
    stream_service_pb2,
    table_service_pb2,
    trigger_service_pb2,
)

if TYPE_CHECKING:
    from types import ModuleType

    from google.protobuf.descriptor import ServiceDescriptor

    from broker.backups.registry import Backups
    from broker.consumers.groups import ConsumerGroups
    from broker.consumers.members import Members
    from broker.replication.registry import Replicas
    from broker.storage.commit import Committer
    from broker.storage.watermark import Watermarks
    from broker.streams.iterators import Iterators
    from broker.streams.metering import Metering
    from broker.streams.tail import LogReader
    from broker.tables.capacity import CapacityMetering
    from broker.tables.catalog import Catalog
    from broker.tables.read import ItemReader
    from broker.tables.transactions import RequestTokens
    from broker.telemetry import Telemetry
    from broker.triggers.registry import Triggers

# A record may hold two images of 400 KB; pages are cut well below this, which is every client's default.
RESPONSE_BYTES_MAX: Final = 4 * 1024 * 1024
_KEEPALIVE_MS: Final = 60_000
_KEEPALIVE_TIMEOUT_MS: Final = 20_000
_PING_INTERVAL_MIN_MS: Final = 10_000
_STREAMS_PER_CONNECTION_MAX: Final = 1000
# A connection that has not begun HTTP/2 by then is closed.
_SILENT_MS: Final = 10_000
_DRAIN_SECONDS: Final = 10.0
_STOP_GRACE_SECONDS: Final = 2.0

OPTIONS: Final = (
    ("grpc.max_receive_message_length", REQUEST_BYTES_MAX),
    ("grpc.max_send_message_length", RESPONSE_BYTES_MAX),
    ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", _PING_INTERVAL_MIN_MS),
    ("grpc.max_concurrent_streams", _STREAMS_PER_CONNECTION_MAX),
    ("grpc.server_handshake_timeout_ms", _SILENT_MS),
    # Two brokers on one port would each get a part of the calls.
    ("grpc.so_reuseport", 0),
)


class AddressInUseError(Exception):
    """The address to listen on cannot be had."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """What the services work on."""

    catalog: Catalog
    committer: Committer
    items: ItemReader
    tokens: RequestTokens
    watermarks: Watermarks
    log: LogReader
    metering: Metering
    capacity: CapacityMetering
    iterators: Iterators
    groups: ConsumerGroups
    members: Members
    triggers: Triggers
    replicas: Replicas
    backups: Backups


class RpcServer:
    """The gRPC port of a node."""

    def __init__(self, engine: Engine, telemetry: Telemetry, connections_max: int) -> None:
        self._drain = Drain()
        self._requests = RequestBudget(engine.items.turns)
        # gRPC closes a connection beyond them as soon as it is made.
        limit = ("grpc.max_allowed_incoming_connections", connections_max)
        self._server = grpc.aio.server(options=(*OPTIONS, limit))
        self._health = health.aio.HealthServicer()
        e = engine
        budget = ResponseBudget()
        streams = StreamService(e.catalog, e.log, e.watermarks, e.iterators, e.metering, e.capacity, budget)
        services = (
            (_service(table_service_pb2), TableService(e.catalog)),
            (mirror.ITEM_SERVICE, ItemService(e.catalog, e.committer, e.items, e.capacity, e.tokens)),
            (_service(stream_service_pb2), streams),
            (_service(consumer_service_pb2), ConsumerService(e.catalog, e.groups, e.members, e.log, budget)),
            (_service(trigger_service_pb2), TriggerService(e.catalog, e.triggers, e.groups)),
            (
                _service(replication_service_pb2),
                ReplicationService(e.catalog, e.committer, e.items, e.replicas, e.groups),
            ),
            (_service(backup_service_pb2), BackupService(e.backups, e.catalog)),
        )
        self.json_calls = JsonCalls(
            services, {"GetRecords": streams.get_records_once}, self._drain, telemetry, e.items.turns
        )
        self._names = ["", health.SERVICE_NAME]
        for descriptor, service in services:
            self._names.append(descriptor.full_name)
            handler = service_handler(descriptor, service, self._drain, telemetry, self._requests)
            self._server.add_generic_rpc_handlers([handler])
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection([*self._names[1:], reflection.SERVICE_NAME], self._server)

    @property
    def request_bytes(self) -> int:
        """The bytes of all requests under way."""
        return self._requests.bytes

    async def start(self, address: str) -> int:
        """Listens and serves; returns the port. Raises AddressInUseError."""
        try:
            port = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise AddressInUseError(f"cannot listen on {address}") from error
        if port == 0:
            raise AddressInUseError(f"cannot listen on {address}")
        await self._server.start()
        await self._set_health(health_pb2.HealthCheckResponse.SERVING)
        return port

    async def close(self) -> None:
        """Says that it stops, ends streams with a notice, lets calls under way finish, then stops."""
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        await self._drain.run(_DRAIN_SECONDS)
        await self._server.stop(_STOP_GRACE_SECONDS)

    async def _set_health(self, status: int) -> None:
        for name in self._names:
            await self._health.set(name, status)


def _service(module: ModuleType) -> ServiceDescriptor:
    """The one service a generated module defines."""
    descriptor: ServiceDescriptor
    (descriptor,) = module.DESCRIPTOR.services_by_name.values()
    return descriptor
