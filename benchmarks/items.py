"""Items like those of an ordinary table: a key, short texts and numbers, and a longer text to make up the size."""

from __future__ import annotations

from typing import Final

from headrace.v1.attribute_value_pb2 import Item
from headrace.v1.record_pb2 import StreamViewType
from headrace.v1.table_pb2 import StreamSettings
from headrace.v1.table_service_pb2 import UpdateTableRequest
from tests.rpc import NEW_IMAGE, Client, TestTable, batch, put
from tests.values import attributes, size_bytes, to_item

BATCH: Final = 500


def item_of_about(size: int, item_id: str, remark: str = "") -> Item:
    """An item with so many bytes by DynamoDB's count, in ten attributes; the remark is filled up."""
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
        remark=remark,
    )
    content["remark"] = ("S", remark + "r" * (size - size_bytes(content)))
    return to_item(content)


def create_table(
    client: Client, *, view_type: StreamViewType.ValueType = NEW_IMAGE, settings: StreamSettings | None = None
) -> TestTable:
    """Makes a table whose stream stays one shard, however hard it is written to."""
    table = client.create_table(view_type=view_type)
    settings = settings or StreamSettings()
    settings.max_shards = 1
    client.tables.UpdateTable(UpdateTableRequest(table_name=table.name, stream_settings=settings))
    return table


def fill(client: Client, table_name: str, numbers: range, size: int) -> None:
    """Puts an item of so many bytes for each number."""
    for first in range(numbers.start, numbers.stop, BATCH):
        items = [item_of_about(size, f"{number:012d}") for number in numbers[first - numbers.start :][:BATCH]]
        for response in client.write_items(batch(table_name, *map(put, items))):
            assert not any(result.HasField("error") for result in response.results), response.results[0]
