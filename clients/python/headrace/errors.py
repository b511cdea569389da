"""What can go wrong, one class per reason. gRPC errors become these here and nowhere else.

Catch a class, or branch on `error.reason`; never on the message, which is for people.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar, cast

if TYPE_CHECKING:
    import grpc

    from headrace.v1 import error_pb2

# The domain of every ErrorInfo the broker sends, and the metadata key under which gRPC carries the rich status.
_DOMAIN = "headrace"
_STATUS_DETAILS_KEY = "grpc-status-details-bin"


class HeadraceError(Exception):
    """A call, or one operation of a call, that failed.

    `reason` is DynamoDB's name in upper snake case, or the gRPC status code where there is none. `message` names the
    field and the limit for people, `metadata` says the same to programs.
    """

    # Subclasses name the one reason they stand for; a reason without a class is kept by the instance.
    reason: str = "UNKNOWN"

    def __init__(self, message: str, *, reason: str | None = None, metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.metadata: Mapping[str, str] = dict(metadata or {})
        if reason is not None:
            self.reason = reason


class ValidationError(HeadraceError):
    """The request is malformed or breaks a limit; `metadata` has `field` and, where there is one, `limit`."""

    reason = "VALIDATION"


class ResourceNotFoundError(HeadraceError):
    """There is no such table, stream, shard, consumer group, trigger or replica."""

    reason = "RESOURCE_NOT_FOUND"


class ResourceInUseError(HeadraceError):
    """The name is taken, or the thing is in use."""

    reason = "RESOURCE_IN_USE"


class TableAlreadyExistsError(HeadraceError):
    """The name of a table to restore to is taken."""

    reason = "TABLE_ALREADY_EXISTS"


class BackupNotFoundError(HeadraceError):
    """There is no such backup."""

    reason = "BACKUP_NOT_FOUND"


class BackupInUseError(HeadraceError):
    """The backup is being made or restored from; or another is being made."""

    reason = "BACKUP_IN_USE"


class InvalidRestoreTimeError(HeadraceError):
    """A time to which the table cannot be restored; describe_continuous_backups says which it can."""

    reason = "INVALID_RESTORE_TIME"


class PointInTimeRecoveryUnavailableError(HeadraceError):
    """Point-in-time recovery of the table is off."""

    reason = "POINT_IN_TIME_RECOVERY_UNAVAILABLE"


class ConditionalCheckFailedError(HeadraceError):
    """The condition of a write does not hold; nothing was written."""

    reason = "CONDITIONAL_CHECK_FAILED"

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        metadata: Mapping[str, str] | None = None,
        item: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message, reason=reason, metadata=metadata)
        # The item as it is, if the write has `return_old_on_failure` and there is one.
        self.item = item


@dataclass(frozen=True, slots=True)
class CancellationReason:
    """Why one action of a transaction did, or did not, cancel it."""

    # None (the word), ConditionalCheckFailed, ValidationError or ProvisionedThroughputExceeded.
    code: str
    # For people; empty if the code is None, and if no action has `return_old_on_failure`.
    message: str = ""
    # The item as it is, if the action has `return_old_on_failure` and there is one.
    item: dict[str, Any] | None = None


class TransactionCanceledError(HeadraceError):
    """A transaction that was not carried out: nothing was written. `reasons` has one for each action, in order."""

    reason = "TRANSACTION_CANCELED"

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        metadata: Mapping[str, str] | None = None,
        reasons: Iterable[CancellationReason] | None = None,
    ) -> None:
        super().__init__(message, reason=reason, metadata=metadata)
        if reasons is None:
            codes = self.metadata.get("cancellation_reasons")
            reasons = map(CancellationReason, codes.split(",") if codes else ())
        self.reasons = tuple(reasons)


class IdempotentParameterMismatchError(HeadraceError):
    """A `client_request_token` that was used for another transaction less than 10 minutes ago; nothing was written."""

    reason = "IDEMPOTENT_PARAMETER_MISMATCH"


class ExpiredIteratorError(HeadraceError):
    """A shard iterator older than 15 minutes; get a new one."""

    reason = "EXPIRED_ITERATOR"


class TrimmedDataAccessError(HeadraceError):
    """Records that come next are no longer held. What is lost is told exactly; what the broker left out is None."""

    reason = "TRIMMED_DATA_ACCESS"

    @property
    def shard_id(self) -> str | None:
        """The shard that has lost them; None too if it is gone itself."""
        return self.metadata.get("shard_id") or None

    @property
    def first_lost_sequence_number(self) -> str | None:
        """The lost records lie from here on."""
        return self.metadata.get("first_lost_sequence_number")

    @property
    def last_lost_sequence_number(self) -> str | None:
        """The number of the last lost record."""
        return self.metadata.get("last_lost_sequence_number")

    @property
    def lost_from(self) -> datetime | None:
        """They were not written before this time."""
        return self._time("lost_from")

    @property
    def lost_to(self) -> datetime | None:
        """When the last of them was written."""
        return self._time("lost_to")

    @property
    def earliest_sequence_number(self) -> str | None:
        """From here on all is held."""
        return self.metadata.get("earliest_sequence_number")

    def _time(self, name: str) -> datetime | None:
        text = self.metadata.get(name)
        return datetime.fromisoformat(text).replace(tzinfo=UTC) if text else None


class LimitExceededError(HeadraceError):
    """There may be no more of something; `metadata` has `limit`."""

    reason = "LIMIT_EXCEEDED"


class LeaseFencedError(HeadraceError):
    """An ack under a lease that another member of the group has taken over."""

    reason = "LEASE_FENCED"


class ThrottlingError(HeadraceError):
    """The broker is at a named bound; nothing was done. Try again after `retry_after_s`."""

    reason = "THROTTLING"
    # Used when the broker names no delay.
    DEFAULT_RETRY_AFTER_S: ClassVar[float] = 0.1

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        metadata: Mapping[str, str] | None = None,
        retry_after_s: float = DEFAULT_RETRY_AFTER_S,
    ) -> None:
        super().__init__(message, reason=reason, metadata=metadata)
        self.retry_after_s = retry_after_s


class ProvisionedThroughputExceededError(ThrottlingError):
    """A table or an index has consumed the throughput provisioned for it; nothing was done. As ThrottlingError."""

    reason = "PROVISIONED_THROUGHPUT_EXCEEDED"


class UnavailableError(HeadraceError):
    """The broker is away, starting or draining. A write that was under way may or may not have happened."""

    reason = "UNAVAILABLE"


class DeadlineExceededError(HeadraceError):
    """No answer in time. A write that was under way may or may not have happened."""

    reason = "DEADLINE_EXCEEDED"


_CLASS_BY_REASON: dict[str, type[HeadraceError]] = {
    error_class.reason: error_class
    for error_class in (
        ValidationError,
        ResourceNotFoundError,
        ResourceInUseError,
        TableAlreadyExistsError,
        BackupNotFoundError,
        BackupInUseError,
        InvalidRestoreTimeError,
        PointInTimeRecoveryUnavailableError,
        ConditionalCheckFailedError,
        TransactionCanceledError,
        IdempotentParameterMismatchError,
        ExpiredIteratorError,
        TrimmedDataAccessError,
        LimitExceededError,
        LeaseFencedError,
        ThrottlingError,
        ProvisionedThroughputExceededError,
        UnavailableError,
        DeadlineExceededError,
    )
}


def _make(reason: str, message: str, metadata: Mapping[str, str], retry_after_s: float | None = None) -> HeadraceError:
    error_class = _CLASS_BY_REASON.get(reason, HeadraceError)
    if issubclass(error_class, ThrottlingError) and retry_after_s is not None:
        return error_class(message, metadata=metadata, retry_after_s=retry_after_s)
    return error_class(message, reason=reason, metadata=metadata)


def from_rpc(error: grpc.RpcError) -> HeadraceError:
    """The error of a failed call, from grpc or grpc.aio."""
    from google.rpc import error_details_pb2, status_pb2

    # The two stacks raise different classes that share these three methods; the stubs declare them on only one.
    call = cast("Any", error)
    reason: str = call.code().name
    message: str = call.details() or reason
    metadata: dict[str, str] = {}
    retry_after_s: float | None = None
    trailing: Iterable[tuple[str, str | bytes]] = call.trailing_metadata() or ()
    for key, value in trailing:
        if key != _STATUS_DETAILS_KEY:
            continue
        assert isinstance(value, bytes)
        for detail in status_pb2.Status.FromString(value).details:
            info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
            if detail.Unpack(info) and info.domain == _DOMAIN:
                reason, metadata = info.reason, dict(info.metadata)
            elif detail.Unpack(retry):
                retry_after_s = retry.retry_delay.ToMilliseconds() / 1000
    return _make(reason, message, metadata, retry_after_s)


def from_message(error: error_pb2.Error) -> HeadraceError:
    """The error of one operation inside a response."""
    metadata = dict(error.metadata)
    retry_after_ms = metadata.get("retry_after_ms")
    return _make(error.reason, error.message, metadata, int(retry_after_ms) / 1000 if retry_after_ms else None)
