"""Keys of items and of index entries: checked, encoded so that byte order is key order, and as records carry them.

A stored key is: table id (4 bytes), hash of the partition key (8 bytes), partition key, sort key. The hash prefix makes
segments of a scan, and the slices of a split shard, ranges of keys. The key of an index entry is the same with the
index's id and key attributes, followed by the item's place, for index keys need not be unique.

Of several partition or sort key attributes the ordered forms follow each other; each has an end, so that the order is
that of the attributes, one after the other. The hash is that of a single partition key's value, as in a table, or of
the joined ordered forms of several.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from typing import Final

from broker.encoding.items import EncodedItem
from broker.encoding.varint import field_bytes
from broker.model import numbers
from broker.model.errors import ItemKeyError, ValidationError
from broker.model.tables import Index, KeyAttribute, KeyAttributeType, Table
from broker.model.values import PARTITION_KEY_BYTES_MAX, SORT_KEY_BYTES_MAX, Value
from headrace.v1 import attribute_value_pb2 as pb

KEY_MISMATCH: Final = "The provided key element does not match the schema"
TABLE_ID_BYTES: Final = 4
HASH_BYTES: Final = 8
HASH_END: Final = TABLE_ID_BYTES + HASH_BYTES

# An item's attributes are field 1; in each map entry the name is field 1 and the value field 2.
_FIELD_1: Final = b"\x0a"
_FIELD_2: Final = b"\x12"
_KINDS: Final = {KeyAttributeType.STRING: "s", KeyAttributeType.NUMBER: "n", KeyAttributeType.BINARY: "b"}
_VALUE_TAGS: Final = {"s": b"\x0a", "n": b"\x12", "b": b"\x1a"}

# An entry's heads of the value and of its content, where each length takes one byte.
_SHORT_ENTRY_HEADS: Final = 4
_ONE_BYTE_LENGTH_MAX: Final = 0x80
# Exponents are shifted so that they are positive in two bytes.
_EXPONENT_BIAS: Final = 0x4000
_EXPONENT_BYTES: Final = 2
# How an ordered number begins, and how its digits and ordered bytes end.
_NEGATIVE, _ZERO, _POSITIVE = b"\x00", b"\x01", b"\x02"
_DIGITS_END: Final = b"\x00"
_BYTES_END: Final = b"\x00\x01"
_INVERT: Final = bytes(255 - byte for byte in range(256))


class ItemKey:
    """The key of one item; equal to all keys that are stored as it is."""

    __slots__ = ("_make_item", "stored")

    def __init__(self, stored: bytes, make_item: Callable[[], EncodedItem]) -> None:
        self.stored = stored
        # Reads do not need it.
        self._make_item = make_item

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ItemKey) and self.stored == other.stored

    def __hash__(self) -> int:
        return hash(self.stored)

    def item(self) -> EncodedItem:
        """The key attributes as a canonical item."""
        return self._make_item()

    @property
    def place(self) -> bytes:
        """The stored key without the table's id: equal keys have equal places in all tables and regions."""
        return self.stored[TABLE_ID_BYTES:]

    @property
    def hash(self) -> int:
        """The partition key's place in the hash range."""
        return int.from_bytes(self.stored[TABLE_ID_BYTES:HASH_END], "big")


def partition_hash(content: bytes) -> int:
    """The hash that decides which shard records a partition key's changes: BLAKE2b, first 64 bits."""
    return int.from_bytes(blake2b(content, digest_size=HASH_BYTES).digest(), "big")


def key_hasher(partition_key: KeyAttribute) -> Callable[[bytes], int]:
    """What gives the place in the hash range of a key as change records carry it."""
    attribute = _Attribute(partition_key, PARTITION_KEY_BYTES_MAX, is_sort_key=False, is_ended=True)
    name = partition_key.name

    def hash_of(encoded_key: bytes) -> int:
        return partition_hash(attribute.content(pb.Item.FromString(encoded_key).attributes[name]))

    return hash_of


def key_hash(encoded_key: bytes, partition_key: KeyAttribute) -> int:
    """The place in the hash range of a key as change records carry it."""
    return key_hasher(partition_key)(encoded_key)


def table_prefix(table_id: int) -> bytes:
    """What every stored key of a table or index begins with."""
    return table_id.to_bytes(TABLE_ID_BYTES, "big")


def prefix_end(prefix: bytes) -> bytes:
    """The smallest byte string after all that begin with a prefix, which is not all FF."""
    kept = prefix.rstrip(b"\xff")
    return kept[:-1] + bytes((kept[-1] + 1,))


