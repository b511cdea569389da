"""AWS's JSON 1.0 protocol over HTTP: one request, one operation, one response.

Source: Amazon DynamoDB Developer Guide, "DynamoDB low-level API". What a caller may make us hold is bounded: a body,
all bodies together, and the time one may take to arrive.
"""

from __future__ import annotations

import asyncio
import gzip
import logging
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final
from zlib import crc32

import orjson
from aiohttp import HttpVersion11, web

from broker.gateway.aws.constraints import request_checks
from broker.gateway.aws.content_encoding import IDENTITY, inflate
from broker.gateway.aws.errors import AwsError, framework_error, internal_error, translate
from broker.gateway.aws.operations import describe_endpoints
from broker.model.errors import (
    CorruptionError,
    DataLossError,
    HeadraceError,
    SerializationError,
    ThrottlingError,
    UnknownOperationError,
    ValidationError,
    forget_frames,
)
from broker.model.turns import SHORT_BYTES, TURN_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping
    from random import Random

    from broker.gateway.aws.operations import AnyOperation, DynamoDB
    from broker.gateway.aws.signature import Signatures

# DynamoDB's limit of a request.
BODY_BYTES_MAX: Final = 16 * 1024 * 1024
# An operation on one item needs no more for 400 KB of item and 2 MB of expression values, unless nearly all of it is
# text that is written in six bytes a character.
BODY_OF_ONE_ITEM_BYTES_MAX: Final = 8 * 1024 * 1024
_OF_SEVERAL_ITEMS: Final = frozenset(
    (
        "BatchGetItem",
        "BatchWriteItem",
        "TransactGetItems",
        "TransactWriteItems",
        "BatchExecuteStatement",
        "ExecuteTransaction",
    )
)
# To parse JSON costs so many times less than to look at its values.
_CHEAPER: Final = 8
# Of all bodies that are being received or worked on. One that came with its headers is taken in any case.
BODIES_BYTES_MAX: Final = 256 * 1024 * 1024
BODY_SECONDS: Final = 30.0

CONTENT_TYPE: Final = "application/x-amz-json-1.0"
_DYNAMODB_TARGET: Final = "DynamoDB_20120810"
_STREAMS_TARGET: Final = "DynamoDBStreams_20120810"
_GZIP_BYTES_MIN: Final = 1024
_GZIP_LEVEL: Final = 1
# 52 hexadecimal digits.
_REQUEST_ID_BITS: Final = 208
_BUSY_RETRY_MS: Final = 100

# Python 3.11 takes 0.2 us to look a member of an enumeration up.
_OK: Final = int(HTTPStatus.OK)
# What is answered before the whole request is there.
_WITH_A_REST: Final = frozenset(
    (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.EXPECTATION_FAILED)
)

_log: Final = logging.getLogger(__name__)


