"""PartiQL through boto3: the statements of AWS's documentation, and random conditions against a model."""

# ruff: noqa: S608 - these statements are not SQL, and nobody but the tests writes them.

from __future__ import annotations

import operator
from collections.abc import Callable
from random import Random
from typing import Any, NamedTuple

import pytest
from botocore.exceptions import ClientError

from tests.aws.conftest import create_orders, post
from tests.broker_process import BrokerProcess

SONG = "\"Artist\" = 'Acme Band' AND \"SongTitle\" = 'PartiQL Rocks'"


ONE = {"Statements": [{"Statement": "SELECT * FROM nowhere WHERE id = 'a'"}]}


def nested(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {"N": "1"}
    for _ in range(levels):
        value = {"L": [value]}
    return value


class Table:
    """A table, and the statements on it: "T" stands for its name."""

    def __init__(self, dynamodb: Any, name: str) -> None:
        self.dynamodb = dynamodb
        self.name = name

    def text(self, statement: str) -> str:
        return statement.replace(" T ", f' "{self.name}" ').replace(" T.", f' "{self.name}".')

    def run(self, statement: str, *parameters: Any, **more: Any) -> list[dict[str, Any]]:
        given = {"Parameters": list(parameters)} if parameters else {}
        items: list[dict[str, Any]] = self.dynamodb.execute_statement(Statement=self.text(statement), **given, **more)[
            "Items"
        ]
        return items

    def all_pages(self, statement: str, limit: int) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = []
        more: dict[str, str] = {}
        while True:
            page = self.dynamodb.execute_statement(Statement=self.text(statement), Limit=limit, **more)
            items += page["Items"]
            if "NextToken" not in page:
                return items
            more = {"NextToken": page["NextToken"]}

    def batch(self, *statements: str, **more: Any) -> Any:
        asked = [{"Statement": self.text(statement)} for statement in statements]
        return self.dynamodb.batch_execute_statement(Statements=asked, **more)

    def transact(self, *statements: str, **more: Any) -> Any:
        asked = [{"Statement": self.text(statement)} for statement in statements]
        return self.dynamodb.execute_transaction(TransactStatements=asked, **more)


@pytest.fixture
def music(dynamodb: Any) -> Table:
    """The table of AWS's examples."""
    name = f"Music-{create_orders(dynamodb)}"
    dynamodb.create_table(
        TableName=name,
        KeySchema=[{"AttributeName": "Artist", "KeyType": "HASH"}, {"AttributeName": "SongTitle", "KeyType": "RANGE"}],
        AttributeDefinitions=[{"AttributeName": key, "AttributeType": "S"} for key in ("Artist", "SongTitle")],
        BillingMode="PAY_PER_REQUEST",
    )
    return Table(dynamodb, name)


@pytest.fixture
def table(dynamodb: Any, orders: str) -> Table:
    """A table of four orders of three lines."""
    table = Table(dynamodb, orders)
    for id_ in "abcd":
        for line in (1, 2, 3):
            table.run(
                "INSERT INTO T VALUE {'id': ?, 'line': ?, 'state': 'open', 'n': ?}",
                {"S": id_},
                {"N": str(line)},
                {"N": str(10 * line + ord(id_) % 3)},
            )
    return table


def code(error: pytest.ExceptionInfo[ClientError]) -> str:
    return str(error.value.response["Error"]["Code"])


def lines(items: list[dict[str, Any]]) -> list[str]:
    return [item["id"]["S"] + item["line"]["N"] for item in items]


# 1. Statements of the Developer Guide.


def test_the_examples_of_the_documentation(music: Table) -> None:
    assert music.run("INSERT INTO T VALUE {'Artist': 'Acme Band', 'SongTitle': 'PartiQL Rocks'}") == []
    set_ = "UPDATE T SET AwardsWon=1 SET AwardDetail={'Grammys':[2020, 2018]}"
    before = {"Artist": {"S": "Acme Band"}, "SongTitle": {"S": "PartiQL Rocks"}}
    assert music.run(f"{set_} WHERE {SONG} RETURNING ALL OLD *") == [before]
    detail = {"M": {"Grammys": {"L": [{"N": "2020"}, {"N": "2018"}]}}}
    assert music.run(f"{set_} WHERE {SONG} RETURNING MODIFIED NEW *") == [
        {"AwardsWon": {"N": "1"}, "AwardDetail": detail}
    ]
    music.run(f"UPDATE T SET AwardDetail.Grammys =list_append(AwardDetail.Grammys,[2016]) WHERE {SONG}")
    music.run(f"UPDATE T REMOVE AwardDetail.Grammys[1] WHERE {SONG}")
    music.run(f"UPDATE T SET AwardDetail.BillBoard=[2020] WHERE {SONG}")
    music.run(f"UPDATE T SET BandMembers =<<'member1', 'member2'>> WHERE {SONG}")
    music.run(f"UPDATE T SET BandMembers =set_add(BandMembers, <<'newmember'>>) WHERE {SONG}")
    music.run(f"UPDATE T SET BandMembers = SET_DELETE(BandMembers, <<'member2'>>) SET n = AwardsWon + 4 WHERE {SONG}")
    (song,) = music.run(f"SELECT * FROM T WHERE {SONG}")
    assert song == {
        **before,
        "AwardsWon": {"N": "1"},
        "AwardDetail": {"M": {"Grammys": {"L": [{"N": "2020"}, {"N": "2016"}]}, "BillBoard": {"L": [{"N": "2020"}]}}},
        "BandMembers": {"SS": ["member1", "newmember"]},
        "n": {"N": "5"},
    }
    selected = music.run(f'SELECT AwardDetail.Grammys[1], n, "Artist", missing FROM T WHERE {SONG}')
    assert selected == [{"Grammys[1]": {"N": "2016"}, "n": {"N": "5"}, "Artist": {"S": "Acme Band"}}]
    for condition in (
        "Awards IS MISSING",
        "n IS NOT MISSING",
        "attribute_type(\"Artist\", 'S')",
        'size("BandMembers") = 2',
        "contains(BandMembers, 'newmember')",
        "begins_with(\"Artist\", 'Acme')",
        "AwardsWon BETWEEN 0 AND 1",
        "NOT (n = 4 OR n IN [1, 2])",
        "n <> 4",
        "n IS NOT NULL",
        "6 > n",
    ):
        assert len(music.run(f"SELECT * FROM T WHERE {condition}")) == 1, condition
        assert music.run(f"SELECT * FROM T WHERE NOT ({condition})") == [], condition
    assert music.run(f"DELETE FROM T WHERE {SONG} RETURNING ALL OLD *") == [song]


def test_literals_and_parameters_of_all_types(music: Table) -> None:
    music.run(
        "INSERT INTO T VALUE {'Artist': 'it''s', 'SongTitle': ?, 'd': -1.5e3, 'e': TRUE, 'f': null, 'g': [], "
        "'h': {'i': ?}}",
        {"S": "?"},
        {"B": b"\x00"},
    )
    assert music.run('SELECT d, e, f, g, h.i FROM T WHERE "Artist" = ?', {"S": "it's"}) == [
        {"d": {"N": "-1500"}, "e": {"BOOL": True}, "f": {"NULL": True}, "g": {"L": []}, "i": {"B": b"\x00"}}
    ]


# 2. What may fail.


def test_an_item_is_inserted_once(music: Table) -> None:
    insert = "INSERT INTO T VALUE {'Artist': 'Acme Band', 'SongTitle': 'PartiQL Rocks'}"
    music.run(insert)
    with pytest.raises(music.dynamodb.exceptions.DuplicateItemException):
        music.run(insert)


def test_an_update_needs_an_item_for_which_its_condition_holds(table: Table) -> None:
    with pytest.raises(table.dynamodb.exceptions.ConditionalCheckFailedException):
        table.run("UPDATE T SET n = 1 WHERE id = 'z' AND line = 1")
    assert table.run("SELECT * FROM T WHERE id = 'z'") == []
    with pytest.raises(table.dynamodb.exceptions.ConditionalCheckFailedException) as error:
        table.run(
            "UPDATE T SET n = 1 WHERE id = 'a' AND line = 1 AND state = 'shut'",
            ReturnValuesOnConditionCheckFailure="ALL_OLD",
        )
    assert error.value.response["Item"]["state"] == {"S": "open"}


def test_a_delete_is_well_without_an_item_but_not_against_its_condition(table: Table) -> None:
    table.run("DELETE FROM T WHERE id = 'z' AND line = 1 AND state = 'open'")
    with pytest.raises(table.dynamodb.exceptions.ConditionalCheckFailedException):
        table.run("DELETE FROM T WHERE id = 'a' AND line = 1 AND state = 'shut'")
    table.run("DELETE FROM T WHERE id = 'a' AND line = 1 AND state = 'open'")
    assert lines(table.run("SELECT * FROM T WHERE id = 'a'")) == ["a2", "a3"]


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("SELECT * FROM", "Statement wasn't well formed"),
        ("SELECT * FROM T WHERE id = ?", "Number of parameters in request and statement don't match"),
        ("SELECT * FROM T WHERE id IN []", "IN needs one value"),
        (f"SELECT * FROM T WHERE id IN [{','.join(['1'] * 51)}]", "at most 50 values of the partition key"),
        (f"SELECT * FROM T WHERE n IN [{','.join(['1'] * 101)}]", "IN"),
        ("SELECT * FROM T WHERE id = [1]", "key must be"),
        ("SELECT * FROM T WHERE id = 1", "id"),
        ("SELECT n, n FROM T ", "would be named n"),
        ("SELECT * FROM T.nowhere", "does not have the specified index"),
        ("SELECT * FROM T ORDER BY line", "Must have at least one non-optional hash key condition"),
        ("SELECT * FROM T WHERE id = 'a' ORDER BY n", "must be part of the primary key"),
        ("SELECT * FROM T WHERE id IN ['a', 'b'] ORDER BY line", "must begin with the partition key"),
        ("SELECT * FROM T WHERE lower(state) = 'open'", "no function lower"),
        ("SELECT * FROM T WHERE contains(state)", "contains takes 2 arguments, found 1"),
        ("SELECT * FROM T WHERE size(state, n) = 1", "size takes 1 arguments, found 2"),
        ("INSERT INTO T VALUE [1]", "must be a map"),
        ("INSERT INTO T VALUE {'id': 'z', 'line': n}", "Only a literal"),
        ("INSERT INTO T VALUE {'id': 'z', 'line': 1, 's': <<1, 'a'>>}", "all of them strings, numbers or binary"),
        ("INSERT INTO T VALUE {'id': 'z', 'line': 1, 's': <<>>}", "one element or more"),
        ("INSERT INTO T VALUE {'id': 'z'}", "line"),
        ("UPDATE T SET n = 1 WHERE id = 'a'", "mandatory equality on all key attributes"),
        ("UPDATE T SET n = 1 WHERE id = 'a' AND line > 1", "mandatory equality on all key attributes"),
        ("UPDATE T SET n = 1 + 2 - 3 WHERE id = 'a' AND line = 1", "one + or -"),
        ("UPDATE T SET n = upper(n) WHERE id = 'a' AND line = 1", "no function upper"),
        ("UPDATE T SET n = set_add(m, <<1>>) WHERE id = 'a' AND line = 1", "path that is set first"),
        ("UPDATE T SET n = set_add(n, 1) WHERE id = 'a' AND line = 1", "must be a set"),
        ("UPDATE T SET n = set_delete(n, 'a') WHERE id = 'a' AND line = 1", "must be a set"),
        ("UPDATE T SET line = 2 WHERE id = 'a' AND line = 1", "line"),
        ("DELETE FROM T WHERE id = 'a'", "mandatory equality on all key attributes"),
        ("DELETE FROM T WHERE id = 'a' AND line = 1 RETURNING ALL NEW *", "RETURNING ALL OLD"),
        ("EXISTS(SELECT * FROM T WHERE id = 'a' AND line = 1)", "only be used in a transaction"),
    ],
)
def test_a_statement_that_can_not_be_is_refused(table: Table, statement: str, message: str) -> None:
    with pytest.raises(ClientError) as error:
        table.run(statement)
    assert code(error) == "ValidationException"
    assert message in str(error.value)
    assert len(table.run("SELECT * FROM T ")) == 12


