"""Random operations, on tables of every kind of key and stream, against the oracle; with restarts in between.

A failure shows the smallest sequence of steps that Hypothesis found, ready to paste into a test.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any, ClassVar

import grpc
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from headrace.v1 import item_service_pb2, record_pb2
from headrace.v1.table_service_pb2 import UpdateTableRequest
from tests.broker_process import BrokerProcess
from tests.guarantees import check_atomic, check_converged, check_ordered, check_resumable, check_unique, logged
from tests.model import Operation, TableModel, ViewType
from tests.properties.operations import operations, to_write
from tests.rpc import Client, batch, refusal_of
from tests.values import Attributes, attributes, to_item

RESTARTS_MAX = 1
NEW_AND_OLD = ViewType.NEW_AND_OLD_IMAGES


def view_type_value(view_type: ViewType) -> record_pb2.StreamViewType.ValueType:
    return record_pb2.StreamViewType.Value(f"STREAM_VIEW_TYPE_{view_type}")


# Key attributes and, for each table, keys that are easily confused with each other.
KEYS: dict[str, st.SearchStrategy[Attributes]] = {
    "id:S": st.sampled_from(["a", "b", "a\0", "á", "ab"]).map(lambda text: attributes(id=text)),
    "id:N": st.sampled_from(["0", "-0", "1", "1.0", "1e0", "-1", "10", "1e-130"]).map(
        lambda text: attributes(id=Decimal(text))
    ),
    "id:B sort:B": st.tuples(st.sampled_from([b"a", b"a\0", b"\xff"]), st.sampled_from([b"\0", b"\0\0", b"a"])).map(
        lambda pair: attributes(id=pair[0], sort=pair[1])
    ),
    "id:S sort:N": st.tuples(st.sampled_from(["a", "b"]), st.sampled_from([-1, 0, 1, 10])).map(
        lambda pair: attributes(id=pair[0], sort=pair[1])
    ),
}
TABLES = st.sampled_from([(keys, view_type) for keys in KEYS for view_type in (NEW_AND_OLD, *ViewType)])


class TableMachine(RuleBasedStateMachine):
    """One table, its model beside it."""

    broker: ClassVar[BrokerProcess]

    def __init__(self) -> None:
        super().__init__()
        self.client = Client(self.broker.grpc)
        self.restarts = 0

    @initialize(chosen=TABLES)
    def create_table(self, chosen: tuple[str, ViewType]) -> None:
        keys, view_type = chosen
        self.keys = KEYS[keys]
        self.table = self.client.create_table(keys=keys, view_type=view_type_value(view_type))
        # All streams that the table ever had, the newest last, as in the model.
        self.stream_arns = [self.table.stream_arn]
        self.model = TableModel(self.table.key_names)
        self.model.enable_stream(view_type)

    @rule(data=st.data())
    def write_one(self, data: st.DataObject) -> None:
        operation = data.draw(operations(self.keys))
        assert self.say(operation) == self.model.apply(operation)

    @rule(data=st.data())
    def write_batch(self, data: st.DataObject) -> None:
        chosen = data.draw(st.lists(operations(self.keys), min_size=1, max_size=8))
        (response,) = self.client.write_items(batch(self.table.name, *map(to_write, chosen)))
        assert [result.error.reason for result in response.results] == [self.model.apply(each) for each in chosen]

    @rule(data=st.data())
    def get(self, data: st.DataObject) -> None:
        key = data.draw(self.keys)
        stored = self.model.items.get(tuple(key[name] for name in self.table.key_names))
        assert self.client.get(self.table.name, to_item(key)) == stored

    @rule(view_type=st.sampled_from(ViewType))
    def switch_stream(self, view_type: ViewType) -> None:
        request = UpdateTableRequest(table_name=self.table.name)
        if self.model.stream is not None:
            request.stream_specification.stream_enabled = False
            self.client.tables.UpdateTable(request)
            self.model.disable_stream()
        else:
            request.stream_specification.stream_enabled = True
            request.stream_specification.stream_view_type = view_type_value(view_type)
            self.stream_arns.append(self.client.tables.UpdateTable(request).table_description.latest_stream_arn)
            self.model.enable_stream(view_type)

    @rule(limits=st.lists(st.integers(1, 9), min_size=1, max_size=5))
    def read_in_parts(self, limits: list[int]) -> None:
        whole = logged(self.client.records(self.stream_arns[-1]))
        parts, shard_iterator = [], self.client.iterator(self.stream_arns[-1])
        for limit in [*limits, 1_000]:
            response = next(self.client.read(shard_iterator, limit=limit))
            parts.append(logged(response.records))
            shard_iterator = response.next_shard_iterator
            if not shard_iterator:
                break
        check_resumable(whole, parts)

    @rule(how=st.sampled_from(["stop", "kill"]))
    @precondition(lambda self: self.restarts < RESTARTS_MAX)
    def restart(self, how: str) -> None:
        self.restarts += 1
        self.client.close()
        if how == "stop":
            assert self.broker.stop() == 0
        else:
            self.broker.kill()
        self.client = Client(self.broker.start().grpc)

    def teardown(self) -> None:
        self.client.close()

    @invariant()
    def compare(self) -> None:
        contents = self.client.contents(self.table)
        check_converged(self.model.items, contents)
        logs = [logged(self.client.records(arn)) for arn in self.stream_arns]
        assert [[entry.change for entry in log] for log in logs] == [stream.log for stream in self.model.streams]
        for log in logs:
            check_unique(log)
        if len(logs) == 1 and self.model.stream is not None:
            if self.model.stream.view_type.has_new_image:
                check_atomic(logs[0], contents, self.table.key_names)
            if self.model.stream.view_type is NEW_AND_OLD:
                check_ordered(logs[0])

    def say(self, operation: Operation) -> str:
        """Does the operation by its unary call; returns the reason of its refusal, or an empty string."""
        write = to_write(operation, self.table.name)
        calls: dict[str, Any] = {
            "put": self.client.items.PutItem,
            "update": self.client.items.UpdateItem,
            "delete": self.client.items.DeleteItem,
        }
        kind = write.WhichOneof("operation")
        assert kind is not None
        try:
            calls[kind](getattr(write, kind))
        except grpc.RpcError as error:
            return refusal_of(error).reason
        return ""


@pytest.fixture(scope="module")
def own_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    """A broker that these tests may restart."""
    with BrokerProcess(tmp_path_factory.mktemp("properties")) as process:
        yield process


# A failure is made smaller step by step, with restarts in between: that takes its time, and is worth it.
@pytest.mark.timeout(400)
def test_tables_and_streams_hold_what_the_oracle_says(own_broker: BrokerProcess) -> None:
    class Machine(TableMachine):
        broker = own_broker

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=25,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )


def test_the_random_operations_are_all_that_the_protos_know() -> None:
    # A write that the protos gain must be added to the random operations.
    fields = item_service_pb2.WriteOperation.DESCRIPTOR.fields_by_name
    assert set(fields) == {"put", "update", "delete"}
