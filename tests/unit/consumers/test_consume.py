"""A member's session, against an outlet that keeps what it is given: order, credit, resuming, taking over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.consumers import consume
from broker.consumers.consume import Member, Members, MemberSettings
from broker.consumers.groups import ConsumerGroups, ShardState
from broker.encoding.items import canonicalize
from broker.model.errors import LeaseFencedError, ResourceNotFoundError, ValidationError
from broker.model.tables import Shard
from broker.streams.shards import horizon
from broker.streams.tail import Page
from broker.tables.operations import Put
from headrace.v1.stream_service_pb2 import GetRecordsResponse
from tests.unit.engine import TIMEOUT_S, Engine, run_on_new_store
from tests.values import item

FROM_TRIM_HORIZON = -1


@dataclass(frozen=True, slots=True)
class Sent:
    """One message of a session."""

    kind: str
    shard_id: str = ""
    epoch: int = 0
    number: int = 0
    records: tuple[int, ...] = ()
    more: Any = None


class Outlet:
    """Keeps the messages of a session for the test to take one by one."""

    def __init__(self) -> None:
        self._sent: asyncio.Queue[Sent] = asyncio.Queue()
        # Messages are handed over only while this is set, as by a connection whose other end reads.
        self.is_open = asyncio.Event()
        self.is_open.set()

    async def started(self, *, standby: bool) -> None:
        await self._put(Sent("started", more=standby))

    async def assigned(self, shard: Shard, state: ShardState) -> None:
        await self._put(Sent("assigned", shard.shard_id, state.epoch, state.checkpoint))

    async def records(self, shard: Shard, epoch: int, page: Page) -> None:
        records = GetRecordsResponse.FromString(b"".join(page.parts)).records
        assert len(records) == page.count
        numbers = tuple(int(record.sequence_number) for record in records)
        await self._put(Sent("records", shard.shard_id, epoch, page.last_sequence_number, numbers))

    async def shard_ended(self, shard: Shard, epoch: int, number: int, children: list[Shard]) -> None:
        await self._put(Sent("ended", shard.shard_id, epoch, number, more=[child.shard_id for child in children]))

    async def checkpointed(self, shard_id: str, epoch: int, number: int) -> None:
        raise AssertionError(f"a session answers no acknowledgement by itself: {shard_id} {epoch} {number}")

    async def heartbeat(self) -> None:
        await self._put(Sent("heartbeat"))

    async def take(self, kind: str, besides: tuple[str, ...] = ("heartbeat",)) -> Sent:
        """The next message, which must be of a kind, but for those of kinds that may come besides."""
        async with asyncio.timeout(TIMEOUT_S):
            while True:
                sent = await self._sent.get()
                if sent.kind == kind:
                    return sent
                assert sent.kind in besides, f"{sent} instead of {kind}"

    async def take_nothing(self) -> None:
        """Checks that nothing is sent until something else happens."""
        for _ in range(20):
            await asyncio.sleep(0)
        assert self._sent.empty(), self._sent.get_nowait()

    async def _put(self, sent: Sent) -> None:
        await self.is_open.wait()
        self._sent.put_nowait(sent)


@dataclass(frozen=True, slots=True)
class Session:
    """A member that runs, and what it has sent."""

    member: Member
    outlet: Outlet
    running: asyncio.Task[None]

    async def ack(self, sent: Sent, number: int | None = None) -> None:
        async with asyncio.timeout(TIMEOUT_S):
            await self.member.acknowledge(sent.shard_id, sent.epoch, sent.number if number is None else number)

    async def leave(self) -> None:
        self.running.cancel()
        await asyncio.wait({self.running})


class Scene:
    """A table with a stream, and a group that reads it."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.groups = ConsumerGroups(engine.store, engine.committer, {})
        self.members = Members(self.groups)
        self.arn = ""

    async def open(self, start_after: int = FROM_TRIM_HORIZON) -> Scene:
        table = await self.engine.table()
        assert table.stream is not None
        self.arn = self.engine.catalog.stream_arn(table.stream)
        await self.groups.ensure("totals", self.arn, start_after)
        return self

    async def write(self, count: int) -> list[int]:
        """Makes so many records in one block; returns their sequence numbers."""
        table = self.engine.catalog.open_table("pets")
        first = self.engine.committer.last_sequence_number + 1
        puts = []
        for number in range(first, first + count):
            whole = item(id="a", n=number)
            puts.append(Put(table, table.keys.of_item(whole), canonicalize(whole), None))
        await self.engine.committer.submit(puts)
        return list(range(first, first + count))

    def join(self, name: str = "one", batch: int = 1000, credit: int = 10_000) -> Session:
        given_settings = MemberSettings(
            group_name="totals", member_name=name, batch_records_max=batch, in_flight_records_max=credit
        )
        member = Member(given_settings, self.arn, self.engine.catalog, self.groups, self.engine.log)
        outlet = Outlet()
        return Session(member, outlet, asyncio.create_task(member.run(self.members, outlet)))

    @asynccontextmanager
    async def joined(self, name: str = "one", batch: int = 1000, credit: int = 10_000) -> AsyncIterator[Session]:
        session = self.join(name, batch, credit)
        try:
            yield session
        finally:
            await session.leave()

    def state(self, shard_id: str) -> ShardState:
        return self.groups.get("totals").shards[shard_id]


