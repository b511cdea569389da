"""PutItem, GetItem and DeleteItem: what is stored, what is refused, and that a refused write leaves nothing behind."""

from __future__ import annotations

from decimal import Decimal

import pytest

from headrace.v1 import attribute_value_pb2 as pb
from headrace.v1.item_service_pb2 import (
    RETURN_VALUES_NONE,
    RETURN_VALUES_UPDATED_OLD,
    DeleteItemRequest,
    GetItemRequest,
    PutItemRequest,
    ReturnValues,
    ScanRequest,
    UpdateItemRequest,
    WriteItemsRequest,
)
from headrace.v1.record_pb2 import Version
from headrace.v1.replication_service_pb2 import ApplyChangesRequest, VersionedItem
from headrace.v1.table_pb2 import PROJECTION_TYPE_INCLUDE, Projection
from tests.rpc import (
    NEW_AND_OLD_IMAGES,
    Client,
    TestTable,
    create_table_request,
    definitions,
    global_index,
    refused,
    unique_name,
)
from tests.values import attributes, item, size_bytes, value

ITEM_BYTES_MAX = 400 * 1024

# Numbers: 38 digits and the ends of the range. Source: Developer Guide, "Supported data types", Number.
DIGITS_38 = "1234567890" * 3 + "12345678"


@pytest.fixture(scope="module")
def shared(client: Client) -> TestTable:
    """For tests that write items of their own, or none."""
    return client.create_table()


@pytest.fixture(scope="module")
def orders(client: Client) -> TestTable:
    """A table with a sort key."""
    return client.create_table(keys="customer:S order:N")


def with_value(spoiled: pb.AttributeValue) -> pb.Item:
    return pb.Item(attributes={"id": pb.AttributeValue(s="spoiled"), "v": spoiled})


def nest(target: pb.Item, levels: int, kind: str) -> None:
    """Puts a value inside so many lists or maps, from outside in: protobuf does not copy what is nested too deep."""
    target.attributes["id"].s = "deep"
    inner = target.attributes["v"]
    for _ in range(levels):
        inner = inner.l.values.add() if kind == "list" else inner.m.attributes["m"]
    inner.s = "core"


def test_an_item_of_all_ten_types_comes_back_as_it_was_put(client: Client, table: TestTable) -> None:
    plain = {
        "id": "a", "s": "é", "n": -12, "b": b"\0\xff", "yes": True, "no": False, "nothing": None, "ss": {"a", "b"},
        "ns": {1, Decimal("2.5")}, "bs": {b"x"}, "list": [1, [True, "x"]], "map": {"deep": {"deeper": [None]}},
    }  # fmt: skip
    client.put(table.name, item(plain))
    assert client.get(table.name, item(id="a")) == attributes(plain)


# Empty strings and binaries have been legal outside keys since May 2020; elements of sets may be empty too.
def test_empty_values_are_kept(client: Client, table: TestTable) -> None:
    plain = {"id": "a", "s": "", "b": b"", "list": [], "map": {}, "ss": {""}, "bs": {b""}}
    client.put(table.name, item(plain))
    assert client.get(table.name, item(id="a")) == attributes(plain)


def test_an_item_that_is_not_there_is_absent(client: Client, shared: TestTable) -> None:
    assert client.get(shared.name, item(id="never put")) is None


def test_a_put_replaces_the_whole_item(client: Client, table: TestTable) -> None:
    client.put(table.name, item(id="a", old=1))
    client.put(table.name, item(id="a", new=2))
    assert client.get(table.name, item(id="a")) == attributes(id="a", new=2)


def test_deleting_removes_the_item_and_deleting_again_succeeds(client: Client, table: TestTable) -> None:
    client.put(table.name, item(id="a"))
    client.delete(table.name, item(id="a"))
    client.delete(table.name, item(id="a"))
    assert client.get(table.name, item(id="a")) is None
    assert [r.keys for r in client.records(table.stream_arn)] == [item(id="a")] * 2