class KeyCodec:
    """Makes the keys of one table's items."""

    def __init__(self, table: Table) -> None:
        self.prefix = table_prefix(table.id)
        self._partition = _Attribute(table.partition_key, PARTITION_KEY_BYTES_MAX, is_sort_key=False, is_ended=True)
        self._sort = (
            None
            if table.sort_key is None
            else _Attribute(table.sort_key, SORT_KEY_BYTES_MAX, is_sort_key=True, is_ended=False)
        )
        sort = () if self._sort is None else (self._sort,)
        self.attributes = (self._partition, *sort)
        self.ranges = KeyRanges(self.prefix, (self._partition,), sort)
        self._is_partition_first = self._sort is None or _is_first(self._partition.name, self._sort.name)
        self.names = frozenset(attribute.name for attribute in table.key_attributes)

    def of_item(self, item: pb.Item) -> ItemKey:
        """The key of a whole, canonical item. Raises ValidationError if a key attribute is missing or mistyped."""
        attributes = item.attributes
        partition = self._partition.of(attributes)
        return self._key(partition, None if self._sort is None else self._sort.of(attributes))

    def of_key(self, key: pb.Item) -> ItemKey:
        """The key that is exactly these attributes. Raises ValidationError if they do not match the key schema."""
        attributes = key.attributes
        matches = len(attributes) == len(self.attributes)
        for attribute in self.attributes:
            # Looking a missing name up would add it.
            matches = (
                matches
                and attribute.name in attributes
                and attributes[attribute.name].WhichOneof("kind") == attribute.kind
            )
        if not matches:
            raise ValidationError(KEY_MISMATCH, field="key", expected=",".join(sorted(self.names)))
        sort = None if self._sort is None else attributes[self._sort.name]
        return self._key(attributes[self._partition.name], sort)

    def partition_of(self, stored: bytes) -> bytes:
        """What the stored keys of the partition key begin with that is in a stored key."""
        return stored[: self._partition.end(stored, HASH_END)]

    def _key(self, partition_value: pb.AttributeValue, sort_value: pb.AttributeValue | None) -> ItemKey:
        partition, sort = self._partition, self._sort
        content = partition.content(partition_value)
        hash_bytes = blake2b(content, digest_size=HASH_BYTES).digest()
        stored = b"%b%b%b" % (self.prefix, hash_bytes, partition.ordered(content))
        sort_content = b""
        if sort is not None and sort_value is not None:
            sort_content = sort.content(sort_value)
            stored += sort.ordered(sort_content)
        return ItemKey(stored, lambda: self._item(content, sort_content))

    def _item(self, content: bytes, sort_content: bytes) -> EncodedItem:
        partition, sort = self._partition, self._sort
        encoded, size = partition.entry(content), partition.size_bytes(content)
        if sort is None:
            return EncodedItem(encoded, size)
        entry = sort.entry(sort_content)
        return EncodedItem(
            encoded + entry if self._is_partition_first else entry + encoded, size + sort.size_bytes(sort_content)
        )


class IndexKeyCodec:
    """Makes the first part of the keys of one index's entries: all but the place of the item."""

    def __init__(self, index: Index) -> None:
        self._prefix = table_prefix(index.id)
        partition = tuple(
            _Attribute(attribute, PARTITION_KEY_BYTES_MAX, is_sort_key=False, is_ended=True)
            for attribute in index.partition_keys
        )
        # Something follows each of them: the next one, or the place.
        sort = tuple(
            _Attribute(attribute, SORT_KEY_BYTES_MAX, is_sort_key=True, is_ended=True) for attribute in index.sort_keys
        )
        self.attributes = (*partition, *sort)
        self.ranges = KeyRanges(self._prefix, partition, sort)
        self._partition_count = len(partition)
        self.names = frozenset(attribute.name for attribute in self.attributes)

    def entry(self, attributes: Mapping[str, pb.AttributeValue]) -> bytes | None:
        """The first part of the key of an item's entry; None if the item does not belong into the index."""
        parts: list[bytes] = []
        hashed = b""
        try:
            for attribute in self.attributes:
                name = attribute.name
                # Looking a missing name up would add it.
                if name not in attributes:
                    return None
                value = attributes[name]
                if value.WhichOneof("kind") != attribute.kind:
                    return None
                content = attribute.content(value)
                if not parts:
                    hashed = content
                parts.append(attribute.ordered(content))
        except ValidationError:
            # Empty or too long: items written before there was the index, or in another region, may be.
            return None
        if self._partition_count > 1:
            hashed = b"".join(parts[: self._partition_count])
        return b"".join((self._prefix, blake2b(hashed, digest_size=HASH_BYTES).digest(), *parts))


