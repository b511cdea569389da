"""A member's session, against an outlet that keeps what it is given: order, credit, hand-over, failures, gaps."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.consumers import consume, events, groups
from broker.consumers.assignment import AssignmentMode
from broker.consumers.explain import STUCK_MS, Progress, explain
from broker.consumers.groups import NackReason, ShardState, Start
from broker.model.errors import (
    LeaseFencedError,
    ResourceNotFoundError,
    ThrottlingError,
    UnavailableError,
    ValidationError,
)
from broker.model.gaps import TrimmedDataAccessError
from broker.storage.commit import Group
from broker.storage.watermark import Wakeup
from broker.streams.shards import horizon
from tests.unit.consumers.scene import GROUP, OLDEST, Got, Scene, Someone
from tests.unit.engine import TIMEOUT_S, Engine, run_on_new_store

FATAL, SHUTDOWN = NackReason.FATAL, NackReason.SHUTDOWN


@pytest.fixture
async def scene(engine: Engine) -> Scene:
    return await Scene(engine).open()


async def test_a_member_is_told_that_it_belongs_then_its_shard_then_its_records(scene: Scene) -> None:
    numbers = await scene.write("a", count=3)
    async with scene.joined() as member:
        assert (await member.take(events.Started)).is_standby is False
        assigned = await member.take(events.Assigned)
        assert (assigned.source_id, assigned.checkpoint) == (scene.shards[0].shard_id, None)
        batch = await member.batch()
        assert (batch.source_id, batch.epoch, batch.number) == (assigned.source_id, assigned.epoch, numbers[-1])
        assert batch.numbers == numbers
        await member.nothing()
        more = await scene.write("a", count=2)
        assert (await member.batch()).numbers == more


async def test_a_member_that_comes_again_goes_on_exactly_after_the_checkpoint(scene: Scene) -> None:
    numbers = await scene.write("a", count=6)
    for begin, acked in ((0, 2), (2, 3), (3, 3), (3, 6)):
        async with scene.joined() as member:
            assert (await member.begin()).checkpoint == (numbers[begin - 1] if begin else None)
            batch = await member.batch()
            assert batch.numbers == numbers[begin:]
            await member.ack(batch, numbers[acked - 1])
    async with scene.joined() as member:
        assert (await member.begin()).checkpoint == numbers[-1]
        await member.nothing()


async def test_without_an_acknowledgement_everything_comes_again_under_a_higher_epoch(scene: Scene) -> None:
    numbers = await scene.write("a", count=3)
    epoch = 0
    for _ in range(3):
        async with scene.joined() as member:
            await member.begin()
            batch = await member.batch()
            assert batch.numbers == numbers
            assert batch.epoch > epoch
            epoch = batch.epoch


async def test_an_acknowledgement_is_answered_when_it_is_durable(scene: Scene) -> None:
    (number,) = await scene.write("a")
    async with scene.joined() as member:
        await member.begin()
        batch = await member.batch()
        journal = scene.engine.journal
        begun = len(journal.entries)
        journal.hold()
        await member.say_ack(batch)
        await journal.sync_begun(begun + 1)
        await member.nothing()
        journal.release()
        assert (await member.take(events.Checkpointed)).number == number
        assert scene.state().checkpoint == number


async def test_no_more_records_are_sent_than_the_credit_allows(scene: Scene) -> None:
    numbers = await scene.write("a", count=10)
    async with scene.joined(batch_records_max=4, in_flight_records_max=6) as member:
        await member.begin()
        first, second = await member.batch(), await member.batch()
        assert (first.numbers, second.numbers) == (numbers[:4], numbers[4:6])
        await member.nothing()
        await member.ack(first)
        third = await member.batch()
        assert third.numbers == numbers[6:10]
        await member.nothing()
        await member.ack(third)
        more = await scene.write("a")
        assert (await member.batch()).numbers == more


async def test_no_more_bytes_are_sent_than_the_credit_allows_but_one_batch_always(scene: Scene) -> None:
    numbers = await scene.write("a", count=3)
    async with scene.joined(in_flight_bytes_max=1) as member:
        await member.begin()
        for number in numbers:
            batch = await member.batch()
            assert batch.numbers == [number]
            await member.nothing()
            await member.ack(batch)
    size = len(scene.engine.log.read(scene.shards[0], numbers[0] - 1, 1).records()[0][1])
    await scene.groups.delete(GROUP)
    async with scene.joined(in_flight_bytes_max=2 * size + size // 2) as member:
        await member.begin()
        first = await member.batch()
        assert first.numbers == numbers[:2]
        # The third fits by its number, and not by its bytes.
        await member.nothing()
        await member.ack(first)
        assert (await member.batch()).numbers == numbers[2:]


async def test_records_wait_in_the_log_while_the_connection_is_full(scene: Scene) -> None:
    async with scene.joined(batch_records_max=1) as member:
        await member.begin()
        member.outlet.is_open.clear()
        numbers = await scene.write("a", count=4)
        await member.nothing()
        # One batch waits to be handed over; the others are not even read.
        assert scene.engine.log.records_total == 1
        member.outlet.is_open.set()
        assert [(await member.batch()).numbers for _ in range(4)] == [[number] for number in numbers]


async def test_several_shards_take_turns_within_one_credit(scene: Scene) -> None:
    await _finish_root(scene)
    await _numbers_of_two_shards(scene, 4)
    async with scene.joined(batch_records_max=1, in_flight_records_max=4) as member:
        await member.take(events.Started)
        assert {(await member.take(events.Assigned)).source_id for _ in range(2)} == {
            s.shard_id for s in scene.shards[1:]
        }
        batches = [await member.batch() for _ in range(4)]
        assert [batch.source_id for batch in batches[:2]] == [batch.source_id for batch in batches[2:]]
        await member.nothing()
        # What is freed goes to whoever's turn it is, also if the other one is never acknowledged.
        await member.ack(batches[3])
        assert (await member.batch()).source_id == batches[0].source_id


# Else the small ones of the others would take all credit that is freed, again and again, and the large one never came.
async def test_a_large_record_gets_its_turn_beside_shards_of_small_ones(scene: Scene) -> None:
    await _finish_root(scene)
    left, right = scene.open_shards
    await scene.write(scene.key_of(right), count=40)
    async with scene.joined(batch_records_max=1, in_flight_bytes_max=800) as member:
        await member.take(events.Started)
        for _ in range(2):
            await member.take(events.Assigned)
        waiting = deque([await member.batch(), await member.batch()])
        await scene.write(scene.key_of(left), text="x" * 600)
        acked = 0
        while left.shard_id not in {got.source_id for got in waiting}:
            # Several are in flight, and one at a time makes room.
            await member.say_ack(waiting.popleft())
            while await _has_event(member):
                event = await member.next()
                if isinstance(event, Got):
                    waiting.append(event)
            acked += 1
            assert acked < 20


async def test_who_has_no_credit_is_not_woken_by_more_records(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = 0
    clear = Wakeup.clear

    def counted(wakeup: Wakeup) -> None:
        nonlocal rounds
        rounds += 1
        clear(wakeup)

    numbers = await scene.write("a", count=3)
    async with scene.joined(in_flight_records_max=1) as member:
        await member.begin()
        batch = await member.batch()
        await member.nothing()
        monkeypatch.setattr(Wakeup, "clear", counted)
        for _ in range(5):
            await scene.write("a")
        await member.nothing()
        assert rounds == 0
        await member.ack(batch)
        assert (await member.batch()).numbers == [numbers[1]]


# A timer that passes between a look at the source and the rest must not be forgotten until the heartbeat.
async def test_a_retry_that_becomes_due_while_the_session_turns_is_not_slept_through(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = await scene.write("a")
    async with scene.joined() as member:
        await member.begin()
        batch = await member.batch()
        late = member.session._loop = LateLoop()  # type: ignore[assignment]
        rest = member.session._rest

        async def rest_late() -> None:
            late.offset_s += 1.0
            await rest()

        monkeypatch.setattr(member.session, "_rest", rest_late)
        await member.say_nack(batch, numbers[0], retry_seconds=0.5)
        await member.until(events.Assigned)
        assert (await member.batch()).numbers == numbers


class LateLoop:
    """The event loop of a machine that has much else to do: its time is ahead by as much as a test says."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.offset_s = 0.0

    def time(self) -> float:
        return self._loop.time() + self.offset_s


