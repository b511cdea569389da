"""Every byte on disk that is ours: the head of an item, log blocks, counters. Golden tests keep them as they are.

What is encoded here is checked again on decoding; bytes that do not fit raise CorruptionError.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from itertools import accumulate
from typing import Final, NamedTuple

import google_crc32c

from broker.encoding.items import EncodedItem
from broker.model.clock import Version, wall_ms
from broker.model.errors import CorruptionError

_FORMAT: Final = 1
_BLOCK_FORMAT: Final = 2
_COUNTERS_FORMAT: Final = 2

# Counters: format, last sequence number, last hybrid time, last id given to a table or shard, time of the last group.
COUNTERS_KEY: Final = b"counters"
_COUNTERS: Final = struct.Struct(">BQQQQ")

# The size of a table or index: format, items, bytes.
SIZES_PREFIX: Final = b"size/"
SIZES_END: Final = b"size0"
_SIZE: Final = struct.Struct(">BQQ")
_TABLE_ID_BYTES: Final = 4

# Item value: format, item size by DynamoDB's rules, hybrid time, length of the origin region; then the region, then
# the item.
_ITEM_HEAD: Final = struct.Struct(">BIQB")
_ITEM_HEAD_BYTES: Final = _ITEM_HEAD.size

# Log block: format, records, first and last sequence number, time in ms, records and payload bytes of the shard before
# it; then for each record its distance from the first sequence number, then for each record its offset in the payload,
# then the payload, then the CRC-32C of all that.
_BLOCK_HEAD: Final = struct.Struct("<BIQQQQQ")
_BLOCK_HEAD_BYTES: Final = _BLOCK_HEAD.size
_NUMBER_BYTES: Final = 4
_CHECKSUM_BYTES: Final = 4
# The CRC-32C of any bytes followed by their own CRC-32C, least significant byte first.
_CHECKSUM_RESIDUE: Final = 0x48674BC7

SHARD_ID_BYTES: Final = 8
_SEQUENCE_NUMBER_BYTES: Final = 8
_PARKED_KEY_BYTES: Final = 8


class Counters(NamedTuple):
    """What only rises in a store."""

    sequence_number: int
    hybrid_time: int
    id: int
    time_ms: int

    @property
    def newest_ms(self) -> int:
        """The newest time that a record or a version has, in milliseconds since 1970 UTC."""
        return max(self.time_ms, wall_ms(self.hybrid_time))


def encode_counters(counters: Counters) -> bytes:
    """The value of the counters."""
    return _COUNTERS.pack(_COUNTERS_FORMAT, *counters)


def decode_counters(value: bytes | None) -> Counters:
    """The counters; all zero in a new store."""
    if value is None:
        return Counters(0, 0, 0, 0)
    _check(len(value) == _COUNTERS.size and value[0] == _COUNTERS_FORMAT, "counters")
    return Counters(*_COUNTERS.unpack(value)[1:])


# The durable note: format, RocksDB's sequence number, the counters, time of writing in ms, number and length of
# RocksDB's manifest; then the CRC-32C of that.
_NOTE: Final = struct.Struct(">BQQQQQQQQ")


class Note(NamedTuple):
    """What was durable at a time."""

    # RocksDB's sequence number, which rises with every key written.
    position: int
    counters: Counters
    # When the note was written, in milliseconds since 1970 UTC.
    time_ms: int
    # RocksDB's manifest, to which it only appends: its number and its length.
    manifest: int
    manifest_bytes: int


def encode_note(note: Note) -> bytes:
    """The content of the durable note."""
    value = _NOTE.pack(_FORMAT, note.position, *note.counters, *note[2:])
    checksum: int = google_crc32c.value(value)
    return value + checksum.to_bytes(_CHECKSUM_BYTES, "little")


def decode_note(value: bytes) -> Note:
    """Reads what `encode_note` made. Raises CorruptionError."""
    _check(len(value) == _NOTE.size + _CHECKSUM_BYTES and value[0] == _FORMAT, "durable note")
    _check(google_crc32c.value(value) == _CHECKSUM_RESIDUE, "durable note")
    fields = _NOTE.unpack(value[:-_CHECKSUM_BYTES])[1:]
    return Note(fields[0], Counters(*fields[1:5]), *fields[5:])


class Size(NamedTuple):
    """How much a table or an index holds: items, and bytes by DynamoDB's rules."""

    items: int
    bytes: int