def test_parameters_are_counted_before_they_are_looked_at(table: Table) -> None:
    for count, message in ((2, "don't match: 2, 1"), (1, "AttributeValue is empty")):
        empty: list[dict[str, Any]] = [{}] * count
        with pytest.raises(ClientError) as error:
            table.run("SELECT * FROM T WHERE id = ?", *empty)
        assert code(error) == "ValidationException"
        assert message in str(error.value)


def test_a_statement_has_at_most_8192_characters(table: Table) -> None:
    start = "SELECT * FROM T WHERE state = 'a"
    padding = "x" * (8192 - len(table.text(start)) - 1)
    assert table.run(f"{start}{padding}'") == []
    with pytest.raises(ClientError, match="8192"):
        table.run(f"{start}{padding}x'")


@pytest.mark.parametrize(
    ("operation", "content", "error"),
    [
        ("ExecuteStatement", {}, "ValidationException"),
        ("BatchExecuteStatement", {"Statements": [{"Statement": 1}]}, "SerializationException"),
        ("ExecuteStatement", {"Statement": "SELECT * FROM T ", "Parameters": {}}, "SerializationException"),
        ("ExecuteStatement", {"Statement": "SELECT * FROM T WHERE n = ?", "Parameters": [1]}, "SerializationException"),
        ("ExecuteStatement", {"Statement": "SELECT * FROM T WHERE n = ?", "Parameters": [{}]}, "ValidationException"),
        ("ExecuteStatement", {"Statement": "SELECT * FROM T ", "Limit": 0}, "ValidationException"),
        ("ExecuteStatement", {"Statement": "SELECT * FROM T ", "Limit": "1"}, "SerializationException"),
        ("ExecuteStatement", {"Statement": "SELECT * FROM T ", "NextToken": 5}, "SerializationException"),
        ("ExecuteStatement", {"Statement": "SELECT * FROM T ", "ReturnConsumedCapacity": []}, "SerializationException"),
        ("ExecuteStatement", {"Statement": "SELECT * FROM T ", "ReturnConsumedCapacity": "ALL"}, "ValidationException"),
        (
            "ExecuteStatement",
            {"Statement": "SELECT * FROM T WHERE n = ?", "Parameters": [nested(400)]},
            "ValidationException",
        ),
        ("BatchExecuteStatement", ONE | {"ReturnConsumedCapacity": 5}, "SerializationException"),
        ("BatchExecuteStatement", ONE | {"ReturnConsumedCapacity": "ALL"}, "ValidationException"),
        ("BatchExecuteStatement", {}, "ValidationException"),
        ("BatchExecuteStatement", {"Statements": []}, "ValidationException"),
        ("BatchExecuteStatement", {"Statements": "SELECT"}, "SerializationException"),
        ("ExecuteTransaction", {"TransactStatements": [None]}, "SerializationException"),
    ],
)
def test_a_faulty_request_is_refused(
    table: Table, open_broker: BrokerProcess, operation: str, content: dict[str, Any], error: str
) -> None:
    if "Statement" in content:
        content = {**content, "Statement": table.text(str(content["Statement"]))}
    status, answer = post(open_broker, f"DynamoDB_20120810.{operation}", content)
    assert (status, answer["__type"].rpartition("#")[2]) == (400, error), answer


