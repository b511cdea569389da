"""The peer between two regions in memory: copying, following, and every kind of trouble that it must outlive."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from headrace.replication import Replicator, verify_replica
from headrace.replication.lifecycle import Progress, Status
from headrace.replication.region import Region
from headrace.replication.report import ReplicaEntry
from headrace.v1 import record_pb2
from headrace.v1 import replication_service_pb2 as pb
from tests.replication.fake_region import FakeRegion, seq, serving

ACTIVE, FAILED = pb.REPLICA_STATUS_ACTIVE, pb.REPLICA_STATUS_FAILED


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits a second in production waits a hundredth here."""
    for constant, seconds in {
        "replicator.POLL_INTERVAL_S": 0.01,
        "replicator.RETRY_INITIAL_S": 0.005,
        "link.RETRY_INITIAL_S": 0.005,
        "link.RETRY_MAX_S": 0.05,
        "link.FAILED_RECHECK_S": 0.03,
        "link.STANDBY_POLL_S": 0.01,
        "report.REPORT_INTERVAL_S": 0.01,
        "report._FINAL_TIMEOUT_S": 0.1,
        "follow.WATCH_INTERVAL_S": 0.01,
        "verify.SETTLE_S": 0.01,
    }.items():
        monkeypatch.setattr(f"headrace.replication.{constant}", seconds)


@dataclass(frozen=True, slots=True)
class Regions:
    north: FakeRegion
    south: FakeRegion

    def are_equal(self, table: str = "flights", target_table: str | None = None) -> bool:
        copy = self.south.tables.get(target_table or table)
        return copy is not None and copy.versions() == self.north.tables[table].versions()

    async def converged(self, target_table: str | None = None) -> None:
        """Waits until both tables are equal, versions included; the target is the one that changes last."""
        await self.south.until(lambda: self.are_equal(target_table=target_table))

    async def active(self, name: str = "copy") -> None:
        await self.north.until(lambda: self.north.progress(name).status == ACTIVE)


@pytest.fixture
async def regions() -> AsyncIterator[Regions]:
    """Two regions; the first has a table of thirty items."""
    async with serving("north") as north, serving("south") as south:
        north.create_table("flights")
        for number in range(30):
            await north.put("flights", f"k{number}", "first")
        yield Regions(north, south)


@asynccontextmanager
async def peer(regions: Regions, *, seed: int = 1) -> AsyncIterator[Replicator]:
    """A replication peer of the north, stopped as by SIGTERM."""
    replicator = Replicator(regions.north.endpoint, random=random.Random(seed))
    ready = asyncio.Event()
    running = asyncio.create_task(replicator.run(ready.set))
    try:
        await asyncio.wait_for(ready.wait(), 10)
        yield replicator
        replicator.stop()
        await asyncio.wait_for(running, 10)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@asynccontextmanager
async def crashing_peer(regions: Regions) -> AsyncIterator[None]:
    """A replication peer that ends as by SIGKILL: from that moment on no call of it reaches a region."""
    replicator = Replicator(regions.north.endpoint, random=random.Random(1))
    running = asyncio.create_task(replicator.run(lambda: None))
    try:
        yield
    finally:
        regions.north.is_away = regions.south.is_away = True
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await regions.north.until(lambda: not any(group.members for group in regions.north.groups.values()))
        regions.north.is_away = regions.south.is_away = False


async def test_a_table_is_copied_and_then_followed(regions: Regions) -> None:
    north = regions.north
    north.create_replica("copy", "flights", regions.south)
    async with peer(regions):
        await regions.active()
        assert regions.are_equal()
        await north.put("flights", "k3", "changed")
        await north.put("flights", "new", "made")
        await north.delete("flights", "k4")
        await regions.converged()
    progress = north.progress()
    assert (progress.target_region, progress.items_copied, progress.records_applied) == ("south", 30, 3)
    assert progress.last_applied_sequence_number == seq(north.sequence_number)
    assert (progress.bootstrap_start_key, progress.last_error) == (b"", "")


async def test_the_target_table_is_made_with_a_stream_under_the_name_asked_for(regions: Regions) -> None:
    regions.north.create_replica("copy", "flights", regions.south, target_table="flights-copy")
    async with peer(regions):
        await regions.converged("flights-copy")
    log = regions.south.tables["flights-copy"].log
    assert log is not None
    # So triggers work on the copy, and peers can follow it.
    assert len(log) == 30


