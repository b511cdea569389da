"""Global indexes whose keys have several attributes, through boto3.

Source: Developer Guide, "Multi-attribute keys pattern"; the texts of errors are the service's where they are known.
"""

# ruff: noqa: S608 - these statements are not SQL.

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from tests.aws.conftest import create_orders
from tests.conftest import eventually

TYPES = {"id": "S", "country": "S", "district": "N", "city": "S", "height": "N", "code": "B"}
BY_PLACE = {
    "IndexName": "by-place",
    "KeySchema": [
        {"AttributeName": "country", "KeyType": "HASH"},
        {"AttributeName": "district", "KeyType": "HASH"},
        {"AttributeName": "city", "KeyType": "RANGE"},
        {"AttributeName": "height", "KeyType": "RANGE"},
        {"AttributeName": "code", "KeyType": "RANGE"},
    ],
    "Projection": {"ProjectionType": "ALL"},
}
# In the order of the index: the city first, then the height as a number, then the code.
PLACES = [
    ("bergen", -5, b"\x01"),
    ("bergen", 2, b"\x00"),
    ("bergen", 2, b"\x00\x00"),
    ("bergen", 2, b"\x01"),
    ("bergen", 10, b"\x00"),
    ("bergen\x00", 1, b"\x00"),
    ("oslo", 0, b"\xff"),
    ("oslo", 1, b"\x00"),
    ("oslo", 1, b"\xff\xff"),
]
VALUES: dict[str, Any] = {
    ":no": {"S": "no"},
    ":one": {"N": "1"},
    ":two": {"N": "2.0"},
    ":ten": {"N": "1e1"},
    ":bergen": {"S": "bergen"},
    ":ber": {"S": "ber"},
    ":oslo": {"S": "oslo"},
    ":zero": {"B": b"\x00"},
    ":high": {"B": b"\xff"},
}
PARTITION = "country = :no AND district = :one"


def key_schema(partition: list[str], sort: list[str]) -> list[dict[str, str]]:
    return [
        *({"AttributeName": name, "KeyType": "HASH"} for name in partition),
        *({"AttributeName": name, "KeyType": "RANGE"} for name in sort),
    ]


def definitions(*names: str) -> list[dict[str, str]]:
    return [{"AttributeName": name, "AttributeType": TYPES.get(name, "S")} for name in names]


def create(dynamodb: Any, **more: Any) -> str:
    """Makes a table with the partition key `id`."""
    name = f"places-{create_orders(dynamodb)}"
    table = {
        "KeySchema": key_schema(["id"], []),
        "AttributeDefinitions": definitions("id"),
        "BillingMode": "PAY_PER_REQUEST",
    }
    dynamodb.create_table(TableName=name, **(table | more))
    return name


def place(number: int, city: str, height: int, code: bytes) -> dict[str, Any]:
    return {
        "id": {"S": str(number)},
        "country": {"S": "no"},
        "district": {"N": "1"},
        "city": {"S": city},
        "height": {"N": str(height)},
        "code": {"B": code},
    }


@pytest.fixture(scope="module")
def places(dynamodb: Any) -> str:
    """A table with the places of PLACES, and some that are in other partitions or have not all key attributes."""
    name = create(dynamodb, AttributeDefinitions=definitions(*TYPES), GlobalSecondaryIndexes=[BY_PLACE])
    for number, of in reversed(list(enumerate(PLACES))):
        dynamodb.put_item(TableName=name, Item=place(number, *of))
    for number, missing in enumerate(["country", "district", "city", "height", "code"], 100):
        item = place(number, "bergen", 2, b"\x00")
        del item[missing]
        dynamodb.put_item(TableName=name, Item=item)
    dynamodb.put_item(TableName=name, Item=place(200, "bergen", 2, b"\x00") | {"country": {"S": "se"}})
    dynamodb.put_item(TableName=name, Item=place(201, "bergen", 2, b"\x00") | {"district": {"N": "10"}})
    return name


def query(dynamodb: Any, table: str, condition: str, **more: Any) -> dict[str, Any]:
    values = {name: of for name, of in VALUES.items() if name in condition.replace(")", " ").replace(",", " ").split()}
    answer: dict[str, Any] = dynamodb.query(
        TableName=table,
        IndexName="by-place",
        KeyConditionExpression=condition,
        ExpressionAttributeValues=values,
        **more,
    )
    return answer


