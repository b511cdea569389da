"""The HTTP port: AWS's protocol for clients, health for people and balancers, metrics for Prometheus."""

from __future__ import annotations

import asyncio
import logging
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from broker.gateway.aws.errors import access_denied
from broker.gateway.cross_origin import refusal
from broker.model.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from broker.gateway.aws.protocol import AwsProtocol
    from broker.gateway.cross_origin import CrossOrigin

# How many connections there may be, unless the limit of open files is too low for that.
CONNECTIONS_MAX: Final = 65_536
# A connection is closed after so long without a request, be it idle or sending headers byte by byte.
IDLE_SECONDS: Final = 75.0
_SHUTDOWN_SECONDS: Final = 5.0
# How long what is left of a refused request is taken, so that its sender gets to read why.
_LINGER_SECONDS: Final = 1.0
# What a request line, or one header, may have.
_LINE_BYTES_MAX: Final = 8190
_BACKLOG: Final = 1024

_log: Final = logging.getLogger(__name__)


class HttpServer:
    """Serves /healthz, /metrics, and what `aws` answers."""

    def __init__(
        self,
        region: str,
        is_serving: Callable[[], bool],
        aws: AwsProtocol,
        cross_origin: CrossOrigin,
        metrics: Callable[[], Awaitable[bytes]],
        idle_seconds: float = IDLE_SECONDS,
        connections_max: int = CONNECTIONS_MAX,
    ) -> None:
        self._region = region
        self._is_serving = is_serving
        self._aws = aws
        self._cross_origin = cross_origin
        self._metrics = metrics
        # Without an Application, whose router alone would take a tenth of a small request's time.
        self._server = _Server(
            self._serve,
            connections_max,
            access_log=None,
            keepalive_timeout=idle_seconds,
            lingering_time=_LINGER_SECONDS,
            max_line_size=_LINE_BYTES_MAX,
            max_field_size=_LINE_BYTES_MAX,
            # A compressed body is signed as it is sent, so AwsProtocol inflates it, after the signature was checked.
            auto_decompress=False,
        )
        self._runner = web.ServerRunner(self._server, shutdown_timeout=_SHUTDOWN_SECONDS)

    @property
    def request_bytes(self) -> int:
        """The bytes of the bodies of all requests under way."""
        return self._aws.bodies_bytes

    @property
    def malformed_requests_total(self) -> int:
        """How many requests were no HTTP."""
        return self._server.malformed_total

    @property
    def connections(self) -> int:
        """How many connections there are."""
        return self._server.connections_now

    @property
    def refused_connections_total(self) -> int:
        """How many connections were closed at once because there were too many."""
        return self._server.refused_total

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
                return await self._call(request)
            case "OPTIONS", "/":
                return self._cross_origin.preflight(request)
            case "GET" | "HEAD", "/":
                # What load balancers that are set up for DynamoDB ask for.
                return web.Response(text=f"healthy: dynamodb.{self._region}.amazonaws.com ")
            case "GET" | "HEAD", "/healthz":
                return self._health()
            case "GET" | "HEAD", "/metrics":
                return web.Response(body=await self._metrics(), headers={"Content-Type": CONTENT_TYPE_LATEST})
            case _, "/":
                return web.Response(status=HTTPStatus.METHOD_NOT_ALLOWED, headers={"Allow": "POST, GET, OPTIONS"})
            case _, "/healthz" | "/metrics":
                return web.Response(status=HTTPStatus.METHOD_NOT_ALLOWED, headers={"Allow": "GET"})
            case _:
                return web.Response(status=HTTPStatus.NOT_FOUND)

    async def _call(self, request: web.BaseRequest) -> web.Response:
        origin = request.headers.get("Origin")
        if origin is None:
            return await self._aws.handle(request)
        if not self._cross_origin.allows(origin):
            return self._aws.refuse(request, access_denied(refusal(origin)))
        response = await self._aws.handle(request)
        response.headers.update(self._cross_origin.headers(origin))
        return response

    def _health(self) -> web.Response:
        serving = self._is_serving()
        status = "SERVING" if serving else "NOT_SERVING"
        return web.json_response(
            {"status": status, "version": VERSION, "region": self._region}, status=200 if serving else 503
        )


class _Server(web.Server):
    """Makes connections that know this server, which counts them and their malformed requests."""

    def __init__(self, handler: Any, connections_max: int, **settings: Any) -> None:
        super().__init__(handler, **settings)
        self._settings = settings
        self._connections_max = connections_max
        self.connections_now = 0
        self.refused_total = 0
        self.malformed_total = 0

    def __call__(self) -> Any:
        if self.connections_now >= self._connections_max:
            self.refused_total += 1
            return _Refused()
        return _Connection(self, loop=self._loop, **self._settings)


class _Refused(asyncio.Protocol):
    """A connection beyond the limit: closed before it is read from."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.abort()


class _Connection(web.RequestHandler):
    __slots__ = ("_server",)

    def __init__(self, server: _Server, **settings: Any) -> None:
        super().__init__(server, **settings)
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._server.connections_now += 1
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._server.connections_now -= 1
        super().connection_lost(exc)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = HTTPStatus.INTERNAL_SERVER_ERROR,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer bytes that are no request: anybody may send them, so that is no error of ours."""
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return super().handle_error(request, status, exc, message)
        self._server.malformed_total += 1
        _log.debug("malformed request remote=%s reason=%.300r", request.remote, message)
        response = web.Response(status=status, text=message)
        response.force_close()
        return response
