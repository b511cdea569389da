"""Writes results to stdout, and is the only place of the command line that does.

A result is written in full or the command ends: the count of lines that reached the output is exact, whatever buffers
Python was told to use, because a command that acks what it has shown must not ack more. What a pipe's reader leaves
unread in the pipe when it ends counts as written; nobody can know better.
"""

from __future__ import annotations

import errno
import select
import sys
from collections.abc import Iterable
from io import RawIOBase
from typing import TextIO, cast

import click

__all__ = ["EXIT_OUTPUT_CLOSED", "OutputError", "StdoutFile", "is_terminal", "write_lines", "write_text"]

# What a shell reports for a process that SIGPIPE ended: 128 and the number of the signal.
EXIT_OUTPUT_CLOSED = 141

_FILE_BUFFER_BYTES = 64 * 1024


class OutputError(Exception):
    """Stdout takes no more: its reader is gone, or its disk is full."""

    def __init__(self, reason: OSError, lines_written: int) -> None:
        super().__init__(f"cannot write the output: {reason.strerror}")
        self.is_closed = reason.errno == errno.EPIPE
        # How many of the lines of this call were written to their ends.
        self.lines_written = lines_written


class StdoutFile:
    """Stdout as a file of bytes, for what writes to files. The last bytes come with flush()."""

    def __init__(self) -> None:
        self._waiting = bytearray()

    def write(self, data: bytes) -> int:
        """Take all of it, and write what has gathered when it is much. Raises: OutputError."""
        self._waiting += data
        if len(self._waiting) >= _FILE_BUFFER_BYTES:
            self.flush()
        return len(data)

    def flush(self) -> None:
        """Write all that has gathered. Raises: OutputError."""
        data, self._waiting = bytes(self._waiting), bytearray()
        _write([data])


def is_terminal() -> bool:
    """Say whether stdout is a terminal, whose width matters. Raises: OutputError if there is no stdout."""
    return _stdout().isatty()


def write_text(text: str) -> None:
    """Write a text and the end of its line. Raises: OutputError."""
    write_lines([text])


def write_lines(lines: Iterable[str]) -> None:
    """Write lines, all at once. Raises: OutputError, which says how many were written."""
    stdout = _stdout()
    encoding, on_error = stdout.encoding or "utf-8", stdout.errors or "strict"
    if not is_terminal():
        lines = map(click.unstyle, lines)
    _write([f"{line}\n".encode(encoding, on_error) for line in lines])


def _write(parts: list[bytes]) -> None:
    written = 0
    data = memoryview(b"".join(parts))
    try:
        output = _unbuffered_stdout()
        while written < len(data):
            # A pipe whose reader ends meanwhile takes a part, and only the next write fails.
            count = output.write(data[written:])
            if count is None:
                # Another process has made the pipe non-blocking, and it is full.
                select.select([], [output], [])
            else:
                written += count
    except OSError as error:
        raise OutputError(error, _whole_parts(parts, written)) from error


def _unbuffered_stdout() -> RawIOBase:
    stdout = _stdout()
    # What click or others have written comes first.
    stdout.flush()
    # With PYTHONUNBUFFERED there is no buffer, and in tests no file.
    return cast("RawIOBase", getattr(stdout.buffer, "raw", stdout.buffer))


def _stdout() -> TextIO:
    stdout: TextIO | None = sys.stdout
    if stdout is None:
        # The process was started without one.
        raise OutputError(OSError(errno.EPIPE, "stdout is closed"), 0)
    return stdout


def _whole_parts(parts: list[bytes], size_bytes: int) -> int:
    count = 0
    for part in parts:
        size_bytes -= len(part)
        if size_bytes < 0:
            break
        count += 1
    return count
