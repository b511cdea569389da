"""Checks of requests: both sides of each limit, and the field and the limit by name."""

from __future__ import annotations

import pytest

from broker.model.errors import ValidationError
from broker.model.tables import KeyAttribute, KeyAttributeType
from broker.tables.validate import (
    check_attribute_definitions,
    check_key_schema,
    check_name,
    check_range,
    check_table_name,
    page_limit,
    table_name_of,
)
from tests.unit.engine import AT, ID


@pytest.mark.parametrize("name", ["abc", "a" * 255, "a.b", "a-b_c", "...", "A09"])
def test_table_names_of_3_to_255_plain_characters_are_taken(name: str) -> None:
    check_table_name(name)


@pytest.mark.parametrize(("name", "limit"), [("", 3), ("ab", 3), ("a" * 256, 255)])
def test_a_table_name_of_another_length_is_refused_with_the_limit_it_breaks(name: str, limit: int) -> None:
    with pytest.raises(ValidationError, match=f"Member must have length .* than or equal to {limit}$") as refused:
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


TYPES = {"id": KeyAttributeType.STRING, "at": KeyAttributeType.NUMBER}


def test_a_key_is_one_or_two_defined_attributes() -> None:
    assert check_key_schema([("id", "HASH")], TYPES) == ((ID,), ())
    assert check_key_schema([("id", "HASH"), ("at", "RANGE")], TYPES) == ((ID,), (AT,))


@pytest.mark.parametrize(
    ("schema", "words", "field"),
    [
        ([], "length greater than or equal to 1$", "key_schema"),
        ([("id", "HASH"), ("at", "RANGE"), ("x", "RANGE")], "length less than or equal to 2$", "key_schema"),
        ([("id", "RANGE")], "first KeySchemaElement is not a HASH", "key_schema"),
        ([("id", "")], "first KeySchemaElement is not a HASH", "key_schema"),
        ([("id", "HASH"), ("at", "HASH")], "second KeySchemaElement is not a RANGE", "key_schema"),
        ([("at", "RANGE"), ("id", "HASH")], "first KeySchemaElement is not a HASH", "key_schema"),
        ([("", "HASH")], "length greater than or equal to 1$", "key_schema.1.member.attribute_name"),
        ([("\u00e9" * 128, "HASH")], "length less than or equal to 255$", "key_schema.1.member.attribute_name"),
        ([("id", "HASH"), ("id", "RANGE")], "same name", "key_schema"),
        ([("x", "HASH")], "not defined.*Keys: .x., AttributeDefinitions: .id, at.", "attribute_definitions"),
    ],
)
def test_any_other_key_is_refused(schema: list[tuple[str, str]], words: str, field: str) -> None:
    with pytest.raises(ValidationError, match=words) as refused:
        check_key_schema(schema, TYPES)
    assert refused.value.metadata["field"] == field


def global_key(hash_count: int, range_count: int) -> list[tuple[str, str]]:
    return [(f"h{number}", "HASH") for number in range(hash_count)] + [
        (f"r{number}", "RANGE") for number in range(range_count)
    ]


@pytest.mark.parametrize(("hash_count", "range_count"), [(1, 0), (1, 1), (2, 0), (4, 0), (1, 4), (4, 4)])
def test_a_key_of_a_global_index_has_up_to_four_attributes_in_each_part(hash_count: int, range_count: int) -> None:
    schema = global_key(hash_count, range_count)
    types = {name: KeyAttributeType("SNB"[number % 3]) for number, (name, _) in enumerate(schema)}
    attributes = tuple(KeyAttribute(name=name, type=type_) for name, type_ in types.items())
    found = check_key_schema(schema, types, is_global=True)
    assert found == (attributes[:hash_count], attributes[hash_count:])


