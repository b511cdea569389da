"""Errors on the wire: every error has a code, and says its reason where clients look for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NoReturn
from urllib.parse import quote

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from broker.model import errors
from broker.model.gaps import Gap, TrimmedDataAccessError
from broker.rpc import status


class AbortedError(Exception):
    pass


class Context:
    """Keeps what a call is ended with."""

    def __init__(self) -> None:
        self.ended: tuple[grpc.StatusCode, str, dict[str, bytes]] | None = None

    async def abort(
        self, code: grpc.StatusCode, details: str, trailers: tuple[tuple[str, bytes], ...] = ()
    ) -> NoReturn:
        self.ended = code, details, dict(trailers)
        raise AbortedError


def all_errors(of: type[errors.HeadraceError] = errors.HeadraceError) -> Iterator[type[errors.HeadraceError]]:
    for each in of.__subclasses__():
        if each is not errors.AuthenticationError:
            yield each
        yield from all_errors(each)


# They say when to come again.
RETRIED = (errors.ThrottlingError, errors.ProvisionedThroughputExceededError)


def make(error_type: type[errors.HeadraceError]) -> errors.HeadraceError:
    if error_type is TrimmedDataAccessError:
        return TrimmedDataAccessError(Gap("shardId-1", 5, 9, 1_000, 2_000))
    if error_type is errors.TransactionCanceledError:
        return errors.TransactionCanceledError([None, errors.ConditionalCheckFailedError("it does not hold")])
    if error_type is errors.ConstraintError:
        return errors.ConstraintError("x" * 300, "limit", "Member must not be null", limit=3)
    if error_type is errors.TableNotFoundError:
        return errors.TableNotFoundError("what")
    more: dict[str, Any] = {"retry_after_ms": 1050} if error_type in RETRIED else {}
    return error_type("what is wrong", field="limit", limit=3, **more)


async def ended_with(error: errors.HeadraceError) -> tuple[grpc.StatusCode, str, status_pb2.Status]:
    context: Any = Context()
    with pytest.raises(AbortedError):
        await context.abort(*status.ending(error))
    code, details, trailers = context.ended
    return code, details, status_pb2.Status.FromString(trailers["grpc-status-details-bin"])


# Source: docs/decisions/0006 and the conventions of the protos; clients retry by these.
CODES = {
    "VALIDATION": grpc.StatusCode.INVALID_ARGUMENT,
    "SERIALIZATION": grpc.StatusCode.INVALID_ARGUMENT,
    "UNKNOWN_OPERATION": grpc.StatusCode.UNIMPLEMENTED,
    "MISSING_AUTHENTICATION_TOKEN": grpc.StatusCode.UNAUTHENTICATED,
    "INCOMPLETE_SIGNATURE": grpc.StatusCode.UNAUTHENTICATED,
    "UNRECOGNIZED_CLIENT": grpc.StatusCode.UNAUTHENTICATED,
    "INVALID_SIGNATURE": grpc.StatusCode.UNAUTHENTICATED,
    "RESOURCE_NOT_FOUND": grpc.StatusCode.NOT_FOUND,
    "RESOURCE_IN_USE": grpc.StatusCode.FAILED_PRECONDITION,
    "TABLE_ALREADY_EXISTS": grpc.StatusCode.FAILED_PRECONDITION,
    "BACKUP_NOT_FOUND": grpc.StatusCode.NOT_FOUND,
    "INVALID_RESTORE_TIME": grpc.StatusCode.INVALID_ARGUMENT,
    "POINT_IN_TIME_RECOVERY_UNAVAILABLE": grpc.StatusCode.FAILED_PRECONDITION,
    "BACKUP_IN_USE": grpc.StatusCode.FAILED_PRECONDITION,
    "CONDITIONAL_CHECK_FAILED": grpc.StatusCode.FAILED_PRECONDITION,
    "TRANSACTION_CANCELED": grpc.StatusCode.FAILED_PRECONDITION,
    "IDEMPOTENT_PARAMETER_MISMATCH": grpc.StatusCode.INVALID_ARGUMENT,
    "PROVISIONED_THROUGHPUT_EXCEEDED": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "EXPIRED_ITERATOR": grpc.StatusCode.FAILED_PRECONDITION,
    "LIMIT_EXCEEDED": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "TRIMMED_DATA_ACCESS": grpc.StatusCode.OUT_OF_RANGE,
    "LEASE_FENCED": grpc.StatusCode.ABORTED,
    "THROTTLING": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "UNAVAILABLE": grpc.StatusCode.UNAVAILABLE,
    "DISK_FULL": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "DATA_LOSS": grpc.StatusCode.DATA_LOSS,
}


def test_every_error_has_a_reason_of_its_own_and_a_code() -> None:
    made = [make(error_type) for error_type in all_errors()]
    assert {error.reason: status.code(error) for error in made} == CODES
    assert len([error for error in made if "reason" in vars(type(error))]) == len(CODES)


@pytest.mark.parametrize("error_type", list(all_errors()))
async def test_a_call_ends_with_the_code_and_the_reason_of_its_error(error_type: type[errors.HeadraceError]) -> None:
    error = make(error_type)
    code, details, message = await ended_with(error)
    assert (code, details) == (CODES[error.reason], error.message)
    assert (message.code, message.message) == (code.value[0], error.message)
    info = error_details_pb2.ErrorInfo()
    assert message.details[0].Unpack(info)
    assert (info.reason, info.domain) == (error.reason, "headrace")
    assert dict(info.metadata) == error.metadata
    assert len(message.details) == (2 if error_type in RETRIED else 1)


async def test_throttling_says_when_to_come_again() -> None:
    _, _, message = await ended_with(errors.ThrottlingError("too much", retry_after_ms=1050))
    retry = error_details_pb2.RetryInfo()
    assert message.details[1].Unpack(retry)
    assert retry.retry_delay.ToMilliseconds() == 1050


def test_a_canceled_transaction_says_why_for_each_action_however_many() -> None:
    causes = [None, *[errors.ProvisionedThroughputExceededError("too much", retry_after_ms=1)] * 99]
    error = errors.TransactionCanceledError(causes)
    codes = error.metadata["cancellation_reasons"].split(",")
    assert codes == ["None", *["ProvisionedThroughputExceeded"] * 99]
    # With the trailers' base64 they still fit.
    assert len(error.metadata["cancellation_reasons"]) * 4 // 3 < 6000


# gRPC drops the whole status if its trailers are larger than 8 KiB: the client would see something else.
@pytest.mark.parametrize("letter", ["x", "\u00e9", "\U0001f600", "\x00", "%"])
async def test_a_status_fits_into_the_trailers_however_long_a_name_was(letter: str) -> None:
    name = letter * 100_000
    _, details, message = await ended_with(errors.ResourceNotFoundError(f"Trigger {name} not found", trigger_name=name))
    # gRPC sends the text percent-encoded and the details as base64.
    trailers_bytes = len(quote(details)) + message.ByteSize() * 4 // 3
    assert trailers_bytes < 8000
    assert details.startswith("Trigger ")
    info = error_details_pb2.ErrorInfo()
    assert message.details[0].Unpack(info)
    assert letter in info.metadata["trigger_name"]


def test_an_error_is_part_of_a_response_too() -> None:
    message = status.to_message(make(errors.ConditionalCheckFailedError))
    assert (message.code, message.reason) == (9, "CONDITIONAL_CHECK_FAILED")
    assert (message.message, dict(message.metadata)) == ("what is wrong", {"field": "limit", "limit": "3"})
