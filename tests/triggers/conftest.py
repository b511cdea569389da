"""What tests of triggers share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.companion_process import CompanionProcess
from tests.rpc import Client
from tests.triggers.hosts import Headrace, headrace_at, trigger_name
from tests.triggers.noting_function import NotingFunction


@pytest.fixture
def headrace(endpoint: str) -> Headrace:
    return headrace_at(endpoint)


@pytest.fixture
def function(tmp_path: Path) -> NotingFunction:
    return NotingFunction(tmp_path)


@pytest.fixture
def host(endpoint: str, tmp_path: Path) -> Iterator[CompanionProcess]:
    with CompanionProcess("trigger-host", endpoint, tmp_path) as process:
        yield process.wait_ready()
    # Shown when the test has failed: why nothing was called is seen only here.
    print(process.log())


@pytest.fixture
def trigger(client: Client) -> Iterator[str]:
    """The name of a trigger to make; deleted afterwards, so that the hosts of other tests do not run it."""
    with trigger_name(client.endpoint) as name:
        yield name
