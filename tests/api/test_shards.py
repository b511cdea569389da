"""Streams of several shards as a reader sees them: split, merged, and read as a whole.

Sources: DynamoDB Streams API Reference (DescribeStream, GetShardIterator), Amazon Kinesis API Reference (SplitShard,
MergeShards, the type AT_TIMESTAMP).
"""

from __future__ import annotations

import urllib.request
from collections import defaultdict
from collections.abc import Iterable

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from headrace.v1 import record_pb2, stream_service_pb2, table_pb2
from headrace.v1.stream_service_pb2 import (
    DescribeStreamRequest,
    GetRecordsRequest,
    GetRecordsResponse,
    GetShardIteratorRequest,
    Shard,
    ShardFilter,
)
from headrace.v1.table_service_pb2 import DescribeTableRequest, UpdateTableRequest
from tests.broker_process import BrokerProcess
from tests.conftest import eventually
from tests.rpc import (
    AFTER_SEQUENCE_NUMBER,
    AT_SEQUENCE_NUMBER,
    AT_TIMESTAMP,
    LATEST,
    NEW_IMAGE,
    TRIM_HORIZON,
    Client,
    TestTable,
    batch,
    create_table_request,
    put,
    refusal_of,
    refused,
    unique_name,
)
from tests.values import from_item, item

KEYS = [f"key-{number}" for number in range(20)]
HASHES = 2**64


def write(client: Client, table: TestTable, value: int, keys: Iterable[str] = KEYS) -> None:
    client.write_items(batch(table.name, *(put(item(id=key, n=value)) for key in keys)))


def resharded(client: Client) -> tuple[TestTable, list[Shard]]:
    """A table with shards root -> left, right -> merged, 20 records in each generation of them."""
    table = client.create_table()
    (root,) = client.shards(table.stream_arn)
    write(client, table, 1)
    left, right = client.split(table.stream_arn, root.shard_id)
    write(client, table, 2)
    merged = client.merge(table.stream_arn, left.shard_id, right.shard_id)
    write(client, table, 3)
    return table, [root, left, right, merged]


@pytest.fixture(scope="module")
def family(client: Client) -> tuple[TestTable, list[Shard]]:
    """For tests that only read."""
    return resharded(client)


def whole(table: TestTable, **fields: object) -> GetRecordsRequest:
    return GetRecordsRequest(**({"stream_arn": table.stream_arn, "shard_iterator_type": TRIM_HORIZON} | fields))  # type: ignore[arg-type]


def values_by_key(records: Iterable[record_pb2.Record]) -> dict[str, list[int]]:
    values: dict[str, list[int]] = defaultdict(list)
    for record in records:
        image = from_item(record.new_image)
        values[str(image["id"][1])].append(int(str(image["n"][1])))
    return values


def test_a_split_and_a_merge_show_in_the_lineage(client: Client, family: tuple[TestTable, list[Shard]]) -> None:
    table, (root, left, right, merged) = family
    listed = {shard.shard_id: shard for shard in client.shards(table.stream_arn)}
    assert list(listed) == [shard.shard_id for shard in (root, left, right, merged)]
    assert (left.parent_shard_id, right.parent_shard_id) == (root.shard_id, root.shard_id)
    assert (merged.parent_shard_id, merged.adjacent_parent_shard_id) == (left.shard_id, right.shard_id)
    assert (left.hash_key_range.starting_hash_key, right.hash_key_range.ending_hash_key) == (0, HASHES - 1)
    assert left.hash_key_range.ending_hash_key + 1 == right.hash_key_range.starting_hash_key == HASHES // 2
    ended = listed[root.shard_id].sequence_number_range.ending_sequence_number
    assert ended < left.sequence_number_range.starting_sequence_number
    assert not listed[merged.shard_id].sequence_number_range.ending_sequence_number


# Source: DynamoDB Streams API Reference, "ShardFilter": CHILD_SHARDS gives the direct children.
def test_the_children_of_a_shard_can_be_asked_for(client: Client, family: tuple[TestTable, list[Shard]]) -> None:
    table, (root, left, right, merged) = family

    def children(shard: Shard) -> list[str]:
        shard_filter = ShardFilter(type=stream_service_pb2.SHARD_FILTER_TYPE_CHILD_SHARDS, shard_id=shard.shard_id)
        request = DescribeStreamRequest(stream_arn=table.stream_arn, shard_filter=shard_filter)
        return [child.shard_id for child in client.streams.DescribeStream(request).stream_description.shards]

    assert children(root) == [left.shard_id, right.shard_id]
    assert children(left) == children(right) == [merged.shard_id]
    assert children(merged) == []


