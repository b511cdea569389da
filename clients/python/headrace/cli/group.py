"""A click group that imports its commands when they run, and the one place where failures become exit codes.

Third-party commands come from an entry-point group. One that cannot be loaded is shown as broken in the listing and
fails with one line when it is called; it never takes the rest of the command line with it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, NamedTuple

import click

__all__ = ["CommandGroup", "LazyCommand"]


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

    def __init__(self, *, commands: Iterable[LazyCommand], entry_point_group: str, **attributes: Any) -> None:
        super().__init__(**attributes)
        self._lazy_commands = {command.name: command for command in commands}
        self._entry_point_group = entry_point_group

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

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands; ours are not imported for it, those of others have to be."""
        rows = [(command.name, command.help) for command in self._lazy_commands.values()]
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)
        plugged_in = sorted(self._entry_points().items())
        if plugged_in:
            with formatter.section("Commands of other packages"):
                formatter.write_dl([(name, _help_of(entry_point)) for name, entry_point in plugged_in])

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; a failure becomes one line on stderr and exit code 1."""
        try:
            return super().invoke(ctx)
        except Exception as error:
            message = _failure_message(error)
            if message is None:
                raise
            raise click.ClickException(message) from error

    def _entry_points(self) -> dict[str, EntryPoint]:
        found = entry_points(group=self._entry_point_group)
        return {entry_point.name: entry_point for entry_point in found if entry_point.name not in self._lazy_commands}


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
