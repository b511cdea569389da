"""Runs a test with both clients: the one for asyncio, and the one for threads behind the same awaitable face."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from random import Random
from typing import Any

import pytest

from headrace import AsyncClient, Client, ConsumerBatch

_END = object()

# Opens a client of the broker at an endpoint; typed as the asyncio one, whose methods both have.
Connect = Callable[..., AbstractAsyncContextManager[AsyncClient]]


class _InThread:
    """A client, or a batch, for threads: each call runs in a thread, as the scripted broker needs the event loop."""

    def __init__(self, target: object) -> None:
        self._target = target

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._target, name)
        if not callable(attribute):
            return attribute
        if "Generator" in str(inspect.signature(attribute).return_annotation):
            return lambda *args, **kwargs: _in_thread(attribute(*args, **kwargs))
        return lambda *args, **kwargs: asyncio.to_thread(attribute, *args, **kwargs)


async def _in_thread(generator: Generator[Any, None, None]) -> AsyncGenerator[Any, None]:
    try:
        while (value := await asyncio.to_thread(next, generator, _END)) is not _END:
            yield _InThread(value) if isinstance(value, ConsumerBatch) else value
    finally:
        await asyncio.to_thread(generator.close)


@asynccontextmanager
async def _connect_threads(endpoint: str, **options: Any) -> AsyncGenerator[Any, None]:
    with Client(endpoint, **options) as client:
        yield _InThread(client)


@pytest.fixture(params=["asyncio", "threads"])
def connect(request: pytest.FixtureRequest) -> Connect:
    """Opens a client; the test runs once with each."""
    opener: Any = AsyncClient if request.param == "asyncio" else _connect_threads
    return lambda endpoint, **options: opener(endpoint, **{"random": Random(0), **options})
