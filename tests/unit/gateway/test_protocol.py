"""The HTTP side of AWS's protocol, over real sockets, with operations that do what a test wants."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import suppress

import aiohttp
import pytest

from broker.gateway.aws.errors import conditional_check_failed
from broker.gateway.aws.protocol import BODY_BYTES_MAX, BODY_OF_ONE_ITEM_BYTES_MAX
from broker.model import errors
from tests.unit.gateway.serving import BATCH, BATCH_BEGIN, CHUNKED, JSON, head, serving, until


async def test_a_response_is_compressed_for_who_takes_that() -> None:
    async with serving() as server:
        server.answer = {"TableNames": ["x" * 5000]}
        _, whole, headers = await server.post(Accept_Encoding="identity")
        assert "Content-Encoding" not in headers
        _, same, headers = await server.post(Accept_Encoding="gzip, deflate")
        assert headers["Content-Encoding"] == "gzip"
        assert whole == same == server.answer


@pytest.mark.parametrize(
    ("error", "status", "type_"),
    [
        (errors.ValidationError("bad"), 400, "com.amazonaws.dynamodb.v20120810#ValidationException"),
        (errors.ResourceNotFoundError("bad"), 400, "com.amazonaws.dynamodb.v20120810#ResourceNotFoundException"),
        (
            errors.ProvisionedThroughputExceededError("bad", retry_after_ms=1),
            400,
            "com.amazonaws.dynamodb.v20120810#ProvisionedThroughputExceededException",
        ),
        (errors.ThrottlingError("bad", retry_after_ms=1), 400, "com.amazonaws.dynamodb.v20120810#ThrottlingException"),
        (errors.UnrecognizedClientError("bad"), 400, "com.amazon.coral.service#UnrecognizedClientException"),
        (errors.UnavailableError("bad"), 503, "com.amazonaws.dynamodb.v20120810#ServiceUnavailable"),
        (
            conditional_check_failed({"id": {"S": "a"}}),
            400,
            "com.amazonaws.dynamodb.v20120810#ConditionalCheckFailedException",
        ),
    ],
)
async def test_an_error_has_dynamodbs_name_and_status(error: Exception, status: int, type_: str) -> None:
    async with serving() as server:
        server.answer = error
        got, body, _ = await server.post()
        assert (got, body["__type"]) == (status, type_)
        assert body["message"]


async def test_a_fault_of_ours_tells_nothing_but_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as server:
        server.answer = RuntimeError("secret detail")
        status, body, _ = await server.post()
        assert (status, body["__type"].rpartition("#")[2]) == (500, "InternalServerError")
        assert "secret" not in body["message"]
        assert "secret detail" in caplog.text
        caplog.clear()


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"1", b'"a"', b"null", b"\xff", b"{}{}", b'{"a": NaN}'])
async def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    async with serving() as server:
        status, answer, _ = await server.post(body)
        assert (status, answer["__type"]) == (400, "com.amazon.coral.service#SerializationException")
        assert not server.calls


async def test_json_that_nests_without_end_is_refused_and_costs_nobody_else() -> None:
    async with serving() as server:
        status, answer, _ = await server.post(b'{"a":' * 200_000)
        assert (status, answer["__type"]) == (400, "com.amazon.coral.service#SerializationException")
        assert (await server.post())[0] == 200


@pytest.mark.parametrize(
    "target",
    ["", "PutItem", "DynamoDB_20120810", "DynamoDB_20120810.Nothing", "DynamoDBStreams_20120810.PutItem", "x" * 4000],
)
async def test_an_unknown_operation_is_refused(target: str) -> None:
    async with serving() as server:
        status, answer, _ = await server.post(target=target)
        assert (status, answer["__type"]) == (400, "com.amazon.coral.service#UnknownOperationException")
        assert not server.calls


async def test_a_target_of_any_bytes_is_refused() -> None:
    async with serving() as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nX-Amz-Target: \xff\xfe.\xc3\r\nContent-Length: 2\r\n\r\n{}")
        assert (await reader.readline()).startswith(b"HTTP/1.1 400 ")
        writer.close()


async def test_a_body_of_the_largest_size_is_taken_and_a_larger_one_is_not() -> None:
    async with serving() as server:
        padding = b" " * (BODY_BYTES_MAX - len(BATCH_BEGIN) - 1)
        assert (await server.post(BATCH_BEGIN + padding + b"}", BATCH))[0] == 200
        status, answer, _ = await server.post(BATCH_BEGIN + padding + b" }", BATCH)
        assert (status, answer["__type"].rpartition("#")[2]) == (413, "RequestEntityTooLargeException")
        assert len(server.calls) == 1


# An item has 400 KB and the values of expressions 2 MB: what is larger need not be parsed to be refused.
async def test_an_operation_on_one_item_takes_a_body_of_half_the_size() -> None:
    async with serving() as server:
        padding = b" " * (BODY_OF_ONE_ITEM_BYTES_MAX - 2)
        assert (await server.post(b"{" + padding + b"}"))[0] == 200
        status, answer, _ = await server.post(b"[" * (BODY_OF_ONE_ITEM_BYTES_MAX + 1))
        assert (status, answer["__type"].rpartition("#")[2]) == (400, "ValidationException")
        assert f"ListTables has at most {BODY_OF_ONE_ITEM_BYTES_MAX} bytes" in answer["message"]
        assert len(server.calls) == 1


async def test_a_larger_body_is_refused_also_if_its_length_is_not_told() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(17):
            yield b" " * 1024 * 1024

    async with serving() as server:
        async with aiohttp.ClientSession() as session:
            # The server may close before the client has sent it all.
            with suppress(aiohttp.ClientConnectionError):
                async with session.post(f"http://127.0.0.1:{server.port}/", data=chunks(), headers=JSON) as response:
                    assert response.status == 413
        assert not server.calls
        assert server.protocol.bodies_bytes == 0


async def test_bodies_under_way_are_bounded_together() -> None:
    async with serving(bodies_bytes_max=50_000) as server:
        started = []
        for _ in range(5):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(head(20_000) + b" " * 10_000)
            await writer.drain()
            started.append((reader, writer))
        await until(lambda: server.protocol.bodies_bytes == 50_000)
        # One that has come is taken in any case, one that is to come is not.
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(head(2) + b"{}")
        assert b" 200 OK" in await reader.readuntil(b'\r\n\r\n{"TableNames":[]}')
        writer.write(head(20) + b" ")
        assert b" 400 Bad Request" in await reader.readuntil(b"ThrottlingException")
        for _, each in (*started, (reader, writer)):
            each.close()
            await each.wait_closed()
        await until(lambda: server.protocol.bodies_bytes == 0)
        assert (await server.post())[0] == 200


async def test_a_claim_of_bytes_that_do_not_come_keeps_nobody_out() -> None:
    async with serving(bodies_bytes_max=50_000) as server:
        claims = []
        for sent in (head(BODY_BYTES_MAX), CHUNKED):
            for _ in range(20):
                _, writer = await asyncio.open_connection("127.0.0.1", server.port)
                writer.write(sent)
                await writer.drain()
                claims.append(writer)
        assert (await server.post())[0] == 200
        assert server.protocol.bodies_bytes == 0
        for writer in claims:
            writer.close()


@pytest.mark.parametrize(("length", "status"), [(2, b"100"), (BODY_BYTES_MAX + 1, b"413")])
async def test_a_client_that_asks_first_is_told_to_go_on_or_not(length: int, status: bytes) -> None:
    async with serving() as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(head(length, "Expect: 100-continue"))
        assert (await reader.readline()).startswith(b"HTTP/1.1 %b " % status)
        if status == b"100":
            assert await reader.readline() == b"\r\n"
            writer.write(b"{}")
            assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
        writer.close()


async def test_another_expectation_is_not_met() -> None:
    async with serving() as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(head(2, "Expect: the unexpected"))
        assert (await reader.readline()).startswith(b"HTTP/1.1 417 ")
        writer.close()


async def test_a_host_of_any_bytes_is_refused() -> None:
    async with serving() as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(
            b"POST / HTTP/1.1\r\nHost: \xff\xfe\r\nX-Amz-Target: DynamoDB_20120810.DescribeEndpoints\r\n"
            b"Content-Length: 2\r\n\r\n{}"
        )
        assert (await reader.readline()).startswith(b"HTTP/1.1 400 ")
        writer.close()


async def test_a_body_that_does_not_come_is_given_up() -> None:
    async with serving(body_seconds=0.05) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(head(10))
        assert (await reader.readline()).startswith(b"HTTP/1.1 408 ")
        assert server.protocol.bodies_bytes == 0
        writer.close()


async def test_headers_that_come_byte_by_byte_are_given_up_and_hold_nobody_up() -> None:
    async with serving(idle_seconds=0.2) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        sender = asyncio.create_task(trickle(writer))
        assert (await server.post())[0] == 200
        with suppress(ConnectionResetError):
            assert await reader.read() == b""
        sender.cancel()
        await asyncio.wait((sender,))
        writer.close()


async def test_a_client_that_leaves_in_the_middle_is_no_fault_of_ours(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as server:
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(head(100) + b"{")
        await writer.drain()
        await until(lambda: server.protocol.bodies_bytes > 0)
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        writer.close()
        await until(lambda: server.protocol.bodies_bytes == 0)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def trickle(writer: asyncio.StreamWriter) -> None:
    while True:
        for byte in head(0)[:-4]:
            writer.write(bytes([byte]))
            await asyncio.sleep(0.005)
        writer.write(b"\r\nX-More: ")
