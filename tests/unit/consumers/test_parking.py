"""Parked keys: order, bounds, and what is left after a restart, against a simple model."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from broker.consumers import parking
from broker.consumers.parking import Diverted, ParkedKey, Parking
from broker.encoding.items import EncodedItem
from broker.encoding.keys import ItemKey
from broker.encoding.records import encode_record, encode_time
from broker.model.clock import Version
from broker.model.errors import LeaseFencedError, ResourceNotFoundError, ValidationError
from broker.model.tables import StreamViewType
from broker.storage.rocks import Store
from tests.unit.engine import NOON_MS, Engine, FakeClock, running

GROUP = "totals"
T = TypeVar("T")


def record(key: str, number: int, size: int = 0) -> bytes:
    return encode_record(
        sequence_number=number,
        time_field=encode_time(NOON_MS),
        view_type=StreamViewType.NEW_IMAGE,
        key=ItemKey(b"", lambda: EncodedItem(key.encode(), 1)),
        old=None,
        new=EncodedItem(b"x" * size, size),
        version=Version(1, "north"),
    )


def key_of(key: str, number: int, group_name: str = GROUP) -> ParkedKey:
    return ParkedKey(
        id=0,
        group_name=group_name,
        key=key.encode(),
        key_hash=ord(key[0]),
        shard_id="shard",
        sequence_number=number,
        attempts=1,
        last_error="boom",
        park_time_ms=0,
    )


class Lots:
    """Parking on an engine, one operation per group commit."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.parking = Parking(engine.store)

    async def park(self, key: str, number: int, size: int = 0, group_name: str = GROUP) -> bool:
        parked = key_of(key, number, group_name)
        return bool(await self.engine.do(lambda g: self.parking.plan_park(g, parked, record(key, number, size))))

    async def divert(self, *records: tuple[str, int]) -> Diverted:
        given_records = [(number, record(key, number)) for key, number in records]
        diverted: Diverted = await self.engine.do(lambda g: self.parking.plan_divert(g, GROUP, given_records))
        return diverted

    async def redrive(self, parked_id: str = "") -> int:
        return int(await self.engine.do(lambda g: self.parking.plan_redrive(g, GROUP, parked_id)))

    async def lease(self, parked_id: str) -> int:
        return int(await self.engine.do(lambda g: self.parking.plan_lease(g, GROUP, parked_id)))

    async def ack(self, parked_id: str, epoch: int, number: int) -> bool:
        return bool(await self.engine.do(lambda g: self.parking.plan_acknowledge(g, GROUP, parked_id, epoch, number)))

    async def fail(self, parked_id: str, epoch: int, number: int, error: str | None = "again") -> ParkedKey:
        failed: ParkedKey = await self.engine.do(
            lambda g: self.parking.plan_fail(g, GROUP, parked_id, epoch, number, error=error)
        )
        return failed

    async def discard(self, parked_id: str) -> int:
        return int(await self.engine.do(lambda g: self.parking.plan_discard(g, GROUP, parked_id)))

    def key(self, key: str) -> ParkedKey:
        (found,) = [parked for parked in self.parking.keys(GROUP) if parked.key == key.encode()]
        return found

    def numbers(self, key: str) -> list[int]:
        read = self.parking.read(self.key(key), 0, 1_000, 10**9)
        assert [bytes_ for _, bytes_ in read] == [record(key, number) for number, _ in read]
        return [number for number, _ in read]


@pytest.fixture
def lots(engine: Engine) -> Lots:
    return Lots(engine)


async def test_a_parked_key_keeps_the_record_that_failed_and_all_that_follow(lots: Lots) -> None:
    assert not lots.parking.reaches(GROUP, 0, 2**64 - 1)
    assert await lots.park("a", 10)
    diverted = await lots.divert(("a", 11), ("b", 12), ("a", 13))
    assert diverted == Diverted(kept=[(12, record("b", 12))], blocked_at=None)
    assert lots.numbers("a") == [10, 11, 13]
    parked = lots.key("a")
    assert parked.parked_id == f"parkedId-{NOON_MS:020d}-{parked.id:08x}"
    assert lots.parking.usage(parked) == (3, sum(len(record("a", number)) for number in (10, 11, 13)))
    assert lots.parking.last_number(GROUP, parked.parked_id) == 13
    assert lots.parking.reaches(GROUP, ord("a"), ord("a"))
    assert not lots.parking.reaches(GROUP, ord("b"), ord("z"))
    assert not lots.parking.reaches("other", 0, 2**64 - 1)
    assert lots.parking.concerns(GROUP, [(14, record("b", 14)), (15, record("a", 15))])
    assert not lots.parking.concerns(GROUP, [(14, record("b", 14))])
    assert not lots.parking.concerns("other", [(15, record("a", 15))])


