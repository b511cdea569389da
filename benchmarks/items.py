"""Items like those of an ordinary table: a key, short texts and numbers, and a longer text to make up the size."""

from __future__ import annotations

from typing import Final

from headrace.v1.attribute_value_pb2 import Item
from tests.rpc import Client, batch, put
from tests.values import attributes, size_bytes, to_item

BATCH: Final = 500


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


def fill(client: Client, table_name: str, numbers: range, size: int) -> None:
    """Puts an item of so many bytes for each number."""
    for first in range(numbers.start, numbers.stop, BATCH):
        items = [item_of_about(size, f"{number:012d}") for number in numbers[first - numbers.start :][:BATCH]]
        for response in client.write_items(batch(table_name, *map(put, items))):
            assert not any(result.HasField("error") for result in response.results), response.results[0]
