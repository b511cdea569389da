"""The AWS Lambda Runtime API, as one worker sees it: the official runtime clients run against it unmodified.

Each worker has a server of its own on a port of its own, so a request needs no identity and no worker can take what is
meant for another by mistake. A connection of another user is closed before anything is read from it, where the system
tells whose it is. Between processes of one user there is no boundary: they can always reach each other.
Source: AWS Lambda Developer Guide, "Using the Lambda runtime API".
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from headrace.triggers.peer_user import can_tell_users, peer_user_id

# AWS Lambda quotas, "Invocation payload": what the function may answer.
RESPONSE_SIZE_BYTES_MAX: Final = 6_291_556

# What is kept of the document that describes an error; more than any message and trace of use.
_ERROR_SIZE_BYTES_MAX: Final = 256 * 1024

_PREFIX: Final = "/2018-06-01/runtime"
_ERROR_TYPE_HEADER: Final = "Lambda-Runtime-Function-Error-Type"
# 0 would mean "no limit" to aiohttp. Nothing is lost: by now the worker is idle or being killed.
_SHUTDOWN_TIMEOUT_S: Final = 0.1

_LOGGER: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Invocation:
    """One call of the function."""

    request_id: str
    event: bytes
    deadline_ms: int
    """When its time is up, in milliseconds since 1970 UTC."""
    function_arn: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionError:
    """Why a call failed, in AWS's words."""

    error_type: str
    """A class of exception, or "Runtime.ExitError" and the like."""
    message: str


class RuntimeApi:
    """Hands one invocation after the other to a worker and takes its answers.

    The worker is in turn starting (has not asked for work yet), idle (has asked and waits) and busy (works).
    """

    def __init__(self) -> None:
        # Set while the worker waits for work, and for good when it could not start.
        self._has_settled = asyncio.Event()
        self.init_error: FunctionError | None = None
        """Why the worker could not start, as it reported."""
        self._has_started = False
        self._asking: asyncio.Future[Invocation] | None = None
        self._running: Invocation | None = None
        self._answer: asyncio.Future[FunctionError | None] | None = None
        self._http = _OwnUserServer(self._handle, handler_cancellation=True, access_log=None)
        self._server: asyncio.Server | None = None

    async def open(self) -> str:
        """Starts to listen; returns "host:port"."""
        # asyncio makes the socket itself, with IPPROTO_TCP, and so sets TCP_NODELAY: without it the delayed
        # acknowledgement of the peer costs 100 ms per invocation.
        self._server = await asyncio.get_running_loop().create_server(self._http, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()
        return f"{host}:{port}"

    async def close(self) -> None:
        """Ends every connection; idempotent."""
        if self._server is not None:
            self._server.close()
            await self._http.shutdown(_SHUTDOWN_TIMEOUT_S)
            await self._server.wait_closed()
            self._server = None

    @property
    def is_idle(self) -> bool:
        """Whether the worker waits for work now."""
        return self._asking is not None and not self._asking.done()

    async def wait_settled(self) -> None:
        """Returns when the worker has begun to wait for work, or has reported that it could not start."""
        await self._has_settled.wait()

    def invoke(self, invocation: Invocation) -> asyncio.Future[FunctionError | None]:
        """Hands an invocation to the worker, which must be idle; the future is its answer: None if it went well."""
        if self._asking is None or self._asking.done():
            raise AssertionError("an invocation for a worker that is not idle")
        self._running = invocation
        self._has_settled.clear()
        self._answer = asyncio.get_running_loop().create_future()
        self._asking.set_result(invocation)
        return self._answer

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        match request.method, request.path.removeprefix(_PREFIX).split("/"):
            case "GET", ["", "invocation", "next"]:
                return await self._next()
            case "POST", ["", "invocation", request_id, "response"]:
                return await self._response(request_id, request)
            case "POST", ["", "invocation", request_id, "error"]:
                return self._settle(request_id, await _function_error(request))
            case "POST", ["", "init", "error"]:
                return self._init_failed(await _function_error(request))
            case _:
                return _refusal(404, "NotFound", f"no such call: {request.method} {request.path}")

    async def _next(self) -> web.StreamResponse:
        if self._asking is not None or self._running is not None:
            return _refusal(403, "InvalidStateTransition", "one invocation at a time")
        self._asking = asyncio.get_running_loop().create_future()
        self._has_started = True
        self._has_settled.set()
        try:
            invocation = await self._asking
        finally:
            self._asking = None
            self._has_settled.clear()
        headers = {
            "Lambda-Runtime-Aws-Request-Id": invocation.request_id,
            "Lambda-Runtime-Deadline-Ms": str(invocation.deadline_ms),
            "Lambda-Runtime-Invoked-Function-Arn": invocation.function_arn,
        }
        return web.Response(body=invocation.event, headers=headers, content_type="application/json")

    async def _response(self, request_id: str, request: web.BaseRequest) -> web.StreamResponse:
        # A trigger does not use what its function returns, but the answer must have arrived whole.
        size = 0
        async for chunk in request.content.iter_any():
            size += len(chunk)
        if size > RESPONSE_SIZE_BYTES_MAX:
            message = f"Response payload size exceeded maximum allowed payload size ({RESPONSE_SIZE_BYTES_MAX} bytes)."
            self._settle(request_id, FunctionError(error_type="Function.ResponseSizeTooLarge", message=message))
            return _refusal(413, "RequestEntityTooLarge", message)
        return self._settle(request_id, None)

    def _init_failed(self, error: FunctionError) -> web.StreamResponse:
        if self._has_started or self.init_error is not None:
            return _refusal(403, "InvalidStateTransition", "the worker has started")
        self.init_error = error
        self._has_settled.set()
        return _accepted()

    def _settle(self, request_id: str, outcome: FunctionError | None) -> web.StreamResponse:
        if self._running is None or self._running.request_id != request_id or self._answer is None:
            return _refusal(400, "InvalidRequestID", "this invocation is not running")
        self._running = None
        # Whoever waited may have given up: then the worker is about to be killed.
        if not self._answer.done():
            self._answer.set_result(outcome)
        return _accepted()


class _OwnUserServer(web.Server):
    """Serves the user of this process, and closes the connections of others."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._checks = can_tell_users()
        self._has_warned = False

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        if not self._checks:
            return
        user_id = peer_user_id(transport.get_extra_info("peername"), transport.get_extra_info("sockname"))
        if user_id == os.geteuid():
            return
        transport.abort()
        # Once, so that whoever does it cannot fill the log.
        if not self._has_warned:
            self._has_warned = True
            _LOGGER.warning("refused a connection of another user to the Runtime API of a worker uid=%s", user_id)


async def _function_error(request: web.BaseRequest) -> FunctionError:
    body = bytearray()
    async for chunk in request.content.iter_any():
        body += chunk[: _ERROR_SIZE_BYTES_MAX - len(body)]
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        document = {}
    error_type = document.get("errorType") or request.headers.get(_ERROR_TYPE_HEADER) or "Runtime.Unknown"
    return FunctionError(error_type=_text(error_type), message=_text(document.get("errorMessage") or ""))


def _text(content: object) -> str:
    """What is to be shown of a document, which may hold half of a character."""
    return str(content).encode(errors="replace").decode()


def _accepted() -> web.Response:
    return web.json_response({"status": "OK"}, status=202)


def _refusal(status: int, error_type: str, message: str) -> web.Response:
    return web.json_response({"errorType": error_type, "errorMessage": message}, status=status)