# A batch is read again when its member crashed before the acknowledgement.
async def test_what_was_set_aside_before_is_not_set_aside_twice(lots: Lots) -> None:
    await lots.park("a", 10)
    for _ in range(2):
        assert (await lots.divert(("a", 11), ("a", 12))).kept == []
    assert lots.numbers("a") == [10, 11, 12]
    await lots.redrive()
    epoch = await lots.lease(lots.key("a").parked_id)
    await lots.ack(lots.key("a").parked_id, epoch, 11)
    # Also if it was processed in the meantime.
    assert (await lots.divert(("a", 11), ("a", 12))).kept == []
    assert lots.numbers("a") == [12]
    # A key that fails twice at one record is parked once.
    assert await lots.park("a", 12)
    assert lots.numbers("a") == [12]


async def test_groups_do_not_share_what_they_have_parked(lots: Lots) -> None:
    await lots.park("a", 10)
    await lots.park("a", 20, group_name="other")
    assert lots.numbers("a") == [10]
    await lots.engine.do(lambda g: lots.parking.plan_forget(g, GROUP))
    assert lots.parking.keys(GROUP) == []
    assert [key.sequence_number for key in lots.parking.keys("other")] == [20]


async def test_reading_is_bounded_and_goes_on(lots: Lots) -> None:
    await lots.park("a", 10)
    await lots.divert(("a", 11), ("a", 12))
    size = len(record("a", 11))
    for records_max, bytes_max, count in ((2, 10**9, 2), (10, 2 * size, 2), (10, 1, 1)):
        read = lots.parking.read(lots.key("a"), 10, records_max, bytes_max)
        assert [number for number, _ in read] == [11, 12][:count]
    assert lots.parking.read(lots.key("a"), 12, 10, 10**9) == []


async def test_the_last_acknowledgement_ends_the_parking(lots: Lots) -> None:
    await lots.park("a", 10)
    await lots.divert(("a", 11))
    parked_id = lots.key("a").parked_id
    with pytest.raises(LeaseFencedError):
        await lots.lease(parked_id)
    assert (await lots.redrive(parked_id), await lots.redrive()) == (1, 0)
    epoch = await lots.lease(parked_id)
    for wrong in (epoch - 1, epoch + 1):
        with pytest.raises(LeaseFencedError):
            await lots.ack(parked_id, wrong, 11)
    assert not await lots.ack(parked_id, epoch, 10)
    # In one group commit with the last acknowledgement nothing slips in between.
    later = [(12, record("a", 12))]

    def both(group: Any) -> tuple[bool, Diverted]:
        emptied = lots.parking.plan_acknowledge(group, GROUP, parked_id, epoch, 11)
        return emptied, lots.parking.plan_divert(group, GROUP, later)

    assert await lots.engine.do(both) == (True, Diverted(kept=later, blocked_at=None))
    assert lots.parking.keys(GROUP) == []
    with pytest.raises(LeaseFencedError):
        await lots.ack(parked_id, epoch, 11)


async def test_a_failure_ends_the_redrive_and_keeps_what_is_not_processed(lots: Lots) -> None:
    await lots.park("a", 10)
    await lots.divert(("a", 11), ("a", 12))
    parked_id = lots.key("a").parked_id
    await lots.redrive()
    epoch = await lots.lease(parked_id)
    for number in (9, 13):
        with pytest.raises(ValidationError):
            await lots.fail(parked_id, epoch, number)
    moved = await lots.fail(parked_id, epoch, 11, None)
    assert (moved.is_redriving, moved.attempts) == (True, 1)
    assert moved.epoch > epoch
    assert lots.numbers("a") == [11, 12]
    failed = await lots.fail(parked_id, moved.epoch, 12)
    assert (failed.is_redriving, failed.attempts, failed.last_error) == (False, 2, "again")
    assert (failed.sequence_number, lots.numbers("a")) == (12, [12])


async def test_what_is_not_parked_is_named(lots: Lots) -> None:
    for change in (lots.redrive("parkedId-none"), lots.discard("parkedId-none")):
        with pytest.raises(ResourceNotFoundError, match="parkedId-none") as missing:
            await change
        assert missing.value.metadata == {"group_name": GROUP, "parked_id": "parkedId-none"}
    await lots.park("a", 10)
    assert await lots.discard(lots.key("a").parked_id) == 1
    assert lots.parking.records(GROUP) == 0


async def test_what_may_be_parked_is_bounded(lots: Lots, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parking, "PARKED_KEYS_MAX", 2)
    monkeypatch.setattr(parking, "PARKED_RECORDS_MAX", 4)
    monkeypatch.setattr(parking, "PARKED_BYTES_MAX", 1_000)
    # 1. Keys.
    assert lots.parking.has_room(GROUP)
    assert await lots.park("a", 10)
    assert await lots.park("b", 11)
    assert not lots.parking.has_room(GROUP)
    assert not await lots.park("c", 12)
    # 2. Bytes: of a known key too.
    assert not await lots.park("a", 13, 1_000)
    # 3. Records.
    diverted = await lots.divert(("c", 14), ("a", 15), ("b", 16), ("c", 17), ("a", 18), ("c", 19))
    assert ([number for number, _ in diverted.kept], diverted.blocked_at) == ([14, 17], 18)
    assert lots.parking.records(GROUP) == 4
    # 4. What goes makes room.
    await lots.discard(lots.key("b").parked_id)
    assert (await lots.divert(("a", 18))).blocked_at is None
    assert lots.parking.has_room(GROUP)


