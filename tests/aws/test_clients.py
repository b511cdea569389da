"""Other clients of DynamoDB, unmodified: each tells a story in a process of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.broker_process import BrokerProcess
from tests.conftest import eventually

STORIES = Path(__file__).parent / "stories"
ROOT = STORIES.parent.parent.parent
# What `make` installs: the clients in Python pin each other's parts, so they are not in the environment of the tests.
PYTHON_CLIENTS = ROOT / ".venv-aws" / "bin"
NODE_MODULES = STORIES / "node_modules"
STORY_TIMEOUT_S = 50
ACCESS_KEY = ("AKIDSTORY", "a/secret+of=stories")


def environment(broker: BrokerProcess, access_key: tuple[str, str] = ("any", "any")) -> dict[str, str]:
    """All that a client of AWS is told."""
    return {
        "PATH": os.pathsep.join((str(PYTHON_CLIENTS), os.environ["PATH"])),
        "AWS_ENDPOINT_URL": f"http://{broker.http}",
        "AWS_DEFAULT_REGION": broker.region,
        "AWS_REGION": broker.region,
        "AWS_ACCESS_KEY_ID": access_key[0],
        "AWS_SECRET_ACCESS_KEY": access_key[1],
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_MAX_ATTEMPTS": "1",
    }


def command(name: str) -> list[str]:
    story = STORIES / name
    needed = NODE_MODULES if story.suffix == ".mjs" else PYTHON_CLIENTS
    assert needed.is_dir(), f"{needed.relative_to(ROOT)} is not there: `make test` installs it"
    return [{".py": "python", ".sh": "bash", ".mjs": "node"}[story.suffix], str(story)]


@pytest.fixture(scope="module")
def closed_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    """A broker that wants signatures."""
    folder = tmp_path_factory.mktemp("closed")
    file = folder / "credentials"
    file.write_text(f"[story]\naws_access_key_id = {ACCESS_KEY[0]}\naws_secret_access_key = {ACCESS_KEY[1]}\n")
    file.chmod(0o600)
    with BrokerProcess(folder, extra=("--credentials", str(file))) as process:
        yield process


@pytest.mark.parametrize("name", ["pynamodb_story.py", "aiobotocore_story.py", "cli_story.sh", "sdk_story.mjs"])
def test_a_client_works_as_it_is_and_its_signatures_are_right(
    closed_broker: BrokerProcess, tmp_path: Path, name: str
) -> None:
    told = subprocess.run(
        command(name),
        cwd=tmp_path,
        env={**environment(closed_broker, ACCESS_KEY), "HOME": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=STORY_TIMEOUT_S,
        check=False,
    )
    assert (told.returncode, told.stdout.splitlines()[-1:]) == (0, ["done"]), told.stdout


def test_dynamodb_admin_opens_a_table(open_broker: BrokerProcess, dynamodb: Any, orders: str, tmp_path: Path) -> None:
    dynamodb.put_item(TableName=orders, Item={"id": {"S": "seen-in-admin"}, "line": {"N": "1"}})
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert NODE_MODULES.is_dir(), f"{NODE_MODULES.relative_to(ROOT)} is not there: `make test` installs it"
    admin = subprocess.Popen(
        [str(NODE_MODULES / ".bin" / "dynamodb-admin"), "--port", str(port), "--host", "127.0.0.1"],
        env={**environment(open_broker), "DYNAMO_ENDPOINT": f"http://{open_broker.http}", "HOME": str(tmp_path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # The node of a Python environment is a launcher: what it has started must end too.
        start_new_session=True,
    )

    def page(path: str) -> str:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as response:
                content: str = response.read().decode()
                return content
        except OSError:
            return ""

    try:
        assert orders in eventually(lambda: page("/"))
        assert "seen-in-admin" in page(f"/tables/{orders}") + page(f"/tables/{orders}/items")
    finally:
        os.killpg(admin.pid, signal.SIGKILL)
        admin.wait(10)
