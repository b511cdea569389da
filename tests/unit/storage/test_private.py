"""Who may read what a node keeps."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from broker.storage.private import NotPrivateError, check_private_file, open_private_folder


@pytest.mark.parametrize("mode", [0o700, 0o500, 0o2700])
def test_a_folder_of_its_owner_alone_may_be_used(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    folder.chmod(mode)
    open_private_folder(folder)


@pytest.mark.parametrize("mode", [0o701, 0o702, 0o704, 0o710, 0o720, 0o740, 0o1777])
def test_a_folder_that_others_may_use_in_any_way_is_refused_and_left_as_it_is(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "it's"
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(NotPrivateError) as refused:
        open_private_folder(folder)
    assert f"(mode {mode:04o})" in str(refused.value)
    # As a shell takes it.
    assert str(refused.value).endswith(f"chmod -R go-rwx '{tmp_path}/it'\"'\"'s'")
    assert folder.stat().st_mode & 0o7777 == mode


# An orchestrator's secret belongs to root and to the group of the process: nothing else can be done with it.
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a file of root's")
@pytest.mark.parametrize(
    ("mode", "own_user_id", "is_private"),
    [
        (0o600, 0, True),
        (0o400, 0, True),
        (0o640, 0, False),
        (0o640, 10_001, True),
        (0o440, 10_001, True),
        (0o660, 10_001, False),
        (0o644, 10_001, False),
    ],
)
def test_a_file_that_root_hands_out_may_be_read_by_the_group(
    tmp_path: Path, mode: int, own_user_id: int, is_private: bool
) -> None:
    file = tmp_path / "credentials"
    file.touch()
    file.chmod(mode)
    if is_private:
        check_private_file(file, own_user_id)
    else:
        with pytest.raises(NotPrivateError, match="chmod 600 "):
            check_private_file(file, own_user_id)
