"""Handlers in real worker processes: the official runtime client, unmodified, against our Runtime API."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import textwrap
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from headrace.triggers import worker as worker_module
from headrace.triggers.function import Function, InvocationResult
from headrace.triggers.function_spec import FunctionSpec
from headrace.triggers.log_capture import LogLine
from headrace.triggers.worker import Worker


class Running:
    """A function on the code of a test, and its log."""

    def __init__(self, code_dir: Path, code: str, **overrides: Any) -> None:
        (code_dir / "app.py").write_text(textwrap.dedent(code))
        settings: dict[str, Any] = {
            "name": "orders",
            "arn": "arn:aws:lambda:eu-west-1:123456789012:function:orders",
            "region": "eu-west-1",
            "handler": "app.handler",
            "code_dir": code_dir,
            "environment": {},
            "timeout_s": 10,
            "memory_size_mb": 128,
        }
        self.lines: list[LogLine] = []
        self._has_new_lines = asyncio.Event()
        self.function = Function(FunctionSpec(**settings | overrides), self._add_line, random=Random(1))

    def _add_line(self, line: LogLine) -> None:
        self.lines.append(line)
        self._has_new_lines.set()

    async def call(self, **event: Any) -> InvocationResult:
        return await self.function.invoke(json.dumps(event).encode())

    async def ok(self, **event: Any) -> None:
        result = await self.call(**event)
        assert result.error is None, (result, self.log)

    async def error(self, **event: Any) -> tuple[str, str]:
        result = await self.call(**event)
        assert result.error is not None, self.log
        return result.error.error_type, result.error.message

    @property
    def log(self) -> list[str]:
        return [line.text for line in self.lines]

    @property
    def pid(self) -> int:
        assert self.function._worker is not None
        return self.function._worker._process.pid

    async def said(self, start: str) -> str:
        """Waits for the first log line that begins so."""
        async with asyncio.timeout(10):
            while not any(text.startswith(start) for text in self.log):
                self._has_new_lines.clear()
                await self._has_new_lines.wait()
        return self.line(start)

    def line(self, start: str) -> str:
        """The only log line that begins so."""
        (found,) = [text for text in self.log if text.startswith(start)]
        return found


StartFunction = Callable[..., Running]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[StartFunction]:
    """Makes functions that are closed when the test is done."""
    async with contextlib.AsyncExitStack() as stack:

        def make(code: str, **overrides: Any) -> Running:
            running = Running(tmp_path, code, **overrides)
            stack.push_async_callback(running.function.close)
            return running

        yield make


def is_alive(pid: int) -> bool:
    """Whether a process exists and is more than a zombie."""
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


def wait_for_exit(pid: int) -> None:
    """Blocks until a child of ours has ended, and leaves it to be reaped."""
    with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


async def gone(pid: int) -> bool:
    """Waits until a process that is not our child has ended."""
    async with asyncio.timeout(5):
        while is_alive(pid):  # noqa: ASYNC110 - no event tells of the end of another process's child
            await asyncio.sleep(0.01)
    return True


async def test_a_handler_gets_the_event_and_the_context_of_lambda(start: StartFunction) -> None:
    running = start("""
        import json
        def handler(event, context):
            print(json.dumps({
                "event": event, "id": context.aws_request_id, "name": context.function_name,
                "arn": context.invoked_function_arn, "memory": context.memory_limit_in_mb,
                "version": context.function_version, "group": context.log_group_name,
                "stream": context.log_stream_name, "remaining_ms": context.get_remaining_time_in_millis(),
            }))
    """)
    await running.ok(Records=[{"é": 1}])
    seen = json.loads(running.line("{"))
    assert seen["event"] == {"Records": [{"é": 1}]}
    assert running.line("START") == f"START RequestId: {seen['id']} Version: $LATEST"
    assert (seen["name"], seen["memory"], seen["version"]) == ("orders", "128", "$LATEST")
    assert seen["arn"] == "arn:aws:lambda:eu-west-1:123456789012:function:orders"
    assert seen["group"] == "/aws/lambda/orders"
    assert "[$LATEST]" in seen["stream"]
    assert 8_000 < seen["remaining_ms"] <= 10_000


# What the host knows must not leak into a function; what AWS sets must be there.
async def test_the_environment_is_lambdas_and_the_functions_own(
    start: StartFunction, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_THE_HOST", "x")
    running = start(
        """
        import json, os
        def handler(event, context):
            print(json.dumps(dict(os.environ)))
        """,
        environment={"MINE": "1", "TZ": "Europe/Berlin", "AWS_REGION": "no", "AWS_LAMBDA_MAX_CONCURRENCY": "4"},
    )
    await running.ok()
    environment = json.loads(running.line("{"))
    assert environment.pop("AWS_LAMBDA_RUNTIME_API").startswith("127.0.0.1:")
    assert environment.pop("AWS_LAMBDA_LOG_STREAM_NAME")
    assert environment.pop("AWS_EXECUTION_ENV").startswith("AWS_Lambda_python3.")
    assert environment.pop("LAMBDA_TASK_ROOT") == str(running.function._spec.code_dir)
    environment.pop("LC_CTYPE", None)  # the interpreter sets it where it had to change the locale
    assert environment == {
        "MINE": "1",
        "TZ": "Europe/Berlin",
        "LANG": "C.UTF-8",
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "AWS_REGION": "eu-west-1",
        "AWS_DEFAULT_REGION": "eu-west-1",
        "AWS_LAMBDA_FUNCTION_NAME": "orders",
        "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "128",
        "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
        "AWS_LAMBDA_LOG_GROUP_NAME": "/aws/lambda/orders",
        "_HANDLER": "app.handler",
    }


async def test_a_worker_has_no_files_of_the_host_open(start: StartFunction, tmp_path: Path) -> None:
    with (tmp_path / "of-the-host").open("wb") as file:
        os.set_inheritable(file.fileno(), True)  # noqa: FBT003 - the signature of os
        running = start("""
            import os
            def name(fd):
                try:
                    return os.readlink(f"/proc/self/fd/{fd}")
                except FileNotFoundError:
                    return "the listing itself"
            def handler(event, context):
                print("open:", sorted(map(name, os.listdir("/proc/self/fd"))))
        """)
        await running.ok()
    assert "pipe:" in running.line("open:")
    assert "of-the-host" not in running.line("open:")


async def test_a_worker_is_kept_warm_with_its_globals(start: StartFunction) -> None:
    running = start("""
        print("loaded")
        calls = 0
        def handler(event, context):
            global calls
            calls += 1
            print("call", calls)
    """)
    for _ in range(3):
        await running.ok()
    assert [text for text in running.log if text.startswith(("INIT_START", "loaded", "call"))][1:] == [
        "loaded",
        "call 1",
        "call 2",
        "call 3",
    ]
    reports = [text for text in running.log if text.startswith("REPORT")]
    assert ["Init Duration" in text for text in reports] == [True, False, False]


async def test_the_log_of_a_call_lies_between_its_start_and_its_end(start: StartFunction) -> None:
    running = start("""
        import logging, os, sys
        logging.getLogger().setLevel("INFO")
        def handler(event, context):
            print("printed")
            print("to stderr", file=sys.stderr)
            logging.getLogger().info("logged\\nin two lines")
            os.write(1, b"without an end")
    """)
    for _ in range(2):
        running.lines.clear()
        await running.ok()
        log = running.log
        begin = next(i for i, text in enumerate(log) if text.startswith("START"))
        end = next(i for i, text in enumerate(log) if text.startswith("END"))
        inner = log[begin + 1 : end]
        assert [text for text in inner if not text.startswith("[INFO]")] == ["printed", "to stderr", "without an end"]
        (logged,) = [text for text in inner if text.startswith("[INFO]")]
        assert logged.endswith("\tlogged\nin two lines")
        request_id = log[begin].split()[2]
        assert log[end] == f"END RequestId: {request_id}"
        assert log[end + 1].startswith(f"REPORT RequestId: {request_id}\tDuration: ")
        assert "\tMemory Size: 128 MB\tMax Memory Used: " in log[end + 1]
        assert int(log[end + 1].partition("Max Memory Used: ")[2].split()[0]) in range(5, 60)


async def test_an_exception_is_an_error_with_its_traceback_and_the_worker_lives(start: StartFunction) -> None:
    running = start("""
        def handler(event, context):
            if event["bad"]:
                raise ValueError("bad record")
    """)
    assert await running.error(bad=True) == ("ValueError", "bad record")
    trace = running.line("[ERROR] ValueError: bad record")
    assert "Traceback (most recent call last):" in trace
    assert 'raise ValueError("bad record")' in trace
    pid = running.pid
    await running.ok(bad=False)
    assert running.pid == pid


@pytest.mark.parametrize(
    ("leave", "message"),
    [
        ("sys.exit(3)", "Runtime exited with error: exit status 3"),
        ("sys.exit(0)", "Runtime exited without providing a reason"),
        ("os.kill(os.getpid(), 9)", "Runtime exited with error: signal: killed"),
        ("os.abort()", "Runtime exited with error: signal: Aborted"),
    ],
)
async def test_a_worker_that_ends_fails_its_call_and_is_replaced(
    start: StartFunction, leave: str, message: str
) -> None:
    running = start(f"""
        import os, sys
        def handler(event, context):
            print("before the end", flush=True)
            if event["leave"]:
                {leave}
    """)
    error_type, text = await running.error(leave=True)
    assert error_type == "Runtime.ExitError"
    request_id = running.line("START").split()[2]
    assert text == f"RequestId: {request_id} Error: {message}"
    assert "before the end" in running.log
    assert "Status: error\tError Type: Runtime.ExitError" in running.line("REPORT")
    await running.ok(leave=False)


async def test_a_call_that_takes_too_long_is_ended_with_all_it_started(start: StartFunction) -> None:
    running = start(
        """
        import subprocess, time
        def handler(event, context):
            child = subprocess.Popen(["sleep", "600"])
            print("child", child.pid)
            time.sleep(600)
        """,
        timeout_s=1,
    )
    error_type, message = await running.error()
    request_id = running.line("START").split()[2]
    assert error_type == "Sandbox.Timedout"
    assert message == f"RequestId: {request_id} Error: Task timed out after 1.00 seconds"
    (line,) = [text for text in running.log if "Task timed out" in text]
    assert line.endswith(f"Z {request_id} Task timed out after 1.00 seconds")
    assert "\tStatus: timeout\t" in running.line("REPORT")
    assert await gone(int(running.line("child").split()[1]))
    assert running.function._worker is None


@pytest.mark.parametrize(
    ("code", "error_type", "words"),
    [
        ("import nothing_of_this_name", "Runtime.ImportModuleError", "No module named 'nothing_of_this_name'"),
        ("def handler(:", "Runtime.UserCodeSyntaxError", "Syntax error in module 'app'"),
        ("other = 1", "Runtime.HandlerNotFound", "Handler 'handler' missing on module 'app'"),
        ("1 / 0", "ZeroDivisionError", "division by zero"),
        ("import sys; sys.exit(4)", "Runtime.ExitError", "exit status 4"),
    ],
)
async def test_code_that_cannot_start_fails_the_call_and_says_why(
    start: StartFunction, code: str, error_type: str, words: str
) -> None:
    running = start(code)
    for _ in range(2):
        assert (await running.error())[0] == error_type
    assert words in (await running.error())[1]
    assert any(text.startswith("INIT_REPORT") and error_type in text for text in running.log)
    assert not any(text.startswith("START") for text in running.log)
    assert running.function._worker is None


async def test_code_that_never_gets_ready_is_ended(start: StartFunction, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "INIT_TIMEOUT_S", 0.3)
    running = start("import time; time.sleep(600)")
    assert await running.error() == ("Sandbox.Timedout", "Init timed out after 0.30 seconds")


async def test_an_answer_that_is_no_json_is_an_error(start: StartFunction) -> None:
    running = start("def handler(event, context): return object()")
    assert (await running.error())[0] == "Runtime.MarshalError"


async def test_too_large_an_answer_is_an_error_and_the_next_call_works(start: StartFunction) -> None:
    running = start("def handler(event, context): return 'x' * event['size']")
    assert (await running.error(size=7_000_000))[0] == "Function.ResponseSizeTooLarge"
    await running.ok(size=6_000_000)


# A function that takes all memory of the machine would take the host with it.
async def test_memory_is_bounded(start: StartFunction) -> None:
    running = start("""
        def handler(event, context):
            bytearray(event["mb"] * 1024 * 1024)
    """)
    assert (await running.error(mb=600))[0] == "MemoryError"
    await running.ok(mb=64)


# The runtime client must not fail a call for a worker that died while it had nothing to do.
async def test_a_worker_that_dies_between_calls_is_replaced_unnoticed(start: StartFunction) -> None:
    running = start("""
        import os, threading
        def handler(event, context):
            if event["leave"]:
                threading.Timer(0.05, os._exit, [5]).start()
    """)
    await running.ok(leave=True)
    await asyncio.to_thread(wait_for_exit, running.pid)
    await running.ok(leave=False)
    assert "The worker ended between invocations: Runtime exited with error: exit status 5" in running.log


async def test_a_worker_whose_end_the_event_loop_has_not_heard_of_is_replaced_too(start: StartFunction) -> None:
    running = start("def handler(event, context): pass")
    await running.ok()
    os.kill(running.pid, signal.SIGKILL)
    wait_for_exit(running.pid)
    await running.ok()
    assert "The worker ended between invocations: Runtime exited with error: signal: killed" in running.log


async def test_a_call_that_is_cancelled_leaves_no_process(start: StartFunction) -> None:
    running = start("""
        import os, time
        def handler(event, context):
            print("pid", os.getpid(), flush=True)
            time.sleep(600)
    """)
    call = asyncio.create_task(running.call())
    pid = int((await running.said("pid")).split()[1])
    call.cancel()
    await asyncio.wait({call})
    assert call.cancelled()
    assert not is_alive(pid)


async def test_closing_ends_what_a_warm_worker_started_and_can_be_repeated(start: StartFunction) -> None:
    running = start("""
        import subprocess
        def handler(event, context):
            print("child", subprocess.Popen(["sleep", "600"]).pid)
    """)
    await running.ok()
    pid, child = running.pid, int(running.line("child").split()[1])
    await running.function.close()
    await running.function.close()
    assert not is_alive(pid)
    assert await gone(child)


async def test_a_system_that_starts_no_process_fails_the_call(
    start: StartFunction, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object, **__: object) -> Worker:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    running = start("def handler(event, context): pass")
    with monkeypatch.context() as patched:
        patched.setattr(Worker, "start", refuse)
        assert (await running.error())[0] == "Runtime.StartError"
    await running.ok()


# The module of a handler may have any name, also one that this package uses.
async def test_the_modules_of_the_function_come_first(start: StartFunction, tmp_path: Path) -> None:
    for name in ("event", "worker", "headrace"):
        (tmp_path / f"{name}.py").write_text(f"name = 'mine: {name}'\n")
    running = start("""
        import event, headrace, worker
        def handler(_event, context):
            print(event.name, worker.name, headrace.name)
    """)
    await running.ok()
    assert "mine: event mine: worker mine: headrace" in running.log


async def test_a_function_that_prints_without_end_does_not_stop_its_call(start: StartFunction) -> None:
    running = start("""
        import threading
        def forever():
            while True:
                print("again")
        threading.Thread(target=forever, daemon=True).start()
        def handler(event, context):
            pass
    """)
    await running.ok()
    await running.ok()
    assert "again" in running.log