@pytest.fixture
async def scene(engine: Engine) -> Scene:
    return await Scene(engine).open()


async def test_a_member_is_told_that_it_holds_then_its_shard_then_its_records(scene: Scene) -> None:
    numbers = await scene.write(3)
    async with scene.joined() as session:
        assert (await session.outlet.take("started")).more is False
        assigned = await session.outlet.take("assigned")
        assert (assigned.epoch, assigned.number) == (1, horizon(scene.engine.catalog.stream(scene.arn).shards[0]))
        page = await session.outlet.take("records")
        assert page == Sent("records", assigned.shard_id, 1, numbers[-1], tuple(numbers))
        await session.outlet.take_nothing()
        more = await scene.write(2)
        assert (await session.outlet.take("records")).records == tuple(more)


async def test_a_member_that_comes_again_goes_on_exactly_after_the_checkpoint(scene: Scene) -> None:
    start = horizon(scene.engine.catalog.stream(scene.arn).shards[0])
    numbers = await scene.write(6)
    for begin, acknowledged in ((0, 2), (2, 3), (3, 3), (3, 6)):
        async with scene.joined() as session:
            await session.outlet.take("started")
            assert (await session.outlet.take("assigned")).number == (numbers[begin - 1] if begin else start)
            page = await session.outlet.take("records")
            assert page.records == tuple(numbers[begin:])
            await session.ack(page, numbers[acknowledged - 1])
    async with scene.joined() as session:
        await session.outlet.take("started")
        assert (await session.outlet.take("assigned")).number == numbers[-1]
        await session.outlet.take_nothing()


async def test_without_an_acknowledgement_everything_comes_again(scene: Scene) -> None:
    numbers = await scene.write(3)
    for epoch in (1, 2, 3):
        async with scene.joined() as session:
            await session.outlet.take("started")
            await session.outlet.take("assigned")
            page = await session.outlet.take("records")
            assert (page.records, page.epoch) == (tuple(numbers), epoch)


async def test_an_acknowledgement_is_durable_when_it_returns(scene: Scene) -> None:
    (number,) = await scene.write(1)
    async with scene.joined() as session:
        await session.outlet.take("started")
        await session.outlet.take("assigned")
        page = await session.outlet.take("records")
        journal = scene.engine.journal
        begun = len(journal.entries)
        journal.hold()
        acknowledging = asyncio.create_task(session.ack(page))
        await journal.sync_begun(begun + 1)
        assert not acknowledging.done()
        journal.release()
        await acknowledging
        assert journal.synced == begun + 1
        assert scene.state(page.shard_id).checkpoint == number


async def test_no_more_is_sent_than_the_credit_allows(scene: Scene) -> None:
    numbers = await scene.write(10)
    async with scene.joined(batch=4, credit=6) as session:
        await session.outlet.take("started")
        await session.outlet.take("assigned")
        first, second = await session.outlet.take("records"), await session.outlet.take("records")
        assert (first.records, second.records) == (tuple(numbers[:4]), tuple(numbers[4:6]))
        await session.outlet.take_nothing()
        await session.ack(first)
        third = await session.outlet.take("records")
        assert third.records == tuple(numbers[6:10])
        await session.outlet.take_nothing()
        await session.ack(third)
        more = await scene.write(1)
        assert (await session.outlet.take("records")).records == tuple(more)