def test_a_table_that_is_not_there_is_told(table: Table) -> None:
    with pytest.raises(table.dynamodb.exceptions.ResourceNotFoundException):
        table.run("SELECT * FROM nowhere")


# 3. SELECT.


class Where(NamedTuple):
    """A condition on orders, and for which of them it holds."""

    text: str
    holds: Callable[[str, int, int], bool]


def random_where(random: Random, depth: int = 2) -> Where:
    kind = random.choice(("and", "or", "not", "id", "line", "n", "in", "between"))
    if kind in {"and", "or"} and depth:
        first, second = random_where(random, depth - 1), random_where(random, depth - 1)
        if kind == "and":
            return Where(f"({first.text} AND {second.text})", lambda *of: first.holds(*of) and second.holds(*of))
        return Where(f"({first.text} OR {second.text})", lambda *of: first.holds(*of) or second.holds(*of))
    if kind == "not" and depth:
        inner = random_where(random, depth - 1)
        return Where(f"NOT ({inner.text})", lambda *of: not inner.holds(*of))
    comparator, compare = random.choice(
        (("=", operator.eq), ("<>", operator.ne), ("<", operator.lt), ("<=", operator.le), (">", operator.gt))
    )
    if kind == "line":
        line = random.randint(0, 4)
        if random.random() < 0.5:
            return Where(f"line {comparator} {line}", lambda _, of, __: compare(of, line))
        return Where(f"{line} {comparator} line", lambda _, of, __: compare(line, of))
    if kind == "n":
        n = random.randint(10, 33)
        return Where(f"n {comparator} {n}", lambda _, __, of: compare(of, n))
    if kind == "between":
        low, high = sorted((random.randint(0, 4), random.randint(0, 4)))
        return Where(f"line BETWEEN {low} AND {high}", lambda _, of, __: low <= of <= high)
    if kind == "in":
        ids = random.choices("abcde", k=3)
        return Where(f"id IN {ids}", lambda of, _, __: of in ids)
    id_ = random.choice("abcde")
    return Where(f"id = '{id_}'", lambda of, _, __: of == id_)


