"""The frame of the command line: lazy loading, exit codes, shared options, rendering."""

from __future__ import annotations

import errno
import importlib.metadata
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from datetime import UTC, datetime
from decimal import Decimal
from importlib.metadata import EntryPoint
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from headrace import errors
from headrace.cli import main
from headrace.cli.group import CommandGroup, LazyCommand
from headrace.cli.options import endpoint_option, output_option
from headrace.cli.output import OutputError, write_lines
from headrace.cli.render import byte_count_text, duration_text, json_text, print_fields, print_table, size_text


def invoke(command: click.Command, *arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(command, arguments, env=environment)


COMMANDS = sorted(main.list_commands(click.Context(main)))


# Listing the commands must stay quick, so it may import neither gRPC nor rich nor any command of ours.
def test_the_listing_imports_no_command_and_nothing_heavy() -> None:
    script = """
import sys
from headrace.cli import main
try:
    main(["--help"])
finally:
    ours = {"table", "item", "import_", "stream", "consumer", "trigger", "replica", "health", "demo"}
    heavy = {"grpc", "rich", "google.protobuf"} | {f"headrace.cli.{name}" for name in ours}
    print("IMPORTED", sorted(heavy & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True)

    assert "IMPORTED []" in done.stdout
    assert "Load CSV, JSON Lines or DynamoDB JSON into a table." in done.stdout


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_loads_and_explains_itself(name: str) -> None:
    result = invoke(main, name, "--help")

    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"Usage: headrace {name}")


def test_an_unknown_command_is_wrong_usage() -> None:
    assert invoke(main, "tabel").exit_code == 2


def group_with_entry_point(monkeypatch: pytest.MonkeyPatch, value: str) -> CommandGroup:
    entry_point = EntryPoint(name="extra", value=value, group="test.commands")
    monkeypatch.setattr(
        "headrace.cli.group.entry_points", lambda group: [entry_point] if group == "test.commands" else []
    )
    return CommandGroup(commands=[], entry_point_group="test.commands", name="root")


def test_a_command_of_another_package_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    group = group_with_entry_point(monkeypatch, "headrace.cli.health:health")

    assert "Exit with 0 if the broker serves" in invoke(group, "--help").stdout
    assert "--timeout" in invoke(group, "extra", "--help").stdout


@pytest.mark.parametrize("value", ["no_such_module:command", "headrace.cli.health:_METHOD"])
def test_a_broken_command_of_another_package_harms_only_itself(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    group = group_with_entry_point(monkeypatch, value)

    assert invoke(group, "--help").exit_code == 0
    result = invoke(group, "extra")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: the command extra")


def test_commands_of_the_broker_are_listed_as_such() -> None:
    listing = invoke(main, "--help").stdout
    of_broker = listing.partition("Commands of the broker:")[2]

    listed = [line.split()[0] for line in of_broker.splitlines() if re.match(r"  \w+  ", line)]
    assert listed == ["dev", "restore", "serve"]
    assert "Commands of other packages" not in listing


@pytest.mark.parametrize("name", ["serve", "dev", "restore"])
def test_without_the_broker_its_commands_say_where_they_are(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr("headrace.cli.group.entry_points", lambda **_: [])

    result = invoke(main, name, "--data", "x")
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1] == (
        f"Error: {name} is a command of the broker, which is not installed: pip install headrace-broker"
    )
    assert "No such command" in invoke(main, "sreve").stderr


def test_the_version_is_that_of_the_client_and_of_the_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    client, broker = (importlib.metadata.version(package) for package in ("headrace", "headrace-broker"))
    assert invoke(main, "--version").stdout == f"headrace {client}, headrace-broker {broker}\n"

    def version_without_broker(name: str) -> str:
        if name == "headrace-broker":
            raise importlib.metadata.PackageNotFoundError(name)
        return client

    monkeypatch.setattr("headrace.cli.group.version", version_without_broker)
    assert invoke(main, "--version").stdout == f"headrace {client}\n"


def group_that_raises(monkeypatch: pytest.MonkeyPatch, error: Exception) -> CommandGroup:
    @click.command()
    def fail() -> None:
        raise error

    monkeypatch.setattr(LazyCommand, "load", lambda _: fail)
    return CommandGroup(commands=[LazyCommand("fail", "", "")], entry_point_group="none", name="root")


@pytest.mark.parametrize(
    ("error", "exit_code", "line"),
    [
        (errors.ValidationError("item.id must not be empty"), 1, "Error: VALIDATION: item.id must not be empty\n"),
        (errors.HeadraceError("odd", reason="NEW_REASON"), 1, "Error: NEW_REASON: odd\n"),
        (ConnectionResetError("reset"), 1, "Error: connection failed: reset\n"),
    ],
)
def test_an_expected_failure_is_one_line_on_stderr(
    monkeypatch: pytest.MonkeyPatch, error: Exception, exit_code: int, line: str
) -> None:
    result = invoke(group_that_raises(monkeypatch, error), "fail")

    assert (result.exit_code, result.stdout, result.stderr) == (exit_code, "", line)


@pytest.mark.parametrize(
    "error",
    [
        BrokenPipeError(errno.EPIPE, "Broken pipe"),
        OutputError(OSError(errno.EPIPE, "Broken pipe"), 0),
        ExceptionGroup("tasks", [BrokenPipeError(errno.EPIPE, "Broken pipe")]),
    ],
)
def test_a_closed_output_ends_a_command_quietly_wherever_it_is_met(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    result = invoke(group_that_raises(monkeypatch, error), "fail")

    assert (result.exit_code, result.output) == (141, "")


# As another program leaves it that shares the pipe, and does not block on it.
def test_output_to_a_pipe_that_does_not_block_arrives_whole() -> None:
    lines = [f"{number:>1000}" for number in range(500)]
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    with ThreadPoolExecutor(1) as pool, os.fdopen(read_end, "rb") as pipe:
        reading = pool.submit(pipe.read)
        with os.fdopen(write_end, "w") as stdout, redirect_stdout(stdout):
            write_lines(lines)
        assert reading.result(timeout=10).decode().splitlines() == lines


def test_a_defect_beside_a_closed_output_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    group = ExceptionGroup("tasks", [BrokenPipeError(errno.EPIPE, "Broken pipe"), ZeroDivisionError("ours")])

    assert invoke(group_that_raises(monkeypatch, group), "fail").exception is group


def test_a_defect_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    result = invoke(group_that_raises(monkeypatch, ZeroDivisionError("ours")), "fail")

    assert isinstance(result.exception, ZeroDivisionError)


@click.command()
@endpoint_option
@output_option
def show_options(**options: Any) -> None:
    click.echo(json.dumps(options))


@pytest.mark.parametrize("endpoint", ["localhost:7420", "10.0.0.1:1", "[::1]:65535", "broker.example:80"])
def test_an_endpoint_is_host_and_port(endpoint: str) -> None:
    assert json.loads(invoke(show_options, "--endpoint", endpoint).stdout)["endpoint"] == endpoint
    assert json.loads(invoke(show_options, HEADRACE_ENDPOINT=endpoint).stdout)["endpoint"] == endpoint


@pytest.mark.parametrize(
    "endpoint", ["localhost", ":7420", "localhost:", "localhost:0", "localhost:65536", "::1:7420", "a:b"]
)
def test_anything_else_as_endpoint_is_wrong_usage(endpoint: str) -> None:
    result = invoke(show_options, "--endpoint", endpoint)

    assert result.exit_code == 2
    assert "HOST:PORT" in result.stderr


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Decimal(12345678901234567890123456789012345678), "12345678901234567890123456789012345678"),
        (Decimal("0.10"), "0.1"),
        ({"b": b"\x00", "s": {"z", "a"}, "n": None, "t": True}, '{"b": "AA==", "s": ["a", "z"], "n": null, "t": true}'),
        ([1, 2.5, "ü"], '[1, 2.5, "ü"]'),
        (datetime(2026, 1, 2, 3, 4, 5, 678_900, tzinfo=UTC), '"2026-01-02T03:04:05.678Z"'),
    ],
)
def test_json_is_exact(value: object, text: str) -> None:
    assert json_text(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(1, "1s"), (61, "61s"), (5_400, "90m"), (86_400, "1d"), (90_000, "25h"), (0, "0s")]
)
def test_a_duration_is_written_as_options_take_it(seconds: int, text: str) -> None:
    assert duration_text(seconds) == text


@pytest.mark.parametrize(("size", "text"), [(0, "0B"), (1_500, "1500B"), (4 * 2**20, "4MiB"), (2**40, "1TiB")])
def test_a_size_is_written_as_options_take_it(size: int, text: str) -> None:
    assert size_text(size) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1_000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (20_971_520, "21.0 MB"),
        (3_210_000_000, "3.2 GB"),
        (5_000_000_000_000_000, "5000.0 TB"),
    ],
)
def test_how_much_something_takes_is_written_for_people(size: int, text: str) -> None:
    assert byte_count_text(size) == text


SHARD = "shardId-00000001764000000000-00000001"
ARN = "arn:aws:dynamodb:eu-north-1:000000000000:table/orders/stream/2026-01-05T09:00:00.125"


def on_terminal(monkeypatch: pytest.MonkeyPatch, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table as a terminal of 80 columns shows it."""
    for name, value in (("COLUMNS", "80"), ("TERM", "dumb")):
        monkeypatch.setenv(name, value)
    screen = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    monkeypatch.setattr(screen, "isatty", lambda: True)
    with redirect_stdout(screen):
        print_table(columns, rows)
    content: bytes = screen.buffer.getvalue()
    return content.decode()


def test_a_terminal_of_80_columns_shows_the_ends_of_ids_and_whole_words(monkeypatch: pytest.MonkeyPatch) -> None:
    time = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)
    explained = "it waits for its parent, which another member holds"
    screen = on_terminal(
        monkeypatch, ["shard", "member", "lag ms", "created", "why"], [[SHARD, ARN, 1_234_567, time, explained]]
    )

    lines = screen.splitlines()
    assert max(map(len, lines)) <= 80
    shown = screen.split()
    assert {*explained.split(), "1234567", "2026-01-02T03:04:05.678Z"} <= set(shown)
    (shard,) = [word for word in shown if word.startswith("shard") and word != "shard"]
    assert shard.endswith("1")
    assert "".join(shown).count("…") == 2