def test_items_of_two_tables_do_not_meet(client: Client) -> None:
    one, two = client.create_table(), client.create_table()
    client.put(one.name, item(id="a", n=1))
    assert client.get(two.name, item(id="a")) is None
    client.delete(two.name, item(id="a"))
    assert client.get(one.name, item(id="a")) == attributes(id="a", n=1)


def test_a_sort_key_tells_items_of_one_partition_apart(client: Client, orders: TestTable) -> None:
    for order in (-1, 0, 1, Decimal("1.5")):
        client.put(orders.name, item(customer="c", order=order, is_order=str(order)))
    for order in (-1, 0, 1, Decimal("1.5")):
        stored = client.get(orders.name, item(customer="c", order=order))
        assert stored == attributes(customer="c", order=order, is_order=str(order))


# Lengths must be part of a key's encoding: "ab" + "c" is not "a" + "bc".
def test_keys_whose_bytes_joined_are_equal_are_different_items(client: Client) -> None:
    table = client.create_table(keys="p:B s:B")
    keys = [
        (b"ab", b"c"),
        (b"a", b"bc"),
        (b"a\0", b"\0c"),
        (b"a", b"\0\0c"),
        (b"a\0\0", b"c"),
        (b"a\xff", b"c"),
        (b"a", b"\xffc"),
    ]
    for number, (p, s) in enumerate(keys):
        client.put(table.name, item(p=p, s=s, number=number))
    assert len(client.contents(table)) == len(keys)
    for number, (p, s) in enumerate(keys):
        assert client.get(table.name, item(p=p, s=s)) == attributes(p=p, s=s, number=number)


# Numbers are compared by value, so 1000 and 1e3 are one key.
def test_a_number_key_is_one_item_however_it_is_spelled(client: Client) -> None:
    table = client.create_table(keys="n:N")
    for spelling in ("1000", "1e3", "+1000.0", "01000", "10E2"):
        client.put(table.name, pb.Item(attributes={"n": pb.AttributeValue(n=spelling)}))
    stored = client.items.GetItem(GetItemRequest(table_name=table.name, key=item(n=1000))).item
    assert stored.attributes["n"].n == "1000"
    assert len(client.contents(table)) == 1
    assert len(client.records(table.stream_arn)) == 1


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ("1.50", "1.5"), (".5", "0.5"), ("5.", "5"), ("-0", "0"), ("+7", "7"), ("007", "7"), ("1e3", "1000"),
        ("-0.00", "0"),
        ("1E-3", "0.001"), ("0e9", "0"), ("1e125", "1" + "0" * 125), ("1e-130", "0." + "0" * 129 + "1"),
        (DIGITS_38, DIGITS_38), (f"-{DIGITS_38}000", f"-{DIGITS_38}000"), (f"0.000{DIGITS_38}", f"0.000{DIGITS_38}"),
        ("9" * 38 + "e88", "9" * 38 + "0" * 88), ("0" * 500 + "1", "1"),
    ],
)  # fmt: skip
def test_numbers_come_back_in_normal_form(client: Client, shared: TestTable, given: str, stored: str) -> None:
    client.put(shared.name, with_value(pb.AttributeValue(n=given)))
    response = client.items.GetItem(GetItemRequest(table_name=shared.name, key=item(id="spoiled")))
    assert response.item.attributes["v"].n == stored


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("", "numeric value"), ("abc", "numeric value: abc"), ("1 ", "numeric value"), (" 1", "numeric value"),
        ("0x10", "numeric value"), ("NaN", "numeric value"), ("Infinity", "numeric value"), ("1_000", "numeric value"),
        ("1,5", "numeric value"), ("--1", "numeric value"), ("e5", "numeric value"), (".", "numeric value"),
        ("1e", "numeric value"), ("1.2.3", "numeric value"), ("\u0661", "numeric value"), ("1\n", "numeric value"),
        ("1e126", "overflow"), ("-1e126", "overflow"), ("10e125", "overflow"), ("1e9999999999", "larger"),
        ("1e-131", "underflow"), ("0.1e-130", "underflow"), (DIGITS_38 + "9", "38 significant digits"),
        ("0." + DIGITS_38 + "9", "38 significant digits"), ("1" + "0" * 37 + "1", "38 significant digits"),
    ],
)  # fmt: skip
def test_bad_numbers_are_refused(client: Client, table: TestTable, given: str, says: str) -> None:
    with client.unchanged(table), refused("INVALID_ARGUMENT", "VALIDATION") as expected:
        client.put(table.name, with_value(pb.AttributeValue(n=given)))
    if given != "1e9999999999":
        assert says in expected.refusal.message
    assert expected.refusal.metadata["field"]


