"""`headrace trigger`: functions that run on each change of a table; `headrace trigger-host`: what runs them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from headrace.cli.options import endpoint_option, output_option
from headrace.cli.output import write_lines
from headrace.cli.render import json_text, print_fields, print_json, print_table, time_text

if TYPE_CHECKING:
    from google.protobuf.timestamp_pb2 import Timestamp

    from headrace.v1 import trigger_service_pb2 as pb
    from headrace.v1.trigger_service_pb2_grpc import TriggerServiceStub

__all__ = ["trigger", "trigger_host"]

_Command = TypeVar("_Command", bound=Callable[..., Any])

# The function of a handler file that is named without one; the word of AWS's documentation.
DEFAULT_FUNCTION = "handler"

# What a shell reports for a process that Ctrl-C ended.
EXIT_INTERRUPTED = 130


@dataclass(frozen=True, slots=True, kw_only=True)
class HandlerOption:
    """FILE.py[:function] as the user typed it."""

    file: Path
    function: str


def _parse_handler(ctx: click.Context, param: click.Parameter, value: str) -> HandlerOption:
    """A click callback."""
    path, colon, function = value.rpartition(":")
    if not colon:
        path, function = value, DEFAULT_FUNCTION
    file = Path(path)
    if file.suffix != ".py" or not file.stem.isidentifier() or not function.isidentifier():
        raise click.BadParameter(f"{value!r} is not FILE.py or FILE.py:function", ctx=ctx, param=param)
    if not file.is_file():
        raise click.BadParameter(f"there is no file {path}", ctx=ctx, param=param)
    return HandlerOption(file=file, function=function)


def _parse_environment(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    """A click callback."""
    from headrace.triggers.function_spec import is_reserved

    environment = {}
    for value in values:
        name, equals, text = value.partition("=")
        if not name:
            raise click.BadParameter(f"{value!r} is not NAME=VALUE or NAME", ctx=ctx, param=param)
        if not equals:
            # Other users of the machine can see a command line, and not an environment.
            if name not in os.environ:
                raise click.BadParameter(f"{name} is not set here; give {name}=VALUE or set it", ctx=ctx, param=param)
            text = os.environ[name]
        if is_reserved(name):
            raise click.BadParameter(f"{name} is set by the runtime; choose another name", ctx=ctx, param=param)
        environment[name] = text
    return environment


def _name_argument(command: _Command) -> _Command:
    return click.argument("trigger_name", metavar="NAME")(command)


@click.group()
def trigger() -> None:
    """Run a function on every change of a table."""


@trigger.command()
@_name_argument
@click.option("--table", "table_name", metavar="TABLE", required=True, help="The table whose stream to read.")
@click.option(
    "--handler",
    metavar="FILE.py[:FUNCTION]",
    required=True,
    callback=_parse_handler,
    help=f"What to run: def FUNCTION(event, context); {DEFAULT_FUNCTION} if left out.",
)
@click.option(
    "--code",
    "folder",
    metavar="FOLDER",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A folder that FILE.py lies in, to send whole. Only FILE.py is sent if left out.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(1, 10_000),
    default=100,
    show_default=True,
    help="Most records in one call.",
)
@click.option(
    "--from",
    "start",
    type=click.Choice(["TRIM_HORIZON", "LATEST"], case_sensitive=False),
    default="TRIM_HORIZON",
    show_default=True,
    help="Begin at the oldest record held, or with what is written after the trigger was created.",
)
@click.option(
    "--timeout",
    "timeout_s",
    metavar="SECONDS",
    type=click.IntRange(1, 900),
    default=3,
    show_default=True,
    help="The longest one call may take.",
)
@click.option(
    "--memory",
    "memory_mb",
    metavar="MB",
    type=click.IntRange(128, 10_240),
    default=128,
    show_default=True,
    help="The most memory the function may use.",
)
@click.option(
    "--env",
    "environment",
    metavar="NAME[=VALUE]",
    multiple=True,
    callback=_parse_environment,
    help="An environment variable of the function, without =VALUE as it is set here; may be given again.",
)
@endpoint_option
@output_option
def create(
    *,
    trigger_name: str,
    table_name: str,
    handler: HandlerOption,
    folder: Path | None,
    batch_size: int,
    start: str,
    timeout_s: int,
    memory_mb: int,
    environment: dict[str, str],
    endpoint: str | None,
    output: str,
) -> None:
    """Connect a function to the stream of TABLE. A trigger host runs it from now on."""
    from headrace.v1 import consumer_service_pb2
    from headrace.v1 import trigger_service_pb2 as pb

    request = pb.CreateTriggerRequest(
        trigger_name=trigger_name,
        table_name=table_name,
        function=pb.Function(
            handler=f"{_module(handler.file, folder)}.{handler.function}",
            runtime="python",
            environment=environment,
            timeout_seconds=timeout_s,
            memory_size_mb=memory_mb,
        ),
        code=_pack(folder or handler.file),
        batch_size=batch_size,
        starting_position=consumer_service_pb2.StartingPosition.Value(f"STARTING_POSITION_{start.upper()}"),
    )
    with _triggers(endpoint) as stub:
        created = stub.CreateTrigger(request, timeout=_timeout_s())
    _print_trigger(created.trigger, output)


@trigger.command(name="list")
@endpoint_option
@output_option
def list_(*, endpoint: str | None, output: str) -> None:
    """List all triggers and what they have done."""
    from headrace.v1 import trigger_service_pb2 as pb

    found: list[pb.TriggerDescription] = []
    with _triggers(endpoint) as stub:
        page_token: str | None = None
        while True:
            page = stub.ListTriggers(pb.ListTriggersRequest(page_token=page_token), timeout=_timeout_s())
            found.extend(page.triggers)
            page_token = page.next_page_token
            if not page_token:
                break
    if output == "json":
        print_json([_document(each) for each in found])
        return
    print_table(
        ["trigger", "table", "state", "handler", "invocations", "errors", "records", "last result"],
        [
            [
                each.trigger_name,
                _table_name(each),
                _state(each),
                each.function.handler,
                each.counts.invocations,
                each.counts.errors,
                each.counts.records,
                each.last_processing_result,
            ]
            for each in found
        ],
    )


@trigger.command()
@_name_argument
@endpoint_option
@output_option
def describe(*, trigger_name: str, endpoint: str | None, output: str) -> None:
    """Show the trigger NAME: what it runs, and what it has done."""
    with _triggers(endpoint) as stub:
        described = _describe(stub, trigger_name)
    _print_trigger(described, output)


@trigger.command()
@_name_argument
@click.option(
    "-n", "--lines", type=click.IntRange(0, 10_000), default=100, show_default=True, help="How many old lines to show."
)
@click.option("--follow", is_flag=True, help="Stay and show new lines, until Ctrl-C.")
@endpoint_option
@output_option
def logs(*, trigger_name: str, lines: int, follow: bool, endpoint: str | None, output: str) -> None:
    """Show what the function of the trigger NAME has logged; with -o json as JSON Lines."""
    from headrace.v1 import trigger_service_pb2 as pb

    request = pb.TailTriggerLogsRequest(trigger_name=trigger_name, last_lines=lines, follow=follow)
    with _triggers(endpoint) as stub:
        try:
            # Without follow the answer comes at once. With it there is no deadline: the channel notices a lost broker.
            for response in stub.TailTriggerLogs(request, timeout=None if follow else _timeout_s()):
                write_lines(_line_text(line, output) for line in response.lines)
        except KeyboardInterrupt:
            raise click.exceptions.Exit(EXIT_INTERRUPTED) from None


@trigger.command()
@_name_argument
@endpoint_option
@output_option
def enable(*, trigger_name: str, endpoint: str | None, output: str) -> None:
    """Let the trigger NAME go on where it stopped."""
    from headrace.v1 import trigger_service_pb2 as pb

    _update(pb.UpdateTriggerRequest(trigger_name=trigger_name, state=pb.TRIGGER_STATE_ENABLED), endpoint, output)


@trigger.command()
@_name_argument
@endpoint_option
@output_option
def disable(*, trigger_name: str, endpoint: str | None, output: str) -> None:
    """Stop the trigger NAME after the call that runs; its position is kept."""
    from headrace.v1 import trigger_service_pb2 as pb

    _update(pb.UpdateTriggerRequest(trigger_name=trigger_name, state=pb.TRIGGER_STATE_DISABLED), endpoint, output)


@trigger.command()
@_name_argument
@click.option(
    "--code",
    metavar="FILE.py|FOLDER",
    type=click.Path(exists=True, path_type=Path),
    help="New code, which must still hold the handler.",
)
@click.option("--batch-size", type=click.IntRange(1, 10_000), help="Most records in one call.")
@endpoint_option
@output_option
def update(*, trigger_name: str, code: Path | None, batch_size: int | None, endpoint: str | None, output: str) -> None:
    """Give the trigger NAME new code or another batch size; it goes on where it is."""
    from headrace.v1 import trigger_service_pb2 as pb

    if code is None and batch_size is None:
        raise click.UsageError("Nothing to change: give --code or --batch-size.")
    request = pb.UpdateTriggerRequest(trigger_name=trigger_name, batch_size=batch_size)
    if code is not None:
        with _triggers(endpoint) as stub:
            handler = _describe(stub, trigger_name).function.handler
        _check_holds(code, handler)
        request.code = _pack(code)
    _update(request, endpoint, output)


@trigger.command()
@_name_argument
@click.option("--yes", is_flag=True, help="Do not ask.")
@endpoint_option
def delete(*, trigger_name: str, yes: bool, endpoint: str | None) -> None:
    """Delete the trigger NAME with its code, position and log."""
    if not yes:
        click.confirm(f"Delete the trigger {trigger_name} with its position and log?", abort=True, err=True)
    from headrace.v1 import trigger_service_pb2 as pb

    with _triggers(endpoint) as stub:
        stub.DeleteTrigger(pb.DeleteTriggerRequest(trigger_name=trigger_name), timeout=_timeout_s())


@click.command(name="trigger-host")
@endpoint_option
def trigger_host(*, endpoint: str | None) -> None:
    """Run the functions of all enabled triggers, until SIGTERM or Ctrl-C.

    Start several to have the next one take over when one dies. Prints {"trigger_host": "ready"} once it has found the
    broker; waits for it until then.
    """
    import asyncio
    import logging
    import random
    import signal

    from headrace.triggers import TriggersNotInstalledError

    try:
        from headrace.triggers import TriggerHost
    except TriggersNotInstalledError as error:
        raise click.UsageError(str(error)) from error

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")

    async def run() -> None:
        host = TriggerHost(
            endpoint, random=random.SystemRandom(), on_ready=lambda: print_json({"trigger_host": "ready"})
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, host.stop)
        await host.run()

    asyncio.run(run())


@contextlib.contextmanager
def _triggers(endpoint: str | None) -> Iterator[TriggerServiceStub]:
    """The service of the broker; what goes wrong with a call is raised as HeadraceError."""
    import grpc

    from headrace import errors
    from headrace._channel import open_channel
    from headrace.v1.trigger_service_pb2_grpc import TriggerServiceStub

    with open_channel(endpoint) as channel:
        try:
            yield TriggerServiceStub(channel)
        except grpc.RpcError as error:
            raise errors.from_rpc(error) from error


def _timeout_s() -> float:
    from headrace._channel import UNARY_TIMEOUT_S

    return UNARY_TIMEOUT_S


def _describe(stub: TriggerServiceStub, trigger_name: str) -> pb.TriggerDescription:
    from headrace.v1 import trigger_service_pb2 as pb

    request = pb.DescribeTriggerRequest(trigger_name=trigger_name)
    return stub.DescribeTrigger(request, timeout=_timeout_s()).trigger


def _update(request: pb.UpdateTriggerRequest, endpoint: str | None, output: str) -> None:
    with _triggers(endpoint) as stub:
        updated = stub.UpdateTrigger(request, timeout=_timeout_s())
    _print_trigger(updated.trigger, output)


def _module(file: Path, folder: Path | None) -> str:
    """The name Python imports the file by, with the folder on its path."""
    if folder is None:
        return file.stem
    try:
        relative = file.resolve().relative_to(folder.resolve())
    except ValueError:
        raise click.UsageError(f"--handler {file} does not lie in --code {folder}") from None
    return ".".join(relative.with_suffix("").parts)


def _check_holds(code: Path, handler: str) -> None:
    """Refuses code in which the function could not find its handler."""
    module = Path(*handler.rpartition(".")[0].split("."))
    file, package = module.with_suffix(".py"), module / "__init__.py"
    holds = (code / file).is_file() or (code / package).is_file() if code.is_dir() else Path(code.name) == file
    if not holds:
        raise click.UsageError(f"the trigger runs {handler}, but {code} does not hold {file}")


def _pack(path: Path) -> bytes:
    from headrace.triggers import archive

    try:
        return archive.pack(path)
    except archive.ArchiveError as error:
        raise click.UsageError(str(error)) from error


def _print_trigger(described: pb.TriggerDescription, output: str) -> None:
    document = _document(described)
    if output == "json":
        print_json(document)
        return
    counts, calls = described.counts, described.counts.invocations
    print_fields(
        {
            "trigger": described.trigger_name,
            "state": _state(described),
            "table": _table_name(described),
            "handler": described.function.handler,
            "batch size": described.batch_size,
            "from": document["starting_position"],
            "timeout": f"{described.function.timeout_seconds} s",
            "memory": f"{described.function.memory_size_mb} MB",
            "environment": ", ".join(described.function.environment_names) or None,
            "created": document["create_time"],
            "last result": described.last_processing_result,
            "invocations": counts.invocations,
            "errors": counts.errors,
            "records": counts.records,
            "mean duration": f"{counts.duration_ms / calls:.2f} ms" if calls else None,
            "iterator age": f"{counts.iterator_age_ms} ms" if counts.records else None,
            "stream": described.event_source_arn,
        }
    )


def _document(described: pb.TriggerDescription) -> dict[str, Any]:
    """The trigger as JSON has it: the members of the API, by their names there."""
    from headrace.v1 import consumer_service_pb2

    function, counts = described.function, described.counts
    position = consumer_service_pb2.StartingPosition.Name(described.starting_position)
    return {
        "trigger_name": described.trigger_name,
        "event_source_arn": described.event_source_arn,
        "function": {
            "handler": function.handler,
            "runtime": function.runtime,
            "environment_names": list(function.environment_names),
            "timeout_seconds": function.timeout_seconds,
            "memory_size_mb": function.memory_size_mb,
            "code_sha256": function.code_sha256,
        },
        "batch_size": described.batch_size,
        "starting_position": position.removeprefix("STARTING_POSITION_"),
        "state": _state(described),
        "last_processing_result": described.last_processing_result,
        "create_time": _time_text(described.create_time),
        "counts": {
            "invocations": counts.invocations,
            "errors": counts.errors,
            "records": counts.records,
            "duration_ms": counts.duration_ms,
            "iterator_age_ms": counts.iterator_age_ms,
        },
    }


def _state(described: pb.TriggerDescription) -> str:
    from headrace.v1 import trigger_service_pb2 as pb

    return pb.TriggerState.Name(described.state).removeprefix("TRIGGER_STATE_")


def _table_name(described: pb.TriggerDescription) -> str:
    # arn:aws:dynamodb:REGION:ACCOUNT:table/NAME/stream/LABEL
    return described.event_source_arn.split("/")[1]


def _line_text(line: pb.TriggerLogLine, output: str) -> str:
    time = _time_text(line.time)
    return json_text({"time": time, "text": line.text}) if output == "json" else f"{time}  {line.text}"


def _time_text(time: Timestamp) -> str:
    return time_text(time.ToDatetime(UTC))
