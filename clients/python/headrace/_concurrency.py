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
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from typing import Any, Final, Generic, TypeVar

import grpc
import grpc.aio

from headrace import errors

Request = TypeVar("Request")
Response = TypeVar("Response")
Value = TypeVar("Value")

# A broker sends something on every open stream at least every 15 seconds. Silent for four times that, it is gone.
SILENCE_TIMEOUT_S: Final = 60.0


class AsyncResponses(Generic[Response]):
    """The responses of one streaming call, taken one at a time."""

    def __init__(
        self, call: grpc.aio.UnaryStreamCall[Any, Response] | grpc.aio.StreamStreamCall[Any, Response]
    ) -> None:
        self._call = call
        self._pending: asyncio.Task[Any] | None = None
        self._is_closed = False

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
        if read.cancelled():
            if self._is_closed:
                return None
            raise errors.UnavailableError("the call was cancelled")
        try:
            response: Response | object = read.result()
        except grpc.RpcError as error:
            raise errors.from_rpc(error) from error
        return None if response is grpc.aio.EOF else response  # type: ignore[return-value]

    async def close(self) -> None:
        """Ends the call, if it has not ended."""
        self._is_closed = True
        self._call.cancel()
        if self._pending is not None:
            await asyncio.wait({self._pending})
            if not self._pending.cancelled():
                self._pending.exception()


class Responses(Generic[Response]):
    """The responses of one streaming call, taken one at a time."""

    def __init__(self, call: Any) -> None:
        # grpc gives no public name to what a stub's streaming methods return: an iterator that is also a grpc.Call.
        self._call = call
        self._is_closed = False

    def receive(self, timeout_s: float | None = None) -> Response | None:
        """The next response; None when the call has ended well or was closed here. One caller at a time.

        Without `timeout_s`, it is the channel's keepalive that ends the call when the broker is gone: a deadline takes
        a thread to watch it, too dear for every response.

        Raises: what the call ended with; UnavailableError after `timeout_s` of silence.
        """
        watch = threading.Timer(timeout_s, self._call.cancel) if timeout_s is not None else None
        if watch is not None:
            watch.start()
        try:
            response: Response | None = next(self._call, None)
        except grpc.RpcError as error:
            if not self._call.cancelled():
                raise errors.from_rpc(error) from error
            if self._is_closed:
                return None
            raise errors.UnavailableError(f"nothing was heard from the broker for {timeout_s} seconds") from error
        finally:
            if watch is not None:
                watch.cancel()
        return response

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
            except grpc.RpcError as error:
                raise errors.from_rpc(error) from error
            except asyncio.InvalidStateError:
                # The call has ended; its status says why, unless it ended well.
                try:
                    await self._call.read()
                except grpc.RpcError as error:
                    raise errors.from_rpc(error) from error
                raise errors.UnavailableError("the broker has ended the call") from None

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
            if self._call.code() is not grpc.StatusCode.OK:
                raise errors.from_rpc(self._call)
            raise errors.UnavailableError("the broker has ended the call")
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
