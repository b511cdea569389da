"""The broker's services over one channel, as tests speak to them: generated stubs, a deadline on each call, no retries.

Tests do not go through the SDK, so that a fault in one cannot hide a fault in the other.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self, cast

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from headrace.v1 import (
    attribute_value_pb2,
    backup_service_pb2_grpc,
    consumer_service_pb2_grpc,
    item_service_pb2,
    item_service_pb2_grpc,
    record_pb2,
    replication_service_pb2,
    replication_service_pb2_grpc,
    stream_service_pb2,
    stream_service_pb2_grpc,
    table_pb2,
    table_service_pb2,
    table_service_pb2_grpc,
    trigger_service_pb2_grpc,
)
from tests.values import Attributes, Key, from_item, key_of

DEADLINE_S: Final = 15.0

KEYS_ONLY: Final = record_pb2.STREAM_VIEW_TYPE_KEYS_ONLY
NEW_IMAGE: Final = record_pb2.STREAM_VIEW_TYPE_NEW_IMAGE
OLD_IMAGE: Final = record_pb2.STREAM_VIEW_TYPE_OLD_IMAGE
NEW_AND_OLD_IMAGES: Final = record_pb2.STREAM_VIEW_TYPE_NEW_AND_OLD_IMAGES

TRIM_HORIZON: Final = stream_service_pb2.SHARD_ITERATOR_TYPE_TRIM_HORIZON
LATEST: Final = stream_service_pb2.SHARD_ITERATOR_TYPE_LATEST
AT_SEQUENCE_NUMBER: Final = stream_service_pb2.SHARD_ITERATOR_TYPE_AT_SEQUENCE_NUMBER
AFTER_SEQUENCE_NUMBER: Final = stream_service_pb2.SHARD_ITERATOR_TYPE_AFTER_SEQUENCE_NUMBER
AT_TIMESTAMP: Final = stream_service_pb2.SHARD_ITERATOR_TYPE_AT_TIMESTAMP

KEY_ATTRIBUTE_TYPES: Final = {
    "S": table_pb2.SCALAR_ATTRIBUTE_TYPE_S,
    "N": table_pb2.SCALAR_ATTRIBUTE_TYPE_N,
    "B": table_pb2.SCALAR_ATTRIBUTE_TYPE_B,
}

PROJECT_ALL: Final = table_pb2.Projection(projection_type=table_pb2.PROJECTION_TYPE_ALL)

_UNIQUE: Final = itertools.count(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """What a refused call said, once `refused` has seen it."""

    code: grpc.StatusCode
    reason: str
    message: str
    metadata: Mapping[str, str]
    # None unless the broker told when to come back.
    retry_delay_s: float | None


@dataclass(slots=True)
class Expected:
    """Holds the refusal that `refused` caught, for a test that wants to look closer."""

    refusal: Refusal = field(init=False)


@contextmanager
def refused(
    code: str, reason: str, *, field: str | None = None, limit: object = None, says: str | Iterable[str] = ()
) -> Iterator[Expected]:
    """Asserts that the call inside is refused with this gRPC code and reason, and that the error names what it must."""
    expected = Expected()
    with pytest.raises(grpc.RpcError) as caught:
        yield expected
    refusal = expected.refusal = refusal_of(caught.value)
    assert (refusal.code.name, refusal.reason) == (code, reason), refusal
    if field is not None:
        assert refusal.metadata.get("field") == field, refusal
    if limit is not None:
        assert refusal.metadata.get("limit") == str(limit), refusal
    for words in [says] if isinstance(says, str) else says:
        assert words in refusal.message, refusal


def refusal_of(error: grpc.RpcError) -> Refusal:
    """Reads status and details of a refused call; a status without ErrorInfo of our domain is a failure of its own."""
    call = cast("grpc.Call", error)
    status = rpc_status.from_call(call)
    assert status is not None, f"no google.rpc.Status in {call.code()}: {call.details()}"
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    has_info = has_retry = False
    for detail in status.details:
        has_info = detail.Unpack(info) or has_info
        has_retry = detail.Unpack(retry) or has_retry
    assert has_info, f"no ErrorInfo in {call.code()}: {call.details()}"
    assert info.domain == "headrace", info
    return Refusal(
        code=call.code(),
        reason=info.reason,
        message=status.message,
        metadata=dict(info.metadata),
        retry_delay_s=retry.retry_delay.ToTimedelta().total_seconds() if has_retry else None,
    )


def unique_name(prefix: str = "table") -> str:
    """A name that no other test of this process uses."""
    return f"{prefix}-{next(_UNIQUE)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TestTable:
    """A table a test made: its name, its stream if it has one, and its key attributes."""

    __test__ = False

    name: str
    stream_arn: str
    key_names: tuple[str, ...]


class Client:
    """Stubs of all services on one channel, and the few calls that nearly every test makes."""

    def __init__(self, endpoint: str, *, deadline_s: float = DEADLINE_S) -> None:
        self.endpoint = endpoint
        self.channel = grpc.intercept_channel(grpc.insecure_channel(endpoint), _Deadline(deadline_s))
        self.tables = table_service_pb2_grpc.TableServiceStub(self.channel)
        self.items = item_service_pb2_grpc.ItemServiceStub(self.channel)
        self.streams = stream_service_pb2_grpc.StreamServiceStub(self.channel)
        self.consumers = consumer_service_pb2_grpc.ConsumerServiceStub(self.channel)
        self.triggers = trigger_service_pb2_grpc.TriggerServiceStub(self.channel)
        self.replication = replication_service_pb2_grpc.ReplicationServiceStub(self.channel)
        self.backups = backup_service_pb2_grpc.BackupServiceStub(self.channel)

    def create_table(
        self,
        *,
        name: str | None = None,
        keys: str = "id:S",
        view_type: record_pb2.StreamViewType.ValueType | None = NEW_AND_OLD_IMAGES,
    ) -> TestTable:
        """Makes a table with a name of its own; `keys` reads like "customer:S order:N"."""
        response = self.tables.CreateTable(create_table_request(name or unique_name(), keys=keys, view_type=view_type))
        made = response.table_description
        return TestTable(
            name=made.table_name,
            stream_arn=made.latest_stream_arn,
            key_names=tuple(element.attribute_name for element in made.key_schema),
        )

    def put(self, table: str, item: attribute_value_pb2.Item) -> None:
        """Puts an item without a condition."""
        self.items.PutItem(item_service_pb2.PutItemRequest(table_name=table, item=item))

    def get(self, table: str, key: attribute_value_pb2.Item) -> Attributes | None:
        """The stored item, or None."""
        response = self.items.GetItem(item_service_pb2.GetItemRequest(table_name=table, key=key))
        return from_item(response.item) if response.HasField("item") else None

    def delete(self, table: str, key: attribute_value_pb2.Item) -> None:
        """Deletes an item without a condition."""
        self.items.DeleteItem(item_service_pb2.DeleteItemRequest(table_name=table, key=key))

    def write_items(self, *batches: item_service_pb2.WriteItemsRequest) -> list[item_service_pb2.WriteItemsResponse]:
        """Sends batches over one WriteItems call and returns all its responses."""
        return list(self.items.WriteItems(iter(batches)))

    def contents(self, table: TestTable) -> dict[Key, Attributes]:
        """All items of a table, by key."""
        request = replication_service_pb2.ReadSnapshotRequest(table_name=table.name)
        items = [
            from_item(entry.item) for response in self.replication.ReadSnapshot(request) for entry in response.items
        ]
        contents = {key_of(item, table.key_names): item for item in items}
        assert len(contents) == len(items), "a snapshot holds an item twice"
        return contents

    @contextmanager
    def unchanged(self, table: TestTable) -> Iterator[None]:
        """Asserts that what happens inside writes nothing to the table and makes no record."""
        before = self.contents(table), self.records(table.stream_arn)
        yield
        assert (self.contents(table), self.records(table.stream_arn)) == before

    def shards(self, stream_arn: str) -> list[stream_service_pb2.Shard]:
        """The shards of a stream."""
        request = stream_service_pb2.DescribeStreamRequest(stream_arn=stream_arn)
        return list(self.streams.DescribeStream(request).stream_description.shards)

    def iterator(
        self,
        stream_arn: str,
        kind: stream_service_pb2.ShardIteratorType.ValueType = TRIM_HORIZON,
        sequence_number: str | None = None,
        shard_id: str | None = None,
    ) -> str:
        """A shard iterator, of the stream's only shard unless told which."""
        if shard_id is None:
            (shard,) = self.shards(stream_arn)
            shard_id = shard.shard_id
        response = self.streams.GetShardIterator(
            stream_service_pb2.GetShardIteratorRequest(
                stream_arn=stream_arn, shard_id=shard_id, shard_iterator_type=kind, sequence_number=sequence_number
            )
        )
        return response.shard_iterator

    def read(
        self, shard_iterator: str, *, limit: int | None = None, follow: bool = False
    ) -> Generator[stream_service_pb2.GetRecordsResponse]:
        """The responses of one GetRecords call. The caller who leaves early closes it by closing the generator."""
        request = stream_service_pb2.GetRecordsRequest(shard_iterator=shard_iterator, limit=limit, follow=follow)
        call = self.streams.GetRecords(request)
        try:
            yield from call
        finally:
            call.cancel()

    def split(self, stream_arn: str, shard_id: str, starting_hash: int | None = None) -> list[stream_service_pb2.Shard]:
        """Splits a shard and returns the two that follow it."""
        request = stream_service_pb2.SplitShardRequest(
            stream_arn=stream_arn, shard_id=shard_id, new_starting_hash_key=starting_hash
        )
        return list(self.streams.SplitShard(request).shards)

    def merge(self, stream_arn: str, shard_id: str, adjacent_shard_id: str) -> stream_service_pb2.Shard:
        """Merges two shards and returns the one that follows them."""
        request = stream_service_pb2.MergeShardsRequest(
            stream_arn=stream_arn, shard_id=shard_id, adjacent_shard_id=adjacent_shard_id
        )
        return self.streams.MergeShards(request).shard

    def records(self, stream_arn: str) -> list[record_pb2.Record]:
        """All records of a stream with one shard, from the trim horizon to the tip."""
        return [record for response in self.read(self.iterator(stream_arn)) for record in response.records]

    def close(self) -> None:
        """Closes the channel."""
        self.channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def create_table_request(
    name: str, *, keys: str = "id:S", view_type: record_pb2.StreamViewType.ValueType | None = None
) -> table_service_pb2.CreateTableRequest:
    """A valid CreateTable request, for tests to use or to spoil."""
    specification = None
    if view_type is not None:
        specification = table_pb2.StreamSpecification(stream_enabled=True, stream_view_type=view_type)
    return table_service_pb2.CreateTableRequest(
        table_name=name,
        key_schema=key_schema(*(key.split(":")[0] for key in keys.split())),
        attribute_definitions=definitions(keys),
        stream_specification=specification,
    )


