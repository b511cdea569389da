"""Streams as a reader sees them: records, iterators, GetRecords. Source: DynamoDB Streams API Reference."""

from __future__ import annotations

import re
import threading
from itertools import pairwise

import grpc
import pytest

from headrace.v1 import record_pb2, stream_service_pb2
from headrace.v1.item_service_pb2 import PutItemRequest
from headrace.v1.stream_service_pb2 import (
    DescribeStreamRequest,
    GetRecordsRequest,
    GetShardIteratorRequest,
    ListStreamsRequest,
)
from headrace.v1.table_service_pb2 import UpdateTableRequest
from tests.guarantees import check_resumable, logged
from tests.rpc import (
    AFTER_SEQUENCE_NUMBER,
    AT_SEQUENCE_NUMBER,
    KEYS_ONLY,
    LATEST,
    NEW_AND_OLD_IMAGES,
    NEW_IMAGE,
    OLD_IMAGE,
    TRIM_HORIZON,
    Client,
    TestTable,
    batch,
    delete,
    put,
    refused,
)
from tests.values import attributes, item, size_bytes

INSERT, MODIFY, REMOVE = (
    record_pb2.EVENT_NAME_INSERT,
    record_pb2.EVENT_NAME_MODIFY,
    record_pb2.EVENT_NAME_REMOVE,
)
RESPONSE_RECORDS_MAX = 1_000
RESPONSE_BYTES_MAX = 1024 * 1024


@pytest.fixture(scope="module")
def history(client: Client) -> TestTable:
    """A table whose stream holds 2,500 records, n = 0 to 2,499, for tests that only read."""
    table = client.create_table()
    client.write_items(
        *(batch(table.name, *(put(item(id="a", n=n)) for n in range(k, k + 500))) for k in range(0, 2500, 500))
    )
    return table


@pytest.fixture(scope="module")
def history_records(client: Client, history: TestTable) -> list[record_pb2.Record]:
    return client.records(history.stream_arn)


def disable_stream(client: Client, table: TestTable) -> None:
    request = UpdateTableRequest(table_name=table.name)
    request.stream_specification.stream_enabled = False
    client.tables.UpdateTable(request)


def test_the_life_of_an_item_is_insert_modify_remove(client: Client, table: TestTable) -> None:
    client.put(table.name, item(id="a", n=1))
    client.put(table.name, item(id="a", n=2))
    client.delete(table.name, item(id="a"))
    inserted, modified, removed = client.records(table.stream_arn)
    assert (inserted.event_name, modified.event_name, removed.event_name) == (INSERT, MODIFY, REMOVE)
    assert not inserted.HasField("old_image")
    assert inserted.new_image == modified.old_image == item(id="a", n=1)
    assert modified.new_image == removed.old_image == item(id="a", n=2)
    assert not removed.HasField("new_image")


def test_a_record_says_what_it_is_where_it_stands_and_when_it_was_made(client: Client, table: TestTable) -> None:
    client.put(table.name, item(id="a", n=1))
    client.put(table.name, item(id="b", n=1))
    first, second = client.records(table.stream_arn)
    for record in (first, second):
        assert re.fullmatch(r"\d{21}", record.sequence_number)
        assert record.stream_view_type == NEW_AND_OLD_IMAGES
        assert not record.HasField("user_identity")
        assert record.version.origin_region
        # The hybrid time's upper 48 bits are milliseconds, as is the time of the record.
        made_ms = record.approximate_creation_date_time.ToMilliseconds()
        assert abs((record.version.hybrid_time >> 16) - made_ms) < 10_000
        assert record.approximate_creation_date_time.nanos % 1_000_000 == 0
    assert first.sequence_number < second.sequence_number
    assert first.version.hybrid_time < second.version.hybrid_time