def numbers(items: list[dict[str, Any]]) -> list[int]:
    return [int(item["id"]["S"]) for item in items]


# 1. Definitions.


def test_a_key_of_several_attributes_is_described_as_it_was_asked_for(dynamodb: Any, places: str) -> None:
    table = dynamodb.describe_table(TableName=places)["Table"]
    (index,) = table["GlobalSecondaryIndexes"]
    assert index["KeySchema"] == BY_PLACE["KeySchema"]
    assert {each["AttributeName"]: each["AttributeType"] for each in table["AttributeDefinitions"]} == TYPES
    assert (index["IndexStatus"], index["ItemCount"]) == ("ACTIVE", len(PLACES) + 2)


H, R = [f"h{number}" for number in range(5)], [f"r{number}" for number in range(5)]


def index_of(partition: list[str], sort: list[str]) -> dict[str, Any]:
    return {
        "IndexName": "several",
        "KeySchema": key_schema(partition, sort),
        "Projection": {"ProjectionType": "KEYS_ONLY"},
    }


@pytest.mark.parametrize(
    ("partition", "sort"), [(H[:2], []), (H[:1], R[:2]), (H[:4], []), (H[:1], R[:4]), (H[:4], R[:4])]
)
@pytest.mark.parametrize("is_added", [False, True], ids=["with the table", "added later"])
def test_up_to_four_attributes_are_taken_in_each_part(
    dynamodb: Any, partition: list[str], sort: list[str], *, is_added: bool
) -> None:
    index = index_of(partition, sort)
    defined = definitions("id", *partition, *sort)
    item = {"id": {"S": "a"}} | {name: {"S": name} for name in (*partition, *sort)}
    if is_added:
        table = create(dynamodb)
        dynamodb.put_item(TableName=table, Item=item)
        update = {"AttributeDefinitions": defined, "GlobalSecondaryIndexUpdates": [{"Create": index}]}
        dynamodb.update_table(TableName=table, **update)
    else:
        table = create(dynamodb, AttributeDefinitions=defined, GlobalSecondaryIndexes=[index])
        dynamodb.put_item(TableName=table, Item=item)

    def described() -> Any:
        (found,) = dynamodb.describe_table(TableName=table)["Table"]["GlobalSecondaryIndexes"]
        return found if found["IndexStatus"] == "ACTIVE" else None

    assert eventually(described)["KeySchema"] == index["KeySchema"]
    assert dynamodb.scan(TableName=table, IndexName="several")["Items"] == [item]


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (key_schema(H, []), "The KeySchema exceeds the maximum allowed number of HASH key attributes"),
        (key_schema(H[:1], R), "The KeySchema exceeds the maximum allowed number of RANGE key attributes"),
        (
            [*key_schema(H[:1], R[:1]), *key_schema(H[1:2], [])],
            "All HASH key attributes must precede RANGE key attributes in the KeySchema",
        ),
        (key_schema([], R[:1]), "Invalid KeySchema: The first KeySchemaElement is not a HASH key type"),
        (key_schema(H[:1], [R[0], R[0]]), "The KeySchema contains multiple key attributes with the same name"),
    ],
)
@pytest.mark.parametrize("is_added", [False, True], ids=["with the table", "added later"])
def test_any_other_key_of_a_global_index_is_refused(
    dynamodb: Any, schema: list[dict[str, str]], message: str, *, is_added: bool
) -> None:
    index = {"IndexName": "several", "KeySchema": schema, "Projection": {"ProjectionType": "ALL"}}
    defined = definitions("id", *dict.fromkeys(element["AttributeName"] for element in schema))
    table = create(dynamodb)
    ask: Callable[[], Any] = partial(create, dynamodb, AttributeDefinitions=defined, GlobalSecondaryIndexes=[index])
    if is_added:
        update = {"AttributeDefinitions": defined, "GlobalSecondaryIndexUpdates": [{"Create": index}]}
        ask = partial(dynamodb.update_table, TableName=table, **update)
    with pytest.raises(dynamodb.exceptions.ClientError, match=message) as refused:
        ask()
    assert refused.value.response["Error"]["Code"] == "ValidationException"
    assert "GlobalSecondaryIndexes" not in dynamodb.describe_table(TableName=table)["Table"]