BAD_VALUES = {
    "no value": pb.AttributeValue(),
    "null that is false": pb.AttributeValue(null=False),
    "empty string set": pb.AttributeValue(ss=pb.StringSet()),
    "empty number set": pb.AttributeValue(ns=pb.NumberSet()),
    "empty binary set": pb.AttributeValue(bs=pb.BinarySet()),
    "string twice in a set": pb.AttributeValue(ss=pb.StringSet(values=["a", "b", "a"])),
    "number twice in a set": pb.AttributeValue(ns=pb.NumberSet(values=["1", "1"])),
    "number twice in a set, spelled differently": pb.AttributeValue(ns=pb.NumberSet(values=["1", "1.0"])),
    "binary twice in a set": pb.AttributeValue(bs=pb.BinarySet(values=[b"a", b"a"])),
    "bad number in a set": pb.AttributeValue(ns=pb.NumberSet(values=["1", "x"])),
    "no value in a list": pb.AttributeValue(l=pb.List(values=[pb.AttributeValue()])),
    "no value in a map": pb.AttributeValue(m=pb.Item(attributes={"a": pb.AttributeValue()})),
    "bad number deep inside": pb.AttributeValue(
        l=pb.List(values=[pb.AttributeValue(m=pb.Item(attributes={"a": pb.AttributeValue(n="x")}))])
    ),
    "empty attribute name in a map": pb.AttributeValue(m=pb.Item(attributes={"": pb.AttributeValue(s="a")})),
}


@pytest.mark.parametrize("fault", BAD_VALUES)
def test_bad_values_are_refused(client: Client, table: TestTable, fault: str) -> None:
    with client.unchanged(table), refused("INVALID_ARGUMENT", "VALIDATION") as expected:
        client.put(table.name, with_value(BAD_VALUES[fault]))
    assert expected.refusal.metadata["field"], expected.refusal


@pytest.mark.parametrize("kind", ["list", "map"])
def test_a_scalar_at_32_levels_is_taken_by_every_way_in_and_out(client: Client, kind: str) -> None:
    table = client.create_table()
    request = PutItemRequest(table_name=table.name)
    nest(request.item, 31, kind)
    client.items.PutItem(request)
    assert client.items.GetItem(GetItemRequest(table_name=table.name, key=item(id="deep"))).item == request.item
    client.delete(table.name, item(id="deep"))
    batch = WriteItemsRequest(table_name=table.name)
    nest(batch.operations.add().put.item, 31, kind)
    (response,) = client.write_items(batch)
    assert not response.results[0].HasField("error")
    _, removed, inserted = client.records(table.stream_arn)
    assert removed.old_image == inserted.new_image == request.item


# The scalar is a level, too, so 32 lists or maps are one too many; at 34 maps or 50 lists a protobuf parser gives up by
# itself, which must not look any different.
@pytest.mark.parametrize(
    ("kind", "containers"), [("list", 32), ("map", 32), ("map", 33), ("map", 34), ("map", 60), ("list", 80)]
)
def test_33_levels_and_more_are_refused(client: Client, table: TestTable, kind: str, containers: int) -> None:
    request = PutItemRequest(table_name=table.name)
    nest(request.item, containers, kind)
    with client.unchanged(table), refused("INVALID_ARGUMENT", "VALIDATION", limit=32):
        client.items.PutItem(request)


