"""StreamService: positions in streams, and records as the bytes they are stored as."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from broker.model.constraints import one_of
from broker.model.errors import ConstraintError, ResourceNotFoundError, ValidationError
from broker.model.sequence import parse_sequence_number
from broker.rpc import convert
from broker.rpc.response_budget import ReaderBudget, ResponseBudget
from broker.storage.watermark import Wakeup
from broker.streams.lanes import children, find_lane, lanes, parent_ids, whole
from broker.streams.tail import PAGE_BYTES_MAX, PAGE_RECORDS_MAX
from broker.streams.walk import OLDEST, Walk, begin
from broker.tables.validate import check_range, page_limit
from headrace.v1 import stream_service_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from broker.model.tables import Shard, Stream
    from broker.rpc.status import Context
    from broker.storage.watermark import Watermarks
    from broker.streams.iterators import Iterators, Position
    from broker.streams.lanes import Lane
    from broker.streams.metering import Metering
    from broker.streams.tail import LogReader
    from broker.streams.walk import Step
    from broker.tables.capacity import CapacityMetering
    from broker.tables.catalog import Catalog

HEARTBEAT_SECONDS: Final = 15.0
_MILLIS_PER_SECOND: Final = 1000
_ITERATOR_TYPES: Final = ("TRIM_HORIZON", "LATEST", "AT_SEQUENCE_NUMBER", "AFTER_SEQUENCE_NUMBER", "AT_TIMESTAMP")


class StreamService:
    """Implements headrace.v1.StreamService."""

    def __init__(
        self,
        catalog: Catalog,
        reader: LogReader,
        watermarks: Watermarks,
        iterators: Iterators,
        metering: Metering,
        capacity: CapacityMetering,
        budget: ResponseBudget,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._catalog = catalog
        self._reader = reader
        self._watermarks = watermarks
        self._iterators = iterators
        self._metering = metering
        self._capacity = capacity
        self._budget = budget
        self._sleep = sleep
        self._now = now

    async def ListStreams(self, request: pb.ListStreamsRequest) -> pb.ListStreamsResponse:
        """Lists streams."""
        limit = page_limit(request.limit if request.HasField("limit") else None)
        streams = self._catalog.streams.all()
        after = convert.text_of(request, "exclusive_start_stream_arn")
        if after is not None:
            start = _stream_name(after, "exclusive_start_stream_arn").encode()
            streams = [s for s in streams if _stream_name(self._catalog.stream_arn(s)).encode() > start]
        table = convert.text_of(request, "table_name")
        if table is not None:
            name = self._catalog.table_name(table)
            streams = [s for s in streams if s.table_name == name]
        page = streams[:limit]
        return pb.ListStreamsResponse(
            streams=[
                pb.Stream(stream_arn=self._catalog.stream_arn(s), table_name=s.table_name, stream_label=s.label)
                for s in page
            ],
            last_evaluated_stream_arn=self._catalog.stream_arn(page[-1]) if len(streams) > limit else "",
        )

    async def DescribeStream(self, request: pb.DescribeStreamRequest) -> pb.DescribeStreamResponse:
        """Describes a stream."""
        limit = page_limit(request.limit if request.HasField("limit") else None)
        start = convert.text_of(request, "exclusive_start_shard_id") or ""
        stream = self._catalog.stream(request.stream_arn)
        shown = (
            _filtered(stream, request.shard_filter, as_tree=request.as_tree)
            if request.HasField("shard_filter")
            else [lane for shard in stream.shards for lane in _shown(shard, as_tree=request.as_tree)]
        )
        shown = sorted((lane for lane in shown if lane.id > start), key=_lane_id)
        page = shown[:limit]
        last = page[-1].id if len(shown) > limit else ""
        if request.as_tree:
            parents = parent_ids(stream, page)
            shards = [convert.lane(lane, parent) for lane, parent in zip(page, parents, strict=True)]
        else:
            shards = [convert.shard(lane.shard) for lane in page]
        description = convert.stream_description(stream, request.stream_arn, shards, last)
        for shard in stream.shards:
            retained = self._reader.retained(shard)
            description.retained_records += retained.records
            description.retained_bytes += retained.payload_bytes
        description.read_usage.CopyFrom(convert.read_usage(self._metering.of(stream)))
        return pb.DescribeStreamResponse(stream_description=description)

    async def GetShardIterator(self, request: pb.GetShardIteratorRequest) -> pb.GetShardIteratorResponse:
        """Makes an iterator."""
        _check_starting_point(request)
        stream = self._catalog.stream(request.stream_arn)
        lane = _find_lane(stream, request.shard_id) if request.shard_id else None
        return pb.GetShardIteratorResponse(shard_iterator=self._iterators.mint(self._begin(request, stream, lane)))

    async def GetRecords(self, request: pb.GetRecordsRequest, context: Context) -> None:
        """Streams the records from a position on."""
        walk, limit = self._open(request)
        wakeup = Wakeup(self._watermarks)
        try:
            await self._follow(walk, wakeup, limit, context, follow=request.follow)
        finally:
            wakeup.close()

    async def get_records_once(self, request: pb.GetRecordsRequest) -> bytes:
        """The first response of GetRecords alone, for callers who take one response a call."""
        walk, limit = self._open(request)
        return self._response(walk, walk.next(limit, PAGE_BYTES_MAX), is_first=True)

    async def SplitShard(self, request: pb.SplitShardRequest) -> pb.SplitShardResponse:
        """Splits a shard."""
        stream = self._catalog.stream(request.stream_arn)
        starting_hash = request.new_starting_hash_key if request.HasField("new_starting_hash_key") else None
        shards = await self._catalog.split_shard(stream, request.shard_id, starting_hash)
        return pb.SplitShardResponse(shards=[convert.shard(shard) for shard in shards])

    async def MergeShards(self, request: pb.MergeShardsRequest) -> pb.MergeShardsResponse:
        """Merges two shards."""
        stream = self._catalog.stream(request.stream_arn)
        shard = await self._catalog.merge_shards(stream, request.shard_id, request.adjacent_shard_id)
        return pb.MergeShardsResponse(shard=convert.shard(shard))

    def _open(self, request: pb.GetRecordsRequest) -> tuple[Walk, int]:
        """What a request reads, and how many records at once."""
        limit = PAGE_RECORDS_MAX
        if request.HasField("limit"):
            limit = request.limit
            check_range(limit, "limit", 1, PAGE_RECORDS_MAX)
        position = self._position(request)
        walk = Walk(lambda: self._catalog.streams.get(position.stream_name), position, self._reader)
        table = self._catalog.table_of(walk.stream)
        if table is not None:
            self._capacity.admit_stream_read(table)
        return walk, limit

    async def _follow(self, walk: Walk, wakeup: Wakeup, limit: int, context: Context, *, follow: bool) -> None:
        is_first = True
        told_at = self._now()
        budget = ReaderBudget(self._budget)
        while True:
            if not is_first:
                await self._keep_pace(walk)
            wakeup.clear()
            # Before it reads, so that what comes while a response is being written is not missed.
            wakeup.watch(walk.shards)
            step = walk.next(limit, budget.page_bytes_max)
            is_at_tip = step is None
            if not is_at_tip or is_first:
                response = self._response(walk, step, is_first=is_first)
                # Whoever waits here for a subscriber that stalls must not hold the blocks its page was cut from.
                step, is_first = None, False
                await budget.write(context, response)
                told_at = self._now()
                del response
            if walk.is_finished or (is_at_tip and not follow):
                return
            if is_at_tip:
                # A reader of a lane is also woken by records of other lanes, and gets no response for these.
                left_seconds = told_at + HEARTBEAT_SECONDS - self._now()
                if left_seconds <= 0 or not await wakeup.wait(left_seconds):
                    await context.write(pb.GetRecordsResponse(next_shard_iterator=self._iterators.mint(walk.position)))
                    told_at = self._now()

    async def _keep_pace(self, walk: Walk) -> None:
        """Waits until the throughput of the stream's table lets it be read on."""
        while (table := self._catalog.table_of(walk.stream)) is not None:
            wait_ms = self._capacity.stream_read_wait_ms(table)
            if not wait_ms:
                return
            await self._sleep(wait_ms / _MILLIS_PER_SECOND)

    def _response(self, walk: Walk, step: Step | None, *, is_first: bool) -> bytes:
        stream = walk.stream
        rest = pb.GetRecordsResponse()
        parts: list[memoryview] = []
        size = records = 0
        if step is not None:
            page = step.page
            parts, size, records = page.parts, page.size_bytes, page.count
            rest.shard_id = step.shard_id
            rest.millis_behind_latest = page.millis_behind_latest
            if page.is_end:
                rest.shard_end = True
                rest.child_shard_ids.extend(step.child_ids)
        if not walk.is_finished:
            rest.next_shard_iterator = self._iterators.mint(walk.position)
        if is_first:
            rest.stream_arn = self._catalog.stream_arn(stream)
            rest.region = self._catalog.region
        units = self._metering.of(stream).add(records, size)
        table = self._catalog.table_of(stream)
        if table is not None:
            self._capacity.consume_stream_read(table, units)
        # The stored records are the response's field 1 already.
        return b"".join((*parts, rest.SerializeToString()))

    def _position(self, request: pb.GetRecordsRequest) -> Position:
        named = [bool(request.shard_iterator), bool(request.stream_arn), bool(request.table_name)]
        if sum(named) != 1:
            raise ValidationError(
                "Exactly one of shard_iterator, stream_arn and table_name must be given", field="shard_iterator"
            )
        if request.shard_iterator:
            if request.shard_iterator_type or request.sequence_number or request.HasField("timestamp"):
                raise ValidationError(
                    "shard_iterator_type, sequence_number and timestamp are only for stream_arn and table_name",
                    field="shard_iterator_type",
                )
            position = self._iterators.check(request.shard_iterator)
            if self._catalog.streams.get(position.stream_name) is None:
                raise ResourceNotFoundError("Requested resource not found: the stream of the iterator is gone")
            return position
        _check_starting_point(request)
        if request.stream_arn:
            stream = self._catalog.stream(request.stream_arn)
        else:
            stream = self._catalog.enabled_stream(request.table_name)
        return self._begin(request, stream, None)

    def _begin(
        self, request: pb.GetShardIteratorRequest | pb.GetRecordsRequest, stream: Stream, lane: Lane | None
    ) -> Position:
        shard = None if lane is None else lane.shard
        tip = self._tip(stream, shard)
        match request.shard_iterator_type:
            case pb.SHARD_ITERATOR_TYPE_LATEST:
                return begin(stream, lane, tip, tip)
            case pb.SHARD_ITERATOR_TYPE_AT_SEQUENCE_NUMBER:
                return begin(stream, lane, max(0, parse_sequence_number(request.sequence_number) - 1), tip)
            case pb.SHARD_ITERATOR_TYPE_AFTER_SEQUENCE_NUMBER:
                return begin(stream, lane, parse_sequence_number(request.sequence_number), tip)
            case pb.SHARD_ITERATOR_TYPE_AT_TIMESTAMP:
                time_ms = convert.millis(request.timestamp)
                if shard is None:
                    return begin(stream, None, self._reader.position_at_time(stream, time_ms), tip)
                return begin(stream, lane, self._reader.last_before_time(shard, time_ms), tip)
            case _:
                return begin(stream, lane, OLDEST, tip)

    def _tip(self, stream: Stream, shard: Shard | None) -> int:
        return self._reader.tip_of_stream(stream) if shard is None else self._reader.tip(shard)