def test_a_table_that_fits_a_terminal_is_shown_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = on_terminal(monkeypatch, ["shard", "count"], [["  " + SHARD, 3]])

    assert screen.splitlines()[2] == f"  {SHARD}       3"


def test_an_indented_id_stays_in_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [["    " + SHARD, SHARD, SHARD, SHARD], [SHARD, "a", "b", "c"]]
    screen = on_terminal(monkeypatch, ["shard", "first", "second", "third"], rows)

    lines = screen.splitlines()[2:]
    assert [line.startswith("    shard") for line in lines] == [True, False]
    assert [line.count("…") for line in lines] == [4, 1]
    assert all(len(line) <= 80 for line in lines)


# Nothing is gained by a number that is another one.
def test_a_number_is_never_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = [10**20 + number for number in range(4)]
    screen = on_terminal(monkeypatch, ["a", "b", "c", "d"], [numbers])

    assert "…" not in screen


def test_a_table_in_a_pipe_is_neither_folded_nor_marked_up(capsys: pytest.CaptureFixture[str]) -> None:
    long_value = "arn:aws:dynamodb:eu-north-1:000000000000:table/" + "x" * 200

    print_table(["name", "count", "[bold]"], [[long_value, 3, None], ["b", 12, "[red]text"]])

    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines() if line.strip("─ ")]
    assert [line.split() for line in lines] == [
        ["name", "count", "[bold]"],
        [long_value, "3", "-"],
        ["b", "12", "[red]text"],
    ]


def test_fields_are_listed_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    print_fields({"name": "flights", "stream": True, "items": Decimal("2.50")})

    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["name", "flights"],
        ["stream", "yes"],
        ["items", "2.5"],
    ]
