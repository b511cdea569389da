"""ConsumerService: a member's session over one bidirectional call, and what groups are, do and have set aside."""

from __future__ import annotations

import asyncio
from functools import singledispatch
from typing import TYPE_CHECKING, Final

from broker.consumers import events
from broker.consumers.assignment import AssignmentMode
from broker.consumers.consume import (
    ATTEMPTS_DEFAULT,
    ATTEMPTS_MAX,
    IN_FLIGHT_BYTES_DEFAULT,
    IN_FLIGHT_BYTES_MAX,
    IN_FLIGHT_RECORDS_DEFAULT,
    IN_FLIGHT_RECORDS_MAX,
    RETRY_SECONDS_MAX,
    REVOKE_SECONDS_DEFAULT,
    REVOKE_SECONDS_MAX,
    MemberSettings,
)
from broker.consumers.events import SourceKind
from broker.consumers.explain import Progress, explain, summarize
from broker.consumers.groups import GROUP_NAME_LENGTH_MAX, Failure, NackReason, Start, check_group_name
from broker.consumers.members import NO_LAG, SNAPSHOT_RANGES
from broker.model.errors import ValidationError
from broker.model.sequence import format_sequence_number, parse_sequence_number
from broker.rpc.convert import millis, text_of, timestamp
from broker.rpc.handlers import messages
from broker.rpc.response_budget import ReaderBudget, ResponseBudget
from broker.rpc.status import to_message
from broker.streams.shards import horizon
from broker.streams.tail import PAGE_RECORDS_MAX
from broker.tables.validate import check_range, page_limit
from headrace.v1 import attribute_value_pb2
from headrace.v1 import consumer_service_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from google.protobuf import duration_pb2

    from broker.consumers.consume import Session
    from broker.consumers.explain import Explanation
    from broker.consumers.groups import ConsumerGroup, ConsumerGroups
    from broker.consumers.members import Members
    from broker.consumers.parking import ParkedKey
    from broker.model.tables import Stream
    from broker.rpc.handlers import Requests
    from broker.rpc.status import Context
    from broker.streams.tail import LogReader
    from broker.tables.catalog import Catalog

SHARD_ID_LENGTH_MAX: Final = 65
NACK_MESSAGE_LENGTH_MAX: Final = 1_024
# A response of parked records.
_PARKED_BYTES_MAX: Final = 1024 * 1024
_NANOS_PER_SECOND: Final = 1_000_000_000

_MODES: Final = {
    pb.ASSIGNMENT_MODE_UNSPECIFIED: AssignmentMode.SHARED,
    pb.ASSIGNMENT_MODE_SHARED: AssignmentMode.SHARED,
    pb.ASSIGNMENT_MODE_EXCLUSIVE: AssignmentMode.EXCLUSIVE,
}
_SKIPS_GAPS: Final = {pb.GAP_POLICY_UNSPECIFIED: False, pb.GAP_POLICY_FAIL: False, pb.GAP_POLICY_SKIP: True}
_REASONS: Final = {pb.NackReason.Value(f"NACK_REASON_{reason}"): reason for reason in NackReason}
_SOURCES: Final = {kind: pb.RecordSource.Value(f"RECORD_SOURCE_{kind}") for kind in SourceKind}
_PROGRESS: Final = {progress: pb.ShardProgress.Value(f"SHARD_PROGRESS_{progress}") for progress in Progress}


