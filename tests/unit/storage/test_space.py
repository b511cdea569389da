"""The room on the disk: when growing is refused, what is kept back, and a data folder that is no longer there."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from broker.model.errors import DiskFullError, HeadraceError
from broker.storage.commit import Committer
from broker.storage.rocks import Family, Store
from broker.storage.space import FILE_NAME, FolderLostError, FolderWatch, Room, Space
from broker.storage.watermark import Watermarks
from tests.unit.engine import Do, FakeClock, FakeJournal

MIB = 1024 * 1024
RESERVE = 64 * MIB


class Disk:
    """A file system that has the room a test says."""

    def __init__(self, free: int, total: int = 1024 * MIB) -> None:
        self.free = free
        self.total = total

    def __call__(self, _: Path) -> Room:
        return Room(self.free, self.total)


@pytest.mark.parametrize(
    ("total", "reserve"),
    [(1024 * MIB, RESERVE), (512 * MIB, RESERVE), (512 * MIB - 8, RESERVE - 1), (64 * MIB, 8 * MIB)],
)
def test_an_eighth_of_a_small_disk_is_kept_back(tmp_path: Path, total: int, reserve: int) -> None:
    assert Space(tmp_path, RESERVE, Disk(total, total)).reserve_bytes == reserve


def test_growing_is_refused_below_the_reserve_until_a_quarter_more_is_free(tmp_path: Path) -> None:
    disk = Disk(RESERVE)
    space = Space(tmp_path, RESERVE, disk)
    seen = []
    for free in (RESERVE, RESERVE - 1, RESERVE, RESERVE * 5 // 4 - 1, RESERVE * 5 // 4, RESERVE):
        disk.free = free
        seen.append(space.look())
    assert seen == [False, True, True, True, False, False]


def test_a_disk_is_tight_below_three_quarters_of_the_reserve_until_all_of_it_is_free(tmp_path: Path) -> None:
    tight = RESERVE * 3 // 4
    assert not Space(tmp_path, RESERVE, Disk(tight)).is_tight
    assert Space(tmp_path, RESERVE, Disk(tight - 1)).is_tight
    disk = Disk(RESERVE)
    space = Space(tmp_path, RESERVE, disk)
    told: list[bool] = []
    space.tell(told.append)
    for free in (tight, tight - 1, RESERVE - 1, RESERVE, tight):
        disk.free = free
        space.look()
    assert told == [True, False]


def test_the_reserved_file_is_made_with_ample_room_and_given_up_with_hardly_any(tmp_path: Path) -> None:
    disk, part = Disk(RESERVE + 2 * RESERVE // 8), RESERVE // 8
    space = Space(tmp_path, RESERVE, disk)
    file = tmp_path / FILE_NAME
    space.keep_file()
    assert not file.exists()
    disk.free += 1
    space.look()
    space.keep_file()
    assert file.stat().st_size == part
    for free, is_there in ((part, True), (part - 1, False)):
        disk.free = free
        space.look()
        space.keep_file()
        assert file.exists() is is_there


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "LOCK").touch()
    return folder


def test_a_folder_that_stays_is_no_news(folder: Path) -> None:
    watch = FolderWatch(folder, Space(folder, RESERVE, Disk(RESERVE)))
    (folder / "more").touch()
    watch.check()


def test_a_folder_that_was_removed_is_noticed(folder: Path) -> None:
    watch = FolderWatch(folder, Space(folder, RESERVE, Disk(RESERVE)))
    shutil.rmtree(folder)
    with pytest.raises(FolderLostError, match="was removed"):
        watch.check()


@pytest.mark.parametrize("what", ["folder", "lock"])
def test_a_folder_that_was_replaced_is_noticed(folder: Path, what: str) -> None:
    watch = FolderWatch(folder, Space(folder, RESERVE, Disk(RESERVE)))
    if what == "folder":
        folder.rename(folder.with_name("old"))
        shutil.copytree(folder.with_name("old"), folder)
    else:
        (folder / "new").touch()
        (folder / "new").replace(folder / "LOCK")
    with pytest.raises(FolderLostError, match="was replaced"):
        watch.check()


async def test_operations_that_grow_are_refused_and_the_others_carried_out(store: Store, tmp_path: Path) -> None:
    disk = Disk(RESERVE - 1)
    space = Space(tmp_path, RESERVE, disk)
    committer = Committer(store, FakeJournal(store), Watermarks(), FakeClock(), "north", space)
    committing = asyncio.create_task(committer.run())
    grow = Do(does=lambda group: group.put(Family.ITEMS, b"grown", b"1"), grows=True)
    shrink = Do(does=lambda group: group.put(Family.ITEMS, b"gone", None))
    refused, done = await committer.submit((grow, shrink))
    assert isinstance(refused, DiskFullError)
    assert refused.metadata == {"free_bytes": str(RESERVE - 1), "limit": str(RESERVE)}
    assert not isinstance(done, HeadraceError)
    assert store.get(Family.ITEMS, b"grown") is None
    assert space.refused_total == 1
    disk.free = 2 * RESERVE
    assert await committer.submit((grow,)) == [None]
    assert store.get(Family.ITEMS, b"grown") == b"1"
    committer.close()
    await committing
