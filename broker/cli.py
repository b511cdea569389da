"""The broker's commands of the `headrace` command line: serve, dev and restore. Also `python -m broker`."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn, TypeVar

import click

from broker import config as configuration
from broker.companions import Companions, client_starter
from broker.storage.private import PRIVATE_UMASK

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from broker.config import Config

_EXIT_FAILED: Final = 1
_EXIT_CONFIG: Final = 2
# Nobody reads stdout: what a shell reports for a process that SIGPIPE ended.
_EXIT_OUTPUT_CLOSED: Final = 141

# Objects made and not dropped before the youngest are looked through; Python's default is 700.
_GARBAGE_THRESHOLD: Final = 20_000

_log: Final = logging.getLogger(__name__)

Command = TypeVar("Command", bound="Callable[..., Any]")


class Accepted(NamedTuple):
    """What a start goes on in spite of. No settings: whoever accepts something decides that anew each time."""

    loss: bool
    clock: bool


def _options(command: Command) -> Command:
    for option in reversed(
        (
            click.option(
                "--config", "file", type=click.Path(path_type=Path, dir_okay=False), help="TOML file of settings."
            ),
            click.option("--data", metavar="DIR", help="Folder of the store.  [default: ./headrace-data]"),
            click.option("--backups", metavar="DIR", help="Folder of the backups.  [default: backups, in --data]"),
            click.option("--region", metavar="NAME", help="This region's name.  [default: local]"),
            click.option("--grpc", metavar="HOST:PORT", help="gRPC address; port 0: any.  [default: 127.0.0.1:7420]"),
            click.option("--http", metavar="HOST:PORT", help="HTTP address; port 0: any.  [default: 127.0.0.1:7421]"),
            click.option(
                "--auth", metavar="HOW", help="Who may use AWS's protocol: sigv4 or none.  [default: sigv4; dev: none]"
            ),
            click.option("--credentials", metavar="FILE", help="Access keys, as in AWS's shared credentials file."),
            click.option(
                "--cors-origins",
                metavar="ORIGINS",
                help="Origins of web pages that may call AWS's protocol, by commas; *: any."
                "  [default: any with --auth sigv4, none with --auth none]",
            ),
            click.option(
                "--accept-loss", is_flag=True, help="Start once on a store that has lost writes; streams get new ARNs."
            ),
            click.option(
                "--accept-clock", is_flag=True, help="Start on a store whose times are over an hour ahead of the clock."
            ),
            click.option("--insecure", is_flag=True, default=None, help="Listen off loopback without encryption."),
            click.option("--log-level", help="DEBUG, INFO, WARNING or ERROR.  [default: INFO]"),
        )
    ):
        command = option(command)
    return command


@click.command()
@_options
def serve(file: Path | None, *, accept_loss: bool, accept_clock: bool, **flags: object) -> None:
    """Run a broker.

    When it is ready it prints one line of JSON on stdout: its version, region and addresses. Logs go to stderr. SIGTERM
    drains and stops.
    """
    _run(file, flags, Accepted(accept_loss, accept_clock))


@click.command()
@_options
def dev(file: Path | None, *, accept_loss: bool, accept_clock: bool, **flags: object) -> None:
    """Run everything on a laptop: a broker, a trigger host and a replicator.

    Prints the broker's line of JSON when it is ready. SIGTERM or Ctrl-C stops all three. AWS's protocol is open to
    anybody (--auth none) unless a setting says otherwise.
    """
    accepted = Accepted(accept_loss, accept_clock)
    _run(file, flags, accepted, companions=("trigger-host", "replicator"), defaults={"auth": "none"})


@click.command()
@click.option(
    "--from",
    "source",
    required=True,
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Folder of the backup, in --backups of a node or wherever it was copied.",
)
@click.option("--data", required=True, type=click.Path(path_type=Path, file_okay=False), help="A new or empty folder.")
@click.option("--region", metavar="NAME", help="Refuse a backup of another region.")
def restore(source: Path, data: Path, region: str | None) -> None:
    """Make a data folder of a backup, for `headrace serve --data`. No broker is needed.

    Prints one line of JSON on stdout: the data folder, the region to serve it as, and what was restored.
    """
    from broker.backups.folder import RestoreError, restore_store
    from broker.model.sequence import format_sequence_number

    os.umask(PRIVATE_UMASK)
    try:
        backup = restore_store(source, data, region)
    except RestoreError as error:
        print(f"headrace: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(_EXIT_FAILED)
    number = format_sequence_number(backup.sequence_number)
    restored = {"data": str(data), "region": backup.region, "backup_arn": backup.arn, "sequence_number": number}
    print(json.dumps(restored), flush=True)


@click.group()
@click.version_option(package_name="headrace-broker", prog_name="headrace-broker", message="%(prog)s %(version)s")
def main() -> None:
    """The Headrace broker."""


main.add_command(serve)
main.add_command(dev)
main.add_command(restore)


def _run(
    file: Path | None,
    flags: dict[str, object],
    accepted: Accepted,
    companions: tuple[str, ...] = (),
    defaults: Mapping[str, object] | None = None,
) -> None:
    try:
        config = configuration.load(file, os.environ, flags, defaults)
    except configuration.ConfigError as error:
        _refuse(str(error))
    # Before anything is made. The companions, which run the user's own code, keep what the user has.
    umask = os.umask(PRIVATE_UMASK)
    from broker.telemetry import log_to_stderr

    log_to_stderr(config.log_level)
    try:
        import uvloop
    except ImportError:
        run = asyncio.run
    else:
        run = uvloop.run
    sys.exit(run(_serve(config, accepted, companions, umask)))


async def _serve(config: Config, accepted: Accepted, companions: tuple[str, ...], companions_umask: int) -> int:
    # gRPC's own log repeats, in a form of its own, what is raised or answered anyway.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # Imported here so that --help and mistakes in the settings answer at once.
    from broker.model.errors import CorruptionError
    from broker.node import Node
    from broker.rpc.server import AddressInUseError
    from broker.storage.recovery import StoreOpenError
    from broker.storage.space import FolderLostError

    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        node = Node(config, accepts_loss=accepted.loss, accepts_clock=accepted.clock)
    except (StoreOpenError, configuration.ConfigError) as error:
        _refuse(str(error))
    except CorruptionError as error:
        _log.error("the data folder is damaged data=%s error=%s", config.data, error)
        return _EXIT_FAILED
    try:
        try:
            ready = await node.start()
            # What is there now stays: the garbage collector need not look through it again and again, nor so often
            # through the thousands of small objects that a group commit makes and drops.
            gc.freeze()
            gc.set_threshold(_GARBAGE_THRESHOLD)
        except AddressInUseError as error:
            _refuse(str(error))
        async with Companions(companions, client_starter(ready["grpc"], companions_umask)):
            print(json.dumps(ready), flush=True)
            await node.run(stop)
    except BrokenPipeError:
        _log.error("nobody reads the ready line")
        return _EXIT_OUTPUT_CLOSED
    except FolderLostError as error:
        _log.error("the node stops: %s", error)
        return _EXIT_FAILED
    except Exception:  # noqa: BLE001 - whatever it is, the log says it and the exit code shows it
        _log.exception("the node has failed and stops")
        return _EXIT_FAILED
    finally:
        await node.close()
    _log.info("stopped")
    return 0


def _refuse(message: str) -> NoReturn:
    """Ends the process with one line that says what is wrong with the settings."""
    print(f"headrace: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(_EXIT_CONFIG)
