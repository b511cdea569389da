"""The store: what a reader of RocksDB's bindings would take for granted, and some of it had to be made true."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.storage.recovery import StoreOpenError
from broker.storage.rocks import Family, Store

PAIRS: dict[bytes, bytes | None] = {b"a": b"1", b"b": b"2", b"c": b"3"}


def entries(store: Store, family: Family = Family.ITEMS) -> dict[bytes, bytes]:
    return dict(store.scan(family, b"", b"\xff"))


def test_a_scan_has_the_keys_from_begin_up_to_end_in_order(store: Store) -> None:
    store.write({Family.ITEMS: dict.fromkeys((b"d", b"a", b"b\x00", b"c", b"b"), b"")})
    assert [key for key, _ in store.scan(Family.ITEMS, b"b", b"d")] == [b"b", b"b\x00", b"c"]
    assert list(store.scan(Family.ITEMS, b"b", b"b")) == []
    assert list(store.scan(Family.ITEMS, b"x", b"b")) == []


@pytest.mark.parametrize(
    ("begin", "end"), [(b"", b"\xff"), (b"b", b"d"), (b"b", b"c\x00"), (b"a0", b"b"), (b"x", b"z")]
)
def test_a_scan_back_has_the_same_in_the_other_order(store: Store, begin: bytes, end: bytes) -> None:
    store.write({Family.ITEMS: {key: key for key in (b"a", b"b", b"c", b"d", b"e")}})
    back = store.scan_back(Family.ITEMS, begin, end)
    expected = list(store.scan(Family.ITEMS, begin, end))[::-1]
    # All of it is of the moment it was asked for.
    store.write({Family.ITEMS: {b"b": None, b"b1": b"new", b"c": b"new"}})
    assert list(back) == expected


def test_families_are_apart(store: Store) -> None:
    store.write({Family.ITEMS: {b"a": b"item"}, Family.LOG: {b"a": b"log"}})
    assert (store.get(Family.ITEMS, b"a"), store.get(Family.LOG, b"a")) == (b"item", b"log")
    assert store.get(Family.CATALOG, b"a") is None


def test_a_write_puts_and_deletes(store: Store) -> None:
    store.write({Family.ITEMS: PAIRS})
    store.write({Family.ITEMS: {b"a": None, b"b": b"new", b"missing": None}})
    assert entries(store) == {b"b": b"new", b"c": b"3"}


def test_range_deletes_come_before_the_puts_of_their_write(store: Store) -> None:
    store.write({Family.ITEMS: PAIRS, Family.LOG: PAIRS})
    store.write({Family.ITEMS: {b"b": b"new"}}, [(Family.ITEMS, b"a", b"c")])
    assert entries(store) == {b"b": b"new", b"c": b"3"}
    assert entries(store, Family.LOG) == PAIRS


@pytest.mark.parametrize(
    ("begin", "end", "found"),
    [
        (b"a", b"z", b"c"),
        (b"a", b"c", b"b"),
        (b"b", b"c", b"b"),
        (b"b\x00", b"c", None),
        (b"a", b"a", None),
        (b"d", b"e", None),
    ],
)
def test_the_last_entry_of_a_range_is_found(store: Store, begin: bytes, end: bytes, found: bytes | None) -> None:
    store.write({Family.LOG: PAIRS})
    assert store.last_before(Family.LOG, begin, end) == (None if found is None else (found, PAIRS[found]))


def test_an_empty_family_has_no_last_entry(store: Store) -> None:
    assert store.last_before(Family.LOG, b"", b"\xff") is None


# rocksdict's own Snapshot, of version 0.3.29, iterates over what was written after it.
@pytest.mark.parametrize("read_before", [0, 1])
def test_a_scan_shows_the_moment_it_was_asked_for(store: Store, read_before: int) -> None:
    store.write({Family.ITEMS: PAIRS})
    scan = store.scan(Family.ITEMS, b"", b"\xff")
    seen = [next(scan) for _ in range(read_before)]
    store.write({Family.ITEMS: {b"a": b"changed", b"b": None, b"bb": b"new"}}, [(Family.ITEMS, b"c", b"d")])
    assert [*seen, *scan] == list(PAIRS.items())


def test_a_closed_store_can_be_opened_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write({Family.ITEMS: PAIRS})
    store.sync()
    store.close()
    again = Store(tmp_path)
    assert entries(again) == PAIRS
    again.close()


def test_what_a_start_left_that_was_killed_is_removed(tmp_path: Path) -> None:
    trial = tmp_path / "replay-trial"
    trial.mkdir()
    (trial / "000004.log").touch()
    Store(tmp_path).close()
    assert not trial.exists()


def test_a_folder_is_opened_by_one_store_at_a_time(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(StoreOpenError, match=str(tmp_path)):
        Store(tmp_path)
    store.close()


def test_a_folder_that_cannot_be_made_is_refused_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StoreOpenError, match=str(path)):
            Store(path)
