"""The clients against a real broker: the calls as they are meant to be used together."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import aclosing
from decimal import Decimal
from pathlib import Path

import pytest

import headrace
from headrace import Delete, Put, Update
from tests.broker_process import BrokerProcess
from tests.client.conftest import Connect

_NUMBERS = itertools.count()


@pytest.fixture
def name() -> str:
    """The name of a table, or a group, of this test's own."""
    return f"client-{next(_NUMBERS)}"


ITEM = {
    "id": "UA-1545",
    "delay": -3,
    "distance": Decimal("1400.5"),
    "payload": b"\x00\xff",
    "late": False,
    "gate": None,
    "crew": {"ada", "grace"},
    "legs": [{"from": "EWR"}, {"to": "IAH"}],
    "nothing": {},
}


async def test_an_item_comes_back_as_it_was_written(connect: Connect, endpoint: str, name: str) -> None:
    async with connect(endpoint) as client:
        await client.create_table(name)
        await client.put_item(name, ITEM)
        assert await client.get_item(name, {"id": "UA-1545"}) == ITEM
        await client.update_item(name, {"id": "UA-1545"}, update="SET delay = :d REMOVE payload", values={":d": 5})
        changed = {key: value for key, value in ITEM.items() if key != "payload"} | {"delay": 5}
        assert await client.get_item(name, {"id": "UA-1545"}) == changed
        await client.delete_item(name, {"id": "UA-1545"})
        assert await client.get_item(name, {"id": "UA-1545"}) is None


async def test_tables_and_streams_are_described(connect: Connect, endpoint: str, name: str) -> None:
    async with connect(endpoint) as client:
        made = await client.create_table(name, partition_key=("carrier", "S"), sort_key=("at", "N"), stream="NEW_IMAGE")
        assert (made.partition_key, made.sort_key) == (("carrier", "S"), ("at", "N"))
        assert made.stream_view_type == "NEW_IMAGE"
        assert await client.describe_table(name) == made
        assert name in [table async for table in client.list_tables()]
        (stream,) = [stream async for stream in client.list_streams(name)]
        assert stream.stream_arn == made.latest_stream_arn
        described = await client.describe_stream(stream.stream_arn)
        assert (described.partition_key, described.sort_key, described.stream_view_type) == (
            "carrier",
            "at",
            "NEW_IMAGE",
        )
        assert [shard.is_open for shard in described.shards] == [True]
        disabled = await client.update_table(name, stream=None)
        assert (disabled.stream_view_type, disabled.latest_stream_arn) == (None, stream.stream_arn)
        await client.delete_table(name)
        with pytest.raises(headrace.ResourceNotFoundError):
            await client.describe_table(name)


async def test_errors_have_their_class_and_field(connect: Connect, endpoint: str, name: str) -> None:
    async with connect(endpoint) as client:
        await client.create_table(name)
        with pytest.raises(headrace.ResourceInUseError):
            await client.create_table(name)
        with pytest.raises(headrace.ValidationError) as invalid:
            await client.put_item(name, {"id": 5})
        assert "id" in invalid.value.message
        await client.put_item(name, {"id": "a"})
        with pytest.raises(headrace.ConditionalCheckFailedError):
            await client.put_item(name, {"id": "a"}, condition="attribute_not_exists(id)")


async def test_batches_and_pipelines_write_what_a_snapshot_gives(connect: Connect, endpoint: str, name: str) -> None:
    async with connect(endpoint) as client:
        await client.create_table(name)
        await client.batch_write_item(name, puts=[{"id": "x", "n": 1}, {"id": "y", "n": 1}])
        await client.batch_write_item(name, deletes=[{"id": "y"}])
        operations: list[headrace.Operation] = [
            *(Put({"id": f"{number:04d}", "n": number}) for number in range(2_000)),
            Update({"id": "0000"}, "SET n = :n", values={":n": -1}),
            Delete({"id": "0001"}),
            Put({"id": "0002"}, condition="attribute_not_exists(id)"),
        ]
        results = [result async for result in client.write_items(name, operations)]
        assert [result.operation for result in results] == operations
        assert [type(result.error) for result in results if result.error] == [headrace.ConditionalCheckFailedError]
        items = {item["id"]: item["n"] async for item, _ in client.snapshot(name)}
    expected = {f"{number:04d}": number for number in range(2_000)} | {"0000": -1, "x": 1}
    del expected["0001"]
    assert items == expected


