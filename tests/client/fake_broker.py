"""A broker that does what a test tells it to: real gRPC over a real socket, answers by script."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
from google.protobuf import any_pb2, duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

from headrace.v1 import (
    backup_service_pb2_grpc,
    consumer_service_pb2_grpc,
    item_service_pb2_grpc,
    replication_service_pb2_grpc,
    stream_service_pb2_grpc,
    table_service_pb2_grpc,
)

# A script takes (request or request iterator, context) and returns or writes responses, as a servicer's method does.
Script = Callable[[Any, Any], Awaitable[Any]]

_ADD_TO_SERVER = {
    "BackupService": backup_service_pb2_grpc.add_BackupServiceServicer_to_server,
    "TableService": table_service_pb2_grpc.add_TableServiceServicer_to_server,
    "ItemService": item_service_pb2_grpc.add_ItemServiceServicer_to_server,
    "StreamService": stream_service_pb2_grpc.add_StreamServiceServicer_to_server,
    "ConsumerService": consumer_service_pb2_grpc.add_ConsumerServiceServicer_to_server,
    "ReplicationService": replication_service_pb2_grpc.add_ReplicationServiceServicer_to_server,
}


class _Scripted:
    """A servicer of any service: a method that has no script is UNIMPLEMENTED."""

    def __init__(self, scripts: Mapping[str, Script]) -> None:
        self._scripts = scripts

    def __getattr__(self, method: str) -> Script:
        # A coroutine function, for grpc.aio tells by that how to call it.
        async def serve(request: object, context: grpc.aio.ServicerContext[Any, Any]) -> object:
            if method not in self._scripts:
                await context.abort(grpc.StatusCode.UNIMPLEMENTED, method)
            return await self._scripts[method](request, context)

        return serve


@asynccontextmanager
async def fake_broker(*, port: int = 0, **scripts: Script) -> AsyncIterator[str]:
    """Serves the scripts, by RPC name, at the endpoint given."""
    server = grpc.aio.server()
    for add_to_server in _ADD_TO_SERVER.values():
        add_to_server(_Scripted(scripts), server)  # type: ignore[operator]
    bound_port = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        yield f"127.0.0.1:{bound_port}"
    finally:
        await server.stop(None)


async def abort(
    context: Any,
    code: grpc.StatusCode,
    reason: str = "",
    message: str = "no",
    *,
    metadata: Mapping[str, str] | None = None,
    retry_after_ms: int | None = None,
) -> None:
    """Ends a call as the broker does: the status, with ErrorInfo and RetryInfo as its details."""
    details = []
    if reason:
        info = error_details_pb2.ErrorInfo(domain="headrace", reason=reason, metadata=metadata or {})
        details.append(_packed(info))
    if retry_after_ms is not None:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(retry_after_ms)
        details.append(_packed(error_details_pb2.RetryInfo(retry_delay=delay)))
    status = status_pb2.Status(code=code_pb2.Code.Value(code.name), message=message, details=details)
    await context.abort(code, message, (("grpc-status-details-bin", status.SerializeToString()),))


def _packed(message: Any) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed


def answer(response: object) -> Script:
    """A script that answers each request with the same response."""

    async def script(request: object, context: object) -> object:
        del request, context
        return response

    return script