NO_ITEMS: Final = Size(0, 0)


def size_key(table_id: int) -> bytes:
    """The key of the size of a table or an index."""
    return SIZES_PREFIX + table_id.to_bytes(_TABLE_ID_BYTES, "big")


def sized_id(key: bytes) -> int:
    """The table or index whose size has a key."""
    return int.from_bytes(key[len(SIZES_PREFIX) :], "big")


def encode_size(size: Size) -> bytes:
    """The value of a size."""
    return _SIZE.pack(_FORMAT, *size)


def decode_size(value: bytes) -> Size:
    """Reads what `encode_size` made."""
    _check(len(value) == _SIZE.size and value[0] == _FORMAT, "size")
    return Size(*_SIZE.unpack(value)[1:])


# Request tokens: by generation, a number that rises with time, and name. Value: format, time in ms, then the digest.
TOKENS_PREFIX: Final = b"token/"
_TOKEN_HEAD: Final = struct.Struct(">BQ")
# How many tokens there are of a generation: format, number.
TOKEN_COUNTS_PREFIX: Final = b"tokens/"
TOKEN_COUNTS_END: Final = b"tokens0"
_TOKEN_COUNT: Final = struct.Struct(">BQ")
_GENERATION_BYTES: Final = 8


def token_key(generation: int, name: str) -> bytes:
    """The key of a request token."""
    return TOKENS_PREFIX + generation.to_bytes(_GENERATION_BYTES, "big") + name.encode()


def encode_token(time_ms: int, digest: bytes) -> bytes:
    """The value of a request token: when its request was carried out, and the digest of that."""
    return _TOKEN_HEAD.pack(_FORMAT, time_ms) + digest


def decode_token(value: bytes) -> tuple[int, bytes]:
    """Reads what `encode_token` made."""
    _check(len(value) >= _TOKEN_HEAD.size and value[0] == _FORMAT, "request token")
    return _TOKEN_HEAD.unpack_from(value)[1], value[_TOKEN_HEAD.size :]


def token_count_key(generation: int) -> bytes:
    """The key of the number of tokens of a generation."""
    return TOKEN_COUNTS_PREFIX + generation.to_bytes(_GENERATION_BYTES, "big")


def counted_generation(key: bytes) -> int:
    """The generation whose number of tokens has a key."""
    return int.from_bytes(key[len(TOKEN_COUNTS_PREFIX) :], "big")


def encode_token_count(count: int) -> bytes:
    """The value of a number of tokens."""
    return _TOKEN_COUNT.pack(_FORMAT, count)


def decode_token_count(value: bytes) -> int:
    """Reads what `encode_token_count` made."""
    _check(len(value) == _TOKEN_COUNT.size and value[0] == _FORMAT, "number of tokens")
    count: int = _TOKEN_COUNT.unpack(value)[1]
    return count


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


class LogSize(NamedTuple):
    """How much has ever been appended to a shard; each block knows what was there before it.

    So the records and bytes between any two places of a log are a difference of two numbers.
    """

    records: int
    payload_bytes: int


EMPTY_LOG: Final = LogSize(0, 0)


def encode_block(sequence_numbers: list[int], records: list[bytes], now_ms: int, before: LogSize = EMPTY_LOG) -> bytes:
    """A block of the records of one group commit, which all have the same time."""
    first, last = sequence_numbers[0], sequence_numbers[-1]
    count = len(records)
    distances = [number - first for number in sequence_numbers]
    offsets = accumulate(map(len, records[:-1]), initial=0)
    head = _BLOCK_HEAD.pack(_BLOCK_FORMAT, count, first, last, now_ms, *before)
    block = b"".join((head, struct.pack(f"<{2 * count}I", *distances, *offsets), *records))
    checksum: int = google_crc32c.value(block)
    return block + checksum.to_bytes(_CHECKSUM_BYTES, "little")


