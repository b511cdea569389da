"""Adds up what calls consume."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from operator import add

from headrace._models import Capacity, ConsumedCapacity


class CapacityMeter:
    """Adds up what the calls that it is given to consume, by table; safe to share between tasks and threads.

    A call takes one as `capacity`. It counts all pages and batches of the call, and a write whose condition did not
    hold if that returns the item; what a failed call consumed is not told.
    """

    def __init__(self) -> None:
        self._by_table: dict[str, ConsumedCapacity] = {}
        self._lock = threading.Lock()

    @property
    def by_table(self) -> Mapping[str, ConsumedCapacity]:
        """What was consumed so far of each table."""
        with self._lock:
            return dict(self._by_table)

    @property
    def total(self) -> Capacity:
        """What was consumed so far of all tables."""
        total = Capacity()
        for consumed in self.by_table.values():
            total = _sum(total, consumed.total)
        return total

    def add(self, consumed: Iterable[ConsumedCapacity]) -> None:
        """Adds what a call consumed."""
        with self._lock:
            for one in consumed:
                known = self._by_table.get(one.table_name)
                self._by_table[one.table_name] = one if known is None else _merge(known, one)


def _merge(first: ConsumedCapacity, second: ConsumedCapacity) -> ConsumedCapacity:
    return ConsumedCapacity(
        table_name=first.table_name,
        total=_sum(first.total, second.total),
        table=_sum(first.table, second.table),
        local_indexes=_merge_indexes(first.local_indexes, second.local_indexes),
        global_indexes=_merge_indexes(first.global_indexes, second.global_indexes),
    )


def _merge_indexes(first: Mapping[str, Capacity], second: Mapping[str, Capacity]) -> dict[str, Capacity]:
    merged = dict(first)
    for name, capacity in second.items():
        merged[name] = _sum(merged.get(name, Capacity()), capacity)
    return merged


def _sum(first: Capacity, second: Capacity) -> Capacity:
    return Capacity(*map(add, first, second))
