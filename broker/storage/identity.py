"""What a store is: its region, and the secret its shard iterators are signed with. Written once, when it is made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from broker.model.errors import CorruptionError
from broker.storage.rocks import Family

if TYPE_CHECKING:
    from random import Random

from broker.storage.rocks import Store

_KEY: Final = b"identity"
_SECRET_BYTES: Final = 32


class Identity(msgspec.Struct, frozen=True):
    """What a store is."""

    region: str
    iterator_secret: bytes


def read_identity(store: Store) -> Identity | None:
    """A store's identity; None if it is new. Raises CorruptionError if it cannot be read."""
    value = store.get(Family.CATALOG, _KEY)
    if value is None:
        return None
    try:
        return msgspec.json.decode(value, type=Identity)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise CorruptionError(f"the store's identity is not what was written: {error}") from error


def open_identity(store: Store, region: str, random: Random) -> Identity:
    """A store's identity; a new store gets this region and a random secret, durably.

    Raises CorruptionError if it cannot be read.
    """
    known = read_identity(store)
    if known is not None:
        return known
    identity = Identity(region=region, iterator_secret=random.randbytes(_SECRET_BYTES))
    store.write({Family.CATALOG: {_KEY: msgspec.json.encode(identity)}})
    store.sync()
    return identity