# Versions before took one level more, and what they hold is applied from elsewhere as well as read from a store.
def test_an_item_of_33_levels_that_is_there_is_read_projected_indexed_changed_and_deleted(client: Client) -> None:
    request = create_table_request(unique_name(), keys="id:S", view_type=NEW_AND_OLD_IMAGES)
    request.attribute_definitions.extend(definitions("stage:S"))
    include = Projection(projection_type=PROJECTION_TYPE_INCLUDE, non_key_attributes=["v"])
    request.global_secondary_indexes.append(global_index("by-stage", "stage", include))
    client.tables.CreateTable(request)
    name = request.table_name
    deep = pb.Item()
    nest(deep, 32, "list")
    deep.attributes["stage"].s = "open"
    for number in range(2):
        version = Version(hybrid_time=(number + 1) << 16, origin_region="elsewhere")
        deep.attributes["n"].n = str(number)
        changes = ApplyChangesRequest(table_name=name, items=[VersionedItem(item=deep, version=version)])
        (response,) = client.replication.ApplyChanges(iter([changes]))
        assert response.applied == 1
    key = item(id="deep")
    assert client.items.GetItem(GetItemRequest(table_name=name, key=key)).item == deep
    found = client.items.GetItem(GetItemRequest(table_name=name, key=key, projection_expression="v")).item
    assert found.attributes["v"] == deep.attributes["v"]
    for scan in (
        ScanRequest(table_name=name, projection_expression="v[0]", filter_expression="attribute_exists(v[0][0])"),
        ScanRequest(table_name=name, index_name="by-stage"),
    ):
        assert client.items.Scan(scan).items[0].attributes["v"] == deep.attributes["v"]
    again = PutItemRequest(table_name=name)
    nest(again.item, 32, "list")
    with refused("INVALID_ARGUMENT", "VALIDATION", limit=32, says="Nesting Levels have exceeded supported limits"):
        client.items.PutItem(again)

    def update(expression: str, returned: ReturnValues.ValueType, **values: pb.AttributeValue) -> pb.Item:
        return client.items.UpdateItem(
            UpdateItemRequest(
                table_name=name,
                key=key,
                update_expression=expression,
                expression_attribute_values={f":{each}": of for each, of in values.items()},
                return_values=returned,
            )
        ).attributes

    update("SET stage = :s", RETURN_VALUES_NONE, s=pb.AttributeValue(s="shut"))
    assert client.items.Scan(ScanRequest(table_name=name, index_name="by-stage")).count == 1
    with refused("INVALID_ARGUMENT", "VALIDATION", limit=32, says="Nesting Levels have exceeded supported limits"):
        update("SET v[1] = :x", RETURN_VALUES_NONE, x=pb.AttributeValue(s="x"))
    assert update("REMOVE v", RETURN_VALUES_UPDATED_OLD).attributes["v"] == deep.attributes["v"]
    client.delete(name, key)
    assert client.get(name, key) is None
    assert not client.items.Scan(ScanRequest(table_name=name, index_name="by-stage")).items


def test_an_operation_nested_too_deep_does_not_stop_the_others_of_its_batch(client: Client, table: TestTable) -> None:
    batch = WriteItemsRequest(table_name=table.name)
    nest(batch.operations.add().put.item, 40, "map")
    batch.operations.add().put.item.CopyFrom(item(id="fine"))
    (response,) = client.write_items(batch)
    assert [result.error.reason for result in response.results] == ["VALIDATION", ""]
    assert client.contents(table).keys() == {(value("fine"),)}


def item_of_bytes(size: int) -> pb.Item:
    padding = size - size_bytes(attributes(id="big", text=""))
    return item(id="big", text="x" * padding)


def test_an_item_of_exactly_400_kb_is_taken_with_both_images_in_its_record(client: Client, table: TestTable) -> None:
    client.put(table.name, item_of_bytes(ITEM_BYTES_MAX))
    stored = client.get(table.name, item(id="big"))
    assert stored is not None
    assert size_bytes(stored) == ITEM_BYTES_MAX
    # Put over it, so that one record carries two images of 400 KB.
    other = item_of_bytes(ITEM_BYTES_MAX)
    other.attributes["text"].s = "y" * len(other.attributes["text"].s)
    client.put(table.name, other)
    *_, last = client.records(table.stream_arn)
    assert last.old_image != last.new_image == other
    assert last.size_bytes == 2 * ITEM_BYTES_MAX + size_bytes(attributes(id="big"))


