"""Backups of a store: what is in them, what is left when something ends halfway, and what is restored."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import pytest

from broker.backups.folder import Backup, BackupFolder, BackupStatus, RestoreError, restore_store
from broker.backups.registry import AS_IT_WAS, BACKUPS_MAX, RESTORE_BATCH_ITEMS_MAX, Backups
from broker.encoding.items import canonicalize
from broker.encoding.keys import table_prefix
from broker.model.errors import (
    BackupInUseError,
    BackupNotFoundError,
    LimitExceededError,
    ResourceInUseError,
    TableAlreadyExistsError,
    UnavailableError,
    ValidationError,
)
from broker.model.tables import Restoration
from broker.storage.identity import open_identity
from broker.storage.recovery import StoreOpenError
from broker.storage.rocks import RESTORING_MARK, Family, Store
from broker.tables.catalog import OpenTable
from broker.tables.operations import Put
from tests.unit.engine import AT, REGION, TIMEOUT_S, Engine, FakeClock, running
from tests.values import item

FROM_PETS = Restoration(source_table_name="pets", time_ms=1)
# More turns of the event loop than a restore takes to begin.
TURNS_MAX = 10_000


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "backups"


def made_on(engine: Engine, root: Path, tmp_path: Path) -> Backups:
    folder = BackupFolder(root, tmp_path)
    return Backups(folder, engine.store, engine.committer, engine.catalog, engine.clock, Random(7))


@pytest.fixture
async def backups(engine: Engine, root: Path, tmp_path: Path) -> AsyncIterator[Backups]:
    open_identity(engine.store, REGION, Random(1))
    made = made_on(engine, root, tmp_path)
    yield made
    await made.close()


async def fill(engine: Engine, table: OpenTable, count: int, first: int = 0) -> None:
    for number in range(first, first + count):
        whole = item(id=f"k{number}", at=number)
        await engine.committer.commit(Put(table, table.keys.of_item(whole), canonicalize(whole), None))


def contents(store: Store, table_id: int) -> dict[bytes, bytes]:
    """Values by stored key, without the table's id."""
    prefix = table_prefix(table_id)
    return {key[len(prefix) :]: value for key, value in store.scan(Family.ITEMS, prefix, table_prefix(table_id + 1))}


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


async def test_a_backup_holds_what_was_there_when_it_was_made(
    engine: Engine, backups: Backups, root: Path, tmp_path: Path
) -> None:
    table = await engine.table("pets", sort_key=AT)
    await fill(engine, table, 5)
    before, number = contents(engine.store, table.definition.id), engine.committer.last_sequence_number
    backup = await backups.create("nightly")
    await fill(engine, table, 5, first=5)
    assert backup == backups.describe(backup.arn)
    assert (backup.name, backup.status, backup.sequence_number) == ("nightly", BackupStatus.AVAILABLE, number)
    assert backup.table_names == ("pets",)
    assert backup.size_bytes > 0
    assert restore_store(root / backup.id, tmp_path / "new", REGION) == backup
    restored = Store(tmp_path / "new")
    async with running(restored, FakeClock()) as again:
        assert contents(restored, table.definition.id) == before
        assert again.committer.last_sequence_number == number
        assert again.catalog.tables.all() == [table.definition]
        assert again.catalog.streams.all() == [table.stream]
    restored.close()


async def test_a_backup_waits_for_the_sync_of_what_it_holds(engine: Engine, backups: Backups) -> None:
    table = await engine.table("pets", sort_key=AT)
    engine.journal.hold()
    writing = asyncio.create_task(fill(engine, table, 1))
    await engine.journal.sync_begun(2)
    creating = asyncio.create_task(backups.create("nightly"))
    done, _ = await asyncio.wait((creating,), timeout=0.2)
    assert not done
    (unfinished,) = backups.page("", 10)[0]
    assert unfinished.status is BackupStatus.CREATING
    with pytest.raises(BackupInUseError):
        await backups.create("second")
    with pytest.raises(BackupInUseError):
        await backups.delete(unfinished.arn)
    with pytest.raises(BackupInUseError):
        await backups.restore_table(unfinished.arn, "pets", "copy")
    engine.journal.release()
    async with asyncio.timeout(TIMEOUT_S):
        await writing
        assert (await creating).sequence_number == engine.committer.last_sequence_number


