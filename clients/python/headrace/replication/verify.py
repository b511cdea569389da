"""Compares a replica with its source, item by item and version by version, while both may go on.

Two snapshots of two regions are never of the same moment, so a difference may only be a change on its way. What differs
is therefore looked at a second time, a little later. It counts if it is then the very same: a source item that has not
changed and that the replica still does not have.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from headrace import errors
from headrace.replication.compare import Comparison, Difference, Key, Side, key_item
from headrace.replication.lifecycle import key_names
from headrace.replication.region import Region, SnapshotChunk
from headrace.v1 import attribute_value_pb2
from headrace.v1 import replication_service_pb2 as pb

# Between the two looks.
SETTLE_S: Final = 2.0

# With more differences than this the two copies differ, whatever a second look would say.
_DIFFERENCES_MAX: Final = 10_000

SAMPLES_MAX: Final = 5

# (hybrid time, origin region) at the source and at the replica; None where there is no item.
_Versions = tuple[tuple[int, str] | None, tuple[int, str] | None]


@dataclass(slots=True)
class Kind:
    """Differences of one kind: how many, and the keys of some."""

    count: int = 0
    sample_keys: list[attribute_value_pb2.Item] = field(default_factory=list)

    def add(self, key: attribute_value_pb2.Item) -> None:
        """Counts one."""
        self.count += 1
        if len(self.sample_keys) < SAMPLES_MAX:
            self.sample_keys.append(key)


@dataclass(slots=True)
class Verification:
    """What a comparison found. Counts of items are those of the last look."""

    source_items: int = 0
    target_items: int = 0
    # At the source and not at the replica.
    missing: Kind = field(default_factory=Kind)
    # At the replica and not at the source.
    extra: Kind = field(default_factory=Kind)
    # At both, with another content or version.
    different: Kind = field(default_factory=Kind)
    # Differed at the first look and not in the same way at the second: changes on their way.
    in_motion: int = 0

    @property
    def are_equal(self) -> bool:
        """Whether no difference lasted."""
        return not (self.missing.count or self.extra.count or self.different.count)


async def verify_replica(
    replica: pb.ReplicaDescription,
    source_endpoint: str,
    *,
    on_progress: Callable[[int], None] = lambda _: None,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> Verification:
    """Compares a replica with its source; `on_progress` is told how many source items are compared.

    Raises HeadraceError if a region is away or a table is missing.
    """
    async with Region("source", source_endpoint) as source, Region("target", replica.target_endpoint) as target:
        table = await source.describe_table(replica.source_table_name)
        if table is None:
            raise errors.ResourceNotFoundError(f"the source table {replica.source_table_name} does not exist")
        names = key_names(table)
        return await _verify(
            source,
            replica.source_table_name,
            target,
            replica.target_table_name,
            names=names,
            on_progress=on_progress,
            sleep=sleep,
        )


async def _verify(
    source: Region,
    source_table_name: str,
    target: Region,
    target_table_name: str,
    *,
    names: Sequence[str],
    on_progress: Callable[[int], None],
    sleep: Callable[[float], Awaitable[None]],
) -> Verification:
    async def look(known: Mapping[Key, _Versions] | None) -> _Look:
        seen = _Look(names, known)
        async with source.snapshot(source_table_name) as left, target.snapshot(target_table_name) as right:
            comparison = seen.comparison
            while (side := comparison.next_side) is not None:
                chunk = await (left if side is Side.LEFT else right).next_chunk()
                seen.take(side, chunk)
                on_progress(comparison.items[Side.LEFT])
        return seen

    first = await look(None)
    if first.verification.are_equal or len(first.differences) > _DIFFERENCES_MAX:
        return first.verification
    await sleep(SETTLE_S)
    return (await look(first.differences)).verification


class _Look:
    """One pass over both copies; of the differences it counts those that are known, or all."""

    def __init__(self, names: Sequence[str], known: Mapping[Key, _Versions] | None) -> None:
        self._names = tuple(names)
        self._known = known
        self.comparison = Comparison(names)
        self.verification = Verification()
        # At most one more than the second look can use.
        self.differences: dict[Key, _Versions] = {}

    def take(self, side: Side, chunk: SnapshotChunk | None) -> None:
        """Takes the next items of a side, or its end."""
        if chunk is None:
            found = self.comparison.add(side, (), None)
        else:
            found = self.comparison.add(side, chunk.items, chunk.next_start_key)
        for difference in found:
            self._count(difference)
        self.verification.source_items = self.comparison.items[Side.LEFT]
        self.verification.target_items = self.comparison.items[Side.RIGHT]

    def _count(self, difference: Difference) -> None:
        versions = (_version(difference.left), _version(difference.right))
        if self._known is not None and self._known.get(difference.key) != versions:
            self.verification.in_motion += 1
            return
        if len(self.differences) <= _DIFFERENCES_MAX:
            self.differences[difference.key] = versions
        item = difference.left or difference.right
        assert item is not None
        if difference.right is None:
            kind = self.verification.missing
        elif difference.left is None:
            kind = self.verification.extra
        else:
            kind = self.verification.different
        kind.add(key_item(item.item, self._names))


def _version(item: pb.VersionedItem | None) -> tuple[int, str] | None:
    return None if item is None else (item.version.hybrid_time, item.version.origin_region)
