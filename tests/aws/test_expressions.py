"""Expressions through AWS's protocol, as real clients were seen to use them: results at both sides of each limit."""

# ruff: noqa: S608 - these statements are not SQL, and nobody but the tests writes them.

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.aws.conftest import ONE_ATTEMPT

A1 = {"id": {"S": "a"}, "line": {"N": "1"}}
UNCHECKED = ONE_ATTEMPT.merge(Config(parameter_validation=False))
INVALID_PATH = "The document path provided in the update expression is invalid for update"
SOME_SETS: dict[str, Any] = {
    "title": {"S": "x"},
    "count": {"N": "1"},
    "options": {"M": {"a": {"S": "x"}}},
    "steps": {"L": [{"S": "x"}]},
    "tags": {"SS": ["x", "y"]},
}


@pytest.fixture(scope="module")
def unchecked(made: Callable[..., Any]) -> Any:
    """A client that leaves all checks to the broker."""
    return made("dynamodb", config=UNCHECKED)


def nested(containers: int, kind: str) -> dict[str, Any]:
    value: dict[str, Any] = {"N": "1"}
    for _ in range(containers):
        value = {"M": {"a": value}} if kind == "M" else {"L": [value]}
    return value


def message(refused: pytest.ExceptionInfo[ClientError]) -> str:
    error = refused.value.response["Error"]
    assert error["Code"] == "ValidationException"
    text: str = error["Message"]
    return text


@pytest.mark.parametrize(
    "path", ["title.tags", "title[0]", "options[0]", "steps.#first", "tags.x", "gone.x", "steps[9].x"]
)
def test_deleting_from_a_set_where_none_can_be_is_refused(dynamodb: Any, orders: str, path: str) -> None:
    dynamodb.put_item(TableName=orders, Item={**A1, **SOME_SETS})
    names = {"ExpressionAttributeNames": {"#first": "first"}} if "#" in path else {}
    update = {"TableName": orders, "Key": A1, **names, "ExpressionAttributeValues": {":s": {"SS": ["x"]}}}
    with pytest.raises(ClientError) as refused:
        dynamodb.update_item(**update, UpdateExpression=f"SET done = :s DELETE {path} :s")
    assert message(refused) == INVALID_PATH
    action = {**update, "UpdateExpression": f"DELETE {path} :s"}
    with pytest.raises(dynamodb.exceptions.TransactionCanceledException) as cancelled:
        dynamodb.transact_write_items(TransactItems=[{"Update": action}])
    assert cancelled.value.response["CancellationReasons"] == [{"Code": "ValidationError", "Message": INVALID_PATH}]
    assert dynamodb.get_item(TableName=orders, Key=A1)["Item"] == {**A1, **SOME_SETS}


@pytest.mark.parametrize(
    ("name", "update"),
    [
        ("title", {"Action": "ADD", "Value": {"N": "1"}}),
        ("count", {"Action": "ADD", "Value": {"SS": ["x"]}}),
        ("tags", {"Action": "ADD", "Value": {"L": []}}),
        ("tags", {"Action": "ADD", "Value": {"NS": ["1"]}}),
        ("title", {"Action": "DELETE", "Value": {"SS": ["x"]}}),
        ("steps", {"Action": "DELETE", "Value": {"SS": ["x"]}}),
        ("tags", {"Action": "DELETE", "Value": {"NS": ["1"]}}),
    ],
)
def test_an_attribute_update_of_another_type_than_the_attribute_is_a_mismatch(
    dynamodb: Any, orders: str, name: str, update: dict[str, Any]
) -> None:
    dynamodb.put_item(TableName=orders, Item={**A1, **SOME_SETS})
    with pytest.raises(ClientError) as refused:
        dynamodb.update_item(
            TableName=orders, Key=A1, AttributeUpdates={"done": {"Value": {"BOOL": True}}, name: update}
        )
    assert message(refused) == "Type mismatch for attribute to update"
    assert dynamodb.get_item(TableName=orders, Key=A1)["Item"] == {**A1, **SOME_SETS}


def test_an_operand_of_another_type_than_the_attribute_is_told_in_the_words_of_expressions(
    dynamodb: Any, orders: str
) -> None:
    dynamodb.put_item(TableName=orders, Item={**A1, **SOME_SETS})
    for expression, value in (("ADD title :v", {"N": "1"}), ("DELETE steps :v", {"SS": ["x"]})):
        with pytest.raises(ClientError) as refused:
            dynamodb.update_item(
                TableName=orders, Key=A1, UpdateExpression=expression, ExpressionAttributeValues={":v": value}
            )
        assert message(refused) == "An operand in the update expression has an incorrect data type"


