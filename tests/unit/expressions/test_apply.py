"""What conditions and updates answer for an item."""

from __future__ import annotations

import pytest

from broker.expressions.condition import AttributeExists, Condition
from broker.expressions.update import NO_UPDATE, Update
from broker.model.values import Attributes, Value

ONE: Value = ("N", "1")
TWO: Value = ("N", "2")


def wants(**terms: bool) -> Condition:
    return Condition(terms=tuple(AttributeExists(name=name, exists=exists) for name, exists in terms.items()))


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        (wants(a=True), True),
        (wants(b=True), False),
        (wants(a=False), False),
        (wants(b=False), True),
        (wants(a=True, b=False), True),
        (wants(a=True, b=True), False),
        (wants(), True),
    ],
)
def test_a_condition_holds_if_all_its_terms_do(condition: Condition, *, holds: bool) -> None:
    assert condition.holds({"a": ONE}) == holds


def test_a_missing_item_has_no_attributes() -> None:
    assert wants(a=False).holds({})
    assert not wants(a=True).holds({})


def test_an_update_sets_and_removes_and_leaves_the_rest() -> None:
    before: Attributes = {"kept": ONE, "replaced": ONE, "removed": ONE}
    changed = Update(sets={"replaced": TWO, "new": TWO}, removes=frozenset({"removed", "missing"}))
    assert changed.apply(before) == {"kept": ONE, "replaced": TWO, "new": TWO}
    assert before == {"kept": ONE, "replaced": ONE, "removed": ONE}
    assert changed.touched == {"replaced", "new", "removed", "missing"}


# Source: Alternator's tests of UpdateItem, which pass on DynamoDB.
@pytest.mark.parametrize(
    ("update", "creates"),
    [
        (NO_UPDATE, True),
        (Update(sets={"a": ONE}, removes=frozenset()), True),
        (Update(sets={"a": ONE}, removes=frozenset({"b"})), True),
        (Update(sets={}, removes=frozenset({"b"})), False),
    ],
)
def test_an_update_that_only_removes_creates_nothing(update: Update, *, creates: bool) -> None:
    assert update.creates == creates
