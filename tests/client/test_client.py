"""The client's calls against a scripted broker: what goes over the wire, what comes back, what is tried again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import grpc
import pytest
from google.protobuf import timestamp_pb2

import headrace
from headrace import Delete, Put, Update, WriteResult
from headrace._values import from_item, to_item
from headrace.v1 import (
    consumer_service_pb2,
    error_pb2,
    item_service_pb2,
    record_pb2,
    replication_service_pb2,
    stream_service_pb2,
    table_pb2,
    table_service_pb2,
)
from tests.client.conftest import Connect
from tests.client.fake_broker import abort, answer, fake_broker

ARN = "arn:aws:dynamodb:local-1:000000000000:table/flights/stream/2024-01-01T00:00:00.000"
CREATED = datetime(2024, 1, 1, tzinfo=UTC)
CREATED_MESSAGE = timestamp_pb2.Timestamp(seconds=int(CREATED.timestamp()))


def seq(number: int) -> str:
    return f"{number:021d}"


def table(**options: Any) -> table_pb2.TableDescription:
    return table_pb2.TableDescription(
        table_name="flights",
        table_arn="arn",
        table_id="id",
        table_status=table_pb2.TABLE_STATUS_ACTIVE,
        # The attribute definitions come in any order; the key schema says which is which.
        key_schema=[
            table_pb2.KeySchemaElement(attribute_name="carrier", key_type=table_pb2.KEY_TYPE_HASH),
            table_pb2.KeySchemaElement(attribute_name="at", key_type=table_pb2.KEY_TYPE_RANGE),
        ],
        attribute_definitions=[
            table_pb2.AttributeDefinition(attribute_name="at", attribute_type=table_pb2.SCALAR_ATTRIBUTE_TYPE_N),
            table_pb2.AttributeDefinition(attribute_name="carrier", attribute_type=table_pb2.SCALAR_ATTRIBUTE_TYPE_S),
        ],
        creation_date_time=CREATED_MESSAGE,
        **options,
    )


def record(number: int, new: dict[str, Any] | None = None, old: dict[str, Any] | None = None) -> record_pb2.Record:
    return record_pb2.Record(
        event_name=record_pb2.EVENT_NAME_MODIFY,
        sequence_number=seq(number),
        approximate_creation_date_time=CREATED_MESSAGE,
        keys=to_item({"id": number}),
        new_image=to_item(new) if new is not None else None,
        old_image=to_item(old) if old is not None else None,
        size_bytes=12,
        version=record_pb2.Version(hybrid_time=1 << 60, origin_region="local-1"),
    )


class Recorder:
    """A script that keeps the requests and gives the answers one after the other, the last one again and again."""

    def __init__(self, *responses: Any) -> None:
        self.requests: list[Any] = []
        self._responses = list(responses)

    async def __call__(self, request: Any, context: Any) -> Any:
        # Requests are kept as they were: a client may fill the next page into the same message.
        self.requests.append(type(request).FromString(request.SerializeToString()))
        response = self._responses.pop(0) if len(self._responses) > 1 else self._responses[0]
        if callable(response):
            await response(context)
        return response


def fails(code: grpc.StatusCode, reason: str = "", **options: Any) -> Callable[[Any], Any]:
    """An answer of Recorder that ends the call with an error."""

    async def fail(context: Any) -> None:
        await abort(context, code, reason, **options)

    return fail


# Tables


async def test_create_table_says_key_and_stream(connect: Connect) -> None:
    create = Recorder(
        table_service_pb2.CreateTableResponse(
            table_description=table(
                stream_specification=table_pb2.StreamSpecification(
                    stream_enabled=True, stream_view_type=record_pb2.STREAM_VIEW_TYPE_KEYS_ONLY
                ),
                latest_stream_label="label",
                latest_stream_arn=ARN,
            )
        )
    )
    async with fake_broker(CreateTable=create) as endpoint, connect(endpoint) as client:
        made = await client.create_table(
            "flights", partition_key=("carrier", "S"), sort_key=("at", "N"), stream="KEYS_ONLY"
        )
    assert create.requests == [
        table_service_pb2.CreateTableRequest(
            table_name="flights",
            key_schema=[
                table_pb2.KeySchemaElement(attribute_name="carrier", key_type=table_pb2.KEY_TYPE_HASH),
                table_pb2.KeySchemaElement(attribute_name="at", key_type=table_pb2.KEY_TYPE_RANGE),
            ],
            attribute_definitions=[
                table_pb2.AttributeDefinition(
                    attribute_name="carrier", attribute_type=table_pb2.SCALAR_ATTRIBUTE_TYPE_S
                ),
                table_pb2.AttributeDefinition(attribute_name="at", attribute_type=table_pb2.SCALAR_ATTRIBUTE_TYPE_N),
            ],
            stream_specification=table_pb2.StreamSpecification(
                stream_enabled=True, stream_view_type=record_pb2.STREAM_VIEW_TYPE_KEYS_ONLY
            ),
        )
    ]
    assert made == headrace.TableDescription(
        table_name="flights",
        table_arn="arn",
        table_id="id",
        table_status="ACTIVE",
        partition_key=headrace.KeyAttribute("carrier", "S"),
        sort_key=headrace.KeyAttribute("at", "N"),
        creation_date_time=CREATED,
        stream_view_type="KEYS_ONLY",
        latest_stream_label="label",
        latest_stream_arn=ARN,
        stream_settings=headrace.StreamSettings(
            retention_s=0,
            retention_bytes=0,
            min_shards=0,
            max_shards=0,
            automatic_merges=False,
            shard_roll_period_s=0,
        ),
        billing_mode="PAY_PER_REQUEST",
        provisioned_throughput=None,
        local_indexes=(),
        global_indexes=(),
        deletion_protection_enabled=False,
        item_count=0,
        table_size_bytes=0,
    )


async def test_update_table_enables_and_disables_the_stream(connect: Connect) -> None:
    update = Recorder(table_service_pb2.UpdateTableResponse(table_description=table()))
    async with fake_broker(UpdateTable=update) as endpoint, connect(endpoint) as client:
        await client.update_table("flights", stream="NEW_IMAGE")
        described = await client.update_table("flights", stream=None)
    assert [request.stream_specification for request in update.requests] == [
        table_pb2.StreamSpecification(stream_enabled=True, stream_view_type=record_pb2.STREAM_VIEW_TYPE_NEW_IMAGE),
        table_pb2.StreamSpecification(stream_enabled=False),
    ]
    assert (described.stream_view_type, described.latest_stream_arn) == (None, None)


async def test_a_misspelt_word_is_refused_with_the_words_allowed(connect: Connect) -> None:
    wrong: Any = "NEW"
    async with connect("127.0.0.1:1") as client:
        with pytest.raises(
            headrace.ValidationError, match="'NEW' is not one of KEYS_ONLY, NEW_IMAGE, OLD_IMAGE, NEW_AND"
        ):
            await client.create_table("flights", stream=wrong)
        with pytest.raises(headrace.ValidationError, match="key attribute 'id': 'NEW' is not one of S, N, B"):
            await client.create_table("flights", partition_key=("id", wrong))


async def test_list_tables_goes_through_all_pages(connect: Connect) -> None:
    pages = Recorder(
        table_service_pb2.ListTablesResponse(table_names=["a", "b"], last_evaluated_table_name="b"),
        table_service_pb2.ListTablesResponse(table_names=["c"]),
    )
    async with fake_broker(ListTables=pages) as endpoint, connect(endpoint) as client:
        assert [name async for name in client.list_tables()] == ["a", "b", "c"]
    assert [request.exclusive_start_table_name for request in pages.requests] == ["", "b"]


# Items


async def test_put_item_carries_item_and_condition(connect: Connect) -> None:
    put = Recorder(item_service_pb2.PutItemResponse())
    async with fake_broker(PutItem=put) as endpoint, connect(endpoint) as client:
        await client.put_item(
            "flights", {"id": "a"}, condition="attribute_not_exists(#i)", names={"#i": "id"}, values={":v": 1}
        )
    assert put.requests == [
        item_service_pb2.PutItemRequest(
            table_name="flights",
            item=to_item({"id": "a"}),
            condition_expression="attribute_not_exists(#i)",
            expression_attribute_names={"#i": "id"},
            expression_attribute_values=to_item({":v": 1}).attributes,
        )
    ]


async def test_update_item_and_delete_item_carry_key_and_expressions(connect: Connect) -> None:
    update, delete = Recorder(item_service_pb2.UpdateItemResponse()), Recorder(item_service_pb2.DeleteItemResponse())
    async with fake_broker(UpdateItem=update, DeleteItem=delete) as endpoint, connect(endpoint) as client:
        await client.update_item("flights", {"id": "a"}, update="SET n = :n", values={":n": Decimal("1.5")})
        await client.delete_item("flights", {"id": "a"}, condition="attribute_exists(id)")
    assert update.requests == [
        item_service_pb2.UpdateItemRequest(
            table_name="flights",
            key=to_item({"id": "a"}),
            update_expression="SET n = :n",
            expression_attribute_values=to_item({":n": Decimal("1.5")}).attributes,
        )
    ]
    assert delete.requests == [
        item_service_pb2.DeleteItemRequest(
            table_name="flights", key=to_item({"id": "a"}), condition_expression="attribute_exists(id)"
        )
    ]


@pytest.mark.parametrize("text", [None, ""])
async def test_an_empty_text_is_sent_and_none_is_not(connect: Connect, text: str | None) -> None:
    put = Recorder(item_service_pb2.PutItemResponse())
    update = Recorder(item_service_pb2.UpdateItemResponse())
    get = Recorder(item_service_pb2.GetItemResponse())
    scan = Recorder(item_service_pb2.ScanResponse())
    transact = Recorder(item_service_pb2.TransactWriteItemsResponse())
    key = {"id": "a"}
    async with (
        fake_broker(PutItem=put, UpdateItem=update, GetItem=get, Scan=scan, TransactWriteItems=transact) as endpoint,
        connect(endpoint) as client,
    ):
        await client.put_item("flights", key, condition=text)
        await client.update_item("flights", key, update=text, condition=text)
        await client.get_item("flights", key, projection=text)
        await client.scan_page("flights", index=text, filter=text, projection=text)
        await client.transact_write_items([("flights", Put(key, text))], client_request_token=text)
    is_sent = text is not None
    for recorder, fields in (
        (put, ["condition_expression"]),
        (update, ["update_expression", "condition_expression"]),
        (get, ["projection_expression"]),
        (scan, ["index_name", "filter_expression", "projection_expression"]),
    ):
        (request,) = recorder.requests
        assert [request.HasField(field) for field in fields] == [is_sent] * len(fields)
    (request,) = transact.requests
    assert request.transact_items[0].put.HasField("condition_expression") == is_sent
    # Without a token of the caller's the client makes one.
    assert (request.client_request_token == "") == is_sent


async def test_get_item_gives_a_dict_or_none(connect: Connect) -> None:
    get = Recorder(
        item_service_pb2.GetItemResponse(item=to_item({"id": "a", "n": 1})), item_service_pb2.GetItemResponse()
    )
    async with fake_broker(GetItem=get) as endpoint, connect(endpoint) as client:
        assert await client.get_item("flights", {"id": "a"}) == {"id": "a", "n": 1}
        assert await client.get_item("flights", {"id": "b"}) is None


async def test_batch_write_item_sends_again_what_was_not_written(connect: Connect) -> None:
    put = item_service_pb2.WriteOperation(
        put=item_service_pb2.PutItemRequest(table_name="flights", item=to_item({"id": "a"}))
    )
    delete = item_service_pb2.WriteOperation(
        delete=item_service_pb2.DeleteItemRequest(table_name="flights", key=to_item({"id": "b"}))
    )
    write = Recorder(
        item_service_pb2.BatchWriteItemResponse(unprocessed_operations=[delete]),
        item_service_pb2.BatchWriteItemResponse(),
    )
    async with fake_broker(BatchWriteItem=write) as endpoint, connect(endpoint) as client:
        await client.batch_write_item({"flights": [headrace.Put({"id": "a"}), headrace.Delete({"id": "b"})]})
    assert write.requests == [
        item_service_pb2.BatchWriteItemRequest(operations=[put, delete]),
        item_service_pb2.BatchWriteItemRequest(operations=[delete]),
    ]


async def test_batch_write_item_gives_up_in_the_end(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("_async", "_sync"):
        monkeypatch.setattr(f"headrace.{package}.client._THROTTLED_DELAY_INITIAL_S", 0.0)
    operation = item_service_pb2.WriteOperation(delete=item_service_pb2.DeleteItemRequest(table_name="flights"))
    write = Recorder(item_service_pb2.BatchWriteItemResponse(unprocessed_operations=[operation]))
    async with fake_broker(BatchWriteItem=write) as endpoint, connect(endpoint) as client:
        with pytest.raises(headrace.ThrottlingError, match="1 operations are still not written"):
            await client.batch_write_item({"flights": [headrace.Delete({"id": "b"})]})
    assert len(write.requests) == 8


# What is tried again, and what is not


async def test_a_throttled_call_is_sent_again_after_the_delay_named(connect: Connect) -> None:
    busy = fails(grpc.StatusCode.RESOURCE_EXHAUSTED, "THROTTLING", retry_after_ms=80)
    put = Recorder(busy, busy, item_service_pb2.PutItemResponse())
    async with fake_broker(PutItem=put) as endpoint, connect(endpoint) as client:
        begin = asyncio.get_running_loop().time()
        await client.put_item("flights", {"id": "a"})
        assert asyncio.get_running_loop().time() - begin >= 0.16
    assert len(put.requests) == 3


async def test_a_call_that_stays_throttled_fails_in_the_end(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("_async", "_sync"):
        monkeypatch.setattr(f"headrace.{package}.client._THROTTLED_DELAY_INITIAL_S", 0.0)
    put = Recorder(fails(grpc.StatusCode.RESOURCE_EXHAUSTED, "THROTTLING", retry_after_ms=1))
    async with fake_broker(PutItem=put) as endpoint, connect(endpoint) as client:
        with pytest.raises(headrace.ThrottlingError) as throttled:
            await client.put_item("flights", {"id": "a"})
    assert throttled.value.retry_after_s == 0.001
    assert len(put.requests) == 8


async def test_a_read_is_sent_again_when_the_broker_is_away_for_a_moment(connect: Connect) -> None:
    get = Recorder(fails(grpc.StatusCode.UNAVAILABLE), item_service_pb2.GetItemResponse())
    async with fake_broker(GetItem=get) as endpoint, connect(endpoint) as client:
        assert await client.get_item("flights", {"id": "a"}) is None
    assert len(get.requests) == 2


# It may have happened; sent again later, it could undo what another writer did in between.
async def test_a_write_is_not_sent_again_when_the_broker_goes_away(connect: Connect) -> None:
    put = Recorder(fails(grpc.StatusCode.UNAVAILABLE))
    async with fake_broker(PutItem=put) as endpoint, connect(endpoint) as client:
        with pytest.raises(headrace.UnavailableError):
            await client.put_item("flights", {"id": "a"})
    assert len(put.requests) == 1


async def test_a_call_that_is_not_answered_in_time_fails(connect: Connect) -> None:
    async def silent(request: object, context: object) -> None:
        del request, context
        await asyncio.Event().wait()

    async with fake_broker(PutItem=silent) as endpoint, connect(endpoint, timeout_s=0.05) as client:
        with pytest.raises(headrace.DeadlineExceededError):
            await client.put_item("flights", {"id": "a"})


# WriteItems


class WriteItemsBroker:
    """Answers WriteItems; keeps the batches and the most that were ever ahead of their results."""

    def __init__(self, *, failing: frozenset[str] = frozenset(), takes_ahead: int = 1) -> None:
        self.batches: list[item_service_pb2.WriteItemsRequest] = []
        self.ahead_max = 0
        self._failing = failing
        self._takes_ahead = takes_ahead

    async def __call__(self, requests: AsyncIterator[Any], context: Any) -> None:
        waiting: list[item_service_pb2.WriteItemsRequest] = []
        async for request in requests:
            self.batches.append(request)
            waiting.append(request)
            self.ahead_max = max(self.ahead_max, len(waiting))
            if len(waiting) == self._takes_ahead:
                await context.write(self._results(waiting.pop(0)))
        for request in waiting:
            await context.write(self._results(request))

    def _results(self, request: item_service_pb2.WriteItemsRequest) -> item_service_pb2.WriteItemsResponse:
        failed = error_pb2.Error(code=9, reason="CONDITIONAL_CHECK_FAILED", message="no")
        return item_service_pb2.WriteItemsResponse(
            results=[
                item_service_pb2.WriteResult(
                    error=failed if from_item(operation.put.item).get("id") in self._failing else None
                )
                for operation in request.operations
            ]
        )


async def test_write_items_gives_one_result_per_operation_in_order(connect: Connect) -> None:
    broker = WriteItemsBroker(failing=frozenset({"3", "7"}))
    operations = [Put({"id": str(number)}) for number in range(10)]
    async with fake_broker(WriteItems=broker) as endpoint, connect(endpoint) as client:
        results = [result async for result in client.write_items("flights", operations, batch_size=4)]
    assert [result.operation for result in results] == operations
    assert [type(result.error) for result in results if result.error] == [headrace.ConditionalCheckFailedError] * 2
    assert [number for number, result in enumerate(results) if result.error] == [3, 7]
    assert [len(batch.operations) for batch in broker.batches] == [4, 4, 2]
    assert {batch.table_name for batch in broker.batches} == {"flights"}


async def test_write_items_encodes_all_three_operations(connect: Connect) -> None:
    broker = WriteItemsBroker()
    operations: list[headrace.Operation] = [
        Put({"id": "a"}, condition="attribute_not_exists(id)"),
        Update({"id": "a"}, "SET #n = :n", names={"#n": "n"}, values={":n": 1}),
        Delete({"id": "a"}),
    ]
    async with fake_broker(WriteItems=broker) as endpoint, connect(endpoint) as client:
        results = [result async for result in client.write_items("flights", operations)]
    assert results == [WriteResult(operation) for operation in operations]
    (batch,) = broker.batches
    assert list(batch.operations) == [
        item_service_pb2.WriteOperation(
            put=item_service_pb2.PutItemRequest(
                item=to_item({"id": "a"}), condition_expression="attribute_not_exists(id)"
            )
        ),
        item_service_pb2.WriteOperation(
            update=item_service_pb2.UpdateItemRequest(
                key=to_item({"id": "a"}),
                update_expression="SET #n = :n",
                expression_attribute_names={"#n": "n"},
                expression_attribute_values=to_item({":n": 1}).attributes,
            )
        ),
        item_service_pb2.WriteOperation(delete=item_service_pb2.DeleteItemRequest(key=to_item({"id": "a"}))),
    ]


# Memory must not depend on how many operations there are: those taken and still without a result are bounded.
async def test_write_items_takes_no_more_than_its_window_ahead_of_the_results(connect: Connect) -> None:
    taken = 0

    def endless() -> Iterator[Put]:
        nonlocal taken
        while True:
            taken += 1
            yield Put({"id": str(taken)})

    broker = WriteItemsBroker(takes_ahead=4)
    async with fake_broker(WriteItems=broker) as endpoint, connect(endpoint) as client:
        results = client.write_items("flights", endless(), batch_size=5, max_batches_in_flight=4)
        async with aclosing(results):
            received = 0
            async for _ in results:
                received += 1
                assert taken - received < 5 * (4 + 1)
                if received == 200:
                    break
    assert broker.ahead_max == 4


async def test_write_items_sends_large_items_in_smaller_batches(connect: Connect) -> None:
    broker = WriteItemsBroker()
    operations = [Put({"id": str(number), "text": "x" * 300_000}) for number in range(10)]
    async with fake_broker(WriteItems=broker) as endpoint, connect(endpoint) as client:
        results = [result async for result in client.write_items("flights", operations)]
    assert len(results) == 10
    assert max(batch.ByteSize() for batch in broker.batches) < 1024 * 1024


async def test_write_items_takes_an_async_iterable() -> None:
    async def operations() -> AsyncIterator[Put]:
        for number in range(3):
            yield Put({"id": str(number)})

    broker = WriteItemsBroker()
    async with fake_broker(WriteItems=broker) as endpoint, headrace.AsyncClient(endpoint) as client:
        assert [result.error async for result in client.write_items("flights", operations())] == [None] * 3


async def test_write_items_refuses_an_operation_that_no_item_can_need(connect: Connect) -> None:
    broker = WriteItemsBroker()
    async with fake_broker(WriteItems=broker) as endpoint, connect(endpoint) as client:
        with pytest.raises(headrace.ValidationError, match="at most 400 KB"):
            async for _ in client.write_items("flights", [Put({"id": "a", "b": bytes(4_000_000)})]):
                pass
    assert broker.batches == []


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"batch_size": 1001}, {"max_batches_in_flight": 17}])
async def test_write_items_names_its_bounds(connect: Connect, options: dict[str, int]) -> None:
    (field,) = options
    async with connect("127.0.0.1:1") as client:
        with pytest.raises(headrace.ValidationError) as refused:
            async for _ in client.write_items("flights", [], **options):
                pass
    assert refused.value.metadata["field"] == field


async def test_write_items_raises_what_ended_the_call_after_the_results_before_it(connect: Connect) -> None:
    async def one_answer(requests: AsyncIterator[Any], context: Any) -> None:
        await anext(requests)
        await context.write(item_service_pb2.WriteItemsResponse(results=[item_service_pb2.WriteResult()]))
        await anext(requests)
        await abort(context, grpc.StatusCode.UNAVAILABLE, message="draining")

    operations = [Put({"id": str(number)}) for number in range(5)]
    async with fake_broker(WriteItems=one_answer) as endpoint, connect(endpoint) as client:
        results = client.write_items("flights", operations, batch_size=1, max_batches_in_flight=1)
        assert await anext(results) == WriteResult(operations[0])
        with pytest.raises(headrace.UnavailableError, match="draining"):
            await anext(results)


# A broker that ends the call too early must not look like one that has written everything.
async def test_write_items_misses_results_that_do_not_come(connect: Connect) -> None:
    async def no_answer(requests: AsyncIterator[Any], context: Any) -> None:
        del context
        await anext(requests)

    async with fake_broker(WriteItems=no_answer) as endpoint, connect(endpoint) as client:
        with pytest.raises(headrace.UnavailableError):
            async for _ in client.write_items("flights", [Put({"id": "a"})]):
                pass


# Streams


def shard(shard_id: str, parent: str = "", end: int = 0) -> stream_service_pb2.Shard:
    return stream_service_pb2.Shard(
        shard_id=shard_id,
        parent_shard_id=parent,
        sequence_number_range=stream_service_pb2.SequenceNumberRange(
            starting_sequence_number=seq(1), ending_sequence_number=seq(end) if end else ""
        ),
        hash_key_range=stream_service_pb2.HashKeyRange(starting_hash_key=0, ending_hash_key=2**64 - 1),
    )


def stream_page(*shards: stream_service_pb2.Shard, last: str = "") -> stream_service_pb2.DescribeStreamResponse:
    return stream_service_pb2.DescribeStreamResponse(
        stream_description=stream_service_pb2.StreamDescription(
            stream_arn=ARN,
            stream_label="label",
            stream_status=stream_service_pb2.STREAM_STATUS_ENABLED,
            stream_view_type=record_pb2.STREAM_VIEW_TYPE_NEW_IMAGE,
            creation_request_date_time=CREATED_MESSAGE,
            table_name="flights",
            key_schema=[table_pb2.KeySchemaElement(attribute_name="id", key_type=table_pb2.KEY_TYPE_HASH)],
            shards=shards,
            last_evaluated_shard_id=last,
        )
    )


async def test_describe_stream_gathers_the_shards_of_all_pages(connect: Connect) -> None:
    pages = Recorder(stream_page(shard("a", end=9), last="a"), stream_page(shard("b", parent="a")))
    async with fake_broker(DescribeStream=pages) as endpoint, connect(endpoint) as client:
        stream = await client.describe_stream(ARN)
    assert [request.exclusive_start_shard_id for request in pages.requests] == ["", "a"]
    assert (stream.stream_status, stream.stream_view_type) == ("ENABLED", "NEW_IMAGE")
    assert (stream.partition_key, stream.sort_key) == ("id", None)
    assert [(one.shard_id, one.parent_shard_id, one.is_open) for one in stream.shards] == [
        ("a", None, False),
        ("b", "a", True),
    ]
    assert stream.shards[0].ending_hash_key == 2**64 - 1


async def test_list_streams_goes_through_all_pages(connect: Connect) -> None:
    pages = Recorder(
        stream_service_pb2.ListStreamsResponse(
            streams=[stream_service_pb2.Stream(stream_arn="1", table_name="flights", stream_label="l")],
            last_evaluated_stream_arn="1",
        ),
        stream_service_pb2.ListStreamsResponse(),
    )
    async with fake_broker(ListStreams=pages) as endpoint, connect(endpoint) as client:
        streams = [stream async for stream in client.list_streams("flights")]
    assert streams == [headrace.Stream(stream_arn="1", table_name="flights", stream_label="l")]
    assert [(request.table_name, request.exclusive_start_stream_arn) for request in pages.requests] == [
        ("flights", ""),
        ("flights", "1"),
    ]


async def test_get_shard_iterator_says_where(connect: Connect) -> None:
    get = Recorder(stream_service_pb2.GetShardIteratorResponse(shard_iterator="it"))
    async with fake_broker(GetShardIterator=get) as endpoint, connect(endpoint) as client:
        assert await client.get_shard_iterator(ARN, "s", type="AFTER_SEQUENCE_NUMBER", sequence_number=seq(5)) == "it"
    assert get.requests == [
        stream_service_pb2.GetShardIteratorRequest(
            stream_arn=ARN,
            shard_id="s",
            shard_iterator_type=stream_service_pb2.SHARD_ITERATOR_TYPE_AFTER_SEQUENCE_NUMBER,
            sequence_number=seq(5),
        )
    ]


class Log:
    """A stream of one shard, read as a whole: its records' numbers, and what it is asked."""

    def __init__(self, numbers: list[int], *, ends: bool = False) -> None:
        self.numbers = numbers
        self.requests: list[stream_service_pb2.GetRecordsRequest] = []
        self.breaks: list[int] = []
        self._ends = ends

    def scripts(self) -> dict[str, Any]:
        return {
            "DescribeTable": answer(table_service_pb2.DescribeTableResponse(table=table(latest_stream_arn=ARN))),
            "GetRecords": self.get_records,
        }

    async def get_records(self, request: Any, context: Any) -> None:
        self.requests.append(request)
        is_latest = request.shard_iterator_type == stream_service_pb2.SHARD_ITERATOR_TYPE_LATEST
        after = max(self.numbers) if is_latest else int(request.shard_iterator or 0)
        await context.write(stream_service_pb2.GetRecordsResponse(next_shard_iterator=str(after)))
        for number in [number for number in self.numbers if number > after]:
            if number in self.breaks:
                self.breaks.remove(number)
                await abort(context, grpc.StatusCode.UNAVAILABLE, message="draining")
            await context.write(
                stream_service_pb2.GetRecordsResponse(
                    records=[record(number)], next_shard_iterator=str(number), shard_id="a"
                )
            )
        if self._ends:
            await context.write(stream_service_pb2.GetRecordsResponse(shard_id="a", shard_end=True))
        elif request.follow:
            await asyncio.Event().wait()


