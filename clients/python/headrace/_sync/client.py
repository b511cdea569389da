# Generated from headrace/_async/client.py by clients/python/unasync.py; never edited.

"""Client: every call of the broker, in plain Python values."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterable, Mapping
from contextlib import closing
from datetime import datetime
from random import Random
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeVar

import grpc

from headrace import errors
from headrace._backoff import Backoff, Reconnect
from headrace._channel import BACKUP_TIMEOUT_S, RESTORE_TIMEOUT_S, UNARY_TIMEOUT_S, open_channel
from headrace._concurrency import Responses, sleep
from headrace._messages import (
    enum_value,
    to_backup_description,
    to_backup_details,
    to_consumer_group,
    to_create_table_request,
    to_delete_request,
    to_explanation,
    to_parked_key,
    to_put_request,
    to_shard,
    to_stream,
    to_stream_description,
    to_stream_settings,
    to_stream_specification,
    to_table_description,
    to_timestamp,
    to_update_request,
)
from headrace._models import (
    BackupDescription,
    BackupDetails,
    ConsumeOptions,
    ConsumerGroup,
    ConsumerGroupExplanation,
    Delete,
    Item,
    KeyType,
    Operation,
    ParkedKey,
    Put,
    Shard,
    ShardIteratorType,
    Stream,
    StreamDescription,
    StreamSettings,
    TableDescription,
    Update,
    Version,
    ViewType,
    WriteResult,
)
from headrace._progress import Progress
from headrace._records import ChangeRecord, RecordBatch, to_record_batch
from headrace._stubs import Stubs
from headrace._sync.consume import ConsumerBatch, Consumption
from headrace._sync.write import write_items
from headrace._values import from_item, to_item
from headrace.v1 import (
    backup_service_pb2,
    consumer_service_pb2,
    item_service_pb2,
    replication_service_pb2,
    stream_service_pb2,
    table_service_pb2,
)

_LOGGER: Final = logging.getLogger(__name__)

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")

# A throttled call has done nothing and is sent again after the delay that the broker names, so many times in all.
_THROTTLED_ATTEMPTS_MAX: Final = 8
_THROTTLED_DELAY_INITIAL_S: Final = 0.02
_THROTTLED_DELAY_MAX_S: Final = 5.0


class Client:
    """A client of one broker, for threads. Safe to share between threads; close it when done.

    Calls raise a HeadraceError; reads are tried again when the broker is away for a moment, and every call when it is
    throttled. A write that fails with UnavailableError or DeadlineExceededError may or may not have happened.

    Items are dicts of str, int, Decimal, float, bytes, bool, None, set, list and dict. Numbers come back as int when
    they are whole and as Decimal otherwise.
    """

    def __init__(
        self, endpoint: str | None = None, *, timeout_s: float = UNARY_TIMEOUT_S, random: Random | None = None
    ) -> None:
        """Connects to `endpoint`, HOST:PORT, on first use; by default to HEADRACE_ENDPOINT, else to 127.0.0.1:7420.

        `timeout_s` is the deadline of each call that is answered at once. `random` spreads out retries.
        """
        self._channel = open_channel(endpoint)
        self._stubs = Stubs(self._channel)
        self._timeout_s = timeout_s
        self._random = random or Random()  # noqa: S311 - spreads retries, guards nothing

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends all calls and closes the connection."""
        self._channel.close()

    # Tables

    def create_table(
        self,
        table: str,
        *,
        partition_key: tuple[str, KeyType] = ("id", "S"),
        sort_key: tuple[str, KeyType] | None = None,
        stream: ViewType | None = None,
        stream_settings: StreamSettings | None = None,
    ) -> TableDescription:
        """Creates a table, ready when this returns. `stream` says which images its stream records; None: no stream.

        Raises: ValidationError; ResourceInUseError if the table exists.
        """
        request = to_create_table_request(table, partition_key, sort_key, stream, stream_settings)
        response = self._call(self._stubs.tables.CreateTable, request)
        return to_table_description(response.table_description)

    def describe_table(self, table: str) -> TableDescription:
        """Describes a table.

        Raises: ResourceNotFoundError.
        """
        request = table_service_pb2.DescribeTableRequest(table_name=table)
        response = self._call(self._stubs.tables.DescribeTable, request)
        return to_table_description(response.table)

    def list_tables(self) -> Generator[str, None, None]:
        """Gives the names of all tables, in the order of their UTF-8 bytes."""
        request = table_service_pb2.ListTablesRequest()
        while True:
            response = self._call(self._stubs.tables.ListTables, request)
            yield from response.table_names
            if not response.last_evaluated_table_name:
                return
            request.exclusive_start_table_name = response.last_evaluated_table_name

    def update_table(self, table: str, *, stream: ViewType | None) -> TableDescription:
        """Enables a new stream that records these images, or disables the stream (None).

        Raises: ValidationError, ResourceNotFoundError.
        """
        request = table_service_pb2.UpdateTableRequest(
            table_name=table, stream_specification=to_stream_specification(stream)
        )
        response = self._call(self._stubs.tables.UpdateTable, request)
        return to_table_description(response.table_description)

    def update_stream_settings(self, table: str, settings: StreamSettings) -> TableDescription:
        """Changes how long a table's streams keep records, or their number of shards; what is None stays as it is.

        Raises: ValidationError, ResourceNotFoundError.
        """
        request = table_service_pb2.UpdateTableRequest(table_name=table, stream_settings=to_stream_settings(settings))
        response = self._call(self._stubs.tables.UpdateTable, request)
        return to_table_description(response.table_description)

    def delete_table(self, table: str) -> TableDescription:
        """Removes a table and its items; its stream stays readable until its records age out.

        Raises: ResourceNotFoundError.
        """
        request = table_service_pb2.DeleteTableRequest(table_name=table)
        response = self._call(self._stubs.tables.DeleteTable, request)
        return to_table_description(response.table_description)

    # Items

    def put_item(
        self,
        table: str,
        item: Mapping[str, Any],
        *,
        condition: str | None = None,
        names: Mapping[str, str] | None = None,
        values: Mapping[str, Any] | None = None,
    ) -> None:
        """Creates an item, or replaces the whole item with the same key; on disk when this returns.

        Raises: ValidationError, ResourceNotFoundError, ConditionalCheckFailedError, ThrottlingError.
        """
        self._call(self._stubs.items.PutItem, to_put_request(table, Put(item, condition, names, values)))

    def get_item(self, table: str, key: Mapping[str, Any]) -> Item | None:
        """The item with this key, None if there is none. Sees every write that was acknowledged before.

        Raises: ValidationError, ResourceNotFoundError.
        """
        request = item_service_pb2.GetItemRequest(table_name=table, key=to_item(key))
        response = self._call(self._stubs.items.GetItem, request)
        return from_item(response.item) if response.HasField("item") else None

    def update_item(
        self,
        table: str,
        key: Mapping[str, Any],
        *,
        update: str,
        condition: str | None = None,
        names: Mapping[str, str] | None = None,
        values: Mapping[str, Any] | None = None,
    ) -> None:
        """Changes attributes of an item, for example by "SET seen = :now REMOVE draft"; creates it if it is missing.

        Raises: ValidationError, ResourceNotFoundError, ConditionalCheckFailedError, ThrottlingError.
        """
        operation = Update(key, update, condition, names, values)
        self._call(self._stubs.items.UpdateItem, to_update_request(table, operation))

    def delete_item(
        self,
        table: str,
        key: Mapping[str, Any],
        *,
        condition: str | None = None,
        names: Mapping[str, str] | None = None,
        values: Mapping[str, Any] | None = None,
    ) -> None:
        """Removes an item; succeeds if there is none.

        Raises: ValidationError, ResourceNotFoundError, ConditionalCheckFailedError, ThrottlingError.
        """
        operation = Delete(key, condition, names, values)
        self._call(self._stubs.items.DeleteItem, to_delete_request(table, operation))

    def batch_write_item(
        self, table: str, *, puts: Iterable[Mapping[str, Any]] = (), deletes: Iterable[Mapping[str, Any]] = ()
    ) -> None:
        """Puts items and deletes keys, at most 25 in all, no two with the same key: if one is invalid, none is written.

        What the broker is too busy to write is sent again.

        Raises: ValidationError, ResourceNotFoundError; ThrottlingError if something is unwritten in the end.
        """
        request = item_service_pb2.BatchWriteItemRequest()
        for item in puts:
            request.operations.add(put=to_put_request(table, Put(item)))
        for key in deletes:
            request.operations.add(delete=to_delete_request(table, Delete(key)))
        backoff = self._throttled_backoff()
        for _ in range(_THROTTLED_ATTEMPTS_MAX):
            response = self._call(self._stubs.items.BatchWriteItem, request)
            if not response.unprocessed_operations:
                return
            request = item_service_pb2.BatchWriteItemRequest(operations=response.unprocessed_operations)
            sleep(backoff.next_s())
        raise errors.ThrottlingError(f"{len(request.operations)} operations are still not written: the broker is busy")

    def write_items(
        self,
        table: str,
        operations: Iterable[Operation],
        *,
        batch_size: int = 100,
        max_batches_in_flight: int = 16,
    ) -> Generator[WriteResult, None, None]:
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

    def snapshot(self, table: str) -> Generator[tuple[Item, Version], None, None]:
        """Gives all items of a table as they were at one moment, with the version of the write that made each.

        Raises: ResourceNotFoundError, UnavailableError.
        """
        request = replication_service_pb2.ReadSnapshotRequest(table_name=table)
        responses: Responses[replication_service_pb2.ReadSnapshotResponse] = Responses(
            self._stubs.replication.ReadSnapshot(request)
        )
        try:
            while (response := responses.receive()) is not None:
                for versioned in response.items:
                    version = Version(versioned.version.hybrid_time, versioned.version.origin_region)
                    yield from_item(versioned.item), version
        finally:
            responses.close()

    # Streams

    def list_streams(self, table: str | None = None) -> Generator[Stream, None, None]:
        """Gives all streams, or those of one table, by ARN; disabled ones too, while they are readable."""
        request = stream_service_pb2.ListStreamsRequest(table_name=table or "")
        while True:
            response = self._call(self._stubs.streams.ListStreams, request)
            for stream in response.streams:
                yield to_stream(stream)
            if not response.last_evaluated_stream_arn:
                return
            request.exclusive_start_stream_arn = response.last_evaluated_stream_arn

    def describe_stream(self, stream_arn: str) -> StreamDescription:
        """Describes a stream and all its shards.

        Raises: ValidationError, ResourceNotFoundError.
        """
        request = stream_service_pb2.DescribeStreamRequest(stream_arn=stream_arn)
        shards: list[stream_service_pb2.Shard] = []
        while True:
            response = self._call(self._stubs.streams.DescribeStream, request)
            page = response.stream_description
            shards.extend(page.shards)
            if not page.last_evaluated_shard_id:
                return to_stream_description(page, shards)
            request.exclusive_start_shard_id = page.last_evaluated_shard_id

    def get_shard_iterator(
        self,
        stream_arn: str,
        shard_id: str = "",
        *,
        type: ShardIteratorType,  # noqa: A002 - the word of the API
        sequence_number: str | None = None,
        timestamp: datetime | None = None,
    ) -> str:
        """A position to read from, in a shard or, without one, in the whole stream; valid for 15 minutes.

        Raises: ValidationError, ResourceNotFoundError, TrimmedDataAccessError.
        """
        request = stream_service_pb2.GetShardIteratorRequest(
            stream_arn=stream_arn,
            shard_id=shard_id,
            shard_iterator_type=enum_value(stream_service_pb2.ShardIteratorType, type, "type"),
            sequence_number=sequence_number or "",
            timestamp=None if timestamp is None else to_timestamp(timestamp),
        )
        response = self._call(self._stubs.streams.GetShardIterator, request)
        return response.shard_iterator

    def get_records(
        self, shard_iterator: str, *, limit: int | None = None, follow: bool = False
    ) -> Generator[RecordBatch, None, None]:
        """Reads a shard, or a whole stream, on from an iterator, in batches of at most `limit` records of one shard.

        The first batch comes at once, even without records. At the tip this ends or, with `follow`, waits for more and
        gives a batch without records every 15 seconds. At the end of a closed shard there is a batch with `shard_end`
        set; with the last one this ends.

        Raises: ExpiredIteratorError, TrimmedDataAccessError, ResourceNotFoundError; UnavailableError: read on from the
        last batch's `next_shard_iterator`.
        """
        request = stream_service_pb2.GetRecordsRequest(shard_iterator=shard_iterator, limit=limit, follow=follow)
        with closing(self._read(request)) as batches:
            yield from batches

    def tail(
        self, table: str, *, start: Literal["LATEST", "TRIM_HORIZON"] | datetime = "LATEST", follow: bool = True
    ) -> Generator[RecordBatch, None, None]:
        """Reads the newest stream of a table, from now on, from a time, or from the oldest record held.

        Gives batches with records, each of one shard; the broker goes from closed shards to those that follow, so the
        records of each key come in order. When the broker goes away for a while, reads on exactly where it was. Without
        `follow` it ends at the tip. Nothing is kept in the broker: to go on after a restart of your own, use consume.

        Raises: ResourceNotFoundError if the table or its stream is missing; TrimmedDataAccessError when records are
        lost; ExpiredIteratorError if nothing was heard for 15 minutes before this had once read all there was.
        """
        description = self.describe_table(table)
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
                with closing(self._read(request)) as batches:
                    for batch in batches:
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
            sleep(delay_s)

    def _read(self, request: stream_service_pb2.GetRecordsRequest) -> Generator[RecordBatch, None, None]:
        responses: Responses[stream_service_pb2.GetRecordsResponse] = Responses(self._stubs.streams.GetRecords(request))
        try:
            while (response := responses.receive()) is not None:
                yield to_record_batch(response)
        finally:
            responses.close()

    def split_shard(
        self, stream_arn: str, shard_id: str, *, starting_hash_key: int | None = None
    ) -> tuple[Shard, Shard]:
        """Closes an open shard and opens two in its place; the second begins at the hash, or in the middle.

        Raises: ValidationError, ResourceNotFoundError; ResourceInUseError if it is closed; LimitExceededError.
        """
        request = stream_service_pb2.SplitShardRequest(
            stream_arn=stream_arn, shard_id=shard_id, new_starting_hash_key=starting_hash_key
        )
        response = self._call(self._stubs.streams.SplitShard, request)
        first, second = response.shards
        return to_shard(first), to_shard(second)

    def merge_shards(self, stream_arn: str, shard_id: str, adjacent_shard_id: str) -> Shard:
        """Closes two open shards whose hash ranges adjoin, and opens one in their place.

        Raises: ValidationError, ResourceNotFoundError; ResourceInUseError if one of them is closed.
        """
        request = stream_service_pb2.MergeShardsRequest(
            stream_arn=stream_arn, shard_id=shard_id, adjacent_shard_id=adjacent_shard_id
        )
        response = self._call(self._stubs.streams.MergeShards, request)
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
    ) -> Generator[ConsumerBatch, None, None]:
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

    def describe_consumer_group(self, group: str) -> ConsumerGroup:
        """Describes a consumer group: members, checkpoints, lag.

        Raises: ResourceNotFoundError.
        """
        request = consumer_service_pb2.DescribeConsumerGroupRequest(group_name=group)
        response = self._call(self._stubs.consumers.DescribeConsumerGroup, request)
        return to_consumer_group(response.consumer_group)

    def list_consumer_groups(self) -> Generator[ConsumerGroup, None, None]:
        """Gives all consumer groups, by name."""
        request = consumer_service_pb2.ListConsumerGroupsRequest()
        while True:
            response = self._call(self._stubs.consumers.ListConsumerGroups, request)
            for group in response.consumer_groups:
                yield to_consumer_group(group)
            if not response.next_page_token:
                return
            request.page_token = response.next_page_token

    def delete_consumer_group(self, group: str) -> None:
        """Forgets a consumer group and its checkpoints.

        Raises: ResourceNotFoundError; ResourceInUseError while it has members.
        """
        request = consumer_service_pb2.DeleteConsumerGroupRequest(group_name=group)
        self._call(self._stubs.consumers.DeleteConsumerGroup, request)

    def explain_consumer_group(self, group: str) -> ConsumerGroupExplanation:
        """Says why a consumer group does or does not move, shard by shard.

        Raises: ResourceNotFoundError.
        """
        request = consumer_service_pb2.ExplainConsumerGroupRequest(group_name=group)
        return to_explanation(self._call(self._stubs.consumers.ExplainConsumerGroup, request))

    def list_parked_keys(self, group: str) -> Generator[ParkedKey, None, None]:
        """Gives the keys a consumer group has set aside, the oldest first.

        Raises: ResourceNotFoundError.
        """
        request = consumer_service_pb2.ListParkedKeysRequest(group_name=group)
        while True:
            response = self._call(self._stubs.consumers.ListParkedKeys, request)
            for parked in response.parked_keys:
                yield to_parked_key(parked)
            if not response.next_page_token:
                return
            request.page_token = response.next_page_token

    def get_parked_records(self, group: str, parked_id: str) -> Generator[ChangeRecord, None, None]:
        """Gives the parked records of one key, in order, the one that failed first.

        Raises: ResourceNotFoundError.
        """
        request = consumer_service_pb2.GetParkedRecordsRequest(group_name=group, parked_id=parked_id)
        while True:
            response = self._call(self._stubs.consumers.GetParkedRecords, request)
            for record in response.records:
                yield ChangeRecord(record.SerializeToString())
            if not response.last_evaluated_sequence_number:
                return
            request.exclusive_start_sequence_number = response.last_evaluated_sequence_number

    def redrive_parked_keys(self, group: str, parked_id: str | None = None) -> int:
        """Has a parked key, or all, delivered to the group again, in order; returns how many were not before.

        Raises: ResourceNotFoundError.
        """
        request = consumer_service_pb2.RedriveParkedKeysRequest(group_name=group, parked_id=parked_id or "")
        return (self._call(self._stubs.consumers.RedriveParkedKeys, request)).redriven_keys

    def discard_parked_key(self, group: str, parked_id: str) -> int:
        """Drops the parked records of a key, whose newer records are delivered again; returns how many were dropped.

        Raises: ResourceNotFoundError.
        """
        request = consumer_service_pb2.DiscardParkedKeyRequest(group_name=group, parked_id=parked_id)
        return (self._call(self._stubs.consumers.DiscardParkedKey, request)).discarded_records

    # Backups

    def create_backup(self, name: str, *, timeout_s: float = BACKUP_TIMEOUT_S) -> BackupDetails:
        """Makes a backup of all that the broker holds, complete when this returns; names need not be unique.

        It is made also if this ends with DeadlineExceededError.

        Raises: ValidationError; BackupInUseError while another is being made; LimitExceededError.
        """
        request = backup_service_pb2.CreateBackupRequest(backup_name=name)
        response = self._call(self._stubs.backups.CreateBackup, request, timeout_s)
        return to_backup_details(response.backup_details)

    def describe_backup(self, backup_arn: str) -> BackupDescription:
        """Describes a backup and names the tables in it.

        Raises: ValidationError, BackupNotFoundError.
        """
        request = backup_service_pb2.DescribeBackupRequest(backup_arn=backup_arn)
        response = self._call(self._stubs.backups.DescribeBackup, request)
        return to_backup_description(response.backup_description)

    def list_backups(self) -> Generator[BackupDetails, None, None]:
        """Gives all backups, the oldest first."""
        request = backup_service_pb2.ListBackupsRequest()
        while True:
            response = self._call(self._stubs.backups.ListBackups, request)
            for backup in response.backup_summaries:
                yield to_backup_details(backup)
            if not response.last_evaluated_backup_arn:
                return
            request.exclusive_start_backup_arn = response.last_evaluated_backup_arn

    def delete_backup(self, backup_arn: str) -> BackupDescription:
        """Removes a backup.

        Raises: ValidationError, BackupNotFoundError; BackupInUseError while it is being made or restored from.
        """
        request = backup_service_pb2.DeleteBackupRequest(backup_arn=backup_arn)
        response = self._call(self._stubs.backups.DeleteBackup, request, BACKUP_TIMEOUT_S)
        return to_backup_description(response.backup_description)

    def restore_table_from_backup(
        self, backup_arn: str, *, source_table: str, target_table: str, timeout_s: float = RESTORE_TIMEOUT_S
    ) -> TableDescription:
        """Makes a new table with the key and items of one in a backup, without a stream; whole when this returns.

        If this ends with an error, there is no such table.

        Raises: ValidationError; BackupNotFoundError; BackupInUseError; TableAlreadyExistsError.
        """
        request = backup_service_pb2.RestoreTableFromBackupRequest(
            backup_arn=backup_arn, source_table_name=source_table, target_table_name=target_table
        )
        response = self._call(self._stubs.backups.RestoreTableFromBackup, request, timeout_s)
        return to_table_description(response.table_description)

    # Calls

    def _consumption(self, table: str, options: ConsumeOptions) -> Consumption:
        return Consumption(self._channel, table, options, self._random)

    def _call(
        self,
        method: grpc.UnaryUnaryMultiCallable[_Request, _Response],
        request: _Request,
        timeout_s: float | None = None,
    ) -> _Response:
        """Calls with a deadline, the client's unless one is given; again while throttled."""
        backoff = self._throttled_backoff()
        for _ in range(_THROTTLED_ATTEMPTS_MAX - 1):
            try:
                return self._call_once(method, request, timeout_s)
            except errors.ThrottlingError as error:
                sleep(min(max(error.retry_after_s, backoff.next_s()), _THROTTLED_DELAY_MAX_S))
        return self._call_once(method, request, timeout_s)

    def _call_once(
        self,
        method: grpc.UnaryUnaryMultiCallable[_Request, _Response],
        request: _Request,
        timeout_s: float | None,
    ) -> _Response:
        try:
            return method(request, timeout=self._timeout_s if timeout_s is None else timeout_s)
        except grpc.RpcError as error:
            raise errors.from_rpc(error) from error

    def _throttled_backoff(self) -> Backoff:
        return Backoff(initial_s=_THROTTLED_DELAY_INITIAL_S, max_s=_THROTTLED_DELAY_MAX_S, random=self._random)
