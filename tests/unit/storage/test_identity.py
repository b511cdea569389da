from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from broker.model.errors import CorruptionError
from broker.storage.identity import open_identity
from broker.storage.rocks import Family, Store


def test_a_store_keeps_the_identity_it_was_made_with(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    made = open_identity(store, "north", Random(1))
    assert made.region == "north"
    assert len(made.iterator_secret) == 32
    assert open_identity(store, "south", Random(2)) == made
    store.close()
    del store
    again = Store(tmp_path / "store")
    assert open_identity(again, "south", Random(3)) == made
    again.close()


def test_two_stores_do_not_share_a_secret(tmp_path: Path) -> None:
    secrets = []
    for number in (1, 2):
        store = Store(tmp_path / str(number))
        secrets.append(open_identity(store, "north", Random(number)).iterator_secret)
        store.close()
    assert secrets[0] != secrets[1]


@pytest.mark.parametrize("broken", [b"", b"{}", b'{"region": 1}', b'{"region": "north"', b"\xff"])
def test_a_broken_identity_is_not_believed(store: Store, broken: bytes) -> None:
    open_identity(store, "north", Random(1))
    store.write({Family.CATALOG: {b"identity": broken}})
    with pytest.raises(CorruptionError):
        open_identity(store, "north", Random(1))
