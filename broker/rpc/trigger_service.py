"""TriggerService: requests to the registry of triggers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from broker.model.errors import ResourceNotFoundError, ValidationError
from broker.rpc.convert import millis, text_of, timestamp
from broker.tables.validate import check_range, page_limit
from broker.triggers.registry import (
    BATCH_SIZE_DEFAULT,
    BATCH_SIZE_MAX,
    COUNT_MAX,
    LINE_BYTES_MAX,
    LOG_LINES_MAX,
    REPORT_LINES_MAX,
    LogLine,
    Trigger,
    TriggerCounts,
    TriggerState,
    check_archive,
    check_trigger,
    new_function,
)
from headrace.v1 import consumer_service_pb2
from headrace.v1 import trigger_service_pb2 as pb

if TYPE_CHECKING:
    from broker.consumers.groups import ConsumerGroups
    from broker.rpc.status import Context
    from broker.storage.commit import Group
    from broker.tables.catalog import Catalog
    from broker.triggers.registry import Triggers

_STATES: Final = {
    pb.TRIGGER_STATE_ENABLED: TriggerState.ENABLED,
    pb.TRIGGER_STATE_DISABLED: TriggerState.DISABLED,
}
_STATE_NUMBERS: Final = {state: number for number, state in _STATES.items()}
_STARTING_POSITIONS: Final = {
    consumer_service_pb2.STARTING_POSITION_TRIM_HORIZON: "TRIM_HORIZON",
    consumer_service_pb2.STARTING_POSITION_LATEST: "LATEST",
}
_STARTING_POSITION_NUMBERS: Final = {name: number for number, name in _STARTING_POSITIONS.items()}
_LAST_LINES_DEFAULT: Final = 100
# Lines per response of TailTriggerLogs: at 16 KiB each they stay under gRPC's 4 MiB.
_LINES_PER_RESPONSE: Final = 200
_WAIT_SECONDS: Final = 15.0
_RESULT_LENGTH_MAX: Final = 256
# The last moment a protobuf Timestamp can tell: the end of the year 9999.
_TIME_MS_MAX: Final = 253_402_300_799_999


class TriggerService:
    """Implements headrace.v1.TriggerService."""

    def __init__(self, catalog: Catalog, triggers: Triggers, groups: ConsumerGroups) -> None:
        self._catalog = catalog
        self._triggers = triggers
        self._groups = groups

    async def CreateTrigger(self, request: pb.CreateTriggerRequest) -> pb.CreateTriggerResponse:
        """Creates a trigger."""
        batch_size = request.batch_size or BATCH_SIZE_DEFAULT
        check_trigger(request.trigger_name, request.code, batch_size)
        if request.starting_position not in _STARTING_POSITIONS:
            raise ValidationError(
                "starting_position must satisfy enum value set: [TRIM_HORIZON, LATEST]", field="starting_position"
            )
        function = new_function(
            handler=request.function.handler,
            runtime=request.function.runtime,
            environment=request.function.environment,
            timeout_seconds=request.function.timeout_seconds,
            memory_size_mb=request.function.memory_size_mb,
            archive=request.code,
        )
        trigger = Trigger(
            name=request.trigger_name,
            event_source_arn=self._event_source(request),
            function=function,
            batch_size=batch_size,
            starting_position=_STARTING_POSITIONS[request.starting_position],
            create_time_ms=0,
        )
        trigger = await self._triggers.create(trigger, request.code, self._plan_start)
        return pb.CreateTriggerResponse(trigger=_description(trigger))

    async def DescribeTrigger(self, request: pb.DescribeTriggerRequest) -> pb.DescribeTriggerResponse:
        """Describes a trigger."""
        return pb.DescribeTriggerResponse(trigger=_description(self._triggers.get(request.trigger_name)))

    async def ListTriggers(self, request: pb.ListTriggersRequest) -> pb.ListTriggersResponse:
        """Lists triggers."""
        limit = page_limit(request.page_size or None, "page_size")
        triggers, more = self._triggers.documents.page(text_of(request, "page_token") or "", limit)
        return pb.ListTriggersResponse(
            triggers=[_description(trigger) for trigger in triggers], next_page_token=triggers[-1].name if more else ""
        )

    async def UpdateTrigger(self, request: pb.UpdateTriggerRequest) -> pb.UpdateTriggerResponse:
        """Changes a trigger."""
        state = batch_size = code = None
        if request.HasField("state"):
            state = _STATES.get(request.state)
            if state is None:
                raise ValidationError("state must satisfy enum value set: [ENABLED, DISABLED]", field="state")
        if request.HasField("batch_size"):
            batch_size = request.batch_size
            check_range(batch_size, "batch_size", 1, BATCH_SIZE_MAX)
        if request.HasField("code"):
            code = request.code
            check_archive(code)
        trigger = await self._triggers.update(request.trigger_name, state=state, batch_size=batch_size, archive=code)
        return pb.UpdateTriggerResponse(trigger=_description(trigger))

    async def DeleteTrigger(self, request: pb.DeleteTriggerRequest) -> pb.DeleteTriggerResponse:
        """Removes a trigger, and the consumer group it read as."""
        await self._triggers.delete(request.trigger_name, self._groups.plan_forget)
        return pb.DeleteTriggerResponse()

    async def GetTriggerCode(self, request: pb.GetTriggerCodeRequest) -> pb.GetTriggerCodeResponse:
        """Fetches a function's code and the values of its environment."""
        code = self._triggers.code(request.trigger_name)
        environment = self._triggers.get(request.trigger_name).function.environment
        return pb.GetTriggerCodeResponse(code=code, environment=environment)

    async def ReportInvocations(self, request: pb.ReportInvocationsRequest) -> pb.ReportInvocationsResponse:
        """Adds what a trigger host did."""
        if len(request.lines) > REPORT_LINES_MAX:
            raise ValidationError(
                f"lines must have at most {REPORT_LINES_MAX} elements", field="lines", limit=REPORT_LINES_MAX
            )
        counts = request.counts
        for number in (counts.invocations, counts.errors, counts.records, counts.duration_ms, counts.iterator_age_ms):
            # A duration may also be no number at all, which no comparison holds for.
            if not 0 <= number <= COUNT_MAX:
                raise ValidationError(f"counts must be from 0 to {COUNT_MAX}", field="counts", limit=COUNT_MAX)
        await self._triggers.report(
            request.trigger_name,
            TriggerCounts(
                invocations=counts.invocations,
                errors=counts.errors,
                records=counts.records,
                duration_ms=counts.duration_ms,
                iterator_age_ms=counts.iterator_age_ms,
            ),
            request.last_processing_result[:_RESULT_LENGTH_MAX],
            [LogLine(_line_time(line), _cut(line.text)) for line in request.lines],
        )
        return pb.ReportInvocationsResponse()

    async def TailTriggerLogs(self, request: pb.TailTriggerLogsRequest, context: Context) -> None:
        """Streams log lines."""
        last_lines = request.last_lines if request.HasField("last_lines") else _LAST_LINES_DEFAULT
        check_range(last_lines, "last_lines", 0, LOG_LINES_MAX)
        name = request.trigger_name
        seen = max(0, self._triggers.get(name).lines_total - last_lines)
        while True:
            total = self._triggers.get(name).lines_total
            while seen < total:
                lines = self._triggers.lines(name, seen, min(_LINES_PER_RESPONSE, total - seen))
                seen += min(_LINES_PER_RESPONSE, total - seen)
                messages = [pb.TriggerLogLine(time=timestamp(line.time_ms), text=line.text) for line in lines]
                await context.write(pb.TailTriggerLogsResponse(lines=messages))
            if not request.follow:
                return
            await self._triggers.wait_for_lines(name, seen, _WAIT_SECONDS)

    def _plan_start(self, group: Group, trigger: Trigger) -> None:
        """Fixes where a trigger begins that is to get every later record.

        One that begins at the oldest record has no such place: what is oldest is known only when it is first read.
        """
        if trigger.starting_position == "LATEST":
            self._groups.plan_begin_after_commits(group, trigger.group_name, trigger.event_source_arn)

    def _event_source(self, request: pb.CreateTriggerRequest) -> str:
        if bool(request.event_source_arn) == bool(request.table_name):
            raise ValidationError(
                "Exactly one of event_source_arn and table_name must be given", field="event_source_arn"
            )
        if request.table_name:
            return self._catalog.stream_arn(self._catalog.enabled_stream(request.table_name))
        try:
            self._catalog.stream(request.event_source_arn)
        except ResourceNotFoundError as error:
            raise ResourceNotFoundError(f"Stream not found: {request.event_source_arn}", **error.metadata) from error
        return request.event_source_arn


