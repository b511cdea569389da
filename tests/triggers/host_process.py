"""A real trigger host in a process of its own, and a function that notes what it was called with."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

READY_TIMEOUT_S: Final = 20.0
STOP_TIMEOUT_S: Final = 15.0


class HostProcess:
    """`headrace trigger-host`: started, killed or stopped, and always reaped."""

    def __init__(self, endpoint: str, folder: Path) -> None:
        self.log_path = folder / "host.log"
        command = [sys.executable, "-m", "headrace.cli", "trigger-host", "--endpoint", endpoint]
        with self.log_path.open("ab") as log:
            # A group of its own: a Ctrl-C for pytest must not reach the host before the test stops it.
            self._process = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=log,
                # What a killed host leaves behind goes with the test.
                env={**os.environ, "TMPDIR": str(folder)},
                start_new_session=True,
            )

    def wait_ready(self) -> Self:
        """Returns when the host has found the broker; raises with its log if it does not in time."""
        assert self.says_ready(READY_TIMEOUT_S), self.log()
        return self

    def says_ready(self, timeout_s: float) -> bool:
        """Whether it prints its one line within this time."""
        assert self._process.stdout is not None
        readable, _, _ = select.select([self._process.stdout], [], [], timeout_s)
        if not readable:
            return False
        return bool(json.loads(self._process.stdout.readline()) == {"trigger_host": "ready"})

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
            raise AssertionError(f"the host still runs after {STOP_TIMEOUT_S} s\n{self.log()}") from None

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
            self.terminate()
            try:
                assert self.wait() == 0, self.log()
            finally:
                self.kill()
        else:
            self.kill()


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the function, as it noted it before doing anything else."""

    pid: int
    sequence_numbers: tuple[str, ...]
    event: Mapping[str, Any]


class NotingFunction:
    """A handler file that appends each event to a file."""

    def __init__(self, folder: Path) -> None:
        self._notes = folder / "calls.jsonl"
        self._notes.touch()
        self.file = folder / "app.py"
        self.rewrite()

    def rewrite(self, then: str = "", *, before: str = "pass") -> None:
        """Makes it do something before or after it notes the event; a trigger that has it already needs an update."""
        code = f"""
            import json, os, sys, time

            def handler(event, context):
                {before}
                with open({str(self._notes)!r}, "a") as notes:
                    notes.write(json.dumps({{"pid": os.getpid(), "event": event}}) + "\\n")
        """
        self.file.write_text(textwrap.dedent(code) + textwrap.indent(textwrap.dedent(then), "    "))

    def calls(self) -> list[Call]:
        """The calls so far."""
        # A worker that is killed may leave half a line.
        lines = self._notes.read_text().split("\n")[:-1]
        return [_call(json.loads(line)) for line in lines]

    def sequence_numbers(self) -> list[str]:
        """The records of all calls, in the order they came, those that came again included."""
        return [number for call in self.calls() for number in call.sequence_numbers]


def _call(note: Mapping[str, Any]) -> Call:
    records = note["event"]["Records"]
    return Call(note["pid"], tuple(each["dynamodb"]["SequenceNumber"] for each in records), note["event"])
