"""Random operations of the model, and how each is said to the broker."""

from __future__ import annotations

from decimal import Decimal

from hypothesis import strategies as st

from headrace.v1.item_service_pb2 import DeleteItemRequest, PutItemRequest, UpdateItemRequest, WriteOperation
from tests.model import Condition, Delete, Operation, Put, Update
from tests.values import Attributes, Value, to_attribute_value, to_item

# Few names, so that operations meet; some that a parser may stumble over: reserved, with dots, not ASCII, a blank.
NAMES = ("a", "b", "status", "a.b", "#a", ":a", "é", " ")
NUMBERS = st.decimals(
    allow_nan=False, allow_infinity=False, places=3, min_value=-(10**9), max_value=10**9
) | st.sampled_from([Decimal(text) for text in ("0", "-0", "1e3", "1E+125", "-1e-130", "9" * 38, "1.000")])
SCALARS: st.SearchStrategy[Value] = st.one_of(
    st.tuples(st.just("S"), st.text(max_size=5)),
    st.tuples(st.just("N"), NUMBERS),
    st.tuples(st.just("B"), st.binary(max_size=5)),
    st.tuples(st.just("BOOL"), st.booleans()),
    st.just(("NULL", True)),
    st.tuples(st.just("SS"), st.frozensets(st.text(max_size=3), min_size=1, max_size=3)),
    st.tuples(st.just("NS"), st.frozensets(NUMBERS, min_size=1, max_size=3)),
    st.tuples(st.just("BS"), st.frozensets(st.binary(max_size=3), min_size=1, max_size=3)),
)


def _containers(inner: st.SearchStrategy[Value]) -> st.SearchStrategy[Value]:
    lists = st.tuples(st.just("L"), st.lists(inner, max_size=3).map(tuple))
    maps = st.dictionaries(st.text(min_size=1, max_size=3), inner, max_size=3)
    return lists | st.tuples(st.just("M"), maps.map(lambda members: frozenset(members.items())))


VALUES: st.SearchStrategy[Value] = st.recursive(SCALARS, _containers, max_leaves=6)
CONDITIONS = st.lists(
    st.builds(Condition, attribute=st.sampled_from(("id", *NAMES)), exists=st.booleans()), max_size=2
).map(tuple)


@st.composite
def operations(draw: st.DrawFn, keys: st.SearchStrategy[Attributes]) -> Operation:
    """An operation on one of a few keys, often on an item that is there, often with an effect."""
    key = draw(keys)
    conditions = draw(st.just(()) | CONDITIONS)
    kind = draw(st.sampled_from(("put", "put", "update", "delete")))
    if kind == "delete":
        return Delete(key=key, conditions=conditions)
    if kind == "put":
        more = draw(st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=4))
        return Put(item={**more, **key}, conditions=conditions)
    sets = draw(st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=3))
    removes = draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=2))
    return Update(
        key=key,
        sets=sets,
        removes=tuple(name for name in removes if name not in sets),
        conditions=conditions,
    )


def to_write(operation: Operation, table_name: str = "") -> WriteOperation:
    """The operation as WriteItems takes it. Every name goes in as a placeholder, for any name may be reserved."""
    conditions, names = _condition_expression(operation.conditions)
    match operation:
        case Put():
            return WriteOperation(
                put=PutItemRequest(
                    table_name=table_name,
                    item=to_item(operation.item),
                    condition_expression=conditions,
                    expression_attribute_names=names,
                )
            )
        case Delete():
            return WriteOperation(
                delete=DeleteItemRequest(
                    table_name=table_name,
                    key=to_item(operation.key),
                    condition_expression=conditions,
                    expression_attribute_names=names,
                )
            )
        case Update():
            clauses = []
            if operation.sets:
                assignments = []
                for place, name in enumerate(operation.sets):
                    names[f"#s{place}"] = name
                    assignments.append(f"#s{place} = :s{place}")
                clauses.append("SET " + ", ".join(assignments))
            if operation.removes:
                names.update({f"#r{place}": name for place, name in enumerate(operation.removes)})
                clauses.append("REMOVE " + ", ".join(f"#r{place}" for place in range(len(operation.removes))))
            values = {f":s{place}": to_attribute_value(value) for place, value in enumerate(operation.sets.values())}
            return WriteOperation(
                update=UpdateItemRequest(
                    table_name=table_name,
                    key=to_item(operation.key),
                    update_expression=" ".join(clauses) or None,
                    condition_expression=conditions,
                    expression_attribute_names=names,
                    expression_attribute_values=values,
                )
            )


def _condition_expression(conditions: tuple[Condition, ...]) -> tuple[str | None, dict[str, str]]:
    """The text and its names; no text if there are no conditions, for an empty one is refused."""
    functions = {True: "attribute_exists", False: "attribute_not_exists"}
    terms = [f"{functions[condition.exists]}(#c{place})" for place, condition in enumerate(conditions)]
    names = {f"#c{place}": condition.attribute for place, condition in enumerate(conditions)}
    return " AND ".join(terms) or None, names
