"""Triggers on streams of several shards, end to end: hosts share them, splits and failures disturb nobody else."""

from __future__ import annotations

import itertools
import time
from functools import partial
from pathlib import Path
from random import Random

import pytest

from headrace.v1 import record_pb2
from headrace.v1.stream_service_pb2 import Shard
from headrace.v1.table_service_pb2 import UpdateTableRequest
from tests.companion_process import CompanionProcess
from tests.conftest import eventually
from tests.rpc import Client, TestTable
from tests.triggers.hosts import Headrace, create, item
from tests.triggers.noting_function import NotingFunction

KEYS = 24
KILL_ROUNDS = 5


@pytest.fixture
def table(table: TestTable, client: Client) -> TestTable:
    """A table whose stream has two open shards."""
    split(client, table)
    return table


def open_shards(client: Client, table: TestTable) -> list[Shard]:
    """The open shards, by their hashes."""
    shards = client.shards(table.stream_arn)
    opened = [shard for shard in shards if not shard.sequence_number_range.ending_sequence_number]
    return sorted(opened, key=lambda shard: shard.hash_key_range.starting_hash_key)


def split(client: Client, table: TestTable) -> None:
    """Splits the first open shard."""
    client.split(table.stream_arn, open_shards(client, table)[0].shard_id)


def merge(client: Client, table: TestTable) -> None:
    """Merges the first two open shards."""
    first, second, *_ = open_shards(client, table)
    client.merge(table.stream_arn, first.shard_id, second.shard_id)


def put_round(client: Client, table: TestTable, number: int, *, keys: int = KEYS) -> None:
    """Writes every key once; `number` must rise."""
    for key in range(keys):
        client.put(table.name, item(f"k{key}", number))


def records(client: Client, table: TestTable) -> list[record_pb2.Record]:
    """All records of the stream, in all shards."""
    iterator = client.iterator(table.stream_arn, shard_id="")
    return [record for response in client.read(iterator) for record in response.records]


def shard_of_keys(client: Client, table: TestTable) -> dict[str, str]:
    """By key, the open shard that records it; only of keys that were written since the last split."""
    return {
        record.keys.attributes["id"].s: shard.shard_id
        for shard in client.shards(table.stream_arn)
        for response in client.read(client.iterator(table.stream_arn, shard_id=shard.shard_id))
        for record in response.records
    }


def has_all(client: Client, table: TestTable, function: NotingFunction) -> bool:
    return {record.sequence_number for record in records(client, table)} <= set(function.sequence_numbers())


def assert_in_order_per_key(client: Client, table: TestTable, function: NotingFunction) -> None:
    """At least once without a gap: no record of a key comes before all earlier ones of it have come."""
    expected: dict[str, list[str]] = {}
    for record in records(client, table):
        expected.setdefault(record.keys.attributes["id"].s, []).append(record.sequence_number)
    done = dict.fromkeys(expected, 0)
    for call in function.calls():
        for record in call.event["Records"]:
            key = record["dynamodb"]["Keys"]["id"]["S"]
            place = expected[key].index(record["dynamodb"]["SequenceNumber"])
            assert place <= done[key], f"{key}: a gap before record {place}"
            done[key] = max(done[key], place + 1)
    assert done == {key: len(numbers) for key, numbers in expected.items()}


@pytest.mark.usefixtures("host")
def test_a_trigger_follows_splits_and_merges(
    headrace: Headrace, client: Client, table: TestTable, function: NotingFunction, trigger: str
) -> None:
    create(headrace, trigger, table, function, "--batch-size", "5")
    for number, change in enumerate([split, merge, split, merge]):
        put_round(client, table, number)
        change(client, table)
    put_round(client, table, 4)
    eventually(partial(has_all, client, table, function), timeout_s=20)
    assert_in_order_per_key(client, table, function)
    assert len(function.sequence_numbers()) == 5 * KEYS, "nothing has come twice"


# What waits behind the batch that fails is more than the credit of the session.
@pytest.mark.usefixtures("host")
def test_a_shard_that_fails_does_not_starve_the_others(
    headrace: Headrace, client: Client, table: TestTable, function: NotingFunction, trigger: str
) -> None:
    put_round(client, table, 0)
    shards = shard_of_keys(client, table)
    failing = {key for key, shard_id in shards.items() if shard_id == shards["k0"]}
    assert 0 < len(failing) < KEYS
    function.rewrite(f"if {{r['dynamodb']['Keys']['id']['S'] for r in event['Records']}} & {failing!r}: raise KeyError")
    for number in range(1, 6):
        put_round(client, table, number)
    create(headrace, trigger, table, function, "--batch-size", "2")
    others = {r.sequence_number for r in records(client, table) if r.keys.attributes["id"].s not in failing}
    eventually(lambda: others <= set(function.sequence_numbers()), timeout_s=20)
    group = f"trigger:{trigger}"
    eventually(lambda: "KeyError" in str(headrace("stream", "explain", group)["shards"]))
    assert headrace("consumer", "parked", group) == []

    function.rewrite()
    headrace("trigger", "update", trigger, "--code", str(function.file))
    eventually(partial(has_all, client, table, function), timeout_s=20)
    assert_in_order_per_key(client, table, function)