@pytest.mark.parametrize("view_type", [KEYS_ONLY, NEW_IMAGE, OLD_IMAGE, NEW_AND_OLD_IMAGES])
def test_a_view_type_decides_which_images_a_record_holds(
    client: Client, view_type: record_pb2.StreamViewType.ValueType
) -> None:
    table = client.create_table(keys="customer:S order:N", view_type=view_type)
    key, old, new = ({"customer": "c", "order": 1, **more} for more in ({}, {"text": "old"}, {"text": "newer"}))
    client.put(table.name, item(old))
    client.put(table.name, item(new))
    client.delete(table.name, item(key))
    records = client.records(table.stream_arn)
    has_new, has_old = view_type in {NEW_IMAGE, NEW_AND_OLD_IMAGES}, view_type in {OLD_IMAGE, NEW_AND_OLD_IMAGES}
    assert [r.event_name for r in records] == [INSERT, MODIFY, REMOVE]
    assert [r.keys for r in records] == [item(key)] * 3
    assert [r.HasField("new_image") for r in records] == [has_new, has_new, False]
    assert [r.HasField("old_image") for r in records] == [False, has_old, has_old]
    assert all(r.stream_view_type == view_type for r in records)
    if has_new:
        assert [r.new_image for r in records[:2]] == [item(old), item(new)]
    if has_old:
        assert [r.old_image for r in records[1:]] == [item(old), item(new)]


@pytest.mark.parametrize("view_type", [KEYS_ONLY, NEW_IMAGE, OLD_IMAGE, NEW_AND_OLD_IMAGES])
def test_the_size_of_a_record_counts_its_keys_and_the_images_it_holds(
    client: Client, view_type: record_pb2.StreamViewType.ValueType
) -> None:
    table = client.create_table(keys="Id:N", view_type=view_type)
    numbers = {"n": 0, "m": -12, "l": [10, 100], "o": 1234, "s": {5, 55}}
    client.put(table.name, item({"Id": 101, "Message": "New item!"}))
    client.put(table.name, item({"Id": 101, "Message": "This item has changed", **numbers}))
    client.delete(table.name, item({"Id": 101}))
    keys = size_bytes(attributes({"Id": 101}))
    old = size_bytes(attributes({"Id": 101, "Message": "New item!"}))
    new = size_bytes(attributes({"Id": 101, "Message": "This item has changed", **numbers}))
    new_part, old_part = view_type in {NEW_IMAGE, NEW_AND_OLD_IMAGES}, view_type in {OLD_IMAGE, NEW_AND_OLD_IMAGES}
    assert [record.size_bytes for record in client.records(table.stream_arn)] == [
        keys + old * new_part,
        keys + old * old_part + new * new_part,
        keys + new * old_part,
    ]


# The order of maps and sets and the spelling of numbers are no difference.
def test_a_put_of_an_equal_item_makes_no_record(client: Client, table: TestTable) -> None:
    content = {"id": "a", "n": 1000, "set": {"x", "y"}, "map": {"a": 1, "b": [1, {2, 3}]}}
    client.put(table.name, item(content))
    again = item(dict(reversed(content.items())))
    again.attributes["n"].n = "1e3"
    again.attributes["set"].ss.values[:] = reversed(again.attributes["set"].ss.values)
    with client.unchanged(table):
        client.put(table.name, again)


def test_a_write_that_is_refused_makes_no_record(client: Client, table: TestTable) -> None:
    client.put(table.name, item(id="a"))
    with client.unchanged(table), refused("FAILED_PRECONDITION", "CONDITIONAL_CHECK_FAILED"):
        request = PutItemRequest(table_name=table.name, item=item(id="a", n=1))
        request.condition_expression = "attribute_not_exists(id)"
        client.items.PutItem(request)


def test_records_come_in_the_order_of_the_writes_in_responses_of_at_most_1000(
    client: Client, history: TestTable
) -> None:
    responses = list(client.read(client.iterator(history.stream_arn)))
    records = [record for response in responses for record in response.records]
    assert [int(record.new_image.attributes["n"].n) for record in records] == list(range(2500))
    assert all(a.sequence_number < b.sequence_number for a, b in pairwise(records))
    assert max(len(response.records) for response in responses) <= RESPONSE_RECORDS_MAX


def test_the_first_response_says_whose_records_these_are_and_the_last_that_it_is_at_the_tip(
    client: Client, history: TestTable
) -> None:
    first, *rest = client.read(client.iterator(history.stream_arn))
    assert first.stream_arn == history.stream_arn
    assert first.region == history.stream_arn.split(":")[3]
    assert all((response.stream_arn, response.region) == ("", "") for response in rest)
    last = [first, *rest][-1]
    assert (last.millis_behind_latest, last.shard_end) == (0, False)
    assert last.next_shard_iterator
    assert all(response.millis_behind_latest > 0 for response in [first, *rest][:-1] if response.records)


