"""Walking a shard, or all shards of a stream: where to begin, what to read next, and which shards follow.

A walk holds a place in each shard it is reading, and nothing else: so a position is as good as the walk itself.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from broker.encoding.keys import key_hasher
from broker.encoding.records import record_key
from broker.model.errors import ResourceNotFoundError, ValidationError
from broker.model.gaps import TrimmedDataAccessError
from broker.streams import lanes
from broker.streams.iterators import Place, Position
from broker.streams.shards import frontier, gap_after, gap_in_stream, gap_of_forgotten_shards, horizon
from broker.streams.tail import empty_page

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.model.tables import Shard, Stream
    from broker.streams.lanes import Lane
    from broker.streams.tail import LogReader, Page

# A position before everything.
OLDEST = -1


class Step(NamedTuple):
    """What a walk comes upon: a page of a shard, or of a lane of it.

    The last one of a closed shard may be without records, and so may any of a lane.
    """

    # Of the shard or lane.
    shard_id: str
    page: Page
    # At the end of a closed shard, the shards or lanes that follow it.
    child_ids: list[str]


def begin(stream: Stream, lane: Lane | None, after: int, tip: int) -> Position:
    """The position after a sequence number, in a lane or, if that is None, in the whole stream.

    `tip` is the newest readable number there; below zero, `after` means the oldest record held. A position at the
    beginning of a shard without records is one before its first record.

    Raises TrimmedDataAccessError if records after it are no longer held, ValidationError if it is beyond the tip, or
    before the beginning of the shard.
    """
    shard = None if lane is None else lane.shard
    first, last = OLDEST, tip
    if shard is not None:
        first = shard.starting_sequence_number - 1
        # A shard's starting number is told before there is a record.
        last = max(tip, shard.starting_sequence_number)
    if after >= 0 and not first <= after <= last:
        where = stream.name if shard is None else f"the shard {shard.shard_id}"
        raise ValidationError(f"Invalid SequenceNumber: it is not in {where}", field="sequence_number")
    if lane is not None and shard is not None:
        gap = gap_after(shard, after) if after >= 0 else None
        if gap is not None:
            raise TrimmedDataAccessError(gap)
        place = Place(shard.id, horizon(shard) if after < 0 else min(after, tip))
        hashes = None if lane.is_whole else (lane.first_hash, lane.last_hash)
        return Position(stream_name=stream.name, places=(place,), lane=hashes)
    places = [(unread, number, 0) for unread, number in frontier(stream, after)]
    gap = gap_of_forgotten_shards(stream, after) if after >= 0 else None
    gap = gap or gap_in_stream(stream, places)
    if gap is not None:
        raise TrimmedDataAccessError(gap)
    return Position(
        stream_name=stream.name,
        places=tuple(Place(unread.id, number) for unread, number, _ in places),
        is_whole_stream=True,
    )


class Walk:
    """Reads on from a position, page by page; at the tip it can be asked again and again."""

    def __init__(self, stream: Callable[[], Stream | None], position: Position, reader: LogReader) -> None:
        """`stream` gives the stream as it is now, or None if it is gone."""
        self._current_stream = stream
        self._reader = reader
        self._name = position.stream_name
        self._is_whole_stream = position.is_whole_stream
        self._lane = position.lane
        # The shards that are known, and those of them that are held, of the stream as it was looked at last.
        self._seen: Stream | None = None
        self._known: dict[int, Shard] = {}
        self._held: set[int] = set()
        self._hash_of: Callable[[bytes], int] | None = None
        # The shard that is read next comes first. A shard read to its end stays until all its children have begun.
        self._places = deque(position.places)

    @property
    def position(self) -> Position:
        """Where to read on."""
        return Position(
            stream_name=self._name,
            places=tuple(self._places),
            is_whole_stream=self._is_whole_stream,
            lane=self._lane,
        )

    @property
    def stream(self) -> Stream:
        """The stream as it is now. Raises ResourceNotFoundError if it is gone."""
        stream = self._current_stream()
        if stream is None:
            raise ResourceNotFoundError("Requested resource not found: the stream of the iterator is gone")
        return stream

    @property
    def shards(self) -> list[int]:
        """The numbers of the shards that are read."""
        return [place.shard for place in self._places]

    @property
    def is_finished(self) -> bool:
        """Whether nothing can come any more."""
        return not self._places

    def next(self, records_max: int, bytes_max: int) -> Step | None:
        """The next records or the next end of a shard, or None if there is neither by now.

        Shards that have records take turns. A page of a lane may be without records though there are more.

        Raises TrimmedDataAccessError if records at the position are no longer held, ResourceNotFoundError if the stream
        is gone.
        """
        stream = self.stream
        known, held = self._look_at(stream)
        self._check_nothing_is_lost(stream, known)
        if self._is_whole_stream and any(_is_read(known[place.shard], place.after) for place in self._places):
            self._succeed(stream)
        for _ in range(len(self._places)):
            place = self._places[0]
            shard = known[place.shard]
            if self._is_whole_stream and _is_read(shard, place.after):
                self._places.rotate(-1)
                continue
            page = self._read(shard, place.after, records_max, bytes_max, is_held=shard.id in held)
            self._places[0] = Place(shard.id, page.last_sequence_number, page.time_ms or place.time_ms)
            self._places.rotate(-1)
            if page.is_end:
                self._succeed(stream)
                return Step(self._id_of(shard), page, self._child_ids(stream, shard))
            if page.count or (self._lane is not None and page.has_more):
                return Step(self._id_of(shard), page, [])
        return None

    def _look_at(self, stream: Stream) -> tuple[dict[int, Shard], set[int]]:
        if stream is not self._seen:
            self._seen = stream
            self._known = {shard.id: shard for shard in stream.lineage}
            self._held = {shard.id for shard in stream.shards}
        return self._known, self._held

    def _id_of(self, shard: Shard) -> str:
        return shard.shard_id if self._lane is None else lanes.Lane(shard, *self._lane).id

    def _child_ids(self, stream: Stream, shard: Shard) -> list[str]:
        if self._lane is not None:
            return [lane.id for lane in lanes.children(stream, lanes.Lane(shard, *self._lane))]
        return [child.shard_id for child in stream.children(shard.shard_id) if child.id in self._held]

    def _check_nothing_is_lost(self, stream: Stream, known: dict[int, Shard]) -> None:
        for place in self._places:
            if place.shard not in known:
                gap = gap_of_forgotten_shards(stream, place.after, place.time_ms)
                if gap is not None:
                    raise TrimmedDataAccessError(gap)
                raise ResourceNotFoundError("Requested resource not found: the shard of the iterator is gone")
        places = [(known[place.shard], place.after, place.time_ms) for place in self._places]
        gap = gap_in_stream(stream, places) if self._is_whole_stream else gap_after(*places[0]) if places else None
        if gap is not None:
            raise TrimmedDataAccessError(gap)

    def _read(self, shard: Shard, after: int, records_max: int, bytes_max: int, *, is_held: bool) -> Page:
        if is_held and self._lane is not None:
            return self._reader.read_wanted(shard, after, records_max, bytes_max, self._is_in_lane)
        if is_held:
            return self._reader.read(shard, after, records_max, bytes_max)
        # It has vanished, and nothing of it was lost: what is left is its end.
        assert shard.ending_sequence_number is not None, "only closed shards vanish"
        return empty_page(max(after, shard.ending_sequence_number), is_end=True)

    def _is_in_lane(self, record: bytes) -> bool:
        assert self._lane is not None, "only lanes are filtered"
        if self._hash_of is None:
            self._hash_of = key_hasher(self.stream.key_attributes[0])
        first_hash, last_hash = self._lane
        return first_hash <= self._hash_of(record_key(record)) <= last_hash

    def _succeed(self, stream: Stream) -> None:
        """Begins the shards all of whose parents are read, and leaves those parents."""
        if not self._is_whole_stream:
            self._places.clear()
            return
        known, _ = self._look_at(stream)
        begun = set(self.shards)
        read = {
            known[place.shard].shard_id: place for place in self._places if _is_read(known[place.shard], place.after)
        }
        for shard_id, place in read.items():
            children = stream.children(shard_id)
            # The two parents of a merged shard have ended at one number, so both are read here.
            ready = [child for child in children if all(parent in read for parent in child.parent_ids)]
            for child in ready:
                if child.id not in begun:
                    begun.add(child.id)
                    self._places.append(Place(child.id, child.starting_sequence_number - 1, place.time_ms))
            if len(ready) == len(children):
                self._places.remove(place)


def _is_read(shard: Shard, after: int) -> bool:
    return shard.ending_sequence_number is not None and after >= shard.ending_sequence_number