@pytest.mark.parametrize(
    ("shard_filter", "field"),
    [
        (ShardFilter(), "shard_filter.type"),
        (ShardFilter(shard_id="shardId-x"), "shard_filter.type"),
        (ShardFilter(type=stream_service_pb2.SHARD_FILTER_TYPE_CHILD_SHARDS), "shard_filter.shard_id"),
        (
            ShardFilter(type=stream_service_pb2.SHARD_FILTER_TYPE_CHILD_SHARDS, shard_id="shardId-x"),
            "shard_filter.shard_id",
        ),
    ],
)
def test_a_bad_shard_filter_is_refused(
    client: Client, family: tuple[TestTable, list[Shard]], shard_filter: ShardFilter, field: str
) -> None:
    with refused("INVALID_ARGUMENT", "VALIDATION", field=field):
        client.streams.DescribeStream(DescribeStreamRequest(stream_arn=family[0].stream_arn, shard_filter=shard_filter))


def test_a_whole_stream_is_read_by_one_call_parents_first(
    client: Client, family: tuple[TestTable, list[Shard]]
) -> None:
    table, shards = family
    responses = list(client.streams.GetRecords(whole(table)))
    assert values_by_key(r for response in responses for r in response.records) == {key: [1, 2, 3] for key in KEYS}
    order = [response.shard_id for response in responses if response.records]
    assert order[0] == shards[0].shard_id
    assert order[-1] == shards[-1].shard_id
    assert set(order) == {shard.shard_id for shard in shards}
    ends = [response for response in responses if response.shard_end]
    assert [list(end.child_shard_ids) for end in ends] == [
        [shards[1].shard_id, shards[2].shard_id],
        [shards[3].shard_id],
        [shards[3].shard_id],
    ]
    assert all(response.next_shard_iterator for response in responses)
    assert (responses[0].stream_arn, responses[0].region) == (table.stream_arn, table.stream_arn.split(":")[3])


def test_a_table_can_be_named_instead_of_its_stream(client: Client, family: tuple[TestTable, list[Shard]]) -> None:
    table, _ = family
    request = GetRecordsRequest(table_name=table.name, shard_iterator_type=TRIM_HORIZON)
    by_table = [r for response in client.streams.GetRecords(request) for r in response.records]
    assert by_table == [r for response in client.streams.GetRecords(whole(table)) for r in response.records]


# next(next(x)) neither repeats nor skips, whatever the shards do between two responses.
def test_reading_a_whole_stream_on_from_any_response_gives_the_rest(
    client: Client, family: tuple[TestTable, list[Shard]]
) -> None:
    table, _ = family
    records: list[str] = []
    iterator = ""
    for response in client.streams.GetRecords(whole(table, limit=7)):
        if iterator:
            rest = [r for later in client.read(iterator) for r in later.records]
            assert sorted(r.sequence_number for r in rest) == sorted(set(all_numbers(client, table)) - set(records))
        records += [record.sequence_number for record in response.records]
        iterator = response.next_shard_iterator
    assert sorted(records) == sorted(all_numbers(client, table))


def all_numbers(client: Client, table: TestTable) -> list[str]:
    return [r.sequence_number for response in client.streams.GetRecords(whole(table)) for r in response.records]