def test_an_empty_stream_answers_at_once_with_an_empty_response(client: Client, table: TestTable) -> None:
    (response,) = client.read(client.iterator(table.stream_arn))
    assert list(response.records) == []
    assert response.next_shard_iterator
    assert response.stream_arn == table.stream_arn


# Groups of writes are kept as blocks; a limit must cut through them anywhere.
@pytest.mark.parametrize("limit", [1, 7, 333, 1000])
def test_reading_with_a_limit_gives_the_same_records(
    client: Client, history: TestTable, history_records: list[record_pb2.Record], limit: int
) -> None:
    whole = history_records if limit > 1 else history_records[:60]
    read: list[record_pb2.Record] = []
    for response in client.read(client.iterator(history.stream_arn), limit=limit):
        assert len(response.records) <= limit
        read += response.records
        if len(read) >= len(whole):
            break
    assert read[: len(whole)] == whole


@pytest.mark.parametrize("limit", [0, -1, 1001])
def test_a_limit_is_1_to_1000(client: Client, history: TestTable, limit: int) -> None:
    shard_iterator = client.iterator(history.stream_arn)
    with refused("INVALID_ARGUMENT", "VALIDATION", field="limit", limit=1000 if limit > 1 else None):
        list(client.read(shard_iterator, limit=limit))


# A response is bounded by bytes too, or a client would need to raise its limit of 4 MiB a message.
def test_large_records_come_in_responses_of_about_1_mib(client: Client) -> None:
    table = client.create_table()
    for n in range(12):
        client.put(table.name, item(id="big", n=n, text=str(n % 10) * 300_000))
    responses = list(client.read(client.iterator(table.stream_arn)))
    assert [int(r.new_image.attributes["n"].n) for response in responses for r in response.records] == list(range(12))
    for response in responses:
        # One record may be larger than a response should be.
        assert len(response.records) <= 1 or response.ByteSize() <= RESPONSE_BYTES_MAX + 1_000


# One block of all these old images would be read whole for each response, and held whole in memory.
def test_the_old_images_of_a_batch_of_small_deletes_are_read_in_small_responses(client: Client) -> None:
    table = client.create_table()
    for n in range(30):
        client.put(table.name, item(id=str(n), text="x" * 200_000))
    client.write_items(batch(table.name, *(delete(item(id=str(n))) for n in range(30))))
    responses = list(client.read(client.iterator(table.stream_arn)))
    removed = [r.keys for response in responses for r in response.records if r.event_name == REMOVE]
    assert removed == [item(id=str(n)) for n in range(30)]
    assert max(response.ByteSize() for response in responses) <= RESPONSE_BYTES_MAX + 1_000


def test_reading_on_from_any_response_gives_exactly_the_records_after_it(
    client: Client, history: TestTable, history_records: list[record_pb2.Record]
) -> None:
    parts: list[list[record_pb2.Record]] = []
    shard_iterator = client.iterator(history.stream_arn)
    # A page may hold fewer records than its limit, so the last limits are there for what is left.
    for limit in (1, 2, 499, 500, 501, 1000, 3, 1000, 1000, 1000, 1000):
        response = next(client.read(shard_iterator, limit=limit))
        assert len(response.records) <= limit
        parts.append(list(response.records))
        shard_iterator = response.next_shard_iterator
    check_resumable(logged(history_records), [logged(part) for part in parts])


def test_an_iterator_may_be_used_again_and_gives_the_same(client: Client, history: TestTable) -> None:
    shard_iterator = client.iterator(history.stream_arn)
    first, second = (next(client.read(shard_iterator)) for _ in range(2))
    assert first.records == second.records


@pytest.mark.parametrize("place", [0, 1, 499, 500, 1234, 2499])
def test_iterators_at_and_after_a_sequence_number_start_there_and_just_behind(
    client: Client, history: TestTable, history_records: list[record_pb2.Record], place: int
) -> None:
    sequence_number = history_records[place].sequence_number
    at = client.iterator(history.stream_arn, AT_SEQUENCE_NUMBER, sequence_number)
    after = client.iterator(history.stream_arn, AFTER_SEQUENCE_NUMBER, sequence_number)
    assert [r for response in client.read(at) for r in response.records] == history_records[place:]
    assert [r for response in client.read(after) for r in response.records] == history_records[place + 1 :]


