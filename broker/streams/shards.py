"""Streams and shards as they begin, split, roll, merge, end and age out. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from broker.model.clock import iso_label, label_ms
from broker.model.errors import LimitExceededError, ResourceInUseError, ResourceNotFoundError, ValidationError
from broker.model.gaps import Gap
from broker.model.tables import (
    HASH_MAX,
    HELD_LANES_MAX,
    HELD_SHARDS_MAX,
    OPEN_LANES_MAX,
    OPEN_SHARDS_MAX,
    VANISHED_SHARDS_MAX,
    VANISHED_SHARDS_PER_OPEN_SHARD,
    Shard,
    Stream,
    StreamViewType,
    Table,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

_SHARD_ID_PREFIX: Final = "shardId-"
_TIME_DIGITS: Final = 20


def new_stream(
    table: Table,
    view_type: StreamViewType,
    now_ms: int,
    next_id: Callable[[], int],
    next_number: int,
    last_label: str,
) -> Stream:
    """An enabled stream with `min_shards` shards of equal hash ranges.

    `next_id` gives the shards' numbers on disk, `next_number` is the first sequence number they can hold, `last_label`
    the label of the newest stream of a table of this name, or empty.
    """
    # No two streams share a label, even if they are made within a millisecond or the clock went back.
    created = max(now_ms, label_ms(last_label) + 1) if last_label else now_ms
    count = table.stream_settings.min_shards
    width = (HASH_MAX + 1) // count
    firsts = [index * width for index in range(count)]
    lasts = [first - 1 for first in firsts[1:]] + [HASH_MAX]
    return Stream(
        table_name=table.name,
        table_id=table.id,
        label=iso_label(created),
        create_time_ms=created,
        view_type=view_type,
        key_attributes=table.key_attributes,
        settings=table.stream_settings,
        shards=tuple(
            _new_shard(created, next_id(), first, last, next_number) for first, last in zip(firsts, lasts, strict=True)
        ),
    )


def closed_stream(stream: Stream, last_number: int, now_ms: int) -> Stream:
    """A stream with all its open shards closed at a sequence number."""
    return replace(
        stream,
        shards=tuple(_closed(shard, last_number, now_ms) if shard.is_open else shard for shard in stream.shards),
    )


def split_shard(
    stream: Stream, shard_id: str, starting_hash: int | None, number: int, now_ms: int, next_id: Callable[[], int]
) -> Stream:
    """A stream whose open shard is closed at a sequence number, and followed by two that divide its hash range.

    The second begins at `starting_hash`, or in the middle. They are the last two shards of the result.

    Raises ResourceNotFoundError, ResourceInUseError for a closed shard, LimitExceededError, and ValidationError if the
    range cannot be divided so.
    """
    parent = _open_shard(stream, shard_id)
    if len(stream.open_shards) >= OPEN_SHARDS_MAX:
        raise LimitExceededError(
            f"A stream has at most {OPEN_SHARDS_MAX} open shards", field="shard_id", limit=OPEN_SHARDS_MAX
        )
    if starting_hash is None:
        starting_hash = parent.first_hash + (parent.last_hash - parent.first_hash + 1) // 2
    if not parent.first_hash < starting_hash <= parent.last_hash:
        raise ValidationError(
            f"new_starting_hash_key must be above {parent.first_hash} and at most {parent.last_hash}",
            field="new_starting_hash_key",
            limit=parent.last_hash,
        )
    if starting_hash not in parent.seams and open_lanes(stream) >= OPEN_LANES_MAX:
        # At a seam two lanes part that there are already.
        raise LimitExceededError(
            f"A stream has at most {OPEN_LANES_MAX} lanes; split the shard where it was merged",
            field="new_starting_hash_key",
            limit=OPEN_LANES_MAX,
        )
    ranges = ((parent.first_hash, starting_hash - 1), (starting_hash, parent.last_hash))
    children = [_child((parent,), first, last, number, now_ms, next_id) for first, last in ranges]
    return _succeeded(stream, (parent,), children, number, now_ms)


def roll_shards(
    stream: Stream, shard_ids: Collection[str], number: int, now_ms: int, next_id: Callable[[], int]
) -> Stream:
    """A stream whose open shards of these ids are closed at a sequence number, each followed by one of its own range.

    Those are the last shards of the result, in the order of the ids.

    Raises ResourceNotFoundError, ResourceInUseError for a closed shard, LimitExceededError.
    """
    parents = tuple(_open_shard(stream, shard_id) for shard_id in shard_ids)
    children = [_child((each,), each.first_hash, each.last_hash, number, now_ms, next_id) for each in parents]
    return _succeeded(stream, parents, children, number, now_ms)


def merge_shards(
    stream: Stream, shard_id: str, adjacent_shard_id: str, number: int, now_ms: int, next_id: Callable[[], int]
) -> Stream:
    """A stream whose two open shards are closed at a sequence number, and followed by one over both their ranges.

    It is the last shard of the result.

    Raises ResourceNotFoundError, ResourceInUseError for a closed shard, ValidationError if the ranges do not adjoin.
    """
    parent, adjacent = _open_shard(stream, shard_id), _open_shard(stream, adjacent_shard_id, "adjacent_shard_id")
    low, high = sorted((parent, adjacent), key=_first_hash)
    if low.last_hash + 1 != high.first_hash:
        raise ValidationError(
            f"The hash ranges of {shard_id} and {adjacent_shard_id} do not adjoin", field="adjacent_shard_id"
        )
    child = _child((parent, adjacent), low.first_hash, high.last_hash, number, now_ms, next_id)
    return _succeeded(stream, (parent, adjacent), [child], number, now_ms)


def with_seams(stream: Stream) -> Stream:
    """A stream whose shards know where merges joined their hash ranges, also if the stream was stored without that.

    What is no longer known of a shard's parents cannot be told.
    """
    if not any(shard.adjacent_parent_shard_id for shard in stream.lineage):
        # No merge is known. Seams of older ones, if there are any, were stored.
        return stream
    known: dict[str, Shard] = {}
    for shard in sorted(stream.lineage, key=_number):
        parents = [known[id_] for id_ in shard.parent_ids if id_ in known]
        seams = tuple(sorted({*shard.seams, *_seams(parents, shard.first_hash, shard.last_hash)}))
        known[shard.shard_id] = shard if seams == shard.seams else replace(shard, seams=seams)
    return replace(
        stream,
        shards=tuple(known[shard.shard_id] for shard in stream.shards),
        vanished=tuple(known[shard.shard_id] for shard in stream.vanished),
    )


def open_lanes(stream: Stream) -> int:
    """How many lanes the open shards of a stream have."""
    return sum(1 + len(shard.seams) for shard in stream.shards if shard.is_open)


def held_lanes(stream: Stream) -> int:
    """How many lanes all shards of a stream have that are held."""
    return sum(1 + len(shard.seams) for shard in stream.shards)


def trimmed_stream(stream: Stream, trims: Iterable[tuple[int, int, int]], vanishing: Collection[int]) -> Stream:
    """A stream after trimming: for each (shard, number, time) the records up to the number are gone.

    Closed shards of which nothing is left vanish; the caller knows which.
    """
    by_shard = {shard: (number, time_ms) for shard, number, time_ms in trims}
    kept: list[Shard] = []
    gone: list[Shard] = []
    for shard in stream.shards:
        number, time_ms = by_shard.get(shard.id, (0, 0))
        after = replace(shard, trimmed_to=number, trimmed_time_ms=time_ms) if number > shard.trimmed_to else shard
        (gone if shard.id in vanishing and not shard.is_open else kept).append(after)
    lost = [(shard.trimmed_to, shard.trimmed_time_ms) for shard in gone]
    lost_to, lost_time_ms = max([(stream.trimmed_to, stream.trimmed_time_ms), *lost])
    opened = max(1, sum(shard.is_open for shard in kept))
    remembered = min(VANISHED_SHARDS_MAX, opened * VANISHED_SHARDS_PER_OPEN_SHARD)
    return replace(
        stream,
        shards=tuple(kept),
        vanished=(*stream.vanished, *gone)[-remembered:],
        trimmed_to=lost_to,
        trimmed_time_ms=lost_time_ms,
    )


def renewed_stream(stream: Stream, created_ms: int) -> Stream:
    """The same records as another stream, with a label and shard ids that no reader has ever seen."""
    ids = {shard.shard_id: public_shard_id(created_ms, shard.id) for shard in stream.lineage}

    def renewed(shard: Shard) -> Shard:
        return replace(
            shard,
            shard_id=ids[shard.shard_id],
            # Of a parent that is forgotten nothing can be read, so nobody misses its name.
            parent_shard_id=ids.get(shard.parent_shard_id, ""),
            adjacent_parent_shard_id=ids.get(shard.adjacent_parent_shard_id, ""),
        )

    return replace(
        stream,
        label=iso_label(created_ms),
        create_time_ms=created_ms,
        shards=tuple(renewed(shard) for shard in stream.shards),
        vanished=tuple(renewed(shard) for shard in stream.vanished),
    )


def horizon(shard: Shard) -> int:
    """The position before the first record that is still held, or may come."""
    return max(shard.starting_sequence_number - 1, shard.trimmed_to)


def frontier(stream: Stream, after: int) -> list[tuple[Shard, int]]:
    """From where to read everything after a position in the whole stream: shards, each with the position in it.

    A shard is not in it before its parents are read, unless they are no longer held. A position below zero is the
    oldest record held.
    """
    # Trimming cuts all shards at one number, so one that ended before it holds nothing.
    read_to = _last_trimmed(stream)[0] if after < 0 else after
    unread = [shard for shard in stream.shards if _reaches_beyond(shard, read_to)]
    unread_ids = {shard.shard_id for shard in unread}
    return [
        (shard, horizon(shard) if after < 0 else max(after, shard.starting_sequence_number - 1))
        for shard in unread
        if unread_ids.isdisjoint((shard.parent_shard_id, shard.adjacent_parent_shard_id))
    ]


def gap_after(shard: Shard, after: int, time_ms: int = 0) -> Gap | None:
    """What a reader at a position has lost; it was the position of a record of that time, if the time is known."""
    if after >= shard.trimmed_to:
        return None
    return Gap(
        shard_id=shard.shard_id,
        first_lost=after + 1,
        last_lost=shard.trimmed_to,
        lost_from_ms=min(max(time_ms, create_time_ms(shard)), shard.trimmed_time_ms),
        lost_to_ms=shard.trimmed_time_ms,
    )


def gap_in_stream(stream: Stream, places: Iterable[tuple[Shard, int, int]]) -> Gap | None:
    """What a reader of a whole stream has lost, by its places: each a shard, a position in it, and the time of that.

    Trimming cuts all shards at one number: so what is beyond the last trimmed record is held, in every shard. What the
    shards that follow the places have lost is told with them, since whoever reads on after the gap does not come by it.
    """
    places = list(places)
    gaps = [gap for shard, after, time_ms in places if (gap := gap_after(shard, after, time_ms)) is not None]
    if not gaps:
        return None
    followed = [shard for shard, _, _ in places]
    gaps += [
        gap
        for shard in _descendants(stream, followed)
        if (gap := gap_after(shard, shard.starting_sequence_number - 1)) is not None
    ]
    last_lost, lost_to_ms = _last_trimmed(stream)
    return Gap(
        shard_id=gaps[0].shard_id if len(gaps) == 1 and gaps[0].last_lost == last_lost else "",
        first_lost=min(gap.first_lost for gap in gaps),
        last_lost=last_lost,
        lost_from_ms=min(gap.lost_from_ms for gap in gaps),
        lost_to_ms=lost_to_ms,
    )


def gap_of_forgotten_shards(stream: Stream, after: int, time_ms: int = 0) -> Gap | None:
    """What a reader at a position may have lost with shards that vanished too long ago to be known."""
    if after >= stream.trimmed_to:
        return None
    return Gap(
        shard_id="",
        first_lost=after + 1,
        last_lost=stream.trimmed_to,
        lost_from_ms=min(max(time_ms, stream.create_time_ms), stream.trimmed_time_ms),
        lost_to_ms=stream.trimmed_time_ms,
    )


def public_shard_id(now_ms: int, number: int) -> str:
    """A shard id in AWS's form: the time the shard was made, and its number on disk, which no other shard has."""
    return f"{_SHARD_ID_PREFIX}{now_ms:0{_TIME_DIGITS}d}-{number:08x}"


