"""Change records as bytes: written once at commit, then only carried."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from broker.encoding.items import EncodedItem
from broker.encoding.keys import ItemKey
from broker.encoding.varint import field_bytes, read_varint, varint
from broker.model.clock import Version
from broker.model.errors import CorruptionError
from broker.model.tables import StreamViewType
from headrace.v1 import record_pb2 as pb

# Tags of Record's fields, in the order they are written. A test parses what is joined here with the real message.
_INSERT: Final = b"\x08" + varint(pb.EVENT_NAME_INSERT)
_MODIFY: Final = b"\x08" + varint(pb.EVENT_NAME_MODIFY)
_REMOVE: Final = b"\x08" + varint(pb.EVENT_NAME_REMOVE)
_SEQUENCE_NUMBER: Final = b"\x12\x15"
# What the two first fields take, tags and the length of the second included.
_EVENT_NAME_BYTES: Final = 2
_SEQUENCE_NUMBER_BYTES: Final = 2 + 21
_TIME: Final = b"\x1a"
_KEYS: Final = b"\x22"
_NEW_IMAGE: Final = b"\x2a"
_OLD_IMAGE: Final = b"\x32"
_SIZE_BYTES: Final = b"\x38"
# The low bits of a tag, and what they are where a length follows; they are 0 where a number does.
_WIRE_TYPE: Final = 7
_LENGTH_DELIMITED: Final = 2
# By view type: its field, and whether new and old images are recorded.
_VIEWS: Final = {
    view: (
        b"\x40" + varint(pb.StreamViewType.Value(f"STREAM_VIEW_TYPE_{view}")),
        view.has_new_image,
        view.has_old_image,
    )
    for view in StreamViewType
}
_VERSION: Final = b"\x4a"
# The field user_identity of an item's expiry. Source: Developer Guide, "DynamoDB Streams and Time to Live".
_EXPIRY_IDENTITY: Final = field_bytes(
    b"\x52", pb.UserIdentity(principal_id="dynamodb.amazonaws.com", type="Service").SerializeToString()
)
# Tags of Version's fields.
_HYBRID_TIME: Final = b"\x09"
_ORIGIN_REGION: Final = b"\x12"
# A record in a response: an element of `repeated Record records = 1`.
_ELEMENT: Final = b"\x0a"


def encode_time(millis: int) -> bytes:
    """The field approximate_creation_date_time; the same for all records of a group commit."""
    seconds, rest = divmod(millis, 1000)
    timestamp = b"\x08" + varint(seconds) + (b"\x10" + varint(rest * 1_000_000) if rest else b"")
    return field_bytes(_TIME, timestamp)


def encode_version(version: Version) -> bytes:
    """A protobuf Version."""
    return _HYBRID_TIME + version.hybrid_time.to_bytes(8, "little") + _origin_region(version.origin_region)


@lru_cache(maxsize=256)
def _origin_region(region: str) -> bytes:
    return field_bytes(_ORIGIN_REGION, region.encode())


def encode_record(
    *,
    sequence_number: int,
    time_field: bytes,
    view_type: StreamViewType,
    key: ItemKey,
    old: EncodedItem | None,
    new: EncodedItem | None,
    version: Version,
    is_expiry: bool = False,
) -> bytes:
    """A change from `old` to `new` as an element of `repeated Record records = 1`."""
    encoded_key, size = key.item()
    view_type_field, has_new_image, has_old_image = _VIEWS[view_type]
    parts = [
        _event_name(old, new),
        _SEQUENCE_NUMBER,
        b"%021d" % sequence_number,
        time_field,
        _KEYS,
        varint(len(encoded_key)),
        encoded_key,
    ]
    if new is not None and has_new_image:
        parts += (_NEW_IMAGE, varint(len(new.encoded)), new.encoded)
        size += new.size_bytes
    if old is not None and has_old_image:
        parts += (_OLD_IMAGE, varint(len(old.encoded)), old.encoded)
        size += old.size_bytes
    encoded_version = encode_version(version)
    parts += (_SIZE_BYTES, varint(size), view_type_field, _VERSION, varint(len(encoded_version)), encoded_version)
    if is_expiry:
        parts.append(_EXPIRY_IDENTITY)
    record = b"".join(parts)
    return b"%b%b%b" % (_ELEMENT, varint(len(record)), record)


def record_key(element: bytes) -> bytes:
    """The encoded key that a record carries; records of one key have the same. The rest is not looked at.

    Raises CorruptionError if these are not the bytes of a record.
    """
    try:
        _, start = read_varint(element, len(_ELEMENT))
        time = start + _EVENT_NAME_BYTES + _SEQUENCE_NUMBER_BYTES
        # A time takes less than 128 bytes, so its length takes one.
        keys = time + len(_TIME) + 1 + element[time + len(_TIME)]
        length, begin = read_varint(element, keys + len(_KEYS))
    except IndexError as error:
        raise CorruptionError("a stored record is not what was written") from error
    if element[time : time + 1] != _TIME or element[keys : keys + 1] != _KEYS:
        raise CorruptionError("a stored record is not what was written")
    return element[begin : begin + length]


def record_old_image(element: bytes) -> bytes | None:
    """The encoded item that a record holds as it was before; None if it holds none. The rest is not looked at.

    Raises CorruptionError if these are not the bytes of a record.
    """
    try:
        length, at = read_varint(element, len(_ELEMENT))
        end = at + length
        while at < end == len(element):
            # All fields have numbers that take one byte.
            tag = element[at : at + 1]
            number, at = read_varint(element, at + 1)
            if tag[0] & _WIRE_TYPE == _LENGTH_DELIMITED:
                if tag == _OLD_IMAGE:
                    return element[at : at + number]
                at += number
            elif tag[0] & _WIRE_TYPE:
                break
    except IndexError as error:
        raise CorruptionError("a stored record is not what was written") from error
    if at != len(element):
        raise CorruptionError("a stored record is not what was written")
    return None


def _event_name(old: EncodedItem | None, new: EncodedItem | None) -> bytes:
    """The field event_name."""
    if old is None:
        return _INSERT
    return _REMOVE if new is None else _MODIFY
