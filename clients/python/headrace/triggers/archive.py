"""The code of a function as a zip archive: packed by the command line, unpacked by the trigger host."""

from __future__ import annotations

import base64
import hashlib
import io
import zipfile
from pathlib import Path
from typing import Final

# What the broker takes (protos: CreateTriggerRequest.code).
ARCHIVE_SIZE_BYTES_MAX: Final = 3 * 1024 * 1024

# AWS Lambda quotas: "Deployment package ... 250 MB (unzipped)".
UNPACKED_SIZE_BYTES_MAX: Final = 250 * 1024 * 1024
FILES_MAX: Final = 20_000

# Whatever the umask is: nobody else on the machine has anything to do with a function's code.
_FOLDER_MODE: Final = 0o700
_FILE_MODE: Final = 0o600

# The oldest time a zip archive can hold. With one time for all, the same files make the same archive.
_FILE_TIME: Final = (1980, 1, 1, 0, 0, 0)


class ArchiveError(Exception):
    """The code cannot be packed or unpacked; says why."""


def pack(path: Path) -> bytes:
    """The archive of a file, or of a folder with all below it except hidden files and compiled Python.

    Raises: ArchiveError if it is larger than a trigger's code may be; OSError.
    """
    if path.is_dir():
        files = {file.relative_to(path): file for file in sorted(path.rglob("*")) if file.is_file()}
        files = {name: file for name, file in files.items() if not _is_left_out(name)}
    else:
        files = {Path(path.name): path}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, file in files.items():
            archive.writestr(zipfile.ZipInfo(name.as_posix(), _FILE_TIME), file.read_bytes(), zipfile.ZIP_DEFLATED)
    code = buffer.getvalue()
    if len(code) > ARCHIVE_SIZE_BYTES_MAX:
        raise ArchiveError(
            f"the code has {len(code):,} bytes as a zip archive; at most {ARCHIVE_SIZE_BYTES_MAX:,} are allowed"
        )
    return code


def unpack(code: bytes, folder: Path) -> None:
    """Writes the files of the archive into a folder, never outside it, for the owner alone to read.

    Raises: ArchiveError if it is no archive, or more than a function may unpack to.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(code)) as archive:
            entries = archive.infolist()
            size_bytes = sum(entry.file_size for entry in entries)
            if len(entries) > FILES_MAX or size_bytes > UNPACKED_SIZE_BYTES_MAX:
                raise ArchiveError(
                    f"the archive unpacks to {len(entries):,} files of {size_bytes:,} bytes; "
                    f"at most {FILES_MAX:,} of {UNPACKED_SIZE_BYTES_MAX:,} are allowed"
                )
            # extractall() strips roots and ".." from names, reads no more than the size stated and makes no links.
            archive.extractall(folder)
            for path in folder.rglob("*"):
                path.chmod(_FOLDER_MODE if path.is_dir() else _FILE_MODE)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise ArchiveError(f"the code is not a readable zip archive: {error}") from error


def sha256(code: bytes) -> str:
    """What identifies the code in Function.code_sha256."""
    return base64.b64encode(hashlib.sha256(code).digest()).decode("ascii")


def _is_left_out(name: Path) -> bool:
    return name.suffix == ".pyc" or any(part == "__pycache__" or part.startswith(".") for part in name.parts)
