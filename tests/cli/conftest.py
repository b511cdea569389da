"""What tests of commands share."""

from __future__ import annotations

import pytest
from click.testing import CliRunner, Result

from headrace.cli import main
from tests.cli.running import Headrace


@pytest.fixture
def headrace(endpoint: str) -> Headrace:
    def run(*arguments: str, input: str | None = None) -> Result:  # noqa: A002
        return CliRunner().invoke(main, arguments, input=input, env={"HEADRACE_ENDPOINT": endpoint})

    return run
