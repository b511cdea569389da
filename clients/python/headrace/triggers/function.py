"""A user's function as something to call: keeps a worker warm, replaces one that died, and writes the log of a call.

The platform's lines (INIT_START, START, END, REPORT) have AWS's wording, because people and tools read them.
"""

from __future__ import annotations

import importlib.metadata
import math
import platform
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from random import Random

from headrace.triggers.function_spec import FunctionSpec
from headrace.triggers.log_capture import LogSink, log_line
from headrace.triggers.runtime_api import FunctionError, Invocation
from headrace.triggers.worker import Worker


@dataclass(frozen=True, slots=True, kw_only=True)
class InvocationResult:
    """How one call went."""

    error: FunctionError | None
    """None if the function returned."""
    duration_ms: float
    """Time spent in the function; 0 if its worker could not start."""


def wall_clock_us() -> int:
    """Microseconds since 1970 UTC."""
    return time.time_ns() // 1000


class Function:
    """Calls a function, one call at a time. The first call starts its worker; close() ends it."""

    def __init__(
        self, spec: FunctionSpec, sink: LogSink, *, random: Random, now_us: Callable[[], int] = wall_clock_us
    ) -> None:
        self._spec = spec
        self._sink = sink
        self._random = random
        self._now_us = now_us
        self._worker: Worker | None = None

    async def invoke(self, event: bytes) -> InvocationResult:
        """Calls the function with an event (JSON). Failures of the function are results, not exceptions.

        Cancelled, it kills the worker: nothing of the call goes on.
        """
        try:
            result = await self._invoke(event)
        except BaseException:
            await self.close()
            raise
        if self._worker is not None and not self._worker.is_alive:
            await self.close()
        return result

    async def close(self) -> None:
        """Ends the worker, if there is one, with everything it started."""
        worker, self._worker = self._worker, None
        if worker is not None:
            await worker.close()

    async def _invoke(self, event: bytes) -> InvocationResult:
        worker, init_duration_ms = await self._warm_worker(), None
        if worker is None:
            started = time.monotonic()
            outcome = await self._start_worker()
            init_duration_ms = (time.monotonic() - started) * 1000
            if isinstance(outcome, FunctionError):
                self._log(
                    f"INIT_REPORT Init Duration: {init_duration_ms:.2f} ms\tPhase: init\tStatus: error\t"
                    f"Error Type: {outcome.error_type}"
                )
                return InvocationResult(error=outcome, duration_ms=0.0)
            worker = outcome

        request_id = self._new_uuid()
        self._log(f"START RequestId: {request_id} Version: $LATEST")
        started = time.monotonic()
        error = await worker.run(
            Invocation(
                request_id=request_id,
                event=event,
                deadline_ms=self._now_us() // 1000 + self._spec.timeout_s * 1000,
                function_arn=self._spec.arn,
            )
        )
        duration_ms = (time.monotonic() - started) * 1000
        self._log_end(request_id, error, duration_ms, init_duration_ms, worker.memory_used_max_mb)
        return InvocationResult(error=error, duration_ms=duration_ms)

    async def _warm_worker(self) -> Worker | None:
        """The worker of the call before, if it still asks for work: no call fails for one that died meanwhile."""
        if self._worker is None:
            return None
        error = await self._worker.ready()
        if error is None:
            return self._worker
        self._log(f"The worker ended between invocations: {error.message}")
        await self.close()
        return None

    async def _start_worker(self) -> Worker | FunctionError:
        versions = f"python:{platform.python_version()} awslambdaric:{importlib.metadata.version('awslambdaric')}"
        self._log(f"INIT_START Runtime Version: {versions}")
        day = datetime.fromtimestamp(self._now_us() / 1e6, UTC).strftime("%Y/%m/%d")
        try:
            worker = self._worker = await Worker.start(
                self._spec,
                log_stream_name=f"{day}/[$LATEST]{self._random.getrandbits(128):032x}",
                sink=self._sink,
                now_us=self._now_us,
            )
        except OSError as error:
            self._log(f"The worker could not be started: {error}")
            return FunctionError(error_type="Runtime.StartError", message=str(error))
        error_at_start = await worker.ready()
        if error_at_start is not None:
            await self.close()
            return error_at_start
        return worker

    def _log_end(
        self,
        request_id: str,
        error: FunctionError | None,
        duration_ms: float,
        init_duration_ms: float | None,
        memory_used_max_mb: int,
    ) -> None:
        status = ""
        if error is not None and error.error_type == "Sandbox.Timedout":
            now = datetime.fromtimestamp(self._now_us() / 1e6, UTC).isoformat(timespec="milliseconds")
            self._log(
                f"{now.replace('+00:00', 'Z')} {request_id} Task timed out after {self._spec.timeout_s:.2f} seconds"
            )
            status = "Status: timeout\t"
        elif error is not None and error.error_type in ("Runtime.ExitError", "Function.ResponseSizeTooLarge"):
            # What the function raised itself is in the log already, written by the runtime client.
            self._log(f"{error.message}\n{error.error_type}")
            status = f"Status: error\tError Type: {error.error_type}\t"
        self._log(f"END RequestId: {request_id}")
        init = "" if init_duration_ms is None else f"Init Duration: {init_duration_ms:.2f} ms\t"
        self._log(
            f"REPORT RequestId: {request_id}\tDuration: {duration_ms:.2f} ms\t"
            f"Billed Duration: {math.ceil(duration_ms)} ms\tMemory Size: {self._spec.memory_size_mb} MB\t"
            f"Max Memory Used: {memory_used_max_mb} MB\t{init}{status}"
        )

    def _log(self, text: str) -> None:
        self._sink(log_line(self._now_us(), text))

    def _new_uuid(self) -> str:
        return str(uuid.UUID(int=self._random.getrandbits(128), version=4))
