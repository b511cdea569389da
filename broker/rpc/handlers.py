"""Methods of a service object as gRPC handlers, with the one error boundary and the drain.

A method may return bytes instead of a message: they are sent as they are, so stored records are never parsed on their
way.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final

import grpc
from google.protobuf import message_factory
from google.protobuf.message import DecodeError, Message

from broker.model.errors import CorruptionError, HeadraceError, UnavailableError, ValidationError
from broker.rpc.status import abort

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

    from broker.rpc.status import Context
    from broker.telemetry import RpcCounter, Telemetry

PIPELINE_REQUESTS_MAX: Final = 16

_log: Final = logging.getLogger(__name__)


class Drain:
    """How calls end when the server is about to stop: those under way finish, open streams and new calls are told.

    Each call runs inside it, as a context.
    """

    def __init__(self) -> None:
        self._begun = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._under_way = 0

    async def run(self, timeout_seconds: float) -> None:
        """Begins the drain; returns when the calls under way have finished, or the time is up.

        Open streams and new calls end with UNAVAILABLE; their callers resume elsewhere, or here after the restart.
        """
        self._begun.set()
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._idle.wait()
        except TimeoutError:
            _log.warning("calls are still under way count=%d", self._under_way)

    async def wait(self) -> None:
        """Returns when the drain begins."""
        await self._begun.wait()

    def __enter__(self) -> None:
        """Begins a call. Raises UnavailableError if the drain has begun."""
        if self._begun.is_set():
            raise UnavailableError("The node is draining")
        self._under_way += 1
        self._idle.clear()

    def __exit__(self, *_: object) -> None:
        """Ends a call."""
        self._under_way -= 1
        if not self._under_way:
            self._idle.set()


class _Malformed:
    """Stands for a request whose bytes are not a message of its type."""

    def __init__(self, error: DecodeError) -> None:
        self.error = error


def service_handler(
    descriptor: ServiceDescriptor, service: object, drain: Drain, telemetry: Telemetry
) -> grpc.GenericRpcHandler:
    """Handlers for all methods of a service; `service` has a coroutine method of each name.

    A unary method takes (request) and returns the response. A streaming one takes (request or request
    iterator, context) and writes its responses to the context.
    """
    handlers = {}
    for method in descriptor.methods:
        deserialize = _deserializer(method)
        function = getattr(service, method.name)
        counter = telemetry.rpc_counter(f"{descriptor.name}/{method.name}")
        if not method.client_streaming and not method.server_streaming:
            handlers[method.name] = grpc.unary_unary_rpc_method_handler(
                _handler(_unary(function), counter, drain),
                request_deserializer=deserialize,
                response_serializer=_serialize,
            )
            continue
        make = (
            grpc.stream_stream_rpc_method_handler if method.client_streaming else grpc.unary_stream_rpc_method_handler
        )
        handlers[method.name] = make(
            _handler(_streaming(function, drain), counter, drain),
            request_deserializer=deserialize,
            response_serializer=_serialize,
        )
    return grpc.method_handlers_generic_handler(descriptor.full_name, handlers)


def checked(request: Any) -> Any:
    """A request of a stream of requests. Raises ValidationError if its bytes were not a message of its type."""
    if isinstance(request, _Malformed):
        raise ValidationError(
            f"The request is not a valid message, or nests too deeply: {request.error}", field="request"
        ) from request.error
    return request


def _deserializer(method: MethodDescriptor) -> Callable[[bytes], Any]:
    parse = message_factory.GetMessageClass(method.input_type).FromString

    def deserialize(data: bytes) -> Any:
        # An exception here would reach the caller as INTERNAL, outside of the error boundary.
        try:
            return parse(data)
        except DecodeError as error:
            return _Malformed(error)

    return deserialize


def _serialize(response: Message | bytes) -> bytes:
    return response if isinstance(response, bytes) else response.SerializeToString()


def _handler(
    serve: Callable[[Any, Context], Awaitable[Any]], counter: RpcCounter, drain: Drain
) -> Callable[[Any, Context], Awaitable[Any]]:
    """The one error boundary: whatever a call raises leaves it as a status."""

    async def handle(request: Any, context: Context) -> Any:
        counter.started += 1
        try:
            with drain:
                return await serve(checked(request), context)
        except HeadraceError as error:
            counter.failed += 1
            await abort(context, error)
        except Exception as error:
            counter.failed += 1
            await _abort_unexpected(context, error)

    return handle


def _unary(function: Callable[[Any], Awaitable[Any]]) -> Callable[[Any, Context], Awaitable[Any]]:
    return lambda request, _: function(request)


def _streaming(
    function: Callable[[Any, Context], Awaitable[None]], drain: Drain
) -> Callable[[Any, Context], Awaitable[None]]:
    return lambda request, context: _until_drained(function(request, context), drain)


async def _until_drained(work: Awaitable[None], drain: Drain) -> None:
    """Awaits the work of a stream, or ends it when the drain begins."""
    working = asyncio.ensure_future(work)
    draining = asyncio.ensure_future(drain.wait())
    try:
        await asyncio.wait((working, draining), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise UnavailableError("The node is draining; resume from the last position")
        await working
    finally:
        draining.cancel()
        working.cancel()
        await asyncio.wait((working, draining))
        if not working.cancelled():
            # Whatever it raised was raised above, or no longer matters to anyone.
            working.exception()


async def _abort_unexpected(context: Context, error: Exception) -> None:
    """A fault of ours: the caller learns that, the log learns the rest."""
    if isinstance(error, grpc.aio.AbortError):
        raise error
    _log.error("request failed unexpectedly", exc_info=error)
    is_corruption = isinstance(error, CorruptionError)
    await context.abort(
        grpc.StatusCode.DATA_LOSS if is_corruption else grpc.StatusCode.INTERNAL,
        "Stored data is damaged" if is_corruption else "Internal error; the broker's log says more",
    )


async def requests(iterator: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """The requests of a stream, each checked."""
    async for request in iterator:
        yield checked(request)


async def pipeline(
    iterator: AsyncIterator[Any],
    context: Context,
    start: Callable[[Any], Awaitable[asyncio.Future[Message | bytes]]],
) -> None:
    """Starts the requests of a stream in order, up to 16 ahead of the responses, which are written in order."""
    waiting: asyncio.Queue[asyncio.Future[Message | bytes] | None] = asyncio.Queue(PIPELINE_REQUESTS_MAX)

    async def respond() -> None:
        while (response := await waiting.get()) is not None:
            await context.write(await response)

    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(respond())
            try:
                async for request in requests(iterator):
                    await waiting.put(await start(request))
                await waiting.put(None)
            except HeadraceError as error:
                # What was started before is answered first; then this ends the call.
                refused: asyncio.Future[Message | bytes] = asyncio.get_running_loop().create_future()
                refused.set_exception(error)
                await waiting.put(refused)
    except BaseExceptionGroup as group:
        # The first is the cause; what came after it is its consequence.
        raise group.exceptions[0] from None
    finally:
        while not waiting.empty():
            unread = waiting.get_nowait()
            if unread is not None:
                unread.add_done_callback(_forget)


def _forget(response: asyncio.Future[Message | bytes]) -> None:
    """Takes note of an outcome that nobody will read, which asyncio would complain of."""
    if not response.cancelled():
        response.exception()
