"""What a replica needs next: pure decisions."""

from __future__ import annotations

from dataclasses import replace

import pytest

from headrace import errors
from headrace.replication.lifecycle import (
    LAST_ERROR_LENGTH_MAX,
    LinkError,
    NeedsPersonError,
    Phase,
    Progress,
    Status,
    check_source,
    check_target,
    check_target_is_free,
    key_names,
    lost_changes,
    target_table_request,
)
from headrace.v1 import record_pb2, table_pb2
from headrace.v1 import replication_service_pb2 as pb

S, N = table_pb2.SCALAR_ATTRIBUTE_TYPE_S, table_pb2.SCALAR_ATTRIBUTE_TYPE_N
ACTIVE = Progress(
    status=Status.ACTIVE,
    target_region="south",
    snapshot_sequence_number="5",
    items_copied=3,
    records_applied=7,
    last_applied_sequence_number="12",
    replication_lag_ms=4,
)


def table(
    name: str = "flights",
    *,
    table_id: str = "1",
    key: tuple[tuple[str, table_pb2.ScalarAttributeType.ValueType], ...] = (("id", S),),
    view_type: record_pb2.StreamViewType.ValueType | None = record_pb2.STREAM_VIEW_TYPE_NEW_AND_OLD_IMAGES,
) -> table_pb2.TableDescription:
    roles = (table_pb2.KEY_TYPE_HASH, table_pb2.KEY_TYPE_RANGE)
    return table_pb2.TableDescription(
        table_name=name,
        table_id=table_id,
        key_schema=[
            table_pb2.KeySchemaElement(attribute_name=attribute, key_type=role)
            for (attribute, _), role in zip(key, roles, strict=False)
        ],
        attribute_definitions=[
            table_pb2.AttributeDefinition(attribute_name=attribute, attribute_type=kind) for attribute, kind in key
        ],
        stream_specification=table_pb2.StreamSpecification(stream_enabled=True, stream_view_type=view_type)
        if view_type
        else None,
    )


def error(side: str, cause: errors.HeadraceError) -> LinkError:
    return LinkError(side, "127.0.0.1:1", cause)


def test_a_life_without_trouble() -> None:
    progress = Progress.from_message(pb.ReplicaProgress(status=pb.REPLICA_STATUS_CREATING))
    assert progress.phase is Phase.BEGIN
    progress = progress.begun(snapshot_sequence_number="5", target_region="south")
    assert (progress.phase, progress.status) == (Phase.COPY, Status.BOOTSTRAPPING)
    progress = progress.copied(start_key=b"k", items=2).copied(start_key=b"m", items=1)
    assert (progress.bootstrap_start_key, progress.items_copied) == (b"m", 3)
    progress = progress.bootstrapped()
    assert (progress.phase, progress.status, progress.bootstrap_start_key) == (Phase.FOLLOW, Status.ACTIVE, b"")
    progress = progress.applied(records=4, last_sequence_number="09", lag_ms=8)
    assert progress.applied(records=3, last_sequence_number="12", lag_ms=4) == ACTIVE


@pytest.mark.parametrize("status", Status)
def test_progress_survives_the_wire(status: Status) -> None:
    progress = replace(ACTIVE, status=status, bootstrap_start_key=b"\xff", last_error="why")
    assert Progress.from_message(progress.to_message()) == progress


def test_a_status_this_version_does_not_know_begins_anew() -> None:
    assert Progress.from_message(pb.ReplicaProgress(status=99, snapshot_sequence_number="5")).phase is Phase.BEGIN  # type: ignore[arg-type]


def test_a_copy_that_is_begun_anew_counts_from_zero() -> None:
    again = ACTIVE.start_over("gap").begun(snapshot_sequence_number="40", target_region="south")
    assert (again.items_copied, again.bootstrap_start_key) == (0, b"")
    assert again.records_applied == ACTIVE.records_applied


def test_starting_over_forgets_the_position_and_says_why() -> None:
    progress = ACTIVE.start_over("gap")
    assert (progress.phase, progress.status, progress.last_error) == (Phase.BEGIN, Status.BOOTSTRAPPING, "gap")


def test_what_failed_begins_anew_when_it_is_looked_at_again() -> None:
    progress = ACTIVE.failed("no such table")
    assert (progress.phase, progress.status, progress.last_error) == (Phase.BEGIN, Status.FAILED, "no such table")


def test_trouble_changes_nothing_but_the_error() -> None:
    progress = ACTIVE.troubled("away")
    assert progress == replace(ACTIVE, last_error="away")
    assert not progress.is_beyond(ACTIVE)
    assert progress.applied(records=1, last_sequence_number="13", lag_ms=4).is_beyond(ACTIVE)


def test_an_error_is_cut_to_what_the_broker_keeps() -> None:
    assert len(ACTIVE.troubled("x" * 5_000).last_error) == LAST_ERROR_LENGTH_MAX


