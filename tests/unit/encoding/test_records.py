"""Records are joined by hand: the bytes must be those that the real message would have written."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.encoding.items import EncodedItem, canonicalize, parse_item
from broker.encoding.keys import KeyCodec
from broker.encoding.records import encode_record, encode_time, encode_version, record_key, record_old_image
from broker.model.clock import Version
from broker.model.errors import CorruptionError
from broker.model.tables import KeyAttribute, KeyAttributeType, StreamViewType, Table
from headrace.v1 import attribute_value_pb2 as pb
from headrace.v1 import record_pb2
from headrace.v1.stream_service_pb2 import GetRecordsResponse
from tests.unit.engine import NOON_MS
from tests.unit.strategies import ATTRIBUTES
from tests.values import Attributes, from_item, item, to_item, value

VERSION = Version(NOON_MS << 16 | 3, "eu-north-1")
CHANGES = ("INSERT", "MODIFY", "REMOVE")


def codec(key_type: KeyAttributeType = KeyAttributeType.STRING, name: str = "id") -> KeyCodec:
    key = KeyAttribute(name=name, type=key_type)
    return KeyCodec(Table(name="t", id=1, uuid="u", create_time_ms=0, partition_key=key, sort_key=None))


def record(
    old: EncodedItem | None,
    new: EncodedItem | None,
    keys: KeyCodec,
    view_type: StreamViewType = StreamViewType.NEW_AND_OLD_IMAGES,
    now_ms: int = NOON_MS,
) -> tuple[bytes, record_pb2.Record]:
    """A record as bytes, and as the one record of a response that holds these bytes."""
    there = new or old
    assert there is not None
    encoded = encode_record(
        sequence_number=42,
        time_field=encode_time(now_ms),
        view_type=view_type,
        key=keys.of_item(parse_item(there.encoded)),
        old=old,
        new=new,
        version=VERSION,
    )
    (parsed,) = GetRecordsResponse.FromString(encoded).records
    return encoded, parsed


@pytest.mark.parametrize(("view_type", "change"), list(product(StreamViewType, CHANGES)))
def test_a_record_holds_every_field_of_its_change(view_type: StreamViewType, change: str) -> None:
    before, after = item(id="a", n=1, more=[1, {"x": b"y"}]), item(id="a", n=2)
    old = None if change == "INSERT" else canonicalize(before)
    new = None if change == "REMOVE" else canonicalize(after)
    encoded, parsed = record(old, new, codec(), view_type)

    expected = record_pb2.Record(
        event_name=record_pb2.EventName.Value(f"EVENT_NAME_{change}"),
        sequence_number="000000000000000000042",
        keys=item(id="a"),
        stream_view_type=record_pb2.StreamViewType.Value(f"STREAM_VIEW_TYPE_{view_type}"),
        version=record_pb2.Version(hybrid_time=VERSION.hybrid_time, origin_region=VERSION.origin_region),
        size_bytes=3,
    )
    expected.approximate_creation_date_time.FromMilliseconds(NOON_MS)
    if new is not None and "NEW" in view_type:
        expected.new_image.CopyFrom(after)
        expected.size_bytes += new.size_bytes
    if old is not None and "OLD" in view_type:
        expected.old_image.CopyFrom(before)
        expected.size_bytes += old.size_bytes
    assert parsed == expected
    # Nothing is there twice, and nothing besides.
    assert GetRecordsResponse(records=[expected]).SerializeToString(deterministic=True) == encoded


@given(ATTRIBUTES, ATTRIBUTES, st.sampled_from(StreamViewType))
def test_images_are_the_whole_items(one: Attributes, other: Attributes, view_type: StreamViewType) -> None:
    before, after = one | {"id": value("a")}, other | {"id": value("a")}
    _, parsed = record(canonicalize(to_item(before)), canonicalize(to_item(after)), codec(), view_type)
    assert from_item(parsed.keys) == {"id": value("a")}
    assert from_item(parsed.new_image) == (after if view_type.has_new_image else {})
    assert from_item(parsed.old_image) == (before if view_type.has_old_image else {})


# Sizes of real records, from semantics of DynamoDB Streams, "SizeBytes": recorded, and of the developer guide's sample.
@pytest.mark.parametrize(
    ("before", "after", "size"),
    [
        (None, {"id": "Fred"}, 12),
        ({"id": "Fred"}, {"id": "Fred", "name": "Fred"}, 26),
        (None, {"Id": 101, "Message": "New item!"}, 26),
        ({"Id": 101, "Message": "New item!"}, {"Id": 101, "Message": "This item has changed"}, 59),
    ],
)
def test_a_record_counts_its_keys_and_the_images_it_holds(
    before: dict[str, object] | None, after: dict[str, object], size: int
) -> None:
    keys = codec(name="id") if "id" in after else codec(KeyAttributeType.NUMBER, "Id")
    old = None if before is None else canonicalize(item(before))
    _, parsed = record(old, canonicalize(item(after)), keys)
    assert parsed.size_bytes == size


@pytest.mark.parametrize("ms", [0, 1, 999, 1000, NOON_MS, NOON_MS + 1, NOON_MS + 999, 4_102_444_800_000])
def test_a_record_keeps_its_time_to_the_millisecond(ms: int) -> None:
    _, parsed = record(None, canonicalize(item(id="a")), codec(), now_ms=ms)
    assert parsed.approximate_creation_date_time.ToMilliseconds() == ms


@given(st.integers(1, 2**64 - 1), st.text(min_size=1, max_size=20))
def test_a_version_reads_back(hybrid_time: int, region: str) -> None:
    encoded = encode_version(Version(hybrid_time, region))
    assert encoded == record_pb2.Version(hybrid_time=hybrid_time, origin_region=region).SerializeToString()


def test_joined_records_are_a_response() -> None:
    insert, _ = record(None, canonicalize(item(id="a")), codec())
    remove, _ = record(canonicalize(item(id="b")), None, codec())
    rest = GetRecordsResponse(next_shard_iterator="next", millis_behind_latest=7)
    response = GetRecordsResponse.FromString(insert + remove + rest.SerializeToString())
    assert [from_item(each.keys) for each in response.records] == [{"id": value("a")}, {"id": value("b")}]
    assert response.next_shard_iterator == "next"


@pytest.mark.parametrize("length", [1, 100, 128, 2048])
@pytest.mark.parametrize("view_type", StreamViewType)
@pytest.mark.parametrize("now_ms", [0, 1, NOON_MS, NOON_MS + 1])
def test_the_key_of_a_record_is_found_by_its_bytes(length: int, view_type: StreamViewType, now_ms: int) -> None:
    whole = canonicalize(item(id="k" * length, text="x" * 1000))
    encoded, parsed = record(whole, None, codec(), view_type, now_ms)
    assert record_key(encoded) == parsed.keys.SerializeToString(deterministic=True)


@pytest.mark.parametrize("view_type", StreamViewType)
@pytest.mark.parametrize("before", [None, item(id="a", text="x" * 1000), item(id="a")])
def test_the_old_image_of_a_record_is_found_by_its_bytes(before: pb.Item | None, view_type: StreamViewType) -> None:
    old = None if before is None else canonicalize(before)
    encoded, _ = record(old, canonicalize(item(id="a", text="y")), codec(), view_type)
    is_held = old is not None and view_type.has_old_image
    assert record_old_image(encoded) == (old.encoded if old is not None and is_held else None)


def test_bytes_that_are_no_record_have_no_old_image() -> None:
    encoded, _ = record(None, canonicalize(item(id="a")), codec())
    for wrong in (b"", b"\x0a", encoded[:10], encoded[:3] + b"\x09" + encoded[3:]):
        with pytest.raises(CorruptionError):
            record_old_image(wrong)


def test_bytes_that_are_no_record_have_no_key() -> None:
    encoded, _ = record(None, canonicalize(item(id="a")), codec())
    for wrong in (b"", b"\x0a", encoded[:30], encoded[:5] + b"\x00" + encoded[5:], bytes(100)):
        with pytest.raises(CorruptionError):
            record_key(wrong)
