"""Pages of a log: whatever the blocks, limits and positions, together they are the log, once and in order."""

from __future__ import annotations

from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.model.errors import CorruptionError
from broker.model.tables import HASH_MAX, Shard, Stream, StreamSettings, StreamViewType
from broker.storage import layout
from broker.storage.rocks import Family, Store
from broker.storage.watermark import Watermarks
from broker.streams import tail
from broker.streams.shards import horizon, public_shard_id
from broker.streams.tail import LogReader, Page
from tests.unit.engine import ID, NOON_MS, FakeClock

Log = list[list[tuple[int, bytes]]]

_shard_numbers = count(1)


def new_shard(starting: int = 1, ending: int | None = None) -> Shard:
    number = next(_shard_numbers)
    return Shard(
        id=number,
        shard_id=public_shard_id(NOON_MS, number),
        first_hash=0,
        last_hash=HASH_MAX,
        starting_sequence_number=starting,
        ending_sequence_number=ending,
    )


class Shelf:
    """A store with logs, and the reader of it."""

    def __init__(self, store: Store) -> None:
        self.clock = FakeClock()
        self.watermarks = Watermarks()
        self.reader = LogReader(store, self.watermarks, self.clock)
        self._store = store
        self._sizes: dict[int, layout.LogSize] = {}

    def write(self, shard: Shard, *blocks: list[tuple[int, bytes]], time_ms: int = NOON_MS) -> None:
        """Writes blocks without raising the watermark."""
        for block in blocks:
            numbers, records = [number for number, _ in block], [record for _, record in block]
            size = self._sizes.get(shard.id, layout.EMPTY_LOG)
            value = layout.encode_block(numbers, records, time_ms, size)
            self._sizes[shard.id] = layout.Block(value).after
            self._store.write({Family.LOG: {layout.log_key(shard.id, numbers[-1]): value}})

    def raise_watermark(self, shard: Shard, number: int) -> None:
        self.watermarks.of(shard.id).advance(number)


@pytest.fixture
def shelf(store: Store) -> Shelf:
    return Shelf(store)


def content(page: Page) -> bytes:
    return b"".join(page.parts)


@st.composite
def logs(draw: st.DrawFn) -> Log:
    """Blocks of records with rising numbers; gaps are where other shards had theirs."""
    number = 0
    log: Log = []
    for _ in range(draw(st.integers(0, 6))):
        block = []
        for _ in range(draw(st.integers(1, 6))):
            number += draw(st.integers(1, 3))
            # Each record says its number, so that no two slices are alike.
            block.append((number, b"%d/" % number + b"x" * draw(st.integers(0, 12))))
        log.append(block)
    return log


def test_pages_are_the_log_once_and_in_order(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail, "WHOLE_BLOCK_BYTES", 24)

    @given(st.data(), logs())
    def check(data: st.DataObject, log: Log) -> None:
        shard = new_shard()
        shelf.write(shard, *log)
        # Not all that is written is durable; and what is may be followed by numbers of other shards.
        durable = log[: data.draw(st.integers(0, len(log)))]
        watermark = durable[-1][-1][0] if durable else 0
        if len(durable) == len(log):
            watermark += data.draw(st.integers(0, 3))
        shelf.raise_watermark(shard, watermark)
        position = data.draw(st.integers(0, watermark + 1))
        expected = [entry for block in durable for entry in block if entry[0] > position]

        seen = b""
        left = len(expected)
        for _ in range(len(expected) + 2):
            limit = data.draw(st.integers(1, 8))
            page = shelf.reader.read(shard, position, limit, bytes_max=40)
            assert page.count <= limit
            assert len(content(page)) <= 40 or page.count == 1
            assert page.count > 0 or left == 0
            assert page.last_sequence_number >= position
            assert not page.is_end
            seen, left, position = seen + content(page), left - page.count, page.last_sequence_number
            # The position is just after what was seen: neither a record before it is left nor one after it gone.
            assert [record for number, record in expected if number > position] == [
                record for _, record in expected[len(expected) - left :]
            ]
        assert left == 0
        assert seen == b"".join(record for _, record in expected)
        assert position >= watermark
        assert shelf.reader.read(shard, position, 1).count == 0

    check()