def test_the_starting_sequence_number_of_a_shard_is_its_beginning(
    client: Client, history: TestTable, history_records: list[record_pb2.Record]
) -> None:
    (shard,) = client.shards(history.stream_arn)
    start = shard.sequence_number_range.starting_sequence_number
    assert int(start) <= int(history_records[0].sequence_number)
    at = client.iterator(history.stream_arn, AT_SEQUENCE_NUMBER, start)
    assert next(client.read(at)).records[0] == history_records[0]


def test_latest_is_just_after_the_newest_record(client: Client, table: TestTable) -> None:
    client.put(table.name, item(id="before"))
    shard_iterator = client.iterator(table.stream_arn, LATEST)
    client.put(table.name, item(id="after"))
    records = [r for response in client.read(shard_iterator) for r in response.records]
    assert [r.keys for r in records] == [item(id="after")]


def test_a_follower_gets_the_first_response_at_once_and_then_each_record_when_it_is_written(
    client: Client, table: TestTable
) -> None:
    responses = client.read(client.iterator(table.stream_arn), follow=True)
    assert list(next(responses).records) == []
    for n in range(20):
        client.put(table.name, item(id="a", n=n))
        received: list[record_pb2.Record] = []
        while not received:
            received += next(responses).records
        assert [r.new_image for r in received] == [item(id="a", n=n)]
    responses.close()


def test_a_follower_reads_history_first_and_then_what_is_new_without_a_seam(client: Client, table: TestTable) -> None:
    client.write_items(batch(table.name, *(put(item(id="a", n=n)) for n in range(700))))
    started = threading.Event()

    def write_on() -> None:
        assert started.wait(10)
        with Client(client.endpoint) as other:
            for n in range(700, 760):
                other.put(table.name, item(id="a", n=n))

    writer = threading.Thread(target=write_on)
    writer.start()
    read: list[str] = []
    for response in client.read(client.iterator(table.stream_arn), limit=100, follow=True):
        started.set()
        read += [record.new_image.attributes["n"].n for record in response.records]
        if len(read) >= 760:
            break
    writer.join()
    assert read == [str(n) for n in range(760)]


def test_a_follower_of_a_stream_that_is_disabled_gets_to_the_end_of_its_shard(client: Client, table: TestTable) -> None:
    responses = client.read(client.iterator(table.stream_arn), follow=True)
    next(responses)
    client.put(table.name, item(id="a"))
    disable_stream(client, table)
    rest = list(responses)
    assert [r.keys for response in rest for r in response.records] == [item(id="a")]
    assert (rest[-1].shard_end, rest[-1].next_shard_iterator) == (True, "")
    assert not any(response.shard_end for response in rest[:-1])


@pytest.mark.parametrize("kind", [TRIM_HORIZON, LATEST])
def test_a_closed_shard_can_be_read_to_its_end(
    client: Client, table: TestTable, kind: stream_service_pb2.ShardIteratorType.ValueType
) -> None:
    client.put(table.name, item(id="a"))
    disable_stream(client, table)
    responses = list(client.read(client.iterator(table.stream_arn, kind), follow=True))
    assert len([r for response in responses for r in response.records]) == (1 if kind == TRIM_HORIZON else 0)
    assert (responses[-1].shard_end, responses[-1].next_shard_iterator) == (True, "")


def test_a_stream_describes_itself_and_its_one_shard_covers_every_hash(client: Client) -> None:
    table = client.create_table(keys="customer:S order:N", view_type=OLD_IMAGE)
    described = client.streams.DescribeStream(DescribeStreamRequest(stream_arn=table.stream_arn)).stream_description
    assert described.stream_arn == table.stream_arn
    assert described.table_name == table.name
    assert described.stream_label == table.stream_arn.rpartition("/")[2]
    assert described.stream_status == stream_service_pb2.STREAM_STATUS_ENABLED
    assert described.stream_view_type == OLD_IMAGE
    assert [element.attribute_name for element in described.key_schema] == ["customer", "order"]
    assert described.creation_request_date_time.ToMilliseconds() > 0
    (shard,) = described.shards
    assert re.fullmatch(r"shardId-\d{20}-[0-9a-f]{8}", shard.shard_id)
    assert (shard.hash_key_range.starting_hash_key, shard.hash_key_range.ending_hash_key) == (0, 2**64 - 1)
    assert (shard.parent_shard_id, shard.adjacent_parent_shard_id) == ("", "")
    assert shard.sequence_number_range.ending_sequence_number == ""
    assert described.last_evaluated_shard_id == ""