@pytest.mark.parametrize(
    "schema", [key_schema(["id", "h"], []), key_schema(["id"], ["r", "s"]), key_schema(H[:4], R[:4])]
)
def test_a_table_and_a_local_index_have_one_attribute_in_each_part(dynamodb: Any, schema: list[dict[str, str]]) -> None:
    defined = definitions("id", *(element["AttributeName"] for element in schema if element["AttributeName"] != "id"))
    message = "Member must have length less than or equal to 2|The second KeySchemaElement is not a RANGE key type"
    with pytest.raises(dynamodb.exceptions.ClientError, match=message):
        create(dynamodb, KeySchema=schema, AttributeDefinitions=defined)
    local = {"IndexName": "local", "KeySchema": schema, "Projection": {"ProjectionType": "ALL"}}
    of_local = message.replace("Member", r"at 'localSecondaryIndexes\.1\.member\.keySchema' .*Member")
    with pytest.raises(dynamodb.exceptions.ClientError, match=of_local):
        create(
            dynamodb,
            KeySchema=key_schema(["id"], ["n"]),
            AttributeDefinitions=[*defined, *definitions("n")],
            LocalSecondaryIndexes=[local],
        )


def test_all_key_attributes_must_be_defined(dynamodb: Any) -> None:
    with pytest.raises(dynamodb.exceptions.ClientError, match="Some index key attribute"):
        create(dynamodb, AttributeDefinitions=definitions(*H[:2], "id"), GlobalSecondaryIndexes=[index_of(H[:3], [])])


# 2. Key conditions.


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("", range(9)),
        ("city = :bergen", range(5)),
        ("city > :bergen", range(5, 9)),
        ("city >= :bergen", range(9)),
        ("city < :oslo", range(6)),
        ("city <= :oslo", range(9)),
        (":oslo > city", range(6)),
        ("city BETWEEN :bergen AND :oslo", range(9)),
        ("begins_with(city, :ber)", range(6)),
        ("city = :bergen AND height = :two", range(1, 4)),
        ("city = :bergen AND height > :two", range(4, 5)),
        ("city = :bergen AND height >= :two", range(1, 5)),
        ("city = :bergen AND height < :two", range(1)),
        ("city = :bergen AND height <= :two", range(4)),
        ("city = :bergen AND height BETWEEN :two AND :ten", range(1, 5)),
        ("height < :ten AND :bergen = city", range(4)),
        ("city = :bergen AND height = :two AND code = :zero", range(1, 2)),
        ("city = :bergen AND height = :two AND code > :zero", range(2, 4)),
        ("city = :bergen AND height = :two AND code <= :zero", range(1, 2)),
        ("city = :bergen AND height = :two AND begins_with(code, :zero)", range(1, 3)),
        ("city = :oslo AND height = :one AND begins_with(code, :high)", range(8, 9)),
        ("code BETWEEN :zero AND :high AND (city = :bergen AND height = :two)", range(1, 4)),
    ],
)
def test_conditions_are_taken_from_left_to_right(dynamodb: Any, places: str, condition: str, expected: range) -> None:
    whole = f"{PARTITION} AND {condition}" if condition else PARTITION
    assert numbers(query(dynamodb, places, whole)["Items"]) == list(expected)
    assert numbers(query(dynamodb, places, whole, ScanIndexForward=False)["Items"]) == list(reversed(expected))
    # Page by page it is the same, and every page tells all key attributes of the index and of the table.
    for is_forward in (True, False):
        found: list[int] = []
        more: dict[str, Any] = {}
        while True:
            page = query(dynamodb, places, whole, Limit=2, ScanIndexForward=is_forward, **more)
            found += numbers(page["Items"])
            if "LastEvaluatedKey" not in page:
                break
            assert page["LastEvaluatedKey"] == page["Items"][-1]
            assert page["LastEvaluatedKey"].keys() == TYPES.keys()
            more = {"ExclusiveStartKey": page["LastEvaluatedKey"]}
        assert found == (list(expected) if is_forward else list(reversed(expected)))


