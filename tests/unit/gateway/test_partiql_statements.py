"""PartiQL's text to trees: what is written is what is meant, and what is none is refused."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.gateway.aws.partiql.statements import (
    DEPTH_MAX,
    STATEMENT_CHARACTERS_MAX,
    And,
    Comparison,
    Delete,
    Exists,
    Function,
    In,
    Insert,
    Is,
    ListOf,
    MapOf,
    Not,
    Or,
    Parameter,
    Path,
    Scalar,
    Select,
    SetOf,
    Update,
    parse_statement,
)
from broker.model.errors import ValidationError

_ONE = Scalar("N", "1")
_KEY_IS_X = Comparison("=", Path(("pk",)), Scalar("S", "x"))


def test_a_select_has_paths_an_index_conditions_and_an_order() -> None:
    text = 'select a.b[0], "c ""d" FROM "t"."i" WHERE pk = ? AND (x IN [1, -2] OR y IS NOT MISSING) ORDER BY s DESC'
    where = And(
        (
            Comparison("=", Path(("pk",)), Parameter(0)),
            Or((In(Path(("x",)), (_ONE, Scalar("N", "-2"))), Not(Is(Path(("y",)), "MISSING")))),
        )
    )
    select = Select("t", "i", (Path(("a", "b", 0)), Path(('c "d',))), where, ((Path(("s",)), True),))
    assert parse_statement(text) == (select, 1)


def test_an_insert_has_a_value_of_any_type() -> None:
    text = "INSERT INTO t VALUE {'a': 'it''s', 'b': <<1>>, 'c': [TRUE, null, {}], 'd': ?}"
    entries = (
        ("a", Scalar("S", "it's")),
        ("b", SetOf((_ONE,))),
        ("c", ListOf((Scalar("BOOL", value=True), Scalar("NULL", value=True), MapOf(())))),
        ("d", Parameter(0)),
    )
    assert parse_statement(text) == (Insert("t", MapOf(entries)), 1)


def test_an_update_sets_removes_and_returns() -> None:
    text = "UPDATE t SET a = a + 1 SET l = list_append(l, [1]) REMOVE b WHERE pk = 'x' RETURNING MODIFIED NEW *"
    sets = (
        (Path(("a",)), Function("+", (Path(("a",)), _ONE))),
        (Path(("l",)), Function("list_append", (Path(("l",)), ListOf((_ONE,))))),
    )
    assert parse_statement(text) == (Update("t", sets, (Path(("b",)),), _KEY_IS_X, "UPDATED_NEW"), 0)


def test_a_delete_may_return_the_old_item() -> None:
    assert parse_statement("DELETE FROM t WHERE pk='x' RETURNING ALL OLD *")[0] == Delete("t", _KEY_IS_X, "ALL_OLD")


def test_exists_holds_a_select() -> None:
    expected = Exists(Select("t", None, (), _KEY_IS_X, ()))
    assert parse_statement("EXISTS(SELECT * FROM t WHERE pk = 'x')")[0] == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "SELECT",
        "SELECT * FROM t WHERE a",
        "SELECT * FROM t;",
        "SELECT * FROM t WHERE a = 'open",
        "INSERT INTO t VALUE {'a': 1, 'a': 2}",
        "UPDATE t WHERE pk = 'x'",
        "DELETE FROM t",
        "SELECT * FROM t WHERE " + "(" * (DEPTH_MAX + 1),
        "INSERT INTO t VALUE " + "[" * (DEPTH_MAX + 1),
        "SELECT " + "t" * STATEMENT_CHARACTERS_MAX,
    ],
)
def test_what_is_no_statement_is_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        parse_statement(text)


@given(st.text(max_size=60))
def test_any_string_is_read_as_it_was_quoted(content: str) -> None:
    quoted = content.replace("'", "''")
    assert parse_statement(f"INSERT INTO t VALUE '{quoted}'")[0] == Insert("t", Scalar("S", content))


@given(st.text(max_size=60))
def test_any_condition_is_read_or_refused(text: str) -> None:
    with suppress(ValidationError):
        parse_statement(f"EXISTS(SELECT * FROM t WHERE {text}")  # noqa: S608 - nobody runs it