def create_time_ms(shard: Shard) -> int:
    """When a shard was made."""
    return int(shard.shard_id[len(_SHARD_ID_PREFIX) : len(_SHARD_ID_PREFIX) + _TIME_DIGITS])


def _last_trimmed(stream: Stream) -> tuple[int, int]:
    """The last record of a stream that was trimmed: its number, 0 if none was, and its time."""
    trimmed = [(shard.trimmed_to, shard.trimmed_time_ms) for shard in stream.shards]
    return max([(stream.trimmed_to, stream.trimmed_time_ms), *trimmed])


def _reaches_beyond(shard: Shard, after: int) -> bool:
    return shard.ending_sequence_number is None or shard.ending_sequence_number > after


def _descendants(stream: Stream, shards: list[Shard]) -> list[Shard]:
    """The shards that follow these, and those that follow them, without these."""
    reached = {shard.shard_id for shard in shards}
    found = []
    # A shard's number on disk is greater than those of its parents.
    for shard in sorted(stream.lineage, key=_number):
        is_child = not reached.isdisjoint((shard.parent_shard_id, shard.adjacent_parent_shard_id))
        if is_child and shard.shard_id not in reached:
            reached.add(shard.shard_id)
            found.append(shard)
    return found


def _number(shard: Shard) -> int:
    return shard.id