async def _finish_root(scene: Scene) -> None:
    """Splits the first shard, which nothing is left to read of."""
    await scene.split()
    async with scene.joined() as member:
        await member.begin()
        await member.ack(await member.take(events.Ended))


async def _numbers_of_two_shards(scene: Scene, count: int) -> tuple[list[int], list[int]]:
    """Writes so many records into each of the two open shards."""
    left, right = (scene.key_of(shard) for shard in scene.open_shards)
    return await scene.write(left, count=count), await scene.write(right, count=count)


# Parents and children.


async def test_children_follow_when_the_end_of_their_parent_is_acknowledged(scene: Scene) -> None:
    before = await scene.write("a", count=2)
    children = await scene.split()
    after = await scene.write("a", count=2)
    async with scene.joined() as member:
        assigned = await member.begin()
        batch = await member.batch()
        assert batch.numbers == before
        end = await member.take(events.Ended)
        assert (end.source_id, end.children) == (assigned.source_id, tuple(child.shard_id for child in children))
        await member.nothing()
        await member.ack(end)
        assert {(await member.take(events.Assigned)).source_id for _ in range(2)} == set(end.children)
        assert (await member.batch()).numbers == after
        # The last records and the end have the same number: a client acknowledges both, one after the other.
        await member.ack(batch)
        await member.ack(end)
    # A member that comes later does not see the parent again.
    async with scene.joined() as member:
        assert (await member.begin()).source_id in end.children


async def test_a_merged_shard_waits_for_both_its_parents(scene: Scene) -> None:
    await _finish_root(scene)
    _, left, right = scene.shards
    merged = await scene.merge(left, right)
    async with scene.joined() as member:
        await member.take(events.Started)
        for _ in range(2):
            await member.take(events.Assigned)
        first, second = await member.take(events.Ended), await member.take(events.Ended)
        await member.ack(first)
        await member.nothing()
        await member.ack(second)
        assert (await member.take(events.Assigned)).source_id == merged.shard_id


async def test_a_group_that_begins_late_reads_children_from_their_beginning(engine: Engine) -> None:
    scene = await Scene(engine).open(None)
    await scene.write("a", count=2)
    tip = engine.committer.last_sequence_number
    await scene.groups.ensure(GROUP, scene.arn, Start(after=tip))
    await scene.split()
    after = await scene.write("a", count=2)
    async with scene.joined() as member:
        assert (await member.begin()).checkpoint == tip
        await member.ack(await member.take(events.Ended))
        for _ in range(2):
            assert (await member.take(events.Assigned)).checkpoint is None
        assert (await member.batch()).numbers == after


async def test_a_group_that_begins_beyond_the_tip_comes_to_the_children_all_the_same(engine: Engine) -> None:
    scene = await Scene(engine).open(None)
    await scene.write("a")
    start = Start(after=engine.committer.last_sequence_number + 100, is_exact=True)
    async with scene.joined(start=start) as member:
        await member.begin()
        children = await scene.split()
        await member.ack(await member.take(events.Ended))
        assigned = [await member.take(events.Assigned) for _ in range(2)]
        assert {each.source_id for each in assigned} == {child.shard_id for child in children}
        await scene.write("a")
        await member.nothing()
        while engine.committer.last_sequence_number < start.after:
            await scene.write("a")
        more = await scene.write("a")
        assert more[0] in (await _batch_to(member, more[0])).numbers


async def test_a_disabled_stream_is_read_to_its_end_which_needs_an_acknowledgement(scene: Scene) -> None:
    numbers = await scene.write("a", count=2)
    await scene.engine.set_stream("pets", None)
    for _ in range(2):
        async with scene.joined() as member:
            await member.begin()
            batch = await member.batch()
            assert batch.numbers == numbers
            end = await member.take(events.Ended)
            assert (end.number, end.children) == (batch.number, ())
            assert not scene.state().is_finished
            # Less than the end does not end it.
            await member.ack(end, numbers[0])
            assert not scene.state().is_finished
            numbers = numbers[1:]
    async with scene.joined() as member:
        await member.begin()
        await member.ack(await member.take(events.Ended))
        assert scene.state().is_finished
        await member.nothing()
    async with scene.joined() as member:
        await member.take(events.Started)
        await member.nothing()


async def test_the_table_may_be_deleted_meanwhile(scene: Scene) -> None:
    numbers = await scene.write("a")
    async with scene.joined() as member:
        await member.begin()
        await scene.engine.catalog.delete_table("pets")
        assert (await member.batch()).numbers == numbers
        await member.ack(await member.take(events.Ended))


# Several members.


async def test_a_shard_moves_when_what_was_sent_of_it_is_acknowledged(scene: Scene) -> None:
    await _finish_root(scene)
    await _numbers_of_two_shards(scene, 1)
    async with scene.joined("one") as one:
        await one.take(events.Started)
        for _ in range(2):
            await one.take(events.Assigned)
        batches = {batch.source_id: batch for batch in [await one.batch(), await one.batch()]}
        async with scene.joined("two") as two:
            await two.take(events.Started)
            revoking = await one.take(events.Revoking)
            assert revoking.deadline_ms == scene.engine.clock.ms + 30_000
            # Nothing more of it comes, and it does not move before its last record is processed.
            more = await _numbers_of_two_shards(scene, 1)
            kept = await one.batch()
            assert kept.source_id != revoking.source_id
            await one.nothing()
            await two.nothing()
            await one.ack(batches[revoking.source_id])
            revoked = await one.take(events.Revoked)
            assert (revoked.source_id, revoked.epoch) == (revoking.source_id, revoking.epoch)
            assigned = await two.take(events.Assigned)
            assert assigned.source_id == revoking.source_id
            assert assigned.epoch > revoking.epoch
            assert assigned.checkpoint == batches[revoking.source_id].number
            assert (await two.batch()).numbers in more
            # Its acks count no longer, and its session goes on.
            await one.say_ack(batches[revoking.source_id])
            assert isinstance((await one.take(events.Refused)).error, LeaseFencedError)
            await one.ack(kept)
        # What the one held that left comes back, from its checkpoint on.
        assert (await one.take(events.Assigned)).source_id == revoking.source_id


@pytest.mark.parametrize("is_stuck", [False, True])
async def test_a_shard_is_taken_away_at_the_deadline_even_if_the_connection_is_stuck(
    scene: Scene, is_stuck: bool
) -> None:
    await _finish_root(scene)
    await _numbers_of_two_shards(scene, 1)
    async with scene.joined("one", revoke_seconds=0) as one:
        await one.take(events.Started)
        for _ in range(2):
            await one.take(events.Assigned)
        batches = [await one.batch(), await one.batch()]
        if is_stuck:
            one.outlet.is_open.clear()
        async with scene.joined("two") as two:
            await two.take(events.Started)
            assigned = await two.take(events.Assigned)
            (moved,) = [batch for batch in batches if batch.source_id == assigned.source_id]
            assert (await two.batch()).numbers == moved.numbers
            one.outlet.is_open.set()
            assert (await one.until(events.Revoked)).source_id == moved.source_id
            # What was in flight of it no longer takes credit.
            assert one.session.in_flight_records == 1
            await one.say_ack(moved)
            assert isinstance((await one.take(events.Refused)).error, LeaseFencedError)


