"""The host's temporary folder: gone with the host, however the host went."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from headrace.triggers.work_folder import work_folder


@pytest.fixture(autouse=True)
def _own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)


def test_it_is_removed_with_all_in_it(tmp_path: Path) -> None:
    with work_folder() as folder:
        assert folder.parent == tmp_path
        (folder / "code").mkdir()
        (folder / "code" / "app.py").touch()
    assert list(tmp_path.iterdir()) == []


def test_it_is_for_its_owner_alone_under_any_umask() -> None:
    before = os.umask(0)
    try:
        with work_folder() as folder:
            modes = [path.stat().st_mode & 0o777 for path in (folder, folder / "lock")]
    finally:
        os.umask(before)
    assert modes == [0o700, 0o600]


def test_the_folder_of_a_host_that_was_killed_is_removed_and_that_of_one_that_lives_is_not(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from headrace.triggers.work_folder import work_folder\n"
        "with work_folder() as folder:\n"
        "    (folder / 'app.py').touch()\n"
        "    print(folder, flush=True)\n"
        "    sys.stdin.read()\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        try:
            assert other.stdout is not None
            others = Path(other.stdout.readline().decode().strip())
            with work_folder() as folder:
                assert sorted(tmp_path.iterdir()) == sorted([folder, others])
        finally:
            other.kill()
    assert (others / "app.py").exists()
    with work_folder() as folder:
        assert list(tmp_path.iterdir()) == [folder]


def test_what_only_looks_like_one_is_left_alone(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "lock").touch()
    (tmp_path / "headrace-trigger-host-link").symlink_to(elsewhere)
    (tmp_path / "headrace-trigger-host-file").touch()
    # A host that is just starting has not locked it yet.
    (tmp_path / "headrace-trigger-host-new").mkdir()
    before = sorted(tmp_path.rglob("*"))
    with work_folder():
        pass
    assert sorted(tmp_path.rglob("*")) == before