class KeyRanges:
    """Where the keys of one table, or of the entries of one index, lie that key conditions mean."""

    def __init__(self, prefix: bytes, partition: Sequence[_Attribute], sort: Sequence[_Attribute]) -> None:
        self._prefix = prefix
        self._partition = partition
        self._sort = sort
        self.partition_names = tuple(attribute.name for attribute in partition)
        self.sort_names = tuple(attribute.name for attribute in sort)

    def partition(self, values: Sequence[Value]) -> bytes:
        """What the stored keys of one partition key begin with, given all its attributes.

        Raises ValidationError if a value cannot be that of its attribute.
        """
        if len(self._partition) == 1:
            # Nearly all keys.
            (attribute,), (value,) = self._partition, values
            content = attribute.content_of(value)
            hash_bytes = blake2b(content, digest_size=HASH_BYTES).digest()
            return self._prefix + hash_bytes + attribute.ordered(content)
        contents = [attribute.content_of(of) for attribute, of in zip(self._partition, values, strict=True)]
        ordered = [attribute.ordered(content) for attribute, content in zip(self._partition, contents, strict=True)]
        joined = b"".join(ordered)
        return self._prefix + blake2b(joined, digest_size=HASH_BYTES).digest() + joined

    def sort_range(self, conditions: Sequence[tuple[str, Sequence[Value]]]) -> tuple[bytes, bytes | None]:
        """Where in a partition the sort keys lie that satisfy conditions: begin and end after `partition`.

        The conditions, an operator and its operands, are of the first sort key attributes in their order; all but the
        last are "=". The end is None if that of the partition is meant. Raises ValidationError if an operand cannot be
        a value of its attribute.
        """
        # The attributes before the one that is looked at are the same in all keys meant.
        begin, end = b"", None
        for attribute, (operator, operands) in zip(self._sort, conditions, strict=False):
            equal_end = prefix_end(begin) if begin else None
            first, last = attribute.range(operator, operands)
            begin, end = begin + first, equal_end if last is None else begin + last
        return begin, end


