"""`headrace trigger`: what a user types, what comes back, and what is refused before it reaches the broker."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import io
import json
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest
from click.testing import CliRunner, Result
from google.protobuf.timestamp_pb2 import Timestamp

from headrace.cli import main
from headrace.v1 import trigger_service_pb2 as pb
from tests.rpc import Client, TestTable, unique_name

TIMEOUT_S = 15.0


class Headrace(Protocol):
    """Runs a command against the broker under test."""

    def __call__(self, *arguments: str, input: str | None = None) -> Result: ...  # noqa: A002 - the word of click


@pytest.fixture
def headrace(endpoint: str) -> Headrace:
    def run(*arguments: str, input: str | None = None) -> Result:  # noqa: A002
        return CliRunner().invoke(main, arguments, input=input, env={"HEADRACE_ENDPOINT": endpoint})

    return run


@pytest.fixture
def handler(tmp_path: Path) -> Path:
    file = tmp_path / "app.py"
    file.write_text("def handler(event, context):\n    pass\n")
    return file


@pytest.fixture
def trigger(headrace: Headrace, table: TestTable, handler: Path) -> Iterator[str]:
    """A trigger that no host runs."""
    name = unique_name("trigger")
    parsed(headrace("trigger", "create", name, "--table", table.name, "--handler", str(handler), "-o", "json"))
    yield name
    headrace("trigger", "delete", name, "--yes")


def done(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return result.stdout


def parsed(result: Result) -> Any:
    return json.loads(done(result))


def refused(result: Result, code: int, *words: str) -> None:
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    for word in words:
        assert word in result.stderr


def report(client: Client, trigger: str, *lines: str, **counts: int) -> None:
    """What a host would report."""
    time = Timestamp(seconds=1_700_000_000, nanos=5_000_000)
    client.triggers.ReportInvocations(
        pb.ReportInvocationsRequest(
            trigger_name=trigger,
            counts=pb.TriggerCounts(**counts),
            last_processing_result="OK",
            lines=[pb.TriggerLogLine(time=time, text=text) for text in lines],
        )
    )


def test_a_trigger_is_made_of_a_file_with_lambdas_defaults(
    headrace: Headrace, client: Client, table: TestTable, trigger: str, handler: Path
) -> None:
    made = parsed(headrace("trigger", "describe", trigger, "-o", "json"))
    code = client.triggers.GetTriggerCode(pb.GetTriggerCodeRequest(trigger_name=trigger)).code
    with zipfile.ZipFile(io.BytesIO(code)) as archive:
        assert archive.namelist() == ["app.py"]
        assert archive.read("app.py") == handler.read_bytes()
    assert made.pop("create_time")
    assert made == {
        "trigger_name": trigger,
        "event_source_arn": table.stream_arn,
        "function": {
            "handler": "app.handler",
            "runtime": "python",
            "environment_names": [],
            "timeout_seconds": 3,
            "memory_size_mb": 128,
            "code_sha256": base64.b64encode(hashlib.sha256(code).digest()).decode(),
        },
        "batch_size": 100,
        "starting_position": "TRIM_HORIZON",
        "state": "ENABLED",
        "last_processing_result": "No records processed",
        "counts": {"invocations": 0, "errors": 0, "records": 0, "duration_ms": 0.0, "iterator_age_ms": 0},
    }


def test_all_that_can_be_chosen_is_kept(
    headrace: Headrace, client: Client, table: TestTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN", "from=here")
    module = tmp_path / "code" / "shop" / "app.py"
    module.parent.mkdir(parents=True)
    module.touch()
    name = unique_name("trigger")
    made = parsed(
        headrace(
            *("trigger", "create", name, "--table", table.name, "--handler", f"{module}:count"),
            *("--code", str(tmp_path / "code"), "--batch-size", "7", "--from", "latest", "--timeout", "60"),
            *("--memory", "256", "--env", "A=1", "--env", "B=x=y", "--env", "TOKEN", "-o", "json"),
        )
    )
    assert made["function"]["handler"] == "shop.app.count"
    assert made["function"]["environment_names"] == ["A", "B", "TOKEN"]
    shown = done(headrace("trigger", "describe", name))
    assert "A, B, TOKEN" in shown
    assert "x=y" not in shown
    fetched = client.triggers.GetTriggerCode(pb.GetTriggerCodeRequest(trigger_name=name))
    assert fetched.environment == {"A": "1", "B": "x=y", "TOKEN": "from=here"}
    assert (made["function"]["timeout_seconds"], made["function"]["memory_size_mb"]) == (60, 256)
    assert (made["batch_size"], made["starting_position"]) == (7, "LATEST")
    assert done(headrace("trigger", "delete", name, "--yes")) == ""
    refused(headrace("trigger", "describe", name), 1, "not found")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--handler", "missing.py"], "there is no file missing.py"),
        (["--handler", "app"], "is not FILE.py or FILE.py:function"),
        (["--handler", "{handler}:not-a-name"], "is not FILE.py or FILE.py:function"),
        (["--handler", "{handler}", "--env", "NOT_SET_ANYWHERE"], "NOT_SET_ANYWHERE is not set here"),
        (["--handler", "{handler}", "--env", "=x"], "is not NAME=VALUE or NAME"),
        (["--handler", "{handler}", "--env", "AWS_REGION=x"], "AWS_REGION is set by the runtime"),
        (["--handler", "{handler}", "--batch-size", "0"], "--batch-size"),
        (["--handler", "{handler}", "--timeout", "901"], "--timeout"),
        (["--handler", "{handler}", "--memory", "127"], "--memory"),
        (["--handler", "{handler}", "--code", "{elsewhere}"], "does not lie in"),
    ],
)
def test_wrong_usage_is_one_clear_line(
    headrace: Headrace, table: TestTable, handler: Path, tmp_path: Path, options: list[str], words: str
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    filled = [option.format(handler=handler, elsewhere=elsewhere) for option in options]
    refused(headrace("trigger", "create", "t", "--table", table.name, *filled), 2, words)


def test_what_the_broker_refuses_fails_with_its_words(
    headrace: Headrace, client: Client, table: TestTable, trigger: str, handler: Path
) -> None:
    code = ["--handler", str(handler)]
    refused(headrace("trigger", "create", trigger, "--table", table.name, *code), 1, "already exists", trigger)
    refused(headrace("trigger", "create", "t", "--table", "no-such-table", *code), 1, "no-such-table")
    refused(headrace("trigger", "create", "bad name!", "--table", table.name, *code), 1, "trigger_name")
    without_stream = client.create_table(view_type=None)
    refused(headrace("trigger", "create", "t", "--table", without_stream.name, *code), 1, without_stream.name)
    for command in ("describe", "enable", "disable", "logs"):
        refused(headrace("trigger", command, "no-such-trigger"), 1, "no-such-trigger")


def test_a_trigger_is_listed_with_what_it_has_done(
    headrace: Headrace, client: Client, table: TestTable, trigger: str
) -> None:
    report(client, trigger, invocations=3, errors=1, records=250, duration_ms=30, iterator_age_ms=17)
    (row,) = [line.split() for line in done(headrace("trigger", "list")).splitlines() if line.startswith(trigger)]
    assert row == [trigger, table.name, "ENABLED", "app.handler", "3", "1", "250", "OK"]
    (listed,) = [each for each in parsed(headrace("trigger", "list", "-o", "json")) if each["trigger_name"] == trigger]
    assert listed == parsed(headrace("trigger", "describe", trigger, "-o", "json"))
    shown = done(headrace("trigger", "describe", trigger))
    for words in ("10.00 ms", "17 ms", "128 MB", table.stream_arn):
        assert words in shown


def test_a_trigger_is_disabled_and_enabled(headrace: Headrace, trigger: str) -> None:
    assert parsed(headrace("trigger", "disable", trigger, "-o", "json"))["state"] == "DISABLED"
    assert parsed(headrace("trigger", "enable", trigger, "-o", "json"))["state"] == "ENABLED"


def test_new_code_and_batch_size_are_taken(headrace: Headrace, trigger: str, handler: Path) -> None:
    before = parsed(headrace("trigger", "describe", trigger, "-o", "json"))
    handler.write_text("def handler(event, context):\n    return 1\n")
    after = parsed(headrace("trigger", "update", trigger, "--code", str(handler), "--batch-size", "9", "-o", "json"))
    assert after["batch_size"] == 9
    assert after["function"].pop("code_sha256") != before["function"].pop("code_sha256")
    assert after["function"] == before["function"]
    # A folder will do as well, if the handler is in it.
    parsed(headrace("trigger", "update", trigger, "--code", str(handler.parent), "-o", "json"))


def test_an_update_that_could_not_work_is_refused(headrace: Headrace, trigger: str, tmp_path: Path) -> None:
    refused(headrace("trigger", "update", trigger), 2, "Nothing to change")
    other = tmp_path / "other.py"
    other.touch()
    refused(headrace("trigger", "update", trigger, "--code", str(other)), 2, "app.handler", "app.py")
    empty = tmp_path / "empty"
    empty.mkdir()
    refused(headrace("trigger", "update", trigger, "--code", str(empty)), 2, "app.py")


def test_deleting_asks_first(headrace: Headrace, trigger: str) -> None:
    assert headrace("trigger", "delete", trigger, input="n\n").exit_code == 1
    assert parsed(headrace("trigger", "describe", trigger, "-o", "json"))["trigger_name"] == trigger
    assert headrace("trigger", "delete", trigger, input="y\n").exit_code == 0
    refused(headrace("trigger", "describe", trigger), 1, "not found")


def test_the_last_log_lines_are_shown(headrace: Headrace, client: Client, trigger: str) -> None:
    assert done(headrace("trigger", "logs", trigger)) == ""
    report(client, trigger, *(f"line {number}" for number in range(150)))
    lines = done(headrace("trigger", "logs", trigger)).splitlines()
    assert len(lines) == 100
    assert lines[-1] == "2023-11-14T22:13:20.005Z  line 149"
    two = done(headrace("trigger", "logs", trigger, "-n", "2", "-o", "json")).splitlines()
    assert [json.loads(line) for line in two] == [
        {"time": "2023-11-14T22:13:20.005Z", "text": f"line {number}"} for number in (148, 149)
    ]


def test_following_a_log_shows_new_lines_until_ctrl_c(client: Client, trigger: str) -> None:
    report(client, trigger, "old")
    command = [sys.executable, "-m", "headrace.cli", "trigger", "logs", trigger, "--follow"]
    with subprocess.Popen(
        [*command, "--endpoint", client.endpoint], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as following:
        try:
            assert following.stdout is not None
            assert following.stdout.readline().endswith("  old\n")
            report(client, trigger, "new")
            assert following.stdout.readline().endswith("  new\n")
            following.send_signal(signal.SIGINT)
            output, errors = following.communicate(timeout=TIMEOUT_S)
        finally:
            following.kill()
    assert (following.returncode, output, errors) == (130, "", "")


def test_a_host_without_its_extra_says_what_to_install(headrace: Headrace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.triggers.find_spec", lambda _: None)
    refused(headrace("trigger-host"), 2, "pip install 'headrace[triggers]'")


# Whoever only makes triggers needs neither an HTTP server nor the runtime client.
def test_making_triggers_needs_no_extra() -> None:
    assert importlib.util.find_spec("awslambdaric") is not None
    program = (
        "import sys, headrace.triggers, headrace.triggers.event, headrace.triggers.archive, "
        "headrace.triggers.function_spec, headrace.cli.trigger\n"
        "print([name for name in ('aiohttp', 'awslambdaric', 'grpc') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=TIMEOUT_S, check=True)
    assert run.stdout.strip() == "[]"
