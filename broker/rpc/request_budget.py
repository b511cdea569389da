"""How many bytes the requests under way may take, as the HTTP port bounds its bodies.

A request counts from the moment its bytes are seen until it is answered. Beyond the bound
1. a call of one request is refused, before it is parsed, and told when to come again;
2. a stream of requests waits: its next request is read when others are answered. Nobody who follows the protocol is
   cut off because somebody else sends much.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from google.protobuf.message import DecodeError

from broker.encoding.wire import look_through
from broker.model.errors import HeadraceError, ThrottlingError, ValidationError
from broker.model.turns import TURN_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from google.protobuf.message import Message

    from broker.model.turns import Turns

REQUESTS_BYTES_MAX: Final = 256 * 1024 * 1024
# Counted, but taken in any case: acks, heartbeats and questions go on while others send much.
SMALL_REQUEST_BYTES: Final = 16 * 1024
_RETRY_AFTER_MS: Final = 100


class RequestBudget:
    """The bytes of all requests of a node's gRPC port that are under way."""

    def __init__(self, turns: Turns, bytes_max: int = REQUESTS_BYTES_MAX) -> None:
        self.bytes = 0
        self._turns = turns
        self._bytes_max = bytes_max
        self._room = asyncio.Event()
        self._room.set()

    def refusal(self, size: int) -> ThrottlingError | None:
        """Why a request of so many bytes cannot be taken now; None if it can."""
        if size <= SMALL_REQUEST_BYTES or not self.bytes or self.bytes + size <= self._bytes_max:
            return None
        return ThrottlingError(
            f"Too many bytes of requests are under way: limit {self._bytes_max}",
            retry_after_ms=_RETRY_AFTER_MS,
            limit=self._bytes_max,
        )

    def take(self, size: int) -> None:
        """Counts a request."""
        self.bytes += size
        if self.bytes >= self._bytes_max:
            self._room.clear()

    def give_back(self, size: int) -> None:
        """Ends to count a request."""
        self.bytes -= size
        if self.bytes < self._bytes_max:
            self._room.set()

    async def parse(self, request: Unparsed) -> Message:
        """Look a long request through, then parse it. Raises ValidationError."""
        await self._turns.apart(lambda: look_through(request.data, request.message_type))
        await self._turns.take(TURN_BYTES)
        message = parse(request.data, request.message_type)
        if isinstance(message, ValidationError):
            raise message
        return message

    async def room(self) -> None:
        """Returns when another request may be read. What is under way ends, so this does."""
        await self._room.wait()


class Unparsed(NamedTuple):
    """The bytes of a long request, to be parsed in its turn."""

    data: bytes
    message_type: type[Message]


class Received:
    """A request as it came: its message, or why it is refused; it counts until `close`."""

    __slots__ = ("_budget", "_content", "_size")

    def __init__(self, data: bytes, parse: Callable[[bytes], Any], budget: RequestBudget) -> None:
        """`parse` returns the message, the HeadraceError for which the bytes are refused, or `Unparsed`."""
        self._budget = budget
        self._content = parse(data)
        self._size = len(data)
        budget.take(self._size)

    async def take(self) -> Any:
        """The message, which is the caller's from now on. Raises the HeadraceError for which it is refused."""
        content, self._content = self._content, None
        if isinstance(content, HeadraceError):
            raise content
        if isinstance(content, Unparsed):
            return await self._budget.parse(content)
        return content

    def close(self) -> None:
        """Ends to count the request; further calls do nothing."""
        size, self._size = self._size, 0
        self._budget.give_back(size)


def parse(data: bytes, message_type: type[Message]) -> Message | ValidationError:
    """The message that some bytes are, or the error that says why they are none."""
    try:
        return message_type.FromString(data)
    except DecodeError as error:
        return ValidationError(f"The request is not a valid message, or nests too deeply: {error}", field="request")
