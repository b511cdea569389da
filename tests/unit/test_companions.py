"""What runs beside the broker is started again when it ends, with growing pauses, and one line says so each time."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from broker.companions import PAUSE_SECONDS_MAX, STEADY_SECONDS, Companions

TIMEOUT_S = 5


class FakeProcess:
    """A process that ends when it is told to, or when the test says so."""

    def __init__(self) -> None:
        self._ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.was_killed = False
        self.ignores_terminate = False

    def end(self, code: int) -> None:
        self._ended.set_result(code)

    def terminate(self) -> None:
        if self._ended.done():
            raise ProcessLookupError
        if not self.ignores_terminate:
            self.end(0)

    def kill(self) -> None:
        self.was_killed = True
        self.end(-9)

    async def wait(self) -> int:
        return await asyncio.shield(self._ended)

    @property
    def has_ended(self) -> bool:
        return self._ended.done()


class Scene:
    """Companions with a clock that stands, and pauses that end when the test says so."""

    def __init__(self) -> None:
        self.now = 0.0
        self.failures: list[OSError] = []
        self.started: asyncio.Queue[FakeProcess] = asyncio.Queue()
        self.pauses: asyncio.Queue[float] = asyncio.Queue()
        self._resume = asyncio.Event()

    async def start(self, command: str) -> FakeProcess:
        assert command == "trigger-host"
        if self.failures:
            raise self.failures.pop()
        process = FakeProcess()
        self.started.put_nowait(process)
        return process

    async def sleep(self, seconds: float) -> None:
        self.pauses.put_nowait(seconds)
        await self._resume.wait()
        self._resume.clear()

    async def process(self) -> FakeProcess:
        async with asyncio.timeout(TIMEOUT_S):
            return await self.started.get()

    async def pause(self) -> float:
        """Waits for the next pause, and ends it."""
        async with asyncio.timeout(TIMEOUT_S):
            pause = await self.pauses.get()
        self._resume.set()
        return pause


@asynccontextmanager
async def running() -> AsyncIterator[Scene]:
    scene = Scene()
    async with Companions(("trigger-host",), scene.start, sleep=scene.sleep, now=lambda: scene.now):
        yield scene


async def test_one_that_keeps_ending_is_started_again_after_pauses_that_grow_to_a_maximum(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pauses = []
    async with running() as scene:
        for code in range(1, 10):
            (await scene.process()).end(code)
            pauses.append(await scene.pause())
    assert pauses == [1, 2, 4, 8, 16, 32, PAUSE_SECONDS_MAX, PAUSE_SECONDS_MAX, PAUSE_SECONDS_MAX]
    assert [record.message for record in caplog.records] == [
        f"a companion has ended command=trigger-host exit_code={code} starts_again_in_seconds={pause:.0f}"
        for code, pause in enumerate(pauses, start=1)
    ]
    assert {record.levelno for record in caplog.records} == {logging.ERROR}


@pytest.mark.parametrize(("seconds", "pause"), [(STEADY_SECONDS - 0.1, 4), (STEADY_SECONDS, 1)])
async def test_one_that_has_run_for_a_while_is_started_again_soon(seconds: float, pause: float) -> None:
    async with running() as scene:
        for _ in range(2):
            (await scene.process()).end(1)
            await scene.pause()
        process = await scene.process()
        scene.now += seconds
        process.end(1)
        assert await scene.pause() == pause


async def test_one_that_cannot_be_started_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    async with running() as scene:
        (await scene.process()).end(1)
        scene.failures = [OSError("no memory")]
        assert [await scene.pause(), await scene.pause()] == [1, 2]
        await scene.process()
    assert re.search("error=no memory", caplog.records[-1].message)


async def test_leaving_ends_it_and_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async with running() as scene:
        process = await scene.process()
    assert process.has_ended
    assert not process.was_killed
    assert caplog.records == []


async def test_one_that_does_not_end_by_itself_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.companions.STOP_SECONDS", 0.01)
    async with running() as scene:
        process = await scene.process()
        process.ignores_terminate = True
    assert process.was_killed


async def test_leaving_during_a_pause_starts_nothing_more() -> None:
    async with running() as scene:
        (await scene.process()).end(1)
        async with asyncio.timeout(TIMEOUT_S):
            await scene.pauses.get()
    assert scene.started.empty()
