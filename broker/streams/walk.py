"""Walking a shard, or all shards of a stream: where to begin, what to read next, and which shards follow.

A walk holds a place in each shard it is reading, and nothing else: so a position is as good as the walk itself.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from broker.model.errors import ResourceNotFoundError, ValidationError
from broker.model.gaps import Gap, TrimmedDataAccessError
from broker.streams.iterators import Place, Position
from broker.streams.shards import frontier, gap_after, horizon, shard_number

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.model.tables import Shard, Stream
    from broker.streams.tail import LogReader, Page

# A position before everything.
OLDEST = -1


class Step(NamedTuple):
    """What a walk comes upon: a page of a shard. The last one of a closed shard may be without records."""

    shard: Shard
    page: Page
    # At the end of a closed shard, the shards that follow it.
    children: list[Shard]


def begin(stream: Stream, shard: Shard | None, after: int, tip: int) -> Position:
    """The position after a sequence number, in a shard or, if that is None, in the whole stream.

    `tip` is the newest readable number there; below zero, `after` means the oldest record held.

    Raises TrimmedDataAccessError if records after it are no longer held, ValidationError if it is beyond the tip, or
    before the beginning of the shard.
    """
    first = OLDEST if shard is None else shard.starting_sequence_number - 1
    if after >= 0 and not first <= after <= tip:
        where = stream.name if shard is None else f"the shard {shard.shard_id}"
        raise ValidationError(f"Invalid sequence_number: it is not in {where}", field="sequence_number")
    if shard is not None:
        gap = gap_after(shard, after) if after >= 0 else None
        if gap is not None:
            raise TrimmedDataAccessError(gap)
        place = Place(shard.id, horizon(shard) if after < 0 else after)
        return Position(stream_name=stream.name, places=(place,))
    if 0 <= after < stream.trimmed_to:
        raise TrimmedDataAccessError(_gap_of_gone_shards(stream, after, 0))
    places = []
    for unread, number in frontier(stream, after):
        gap = gap_after(unread, number)
        if gap is not None:
            raise TrimmedDataAccessError(gap)
        places.append(Place(unread.id, number))
    return Position(stream_name=stream.name, places=tuple(places), is_whole_stream=True)


class Walk:
    """Reads on from a position, page by page; at the tip it can be asked again and again."""

    def __init__(self, stream: Callable[[], Stream | None], position: Position, reader: LogReader) -> None:
        """`stream` gives the stream as it is now, or None if it is gone."""
        self._current_stream = stream
        self._reader = reader
        self._name = position.stream_name
        self._is_whole_stream = position.is_whole_stream
        # The shard that is read next comes first. A shard read to its end stays until all its children have begun.
        self._places = deque(position.places)

    @property
    def position(self) -> Position:
        """Where to read on."""
        return Position(stream_name=self._name, places=tuple(self._places), is_whole_stream=self._is_whole_stream)

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

        Shards that have records take turns.

        Raises TrimmedDataAccessError if records at the position are no longer held, ResourceNotFoundError if the stream
        is gone.
        """
        stream = self.stream
        held = {shard.id: shard for shard in stream.shards}
        for _ in range(len(self._places)):
            place = self._places[0]
            shard = held.get(place.shard)
            if shard is None:
                self._pass_gone_shard(stream, place)
                return self.next(records_max, bytes_max)
            if self._is_whole_stream and _is_read(shard, place.after):
                self._places.rotate(-1)
                continue
            gap = gap_after(shard, place.after, place.time_ms)
            if gap is not None:
                raise TrimmedDataAccessError(gap)
            page = self._reader.read(shard, place.after, records_max, bytes_max)
            self._places[0] = Place(shard.id, page.last_sequence_number, page.time_ms or place.time_ms)
            self._places.rotate(-1)
            if page.is_end:
                self._succeed(stream)
                return Step(shard, page, stream.children(shard.shard_id))
            if page.count:
                return Step(shard, page, [])
        return None

    def _succeed(self, stream: Stream) -> None:
        """Begins the shards all of whose parents are read, and leaves those parents."""
        if not self._is_whole_stream:
            self._places.clear()
            return
        held = {shard.id: shard for shard in stream.shards}
        begun = set(self.shards)
        read = {
            held[place.shard].shard_id: place
            for place in self._places
            if place.shard in held and _is_read(held[place.shard], place.after)
        }
        for shard_id, place in read.items():
            children = stream.children(shard_id)
            # The two parents of a merged shard have ended at one number, so both are read here.
            ready = [child for child in children if all(parent in read for parent in _parent_ids(child))]
            for child in ready:
                if child.id not in begun:
                    begun.add(child.id)
                    self._places.append(Place(child.id, child.starting_sequence_number - 1, place.time_ms))
            if len(ready) == len(children):
                self._places.remove(place)

    def _pass_gone_shard(self, stream: Stream, place: Place) -> None:
        """Goes on behind a shard that has vanished, if nothing was lost with it."""
        children = [
            shard for shard in stream.shards if place.shard in {shard_number(parent) for parent in _parent_ids(shard)}
        ]
        if not self._is_whole_stream or not children or place.after < children[0].starting_sequence_number - 1:
            if place.after < stream.trimmed_to:
                raise TrimmedDataAccessError(_gap_of_gone_shards(stream, place.after, place.time_ms))
            if not self._is_whole_stream or not children:
                raise ResourceNotFoundError("Requested resource not found: the shard of the iterator is gone")
        self._places.remove(place)
        at = {other.shard for other in self._places}
        for child in children:
            # The other parent of a merged shard is read first, and brings the child.
            is_brought = any(shard_number(parent) in at for parent in _parent_ids(child))
            if child.id not in at and not is_brought:
                self._places.append(Place(child.id, child.starting_sequence_number - 1, place.time_ms))


def _parent_ids(shard: Shard) -> list[str]:
    return [parent for parent in (shard.parent_shard_id, shard.adjacent_parent_shard_id) if parent]


def _is_read(shard: Shard, after: int) -> bool:
    return shard.ending_sequence_number is not None and after >= shard.ending_sequence_number


def _gap_of_gone_shards(stream: Stream, after: int, time_ms: int) -> Gap:
    return Gap(
        shard_id="",
        first_lost=after + 1,
        last_lost=stream.trimmed_to,
        lost_from_ms=min(max(time_ms, stream.create_time_ms), stream.trimmed_time_ms),
        lost_to_ms=stream.trimmed_time_ms,
    )
