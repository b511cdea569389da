"""What every benchmark needs: servers to drive, their CPU time, medians of alternating runs, the machine's facts."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from tests.broker_process import BrokerProcess

ROOT: Final = Path(__file__).resolve().parent.parent
RESULTS: Final = ROOT / "bench-results"
READY_TIMEOUT_S: Final = 20.0
PACKAGES: Final = ("headrace-broker", "grpcio", "protobuf", "rocksdict", "uvloop")
_TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How long to measure: the seconds of one run, and how often the runs of the two sides alternate."""

    seconds: float
    runs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A server process under load."""

    endpoint: str
    pid: int
    # HOST:PORT of a broker's HTTP port; empty for other servers.
    http: str = ""

    def cpu_seconds(self) -> float:
        """The CPU time it has used so far, all threads."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND

    def memory_mb(self) -> float:
        """What it holds in memory now, in MB of a million bytes."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) * 1024 / 1e6


@contextmanager
def broker(folder: Path, environment: Mapping[str, str] | None = None) -> Iterator[Server]:
    """A broker on an empty folder."""
    with BrokerProcess(folder, environment=environment) as process:
        yield Server(endpoint=process.grpc, pid=process.pid, http=process.http)


@contextmanager
def echo_server(*arguments: str) -> Iterator[Server]:
    """The empty server that a broker is compared with."""
    command = [sys.executable, "-m", "benchmarks.echo_server", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as process:
        try:
            assert process.stdout is not None
            yield Server(endpoint=json.loads(process.stdout.readline())["grpc"], pid=process.pid)
        finally:
            process.terminate()
            process.wait(READY_TIMEOUT_S)


def alternate(runs: int, **sides: Callable[[], dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Runs each side once, then each again: a noisy minute of the machine then hits both."""
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    for _ in range(runs):
        for name, side in sides.items():
            results[name].append(side())
            progress(f"  {name}: {results[name][-1]}")
    return results


def medians(results: list[dict[str, Any]]) -> dict[str, float]:
    """The median of each figure over the runs."""
    return {name: round(statistics.median(result[name] for result in results), 3) for name in results[0]}


def progress(line: str) -> None:
    """Tells a person what goes on; the result alone goes to stdout."""
    print(line, file=sys.stderr, flush=True)


def report(document: dict[str, Any], prefix: str = "") -> None:
    """Writes a document to stdout and into the folder of results."""
    document["machine"]["load_after"] = os.getloadavg()[0]
    text = json.dumps(document, indent=2)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{prefix}{document['time'].replace(':', '')}.json").write_text(text + "\n")
    print(text, flush=True)


def facts(folder: Path, packages: Iterable[str] = ()) -> dict[str, Any]:
    """The machine, the versions and the commit that the figures belong to."""
    cpu = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "unknown"
    )
    mounts = [line.split()[1:3] for line in _lines("/proc/mounts")]
    under = [mount for mount in mounts if str(folder).startswith(mount[0])]
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "cpu": cpu,
            "cores": os.cpu_count(),
            "system": platform.platform(),
            "file_system": max(under, key=lambda mount: len(mount[0]))[1] if under else "unknown",
            "load_before": os.getloadavg()[0],
        },
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in (*PACKAGES, *packages)}},
        "commit": _git("rev-parse", "HEAD"),
        "has_local_changes": bool(_git("status", "--porcelain", "--", "broker", "clients/python/headrace/v1")),
    }


def _lines(path: str) -> list[str]:
    file = Path(path)
    return file.read_text().splitlines() if file.exists() else []


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip()


class Stopwatch:
    """Wall time and the CPU time of both sides over one run."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._cpu = server.cpu_seconds()
        self._own_cpu = time.process_time()
        self._begin = time.perf_counter()

    def stop(self) -> tuple[float, float, float]:
        """Seconds on the wall, of the server's CPU, of this process's CPU."""
        seconds = time.perf_counter() - self._begin
        return seconds, self._server.cpu_seconds() - self._cpu, time.process_time() - self._own_cpu
