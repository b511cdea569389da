"""A block of a table file that cannot be read: whoever needs it is told, and the rest is served."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import urllib.request
from pathlib import Path
from typing import Final

import grpc
import pytest

from tests.broker_process import BrokerProcess
from tests.conftest import eventually
from tests.rpc import Client, batch, put, refused
from tests.values import item

pytestmark = [pytest.mark.crash, pytest.mark.timeout(120)]

# RocksDB's own default of a block is 4 KB: each of these fills some alone.
TEXT: Final = "abcdefghij" * 2_000
OPEN: Final = ("--auth", "none")


def call(process: BrokerProcess, operation: str, request: object) -> tuple[int, dict[str, str]]:
    """A call of AWS's protocol: its status and its answer."""
    headers = {"X-Amz-Target": f"DynamoDB_20120810.{operation}", "Content-Type": "application/x-amz-json-1.0"}
    connection = http.client.HTTPConnection(process.http, timeout=10)
    try:
        connection.request("POST", "/", json.dumps(request), headers)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def test_a_broken_block_is_data_loss_on_both_protocols_and_the_rest_is_served(tmp_path: Path) -> None:
    process = BrokerProcess(tmp_path, extra=OPEN).start()
    with Client(process.grpc) as client:
        table = client.create_table(view_type=None)
        client.write_items(batch(table.name, *(put(item(id=str(n), text=TEXT + str(n))) for n in range(100))))
    # A clean stop moves everything into table files.
    assert process.stop() == 0
    largest = max(process.data.glob("*.sst"), key=lambda file: file.stat().st_size)
    content = bytearray(largest.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 8] = bytes(byte ^ 0xFF for byte in content[middle : middle + 8])
    largest.write_bytes(content)
    with process.start(), Client(process.grpc) as client:
        readable: list[str] = []
        broken: list[str] = []
        for number in range(100):
            (readable if _is_readable(client, table.name, str(number)) else broken).append(str(number))
        assert broken
        assert len(readable) > 50
        with refused("DATA_LOSS", "DATA_LOSS", says="damaged"):
            client.get(table.name, item(id=broken[0]))
        with refused("DATA_LOSS", "DATA_LOSS", says="damaged"):
            client.delete(table.name, item(id=broken[0]))
        key = {"TableName": table.name, "Key": {"id": {"S": broken[0]}}}
        for operation in ("GetItem", "DeleteItem"):
            status, answer = call(process, operation, key)
            assert (status, answer["__type"].rpartition("#")[2]) == (500, "InternalServerError")
            assert "damaged" in answer["message"]
        client.put(table.name, item(id="new"))
        client.delete(table.name, item(id=readable[0]))
        text = urllib.request.urlopen(f"http://{process.http}/metrics", timeout=10).read().decode()
        count = re.search(r"^headrace_damaged_reads_total (\S+)$", text, re.MULTILINE)
        assert count is not None
        assert float(count[1]) >= len(broken)
        assert "Traceback" not in process.log_tail()
        assert process.stop() == 0


def _is_readable(client: Client, table_name: str, id_: str) -> bool:
    try:
        return client.get(table_name, item(id=id_)) is not None
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.DATA_LOSS:
            return False
        raise


@pytest.mark.parametrize("what", ["removed", "replaced"])
def test_a_data_folder_that_goes_stops_the_node_with_a_clear_word(tmp_path: Path, what: str) -> None:
    process = BrokerProcess(tmp_path).start()
    process.data.rename(tmp_path / "moved")
    if what == "replaced":
        shutil.copytree(tmp_path / "moved", process.data)
    assert process.wait() == 1
    eventually(lambda: f"was {what} while the node had it open" in process.log_tail())
    assert "Traceback" not in process.log_tail()
    assert not (process.data / "durable-note").exists() or what == "replaced"
