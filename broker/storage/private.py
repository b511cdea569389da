"""Folders and files that nobody but their owner may read: they hold everybody's items, and environments with secrets.

RocksDB makes its files by the umask, so the process has PRIVATE_UMASK before it makes any; folders are made private
whatever the umask is, and one that others may enter is refused rather than changed, for somebody may have meant it.
"""

from __future__ import annotations

import shlex
import stat
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

# What is made under it: folders 0700, files 0600.
PRIVATE_UMASK: Final = 0o077
_FOLDER_MODE: Final = 0o700
_GROUP_AND_OTHERS: Final = 0o077
_ALL_BUT_GROUP_READ: Final = 0o037


class NotPrivateError(Exception):
    """Others may read what must be private; the message is one line with the command that ends that."""


def open_private_folder(path: Path) -> None:
    """Makes a folder unless it is there. Raises NotPrivateError if others may enter the one that is, OSError."""
    path.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & _GROUP_AND_OTHERS:
        raise NotPrivateError(_refusal("folder", path, mode, f"chmod -R go-rwx {shlex.quote(str(path))}"))


def check_private_file(path: Path, own_user_id: int) -> None:
    """Raises NotPrivateError if others may read or write a file, OSError if there is none.

    Root may own it and let the group of this process read it: so orchestrators hand out secrets.
    """
    status = path.stat()
    mode = stat.S_IMODE(status.st_mode)
    is_handed_out = status.st_uid == 0 and own_user_id != 0
    if mode & (_ALL_BUT_GROUP_READ if is_handed_out else _GROUP_AND_OTHERS):
        raise NotPrivateError(_refusal("file", path, mode, f"chmod 600 {shlex.quote(str(path))}"))


def _refusal(kind: str, path: Path, mode: int, command: str) -> str:
    return f"the {kind} {path} is open to other users (mode {mode:04o}); to make it private: {command}"
