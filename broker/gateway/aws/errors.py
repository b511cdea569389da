"""Errors as DynamoDB's clients know them, from the one tree of errors: a name, a message, an HTTP status."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Final

from broker.model.errors import (
    ConstraintError,
    DataLossError,
    DiskFullError,
    HeadraceError,
    TableNotFoundError,
    TransactionCanceledError,
    UnavailableError,
    cancellation_code,
    described_fault,
)

_DYNAMODB: Final = "com.amazonaws.dynamodb.v20120810#"
# What AWS's framework refuses before DynamoDB sees it.
_FRAMEWORK: Final = "com.amazon.coral.service#"
_OF_FRAMEWORK: Final = frozenset(
    (
        "SERIALIZATION",
        "UNKNOWN_OPERATION",
        "MISSING_AUTHENTICATION_TOKEN",
        "INCOMPLETE_SIGNATURE",
        "UNRECOGNIZED_CLIENT",
        "INVALID_SIGNATURE",
    )
)


class AwsError(Exception):
    """A call that failed, as its caller is told; `members` is what the error has besides its type and message."""

    def __init__(
        self, type_: str, message: str, status: int = HTTPStatus.BAD_REQUEST, members: dict[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.type = type_
        self.message = message
        self.status = status
        self.members = members or {}

    @property
    def name(self) -> str:
        """The type without where it is of."""
        return self.type.rpartition("#")[2]

    @property
    def body(self) -> dict[str, Any]:
        """The response."""
        return {"__type": self.type, "message": self.message, **self.members}


def translate(error: HeadraceError) -> AwsError:
    """An error of the engine as DynamoDB's of the same reason."""
    if isinstance(error, DataLossError):
        return internal_error(error.message)
    if isinstance(error, UnavailableError | DiskFullError):
        return AwsError(_DYNAMODB + "ServiceUnavailable", error.message, HTTPStatus.SERVICE_UNAVAILABLE)
    if isinstance(error, ConstraintError):
        path = ".".join(map(_camel, error.field.split(".")))
        return validation_errors([described_fault(error.value, path, error.constraint)])
    if isinstance(error, TableNotFoundError):
        return AwsError(_DYNAMODB + "ResourceNotFoundException", "Requested resource not found")
    origin = _FRAMEWORK if error.reason in _OF_FRAMEWORK else _DYNAMODB
    name = "".join(word.capitalize() for word in error.reason.split("_")) + "Exception"
    members: dict[str, Any] = {}
    if isinstance(error, TransactionCanceledError):
        reasons = [
            {"Code": cancellation_code(cause), **({} if cause is None else {"Message": cause.message})}
            for cause in error.causes
        ]
        members = transaction_members(error.message, reasons)
    return AwsError(origin + name, error.message, members=members)


def validation_errors(faults: Sequence[str]) -> AwsError:
    """A request of which some values break constraints, each described as `described_fault` does."""
    errors = "error" if len(faults) == 1 else "errors"
    message = f"{len(faults)} validation {errors} detected: {'; '.join(faults)}"
    return AwsError(_DYNAMODB + "ValidationException", message)


def lower_first(name: str) -> str:
    """Write the name of a member as it stands in a path."""
    return name[:1].lower() + name[1:]


def _camel(field_name: str) -> str:
    """Write the name of a field of ours as AWS writes that of its member."""
    return lower_first("".join(map(str.capitalize, field_name.split("_"))))


def table_to_describe_not_found(name: str) -> AwsError:
    """A table that is not there, as the operations on tables tell it; those on items do not name it."""
    return AwsError(_DYNAMODB + "ResourceNotFoundException", f"Requested resource not found: Table: {name} not found")


def table_to_back_up_not_found(name: str) -> AwsError:
    """A table that is not there, as the operations on backups tell it."""
    return AwsError(_DYNAMODB + "TableNotFoundException", f"Table not found: {name}")


def framework_error(name: str, message: str, status: int) -> AwsError:
    """What AWS's framework refuses before DynamoDB sees it, besides what the engine has an error for."""
    return AwsError(_FRAMEWORK + name, message, status)


def access_denied(message: str) -> AwsError:
    """Build the refusal of a caller that may not call at all."""
    return framework_error("AccessDeniedException", message, HTTPStatus.FORBIDDEN)


def conditional_check_failed(item: dict[str, Any] | None) -> AwsError:
    """A condition that does not hold, with the item for which it does not."""
    return AwsError(
        _DYNAMODB + "ConditionalCheckFailedException",
        "The conditional request failed",
        members={} if item is None else {"Item": item},
    )


def duplicate_item() -> AwsError:
    """An item to insert that is there already."""
    return AwsError(_DYNAMODB + "DuplicateItemException", "Duplicate primary key exists in table")


def policy_not_found(arn: str) -> AwsError:
    """A table or stream to which no policy is attached."""
    message = f"Resource-based policy not found for the provided ResourceArn: {arn}"
    return AwsError(_DYNAMODB + "PolicyNotFoundException", message)


def transaction_canceled(reasons: list[dict[str, Any]]) -> AwsError:
    """A transaction that was cancelled for these reasons."""
    codes = ", ".join(reason["Code"] for reason in reasons)
    message = f"Transaction cancelled, please refer cancellation reasons for specific reasons [{codes}]"
    return AwsError(_DYNAMODB + "TransactionCanceledException", message, members=transaction_members(message, reasons))


def transaction_members(message: str, reasons: list[dict[str, Any]]) -> dict[str, Any]:
    """What a cancelled transaction tells; this one error has its message under a capital letter too."""
    return {"Message": message, "CancellationReasons": reasons}


def internal_error(message: str) -> AwsError:
    """A fault of ours."""
    return AwsError(_DYNAMODB + "InternalServerError", message, HTTPStatus.INTERNAL_SERVER_ERROR)
