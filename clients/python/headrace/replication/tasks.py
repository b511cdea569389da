"""Two ways to wait for several things at once, with every task owned and ended."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def run_together(*coroutines: Coroutine[Any, Any, None]) -> None:
    """Returns when all have returned. If one raises, ends the others and raises the same."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in tasks:
            if task in done:
                task.result()
    finally:
        await _end(*tasks)


async def unless_stopped(stopping: asyncio.Event, awaitable: Awaitable[T]) -> T | None:
    """The result of an awaitable, or None when `stopping` is set first; then the awaitable is cancelled."""
    waiting = asyncio.ensure_future(awaitable)
    stopped = asyncio.create_task(stopping.wait(), name="stopping")
    try:
        await asyncio.wait({waiting, stopped}, return_when=asyncio.FIRST_COMPLETED)
        return waiting.result() if waiting.done() else None
    finally:
        await _end(waiting, stopped)


async def _end(*tasks: asyncio.Future[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            # Whoever waits has been told one failure; a second one is not news.
            task.exception()
