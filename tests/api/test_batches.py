"""BatchWriteItem, WriteItems and BatchGetItem: many items in one call, each on its own, their results in order."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import grpc
import pytest

from headrace.v1 import attribute_value_pb2 as pb
from headrace.v1.item_service_pb2 import (
    RETURN_VALUES_ALL_OLD,
    RETURN_VALUES_ON_CONDITION_CHECK_FAILURE_ALL_OLD,
    BatchGetItemRequest,
    BatchGetItemResponse,
    BatchWriteItemRequest,
    TableKeys,
    UpdateItemRequest,
    WriteItemsRequest,
    WriteItemsResponse,
    WriteOperation,
)
from tests.rpc import Client, TestTable, batch, delete, put, refused, unique_name
from tests.values import attributes, from_item, item, value

BATCH_WRITE_OPERATIONS_MAX = 25
WRITE_ITEMS_OPERATIONS_MAX = 1_000


def batch_write(client: Client, *operations: WriteOperation) -> None:
    response = client.items.BatchWriteItem(BatchWriteItemRequest(operations=operations))
    assert list(response.unprocessed_operations) == []


def reasons(response: WriteItemsResponse) -> list[str]:
    return [result.error.reason if result.HasField("error") else "" for result in response.results]


def test_a_batch_puts_and_deletes_in_several_tables(client: Client) -> None:
    one, two = client.create_table(), client.create_table()
    client.put(two.name, item(id="b"))
    batch_write(
        client,
        put(item(id="a", n=1), table=one.name),
        put(item(id="a", n=2), table=two.name),
        delete(item(id="b"), table=two.name),
        delete(item(id="never there"), table=one.name),
    )
    assert client.contents(one) == {(value("a"),): attributes(id="a", n=1)}
    assert client.contents(two) == {(value("a"),): attributes(id="a", n=2)}
    assert len(client.records(one.stream_arn)) == 1
    assert len(client.records(two.stream_arn)) == 3


def test_a_batch_takes_25_operations(client: Client, table: TestTable) -> None:
    batch_write(client, *(put(item(id=str(n)), table=table.name) for n in range(BATCH_WRITE_OPERATIONS_MAX)))
    assert len(client.contents(table)) == BATCH_WRITE_OPERATIONS_MAX


def an_update(table: TestTable) -> WriteOperation:
    return WriteOperation(update=UpdateItemRequest(table_name=table.name, key=item(id="a")))


BAD_BATCHES: dict[str, tuple[Callable[[TestTable], list[WriteOperation]], str, str]] = {
    "none": (lambda _: [], "INVALID_ARGUMENT", "VALIDATION"),
    "26": (lambda t: [put(item(id=str(n)), table=t.name) for n in range(26)], "INVALID_ARGUMENT", "VALIDATION"),
    "an unset operation": (
        lambda t: [put(item(id="a"), table=t.name), WriteOperation()],
        "INVALID_ARGUMENT",
        "VALIDATION",
    ),
    "an update": (lambda t: [put(item(id="b"), table=t.name), an_update(t)], "INVALID_ARGUMENT", "VALIDATION"),
    "a condition": (
        lambda t: [put(item(id="a"), table=t.name, condition="attribute_exists(id)")],
        "INVALID_ARGUMENT",
        "VALIDATION",
    ),
    "no table": (lambda t: [put(item(id="a"), table=t.name), put(item(id="b"))], "INVALID_ARGUMENT", "VALIDATION"),
    "an unknown table": (
        lambda t: [put(item(id="a"), table=t.name), put(item(id="a"), table="nowhere")],
        "NOT_FOUND",
        "RESOURCE_NOT_FOUND",
    ),
    "one key twice": (
        lambda t: [
            put(item(id="a", n=1), table=t.name),
            put(item(id="b"), table=t.name),
            put(item(id="a"), table=t.name),
        ],
        "INVALID_ARGUMENT",
        "VALIDATION",
    ),
    "a put and a delete of one key": (
        lambda t: [put(item(id="a"), table=t.name), delete(item(id="a"), table=t.name)],
        "INVALID_ARGUMENT",
        "VALIDATION",
    ),
    "one bad item": (
        lambda t: [put(item(id="a"), table=t.name), put(item(wrong="b"), table=t.name)],
        "INVALID_ARGUMENT",
        "VALIDATION",
    ),
    "one item too large": (
        lambda t: [put(item(id="a"), table=t.name), put(item(id="b", text="x" * 409_600), table=t.name)],
        "INVALID_ARGUMENT",
        "VALIDATION",
    ),
}


@pytest.mark.parametrize("fault", BAD_BATCHES)
def test_a_batch_with_a_fault_writes_nothing_at_all(client: Client, table: TestTable, fault: str) -> None:
    make, code, reason = BAD_BATCHES[fault]
    with client.unchanged(table), refused(code, reason) as expected:
        batch_write(client, *make(table))
    if reason == "VALIDATION":
        assert expected.refusal.metadata["field"], expected.refusal
    if fault == "26":
        assert expected.refusal.metadata["limit"] == str(BATCH_WRITE_OPERATIONS_MAX)
    if fault == "one key twice":
        assert "duplicates" in expected.refusal.message


# Keys are compared after numbers are made normal, so 1 and 1.0 clash.
def test_a_batch_compares_number_keys_by_value(client: Client) -> None:
    table = client.create_table(keys="n:N")
    twins = [put(pb.Item(attributes={"n": pb.AttributeValue(n=text)}), table=table.name) for text in ("1", "1.0")]
    with client.unchanged(table), refused("INVALID_ARGUMENT", "VALIDATION", says="duplicates"):
        batch_write(client, *twins)


def test_one_key_in_two_tables_is_no_duplicate(client: Client) -> None:
    one, two = client.create_table(), client.create_table()
    batch_write(client, put(item(id="a"), table=one.name), put(item(id="a"), table=two.name))
    assert client.contents(one) == client.contents(two)


def test_write_items_answers_each_batch_with_a_result_per_operation_in_order(client: Client, table: TestTable) -> None:
    first, second = client.write_items(
        batch(
            table.name,
            put(item(id="a", n=1)),
            put(item(id="a", n=2), condition="attribute_not_exists(id)"),
            put(item(id="a", n=3), condition="attribute_exists(id)"),
            put(item(wrong="a")),
            put(item(id="b"), table="nowhere"),
            delete(item(id="b")),
            put(pb.Item(attributes={"id": pb.AttributeValue(s="c"), "n": pb.AttributeValue(n="x")})),
            WriteOperation(),
            put(item(id="d")),
        ),
        batch(table.name, delete(item(id="a")), put(item(id="e"))),
    )
    assert reasons(first) == [
        "", "CONDITIONAL_CHECK_FAILED", "", "VALIDATION", "RESOURCE_NOT_FOUND", "", "VALIDATION", "VALIDATION", "",
    ]  # fmt: skip
    assert reasons(second) == ["", ""]
    assert client.contents(table).keys() == {(value("d"),), (value("e"),)}
    names = [record.event_name for record in client.records(table.stream_arn)]
    assert names == [1, 2, 1, 3, 1]


# An error inside a response must tell a program as much as a failed call does.
def test_a_result_says_what_the_unary_call_would_have_said(client: Client, table: TestTable) -> None:
    (response,) = client.write_items(
        batch(
            table.name,
            put(item(id="")),
            put(item(id="a"), condition="attribute_exists(id)"),
            put(item(id="a"), table="nowhere"),
            put(item(id="a", text="x" * 409_600)),
        )
    )
    codes = [result.error.code for result in response.results]
    assert codes == [
        grpc.StatusCode.INVALID_ARGUMENT.value[0],
        grpc.StatusCode.FAILED_PRECONDITION.value[0],
        grpc.StatusCode.NOT_FOUND.value[0],
        grpc.StatusCode.INVALID_ARGUMENT.value[0],
    ]
    assert all(result.error.message for result in response.results)
    assert response.results[3].error.metadata["limit"] == "409600"
    with refused("INVALID_ARGUMENT", "VALIDATION") as expected:
        client.put(table.name, item(id="a", text="x" * 409_600))
    assert dict(response.results[3].error.metadata) == dict(expected.refusal.metadata)
    assert response.results[3].error.message == expected.refusal.message


# A write that is done, but whose answer no client takes, would look like one that may not have happened.
def test_writes_that_return_more_than_a_response_holds_are_not_carried_out(client: Client, table: TestTable) -> None:
    for number in range(12):
        client.put(table.name, item(id=f"k{number:02}", text="x" * 400_000))
    overs = [put(item(id=f"k{number:02}", n=number)) for number in range(12)]
    for over in overs:
        over.put.return_values = RETURN_VALUES_ALL_OLD
    (response,) = client.write_items(batch(table.name, *overs))
    assert reasons(response) == [""] * 9 + ["THROTTLING"] * 3
    assert [len(result.attributes.attributes["text"].s) for result in response.results[:9]] == [400_000] * 9
    assert response.results[9].error.metadata["field"] == "return_values"
    written = [attributes(id=f"k{number:02}", n=number) for number in range(9)]
    assert [client.get(table.name, item(id=f"k{number:02}")) for number in range(9)] == written
    stored = client.get(table.name, item(id="k09"))
    assert stored is not None
    assert "text" in stored
    # As often as one likes in other batches; and a condition that fails says so also where there is no room.
    (response,) = client.write_items(batch(table.name, *overs[9:]))
    assert reasons(response) == [""] * 3
    for number in range(12):
        client.put(table.name, item(id=f"k{number:02}", text="x" * 400_000))
    for over in overs:
        over.put.condition_expression = "attribute_not_exists(id)"
        over.put.return_values_on_condition_check_failure = RETURN_VALUES_ON_CONDITION_CHECK_FAILURE_ALL_OLD
    with client.unchanged(table):
        (response,) = client.write_items(batch(table.name, *overs))
    assert [result.HasField("condition_check_failure") for result in response.results] == [True] * 9 + [False] * 3
    assert reasons(response) == [""] * 9 + ["CONDITIONAL_CHECK_FAILED"] * 3


def test_a_batch_write_returns_no_values(client: Client, table: TestTable) -> None:
    returning = put(item(id="a"), table=table.name)
    returning.put.return_values = RETURN_VALUES_ALL_OLD
    with client.unchanged(table), refused("INVALID_ARGUMENT", "VALIDATION", field="return_values"):
        batch_write(client, returning)


def test_operations_of_a_batch_may_name_tables_of_their_own(client: Client) -> None:
    one, two = client.create_table(), client.create_table()
    (response,) = client.write_items(batch(one.name, put(item(id="a")), put(item(id="b"), table=two.name)))
    assert reasons(response) == ["", ""]
    assert (len(client.contents(one)), len(client.contents(two))) == (1, 1)


def test_an_operation_without_any_table_name_is_refused(client: Client, table: TestTable) -> None:
    (response,) = client.write_items(batch("", put(item(id="a")), put(item(id="b"), table=table.name)))
    assert reasons(response) == ["VALIDATION", ""]


def test_one_batch_may_write_an_item_often_with_a_record_for_each_change(client: Client, table: TestTable) -> None:
    (response,) = client.write_items(batch(table.name, *(put(item(id="a", n=n)) for n in range(1_000))))
    assert reasons(response) == [""] * 1_000
    records = client.records(table.stream_arn)
    assert [r.new_image for r in records] == [item(id="a", n=n) for n in range(1_000)]
    assert [r.old_image for r in records[1:]] == [r.new_image for r in records[:-1]]


@pytest.mark.parametrize(
    ("operations", "limit"),
    [
        ([put(item(id=str(n))) for n in range(WRITE_ITEMS_OPERATIONS_MAX + 1)], WRITE_ITEMS_OPERATIONS_MAX),
        ([], 1),
    ],
    ids=["1001 operations", "no operation"],
)
def test_a_batch_of_no_or_too_many_operations_ends_the_call(
    client: Client, table: TestTable, operations: list[WriteOperation], limit: int
) -> None:
    with client.unchanged(table), refused("INVALID_ARGUMENT", "VALIDATION", field="operations", limit=limit):
        client.write_items(batch(table.name, *operations))


def test_the_batches_before_a_faulty_one_are_answered_and_stay(client: Client, table: TestTable) -> None:
    call = client.items.WriteItems(iter([batch(table.name, put(item(id="a"))), batch(table.name)]))
    assert reasons(next(call)) == [""]
    with refused("INVALID_ARGUMENT", "VALIDATION"):
        next(call)
    assert client.contents(table).keys() == {(value("a"),)}


def test_a_call_without_batches_ends_without_responses(client: Client) -> None:
    assert client.write_items() == []


# The writer must see its answers while it still sends, or it cannot pace itself.
def test_a_response_comes_before_the_next_batch_is_sent(client: Client, table: TestTable) -> None:
    answered = threading.Semaphore(1)

    def paced() -> Iterator[WriteItemsRequest]:
        for n in range(20):
            assert answered.acquire(timeout=10)
            yield batch(table.name, put(item(id=str(n))))

    seen = 0
    for response in client.items.WriteItems(paced()):
        assert reasons(response) == [""]
        seen += 1
        answered.release()
    assert seen == 20


# Backpressure may slow a writer, but must not lose or refuse what it sends.
def test_more_batches_than_the_server_takes_ahead_are_all_written_in_order(client: Client, table: TestTable) -> None:
    batches = [batch(table.name, *(put(item(id=f"{n % 7}", n=n * 50 + m)) for m in range(50))) for n in range(100)]
    responses = client.write_items(*batches)
    assert [reasons(response) for response in responses] == [[""] * 50] * 100
    written = [record.new_image.attributes["n"].n for record in client.records(table.stream_arn)]
    assert written == [str(n) for n in range(5_000)]


# BatchGetItem.


def batch_get(client: Client, *tables: TableKeys) -> BatchGetItemResponse:
    return client.items.BatchGetItem(BatchGetItemRequest(tables=tables))


def test_a_batch_reads_up_to_100_items_in_the_order_of_their_keys(client: Client, table: TestTable) -> None:
    client.write_items(batch(table.name, *(put(item(id=f"k{number}", n=number)) for number in range(101))))
    keys = [item(id=f"k{number}") for number in range(99, -1, -1)]
    response = batch_get(client, TableKeys(table_name=table.name, keys=keys))
    assert [from_item(found)["n"] for found in response.tables[0].items] == [value(n) for n in range(99, -1, -1)]
    assert not response.unprocessed_keys
    too_many = [TableKeys(table_name=table.name, keys=[*keys, item(id="k100")])]
    with refused("INVALID_ARGUMENT", "VALIDATION", field="tables", limit=100):
        batch_get(client, *too_many)


def test_a_batch_gives_back_what_does_not_fit_into_its_response(client: Client, table: TestTable) -> None:
    for number in range(5):
        client.put(table.name, item(id=f"k{number}", text="x" * 390_000))
    keys = [item(id=f"k{number}") for number in range(5)]
    wanted = TableKeys(table_name=table.name, keys=keys, projection_expression="id, #t", consistent_read=True)
    wanted.expression_attribute_names["#t"] = "text"
    response = batch_get(client, wanted)
    assert len(response.tables[0].items) == 3
    (left,) = response.unprocessed_keys
    assert list(left.keys) == keys[3:]
    # The rest of it is as it was, so it can be sent as it is.
    assert (left.projection_expression, left.consistent_read) == ("id, #t", True)
    assert len(batch_get(client, left).tables[0].items) == 2


def test_each_table_of_a_batch_has_its_section_also_if_nothing_is_found(client: Client) -> None:
    one, two = client.create_table(), client.create_table()
    client.put(two.name, item(id="a"))
    sections = [TableKeys(table_name=each.name, keys=[item(id="a")]) for each in (one, two)]
    response = batch_get(client, *sections)
    assert [(each.table_name, len(each.items)) for each in response.tables] == [(one.name, 0), (two.name, 1)]


def bad_batch_gets(table: TestTable) -> dict[str, tuple[list[TableKeys], str]]:
    key = item(id="a")
    return {
        "no table": ([], "tables"),
        "no keys": ([TableKeys(table_name=table.name)], "tables"),
        "a table twice": ([TableKeys(table_name=table.name, keys=[item(id=each)]) for each in "ab"], "tables"),
        "equal keys": ([TableKeys(table_name=table.name, keys=[key, key])], "keys"),
        "a faulty key": ([TableKeys(table_name=table.name, keys=[key, item(id=1)])], "key"),
        "a faulty projection": (
            [TableKeys(table_name=table.name, keys=[key], projection_expression="id,")],
            "projection_expression",
        ),
        "an unused name": (
            [TableKeys(table_name=table.name, keys=[key], expression_attribute_names={"#n": "n"})],
            "expression_attribute_names",
        ),
    }


@pytest.mark.parametrize("fault", list(bad_batch_gets(TestTable(name="", stream_arn="", key_names=()))))
def test_a_faulty_batch_of_keys_is_refused(client: Client, table: TestTable, fault: str) -> None:
    tables, field = bad_batch_gets(table)[fault]
    with refused("INVALID_ARGUMENT", "VALIDATION", field=field):
        batch_get(client, *tables)


def test_a_batch_of_an_unknown_table_is_not_found(client: Client, table: TestTable) -> None:
    sections = [TableKeys(table_name=name, keys=[item(id="a")]) for name in (table.name, unique_name())]
    with refused("NOT_FOUND", "RESOURCE_NOT_FOUND"):
        batch_get(client, *sections)