class ConsumerService:
    """Implements headrace.v1.ConsumerService."""

    def __init__(
        self,
        catalog: Catalog,
        groups: ConsumerGroups,
        members: Members,
        reader: LogReader,
        budget: ResponseBudget,
    ) -> None:
        self._catalog = catalog
        self._groups = groups
        self._members = members
        self._reader = reader
        self._budget = budget

    async def Consume(self, requests: Requests, context: Context) -> None:
        """Serves one member until it leaves."""
        incoming: AsyncIterator[pb.ConsumeRequest] = messages(requests)
        first = await anext(incoming, None)
        if first is None or first.WhichOneof("kind") != "start":
            raise ValidationError("The first message must be start", field="kind")
        settings = _settings(first.start)
        stream = self._stream(first.start)
        arn = self._catalog.stream_arn(stream)
        outlet = _Outlet(context, arn, self._catalog.region, ReaderBudget(self._budget))
        session = await self._members.session(settings, arn, self._start(first.start, stream), outlet)
        serving = asyncio.ensure_future(session.run())
        listening = asyncio.ensure_future(_listen(incoming, session))
        try:
            await asyncio.wait((serving, listening), return_when=asyncio.FIRST_COMPLETED)
            # The first to end decides: an error of either, or the client's end of its requests.
            for task in (serving, listening):
                if task.done():
                    await task
        finally:
            serving.cancel()
            listening.cancel()
            await asyncio.gather(serving, listening, return_exceptions=True)

    async def DescribeConsumerGroup(self, request: pb.DescribeConsumerGroupRequest) -> pb.DescribeConsumerGroupResponse:
        """Describes a group."""
        group = self._groups.get(request.group_name)
        return pb.DescribeConsumerGroupResponse(consumer_group=self._description(group))

    async def ListConsumerGroups(self, request: pb.ListConsumerGroupsRequest) -> pb.ListConsumerGroupsResponse:
        """Lists groups."""
        limit = page_limit(request.page_size or None, "page_size")
        groups, more = self._groups.page(text_of(request, "page_token") or "", limit)
        described = []
        for group in groups:
            described.append(self._description(group))
            # Each looks at all shards of a stream: other calls have their turn in between.
            await asyncio.sleep(0)
        return pb.ListConsumerGroupsResponse(
            consumer_groups=described,
            next_page_token=groups[-1].name if more else "",
        )

    async def DeleteConsumerGroup(self, request: pb.DeleteConsumerGroupRequest) -> pb.DeleteConsumerGroupResponse:
        """Forgets a group."""
        await self._members.delete_group(request.group_name)
        return pb.DeleteConsumerGroupResponse()

    async def ExplainConsumerGroup(self, request: pb.ExplainConsumerGroupRequest) -> pb.ExplainConsumerGroupResponse:
        """Says why a group does or does not move."""
        group = self._groups.get(request.group_name)
        members = len(self._members.of(group.name))
        is_parking_full = not self._groups.parking.has_room(group.name)
        explanations = [
            explain(view, members, is_parking_full=is_parking_full)
            for view in self._members.views(group)
            if not view.is_finished
        ]
        summary = summarize(explanations, members, len(self._groups.parking.keys(group.name)))
        if self._members.stream_of(group) is None:
            summary = "The stream that the group reads is no longer held: delete the group."
        return pb.ExplainConsumerGroupResponse(
            summary=summary,
            shards=[_explanation(explanation) for explanation in explanations],
            consumer_group=self._description(group),
        )

    async def ListParkedKeys(self, request: pb.ListParkedKeysRequest) -> pb.ListParkedKeysResponse:
        """Lists parked keys."""
        limit = page_limit(request.page_size or None, "page_size")
        start = text_of(request, "page_token") or ""
        group = self._groups.get(request.group_name)
        parked = [key for key in self._groups.parking.keys(group.name) if key.parked_id > start]
        page = parked[:limit]
        return pb.ListParkedKeysResponse(
            parked_keys=[self._parked_key(key) for key in page],
            next_page_token=page[-1].parked_id if len(parked) > limit else "",
        )

    async def GetParkedRecords(self, request: pb.GetParkedRecordsRequest) -> bytes:
        """Reads parked records, which are the response's field 1 as they are stored."""
        after = 0
        start = text_of(request, "exclusive_start_sequence_number")
        if start is not None:
            after = parse_sequence_number(start, "exclusive_start_sequence_number")
        group, parking = self._groups.get(request.group_name), self._groups.parking
        parked = parking.get(group.name, request.parked_id)
        records = parking.read(parked, after, PAGE_RECORDS_MAX, _PARKED_BYTES_MAX)
        rest = pb.GetParkedRecordsResponse()
        if records and records[-1][0] < parking.last_number(group.name, parked.parked_id):
            rest.last_evaluated_sequence_number = format_sequence_number(records[-1][0])
        return b"".join((*(record for _, record in records), rest.SerializeToString()))

    async def RedriveParkedKeys(self, request: pb.RedriveParkedKeysRequest) -> pb.RedriveParkedKeysResponse:
        """Delivers parked records again."""
        count = await self._groups.redrive(request.group_name, text_of(request, "parked_id") or "")
        self._members.rebalance(request.group_name)
        return pb.RedriveParkedKeysResponse(redriven_keys=count)

    async def DiscardParkedKey(self, request: pb.DiscardParkedKeyRequest) -> pb.DiscardParkedKeyResponse:
        """Drops parked records."""
        count = await self._groups.discard(request.group_name, request.parked_id)
        self._members.rebalance(request.group_name)
        return pb.DiscardParkedKeyResponse(discarded_records=count)

    def _stream(self, start: pb.ConsumeStart) -> Stream:
        if bool(start.stream_arn) == bool(start.table_name):
            raise ValidationError("Exactly one of stream_arn and table_name must be given", field="stream_arn")
        if start.stream_arn:
            return self._catalog.stream(start.stream_arn)
        # A known group goes on with the stream it reads, also when that was disabled since.
        group = self._groups.find(start.group_name)
        if group is not None:
            stream = self._members.stream_of(group)
            if stream is not None and stream.table_name == self._catalog.table_name(start.table_name):
                return stream
        return self._catalog.enabled_stream(start.table_name)

    def _start(self, start: pb.ConsumeStart, stream: Stream) -> Start:
        takes_number = start.starting_position == pb.STARTING_POSITION_AFTER_SEQUENCE_NUMBER
        takes_time = start.starting_position == pb.STARTING_POSITION_AT_TIMESTAMP
        if takes_number != (text_of(start, "starting_sequence_number") is not None):
            rule = "required with" if takes_number else "only for"
            raise ValidationError(
                f"starting_sequence_number is {rule} AFTER_SEQUENCE_NUMBER", field="starting_sequence_number"
            )
        if takes_time != start.HasField("starting_timestamp"):
            rule = "required with" if takes_time else "only for"
            raise ValidationError(f"starting_timestamp is {rule} AT_TIMESTAMP", field="starting_timestamp")
        match start.starting_position:
            case pb.STARTING_POSITION_TRIM_HORIZON:
                return Start(after=-1)
            case pb.STARTING_POSITION_LATEST:
                return Start(after=self._reader.tip_of_stream(stream))
            case pb.STARTING_POSITION_AFTER_SEQUENCE_NUMBER:
                number = parse_sequence_number(start.starting_sequence_number, "starting_sequence_number")
                return Start(after=number, is_exact=True)
            case pb.STARTING_POSITION_AT_TIMESTAMP:
                return Start(after=self._reader.position_at_time(stream, millis(start.starting_timestamp)))
            case pb.STARTING_POSITION_SNAPSHOT:
                return Start(after=-1, snapshot_ranges=SNAPSHOT_RANGES)
        raise ValidationError(
            "starting_position must satisfy enum value set: [TRIM_HORIZON, LATEST, AFTER_SEQUENCE_NUMBER, "
            "AT_TIMESTAMP, SNAPSHOT]",
            field="starting_position",
        )

    def _description(self, group: ConsumerGroup) -> pb.ConsumerGroupDescription:
        parking = self._groups.parking
        return pb.ConsumerGroupDescription(
            group_name=group.name,
            stream_arn=group.stream_arn,
            create_time=timestamp(group.create_time_ms),
            shards=self._checkpoints(group),
            member_names=self._members.of(group.name),
            parked_keys=len(parking.keys(group.name)),
            parked_records=parking.records(group.name),
        )

    def _checkpoints(self, group: ConsumerGroup) -> list[pb.ShardCheckpoint]:
        stream, live = self._members.stream_of(group), self._members.live(group.name)
        holders = {} if live is None else live.holders()
        # Ranges of a snapshot come before shards, as they do in the group.
        begun = [(range_id, 0, pb.ShardCheckpoint()) for range_id in group.range_ids]
        for shard in () if stream is None else stream.shards:
            lag = NO_LAG
            if not group.is_finished(shard):
                lag = self._reader.lag(shard, group.state_of(shard).checkpoint)
            checkpoint = pb.ShardCheckpoint(millis_behind_latest=lag.millis, records_behind_latest=lag.records)
            begun.append((shard.shard_id, horizon(shard), checkpoint))
        checkpoints = []
        for source_id, beginning, checkpoint in begun:
            state = group.shards.get(source_id)
            if state is None or not state.epoch:
                continue
            holder = holders.get(source_id)
            checkpoint.shard_id = source_id
            checkpoint.sequence_number = (
                format_sequence_number(state.checkpoint) if state.checkpoint > beginning else ""
            )
            checkpoint.lease_epoch = state.epoch
            checkpoint.shard_end = state.is_finished
            checkpoint.member_name = "" if holder is None else holder[0].name
            checkpoints.append(checkpoint)
        return checkpoints

    def _parked_key(self, key: ParkedKey) -> pb.ParkedKey:
        records, size_bytes = self._groups.parking.usage(key)
        return pb.ParkedKey(
            parked_id=key.parked_id,
            key=attribute_value_pb2.Item.FromString(key.key),
            shard_id=key.shard_id,
            sequence_number=format_sequence_number(key.sequence_number),
            attempts=key.attempts,
            last_error=key.last_error,
            park_time=timestamp(key.park_time_ms),
            records=records,
            bytes=size_bytes,
            redriving=key.is_redriving,
        )