# DynamoDB counts two bytes for each of these numbers. A record that no client takes would end every read of its shard.
def test_an_item_of_large_numbers_is_refused_or_can_be_read_wherever_it_is(client: Client, table: TestTable) -> None:
    def numbers_of(count: int, last: str) -> pb.Item:
        whole = item(id="big")
        for _ in range(count):
            whole.attributes["l"].l.values.add().n = "1e125"
        whole.attributes["last"].s = last
        return whole

    with client.unchanged(table), refused("INVALID_ARGUMENT", "VALIDATION", field="item", limit=1_792 * 1024):
        client.put(table.name, numbers_of(14_100, ""))
    for last in "ab":
        client.put(table.name, numbers_of(13_800, last))
    assert client.get(table.name, item(id="big")) is not None
    *_, record = client.records(table.stream_arn)
    assert (record.old_image.attributes["last"].s, record.new_image.attributes["last"].s) == ("a", "b")


def test_an_item_of_one_byte_more_than_400_kb_is_refused(client: Client, table: TestTable) -> None:
    with (
        client.unchanged(table),
        refused("INVALID_ARGUMENT", "VALIDATION", limit=ITEM_BYTES_MAX, says="Item size has exceeded"),
    ):
        client.put(table.name, item_of_bytes(ITEM_BYTES_MAX + 1))


def test_attribute_names_count_to_the_size_of_an_item(client: Client, table: TestTable) -> None:
    small = attributes({"id": "big", **{f"{n:05}" + "n" * 60_000: None for n in range(7)}})
    assert size_bytes(small) > ITEM_BYTES_MAX
    with client.unchanged(table), refused("INVALID_ARGUMENT", "VALIDATION", limit=ITEM_BYTES_MAX):
        client.put(table.name, item({"id": "big", **{f"{n:05}" + "n" * 60_000: None for n in range(7)}}))


def test_an_attribute_name_has_1_to_65535_bytes(client: Client, table: TestTable) -> None:
    client.put(table.name, item({"id": "a", "é" * 32_767: 1}))
    for name in ("", "é" * 32_768):
        with client.unchanged(table), refused("INVALID_ARGUMENT", "VALIDATION") as expected:
            client.put(table.name, item({"id": "b", name: 1}))
        assert expected.refusal.metadata["field"]


BAD_PUT_KEYS = {
    "no item": (pb.Item(), "Missing the key customer"),
    "no partition key": (item(order=1), "Missing the key customer"),
    "no sort key": (item(customer="a"), "Missing the key order"),
    "partition key of another type": (
        item(customer=1, order=1),
        "Type mismatch for key customer expected: S actual: N",
    ),
    "sort key of another type": (item(customer="a", order="1"), "Type mismatch for key order expected: N actual: S"),
    "null partition key": (item(customer=None, order=1), "Type mismatch for key customer"),
    "set as partition key": (item(customer={"a"}, order=1), "Type mismatch for key customer"),
    "empty partition key": (item(customer="", order=1), "empty string value. Key: customer"),
    "bad number as sort key": (
        pb.Item(attributes={"customer": pb.AttributeValue(s="a"), "order": pb.AttributeValue(n="x")}),
        "numeric value",
    ),
}


@pytest.mark.parametrize("fault", BAD_PUT_KEYS)
def test_a_put_with_a_faulty_key_is_refused(client: Client, orders: TestTable, fault: str) -> None:
    spoiled, says = BAD_PUT_KEYS[fault]
    with client.unchanged(orders), refused("INVALID_ARGUMENT", "VALIDATION", says=says) as expected:
        client.put(orders.name, spoiled)
    assert expected.refusal.metadata["field"]


BAD_KEYS = {
    "no key": pb.Item(),
    "only the partition key": item(customer="a"),
    "an attribute too many": item(customer="a", order=1, more=1),
    "another attribute": item(customer="a", other=1),
    "another type": item(customer="a", order="1"),
    "empty": item(customer="", order=1),
    "no value": pb.Item(attributes={"customer": pb.AttributeValue(s="a"), "order": pb.AttributeValue()}),
}


