"""Change records as the client gives them: wrapped as they arrived, decoded when asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Final, cast

from headrace import _lazy
from headrace._models import Item, Version
from headrace._values import from_item
from headrace.v1 import attribute_value_pb2, record_pb2, stream_service_pb2

_EVENT_NAMES: Final[dict[int, str]] = {
    record_pb2.EVENT_NAME_INSERT: "INSERT",
    record_pb2.EVENT_NAME_MODIFY: "MODIFY",
    record_pb2.EVENT_NAME_REMOVE: "REMOVE",
}


class ChangeRecord:
    """One committed change to one item. It, its keys and its images are decoded when they are first asked for."""

    def __init__(self, encoded: bytes) -> None:
        self._encoded = encoded
        self._parsed: record_pb2.Record | None = None

    @property
    def _message(self) -> record_pb2.Record:
        # Not a cached_property: until Python 3.12 that takes a lock, which costs more than the parsing.
        if self._parsed is None:
            self._parsed = _lazy.record()(self._encoded)
        return self._parsed

    def __repr__(self) -> str:
        return f"<ChangeRecord {self.event_name} {self.sequence_number} {self.keys}>"

    @property
    def event_name(self) -> str:
        """INSERT, MODIFY or REMOVE."""
        return _EVENT_NAMES[self._message.event_name]

    @property
    def sequence_number(self) -> str:
        """The record's place in its shard; as text it orders as the records do."""
        return self._message.sequence_number

    @property
    def approximate_creation_date_time(self) -> datetime:
        """When the change was committed, to the millisecond."""
        return self._message.approximate_creation_date_time.ToDatetime(UTC)

    @cached_property
    def keys(self) -> Item:
        """The primary key of the changed item."""
        return _item(self._message.keys) or {}

    @cached_property
    def new_image(self) -> Item | None:
        """The item after the change; None on REMOVE, and when the stream's view type leaves it out."""
        return _item(self._message.new_image)

    @cached_property
    def old_image(self) -> Item | None:
        """The item before the change; None on INSERT, and when the stream's view type leaves it out."""
        return _item(self._message.old_image)

    @property
    def size_bytes(self) -> int:
        """The size of the keys and images, by DynamoDB's item size rules."""
        return self._message.size_bytes

    @property
    def version(self) -> Version:
        """Which write this was, among all writes of all regions."""
        version = self._message.version
        return Version(version.hybrid_time, version.origin_region)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordBatch:
    """One response of a read: records of one shard, in order, and where to read on. Without records, a heartbeat."""

    records: Sequence[ChangeRecord]
    # The shard the records are of; empty if there are none and no shard has ended.
    shard_id: str
    # None at the end of a closed shard, or, reading a whole stream, of a disabled stream.
    next_shard_iterator: str | None
    # How long ago the next unread record was written; 0 at the tip.
    millis_behind_latest: int
    # True in the last batch of a closed shard; then the shards that follow.
    shard_end: bool
    child_shard_ids: tuple[str, ...]


def _item(encoded: object) -> Item | None:
    """An Item that was left as bytes; None if it is absent. An item is never empty: it has its key."""
    return from_item(attribute_value_pb2.Item.FromString(cast("bytes", encoded))) if encoded else None


def to_record_batch(response: stream_service_pb2.GetRecordsResponse) -> RecordBatch:
    """The batch of one response."""
    return RecordBatch(
        records=_lazy.Lazy(_lazy.encoded_records(response), ChangeRecord),
        shard_id=response.shard_id,
        next_shard_iterator=response.next_shard_iterator or None,
        millis_behind_latest=response.millis_behind_latest,
        shard_end=response.shard_end,
        child_shard_ids=tuple(response.child_shard_ids),
    )
