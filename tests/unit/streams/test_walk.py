"""Walking the shards of a stream: whatever is written, split, merged and restarted, every key's changes come once, in
order, and no shard before all of its parents.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.encoding.items import canonicalize
from broker.model.errors import ResourceNotFoundError, ValidationError
from broker.model.gaps import TrimmedDataAccessError
from broker.model.tables import OPEN_SHARDS_MAX, Shard, Stream
from broker.storage.rocks import Store
from broker.streams.iterators import Iterators, Position
from broker.streams.lanes import Lane, whole
from broker.streams.tail import PAGE_BYTES_MAX
from broker.streams.walk import OLDEST, Walk, begin
from broker.tables.operations import Put
from headrace.v1.stream_service_pb2 import GetRecordsResponse
from tests.unit.engine import NOON_MS, TIMEOUT_S, Engine, FakeClock, running
from tests.values import from_item, item

KEYS = [f"key-{number}" for number in range(12)]


def stream_of(engine: Engine) -> Stream:
    (stream,) = engine.catalog.streams.all()
    return stream


def tip_of(engine: Engine) -> int:
    return engine.log.tip_of_stream(stream_of(engine))


async def write(engine: Engine, *keys: str, value: int = 0) -> None:
    table = engine.catalog.open_table("pets")
    for key in keys:
        whole = item(id=key, value=value)
        async with asyncio.timeout(TIMEOUT_S):
            await engine.committer.commit(Put(table, table.keys.of_item(whole), canonicalize(whole), None))


class Reader:
    """Reads a stream as a subscriber does, and checks what it is given."""

    def __init__(self, position: Position) -> None:
        self.position = position
        self.values: dict[str, list[int]] = defaultdict(list)
        self.numbers: list[str] = []
        self._ended: set[str] = set()

    def read(self, engine: Engine, pages: int = 10_000, records_max: int = 1000) -> None:
        """Reads so many pages, or all there is."""
        walk = Walk(lambda: engine.catalog.streams.get(self.position.stream_name), self.position, engine.log)
        for _ in range(pages):
            step = walk.next(records_max, PAGE_BYTES_MAX)
            if step is None:
                break
            self._check_parents_ended(stream_of(engine), step.shard_id)
            for record in GetRecordsResponse.FromString(b"".join(step.page.parts)).records:
                image = from_item(record.new_image)
                self.values[str(image["id"][1])].append(int(str(image["value"][1])))
                self.numbers.append(record.sequence_number)
            if step.page.is_end:
                assert step.shard_id not in self._ended, "a shard ended twice"
                self._ended.add(step.shard_id)
        self.position = walk.position

    def _check_parents_ended(self, stream: Stream, shard_id: str) -> None:
        (shard,) = (shard for shard in stream.lineage if shard.shard_id == shard_id)
        for parent in (shard.parent_shard_id, shard.adjacent_parent_shard_id):
            assert not parent or parent in self._ended or stream.shard(parent) is None


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.lists(st.sampled_from(KEYS), min_size=1, max_size=5)),
        st.tuples(st.just("split"), st.integers(0, 100)),
        st.tuples(st.just("merge"), st.integers(0, 100)),
        st.tuples(st.just("roll"), st.sets(st.integers(0, 5), min_size=1)),
        st.tuples(st.just("read"), st.tuples(st.integers(1, 4), st.integers(1, 7))),
        st.tuples(st.just("restart"), st.none()),
    ),
    max_size=30,
)


@settings(max_examples=40)
@given(STEPS)
def test_every_change_comes_once_in_order_whatever_happens_to_the_shards(steps: list[tuple[str, object]]) -> None:
    written: dict[str, list[int]] = defaultdict(list)
    values = iter(range(10_000))

    async def do(engine: Engine, reader: Reader, kind: str, argument: object) -> None:
        shards = stream_of(engine).open_shards
        match kind, argument:
            case "write", list(keys):
                for key in keys:
                    value = next(values)
                    await write(engine, key, value=value)
                    written[key].append(value)
            case "split", int(place) if len(shards) < OPEN_SHARDS_MAX:
                await engine.catalog.split_shard(stream_of(engine), shards[place % len(shards)].shard_id, None)
            case "merge", int(place) if len(shards) > 1:
                place %= len(shards) - 1
                pair = shards[place].shard_id, shards[place + 1].shard_id
                await engine.catalog.merge_shards(stream_of(engine), *pair)
            case "roll", set(places):
                ids = {shards[place % len(shards)].shard_id for place in places}
                await engine.catalog.roll_shards(stream_of(engine), ids)
            case "read", (int(pages), int(records_max)):
                reader.read(engine, pages, records_max)

    async def run(folder: Path) -> None:
        clock = FakeClock()
        # A position survives being handed out and taken back.
        iterators = Iterators(b"s" * 32, clock)
        reader: Reader | None = None
        rest = list(steps)
        while True:
            store = Store(folder)
            async with running(store, clock) as engine:
                if reader is None:
                    await engine.table()
                    reader = Reader(begin(stream_of(engine), None, OLDEST, tip_of(engine)))
                while rest:
                    kind, argument = rest.pop(0)
                    if kind == "restart":
                        break
                    await do(engine, reader, kind, argument)
                    reader.position = iterators.check(iterators.mint(reader.position))
                else:
                    reader.read(engine)
                    whole = Reader(begin(stream_of(engine), None, OLDEST, tip_of(engine)))
                    whole.read(engine)
                    store_ends = True
                    assert reader.values == whole.values == written
                    assert len(set(reader.numbers)) == len(reader.numbers)
                    check_positions(engine, whole)
                    break
                store_ends = False
            store.close()
            assert not store_ends
        store.close()

    with TemporaryDirectory() as folder:
        asyncio.run(run(Path(folder)))


def check_positions(engine: Engine, whole: Reader) -> None:
    """From any number on, a walk gives exactly the records after it."""
    for after in range(0, tip_of(engine) + 1, 3):
        reader = Reader(begin(stream_of(engine), None, after, tip_of(engine)))
        reader._check_parents_ended = lambda *_: None  # type: ignore[method-assign] # It began behind some of them.
        reader.read(engine)
        assert sorted(reader.numbers) == sorted(number for number in whole.numbers if int(number) > after)


async def split(engine: Engine, place: int = 0) -> list[Shard]:
    stream = stream_of(engine)
    return await engine.catalog.split_shard(stream, stream.open_shards[place].shard_id, None)


async def test_shards_with_records_take_turns(engine: Engine) -> None:
    await engine.table()
    await split(engine)
    for value in range(5):
        await write(engine, *KEYS, value=value)
    walk = Walk(lambda: stream_of(engine), begin(stream_of(engine), None, OLDEST, tip_of(engine)), engine.log)
    # The closed shard ends first: it has no records.
    first = walk.next(1, PAGE_BYTES_MAX)
    assert first is not None
    assert first.page.is_end
    steps = [walk.next(1, PAGE_BYTES_MAX) for _ in range(8)]
    served = [step.shard_id for step in steps if step is not None]
    assert served[0:2] * 4 == served
    assert len(set(served)) == 2


async def test_a_merged_shard_waits_for_the_slower_of_its_parents(engine: Engine) -> None:
    await engine.table()
    left, right = await split(engine)
    table = engine.catalog.open_table("pets")
    slow = [key for key in KEYS if table.keys.of_key(item(id=key)).hash > left.last_hash]
    for value in range(3):
        await write(engine, *slow, value=value)
    merged = await engine.catalog.merge_shards(stream_of(engine), left.shard_id, right.shard_id)
    await write(engine, *KEYS, value=3)
    walk = Walk(lambda: stream_of(engine), begin(stream_of(engine), None, OLDEST, tip_of(engine)), engine.log)
    order: list[str] = []
    while (step := walk.next(1, PAGE_BYTES_MAX)) is not None:
        order.append(step.shard_id)
    # The left parent has no records and ends at once.
    assert order.count(left.shard_id) == 1
    assert order.count(right.shard_id) >= 3 * len(slow)
    assert order.index(merged.shard_id) > max(place for place, id_ in enumerate(order) if id_ == right.shard_id)


async def test_a_disabled_stream_ends_a_walk(engine: Engine) -> None:
    await engine.table()
    await write(engine, "a")
    await split(engine)
    await write(engine, *KEYS)
    await engine.set_stream("pets", None)
    walk = Walk(lambda: stream_of(engine), begin(stream_of(engine), None, OLDEST, tip_of(engine)), engine.log)
    records = 0
    while not walk.is_finished:
        step = walk.next(1000, PAGE_BYTES_MAX)
        assert step is not None
        records += step.page.count
    assert records == 13
    assert walk.next(1000, PAGE_BYTES_MAX) is None


async def test_a_walk_of_one_shard_ends_with_it(engine: Engine) -> None:
    table = await engine.table()
    assert table.stream is not None
    await write(engine, "a")
    shard = table.stream.shards[0]
    position = begin(stream_of(engine), whole(shard), OLDEST, engine.log.tip(shard))
    children = await split(engine)
    await write(engine, *KEYS)
    walk = Walk(lambda: stream_of(engine), position, engine.log)
    step = walk.next(1000, PAGE_BYTES_MAX)
    assert step is not None
    assert (step.page.count, step.page.is_end, step.child_ids) == (
        1,
        True,
        [child.shard_id for child in children],
    )
    assert walk.is_finished


async def trim_to(engine: Engine, shard: Shard, number: int) -> None:
    """Trims by bytes of time: all blocks up to a number are as old as the clock says."""
    stream = stream_of(engine)
    block_trim = engine.log.trim_by_time(shard, NOON_MS + 1)
    assert block_trim is not None
    assert block_trim.last_sequence_number == number
    await engine.catalog.trim(stream, [block_trim], ())


async def test_a_reader_that_lost_records_is_told_which(engine: Engine, clock: FakeClock) -> None:
    table = await engine.table()
    assert table.stream is not None
    shard = table.stream.shards[0]
    await write(engine, "a", "b", "c")
    walk = Walk(lambda: stream_of(engine), begin(stream_of(engine), None, OLDEST, tip_of(engine)), engine.log)
    first = walk.next(1, PAGE_BYTES_MAX)
    assert first is not None
    clock.ms += 60_000
    await write(engine, "d")
    await trim_to(engine, shard, 4)
    with pytest.raises(TrimmedDataAccessError) as lost:
        walk.next(1, PAGE_BYTES_MAX)
    gap = lost.value.gap
    assert (gap.shard_id, gap.first_lost, gap.last_lost) == (shard.shard_id, 3, 4)
    assert (gap.lost_from_ms, gap.lost_to_ms) == (NOON_MS, NOON_MS)
    assert lost.value.metadata["earliest_sequence_number"] == f"{5:021d}"
    # From the horizon on all is held.
    reader = Reader(begin(stream_of(engine), None, OLDEST, tip_of(engine)))
    reader.read(engine)
    assert list(reader.values) == ["d"]
    for position in (3, 2):
        with pytest.raises(TrimmedDataAccessError):
            begin(stream_of(engine), None, position, tip_of(engine))
        with pytest.raises(TrimmedDataAccessError):
            begin(stream_of(engine), whole(stream_of(engine).shards[0]), position, tip_of(engine))
    assert begin(stream_of(engine), None, 4, tip_of(engine)).places[0].after == 4


async def test_a_walk_passes_a_shard_that_vanished_behind_it(engine: Engine, clock: FakeClock) -> None:
    table = await engine.table()
    assert table.stream is not None
    await write(engine, "a")
    walk = Walk(lambda: stream_of(engine), begin(stream_of(engine), None, OLDEST, tip_of(engine)), engine.log)
    assert walk.next(10, PAGE_BYTES_MAX) is not None
    at_the_end = await split(engine)
    # It has seen everything of the parent, but not that it has ended.
    parent = stream_of(engine).shards[0]
    assert parent.ending_sequence_number is not None
    walk = at(walk, parent.ending_sequence_number, engine)
    clock.ms += 1000
    await write(engine, *KEYS)
    trim = engine.log.trim_by_time(parent, clock.ms)
    assert trim is not None
    assert [shard.id for shard in await engine.catalog.trim(stream_of(engine), [trim], {parent.id})] == [parent.id]
    reader = Reader(walk.position)
    reader.read(engine)
    assert len(reader.numbers) == 12
    assert set(Walk(lambda: stream_of(engine), reader.position, engine.log).shards) == {c.id for c in at_the_end}


def at(walk: Walk, number: int, engine: Engine) -> Walk:
    """The walk with its only place moved."""
    (place,) = walk.position.places
    moved = Position(
        stream_name=walk.position.stream_name, places=(place._replace(after=number),), is_whole_stream=True
    )
    return Walk(lambda: stream_of(engine), moved, engine.log)


async def test_a_walk_does_not_pass_a_shard_that_vanished_before_it_was_read(engine: Engine, clock: FakeClock) -> None:
    table = await engine.table()
    assert table.stream is not None
    start = begin(stream_of(engine), None, OLDEST, tip_of(engine))
    await write(engine, "a", "b")
    await split(engine)
    parent = stream_of(engine).shards[0]
    clock.ms += 1000
    trim = engine.log.trim_by_time(parent, clock.ms)
    assert trim is not None
    await engine.catalog.trim(stream_of(engine), [trim], {parent.id})
    walk = Walk(lambda: stream_of(engine), start, engine.log)
    with pytest.raises(TrimmedDataAccessError) as lost:
        walk.next(10, PAGE_BYTES_MAX)
    assert (lost.value.gap.shard_id, lost.value.gap.last_lost) == (parent.shard_id, trim.last_sequence_number)
    with pytest.raises(TrimmedDataAccessError):
        begin(stream_of(engine), None, 1, tip_of(engine))


async def test_a_walk_of_a_stream_that_is_gone_says_so(engine: Engine) -> None:
    await engine.table()
    walk = Walk(lambda: None, begin(stream_of(engine), None, OLDEST, 0), engine.log)
    with pytest.raises(ResourceNotFoundError):
        walk.next(10, PAGE_BYTES_MAX)


@pytest.mark.parametrize("of_shard", [lambda stream: whole(stream.shards[0]), lambda _: None])
async def test_a_number_beyond_the_tip_is_refused(engine: Engine, of_shard: Callable[[Stream], Lane | None]) -> None:
    await engine.table()
    await write(engine, "a")
    tip = tip_of(engine)
    stream = stream_of(engine)
    assert begin(stream, of_shard(stream), tip, tip).places[0].after == tip
    with pytest.raises(ValidationError) as refused:
        begin(stream, of_shard(stream), tip + 1, tip)
    assert refused.value.metadata["field"] == "sequence_number"


async def test_a_time_is_a_place_in_the_whole_stream(engine: Engine, clock: FakeClock) -> None:
    await engine.table()
    times = {}
    for step in range(40):
        if step % 9 == 5:
            await split(engine, step % len(stream_of(engine).open_shards))
        await write(engine, KEYS[step % len(KEYS)], value=step)
        times[step] = clock.ms
        clock.ms += 1000 * (step % 3)
    for moment in range(NOON_MS - 500, clock.ms + 1000, 500):
        after = engine.log.position_at_time(stream_of(engine), moment)
        reader = Reader(begin(stream_of(engine), None, after, tip_of(engine)))
        reader._check_parents_ended = lambda *_: None  # type: ignore[method-assign] # It began behind some of them.
        reader.read(engine)
        seen = sorted(value for values in reader.values.values() for value in values)
        assert seen == [step for step, time_ms in times.items() if time_ms >= moment]


# Source: DynamoDB Streams API Reference, GetShardIterator: a reader that keeps checkpoints begins with the number that
# DescribeStream tells, also while there is no record.
async def test_a_position_after_the_number_at_which_an_empty_shard_begins_misses_nothing(engine: Engine) -> None:
    await engine.table()
    await split(engine)
    for shard in stream_of(engine).shards[1:]:
        start, tip = shard.starting_sequence_number, engine.log.tip(shard)
        position = begin(stream_of(engine), whole(shard), start, tip)
        with pytest.raises(ValidationError):
            begin(stream_of(engine), whole(shard), start + 1, tip)
        with pytest.raises(ValidationError):
            begin(stream_of(engine), whole(shard), start - 2, tip)
        reader = Reader(position)
        reader._check_parents_ended = lambda *_: None  # type: ignore[method-assign] # It begins behind them.
        written = sum(len(values) for values in reader.values.values())
        keys = engine.catalog.open_table("pets").keys
        mine = [key for key in KEYS if shard.first_hash <= keys.of_key(item(id=key)).hash <= shard.last_hash]
        await write(engine, *mine)
        reader.read(engine)
        assert written == 0
        assert sorted(reader.values) == sorted(mine)


async def test_no_record_has_the_number_at_which_a_shard_begins(engine: Engine) -> None:
    await engine.table()
    await split(engine)
    await write(engine, *KEYS, value=1)
    await engine.catalog.roll_shards(stream_of(engine), [shard.shard_id for shard in stream_of(engine).open_shards])
    await write(engine, *KEYS, value=2)
    await engine.catalog.merge_shards(stream_of(engine), *(shard.shard_id for shard in stream_of(engine).open_shards))
    await write(engine, *KEYS, value=3)
    reader = Reader(begin(stream_of(engine), None, OLDEST, tip_of(engine)))
    reader.read(engine)
    begins = {shard.starting_sequence_number for shard in stream_of(engine).shards}
    assert len(reader.numbers) == 3 * len(KEYS)
    assert begins.isdisjoint(map(int, reader.numbers))
