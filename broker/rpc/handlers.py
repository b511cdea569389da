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
from google.protobuf.message import Message

from broker.encoding.wire import LOOKED_THROUGH_BYTES
from broker.model.errors import (
    CorruptionError,
    DataLossError,
    HeadraceError,
    UnavailableError,
    ValidationError,
    forget_frames,
)
from broker.rpc.request_budget import Received, Unparsed, parse
from broker.rpc.status import Ending, ending

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

    from broker.rpc.request_budget import RequestBudget
    from broker.rpc.status import Context
    from broker.telemetry import RpcCounter, Telemetry

PIPELINE_REQUESTS_MAX: Final = 16
# A BatchWriteItem may carry 16 MB (DynamoDB's limit), and some more for names.
REQUEST_BYTES_MAX: Final = 17 * 1024 * 1024
# An item takes 1.75 MiB at most, the values of expressions 2 MB, a transaction 4 MB; nothing else takes more.
SINGLE_REQUEST_BYTES_MAX: Final = 5 * 1024 * 1024
_OF_MANY_ITEMS: Final = frozenset(("BatchWriteItem",))

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


def service_handler(
    descriptor: ServiceDescriptor, service: object, drain: Drain, telemetry: Telemetry, budget: RequestBudget
) -> grpc.GenericRpcHandler:
    """Handlers for all methods of a service; `service` has a coroutine method of each name.

    A unary method takes (request) and returns the response. A streaming one takes (request or `Requests`, context) and
    writes its responses to the context.
    """
    handlers = {}
    for method in descriptor.methods:
        deserialize = _deserializer(method, budget)
        function = getattr(service, method.name)
        counter = telemetry.rpc_counter(f"{descriptor.name}/{method.name}")
        if not method.client_streaming and not method.server_streaming:
            handlers[method.name] = grpc.unary_unary_rpc_method_handler(
                _handler(_unary(function), counter, drain),
                request_deserializer=deserialize,
                response_serializer=_serialize,
            )
            continue
        make, serve = (
            (grpc.stream_stream_rpc_method_handler, _streaming(function, drain, budget))
            if method.client_streaming
            else (grpc.unary_stream_rpc_method_handler, _answering(function, drain))
        )
        handlers[method.name] = make(
            _handler(serve, counter, drain), request_deserializer=deserialize, response_serializer=_serialize
        )
    return grpc.method_handlers_generic_handler(descriptor.full_name, handlers)


class Requests:
    """The requests of a stream, one after the other. Each counts as under way until it is closed."""

    def __init__(self, iterator: AsyncIterator[Received], budget: RequestBudget) -> None:
        self._iterator = iterator
        self._budget = budget

    def __aiter__(self) -> Requests:
        return self

    async def __anext__(self) -> Received:
        """The next request, when there is room for it."""
        await self._budget.room()
        return await anext(self._iterator)


async def messages(requests: Requests) -> AsyncIterator[Any]:
    """The messages of a stream, each under way until the next one is asked for. Raises HeadraceError."""
    async for request in requests:
        try:
            yield await request.take()
        finally:
            request.close()


def _deserializer(method: MethodDescriptor, budget: RequestBudget) -> Callable[[bytes], Received]:
    message_type = message_factory.GetMessageClass(method.input_type)
    may_wait = method.client_streaming
    bytes_max = REQUEST_BYTES_MAX if may_wait or method.name in _OF_MANY_ITEMS else SINGLE_REQUEST_BYTES_MAX

    # An exception here would reach the caller as INTERNAL, outside of the error boundary.
    def content_of(data: bytes) -> Any:
        if len(data) > bytes_max:
            return ValidationError(
                f"A request of {method.name} has at most {bytes_max} bytes, this one {len(data)}",
                field="request",
                limit=bytes_max,
            )
        if not may_wait and (refusal := budget.refusal(len(data))) is not None:
            return refusal
        return Unparsed(data, message_type) if len(data) > LOOKED_THROUGH_BYTES else parse(data, message_type)

    return lambda data: Received(data, content_of, budget)


def _serialize(response: Message | bytes) -> bytes:
    return response if isinstance(response, bytes) else response.SerializeToString()


