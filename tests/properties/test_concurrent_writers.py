"""32 writers at once, each on a connection of its own: nothing lost, nothing twice, each item's records in order."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import grpc

from headrace.v1 import item_service_pb2_grpc, table_service_pb2_grpc
from headrace.v1.item_service_pb2 import DeleteItemRequest, PutItemRequest
from headrace.v1.stream_service_pb2 import ListStreamsRequest
from headrace.v1.table_service_pb2 import DeleteTableRequest
from tests.guarantees import (
    Write,
    check_atomic,
    check_durable,
    check_ordered,
    check_reliable,
    check_unique,
    logged,
)
from tests.rpc import (
    DEADLINE_S,
    NEW_IMAGE,
    Client,
    TestTable,
    batch,
    create_table_request,
    put,
    refusal_of,
    unique_name,
)
from tests.values import Key, attributes, item, to_item, value

WRITERS = 32


@asynccontextmanager
async def connection(endpoint: str) -> AsyncIterator[item_service_pb2_grpc.ItemServiceAsyncStub]:
    """A stub on a connection that it shares with nobody."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(endpoint, options=options) as channel:
        yield item_service_pb2_grpc.ItemServiceStub(channel)  # type: ignore[misc]


def judge(client: Client, table: TestTable, writes: list[Write]) -> None:
    log, contents = logged(client.records(table.stream_arn)), client.contents(table)
    check_ordered(log)
    check_unique(log)
    check_durable(writes, contents)
    check_reliable(writes, log, table.key_names)
    check_atomic(log, contents, table.key_names)


async def test_32_unary_writers_of_items_of_their_own(client: Client, table: TestTable, rng: random.Random) -> None:
    async def writer(number: int, choices: random.Random) -> list[Write]:
        writes: list[Write] = []
        present: set[str] = set()
        async with connection(client.endpoint) as stub:
            for n in range(40):
                name = f"{number}/{choices.randrange(4)}"
                key: Key = (value(name),)
                if name in present and choices.random() < 0.3:
                    request = DeleteItemRequest(table_name=table.name, key=item(id=name))
                    await stub.DeleteItem(request, timeout=DEADLINE_S)
                    present.remove(name)
                    writes.append(Write(key=key, outcome=None))
                else:
                    await stub.PutItem(
                        PutItemRequest(table_name=table.name, item=item(id=name, n=n)), timeout=DEADLINE_S
                    )
                    present.add(name)
                    writes.append(Write(key=key, outcome=attributes(id=name, n=n)))
        return writes

    seeds = [random.Random(rng.random()) for _ in range(WRITERS)]
    histories = await asyncio.gather(*(writer(number, choices) for number, choices in enumerate(seeds)))
    judge(client, table, [write for history in histories for write in history])


async def test_32_batch_writers_of_items_of_their_own(client: Client, table: TestTable) -> None:
    async def writer(number: int) -> list[Write]:
        writes: list[Write] = []
        batches = []
        for round_ in range(10):
            chosen = [{"id": f"{number}/{n % 5}", "n": round_ * 25 + n} for n in range(25)]
            batches.append(batch(table.name, *(put(item(each)) for each in chosen)))
            writes += [Write(key=(value(each["id"]),), outcome=attributes(each)) for each in chosen]
        async with connection(client.endpoint) as stub:
            async for response in stub.WriteItems(iter(batches), timeout=DEADLINE_S):
                assert not any(result.HasField("error") for result in response.results)
        return writes

    histories = await asyncio.gather(*(writer(number) for number in range(WRITERS)))
    judge(client, table, [write for history in histories for write in history])


async def test_32_writers_of_the_same_few_items(client: Client, table: TestTable) -> None:
    async def writer(number: int) -> None:
        async with connection(client.endpoint) as stub:
            for n in range(30):
                content = item(id=str(n % 3), writer=number, n=n)
                await stub.PutItem(PutItemRequest(table_name=table.name, item=content), timeout=DEADLINE_S)

    await asyncio.gather(*(writer(number) for number in range(WRITERS)))
    log, contents = logged(client.records(table.stream_arn)), client.contents(table)
    check_ordered(log)
    check_unique(log)
    check_atomic(log, contents, table.key_names)
    written = Counter(
        (int(entry.change.new_image["writer"][1]), int(entry.change.new_image["n"][1]))
        for entry in log
        if entry.change.new_image is not None
    )
    assert written == Counter((number, n) for number in range(WRITERS) for n in range(30))


