"""Whether items expire, as it is set and described. Source: DynamoDB API Reference, Update- and DescribeTimeToLive."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from headrace.v1.record_pb2 import EVENT_NAME_REMOVE
from headrace.v1.table_service_pb2 import (
    TIME_TO_LIVE_STATUS_DISABLED,
    TIME_TO_LIVE_STATUS_ENABLED,
    TIME_TO_LIVE_STATUS_ENABLING,
    DescribeTimeToLiveRequest,
    DescribeTimeToLiveResponse,
    TimeToLiveSpecification,
    UpdateTimeToLiveRequest,
)
from tests.broker_process import BrokerProcess
from tests.conftest import eventually
from tests.rpc import Client, TestTable, refused
from tests.values import from_item, item, value

ON = (TIME_TO_LIVE_STATUS_ENABLING, TIME_TO_LIVE_STATUS_ENABLED)


def set_expiry(client: Client, name: str, attribute: str, *, enabled: bool) -> TimeToLiveSpecification:
    specification = TimeToLiveSpecification(enabled=enabled, attribute_name=attribute)
    request = UpdateTimeToLiveRequest(table_name=name, time_to_live_specification=specification)
    return client.tables.UpdateTimeToLive(request).time_to_live_specification


def describe_expiry(client: Client, name: str) -> DescribeTimeToLiveResponse:
    return client.tables.DescribeTimeToLive(DescribeTimeToLiveRequest(table_name=name))


def test_items_of_a_new_table_do_not_expire(client: Client, table: TestTable) -> None:
    assert describe_expiry(client, table.name) == DescribeTimeToLiveResponse(
        time_to_live_status=TIME_TO_LIVE_STATUS_DISABLED
    )


# The key may serve as the time, too.
@pytest.mark.parametrize("attribute", ["expires_at", "x", "x" * 255, "\u00e9" * 255, "id"])
def test_expiry_is_enabled_and_disabled_and_enabled_again_by_another_attribute(client: Client, attribute: str) -> None:
    name = client.create_table().name
    assert set_expiry(client, name, attribute, enabled=True) == TimeToLiveSpecification(
        enabled=True, attribute_name=attribute
    )
    described = describe_expiry(client, name)
    assert described.time_to_live_status in ON
    assert described.attribute_name == attribute
    set_expiry(client, name, attribute, enabled=False)
    assert describe_expiry(client, name) == DescribeTimeToLiveResponse(time_to_live_status=TIME_TO_LIVE_STATUS_DISABLED)
    set_expiry(client, name, "other", enabled=True)
    assert describe_expiry(client, name).attribute_name == "other"


@pytest.mark.parametrize(("attribute", "limit"), [("", 1), ("x" * 256, 255)])
@pytest.mark.parametrize("enabled", [True, False])
def test_the_attribute_has_1_to_255_characters(
    client: Client, table: TestTable, attribute: str, limit: int, *, enabled: bool
) -> None:
    with refused("INVALID_ARGUMENT", "VALIDATION", field="time_to_live_specification.attribute_name", limit=limit):
        set_expiry(client, table.name, attribute, enabled=enabled)


@pytest.mark.parametrize(
    ("attribute", "enabled", "words"),
    [
        ("expires_at", True, "TimeToLive is already enabled"),
        ("other", True, "TimeToLive is active on a different AttributeName: current AttributeName is expires_at"),
        ("other", False, "TimeToLive is active on a different AttributeName: current AttributeName is expires_at"),
    ],
)
def test_enabled_expiry_stays_as_it_is(client: Client, attribute: str, words: str, *, enabled: bool) -> None:
    name = client.create_table().name
    set_expiry(client, name, "expires_at", enabled=True)
    with refused("INVALID_ARGUMENT", "VALIDATION", says=words):
        set_expiry(client, name, attribute, enabled=enabled)
    described = describe_expiry(client, name)
    assert described.time_to_live_status in ON
    assert described.attribute_name == "expires_at"


def test_disabled_expiry_cannot_be_disabled(client: Client, table: TestTable) -> None:
    with refused("INVALID_ARGUMENT", "VALIDATION", says="TimeToLive is already disabled"):
        set_expiry(client, table.name, "expires_at", enabled=False)


def test_a_table_that_is_not_there_is_not_found(client: Client) -> None:
    with refused("NOT_FOUND", "RESOURCE_NOT_FOUND", says="nowhere"):
        set_expiry(client, "nowhere", "expires_at", enabled=True)
    with refused("NOT_FOUND", "RESOURCE_NOT_FOUND", says="nowhere"):
        describe_expiry(client, "nowhere")


def test_a_restart_keeps_expiry(tmp_path: Path) -> None:
    with BrokerProcess(tmp_path) as broker:
        with Client(broker.grpc) as client:
            name = client.create_table().name
            set_expiry(client, name, "expires_at", enabled=True)
        broker.stop()
        broker.start()
        with Client(broker.grpc) as client:
            assert describe_expiry(client, name).attribute_name == "expires_at"


# A broker that looks every 0.1 seconds; a real one takes up to ten.
def test_expired_items_are_deleted_by_the_service_and_the_record_says_so(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("upkeep_interval_seconds = 0.1\n")
    now = int(time.time())
    with BrokerProcess(tmp_path, extra=("--config", str(config))) as broker, Client(broker.grpc) as client:
        table = client.create_table()
        never = {
            "later": item(id="later", until=now + 3600),
            "text": item(id="text", until=str(now - 60)),
            "ages ago": item(id="ages ago", until=now - 6 * 365 * 24 * 3600),
            "milliseconds": item(id="milliseconds", until=now * 1000),
            "none": item(id="none"),
        }
        # Those that were there before, and those that come after.
        client.put(table.name, item(id="old", until=now - 60))
        for each in never.values():
            client.put(table.name, each)
        set_expiry(client, table.name, "until", enabled=True)
        client.put(table.name, item(id="new", until=now - 1))
        eventually(lambda: client.contents(table).keys() == {(value(id_),) for id_ in never})
        removed = [record for record in client.records(table.stream_arn) if record.event_name == EVENT_NAME_REMOVE]
        assert {from_item(record.old_image)["id"] for record in removed} == {value("old"), value("new")}
        for record in removed:
            assert (record.user_identity.principal_id, record.user_identity.type) == (
                "dynamodb.amazonaws.com",
                "Service",
            )
        assert describe_expiry(client, table.name).time_to_live_status == TIME_TO_LIVE_STATUS_ENABLED
        # A delete of a user's is none of the service's.
        client.delete(table.name, item(id="none"))
        assert not client.records(table.stream_arn)[-1].HasField("user_identity")
