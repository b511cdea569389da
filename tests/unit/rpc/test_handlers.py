"""The boundary of every call: answers, statuses, the drain, and pipelines that answer in order."""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, NoReturn, cast

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from broker.model.errors import CorruptionError, ResourceInUseError, UnavailableError, ValidationError
from broker.model.turns import Turns
from broker.rpc.handlers import (
    PIPELINE_REQUESTS_MAX,
    SINGLE_REQUEST_BYTES_MAX,
    Drain,
    Requests,
    pipeline,
    service_handler,
)
from broker.rpc.request_budget import REQUESTS_BYTES_MAX, SMALL_REQUEST_BYTES, Received, RequestBudget
from broker.telemetry import RpcCounter, Telemetry
from headrace.v1 import item_service_pb2, stream_service_pb2, table_service_pb2
from tests.unit.engine import TIMEOUT_S

TABLES = table_service_pb2.DESCRIPTOR.services_by_name["TableService"]
STREAMS = stream_service_pb2.DESCRIPTOR.services_by_name["StreamService"]
ITEMS = item_service_pb2.DESCRIPTOR.services_by_name["ItemService"]

LIST = table_service_pb2.ListTablesRequest(exclusive_start_table_name="pets")


class Context:
    """A call as its handler sees it."""

    def __init__(self) -> None:
        self.written: list[Any] = []
        self.code: grpc.StatusCode | None = None
        self.details = ""
        self.reason = ""
        self.is_open = asyncio.Event()
        self.is_open.set()

    async def write(self, response: Any) -> None:
        await self.is_open.wait()
        self.written.append(response)

    async def abort(
        self, code: grpc.StatusCode, details: str, trailers: tuple[tuple[str, bytes], ...] = ()
    ) -> NoReturn:
        self.code, self.details = code, details
        for _, trailer in trailers:
            info = error_details_pb2.ErrorInfo()
            status_pb2.Status.FromString(trailer).details[0].Unpack(info)
            self.reason = info.reason
        raise grpc.aio.AbortError


class Counters:
    """Keeps the counters that a node's telemetry would read."""

    def __init__(self) -> None:
        self.counters: dict[str, RpcCounter] = {}

    def rpc_counter(self, method: str) -> RpcCounter:
        return self.counters.setdefault(method, RpcCounter())


class Call:
    """What a client would call a method with."""

    invocation_metadata = ()

    def __init__(self, method: str) -> None:
        self.method = method


class Server:
    """The handlers of a service whose methods all do the same, called as gRPC would call them."""

    def __init__(self, descriptor: Any, does: Callable[..., Awaitable[Any]]) -> None:
        self.drain = Drain()
        self.counters = Counters()

        class Service:
            def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
                return does

        telemetry = cast("Telemetry", self.counters)
        self._descriptor = descriptor
        self.budget = RequestBudget(Turns())
        self._handler: Any = service_handler(descriptor, Service(), self.drain, telemetry, self.budget)

    def method(self, name: str) -> Any:
        return self._handler.service(Call(f"/{self._descriptor.full_name}/{name}"))

    async def unary(self, request: bytes, context: Context, name: str = "ListTables") -> bytes:
        method = self.method(name)
        answer: bytes = method.response_serializer(
            await method.unary_unary(method.request_deserializer(request), context)
        )
        return answer

    async def streaming(self, request: bytes, context: Context, name: str = "GetRecords") -> None:
        method = self.method(name)
        await method.unary_stream(method.request_deserializer(request), context)


def raising(error: Exception) -> Callable[..., Awaitable[Any]]:
    async def does(*_: Any) -> NoReturn:
        raise error

    return does


def stray_exceptions() -> Callable[[], list[Any]]:
    """Notes from now on what the loop would only log, such as exceptions that nobody has looked at."""
    seen: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: seen.append(context))

    def so_far() -> list[Any]:
        gc.collect()
        return seen

    return so_far


async def test_a_call_is_answered_and_counted() -> None:
    async def does(request: table_service_pb2.ListTablesRequest) -> table_service_pb2.ListTablesResponse:
        return table_service_pb2.ListTablesResponse(table_names=[request.exclusive_start_table_name])

    server = Server(TABLES, does)
    answer = await server.unary(LIST.SerializeToString(), Context())
    assert table_service_pb2.ListTablesResponse.FromString(answer).table_names == ["pets"]
    counter = server.counters.counters["TableService/ListTables"]
    assert (counter.started, counter.failed) == (1, 0)


