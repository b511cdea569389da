"""The services' calls for who speaks JSON: the same methods, limits and errors, without a second implementation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from google.protobuf import message_factory
from google.protobuf.message import Message

from broker.encoding.json_messages import MessageCodec
from broker.model.turns import SHORT_BYTES, TURN_BYTES

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

    from broker.model.turns import Turns
    from broker.rpc.handlers import Drain
    from broker.telemetry import RpcCounter, Telemetry


# In JSON an attribute counts as three values. One costs about 0.4 us.
_FEW_VALUES: Final = 1_000
_TURN_VALUES: Final = 20_000
# What a value costs, told as bytes.
_VALUE_BYTES: Final = 4
_CONTAINERS: Final = frozenset((dict, list))


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
        turns: Turns,
    ) -> None:
        """`once` has, by name, what stands for methods that stream responses: they give the first one."""
        self._drain: Final = drain
        self._turns: Final = turns
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
                response = await call.serve(await self._message(call, request))
        except BaseException:
            call.counter.failed += 1
            raise
        if not isinstance(response, bytes):
            return call.response_codec.json_of(response)
        size = len(response)
        if size > TURN_BYTES:
            return await self._turns.apart(lambda: _json_of(call, response))
        if size > SHORT_BYTES:
            await self._turns.take(size)
        return _json_of(call, response)

    async def _message(self, call: _Call, request: Any) -> Message:
        message = call.request_class()
        values = _count_values(request)
        if values > _TURN_VALUES:
            await self._turns.apart(lambda: call.request_codec.fill(message, request))
            return message
        if values > _FEW_VALUES:
            await self._turns.take(values * _VALUE_BYTES)
        call.request_codec.fill(message, request)
        return message


def _json_of(call: _Call, response: bytes) -> dict[str, Any]:
    return call.response_codec.json_of(call.response_class.FromString(response))


def _count_values(content: Any) -> int:
    """Count the values of a request in JSON, up to more than one turn of the event loop can look at."""
    count, left = 0, [content]
    while left:
        each = left.pop()
        count += len(each)
        if count > _TURN_VALUES:
            break
        values = each.values() if type(each) is dict else each
        left += [value for value in values if type(value) in _CONTAINERS]
    return count


def _call(method: MethodDescriptor, serve: Callable[[Any], Awaitable[Message | bytes]], counter: RpcCounter) -> _Call:
    return _Call(
        request_class=message_factory.GetMessageClass(method.input_type),
        response_class=message_factory.GetMessageClass(method.output_type),
        request_codec=MessageCodec(method.input_type),
        response_codec=MessageCodec(method.output_type),
        serve=serve,
        counter=counter,
    )
