"""The HTTP port: AWS's protocol for clients, health for people and balancers, metrics for Prometheus."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest

from broker.model.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.gateway.aws.protocol import AwsProtocol

# A connection is closed after so long without a request, be it idle or sending headers byte by byte.
IDLE_SECONDS: Final = 75.0
_SHUTDOWN_SECONDS: Final = 5.0
# How long what is left of a refused request is taken, so that its sender gets to read why.
_LINGER_SECONDS: Final = 1.0
# What a request line, or one header, may have.
_LINE_BYTES_MAX: Final = 8190
_BACKLOG: Final = 1024


class HttpServer:
    """Serves /healthz, /metrics, and what `aws` answers."""

    def __init__(
        self, region: str, is_serving: Callable[[], bool], aws: AwsProtocol, idle_seconds: float = IDLE_SECONDS
    ) -> None:
        self._region = region
        self._is_serving = is_serving
        self._aws = aws
        # Without an Application, whose router alone would take a tenth of a small request's time.
        server = web.Server(
            self._serve,
            access_log=None,
            keepalive_timeout=idle_seconds,
            lingering_time=_LINGER_SECONDS,
            max_line_size=_LINE_BYTES_MAX,
            max_field_size=_LINE_BYTES_MAX,
            # A compressed body is signed as it is sent, and may be a bomb: none is taken.
            auto_decompress=False,
        )
        self._runner = web.ServerRunner(server, shutdown_timeout=_SHUTDOWN_SECONDS)

    async def start(self, host: str, port: int) -> int:
        """Listens; returns the port. Raises OSError if it is taken."""
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port, backlog=_BACKLOG)
        await site.start()
        address: tuple[str, int] = self._runner.addresses[0]
        return address[1]

    async def close(self) -> None:
        """Ends open requests and stops listening."""
        await self._runner.cleanup()

    async def _serve(self, request: web.BaseRequest) -> web.Response:
        match request.method, request.path:
            case "POST", "/":
                return await self._aws.handle(request)
            case "GET" | "HEAD", "/healthz":
                return self._health()
            case "GET" | "HEAD", "/metrics":
                return _metrics()
            case _, "/":
                return web.Response(status=HTTPStatus.METHOD_NOT_ALLOWED, headers={"Allow": "POST"})
            case _, "/healthz" | "/metrics":
                return web.Response(status=HTTPStatus.METHOD_NOT_ALLOWED, headers={"Allow": "GET"})
            case _:
                return web.Response(status=HTTPStatus.NOT_FOUND)

    def _health(self) -> web.Response:
        serving = self._is_serving()
        status = "SERVING" if serving else "NOT_SERVING"
        return web.json_response(
            {"status": status, "version": VERSION, "region": self._region}, status=200 if serving else 503
        )


def _metrics() -> web.Response:
    return web.Response(body=generate_latest(REGISTRY), headers={"Content-Type": CONTENT_TYPE_LATEST})