def _description(trigger: Trigger) -> pb.TriggerDescription:
    function, counts = trigger.function, trigger.counts
    return pb.TriggerDescription(
        trigger_name=trigger.name,
        event_source_arn=trigger.event_source_arn,
        function=pb.Function(
            handler=function.handler,
            runtime=function.runtime,
            environment_names=sorted(function.environment),
            timeout_seconds=function.timeout_seconds,
            memory_size_mb=function.memory_size_mb,
            code_sha256=function.code_sha256,
        ),
        batch_size=trigger.batch_size,
        starting_position=_STARTING_POSITION_NUMBERS[trigger.starting_position],
        state=_STATE_NUMBERS[trigger.state],
        last_processing_result=trigger.last_processing_result,
        create_time=timestamp(trigger.create_time_ms),
        counts=pb.TriggerCounts(
            invocations=counts.invocations,
            errors=counts.errors,
            records=counts.records,
            duration_ms=counts.duration_ms,
            iterator_age_ms=counts.iterator_age_ms,
        ),
    )


def _line_time(line: pb.TriggerLogLine) -> int:
    time = millis(line.time)
    if not 0 <= time <= _TIME_MS_MAX:
        raise ValidationError("lines.time must lie between 1970 and 9999", field="lines.time", limit=_TIME_MS_MAX)
    return time


def _cut(text: str) -> str:
    data = text.encode()
    return text if len(data) <= LINE_BYTES_MAX else data[:LINE_BYTES_MAX].decode(errors="ignore")
