"""Bytes on disk: they never change by accident, and bytes that are not what was written are never believed.

`pytest tests/unit --rewrite` writes tests/golden/layout.txt anew. Read the difference in review: stores hold old bytes.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.encoding.items import EncodedItem, canonicalize
from broker.encoding.keys import IndexKeyCodec, KeyCodec
from broker.encoding.records import encode_record, encode_time
from broker.model.clock import Version
from broker.model.errors import CorruptionError
from broker.model.tables import Index, KeyAttribute, KeyAttributeType, ProjectionType, StreamViewType, Table
from broker.storage import layout
from tests.unit.engine import AT, ID, NOON_MS
from tests.values import item

GOLDEN: Final = Path(__file__).parents[2] / "golden" / "layout.txt"
VERSION: Final = Version(NOON_MS << 16 | 1, "eu-north-1")
WHOLE: Final = canonicalize(
    item(id="a\x00b", at=-12, n=10**20, b=b"\x00\xff", yes=True, no=None, ss={"x", "y"}, l=[1, "z"], m={"k": []})
)
STAGE: Final = KeyAttribute(name="stage", type=KeyAttributeType.STRING)
U64 = st.integers(0, 2**64 - 1)


def _codec(partition_key: KeyAttribute = ID) -> KeyCodec:
    return KeyCodec(Table(name="t", id=258, uuid="u", create_time_ms=0, partition_key=partition_key, sort_key=AT))


def _entry(partition_keys: tuple[KeyAttribute, ...], sort_keys: tuple[KeyAttribute, ...] = ()) -> bytes:
    index = Index(
        name="i",
        id=258,
        is_global=True,
        partition_keys=partition_keys,
        sort_keys=sort_keys,
        projection_type=ProjectionType.ALL,
    )
    key = IndexKeyCodec(index).entry(item(stage="a\x00b", at=-12).attributes)
    assert key is not None
    return key


def _block() -> bytes:
    key = _codec().of_key(item(id="a", at=1))
    changes = [(None, WHOLE), (WHOLE, canonicalize(item(id="a", at=1))), (WHOLE, None)]
    numbers = [1000, 1001, 1007]
    records = [
        encode_record(
            sequence_number=number,
            time_field=encode_time(NOON_MS),
            view_type=StreamViewType.NEW_AND_OLD_IMAGES,
            key=key,
            old=old,
            new=new,
            version=VERSION,
        )
        for number, (old, new) in zip(numbers, changes, strict=True)
    ]
    return layout.encode_block(numbers, records, NOON_MS, layout.LogSize(40, 5000))


EXAMPLES: Final[dict[str, Callable[[], bytes]]] = {
    "counters key": lambda: layout.COUNTERS_KEY,
    "token key": lambda: layout.token_key(2_833_333, "payment-17"),
    "token": lambda: layout.encode_token(NOON_MS, bytes(range(16))),
    "token count key": lambda: layout.token_count_key(2_833_333),
    "token count": lambda: layout.encode_token_count(5),
    "counters": lambda: layout.encode_counters(layout.Counters(7, VERSION.hybrid_time, 3, NOON_MS)),
    "durable note": lambda: layout.encode_note(
        layout.Note(21, layout.Counters(7, VERSION.hybrid_time, 3, NOON_MS), NOON_MS + 1, 5, 900)
    ),
    "item key, text and number": lambda: _codec().of_key(item(id="a\x00b", at=-12)).stored,
    "item key, number": lambda: (
        _codec(KeyAttribute(name="n", type=KeyAttributeType.NUMBER)).of_key(item(n=1000, at=0)).stored
    ),
    # Without the place of the item, which follows.
    "entry key, text and number": lambda: _entry((STAGE,), (AT,)),
    "entry key, number": lambda: _entry((AT,)),
    "entry key, several attributes": lambda: _entry((STAGE, AT), (AT, STAGE)),
    "item": lambda: layout.encode_item(WHOLE, VERSION),
    "tombstone": lambda: layout.encode_tombstone(VERSION),
    "log key": lambda: layout.log_key(258, 1007),
    "log block": _block,
    "parked record key": lambda: layout.parked_record_key(258, 1007),
    "parked record": lambda: layout.encode_parked_record(b"\x0a\x01x"),
}


def _golden() -> dict[str, str]:
    lines = GOLDEN.read_text().splitlines()
    return dict(line.split(": ", 1) for line in lines if line and not line.startswith("#"))


def test_the_bytes_on_disk_stay_as_they_are(request: pytest.FixtureRequest) -> None:
    made = {name: make().hex() for name, make in EXAMPLES.items()}
    if request.config.getoption("--rewrite", default=False):
        text = "".join(f"{name}: {content}\n" for name, content in made.items())
        GOLDEN.write_text(f"# The bytes of tests/unit/storage/test_layout.py; written by its --rewrite.\n{text}")
    assert made == _golden()


def test_bytes_of_the_first_version_are_still_read() -> None:
    golden = {name: bytes.fromhex(content) for name, content in _golden().items()}
    assert layout.decode_counters(golden["counters"]) == (7, VERSION.hybrid_time, 3, NOON_MS)
    note = (21, (7, VERSION.hybrid_time, 3, NOON_MS), NOON_MS + 1, 5, 900)
    assert layout.decode_note(golden["durable note"]) == note
    assert layout.decode_item(golden["item"]) == (WHOLE, VERSION)
    assert layout.decode_tombstone(golden["tombstone"]) == VERSION
    assert layout.parked_record_number(golden["parked record key"]) == 1007
    assert layout.decode_parked_record(golden["parked record"]) == b"\x0a\x01x"
    assert layout.parked_record_bytes(golden["parked record"]) == 3
    block = layout.Block(golden["log block"])
    assert [block.sequence_number(index) for index in range(block.count)] == [1000, 1001, 1007]
    assert block.time_ms == NOON_MS
    assert block.before == (40, 5000)
    assert block.after == (43, 5000 + block.payload_bytes)


@given(U64, U64, U64, U64)
def test_counters_read_back(sequence_number: int, hybrid_time: int, last_id: int, time_ms: int) -> None:
    counters = layout.Counters(sequence_number, hybrid_time, last_id, time_ms)
    assert layout.decode_counters(layout.encode_counters(counters)) == counters


def test_a_new_store_counts_from_zero() -> None:
    assert layout.decode_counters(None) == (0, 0, 0, 0)


@given(st.binary(max_size=50), st.integers(0, 2**32 - 1), U64, st.text(max_size=63))
def test_items_read_back(content: bytes, size: int, hybrid_time: int, region: str) -> None:
    stored = layout.StoredItem(EncodedItem(content, size), Version(hybrid_time, region))
    assert layout.decode_item(layout.encode_item(*stored)) == stored
    assert layout.decode_tombstone(layout.encode_tombstone(stored.version)) == stored.version


@pytest.mark.parametrize("decode", [layout.decode_counters, layout.decode_item, layout.decode_tombstone, layout.Block])
def test_another_format_is_not_believed(decode: Callable[[bytes], object]) -> None:
    golden = {name: bytes.fromhex(content) for name, content in _golden().items()}
    name = {"decode_counters": "counters", "decode_item": "item", "decode_tombstone": "tombstone", "Block": "log block"}
    value = golden[name[decode.__name__]]
    decode(value)
    for other in (b"\x00", b"\x03", b"\xff"):
        with pytest.raises(CorruptionError):
            decode(other + value[1:])


def test_cut_heads_are_not_believed() -> None:
    counters = layout.encode_counters(layout.Counters(1, 2, 3, 4))
    for value in [counters[:length] for length in range(len(counters))] + [counters + b"\x00"]:
        with pytest.raises(CorruptionError):
            layout.decode_counters(value)
    tombstone = layout.encode_tombstone(VERSION)
    for length in range(len(tombstone)):
        with pytest.raises(CorruptionError):
            layout.decode_item(tombstone[:length])


def test_no_flipped_bit_of_a_block_is_believed() -> None:
    block = _block()
    layout.Block(block)
    for position in range(len(block)):
        for bit in range(8):
            broken = bytearray(block)
            broken[position] ^= 1 << bit
            with pytest.raises(CorruptionError):
                layout.Block(bytes(broken))


def test_no_flipped_bit_of_a_parked_record_is_believed() -> None:
    value = layout.encode_parked_record(b"\x0a\x01x")
    for bit in range(8 * len(value)):
        wrong = bytearray(value)
        wrong[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CorruptionError):
            layout.decode_parked_record(bytes(wrong))


def test_no_cut_or_longer_block_is_believed() -> None:
    block = _block()
    for broken in [block[:length] for length in range(len(block))] + [block[1:], block + b"\x00", block + block]:
        with pytest.raises(CorruptionError):
            layout.Block(broken)


@given(st.data())
def test_no_exchanged_byte_of_a_block_is_believed(data: st.DataObject) -> None:
    block = bytearray(layout.encode_block([5, 6], [b"first", b"second"], NOON_MS))
    position, byte = data.draw(st.integers(0, len(block) - 1)), data.draw(st.integers(0, 255))
    before, block[position] = block[position], byte
    if byte == before:
        layout.Block(bytes(block))
    else:
        with pytest.raises(CorruptionError):
            layout.Block(bytes(block))


@st.composite
def logs(draw: st.DrawFn) -> list[tuple[int, bytes]]:
    """Numbered records as a group commit makes them: rising numbers with gaps, records of any length."""
    first = draw(st.integers(1, 2**63))
    gaps = draw(st.lists(st.integers(1, 5), min_size=0, max_size=12))
    numbers = [first]
    for gap in gaps:
        numbers.append(numbers[-1] + gap)
    return [(number, draw(st.binary(max_size=6))) for number in numbers]


@given(logs(), st.integers(0, 2**48))
def test_a_block_says_what_it_holds(log: list[tuple[int, bytes]], now_ms: int) -> None:
    numbers, records = [number for number, _ in log], [record for _, record in log]
    block = layout.Block(layout.encode_block(numbers, records, now_ms))
    assert block.count == len(log)
    assert (block.first_sequence_number, block.last_sequence_number) == (numbers[0], numbers[-1])
    assert block.time_ms == now_ms
    assert block.payload_bytes == len(b"".join(records))
    assert [block.sequence_number(index) for index in range(block.count)] == numbers


@given(logs())
def test_a_block_finds_the_first_record_after_any_number(log: list[tuple[int, bytes]]) -> None:
    numbers = [number for number, _ in log]
    block = layout.Block(layout.encode_block(numbers, [record for _, record in log], NOON_MS))
    for after in {0, *(number + step for number in numbers for step in (-1, 0, 1))}:
        assert block.find(after) == bisect_right(numbers, after)


@given(logs())
def test_a_block_slices_like_a_list(log: list[tuple[int, bytes]]) -> None:
    records = [record for _, record in log]
    block = layout.Block(layout.encode_block([number for number, _ in log], records, NOON_MS))
    for begin in range(block.count):
        for end in range(begin, block.count + 1):
            assert bytes(block.slice(begin, end)) == b"".join(records[begin:end])


@given(U64, U64, U64, U64)
def test_log_keys_are_ordered_by_shard_then_number(shard: int, number: int, other_shard: int, other: int) -> None:
    one, two = layout.log_key(shard, number), layout.log_key(other_shard, other)
    assert (one < two) == ((shard, number) < (other_shard, other))
    assert layout.log_key_sequence_number(one) == number
    assert one.startswith(layout.log_prefix(shard))
    if shard < 2**64 - 1:
        assert one < layout.log_end(shard)