async def test_get_records_gives_each_response_with_its_position(connect: Connect) -> None:
    async def get_records(request: Any, context: Any) -> None:
        assert request == stream_service_pb2.GetRecordsRequest(shard_iterator="it", limit=10, follow=True)
        await context.write(stream_service_pb2.GetRecordsResponse(next_shard_iterator="it", stream_arn=ARN))
        await context.write(
            stream_service_pb2.GetRecordsResponse(
                records=[record(1, new={"id": 1, "n": Decimal("1.5")}), record(2, old={"id": 2})],
                next_shard_iterator="it2",
                millis_behind_latest=5,
            )
        )
        await context.write(stream_service_pb2.GetRecordsResponse(shard_end=True, child_shard_ids=["c"]))

    async with fake_broker(GetRecords=get_records) as endpoint, connect(endpoint) as client:
        first, second, third = [batch async for batch in client.get_records("it", limit=10, follow=True)]
    assert (first.records, first.next_shard_iterator) == ((), "it")
    assert (second.next_shard_iterator, second.millis_behind_latest, second.shard_end) == ("it2", 5, False)
    assert (third.next_shard_iterator, third.shard_end, third.child_shard_ids) == (None, True, ("c",))
    changed, removed = second.records
    assert (changed.event_name, changed.sequence_number, changed.size_bytes) == ("MODIFY", seq(1), 12)
    assert (changed.keys, changed.new_image, changed.old_image) == ({"id": 1}, {"id": 1, "n": Decimal("1.5")}, None)
    assert (removed.new_image, removed.old_image) == (None, {"id": 2})
    assert changed.approximate_creation_date_time == CREATED
    assert changed.version == headrace.Version(1 << 60, "local-1")
    assert changed.new_image is changed.new_image, "an image is decoded once"