async def test_an_empty_table_is_active_at_once(regions: Regions) -> None:
    regions.north.create_table("empty")
    regions.north.create_replica("copy", "empty", regions.south)
    async with peer(regions):
        await regions.active()
        await regions.north.put("empty", "first")
        await regions.south.until(lambda: regions.are_equal("empty"))


async def test_the_sequence_number_is_durable_before_the_first_item_is_applied(regions: Regions) -> None:
    # Otherwise a peer that is killed in between would follow from a later snapshot and miss deletes.
    north, south = regions.north, regions.south
    durable_when_applied: list[str] = []

    async def look() -> None:
        durable_when_applied.append(north.progress().snapshot_sequence_number)

    south.before["ApplyChanges"] = look
    north.create_replica("copy", "flights", south)
    position = north.sequence_number
    async with peer(regions):
        await regions.active()
    assert set(durable_when_applied) == {seq(position)}


async def test_nothing_is_acked_before_the_target_has_answered(regions: Regions) -> None:
    north, south = regions.north, regions.south
    north.create_replica("copy", "flights", south)
    async with peer(regions):
        await regions.active()
        may_answer = asyncio.Event()
        south.before["ApplyChanges answer"] = may_answer.wait  # type: ignore[assignment]
        checkpoint = north.groups["replica:copy"].checkpoint
        await north.put("flights", "k1", "changed")
        await regions.converged()
        assert north.groups["replica:copy"].checkpoint == checkpoint
        may_answer.set()
        await north.until(lambda: north.groups["replica:copy"].checkpoint == north.sequence_number)


async def test_a_copy_that_was_killed_goes_on_behind_what_is_applied(regions: Regions) -> None:
    north, south = regions.north, regions.south
    north.create_replica("copy", "flights", south)
    hold = asyncio.Event()

    async def hold_the_fourth() -> None:
        if len(south.seen("apply")) >= 3:
            await hold.wait()

    south.before["ApplyChanges"] = hold_the_fourth
    async with crashing_peer(regions):
        await north.until(lambda: north.progress().items_copied >= 12)
    hold.set()
    south.before.clear()
    resumed_at = north.progress().bootstrap_start_key
    assert resumed_at
    # The first snapshot of the copy has brought these; the second does not hold them any more.
    copied = next(iter(south.tables["flights"].items))
    await north.delete("flights", copied)
    applied_before = len(south.seen("apply"))
    async with peer(regions):
        await regions.active()
        await regions.converged()
        sent = [
            versioned.item.attributes["id"].s
            for request in south.seen("apply")[applied_before:]
            for versioned in request.items
        ]
        assert resumed_at in south.seen("snapshot")
        assert len(sent) <= 30 - 12
        assert copied not in south.tables["flights"].items
    # The item that was deleted had been copied: the count is of items copied, not of items there.
    assert north.progress().items_copied == 30


@pytest.mark.parametrize("seed", range(8))
async def test_regions_converge_however_often_the_peer_is_killed(regions: Regions, seed: int) -> None:
    north, south = regions.north, regions.south
    rng = random.Random(seed)
    north.create_replica("copy", "flights", south)

    async def write(count: int) -> None:
        for _ in range(count):
            key = f"k{rng.randrange(40)}"
            if key in north.tables["flights"].items and rng.random() < 0.4:
                await north.delete("flights", key)
            else:
                await north.put("flights", key, f"content-{rng.randrange(1_000)}")
            await asyncio.sleep(0)

    for _ in range(6):
        # It is killed after so many calls at either side, whatever they were for.
        enough = _after_calls(rng.randrange(1, 60), north, south)
        async with crashing_peer(regions):
            await write(rng.randrange(0, 30))
            deaths = {asyncio.ensure_future(enough.wait()), asyncio.ensure_future(regions.active())}
            await asyncio.wait(deaths, return_when=asyncio.FIRST_COMPLETED)
            for death in deaths:
                death.cancel()
            await asyncio.gather(*deaths, return_exceptions=True)
    north.before, south.before = {}, {}
    async with peer(regions, seed=seed):
        await write(20)
        await regions.active()
        await regions.converged()


