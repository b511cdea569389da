"""Request tokens at their bounds, and what a transaction consumes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from broker.encoding.items import canonicalize
from broker.expressions.condition import parse_condition
from broker.expressions.placeholders import Placeholders
from broker.model.errors import (
    IdempotentParameterMismatchError,
    ProvisionedThroughputExceededError,
    ThrottlingError,
    TransactionCanceledError,
)
from broker.model.tables import Index, KeyAttribute, KeyAttributeType, ProjectionType, Throughput
from broker.storage.rocks import Family, Store
from broker.tables import transactions
from broker.tables.capacity import BURST_SECONDS, CapacityMetering
from broker.tables.catalog import OpenTable
from broker.tables.definition import BillingMode, TableChange
from broker.tables.operations import Check, Delete, Put
from broker.tables.settings import IndexSettings
from broker.tables.transactions import TOKEN_SECONDS, RequestToken, RequestTokens, Transaction
from tests.unit.engine import Engine, FakeClock, running
from tests.values import item

MISSING = parse_condition("attribute_not_exists(id)", Placeholders({}, {}))


def put(table: OpenTable, key: str, **more: object) -> Put:
    whole = item({"id": key, **more})
    return Put(table, table.keys.of_item(whole), canonicalize(whole), None)


def token(name: str, digest: bytes = b"d") -> RequestToken:
    return RequestToken(name=name, digest=digest)


async def carry_out(engine: Engine, tokens: RequestTokens, *writes: Put | Check | Delete, name: str = "t") -> None:
    metering = CapacityMetering(engine.clock)
    await engine.committer.commit(Transaction(writes, metering, tokens, token(name)))


async def test_a_token_stands_for_ten_minutes_and_is_forgotten_then(engine: Engine) -> None:
    tokens, table = RequestTokens(engine.store), await engine.table()
    await carry_out(engine, tokens, put(table, "a"))
    engine.clock.ms += TOKEN_SECONDS * 1000 - 1
    await carry_out(engine, tokens, put(table, "b"))
    assert engine.catalog.size_of(table.definition.id)[0] == 1, "nothing new came of it"
    with pytest.raises(IdempotentParameterMismatchError):
        await engine.do(lambda group: tokens.plan_check(group, token("t", b"other")))
    engine.clock.ms += 1
    await carry_out(engine, tokens, put(table, "b"))
    assert engine.catalog.size_of(table.definition.id)[0] == 2


async def test_tokens_have_a_bound_and_old_ones_make_room(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transactions, "TOKENS_MAX", 3)
    tokens, table = RequestTokens(engine.store), await engine.table()
    for number in range(3):
        await carry_out(engine, tokens, put(table, str(number)), name=str(number))
    with pytest.raises(ThrottlingError) as throttled:
        await carry_out(engine, tokens, put(table, "3"), name="3")
    assert throttled.value.metadata["limit"] == "3"
    # They go by generations, so that each stays for ten minutes at least and twenty at most.
    engine.clock.ms += 2 * TOKEN_SECONDS * 1000
    await carry_out(engine, tokens, put(table, "3"), name="3")
    assert tokens.count == RequestTokens(engine.store).count == 1
    # What is kept on disk is bounded, too.
    kept = [key for key, _ in engine.store.scan(Family.CATALOG, b"token/", b"token0")]
    assert len(kept) == 1
    assert len(list(engine.store.scan(Family.CATALOG, b"tokens/", b"tokens0"))) == 1


async def test_tokens_do_not_mind_a_clock_that_begins_at_nothing(store: Store) -> None:
    clock = FakeClock(0)
    async with running(store, clock) as engine:
        tokens, table = RequestTokens(store), await engine.table()
        for key in ("a", "b"):
            await carry_out(engine, tokens, put(table, key))
        assert engine.catalog.size_of(table.definition.id)[0] == 1
        clock.ms += TOKEN_SECONDS * 1000
        await carry_out(engine, tokens, put(table, "b"))
        assert engine.catalog.size_of(table.definition.id)[0] == 2


# The name of a token is all a client's, and what follows it on disk must not be taken for it.
async def test_tokens_that_begin_alike_are_not_confused(engine: Engine) -> None:
    tokens, table = RequestTokens(engine.store), await engine.table()
    for number, name in enumerate(("a", "aa", "a/", "\u00e9")):
        await carry_out(engine, tokens, put(table, str(number)), name=name)
    assert engine.catalog.size_of(table.definition.id)[0] == 4


async def test_tokens_are_there_after_a_restart(tmp_path: Path) -> None:
    store, clock = Store(tmp_path), FakeClock()
    async with running(store, clock) as engine:
        table = await engine.table()
        await carry_out(engine, RequestTokens(store), put(table, "a"))
    store.close()
    del store, engine, table
    again = Store(tmp_path)
    async with running(again, clock) as engine:
        table = engine.catalog.open_table("pets")
        await carry_out(engine, RequestTokens(again), put(table, "b"))
        assert engine.catalog.size_of(table.definition.id)[0] == 1
    again.close()


async def test_a_transaction_consumes_twice_also_if_it_is_cancelled(engine: Engine) -> None:
    tokens, table = RequestTokens(engine.store), await engine.table()
    metering = CapacityMetering(engine.clock)
    writes = [put(table, "a", text="x" * 1500), Check(table, table.keys.of_key(item(id="b")), MISSING)]
    (consumed,) = await engine.committer.commit(Transaction(writes, metering, tokens, None))
    assert consumed.total.writes == 2 * 2 + 2 * 1
    writes = [Check(table, table.keys.of_key(item(id="a")), MISSING), put(table, "c")]
    with pytest.raises(TransactionCanceledError) as cancelled:
        await engine.committer.commit(Transaction(writes, metering, tokens, None))
    (consumed,) = cancelled.value.consumed
    # Of the item that is there.
    assert consumed.total.writes == 2 * 2 + 2 * 1
    (usage,) = metering.all()
    assert usage.write_units == 12
    # Also those that are innocent count by what they would have written.
    writes = [writes[0], put(table, "c", text="x" * 2500)]
    with pytest.raises(TransactionCanceledError) as cancelled:
        await engine.committer.commit(Transaction(writes, metering, tokens, None))
    (consumed,) = cancelled.value.consumed
    assert consumed.total.writes == 2 * 2 + 2 * 3


BY_STATE = Index(
    name="by-state",
    id=0,
    is_global=True,
    partition_keys=(KeyAttribute(name="state", type=KeyAttributeType.STRING),),
    projection_type=ProjectionType.ALL,
)


async def test_a_transaction_doubles_the_units_of_the_table_and_not_of_its_indexes(engine: Engine) -> None:
    tokens = RequestTokens(engine.store)
    table = await engine.table(indexes=(BY_STATE,))
    metering = CapacityMetering(engine.clock)
    for write, own, of_index in (
        (put(table, "a", state="x"), 2 * 1, 1),
        (put(table, "a", state="x", text="x" * 1500), 2 * 2, 2),
        # The entry moves: it is deleted and put.
        (put(table, "a", state="y", text="x" * 1500), 2 * 2, 2 + 2),
        (put(table, "a", state="y", text="x" * 1500), 2 * 2, 0),
        (Delete(table, table.keys.of_key(item(id="a")), None), 2 * 2, 2),
    ):
        (consumed,) = await engine.committer.commit(Transaction([write], metering, tokens, None))
        assert consumed.own.writes == own
        assert sum(units.writes for _, units in consumed.indexes.values()) == of_index


async def test_a_transaction_takes_from_the_bucket_of_an_index_as_a_single_write_does(engine: Engine) -> None:
    tokens, table = RequestTokens(engine.store), await engine.table(indexes=(BY_STATE,))
    metering = CapacityMetering(engine.clock)
    one = Throughput(read_units=1, write_units=1)
    change = TableChange(
        billing_mode=BillingMode.PROVISIONED,
        throughput=replace(one, write_units=100),
        index_settings=(IndexSettings(name="by-state", throughput=one),),
    )
    await engine.catalog.update_table("pets", change)
    # Of the 300 units that the index has saved these take 147, 147 and 6.
    for key, length in (("a", 150_000), ("b", 150_000), ("c", 5_500)):
        write = put(table, key, state="x", text="x" * length)
        await engine.committer.commit(Transaction([write], metering, tokens, None))
    with pytest.raises(TransactionCanceledError) as cancelled:
        await engine.committer.commit(Transaction([put(table, "d", state="x")], metering, tokens, None))
    (cause,) = cancelled.value.causes
    assert isinstance(cause, ProvisionedThroughputExceededError)
    assert cause.metadata["index_name"] == "by-state"


async def test_a_request_that_was_carried_out_before_only_reads(engine: Engine) -> None:
    tokens, table = RequestTokens(engine.store), await engine.table()
    metering = CapacityMetering(engine.clock)
    for units in ((0, 2 * 6), (2 * 2, 0)):
        transaction = Transaction([put(table, "a", text="x" * 5500)], metering, tokens, token("t"))
        (consumed,) = await engine.committer.commit(transaction)
        assert (consumed.total.reads, consumed.total.writes) == units


async def test_without_throughput_left_a_transaction_is_cancelled_as_a_whole(engine: Engine) -> None:
    tokens, table = RequestTokens(engine.store), await engine.table()
    metering = CapacityMetering(engine.clock)
    throughput = Throughput(read_units=1, write_units=1)
    await engine.catalog.update_table("pets", TableChange(billing_mode=BillingMode.PROVISIONED, throughput=throughput))
    large = [put(table, str(number), text="x" * 300_000) for number in range(2)]
    await engine.committer.commit(Transaction(large, metering, tokens, None))
    assert BURST_SECONDS * throughput.write_units < 2 * 600
    with pytest.raises(TransactionCanceledError) as cancelled:
        await engine.committer.commit(Transaction([put(table, "a"), put(table, "b")], metering, tokens, None))
    assert [type(cause) for cause in cancelled.value.causes] == [ProvisionedThroughputExceededError] * 2
    assert engine.catalog.size_of(table.definition.id)[0] == 2
