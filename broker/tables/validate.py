"""Checks of requests that need nothing but the request. Each raises ValidationError naming the field and the limit."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from broker.model.errors import ValidationError
from broker.model.tables import (
    OPEN_SHARDS_MAX,
    RETENTION_BYTES_MIN,
    RETENTION_SECONDS_MAX,
    KeyAttribute,
    KeyAttributeType,
    StreamSettings,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TABLE_NAME_LENGTH_MIN: Final = 3
TABLE_NAME_LENGTH_MAX: Final = 255
KEY_NAME_BYTES_MAX: Final = 255
PAGE_SIZE_MAX: Final = 100
KEY_SCHEMA_ELEMENTS_MAX: Final = 2
# What fits into a signed field of 64 bits.
BYTES_MAX: Final = 2**63 - 1

_TABLE_NAME: Final = re.compile(r"[a-zA-Z0-9_.-]+", re.ASCII)
_NAME: Final = re.compile(r"[a-zA-Z0-9_-]+", re.ASCII)
_OOM: Final = "One or more parameter values were invalid: "


def check_table_name(name: str, field: str = "table_name") -> None:
    """3 to 255 characters of a-z, A-Z, 0-9, '_', '-' and '.'."""
    if not TABLE_NAME_LENGTH_MIN <= len(name) <= TABLE_NAME_LENGTH_MAX:
        raise ValidationError(
            f"{field} must be at least {TABLE_NAME_LENGTH_MIN} characters long and at most {TABLE_NAME_LENGTH_MAX} "
            "characters long",
            field=field,
            limit=TABLE_NAME_LENGTH_MIN if len(name) < TABLE_NAME_LENGTH_MIN else TABLE_NAME_LENGTH_MAX,
        )
    if _TABLE_NAME.fullmatch(name) is None:
        raise ValidationError(
            f"Value {name!r} at {field} failed to satisfy constraint: Member must satisfy regular expression pattern: "
            f"{_TABLE_NAME.pattern}",
            field=field,
        )


def check_name(name: str, field: str, length_max: int, pattern: re.Pattern[str] = _NAME) -> None:
    """A name that users choose for a trigger, replica or group."""
    if not 1 <= len(name) <= length_max:
        raise ValidationError(f"{field} must have 1 to {length_max} characters", field=field, limit=length_max)
    if pattern.fullmatch(name) is None:
        raise ValidationError(f"{field} must satisfy regular expression pattern: {pattern.pattern}", field=field)


def check_range(value: int, field: str, least: int, most: int) -> None:
    """A number within bounds."""
    if not least <= value <= most:
        bound, limit = ("greater", least) if value < least else ("less", most)
        raise ValidationError(
            f"Value {value} at {field} failed to satisfy constraint: Member must have value {bound} than or equal to "
            f"{limit}",
            field=field,
            limit=limit,
        )


def page_limit(limit: int | None, field: str = "limit") -> int:
    """The size of a page of a listing: 1 to 100, 100 if absent."""
    if limit is None:
        return PAGE_SIZE_MAX
    check_range(limit, field, 1, PAGE_SIZE_MAX)
    return limit


def check_stream_settings(settings: StreamSettings) -> None:
    """Retention within its bounds, and shards with 1 <= min_shards <= max_shards <= 64."""
    field = "stream_settings."
    check_range(settings.retention_seconds, field + "retention_period_in_seconds", 1, RETENTION_SECONDS_MAX)
    if settings.retention_bytes:
        check_range(settings.retention_bytes, field + "retention_bytes", RETENTION_BYTES_MIN, BYTES_MAX)
    check_range(settings.min_shards, field + "min_shards", 1, OPEN_SHARDS_MAX)
    check_range(settings.shards_max, field + "max_shards", settings.min_shards, OPEN_SHARDS_MAX)


def check_key_schema(
    schema: Sequence[tuple[str, str]], definitions: Mapping[str, str | None], definition_count: int
) -> tuple[KeyAttribute, KeyAttribute | None]:
    """The key of a new table, from (name, "HASH" or "RANGE") pairs and the types by name."""
    if not 1 <= len(schema) <= KEY_SCHEMA_ELEMENTS_MAX:
        raise ValidationError(
            f"{_OOM}key_schema must have 1 or {KEY_SCHEMA_ELEMENTS_MAX} elements",
            field="key_schema",
            limit=KEY_SCHEMA_ELEMENTS_MAX,
        )
    for (name, role), wanted, which in zip(schema, ("HASH", "RANGE"), ("first", "second"), strict=False):
        if role != wanted:
            raise ValidationError(
                f"Invalid KeySchema: The {which} KeySchemaElement is not a {wanted} key type", field="key_schema"
            )
        if not 1 <= len(name.encode()) <= KEY_NAME_BYTES_MAX:
            raise ValidationError(
                f"{_OOM}attribute_name of a key must have 1 to {KEY_NAME_BYTES_MAX} bytes",
                field="key_schema.attribute_name",
                limit=KEY_NAME_BYTES_MAX,
            )
    names = [name for name, _ in schema]
    if len(set(names)) != len(names):
        raise ValidationError(
            "Both the Hash Key and the Range Key element in the KeySchema have the same name", field="key_schema"
        )
    missing = sorted(set(names) - set(definitions))
    if missing:
        raise ValidationError(
            f"{_OOM}Some index key attributes are not defined in AttributeDefinitions. Keys: [{', '.join(missing)}], "
            f"AttributeDefinitions: [{', '.join(sorted(definitions))}]",
            field="attribute_definitions",
        )
    if definition_count != len(names):
        raise ValidationError(
            f"{_OOM}Number of attributes in KeySchema does not exactly match number of attributes defined in "
            "AttributeDefinitions",
            field="attribute_definitions",
            limit=len(names),
        )
    attributes = []
    for name in names:
        letter = definitions[name]
        if letter is None:
            raise ValidationError(
                f"{_OOM}attribute_type of {name} must satisfy enum value set: [S, N, B]",
                field="attribute_definitions.attribute_type",
            )
        attributes.append(KeyAttribute(name=name, type=KeyAttributeType(letter)))
    return attributes[0], attributes[1] if len(attributes) > 1 else None
