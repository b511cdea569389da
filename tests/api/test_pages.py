"""Query and Scan: pages and their limits, what indexes hold, and what is refused. Source: DynamoDB API Reference."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from headrace.v1 import attribute_value_pb2, table_pb2
from headrace.v1 import item_service_pb2 as pb
from headrace.v1.table_service_pb2 import CreateTableRequest
from tests.rpc import (
    Client,
    TestTable,
    create_table_request,
    definitions,
    global_index,
    local_index,
    refused,
    unique_name,
)
from tests.values import attributes, from_item, item, size_bytes, to_attribute_value, value

KEYS_ONLY = table_pb2.Projection(projection_type=table_pb2.PROJECTION_TYPE_KEYS_ONLY)
INCLUDE = table_pb2.Projection(projection_type=table_pb2.PROJECTION_TYPE_INCLUDE, non_key_attributes=["kept"])


@pytest.fixture
def orders(client: Client) -> TestTable:
    """A table with an index of each kind and projection."""
    request = create_table_request(unique_name(), keys="customer:S n:N")
    request.attribute_definitions.extend(definitions("amount:N stage:S payload:B"))
    request.local_secondary_indexes.extend(
        [local_index("by-amount", "customer amount", KEYS_ONLY), local_index("by-stage", "customer stage", INCLUDE)]
    )
    request.global_secondary_indexes.extend(
        [global_index("of-stage", "stage amount"), global_index("of-payload", "payload", KEYS_ONLY)]
    )
    return made(client, request)


def made(client: Client, request: CreateTableRequest) -> TestTable:
    client.tables.CreateTable(request)
    return TestTable(name=request.table_name, stream_arn="", key_names=("customer", "n"))


def values_of(**plain: object) -> dict[str, attribute_value_pb2.AttributeValue]:
    return {f":{name}": to_attribute_value(value(each)) for name, each in plain.items()}


def query(client: Client, table: TestTable, condition: str, values: dict[str, Any], **fields: Any) -> pb.QueryResponse:
    return client.items.Query(
        pb.QueryRequest(
            table_name=table.name,
            key_condition_expression=condition,
            expression_attribute_values=values_of(**values),
            **fields,
        )
    )


def scan(client: Client, table: TestTable, **fields: Any) -> pb.ScanResponse:
    return client.items.Scan(pb.ScanRequest(table_name=table.name, **fields))


def test_numbers_are_in_numeric_order_and_text_in_that_of_its_bytes(client: Client) -> None:
    for keys, sorts in (
        ("id:S at:N", [-(10**125), -2, -1.5, 0, 0.5, 1, 2, 10, 10**20]),
        ("id:S at:S", ["A", "AA", "B", "a", "\u00e9", "\U0001f600"]),
        ("id:S at:B", [b"\x00", b"\x00\x00", b"\x00\x01", b"\x01", b"\xff", b"\xff\xff"]),
    ):
        table = client.create_table(keys=keys)
        for sort in sorted(sorts, key=repr):
            client.put(table.name, item(id="x", at=_exact(sort)))
        for is_forward in (True, False):
            found = query(
                client, table, "id = :id", {"id": "x"}, scan_index_forward=is_forward, select=pb.SELECT_ALL_ATTRIBUTES
            )
            expected = [value(_exact(sort)) for sort in (sorts if is_forward else sorts[::-1])]
            assert [from_item(each)["at"] for each in found.items] == expected


def _exact(sort: Any) -> Any:
    return Decimal(str(sort)) if isinstance(sort, float) else sort


def test_a_prefix_is_found_also_if_it_ends_in_the_highest_byte(client: Client) -> None:
    table = client.create_table(keys="id:S at:B")
    sorts = [b"\xfe\xff", b"\xff", b"\xff\x00", b"\xff\xff", b"\xff\xff\x01"]
    for sort in sorts:
        client.put(table.name, item(id="x", at=sort))
    for prefix in (b"\xff", b"\xff\xff", b"\xfe"):
        found = query(
            client,
            table,
            "id = :id AND begins_with(#a, :p)",
            {"id": "x", "p": prefix},
            expression_attribute_names={"#a": "at"},
        )
        assert [from_item(each)["at"] for each in found.items] == [value(s) for s in sorts if s.startswith(prefix)]


def test_a_page_ends_at_1_mb_read_and_a_filter_does_not_make_it_longer(client: Client) -> None:
    table = client.create_table(keys="id:S n:N")
    for number in range(6):
        client.put(table.name, item(id="x", n=number, text="y" * 300_000))
    page = query(
        client,
        table,
        "id = :id",
        {"id": "x", "z": "z"},
        filter_expression="begins_with(#t, :z)",
        expression_attribute_names={"#t": "text"},
    )
    assert (page.count, len(page.items)) == (0, 0)
    assert page.scanned_count == 3
    assert from_item(page.last_evaluated_key) == attributes(id="x", n=2)
    page = query(client, table, "id = :id", {"id": "x"}, exclusive_start_key=page.last_evaluated_key)
    assert [from_item(each)["n"] for each in page.items] == [value(3), value(4), value(5)]
    assert not page.HasField("last_evaluated_key")


MEGABYTE = 1024 * 1024
CONSISTENT: dict[str, Any] = {"consistent_read": True, "return_consumed_capacity": pb.RETURN_CONSUMED_CAPACITY_TOTAL}


def item_of_bytes(size: int, **plain: object) -> attribute_value_pb2.Item:
    return item(plain, text="x" * (size - size_bytes(attributes(plain, text=""))))


@pytest.mark.parametrize(
    ("each_bytes", "items", "fitting"),
    [(41_509, 26, 25), (262_144, 5, 4), (262_145, 5, 3), (400 * 1024, 4, 2)],
)
def test_the_item_that_would_pass_1_mb_begins_the_next_page(
    client: Client, each_bytes: int, items: int, fitting: int
) -> None:
    table = client.create_table(keys="id:S n:N")
    for number in range(items):
        client.put(table.name, item_of_bytes(each_bytes, id="x", n=number))
    key_condition: dict[str, Any] = {
        "key_condition_expression": "id = :id",
        "expression_attribute_values": values_of(id="x"),
    }
    reads: dict[str, Callable[..., Any]] = {
        "query": lambda **more: client.items.Query(
            pb.QueryRequest(table_name=table.name, **key_condition, **CONSISTENT, **more)
        ),
        "scan": lambda **more: client.items.Scan(pb.ScanRequest(table_name=table.name, **CONSISTENT, **more)),
        "count": lambda **more: client.items.Query(
            pb.QueryRequest(table_name=table.name, **key_condition, **CONSISTENT, **more, select=pb.SELECT_COUNT)
        ),
    }
    for name, read in reads.items():
        page = read()
        assert (page.count, page.scanned_count) == (fitting, fitting), name
        assert from_item(page.last_evaluated_key) == attributes(id="x", n=fitting - 1), name
        # The item that is left out is not paid for.
        units = -(-fitting * each_bytes // 4096)
        assert page.consumed_capacity.total.read_capacity_units == units, name
        rest = read(exclusive_start_key=page.last_evaluated_key)
        assert rest.count == items - fitting, name
        assert not rest.HasField("last_evaluated_key"), name


def test_a_page_that_ends_with_the_last_item_at_1_mb_is_the_last(client: Client) -> None:
    table = client.create_table(keys="id:S n:N")
    for number in range(4):
        client.put(table.name, item_of_bytes(MEGABYTE // 4, id="x", n=number))
    page = query(client, table, "id = :id", {"id": "x"})
    assert page.count == 4
    assert not page.HasField("last_evaluated_key")
    # In reverse it is the first one that is left out.
    client.put(table.name, item(id="x", n=4))
    page = query(client, table, "id = :id", {"id": "x"}, scan_index_forward=False)
    assert [from_item(each)["n"] for each in page.items] == [value(n) for n in (4, 3, 2, 1)]
    assert from_item(page.last_evaluated_key) == attributes(id="x", n=1)


def test_a_page_of_an_index_counts_its_entries_and_the_items_that_complete_them(
    client: Client, orders: TestTable
) -> None:
    for n in range(4):
        client.put(orders.name, item_of_bytes(300_000, customer="ann", n=n, amount=n, stage="open"))
    asked: dict[str, Any] = {"index_name": "by-amount", **CONSISTENT}
    # Entries are small.
    entries = query(client, orders, "customer = :c", {"c": "ann"}, **asked)
    assert (entries.count, entries.consumed_capacity.total.read_capacity_units) == (4, 1)
    whole = query(client, orders, "customer = :c", {"c": "ann"}, select=pb.SELECT_ALL_ATTRIBUTES, **asked)
    assert from_item(whole.last_evaluated_key) == attributes(customer="ann", n=2, amount=2)
    assert (whole.count, whole.consumed_capacity.total.read_capacity_units) == (3, 1 + 3 * 74)
    copies = client.items.Scan(pb.ScanRequest(table_name=orders.name, index_name="of-stage"))
    assert copies.count == 3
    assert from_item(copies.last_evaluated_key) == attributes(customer="ann", n=2, amount=2, stage="open")


def test_a_query_filters_on_keys_where_that_is_allowed(client: Client) -> None:
    table = client.create_table(keys="id:S n:N")
    for number in range(4):
        client.put(table.name, item(id="x", n=number))
    page = query(
        client,
        table,
        "id = :id AND n > :low",
        {"id": "x", "low": 0, "high": 3},
        filter_expression="n < :high",
        allow_key_attributes_in_filter=True,
    )
    assert [from_item(each)["n"] for each in page.items] == [value(1), value(2)]
    assert page.scanned_count == 3


# As in DynamoDB: the page that ends exactly at the last item does not know that nothing follows.
def test_a_limit_that_is_reached_with_the_last_item_has_one_more_page(client: Client) -> None:
    table = client.create_table(keys="id:S n:N")
    for number in range(2):
        client.put(table.name, item(id="x", n=number))
    page = query(client, table, "id = :id", {"id": "x"}, limit=2)
    assert page.HasField("last_evaluated_key")
    page = query(client, table, "id = :id", {"id": "x"}, limit=2, exclusive_start_key=page.last_evaluated_key)
    assert (page.count, page.HasField("last_evaluated_key")) == (0, False)


def test_a_start_key_need_not_exist_any_more(client: Client) -> None:
    table = client.create_table(keys="id:S n:N")
    for number in (1, 3):
        client.put(table.name, item(id="x", n=number))
    page = query(client, table, "id = :id", {"id": "x"}, exclusive_start_key=item(id="x", n=2))
    assert [from_item(each)["n"] for each in page.items] == [value(3)]
    page = query(
        client, table, "id = :id", {"id": "x"}, exclusive_start_key=item(id="x", n=2), scan_index_forward=False
    )
    assert [from_item(each)["n"] for each in page.items] == [value(1)]


def test_an_index_holds_what_it_projects_of_items_that_have_its_key(client: Client, orders: TestTable) -> None:
    whole = {"customer": "a", "n": 1, "amount": 5, "stage": "open", "kept": 1, "rest": 2}
    client.put(orders.name, item(whole))
    client.put(orders.name, item(customer="a", n=2))

    def through(index: str, condition: str, values: dict[str, Any], **fields: Any) -> list[Any]:
        return [from_item(each) for each in query(client, orders, condition, values, index_name=index, **fields).items]

    by_customer = ("customer = :c", {"c": "a"})
    assert through("by-amount", *by_customer) == [attributes(customer="a", n=1, amount=5)]
    assert through("by-stage", *by_customer) == [attributes(customer="a", n=1, stage="open", kept=1)]
    assert through("of-stage", "stage = :s", {"s": "open"}) == [attributes(whole)]
    # A local index completes items from the table if it is asked to.
    assert through("by-amount", *by_customer, select=pb.SELECT_ALL_ATTRIBUTES) == [attributes(whole)]
    assert through("by-amount", *by_customer, projection_expression="rest, kept") == [attributes(rest=2, kept=1)]
    assert through("by-amount", *by_customer, select=pb.SELECT_ALL_PROJECTED_ATTRIBUTES) == [
        attributes(customer="a", n=1, amount=5)
    ]
    client.put(orders.name, item(whole | {"stage": "paid", "amount": 6}))
    assert through("of-stage", "stage = :s", {"s": "open"}) == []
    assert through("of-stage", "stage = :s AND amount = :a", {"s": "paid", "a": 6}) == [
        attributes(whole | {"stage": "paid", "amount": 6})
    ]
    client.delete(orders.name, item(customer="a", n=1))
    assert through("of-stage", "stage = :s", {"s": "paid"}) == []
    assert scan(client, orders, index_name="by-amount").count == 0


FAULTS: dict[str, tuple[attribute_value_pb2.Item, str, str]] = {
    "wrong type": (item(customer="a", n=1, amount="5"), "amount", "Type mismatch for Index Key amount Expected: N"),
    "a set": (item(customer="a", n=1, stage={"x"}), "stage", "Actual: SS IndexName: "),
    "empty text": (item(customer="a", n=1, stage=""), "stage", "cannot contain an empty string value. IndexName: "),
    "empty bytes": (
        item(customer="a", n=1, payload=b""),
        "payload",
        "empty binary value. IndexName: of-payload, IndexKey: payload",
    ),
    "partition too long": (item(customer="a", n=1, payload=b"x" * 2049), "payload", "2048"),
    "sort too long": (item(customer="a", n=1, stage="x" * 1025), "stage", "1024"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("call", ["put", "update", "batch", "transaction"])
def test_an_attribute_that_cannot_be_an_index_key_is_refused(
    client: Client, orders: TestTable, fault: str, call: str
) -> None:
    faulty, field, says = FAULTS[fault]
    key = item(customer="a", n=1)
    (name,) = faulty.attributes.keys() - {"customer", "n"}
    put = pb.PutItemRequest(table_name=orders.name, item=faulty)
    if call == "transaction":
        # Told in advance, as what is wrong with a put is in DynamoDB.
        request = pb.TransactWriteItemsRequest(transact_items=[pb.TransactWriteItem(put=put)])
        with refused("INVALID_ARGUMENT", "VALIDATION", field=field, says=says):
            client.items.TransactWriteItems(request)
    elif call == "put":
        with refused("INVALID_ARGUMENT", "VALIDATION", field=field, says=says):
            client.items.PutItem(put)
    elif call == "batch":
        with refused("INVALID_ARGUMENT", "VALIDATION", field=field, says=says):
            client.items.BatchWriteItem(pb.BatchWriteItemRequest(operations=[pb.WriteOperation(put=put)]))
    else:
        update = pb.UpdateItemRequest(
            table_name=orders.name,
            key=key,
            update_expression=f"SET {name} = :v",
            expression_attribute_values={":v": faulty.attributes[name]},
        )
        with refused("INVALID_ARGUMENT", "VALIDATION", field=field, says=says):
            client.items.UpdateItem(update)
    assert client.get(orders.name, key) is None


BAD_READS: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "no key condition": ("Query", {}, "key_condition_expression", "must be specified in the request"),
    "limit 0": ("Scan", {"limit": 0}, "limit", "greater than or equal to 1"),
    "limit below": ("Scan", {"limit": -5}, "limit", "greater than or equal to 1"),
    "unknown index": ("Scan", {"index_name": "none"}, "index_name", "does not have the specified index: none"),
    "unknown select": ("Scan", {"select": 17}, "select", "SPECIFIC_ATTRIBUTES"),
    "key in the filter": (
        "Query",
        {"key_condition_expression": "customer = :c", "filter_expression": "n = :c"},
        "filter_expression",
        "Filter Expression can only contain non-primary key attributes: Primary key attribute: n",
    ),
    "wrong type": (
        "Query",
        {"key_condition_expression": "customer = :n"},
        "customer",
        "Condition parameter type does not match schema type",
    ),
    "projected attributes of a table": (
        "Scan",
        {"select": pb.SELECT_ALL_PROJECTED_ATTRIBUTES},
        "select",
        "only when Querying using an IndexName",
    ),
    "specific attributes without a projection": (
        "Scan",
        {"select": pb.SELECT_SPECIFIC_ATTRIBUTES},
        "projection_expression",
        "SPECIFIC_ATTRIBUTES",
    ),
    "count with a projection": (
        "Scan",
        {"select": pb.SELECT_COUNT, "projection_expression": "kept"},
        "projection_expression",
        "Cannot specify the ProjectionExpression when choosing to get COUNT",
    ),
    "consistent read of a global index": (
        "Scan",
        {"index_name": "of-stage", "consistent_read": True},
        "consistent_read",
        "Consistent reads are not supported on global secondary indexes",
    ),
    "all attributes of a partial global index": (
        "Scan",
        {"index_name": "of-payload", "select": pb.SELECT_ALL_ATTRIBUTES},
        "select",
        "is not supported for global secondary index of-payload because its projection type is not ALL",
    ),
    "what a global index does not project": (
        "Scan",
        {"index_name": "of-payload", "projection_expression": "kept, n"},
        "projection_expression",
        "does not project [kept]",
    ),
    "segment without total": ("Scan", {"segment": 0}, "total_segments", "TotalSegments parameter is required"),
    "total without segment": ("Scan", {"total_segments": 2}, "segment", "Segment parameter is required"),
    "segment too high": ("Scan", {"segment": 2, "total_segments": 2}, "segment", "is not less than TotalSegments: 2"),
    "no segments": ("Scan", {"segment": 0, "total_segments": 0}, "total_segments", "greater than or equal to 1"),
    "too many segments": ("Scan", {"segment": 0, "total_segments": 1_000_001}, "total_segments", "1000000"),
    "start key of another shape": (
        "Scan",
        {"exclusive_start_key": item(customer="a")},
        "exclusive_start_key",
        "The provided starting key is invalid: The provided key element does not match the schema",
    ),
    "start key of an index without the table's": (
        "Scan",
        {"index_name": "of-stage", "exclusive_start_key": item(stage="a", amount=1)},
        "exclusive_start_key",
        "The provided starting key is invalid",
    ),
    "start key of another partition": (
        "Query",
        {"key_condition_expression": "customer = :c", "exclusive_start_key": item(customer="b", n=1)},
        "exclusive_start_key",
        "outside query boundaries based on provided conditions",
    ),
    "start key outside of the range": (
        "Query",
        {"key_condition_expression": "customer = :c AND n > :n", "exclusive_start_key": item(customer="a", n=1)},
        "exclusive_start_key",
        "does not match the range key predicate",
    ),
}


@pytest.mark.parametrize("fault", BAD_READS)
def test_a_faulty_read_is_refused(client: Client, orders: TestTable, fault: str) -> None:
    call, fields, field, says = BAD_READS[fault]
    expressions = " ".join(each for each in fields.values() if isinstance(each, str))
    values = {name: each for name, each in values_of(c="a", n=5).items() if name in expressions}
    request: Any = {"Query": pb.QueryRequest, "Scan": pb.ScanRequest}[call]
    message = request(table_name=orders.name, expression_attribute_values=values, **fields)
    with refused("INVALID_ARGUMENT", "VALIDATION", field=field, says=says):
        getattr(client.items, call)(message)


def test_a_start_key_of_another_segment_is_refused(client: Client, orders: TestTable) -> None:
    client.put(orders.name, item(customer="a", n=1))
    halves = [scan(client, orders, segment=segment, total_segments=2).count for segment in range(2)]
    mine, other = (0, 1) if halves == [1, 0] else (1, 0)
    start = {"total_segments": 2, "exclusive_start_key": item(customer="a", n=0)}
    assert scan(client, orders, segment=mine, **start).count == 1
    with refused("INVALID_ARGUMENT", "VALIDATION", field="exclusive_start_key", says="with correct Segment"):
        scan(client, orders, segment=other, **start)


def test_an_index_that_is_being_filled_cannot_be_read(client: Client) -> None:
    table = client.create_table(keys="id:S")
    with refused("INVALID_ARGUMENT", "VALIDATION", field="index_name"):
        scan(client, table, index_name="later")
