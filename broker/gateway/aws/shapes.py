"""The shapes of a request's JSON: what is not what its operation says is refused, as AWS's framework does."""

from __future__ import annotations

from typing import Any

from broker.model.errors import SerializationError


def structure(content: Any, name: str) -> dict[str, Any]:
    """A structure or map, found at a member."""
    if not isinstance(content, dict):
        raise unexpected(content, name)
    return content


def unexpected(content: Any, name: str) -> SerializationError:
    """Another JSON type than a member's."""
    return SerializationError(f"Unexpected {type(content).__name__} at {name}")