def test_a_disabled_stream_says_so_and_its_range_holds_all_its_records(client: Client, table: TestTable) -> None:
    client.put(table.name, item(id="a"))
    client.put(table.name, item(id="b"))
    disable_stream(client, table)
    described = client.streams.DescribeStream(DescribeStreamRequest(stream_arn=table.stream_arn)).stream_description
    assert described.stream_status == stream_service_pb2.STREAM_STATUS_DISABLED
    span = described.shards[0].sequence_number_range
    for record in client.records(table.stream_arn):
        assert span.starting_sequence_number <= record.sequence_number <= span.ending_sequence_number


def test_shards_are_listed_after_the_one_given(client: Client, table: TestTable) -> None:
    (shard,) = client.shards(table.stream_arn)
    request = DescribeStreamRequest(stream_arn=table.stream_arn, exclusive_start_shard_id=shard.shard_id, limit=1)
    assert list(client.streams.DescribeStream(request).stream_description.shards) == []


def test_streams_are_listed_by_arn_page_by_page_old_ones_of_a_table_too(client: Client, table: TestTable) -> None:
    disable_stream(client, table)
    request = UpdateTableRequest(table_name=table.name)
    request.stream_specification.stream_enabled = True
    request.stream_specification.stream_view_type = KEYS_ONLY
    newer = client.tables.UpdateTable(request).table_description.latest_stream_arn
    listed = client.streams.ListStreams(ListStreamsRequest(table_name=table.name))
    assert [(s.stream_arn, s.table_name) for s in listed.streams] == sorted(
        [(table.stream_arn, table.name), (newer, table.name)]
    )
    assert listed.last_evaluated_stream_arn == ""
    first = client.streams.ListStreams(ListStreamsRequest(table_name=table.name, limit=1))
    assert [s.stream_arn for s in first.streams] == [listed.streams[0].stream_arn]
    rest = client.streams.ListStreams(
        ListStreamsRequest(table_name=table.name, exclusive_start_stream_arn=first.last_evaluated_stream_arn)
    )
    assert [s.stream_arn for s in rest.streams] == [listed.streams[1].stream_arn]


def test_a_table_without_a_stream_or_without_existence_has_no_streams(client: Client) -> None:
    for name in (client.create_table(view_type=None).name, "nowhere"):
        assert list(client.streams.ListStreams(ListStreamsRequest(table_name=name)).streams) == []


@pytest.mark.parametrize("limit", [0, -1, 101])
def test_listings_of_streams_and_shards_take_limits_of_1_to_100(client: Client, history: TestTable, limit: int) -> None:
    with refused("INVALID_ARGUMENT", "VALIDATION", field="limit"):
        client.streams.ListStreams(ListStreamsRequest(limit=limit))
    with refused("INVALID_ARGUMENT", "VALIDATION", field="limit"):
        client.streams.DescribeStream(DescribeStreamRequest(stream_arn=history.stream_arn, limit=limit))


MALFORMED_ARNS = ["", "nonsense", "arn:aws:dynamodb:eu-north-1:000000000000:table/a", "arn:aws:s3:::bucket/stream/x"]


@pytest.mark.parametrize("arn", MALFORMED_ARNS)
def test_a_malformed_stream_arn_is_refused(client: Client, arn: str) -> None:
    with refused("INVALID_ARGUMENT", "VALIDATION", field="stream_arn"):
        client.streams.DescribeStream(DescribeStreamRequest(stream_arn=arn))
    with refused("INVALID_ARGUMENT", "VALIDATION", field="stream_arn"):
        client.streams.GetShardIterator(
            GetShardIteratorRequest(stream_arn=arn, shard_id="shardId-x", shard_iterator_type=LATEST)
        )


