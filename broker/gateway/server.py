"""The HTTP port: AWS's protocol for clients, health for people and balancers, metrics for Prometheus."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest

from broker.gateway.aws.protocol import BODY_BYTES_MAX

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
        app = web.Application(client_max_size=BODY_BYTES_MAX)
        app.router.add_get("/healthz", self._health)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_post("/", aws.handle)
        self._runner = web.AppRunner(
            app,
            access_log=None,
            shutdown_timeout=_SHUTDOWN_SECONDS,
            keepalive_timeout=idle_seconds,
            lingering_time=_LINGER_SECONDS,
            max_line_size=_LINE_BYTES_MAX,
            max_field_size=_LINE_BYTES_MAX,
            # A compressed body is signed as it is sent, and may be a bomb: none is taken.
            auto_decompress=False,
        )

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

    async def _health(self, _: web.Request) -> web.Response:
        serving = self._is_serving()
        status = "SERVING" if serving else "NOT_SERVING"
        return web.json_response({"status": status, "region": self._region}, status=200 if serving else 503)

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=generate_latest(REGISTRY), headers={"Content-Type": CONTENT_TYPE_LATEST})
