"""SIGKILL while an index is filled, again and again, beside writers: in the end it holds exactly what it should."""

from __future__ import annotations

import asyncio
import random

import grpc
import pytest

from headrace.v1 import item_service_pb2 as pb
from headrace.v1 import table_pb2
from headrace.v1.table_service_pb2 import (
    DescribeTableRequest,
    GlobalSecondaryIndexUpdate,
    UpdateTableRequest,
)
from tests.broker_process import BrokerProcess
from tests.conftest import eventually
from tests.rpc import Client, TestTable, batch, definitions, delete, global_index, put
from tests.values import Attributes, from_item, item, to_attribute_value, value

pytestmark = [pytest.mark.crash, pytest.mark.timeout(300)]

ITEMS = 6_000
BATCH = 500


def through_index(client: Client, table: TestTable) -> list[Attributes]:
    """All entries of the index."""
    found: list[Attributes] = []
    start = None
    while True:
        page = client.items.Query(
            pb.QueryRequest(
                table_name=table.name,
                index_name="by-stage",
                key_condition_expression="stage = :s",
                expression_attribute_values={":s": to_attribute_value(value("open"))},
                exclusive_start_key=start,
            )
        )
        found += [from_item(each) for each in page.items]
        if not page.HasField("last_evaluated_key"):
            return found
        start = page.last_evaluated_key


def index_of(client: Client, table: TestTable) -> table_pb2.IndexDescription:
    (index,) = client.tables.DescribeTable(DescribeTableRequest(table_name=table.name)).table.global_secondary_indexes
    return index


async def test_an_index_is_filled_over_crashes(
    crashing: BrokerProcess, table: TestTable, rng: random.Random, rounds: int
) -> None:
    with Client(crashing.grpc) as client:
        client.write_items(
            *(
                batch(table.name, *(put(item(id=f"k{n}", stage="open", n=n)) for n in range(first, first + BATCH)))
                for first in range(0, ITEMS, BATCH)
            )
        )
        request = UpdateTableRequest(table_name=table.name, attribute_definitions=definitions("stage:S"))
        create = global_index("by-stage", "stage")
        request.global_secondary_index_updates.append(GlobalSecondaryIndexUpdate(create=create))
        client.tables.UpdateTable(request)
    kills = 0
    for round_ in range(rounds):
        with Client(crashing.grpc) as client:
            if not index_of(client, table).backfilling:
                break
            # Some that the backfill has passed, some that it will come to.
            chosen = [f"k{rng.randrange(ITEMS)}" for _ in range(20)]
            writes = [
                delete(item(id=key)) if rng.random() < 0.5 else put(item(id=key, stage="open", n=-round_))
                for key in chosen
            ]
            try:
                client.write_items(batch(table.name, *writes))
            except grpc.RpcError as error:
                raise AssertionError(f"a write failed: {error}") from error
        # The moment of the crash is what the test varies.
        await asyncio.sleep(rng.uniform(0, 0.05))
        crashing.kill()
        kills += 1
        crashing.start()
    assert kills > 0
    with Client(crashing.grpc) as client:
        eventually(lambda: not index_of(client, table).backfilling, timeout_s=30)
        contents = client.contents(table)
        found = through_index(client, table)
        assert {entry["id"]: entry for entry in found} == {key[0]: content for key, content in contents.items()}
        assert (len(found), index_of(client, table).item_count) == (len(contents), len(contents))