def _settings(start: pb.ConsumeStart) -> MemberSettings:
    check_group_name(start.group_name)
    if len(start.member_name) > GROUP_NAME_LENGTH_MAX:
        raise ValidationError(
            f"member_name must have at most {GROUP_NAME_LENGTH_MAX} characters",
            field="member_name",
            limit=GROUP_NAME_LENGTH_MAX,
        )
    if start.assignment_mode not in _MODES:
        raise ValidationError(
            "assignment_mode must satisfy enum value set: [SHARED, EXCLUSIVE]", field="assignment_mode"
        )
    if start.on_gap not in _SKIPS_GAPS:
        raise ValidationError("on_gap must satisfy enum value set: [FAIL, SKIP]", field="on_gap")
    return MemberSettings(
        group_name=start.group_name,
        member_name=start.member_name,
        batch_records_max=_number(start, "max_batch_records", 1, PAGE_RECORDS_MAX, PAGE_RECORDS_MAX),
        in_flight_records_max=_number(
            start, "max_in_flight_records", 1, IN_FLIGHT_RECORDS_MAX, IN_FLIGHT_RECORDS_DEFAULT
        ),
        in_flight_bytes_max=_number(start, "max_in_flight_bytes", 1, IN_FLIGHT_BYTES_MAX, IN_FLIGHT_BYTES_DEFAULT),
        mode=_MODES[start.assignment_mode],
        skips_gaps=_SKIPS_GAPS[start.on_gap],
        attempts_max=_number(start, "max_attempts", 0, ATTEMPTS_MAX, ATTEMPTS_DEFAULT),
        revoke_seconds=_number(start, "revoke_timeout_in_seconds", 1, REVOKE_SECONDS_MAX, REVOKE_SECONDS_DEFAULT),
    )