async def test_a_restored_table_has_the_items_with_their_versions_and_nothing_else(
    engine: Engine, backups: Backups
) -> None:
    table = await engine.table("pets", sort_key=AT, retention_seconds=60)
    await fill(engine, table, RESTORE_BATCH_ITEMS_MAX + 20)
    backup = await backups.create("nightly")
    before = contents(engine.store, table.definition.id)
    await engine.catalog.delete_table("pets")
    restored = await backups.restore_table(backup.arn, "pets", "pets")
    assert contents(engine.store, restored.id) == before
    assert restored == engine.catalog.open_table("pets").definition
    assert (restored.partition_key, restored.sort_key) == (table.definition.partition_key, AT)
    assert restored.id != table.definition.id
    assert restored.uuid != table.definition.uuid
    assert restored.stream_label == ""
    assert restored.stream_settings.retention_seconds != 60
    assert engine.catalog.restoring.all() == []


async def test_writes_after_a_restore_are_newer_than_what_was_restored(engine: Engine, backups: Backups) -> None:
    table = await engine.table("pets", sort_key=AT)
    await fill(engine, table, 1)
    backup = await backups.create("nightly")
    restored = await backups.restore_table(backup.arn, "pets", "copy")
    (before,) = contents(engine.store, restored.id).values()
    whole = item(id="k0", at=0, more=1)
    copy = engine.catalog.open_table("copy")
    await engine.committer.commit(Put(copy, copy.keys.of_item(whole), canonicalize(whole), None))
    (after,) = contents(engine.store, restored.id).values()
    assert before != after


async def test_a_name_that_is_taken_is_not_restored_to(engine: Engine, backups: Backups) -> None:
    table = await engine.table("pets", sort_key=AT)
    await fill(engine, table, 1)
    backup = await backups.create("nightly")
    with pytest.raises(TableAlreadyExistsError):
        await backups.restore_table(backup.arn, "pets", "pets")
    await engine.catalog.begin_restore("copy", table.definition, FROM_PETS, AS_IT_WAS)
    with pytest.raises(TableAlreadyExistsError):
        await backups.restore_table(backup.arn, "pets", "copy")
    with pytest.raises(ResourceInUseError):
        await engine.table("copy")
    assert [doc.name for doc in engine.catalog.restoring.all()] == ["copy"]


async def test_a_restore_whose_caller_leaves_leaves_nothing(engine: Engine, backups: Backups) -> None:
    table = await engine.table("pets", sort_key=AT)
    await fill(engine, table, 3 * RESTORE_BATCH_ITEMS_MAX)
    backup = await backups.create("nightly")
    restoring = asyncio.create_task(backups.restore_table(backup.arn, "pets", "copy"))
    for _ in range(TURNS_MAX):
        await asyncio.sleep(0)
        if engine.catalog.restoring.all():
            break
    with pytest.raises(BackupInUseError, match="being restored from"):
        await backups.delete(backup.arn)
    restoring.cancel()
    await asyncio.wait((restoring,))
    async with asyncio.timeout(TIMEOUT_S):
        await backups.close()
    assert engine.catalog.restoring.all() == []
    assert [doc.name for doc in engine.catalog.tables.all()] == ["pets"]
    assert len(list(engine.store.scan(Family.ITEMS, b"", b"\xff"))) == 3 * RESTORE_BATCH_ITEMS_MAX
    await backups.delete(backup.arn)


async def test_a_restore_that_the_end_of_the_node_broke_off_is_removed_at_the_next_start(
    engine: Engine, backups: Backups
) -> None:
    table = await engine.table("pets", sort_key=AT)
    await fill(engine, table, 3)
    half = await engine.catalog.begin_restore("copy", table.definition, FROM_PETS, AS_IT_WAS)
    await fill(engine, half, 2)
    assert contents(engine.store, half.definition.id)
    await backups.start()
    assert contents(engine.store, half.definition.id) == {}
    await engine.table("copy")


async def test_what_a_crash_left_is_removed_and_backups_are_found_again(
    engine: Engine, backups: Backups, root: Path, tmp_path: Path
) -> None:
    kept = await backups.create("kept")
    (root / "00000000000001-aaaaaaaa.unfinished" / "store.tmp").mkdir(parents=True)
    (root / "notes").mkdir()
    shutil.copytree(root / kept.id, root / "renamed")
    again = made_on(engine, root, tmp_path)
    assert again.page("", 10) == ([kept], False)
    assert names_in(root) == {kept.id, "notes", "renamed"}


