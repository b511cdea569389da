"""Child processes of the demo: ready in time, watched, their log shown when they fail, and never left behind."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from headrace.demo.processes import ChildFailedError, run_headrace, running_broker, running_headrace


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_a_broker_is_ready_inside_the_block_and_gone_after_it(tmp_path: Path) -> None:
    async with running_broker(region="eu-north-1", data=tmp_path / "data", logs=tmp_path) as broker:
        broker.child.check()
        await run_headrace(["health", "--endpoint", broker.grpc])

    assert not is_running(broker.child.pid)
    with pytest.raises(ChildFailedError, match="exit code 0"):
        broker.child.check()


async def test_a_broker_is_ended_when_the_block_fails_or_is_cancelled(tmp_path: Path) -> None:
    entered: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def hold_a_broker() -> None:
        async with running_broker(region="eu-north-1", data=tmp_path / "data", logs=tmp_path) as broker:
            entered.set_result(broker.child.pid)
            await asyncio.Event().wait()

    task = asyncio.create_task(hold_a_broker())
    pid = await entered
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert not is_running(pid)


async def test_a_broker_that_does_not_start_is_told_with_the_end_of_its_log(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file where the folder should be")

    with pytest.raises(ChildFailedError, match=r"(?s)eu-north-1 ended with exit code \d\. The end of its log:.*data"):
        async with running_broker(region="eu-north-1", data=tmp_path / "data", logs=tmp_path):
            pytest.fail("it is not ready")


async def test_a_child_that_ends_early_is_noticed(tmp_path: Path) -> None:
    async with running_headrace("lost", ["no-such-command"], logs=tmp_path) as child:
        async with asyncio.timeout(20):
            await child._process.wait()
        with pytest.raises(ChildFailedError, match=r"(?s)lost ended with exit code 2\. .*No such command"):
            child.check()


# SIGTERM must be enough for our own processes, but one that ignores it may not hold up the demo.
async def test_a_child_that_ignores_sigterm_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.demo.processes.STOP_TIMEOUT_S", 0.1)
    async with running_broker(region="eu-north-1", data=tmp_path / "data", logs=tmp_path) as broker:
        os.kill(broker.child.pid, signal.SIGSTOP)

    assert not is_running(broker.child.pid)


async def test_a_command_that_fails_is_told_with_what_it_said() -> None:
    with pytest.raises(ChildFailedError, match=r"headrace health .*UNAVAILABLE"):
        await run_headrace(["health", "--endpoint", "127.0.0.1:1"])