def test_a_page_holds_25_items_of_41509_bytes_and_not_26(dynamodb: Any, orders: str) -> None:
    # The names and numbers of an item take 16 bytes: id, a, line, two digits' 2, text.
    for number in range(10, 36):
        item = {"id": {"S": "a"}, "line": {"N": str(number)}, "text": {"S": "x" * (41_509 - 2 - 1 - 4 - 2 - 4)}}
        dynamodb.put_item(TableName=orders, Item=item)
    table = dynamodb.describe_table(TableName=orders)["Table"]
    total = table["TableSizeBytes"]
    # 10, 20 and 30 take one byte less.
    assert 26 * 41_509 - 26 <= total <= 26 * 41_509 + 26
    asked = {"TableName": orders, "ReturnConsumedCapacity": "TOTAL", "ConsistentRead": True}
    query = {"KeyConditionExpression": "id = :a", "ExpressionAttributeValues": {":a": {"S": "a"}}}
    for page in (
        dynamodb.query(**asked, **query),
        dynamodb.query(**asked, **query, Select="COUNT"),
        dynamodb.scan(**asked),
    ):
        assert (page["Count"], page["ScannedCount"]) == (25, 25)
        assert page["LastEvaluatedKey"] == {"id": {"S": "a"}, "line": {"N": "34"}}
        assert page["ConsumedCapacity"]["CapacityUnits"] == 254
    rest = dynamodb.scan(TableName=orders, ExclusiveStartKey=page["LastEvaluatedKey"])
    assert rest["Count"] == 1
    assert "LastEvaluatedKey" not in rest


def test_size_of_a_string_is_its_length_in_utf_16_units(dynamodb: Any, orders: str) -> None:
    dynamodb.put_item(TableName=orders, Item={**A1, "s": {"S": "é\U0001d11e"}, "w": {"S": "naïve"}})
    for name, units in (("s", 3), ("w", 5)):
        found = [
            number
            for number in range(9)
            if dynamodb.scan(
                TableName=orders,
                FilterExpression=f"size({name}) = :n",
                ExpressionAttributeValues={":n": {"N": str(number)}},
            )["Count"]
        ]
        assert found == [units]
    statement = f'SELECT id FROM "{orders}" WHERE size(w) = 5 AND size(s) = 3'
    assert len(dynamodb.execute_statement(Statement=statement)["Items"]) == 1


@pytest.mark.parametrize("kind", ["M", "L"])
def test_a_scalar_in_31_maps_or_lists_is_taken_and_in_32_is_refused_by_every_way_in(
    dynamodb: Any, orders: str, kind: str
) -> None:
    def ways_in(value: dict[str, Any]) -> list[Callable[[], Any]]:
        table, item = {"TableName": orders}, {**A1, "x": value}
        expression = {"UpdateExpression": "SET x = :x", "ExpressionAttributeValues": {":x": value}}
        put = [{"PutRequest": {"Item": item}}]
        statement = f"UPDATE \"{orders}\" SET x = ? WHERE id = 'a' AND line = 1"
        return [
            lambda: dynamodb.put_item(**table, Item=item),
            lambda: dynamodb.update_item(**table, Key=A1, **expression),
            lambda: dynamodb.update_item(**table, Key=A1, AttributeUpdates={"x": {"Value": value}}),
            lambda: dynamodb.batch_write_item(RequestItems={orders: put}),
            lambda: dynamodb.transact_write_items(TransactItems=[{"Put": {**table, "Item": item}}]),
            lambda: dynamodb.execute_statement(Statement=statement, Parameters=[value]),
        ]

    for way in ways_in(nested(31, kind)):
        dynamodb.put_item(TableName=orders, Item=A1)
        way()
        assert dynamodb.get_item(TableName=orders, Key=A1)["Item"] == {**A1, "x": nested(31, kind)}
    for way in ways_in(nested(32, kind)):
        with pytest.raises(ClientError, match="Nesting Levels have exceeded supported limits") as refused:
            way()
        assert message(refused)
    # A value that fits by itself is too deep where it is put.
    with pytest.raises(ClientError, match="Nesting Levels have exceeded supported limits"):
        dynamodb.update_item(
            TableName=orders,
            Key=A1,
            UpdateExpression="SET x.a = :x" if kind == "M" else "SET x[0] = :x",
            ExpressionAttributeValues={":x": nested(31, kind)},
        )
    assert dynamodb.get_item(TableName=orders, Key=A1)["Item"] == {**A1, "x": nested(31, kind)}


