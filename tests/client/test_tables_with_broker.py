"""The clients against a real broker: everything about items and tables that is more than a put and a get."""

from __future__ import annotations

import itertools
from datetime import timedelta
from random import Random
from typing import Any

import pytest

import headrace
from headrace import (
    AsyncClient,
    CapacityMeter,
    ConditionCheck,
    Delete,
    Get,
    GlobalIndex,
    Keys,
    LocalIndex,
    Put,
    Update,
)
from tests.client.conftest import Connect

_NUMBERS = itertools.count()
ORDERS = [{"customer": customer, "number": n, "amount": 10 * n, "state": "open"} for customer in "ab" for n in range(5)]


@pytest.fixture
def name() -> str:
    """The name of a table of this test's own."""
    return f"tables-{next(_NUMBERS)}"


async def fill(client: AsyncClient, name: str, **more: object) -> None:
    options: dict[str, Any] = {"partition_key": ("customer", "S"), "sort_key": ("number", "N")} | more
    await client.create_table(name, **options)
    await client.batch_write_item({name: [Put(order) for order in ORDERS]})


async def test_writes_return_what_was_asked_for(connect: Connect, endpoint: str, name: str) -> None:
    async with connect(endpoint) as client:
        await client.create_table(name, partition_key=("id", "S"))
        key = {"id": "a"}
        assert await client.put_item(name, {"id": "a", "n": 1}, return_values="ALL_OLD") is None
        assert await client.put_item(name, {"id": "a", "n": 2}, return_values="ALL_OLD") == {"id": "a", "n": 1}
        options: dict[str, Any] = {"update": "SET n = n + :one", "values": {":one": 1}}
        assert await client.update_item(name, key, **options, return_values="UPDATED_NEW") == {"n": 3}
        assert await client.update_item(name, key, **options, return_values="UPDATED_OLD") == {"n": 3}
        assert await client.update_item(name, key, **options, return_values="ALL_NEW") == {"id": "a", "n": 5}
        assert await client.update_item(name, key, **options) is None
        with pytest.raises(headrace.ConditionalCheckFailedError) as failed:
            await client.delete_item(name, key, condition="n > :m", values={":m": 9}, return_old_on_failure=True)
        assert failed.value.item == {"id": "a", "n": 6}
        assert await client.delete_item(name, key, return_values="ALL_OLD") == {"id": "a", "n": 6}
        operations: list[headrace.Operation] = [
            Put({"id": "b"}),
            Update({"id": "b"}, "SET n = :n", values={":n": 1}, return_values="ALL_NEW"),
        ]
        results = [result async for result in client.write_items(name, operations)]
        assert [result.attributes for result in results] == [None, {"id": "b", "n": 1}]


async def test_a_query_reads_a_partition_in_order_page_by_page(connect: Connect, endpoint: str, name: str) -> None:
    async with connect(endpoint) as client:
        await fill(client, name)
        options: dict[str, Any] = {"key_condition": "customer = :c AND #n >= :n", "names": {"#n": "number"}}
        values = {":c": "a", ":n": 1}
        items = [item async for item in client.query(name, **options, values=values, page_size=2)]
        assert [item["number"] for item in items] == [1, 2, 3, 4]
        items = [item async for item in client.query(name, **options, values=values, reverse=True, projection="#n")]
        assert items == [{"number": n} for n in (4, 3, 2, 1)]
        filtered = client.query(name, **options, values=values | {":t": 30}, filter="amount < :t")
        assert [item["number"] async for item in filtered] == [1, 2]
        page = await client.query_page(name, **options, values=values, limit=3)
        assert (page.count, page.scanned_count) == (3, 3)
        assert page.last_evaluated_key == {"customer": "a", "number": 3}
        page = await client.query_page(name, **options, values=values, exclusive_start_key=page.last_evaluated_key)
        assert ([item["number"] for item in page.items], page.last_evaluated_key) == ([4], None)
        page = await client.query_page(name, **options, values=values, select="COUNT")
        assert (page.items, page.count) == ((), 4)


async def test_a_scan_reads_all_items_also_in_segments(connect: Connect, endpoint: str, name: str) -> None:
    async with connect(endpoint) as client:
        await fill(client, name)

        def key(item: headrace.Item) -> tuple[object, object]:
            return item["customer"], item["number"]

        whole = sorted([item async for item in client.scan(name, page_size=3)], key=key)
        assert whole == ORDERS
        parts = []
        for number in range(3):
            parts += [item async for item in client.scan(name, segment=number, total_segments=3)]
        assert sorted(parts, key=key) == ORDERS


