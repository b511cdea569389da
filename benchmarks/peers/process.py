"""A peer's server: started on a free port of the loopback address with a folder of its own, and always ended."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from benchmarks.measure import Server

HOST: Final = "127.0.0.1"
READY_TIMEOUT_S: Final = 20.0
STOP_TIMEOUT_S: Final = 10.0


@contextmanager
def peer(folder: Path, command: Callable[[int], list[str]]) -> Iterator[Server]:
    """Runs the command that serves a port; returns when the port answers."""
    folder.mkdir(parents=True, exist_ok=True)
    with socket.create_server((HOST, 0)) as free:
        port = free.getsockname()[1]
    log = folder / "server.log"
    with log.open("wb") as output, subprocess.Popen(command(port), stdout=output, stderr=output) as process:
        try:
            deadline = time.monotonic() + READY_TIMEOUT_S
            while not _answers(port):
                assert process.poll() is None, f"the server ended\n{log.read_text()}"
                assert time.monotonic() < deadline, f"the server does not answer\n{log.read_text()}"
                time.sleep(0.02)
            yield Server(endpoint=f"{HOST}:{port}", pid=process.pid)
        finally:
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _answers(port: int) -> bool:
    try:
        socket.create_connection((HOST, port), timeout=1).close()
    except ConnectionError:
        return False
    return True
