"""A real broker process for tests: started, killed, restarted on its data, and always reaped.

Nothing here imports the broker: what it hides is only a child process and the one JSON line it prints when it is ready.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

READY_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 15.0
LOG_TAIL_BYTES_MAX = 20_000
LOOPBACK_ANY_PORT = "127.0.0.1:0"


def serve_command(
    data: Path, *, region: str, grpc: str, http: str, extra: Sequence[str] = (), command: str = "serve"
) -> list[str]:
    """The command line that starts a broker."""
    serve = [sys.executable, "-m", "broker", command]
    return [*serve, "--data", str(data), "--region", region, "--grpc", grpc, "--http", http, *extra]


class BrokerProcess:
    """One broker on one data folder, over any number of lives.

    `grpc` and `http` are the addresses of the present life. With `keep_ports` a restart asks for the addresses it had
    before, so that clients find it again.
    """

    # What is running now, so that a failed test can show the logs and the end of the session can reap.
    running: ClassVar[list[BrokerProcess]] = []

    def __init__(
        self,
        folder: Path,
        *,
        region: str = "eu-north-1",
        extra: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        command: str = "serve",
        before: Sequence[str] = (),
    ) -> None:
        """`before` is what the command line begins with, for example a shell that sets limits and executes the rest."""
        folder.mkdir(parents=True, exist_ok=True)
        self.data = folder / "data"
        self.log_path = folder / "broker.log"
        self.region = region
        self.grpc = ""
        self.http = ""
        self._extra = extra
        self._command = command
        self._before = before
        self._environment = {**os.environ, **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *, keep_ports: bool = False) -> Self:
        """Returns when the broker said that it is ready; raises with its log if it does not in time."""
        assert self._process is None, "the broker is already running"
        fixed = keep_ports and self.grpc
        command = serve_command(
            self.data,
            region=self.region,
            grpc=self.grpc if fixed else LOOPBACK_ANY_PORT,
            http=self.http if fixed else LOOPBACK_ANY_PORT,
            extra=self._extra,
            command=self._command,
        )
        with self.log_path.open("ab") as log:
            # A group of its own: a Ctrl-C for pytest must not reach the broker before the fixtures stop it.
            self._process = subprocess.Popen(
                [*self._before, *command],
                stdout=subprocess.PIPE,
                stderr=log,
                env=self._environment,
                start_new_session=True,
            )
        BrokerProcess.running.append(self)
        try:
            ready = json.loads(self._ready_line())
        except BaseException:
            self.kill()
            raise
        self.region, self.grpc, self.http = ready["region"], ready["grpc"], ready["http"]
        return self

    def stop(self) -> int:
        """Asks the broker to drain with SIGTERM and returns its exit code; kills it and raises if it takes too long."""
        if self._process is None:
            return 0
        self._process.send_signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """Ends the process at once, as a crash would (SIGKILL), and reaps it."""
        if self._process is None:
            return
        process, self._process = self._process, None
        BrokerProcess.running.remove(self)
        process.kill()
        process.wait(STOP_TIMEOUT_S)
        assert process.stdout is not None
        process.stdout.close()

    def wait(self) -> int:
        """The exit code of a broker that ends by itself; kills it and raises if it does not in time."""
        assert self._process is not None, "the broker is not running"
        try:
            code = self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the broker still runs after {STOP_TIMEOUT_S} s\n{self.log_tail()}") from None
        finally:
            self.kill()
        return code

    @property
    def pid(self) -> int:
        """The process id of the present life."""
        assert self._process is not None, "the broker is not running"
        return self._process.pid

    def log_tail(self, start: int = 0) -> str:
        """What the broker logged from an offset on, cut to its last bytes."""
        if not self.log_path.exists():
            return ""
        with self.log_path.open("rb") as log:
            log.seek(max(start, self.log_size() - LOG_TAIL_BYTES_MAX))
            return log.read().decode(errors="replace")

    def log_size(self) -> int:
        """How much the broker has logged so far, in bytes."""
        return self.log_path.stat().st_size if self.log_path.exists() else 0

    def _ready_line(self) -> bytes:
        assert self._process is not None
        assert self._process.stdout is not None
        readable, _, _ = select.select([self._process.stdout], [], [], READY_TIMEOUT_S)
        line = self._process.stdout.readline() if readable else b""
        if not line:
            state = f"exited with {self._process.poll()}" if readable else f"was not ready within {READY_TIMEOUT_S} s"
            raise AssertionError(f"the broker {state}\n{self.log_tail()}")
        return line

    def __enter__(self) -> Self:
        return self if self._process is not None else self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.stop()
        else:
            self.kill()