def _first_hash(shard: Shard) -> int:
    return shard.first_hash


def _new_shard(created_ms: int, number: int, first_hash: int, last_hash: int, next_number: int) -> Shard:
    return Shard(
        id=number,
        shard_id=public_shard_id(created_ms, number),
        first_hash=first_hash,
        last_hash=last_hash,
        starting_sequence_number=next_number,
    )


def _child(
    parents: tuple[Shard, ...],
    first_hash: int,
    last_hash: int,
    number: int,
    now_ms: int,
    next_id: Callable[[], int],
) -> Shard:
    """A shard that follows one shard or, after a merge, two."""
    # Ids sort in the order in which shards are made, so that a page of a listing never hides a child behind it.
    created = max(now_ms, *(create_time_ms(parent) for parent in parents))
    return replace(
        _new_shard(created, next_id(), first_hash, last_hash, number + 1),
        parent_shard_id=parents[0].shard_id,
        adjacent_parent_shard_id=parents[1].shard_id if len(parents) > 1 else "",
        seams=_seams(parents, first_hash, last_hash),
    )


def _seams(parents: Iterable[Shard], first_hash: int, last_hash: int) -> tuple[int, ...]:
    """Where the parents of a shard of a hash range adjoin in it, and where they were joined themselves."""
    begins = {begin for parent in parents for begin in (parent.first_hash, *parent.seams)}
    return tuple(sorted(begin for begin in begins if first_hash < begin <= last_hash))