async def test_bytes_are_sent_as_they_are() -> None:
    async def does(_: Any) -> bytes:
        return b"\x0a\x01x"

    assert await Server(TABLES, does).unary(b"", Context()) == b"\x0a\x01x"


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (ValidationError("bad"), grpc.StatusCode.INVALID_ARGUMENT, "VALIDATION"),
        (ResourceInUseError("taken"), grpc.StatusCode.FAILED_PRECONDITION, "RESOURCE_IN_USE"),
        (CorruptionError("broken"), grpc.StatusCode.DATA_LOSS, "DATA_LOSS"),
        (KeyError("our fault"), grpc.StatusCode.INTERNAL, ""),
    ],
)
@pytest.mark.parametrize("kind", ["unary", "streaming"])
async def test_an_error_ends_the_call_with_its_status(
    error: Exception, code: grpc.StatusCode, reason: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    server, context = Server(TABLES if kind == "unary" else STREAMS, raising(error)), Context()
    with pytest.raises(grpc.aio.AbortError):
        await (server.unary(b"", context) if kind == "unary" else server.streaming(b"", context))
    assert (context.code, context.reason) == (code, reason)
    (counter,) = (c for c in server.counters.counters.values() if c.started)
    assert counter.failed == 1
    # What is ours stands in the log and not in the answer.
    assert ("our fault" in caplog.text) == isinstance(error, KeyError)
    assert "our fault" not in context.details


async def test_bytes_that_are_no_request_are_refused() -> None:
    server, context = Server(TABLES, raising(AssertionError("not reached"))), Context()
    with pytest.raises(grpc.aio.AbortError):
        await server.unary(b"\x0a\xff", context)
    assert (context.code, context.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "VALIDATION")
    server, context = Server(STREAMS, raising(AssertionError("not reached"))), Context()
    with pytest.raises(grpc.aio.AbortError):
        await server.streaming(b"\x0a\xff", context)
    assert context.reason == "VALIDATION"


# The drain: calls under way finish, open streams end, new ones are told to go elsewhere.


async def test_a_drain_waits_for_the_calls_under_way_and_refuses_new_ones() -> None:
    gate = asyncio.Event()

    async def does(_: Any) -> bytes:
        await gate.wait()
        return b"done"

    server = Server(TABLES, does)
    under_way = asyncio.create_task(server.unary(b"", Context()))
    await asyncio.sleep(0)
    draining = asyncio.create_task(server.drain.run(TIMEOUT_S))
    await asyncio.sleep(0)
    late = Context()
    with pytest.raises(grpc.aio.AbortError):
        await server.unary(b"", late)
    assert (late.code, late.reason) == (grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE")
    assert not draining.done()
    gate.set()
    assert await under_way == b"done"
    await draining


async def test_an_idle_server_drains_at_once() -> None:
    await Drain().run(0)


async def test_a_drain_does_not_wait_for_ever(caplog: pytest.LogCaptureFixture) -> None:
    drain = Drain()
    with drain, caplog.at_level(logging.WARNING):
        await drain.run(0.001)
    assert "count=1" in caplog.text


async def test_an_open_stream_ends_with_unavailable_when_the_drain_begins() -> None:
    ended = asyncio.Event()

    async def does(_: Any, context: Context) -> None:
        await context.write(b"first")
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    server, context = Server(STREAMS, does), Context()
    streaming = asyncio.create_task(server.streaming(b"", context))
    await turns()
    await server.drain.run(TIMEOUT_S)
    with pytest.raises(grpc.aio.AbortError):
        await streaming
    assert ended.is_set()
    assert (context.code, context.written) == (grpc.StatusCode.UNAVAILABLE, [b"first"])


async def test_a_stream_that_ends_by_itself_just_ends() -> None:
    async def does(_: Any, context: Context) -> None:
        await context.write(b"all")

    server, context = Server(STREAMS, does), Context()
    await server.streaming(b"", context)
    assert (context.written, context.code) == ([b"all"], None)
    await server.drain.run(0)


async def test_a_client_that_goes_away_ends_the_work() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def does(*_: Any) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    server = Server(STREAMS, does)
    streaming = asyncio.create_task(server.streaming(b"", Context()))
    await begun.wait()
    streaming.cancel()
    with pytest.raises(asyncio.CancelledError):
        await streaming
    assert ended.is_set()
    await server.drain.run(0)


# Pipelines.


def _parsed(message: Any, _: bytes) -> Any:
    return message


def numbers(count: int, budget: RequestBudget | None = None) -> Requests:
    """A stream of requests, each a number and of 10 bytes."""
    budget = budget or RequestBudget(Turns())

    async def sent() -> AsyncIterator[Received]:
        for number in range(count):
            yield Received(bytes(10), partial(_parsed, number), budget)

    return Requests(sent(), budget)


class Work:
    """Starts a future for each request, which a test ends as it likes."""

    def __init__(self) -> None:
        self.started: list[asyncio.Future[Any]] = []

    async def start(self, _: int) -> asyncio.Future[Any]:
        self.started.append(asyncio.get_running_loop().create_future())
        return self.started[-1]


async def turns() -> None:
    for _ in range(30):
        await asyncio.sleep(0)


async def test_a_pipeline_answers_in_order_whatever_ends_first() -> None:
    work, context = Work(), Context()
    running = asyncio.create_task(pipeline(numbers(3), cast("Any", context), work.start))
    await turns()
    for place in (2, 0):
        work.started[place].set_result(place)
    await turns()
    assert context.written == [0]
    work.started[1].set_result(1)
    async with asyncio.timeout(TIMEOUT_S):
        await running
    assert context.written == [0, 1, 2]


async def test_a_pipeline_is_bounded() -> None:
    work, context = Work(), Context()
    running = asyncio.create_task(pipeline(numbers(100), cast("Any", context), work.start))
    for _ in range(10):
        await turns()
    # The responder waits for one, the queue holds as many as it may, and one more waits for its place.
    assert PIPELINE_REQUESTS_MAX <= len(work.started) <= PIPELINE_REQUESTS_MAX + 2
    place = 0
    while not running.done():
        for future in work.started[place:]:
            future.set_result(place)
            place += 1
        await turns()
    await running
    assert context.written == list(range(100))


async def test_a_refused_request_ends_the_call_after_those_before_it_are_answered() -> None:
    work, context = Work(), Context()

    async def start(request: int) -> asyncio.Future[Any]:
        if request == 2:
            raise ValidationError("bad")
        return await work.start(request)

    running = asyncio.create_task(pipeline(numbers(9), cast("Any", context), start))
    await turns()
    assert len(work.started) == 2
    for future in reversed(work.started):
        future.set_result("answer")
    async with asyncio.timeout(TIMEOUT_S):
        with pytest.raises(ValidationError):
            await running
    assert context.written == ["answer", "answer"]


async def test_a_failed_answer_ends_the_call_and_leaves_nothing_behind() -> None:
    stray = stray_exceptions()
    gate, context = asyncio.Event(), Context()

    async def answer(number: int) -> int:
        await gate.wait()
        if number:
            raise UnavailableError("the disk is gone")
        return number

    async def start(number: int) -> asyncio.Future[Any]:
        return asyncio.ensure_future(answer(number))

    async def run() -> None:
        running = asyncio.create_task(pipeline(numbers(9), cast("Any", context), start))
        await turns()
        gate.set()
        async with asyncio.timeout(TIMEOUT_S):
            with pytest.raises(UnavailableError):
                await running

    await run()
    assert context.written == [0]
    await turns()
    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []
    assert stray() == []


async def test_an_iterator_that_fails_ends_the_call() -> None:
    budget = RequestBudget(Turns())

    async def failing() -> AsyncIterator[Received]:
        yield Received(b"", lambda _: 0, budget)
        raise ConnectionError("gone")

    work = Work()
    running = asyncio.create_task(pipeline(Requests(failing(), budget), cast("Any", Context()), work.start))
    async with asyncio.timeout(TIMEOUT_S):
        with pytest.raises(ConnectionError):
            await running


async def test_a_malformed_request_in_a_stream_ends_the_call() -> None:
    server = Server(ITEMS, raising(AssertionError("not reached")))
    method = server.method("WriteItems")
    malformed = method.request_deserializer(b"\x0a\xff")

    async def sent() -> AsyncIterator[Any]:
        yield malformed

    with pytest.raises(ValidationError, match="not a valid message"):
        await pipeline(Requests(sent(), server.budget), cast("Any", Context()), Work().start)
    assert server.budget.bytes == 0


# What a request takes: it counts from its bytes to its answer, and a refused one leaves nothing behind.


class Large:
    """A part of a request, whose end a test can see."""


@pytest.mark.parametrize("kind", ["unary", "streaming"])
async def test_a_refused_call_keeps_nothing_of_its_request(kind: str) -> None:
    async def does(*_: Any) -> NoReturn:
        part = Large()
        parts.append(weakref.ref(part))
        error = ValidationError("bad")
        # Errors may name the value that they refuse.
        error.value = part  # type: ignore[attr-defined]
        raise error from KeyError("its cause")

    parts: list[weakref.ref[Large]] = []
    server, context = Server(TABLES if kind == "unary" else STREAMS, does), Context()
    gc.disable()
    try:
        with pytest.raises(grpc.aio.AbortError):
            await (server.unary(b"", context) if kind == "unary" else server.streaming(b"", context))
        await turns()
        assert [part() for part in parts] == [None]
    finally:
        gc.enable()


async def test_a_request_counts_until_it_is_answered() -> None:
    seen: list[int] = []

    async def does(_: Any) -> bytes:
        seen.append(server.budget.bytes)
        return b""

    server = Server(TABLES, does)
    await server.unary(LIST.SerializeToString(), Context())
    assert seen == [len(LIST.SerializeToString())]
    assert server.budget.bytes == 0


@pytest.mark.parametrize(("under_way", "reason"), [(0, ""), (1, "THROTTLING")])
async def test_a_request_beyond_the_bound_is_refused_before_it_is_parsed(under_way: int, reason: str) -> None:
    async def does(_: Any) -> bytes:
        return b""

    server, context = Server(TABLES, does), Context()
    request = table_service_pb2.ListTablesRequest(exclusive_start_table_name="x" * SMALL_REQUEST_BYTES)
    data = request.SerializeToString()
    server.budget.take(REQUESTS_BYTES_MAX - len(data) + under_way)
    if reason:
        with pytest.raises(grpc.aio.AbortError):
            # These bytes are no message: nobody has looked.
            await server.unary(b"\xff" * len(data), context)
    else:
        await server.unary(data, context)
    assert context.reason == reason
    assert server.budget.bytes == REQUESTS_BYTES_MAX - len(data) + under_way


async def test_a_small_request_is_taken_beyond_the_bound() -> None:
    server = Server(TABLES, raising(ResourceInUseError("reached")))
    context = Context()
    server.budget.take(REQUESTS_BYTES_MAX)
    with pytest.raises(grpc.aio.AbortError):
        await server.unary(LIST.SerializeToString(), context)
    assert context.reason == "RESOURCE_IN_USE"


async def test_a_stream_is_read_on_when_there_is_room() -> None:
    budget = RequestBudget(Turns(), bytes_max=20)
    work, context = Work(), Context()
    running = asyncio.create_task(pipeline(numbers(3, budget), cast("Any", context), work.start))
    await turns()
    assert (len(work.started), budget.bytes) == (2, 20)
    work.started[0].set_result("answer")
    await turns()
    assert (len(work.started), budget.bytes) == (3, 20)
    for future in work.started[1:]:
        future.set_result("answer")
    async with asyncio.timeout(TIMEOUT_S):
        await running
    assert budget.bytes == 0


async def test_a_stream_that_is_left_gives_back_what_it_took() -> None:
    budget = RequestBudget(Turns())
    work = Work()
    running = asyncio.create_task(pipeline(numbers(3, budget), cast("Any", Context()), work.start))
    await turns()
    assert budget.bytes == 30
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    for future in work.started:
        if not future.done():
            future.set_result("answer")
    await turns()
    assert budget.bytes == 0


async def test_a_call_whose_client_has_left_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    server, context = Server(STREAMS, raising(grpc.aio.InternalError("core refuses"))), Context()
    with pytest.raises(asyncio.CancelledError):
        await server.streaming(b"", context)
    assert context.code is None
    assert caplog.text == ""


@pytest.mark.parametrize(("more", "says"), [(0, "not a valid message"), (1, "at most 5242880 bytes")])
async def test_a_request_has_a_length_that_is_looked_at_before_it_is_parsed(more: int, says: str) -> None:
    server, context = Server(TABLES, raising(AssertionError("not reached"))), Context()
    with pytest.raises(grpc.aio.AbortError):
        await server.unary(b"\xff" * (SINGLE_REQUEST_BYTES_MAX + more), context)
    assert context.reason == "VALIDATION"
    assert says in context.details
    assert server.budget.bytes == 0
