"""ConsumerService: a member's session over one bidirectional call."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from broker.consumers.consume import (
    IN_FLIGHT_RECORDS_DEFAULT,
    IN_FLIGHT_RECORDS_MAX,
    Member,
    MemberSettings,
)
from broker.consumers.groups import GROUP_NAME_LENGTH_MAX, check_group_name
from broker.model.errors import ValidationError
from broker.model.sequence import format_sequence_number, parse_sequence_number
from broker.rpc.convert import timestamp
from broker.rpc.handlers import requests
from broker.streams.shards import horizon
from broker.streams.tail import PAGE_RECORDS_MAX
from broker.tables.validate import check_range, page_limit
from headrace.v1 import consumer_service_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from broker.consumers.consume import Members, Outlet
    from broker.consumers.groups import ConsumerGroup, ConsumerGroups, ShardState
    from broker.model.tables import Shard, Stream
    from broker.rpc.status import Context
    from broker.streams.tail import LogReader, Page
    from broker.tables.catalog import Catalog

_FROM_TRIM_HORIZON = -1


class ConsumerService:
    """Implements headrace.v1.ConsumerService."""

    def __init__(self, catalog: Catalog, groups: ConsumerGroups, members: Members, reader: LogReader) -> None:
        self._catalog = catalog
        self._groups = groups
        self._members = members
        self._reader = reader

    async def Consume(self, iterator: AsyncIterator[pb.ConsumeRequest], context: Context) -> None:
        """Serves one member until it leaves."""
        incoming = requests(iterator)
        first = await anext(incoming, None)
        if first is None or first.WhichOneof("kind") != "start":
            raise ValidationError("The first message must be start", field="kind")
        settings = _settings(first.start)
        stream = self._stream(first.start)
        arn = self._catalog.stream_arn(stream)
        start_after = self._start_after(first.start, stream)
        await self._groups.ensure(settings.group_name, arn, start_after)
        member = Member(settings, arn, self._catalog, self._groups, self._reader)
        outlet = _Outlet(context, arn, self._catalog.region)
        serving = asyncio.ensure_future(member.run(self._members, outlet))
        listening = asyncio.ensure_future(_listen(incoming, member, outlet))
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
        groups, more = self._groups.documents.page(request.page_token, limit)
        return pb.ListConsumerGroupsResponse(
            consumer_groups=[self._description(group) for group in groups],
            next_page_token=groups[-1].name if more else "",
        )

    async def DeleteConsumerGroup(self, request: pb.DeleteConsumerGroupRequest) -> pb.DeleteConsumerGroupResponse:
        """Forgets a group."""
        await self._members.delete_group(request.group_name)
        return pb.DeleteConsumerGroupResponse()

    def _stream(self, start: pb.ConsumeStart) -> Stream:
        if bool(start.stream_arn) == bool(start.table_name):
            raise ValidationError("Exactly one of stream_arn and table_name must be given", field="stream_arn")
        if start.stream_arn:
            return self._catalog.stream(start.stream_arn)
        # A known group goes on with the stream it reads, also when that was disabled since.
        group = self._groups.documents.get(start.group_name)
        if group is not None:
            stream = self._catalog.stream(group.stream_arn)
            if stream.table_name == start.table_name:
                return stream
        return self._catalog.enabled_stream(start.table_name)

    def _start_after(self, start: pb.ConsumeStart, stream: Stream) -> int:
        takes_number = start.starting_position == pb.STARTING_POSITION_AFTER_SEQUENCE_NUMBER
        if takes_number != bool(start.starting_sequence_number):
            rule = "required with" if takes_number else "only for"
            raise ValidationError(
                f"starting_sequence_number is {rule} AFTER_SEQUENCE_NUMBER", field="starting_sequence_number"
            )
        if takes_number:
            return parse_sequence_number(start.starting_sequence_number, "starting_sequence_number")
        if start.starting_position == pb.STARTING_POSITION_TRIM_HORIZON:
            return _FROM_TRIM_HORIZON
        if start.starting_position == pb.STARTING_POSITION_LATEST:
            return max(self._reader.tip(shard) for shard in stream.shards)
        raise ValidationError(
            "starting_position must satisfy enum value set: [TRIM_HORIZON, LATEST, AFTER_SEQUENCE_NUMBER]",
            field="starting_position",
        )

    def _description(self, group: ConsumerGroup) -> pb.ConsumerGroupDescription:
        stream = self._catalog.stream(group.stream_arn)
        return pb.ConsumerGroupDescription(
            group_name=group.name,
            stream_arn=group.stream_arn,
            create_time=timestamp(group.create_time_ms),
            shards=[self._checkpoint(s, group.shards[s.shard_id]) for s in stream.shards if s.shard_id in group.shards],
            member_names=self._members.of(group.name),
        )

    def _checkpoint(self, shard: Shard, state: ShardState) -> pb.ShardCheckpoint:
        return pb.ShardCheckpoint(
            shard_id=shard.shard_id,
            sequence_number=format_sequence_number(state.checkpoint) if state.checkpoint > horizon(shard) else "",
            lease_epoch=state.epoch,
            shard_end=state.is_finished,
            millis_behind_latest=self._reader.lag(shard, state.checkpoint).millis,
        )


def _settings(start: pb.ConsumeStart) -> MemberSettings:
    check_group_name(start.group_name)
    if len(start.member_name) > GROUP_NAME_LENGTH_MAX:
        raise ValidationError(
            f"member_name must have at most {GROUP_NAME_LENGTH_MAX} characters",
            field="member_name",
            limit=GROUP_NAME_LENGTH_MAX,
        )
    batch = start.max_batch_records if start.HasField("max_batch_records") else PAGE_RECORDS_MAX
    credit = start.max_in_flight_records if start.HasField("max_in_flight_records") else IN_FLIGHT_RECORDS_DEFAULT
    check_range(batch, "max_batch_records", 1, PAGE_RECORDS_MAX)
    check_range(credit, "max_in_flight_records", 1, IN_FLIGHT_RECORDS_MAX)
    return MemberSettings(
        group_name=start.group_name,
        member_name=start.member_name,
        batch_records_max=batch,
        in_flight_records_max=credit,
    )


async def _listen(incoming: AsyncIterator[pb.ConsumeRequest], member: Member, outlet: Outlet) -> None:
    """Takes acknowledgements until the client ends its requests."""
    async for request in incoming:
        if request.WhichOneof("kind") != "ack":
            raise ValidationError("All messages after the first must be ack", field="kind")
        ack = request.ack
        await member.acknowledge(ack.shard_id, ack.lease_epoch, parse_sequence_number(ack.sequence_number))
        await outlet.checkpointed(ack.shard_id, ack.lease_epoch, int(ack.sequence_number))


class _Outlet:
    """Writes a session's messages to the call, one at a time."""

    def __init__(self, context: Context, stream_arn: str, region: str) -> None:
        self._context = context
        self._stream_arn = stream_arn
        self._region = region
        # Records and checkpoints come from two tasks.
        self._writing = asyncio.Lock()

    async def started(self, *, standby: bool) -> None:
        event = pb.ConsumeStarted(stream_arn=self._stream_arn, region=self._region, standby=standby)
        await self._write(pb.ConsumeResponse(started=event))

    async def assigned(self, shard: Shard, state: ShardState) -> None:
        checkpoint = format_sequence_number(state.checkpoint) if state.checkpoint > horizon(shard) else ""
        event = pb.ShardAssigned(checkpoint=checkpoint)
        await self._write(pb.ConsumeResponse(shard_id=shard.shard_id, lease_epoch=state.epoch, assigned=event))

    async def records(self, shard: Shard, epoch: int, page: Page) -> None:
        rest = pb.ConsumeResponse(
            shard_id=shard.shard_id,
            lease_epoch=epoch,
            sequence_number=format_sequence_number(page.last_sequence_number),
            millis_behind_latest=page.millis_behind_latest,
        )
        # The stored records are the response's field 1 already.
        await self._write(b"".join((*page.parts, rest.SerializeToString())))

    async def shard_ended(self, shard: Shard, epoch: int, number: int, children: list[Shard]) -> None:
        event = pb.ShardEnded(child_shard_ids=[child.shard_id for child in children])
        await self._write(self._at(shard.shard_id, epoch, number, shard_ended=event))

    async def checkpointed(self, shard_id: str, epoch: int, number: int) -> None:
        await self._write(self._at(shard_id, epoch, number, checkpointed=pb.Checkpointed()))

    async def heartbeat(self) -> None:
        await self._write(pb.ConsumeResponse())

    @staticmethod
    def _at(
        shard_id: str,
        epoch: int,
        number: int,
        *,
        shard_ended: pb.ShardEnded | None = None,
        checkpointed: pb.Checkpointed | None = None,
    ) -> pb.ConsumeResponse:
        return pb.ConsumeResponse(
            shard_id=shard_id,
            lease_epoch=epoch,
            sequence_number=format_sequence_number(number),
            shard_ended=shard_ended,
            checkpointed=checkpointed,
        )

    async def _write(self, response: pb.ConsumeResponse | bytes) -> None:
        async with self._writing:
            await self._context.write(response)
