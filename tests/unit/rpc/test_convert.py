from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.model.errors import ValidationError
from broker.model.tables import Index, ProjectionType, StreamViewType
from broker.rpc import convert
from broker.streams.shards import closed_stream
from broker.tables.capacity import Consumption
from headrace.v1 import item_service_pb2, record_pb2, stream_service_pb2, table_pb2
from tests.unit.engine import AT, ID, NOON_MS, REGION, Engine

NO_VIEW = record_pb2.STREAM_VIEW_TYPE_UNSPECIFIED


@given(st.integers(-62_135_596_800_000, 253_402_300_799_999))
def test_times_keep_every_millisecond(millis: int) -> None:
    message = convert.timestamp(millis)
    assert message.ToMilliseconds() == millis
    assert convert.millis(message) == millis


@pytest.mark.parametrize("view_type", StreamViewType)
def test_a_stream_is_switched_on_with_its_view_type(view_type: StreamViewType) -> None:
    number = record_pb2.StreamViewType.Value(f"STREAM_VIEW_TYPE_{view_type}")
    wanted = table_pb2.StreamSpecification(stream_enabled=True, stream_view_type=number)
    assert convert.view_type_to_enable(wanted) == view_type


def test_a_stream_is_switched_off_without_one() -> None:
    assert convert.view_type_to_enable(table_pb2.StreamSpecification()) is None


@pytest.mark.parametrize(("enabled", "number"), [(True, NO_VIEW), (True, 99), (False, 1), (False, 99)])
def test_any_other_switch_is_refused(number: int, *, enabled: bool) -> None:
    wanted = table_pb2.StreamSpecification(stream_enabled=enabled, stream_view_type=number)  # type: ignore[arg-type]
    with pytest.raises(ValidationError) as refused:
        convert.view_type_to_enable(wanted)
    assert refused.value.metadata["field"] == "stream_specification.stream_view_type"


def test_unknown_roles_and_types_are_kept_as_unknown() -> None:
    element = table_pb2.KeySchemaElement(attribute_name="a", key_type=table_pb2.KEY_TYPE_UNSPECIFIED)
    assert convert.key_schema_pairs([element]) == [("a", "")]
    definition = table_pb2.AttributeDefinition(attribute_name="a")
    assert convert.definition_pairs([definition]) == [("a", None)]


async def test_a_table_is_described_as_it_is(engine: Engine) -> None:
    table = await engine.table("pets", StreamViewType.KEYS_ONLY, sort_key=AT)
    described = convert.table_description(table.definition, engine.catalog)
    assert described.table_name == "pets"
    assert described.table_arn == f"arn:aws:dynamodb:{REGION}:000000000000:table/pets"
    assert described.table_id == table.definition.uuid
    assert described.table_status == table_pb2.TABLE_STATUS_ACTIVE
    assert convert.key_schema_pairs(described.key_schema) == [("id", "HASH"), ("at", "RANGE")]
    assert convert.definition_pairs(described.attribute_definitions) == [("id", "S"), ("at", "N")]
    assert described.creation_date_time.ToMilliseconds() == NOON_MS
    assert described.stream_specification.stream_enabled
    assert described.stream_specification.stream_view_type == record_pb2.STREAM_VIEW_TYPE_KEYS_ONLY
    assert described.latest_stream_arn == f"{described.table_arn}/stream/{described.latest_stream_label}"


# Source: semantics of DynamoDB: the last stream's ARN stays, its specification does not.
async def test_a_disabled_stream_is_named_and_not_specified(engine: Engine) -> None:
    table = await engine.table()
    await engine.set_stream("pets", None)
    described = convert.table_description(table.definition, engine.catalog)
    assert described.latest_stream_arn
    assert not described.HasField("stream_specification")


async def test_a_table_that_never_had_a_stream_names_none(engine: Engine) -> None:
    table = await engine.table("pets", None)
    described = convert.table_description(table.definition, engine.catalog)
    assert (described.latest_stream_arn, described.latest_stream_label) == ("", "")
    assert not described.HasField("stream_specification")


async def test_a_stream_is_described_with_its_shards(engine: Engine) -> None:
    table = await engine.table()
    stream = table.stream
    assert stream is not None
    described = convert.stream_description(stream, "arn", map(convert.shard, stream.shards), "last")
    assert (described.stream_arn, described.last_evaluated_shard_id) == ("arn", "last")
    assert described.stream_status == stream_service_pb2.STREAM_STATUS_ENABLED
    assert described.stream_label == stream.label
    assert convert.key_schema_pairs(described.key_schema) == [(ID.name, "HASH")]
    (shard,) = described.shards
    assert (shard.hash_key_range.starting_hash_key, shard.hash_key_range.ending_hash_key) == (0, 2**64 - 1)
    assert len(shard.sequence_number_range.starting_sequence_number) == 21
    assert shard.sequence_number_range.ending_sequence_number == ""
    closed = closed_stream(stream, 77, 0)
    described = convert.stream_description(closed, "arn", map(convert.shard, closed.shards), "")
    assert described.stream_status == stream_service_pb2.STREAM_STATUS_DISABLED
    assert int(described.shards[0].sequence_number_range.ending_sequence_number) == 77


async def test_capacity_is_told_in_as_much_detail_as_was_asked_for(engine: Engine) -> None:
    table = (await engine.table()).definition
    local = Index(
        name="local", id=8, is_global=False, partition_keys=(ID,), sort_keys=(AT,), projection_type=ProjectionType.ALL
    )
    consumption = Consumption(table)
    consumption.write(2)
    consumption.write(1, local)
    consumption.write(4, replace(local, name="global", is_global=True))
    consumption.read(0.5)
    for nothing in (
        item_service_pb2.RETURN_CONSUMED_CAPACITY_UNSPECIFIED,
        item_service_pb2.RETURN_CONSUMED_CAPACITY_NONE,
    ):
        assert convert.consumed_capacity(consumption, nothing) is None
    total = convert.consumed_capacity(consumption, item_service_pb2.RETURN_CONSUMED_CAPACITY_TOTAL)
    assert total == item_service_pb2.ConsumedCapacity(table_name="pets", total=capacity(0.5, 7))
    by_index = convert.consumed_capacity(consumption, item_service_pb2.RETURN_CONSUMED_CAPACITY_INDEXES)
    assert by_index == item_service_pb2.ConsumedCapacity(
        table_name="pets",
        total=capacity(0.5, 7),
        table=capacity(0.5, 2),
        local_secondary_indexes={"local": capacity(0, 1)},
        global_secondary_indexes={"global": capacity(0, 4)},
    )


def capacity(reads: float, writes: float) -> item_service_pb2.Capacity:
    return item_service_pb2.Capacity(
        capacity_units=reads + writes, read_capacity_units=reads, write_capacity_units=writes
    )