async def test_indexes_are_read_and_added_to_a_table_with_items(connect: Connect, endpoint: str, name: str) -> None:
    async with connect(endpoint) as client:
        await fill(
            client,
            name,
            local_indexes=[LocalIndex(index_name="by-amount", sort_key=("amount", "N"), projection="KEYS_ONLY")],
        )
        by_amount = client.query(
            name, index="by-amount", key_condition="customer = :c AND amount < :t", values={":c": "b", ":t": 20}
        )
        assert [item async for item in by_amount] == [{"customer": "b", "number": n, "amount": 10 * n} for n in (0, 1)]
        index = GlobalIndex(index_name="by-state", partition_key=("state", "S"), sort_key=("amount", "N"))
        described = await client.update_table(name, create_index=index)
        assert [each.index_name for each in described.global_indexes] == ["by-state"]
        described = await client.wait_for_indexes(name)
        assert [(each.index_status, each.item_count) for each in described.global_indexes] == [("ACTIVE", 10)]
        await client.update_item(
            name, {"customer": "a", "number": 4}, update="SET #s = :s", names={"#s": "state"}, values={":s": "paid"}
        )
        by_state: dict[str, Any] = {"index": "by-state", "key_condition": "#s = :s", "names": {"#s": "state"}}
        assert [i["amount"] async for i in client.query(name, **by_state, values={":s": "paid"})] == [40]
        assert len([i async for i in client.query(name, **by_state, values={":s": "open"})]) == 9
        assert len([i async for i in client.scan(name, index="by-state")]) == 10
        await client.update_table(name, delete_index="by-state")
        assert (await client.wait_for_indexes(name)).global_indexes == ()


async def test_an_index_may_have_several_key_attributes(connect: Connect, endpoint: str, name: str) -> None:
    async with connect(endpoint) as client:
        index = GlobalIndex(
            index_name="by-place",
            partition_key=(("state", "S"), ("customer", "S")),
            sort_key=(("amount", "N"), ("number", "N")),
        )
        await fill(client, name, global_indexes=[index])
        (described,) = (await client.describe_table(name)).global_indexes
        assert described.partition_keys == (("state", "S"), ("customer", "S"))
        assert described.sort_keys == (("amount", "N"), ("number", "N"))
        query: dict[str, Any] = {"index": "by-place", "names": {"#s": "state", "#n": "number"}}
        found = client.query(
            name,
            **query,
            key_condition="#s = :s AND customer = :c AND amount = :a AND #n >= :n",
            values={":s": "open", ":c": "a", ":a": 20, ":n": 2},
        )
        assert [item["number"] async for item in found] == [2]
        one = GlobalIndex(index_name="by-state", partition_key=("state", "S"))
        await client.update_table(name, create_index=one)
        described = (await client.wait_for_indexes(name)).global_indexes[1]
        assert (described.partition_keys, described.sort_keys) == ((("state", "S"),), ())


async def test_a_transaction_writes_all_or_nothing(connect: Connect, endpoint: str, name: str) -> None:
    # No two clients may have the same randomness: it makes the tokens.
    async with connect(endpoint, random=Random()) as client:
        await client.create_table(name)
        await client.put_item(name, {"id": "a", "n": 1})
        await client.transact_write_items(
            [
                (name, Put({"id": "b", "n": 1})),
                (name, Update({"id": "a"}, "SET n = n + :one", values={":one": 1})),
                (name, ConditionCheck({"id": "c"}, "attribute_not_exists(id)")),
            ]
        )
        found = await client.transact_get_items(
            [(name, Get({"id": "a"})), (name, Get({"id": "b"}, "id")), (name, Get({"id": "c"}))]
        )
        assert found == [{"id": "a", "n": 2}, {"id": "b"}, None]
        with pytest.raises(headrace.TransactionCanceledError) as canceled:
            await client.transact_write_items(
                [(name, Delete({"id": "a"})), (name, Put({"id": "b"}, condition="attribute_not_exists(id)"))]
            )
        assert [reason.code for reason in canceled.value.reasons] == ["None", "ConditionalCheckFailed"]
        check = ConditionCheck({"id": "a"}, "n = :n", values={":n": 5}, return_old_on_failure=True)
        with pytest.raises(headrace.TransactionCanceledError) as canceled:
            await client.transact_write_items([(name, check), (name, Delete({"id": "b"}))])
        assert canceled.value.reasons[0].item == {"id": "a", "n": 2}
        assert await client.get_item(name, {"id": "b"}) == {"id": "b", "n": 1}


