"""The Runtime API as a runtime client sees it, call by call, also calls no correct client makes.

Source: AWS Lambda Developer Guide, "Using the Lambda runtime API".
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from headrace.triggers.peer_user import can_tell_users, peer_user_id
from headrace.triggers.runtime_api import RESPONSE_SIZE_BYTES_MAX, FunctionError, Invocation, RuntimeApi
from tests.other_user import NOBODY, ask_for_work, needs_another_user


@dataclass(frozen=True, slots=True)
class Served:
    """A Runtime API and a client of it."""

    api: RuntimeApi
    session: aiohttp.ClientSession
    base: str

    async def post(self, path: str, body: bytes, **headers: str) -> int:
        async with self.session.post(f"{self.base}/{path}", data=io.BytesIO(body), headers=headers) as response:
            return response.status

    async def next(self) -> aiohttp.ClientResponse:
        response = await self.session.get(f"{self.base}/invocation/next")
        await response.read()
        return response


@asynccontextmanager
async def served() -> AsyncIterator[Served]:
    api = RuntimeApi()
    address = await api.open()
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(5)) as session:
            yield Served(api, session, f"http://{address}/2018-06-01/runtime")
    finally:
        await api.close()


def invocation(request_id: str = "id-1", event: bytes = b'{"Records":[]}') -> Invocation:
    return Invocation(request_id=request_id, event=event, deadline_ms=123_456, function_arn="arn:function")


@asynccontextmanager
async def running(server: Served, request_id: str = "id-1") -> AsyncIterator[asyncio.Future[FunctionError | None]]:
    """An invocation that the client has taken and not answered yet."""
    asking = asyncio.create_task(server.next())
    await server.api.wait_settled()
    answer = server.api.invoke(invocation(request_id))
    await asking
    yield answer


async def test_an_invocation_reaches_the_client_with_its_headers_and_its_answer_comes_back() -> None:
    async with served() as server:
        asking = asyncio.create_task(server.next())
        await server.api.wait_settled()
        assert server.api.is_idle
        event = b'{"Records":[' + b" " * 6_000_000 + b"]}"
        answer = server.api.invoke(invocation(event=event))
        response = await asking
        assert response.status == 200
        assert await response.read() == event
        assert response.headers["Lambda-Runtime-Aws-Request-Id"] == "id-1"
        assert response.headers["Lambda-Runtime-Deadline-Ms"] == "123456"
        assert response.headers["Lambda-Runtime-Invoked-Function-Arn"] == "arn:function"
        assert response.content_type == "application/json"
        assert await server.post("invocation/id-1/response", b"null") == 202
        assert await answer is None


# Such as macOS, which has no table, and a sandbox that has an empty one: the docs say what does not hold there.
@pytest.mark.parametrize("lines", [None, "  sl  local_address rem_address   st\n"], ids=["none", "empty"])
async def test_where_the_system_does_not_tell_users_apart_the_worker_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: str | None
) -> None:
    table = tmp_path / "tcp"
    if lines is not None:
        table.write_text(lines)
    monkeypatch.setattr("headrace.triggers.peer_user._TABLE", table)
    can_tell_users.cache_clear()
    try:
        assert not can_tell_users()
        async with served() as server, running(server) as answer:
            assert await server.post("invocation/id-1/response", b"null") == 202
            assert await answer is None
    finally:
        can_tell_users.cache_clear()


async def test_an_error_is_reported_by_its_type_and_message() -> None:
    async with served() as server, running(server) as answer:
        body = json.dumps({"errorType": "ValueError", "errorMessage": "bad", "stackTrace": ["..."]}).encode()
        assert await server.post("invocation/id-1/error", body) == 202
        assert await answer == FunctionError(error_type="ValueError", message="bad")


@pytest.mark.parametrize("body", [b"", b"not json", b"[]", b'{"errorType": null}', b"[" * 100_000])
async def test_an_error_without_a_document_is_known_by_its_header(body: bytes) -> None:
    async with served() as server, running(server) as answer:
        headers = {"Lambda-Runtime-Function-Error-Type": "Category.Reason"}
        assert await server.post("invocation/id-1/error", body, **headers) == 202
        assert await answer == FunctionError(error_type="Category.Reason", message="")


async def test_an_error_with_half_a_character_can_be_shown() -> None:
    async with served() as server, running(server) as answer:
        body = b'{"errorType": "E\\ud800", "errorMessage": "\\udfff!"}'
        assert await server.post("invocation/id-1/error", body) == 202
        assert await answer == FunctionError(error_type="E?", message="?!")


@pytest.mark.parametrize(("extra_bytes", "status"), [(0, 202), (1, 413)])
async def test_an_answer_may_have_six_megabytes(extra_bytes: int, status: int) -> None:
    async with served() as server, running(server) as answer:
        body = b"x" * (RESPONSE_SIZE_BYTES_MAX + extra_bytes)
        assert await server.post("invocation/id-1/response", body) == status
        error = await answer
        assert (error.error_type if error else None) == ("Function.ResponseSizeTooLarge" if extra_bytes else None)


async def test_a_client_that_cannot_start_says_why() -> None:
    async with served() as server:
        body = json.dumps({"errorType": "Runtime.ImportModuleError", "errorMessage": "no module"}).encode()
        assert await server.post("init/error", body) == 202
        await server.api.wait_settled()
        assert server.api.init_error == FunctionError(error_type="Runtime.ImportModuleError", message="no module")
        assert await server.post("init/error", body) == 403


async def test_a_client_that_has_started_cannot_fail_to_start() -> None:
    async with served() as server, running(server):
        assert await server.post("init/error", b"{}") == 403


async def test_an_answer_counts_once_and_only_for_what_is_running() -> None:
    async with served() as server, running(server) as answer:
        assert await server.post("invocation/another/response", b"") == 400
        assert not answer.done()
        assert await server.post("invocation/id-1/response", b"") == 202
        assert await server.post("invocation/id-1/error", b"{}") == 400
        assert await answer is None


async def test_one_invocation_at_a_time() -> None:
    async with served() as server:
        asking = asyncio.create_task(server.next())
        await server.api.wait_settled()
        assert (await server.next()).status == 403
        server.api.invoke(invocation())
        await asking
        assert (await server.next()).status == 403


async def test_what_is_no_call_of_the_api_is_not_found() -> None:
    async with served() as server:
        assert await server.post("invocation/next", b"") == 404
        assert await server.post("nonsense", b"") == 404


async def test_closing_does_not_wait_for_a_client_that_waits_for_work() -> None:
    async with asyncio.timeout(5):
        async with served() as server:
            asking = asyncio.create_task(server.next())
            await server.api.wait_settled()
            await server.api.close()
            await asyncio.wait({asking})
            assert isinstance(asking.exception(), aiohttp.ClientError)


@needs_another_user
async def test_another_user_gets_no_answer_and_takes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async with served() as server:
        address = server.base.removeprefix("http://").partition("/")[0]
        asked = await asyncio.to_thread(ask_for_work, address, 3)
        assert asked.stdout == "", asked
        assert asked.returncode != 9, "nothing listens"
        assert not server.api.is_idle
        # One line, however often it was tried.
        assert [record.message for record in caplog.records] == [
            f"refused a connection of another user to the Runtime API of a worker uid={NOBODY}"
        ]
        # The worker itself is served.
        async with running(server) as answer:
            assert await server.post("invocation/id-1/response", b"null") == 202
            assert await answer is None


@pytest.mark.skipif(not can_tell_users(), reason="the system does not tell whose a connection is")
def test_the_user_of_a_connection_is_known_while_it_is_open() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        accepted, _ = listener.accept()
        with client, accepted:
            peer, local = accepted.getpeername(), accepted.getsockname()
            assert peer_user_id(peer, local) == os.geteuid()
            # No process has the far end any more: the table's 0 there is not root.
            client.close()
            assert peer_user_id(peer, local) is None
            assert peer_user_id((peer[0], listener.getsockname()[1]), local) is None