def test_a_list_index_far_beyond_the_end_appends_up_to_4294967294(dynamodb: Any, orders: str) -> None:
    dynamodb.put_item(TableName=orders, Item={**A1, "l": {"L": [{"S": "a"}]}})
    update = {"TableName": orders, "Key": A1, "ExpressionAttributeValues": {":v": {"S": "b"}}}
    for index in ("2000000000", "4294967294"):
        dynamodb.update_item(**update, UpdateExpression=f"SET l[{index}] = :v")
    statement = f"UPDATE \"{orders}\" SET l[4294967294] = 'b' WHERE id = 'a' AND line = 1"
    dynamodb.execute_statement(Statement=statement)
    four = {"L": [{"S": "a"}, *[{"S": "b"}] * 3]}
    with pytest.raises(ClientError) as refused:
        dynamodb.update_item(**update, UpdateExpression="SET l[4294967295] = :v")
    assert message(refused).endswith("List index is not within the allowable range; index: [4294967295]")
    with pytest.raises(ClientError, match="List index is not within the allowable range"):
        dynamodb.execute_statement(Statement=statement.replace("4294967294", "4294967295"))
    assert dynamodb.get_item(TableName=orders, Key=A1)["Item"]["l"] == four


@pytest.mark.parametrize(
    ("operand", "is_taken"),
    [
        ("(:a)+(:b)", True),
        ("(:a+:b)", True),
        ("((:a)+(:b))", True),
        ("((:a))", False),
        ("((:a+:b))", False),
        ("((:a)+((:b)))", False),
    ],
)
def test_parentheses_are_redundant_around_parentheses_only(
    dynamodb: Any, orders: str, operand: str, *, is_taken: bool
) -> None:
    values = {name: {"N": "2"} for name in (":a", ":b") if name in operand}
    update = {"TableName": orders, "Key": A1, "ExpressionAttributeValues": values}
    if is_taken:
        dynamodb.update_item(**update, UpdateExpression=f"SET x = {operand}")
        assert dynamodb.get_item(TableName=orders, Key=A1)["Item"]["x"] == {"N": "4"}
    else:
        with pytest.raises(ClientError) as refused:
            dynamodb.update_item(**update, UpdateExpression=f"SET x = {operand}")
        assert message(refused) == "Invalid UpdateExpression: The expression has redundant parentheses;"


def test_the_type_of_a_value_can_be_asked(dynamodb: Any, orders: str) -> None:
    put = {"TableName": orders, "Item": A1, "ConditionExpression": "attribute_type(:v, :t)"}
    dynamodb.put_item(**put, ExpressionAttributeValues={":v": {"N": "1"}, ":t": {"S": "N"}})
    with pytest.raises(dynamodb.exceptions.ConditionalCheckFailedException):
        dynamodb.put_item(**put, ExpressionAttributeValues={":v": {"N": "1"}, ":t": {"S": "S"}})


@pytest.mark.parametrize("billing", ["PAY_PER_REQUEST", "PROVISIONED"])
def test_in_a_transaction_only_the_tables_units_double(dynamodb: Any, orders: str, billing: str) -> None:
    if billing == "PROVISIONED":
        units = {"ReadCapacityUnits": 5, "WriteCapacityUnits": 5}
        dynamodb.update_table(
            TableName=orders,
            BillingMode=billing,
            ProvisionedThroughput=units,
            GlobalSecondaryIndexUpdates=[{"Update": {"IndexName": "by_state", "ProvisionedThroughput": units}}],
        )
    put = {"Put": {"TableName": orders, "Item": {**A1, "state": {"S": "x"}}}}
    (consumed,) = dynamodb.transact_write_items(TransactItems=[put], ReturnConsumedCapacity="INDEXES")[
        "ConsumedCapacity"
    ]
    assert consumed["Table"]["CapacityUnits"] == 2
    assert consumed["GlobalSecondaryIndexes"] == {"by_state": {"CapacityUnits": 1.0, "WriteCapacityUnits": 1.0}}
    local = sum(index["CapacityUnits"] for index in consumed.get("LocalSecondaryIndexes", {}).values())
    assert consumed["CapacityUnits"] == 2 + 1 + local
    assert local == len(consumed.get("LocalSecondaryIndexes", {}))


