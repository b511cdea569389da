"""New names for the streams of a store that goes on after a loss, so that nobody takes its log for the old one."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from broker.model.clock import HybridClock, label_ms
from broker.model.tables import Stream, stream_name
from broker.storage import layout
from broker.storage.commit import Group
from broker.storage.documents import Documents
from broker.streams.shards import renewed_stream
from broker.tables.catalog import table_documents

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.storage.rocks import Store

# So many numbers are skipped: more than can have been given since the last durable note.
SKIPPED_NUMBERS: Final = 1_000_000_000
SKIPPED_IDS: Final = 1_000_000


def renew_streams(store: Store, region: str, now_ms: int, plan_more: Callable[[Group], None]) -> int:
    """Gives every stream of a store that has lost writes a new label, durably; returns how many there are.

    The records that are left can be read under the new label. Iterators, consumer groups and triggers of the old label
    are told that it does not exist. Sequence numbers and ids go on beyond all that can have been given. `plan_more`
    makes other changes in the same commit. Nothing else may use the store yet.
    """
    held = store.counters()
    noted = held if store.note is None else store.note.counters
    counters = layout.Counters(
        sequence_number=max(held.sequence_number, noted.sequence_number) + SKIPPED_NUMBERS,
        hybrid_time=max(held.hybrid_time, noted.hybrid_time),
        id=max(held.id, noted.id) + SKIPPED_IDS,
        time_ms=max(held.time_ms, noted.time_ms, now_ms),
    )
    group = Group(store, counters, HybridClock(counters.hybrid_time), counters.time_ms, region, {}, {})
    streams, tables = Documents(store, "stream", Stream), table_documents(store)
    old = streams.all()
    # Labels of one table differ and rise, whatever the clock says.
    created_ms = max([counters.time_ms, *(label_ms(stream.label) + 1 for stream in old)])
    names = {}
    for place, stream in enumerate(sorted(old, key=_label)):
        renewed = renewed_stream(stream, created_ms + place)
        streams.delete(group, stream.name)
        streams.put(group, renewed.name, renewed)
        names[stream.name] = renewed.label
    for table in tables.all():
        label = names.get(stream_name(table.name, table.stream_label), "")
        if table.stream_label:
            tables.put(group, table.name, replace(table, stream_label=label))
    plan_more(group)
    entry, _ = group.seal()
    store.write(entry.mutations, entry.range_deletes)
    store.sync()
    return len(old)


def _label(stream: Stream) -> str:
    return stream.label
