"""Items: equal ones have equal bytes, broken ones are refused, sizes are DynamoDB's. tests.values is the oracle."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.encoding.items import canonical_value, canonicalize, decode, encode, parse_item, with_changes
from broker.encoding.varint import field_bytes
from broker.model.errors import ValidationError
from broker.model.values import (
    ITEM_ENCODED_BYTES_MAX,
    ITEM_SIZE_BYTES_MAX,
    NESTING_LEVELS_MAX,
    STORED_NESTING_LEVELS_MAX,
)
from headrace.v1 import attribute_value_pb2 as pb
from tests import values
from tests.unit.strategies import ATTRIBUTES, NUMBERS, VALUES, spellings
from tests.values import Attributes, Value, from_item, item, to_item

MAP, LIST = b"\x52", b"\x4a"
ITEM_BYTES_MAX = 409_600


@st.composite
def messages(draw: st.DrawFn, of: Attributes) -> pb.Item:
    """An item as some client might send it: entries and elements in any order, numbers in any spelling."""
    message = pb.Item()
    for name in draw(st.permutations(list(of))):
        _fill(draw, message.attributes[name], of[name])
    return message


def _fill(draw: st.DrawFn, into: pb.AttributeValue, of: Value) -> None:
    tag, content = of
    match tag:
        case "N":
            into.n = draw(spellings(content))
        case "NS":
            into.ns.values[:] = [draw(spellings(member)) for member in draw(st.permutations(list(content)))]
        case "SS":
            into.ss.values[:] = draw(st.permutations(list(content)))
        case "BS":
            into.bs.values[:] = draw(st.permutations(list(content)))
        case "L":
            into.l.SetInParent()
            for member in content:
                _fill(draw, into.l.values.add(), member)
        case "M":
            into.m.SetInParent()
            for name, member in draw(st.permutations(list(content))):
                _fill(draw, into.m.attributes[name], member)
        case _:
            into.CopyFrom(values.to_attribute_value(of))


def nested(levels: int, leaf: bytes, tag: bytes) -> bytes:
    """An item that holds a value under so many maps or lists; joined by hand, for upb copies nothing that deep."""
    of = leaf
    for _ in range(levels):
        inside = field_bytes(b"\x0a", b"a") + field_bytes(b"\x12", of) if tag == MAP else of
        of = field_bytes(tag, field_bytes(b"\x0a", inside))
    return field_bytes(b"\x0a", field_bytes(b"\x0a", b"a") + field_bytes(b"\x12", of))


@given(st.data(), ATTRIBUTES)
def test_equal_items_have_equal_bytes(data: st.DataObject, attributes: Attributes) -> None:
    one = canonicalize(data.draw(messages(attributes)))
    other = canonicalize(data.draw(messages(attributes)))
    assert one == other
    assert canonicalize(parse_item(one.encoded)) == one


@given(ATTRIBUTES, ATTRIBUTES)
def test_different_items_have_different_bytes(one: Attributes, other: Attributes) -> None:
    assert (canonicalize(to_item(one)).encoded == canonicalize(to_item(other)).encoded) == (one == other)


@given(st.data(), ATTRIBUTES)
def test_an_item_keeps_its_value(data: st.DataObject, attributes: Attributes) -> None:
    encoded = canonicalize(data.draw(messages(attributes))).encoded
    assert from_item(pb.Item.FromString(encoded)) == attributes


@given(ATTRIBUTES)
def test_an_item_counts_what_dynamodb_counts(attributes: Attributes) -> None:
    assert canonicalize(to_item(attributes)).size_bytes == values.size_bytes(attributes)


@given(ATTRIBUTES)
def test_what_is_decoded_encodes_to_the_same_item(attributes: Attributes) -> None:
    canonical = canonicalize(to_item(attributes))
    assert encode(decode(canonical.encoded)) == canonical


@given(VALUES)
def test_a_value_is_made_canonical_as_an_item_is(value: Value) -> None:
    whole = decode(canonicalize(to_item({"a": value})).encoded)
    assert canonical_value(values.to_attribute_value(value)) == whole["a"]


def test_decoded_values_have_the_types_that_expressions_rely_on() -> None:
    sent = item(s="x", n=Decimal("1.50"), b=b"y", yes=True, no=None, ss={"b", "a"}, l=[1], m={"k": "v"})
    assert decode(canonicalize(sent).encoded) == {
        "s": ("S", "x"),
        "n": ("N", "1.5"),
        "b": ("B", b"y"),
        "yes": ("BOOL", True),
        "no": ("NULL", True),
        "ss": ("SS", ("a", "b")),
        "l": ("L", [("N", "1")]),
        "m": ("M", {"k": ("S", "v")}),
    }


# upb looks for unknown fields only so deep; what is left in would be stored, and counted by nobody.
@pytest.mark.parametrize("tag", [MAP, LIST])
@pytest.mark.parametrize("containers", [0, 1, 15, 16, 17, 30, 31, 32])
def test_unknown_fields_are_dropped_at_every_depth(containers: int, tag: bytes) -> None:
    leaf = b"\x0a\x01x"
    levels_max = max(containers + 1, NESTING_LEVELS_MAX)
    clean = canonicalize(parse_item(nested(containers, leaf, tag)), levels_max)
    dirty = canonicalize(parse_item(nested(containers, leaf + field_bytes(b"\xfa\x01", b"unknown"), tag)), levels_max)
    assert dirty == clean


@pytest.mark.parametrize("tag", [MAP, LIST])
def test_unknown_fields_of_containers_are_dropped_too(tag: bytes) -> None:
    known = field_bytes(tag, b"")
    extra = field_bytes(tag, field_bytes(b"\xfa\x01", b"unknown"))
    item_of = b"\x0a\x01a" + field_bytes(b"\x12", known), b"\x0a\x01a" + field_bytes(b"\x12", extra)
    clean, dirty = (canonicalize(parse_item(field_bytes(b"\x0a", entry))) for entry in item_of)
    assert dirty == clean


@pytest.mark.parametrize("tag", [MAP, LIST])
def test_a_scalar_is_taken_in_31_lists_or_maps_and_refused_in_32(tag: bytes) -> None:
    leaf = b"\x0a\x01x"
    taken = canonicalize(parse_item(nested(31, leaf, tag)))
    assert encode(decode(taken.encoded)) == taken
    with pytest.raises(ValidationError, match="Nesting Levels have exceeded supported limits") as refused:
        canonicalize(parse_item(nested(32, leaf, tag)))
    assert refused.value.metadata["limit"] == "32"


@pytest.mark.parametrize("tag", [MAP, LIST])
def test_an_empty_list_or_map_is_a_level_as_a_scalar_is(tag: bytes) -> None:
    empty = field_bytes(tag, b"")
    assert canonicalize(parse_item(nested(31, empty, tag)))
    with pytest.raises(ValidationError, match="Nesting Levels have exceeded supported limits"):
        canonicalize(parse_item(nested(32, empty, tag)))


# Early versions took one level more.
@pytest.mark.parametrize("tag", [MAP, LIST])
def test_an_item_of_33_levels_that_is_stored_can_be_read_and_changed_but_not_written(tag: bytes) -> None:
    leaf = b"\x0a\x01x"
    stored = canonicalize(parse_item(nested(32, leaf, tag)), STORED_NESTING_LEVELS_MAX)
    assert encode(decode(stored.encoded)) == stored
    small: Value = ("N", "1")
    for changes in ({"b": small}, {"a": small}, {"a": None}):
        changed = with_changes(parse_item(stored.encoded), stored.size_bytes, changes)
        assert changed == encode(
            {name: value for name, value in (decode(stored.encoded) | changes).items() if value is not None}
        )
    with pytest.raises(ValidationError, match="Nesting Levels have exceeded supported limits"):
        with_changes(parse_item(stored.encoded), stored.size_bytes, decode(stored.encoded))
    # Of maps it is no message any more.
    with pytest.raises(ValidationError, match=r"(?i)nest"):
        canonicalize(parse_item(nested(33, leaf, tag)), STORED_NESTING_LEVELS_MAX)


@pytest.mark.parametrize("tag", [MAP, LIST])
@pytest.mark.parametrize("levels", [33, 34, 50, 200, 2000])
def test_absurd_nesting_is_refused_without_following_it(levels: int, tag: bytes) -> None:
    with pytest.raises(ValidationError, match=r"(?i)nest") as refused:
        canonicalize(parse_item(nested(levels, b"\x0a\x01x", tag)))
    assert refused.value.metadata["limit"] == "32"


def test_a_value_of_an_expression_has_32_levels_at_most() -> None:
    deepest = parse_item(nested(31, b"\x0a\x01x", LIST)).attributes["a"]
    assert canonical_value(deepest)[0] == "L"
    with pytest.raises(ValidationError, match="Nesting"):
        canonical_value(parse_item(nested(32, b"\x0a\x01x", LIST)).attributes["a"])


def test_bytes_that_are_no_item_are_refused() -> None:
    with pytest.raises(ValidationError) as refused:
        parse_item(b"\x0a\xff")
    assert refused.value.metadata["field"] == "item"


def test_text_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(ValidationError):
        parse_item(
            field_bytes(b"\x0a", field_bytes(b"\x0a", b"a") + field_bytes(b"\x12", field_bytes(b"\x0a", b"\xff")))
        )


def _set(value: pb.AttributeValue, field: str, *members: object) -> None:
    getattr(value, field).SetInParent()
    getattr(value, field).values.extend(members)


BROKEN: dict[str, tuple[Callable[[pb.AttributeValue], None], str]] = {
    "nothing": (lambda value: value.Clear(), "must contain exactly one of the supported datatypes"),
    "NULL false": (lambda value: setattr(value, "null", False), "must have the value of true"),
    "empty SS": (lambda value: _set(value, "ss"), "string set  may not be empty"),
    "empty NS": (lambda value: _set(value, "ns"), "number set  may not be empty"),
    "empty BS": (lambda value: _set(value, "bs"), "Binary sets should not be empty"),
    "twice in SS": (lambda value: _set(value, "ss", "a", "b", "a"), "contains duplicates"),
    "twice in NS": (lambda value: _set(value, "ns", "1", "2", "1.0"), "contains duplicates"),
    "twice in BS": (lambda value: _set(value, "bs", b"a", b"a"), "contains duplicates"),
    "no number": (lambda value: setattr(value, "n", "x"), "numeric value"),
    "no number in NS": (lambda value: _set(value, "ns", "1", ""), "numeric value"),
}


@pytest.mark.parametrize("where", ["attribute", "list", "map", "expression"])
@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_value_is_refused_wherever_it_stands(broken: str, where: str) -> None:
    breaks, words = BROKEN[broken]
    whole = pb.Item()
    target = whole.attributes["a"]
    if where == "list":
        target = target.l.values.add()
    elif where == "map":
        target = target.m.attributes["b"]
    breaks(target)
    with pytest.raises(ValidationError, match=words) as refused:
        canonical_value(target) if where == "expression" else canonicalize(whole)
    assert refused.value.metadata["field"]


@pytest.mark.parametrize("whole", [item({"": 1}), item(m={"": 1}), item(l=[{"": 1}]), item({"": "a"})])
def test_an_empty_attribute_name_is_refused(whole: pb.Item) -> None:
    with pytest.raises(ValidationError, match="Empty attribute name") as refused:
        canonicalize(whole)
    assert refused.value.metadata["field"] == "attribute_name"


@pytest.mark.parametrize("letter", ["a", "\u00e9", "\U0001f600"])
def test_a_name_may_have_65535_bytes_and_no_more(letter: str) -> None:
    width = len(letter.encode())
    name = letter * (65_535 // width) + "a" * (65_535 % width)
    assert canonicalize(item({name: None})).size_bytes == 65_536
    for longer in (item({name + "a": None}), item(m={name + "a": None})):
        with pytest.raises(ValidationError, match="too long") as refused:
            canonicalize(longer)
        assert refused.value.metadata == {"field": "attribute_name", "limit": "65535"}


@pytest.mark.parametrize(
    "last", ["\u00e9", b"xy", [], {}], ids=["text of two bytes", "binary", "an empty list", "an empty map"]
)
def test_an_item_may_have_400_kb_and_no_more(last: object) -> None:
    rest = values.size_bytes(values.attributes(a="", z=last))
    assert canonicalize(item(a="x" * (ITEM_BYTES_MAX - rest), z=last)).size_bytes == ITEM_BYTES_MAX
    with pytest.raises(ValidationError, match="Item size has exceeded") as refused:
        canonicalize(item(a="x" * (ITEM_BYTES_MAX - rest + 1), z=last))
    assert refused.value.metadata == {"field": "item", "limit": "409600"}


def test_an_update_may_not_make_an_item_larger_than_400_kb() -> None:
    whole = item(a="x" * (ITEM_BYTES_MAX - 2), b="")
    size = canonicalize(whole).size_bytes
    assert size == ITEM_BYTES_MAX
    assert with_changes(whole, size, {"b": None, "c": ("S", "")}).size_bytes == size
    with pytest.raises(ValidationError, match="Item size to update has exceeded"):
        with_changes(whole, size, {"c": ("S", "x")})


FEW = st.dictionaries(st.sampled_from("abc"), VALUES)


@given(FEW, FEW, st.sets(st.sampled_from("abcd")))
def test_changing_some_attributes_is_as_encoding_all_of_them(
    before: Attributes, after: Attributes, removed: set[str]
) -> None:
    whole, more = canonicalize(to_item(before)), decode(canonicalize(to_item(after)).encoded)
    changes = more | dict.fromkeys(removed)
    expected = {name: value for name, value in (decode(whole.encoded) | changes).items() if value is not None}
    assert with_changes(pb.Item.FromString(whole.encoded), whole.size_bytes, changes) == encode(expected)


# Empty texts have been legal outside of keys since 2020; empty lists and maps always were.
def test_empty_texts_lists_maps_and_items_are_taken() -> None:
    whole = item(s="", b=b"", l=[], m={}, ss={""}, bs={b""})
    assert from_item(pb.Item.FromString(canonicalize(whole).encoded)) == from_item(whole)
    assert canonicalize(pb.Item()) == (b"", 0)


@given(st.sets(NUMBERS, min_size=2, max_size=5), st.data())
def test_number_sets_refuse_two_spellings_of_one_number(numbers: set[Decimal], data: st.DataObject) -> None:
    again = data.draw(st.sampled_from(sorted(numbers)))
    members = [data.draw(spellings(number)) for number in (*numbers, again)]
    whole = pb.Item()
    whole.attributes["a"].ns.values[:] = members
    with pytest.raises(ValidationError, match="duplicates"):
        canonicalize(whole)


# Whatever is remembered to be faster: a client chooses these texts, and could fill the memory with them.
@pytest.mark.parametrize("what", ["numbers", "names"])
def test_long_numbers_and_names_are_not_kept(what: str) -> None:
    texts = [f"{number:060000d}" for number in range(1, 41)]
    tracemalloc.start()
    try:
        for text in texts:
            canonicalize(pb.Item(attributes={text if what == "names" else "a": pb.AttributeValue(n=text)}))
        gc.collect()
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 40 * 60_000 / 2


# The record of a change holds two images; one that no response can hold would end every read of its shard.
def test_an_item_is_refused_whose_numbers_take_too_much_in_full() -> None:
    def numbers_of(count: int) -> pb.Item:
        whole = item(id="a")
        for _ in range(count):
            whole.attributes["l"].l.values.add().n = "1e125"
        return whole

    fits = ITEM_ENCODED_BYTES_MAX // 131
    assert ITEM_ENCODED_BYTES_MAX - 300 < len(canonicalize(numbers_of(fits - 1)).encoded) <= ITEM_ENCODED_BYTES_MAX
    with pytest.raises(ValidationError, match="all digits of its numbers") as refused:
        canonicalize(numbers_of(fits + 1))
    assert refused.value.metadata == {"field": "item", "limit": str(ITEM_ENCODED_BYTES_MAX)}
    encoded = canonicalize(numbers_of(10))
    with pytest.raises(ValidationError, match="Item size to update"):
        with_changes(
            parse_item(encoded.encoded), encoded.size_bytes, {"m": ("L", [("N", "1" + "0" * 125)] * (fits + 1))}
        )
    # Whatever is no number takes at most four times what DynamoDB counts.
    worst = item(id="a")
    for _ in range(ITEM_SIZE_BYTES_MAX - 10):
        worst.attributes["l"].l.values.add().s = ""
    assert canonicalize(worst).size_bytes > ITEM_SIZE_BYTES_MAX - 10