MISSED = "Query condition missed key schema element: "
UNSUPPORTED = "Query key condition not supported"


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("country = :no", f"{MISSED}district"),
        ("district = :one", f"{MISSED}country"),
        ("country = :no AND city = :oslo", f"{MISSED}district"),
        ("country = :no AND district > :one", UNSUPPORTED),
        ("begins_with(country, :no) AND district = :one", UNSUPPORTED),
        (f"{PARTITION} AND height = :one", f"{MISSED}city"),
        (f"{PARTITION} AND code > :zero", f"{MISSED}city"),
        (f"{PARTITION} AND city = :oslo AND code = :zero", f"{MISSED}height"),
        (f"{PARTITION} AND city > :oslo AND height = :one", UNSUPPORTED),
        (f"{PARTITION} AND city BETWEEN :bergen AND :oslo AND height = :one", UNSUPPORTED),
        (f"{PARTITION} AND begins_with(city, :ber) AND height > :one", UNSUPPORTED),
        (f"{PARTITION} AND city = :oslo AND height >= :one AND code = :zero", UNSUPPORTED),
        (f"{PARTITION} AND id = :oslo", f"{MISSED}city"),
        (f"{PARTITION} AND city = :one", "Condition parameter type does not match schema type"),
        (f"{PARTITION} AND city = :oslo AND height = :oslo", "Condition parameter type does not match schema type"),
    ],
)
def test_a_condition_that_skips_an_attribute_or_goes_on_after_a_range_is_refused(
    dynamodb: Any, places: str, condition: str, message: str
) -> None:
    with pytest.raises(dynamodb.exceptions.ClientError) as refused:
        query(dynamodb, places, condition)
    assert refused.value.response["Error"]["Code"] == "ValidationException"
    assert refused.value.response["Error"]["Message"].endswith(message)


@pytest.mark.parametrize("name", ["country", "district", "city", "height", "code"])
def test_a_filter_of_a_query_mentions_no_key_attribute_of_the_index(dynamodb: Any, places: str, name: str) -> None:
    message = f"Filter Expression can only contain non-primary key attributes: Primary key attribute: {name}"
    with pytest.raises(dynamodb.exceptions.ClientError, match=message):
        query(dynamodb, places, PARTITION, FilterExpression=f"attribute_exists({name})")


def test_a_start_key_must_have_all_key_attributes_and_lie_in_the_range(dynamodb: Any, places: str) -> None:
    start = place(1, *PLACES[1])
    whole = query(dynamodb, places, PARTITION, ExclusiveStartKey=start)
    assert numbers(whole["Items"]) == list(range(2, 9))
    for name in TYPES:
        with pytest.raises(dynamodb.exceptions.ClientError, match="The provided starting key is invalid"):
            query(dynamodb, places, PARTITION, ExclusiveStartKey={n: of for n, of in start.items() if n != name})
    with pytest.raises(dynamodb.exceptions.ClientError, match="outside query boundaries"):
        query(dynamodb, places, PARTITION, ExclusiveStartKey=start | {"district": {"N": "10"}})
    with pytest.raises(dynamodb.exceptions.ClientError, match="does not match the range key predicate"):
        query(dynamodb, places, f"{PARTITION} AND city = :oslo", ExclusiveStartKey=start)


def test_a_scan_reads_the_index_in_pages_and_segments(dynamodb: Any, places: str) -> None:
    paginator = dynamodb.get_paginator("scan")
    found: list[int] = []
    for segment in range(3):
        pages = paginator.paginate(
            TableName=places, IndexName="by-place", Segment=segment, TotalSegments=3, PaginationConfig={"PageSize": 2}
        )
        for page in pages:
            found += numbers(page["Items"])
    assert sorted(found) == [*range(9), 200, 201]


def condition_of(operator: str, *operands: dict[str, Any]) -> dict[str, Any]:
    return {"ComparisonOperator": operator, "AttributeValueList": list(operands)}


