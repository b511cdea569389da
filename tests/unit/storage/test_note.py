"""The durable note: what it promises, and that it never promises more."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from broker.model.errors import CorruptionError
from broker.storage import layout
from broker.storage.note import NOTE_NAME, NoteKeeper, read_note, write_note
from broker.storage.recovery import LossError
from broker.storage.rocks import Family, Store
from tests.unit.engine import Engine

NOTE = layout.Note(17, layout.Counters(5, 6, 7, 8), 9, 10, 11)


def test_a_note_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert read_note(tmp_path) is None
    write_note(tmp_path, NOTE)
    assert read_note(tmp_path) == NOTE
    assert [file.name for file in tmp_path.iterdir()] == [NOTE_NAME]


@pytest.mark.parametrize("at", [0, 1, 40, -1])
def test_a_note_that_is_not_what_was_written_is_not_believed(tmp_path: Path, at: int) -> None:
    write_note(tmp_path, NOTE)
    content = bytearray((tmp_path / NOTE_NAME).read_bytes())
    content[at] ^= 1
    (tmp_path / NOTE_NAME).write_bytes(content)
    with pytest.raises(CorruptionError):
        read_note(tmp_path)


def noted(store_path: Path) -> int:
    note = read_note(store_path)
    assert note is not None
    return note.position


async def test_a_note_holds_what_is_synced_and_no_more(engine: Engine, store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "store"
    keeper = NoteKeeper(folder, store, engine.committer, engine.clock)
    await engine.table()
    await keeper.renew()
    before = noted(folder)
    assert before == store.position
    engine.journal.hold()
    change = asyncio.create_task(engine.do(lambda group: group.put(Family.ITEMS, b"a", b"1")))
    await engine.journal.sync_begun(2)
    assert store.position > before
    renewal = asyncio.create_task(keeper.renew())
    await asyncio.sleep(0)
    assert noted(folder) == before
    engine.journal.release()
    await asyncio.gather(change, renewal)
    assert noted(folder) == store.position
    await keeper.close()


async def test_a_note_is_not_written_again_while_nothing_changes(engine: Engine, store: Store, tmp_path: Path) -> None:
    keeper = NoteKeeper(tmp_path / "store", store, engine.committer, engine.clock)
    await keeper.renew()
    engine.clock.ms += 1
    written = read_note(tmp_path / "store")
    await keeper.renew()
    assert read_note(tmp_path / "store") == written
    await keeper.close()


async def test_a_store_that_ends_before_its_note_is_refused_with_what_is_missing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write(
        {Family.ITEMS: {b"a": b"1"}, Family.CATALOG: {layout.COUNTERS_KEY: layout.encode_counters(NOTE.counters)}}
    )
    store.sync()
    position = store.position
    store.close()
    counters = NOTE.counters._replace(sequence_number=12)
    write_note(tmp_path, layout.Note(position, counters, 1_700_000_000_000, 0, 0))
    Store(tmp_path).close()
    write_note(tmp_path, layout.Note(position + 1, counters, 1_700_000_000_000, 0, 0))
    with pytest.raises(LossError) as refused:
        Store(tmp_path)
    message = str(refused.value)
    assert "missing are at least 7, from 000000000000000000006 to 000000000000000000012" in message
    assert "2023-11-14T22:13:20.000Z" in message
    lost = Store(tmp_path, accepts_loss=True)
    assert lost.loss is not None
    assert lost.get(Family.ITEMS, b"a") == b"1"
    lost.close()
