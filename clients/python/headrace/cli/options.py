"""Options that many commands share."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar, cast

import click

if TYPE_CHECKING:
    from headrace._models import KeyType

__all__ = [
    "KeyOption",
    "check_endpoint",
    "endpoint_option",
    "output_option",
    "parse_key_attributes",
    "parse_only_key_attribute",
    "parse_retention",
    "parse_roll_period",
    "parse_size",
    "start_option",
    "stream_settings_options",
    "view_type_option",
]

PORT_MAX = 65535
VIEW_TYPES = ("KEYS_ONLY", "NEW_IMAGE", "OLD_IMAGE", "NEW_AND_OLD_IMAGES")
KEY_TYPES = ("S", "N", "B")
_SECONDS = {"s": 1, "m": 60, "h": 60 * 60, "d": 24 * 60 * 60}
_BYTES = {"": 1, "B": 1, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40, "KB": 10**3, "MB": 10**6, "GB": 10**9}
_DURATION = re.compile(r"(\d{1,9})([smhd])", re.ASCII)
_SIZE = re.compile(r"(\d{1,15}) *([KMGT]?I?B?)", re.ASCII | re.IGNORECASE)

# The name of a key attribute and its type, if that was given.
KeyOption: TypeAlias = "tuple[str, KeyType | None]"

_Command = TypeVar("_Command", bound=Callable[..., Any])


def check_endpoint(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """A click callback: HOST:PORT (for IPv6 [HOST]:PORT) as it is; anything else is wrong usage."""
    if value is None:
        return None
    host, colon, port = value.rpartition(":")
    is_bare_ipv6 = ":" in host and not (host.startswith("[") and host.endswith("]"))
    if not colon or not host or is_bare_ipv6 or not port.isdecimal() or not 0 < int(port) <= PORT_MAX:
        raise click.BadParameter(f"{value!r} is not HOST:PORT with a port from 1 to {PORT_MAX}", ctx=ctx, param=param)
    return value


def endpoint_option(command: _Command) -> _Command:
    """Add --endpoint as the argument `endpoint: str | None`; None leaves the default to the client."""
    return click.option(
        "--endpoint",
        metavar="HOST:PORT",
        callback=check_endpoint,
        envvar="HEADRACE_ENDPOINT",
        help="The broker to talk to; HEADRACE_ENDPOINT if left out, else 127.0.0.1:7420.",
    )(command)


def output_option(command: _Command) -> _Command:
    """Add -o/--output as the argument `output: str`, "table" or "json"."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(["table", "json"]),
        default="table",
        show_default=True,
        help="For people, or one JSON document (JSON Lines from commands that stream).",
    )(command)


def view_type_option(*, help_text: str) -> Callable[[_Command], _Command]:
    """Add --stream VIEW_TYPE as the argument `view_type: str | None`."""
    return click.option("--stream", "view_type", type=click.Choice(VIEW_TYPES, case_sensitive=False), help=help_text)


def _parse_key_attribute(ctx: click.Context, param: click.Parameter, value: str) -> KeyOption:
    """Read NAME:TYPE, or NAME with its type left open; a type other than S, N or B is wrong usage."""
    name, colon, key_type = value.rpartition(":")
    if not colon:
        return value, None
    if not name or key_type not in KEY_TYPES:
        raise click.BadParameter(f"{value!r} is not NAME or NAME:TYPE with a type of S, N or B", ctx=ctx, param=param)
    return name, cast("KeyType", key_type)


