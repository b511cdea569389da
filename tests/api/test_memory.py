"""What refused requests leave behind in the memory of a broker: nothing, whatever the method and the port."""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import grpc
import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor

from headrace.v1 import (
    attribute_value_pb2,
    backup_service_pb2,
    consumer_service_pb2,
    item_service_pb2,
    replication_service_pb2,
    stream_service_pb2,
    table_service_pb2,
    trigger_service_pb2,
)
from tests.broker_process import BrokerProcess
from tests.conftest import eventually
from tests.rpc import Client

REQUESTS: Final = 200
# Each is refused; if each were kept, 200 of them would be 200 MB or more.
REQUEST_BYTES: Final = 1_000_000
GROWTH_MB_MAX: Final = 100
# Memory is given back when there is 256 MB more than before.
GROWTH_OF_BURST_MB_MAX: Final = 300
CALL_TIMEOUT_S: Final = 10.0
# Longer than a request for one item may be, and 640 MB at once.
LARGEST_BYTES: Final = 16 * 1024 * 1024
AT_ONCE: Final = 40
# Each asks for a text that lists begin after, which may be any.
TAKES_ANY_TEXT: Final = {
    "BackupService/ListBackups",
    "ConsumerService/ListConsumerGroups",
    "ReplicationService/ListReplicas",
    "TriggerService/ListTriggers",
}
TEXT: Final = "x" * REQUEST_BYTES

SERVICES: Final = [
    service
    for module in (
        table_service_pb2,
        item_service_pb2,
        stream_service_pb2,
        consumer_service_pb2,
        trigger_service_pb2,
        replication_service_pb2,
        backup_service_pb2,
    )
    for service in module.DESCRIPTOR.services_by_name.values()
]
METHODS: Final[dict[str, MethodDescriptor]] = {
    f"{service.name}/{method.name}": method for service in SERVICES for method in service.methods
}
OPERATIONS: Final[dict[str, Any]] = {
    "PutItem": {"TableName": "absent", "Item": {"id": {"S": TEXT}}},
    "UpdateItem": {"TableName": "absent", "Key": {"id": {"S": TEXT}}},
    "DeleteItem": {"TableName": "absent", "Key": {"id": {"S": TEXT}}},
    "GetItem": {"TableName": "absent", "Key": {"id": {"S": TEXT}}},
    "Query": {"TableName": "absent", "KeyConditionExpression": TEXT},
    "Scan": {"TableName": "absent", "FilterExpression": TEXT},
    "BatchGetItem": {"RequestItems": {"absent": {"Keys": [{"id": {"S": TEXT}}]}}},
    "BatchWriteItem": {"RequestItems": {"absent": [{"PutRequest": {"Item": {"id": {"S": TEXT}}}}]}},
    "TransactWriteItems": {"TransactItems": [{"Put": {"TableName": "absent", "Item": {"id": {"S": TEXT}}}}]},
    "TransactGetItems": {"TransactItems": [{"Get": {"TableName": "absent", "Key": {"id": {"S": TEXT}}}}]},
    "ExecuteStatement": {"Statement": TEXT},
    "BatchExecuteStatement": {"Statements": [{"Statement": TEXT}]},
    "ExecuteTransaction": {"TransactStatements": [{"Statement": TEXT}]},
    "CreateTable": {"TableName": TEXT},
    "DescribeTable": {"TableName": TEXT},
}


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    folder: Path = tmp_path_factory.mktemp("memory")
    with BrokerProcess(folder, extra=("--auth", "none")) as running:
        yield running


@pytest.fixture(scope="module")
def client(process: BrokerProcess) -> Iterator[Client]:
    with Client(process.grpc) as stubs:
        yield stubs


@pytest.fixture(scope="module")
def least_mb(process: BrokerProcess) -> float:
    """The memory of the broker before the first request: what one method left would hide what the next one leaves."""
    return memory_mb(process)


def memory_mb(process: BrokerProcess) -> float:
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024


def request_of(descriptor: Descriptor | None) -> bytes:
    """A large request that nearly any method must refuse: its first text is no name, key or expression."""
    assert descriptor is not None
    message: Any = message_factory.GetMessageClass(descriptor)()
    assert _fill(message)
    data: bytes = message.SerializeToString()
    return data


def _fill(message: Any) -> bool:
    for field in message.DESCRIPTOR.fields:
        if field.type == FieldDescriptor.TYPE_STRING:
            if field.is_repeated:
                getattr(message, field.name).append(TEXT)
            else:
                setattr(message, field.name, TEXT)
            return True
    for field in message.DESCRIPTOR.fields:
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        inner = getattr(message, field.name)
        if _fill(inner.add() if field.is_repeated else inner):
            return True
    return False


@pytest.mark.parametrize("name", METHODS)
def test_refused_calls_leave_nothing_in_memory(
    process: BrokerProcess, client: Client, least_mb: float, name: str
) -> None:
    method = METHODS[name]
    if not method.input_type.fields:
        pytest.skip("a request without fields is never large")
    path = f"/{method.containing_service.full_name}/{method.name}"
    channel: Any = client.channel
    request = request_of(method.input_type)

    def call() -> None:
        if method.client_streaming:
            list(channel.stream_stream(path)(iter((request,)), timeout=CALL_TIMEOUT_S))
        elif method.server_streaming:
            list(channel.unary_stream(path)(request, timeout=CALL_TIMEOUT_S))
        else:
            channel.unary_unary(path)(request, timeout=CALL_TIMEOUT_S)

    codes = []
    for _ in range(REQUESTS):
        try:
            call()
        except grpc.RpcError as error:
            codes.append(error.code())
    assert memory_mb(process) - least_mb < GROWTH_MB_MAX
    assert len(codes) == (0 if name in TAKES_ANY_TEXT else REQUESTS)
    assert set(codes) <= {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND}


@pytest.mark.parametrize("name", OPERATIONS)
def test_refused_operations_leave_nothing_in_memory(process: BrokerProcess, least_mb: float, name: str) -> None:
    body = json.dumps(OPERATIONS[name])
    host, _, port = process.http.rpartition(":")
    with contextlib.closing(http.client.HTTPConnection(host, int(port), timeout=CALL_TIMEOUT_S)) as connection:
        for _ in range(REQUESTS):
            connection.request("POST", "/", body, {"X-Amz-Target": f"DynamoDB_20120810.{name}"})
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 400
    assert memory_mb(process) - least_mb < GROWTH_MB_MAX


def test_refused_calls_at_once_leave_nothing_in_memory(process: BrokerProcess, client: Client, least_mb: float) -> None:
    item = attribute_value_pb2.Item(attributes={"id": attribute_value_pb2.AttributeValue(s="x" * LARGEST_BYTES)})
    request = item_service_pb2.PutItemRequest(table_name="absent", item=item)
    calls = [client.items.PutItem.future(request) for _ in range(AT_ONCE)]
    assert {call.code() for call in calls} == {grpc.StatusCode.INVALID_ARGUMENT}
    # The library of C keeps some of it for a while.
    eventually(lambda: memory_mb(process) - least_mb < GROWTH_OF_BURST_MB_MAX, timeout_s=30)
