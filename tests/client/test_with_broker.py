"""The clients against a real broker: the calls as they are meant to be used together."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import aclosing
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest

import headrace
from headrace import AsyncClient, Delete, Put, Update
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


async def test_a_backup_is_made_listed_restored_from_and_deleted(connect: Connect, endpoint: str, name: str) -> None:
    async with connect(endpoint) as client:
        await client.create_table(name, stream="NEW_IMAGE")
        await client.put_item(name, ITEM)
        made = await client.create_backup(name)
        assert (made.backup_name, made.backup_status) == (name, "AVAILABLE")
        assert made.sequence_number is not None
        assert made in [backup async for backup in client.list_backups()]
        described = await client.describe_backup(made.backup_arn)
        assert (described.sequence_number, name in described.table_names) == (made.sequence_number, True)
        await client.delete_item(name, {"id": "UA-1545"})
        restored = await client.restore_table_from_backup(
            made.backup_arn, source_table=name, target_table=f"{name}-then"
        )
        assert (restored.table_status, restored.stream_view_type) == ("ACTIVE", None)
        assert await client.get_item(f"{name}-then", {"id": "UA-1545"}) == ITEM
        with pytest.raises(headrace.TableAlreadyExistsError):
            await client.restore_table_from_backup(made.backup_arn, source_table=name, target_table=name)
        assert (await client.delete_backup(made.backup_arn)).backup_status == "DELETED"
        with pytest.raises(headrace.BackupNotFoundError):
            await client.describe_backup(made.backup_arn)


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
        await client.batch_write_item({name: [Put({"id": "x", "n": 1}), Put({"id": "y", "n": 1})]})
        await client.batch_write_item({name: [Delete({"id": "y"})]})
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


async def test_shards_are_split_and_merged_and_a_tail_reads_through(connect: Connect, endpoint: str, name: str) -> None:
    async with connect(endpoint) as client:
        settings = headrace.StreamSettings(min_shards=1, max_shards=1, retention_s=3_600)
        made = await client.create_table(name, stream="KEYS_ONLY", stream_settings=settings)
        assert (made.stream_settings.retention_s, made.stream_settings.max_shards) == (3_600, 1)
        changed = await client.update_stream_settings(
            name, headrace.StreamSettings(max_shards=2, retention_bytes=1 << 30)
        )
        assert (changed.stream_settings.retention_s, changed.stream_settings.max_shards) == (3_600, 2)
        stream_arn = made.latest_stream_arn or ""
        await write(client, name, range(20))
        (first,) = (await client.describe_stream(stream_arn)).shards
        second, third = await client.split_shard(stream_arn, first.shard_id)
        assert (second.starting_hash_key, third.ending_hash_key) == (0, 2**64 - 1)
        assert second.ending_hash_key + 1 == third.starting_hash_key
        await write(client, name, range(20, 40))
        fourth = await client.merge_shards(stream_arn, second.shard_id, third.shard_id)
        await write(client, name, range(40, 60))
        batches = [batch async for batch in client.tail(name, start="TRIM_HORIZON", follow=False)]
        description = await client.describe_stream(stream_arn)
        *_, low, high = (await client.describe_stream(stream_arn, as_tree=True)).shards
        lanes = []
        for lane in (low, high):
            iterator = await client.get_shard_iterator(stream_arn, lane.shard_id, type="TRIM_HORIZON")
            lanes.append([record async for batch in client.get_records(iterator) for record in batch.records])
        with pytest.raises(headrace.ResourceInUseError):
            await client.split_shard(stream_arn, first.shard_id)
    assert [lane.parent_shard_id for lane in (low, high)] == [second.shard_id, third.shard_id]
    assert sum(map(len, lanes)) == 20
    assert {batch.shard_id for batch in batches} == {one.shard_id for one in (first, second, third, fourth)}
    numbers = [record.sequence_number for batch in batches for record in batch.records]
    assert len(numbers) == len(set(numbers)) == 60
    assert {one.shard_id: one.parent_shard_id for one in description.shards}[fourth.shard_id] == second.shard_id
    assert (description.retained_records, description.read_usage.returned_records) == (60, 60)


async def test_a_tail_and_an_iterator_begin_at_a_time(connect: Connect, endpoint: str, name: str) -> None:
    async with connect(endpoint) as client:
        made = await client.create_table(name, stream="KEYS_ONLY")
        await write(client, name, range(2))
        (batch,) = [batch async for batch in client.tail(name, start="TRIM_HORIZON", follow=False)]
        begin = batch.records[0].approximate_creation_date_time
        after = batch.records[-1].approximate_creation_date_time + timedelta(hours=1)
        for start, count in ((begin, 2), (after, 0)):
            tailed = [one async for batch in client.tail(name, start=start, follow=False) for one in batch.records]
            iterator = await client.get_shard_iterator(
                made.latest_stream_arn or "", type="AT_TIMESTAMP", timestamp=start
            )
            read = [one async for batch in client.get_records(iterator) for one in batch.records]
            assert [len(tailed), len(read)] == [count, count]


async def test_members_share_the_shards_and_take_over_from_one_that_leaves(
    connect: Connect, endpoint: str, name: str
) -> None:
    received: list[str] = []

    async def consume(client: AsyncClient, member: str, *, leave_after: int) -> None:
        count = 0
        async with aclosing(client.consume(name, group=name, member=member, max_batch_records=10)) as batches:
            async for batch in batches:
                count += len(batch.records)
                received.extend(one.keys["id"] for one in batch.records)
                assert await batch.ack(durable=True)
                if count >= leave_after:
                    return

    async with connect(endpoint) as client:
        settings = headrace.StreamSettings(min_shards=4, max_shards=4)
        await client.create_table(name, stream="KEYS_ONLY", stream_settings=settings)
        await write(client, name, range(200))
        async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
            tasks.create_task(consume(client, "a", leave_after=1))
            tasks.create_task(consume(client, "b", leave_after=20))
        while len(received) < 200:
            await consume(client, "c", leave_after=1)
        group = await client.describe_consumer_group(name)
        explanation = await client.explain_consumer_group(name)
    assert {len(group.shards), len(explanation.shards)} == {4}
    assert {one.progress for one in explanation.shards} == {"NO_MEMBER"}
    assert sum(one.records_behind_latest for one in group.shards) == 0
    assert sorted(received) == sorted(str(number) for number in range(200))


async def test_a_group_begins_with_the_items_of_the_table(connect: Connect, endpoint: str, name: str) -> None:
    async with connect(endpoint) as client:
        await client.create_table(name, stream="NEW_IMAGE")
        await write(client, name, range(100))
        sources: dict[str, str] = {}
        async with (
            asyncio.timeout(30),
            aclosing(client.consume(name, group=name, start="SNAPSHOT")) as batches,
        ):
            async for batch in batches:
                for record in batch.records:
                    assert record.new_image == record.keys
                    sources[record.keys["id"]] = batch.source
                await batch.ack()
                if len(sources) == 100:
                    await client.put_item(name, {"id": "new"})
                if "new" in sources:
                    break
    assert sources.pop("new") == "LOG"
    assert list(sources.values()) == ["SNAPSHOT"] * 100


async def test_a_key_that_fails_is_parked_and_redriven(connect: Connect, endpoint: str, name: str) -> None:
    async with connect(endpoint) as client:
        await client.create_table(name, stream="NEW_IMAGE")
        await write(client, name, range(3))
        received: list[tuple[str, str]] = []
        async with asyncio.timeout(30), aclosing(client.consume(name, group=name, max_attempts=2)) as batches:
            for attempt in (1, 2):
                batch = await anext(batches)
                failing = next(record for record in batch.records if record.keys["id"] == "1")
                received.extend(
                    (batch.source, one.keys["id"])
                    for one in batch.records
                    if one.sequence_number < failing.sequence_number
                )
                assert await batch.nack(failing, retry_delay_s=0, message=f"attempt {attempt}")
            await client.put_item(name, {"id": "1", "n": 2})
            while ("LOG", "2") not in received or len(await parked_records(client, name)) < 2:
                batch = await anext(batches)
                received.extend((batch.source, one.keys["id"]) for one in batch.records)
                assert await batch.ack()
                await client.put_item(name, {"id": "tick", "n": len(received)})
            (key,) = [key async for key in client.list_parked_keys(name)]
            assert (key.key, key.attempts, key.last_error, key.redriving) == ({"id": "1"}, 2, "attempt 2", False)
            assert await client.redrive_parked_keys(name) == 1
            redriven: list[headrace.ChangeRecord] = []
            while len(redriven) < 2:
                batch = await anext(batches)
                redriven += batch.records if batch.source == "PARKED" else ()
                assert await batch.ack(durable=True)
            group = await client.describe_consumer_group(name)
    assert [record.new_image for record in redriven] == [{"id": "1"}, {"id": "1", "n": 2}]
    assert ("LOG", "1") not in received
    assert (group.parked_keys, group.parked_records) == (0, 0)


async def parked_records(client: AsyncClient, group: str) -> list[headrace.ChangeRecord]:
    return [
        record
        async for key in client.list_parked_keys(group)
        async for record in client.get_parked_records(group, key.parked_id)
    ]


async def write(client: AsyncClient, table: str, numbers: range) -> None:
    """Puts items with these ids."""
    async for result in client.write_items(table, [Put({"id": str(number)}) for number in numbers]):
        assert result.error is None


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