def local_index(name: str, keys: str, projection: table_pb2.Projection | None = None) -> table_pb2.LocalSecondaryIndex:
    """A local index of all attributes unless told otherwise; `keys` reads like "customer order"."""
    return table_pb2.LocalSecondaryIndex(
        index_name=name, key_schema=key_schema(*keys.split()), projection=projection or PROJECT_ALL
    )


def global_index(
    name: str,
    keys: str,
    projection: table_pb2.Projection | None = None,
    throughput: table_pb2.ProvisionedThroughput | None = None,
) -> table_pb2.GlobalSecondaryIndex:
    """A global index of all attributes unless told otherwise; `keys` reads like "customer order"."""
    return table_pb2.GlobalSecondaryIndex(
        index_name=name,
        key_schema=key_schema(*keys.split()),
        projection=projection or PROJECT_ALL,
        provisioned_throughput=throughput,
    )


def key_schema(*names: str) -> list[table_pb2.KeySchemaElement]:
    """A partition key, and a sort key if there is a second name."""
    return [
        table_pb2.KeySchemaElement(attribute_name=name, key_type=role)
        for name, role in zip(names, (table_pb2.KEY_TYPE_HASH, table_pb2.KEY_TYPE_RANGE), strict=False)
    ]


def definitions(attributes: str) -> list[table_pb2.AttributeDefinition]:
    """Attribute definitions, from what reads like "customer:S order:N"."""
    named = [attribute.split(":") for attribute in attributes.split()]
    return [
        table_pb2.AttributeDefinition(attribute_name=name, attribute_type=KEY_ATTRIBUTE_TYPES[type_])
        for name, type_ in named
    ]


