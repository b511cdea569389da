"""`restore`, as tests run it: a new data folder of a backup's folder, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.broker_process import BrokerProcess

TIMEOUT_S = 30


def run_restore(source: Path, data: Path, *extra: str) -> subprocess.CompletedProcess[str]:
    """Runs the command to its end, whatever that is."""
    command = [sys.executable, "-m", "broker", "restore", "--from", str(source), "--data", str(data), *extra]
    return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)


def restored(source: Path, folder: Path) -> BrokerProcess:
    """A broker, not started, on a store restored from a backup's folder."""
    broker = BrokerProcess(folder)
    done = run_restore(source, broker.data)
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    assert said["data"] == str(broker.data)
    broker.region = said["region"]
    return broker


def backup_folder(broker: BrokerProcess, backup_arn: str) -> Path:
    """Where a broker with default settings keeps a backup."""
    return broker.data / "backups" / backup_arn.rpartition("/")[2]
