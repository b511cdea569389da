"""Options that many commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast

import click

if TYPE_CHECKING:
    from headrace._models import KeyType

__all__ = [
    "KeyOption",
    "check_endpoint",
    "endpoint_option",
    "output_option",
    "parse_key_attribute",
    "view_type_option",
]

PORT_MAX = 65535
VIEW_TYPES = ("KEYS_ONLY", "NEW_IMAGE", "OLD_IMAGE", "NEW_AND_OLD_IMAGES")
KEY_TYPES = ("S", "N", "B")

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


def parse_key_attribute(ctx: click.Context, param: click.Parameter, value: str | None) -> KeyOption | None:
    """A click callback: NAME:TYPE, or NAME with its type left open; a type other than S, N or B is wrong usage."""
    if value is None:
        return None
    name, colon, key_type = value.rpartition(":")
    if not colon:
        return value, None
    if not name or key_type not in KEY_TYPES:
        raise click.BadParameter(f"{value!r} is not NAME or NAME:TYPE with a type of S, N or B", ctx=ctx, param=param)
    return name, cast("KeyType", key_type)
