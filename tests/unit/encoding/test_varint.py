from __future__ import annotations

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from broker.encoding.varint import field_bytes, read_varint, varint
from headrace.v1 import attribute_value_pb2


@given(st.integers(0, 2**63 - 1) | st.sampled_from([0, 127, 128, 2**14 - 1, 2**14, 2**63 - 1]))
def test_a_varint_is_protobufs_own(number: int) -> None:
    assert Timestamp.FromString(b"\x08" + varint(number)).seconds == number
    if number:
        assert b"\x08" + varint(number) == Timestamp(seconds=number).SerializeToString()
    assert read_varint(b"\xff" + varint(number) + b"\x01", 1) == (number, 1 + len(varint(number)))


@pytest.mark.parametrize("size", [0, 1, 127, 128, 20_000])
def test_a_field_of_bytes_is_protobufs_own(size: int) -> None:
    content = b"x" * size
    assert field_bytes(b"\x1a", content) == attribute_value_pb2.AttributeValue(b=content).SerializeToString()
