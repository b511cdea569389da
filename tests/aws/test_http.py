"""What real nodes answer around AWS's protocol: to health checks, to browsers, to clients that compress."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from tests.aws.conftest import REGION
from tests.broker_process import BrokerProcess

PAGE = "http://localhost:3000"
TIMEOUT_S = 10


@pytest.fixture(scope="module")
def signed_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    """A broker that lets in who signs, and nobody has a key."""
    with BrokerProcess(tmp_path_factory.mktemp("signed"), region=REGION, extra=("--auth", "sigv4")) as process:
        yield process


def ask(
    broker: BrokerProcess, method: str, body: bytes = b"", headers: Mapping[str, str] | None = None
) -> tuple[int, Mapping[str, str], bytes]:
    with closing(HTTPConnection(broker.http, timeout=TIMEOUT_S)) as connection:
        connection.request(method, "/", body, dict(headers or {}))
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read()


def target(operation: str) -> dict[str, str]:
    return {"X-Amz-Target": f"DynamoDB_20120810.{operation}", "Content-Type": "application/x-amz-json-1.0"}


def test_a_balancer_that_is_set_up_for_dynamodb_finds_the_node_healthy(open_broker: BrokerProcess) -> None:
    status, _, body = ask(open_broker, "GET")
    assert (status, body.strip()) == (200, f"healthy: dynamodb.{REGION}.amazonaws.com".encode())


def test_a_put_may_come_compressed(open_broker: BrokerProcess, dynamodb: Any, orders: str) -> None:
    key = {"id": {"S": "gzipped"}, "line": {"N": "1"}}
    body = gzip.compress(json.dumps({"TableName": orders, "Item": {**key, "text": {"S": "x" * 10_000}}}).encode())
    assert ask(open_broker, "POST", body, {**target("PutItem"), "Content-Encoding": "gzip"})[0] == 200
    assert dynamodb.get_item(TableName=orders, Key=key)["Item"]["text"] == {"S": "x" * 10_000}


def test_pages_may_call_a_node_that_checks_signatures_and_learn_why_they_are_refused(
    signed_broker: BrokerProcess,
) -> None:
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-amz-target,authorization"}
    status, headers, _ = ask(signed_broker, "OPTIONS", headers={"Origin": PAGE, **asked})
    assert (status, headers["Access-Control-Allow-Origin"]) == (200, "*")
    assert headers["Access-Control-Allow-Headers"] == "x-amz-target,authorization"
    status, headers, body = ask(signed_broker, "POST", b"{}", {**target("ListTables"), "Origin": PAGE})
    assert (status, headers["Access-Control-Allow-Origin"]) == (400, "*")
    assert b"MissingAuthenticationTokenException" in body


def test_no_page_may_call_a_node_that_lets_anybody_in(open_broker: BrokerProcess) -> None:
    assert ask(open_broker, "OPTIONS", headers={"Origin": PAGE})[0] == 403
    status, _, body = ask(open_broker, "POST", b"{}", {**target("ListTables"), "Origin": PAGE})
    assert (status, b"cors_origins" in body) == (403, True)
    assert ask(open_broker, "POST", b"{}", target("ListTables"))[0] == 200


def test_the_pages_that_a_setting_names_may_call(tmp_path: Path) -> None:
    extra = ("--auth", "none", "--cors-origins", f"https://other.example,{PAGE}")
    with BrokerProcess(tmp_path, region=REGION, extra=extra) as broker:
        status, headers, _ = ask(broker, "POST", b"{}", {**target("ListTables"), "Origin": PAGE})
        assert (status, headers["Access-Control-Allow-Origin"]) == (200, PAGE)


def test_malformed_requests_and_refused_callers_are_counted(signed_broker: BrokerProcess) -> None:
    def counted() -> tuple[float, float]:
        with closing(HTTPConnection(signed_broker.http, timeout=TIMEOUT_S)) as connection:
            connection.request("GET", "/metrics")
            lines = connection.getresponse().read().decode().splitlines()
        numbers = {
            name: float(value)
            for name, _, value in (line.rpartition(" ") for line in lines if not line.startswith("#"))
        }
        return (
            numbers["headrace_http_malformed_requests_total"],
            numbers.get('headrace_authentication_failures_total{reason="INCOMPLETE_SIGNATURE"}', 0.0),
        )

    malformed, refused = counted()
    with closing(HTTPConnection(signed_broker.http, timeout=TIMEOUT_S)) as connection:
        connection.connect()
        connection.sock.sendall(b"NONSENSE\r\n\r\n")
        assert b" 400 " in connection.sock.recv(1000)
    assert ask(signed_broker, "POST", b"{}", {**target("ListTables"), "Authorization": "Basic QQ=="})[0] == 400
    assert counted() == (malformed + 1, refused + 1)
