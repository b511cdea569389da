"""What a node keeps belongs to its user alone, whatever the umask; what is open to others is refused."""

from __future__ import annotations

import os
import shlex
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from headrace.v1 import backup_service_pb2 as backups_pb
from headrace.v1 import consumer_service_pb2
from headrace.v1 import trigger_service_pb2 as triggers_pb
from tests.broker_process import LOOPBACK_ANY_PORT, BrokerProcess, serve_command
from tests.other_user import as_nobody, needs_another_user
from tests.restoring import backup_folder, restored, run_restore
from tests.rpc import Client
from tests.values import item

SECRET = "correct-horse-battery-staple"  # noqa: S105 - it guards nothing


@contextmanager
def umask(mask: int) -> Iterator[None]:
    """The umask of processes that are started inside."""
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A folder that every user of the machine may enter, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp(prefix="headrace-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def modes(root: Path) -> dict[str, set[int]]:
    """The modes of all folders and of all files of a tree."""
    found: dict[str, set[int]] = {"folders": set(), "files": set()}
    for path in (root, *root.rglob("*")):
        status = path.stat()
        kind = "folders" if stat.S_ISDIR(status.st_mode) else "files"
        found[kind].add(stat.S_IMODE(status.st_mode))
    return found


PRIVATE = {"folders": {0o700}, "files": {0o600}}


def fill(broker: BrokerProcess) -> str:
    """Makes a table with an item, a trigger with a secret and a backup; returns the backup's ARN."""
    with Client(broker.grpc) as client:
        table = client.create_table()
        client.put(table.name, item(id=SECRET))
        client.triggers.CreateTrigger(
            triggers_pb.CreateTriggerRequest(
                trigger_name="totals",
                table_name=table.name,
                function=triggers_pb.Function(handler="a.b", runtime="python", environment={"TOKEN": SECRET}),
                code=b"PK",
                starting_position=consumer_service_pb2.STARTING_POSITION_LATEST,
            )
        )
        made = client.backups.CreateBackup(backups_pb.CreateBackupRequest(backup_name="nightly"))
        return made.backup_details.backup_arn


@pytest.mark.parametrize("mask", [0o000, 0o022], ids=oct)
def test_all_that_a_node_makes_is_private_under_any_umask(tmp_path: Path, mask: int) -> None:
    elsewhere = tmp_path / "elsewhere"
    with umask(mask), BrokerProcess(tmp_path, extra=("--backups", str(elsewhere))) as broker:
        arn = fill(broker)
        kept = elsewhere / arn.rpartition("/")[2]
        assert modes(broker.data) == modes(elsewhere) == PRIVATE
        # Also what is opened, flushed and written anew.
        broker.stop()
        broker.start()
        with Client(broker.grpc) as client:
            client.create_table()
        target = tmp_path / "restored"
        assert run_restore(kept, target).returncode == 0
        assert modes(broker.data) == modes(target) == PRIVATE


@needs_another_user
@pytest.mark.parametrize("is_private", [True, False], ids=["private", "open"])
def test_another_user_cannot_read_items_secrets_or_backups(reachable: Path, is_private: bool) -> None:
    with umask(0):
        broker = BrokerProcess(reachable).start()
    backup = backup_folder(broker, fill(broker))
    broker.stop()
    if not is_private:
        # So that the test is known to notice.
        subprocess.run(["chmod", "-R", "a+rX", str(broker.data)], check=True)
    for folder in (broker.data, backup):
        read = as_nobody('cat "$1"/* "$1"/*/* 2>/dev/null', str(folder))
        assert (SECRET in read.stdout) is not is_private


def refusal(data: Path, *extra: str) -> str:
    """The one line of a broker that does not start."""
    command = serve_command(data, region="eu-north-1", grpc=LOOPBACK_ANY_PORT, http=LOOPBACK_ANY_PORT, extra=extra)
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stdout) == (2, ""), done
    (line,) = done.stderr.splitlines()
    return line


def command_in(line: str) -> list[str]:
    """The command that a refusal says to type."""
    return shlex.split(line.partition("to make it private: ")[2])


@pytest.mark.parametrize("mode", [0o701, 0o710, 0o750, 0o755, 0o777])
def test_a_data_folder_that_is_open_to_others_is_refused_with_what_to_type(tmp_path: Path, mode: int) -> None:
    broker = BrokerProcess(tmp_path / "with space").start()
    broker.stop()
    broker.data.chmod(mode)
    (broker.data / "CURRENT").chmod(0o644)
    before = sorted((path, path.stat().st_mtime_ns) for path in broker.data.rglob("*"))
    line = refusal(broker.data)
    assert line.startswith(f"headrace: data: the folder {broker.data} is open to other users (mode {mode:04o}); ")
    assert sorted((path, path.stat().st_mtime_ns) for path in broker.data.rglob("*")) == before
    subprocess.run(command_in(line), check=True)
    assert modes(broker.data) == PRIVATE
    with broker.start():
        pass


def test_a_backups_folder_that_is_open_to_others_is_refused_with_what_to_type(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    elsewhere.chmod(0o755)
    line = refusal(tmp_path / "data", "--backups", str(elsewhere))
    assert line.startswith("headrace: backups: ")
    subprocess.run(command_in(line), check=True)
    with BrokerProcess(tmp_path, extra=("--backups", str(elsewhere))):
        pass


def test_a_target_of_a_restore_that_is_open_to_others_is_refused_with_what_to_type(tmp_path: Path) -> None:
    with BrokerProcess(tmp_path / "source") as broker:
        backup = backup_folder(broker, fill(broker))
        target = tmp_path / "restored" / "data"
        target.mkdir(parents=True)
        target.chmod(0o755)
        done = run_restore(backup, target)
        assert (done.returncode, done.stdout, list(target.iterdir())) == (1, "", [])
        subprocess.run(command_in(done.stderr), check=True)
        with restored(backup, tmp_path / "restored").start() as again, Client(again.grpc) as client:
            assert client.triggers.ListTriggers(triggers_pb.ListTriggersRequest()).triggers


@pytest.mark.parametrize("mode", [0o604, 0o620, 0o640, 0o644])
def test_a_credentials_file_that_is_open_to_others_is_refused_with_what_to_type(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "credentials"
    file.write_text(f"[a]\naws_access_key_id = A\naws_secret_access_key = {SECRET}\n")
    file.chmod(mode)
    line = refusal(tmp_path / "data", "--credentials", str(file))
    assert line.startswith(f"headrace: credentials: the file {file} is open to other users (mode {mode:04o}); ")
    assert SECRET not in line
    subprocess.run(command_in(line), check=True)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with BrokerProcess(tmp_path, extra=("--credentials", str(file))):
        pass
