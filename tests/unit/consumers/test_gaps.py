"""Consumer groups and retention: whatever is trimmed, split and merged, each record is delivered or told to be lost."""

from __future__ import annotations

import asyncio
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from broker.consumers import events
from broker.consumers.groups import Start
from broker.model.gaps import Gap
from broker.tables.upkeep import Upkeep
from tests.unit.consumers.scene import GROUP, OLDEST, Got, Scene, Someone
from tests.unit.engine import Engine, run_on_new_store

RETENTION_SECONDS = 60
KEYS = [f"k{number}" for number in range(10)]


class Reader:
    """A group whose members come, process some of what they are sent, and go, also without a word."""

    def __init__(self, scene: Scene, start: Start, owed: set[int], random: Random) -> None:
        self.scene = scene
        self.start = start
        # What the group is to be delivered, or told of.
        self.owed = owed
        self.random = random
        # By source, which numbers were delivered; and those of which an acknowledgement was durable.
        self.sent: dict[str, set[int]] = {}
        self.processed: set[int] = set()
        self.gaps: list[Gap] = []

    async def work(self, trimmed: set[int], turns: int, ack_rate: float) -> None:
        """Lets one or two members take so many events, and acknowledge such a part of them."""
        members = [
            await self.scene.join(
                start=self.start, skips_gaps=True, batch_records_max=self.random.randint(1, 5), revoke_seconds=0
            )
            for _ in range(self.random.choice([1, 1, 2]))
        ]
        for _ in range(turns):
            busy = [member for member in members if await _has_event(member)]
            if not busy:
                break
            member = self.random.choice(busy)
            event = await member.next()
            if isinstance(event, events.Lost):
                unprocessed = {n for n in trimmed - self.processed if event.gap.first_lost <= n <= event.gap.last_lost}
                assert unprocessed & self.owed, f"{event.gap} lost nothing"
                self.gaps.append(event.gap)
            if isinstance(event, Got):
                self.sent.setdefault(event.source_id, set()).update(event.numbers)
            if isinstance(event, events.Checkpointed):
                self.processed |= {n for n in self.sent.get(event.source_id, ()) if n <= event.number}
            if isinstance(event, Got | events.Ended | events.Lost) and self.random.random() < ack_rate:
                # All that was sent of the source before is processed with it.
                await member.say_ack(event)
        for member in members:
            await member.leave()

    @property
    def delivered(self) -> set[int]:
        return set().union(*self.sent.values())

    def was_told(self, number: int) -> bool:
        return any(gap.first_lost <= number <= gap.last_lost for gap in self.gaps)

    def is_behind(self) -> bool:
        consumer = self.scene.groups.get(GROUP)
        return any(
            not consumer.is_finished(shard)
            and (not shard.is_open or self.scene.engine.log.lag(shard, consumer.state_of(shard).checkpoint).records)
            for shard in self.scene.shards
        )


async def _has_event(member: Someone) -> bool:
    for _ in range(100):
        if not member.outlet.sent.empty():
            return True
        await asyncio.sleep(0)
    return False


def _held(scene: Scene) -> set[int]:
    """The numbers of all readable records that no retention has taken."""
    log = scene.engine.log
    return {n for shard in scene.shards for n, _ in log.read(shard, shard.trimmed_to, 10**6, 10**9).records()}


async def _reshard(scene: Scene, random: Random) -> None:
    shards = scene.open_shards
    place = random.randrange(len(shards))
    if place + 1 < len(shards) and random.random() < 0.5:
        await scene.merge(shards[place], shards[place + 1])
    elif len(shards) < 6:
        await scene.split(shards[place])


# A seed and not st.randoms: to draw each of some thousand choices by itself takes longer than what is tested.
@settings(max_examples=60)
@given(st.integers(0, 2**64 - 1))
def test_each_record_is_delivered_or_told_to_be_lost_and_nothing_is_told_in_vain(seed: int) -> None:
    async def scenario(engine: Engine) -> None:
        random = Random(seed)
        scene = await Scene(engine).open(None, retention_seconds=RETENTION_SECONDS)
        upkeep = Upkeep(engine.catalog, engine.committer, engine.log, engine.store, engine.clock, lambda _: None)
        written: list[int] = []
        trimmed: set[int] = set()
        reader: Reader | None = None
        for _ in range(random.randint(5, 40)):
            before = _held(scene)
            match random.choice(["write", "write", "write", "reshard", "work", "work", "time", "trim"]):
                case "write":
                    numbers = await scene.write(*random.choices(KEYS, k=random.randint(1, 6)))
                    written += numbers
                    if reader is not None:
                        reader.owed.update(numbers)
                case "reshard":
                    await _reshard(scene, random)
                case "work" if reader is None and written and random.random() < 0.5:
                    after = random.choice(written)
                    reader = Reader(scene, Start(after=after, is_exact=True), {n for n in written if n > after}, random)
                    await reader.work(trimmed, random.randint(1, 20), random.random())
                case "work":
                    reader = reader or Reader(scene, OLDEST, set(before), random)
                    await reader.work(trimmed, random.randint(1, 20), random.random())
                case "time":
                    engine.clock.ms += random.choice([1, 10_000, 40_000, 70_000])
                case "trim":
                    await upkeep.round()
            trimmed |= before - _held(scene)
        if reader is None:
            return
        await reader.work(trimmed, 1_000, 1.0)
        while reader.is_behind():
            await reader.work(trimmed, 1_000, 1.0)
        assert _held(scene) & reader.owed <= reader.delivered
        lost = {number for number in trimmed & reader.owed - reader.delivered if not reader.was_told(number)}
        assert lost == set()

    run_on_new_store(scenario)
