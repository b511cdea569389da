"""What is leased, read and acknowledged: shards of the stream, ranges of a snapshot, parked keys that are redriven.

To a session all three are the same. Their plans are parts of the group commit and check the lease again, so that
whoever has lost it in the meantime changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Final, Protocol

from broker.consumers.events import Batch, SourceKind
from broker.consumers.groups import FailureOutcome, Lease, NackReason
from broker.encoding.items import parse_item
from broker.encoding.records import encode_record, encode_time
from broker.model.errors import ResourceNotFoundError
from broker.model.gaps import TrimmedDataAccessError
from broker.model.tables import StreamViewType
from broker.streams.shards import gap_after, gap_of_forgotten_shards, horizon

if TYPE_CHECKING:
    from collections.abc import Sequence

    from broker.consumers.groups import ConsumerGroups, Failure
    from broker.model.tables import Shard, Stream
    from broker.storage.commit import Group
    from broker.storage.layout import StoredItem
    from broker.streams.tail import LogReader
    from broker.tables.catalog import Catalog, OpenTable
    from broker.tables.read import RangedSnapshot

# An item of a snapshot is parsed to find its key, so a batch of them is not as large as one of a log.
_RANGE_ITEMS_MAX: Final = 250


class Source(Protocol):
    """Something a member of a group holds."""

    id: str
    kind: SourceKind

    def has_more(self, after: int) -> bool:
        """Whether there may be something to read after a position; cheap, and true also for an end not seen yet."""

    def read(self, after: int, records_max: int, bytes_max: int) -> Batch:
        """The next records: so many and so many bytes at most, but one if there is one.

        Raises TrimmedDataAccessError if records after the position are no longer held.
        """

    def record(self, number: int) -> tuple[int, bytes] | None:
        """A record that was read, and the number to park it under; None if there is none (any more)."""

    def is_beginning(self, position: int) -> bool:
        """Whether nothing comes before a position."""

    def plan_lease(self, group: Group, *, may_skip: bool) -> Lease:
        """Takes the source. Raises ResourceNotFoundError, LeaseFencedError, TrimmedDataAccessError."""

    def plan_acknowledge(self, group: Group, epoch: int, number: int, *, is_end: bool) -> bool:
        """Moves the checkpoint; returns whether the source is finished.

        Raises ResourceNotFoundError, LeaseFencedError, ValidationError.
        """

    def plan_fail(self, group: Group, epoch: int, failure: Failure, record: tuple[int, bytes] | None) -> FailureOutcome:
        """Notes that a record was not processed. Raises ResourceNotFoundError, LeaseFencedError, ValidationError."""


class LogShard:
    """A shard of the stream."""

    kind = SourceKind.LOG

    def __init__(
        self,
        shard: Shard,
        group_name: str,
        stream_arn: str,
        catalog: Catalog,
        groups: ConsumerGroups,
        reader: LogReader,
    ) -> None:
        self.id = shard.shard_id
        # Its number on disk, by which its watermark is known.
        self.number = shard.id
        self._shard = shard
        self._group_name = group_name
        self._stream_arn = stream_arn
        self._catalog = catalog
        self._groups = groups
        self._reader = reader

    def has_more(self, after: int) -> bool:
        """Whether there may be something to read after a position."""
        tip = self._reader.tip(self._shard)
        if tip > after or not self._shard.is_open:
            return True
        if tip == after:
            return False
        # A group may begin beyond the tip: then the shard may end before that, and only the catalog tells.
        shard = self._catalog.stream(self._stream_arn).shard(self.id)
        return shard is None or not shard.is_open

    def read(self, after: int, records_max: int, bytes_max: int) -> Batch:
        """The next records. Raises TrimmedDataAccessError."""
        stream = self._catalog.stream(self._stream_arn)
        shard = stream.shard(self.id)
        if shard is None:
            return self._read_vanished(stream, after)
        # It may have been closed or trimmed since.
        self._shard = shard
        page = self._reader.read(shard, after, records_max, bytes_max)
        return Batch(
            parts=page.parts,
            count=page.count,
            size_bytes=page.size_bytes,
            last_sequence_number=page.last_sequence_number,
            millis_behind_latest=page.millis_behind_latest,
            is_end=page.is_end,
            records=page.records,
        )

    def record(self, number: int) -> tuple[int, bytes] | None:
        """A record that was read."""
        try:
            found = self.read(number - 1, 1, 1).records()
        except TrimmedDataAccessError:
            return None
        return found[0] if found and found[0][0] == number else None

    def is_lost(self, number: int) -> bool:
        """Whether a record is no longer held."""
        return number <= self._shard.trimmed_to or self._catalog.stream(self._stream_arn).shard(self.id) is None

    def is_beginning(self, position: int) -> bool:
        """Whether nothing comes before a position."""
        return position <= horizon(self._shard)

    def children(self) -> tuple[str, ...]:
        """The ids of the shards that follow."""
        return tuple(shard.shard_id for shard in self._catalog.stream(self._stream_arn).children(self.id))

    def is_diverted(self) -> bool:
        """Whether records of the shard may be of parked keys."""
        return self._groups.parking.reaches(self._group_name, self._shard.first_hash, self._shard.last_hash)

    def plan_lease(self, group: Group, *, may_skip: bool) -> Lease:
        """Takes the shard."""
        return self._groups.plan_lease(group, self._group_name, self.id, may_skip=may_skip)

    def plan_acknowledge(self, group: Group, epoch: int, number: int, *, is_end: bool) -> bool:
        """Moves the checkpoint."""
        self._groups.plan_acknowledge(group, self._group_name, self.id, epoch, number, is_end=is_end)
        return is_end

    def plan_fail(self, group: Group, epoch: int, failure: Failure, record: tuple[int, bytes] | None) -> FailureOutcome:
        """Notes that a record was not processed."""
        return self._groups.plan_fail(group, self._group_name, self.id, epoch, failure, record=record)

    def _read_vanished(self, stream: Stream, after: int) -> Batch:
        """The end of a shard that is no longer held. Raises TrimmedDataAccessError if it had more records."""
        known = next((shard for shard in stream.vanished if shard.id == self._shard.id), None)
        gap = gap_of_forgotten_shards(stream, after) if known is None else gap_after(known, after)
        if gap is not None:
            raise TrimmedDataAccessError(gap)
        return _end(after)


class SnapshotRange:
    """A range of the items of a table; its positions count the items."""

    kind = SourceKind.SNAPSHOT

    def __init__(self, index: int, range_id: str, group_name: str, groups: ConsumerGroups, snapshot: Snapshot) -> None:
        self.id = range_id
        self._index = index
        self._group_name = group_name
        self._groups = groups
        self._snapshot = snapshot
        # The places of the positions from the checkpoint on.
        self._places: dict[int, bytes] = {0: b""}

    def has_more(self, after: int) -> bool:
        """There is always at least the end."""
        return after in self._places

    def read(self, after: int, records_max: int, bytes_max: int) -> Batch:
        """The next items, as records."""
        items = self._snapshot.read(self._index, self._places[after], min(records_max, _RANGE_ITEMS_MAX), bytes_max)
        if not items:
            return _end(after)
        records = []
        for number, (place, item) in enumerate(items, after + 1):
            self._places[number] = place
            records.append((number, self._snapshot.as_record(item, number)))
        return _batch(records)

    def record(self, number: int) -> tuple[int, bytes] | None:
        """An item that was read, under the number of the snapshot: that is below all of the log that follows."""
        place = self._places.get(number - 1)
        if place is None or number not in self._places:
            return None
        ((_, item),) = self._snapshot.read(self._index, place, 1, 1)
        start_after = self._groups.get(self._group_name).start_after
        return start_after, self._snapshot.as_record(item, start_after)

    def is_beginning(self, position: int) -> bool:
        """Whether nothing comes before a position."""
        return position == 0

    def plan_lease(self, group: Group, *, may_skip: bool) -> Lease:
        """Takes the range."""
        lease = self._groups.plan_lease(group, self._group_name, self.id, may_skip=may_skip)
        self._places = {lease.checkpoint: lease.place}
        return lease

    def plan_acknowledge(self, group: Group, epoch: int, number: int, *, is_end: bool) -> bool:
        """Moves the checkpoint."""
        # A lower number is refused below.
        place = self._places.get(number, b"")
        self._groups.plan_acknowledge(group, self._group_name, self.id, epoch, number, is_end=is_end, place=place)
        self._forget_before(number)
        return is_end

    def plan_fail(self, group: Group, epoch: int, failure: Failure, record: tuple[int, bytes] | None) -> FailureOutcome:
        """Notes that a record was not processed."""
        number = failure.number
        places = (self._places.get(number - 1, b""), self._places.get(number, b""))
        outcome = self._groups.plan_fail(group, self._group_name, self.id, epoch, failure, record=record, places=places)
        self._forget_before(outcome.lease.checkpoint)
        return outcome

    def _forget_before(self, number: int) -> None:
        for position in list(takewhile(lambda position: position < number, self._places)):
            del self._places[position]


class RedrivenKey:
    """The parked records of a key, which are delivered again."""

    kind = SourceKind.PARKED

    def __init__(self, parked_id: str, group_name: str, groups: ConsumerGroups) -> None:
        self.id = parked_id
        self._group_name = group_name
        self._parking = groups.parking

    def has_more(self, after: int) -> bool:
        """Whether more records of the key wait. Raises ResourceNotFoundError if the key is no longer parked."""
        return self._parking.last_number(self._group_name, self.id) > after

    def read(self, after: int, records_max: int, bytes_max: int) -> Batch:
        """The next records. There is no end but the acknowledgement of the last one: until then, more may come."""
        parked = self._parking.get(self._group_name, self.id)
        return _batch(self._parking.read(parked, after, records_max, bytes_max), after)

    def record(self, number: int) -> tuple[int, bytes] | None:
        """A record that was read."""
        try:
            found = self._parking.read(self._parking.get(self._group_name, self.id), number - 1, 1, 1)
        except ResourceNotFoundError:
            return None
        return found[0] if found and found[0][0] == number else None

    def is_beginning(self, position: int) -> bool:
        """Whether nothing comes before a position."""
        return position == 0

    def plan_lease(self, group: Group, *, may_skip: bool) -> Lease:  # noqa: ARG002 (nothing of it can be lost)
        """Takes the key."""
        return Lease(epoch=self._parking.plan_lease(group, self._group_name, self.id), checkpoint=0)

    def plan_acknowledge(self, group: Group, epoch: int, number: int, *, is_end: bool) -> bool:  # noqa: ARG002
        """Drops what is processed."""
        return self._parking.plan_acknowledge(group, self._group_name, self.id, epoch, number)

    def plan_fail(
        self,
        group: Group,
        epoch: int,
        failure: Failure,
        record: tuple[int, bytes] | None,  # noqa: ARG002 (it is parked already)
    ) -> FailureOutcome:
        """Ends the redrive; the key stays parked."""
        is_over = failure.reason is not NackReason.SHUTDOWN
        error = failure.message if is_over else None
        key = self._parking.plan_fail(group, self._group_name, self.id, epoch, failure.number, error=error)
        lease = Lease(epoch=key.epoch, checkpoint=failure.number - 1)
        return FailureOutcome(lease=lease, attempts=key.attempts, is_parked=is_over, is_over=is_over)


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The items of a table as they were at one sequence number, as records."""

    items: RangedSnapshot
    table: OpenTable
    view_type: StreamViewType

    def read(self, index: int, after_place: bytes, items_max: int, bytes_max: int) -> list[tuple[bytes, StoredItem]]:
        """The next items of a range, each with its place."""
        return self.items.read(index, after_place, items_max, bytes_max)

    def as_record(self, stored: StoredItem, number: int) -> bytes:
        """An item as an INSERT, with the image that the group needs whatever the stream records."""
        return encode_record(
            sequence_number=number,
            time_field=encode_time(stored.version.wall_ms),
            view_type=self.view_type if self.view_type.has_new_image else StreamViewType.NEW_IMAGE,
            key=self.table.keys.of_item(parse_item(stored.item.encoded)),
            old=None,
            new=stored.item,
            version=stored.version,
        )


def _batch(records: Sequence[tuple[int, bytes]], after: int = 0) -> Batch:
    return Batch(
        parts=[record for _, record in records],
        count=len(records),
        size_bytes=sum(len(record) for _, record in records),
        last_sequence_number=records[-1][0] if records else after,
        records=lambda: list(records),
    )


def _end(position: int) -> Batch:
    return Batch(parts=(), count=0, size_bytes=0, last_sequence_number=position, is_end=True, records=list)