async def test_records_wait_in_the_log_while_the_connection_is_full(scene: Scene) -> None:
    async with scene.joined(batch=1) as session:
        await session.outlet.take("started")
        await session.outlet.take("assigned")
        session.outlet.is_open.clear()
        numbers = await scene.write(4)
        await session.outlet.take_nothing()
        # One page waits to be handed over; the others are not even read.
        assert scene.engine.log.records_total == 1
        session.outlet.is_open.set()
        assert [(await session.outlet.take("records")).records for _ in range(4)] == [(n,) for n in numbers]


async def test_standbys_take_over_in_order_and_the_old_holder_is_fenced(scene: Scene) -> None:
    numbers = await scene.write(4)
    sessions = [scene.join(name) for name in ("one", "two", "three")]
    starts = [await session.outlet.take("started") for session in sessions]
    assert [start.more for start in starts] == [False, True, True]
    assert scene.members.of("totals") == ["one", "two", "three"]
    old = sessions[0]
    await old.outlet.take("assigned")
    page = await old.outlet.take("records")
    await old.ack(page, numbers[1])
    await old.leave()
    await sessions[1].outlet.take("assigned")
    taken_over = await sessions[1].outlet.take("records")
    assert (taken_over.records, taken_over.epoch) == (tuple(numbers[2:]), 2)
    await sessions[2].outlet.take_nothing()
    # It left, and did not notice: what it still says is not believed.
    with pytest.raises(LeaseFencedError):
        await old.ack(page)
    assert scene.state(page.shard_id).checkpoint == numbers[1]
    await sessions[1].leave()
    await sessions[2].outlet.take("assigned")
    assert (await sessions[2].outlet.take("records")).epoch == 3
    await sessions[2].leave()
    assert scene.members.of("totals") == []


async def test_a_standby_may_leave_before_its_turn(scene: Scene) -> None:
    one, two, three = (scene.join(name) for name in ("one", "two", "three"))
    for session in (one, two, three):
        await session.outlet.take("started")
    await two.leave()
    await one.leave()
    await three.outlet.take("assigned")
    await three.leave()


async def test_only_what_was_sent_under_this_lease_is_acknowledged(scene: Scene) -> None:
    await scene.write(2)
    async with scene.joined(batch=1, credit=1) as session:
        await session.outlet.take("started")
        await session.outlet.take("assigned")
        page = await session.outlet.take("records")
        for wrong in (replace(page, epoch=0), replace(page, epoch=2), replace(page, shard_id="other")):
            with pytest.raises(LeaseFencedError) as fenced:
                await session.ack(wrong)
            assert fenced.value.metadata == {"shard_id": wrong.shard_id, "lease_epoch": str(wrong.epoch)}
        with pytest.raises(ValidationError, match="beyond what was sent") as refused:
            await session.ack(page, page.number + 1)
        assert refused.value.metadata["field"] == "sequence_number"
        await session.ack(page)
        with pytest.raises(ValidationError, match="below the checkpoint"):
            await session.ack(page, page.number - 1)


async def test_nothing_is_acknowledged_before_a_shard_is_held(scene: Scene) -> None:
    async with scene.joined("one") as holder, scene.joined("two") as standby:
        await holder.outlet.take("started")
        shard = await holder.outlet.take("assigned")
        await standby.outlet.take("started")
        with pytest.raises(LeaseFencedError):
            await standby.ack(shard)


async def test_a_disabled_stream_is_read_to_its_end_which_needs_an_acknowledgement(scene: Scene) -> None:
    numbers = await scene.write(2)
    shard_id = scene.engine.catalog.stream(scene.arn).shards[0].shard_id
    await scene.engine.set_stream("pets", None)
    for _ in range(2):
        async with scene.joined() as session:
            await session.outlet.take("started")
            await session.outlet.take("assigned")
            page = await session.outlet.take("records")
            assert page.records == tuple(numbers)
            end = await session.outlet.take("ended")
            assert (end.number, end.more) == (page.number, [])
            assert not scene.state(shard_id).is_finished
    async with scene.joined() as session:
        await session.outlet.take("started")
        await session.outlet.take("assigned")
        await session.outlet.take("records")
        await session.ack(await session.outlet.take("ended"))
        assert scene.state(shard_id).is_finished
        await session.outlet.take_nothing()
    async with scene.joined() as session:
        await session.outlet.take("started")
        await session.outlet.take_nothing()