async def test_get_records_takes_everything_before_a_slow_reader_sees_the_end(connect: Connect) -> None:
    async def get_records(request: Any, context: Any) -> None:
        del request
        for number in range(200):
            await context.write(stream_service_pb2.GetRecordsResponse(records=[record(number)]))

    async with fake_broker(GetRecords=get_records) as endpoint, connect(endpoint) as client:
        received = 0
        async for batch in client.get_records("it"):
            received += len(batch.records)
            await asyncio.sleep(0)
    assert received == 200


async def test_tail_reads_the_whole_stream_by_one_call(connect: Connect) -> None:
    log = Log([1, 2, 3])
    async with fake_broker(**log.scripts()) as endpoint, connect(endpoint) as client:
        batches = [batch async for batch in client.tail("flights", start="TRIM_HORIZON", follow=False)]
    assert [one.sequence_number for batch in batches for one in batch.records] == [seq(1), seq(2), seq(3)]
    assert {batch.shard_id for batch in batches} == {"a"}
    assert log.requests == [
        stream_service_pb2.GetRecordsRequest(
            stream_arn=ARN, shard_iterator_type=stream_service_pb2.SHARD_ITERATOR_TYPE_TRIM_HORIZON
        )
    ]


async def test_tail_may_begin_now_or_at_a_time(connect: Connect) -> None:
    log = Log([1, 2])
    async with fake_broker(**log.scripts()) as endpoint, connect(endpoint) as client:
        assert [batch async for batch in client.tail("flights", follow=False)] == []
        assert len([batch async for batch in client.tail("flights", start=CREATED, follow=False)]) == 2
    kinds = [request.shard_iterator_type for request in log.requests]
    assert kinds == [
        stream_service_pb2.SHARD_ITERATOR_TYPE_LATEST,
        stream_service_pb2.SHARD_ITERATOR_TYPE_AT_TIMESTAMP,
    ]
    assert log.requests[1].timestamp == CREATED_MESSAGE


