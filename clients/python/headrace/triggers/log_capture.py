"""What a worker process writes, as log lines.

A worker writes to two pipes: print() and the interpreter's own complaints to the output pipe, line by line; `logging`
and uncaught exceptions to the telemetry pipe in frames, which keep a traceback of many lines together. Source of the
framing: awslambdaric, `FramedTelemetryLogSink`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

# One line of a trigger's log (protos: TriggerLogLine.text). What is longer is cut.
LINE_SIZE_BYTES_MAX: Final = 16 * 1024

# The default capacity of a pipe on Linux. What a process wrote before it answered is at most this far behind.
_PIPE_CAPACITY_BYTES: Final = 64 * 1024

_FRAME_HEADER_BYTES: Final = 16
# Frame types are 0xa55a00xx; the low byte is the level, which the text already shows.
_FRAME_MAGIC: Final = b"\xa5\x5a\x00"


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    """One entry of a trigger's log."""

    time_us: int
    """When it was written, in microseconds since 1970 UTC."""
    text: str
    """At most LINE_SIZE_BYTES_MAX bytes of UTF-8, without the end of the line."""


LogSink = Callable[[LogLine], None]
"""Takes a line at once; never waits and never fails."""


class LogParser(Protocol):
    """Turns bytes, as they arrive in pieces of any size, into lines."""

    def feed(self, data: bytes, now_us: int, /) -> list[LogLine]:
        """The lines that are complete with this piece."""
        ...

    def flush(self, now_us: int, /) -> list[LogLine]:
        """What there is of a line whose end may never come."""
        ...


def log_line(time_us: int, text: str | bytes) -> LogLine:
    """A line of this text, cut to the limit; bytes that are no UTF-8 become replacement characters."""
    if isinstance(text, bytes):
        text = text[:LINE_SIZE_BYTES_MAX].decode(errors="replace")
    encoded = text.rstrip("\r\n").encode(errors="replace")[:LINE_SIZE_BYTES_MAX]
    return LogLine(time_us=time_us, text=encoded.decode(errors="ignore"))


class LineParser:
    """Splits output at the ends of lines."""

    def __init__(self) -> None:
        self._partial = bytearray()

    def feed(self, data: bytes, now_us: int, /) -> list[LogLine]:
        """The lines that end in this piece."""
        lines = []
        *complete, rest = data.split(b"\n")
        for piece in complete:
            self._keep(piece)
            lines.append(self._take(now_us))
        self._keep(rest)
        return lines

    def flush(self, now_us: int, /) -> list[LogLine]:
        """The line that was begun, as far as it goes."""
        if not self._partial:
            return []
        return [self._take(now_us)]

    def _keep(self, piece: bytes) -> None:
        self._partial += piece[: LINE_SIZE_BYTES_MAX - len(self._partial)]

    def _take(self, now_us: int) -> LogLine:
        line = log_line(now_us, bytes(self._partial))
        self._partial.clear()
        return line


class FrameParser:
    """Takes framed records apart: type (4 bytes), length (4), time in microseconds (8), text; big-endian."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._skip_bytes = 0

    def feed(self, data: bytes, _now_us: int, /) -> list[LogLine]:
        """The records that end in this piece, each with its own time."""
        self._buffer += data
        lines: list[LogLine] = []
        while True:
            self._discard()
            if self._skip_bytes or len(self._buffer) < _FRAME_HEADER_BYTES:
                return lines
            if not self._buffer.startswith(_FRAME_MAGIC):
                # The function itself wrote here. Go on at the next frame.
                start = self._buffer.find(_FRAME_MAGIC, 1)
                self._skip_bytes = start if start > 0 else len(self._buffer) - len(_FRAME_MAGIC) + 1
                continue
            length = int.from_bytes(self._buffer[4:8], "big")
            kept = min(length, LINE_SIZE_BYTES_MAX)
            if len(self._buffer) < _FRAME_HEADER_BYTES + kept:
                return lines
            time_us = int.from_bytes(self._buffer[8:16], "big")
            lines.append(log_line(time_us, bytes(self._buffer[_FRAME_HEADER_BYTES : _FRAME_HEADER_BYTES + kept])))
            # A frame longer than a line may be is not held in memory to its end.
            self._skip_bytes = _FRAME_HEADER_BYTES + length

    def flush(self, _now_us: int, /) -> list[LogLine]:
        """Nothing: an unfinished record is still being written by another thread of the worker, or died with it."""
        return []

    def _discard(self) -> None:
        count = min(self._skip_bytes, len(self._buffer))
        del self._buffer[:count]
        self._skip_bytes -= count


class LogPipe:
    """The reading end, in this process, of a pipe that a worker writes to."""

    def __init__(self, parser: LogParser, sink: LogSink, now_us: Callable[[], int]) -> None:
        self._parser = parser
        self._sink = sink
        self._now_us = now_us
        self._read_fd, self.write_fd = os.pipe()
        os.set_blocking(self._read_fd, False)
        self._is_open = True
        asyncio.get_running_loop().add_reader(self._read_fd, self._read)

    def close_write_end(self) -> None:
        """To be called when the worker has inherited it."""
        if self.write_fd >= 0:
            os.close(self.write_fd)
            self.write_fd = -1

    def drain(self) -> None:
        """Takes what was written before the call. Bounded: a worker that never stops writing is not waited for."""
        taken = 0
        while self._is_open and taken < _PIPE_CAPACITY_BYTES:
            count = self._read()
            if count == 0:
                break
            taken += count
        self._emit(self._parser.flush(self._now_us()))

    def close(self) -> None:
        """Gives up both ends; what is still in the pipe is lost."""
        self.close_write_end()
        self._close_read_end()

    def _read(self) -> int:
        try:
            data = os.read(self._read_fd, _PIPE_CAPACITY_BYTES)
        except BlockingIOError:
            return 0
        if not data:
            # Every writer has gone; a readable pipe at its end would wake the loop for ever.
            self._close_read_end()
            return 0
        self._emit(self._parser.feed(data, self._now_us()))
        return len(data)

    def _emit(self, lines: list[LogLine]) -> None:
        for line in lines:
            self._sink(line)

    def _close_read_end(self) -> None:
        if not self._is_open:
            return
        self._is_open = False
        with contextlib.suppress(ValueError):
            asyncio.get_running_loop().remove_reader(self._read_fd)
        os.close(self._read_fd)
