"""Updates: what they make of an item, what they return of it, and what is refused with which words."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.expressions.placeholders import Placeholders
from broker.expressions.update import NO_UPDATE, Update, parse_update
from broker.model.errors import ValidationError
from broker.model.values import Attributes, Value

NAMES = {"#n": "name", "#d": "a.b"}
VALUES: dict[str, Value] = {
    ":s": ("S", "new"),
    ":one": ("N", "1"),
    ":half": ("N", "-0.5"),
    ":ss": ("SS", ("b", "c")),
    ":ns": ("NS", ("1",)),
    ":l": ("L", [("S", "x")]),
    ":big": ("N", "1" + "0" * 50),
    ":top": ("N", "9" + "0" * 125),
}
ITEM: Attributes = {
    "id": ("S", "k"),
    "n": ("N", "10"),
    "s": ("S", "old"),
    "t": ("S", "other"),
    "ss": ("SS", ("a", "b")),
    "l": ("L", [("N", "0"), ("N", "1"), ("N", "2"), ("N", "3")]),
    "m": ("M", {"x": ("N", "1"), "deep": ("M", {"y": ("S", "z")}), "l": ("L", [("M", {"q": ("N", "1")})])}),
}


def update(text: str) -> Update:
    return parse_update(text, Placeholders(NAMES, VALUES), ["id"])


def numbers(*values: int) -> Value:
    return "L", [("N", str(value)) for value in values]


@pytest.mark.parametrize(
    ("text", "changed"),
    [
        ("SET s = :s", {"s": ("S", "new")}),
        ("set fresh = :s", {"fresh": ("S", "new")}),
        ("SET s = t, t = s", {"s": ("S", "other"), "t": ("S", "old")}),
        ("SET n = n + :one", {"n": ("N", "11")}),
        ("SET n = n - :half", {"n": ("N", "10.5")}),
        ("SET n = (n + :one)", {"n": ("N", "11")}),
        ("SET n = (n) + (:one)", {"n": ("N", "11")}),
        ("SET n = ((n) + (:one))", {"n": ("N", "11")}),
        ("SET n = ((n)+(if_not_exists(gone, (:one))))", {"n": ("N", "11")}),
        ("SET n = if_not_exists(gone, :one) + n", {"n": ("N", "11")}),
        ("SET n = if_not_exists(n, :one)", {}),
        ("SET fresh = if_not_exists(gone, s)", {"fresh": ("S", "old")}),
        ("SET l = list_append(l, :l)", {"l": ("L", [*numbers(0, 1, 2, 3)[1], ("S", "x")])}),
        ("SET l = list_append(:l, if_not_exists(gone, :l))", {"l": ("L", [("S", "x"), ("S", "x")])}),
        (
            "SET l[1] = :one, l[9] = :half, l[7] = :s",
            {"l": ("L", [*numbers(0, 1, 2, 3)[1], VALUES[":s"], VALUES[":half"]])},
        ),
        ("SET l[4294967294] = :one, l[2000000000] = :s", {"l": ("L", [*ITEM["l"][1], VALUES[":s"], VALUES[":one"]])}),
        ("REMOVE l[1], l[0], l[9]", {"l": numbers(2, 3)}),
        # The element that is appended is not the one that was meant.
        ("REMOVE l[4] SET l[9] = :s", {"l": ("L", [*ITEM["l"][1], VALUES[":s"]])}),
        ("REMOVE l[0] SET l[3] = :s", {"l": ("L", [*numbers(1, 2)[1], VALUES[":s"]])}),
        (
            "SET m.deep.y = m.x, m.fresh = s REMOVE m.x, m.gone",
            {
                "m": (
                    "M",
                    {"deep": ("M", {"y": ("N", "1")}), "l": ("L", [("M", {"q": ("N", "1")})]), "fresh": ("S", "old")},
                )
            },
        ),
        ("REMOVE m.l[0].q", {"m": ("M", {"x": ("N", "1"), "deep": ("M", {"y": ("S", "z")}), "l": ("L", [("M", {})])})}),
        ("REMOVE s, gone", {"s": None}),
        ("SET #d = :s", {"a.b": ("S", "new")}),
        ("ADD n :one", {"n": ("N", "11")}),
        ("ADD fresh :one", {"fresh": ("N", "1")}),
        ("ADD ss :ss", {"ss": ("SS", ("a", "b", "c"))}),
        ("ADD fresh :ss, m.x :one", {"fresh": ("SS", ("b", "c")), "m": ("M", ITEM["m"][1] | {"x": ("N", "2")})}),
        ("DELETE ss :ss", {"ss": ("SS", ("a",))}),
        ("DELETE gone :ss", {}),
        (
            "ADD n :one DELETE ss :ss SET s = :s REMOVE t",
            {"n": ("N", "11"), "ss": ("SS", ("a",)), "s": ("S", "new"), "t": None},
        ),
    ],
)
def test_what_updates_make_of_an_item(text: str, changed: dict[str, Value | None]) -> None:
    before = copy.deepcopy(ITEM)
    after = update(text).apply(before)
    expected = {name: value for name, value in (ITEM | changed).items() if value is not None}
    assert after == expected
    assert before == ITEM, "the item given stays as it is"


def test_a_set_that_is_left_empty_goes() -> None:
    item: Attributes = {"id": ("S", "k"), "ss": ("SS", ("b",)), "m": ("M", {"ss": ("SS", ("c",))})}
    assert update("DELETE ss :ss, m.ss :ss").apply(item) == {"id": ("S", "k"), "m": ("M", {})}


def test_sets_that_are_left_empty_go_from_a_list_last_so_that_indexes_mean_what_they_meant() -> None:
    item: Attributes = {"id": ("S", "k"), "l": ("L", [("SS", ("b",)), ("SS", ("c",)), ("N", "1"), ("SS", ("b",))])}
    for text, left in (
        ("DELETE l[0] :ss, l[1] :ss", [("N", "1"), ("SS", ("b",))]),
        ("DELETE l[0] :ss SET l[2] = :s", [("SS", ("c",)), VALUES[":s"], ("SS", ("b",))]),
        ("DELETE l[3] :ss, l[0] :ss REMOVE l[1]", [("N", "1")]),
        ("DELETE l[0] :ss SET l[9] = :s", [*item["l"][1][1:], VALUES[":s"]]),
    ):
        assert update(text).apply(item)["l"] == ("L", left), text


ACTIONS = {
    "SET": "SET {} = :s",
    "REMOVE": "REMOVE {}",
    "ADD": "ADD {} :one",
    "ADD a set": "ADD {} :ss",
    "DELETE": "DELETE {} :ss",
}
PLACES: Attributes = {
    "id": ("S", "k"),
    "text": ("S", "title"),
    "number": ("N", "1"),
    "data": ("B", b"title"),
    "flag": ("BOOL", True),
    "nothing": ("NULL", True),
    "tags": ("SS", ("a", "b")),
    "numbers": ("NS", ("1", "2")),
    "steps": ("L", [("S", "title"), ("M", {}), ("L", []), ("SS", ("b",))]),
    "options": ("M", {"text": ("S", "title"), "tags": ("SS", ("a", "b")), "steps": ("L", [("N", "1")])}),
}
SCALARS_AND_SETS = (
    "text",
    "number",
    "data",
    "flag",
    "nothing",
    "tags",
    "numbers",
    "options.text",
    "steps[0]",
    "steps[3]",
)
MISFITS = [
    *(
        f"{place}{step}"
        for place in SCALARS_AND_SETS
        for step in (".tags", "[0]", ".tags.x", "[0][0]", ".tags[0]", "[0].x")
    ),
    # A list by name, a map by index.
    *(
        "steps.first",
        "steps.first.x",
        "steps[2].first",
        "options.steps.first",
        "options[0]",
        "options[0].x",
        "steps[1][0]",
    ),
    # No parent.
    *("gone.tags", "gone[0]", "gone.tags.x", "options.gone.tags", "options.gone[0]", "steps[9].tags", "steps[9][0]"),
]


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("path", MISFITS)
def test_no_action_takes_a_path_that_does_not_fit_the_item(action: str, path: str) -> None:
    parsed, before = parse_named(ACTIONS[action], path), copy.deepcopy(PLACES)
    with pytest.raises(ValidationError) as refused:
        parsed.apply(before)
    assert refused.value.message == "The document path provided in the update expression is invalid for update"
    assert refused.value.metadata["field"] == "update_expression"
    assert before == PLACES


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("path", ["gone.tags", "gone[0]", "gone.tags[0].x"])
def test_of_a_missing_item_actions_that_take_away_find_nothing_and_the_others_have_no_parent(
    action: str, path: str
) -> None:
    parsed, key = parse_named(ACTIONS[action], path), {"id": PLACES["id"]}
    if action in ("REMOVE", "DELETE"):
        assert parsed.apply(key, is_new=True) == key
    else:
        with pytest.raises(ValidationError, match="document path provided in the update expression is invalid"):
            parsed.apply(key, is_new=True)


@pytest.mark.parametrize(
    ("path", "made"),
    [
        ("gone", lambda value: PLACES | {"gone": value}),
        ("options.gone", lambda value: PLACES | {"options": ("M", PLACES["options"][1] | {"gone": value})}),
        ("steps[9]", lambda value: PLACES | {"steps": ("L", [*PLACES["steps"][1], value])}),
    ],
)
def test_where_a_path_may_lead_to_nothing_some_actions_make_a_value_and_others_find_nothing(
    path: str, made: Callable[[Value], Attributes]
) -> None:
    for action, value in (("SET", VALUES[":s"]), ("ADD", VALUES[":one"]), ("ADD a set", VALUES[":ss"])):
        assert parse_named(ACTIONS[action], path).apply(PLACES) == made(value), action
    for action in ("REMOVE", "DELETE"):
        assert parse_named(ACTIONS[action], path).apply(PLACES) == PLACES, action


@pytest.mark.parametrize(
    ("action", "fitting"),
    [
        ("ADD", {"number", "options.steps[0]"}),
        ("ADD a set", {"tags", "options.tags", "steps[3]"}),
        ("DELETE", {"tags", "options.tags", "steps[3]"}),
    ],
)
def test_what_is_added_or_deleted_must_have_the_type_of_what_is_there(action: str, fitting: set[str]) -> None:
    for path in (
        *SCALARS_AND_SETS,
        "steps",
        "options",
        "options.tags",
        "options.steps",
        "options.steps[0]",
        "steps[1]",
    ):
        parsed = parse_named(ACTIONS[action], path)
        if path in fitting:
            assert parsed.apply(PLACES) != PLACES, path
        else:
            with pytest.raises(ValidationError) as refused:
                parsed.apply(PLACES)
            assert refused.value.message == "An operand in the update expression has an incorrect data type", path


def parse_named(text: str, path: str) -> Update:
    """An update of a path whose names may be reserved words."""
    names = {f"#{name}": name for name in re.findall("[a-z]+", path)}
    return parse_update(text.format(re.sub("([a-z]+)", r"#\1", path)), Placeholders(names, VALUES), ["id"])


def test_a_path_of_32_steps_is_taken() -> None:
    value: Value = ("M", {})
    for _ in range(30):
        value = ("M", {"x": value})
    after = update(f"SET m{'.x' * 31} = :s").apply({"m": value})
    for _ in range(32):
        ((value,),) = (after.values(),)
        after = value[1]
    assert value == VALUES[":s"]


@pytest.mark.parametrize(
    ("text", "creates"),
    [
        ("SET s = :s", True),
        ("ADD n :one", True),
        ("REMOVE s", False),
        ("DELETE ss :ss", False),
        ("REMOVE s SET t=:s", True),
    ],
)
def test_which_updates_make_an_item_that_is_missing(text: str, *, creates: bool) -> None:
    assert update(text).creates is creates
    assert NO_UPDATE.creates
    assert NO_UPDATE.apply({"id": ("S", "k")}) == {"id": ("S", "k")}


def test_of_a_missing_item_nothing_can_be_removed_and_that_is_no_error() -> None:
    key: Attributes = {"id": ("S", "k")}
    assert update("REMOVE m.x, l[0] DELETE m.ss :ss ADD n :one").apply(key, is_new=True) == key | {"n": ("N", "1")}
    with pytest.raises(ValidationError, match="document path provided in the update expression is invalid"):
        update("REMOVE m2.x").apply(ITEM)


@pytest.mark.parametrize(
    ("text", "old", "new"),
    [
        ("SET s = :s", {"s": ("S", "old")}, {"s": ("S", "new")}),
        ("SET fresh = :s", {}, {"fresh": ("S", "new")}),
        ("REMOVE s", {"s": ("S", "old")}, {}),
        (
            "SET m.deep.y = :s",
            {"m": ("M", {"deep": ("M", {"y": ("S", "z")})})},
            {"m": ("M", {"deep": ("M", {"y": ("S", "new")})})},
        ),
        ("SET l[2] = :s, l[0] = :one", {"l": numbers(0, 2)}, {"l": ("L", [("N", "1"), ("S", "new")])}),
        # As the service does: the element that was appended does not show, and the one that moved up does.
        ("SET l[100] = :s", {}, {}),
        ("REMOVE l[1]", {"l": numbers(1)}, {"l": numbers(2)}),
    ],
)
def test_what_is_returned_of_what_was_updated(text: str, old: Attributes, new: Attributes) -> None:
    parsed = update(text)
    assert parsed.updated(ITEM) == old
    assert parsed.updated(parsed.apply(ITEM)) == new


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "The expression can not be empty;"),
        ("s = :s", 'Syntax error; token: "s"'),
        ("SET", 'Syntax error; token: "<EOF>"'),
        ("SET s", 'Syntax error; token: "<EOF>"'),
        ("SET s = :s,", 'Syntax error; token: "<EOF>"'),
        ("SET s = n + :one + :one", 'Syntax error; token: "+"'),
        ("SET s = if_not_exists(n + :one, n)", 'Syntax error; token: "+"'),
        ("SET s = ((:s))", "redundant parentheses"),
        ("SET n = ((n + :one))", "redundant parentheses"),
        ("SET n = ((n)) + :one", "redundant parentheses"),
        ("SET n = (n + ((:one)))", "redundant parentheses"),
        ("SET l = list_append(((l)), :l)", "redundant parentheses"),
        ("SET l[4294967295] = :s", "List index is not within the allowable range; index: [4294967295]"),
        (
            "SET l = list_append(list_append(l, :l), :l)",
            "not allowed to be used this way in an expression; function: list",
        ),
        (
            "SET l = list_append(l, (list_append(:l, :l)))",
            "to be used this way in an expression; function: list_append",
        ),
        ("SET n = list_append(:l, :l) + n", "not allowed to be used this way in an expression; function: list_append"),
        (f"SET m{'.x' * 32} = :s", "The document path has too many nesting elements; nesting levels: 33"),
        (f"SET s = m{'[0]' * 32}", "The document path has too many nesting elements; nesting levels: 33"),
        ("ADD n = :one", 'Syntax error; token: "="'),
        ("ADD n m", 'Syntax error; token: "m"'),
        ("SET s = :s SET t = :s", 'The "SET" section can only be used once in an update expression;'),
        ("REMOVE s, t remove n", 'The "REMOVE" section can only be used once'),
        ("SET s = maximum(n, t)", "Invalid function name; function: maximum"),
        ("SET s = size(t)", "is not allowed to be used this way in an expression; function: size"),
        ("SET name = :s", "reserved keyword: name"),
        ("SET #x = :s", "attribute name: #x"),
        ("SET s = :x", "attribute value: :x"),
        ("SET s = if_not_exists(:s, :s)", "requires a document path; operator or function: if_not_exists"),
        ("SET s = if_not_exists(s)", "operator or function: if_not_exists, number of operands: 1"),
        ("SET s = list_append(l, :s)", "operator or function: list_append, operand type: S"),
        ("SET s = n + :s", "operator or function: +, operand type: S"),
        ("ADD s :s", "operator: ADD, operand type: STRING"),
        ("ADD l :l", "operator: ADD, operand type: LIST"),
        ("DELETE n :one", "operator: DELETE, operand type: NUMBER"),
        (
            "SET s = :s, s = :one",
            "overlap with each other; must remove or rewrite one of these paths; path one: [s], path two: [s]",
        ),
        ("SET m = :s REMOVE m.x", "path one: [m], path two: [m, x]"),
        ("SET m.x.y = :s, m.x = :s", "path one: [m, x, y], path two: [m, x]"),
        (
            "SET m.x = :s, m[0] = :s",
            "conflict with each other; must remove or rewrite one of these paths; path one: [m, x]",
        ),
    ],
)
def test_what_is_wrong_with_an_update_is_told(text: str, message: str) -> None:
    with pytest.raises(ValidationError) as refused:
        update(text)
    assert refused.value.message.startswith("Invalid UpdateExpression: ")
    assert message in refused.value.message
    assert refused.value.metadata["field"] == "update_expression"


def test_key_attributes_cannot_be_updated() -> None:
    for text in ("SET id = :s", "REMOVE id", "ADD id :one", "SET id.x = :s"):
        with pytest.raises(ValidationError, match=r"Cannot update attribute id\. This attribute is part of the key"):
            update(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SET s = gone", "refers to an attribute that does not exist in the item"),
        ("SET n = gone + :one", "refers to an attribute that does not exist in the item"),
        ("SET n = s + :one", "An operand in the update expression has an incorrect data type"),
        ("SET l = list_append(s, :l)", "incorrect data type"),
        ("ADD s :one", "incorrect data type"),
        ("ADD ss :ns", "incorrect data type"),
        ("DELETE ss :ns", "incorrect data type"),
        ("SET gone.x = :s", "The document path provided in the update expression is invalid for update"),
        ("SET s.x = :s", "invalid for update"),
        ("SET s[0] = :s", "invalid for update"),
        ("SET m[0] = :s", "invalid for update"),
        ("SET l.x = :s", "invalid for update"),
        ("SET l[9].x = :s", "invalid for update"),
        ("REMOVE l.x", "invalid for update"),
        ("REMOVE m[0]", "invalid for update"),
        ("ADD gone.n :one", "invalid for update"),
        ("DELETE gone.n :ss", "invalid for update"),
        ("SET n = :big + :one", "more than 38 significant digits"),
        ("SET n = :top + :top", "Number overflow"),
    ],
)
def test_an_update_that_does_not_fit_the_item_is_refused_and_leaves_it(text: str, message: str) -> None:
    before = copy.deepcopy(ITEM)
    with pytest.raises(ValidationError, match=message):
        update(text).apply(before)
    assert before == ITEM


@settings(max_examples=300)
@given(st.integers(0, 2**32))
def test_any_changes_that_do_not_overlap_are_made_as_if_by_hand(seed: int) -> None:
    random = Random(seed)
    item: Attributes = {"id": ("S", "k"), **{name: _value(random, 3) for name in "abc"}}
    leaves = [path for path in _paths(item) if path[0] != "id"]
    chosen: list[tuple[Any, ...]] = []
    for path in random.sample(leaves, min(len(leaves), random.randint(1, 8))):
        if not any(path[: len(other)] == other or other[: len(path)] == path for other in chosen):
            chosen.append(path)
    actions: dict[str, list[str]] = {}
    # What becomes of each path: the value that is then there, or None.
    made: dict[tuple[Any, ...], Value | None] = {}
    values: dict[str, Value] = {":one": ("N", "1"), ":a": ("SS", ("a",))}
    for number, path in enumerate(chosen):
        kind, content = _at(item, path)
        section = random.choice(
            ["SET", "REMOVE", *(["ADD"] if kind in ("N", "SS") else []), *(["DELETE"] * (kind == "SS"))]
        )
        match section:
            case "SET":
                values[f":v{number}"] = made[path] = ("N", str(number))
                text = f"{_text(path)} = :v{number}"
            case "REMOVE":
                made[path] = None
                text = _text(path)
            case "ADD" if kind == "N":
                made[path] = ("N", str(int(content) + 1))
                text = f"{_text(path)} :one"
            case "ADD":
                made[path] = ("SS", tuple(sorted({*content, "a"})))
                text = f"{_text(path)} :a"
            case _:
                left = tuple(element for element in content if element != "a")
                made[path] = ("SS", left) if left else None
                text = f"{_text(path)} :a"
        actions.setdefault(section, []).append(text)
    sections = [f"{section} {', '.join(texts)}" for section, texts in actions.items()] or ["REMOVE gone"]
    random.shuffle(sections)
    before = copy.deepcopy(item)
    after = parse_update(" ".join(sections), Placeholders({}, values)).apply(item)
    assert after == _by_hand(item, (), made)
    assert item == before


def _value(random: Random, depth: int) -> Value:
    kind = random.choice(["N", "SS", "SS", "L", "L", "L", "M"] if depth else ["N", "SS"])
    if kind == "SS":
        return "SS", random.choice([("a",), ("b",), ("a", "b")])
    if kind == "L":
        return "L", [_value(random, depth - 1) for _ in range(random.randint(0, 4))]
    if kind == "M":
        return "M", {name: _value(random, depth - 1) for name in random.sample("xyz", random.randint(0, 3))}
    return "N", str(random.randint(0, 9))


def _parts(value: Value) -> list[tuple[Any, Value]]:
    kind, content = value
    return list(enumerate(content) if kind == "L" else content.items() if kind == "M" else ())


def _paths(item: Attributes) -> list[tuple[Any, ...]]:
    def below(path: tuple[Any, ...], value: Value) -> list[tuple[Any, ...]]:
        return [path, *(deeper for step, each in _parts(value) for deeper in below((*path, step), each))]

    return [path for name, value in item.items() for path in below((name,), value)]


def _text(path: tuple[Any, ...]) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)[1:]


def _at(item: Attributes, path: tuple[Any, ...]) -> Value:
    """The value at a path that is there."""
    value = item[path[0]]
    for step in path[1:]:
        value = value[1][step]
    return value


def _by_hand(content: Any, path: tuple[Any, ...], made: dict[tuple[Any, ...], Value | None]) -> Any:
    """The entries or elements of what lies at a path, each as it is made, left out, or gone into."""

    def after(step: Any, value: Value) -> Value | None:
        if (*path, step) in made:
            return made[*path, step]
        kind, inner = value
        return (kind, _by_hand(inner, (*path, step), made)) if kind in ("L", "M") else value

    parts = list(enumerate(content) if isinstance(content, list) else content.items())
    left = [(step, changed) for step, value in parts if (changed := after(step, value)) is not None]
    return [changed for _, changed in left] if isinstance(content, list) else dict(left)