async def test_an_acknowledgement_below_the_end_does_not_end_a_shard(scene: Scene) -> None:
    numbers = await scene.write(3)
    await scene.engine.set_stream("pets", None)
    async with scene.joined() as session:
        await session.outlet.take("started")
        await session.outlet.take("assigned")
        await session.outlet.take("records")
        end = await session.outlet.take("ended")
        await session.ack(end, numbers[1])
        assert scene.state(end.shard_id) == ShardState(checkpoint=numbers[1], epoch=1)
        await session.ack(end)
        assert scene.state(end.shard_id).is_finished


async def test_a_shard_that_is_closed_meanwhile_ends(scene: Scene) -> None:
    numbers = await scene.write(1)
    async with scene.joined() as session:
        await session.outlet.take("started")
        await session.outlet.take("assigned")
        assert (await session.outlet.take("records")).records == tuple(numbers)
        await scene.engine.set_stream("pets", None)
        end = await session.outlet.take("ended")
        await session.ack(end)
        assert scene.state(end.shard_id) == ShardState(checkpoint=end.number, epoch=1, is_finished=True)


async def test_the_table_may_be_deleted_meanwhile(scene: Scene) -> None:
    numbers = await scene.write(1)
    async with scene.joined() as session:
        await session.outlet.take("started")
        await session.outlet.take("assigned")
        await scene.engine.catalog.delete_table("pets")
        assert (await session.outlet.take("records")).records == tuple(numbers)
        await session.ack(await session.outlet.take("ended"))


async def split(scene: Scene) -> tuple[Shard, Shard]:
    """Closes the stream's shard and opens a child: what a split will do."""

    def plan(group: Any) -> tuple[Shard, Shard]:
        catalog = scene.engine.catalog
        stream = catalog.stream(scene.arn)
        number = group.next_sequence_number()
        parent = replace(stream.shards[0], ending_sequence_number=number)
        child = replace(
            parent,
            id=group.next_id(),
            shard_id="child",
            parent_shard_id=parent.shard_id,
            starting_sequence_number=number + 1,
            ending_sequence_number=None,
        )
        group.close_shard(parent, number)
        catalog.streams.put(group, f"pets/stream/{stream.label}", replace(stream, shards=(parent, child)))
        catalog.open_table("pets").stream = catalog.stream(scene.arn)
        return parent, child

    shards: tuple[Shard, Shard] = await scene.engine.do(plan)
    return shards


async def test_a_child_follows_when_the_end_of_its_parent_is_acknowledged(scene: Scene) -> None:
    before = await scene.write(2)
    parent, child = await split(scene)
    after = await scene.write(2)
    async with scene.joined() as session:
        await session.outlet.take("started")
        assert (await session.outlet.take("assigned")).shard_id == parent.shard_id
        page = await session.outlet.take("records")
        assert page.records == tuple(before)
        end = await session.outlet.take("ended")
        assert end.more == ["child"]
        await session.outlet.take_nothing()
        await session.ack(end)
        assigned = await session.outlet.take("assigned")
        assert (assigned.shard_id, assigned.number) == ("child", child.starting_sequence_number - 1)
        assert (await session.outlet.take("records")).records == tuple(after)
    # A member that comes later does not see the parent again.
    async with scene.joined() as session:
        await session.outlet.take("started")
        assert (await session.outlet.take("assigned")).shard_id == "child"


# The last records and the end have the same number: a client acknowledges both, one after the other.
async def test_the_end_may_be_acknowledged_after_the_last_records_have_been(scene: Scene) -> None:
    await scene.write(2)
    await split(scene)
    async with scene.joined() as session:
        await session.outlet.take("started")
        await session.outlet.take("assigned")
        page = await session.outlet.take("records")
        end = await session.outlet.take("ended")
        await session.ack(page)
        await session.ack(end)
        assert (await session.outlet.take("assigned")).shard_id == "child"
        await session.ack(end)


