"""The broker's commands of the `headrace` command line: serve and dev. Also `python -m broker`."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from broker import config as configuration

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.config import Config

_EXIT_FAILED: Final = 1
_EXIT_CONFIG: Final = 2

_log: Final = logging.getLogger(__name__)

Command = TypeVar("Command", bound="Callable[..., Any]")


def _options(command: Command) -> Command:
    for option in reversed(
        (
            click.option("--config", "file", type=click.Path(path_type=Path, dir_okay=False), help="TOML file of settings."),
            click.option("--data", metavar="DIR", help="Folder of the store.  [default: ./headrace-data]"),
            click.option("--region", metavar="NAME", help="This region's name.  [default: local]"),
            click.option("--grpc", metavar="HOST:PORT", help="gRPC address; port 0: any.  [default: 127.0.0.1:7420]"),
            click.option("--http", metavar="HOST:PORT", help="HTTP address; port 0: any.  [default: 127.0.0.1:7421]"),
            click.option("--insecure", is_flag=True, default=None, help="Listen off loopback without encryption."),
            click.option("--log-level", help="DEBUG, INFO, WARNING or ERROR.  [default: INFO]"),
        )
    ):
        command = option(command)
    return command


@click.command()
@_options
def serve(file: Path | None, **flags: object) -> None:
    """Run a broker.

    When it is ready it prints one line of JSON on stdout: its region and addresses. Logs go to stderr. SIGTERM drains and stops.
    """
    _run(file, flags)


@click.group()
def main() -> None:
    """The Headrace broker."""


main.add_command(serve)


def _run(file: Path | None, flags: dict[str, object]) -> None:
    try:
        config = configuration.load(file, os.environ, flags)
    except configuration.ConfigError as error:
        _refuse(str(error))
    from broker.telemetry import log_to_stderr

    log_to_stderr(config.log_level)
    try:
        import uvloop
    except ImportError:
        run = asyncio.run
    else:
        run = uvloop.run
    sys.exit(run(_serve(config)))


async def _serve(config: Config) -> int:
    # Imported here so that --help and mistakes in the settings answer at once.
    from broker.node import Node
    from broker.rpc.server import AddressInUseError
    from broker.storage.rocks import StoreInUseError

    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        node = Node(config)
    except (StoreInUseError, configuration.ConfigError) as error:
        _refuse(str(error))
    try:
        try:
            ready = await node.start()
        except (AddressInUseError, OSError) as error:
            _refuse(str(error))
        print(json.dumps(ready), flush=True)
        await node.run(stop)
    except Exception:
        _log.exception("the node has failed and stops")
        return _EXIT_FAILED
    finally:
        await node.close()
    _log.info("stopped")
    return 0


def _refuse(message: str) -> None:
    """Ends the process with one line that says what is wrong with the settings."""
    print(f"headrace: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(_EXIT_CONFIG)
