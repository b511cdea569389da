"""The mirror of the item service: the same bytes on the wire, with each Item left as bytes."""

from __future__ import annotations

import random
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from broker.rpc import mirror
from headrace.v1 import attribute_value_pb2, error_pb2, item_service_pb2
from tests.values import item

PUBLIC = item_service_pb2.DESCRIPTOR
NAMES = sorted(PUBLIC.message_types_by_name)
ITEM = attribute_value_pb2.Item.DESCRIPTOR.full_name


def mirrored(name: str) -> Descriptor:
    descriptor: Descriptor = mirror.ITEM_SERVICE.file.message_types_by_name[name]
    return descriptor


def fill(message: Message, rng: random.Random, depth: int = 0) -> None:
    """Gives a message some content in all its fields, as far down as its own file goes."""
    fields: list[Any] = list(message.DESCRIPTOR.fields)
    chosen = {
        rng.choice([f.name for f in fields if f.containing_oneof == oneof]) for oneof in message.DESCRIPTOR.oneofs
    }
    for field in fields:
        if (field.containing_oneof and field.name not in chosen) or depth > 3:
            continue
        if field.message_type is None:
            setattr(message, field.name, _scalar(field))
        elif field.message_type.full_name == ITEM:
            made = [item(id="a", n=rng.randrange(9), m={"k": [1, b"x", None]}) for _ in range(rng.randint(1, 3))]
            if field.is_repeated:
                getattr(message, field.name).extend(made)
            else:
                getattr(message, field.name).CopyFrom(made[0])
        elif field.message_type.GetOptions().map_entry:
            entries = getattr(message, field.name)
            if field.message_type.fields_by_name["value"].message_type is None:
                entries["#k"] = "name"
            elif field.message_type.fields_by_name["value"].message_type.name == "AttributeValue":
                entries[":v"].ss.values.extend(["a", "b"])
            else:
                fill(entries["index"], rng, depth + 1)
        elif field.is_repeated:
            for _ in range(rng.randint(1, 3)):
                fill(getattr(message, field.name).add(), rng, depth + 1)
        else:
            getattr(message, field.name).SetInParent()
            fill(getattr(message, field.name), rng, depth + 1)


def _scalar(field: Any) -> object:
    return {
        FieldDescriptor.CPPTYPE_STRING: "text",
        FieldDescriptor.CPPTYPE_BOOL: True,
        FieldDescriptor.CPPTYPE_INT32: 7,
        FieldDescriptor.CPPTYPE_INT64: 2**40,
        FieldDescriptor.CPPTYPE_ENUM: 1,
        FieldDescriptor.CPPTYPE_DOUBLE: 1.5,
    }[field.cpp_type]


def test_the_service_has_the_same_methods() -> None:
    public = PUBLIC.services_by_name["ItemService"]
    assert mirror.ITEM_SERVICE.full_name == public.full_name
    for mine, theirs in zip(mirror.ITEM_SERVICE.methods, public.methods, strict=True):
        assert mine.name == theirs.name
        assert mine.input_type.full_name == theirs.input_type.full_name
        assert mine.output_type.full_name == theirs.output_type.full_name
        assert (mine.client_streaming, mine.server_streaming) == (theirs.client_streaming, theirs.server_streaming)


@pytest.mark.parametrize("name", NAMES)
def test_messages_differ_only_where_an_item_is(name: str) -> None:
    public = PUBLIC.message_types_by_name[name]
    for mine, theirs in zip(mirrored(name).fields, public.fields, strict=True):
        assert (mine.name, mine.number, mine.is_repeated) == (theirs.name, theirs.number, theirs.is_repeated)
        is_item = theirs.message_type is not None and theirs.message_type.full_name == ITEM
        assert mine.type == (FieldDescriptor.TYPE_BYTES if is_item else theirs.type)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("name", NAMES)
def test_what_a_client_sends_is_read_and_written_byte_for_byte(name: str, seed: int) -> None:
    public = GetMessageClass(PUBLIC.message_types_by_name[name])()
    fill(public, random.Random(f"{name}/{seed}"))
    wire = public.SerializeToString(deterministic=True)
    assert wire or not public.DESCRIPTOR.fields
    parsed = GetMessageClass(mirrored(name)).FromString(wire)
    assert parsed.SerializeToString(deterministic=True) == wire
    assert type(public).FromString(parsed.SerializeToString()) == public


def test_an_item_is_left_as_the_bytes_that_were_sent() -> None:
    whole = item(id="a", n=1)
    sent = item_service_pb2.PutItemRequest(table_name="t", item=whole).SerializeToString()
    parsed = GetMessageClass(mirrored("PutItemRequest")).FromString(sent)
    assert attribute_value_pb2.Item.FromString(parsed.item) == whole  # type: ignore[attr-defined]


# Two descriptors of one name in one pool would be refused: the mirror has a pool of its own.
def test_the_public_messages_are_untouched() -> None:
    assert item_service_pb2.PutItemRequest(item=item(id="a")).item == item(id="a")
    assert error_pb2.Error(reason="x").reason == "x"
    assert mirror.ITEM_SERVICE.file.pool is not PUBLIC.pool