@pytest.mark.parametrize("call", ["GetItem", "UpdateItem", "DeleteItem"])
@pytest.mark.parametrize("fault", BAD_KEYS)
def test_a_key_that_does_not_match_the_schema_is_refused(
    client: Client, orders: TestTable, call: str, fault: str
) -> None:
    requests = {"GetItem": GetItemRequest, "UpdateItem": UpdateItemRequest, "DeleteItem": DeleteItemRequest}
    request = requests[call](table_name=orders.name, key=BAD_KEYS[fault])
    with client.unchanged(orders), refused("INVALID_ARGUMENT", "VALIDATION") as expected:
        getattr(client.items, call)(request)
    assert expected.refusal.metadata["field"]


def test_an_empty_binary_key_is_refused(client: Client) -> None:
    table = client.create_table(keys="id:B")
    with client.unchanged(table), refused("INVALID_ARGUMENT", "VALIDATION", says="empty binary value"):
        client.put(table.name, item(id=b""))


@pytest.mark.parametrize(
    ("keys", "name", "limit"), [("p:S s:S", "p", 2048), ("p:S s:S", "s", 1024), ("p:B", "p", 2048)]
)
def test_keys_have_a_limit_and_reach_it(client: Client, keys: str, name: str, limit: int) -> None:
    table = client.create_table(keys=keys)
    filler: str | bytes = b"\xff" if ":B" in keys else "x"
    key: dict[str, object] = {"p": "p", "s": "s"} if "s:" in keys else {}
    longest = key | {name: filler * limit}
    client.put(table.name, item(longest))
    assert client.get(table.name, item(longest)) == attributes(longest)
    with client.unchanged(table), refused("INVALID_ARGUMENT", "VALIDATION", limit=limit):
        client.put(table.name, item(key | {name: filler * (limit + 1)}))
    with refused("INVALID_ARGUMENT", "VALIDATION", limit=limit):
        client.get(table.name, item(key | {name: filler * (limit + 1)}))


@pytest.mark.parametrize("call", ["PutItem", "GetItem", "UpdateItem", "DeleteItem"])
def test_calls_on_a_table_that_is_not_there_are_refused(client: Client, call: str) -> None:
    requests = {
        "PutItem": PutItemRequest(table_name="nowhere", item=item(id="a")),
        "GetItem": GetItemRequest(table_name="nowhere", key=item(id="a")),
        "UpdateItem": UpdateItemRequest(table_name="nowhere", key=item(id="a")),
        "DeleteItem": DeleteItemRequest(table_name="nowhere", key=item(id="a")),
    }
    with refused("NOT_FOUND", "RESOURCE_NOT_FOUND"):
        getattr(client.items, call)(requests[call])


@pytest.mark.parametrize("call", ["PutItem", "GetItem", "UpdateItem", "DeleteItem"])
def test_calls_without_a_table_name_are_refused(client: Client, call: str) -> None:
    requests = {
        "PutItem": PutItemRequest(item=item(id="a")),
        "GetItem": GetItemRequest(key=item(id="a")),
        "UpdateItem": UpdateItemRequest(key=item(id="a")),
        "DeleteItem": DeleteItemRequest(key=item(id="a")),
    }
    with refused("INVALID_ARGUMENT", "VALIDATION", field="table_name"):
        getattr(client.items, call)(requests[call])


# A newer client may send fields that this broker does not know; they must not be stored, or equal items would differ.
def test_unknown_fields_of_an_item_are_dropped(client: Client, table: TestTable) -> None:
    unknown = b"\xa2\x06\x03new"  # Field 100, length-delimited.
    stranger = pb.Item.FromString(item(id="a").SerializeToString() + unknown)
    client.put(table.name, stranger)
    client.put(table.name, item(id="a"))
    (record,) = client.records(table.stream_arn)
    assert record.new_image == item(id="a")
    assert record.new_image.SerializeToString() == item(id="a").SerializeToString()
