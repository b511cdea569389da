"""Consumer groups at rest: what each has processed, who may say so, what may be read next."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.consumers.groups import (
    REDRIVEN_KEYS_MAX,
    ConsumerGroup,
    ConsumerGroups,
    Failure,
    Lease,
    NackReason,
    ShardState,
    Start,
    check_group_name,
    lost_before,
    needless_states,
    new_group,
    ready_sources,
)
from broker.consumers.parking import ParkedKey
from broker.model.errors import LeaseFencedError, ResourceInUseError, ResourceNotFoundError, ValidationError
from broker.model.gaps import Gap
from broker.model.sequence import format_sequence_number
from broker.model.tables import Stream, StreamViewType, Table
from broker.storage.rocks import Family, Store
from broker.streams.shards import merge_shards, new_stream, roll_shards, split_shard, trimmed_stream
from tests.unit.consumers.scene import GROUP, OLDEST, Scene
from tests.unit.engine import ID, NOON_MS, Do, Engine, FakeClock, running

FROM_TRIM_HORIZON = -1


@pytest.fixture
async def scene(engine: Engine) -> Scene:
    return await Scene(engine).open(None)


@pytest.fixture
def groups(scene: Scene) -> ConsumerGroups:
    return scene.groups


async def lease(scene: Scene, name: str = GROUP) -> Lease:
    source_id = scene.shards[0].shard_id
    taken: Lease = await scene.plan(lambda group: scene.groups.plan_lease(group, name, source_id, may_skip=False))
    return taken


async def ack(scene: Scene, epoch: int, number: int, *, is_end: bool = False) -> None:
    source_id = scene.shards[0].shard_id
    await scene.plan(lambda group: scene.groups.plan_acknowledge(group, GROUP, source_id, epoch, number, is_end=is_end))


@pytest.mark.parametrize("name", ["a", "a" * 128, "trigger:totals", "a.b_c-D9"])
def test_group_names_of_1_to_128_characters_are_taken(name: str) -> None:
    check_group_name(name)


@pytest.mark.parametrize("name", ["", "a" * 129, "a" * 1_000_000, "a b", "a/b", "\u00e9", "a\n"])
def test_other_group_names_are_refused(name: str) -> None:
    with pytest.raises(ValidationError) as refused:
        check_group_name(name)
    assert refused.value.metadata["field"] == "group_name"


async def test_a_group_is_made_when_it_is_first_named(scene: Scene) -> None:
    made, is_new = await scene.groups.ensure(GROUP, scene.arn, Start(after=99))
    (shard,) = scene.shards
    assert is_new
    assert made == ConsumerGroup(
        name=GROUP,
        stream_arn=scene.arn,
        create_time_ms=NOON_MS,
        start_after=99,
        shards={shard.shard_id: ShardState(checkpoint=99)},
    )
    assert scene.groups.get(GROUP) == made
    # Where it starts is for new groups only.
    assert await scene.groups.ensure(GROUP, scene.arn, OLDEST) == (made, False)


async def test_members_that_come_together_find_one_group(scene: Scene) -> None:
    made = await asyncio.gather(*(scene.groups.ensure(GROUP, scene.arn, Start(after=number)) for number in range(5)))
    assert [group for group, _ in made] == [made[0][0]] * 5
    assert [is_new for _, is_new in made] == [True, False, False, False, False]


async def test_a_group_reads_one_stream(scene: Scene) -> None:
    await scene.engine.table("others")
    other = scene.arn.replace("pets", "others")
    await scene.groups.ensure(GROUP, scene.arn, OLDEST)
    with pytest.raises(ValidationError, match="reads another stream") as refused:
        await scene.groups.ensure(GROUP, other, OLDEST)
    assert refused.value.metadata["field"] == "stream_arn"
    # Also if both come in one group commit.
    results = await asyncio.gather(
        scene.groups.ensure("sums", scene.arn, OLDEST),
        scene.groups.ensure("sums", other, OLDEST),
        return_exceptions=True,
    )
    assert isinstance(results[1], ValidationError)


async def test_each_lease_has_a_higher_epoch_and_the_same_checkpoint(scene: Scene) -> None:
    await scene.groups.ensure(GROUP, scene.arn, OLDEST)
    begin = scene.shards[0].starting_sequence_number - 1
    first = await lease(scene)
    assert first == Lease(epoch=first.epoch, checkpoint=begin)
    await ack(scene, first.epoch, 20)
    second = await lease(scene)
    assert second == Lease(epoch=second.epoch, checkpoint=20)
    assert second.epoch > first.epoch > 0


# Else who held a shard of the old group could move the checkpoint of the new one.
async def test_a_group_made_anew_has_epochs_that_no_group_of_its_name_had(scene: Scene) -> None:
    epochs = []
    for _ in range(3):
        await scene.groups.ensure(GROUP, scene.arn, OLDEST)
        epochs += [(await lease(scene)).epoch for _ in range(2)]
        await scene.groups.delete(GROUP)
    assert epochs == sorted(set(epochs))


async def test_a_checkpoint_moves_forward_only(scene: Scene) -> None:
    await scene.groups.ensure(GROUP, scene.arn, OLDEST)
    epoch = (await lease(scene)).epoch
    for number in (15, 15, 16):
        await ack(scene, epoch, number)
    with pytest.raises(ValidationError, match="below the checkpoint") as refused:
        await ack(scene, epoch, 15)
    assert refused.value.metadata == {"field": "sequence_number", "limit": format_sequence_number(16)}
    await ack(scene, epoch, 17, is_end=True)
    assert scene.state() == ShardState(checkpoint=17, epoch=epoch, is_finished=True)
    with pytest.raises(LeaseFencedError):
        await lease(scene)


async def test_only_the_newest_lease_changes_anything(scene: Scene) -> None:
    await scene.groups.ensure(GROUP, scene.arn, OLDEST)
    old, new = [(await lease(scene)).epoch for _ in range(2)]
    failure, groups = Failure(number=20, reason=NackReason.FATAL), scene.groups
    before = scene.state()
    for source_id, epoch in ((scene.shards[0].shard_id, old), (scene.shards[0].shard_id, new + 1), ("unknown", new)):
        lease_of: dict[str, Any] = {"name": GROUP, "source_id": source_id, "epoch": epoch}
        for plan in (
            partial(groups.plan_acknowledge, **lease_of, number=20, is_end=False),
            partial(groups.plan_fail, **lease_of, failure=failure, record=None),
        ):
            with pytest.raises(LeaseFencedError) as fenced:
                await scene.plan(plan)
            assert fenced.value.metadata == {"shard_id": source_id, "lease_epoch": str(epoch)}
    assert scene.state() == before


async def test_what_is_not_there_is_named(scene: Scene) -> None:
    with pytest.raises(ResourceNotFoundError, match=GROUP):
        scene.groups.get(GROUP)
    for change in (lease(scene), ack(scene, 1, 20), scene.groups.delete(GROUP), scene.groups.redrive(GROUP, "")):
        with pytest.raises(ResourceNotFoundError) as missing:
            await change
        assert missing.value.metadata == {"group_name": GROUP}


async def test_a_deleted_group_begins_anew_and_forgets_what_it_had_parked(scene: Scene) -> None:
    numbers = await scene.write("a", "b")
    for _ in range(2):
        await scene.groups.ensure(GROUP, scene.arn, OLDEST)
        assert scene.state().epoch == 0
        assert scene.groups.parking.keys(GROUP) == []
        taken = await lease(scene)
        record = scene.engine.log.read(scene.shards[0], numbers[0] - 1, 1).records()[0]
        failure = Failure(number=numbers[0], reason=NackReason.FATAL)
        source_id = scene.shards[0].shard_id
        outcome = await scene.plan(
            partial(
                scene.groups.plan_fail,
                name=GROUP,
                source_id=source_id,
                epoch=taken.epoch,
                failure=failure,
                record=record,
            )
        )
        assert outcome.is_parked
        assert len(scene.groups.parking.keys(GROUP)) == 1
        await scene.groups.delete(GROUP)
    for _ in range(2):
        await scene.plan(lambda group: scene.groups.plan_forget(group, GROUP))
    assert scene.groups.all() == []
    assert (
        ConsumerGroups(scene.engine.store, scene.engine.committer, scene.engine.catalog, {}).parking.keys(GROUP) == []
    )


# Else a host that has not heard of the end yet would make the group anew, for the next trigger of that name.
async def test_a_group_of_a_trigger_lives_no_longer_than_the_trigger(scene: Scene) -> None:
    triggers, engine = {"totals"}, scene.engine
    groups = ConsumerGroups(engine.store, engine.committer, engine.catalog, {"trigger": triggers.__contains__})
    for name in ("trigger:totals", "other:totals", "trigger"):
        await groups.ensure(name, scene.arn, OLDEST)
    triggers.clear()
    for name in ("trigger:totals", "trigger:never", "trigger:"):
        with pytest.raises(ResourceNotFoundError, match="trigger that does not exist") as missing:
            await groups.ensure(name, scene.arn, OLDEST)
        assert missing.value.metadata == {"group_name": name}
    assert (await groups.ensure("trigger", scene.arn, OLDEST))[0].name == "trigger"


async def test_a_group_is_not_made_if_its_trigger_goes_in_the_same_group_commit(scene: Scene) -> None:
    triggers, engine = {"totals"}, scene.engine
    groups = ConsumerGroups(engine.store, engine.committer, engine.catalog, {"trigger": triggers.__contains__})
    going = engine.committer.submit((Do(does=lambda _: triggers.clear()),))
    with pytest.raises(ResourceNotFoundError):
        await groups.ensure("trigger:totals", scene.arn, OLDEST)
    await going
    assert groups.all() == []


async def test_groups_are_there_after_a_restart(tmp_path: Path) -> None:
    store = Store(tmp_path)
    async with running(store, FakeClock()) as engine:
        scene = await Scene(engine).open(None)
        await scene.groups.ensure(GROUP, scene.arn, Start(after=-1, snapshot_ranges=2))
        epoch = (await lease(scene)).epoch
        await ack(scene, epoch, 20)
        kept = scene.groups.get(GROUP)
    store.close()
    del store, engine, scene
    again = Store(tmp_path)
    async with running(again, FakeClock()) as engine:
        scene = Scene(engine)
        scene.arn = kept.stream_arn
        assert scene.groups.get(GROUP) == kept
        # Nobody who held it before the restart may move the checkpoint after it.
        assert (await lease(scene)).epoch > epoch
        await scene.groups.delete(GROUP)
        assert ConsumerGroups(again, engine.committer, engine.catalog, {}).all() == []
        # Nothing of it is left for the next group of the name.
        made, _ = await scene.groups.ensure(GROUP, kept.stream_arn, Start(after=99))
        assert made.shards == {scene.shards[0].shard_id: ShardState(checkpoint=99)}
    again.close()


async def test_an_acknowledgement_writes_the_state_of_its_source_only(scene: Scene) -> None:
    await scene.groups.ensure(GROUP, scene.arn, Start(after=-1, snapshot_ranges=16))
    epoch, entries = (await lease(scene)).epoch, scene.engine.journal.entries
    begun = len(entries)
    await ack(scene, epoch, 20)
    keys = [key for entry in entries[begun:] for key in entry.mutations[Family.CATALOG]]
    state = f"consumer_state/{GROUP}/{scene.shards[0].shard_id}"
    assert [key for key in keys if key.startswith(b"consumer")] == [state.encode()]


async def test_a_group_is_not_deleted_while_it_has_members(scene: Scene) -> None:
    async with scene.joined() as member:
        await member.begin()
        with pytest.raises(ResourceInUseError, match="1 members"):
            await scene.members.delete_group(GROUP)
    await scene.members.delete_group(GROUP)
    with pytest.raises(ResourceNotFoundError):
        await scene.members.delete_group(GROUP)


# Lineage, on streams that are split, merged and trimmed at random.


class Lineage:
    """A stream and its group, both as plain values."""

    def __init__(self, start: Start = OLDEST) -> None:
        table = Table(name="pets", id=1, uuid="u", create_time_ms=1, partition_key=ID, sort_key=None)
        self.number = 10
        self.id = 1
        self.stream: Stream = new_stream(table, StreamViewType.KEYS_ONLY, NOON_MS, self.next_id, 11, "")
        self.group = new_group(GROUP, "arn", self.stream, start, NOON_MS)

    def next_id(self) -> int:
        self.id += 1
        return self.id

    def reshard(self, random: Random) -> None:
        self.number += random.randint(1, 5)
        shards = self.stream.open_shards
        if random.random() < 0.3:
            rolled = random.sample(shards, random.randint(1, len(shards)))
            ids = [shard.shard_id for shard in rolled]
            self.stream = roll_shards(self.stream, ids, self.number, NOON_MS, self.next_id)
        elif len(shards) == 1 or random.random() < 0.6:
            shard = random.choice(shards)
            self.stream = split_shard(self.stream, shard.shard_id, None, self.number, NOON_MS, self.next_id)
        else:
            index = random.randrange(len(shards) - 1)
            left, right = shards[index].shard_id, shards[index + 1].shard_id
            self.stream = merge_shards(self.stream, left, right, self.number, NOON_MS, self.next_id)

    def ready(self) -> list[str]:
        return ready_sources(self.group, self.stream, [])

    def finish(self, shard_id: str) -> None:
        shard = self.stream.shard(shard_id)
        assert shard is not None
        assert shard.ending_sequence_number is not None
        state = ShardState(checkpoint=shard.ending_sequence_number, epoch=1, is_finished=True)
        self.group = replace(self.group, shards=self.group.shards | {shard_id: state})
        self.forget()

    def forget(self) -> None:
        """Drops the states that are not needed any more."""
        needless = needless_states(self.group, self.stream)
        shards = {id_: state for id_, state in self.group.shards.items() if id_ not in needless}
        self.group = replace(self.group, shards=shards)

    def vanish(self, trimmed_to: int) -> None:
        """Drops all closed shards, whose last record was this one."""
        trims = [(shard.id, trimmed_to, NOON_MS) for shard in self.stream.shards if not shard.is_open]
        self.stream = trimmed_stream(self.stream, trims, {number for number, _, _ in trims})


@given(st.randoms(use_true_random=True))
def test_each_shard_becomes_ready_once_after_all_its_parents(random: Random) -> None:
    lineage, finished = Lineage(), set[str]()
    for _ in range(30):
        if random.random() < 0.5:
            lineage.reshard(random)
        ready = lineage.ready()
        assert len(set(ready)) == len(ready)
        assert finished.isdisjoint(ready)
        for shard_id in ready:
            shard = lineage.stream.shard(shard_id)
            assert shard is not None
            assert {shard.parent_shard_id, shard.adjacent_parent_shard_id} - {""} <= finished
        closed = [id_ for id_ in ready if not lineage.stream.shard(id_).is_open]  # type: ignore[union-attr]
        for shard_id in closed:
            if random.random() < 0.5:
                lineage.finish(shard_id)
                finished.add(shard_id)
    # Everything can be finished, and then exactly the open shards are left.
    while closed := [id_ for id_ in lineage.ready() if not lineage.stream.shard(id_).is_open]:  # type: ignore[union-attr]
        lineage.finish(closed[0])
    assert set(lineage.ready()) == {shard.shard_id for shard in lineage.stream.open_shards}


def test_a_shard_that_ended_before_the_group_begins_is_finished_from_the_beginning() -> None:
    lineage = Lineage()
    lineage.reshard(Random(1))
    group = new_group(GROUP, "arn", lineage.stream, Start(after=lineage.number), NOON_MS)
    assert ready_sources(group, lineage.stream, []) == [shard.shard_id for shard in lineage.stream.open_shards]
    assert {state.checkpoint for state in group.shards.values()} == {lineage.number}


def test_what_is_no_longer_held_is_lost_only_to_a_group_that_names_it_exactly() -> None:
    lineage = Lineage()
    trimmed = trimmed_stream(lineage.stream, [(lineage.stream.shards[0].id, 20, NOON_MS)], ())
    (shard,) = trimmed.shards
    for start, checkpoint in ((OLDEST, 20), (Start(after=15), 20), (Start(after=15, is_exact=True), 15)):
        group = new_group(GROUP, "arn", trimmed, start, NOON_MS)
        assert group.shards == {shard.shard_id: ShardState(checkpoint=checkpoint)}


# Were its children to begin as if nothing had come before them, the loss would be silent.
def test_a_group_that_begins_exactly_in_a_vanished_shard_has_lost_the_rest_of_it() -> None:
    lineage = Lineage()
    (root,) = lineage.stream.shards
    lineage.number = 20
    lineage.stream = split_shard(lineage.stream, root.shard_id, None, 20, NOON_MS, lineage.next_id)
    # The one between holds nothing, and vanishes, too.
    lineage.number = 22
    lineage.stream = split_shard(lineage.stream, lineage.stream.shards[1].shard_id, None, 22, NOON_MS, lineage.next_id)
    trims = [(root.id, 15, NOON_MS)]
    closed = {shard.id for shard in lineage.stream.shards if not shard.is_open}
    stream = trimmed_stream(lineage.stream, trims, closed)
    for after, lost in ((12, (13, 15)), (15, None), (20, None)):
        group = new_group(GROUP, "arn", stream, Start(after=after, is_exact=True), NOON_MS)
        assert ready_sources(group, stream, []) == [shard.shard_id for shard in stream.shards]
        for shard in stream.shards:
            gap = None if shard.shard_id in group.shards else lost_before(group, stream, shard)
            assert (gap and (gap.first_lost, gap.last_lost)) == lost
    # One that begins with the oldest record has lost nothing.
    group = new_group(GROUP, "arn", stream, OLDEST, NOON_MS)
    assert group.shards.keys() == {shard.shard_id for shard in stream.shards}


def test_a_key_that_a_member_redrives_is_not_taken_from_it_for_an_older_one() -> None:
    lineage = Lineage()
    parked = [
        ParkedKey(
            id=id_,
            group_name=GROUP,
            key=b"k",
            key_hash=1,
            shard_id="s",
            sequence_number=1,
            attempts=1,
            last_error="",
            park_time_ms=NOON_MS,
            is_redriving=True,
        )
        for id_ in range(REDRIVEN_KEYS_MAX + 2)
    ]
    ids = [key.parked_id for key in parked]
    held = set(ids[2:])
    assert ready_sources(lineage.group, lineage.stream, parked, held)[:-1] == ids[2:]
    held.discard(ids[-1])
    assert ready_sources(lineage.group, lineage.stream, parked, held)[:-1] == [*ids[2:-1], ids[0]]


def test_ranges_come_before_shards_and_redriven_keys_whenever() -> None:
    lineage = Lineage(Start(after=15, snapshot_ranges=2))
    first, second = lineage.group.range_ids
    assert first == f"snapshotId-{NOON_MS:020d}-00000000"
    parked = [
        ParkedKey(
            id=id_,
            group_name=GROUP,
            key=b"k",
            key_hash=1,
            shard_id="s",
            sequence_number=1,
            attempts=1,
            last_error="",
            park_time_ms=NOON_MS,
            is_redriving=id_ != 8,
        )
        for id_ in range(8, 10)
    ]
    assert ready_sources(lineage.group, lineage.stream, parked) == [parked[1].parked_id, first, second]
    done = ShardState(checkpoint=3, is_finished=True)
    half = replace(lineage.group, shards=lineage.group.shards | {first: done})
    assert ready_sources(half, lineage.stream, []) == [second]


@pytest.mark.parametrize(
    ("checkpoint", "trimmed_to", "lost"),
    [(12, 15, (13, 15)), (15, 15, None), (12, 0, None), (12, 19, (13, 19))],
)
def test_a_vanished_parent_is_a_gap_exactly_if_it_had_unprocessed_records(
    checkpoint: int, trimmed_to: int, lost: tuple[int, int] | None
) -> None:
    lineage = Lineage()
    (root,) = lineage.stream.shards
    lineage.group = replace(lineage.group, shards={root.shard_id: ShardState(checkpoint=checkpoint, epoch=1)})
    lineage.number = 20
    lineage.stream = split_shard(lineage.stream, root.shard_id, None, 20, NOON_MS, lineage.next_id)
    child = lineage.stream.shards[1]
    assert lost_before(lineage.group, lineage.stream, child) is None
    lineage.vanish(trimmed_to)
    gap = lost_before(lineage.group, lineage.stream, child)
    expected = None if lost is None else Gap(root.shard_id, *lost, NOON_MS, NOON_MS)
    assert gap == expected
    # The state of the parent is kept until both children know.
    for shard, kept in ((child, True), (lineage.stream.shards[-1], False)):
        state = ShardState(checkpoint=20, epoch=1)
        lineage.group = replace(lineage.group, shards=lineage.group.shards | {shard.shard_id: state})
        lineage.forget()
        assert (root.shard_id in lineage.group.shards) is kept


def test_a_parent_that_came_and_went_unread_is_a_gap_from_where_the_group_had_stopped() -> None:
    lineage = Lineage()
    (root,) = lineage.stream.shards
    lineage.group = replace(lineage.group, shards={root.shard_id: ShardState(checkpoint=12, epoch=1)})
    lineage.number = 20
    lineage.stream = split_shard(lineage.stream, root.shard_id, None, 20, NOON_MS, lineage.next_id)
    _, left, right = lineage.stream.shards
    lineage.stream = merge_shards(lineage.stream, left.shard_id, right.shard_id, 30, NOON_MS, lineage.next_id)
    lineage.vanish(28)
    (merged,) = lineage.stream.shards
    assert lineage.ready() == [merged.shard_id]
    gap = lost_before(lineage.group, lineage.stream, merged)
    assert gap is not None
    assert (gap.first_lost, gap.last_lost) == (13, 28)


def test_finished_parents_that_vanished_are_no_gap_and_are_forgotten() -> None:
    lineage = Lineage()
    (root,) = lineage.stream.shards
    lineage.number = 20
    lineage.stream = split_shard(lineage.stream, root.shard_id, None, 20, NOON_MS, lineage.next_id)
    lineage.finish(root.shard_id)
    lineage.vanish(19)
    for shard in lineage.stream.shards:
        assert lost_before(lineage.group, lineage.stream, shard) is None
        state = ShardState(checkpoint=20, epoch=1)
        lineage.group = replace(lineage.group, shards=lineage.group.shards | {shard.shard_id: state})
    lineage.forget()
    assert lineage.group.shards.keys() == {shard.shard_id for shard in lineage.stream.shards}