async def test_parked_keys_are_there_after_a_restart(tmp_path: Path) -> None:
    store = Store(tmp_path)
    async with running(store, FakeClock()) as engine:
        lots = Lots(engine)
        await lots.park("b", 10)
        await lots.park("a", 11)
        await lots.divert(("b", 12), ("a", 13))
        await lots.redrive(lots.key("b").parked_id)
        kept = lots.parking.keys(GROUP)
        assert [key.key for key in kept] == [b"b", b"a"]
    store.close()
    del store, engine, lots
    again = Store(tmp_path)
    async with running(again, FakeClock()) as engine:
        lots = Lots(engine)
        assert lots.parking.keys(GROUP) == kept
        assert (lots.numbers("a"), lots.numbers("b")) == ([11, 13], [10, 12])
        assert lots.parking.records(GROUP) == 4
        assert lots.parking.last_number(GROUP, kept[0].parked_id) == 12
        assert (await lots.divert(("a", 13), ("a", 14))).kept == []
    again.close()


@dataclass(slots=True)
class ModelKey:
    """A parked key as the simplest thing that could be right."""

    waiting: list[int]
    is_redriving: bool = False
    epoch: int = 0


class Parked(RuleBasedStateMachine):
    """What a consumer sees of each key: every record in order, either delivered or waiting, never both."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.loop = asyncio.new_event_loop()
        self.store = Store(Path(self.folder.name))
        self.running = running(self.store, FakeClock())
        self.lots = Lots(self.run(self.running.__aenter__()))
        self.number = 0
        self.keys: dict[str, ModelKey] = {}
        self.written: dict[str, list[int]] = {key: [] for key in "abc"}
        self.delivered: dict[str, list[int]] = {key: [] for key in "abc"}

    def run(self, doing: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(doing)

    def teardown(self) -> None:
        self.run(self.running.__aexit__(None, None, None))
        self.store.close()
        self.loop.close()
        self.folder.cleanup()

    def record(self, key: str) -> tuple[str, int]:
        self.number += 1
        self.written[key].append(self.number)
        return key, self.number

    @rule(keys=st.lists(st.sampled_from("abc"), min_size=1, max_size=5))
    def read_a_batch(self, keys: list[str]) -> None:
        batch = [self.record(key) for key in keys]
        kept = [number for number, _ in self.run(self.lots.divert(*batch)).kept]
        assert kept == [number for key, number in batch if key not in self.keys]
        for key, number in batch:
            (self.keys[key].waiting if key in self.keys else self.delivered[key]).append(number)

    @rule(key=st.sampled_from("abc"))
    def fail(self, key: str) -> None:
        if key not in self.keys:
            _, number = self.record(key)
            assert self.run(self.lots.park(key, number))
            self.keys[key] = ModelKey([number])

    @rule()
    def redrive(self) -> None:
        assert self.run(self.lots.redrive()) == sum(not key.is_redriving for key in self.keys.values())
        for key in self.keys.values():
            key.is_redriving = True

    @precondition(lambda self: any(key.is_redriving for key in self.keys.values()))
    @rule(data=st.data(), is_good=st.booleans())
    def process_a_redriven_key(self, data: st.DataObject, is_good: bool) -> None:
        key = data.draw(st.sampled_from([key for key, model in self.keys.items() if model.is_redriving]))
        model, parked_id = self.keys[key], self.lots.key(key).parked_id
        epoch = self.run(self.lots.lease(parked_id))
        assert epoch > model.epoch
        place = data.draw(st.integers(0, len(model.waiting) - 1))
        number = model.waiting[place]
        if is_good:
            model.epoch = epoch
            self.take(key, place + 1)
            assert self.run(self.lots.ack(parked_id, epoch, number)) is (key not in self.keys)
        else:
            model.is_redriving = False
            self.take(key, place)
            failed = self.run(self.lots.fail(parked_id, epoch, number))
            assert not failed.is_redriving
            model.epoch = failed.epoch

    def take(self, key: str, count: int) -> None:
        model = self.keys[key]
        self.delivered[key] += model.waiting[:count]
        model.waiting = model.waiting[count:]
        if not model.waiting:
            del self.keys[key]

    @rule()
    def restart(self) -> None:
        self.lots.parking = Parking(self.store)

    @invariant()
    def the_model_agrees(self) -> None:
        assert {parked.key.decode() for parked in self.lots.parking.keys(GROUP)} == self.keys.keys()
        for key, model in self.keys.items():
            assert self.lots.numbers(key) == model.waiting
            assert self.lots.key(key).is_redriving == model.is_redriving

    @invariant()
    def each_record_is_delivered_in_order_or_waits(self) -> None:
        for key, numbers in self.written.items():
            waiting = self.keys[key].waiting if key in self.keys else []
            assert self.delivered[key] + waiting == numbers


Parked.TestCase.settings = settings(max_examples=30, stateful_step_count=25)
TestParked = Parked.TestCase
