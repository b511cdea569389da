"""Shards that roll: an open shard with records is closed after a while and followed by one of the same hashes.

The broker of these tests looks ten times a second; their tables say that a shard is old after a second.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

import pytest

from headrace.v1 import record_pb2
from headrace.v1.consumer_service_pb2 import ConsumeStart
from headrace.v1.stream_service_pb2 import GetRecordsRequest, Shard
from headrace.v1.table_service_pb2 import UpdateTableRequest
from tests.broker_process import BrokerProcess
from tests.conftest import eventually
from tests.consuming import TRIM_HORIZON, Member
from tests.rpc import NEW_IMAGE, Client, TestTable, batch, create_table_request, put, unique_name
from tests.rpc import TRIM_HORIZON as FROM_THE_BEGINNING
from tests.values import from_item, item

KEYS = [f"key-{number}" for number in range(20)]


@pytest.fixture(scope="module")
def rolling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    environment = {"HEADRACE_UPKEEP_INTERVAL_SECONDS": "0.1"}
    with (
        BrokerProcess(tmp_path_factory.mktemp("rolling"), environment=environment) as broker,
        Client(broker.grpc) as client,
    ):
        yield client


def new_table(client: Client, *, shards: int = 1, period: int = 1) -> TestTable:
    request = create_table_request(unique_name(), view_type=NEW_IMAGE)
    request.stream_settings.min_shards = request.stream_settings.max_shards = shards
    request.stream_settings.shard_roll_period_in_seconds = period
    # With a longer one so many shards could not be held.
    request.stream_settings.retention_period_in_seconds = 300
    made = client.tables.CreateTable(request).table_description
    assert made.stream_settings.shard_roll_period_in_seconds == period
    return TestTable(name=made.table_name, stream_arn=made.latest_stream_arn, key_names=("id",))


def write(client: Client, table: TestTable, value: int) -> None:
    client.write_items(batch(table.name, *(put(item(id=key, n=value)) for key in KEYS)))


def open_ids(client: Client, table: TestTable) -> set[str]:
    return {shard.shard_id for shard in client.shards(table.stream_arn) if is_open(shard)}


def is_open(shard: Shard) -> bool:
    return not shard.sequence_number_range.ending_sequence_number


def wait_for_roll(client: Client, table: TestTable, before: set[str]) -> None:
    eventually(lambda: before.isdisjoint(open_ids(client, table)))


def values(records: Iterable[record_pb2.Record]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    for record in records:
        image = from_item(record.new_image)
        found[str(image["id"][1])].append(int(str(image["n"][1])))
    return found


def test_readers_of_the_whole_stream_and_of_closed_shards_get_all_records_over_rolls(rolling: Client) -> None:
    table = new_table(rolling, shards=2)
    follower = rolling.streams.GetRecords(
        GetRecordsRequest(stream_arn=table.stream_arn, shard_iterator_type=FROM_THE_BEGINNING, follow=True)
    )
    followed: list[record_pb2.Record] = []
    for value in (1, 2, 3):
        before = open_ids(rolling, table)
        write(rolling, table, value)
        while len(followed) < value * len(KEYS):
            followed.extend(next(follower).records)
        wait_for_roll(rolling, table, before)
    follower.cancel()
    expected = {key: [1, 2, 3] for key in KEYS}
    assert values(followed) == expected
    shards = rolling.shards(table.stream_arn)
    by_id = {shard.shard_id: shard for shard in shards}
    for shard in shards:
        parent = by_id.get(shard.parent_shard_id)
        assert parent is None or shard.hash_key_range == parent.hash_key_range
    closed = [
        record
        for shard in shards
        if not is_open(shard)
        for response in rolling.read(rolling.iterator(table.stream_arn, shard_id=shard.shard_id))
        for record in response.records
    ]
    assert values(closed) == expected


def test_a_group_goes_on_over_rolls_without_loss_and_without_anything_twice(rolling: Client) -> None:
    table = new_table(rolling, shards=2)
    start = ConsumeStart(
        table_name=table.name, group_name=unique_name(), starting_position=TRIM_HORIZON, member_name="only"
    )
    with Member(rolling, start) as member:
        records: list[record_pb2.Record] = []
        for value in (1, 2, 3):
            before = open_ids(rolling, table)
            write(rolling, table, value)
            wait_for_roll(rolling, table, before)
            records += member.finish(ends=2)
    assert values(records) == {key: [1, 2, 3] for key in KEYS}


def test_an_empty_shard_does_not_roll_and_one_of_a_table_that_says_0_does_not_either(rolling: Client) -> None:
    empty, still, other = new_table(rolling), new_table(rolling, period=0), new_table(rolling)
    before = open_ids(rolling, empty), open_ids(rolling, still)
    write(rolling, still, 1)
    # Two rolls of the third table later, both are as old as it was.
    for value in (1, 2):
        known = open_ids(rolling, other)
        write(rolling, other, value)
        wait_for_roll(rolling, other, known)
    assert (open_ids(rolling, empty), open_ids(rolling, still)) == before
    update = UpdateTableRequest(table_name=still.name)
    update.stream_settings.shard_roll_period_in_seconds = 1
    rolling.tables.UpdateTable(update)
    wait_for_roll(rolling, still, before[1])
