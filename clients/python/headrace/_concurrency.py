"""The few things that asyncio and threads do differently, side by side; all else is written once, in _async.

Each class comes in two: `AsyncX` for asyncio, `X` for threads, with the same methods. `_sync` is `_async` with one
name put for the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import AsyncIterable, AsyncIterator, Coroutine, Iterable, Iterator
from typing import Any, Final, Generic, TypeVar

import grpc
import grpc.aio

from headrace import errors

Request = TypeVar("Request")
Response = TypeVar("Response")
Value = TypeVar("Value")

# A broker sends something on every open stream at least every 15 seconds. Silent for four times that, it is gone.
SILENCE_TIMEOUT_S: Final = 60.0

# What grpc.aio says, as INTERNAL, when a write meets the end of the call.
_FAILED_WRITE_DETAILS: Final = "Internal error from Core"

# How long the status of a call may come after its end has shown elsewhere: normally no time at all.
_STATUS_TIMEOUT_S: Final = 5.0


class AsyncResponses(Generic[Response]):
    """The responses of one streaming call, taken one at a time."""

    def __init__(
        self, call: grpc.aio.UnaryStreamCall[Any, Response] | grpc.aio.StreamStreamCall[Any, Response]
    ) -> None:
        self._call = call
        self._pending: asyncio.Task[Any] | None = None
        self._status: grpc.aio.AioRpcError | None = None
        self._has_status = asyncio.Event()
        self._is_closed = False
        call.add_done_callback(self._note_status)

    async def receive(self, timeout_s: float = SILENCE_TIMEOUT_S) -> Response | None:
        """The next response; None when the call has ended well or was closed here.

        Loses nothing when it is cancelled: the next receive() gets the response. One caller at a time.

        Raises: what the call ended with; UnavailableError after `timeout_s` of silence.
        """
        # grpc.aio ends the whole call when a read is cancelled, so the read is a task that outlives its waiter.
        if self._pending is None:
            self._pending = asyncio.ensure_future(self._call.read())
        read = self._pending
        done, _ = await asyncio.wait({read}, timeout=timeout_s)
        if not done:
            self._call.cancel()
            raise errors.UnavailableError(f"nothing was heard from the broker for {timeout_s:.0f} seconds")
        self._pending = None
        if self._is_closed and read.cancelled():
            return None
        try:
            response: Response | object = read.result()
        except (grpc.RpcError, asyncio.CancelledError) as error:
            raise await self.ending() from error
        return None if response is grpc.aio.EOF else response  # type: ignore[return-value]

    async def ending(self) -> errors.HeadraceError:
        """What the call ended with, given that it has ended."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_STATUS_TIMEOUT_S):
                await self._has_status.wait()
        if self._status is None or self._status.code() in {grpc.StatusCode.OK, grpc.StatusCode.CANCELLED}:
            return errors.UnavailableError("the call has ended")
        return errors.from_rpc(self._status)

    async def close(self) -> None:
        """Ends the call, if it has not ended."""
        self._is_closed = True
        self._call.cancel()
        if (read := self._pending) is not None:
            await asyncio.wait({read})
            if not read.cancelled():
                read.exception()  # taken, or asyncio would report it as never retrieved

    def _note_status(self, call: Any) -> None:
        # A write that meets the end of the call makes grpc.aio put a status of its own in the place of the true one,
        # before or after that arrives. This is called when either does, so its coroutines give it without waiting.
        status = grpc.aio.AioRpcError(
            code=_result_at_hand(call.code()),
            initial_metadata=grpc.aio.Metadata(),
            trailing_metadata=_result_at_hand(call.trailing_metadata()),
            details=_result_at_hand(call.details()),
        )
        if status.details() != _FAILED_WRITE_DETAILS:
            self._status = status
            self._has_status.set()


