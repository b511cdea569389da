"""Keys: their order as bytes is their order as values, and nothing else than their value decides them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal
from itertools import product
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from broker.encoding.items import canonicalize, parse_item
from broker.encoding.keys import (
    HASH_END,
    TABLE_ID_BYTES,
    IndexKeyCodec,
    ItemKey,
    KeyCodec,
    key_hash,
    ordered_bytes,
    ordered_number,
    partition_hash,
    prefix_end,
    table_prefix,
)
from broker.model.errors import ValidationError
from broker.model.numbers import normalize
from broker.model.tables import Index, KeyAttribute, KeyAttributeType, ProjectionType, Table
from headrace.v1 import attribute_value_pb2 as pb
from tests import values
from tests.unit.strategies import NUMBERS, spellings
from tests.values import Value, item, to_attribute_value, to_item, value

# Bytes that the encoding treats specially among them; short, so that two of them often share their beginning.
TRICKY_BYTES = st.lists(st.sampled_from(b"\x00\x01\xff"), max_size=4).map(bytes)
BINARIES = TRICKY_BYTES.filter(bool) | st.binary(min_size=1, max_size=8)
TEXTS = st.text(min_size=1, max_size=8) | st.text(alphabet="\x00\x01a\u00ff\U0001f600", min_size=1, max_size=5)
CLOSE_NUMBERS = st.decimals(-20, 20, places=1) | NUMBERS
CONTENTS: dict[str, st.SearchStrategy[Any]] = {"S": TEXTS, "N": CLOSE_NUMBERS, "B": BINARIES}


@st.composite
def close_bytes(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """Two byte strings of which one may begin with the other."""
    beginning = draw(BINARIES)
    return beginning + draw(TRICKY_BYTES), beginning + draw(TRICKY_BYTES)


@st.composite
def close_numbers(draw: st.DrawFn) -> tuple[Decimal, Decimal]:
    """Two numbers whose digits, or exponents, may begin alike."""
    digits = draw(st.integers(1, 10**6))
    more = st.sampled_from(["", "0", "1", "9", "00001"])
    sign, exponent = draw(st.sampled_from(["", "-"])), draw(st.integers(-100, 100))
    one, other = (Decimal(f"{sign}{digits}{draw(more)}e{exponent + draw(st.integers(-1, 1))}") for _ in range(2))
    return draw(st.sampled_from([(one, other), (one, -other), (one, Decimal(0))]))


TYPES = st.sampled_from("SNB")


def table(
    partition: str = "S", sort: str | None = None, names: tuple[str, str] = ("p", "s"), table_id: int = 7
) -> Table:
    return Table(
        name="t",
        id=table_id,
        uuid="u",
        create_time_ms=0,
        partition_key=KeyAttribute(name=names[0], type=KeyAttributeType(partition)),
        sort_key=None if sort is None else KeyAttribute(name=names[1], type=KeyAttributeType(sort)),
    )


def key(codec: KeyCodec, **attributes: Value) -> ItemKey:
    return codec.of_key(to_item(attributes))


@given(close_bytes() | st.tuples(BINARIES, BINARIES))
def test_bytes_keep_their_order(pair: tuple[bytes, bytes]) -> None:
    one, other = pair
    assert (ordered_bytes(one) < ordered_bytes(other)) == (one < other)


@given(TEXTS, TEXTS)
def test_texts_are_ordered_by_their_utf8(one: str, other: str) -> None:
    assert (ordered_bytes(one.encode()) < ordered_bytes(other.encode())) == (one.encode() < other.encode())


@given(close_numbers() | st.tuples(CLOSE_NUMBERS, CLOSE_NUMBERS))
def test_numbers_keep_their_order(pair: tuple[Decimal, Decimal]) -> None:
    one, other = pair
    assert (ordered_number(normalize(str(one))) < ordered_number(normalize(str(other)))) == (one < other)


def test_numbers_at_the_limits_keep_their_order() -> None:
    smallest, largest = Decimal("1e-130"), Decimal("9." + "9" * 37 + "e125")
    positive = [smallest, Decimal("0.9"), Decimal(1), Decimal("1.1"), Decimal("1e125"), largest]
    # Decimal's own minus would round to 28 digits.
    numbers = [number.copy_negate() for number in reversed(positive)] + [Decimal(0), *positive]
    assert numbers == sorted(numbers)
    encoded = [ordered_number(normalize(str(number))) for number in numbers]
    assert encoded == sorted(set(encoded))


# Else the sort key of one partition could be taken for a part of another's partition key.
@given(close_bytes())
def test_no_bytes_are_the_beginning_of_other_bytes(pair: tuple[bytes, bytes]) -> None:
    one, other = pair
    assume(one != other)
    assert not ordered_bytes(other).startswith(ordered_bytes(one))


@given(close_numbers())
def test_no_number_is_the_beginning_of_another(pair: tuple[Decimal, Decimal]) -> None:
    one, other = pair
    assume(one != other)
    assert not ordered_number(normalize(str(other))).startswith(ordered_number(normalize(str(one))))


@given(close_bytes(), st.tuples(TRICKY_BYTES, TRICKY_BYTES))
def test_pairs_keep_their_order(first: tuple[bytes, bytes], second: tuple[bytes, bytes]) -> None:
    one, other = (first[0], second[0]), (first[1], second[1])
    encoded = [ordered_bytes(partition) + sort for partition, sort in (one, other)]
    assert (encoded[0] < encoded[1]) == (one < other)


@given(st.data())
def test_stored_keys_of_one_partition_are_in_the_order_of_their_sort_keys(data: st.DataObject) -> None:
    partition_type, sort_type = data.draw(TYPES), data.draw(TYPES)
    codec = KeyCodec(table(partition_type, sort_type))
    partition: Value = (partition_type, data.draw(CONTENTS[partition_type]))
    one, other = data.draw(CONTENTS[sort_type]), data.draw(CONTENTS[sort_type])
    first, second = key(codec, p=partition, s=(sort_type, one)), key(codec, p=partition, s=(sort_type, other))
    rank = (one.encode(), other.encode()) if sort_type == "S" else (one, other)
    assert (first.stored < second.stored) == (rank[0] < rank[1])
    assert (first.stored == second.stored) == (one == other)


@given(st.data())
def test_a_partition_is_found_in_a_stored_key(data: st.DataObject) -> None:
    partition_type, sort_type = data.draw(TYPES), data.draw(TYPES)
    codec = KeyCodec(table(partition_type, sort_type))
    content = data.draw(CONTENTS[partition_type])
    whole = key(codec, p=(partition_type, content), s=(sort_type, data.draw(CONTENTS[sort_type])))
    plain = normalize(str(content)) if partition_type == "N" else content
    assert codec.partition_of(whole.stored) == codec.ranges.partition([(partition_type, plain)])


@given(st.data())
def test_two_items_have_one_stored_key_exactly_if_their_keys_are_equal(data: st.DataObject) -> None:
    partition_type, sort_type = data.draw(TYPES), data.draw(TYPES)
    codec = KeyCodec(table(partition_type, sort_type))
    pairs = st.tuples(CONTENTS[partition_type], CONTENTS[sort_type])
    one, other = data.draw(pairs), data.draw(pairs)
    stored = [key(codec, p=(partition_type, p), s=(sort_type, s)).stored for p, s in (one, other)]
    assert (stored[0] == stored[1]) == (one == other)
    if one[0] != other[0]:
        # Ranges of keys of different partitions never mix.
        begin, end = (key(KeyCodec(table(partition_type)), p=(partition_type, pair[0])).stored for pair in (one, other))
        assert not stored[1].startswith(begin)
        assert not stored[0].startswith(end)


# Entries of indexes, whose keys may have several attributes.


def index(partition_types: str, sort_types: str) -> Index:
    return Index(
        name="i",
        id=7,
        is_global=True,
        partition_keys=tuple(
            KeyAttribute(name=f"p{number}", type=KeyAttributeType(letter))
            for number, letter in enumerate(partition_types)
        ),
        sort_keys=tuple(
            KeyAttribute(name=f"s{number}", type=KeyAttributeType(letter)) for number, letter in enumerate(sort_types)
        ),
        projection_type=ProjectionType.ALL,
    )


def entry(codec: IndexKeyCodec, contents: Sequence[Value]) -> bytes:
    names = [attribute.name for attribute in codec.attributes]
    stored = codec.entry(to_item(dict(zip(names, contents, strict=True))).attributes)
    assert stored is not None
    return stored


def normal(of: Value) -> Value:
    """A value as expressions have it."""
    return (of[0], normalize(str(of[1]))) if of[0] == "N" else of


def rank(of: Value) -> Any:
    return of[1].encode() if of[0] == "S" else of[1]


def contents_of(data: st.DataObject, types: str) -> list[Value]:
    """Values of few different contents, so that the first of several attributes are often equal."""
    few: dict[str, list[Any]] = {
        "S": ["a", "a\x00", "ab"],
        "N": [Decimal(-1), Decimal(0), Decimal(12)],
        "B": [b"\x00", b"\xff", b"\xff\xff"],
    }
    return [(letter, data.draw(st.sampled_from(few[letter]) | CONTENTS[letter])) for letter in types]


SEVERAL_TYPES = st.text("SNB", min_size=1, max_size=4)


@given(st.data())
def test_entries_of_one_partition_are_in_the_order_of_their_sort_key_attributes(data: st.DataObject) -> None:
    types = data.draw(SEVERAL_TYPES), data.draw(SEVERAL_TYPES)
    codec = IndexKeyCodec(index(*types))
    partition = contents_of(data, types[0])
    one, other = contents_of(data, types[1]), contents_of(data, types[1])
    first, second = entry(codec, partition + one), entry(codec, partition + other)
    ranks = list(map(rank, one)), list(map(rank, other))
    assert (first < second) == (ranks[0] < ranks[1])
    assert (first == second) == (ranks[0] == ranks[1])
    beginning = codec.ranges.partition([normal(each) for each in partition])
    assert first.startswith(beginning)
    if first != second:
        # The place of the item follows, and must not be taken for a part of a sort key.
        assert not second.startswith(first)


@given(st.data())
def test_entries_of_other_partitions_lie_elsewhere(data: st.DataObject) -> None:
    types = data.draw(st.text("SNB", min_size=2, max_size=4))
    codec = IndexKeyCodec(index(types, "S"))
    one, other = contents_of(data, types), contents_of(data, types)
    assume(list(map(rank, one)) != list(map(rank, other)))
    beginning = codec.ranges.partition([normal(each) for each in one])
    assert not entry(codec, [*other, ("S", "a")]).startswith(beginning)


@given(st.data())
def test_a_range_holds_exactly_the_entries_that_satisfy_its_conditions(data: st.DataObject) -> None:
    types = data.draw(SEVERAL_TYPES)
    codec = IndexKeyCodec(index("S", types))
    partition: Value = ("S", "p")
    sorts = [contents_of(data, types) for _ in range(data.draw(st.integers(1, 6)))]
    # The bounds are often contents that are there.
    wanted = data.draw(st.sampled_from(sorts) | st.just(contents_of(data, types)))
    equal = data.draw(st.integers(0, len(types) - 1))
    letter, bound = wanted[equal]
    operators = ["=", "<", "<=", ">", ">=", "BETWEEN"] + (["begins_with"] if letter != "N" else [])
    operator = data.draw(st.sampled_from(operators))
    operands = [wanted[equal]]
    if operator == "BETWEEN":
        operands = sorted([wanted[equal], *contents_of(data, letter)], key=rank)
    conditions = [("=", [normal(each)]) for each in wanted[:equal]] + [(operator, list(map(normal, operands)))]
    begin, end = codec.ranges.sort_range(conditions)
    base = codec.ranges.partition([partition])
    begin, end = base + begin, prefix_end(base) if end is None else base + end

    def satisfies(sort: list[Value]) -> bool:
        if [rank(each) for each in sort[:equal]] != [rank(each) for each in wanted[:equal]]:
            return False
        found, low, high = rank(sort[equal]), rank(operands[0]), rank(operands[-1])
        holds: dict[str, Callable[[], Any]] = {
            "=": lambda: found == low,
            "<": lambda: found < low,
            "<=": lambda: found <= low,
            ">": lambda: found > low,
            ">=": lambda: found >= low,
            "BETWEEN": lambda: low <= found <= high,
            "begins_with": lambda: found.startswith(low),
        }
        return bool(holds[operator]())

    for sort in sorts:
        place = data.draw(st.sampled_from([b"", b"\x00", b"\xff" * 9]))
        stored = entry(codec, [partition, *sort]) + place
        assert (begin <= stored < end) == satisfies(sort), (bound, sort)


@pytest.mark.parametrize("spoiled", range(8))
def test_an_item_without_one_of_the_attributes_or_with_another_type_has_no_entry(spoiled: int) -> None:
    codec = IndexKeyCodec(index("SNBS", "NBSN"))
    contents = [value({"S": "a", "N": 1, "B": b"b"}[letter]) for letter in "SNBSNBSN"]
    whole = to_item({attribute.name: of for attribute, of in zip(codec.attributes, contents, strict=True)})
    assert codec.entry(whole.attributes) is not None
    name = codec.attributes[spoiled].name
    for wrong in (value(None), value({"x"}), value(""), value(b"")):
        whole.attributes[name].CopyFrom(to_attribute_value(wrong))
        assert codec.entry(whole.attributes) is None
    del whole.attributes[name]
    assert codec.entry(whole.attributes) is None


@pytest.mark.parametrize("position", range(8))
def test_each_attribute_has_the_limit_of_its_part_of_the_key(position: int) -> None:
    codec = IndexKeyCodec(index("BBBB", "BBBB"))
    most = 2048 if position < 4 else 1024
    for length, fits in ((most, True), (most + 1, False)):
        whole = item({attribute.name: b"x" for attribute in codec.attributes})
        whole.attributes[codec.attributes[position].name].b = b"x" * length
        assert (codec.entry(whole.attributes) is not None) == fits


def test_a_stored_key_is_table_hash_partition_sort() -> None:
    stored = key(KeyCodec(table("S", "B", table_id=258)), p=("S", "ab"), s=("B", b"\x00\xff")).stored
    assert stored[:TABLE_ID_BYTES] == table_prefix(258) == b"\x00\x00\x01\x02"
    assert stored[TABLE_ID_BYTES:HASH_END] == partition_hash(b"ab").to_bytes(8, "big")
    assert stored[HASH_END:] == ordered_bytes(b"ab") + b"\x00\xff"


# It decides which shard records a change, and so may never differ between versions of the broker.
@pytest.mark.parametrize(
    ("content", "place"),
    [(b"", 0xE4A6A0577479B2B4), (b"a", 0x40F89E395B66422F), (b"1000", 0x6920FAF8766BF202)],
)
def test_the_hash_of_a_partition_key_never_changes(content: bytes, place: int) -> None:
    assert partition_hash(content) == place


def test_the_hash_is_that_of_the_value_not_of_the_spelling() -> None:
    codec = KeyCodec(table("N"))
    keys = [codec.of_key(pb.Item(attributes={"p": pb.AttributeValue(n=text)})) for text in ("1000", "1e3", "1000.0")]
    assert keys[0] == keys[1] == keys[2]
    assert keys[0].item() == keys[1].item() == keys[2].item()
    assert keys[0].hash == partition_hash(b"1000")


@given(st.data())
def test_the_encoded_key_is_the_canonical_item_of_its_attributes(data: st.DataObject) -> None:
    types = data.draw(TYPES), data.draw(TYPES)
    names = data.draw(st.tuples(st.text(min_size=1, max_size=3), st.text(min_size=1, max_size=3)))
    assume(names[0] != names[1])
    codec = KeyCodec(table(*types, names=names))
    of_key = {name: (letter, data.draw(CONTENTS[letter])) for name, letter in zip(names, types, strict=True)}
    made = codec.of_key(to_item(of_key)).item()
    assert made == canonicalize(to_item(of_key))
    assert made.size_bytes == values.size_bytes(of_key)
    assert values.from_item(parse_item(made.encoded)) == of_key


@given(st.data())
def test_an_item_has_the_key_of_its_key_attributes(data: st.DataObject) -> None:
    codec = KeyCodec(table("N", "S"))
    number = data.draw(NUMBERS)
    whole = pb.Item(attributes={"p": pb.AttributeValue(n=data.draw(spellings(number)))})
    whole.attributes["s"].s = text = data.draw(TEXTS)
    whole.attributes["more"].bool = True
    of_key = key(codec, p=("N", number), s=("S", text))
    assert (codec.of_item(whole), codec.of_item(whole).item()) == (of_key, of_key.item())


@pytest.mark.parametrize("missing", ["p", "s"])
def test_an_item_without_a_key_attribute_is_refused_by_its_name(missing: str) -> None:
    whole = item(p="a", s="b", more=1)
    del whole.attributes[missing]
    with pytest.raises(ValidationError, match=f"Missing the key {missing} in the item") as refused:
        KeyCodec(table("S", "S")).of_item(whole)
    assert refused.value.metadata["field"] == missing


def test_an_item_with_a_mistyped_key_attribute_is_refused_with_both_types() -> None:
    with pytest.raises(ValidationError, match="Type mismatch for key s expected: N actual: SS") as refused:
        KeyCodec(table("S", "N")).of_item(item(p="a", s={"b"}))
    assert refused.value.metadata["field"] == "s"


@pytest.mark.parametrize(
    "wrong",
    [
        item(),
        item(p="a"),
        item(s=1),
        item(p="a", s=1, more=2),
        item(p="a", other=1),
        item(p="a", s="1"),
        item(p=1, s=1),
    ],
)
def test_a_key_must_be_exactly_the_key_attributes(wrong: pb.Item) -> None:
    with pytest.raises(ValidationError, match="does not match the schema") as refused:
        KeyCodec(table("S", "N")).of_key(wrong)
    assert refused.value.metadata == {"field": "key", "expected": "p,s"}


@pytest.mark.parametrize(("letter", "role"), list(product("SB", ("p", "s"))))
def test_an_empty_key_is_refused(letter: str, role: str) -> None:
    content: dict[str, object] = {"p": "a", "s": "a"} if letter == "S" else {"p": b"a", "s": b"a"}
    content[role] = "" if letter == "S" else b""
    with pytest.raises(ValidationError, match="cannot contain an empty") as refused:
        KeyCodec(table(letter, letter)).of_key(item(content))
    assert refused.value.metadata == {"field": role, "limit": "1"}


@pytest.mark.parametrize(("role", "most"), [("p", 2048), ("s", 1024)])
def test_a_key_may_have_so_many_bytes_and_no_more(role: str, most: int) -> None:
    codec = KeyCodec(table("S", "S"))
    # Two bytes a letter: the limit is on bytes.
    codec.of_key(item({"p": "a", "s": "a"} | {role: "\u00e9" * (most // 2)}))
    with pytest.raises(ValidationError, match="size") as refused:
        codec.of_key(item({"p": "a", "s": "a"} | {role: "\u00e9" * (most // 2) + "a"}))
    assert refused.value.metadata == {"field": role, "limit": str(most)}


def test_a_bad_number_is_refused_as_a_key() -> None:
    with pytest.raises(ValidationError, match="numeric value"):
        KeyCodec(table("N")).of_key(pb.Item(attributes={"p": pb.AttributeValue(n="seven")}))


@pytest.mark.parametrize(("letter", "key"), [("S", item(p="a\x00b")), ("N", item(p=1000)), ("B", item(p=b"\xff"))])
def test_the_hash_of_a_key_is_found_in_what_records_carry(letter: str, key: pb.Item) -> None:
    made = KeyCodec(table(letter)).of_key(key)
    assert key_hash(made.item().encoded, table(letter).partition_key) == made.hash


def test_tables_do_not_share_keys() -> None:
    one, other = (KeyCodec(table(table_id=table_id)).of_key(item(p="a")) for table_id in (1, 2))
    assert one.stored != other.stored
    assert one.item() == other.item()
    assert one.hash == other.hash


def test_a_key_of_an_update_is_the_value_as_it_was_sent() -> None:
    # The codec must not change the message: the service goes on with it.
    sent = pb.Item(attributes={"p": to_attribute_value(("N", Decimal("1e3")))})
    KeyCodec(table("N")).of_key(sent)
    assert sent.attributes["p"].n == "1E+3"