def parse_only_key_attribute(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> KeyOption | None:
    """A click callback: the one attribute of a part of a table's key; a second one is wrong usage."""
    if len(values) > 1:
        raise click.BadParameter("the key of a table has one: only global indexes have more", ctx=ctx, param=param)
    return _parse_key_attribute(ctx, param, values[0]) if values else None


def parse_key_attributes(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> tuple[KeyOption, ...]:
    """A click callback: the attributes of a part of an index's key."""
    return tuple(_parse_key_attribute(ctx, param, value) for value in values)


def parse_retention(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """A click callback: a duration such as 90s, 30m, 24h or 7d, in seconds."""
    if value is None:
        return None
    match = _DURATION.fullmatch(value)
    if match is None:
        raise click.BadParameter(f"{value!r} is not a duration such as 90s, 30m, 24h or 7d", ctx=ctx, param=param)
    return int(match[1]) * _SECONDS[match[2]]


def parse_roll_period(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """A click callback: a duration such as 90s, 30m or 4h, in seconds, or 0."""
    return 0 if value == "0" else parse_retention(ctx, param, value)


def parse_size(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """A click callback: a size such as 1048576, 512MiB or 1GiB, in bytes."""
    if value is None:
        return None
    match = _SIZE.fullmatch(value)
    if match is None or match[2].upper() not in _BYTES:
        raise click.BadParameter(f"{value!r} is not a size such as 1048576, 512MiB or 1GiB", ctx=ctx, param=param)
    return int(match[1]) * _BYTES[match[2].upper()]


def stream_settings_options(command: _Command) -> _Command:
    """Add the settings of a table's streams, as the arguments of headrace.StreamSettings."""
    for option in reversed(
        (
            click.option(
                "--retention",
                "retention_s",
                metavar="DURATION",
                callback=parse_retention,
                help="How long records are kept, such as 90s, 30m, 24h or 7d.  [new tables: 24h]",
            ),
            click.option(
                "--retention-bytes",
                metavar="SIZE",
                callback=parse_size,
                help="Drop the oldest records beyond so much, such as 1GiB; 0: no bound.  [new tables: 0]",
            ),
            click.option("--min-shards", type=int, help="The stream has at least so many shards.  [new tables: 1]"),
            click.option("--max-shards", type=int, help="Its write rate splits it up to so many.  [new tables: 4]"),
            click.option(
                "--automatic-merges/--no-automatic-merges",
                default=None,
                help="Merge quiet shards: only for readers that know both parents of a shard.  [new tables: no]",
            ),
            click.option(
                "--roll",
                "shard_roll_period_s",
                metavar="DURATION",
                callback=parse_roll_period,
                help="A shard with records is followed by another one after so long; 0: never.  [new tables: 4h]",
            ),
        )
    ):
        command = option(command)
    return command


def table_settings_options(command: _Command) -> _Command:
    """Add the settings of a table that are not of its stream, as the argument `settings` of `table_settings`."""
    for option in reversed(
        (
            click.option(
                "--max-read-units",
                type=int,
                help="On demand, take at most so many read units a second; -1: any.",
            ),
            click.option(
                "--max-write-units",
                type=int,
                help="On demand, take at most so many write units a second; -1: any.",
            ),
            click.option("--warm-read-units", type=int, help="Remember and show this warm throughput."),
            click.option("--warm-write-units", type=int, help="Remember and show this warm throughput."),
            click.option(
                "--table-class",
                type=click.Choice(["STANDARD", "STANDARD_INFREQUENT_ACCESS"], case_sensitive=False),
                help="Remember and show this class.",
            ),
            click.option(
                "--encryption",
                metavar="[on|off|KEY]",
                help="Remember and show encryption with a key of AWS's key service. The broker encrypts nothing.",
            ),
        )
    ):
        command = option(command)
    return command


def table_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """What `table_settings_options` added, taken out of other options, as arguments of a client."""
    on_demand = settings.pop("max_read_units"), settings.pop("max_write_units")
    warm = settings.pop("warm_read_units"), settings.pop("warm_write_units")
    encryption = settings.pop("encryption")
    return {
        "on_demand_throughput": None if on_demand == (None, None) else on_demand,
        "warm_throughput": None if warm == (None, None) else warm,
        "table_class": settings.pop("table_class"),
        "encryption": {"on": True, "off": False}.get(encryption, encryption),
    }


TIME_HELP: Final = "TIME is in ISO 8601, UTC if it names no zone, or so long ago, such as -10m."


def parse_time(ctx: click.Context, param: click.Parameter, value: str | None) -> datetime | None:
    """A click callback: a time in ISO 8601, or so long ago, such as -10m."""
    if value is None:
        return None
    time = _time(value)
    if time is None:
        raise click.BadParameter(f"{value!r} is not a time, or so long ago, such as -10m", ctx=ctx, param=param)
    return time


def _time(text: str) -> datetime | None:
    """The time that a text names; None if it names none."""
    ago = _DURATION.fullmatch(text.removeprefix("-"))
    try:
        if text.startswith("-") and ago is not None:
            return datetime.now(UTC) - timedelta(seconds=int(ago[1]) * _SECONDS[ago[2]])
        time = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        return None
    # As all times that are shown.
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)


def start_option(*names: str, default: str, help_text: str) -> Callable[[_Command], _Command]:
    """Add --from as the argument `start: str | datetime`: one of some names, a time, or so long ago."""

    def parse(ctx: click.Context, param: click.Parameter, value: str) -> str | datetime:
        if value.upper() in names:
            return value.upper()
        time = _time(value)
        if time is None:
            message = f"{value!r} is not one of {', '.join(names)}, a time, or so long ago, such as -10m"
            raise click.BadParameter(message, ctx=ctx, param=param)
        return time

    return click.option(
        "--from",
        "start",
        metavar=f"[{'|'.join(names)}|TIME]",
        default=default,
        show_default=True,
        callback=parse,
        help=f"{help_text} {TIME_HELP}",
    )
