"""The event a function receives, member by member as AWS Lambda sends it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from headrace.triggers.event import EVENT_SIZE_BYTES_MAX, EventBuilder, event_id
from headrace.v1 import record_pb2
from headrace.v1.attribute_value_pb2 import AttributeValue, BinarySet, Item, List, NumberSet, StringSet

STREAM_ARN = "arn:aws:dynamodb:eu-west-1:123456789012:table/orders/stream/2026-01-05T09:00:00.125"
GOLDEN = Path(__file__).with_name("golden_event.json")


def item(**attributes: AttributeValue) -> Item:
    return Item(attributes=attributes)


def s(text: str) -> AttributeValue:
    return AttributeValue(s=text)


def n(text: str) -> AttributeValue:
    return AttributeValue(n=text)


def record(number: int = 1, **members: Any) -> record_pb2.Record:
    made = record_pb2.Record(
        event_name=record_pb2.EVENT_NAME_INSERT,
        sequence_number=f"{number:021}",
        keys=item(id=n(str(number))),
        size_bytes=19,
        stream_view_type=record_pb2.STREAM_VIEW_TYPE_KEYS_ONLY,
    )
    made.approximate_creation_date_time.FromMilliseconds(1_700_000_000_999)
    made.MergeFrom(record_pb2.Record(**members))
    return made


def build(*records: record_pb2.Record) -> Any:
    builder = EventBuilder(stream_arn=STREAM_ARN, region="eu-west-1")
    for each in records:
        assert builder.add(each)
    return json.loads(builder.build())


# Source: AWS Lambda Developer Guide, "Using AWS Lambda with Amazon DynamoDB", example event. The ids are ours: the MD5
# of "<stream ARN>/<sequence number>".
def test_an_event_is_the_one_lambda_sends() -> None:
    every_type = item(
        owner=s("ann"),
        no=n("42"),
        raw=AttributeValue(b=b"\x00\x01\x02"),
        paid=AttributeValue(bool=True),
        note=AttributeValue(null=True),
        tags=AttributeValue(ss=StringSet(values=["new", "vip"])),
        sizes=AttributeValue(ns=NumberSet(values=["1", "2.5"])),
        keys=AttributeValue(bs=BinarySet(values=[b"\xff", b""])),
        lines=AttributeValue(l=List(values=[AttributeValue(m=item(sku=s("x1"), qty=n("2"))), s("é ☃")])),
    )
    keys = item(owner=s("ann"), no=n("42"))
    modified = record_pb2.Record(
        event_name=record_pb2.EVENT_NAME_MODIFY,
        sequence_number="000000300000000499659",
        keys=keys,
        new_image=every_type,
        old_image=item(owner=s("ann"), no=n("42"), paid=AttributeValue(bool=False)),
        size_bytes=91,
        stream_view_type=record_pb2.STREAM_VIEW_TYPE_NEW_AND_OLD_IMAGES,
    )
    modified.approximate_creation_date_time.FromMilliseconds(1_700_000_012_999)
    expired = record_pb2.Record(
        event_name=record_pb2.EVENT_NAME_REMOVE,
        sequence_number="000000400000000499660",
        keys=item(owner=s("bob"), no=n("7")),
        old_image=item(owner=s("bob"), no=n("7"), ttl=n("1699999000")),
        size_bytes=32,
        stream_view_type=record_pb2.STREAM_VIEW_TYPE_NEW_AND_OLD_IMAGES,
        user_identity=record_pb2.UserIdentity(principal_id="dynamodb.amazonaws.com", type="Service"),
    )
    expired.approximate_creation_date_time.FromMilliseconds(1_700_000_013_000)
    event = build(modified, expired)
    assert event == json.loads(GOLDEN.read_text())
    # The order of members is AWS's too, for whoever reads the log of a handler that prints its event.
    golden = json.loads(GOLDEN.read_text())
    for sent, expected in zip(event["Records"], golden["Records"], strict=True):
        assert list(sent) == list(expected)
        assert list(sent["dynamodb"]) == list(expected["dynamodb"])


def test_an_absent_image_is_absent_and_an_empty_one_is_empty() -> None:
    (without, with_empty) = build(record(1), record(2, new_image=item()))["Records"]
    assert "NewImage" not in without["dynamodb"]
    assert "OldImage" not in without["dynamodb"]
    assert with_empty["dynamodb"]["NewImage"] == {}


def test_the_id_of_a_record_is_the_same_each_time_and_depends_on_its_stream() -> None:
    number = "000000000000000000007"
    # printf %s "$ARN/$NUMBER" | md5sum
    assert event_id(STREAM_ARN, number) == "c384b467e980a862e26962b774bbf18b"
    assert event_id(STREAM_ARN, number) != event_id(STREAM_ARN + "x", number)


# An invocation carries 6 MB (AWS Lambda quotas).
def test_a_record_that_would_pass_the_payload_limit_is_left_for_the_next_event() -> None:
    half = record(new_image=item(text=s("x" * (EVENT_SIZE_BYTES_MAX // 2))))
    builder = EventBuilder(stream_arn=STREAM_ARN, region="eu-west-1")
    assert builder.add(half)
    assert not builder.add(half)
    assert builder.add(record(2)), "a smaller one still fits"
    assert builder.record_count == 2
    assert len(builder.build()) <= EVENT_SIZE_BYTES_MAX


def test_an_event_may_be_exactly_as_large_as_the_limit() -> None:
    sample = EventBuilder(stream_arn=STREAM_ARN, region="eu-west-1")
    sample.add(record(1))
    sample.add(record(2))
    size = len(sample.build())
    for limit, fits in ((size, True), (size - 1, False)):
        builder = EventBuilder(stream_arn=STREAM_ARN, region="eu-west-1", size_bytes_max=limit)
        builder.add(record(1))
        assert builder.add(record(2)) is fits


# Two images of 400 KB of empty strings in a list make more than 6 MB of JSON. Leaving such a record out would lose it.
def test_a_single_record_goes_out_whatever_its_size() -> None:
    builder = EventBuilder(stream_arn=STREAM_ARN, region="eu-west-1", size_bytes_max=10)
    assert builder.add(record(1))
    assert not builder.add(record(2))
    assert len(json.loads(builder.build())["Records"]) == 1


def test_a_value_of_a_kind_this_client_does_not_know_is_refused_not_guessed() -> None:
    builder = EventBuilder(stream_arn=STREAM_ARN, region="eu-west-1")
    with pytest.raises(ValueError, match="unknown kind"):
        builder.add(record(new_image=item(what=AttributeValue())))