def _result_at_hand(coroutine: Coroutine[Any, Any, Value]) -> Value:
    """The result of a coroutine that does not wait."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: Value = stop.value
        return result
    coroutine.close()
    raise AssertionError("the status of an ended call is at hand")


class Responses(Generic[Response]):
    """The responses of one streaming call, taken one at a time."""

    def __init__(self, call: Any) -> None:
        # grpc gives no public name to what a stub's streaming methods return: an iterator that is also a grpc.Call.
        self._call = call
        self._is_closed = False
        self._is_interrupted = False

    def receive(self, timeout_s: float | None = None) -> Response | None:
        """The next response; None when the call has ended well or was closed here. One caller at a time.

        A wait that Ctrl-C interrupts ends the call: grpc cannot take up such a wait again.

        Without `timeout_s`, it is the channel's keepalive that ends the call when the broker is gone: a deadline takes
        a thread to watch it, too dear for every response.

        Raises: what the call ended with; UnavailableError after `timeout_s` of silence.
        """
        if self._is_interrupted:
            raise errors.UnavailableError("the call was interrupted")
        watch = threading.Timer(timeout_s, self._call.cancel) if timeout_s is not None else None
        if watch is not None:
            watch.start()
        try:
            response: Response | None = next(self._call, None)
        except grpc.RpcError as error:
            if self._is_closed and self._call.cancelled():
                return None
            raise self.ending() from error
        except BaseException:
            self._is_interrupted = True
            raise
        finally:
            if watch is not None:
                watch.cancel()
        return response

    def ending(self) -> errors.HeadraceError:
        """What the call ended with, given that it has ended."""
        if self._call.cancelled():
            return errors.UnavailableError("nothing was heard from the broker in time")
        if self._call.code() is grpc.StatusCode.OK:
            return errors.UnavailableError("the call has ended")
        return errors.from_rpc(self._call)

    def close(self) -> None:
        """Ends the call, if it has not ended."""
        self._is_closed = True
        self._call.cancel()


class AsyncDuplex(Generic[Request, Response]):
    """A call that streams both ways."""

    def __init__(self, method: grpc.aio.StreamStreamMultiCallable[Request, Response]) -> None:
        self._call = method()
        self._responses: AsyncResponses[Response] = AsyncResponses(self._call)
        self._sending = asyncio.Lock()

    async def send(self, request: Request) -> None:
        """Sends one request, waiting while the broker takes no more. Cancelling it ends the call.

        Raises: what the call ended with, if it has ended.
        """
        async with self._sending:
            try:
                await self._call.write(request)
            except (grpc.RpcError, asyncio.InvalidStateError) as error:
                raise await self._responses.ending() from error

    async def receive(self, timeout_s: float = SILENCE_TIMEOUT_S) -> Response | None:
        """As AsyncResponses.receive."""
        return await self._responses.receive(timeout_s)

    async def done_sending(self) -> None:
        """Tells the broker that no more requests come."""
        async with self._sending:
            await self._call.done_writing()

    async def finish(self, timeout_s: float) -> None:
        """Lets the broker take what was sent and end the call; ends it here if that takes longer than `timeout_s`."""
        try:
            with contextlib.suppress(TimeoutError, errors.HeadraceError):
                async with asyncio.timeout(timeout_s):
                    await self.done_sending()
                    while await self.receive() is not None:
                        pass
        finally:
            await self.close()

    async def close(self) -> None:
        """Ends the call, if it has not ended."""
        await self._responses.close()


class Duplex(Generic[Request, Response]):
    """A call that streams both ways."""

    def __init__(self, method: grpc.StreamStreamMultiCallable[Request, Response]) -> None:
        # gRPC takes requests from an iterator, in a thread of its own. Callers bound what they have in flight, so the
        # queue between needs no bound.
        self._requests: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._call: Any = method(iter(self._requests.get, None))
        self._responses: Responses[Response] = Responses(self._call)

    def send(self, request: Request) -> None:
        """Sends one request.

        Raises: what the call ended with, if it has ended.
        """
        if not self._call.is_active():
            raise self._responses.ending()
        self._requests.put(request)

    def receive(self, timeout_s: float | None = None) -> Response | None:
        """As Responses.receive."""
        return self._responses.receive(timeout_s)

    def done_sending(self) -> None:
        """Tells the broker that no more requests come."""
        self._requests.put(None)

    def finish(self, timeout_s: float) -> None:
        """Lets the broker take what was sent and end the call; ends it here if that takes longer than `timeout_s`."""
        watch = threading.Timer(timeout_s, self.close)
        watch.start()
        try:
            with contextlib.suppress(errors.HeadraceError):
                self.done_sending()
                while self.receive() is not None:
                    pass
        finally:
            watch.cancel()
            self.close()

    def close(self) -> None:
        """Ends the call, if it has not ended."""
        self._requests.put(None)
        self._responses.close()


AsyncLock = asyncio.Lock
Lock = threading.Lock

async_sleep = asyncio.sleep
sleep = time.sleep


async def async_iterate(values: AsyncIterable[Value] | Iterable[Value]) -> AsyncIterator[Value]:
    """The values, from either kind of iterable."""
    if isinstance(values, AsyncIterable):
        async for value in values:
            yield value
    else:
        for value in values:
            yield value


def iterate(values: Iterable[Value]) -> Iterator[Value]:
    """The values."""
    return iter(values)
