"""The HTTP port over a real socket, with operations that do what a test wants."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import random
import zlib
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from typing import Any, Self

import aiohttp

from broker.gateway.aws.operations import DynamoDB
from broker.gateway.aws.protocol import BODIES_BYTES_MAX, AwsProtocol
from broker.gateway.cross_origin import CrossOrigin
from broker.gateway.server import CONNECTIONS_MAX, HttpServer
from broker.model.turns import Turns

JSON = {"Content-Type": "application/x-amz-json-1.0"}
DEADLINE_S = 10.0

BATCH = "DynamoDB_20120810.BatchGetItem"
# A request of it, but for its last brace.
BATCH_BEGIN = b'{"RequestItems": {"orders": {"Keys": [{"id": {"S": "1"}}]}}'
TARGET = "X-Amz-Target: DynamoDB_20120810.ListTables"
CHUNKED = f"POST / HTTP/1.1\r\nHost: a\r\n{TARGET}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()


def head(length: int, *more: str) -> bytes:
    """The head of a request whose body is to follow."""
    lines = ("POST / HTTP/1.1", "Host: a", TARGET, f"Content-Length: {length}", *more, "", "")
    return "\r\n".join(lines).encode()


async def no_metrics() -> bytes:
    return b""


class Server:
    """A server whose one service answers what it is told to."""

    def __init__(
        self,
        *,
        body_seconds: float,
        idle_seconds: float,
        bodies_bytes_max: int,
        origins: Collection[str] | None,
        connections_max: int,
    ) -> None:
        self.answer: Any = {}
        self.calls: list[tuple[str, Any]] = []
        self.protocol = AwsProtocol(
            DynamoDB(self._call, "here", Turns()), None, random.Random(1), body_seconds, bodies_bytes_max
        )
        self.http = HttpServer(
            "here", lambda: True, self.protocol, CrossOrigin(origins), no_metrics, idle_seconds, connections_max
        )
        self.port = 0

    async def _call(self, name: str, request: Any) -> dict[str, Any]:
        self.calls.append((name, request))
        if isinstance(self.answer, BaseException):
            raise self.answer
        content: dict[str, Any] = self.answer
        return dict(content)

    async def __aenter__(self) -> Self:
        self.port = await self.http.start("127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.http.close()

    async def post(
        self, body: bytes = b"{}", target: str = "DynamoDB_20120810.ListTables", **headers: str
    ) -> tuple[int, Any, Any]:
        """Status, parsed body and headers of a response."""
        sent = {**JSON, "X-Amz-Target": target, **{name.replace("_", "-"): value for name, value in headers.items()}}
        async with (
            aiohttp.ClientSession(auto_decompress=False) as session,
            session.post(f"http://127.0.0.1:{self.port}/", data=io.BytesIO(body), headers=sent) as response,
        ):
            raw = await response.read()
            assert int(response.headers["x-amz-crc32"]) == zlib.crc32(raw)
            assert response.headers["Content-Type"] == JSON["Content-Type"]
            assert len(response.headers["x-amzn-RequestId"]) == 52
            content = gzip.decompress(raw) if response.headers.get("Content-Encoding") == "gzip" else raw
            return response.status, json.loads(content), response.headers


@asynccontextmanager
async def serving(
    *,
    body_seconds: float = DEADLINE_S,
    idle_seconds: float = DEADLINE_S,
    bodies_bytes_max: int = BODIES_BYTES_MAX,
    origins: Collection[str] | None = None,
    connections_max: int = CONNECTIONS_MAX,
) -> AsyncIterator[Server]:
    async with asyncio.timeout(2 * DEADLINE_S):
        async with Server(
            body_seconds=body_seconds,
            idle_seconds=idle_seconds,
            bodies_bytes_max=bodies_bytes_max,
            origins=origins,
            connections_max=connections_max,
        ) as server:
            yield server


async def until(is_reached: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        # What is waited for is a plain number of the server's.
        while not is_reached():  # noqa: ASYNC110
            await asyncio.sleep(0)