def _check_starting_point(request: pb.GetShardIteratorRequest | pb.GetRecordsRequest) -> None:
    kind = request.shard_iterator_type
    if kind not in pb.ShardIteratorType.values() or kind == pb.SHARD_ITERATOR_TYPE_UNSPECIFIED:
        raise ConstraintError(kind, "shard_iterator_type", one_of(_ITERATOR_TYPES))
    takes_number = kind in (pb.SHARD_ITERATOR_TYPE_AT_SEQUENCE_NUMBER, pb.SHARD_ITERATOR_TYPE_AFTER_SEQUENCE_NUMBER)
    if takes_number != (convert.text_of(request, "sequence_number") is not None):
        rule = "required with" if takes_number else "only for"
        raise ValidationError(
            f"SequenceNumber is {rule} AT_SEQUENCE_NUMBER and AFTER_SEQUENCE_NUMBER", field="sequence_number"
        )
    if takes_number:
        parse_sequence_number(request.sequence_number)
    takes_time = kind == pb.SHARD_ITERATOR_TYPE_AT_TIMESTAMP
    if takes_time != request.HasField("timestamp"):
        rule = "required with" if takes_time else "only for"
        raise ValidationError(f"Timestamp is {rule} AT_TIMESTAMP", field="timestamp")


def _shown(shard: Shard, *, as_tree: bool) -> list[Lane]:
    return lanes(shard) if as_tree else [whole(shard)]


