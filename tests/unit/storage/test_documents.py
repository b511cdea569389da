"""Documents: small, typed, in memory as planned and on disk as committed."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.model.errors import CorruptionError
from broker.model.tables import HASH_MAX, WARM_THROUGHPUT_DEFAULT, KeyAttribute, KeyAttributeType, Throughput
from broker.storage.documents import Documents
from broker.storage.rocks import Family, Store
from broker.tables.catalog import table_documents
from tests.unit.engine import ID, Engine, FakeClock, running

STAGE = KeyAttribute(name="stage", type=KeyAttributeType.STRING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pet:
    name: str
    number: int = 0
    tags: dict[str, int] = field(default_factory=dict)


def pets(store: Store) -> Documents[Pet]:
    return Documents(store, "pet", Pet)


async def put(engine: Engine, documents: Documents[Pet], *names: str) -> None:
    for name in names:
        await engine.do(lambda group, name=name: documents.put(group, name, Pet(name=name)))  # type: ignore[misc]


async def test_documents_are_there_after_a_restart(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    rex = Pet(name="rex", number=HASH_MAX, tags={"a": 1})
    async with running(store, FakeClock()) as engine:
        documents = pets(store)
        await engine.do(lambda group: documents.put(group, "rex", Pet(name="rex")))
        await engine.do(lambda group: documents.put(group, "rex", rex))
        await put(engine, documents, "tom")
        await engine.do(lambda group: documents.delete(group, "tom"))
        assert documents.all() == [rex]
    store.close()
    del store, engine
    again = Store(tmp_path / "store")
    assert pets(again).get("rex") == rex
    assert pets(again).get("tom") is None
    assert pets(again).all() == [rex]
    again.close()


async def test_kinds_do_not_mix_even_if_one_begins_with_the_other(engine: Engine) -> None:
    documents = pets(engine.store)
    other = Documents(engine.store, "pet-toy", Pet)
    await engine.do(lambda group: documents.put(group, "a", Pet(name="pet")))
    await engine.do(lambda group: other.put(group, "a", Pet(name="toy")))
    assert [pet.name for pet in pets(engine.store).all()] == ["pet"]
    assert [toy.name for toy in Documents(engine.store, "pet-toy", Pet).all()] == ["toy"]


async def test_a_group_that_is_planned_is_in_memory(engine: Engine) -> None:
    documents = pets(engine.store)
    engine.journal.hold()
    future = engine.committer.submit(())
    await engine.journal.sync_begun(1)
    assert documents.get("rex") is None
    engine.journal.release()
    await future
    await put(engine, documents, "rex")
    assert documents.get("rex") == Pet(name="rex")


NAMES = ["", "A", "Z", "a", "a-b", "a.b", "ab", "z", "\u00e9", "\uffff", "\U0001f600"]


async def test_pages_list_all_names_once_in_the_order_of_their_bytes(engine: Engine) -> None:
    documents = pets(engine.store)
    names = NAMES[1:]
    await put(engine, documents, *reversed(names))
    assert [pet.name for pet in documents.all()] == sorted(names, key=str.encode)

    @given(st.integers(1, 12), st.sampled_from([*NAMES, "aa", "zz"]))
    def check(limit: int, after: str) -> None:
        page, more = documents.page(after, limit)
        rest = [name for name in sorted(names, key=str.encode) if name.encode() > after.encode()]
        assert [pet.name for pet in page] == rest[:limit]
        assert more == (len(rest) > limit)

    check()


@pytest.mark.parametrize("broken", [b"", b"{", b'{"name": 1}', b"{}", b"null", b"\xff\xfe"])
def test_a_broken_document_is_not_believed(store: Store, broken: bytes) -> None:
    store.write({Family.CATALOG: {b"pet/rex": broken}})
    with pytest.raises(CorruptionError, match="pet/rex"):
        pets(store)


# As the commit before indexes had several key attributes has written it.
EARLIER_TABLE = b"""{"name":"pets","id":7,"uuid":"u","create_time_ms":5,"partition_key":{"name":"id","type":"S"},
"sort_key":{"name":"n","type":"N"},"stream_label":"","stream_settings":{"retention_seconds":86400,"retention_bytes":0,
"min_shards":1,"max_shards":null},"indexes":[{"name":"by-at","id":8,"is_global":false,"partition_key":{"name":"id",
"type":"S"},"sort_key":{"name":"at","type":"N"},"projection_type":"ALL","non_key_attributes":[],"is_backfilling":false,
"throughput":null},{"name":"by-stage","id":9,"is_global":true,"partition_key":{"name":"stage","type":"S"},"sort_key":
null,"projection_type":"INCLUDE","non_key_attributes":["note"],"is_backfilling":true,"throughput":{"read_units":1,
"write_units":2}}],"time_to_live":null,"throughput":null,"is_protected":false,"tags":{"team":"a"}}"""
EARLIER_KEYS = {"by-at": ((ID,), (KeyAttribute(name="at", type=KeyAttributeType.NUMBER),)), "by-stage": ((STAGE,), ())}


@pytest.mark.parametrize("kind", ["table", "restoring"])
async def test_a_table_of_an_earlier_version_has_its_indexes(engine: Engine, kind: str) -> None:
    engine.store.write({Family.CATALOG: {f"{kind}/pets".encode(): EARLIER_TABLE}})
    (table,) = table_documents(engine.store, kind).all()
    assert {index.name: (index.partition_keys, index.sort_keys) for index in table.indexes} == EARLIER_KEYS
    assert (table.partition_key, table.sort_keys) == (ID, (KeyAttribute(name="n", type=KeyAttributeType.NUMBER),))
    by_stage = table.indexes[1]
    assert (by_stage.id, by_stage.is_backfilling, by_stage.non_key_attributes) == (9, True, ("note",))
    assert by_stage.throughput == Throughput(read_units=1, write_units=2)
    assert by_stage.warm_throughput == table.warm_throughput == WARM_THROUGHPUT_DEFAULT
    # Written again, it is as today's version writes it.
    await engine.do(lambda group: table_documents(engine.store, kind).put(group, "pets", table))
    assert table_documents(engine.store, kind).all() == [table]


async def test_warm_throughput_of_an_earlier_version_is_at_least_what_is_provisioned(engine: Engine) -> None:
    document = EARLIER_TABLE.replace(b'"write_units":2', b'"write_units":4001')
    of_table = b'"throughput":{"read_units":12001,"write_units":4000},"is_protected"'
    document = document.replace(b'"throughput":null,"is_protected"', of_table)
    engine.store.write({Family.CATALOG: {b"table/pets": document}})
    (table,) = table_documents(engine.store).all()
    assert table.warm_throughput == Throughput(read_units=12_001, write_units=4_000)
    assert [index.warm_throughput for index in table.indexes] == [
        WARM_THROUGHPUT_DEFAULT,
        Throughput(read_units=12_000, write_units=4_001),
    ]


@pytest.mark.parametrize("damaged", [b"[]", b'{"indexes":5}', b'{"indexes":[5]}', b'{"name":"pets"}', b"{"])
async def test_a_table_that_no_version_has_written_is_told(engine: Engine, damaged: bytes) -> None:
    engine.store.write({Family.CATALOG: {b"table/pets": damaged}})
    with pytest.raises(CorruptionError, match="the table document b'table/pets' is not"):
        table_documents(engine.store)
