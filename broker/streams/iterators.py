"""Shard iterators: opaque positions, signed so that they cannot be made up, valid for 15 minutes.

Source: DynamoDB Streams API Reference, "GetShardIterator" (lifetime).
"""

from __future__ import annotations

import base64
import binascii
import hmac
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from broker.model.errors import ExpiredIteratorError, ValidationError

if TYPE_CHECKING:
    from broker.model.clock import Clock

LIFETIME_MS: Final = 15 * 60 * 1000

_FORMAT: Final = 1
_SIGNATURE_BYTES: Final = 16
# Format, number of the shard, position, time of minting; then "<table>/stream/<label>".
_HEAD: Final = struct.Struct(">BQQQ")
_LENGTH_MAX: Final = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """A place in a shard: just after a sequence number."""

    stream_name: str
    shard: int
    after: int


class Iterators:
    """Mints and checks iterators with one store's secret."""

    def __init__(self, secret: bytes, clock: Clock) -> None:
        self._secret = secret
        self._clock = clock

    def mint(self, position: Position) -> str:
        """An iterator that is valid for 15 minutes from now."""
        head = _HEAD.pack(_FORMAT, position.shard, position.after, self._clock.now_ms())
        body = head + position.stream_name.encode()
        return base64.urlsafe_b64encode(self._sign(body) + body).decode()

    def check(self, iterator: str) -> Position:
        """The position of an iterator. Raises ValidationError if it was not minted here, or ExpiredIteratorError."""
        try:
            raw = base64.b64decode(iterator[:_LENGTH_MAX].encode("ascii"), altchars=b"-_", validate=True)
        except (ValueError, binascii.Error):
            raw = b""
        # Base64 has several texts for the same bytes; only the one that was minted counts.
        if base64.urlsafe_b64encode(raw).decode() != iterator:
            raw = b""
        signature, body = raw[:_SIGNATURE_BYTES], raw[_SIGNATURE_BYTES:]
        if len(body) < _HEAD.size or not hmac.compare_digest(signature, self._sign(body)):
            raise ValidationError("Invalid ShardIterator: it was not made by this broker", field="shard_iterator")
        _, shard, after, minted_ms = _HEAD.unpack_from(body)
        if self._clock.now_ms() - minted_ms > LIFETIME_MS:
            raise ExpiredIteratorError(
                "The shard iterator is older than 15 minutes; get a new one", field="shard_iterator", limit=LIFETIME_MS
            )
        return Position(stream_name=body[_HEAD.size :].decode(), shard=shard, after=after)

    def _sign(self, body: bytes) -> bytes:
        return hmac.digest(self._secret, body, "sha256")[:_SIGNATURE_BYTES]
