"""The demo as a user runs it, on a few flights: it succeeds, and it cleans up whatever happens."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.test_demo_flights import archive_of
from tests.cli.test_demo_processes import is_running

FLIGHTS = 400
DEMO_TIMEOUT_S = 90


@pytest.fixture
def start_demo(tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    carriers = ("UA", "AA", "B6")
    lines = [
        f"{carriers[number % 3]},{number},{'NA' if number % 7 == 0 else number % 90 - 20},2013-01-01T10:00:00Z"
        for number in range(FLIGHTS)
    ]
    archive = archive_of(tmp_path, "\n".join(["carrier,flight,arr_delay,time_hour", *lines, ""]).encode())
    command = [sys.executable, "-m", "headrace.cli", "demo", "--archive", str(archive)]
    running: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        demo = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": str(tmp_path)},
        )
        running.append(demo)
        return demo

    yield start
    for demo in running:
        demo.kill()
        demo.communicate(timeout=10)


def read_until(demo: subprocess.Popen[str], words: str) -> str:
    """What the demo has printed when it has printed the words."""
    assert demo.stdout is not None
    printed = ""
    for line in demo.stdout:
        printed += line
        if words in line:
            return printed
    raise AssertionError(f"the demo ended without {words!r}:\n{printed}\n{demo.stderr and demo.stderr.read()}")


def pids_in(printed: str) -> list[int]:
    return [int(pid) for pid in re.findall(r"pid (\d+)", printed)]


def left_behind(folder: Path) -> list[Path]:
    return list(folder.glob("headrace-demo-*"))


@pytest.mark.timeout(DEMO_TIMEOUT_S + 10)
def test_the_demo_verifies_regions_and_totals(start_demo: Callable[[], subprocess.Popen[str]], tmp_path: Path) -> None:
    demo = start_demo()
    out, err = demo.communicate(timeout=DEMO_TIMEOUT_S)

    assert (demo.returncode, err) == (0, ""), out + err
    assert f"{FLIGHTS:,} flights imported" in out
    assert out.count("  yes  ") == 3
    assert "All is equal." in out
    assert len(pids_in(out)) == 4
    assert not any(map(is_running, pids_in(out)))
    assert not left_behind(tmp_path)


@pytest.mark.timeout(DEMO_TIMEOUT_S + 10)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_ends_its_processes(
    start_demo: Callable[[], subprocess.Popen[str]], tmp_path: Path, number: signal.Signals
) -> None:
    demo = start_demo()
    printed = read_until(demo, "flights imported")
    demo.send_signal(number)
    _, err = demo.communicate(timeout=DEMO_TIMEOUT_S)

    assert (demo.returncode, err.strip()) == (1, "Aborted!")
    assert not any(map(is_running, pids_in(printed)))
    assert not left_behind(tmp_path)


@pytest.mark.timeout(DEMO_TIMEOUT_S + 10)
@pytest.mark.parametrize("position", [0, 3])
def test_a_process_that_dies_fails_the_demo_and_shows_its_log(
    start_demo: Callable[[], subprocess.Popen[str]], tmp_path: Path, position: int
) -> None:
    demo = start_demo()
    printed = read_until(demo, "$ headrace trigger create")
    os.kill(pids_in(printed)[position], signal.SIGKILL)
    _, err = demo.communicate(timeout=DEMO_TIMEOUT_S)

    assert demo.returncode == 1
    name = ["us-east-1", "eu-north-1", "trigger-host", "replicator"][position]
    assert err.startswith(f"Error: {name} ended with exit code -9.")
    assert not any(map(is_running, pids_in(printed)))
    assert not left_behind(tmp_path)
