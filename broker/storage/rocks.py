"""The store: column families of RocksDB.

rocksdict holds the GIL in `get`, `write`, iterator steps and `Checkpoint`, and releases it in `flush_wal` and `flush`:
so everything but these two runs on the event loop's thread, and they run beside it.
"""

from __future__ import annotations

import logging
import os
import shutil
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from rocksdict import (
    AccessType,
    BlockBasedOptions,
    Cache,
    Checkpoint,
    DBCompressionType,
    DBRecoveryMode,
    Options,
    Rdict,
    RdictIter,
    ReadOptions,
    WriteBatch,
    WriteOptions,
)

from broker.model.errors import CorruptionError
from broker.storage import layout
from broker.storage.open_files import STORE_FILES_MAX
from broker.storage.private import NotPrivateError, open_private_folder
from broker.storage.recovery import (
    LossError,
    Recovered,
    StoreOpenError,
    find_loss,
    gather_evidence,
    holder_of,
    loss_error,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from broker.storage.recovery import Evidence


class Family(StrEnum):
    """A column family."""

    # Small documents: tables, streams, groups, triggers, replicas; and the counters.
    CATALOG = "catalog"
    # Items by stored key.
    ITEMS = "items"
    # Entries of secondary indexes, by index, its key and the item's; and of the indexes by time of expiry. Sizes of
    # item collections, by table and partition key.
    INDEXES = "indexes"
    # Versions of items that a replicated delete removed, by stored key.
    TOMBSTONES = "tombstones"
    # Log blocks by shard and last sequence number.
    LOG = "log"
    # Lines of trigger logs by trigger and number.
    TRIGGER_LINES = "trigger_lines"
    # Records that consumer groups have set aside, by parked key and sequence number.
    PARKED = "parked"


# None deletes the key.
Mutations = dict[Family, dict[bytes, bytes | None]]

_BLOCK_CACHE_BYTES: Final = 128 * 1024 * 1024
# Beyond this the oldest part is flushed: so much the data folder may grow and shrink under steady writes.
LOG_BYTES_MAX: Final = 256 * 1024 * 1024
# So many write buffers, and files of the first level, make a log.
_WRITE_BUFFER_SHARE: Final = 4
_WRITE_BUFFER_BYTES_MIN: Final = 64 * 1024
_BLOOM_BITS: Final = 10
_MEMTABLE_FILTER_RATIO: Final = 0.05
_LOG_FILES_MAX: Final = 4
# A backup is read once from its beginning to its end.
_READ_ONLY_CACHE_BYTES: Final = 8 * 1024 * 1024
_READ_ONLY_FILES_MAX: Final = 64
# Lies in a data folder while a backup is being copied there.
RESTORING_MARK: Final = "RESTORING"


# Options that rocksdict has no setter for, as files of RocksDB's. With both, the manifest lists the log files that are
# closed with their sizes, so that RocksDB refuses to open if one is missing or cut. With the second, opening leaves the
# log as it is: for a disk that has no room for its entries in another form.
_OPTIONS: Final = Path(__file__).parent / "options"
_VERIFIED: Final = _OPTIONS / "verified"
_VERIFIED_TIGHT: Final = _OPTIONS / "verified_tight"
# What RocksDB's messages begin with if it cannot read what is stored, unless it is for want of a file descriptor.
_UNREADABLE: Final = ("Corruption", "IO error")
# A folder in the data folder, while it is found out what a replay would find; and the files that never change.
_TRIAL: Final = "replay-trial"
_FINAL_FILES: Final = (".sst", ".log")
_TOO_MANY_FILES: Final = "Too many open files"

_log: Final = logging.getLogger(__name__)


class Store:
    """One data folder. Reads see every write, also one that is not synced yet."""

    def __init__(
        self,
        path: Path,
        *,
        is_read_only: bool = False,
        accepts_loss: bool = False,
        open_files_max: int = STORE_FILES_MAX,
        log_bytes_max: int = LOG_BYTES_MAX,
        is_tight: bool = False,
    ) -> None:
        """Opens the folder, or makes it unless it is only to be read.

        If the disk `is_tight`, the log is not moved into files. Raises LossError if the folder no longer holds all that
        was acknowledged, unless that is accepted: then `loss` says it.
        Raises StoreOpenError if it cannot be opened.
        """
        cache = Cache(_READ_ONLY_CACHE_BYTES if is_read_only else _BLOCK_CACHE_BYTES)
        log_bytes_max = min(log_bytes_max, LOG_BYTES_MAX)
        # If the disk is tight, all that the log holds stays in memory, and some more.
        tight_bytes = 2 * (log_bytes_max + sum(file.stat().st_size for file in path.glob("*.log"))) if is_tight else 0
        self._log_bytes_max = tight_bytes or log_bytes_max
        self._options = {family.value: _family_options(family, cache, log_bytes_max, tight_bytes) for family in Family}
        self._open_files_max = _READ_ONLY_FILES_MAX if is_read_only else open_files_max
        self._is_tight = is_tight
        # What the store has lost, if that was accepted; and what was known to be durable before it was opened.
        self.loss: LossError | None = None
        self.note: layout.Note | None = None
        # Where the replay of the log ended, for the node's log.
        self.replay = ""
        if (path / RESTORING_MARK).exists():
            raise StoreOpenError(f"a restore into {path} has not finished; empty the folder and restore again")
        try:
            self._db = self._open_read_only(path) if is_read_only else self._open(path, accepts_loss=accepts_loss)
        except StoreOpenError:
            raise
        except NotPrivateError as error:
            raise StoreOpenError(f"data: {error}") from error
        except Exception as error:
            raise StoreOpenError(f"cannot open the data folder {path}: {error}") from error
        # What an older version wrote has the families of its time.
        families = [family for family in Family if family.value in self._options]
        self._families = {family: self._db.get_column_family(family.value) for family in families}
        self._handles = {family: self._db.get_column_family_handle(family.value) for family in families}
        self._write_options = WriteOptions()

    def _open(self, path: Path, *, accepts_loss: bool) -> Rdict:
        open_private_folder(path)
        holder = holder_of(path)
        if holder:
            raise StoreOpenError(f"the data folder {path} is in use by {holder}")
        # A process that was killed in a trial has left it, and it keeps the room of files that the store has dropped.
        shutil.rmtree(path / _TRIAL, ignore_errors=True)
        evidence = gather_evidence(path)
        self.note = evidence.note
        self.loss = find_loss(path, evidence, lambda: self._peek(path))
        if self.loss is None:
            try:
                database = self._open_verified(path)
            except Exception as error:
                if not str(error).startswith("Corruption"):
                    raise
                self.loss = loss_error(path, evidence.note, self._peek(path), cause=str(error))
            else:
                self.replay = _replay(evidence, database)
                found = database.latest_sequence_number()
                if evidence.note is None or found >= evidence.note.position:
                    return database
                self.loss = self._loss_of(path, evidence.note, database)
        if not accepts_loss:
            raise self.loss
        _log.warning("loss accepted: %s", self.loss)
        database = self._open_damaged(path)
        self.replay = _replay(evidence, database)
        return database

    @staticmethod
    def _loss_of(path: Path, note: layout.Note, database: Rdict) -> LossError:
        """The loss of a store that is open, which closes it."""
        catalog = database.get_column_family(Family.CATALOG.value)
        counters = layout.decode_counters(catalog.get(layout.COUNTERS_KEY))
        found = Recovered(database.latest_sequence_number(), counters)
        catalog.close()
        database.close()
        return loss_error(path, note, found)

    def _open_verified(self, path: Path) -> Rdict:
        options, _ = Options.load_latest(str(_VERIFIED_TIGHT if self._is_tight else _VERIFIED))
        return self._rdict(path, options, AccessType.read_write())

    def _open_damaged(self, path: Path) -> Rdict:
        try:
            return self._rdict(path, Options(raw_mode=True), AccessType.read_write())
        except Exception as error:  # noqa: BLE001 - rocksdict has no class of its own for what RocksDB says
            # Files hold later writes than the log up to the damaged place: it is left out, and the log read on.
            _log.warning("what is damaged is left out error=%s", error)
            options = Options(raw_mode=True)
            return self._rdict(
                path, options, AccessType.read_write(), recovery=DBRecoveryMode.skip_any_corrupted_record()
            )

    def _open_read_only(self, path: Path) -> Rdict:
        names = Rdict.list_cf(str(path))
        self._options = {name: options for name, options in self._options.items() if name in names}
        return self._rdict(path, Options(raw_mode=True), AccessType.read_only(error_if_log_file_exist=False))

    def _peek(self, path: Path) -> Recovered | None:
        """What a replay finds, tried in a folder of links so that this one is not changed; None if it fails.

        RocksDB's read-only mode cannot be used: it breaks down on a log that is larger than a memtable.
        """
        trial = path / _TRIAL
        try:
            shutil.rmtree(trial, ignore_errors=True)
            trial.mkdir()
            for file in path.iterdir():
                # RocksDB never writes to a log or a table file again; the others are small.
                if file.is_file():
                    place = os.link if file.suffix in _FINAL_FILES else shutil.copyfile
                    place(file, trial / file.name)
            database = self._rdict(trial, Options(raw_mode=True), AccessType.read_write())
            catalog = database.get_column_family(Family.CATALOG.value)
            counters = layout.decode_counters(catalog.get(layout.COUNTERS_KEY))
            found = Recovered(database.latest_sequence_number(), counters)
            catalog.close()
            database.close()
        except Exception as error:  # noqa: BLE001 - rocksdict has no class of its own for what RocksDB says
            _log.warning("the log cannot be replayed error=%s", error)
            return None
        finally:
            shutil.rmtree(trial, ignore_errors=True)
        return found

    def _rdict(self, path: Path, options: Options, access: AccessType, recovery: DBRecoveryMode | None = None) -> Rdict:
        options.create_if_missing(create_if_missing=True)
        options.create_missing_column_families(create_missing_cfs=True)
        options.set_wal_recovery_mode(recovery or DBRecoveryMode.point_in_time())
        options.set_max_total_wal_size(self._log_bytes_max)
        options.set_max_open_files(self._open_files_max)
        options.set_keep_log_file_num(_LOG_FILES_MAX)
        return Rdict(str(path), options, column_families=self._options, access_type=access)

    @property
    def position(self) -> int:
        """RocksDB's own sequence number: it rises with every key written or deleted."""
        number: int = self._db.latest_sequence_number()
        return number

    def counters(self) -> layout.Counters:
        """What only rises in the store, as it was written last. Raises CorruptionError."""
        return layout.decode_counters(self.get(Family.CATALOG, layout.COUNTERS_KEY))

    def get(self, family: Family, key: bytes) -> bytes | None:
        """The value of a key, or None. Raises CorruptionError."""
        try:
            value: bytes | None = self._families[family].get(key)
        except Exception as error:  # noqa: BLE001 - rocksdict has no class of its own for what RocksDB says
            _raise_unreadable(error)
        return value

    def write(self, mutations: Mutations, range_deletes: Iterable[tuple[Family, bytes, bytes]] = ()) -> None:
        """Applies all mutations atomically. They are durable after the next `sync`."""
        batch = WriteBatch(raw_mode=True)
        for family, begin, end in range_deletes:
            batch.delete_range(begin, end, self._handles[family])
        put, delete = batch.put, batch.delete
        for family, changes in mutations.items():
            handle = self._handles[family]
            for key, value in changes.items():
                if value is None:
                    delete(key, handle)
                else:
                    put(key, value, handle)
        self._db.write(batch, self._write_options)

    def sync(self) -> None:
        """Makes every write so far durable. Blocks on the disk without holding the GIL: call it in a thread."""
        self._db.flush_wal(sync=True)

    def flush(self) -> None:
        """Moves what is in memory to files. Takes long, without holding the GIL: call it in a thread."""
        for family in list(self._families.values()):
            family.flush()

    def checkpoint(self, path: Path) -> None:
        """Makes a store of its own of all writes so far, in a folder that must not be there yet.

        It shares the files that never change by hard links, so `path` must be on the same file system. What is still in
        memory is flushed, holding the GIL: `flush` first.
        """
        Checkpoint(self._db).create_checkpoint(str(path))

    def scan(self, family: Family, begin: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        """The entries with begin <= key < end, in key order, all as they are at this moment, however late read.

        A cursor of RocksDB sees one moment: that of its first seek. (rocksdict's Snapshot does not: its iterators show
        what was written after it.)
        """
        options = ReadOptions()
        options.set_iterate_upper_bound(end)
        cursor = self._families[family].iter(options)
        cursor.seek(begin)
        return _entries(cursor, options)

    def scan_back(self, family: Family, begin: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        """As `scan`, from the last entry to the first."""
        cursor = self._families[family].iter()
        cursor.seek_for_prev(end)
        if cursor.valid() and cursor.key() == end:
            cursor.prev()
        return _entries_back(cursor, begin)

    def cursor(self, family: Family, begin: bytes, end: bytes) -> Cursor:
        """The entries with begin <= key < end as they are at this moment, to be read from any place again and again."""
        options = ReadOptions()
        options.set_iterate_upper_bound(end)
        cursor = self._families[family].iter(options)
        # The moment a cursor sees is that of its first seek.
        cursor.seek(begin)
        return Cursor(cursor, options)

    def set_compactions(self, *, are_automatic: bool) -> None:
        """Lets RocksDB compact by itself, or not: one that finds no room blocks all later ones until the next start."""
        for family in self._families.values():
            family.set_options({"disable_auto_compactions": "false" if are_automatic else "true"})

    def compact(self, family: Family, begin: bytes, end: bytes) -> None:
        """Gives back the disk space of deleted keys. Takes long, without holding the GIL: call it in a thread."""
        self._families[family].compact_range(begin, end)

    def last_before(self, family: Family, begin: bytes, end: bytes) -> tuple[bytes, bytes] | None:
        """The last entry with begin <= key < end."""
        cursor = self._families[family].iter()
        cursor.seek_for_prev(end)
        if cursor.valid() and cursor.key() == end:
            cursor.prev()
        if cursor.valid():
            return (cursor.key(), cursor.value()) if cursor.key() >= begin else None
        _check(cursor)
        return None

    def close(self) -> None:
        """Closes the store; nothing may use it afterwards.

        What RocksDB says to it is logged and not raised: what was synced is kept in any case, and whoever closes after
        a failure has its reason already.
        """
        for part in (*self._families.values(), self._db):
            try:
                part.close()
            except Exception as error:  # noqa: BLE001 - rocksdict has no class of its own for what RocksDB says
                _log.warning("the store did not close cleanly error=%s", error)
        # Each handle keeps the database open.
        self._families.clear()
        self._handles.clear()


class Cursor:
    """A view of a range of keys at one moment; it holds files and memory of the store until it is dropped."""

    __slots__ = ("_cursor", "_options")

    def __init__(self, cursor: RdictIter, options: ReadOptions) -> None:
        self._cursor = cursor
        # The cursor reads the bound from the options' memory, so they must live as long as it does.
        self._options = options

    def entries(self, begin: bytes) -> Iterator[tuple[bytes, bytes]]:
        """The entries from a key on. Only one of the iterators this gives may be in use at a time."""
        self._cursor.seek(begin)
        return _entries(self._cursor, self._options)


def _entries(cursor: RdictIter, _options: ReadOptions) -> Iterator[tuple[bytes, bytes]]:
    # The cursor reads the bound from the options' memory, so they must live as long as it does.
    while cursor.valid():
        yield cursor.key(), cursor.value()
        cursor.next()
    _check(cursor)


def _entries_back(cursor: RdictIter, begin: bytes) -> Iterator[tuple[bytes, bytes]]:
    # rocksdict's lower bound acts as an upper one, so the keys are looked at here.
    while cursor.valid() and (key := cursor.key()) >= begin:
        yield key, cursor.value()
        cursor.prev()
    _check(cursor)


def _check(cursor: RdictIter) -> None:
    """Raises CorruptionError if a cursor is at its end because it met a broken block: only its status tells."""
    try:
        cursor.status()
    except Exception as error:  # noqa: BLE001 - rocksdict has no class of its own for what RocksDB says
        _raise_unreadable(error)


def _raise_unreadable(error: Exception) -> NoReturn:
    """Raises what RocksDB says on reading as an error of ours, if that is so for good."""
    text = str(error)
    if text.startswith(_UNREADABLE) and _TOO_MANY_FILES not in text:
        raise CorruptionError(f"a part of the store cannot be read: {text}") from error
    raise error


def _replay(evidence: Evidence, database: Rdict) -> str:
    note = evidence.note
    noted = "none" if note is None else str(note.position)
    return f"position={database.latest_sequence_number()} noted_position={noted} log_end={evidence.end.place or 'none'}"


def _family_options(family: Family, cache: Cache, log_bytes_max: int, tight_bytes: int) -> Options:
    options = Options(raw_mode=True)
    # On a small disk all parts are small, so that a compaction needs no more room than is kept back.
    part = max(log_bytes_max // _WRITE_BUFFER_SHARE, _WRITE_BUFFER_BYTES_MIN)
    options.set_write_buffer_size(tight_bytes or part)
    options.set_disable_auto_compactions(disable=tight_bytes > 0)
    options.set_target_file_size_base(part)
    options.set_max_bytes_for_level_base(_WRITE_BUFFER_SHARE * part)
    options.set_max_compaction_bytes(2 * _WRITE_BUFFER_SHARE * part)
    blocks = BlockBasedOptions()
    blocks.set_block_cache(cache)
    blocks.set_bloom_filter(_BLOOM_BITS, block_based=False)
    options.set_block_based_table_factory(blocks)
    if family in (Family.ITEMS, Family.TOMBSTONES):
        # Most writes first look for an item that is not there: a filter answers faster than the memtable.
        options.set_memtable_whole_key_filtering(whole_key_filter=True)
        options.set_memtable_prefix_bloom_ratio(_MEMTABLE_FILTER_RATIO)
    # Log blocks are read at memory speed and soon trimmed: not worth the time to compress.
    compression = DBCompressionType.none() if family is Family.LOG else DBCompressionType.lz4()
    options.set_compression_type(compression)
    return options
