"""AWS Signature Version 4: who has sent a request, and that nobody has changed it since.

Source: AWS Identity and Access Management User Guide, "Create a signed AWS API request". Only signatures in the
Authorization header are taken, as all of AWS's SDKs send them.
"""

from __future__ import annotations

import hmac
import logging
import re
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import sha256
from typing import TYPE_CHECKING, Final, NamedTuple

from broker.model.errors import (
    AuthenticationError,
    IncompleteSignatureError,
    InvalidSignatureError,
    MissingAuthenticationTokenError,
    UnrecognizedClientError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from multidict import CIMultiDictProxy

    from broker.model.clock import Clock

# How far the clocks of a caller and ours may be apart, both ways; AWS's bound too.
CLOCK_SKEW_SECONDS: Final = 5 * 60
_ALGORITHM: Final = "AWS4-HMAC-SHA256"
_SERVICE: Final = "dynamodb"
_SCOPE_END: Final = "aws4_request"
_CREDENTIAL_FIELDS: Final = 5
_TIME_FORMAT: Final = "%Y%m%dT%H%M%SZ"
_TIME: Final = re.compile(r"\d{8}T\d{6}Z")
_MILLIS_PER_SECOND: Final = 1000
# Failures of one reason are logged this far apart, so that a flood of them does not flood the log.
_LOG_INTERVAL_MS: Final = 1000
# One a day and access key.
_SIGNING_KEYS_MAX: Final = 1024
# What says what is asked for, of whom, and when: it must be signed if it is there.
_SIGNED_ALWAYS: Final = ("host", "x-amz-date", "x-amz-target", "x-amz-security-token")

_log: Final = logging.getLogger(__name__)


class _Authorization(NamedTuple):
    access_key_id: str
    date: str
    region: str
    service: str
    end: str
    signed_headers: tuple[str, ...]
    signature: str

    @property
    def scope(self) -> str:
        return f"{self.date}/{self.region}/{self.service}/{self.end}"


class Signatures:
    """Checks the signatures of a node's callers."""

    def __init__(self, access_keys: Mapping[str, str], region: str, clock: Clock) -> None:
        """`access_keys` has the secret of each access key id. Without any, all callers are refused."""
        self._region = region
        self._clock = clock
        self._access_keys = dict(access_keys)
        self._failures: dict[str, int] = {}
        self._logged_ms: dict[str, int] = {}
        self._signing_key: Callable[[str, str], bytes] = lru_cache(_SIGNING_KEYS_MAX)(self._make_signing_key)

    def check(self, headers: CIMultiDictProxy[str], body: bytes | bytearray, remote: str = "") -> str:
        """Return the access key id that has signed a request, which is a POST to "/" without a query.

        Raises MissingAuthenticationTokenError, IncompleteSignatureError, UnrecognizedClientError and
        InvalidSignatureError, none of which tells what a right signature would be. Each is counted, and logged at
        most once a second with the address `remote` it came from.
        """
        try:
            return self._check(headers, body)
        except AuthenticationError as error:
            self._note(error, headers, remote)
            raise

    def failures(self) -> list[tuple[str, int]]:
        """Return how many requests were refused, by reason."""
        return list(self._failures.items())

    def _note(self, error: AuthenticationError, headers: CIMultiDictProxy[str], remote: str) -> None:
        reason = error.reason
        self._failures[reason] = self._failures.get(reason, 0) + 1
        now_ms = self._clock.now_ms()
        if 0 <= now_ms - self._logged_ms.get(reason, -_LOG_INTERVAL_MS) < _LOG_INTERVAL_MS:
            return
        self._logged_ms[reason] = now_ms
        # Only ids that are known are logged: a caller may have put his secret where the id belongs.
        named = headers.get("Authorization", "").partition("Credential=")[2].partition("/")[0]
        _log.warning(
            "authentication failed reason=%s access_key_id=%s remote=%s failures=%d",
            reason,
            named if named in self._access_keys else "unknown",
            remote,
            self._failures[reason],
        )

    def _check(self, headers: CIMultiDictProxy[str], body: bytes | bytearray) -> str:
        authorization = _parse(headers.get("Authorization"))
        time = headers.get("X-Amz-Date", "")
        if not _TIME.fullmatch(time):
            raise IncompleteSignatureError("Authorization header requires an 'X-Amz-Date' header, YYYYMMDDTHHMMSSZ")
        missing = [name for name in _SIGNED_ALWAYS if name in headers and name not in authorization.signed_headers]
        if missing:
            raise InvalidSignatureError(f"These headers must be signed: {', '.join(missing)}")
        if authorization.access_key_id not in self._access_keys:
            raise UnrecognizedClientError("The security token included in the request is invalid.")
        self._check_time(time)
        expected = f"{time[:8]}/{self._region}/{_SERVICE}/{_SCOPE_END}"
        if authorization.scope != expected:
            raise InvalidSignatureError(f"Credential should be scoped to {expected}, not {authorization.scope[:128]}")
        request = _canonical_request(headers, authorization.signed_headers, body)
        to_sign = "\n".join((_ALGORITHM, time, expected, sha256(request).hexdigest()))
        signing_key = self._signing_key(authorization.access_key_id, authorization.date)
        signature = hmac.new(signing_key, to_sign.encode(), sha256).hexdigest()
        if not hmac.compare_digest(signature.encode(), authorization.signature.encode()):
            raise InvalidSignatureError(
                "The request signature we calculated does not match the signature you provided. Check your AWS Secret "
                "Access Key and signing method. Consult the service documentation for details."
            )
        return authorization.access_key_id

    def _check_time(self, text: str) -> None:
        try:
            time = datetime.strptime(text, _TIME_FORMAT).replace(tzinfo=UTC)
        except ValueError as error:
            raise IncompleteSignatureError(f"The X-Amz-Date header {text} is no time") from error
        now = datetime.fromtimestamp(self._clock.now_ms() // _MILLIS_PER_SECOND, UTC)
        skew = (time - now).total_seconds()
        if abs(skew) > CLOCK_SKEW_SECONDS:
            word = "not yet current" if skew > 0 else "expired"
            raise InvalidSignatureError(
                f"Signature {word}: {text} is more than {CLOCK_SKEW_SECONDS} seconds from {now.strftime(_TIME_FORMAT)}"
            )

    def _make_signing_key(self, access_key_id: str, date: str) -> bytes:
        key = f"AWS4{self._access_keys[access_key_id]}".encode()
        for part in (date, self._region, _SERVICE, _SCOPE_END):
            key = hmac.digest(key, part.encode(), "sha256")
        return key


def _parse(header: str | None) -> _Authorization:
    if not header:
        raise MissingAuthenticationTokenError("Request is missing Authentication Token")
    if not header.isascii():
        raise IncompleteSignatureError("The Authorization header must be ASCII")
    algorithm, _, rest = header.partition(" ")
    if algorithm != _ALGORITHM:
        raise IncompleteSignatureError(f"Unsupported AWS 'algorithm': '{algorithm[:64]}', only {_ALGORITHM} is taken")
    parts = {}
    for part in rest.split(","):
        name, _, value = part.strip().partition("=")
        parts[name] = value
    absent = [name for name in ("Credential", "Signature", "SignedHeaders") if not parts.get(name)]
    if absent:
        raise IncompleteSignatureError(
            " ".join(f"Authorization header requires '{name}' parameter." for name in absent)
        )
    fields = parts["Credential"].split("/")
    if len(fields) != _CREDENTIAL_FIELDS:
        raise IncompleteSignatureError(
            f"Credential must have exactly {_CREDENTIAL_FIELDS} slash-delimited elements: "
            "keyid/date/region/service/term"
        )
    id_, date, region, service, end = fields
    signed = tuple(parts["SignedHeaders"].split(";"))
    return _Authorization(id_, date, region, service, end, signed, parts["Signature"])


def _canonical_request(headers: CIMultiDictProxy[str], signed: tuple[str, ...], body: bytes | bytearray) -> bytes:
    lines = ["POST", "/", ""]
    for name in signed:
        values = (" ".join(value.split()) for value in headers.getall(name, ()))
        lines.append(f"{name}:{','.join(values)}")
    lines += ["", ";".join(signed), sha256(body).hexdigest()]
    # Whatever bytes the headers were sent as.
    return "\n".join(lines).encode(errors="surrogateescape")
