"""Compares two copies of a table as they stream in, holding no more of them than one response of each.

Both regions send items in the order of their stored keys, and each response with the start key that follows its items.
Start keys of two regions sort alike: they hold the hash and the key of the last item, nothing of the region. So the
comparison always reads on where it is behind; what has found no partner when the other side is past it has none.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from headrace.v1 import attribute_value_pb2
from headrace.v1 import replication_service_pb2 as pb

Key = tuple[bytes, ...]
# (has ended, start key): the end is beyond every key.
_Bound = tuple[bool, bytes]


class Side(Enum):
    """One of the two copies."""

    LEFT = "left"
    RIGHT = "right"

    @property
    def other(self) -> Side:
        """The opposite one."""
        return Side.RIGHT if self is Side.LEFT else Side.LEFT


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """An item that is not the same on both sides; None where it is missing."""

    key: Key
    left: pb.VersionedItem | None
    right: pb.VersionedItem | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Everything up to a start key is compared: where another comparison may go on."""

    start_key: bytes
    # How many items of the left side that was, since this comparison began.
    left_items: int


class Comparison:
    """One pass over two copies.

    While `next_side` names a side, give `add` the next response of that side.
    """

    def __init__(self, key_names: Sequence[str], *, start_key: bytes = b"") -> None:
        """Compares what comes after `start_key` on both sides."""
        self._key_names = tuple(key_names)
        self._pending: dict[Side, dict[Key, pb.VersionedItem]] = {side: {} for side in Side}
        self._bounds: dict[Side, _Bound] = dict.fromkeys(Side, (False, start_key))
        # Up to where nothing of a side waits for its partner any more.
        self._settled: dict[Side, _Bound] = dict(self._bounds)
        # The bounds of the left side that the right side has not settled, with the items up to there.
        self._ahead: deque[tuple[_Bound, int]] = deque()
        self.position = Position(start_key=start_key, left_items=0)
        self.items: dict[Side, int] = dict.fromkeys(Side, 0)

    @property
    def next_side(self) -> Side | None:
        """The side that is behind; None when both have ended."""
        left, right = self._bounds[Side.LEFT], self._bounds[Side.RIGHT]
        if left[0] and right[0]:
            return None
        return Side.LEFT if left <= right else Side.RIGHT

    def add(self, side: Side, items: Iterable[pb.VersionedItem], bound: bytes | None) -> list[Difference]:
        """Takes the next response of a side: its items and the start key after them, None for the end.

        Returns the differences that are certain now.
        """
        before = self._bounds[side]
        self._bounds[side] = (bound is None, bound or b"")
        assert not before[0], f"the {side.value} side goes on after its end"
        assert before < self._bounds[side], f"the start keys of the {side.value} side do not rise"
        differences: list[Difference] = []
        mine, theirs = self._pending[side], self._pending[side.other]
        for item in items:
            self.items[side] += 1
            key = self._key_of(item.item)
            partner = theirs.pop(key, None)
            if partner is None:
                mine[key] = item
            elif partner != item:
                differences.append(_difference(key, side, item, partner))
        for settling in Side:
            if self._bounds[settling] <= self._bounds[settling.other]:
                alone = self._pending[settling]
                differences += [_difference(key, settling, item, None) for key, item in alone.items()]
                alone.clear()
            if not self._pending[settling]:
                self._settled[settling] = self._bounds[settling]
        if side is Side.LEFT:
            self._ahead.append((self._bounds[side], self.items[side]))
        while self._ahead and self._ahead[0][0] <= min(self._settled.values()):
            (_, start_key), left_items = self._ahead.popleft()
            self.position = Position(start_key=start_key, left_items=left_items)
        return differences

    @property
    def pending(self) -> int:
        """How many items are held now, waiting for their partners."""
        return sum(map(len, self._pending.values()))

    def _key_of(self, item: attribute_value_pb2.Item) -> Key:
        # Brokers store canonical bytes only, so equal keys are equal bytes.
        return tuple(item.attributes[name].SerializeToString() for name in self._key_names)


def key_item(item: attribute_value_pb2.Item, key_names: Sequence[str]) -> attribute_value_pb2.Item:
    """The key attributes of an item."""
    return attribute_value_pb2.Item(attributes={name: item.attributes[name] for name in key_names})


def _difference(key: Key, side: Side, item: pb.VersionedItem, partner: pb.VersionedItem | None) -> Difference:
    left, right = (item, partner) if side is Side.LEFT else (partner, item)
    return Difference(key=key, left=left, right=right)
