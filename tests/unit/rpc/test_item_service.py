"""ItemService where a test must hold the disk or the loop in its hand: what slips through, and what a page holds up."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

import pytest
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from broker.encoding.items import canonicalize
from broker.model.errors import ProvisionedThroughputExceededError, ThrottlingError
from broker.model.tables import Index, KeyAttribute, KeyAttributeType, ProjectionType, Throughput
from broker.rpc import item_service
from broker.rpc.item_service import ItemService
from broker.rpc.mirror import ITEM_SERVICE
from broker.tables.capacity import CapacityMetering
from broker.tables.catalog import OpenTable
from broker.tables.definition import BillingMode, TableChange
from broker.tables.operations import Put
from broker.tables.read import ItemReader
from broker.tables.transactions import RequestTokens
from headrace.v1 import item_service_pb2 as pb
from headrace.v1.attribute_value_pb2 import Item
from tests.unit.engine import AT, ID, Engine
from tests.values import from_item, item, to_attribute_value, value

BY_AMOUNT = Index(
    name="by-amount",
    id=0,
    is_global=False,
    partition_keys=(ID,),
    sort_keys=(KeyAttribute(name="amount", type=KeyAttributeType.NUMBER),),
    projection_type=ProjectionType.KEYS_ONLY,
)


@dataclass(frozen=True, slots=True)
class Service:
    """The service as the server calls it, on an engine."""

    engine: Engine
    service: ItemService

    async def call(self, name: str, request: Message) -> Any:
        method = ITEM_SERVICE.methods_by_name[name]
        mirrored = GetMessageClass(method.input_type).FromString(request.SerializeToString())
        response: Any = getattr(pb, method.output_type.name)
        return response.FromString(await getattr(self.service, name)(mirrored))

    async def put_all(self, table: OpenTable, *wholes: Item) -> None:
        await self.engine.committer.submit(
            [Put(table, table.keys.of_item(whole), canonicalize(whole), None) for whole in wholes]
        )


@pytest.fixture
def service(engine: Engine) -> Service:
    capacity, tokens = CapacityMetering(engine.clock), RequestTokens(engine.store)
    reader = ItemReader(engine.store, engine.committer)
    return Service(engine, ItemService(engine.catalog, engine.committer, reader, capacity, tokens))


def query(**fields: Any) -> pb.QueryRequest:
    return pb.QueryRequest(
        table_name="pets",
        key_condition_expression="id = :id",
        expression_attribute_values={":id": to_attribute_value(value("x"))},
        **fields,
    )


# Each looks at an item that is on its way to the disk, so that all of them wait before they answer.
@pytest.mark.parametrize("call", ["GetItem", "BatchGetItem", "TransactGetItems", "Query", "Scan"])
async def test_of_many_reads_side_by_side_none_slips_through(engine: Engine, service: Service, call: str) -> None:
    table = await engine.table()
    throughput = Throughput(read_units=1, write_units=1)
    await engine.catalog.update_table("pets", TableChange(billing_mode=BillingMode.PROVISIONED, throughput=throughput))
    begun = len(engine.journal.entries)
    engine.journal.hold()
    writing = asyncio.ensure_future(service.put_all(table, item(id="x", text="x" * 400_000)))
    await engine.journal.sync_begun(begun + 1)
    key = item(id="x")
    requests: dict[str, Message] = {
        "GetItem": pb.GetItemRequest(table_name="pets", key=key, consistent_read=True),
        "BatchGetItem": pb.BatchGetItemRequest(
            tables=[pb.TableKeys(table_name="pets", keys=[key], consistent_read=True)]
        ),
        "TransactGetItems": pb.TransactGetItemsRequest(transact_items=[pb.TransactGetItem(table_name="pets", key=key)]),
        "Query": query(consistent_read=True),
        "Scan": pb.ScanRequest(table_name="pets", consistent_read=True),
    }
    reading = [asyncio.create_task(service.call(call, requests[call])) for _ in range(10)]
    await asyncio.sleep(0)
    engine.journal.release()
    answers = await asyncio.gather(*reading, return_exceptions=True)
    await writing
    exceeded = sum(isinstance(answer, ProvisionedThroughputExceededError) for answer in answers)
    # 300 units are there; each takes 98, or in a transaction 196.
    assert 10 - exceeded == (2 if call == "TransactGetItems" else 4)


# An entry of one moment with an item of another would be an item that the query does not ask for.
async def test_a_page_of_a_local_index_completes_its_items_as_they_were(
    engine: Engine, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = await engine.table(sort_key=AT, indexes=(BY_AMOUNT,))
    await service.put_all(table, *(item(id="x", at=n, amount=n, kept="before") for n in range(200)))
    turn = asyncio.sleep

    async def change_everything_meanwhile(seconds: float) -> None:
        monkeypatch.undo()
        await turn(seconds)
        await service.put_all(table, *(item(id="x", at=n, amount=-1, kept="after") for n in range(0, 200, 2)))
        for n in range(1, 200, 2):
            await service.call("DeleteItem", pb.DeleteItemRequest(table_name="pets", key=item(id="x", at=n)))

    monkeypatch.setattr(asyncio, "sleep", change_everything_meanwhile)
    page = await service.call("Query", query(index_name="by-amount", select=pb.SELECT_ALL_ATTRIBUTES))
    assert [from_item(each)["amount"] for each in page.items] == [value(n) for n in range(200)]
    assert {each.attributes["kept"].s for each in page.items} == {"before"}


async def test_what_is_fetched_for_a_local_index_counts_for_the_page(engine: Engine, service: Service) -> None:
    table = await engine.table(sort_key=AT, indexes=(BY_AMOUNT,))
    await service.put_all(table, *(item(id="x", at=n, amount=n, text="x" * 100_000) for n in range(30)))
    nothing = {"filter_expression": "attribute_exists(nothing)", "select": pb.SELECT_ALL_ATTRIBUTES}
    scanned, start, pages = 0, None, 0
    while True:
        page = await service.call("Query", query(index_name="by-amount", exclusive_start_key=start, **nothing))
        assert (page.count, page.scanned_count <= 11) == (0, True)
        scanned += page.scanned_count
        pages += 1
        if not page.HasField("last_evaluated_key"):
            break
        start = page.last_evaluated_key
    assert (scanned, pages) == (30, 3)


# Others wait while a page is made. The bound is far above what it takes, and far below what the whole page does.
async def test_a_page_that_looks_into_large_items_lets_others_have_their_turns(
    engine: Engine, service: Service
) -> None:
    table = await engine.table(sort_key=AT)
    rich = [{"a": n, "b": "c"} for n in range(2_000)]
    await service.put_all(table, *(item(id="x", at=n, rich=rich) for n in range(30)))
    turns = 0
    longest = 0.0

    async def watch() -> None:
        nonlocal turns, longest
        last = time.perf_counter()
        while True:
            await asyncio.sleep(0)
            turns += 1
            last, before = time.perf_counter(), last
            longest = max(longest, last - before)

    watching = asyncio.create_task(watch())
    await asyncio.sleep(0)
    page = await service.call("Query", query(filter_expression="size(rich) < size(gone)"))
    watching.cancel()
    assert page.scanned_count > 20
    assert turns >= page.scanned_count // 4, f"longest hold {longest} s"


# Sent back whole, a batch must fit into a response, too.
async def test_a_batch_that_nobody_could_be_sent_back_is_refused(
    engine: Engine, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    await engine.table()

    def submit(_: object) -> None:
        raise ThrottlingError("busy", retry_after_ms=1)

    monkeypatch.setattr(engine.committer, "submit", submit)
    monkeypatch.setattr(item_service, "SHOWN_BYTES_MAX", 1_000_000)

    def batch(count: int) -> pb.BatchWriteItemRequest:
        puts = [pb.PutItemRequest(table_name="pets", item=item(id=str(n), text="x" * 300_000)) for n in range(count)]
        return pb.BatchWriteItemRequest(
            operations=[pb.WriteOperation(put=put) for put in puts],
            return_consumed_capacity=pb.RETURN_CONSUMED_CAPACITY_TOTAL,
        )

    response = await service.call("BatchWriteItem", batch(3))
    assert list(response.unprocessed_operations) == list(batch(3).operations)
    with pytest.raises(ThrottlingError):
        await service.call("BatchWriteItem", batch(4))
