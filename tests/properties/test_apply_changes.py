"""Changes from elsewhere converge: in whatever order they come, and however often, copies that got the same are equal.

The newest version of an item wins: the higher hybrid time, then the higher region by its bytes. A delete is a version.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.v1.record_pb2 import EVENT_NAME_MODIFY, EVENT_NAME_REMOVE, Record, Version
from headrace.v1.replication_service_pb2 import ApplyChangesRequest, ReadSnapshotRequest, VersionedItem
from tests.guarantees import check_atomic, check_converged, check_ordered, check_unique, logged
from tests.rpc import Client, TestTable, refused
from tests.values import Attributes, Key, attributes, item, to_item, value

REGIONS = ("eu", "eu-1", "us")
HYBRID_TIMES = (1 << 16, (1 << 16) + 1, 2 << 16, 3 << 16)


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreign:
    """A change made elsewhere."""

    item_id: str
    hybrid_time: int
    region: str
    is_delete: bool

    @property
    def outcome(self) -> Attributes | None:
        return None if self.is_delete else attributes(id=self.item_id, by=f"{self.region}/{self.hybrid_time}")

    def record(self) -> Record:
        version = Version(hybrid_time=self.hybrid_time, origin_region=self.region)
        if self.outcome is None:
            return Record(event_name=EVENT_NAME_REMOVE, keys=item(id=self.item_id), version=version)
        return Record(
            event_name=EVENT_NAME_MODIFY, keys=item(id=self.item_id), new_image=to_item(self.outcome), version=version
        )


CHANGES = st.builds(
    Foreign,
    item_id=st.sampled_from("ab"),
    hybrid_time=st.sampled_from(HYBRID_TIMES),
    region=st.sampled_from(REGIONS),
    is_delete=st.booleans(),
)


def one_write_per_version(changes: Sequence[Foreign]) -> list[Foreign]:
    return list({(change.hybrid_time, change.region): change for change in changes}.values())


def apply(client: Client, table: TestTable, *batches: Sequence[Foreign]) -> int:
    """Applies batches over one call; returns how many changes were newer."""
    requests = [
        ApplyChangesRequest(table_name=table.name, records=[change.record() for change in batch]) for batch in batches
    ]
    responses = list(client.replication.ApplyChanges(iter(requests)))
    assert [response.applied + response.skipped for response in responses] == [len(batch) for batch in batches]
    return sum(response.applied for response in responses)


def winners(changes: Sequence[Foreign]) -> dict[Key, Attributes]:
    """What the rule says must be left."""
    newest: dict[str, Foreign] = {}
    for change in sorted(changes, key=lambda each: (each.hybrid_time, each.region.encode())):
        newest[change.item_id] = change
    return {(value(item_id),): change.outcome for item_id, change in newest.items() if change.outcome is not None}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_copies_that_got_the_same_changes_are_equal(client: Client, data: st.DataObject) -> None:
    changes = one_write_per_version(data.draw(st.lists(CHANGES, min_size=1, max_size=12)))
    one, two = client.create_table(), client.create_table()
    apply(client, one, changes)
    shuffled = data.draw(st.permutations([*changes, *data.draw(st.lists(st.sampled_from(changes), max_size=6))]))
    cut = data.draw(st.integers(0, len(shuffled)))
    apply(client, two, *(part for part in (shuffled[:cut], shuffled[cut:]) if part))
    contents = client.contents(two)
    check_converged(client.contents(one), contents)
    check_converged(winners(changes), contents)
    # What was applied is in the stream of the copy like any other change.
    log = logged(client.records(two.stream_arn))
    check_ordered(log)
    check_unique(log)
    check_atomic(log, contents, two.key_names)


def test_applying_again_changes_nothing_and_makes_no_record(client: Client, table: TestTable) -> None:
    changes = [
        Foreign(item_id="a", hybrid_time=HYBRID_TIMES[1], region="eu", is_delete=False),
        Foreign(item_id="b", hybrid_time=HYBRID_TIMES[1], region="eu", is_delete=True),
    ]
    assert apply(client, table, changes) == 2
    with client.unchanged(table):
        assert apply(client, table, changes, changes) == 0


def test_records_of_applied_changes_carry_the_version_of_the_first_write(client: Client, table: TestTable) -> None:
    change = Foreign(item_id="a", hybrid_time=HYBRID_TIMES[1], region="mars-1", is_delete=False)
    apply(client, table, [change])
    (record,) = client.records(table.stream_arn)
    assert (record.version.hybrid_time, record.version.origin_region) == (HYBRID_TIMES[1], "mars-1")


# Without a tombstone an old put that comes late would revive the item.
def test_an_applied_delete_beats_an_older_put_that_comes_late(client: Client, table: TestTable) -> None:
    delete = Foreign(item_id="a", hybrid_time=HYBRID_TIMES[2], region="eu", is_delete=True)
    apply(client, table, [delete])
    late = Foreign(item_id="a", hybrid_time=HYBRID_TIMES[1], region="us", is_delete=False)
    with client.unchanged(table):
        assert apply(client, table, [late]) == 0


# A write that a client makes after it saw a remote one must win over it, also when the other region's clock is ahead.
def test_a_local_write_is_newer_than_what_it_replaces_even_if_that_came_from_the_future(
    client: Client, table: TestTable
) -> None:
    now_ms = int(time.time() * 1_000)
    future = Foreign(item_id="a", hybrid_time=(now_ms + 600_000) << 16, region="zz", is_delete=False)
    assert apply(client, table, [future]) == 1
    client.put(table.name, item(id="a", by="local"))
    *_, record = client.records(table.stream_arn)
    assert record.version.hybrid_time > future.hybrid_time
    with client.unchanged(table):
        assert apply(client, table, [future]) == 0


# One broken clock must not drag the clocks of all regions along for good.
def test_a_version_far_in_the_future_is_refused(client: Client, table: TestTable) -> None:
    broken = Foreign(item_id="a", hybrid_time=(10**13) << 16, region="zz", is_delete=False)
    with client.unchanged(table), refused("INVALID_ARGUMENT", "VALIDATION"):
        apply(client, table, [broken])


def test_items_of_a_snapshot_are_applied_by_the_same_rule(client: Client, table: TestTable) -> None:
    newer = Foreign(item_id="a", hybrid_time=HYBRID_TIMES[2], region="eu", is_delete=False)
    apply(client, table, [newer])
    versions = [
        VersionedItem(
            item=item(id=item_id, by="snapshot"), version=Version(hybrid_time=HYBRID_TIMES[1], origin_region="eu")
        )
        for item_id in "ab"
    ]
    request = ApplyChangesRequest(table_name=table.name, items=versions)
    (response,) = client.replication.ApplyChanges(iter([request]))
    assert (response.applied, response.skipped) == (1, 1)
    assert client.contents(table) == {
        (value("a"),): newer.outcome,
        (value("b"),): attributes(id="b", by="snapshot"),
    }


@pytest.mark.parametrize("fault", ["no version", "no region", "no image", "wrong key", "no event", "nothing"])
def test_faulty_changes_are_refused_and_none_of_their_request_is_applied(
    client: Client, table: TestTable, fault: str
) -> None:
    good = Foreign(item_id="a", hybrid_time=HYBRID_TIMES[1], region="eu", is_delete=False)
    bad = good.record()
    match fault:
        case "no version":
            bad.ClearField("version")
        case "no region":
            bad.version.origin_region = ""
        case "no image":
            bad.ClearField("new_image")
        case "wrong key":
            bad.new_image.CopyFrom(item(other="a"))
        case "no event":
            bad.ClearField("event_name")
        case "nothing":
            bad = Record()
    request = ApplyChangesRequest(table_name=table.name, records=[good.record(), bad])
    with client.unchanged(table), refused("INVALID_ARGUMENT", "VALIDATION") as expected:
        list(client.replication.ApplyChanges(iter([request])))
    assert expected.refusal.metadata["field"]


def test_changes_of_no_table_and_too_many_changes_are_refused(client: Client, table: TestTable) -> None:
    change = Foreign(item_id="a", hybrid_time=HYBRID_TIMES[1], region="eu", is_delete=False).record()
    with refused("INVALID_ARGUMENT", "VALIDATION", field="table_name"):
        list(client.replication.ApplyChanges(iter([ApplyChangesRequest(records=[change])])))
    with refused("NOT_FOUND", "RESOURCE_NOT_FOUND"):
        list(client.replication.ApplyChanges(iter([ApplyChangesRequest(table_name="nowhere", records=[change])])))
    with client.unchanged(table), refused("INVALID_ARGUMENT", "VALIDATION", limit=1_000):
        request = ApplyChangesRequest(table_name=table.name, records=[change] * 1_001)
        list(client.replication.ApplyChanges(iter([request])))


# A scan that never blocks writers must still be one moment of the table.
def test_a_snapshot_holds_exactly_the_writes_up_to_its_sequence_number(client: Client, table: TestTable) -> None:
    for n in range(3):
        client.put(table.name, item(id=str(n), text="x" * 390_000))
    call = client.replication.ReadSnapshot(ReadSnapshotRequest(table_name=table.name))
    first = next(call)
    for n in range(6):
        client.put(table.name, item(id=str(n), after=True))
    items = [entry.item for response in [first, *call] for entry in response.items]
    assert len(items) == 3
    assert not any("after" in each.attributes for each in items)
    later = [r for r in client.records(table.stream_arn) if r.sequence_number > first.sequence_number]
    assert len(later) == 6


def test_a_snapshot_can_go_on_after_any_response(client: Client, table: TestTable) -> None:
    for n in range(12):
        client.put(table.name, item(id=str(n), text="x" * 300_000))
    whole = client.contents(table)
    seen: list[str] = []
    start = b""
    while True:
        call = client.replication.ReadSnapshot(ReadSnapshotRequest(table_name=table.name, exclusive_start_key=start))
        page = next((response for response in call if response.items), None)
        call.cancel()
        if page is None:
            break
        seen += [entry.item.attributes["id"].s for entry in page.items]
        start = page.next_start_key
    assert sorted((value(each),) for each in seen) == sorted(whole)
    with pytest.raises(grpc.RpcError):
        list(client.replication.ReadSnapshot(ReadSnapshotRequest(table_name="nowhere")))