def _number(start: pb.ConsumeStart, field: str, least: int, most: int, default: int) -> int:
    if not start.HasField(field):  # type: ignore[arg-type]
        return default
    value: int = getattr(start, field)
    check_range(value, field, least, most)
    return value


async def _listen(incoming: AsyncIterator[pb.ConsumeRequest], session: Session) -> None:
    """Takes acks and nacks until the client ends its requests; returns when all are answered."""
    async for request in incoming:
        match request.WhichOneof("kind"):
            case "ack":
                ack = request.ack
                _check_shard_id(ack.shard_id)
                await session.acknowledge(ack.shard_id, ack.lease_epoch, parse_sequence_number(ack.sequence_number))
            case "nack":
                nack = request.nack
                _check_shard_id(nack.shard_id)
                await session.fail(
                    nack.shard_id,
                    nack.lease_epoch,
                    _failure(nack, session.settings.attempts_max),
                )
            case _:
                raise ValidationError("All messages after the first must be ack or nack", field="kind")
    await session.answered()


def _check_shard_id(shard_id: str) -> None:
    if not 1 <= len(shard_id) <= SHARD_ID_LENGTH_MAX:
        raise ValidationError(
            f"shard_id must have 1 to {SHARD_ID_LENGTH_MAX} characters", field="shard_id", limit=SHARD_ID_LENGTH_MAX
        )


def _failure(nack: pb.ConsumeNack, attempts_max: int) -> Failure:
    reason = _REASONS.get(nack.reason)
    if reason is None:
        raise ValidationError("reason must satisfy enum value set: [TRANSIENT, FATAL, SHUTDOWN]", field="reason")
    return Failure(
        number=parse_sequence_number(nack.sequence_number),
        reason=reason,
        message=nack.message[:NACK_MESSAGE_LENGTH_MAX],
        attempts_max=attempts_max,
        retry_seconds=_retry_seconds(nack.retry_delay) if nack.HasField("retry_delay") else None,
    )


def _retry_seconds(delay: duration_pb2.Duration) -> float:
    seconds = delay.seconds + delay.nanos / _NANOS_PER_SECOND
    if not 0 <= seconds <= RETRY_SECONDS_MAX:
        raise ValidationError(
            f"retry_delay must be from 0 to {RETRY_SECONDS_MAX} seconds", field="retry_delay", limit=RETRY_SECONDS_MAX
        )
    return seconds


