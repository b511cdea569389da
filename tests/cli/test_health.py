"""`headrace health`, against a grpc.health.v1 server and against none."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from click.testing import CliRunner
from grpc_health.v1 import health as health_server
from grpc_health.v1 import health_pb2, health_pb2_grpc

from headrace.cli import main


@pytest.fixture
def servicer() -> health_server.HealthServicer:
    return health_server.HealthServicer()


@pytest.fixture
def endpoint(servicer: health_server.HealthServicer) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(max_workers=1))
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(grace=None).wait(timeout=5)


def test_a_serving_broker_is_healthy(endpoint: str) -> None:
    result = CliRunner().invoke(main, ["health", "--endpoint", endpoint, "-o", "json"])

    assert result.exit_code == 0
    assert json.loads(result.stdout) == {"endpoint": endpoint, "status": "SERVING"}


def test_the_endpoint_can_come_from_the_environment(endpoint: str) -> None:
    result = CliRunner().invoke(main, ["health"], env={"HEADRACE_ENDPOINT": endpoint})

    assert (result.exit_code, result.stdout) == (0, f"{endpoint} SERVING\n")


def test_a_draining_broker_is_not_healthy(endpoint: str, servicer: health_server.HealthServicer) -> None:
    servicer.set("", health_pb2.HealthCheckResponse.NOT_SERVING)

    result = CliRunner().invoke(main, ["health", "--endpoint", endpoint])

    assert (result.exit_code, result.stdout) == (1, f"{endpoint} NOT_SERVING\n")


def test_no_broker_is_one_line_on_stderr_and_exit_code_1() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{unused.getsockname()[1]}"

        result = CliRunner().invoke(main, ["health", "--endpoint", endpoint])

    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: UNAVAILABLE: ")
    assert result.stderr.count("\n") == 1
