"""ReplicationService: the registry and the snapshots of the source, the apply side of the target."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from broker.encoding.items import canonicalize
from broker.encoding.records import encode_version
from broker.encoding.varint import field_bytes
from broker.model.clock import Version
from broker.model.errors import HeadraceError, ValidationError
from broker.model.sequence import format_sequence_number, parse_sequence_number
from broker.model.tables import REGION_NAME
from broker.model.turns import TURN_BYTES
from broker.model.values import STORED_NESTING_LEVELS_MAX
from broker.replication.apply import ApplyChange
from broker.replication.registry import (
    ENDPOINT_LENGTH_MAX,
    ERROR_LENGTH_MAX,
    NAME_LENGTH_MAX,
    START_KEY_BYTES_MAX,
    Replica,
    ReplicaProgress,
    ReplicaStatus,
)
from broker.rpc.convert import text_of, timestamp
from broker.rpc.handlers import pipeline
from broker.streams.tail import PAGE_BYTES_MAX, PAGE_RECORDS_MAX
from broker.tables.validate import check_name, check_table_name, page_limit
from headrace.v1 import record_pb2
from headrace.v1 import replication_service_pb2 as pb

if TYPE_CHECKING:
    from broker.consumers.groups import ConsumerGroups
    from broker.replication.registry import Replicas
    from broker.rpc.handlers import Requests
    from broker.rpc.status import Context
    from broker.storage.commit import Committer, Operation
    from broker.storage.layout import StoredItem
    from broker.tables.catalog import Catalog, OpenTable
    from broker.tables.read import ItemReader

_STATUSES: Final = {pb.ReplicaStatus.Value(f"REPLICA_STATUS_{status}"): status for status in ReplicaStatus}
_STATUS_NUMBERS: Final = {status: number for number, status in _STATUSES.items()}
_FIELD_1: Final = b"\x0a"
_FIELD_2: Final = b"\x12"
# A snapshot shares the event loop with everything else: it lets others run after this many items.
_ITEMS_PER_STEP: Final = 500


class ReplicationService:
    """Implements headrace.v1.ReplicationService."""

    def __init__(
        self, catalog: Catalog, committer: Committer, reader: ItemReader, replicas: Replicas, groups: ConsumerGroups
    ) -> None:
        self._catalog = catalog
        self._committer = committer
        self._reader = reader
        self._replicas = replicas
        self._groups = groups

    async def CreateReplica(self, request: pb.CreateReplicaRequest) -> pb.CreateReplicaResponse:
        """Adds a replica."""
        check_name(request.replica_name, "replica_name", NAME_LENGTH_MAX)
        source_table_name = self._catalog.table_name(request.source_table_name, "source_table_name")
        target_table_name = text_of(request, "target_table_name") or source_table_name
        check_table_name(target_table_name, "target_table_name")
        _check_endpoint(request.target_endpoint)
        stream = self._catalog.enabled_stream(source_table_name)
        if not stream.view_type.has_new_image:
            raise ValidationError(
                f"The stream of {stream.table_name} holds {stream.view_type}; a replica needs NEW_IMAGE or "
                "NEW_AND_OLD_IMAGES",
                field="source_table_name",
            )
        replica = await self._replicas.create(
            Replica(
                name=request.replica_name,
                source_table_name=source_table_name,
                target_endpoint=request.target_endpoint,
                target_table_name=target_table_name,
                create_time_ms=0,
            )
        )
        return pb.CreateReplicaResponse(replica=_description(replica))

    async def DescribeReplica(self, request: pb.DescribeReplicaRequest) -> pb.DescribeReplicaResponse:
        """Describes a replica."""
        return pb.DescribeReplicaResponse(replica=_description(self._replicas.get(request.replica_name)))

    async def ListReplicas(self, request: pb.ListReplicasRequest) -> pb.ListReplicasResponse:
        """Lists replicas."""
        limit = page_limit(request.page_size or None, "page_size")
        replicas, more = self._replicas.documents.page(text_of(request, "page_token") or "", limit)
        return pb.ListReplicasResponse(
            replicas=[_description(replica) for replica in replicas], next_page_token=replicas[-1].name if more else ""
        )

    async def DeleteReplica(self, request: pb.DeleteReplicaRequest) -> pb.DeleteReplicaResponse:
        """Forgets a replica, and the consumer group its peer read as."""
        await self._replicas.delete(request.replica_name, self._groups.plan_forget)
        return pb.DeleteReplicaResponse()

    async def ReportReplica(self, request: pb.ReportReplicaRequest) -> pb.ReportReplicaResponse:
        """Keeps what a peer says of its progress."""
        await self._replicas.report(request.replica_name, _progress(request.progress))
        return pb.ReportReplicaResponse()

    async def ReadSnapshot(self, request: pb.ReadSnapshotRequest, context: Context) -> None:
        """Streams the items of a table."""
        snapshot = await self._reader.snapshot(
            self._catalog.open_table(request.table_name), request.exclusive_start_key
        )
        number = format_sequence_number(snapshot.sequence_number)
        await context.write(pb.ReadSnapshotResponse(sequence_number=number, region=self._catalog.region))
        items: list[bytes] = []
        size = 0
        last_place = b""
        for count, (place, stored) in enumerate(snapshot.items, start=1):
            item = _versioned_item(stored)
            if items and size + len(item) > PAGE_BYTES_MAX:
                await context.write(_snapshot_response(items, last_place))
                items, size = [], 0
            items.append(item)
            size += len(item)
            last_place = place
            if count % _ITEMS_PER_STEP == 0:
                await asyncio.sleep(0)
        if items:
            await context.write(_snapshot_response(items, last_place))

    async def ApplyChanges(self, requests: Requests, context: Context) -> None:
        """Applies changes made elsewhere, request after request."""
        table: OpenTable | None = None

        async def start(request: pb.ApplyChangesRequest) -> asyncio.Future[Any]:
            nonlocal table
            if request.table_name:
                table = self._catalog.open_table(request.table_name)
            if table is None:
                raise ValidationError("table_name is required in the first request", field="table_name")
            count = len(request.records) + len(request.items)
            if count > PAGE_RECORDS_MAX:
                raise ValidationError(
                    f"A request holds at most {PAGE_RECORDS_MAX} records and items",
                    field="records",
                    limit=PAGE_RECORDS_MAX,
                )
            operations: list[Operation] = []
            is_long = request.ByteSize() > TURN_BYTES
            for item in request.items:
                if is_long:
                    await self._reader.turns.take(item.ByteSize())
                operations.append(_apply_item(table, item))
            for record in request.records:
                if is_long:
                    await self._reader.turns.take(record.ByteSize())
                operations.append(_apply_record(table, record))
            return asyncio.ensure_future(_applied(await self._committer.submit_when_room(operations)))

        await pipeline(requests, context, start)


def _apply_item(table: OpenTable, versioned: pb.VersionedItem) -> ApplyChange:
    item = canonicalize(versioned.item, STORED_NESTING_LEVELS_MAX)
    return ApplyChange(table, table.keys.of_item(versioned.item), item, _version(versioned.version))


def _apply_record(table: OpenTable, record: record_pb2.Record) -> ApplyChange:
    version = _version(record.version)
    if record.event_name == record_pb2.EVENT_NAME_REMOVE:
        canonicalize(record.keys)
        return ApplyChange(table, table.keys.of_key(record.keys), None, version)
    if record.event_name == record_pb2.EVENT_NAME_UNSPECIFIED or not record.HasField("new_image"):
        raise ValidationError("A record needs an event_name and, unless it is a REMOVE, a new_image", field="records")
    item = canonicalize(record.new_image, STORED_NESTING_LEVELS_MAX)
    return ApplyChange(table, table.keys.of_item(record.new_image), item, version)


def _version(version: record_pb2.Version) -> Version:
    if not version.hybrid_time or REGION_NAME.fullmatch(version.origin_region) is None:
        raise ValidationError(
            f"A change needs a version with a hybrid_time and an origin_region that matches {REGION_NAME.pattern}",
            field="version",
        )
    return Version(version.hybrid_time, version.origin_region)


async def _applied(submitted: asyncio.Future[list[Any]]) -> pb.ApplyChangesResponse:
    results = await submitted
    for result in results:
        if isinstance(result, HeadraceError):
            raise result
    applied = sum(results)
    return pb.ApplyChangesResponse(applied=applied, skipped=len(results) - applied)


def _versioned_item(stored: StoredItem) -> bytes:
    """A VersionedItem as an element of `repeated VersionedItem items = 1`, of stored bytes."""
    item = field_bytes(_FIELD_1, stored.item.encoded)
    return field_bytes(_FIELD_1, item + field_bytes(_FIELD_2, encode_version(stored.version)))


def _snapshot_response(items: list[bytes], last_place: bytes) -> bytes:
    return b"".join(items) + pb.ReadSnapshotResponse(next_start_key=last_place).SerializeToString()


def _check_endpoint(endpoint: str) -> None:
    host, _, port = endpoint.rpartition(":")
    if not host or not port.isdecimal() or len(endpoint) > ENDPOINT_LENGTH_MAX:
        raise ValidationError(
            f"target_endpoint must be HOST:PORT, at most {ENDPOINT_LENGTH_MAX} characters",
            field="target_endpoint",
            limit=ENDPOINT_LENGTH_MAX,
        )


def _progress(progress: pb.ReplicaProgress) -> ReplicaProgress:
    status = _STATUSES.get(progress.status)
    if status is None:
        raise ValidationError("progress.status must be set", field="progress.status")
    if len(progress.bootstrap_start_key) > START_KEY_BYTES_MAX:
        raise ValidationError(
            f"progress.bootstrap_start_key must have at most {START_KEY_BYTES_MAX} bytes",
            field="progress.bootstrap_start_key",
            limit=START_KEY_BYTES_MAX,
        )
    for field in ("snapshot_sequence_number", "last_applied_sequence_number"):
        if getattr(progress, field):
            parse_sequence_number(getattr(progress, field), f"progress.{field}")
    return ReplicaProgress(
        status=status,
        target_region=progress.target_region[:NAME_LENGTH_MAX],
        snapshot_sequence_number=progress.snapshot_sequence_number,
        bootstrap_start_key=progress.bootstrap_start_key,
        items_copied=progress.items_copied,
        records_applied=progress.records_applied,
        last_applied_sequence_number=progress.last_applied_sequence_number,
        replication_lag_ms=progress.replication_lag_ms,
        last_error=progress.last_error[:ERROR_LENGTH_MAX],
    )


def _description(replica: Replica) -> pb.ReplicaDescription:
    progress = replica.progress
    return pb.ReplicaDescription(
        replica_name=replica.name,
        source_table_name=replica.source_table_name,
        target_endpoint=replica.target_endpoint,
        target_table_name=replica.target_table_name,
        create_time=timestamp(replica.create_time_ms),
        progress=pb.ReplicaProgress(
            status=_STATUS_NUMBERS[progress.status],
            target_region=progress.target_region,
            snapshot_sequence_number=progress.snapshot_sequence_number,
            bootstrap_start_key=progress.bootstrap_start_key,
            items_copied=progress.items_copied,
            records_applied=progress.records_applied,
            last_applied_sequence_number=progress.last_applied_sequence_number,
            replication_lag_ms=progress.replication_lag_ms,
            last_error=progress.last_error,
        ),
    )
