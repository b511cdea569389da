"""Shard iterators: opaque positions, signed so that they cannot be made up, valid for 15 minutes.

Source: DynamoDB Streams API Reference, "GetShardIterator" (lifetime).
"""

from __future__ import annotations

import base64
import binascii
import hmac
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from broker.model.errors import ExpiredIteratorError, ValidationError

if TYPE_CHECKING:
    from broker.model.clock import Clock

LIFETIME_MS: Final = 15 * 60 * 1000

_FORMAT: Final = 2
# The same with the hash range of a lane after the head.
_LANE_FORMAT: Final = 3
_SIGNATURE_BYTES: Final = 16
# Format, time of minting, whether it is in all shards of the stream, places; then the places, then the stream's name.
_HEAD: Final = struct.Struct(">BQ?H")
# First and last hash.
_LANE: Final = struct.Struct(">QQ")
# Number of the shard, sequence number, time.
_PLACE: Final = struct.Struct(">IQQ")
# DynamoDB's bound for an iterator of one shard is 2,048; a reader of a whole stream has a place in each shard.
_LENGTH_MAX: Final = 32_768


class Place(NamedTuple):
    """A place in one shard: just after a sequence number."""

    # The shard's number on disk.
    shard: int
    after: int
    # When the last record before it was written, in milliseconds since 1970 UTC; 0 if that is not known.
    time_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """A place in one shard, or one in each shard of a stream that is being read."""

    stream_name: str
    places: tuple[Place, ...]
    # Whether the shards that follow are to be read too.
    is_whole_stream: bool = False
    # The first and the last hash of the lane that is read of the one shard; None: all of it.
    lane: tuple[int, int] | None = None


class Iterators:
    """Mints and checks iterators with one store's secret."""

    def __init__(self, secret: bytes, clock: Clock) -> None:
        self._secret = secret
        self._clock = clock

    def mint(self, position: Position) -> str:
        """An iterator that is valid for 15 minutes from now."""
        places, lane = position.places, position.lane
        format_ = _FORMAT if lane is None else _LANE_FORMAT
        head = _HEAD.pack(format_, self._clock.now_ms(), position.is_whole_stream, len(places))
        if lane is not None:
            head += _LANE.pack(*lane)
        body = b"".join((head, *(_PLACE.pack(*place) for place in places), position.stream_name.encode()))
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
        is_known = len(body) >= _HEAD.size and body[0] in (_FORMAT, _LANE_FORMAT)
        if not is_known or not hmac.compare_digest(signature, self._sign(body)):
            raise ValidationError("Invalid ShardIterator: it was not made by this broker", field="shard_iterator")
        format_, minted_ms, is_whole_stream, count = _HEAD.unpack_from(body)
        if self._clock.now_ms() - minted_ms > LIFETIME_MS:
            raise ExpiredIteratorError(
                "The shard iterator is older than 15 minutes; get a new one", field="shard_iterator", limit=LIFETIME_MS
            )
        lane = _LANE.unpack_from(body, _HEAD.size) if format_ == _LANE_FORMAT else None
        begin = _HEAD.size + (0 if lane is None else _LANE.size)
        end = begin + count * _PLACE.size
        return Position(
            stream_name=body[end:].decode(),
            places=tuple(Place(*place) for place in _PLACE.iter_unpack(body[begin:end])),
            is_whole_stream=is_whole_stream,
            lane=lane,
        )

    def _sign(self, body: bytes) -> bytes:
        return hmac.digest(self._secret, body, "sha256")[:_SIGNATURE_BYTES]