# The group that begins at the newest record begins there in the shards that are open then, not in those that follow.
async def test_a_group_that_begins_late_reads_children_from_their_beginning(engine: Engine) -> None:
    scene = Scene(engine)
    await scene.open()
    await scene.write(2)
    tip = engine.committer.last_sequence_number
    await scene.groups.delete("totals")
    await scene.groups.ensure("totals", scene.arn, tip)
    _, child = await split(scene)
    after = await scene.write(2)
    async with scene.joined() as session:
        await session.outlet.take("started")
        assert (await session.outlet.take("assigned")).number == tip
        await session.ack(await session.outlet.take("ended"))
        assert (await session.outlet.take("assigned")).number == child.starting_sequence_number - 1
        assert (await session.outlet.take("records")).records == tuple(after)


async def test_a_group_deleted_under_a_member_is_missed_at_its_next_acknowledgement(scene: Scene) -> None:
    await scene.write(1)
    async with scene.joined() as session:
        await session.outlet.take("started")
        await session.outlet.take("assigned")
        page = await session.outlet.take("records")
        await scene.groups.delete("totals")
        with pytest.raises(ResourceNotFoundError):
            await session.ack(page)
        await scene.groups.ensure("totals", scene.arn, FROM_TRIM_HORIZON)
        with pytest.raises(LeaseFencedError):
            await session.ack(page)


async def test_a_member_of_a_group_that_was_made_anew_is_fenced_at_its_next_heartbeat(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consume, "HEARTBEAT_SECONDS", 0.001)
    await scene.engine.set_stream("pets", None)
    async with scene.joined() as session:
        await session.outlet.take("started")
        await session.outlet.take("assigned")
        await session.outlet.take("ended")
        anew = replace(scene.groups.get("totals"), shards={})
        await scene.engine.do(lambda group: scene.groups.documents.put(group, "totals", anew))
        async with asyncio.timeout(TIMEOUT_S):
            with pytest.raises(LeaseFencedError, match="made anew"):
                await session.running
        assert scene.members.of("totals") == []


async def test_who_waits_hears_heartbeats(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consume, "HEARTBEAT_SECONDS", 0.001)
    numbers = await scene.write(1)
    async with scene.joined("one", credit=1) as holder, scene.joined("two") as standby:
        await holder.outlet.take("started")
        await holder.outlet.take("assigned")
        # 1. Who stands by.
        await standby.outlet.take("started")
        await standby.outlet.take("heartbeat")
        # 2. Who has used its credit.
        page = await holder.outlet.take("records")
        await holder.outlet.take("heartbeat")
        await holder.ack(page)
        # 3. Who is at the tip: its heartbeats say where that is.
        idle = await holder.outlet.take("records")
        assert (idle.records, idle.number) == ((), numbers[-1])
        # 4. Who waits for the end's acknowledgement, and who has nothing left to read.
        await scene.engine.set_stream("pets", None)
        end = await holder.outlet.take("ended", besides=("records",))
        await holder.outlet.take("heartbeat")
        await holder.ack(end)
        await holder.outlet.take("heartbeat")


async def test_a_position_that_moves_over_numbers_of_others_is_not_worth_a_message(scene: Scene) -> None:
    async with scene.joined() as session:
        await session.outlet.take("started")
        await session.outlet.take("assigned")
        shard = scene.engine.catalog.stream(scene.arn).shards[0]
        scene.engine.watermarks.of(shard.id).advance(100)
        await session.outlet.take_nothing()


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
        numbers = [number for size in blocks for number in await scene.write(size)]
        processed: list[int] = []
        while len(processed) < len(numbers):
            # Whatever a member leaves unacknowledged comes again to the next one.
            async with scene.joined(batch=batch, credit=credit) as session:
                await session.outlet.take("started")
                await session.outlet.take("assigned")
                waiting: list[Sent] = []
                for _ in range(random.randint(1, 6)):
                    in_flight = [number for sent in waiting for number in sent.records]
                    left = numbers[len(processed) + len(in_flight) :]
                    if left and len(in_flight) < credit:
                        sent = await session.outlet.take("records")
                        assert 1 <= len(sent.records) <= min(batch, credit - len(in_flight))
                        assert list(sent.records) == left[: len(sent.records)]
                        waiting.append(sent)
                    else:
                        await session.outlet.take_nothing()
                    done = random.randint(0, len(waiting))
                    if done:
                        await session.ack(waiting[done - 1])
                        processed += [number for sent in waiting[:done] for number in sent.records]
                        waiting = waiting[done:]
        assert processed == numbers

    run_on_new_store(scenario)
