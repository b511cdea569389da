"""Triggers as any client sees them: what is told of a function's environment, and where a trigger begins."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from headrace.v1 import trigger_service_pb2 as pb
from headrace.v1.consumer_service_pb2 import ListConsumerGroupsRequest, StartingPosition
from tests.broker_process import BrokerProcess
from tests.consuming import LATEST, TRIM_HORIZON, Join, numbers, write
from tests.rpc import Client, TestTable, refused, unique_name
from tests.values import item

SECRET = "correct horse battery staple"  # noqa: S105 - it guards nothing


@pytest.fixture
def name(client: Client) -> Iterator[str]:
    """The name of a trigger to make; deleted afterwards, so that hosts of other tests do not run it."""
    made = unique_name("trigger")
    yield made
    if made in [trigger.trigger_name for trigger in client.triggers.ListTriggers(pb.ListTriggersRequest()).triggers]:
        client.triggers.DeleteTrigger(pb.DeleteTriggerRequest(trigger_name=made))


def create(
    client: Client,
    table: TestTable,
    name: str,
    position: StartingPosition.ValueType,
    **function: Any,
) -> pb.TriggerDescription:
    request = pb.CreateTriggerRequest(
        trigger_name=name,
        table_name=table.name,
        function=pb.Function(handler="app.handler", runtime="python", **function),
        code=b"PK",
        starting_position=position,
    )
    return client.triggers.CreateTrigger(request).trigger


def put_all(client: Client, table: TestTable, values: range) -> None:
    """Writes one item for each number, with keys of all shards."""
    for n in values:
        client.put(table.name, item(id=f"key-{n}", n=n))


def test_descriptions_name_the_environment_and_hosts_alone_are_told_its_values(
    client: Client, table: TestTable, name: str
) -> None:
    environment = {"TOKEN": SECRET, "A": ""}
    created = create(client, table, name, TRIM_HORIZON, environment=environment)
    described = client.triggers.DescribeTrigger(pb.DescribeTriggerRequest(trigger_name=name))
    listed = client.triggers.ListTriggers(pb.ListTriggersRequest())
    updated = client.triggers.UpdateTrigger(pb.UpdateTriggerRequest(trigger_name=name, batch_size=7, code=b"PK2"))
    for description in (created, described.trigger, updated.trigger):
        assert list(description.function.environment_names) == ["A", "TOKEN"]
        assert not description.function.environment
    for response in (created, described, listed, updated):
        assert SECRET.encode() not in response.SerializeToString()
    # The update gave no environment, and it is still there.
    fetched = client.triggers.GetTriggerCode(pb.GetTriggerCodeRequest(trigger_name=name))
    assert (dict(fetched.environment), fetched.code) == (environment, b"PK2")


def test_an_environment_is_kept_over_a_restart(tmp_path: Path) -> None:
    own_broker = BrokerProcess(tmp_path).start()
    with Client(own_broker.grpc) as client:
        create(client, client.create_table(), "kept", TRIM_HORIZON, environment={"TOKEN": SECRET})
    own_broker.stop()
    own_broker.start()
    with Client(own_broker.grpc) as client:
        fetched = client.triggers.GetTriggerCode(pb.GetTriggerCodeRequest(trigger_name="kept"))
        assert fetched.environment == {"TOKEN": SECRET}
    own_broker.stop()


# No host runs: whoever reads as the trigger's group first, however much later, gets exactly what came after.
def test_a_trigger_from_latest_gets_all_that_is_written_after_it_was_created(
    client: Client, table: TestTable, name: str, join: Join
) -> None:
    (root,) = client.shards(table.stream_arn)
    put_all(client, table, range(50))
    client.split(table.stream_arn, root.shard_id)
    put_all(client, table, range(50, 100))
    create(client, table, name, LATEST)
    put_all(client, table, range(100, 150))
    member = join(f"trigger:{name}", LATEST)
    assert sorted(numbers(member.records(50))) == list(range(100, 150))


def test_a_trigger_from_the_trim_horizon_gets_what_was_written_before(
    client: Client, table: TestTable, name: str, join: Join
) -> None:
    write(client, table, 0, 10)
    create(client, table, name, TRIM_HORIZON)
    write(client, table, 10, 20)
    assert numbers(join(f"trigger:{name}").records(20)) == list(range(20))


def test_a_trigger_that_is_refused_or_deleted_leaves_no_group(client: Client, table: TestTable, name: str) -> None:
    def has_group() -> bool:
        groups = client.consumers.ListConsumerGroups(ListConsumerGroupsRequest()).consumer_groups
        return f"trigger:{name}" in [group.group_name for group in groups]

    create(client, table, name, LATEST)
    assert has_group()
    with refused("FAILED_PRECONDITION", "RESOURCE_IN_USE"):
        create(client, table, name, LATEST)
    client.triggers.DeleteTrigger(pb.DeleteTriggerRequest(trigger_name=name))
    assert not has_group()
    gone = f"{table.stream_arn}9"
    with refused("NOT_FOUND", "RESOURCE_NOT_FOUND"):
        client.triggers.CreateTrigger(
            pb.CreateTriggerRequest(
                trigger_name=name,
                event_source_arn=gone,
                function=pb.Function(handler="app.handler", runtime="python"),
                code=b"PK",
                starting_position=LATEST,
            )
        )
    assert not has_group()
