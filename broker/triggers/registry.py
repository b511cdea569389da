"""The registry of triggers: what is to run, what it has done, and what it wrote."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Final

import msgspec

from broker.model.errors import ResourceInUseError, ResourceNotFoundError, ValidationError
from broker.storage.documents import Documents
from broker.storage.rocks import Family
from broker.tables.validate import check_name, check_range

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from broker.storage.commit import Committer, Group
    from broker.storage.rocks import Store

NAME_LENGTH_MAX: Final = 64
CODE_BYTES_MAX: Final = 3 * 1024 * 1024
HANDLER_LENGTH_MAX: Final = 128
BATCH_SIZE_DEFAULT: Final = 100
BATCH_SIZE_MAX: Final = 10_000
# Lambda's limits: AWS Lambda Developer Guide, "Lambda quotas".
ENVIRONMENT_BYTES_MAX: Final = 4096
TIMEOUT_SECONDS_DEFAULT: Final = 3
TIMEOUT_SECONDS_MAX: Final = 900
MEMORY_MB_MIN: Final = 128
MEMORY_MB_MAX: Final = 10_240
LOG_LINES_MAX: Final = 10_000
REPORT_LINES_MAX: Final = 1000
LINE_BYTES_MAX: Final = 16 * 1024
# Far beyond any truth, and small enough for the protos' 64 bits and for a float to be exact. Sums stop there.
COUNT_MAX: Final = 2**53
RUNTIMES: Final = ("python",)

_LINE_NUMBER_BYTES: Final = 8
# About what a trigger takes in the queue besides its code and its lines.
_TRIGGER_BYTES: Final = 1024
# Trimming old lines in steps makes one range delete of many reports.
_TRIM_EVERY_LINES: Final = 500


class TriggerState(StrEnum):
    """Whether a trigger runs."""

    ENABLED = "Enabled"
    DISABLED = "Disabled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """What a trigger runs."""

    handler: str
    runtime: str
    environment: dict[str, str]
    timeout_seconds: int
    memory_size_mb: int
    code_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerCounts:
    """What a trigger has done."""

    invocations: int = 0
    errors: int = 0
    records: int = 0
    duration_ms: float = 0.0
    iterator_age_ms: int = 0

    def plus(self, more: TriggerCounts) -> TriggerCounts:
        """The sum; the age is the newer one if the report holds successful records."""
        return TriggerCounts(
            invocations=min(COUNT_MAX, self.invocations + more.invocations),
            errors=min(COUNT_MAX, self.errors + more.errors),
            records=min(COUNT_MAX, self.records + more.records),
            duration_ms=min(COUNT_MAX, self.duration_ms + more.duration_ms),
            iterator_age_ms=more.iterator_age_ms if more.records else self.iterator_age_ms,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Trigger:
    """A trigger. Its code and its log lines are kept apart."""

    name: str
    event_source_arn: str
    function: Function
    batch_size: int
    starting_position: str
    create_time_ms: int
    state: TriggerState = TriggerState.ENABLED
    last_processing_result: str = "No records processed"
    counts: TriggerCounts = field(default_factory=TriggerCounts)
    # Log lines ever written; the last of them are kept.
    lines_total: int = 0

    @property
    def group_name(self) -> str:
        """The consumer group it reads as."""
        return f"trigger:{self.name}"


class LogLine(msgspec.Struct, frozen=True, array_like=True):
    """One line of a trigger's log."""

    time_ms: int
    text: str


class _Code(msgspec.Struct, frozen=True):
    """The zip archive of a function."""

    archive: bytes


