"""What all tests share that kill processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.broker_process import BrokerProcess
from tests.rpc import Client, TestTable


@pytest.fixture
def rounds(request: pytest.FixtureRequest) -> int:
    chosen: int = request.config.option.crash_rounds
    return chosen


@pytest.fixture
def crashing(tmp_path: Path) -> Iterator[BrokerProcess]:
    """A broker of the test's own, for killing."""
    with BrokerProcess(tmp_path) as process:
        yield process


@pytest.fixture
def table(crashing: BrokerProcess) -> TestTable:
    with Client(crashing.grpc) as client:
        return client.create_table()