def test_a_whole_stream_can_be_read_from_a_number_a_time_and_the_tip(
    client: Client, family: tuple[TestTable, list[Shard]]
) -> None:
    table, _ = family
    records = [r for response in client.streams.GetRecords(whole(table)) for r in response.records]
    records.sort(key=lambda record: record.sequence_number)

    def read(**fields: object) -> list[str]:
        responses = client.streams.GetRecords(whole(table, **fields))
        return sorted(record.sequence_number for response in responses for record in response.records)

    for place in (0, 19, 20, 25, 59):
        number = records[place].sequence_number
        after = [record.sequence_number for record in records[place + 1 :]]
        assert read(shard_iterator_type=AFTER_SEQUENCE_NUMBER, sequence_number=number) == after
        assert read(shard_iterator_type=AT_SEQUENCE_NUMBER, sequence_number=number) == [number, *after]
        time = records[place].approximate_creation_date_time
        not_older = [
            record.sequence_number
            for record in records
            if record.approximate_creation_date_time.ToMilliseconds() >= time.ToMilliseconds()
        ]
        assert read(shard_iterator_type=AT_TIMESTAMP, timestamp=time) == not_older
    assert read(shard_iterator_type=LATEST) == []
    assert len(read(shard_iterator_type=AT_TIMESTAMP, timestamp=Timestamp(seconds=1))) == 60
    assert read(shard_iterator_type=AT_TIMESTAMP, timestamp=Timestamp(seconds=4_000_000_000)) == []


def test_an_iterator_may_be_of_a_whole_stream_and_of_a_time(
    client: Client, family: tuple[TestTable, list[Shard]]
) -> None:
    table, shards = family
    request = GetShardIteratorRequest(stream_arn=table.stream_arn, shard_iterator_type=TRIM_HORIZON)
    iterator = client.streams.GetShardIterator(request).shard_iterator
    assert sum(len(response.records) for response in client.read(iterator)) == 60
    request = GetShardIteratorRequest(
        stream_arn=table.stream_arn,
        shard_id=shards[3].shard_id,
        shard_iterator_type=AT_TIMESTAMP,
        timestamp=Timestamp(seconds=1),
    )
    iterator = client.streams.GetShardIterator(request).shard_iterator
    assert sum(len(response.records) for response in client.read(iterator)) == 20


def test_a_follower_of_a_whole_stream_goes_on_over_splits_and_merges(client: Client) -> None:
    table = client.create_table()
    call = client.streams.GetRecords(whole(table, shard_iterator_type=LATEST, follow=True))
    assert not next(call).records
    records: list[record_pb2.Record] = []

    def read(count: int) -> None:
        while len(records) < count:
            records.extend(next(call).records)

    (root,) = client.shards(table.stream_arn)
    write(client, table, 1)
    read(20)
    left, right = client.split(table.stream_arn, root.shard_id)
    write(client, table, 2)
    read(40)
    farther = client.split(table.stream_arn, right.shard_id)
    write(client, table, 3)
    client.merge(table.stream_arn, farther[0].shard_id, left.shard_id)
    write(client, table, 4)
    read(80)
    call.cancel()
    assert values_by_key(records) == {key: [1, 2, 3, 4] for key in KEYS}


def test_a_follower_of_a_whole_stream_ends_when_the_stream_is_disabled(client: Client) -> None:
    table, _ = resharded(client)
    call = client.streams.GetRecords(whole(table, follow=True))
    update = UpdateTableRequest(table_name=table.name)
    update.stream_specification.stream_enabled = False
    first = next(call)
    client.tables.UpdateTable(update)
    responses = [first, *call]
    assert sum(len(response.records) for response in responses) == 60
    assert responses[-1].shard_end
    assert not responses[-1].next_shard_iterator


def test_a_follower_of_one_shard_is_told_its_children(client: Client, table: TestTable) -> None:
    (root,) = client.shards(table.stream_arn)
    call = client.streams.GetRecords(GetRecordsRequest(shard_iterator=client.iterator(table.stream_arn), follow=True))
    next(call)
    children = client.split(table.stream_arn, root.shard_id)
    last = list(call)[-1]
    assert last.shard_end
    assert last.shard_id == root.shard_id
    assert list(last.child_shard_ids) == [child.shard_id for child in children]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"stream_arn": ""}, "shard_iterator"),
        ({"table_name": "both"}, "shard_iterator"),
        ({"shard_iterator": "x"}, "shard_iterator"),
        ({"shard_iterator_type": 0}, "shard_iterator_type"),
        ({"shard_iterator_type": AT_SEQUENCE_NUMBER}, "sequence_number"),
        ({"shard_iterator_type": AT_SEQUENCE_NUMBER, "sequence_number": "1"}, "sequence_number"),
        ({"shard_iterator_type": AFTER_SEQUENCE_NUMBER, "sequence_number": "0" * 10 + "9" * 15}, "sequence_number"),
        ({"sequence_number": "0" * 21}, "sequence_number"),
        ({"timestamp": Timestamp(seconds=1)}, "timestamp"),
        ({"shard_iterator_type": AT_TIMESTAMP}, "timestamp"),
        ({"limit": 0}, "limit"),
        ({"limit": 1001}, "limit"),
        ({"stream_arn": "arn:aws:s3:::bucket"}, "stream_arn"),
    ],
)
def test_bad_requests_for_whole_streams_are_refused(
    client: Client, family: tuple[TestTable, list[Shard]], fields: dict[str, object], field: str
) -> None:
    table, _ = family
    with refused("INVALID_ARGUMENT", "VALIDATION", field=field):
        list(client.streams.GetRecords(whole(table, **fields)))