# Of several shards one may be read later than another; what is shown must not seem to go back.
def test_the_last_record_applied_is_the_newest_whichever_shard_came_last() -> None:
    progress = ACTIVE.applied(records=1, last_sequence_number="11", lag_ms=4)
    assert (progress.last_applied_sequence_number, progress.records_applied) == ("12", ACTIVE.records_applied + 1)


def test_trimmed_data_means_lost_changes_and_the_gap_is_told() -> None:
    metadata = {"shard_id": "shardId-1", "last_lost_sequence_number": "9", "first_lost_sequence_number": "4"}
    why = lost_changes(error("source", errors.TrimmedDataAccessError("records are gone", metadata=metadata)))
    assert why is not None
    assert "gone (first_lost_sequence_number 4, last_lost_sequence_number 9, shard_id shardId-1)" in why


def test_a_group_of_another_stream_means_lost_changes() -> None:
    cause = errors.ValidationError("reads another stream", metadata={"field": "stream_arn"})
    assert lost_changes(error("source", cause)) is not None


@pytest.mark.parametrize(
    ("side", "cause"),
    [
        ("source", errors.UnavailableError("away")),
        ("source", errors.LeaseFencedError("taken")),
        ("source", errors.ValidationError("no", metadata={"field": "group_name"})),
        ("target", errors.TrimmedDataAccessError("of a trigger there")),
        ("target", errors.ValidationError("no", metadata={"field": "stream_arn"})),
    ],
)
def test_other_errors_lose_nothing(side: str, cause: errors.HeadraceError) -> None:
    assert lost_changes(error(side, cause)) is None


def test_an_error_tells_its_side_and_keeps_its_reason() -> None:
    told = error("target", errors.UnavailableError("refused"))
    assert (told.reason, str(told)) == ("UNAVAILABLE", "target 127.0.0.1:1: refused")


@pytest.mark.parametrize(
    ("described", "says"),
    [
        (None, "does not exist"),
        (table(view_type=None), "is off"),
        (table(view_type=record_pb2.STREAM_VIEW_TYPE_KEYS_ONLY), "KEYS_ONLY"),
        (table(view_type=record_pb2.STREAM_VIEW_TYPE_OLD_IMAGE), "OLD_IMAGE"),
    ],
)
def test_a_source_that_cannot_be_replicated_is_told(described: table_pb2.TableDescription | None, says: str) -> None:
    with pytest.raises(NeedsPersonError, match=says):
        check_source("flights", described)


@pytest.mark.parametrize(
    "view_type", [record_pb2.STREAM_VIEW_TYPE_NEW_IMAGE, record_pb2.STREAM_VIEW_TYPE_NEW_AND_OLD_IMAGES]
)
def test_new_images_are_enough(view_type: record_pb2.StreamViewType.ValueType) -> None:
    described = table(view_type=view_type)
    assert check_source("flights", described) is described


@pytest.mark.parametrize(
    "key", [(("other", S),), (("id", N),), (("id", S), ("time", N))], ids=["name", "type", "sort key"]
)
def test_a_target_with_another_key_is_refused(
    key: tuple[tuple[str, table_pb2.ScalarAttributeType.ValueType], ...],
) -> None:
    with pytest.raises(NeedsPersonError, match=r"id \(HASH, S\)"):
        check_target(table(), table("copy", table_id="2", key=key))


def test_a_table_is_no_replica_of_itself() -> None:
    with pytest.raises(NeedsPersonError, match="own replica"):
        check_target(table(), table())


def test_the_order_of_definitions_does_not_matter() -> None:
    key = (("id", S), ("time", N))
    shuffled = table("copy", table_id="2", key=key)
    shuffled.attribute_definitions.reverse()
    check_target(table(key=key), shuffled)


def test_the_target_is_made_with_key_and_stream_of_the_source() -> None:
    source = table(key=(("id", S), ("time", N)))
    source.stream_settings.retention_period_in_seconds = 3_600
    source.stream_settings.min_shards = 2
    request = target_table_request(source, "copy")
    assert request.table_name == "copy"
    assert list(request.key_schema) == list(source.key_schema)
    assert list(request.attribute_definitions) == list(source.attribute_definitions)
    assert request.stream_specification == source.stream_specification
    assert request.stream_settings == source.stream_settings
    assert key_names(source) == ("id", "time")


def test_within_a_region_a_copy_begins_with_an_empty_table() -> None:
    with pytest.raises(NeedsPersonError, match="delete the table"):
        check_target_is_free("copy", source_region="north", target_region="north", has_items=True)
    check_target_is_free("copy", source_region="north", target_region="north", has_items=False)
    check_target_is_free("copy", source_region="north", target_region="south", has_items=True)
