"""Backups at rest: one folder each, with all that is needed to restore it, wherever it is copied.

    BACKUPS/<id>/backup.json     what it is
    BACKUPS/<id>/store/          the store as it was: a checkpoint of RocksDB
    BACKUPS/<id>.unfinished/     one that is being made or removed

A backup gets its name by renaming, when all of it is on disk: so there are no half backups, whenever the process ends.
"""

from __future__ import annotations

import logging
import os
import shutil
from enum import StrEnum
from pathlib import Path
from typing import Final

import msgspec

from broker.model.errors import CorruptionError
from broker.model.tables import ACCOUNT
from broker.storage import layout
from broker.storage.identity import read_identity
from broker.storage.private import NotPrivateError, open_private_folder
from broker.storage.recovery import StoreOpenError
from broker.storage.rocks import RESTORING_MARK, Family, Store

_DOCUMENT: Final = "backup.json"
_STORE: Final = "store"
_UNFINISHED: Final = ".unfinished"
_FORMAT: Final = 1

_log: Final = logging.getLogger(__name__)


class BackupStatus(StrEnum):
    """Where a backup is in its life."""

    CREATING = "CREATING"
    AVAILABLE = "AVAILABLE"
    DELETED = "DELETED"


class Backup(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup is. `id` is the end of its ARN and the name of its folder."""

    format: int = _FORMAT
    id: str
    name: str
    region: str
    create_time_ms: int
    # It holds exactly the writes up to here.
    sequence_number: int = 0
    # Of its files, many of which it shares with the store and with other backups.
    size_bytes: int = 0
    table_names: tuple[str, ...] = ()
    status: BackupStatus = BackupStatus.AVAILABLE

    @property
    def arn(self) -> str:
        """Its public name."""
        return f"arn:aws:dynamodb:{self.region}:{ACCOUNT}:backup/{self.id}"


class RestoreError(Exception):
    """A store cannot be restored; the message says why in one line."""


class BackupFolder:
    """The backups of one node. Everything here blocks on the disk."""

    def __init__(self, root: Path, data: Path) -> None:
        """Makes the folder. Raises StoreOpenError if that fails, or it is on another file system than the data."""
        self._root = root
        try:
            open_private_folder(root)
            is_elsewhere = root.stat().st_dev != data.stat().st_dev
        except NotPrivateError as error:
            raise StoreOpenError(f"backups: {error}") from error
        except OSError as error:
            raise StoreOpenError(f"backups: cannot make the folder {root}: {error}") from error
        if is_elsewhere:
            raise StoreOpenError(f"backups: {root} must be on the same file system as the data folder {data}")

    def load(self) -> list[Backup]:
        """All backups; what was being made or removed when the process ended is removed."""
        backups = []
        for path in sorted(self._root.iterdir()):
            if path.name.endswith(_UNFINISHED):
                _log.info("removing a backup that was not finished path=%s", path)
                shutil.rmtree(path)
                continue
            try:
                backup = _read(path)
            except RestoreError as error:
                _log.warning("not a backup, left alone path=%s error=%s", path, error)
                continue
            if backup.id == path.name:
                backups.append(backup)
            else:
                _log.warning("a backup that was renamed, left alone path=%s id=%s", path, backup.id)
        return backups

    def begin(self, backup_id: str) -> Path:
        """Makes room for a backup; returns where its store is to be made."""
        path = self._unfinished(backup_id)
        open_private_folder(path)
        return path / _STORE

    def finish(self, backup: Backup) -> Backup:
        """Makes a backup of what was begun, durably; returns it with its size."""
        path = self._unfinished(backup.id)
        size = sum(file.stat().st_size for file in (path / _STORE).iterdir())
        finished = msgspec.structs.replace(backup, size_bytes=size, status=BackupStatus.AVAILABLE)
        (path / _DOCUMENT).write_bytes(msgspec.json.format(msgspec.json.encode(finished)))
        _sync_all(path)
        path.rename(self._root / backup.id)
        _sync(self._root)
        return finished

    def remove(self, backup_id: str) -> None:
        """Removes a backup, or what was begun of one."""
        path, unfinished = self._root / backup_id, self._unfinished(backup_id)
        if path.exists():
            path.rename(unfinished)
            _sync(self._root)
        shutil.rmtree(unfinished, ignore_errors=True)

    def open_store(self, backup_id: str) -> Store:
        """The store of a backup, to be read and closed. Raises StoreOpenError."""
        return Store(self._root / backup_id / _STORE, is_read_only=True)

    def open_begun(self, backup_id: str) -> Store:
        """The store of what was begun, to be read and closed. Raises StoreOpenError."""
        return Store(self._unfinished(backup_id) / _STORE, is_read_only=True)

    def _unfinished(self, backup_id: str) -> Path:
        return self._root / (backup_id + _UNFINISHED)


def restore_store(source: Path, data: Path, region: str | None = None) -> Backup:
    """Makes a data folder of a backup's folder, which may have been copied from elsewhere.

    Raises RestoreError if the source is no whole backup, or of another region than the one given, or there is something
    in the target already.
    """
    backup = _read(source)
    if region is not None and region != backup.region:
        raise RestoreError(f"the backup {source} is of region {backup.region}, not {region}")
    store = source / _STORE
    _check_store(store, backup)
    try:
        if data.exists() and any(data.iterdir()):
            raise RestoreError(f"the data folder {data} is not empty")
        open_private_folder(data)
        _copy_durably(store, data)
    except NotPrivateError as error:
        raise RestoreError(str(error)) from error
    except OSError as error:
        raise RestoreError(f"cannot restore {source} to {data}: {error}") from error
    return backup


def _copy_durably(store: Path, data: Path) -> None:
    """Copies the files of a store into an empty folder; after an error there is nothing in it."""
    mark = data / RESTORING_MARK
    try:
        mark.touch()
        _sync(data)
        # Copied and not linked: a node appends to some of the files.
        for file in store.iterdir():
            shutil.copyfile(file, data / file.name)
        _sync_all(data)
    except BaseException:
        for file in data.iterdir():
            file.unlink()
        raise
    mark.unlink()
    _sync(data)


def _check_store(path: Path, backup: Backup) -> None:
    """Whether a store is what the backup's document says. Raises RestoreError."""
    try:
        store = Store(path, is_read_only=True)
    except StoreOpenError as error:
        raise RestoreError(f"the backup is damaged: {error}") from error
    try:
        identity = read_identity(store)
        number = layout.decode_counters(store.get(Family.CATALOG, layout.COUNTERS_KEY)).sequence_number
    except CorruptionError as error:
        raise RestoreError(f"the backup is damaged: {error}") from error
    finally:
        store.close()
    if identity is None or (identity.region, number) != (backup.region, backup.sequence_number):
        raise RestoreError(f"the backup is damaged: {path} is not the store that {_DOCUMENT} describes")


def _read(path: Path) -> Backup:
    try:
        backup = msgspec.json.decode((path / _DOCUMENT).read_bytes(), type=Backup)
    except OSError as error:
        raise RestoreError(f"{path} is not the folder of a backup: {error}") from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise RestoreError(f"{path / _DOCUMENT} is not what was written: {error}") from error
    if backup.format != _FORMAT:
        raise RestoreError(f"the backup {path} has format {backup.format}; this version knows {_FORMAT}")
    return backup


def _sync_all(path: Path) -> None:
    """Makes a folder and all that is in it durable."""
    for child in path.iterdir():
        if child.is_dir():
            _sync_all(child)
        else:
            _sync(child)
    _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