class AwsProtocol:
    """Answers `POST /`."""

    def __init__(
        self,
        operations: DynamoDB,
        signatures: Signatures | None,
        random: Random,
        body_seconds: float = BODY_SECONDS,
        bodies_bytes_max: int = BODIES_BYTES_MAX,
    ) -> None:
        """Without `signatures` anybody may call. Request ids are drawn from `random`."""
        self._signatures = signatures
        self._operations: Mapping[str, AnyOperation] = {
            f"{service}.{name}": operation
            for service, named in (
                (_DYNAMODB_TARGET, operations.tables_and_items),
                (_STREAMS_TARGET, operations.streams),
            )
            for name, operation in named.items()
        }
        self._checks = request_checks(self._operations)
        self._turns = operations.turns
        self._random = random
        self._body_seconds = body_seconds
        self._bodies_bytes_max = bodies_bytes_max
        self.bodies_bytes = 0

    async def handle(self, request: web.BaseRequest) -> web.Response:
        """Carries out the request of a client; whatever is raised on the way leaves as DynamoDB's error."""
        try:
            return self._response(request, await self._admit(request), _OK)
        except Exception as error:
            refusal = _refusal(error)
        return self._response(request, refusal.body, refusal.status)

    def refuse(self, request: web.BaseRequest, refusal: AwsError) -> web.Response:
        """Answer a request whose body is not looked at."""
        response = self._response(request, refusal.body, refusal.status)
        response.force_close()
        return response

    async def _admit(self, request: web.BaseRequest) -> dict[str, Any] | None:
        """Receives a body, which is counted while it is held, and serves the request."""
        if (request.content_length or 0) > BODY_BYTES_MAX:
            raise _too_large()
        content, body = request.content, bytearray()
        try:
            if content.is_eof() and content.exception() is None:
                # It came with its headers, as small ones do.
                body += content.read_nowait()
                self.bodies_bytes += len(body)
            else:
                await self._receive(request, body)
            return await self._serve(request, body)
        finally:
            self.bodies_bytes -= len(body)

    async def _serve(self, request: web.BaseRequest, body: bytearray) -> dict[str, Any] | None:
        headers = request.headers
        if self._signatures is not None:
            self._signatures.check(headers, body, request.remote or "")
        # No matter how it is written; an empty one names no encoding.
        encoding = headers.get("Content-Encoding", "").lower()
        if encoding in ("", IDENTITY):
            return await self._carry_out(request, body)
        inflated = bytearray()
        try:
            for part in inflate(body, encoding):
                self._take(inflated, part)
                # Others have their turn while a large body is inflated.
                await asyncio.sleep(0)
            return await self._carry_out(request, inflated)
        finally:
            self.bodies_bytes -= len(inflated)

    async def _carry_out(self, request: web.BaseRequest, body: bytearray) -> dict[str, Any] | None:
        target = request.headers.get("X-Amz-Target", "")
        operation = self._operations.get(target)
        if operation is not None:
            if len(body) > BODY_OF_ONE_ITEM_BYTES_MAX:
                _check_is_of_several_items(target.rpartition(".")[2], len(body))
            check = self._checks[target]
            if len(body) <= SHORT_BYTES:
                content = _parsed(body)
                check(content)
            else:
                await self._turns.take(len(body) // _CHEAPER)
                content = _parsed(body)
                if len(body) <= TURN_BYTES:
                    check(content)
                else:
                    await self._turns.apart(lambda: check(content))
            return await operation(content)
        if target == f"{_DYNAMODB_TARGET}.DescribeEndpoints":
            if not request.host.isascii():
                raise ValidationError("Host must be ASCII", field="Host")
            return describe_endpoints(request.host)
        # A header may hold any bytes.
        raise UnknownOperationError(f"There is no operation {target[:128]!a} here")

    async def _receive(self, request: web.BaseRequest, body: bytearray) -> None:
        """Receives a body that comes after its headers."""
        try:
            async with asyncio.timeout(self._body_seconds):
                await _invite(request)
                while part := await request.content.readany():
                    self._take(body, part)
        except TimeoutError:
            raise framework_error(
                "RequestTimeoutException",
                f"The request did not arrive within {self._body_seconds:.0f} seconds",
                HTTPStatus.REQUEST_TIMEOUT,
            ) from None
        except (web.RequestPayloadError, ConnectionError) as error:
            raise SerializationError(f"The request's body is cut off or malformed: {error}") from error

    def _take(self, body: bytearray, part: bytes) -> None:
        """Add a part to a body. Raises AwsError and ThrottlingError if that would be more than may be held."""
        if len(body) + len(part) > BODY_BYTES_MAX:
            raise _too_large()
        if self.bodies_bytes + len(part) > self._bodies_bytes_max:
            raise ThrottlingError("Too many bytes of requests are under way", retry_after_ms=_BUSY_RETRY_MS)
        body += part
        self.bodies_bytes += len(part)

    def _response(self, request: web.BaseRequest, content: Any, status: int) -> web.Response:
        body = b"" if content is None else orjson.dumps(content)
        headers = {
            "Content-Type": CONTENT_TYPE,
            "x-amzn-RequestId": f"{self._random.getrandbits(_REQUEST_ID_BITS):052X}",
        }
        if len(body) >= _GZIP_BYTES_MIN and "gzip" in request.headers.get("Accept-Encoding", ""):
            body = gzip.compress(body, _GZIP_LEVEL)
            headers["Content-Encoding"] = "gzip"
        # Of the bytes as they are sent.
        headers["x-amz-crc32"] = str(crc32(body))
        response = web.Response(body=body, status=status, headers=headers)
        if status in _WITH_A_REST:
            # What is left of the request is not wanted.
            response.force_close()
        return response


def _refusal(error: Exception) -> AwsError:
    """What the caller is told of an error. It keeps nothing of the request, as its traceback would."""
    if isinstance(error, AwsError):
        refusal = error
    elif isinstance(error, HeadraceError):
        refusal = translate(error)
    elif isinstance(error, CorruptionError):
        _log.error("a request met damaged data error=%s", error)
        refusal = translate(DataLossError())
    else:
        _log.error("request failed unexpectedly", exc_info=error)
        refusal = internal_error("Internal error; the broker's log says more")
    forget_frames(error)
    return refusal


async def _invite(request: web.BaseRequest) -> None:
    """Tells a client that waits to be told that its body is welcome."""
    expected = request.headers.get("Expect")
    if expected is None or request.version < HttpVersion11:
        return
    if expected.lower() != "100-continue":
        raise framework_error(
            "ExpectationFailedException",
            f"Expect: {expected[:64]!a} is not met here",
            HTTPStatus.EXPECTATION_FAILED,
        )
    if request.transport is None:
        raise ConnectionResetError("the client has left")
    request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")


def _parsed(body: bytearray) -> dict[str, Any]:
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise SerializationError(f"The request is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise SerializationError(f"{type(content).__name__} found where a structure is expected")
    return content


def _check_is_of_several_items(name: str, size: int) -> None:
    """Raise ValidationError if a body is too large for an operation on one item."""
    if name not in _OF_SEVERAL_ITEMS:
        limit = BODY_OF_ONE_ITEM_BYTES_MAX
        raise ValidationError(
            f"A request of {name} has at most {limit} bytes, this one {size}", field="body", limit=limit
        )


def _too_large() -> AwsError:
    return framework_error(
        "RequestEntityTooLargeException",
        f"The request has more than {BODY_BYTES_MAX} bytes, the limit",
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    )