def _filtered(stream: Stream, shard_filter: pb.ShardFilter, *, as_tree: bool) -> list[Lane]:
    if shard_filter.type != pb.SHARD_FILTER_TYPE_CHILD_SHARDS:
        raise ConstraintError(shard_filter.type, "shard_filter.type", one_of(("CHILD_SHARDS",)))
    parent = find_lane(stream, shard_filter.shard_id)
    if parent is None:
        raise ValidationError(
            f"Invalid ShardFilter: {shard_filter.shard_id[:100]!r} is no shard of the stream",
            field="shard_filter.shard_id",
        )
    if as_tree:
        return children(stream, parent)
    return [whole(child) for child in stream.shards if parent.shard.shard_id in child.parent_ids]


def _find_lane(stream: Stream, shard_id: str) -> Lane:
    lane = find_lane(stream, shard_id)
    if lane is None:
        raise ResourceNotFoundError("Requested resource not found: Shard does not exist", shard_id=shard_id)
    return lane


def _stream_name(arn: str, field: str = "stream_arn") -> str:
    """The end of a stream's ARN, by which the catalog knows it."""
    _, separator, name = arn.partition(":table/")
    if not separator or "/stream/" not in name:
        raise ValidationError(f"{arn[:200]!r} is not the ARN of a stream", field=field)
    return name


def _lane_id(lane: Lane) -> str:
    return lane.id