async def test_tail_reads_on_where_it_was_when_the_broker_went_away(connect: Connect) -> None:
    log = Log([1, 2, 3, 4])
    log.breaks = [2, 4]
    async with fake_broker(**log.scripts()) as endpoint, connect(endpoint) as client:
        batches = client.tail("flights", start="TRIM_HORIZON", follow=False)
        numbers = [one.sequence_number async for batch in batches for one in batch.records]
    assert numbers == [seq(1), seq(2), seq(3), seq(4)]
    assert [request.shard_iterator for request in log.requests] == ["", "1", "3"]


async def test_tail_ends_with_its_stream(connect: Connect) -> None:
    log = Log([1, 2], ends=True)
    async with fake_broker(**log.scripts()) as endpoint, connect(endpoint) as client:
        assert len([batch async for batch in client.tail("flights", start="TRIM_HORIZON")]) == 2


class TurnTakingLog:
    """A stream of several shards, read as a whole: a record of a shard each response, or None for one without any.

    An iterator is the count of responses before it. Once, the read breaks after so many of them, and then that is too
    old.
    """

    def __init__(self, *responses: tuple[str, int] | None, expires_after: int) -> None:
        self.requests: list[stream_service_pb2.GetRecordsRequest] = []
        self._responses = responses
        self._expires_after = expires_after

    def scripts(self) -> dict[str, Any]:
        return {
            "DescribeTable": answer(table_service_pb2.DescribeTableResponse(table=table(latest_stream_arn=ARN))),
            "GetRecords": self.get_records,
        }

    async def get_records(self, request: Any, context: Any) -> None:
        self.requests.append(request)
        if request.shard_iterator:
            await abort(context, grpc.StatusCode.FAILED_PRECONDITION, "EXPIRED_ITERATOR")
        for place, response in enumerate(self._responses):
            if request.sequence_number and (response is None or seq(response[1]) <= request.sequence_number):
                continue
            if not request.sequence_number and place == self._expires_after:
                await abort(context, grpc.StatusCode.UNAVAILABLE, message="draining")
            shard_id, records = ("", []) if response is None else (response[0], [record(response[1])])
            await context.write(
                stream_service_pb2.GetRecordsResponse(
                    records=records, shard_id=shard_id, next_shard_iterator=str(place + 1)
                )
            )


