"""Shards over AWS's protocol, read with boto3: as a consumer reads them that knows one parent of each.

What becomes of the shards at random is tested in this process, in tests/unit/gateway/test_shards.py, and the Kinesis
Client Library in test_kcl.py.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from headrace.v1.table_service_pb2 import UpdateTableRequest
from tests.aws.conftest import connection
from tests.broker_process import BrokerProcess
from tests.conftest import eventually
from tests.rpc import NEW_IMAGE, Client, TestTable, batch, create_table_request, put, unique_name
from tests.values import item

KEYS = [f"key-{number}" for number in range(20)]
# A shard of this scenario is read within one response; so many show that nothing follows.
RESPONSES_MAX = 20


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    """A broker that looks ten times a second for shards to roll."""
    folder = tmp_path_factory.mktemp("shards")
    environment = {"HEADRACE_UPKEEP_INTERVAL_SECONDS": "0.1"}
    with BrokerProcess(folder, extra=("--auth", "none"), environment=environment) as process:
        yield process


@pytest.fixture
def native(broker: BrokerProcess) -> Iterator[Client]:
    with Client(broker.grpc) as client:
        yield client


@pytest.fixture
def table(native: Client) -> TestTable:
    request = create_table_request(unique_name(), view_type=NEW_IMAGE)
    request.stream_settings.retention_period_in_seconds = 300
    request.stream_settings.shard_roll_period_in_seconds = 0
    made = native.tables.CreateTable(request).table_description
    return TestTable(name=made.table_name, stream_arn=made.latest_stream_arn, key_names=("id",))


@pytest.fixture
def streams(broker: BrokerProcess) -> Any:
    return boto3.client("dynamodbstreams", **connection(broker))


def write(native: Client, table: TestTable, value: int) -> None:
    native.write_items(batch(table.name, *(put(item(id=key, n=value)) for key in KEYS)))


def open_ids(native: Client, table: TestTable) -> list[str]:
    shards = [s for s in native.shards(table.stream_arn) if not s.sequence_number_range.ending_sequence_number]
    return [shard.shard_id for shard in sorted(shards, key=lambda shard: shard.hash_key_range.starting_hash_key)]


def roll(native: Client, table: TestTable) -> None:
    """Lets all open shards roll, which hold records."""
    before = set(open_ids(native, table))
    for period in (1, 0):
        update = UpdateTableRequest(table_name=table.name)
        update.stream_settings.shard_roll_period_in_seconds = period
        native.tables.UpdateTable(update)
        eventually(lambda: before.isdisjoint(open_ids(native, table)))


def described(streams: Any, arn: str, page: int = 100) -> dict[str, dict[str, Any]]:
    shards: dict[str, dict[str, Any]] = {}
    start: dict[str, Any] = {}
    while True:
        description = streams.describe_stream(StreamArn=arn, Limit=page, **start)["StreamDescription"]
        shards |= {shard["ShardId"]: shard for shard in description["Shards"]}
        if "LastEvaluatedShardId" not in description:
            return shards
        start = {"ExclusiveStartShardId": description["LastEvaluatedShardId"]}


def read(streams: Any, arn: str, shard_id: str) -> list[dict[str, Any]]:
    """All records of a shard, to its end if it has one."""
    iterator = streams.get_shard_iterator(StreamArn=arn, ShardId=shard_id, ShardIteratorType="TRIM_HORIZON")
    position, records = iterator["ShardIterator"], []
    for _ in range(RESPONSES_MAX):
        response = streams.get_records(ShardIterator=position)
        records += response["Records"]
        position = response.get("NextShardIterator")
        if position is None:
            break
    return records


def values(records: list[dict[str, Any]]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    for record in records:
        image = record["dynamodb"]["NewImage"]
        found[image["id"]["S"]].append(int(image["n"]["N"]))
    return found


@pytest.mark.parametrize("seed", range(3))
def test_who_reads_each_shard_after_its_parent_gets_every_record_once_in_order(
    native: Client, table: TestTable, streams: Any, seed: int, rng: random.Random
) -> None:
    choices = random.Random(rng.random() + seed)
    for value in range(1, 13):
        write(native, table, value)
        shards = open_ids(native, table)
        place = choices.randrange(len(shards))
        if value == 6:
            roll(native, table)
        elif place + 1 < len(shards) and choices.random() < 0.5:
            native.merge(table.stream_arn, *choices.sample(shards[place : place + 2], 2))
        else:
            native.split(table.stream_arn, shards[place], choices.choice([None, None, _hash_in(native, table, place)]))
    write(native, table, 13)
    shards_of = described(streams, table.stream_arn, page=choices.randint(1, 9))
    parents = {shard.get("ParentShardId") for shard in shards_of.values()}
    closed = {
        shard_id for shard_id, shard in shards_of.items() if "EndingSequenceNumber" in shard["SequenceNumberRange"]
    }
    assert closed <= parents
    records: list[dict[str, Any]] = []
    done: set[str | None] = {None}
    while len(done) <= len(shards_of):
        ready = [id_ for id_, shard in shards_of.items() if id_ not in done and shard.get("ParentShardId") in done]
        assert ready, "a shard whose parent is not there"
        shard_id = choices.choice(ready)
        records += read(streams, table.stream_arn, shard_id)
        done.add(shard_id)
    assert values(records) == {key: list(range(1, 14)) for key in KEYS}
    assert len({record["eventID"] for record in records}) == len(records)


def _hash_in(native: Client, table: TestTable, place: int) -> int:
    """A hash in an open shard where it was not split yet, a third into it."""
    shard_id = open_ids(native, table)[place]
    (shard,) = (shard for shard in native.shards(table.stream_arn) if shard.shard_id == shard_id)
    first, last = shard.hash_key_range.starting_hash_key, shard.hash_key_range.ending_hash_key
    return int(first + (last - first) // 3)


# As programs do that load tables into a warehouse: they skip shards that are not closed.
def test_who_reads_closed_shards_only_gets_all_records_when_their_shards_have_rolled(
    native: Client, table: TestTable, streams: Any
) -> None:
    def closed_values() -> dict[str, list[int]]:
        shards = described(streams, table.stream_arn)
        closed = [id_ for id_, shard in shards.items() if "EndingSequenceNumber" in shard["SequenceNumberRange"]]
        return values([record for shard_id in closed for record in read(streams, table.stream_arn, shard_id)])

    for value in (1, 2):
        write(native, table, value)
        assert closed_values() == ({key: list(range(1, value)) for key in KEYS} if value > 1 else {})
        roll(native, table)
        assert closed_values() == {key: list(range(1, value + 1)) for key in KEYS}
    shards = list(described(streams, table.stream_arn).values())
    assert [shard.get("ParentShardId") for shard in shards] == [None, *(shard["ShardId"] for shard in shards[:-1])]


# The first thing that a reader with checkpoints does in a new table.
def test_a_new_shard_is_read_after_the_number_at_which_it_begins(
    native: Client, table: TestTable, streams: Any
) -> None:
    ((shard_id, shard),) = described(streams, table.stream_arn).items()
    start = shard["SequenceNumberRange"]["StartingSequenceNumber"]
    iterator = streams.get_shard_iterator(
        StreamArn=table.stream_arn, ShardId=shard_id, ShardIteratorType="AFTER_SEQUENCE_NUMBER", SequenceNumber=start
    )["ShardIterator"]
    first = streams.get_records(ShardIterator=iterator)
    assert first["Records"] == []
    write(native, table, 1)
    for position in (iterator, first["NextShardIterator"]):
        assert values(streams.get_records(ShardIterator=position)["Records"]) == {key: [1] for key in KEYS}


def test_the_settings_of_rolling_are_not_shown_to_clients_of_aws(broker: BrokerProcess, table: TestTable) -> None:
    dynamodb = boto3.client("dynamodb", **connection(broker))
    assert "StreamSettings" not in dynamodb.describe_table(TableName=table.name)["Table"]


def test_a_store_with_rolled_and_merged_shards_is_shown_as_it_was_after_a_restart(tmp_path: Path) -> None:
    with BrokerProcess(tmp_path, extra=("--auth", "none")) as process:
        with Client(process.grpc) as native:
            table = native.create_table()
            (root,) = native.shards(table.stream_arn)
            left, right = native.split(table.stream_arn, root.shard_id)
            native.merge(table.stream_arn, left.shard_id, right.shard_id)
            write(native, table, 1)
        before = described(boto3.client("dynamodbstreams", **connection(process)), table.stream_arn)
        process.stop()
        process.start()
        client = boto3.client("dynamodbstreams", **connection(process))
        assert described(client, table.stream_arn) == before
        lanes = list(before)[-2:]
        records = [record for lane in lanes for record in read(client, table.stream_arn, lane)]
        assert values(records) == {key: [1] for key in KEYS}
