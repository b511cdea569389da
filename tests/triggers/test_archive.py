"""Code on its way from a folder to a worker."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import zipfile
from pathlib import Path

import pytest

from headrace.triggers import archive
from headrace.triggers.archive import ArchiveError


def zipped(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as made:
        for name, content in files.items():
            made.writestr(name, content)
    return buffer.getvalue()


def test_unpacked_code_is_for_its_owner_alone_under_any_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        archive.unpack(zipped(**{"app.py": b"", "pkg/sub/data.txt": b""}), tmp_path)
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")}
    assert modes == {"app.py": 0o600, "pkg": 0o700, "sub": 0o700, "data.txt": 0o600}


def test_a_folder_comes_out_as_it_went_in_but_without_what_is_not_code(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name in (
        "app.py",
        "pkg/__init__.py",
        "pkg/data.txt",
        "__pycache__/app.pyc",
        ".git/config",
        "pkg/.env",
        "old.pyc",
    ):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(name)
    target = tmp_path / "target"
    archive.unpack(archive.pack(source), target)
    found = sorted(file.relative_to(target).as_posix() for file in target.rglob("*") if file.is_file())
    assert found == ["app.py", "pkg/__init__.py", "pkg/data.txt"]
    assert (target / "pkg/data.txt").read_text() == "pkg/data.txt"


# A new hash restarts the worker, so the same code must not look new.
def test_the_same_files_make_the_same_archive(tmp_path: Path) -> None:
    file = tmp_path / "app.py"
    file.write_text("x = 1\n")
    first = archive.pack(file)
    os.utime(file, (0, 10**9))
    assert archive.pack(file) == first
    assert archive.sha256(first) == base64.b64encode(hashlib.sha256(first).digest()).decode()


def test_code_over_3_mib_is_refused_before_it_is_sent(tmp_path: Path) -> None:
    (tmp_path / "big.bin").write_bytes(os.urandom(archive.ARCHIVE_SIZE_BYTES_MAX))
    with pytest.raises(ArchiveError, match="3,145,728"):
        archive.pack(tmp_path)


@pytest.mark.parametrize("name", ["../outside.py", "/outside.py", "a/../../outside.py"])
def test_nothing_is_written_outside_the_folder(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "code"
    folder.mkdir()
    archive.unpack(zipped(**{name: b"x"}), folder)
    written = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert written
    assert all(file.is_relative_to(folder) for file in written)


def test_what_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "UNPACKED_SIZE_BYTES_MAX", 1_000)
    with pytest.raises(ArchiveError, match="unpacks to"):
        archive.unpack(zipped(bomb=b"\x00" * 1_001), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", [b"", b"not a zip", zipped(a=b"x")[:-10]], ids=["empty", "other", "cut"])
def test_what_is_no_archive_is_refused(tmp_path: Path, code: bytes) -> None:
    with pytest.raises(ArchiveError):
        archive.unpack(code, tmp_path)