def _closed(shard: Shard, last_number: int, now_ms: int) -> Shard:
    return replace(shard, ending_sequence_number=last_number, closed_time_ms=now_ms)


def _succeeded(stream: Stream, parents: tuple[Shard, ...], children: list[Shard], number: int, now_ms: int) -> Stream:
    shards = [_closed(shard, number, now_ms) if shard in parents else shard for shard in stream.shards]
    return replace(stream, shards=(*shards, *children))


def _open_shard(stream: Stream, shard_id: str, field: str = "shard_id") -> Shard:
    if len(stream.shards) >= HELD_SHARDS_MAX:
        raise LimitExceededError(
            f"A stream has at most {HELD_SHARDS_MAX} shards, closed ones included until their records age out",
            field=field,
            limit=HELD_SHARDS_MAX,
        )
    if held_lanes(stream) >= HELD_LANES_MAX:
        raise LimitExceededError(
            f"A stream has at most {HELD_LANES_MAX} lanes, those of closed shards included until their records age out",
            field=field,
            limit=HELD_LANES_MAX,
        )
    shard = stream.shard(shard_id)
    if shard is None:
        raise ResourceNotFoundError("Requested resource not found: Shard does not exist", shard_id=shard_id)
    if not shard.is_open:
        raise ResourceInUseError(f"Shard {shard_id} is closed", field=field, shard_id=shard_id)
    return shard
