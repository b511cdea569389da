"""The client for threads is what unasync.py makes of the client for asyncio."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

CLIENT = Path(__file__).resolve().parents[2] / "clients" / "python"


def check(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(folder / "unasync.py"), "--check"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_committed_files_are_fresh() -> None:
    checked = check(CLIENT)
    assert (checked.returncode, checked.stdout) == (0, "")


# A check that cannot fail would let the two clients drift apart.
def test_a_file_changed_by_hand_and_a_file_left_over_are_stale(tmp_path: Path) -> None:
    shutil.copy(CLIENT / "unasync.py", tmp_path)
    for package in ("_async", "_sync"):
        shutil.copytree(CLIENT / "headrace" / package, tmp_path / "headrace" / package)
    shutil.copy(CLIENT.parents[1] / "pyproject.toml", tmp_path)
    edited = tmp_path / "headrace" / "_sync" / "write.py"
    edited.write_text(edited.read_text() + "\n")
    (tmp_path / "headrace" / "_sync" / "old.py").write_text("")
    checked = check(tmp_path)
    assert checked.returncode == 1
    assert [line.split()[1] for line in checked.stdout.splitlines()] == [
        "headrace/_sync/old.py:",
        "headrace/_sync/write.py:",
    ]
