"""Conditions and filters: what they answer, and what is refused with which words."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.expressions.condition import IN_OPERANDS_MAX, Condition, ExpressionKind, parse_condition
from broker.expressions.key_condition import match_keys, parse_key_conditions
from broker.expressions.parser import DEPTH_MAX, EXPRESSION_BYTES_MAX, OPERATORS_MAX
from broker.expressions.placeholders import PLACEHOLDER_BYTES_MAX, Placeholders
from broker.expressions.projection import parse_projection
from broker.expressions.reserved import RESERVED_WORDS
from broker.expressions.update import parse_update
from broker.model.errors import ValidationError
from broker.model.tables import Index, KeyAttribute, KeyAttributeType, ProjectionType, Table
from broker.model.values import Attributes, Value
from tests.unit.expressions.evaluate import Printer, holds, items, trees

NAMES = {"#n": "name", "#d": "a.b", "#m": "m"}
VALUES: dict[str, Value] = {
    ":s": ("S", "a"),
    ":t": ("S", "ab"),
    ":n": ("N", "1"),
    ":m": ("N", "2"),
    ":b": ("BOOL", True),
    ":L": ("L", []),
    ":M": ("S", "M"),
    ":S": ("S", "S"),
    ":x": ("S", "XX"),
}
ITEM: Attributes = {
    "id": ("S", "k"),
    "n": ("N", "10"),
    "name": ("S", "ab"),
    "a.b": ("S", "dotted"),
    "nothing": ("NULL", True),
    "l": ("L", [("N", "1"), ("M", {"x": ("N", "2")})]),
    "m": ("M", {"name": ("S", "inner"), "l": ("L", [])}),
    "ss": ("SS", ("a", "b")),
    "s": ("S", "a"),
}


def condition(text: str, kind: ExpressionKind = ExpressionKind.CONDITION) -> Condition:
    return parse_condition(text, Placeholders(NAMES, VALUES), kind)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("n > :n", True),
        # Not as text.
        ("n > :m", True),
        (":m<n", True),
        ("n = :s", False),
        ("n <> :s", True),
        ("gone = :s", False),
        ("gone <> :s", True),
        ("gone <> gone2", True),
        ("n BETWEEN :n AND :m", False),
        ("n BETWEEN :n AND :m OR s = :s", True),
        ("s between :s and :t and n > :n", True),
        ("s IN (:n, :s)", True),
        ("s IN (:n)", False),
        ("NOT s = :t", True),
        ("not not s = :s", True),
        ("NOT s = :s OR n > :n", True),
        ("NOT (s = :s OR n > :n)", False),
        ("s = :t AND n > :n OR s = :s", True),
        ("s = :t AND (n > :n OR s = :s)", False),
        ("(s) = (:s)", True),
        ("attribute_exists(nothing)", True),
        ("attribute_exists(l[1].x)", True),
        ("attribute_exists ( l [ 1 ] . x )", True),
        ("attribute_not_exists(l[2])", True),
        ("attribute_not_exists(s.x)", True),
        ("attribute_not_exists(s[0])", True),
        ("attribute_exists(#d)", True),
        ("#m.#n = m.#n", None),
        ("#m.#n = :s", False),
        ("attribute_type(m, :M)", True),
        ("attribute_type(l, :M)", False),
        ("attribute_type(:n, :S)", False),
        ("attribute_type(:s, :S)", True),
        ("attribute_type(:S, :S)", True),
        ("attribute_exists(l[4294967294])", False),
        (f"attribute_exists(m{'.x' * 31})", False),
        ("((s = :s) AND (n > :n))", True),
        ("((s) = (:s))", True),
        ("begins_with(#n, :s)", True),
        ("begins_with(#n, :t)", True),
        ("begins_with(s, :t)", False),
        ("contains(#n, :s)", True),
        ("contains(ss, :s)", True),
        ("contains(ss, :n)", False),
        ("contains(l, :n)", True),
        ("size(#n) = :m", True),
        ("size(n) = :m", False),
        ("size(m) = size(ss)", True),
    ],
)
def test_what_conditions_answer(text: str, expected: bool | None) -> None:
    if expected is None:
        with pytest.raises(ValidationError, match="must be distinct"):
            condition(text)
    else:
        assert condition(text).holds(ITEM) is expected


@pytest.mark.parametrize(
    ("text", "units"),
    [("", 0), ("abc", 3), ("na\u00efve", 5), ("\u00e9\U0001d11e", 3), ("\uffff", 1), ("\U00010000", 2)],
)
def test_the_size_of_a_string_is_its_length_in_utf_16_units(text: str, units: int) -> None:
    for size in range(8):
        asked = parse_condition("size(s) = :n", Placeholders({}, {":n": ("N", str(size))}))
        assert asked.holds({"s": ("S", text)}) is (size == units)
    assert parse_condition("size(s) = :n", Placeholders({}, {":n": ("N", "2")})).holds({"s": ("B", b"\xc3\xa9")})


@settings(max_examples=500)
@given(trees, items)
def test_any_condition_answers_as_the_guide_says(tree: object, item: Attributes) -> None:
    printer = Printer()
    text = printer.text(tree)
    try:
        parsed = parse_condition(text, printer.placeholders())
    except ValidationError as refused:
        message = refused.message
    else:
        assert parsed.holds(item) is holds(tree, item), text
        return
    # What is refused is refused for its operands, never for its grammar.
    assert any(word in message for word in ("operand type", "distinct", "BETWEEN operator requires")), text


SYNTAX = "Syntax error; token: "


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "The expression can not be empty;"),
        (" \t\r\n", "The expression can not be empty;"),
        ("s = ", SYNTAX + '"<EOF>", near: "="'),
        ("s = :s :t", SYNTAX + '":t", near: ":s :t"'),
        ("s", SYNTAX + '"<EOF>"'),
        ("s ! :s", SYNTAX + '"!"'),
        ("1s = :s", SYNTAX + '"1"'),
        ("_s = :s", SYNTAX + '"_"'),
        ("s[:n] = :s", SYNTAX + '":n"'),
        ("s[-1] = :s", SYNTAX + '"-"'),
        ("l[4294967295] = :s", "List index is not within the allowable range; index: [4294967295]"),
        (f"l[{'9' * 4000}] = :s", "List index is not within the allowable range; index: [9999"),
        (f"m{'.x' * 32} = :s", "The document path has too many nesting elements; nesting levels: 33"),
        # Further faults of the text are told before it.
        (f"m{'.x' * 32}.name = :s", "Attribute name is a reserved keyword; reserved keyword: name"),
        ("s.  = :s", SYNTAX + '"="'),
        ("(s = :s", SYNTAX + '"<EOF>"'),
        ("s = 1", SYNTAX + '"1"'),
        ("s = 'a'", SYNTAX + '"\'"'),
        ("s = :", SYNTAX + '":"'),
        ("# = :s", SYNTAX + '"#"'),
        ("NOT", SYNTAX + '"<EOF>"'),
        ("s AND n = :n", SYNTAX + '"AND"'),
        ("(s = :s) = :s", SYNTAX),
        ("((s = :s))", "The expression has redundant parentheses;"),
        ("s = ((:s))", "The expression has redundant parentheses;"),
        ("((s)) = :s", "The expression has redundant parentheses;"),
        ("((s = :s)) AND bad(s)", "The expression has redundant parentheses;"),
        ("exists(s)", "Invalid function name; function: exists"),
        ("Attribute_Exists(s)", "Invalid function name; function: Attribute_Exists"),
        ("size(s)", "The function is not allowed to be used this way in an expression; function: size"),
        ("attribute_exists(s) = :s", "is not allowed to be used this way in an expression; function: attribute_exists"),
        ("size(size(s)) = :n", "is not allowed to be used this way in an expression; function: size"),
        ("attribute_exists(s, n)", "operator or function: attribute_exists, number of operands: 2"),
        ("attribute_exists()", "operator or function: attribute_exists, number of operands: 0"),
        ("size(s, n) = :n", "operator or function: size, number of operands: 2"),
        ("s IN ()", "operator or function: IN, number of operands: 1"),
        ("name = :s", "Attribute name is a reserved keyword; reserved keyword: name"),
        ("m.Name = :s", "Attribute name is a reserved keyword; reserved keyword: Name"),
        ("#x = :s", "An expression attribute name used in the document path is not defined; attribute name: #x"),
        ("s = :z", "An expression attribute value used in expression is not defined; attribute value: :z"),
        ("attribute_exists(:s)", "requires a document path; operator or function: attribute_exists"),
        ("attribute_not_exists(:s)", "requires a document path; operator or function: attribute_not_exists"),
        ("attribute_type(:s, :x)", "Invalid attribute type name found; type: XX, valid types: {B,NULL,SS,BOOL,L,"),
        ("attribute_type(s, :x)", "Invalid attribute type name found; type: XX, valid types: {B,NULL,SS,BOOL,L,"),
        ("attribute_type(s, n)", "Invalid attribute type name found"),
        ("attribute_type(s, :n)", "operator or function: attribute_type, operand type: N"),
        ("begins_with(s, :n)", "operator or function: begins_with, operand type: N"),
        ("contains(:n, s)", "operator or function: contains, operand type: N"),
        ("size(:n) = :n", "operator or function: size, operand type: N"),
        ("s < :b", "operator or function: <, operand type: BOOL"),
        ("s BETWEEN :L AND :L", "operator or function: BETWEEN, operand type: L"),
        ("s BETWEEN :s AND :n", "requires same data type for lower and upper bounds; lower bound operand: "),
        ("s BETWEEN :m AND :n", "upper bound operand: AttributeValue: {N:1}"),
        ("s = s", "operator: =, first operand: [s]"),
        ("begins_with(m.l[0], m.l[0])", "operator: begins_with, first operand: [m, l, [0]]"),
    ],
)
def test_what_is_wrong_with_a_condition_is_told(text: str, message: str) -> None:
    for kind, field in ((ExpressionKind.CONDITION, "condition"), (ExpressionKind.FILTER, "filter")):
        with pytest.raises(ValidationError) as refused:
            condition(text, kind)
        assert refused.value.message.startswith(f"Invalid {kind}: ")
        assert message in refused.value.message
        assert refused.value.metadata["field"] == f"{field}_expression"


def test_limits_hold_on_both_sides() -> None:
    padded = "s = :s" + " " * (EXPRESSION_BYTES_MAX - 6)
    assert condition(padded).holds(ITEM)
    with pytest.raises(ValidationError, match=f"maximum allowed size; expression size: {EXPRESSION_BYTES_MAX + 1}"):
        condition(padded + " ")
    # Each is a comparator and an OR but the last.
    for comparisons, is_allowed in ((OPERATORS_MAX // 2, True), (OPERATORS_MAX // 2 + 1, False)):
        text = " OR ".join(["s=:s"] * comparisons)
        if is_allowed:
            assert condition(text).holds(ITEM)
        else:
            with pytest.raises(ValidationError, match=f"operator count: {OPERATORS_MAX + 1}"):
                condition(text)
    for count, is_allowed in ((IN_OPERANDS_MAX, True), (IN_OPERANDS_MAX + 1, False)):
        text = f"s IN ({','.join([':s'] * count)})"
        if is_allowed:
            assert condition(text).holds(ITEM)
        else:
            with pytest.raises(ValidationError, match=f"number of operands: {count + 1}"):
                condition(text)
    for depth, is_allowed in ((DEPTH_MAX, True), (DEPTH_MAX + 1, False), (1000, False)):
        text = "NOT " * depth + "s = :s"
        if is_allowed:
            assert condition(text).holds(ITEM) is (depth % 2 == 0)
        else:
            with pytest.raises(ValidationError, match=f"{DEPTH_MAX} levels"):
                condition(text)


@pytest.mark.parametrize(
    ("names", "values", "field"),
    [
        ({"n": "x"}, {}, "names"),
        ({"#": "x"}, {}, "names"),
        ({"#a b": "x"}, {}, "names"),
        ({"#\u00e9": "x"}, {}, "names"),
        ({"#" + "a" * PLACEHOLDER_BYTES_MAX: "x"}, {}, "names"),
        ({}, {"v": ("N", "1")}, "values"),
        ({}, {"#v": ("N", "1")}, "values"),
    ],
)
def test_a_placeholder_that_no_expression_could_name_is_refused(
    names: dict[str, str], values: dict[str, Value], field: str
) -> None:
    with pytest.raises(ValidationError, match=f"ExpressionAttribute{field.title()} contains invalid key: Syntax error"):
        Placeholders(names, values)


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("", "Empty attribute name"),
        ("n" * 65_536, "Attribute name is too long: limit 65535 bytes"),
        ("\u00e9" * 32_768, "Attribute name is too long: limit 65535 bytes"),
    ],
)
def test_a_name_that_no_attribute_can_have_is_refused(name: str, fault: str) -> None:
    with pytest.raises(ValidationError) as refused:
        Placeholders({"#n": name}, {})
    assert refused.value.message == f"ExpressionAttributeNames contains invalid value: {fault} for key #n"
    assert refused.value.metadata["field"] == "expression_attribute_names"


@pytest.mark.parametrize("name", ["n", "n" * 65_535, "\u00e9" * 32_767 + "n"])
def test_a_name_of_1_to_65535_bytes_is_taken(name: str) -> None:
    assert parse_condition("attribute_exists(#n)", Placeholders({"#n": name}, {})).holds({name: ("N", "1")})


GAMES = Table(
    id=1,
    name="games",
    uuid="games-1",
    create_time_ms=0,
    partition_key=KeyAttribute(name="id", type=KeyAttributeType.STRING),
    sort_key=KeyAttribute(name="venue", type=KeyAttributeType.STRING),
    indexes=(
        Index(
            id=2,
            name="by-team",
            partition_keys=(KeyAttribute(name="team", type=KeyAttributeType.STRING),),
            sort_keys=(KeyAttribute(name="id", type=KeyAttributeType.STRING),),
            projection_type=ProjectionType.KEYS_ONLY,
            is_global=True,
        ),
    ),
)


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("id.x", "Key: id"),
        ("#id[0]", "Key: id"),
        ("venue[0].x", "Key: venue"),
        ("team.x", "IndexKey: team"),
        ("id", None),
        ("team", None),
        ("m.id", None),
        ("l[0]", None),
    ],
)
def test_no_path_leads_into_a_key_attribute(path: str, told: str | None) -> None:
    reads: dict[str, Callable[[Placeholders], object]] = {
        "condition_expression": lambda p: parse_condition(f"attribute_exists({path})", p),
        "filter_expression": lambda p: parse_condition(f"attribute_type({path}, :S)", p, ExpressionKind.FILTER),
        "projection_expression": lambda p: parse_projection(path, p),
        "update_expression": lambda p: parse_update(f"SET fresh = {path}", p, ["id", "venue"]),
    }
    for field, read in reads.items():
        placeholders = Placeholders({"#id": "id"}, VALUES)
        read(placeholders)
        if told is None:
            placeholders.check_keys_are_whole(GAMES)
            continue
        with pytest.raises(ValidationError) as refused:
            placeholders.check_keys_are_whole(GAMES)
        assert refused.value.message == (
            f"Key attributes must be scalars; list random access '[]' and map lookup '.' are not allowed: {told}"
        )
        assert refused.value.metadata["field"] == field


def test_placeholders_are_shared_by_the_expressions_of_a_request_and_must_all_be_used() -> None:
    placeholders = Placeholders({"#a": "a", "#b": "b"}, {":v": ("N", "1"), ":w": ("N", "1")})
    parse_condition("#a = :v", placeholders)
    with pytest.raises(ValidationError) as unused:
        placeholders.check_all_used()
    assert unused.value.message == "Value provided in ExpressionAttributeNames unused in expressions: keys: {#b}"
    parse_condition("#b = :v", placeholders, ExpressionKind.FILTER)
    with pytest.raises(ValidationError, match=r"in ExpressionAttributeValues unused in expressions: keys: \{:w\}"):
        placeholders.check_all_used()
    parse_condition("#b = :w", placeholders)
    placeholders.check_all_used()


def test_the_attributes_that_are_mentioned_are_known() -> None:
    assert condition("#n = :s AND size(m.l[0].id) > :n OR attribute_exists(#d)").names == {"name", "m", "a.b"}


def test_all_reserved_words_are_refused_in_any_case() -> None:
    assert len(RESERVED_WORDS) == 573
    for word in RESERVED_WORDS:
        for spelled in (word, word.lower(), word.title()):
            with pytest.raises(ValidationError):
                condition(f"attribute_exists({spelled})")


@given(st.text(alphabet="abs#:(),.[]=<>+-019 \tANDORNTISE_\u00e9\u0663", max_size=40))
def test_whatever_the_text_nothing_but_a_validation_error_is_raised(text: str) -> None:
    def both() -> Placeholders:
        return Placeholders(NAMES, VALUES)

    for parse in (
        lambda: parse_condition(text, both()),
        lambda: parse_update(text, both(), ["id"]),
        lambda: parse_update(f"SET {text}", both(), ["id"]),
        lambda: parse_projection(text, both()),
        lambda: match_keys(parse_key_conditions(text, both()), ["a"], ["s"]),
    ):
        # Any other error fails the test.
        with suppress(ValidationError):
            parse()
