"""Request bodies that are sent compressed, as AWS's SDKs may do with large ones.

Source: RFC 9110, "Content Codings".
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final

from broker.model.errors import SerializationError

if TYPE_CHECKING:
    from collections.abc import Iterator

# Inflating this much takes about a millisecond.
PART_BYTES_MAX: Final = 256 * 1024
IDENTITY: Final = "identity"
# zlib tells its own format from gzip's with this many window bits.
_EITHER_FORMAT: Final = zlib.MAX_WBITS | 32
_ENCODINGS: Final = ("gzip", "x-gzip", "deflate")


def inflate(body: bytes | bytearray, encoding: str) -> Iterator[bytes]:
    """Yield the parts of a compressed body, at most 256 KiB each.

    The encoding is in lower case. Raises SerializationError for an encoding other than gzip and deflate, and for a body
    that is damaged, cut off or followed by more bytes.
    """
    if encoding not in _ENCODINGS:
        raise SerializationError(f"Content-Encoding {encoding[:64]!a} is not taken: only gzip and deflate are")
    stream = zlib.decompressobj(_EITHER_FORMAT)
    rest: bytes | bytearray = body
    try:
        while not stream.eof:
            part = stream.decompress(rest, PART_BYTES_MAX)
            rest = stream.unconsumed_tail
            if not part and not stream.eof:
                raise SerializationError("The compressed request body is cut off")
            yield part
    except zlib.error as error:
        raise SerializationError(f"The request body cannot be inflated as {encoding}: {error}") from error
    if stream.unused_data:
        raise SerializationError("Bytes follow the end of the compressed request body")
