"""A progress bar on stderr; without a terminal there is none."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

import click

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

__all__ = ["ByteProgress", "byte_progress"]


class ByteProgress(Protocol):
    """How far reading is, and lines of text that do not disturb the bar."""

    def move_to(self, position: int) -> None:
        """So many bytes are read, counted from the beginning of the first file."""

    def note(self, text: str) -> None:
        """Write a line to stderr."""


@contextlib.contextmanager
def byte_progress(description: str, total: int) -> Iterator[ByteProgress]:
    """Show a bar for as long as the block runs."""
    if not sys.stderr.isatty():
        yield _NoBar()
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield _Bar(progress, progress.add_task(description, total=total))


class _NoBar:
    def move_to(self, position: int) -> None:
        pass

    def note(self, text: str) -> None:
        click.echo(text, err=True)


class _Bar:
    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task

    def move_to(self, position: int) -> None:
        self._progress.update(self._task, completed=position)

    def note(self, text: str) -> None:
        self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)
