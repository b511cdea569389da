"""Index entries: after each kind of write an index shows the items that are there, and no others."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from headrace.v1 import item_service_pb2 as pb
from headrace.v1 import table_pb2
from headrace.v1.record_pb2 import EVENT_NAME_REMOVE, Record, Version
from headrace.v1.replication_service_pb2 import ApplyChangesRequest, VersionedItem
from headrace.v1.table_service_pb2 import UpdateTimeToLiveRequest
from tests.broker_process import BrokerProcess
from tests.conftest import eventually
from tests.rpc import Client, create_table_request, definitions, global_index, local_index, unique_name
from tests.values import Attributes, attributes, from_item, item, to_attribute_value, value

PROJECTED: dict[str, set[str] | None] = {"all": None, "keys": set(), "include": {"kept"}}
PROJECTIONS = {
    "all": table_pb2.Projection(projection_type=table_pb2.PROJECTION_TYPE_ALL),
    "keys": table_pb2.Projection(projection_type=table_pb2.PROJECTION_TYPE_KEYS_ONLY),
    "include": table_pb2.Projection(projection_type=table_pb2.PROJECTION_TYPE_INCLUDE, non_key_attributes=["kept"]),
}
WHOLE: dict[str, object] = {"id": "a", "n": 1, "stage": "open", "amount": 1, "kept": 1, "rest": 1}
KEY = item(id="a", n=1)


@pytest.fixture
def table(client: Client) -> str:
    """A table with a local and a global index of each projection, and one item besides those of the test."""
    return create(client)


def create(client: Client) -> str:
    """Makes a table as the fixture `table` does; returns its name."""
    request = create_table_request(unique_name(), keys="id:S n:N")
    request.attribute_definitions.extend(definitions("stage:S amount:N"))
    for name, projection in PROJECTIONS.items():
        request.local_secondary_indexes.append(local_index(f"local-{name}", "id stage", projection))
        request.global_secondary_indexes.append(global_index(f"global-{name}", "stage amount", projection))
    client.tables.CreateTable(request)
    client.put(request.table_name, item(WHOLE | {"id": "other", "rest": "never"}))
    client.put(request.table_name, item(WHOLE))
    table: str = request.table_name
    return table


def shown(client: Client, table: str, index_name: str) -> list[Attributes]:
    """What an index shows of the test's item, by Scan and by Query."""
    scanned = client.items.Scan(pb.ScanRequest(table_name=table, index_name=index_name))
    found = [content for content in map(from_item, scanned.items) if content["id"] == value("a")]
    assert len(scanned.items) == len(found) + 1, "the other item is there once"
    queried = []
    for stage in ("open", "shut"):
        name, wanted = ("id", "a") if index_name.startswith("local") else ("stage", stage)
        request = pb.QueryRequest(
            table_name=table,
            index_name=index_name,
            key_condition_expression=f"{name} = :v",
            expression_attribute_values={":v": to_attribute_value(value(wanted))},
        )
        queried += [
            content
            for content in map(from_item, client.items.Query(request).items)
            if content["id"] == value("a") and content["stage"] == value(stage)
        ]
    assert queried == found
    return found


def update(table: str, expression: str, **values: object) -> pb.UpdateItemRequest:
    return pb.UpdateItemRequest(
        table_name=table,
        key=KEY,
        update_expression=expression,
        expression_attribute_values={f":{name}": to_attribute_value(value(of)) for name, of in values.items()},
    )


def put(client: Client, table: str, after: dict[str, object]) -> None:
    client.put(table, item(after))


def put_in_a_batch(client: Client, table: str, after: dict[str, object]) -> None:
    write = pb.WriteOperation(put=pb.PutItemRequest(table_name=table, item=item(after)))
    client.items.BatchWriteItem(pb.BatchWriteItemRequest(operations=[write]))


def put_in_a_transaction(client: Client, table: str, after: dict[str, object]) -> None:
    action = pb.TransactWriteItem(put=pb.PutItemRequest(table_name=table, item=item(after)))
    client.items.TransactWriteItems(pb.TransactWriteItemsRequest(transact_items=[action]))


def put_in_a_stream_of_writes(client: Client, table: str, after: dict[str, object]) -> None:
    write = pb.WriteOperation(put=pb.PutItemRequest(item=item(after)))
    client.write_items(pb.WriteItemsRequest(table_name=table, operations=[write]))


def update_to(client: Client, table: str, after: dict[str, object]) -> None:
    client.items.UpdateItem(_update_to(table, after))


def update_in_a_transaction(client: Client, table: str, after: dict[str, object]) -> None:
    action = pb.TransactWriteItem(update=_update_to(table, after))
    client.items.TransactWriteItems(pb.TransactWriteItemsRequest(transact_items=[action]))


