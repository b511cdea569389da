"""The temporary folder of a trigger host, where the code of its functions is unpacked."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_PREFIX: Final = "headrace-trigger-host-"
_LOCK_NAME: Final = "lock"


@contextlib.contextmanager
def work_folder() -> Iterator[Path]:
    """A folder for this process alone, removed on leaving. First removes those of hosts that were killed.

    A host holds a lock on a file in its folder for as long as it lives. Raises OSError.
    """
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        # Another host may be removing it too, and what cannot be removed is no reason not to start.
        with contextlib.suppress(OSError):
            _remove_if_abandoned(folder)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    try:
        unlocked = folder / "unlocked"
        unlocked.touch(mode=0o600)
        with unlocked.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            # Under its true name the file is locked from the first moment, so no other host takes it for abandoned.
            Path(lock.name).rename(folder / _LOCK_NAME)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_if_abandoned(folder: Path) -> None:
    status = folder.lstat()
    # In a folder that everybody may write to, anybody can make one of this name.
    if status.st_uid != os.getuid() or not stat.S_ISDIR(status.st_mode):
        return
    with (folder / _LOCK_NAME).open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder)
