"""The life of tables and their streams."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from broker.encoding.items import canonicalize
from broker.encoding.keys import table_prefix
from broker.model.errors import (
    HeadraceError,
    ResourceInUseError,
    ResourceNotFoundError,
    TableNotFoundError,
    ValidationError,
)
from broker.model.tables import HASH_MAX, Index, ProjectionType, StreamViewType, Throughput, ThroughputChanges
from broker.storage.commit import Group
from broker.storage.rocks import Family, Store
from broker.tables.catalog import Catalog
from broker.tables.definition import NewTable, TableChange
from broker.tables.operations import Put
from broker.tables.settings import IndexSettings
from tests.unit.engine import AT, ID, NOON_MS, REGION, TIMEOUT_S, Engine, FakeClock, running
from tests.values import item

BOTH = StreamViewType.NEW_AND_OLD_IMAGES


def put(engine: Engine, name: str, key: str) -> Put:
    table = engine.catalog.open_table(name)
    whole = item(id=key)
    return Put(table, table.keys.of_item(whole), canonicalize(whole), None)


def items_of(engine: Engine, table_id: int) -> list[bytes]:
    return [key for key, _ in engine.store.scan(Family.ITEMS, table_prefix(table_id), table_prefix(table_id + 1))]


async def test_a_table_is_as_it_was_asked_for(engine: Engine) -> None:
    table = await engine.catalog.create_table(NewTable(name="pets", partition_key=ID, sort_key=AT, view_type=BOTH))
    assert (table.name, table.partition_key, table.sort_key, table.create_time_ms) == ("pets", ID, AT, NOON_MS)
    opened = engine.catalog.open_table("pets")
    assert opened.definition == table
    assert opened.stream is not None
    assert opened.stream == engine.catalog.newest_stream(table) == engine.catalog.enabled_stream("pets")
    assert (opened.stream.view_type, opened.stream.label) == (BOTH, table.stream_label)
    arn = engine.catalog.stream_arn(opened.stream)
    assert arn == f"arn:aws:dynamodb:{REGION}:000000000000:table/pets/stream/{table.stream_label}"
    assert engine.catalog.stream(arn) == opened.stream


async def test_a_table_without_a_stream_has_none(engine: Engine) -> None:
    table = await engine.catalog.create_table(NewTable(name="pets", partition_key=ID))
    assert table.stream_label == ""
    assert engine.catalog.newest_stream(table) is None
    assert engine.catalog.open_table("pets").stream is None
    with pytest.raises(ResourceNotFoundError, match="no enabled stream"):
        engine.catalog.enabled_stream("pets")


async def test_a_name_is_given_once(engine: Engine) -> None:
    creations = [engine.catalog.create_table(NewTable(name="pets", partition_key=ID)) for _ in range(3)]
    results = await asyncio.gather(*creations, return_exceptions=True)
    assert sorted(isinstance(result, ResourceInUseError) for result in results) == [False, True, True]
    assert len(engine.catalog.tables.all()) == 1


async def test_what_is_not_there_is_named(engine: Engine) -> None:
    with pytest.raises(ResourceNotFoundError, match="Table: pets not found") as missing:
        engine.catalog.open_table("pets")
    assert missing.value.metadata["table_name"] == "pets"
    for change in (engine.catalog.delete_table("pets"), engine.set_stream("pets", BOTH)):
        with pytest.raises(ResourceNotFoundError):
            await change
    with pytest.raises(ValidationError):
        engine.catalog.open_table("no/name")


@pytest.mark.parametrize("arn", ["", "pets", "arn:aws:dynamodb:north:000000000000:table/pets", "x:table/pets/stream/l"])
async def test_what_is_no_arn_of_a_stream_is_refused(engine: Engine, arn: str) -> None:
    with pytest.raises(ValidationError, match="not the ARN of a stream") as refused:
        engine.catalog.stream(arn)
    assert refused.value.metadata["field"] == "stream_arn"


async def test_an_arn_of_another_region_or_label_is_not_found(engine: Engine) -> None:
    table = await engine.table()
    assert table.stream is not None
    arn = engine.catalog.stream_arn(table.stream)
    for other in (
        arn.replace(REGION, "south"),
        arn.replace("000000000000", "1"),
        arn + "0",
        arn.replace("pets", "cats"),
    ):
        with pytest.raises(ResourceNotFoundError):
            engine.catalog.stream(other)


async def test_a_stream_is_disabled_and_a_new_one_enabled(engine: Engine) -> None:
    table = await engine.table()
    old = engine.catalog.enabled_stream("pets")
    await engine.committer.commit(put(engine, "pets", "a"))
    await engine.set_stream("pets", None)
    closed = engine.catalog.stream(engine.catalog.stream_arn(old))
    assert table.stream is None
    assert not closed.is_enabled
    # The stream stays the table's newest, and readable to its end.
    assert engine.catalog.newest_stream(table.definition) == closed
    assert engine.log.read(closed.shards[0], 0, 10).is_end
    await engine.committer.commit(put(engine, "pets", "unrecorded"))
    await engine.set_stream("pets", StreamViewType.KEYS_ONLY)
    await engine.committer.commit(put(engine, "pets", "b"))
    new = engine.catalog.enabled_stream("pets")
    assert new.label > old.label
    assert new.view_type == StreamViewType.KEYS_ONLY
    assert new.shards[0].id != old.shards[0].id
    assert engine.log.read(closed.shards[0], 0, 10).count == 1
    assert engine.log.read(new.shards[0], 0, 10).count == 1
    assert {stream.label for stream in engine.catalog.streams.all()} == {old.label, new.label}


async def test_nothing_to_change_is_refused(engine: Engine) -> None:
    await engine.table("with")
    await engine.table("without", None)
    for view_type in StreamViewType:
        with pytest.raises(ValidationError, match="already has an enabled stream: TableName: with"):
            await engine.set_stream("with", view_type)
    with pytest.raises(ValidationError, match="no stream to disable: TableName: without"):
        await engine.set_stream("without", None)


async def test_a_shard_ends_after_its_last_record_and_the_next_begins_after_that(engine: Engine) -> None:
    table = await engine.table()
    await engine.committer.commit(put(engine, "pets", "a"))
    await engine.set_stream("pets", None)
    await engine.set_stream("pets", BOTH)
    old, new = (stream.shards[0] for stream in engine.catalog.streams.all())
    assert old.ending_sequence_number is not None
    page = engine.log.read(old, 0, 10)
    assert (page.count, page.last_sequence_number) == (1, old.ending_sequence_number)
    assert new.starting_sequence_number > old.ending_sequence_number
    assert table.definition.stream_label == engine.catalog.streams.all()[-1].label


# All in one group: plans see what those before them in the group have planned.
async def test_a_stream_is_switched_many_times_in_one_group(engine: Engine) -> None:
    await engine.table()
    switches = [engine.set_stream("pets", view_type) for view_type in (None, BOTH, None, BOTH)]
    await asyncio.gather(*switches)
    streams = engine.catalog.streams.all()
    assert [stream.is_enabled for stream in streams] == [False, False, True]
    assert len({stream.label for stream in streams}) == 3


async def test_labels_are_never_given_twice_even_if_the_clock_goes_back(engine: Engine) -> None:
    labels = []
    for step in (0, 0, -10_000, 5, 0, -1):
        engine.clock.ms += step
        await engine.table()
        labels.append(engine.catalog.open_table("pets").definition.stream_label)
        await engine.set_stream("pets", None)
        await engine.set_stream("pets", BOTH)
        labels.append(engine.catalog.open_table("pets").definition.stream_label)
        # The next table of this name must not take over the streams of this one.
        await engine.catalog.delete_table("pets")
    assert len(set(labels)) == len(labels) == len(engine.catalog.streams.all())


async def test_a_deleted_table_leaves_no_items_and_a_readable_stream(engine: Engine) -> None:
    table, other = await engine.table("pets"), await engine.table("other")
    for name in ("pets", "other"):
        await engine.committer.commit(put(engine, name, "a"))
    stream = table.stream
    assert stream is not None
    deleted = await engine.catalog.delete_table("pets")
    assert deleted == table.definition
    assert table.is_deleted
    assert items_of(engine, table.definition.id) == []
    assert len(items_of(engine, other.definition.id)) == 1
    with pytest.raises(ResourceNotFoundError):
        engine.catalog.open_table("pets")
    closed = engine.catalog.stream(engine.catalog.stream_arn(stream))
    page = engine.log.read(closed.shards[0], 0, 10)
    # Deleting a table is not a change of its items: it leaves no REMOVE records.
    assert (page.count, page.is_end) == (1, True)


async def test_a_new_table_of_an_old_name_is_empty_and_another_table(engine: Engine) -> None:
    first = await engine.table()
    await engine.committer.commit(put(engine, "pets", "a"))
    await engine.catalog.delete_table("pets")
    second = await engine.table()
    assert second.definition.id > first.definition.id
    assert second.definition.uuid != first.definition.uuid
    assert items_of(engine, second.definition.id) == []
    assert not second.is_deleted


async def test_a_put_that_finds_its_table_deleted_in_the_same_group_is_refused(engine: Engine) -> None:
    table = await engine.table()
    async with asyncio.timeout(TIMEOUT_S):
        results = await asyncio.gather(
            engine.committer.commit(put(engine, "pets", "before")),
            engine.catalog.delete_table("pets"),
            engine.committer.commit(put(engine, "pets", "after")),
            engine.catalog.create_table(NewTable(name="pets", partition_key=ID, view_type=BOTH)),
            engine.committer.commit(put(engine, "pets", "of the old table")),
            return_exceptions=True,
        )
    refused = [result for result in results if isinstance(result, HeadraceError)]
    assert [type(error) for error in refused] == [TableNotFoundError, TableNotFoundError]
    assert results[2] is refused[0]
    assert results[4] is refused[1]
    again = engine.catalog.open_table("pets")
    assert again is not table
    assert items_of(engine, table.definition.id) == items_of(engine, again.definition.id) == []


async def test_the_shard_of_a_key_is_the_open_one_that_covers_its_hash(engine: Engine) -> None:
    table = await engine.table()
    assert table.stream is not None
    for key_hash in (0, 1, HASH_MAX):
        assert table.shard_of(key_hash) == table.stream.shards[0]
    left, right = await engine.catalog.split_shard(table.stream, table.stream.shards[0].shard_id, 1000)
    assert [table.shard_of(key_hash) for key_hash in (0, 999, 1000, HASH_MAX)] == [left, left, right, right]


async def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    async with running(store, FakeClock()) as engine:
        await engine.table("pets", sort_key=AT)
        await engine.table("gone")
        await engine.table("quiet", None)
        await engine.committer.commit(put(engine, "gone", "a"))
        await engine.set_stream("pets", None)
        await engine.set_stream("pets", StreamViewType.OLD_IMAGE)
        await engine.catalog.delete_table("gone")
        tables, streams = engine.catalog.tables.all(), engine.catalog.streams.all()
    store.close()
    del store, engine
    again = Store(tmp_path / "store")
    async with running(again, FakeClock()) as engine:
        assert engine.catalog.tables.all() == tables
        assert engine.catalog.streams.all() == streams
        opened = engine.catalog.open_table("pets")
        assert opened.stream is not None
        assert opened.stream.view_type == StreamViewType.OLD_IMAGE
        assert engine.catalog.open_table("quiet").stream is None
        created = await engine.catalog.create_table(NewTable(name="gone", partition_key=ID, view_type=BOTH))
        assert created.id > max(table.id for table in tables)
        assert created.id > max(shard.id for stream in streams for shard in stream.shards)
    again.close()


INDEX = Index(name="by-at", id=0, is_global=True, partition_keys=(AT,), projection_type=ProjectionType.KEYS_ONLY)


async def put_under(engine: Engine, *ids: int) -> None:
    """Makes an entry under each id, as an index has them."""

    def does(group: Group) -> None:
        for id_ in ids:
            group.put(Family.INDEXES, table_prefix(id_) + b"entry", b"")

    await engine.do(does)


def ids_held(engine: Engine) -> set[int]:
    return {int.from_bytes(key[:4], "big") for key, _ in engine.store.scan(Family.INDEXES, b"", b"\xff" * 8)}


async def test_indexes_get_ids_that_nothing_else_has_and_keep_them(engine: Engine) -> None:
    opened = await engine.table(
        sort_key=AT,
        indexes=(INDEX, replace(INDEX, name="local", is_global=False, partition_keys=(ID,), sort_keys=(AT,))),
    )
    local, by_at = opened.definition.indexes
    assert [local.name, by_at.name] == ["local", "by-at"]
    added = replace(INDEX, name="added")
    change = TableChange(new_indexes=(added,), definitions={"at": AT.type})
    after = await engine.catalog.update_table("pets", change)
    assert [index.name for index in after.indexes] == ["local", "added", "by-at"]
    assert (after.indexes[0], after.indexes[2]) == (local, by_at)
    assert after.indexes[1] == replace(added, id=after.indexes[1].id, is_backfilling=True)
    assert len({opened.definition.id, *(index.id for index in after.indexes)}) == 4
    again = await engine.table("others", indexes=(INDEX,))
    assert again.definition.indexes[0].id > max(index.id for index in after.indexes)


async def test_an_index_that_goes_takes_its_entries_along_and_no_others(engine: Engine) -> None:
    opened = await engine.table(indexes=(INDEX, replace(INDEX, name="other")))
    by_at, other = opened.definition.indexes
    await put_under(engine, by_at.id, other.id, other.id + 1)
    await engine.catalog.update_table("pets", TableChange(deleted_indexes=("by-at",)))
    assert opened.definition.indexes == (other,)
    assert ids_held(engine) == {other.id, other.id + 1}


async def test_an_index_that_is_being_filled_can_go_but_not_be_provisioned(engine: Engine) -> None:
    one = Throughput(read_units=1, write_units=1)
    await engine.catalog.create_table(NewTable(name="pets", partition_key=ID, throughput=one))
    new = replace(INDEX, throughput=one)
    await engine.catalog.update_table("pets", TableChange(new_indexes=(new,), definitions={"at": AT.type}))
    two = replace(one, read_units=2)
    with pytest.raises(ResourceInUseError, match="Index is being created: by-at"):
        await engine.catalog.update_table(
            "pets", TableChange(index_settings=(IndexSettings(name="by-at", throughput=two),))
        )
    after = await engine.catalog.update_table("pets", TableChange(deleted_indexes=("by-at",)))
    assert after.indexes == ()


async def test_an_index_is_active_when_its_filling_is_finished(engine: Engine) -> None:
    await engine.table()
    change = TableChange(new_indexes=(INDEX,), definitions={"at": AT.type})
    index = (await engine.catalog.update_table("pets", change)).indexes[0]
    other = (await engine.catalog.update_time_to_live("pets", "until", is_enabled=True)).time_to_live
    assert other is not None
    assert other.is_backfilling
    await engine.catalog.finish_backfill("pets", index.id)
    now = engine.catalog.open_table("pets").definition
    assert now.indexes == (replace(index, is_backfilling=False),)
    assert now.time_to_live == other
    await engine.catalog.finish_backfill("pets", other.id)
    now = engine.catalog.open_table("pets").definition
    assert now.time_to_live == replace(other, is_backfilling=False)
    assert engine.catalog.tables.get("pets") == now


async def test_to_finish_filling_what_is_gone_changes_nothing(engine: Engine) -> None:
    table = await engine.table()
    before = table.definition
    await engine.catalog.finish_backfill("pets", before.id)
    await engine.catalog.finish_backfill("pets", 999)
    await engine.catalog.finish_backfill("nowhere", before.id)
    assert table.definition is before


async def test_expiry_that_ends_and_a_table_that_goes_take_their_entries_along(engine: Engine) -> None:
    opened = await engine.table(indexes=(INDEX,))
    (index,) = opened.definition.indexes
    first = (await engine.catalog.update_time_to_live("pets", "until", is_enabled=True)).time_to_live
    assert first is not None
    await put_under(engine, index.id, first.id)
    await engine.catalog.update_time_to_live("pets", "until", is_enabled=False)
    assert ids_held(engine) == {index.id}
    second = (await engine.catalog.update_time_to_live("pets", "until", is_enabled=True)).time_to_live
    assert second is not None
    assert second.id != first.id
    # Under the table's own id are the sizes of item collections.
    table_id = engine.catalog.open_table("pets").definition.id
    await put_under(engine, table_id, second.id, second.id + 1)
    await engine.catalog.delete_table("pets")
    assert ids_held(engine) == {second.id + 1}


async def test_what_goes_is_told_by_its_id(store: Store, clock: FakeClock) -> None:
    async with running(store, clock) as engine:
        gone: list[int] = []
        catalog = Catalog(store, engine.committer, REGION, Random(1), gone.append)
        table = await catalog.create_table(
            NewTable(name="pets", partition_key=ID, indexes=(INDEX, replace(INDEX, name="other")))
        )
        by_at, other = table.indexes
        await catalog.update_table("pets", TableChange(deleted_indexes=("by-at",)))
        assert gone == [by_at.id]
        await catalog.delete_table("pets")
        assert gone == [by_at.id, table.id, other.id]


async def test_a_protected_table_keeps_its_items_and_its_stream(engine: Engine) -> None:
    await engine.catalog.create_table(NewTable(name="pets", partition_key=ID, view_type=BOTH, is_protected=True))
    before = engine.catalog.open_table("pets")
    await engine.committer.commit(put(engine, "pets", "rex"))
    with pytest.raises(ValidationError, match="protected against deletion"):
        await engine.catalog.delete_table("pets")
    assert engine.catalog.open_table("pets") is before
    assert engine.catalog.enabled_stream("pets") is before.stream
    assert len(items_of(engine, before.definition.id)) == 1


async def test_a_definition_written_before_there_were_indexes_still_opens(store: Store, clock: FakeClock) -> None:
    old = (
        b'{"name":"pets","id":1,"uuid":"u","create_time_ms":1,"partition_key":{"name":"id","type":"S"},"sort_key":null,'
        b'"stream_label":"","stream_settings":{"retention_seconds":60,"retention_bytes":0,"min_shards":1,'
        b'"max_shards":null}}'
    )
    store.write({Family.CATALOG: {b"table/pets": old}}, ())
    async with running(store, clock) as engine:
        table = engine.catalog.open_table("pets").definition
        assert (table.indexes, table.time_to_live, table.throughput) == ((), None, None)
        assert (table.is_protected, table.tags) == (False, {})


async def test_a_definition_is_found_again_whole(store: Store, clock: FakeClock) -> None:
    one = Throughput(read_units=1, write_units=1)
    new = NewTable(
        name="pets",
        partition_key=ID,
        sort_key=AT,
        indexes=(replace(INDEX, projection_type=ProjectionType.INCLUDE, non_key_attributes=("a",), throughput=one),),
        throughput=one,
        is_protected=True,
        tags={"team": "blue"},
    )
    async with running(store, clock) as engine:
        await engine.catalog.create_table(new)
        before = await engine.catalog.update_time_to_live("pets", "until", is_enabled=True)
    async with running(store, clock) as engine:
        assert engine.catalog.open_table("pets").definition == before


async def test_a_table_of_a_store_from_before_there_were_settings_has_the_defaults(engine: Engine) -> None:
    index = (
        '{"name":"by-at","id":2,"is_global":true,"partition_key":{"name":"at","type":"N"},"sort_key":null,'
        '"projection_type":"ALL","non_key_attributes":[],"is_backfilling":false,"throughput":null}'
    )
    document = (
        '{"name":"old","id":1,"uuid":"u","create_time_ms":77,"partition_key":{"name":"id","type":"S"},"sort_key":null,'
        '"stream_label":"","stream_settings":{"retention_seconds":86400,"retention_bytes":0,"min_shards":1,'
        f'"max_shards":null}},"indexes":[{index}],"time_to_live":null,"throughput":null,"is_protected":false,"tags":{{}}}}'
    )
    await engine.do(lambda group: group.put(Family.CATALOG, b"table/old", document.encode()))
    table = Catalog(engine.store, engine.committer, REGION, Random(1)).open_table("old").definition
    for limited in (table, table.indexes[0]):
        assert limited.warm_throughput == Throughput(read_units=12_000, write_units=4_000)
        assert limited.on_demand_maximum is None
        assert limited.throughput_changes == ThroughputChanges()
    assert table.last_on_demand_ms == 77
    assert (table.table_class, table.encryption, table.restored_from) == (None, None, None)


async def test_a_stream_that_was_merged_before_there_were_seams_is_shown_as_a_tree(
    store: Store, clock: FakeClock
) -> None:
    async with running(store, clock) as engine:
        table = await engine.table(min_shards=2)
        assert table.stream is not None
        left, right = table.stream.shards
        merged = await engine.catalog.merge_shards(table.stream, left.shard_id, right.shard_id)
        name = table.stream.name
    (key,) = [key for key, _ in store.scan(Family.CATALOG, b"stream/", b"stream0")]
    value = store.get(Family.CATALOG, key)
    assert value is not None
    old = re.sub(rb',"seams":\[\d*\]|,"automatic_merges":false|,"roll_seconds":null', b"", value)
    assert b"seams" not in old
    store.write({Family.CATALOG: {key: old}}, ())
    async with running(store, clock) as engine:
        stream = engine.catalog.streams.get(name)
        assert stream is not None
        assert stream.shards[-1] == merged
        assert merged.seams == (2**63,)
