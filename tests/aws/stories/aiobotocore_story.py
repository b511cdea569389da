"""aiobotocore: many calls at once over one client, a paginator, a waiter, errors."""

from __future__ import annotations

import asyncio

from aiobotocore.session import get_session

TABLE = "aiobotocore-orders"
CALLS = 200


async def main() -> None:
    async with get_session().create_client("dynamodb") as client:
        await client.create_table(
            TableName=TABLE,
            KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}, {"AttributeName": "line", "KeyType": "RANGE"}],
            AttributeDefinitions=[
                {"AttributeName": "id", "AttributeType": "S"},
                {"AttributeName": "line", "AttributeType": "N"},
            ],
            BillingMode="PAY_PER_REQUEST",
        )
        await client.get_waiter("table_exists").wait(TableName=TABLE)
        await asyncio.gather(
            *(
                client.update_item(
                    TableName=TABLE,
                    Key={"id": {"S": "a"}, "line": {"N": str(number % 10)}},
                    UpdateExpression="ADD n :one",
                    ExpressionAttributeValues={":one": {"N": "1"}},
                )
                for number in range(CALLS)
            )
        )
        lines = []
        async for page in client.get_paginator("query").paginate(
            TableName=TABLE,
            KeyConditionExpression="id = :id",
            ExpressionAttributeValues={":id": {"S": "a"}},
            PaginationConfig={"PageSize": 3},
        ):
            lines += page["Items"]
        assert [line["line"]["N"] for line in lines] == [str(number) for number in range(10)]
        assert sum(int(line["n"]["N"]) for line in lines) == CALLS
        try:
            await client.put_item(TableName=TABLE, Item=lines[0], ConditionExpression="attribute_not_exists(id)")
        except client.exceptions.ConditionalCheckFailedException:
            pass
        else:
            raise AssertionError("the condition does not hold")
        await client.delete_table(TableName=TABLE)
        await client.get_waiter("table_not_exists").wait(TableName=TABLE)
    print("done")


if __name__ == "__main__":
    asyncio.run(main())
