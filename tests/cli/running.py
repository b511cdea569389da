"""Runs commands against the broker under test."""

from __future__ import annotations

import json
from typing import Any, Protocol

from click.testing import Result


class Headrace(Protocol):
    """Runs a command against the broker under test."""

    def __call__(self, *arguments: str, input: str | None = None) -> Result: ...  # noqa: A002 - the word of click


def done(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return result.stdout


def parsed(result: Result) -> Any:
    return json.loads(done(result))
