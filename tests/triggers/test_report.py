"""Reports to the broker: coalesced, bounded, and complete however often the broker is away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random

import pytest

from headrace import errors
from headrace.triggers import report
from headrace.triggers.log_capture import LogLine
from headrace.triggers.report import (
    REPORT_LINES_MAX,
    REPORT_TEXT_BYTES_MAX,
    RESULT_CALL_FAILED,
    RESULT_OK,
    WAITING_LINES_MAX,
    WAITING_TEXT_BYTES_MAX,
    Reporter,
)
from headrace.v1 import trigger_service_pb2 as pb


class FakeBroker:
    """Takes reports, or refuses them with the errors the test plans; None in the plan takes one."""

    def __init__(self, *planned: Exception | None) -> None:
        self.reports: list[pb.ReportInvocationsRequest] = []
        self.refused: list[pb.ReportInvocationsRequest] = []
        self.planned = list(planned)

    async def __call__(self, request: pb.ReportInvocationsRequest) -> None:
        await asyncio.sleep(0)
        error = self.planned.pop(0) if self.planned else None
        if error is not None:
            self.refused.append(request)
            raise error
        self.reports.append(request)

    def total(self, count: Callable[[pb.TriggerCounts], float]) -> float:
        return sum(count(request.counts) for request in self.reports)

    @property
    def lines(self) -> list[str]:
        return [line.text for request in self.reports for line in request.lines]


def reporter(broker: FakeBroker) -> Reporter:
    return Reporter("orders", broker, random=Random(1))


def line(number: int, text: str = "") -> LogLine:
    return LogLine(time_us=number, text=text or f"line {number}")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "REPORT_INTERVAL_S", 0.001)


UNAVAILABLE = errors.UnavailableError("gone")


async def test_leaving_reports_all_that_happened_in_one_report() -> None:
    broker = FakeBroker()
    async with reporter(broker) as reports:
        reports.add_line(line(1_500_000))
        reports.add_success(record_count=3, duration_ms=1.5, iterator_age_ms=70)
        reports.add_failure(duration_ms=2.0)
    (request,) = broker.reports
    assert request.trigger_name == "orders"
    assert request.counts == pb.TriggerCounts(invocations=2, errors=1, records=3, duration_ms=3.5, iterator_age_ms=70)
    assert request.last_processing_result == RESULT_CALL_FAILED
    assert [(each.time.ToMicroseconds(), each.text) for each in request.lines] == [(1_500_000, "line 1500000")]


# A function called a thousand times a second must not cost a thousand reports.
async def test_what_happens_between_two_reports_goes_out_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "REPORT_INTERVAL_S", 60.0)
    broker = FakeBroker()
    async with reporter(broker) as reports:
        for _ in range(1_000):
            reports.add_success(record_count=1, duration_ms=1.0, iterator_age_ms=1)
            await asyncio.sleep(0)
    assert len(broker.reports) == 2
    assert broker.total(lambda counts: counts.invocations) == 1_000


async def test_nothing_is_reported_while_nothing_happens() -> None:
    broker = FakeBroker()
    async with reporter(broker):
        for _ in range(50):
            await asyncio.sleep(0)
    assert broker.reports == []


async def test_a_report_that_was_not_taken_is_sent_again_with_what_came_since() -> None:
    broker = FakeBroker(UNAVAILABLE, errors.DeadlineExceededError("slow"), UNAVAILABLE)
    reports = reporter(broker)
    for number in range(4):
        reports.add_success(record_count=1, duration_ms=1.0, iterator_age_ms=number)
        reports.add_line(line(number))
        assert await reports._send_one() is (number == 3)
    (request,) = broker.reports
    assert (request.counts.invocations, request.counts.records, request.counts.iterator_age_ms) == (4, 4, 3)
    assert request.last_processing_result == RESULT_OK
    assert broker.lines == ["line 0", "line 1", "line 2", "line 3"]


# Cut off and sent again, it would be counted twice.
async def test_leaving_waits_for_a_report_that_is_on_its_way() -> None:
    taken: list[pb.ReportInvocationsRequest] = []
    entered, may_return = asyncio.Event(), asyncio.Event()

    async def send(request: pb.ReportInvocationsRequest) -> None:
        entered.set()
        await may_return.wait()
        taken.append(request)

    async with Reporter("orders", send, random=Random(1)) as reports:
        reports.add_failure(duration_ms=1.0)
        await entered.wait()
        reports.add_failure(duration_ms=2.0)
        asyncio.get_running_loop().call_soon(may_return.set)
    assert [request.counts.duration_ms for request in taken] == [1.0, 2.0]


async def test_leaving_does_not_wait_for_ever_for_a_broker_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "FINAL_TIMEOUT_S", 0.01)

    async def never(_: pb.ReportInvocationsRequest) -> None:
        await asyncio.Event().wait()

    async with asyncio.timeout(5):
        async with Reporter("orders", never, random=Random(1)) as reports:
            reports.add_failure(duration_ms=1.0)


# It would be refused the next time too, and block every report after it.
@pytest.mark.parametrize("error", [errors.ValidationError("bad"), errors.ResourceNotFoundError("deleted")])
async def test_a_report_that_is_refused_for_good_is_given_up(error: Exception) -> None:
    broker = FakeBroker(error)
    reports = reporter(broker)
    reports.add_line(line(1))
    assert await reports._send_one()
    reports.add_line(line(2))
    assert await reports._send_one()
    assert broker.lines == ["line 2"]


async def test_many_lines_go_out_in_reports_of_bounded_size() -> None:
    broker = FakeBroker()
    async with reporter(broker) as reports:
        for number in range(WAITING_LINES_MAX // 2):
            reports.add_line(line(number))
        for number in range(200):
            reports.add_line(line(number, "€" * 5_000))
    assert len(broker.lines) == WAITING_LINES_MAX // 2 + 200
    for request in broker.reports:
        assert len(request.lines) <= REPORT_LINES_MAX
        assert sum(len(each.text.encode()) for each in request.lines) <= REPORT_TEXT_BYTES_MAX


@pytest.mark.parametrize(("text", "kept"), [("x", WAITING_LINES_MAX), ("y" * 16_384, WAITING_TEXT_BYTES_MAX // 16_384)])
async def test_too_many_lines_drop_the_oldest_and_the_log_says_how_many(text: str, kept: int) -> None:
    broker = FakeBroker()
    async with reporter(broker) as reports:
        for _ in range(kept + 7):
            reports.add_line(line(1, text))
        assert reports._lines._text_bytes <= WAITING_TEXT_BYTES_MAX
    assert broker.lines[0] == "7 older log lines were dropped: too many waited"
    assert len(broker.lines) == kept + 1


# Lines that are on their way come back when the broker does not take them. Newer ones may have taken their place.
async def test_no_dropped_line_goes_uncounted_when_a_report_fails() -> None:
    broker = FakeBroker(UNAVAILABLE, UNAVAILABLE)
    reports = reporter(broker)
    total = WAITING_LINES_MAX + 500
    for number in range(total // 2):
        reports.add_line(line(number))
    sending = asyncio.create_task(reports._send_one())
    await asyncio.sleep(0)
    for number in range(total // 2, total):
        reports.add_line(line(number))
    assert not await sending
    assert not await reports._send_one()
    while reports._has_news.is_set():
        assert await reports._send_one()
    (notice,) = [text for text in broker.lines if "dropped" in text]
    dropped = int(notice.split()[0])
    assert broker.lines == [notice, *(f"line {number}" for number in range(dropped, total))]
