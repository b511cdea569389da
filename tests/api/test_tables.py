"""Tables as a client sees them. Source: DynamoDB API Reference, CreateTable, UpdateTable, DescribeTable, ListTables."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from headrace.v1 import table_pb2, table_service_pb2
from headrace.v1.table_service_pb2 import (
    CreateTableRequest,
    DeleteTableRequest,
    DescribeTableRequest,
    ListTablesRequest,
    UpdateTableRequest,
)
from tests.rpc import (
    KEYS_ONLY,
    NEW_AND_OLD_IMAGES,
    NEW_IMAGE,
    Client,
    TestTable,
    create_table_request,
    definitions,
    global_index,
    refused,
    unique_name,
)
from tests.values import item


def describe(client: Client, name: str) -> table_pb2.TableDescription:
    return client.tables.DescribeTable(DescribeTableRequest(table_name=name)).table


def switch_stream(
    client: Client, name: str, specification: table_pb2.StreamSpecification
) -> table_pb2.TableDescription:
    request = UpdateTableRequest(table_name=name, stream_specification=specification)
    return client.tables.UpdateTable(request).table_description


ON = table_pb2.StreamSpecification(stream_enabled=True, stream_view_type=NEW_IMAGE)
PROVISIONED = table_pb2.BILLING_MODE_PROVISIONED
PAY_PER_REQUEST = table_pb2.BILLING_MODE_PAY_PER_REQUEST
OFF = table_pb2.StreamSpecification(stream_enabled=False)


def test_a_new_table_is_active_and_described_as_it_was_asked_for(client: Client) -> None:
    request = create_table_request(unique_name(), keys="customer:S order:N", view_type=NEW_AND_OLD_IMAGES)
    made = client.tables.CreateTable(request).table_description
    assert made.table_status == table_pb2.TABLE_STATUS_ACTIVE
    assert made.table_name == request.table_name
    assert list(made.key_schema) == list(request.key_schema)
    assert sorted(d.attribute_name for d in made.attribute_definitions) == ["customer", "order"]
    assert made.stream_specification == request.stream_specification
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", made.table_id)
    assert re.fullmatch(rf"arn:aws:dynamodb:[^:]+:000000000000:table/{made.table_name}", made.table_arn)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}", made.latest_stream_label)
    assert made.latest_stream_arn == f"{made.table_arn}/stream/{made.latest_stream_label}"
    assert describe(client, made.table_name) == made


def test_a_table_without_a_stream_shows_none(client: Client) -> None:
    made = describe(client, client.create_table(view_type=None).name)
    assert not made.HasField("stream_specification")
    assert (made.latest_stream_arn, made.latest_stream_label) == ("", "")


def test_a_specification_that_says_no_stream_is_no_stream(client: Client) -> None:
    request = create_table_request(unique_name())
    request.stream_specification.CopyFrom(OFF)
    made = client.tables.CreateTable(request).table_description
    assert (made.HasField("stream_specification"), made.latest_stream_arn) == (False, "")


@pytest.mark.parametrize("name", ["abc", "a" * 255, "A_b.c-9"])
def test_table_names_at_the_edge_of_the_rules_are_taken(client: Client, name: str) -> None:
    client.create_table(name=name)
    assert describe(client, name).table_name == name
    client.tables.DeleteTable(DeleteTableRequest(table_name=name))


def test_a_name_that_is_taken_is_in_use_and_the_table_stays_as_it_is(client: Client) -> None:
    before = describe(client, client.create_table().name)
    with refused("FAILED_PRECONDITION", "RESOURCE_IN_USE", says=before.table_name):
        client.create_table(name=before.table_name, keys="other:N")
    assert describe(client, before.table_name) == before


def with_surplus_definition(request: CreateTableRequest) -> None:
    request.attribute_definitions.add(attribute_name="more", attribute_type=table_pb2.SCALAR_ATTRIBUTE_TYPE_S)


def with_other_definition(request: CreateTableRequest) -> None:
    request.attribute_definitions[0].attribute_name = "other"


def with_doubled_definition(request: CreateTableRequest) -> None:
    request.attribute_definitions.add().CopyFrom(request.attribute_definitions[0])


def with_range_first(request: CreateTableRequest) -> None:
    request.key_schema[0].key_type = table_pb2.KEY_TYPE_RANGE


def with_two_hashes(request: CreateTableRequest) -> None:
    request.key_schema[1].key_type = table_pb2.KEY_TYPE_HASH


def with_one_name_twice(request: CreateTableRequest) -> None:
    request.key_schema[1].attribute_name = request.key_schema[0].attribute_name


def with_three_keys(request: CreateTableRequest) -> None:
    request.key_schema.add(attribute_name="more", key_type=table_pb2.KEY_TYPE_RANGE)
    with_surplus_definition(request)


def with_long_key_name(request: CreateTableRequest) -> None:
    request.key_schema[0].attribute_name = request.attribute_definitions[0].attribute_name = "k" * 256


def with_empty_key_name(request: CreateTableRequest) -> None:
    request.key_schema[0].attribute_name = request.attribute_definitions[0].attribute_name = ""


def with_stream_but_no_view_type(request: CreateTableRequest) -> None:
    request.stream_specification.stream_enabled = True


def with_view_type_but_no_stream(request: CreateTableRequest) -> None:
    request.stream_specification.stream_view_type = KEYS_ONLY


SPOILED: dict[str, tuple[Callable[[CreateTableRequest], None], str]] = {
    "no name": (lambda r: r.ClearField("table_name"), "table_name"),
    "name too short": (lambda r: setattr(r, "table_name", "ab"), "table_name"),
    "name too long": (lambda r: setattr(r, "table_name", "a" * 256), "table_name"),
    "name with a blank": (lambda r: setattr(r, "table_name", "a b c"), "table_name"),
    "name with a slash": (lambda r: setattr(r, "table_name", "a/b/c"), "table_name"),
    "name with a letter beyond ASCII": (lambda r: setattr(r, "table_name", "tablé"), "table_name"),
    "name with a line's end": (lambda r: setattr(r, "table_name", "table\n"), "table_name"),
    "no key": (lambda r: r.ClearField("key_schema"), "key_schema"),
    "no definitions": (lambda r: r.ClearField("attribute_definitions"), "attribute_definitions"),
    "definition not used": (with_surplus_definition, "attribute_definitions"),
    "key not defined": (with_other_definition, "attribute_definitions"),
    "definition twice": (with_doubled_definition, "attribute_definitions"),
    "type not set": (lambda r: r.attribute_definitions[0].ClearField("attribute_type"), "attribute_definitions"),
    "type unknown": (lambda r: setattr(r.attribute_definitions[0], "attribute_type", 9), "attribute_definitions"),
    "role not set": (lambda r: r.key_schema[0].ClearField("key_type"), "key_schema"),
    "role unknown": (lambda r: setattr(r.key_schema[0], "key_type", 9), "key_schema"),
    "sort key first": (with_range_first, "key_schema"),
    "two partition keys": (with_two_hashes, "key_schema"),
    "one name twice": (with_one_name_twice, "key_schema"),
    "three keys": (with_three_keys, "key_schema"),
    "key name too long": (with_long_key_name, "attribute_name"),
    "key name empty": (with_empty_key_name, "attribute_name"),
    "stream without view type": (with_stream_but_no_view_type, "stream_view_type"),
    "view type without stream": (with_view_type_but_no_stream, "stream_view_type"),
    "view type unknown": (
        lambda r: r.stream_specification.CopyFrom(
            table_pb2.StreamSpecification(stream_enabled=True, stream_view_type=9)  # type: ignore[arg-type]
        ),
        "stream_view_type",
    ),
}


@pytest.mark.parametrize("fault", SPOILED)
def test_a_request_with_a_fault_makes_no_table(client: Client, fault: str) -> None:
    spoil, field = SPOILED[fault]
    name = unique_name()
    request = create_table_request(name, keys="customer:S order:N")
    spoil(request)
    with refused("INVALID_ARGUMENT", "VALIDATION") as expected:
        client.tables.CreateTable(request)
    assert field in expected.refusal.metadata["field"], expected.refusal
    with refused("NOT_FOUND", "RESOURCE_NOT_FOUND"):
        describe(client, name)


@pytest.mark.parametrize("call", ["DescribeTable", "UpdateTable", "DeleteTable"])
def test_a_table_that_is_not_there_is_not_found(client: Client, call: str) -> None:
    request = getattr(table_service_pb2, f"{call}Request")(table_name="nowhere")
    if call == "UpdateTable":
        request.stream_specification.CopyFrom(ON)
    with refused("NOT_FOUND", "RESOURCE_NOT_FOUND", says="nowhere"):
        getattr(client.tables, call)(request)


def test_a_deleted_table_is_gone_and_its_name_is_free_for_an_empty_one(client: Client) -> None:
    table = client.create_table()
    client.put(table.name, item(id="a"))
    before = describe(client, table.name)
    gone = client.tables.DeleteTable(DeleteTableRequest(table_name=table.name)).table_description
    assert (gone.table_name, gone.table_status) == (table.name, table_pb2.TABLE_STATUS_DELETING)
    for call in (lambda: describe(client, table.name), lambda: client.get(table.name, item(id="a"))):
        with refused("NOT_FOUND", "RESOURCE_NOT_FOUND"):
            call()
    again = client.create_table(name=table.name)
    assert client.get(table.name, item(id="a")) is None
    assert client.contents(again) == {}
    assert describe(client, table.name).table_id != before.table_id


# DynamoDB keeps the stream of a deleted table readable for 24 hours.
def test_the_stream_of_a_deleted_table_stays_readable_and_the_next_table_has_another(client: Client) -> None:
    table = client.create_table()
    client.put(table.name, item(id="a"))
    records = client.records(table.stream_arn)
    client.tables.DeleteTable(DeleteTableRequest(table_name=table.name))
    again = client.create_table(name=table.name)
    client.put(table.name, item(id="b"))
    assert again.stream_arn != table.stream_arn
    assert client.records(table.stream_arn) == records
    assert [r.keys for r in client.records(again.stream_arn)] == [item(id="b")]


def test_tables_are_listed_in_the_order_of_their_bytes_page_by_page(client: Client) -> None:
    prefix = unique_name("list")
    # Capital letters sort before small ones in bytes.
    names = [f"{prefix}-{suffix}" for suffix in ("B", "a", "Z", "_", "z", "0")]
    for name in names:
        client.create_table(name=name, view_type=None)
    listed: list[str] = []
    start = prefix
    while len(listed) < len(names):
        page = client.tables.ListTables(ListTablesRequest(exclusive_start_table_name=start, limit=4))
        listed += [name for name in page.table_names if name.startswith(f"{prefix}-")]
        assert len(page.table_names) <= 4
        if not page.last_evaluated_table_name:
            break
        assert page.last_evaluated_table_name == page.table_names[-1]
        start = page.last_evaluated_table_name
    assert listed == sorted(names, key=str.encode)


def test_the_last_page_of_a_listing_says_that_it_is_the_last(client: Client) -> None:
    page = client.tables.ListTables(ListTablesRequest(exclusive_start_table_name="zzzz"))
    assert (list(page.table_names), page.last_evaluated_table_name) == ([], "")


@pytest.mark.parametrize("limit", [0, -1, 101])
def test_a_listing_takes_1_to_100_names_a_page(client: Client, limit: int) -> None:
    with refused("INVALID_ARGUMENT", "VALIDATION", field="limit", limit=None if limit < 1 else 100):
        client.tables.ListTables(ListTablesRequest(limit=limit))


def test_enabling_a_stream_begins_with_the_next_write(client: Client) -> None:
    table = client.create_table(view_type=None)
    client.put(table.name, item(id="before"))
    changed = switch_stream(client, table.name, ON)
    assert changed.table_status == table_pb2.TABLE_STATUS_ACTIVE
    assert changed.stream_specification == ON
    assert describe(client, table.name) == changed
    client.put(table.name, item(id="after"))
    assert [r.keys for r in client.records(changed.latest_stream_arn)] == [item(id="after")]


def test_a_disabled_stream_records_no_more_and_stays_readable_and_closed(client: Client) -> None:
    table = client.create_table()
    client.put(table.name, item(id="recorded"))
    changed = switch_stream(client, table.name, OFF)
    assert not changed.HasField("stream_specification")
    assert changed.latest_stream_arn == table.stream_arn
    client.put(table.name, item(id="unrecorded"))
    assert [r.keys for r in client.records(table.stream_arn)] == [item(id="recorded")]
    assert all(shard.sequence_number_range.ending_sequence_number for shard in client.shards(table.stream_arn))
    *_, last = client.read(client.iterator(table.stream_arn), follow=True)
    assert (last.shard_end, last.next_shard_iterator, list(last.child_shard_ids)) == (True, "", [])


def test_enabling_again_makes_a_new_stream_with_a_new_label_beside_the_old_one(client: Client) -> None:
    table = client.create_table(view_type=NEW_AND_OLD_IMAGES)
    client.put(table.name, item(id="a", n=1))
    switch_stream(client, table.name, OFF)
    client.put(table.name, item(id="a", n=2))
    again = switch_stream(client, table.name, ON)
    client.put(table.name, item(id="a", n=3))
    assert again.latest_stream_arn != table.stream_arn
    assert [r.new_image for r in client.records(table.stream_arn)] == [item(id="a", n=1)]
    assert [r.new_image for r in client.records(again.latest_stream_arn)] == [item(id="a", n=3)]


def test_labels_differ_even_when_a_stream_is_switched_many_times_in_a_millisecond(client: Client) -> None:
    table = client.create_table(view_type=None)
    labels = []
    for _ in range(20):
        labels.append(switch_stream(client, table.name, ON).latest_stream_label)
        switch_stream(client, table.name, OFF)
    assert labels == sorted(set(labels))


@pytest.mark.parametrize("view_type", [NEW_IMAGE, KEYS_ONLY])
def test_an_enabled_stream_can_be_neither_enabled_again_nor_changed(client: Client, view_type: int) -> None:
    table = client.create_table(view_type=NEW_IMAGE)
    before = describe(client, table.name)
    specification = table_pb2.StreamSpecification(stream_enabled=True, stream_view_type=view_type)  # type: ignore[arg-type]
    with refused("INVALID_ARGUMENT", "VALIDATION", says="enabled stream"):
        switch_stream(client, table.name, specification)
    assert describe(client, table.name) == before


def test_a_stream_that_is_off_cannot_be_switched_off(client: Client) -> None:
    table = client.create_table(view_type=None)
    with refused("INVALID_ARGUMENT", "VALIDATION"):
        switch_stream(client, table.name, OFF)


def test_an_update_must_say_what_to_change(client: Client, table: TestTable) -> None:
    words = "At least one of ProvisionedThroughput, BillingMode, UpdateStreamEnabled, GlobalSecondaryIndexUpdates"
    for nothing in (
        UpdateTableRequest(table_name=table.name),
        UpdateTableRequest(table_name=table.name, attribute_definitions=definitions("id:S")),
    ):
        with refused("INVALID_ARGUMENT", "VALIDATION", field="stream_specification", says=words):
            client.tables.UpdateTable(nothing)


def with_units(reads: int, writes: int) -> table_pb2.ProvisionedThroughput:
    return table_pb2.ProvisionedThroughput(read_capacity_units=reads, write_capacity_units=writes)


def billed(
    mode: table_pb2.BillingMode.ValueType, throughput: table_pb2.ProvisionedThroughput | None = None
) -> CreateTableRequest:
    request = create_table_request(unique_name())
    request.billing_mode = mode
    if throughput is not None:
        request.provisioned_throughput.CopyFrom(throughput)
    return request


def rebill(
    client: Client,
    name: str,
    mode: table_pb2.BillingMode.ValueType = table_pb2.BILLING_MODE_UNSPECIFIED,
    throughput: table_pb2.ProvisionedThroughput | None = None,
) -> table_pb2.TableDescription:
    request = UpdateTableRequest(table_name=name, billing_mode=mode, provisioned_throughput=throughput)
    return client.tables.UpdateTable(request).table_description


@pytest.mark.parametrize("mode", [table_pb2.BILLING_MODE_UNSPECIFIED, PAY_PER_REQUEST])
def test_a_table_pays_per_request_unless_it_is_provisioned(
    client: Client, mode: table_pb2.BillingMode.ValueType
) -> None:
    made = client.tables.CreateTable(billed(mode)).table_description
    assert (made.billing_mode, made.provisioned_throughput) == (PAY_PER_REQUEST, with_units(0, 0))


@pytest.mark.parametrize("throughput", [with_units(1, 1), with_units(10**12, 10**12)])
def test_a_table_is_provisioned_within_bounds(client: Client, throughput: table_pb2.ProvisionedThroughput) -> None:
    made = client.tables.CreateTable(billed(PROVISIONED, throughput)).table_description
    assert (made.billing_mode, made.provisioned_throughput) == (PROVISIONED, throughput)
    assert describe(client, made.table_name) == made


@pytest.mark.parametrize(
    ("mode", "throughput", "field", "words"),
    [
        (
            PROVISIONED,
            None,
            "provisioned_throughput",
            "ReadCapacityUnits and WriteCapacityUnits must both be specified when BillingMode is PROVISIONED",
        ),
        (
            PAY_PER_REQUEST,
            with_units(1, 1),
            "provisioned_throughput",
            "Neither ReadCapacityUnits nor WriteCapacityUnits can be specified when BillingMode is PAY_PER_REQUEST",
        ),
        (PROVISIONED, with_units(0, 1), "provisioned_throughput.read_capacity_units", "greater than or equal to 1"),
        (PROVISIONED, with_units(1, -1), "provisioned_throughput.write_capacity_units", "greater than or equal to 1"),
        (
            PROVISIONED,
            with_units(10**12 + 1, 1),
            "provisioned_throughput.read_capacity_units",
            "Given value 1000000000001 for ReadCapacityUnits is out of bounds",
        ),
        (
            PROVISIONED,
            with_units(1, 10**12 + 1),
            "provisioned_throughput.write_capacity_units",
            "Given value 1000000000001 for WriteCapacityUnits is out of bounds",
        ),
        (9, None, "billing_mode", "Member must satisfy enum value set: [PROVISIONED, PAY_PER_REQUEST]"),
    ],
)
def test_a_table_with_a_fault_in_its_billing_is_not_made_and_not_changed(
    client: Client,
    mode: table_pb2.BillingMode.ValueType,
    throughput: table_pb2.ProvisionedThroughput | None,
    field: str,
    words: str,
) -> None:
    request = billed(mode, throughput)
    with refused("INVALID_ARGUMENT", "VALIDATION", field=field, says=words):
        client.tables.CreateTable(request)
    with refused("NOT_FOUND", "RESOURCE_NOT_FOUND"):
        describe(client, request.table_name)
    before = describe(client, client.create_table().name)
    with refused("INVALID_ARGUMENT", "VALIDATION", field=field):
        rebill(client, before.table_name, mode, throughput)
    assert describe(client, before.table_name) == before


def test_the_billing_of_a_table_is_changed_and_changed_back(client: Client) -> None:
    made = describe(client, client.create_table().name)
    changed = rebill(client, made.table_name, PROVISIONED, with_units(5, 6))
    assert (changed.billing_mode, changed.provisioned_throughput) == (PROVISIONED, with_units(5, 6))
    more = rebill(client, made.table_name, throughput=with_units(5, 7))
    assert more.provisioned_throughput == with_units(5, 7)
    # Nothing changes, as nothing has to.
    assert rebill(client, made.table_name, PROVISIONED) == more
    again = rebill(client, made.table_name, PAY_PER_REQUEST)
    assert again.last_update_to_pay_per_request_date_time.ToNanoseconds() > made.creation_date_time.ToNanoseconds()
    assert again.throughput_changes.last_increase_date_time.ToNanoseconds() > made.creation_date_time.ToNanoseconds()
    for table in (made, again):
        table.ClearField("last_update_to_pay_per_request_date_time")
        table.ClearField("throughput_changes")
    assert again == made
    again = rebill(client, made.table_name, PAY_PER_REQUEST)
    assert again.last_update_to_pay_per_request_date_time.ToNanoseconds() > made.creation_date_time.ToNanoseconds()
    assert again.throughput_changes.last_increase_date_time.ToNanoseconds() > made.creation_date_time.ToNanoseconds()
    for table in (made, again):
        table.ClearField("last_update_to_pay_per_request_date_time")
        table.ClearField("throughput_changes")
    assert again == made


def test_throughput_that_does_not_change_is_refused(client: Client) -> None:
    name = client.tables.CreateTable(billed(PROVISIONED, with_units(5, 6))).table_description.table_name
    with refused(
        "INVALID_ARGUMENT",
        "VALIDATION",
        says="The provisioned throughput for the table will not change. The requested value equals the current value. "
        "Current ReadCapacityUnits provisioned for the table: 5. Requested ReadCapacityUnits: 5. Current "
        "WriteCapacityUnits provisioned for the table: 6. Requested WriteCapacityUnits: 6. Refer to the Amazon "
        "DynamoDB Developer Guide for current limits and how to request higher limits.",
    ):
        rebill(client, name, throughput=with_units(5, 6))


def test_a_change_to_provisioned_needs_throughput_of_the_table_and_each_global_index(client: Client) -> None:
    request = create_table_request(unique_name())
    request.global_secondary_indexes.append(global_index("index", "id"))
    name = client.tables.CreateTable(request).table_description.table_name
    words = "ProvisionedThroughput must be specified when BillingMode is PROVISIONED"
    with refused("INVALID_ARGUMENT", "VALIDATION", says=words):
        rebill(client, name, PROVISIONED)
    with refused("INVALID_ARGUMENT", "VALIDATION", says="ProvisionedThroughput must be specified for index: index"):
        rebill(client, name, PROVISIONED, with_units(1, 1))
    change = UpdateTableRequest(table_name=name, billing_mode=PROVISIONED, provisioned_throughput=with_units(1, 2))
    update = change.global_secondary_index_updates.add().update
    update.index_name = "index"
    update.provisioned_throughput.CopyFrom(with_units(3, 4))
    changed = client.tables.UpdateTable(change).table_description
    assert changed.provisioned_throughput == with_units(1, 2)
    assert changed.global_secondary_indexes[0].provisioned_throughput == with_units(3, 4)
    back = rebill(client, name, PAY_PER_REQUEST)
    assert not back.global_secondary_indexes[0].HasField("provisioned_throughput")


def test_a_protected_table_is_not_deleted_until_the_protection_is_taken_off(client: Client) -> None:
    request = create_table_request(unique_name(), view_type=NEW_IMAGE)
    request.deletion_protection_enabled = True
    before = client.tables.CreateTable(request).table_description
    assert before.deletion_protection_enabled
    words = "Resource cannot be deleted as it is currently protected against deletion. Disable deletion protection"
    with refused("INVALID_ARGUMENT", "VALIDATION", says=words):
        client.tables.DeleteTable(DeleteTableRequest(table_name=before.table_name))
    assert describe(client, before.table_name) == before
    for protected in (False, True, False):
        change = UpdateTableRequest(table_name=before.table_name, deletion_protection_enabled=protected)
        assert client.tables.UpdateTable(change).table_description.deletion_protection_enabled is protected
    client.tables.DeleteTable(DeleteTableRequest(table_name=before.table_name))


def test_disabling_with_a_view_type_is_refused(client: Client) -> None:
    table = client.create_table()
    specification = table_pb2.StreamSpecification(stream_enabled=False, stream_view_type=NEW_IMAGE)
    with refused("INVALID_ARGUMENT", "VALIDATION", field="stream_specification.stream_view_type"):
        switch_stream(client, table.name, specification)
    assert describe(client, table.name).stream_specification.stream_enabled