def test_hosts_share_the_shards_and_one_takes_over_from_another(
    headrace: Headrace, client: Client, table: TestTable, function: NotingFunction, trigger: str, tmp_path: Path
) -> None:
    create(headrace, trigger, table, function, "--batch-size", "3")
    group = f"trigger:{trigger}"

    def holders() -> set[str]:
        shards = headrace("consumer", "describe", group)["shards"]
        return {shard["member_name"] for shard in shards if not shard["shard_end"]}

    with CompanionProcess("trigger-host", client.endpoint, tmp_path).wait_ready() as first:
        put_round(client, table, 0)
        eventually(partial(has_all, client, table, function))
        with CompanionProcess("trigger-host", client.endpoint, tmp_path).wait_ready():
            eventually(lambda: len(holders()) == 2 and None not in holders())
            before = len(function.calls())
            put_round(client, table, 1)
            eventually(partial(has_all, client, table, function))
            assert len({call.pid for call in function.calls()[before:]}) == 2
            split(client, table)
            put_round(client, table, 2)
            first.kill()
            put_round(client, table, 3)
            eventually(partial(has_all, client, table, function), timeout_s=20)
            assert_in_order_per_key(client, table, function)


# The call that runs is finished and acked before another host begins with what follows: else it would end late, and put
# old changes over newer ones.
def test_a_shard_moves_only_after_the_call_that_runs(
    headrace: Headrace, client: Client, table: TestTable, function: NotingFunction, trigger: str, tmp_path: Path
) -> None:
    function.rewrite("time.sleep(0.1)")
    rounds = itertools.count()
    put_round(client, table, next(rounds))
    create(headrace, trigger, table, function, "--batch-size", "2")

    def both_are_called() -> bool:
        put_round(client, table, next(rounds), keys=4)
        return len({call.pid for call in function.calls()}) == 2

    with CompanionProcess("trigger-host", client.endpoint, tmp_path).wait_ready():
        eventually(function.calls)
        with CompanionProcess("trigger-host", client.endpoint, tmp_path).wait_ready():
            eventually(both_are_called, timeout_s=20)
            eventually(partial(has_all, client, table, function), timeout_s=20)
    numbers = function.sequence_numbers()
    assert len(numbers) == len(set(numbers)), "something was begun twice"
    assert_in_order_per_key(client, table, function)


@pytest.mark.crash
@pytest.mark.timeout(180)
def test_killing_hosts_while_shards_split_and_merge_loses_nothing(
    headrace: Headrace,
    client: Client,
    table: TestTable,
    function: NotingFunction,
    trigger: str,
    tmp_path: Path,
    rng: Random,
) -> None:
    function.rewrite(before="time.sleep(0.02)")
    create(headrace, trigger, table, function, "--batch-size", "7")
    with CompanionProcess("trigger-host", client.endpoint, tmp_path).wait_ready():
        for number in range(KILL_ROUNDS):
            with CompanionProcess("trigger-host", client.endpoint, tmp_path).wait_ready() as victim:
                put_round(client, table, 2 * number)
                (merge if number % 2 else split)(client, table)
                put_round(client, table, 2 * number + 1)
                # The moment of the crash is what the test varies; nothing waits for the time to pass.
                time.sleep(rng.uniform(0.0, 0.3))
                victim.kill()
        eventually(partial(has_all, client, table, function), timeout_s=30)
    assert_in_order_per_key(client, table, function)


@pytest.mark.usefixtures("host")
def test_a_trigger_goes_on_when_its_shards_roll(
    headrace: Headrace, client: Client, table: TestTable, function: NotingFunction, trigger: str
) -> None:
    create(headrace, trigger, table, function, "--batch-size", "5")
    put_round(client, table, 0)
    before = {shard.shard_id for shard in open_shards(client, table)}
    update = UpdateTableRequest(table_name=table.name)
    update.stream_settings.shard_roll_period_in_seconds = 1
    update.stream_settings.retention_period_in_seconds = 300
    client.tables.UpdateTable(update)

    def have_rolled() -> bool:
        return before.isdisjoint(shard.shard_id for shard in open_shards(client, table))

    # The broker looks every ten seconds.
    eventually(have_rolled, timeout_s=30)
    put_round(client, table, 1)
    eventually(partial(has_all, client, table, function), timeout_s=20)
    assert_in_order_per_key(client, table, function)
    assert len(function.sequence_numbers()) == 2 * KEYS, "nothing has come twice"
