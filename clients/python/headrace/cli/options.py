"""Options that many commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

__all__ = ["check_endpoint", "endpoint_option", "output_option"]

PORT_MAX = 65535

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