# What an acknowledgement brings about is known at once, however long its member takes to read the answer.
async def test_a_shard_moves_on_when_it_is_acknowledged_even_if_the_answer_is_not_read(scene: Scene) -> None:
    await _finish_root(scene)
    await _numbers_of_two_shards(scene, 1)
    async with scene.joined("one") as one:
        await one.take(events.Started)
        for _ in range(2):
            await one.take(events.Assigned)
        batches = {batch.source_id: batch for batch in [await one.batch(), await one.batch()]}
        async with scene.joined("two") as two:
            await two.take(events.Started)
            moving = (await one.take(events.Revoking)).source_id
            one.outlet.is_open.clear()
            # The session is about to send this.
            await scene.write(*(scene.key_of(shard) for shard in scene.open_shards if shard.shard_id != moving))
            await one.nothing()
            await one.say_ack(batches[moving])
            await one.nothing()
            assert scene.state(moving).checkpoint == batches[moving].number
            assert not one.session.held[moving].has_in_flight
            one.outlet.is_open.set()
            await one.until(events.Checkpointed)
            assert (await two.take(events.Assigned)).source_id == moving


async def test_children_begin_elsewhere_even_if_the_member_that_ended_the_parent_reads_nothing(scene: Scene) -> None:
    children = await scene.split()
    async with scene.joined("one") as one:
        await one.begin()
        end = await one.take(events.Ended)
        async with scene.joined("two") as two:
            await two.take(events.Started)
            one.outlet.is_open.clear()
            await one.say_ack(end)
            assert (await two.take(events.Assigned)).source_id in {child.shard_id for child in children}
            one.outlet.is_open.set()


async def test_exclusively_the_oldest_holds_everything_and_the_others_stand_by(scene: Scene) -> None:
    numbers = await scene.write("a", count=4)
    exclusive = AssignmentMode.EXCLUSIVE
    one, two, three = [await scene.join(name, mode=exclusive) for name in ("one", "two", "three")]
    assert [(await someone.take(events.Started)).is_standby for someone in (one, two, three)] == [False, True, True]
    assert scene.members.of(GROUP) == ["one", "two", "three"]
    epoch = (await one.take(events.Assigned)).epoch
    await one.ack(await one.batch(), numbers[1])
    # A standby may leave before its turn.
    await two.leave()
    await one.leave()
    assert (await three.take(events.Assigned)).epoch > epoch
    assert (await three.batch()).numbers == numbers[2:]
    await three.leave()
    assert scene.members.of(GROUP) == []


async def test_exclusively_the_next_takes_over_where_the_oldest_had_acknowledged(scene: Scene) -> None:
    numbers = await scene.write("a", count=4)
    exclusive = AssignmentMode.EXCLUSIVE
    one, two = [await scene.join(name, mode=exclusive) for name in ("one", "two")]
    await one.begin()
    await two.take(events.Started)
    batch = await one.batch()
    await one.ack(batch, numbers[0])
    # It is about to leave, and gives everything back: the other one holds it from then on, all of it.
    failed = await one.nack(batch, numbers[1], SHUTDOWN)
    assert failed.attempts == 0
    assert (await one.take(events.Revoked)).source_id == batch.source_id
    assert (await two.take(events.Assigned)).checkpoint == numbers[1] - 1
    assert (await two.batch()).numbers == numbers[1:]
    await one.nothing()
    for member in (one, two):
        await member.leave()


async def test_members_of_a_group_want_the_same_assignment_mode(scene: Scene) -> None:
    async with scene.joined("one") as one:
        await one.begin()
        other = await scene.join("two", mode=AssignmentMode.EXCLUSIVE)
        with pytest.raises(ValidationError) as refused:
            await other.next()
        assert refused.value.metadata["field"] == "assignment_mode"
        assert scene.members.of(GROUP) == ["one"]


async def test_what_is_wrong_with_an_acknowledgement_is_told_and_does_not_end_the_session(scene: Scene) -> None:
    numbers = await scene.write("a", count=3)
    async with scene.joined(batch_records_max=2, in_flight_records_max=2) as member:
        await member.begin()
        batch = await member.batch()
        await member.ack(batch, numbers[0])
        for source_id, epoch, number, kind in (
            (batch.source_id, 0, numbers[1], LeaseFencedError),
            (batch.source_id, batch.epoch + 1, numbers[1], LeaseFencedError),
            ("other", batch.epoch, numbers[1], LeaseFencedError),
            (batch.source_id, batch.epoch, numbers[2], ValidationError),
            (batch.source_id, batch.epoch, numbers[0] - 1, ValidationError),
        ):
            await member.session.acknowledge(source_id, epoch, number)
            refused = await member.take(events.Refused)
            assert (refused.source_id, refused.epoch, refused.number) == (source_id, epoch, number)
            assert isinstance(refused.error, kind)
        assert scene.state().checkpoint == numbers[0]
        await member.ack(batch)
        assert (await member.batch()).numbers == numbers[2:]


async def test_a_source_that_a_newer_lease_has_is_taken_away_and_given_anew(scene: Scene) -> None:
    numbers = await scene.write("a", count=3)
    async with scene.joined(batch_records_max=1, in_flight_records_max=1) as member:
        await member.begin()
        before = scene.state()
        batch = await member.batch()
        newer = await scene.plan(lambda group: scene.groups.plan_lease(group, GROUP, batch.source_id, may_skip=False))
        scene.members.rebalance(GROUP)
        assert (await member.take(events.Revoked)).source_id == batch.source_id
        again = await member.take(events.Assigned)
        assert again.epoch > newer.epoch > batch.epoch
        # The old lease acknowledges nothing any more, and what was sent under it comes again.
        assert (await member.batch()).numbers == numbers[:1]
        await member.session.acknowledge(batch.source_id, batch.epoch, numbers[0])
        assert isinstance((await member.take(events.Refused)).error, LeaseFencedError)
        assert (scene.state().checkpoint, scene.state().epoch) == (before.checkpoint, again.epoch)


async def test_acknowledgements_are_answered_in_order_and_not_taken_without_end(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consume, "ANSWERS_MAX", 3)
    numbers = await scene.write("a", count=8)
    async with scene.joined() as member:
        await member.begin()
        batch = await member.batch()
        scene.engine.journal.hold()
        saying = [asyncio.ensure_future(member.say_ack(batch, number)) for number in numbers]
        await member.nothing()
        assert [task.done() for task in saying] == [True] * 3 + [False] * 5
        scene.engine.journal.release()
        assert [(await member.take(events.Checkpointed)).number for _ in numbers] == numbers
        await asyncio.wait(saying)


async def test_a_group_deleted_under_a_member_ends_its_session(scene: Scene) -> None:
    await scene.write("a")
    async with scene.joined() as member:
        await member.begin()
        batch = await member.batch()
        await scene.groups.delete(GROUP)
        await member.say_ack(batch)
        with pytest.raises(ResourceNotFoundError):
            await member.next()
    assert scene.members.of(GROUP) == []


async def test_a_member_of_a_group_that_was_made_anew_gets_its_shards_anew(scene: Scene) -> None:
    numbers = await scene.write("a")
    async with scene.joined() as member:
        await member.begin()
        batch = await member.batch()
        await scene.groups.delete(GROUP)
        await scene.groups.ensure(GROUP, scene.arn, OLDEST)
        await member.say_ack(batch)
        assert isinstance((await member.take(events.Refused)).error, LeaseFencedError)
        assert [type(await member.next()) for _ in range(2)] == [events.Revoked, events.Assigned]
        assert (await member.batch()).numbers == numbers


async def test_who_waits_hears_heartbeats(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consume, "HEARTBEAT_SECONDS", 0.001)
    async with scene.joined() as member, asyncio.timeout(TIMEOUT_S):
        await member.begin()
        assert isinstance(await member.outlet.sent.get(), events.Heartbeat)


