"""The I/O rim: one broker as a link uses it. Every failure becomes a LinkError that says which side it was."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Final, Self

import grpc
import grpc.aio

from headrace import errors
from headrace._channel import UNARY_TIMEOUT_S, open_async_channel
from headrace._concurrency import AsyncDuplex, AsyncResponses
from headrace._stubs import AsyncStubs
from headrace.consumer import ConsumerSession
from headrace.replication.lifecycle import LinkError, Progress
from headrace.v1 import attribute_value_pb2, item_service_pb2, table_pb2, table_service_pb2
from headrace.v1 import consumer_service_pb2 as consumer_pb
from headrace.v1 import replication_service_pb2 as pb

# As large as the broker allows; a link needs them all.
_PAGE_REPLICAS: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotChunk:
    """Items of a snapshot, at least one."""

    items: Sequence[pb.VersionedItem]
    # Where to go on after them.
    next_start_key: bytes


class Snapshot:
    """A table as it was at one sequence number, read in the order of the stored keys."""

    def __init__(self, region: Region, responses: AsyncResponses[pb.ReadSnapshotResponse]) -> None:
        self._region = region
        self._responses = responses
        self._first: pb.ReadSnapshotResponse | None = None
        self.sequence_number = ""
        self.region_name = ""

    async def begin(self) -> None:
        """Waits for the first response, which says what this is a snapshot of."""
        with self._region.blamed():
            self._first = await self._responses.receive()
            if self._first is None:
                raise errors.UnavailableError("the broker ended the snapshot before it began")
        self.sequence_number = self._first.sequence_number
        self.region_name = self._first.region

    async def next_chunk(self) -> SnapshotChunk | None:
        """The next items; None at the end."""
        with self._region.blamed():
            while True:
                if self._first is not None:
                    response, self._first = self._first, None
                else:
                    following = await self._responses.receive()
                    if following is None:
                        return None
                    response = following
                if response.items:
                    return SnapshotChunk(items=response.items, next_start_key=response.next_start_key)


class Region:
    """One broker: the source or the target of a link."""

    def __init__(self, side: str, endpoint: str) -> None:
        self._side = side
        self.endpoint = endpoint
        self._channel = open_async_channel(endpoint)
        self._stubs = AsyncStubs(self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()

    @contextmanager
    def blamed(self) -> Iterator[None]:
        """Turns a failure of a call into a LinkError of this side."""
        try:
            yield
        except LinkError:
            # The other side's, from inside the block.
            raise
        except grpc.RpcError as error:
            raise LinkError(self._side, self.endpoint, errors.from_rpc(error)) from error
        except errors.HeadraceError as error:
            raise LinkError(self._side, self.endpoint, error) from error

    async def list_replicas(self) -> list[pb.ReplicaDescription]:
        """All replicas of which this is the source."""
        replicas: list[pb.ReplicaDescription] = []
        request = pb.ListReplicasRequest(page_size=_PAGE_REPLICAS)
        with self.blamed():
            while True:
                response = await self._stubs.replication.ListReplicas(request, timeout=UNARY_TIMEOUT_S)
                replicas += response.replicas
                if not response.next_page_token:
                    return replicas
                request.page_token = response.next_page_token

    async def describe_replica(self, name: str) -> pb.ReplicaDescription | None:
        """A replica of which this is the source, or None."""
        with self.blamed():
            try:
                request = pb.DescribeReplicaRequest(replica_name=name)
                response = await self._stubs.replication.DescribeReplica(request, timeout=UNARY_TIMEOUT_S)
            except grpc.RpcError as error:
                _raise_unless(errors.ResourceNotFoundError, error)
                return None
        return response.replica

    async def report_replica(self, name: str, progress: Progress) -> None:
        """Makes a replica's progress durable."""
        request = pb.ReportReplicaRequest(replica_name=name, progress=progress.to_message())
        with self.blamed():
            await self._stubs.replication.ReportReplica(request, timeout=UNARY_TIMEOUT_S)

    async def describe_table(self, name: str) -> table_pb2.TableDescription | None:
        """A table, or None."""
        with self.blamed():
            try:
                request = table_service_pb2.DescribeTableRequest(table_name=name)
                response = await self._stubs.tables.DescribeTable(request, timeout=UNARY_TIMEOUT_S)
            except grpc.RpcError as error:
                _raise_unless(errors.ResourceNotFoundError, error)
                return None
        return response.table

    async def ensure_table(self, request: table_service_pb2.CreateTableRequest) -> table_pb2.TableDescription:
        """The table of that name, made if there is none. One that was there may be of another kind."""
        there = await self.describe_table(request.table_name)
        if there is not None:
            return there
        with self.blamed():
            try:
                response = await self._stubs.tables.CreateTable(request, timeout=UNARY_TIMEOUT_S)
            except grpc.RpcError as error:
                _raise_unless(errors.ResourceInUseError, error)
            else:
                return response.table_description
        made_by_another = await self.describe_table(request.table_name)
        if made_by_another is None:
            cause = errors.UnavailableError(f"the table {request.table_name} comes and goes")
            raise LinkError(self._side, self.endpoint, cause)
        return made_by_another

    async def has_item(self, table_name: str, key: attribute_value_pb2.Item) -> bool:
        """Whether a table holds an item now."""
        request = item_service_pb2.GetItemRequest(table_name=table_name, key=key)
        with self.blamed():
            response = await self._stubs.items.GetItem(request, timeout=UNARY_TIMEOUT_S)
        return response.HasField("item")

    @asynccontextmanager
    async def snapshot(self, table_name: str, start_key: bytes = b"") -> AsyncIterator[Snapshot]:
        """Reads a table as it is now, after a start key."""
        request = pb.ReadSnapshotRequest(table_name=table_name, exclusive_start_key=start_key)
        responses: AsyncResponses[pb.ReadSnapshotResponse] = AsyncResponses(
            self._stubs.replication.ReadSnapshot(request)
        )
        try:
            snapshot = Snapshot(self, responses)
            await snapshot.begin()
            yield snapshot
        finally:
            await responses.close()

    @asynccontextmanager
    async def applying(self) -> AsyncIterator[AsyncDuplex[pb.ApplyChangesRequest, pb.ApplyChangesResponse]]:
        """Opens a call of ApplyChanges."""
        duplex: AsyncDuplex[pb.ApplyChangesRequest, pb.ApplyChangesResponse] = AsyncDuplex(
            self._stubs.replication.ApplyChanges
        )
        try:
            yield duplex
        finally:
            await duplex.close()

    @asynccontextmanager
    async def consuming(
        self, table_name: str, group_name: str, *, after: str, member_name: str
    ) -> AsyncIterator[ConsumerSession]:
        """Joins a consumer group on the table's stream; a new group begins after a sequence number."""
        with self.blamed():
            session = ConsumerSession(
                self._channel,
                table_name=table_name,
                group_name=group_name,
                starting_position="AFTER_SEQUENCE_NUMBER",
                starting_sequence_number=after,
                member_name=member_name,
                # One peer leads, the others stand by.
                assignment_mode="EXCLUSIVE",
            )
            async with session:
                yield session

    async def delete_group(self, group_name: str) -> None:
        """Forgets a consumer group and its checkpoints, if there is one."""
        request = consumer_pb.DeleteConsumerGroupRequest(group_name=group_name)
        with self.blamed():
            try:
                await self._stubs.consumers.DeleteConsumerGroup(request, timeout=UNARY_TIMEOUT_S)
            except grpc.RpcError as error:
                _raise_unless(errors.ResourceNotFoundError, error)


def _raise_unless(expected: type[errors.HeadraceError], error: grpc.RpcError) -> None:
    translated = errors.from_rpc(error)
    if not isinstance(translated, expected):
        raise translated from error