def _explanation(explanation: Explanation) -> pb.ShardExplanation:
    view = explanation.view
    message = pb.ShardExplanation(
        shard_id=view.source_id,
        progress=_PROGRESS[explanation.progress],
        text=explanation.text,
        lease_epoch=view.epoch,
        records_behind_latest=view.records_behind,
        millis_behind_latest=view.millis_behind,
        attempts=view.attempts,
        last_error=view.last_error,
    )
    if view.holding is not None:
        message.member_name = view.holding.member_name
        message.in_flight_records = view.holding.in_flight_records
        message.in_flight_age_ms = view.holding.in_flight_age_ms
    return message


class _Outlet:
    """Writes a session's events to the call."""

    def __init__(self, context: Context, stream_arn: str, region: str, budget: ReaderBudget) -> None:
        self._context = context
        self._budget = budget
        self._stream_arn = stream_arn
        self._region = region

    @property
    def batch_bytes_max(self) -> int:
        """How large the next batch may be; one record may be larger."""
        return self._budget.page_bytes_max

    async def send(self, event: events.Event) -> None:
        """Writes an event."""
        if isinstance(event, events.Records):
            batch = event.batch
            rest = _about(event, batch.last_sequence_number)
            rest.millis_behind_latest = batch.millis_behind_latest
            # The stored records are the response's field 1 already.
            response = b"".join((*batch.take(), rest.SerializeToString()))
            await self._budget.write(self._context, response)
        elif isinstance(event, events.Started):
            started = pb.ConsumeStarted(stream_arn=self._stream_arn, region=self._region, standby=event.is_standby)
            await self._context.write(pb.ConsumeResponse(started=started))
        else:
            await self._context.write(_response(event))


def _about(event: events.SourceEvent, number: int | None = None) -> pb.ConsumeResponse:
    return pb.ConsumeResponse(
        shard_id=event.source_id,
        lease_epoch=event.epoch,
        sequence_number="" if number is None else format_sequence_number(number),
        source=_SOURCES[event.kind],
    )


@singledispatch
def _response(event: events.Event) -> pb.ConsumeResponse:
    raise AssertionError(f"no message for {event}")


@_response.register
def _(_: events.Heartbeat) -> pb.ConsumeResponse:
    return pb.ConsumeResponse()


@_response.register
def _(event: events.Assigned) -> pb.ConsumeResponse:
    response = _about(event)
    response.assigned.SetInParent()
    if event.checkpoint is not None:
        response.assigned.checkpoint = format_sequence_number(event.checkpoint)
    return response


@_response.register
def _(event: events.Ended) -> pb.ConsumeResponse:
    response = _about(event, event.number)
    response.shard_ended.SetInParent()
    response.shard_ended.child_shard_ids.extend(event.children)
    return response


@_response.register
def _(event: events.Checkpointed) -> pb.ConsumeResponse:
    response = _about(event, event.number)
    response.checkpointed.SetInParent()
    return response


@_response.register
def _(event: events.Revoking) -> pb.ConsumeResponse:
    response = _about(event)
    response.revoking.deadline.CopyFrom(timestamp(event.deadline_ms))
    return response


@_response.register
def _(event: events.Revoked) -> pb.ConsumeResponse:
    response = _about(event)
    response.revoked.SetInParent()
    return response


@_response.register
def _(event: events.Lost) -> pb.ConsumeResponse:
    response = _about(event, event.number)
    response.gap.first_lost_sequence_number = format_sequence_number(event.gap.first_lost)
    response.gap.last_lost_sequence_number = format_sequence_number(event.gap.last_lost)
    response.gap.lost_from.CopyFrom(timestamp(event.gap.lost_from_ms))
    response.gap.lost_to.CopyFrom(timestamp(event.gap.lost_to_ms))
    return response


@_response.register
def _(event: events.Failed) -> pb.ConsumeResponse:
    response = _about(event, event.number)
    response.nacked.attempts = event.attempts
    response.nacked.parked = event.is_parked
    if event.retry_time_ms is not None:
        response.nacked.retry_time.CopyFrom(timestamp(event.retry_time_ms))
    response.nacked.SetInParent()
    return response


@_response.register
def _(event: events.Refused) -> pb.ConsumeResponse:
    response = _about(event, event.number)
    response.refused.CopyFrom(to_message(event.error))
    return response
