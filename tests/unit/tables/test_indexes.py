"""Index entries: after each kind of write the store holds the entries of the items that are there, and no others."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from broker.encoding.items import canonicalize, parse_item
from broker.encoding.keys import ItemKey, table_prefix
from broker.expressions.placeholders import Placeholders
from broker.expressions.update import parse_update
from broker.model.clock import Version
from broker.model.tables import Index, KeyAttribute, KeyAttributeType, ProjectionType
from broker.model.values import Value
from broker.replication.apply import ApplyChange
from broker.storage.commit import Operation
from broker.storage.layout import decode_item
from broker.storage.rocks import Family
from broker.tables.capacity import CapacityMetering
from broker.tables.catalog import OpenTable
from broker.tables.operations import Change, Delete, Put
from broker.tables.transactions import RequestTokens, Transaction
from tests.unit.engine import AT, ID, NOON_MS, Engine
from tests.values import Attributes, attributes, from_item, item

STAGE = KeyAttribute(name="stage", type=KeyAttributeType.STRING)
AMOUNT = KeyAttribute(name="amount", type=KeyAttributeType.NUMBER)
PROJECTED: dict[ProjectionType, frozenset[str] | None] = {
    ProjectionType.ALL: None,
    ProjectionType.KEYS_ONLY: frozenset(),
    ProjectionType.INCLUDE: frozenset(("kept",)),
}
EXPIRES = "expires"


def indexes() -> tuple[Index, ...]:
    """A local and a global index of each projection."""
    return tuple(
        Index(
            name=f"{'global' if is_global else 'local'}-{projection}",
            id=0,
            is_global=is_global,
            partition_keys=(STAGE,) if is_global else (ID,),
            sort_keys=(AMOUNT,) if is_global else (STAGE,),
            projection_type=projection,
            non_key_attributes=tuple(names or ()),
        )
        for is_global in (False, True)
        for projection, names in PROJECTED.items()
    )


def in_order(entries: Iterable[Attributes]) -> list[Attributes]:
    return sorted(entries, key=lambda entry: sorted(map(repr, entry.items())))


class Pets:
    """A table with all kinds of indexes, and the items that it must hold."""

    def __init__(self, engine: Engine, table: OpenTable) -> None:
        self.engine = engine
        self.table = table
        self.items: dict[str, Attributes] = {}

    async def carry_out(self, write: Operation) -> None:
        await self.engine.committer.commit(write)
        self.check()

    async def transact(self, *writes: Put | Delete | Change) -> None:
        metering, tokens = CapacityMetering(self.engine.clock), RequestTokens(self.engine.store)
        await self.carry_out(Transaction(writes, metering, tokens, None))

    def put(self, **plain: object) -> Put:
        content = item({"at": 1, **plain})
        self.items[str(plain["id"])] = from_item(content)
        return Put(self.table, self.table.keys.of_item(content), canonicalize(content), None)

    def delete(self, id_: str) -> Delete:
        del self.items[id_]
        return Delete(self.table, self.key(id_), None)

    def change(self, id_: str, text: str, after: dict[str, object], **values: Value) -> Change:
        """An update; `after` is what it makes of the item."""
        self.items[id_] = attributes({"id": id_, "at": 1, **after})
        update = parse_update(text, Placeholders({}, {f":{name}": of for name, of in values.items()}))
        return Change(self.table, self.key(id_), update, None, 0)

    def key(self, id_: str) -> ItemKey:
        return self.table.keys.of_key(item(id=id_, at=1))

    def check(self) -> None:
        """Compares the entries in the store with those that follow from the items, index by index."""
        for index in self.table.definition.indexes:
            keys = {"id", "at", *(attribute.name for attribute in index.key_attributes)}
            projected = PROJECTED[index.projection_type]
            expected = [
                {name: of for name, of in content.items() if projected is None or name in keys | projected}
                for content in self.items.values()
                if keys <= content.keys()
            ]
            held = [from_item(parse_item(decode_item(each).item.encoded)) for each in self._values(index.id)]
            assert in_order(held) == in_order(expected), index.name
            assert self.engine.catalog.size_of(index.id)[0] == len(expected), index.name
        time_to_live = self.table.definition.time_to_live
        assert time_to_live is not None
        assert len(self._values(time_to_live.id)) == sum(EXPIRES in content for content in self.items.values())

    def _values(self, id_: int) -> list[bytes]:
        entries = self.engine.store.scan(Family.INDEXES, table_prefix(id_), table_prefix(id_ + 1))
        return [content for _, content in entries]


@pytest.fixture
async def pets(engine: Engine) -> Pets:
    """Two items in all indexes, one in none."""
    await engine.table(sort_key=AT, indexes=indexes())
    await engine.catalog.update_time_to_live("pets", EXPIRES, is_enabled=True)
    pets = Pets(engine, engine.catalog.open_table("pets"))
    for id_ in "ab":
        await pets.carry_out(pets.put(id=id_, stage="open", amount=1, kept=1, rest=1, expires=2_000_000_000))
    await pets.carry_out(pets.put(id="c"))
    return pets


async def test_a_put_over_an_item_moves_changes_and_removes_its_entries(pets: Pets) -> None:
    whole = {"stage": "open", "amount": 1, "kept": 1, "rest": 1, "expires": 2_000_000_000}
    for changed in (
        {"stage": "shut"},
        {"amount": 2},
        {"kept": 2},
        {"rest": 2},
        {"expires": 2_000_000_001},
        {"stage": "shut", "amount": 3, "kept": 3, "rest": 3},
    ):
        await pets.carry_out(pets.put(id="a", **(whole | changed)))
    for left_out in whole:
        await pets.carry_out(pets.put(id="a", **whole))
        await pets.carry_out(pets.put(id="a", **{name: of for name, of in whole.items() if name != left_out}))
    await pets.carry_out(pets.put(id="a"))


async def test_a_delete_removes_all_entries_of_its_item_and_no_others(pets: Pets) -> None:
    for id_ in "acb":
        await pets.carry_out(pets.delete(id_))


async def test_an_update_moves_changes_and_removes_the_entries_of_its_item(pets: Pets) -> None:
    after: dict[str, object] = {"stage": "open", "amount": 1, "kept": 1, "rest": 1, "expires": 2_000_000_000}
    for text, changed in (
        ("SET stage = :s", {"stage": "shut"}),
        ("SET amount = amount + :n", {"amount": 3}),
        ("ADD amount :n", {"amount": 5}),
        ("SET kept = :n", {"kept": 2}),
        ("SET rest = :n", {"rest": 2}),
        ("SET expires = expires + :n", {"expires": 2_000_000_002}),
        ("REMOVE kept", {"kept": None}),
        ("REMOVE stage", {"stage": None}),
        ("SET stage = :s REMOVE amount", {"stage": "shut", "amount": None}),
        ("REMOVE expires", {"expires": None}),
        ("SET amount = :n, kept = :n", {"amount": 2, "kept": 2}),
    ):
        after = {name: of for name, of in (after | changed).items() if of is not None}
        values: dict[str, Value] = {"s": ("S", "shut"), "n": ("N", "2")}
        used = {name: of for name, of in values.items() if f":{name}" in text}
        await pets.carry_out(pets.change("a", text, after, **used))
    new = pets.change("new", "SET stage = :s, amount = :n", {"stage": "x", "amount": 7}, s=("S", "x"), n=("N", "7"))
    await pets.carry_out(new)


async def test_a_transaction_moves_and_removes_the_entries_of_its_items(pets: Pets) -> None:
    await pets.transact(
        pets.put(id="a", stage="shut", amount=1, kept=1),
        pets.change("c", "SET stage = :s, amount = :n", {"stage": "open", "amount": 9}, s=("S", "open"), n=("N", "9")),
        pets.delete("b"),
    )
    await pets.transact(
        pets.delete("a"), pets.change("c", "REMOVE amount SET stage = :s", {"stage": "shut"}, s=("S", "shut"))
    )


async def test_writes_of_one_item_in_one_group_leave_the_entry_of_the_last(pets: Pets) -> None:
    writes = [pets.put(id="a", stage=f"stage{number}", amount=number) for number in range(5)]
    await pets.engine.committer.submit([*writes, pets.delete("b")])
    pets.check()
    await pets.engine.committer.submit([pets.put(id="d", stage="open", amount=1), pets.delete("d")])
    pets.check()


async def test_changes_made_elsewhere_move_and_remove_entries(pets: Pets) -> None:
    newer = NOON_MS + 1000
    moved = pets.put(id="a", stage="shut", amount=2, kept=2)
    await pets.carry_out(ApplyChange(pets.table, moved.key, moved.item, Version(newer << 16, "south")))
    pets.delete("b")
    await pets.carry_out(ApplyChange(pets.table, pets.key("b"), None, Version(newer << 16, "south")))