@pytest.mark.parametrize("seed", range(5))
def test_a_select_finds_what_its_condition_says(table: Table, seed: int) -> None:
    random = Random(seed)
    for _ in range(60):
        # Half of them have something to find items by.
        parts = [random_where(random) for _ in range(random.randint(1, 3))]
        where = " AND ".join(part.text for part in parts)
        expected = [
            f"{id_}{line}"
            for id_ in "abcd"
            for line in (1, 2, 3)
            if all(part.holds(id_, line, 10 * line + ord(id_) % 3) for part in parts)
        ]
        found = table.all_pages(f"SELECT id, line FROM T WHERE {where}", random.choice((1, 2, 100)))
        assert sorted(lines(found)) == expected, where


def test_a_select_is_ordered_by_keys(table: Table) -> None:
    several = "SELECT * FROM T WHERE id IN ['b', 'a', 'c', 'b']"
    assert lines(table.run(several)) == ["b1", "b2", "b3", "a1", "a2", "a3", "c1", "c2", "c3"]
    backwards = lines(table.run(f"{several} ORDER BY id DESC, line DESC"))
    assert backwards == ["c3", "c2", "c1", "b3", "b2", "b1", "a3", "a2", "a1"]
    assert lines(table.all_pages(f"{several} ORDER BY id DESC, line DESC", 2)) == backwards
    assert lines(table.run(f"{several} ORDER BY id, line DESC"))[:4] == ["a3", "a2", "a1", "b3"]
    assert lines(table.run("SELECT * FROM T WHERE id = 'd' AND line >= 2 ORDER BY line DESC")) == ["d3", "d2"]


