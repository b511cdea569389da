"""Brokers and clients for the tests of AWS's protocol. The clients are AWS's own, told nothing but an address."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from contextlib import closing
from http.client import HTTPConnection
from typing import Any

import boto3
import pytest
from botocore.config import Config

from tests.broker_process import BrokerProcess

REGION = "eu-north-1"
# A refusal is to be seen, not tried again.
ONE_ATTEMPT = Config(retries={"total_max_attempts": 1}, connect_timeout=10, read_timeout=15)

_TIMEOUT_S = 10
_UNIQUE = itertools.count(1)


@pytest.fixture(scope="session")
def open_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    """A broker that lets anybody in, shared by all tests of this process."""
    extra = ("--auth", "none")
    with BrokerProcess(tmp_path_factory.mktemp("aws"), region=REGION, extra=extra) as process:
        yield process


@pytest.fixture(scope="session")
def made(open_broker: BrokerProcess) -> Callable[..., Any]:
    """Makes a client of a service of AWS: made("dynamodb")."""

    def make(service: str, **more: Any) -> Any:
        return boto3.client(service, **{**connection(open_broker), **more})

    return make


@pytest.fixture(scope="session")
def dynamodb(made: Callable[..., Any]) -> Any:
    """boto3's client of DynamoDB."""
    return made("dynamodb")


@pytest.fixture(scope="session")
def streams(made: Callable[..., Any]) -> Any:
    """boto3's client of DynamoDB Streams."""
    return made("dynamodbstreams")


@pytest.fixture(scope="session")
def resource(open_broker: BrokerProcess) -> Any:
    """boto3's resource of DynamoDB."""
    return boto3.resource("dynamodb", **connection(open_broker))


@pytest.fixture
def orders(dynamodb: Any) -> str:
    """A new table with the key (id, line), two indexes and a stream of both images."""
    return create_orders(dynamodb)


def connection(broker: BrokerProcess) -> dict[str, Any]:
    """What boto3 is to be told of a broker."""
    return {
        "endpoint_url": f"http://{broker.http}",
        "region_name": broker.region,
        "aws_access_key_id": "AKIDEXAMPLE",
        "aws_secret_access_key": "secret",
        "config": ONE_ATTEMPT,
    }


def post(broker: BrokerProcess, target: str, content: object) -> tuple[int, dict[str, Any]]:
    """Status and body of a request that no client of AWS would send."""
    headers = {"X-Amz-Target": target, "Content-Type": "application/x-amz-json-1.0"}
    host, port = broker.http.split(":")
    connection_ = HTTPConnection(host, int(port), timeout=_TIMEOUT_S)
    with closing(connection_):
        connection_.request("POST", "/", json.dumps(content), headers)
        response = connection_.getresponse()
        # Some operations answer with nothing.
        body: dict[str, Any] = json.loads(response.read() or b"{}")
        return response.status, body


def create_orders(dynamodb: Any) -> str:
    """Makes a table as the fixture `orders` does; returns its name."""
    name = f"orders-{next(_UNIQUE)}"
    dynamodb.create_table(
        TableName=name,
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}, {"AttributeName": "line", "KeyType": "RANGE"}],
        AttributeDefinitions=[
            {"AttributeName": "id", "AttributeType": "S"},
            {"AttributeName": "line", "AttributeType": "N"},
            {"AttributeName": "state", "AttributeType": "S"},
        ],
        GlobalSecondaryIndexes=[
            {
                "IndexName": "by_state",
                "KeySchema": [{"AttributeName": "state", "KeyType": "HASH"}],
                "Projection": {"ProjectionType": "ALL"},
            }
        ],
        LocalSecondaryIndexes=[
            {
                "IndexName": "line_state",
                "KeySchema": [
                    {"AttributeName": "id", "KeyType": "HASH"},
                    {"AttributeName": "state", "KeyType": "RANGE"},
                ],
                "Projection": {"ProjectionType": "KEYS_ONLY"},
            }
        ],
        BillingMode="PAY_PER_REQUEST",
        StreamSpecification={"StreamEnabled": True, "StreamViewType": "NEW_AND_OLD_IMAGES"},
    )
    dynamodb.get_waiter("table_exists").wait(TableName=name)
    return name
