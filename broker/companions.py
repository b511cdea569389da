"""What `headrace dev` runs beside the broker: commands of the client, each kept running as a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from typing import TYPE_CHECKING, Final, Protocol, Self

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from types import TracebackType

# How long to wait before a companion that has ended is started again: doubled each time, up to the maximum, and as at
# first once it has run for a while.
PAUSE_SECONDS_FIRST: Final = 1.0
PAUSE_SECONDS_MAX: Final = 60.0
STEADY_SECONDS: Final = 60.0
# What it gets to end by itself before it is killed.
STOP_SECONDS: Final = 15.0

_log: Final = logging.getLogger(__name__)


class Process(Protocol):
    """What is needed of asyncio.subprocess.Process."""

    def terminate(self) -> None:
        """As asyncio.subprocess.Process.terminate."""

    def kill(self) -> None:
        """As asyncio.subprocess.Process.kill."""

    async def wait(self) -> int:
        """As asyncio.subprocess.Process.wait."""


class Companions:
    """Runs commands from entering to leaving, and says at once when one has ended."""

    def __init__(
        self,
        commands: Sequence[str],
        start: Callable[[str], Awaitable[Process]],
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        now: Callable[[], float] | None = None,
    ) -> None:
        """`start` starts the process of a command; `now` is in seconds, from any beginning."""
        self._commands = commands
        self._start = start
        self._sleep = sleep
        self._now = now
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._tasks = [
            asyncio.create_task(self._own(command), name=f"companion {command}") for command in self._commands
        ]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Ends all processes, and waits for their ends."""
        for task in self._tasks:
            task.cancel()
        for outcome in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome

    async def _own(self, command: str) -> None:
        try:
            await self._keep_running(command)
        except Exception:
            # Raised when all is left, which may be much later.
            _log.exception("a companion can no longer be run command=%s", command)
            raise

    async def _keep_running(self, command: str) -> None:
        now = self._now or asyncio.get_running_loop().time
        pause = PAUSE_SECONDS_FIRST
        while True:
            began = now()
            outcome = await self._run(command)
            if now() - began >= STEADY_SECONDS:
                pause = PAUSE_SECONDS_FIRST
            _log.error("a companion has ended command=%s %s starts_again_in_seconds=%.0f", command, outcome, pause)
            await self._sleep(pause)
            pause = min(2 * pause, PAUSE_SECONDS_MAX)

    async def _run(self, command: str) -> str:
        """Runs a process to its end; says how that was."""
        try:
            process = await self._start(command)
        except OSError as error:
            return f"error={error}"
        try:
            return f"exit_code={await process.wait()}"
        except asyncio.CancelledError:
            await _end(process)
            raise


def client_starter(endpoint: str, umask: int) -> Callable[[str], Awaitable[Process]]:
    """Starts commands of the client, for the broker at an endpoint, with a umask; what they print goes to stderr."""

    async def start(command: str) -> Process:
        # By a shell, for uvloop's call knows no umask.
        return await asyncio.create_subprocess_exec(
            *("/bin/sh", "-c", f'umask {umask:04o} && exec "$@"', "sh"),
            *(sys.executable, "-m", "headrace.cli", command, "--endpoint", endpoint),
            stdout=sys.stderr,
        )

    return start


async def _end(process: Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(STOP_SECONDS):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
