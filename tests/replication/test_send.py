"""How changes are put into requests: pure decisions of sending and following."""

from __future__ import annotations

from headrace.consumer import Delivery
from headrace.replication.bootstrap import removal
from headrace.replication.follow import Batch
from headrace.replication.send import REQUEST_BYTES_MAX, REQUEST_CHANGES_MAX, requests_of
from headrace.v1 import record_pb2
from headrace.v1 import replication_service_pb2 as pb
from tests.replication.fake_region import item, seq


def versioned(key: str, content: str = "") -> pb.VersionedItem:
    return pb.VersionedItem(item=item(key, content), version=record_pb2.Version(hybrid_time=1, origin_region="north"))


def record(number: int, *, origin: str = "north", content: str = "new") -> record_pb2.Record:
    return record_pb2.Record(
        event_name=record_pb2.EVENT_NAME_MODIFY,
        sequence_number=seq(number),
        keys=item("k"),
        new_image=item("k", content),
        old_image=item("k", "old"),
        version=record_pb2.Version(hybrid_time=number, origin_region=origin),
    )


def delivery(*records: record_pb2.Record, shard_id: str = "shard") -> Delivery:
    return Delivery(
        records=records,
        shard_id=shard_id,
        lease_epoch=1,
        sequence_number=records[-1].sequence_number,
        millis_behind_latest=0,
    )


def test_items_and_removals_are_cut_by_count() -> None:
    items = [versioned(str(number)) for number in range(REQUEST_CHANGES_MAX + 10)]
    requests = list(requests_of(items, [record(1)]))
    assert [(len(request.items), len(request.records)) for request in requests] == [(REQUEST_CHANGES_MAX, 0), (10, 1)]


def test_they_are_cut_by_size_and_a_large_item_goes_alone() -> None:
    half = "x" * (REQUEST_BYTES_MAX // 2)
    requests = list(requests_of([versioned("a", half), versioned("b", half), versioned("c", 3 * half)], []))
    assert [[each.item.attributes["id"].s for each in request.items] for request in requests] == [["a"], ["b"], ["c"]]


def test_nothing_is_no_request() -> None:
    assert list(requests_of([], [])) == []


def test_a_removal_is_just_newer_than_the_item() -> None:
    removing = removal(versioned("k", "content"), ("id",))
    assert removing.event_name == record_pb2.EVENT_NAME_REMOVE
    assert list(removing.keys.attributes) == ["id"]
    assert (removing.version.hybrid_time, removing.version.origin_region) == (2, "north")


def test_records_go_as_they_are_but_without_old_images() -> None:
    batch = Batch()
    batch.add(delivery(record(1), record(2)), unwanted_origin="south")
    expected = record(1)
    expected.ClearField("old_image")
    assert batch.records[0] == expected
    assert not any(sent.HasField("old_image") for sent in batch.records)


def test_records_are_not_sent_back_to_where_they_began() -> None:
    batch = Batch()
    batch.add(delivery(record(1), record(2, origin="south"), record(3)), unwanted_origin="south")
    assert [sent.sequence_number for sent in batch.records] == [seq(1), seq(3)]
    # They are read all the same, and acked.
    assert batch.read == 3
    assert batch.last_deliveries["shard"].sequence_number == seq(3)


def test_a_batch_takes_any_one_delivery_and_then_what_fits() -> None:
    batch = Batch()
    large = delivery(record(1, content="x" * (REQUEST_BYTES_MAX + 1)))
    assert batch.has_room_for(large)
    batch.add(large, unwanted_origin=None)
    assert not batch.has_room_for(delivery(record(2)))
    many = Batch()
    many.add(delivery(*(record(number) for number in range(1, REQUEST_CHANGES_MAX))), unwanted_origin=None)
    assert many.has_room_for(delivery(record(5_000)))
    assert not many.has_room_for(delivery(record(5_000), record(5_001)))


def test_the_last_delivery_of_each_shard_is_acked() -> None:
    batch = Batch()
    for shard_id, number in (("a", 1), ("b", 2), ("a", 3)):
        batch.add(delivery(record(number), shard_id=shard_id), unwanted_origin=None)
    assert {shard: last.sequence_number for shard, last in batch.last_deliveries.items()} == {
        "a": seq(3),
        "b": seq(2),
    }