async def test_backups_are_listed_by_pages_and_deleted_one_by_one(engine: Engine, backups: Backups, root: Path) -> None:
    made: list[Backup] = []
    for _ in range(3):
        engine.clock.ms += 1
        made.append(await backups.create("same"))
    assert backups.page("", 2) == (made[:2], True)
    assert backups.page(made[1].arn, 2) == (made[2:], False)
    deleted = await backups.delete(made[1].arn)
    assert deleted.status is BackupStatus.DELETED
    assert backups.page("", 10) == ([made[0], made[2]], False)
    assert not (root / made[1].id).exists()
    with pytest.raises(BackupNotFoundError):
        backups.describe(made[1].arn)
    with pytest.raises(ValidationError):
        backups.describe(made[1].id)


async def test_a_failed_backup_leaves_nothing(
    engine: Engine, backups: Backups, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr(engine.store, "checkpoint", fail)
        with pytest.raises(OSError, match="no space"):
            await backups.create("nightly")
    assert backups.page("", 10) == ([], False)
    assert names_in(root) == set()
    await backups.create("nightly")


async def test_there_is_a_bound(backups: Backups, monkeypatch: pytest.MonkeyPatch) -> None:
    assert BACKUPS_MAX == 1000
    monkeypatch.setattr("broker.backups.registry.BACKUPS_MAX", 1)
    await backups.create("first")
    with pytest.raises(LimitExceededError):
        await backups.create("second")


async def test_a_backup_that_cannot_be_read_says_so(engine: Engine, backups: Backups, root: Path) -> None:
    await engine.table("pets")
    backup = await backups.create("nightly")
    (root / backup.id / "store" / "CURRENT").unlink()
    with pytest.raises(UnavailableError):
        await backups.restore_table(backup.arn, "pets", "copy")
    assert (await backups.delete(backup.arn)).status is BackupStatus.DELETED


async def test_a_store_is_restored_only_where_it_belongs(backups: Backups, root: Path, tmp_path: Path) -> None:
    source = root / (await backups.create("nightly")).id
    with pytest.raises(RestoreError, match="not the folder of a backup"):
        restore_store(root, tmp_path / "new")
    with pytest.raises(RestoreError, match=f"of region {REGION}, not south"):
        restore_store(source, tmp_path / "new", "south")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    with pytest.raises(RestoreError, match="not empty"):
        restore_store(source, tmp_path / "full")
    assert not (tmp_path / "new").exists()


async def test_a_damaged_backup_is_not_restored(engine: Engine, backups: Backups, root: Path, tmp_path: Path) -> None:
    await fill(engine, await engine.table("pets", sort_key=AT), 3)
    source = root / (await backups.create("nightly")).id
    largest = max((source / "store").glob("*.sst"), key=lambda path: path.stat().st_size)
    largest.unlink()
    with pytest.raises(RestoreError, match="damaged"):
        restore_store(source, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    (source / "backup.json").write_text("{}")
    with pytest.raises(RestoreError, match="not what was written"):
        restore_store(source, tmp_path / "new")


async def test_a_copy_that_fails_leaves_the_target_empty(
    backups: Backups, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = root / (await backups.create("nightly")).id

    def fail(*_: object) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr("shutil.copyfile", fail)
        with pytest.raises(RestoreError, match="no space"):
            restore_store(source, tmp_path / "new")
    assert names_in(tmp_path / "new") == set()


def test_a_folder_that_is_half_restored_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / RESTORING_MARK).touch()
    with pytest.raises(StoreOpenError, match="has not finished"):
        Store(tmp_path)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreOpenError, match="backups: cannot make"):
        BackupFolder(tmp_path / "file" / "backups", tmp_path)


@pytest.mark.parametrize("name", ["ab", "a" * 256, "with space", "täglich", ""])
async def test_a_name_follows_the_rules_of_dynamodb(backups: Backups, name: str) -> None:
    with pytest.raises(ValidationError) as refused:
        await backups.create(name)
    assert refused.value.metadata["field"] == "backup_name"
    assert backups.page("", 10) == ([], False)
