"""How the files that a process may have open are divided: the store's first, then what is left for connections.

A store that cannot open its next file fails, and the node with it. A connection that is not taken is tried again.
"""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Final, NamedTuple

# What RocksDB keeps open of its table files.
STORE_FILES_MAX: Final = 512
# The logs of the store, a backup that is read, what listens, and the runtime.
RESERVED_FILES: Final = 192
CONNECTIONS_MAX: Final = 65_536
# Where the system sets no limit.
_UNLIMITED: Final = 1_048_576
_DESCRIPTORS: Final = Path("/dev/fd")


class OpenFiles(NamedTuple):
    """How many files may be open, and for what."""

    limit: int
    store: int
    # On each of the two ports.
    connections: int


def raise_limit() -> int:
    """Raises this process's limit of open files as far as it may; returns it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _UNLIMITED if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError):
            # macOS allows less than it says.
            return soft
    return wanted


def divide(limit: int) -> OpenFiles:
    """What of a limit is for what."""
    store = min(STORE_FILES_MAX, limit // 2)
    reserved = min(RESERVED_FILES, limit // 4)
    return OpenFiles(limit, store, min(CONNECTIONS_MAX, (limit - store - reserved) // 2))


def count_open() -> int:
    """How many files this process has open."""
    # The listing itself opens one.
    return sum(1 for _ in _DESCRIPTORS.iterdir()) - 1