def test_an_iterator_takes_no_starting_point_beside_it(client: Client, family: tuple[TestTable, list[Shard]]) -> None:
    request = GetShardIteratorRequest(stream_arn=family[0].stream_arn, shard_iterator_type=TRIM_HORIZON)
    iterator = client.streams.GetShardIterator(request).shard_iterator
    with refused("INVALID_ARGUMENT", "VALIDATION", field="shard_iterator_type"):
        list(client.streams.GetRecords(GetRecordsRequest(shard_iterator=iterator, shard_iterator_type=LATEST)))


def test_a_table_without_an_enabled_stream_cannot_be_read_as_a_whole(client: Client) -> None:
    table = client.create_table(view_type=None)
    with refused("NOT_FOUND", "RESOURCE_NOT_FOUND"):
        list(client.streams.GetRecords(GetRecordsRequest(table_name=table.name, shard_iterator_type=LATEST)))


def test_a_split_may_be_at_any_hash(client: Client, table: TestTable) -> None:
    (root,) = client.shards(table.stream_arn)
    left, right = client.split(table.stream_arn, root.shard_id, 1)
    assert (left.hash_key_range.starting_hash_key, left.hash_key_range.ending_hash_key) == (0, 0)
    assert right.hash_key_range.starting_hash_key == 1


def test_what_cannot_be_split_or_merged_is_refused_and_nothing_changes(client: Client) -> None:
    table = client.create_table()
    (root,) = client.shards(table.stream_arn)
    left, right = client.split(table.stream_arn, root.shard_id)
    first, second = client.split(table.stream_arn, right.shard_id)
    before = client.shards(table.stream_arn)
    with refused("FAILED_PRECONDITION", "RESOURCE_IN_USE", field="shard_id"):
        client.split(table.stream_arn, root.shard_id)
    with refused("NOT_FOUND", "RESOURCE_NOT_FOUND"):
        client.split(table.stream_arn, "shardId-x")
    for hash_key in (0, 2**63, HASHES - 1):
        with refused("INVALID_ARGUMENT", "VALIDATION", field="new_starting_hash_key"):
            client.split(table.stream_arn, left.shard_id, hash_key)
    with refused("INVALID_ARGUMENT", "VALIDATION", field="adjacent_shard_id"):
        client.merge(table.stream_arn, left.shard_id, second.shard_id)
    with refused("INVALID_ARGUMENT", "VALIDATION", field="adjacent_shard_id"):
        client.merge(table.stream_arn, left.shard_id, left.shard_id)
    with refused("FAILED_PRECONDITION", "RESOURCE_IN_USE", field="adjacent_shard_id"):
        client.merge(table.stream_arn, first.shard_id, right.shard_id)
    with refused("INVALID_ARGUMENT", "VALIDATION", field="stream_arn"):
        client.split("nonsense", left.shard_id)
    with refused("INVALID_ARGUMENT", "VALIDATION", field="stream_arn"):
        client.merge("nonsense", left.shard_id, right.shard_id)
    assert client.shards(table.stream_arn) == before


