"""Records that are decoded when they are looked at, and only then."""

from __future__ import annotations

import pytest

import headrace
from headrace import _lazy
from headrace._records import to_record_batch
from headrace._values import to_item
from headrace.v1 import record_pb2
from headrace.v1.stream_service_pb2 import GetRecordsResponse


def test_a_value_is_decoded_once_and_only_if_it_is_asked_for() -> None:
    decoded: list[bytes] = []

    def decode(encoded: bytes) -> str:
        decoded.append(encoded)
        return encoded.decode()

    values = _lazy.Lazy([b"a", b"b", b"c", b"d"], decode)
    assert len(values) == 4
    assert (values[-1], values[3], values[1:3]) == ("d", "d", ["b", "c"])
    assert decoded == [b"d", b"b", b"c"]
    assert list(values) == list(values) == ["a", "b", "c", "d"]
    assert decoded == [b"d", b"b", b"c", b"a"]
    assert values == ("a", "b", "c", "d")
    assert values != ("a",)
    with pytest.raises(IndexError):
        values[4]


def test_the_twin_of_a_response_says_what_the_response_says() -> None:
    record = record_pb2.Record(
        event_name=record_pb2.EVENT_NAME_MODIFY,
        sequence_number="7" * 21,
        keys=to_item({"id": 1}),
        new_image=to_item({"id": 1, "list": [1, {"a": b"x"}]}),
    )
    response = GetRecordsResponse(
        records=[record] * 3, next_shard_iterator="it", shard_id="a", child_shard_ids=["b"], shard_end=True
    )
    batch = to_record_batch(_lazy.get_records_response()(response.SerializeToString()))
    assert (batch.next_shard_iterator, batch.shard_id, batch.shard_end) == ("it", "a", True)
    assert batch.child_shard_ids == ("b",)
    assert [one.new_image for one in batch.records] == [{"id": 1, "list": [1, {"a": b"x"}]}] * 3
    first = batch.records[0]
    assert (first.event_name, first.keys, first.old_image) == ("MODIFY", {"id": 1}, None)
    assert isinstance(first, headrace.ChangeRecord)


def test_an_image_that_is_damaged_harms_only_who_looks_at_it() -> None:
    # Field 5, the new image, of three bytes that are no Item; and a key.
    key = to_item({"id": 1}).SerializeToString()
    damaged = b"\x12\x15" + b"0" * 21 + b"\x22" + bytes([len(key)]) + key + b"\x2a\x03\xff\xff\xff"
    record = headrace.ChangeRecord(damaged)
    assert record.keys == {"id": 1}
    with pytest.raises(Exception, match="parsing"):
        _ = record.new_image