class Triggers:
    """All triggers of a store."""

    def __init__(self, store: Store, committer: Committer) -> None:
        self._store = store
        self._committer = committer
        self.documents = Documents(store, "trigger", Trigger)
        self._code = Documents(store, "trigger-code", _Code)
        self._written: dict[str, asyncio.Event] = {}

    def exists(self, name: str) -> bool:
        """Whether there is a trigger of a name."""
        return self.documents.get(name) is not None

    def get(self, name: str) -> Trigger:
        """A trigger. Raises ResourceNotFoundError."""
        trigger = self.documents.get(name)
        if trigger is None:
            raise ResourceNotFoundError(f"Trigger {name} not found", trigger_name=name)
        return trigger

    def code(self, name: str) -> bytes:
        """The archive of a trigger's function. Raises ResourceNotFoundError."""
        self.get(name)
        code = self._code.get(name)
        assert code is not None, f"trigger {name} has no code"
        return code.archive

    async def create(
        self,
        trigger: Trigger,
        archive: bytes,
        plan_start: Callable[[Group, Trigger], None] | None = None,
    ) -> Trigger:
        """Adds a trigger; `plan_start` is part of the same commit and may fix where it begins.

        Raises ResourceInUseError if the name is taken, and what `plan_start` raises.
        """

        def plan(group: Group) -> Trigger:
            if self.documents.get(trigger.name) is not None:
                raise ResourceInUseError(f"Trigger already exists: {trigger.name}", trigger_name=trigger.name)
            made = replace(trigger, create_time_ms=group.now_ms)
            if plan_start is not None:
                plan_start(group, made)
            self.documents.put(group, made.name, made)
            self._code.put(group, made.name, _Code(archive))
            return made

        return await self._committer.change(plan, _TRIGGER_BYTES + len(archive))

    async def update(
        self, name: str, *, state: TriggerState | None, batch_size: int | None, archive: bytes | None
    ) -> Trigger:
        """Changes what is given. Raises ResourceNotFoundError."""

        def plan(group: Group) -> Trigger:
            trigger = self.get(name)
            if archive is not None:
                trigger = replace(trigger, function=replace(trigger.function, code_sha256=_sha256(archive)))
                self._code.put(group, name, _Code(archive))
            trigger = replace(trigger, state=state or trigger.state, batch_size=batch_size or trigger.batch_size)
            self.documents.put(group, name, trigger)
            return trigger

        return await self._committer.change(plan, _TRIGGER_BYTES + len(archive or b""))

    async def delete(self, name: str, forget_consumer: Callable[[Group, str], None]) -> None:
        """Removes a trigger with its code, its log and, in the same commit, its consumer group.

        Raises ResourceNotFoundError.
        """

        def plan(group: Group) -> None:
            trigger = self.get(name)
            forget_consumer(group, trigger.group_name)
            self.documents.delete(group, name)
            self._code.delete(group, name)
            group.delete_range(Family.TRIGGER_LINES, _line_key(name, 0), _line_key(name, trigger.lines_total))

        await self._committer.change(plan)
        self._wake(name)

    async def report(self, name: str, counts: TriggerCounts, result: str, lines: Sequence[LogLine]) -> None:
        """Adds invocations to a trigger's counts and log. Raises ResourceNotFoundError."""

        def plan(group: Group) -> None:
            trigger = self.get(name)
            before, total = trigger.lines_total, trigger.lines_total + len(lines)
            # Old lines first: a range delete comes before the puts of its group.
            if before // _TRIM_EVERY_LINES != total // _TRIM_EVERY_LINES and total > LOG_LINES_MAX:
                group.delete_range(Family.TRIGGER_LINES, _line_key(name, 0), _line_key(name, total - LOG_LINES_MAX))
            for number, line in enumerate(lines, start=before):
                group.put(Family.TRIGGER_LINES, _line_key(name, number), msgspec.msgpack.encode(line))
            reported = replace(
                trigger,
                counts=trigger.counts.plus(counts),
                last_processing_result=result or trigger.last_processing_result,
                lines_total=total,
            )
            self.documents.put(group, name, reported)

        await self._committer.change(plan, _TRIGGER_BYTES + sum(len(line.text) for line in lines))
        self._wake(name)

    def lines(self, name: str, first: int, count: int) -> list[LogLine]:
        """Up to `count` log lines from a line number on; those before the last 10,000 are gone."""
        begin, end = _line_key(name, first), _line_key(name, first + count)
        return [
            msgspec.msgpack.decode(value, type=LogLine)
            for _, value in self._store.scan(Family.TRIGGER_LINES, begin, end)
        ]

    async def wait_for_lines(self, name: str, seen: int, timeout_seconds: float) -> None:
        """Returns when there are more than `seen` lines, or the time is up. Raises ResourceNotFoundError."""
        if self.get(name).lines_total > seen:
            return
        event = self._written.setdefault(name, asyncio.Event())
        try:
            async with asyncio.timeout(timeout_seconds):
                await event.wait()
        except TimeoutError:
            pass

    def _wake(self, name: str) -> None:
        event = self._written.pop(name, None)
        if event is not None:
            event.set()


def new_function(
    *,
    handler: str,
    runtime: str,
    environment: Mapping[str, str],
    timeout_seconds: int,
    memory_size_mb: int,
    archive: bytes,
) -> Function:
    """A checked function; zeros mean the defaults. Raises ValidationError."""
    module, _, function = handler.rpartition(".")
    if not module or not function or len(handler) > HANDLER_LENGTH_MAX:
        raise ValidationError(
            f"function.handler must be module.function, at most {HANDLER_LENGTH_MAX} characters",
            field="function.handler",
            limit=HANDLER_LENGTH_MAX,
        )
    if runtime not in RUNTIMES:
        raise ValidationError(
            f"function.runtime must satisfy enum value set: [{', '.join(RUNTIMES)}]", field="function.runtime"
        )
    size = sum(len(name.encode()) + len(value.encode()) for name, value in environment.items())
    if size > ENVIRONMENT_BYTES_MAX:
        raise ValidationError(
            f"function.environment has {size} bytes, limit {ENVIRONMENT_BYTES_MAX}",
            field="function.environment",
            limit=ENVIRONMENT_BYTES_MAX,
        )
    timeout_seconds = timeout_seconds or TIMEOUT_SECONDS_DEFAULT
    memory_size_mb = memory_size_mb or MEMORY_MB_MIN
    check_range(timeout_seconds, "function.timeout_seconds", 1, TIMEOUT_SECONDS_MAX)
    check_range(memory_size_mb, "function.memory_size_mb", MEMORY_MB_MIN, MEMORY_MB_MAX)
    return Function(
        handler=handler,
        runtime=runtime,
        environment=dict(environment),
        timeout_seconds=timeout_seconds,
        memory_size_mb=memory_size_mb,
        code_sha256=_sha256(archive),
    )


def check_trigger(name: str, archive: bytes, batch_size: int) -> None:
    """Checks what new_function does not. Raises ValidationError."""
    check_name(name, "trigger_name", NAME_LENGTH_MAX)
    check_archive(archive)
    check_range(batch_size, "batch_size", 1, BATCH_SIZE_MAX)


def check_archive(archive: bytes) -> None:
    """1 byte to 3 MiB."""
    if not 1 <= len(archive) <= CODE_BYTES_MAX:
        raise ValidationError(
            f"code must have 1 to {CODE_BYTES_MAX} bytes, has {len(archive)}", field="code", limit=CODE_BYTES_MAX
        )


def _sha256(archive: bytes) -> str:
    return base64.b64encode(hashlib.sha256(archive).digest()).decode()


def _line_key(name: str, number: int) -> bytes:
    return name.encode() + b"\x00" + number.to_bytes(_LINE_NUMBER_BYTES, "big")