def test_a_table_may_begin_with_several_shards_and_64_at_most(client: Client) -> None:
    request = create_table_request(unique_name(), view_type=NEW_IMAGE)
    request.stream_settings.min_shards = 64
    table = client.tables.CreateTable(request).table_description
    assert table.stream_settings.max_shards == 64
    shards = client.shards(table.latest_stream_arn)
    assert len(shards) == 64
    with refused("RESOURCE_EXHAUSTED", "LIMIT_EXCEEDED", limit=64):
        client.split(table.latest_stream_arn, shards[0].shard_id)
    made = TestTable(name=table.table_name, stream_arn=table.latest_stream_arn, key_names=("id",))
    write(client, made, 1, [str(key) for key in range(500)])
    responses = list(client.streams.GetRecords(whole(made)))
    assert sum(len(response.records) for response in responses) == 500
    assert len({response.shard_id for response in responses}) > 32


def test_settings_have_defaults_and_change_one_by_one(client: Client, table: TestTable) -> None:
    def settings() -> table_pb2.StreamSettings:
        return client.tables.DescribeTable(DescribeTableRequest(table_name=table.name)).table.stream_settings

    assert (settings().retention_period_in_seconds, settings().retention_bytes) == (86_400, 0)
    assert (settings().min_shards, settings().max_shards) == (1, 4)
    assert (settings().automatic_merges, settings().shard_roll_period_in_seconds) == (False, 14_400)
    update = UpdateTableRequest(table_name=table.name)
    update.stream_settings.min_shards = 6
    client.tables.UpdateTable(update)
    assert (settings().min_shards, settings().max_shards) == (6, 6)
    update = UpdateTableRequest(table_name=table.name)
    update.stream_settings.retention_period_in_seconds = 3600
    update.stream_settings.retention_bytes = 2**30
    client.tables.UpdateTable(update)
    assert (settings().retention_period_in_seconds, settings().min_shards) == (3600, 6)
    assert settings().retention_bytes == 2**30
    # A sixth of the retention, if the table says nothing else.
    assert settings().shard_roll_period_in_seconds == 600
    for period in (0, 1, 31_536_000):
        update = UpdateTableRequest(table_name=table.name)
        update.stream_settings.shard_roll_period_in_seconds = period
        update.stream_settings.automatic_merges = bool(period)
        client.tables.UpdateTable(update)
        assert settings().shard_roll_period_in_seconds == period
        assert settings().automatic_merges == bool(period)
    assert settings().min_shards == 6


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("retention_period_in_seconds", 0),
        ("retention_period_in_seconds", -1),
        ("retention_period_in_seconds", 31_536_001),
        ("retention_bytes", 4_194_303),
        ("retention_bytes", -1),
        ("min_shards", 0),
        ("min_shards", 65),
        ("max_shards", 0),
        ("max_shards", 65),
        ("shard_roll_period_in_seconds", -1),
        ("shard_roll_period_in_seconds", 31_536_001),
    ],
)
def test_settings_out_of_bounds_are_refused_on_creation_and_on_change(
    client: Client, table: TestTable, name: str, value: int
) -> None:
    settings = table_pb2.StreamSettings()
    setattr(settings, name, value)
    request = create_table_request(unique_name(), view_type=NEW_IMAGE)
    request.stream_settings.CopyFrom(settings)
    with refused("INVALID_ARGUMENT", "VALIDATION", field=f"stream_settings.{name}"):
        client.tables.CreateTable(request)
    update = UpdateTableRequest(table_name=table.name, stream_settings=settings)
    with refused("INVALID_ARGUMENT", "VALIDATION", field=f"stream_settings.{name}"):
        client.tables.UpdateTable(update)


# A unit is a response of up to 1 MB. Source: DynamoDB Developer Guide, streams read request units.
def test_reading_is_metered_per_stream(broker: BrokerProcess) -> None:
    with Client(broker.grpc) as client:
        table = client.create_table()
        write(client, table, 1)

        def usage() -> stream_service_pb2.ReadUsage:
            request = DescribeStreamRequest(stream_arn=table.stream_arn)
            return client.streams.DescribeStream(request).stream_description.read_usage

        assert usage().read_request_units == 0
        responses = list(client.streams.GetRecords(whole(table, limit=5)))
        size = sum(record.ByteSize() for response in responses for record in response.records)
        seen = usage()
        assert (seen.read_request_units, seen.returned_records) == (len(responses), 20)
        assert size < seen.returned_bytes < size + 20 * 8
        # A read of nothing is a read too.
        list(client.read(responses[-1].next_shard_iterator))
        assert usage().read_request_units == len(responses) + 1
        with urllib.request.urlopen(f"http://{broker.http}/metrics", timeout=5) as answer:
            metrics = answer.read().decode()
        label = table.stream_arn.rpartition("/")[2]
        (units,) = [
            float(line.rpartition(" ")[2])
            for line in metrics.splitlines()
            if line.startswith("headrace_stream_read_request_units_total{")
            and f'stream_label="{label}"' in line
            and f'table="{table.name}"' in line
        ]
        assert units == len(responses) + 1


