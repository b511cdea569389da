"""The committed code is what the protos, and the asynchronous client, generate today."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TOOLCHAIN = ROOT / ".venv-proto" / "bin"


# The output depends on the versions of the tools, so only the pinned ones may judge; `make` installs them.
@pytest.mark.skipif(not (TOOLCHAIN / "protoc-gen-mypy").exists(), reason="needs the pinned toolchain: make proto")
def test_the_generated_code_is_fresh() -> None:
    environment = {**os.environ, "PATH": os.pathsep.join([str(TOOLCHAIN), os.environ["PATH"]])}
    check(TOOLCHAIN / "python", ROOT / "protos" / "generate.py", environment)


def test_the_synchronous_client_is_fresh() -> None:
    check(Path(sys.executable), ROOT / "clients" / "python" / "unasync.py", dict(os.environ))


def check(python: Path, script: Path, environment: dict[str, str]) -> None:
    """Runs a generator with --check."""
    done = subprocess.run(
        [python, script, "--check"], env=environment, capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
