"""StreamService: positions in streams, and records as the bytes they are stored as."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from broker.model.errors import ResourceNotFoundError, ValidationError
from broker.model.sequence import parse_sequence_number
from broker.rpc import convert
from broker.streams.iterators import Position
from broker.streams.tail import PAGE_RECORDS_MAX, horizon
from broker.tables.validate import check_range, page_limit
from headrace.v1 import stream_service_pb2 as pb

if TYPE_CHECKING:
    from broker.model.tables import Shard, Stream
    from broker.rpc.status import Context
    from broker.streams.iterators import Iterators
    from broker.streams.tail import LogReader, Page
    from broker.tables.catalog import Catalog

HEARTBEAT_SECONDS: Final = 15.0


class StreamService:
    """Implements headrace.v1.StreamService."""

    def __init__(self, catalog: Catalog, reader: LogReader, iterators: Iterators) -> None:
        self._catalog = catalog
        self._reader = reader
        self._iterators = iterators

    async def ListStreams(self, request: pb.ListStreamsRequest) -> pb.ListStreamsResponse:
        """Lists streams."""
        limit = page_limit(request.limit if request.HasField("limit") else None)
        streams = self._catalog.streams.all()
        if request.exclusive_start_stream_arn:
            start = _stream_name(request.exclusive_start_stream_arn, "exclusive_start_stream_arn").encode()
            streams = [s for s in streams if _stream_name(self._catalog.stream_arn(s)).encode() > start]
        if request.table_name:
            streams = [s for s in streams if s.table_name == request.table_name]
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
        stream = self._catalog.stream(request.stream_arn)
        shards = sorted((s for s in stream.shards if s.shard_id > request.exclusive_start_shard_id), key=_shard_id)
        page = shards[:limit]
        last = page[-1].shard_id if len(shards) > limit else ""
        description = convert.stream_description(stream, request.stream_arn, page, last)
        return pb.DescribeStreamResponse(stream_description=description)

    async def GetShardIterator(self, request: pb.GetShardIteratorRequest) -> pb.GetShardIteratorResponse:
        """Makes an iterator."""
        kind = request.shard_iterator_type
        takes_number = kind in (pb.SHARD_ITERATOR_TYPE_AT_SEQUENCE_NUMBER, pb.SHARD_ITERATOR_TYPE_AFTER_SEQUENCE_NUMBER)
        if kind not in pb.ShardIteratorType.values() or kind == pb.SHARD_ITERATOR_TYPE_UNSPECIFIED:
            raise ValidationError(
                "shard_iterator_type must satisfy enum value set: [TRIM_HORIZON, LATEST, AT_SEQUENCE_NUMBER, "
                "AFTER_SEQUENCE_NUMBER]",
                field="shard_iterator_type",
            )
        if takes_number != bool(request.sequence_number):
            rule = "required with" if takes_number else "only for"
            raise ValidationError(
                f"sequence_number is {rule} AT_SEQUENCE_NUMBER and AFTER_SEQUENCE_NUMBER", field="sequence_number"
            )
        number = parse_sequence_number(request.sequence_number) if takes_number else 0
        stream = self._catalog.stream(request.stream_arn)
        shard = _find_shard(stream, request.shard_id)
        after = horizon(shard)
        if kind == pb.SHARD_ITERATOR_TYPE_LATEST:
            after = self._reader.tip(shard)
        elif takes_number:
            wanted = number - 1 if kind == pb.SHARD_ITERATOR_TYPE_AT_SEQUENCE_NUMBER else number
            if not after <= wanted <= self._reader.tip(shard):
                raise ValidationError(
                    f"Invalid sequence_number: it is not in the shard {shard.shard_id}", field="sequence_number"
                )
            after = wanted
        return pb.GetShardIteratorResponse(shard_iterator=self._mint(stream, shard, after))

    async def GetRecords(self, request: pb.GetRecordsRequest, context: Context) -> None:
        """Streams the records from an iterator on."""
        limit = PAGE_RECORDS_MAX
        if request.HasField("limit"):
            limit = request.limit
            check_range(limit, "limit", 1, PAGE_RECORDS_MAX)
        position = self._iterators.check(request.shard_iterator)
        stream, shard = self._find(position)
        after, is_first = position.after, True
        while True:
            page = self._reader.read(shard, after, limit)
            moved = page.last_sequence_number > after
            after = page.last_sequence_number
            if page.count or is_first or page.is_end:
                await context.write(self._response(stream, shard, page, is_first=is_first))
                is_first = False
            at_tip = not page.count and not moved
            if page.is_end or (at_tip and not request.follow):
                return
            if at_tip and not await self._reader.wait(shard, after, HEARTBEAT_SECONDS):
                await context.write(self._heartbeat(stream, shard, after))
            # The shard may have been closed since.
            stream, shard = self._find(position)

    def _heartbeat(self, stream: Stream, shard: Shard, after: int) -> pb.GetRecordsResponse:
        return pb.GetRecordsResponse(next_shard_iterator=self._mint(stream, shard, after))

    def _response(self, stream: Stream, shard: Shard, page: Page, *, is_first: bool) -> bytes:
        rest = pb.GetRecordsResponse(millis_behind_latest=page.millis_behind_latest)
        if page.is_end:
            rest.shard_end = True
            rest.child_shard_ids.extend(child.shard_id for child in stream.children(shard.shard_id))
        else:
            rest.next_shard_iterator = self._mint(stream, shard, page.last_sequence_number)
        if is_first:
            rest.stream_arn = self._catalog.stream_arn(stream)
            rest.region = self._catalog.region
        # The stored records are the response's field 1 already.
        return b"".join((*page.parts, rest.SerializeToString()))

    def _mint(self, stream: Stream, shard: Shard, after: int) -> str:
        name = _stream_name(self._catalog.stream_arn(stream))
        return self._iterators.mint(Position(stream_name=name, shard=shard.id, after=after))

    def _find(self, position: Position) -> tuple[Stream, Shard]:
        stream = self._catalog.streams.get(position.stream_name)
        shard = None if stream is None else next((s for s in stream.shards if s.id == position.shard), None)
        if stream is None or shard is None:
            raise ResourceNotFoundError("Requested resource not found: the stream of the iterator is gone")
        return stream, shard


def _find_shard(stream: Stream, shard_id: str) -> Shard:
    for shard in stream.shards:
        if shard.shard_id == shard_id:
            return shard
    raise ResourceNotFoundError("Requested resource not found: Shard does not exist", shard_id=shard_id)


def _stream_name(arn: str, field: str = "stream_arn") -> str:
    """The end of a stream's ARN, by which the catalog knows it."""
    _, separator, name = arn.partition(":table/")
    if not separator or "/stream/" not in name:
        raise ValidationError(f"Invalid {field}: {arn[:200]!r} is not the ARN of a stream", field=field)
    return name


def _shard_id(shard: Shard) -> str:
    return shard.shard_id
