"""A real trigger host or replicator in a process of its own: started, killed or stopped, and always reaped."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Final, Self

READY_TIMEOUT_S: Final = 20.0
STOP_TIMEOUT_S: Final = 15.0


class CompanionProcess:
    """`headrace trigger-host` or `headrace replicator`, beside a broker."""

    def __init__(self, command: str, endpoint: str, folder: Path) -> None:
        self.log_path = folder / f"{command}.log"
        self._ready = {command.replace("-", "_"): "ready"}
        with self.log_path.open("ab") as log:
            # A group of its own: a Ctrl-C for pytest must not reach the process before the test stops it.
            self._process = subprocess.Popen(
                [sys.executable, "-m", "headrace.cli", command, "--endpoint", endpoint],
                stdout=subprocess.PIPE,
                stderr=log,
                # What a killed process leaves behind goes with the test.
                env={**os.environ, "TMPDIR": str(folder)},
                start_new_session=True,
            )

    def wait_ready(self) -> Self:
        """Returns when the process has found the broker; raises with its log if it does not in time."""
        assert self.says_ready(READY_TIMEOUT_S), self.log()
        return self

    def says_ready(self, timeout_s: float) -> bool:
        """Whether it prints its one line within this time."""
        assert self._process.stdout is not None
        readable, _, _ = select.select([self._process.stdout], [], [], timeout_s)
        line = self._process.stdout.readline() if readable else b""
        return bool(line) and json.loads(line) == self._ready

    @property
    def pid(self) -> int:
        return self._process.pid

    def terminate(self) -> None:
        """Sends SIGTERM and does not wait."""
        self._process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        """The exit code."""
        try:
            return self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the process still runs after {STOP_TIMEOUT_S} s\n{self.log()}") from None

    def stop(self) -> int:
        """Sends SIGTERM and returns the exit code."""
        self.terminate()
        try:
            return self.wait()
        finally:
            self.kill()

    def kill(self) -> None:
        """Ends the process at once, as a crash would (SIGKILL), and reaps it."""
        self._process.kill()
        self._process.wait(STOP_TIMEOUT_S)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def log(self) -> str:
        """What it logged."""
        return self.log_path.read_text(errors="replace")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None and self._process.poll() is None:
            assert self.stop() == 0, self.log()
        else:
            self.kill()
