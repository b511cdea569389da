"""Limits of requests that are looked at first, on both ports, each with its last allowed value and the next one."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import grpc
import pytest

from headrace.v1 import item_service_pb2 as pb
from headrace.v1.attribute_value_pb2 import AttributeValue, Item
from tests.broker_process import BrokerProcess
from tests.conftest import eventually
from tests.rpc import Client, Refusal, TestTable, refusal_of, refused
from tests.values import item

MIB: Final = 1024 * 1024
ITEM_ENCODED_BYTES_MAX: Final = 1_792 * 1024
PLACEHOLDERS_MAX: Final = 8_192
PLACEHOLDERS_BYTES_MAX: Final = 2 * MIB
MESSAGE_BYTES_MAX: Final = 5 * MIB
BODY_BYTES_MAX: Final = 8 * MIB
UNDER_WAY_BYTES_MAX: Final = 256 * MIB
TIMEOUT_S: Final = 60.0
UNDER_WAY_METRIC: Final = 'headrace_request_bytes_under_way{port="http"} '
TOO_LARGE: Final = "Item size has exceeded the maximum allowed size"
UNUSED_NAMES: Final = "Value provided in ExpressionAttributeNames unused in expressions"
UNUSED_VALUES: Final = "Value provided in ExpressionAttributeValues unused in expressions"


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    folder: Path = tmp_path_factory.mktemp("limits")
    with BrokerProcess(folder, extra=("--auth", "none")) as running:
        yield running


@pytest.fixture(scope="module")
def client(process: BrokerProcess) -> Iterator[Client]:
    with Client(process.grpc) as stubs:
        yield stubs


@pytest.fixture(scope="module")
def table(client: Client) -> TestTable:
    return client.create_table()


def posted(process: BrokerProcess, operation: str, body: bytes) -> tuple[int, str]:
    """The status of an answer over HTTP, and its message."""
    host, _, port = process.http.rpartition(":")
    with contextlib.closing(http.client.HTTPConnection(host, int(port), timeout=TIMEOUT_S)) as connection:
        connection.request("POST", "/", body, {"X-Amz-Target": f"DynamoDB_20120810.{operation}"})
        answer = connection.getresponse()
        content = json.loads(answer.read())
        return answer.status, content.get("message", "")


def of_encoded_size(size: int) -> Item:
    """An item of so many bytes as a message, and far fewer by DynamoDB's count: numbers of many zeros."""
    whole = item(id="a")
    values = whole.attributes["l"].l.values
    values.extend([AttributeValue(n="1" + "0" * 120)] * (size // 126))
    last = values.add(s="x" * 1_000)
    last.s = "x" * (1_000 + size - whole.ByteSize())
    assert whole.ByteSize() == size
    return whole


def test_an_item_as_a_message_has_its_largest_size_and_not_a_byte_more(client: Client, table: TestTable) -> None:
    largest = of_encoded_size(ITEM_ENCODED_BYTES_MAX)
    client.items.PutItem(pb.PutItemRequest(table_name=table.name, item=largest))
    read = client.items.GetItem(pb.GetItemRequest(table_name=table.name, key=item(id="a")))
    assert read.item == largest
    larger = of_encoded_size(ITEM_ENCODED_BYTES_MAX + 1)
    with refused("INVALID_ARGUMENT", "VALIDATION", field="item", limit=ITEM_ENCODED_BYTES_MAX, says=TOO_LARGE):
        client.items.PutItem(pb.PutItemRequest(table_name=table.name, item=larger))


@pytest.mark.parametrize("kind", ["names", "values"])
def test_a_call_has_so_many_placeholders_and_not_one_more(client: Client, table: TestTable, kind: str) -> None:
    def update(count: int) -> pb.UpdateItemRequest:
        request = pb.UpdateItemRequest(table_name=table.name, key=item(id="b"), update_expression="SET n = :v0")
        request.expression_attribute_values[":v0"].n = "1"
        for number in range(1, count):
            if kind == "names":
                request.expression_attribute_names[f"#n{number}"] = "n"
            else:
                request.expression_attribute_values[f":v{number}"].n = "1"
        return request

    unused = UNUSED_NAMES if kind == "names" else UNUSED_VALUES
    with refused("INVALID_ARGUMENT", "VALIDATION", says=unused):
        client.items.UpdateItem(update(PLACEHOLDERS_MAX))
    with refused("INVALID_ARGUMENT", "VALIDATION", limit=PLACEHOLDERS_MAX, says=f"{PLACEHOLDERS_MAX} entries"):
        client.items.UpdateItem(update(PLACEHOLDERS_MAX + 1))


@pytest.mark.parametrize("kind", ["Names", "Values"])
def test_a_request_over_http_has_so_many_placeholders_and_not_one_more(
    process: BrokerProcess, table: TestTable, kind: str
) -> None:
    def update(count: int) -> bytes:
        content: dict[str, Any] = {
            "TableName": table.name,
            "Key": {"id": {"S": "b"}},
            "UpdateExpression": "SET n = :v0",
            "ExpressionAttributeValues": {":v0": {"N": "1"}},
        }
        if kind == "Names":
            content["ExpressionAttributeNames"] = {f"#n{number}": "n" for number in range(1, count)}
        else:
            content["ExpressionAttributeValues"] |= {f":v{number}": {"N": "1"} for number in range(1, count)}
        return json.dumps(content).encode()

    status, message = posted(process, "UpdateItem", update(PLACEHOLDERS_MAX))
    assert (status, message.partition(":")[0]) == (400, UNUSED_NAMES if kind == "Names" else UNUSED_VALUES)
    status, message = posted(process, "UpdateItem", update(PLACEHOLDERS_MAX + 1))
    assert status == 400
    assert f"at most {PLACEHOLDERS_MAX} entries" in message


# A value counts as large as its message: here its tag, its length and its text.
@pytest.mark.parametrize(("beyond", "says"), [(0, "Item size"), (1, f"at most {PLACEHOLDERS_BYTES_MAX} bytes")])
def test_the_values_of_a_request_have_so_many_bytes_and_not_one_more(
    process: BrokerProcess, client: Client, table: TestTable, beyond: int, says: str
) -> None:
    value = AttributeValue(s="x" * (PLACEHOLDERS_BYTES_MAX + beyond - 4))
    assert value.ByteSize() == PLACEHOLDERS_BYTES_MAX + beyond
    request = pb.UpdateItemRequest(table_name=table.name, key=item(id="b"), update_expression="SET t = :v")
    request.expression_attribute_values[":v"].CopyFrom(value)
    with refused("INVALID_ARGUMENT", "VALIDATION", says=says):
        client.items.UpdateItem(request)
    content = {
        "TableName": table.name,
        "Key": {"id": {"S": "b"}},
        "UpdateExpression": "SET t = :v",
        "ExpressionAttributeValues": {":v": {"S": value.s}},
    }
    status, message = posted(process, "UpdateItem", json.dumps(content).encode())
    assert status == 400
    assert says in message


@pytest.mark.parametrize(("beyond", "says"), [(0, TOO_LARGE), (1, f"at most {MESSAGE_BYTES_MAX} bytes")])
def test_a_call_on_one_item_has_so_many_bytes_and_not_one_more(
    client: Client, table: TestTable, beyond: int, says: str
) -> None:
    request = pb.PutItemRequest(table_name=table.name, item=item(id="c", t=""))
    size = MESSAGE_BYTES_MAX + beyond
    request.item.attributes["t"].s = "x" * (size - 100)
    request.item.attributes["t"].s += "x" * (size - request.ByteSize())
    assert request.ByteSize() == size
    with refused("INVALID_ARGUMENT", "VALIDATION", says=says):
        client.items.PutItem(request)


@pytest.mark.parametrize(("beyond", "says"), [(0, TOO_LARGE), (1, f"at most {BODY_BYTES_MAX} bytes")])
def test_a_body_of_an_operation_on_one_item_has_so_many_bytes_and_not_one_more(
    process: BrokerProcess, table: TestTable, beyond: int, says: str
) -> None:
    head = json.dumps({"TableName": table.name, "Item": {"id": {"S": "c"}, "t": {"S": "#"}}})
    body = head.replace("#", "x" * (BODY_BYTES_MAX + beyond - len(head) + 1)).encode()
    assert len(body) == BODY_BYTES_MAX + beyond
    status, message = posted(process, "PutItem", body)
    assert status == 400
    assert says in message
    batch = json.dumps({"RequestItems": {table.name: [{"PutRequest": {"Item": {"id": {"S": "c"}}}}]}})
    padded = batch + " " * (BODY_BYTES_MAX + beyond - len(batch))
    assert posted(process, "BatchWriteItem", padded.encode())[0] == 200


def test_calls_beyond_256_mib_under_way_are_told_when_to_come_again(client: Client, table: TestTable) -> None:
    batch = pb.BatchWriteItemRequest()
    for _ in range(25):
        put = batch.operations.add().put
        put.table_name = table.name
        # Refused in the end; until then all its values are looked through.
        put.condition_expression = "attribute_exists(id)"
        for number in range(3_000):
            put.expression_attribute_values[f":v{number}"].s = "x" * 180
    data = batch.SerializeToString()
    at_once = 3 + UNDER_WAY_BYTES_MAX // len(data)
    channel: Any = client.channel
    call = channel.unary_unary("/headrace.v1.ItemService/BatchWriteItem")

    def refusal(_: int) -> Refusal:
        with pytest.raises(grpc.RpcError) as caught:
            call(data, timeout=TIMEOUT_S)
        return refusal_of(caught.value)

    with ThreadPoolExecutor(at_once) as pool:
        refusals = list(pool.map(refusal, range(at_once)))
    assert {each.reason for each in refusals} == {"VALIDATION", "THROTTLING"}
    told = [each for each in refusals if each.reason == "THROTTLING"]
    assert {each.code for each in told} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert {each.metadata["limit"] for each in told} == {str(UNDER_WAY_BYTES_MAX)}
    assert all(each.retry_delay_s for each in told)
    # Afterwards there is room again.
    client.items.PutItem(pb.PutItemRequest(table_name=table.name, item=item(id="d", t="x" * 20_000)))


def http_bytes_under_way(process: BrokerProcess) -> int:
    with urllib.request.urlopen(f"http://{process.http}/metrics", timeout=TIMEOUT_S) as answer:
        lines = answer.read().decode().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(UNDER_WAY_METRIC))


def wait_for_bytes_under_way(process: BrokerProcess, size: int) -> None:
    eventually(lambda: http_bytes_under_way(process) == size)


def test_bodies_beyond_256_mib_under_way_are_refused(process: BrokerProcess, table: TestTable) -> None:
    host, _, port = process.http.rpartition(":")
    size = 16 * MIB
    count = UNDER_WAY_BYTES_MAX // size
    head = f"POST / HTTP/1.1\r\nHost: {host}\r\nX-Amz-Target: DynamoDB_20120810.BatchWriteItem\r\n"
    most = head.encode() + f"Content-Length: {size}\r\n\r\n".encode() + b" " * (size - 1)
    # More than a node reads at once: a body that is there with its headers is taken in any case.
    body = b" " * (2 * MIB) + json.dumps({"TableName": table.name, "Key": {"id": {"S": "d"}}}).encode()
    with contextlib.ExitStack() as open_connections:
        for _ in range(count):
            connection = socket.create_connection((host, int(port)), TIMEOUT_S)
            open_connections.callback(connection.close)
            # All but its last byte: it is under way until that comes.
            connection.sendall(most)
        wait_for_bytes_under_way(process, count * (size - 1))
        status, answer = posted(process, "GetItem", body)
        assert status == 400
        assert "Too many bytes of requests are under way" in answer
    # Those who have left are not counted any more.
    wait_for_bytes_under_way(process, 0)
    assert posted(process, "GetItem", body)[0] == 200