async def test_a_transaction_sent_twice_with_one_token_has_one_effect(
    connect: Connect, endpoint: str, name: str
) -> None:
    async with connect(endpoint) as client:
        await client.create_table(name)
        add = [(name, Update({"id": "a"}, "ADD n :one", values={":one": 1}))]
        for _ in range(3):
            await client.transact_write_items(add, client_request_token=name)
        assert await client.get_item(name, {"id": "a"}) == {"id": "a", "n": 1}
        with pytest.raises(headrace.IdempotentParameterMismatchError):
            await client.transact_write_items([(name, Delete({"id": "a"}))], client_request_token=name)


async def test_batches_read_from_several_tables(connect: Connect, endpoint: str, name: str) -> None:
    async with connect(endpoint) as client:
        other = f"{name}-other"
        await fill(client, name)
        await client.create_table(other)
        await client.batch_write_item({other: [Put({"id": "x", "text": "y" * 350_000}) for _ in range(1)]})
        # More than a response takes at once: the rest is asked for again.
        await client.batch_write_item({other: [Put({"id": str(n), "text": "y" * 350_000}) for n in range(8)]})
        found = await client.batch_get_item(
            {
                name: Keys([{"customer": "a", "number": n} for n in (0, 9)], projection="amount"),
                other: [{"id": str(n)} for n in range(9)],
            }
        )
        assert found[name] == [{"amount": 0}]
        assert [item["id"] for item in found[other]] == [str(n) for n in range(8)]


async def test_what_calls_consume_is_added_up(connect: Connect, endpoint: str, name: str) -> None:
    async with connect(endpoint, random=Random()) as client:
        index = GlobalIndex(index_name="by-state", partition_key=("state", "S"), projection="KEYS_ONLY")
        await fill(client, name, global_indexes=[index])
        meter = CapacityMeter()
        await client.put_item(name, ORDERS[0] | {"text": "x" * 1500}, capacity=meter)
        # The item has grown to 2 KB; its entry in the index is as it was.
        assert tuple(meter.total) == (2, 0, 2)
        await client.get_item(name, {"customer": "a", "number": 1}, capacity=meter)
        assert meter.by_table[name].total.read_capacity_units == 0.5
        query: dict[str, Any] = {"key_condition": "customer = :c", "values": {":c": "a"}, "consistent_read": True}
        assert len([item async for item in client.query(name, **query, capacity=meter)]) == 5
        assert meter.by_table[name].total.read_capacity_units == 1.5
        await client.transact_write_items([(name, Delete({"customer": "b", "number": 4}))], capacity=meter)
        consumed = meter.by_table[name]
        assert consumed.table.write_capacity_units == 4
        assert consumed.global_indexes["by-state"].write_capacity_units == 1


