"""A real replication peer in a process of its own: started, killed or stopped, and always reaped."""

from __future__ import annotations

import json
import select
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Final, Self

READY_TIMEOUT_S: Final = 20.0
STOP_TIMEOUT_S: Final = 15.0


class PeerProcess:
    """`headrace replicator`."""

    def __init__(self, endpoint: str, folder: Path) -> None:
        self.log_path = folder / "replicator.log"
        command = [sys.executable, "-m", "headrace.cli", "replicator", "--endpoint", endpoint]
        with self.log_path.open("ab") as log:
            # A group of its own: a Ctrl-C for pytest must not reach the peer before the test stops it.
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, start_new_session=True)

    def wait_ready(self) -> Self:
        """Returns when the peer has found the source's broker; raises with its log if it does not in time."""
        assert self._process.stdout is not None
        readable, _, _ = select.select([self._process.stdout], [], [], READY_TIMEOUT_S)
        line = self._process.stdout.readline() if readable else b""
        assert line, self.log()
        assert json.loads(line) == {"replicator": "ready"}
        return self

    def stop(self) -> int:
        """Sends SIGTERM and returns the exit code."""
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the peer still runs after {STOP_TIMEOUT_S} s\n{self.log()}") from None
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