class Block:
    """A log block as it is stored. Its records are only sliced, never parsed."""

    __slots__ = (
        "_end",
        "_start",
        "_value",
        "before",
        "count",
        "first_sequence_number",
        "last_sequence_number",
        "time_ms",
    )

    count: int
    first_sequence_number: int
    last_sequence_number: int
    time_ms: int
    before: LogSize

    def __init__(self, value: bytes) -> None:
        """Checks the block. Raises CorruptionError."""
        _check(len(value) > _BLOCK_HEAD_BYTES and value[0] == _BLOCK_FORMAT, "log block")
        _check(google_crc32c.value(value) == _CHECKSUM_RESIDUE, "log block")
        self._value = value
        (
            _,
            self.count,
            self.first_sequence_number,
            self.last_sequence_number,
            self.time_ms,
            records_before,
            bytes_before,
        ) = _BLOCK_HEAD.unpack_from(value)
        self.before = LogSize(records_before, bytes_before)
        # Where the payload begins and ends.
        self._start = _BLOCK_HEAD_BYTES + 2 * _NUMBER_BYTES * self.count
        self._end = len(value) - _CHECKSUM_BYTES

    @property
    def after(self) -> LogSize:
        """How much has been appended to the shard up to the end of this block."""
        return LogSize(self.before.records + self.count, self.before.payload_bytes + self.payload_bytes)

    def find(self, after: int) -> int:
        """The index of the first record beyond a sequence number; `count` if there is none."""
        if after < self.first_sequence_number:
            return 0
        return bisect_right(self._numbers(0), after - self.first_sequence_number)

    def sequence_number(self, index: int) -> int:
        """The sequence number of the record at an index."""
        return self.first_sequence_number + self._numbers(0)[index]

    def records(self, begin: int, end: int) -> list[tuple[int, bytes]]:
        """The records from index `begin` up to `end`, each with its sequence number."""
        starts = [self._start + offset for offset in self.offsets()] + [self._end]
        distances = self._numbers(0)
        return [
            (self.first_sequence_number + distances[index], self._value[starts[index] : starts[index + 1]])
            for index in range(begin, end)
        ]

    def slice(self, begin: int, end: int) -> memoryview:
        """The records from index `begin` up to `end`, as elements of `repeated Record records = 1`."""
        offsets = self.offsets() if begin > 0 or end < self.count else (0,)
        stop = self._end if end == self.count else self._start + offsets[end]
        return memoryview(self._value)[self._start + offsets[begin] : stop]

    def offsets(self) -> tuple[int, ...]:
        """Where each record begins in the payload."""
        return self._numbers(self.count)

    @property
    def payload_bytes(self) -> int:
        """The length of all records together."""
        return self._end - self._start

    def _numbers(self, skip: int) -> tuple[int, ...]:
        """One of the two lists between the head and the payload."""
        return struct.unpack_from(f"<{self.count}I", self._value, _BLOCK_HEAD_BYTES + _NUMBER_BYTES * skip)


def parked_prefix(parked_key: int) -> bytes:
    """What the keys of all parked records of a key begin with."""
    return parked_key.to_bytes(_PARKED_KEY_BYTES, "big")


def parked_record_key(parked_key: int, sequence_number: int) -> bytes:
    """The key of a parked record."""
    return parked_prefix(parked_key) + sequence_number.to_bytes(_SEQUENCE_NUMBER_BYTES, "big")


def parked_end(parked_key: int) -> bytes:
    """Just after the last possible key of a parked key's records."""
    return parked_prefix(parked_key + 1)


def parked_record_number(key: bytes) -> int:
    """The sequence number of the parked record under a key."""
    return int.from_bytes(key[_PARKED_KEY_BYTES:], "big")


def encode_parked_record(record: bytes) -> bytes:
    """The value of a parked record: format, the record, and the CRC-32C of both."""
    value = bytes((_FORMAT,)) + record
    checksum: int = google_crc32c.value(value)
    return value + checksum.to_bytes(_CHECKSUM_BYTES, "little")


def decode_parked_record(value: bytes) -> bytes:
    """Reads what `encode_parked_record` made. Raises CorruptionError."""
    _check(len(value) > _CHECKSUM_BYTES and value[0] == _FORMAT, "parked record")
    _check(google_crc32c.value(value) == _CHECKSUM_RESIDUE, "parked record")
    return value[1:-_CHECKSUM_BYTES]


def parked_record_bytes(value: bytes) -> int:
    """The length of the record in a value, which is not checked."""
    return len(value) - 1 - _CHECKSUM_BYTES


def _check(holds: bool, what: str) -> None:
    if not holds:
        raise CorruptionError(f"a stored {what} is not what was written")
