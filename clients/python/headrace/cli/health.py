"""`headrace health`: is the broker there, and does it serve? Made for container health checks."""

from __future__ import annotations

import click

from headrace.cli.options import endpoint_option, output_option
from headrace.cli.output import write_text
from headrace.cli.render import print_json

__all__ = ["health"]

# Protocol grpc.health.v1, spoken in bytes so that the check needs no package of its own: the question about the whole
# server is an empty message, and the answer's only field (number 1, an enum) is 1 for SERVING.
_METHOD = "/grpc.health.v1.Health/Check"
_WHOLE_SERVER = b""
_SERVING = b"\x08\x01"


@click.command()
@click.option(
    "--timeout", "timeout_s", type=click.FloatRange(min=0.1, max=60), default=2.0, show_default=True, metavar="SECONDS"
)
@endpoint_option
@output_option
def health(*, timeout_s: float, endpoint: str | None, output: str) -> None:
    """Exit with 0 if the broker serves, with 1 if it is away, starting or draining."""
    import grpc

    from headrace import errors
    from headrace._channel import open_channel, resolve_endpoint

    with open_channel(endpoint) as channel:
        try:
            check: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(_METHOD)
            is_serving = check(_WHOLE_SERVER, timeout=timeout_s) == _SERVING
        except grpc.RpcError as error:
            raise errors.from_rpc(error) from error
    status = "SERVING" if is_serving else "NOT_SERVING"
    if output == "json":
        print_json({"endpoint": resolve_endpoint(endpoint), "status": status})
    else:
        write_text(f"{resolve_endpoint(endpoint)} {status}")
    if not is_serving:
        raise click.exceptions.Exit(1)
