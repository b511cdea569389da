"""A region in memory, served over real gRPC: what a replication peer relies on, and faults when a test wants them.

One shard per stream, last writer wins by version with tombstones, one holder per consumer group. Writes of the test
itself are plain calls (`put`, `delete`). Start keys are hashes of keys, the same in every region, unless a test says
otherwise.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Final

import grpc
import grpc.aio

from headrace.v1 import (
    attribute_value_pb2,
    consumer_service_pb2,
    consumer_service_pb2_grpc,
    item_service_pb2,
    item_service_pb2_grpc,
    record_pb2,
    replication_service_pb2,
    replication_service_pb2_grpc,
    table_pb2,
    table_service_pb2,
    table_service_pb2_grpc,
)
from tests.client.fake_broker import abort

WAIT_TIMEOUT_S: Final = 10.0
# Few, so that a copy takes many steps.
ITEMS_PER_RESPONSE: Final = 4
RECORDS_PER_RESPONSE: Final = 3
SHARD: Final = "shardId-00000001700000000000-0a1b2c3d"

Version = tuple[int, str]
Stored = tuple[attribute_value_pb2.Item, Version]
NEW_AND_OLD_IMAGES: Final = record_pb2.STREAM_VIEW_TYPE_NEW_AND_OLD_IMAGES


def seq(number: int) -> str:
    return f"{number:021d}"


def item(key: str, content: str = "") -> attribute_value_pb2.Item:
    """An item of a table whose key is `id`."""
    value = attribute_value_pb2.AttributeValue
    return attribute_value_pb2.Item(attributes={"id": value(s=key), "content": value(s=content)})


def start_key(key: str) -> bytes:
    return blake2b(key.encode(), digest_size=8).digest() + key.encode()


@dataclass(slots=True)
class FakeTable:
    """A table, its stream and all it ever recorded."""

    description: table_pb2.TableDescription
    items: dict[str, Stored] = field(default_factory=dict)
    tombstones: dict[str, Version] = field(default_factory=dict)
    # By the stream's ARN: a stream that was switched off stays.
    logs: dict[str, list[record_pb2.Record]] = field(default_factory=dict)

    @property
    def log(self) -> list[record_pb2.Record] | None:
        if not self.description.stream_specification.stream_enabled:
            return None
        return self.logs.setdefault(self.description.latest_stream_arn, [])

    def versions(self) -> dict[str, tuple[str, Version]]:
        """All it holds, to be compared with another table."""
        return {key: (stored.attributes["content"].s, version) for key, (stored, version) in self.items.items()}


@dataclass(slots=True)
class FakeGroup:
    """A consumer group."""

    stream_arn: str
    checkpoint: int
    epoch: int = 0
    members: list[asyncio.Event] = field(default_factory=list)
    # A call takes one response at a time, and records and checkpoints come from two tasks.
    writing: asyncio.Lock = field(default_factory=asyncio.Lock)


class FakeRegion(
    table_service_pb2_grpc.TableServiceServicer,
    item_service_pb2_grpc.ItemServiceServicer,
    replication_service_pb2_grpc.ReplicationServiceServicer,
    consumer_service_pb2_grpc.ConsumerServiceServicer,
):
    """One region; `events` tells what happened in it, in order."""

    def __init__(self, name: str, *, start_key_prefix: bytes) -> None:
        self.name = name
        self.endpoint = ""
        self.tables: dict[str, FakeTable] = {}
        self.groups: dict[str, FakeGroup] = {}
        self.replicas: dict[str, replication_service_pb2.ReplicaDescription] = {}
        self.events: list[tuple[str, Any]] = []
        # Records up to this number are gone.
        self.trimmed_to = 0
        # While it is set, every call fails as if nobody was there; the state stays.
        self.is_away = False
        # Awaited at the named moments, so a test can hold things up or break them.
        self.before: dict[str, Callable[[], Awaitable[None]]] = {}
        self._start_key_prefix = start_key_prefix
        self._sequence_number = 0
        self._hybrid_time = 1_000
        self._tables_made = 0
        self._changed = asyncio.Condition()

    async def until(self, condition: Callable[[], object]) -> None:
        """Waits for something to become true, looking again whenever something has changed."""
        try:
            async with asyncio.timeout(WAIT_TIMEOUT_S), self._changed:
                await self._changed.wait_for(condition)
        except TimeoutError:
            raise AssertionError(f"not within {WAIT_TIMEOUT_S} s; last: {self.events[-5:]}") from None

    async def note(self, event: str, what: Any = None) -> None:
        self.events.append((event, what))
        async with self._changed:
            self._changed.notify_all()

    def seen(self, event: str) -> list[Any]:
        return [what for name, what in self.events if name == event]

    # What a test does itself.

    def create_table(
        self, name: str, *, view_type: record_pb2.StreamViewType.ValueType | None = NEW_AND_OLD_IMAGES, key: str = "id"
    ) -> FakeTable:
        specification = table_pb2.StreamSpecification()
        if view_type is not None:
            specification = table_pb2.StreamSpecification(stream_enabled=True, stream_view_type=view_type)
        return self._make_table(
            table_service_pb2.CreateTableRequest(
                table_name=name,
                key_schema=[table_pb2.KeySchemaElement(attribute_name=key, key_type=table_pb2.KEY_TYPE_HASH)],
                attribute_definitions=[
                    table_pb2.AttributeDefinition(attribute_name=key, attribute_type=table_pb2.SCALAR_ATTRIBUTE_TYPE_S)
                ],
                stream_specification=specification,
            )
        )

    def renew_stream(self, name: str) -> None:
        """Switches the stream off and on again: a new one with a new label."""
        self._sequence_number += 1
        description = self.tables[name].description
        description.latest_stream_label = f"label-{self._sequence_number}"
        description.latest_stream_arn = f"{description.table_arn}/stream/label-{self._sequence_number}"

    def create_replica(
        self, name: str, table: str, target: FakeRegion, *, target_table: str | None = None
    ) -> replication_service_pb2.ReplicaDescription:
        self._sequence_number += 1
        replica = replication_service_pb2.ReplicaDescription(
            replica_name=name,
            source_table_name=table,
            target_endpoint=target.endpoint,
            target_table_name=target_table or table,
            progress=replication_service_pb2.ReplicaProgress(status=replication_service_pb2.REPLICA_STATUS_CREATING),
        )
        replica.create_time.FromMilliseconds(1_700_000_000_000 + self._sequence_number)
        self.replicas[name] = replica
        return replica

    def delete_replica(self, name: str) -> None:
        del self.replicas[name]
        self.groups.pop(f"replica:{name}", None)

    def progress(self, name: str = "copy") -> replication_service_pb2.ReplicaProgress:
        return self.replicas[name].progress

    async def put(self, table: str, key: str, content: str = "") -> None:
        self._hybrid_time += 1
        self._change(self.tables[table], key, item(key, content), (self._hybrid_time, self.name))
        await self.note("put", key)

    async def delete(self, table: str, key: str) -> None:
        self._hybrid_time += 1
        self._change(self.tables[table], key, None, (self._hybrid_time, self.name))
        await self.note("delete", key)

    @property
    def sequence_number(self) -> int:
        return self._sequence_number

    def _make_table(self, request: table_service_pb2.CreateTableRequest) -> FakeTable:
        self._tables_made += 1
        arn = f"arn:aws:dynamodb:{self.name}:000000000000:table/{request.table_name}"
        description = table_pb2.TableDescription(
            table_name=request.table_name,
            table_arn=arn,
            table_id=f"{self.name}-{self._tables_made}",
            table_status=table_pb2.TABLE_STATUS_ACTIVE,
            key_schema=request.key_schema,
            attribute_definitions=request.attribute_definitions,
            stream_specification=request.stream_specification,
        )
        if request.stream_specification.stream_enabled:
            description.latest_stream_label = f"label-{self._tables_made}"
            description.latest_stream_arn = f"{arn}/stream/label-{self._tables_made}"
        self.tables[request.table_name] = FakeTable(description)
        return self.tables[request.table_name]

    def _change(self, table: FakeTable, key: str, new: attribute_value_pb2.Item | None, version: Version) -> None:
        """Makes a change, and its record if it is one."""
        old = table.items.pop(key, None)
        if new is not None:
            table.items[key] = (new, version)
        if table.log is None or (old[0] if old else None) == new:
            return
        self._sequence_number += 1
        name = "REMOVE" if new is None else "MODIFY" if old else "INSERT"
        record = record_pb2.Record(
            event_name=record_pb2.EventName.Value(f"EVENT_NAME_{name}"),
            sequence_number=seq(self._sequence_number),
            keys=attribute_value_pb2.Item(attributes={"id": attribute_value_pb2.AttributeValue(s=key)}),
            new_image=new,
            old_image=old[0] if old else None,
            version=record_pb2.Version(hybrid_time=version[0], origin_region=version[1]),
        )
        record.approximate_creation_date_time.FromMilliseconds(1_700_000_000_000)
        table.log.append(record)

    # The services.

    async def DescribeTable(self, request: Any, context: Any) -> Any:
        await self._arrive("DescribeTable", context)
        if request.table_name not in self.tables:
            await abort(context, grpc.StatusCode.NOT_FOUND, "RESOURCE_NOT_FOUND", "no such table")
        return table_service_pb2.DescribeTableResponse(table=self.tables[request.table_name].description)

    async def CreateTable(self, request: Any, context: Any) -> Any:
        await self._arrive("CreateTable", context)
        if request.table_name in self.tables:
            await abort(context, grpc.StatusCode.FAILED_PRECONDITION, "RESOURCE_IN_USE", "the table is there")
        table = self._make_table(request)
        await self.note("table made", request.table_name)
        return table_service_pb2.CreateTableResponse(table_description=table.description)

    async def GetItem(self, request: Any, context: Any) -> Any:
        await self._arrive("GetItem", context)
        stored = self.tables[request.table_name].items.get(request.key.attributes["id"].s)
        return item_service_pb2.GetItemResponse(item=stored[0] if stored else None)

    async def ListReplicas(self, request: Any, context: Any) -> Any:
        del request
        await self._arrive("ListReplicas", context)
        return replication_service_pb2.ListReplicasResponse(replicas=self.replicas.values())

    async def DescribeReplica(self, request: Any, context: Any) -> Any:
        await self._arrive("DescribeReplica", context)
        if request.replica_name not in self.replicas:
            await abort(context, grpc.StatusCode.NOT_FOUND, "RESOURCE_NOT_FOUND", "no such replica")
        return replication_service_pb2.DescribeReplicaResponse(replica=self.replicas[request.replica_name])

    async def ReportReplica(self, request: Any, context: Any) -> Any:
        await self._arrive("ReportReplica", context)
        if request.replica_name not in self.replicas:
            await abort(context, grpc.StatusCode.NOT_FOUND, "RESOURCE_NOT_FOUND", "no such replica")
        self.replicas[request.replica_name].progress.CopyFrom(request.progress)
        await self.note("report", request.progress)
        return replication_service_pb2.ReportReplicaResponse()

    async def ReadSnapshot(self, request: Any, context: Any) -> None:  # type: ignore[override]
        await self._arrive("ReadSnapshot", context)
        if request.table_name not in self.tables:
            await abort(context, grpc.StatusCode.NOT_FOUND, "RESOURCE_NOT_FOUND", "no such table")
        await self.note("snapshot", request.exclusive_start_key)
        await context.write(
            replication_service_pb2.ReadSnapshotResponse(sequence_number=seq(self._sequence_number), region=self.name)
        )
        items = sorted(
            (self._start_key_prefix + start_key(key), *stored)
            for key, stored in self.tables[request.table_name].items.items()
        )
        items = [entry for entry in items if entry[0] > request.exclusive_start_key]
        for begin in range(0, len(items), ITEMS_PER_RESPONSE):
            await self._arrive("ReadSnapshot response", context)
            page = items[begin : begin + ITEMS_PER_RESPONSE]
            await context.write(
                replication_service_pb2.ReadSnapshotResponse(
                    items=[
                        replication_service_pb2.VersionedItem(
                            item=stored,
                            version=record_pb2.Version(hybrid_time=version[0], origin_region=version[1]),
                        )
                        for _, stored, version in page
                    ],
                    next_start_key=page[-1][0],
                )
            )

    async def ApplyChanges(self, requests: Any, context: Any) -> None:  # type: ignore[override]
        table_name = ""
        async for request in requests:
            await self._arrive("ApplyChanges", context)
            table_name = request.table_name or table_name
            if table_name not in self.tables:
                await abort(context, grpc.StatusCode.NOT_FOUND, "RESOURCE_NOT_FOUND", "no such table")
            table = self.tables[table_name]
            applied = [self._apply(table, versioned.item, versioned.version) for versioned in request.items]
            applied += [self._apply_record(table, record) for record in request.records]
            await self.note("apply", request)
            await self._arrive("ApplyChanges answer", context)
            await context.write(
                replication_service_pb2.ApplyChangesResponse(applied=sum(applied), skipped=len(applied) - sum(applied))
            )

    def _apply_record(self, table: FakeTable, record: record_pb2.Record) -> bool:
        if record.event_name != record_pb2.EVENT_NAME_REMOVE:
            return self._apply(table, record.new_image, record.version)
        return self._apply(table, None, record.version, record.keys.attributes["id"].s)

    def _apply(
        self, table: FakeTable, new: attribute_value_pb2.Item | None, written: record_pb2.Version, key: str = ""
    ) -> bool:
        version = (written.hybrid_time, written.origin_region)
        key = key or (new.attributes["id"].s if new is not None else "")
        known = [table.tombstones[key]] if key in table.tombstones else []
        known += [table.items[key][1]] if key in table.items else []
        if known and max(known) >= version:
            return False
        self._hybrid_time = max(self._hybrid_time, version[0])
        self._change(table, key, new, version)
        if new is None:
            table.tombstones[key] = version
        else:
            table.tombstones.pop(key, None)
        return True

    async def DeleteConsumerGroup(self, request: Any, context: Any) -> Any:
        await self._arrive("DeleteConsumerGroup", context)
        group = self.groups.get(request.group_name)
        if group is None:
            await abort(context, grpc.StatusCode.NOT_FOUND, "RESOURCE_NOT_FOUND", "no such group")
        elif group.members:
            await abort(context, grpc.StatusCode.FAILED_PRECONDITION, "RESOURCE_IN_USE", "the group has members")
        del self.groups[request.group_name]
        await self.note("group deleted", request.group_name)
        return consumer_service_pb2.DeleteConsumerGroupResponse()

    async def Consume(self, requests: Any, context: Any) -> None:  # type: ignore[override]
        del requests
        await self._arrive("Consume", context)
        start = (await context.read()).start
        table = self.tables[start.table_name]
        group = self.groups.get(start.group_name)
        if group is None:
            assert start.starting_position == consumer_service_pb2.STARTING_POSITION_AFTER_SEQUENCE_NUMBER
            arn = table.description.latest_stream_arn
            group = FakeGroup(stream_arn=arn, checkpoint=int(start.starting_sequence_number))
            self.groups[start.group_name] = group
        is_holder = asyncio.Event()
        group.members.append(is_holder)
        group.members[0].set()
        try:
            await context.write(
                consumer_service_pb2.ConsumeResponse(
                    started=consumer_service_pb2.ConsumeStarted(
                        stream_arn=group.stream_arn, region=self.name, standby=not is_holder.is_set()
                    )
                )
            )
            await self.note("joined", start.member_name)
            serving = asyncio.ensure_future(self._serve(table, group, is_holder, context))
            acking = asyncio.ensure_future(self._take_acks(group, context))
            try:
                await asyncio.wait({serving, acking}, return_when=asyncio.FIRST_COMPLETED)
                for task in (serving, acking):
                    if task.done():
                        task.result()
            finally:
                serving.cancel()
                acking.cancel()
                await asyncio.gather(serving, acking, return_exceptions=True)
        finally:
            group.members.remove(is_holder)
            if group.members:
                group.members[0].set()
            await self.note("left", start.member_name)

    async def _serve(self, table: FakeTable, group: FakeGroup, is_holder: asyncio.Event, context: Any) -> None:
        await is_holder.wait()
        group.epoch += 1
        await self._respond(group, context, assigned=consumer_service_pb2.ShardAssigned())
        position = group.checkpoint
        while True:
            if position < self.trimmed_to:
                metadata = {"lost_after": seq(position), "oldest": seq(self.trimmed_to + 1)}
                message = "the checkpoint is older than the oldest record"
                await abort(context, grpc.StatusCode.OUT_OF_RANGE, "TRIMMED_DATA_ACCESS", message, metadata=metadata)
            log = table.logs.get(group.stream_arn, [])
            records = [record for record in log if int(record.sequence_number) > position]
            records = records[:RECORDS_PER_RESPONSE]
            if records:
                position = int(records[-1].sequence_number)
                await self._arrive("records", context)
                await self._respond(group, context, sequence_number=seq(position), records=records)
                continue
            async with self._changed:
                await self._changed.wait()

    async def _take_acks(self, group: FakeGroup, context: Any) -> None:
        while (request := await context.read()) is not grpc.aio.EOF:
            await self._arrive("ack", context)
            assert request.ack.lease_epoch == group.epoch
            assert int(request.ack.sequence_number) >= group.checkpoint
            group.checkpoint = int(request.ack.sequence_number)
            await self.note("ack", group.checkpoint)
            await self._respond(
                group, context, sequence_number=seq(group.checkpoint), checkpointed=consumer_service_pb2.Checkpointed()
            )

    @staticmethod
    async def _respond(group: FakeGroup, context: Any, **fields: Any) -> None:
        async with group.writing:
            await context.write(consumer_service_pb2.ConsumeResponse(shard_id=SHARD, lease_epoch=group.epoch, **fields))

    async def _arrive(self, moment: str, context: Any) -> None:
        if moment in self.before:
            await self.before[moment]()
        if self.is_away:
            await abort(context, grpc.StatusCode.UNAVAILABLE, message="away")


@asynccontextmanager
async def serving(name: str, *, start_key_prefix: bytes = b"") -> AsyncIterator[FakeRegion]:
    """A region at a free port."""
    region = FakeRegion(name, start_key_prefix=start_key_prefix)  # type: ignore[abstract] # the rest is unimplemented
    server = grpc.aio.server()
    table_service_pb2_grpc.add_TableServiceServicer_to_server(region, server)
    item_service_pb2_grpc.add_ItemServiceServicer_to_server(region, server)
    replication_service_pb2_grpc.add_ReplicationServiceServicer_to_server(region, server)
    consumer_service_pb2_grpc.add_ConsumerServiceServicer_to_server(region, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    region.endpoint = f"127.0.0.1:{port}"
    try:
        yield region
    finally:
        await server.stop(None)
