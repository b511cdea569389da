"""What stands around AWS's protocol on the HTTP port: paths, web pages, compressed requests, malformed ones."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import zlib
from contextlib import suppress

import aiohttp
import pytest
from yarl import URL

from broker.gateway.aws.content_encoding import PART_BYTES_MAX
from broker.gateway.aws.protocol import BODY_BYTES_MAX
from tests.unit.gateway.serving import BATCH, BATCH_BEGIN, Server, serving, until

PAGE = "https://app.example:8443"
REQUEST = json.dumps({"TableName": "orders", "Key": {"id": {"S": "1"}}}).encode()


def zipped(body: bytes) -> bytes:
    """Compress without the time, so that the parameters of a test are the same each time."""
    return gzip.compress(body, mtime=0)


@pytest.mark.parametrize(
    ("method", "path", "status", "allowed"),
    [
        ("PUT", "/", 405, "POST, GET, OPTIONS"),
        ("POST", "/healthz", 405, "GET"),
        ("DELETE", "/metrics", 405, "GET"),
        ("GET", "/nothing", 404, None),
        ("POST", "//", 404, None),
        ("HEAD", "/healthz", 200, None),
    ],
)
async def test_other_paths_and_methods_are_refused(method: str, path: str, status: int, allowed: str | None) -> None:
    async with serving() as server, aiohttp.ClientSession() as session:
        url = URL(f"http://127.0.0.1:{server.port}{path}", encoded=True)
        async with session.request(method, url, data=b"x" * 100_000 if method == "POST" else None) as response:
            assert (response.status, response.headers.get("Allow")) == (status, allowed)
        assert (await server.post())[0] == 200


# A load balancer that is set up for DynamoDB asks for this.
async def test_a_get_is_answered_as_dynamodb_answers_a_health_check() -> None:
    async with serving() as server, aiohttp.ClientSession() as session:
        async with session.get(f"http://127.0.0.1:{server.port}/") as response:
            assert response.status == 200
            assert await response.text() == "healthy: dynamodb.here.amazonaws.com "
        async with session.head(f"http://127.0.0.1:{server.port}/") as response:
            assert (response.status, await response.read()) == (200, b"")


async def preflight(server: Server, origin: str | None) -> aiohttp.ClientResponse:
    headers = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "x-amz-target,authorization",
    }
    if origin is not None:
        headers["Origin"] = origin
    url = f"http://127.0.0.1:{server.port}/"
    async with aiohttp.ClientSession() as session, session.options(url, headers=headers) as response:
        await response.read()
        return response


async def test_any_page_may_call_where_all_origins_may() -> None:
    async with serving(origins=None) as server:
        asked = await preflight(server, PAGE)
        assert asked.status == 200
        assert asked.headers["Access-Control-Allow-Origin"] == "*"
        assert "POST" in asked.headers["Access-Control-Allow-Methods"]
        assert asked.headers["Access-Control-Allow-Headers"] == "x-amz-target,authorization"
        status, _, headers = await server.post(Origin=PAGE)
        assert (status, headers["Access-Control-Allow-Origin"]) == (200, "*")
        assert "x-amzn-RequestId" in headers["Access-Control-Expose-Headers"]
        # An error that the page's program cannot read is of no use to it.
        status, _, headers = await server.post(b"no JSON", Origin=PAGE)
        assert (status, headers["Access-Control-Allow-Origin"]) == (400, "*")


async def test_only_the_pages_that_are_named_may_call() -> None:
    async with serving(origins=(PAGE,)) as server:
        asked = await preflight(server, PAGE)
        assert (asked.status, asked.headers["Access-Control-Allow-Origin"]) == (200, PAGE)
        status, _, headers = await server.post(Origin=PAGE)
        assert (status, headers["Access-Control-Allow-Origin"], headers["Vary"]) == (200, PAGE, "Origin")
        assert len(server.calls) == 1
        for other in ("http://app.example:8443", "https://app.example", "null", "http://127.0.0.1"):
            asked = await preflight(server, other)
            assert asked.status == 403
            assert not [name for name in asked.headers if name.startswith("Access-Control")]
            # A browser whose site is not another one's to it, for its name was made to be ours, does not ask first.
            status, answer, headers = await server.post(Origin=other)
            assert (status, answer["__type"].rpartition("#")[2]) == (403, "AccessDeniedException")
            assert "cors_origins" in answer["message"]
            assert "Access-Control-Allow-Origin" not in headers
        assert len(server.calls) == 1


async def test_programs_that_are_no_pages_name_no_origin_and_are_not_asked_for_it() -> None:
    async with serving(origins=()) as server:
        status, _, headers = await server.post()
        assert (status, "Access-Control-Allow-Origin" in headers) == (200, False)
        assert (await preflight(server, None)).status == 200
        assert (await server.post(Origin=PAGE))[0] == 403


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", zipped(REQUEST)),
        ("GZIP", zipped(REQUEST)),
        ("deflate", zlib.compress(REQUEST)),
        ("identity", REQUEST),
        ("Identity", REQUEST),
        ("", REQUEST),
        ("gzip", zipped(b" " * (2 * PART_BYTES_MAX + 1) + REQUEST)),
    ],
)
async def test_a_compressed_request_means_what_it_means_uncompressed(encoding: str, body: bytes) -> None:
    async with serving() as server:
        assert (await server.post(body, Content_Encoding=encoding))[0] == 200
        assert server.calls == [("ListTables", json.loads(REQUEST))]
        await until(lambda: server.protocol.bodies_bytes == 0)


@pytest.mark.parametrize(
    ("encoding", "body", "words"),
    [
        ("gzip", REQUEST, "cannot be inflated"),
        ("gzip", zipped(REQUEST)[:-1], "cut off"),
        ("gzip", b"", "cut off"),
        ("gzip", zipped(REQUEST) + b"more", "follow the end"),
        ("deflate", zlib.compress(REQUEST)[:-5] + b"\0\0\0\0\0", "cannot be inflated"),
        ("br", REQUEST, "only gzip and deflate"),
        ("gzip, gzip", zipped(zipped(REQUEST)), "only gzip and deflate"),
    ],
)
async def test_a_request_that_cannot_be_inflated_is_refused(encoding: str, body: bytes, words: str) -> None:
    async with serving() as server:
        status, answer, _ = await server.post(body, Content_Encoding=encoding)
        assert (status, answer["__type"].rpartition("#")[2]) == (400, "SerializationException")
        assert words in answer["message"]
        assert server.calls == []
        await until(lambda: server.protocol.bodies_bytes == 0)


async def test_a_compressed_request_is_as_large_as_it_becomes() -> None:
    async with serving() as server:
        largest = gzip.compress(BATCH_BEGIN + b" " * (BODY_BYTES_MAX - len(BATCH_BEGIN) - 1) + b"}")
        assert (await server.post(largest, BATCH, Content_Encoding="gzip"))[0] == 200
        larger = gzip.compress(BATCH_BEGIN + b" " * (BODY_BYTES_MAX - len(BATCH_BEGIN)) + b"}")
        status, answer, _ = await server.post(larger, BATCH, Content_Encoding="gzip")
        assert (status, answer["__type"].rpartition("#")[2]) == (413, "RequestEntityTooLargeException")
        # A few kilobytes that would become several times the limit.
        bomb = zlib.compress(bytes(4 * BODY_BYTES_MAX), level=1)
        assert (await server.post(bomb, Content_Encoding="deflate"))[0] == 413
        await until(lambda: server.protocol.bodies_bytes == 0)


async def test_what_a_request_becomes_counts_among_the_bytes_under_way() -> None:
    async with serving(bodies_bytes_max=50_000) as server:
        status, answer, _ = await server.post(gzip.compress(b"{" + b" " * 60_000 + b"}"), Content_Encoding="gzip")
        assert (status, answer["__type"].rpartition("#")[2]) == (400, "ThrottlingException")
        assert (await server.post(zipped(REQUEST), Content_Encoding="gzip"))[0] == 200


MALFORMED = [
    b"NOT HTTP AT ALL\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    b"GET\r\n\r\n",
    b"POST / HTTP/9.9\r\nHost: a\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost a\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: many\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\na",
    b"POST / HTTP/1.1\r\nHost: a\r\nX-Long: " + b"x" * 10_000 + b"\r\n\r\n",
    b"POST /" + b"x" * 10_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nX: \x00\r\n\r\n",
]


@pytest.mark.parametrize("sent", MALFORMED, ids=range(len(MALFORMED)))
async def test_a_malformed_request_is_a_line_for_who_looks_closely_and_a_count(
    sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with serving() as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(sent)
        assert b" 400 " in await reader.readline()
        writer.close()
        assert server.http.malformed_requests_total == 1
        assert (await server.post())[0] == 200
        assert server.http.malformed_requests_total == 1
    told = [record for record in caplog.records if record.name.startswith(("broker", "aiohttp"))]
    assert [record.levelname for record in told] == ["DEBUG"]
    assert told[0].exc_info is None
    assert "\n" not in told[0].getMessage()


async def test_a_fault_of_ours_is_an_error_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as server:
        server.answer = RuntimeError("a defect")
        assert (await server.post())[0] == 500
        assert server.http.malformed_requests_total == 0
    assert [record.exc_info is not None for record in caplog.records if record.levelno >= logging.ERROR] == [True]


async def test_a_connection_beyond_the_limit_is_closed_and_counted_and_the_others_are_served() -> None:
    async with serving(connections_max=2) as server:
        first = await asyncio.open_connection("127.0.0.1", server.port)
        second = await asyncio.open_connection("127.0.0.1", server.port)
        third = await asyncio.open_connection("127.0.0.1", server.port)
        with suppress(ConnectionResetError):
            assert await third[0].read() == b""
        assert server.http.refused_connections_total == 1
        second[1].close()
        await second[1].wait_closed()
        await until(lambda: server.http.connections == 1)
        assert (await server.post())[0] == 200
        for _, writer in (first, third):
            writer.close()
