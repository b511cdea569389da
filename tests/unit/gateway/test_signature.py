"""Signatures, judged by requests that AWS's own signer has signed."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import sha256

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from multidict import CIMultiDict, CIMultiDictProxy

from broker.gateway.aws.signature import CLOCK_SKEW_SECONDS, Signatures
from broker.model.errors import (
    HeadraceError,
    IncompleteSignatureError,
    InvalidSignatureError,
    MissingAuthenticationTokenError,
    UnrecognizedClientError,
)

REGION = "eu-north-1"
KEYS = {"AKIDONE": "one/secret+key", "AKIDTWO": "two"}
BODY = b'{"TableName": "orders"}'


class FixedClock:
    def __init__(self, now_ms: int) -> None:
        self.now = now_ms

    def now_ms(self) -> int:
        return self.now


def signed(
    key: str = "AKIDONE",
    secret: str | None = None,
    region: str = REGION,
    service: str = "dynamodb",
    headers: Mapping[str, str] | None = None,
    data: bytes = BODY,
) -> dict[str, str]:
    """The headers of a request as botocore sends them now."""
    request = AWSRequest(
        method="POST",
        url="http://127.0.0.1:7421/",
        data=data,
        headers={"X-Amz-Target": "DynamoDB_20120810.PutItem", "Host": "127.0.0.1:7421", **(headers or {})},
    )
    SigV4Auth(Credentials(key, secret or KEYS.get(key, "x")), service, region).add_auth(request)
    return dict(request.headers.items())


def check(headers: Mapping[str, str], body: bytes = BODY, *, later_s: float = 0) -> str:
    now = datetime.now(UTC).timestamp() + later_s
    signatures = Signatures(KEYS, REGION, FixedClock(int(now * 1000)))
    return signatures.check(CIMultiDictProxy(CIMultiDict(headers)), body)


def test_what_the_signer_of_aws_signs_is_taken() -> None:
    assert check(signed("AKIDONE")) == "AKIDONE"
    assert check(signed("AKIDTWO")) == "AKIDTWO"
    # Spaces within a value are one, those around it none.
    assert check(signed(headers={"X-Amz-Meta": "  several   words "})) == "AKIDONE"


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"X-Amz-Target": "DynamoDB_20120810.DeleteItem"}, InvalidSignatureError, "does not match"),
        ({"Host": "example.org"}, InvalidSignatureError, "does not match"),
        ({"X-Amz-Date": "20200101T000000Z"}, InvalidSignatureError, "expired"),
        ({"X-Amz-Date": "yesterday"}, IncompleteSignatureError, "X-Amz-Date"),
        ({"X-Amz-Date": "20201301T000000Z"}, IncompleteSignatureError, "no time"),
        ({"X-Amz-Security-Token": "added"}, InvalidSignatureError, "must be signed"),
        ({"Authorization": ""}, MissingAuthenticationTokenError, "missing"),
        ({"Authorization": "Basic QQ=="}, IncompleteSignatureError, "algorithm"),
        ({"Authorization": "AWS4-HMAC-SHA256 Credential=a"}, IncompleteSignatureError, "'SignedHeaders'"),
        (
            {"Authorization": "AWS4-HMAC-SHA256 Credential=a/b, SignedHeaders=host;x-amz-date, Signature=c"},
            IncompleteSignatureError,
            "5 slash-delimited",
        ),
    ],
)
def test_a_request_that_was_changed_is_refused(
    changes: Mapping[str, str], error: type[HeadraceError], words: str
) -> None:
    with pytest.raises(error, match=words):
        check({**signed(), **changes})


def test_another_body_secret_key_region_or_service_is_refused() -> None:
    with pytest.raises(InvalidSignatureError, match="does not match"):
        check(signed(), BODY + b" ")
    with pytest.raises(InvalidSignatureError, match="does not match"):
        check(signed(secret=KEYS["AKIDTWO"]))
    with pytest.raises(UnrecognizedClientError):
        check(signed("AKIDTHREE"))
    with pytest.raises(InvalidSignatureError, match=f"scoped to .*/{REGION}/dynamodb/aws4_request"):
        check(signed(region="us-south-1"))
    with pytest.raises(InvalidSignatureError, match="scoped to"):
        check(signed(service="sqs"))


# A header names the hash of some body; what counts is the hash of the body that came.
def test_a_body_is_judged_by_itself_and_not_by_the_hash_that_a_header_names() -> None:
    of_body, of_other = sha256(BODY).hexdigest(), sha256(BODY + b" ").hexdigest()
    told = signed(headers={"X-Amz-Content-SHA256": of_body})
    assert check(told) == "AKIDONE"
    with pytest.raises(InvalidSignatureError, match="does not match"):
        check(told, BODY + b" ")
    # The signer vouches for another body, as one would that has only seen the header.
    vouched = signed(headers={"X-Amz-Content-SHA256": of_other}, data=BODY + b" ")
    with pytest.raises(InvalidSignatureError, match="does not match"):
        check(vouched, BODY)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_signature_holds_for_five_minutes_both_ways(sign: int) -> None:
    headers = signed()
    assert check(headers, later_s=sign * (CLOCK_SKEW_SECONDS - 10))
    with pytest.raises(InvalidSignatureError, match="expired" if sign > 0 else "not yet current"):
        check(headers, later_s=sign * (CLOCK_SKEW_SECONDS + 10))


@pytest.mark.parametrize("name", ["host", "x-amz-date", "x-amz-target"])
def test_what_says_who_when_and_what_must_be_signed(name: str) -> None:
    headers = signed()
    headers["Authorization"] = headers["Authorization"].replace(f"{name};", "").replace(f";{name}", "")
    with pytest.raises(InvalidSignatureError, match=f"must be signed: {name}"):
        check(headers)


def test_headers_of_any_bytes_are_refused_and_no_fault() -> None:
    headers = signed()
    with pytest.raises(IncompleteSignatureError, match="ASCII"):
        check({**headers, "Authorization": headers["Authorization"] + "\udcff"})
    with pytest.raises(InvalidSignatureError, match="does not match"):
        check({**headers, "X-Amz-Target": "\udcff"})


def test_refusals_are_counted_and_logged_once_a_second_without_secrets(caplog: pytest.LogCaptureFixture) -> None:
    clock = FixedClock(int(datetime.now(UTC).timestamp() * 1000))
    signatures = Signatures(KEYS, REGION, clock)

    def refuse(headers: Mapping[str, str]) -> None:
        with pytest.raises(HeadraceError):
            signatures.check(CIMultiDictProxy(CIMultiDict(headers)), BODY, "192.0.2.7")

    forged = signed("AKIDONE", "a-wrong-secret")
    for _ in range(3):
        refuse(forged)
    # Somebody has put the secret where the id belongs.
    refuse(signed("one/secret+key".replace("/", "-"), "AKIDONE"))
    refuse({})
    assert dict(signatures.failures()) == {
        "INVALID_SIGNATURE": 3,
        "UNRECOGNIZED_CLIENT": 1,
        "MISSING_AUTHENTICATION_TOKEN": 1,
    }
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [
        "authentication failed reason=INVALID_SIGNATURE access_key_id=AKIDONE remote=192.0.2.7 failures=1",
        "authentication failed reason=UNRECOGNIZED_CLIENT access_key_id=unknown remote=192.0.2.7 failures=1",
        "authentication failed reason=MISSING_AUTHENTICATION_TOKEN access_key_id=unknown remote=192.0.2.7 failures=1",
    ]
    caplog.clear()
    clock.now += 1000
    refuse(forged)
    assert [record.getMessage().rpartition(" ")[2] for record in caplog.records] == ["failures=4"]


def test_without_keys_everybody_is_refused() -> None:
    signatures = Signatures({}, REGION, FixedClock(int(datetime.now(UTC).timestamp() * 1000)))
    with pytest.raises(UnrecognizedClientError):
        signatures.check(CIMultiDictProxy(CIMultiDict(signed())), BODY)