# After a long absence the position is too old. The shards take turns, so the number of the last record may be greater
# than that of a record which has not come yet; up to that of the last moment when nothing was unread, all is read.
async def test_tail_replaces_an_expired_position_by_a_number_up_to_which_all_is_read(connect: Connect) -> None:
    log = TurnTakingLog(("a", 1), ("b", 2), None, ("a", 9), ("b", 3), ("a", 10), expires_after=4)
    async with fake_broker(**log.scripts()) as endpoint, connect(endpoint) as client:
        numbers = [
            (batch.shard_id, one.sequence_number)
            async for batch in client.tail("flights", start="TRIM_HORIZON", follow=False)
            for one in batch.records
        ]
    assert numbers == [("a", seq(1)), ("b", seq(2)), ("a", seq(9)), ("b", seq(3)), ("a", seq(10))]
    assert log.requests[-1] == stream_service_pb2.GetRecordsRequest(
        stream_arn=ARN,
        shard_iterator_type=stream_service_pb2.SHARD_ITERATOR_TYPE_AFTER_SEQUENCE_NUMBER,
        sequence_number=seq(2),
    )


async def test_tail_does_not_guess_where_it_was(connect: Connect) -> None:
    log = TurnTakingLog(("a", 1), ("a", 2), ("b", 1), expires_after=2)
    async with fake_broker(**log.scripts()) as endpoint, connect(endpoint) as client:
        with pytest.raises(headrace.ExpiredIteratorError):
            [batch async for batch in client.tail("flights", start="TRIM_HORIZON", follow=False)]


