"""The look through a message before it is parsed: it counts the entries of maps, wherever they are."""

from __future__ import annotations

import pytest

from broker.encoding.wire import MAP_ENTRIES_MAX, look_through
from broker.model.errors import ValidationError
from headrace.v1 import item_service_pb2 as pb
from headrace.v1.attribute_value_pb2 import AttributeValue, Item


def filled(entries: int) -> Item:
    return Item(attributes={str(number): AttributeValue(s="") for number in range(entries)})


def test_a_map_of_as_many_entries_as_an_item_holds_is_taken_and_one_more_is_not() -> None:
    look_through(filled(MAP_ENTRIES_MAX).SerializeToString(), Item)
    with pytest.raises(ValidationError) as refused:
        look_through(filled(MAP_ENTRIES_MAX + 1).SerializeToString(), Item)
    assert refused.value.metadata["limit"] == str(MAP_ENTRIES_MAX)


def test_maps_are_found_wherever_they_are() -> None:
    request = pb.WriteItemsRequest(table_name="t")
    request.operations.add().put.condition_expression = "x"
    update = request.operations.add().update
    nested = update.expression_attribute_values[":v"].l.values.add().m
    for number in range(MAP_ENTRIES_MAX + 1):
        nested.attributes[str(number)].null = True
    with pytest.raises(ValidationError):
        look_through(request.SerializeToString(), pb.WriteItemsRequest)


def test_maps_are_counted_one_by_one() -> None:
    request = pb.WriteItemsRequest(table_name="t")
    for _ in range(2):
        update = request.operations.add().update
        for number in range(MAP_ENTRIES_MAX * 2 // 3):
            update.expression_attribute_names[f"#{number}"] = "n"
    look_through(request.SerializeToString(), pb.WriteItemsRequest)


@pytest.mark.parametrize(
    "data",
    [b"", b"\x0a", b"\x0a\xff", b"\x0a\xff\xff\xff\xff\x7f", b"\xff" * 1000, b"\x0b\x0c", b"\x09\x00", b"\x0d\x00"],
)
def test_bytes_that_are_no_message_are_left_to_the_parser(data: bytes) -> None:
    look_through(data, Item)
