"""A click group that imports its commands when they run, and the one place where failures become exit codes.

Third-party commands come from an entry-point group. One that cannot be loaded is shown as broken in the listing and
fails with one line when it is called; it never takes the rest of the command line with it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, version
from io import UnsupportedOperation
from typing import Any, NamedTuple

import click

from headrace.cli.output import EXIT_OUTPUT_CLOSED, OutputError

__all__ = ["BROKER_PACKAGE", "CommandGroup", "LazyCommand", "version_text"]


# The distribution with the broker, and with the commands that run one.
BROKER_PACKAGE = "headrace-broker"


class LazyCommand(NamedTuple):
    """A command and where it lives, as "module:attribute"; `help` lets the listing import nothing."""

    name: str
    target: str
    help: str

    def load(self) -> click.Command:
        """Import the command itself."""
        module, _, attribute = self.target.partition(":")
        command = getattr(import_module(module), attribute)
        assert isinstance(command, click.Command), f"{self.target} must be a click command"
        return command


class CommandGroup(click.Group):
    """The root of the command line."""

    def __init__(
        self,
        *,
        commands: Iterable[LazyCommand],
        entry_point_group: str,
        broker_commands: Iterable[str] = (),
        **attributes: Any,
    ) -> None:
        """The `broker_commands` are those entry points that the broker's own distribution brings."""
        super().__init__(**attributes)
        self._lazy_commands = {command.name: command for command in commands}
        self._entry_point_group = entry_point_group
        self._broker_commands = frozenset(broker_commands)

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """Our commands in their own order, then those of other distributions by name."""
        return [*self._lazy_commands, *sorted(self._entry_points())]

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; None if there is none of that name."""
        lazy_command = self._lazy_commands.get(cmd_name)
        if lazy_command is not None:
            return lazy_command.load()
        entry_point = self._entry_points().get(cmd_name)
        return None if entry_point is None else _load(entry_point)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that the arguments name; one of the broker that is not installed says how to get it."""
        if args and args[0] in self._broker_commands and args[0] not in self._entry_points():
            ctx.fail(f"{args[0]} is a command of the broker, which is not installed: pip install {BROKER_PACKAGE}")
        return super().resolve_command(ctx, args)

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands; ours are not imported for it, those of others have to be."""
        rows = [(command.name, command.help) for command in self._lazy_commands.values()]
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)
        plugged_in = sorted(self._entry_points().items())
        of_broker = [(name, _help_of(found)) for name, found in plugged_in if name in self._broker_commands]
        of_others = [(name, _help_of(found)) for name, found in plugged_in if name not in self._broker_commands]
        for title, rows in (("Commands of the broker", of_broker), ("Commands of other packages", of_others)):
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)

    def make_context(self, *arguments: Any, **settings: Any) -> click.Context:
        """Parse the arguments, which is also where click prints the help of the root."""
        with _quiet_if_closed():
            return super().make_context(*arguments, **settings)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; a failure becomes one line on stderr and exit code 1."""
        try:
            with _quiet_if_closed():
                return super().invoke(ctx)
        except Exception as error:
            message = _failure_message(error)
            if message is None:
                raise
            raise click.ClickException(message) from error

    def _entry_points(self) -> dict[str, EntryPoint]:
        found = entry_points(group=self._entry_point_group)
        return {entry_point.name: entry_point for entry_point in found if entry_point.name not in self._lazy_commands}


def version_text() -> str:
    """Name the version of the client, and that of the broker if it is installed."""
    client = f"headrace {version('headrace')}"
    try:
        return f"{client}, {BROKER_PACKAGE} {version(BROKER_PACKAGE)}"
    except PackageNotFoundError:
        return client


@contextmanager
def _quiet_if_closed() -> Iterator[None]:
    """End the process quietly if its output is a pipe without a reader, with the exit code that SIGPIPE gives."""
    try:
        yield
    except OutputError as error:
        if not error.is_closed:
            raise click.ClickException(str(error)) from error
    except BrokenPipeError:
        pass
    except ExceptionGroup as group:
        # The demo writes from tasks.
        if group.split((BrokenPipeError, OutputError))[1] is not None:
            raise
    else:
        return
    # What is left in a buffer goes nowhere, without another error when the interpreter ends.
    if sys.stdout is not None:
        with suppress(UnsupportedOperation):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise click.exceptions.Exit(EXIT_OUTPUT_CLOSED)


def _load(entry_point: EntryPoint) -> click.Command:
    try:
        command = entry_point.load()
    except Exception as error:
        raise click.ClickException(f"the command {entry_point.name} cannot be loaded: {error}") from error
    if not isinstance(command, click.Command):
        raise click.ClickException(f"the command {entry_point.name} ({entry_point.value}) is not a click command")
    return command


def _help_of(entry_point: EntryPoint) -> str:
    try:
        return _load(entry_point).get_short_help_str(limit=100)
    except click.ClickException as error:
        return error.message


def _failure_message(error: Exception) -> str | None:
    """What to tell the user about an expected failure; None for a defect, which keeps its traceback.

    The client's errors are looked up only if the command has imported them.
    """
    errors = sys.modules.get("headrace.errors")
    if errors is not None and isinstance(error, errors.HeadraceError):
        return f"{error.reason}: {error}"
    if isinstance(error, ConnectionError | TimeoutError):
        return f"connection failed: {error}"
    return None