async def test_tail_of_a_table_without_a_stream_is_not_found(connect: Connect) -> None:
    describe = answer(table_service_pb2.DescribeTableResponse(table=table()))
    async with fake_broker(DescribeTable=describe) as endpoint, connect(endpoint) as client:
        with pytest.raises(headrace.ResourceNotFoundError, match="'flights' has no stream"):
            await anext(client.tail("flights"))


async def test_shards_are_split_and_merged(connect: Connect) -> None:
    split = Recorder(stream_service_pb2.SplitShardResponse(shards=[shard("b", "a"), shard("c", "a")]))
    merge = Recorder(stream_service_pb2.MergeShardsResponse(shard=shard("d", "b")))
    async with fake_broker(SplitShard=split, MergeShards=merge) as endpoint, connect(endpoint) as client:
        first, second = await client.split_shard(ARN, "a", starting_hash_key=7)
        await client.split_shard(ARN, "a")
        merged = await client.merge_shards(ARN, "b", "c")
    assert (first.shard_id, second.shard_id, merged.shard_id, merged.parent_shard_id) == ("b", "c", "d", "b")
    assert split.requests == [
        stream_service_pb2.SplitShardRequest(stream_arn=ARN, shard_id="a", new_starting_hash_key=7),
        stream_service_pb2.SplitShardRequest(stream_arn=ARN, shard_id="a"),
    ]
    assert merge.requests == [
        stream_service_pb2.MergeShardsRequest(stream_arn=ARN, shard_id="b", adjacent_shard_id="c")
    ]


