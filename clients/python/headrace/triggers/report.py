"""Tells the broker what a trigger did: counts, the last result and log lines, several invocations at a time.

Nothing here holds up the trigger. While the broker is away counts add up and log lines are kept up to a bound; then the
oldest go, and the log says how many.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from random import Random
from typing import Final, Self

from google.protobuf import timestamp_pb2

from headrace import errors
from headrace._backoff import Backoff
from headrace.triggers.log_capture import LogLine, log_line
from headrace.v1 import trigger_service_pb2 as pb

# At most one report in this time, so a function called a thousand times a second costs four reports.
REPORT_INTERVAL_S: Final = 0.25

# protos: ReportInvocationsRequest.lines. By bytes too, since a message holds at most 4 MiB.
REPORT_LINES_MAX: Final = 1_000
REPORT_TEXT_BYTES_MAX: Final = 1024 * 1024

# What waits while the broker is away.
WAITING_LINES_MAX: Final = 10_000
WAITING_TEXT_BYTES_MAX: Final = 8 * 1024 * 1024

RESULT_OK: Final = "OK"
RESULT_CALL_FAILED: Final = "PROBLEM: Function call failed"

# How long the end of a trigger waits for its last report.
FINAL_TIMEOUT_S: Final = 2.0

_LOGGER: Final = logging.getLogger(__name__)

SendReport = Callable[[pb.ReportInvocationsRequest], Awaitable[None]]
"""Sends one report; raises HeadraceError."""


class Reporter:
    """Collects what happens and reports it soon. `async with` runs it; leaving sends what is left, or gives up."""

    def __init__(self, trigger_name: str, send: SendReport, *, random: Random) -> None:
        self._trigger_name = trigger_name
        self._send_report = send
        self._backoff = Backoff(initial_s=REPORT_INTERVAL_S, max_s=10.0, random=random)
        self._counts = pb.TriggerCounts()
        self._iterator_age_ms = 0
        self._result = ""
        self._lines = _LineBuffer(WAITING_LINES_MAX, WAITING_TEXT_BYTES_MAX)
        self._has_news = asyncio.Event()
        self._sending = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name=f"reports of trigger {self._trigger_name}")
        return self

    async def __aexit__(self, *_: object) -> None:
        task, self._task = self._task, None
        assert task is not None
        try:
            async with asyncio.timeout(FINAL_TIMEOUT_S):
                # A report that is on its way is not cut off: sent again it would be counted twice.
                async with self._sending:
                    task.cancel()
                    await asyncio.wait({task})
                while self._has_news.is_set() and await self._send_one():
                    pass
        except TimeoutError:
            _LOGGER.warning("the last report of a trigger was not taken trigger=%s", self._trigger_name)
        finally:
            task.cancel()
            await asyncio.wait({task})
        if not task.cancelled():
            task.result()

    def add_line(self, line: LogLine) -> None:
        """Adds a log line."""
        self._lines.append(line)
        self._has_news.set()

    def add_success(self, *, record_count: int, duration_ms: float, iterator_age_ms: int) -> None:
        """Counts a call that succeeded."""
        self._counts.invocations += 1
        self._counts.records += record_count
        self._counts.duration_ms += duration_ms
        self._iterator_age_ms = iterator_age_ms
        self._result = RESULT_OK
        self._has_news.set()

    def add_failure(self, *, duration_ms: float) -> None:
        """Counts a call that failed."""
        self._counts.invocations += 1
        self._counts.errors += 1
        self._counts.duration_ms += duration_ms
        self._result = RESULT_CALL_FAILED
        self._has_news.set()

    def add_problem(self, text: str) -> None:
        """Notes why the function cannot be called at all; `text` begins with "PROBLEM: "."""
        self._result = text
        self._has_news.set()

    async def _run(self) -> None:
        while True:
            await self._has_news.wait()
            if not await self._send_one():
                await asyncio.sleep(self._backoff.next_s())
                continue
            self._backoff.reset()
            # What fills a report by itself need not wait for more.
            if len(self._lines) < REPORT_LINES_MAX:
                await asyncio.sleep(REPORT_INTERVAL_S)

    async def _send_one(self) -> bool:
        """Sends what there is, as far as it fits; False if the broker did not take it, which is then kept."""
        async with self._sending:
            self._has_news.clear()
            counts, result = self._counts, self._result
            self._counts, self._result = pb.TriggerCounts(), ""
            lines, dropped = self._lines.take(REPORT_LINES_MAX - 1, REPORT_TEXT_BYTES_MAX)
            is_taken = await self._try(counts, result, lines, dropped)
            if not is_taken:
                self._counts = _sum(counts, self._counts)
                self._result = self._result or result
                self._lines.put_back(lines, dropped)
            if not is_taken or self._lines:
                self._has_news.set()
            return is_taken

    async def _try(self, counts: pb.TriggerCounts, result: str, lines: list[LogLine], dropped: int) -> bool:
        request = pb.ReportInvocationsRequest(
            trigger_name=self._trigger_name, counts=counts, last_processing_result=result
        )
        # The newest age is part of every report, since a report replaces it.
        request.counts.iterator_age_ms = self._iterator_age_ms
        if dropped:
            time_us = lines[0].time_us if lines else 0
            request.lines.append(
                _message(log_line(time_us, f"{dropped} older log lines were dropped: too many waited"))
            )
        request.lines.extend(_message(line) for line in lines)
        try:
            await self._send_report(request)
        except (errors.ValidationError, errors.ResourceNotFoundError) as error:
            # It will not be taken the next time either: the trigger is gone, or this host does not suit the broker.
            _LOGGER.warning("a report was refused trigger=%s reason=%s %s", self._trigger_name, error.reason, error)
        except errors.HeadraceError as error:
            _LOGGER.debug("a report was not taken trigger=%s reason=%s", self._trigger_name, error.reason)
            return False
        return True


class _LineBuffer:
    """The newest lines, bounded in number and bytes; knows how many older ones it had to drop."""

    def __init__(self, lines_max: int, text_bytes_max: int) -> None:
        self._lines_max = lines_max
        self._text_bytes_max = text_bytes_max
        self._lines: deque[LogLine] = deque()
        self._text_bytes = 0
        self._dropped = 0

    def __len__(self) -> int:
        return len(self._lines)

    def append(self, line: LogLine) -> None:
        self._lines.append(line)
        self._text_bytes += _text_bytes(line)
        self._trim()

    def take(self, lines_max: int, text_bytes_max: int) -> tuple[list[LogLine], int]:
        """The oldest lines that fit, and how many before them were dropped."""
        taken: list[LogLine] = []
        text_bytes = 0
        while self._lines and len(taken) < lines_max:
            size = _text_bytes(self._lines[0])
            if taken and text_bytes + size > text_bytes_max:
                break
            text_bytes += size
            taken.append(self._lines.popleft())
        self._text_bytes -= text_bytes
        dropped, self._dropped = self._dropped, 0
        return taken, dropped

    def put_back(self, lines: Iterable[LogLine], dropped: int) -> None:
        """Undoes a take()."""
        lines = list(lines)
        # Lines dropped since then were newer than these, so these would have gone first.
        if self._dropped:
            self._dropped += dropped + len(lines)
            return
        self._dropped = dropped
        self._lines.extendleft(reversed(lines))
        self._text_bytes += sum(map(_text_bytes, lines))
        self._trim()

    def _trim(self) -> None:
        while len(self._lines) > self._lines_max or self._text_bytes > self._text_bytes_max:
            self._text_bytes -= _text_bytes(self._lines.popleft())
            self._dropped += 1


def _text_bytes(line: LogLine) -> int:
    # UTF-8 takes at most 4 bytes a character; exact only where it is cheap.
    return len(line.text) if line.text.isascii() else 4 * len(line.text)


def _message(line: LogLine) -> pb.TriggerLogLine:
    time = timestamp_pb2.Timestamp()
    time.FromMicroseconds(line.time_us)
    return pb.TriggerLogLine(time=time, text=line.text)


def _sum(first: pb.TriggerCounts, second: pb.TriggerCounts) -> pb.TriggerCounts:
    return pb.TriggerCounts(
        invocations=first.invocations + second.invocations,
        errors=first.errors + second.errors,
        records=first.records + second.records,
        duration_ms=first.duration_ms + second.duration_ms,
    )
