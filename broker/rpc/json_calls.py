"""The services' calls for who speaks JSON: the same methods, limits and errors, without a second implementation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from google.protobuf import message_factory
from google.protobuf.message import Message

from broker.encoding.json_messages import MessageCodec

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

    from broker.rpc.handlers import Drain
    from broker.telemetry import RpcCounter, Telemetry


class _Call(NamedTuple):
    request_class: Callable[[], Message]
    response_class: Any
    request_codec: MessageCodec
    response_codec: MessageCodec
    serve: Callable[[Any], Awaitable[Message | bytes]]
    counter: RpcCounter


class JsonCalls:
    """Unary methods by their names, which are unique among the services; requests and responses are JSON values."""

    def __init__(
        self,
        services: Iterable[tuple[ServiceDescriptor, object]],
        once: Mapping[str, Callable[[Any], Awaitable[Message | bytes]]],
        drain: Drain,
        telemetry: Telemetry,
    ) -> None:
        """`once` has, by name, what stands for methods that stream responses: they give the first one."""
        self._drain: Final = drain
        self._calls: dict[str, _Call] = {}
        for service, implementation in services:
            for method in service.methods:
                is_unary = not method.client_streaming and not method.server_streaming
                serve = once.get(method.name) or (getattr(implementation, method.name) if is_unary else None)
                if serve is not None:
                    counter = telemetry.rpc_counter(f"{service.name}/{method.name}")
                    self._calls[method.name] = _call(method, serve, counter)

    async def __call__(self, name: str, request: Any) -> dict[str, Any]:
        """Carries a call out; the response has what is set. Raises HeadraceError."""
        call = self._calls[name]
        call.counter.started += 1
        try:
            with self._drain:
                message = call.request_class()
                call.request_codec.fill(message, request)
                response = await call.serve(message)
        except BaseException:
            call.counter.failed += 1
            raise
        if isinstance(response, bytes):
            response = call.response_class.FromString(response)
        return call.response_codec.json_of(response)


def _call(method: MethodDescriptor, serve: Callable[[Any], Awaitable[Message | bytes]], counter: RpcCounter) -> _Call:
    return _Call(
        request_class=message_factory.GetMessageClass(method.input_type),
        response_class=message_factory.GetMessageClass(method.output_type),
        request_codec=MessageCodec(method.input_type),
        response_codec=MessageCodec(method.output_type),
        serve=serve,
        counter=counter,
    )