def test_a_stream_tells_how_much_it_holds(client: Client) -> None:
    table, _ = resharded(client)
    described = client.streams.DescribeStream(DescribeStreamRequest(stream_arn=table.stream_arn)).stream_description
    read = [r for response in client.streams.GetRecords(whole(table)) for r in response.records]
    assert described.retained_records == len(read) == 60
    assert described.retained_bytes > sum(record.ByteSize() for record in read)


def test_a_reader_that_goes_away_in_the_middle_harms_nobody(client: Client) -> None:
    table, _ = resharded(client)
    for _ in range(20):
        call = client.streams.GetRecords(whole(table, limit=1, follow=True))
        next(call)
        call.cancel()
    assert len(all_numbers(client, table)) == 60


def test_an_iterator_of_another_broker_is_refused(
    two_regions: tuple[BrokerProcess, BrokerProcess],
) -> None:
    north, south = two_regions
    with Client(north.grpc) as one, Client(south.grpc) as other:
        table = one.create_table()
        iterator = one.iterator(table.stream_arn)
        with refused("INVALID_ARGUMENT", "VALIDATION", field="shard_iterator"):
            list(other.read(iterator))


def test_records_that_go_away_under_a_reader_are_told_exactly(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Retention of a second, looked after ten times a second: the gap is told, and where to read on."""
    environment = {"HEADRACE_UPKEEP_INTERVAL_SECONDS": "0.1"}
    with (
        BrokerProcess(tmp_path_factory.mktemp("retention"), environment=environment) as broker,
        Client(broker.grpc) as client,
    ):
        request = create_table_request(unique_name(), view_type=NEW_IMAGE)
        request.stream_settings.retention_period_in_seconds = 1
        made = client.tables.CreateTable(request).table_description
        table = TestTable(name=made.table_name, stream_arn=made.latest_stream_arn, key_names=("id",))
        write(client, table, 1)
        first = next(client.streams.GetRecords(whole(table, limit=3)))
        numbers = [record.sequence_number for record in first.records]
        lost = lost_to(client, first)
        assert lost["shard_id"] == first.shard_id
        assert int(lost["first_lost_sequence_number"]) == int(numbers[-1]) + 1
        assert int(lost["last_lost_sequence_number"]) == int(numbers[0]) + 19
        assert lost["lost_from"] <= lost["lost_to"]
        write(client, table, 2, ["late"])
        resumed = whole(table, shard_iterator_type=AT_SEQUENCE_NUMBER, sequence_number=lost["earliest_sequence_number"])
        assert [r.sequence_number for response in client.streams.GetRecords(resumed) for r in response.records]
        # The stream itself is there and goes on; from the trim horizon nothing is missing.
        assert client.shards(table.stream_arn)
        write(client, table, 3)
        read = [r for response in client.streams.GetRecords(whole(table)) for r in response.records]
        assert {record.new_image.attributes["n"].n for record in read} >= {"3"}


def lost_to(client: Client, response: GetRecordsResponse) -> dict[str, str]:
    """What the refusal says when the page after a response is trimmed."""

    def probe() -> dict[str, str] | None:
        try:
            list(client.read(response.next_shard_iterator))
        except grpc.RpcError as error:
            refusal = refusal_of(error)
            assert (refusal.code.name, refusal.reason) == ("OUT_OF_RANGE", "TRIMMED_DATA_ACCESS"), refusal
            return dict(refusal.metadata)
        return None

    lost = eventually(probe)
    assert lost is not None
    return lost


def test_a_merge_is_shown_as_a_tree_to_who_asks_for_that(client: Client, family: tuple[TestTable, list[Shard]]) -> None:
    table, (root, left, right, merged) = family
    request = DescribeStreamRequest(stream_arn=table.stream_arn, as_tree=True)
    shards = list(client.streams.DescribeStream(request).stream_description.shards)
    one, other = shards[3:]
    assert [shard.shard_id for shard in shards[:3]] == [root.shard_id, left.shard_id, right.shard_id]
    assert [shard.parent_shard_id for shard in (one, other)] == [left.shard_id, right.shard_id]
    assert (one.hash_key_range, other.hash_key_range) == (left.hash_key_range, right.hash_key_range)
    assert one.sequence_number_range == other.sequence_number_range == merged.sequence_number_range
    assert not one.adjacent_parent_shard_id
    # Page by page it is the same.
    paged: list[Shard] = []
    request.limit = 2
    while True:
        page = client.streams.DescribeStream(request).stream_description
        paged += page.shards
        if not page.last_evaluated_shard_id:
            break
        request.exclusive_start_shard_id = page.last_evaluated_shard_id
    assert paged == shards
    for parent, child in ((left, one), (right, other)):
        shard_filter = ShardFilter(type=stream_service_pb2.SHARD_FILTER_TYPE_CHILD_SHARDS, shard_id=parent.shard_id)
        request = DescribeStreamRequest(stream_arn=table.stream_arn, as_tree=True, shard_filter=shard_filter)
        assert list(client.streams.DescribeStream(request).stream_description.shards) == [child]


def test_a_lane_is_read_and_followed_to_its_end_and_names_the_lanes_after_it(client: Client) -> None:
    table, shards = resharded(client)
    request = DescribeStreamRequest(stream_arn=table.stream_arn, as_tree=True)
    lanes = list(client.streams.DescribeStream(request).stream_description.shards)[3:]
    by_lane: list[set[str]] = []
    calls = []
    for lane in lanes:
        iterator = client.iterator(table.stream_arn, shard_id=lane.shard_id)
        call = client.streams.GetRecords(GetRecordsRequest(shard_iterator=iterator, limit=1, follow=True))
        records: list[record_pb2.Record] = []
        for _ in range(5):
            response = next(call)
            assert response.shard_id == lane.shard_id
            assert len(response.records) == 1
            records += response.records
        by_lane.append({record.keys.attributes["id"].s for record in records})
        calls.append(call)
    assert by_lane[0].isdisjoint(by_lane[1])
    client.split(table.stream_arn, shards[3].shard_id, HASHES // 4)
    children = list(client.streams.DescribeStream(request).stream_description.shards)[5:]
    seen: set[str] = set()
    for lane, call, followers in zip(lanes, calls, (children[:2], children[2:]), strict=True):
        responses = list(call)
        seen |= {record.keys.attributes["id"].s for response in responses for record in response.records}
        assert responses[-1].shard_end
        assert not responses[-1].next_shard_iterator
        assert list(responses[-1].child_shard_ids) == [shard.shard_id for shard in followers]
        assert [shard.parent_shard_id for shard in followers] == [lane.shard_id] * len(followers)
    assert seen | by_lane[0] | by_lane[1] == set(KEYS)


# Source: DynamoDB Streams API Reference, "GetShardIterator".
def test_a_shard_without_records_is_read_from_the_number_at_which_it_begins(client: Client) -> None:
    table = client.create_table()
    (root,) = client.shards(table.stream_arn)
    left, right = client.split(table.stream_arn, root.shard_id)
    iterators: list[str] = []
    for shard in (left, right):
        start = shard.sequence_number_range.starting_sequence_number
        iterators += [
            client.iterator(table.stream_arn, kind, start, shard_id=shard.shard_id)
            for kind in (AT_SEQUENCE_NUMBER, AFTER_SEQUENCE_NUMBER)
        ]
        for kind, number in ((AFTER_SEQUENCE_NUMBER, int(start) + 1), (AT_SEQUENCE_NUMBER, int(start) + 3)):
            with refused("INVALID_ARGUMENT", "VALIDATION", field="sequence_number"):
                client.iterator(table.stream_arn, kind, f"{number:021d}", shard_id=shard.shard_id)
    write(client, table, 1)
    counts = [sum(len(response.records) for response in client.read(iterator)) for iterator in iterators]
    assert counts[0] == counts[1]
    assert counts[2] == counts[3]
    assert counts[0] + counts[2] == len(KEYS)