def _after_calls(count: int, *regions: FakeRegion) -> asyncio.Event:
    """Set when so many calls, or steps of calls, have come to regions."""
    enough = asyncio.Event()

    async def step() -> None:
        nonlocal count
        count -= 1
        if count <= 0:
            enough.set()

    moments = ("ApplyChanges", "ApplyChanges answer", "ReportReplica", "ack", "ReadSnapshot response", "Consume")
    for region in regions:
        region.before = dict.fromkeys(moments, step)
    return enough


async def test_a_stop_leaves_nothing_to_be_done_again(regions: Regions) -> None:
    north = regions.north
    north.create_replica("copy", "flights", regions.south)
    async with peer(regions):
        await regions.active()
        for number in range(50):
            await north.put("flights", f"k{number}", "second")
        await regions.converged()
    assert north.groups["replica:copy"].checkpoint == north.sequence_number
    assert north.progress().records_applied == 50
    assert north.progress().last_applied_sequence_number == seq(north.sequence_number)


async def test_a_stop_in_the_middle_of_a_copy_keeps_what_was_copied(regions: Regions) -> None:
    north, south = regions.north, regions.south
    north.create_replica("copy", "flights", south)
    replicator = Replicator(north.endpoint, random=random.Random(1))

    async def stop_soon() -> None:
        if len(south.seen("apply")) == 2:
            replicator.stop()

    south.before["ApplyChanges"] = stop_soon
    await asyncio.wait_for(replicator.run(lambda: None), 10)
    progress = north.progress()
    assert progress.status == pb.REPLICA_STATUS_BOOTSTRAPPING
    assert 8 <= progress.items_copied < 30
    assert progress.bootstrap_start_key
    assert len(south.tables["flights"].items) >= progress.items_copied
    south.before.clear()
    async with peer(regions):
        await regions.converged()


async def test_a_peer_behind_the_stream_copies_again_and_finds_what_was_deleted(regions: Regions) -> None:
    north, south = regions.north, regions.south
    north.create_replica("copy", "flights", south)
    async with peer(regions):
        await regions.active()
    await south.put("flights", "local", "written at the replica")
    await north.delete("flights", "k1")
    await north.put("flights", "k2", "changed")
    await north.delete("flights", "k3")
    await north.put("flights", "k3", "deleted and made again")
    north.trimmed_to = north.sequence_number
    sent_before = len(south.seen("apply"))
    async with peer(regions):
        await south.until(lambda: "k1" not in south.tables["flights"].items)
        await regions.active()
        await north.put("flights", "k1", "made again later")
        await north.put("flights", "k5", "after the gap")
        expected = north.tables["flights"].versions()
        await south.until(lambda: expected.items() <= south.tables["flights"].versions().items())
    # What was written at the replica is not the source's to remove.
    assert south.tables["flights"].versions().keys() - expected.keys() == {"local"}
    # Only what differs was sent again.
    copied_again = [request for request in south.seen("apply")[sent_before:] if request.items]
    assert sum(len(request.items) for request in copied_again) == 2
    assert "oldest" in north.progress().last_error
    assert "copying again" in north.progress().last_error


async def test_a_stream_made_anew_means_a_new_copy(regions: Regions) -> None:
    north = regions.north
    north.create_replica("copy", "flights", regions.south)
    async with peer(regions):
        await regions.active()
        # Changes between the two streams are in neither.
        north.renew_stream("flights")
        north.tables["flights"].description.stream_specification.stream_enabled = False
        await north.delete("flights", "k1")
        await north.put("flights", "k2", "unrecorded")
        await north.until(lambda: north.progress().status == FAILED)
        assert "is off" in north.progress().last_error
        north.tables["flights"].description.stream_specification.stream_enabled = True
        await regions.active()
        await regions.converged()
        await north.put("flights", "k4", "recorded")
        await regions.converged()


async def test_a_stream_renewed_while_the_peer_was_away_is_noticed(regions: Regions) -> None:
    north = regions.north
    north.create_replica("copy", "flights", regions.south)
    async with peer(regions):
        await regions.active()
    north.tables["flights"].description.stream_specification.stream_enabled = False
    await north.delete("flights", "k1")
    north.renew_stream("flights")
    north.tables["flights"].description.stream_specification.stream_enabled = True
    async with peer(regions):
        await regions.converged()
        await regions.active()
    assert "made anew" in north.progress().last_error


