"""The HTTP port: health for people and balancers, metrics for Prometheus."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest

if TYPE_CHECKING:
    from collections.abc import Callable

_SHUTDOWN_SECONDS: Final = 5.0


class HttpServer:
    """Serves /healthz and /metrics."""

    def __init__(self, region: str, is_serving: Callable[[], bool]) -> None:
        self._region = region
        self._is_serving = is_serving
        app = web.Application()
        app.router.add_get("/healthz", self._health)
        app.router.add_get("/metrics", self._metrics)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=_SHUTDOWN_SECONDS)

    async def start(self, host: str, port: int) -> int:
        """Listens; returns the port. Raises OSError if it is taken."""
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port)
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