def test_a_well_formed_arn_of_no_stream_is_not_found(client: Client, history: TestTable) -> None:
    other_table = history.stream_arn.replace(history.name, "nowhere")
    other_label = history.stream_arn[:-3] + ("000" if history.stream_arn[-3:] != "000" else "001")
    other_region = history.stream_arn.replace(history.stream_arn.split(":")[3], "mars-west-1")
    for arn in (other_table, other_label, other_region):
        with refused("NOT_FOUND", "RESOURCE_NOT_FOUND"):
            client.streams.DescribeStream(DescribeStreamRequest(stream_arn=arn))


def test_an_unknown_shard_is_not_found(client: Client, history: TestTable) -> None:
    with refused("NOT_FOUND", "RESOURCE_NOT_FOUND"):
        client.iterator(history.stream_arn, shard_id="shardId-00000001414562045508-2bac9cd2")


ANY = "0" * 20 + "1"
BAD_ITERATOR_REQUESTS: dict[str, tuple[int, str, str]] = {
    "no type": (0, "", "shard_iterator_type"),
    "unknown type": (9, "", "shard_iterator_type"),
    "TRIM_HORIZON with a sequence number": (TRIM_HORIZON, ANY, "sequence_number"),
    "LATEST with a sequence number": (LATEST, ANY, "sequence_number"),
    "AT without a sequence number": (AT_SEQUENCE_NUMBER, "", "sequence_number"),
    "AFTER without a sequence number": (AFTER_SEQUENCE_NUMBER, "", "sequence_number"),
    "sequence number too short": (AT_SEQUENCE_NUMBER, "1" * 20, "sequence_number"),
    "sequence number too long": (AT_SEQUENCE_NUMBER, "0" * 41, "sequence_number"),
    "sequence number with a letter": (AT_SEQUENCE_NUMBER, "0" * 20 + "x", "sequence_number"),
    "sequence number with a sign": (AT_SEQUENCE_NUMBER, "-" + "0" * 20, "sequence_number"),
    "sequence number beyond 64 bits": (AT_SEQUENCE_NUMBER, "9" * 40, "sequence_number"),
}


@pytest.mark.parametrize("fault", BAD_ITERATOR_REQUESTS)
def test_bad_requests_for_iterators_are_refused(client: Client, history: TestTable, fault: str) -> None:
    kind, sequence_number, field = BAD_ITERATOR_REQUESTS[fault]
    with refused("INVALID_ARGUMENT", "VALIDATION", field=field):
        client.iterator(history.stream_arn, kind, sequence_number)  # type: ignore[arg-type]


def test_iterators_that_nobody_made_are_refused(client: Client, history: TestTable) -> None:
    honest = client.iterator(history.stream_arn)
    assert len(honest) <= 2048
    # Any single change of an iterator's text must be noticed, wherever it is.
    tampered = [honest[:n] + ("A" if honest[n] != "A" else "B") + honest[n + 1 :] for n in range(0, len(honest), 5)]
    for forged in ["", "x", honest[:-1], honest + "A", honest.swapcase(), "é", *tampered]:
        with refused("INVALID_ARGUMENT", "VALIDATION", field="shard_iterator"):
            list(client.read(forged))


def test_a_cancelled_follower_leaves_the_broker_serving(client: Client, table: TestTable) -> None:
    for _ in range(50):
        call = client.streams.GetRecords(
            GetRecordsRequest(shard_iterator=client.iterator(table.stream_arn), follow=True)
        )
        next(call)
        call.cancel()
        with pytest.raises(grpc.RpcError):
            next(call)
    client.put(table.name, item(id="a"))
    assert len(client.records(table.stream_arn)) == 1


# Wake, don't push: a reader that stops reading must not hold up writers or other readers, nor lose anything itself.
def test_a_reader_that_stalls_holds_up_nobody_and_misses_nothing(client: Client, table: TestTable) -> None:
    stalled = client.read(client.iterator(table.stream_arn), follow=True)
    next(stalled)
    text = "x" * 10_000
    for n in range(20):
        client.write_items(batch(table.name, *(put(item(id="a", n=n * 50 + m, text=text)) for m in range(50))))
    assert len(client.records(table.stream_arn)) == 1_000
    read: list[str] = []
    while len(read) < 1_000:
        read += [record.new_image.attributes["n"].n for record in next(stalled).records]
    assert read == [str(n) for n in range(1_000)]
    stalled.close()
