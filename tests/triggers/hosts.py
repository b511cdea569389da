"""What tests of trigger hosts share: commands against a broker, and triggers on its tables."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from click.testing import CliRunner

from headrace.cli import main
from headrace.v1.attribute_value_pb2 import AttributeValue, Item
from tests.rpc import TestTable, unique_name
from tests.triggers.noting_function import NotingFunction


class Headrace(Protocol):
    """Runs a command against the broker under test, which must succeed; gives what it printed as JSON."""

    def __call__(self, *arguments: str) -> Any: ...


def headrace_at(endpoint: str) -> Headrace:
    def run(*arguments: str) -> Any:
        result = CliRunner().invoke(main, [*arguments, "-o", "json"], env={"HEADRACE_ENDPOINT": endpoint})
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    return run


@contextmanager
def trigger_name(endpoint: str) -> Iterator[str]:
    """The name of a trigger to make; deleted afterwards, so that the hosts of other tests do not run it."""
    name = unique_name("trigger")
    yield name
    result = CliRunner().invoke(main, ["trigger", "delete", name, "--yes", "--endpoint", endpoint])
    assert result.exit_code == 0 or "not found" in result.output, result.output


def create(headrace: Headrace, trigger: str, table: TestTable, function: NotingFunction, *options: str) -> None:
    headrace("trigger", "create", trigger, "--table", table.name, "--handler", str(function.file), *options)


def item(key: str, value: int) -> Item:
    return Item(attributes={"id": AttributeValue(s=key), "value": AttributeValue(n=str(value))})
