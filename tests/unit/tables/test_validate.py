"""Checks of requests: both sides of each limit, and the field and the limit by name."""

from __future__ import annotations

import pytest

from broker.model.errors import ValidationError
from broker.model.tables import KeyAttribute, KeyAttributeType
from broker.tables.validate import check_key_schema, check_name, check_range, check_table_name, page_limit
from tests.unit.engine import AT, ID


@pytest.mark.parametrize("name", ["abc", "a" * 255, "a.b", "a-b_c", "...", "A09"])
def test_table_names_of_3_to_255_plain_characters_are_taken(name: str) -> None:
    check_table_name(name)


@pytest.mark.parametrize(("name", "limit"), [("", 3), ("ab", 3), ("a" * 256, 255)])
def test_a_table_name_of_another_length_is_refused_with_the_limit_it_breaks(name: str, limit: int) -> None:
    with pytest.raises(ValidationError, match="at least 3 characters long and at most 255") as refused:
        check_table_name(name, "source_table_name")
    assert refused.value.metadata == {"field": "source_table_name", "limit": str(limit)}


@pytest.mark.parametrize("name", ["a b", "ab\n", "a/b", "a:b", "\u00e9\u00e9\u00e9", "abc\x00", "\uff21BC"])
def test_a_table_name_of_other_characters_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="regular expression pattern") as refused:
        check_table_name(name)
    assert refused.value.metadata == {"field": "table_name"}


def test_other_names_have_a_length_of_their_own() -> None:
    check_name("a" * 64, "trigger_name", 64)
    for name in ("", "a" * 65):
        with pytest.raises(ValidationError) as refused:
            check_name(name, "trigger_name", 64)
        assert refused.value.metadata == {"field": "trigger_name", "limit": "64"}


@pytest.mark.parametrize("name", ["a.b", "a:b", "a b", "\u00e9", "a\n"])
def test_other_names_have_no_dots_and_colons(name: str) -> None:
    with pytest.raises(ValidationError, match="pattern"):
        check_name(name, "trigger_name", 64)


@pytest.mark.parametrize(
    ("number", "words", "limit"), [(0, "greater than or equal to 1", 1), (11, "less than or equal to 10", 10)]
)
def test_a_number_out_of_range_is_refused_with_the_bound_it_breaks(number: int, words: str, limit: int) -> None:
    check_range(1, "limit", 1, 10)
    check_range(10, "limit", 1, 10)
    with pytest.raises(ValidationError, match=words) as refused:
        check_range(number, "limit", 1, 10)
    assert refused.value.metadata == {"field": "limit", "limit": str(limit)}


def test_a_page_has_1_to_100_entries() -> None:
    assert [page_limit(None), page_limit(1), page_limit(100)] == [100, 1, 100]
    for limit in (0, -1, 101):
        with pytest.raises(ValidationError):
            page_limit(limit, "page_size")


TYPES: dict[str, str | None] = {"id": "S", "at": "N"}


def test_a_key_is_one_or_two_defined_attributes() -> None:
    assert check_key_schema([("id", "HASH")], {"id": "S"}, 1) == (ID, None)
    assert check_key_schema([("id", "HASH"), ("at", "RANGE")], TYPES, 2) == (ID, AT)
    assert check_key_schema([("b", "HASH")], {"b": "B"}, 1) == (
        KeyAttribute(name="b", type=KeyAttributeType.BINARY),
        None,
    )


@pytest.mark.parametrize(
    ("schema", "types", "count", "words", "field"),
    [
        ([], {}, 0, "1 or 2 elements", "key_schema"),
        ([("id", "HASH"), ("at", "RANGE"), ("x", "RANGE")], TYPES, 2, "1 or 2 elements", "key_schema"),
        ([("id", "RANGE")], {"id": "S"}, 1, "first KeySchemaElement is not a HASH", "key_schema"),
        ([("id", "")], {"id": "S"}, 1, "first KeySchemaElement is not a HASH", "key_schema"),
        ([("id", "HASH"), ("at", "HASH")], TYPES, 2, "second KeySchemaElement is not a RANGE", "key_schema"),
        ([("at", "RANGE"), ("id", "HASH")], TYPES, 2, "first KeySchemaElement is not a HASH", "key_schema"),
        ([("", "HASH")], {"": "S"}, 1, "1 to 255 bytes", "key_schema.attribute_name"),
        ([("\u00e9" * 128, "HASH")], {"\u00e9" * 128: "S"}, 1, "1 to 255 bytes", "key_schema.attribute_name"),
        ([("id", "HASH"), ("id", "RANGE")], {"id": "S"}, 1, "same name", "key_schema"),
        ([("id", "HASH")], {"at": "N"}, 1, "not defined.*Keys: .id.", "attribute_definitions"),
        ([("id", "HASH")], TYPES, 2, "does not exactly match", "attribute_definitions"),
        # The same attribute defined twice.
        ([("id", "HASH")], {"id": "S"}, 2, "does not exactly match", "attribute_definitions"),
        ([("id", "HASH")], {"id": None}, 1, "S, N, B", "attribute_definitions.attribute_type"),
    ],
)
def test_any_other_key_is_refused(
    schema: list[tuple[str, str]], types: dict[str, str | None], count: int, words: str, field: str
) -> None:
    with pytest.raises(ValidationError, match=words) as refused:
        check_key_schema(schema, types, count)
    assert refused.value.metadata["field"] == field


def test_the_name_of_a_key_may_have_255_bytes() -> None:
    name = "\u00e9" * 127 + "a"
    partition_key, _ = check_key_schema([(name, "HASH")], {name: "S"}, 1)
    assert partition_key.name == name