async def test_what_a_table_is_told_of_capacity_class_and_encryption_is_described(
    connect: Connect, endpoint: str, name: str
) -> None:
    by_state = GlobalIndex(
        index_name="by-state",
        partition_key=("state", "S"),
        on_demand_throughput=headrace.OnDemandThroughput(3),
        warm_throughput=headrace.WarmThroughput(12_001),
    )
    async with connect(endpoint) as client:
        made = await client.create_table(
            name,
            global_indexes=[by_state],
            on_demand_throughput=(10, None),
            warm_throughput=(None, 4_001),
            table_class="STANDARD_INFREQUENT_ACCESS",
            encryption="alias/mine",
        )
        assert (made.on_demand_throughput, made.warm_throughput) == ((10, None), (12_000, 4_001))
        assert (made.table_class, made.table_class_update_date_time) == ("STANDARD_INFREQUENT_ACCESS", None)
        assert made.kms_master_key_arn is not None
        assert made.kms_master_key_arn.endswith(":alias/mine")
        assert made.last_update_to_pay_per_request_date_time == made.creation_date_time
        (index,) = made.global_indexes
        assert (index.on_demand_throughput, index.warm_throughput) == ((3, None), (12_001, 4_000))
        wanted = headrace.GlobalIndexUpdate(on_demand_throughput=headrace.OnDemandThroughput(-1, 5))
        changed = await client.update_table(
            name,
            update_indexes={"by-state": wanted},
            on_demand_throughput=(-1, None),
            table_class="STANDARD",
            encryption=False,
        )
        assert (changed.on_demand_throughput, changed.warm_throughput) == (None, (12_000, 4_001))
        assert changed.global_indexes[0].on_demand_throughput == (None, 5)
        assert (changed.table_class, changed.kms_master_key_arn) == ("STANDARD", None)
        assert changed.table_class_update_date_time is not None
        units = headrace.GlobalIndexUpdate(provisioned_throughput=(2, 2))
        await client.update_table(name, provisioned_throughput=(5, 5), update_indexes={"by-state": units})
        lowered = await client.update_table(name, provisioned_throughput=(5, 4))
        assert lowered.throughput_changes is not None
        assert lowered.throughput_changes.last_decrease_date_time is not None
        assert lowered.throughput_changes.last_increase_date_time is None
        backup = await client.create_backup(name)
        restored = await client.restore_table_from_backup(
            backup.backup_arn, source_table=name, target_table=f"{name}-restored"
        )
        assert restored.restore_summary == (
            backup.backup_arn,
            made.table_arn,
            backup.backup_creation_date_time,
        )
        await client.delete_backup(backup.backup_arn)


async def test_a_table_is_restored_to_a_point_in_time(connect: Connect, endpoint: str, name: str) -> None:
    async with connect(endpoint) as client:
        await client.create_table(name, stream="OLD_IMAGE")
        assert await client.describe_continuous_backups(name) == headrace.PointInTimeRecovery(
            enabled=False,
            recovery_period_in_days=None,
            earliest_restorable_date_time=None,
            latest_restorable_date_time=None,
        )
        with pytest.raises(headrace.PointInTimeRecoveryUnavailableError):
            await client.restore_table_to_point_in_time(name, f"{name}-copy")
        await client.put_item(name, {"id": "a", "n": 1})
        recovery = await client.update_continuous_backups(name, recovery_period_in_days=3)
        assert (recovery.enabled, recovery.recovery_period_in_days) == (True, 3)
        first = recovery.latest_restorable_date_time
        assert first is not None
        while (await client.describe_continuous_backups(name)).latest_restorable_date_time == first:
            pass
        await client.put_item(name, {"id": "a", "n": 2})
        copy = await client.restore_table_to_point_in_time(name, f"{name}-copy", at=first)
        assert copy.restore_summary is not None
        assert (copy.restore_summary.source_backup_arn, copy.restore_summary.restore_date_time) == (None, first)
        assert await client.get_item(f"{name}-copy", {"id": "a"}) == {"id": "a", "n": 1}
        await client.restore_table_to_point_in_time(name, f"{name}-latest")
        assert await client.get_item(f"{name}-latest", {"id": "a"}) == {"id": "a", "n": 2}
        with pytest.raises(headrace.InvalidRestoreTimeError):
            await client.restore_table_to_point_in_time(name, f"{name}-early", at=first - timedelta(days=4))
        assert not (await client.update_continuous_backups(name, enabled=False)).enabled


async def test_a_tables_settings_are_kept(connect: Connect, endpoint: str, name: str) -> None:
    async with connect(endpoint) as client:
        made = await client.create_table(
            name, provisioned_throughput=(5, 6), deletion_protection=True, tags={"team": "blue"}
        )
        assert (made.billing_mode, made.provisioned_throughput) == ("PROVISIONED", (5, 6))
        with pytest.raises(headrace.ValidationError, match="protect"):
            await client.delete_table(name)
        await client.tag_resource(made.table_arn, {"stage": "test", "team": "red"})
        await client.untag_resource(made.table_arn, ["stage"])
        assert await client.list_tags_of_resource(made.table_arn) == {"team": "red"}
        await client.update_time_to_live(name, "until", enabled=True)
        described = await client.describe_time_to_live(name)
        assert described.attribute_name == "until"
        assert described.time_to_live_status in ("ENABLING", "ENABLED")
        changed = await client.update_table(name, provisioned_throughput=None, deletion_protection=False)
        assert (changed.billing_mode, changed.deletion_protection_enabled) == ("PAY_PER_REQUEST", False)
        await client.delete_table(name)