def _handler(
    serve: Callable[[Any, Context], Awaitable[Any]], counter: RpcCounter, drain: Drain
) -> Callable[[Any, Context], Awaitable[Any]]:
    """The one error boundary: whatever a call raises leaves it as a status."""

    async def handle(request: Any, context: Context) -> Any:
        counter.started += 1
        error: Exception
        try:
            with drain:
                return await serve(request, context)
        except Exception as raised:
            error = raised
        counter.failed += 1
        how = _ending(error)
        # gRPC keeps what `abort` raises, and its traceback keeps this frame: a ring that only a rare collection of
        # garbage opens. So neither the request nor the error, which may hold a part of it, is in this frame then.
        del request, error
        await context.abort(*how)
        raise AssertionError("abort always raises")

    return handle


def _unary(function: Callable[[Any], Awaitable[Any]]) -> Callable[[Received, Context], Awaitable[Any]]:
    async def serve(request: Received, _: Context) -> Any:
        try:
            return await function(await request.take())
        finally:
            request.close()

    return serve


def _answering(
    function: Callable[[Any, Context], Awaitable[None]], drain: Drain
) -> Callable[[Received, Context], Awaitable[None]]:
    """A method that answers one request with a stream."""

    async def serve(request: Received, context: Context) -> None:
        try:
            await _until_drained(function(await request.take(), context), drain)
        finally:
            request.close()

    return serve


def _streaming(
    function: Callable[[Any, Context], Awaitable[None]], drain: Drain, budget: RequestBudget
) -> Callable[[AsyncIterator[Received], Context], Awaitable[None]]:
    return lambda iterator, context: _until_drained(function(Requests(iterator, budget), context), drain)


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


def _ending(error: Exception) -> Ending:
    """Return how a call ends that raised an error. Raises what ends it without a status of ours."""
    if isinstance(error, grpc.aio.AbortError):
        raise error
    if isinstance(error, grpc.aio.InternalError):
        # gRPC's core refuses to write to a call that its client has left. That is how streams are cancelled.
        raise asyncio.CancelledError
    if isinstance(error, HeadraceError):
        how = ending(error)
    elif isinstance(error, CorruptionError):
        _log.error("a request met damaged data error=%s", error)
        how = ending(DataLossError())
    else:
        _log.error("request failed unexpectedly", exc_info=error)
        how = Ending(grpc.StatusCode.INTERNAL, "Internal error; the broker's log says more")
    forget_frames(error)
    return how


async def pipeline(
    requests: Requests,
    context: Context,
    start: Callable[[Any], Awaitable[asyncio.Future[Message | bytes]]],
) -> None:
    """Starts the requests of a stream in order, up to 16 ahead of the responses, which are written in order.

    A request is under way until its response is known.
    """
    waiting: asyncio.Queue[asyncio.Future[Message | bytes] | None] = asyncio.Queue(PIPELINE_REQUESTS_MAX)

    async def respond() -> None:
        while (response := await waiting.get()) is not None:
            await context.write(await response)

    async def begin(request: Received) -> asyncio.Future[Message | bytes]:
        try:
            response = await start(await request.take())
        except BaseException:
            request.close()
            raise
        response.add_done_callback(lambda _: request.close())
        return response

    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(respond())
            try:
                async for request in requests:
                    await waiting.put(await begin(request))
                await waiting.put(None)
            except HeadraceError as error:
                # What was started before is answered first; then this ends the call.
                forget_frames(error)
                refused: asyncio.Future[Message | bytes] = asyncio.get_running_loop().create_future()
                refused.set_exception(error)
                await waiting.put(refused)
    except BaseExceptionGroup as group:
        # The first is the cause; what came after it is its consequence.
        first = group.exceptions[0]
        # The frame that raised the group still names it.
        forget_frames(group)
        raise first from None
    finally:
        while not waiting.empty():
            unread = waiting.get_nowait()
            if unread is not None:
                unread.add_done_callback(_forget)


def _forget(response: asyncio.Future[Message | bytes]) -> None:
    """Takes note of an outcome that nobody will read, which asyncio would complain of."""
    if not response.cancelled():
        response.exception()
