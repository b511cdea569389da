"""What a member is told of what it said: each answer in its turn, however long the disk takes for it."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from broker.consumers.events import Event


class Turn:
    """The place of an answer."""

    __slots__ = ("_notify", "events")

    def __init__(self, notify: Callable[[], None]) -> None:
        # None until it is known.
        self.events: list[Event] | None = None
        self._notify = notify

    def answer(self, events: list[Event]) -> None:
        """Says what to send when the turn comes."""
        self.events = events
        self._notify()


class Answers:
    """The answers that a member has not been sent."""

    def __init__(self, notify: Callable[[], None]) -> None:
        """`notify` is called when there may be something to send."""
        self._notify = notify
        self._turns: deque[Turn] = deque()
        self._sent = asyncio.Event()

    def turn(self) -> Turn:
        """Keeps the next place for an answer that is not known yet."""
        turn = Turn(self._notify)
        self._turns.append(turn)
        return turn

    async def send(self, send: Callable[[Event], Awaitable[None]]) -> bool:
        """Sends all answers up to the first that is not known yet; returns whether there were any."""
        has_sent = False
        while self._turns and (events := self._turns[0].events) is not None:
            for event in events:
                await send(event)
            self._turns.popleft()
            self._sent.set()
            has_sent = True
        return has_sent

    async def no_more_than(self, left: int) -> None:
        """Returns when no more than so many answers are still to be sent."""
        while len(self._turns) > left:
            self._sent.clear()
            await self._sent.wait()