async def test_a_removal_never_hits_an_item_that_is_there() -> None:
    # Two versions of the broker may order keys differently: then a comparison takes everything for missing and extra.
    async with (
        serving("north", start_key_prefix=b"\x01") as north,
        serving("south", start_key_prefix=b"\x02") as south,
    ):
        regions = Regions(north, south)
        north.create_table("flights")
        for number in range(30):
            await north.put("flights", f"k{number}")
        north.create_replica("copy", "flights", south)
        async with peer(regions):
            await regions.active()
        await north.delete("flights", "k1")
        north.trimmed_to = north.sequence_number
        removed: list[str] = []

        async def watch() -> None:
            removed.extend(north.tables["flights"].items.keys() - south.tables["flights"].items.keys())

        south.before["ApplyChanges answer"] = watch
        async with peer(regions):
            await south.until(lambda: "k1" not in south.tables["flights"].items)
            await regions.active()
            await regions.converged()
        assert removed == []


async def test_a_removal_loses_against_a_later_write(regions: Regions) -> None:
    north, south = regions.north, regions.south
    north.create_replica("copy", "flights", south)
    async with peer(regions):
        await regions.active()
    await north.delete("flights", "k1")
    north.trimmed_to = north.sequence_number

    async def make_it_again() -> None:
        # After the source has been asked, before the target has removed it.
        if "k1" not in north.tables["flights"].items:
            await north.put("flights", "k1", "again")

    south.before["ApplyChanges"] = make_it_again
    async with peer(regions):
        await regions.active()
        await regions.converged()
    assert south.tables["flights"].versions()["k1"][0] == "again"


async def test_records_are_not_sent_back_to_the_region_they_began_in(regions: Regions) -> None:
    north, south = regions.north, regions.south
    north.create_replica("copy", "flights", south)
    async with peer(regions):
        await regions.active()
        south.create_replica("back", "flights", north)
        other = Replicator(south.endpoint, random=random.Random(2))
        running = asyncio.create_task(other.run(lambda: None))
        await south.until(lambda: south.progress("back").status == ACTIVE)
        applied_at_home = len(north.seen("apply"))
        await north.put("flights", "k1", "changed")
        await regions.converged()
        await south.until(lambda: south.progress("back").last_applied_sequence_number == seq(south.sequence_number))
        # The record of the copy was read and acked, and stayed.
        assert len(north.seen("apply")) == applied_at_home
        await south.put("flights", "k2", "from the south")
        await north.until(lambda: north.tables["flights"].versions()["k2"][0] == "from the south")
        other.stop()
        await asyncio.wait_for(running, 10)


async def test_a_target_that_is_away_is_told_and_waited_for(regions: Regions) -> None:
    north, south = regions.north, regions.south
    north.create_replica("copy", "flights", south)
    async with peer(regions):
        await regions.active()
        south.is_away = True
        await north.put("flights", "k1", "while it was away")
        await north.until(lambda: "UNAVAILABLE: target" in north.progress().last_error)
        assert north.progress().status == ACTIVE
        south.is_away = False
        await regions.converged()


async def test_a_target_that_is_away_from_the_beginning_is_told(regions: Regions) -> None:
    north, south = regions.north, regions.south
    south.is_away = True
    north.create_replica("copy", "flights", south)
    async with peer(regions):
        await north.until(lambda: "UNAVAILABLE: target" in north.progress().last_error)
        south.is_away = False
        await regions.converged()


async def test_a_source_that_is_away_is_waited_for(regions: Regions) -> None:
    north = regions.north
    north.create_replica("copy", "flights", regions.south)
    async with peer(regions):
        await regions.active()
        north.is_away = True
        # Whoever is in the group calls no more: it is told to go with its next ack.
        await north.put("flights", "k1", "while it was away")
        await north.until(lambda: not north.groups["replica:copy"].members)
        north.is_away = False
        await regions.converged()


async def test_a_source_away_at_the_start_is_waited_for(regions: Regions) -> None:
    north = regions.north
    north.create_replica("copy", "flights", regions.south)
    north.is_away = True
    asked = asyncio.Event()

    async def ask() -> None:
        asked.set()

    north.before["ListReplicas"] = ask
    replicator = Replicator(north.endpoint, random=random.Random(1))
    ready: list[bool] = []
    running = asyncio.create_task(replicator.run(lambda: ready.append(True)))
    await asyncio.wait_for(asked.wait(), 10)
    assert not ready
    north.is_away = False
    await regions.converged()
    assert ready == [True]
    replicator.stop()
    await asyncio.wait_for(running, 10)