def test_legacy_key_conditions_are_taken_alike(dynamodb: Any, places: str) -> None:
    partition = {"country": condition_of("EQ", VALUES[":no"]), "district": condition_of("EQ", VALUES[":one"])}
    city = {"city": condition_of("EQ", VALUES[":bergen"])}

    def found(conditions: dict[str, Any]) -> list[int]:
        return numbers(dynamodb.query(TableName=places, IndexName="by-place", KeyConditions=conditions)["Items"])

    assert found(partition) == list(range(9))
    assert found(partition | city) == list(range(5))
    height = {"height": condition_of("BETWEEN", VALUES[":two"], VALUES[":ten"])}
    assert found(partition | city | height) == list(range(1, 5))
    exactly = {"height": condition_of("EQ", VALUES[":two"]), "code": condition_of("BEGINS_WITH", VALUES[":zero"])}
    assert found(partition | city | exactly) == [1, 2]
    for wrong, message in (
        (city, f"{MISSED}country"),
        (partition | height, f"{MISSED}city"),
        (partition | {"city": condition_of("GT", VALUES[":bergen"])} | height, UNSUPPORTED),
    ):
        with pytest.raises(dynamodb.exceptions.ClientError, match=message):
            found(wrong)


def test_partiql_selects_from_left_to_right(dynamodb: Any, places: str) -> None:
    def found(where: str, **more: Any) -> dict[str, Any]:
        statement = f'SELECT id FROM "{places}"."by-place" WHERE country = \'no\' AND district = 1{where}'
        answer: dict[str, Any] = dynamodb.execute_statement(Statement=statement, ReturnConsumedCapacity="TOTAL", **more)
        return answer

    assert numbers(found("")["Items"]) == list(range(9))
    assert numbers(found(" AND city = 'bergen' AND height >= 2 ORDER BY height DESC")["Items"]) == [4, 3, 2, 1]
    assert numbers(found(" ORDER BY city DESC, height DESC, code DESC")["Items"]) == list(reversed(range(9)))
    # What is no key condition any more is a filter.
    assert numbers(found(" AND city > 'bergen' AND height = 1")["Items"]) == [5, 7, 8]
    assert numbers(found(" AND height = 1")["Items"]) == [5, 7, 8]
    several = f"SELECT id FROM \"{places}\".\"by-place\" WHERE country IN ['no', 'se'] AND district IN [1, 10, 3] "
    items = dynamodb.execute_statement(Statement=f"{several} ORDER BY country DESC, district DESC")["Items"]
    assert numbers(items) == [200, 201, *range(9)]
    with pytest.raises(dynamodb.exceptions.ClientError, match="ORDER BY must have the sort key attributes"):
        found(" ORDER BY height")


# 3. Writes.


def test_an_entry_moves_when_any_key_attribute_changes_and_goes_with_it(dynamodb: Any) -> None:
    table = create(dynamodb, AttributeDefinitions=definitions(*TYPES), GlobalSecondaryIndexes=[BY_PLACE])
    item = place(1, "bergen", 2, b"\x00")
    dynamodb.put_item(TableName=table, Item=item)

    def update(expression: str, **values: Any) -> dict[str, Any]:
        more = {"ExpressionAttributeValues": {f":{name}": of for name, of in values.items()}} if values else {}
        answer: dict[str, Any] = dynamodb.update_item(
            TableName=table,
            Key={"id": item["id"]},
            UpdateExpression=expression,
            ReturnConsumedCapacity="INDEXES",
            **more,
        )["ConsumedCapacity"]
        return answer

    def entries() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = dynamodb.scan(TableName=table, IndexName="by-place")["Items"]
        return found

    for name, new in (
        ("country", {"S": "se"}),
        ("district", {"N": "7"}),
        ("city", {"S": "lund"}),
        ("height", {"N": "-3"}),
        ("code", {"B": b"\xff"}),
    ):
        consumed = update(f"SET {name} = :v", v=new)
        item[name] = new
        # The old entry is deleted, the new one put.
        assert consumed["GlobalSecondaryIndexes"]["by-place"]["CapacityUnits"] == 2
        assert entries() == [item]
    consumed = update("SET note = :v", v={"S": "x"})
    assert consumed["GlobalSecondaryIndexes"]["by-place"]["CapacityUnits"] == 1
    assert entries() == [item | {"note": {"S": "x"}}]
    for name in ("country", "district", "city", "height", "code"):
        update(f"REMOVE {name}")
        assert entries() == []
        update(f"SET {name} = :v", v=item[name])
        assert entries() == [item | {"note": {"S": "x"}}]
    dynamodb.delete_item(TableName=table, Key={"id": item["id"]})
    assert entries() == []
