"""The backups of a node: made online, listed, removed, and tables restored from them."""

from __future__ import annotations

import asyncio
import logging
import re
from bisect import bisect_right
from collections import Counter
from contextlib import asynccontextmanager, closing, contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import msgspec

from broker.backups.folder import Backup, BackupStatus
from broker.backups.rewind import Window, changes_after, take_back, window
from broker.encoding.items import parse_item
from broker.encoding.keys import table_prefix
from broker.model.clock import iso_label
from broker.model.constraints import matches
from broker.model.errors import (
    BackupInUseError,
    BackupNotFoundError,
    ConstraintError,
    HeadraceError,
    InvalidRestoreTimeError,
    LimitExceededError,
    PointInTimeRecoveryUnavailableError,
    UnavailableError,
    ValidationError,
)
from broker.model.tables import Restoration, Stream, Table, stream_name
from broker.storage import layout
from broker.storage.documents import Documents
from broker.storage.recovery import StoreOpenError
from broker.storage.rocks import Family
from broker.tables.catalog import table_documents
from broker.tables.definition import TableChange
from broker.tables.operations import replace_item
from broker.tables.validate import check_length, check_table_name

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
    from random import Random

    from broker.backups.folder import BackupFolder
    from broker.encoding.keys import ItemKey
    from broker.model.clock import Clock
    from broker.model.tables import Table
    from broker.storage.commit import Committer, Group, Operation
    from broker.storage.layout import StoredItem
    from broker.storage.rocks import Store
    from broker.tables.catalog import Catalog, OpenTable

NAME_LENGTH_MIN: Final = 3
NAME_LENGTH_MAX: Final = 255
# Each holds the disk space of what has changed since; and all are listed in memory.
BACKUPS_MAX: Final = 1_000
# Each reads a copy of the store.
RESTORES_MAX: Final = 8
# Of a restore, what is one submission: so much it may hold up the other writes.
RESTORE_BATCH_ITEMS_MAX: Final = 100
RESTORE_BATCH_BYTES_MAX: Final = 1024 * 1024
# What a restored table is to have otherwise than its source.
AS_IT_WAS: Final = TableChange()
_OVERHEAD_BYTES: Final = 256
_QUOTED_MAX: Final = 200
_NAME: Final = re.compile(r"[a-zA-Z0-9_.-]+", re.ASCII)

_log: Final = logging.getLogger(__name__)

Result = TypeVar("Result")


class SourceTable(NamedTuple):
    """A table as it is in a backup."""

    definition: Table
    # The enabled one.
    stream: Stream | None
    items: int
    size_bytes: int


