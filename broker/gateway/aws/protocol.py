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
from aiohttp import web

from broker.gateway.aws.errors import AwsError, internal_error, translate
from broker.gateway.aws.operations import describe_endpoints
from broker.model.errors import HeadraceError, SerializationError, ThrottlingError, UnknownOperationError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from random import Random

    from broker.gateway.aws.operations import DynamoDB, Operation
    from broker.gateway.aws.signature import Signatures

# DynamoDB's limit of a request.
BODY_BYTES_MAX: Final = 16 * 1024 * 1024
# Of all requests whose bodies are being received or worked on.
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

# Looking a member of an enumeration up takes longer than one would think.
_OK: Final = int(HTTPStatus.OK)
# What is answered before the whole request is there.
_WITH_A_REST: Final = frozenset((HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.REQUEST_TIMEOUT))

_log: Final = logging.getLogger(__name__)


class AwsProtocol:
    """Answers `POST /`."""

    def __init__(
        self,
        operations: DynamoDB,
        signatures: Signatures | None,
        random: Random,
        body_seconds: float = BODY_SECONDS,
    ) -> None:
        """Without `signatures` anybody may call. Request ids are drawn from `random`."""
        self._signatures = signatures
        self._operations: Mapping[str, Operation] = {
            f"{service}.{name}": operation
            for service, named in (
                (_DYNAMODB_TARGET, operations.tables_and_items),
                (_STREAMS_TARGET, operations.streams),
            )
            for name, operation in named.items()
        }
        self._random = random
        self._body_seconds = body_seconds
        self.bodies_bytes = 0

    async def handle(self, request: web.BaseRequest) -> web.Response:
        """Carries out the request of a client; whatever is raised on the way leaves as DynamoDB's error."""
        try:
            return self._response(request, await self._admit(request), _OK)
        except AwsError as error:
            refusal = error
        except HeadraceError as error:
            refusal = translate(error)
        except Exception as error:
            _log.error("request failed unexpectedly", exc_info=error)
            refusal = internal_error("Internal error; the broker's log says more")
        return self._response(request, refusal.body, refusal.status)

    async def _admit(self, request: web.BaseRequest) -> dict[str, Any]:
        """Serves a request if its body may be held."""
        body_bytes = BODY_BYTES_MAX if request.content_length is None else request.content_length
        if body_bytes > BODY_BYTES_MAX:
            raise _too_large()
        if self.bodies_bytes + body_bytes > BODIES_BYTES_MAX:
            raise ThrottlingError("Too many bytes of requests are under way", retry_after_ms=_BUSY_RETRY_MS)
        self.bodies_bytes += body_bytes
        try:
            return await self._serve(request)
        finally:
            self.bodies_bytes -= body_bytes

    async def _serve(self, request: web.BaseRequest) -> dict[str, Any]:
        target = request.headers.get("X-Amz-Target", "")
        content = request.content
        # A small body has come with its headers.
        is_whole = content.is_eof() and content.exception() is None
        body = content.read_nowait() if is_whole else await self._body(request)
        if self._signatures is not None:
            self._signatures.check(request.headers, body)
        operation = self._operations.get(target)
        if operation is None:
            if target == f"{_DYNAMODB_TARGET}.DescribeEndpoints":
                return describe_endpoints(request.host)
            # A header may hold any bytes.
            raise UnknownOperationError(f"There is no operation {target[:128]!a} here")
        return await operation(_parsed(body))

    async def _body(self, request: web.BaseRequest) -> bytes:
        try:
            async with asyncio.timeout(self._body_seconds):
                body = bytearray()
                while part := await request.content.readany():
                    body += part
                    if len(body) > BODY_BYTES_MAX:
                        raise _too_large()
                return bytes(body)
        except TimeoutError:
            raise AwsError(
                "com.amazon.coral.service#RequestTimeoutException",
                f"The request did not arrive within {self._body_seconds:.0f} seconds",
                HTTPStatus.REQUEST_TIMEOUT,
            ) from None
        except (web.RequestPayloadError, ConnectionError) as error:
            raise SerializationError(f"The request's body is cut off or malformed: {error}") from error

    def _response(self, request: web.BaseRequest, content: Any, status: int) -> web.Response:
        body = orjson.dumps(content)
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


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise SerializationError(f"The request is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise SerializationError(f"{type(content).__name__} found where a structure is expected")
    return content


def _too_large() -> AwsError:
    return AwsError(
        "com.amazon.coral.service#RequestEntityTooLargeException",
        f"The request has more than {BODY_BYTES_MAX} bytes, the limit",
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    )
