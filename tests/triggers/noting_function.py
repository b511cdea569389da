"""A function for triggers that notes what it was called with."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


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