class Backups:
    """All backups of a node, and the work on them that is under way.

    The folder is the truth, and the store knows nothing of its backups: one that is restored has none.
    """

    def __init__(
        self, folder: BackupFolder, store: Store, committer: Committer, catalog: Catalog, clock: Clock, random: Random
    ) -> None:
        self._folder = folder
        self._store = store
        self._committer = committer
        self._catalog = catalog
        self._clock = clock
        self._random = random
        self._backups = {backup.id: backup for backup in folder.load()}
        # How many restores read a backup.
        self._readers: Counter[str] = Counter()
        self._works: set[asyncio.Task[Any]] = set()
        # Of each restore under way: set when nobody wants it any more.
        self._stops: set[asyncio.Event] = set()

    async def start(self) -> None:
        """Removes tables whose restore the last run of the node did not finish."""
        for table in self._catalog.restoring.all():
            await self._catalog.abandon_restore(table.name)

    async def close(self) -> None:
        """Ends restores, which leave nothing, and waits for the other work under way."""
        for stop in self._stops:
            stop.set()
        if self._works:
            await asyncio.wait(self._works)

    async def create(self, name: str) -> Backup:
        """Makes a backup of all the store; goes on also if the caller does not wait.

        Raises ValidationError, BackupInUseError if one is being made, LimitExceededError.
        """
        _check_backup_name(name)
        if any(backup.status is BackupStatus.CREATING for backup in self._backups.values()):
            raise BackupInUseError("Another backup is being made")
        if len(self._backups) >= BACKUPS_MAX:
            raise LimitExceededError(f"There are {BACKUPS_MAX} backups: delete some", limit=BACKUPS_MAX)
        now_ms = self._clock.now_ms()
        backup = Backup(
            id=f"{now_ms:014d}-{self._random.getrandbits(32):08x}",
            name=name,
            region=self._catalog.region,
            create_time_ms=now_ms,
            status=BackupStatus.CREATING,
        )
        self._backups[backup.id] = backup
        return await asyncio.shield(self._begin(self._create(backup)))

    def describe(self, arn: str) -> Backup:
        """A backup. Raises ValidationError for a malformed ARN and BackupNotFoundError."""
        head, _, backup_id = arn.rpartition(":backup/")
        if not head.startswith("arn:aws:dynamodb:"):
            raise ValidationError(f"{arn[:_QUOTED_MAX]!r} is not the ARN of a backup", field="backup_arn")
        backup = self._backups.get(backup_id)
        if backup is None or backup.arn != arn:
            raise BackupNotFoundError(f"Backup not found: {arn[:_QUOTED_MAX]}", backup_arn=arn)
        return backup

    def page(self, after_arn: str | None, limit: int) -> tuple[list[Backup], bool]:
        """Up to `limit` backups, the oldest first, that follow the one of an ARN, and whether more remain."""
        ids = sorted(self._backups)
        start = bisect_right(ids, after_arn.rpartition(":backup/")[2]) if after_arn else 0
        return [self._backups[id_] for id_ in ids[start : start + limit]], start + limit < len(ids)

    async def delete(self, arn: str) -> Backup:
        """Removes a backup. Raises as `describe`, and BackupInUseError while it is being made or restored from."""
        backup = self.describe(arn)
        if backup.status is BackupStatus.CREATING or self._readers[backup.id]:
            use = "being made" if backup.status is BackupStatus.CREATING else "being restored from"
            raise BackupInUseError(f"The backup is {use}: {arn}", backup_arn=arn)
        del self._backups[backup.id]
        await asyncio.shield(self._begin(asyncio.to_thread(self._folder.remove, backup.id)))
        _log.info("removed a backup id=%s name=%s", backup.id, backup.name)
        return msgspec.structs.replace(backup, status=BackupStatus.DELETED)

    async def source_table(self, backup: Backup, name: str) -> SourceTable:
        """A table as it is in a backup; of one that is being made, as it is now. Raises BackupNotFoundError."""
        if backup.status is BackupStatus.CREATING:
            opened = self._catalog.find_table(name)
            if opened is None:
                raise _no_backup_of(backup, name)
            return SourceTable(opened.definition, opened.stream, *self._catalog.size_of(opened.definition.id))
        if name not in backup.table_names:
            raise _no_backup_of(backup, name)
        return await asyncio.shield(self._begin(self._look_into(backup, name)))

    async def _look_into(self, backup: Backup, name: str) -> SourceTable:
        self._readers[backup.id] += 1
        try:
            return await asyncio.to_thread(self._read_table, backup, name)
        finally:
            self._readers[backup.id] -= 1

    def _read_table(self, backup: Backup, name: str) -> SourceTable:
        try:
            with closing(self._folder.open_store(backup.id)) as store:
                table = table_documents(store).get(name)
                assert table is not None, "the document of the backup names its tables"
                stream = Documents(store, "stream", Stream).get(stream_name(name, table.stream_label))
                value = store.get(Family.CATALOG, layout.size_key(table.id))
        except StoreOpenError as error:
            raise UnavailableError(f"The backup cannot be read: {error}", backup_arn=backup.arn) from error
        is_enabled = stream is not None and stream.is_enabled
        size = layout.NO_ITEMS if value is None else layout.decode_size(value)
        return SourceTable(table, stream if is_enabled else None, *size)

    async def restore_table(
        self, arn: str, source_name: str, target_name: str, overrides: TableChange = AS_IT_WAS
    ) -> Table:
        """Makes a new table of the items that a table had; returns when it is there, whole.

        If the caller leaves before that, or the node stops, there will be no such table.

        Raises as `describe`; ValidationError if the backup has no such table, or the overrides do not fit it;
        BackupInUseError if it is being made; TableAlreadyExistsError.
        """
        check_table_name(source_name, "source_table_name")
        check_table_name(target_name, "target_table_name")
        backup = self.describe(arn)
        if backup.status is BackupStatus.CREATING:
            raise BackupInUseError(f"The backup is being made: {arn}", backup_arn=arn)
        if source_name not in backup.table_names:
            raise ValidationError(f"There is no table {source_name} in the backup {arn}", field="source_table_name")
        with self._stop_of_restore() as stop:
            self._readers[backup.id] += 1
            return await asyncio.shield(self._begin(self._restore(backup, source_name, target_name, overrides, stop)))

    def recovery_window(self, table: OpenTable) -> Window | None:
        """The times to which a table can be restored from its change log; None if that is off."""
        period_days = table.definition.recovery_period_days
        return None if period_days is None else window(table.stream, period_days, self._catalog.now_ms)

    async def restore_to_point_in_time(
        self, name_or_arn: str, target_name: str, time_ms: int | None, overrides: TableChange = AS_IT_WAS
    ) -> Table:
        """Makes a new table as another one was at a time, or with None as it is; returns when it is there, whole.

        If the caller leaves before that, or the node stops, there will be no such table.

        Raises ResourceNotFoundError, PointInTimeRecoveryUnavailableError, InvalidRestoreTimeError;
        TableAlreadyExistsError; ValidationError if the overrides do not fit the table; LimitExceededError.
        """
        check_table_name(target_name, "target_table_name")
        source = self._catalog.open_table(name_or_arn)
        self._check_recoverable(source, time_ms)
        source_name = source.definition.name
        self._catalog.check_free(target_name)
        with self._stop_of_restore() as stop:
            return await asyncio.shield(
                self._begin(self._restore_from_log(source_name, target_name, time_ms, overrides, stop))
            )

    def _check_recoverable(self, source: OpenTable, time_ms: int | None) -> None:
        name, reach = source.definition.name, self.recovery_window(source)
        if reach is None:
            raise PointInTimeRecoveryUnavailableError(
                f"Point in time recovery is not enabled for table {name}", table_name=name
            )
        if time_ms is not None and not reach.earliest_ms <= time_ms <= reach.latest_ms:
            raise InvalidRestoreTimeError(
                "An invalid restore time was specified: RestoreDateTime must be from EarliestRestorableDateTime, "
                f"{iso_label(reach.earliest_ms)}Z, to LatestRestorableDateTime, {iso_label(reach.latest_ms)}Z",
                field="restore_date_time",
                table_name=name,
            )

    @contextmanager
    def _stop_of_restore(self) -> Iterator[asyncio.Event]:
        """An event for a restore to look at: it is set when the caller has left, or the node stops."""
        if len(self._stops) >= RESTORES_MAX:
            raise LimitExceededError(f"{RESTORES_MAX} restores are under way: wait for one", limit=RESTORES_MAX)
        stop = asyncio.Event()
        self._stops.add(stop)
        try:
            yield stop
        finally:
            self._stops.discard(stop)
            stop.set()

    def _begin(self, work: Coroutine[Any, Any, Result]) -> asyncio.Task[Result]:
        """Work that ends in order, whether its caller waits or not."""
        task = asyncio.create_task(work)
        self._works.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._works.discard(task)
        if not task.cancelled():
            # The caller may have left: that is no reason to warn about an exception never retrieved.
            task.exception()

    async def _create(self, backup: Backup) -> Backup:
        try:
            path = await asyncio.to_thread(self._folder.begin, backup.id)
            # What would be flushed by the checkpoint, while nothing else runs, is flushed before it, but for a rest.
            await asyncio.to_thread(self._store.flush)
            # The checkpoint is made before the first wait, so these are its tables.
            names = tuple(table.name for table in self._catalog.tables.all())
            number = await self._committer.checkpoint(path)
            made = msgspec.structs.replace(backup, sequence_number=number, table_names=names)
            made = await asyncio.to_thread(self._folder.finish, made)
        except BaseException:
            del self._backups[backup.id]
            await asyncio.to_thread(self._folder.remove, backup.id)
            raise
        self._backups[backup.id] = made
        _log.info("made a backup id=%s name=%s bytes=%d", made.id, made.name, made.size_bytes)
        return made

    async def _restore(
        self, backup: Backup, source_name: str, target_name: str, overrides: TableChange, stop: asyncio.Event
    ) -> Table:
        try:
            with closing(await asyncio.to_thread(self._folder.open_store, backup.id)) as store:
                source = table_documents(store).get(source_name)
                assert source is not None, "the document of the backup names its tables"
                restored_from = Restoration(
                    source_table_name=source_name, time_ms=backup.create_time_ms, backup_arn=backup.arn
                )
                restored = await self._catalog.begin_restore(target_name, source, restored_from, overrides)
                async with self._finishing(restored):
                    await self._copy(store, source, restored, stop)
        except StoreOpenError as error:
            raise UnavailableError(f"The backup cannot be read: {error}", backup_arn=backup.arn) from error
        finally:
            self._readers[backup.id] -= 1
        _log.info("restored a table backup=%s table=%s as=%s", backup.id, source_name, target_name)
        return restored.definition

    async def _restore_from_log(
        self, source_name: str, target_name: str, time_ms: int | None, overrides: TableChange, stop: asyncio.Event
    ) -> Table:
        """Restores from a copy of the store as it is now, which is made like a backup and then removed."""
        now_ms = self._clock.now_ms()
        copy_id = f"{now_ms:014d}-{self._random.getrandbits(32):08x}"
        try:
            path = await asyncio.to_thread(self._folder.begin, copy_id)
            await asyncio.to_thread(self._store.flush)
            # The checkpoint is made before the first wait, so all this is of one moment.
            source = self._catalog.open_table(source_name)
            self._check_recoverable(source, time_ms)
            definition, stream = source.definition, source.stream
            as_of_ms = self._catalog.now_ms if time_ms is None else time_ms
            await self._committer.checkpoint(path)
            with closing(await asyncio.to_thread(self._folder.open_begun, copy_id)) as store:
                restored_from = Restoration(source_table_name=source_name, time_ms=as_of_ms)
                restored = await self._catalog.begin_restore(target_name, definition, restored_from, overrides)
                async with self._finishing(restored):
                    await self._copy(store, definition, restored, stop)
                    if time_ms is not None and stream is not None and stream.view_type.has_old_image:
                        records = changes_after(store, stream, time_ms)
                        while batch := take_back(records, restored):
                            await self._submit(batch, stop)
        except StoreOpenError as error:
            raise UnavailableError(f"A copy of the store cannot be read: {error}") from error
        finally:
            await asyncio.to_thread(self._folder.remove, copy_id)
        _log.info("restored a table table=%s time_ms=%d as=%s", source_name, as_of_ms, target_name)
        return restored.definition

    @asynccontextmanager
    async def _finishing(self, restored: OpenTable) -> AsyncIterator[None]:
        """Lets a restored table be seen when it is filled; after an error there is none."""
        try:
            yield
            await self._catalog.finish_restore(restored)
        except BaseException:
            await self._abandon(restored.definition.name)
            raise

    async def _copy(self, store: Store, source: Table, target: OpenTable, stop: asyncio.Event) -> None:
        entries = store.scan(Family.ITEMS, table_prefix(source.id), table_prefix(source.id + 1))
        operations = (_restored_item(target, value) for _, value in entries)
        while batch := list(_batch(operations)):
            await self._submit(batch, stop)

    async def _submit(self, batch: Sequence[Operation], stop: asyncio.Event) -> None:
        for result in await (await self._committer.submit_when_room(batch)):
            if isinstance(result, HeadraceError):
                raise result
        if stop.is_set():
            raise UnavailableError("The restore was given up: its caller has left, or the node stops")

    async def _abandon(self, name: str) -> None:
        try:
            await self._catalog.abandon_restore(name)
        except UnavailableError:
            # The node stops; the next one removes it.
            return


