"""Checks of requests that need nothing but the request. Each raises ValidationError naming the field and the limit."""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING, Final

from broker.model.constraints import (
    length_at_least,
    length_at_most,
    matches,
    value_at_least,
    value_at_most,
)
from broker.model.errors import ConstraintError, ValidationError
from broker.model.tables import (
    OPEN_SHARDS_MAX,
    RETENTION_BYTES_MIN,
    RETENTION_SECONDS_MAX,
    ROLL_SECONDS_MAX,
    KeyAttribute,
    KeyAttributeType,
    ProjectionType,
    StreamSettings,
    Throughput,
    table_arn,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence, Sized

TABLE_NAME_LENGTH_MIN: Final = 3
TABLE_NAME_LENGTH_MAX: Final = 255
KEY_NAME_BYTES_MAX: Final = 255
PAGE_SIZE_MAX: Final = 100
# Of a table or a local index; a global index may have more attributes.
KEY_SCHEMA_ELEMENTS_MAX: Final = 2
# Source: Developer Guide, "Multi-attribute keys pattern".
GLOBAL_PARTITION_KEYS_MAX: Final = 4
GLOBAL_SORT_KEYS_MAX: Final = 4
NON_KEY_ATTRIBUTES_MAX: Final = 20
CAPACITY_UNITS_MAX: Final = 10**12
TIME_TO_LIVE_ATTRIBUTE_LENGTH_MAX: Final = 255
TAGS_MAX: Final = 50
TAG_KEY_LENGTH_MAX: Final = 128
TAG_VALUE_LENGTH_MAX: Final = 256
# What fits into a signed field of 64 bits.
BYTES_MAX: Final = 2**63 - 1

# How most of DynamoDB's messages about a parameter begin.
INVALID: Final = "One or more parameter values were invalid: "

_ROLES: Final = ("HASH", "RANGE")

_TABLE_NAME: Final = re.compile(r"[a-zA-Z0-9_.-]+", re.ASCII)
_NAME: Final = re.compile(r"[a-zA-Z0-9_-]+", re.ASCII)
_RESERVED_TAG_PREFIX: Final = "aws:"
# Source: Developer Guide, "Tagging restrictions in DynamoDB": letters, white space, numbers, and a few more.
_TAG_CATEGORIES: Final = frozenset("LZN")
_TAG_CHARACTERS: Final = "+-=._:/@"
# Any partition and account, so that a foreign ARN is told from a malformed one.
_ARN_PREFIX: Final = "arn:"
_TABLE_ARN: Final = re.compile(
    r"arn:[a-z0-9-]+:dynamodb:[a-z0-9-]+:[0-9]{12}:table/(?P<name>[a-zA-Z0-9_.-]+)", re.ASCII
)
# How much of an ARN a message repeats.
_QUOTED_MAX: Final = 200


def check_table_name(name: str, field: str = "table_name") -> None:
    """3 to 255 characters of a-z, A-Z, 0-9, '_', '-' and '.'."""
    check_length(name, field, TABLE_NAME_LENGTH_MIN, TABLE_NAME_LENGTH_MAX)
    if _TABLE_NAME.fullmatch(name) is None:
        raise ConstraintError(name, field, matches(_TABLE_NAME.pattern))


def table_name_of(name_or_arn: str, region: str, field: str = "table_name") -> str:
    """Find the name in what names a table: the name itself, or the table's ARN.

    Raises ValidationError for a malformed ARN, or one of another region or account than this node's.
    """
    if not name_or_arn.startswith(_ARN_PREFIX):
        return name_or_arn
    match = _TABLE_ARN.fullmatch(name_or_arn)
    if match is None:
        raise ValidationError(
            f"Invalid TableArn: Invalid ResourceArn provided as input {name_or_arn[:_QUOTED_MAX]}", field=field
        )
    name = match["name"]
    if table_arn(region, name) != name_or_arn:
        raise ValidationError(
            f"Invalid TableArn: {name_or_arn[:_QUOTED_MAX]} is of another region or account; tables here are "
            f"{table_arn(region, 'NAME')}",
            field=field,
        )
    return name


def check_name(name: str, field: str, length_max: int, pattern: re.Pattern[str] = _NAME) -> None:
    """A name that users choose for a trigger, replica or group."""
    if not 1 <= len(name) <= length_max:
        raise ValidationError(f"{field} must have 1 to {length_max} characters", field=field, limit=length_max)
    if pattern.fullmatch(name) is None:
        raise ValidationError(f"{field} must satisfy regular expression pattern: {pattern.pattern}", field=field)


def check_range(value: int, field: str, least: int, most: int) -> None:
    """A number within bounds."""
    if not least <= value <= most:
        is_small = value < least
        constraint = value_at_least(least) if is_small else value_at_most(most)
        raise ConstraintError(value, field, constraint, limit=least if is_small else most)


def check_length(text: str, field: str, least: int, most: int) -> None:
    """How many characters a text has."""
    check_count(text, field, least, most)


def check_count(content: Sized, field: str, least: int, most: int) -> None:
    """How many elements a list has, or characters a text."""
    if not least <= len(content) <= most:
        is_short = len(content) < least
        constraint = length_at_least(least) if is_short else length_at_most(most)
        raise ConstraintError(content, field, constraint, limit=least if is_short else most)


def page_limit(limit: int | None, field: str = "limit") -> int:
    """The size of a page of a listing: 1 to 100, 100 if absent."""
    if limit is None:
        return PAGE_SIZE_MAX
    check_range(limit, field, 1, PAGE_SIZE_MAX)
    return limit


def check_stream_settings(settings: StreamSettings) -> None:
    """Retention and rolling within their bounds, and shards with 1 <= min_shards <= max_shards <= 64."""
    field = "stream_settings."
    check_range(settings.retention_seconds, field + "retention_period_in_seconds", 1, RETENTION_SECONDS_MAX)
    if settings.retention_bytes:
        check_range(settings.retention_bytes, field + "retention_bytes", RETENTION_BYTES_MIN, BYTES_MAX)
    check_range(settings.min_shards, field + "min_shards", 1, OPEN_SHARDS_MAX)
    check_range(settings.shards_max, field + "max_shards", settings.min_shards, OPEN_SHARDS_MAX)
    check_range(settings.roll_period_seconds, field + "shard_roll_period_in_seconds", 0, ROLL_SECONDS_MAX)


def check_attribute_definitions(definitions: Sequence[tuple[str, str | None]]) -> dict[str, KeyAttributeType]:
    """The types of key attributes by name, from (name, "S", "N" or "B") pairs."""
    types: dict[str, KeyAttributeType] = {}
    for name, letter in definitions:
        if letter is None:
            raise ValidationError(
                f"{INVALID}AttributeType of {name} must be one of [S, N, B]",
                field="attribute_definitions.attribute_type",
            )
        if name in types:
            raise ValidationError(
                f"{INVALID}Duplicate AttributeDefinition: AttributeName: {name}", field="attribute_definitions"
            )
        types[name] = KeyAttributeType(letter)
    return types


def check_key_schema(
    schema: Sequence[tuple[str, str]],
    definitions: Mapping[str, KeyAttributeType],
    *,
    field: str = "key_schema",
    is_global: bool = False,
) -> tuple[tuple[KeyAttribute, ...], tuple[KeyAttribute, ...]]:
    """The attributes of the partition key and those of the sort key, from (name, "HASH" or "RANGE") pairs.

    A table or local index has one attribute in each; a global index has up to four. `field` is the path of the schema
    in the request.
    """
    # In a global index each part has a limit of its own.
    check_count(schema, field, 1, max(1, len(schema)) if is_global else KEY_SCHEMA_ELEMENTS_MAX)
    partition_count = _check_global_key_roles(schema) if is_global else _check_key_roles(schema)
    names = [name for name, _ in schema]
    for number, name in enumerate(names, 1):
        check_attribute_name(name, f"{field}.{number}.member.attribute_name")
    if len(set(names)) != len(names):
        raise ValidationError(
            "Both the Hash Key and the Range Key element in the KeySchema have the same name"
            if [role for _, role in schema] == list(_ROLES)
            else "The KeySchema contains multiple key attributes with the same name",
            field="key_schema",
        )
    if not definitions.keys() >= set(names):
        if len(definitions) < len(names):
            raise ValidationError(
                "Invalid KeySchema: Some index key attribute have no definition", field="attribute_definitions"
            )
        raise ValidationError(
            f"{INVALID}Some index key attributes are not defined in AttributeDefinitions. Keys: [{', '.join(names)}], "
            f"AttributeDefinitions: [{', '.join(definitions)}]",
            field="attribute_definitions",
        )
    attributes = tuple(KeyAttribute(name=name, type=definitions[name]) for name in names)
    return attributes[:partition_count], attributes[partition_count:]


def _check_key_roles(schema: Sequence[tuple[str, str]]) -> int:
    for (_, role), wanted, which in zip(schema, _ROLES, ("first", "second"), strict=False):
        if role != wanted:
            raise ValidationError(
                f"Invalid KeySchema: The {which} KeySchemaElement is not a {wanted} key type", field="key_schema"
            )
    return 1


def _check_global_key_roles(schema: Sequence[tuple[str, str]]) -> int:
    """How many attributes the partition key has; they come first."""
    roles = [role for _, role in schema]
    if roles[0] != _ROLES[0]:
        raise ValidationError(
            "Invalid KeySchema: The first KeySchemaElement is not a HASH key type", field="key_schema"
        )
    if not set(roles) <= set(_ROLES):
        raise ValidationError(
            "Invalid KeySchema: A KeySchemaElement is not a HASH or RANGE key type", field="key_schema"
        )
    partition_count = roles.count(_ROLES[0])
    if _ROLES[0] in roles[partition_count:]:
        raise ValidationError(
            f"{INVALID}All HASH key attributes must precede RANGE key attributes in the KeySchema", field="key_schema"
        )
    for role, most in zip(_ROLES, (GLOBAL_PARTITION_KEYS_MAX, GLOBAL_SORT_KEYS_MAX), strict=True):
        if roles.count(role) > most:
            raise ValidationError(
                f"{INVALID}The KeySchema exceeds the maximum allowed number of {role} key attributes",
                field="key_schema",
                limit=most,
            )
    return partition_count


def check_definitions_used(definitions: Collection[str], used: Collection[str], *, has_indexes: bool) -> None:
    """Only attributes that are keys of the table or its indexes are defined."""
    if set(definitions) <= set(used):
        return
    if has_indexes:
        raise ValidationError(
            f"{INVALID}Some AttributeDefinitions are not used. AttributeDefinitions: [{', '.join(definitions)}], "
            f"keys used: [{', '.join(used)}]",
            field="attribute_definitions",
        )
    raise ValidationError(
        f"{INVALID}Number of attributes in KeySchema does not exactly match number of attributes defined in "
        "AttributeDefinitions",
        field="attribute_definitions",
        limit=len(used),
    )


def check_attribute_name(name: str, field: str) -> None:
    """The name of an attribute that a definition mentions: 1 to 255 bytes."""
    size = len(name.encode())
    if not 1 <= size <= KEY_NAME_BYTES_MAX:
        constraint = length_at_most(KEY_NAME_BYTES_MAX) if size else length_at_least(1)
        raise ConstraintError(name, field, constraint, limit=KEY_NAME_BYTES_MAX if size else 1)


def check_projection(projection_type: ProjectionType | None, non_key_attributes: Sequence[str]) -> ProjectionType:
    """What an index shall hold: with INCLUDE 1 to 20 names, none otherwise."""
    field = "projection.non_key_attributes"
    if projection_type is None:
        raise ValidationError(f"{INVALID}Unknown ProjectionType: null", field="projection.projection_type")
    if projection_type is not ProjectionType.INCLUDE:
        if non_key_attributes:
            raise ValidationError(
                f"{INVALID}ProjectionType is {projection_type}, but NonKeyAttributes is specified", field=field
            )
        return projection_type
    if not non_key_attributes:
        raise ValidationError(f"{INVALID}ProjectionType is INCLUDE, but NonKeyAttributes is not specified", field=field)
    check_count(non_key_attributes, field, 1, NON_KEY_ATTRIBUTES_MAX)
    for name in non_key_attributes:
        check_attribute_name(name, field)
    if len(set(non_key_attributes)) != len(non_key_attributes):
        raise ValidationError(f"{INVALID}NonKeyAttributes has the same name twice", field=field)
    return projection_type


def check_throughput(throughput: Throughput, *, is_provisioned: bool, index_name: str = "") -> None:
    """What is to be provisioned for a table, or one of its indexes: both units from 1 to 10^12, if anything at all."""
    if not is_provisioned:
        raise ValidationError(
            f"{INVALID}ProvisionedThroughput should not be specified for index: {index_name} when BillingMode is "
            "PAY_PER_REQUEST"
            if index_name
            else f"{INVALID}Neither ReadCapacityUnits nor WriteCapacityUnits can be specified when BillingMode is "
            "PAY_PER_REQUEST",
            field="provisioned_throughput",
        )
    for field, name, units in (
        ("read_capacity_units", "ReadCapacityUnits", throughput.read_units),
        ("write_capacity_units", "WriteCapacityUnits", throughput.write_units),
    ):
        path = f"provisioned_throughput.{field}"
        if units > CAPACITY_UNITS_MAX:
            of_index = f" for index {index_name}" if index_name else ""
            raise ValidationError(
                f"Given value {units} for {name} is out of bounds{of_index}", field=path, limit=CAPACITY_UNITS_MAX
            )
        check_range(units, path, 1, CAPACITY_UNITS_MAX)


def check_tags(pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Tags by key, from (key, value) pairs."""
    tags: dict[str, str] = {}
    for key, value in pairs:
        check_tag_key(key)
        check_length(value, "tags.value", 0, TAG_VALUE_LENGTH_MAX)
        _check_tag_text(key, "keys", "tags.key")
        _check_tag_text(value, "values", "tags.value")
        if key in tags:
            raise ValidationError(f"{INVALID}Duplicate tag key: {key}", field="tags.key")
        tags[key] = value
    return tags


def check_tag_key(key: str, field: str = "tags.key") -> None:
    """1 to 128 characters."""
    check_length(key, field, 1, TAG_KEY_LENGTH_MAX)


def _check_tag_text(text: str, what: str, field: str) -> None:
    """The characters of a tag's key or value, and how it may not begin."""
    if text[: len(_RESERVED_TAG_PREFIX)].lower() == _RESERVED_TAG_PREFIX:
        raise ValidationError(
            f"{INVALID}Tag {what} must not begin with '{_RESERVED_TAG_PREFIX}', as {text!r} does", field=field
        )
    for character in text:
        if unicodedata.category(character)[0] not in _TAG_CATEGORIES and character not in _TAG_CHARACTERS:
            raise ValidationError(
                f"{INVALID}Tag {what} may have letters, white space, numbers and {_TAG_CHARACTERS}, found "
                f"{character!r}: {text}",
                field=field,
            )
