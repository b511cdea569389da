"""What Headrace promises, a checker per promise. Each raises BrokenError with the promise and the shortest witness.

    durable      an acknowledged write is in the table, unless a later write of the same item replaced it
    ordered      sequence numbers rise, and the records of an item tell its history without a gap or a turn
    unique       no record and no write is in the log twice
    reliable     every acknowledged change has its record, in the order of the writes
    atomic       an item and its record are there together or not at all: the log replayed is the table
    resumable    reading in parts, each from where the last one ended, gives what reading in one go gives
    converged    two copies are equal item by item

They judge what was seen from outside: records and items as a client got them, and what a writer knows of its writes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from headrace.v1 import record_pb2
from tests.model import Change, replay
from tests.values import Attributes, Key, Value, from_item, key_of

_EVENT_NAME_PREFIX: Final = "EVENT_NAME_"


class BrokenError(AssertionError):
    """A promise that was not kept."""

    def __init__(self, promise: str, witness: str) -> None:
        super().__init__(f"broke {promise}: {witness}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Logged:
    """A record as a reader got it."""

    sequence_number: str
    # Hybrid time and origin region.
    version: tuple[int, str]
    change: Change

    def __str__(self) -> str:
        """Short enough for a witness."""
        keys = ",".join(str(member) for _, member in self.change.keys.values())
        return f"{self.change.event_name} of {keys} at {self.sequence_number.lstrip('0')}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """A write as its writer knows it: the item it left, or None, and whether the broker acknowledged it.

    At most one write of an item may be in flight at a time, and no write may leave the item as it was, or the order of
    the outcomes would not be known.
    """

    key: Key
    outcome: Attributes | None
    acknowledged: bool = True


def logged(records: Iterable[record_pb2.Record]) -> list[Logged]:
    """The records of a shard, read from the wire."""
    return [
        Logged(
            sequence_number=record.sequence_number,
            version=(record.version.hybrid_time, record.version.origin_region),
            change=Change(
                event_name=record_pb2.EventName.Name(record.event_name).removeprefix(_EVENT_NAME_PREFIX),
                keys=from_item(record.keys),
                old_image=from_item(record.old_image) if record.HasField("old_image") else None,
                new_image=from_item(record.new_image) if record.HasField("new_image") else None,
            ),
        )
        for record in records
    ]


def check_ordered(log: Sequence[Logged]) -> None:
    """Needs both images and the log from the table's beginning, to tell that each record continues the one before."""
    for before, after in pairwise(log):
        if int(after.sequence_number) <= int(before.sequence_number):
            raise BrokenError("Ordered", f"{after} follows {before}")
    last: dict[frozenset[tuple[str, Value]], Logged] = {}
    for entry in log:
        key = frozenset(entry.change.keys.items())
        previous = last.get(key)
        state = previous.change.new_image if previous else None
        if entry.change.old_image != state:
            told = f"{previous}, which left {state}" if previous else "nothing"
            raise BrokenError("Ordered", f"{entry} changed {entry.change.old_image}, but follows {told}")
        expected = "INSERT" if state is None else "REMOVE" if entry.change.new_image is None else "MODIFY"
        if entry.change.event_name != expected:
            raise BrokenError("Ordered", f"{entry} should be a {expected} after {previous or 'nothing'}")
        last[key] = entry


def check_unique(log: Sequence[Logged]) -> None:
    """No sequence number and no version may come twice."""
    by_sequence_number: dict[str, Logged] = {}
    by_version: dict[tuple[int, str], Logged] = {}
    for entry in log:
        twin = by_sequence_number.setdefault(entry.sequence_number, entry)
        if twin is not entry:
            raise BrokenError("Unique", f"{entry} and {twin} have one sequence number")
        twin = by_version.setdefault(entry.version, entry)
        if twin is not entry:
            raise BrokenError("Unique", f"{entry} and {twin} are one write, version {entry.version}")


def check_durable(writes: Sequence[Write], table: Mapping[Key, Attributes]) -> None:
    """Needs every write of the items it judges, in the order of each item's writes."""
    for key, history in _by_key(writes).items():
        last = max((place for place, write in enumerate(history) if write.acknowledged), default=-1)
        # What is not acknowledged may have happened or not; before the first acknowledged write there was no item.
        allowed = [write.outcome for write in history[max(last, 0) :]] + ([None] if last < 0 else [])
        if table.get(key) not in allowed:
            seen = table.get(key)
            raise BrokenError(
                "Durable", f"item {key} is {seen}, acknowledged was {history[last].outcome if last >= 0 else None}"
            )


def check_reliable(writes: Sequence[Write], log: Sequence[Logged], key_names: tuple[str, ...]) -> None:
    """Needs new images. Only a write that was not acknowledged may lack a record, and no record may be invented."""
    entries: dict[Key, list[Logged]] = defaultdict(list)
    for entry in log:
        entries[key_of(entry.change.keys, key_names)].append(entry)
    histories = _by_key(writes)
    for key in entries.keys() - histories.keys():
        raise BrokenError("Reliable", f"{entries[key][0]} records a write that nobody made")
    for key, history in histories.items():
        pending = iter(history)
        for entry in entries[key]:
            for write in pending:
                if write.outcome == entry.change.new_image:
                    break
                if write.acknowledged:
                    raise BrokenError(
                        "Reliable", f"no record of the acknowledged write of {write.outcome} before {entry}"
                    )
            else:
                raise BrokenError("Reliable", f"{entry} records a write that nobody made, or for the second time")
        for write in pending:
            if write.acknowledged:
                last = entries[key][-1] if entries[key] else "nothing"
                raise BrokenError(
                    "Reliable", f"no record of the acknowledged write of {write.outcome} to {key} after {last}"
                )


def check_atomic(log: Sequence[Logged], table: Mapping[Key, Attributes], key_names: tuple[str, ...]) -> None:
    """Needs new images and the log from the table's beginning."""
    try:
        replayed = replay((entry.change for entry in log), key_names)
    except KeyError as error:
        raise BrokenError("Atomic", f"the log removes {error.args[0]}, which it never inserted") from error
    _check_equal("Atomic", "the log replayed", replayed, "the table", table)


def check_resumable(whole: Sequence[Logged], parts: Sequence[Sequence[Logged]]) -> None:
    """The parts, one after the other, must be the whole."""
    joined = [entry for part in parts for entry in part]
    for place, (wanted, seen) in enumerate(zip(whole, joined, strict=False)):
        if wanted != seen:
            raise BrokenError("Resumable", f"record {place} read in parts is {seen}, read in one go {wanted}")
    if len(joined) != len(whole):
        raise BrokenError("Resumable", f"{len(joined)} records read in parts, {len(whole)} in one go")


def check_converged(left: Mapping[Key, Attributes], right: Mapping[Key, Attributes]) -> None:
    """Two copies of a table."""
    _check_equal("Converged", "one copy", left, "the other", right)


def _check_equal(
    promise: str, left_name: str, left: Mapping[Key, Attributes], right_name: str, right: Mapping[Key, Attributes]
) -> None:
    for key in left.keys() | right.keys():
        if left.get(key) != right.get(key):
            raise BrokenError(promise, f"{key} is {left.get(key)} in {left_name} and {right.get(key)} in {right_name}")


def _by_key(writes: Iterable[Write]) -> dict[Key, list[Write]]:
    histories: dict[Key, list[Write]] = defaultdict(list)
    for write in writes:
        histories[write.key].append(write)
    return histories