async def test_a_target_with_another_key_fails_until_a_person_acts(regions: Regions) -> None:
    north, south = regions.north, regions.south
    south.create_table("flights", key="other")
    north.create_replica("copy", "flights", south)
    async with peer(regions):
        await north.until(lambda: north.progress().status == FAILED)
        assert "other (HASH, S)" in north.progress().last_error
        assert south.seen("apply") == []
        del south.tables["flights"]
        await regions.active()
        await regions.converged()


async def test_a_stream_without_new_images_fails(regions: Regions) -> None:
    north = regions.north
    north.create_table("narrow", view_type=record_pb2.STREAM_VIEW_TYPE_KEYS_ONLY)
    north.create_replica("copy", "narrow", regions.south)
    async with peer(regions):
        await north.until(lambda: north.progress().status == FAILED)
    assert "KEYS_ONLY" in north.progress().last_error
    assert regions.south.tables == {}


async def test_a_target_table_that_was_deleted_is_made_and_copied_again(regions: Regions) -> None:
    north, south = regions.north, regions.south
    north.create_replica("copy", "flights", south)
    async with peer(regions):
        await regions.active()
        del south.tables["flights"]
        await regions.converged()
        await regions.active()
        assert "was deleted" in north.progress().last_error
        # Even if somebody was quicker to make another.
        del south.tables["flights"]
        south.create_table("flights")
        await regions.converged()


async def test_an_existing_table_keeps_what_is_its_own(regions: Regions) -> None:
    south = regions.south
    south.create_table("flights")
    await south.put("flights", "local")
    regions.north.create_replica("copy", "flights", south)
    async with peer(regions):
        await regions.active()
    assert south.tables["flights"].versions().keys() == {"local", *regions.north.tables["flights"].items}


async def test_within_one_region_a_replica_begins_empty(regions: Regions) -> None:
    north = regions.north
    north.create_table("taken")
    await north.put("taken", "theirs")
    north.create_replica("copy", "flights", north, target_table="taken")
    north.create_replica("other", "flights", north, target_table="fresh")
    north.create_replica("itself", "flights", north)
    async with peer(regions):
        await north.until(lambda: north.progress("copy").status == FAILED)
        await north.until(lambda: north.progress("itself").status == FAILED)
        await regions.active("other")
        await north.put("flights", "k1", "changed")
        await north.delete("flights", "k2")
        await north.until(lambda: north.tables["fresh"].versions() == north.tables["flights"].versions())
    assert "in the region of its source" in north.progress("copy").last_error
    assert "own replica" in north.progress("itself").last_error
    assert north.tables["taken"].items.keys() == {"theirs"}


async def test_of_two_peers_one_leads_and_the_other_takes_over(regions: Regions) -> None:
    north = regions.north
    north.create_replica("copy", "flights", regions.south)
    async with peer(regions, seed=2):
        async with crashing_peer(regions):
            await regions.active()
            await north.until(lambda: len(north.groups["replica:copy"].members) == 2)
            await north.put("flights", "k1", "one leads")
            await regions.converged()
        await north.put("flights", "k2", "another leads")
        await regions.converged()
    assert north.progress().items_copied == 30


async def test_two_peers_that_begin_together_copy_once(regions: Regions) -> None:
    north, south = regions.north, regions.south
    north.create_replica("copy", "flights", south)
    async with peer(regions, seed=1), peer(regions, seed=2):
        await regions.active()
        await regions.converged()
    assert sum(len(request.items) for request in south.seen("apply")) == 30