class _Attribute:
    """One key attribute: its checks and encodings, prepared."""

    def __init__(self, attribute: KeyAttribute, bytes_max: int, *, is_sort_key: bool, is_ended: bool) -> None:
        self.type = attribute.type
        self.name = attribute.name
        self.name_bytes = attribute.name.encode()
        self.kind = _KINDS[attribute.type]
        self.is_number = attribute.type is KeyAttributeType.NUMBER
        self._is_sort_key = is_sort_key
        # Whether it has an end, so that none is a prefix of another: something may follow it.
        self._is_ended = is_ended
        self.bytes_max = bytes_max
        self._entry_name = field_bytes(_FIELD_1, self.name_bytes)
        self._value_tag = _VALUE_TAGS[self.kind]

    def of(self, attributes: Mapping[str, pb.AttributeValue]) -> pb.AttributeValue:
        """The attribute in an item. Raises ItemKeyError if it is missing or has another type."""
        # Looking a missing name up would add it.
        if self.name not in attributes:
            raise ItemKeyError(
                f"One or more parameter values were invalid: Missing the key {self.name} in the item", field=self.name
            )
        value = attributes[self.name]
        kind = value.WhichOneof("kind")
        if kind != self.kind:
            raise ItemKeyError(
                f"One or more parameter values were invalid: Type mismatch for key {self.name} expected: "
                f"{self.kind.upper()} actual: {(kind or 'none').upper()}",
                field=self.name,
            )
        return value

    def content(self, value: pb.AttributeValue) -> bytes:
        """The value's bytes, in normal form. Raises ValidationError if it is empty, too long or not a number."""
        if self.kind == "s":
            content = value.s.encode()
        elif self.kind == "b":
            content = value.b
        else:
            return numbers.normalize(value.n).encode()
        return self._checked(content)

    def content_of(self, value: Value) -> bytes:
        """The same of a value of an expression. Raises ValidationError also if it is of another type."""
        kind, content = value
        if kind != self.type:
            raise ValidationError(
                "One or more parameter values were invalid: Condition parameter type does not match schema type",
                field=self.name,
            )
        data: bytes = content if kind == "B" else content.encode()
        return data if self.is_number else self._checked(data)

    def _checked(self, content: bytes) -> bytes:
        if not content:
            what = "string" if self.kind == "s" else "binary"
            raise ValidationError(
                "One or more parameter values are not valid. The AttributeValue for a key attribute cannot contain an "
                f"empty {what} value. Key: {self.name}",
                field=self.name,
                limit=1,
            )
        if len(content) > self.bytes_max:
            what = (
                "Aggregated size of all range keys has exceeded the size limit of "
                if self._is_sort_key
                else "Size of hashkey has exceeded the maximum size limit of "
            )
            raise ValidationError(
                f"One or more parameter values were invalid: {what}{self.bytes_max} bytes",
                field=self.name,
                limit=self.bytes_max,
            )
        return content

    def ordered(self, content: bytes) -> bytes:
        """The content so that byte order is key order, and no partition key is a prefix of another's."""
        if self.is_number:
            return ordered_number(content.decode())
        return ordered_bytes(content) if self._is_ended else content

    def range(self, operator: str, operands: Sequence[Value]) -> tuple[bytes, bytes | None]:
        """Where the ordered forms lie that satisfy a condition, with all that follows them; None: up to the last.

        Raises ValidationError if an operand cannot be a value of the attribute.
        """
        contents = [self.content_of(operand) for operand in operands]
        if operator == "begins_with":
            prefix = escaped(contents[0]) if self._is_ended else contents[0]
            # A prefix of nothing but FF has no end of its own.
            return prefix, prefix_end(prefix) if prefix.strip(b"\xff") else None
        first, last = self.ordered(contents[0]), self.ordered(contents[-1])
        match operator:
            case "<":
                return b"", first
            case "<=":
                return b"", self._after(first)
            case ">":
                return self._after(first), None
            case ">=":
                return first, None
            case _:
                # "=" and BETWEEN.
                return first, self._after(last)

    def _after(self, ordered: bytes) -> bytes:
        """The smallest byte string after an ordered form and all that may follow it."""
        return prefix_end(ordered) if self._is_ended else ordered + b"\x00"

    def end(self, stored: bytes, begin: int) -> int:
        """Where an ordered content ends that has an end."""
        if not self.is_number:
            return stored.index(_BYTES_END, begin) + len(_BYTES_END)
        sign = stored[begin : begin + 1]
        if sign == _ZERO:
            return begin + 1
        # The exponent may hold any bytes.
        return (
            stored.index(
                _DIGITS_END if sign == _POSITIVE else _DIGITS_END.translate(_INVERT), begin + 1 + _EXPONENT_BYTES
            )
            + 1
        )

    def entry(self, content: bytes) -> bytes:
        """The attribute as an entry of an encoded Item."""
        length, entry_length = len(content), len(self._entry_name) + len(content) + _SHORT_ENTRY_HEADS
        if entry_length < _ONE_BYTE_LENGTH_MAX:
            # All lengths take one byte: the same as below, in one step.
            return b"\x0a%c%b\x12%c%b%c%b" % (
                entry_length,
                self._entry_name,
                length + 2,
                self._value_tag,
                length,
                content,
            )
        value = field_bytes(self._value_tag, content)
        return field_bytes(_FIELD_1, self._entry_name + field_bytes(_FIELD_2, value))

    def size_bytes(self, content: bytes) -> int:
        """What DynamoDB counts for the attribute."""
        size = numbers.size_bytes(content.decode()) if self.is_number else len(content)
        return len(self.name_bytes) + size


def _is_first(name: str, other: str) -> bool:
    """Whether a canonical item has one attribute before another: protobuf's order is not quite that of bytes."""
    item = pb.Item()
    for each in (name, other):
        item.attributes[each].null = True
    encoded = item.SerializeToString(deterministic=True)
    del item.attributes[other]
    return encoded.startswith(item.SerializeToString(deterministic=True))


def escaped(content: bytes) -> bytes:
    """Bytes in which zeros are followed by FF, so that 00 01 cannot occur."""
    return content.replace(b"\x00", b"\x00\xff")


def ordered_bytes(content: bytes) -> bytes:
    """Bytes with an end that sorts before any continuation: escaped, then 00 01."""
    return escaped(content) + _BYTES_END


def ordered_number(normal: str) -> bytes:
    """A number in normal form so that byte order is numeric order: sign, exponent, digits, end."""
    negative, digits, exponent = numbers.scientific(normal)
    if not digits:
        return _ZERO
    body = (exponent + _EXPONENT_BIAS).to_bytes(_EXPONENT_BYTES, "big") + digits.encode() + _DIGITS_END
    return _NEGATIVE + body.translate(_INVERT) if negative else _POSITIVE + body