def _update_to(table: str, after: dict[str, object]) -> pb.UpdateItemRequest:
    """The update that makes the test's item this one."""
    rest = {name: of for name, of in after.items() if name not in ("id", "n")}
    gone = WHOLE.keys() - after.keys()
    text = "SET " + ", ".join(f"{name} = :{name}" for name in rest) if rest else ""
    return update(table, text + (" REMOVE " + ", ".join(gone) if gone else ""), **rest)


def apply_from_elsewhere(client: Client, table: str, after: dict[str, object]) -> None:
    change = VersionedItem(item=item(after), version=later())
    (response,) = client.replication.ApplyChanges(iter([ApplyChangesRequest(table_name=table, items=[change])]))
    assert response.applied == 1


def later() -> Version:
    """A version that is newer than all that was written here."""
    return Version(hybrid_time=int(time.time() * 1000 + 60_000) << 16, origin_region="elsewhere")


WRITES = [
    put,
    put_in_a_batch,
    put_in_a_transaction,
    put_in_a_stream_of_writes,
    update_to,
    update_in_a_transaction,
    apply_from_elsewhere,
]
AFTER: dict[str, dict[str, object]] = {
    "another partition": WHOLE | {"stage": "shut"},
    "another sort key": WHOLE | {"amount": 2},
    "another partition and sort key": WHOLE | {"stage": "shut", "amount": 2},
    "another content": WHOLE | {"kept": 2, "rest": 2},
    "less content": {name: of for name, of in WHOLE.items() if name not in ("kept", "rest")},
    "no partition": {name: of for name, of in WHOLE.items() if name != "stage"},
    "no sort key": {name: of for name, of in WHOLE.items() if name != "amount"},
    "the key alone": {"id": "a", "n": 1},
}


@pytest.mark.parametrize("write", WRITES)
def test_a_write_moves_changes_and_removes_the_entries_of_its_item(
    client: Client, table: str, write: Callable[[Client, str, dict[str, object]], None]
) -> None:
    # From elsewhere an item comes once: what is written here later would be older.
    for after in AFTER.values() if write is not apply_from_elsewhere else [AFTER["another partition"]]:
        if write is not apply_from_elsewhere:
            put(client, table, WHOLE)
            check_shown(client, table, WHOLE)
        write(client, table, after)
        check_shown(client, table, after)


def check_shown(client: Client, table: str, whole: dict[str, object] | None) -> None:
    """Checks what all indexes show of the test's item; None: it is gone."""
    for name, projected in PROJECTED.items():
        for kind, keys in (("local", {"id", "n", "stage"}), ("global", {"id", "n", "stage", "amount"})):
            expected = []
            if whole is not None and keys <= whole.keys():
                expected = [
                    attributes(
                        {name: of for name, of in whole.items() if projected is None or name in keys | projected}
                    )
                ]
            assert shown(client, table, f"{kind}-{name}") == expected, f"{kind}-{name}"


def delete(client: Client, table: str) -> None:
    client.delete(table, KEY)


def delete_in_a_batch(client: Client, table: str) -> None:
    write = pb.WriteOperation(delete=pb.DeleteItemRequest(table_name=table, key=KEY))
    client.items.BatchWriteItem(pb.BatchWriteItemRequest(operations=[write]))


def delete_in_a_transaction(client: Client, table: str) -> None:
    action = pb.TransactWriteItem(delete=pb.DeleteItemRequest(table_name=table, key=KEY))
    client.items.TransactWriteItems(pb.TransactWriteItemsRequest(transact_items=[action]))


def delete_in_a_stream_of_writes(client: Client, table: str) -> None:
    write = pb.WriteOperation(delete=pb.DeleteItemRequest(key=KEY))
    client.write_items(pb.WriteItemsRequest(table_name=table, operations=[write]))


def delete_from_elsewhere(client: Client, table: str) -> None:
    record = Record(event_name=EVENT_NAME_REMOVE, keys=KEY, version=later())
    (response,) = client.replication.ApplyChanges(iter([ApplyChangesRequest(table_name=table, records=[record])]))
    assert response.applied == 1


@pytest.mark.parametrize(
    "remove",
    [delete, delete_in_a_batch, delete_in_a_transaction, delete_in_a_stream_of_writes, delete_from_elsewhere],
)
def test_a_delete_removes_the_entries_of_its_item(
    client: Client, table: str, remove: Callable[[Client, str], None]
) -> None:
    check_shown(client, table, WHOLE)
    remove(client, table)
    check_shown(client, table, None)


def test_an_item_that_expires_leaves_no_entries(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("upkeep_interval_seconds = 0.1\n")
    with BrokerProcess(tmp_path, extra=("--config", str(config))) as broker, Client(broker.grpc) as client:
        table = create(client)
        enable = UpdateTimeToLiveRequest(table_name=table)
        enable.time_to_live_specification.attribute_name = "rest"
        enable.time_to_live_specification.enabled = True
        client.tables.UpdateTimeToLive(enable)
        put(client, table, WHOLE | {"rest": int(time.time()) - 60})
        eventually(lambda: client.get(table, KEY) is None)
        check_shown(client, table, None)
