"""Expressions: what this version reads, and that it refuses the rest by name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.expressions.condition import AttributeExists, Condition
from broker.expressions.parse import EXPRESSION_BYTES_MAX, Placeholders, parse_condition, parse_update
from broker.expressions.reserved import RESERVED_WORDS
from broker.expressions.update import Update
from broker.model.errors import ValidationError
from broker.model.values import Value

ONE: Value = ("N", "1")
TWO: Value = ("S", "two")


def placeholders(names: dict[str, str] | None = None, values: dict[str, Value] | None = None) -> Placeholders:
    return Placeholders(names=names or {}, values=values or {":one": ONE, ":two": TWO})


def condition(text: str, **names: str) -> Condition:
    return parse_condition(text, placeholders({f"#{short}": name for short, name in names.items()}))


def update(text: str, **names: str) -> Update:
    return parse_update(text, placeholders({f"#{short}": name for short, name in names.items()}))


def exists(name: str) -> AttributeExists:
    return AttributeExists(name=name, exists=True)


def missing(name: str) -> AttributeExists:
    return AttributeExists(name=name, exists=False)


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("attribute_exists(id)", (exists("id"),)),
        ("attribute_not_exists(id)", (missing("id"),)),
        ("  attribute_exists ( id )  ", (exists("id"),)),
        ("attribute_exists(a)AND attribute_not_exists(b)", (exists("a"), missing("b"))),
        (
            "attribute_exists(a) and attribute_exists(b) And attribute_exists(a)",
            (exists("a"), exists("b"), exists("a")),
        ),
        ("attribute_exists(_x1)\n AND\tattribute_exists(#n)", (exists("_x1"), exists("the name"))),
    ],
)
def test_conditions_are_read(text: str, terms: tuple[AttributeExists, ...]) -> None:
    assert condition(text, n="the name") == Condition(terms=terms)


@pytest.mark.parametrize(
    ("text", "sets", "removes"),
    [
        ("SET a = :one", {"a": ONE}, set()),
        ("set a=:one,b=:two", {"a": ONE, "b": TWO}, set()),
        ("REMOVE a", {}, {"a"}),
        ("remove a , b", {}, {"a", "b"}),
        ("SET a = :one REMOVE b, c", {"a": ONE}, {"b", "c"}),
        ("Remove b Set a = :one", {"a": ONE}, {"b"}),
        ("SET #n = :one REMOVE a", {"the name": ONE}, {"a"}),
    ],
)
def test_updates_are_read(text: str, sets: dict[str, Value], removes: set[str]) -> None:
    assert update(text, n="the name") == Update(sets=sets, removes=frozenset(removes))


@pytest.mark.parametrize(
    "text",
    [
        "attribute_exists",
        "attribute_exists(",
        "attribute_exists()",
        "attribute_exists(a",
        "attribute_exists(a))",
        "(attribute_exists(a))",
        "attribute_exists(a) AND",
        "AND attribute_exists(a)",
        "attribute_exists(a) attribute_exists(b)",
        "attribute_exists(a) AND AND attribute_exists(b)",
        "attribute_exists(a, b)",
        "attribute_exists(a) OR attribute_exists(b)",
        "NOT attribute_exists(a)",
        "attribute_exists(a.b)",
        "attribute_exists(a[0])",
        "attribute_exists(:one)",
        "attribute_exists(1)",
        "attribute_exists(1a)",
        "attribute_exists(#)",
        "a = :one",
        "size(a)",
        # Function names are case-sensitive, unlike keywords.
        "ATTRIBUTE_EXISTS(a)",
        "begins_with(a, :two)",
        "\x00",
        ";",
    ],
)
def test_other_conditions_are_refused(text: str) -> None:
    with pytest.raises(ValidationError, match="Invalid ConditionExpression") as refused:
        condition(text)
    assert refused.value.metadata["field"] == "condition_expression"


@pytest.mark.parametrize(
    "text",
    [
        "SET",
        "SET a",
        "SET a =",
        "SET a = one",
        "SET a = a",
        "SET a = 1",
        "SET = :one",
        "SET a == :one",
        "SET a = :one,",
        "SET a = :one REMOVE",
        "SET a = :one, REMOVE b",
        "SET a = :one b = :two",
        "SET a = :one SET b = :two",
        "REMOVE a REMOVE b",
        "REMOVE a b",
        "REMOVE :one",
        "ADD a :one",
        "DELETE a :one",
        "SET a.b = :one",
        "SET a[0] = :one",
        "SET a = :one + :one",
        "SET a = :one - :one",
        "SET a = if_not_exists(a, :one)",
        "a = :one",
        ":one",
    ],
)
def test_other_updates_are_refused(text: str) -> None:
    with pytest.raises(ValidationError, match="Invalid UpdateExpression") as refused:
        update(text)
    assert refused.value.metadata["field"] == "update_expression"


@pytest.mark.parametrize("text", ["", " ", "\n\t"])
def test_an_empty_expression_is_refused(text: str) -> None:
    with pytest.raises(ValidationError, match="can not be empty"):
        condition(text)
    with pytest.raises(ValidationError, match="can not be empty"):
        update(text)


@pytest.mark.parametrize(
    "text", ["SET a = :one, a = :two", "REMOVE a, a", "SET a = :one REMOVE a", "SET #n = :one, a = :two"]
)
def test_an_attribute_may_be_changed_once(text: str) -> None:
    with pytest.raises(ValidationError, match=r"overlap with each other.*\[a\]"):
        update(text, n="a")


@pytest.mark.parametrize("word", ["status", "NAME", "Set", "and"])
def test_a_reserved_word_stands_only_behind_a_placeholder(word: str) -> None:
    for refuse in (lambda: condition(f"attribute_exists({word})"), lambda: update(f"SET {word} = :one")):
        with pytest.raises(ValidationError, match=f"reserved keyword: {word}"):
            refuse()
    assert update("SET #w = :one", w=word).sets == {word: ONE}


def test_all_reserved_words_of_dynamodb_are_known() -> None:
    assert len(RESERVED_WORDS) == 573
    assert all(word == word.upper() for word in RESERVED_WORDS)
    assert "ID" not in RESERVED_WORDS


def test_unknown_placeholders_are_refused_by_name() -> None:
    with pytest.raises(ValidationError, match=r"attribute name used .* is not defined; attribute name: #x"):
        condition("attribute_exists(#x)", y="a")
    with pytest.raises(ValidationError, match=r"attribute value used .* is not defined; attribute value: :three"):
        update("SET a = :three")


def test_placeholders_that_no_expression_uses_are_refused() -> None:
    given_names = placeholders({"#a": "a", "#b": "b", "#c": "c"}, {":one": ONE})
    parse_update("SET #a = :one", given_names)
    parse_condition("attribute_exists(#b)", given_names)
    with pytest.raises(ValidationError, match=r"ExpressionAttributeNames unused .* keys: \{#c\}") as refused:
        given_names.check_all_used()
    assert refused.value.metadata["field"] == "expression_attribute_names"


def test_unused_values_are_refused_all_at_once() -> None:
    given_values = placeholders({}, {":b": TWO, ":a": ONE, ":used": ONE})
    parse_update("SET a = :used", given_values)
    with pytest.raises(ValidationError, match=r"ExpressionAttributeValues unused .* keys: \{:a, :b\}") as refused:
        given_values.check_all_used()
    assert refused.value.metadata["field"] == "expression_attribute_values"


def test_nothing_is_unused_when_all_are_used() -> None:
    all_used = placeholders({"#a": "a"}, {":one": ONE})
    parse_update("SET #a = :one, b = :one", all_used)
    all_used.check_all_used()


def test_an_expression_may_have_4096_bytes_and_no_more() -> None:
    start = "REMOVE "
    longest = start + "a" * (EXPRESSION_BYTES_MAX - len(start))
    assert len(update(longest).removes) == 1
    with pytest.raises(ValidationError, match="maximum allowed size") as refused:
        update(longest + " ")
    assert refused.value.metadata == {"field": "update_expression", "limit": "4096"}


def test_the_limit_of_an_expression_is_on_bytes() -> None:
    with pytest.raises(ValidationError, match="maximum allowed size"):
        condition("\u00e9" * 2049)


@given(st.text(alphabet="abS#:=,()[]. \nETREMOVAND_1\u00e9", max_size=40) | st.text(max_size=20))
def test_any_text_is_read_or_refused(text: str) -> None:
    for parse in (parse_condition, parse_update):
        try:
            parse(text, placeholders({"#a": "a"}))
        except ValidationError as refused:
            assert refused.message.startswith("Invalid ")  # noqa: PT017 - both outcomes are right
