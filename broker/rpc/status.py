"""Errors as gRPC statuses: one table.

Every error carries google.rpc.ErrorInfo with the reason, the domain "headrace" and metadata; throttling carries
RetryInfo too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from broker.model import errors
from broker.model.gaps import TrimmedDataAccessError
from headrace.v1 import error_pb2

if TYPE_CHECKING:
    from google.protobuf.message import Message

    # What a handler is given; the types of requests and responses stand in the handlers.
    Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]

DOMAIN: Final = "headrace"
_DETAILS_KEY: Final = "grpc-status-details-bin"
_MILLIS_PER_SECOND: Final = 1000

_CODES: Final[dict[type[errors.HeadraceError], grpc.StatusCode]] = {
    errors.ValidationError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.ConstraintError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.ItemKeyError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.SerializationError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.UnknownOperationError: grpc.StatusCode.UNIMPLEMENTED,
    errors.MissingAuthenticationTokenError: grpc.StatusCode.UNAUTHENTICATED,
    errors.IncompleteSignatureError: grpc.StatusCode.UNAUTHENTICATED,
    errors.UnrecognizedClientError: grpc.StatusCode.UNAUTHENTICATED,
    errors.InvalidSignatureError: grpc.StatusCode.UNAUTHENTICATED,
    errors.ResourceNotFoundError: grpc.StatusCode.NOT_FOUND,
    errors.TableNotFoundError: grpc.StatusCode.NOT_FOUND,
    errors.ResourceInUseError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.TableAlreadyExistsError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.BackupNotFoundError: grpc.StatusCode.NOT_FOUND,
    errors.BackupInUseError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.InvalidRestoreTimeError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.PointInTimeRecoveryUnavailableError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.ConditionalCheckFailedError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.TransactionCanceledError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.IdempotentParameterMismatchError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.ProvisionedThroughputExceededError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.ExpiredIteratorError: grpc.StatusCode.FAILED_PRECONDITION,
    TrimmedDataAccessError: grpc.StatusCode.OUT_OF_RANGE,
    errors.LimitExceededError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.LeaseFencedError: grpc.StatusCode.ABORTED,
    errors.ThrottlingError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.UnavailableError: grpc.StatusCode.UNAVAILABLE,
    errors.DiskFullError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.DataLossError: grpc.StatusCode.DATA_LOSS,
}


class Ending(NamedTuple):
    """How a call ends: its code, its message, and its trailers."""

    code: grpc.StatusCode
    message: str
    trailers: tuple[tuple[str, bytes], ...] = ()


def code(error: errors.HeadraceError) -> grpc.StatusCode:
    """The status code of an error."""
    return _CODES[type(error)]


def to_message(error: errors.HeadraceError) -> error_pb2.Error:
    """An error as part of a response."""
    return error_pb2.Error(
        code=code(error).value[0], reason=error.reason, message=error.message, metadata=error.metadata
    )


def ending(error: errors.HeadraceError) -> Ending:
    """Return the status with which a call ends that raised an error. It keeps nothing of the error."""
    details: list[Message] = [
        error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.metadata),
    ]
    if isinstance(error, errors.ThrottlingError | errors.ProvisionedThroughputExceededError):
        seconds, millis = divmod(error.retry_after_ms, _MILLIS_PER_SECOND)
        delay = duration_pb2.Duration(seconds=seconds, nanos=millis * 1_000_000)
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    status = status_pb2.Status(code=code(error).value[0], message=error.message)
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return Ending(code(error), error.message, ((_DETAILS_KEY, status.SerializeToString()),))