# The writer decides each condition against everything before it, also against what is not on disk yet.
async def test_of_32_writers_who_create_one_item_exactly_one_wins(client: Client, table: TestTable) -> None:
    async def writer(number: int) -> list[int]:
        won = []
        async with connection(client.endpoint) as stub:
            for n in range(30):
                request = PutItemRequest(
                    table_name=table.name,
                    item=item(id=str(n), winner=number),
                    condition_expression="attribute_not_exists(id)",
                )
                try:
                    await stub.PutItem(request, timeout=DEADLINE_S)
                    won.append(n)
                except grpc.aio.AioRpcError as error:
                    if error.code() is not grpc.StatusCode.FAILED_PRECONDITION:
                        raise
        return won

    wins = await asyncio.gather(*(writer(number) for number in range(WRITERS)))
    winners = {n: number for number, won in enumerate(wins) for n in won}
    assert sum(len(won) for won in wins) == len(winners) == 30
    assert client.contents(table) == {
        (value(str(n)),): attributes(id=str(n), winner=number) for n, number in winners.items()
    }
    assert len(client.records(table.stream_arn)) == 30


async def test_of_many_who_create_one_table_exactly_one_wins(client: Client) -> None:
    name = unique_name()

    async def create() -> bool:
        async with grpc.aio.insecure_channel(client.endpoint) as channel:
            stub: Any = table_service_pb2_grpc.TableServiceStub(channel)
            try:
                await stub.CreateTable(create_table_request(name, view_type=NEW_IMAGE), timeout=DEADLINE_S)
            except grpc.aio.AioRpcError as error:
                if refusal_of(error).reason != "RESOURCE_IN_USE":
                    raise
                return False
            return True

    assert sum(await asyncio.gather(*(create() for _ in range(WRITERS)))) == 1
    assert len(client.streams.ListStreams(ListStreamsRequest(table_name=name)).streams) == 1


# What is written to a table while it is deleted must go with it: a table made again under its name begins empty.
async def test_a_table_deleted_and_made_again_under_writers_holds_only_what_was_written_to_the_new_one(
    client: Client, rng: random.Random
) -> None:
    table = client.create_table()
    stop = asyncio.Event()
    refusals: set[str] = set()

    async def writer(number: int) -> list[Write]:
        """Returns its writes that were acknowledged, each with an outcome of its own."""
        writes = []
        async with connection(client.endpoint) as stub:
            for n in count():
                if stop.is_set():
                    break
                content = attributes(id=str(number), n=n)
                try:
                    await stub.PutItem(PutItemRequest(table_name=table.name, item=to_item(content)), timeout=DEADLINE_S)
                except grpc.aio.AioRpcError as error:
                    refusals.add(refusal_of(error).reason)
                else:
                    writes.append(Write(key=(value(str(number)),), outcome=content))
        return writes

    async def recreate() -> list[TestTable]:
        made = [table]
        for _ in range(10):
            await asyncio.to_thread(client.tables.DeleteTable, DeleteTableRequest(table_name=table.name))
            made.append(await asyncio.to_thread(client.create_table, name=table.name))
            await asyncio.sleep(rng.uniform(0, 0.02))
        stop.set()
        return made

    recreating = asyncio.create_task(recreate())
    histories = await asyncio.gather(*(writer(number) for number in range(8)))
    made = await recreating
    assert refusals <= {"RESOURCE_NOT_FOUND"}
    logs = [logged(client.records(each.stream_arn)) for each in made]
    for log in logs:
        check_ordered(log)
        check_unique(log)
    # Each acknowledged write is in one of the streams, and the last stream replayed is the table as it is.
    check_atomic(logs[-1], client.contents(made[-1]), made[-1].key_names)
    check_reliable([write for history in histories for write in history], [e for log in logs for e in log], ("id",))
