"""A small file system that fills up, by the node's own writes and by others'."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from headrace.v1.table_service_pb2 import DeleteTableRequest
from tests.broker_process import BrokerProcess
from tests.conftest import eventually
from tests.rpc import Client, TestTable, batch, put, refused
from tests.values import item

pytestmark = [pytest.mark.crash, pytest.mark.timeout(180)]

DISK: Final = "size=128m"
TEXT: Final = "x" * 100_000
ITEMS_PER_BATCH: Final = 4
# Far more than fits.
BATCHES_MAX: Final = 400
FAST_UPKEEP: Final = {"HEADRACE_UPKEEP_INTERVAL_SECONDS": "0.2"}
DISK_FULL: Final = "DISK_FULL"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 128 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", DISK, "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a file system cannot be mounted here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def free_bytes(disk: Path) -> int:
    found = os.statvfs(disk)
    return found.f_bavail * found.f_frsize


def noise(number: int) -> str:
    """A text that does not get smaller on disk."""
    return os.urandom(50_000).hex() + str(number)


def fill(client: Client, table: TestTable, life: str) -> set[str]:
    """Writes until the node refuses; returns what it has acknowledged.

    That may be a little later again: what was in the log moves into files, which are smaller.
    """
    written: set[str] = set()
    for number in range(BATCHES_MAX):
        ids = [f"{life}-{number}-{n}" for n in range(ITEMS_PER_BATCH)]
        (response,) = client.write_items(batch(table.name, *(put(item(id=id_, text=noise(number))) for id_ in ids)))
        reasons = [result.error.reason if result.HasField("error") else "" for result in response.results]
        written |= {id_ for id_, reason in zip(ids, reasons, strict=True) if not reason}
        if any(reasons):
            assert set(reasons) <= {"", DISK_FULL}
            return written
    raise AssertionError("the disk never was full")


def test_a_full_disk_refuses_what_grows_and_serves_the_rest_over_restarts(disk: Path) -> None:
    with BrokerProcess(disk, environment=FAST_UPKEEP) as process, Client(process.grpc, deadline_s=60) as client:
        kept, large = client.create_table(), client.create_table(view_type=None)
        client.put(kept.name, item(id="kept"))
        written = fill(client, large, "first")
        assert len(written) > 100
        assert free_bytes(disk) > 0
        assert client.get(kept.name, item(id="kept")) is not None
        process.kill()
    with BrokerProcess(disk, environment=FAST_UPKEEP) as process, Client(process.grpc, deadline_s=60) as client:
        assert {key[0][1] for key in client.contents(large)} == written
        fill(client, large, "second")
        with refused("RESOURCE_EXHAUSTED", DISK_FULL, says="nearly full"):
            # The last refusal was a moment ago; a table file that is finished in it makes room for one more.
            for _ in range(BATCHES_MAX):
                client.put(large.name, item(id="refused", text=noise(0)))
        client.delete(kept.name, item(id="kept"))
        assert len(client.records(kept.stream_arn)) == 2
        client.tables.DeleteTable(DeleteTableRequest(table_name=large.name))

        # A table that is deleted gives its room back.
        eventually(lambda: free_bytes(disk) > 80 * 2**20, timeout_s=20)
        client.put(kept.name, item(id="again"))
        assert process.stop() == 0


def test_a_node_starts_on_a_disk_without_a_free_byte_for_reading_and_deleting(disk: Path) -> None:
    with BrokerProcess(disk, environment=FAST_UPKEEP) as process, Client(process.grpc, deadline_s=60) as client:
        table = client.create_table()
        client.write_items(batch(table.name, *(put(item(id=str(n), text=TEXT)) for n in range(20))))
        process.kill()
    with (disk / "other").open("wb") as other:
        # Of somebody else, to the last byte.
        while (free := free_bytes(disk)) > 0:
            other.write(bytes(free))
            other.flush()
    with BrokerProcess(disk, environment=FAST_UPKEEP) as process, Client(process.grpc, deadline_s=60) as client:
        assert len(client.contents(table)) == 20
        with refused("RESOURCE_EXHAUSTED", DISK_FULL):
            client.put(table.name, item(id="refused"))
        client.delete(table.name, item(id="0"))
        assert len(client.contents(table)) == 19
        (disk / "other").unlink()
        eventually(lambda: _puts(client, table))
        assert process.stop() == 0


def _puts(client: Client, table: TestTable) -> bool:
    client.put(table.name, item(id="again"))
    return True