def test_a_reader_at_the_tip_finds_exactly_what_comes(shelf: Shelf) -> None:
    shard = new_shard()
    position, seen = 0, b""
    for number in range(1, 20):
        shelf.write(shard, [(number, b"%d/" % number)])
        assert shelf.reader.read(shard, position, 10).count == 0
        shelf.raise_watermark(shard, number)
        page = shelf.reader.read(shard, position, 10)
        seen, position = seen + content(page), page.last_sequence_number
        assert position == number
    assert seen == b"".join(b"%d/" % number for number in range(1, 20))


def test_a_position_moves_to_the_watermark_over_numbers_of_other_shards(shelf: Shelf) -> None:
    shard = new_shard()
    shelf.write(shard, [(3, b"a")])
    shelf.raise_watermark(shard, 9)
    page = shelf.reader.read(shard, 0, 10)
    assert (page.count, page.last_sequence_number) == (1, 9)
    page = shelf.reader.read(shard, 9, 10)
    assert (page.count, page.last_sequence_number) == (0, 9)


def test_one_record_larger_than_a_page_is_a_page(shelf: Shelf) -> None:
    shard = new_shard()
    large = b"x" * (tail.PAGE_BYTES_MAX + 1)
    shelf.write(shard, [(1, large), (2, b"small")], [(3, large), (4, large)])
    shelf.raise_watermark(shard, 4)
    position, counts = 0, []
    while position < 4:
        page = shelf.reader.read(shard, position, 1000)
        counts.append(page.count)
        position = page.last_sequence_number
    assert counts == [1, 1, 1, 1]


def test_small_blocks_share_a_page(shelf: Shelf) -> None:
    shard = new_shard()
    shelf.write(shard, *([(number, b"x" * 100)] for number in range(1, 2001)))
    shelf.raise_watermark(shard, 2000)
    first = shelf.reader.read(shard, 0, 1000)
    assert (first.count, first.last_sequence_number) == (1000, 1000)
    assert shelf.reader.read(shard, 1000, 1000).last_sequence_number == 2000
    assert (shelf.reader.records_total, shelf.reader.bytes_total) == (2000, 200_000)


def test_shards_are_apart(shelf: Shelf) -> None:
    one, other = new_shard(), new_shard()
    shelf.write(one, [(1, b"one")], [(3, b"three")])
    shelf.write(other, [(2, b"two")])
    for shard in (one, other):
        shelf.raise_watermark(shard, 3)
    assert content(shelf.reader.read(one, 0, 10)) == b"onethree"
    assert content(shelf.reader.read(other, 0, 10)) == b"two"


def test_a_closed_shard_ends_only_when_all_of_it_is_durable_and_read(shelf: Shelf) -> None:
    shard = new_shard(ending=5)
    shelf.write(shard, [(1, b"a"), (2, b"b")], [(4, b"c")])
    shelf.raise_watermark(shard, 2)
    # Its end is known, but its last records and the end itself are not durable yet.
    assert not shelf.reader.read(shard, 0, 10).is_end
    assert not shelf.reader.read(shard, 2, 10).is_end
    shelf.raise_watermark(shard, 5)
    page = shelf.reader.read(shard, 0, 2)
    assert (page.count, page.is_end) == (2, False)
    page = shelf.reader.read(shard, 2, 10)
    assert (page.count, page.is_end, page.last_sequence_number) == (1, True, 5)
    page = shelf.reader.read(shard, 5, 10)
    assert (page.count, page.is_end, page.last_sequence_number) == (0, True, 5)


