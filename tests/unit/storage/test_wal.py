"""The write-ahead log read without RocksDB: what it takes for a loss, and above all what it does not."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from rocksdict import Options, Rdict, WriteBatch

from broker.storage.wal import read_damage, read_log_end

# Around the length of a block of the log, and of its records' heads.
SIZES = (1, 5, 300, 3_000, 32_700, 32_740, 32_750, 70_000, 200_000)


def write_log(folder: Path, sizes: list[int]) -> list[int]:
    """Makes the log of a store with one entry of each size; returns RocksDB's sequence number after each."""
    options = Options(raw_mode=True)
    options.create_if_missing(create_if_missing=True)
    database = Rdict(str(folder / "store"), options)
    positions = []
    for number, size in enumerate(sizes):
        batch = WriteBatch(raw_mode=True)
        batch.put(b"%d" % number, os.urandom(size))
        batch.put(b"more", b"")
        database.write(batch)
        database.flush_wal(sync=True)
        positions.append(database.latest_sequence_number())
    # Closing moves its entries to files.
    shutil.copy(log_of(folder / "store"), folder)
    database.close()
    return positions


def log_of(folder: Path) -> Path:
    (path,) = folder.glob("*.log")
    return path


def change(path: Path, at: int, change_bytes: Callable[[bytes], bytes], length: int = 8) -> None:
    content = bytearray(path.read_bytes())
    content[at : at + length] = change_bytes(bytes(content[at : at + length]))
    path.write_bytes(content)


def invert(content: bytes) -> bytes:
    return bytes(byte ^ 0xFF for byte in content)


@pytest.mark.parametrize("attempt", range(5))
def test_every_entry_of_a_whole_log_is_found_wherever_blocks_cut_it(
    tmp_path: Path, rng: random.Random, attempt: int
) -> None:
    # Small ones in between move the cuts through every place of an entry's head.
    sizes = [rng.choice(SIZES) + rng.randrange(40) for _ in range(120 + attempt)]
    positions = write_log(tmp_path, sizes)
    end = read_log_end(tmp_path)
    assert (end.position, end.hole) == (positions[-1], None)
    assert read_damage(log_of(tmp_path)) == (None, False)


def test_a_log_that_is_cut_anywhere_is_no_loss(tmp_path: Path) -> None:
    positions = write_log(tmp_path, [200] * 20)
    path = log_of(tmp_path)
    whole = path.read_bytes()
    found = set()
    for length in range(len(whole) - 700, len(whole)):
        path.write_bytes(whole[:length])
        end = read_log_end(tmp_path)
        assert end.hole is None
        found.add(end.position)
    assert found == set(positions[-5:-1])


@pytest.mark.parametrize(("entries_after", "is_loss"), [(0, False), (1, False), (2, True), (3, True)])
def test_what_follows_a_damaged_entry_tells_whether_it_was_synced(
    tmp_path: Path, entries_after: int, is_loss: bool
) -> None:
    positions = write_log(tmp_path, [200] * 20)
    path = log_of(tmp_path)
    size = path.stat().st_size // 20
    change(path, size * (19 - entries_after) + 50, invert)
    hole = read_log_end(tmp_path).hole
    assert (hole is not None) is is_loss
    if hole is not None:
        assert (hole.position, hole.last_position) == (positions[18 - entries_after], positions[-1])
        assert (hole.file, hole.entries_after) == (path.name, entries_after)


@pytest.mark.parametrize("place", ["checksum", "length", "type", "payload"])
def test_damage_is_found_in_each_part_of_a_record(tmp_path: Path, place: str) -> None:
    write_log(tmp_path, [200] * 20)
    path = log_of(tmp_path)
    at = path.stat().st_size // 20 * 10 + {"checksum": 0, "length": 4, "type": 6, "payload": 100}[place]
    change(path, at, invert, 1)
    hole = read_log_end(tmp_path).hole
    assert hole is not None
    assert hole.entries_after == 9
    assert read_damage(path) == (hole.offset, True)


# RocksDB itself skips a page of zeros without a word.
def test_a_page_of_zeros_is_a_loss_if_one_entry_follows(tmp_path: Path) -> None:
    write_log(tmp_path, [30_000] * 6)
    change(log_of(tmp_path), 65_536, lambda old: bytes(len(old)), 65_536)
    assert read_log_end(tmp_path).hole is not None


def test_a_torn_file_before_one_that_goes_on_is_no_loss(tmp_path: Path) -> None:
    first = write_log(tmp_path, [200] * 5)
    path = log_of(tmp_path)
    # What a recovery leaves that does not move the log's entries to files: a torn end, and a log that goes on after it.
    torn = path.with_name("000001.log")
    content = path.read_bytes()
    size = len(content) // 5
    torn.write_bytes(content[: size * 3] + b"\x01\x02\x03\x04\x10\x00\x01torn")
    path.write_bytes(content[size * 3 :])
    end = read_log_end(tmp_path)
    assert (end.position, end.hole) == (first[-1], None)


def test_a_folder_without_a_log_has_no_end(tmp_path: Path) -> None:
    assert read_log_end(tmp_path) == (0, "", None)
    (tmp_path / "000003.log").touch()
    assert read_log_end(tmp_path) == (0, "", None)
