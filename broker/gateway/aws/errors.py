"""Errors as DynamoDB's clients know them, from the one tree of errors: a name, a message, an HTTP status."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final

from broker.model.errors import HeadraceError, TransactionCanceledError, UnavailableError, cancellation_code

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
    if isinstance(error, UnavailableError):
        return AwsError(_DYNAMODB + "ServiceUnavailable", error.message, HTTPStatus.SERVICE_UNAVAILABLE)
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
