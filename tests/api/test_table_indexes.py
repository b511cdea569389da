"""Definitions of secondary indexes. Source: DynamoDB API Reference, CreateTable, UpdateTable; Guide, "Quotas"."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from headrace.v1 import table_pb2
from headrace.v1.table_service_pb2 import (
    CreateTableRequest,
    DeleteGlobalSecondaryIndex,
    DescribeTableRequest,
    GlobalSecondaryIndexUpdate,
    UpdateGlobalSecondaryIndex,
    UpdateTableRequest,
)
from tests.broker_process import BrokerProcess
from tests.rpc import (
    NEW_IMAGE,
    Client,
    create_table_request,
    definitions,
    global_index,
    key_schema,
    local_index,
    refused,
    unique_name,
)

# Where the one global index of a request is.
AT: Final = "global_secondary_indexes.1.member"
KEYS = "customer:S order:N"
TOTAL = "total:N"
KEYS_ONLY = table_pb2.Projection(projection_type=table_pb2.PROJECTION_TYPE_KEYS_ONLY)
TEN = table_pb2.ProvisionedThroughput(read_capacity_units=10, write_capacity_units=10)
FIVE = table_pb2.ProvisionedThroughput(read_capacity_units=5, write_capacity_units=6)


def include(*names: str) -> table_pb2.Projection:
    return table_pb2.Projection(projection_type=table_pb2.PROJECTION_TYPE_INCLUDE, non_key_attributes=names)


def request_with(
    *indexes: table_pb2.LocalSecondaryIndex | table_pb2.GlobalSecondaryIndex, more: str = TOTAL, keys: str = KEYS
) -> CreateTableRequest:
    """A request for a table with indexes; `more` are the attributes to define besides the table's keys."""
    request = create_table_request(unique_name(), keys=keys)
    request.attribute_definitions.extend(definitions(more))
    for index in indexes:
        if isinstance(index, table_pb2.LocalSecondaryIndex):
            request.local_secondary_indexes.append(index)
        else:
            request.global_secondary_indexes.append(index)
    return request


def create(client: Client, request: CreateTableRequest) -> table_pb2.TableDescription:
    return client.tables.CreateTable(request).table_description


def describe(client: Client, name: str) -> table_pb2.TableDescription:
    return client.tables.DescribeTable(DescribeTableRequest(table_name=name)).table


def adding(index: table_pb2.GlobalSecondaryIndex) -> GlobalSecondaryIndexUpdate:
    return GlobalSecondaryIndexUpdate(create=index)


def deleting(name: str) -> GlobalSecondaryIndexUpdate:
    return GlobalSecondaryIndexUpdate(delete=DeleteGlobalSecondaryIndex(index_name=name))


def provisioning(name: str, throughput: table_pb2.ProvisionedThroughput) -> GlobalSecondaryIndexUpdate:
    update = UpdateGlobalSecondaryIndex(index_name=name, provisioned_throughput=throughput)
    return GlobalSecondaryIndexUpdate(update=update)


def update(
    client: Client, name: str, *updates: GlobalSecondaryIndexUpdate, more: str = ""
) -> table_pb2.TableDescription:
    request = UpdateTableRequest(
        table_name=name, global_secondary_index_updates=updates, attribute_definitions=definitions(more)
    )
    return client.tables.UpdateTable(request).table_description


def test_indexes_are_described_as_they_were_asked_for_in_the_order_of_their_names(client: Client) -> None:
    request = request_with(
        local_index("by-total", "customer total", include("note", "when")),
        global_index("z-all", "total"),
        global_index("a-keys", "total order", KEYS_ONLY),
    )
    made = create(client, request)
    assert describe(client, made.table_name) == made
    assert {d.attribute_name for d in made.attribute_definitions} == {"customer", "order", "total"}
    (local,) = made.local_secondary_indexes
    assert (local.index_name, list(local.key_schema)) == ("by-total", key_schema("customer", "total"))
    assert local.projection == include("note", "when")
    first, last = made.global_secondary_indexes
    assert (first.index_name, first.projection, list(first.key_schema)) == (
        "a-keys",
        KEYS_ONLY,
        key_schema("total", "order"),
    )
    assert (last.index_name, list(last.key_schema)) == ("z-all", key_schema("total"))
    for index in (local, first, last):
        assert index.index_arn == f"{made.table_arn}/index/{index.index_name}"
        assert (index.index_status, index.backfilling) == (table_pb2.INDEX_STATUS_ACTIVE, False)
        assert (index.item_count, index.index_size_bytes) == (0, 0)
        assert not index.HasField("provisioned_throughput")