def test_a_projection_is_32_levels_deep_at_most(dynamodb: Any, orders: str) -> None:
    dynamodb.put_item(TableName=orders, Item={**A1, "a": nested(31, "M")})
    path = "a" + ".a" * 31
    found = dynamodb.get_item(TableName=orders, Key=A1, ProjectionExpression=path)["Item"]
    assert found == {"a": nested(31, "M")}
    reads: list[Callable[[], Any]] = [
        lambda: dynamodb.get_item(TableName=orders, Key=A1, ProjectionExpression=path + ".a"),
        lambda: dynamodb.scan(TableName=orders, ProjectionExpression=path + ".a"),
        lambda: dynamodb.scan(TableName=orders, FilterExpression=f"attribute_exists({path}.a)"),
    ]
    for read in reads:
        with pytest.raises(ClientError, match="The document path has too many nesting elements; nesting levels: 33"):
            read()


@pytest.mark.parametrize(
    ("path", "told"), [("id.x", "Key: id"), ("line[0]", "Key: line"), ("#state.x", "IndexKey: state")]
)
def test_no_path_leads_into_a_key(dynamodb: Any, orders: str, path: str, told: str) -> None:
    dynamodb.put_item(TableName=orders, Item=A1)
    names = {"ExpressionAttributeNames": {"#state": "state"}} if "#" in path else {}
    by_key = {"KeyConditionExpression": "id = :a", "ExpressionAttributeValues": {":a": {"S": "a"}}}
    reads: list[Callable[[], Any]] = [
        lambda: dynamodb.get_item(TableName=orders, Key=A1, ProjectionExpression=path, **names),
        lambda: dynamodb.scan(TableName=orders, ProjectionExpression=path, **names),
        lambda: dynamodb.scan(TableName=orders, FilterExpression=f"attribute_not_exists({path})", **names),
        lambda: dynamodb.query(TableName=orders, **by_key, ProjectionExpression=path, **names),
        lambda: dynamodb.batch_get_item(RequestItems={orders: {"Keys": [A1], "ProjectionExpression": path, **names}}),
    ]
    for read in reads:
        with pytest.raises(ClientError) as refused:
            read()
        assert message(refused) == (
            f"Key attributes must be scalars; list random access '[]' and map lookup '.' are not allowed: {told}"
        )


@pytest.mark.parametrize("name", ["n" * 65_535, "n" * 65_536, "é" * 32_768])
def test_a_name_in_an_expression_has_65535_bytes_at_most(unchecked: Any, orders: str, name: str) -> None:
    unchecked.put_item(TableName=orders, Item=A1)
    names = {"ExpressionAttributeNames": {"#n": name}}
    reads: list[Callable[[], Any]] = [
        lambda: unchecked.get_item(TableName=orders, Key=A1, ProjectionExpression="#n", **names),
        lambda: unchecked.scan(TableName=orders, FilterExpression="attribute_not_exists(#n)", **names),
        lambda: unchecked.put_item(TableName=orders, Item=A1, ConditionExpression="attribute_not_exists(#n)", **names),
        lambda: unchecked.get_item(TableName=orders, Key=A1, AttributesToGet=[name]),
        lambda: unchecked.scan(TableName=orders, ScanFilter={name: {"ComparisonOperator": "NULL"}}),
        lambda: unchecked.put_item(TableName=orders, Item=A1, Expected={name: {"Exists": False}}),
    ]
    for read in reads:
        if len(name.encode()) <= 65_535:
            read()
        else:
            with pytest.raises(
                ClientError, match=r"(too long: limit 65535 bytes)|(length less than or equal to 65535)"
            ):
                read()


def test_list_append_is_no_operand_of_itself(dynamodb: Any, orders: str) -> None:
    values = {name: {"L": [{"S": name}]} for name in (":a", ":b", ":c")}
    update = {"TableName": orders, "Key": A1, "ExpressionAttributeValues": values}
    with pytest.raises(ClientError) as refused:
        dynamodb.update_item(**update, UpdateExpression="SET x = list_append(list_append(:a, :b), :c)")
    assert message(refused) == (
        "Invalid UpdateExpression: The function is not allowed to be used this way in an expression; "
        "function: list_append"
    )
    dynamodb.update_item(
        **update, UpdateExpression="SET x = list_append(if_not_exists(x, :a), :b), y = list_append(:c, :c)"
    )
    assert dynamodb.get_item(TableName=orders, Key=A1)["Item"]["x"] == {"L": [{"S": ":a"}, {"S": ":b"}]}
