"""Errors of the wire, turned into the client's classes."""

from __future__ import annotations

from datetime import UTC, datetime

import grpc
import pytest

import headrace
from headrace import AsyncClient, errors
from headrace.v1 import error_pb2
from tests.client.fake_broker import abort, fake_broker


async def failure(code: grpc.StatusCode, reason: str = "", **options: object) -> errors.HeadraceError:
    """What a client raises when the broker ends a call like this."""

    async def describe_table(request: object, context: object) -> None:
        del request
        await abort(context, code, reason, **options)  # type: ignore[arg-type]

    async with fake_broker(DescribeTable=describe_table) as endpoint, AsyncClient(endpoint) as client:
        with pytest.raises(errors.HeadraceError) as raised:
            await client.describe_table("flights")
    return raised.value


@pytest.mark.parametrize(
    ("code", "reason", "expected"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, "VALIDATION", headrace.ValidationError),
        (grpc.StatusCode.NOT_FOUND, "RESOURCE_NOT_FOUND", headrace.ResourceNotFoundError),
        (grpc.StatusCode.FAILED_PRECONDITION, "RESOURCE_IN_USE", headrace.ResourceInUseError),
        (grpc.StatusCode.FAILED_PRECONDITION, "TABLE_ALREADY_EXISTS", headrace.TableAlreadyExistsError),
        (grpc.StatusCode.NOT_FOUND, "BACKUP_NOT_FOUND", headrace.BackupNotFoundError),
        (grpc.StatusCode.FAILED_PRECONDITION, "BACKUP_IN_USE", headrace.BackupInUseError),
        (grpc.StatusCode.FAILED_PRECONDITION, "CONDITIONAL_CHECK_FAILED", headrace.ConditionalCheckFailedError),
        (grpc.StatusCode.FAILED_PRECONDITION, "EXPIRED_ITERATOR", headrace.ExpiredIteratorError),
        (grpc.StatusCode.OUT_OF_RANGE, "TRIMMED_DATA_ACCESS", headrace.TrimmedDataAccessError),
        (grpc.StatusCode.ABORTED, "LEASE_FENCED", headrace.LeaseFencedError),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "", headrace.DeadlineExceededError),
    ],
)
async def test_each_reason_has_its_class(
    code: grpc.StatusCode, reason: str, expected: type[errors.HeadraceError]
) -> None:
    error = await failure(code, reason, message="the text", metadata={"field": "table_name", "limit": "255"})
    assert type(error) is expected
    assert error.reason == reason or code.name
    assert (error.message, str(error)) == ("the text", "the text")
    assert error.metadata == ({"field": "table_name", "limit": "255"} if reason else {})
    assert isinstance(error.__cause__, grpc.RpcError)


# A newer broker may have reasons that this client has no class for.
async def test_a_reason_without_a_class_is_kept() -> None:
    error = await failure(grpc.StatusCode.FAILED_PRECONDITION, "TABLE_FROZEN")
    assert type(error) is headrace.HeadraceError
    assert error.reason == "TABLE_FROZEN"


async def test_a_status_without_details_is_named_by_its_code() -> None:
    error = await failure(grpc.StatusCode.INTERNAL)
    assert type(error) is headrace.HeadraceError
    assert error.reason == "INTERNAL"


def test_an_error_inside_a_response_becomes_the_same_class() -> None:
    error = errors.from_message(
        error_pb2.Error(code=9, reason="CONDITIONAL_CHECK_FAILED", message="no", metadata={"field": "condition"})
    )
    assert type(error) is headrace.ConditionalCheckFailedError
    assert (error.message, error.metadata) == ("no", {"field": "condition"})


async def test_a_gap_is_told_by_attributes() -> None:
    error = await failure(
        grpc.StatusCode.OUT_OF_RANGE,
        "TRIMMED_DATA_ACCESS",
        metadata={
            "shard_id": "s",
            "first_lost_sequence_number": "1",
            "last_lost_sequence_number": "2",
            "lost_from": "2024-01-01T00:00:00.000",
            "lost_to": "2024-01-01T00:00:01.500",
            "earliest_sequence_number": "3",
        },
    )
    assert isinstance(error, headrace.TrimmedDataAccessError)
    assert (error.shard_id, error.first_lost_sequence_number, error.last_lost_sequence_number) == ("s", "1", "2")
    assert error.lost_from == datetime(2024, 1, 1, tzinfo=UTC)
    assert error.lost_to == datetime(2024, 1, 1, 0, 0, 1, 500_000, tzinfo=UTC)
    assert error.earliest_sequence_number == "3"
    unknown = headrace.TrimmedDataAccessError("lost", metadata={"shard_id": ""})
    assert (unknown.shard_id, unknown.first_lost_sequence_number, unknown.lost_from) == (None, None, None)
