"""Shards as clients made for DynamoDB Streams know them: a tree, in which each shard follows one other. Pure.

DynamoDB splits and rolls shards and never merges them. So its shards have one parent, and its clients follow nothing
else. A merged shard has two parents; it is therefore shown to these clients as lanes: one for each hash range that was
merged into it. A lane holds those records of the shard whose keys' hashes lie in its range. Each lane has exactly one
parent lane, and each lane of a closed shard has a child. A shard that no merge led to has one lane: all of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from broker.model.tables import Shard, Stream

_HASH_DIGITS: Final = 16


class Lane(NamedTuple):
    """A part of a shard: the records of the keys whose hash lies in [first_hash, last_hash]."""

    shard: Shard
    first_hash: int
    last_hash: int

    @property
    def id(self) -> str:
        """The id of its shard; followed by its first hash if it is not all of that."""
        return self.shard.shard_id if self.is_whole else f"{self.shard.shard_id}-{self.first_hash:0{_HASH_DIGITS}x}"

    @property
    def is_whole(self) -> bool:
        """Whether it is all of its shard."""
        return (self.first_hash, self.last_hash) == (self.shard.first_hash, self.shard.last_hash)


def whole(shard: Shard) -> Lane:
    """All of a shard, merged or not."""
    return Lane(shard, shard.first_hash, shard.last_hash)


def lanes(shard: Shard) -> list[Lane]:
    """The lanes of a shard, in the order of their hashes."""
    firsts = (shard.first_hash, *shard.seams)
    lasts = (*(first - 1 for first in shard.seams), shard.last_hash)
    return [Lane(shard, first, last) for first, last in zip(firsts, lasts, strict=True)]


def find_lane(stream: Stream, lane_id: str) -> Lane | None:
    """The lane of an id; all of a shard for the id of a shard; None if there is none, or it is no longer held."""
    for shard in stream.shards:
        if shard.shard_id == lane_id:
            return whole(shard)
        if lane_id.startswith(shard.shard_id):
            return next((lane for lane in lanes(shard) if lane.id == lane_id), None)
    return None


def parent_ids(stream: Stream, of: Iterable[Lane]) -> list[str]:
    """The id of the one lane that each of these lanes follows; empty for a lane of a first shard.

    A parent that vanished too long ago to be known is named as a shard.
    """
    known = {shard.shard_id: shard for shard in stream.lineage}
    return [_parent_id(known, lane) for lane in of]


def children(stream: Stream, lane: Lane) -> list[Lane]:
    """The lanes that directly follow a lane and are held."""
    return [
        child
        for shard in stream.shards
        if lane.shard.shard_id in shard.parent_ids
        for child in lanes(shard)
        if lane.first_hash <= child.first_hash <= lane.last_hash
    ]


def _parent_id(known: dict[str, Shard], lane: Lane) -> str:
    for id_ in lane.shard.parent_ids:
        parent = known.get(id_)
        if parent is not None and parent.first_hash <= lane.first_hash <= parent.last_hash:
            return next(each.id for each in reversed(lanes(parent)) if each.first_hash <= lane.first_hash)
    return lane.shard.parent_shard_id