async def test_the_settings_of_streams_are_given_and_changed(connect: Connect) -> None:
    described = table()
    described.stream_settings.CopyFrom(
        table_pb2.StreamSettings(
            retention_period_in_seconds=60,
            retention_bytes=0,
            min_shards=2,
            max_shards=4,
            automatic_merges=True,
            shard_roll_period_in_seconds=90,
        )
    )
    create = Recorder(table_service_pb2.CreateTableResponse(table_description=described))
    update = Recorder(table_service_pb2.UpdateTableResponse(table_description=described))
    async with fake_broker(CreateTable=create, UpdateTable=update) as endpoint, connect(endpoint) as client:
        made = await client.create_table("flights", stream_settings=headrace.StreamSettings(retention_s=60))
        await client.update_stream_settings("flights", headrace.StreamSettings(min_shards=2, retention_bytes=0))
        await client.update_stream_settings(
            "flights", headrace.StreamSettings(automatic_merges=False, shard_roll_period_s=0)
        )
    assert made.stream_settings == headrace.StreamSettings(
        retention_s=60,
        retention_bytes=0,
        min_shards=2,
        max_shards=4,
        automatic_merges=True,
        shard_roll_period_s=90,
    )
    assert create.requests[0].stream_settings == table_pb2.StreamSettings(retention_period_in_seconds=60)
    assert update.requests == [
        table_service_pb2.UpdateTableRequest(
            table_name="flights", stream_settings=table_pb2.StreamSettings(min_shards=2, retention_bytes=0)
        ),
        table_service_pb2.UpdateTableRequest(
            table_name="flights",
            stream_settings=table_pb2.StreamSettings(automatic_merges=False, shard_roll_period_in_seconds=0),
        ),
    ]


# Snapshots and consumer groups


