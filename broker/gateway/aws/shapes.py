"""The shapes of a request's JSON: what is not what its operation says is refused, as AWS's framework does."""

from __future__ import annotations

from typing import Any

from broker.model.errors import SerializationError, ValidationError


def required(request: dict[str, Any], name: str) -> Any:
    """A member that must be there."""
    content = request.get(name)
    if content is None:
        raise ValidationError(
            f"1 validation error detected: Value null at '{name[0].lower()}{name[1:]}' failed to satisfy constraint: "
            "Member must not be null",
            field=name,
        )
    return content


def structure(content: Any, name: str) -> dict[str, Any]:
    """A structure or map, found at a member."""
    if not isinstance(content, dict):
        raise unexpected(content, name)
    return content


def elements(content: Any, name: str) -> list[Any]:
    """A list, found at a member."""
    if not isinstance(content, list):
        raise unexpected(content, name)
    return content


def string(content: Any, name: str) -> str:
    """A string, found at a member."""
    if not isinstance(content, str):
        raise unexpected(content, name)
    return content


def unexpected(content: Any, name: str) -> SerializationError:
    """Another JSON type than a member's."""
    return SerializationError(f"Unexpected {type(content).__name__} at {name}")