async def test_a_position_that_moves_over_numbers_of_others_is_worth_a_message_now_and_then(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = scene.engine.watermarks.of(scene.shards[0].id)
    async with scene.joined() as member:
        await member.begin()
        mark.advance(100)
        await member.nothing()
        monkeypatch.setattr(consume, "HEARTBEAT_SECONDS", 0.0)
        mark.advance(101)
        batch = await member.batch()
        assert (batch.records, batch.number) == ((), 101)
        monkeypatch.setattr(consume, "HEARTBEAT_SECONDS", 15.0)
        await member.say_ack(batch)
        await member.until(events.Checkpointed)
        assert scene.state().checkpoint == 101


async def _progress(scene: Scene) -> Progress:
    (view,) = scene.members.views(scene.groups.get(GROUP))
    return explain(view, len(scene.members.of(GROUP)), is_parking_full=False).progress


async def test_what_a_member_does_with_a_shard_is_seen_from_outside(scene: Scene) -> None:
    assert await _progress(scene) is Progress.NO_MEMBER
    async with scene.joined(batch_records_max=1, in_flight_records_max=2) as member:
        await member.begin()
        assert await _progress(scene) is Progress.AT_TIP
        # 1. Its connection takes nothing.
        member.outlet.is_open.clear()
        numbers = await scene.write("a", count=3)
        await member.nothing()
        scene.engine.clock.ms += STUCK_MS
        assert await _progress(scene) is Progress.WAITING_FOR_MEMBER
        member.outlet.is_open.set()
        # 2. It has its credit and acknowledges nothing.
        first, second = await member.batch(), await member.batch()
        await member.nothing()
        scene.engine.clock.ms += 100
        assert await _progress(scene) is Progress.WAITING_FOR_ACK
        (held,) = member.session.held.values()
        holding = member.session.holding(held)
        assert (holding.in_flight_records, holding.is_credit_used_up) == (2, True)
        assert holding.in_flight_age_ms == STUCK_MS + 100
        # 3. A record failed.
        await member.ack(first)
        third = await member.batch()
        await member.nack(second, numbers[1], retry_seconds=60.0)
        await member.take(events.Assigned)
        assert await _progress(scene) is Progress.WAITING_FOR_RETRY
        assert third.numbers == numbers[2:]
    await scene.trim(scene.shards[0])
    assert await _progress(scene) is Progress.GAP


# Failures.


async def test_a_record_that_failed_comes_again_under_a_new_epoch_with_all_that_follows(scene: Scene) -> None:
    numbers = await scene.write("a", "b", "c", "d")
    async with scene.joined(batch_records_max=2, in_flight_records_max=4) as member:
        await member.begin()
        first, second = await member.batch(), await member.batch()
        failed = await member.nack(first, numbers[1], message="boom")
        assert (failed.epoch, failed.number, failed.attempts, failed.is_parked) == (first.epoch, numbers[1], 1, False)
        assert failed.retry_time_ms == scene.engine.clock.ms
        # All before it is processed, all after it is void.
        assigned = await member.take(events.Assigned)
        assert scene.state() == ShardState(
            checkpoint=numbers[1] - 1,
            epoch=assigned.epoch,
            failed_number=numbers[1],
            attempts=1,
            last_error="boom",
            retry_time_ms=scene.engine.clock.ms,
        )
        assert assigned.epoch > first.epoch
        assert assigned.checkpoint == numbers[1] - 1
        assert [(await member.batch()).numbers for _ in range(2)] == [numbers[1:3], numbers[3:]]
        await member.say_ack(second)
        assert isinstance((await member.take(events.Refused)).error, LeaseFencedError)


async def test_a_failure_waits_for_its_time_whoever_holds_the_shard(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = await scene.write("a", "b")
    async with scene.joined() as member:
        await member.begin()
        failed = await member.nack(await member.batch(), numbers[0], retry_seconds=900.0)
        assert failed.retry_time_ms == scene.engine.clock.ms + 900_000
        await member.take(events.Assigned)
        await member.nothing()
        (held,) = member.session.held.values()
        assert member.session.holding(held).retry_ms > 800_000
    async with scene.joined() as member:
        await member.begin()
        await member.nothing()
        (held,) = member.session.held.values()
        assert member.session.holding(held).retry_ms > 800_000
    scene.engine.clock.ms += 900_000
    monkeypatch.setattr(groups, "BACKOFF_SECONDS_FIRST", 0.001)
    async with scene.joined() as member:
        await member.begin()
        for attempts in (2, 3):
            failed = await member.nack(await member.batch(), numbers[0], retry_seconds=None)
            assert failed.retry_time_ms == scene.engine.clock.ms + 2 ** (attempts - 1)
            assert failed.attempts == attempts
            await member.take(events.Assigned)
        # A failure of another record counts from the beginning.
        batch = await member.batch()
        assert (await member.nack(batch, numbers[1])).attempts == 1


def test_the_wait_for_a_retry_doubles_up_to_a_bound() -> None:
    waits = [groups.backoff_seconds(attempts) for attempts in (1, 2, 3, 9, 10, 1_000_000)]
    assert waits == [0.1, 0.2, 0.4, 25.6, 30.0, 30.0]


async def test_an_acknowledgement_of_the_record_forgets_its_failures(scene: Scene) -> None:
    numbers = await scene.write("a", "b", "c")
    async with scene.joined() as member:
        await member.begin()
        await member.nack(await member.batch(), numbers[1])
        await member.take(events.Assigned)
        again = await member.batch()
        await member.ack(again, numbers[1])
        assert scene.state() == ShardState(checkpoint=numbers[1], epoch=again.epoch)


async def test_what_is_wrong_with_a_nack_is_told_and_voids_nothing(scene: Scene) -> None:
    numbers = await scene.write("a", "b", "c")
    async with scene.joined(batch_records_max=1, in_flight_records_max=2) as member:
        await member.begin()
        first, second = await member.batch(), await member.batch()
        await member.ack(first)
        third = await member.batch()
        for number in (numbers[0], numbers[2] + 1):
            await member.say_nack(second, number)
            refused = await member.take(events.Refused)
            assert (refused.number, type(refused.error)) == (number, ValidationError)
        await member.ack(third)
        assert scene.state() == ShardState(checkpoint=numbers[2], epoch=third.epoch)


async def test_a_member_whose_farewell_is_refused_has_not_said_it(scene: Scene) -> None:
    await _finish_root(scene)
    await _numbers_of_two_shards(scene, 1)
    async with scene.joined("one") as one:
        await one.take(events.Started)
        for _ in range(2):
            await one.take(events.Assigned)
        batch, _ = await one.batch(), await one.batch()
        await one.ack(batch)
        await one.say_nack(batch, batch.number, SHUTDOWN)
        assert isinstance((await one.take(events.Refused)).error, ValidationError)
        assert not one.session.is_leaving


async def test_a_record_of_no_number_in_between_is_refused(scene: Scene) -> None:
    numbers = await scene.write("a")
    await scene.engine.do(lambda group: group.next_sequence_number())
    numbers += await scene.write("a")
    async with scene.joined() as member:
        await member.begin()
        batch = await member.batch()
        if batch.numbers != numbers:
            batch = await member.batch()
        await member.say_nack(batch, numbers[0] + 1)
        assert isinstance((await member.take(events.Refused)).error, ValidationError)


async def test_a_member_that_is_about_to_leave_hands_over_without_an_attempt(scene: Scene) -> None:
    numbers = await scene.write("a", "b")
    async with scene.joined("one") as one, scene.joined("two") as two:
        await one.begin()
        await two.take(events.Started)
        failed = await one.nack(await one.batch(), numbers[1], SHUTDOWN)
        assert (failed.attempts, failed.retry_time_ms) == (0, None)
        await one.take(events.Revoked)
        assert (await two.take(events.Assigned)).checkpoint == numbers[1] - 1
        batch = await two.batch()
        assert batch.numbers == numbers[1:]
        # If all are about to leave, it goes to any of them.
        await two.nack(batch, numbers[1], SHUTDOWN)
        await one.until(events.Assigned)
        assert scene.state().attempts == 0


async def test_a_sole_member_that_is_about_to_leave_gets_it_back(scene: Scene) -> None:
    numbers = await scene.write("a")
    async with scene.joined() as member:
        await member.begin()
        await member.nack(await member.batch(), numbers[0], SHUTDOWN)
        await member.take(events.Revoked)
        await member.take(events.Assigned)
        assert (await member.batch()).numbers == numbers


async def _parked(scene: Scene, member: Someone, batch: Got, number: int) -> str:
    failed = await member.nack(batch, number, FATAL, message="poison")
    assert (failed.is_parked, failed.retry_time_ms) == (True, None)
    await member.take(events.Assigned)
    return scene.groups.parking.keys(GROUP)[-1].parked_id


async def test_a_key_is_parked_and_the_others_go_on(scene: Scene) -> None:
    numbers = await scene.write("a", "b", "a", "b")
    async with scene.joined() as member:
        await member.begin()
        await _parked(scene, member, await member.batch(), numbers[0])
        (parked,) = scene.groups.parking.keys(GROUP)
        assert (parked.sequence_number, parked.attempts, parked.last_error) == (numbers[0], 1, "poison")
        # The checkpoint is past it; later records of the key are set aside before the others are sent.
        batch = await member.batch()
        assert scene.state() == ShardState(checkpoint=numbers[0], epoch=batch.epoch)
        assert (batch.numbers, batch.number) == ([numbers[1], numbers[3]], numbers[3])
        assert scene.groups.parking.usage(parked)[0] == 2
        # A batch of which nothing is left moves the position, which is told at once.
        more = await scene.write("a")
        batch = await member.batch()
        assert (batch.numbers, batch.number) == ([], more[0])
        await member.ack(batch)
        assert scene.state().checkpoint == more[0]


async def test_records_of_parked_keys_wait_while_too_many_writes_wait(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = await scene.write("a")
    async with scene.joined() as member:
        await member.begin()
        await _parked(scene, member, await member.batch(), numbers[0])
        change, refusals = scene.engine.committer.change, 0

        async def refusing(plan: Callable[[Group], Any], size_bytes: int = 0) -> Any:
            nonlocal refusals
            if refusals < 3:
                refusals += 1
                raise ThrottlingError("too many writes are waiting", retry_after_ms=50)
            return await change(plan, size_bytes)

        monkeypatch.setattr(scene.engine.committer, "change", refusing)
        more = await scene.write("a", "b")
        assert (await member.batch()).numbers == more[1:]
        assert refusals == 3


async def test_what_is_parked_wakes_only_who_waits_for_it(scene: Scene) -> None:
    await _finish_root(scene)
    key = scene.key_of(scene.open_shards[0])
    (number,) = await scene.write(key)
    async with scene.joined("one") as one:
        await one.take(events.Started)
        for _ in range(2):
            await one.take(events.Assigned)
        await _parked(scene, one, await one.batch(), number)
        await one.nothing()
        one.session._wakeup.clear()
        one.session.parking_changed()
        assert not await one.session._wakeup.wait(0.0)
        # It has to look again for more of a key that it redrives.
        await scene.groups.redrive(GROUP, "")
        scene.members.rebalance(GROUP)
        await one.take(events.Assigned)
        redriven = await one.batch()
        more = await scene.write(key)
        # One tells that the shard has moved over it.
        batches = [await one.batch() for _ in range(2)]
        assert [batch.numbers for batch in batches if batch.source_id == redriven.source_id] == [more]


async def test_batches_without_records_of_parked_keys_cost_no_commit(scene: Scene) -> None:
    numbers = await scene.write("a")
    async with scene.joined() as member:
        await member.begin()
        await _parked(scene, member, await member.batch(), numbers[0])
        more = await scene.write("b", "c")
        entries = len(scene.engine.journal.entries)
        batch = await member.batch()
        assert (batch.numbers, len(scene.engine.journal.entries)) == (more, entries)


async def test_a_record_is_parked_when_it_has_failed_so_often(scene: Scene) -> None:
    numbers = await scene.write("a", "b")
    async with scene.joined(attempts_max=3) as member:
        await member.begin()
        for attempts in (1, 2, 3):
            failed = await member.nack(await member.batch(), numbers[0])
            assert (failed.attempts, failed.is_parked) == (attempts, attempts == 3)
            await member.take(events.Assigned)
        assert (await member.batch()).numbers == numbers[1:]
    async with scene.joined(attempts_max=0) as member:
        await member.begin()
        for attempts in range(1, 6):
            failed = await member.nack(await member.batch(), numbers[1])
            assert (failed.attempts, failed.is_parked) == (attempts, False)
            await member.take(events.Assigned)


async def test_parked_records_are_delivered_again_in_order_and_then_the_key_flows(scene: Scene) -> None:
    numbers = await scene.write("a", "b", "a", "a")
    async with scene.joined(batch_records_max=2) as member:
        await member.begin()
        batch, _ = await member.batch(), await member.batch()
        parked_id = await _parked(scene, member, batch, numbers[0])
        await member.ack(await _batch_to(member, numbers[3]))
        assert await scene.groups.redrive(GROUP, "") == 1
        assert await scene.groups.redrive(GROUP, parked_id) == 0
        scene.members.rebalance(GROUP)
        assigned = await member.take(events.Assigned)
        assert (assigned.source_id, assigned.kind, assigned.checkpoint) == (parked_id, events.SourceKind.PARKED, None)
        first, second = await member.batch(), await member.batch()
        assert (first.numbers, second.numbers) == ([numbers[0], numbers[2]], [numbers[3]])
        await member.ack(first)
        # What comes meanwhile is set aside behind the others.
        more = await scene.write("a")
        assert {(await member.batch()).source_id for _ in range(2)} == {parked_id, scene.shards[0].shard_id}
        await member.say_ack(second, more[0])
        await member.take(events.Checkpointed)
        assert (await member.take(events.Ended)).source_id == parked_id
        assert scene.groups.parking.keys(GROUP) == []
        # A late acknowledgement of the end is no mistake.
        await member.ack(second)
        await scene.write("a")
        assert (await member.batch()).source_id == scene.shards[0].shard_id


async def _batch_to(member: Someone, number: int) -> Got:
    while (batch := await member.batch()).number < number:
        pass
    return batch


async def test_a_redriven_key_that_fails_again_stays_parked(scene: Scene) -> None:
    numbers = await scene.write("a", "a", "a")
    async with scene.joined("one") as member:
        await member.begin()
        parked_id = await _parked(scene, member, await member.batch(), numbers[0])
        await member.batch()
        await scene.groups.redrive(GROUP, parked_id)
        scene.members.rebalance(GROUP)
        await member.take(events.Assigned)
        batch = await member.batch()
        failed = await member.nack(batch, numbers[1], message="again")
        assert (failed.is_parked, failed.attempts) == (True, 2)
        assert (await member.take(events.Revoked)).source_id == parked_id
        (parked,) = scene.groups.parking.keys(GROUP)
        assert (parked.is_redriving, parked.attempts, parked.last_error) == (False, 2, "again")
        # All before it is processed.
        assert [number for number, _ in scene.groups.parking.read(parked, 0, 10, 10**6)] == numbers[1:]
        await scene.groups.redrive(GROUP, parked_id)
        scene.members.rebalance(GROUP)
        assert (await member.take(events.Assigned)).epoch > batch.epoch
        assert (await member.batch()).numbers == numbers[1:]


async def test_a_discarded_key_is_no_longer_delivered_and_its_newer_records_are(scene: Scene) -> None:
    numbers = await scene.write("a", "a")
    async with scene.joined() as member:
        await member.begin()
        parked_id = await _parked(scene, member, await member.batch(), numbers[0])
        await member.batch()
        await scene.groups.redrive(GROUP, parked_id)
        scene.members.rebalance(GROUP)
        await member.take(events.Assigned)
        batch = await member.batch()
        assert await scene.groups.discard(GROUP, parked_id) == 2
        scene.members.rebalance(GROUP)
        assert (await member.take(events.Revoked)).source_id == parked_id
        await member.say_ack(batch)
        assert isinstance((await member.take(events.Refused)).error, LeaseFencedError)
        more = await scene.write("a")
        assert (await member.batch()).numbers == more


async def test_without_room_to_park_a_record_is_tried_for_ever(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.consumers.parking.PARKED_KEYS_MAX", 1)
    numbers = await scene.write("a", "b")
    async with scene.joined() as member:
        await member.begin()
        await _parked(scene, member, await member.batch(), numbers[0])
        for attempts in (1, 2):
            failed = await member.nack(await member.batch(), numbers[1], FATAL)
            assert (failed.attempts, failed.is_parked, failed.retry_time_ms) == (attempts, False, scene.engine.clock.ms)
            await member.take(events.Assigned)


async def test_a_shard_waits_before_a_record_that_can_neither_be_sent_nor_parked(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.consumers.parking.PARKED_RECORDS_MAX", 2)
    numbers = await scene.write("a", "b", "a", "b", "a", "b")
    async with scene.joined() as member:
        await member.begin()
        parked_id = await _parked(scene, member, await member.batch(), numbers[0])
        batch = await member.batch()
        assert (batch.numbers, batch.number) == ([numbers[1], numbers[3]], numbers[4] - 1)
        await member.nothing()
        (held,) = member.session.held.values()
        assert member.session.holding(held).is_blocked
        # It goes on as soon as there is room.
        await scene.groups.discard(GROUP, parked_id)
        scene.members.rebalance(GROUP)
        assert (await member.batch()).numbers == numbers[4:]


# Gaps.


async def test_a_gap_ends_the_session_of_who_does_not_skip(scene: Scene) -> None:
    numbers = await scene.write("a", count=2)
    await scene.trim(scene.shards[0])
    async with scene.joined() as member:
        await member.begin()
        with pytest.raises(TrimmedDataAccessError) as lost:
            await member.next()
        assert (lost.value.gap.shard_id, lost.value.gap.last_lost) == (scene.shards[0].shard_id, numbers[-1])


# Else a member that is killed just after the gap was noted would be the only one to know of it.
async def test_a_gap_is_told_to_all_who_skip_until_one_acknowledges_what_follows(scene: Scene) -> None:
    numbers = await scene.write("a", count=2)
    await scene.trim(scene.shards[0])
    more = await scene.write("a", "b")
    for _ in range(2):
        async with scene.joined(skips_gaps=True) as member:
            await member.begin()
            lost = await member.take(events.Lost)
            assert (lost.gap.last_lost, lost.number) == (numbers[-1], numbers[-1])
            batch = await member.batch()
            assert batch.numbers == more
    async with scene.joined(skips_gaps=True) as member:
        await member.begin()
        await member.take(events.Lost)
        await member.ack(await member.batch(), more[0])
    async with scene.joined() as member:
        await member.begin()
        assert (await member.batch()).numbers == more[1:]


async def test_a_gap_itself_may_be_acknowledged(scene: Scene) -> None:
    numbers = await scene.write("a", count=2)
    await scene.trim(scene.shards[0])
    async with scene.joined(skips_gaps=True) as member:
        await member.begin()
        await member.ack(await member.take(events.Lost))
    assert scene.state().checkpoint == numbers[-1]
    async with scene.joined() as member:
        await member.begin()
        await member.nothing()


async def test_a_gap_comes_after_what_was_sent_and_leaves_the_checkpoint(scene: Scene) -> None:
    numbers = await scene.write("a", count=3)
    async with scene.joined(batch_records_max=1, in_flight_records_max=1, skips_gaps=True) as member:
        await member.begin()
        batch = await member.batch()
        await scene.trim(scene.shards[0])
        await member.nothing()
        await member.ack(batch)
        assert (await member.take(events.Lost)).gap.first_lost == numbers[0] + 1
        assert scene.state().checkpoint == numbers[0]


async def test_a_new_group_that_begins_at_the_oldest_record_has_no_gap(engine: Engine) -> None:
    scene = await Scene(engine).open(None)
    await scene.write("a")
    await scene.trim(scene.shards[0])
    more = await scene.write("a")
    async with scene.joined() as member:
        await member.begin()
        assert (await member.batch()).numbers == more


@pytest.mark.parametrize("was_begun", [False, True])
async def test_records_of_a_parent_that_has_vanished_are_a_gap_before_its_children(
    scene: Scene, was_begun: bool
) -> None:
    numbers = await scene.write("a", count=2)
    if was_begun:
        async with scene.joined() as member:
            await member.begin()
            await member.ack(await member.batch(), numbers[0])
    await scene.split()
    more = await scene.write("a")
    await scene.trim(scene.shards[0], vanish=True)
    assert len(scene.shards) == 2
    async with scene.joined() as member:
        await member.take(events.Started)
        with pytest.raises(TrimmedDataAccessError) as lost:
            await member.next()
        assert lost.value.gap.last_lost == numbers[-1]
    # It is told until it is acknowledged, or what follows it.
    for _ in range(2):
        async with scene.joined(skips_gaps=True) as member:
            await member.take(events.Started)
            seen = [await member.next() for _ in range(5)]
            assert [event.gap.last_lost for event in seen if isinstance(event, events.Lost)] == [numbers[-1]] * 2
            assert [event.numbers for event in seen if isinstance(event, Got)] == [more]
    # The state of the parent is no longer needed.
    assert scene.groups.get(GROUP).shards.keys() == {shard.shard_id for shard in scene.shards}
    async with scene.joined(skips_gaps=True) as member:
        await member.take(events.Started)
        seen = [await member.next() for _ in range(5)]
        (batch,) = [event for event in seen if isinstance(event, Got)]
        (other,) = [event for event in seen if isinstance(event, events.Lost) and event.source_id != batch.source_id]
        for event in (batch, other):
            await member.say_ack(event)
            await member.until(events.Checkpointed)
    async with scene.joined() as member:
        await member.take(events.Started)
        for _ in range(2):
            await member.take(events.Assigned)
        await member.nothing()
    assert [state.gap for state in scene.groups.get(GROUP).shards.values()] == [None, None]


async def test_a_group_made_after_a_split_is_told_of_a_parent_that_vanishes_unread(scene: Scene) -> None:
    await scene.groups.delete(GROUP)
    numbers = await scene.write("a", count=2)
    await scene.split()
    await scene.groups.ensure(GROUP, scene.arn, OLDEST)
    await scene.write("a")
    await scene.trim(scene.shards[0], vanish=True)
    async with scene.joined() as member:
        await member.take(events.Started)
        with pytest.raises(TrimmedDataAccessError) as lost:
            await member.next()
        assert lost.value.gap.last_lost == numbers[-1]


@pytest.mark.parametrize("skips_gaps", [False, True])
async def test_a_parent_that_vanishes_while_it_is_read_is_a_gap(scene: Scene, skips_gaps: bool) -> None:
    numbers = await scene.write("a", count=3)
    await scene.split()
    more = await scene.write("a")
    async with scene.joined(batch_records_max=1, in_flight_records_max=1, skips_gaps=skips_gaps) as member:
        await member.begin()
        batch = await member.batch()
        await scene.trim(scene.shards[0], vanish=True)
        await member.say_ack(batch)
        if not skips_gaps:
            with pytest.raises(TrimmedDataAccessError) as error:
                await member.until(events.Ended)
            assert (error.value.gap.first_lost, error.value.gap.last_lost) == (numbers[0] + 1, numbers[-1])
            return
        lost = await member.until(events.Lost)
        assert (lost.gap.first_lost, lost.gap.last_lost) == (numbers[0] + 1, numbers[-1])
        while not isinstance(event := await member.next(), Got) or not event.numbers:
            if isinstance(event, events.Ended):
                await member.say_ack(event)
        assert event.numbers == more


async def test_a_group_that_begins_exactly_in_a_vanished_shard_is_told_what_it_has_lost(scene: Scene) -> None:
    await scene.groups.delete(GROUP)
    numbers = await scene.write("a", count=5)
    await scene.split()
    await scene.write("a")
    await scene.trim(scene.shards[0], vanish=True)
    start = Start(after=numbers[1], is_exact=True)
    async with scene.joined(start=start) as member:
        await member.take(events.Started)
        with pytest.raises(TrimmedDataAccessError) as lost:
            await member.next()
        assert (lost.value.gap.first_lost, lost.value.gap.last_lost) == (numbers[1] + 1, numbers[-1])
    gaps = [view.gap for view in scene.members.views(scene.groups.get(GROUP))]
    assert gaps == [lost.value.gap] * 2


async def test_what_was_gone_before_a_group_was_made_is_no_gap(scene: Scene) -> None:
    await scene.groups.delete(GROUP)
    await scene.write("a", count=2)
    parent = scene.shards[0]
    await scene.split()
    await scene.write("a")
    for shard in scene.shards:
        await scene.trim(shard)
    await scene.groups.ensure(GROUP, scene.arn, OLDEST)
    more = await scene.write("a")
    await scene.trim(parent, vanish=True)
    async with scene.joined() as member:
        await member.take(events.Started)
        for _ in range(2):
            await member.take(events.Assigned)
        assert (await member.batch()).numbers == more


async def test_a_parent_that_vanished_without_unprocessed_records_is_no_gap(scene: Scene) -> None:
    await scene.write("a", count=2)
    async with scene.joined() as member:
        await member.begin()
        await member.ack(await member.batch())
    await scene.split()
    more = await scene.write("a")
    await scene.trim(scene.shards[0], vanish=True)
    async with scene.joined() as member:
        await member.take(events.Started)
        for _ in range(2):
            await member.take(events.Assigned)
        assert (await member.batch()).numbers == more


# Snapshots.

SNAPSHOT = Start(after=-1, snapshot_ranges=4)


async def _read_snapshot(member: Someone, count: int) -> dict[str, int]:
    """Reads ranges to their ends, acknowledging all; returns the items."""
    items: dict[str, int] = {}
    ended = 0
    while ended < count:
        event = await member.next()
        if isinstance(event, Got):
            assert event.source_id.startswith("snapshotId-")
            items |= {key: value for _, key, value in event.records}
            await member.say_ack(event)
        elif isinstance(event, events.Ended):
            ended += 1
            await member.say_ack(event)
    return items


async def test_a_group_may_begin_with_the_items_and_go_on_with_the_changes_after_them(engine: Engine) -> None:
    scene = await Scene(engine).open(None)
    keys = [f"k{number}" for number in range(20)]
    numbers = dict(zip(keys, await scene.write(*keys), strict=True))
    async with scene.joined(start=SNAPSHOT) as member:
        await member.take(events.Started)
        more = await scene.write("k1", "new")
        assert await _read_snapshot(member, 4) == numbers
        assert (await member.until(events.Assigned)).source_id == scene.shards[0].shard_id
        assert (await member.batch()).numbers == more
    assert scene.groups.get(GROUP).snapshot_ranges == 0
    assert scene.groups.get(GROUP).shards.keys() == {scene.shards[0].shard_id}


async def test_a_range_goes_on_after_its_checkpoint_and_a_record_that_failed_comes_again(engine: Engine) -> None:
    scene = await Scene(engine).open(None)
    keys = [f"k{number}" for number in range(5)]
    written = await scene.write(*keys)
    start = Start(after=-1, snapshot_ranges=1)
    async with scene.joined(start=start) as member:
        await member.begin()
        batch = await member.batch()
        order = [key for _, key, _ in batch.records]
        assert (batch.numbers, sorted(batch.values)) == ([1, 2, 3, 4, 5], written)
        await member.take(events.Ended)
        await member.ack(batch, 2)
    async with scene.joined() as member:
        assert (await member.begin()).checkpoint == 2
        # Changes that come later are not in it.
        await scene.write(*keys)
        end = None
        batch = await member.batch()
        assert [key for _, key, _ in batch.records] == order[2:]
        end = await member.take(events.Ended)
        await member.nack(batch, 4)
        await member.take(events.Assigned)
        again = await member.batch()
        assert (again.numbers, [key for _, key, _ in again.records]) == ([4, 5], order[3:])
        assert set(again.values) <= set(written)
        failed = await member.until(events.Ended)
        assert failed.epoch == again.epoch > end.epoch
        # 4 is parked, and its change waits behind it.
        await member.nack(again, 4, FATAL)
        await member.take(events.Assigned)
        rest = await member.batch()
        assert rest.numbers == [5]
        await member.ack(await member.take(events.Ended))
        await member.take(events.Assigned)
        changes = await member.batch()
        assert {key for _, key, _ in changes.records} == set(keys) - {order[3]}
        (parked,) = scene.groups.parking.keys(GROUP)
        assert scene.groups.parking.usage(parked)[0] == 2


# A client acknowledges the last records and then the end, which has the same number, and does not wait in between.
async def test_what_finishes_a_source_may_be_said_twice_before_it_is_durable(engine: Engine) -> None:
    scene = await Scene(engine).open(None)
    await scene.write("a")
    async with scene.joined(start=Start(after=-1, snapshot_ranges=1)) as member:
        await member.begin()
        batch, end = await member.batch(), await member.take(events.Ended)
        await member.say_ack(batch)
        await member.say_ack(end)
        # Both are answered before what follows begins.
        for _ in range(2):
            assert (await member.take(events.Checkpointed)).source_id == batch.source_id
        await member.take(events.Assigned)
        (number,) = await scene.write("b")
        parked_id = await _parked(scene, member, await member.batch(), number)
        await scene.groups.redrive(GROUP, parked_id)
        scene.members.rebalance(GROUP)
        await member.take(events.Assigned)
        redriven = await member.batch()
        await member.say_ack(redriven)
        await member.say_ack(redriven)
        assert [type(await member.next()) for _ in range(3)] == [events.Checkpointed, events.Ended, events.Checkpointed]


async def test_after_a_restart_the_rest_of_a_snapshot_is_read_as_it_is_then(engine: Engine) -> None:
    scene = await Scene(engine).open(None)
    keys = [f"k{number}" for number in range(6)]
    await scene.write(*keys)
    async with scene.joined(start=Start(after=-1, snapshot_ranges=1)) as member:
        await member.begin()
        batch = await member.batch()
        order = [key for _, key, _ in batch.records]
        await member.take(events.Ended)
        await member.ack(batch, 3)
    changed = await scene.write(*keys)
    restarted = Scene(engine)
    restarted.arn = scene.arn
    async with restarted.joined() as member:
        await member.begin()
        batch = await member.batch()
        assert [key for _, key, _ in batch.records] == order[3:]
        assert set(batch.values) <= set(changed)
        await member.ack(await member.take(events.Ended))
        await member.take(events.Assigned)
        # What it held already comes again.
        assert (await member.batch()).numbers == changed


async def test_a_snapshot_whose_table_is_gone_has_no_more_items(engine: Engine) -> None:
    scene = await Scene(engine).open(None)
    await scene.write("a")
    async with scene.joined(start=SNAPSHOT) as member:
        await member.begin()
    await scene.write("a")
    await engine.catalog.delete_table("pets")
    restarted = Scene(engine)
    restarted.arn = scene.arn
    async with restarted.joined() as member:
        assert (await member.begin()).source_id == scene.shards[0].shard_id
        assert len((await member.batch()).records) == 1


async def test_snapshots_of_groups_without_members_make_way_for_others(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.consumers.members.SNAPSHOTS_MAX", 1)
    scene = await Scene(engine).open(None)
    await scene.write("a")
    async with scene.joined(start=SNAPSHOT) as member:
        await member.begin()
        assert scene.members.snapshot(scene.groups.get(GROUP)) is not None
        other = consume.MemberSettings(group_name="other")
        with pytest.raises(ThrottlingError, match="which is the limit"):
            await scene.members.session(other, scene.arn, SNAPSHOT, member.outlet)
        # Nothing is made, so the same call succeeds when there is room.
        assert scene.groups.find("other") is None
    await scene.members.session(other, scene.arn, SNAPSHOT, member.outlet)
    assert scene.members.snapshot(scene.groups.get(GROUP)) is None
    assert scene.members.snapshot(scene.groups.get("other")) is not None
    # The group goes on all the same, with the rest as it is now.
    async with scene.joined() as member:
        await member.take(events.Started)
        assert set(await _read_snapshot(member, 4)) == {"a"}
        await member.until(events.Assigned)
        # What is read holds nothing any more.
        assert scene.members.snapshot(scene.groups.get(GROUP)) is None


async def test_a_member_whose_snapshot_has_made_way_starts_again(engine: Engine) -> None:
    scene = await Scene(engine).open(None)
    await scene.write("a")
    member = await scene.join(start=SNAPSHOT)
    # Between the session's making and its first step.
    scene.members._snapshots.clear()
    with pytest.raises(UnavailableError):
        await member.until(events.Assigned)
    async with scene.joined() as member:
        await member.take(events.Started)
        assert set(await _read_snapshot(member, 4)) == {"a"}


async def test_a_new_group_does_not_read_the_snapshot_of_an_older_one(engine: Engine) -> None:
    scene = await Scene(engine).open(None)
    await scene.write("a")
    async with scene.joined(start=SNAPSHOT) as member:
        await member.begin()
    await engine.do(lambda group: scene.groups.plan_forget(group, GROUP))
    (number,) = await scene.write("a")
    await scene.groups.ensure(GROUP, scene.arn, Start(after=number, snapshot_ranges=4))
    async with scene.joined() as member:
        await member.take(events.Started)
        assert await _read_snapshot(member, 4) == {"a": number}


# Everything at once.


@settings(max_examples=25)
@given(
    st.integers(1, 5),
    st.integers(1, 8),
    st.lists(st.integers(1, 6), min_size=1, max_size=5),
    st.randoms(use_true_random=True),
)
def test_every_record_comes_once_in_order_and_within_the_credit(
    batch: int, credit: int, blocks: list[int], random: Random
) -> None:
    async def scenario(engine: Engine) -> None:
        scene = await Scene(engine).open()
        numbers = [number for size in blocks for number in await scene.write("a", count=size)]
        processed: list[int] = []
        while len(processed) < len(numbers):
            # Whatever a member leaves unacknowledged comes again to the next one.
            async with scene.joined(batch_records_max=batch, in_flight_records_max=credit) as member:
                await member.begin()
                waiting: list[Got] = []
                for _ in range(random.randint(1, 6)):
                    in_flight = [number for got in waiting for number in got.numbers]
                    left = numbers[len(processed) + len(in_flight) :]
                    if left and len(in_flight) < credit:
                        got = await member.batch()
                        assert 1 <= len(got.records) <= min(batch, credit - len(in_flight))
                        assert got.numbers == left[: len(got.records)]
                        waiting.append(got)
                    else:
                        await member.nothing()
                    done = random.randint(0, len(waiting))
                    if done:
                        await member.say_ack(waiting[done - 1])
                        await _answered(member, waiting)
                        processed += [number for got in waiting[:done] for number in got.numbers]
                        waiting = waiting[done:]
        assert processed == numbers

    run_on_new_store(scenario)


async def _answered(member: Someone, waiting: list[Got]) -> None:
    """Takes the answer to an acknowledgement; batches may come before it."""
    while not isinstance(event := await member.next(), events.Checkpointed):
        assert isinstance(event, Got)
        waiting.append(event)


class Trouble:
    """A table that is written to and resharded, and members that crash and fail records, all at random."""

    def __init__(self, scene: Scene, start: Start, random: Random) -> None:
        self.scene = scene
        self.start = start
        self.random = random
        self.written: dict[str, list[int]] = {f"k{number}": [] for number in range(4)}
        # Values, which are the same in the snapshot and in the log.
        self.processed: dict[str, list[int]] = {key: [] for key in self.written}

    async def write(self) -> None:
        for key in self.random.choices(list(self.written), k=self.random.randint(1, 6)):
            self.written[key] += await self.scene.write(key)

    async def reshard(self) -> None:
        shards = self.scene.open_shards
        if len(shards) == 1 or self.random.random() < 0.6:
            await self.scene.split(self.random.choice(shards))
        else:
            index = self.random.randrange(len(shards) - 1)
            await self.scene.merge(shards[index], shards[index + 1])

    async def work(self, members: int, turns: int, failures: float) -> None:
        """Lets members process so many events, of which such a part fails, and then crash."""
        there = [
            await self.scene.join(
                start=self.start,
                attempts_max=2,
                batch_records_max=self.random.randint(1, 5),
                in_flight_records_max=8,
                # At once, or never in this test.
                revoke_seconds=self.random.choice((0, 300)),
            )
            for _ in range(members)
        ]
        for _ in range(turns):
            if not (busy := [member for member in there if await _has_event(member)]):
                break
            member = self.random.choice(busy)
            event = await member.next()
            if isinstance(event, events.Ended) and event.source_id in member.epochs:
                await member.say_ack(event)
            if isinstance(event, Got) and self.may_process(member, event):
                await self.process(member, event, failures)
            if self.random.random() < 0.1:
                await self.redrive()
        for member in there:
            await member.leave()

    @staticmethod
    def may_process(member: Someone, got: Got) -> bool:
        """Whether neither the member nor the epoch, as a fencing token, forbids to process a batch."""
        held = member.session.held.get(got.source_id)
        return held is not None and held.epoch == got.epoch == member.epochs.get(got.source_id)

    async def process(self, member: Someone, got: Got, failures: float) -> None:
        if not got.records or self.random.random() >= failures:
            self.note(got, got.number)
            await member.say_ack(got)
            return
        failed = self.random.choice(got.numbers)
        self.note(got, failed - 1)
        await member.say_nack(got, failed, self.random.choice(list(NackReason)))
        # What was sent after it is void.
        member.epochs[got.source_id] = 0

    def note(self, got: Got, up_to: int) -> None:
        for number, key, value in got.records:
            if number <= up_to:
                self.processed[key].append(value)

    async def redrive(self) -> None:
        await self.scene.groups.redrive(GROUP, "")
        self.scene.members.rebalance(GROUP)

    async def finish(self) -> None:
        """Processes everything that is left; nothing fails any more."""
        await self.redrive()
        while self.scene.groups.parking.keys(GROUP) or _is_behind(self.scene):
            await self.work(1, 1000, 0.0)
            await self.redrive()


@pytest.mark.parametrize("start", [OLDEST, Start(after=-1, snapshot_ranges=2)])
@settings(max_examples=25)
@given(st.randoms(use_true_random=True))
def test_whatever_fails_each_key_is_processed_in_order_and_nothing_is_lost(start: Start, random: Random) -> None:
    async def scenario(engine: Engine) -> None:
        trouble = Trouble(await Scene(engine).open(None), start, random)
        await trouble.write()
        for _ in range(6):
            await trouble.write()
            if random.random() < 0.5:
                await trouble.reshard()
            await trouble.work(random.randint(1, 3), random.randint(1, 25), 0.3)
        await trouble.finish()
        for key, written in trouble.written.items():
            # What was processed, and was not durable when a member crashed, comes again; the first deliveries count.
            firsts = list(dict.fromkeys(trouble.processed[key]))
            # A snapshot holds the newest of the values before it, and leaves out the older ones.
            assert firsts == (written if start is OLDEST else [value for value in written if value in firsts])
            assert firsts[-1:] == written[-1:]

    run_on_new_store(scenario)


async def _has_event(member: Someone) -> bool:
    """Whether anything was sent, or comes before the member has nothing left to do."""
    for _ in range(300):
        if not member.outlet.sent.empty():
            return True
        await asyncio.sleep(0)
    return False


def _is_behind(scene: Scene) -> bool:
    consumer = scene.groups.get(GROUP)
    return bool(consumer.snapshot_ranges) or any(
        not consumer.is_finished(shard)
        and (not shard.is_open or scene.engine.log.lag(shard, consumer.state_of(shard).checkpoint).records)
        for shard in scene.shards
    )


async def test_a_horizon_is_no_checkpoint(scene: Scene) -> None:
    async with scene.joined() as member:
        assert (await member.begin()).checkpoint is None
        assert scene.state().checkpoint == horizon(scene.shards[0])
