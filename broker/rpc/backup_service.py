"""BackupService: requests to the backups of the node."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from broker.backups.folder import BackupStatus
from broker.backups.rewind import RECOVERY_PERIOD_DAYS_MAX
from broker.model.errors import ValidationError
from broker.model.sequence import format_sequence_number
from broker.model.tables import table_arn
from broker.rpc import convert
from broker.tables.validate import INVALID, check_range, page_limit
from headrace.v1 import backup_service_pb2 as pb
from headrace.v1.table_service_pb2 import TIME_TO_LIVE_STATUS_ENABLED, TimeToLiveDescription

if TYPE_CHECKING:
    from broker.backups.folder import Backup
    from broker.backups.registry import Backups, SourceTable
    from broker.tables.catalog import Catalog, OpenTable

_STATUSES: Final = {status: pb.BackupStatus.Value(f"BACKUP_STATUS_{status}") for status in BackupStatus}


class BackupService:
    """Implements headrace.v1.BackupService."""

    def __init__(self, backups: Backups, catalog: Catalog) -> None:
        self._backups = backups
        self._catalog = catalog

    async def CreateBackup(self, request: pb.CreateBackupRequest) -> pb.CreateBackupResponse:
        """Makes a backup."""
        return pb.CreateBackupResponse(backup_details=_details(await self._backups.create(request.backup_name)))

    async def DescribeBackup(self, request: pb.DescribeBackupRequest) -> pb.DescribeBackupResponse:
        """Describes a backup."""
        description = await self._description(self._backups.describe(request.backup_arn), request.source_table_name)
        return pb.DescribeBackupResponse(backup_description=description)

    async def ListBackups(self, request: pb.ListBackupsRequest) -> pb.ListBackupsResponse:
        """Lists backups."""
        limit = page_limit(request.limit if request.HasField("limit") else None)
        backups, more = self._backups.page(convert.text_of(request, "exclusive_start_backup_arn"), limit)
        return pb.ListBackupsResponse(
            backup_summaries=[_details(backup) for backup in backups],
            last_evaluated_backup_arn=backups[-1].arn if more else "",
        )

    async def DeleteBackup(self, request: pb.DeleteBackupRequest) -> pb.DeleteBackupResponse:
        """Removes a backup."""
        backup = self._backups.describe(request.backup_arn)
        description = await self._description(backup, request.source_table_name)
        deleted = await self._backups.delete(request.backup_arn)
        description.backup_details.CopyFrom(_details(deleted))
        return pb.DeleteBackupResponse(backup_description=description)

    async def RestoreTableFromBackup(
        self, request: pb.RestoreTableFromBackupRequest
    ) -> pb.RestoreTableFromBackupResponse:
        """Makes a table of one in a backup."""
        table = await self._backups.restore_table(
            request.backup_arn, request.source_table_name, request.target_table_name, convert.restore_overrides(request)
        )
        return pb.RestoreTableFromBackupResponse(table_description=convert.table_description(table, self._catalog))

    async def UpdateContinuousBackups(
        self, request: pb.UpdateContinuousBackupsRequest
    ) -> pb.UpdateContinuousBackupsResponse:
        """Switches point-in-time recovery on or off."""
        period_days = _recovery_period(request)
        await self._catalog.update_recovery(request.table_name, period_days)
        return pb.UpdateContinuousBackupsResponse(
            continuous_backups_description=self._continuous(self._catalog.open_table(request.table_name))
        )

    async def DescribeContinuousBackups(
        self, request: pb.DescribeContinuousBackupsRequest
    ) -> pb.DescribeContinuousBackupsResponse:
        """Says to which times a table can be restored."""
        return pb.DescribeContinuousBackupsResponse(
            continuous_backups_description=self._continuous(self._catalog.open_table(request.table_name))
        )

    async def RestoreTableToPointInTime(
        self, request: pb.RestoreTableToPointInTimeRequest
    ) -> pb.RestoreTableToPointInTimeResponse:
        """Makes a table as another one was at a time."""
        if bool(request.source_table_arn) is bool(request.source_table_name):
            raise ValidationError(
                f"{INVALID}Exactly one of SourceTableArn and SourceTableName must be specified",
                field="source_table_name",
            )
        if request.use_latest_restorable_time is request.HasField("restore_date_time"):
            raise ValidationError(
                f"{INVALID}Exactly one of RestoreDateTime and UseLatestRestorableTime must be specified",
                field="restore_date_time",
            )
        table = await self._backups.restore_to_point_in_time(
            request.source_table_arn or request.source_table_name,
            request.target_table_name,
            None if request.use_latest_restorable_time else convert.millis(request.restore_date_time),
            convert.restore_overrides(request),
        )
        return pb.RestoreTableToPointInTimeResponse(table_description=convert.table_description(table, self._catalog))

    def _continuous(self, table: OpenTable) -> pb.ContinuousBackupsDescription:
        reach, period_days = self._backups.recovery_window(table), table.definition.recovery_period_days
        description = pb.PointInTimeRecoveryDescription(
            point_in_time_recovery_status=pb.CONTINUOUS_BACKUPS_STATUS_DISABLED
        )
        if reach is not None and period_days is not None:
            description = pb.PointInTimeRecoveryDescription(
                point_in_time_recovery_status=pb.CONTINUOUS_BACKUPS_STATUS_ENABLED,
                recovery_period_in_days=period_days,
                earliest_restorable_date_time=convert.timestamp(reach.earliest_ms),
                latest_restorable_date_time=convert.timestamp(reach.latest_ms),
            )
        return pb.ContinuousBackupsDescription(
            continuous_backups_status=pb.CONTINUOUS_BACKUPS_STATUS_ENABLED,
            point_in_time_recovery_description=description,
        )

    async def _description(self, backup: Backup, table_name: str) -> pb.BackupDescription:
        description = pb.BackupDescription(backup_details=_details(backup), table_names=backup.table_names)
        if table_name:
            source = await self._backups.source_table(backup, table_name)
            description.source_table_details.CopyFrom(_source_details(source, self._catalog.region))
            description.source_table_feature_details.CopyFrom(_source_features(source, self._catalog.region))
        return description


def _recovery_period(request: pb.UpdateContinuousBackupsRequest) -> int | None:
    """For how many days recovery shall be on; None: off. Raises ValidationError."""
    field = "point_in_time_recovery_specification"
    if not request.HasField("point_in_time_recovery_specification"):
        raise ValidationError(f"{INVALID}PointInTimeRecoverySpecification must be specified", field=field)
    asked = request.point_in_time_recovery_specification
    has_period = asked.HasField("recovery_period_in_days")
    if not asked.point_in_time_recovery_enabled:
        if has_period:
            raise ValidationError(
                f"{INVALID}RecoveryPeriodInDays can only be specified when PointInTimeRecoveryEnabled is true",
                field=f"{field}.recovery_period_in_days",
            )
        return None
    if has_period:
        check_range(asked.recovery_period_in_days, f"{field}.recovery_period_in_days", 1, RECOVERY_PERIOD_DAYS_MAX)
        return asked.recovery_period_in_days
    return RECOVERY_PERIOD_DAYS_MAX


def _details(backup: Backup) -> pb.BackupDetails:
    is_made = backup.status is not BackupStatus.CREATING
    return pb.BackupDetails(
        backup_arn=backup.arn,
        backup_name=backup.name,
        backup_size_bytes=backup.size_bytes,
        backup_status=_STATUSES[backup.status],
        backup_creation_date_time=convert.timestamp(backup.create_time_ms),
        sequence_number=format_sequence_number(backup.sequence_number) if is_made else "",
    )


def _source_details(source: SourceTable, region: str) -> pb.SourceTableDetails:
    table = source.definition
    return pb.SourceTableDetails(
        table_name=table.name,
        table_id=table.uuid,
        table_arn=table_arn(region, table.name),
        table_size_bytes=source.size_bytes,
        key_schema=convert.key_schema(table.partition_keys, table.sort_keys),
        table_creation_date_time=convert.timestamp(table.create_time_ms),
        provisioned_throughput=convert.provisioned(table.throughput),
        on_demand_throughput=convert.on_demand(table.on_demand_maximum),
        item_count=source.items,
        billing_mode=convert.billing_mode_of(table),
    )


def _source_features(source: SourceTable, region: str) -> pb.SourceTableFeatureDetails:
    table, expiry = source.definition, source.definition.time_to_live
    return pb.SourceTableFeatureDetails(
        local_secondary_indexes=[convert.local_index(index) for index in table.indexes if not index.is_global],
        global_secondary_indexes=[convert.global_index(index) for index in table.indexes if index.is_global],
        stream_description=None if source.stream is None else convert.stream_specification(source.stream),
        time_to_live_description=(
            None
            if expiry is None
            else TimeToLiveDescription(time_to_live_status=TIME_TO_LIVE_STATUS_ENABLED, attribute_name=expiry.attribute)
        ),
        sse_description=convert.encryption(table.encryption, region),
    )