def put(
    item: attribute_value_pb2.Item,
    *,
    table: str = "",
    condition: str | None = None,
    names: Mapping[str, str] | None = None,
) -> item_service_pb2.WriteOperation:
    """A put for WriteItems or BatchWriteItem."""
    return item_service_pb2.WriteOperation(
        put=item_service_pb2.PutItemRequest(
            table_name=table, item=item, condition_expression=condition, expression_attribute_names=names
        )
    )


def delete(
    key: attribute_value_pb2.Item,
    *,
    table: str = "",
    condition: str | None = None,
    names: Mapping[str, str] | None = None,
) -> item_service_pb2.WriteOperation:
    """A delete for WriteItems or BatchWriteItem."""
    return item_service_pb2.WriteOperation(
        delete=item_service_pb2.DeleteItemRequest(
            table_name=table, key=key, condition_expression=condition, expression_attribute_names=names
        )
    )


def batch(table: str, *operations: item_service_pb2.WriteOperation) -> item_service_pb2.WriteItemsRequest:
    """One batch of WriteItems."""
    return item_service_pb2.WriteItemsRequest(table_name=table, operations=operations)


class _Deadline(
    grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor, grpc.StreamStreamClientInterceptor
):
    """Gives every call a deadline: a broker that hangs is a failed test with a name, not a stuck run."""

    def __init__(self, deadline_s: float) -> None:
        self._deadline_s = deadline_s

    def _bounded(self, continuation: Callable[[Any, Any], Any], details: Any, request: Any) -> Any:
        timeout = details.timeout if details.timeout is not None else self._deadline_s
        return continuation(_CallDetails(details, timeout), request)

    intercept_unary_unary: Any = _bounded
    intercept_unary_stream: Any = _bounded
    intercept_stream_stream: Any = _bounded


class _CallDetails(grpc.ClientCallDetails):
    def __init__(self, details: Any, timeout: float) -> None:
        self.method = details.method
        self.timeout = timeout
        self.metadata = details.metadata
        self.credentials = details.credentials
        self.wait_for_ready = details.wait_for_ready
        self.compression = details.compression
