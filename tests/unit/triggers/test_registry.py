"""The registry of triggers: limits, counts and the last lines of their logs."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.consumers.groups import ConsumerGroups, Start
from broker.model.errors import ResourceInUseError, ResourceNotFoundError, ValidationError
from broker.storage.commit import Group
from broker.storage.rocks import Family, Store
from broker.triggers.registry import (
    CODE_BYTES_MAX,
    COUNT_MAX,
    LOG_LINES_MAX,
    REPORT_LINES_MAX,
    Function,
    LogLine,
    Trigger,
    TriggerCounts,
    Triggers,
    TriggerState,
    check_archive,
    check_trigger,
    new_function,
)
from tests.unit.engine import NOON_MS, TIMEOUT_S, Engine, FakeClock, running

ARCHIVE = b"PK\x00\xff"


def keep_consumer(_group: Group, _name: str) -> None:
    """The consumer group is not what these tests are about."""


def function(**changes: Any) -> Function:
    settings: dict[str, Any] = {
        "handler": "module.function",
        "runtime": "python",
        "environment": {},
        "timeout_seconds": 0,
        "memory_size_mb": 0,
        "archive": ARCHIVE,
    }
    return new_function(**settings | changes)


def trigger(name: str = "totals") -> Trigger:
    return Trigger(
        name=name,
        event_source_arn="arn",
        function=function(),
        batch_size=100,
        starting_position="LATEST",
        create_time_ms=0,
    )


def line(number: int) -> LogLine:
    return LogLine(NOON_MS + number, f"line {number}")


@pytest.fixture
def triggers(engine: Engine) -> Triggers:
    return Triggers(engine.store, engine.committer)


# Limits. Source: AWS Lambda Developer Guide, "Lambda quotas", and API Reference.


def test_zeros_mean_the_defaults_of_lambda() -> None:
    made = function()
    assert (made.timeout_seconds, made.memory_size_mb) == (3, 128)
    assert made.code_sha256 == base64.b64encode(hashlib.sha256(ARCHIVE).digest()).decode()


@pytest.mark.parametrize(
    ("setting", "taken", "refused", "limit"),
    [
        ("timeout_seconds", [1, 900], [-1, 901], {-1: 1, 901: 900}),
        ("memory_size_mb", [128, 10_240], [127, 10_241], {127: 128, 10_241: 10_240}),
        ("handler", ["a.b", "a.b.c", "m." + "f" * 126], ["", "f", ".f", "m.", "m." + "f" * 127], None),
        ("runtime", ["python"], ["", "nodejs", "Python"], None),
        ("environment", [{}, {"A": "x" * 4095}], [{"A": "x" * 4096}, {"A": "\u00e9" * 2048}], None),
    ],
)
def test_a_function_keeps_lambdas_limits(
    setting: str, taken: list[Any], refused: list[Any], limit: dict[Any, int] | None
) -> None:
    for good in taken:
        assert getattr(function(**{setting: good}), setting) == good
    for bad in refused:
        with pytest.raises(ValidationError) as error:
            function(**{setting: bad})
        assert error.value.metadata["field"] == f"function.{setting}"
        if limit is not None:
            assert error.value.metadata["limit"] == str(limit[bad])


def test_an_archive_has_1_byte_to_3_mib() -> None:
    check_archive(b"x")
    check_archive(bytes(CODE_BYTES_MAX))
    for bad in (b"", bytes(CODE_BYTES_MAX + 1)):
        with pytest.raises(ValidationError) as refused:
            check_archive(bad)
        assert refused.value.metadata == {"field": "code", "limit": str(3 * 1024 * 1024)}


def test_a_trigger_has_a_name_and_a_batch_size() -> None:
    check_trigger("a" * 64, ARCHIVE, 1)
    check_trigger("a-b_C9", ARCHIVE, 10_000)
    for name, batch_size, field in (
        ("", 1, "trigger_name"),
        ("a" * 65, 1, "trigger_name"),
        ("a.b", 1, "trigger_name"),
        ("a", 0, "batch_size"),
        ("a", 10_001, "batch_size"),
    ):
        with pytest.raises(ValidationError) as refused:
            check_trigger(name, ARCHIVE, batch_size)
        assert refused.value.metadata["field"] == field


# Counts.

COUNTS = st.builds(
    TriggerCounts,
    invocations=st.integers(0, 100),
    errors=st.integers(0, 100),
    records=st.sampled_from((0, 1, 100)),
    duration_ms=st.integers(0, 10_000).map(float),
    iterator_age_ms=st.integers(0, 100),
)


@given(st.lists(COUNTS))
def test_counts_add_up_and_the_age_is_the_newest(reports: list[TriggerCounts]) -> None:
    total = TriggerCounts()
    for report in reports:
        total = total.plus(report)
    for name in ("invocations", "errors", "records", "duration_ms"):
        assert getattr(total, name) == sum(getattr(report, name) for report in reports)
    ages = [report.iterator_age_ms for report in reports if report.records]
    assert total.iterator_age_ms == (ages[-1] if ages else 0)


# What the protos' 64 bits cannot say could not be described any more.
def test_sums_stop_before_they_leave_64_bits() -> None:
    most = TriggerCounts(invocations=COUNT_MAX, errors=COUNT_MAX, records=COUNT_MAX, duration_ms=float(COUNT_MAX))
    total = most.plus(most)
    assert total == most
    assert COUNT_MAX < 2**63


# Life.


async def test_a_trigger_is_as_it_was_made(triggers: Triggers) -> None:
    made = await triggers.create(trigger(), ARCHIVE)
    assert made == triggers.get("totals")
    assert made.create_time_ms == NOON_MS
    assert (made.state, made.last_processing_result) == (TriggerState.ENABLED, "No records processed")
    assert (made.counts, made.group_name) == (TriggerCounts(), "trigger:totals")
    assert triggers.code("totals") == ARCHIVE


async def test_a_name_is_given_once(triggers: Triggers) -> None:
    await triggers.create(trigger(), ARCHIVE)
    with pytest.raises(ResourceInUseError) as taken:
        await triggers.create(trigger(), b"other")
    assert taken.value.metadata == {"trigger_name": "totals"}
    assert triggers.code("totals") == ARCHIVE


async def test_an_update_changes_what_is_given_and_nothing_else(triggers: Triggers) -> None:
    made = await triggers.create(trigger(), ARCHIVE)
    assert await triggers.update("totals", state=None, batch_size=None, archive=None) == made
    updated = await triggers.update("totals", state=TriggerState.DISABLED, batch_size=7, archive=None)
    assert (updated.state, updated.batch_size, updated.function) == (TriggerState.DISABLED, 7, made.function)
    updated = await triggers.update("totals", state=None, batch_size=None, archive=b"new")
    assert (updated.state, updated.batch_size) == (TriggerState.DISABLED, 7)
    assert updated.function.code_sha256 == base64.b64encode(hashlib.sha256(b"new").digest()).decode()
    assert triggers.code("totals") == b"new"
    assert triggers.get("totals") == updated


async def test_what_is_not_there_is_named(triggers: Triggers) -> None:
    for ask in (triggers.get, triggers.code):
        with pytest.raises(ResourceNotFoundError, match="totals"):
            ask("totals")
    for change in (
        triggers.update("totals", state=None, batch_size=1, archive=None),
        triggers.delete("totals", keep_consumer),
        triggers.report("totals", TriggerCounts(), "", []),
        triggers.wait_for_lines("totals", 0, 0),
    ):
        with pytest.raises(ResourceNotFoundError) as missing:
            await change
        assert missing.value.metadata == {"trigger_name": "totals"}


async def test_a_report_adds_to_counts_and_log(triggers: Triggers) -> None:
    await triggers.create(trigger(), ARCHIVE)
    await triggers.report("totals", TriggerCounts(invocations=1, records=10), "OK", [line(0), line(1)])
    await triggers.report("totals", TriggerCounts(invocations=2, errors=1), "", [line(2)])
    kept = triggers.get("totals")
    assert (kept.counts.invocations, kept.counts.errors, kept.counts.records) == (3, 1, 10)
    # An empty result says nothing new.
    assert (kept.last_processing_result, kept.lines_total) == ("OK", 3)
    assert triggers.lines("totals", 0, 10) == [line(0), line(1), line(2)]
    assert triggers.lines("totals", 1, 1) == [line(1)]
    assert triggers.lines("totals", 3, 10) == []


async def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    store = Store(tmp_path)
    async with running(store, FakeClock()) as engine:
        triggers = Triggers(store, engine.committer)
        await triggers.create(trigger(), ARCHIVE)
        most = TriggerCounts(invocations=COUNT_MAX, duration_ms=float(COUNT_MAX))
        await triggers.report("totals", most, "caf\u00e9", [line(0)])
        kept = triggers.get("totals")
    store.close()
    del store, engine, triggers
    again = Store(tmp_path)
    async with running(again, FakeClock()) as engine:
        triggers = Triggers(again, engine.committer)
        assert triggers.get("totals") == kept
        assert triggers.code("totals") == ARCHIVE
        assert triggers.lines("totals", 0, 10) == [line(0)]
    again.close()


# Log lines.


async def test_only_the_last_10000_lines_stay(triggers: Triggers) -> None:
    await triggers.create(trigger(), ARCHIVE)
    await triggers.create(trigger("other"), ARCHIVE)
    await triggers.report("other", TriggerCounts(), "", [line(7)])
    total = 0
    # Some reports share a group: what one puts there a later one may trim.
    for sizes in ([REPORT_LINES_MAX], [3], [REPORT_LINES_MAX] * 9, [497], [1], [REPORT_LINES_MAX] * 2, [250]):
        reports = []
        for size in sizes:
            reports.append(triggers.report("totals", TriggerCounts(), "", [line(total + n) for n in range(size)]))
            total += size
        await asyncio.gather(*reports)
        kept = triggers.lines("totals", 0, total)
        assert kept == [line(number) for number in range(total - len(kept), total)]
        # Old lines are trimmed in steps of 500.
        assert min(total, LOG_LINES_MAX) <= len(kept) < LOG_LINES_MAX + 500
    assert triggers.get("totals").lines_total == total == 12_751
    assert triggers.lines("other", 0, 10) == [line(7)]


async def test_a_deleted_trigger_leaves_nothing(engine: Engine, triggers: Triggers) -> None:
    await triggers.create(trigger(), ARCHIVE)
    # A name that begins with the other's: ranges of lines must not meet.
    await triggers.create(trigger("totals2"), ARCHIVE)
    for name in ("totals", "totals2"):
        await triggers.report(name, TriggerCounts(), "", [line(0), line(1)])
    await triggers.delete("totals", keep_consumer)
    assert triggers.lines("totals", 0, 10) == []
    assert triggers.lines("totals2", 0, 10) == [line(0), line(1)]
    catalog = [key for key, _ in engine.store.scan(Family.CATALOG, b"trigger", b"triggers")]
    assert catalog == [b"trigger-code/totals2", b"trigger/totals2"]


# All in one group: the lines of the new trigger are not those that the old one's end deletes.
async def test_a_trigger_is_deleted_and_made_anew_in_one_group(triggers: Triggers) -> None:
    await triggers.create(trigger(), ARCHIVE)
    await triggers.report("totals", TriggerCounts(), "", [line(0), line(1)])
    await asyncio.gather(
        triggers.delete("totals", keep_consumer),
        triggers.create(trigger(), b"new"),
        triggers.report("totals", TriggerCounts(), "", [line(5)]),
    )
    assert triggers.lines("totals", 0, 10) == [line(5)]
    assert triggers.code("totals") == b"new"


async def test_who_has_seen_less_need_not_wait(triggers: Triggers) -> None:
    await triggers.create(trigger(), ARCHIVE)
    await triggers.report("totals", TriggerCounts(), "", [line(0)])
    async with asyncio.timeout(TIMEOUT_S):
        await triggers.wait_for_lines("totals", 0, timeout_seconds=2 * TIMEOUT_S)
        await triggers.wait_for_lines("totals", 1, timeout_seconds=0)


@pytest.mark.parametrize("what", ["report", "delete"])
async def test_a_report_and_the_end_wake_all_who_wait(triggers: Triggers, what: str) -> None:
    await triggers.create(trigger(), ARCHIVE)
    waiting = [asyncio.create_task(triggers.wait_for_lines("totals", 0, 2 * TIMEOUT_S)) for _ in range(3)]
    await asyncio.sleep(0)
    if what == "report":
        await triggers.report("totals", TriggerCounts(), "", [line(0)])
    else:
        await triggers.delete("totals", keep_consumer)
    async with asyncio.timeout(TIMEOUT_S):
        await asyncio.gather(*waiting)


# A crash between two commits would let the next trigger of that name go on at the old checkpoint.
async def test_a_trigger_and_its_consumer_group_end_in_one_commit(engine: Engine, triggers: Triggers) -> None:
    groups = ConsumerGroups(engine.store, engine.committer, engine.catalog, {"trigger": triggers.exists})
    await triggers.create(trigger(), ARCHIVE)
    table = await engine.table("watched")
    assert table.stream is not None
    await groups.ensure("trigger:totals", engine.catalog.stream_arn(table.stream), Start(after=7))
    entries = len(engine.journal.entries)
    await triggers.delete("totals", groups.plan_forget)
    assert groups.all() == []
    assert len(engine.journal.entries) == entries + 1
