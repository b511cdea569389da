"""Items like those of an ordinary table: a key, short texts and numbers, and a longer text to make up the size."""

from __future__ import annotations

from headrace.v1.attribute_value_pb2 import Item
from tests.values import attributes, size_bytes, to_item


def item_of_about(size: int, item_id: str) -> Item:
    """An item with so many bytes by DynamoDB's count, in ten attributes."""
    content = attributes(
        id=item_id,
        carrier="UA",
        origin="EWR",
        destination="IAH",
        flight=1545,
        delay=-12,
        distance=1400,
        cancelled=False,
        airline="United Air Lines Inc.",
        remark="",
    )
    content["remark"] = ("S", "r" * (size - size_bytes(content)))
    return to_item(content)