def _no_backup_of(backup: Backup, table_name: str) -> BackupNotFoundError:
    return BackupNotFoundError(
        f"Backup not found: there is no table {table_name[:_QUOTED_MAX]} in {backup.arn}", backup_arn=backup.arn
    )


class _RestoreItem:
    """Puts an item into a restored table, as the write that it was."""

    __slots__ = ("_key", "_stored", "_table", "size_bytes")
    grows = True

    def __init__(self, table: OpenTable, key: ItemKey, stored: StoredItem) -> None:
        self._table = table
        self._key = key
        self._stored = stored
        self.size_bytes = len(stored.item.encoded) + _OVERHEAD_BYTES

    def plan(self, group: Group) -> None:
        """Nobody else writes to the table, so there is no item yet."""
        group.observe_version(self._stored.version)
        replace_item(group, self._table, self._key, None, self._stored.item, self._stored.version)


def _restored_item(table: OpenTable, value: bytes) -> _RestoreItem:
    stored = layout.decode_item(value)
    return _RestoreItem(table, table.keys.of_item(parse_item(stored.item.encoded)), stored)


def _batch(operations: Iterator[_RestoreItem]) -> Iterator[_RestoreItem]:
    """The next operations of a restore that are submitted together."""
    size = 0
    for operation in islice(operations, RESTORE_BATCH_ITEMS_MAX):
        yield operation
        size += operation.size_bytes
        if size >= RESTORE_BATCH_BYTES_MAX:
            return


def _check_backup_name(name: str) -> None:
    """DynamoDB's rule: 3 to 255 characters of a-z, A-Z, 0-9, '_', '-' and '.'."""
    check_length(name, "backup_name", NAME_LENGTH_MIN, NAME_LENGTH_MAX)
    if _NAME.fullmatch(name) is None:
        raise ConstraintError(name, "backup_name", matches(_NAME.pattern))