async def test_snapshot_gives_items_with_their_versions(connect: Connect) -> None:
    async def read_snapshot(request: Any, context: Any) -> None:
        assert request == replication_service_pb2.ReadSnapshotRequest(table_name="flights")
        await context.write(replication_service_pb2.ReadSnapshotResponse(sequence_number=seq(5)))
        for number in range(2):
            versioned = replication_service_pb2.VersionedItem(
                item=to_item({"id": number}), version=record_pb2.Version(hybrid_time=number, origin_region="local-1")
            )
            await context.write(replication_service_pb2.ReadSnapshotResponse(items=[versioned]))

    async with fake_broker(ReadSnapshot=read_snapshot) as endpoint, connect(endpoint) as client:
        items = [pair async for pair in client.snapshot("flights")]
    assert items == [({"id": 0}, headrace.Version(0, "local-1")), ({"id": 1}, headrace.Version(1, "local-1"))]


async def test_consumer_groups_are_described_and_listed(connect: Connect) -> None:
    message = consumer_service_pb2.ConsumerGroupDescription(
        group_name="g",
        stream_arn=ARN,
        create_time=CREATED_MESSAGE,
        shards=[
            consumer_service_pb2.ShardCheckpoint(
                shard_id="s", lease_epoch=3, millis_behind_latest=4, records_behind_latest=5, member_name="m"
            )
        ],
        member_names=["m"],
        parked_keys=2,
        parked_records=6,
    )
    group = headrace.ConsumerGroup(
        group_name="g",
        stream_arn=ARN,
        create_time=CREATED,
        shards=(
            headrace.ShardCheckpoint(
                shard_id="s",
                sequence_number=None,
                lease_epoch=3,
                shard_end=False,
                millis_behind_latest=4,
                records_behind_latest=5,
                member_name="m",
            ),
        ),
        member_names=("m",),
        parked_keys=2,
        parked_records=6,
    )
    second_page = "2"
    pages = Recorder(
        consumer_service_pb2.ListConsumerGroupsResponse(consumer_groups=[message], next_page_token=second_page),
        consumer_service_pb2.ListConsumerGroupsResponse(consumer_groups=[message]),
    )
    describe = answer(consumer_service_pb2.DescribeConsumerGroupResponse(consumer_group=message))
    delete = Recorder(fails(grpc.StatusCode.FAILED_PRECONDITION, "RESOURCE_IN_USE"))
    scripts: dict[str, Any] = {
        "DescribeConsumerGroup": describe,
        "ListConsumerGroups": pages,
        "DeleteConsumerGroup": delete,
    }
    async with fake_broker(**scripts) as endpoint, connect(endpoint) as client:
        assert await client.describe_consumer_group("g") == group
        assert [one async for one in client.list_consumer_groups()] == [group, group]
        with pytest.raises(headrace.ResourceInUseError):
            await client.delete_consumer_group("g")
    assert [request.page_token for request in pages.requests] == ["", second_page]


async def test_a_group_is_explained(connect: Connect) -> None:
    explained = consumer_service_pb2.ExplainConsumerGroupResponse(
        summary="it waits",
        shards=[
            consumer_service_pb2.ShardExplanation(
                shard_id="s", progress=consumer_service_pb2.SHARD_PROGRESS_WAITING_FOR_ACK, text="for acks", attempts=2
            )
        ],
        consumer_group=consumer_service_pb2.ConsumerGroupDescription(group_name="g"),
    )
    async with fake_broker(ExplainConsumerGroup=answer(explained)) as endpoint, connect(endpoint) as client:
        explanation = await client.explain_consumer_group("g")
    assert (explanation.summary, explanation.group.group_name) == ("it waits", "g")
    (one,) = explanation.shards
    assert (one.progress, one.text, one.member_name, one.attempts) == ("WAITING_FOR_ACK", "for acks", None, 2)


async def test_parked_keys_are_listed_read_redriven_and_discarded(connect: Connect) -> None:
    parked = consumer_service_pb2.ParkedKey(
        parked_id="p", key=to_item({"id": 1}), sequence_number=seq(1), attempts=3, park_time=CREATED_MESSAGE, records=2
    )
    second_page = "2"
    keys = Recorder(
        consumer_service_pb2.ListParkedKeysResponse(parked_keys=[parked], next_page_token=second_page),
        consumer_service_pb2.ListParkedKeysResponse(parked_keys=[parked]),
    )
    records = Recorder(
        consumer_service_pb2.GetParkedRecordsResponse(records=[record(1)], last_evaluated_sequence_number=seq(1)),
        consumer_service_pb2.GetParkedRecordsResponse(records=[record(2, new={"id": 1})]),
    )
    redrive = Recorder(consumer_service_pb2.RedriveParkedKeysResponse(redriven_keys=4))
    discard = Recorder(consumer_service_pb2.DiscardParkedKeyResponse(discarded_records=2))
    scripts: dict[str, Any] = {
        "ListParkedKeys": keys,
        "GetParkedRecords": records,
        "RedriveParkedKeys": redrive,
        "DiscardParkedKey": discard,
    }
    async with fake_broker(**scripts) as endpoint, connect(endpoint) as client:
        listed = [key async for key in client.list_parked_keys("g")]
        read = [one async for one in client.get_parked_records("g", "p")]
        assert await client.redrive_parked_keys("g") == 4
        assert await client.redrive_parked_keys("g", "p") == 4
        assert await client.discard_parked_key("g", "p") == 2
    assert [(key.parked_id, key.key, key.attempts, key.records, key.redriving) for key in listed] == [
        ("p", {"id": 1}, 3, 2, False)
    ] * 2
    assert [request.page_token for request in keys.requests] == ["", second_page]
    assert [(one.sequence_number, one.new_image) for one in read] == [(seq(1), None), (seq(2), {"id": 1})]
    assert [request.exclusive_start_sequence_number for request in records.requests] == ["", seq(1)]
    assert [request.parked_id for request in redrive.requests] == ["", "p"]