def test_an_index_is_selected_from(table: Table) -> None:
    table.run("UPDATE T SET state = 'shut' WHERE id = 'c' AND line = 2")
    assert lines(table.run("SELECT * FROM T.\"by_state\" WHERE state = 'shut'")) == ["c2"]
    assert lines(table.run("SELECT * FROM T.\"line_state\" WHERE id = 'c' ORDER BY state DESC"))[0] == "c2"
    with pytest.raises(ClientError) as error:
        table.run("SELECT * FROM T.\"by_state\" WHERE state = 'shut'", ConsistentRead=True)
    assert code(error) == "ValidationException"


def test_a_page_tells_where_it_ended_and_what_it_took(table: Table) -> None:
    statement = table.text("SELECT * FROM T WHERE id IN ['a', 'b']")
    page = table.dynamodb.execute_statement(Statement=statement, Limit=4, ReturnConsumedCapacity="TOTAL")
    assert lines(page["Items"]) == ["a1", "a2", "a3", "b1"]
    assert page["LastEvaluatedKey"] == {"id": {"S": "b"}, "line": {"N": "1"}}
    assert page["ConsumedCapacity"] == {"TableName": table.name, "CapacityUnits": 1.0}
    consistent = table.dynamodb.execute_statement(
        Statement=statement, ConsistentRead=True, ReturnConsumedCapacity="INDEXES"
    )
    assert consistent["ConsumedCapacity"] == {
        "TableName": table.name,
        "CapacityUnits": 2.0,
        "Table": {"CapacityUnits": 2.0},
    }
    rest = table.dynamodb.execute_statement(Statement=statement, NextToken=page["NextToken"])
    assert lines(rest["Items"]) == ["b2", "b3"]
    assert rest.keys() == {"Items", "ResponseMetadata"}
    for other, token in ((f"{statement} ", page["NextToken"]), (statement, "x"), (statement, "W10=")):
        with pytest.raises(ClientError, match="NextToken is not one of this statement"):
            table.dynamodb.execute_statement(Statement=other, NextToken=token)


