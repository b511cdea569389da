"""Child processes that never outlive their owner: started with a deadline, watched, and always ended.

A child runs in a session of its own, so Ctrl-C in the terminal reaches only the owner, which then ends its children one
by one: SIGTERM, a deadline, SIGKILL, each to the child's own process id.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

__all__ = ["Broker", "Child", "ChildFailedError", "run_headrace", "running_broker", "running_headrace"]

READY_TIMEOUT_S = 30.0
COMMAND_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 15.0
LOG_TAIL_LINES = 20


class ChildFailedError(RuntimeError):
    """A child process ended early, did not get ready or failed; the message shows the end of its log."""


class Child:
    """A running child process and its log."""

    def __init__(self, *, name: str, process: asyncio.subprocess.Process, log: Path) -> None:
        self.name = name
        self.pid = process.pid
        self._process = process
        self._log = log

    def check(self) -> None:
        """Do nothing while the process runs; raise ChildFailedError once it has ended."""
        if self._process.returncode is not None:
            raise self.failure(f"ended with exit code {self._process.returncode}")

    def failure(self, what_happened: str) -> ChildFailedError:
        """An error that says what happened and shows the end of the log."""
        tail = self._log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
        end_of_log = "\n  ".join(["The end of its log:", *tail]) if tail else "Its log is empty."
        return ChildFailedError(f"{self.name} {what_happened}. {end_of_log}")

    async def ready_line(self) -> bytes:
        """The first line the process writes to stdout, in time. Raises ChildFailedError."""
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                line = await self._process.stdout.readline()
                if not line:
                    await self._process.wait()
        except TimeoutError:
            raise self.failure(f"was not ready within {READY_TIMEOUT_S:.0f} s") from None
        self.check()
        return line

    async def stop(self) -> None:
        """End the process and wait until it is gone; safe to call again."""
        if self._process.returncode is not None:
            return
        self._process.terminate()
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        except BaseException:
            # Cancelled: the user pressed Ctrl-C a second time and waits no longer.
            self._process.kill()
            raise


@dataclass(frozen=True, slots=True, kw_only=True)
class Broker:
    """A running broker and where it listens."""

    child: Child
    region: str
    grpc: str
    http: str


@contextlib.asynccontextmanager
async def running_headrace(name: str, arguments: Sequence[str], *, logs: Path) -> AsyncIterator[Child]:
    """A `headrace` process for as long as the block runs; all it writes goes to its log."""
    with (logs / f"{name}.log").open("wb") as log:
        async with _running(name, arguments, stdout=log, stderr=log) as child:
            yield child


@contextlib.asynccontextmanager
async def running_broker(*, region: str, data: Path, logs: Path) -> AsyncIterator[Broker]:
    """A broker on free ports, ready, for as long as the block runs."""
    arguments = ["serve", "--data", str(data), "--region", region, "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0"]
    with (logs / f"{region}.log").open("wb") as log:
        async with _running(region, arguments, stdout=asyncio.subprocess.PIPE, stderr=log) as child:
            addresses = json.loads(await child.ready_line())
            yield Broker(child=child, region=region, grpc=addresses["grpc"], http=addresses["http"])


async def run_headrace(arguments: Sequence[str]) -> None:
    """Run a `headrace` command to its end. Raises ChildFailedError with what it wrote to stderr."""
    process = await _start(arguments, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE)
    try:
        async with asyncio.timeout(COMMAND_TIMEOUT_S):
            _, stderr = await process.communicate()
    except BaseException:
        if process.returncode is None:
            process.kill()
        await process.wait()
        raise
    if process.returncode != 0:
        raise ChildFailedError(f"headrace {' '.join(arguments)}: {stderr.decode(errors='replace').strip()}")


@contextlib.asynccontextmanager
async def _running(
    name: str, arguments: Sequence[str], *, stdout: IO[bytes] | int, stderr: IO[bytes]
) -> AsyncIterator[Child]:
    process = await _start(arguments, stdout=stdout, stderr=stderr)
    child = Child(name=name, process=process, log=Path(stderr.name))
    try:
        yield child
    finally:
        await child.stop()


async def _start(
    arguments: Sequence[str], *, stdout: IO[bytes] | int, stderr: IO[bytes] | int
) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "headrace.cli",
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        # A broker named in the user's environment must not be mistaken for one of the demo's.
        env={name: value for name, value in os.environ.items() if name != "HEADRACE_ENDPOINT"},
        start_new_session=True,
    )
