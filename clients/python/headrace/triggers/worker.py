"""A worker: one process that runs a user's function through the official runtime client, from its start to its end.

The process has a session of its own, so it can be killed with everything it started, and an environment of its own:
nothing of the host's environment, which may hold secrets, reaches the function.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from headrace.triggers.function_spec import FunctionSpec, worker_environment
from headrace.triggers.log_capture import FrameParser, LineParser, LogPipe, LogSink
from headrace.triggers.runtime_api import FunctionError, Invocation, RuntimeApi

# How long a process may take until it asks for work (AWS Lambda: "Init phase ... 10 seconds").
INIT_TIMEOUT_S: Final = 10.0

# What a process may have beyond the function's memory size: above all the stacks of its threads, which count in full
# although little of them is ever touched.
MEMORY_HEADROOM_BYTES: Final = 128 * 1024 * 1024

_LAUNCHER: Final = Path(__file__).with_name("launch.py")


class Worker:
    """One process. It runs one invocation at a time, until it exits or is closed."""

    def __init__(
        self, spec: FunctionSpec, process: asyncio.subprocess.Process, api: RuntimeApi, pipes: tuple[LogPipe, LogPipe]
    ) -> None:
        self._spec = spec
        self._process = process
        self._api = api
        self._pipes = pipes
        self._exit = asyncio.create_task(process.wait(), name=f"worker {process.pid} exit")
        self._is_closed = False
        self.memory_used_max_mb = 0
        """The most memory the process was seen to use, in MB; 0 where the system does not tell."""

    @classmethod
    async def start(
        cls, spec: FunctionSpec, *, log_stream_name: str, sink: LogSink, now_us: Callable[[], int]
    ) -> Worker:
        """Starts the process and does not wait for it. Raises OSError if the system refuses."""
        api = RuntimeApi()
        output = LogPipe(LineParser(), sink, now_us)
        telemetry = LogPipe(FrameParser(), sink, now_us)
        try:
            address = await api.open()
            environment = worker_environment(spec, address, log_stream_name, telemetry.write_fd)
            memory_limit_bytes = spec.memory_size_mb * 1024 * 1024 + MEMORY_HEADROOM_BYTES
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", str(_LAUNCHER), str(os.getpid()), str(memory_limit_bytes), spec.handler),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output.write_fd,
                stderr=output.write_fd,
                pass_fds=(telemetry.write_fd,),
                cwd=spec.code_dir,
                env=environment,
                start_new_session=True,
            )
        except BaseException:
            output.close()
            telemetry.close()
            await api.close()
            raise
        output.close_write_end()
        telemetry.close_write_end()
        return cls(spec, process, api, (output, telemetry))

    @property
    def is_alive(self) -> bool:
        """Whether the process runs."""
        return not self._exit.done() and not self._is_closed

    async def ready(self) -> FunctionError | None:
        """Waits until the worker asks for work; the reason if it will not. A worker that takes too long is killed."""
        if self._api.is_idle and not self._has_exited():
            return None
        error = await self._settled()
        self._sample_memory()
        self._drain()
        return error

    async def _settled(self) -> FunctionError | None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + INIT_TIMEOUT_S
        while self._api.init_error is None and not self._has_exited():
            if self._api.is_idle:
                return None
            if loop.time() >= deadline:
                await self._kill()
                return FunctionError(
                    error_type="Sandbox.Timedout", message=f"Init timed out after {INIT_TIMEOUT_S:.2f} seconds"
                )
            settled = asyncio.create_task(self._api.wait_settled(), name="worker settled")
            try:
                await self._wait_unless_exit(settled, deadline - loop.time())
            finally:
                settled.cancel()
        if self._has_exited():
            returncode = await self._exit
            # What it said last may have come only now.
            return self._api.init_error or _exit_error("", returncode)
        return self._api.init_error

    async def run(self, invocation: Invocation) -> FunctionError | None:
        """Runs one invocation; the worker must be ready. Its log lines are complete when this returns."""
        answer = self._api.invoke(invocation)
        await self._wait_unless_exit(answer, self._spec.timeout_s)
        # The memory of a process can be read only while it lives.
        self._sample_memory()
        if answer.done():
            error = answer.result()
        elif self._exit.done():
            error = _exit_error(invocation.request_id, self._exit.result())
        else:
            await self._kill()
            error = FunctionError(
                error_type="Sandbox.Timedout",
                message=f"RequestId: {invocation.request_id} Error: "
                f"Task timed out after {self._spec.timeout_s:.2f} seconds",
            )
        self._drain()
        return error

    async def close(self) -> None:
        """Kills the process with all it started, and waits for its end."""
        if self._is_closed:
            return
        self._is_closed = True
        try:
            await self._kill()
        finally:
            self._drain()
            for pipe in self._pipes:
                pipe.close()
            await self._api.close()

    def _has_exited(self) -> bool:
        """Whether the process has ended, as the system knows it now: the event loop may hear of it only later."""
        if not self.is_alive:
            return True
        try:
            return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:
            # The thread in which asyncio waits for it was first.
            return True

    async def _kill(self) -> None:
        # Also when the process has exited: what it started may live on in its group, whose number stays taken then.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._exit

    async def _wait_unless_exit(self, outcome: asyncio.Future[Any], timeout_s: float) -> None:
        either: set[asyncio.Future[Any]] = {outcome, self._exit}
        await asyncio.wait(either, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)

    def _drain(self) -> None:
        for pipe in self._pipes:
            pipe.drain()

    def _sample_memory(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            status = Path(f"/proc/{self._process.pid}/status").read_text()
            for line in status.splitlines():
                if line.startswith("VmHWM:"):
                    self.memory_used_max_mb = max(self.memory_used_max_mb, -(-int(line.split()[1]) // 1024))


def _exit_error(request_id: str, returncode: int) -> FunctionError:
    if returncode == 0:
        reason = "Runtime exited without providing a reason"
    elif returncode > 0:
        reason = f"Runtime exited with error: exit status {returncode}"
    else:
        reason = f"Runtime exited with error: signal: {_signal_text(-returncode)}"
    prefix = f"RequestId: {request_id} Error: " if request_id else ""
    return FunctionError(error_type="Runtime.ExitError", message=prefix + reason)


def _signal_text(number: int) -> str:
    # AWS's words for the one that everybody meets.
    return "killed" if number == signal.SIGKILL else signal.strsignal(number) or str(number)