def test_a_page_over_several_partitions_ends_at_a_megabyte(table: Table) -> None:
    for id_ in "efgh":
        for line in (1, 2):
            table.run(
                "INSERT INTO T VALUE {'id': ?, 'line': ?, 'x': ?}", {"S": id_}, {"N": str(line)}, {"S": "x" * 390_000}
            )
    statement = table.text("SELECT id, line FROM T WHERE id IN ['e', 'f', 'g', 'h']")
    whole = table.dynamodb.execute_statement(Statement=statement, ConsistentRead=True)
    assert lines(whole["Items"]) == ["e1", "e2", "f1", "f2"]
    first = table.dynamodb.execute_statement(Statement=statement)
    assert lines(first["Items"]) == ["e1", "e2", "f1", "f2"]
    rest = table.dynamodb.execute_statement(Statement=statement, NextToken=first["NextToken"])
    assert lines(rest["Items"]) == ["g1", "g2", "h1", "h2"]
    assert "NextToken" not in rest


def test_a_page_over_several_partitions_ends_when_its_parameters_came_to_a_megabyte(table: Table) -> None:
    statement = table.text("SELECT id FROM T WHERE id IN ['a', 'b', 'c', 'd'] AND n <> ? AND line = 1")
    long = [{"S": "x" * 600_000}]
    first = table.dynamodb.execute_statement(Statement=statement, Parameters=long)
    assert [item["id"]["S"] for item in first["Items"]] == ["a", "b"]
    rest = table.dynamodb.execute_statement(Statement=statement, Parameters=long, NextToken=first["NextToken"])
    assert [item["id"]["S"] for item in rest["Items"]] == ["c", "d"]


# 4. Several statements.


def test_a_batch_answers_each_statement_on_its_own(table: Table) -> None:
    response = table.batch(
        "INSERT INTO T VALUE {'id': 'z', 'line': 1}",
        "INSERT INTO T VALUE {'id': 'a', 'line': 1}",
        "UPDATE T SET n = 7 WHERE id = 'a' AND line = 2 RETURNING MODIFIED NEW *",
        "DELETE FROM T WHERE id = 'a' AND line = 3 AND n = 0",
        "UPDATE",
        "DELETE FROM nowhere WHERE id = 'a'",
        "EXISTS(SELECT * FROM T WHERE id = 'a' AND line = 1)",
        ReturnConsumedCapacity="TOTAL",
    )
    answers = response["Responses"]
    assert [answer.get("Error", {}).get("Code") for answer in answers] == [
        *(None, "DuplicateItem", None, "ConditionalCheckFailed", "ValidationError", "ResourceNotFound"),
        "ValidationError",
    ]
    assert answers[0] == {"TableName": table.name}
    assert answers[2] == {"TableName": table.name, "Item": {"n": {"N": "7"}}}
    assert len(response["ConsumedCapacity"]) == 2
    found = table.batch(
        "SELECT line FROM T WHERE id = 'z' AND line = 1",
        "SELECT line FROM T WHERE id = 'z' AND line = 2",
        "SELECT line FROM T WHERE id = 'z'",
    )["Responses"]
    assert found[:2] == [{"TableName": table.name, "Item": {"line": {"N": "1"}}}, {"TableName": table.name}]
    assert found[2]["Error"]["Code"] == "ValidationError"


def test_a_batch_shows_the_item_for_which_a_condition_does_not_hold(table: Table) -> None:
    delete = {
        "Statement": table.text("DELETE FROM T WHERE id = 'a' AND line = 3 AND n = 0"),
        "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
    }
    (answer,) = table.dynamodb.batch_execute_statement(Statements=[delete])["Responses"]
    assert answer["Error"]["Item"]["line"] == {"N": "3"}


