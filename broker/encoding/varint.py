"""Protobuf's variable-length integers, for the few places that join stored bytes into a message by hand."""

from __future__ import annotations

from typing import Final

# Seven bits a byte; the eighth says that more follow.
_LOW_BITS: Final = 0x7F
_MORE: Final = 0x80


def _encode(number: int) -> bytes:
    out = bytearray()
    while number > _LOW_BITS:
        out.append(number & _LOW_BITS | _MORE)
        number >>= 7
    out.append(number)
    return bytes(out)


_TABLE_SIZE: Final = 1 << 14
_TABLE: Final = tuple(_encode(number) for number in range(_TABLE_SIZE))


def varint(number: int) -> bytes:
    """The encoding of a number that is not negative."""
    return _TABLE[number] if number < _TABLE_SIZE else _encode(number)


def field_bytes(tag: bytes, content: bytes) -> bytes:
    """A length-delimited field."""
    return b"%b%b%b" % (tag, varint(len(content)), content)


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """The number that begins at a place, and the place after it."""
    number = shift = 0
    while data[at] & _MORE:
        number |= (data[at] & _LOW_BITS) << shift
        shift += 7
        at += 1
    return number | data[at] << shift, at + 1
