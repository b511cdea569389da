"""Consumer groups at rest: what each has processed, and who may say so."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import cast

import pytest

from broker.consumers.consume import Member, Members
from broker.consumers.groups import ConsumerGroup, ConsumerGroups, ShardState, check_group_name
from broker.model.errors import LeaseFencedError, ResourceInUseError, ResourceNotFoundError, ValidationError
from broker.model.sequence import format_sequence_number
from broker.model.tables import HASH_MAX, Shard
from broker.storage.rocks import Store
from tests.unit.engine import NOON_MS, Do, Engine, FakeClock, running

ARN = "arn:aws:dynamodb:north:000000000000:table/pets/stream/2023-11-14T22:13:20.000"
FROM_TRIM_HORIZON = -1


def shard(shard_id: str = "shard", parent: str = "") -> Shard:
    return Shard(
        id=1, shard_id=shard_id, parent_shard_id=parent, first_hash=0, last_hash=HASH_MAX, starting_sequence_number=10
    )


@pytest.fixture
def groups(engine: Engine) -> ConsumerGroups:
    return ConsumerGroups(engine.store, engine.committer, {})


@pytest.mark.parametrize("name", ["a", "a" * 128, "trigger:totals", "a.b_c-D9"])
def test_group_names_of_1_to_128_characters_are_taken(name: str) -> None:
    check_group_name(name)


@pytest.mark.parametrize("name", ["", "a" * 129, "a b", "a/b", "\u00e9", "a\n"])
def test_other_group_names_are_refused(name: str) -> None:
    with pytest.raises(ValidationError) as refused:
        check_group_name(name)
    assert refused.value.metadata["field"] == "group_name"


async def test_a_group_is_made_when_it_is_first_named(groups: ConsumerGroups) -> None:
    made = await groups.ensure("totals", ARN, 5)
    assert made == ConsumerGroup(name="totals", stream_arn=ARN, create_time_ms=NOON_MS, start_after=5)
    assert groups.get("totals") == made
    # Where it starts is for new groups only.
    assert await groups.ensure("totals", ARN, 99) == made


async def test_members_that_come_together_find_one_group(groups: ConsumerGroups) -> None:
    made = await asyncio.gather(*(groups.ensure("totals", ARN, number) for number in range(5)))
    assert made == [made[0]] * 5


async def test_a_group_reads_one_stream(groups: ConsumerGroups) -> None:
    await groups.ensure("totals", ARN, 0)
    with pytest.raises(ValidationError, match="reads another stream") as refused:
        await groups.ensure("totals", ARN + "1", 0)
    assert refused.value.metadata["field"] == "stream_arn"
    # Also if both come in one group commit.
    results = await asyncio.gather(
        groups.ensure("sums", ARN, 0), groups.ensure("sums", ARN + "1", 0), return_exceptions=True
    )
    assert isinstance(results[1], ValidationError)


@pytest.mark.parametrize(
    ("start_after", "parent", "expected"),
    [
        (FROM_TRIM_HORIZON, "", 9),
        (5, "", 9),
        (50, "", 50),
        # A child is read from its beginning, wherever the group began.
        (50, "parent", 9),
    ],
)
async def test_a_first_lease_begins_where_the_group_does(
    groups: ConsumerGroups, start_after: int, parent: str, expected: int
) -> None:
    await groups.ensure("totals", ARN, start_after)
    state = await groups.lease("totals", shard(parent=parent), 9)
    assert state == ShardState(checkpoint=expected, epoch=1)


async def test_each_lease_has_a_higher_epoch_and_the_same_checkpoint(groups: ConsumerGroups) -> None:
    await groups.ensure("totals", ARN, 0)
    await groups.lease("totals", shard(), 9)
    await groups.checkpoint("totals", "shard", 1, 20, is_finished=False)
    assert await groups.lease("totals", shard(), 9) == ShardState(checkpoint=20, epoch=2)
    assert await groups.lease("totals", shard("other"), 9) == ShardState(checkpoint=9, epoch=1)
    assert groups.get("totals").shards == {
        "shard": ShardState(checkpoint=20, epoch=2),
        "other": ShardState(checkpoint=9, epoch=1),
    }


async def test_a_checkpoint_moves_forward_only(groups: ConsumerGroups) -> None:
    await groups.ensure("totals", ARN, 0)
    await groups.lease("totals", shard(), 9)
    for number in (15, 15, 16):
        await groups.checkpoint("totals", "shard", 1, number, is_finished=False)
    with pytest.raises(ValidationError, match="below the checkpoint") as refused:
        await groups.checkpoint("totals", "shard", 1, 15, is_finished=False)
    assert refused.value.metadata == {"field": "sequence_number", "limit": format_sequence_number(16)}
    assert groups.get("totals").shards["shard"].checkpoint == 16
    await groups.checkpoint("totals", "shard", 1, 17, is_finished=True)
    assert groups.get("totals").shards["shard"] == ShardState(checkpoint=17, epoch=1, is_finished=True)


async def test_only_the_newest_lease_moves_the_checkpoint(groups: ConsumerGroups) -> None:
    await groups.ensure("totals", ARN, 0)
    for _ in range(2):
        await groups.lease("totals", shard(), 9)
    for shard_id, epoch in (("shard", 1), ("shard", 3), ("unknown", 1)):
        with pytest.raises(LeaseFencedError) as fenced:
            await groups.checkpoint("totals", shard_id, epoch, 20, is_finished=False)
        assert fenced.value.metadata == {"shard_id": shard_id, "lease_epoch": str(epoch)}
    assert groups.get("totals").shards["shard"] == ShardState(checkpoint=9, epoch=2)


async def test_what_is_not_there_is_named(groups: ConsumerGroups) -> None:
    with pytest.raises(ResourceNotFoundError, match="totals"):
        groups.get("totals")
    for change in (
        groups.lease("totals", shard(), 9),
        groups.checkpoint("totals", "shard", 1, 20, is_finished=False),
        groups.delete("totals"),
    ):
        with pytest.raises(ResourceNotFoundError) as missing:
            await change
        assert missing.value.metadata == {"group_name": "totals"}


async def test_a_deleted_group_begins_anew(engine: Engine, groups: ConsumerGroups) -> None:
    await groups.ensure("totals", ARN, 0)
    await groups.lease("totals", shard(), 9)
    await groups.delete("totals")
    again = await groups.ensure("totals", ARN + "1", 7)
    assert (again.start_after, again.shards) == (7, {})
    for _ in range(2):
        await engine.committer.change(lambda group: groups.plan_forget(group, "totals"))
    assert groups.documents.all() == []


# Else a host that has not heard of the end yet would make the group anew, for the next trigger of that name.
async def test_a_group_of_a_trigger_lives_no_longer_than_the_trigger(engine: Engine) -> None:
    triggers = {"totals"}
    groups = ConsumerGroups(engine.store, engine.committer, {"trigger": triggers.__contains__})
    await groups.ensure("trigger:totals", ARN, 0)
    await groups.ensure("other:totals", ARN, 0)
    await groups.ensure("trigger", ARN, 0)
    triggers.clear()
    for name in ("trigger:totals", "trigger:never", "trigger:"):
        with pytest.raises(ResourceNotFoundError, match="trigger that does not exist") as missing:
            await groups.ensure(name, ARN, 0)
        assert missing.value.metadata == {"group_name": name}


async def test_a_group_is_not_made_if_its_trigger_goes_in_the_same_group_commit(engine: Engine) -> None:
    triggers = {"totals"}
    groups = ConsumerGroups(engine.store, engine.committer, {"trigger": triggers.__contains__})
    going = engine.committer.submit((Do(does=lambda _: triggers.clear()),))
    with pytest.raises(ResourceNotFoundError):
        await groups.ensure("trigger:totals", ARN, 0)
    await going
    assert groups.documents.all() == []


async def test_groups_are_there_after_a_restart(tmp_path: Path) -> None:
    store = Store(tmp_path)
    async with running(store, FakeClock()) as engine:
        groups = ConsumerGroups(store, engine.committer, {})
        await groups.ensure("totals", ARN, FROM_TRIM_HORIZON)
        await groups.lease("totals", shard(), 9)
        await groups.checkpoint("totals", "shard", 1, 20, is_finished=True)
        kept = groups.get("totals")
    store.close()
    del store, engine, groups
    again = Store(tmp_path)
    async with running(again, FakeClock()) as engine:
        groups = ConsumerGroups(again, engine.committer, {})
        assert groups.get("totals") == kept
        # Nobody who held it before the restart may move the checkpoint after it.
        assert (await groups.lease("totals", shard(), 9)).epoch == 2
    again.close()


class Someone:
    """What Members knows of a member."""

    def __init__(self, name: str, group_name: str = "totals") -> None:
        self.name = name
        self.group_name = group_name
        self.is_holder = False

    def become_holder(self) -> None:
        self.is_holder = True


def joined(members: Members, *names: str, group_name: str = "totals") -> list[Someone]:
    people = [Someone(name, group_name) for name in names]
    for someone in people:
        members.join(cast("Member", someone))
    return people


async def test_the_first_member_holds_the_others_stand_by_in_order(groups: ConsumerGroups) -> None:
    members = Members(groups)
    first, second, third = joined(members, "1", "2", "3")
    assert members.of("totals") == ["1", "2", "3"]
    assert [each.is_holder for each in (first, second, third)] == [True, False, False]
    members.leave(cast("Member", second))
    assert [each.is_holder for each in (first, third)] == [True, False]
    members.leave(cast("Member", first))
    assert third.is_holder
    members.leave(cast("Member", third))
    assert members.of("totals") == []
    (again,) = joined(members, "4")
    assert again.is_holder


async def test_groups_do_not_share_members(groups: ConsumerGroups) -> None:
    members = Members(groups)
    (one,) = joined(members, "1", group_name="one")
    (other,) = joined(members, "1", group_name="other")
    assert one.is_holder
    assert other.is_holder


async def test_a_group_is_not_deleted_while_it_has_members(groups: ConsumerGroups) -> None:
    members = Members(groups)
    await groups.ensure("totals", ARN, 0)
    (one,) = joined(members, "1")
    with pytest.raises(ResourceInUseError, match="1 members"):
        await members.delete_group("totals")
    members.leave(cast("Member", one))
    await members.delete_group("totals")
    with pytest.raises(ResourceNotFoundError):
        await members.delete_group("totals")


# A session that comes a moment after DeleteTrigger must not bring the trigger's group back.
async def test_a_group_that_belongs_to_something_is_refused_when_that_is_gone(engine: Engine) -> None:
    triggers = {"totals"}
    groups = ConsumerGroups(engine.store, engine.committer, {"trigger": triggers.__contains__})
    assert (await groups.ensure("trigger:totals", ARN, -1)).name == "trigger:totals"
    assert (await groups.ensure("other:totals", ARN, -1)).name == "other:totals"
    triggers.clear()
    with pytest.raises(ResourceNotFoundError):
        await groups.ensure("trigger:totals", ARN, -1)
    assert (await groups.ensure("trigger", ARN, -1)).name == "trigger"
