"""SIGKILL of a real broker amid transactions: each is there as a whole or not at all, and there if it was acknowledged.

A transaction moves one from an account to another and notes that in a third item. So the notes say what all accounts
must hold, and accounts and notes are in different tables.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any

import grpc
import pytest

from headrace.v1 import item_service_pb2 as pb
from headrace.v1 import item_service_pb2_grpc
from tests.broker_process import BrokerProcess
from tests.rpc import Client, TestTable
from tests.values import item, to_attribute_value, value

pytestmark = [pytest.mark.crash, pytest.mark.timeout(600)]

ACCOUNTS = [f"account-{number}" for number in range(5)]
WRITERS = 8


def transfer(accounts: TestTable, notes: TestTable, note: str, payer: str, payee: str) -> pb.TransactWriteItemsRequest:
    def add(account: str, amount: int) -> pb.TransactWriteItem:
        return pb.TransactWriteItem(
            update=pb.UpdateItemRequest(
                table_name=accounts.name,
                key=item(id=account),
                update_expression="ADD balance :amount",
                expression_attribute_values={":amount": to_attribute_value(value(amount))},
            )
        )

    noted = pb.PutItemRequest(
        table_name=notes.name,
        item=item(id=note, payer=payer, payee=payee),
        condition_expression="attribute_not_exists(id)",
    )
    return pb.TransactWriteItemsRequest(
        transact_items=[add(payer, -1), pb.TransactWriteItem(put=noted), add(payee, 1)], client_request_token=note
    )


async def pay(endpoint: str, writer: str, make: Any, choices: random.Random, acknowledged: set[str]) -> None:
    """Makes transfers until the broker is gone."""
    async with grpc.aio.insecure_channel(endpoint) as channel:
        items: Any = item_service_pb2_grpc.ItemServiceStub(channel)
        for number in range(100_000):
            note = f"{writer}/{number}"
            try:
                await items.TransactWriteItems(make(note, *choices.sample(ACCOUNTS, 2)), timeout=20)
            except grpc.RpcError:
                return
            acknowledged.add(note)


async def test_transactions_are_whole_and_kept(
    crashing: BrokerProcess, table: TestTable, rng: random.Random, rounds: int
) -> None:
    with Client(crashing.grpc) as client:
        notes = client.create_table()
    acknowledged: set[str] = set()
    for round_ in range(max(2, rounds // 3)):

        def make(note: str, payer: str, payee: str) -> pb.TransactWriteItemsRequest:
            return transfer(table, notes, note, payer, payee)

        paying = [
            asyncio.create_task(
                pay(crashing.grpc, f"{round_}-{number}", make, random.Random(rng.random()), acknowledged)
            )
            for number in range(WRITERS)
        ]
        # The moment of the crash is what the test varies.
        await asyncio.sleep(rng.uniform(0.1, 0.6))
        crashing.kill()
        await asyncio.gather(*paying)
        crashing.start()
        with Client(crashing.grpc) as client:
            noted = {key[0][1]: content for key, content in client.contents(notes).items()}
            balances = {key[0][1]: int(content["balance"][1]) for key, content in client.contents(table).items()}
            recorded = client.records(notes.stream_arn)
        assert acknowledged <= noted.keys()
        expected = Counter[str]()
        for content in noted.values():
            expected[content["payee"][1]] += 1
            expected[content["payer"][1]] -= 1
        assert balances == {account: expected[account] for account in balances}
        assert expected.keys() <= balances.keys()
        assert {record.keys.attributes["id"].s for record in recorded} == noted.keys()
    assert len(acknowledged) > rounds


async def test_a_token_is_remembered_after_a_crash(crashing: BrokerProcess, table: TestTable) -> None:
    with Client(crashing.grpc) as client:
        notes = client.create_table()
        request = transfer(table, notes, "once", *ACCOUNTS[:2])
        client.items.TransactWriteItems(request)
    crashing.kill()
    crashing.start()
    with Client(crashing.grpc) as client:
        # Else its condition would cancel it.
        client.items.TransactWriteItems(request)
        assert len(client.records(notes.stream_arn)) == 1
