"""Another user of the same machine, as tests see one: a shell that runs as nobody. Only root can start it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Final

import pytest

NOBODY: Final = 65_534
_SHELL: Final = "/bin/bash"

needs_another_user = pytest.mark.skipif(
    os.geteuid() != 0 or not Path(_SHELL).exists(), reason="only root can act as another user, by bash"
)


def as_nobody(script: str, *arguments: str, timeout_s: float = 20) -> subprocess.CompletedProcess[str]:
    """Runs a script as another user, in a folder that everybody may enter."""
    return subprocess.run(
        [_SHELL, "-c", script, "bash", *arguments],
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
        cwd="/",
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout_s,
        check=False,
    )


def ask_for_work(address: str, times: int) -> subprocess.CompletedProcess[str]:
    """Asks a Runtime API for work as another user, so often; what it answers is in stdout."""
    host, _, port = address.partition(":")
    script = r"""
        for ((i = 0; i < $3; i++)); do
            exec 3<>"/dev/tcp/$1/$2" || exit 9
            printf 'GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\nHost: x\r\n\r\n' >&3
            timeout 2 cat <&3
            exec 3>&-
        done
    """
    return as_nobody(script, host, port, str(times))