async def test_tail_gives_each_change_in_order(connect: Connect, endpoint: str, name: str) -> None:
    async with connect(endpoint) as client:
        await client.create_table(name, stream="NEW_AND_OLD_IMAGES")
        await client.put_item(name, {"id": "a", "n": 1})
        await client.put_item(name, {"id": "a", "n": 2})
        await client.put_item(name, {"id": "a", "n": 2})  # changes nothing, so it is no record
        await client.delete_item(name, {"id": "a"})
        changes = [
            (record.event_name, record.keys, record.old_image, record.new_image)
            async for batch in client.tail(name, start="TRIM_HORIZON", follow=False)
            for record in batch.records
        ]
    key = {"id": "a"}
    assert changes == [
        ("INSERT", key, None, {"id": "a", "n": 1}),
        ("MODIFY", key, {"id": "a", "n": 1}, {"id": "a", "n": 2}),
        ("REMOVE", key, {"id": "a", "n": 2}, None),
    ]


async def test_a_group_goes_on_after_its_last_ack(connect: Connect, endpoint: str, name: str) -> None:
    async with connect(endpoint) as client:
        await client.create_table(name, stream="KEYS_ONLY")
        for number in range(10):
            await client.put_item(name, {"id": str(number)})
        received: list[str] = []
        for _ in range(2):
            async with aclosing(client.consume(name, group=name, max_batch_records=5)) as batches:
                batch = await anext(batches)
                received.extend(record.keys["id"] for record in batch.records)
                assert await batch.ack(durable=True)
                group = await client.describe_consumer_group(name)
                assert [shard.sequence_number for shard in group.shards] == [batch.sequence_number]
        assert received == [str(number) for number in range(10)]
        assert name in [one.group_name async for one in client.list_consumer_groups()]


# An ack without `durable` is not lost when its consumer leaves in good order.
async def test_leaving_keeps_the_last_ack(connect: Connect, endpoint: str, name: str) -> None:
    async with connect(endpoint) as client:
        await client.create_table(name, stream="KEYS_ONLY")
        for number in range(2):
            await client.put_item(name, {"id": str(number)})
        received: list[str] = []
        for _ in range(2):
            async with aclosing(client.consume(name, group=name, max_batch_records=1)) as batches:
                batch = await anext(batches)
                received.extend(record.keys["id"] for record in batch.records)
                assert await batch.ack()
        assert received == ["0", "1"]


# The whole point of reconnecting: a restart of the broker must not show, save as a pause.
async def test_readers_survive_a_restart_of_the_broker(connect: Connect, tmp_path: Path) -> None:
    with BrokerProcess(tmp_path) as broker:
        async with connect(broker.grpc) as client:
            await client.create_table("flights", stream="KEYS_ONLY")
            await client.put_item("flights", {"id": "before"})
            async with (
                aclosing(client.tail("flights", start="TRIM_HORIZON")) as tail,
                aclosing(client.consume("flights", group="g")) as consumer,
            ):
                tailed = [*(await anext(tail)).records]
                batch = await anext(consumer)
                assert await batch.ack(durable=True)
                consumed = [*batch.records]
                await asyncio.to_thread(restart, broker)
                async with connect(broker.grpc) as writer:
                    await writer.put_item("flights", {"id": "after"})
                async with asyncio.timeout(30):
                    tailed += (await anext(tail)).records
                    consumed += (await anext(consumer)).records
    assert [record.keys["id"] for record in tailed] == ["before", "after"]
    assert [record.keys["id"] for record in consumed] == ["before", "after"]


def restart(broker: BrokerProcess) -> None:
    broker.stop()
    broker.start(keep_ports=True)