def test_a_closed_shard_without_records_ends_at_once(shelf: Shelf) -> None:
    shard = new_shard(starting=4, ending=5)
    shelf.raise_watermark(shard, 5)
    page = shelf.reader.read(shard, horizon(shard), 10)
    assert (page.count, page.is_end, page.last_sequence_number) == (0, True, 5)


def test_an_open_shard_has_no_end(shelf: Shelf) -> None:
    shard = new_shard()
    shelf.write(shard, [(1, b"a")])
    shelf.raise_watermark(shard, 1)
    assert not shelf.reader.read(shard, 0, 10).is_end
    assert not shelf.reader.read(shard, 1, 10).is_end


def test_a_page_says_how_far_behind_its_last_record_is(shelf: Shelf) -> None:
    shard = new_shard()
    for number in (1, 2, 3):
        shelf.write(shard, [(number, b"a")], time_ms=NOON_MS + number * 1000)
    shelf.raise_watermark(shard, 3)
    shelf.clock.ms = NOON_MS + 10_000
    assert shelf.reader.read(shard, 0, 1).millis_behind_latest == 9000
    assert shelf.reader.read(shard, 0, 2).millis_behind_latest == 8000
    # At the tip there is nothing to be behind of.
    assert shelf.reader.read(shard, 0, 3).millis_behind_latest == 0
    assert shelf.reader.read(shard, 3, 3).millis_behind_latest == 0


def test_a_clock_that_went_back_makes_nobody_early(shelf: Shelf) -> None:
    shard = new_shard()
    shelf.write(shard, [(1, b"a")], [(2, b"b")])
    shelf.raise_watermark(shard, 2)
    shelf.clock.ms = NOON_MS - 5000
    assert shelf.reader.read(shard, 0, 1).millis_behind_latest == 0
    assert shelf.reader.lag(shard, 0) == (2, 0)


def test_the_age_is_that_of_the_first_record_after_a_position(shelf: Shelf) -> None:
    shard = new_shard()
    for number in (1, 2, 3):
        shelf.write(shard, [(number, b"a")], time_ms=NOON_MS + number * 1000)
    shelf.raise_watermark(shard, 2)
    shelf.clock.ms = NOON_MS + 10_000
    assert [shelf.reader.lag(shard, after) for after in (0, 1, 2)] == [(2, 9000), (1, 8000), (0, 0)]


def test_broken_blocks_are_not_read_over(shelf: Shelf, store: Store) -> None:
    shard = new_shard()
    shelf.write(shard, [(1, b"a")], [(2, b"b")])
    shelf.raise_watermark(shard, 2)
    key = layout.log_key(shard.id, 2)
    value = store.get(Family.LOG, key)
    assert value is not None
    store.write({Family.LOG: {key: value[:-1] + bytes([value[-1] ^ 1])}})
    with pytest.raises(CorruptionError):
        shelf.reader.read(shard, 0, 10)


def stream(*shards: Shard) -> Stream:
    return Stream(
        table_name="t",
        table_id=1,
        label="l",
        create_time_ms=0,
        view_type=StreamViewType.KEYS_ONLY,
        key_attributes=(ID,),
        settings=StreamSettings(),
        shards=shards,
    )


def test_after_a_restart_all_that_is_on_disk_is_readable(shelf: Shelf, store: Store) -> None:
    written, empty, closed, closed_empty = new_shard(), new_shard(9), new_shard(ending=7), new_shard(8, ending=9)
    shelf.write(written, [(1, b"a")], [(3, b"b"), (4, b"c")])
    shelf.write(closed, [(5, b"d")])
    again = Shelf(store)
    again.reader.recover(stream(written, empty, closed, closed_empty))
    shards = (written, empty, closed, closed_empty)
    assert [again.watermarks.of(shard.id).value for shard in shards] == [4, 0, 7, 9]
    assert [again.reader.tip(shard) for shard in shards] == [4, 8, 7, 9]
    assert content(again.reader.read(written, 0, 10)) == b"abc"
    assert again.reader.read(closed, 0, 10).is_end
