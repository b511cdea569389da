"""The store: column families of RocksDB.

rocksdict holds the GIL in `get`, `write`, iterator steps and `Checkpoint`, and releases it in `flush_wal` and `flush`:
so everything but these two runs on the event loop's thread, and they run beside it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final

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

from broker.storage.private import NotPrivateError, open_private_folder

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path


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
_WRITE_BUFFER_BYTES: Final = 64 * 1024 * 1024
# Beyond this the oldest part is flushed: so much the data folder may grow and shrink under steady writes.
_WAL_BYTES_MAX: Final = 256 * 1024 * 1024
_BLOOM_BITS: Final = 10
_MEMTABLE_FILTER_RATIO: Final = 0.05
_OPEN_FILES_MAX: Final = 512
_LOG_FILES_MAX: Final = 4
# A backup is read once from its beginning to its end.
_READ_ONLY_CACHE_BYTES: Final = 8 * 1024 * 1024
# Lies in a data folder while a backup is being copied there.
RESTORING_MARK: Final = "RESTORING"


class StoreOpenError(Exception):
    """The data folder cannot be made, is held by another process, or is not a store."""


class Store:
    """One data folder. Reads see every write, also one that is not synced yet."""

    def __init__(self, path: Path, *, is_read_only: bool = False) -> None:
        """Opens the folder, or makes it unless it is only to be read. Raises StoreOpenError if it cannot be opened."""
        cache = Cache(_READ_ONLY_CACHE_BYTES if is_read_only else _BLOCK_CACHE_BYTES)
        families = list(Family)
        if (path / RESTORING_MARK).exists():
            raise StoreOpenError(f"a restore into {path} has not finished; empty the folder and restore again")
        try:
            if is_read_only:
                access = AccessType.read_only(error_if_log_file_exist=False)
                # What an older version wrote has those of its time.
                names = Rdict.list_cf(str(path))
                families = [family for family in families if family.value in names]
            else:
                access = AccessType.read_write()
                open_private_folder(path)
            options = {family.value: _family_options(family, cache) for family in families}
            self._db = Rdict(str(path), _database_options(), column_families=options, access_type=access)
        except NotPrivateError as error:
            raise StoreOpenError(f"data: {error}") from error
        except Exception as error:
            raise StoreOpenError(f"cannot open the data folder {path}: {error}") from error
        self._families = {family: self._db.get_column_family(family.value) for family in families}
        self._handles = {family: self._db.get_column_family_handle(family.value) for family in families}
        self._write_options = WriteOptions()

    def get(self, family: Family, key: bytes) -> bytes | None:
        """The value of a key, or None."""
        value: bytes | None = self._families[family].get(key)
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

    def compact(self, family: Family, begin: bytes, end: bytes) -> None:
        """Gives back the disk space of deleted keys. Takes long, without holding the GIL: call it in a thread."""
        self._families[family].compact_range(begin, end)

    def last_before(self, family: Family, begin: bytes, end: bytes) -> tuple[bytes, bytes] | None:
        """The last entry with begin <= key < end."""
        cursor = self._families[family].iter()
        cursor.seek_for_prev(end)
        if cursor.valid() and cursor.key() == end:
            cursor.prev()
        if cursor.valid() and cursor.key() >= begin:
            return cursor.key(), cursor.value()
        return None

    def close(self) -> None:
        """Closes the store; nothing may use it afterwards."""
        for family in self._families.values():
            family.close()
        # Each handle keeps the database open.
        self._families.clear()
        self._handles.clear()
        self._db.close()


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
    # A cursor that met a broken block is no longer valid either; only its status tells.
    cursor.status()


def _entries_back(cursor: RdictIter, begin: bytes) -> Iterator[tuple[bytes, bytes]]:
    # rocksdict's lower bound acts as an upper one, so the keys are looked at here.
    while cursor.valid() and (key := cursor.key()) >= begin:
        yield key, cursor.value()
        cursor.prev()
    cursor.status()


def _database_options() -> Options:
    options = Options(raw_mode=True)
    options.create_if_missing(create_if_missing=True)
    options.create_missing_column_families(create_missing_cfs=True)
    options.set_wal_recovery_mode(DBRecoveryMode.point_in_time())
    options.set_max_total_wal_size(_WAL_BYTES_MAX)
    options.set_max_open_files(_OPEN_FILES_MAX)
    options.set_keep_log_file_num(_LOG_FILES_MAX)
    return options


def _family_options(family: Family, cache: Cache) -> Options:
    options = Options(raw_mode=True)
    options.set_write_buffer_size(_WRITE_BUFFER_BYTES)
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