@pytest.mark.parametrize(
    "request_",
    [
        request_with(*(local_index(f"local-{n}", "customer total") for n in range(5))),
        request_with(*(global_index(f"global-{n}", "total") for n in range(20))),
        request_with(local_index("a" * 255, "customer total"), global_index("A.b", "total")),
        request_with(global_index("twenty", "total", include(*map(str, range(20))))),
        request_with(*(global_index(f"hundred-{n}", "total", include(*map(str, range(20)))) for n in range(5))),
        request_with(global_index("long-name", "total", include("x" * 255))),
        # The same attributes may be keys of all.
        request_with(global_index("inverted", "order customer"), more=""),
    ],
    ids=["5 local", "20 global", "names", "20 names", "100 names in all", "a name of 255", "keys of the table"],
)
def test_as_many_indexes_and_projected_attributes_as_allowed_are_taken(
    client: Client, request_: CreateTableRequest
) -> None:
    made = create(client, request_)
    assert len(made.local_secondary_indexes) == len(request_.local_secondary_indexes)
    assert len(made.global_secondary_indexes) == len(request_.global_secondary_indexes)


FAULTS: dict[str, tuple[CreateTableRequest, str, str]] = {
    "6 local": (
        request_with(*(local_index(f"local-{n}", "customer total") for n in range(6))),
        "Number of LocalSecondaryIndexes exceeds per-table limit of 5",
        "local_secondary_indexes",
    ),
    "21 global": (
        request_with(*(global_index(f"global-{n}", "total") for n in range(21))),
        "GlobalSecondaryIndex count exceeds the per-table limit of 20",
        "global_secondary_indexes",
    ),
    "local without the table's sort key": (
        request_with(local_index("local", "customer total"), keys="customer:S"),
        "Table KeySchema does not have a range key, which is required when specifying a LocalSecondaryIndex",
        "local_secondary_indexes",
    ),
    "local without a sort key": (
        request_with(local_index("local", "customer"), more=""),
        "Index KeySchema does not have a range key for index: local",
        "local_secondary_indexes.key_schema",
    ),
    "local with another partition key": (
        request_with(local_index("local", "total order")),
        (
            "Index KeySchema does not have the same leading hash key as table KeySchema for index: local. "
            "index hash key: total, table hash key: customer"
        ),
        "local_secondary_indexes.key_schema",
    ),
    "one name twice": (
        request_with(local_index("same", "customer total"), global_index("same", "total")),
        "Duplicate index name: same",
        "index_name",
    ),
    "no projection type": (
        request_with(global_index("index", "total", table_pb2.Projection(non_key_attributes=["a"]))),
        "Unknown ProjectionType: null",
        "projection.projection_type",
    ),
    "ALL with names": (
        request_with(
            global_index(
                "index",
                "total",
                table_pb2.Projection(projection_type=table_pb2.PROJECTION_TYPE_ALL, non_key_attributes=["a"]),
            )
        ),
        "ProjectionType is ALL, but NonKeyAttributes is specified",
        "projection.non_key_attributes",
    ),
    "KEYS_ONLY with names": (
        request_with(
            global_index(
                "index",
                "total",
                table_pb2.Projection(projection_type=table_pb2.PROJECTION_TYPE_KEYS_ONLY, non_key_attributes=["a"]),
            )
        ),
        "ProjectionType is KEYS_ONLY, but NonKeyAttributes is specified",
        "projection.non_key_attributes",
    ),
    "INCLUDE without names": (
        request_with(global_index("index", "total", include())),
        "ProjectionType is INCLUDE, but NonKeyAttributes is not specified",
        "projection.non_key_attributes",
    ),
    "21 names": (
        request_with(global_index("index", "total", include(*map(str, range(21))))),
        "Member must have length less than or equal to 20",
        "projection.non_key_attributes",
    ),
    "101 names in all": (
        request_with(
            *(global_index(f"index-{n}", "total", include(*map(str, range(20)))) for n in range(5)),
            local_index("one-more", "customer total", include("a")),
        ),
        "NonKeyAttributes of all indexes exceeds per-table limit of 100",
        "projection.non_key_attributes",
    ),
    "an empty name": (
        request_with(global_index("index", "total", include(""))),
        "length greater than or equal to 1",
        "projection.non_key_attributes",
    ),
    "a name of 256": (
        request_with(global_index("index", "total", include("x" * 256))),
        "length less than or equal to 255",
        "projection.non_key_attributes",
    ),
    "a name projected twice": (
        request_with(global_index("index", "total", include("a", "a"))),
        "same name twice",
        "projection.non_key_attributes",
    ),
    "key not defined": (
        request_with(global_index("index", "missing")),
        (
            "Some index key attributes are not defined in AttributeDefinitions. Keys: [missing], AttributeDefinitions: "
            "[customer, order, total]"
        ),
        "attribute_definitions",
    ),
    "definition not used": (
        request_with(global_index("index", "total"), more="total:N more:S"),
        (
            "Some AttributeDefinitions are not used. AttributeDefinitions: [customer, order, total, more], keys used: "
            "[customer, order, total]"
        ),
        "attribute_definitions",
    ),
    "definition missing": (
        request_with(local_index("local", "customer order"), keys="customer:S", more=""),
        "Invalid KeySchema: Some index key attribute have no definition",
        "attribute_definitions",
    ),
    "no key": (request_with(global_index("index", "")), "length greater than or equal to 1", f"{AT}.key_schema"),
    "one key name twice": (
        request_with(global_index("index", "total total")),
        "Both the Hash Key and the Range Key element in the KeySchema have the same name",
        "key_schema",
    ),
    "name too short": (
        request_with(global_index("ab", "total")),
        "length greater than or equal to 3",
        f"{AT}.index_name",
    ),
    "name too long": (
        request_with(global_index("a" * 256, "total")),
        "length less than or equal to 255",
        f"{AT}.index_name",
    ),
    "name with a blank": (request_with(global_index("a b", "total")), "regular expression pattern", f"{AT}.index_name"),
    "throughput without PROVISIONED": (
        request_with(global_index("index", "total", throughput=TEN)),
        "ProvisionedThroughput should not be specified for index: index when BillingMode is PAY_PER_REQUEST",
        "provisioned_throughput",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_index_with_a_fault_makes_no_table(client: Client, fault: str) -> None:
    request, words, field = FAULTS[fault]
    with refused("INVALID_ARGUMENT", "VALIDATION", field=field, says=words):
        create(client, request)
    with refused("NOT_FOUND", "RESOURCE_NOT_FOUND"):
        describe(client, request.table_name)


def provisioned(*indexes: table_pb2.GlobalSecondaryIndex) -> CreateTableRequest:
    request = request_with(*indexes, more=TOTAL if indexes else "")
    request.billing_mode = table_pb2.BILLING_MODE_PROVISIONED
    request.provisioned_throughput.CopyFrom(TEN)
    return request


def test_global_indexes_of_a_provisioned_table_have_their_own_throughput(client: Client) -> None:
    made = create(client, provisioned(global_index("index", "total", throughput=FIVE)))
    assert made.global_secondary_indexes[0].provisioned_throughput == FIVE
    changed = update(client, made.table_name, provisioning("index", TEN))
    assert changed.global_secondary_indexes[0].provisioned_throughput == TEN
    assert describe(client, made.table_name) == changed


def with_units(reads: int, writes: int) -> table_pb2.ProvisionedThroughput:
    return table_pb2.ProvisionedThroughput(read_capacity_units=reads, write_capacity_units=writes)


@pytest.mark.parametrize(
    ("throughput", "words"),
    [
        (None, "ProvisionedThroughput must be specified for index: index"),
        (with_units(0, 1), "greater than or equal to 1"),
        (with_units(1, 0), "greater than or equal to 1"),
        (with_units(10**12 + 1, 1), "Given value 1000000000001 for ReadCapacityUnits is out of bounds for index index"),
        (with_units(1, 10**12 + 1), "Given value 1000000000001 for WriteCapacityUnits is out of bounds for index"),
    ],
)
def test_a_global_index_of_a_provisioned_table_needs_throughput_within_bounds(
    client: Client, throughput: table_pb2.ProvisionedThroughput | None, words: str
) -> None:
    with refused("INVALID_ARGUMENT", "VALIDATION", says=words):
        create(client, provisioned(global_index("index", "total", throughput=throughput)))


def test_a_global_index_can_be_added_and_removed_and_added_again(client: Client) -> None:
    made = create(client, request_with(more=""))
    added = update(client, made.table_name, adding(global_index("index", "total")), more=TOTAL)
    assert added.table_status == table_pb2.TABLE_STATUS_ACTIVE
    (index,) = added.global_secondary_indexes
    assert (index.index_status, index.backfilling) == (table_pb2.INDEX_STATUS_CREATING, True)
    assert {d.attribute_name for d in added.attribute_definitions} == {"customer", "order", "total"}
    removed = update(client, made.table_name, deleting("index"))
    assert removed == made
    again = update(client, made.table_name, adding(global_index("index", "total", KEYS_ONLY)), more="total:S")
    assert again.global_secondary_indexes[0].projection == KEYS_ONLY


def spoiled_update(
    *updates: GlobalSecondaryIndexUpdate, more: str = ""
) -> Callable[[Client, str], table_pb2.TableDescription]:
    return lambda client, name: update(client, name, *updates, more=more)


UPDATE_FAULTS: dict[str, tuple[Callable[[Client, str], table_pb2.TableDescription], str, str]] = {
    "two added": (
        spoiled_update(adding(global_index("one", "total")), adding(global_index("two", "total")), more=TOTAL),
        "LIMIT_EXCEEDED",
        "Subscriber limit exceeded: Only 1 online index can be created or deleted simultaneously per table",
    ),
    "one added, one removed": (
        spoiled_update(adding(global_index("one", "total")), deleting("index"), more=TOTAL),
        "LIMIT_EXCEEDED",
        "Subscriber limit exceeded",
    ),
    "one index twice": (
        spoiled_update(deleting("index"), provisioning("index", TEN)),
        "VALIDATION",
        "Only one global secondary index update per index is allowed simultaneously. Index: index",
    ),
    "nothing in it": (
        spoiled_update(GlobalSecondaryIndexUpdate()),
        "VALIDATION",
        (
            "One of GlobalSecondaryIndexUpdate.Update, GlobalSecondaryIndexUpdate.Create, "
            "GlobalSecondaryIndexUpdate.Delete must not be null"
        ),
    ),
    "added though there": (
        spoiled_update(adding(global_index("index", "total", throughput=TEN)), more=TOTAL),
        "VALIDATION",
        "Duplicate index name: index",
    ),
    "added with the name of a local one": (
        spoiled_update(adding(global_index("local", "total", throughput=TEN)), more=TOTAL),
        "VALIDATION",
        "Duplicate index name: local",
    ),
    "added without throughput": (
        spoiled_update(adding(global_index("new", "total")), more=TOTAL),
        "VALIDATION",
        "ProvisionedThroughput must be specified for index: new",
    ),
    "added with a fault": (
        spoiled_update(adding(global_index("new", "total", include())), more=TOTAL),
        "VALIDATION",
        "NonKeyAttributes is not specified",
    ),
    "added with an attribute not defined": (
        spoiled_update(adding(global_index("new", "total", throughput=TEN))),
        "VALIDATION",
        "no definition",
    ),
    "added with another type of a key": (
        spoiled_update(adding(global_index("new", "total", throughput=TEN)), more="total:S"),
        "VALIDATION",
        "Attribute: total, type: N, requested type: S",
    ),
    "with another type of the table's key": (
        spoiled_update(provisioning("index", FIVE), more="customer:N"),
        "VALIDATION",
        "Attribute: customer, type: S, requested type: N",
    ),
    "with a definition not used": (
        spoiled_update(adding(global_index("new", "total", throughput=TEN)), more="total:N more:S"),
        "VALIDATION",
        "Some AttributeDefinitions are not used",
    ),
    "removed though not there": (spoiled_update(deleting("missing")), "RESOURCE_NOT_FOUND", "missing"),
    "a local one removed": (spoiled_update(deleting("local")), "RESOURCE_NOT_FOUND", "local"),
    "changed though not there": (spoiled_update(provisioning("missing", TEN)), "RESOURCE_NOT_FOUND", "missing"),
    "changed to the same": (
        spoiled_update(provisioning("index", TEN)),
        "VALIDATION",
        "The provisioned throughput for the index index will not change. The requested value equals the current value.",
    ),
    "changed out of bounds": (spoiled_update(provisioning("index", with_units(0, 1))), "VALIDATION", "equal to 1"),
}
STATUS_CODES = {
    "LIMIT_EXCEEDED": "RESOURCE_EXHAUSTED",
    "VALIDATION": "INVALID_ARGUMENT",
    "RESOURCE_NOT_FOUND": "NOT_FOUND",
}


@pytest.mark.parametrize("fault", UPDATE_FAULTS)
def test_an_update_of_indexes_with_a_fault_changes_nothing(client: Client, fault: str) -> None:
    spoil, reason, words = UPDATE_FAULTS[fault]
    request = provisioned(global_index("index", "total", throughput=TEN))
    request.local_secondary_indexes.append(local_index("local", "customer total"))
    before = create(client, request)
    with refused(STATUS_CODES[reason], reason, says=words):
        spoil(client, before.table_name)
    assert describe(client, before.table_name) == before


def test_a_21st_global_index_is_not_added(client: Client) -> None:
    made = create(client, request_with(*(global_index(f"global-{n}", "total") for n in range(20))))
    with refused("INVALID_ARGUMENT", "VALIDATION", limit=20, says="GlobalSecondaryIndex count exceeds"):
        update(client, made.table_name, adding(global_index("more", "total")), more=TOTAL)
    assert describe(client, made.table_name) == made


def test_one_update_changes_all_or_nothing(client: Client) -> None:
    made = create(client, request_with(more=""))
    request = UpdateTableRequest(
        table_name=made.table_name,
        attribute_definitions=definitions(TOTAL),
        global_secondary_index_updates=[adding(global_index("index", "total", throughput=FIVE))],
        billing_mode=table_pb2.BILLING_MODE_PROVISIONED,
        provisioned_throughput=TEN,
        deletion_protection_enabled=True,
        stream_specification=table_pb2.StreamSpecification(stream_enabled=True, stream_view_type=NEW_IMAGE),
        stream_settings=table_pb2.StreamSettings(max_shards=9),
    )
    spoiled = UpdateTableRequest()
    spoiled.CopyFrom(request)
    spoiled.stream_specification.CopyFrom(table_pb2.StreamSpecification(stream_enabled=False))
    with refused("INVALID_ARGUMENT", "VALIDATION", says="no stream to disable"):
        client.tables.UpdateTable(spoiled)
    assert describe(client, made.table_name) == made
    changed = client.tables.UpdateTable(request).table_description
    assert changed.global_secondary_indexes[0].provisioned_throughput == FIVE
    assert (changed.billing_mode, changed.provisioned_throughput) == (table_pb2.BILLING_MODE_PROVISIONED, TEN)
    assert changed.deletion_protection_enabled
    assert changed.stream_specification.stream_enabled
    assert changed.stream_settings.max_shards == 9


def test_a_restart_keeps_indexes_and_throughput(tmp_path: Path) -> None:
    with BrokerProcess(tmp_path) as broker:
        with Client(broker.grpc) as client:
            request = provisioned(global_index("index", "total", include("a", "b"), FIVE))
            request.local_secondary_indexes.append(local_index("local", "customer total", KEYS_ONLY))
            request.deletion_protection_enabled = True
            before = create(client, request)
        broker.stop()
        broker.start()
        with Client(broker.grpc) as client:
            assert describe(client, before.table_name) == before