# Texts as the service gives them.
@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (global_key(5, 0), "The KeySchema exceeds the maximum allowed number of HASH key attributes"),
        (global_key(1, 5), "The KeySchema exceeds the maximum allowed number of RANGE key attributes"),
        (global_key(9, 0), "The KeySchema exceeds the maximum allowed number of HASH key attributes"),
        (
            [("h0", "HASH"), ("r0", "RANGE"), ("h1", "HASH")],
            "All HASH key attributes must precede RANGE key attributes in the KeySchema",
        ),
        ([("r0", "RANGE"), ("h0", "HASH")], "The first KeySchemaElement is not a HASH key type"),
        ([("h0", "HASH"), ("r0", "")], "A KeySchemaElement is not a HASH or RANGE key type"),
        ([("h0", "HASH"), ("h0", "HASH")], "The KeySchema contains multiple key attributes with the same name"),
        (
            [("h0", "HASH"), ("r0", "RANGE"), ("r0", "RANGE")],
            "The KeySchema contains multiple key attributes with the same name",
        ),
        (
            [("h0", "HASH"), ("h0", "RANGE")],
            "Both the Hash Key and the Range Key element in the KeySchema have the same name",
        ),
        ([], "Member must have length greater than or equal to 1"),
    ],
)
def test_any_other_key_of_a_global_index_is_refused(schema: list[tuple[str, str]], message: str) -> None:
    with pytest.raises(ValidationError) as refused:
        check_key_schema(schema, {name: KeyAttributeType.STRING for name, _ in schema}, is_global=True)
    assert refused.value.message.endswith(message)
    assert refused.value.metadata["field"] == "key_schema"


def test_every_attribute_of_a_global_index_needs_a_definition() -> None:
    types = {name: KeyAttributeType.STRING for name, _ in global_key(4, 3)} | {"more": KeyAttributeType.STRING}
    with pytest.raises(ValidationError, match="Some index key attributes are not defined in AttributeDefinitions"):
        check_key_schema(global_key(4, 4), types, is_global=True)


def test_a_key_needs_a_definition_for_each_attribute() -> None:
    with pytest.raises(ValidationError, match="Some index key attribute have no definition"):
        check_key_schema([("id", "HASH"), ("at", "RANGE")], {"id": KeyAttributeType.STRING})


def test_definitions_are_of_three_types_and_each_of_another_attribute() -> None:
    assert check_attribute_definitions([("id", "S"), ("at", "N")]) == TYPES
    assert check_attribute_definitions([("b", "B")]) == {"b": KeyAttributeType.BINARY}
    with pytest.raises(ValidationError, match="S, N, B"):
        check_attribute_definitions([("id", None)])
    with pytest.raises(ValidationError, match=r"Duplicate AttributeDefinition.*id"):
        check_attribute_definitions([("id", "S"), ("id", "S")])


def test_the_name_of_a_key_may_have_255_bytes() -> None:
    name = "\u00e9" * 127 + "a"
    (partition_key,), _ = check_key_schema([(name, "HASH")], {name: KeyAttributeType.STRING})
    assert partition_key.name == name


ARN = "arn:aws:dynamodb:local:000000000000:table/pets"


def test_a_table_is_named_by_its_name_or_its_arn() -> None:
    assert table_name_of("pets", "local") == table_name_of(ARN, "local") == "pets"
    # What no table can be called is told by whoever checks names.
    assert table_name_of("a b", "local") == "a b"


@pytest.mark.parametrize(
    ("arn", "words"),
    [
        (ARN.replace("local", "elsewhere"), "another region or account"),
        (ARN.replace("000000000000", "123456789012"), "another region or account"),
        (ARN.replace("arn:aws:", "arn:aws-us-gov:"), "another region or account"),
        (ARN + "/index/by-age", "Invalid ResourceArn"),
        (ARN.replace("pets", ""), "Invalid ResourceArn"),
        (ARN + "\n", "Invalid ResourceArn"),
        ("arn:", "Invalid ResourceArn"),
        ("arn:" + "x" * 2_000, "Invalid ResourceArn"),
    ],
)
def test_another_arn_names_no_table(arn: str, words: str) -> None:
    with pytest.raises(ValidationError, match=words) as refused:
        table_name_of(arn, "local", "source_table_name")
    assert refused.value.metadata["field"] == "source_table_name"
    assert len(refused.value.message) < 400
