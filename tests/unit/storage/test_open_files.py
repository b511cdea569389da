from __future__ import annotations

import pytest

from broker.storage.open_files import CONNECTIONS_MAX, RESERVED_FILES, STORE_FILES_MAX, OpenFiles, divide


@pytest.mark.parametrize(
    ("limit", "divided"),
    [
        (256, OpenFiles(256, 128, 32)),
        (1_024, OpenFiles(1_024, 512, 160)),
        (4_096, OpenFiles(4_096, 512, 1_696)),
        (1_048_576, OpenFiles(1_048_576, 512, CONNECTIONS_MAX)),
    ],
)
def test_the_store_comes_first(limit: int, divided: OpenFiles) -> None:
    assert divide(limit) == divided
    assert divided.store + 2 * divided.connections + min(RESERVED_FILES, limit // 4) <= limit
    assert divided.store <= STORE_FILES_MAX
