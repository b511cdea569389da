"""The one tree of errors that callers may see.

Each class is one reason, named as DynamoDB names it (upper snake case, without "Exception"); `rpc.status` alone turns
it into a gRPC status. Raise low, translate once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Final

from broker.model.constraints import shown_value

# A message may quote what the caller sent, and a status that is larger than gRPC's 8 KiB of trailers is lost whole.
MESSAGE_BYTES_MAX: Final = 768
METADATA_BYTES_MAX: Final = 256


class HeadraceError(Exception):
    """A request that cannot be served; nothing was changed.

    `message` is for people and names the field and the limit; `metadata` says the same to programs.
    """

    reason: ClassVar[str]

    def __init__(self, message: str, **metadata: object) -> None:
        self.message = _cut(message, MESSAGE_BYTES_MAX)
        self.metadata = {name: _cut(str(value), METADATA_BYTES_MAX) for name, value in metadata.items()}
        super().__init__(self.message)


class ValidationError(HeadraceError):
    """The request is malformed or breaks a limit. Metadata: field, and limit where there is one."""

    reason = "VALIDATION"


class ConstraintError(ValidationError):
    """A value that breaks a constraint of its field, in AWS's form.

    `field` is the path in the protos, in snake case. The parts are kept, since the gateway writes the path as AWS does.
    """

    def __init__(self, value: object, field: str, constraint: str, **metadata: object) -> None:
        super().__init__(described_fault(value, field, constraint), field=field, **metadata)
        self.value = value
        self.field = field
        self.constraint = constraint


def described_fault(value: object, path: str, constraint: str) -> str:
    """Say which constraint a value at a path breaks."""
    return f"Value {shown_value(value)} at '{path}' failed to satisfy constraint: {constraint}"


class ItemKeyError(ValidationError):
    """An item without a key attribute of its table, or with one of another type."""


class SerializationError(HeadraceError):
    """A request in JSON that is none, or has another type where its operation says which."""

    reason = "SERIALIZATION"


class UnknownOperationError(HeadraceError):
    """An operation that there is not, or is not supported."""

    reason = "UNKNOWN_OPERATION"


class AuthenticationError(HeadraceError):
    """A caller who has not shown that he may call; each reason is a class below this one."""


class MissingAuthenticationTokenError(AuthenticationError):
    """A request that is not signed."""

    reason = "MISSING_AUTHENTICATION_TOKEN"


class IncompleteSignatureError(AuthenticationError):
    """A signature of which something is missing, or not in its form."""

    reason = "INCOMPLETE_SIGNATURE"


class UnrecognizedClientError(AuthenticationError):
    """An access key that is not known."""

    reason = "UNRECOGNIZED_CLIENT"


class InvalidSignatureError(AuthenticationError):
    """A signature that is wrong, too old, or of another region or service."""

    reason = "INVALID_SIGNATURE"


class ResourceNotFoundError(HeadraceError):
    """A table, stream, shard, group, trigger or replica that does not exist."""

    reason = "RESOURCE_NOT_FOUND"


class TableNotFoundError(ResourceNotFoundError):
    """A table that does not exist. AWS has three ways to say so, hence a class of its own."""

    def __init__(self, name: str) -> None:
        super().__init__(f"Requested resource not found: Table: {name} not found", table_name=name)
        self.name = name


class ResourceInUseError(HeadraceError):
    """A name that is taken, or a thing that is in use."""

    reason = "RESOURCE_IN_USE"


class TableAlreadyExistsError(HeadraceError):
    """The name of a table to restore to is taken."""

    reason = "TABLE_ALREADY_EXISTS"


class BackupNotFoundError(HeadraceError):
    """A backup that does not exist."""

    reason = "BACKUP_NOT_FOUND"


class BackupInUseError(HeadraceError):
    """A backup that is being made, or restored from; or another is being made."""

    reason = "BACKUP_IN_USE"


class InvalidRestoreTimeError(HeadraceError):
    """A time to which a table cannot be restored."""

    reason = "INVALID_RESTORE_TIME"


class PointInTimeRecoveryUnavailableError(HeadraceError):
    """A table for which point-in-time recovery is off."""

    reason = "POINT_IN_TIME_RECOVERY_UNAVAILABLE"


class ConditionalCheckFailedError(HeadraceError):
    """The condition of a write does not hold. `item` is the EncodedItem for which it does not, None if there is none.

    `consumption` is what the attempt has consumed, if that was metered; `is_shown` says that the caller is to see the
    item.
    """

    reason = "CONDITIONAL_CHECK_FAILED"

    def __init__(self, message: str, *, item: Any = None, **metadata: object) -> None:
        super().__init__(message, **metadata)
        self.item = item
        self.is_shown = False
        self.consumption: Any = None

    def show_item_if(self, is_shown: bool) -> None:
        """Decides whether the caller is to see the item; if not, it is not held any longer."""
        self.is_shown = is_shown
        if not is_shown:
            self.item = None


class TransactionCanceledError(HeadraceError):
    """A transaction some of whose actions cannot be carried out. `causes` has one per action, None if innocent."""

    reason = "TRANSACTION_CANCELED"

    def __init__(self, causes: Sequence[HeadraceError | None], consumed: Sequence[Any] = ()) -> None:
        """`consumed` is what the attempt has consumed, by table."""
        codes = ", ".join(cancellation_code(cause) for cause in causes)
        super().__init__(
            f"Transaction cancelled, please refer cancellation reasons for specific reasons [{codes}]",
        )
        # Not cut: at most 100 codes, of which all but a few are short.
        self.metadata["cancellation_reasons"] = codes.replace(" ", "")
        self.causes = causes
        self.consumed = consumed


class IdempotentParameterMismatchError(HeadraceError):
    """Another request came with the same token before."""

    reason = "IDEMPOTENT_PARAMETER_MISMATCH"


class ProvisionedThroughputExceededError(HeadraceError):
    """A table or index has used up its provisioned throughput; try again after `retry_after_ms`."""

    reason = "PROVISIONED_THROUGHPUT_EXCEEDED"

    def __init__(self, message: str, *, retry_after_ms: int, **metadata: object) -> None:
        super().__init__(message, **metadata)
        self.retry_after_ms = retry_after_ms


class ExpiredIteratorError(HeadraceError):
    """A shard iterator older than 15 minutes."""

    reason = "EXPIRED_ITERATOR"


class LimitExceededError(HeadraceError):
    """There may be no more of something; metadata has the limit."""

    reason = "LIMIT_EXCEEDED"


class LeaseFencedError(HeadraceError):
    """An acknowledgement under a lease that another member has taken over."""

    reason = "LEASE_FENCED"


class ThrottlingError(HeadraceError):
    """A named bound is reached, or the maximum of a table on demand; try again after `retry_after_ms`."""

    reason = "THROTTLING"

    def __init__(self, message: str, *, retry_after_ms: int, **metadata: object) -> None:
        super().__init__(message, **metadata)
        self.retry_after_ms = retry_after_ms


class UnavailableError(HeadraceError):
    """The node is starting, draining or has failed. A write that was under way may or may not have happened."""

    reason = "UNAVAILABLE"


class DiskFullError(HeadraceError):
    """The disk of the node has no room for what grows. Metadata: free_bytes, and limit, below which that is refused."""

    reason = "DISK_FULL"


class DataLossError(HeadraceError):
    """A part of the store that a request needs is damaged, and the rest is served."""

    reason = "DATA_LOSS"

    def __init__(self, message: str = "Stored data is damaged", **metadata: object) -> None:
        super().__init__(message, **metadata)


class CorruptionError(Exception):
    """Stored bytes that cannot be read, or are not what was written: a wrong answer is worse than none.

    Whoever reads gets DataLossError instead; a commit that meets it anywhere but in the item it changes stops the node.
    """

    # Since the process began.
    met_total: ClassVar[int] = 0

    def __init__(self, message: str) -> None:
        super().__init__(message)
        CorruptionError.met_total += 1


def cancellation_code(cause: HeadraceError | None) -> str:
    """DynamoDB's code for why an action lets its transaction be cancelled; None if it does not."""
    match cause:
        case None:
            return "None"
        case ConditionalCheckFailedError():
            return "ConditionalCheckFailed"
        case ProvisionedThroughputExceededError():
            return "ProvisionedThroughputExceeded"
        case ThrottlingError():
            return "ThrottlingError"
        case _:
            return "ValidationError"


def _cut(text: str, bytes_max: int) -> str:
    data = text.encode()
    return text if len(data) <= bytes_max else data[:bytes_max].decode(errors="ignore") + "..."


def forget_frames(error: BaseException) -> None:
    """Drop the traceback of an error, and the errors that led to it.

    A traceback keeps its frames, and these keep the request and all that was made of it. Whoever keeps an error, or
    shows it to somebody who does, forgets its frames first.
    """
    error.__traceback__ = error.__cause__ = error.__context__ = None
    if isinstance(error, TransactionCanceledError):
        for cause in error.causes:
            if cause is not None:
                forget_frames(cause)
