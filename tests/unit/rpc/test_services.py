"""What services check of requests before anything is planned: a plan may not fail over what a client sent."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from typing import Any

import pytest
from google.protobuf.message_factory import GetMessageClass

from broker.consumers.groups import ConsumerGroups, Start
from broker.expressions.placeholders import PLACEHOLDERS_MAX
from broker.model.errors import ResourceNotFoundError, ValidationError
from broker.model.turns import Turns
from broker.replication.registry import Replicas
from broker.rpc.handlers import Requests
from broker.rpc.item_service import ItemService
from broker.rpc.mirror import ITEM_SERVICE
from broker.rpc.replication_service import ReplicationService
from broker.rpc.request_budget import Received, RequestBudget
from broker.rpc.trigger_service import TriggerService
from broker.tables.capacity import CapacityMetering
from broker.tables.read import ItemReader
from broker.tables.transactions import RequestTokens
from broker.triggers.registry import COUNT_MAX, LINE_BYTES_MAX, REPORT_LINES_MAX, Trigger, Triggers, new_function
from headrace.v1 import item_service_pb2, record_pb2
from headrace.v1 import replication_service_pb2 as replication_pb2
from headrace.v1 import trigger_service_pb2 as trigger_pb2
from tests.unit.engine import NOON_MS, Engine
from tests.values import item

U64_MAX = 2**64 - 1


class Context:
    """A streaming call whose answers are kept."""

    def __init__(self) -> None:
        self.written: list[Any] = []

    async def write(self, response: Any) -> None:
        self.written.append(response)


def sent(*requests: Any) -> Requests:
    """A stream of requests."""
    budget = RequestBudget(Turns())

    async def iterator() -> AsyncIterator[Received]:
        waiting = iter(requests)
        for _ in requests:
            yield Received(b"", lambda _: next(waiting), budget)

    return Requests(iterator(), budget)


@pytest.fixture
async def triggers(engine: Engine) -> Triggers:
    made = Triggers(engine.store, engine.committer)
    function = new_function(
        handler="m.f", runtime="python", environment={}, timeout_seconds=0, memory_size_mb=0, archive=b"x"
    )
    trigger = Trigger(
        name="totals",
        event_source_arn="arn",
        function=function,
        batch_size=1,
        starting_position="LATEST",
        create_time_ms=0,
    )
    await made.create(trigger, b"x")
    return made


@pytest.fixture
def trigger_service(engine: Engine, triggers: Triggers) -> TriggerService:
    return TriggerService(engine.catalog, triggers, ConsumerGroups(engine.store, engine.committer, engine.catalog, {}))


def report(**counts: Any) -> trigger_pb2.ReportInvocationsRequest:
    return trigger_pb2.ReportInvocationsRequest(trigger_name="totals", counts=trigger_pb2.TriggerCounts(**counts))


@pytest.mark.parametrize("duration", [math.nan, math.inf, -math.inf, -0.001, 1e300])
async def test_a_duration_that_is_no_duration_is_refused(
    trigger_service: TriggerService, triggers: Triggers, engine: Engine, duration: float
) -> None:
    with pytest.raises(ValidationError) as refused:
        await trigger_service.ReportInvocations(report(duration_ms=duration))
    assert refused.value.metadata["field"] == "counts"
    # It would be stored as something that cannot be read back.
    assert Triggers(engine.store, engine.committer).documents.all() == triggers.documents.all()


@pytest.mark.parametrize("name", ["invocations", "errors", "records", "iterator_age_ms"])
@pytest.mark.parametrize("number", [-1, COUNT_MAX + 1, 2**63 - 1])
async def test_a_count_that_is_no_count_is_refused(trigger_service: TriggerService, name: str, number: int) -> None:
    with pytest.raises(ValidationError):
        await trigger_service.ReportInvocations(report(**{name: number}))


async def test_a_trigger_can_be_described_whatever_was_reported(trigger_service: TriggerService) -> None:
    for _ in range(3):
        await trigger_service.ReportInvocations(
            report(invocations=COUNT_MAX, errors=COUNT_MAX, records=COUNT_MAX, duration_ms=float(COUNT_MAX))
        )
    described = await trigger_service.DescribeTrigger(trigger_pb2.DescribeTriggerRequest(trigger_name="totals"))
    assert described.trigger.counts.invocations == COUNT_MAX


@pytest.mark.parametrize("seconds", [2**62, -(2**62), 2**63 - 1, -1])
async def test_a_line_of_an_impossible_time_is_refused(
    trigger_service: TriggerService, engine: Engine, seconds: int
) -> None:
    request = trigger_pb2.ReportInvocationsRequest(trigger_name="totals")
    request.lines.add(text="x").time.seconds = seconds
    with pytest.raises(ValidationError):
        await trigger_service.ReportInvocations(request)
    assert not engine.committing.done()


async def test_a_long_line_is_cut_between_characters(trigger_service: TriggerService, triggers: Triggers) -> None:
    request = trigger_pb2.ReportInvocationsRequest(trigger_name="totals")
    request.lines.add(text="a" + "\u00e9" * LINE_BYTES_MAX)
    await trigger_service.ReportInvocations(request)
    (line,) = triggers.lines("totals", 0, 1)
    assert line.text == "a" + "\u00e9" * (LINE_BYTES_MAX // 2 - 1)


async def test_a_report_has_a_bounded_number_of_lines(trigger_service: TriggerService) -> None:
    request = trigger_pb2.ReportInvocationsRequest(trigger_name="totals")
    for _ in range(REPORT_LINES_MAX + 1):
        request.lines.add(text="x")
    with pytest.raises(ValidationError) as refused:
        await trigger_service.ReportInvocations(request)
    assert refused.value.metadata == {"field": "lines", "limit": str(REPORT_LINES_MAX)}


@pytest.fixture
def replication_service(engine: Engine) -> ReplicationService:
    return ReplicationService(
        engine.catalog,
        engine.committer,
        ItemReader(engine.store, engine.committer),
        Replicas(engine.store, engine.committer),
        ConsumerGroups(engine.store, engine.committer, engine.catalog, {}),
    )


async def apply(service: ReplicationService, hybrid_time: int, region: str) -> list[Any]:
    request = replication_pb2.ApplyChangesRequest(table_name="pets")
    version = record_pb2.Version(hybrid_time=hybrid_time, origin_region=region)
    request.items.add(item=item(id="a"), version=version)
    context: Any = Context()
    await service.ApplyChanges(sent(request), context)
    written: list[Any] = context.written
    return written


async def test_a_change_with_a_version_is_applied(engine: Engine, replication_service: ReplicationService) -> None:
    await engine.table()
    (answer,) = await apply(replication_service, NOON_MS << 16, "a" * 64)
    assert (answer.applied, answer.skipped) == (1, 0)
    (answer,) = await apply(replication_service, NOON_MS << 16, "a" * 64)
    assert (answer.applied, answer.skipped) == (0, 1)


# Each of these once stopped the node, or would have poisoned its clock for ever.
@pytest.mark.parametrize(
    ("hybrid_time", "region"),
    [
        (0, "south"),
        (1, ""),
        (1, "a" * 65),
        (1, "South"),
        (1, "\U0001f600" * 64),
        (U64_MAX, "south"),
        (2**63, "south"),
    ],
)
async def test_a_change_without_a_possible_version_is_refused(
    engine: Engine, replication_service: ReplicationService, hybrid_time: int, region: str
) -> None:
    table = await engine.table()
    with pytest.raises(ValidationError) as refused:
        await apply(replication_service, hybrid_time, region)
    assert refused.value.metadata["field"].startswith("version")
    assert not engine.committing.done()
    assert (await engine.do(lambda group: group.next_version())).hybrid_time >> 16 == NOON_MS
    assert not table.is_deleted


async def test_a_report_of_a_replica_is_bounded(engine: Engine, replication_service: ReplicationService) -> None:
    await engine.table()
    await replication_service.CreateReplica(
        replication_pb2.CreateReplicaRequest(
            replica_name="copy", source_table_name="pets", target_endpoint="localhost:7420"
        )
    )
    long = "9" * 1_000_000
    for progress in (
        replication_pb2.ReplicaProgress(status=replication_pb2.REPLICA_STATUS_ACTIVE, snapshot_sequence_number=long),
        replication_pb2.ReplicaProgress(
            status=replication_pb2.REPLICA_STATUS_ACTIVE, last_applied_sequence_number=long
        ),
        replication_pb2.ReplicaProgress(status=replication_pb2.REPLICA_STATUS_ACTIVE, bootstrap_start_key=b"x" * 9000),
        replication_pb2.ReplicaProgress(),
    ):
        with pytest.raises(ValidationError):
            await replication_service.ReportReplica(
                replication_pb2.ReportReplicaRequest(replica_name="copy", progress=progress)
            )


# WriteItems answers each operation in its place, also those that were refused before they were queued.


@pytest.fixture
def item_service(engine: Engine) -> ItemService:
    reader, capacity = ItemReader(engine.store, engine.committer), CapacityMetering(engine.clock)
    return ItemService(engine.catalog, engine.committer, reader, capacity, RequestTokens(engine.store))


def mirrored(request: item_service_pb2.WriteItemsRequest) -> Any:
    message = GetMessageClass(ITEM_SERVICE.file.message_types_by_name["WriteItemsRequest"])
    return message.FromString(request.SerializeToString())


async def test_each_operation_of_a_batch_is_answered_in_its_place(engine: Engine, item_service: ItemService) -> None:
    await engine.table()
    request = item_service_pb2.WriteItemsRequest(table_name="pets")
    request.operations.add().put.item.CopyFrom(item(id="a"))
    request.operations.add().put.item.CopyFrom(item(other="no key"))
    failing = request.operations.add().put
    failing.item.CopyFrom(item(id="a"))
    failing.condition_expression = "attribute_not_exists(id)"
    request.operations.add()
    request.operations.add().delete.key.CopyFrom(item(id="missing"))
    elsewhere = request.operations.add().put
    elsewhere.table_name = "nowhere"
    elsewhere.item.CopyFrom(item(id="a"))
    context: Any = Context()
    await item_service.WriteItems(sent(mirrored(request)), context)
    (answer,) = context.written
    results = item_service_pb2.WriteItemsResponse.FromString(answer).results
    assert [result.error.reason for result in results] == [
        "",
        "VALIDATION",
        "CONDITIONAL_CHECK_FAILED",
        "VALIDATION",
        "",
        "RESOURCE_NOT_FOUND",
    ]
    assert [result.HasField("error") for result in results] == [False, True, True, True, False, True]


async def test_a_batch_of_nothing_but_refused_operations_is_answered(engine: Engine, item_service: ItemService) -> None:
    await engine.table()
    request = item_service_pb2.WriteItemsRequest(table_name="pets")
    for _ in range(3):
        request.operations.add()
    context: Any = Context()
    await item_service.WriteItems(sent(mirrored(request)), context)
    results = item_service_pb2.WriteItemsResponse.FromString(context.written[0]).results
    assert [result.error.reason for result in results] == ["VALIDATION"] * 3


@pytest.mark.parametrize("count", [0, 1001])
async def test_a_batch_has_1_to_1000_operations(item_service: ItemService, count: int) -> None:
    request = item_service_pb2.WriteItemsRequest(table_name="pets")
    for _ in range(count):
        request.operations.add()
    context: Any = Context()
    with pytest.raises(ValidationError) as refused:
        await item_service.WriteItems(sent(mirrored(request)), context)
    assert refused.value.metadata == {"field": "operations", "limit": "1000" if count else "1"}


async def test_a_deleted_trigger_takes_its_group_along(engine: Engine, trigger_service: TriggerService) -> None:
    groups = ConsumerGroups(engine.store, engine.committer, engine.catalog, {})
    service = TriggerService(engine.catalog, trigger_service._triggers, groups)
    table = await engine.table("watched")
    assert table.stream is not None
    await groups.ensure("trigger:totals", engine.catalog.stream_arn(table.stream), Start(after=0))
    await service.DeleteTrigger(trigger_pb2.DeleteTriggerRequest(trigger_name="totals"))
    assert groups.all() == []
    with pytest.raises(ResourceNotFoundError):
        await service.DeleteTrigger(trigger_pb2.DeleteTriggerRequest(trigger_name="totals"))


@pytest.mark.parametrize(("more", "says"), [(0, "unused in expressions"), (1, f"at most {PLACEHOLDERS_MAX} entries")])
async def test_placeholders_are_counted_before_they_are_looked_at(
    engine: Engine, item_service: ItemService, more: int, says: str
) -> None:
    await engine.table()
    request = item_service_pb2.WriteItemsRequest(table_name="pets")
    update = request.operations.add().update
    update.key.CopyFrom(item(id="a"))
    update.update_expression = "SET a = :v0"
    for number in range(PLACEHOLDERS_MAX + more):
        update.expression_attribute_values[f":v{number}"].n = "1"
    context: Any = Context()
    await item_service.WriteItems(sent(mirrored(request)), context)
    (answer,) = context.written
    (result,) = item_service_pb2.WriteItemsResponse.FromString(answer).results
    assert says in result.error.message