def test_statements_are_all_reads_or_all_writes_and_not_too_many(table: Table) -> None:
    select = "SELECT * FROM T WHERE id = 'a' AND line = 1"
    delete = "DELETE FROM T WHERE id = 'a' AND line = 1"
    for several, most in ((table.batch, 25), (table.transact, 100)):
        for statements in ((select, delete), (delete, select)):
            with pytest.raises(ClientError, match="either all reads or all writes"):
                several(*statements)
        with pytest.raises(ClientError, match=str(most)):
            several(*[delete] * (most + 1))
    assert len(table.batch(*[select] * 25)["Responses"]) == 25
    assert len(table.run(select)) == 1


def test_a_transaction_takes_effect_whole_or_not(table: Table) -> None:
    response = table.transact(
        "EXISTS(SELECT * FROM T WHERE id = 'a' AND line = 1 AND shut IS MISSING)",
        "INSERT INTO T VALUE {'id': 'z', 'line': 1}",
        "UPDATE T SET shut = TRUE WHERE id = 'a' AND line = 2",
        "DELETE FROM T WHERE id = 'a' AND line = 3",
        ReturnConsumedCapacity="TOTAL",
    )
    assert response["Responses"] == []
    (consumed,) = response["ConsumedCapacity"]
    assert consumed["WriteCapacityUnits"] == consumed["CapacityUnits"] > 0
    with pytest.raises(table.dynamodb.exceptions.TransactionCanceledException) as error:
        table.transact(
            "UPDATE T SET shut = TRUE WHERE id = 'b' AND line = 1",
            "INSERT INTO T VALUE {'id': 'z', 'line': 1}",
            "EXISTS(SELECT * FROM T WHERE id = 'y' AND line = 1 AND shut IS MISSING)",
        )
    reasons = error.value.response["CancellationReasons"]
    assert [reason["Code"] for reason in reasons] == ["None", "DuplicateItem", "ConditionalCheckFailed"]
    assert "[None, DuplicateItem, ConditionalCheckFailed]" in str(error.value)
    assert table.run("SELECT * FROM T WHERE shut = TRUE AND id = 'b'") == []
    read = table.transact(
        "SELECT shut FROM T WHERE id = 'a' AND line = 2",
        "SELECT * FROM T WHERE id = 'a' AND line = 3",
        ReturnConsumedCapacity="TOTAL",
    )
    assert read["Responses"] == [{"Item": {"shut": {"BOOL": True}}}, {}]
    assert read["ConsumedCapacity"][0]["ReadCapacityUnits"] == 4.0


def test_a_transaction_with_the_same_token_is_carried_out_once(table: Table) -> None:
    update = "UPDATE T SET n = n + 1 WHERE id = 'a' AND line = 1"
    (before,) = table.run("SELECT n FROM T WHERE id = 'a' AND line = 1")
    for _ in range(2):
        table.transact(update, ClientRequestToken=table.name)
    (after,) = table.run("SELECT n FROM T WHERE id = 'a' AND line = 1")
    assert int(after["n"]["N"]) == int(before["n"]["N"]) + 1
    with pytest.raises(table.dynamodb.exceptions.IdempotentParameterMismatchException):
        table.transact(update.replace("+ 1", "+ 2"), ClientRequestToken=table.name)


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM T WHERE id = 'a'",
        "SELECT * FROM T WHERE id = 'a' AND line = 1 AND n = 1",
        "SELECT * FROM T.\"by_state\" WHERE id = 'a' AND line = 1",
        "DELETE FROM T WHERE id = 'a' AND line = 1 RETURNING ALL OLD *",
        "EXISTS(SELECT * FROM T WHERE id = 'a')",
        "EXISTS(SELECT n FROM T WHERE id = 'a' AND line = 1)",
        "EXISTS(SELECT * FROM T WHERE id = 'a' AND line = 1 ORDER BY line)",
        "EXISTS(SELECT * FROM T.\"line_state\" WHERE id = 'a' AND state = 'open')",
    ],
)
def test_what_has_no_place_in_a_transaction_is_refused(table: Table, statement: str) -> None:
    with pytest.raises(ClientError) as error:
        table.transact(statement)
    assert code(error) == "ValidationException"
    assert len(table.run("SELECT * FROM T ")) == 12
