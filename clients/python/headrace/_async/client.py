"""AsyncClient: every call of the broker, in plain Python values."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Mapping
from contextlib import aclosing
from datetime import datetime
from random import Random
from types import EllipsisType, TracebackType
from typing import Any, Final, Literal, Self, TypeVar
from uuid import UUID

import grpc
import grpc.aio

from headrace import errors
from headrace._async.consume import AsyncConsumerBatch, AsyncConsumption
from headrace._async.write import write_items
from headrace._backoff import Backoff, Reconnect
from headrace._capacity import CapacityMeter
from headrace._channel import BACKUP_TIMEOUT_S, RESTORE_TIMEOUT_S, UNARY_TIMEOUT_S, open_async_channel
from headrace._concurrency import AsyncResponses, async_sleep
from headrace._messages import (
    MeteredRequest,
    MeteredResponse,
    enum_value,
    fill_index_updates,
    fill_read,
    fill_settings,
    to_attributes,
    to_backup_description,
    to_backup_details,
    to_batch_get_request,
    to_batch_write_request,
    to_consumed_capacities,
    to_consumer_group,
    to_create_table_request,
    to_delete_request,
    to_explanation,
    to_found,
    to_page,
    to_parked_key,
    to_put_request,
    to_recovery,
    to_shard,
    to_stream,
    to_stream_description,
    to_stream_settings,
    to_stream_specification,
    to_table_description,
    to_tags,
    to_throughput,
    to_time_to_live,
    to_timestamp,
    to_transact_get_request,
    to_transact_write_request,
    to_transaction_error,
    to_update_request,
)
from headrace._models import (
    Action,
    BackupDescription,
    BackupDetails,
    ConsumeOptions,
    ConsumerGroup,
    ConsumerGroupExplanation,
    Delete,
    Get,
    GlobalIndex,
    GlobalIndexUpdate,
    Item,
    Keys,
    KeyType,
    LocalIndex,
    Operation,
    Page,
    ParkedKey,
    PointInTimeRecovery,
    Put,
    ReturnValues,
    Select,
    Shard,
    ShardIteratorType,
    Stream,
    StreamDescription,
    StreamSettings,
    TableClass,
    TableDescription,
    TimeToLive,
    Update,
    Version,
    ViewType,
    WriteResult,
)
from headrace._progress import Progress
from headrace._records import ChangeRecord, RecordBatch, to_record_batch
from headrace._stubs import AsyncStubs
from headrace._values import from_item, to_item
from headrace.v1 import (
    backup_service_pb2,
    consumer_service_pb2,
    item_service_pb2,
    replication_service_pb2,
    stream_service_pb2,
    table_pb2,
    table_service_pb2,
)

_LOGGER: Final = logging.getLogger(__name__)

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")
_MeteredRequest = TypeVar("_MeteredRequest", bound=MeteredRequest)
_MeteredResponse = TypeVar("_MeteredResponse", bound=MeteredResponse)

# A throttled call has done nothing and is sent again after the delay that the broker names, so many times in all.
_THROTTLED_ATTEMPTS_MAX: Final = 8
_THROTTLED_DELAY_INITIAL_S: Final = 0.02
_THROTTLED_DELAY_MAX_S: Final = 5.0

# How often wait_for_indexes looks, and how long it waits if it is not told: a large table takes a while to index.
_INDEX_DELAY_INITIAL_S: Final = 0.05
_INDEX_DELAY_MAX_S: Final = 2.0
_INDEX_TIMEOUT_S: Final = 600.0


class AsyncClient:
    """A client of one broker, for asyncio. Safe to share between tasks of one event loop; close it when done.

    Calls raise a HeadraceError; reads and transactions are tried again when the broker is away for a moment, and every
    call when it is throttled. A write that fails with UnavailableError or DeadlineExceededError may or may not have
    happened.

    In expressions "#name" and ":value" stand for what `names` and `values` say. A call that is given a CapacityMeter as
    `capacity` adds to it what it consumed.

    Items are dicts of str, int, Decimal, float, bytes, bool, None, set, list and dict. Numbers come back as int when
    they are whole and as Decimal otherwise.
    """

    def __init__(
        self, endpoint: str | None = None, *, timeout_s: float = UNARY_TIMEOUT_S, random: Random | None = None
    ) -> None:
        """Connects to `endpoint`, HOST:PORT, on first use; by default to HEADRACE_ENDPOINT, else to 127.0.0.1:7420.

        `timeout_s` is the deadline of each call that is answered at once. `random` spreads out retries and makes the
        tokens of transactions: no two clients may be given randomness that is the same.
        """
        self._channel = open_async_channel(endpoint)
        self._stubs = AsyncStubs(self._channel)
        self._timeout_s = timeout_s
        self._random = random or Random()  # noqa: S311 - guards nothing

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends all calls and closes the connection."""
        await self._channel.close()

    # Tables

    async def create_table(
        self,
        table: str,
        *,
        partition_key: tuple[str, KeyType] = ("id", "S"),
        sort_key: tuple[str, KeyType] | None = None,
        stream: ViewType | None = None,
        stream_settings: StreamSettings | None = None,
        local_indexes: Iterable[LocalIndex] = (),
        global_indexes: Iterable[GlobalIndex] = (),
        provisioned_throughput: tuple[int, int] | None = None,
        on_demand_throughput: tuple[int | None, int | None] | None = None,
        warm_throughput: tuple[int | None, int | None] | None = None,
        table_class: TableClass | None = None,
        encryption: bool | str | None = None,
        deletion_protection: bool = False,
        tags: Mapping[str, str] | None = None,
    ) -> TableDescription:
        """Creates a table, ready when this returns. `stream` says which images its stream records; None: no stream.

        There may be 5 local indexes, if there is a sort key, 20 global ones and 50 tags. `provisioned_throughput` is
        read and write capacity units a second, beyond which calls are refused; None: on demand.
        `on_demand_throughput` is the most read and write request units a second that a table on demand takes.

        `warm_throughput`, `table_class` and `encryption` (True, or the id, alias or ARN of a key of AWS's key service)
        are remembered and shown, for programs that set and read them; the broker does nothing else with them.

        Raises: ValidationError; ResourceInUseError if the table exists.
        """
        request = to_create_table_request(table, partition_key, sort_key, local_indexes, global_indexes)
        if stream is not None:
            request.stream_specification.CopyFrom(to_stream_specification(stream))
        if stream_settings is not None:
            request.stream_settings.CopyFrom(to_stream_settings(stream_settings))
        if provisioned_throughput is not None:
            request.billing_mode = table_pb2.BILLING_MODE_PROVISIONED
            request.provisioned_throughput.CopyFrom(to_throughput(provisioned_throughput))
        fill_settings(
            request,
            on_demand_throughput=on_demand_throughput,
            warm_throughput=warm_throughput,
            table_class=table_class,
            encryption=encryption,
        )
        request.deletion_protection_enabled = deletion_protection
        request.tags.extend(to_tags(tags))
        response = await self._call(self._stubs.tables.CreateTable, request)
        return to_table_description(response.table_description)

    async def describe_table(self, table: str) -> TableDescription:
        """Describes a table.

        Raises: ResourceNotFoundError.
        """
        request = table_service_pb2.DescribeTableRequest(table_name=table)
        response = await self._call(self._stubs.tables.DescribeTable, request)
        return to_table_description(response.table)

    async def list_tables(self) -> AsyncGenerator[str, None]:
        """Gives the names of all tables, in the order of their UTF-8 bytes."""
        request = table_service_pb2.ListTablesRequest()
        while True:
            response = await self._call(self._stubs.tables.ListTables, request)
            for name in response.table_names:
                yield name
            if not response.last_evaluated_table_name:
                return
            request.exclusive_start_table_name = response.last_evaluated_table_name

    async def update_table(
        self,
        table: str,
        *,
        stream: ViewType | EllipsisType | None = ...,
        stream_settings: StreamSettings | None = None,
        create_index: GlobalIndex | None = None,
        update_indexes: Mapping[str, tuple[int, int] | GlobalIndexUpdate] | None = None,
        delete_index: str | None = None,
        provisioned_throughput: tuple[int, int] | EllipsisType | None = ...,
        on_demand_throughput: tuple[int | None, int | None] | None = None,
        warm_throughput: tuple[int | None, int | None] | None = None,
        table_class: TableClass | None = None,
        encryption: bool | str | None = None,
        deletion_protection: bool | None = None,
    ) -> TableDescription:
        """Changes a table, all of it or nothing; what is left out stays as it is.

        `stream` enables a new stream that records these images, or with None disables the stream. At most one global
        index is created or deleted at a time; a new one is filled in the background: see wait_for_indexes.
        `update_indexes` gives global indexes other read and write capacity units a second, or other throughput of any
        kind, by name.
        `provisioned_throughput` does so for the table, or with None puts it on demand; one that was on demand needs
        `update_indexes` for each of its indexes, too. The other settings are as in create_table; in
        `on_demand_throughput` -1 removes a maximum, and `encryption=False` takes back what was asked for.

        Raises: ValidationError, ResourceNotFoundError; ResourceInUseError for an index that is being filled;
        LimitExceededError.
        """
        request = table_service_pb2.UpdateTableRequest(
            table_name=table, deletion_protection_enabled=deletion_protection
        )
        if not isinstance(stream, EllipsisType):
            request.stream_specification.CopyFrom(to_stream_specification(stream))
        if stream_settings is not None:
            request.stream_settings.CopyFrom(to_stream_settings(stream_settings))
        fill_index_updates(request, create_index, update_indexes, delete_index)
        if provisioned_throughput is None:
            request.billing_mode = table_pb2.BILLING_MODE_PAY_PER_REQUEST
        elif not isinstance(provisioned_throughput, EllipsisType):
            request.billing_mode = table_pb2.BILLING_MODE_PROVISIONED
            request.provisioned_throughput.CopyFrom(to_throughput(provisioned_throughput))
        fill_settings(
            request,
            on_demand_throughput=on_demand_throughput,
            warm_throughput=warm_throughput,
            table_class=table_class,
            encryption=encryption,
        )
        response = await self._call(self._stubs.tables.UpdateTable, request)
        return to_table_description(response.table_description)

    async def update_stream_settings(self, table: str, settings: StreamSettings) -> TableDescription:
        """Changes how long a table's streams keep records, or their number of shards; what is None stays as it is.

        Raises: ValidationError, ResourceNotFoundError.
        """
        return await self.update_table(table, stream_settings=settings)

    async def wait_for_indexes(self, table: str, *, timeout_s: float = _INDEX_TIMEOUT_S) -> TableDescription:
        """Waits until each global index of a table is ACTIVE, and those that are being deleted are gone.

        Raises: ResourceNotFoundError; DeadlineExceededError after `timeout_s`.
        """
        deadline = time.monotonic() + timeout_s
        backoff = Backoff(initial_s=_INDEX_DELAY_INITIAL_S, max_s=_INDEX_DELAY_MAX_S, random=self._random)
        while True:
            described = await self.describe_table(table)
            waiting = [index.index_name for index in described.global_indexes if index.index_status != "ACTIVE"]
            if not waiting:
                return described
            if time.monotonic() >= deadline:
                raise errors.DeadlineExceededError(
                    f"indexes of {table} that are not ACTIVE after {timeout_s:g} s: {', '.join(waiting)}"
                )
            await async_sleep(backoff.next_s())

    async def delete_table(self, table: str) -> TableDescription:
        """Removes a table and its items; its stream stays readable until its records age out.

        Raises: ResourceNotFoundError; ValidationError if it is protected against deletion.
        """
        request = table_service_pb2.DeleteTableRequest(table_name=table)
        response = await self._call(self._stubs.tables.DeleteTable, request)
        return to_table_description(response.table_description)

    async def update_time_to_live(self, table: str, attribute_name: str, *, enabled: bool = True) -> None:
        """Lets items expire by an attribute, or ends that, given the attribute in use.

        An item is deleted, usually within a minute, when the attribute is a number of seconds since 1970 UTC that has
        passed, by less than 5 years.

        Raises: ValidationError, ResourceNotFoundError.
        """
        specification = table_service_pb2.TimeToLiveSpecification(enabled=enabled, attribute_name=attribute_name)
        request = table_service_pb2.UpdateTimeToLiveRequest(table_name=table, time_to_live_specification=specification)
        await self._call(self._stubs.tables.UpdateTimeToLive, request)

    async def describe_time_to_live(self, table: str) -> TimeToLive:
        """Says whether, and by which attribute, items expire.

        Raises: ResourceNotFoundError.
        """
        request = table_service_pb2.DescribeTimeToLiveRequest(table_name=table)
        return to_time_to_live(await self._call(self._stubs.tables.DescribeTimeToLive, request))

    async def tag_resource(self, resource_arn: str, tags: Mapping[str, str]) -> None:
        """Adds tags to the table with this ARN, or replaces those with the same keys; at most 50 in all.

        A key has 1 to 128 characters and does not begin with "aws:", a value at most 256.

        Raises: ValidationError, ResourceNotFoundError, LimitExceededError.
        """
        request = table_service_pb2.TagResourceRequest(resource_arn=resource_arn, tags=to_tags(tags))
        await self._call(self._stubs.tables.TagResource, request)

    async def untag_resource(self, resource_arn: str, tag_keys: Iterable[str]) -> None:
        """Removes 1 to 50 tags of a table; those that are not there are passed over.

        Raises: ValidationError, ResourceNotFoundError.
        """
        request = table_service_pb2.UntagResourceRequest(resource_arn=resource_arn, tag_keys=tag_keys)
        await self._call(self._stubs.tables.UntagResource, request)

    async def list_tags_of_resource(self, resource_arn: str) -> dict[str, str]:
        """All tags of a table, in the order of their keys.

        Raises: ValidationError, ResourceNotFoundError.
        """
        request = table_service_pb2.ListTagsOfResourceRequest(resource_arn=resource_arn)
        tags: dict[str, str] = {}
        while True:
            response = await self._call(self._stubs.tables.ListTagsOfResource, request)
            tags.update((tag.key, tag.value) for tag in response.tags)
            if not response.next_token:
                return tags
            request.next_token = response.next_token

    # Items

    async def put_item(
        self,
        table: str,
        item: Mapping[str, Any],
        *,
        condition: str | None = None,
        names: Mapping[str, str] | None = None,
        values: Mapping[str, Any] | None = None,
        return_values: Literal["NONE", "ALL_OLD"] = "NONE",
        return_old_on_failure: bool = False,
        capacity: CapacityMeter | None = None,
    ) -> Item | None:
        """Creates an item, or replaces the whole item with the same key; on disk when this returns.

        Returns the item before, if `return_values` is ALL_OLD and there was one; else None. If the condition does not
        hold and `return_old_on_failure` is true, the error has the `item`.

        Raises: ValidationError, ResourceNotFoundError, ConditionalCheckFailedError, ThrottlingError.
        """
        operation = Put(item, condition, names, values, return_values, return_old_on_failure)
        request = to_put_request(table, operation)
        return to_attributes(await self._metered(self._stubs.items.PutItem, request, capacity))

    async def get_item(
        self,
        table: str,
        key: Mapping[str, Any],
        *,
        projection: str | None = None,
        names: Mapping[str, str] | None = None,
        consistent_read: bool = False,
        capacity: CapacityMeter | None = None,
    ) -> Item | None:
        """The item with this key, None if there is none. Sees every write that was acknowledged before.

        `projection` is the document paths to return, joined by commas; None: the whole item. As every read is
        consistent, `consistent_read` only doubles what is consumed, as in DynamoDB.

        Raises: ValidationError, ResourceNotFoundError.
        """
        request = item_service_pb2.GetItemRequest(
            table_name=table,
            key=to_item(key),
            projection_expression=projection,
            expression_attribute_names=names,
            consistent_read=consistent_read,
        )
        return to_found(await self._metered(self._stubs.items.GetItem, request, capacity))

    async def update_item(
        self,
        table: str,
        key: Mapping[str, Any],
        *,
        update: str | None,
        condition: str | None = None,
        names: Mapping[str, str] | None = None,
        values: Mapping[str, Any] | None = None,
        return_values: ReturnValues = "NONE",
        return_old_on_failure: bool = False,
        capacity: CapacityMeter | None = None,
    ) -> Item | None:
        """Changes attributes of an item, for example by "SET seen = :now REMOVE draft"; creates it if it is missing.

        Without an update (None) nothing changes, but a missing item is made of its key alone.

        Returns what `return_values` says of the item before or after, None if there is nothing of it: ALL_OLD, ALL_NEW,
        or only what the update names, UPDATED_OLD, UPDATED_NEW. If the condition does not hold and
        `return_old_on_failure` is true, the error has the `item`.

        Raises: ValidationError, ResourceNotFoundError, ConditionalCheckFailedError, ThrottlingError.
        """
        operation = Update(key, update, condition, names, values, return_values, return_old_on_failure)
        request = to_update_request(table, operation)
        return to_attributes(await self._metered(self._stubs.items.UpdateItem, request, capacity))

    async def delete_item(
        self,
        table: str,
        key: Mapping[str, Any],
        *,
        condition: str | None = None,
        names: Mapping[str, str] | None = None,
        values: Mapping[str, Any] | None = None,
        return_values: Literal["NONE", "ALL_OLD"] = "NONE",
        return_old_on_failure: bool = False,
        capacity: CapacityMeter | None = None,
    ) -> Item | None:
        """Removes an item; succeeds if there is none.

        Returns the item before, if `return_values` is ALL_OLD and there was one; else None. If the condition does not
        hold and `return_old_on_failure` is true, the error has the `item`.

        Raises: ValidationError, ResourceNotFoundError, ConditionalCheckFailedError, ThrottlingError.
        """
        operation = Delete(key, condition, names, values, return_values, return_old_on_failure)
        request = to_delete_request(table, operation)
        return to_attributes(await self._metered(self._stubs.items.DeleteItem, request, capacity))

    async def batch_get_item(
        self,
        keys: Mapping[str, Keys | Iterable[Mapping[str, Any]]],
        *,
        capacity: CapacityMeter | None = None,
    ) -> dict[str, list[Item]]:
        """Reads up to 100 items, by table: {"flights": [{"id": "a"}, {"id": "b"}]}; leaves out those that are missing.

        Each is read on its own. What the broker leaves for later is asked for again.

        Raises: ValidationError (also for two equal keys of one table), ResourceNotFoundError; ThrottlingError if
        something is unread in the end.
        """
        request = to_batch_get_request(keys)
        found: dict[str, list[Item]] = {table.table_name: [] for table in request.tables}
        backoff = self._throttled_backoff()
        idle_attempts = 0
        while True:
            response = await self._metered(self._stubs.items.BatchGetItem, request, capacity)
            for table in response.tables:
                found[table.table_name].extend(map(from_item, table.items))
            if not response.unprocessed_keys:
                return found
            # A full response is no reason to wait; one that brings nothing on is.
            if sum(len(table.keys) for table in response.unprocessed_keys) == sum(
                len(table.keys) for table in request.tables
            ):
                idle_attempts += 1
                if idle_attempts == _THROTTLED_ATTEMPTS_MAX:
                    raise errors.ThrottlingError("keys are still not read: the broker is busy")
                await async_sleep(backoff.next_s())
            request = item_service_pb2.BatchGetItemRequest(tables=response.unprocessed_keys)

    async def batch_write_item(
        self, operations: Mapping[str, Iterable[Put | Delete]], *, capacity: CapacityMeter | None = None
    ) -> None:
        """Carries out up to 25 puts and deletes, by table: {"flights": [Put(item), Delete(key)]}.

        They are at most 16 MB, without conditions, no two of one table with the same key. If one is invalid, none is
        written; otherwise each is written on its own, in any order. What the broker is too busy to write is sent again.

        Raises: ValidationError, ResourceNotFoundError; ThrottlingError if something is unwritten in the end.
        """
        request = to_batch_write_request(operations)
        backoff = self._throttled_backoff()
        for _ in range(_THROTTLED_ATTEMPTS_MAX):
            response = await self._metered(self._stubs.items.BatchWriteItem, request, capacity)
            if not response.unprocessed_operations:
                return
            request = item_service_pb2.BatchWriteItemRequest(operations=response.unprocessed_operations)
            await async_sleep(backoff.next_s())
        raise errors.ThrottlingError(f"{len(request.operations)} operations are still not written: the broker is busy")

    async def transact_write_items(
        self,
        actions: Iterable[tuple[str, Action]],
        *,
        client_request_token: str | None = None,
        capacity: CapacityMeter | None = None,
    ) -> None:
        """Carries out up to 100 actions, each on another item of a table, all or none: [("flights", Put(item)), ...].

        They are Put, Update, Delete and ConditionCheck, at most 4 MB in all. The same actions with the same token of 1
        to 36 characters have no new effect for 10 minutes. By default each call has a token of its own, with which it
        is sent again when the broker is away for a moment.

        Raises: ValidationError, ResourceNotFoundError, ThrottlingError; TransactionCanceledError, whose `reasons` say
        for each action what was against it; IdempotentParameterMismatchError.
        """
        token = client_request_token
        if token is None:
            token = str(UUID(int=self._random.getrandbits(128), version=4))
        request = to_transact_write_request(actions, token)
        response = await self._metered(self._stubs.items.TransactWriteItems, request, capacity)
        if response.cancellation_reasons:
            raise to_transaction_error(response.cancellation_reasons)

    async def transact_get_items(
        self, gets: Iterable[tuple[str, Get]], *, capacity: CapacityMeter | None = None
    ) -> list[Item | None]:
        """Reads up to 100 items, all as they are at one moment: [("flights", Get(key)), ...]; None for a missing one.

        They are at most 4 MB, no two the same.

        Raises: ValidationError, ResourceNotFoundError.
        """
        request = to_transact_get_request(gets)
        response = await self._metered(self._stubs.items.TransactGetItems, request, capacity)
        return list(map(to_found, response.responses))

    async def query(
        self,
        table: str,
        *,
        key_condition: str,
        filter: str | None = None,  # noqa: A002 - the word of the API
        projection: str | None = None,
        names: Mapping[str, str] | None = None,
        values: Mapping[str, Any] | None = None,
        index: str | None = None,
        select: Select | None = None,
        reverse: bool = False,
        consistent_read: bool = False,
        page_size: int | None = None,
        capacity: CapacityMeter | None = None,
    ) -> AsyncGenerator[Item, None]:
        """Gives the items of one partition key, of the table or an index, in the order of the sort key.

        As query_page, one page after the other; each reads up to `page_size` items, or 1 MB.

        Raises: ValidationError, ResourceNotFoundError.
        """
        start: Item | None = None
        while True:
            page = await self.query_page(
                table,
                key_condition=key_condition,
                filter=filter,
                projection=projection,
                names=names,
                values=values,
                index=index,
                select=select,
                reverse=reverse,
                consistent_read=consistent_read,
                limit=page_size,
                exclusive_start_key=start,
                capacity=capacity,
            )
            for item in page.items:
                yield item
            if (start := page.last_evaluated_key) is None:
                return

    async def query_page(
        self,
        table: str,
        *,
        key_condition: str,
        filter: str | None = None,  # noqa: A002 - the word of the API
        projection: str | None = None,
        names: Mapping[str, str] | None = None,
        values: Mapping[str, Any] | None = None,
        index: str | None = None,
        select: Select | None = None,
        reverse: bool = False,
        consistent_read: bool = False,
        limit: int | None = None,
        exclusive_start_key: Mapping[str, Any] | None = None,
        capacity: CapacityMeter | None = None,
    ) -> Page:
        """Reads items of one partition key, of the table or an index, in the order of the sort key: up to 1 MB.

        `key_condition` is "partition = :v", and at most one condition on the sort key: = < <= > >= BETWEEN or
        begins_with. At most `limit` items are read, and then those left out for which `filter` does not hold.
        `projection` is what to return of them, as in get_item; with `select` COUNT only their number is told.
        `exclusive_start_key` is the last_evaluated_key of the page before. `consistent_read` is as in get_item, and
        refused for global indexes.

        Raises: ValidationError, ResourceNotFoundError.
        """
        request = item_service_pb2.QueryRequest(table_name=table, key_condition_expression=key_condition)
        fill_read(
            request,
            index=index,
            filter_expression=filter,
            projection=projection,
            names=names,
            values=values,
            select=select,
            limit=limit,
            exclusive_start_key=exclusive_start_key,
            consistent_read=consistent_read,
        )
        if reverse:
            request.scan_index_forward = False
        response = await self._metered(self._stubs.items.Query, request, capacity)
        return to_page(response)

    async def scan(
        self,
        table: str,
        *,
        filter: str | None = None,  # noqa: A002 - the word of the API
        projection: str | None = None,
        names: Mapping[str, str] | None = None,
        values: Mapping[str, Any] | None = None,
        index: str | None = None,
        select: Select | None = None,
        segment: int | None = None,
        total_segments: int | None = None,
        consistent_read: bool = False,
        page_size: int | None = None,
        capacity: CapacityMeter | None = None,
    ) -> AsyncGenerator[Item, None]:
        """Gives all items of a table or an index, or those of one segment.

        As scan_page, one page after the other; each reads up to `page_size` items, or 1 MB. A page shows one moment,
        the whole scan does not: for that see snapshot.

        Raises: ValidationError, ResourceNotFoundError.
        """
        start: Item | None = None
        while True:
            page = await self.scan_page(
                table,
                filter=filter,
                projection=projection,
                names=names,
                values=values,
                index=index,
                select=select,
                segment=segment,
                total_segments=total_segments,
                consistent_read=consistent_read,
                limit=page_size,
                exclusive_start_key=start,
                capacity=capacity,
            )
            for item in page.items:
                yield item
            if (start := page.last_evaluated_key) is None:
                return

    async def scan_page(
        self,
        table: str,
        *,
        filter: str | None = None,  # noqa: A002 - the word of the API
        projection: str | None = None,
        names: Mapping[str, str] | None = None,
        values: Mapping[str, Any] | None = None,
        index: str | None = None,
        select: Select | None = None,
        segment: int | None = None,
        total_segments: int | None = None,
        consistent_read: bool = False,
        limit: int | None = None,
        exclusive_start_key: Mapping[str, Any] | None = None,
        capacity: CapacityMeter | None = None,
    ) -> Page:
        """Reads items of a table or an index: partition keys in the order of their hash, up to 1 MB.

        Several scans share the work when each reads another `segment`, from 0, of `total_segments`, up to 1,000,000;
        the items of one partition key lie in the same. All else is as in query_page.

        Raises: ValidationError, ResourceNotFoundError.
        """
        request = item_service_pb2.ScanRequest(table_name=table, segment=segment, total_segments=total_segments)
        fill_read(
            request,
            index=index,
            filter_expression=filter,
            projection=projection,
            names=names,
            values=values,
            select=select,
            limit=limit,
            exclusive_start_key=exclusive_start_key,
            consistent_read=consistent_read,
        )
        response = await self._metered(self._stubs.items.Scan, request, capacity)
        return to_page(response)

    def write_items(
        self,
        table: str,
        operations: AsyncIterable[Operation] | Iterable[Operation],
        *,
        batch_size: int = 100,
        max_batches_in_flight: int = 16,
    ) -> AsyncGenerator[WriteResult, None]:
        """Writes any number of operations, as fast as the broker takes them; gives one result for each, in order.

        Operations are applied in order, each on its own: one that fails does not stop the others. A result without an
        error is on disk. Results come up to `batch_size` x `max_batches_in_flight` operations behind; no more than that
        is held in memory.

        Raises: ValidationError for a value that cannot be encoded; UnavailableError, and then operations whose results
        are missing may or may not have been written.
        """
        return write_items(
            self._stubs,
            table,
            operations,
            batch_size=batch_size,
            max_batches_in_flight=max_batches_in_flight,
        )

    async def snapshot(self, table: str) -> AsyncGenerator[tuple[Item, Version], None]:
        """Gives all items of a table as they were at one moment, with the version of the write that made each.

        Raises: ResourceNotFoundError, UnavailableError.
        """
        request = replication_service_pb2.ReadSnapshotRequest(table_name=table)
        responses: AsyncResponses[replication_service_pb2.ReadSnapshotResponse] = AsyncResponses(
            self._stubs.replication.ReadSnapshot(request)
        )
        try:
            while (response := await responses.receive()) is not None:
                for versioned in response.items:
                    version = Version(versioned.version.hybrid_time, versioned.version.origin_region)
                    yield from_item(versioned.item), version
        finally:
            await responses.close()

    # Streams

    async def list_streams(self, table: str | None = None) -> AsyncGenerator[Stream, None]:
        """Gives all streams, or those of one table, by ARN; disabled ones too, while they are readable."""
        request = stream_service_pb2.ListStreamsRequest(table_name=table)
        while True:
            response = await self._call(self._stubs.streams.ListStreams, request)
            for stream in response.streams:
                yield to_stream(stream)
            if not response.last_evaluated_stream_arn:
                return
            request.exclusive_start_stream_arn = response.last_evaluated_stream_arn

    async def describe_stream(self, stream_arn: str, *, as_tree: bool = False) -> StreamDescription:
        """Describes a stream and all its shards.

        With `as_tree` each shard has one parent: a merged one is shown as a lane for each hash range that was merged.
        Whoever reads these one by one, each after its parent, misses nothing.

        Raises: ValidationError, ResourceNotFoundError.
        """
        request = stream_service_pb2.DescribeStreamRequest(stream_arn=stream_arn, as_tree=as_tree)
        shards: list[stream_service_pb2.Shard] = []
        while True:
            response = await self._call(self._stubs.streams.DescribeStream, request)
            page = response.stream_description
            shards.extend(page.shards)
            if not page.last_evaluated_shard_id:
                return to_stream_description(page, shards)
            request.exclusive_start_shard_id = page.last_evaluated_shard_id

    async def get_shard_iterator(
        self,
        stream_arn: str,
        shard_id: str = "",
        *,
        type: ShardIteratorType,  # noqa: A002 - the word of the API
        sequence_number: str | None = None,
        timestamp: datetime | None = None,
    ) -> str:
        """A position to read from, in a shard, a lane or, without one, in the whole stream; valid for 15 minutes.

        Raises: ValidationError, ResourceNotFoundError, TrimmedDataAccessError.
        """
        request = stream_service_pb2.GetShardIteratorRequest(
            stream_arn=stream_arn,
            shard_id=shard_id,
            shard_iterator_type=enum_value(stream_service_pb2.ShardIteratorType, type, "type"),
            sequence_number=sequence_number,
            timestamp=None if timestamp is None else to_timestamp(timestamp),
        )
        response = await self._call(self._stubs.streams.GetShardIterator, request)
        return response.shard_iterator

    async def get_records(
        self, shard_iterator: str, *, limit: int | None = None, follow: bool = False
    ) -> AsyncGenerator[RecordBatch, None]:
        """Reads a shard, or a whole stream, on from an iterator, in batches of at most `limit` records of one shard.

        The first batch comes at once, even without records. At the tip this ends or, with `follow`, waits for more and
        gives a batch without records every 15 seconds. At the end of a closed shard there is a batch with `shard_end`
        set; with the last one this ends.

        Raises: ExpiredIteratorError, TrimmedDataAccessError, ResourceNotFoundError; UnavailableError: read on from the
        last batch's `next_shard_iterator`.
        """
        request = stream_service_pb2.GetRecordsRequest(shard_iterator=shard_iterator, limit=limit, follow=follow)
        async with aclosing(self._read(request)) as batches:
            async for batch in batches:
                yield batch

    async def tail(
        self, table: str, *, start: Literal["LATEST", "TRIM_HORIZON"] | datetime = "LATEST", follow: bool = True
    ) -> AsyncGenerator[RecordBatch, None]:
        """Reads the newest stream of a table, from now on, from a time, or from the oldest record held.

        Gives batches with records, each of one shard; the broker goes from closed shards to those that follow, so the
        records of each key come in order. When the broker goes away for a while, reads on exactly where it was. Without
        `follow` it ends at the tip. Nothing is kept in the broker: to go on after a restart of your own, use consume.

        Raises: ResourceNotFoundError if the table or its stream is missing; TrimmedDataAccessError when records are
        lost; ExpiredIteratorError if nothing was heard for 15 minutes before this had once read all there was.
        """
        description = await self.describe_table(table)
        if description.latest_stream_arn is None:
            raise errors.ResourceNotFoundError(f"table {table!r} has no stream", metadata={"field": "table_name"})
        request = stream_service_pb2.GetRecordsRequest(stream_arn=description.latest_stream_arn, follow=follow)
        if isinstance(start, datetime):
            request.shard_iterator_type = stream_service_pb2.SHARD_ITERATOR_TYPE_AT_TIMESTAMP
            request.timestamp.CopyFrom(to_timestamp(start))
        else:
            request.shard_iterator_type = enum_value(stream_service_pb2.ShardIteratorType, start, "start")
        reconnect = Reconnect(self._random)
        progress = Progress()
        while True:
            try:
                async with aclosing(self._read(request)) as batches:
                    async for batch in batches:
                        reconnect.progressed()
                        if batch.next_shard_iterator is not None:
                            request = stream_service_pb2.GetRecordsRequest(
                                shard_iterator=batch.next_shard_iterator, follow=follow
                            )
                        new = progress.take(batch)
                        if new.records:
                            yield new
                        if batch.next_shard_iterator is None:
                            return
                if not follow:
                    return
                error = errors.UnavailableError("the broker ended a read before the end of the stream")
            except errors.UnavailableError as unavailable:
                error = unavailable
            except errors.ExpiredIteratorError:
                if progress.complete_to is None:
                    raise
                request = stream_service_pb2.GetRecordsRequest(
                    stream_arn=description.latest_stream_arn,
                    shard_iterator_type=stream_service_pb2.SHARD_ITERATOR_TYPE_AFTER_SEQUENCE_NUMBER,
                    sequence_number=progress.complete_to,
                    follow=follow,
                )
                continue
            delay_s = reconnect.delay_s(error)
            _LOGGER.warning("read lost, reading on table=%s delay_s=%.1f error=%s", table, delay_s, error)
            await async_sleep(delay_s)

    async def _read(self, request: stream_service_pb2.GetRecordsRequest) -> AsyncGenerator[RecordBatch, None]:
        responses: AsyncResponses[stream_service_pb2.GetRecordsResponse] = AsyncResponses(
            self._stubs.streams.GetRecords(request)
        )
        try:
            while (response := await responses.receive()) is not None:
                yield to_record_batch(response)
        finally:
            await responses.close()

    async def split_shard(
        self, stream_arn: str, shard_id: str, *, starting_hash_key: int | None = None
    ) -> tuple[Shard, Shard]:
        """Closes an open shard and opens two in its place; the second begins at the hash, or in the middle.

        Raises: ValidationError, ResourceNotFoundError; ResourceInUseError if it is closed; LimitExceededError.
        """
        request = stream_service_pb2.SplitShardRequest(
            stream_arn=stream_arn, shard_id=shard_id, new_starting_hash_key=starting_hash_key
        )
        response = await self._call(self._stubs.streams.SplitShard, request)
        first, second = response.shards
        return to_shard(first), to_shard(second)

    async def merge_shards(self, stream_arn: str, shard_id: str, adjacent_shard_id: str) -> Shard:
        """Closes two open shards whose hash ranges adjoin, and opens one in their place.

        Raises: ValidationError, ResourceNotFoundError; ResourceInUseError if one of them is closed.
        """
        request = stream_service_pb2.MergeShardsRequest(
            stream_arn=stream_arn, shard_id=shard_id, adjacent_shard_id=adjacent_shard_id
        )
        response = await self._call(self._stubs.streams.MergeShards, request)
        return to_shard(response.shard)

    # Consumer groups

    def consume(
        self,
        table: str,
        *,
        group: str,
        start: Literal["TRIM_HORIZON", "LATEST", "SNAPSHOT"] | datetime = "TRIM_HORIZON",
        member: str = "",
        max_batch_records: int = 1_000,
        max_in_flight_records: int = 10_000,
        max_in_flight_bytes: int | None = None,
        on_gap: Literal["FAIL", "SKIP"] = "FAIL",
        max_attempts: int | None = None,
    ) -> AsyncGenerator[AsyncConsumerBatch, None]:
        """Reads the stream of a table as a member of a durable group: each batch once it is acked, never again.

        A group that is new begins at `start`: with SNAPSHOT, all items of the table come first, as INSERT records, and
        then the changes after them. One that is known goes on after its last acks, whoever made them. Its members share
        the shards of the stream. The broker sends no more while `max_in_flight_records`, or `max_in_flight_bytes` (16
        MiB by default), are not acked. A record that was nacked `max_attempts` times (10 by default; 0: for ever) is
        parked with its key. When records were lost, `on_gap` says whether to fail or to go on; then the next batch has
        the `gap`. When the broker goes away for a while, the member joins again, and what was not acked comes again.

        Raises: ValidationError, ResourceNotFoundError; TrimmedDataAccessError if the group is further behind than the
        stream reaches; UnavailableError if there is no broker, or none for a quarter of an hour.
        """
        options = ConsumeOptions(
            group=group,
            start=start,
            member=member,
            max_batch_records=max_batch_records,
            max_in_flight_records=max_in_flight_records,
            max_in_flight_bytes=max_in_flight_bytes,
            on_gap=on_gap,
            max_attempts=max_attempts,
        )
        return self._consumption(table, options).batches()

    async def describe_consumer_group(self, group: str) -> ConsumerGroup:
        """Describes a consumer group: members, checkpoints, lag.

        Raises: ResourceNotFoundError.
        """
        request = consumer_service_pb2.DescribeConsumerGroupRequest(group_name=group)
        response = await self._call(self._stubs.consumers.DescribeConsumerGroup, request)
        return to_consumer_group(response.consumer_group)

    async def list_consumer_groups(self) -> AsyncGenerator[ConsumerGroup, None]:
        """Gives all consumer groups, by name."""
        request = consumer_service_pb2.ListConsumerGroupsRequest()
        while True:
            response = await self._call(self._stubs.consumers.ListConsumerGroups, request)
            for group in response.consumer_groups:
                yield to_consumer_group(group)
            if not response.next_page_token:
                return
            request.page_token = response.next_page_token

    async def delete_consumer_group(self, group: str) -> None:
        """Forgets a consumer group and its checkpoints.

        Raises: ResourceNotFoundError; ResourceInUseError while it has members.
        """
        request = consumer_service_pb2.DeleteConsumerGroupRequest(group_name=group)
        await self._call(self._stubs.consumers.DeleteConsumerGroup, request)

    async def explain_consumer_group(self, group: str) -> ConsumerGroupExplanation:
        """Says why a consumer group does or does not move, shard by shard.

        Raises: ResourceNotFoundError.
        """
        request = consumer_service_pb2.ExplainConsumerGroupRequest(group_name=group)
        return to_explanation(await self._call(self._stubs.consumers.ExplainConsumerGroup, request))

    async def list_parked_keys(self, group: str) -> AsyncGenerator[ParkedKey, None]:
        """Gives the keys a consumer group has set aside, the oldest first.

        Raises: ResourceNotFoundError.
        """
        request = consumer_service_pb2.ListParkedKeysRequest(group_name=group)
        while True:
            response = await self._call(self._stubs.consumers.ListParkedKeys, request)
            for parked in response.parked_keys:
                yield to_parked_key(parked)
            if not response.next_page_token:
                return
            request.page_token = response.next_page_token

    async def get_parked_records(self, group: str, parked_id: str) -> AsyncGenerator[ChangeRecord, None]:
        """Gives the parked records of one key, in order, the one that failed first.

        Raises: ResourceNotFoundError.
        """
        request = consumer_service_pb2.GetParkedRecordsRequest(group_name=group, parked_id=parked_id)
        while True:
            response = await self._call(self._stubs.consumers.GetParkedRecords, request)
            for record in response.records:
                yield ChangeRecord(record.SerializeToString())
            if not response.last_evaluated_sequence_number:
                return
            request.exclusive_start_sequence_number = response.last_evaluated_sequence_number

    async def redrive_parked_keys(self, group: str, parked_id: str | None = None) -> int:
        """Has a parked key, or all, delivered to the group again, in order; returns how many were not before.

        Raises: ResourceNotFoundError.
        """
        request = consumer_service_pb2.RedriveParkedKeysRequest(group_name=group, parked_id=parked_id)
        return (await self._call(self._stubs.consumers.RedriveParkedKeys, request)).redriven_keys

    async def discard_parked_key(self, group: str, parked_id: str) -> int:
        """Drops the parked records of a key, whose newer records are delivered again; returns how many were dropped.

        Raises: ResourceNotFoundError.
        """
        request = consumer_service_pb2.DiscardParkedKeyRequest(group_name=group, parked_id=parked_id)
        return (await self._call(self._stubs.consumers.DiscardParkedKey, request)).discarded_records

    # Backups

    async def create_backup(self, name: str, *, timeout_s: float = BACKUP_TIMEOUT_S) -> BackupDetails:
        """Makes a backup of all that the broker holds, complete when this returns; names need not be unique.

        It is made also if this ends with DeadlineExceededError.

        Raises: ValidationError; BackupInUseError while another is being made; LimitExceededError.
        """
        request = backup_service_pb2.CreateBackupRequest(backup_name=name)
        response = await self._call(self._stubs.backups.CreateBackup, request, timeout_s)
        return to_backup_details(response.backup_details)

    async def describe_backup(self, backup_arn: str) -> BackupDescription:
        """Describes a backup and names the tables in it.

        Raises: ValidationError, BackupNotFoundError.
        """
        request = backup_service_pb2.DescribeBackupRequest(backup_arn=backup_arn)
        response = await self._call(self._stubs.backups.DescribeBackup, request)
        return to_backup_description(response.backup_description)

    async def list_backups(self) -> AsyncGenerator[BackupDetails, None]:
        """Gives all backups, the oldest first."""
        request = backup_service_pb2.ListBackupsRequest()
        while True:
            response = await self._call(self._stubs.backups.ListBackups, request)
            for backup in response.backup_summaries:
                yield to_backup_details(backup)
            if not response.last_evaluated_backup_arn:
                return
            request.exclusive_start_backup_arn = response.last_evaluated_backup_arn

    async def delete_backup(self, backup_arn: str) -> BackupDescription:
        """Removes a backup.

        Raises: ValidationError, BackupNotFoundError; BackupInUseError while it is being made or restored from.
        """
        request = backup_service_pb2.DeleteBackupRequest(backup_arn=backup_arn)
        response = await self._call(self._stubs.backups.DeleteBackup, request, BACKUP_TIMEOUT_S)
        return to_backup_description(response.backup_description)

    async def restore_table_from_backup(
        self, backup_arn: str, *, source_table: str, target_table: str, timeout_s: float = RESTORE_TIMEOUT_S
    ) -> TableDescription:
        """Makes a new table with the key and items of one in a backup, without a stream; whole when this returns.

        If this ends with an error, there is no such table.

        Raises: ValidationError; BackupNotFoundError; BackupInUseError; TableAlreadyExistsError.
        """
        request = backup_service_pb2.RestoreTableFromBackupRequest(
            backup_arn=backup_arn, source_table_name=source_table, target_table_name=target_table
        )
        response = await self._call(self._stubs.backups.RestoreTableFromBackup, request, timeout_s)
        return to_table_description(response.table_description)

    async def update_continuous_backups(
        self, table: str, *, enabled: bool = True, recovery_period_in_days: int | None = None
    ) -> PointInTimeRecovery:
        """Switches point-in-time recovery of a table on, for 1 to 35 days (None: 35), or off.

        Raises: ValidationError, ResourceNotFoundError.
        """
        specification = backup_service_pb2.PointInTimeRecoverySpecification(
            point_in_time_recovery_enabled=enabled, recovery_period_in_days=recovery_period_in_days
        )
        request = backup_service_pb2.UpdateContinuousBackupsRequest(
            table_name=table, point_in_time_recovery_specification=specification
        )
        response = await self._call(self._stubs.backups.UpdateContinuousBackups, request)
        return to_recovery(response.continuous_backups_description)

    async def describe_continuous_backups(self, table: str) -> PointInTimeRecovery:
        """Says to which times a table can be restored.

        Raises: ResourceNotFoundError.
        """
        request = backup_service_pb2.DescribeContinuousBackupsRequest(table_name=table)
        response = await self._call(self._stubs.backups.DescribeContinuousBackups, request)
        return to_recovery(response.continuous_backups_description)

    async def restore_table_to_point_in_time(
        self, source_table: str, target_table: str, *, at: datetime | None = None, timeout_s: float = RESTORE_TIMEOUT_S
    ) -> TableDescription:
        """Makes a new table as another one was at a time, None: as it is; whole when this returns.

        If this ends with an error, there is no such table. A time without a zone is the local time.

        Raises: ValidationError; ResourceNotFoundError; PointInTimeRecoveryUnavailableError; InvalidRestoreTimeError;
        TableAlreadyExistsError; LimitExceededError.
        """
        request = backup_service_pb2.RestoreTableToPointInTimeRequest(
            source_table_name=source_table,
            target_table_name=target_table,
            use_latest_restorable_time=at is None,
            restore_date_time=None if at is None else to_timestamp(at),
        )
        response = await self._call(self._stubs.backups.RestoreTableToPointInTime, request, timeout_s)
        return to_table_description(response.table_description)

    # Calls

    def _consumption(self, table: str, options: ConsumeOptions) -> AsyncConsumption:
        return AsyncConsumption(self._channel, table, options, self._random)

    async def _metered(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[_MeteredRequest, _MeteredResponse],
        request: _MeteredRequest,
        capacity: CapacityMeter | None,
    ) -> _MeteredResponse:
        """Calls as _call(); adds what was consumed to the meter, if there is one."""
        if capacity is None:
            return await self._call(method, request)
        request.return_consumed_capacity = item_service_pb2.RETURN_CONSUMED_CAPACITY_INDEXES
        response = await self._call(method, request)
        capacity.add(to_consumed_capacities(response))
        return response

    async def _call(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[_Request, _Response],
        request: _Request,
        timeout_s: float | None = None,
    ) -> _Response:
        """Calls with a deadline, the client's unless one is given; again while throttled."""
        backoff = self._throttled_backoff()
        for _ in range(_THROTTLED_ATTEMPTS_MAX - 1):
            try:
                return await self._call_once(method, request, timeout_s)
            except errors.ThrottlingError as error:
                await async_sleep(min(max(error.retry_after_s, backoff.next_s()), _THROTTLED_DELAY_MAX_S))
        return await self._call_once(method, request, timeout_s)

    async def _call_once(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[_Request, _Response],
        request: _Request,
        timeout_s: float | None,
    ) -> _Response:
        try:
            return await method(request, timeout=self._timeout_s if timeout_s is None else timeout_s)
        except grpc.RpcError as error:
            raise errors.from_rpc(error) from error

    def _throttled_backoff(self) -> Backoff:
        return Backoff(initial_s=_THROTTLED_DELAY_INITIAL_S, max_s=_THROTTLED_DELAY_MAX_S, random=self._random)
