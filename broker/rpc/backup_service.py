"""BackupService: requests to the backups of the node."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from broker.backups.folder import BackupStatus
from broker.model.sequence import format_sequence_number
from broker.rpc import convert
from broker.tables.validate import page_limit
from headrace.v1 import backup_service_pb2 as pb

if TYPE_CHECKING:
    from broker.backups.folder import Backup
    from broker.backups.registry import Backups
    from broker.tables.catalog import Catalog

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
        return pb.DescribeBackupResponse(backup_description=_description(self._backups.describe(request.backup_arn)))

    async def ListBackups(self, request: pb.ListBackupsRequest) -> pb.ListBackupsResponse:
        """Lists backups."""
        limit = page_limit(request.limit if request.HasField("limit") else None)
        backups, more = self._backups.page(request.exclusive_start_backup_arn, limit)
        return pb.ListBackupsResponse(
            backup_summaries=[_details(backup) for backup in backups],
            last_evaluated_backup_arn=backups[-1].arn if more else "",
        )

    async def DeleteBackup(self, request: pb.DeleteBackupRequest) -> pb.DeleteBackupResponse:
        """Removes a backup."""
        deleted = await self._backups.delete(request.backup_arn)
        return pb.DeleteBackupResponse(backup_description=_description(deleted))

    async def RestoreTableFromBackup(
        self, request: pb.RestoreTableFromBackupRequest
    ) -> pb.RestoreTableFromBackupResponse:
        """Makes a table of one in a backup."""
        table = await self._backups.restore_table(
            request.backup_arn, request.source_table_name, request.target_table_name
        )
        return pb.RestoreTableFromBackupResponse(table_description=convert.table_description(table, self._catalog))


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


def _description(backup: Backup) -> pb.BackupDescription:
    return pb.BackupDescription(backup_details=_details(backup), table_names=backup.table_names)