async def test_a_leader_goes_on_from_what_is_durable_when_it_leads(regions: Regions) -> None:
    # What it read before it joined the group may be old: here another peer copies everything in between, and is killed.
    north, south = regions.north, regions.south
    north.create_replica("copy", "flights", south)
    is_late, may_join = asyncio.Event(), asyncio.Event()

    async def hold_the_first() -> None:
        if not is_late.is_set():
            is_late.set()
            await may_join.wait()

    north.before["Consume"] = hold_the_first
    async with peer(regions):
        await asyncio.wait_for(is_late.wait(), 10)
        leader = Replicator(north.endpoint, random=random.Random(2))
        running = asyncio.create_task(leader.run(lambda: None))
        await regions.active()
        copied_from = north.progress().snapshot_sequence_number
        leader.stop()
        await asyncio.wait_for(running, 10)
        may_join.set()
        await north.put("flights", "k1", "changed")
        await regions.converged()
        assert north.progress().snapshot_sequence_number == copied_from
    assert sum(len(request.items) for request in south.seen("apply")) == 30


async def test_the_link_of_a_deleted_replica_ends_and_leaves_nothing(regions: Regions) -> None:
    north = regions.north
    north.create_replica("copy", "flights", regions.south)
    async with peer(regions):
        await regions.active()
        north.delete_replica("copy")
        await north.until(lambda: north.events[-1][0] == "left")
        await north.put("flights", "k1", "after the end")
        # A replica of the same name is another one: it starts from the beginning.
        north.create_replica("copy", "flights", regions.south, target_table="second")
        await regions.converged("second")
        await regions.active()
    assert regions.south.tables["flights"].versions()["k1"][0] == "first"
    assert north.progress().items_copied == 30
    north.delete_replica("copy")
    assert north.groups == {}


async def test_a_replica_made_again_at_once_does_not_inherit_progress(regions: Regions) -> None:
    north = regions.north
    north.create_replica("copy", "flights", regions.south)
    async with peer(regions):
        await regions.active()
        # Faster than any poll, with something still to be reported.
        await north.put("flights", "k1", "changed")
        north.delete_replica("copy")
        north.create_replica("copy", "flights", regions.south, target_table="second")
        await regions.converged("second")
        await regions.active()


async def test_progress_is_not_reported_for_a_namesake(regions: Regions) -> None:
    north = regions.north
    async with Region("source", north.endpoint) as source:
        entry = ReplicaEntry(source, north.create_replica("copy", "flights", regions.south))
        await entry.report(Progress(status=Status.ACTIVE, snapshot_sequence_number=seq(5)))
        assert north.progress().status == ACTIVE
        north.delete_replica("copy")
        north.create_replica("copy", "flights", regions.south, target_table="second")
        await entry.report(Progress(status=Status.ACTIVE, snapshot_sequence_number=seq(5)))
        assert await entry.progress() is None
    assert north.progress() == pb.ReplicaProgress(status=pb.REPLICA_STATUS_CREATING)


async def test_verify_finds_a_replica_equal(regions: Regions) -> None:
    replica = regions.north.create_replica("copy", "flights", regions.south)
    async with peer(regions):
        await regions.active()
    verification = await verify_replica(replica, regions.north.endpoint)
    assert verification.are_equal
    assert (verification.source_items, verification.target_items) == (30, 30)


async def test_verify_tells_every_kind_of_difference(regions: Regions) -> None:
    north, south = regions.north, regions.south
    replica = north.create_replica("copy", "flights", south)
    async with peer(regions):
        await regions.active()
    for number in range(7):
        await south.delete("flights", f"k{number}")
    await south.put("flights", "extra")
    await south.put("flights", "k20", "different")
    verification = await verify_replica(replica, north.endpoint)
    assert not verification.are_equal
    counts = (verification.missing.count, verification.extra.count, verification.different.count)
    assert counts == (7, 1, 1)
    assert [key.attributes["id"].s for key in verification.extra.sample_keys] == ["extra"]
    assert len(verification.missing.sample_keys) == 5


async def test_verify_does_not_count_what_is_on_its_way(regions: Regions) -> None:
    north, south = regions.north, regions.south
    replica = north.create_replica("copy", "flights", south)
    async with peer(regions):
        await regions.active()
    await north.put("flights", "k1", "not yet there")
    await north.put("flights", "k2", "changes again and again")
    await south.delete("flights", "k3")

    async def go_on(_: float) -> None:
        await north.put("flights", "k2", "changed once more")
        regions.south.tables["flights"].items["k1"] = north.tables["flights"].items["k1"]

    verification = await verify_replica(replica, north.endpoint, sleep=go_on)
    assert (verification.missing.count, verification.different.count, verification.in_motion) == (1, 0, 1)
