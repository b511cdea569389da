"""Protobuf's variable-length integers, for the few places that join stored bytes into a message by hand."""

from __future__ import annotations

from typing import Final


def _encode(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
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
