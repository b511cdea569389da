"""Every byte on disk that is ours: the head of an item, log blocks, counters. Golden tests keep them as they are.

What is encoded here is checked again on decoding; bytes that do not fit raise CorruptionError.
"""

from __future__ import annotations

import struct
import zlib
from bisect import bisect_right
from typing import Final, NamedTuple

from broker.encoding.items import EncodedItem
from broker.model.clock import Version
from broker.model.errors import CorruptionError

_FORMAT: Final = 1

# Counters: format, last sequence number, last hybrid time, last id given to a table or shard.
COUNTERS_KEY: Final = b"counters"
_COUNTERS: Final = struct.Struct(">BQQQ")

# Item value: format, item size by DynamoDB's rules, hybrid time, length of the origin region; then the region, then the item.
_ITEM_HEAD: Final = struct.Struct(">BIQB")
_ITEM_HEAD_BYTES: Final = _ITEM_HEAD.size

# Log block: format, records, first and last sequence number, first and last time in ms, payload length, payload CRC-32; then for
# each record its distance from the first sequence number, then for each record its offset in the payload, then the payload.
_BLOCK_HEAD: Final = struct.Struct("<BIQQQQII")
_BLOCK_HEAD_BYTES: Final = _BLOCK_HEAD.size
_NUMBER_BYTES: Final = 4

SHARD_ID_BYTES: Final = 8
_SEQUENCE_NUMBER_BYTES: Final = 8


class Counters(NamedTuple):
    """What only rises in a store."""

    sequence_number: int
    hybrid_time: int
    id: int


def encode_counters(counters: Counters) -> bytes:
    """The value of the counters."""
    return _COUNTERS.pack(_FORMAT, *counters)


def decode_counters(value: bytes | None) -> Counters:
    """The counters; all zero in a new store."""
    if value is None:
        return Counters(0, 0, 0)
    _check(len(value) == _COUNTERS.size and value[0] == _FORMAT, "counters")
    return Counters(*_COUNTERS.unpack(value)[1:])


class StoredItem(NamedTuple):
    """An item as it is stored."""

    item: EncodedItem
    version: Version


def encode_item(item: EncodedItem, version: Version) -> bytes:
    """The value of an item."""
    origin = version.origin_region.encode()
    return _ITEM_HEAD.pack(_FORMAT, item.size_bytes, version.hybrid_time, len(origin)) + origin + item.encoded


def decode_item(value: bytes) -> StoredItem:
    """Reads what `encode_item` made."""
    _check(len(value) >= _ITEM_HEAD_BYTES and value[0] == _FORMAT, "item")
    _, size, hybrid_time, origin_length = _ITEM_HEAD.unpack_from(value)
    start = _ITEM_HEAD_BYTES + origin_length
    _check(start <= len(value), "item")
    version = Version(hybrid_time, value[_ITEM_HEAD_BYTES:start].decode())
    return StoredItem(EncodedItem(value[start:], size), version)


def encode_tombstone(version: Version) -> bytes:
    """The value of a tombstone: the head of an item without an item."""
    return encode_item(EncodedItem(b"", 0), version)


def decode_tombstone(value: bytes) -> Version:
    """Reads what `encode_tombstone` made."""
    return decode_item(value).version


def log_prefix(shard: int) -> bytes:
    """What every log key of a shard begins with."""
    return shard.to_bytes(SHARD_ID_BYTES, "big")


def log_key(shard: int, last_sequence_number: int) -> bytes:
    """The key of a block. As it ends with the block's last number, seeking to n + 1 finds the first block beyond n."""
    return log_prefix(shard) + last_sequence_number.to_bytes(_SEQUENCE_NUMBER_BYTES, "big")


def log_end(shard: int) -> bytes:
    """Just after the last possible key of a shard."""
    return log_prefix(shard + 1)


def log_key_sequence_number(key: bytes) -> int:
    """The last sequence number of the block under a key."""
    return int.from_bytes(key[SHARD_ID_BYTES:], "big")


def encode_block(sequence_numbers: list[int], records: list[bytes], now_ms: int) -> bytes:
    """A block of the records of one group commit, which all have the same time."""
    first, last = sequence_numbers[0], sequence_numbers[-1]
    count = len(records)
    distances = [number - first for number in sequence_numbers]
    offsets = [0] * count
    offset = 0
    for index, record in enumerate(records):
        offsets[index] = offset
        offset += len(record)
    payload = b"".join(records)
    head = _BLOCK_HEAD.pack(_FORMAT, count, first, last, now_ms, now_ms, len(payload), zlib.crc32(payload))
    return b"%b%b%b" % (head, struct.pack(f"<{2 * count}I", *distances, *offsets), payload)


class Block:
    """A log block as it is stored. Its records are only sliced, never parsed."""

    __slots__ = ("_payload_start", "_value", "count", "first_sequence_number", "last_sequence_number", "last_time_ms")

    def __init__(self, value: bytes) -> None:
        """Checks the block's head and checksum. Raises CorruptionError."""
        _check(len(value) >= _BLOCK_HEAD_BYTES and value[0] == _FORMAT, "log block")
        head = _BLOCK_HEAD.unpack_from(value)
        _, self.count, self.first_sequence_number, self.last_sequence_number, _, self.last_time_ms, length, checksum = head
        self._value = memoryview(value)
        self._payload_start = _BLOCK_HEAD_BYTES + 2 * _NUMBER_BYTES * self.count
        _check(self._payload_start + length == len(value), "log block")
        _check(zlib.crc32(self._value[self._payload_start :]) == checksum, "log block")

    def find(self, after: int) -> int:
        """The index of the first record beyond a sequence number; `count` if there is none."""
        if after < self.first_sequence_number:
            return 0
        return bisect_right(self._distances(), after - self.first_sequence_number)

    def sequence_number(self, index: int) -> int:
        """The sequence number of the record at an index."""
        return self.first_sequence_number + self._distances()[index]

    def slice(self, begin: int, end: int) -> memoryview:
        """The records from index `begin` up to `end`, as elements of `repeated Record records = 1`."""
        if begin == 0 and end == self.count:
            return self._value[self._payload_start :]
        offsets = self.offsets()
        start = self._payload_start + offsets[begin]
        stop = len(self._value) if end == self.count else self._payload_start + offsets[end]
        return self._value[start:stop]

    def offsets(self) -> tuple[int, ...]:
        """Where each record begins in the payload."""
        return struct.unpack_from(f"<{self.count}I", self._value, _BLOCK_HEAD_BYTES + _NUMBER_BYTES * self.count)

    @property
    def payload_bytes(self) -> int:
        """The length of all records together."""
        return len(self._value) - self._payload_start

    def _distances(self) -> tuple[int, ...]:
        return struct.unpack_from(f"<{self.count}I", self._value, _BLOCK_HEAD_BYTES)


def _check(holds: bool, what: str) -> None:
    if not holds:
        raise CorruptionError(f"a stored {what} is not what was written")
