"""What is read of each stream, counted as DynamoDB counts it.

Source: Developer Guide, "Change data capture for DynamoDB Streams": a streams read request unit is one call of
GetRecords, which returns up to 1 MB.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from broker.model.tables import Stream

UNIT_BYTES: Final = 1_000_000


class ReadUsage:
    """What was read of one stream since the node started."""

    __slots__ = ("read_request_units", "returned_bytes", "returned_records", "stream_label", "table_name")

    def __init__(self, stream: Stream) -> None:
        self.table_name = stream.table_name
        self.stream_label = stream.label
        self.read_request_units = 0
        self.returned_records = 0
        self.returned_bytes = 0

    def add(self, records: int, size_bytes: int) -> int:
        """Counts one response, and returns its units: one for each 1 MB begun, one at least."""
        units = max(1, -(-size_bytes // UNIT_BYTES))
        self.read_request_units += units
        self.returned_records += records
        self.returned_bytes += size_bytes
        return units


class Metering:
    """The usage of all streams that were read."""

    def __init__(self) -> None:
        self._usages: dict[str, ReadUsage] = {}

    def of(self, stream: Stream) -> ReadUsage:
        """The usage of a stream."""
        usage = self._usages.get(stream.name)
        if usage is None:
            usage = self._usages[stream.name] = ReadUsage(stream)
        return usage

    def all(self) -> list[ReadUsage]:
        """The usage of each stream that was read."""
        return list(self._usages.values())

    def forget(self, stream: Stream) -> None:
        """Drops the usage of a stream that is gone."""
        self._usages.pop(stream.name, None)
