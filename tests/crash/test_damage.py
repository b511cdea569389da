"""A data folder whose files are damaged or missing, of a real broker that was killed.

For each kind of file, and each place in it, the broker has every acknowledged write, or says that it has not and does
not start.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc
import pytest

from headrace.v1.consumer_service_pb2 import (
    STARTING_POSITION_TRIM_HORIZON,
    ConsumeRequest,
    ConsumeStart,
)
from headrace.v1.replication_service_pb2 import CreateReplicaRequest, ListReplicasRequest
from headrace.v1.table_service_pb2 import DescribeTableRequest
from tests.broker_process import BrokerProcess
from tests.conftest import eventually
from tests.rpc import AFTER_SEQUENCE_NUMBER, Client, TestTable, batch, put, refused
from tests.values import item

pytestmark = [pytest.mark.crash, pytest.mark.timeout(300)]

NOTE: Final = "durable-note"
# More than a memtable holds, so that some of it is in a file and the log is in two.
LARGE_ITEMS: Final = 200
LARGE: Final = "x" * 390_000
LARGE_PER_BATCH: Final = 25
SMALL_ITEMS: Final = 400
SMALL_PER_BATCH: Final = 20


@dataclass(frozen=True, kw_only=True)
class Killed:
    """What a broker left that was killed, and what it had acknowledged."""

    data: Path
    table: TestTable
    large: TestTable
    small_ids: frozenset[str]
    last_number: str
    # An iterator at the end of the stream.
    shard_iterator: str


def noted_number(data: Path) -> int:
    """The sequence number of the durable note; its format is pinned by a golden test."""
    return int.from_bytes((data / NOTE).read_bytes()[9:17], "big")


def write_small(client: Client, table: TestTable, prefix: str) -> list[str]:
    ids = [f"{prefix}-{n}" for n in range(SMALL_ITEMS)]
    for start in range(0, SMALL_ITEMS, SMALL_PER_BATCH):
        # One call after the other: each is an entry of the log.
        client.write_items(
            batch(table.name, *(put(item(id=id_, text="y" * 100)) for id_ in ids[start : start + SMALL_PER_BATCH]))
        )
    return ids


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Killed:
    """A folder with two log files and a table file, all of it below the durable note."""
    process = BrokerProcess(
        tmp_path_factory.mktemp("killed"), environment={"HEADRACE_UPKEEP_INTERVAL_SECONDS": "0.1"}
    ).start()
    with Client(process.grpc, deadline_s=60) as client:
        table, large = client.create_table(), client.create_table(view_type=None)
        ids = write_small(client, table, "before")
        for start in range(0, LARGE_ITEMS, LARGE_PER_BATCH):
            wanted = (put(item(id=str(n), text=LARGE)) for n in range(start, start + LARGE_PER_BATCH))
            client.write_items(batch(large.name, *wanted))
        ids += write_small(client, table, "after")
        records = client.records(table.stream_arn)
        last = records[-1].sequence_number
        shard_iterator = client.iterator(table.stream_arn, AFTER_SEQUENCE_NUMBER, last)
    eventually(lambda: noted_number(process.data) == int(last))
    eventually(lambda: len(list(process.data.glob("*.sst"))) > 0)
    process.kill()
    assert len(list(process.data.glob("*.log"))) == 2
    return Killed(
        data=process.data,
        table=table,
        large=large,
        small_ids=frozenset(ids),
        last_number=last,
        shard_iterator=shard_iterator,
    )


@pytest.fixture
def copied(killed: Killed, tmp_path: Path) -> Path:
    """A copy of the folder to be damaged. Files that nobody appends to are shared until they are touched."""
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    for file in killed.data.iterdir():
        if file.is_file():
            link = os.link if file.suffix in (".sst", ".log") else shutil.copyfile
            link(file, data / file.name)
    (data / "backups").mkdir(mode=0o700)
    return data


def own(path: Path) -> Path:
    """The file as a copy of its own, that may be changed."""
    copy = path.with_suffix(".copy")
    shutil.copyfile(path, copy)
    return copy.replace(path)


def flip(share: float) -> Callable[[Path], None]:
    """Changes 8 bytes at a part of a file's length."""

    def damage(path: Path) -> None:
        content = bytearray(own(path).read_bytes())
        at = min(int(len(content) * share), len(content) - 1)
        content[at : at + 8] = bytes(byte ^ 0xFF for byte in content[at : at + 8])
        path.write_bytes(content)

    return damage


def flip_end(path: Path) -> None:
    flip((path.stat().st_size - 8) / path.stat().st_size)(path)


def zero(path: Path) -> None:
    """Zeroes a page in the middle, as a file system does that has lost it."""
    content = bytearray(own(path).read_bytes())
    at = len(content) // 2 // 4096 * 4096
    content[at : at + 4096] = bytes(4096)
    path.write_bytes(content)


def halve(path: Path) -> None:
    os.truncate(own(path), path.stat().st_size // 2)


def remove(path: Path) -> None:
    path.unlink()


def started(data: Path, *extra: str) -> str | BrokerProcess:
    """The broker on a folder, or the one line with which it refused to start."""
    process = BrokerProcess(data.parent, extra=extra)
    before = process.log_size()
    try:
        return process.start()
    except AssertionError:
        said = process.log_tail(before)
        if "Traceback" in said or not said.splitlines()[-1].startswith("headrace: "):
            raise
        return said.splitlines()[-1]


@contextmanager
def running(data: Path, *extra: str) -> Iterator[BrokerProcess]:
    process = started(data, *extra)
    assert isinstance(process, BrokerProcess), process
    with process:
        yield process


def has_all(killed: Killed, process: BrokerProcess) -> bool:
    """Whether a broker has every acknowledged write; asserts that it says so if a part cannot be read."""
    with Client(process.grpc, deadline_s=60) as client:
        try:
            small = {key[0][1] for key in client.contents(killed.table)}
            large = client.contents(killed.large)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.DATA_LOSS:
                return False
            raise
        assert small == killed.small_ids
        assert len(large) == LARGE_ITEMS
        assert [record.sequence_number for record in client.records(killed.table.stream_arn)][-1] == killed.last_number
    return True


LOST: Final = "has lost acknowledged writes"


@pytest.mark.parametrize(
    ("which", "damage"),
    [
        (0, flip(0.5)),
        (0, halve),
        (0, remove),
        (-1, flip(0.001)),
        (-1, flip(0.5)),
        (-1, flip_end),
        (-1, zero),
        (-1, halve),
        (-1, remove),
    ],
)
def test_a_damaged_log_is_refused(killed: Killed, copied: Path, which: int, damage: Callable[[Path], None]) -> None:
    damage(sorted(copied.glob("*.log"))[which])
    line = started(copied)
    assert isinstance(line, str)
    assert LOST in line
    assert "--accept-loss" in line
    # It names what was durable.
    assert killed.last_number in line


@pytest.mark.parametrize(
    ("pattern", "damage"),
    [
        ("*.sst", flip(0.5)),
        ("*.sst", flip_end),
        ("*.sst", remove),
        ("MANIFEST-*", flip(0.5)),
        ("MANIFEST-*", flip_end),
        ("MANIFEST-*", halve),
        ("MANIFEST-*", remove),
        ("CURRENT", flip(0.5)),
        ("CURRENT", halve),
        ("CURRENT", remove),
        ("OPTIONS-*", flip(0.5)),
        ("OPTIONS-*", remove),
        ("IDENTITY", flip(0.5)),
        ("rocksdict-config.json", flip(0.5)),
        ("rocksdict-config.json", remove),
        (NOTE, flip(0.5)),
        (NOTE, halve),
        (NOTE, remove),
    ],
)
def test_another_damaged_file_loses_nothing_in_silence(
    killed: Killed, copied: Path, pattern: str, damage: Callable[[Path], None]
) -> None:
    damage(max(copied.glob(pattern)))
    process = started(copied)
    if isinstance(process, str):
        assert str(copied) in process
        assert pattern != NOTE
        return
    with process:
        # A block of a table file that cannot be read is told to whoever reads it.
        assert has_all(killed, process) or pattern == "*.sst"
        eventually(lambda: noted_number(copied) == int(killed.last_number))


def test_a_refusal_changes_nothing_so_that_the_next_start_says_the_same(copied: Path) -> None:
    flip(0.5)(max(copied.glob("*.log")))
    line = started(copied)
    assert isinstance(line, str)
    logs = [(file.name, file.stat().st_size) for file in copied.glob("*.log")]
    assert started(copied) == line
    assert [(file.name, file.stat().st_size) for file in copied.glob("*.log")] == logs


def test_a_folder_with_nothing_but_the_note_is_refused(copied: Path) -> None:
    for file in copied.iterdir():
        if file.is_file() and file.name != NOTE:
            file.unlink()
    line = started(copied)
    assert isinstance(line, str)
    assert "has lost its store" in line


def test_a_torn_tail_that_was_never_synced_is_no_loss(killed: Killed, copied: Path) -> None:
    newest = own(max(copied.glob("*.log")))
    with newest.open("ab") as file:
        # The head of an entry of 1,000 bytes, and the first 100 of them.
        file.write(b"\x01\x02\x03\x04\xe8\x03\x01" + b"z" * 100)
    with running(copied) as process:
        assert has_all(killed, process)


# Without a note, only what lies behind the damage tells that it is not the end.
def test_damage_in_the_middle_is_found_without_a_note(copied: Path) -> None:
    (copied / NOTE).unlink()
    flip(0.9)(max(copied.glob("*.log")))
    line = started(copied)
    assert isinstance(line, str)
    assert LOST in line
    assert "lie behind that place" in line


def test_after_an_accepted_loss_nobody_takes_the_new_log_for_the_old(killed: Killed, copied: Path) -> None:
    flip(0.5)(max(copied.glob("*.log")))
    old = killed.table.stream_arn
    with running(copied, "--accept-loss") as process, Client(process.grpc) as client:
        with refused("NOT_FOUND", "RESOURCE_NOT_FOUND"):
            list(client.read(killed.shard_iterator))
        with refused("NOT_FOUND", "RESOURCE_NOT_FOUND"):
            client.iterator(old)
        described = client.tables.DescribeTable(DescribeTableRequest(table_name=killed.table.name)).table
        renewed = described.latest_stream_arn
        assert renewed != old
        left = [record.sequence_number for record in client.records(renewed)]
        assert left
        assert left[-1] < killed.last_number
        client.put(killed.table.name, item(id="new"))
        numbers = [record.sequence_number for record in client.records(renewed)]
        assert numbers[:-1] == left
        # No number is given again.
        assert numbers[-1] > killed.last_number
    # It was accepted once: the next start has nothing to accept.
    with running(copied) as process, Client(process.grpc) as client:
        assert [record.sequence_number for record in client.records(renewed)] == numbers


def test_a_group_of_an_old_stream_is_told_after_an_accepted_loss(tmp_path: Path) -> None:
    with BrokerProcess(tmp_path, environment={"HEADRACE_UPKEEP_INTERVAL_SECONDS": "0.1"}) as process:
        with Client(process.grpc) as client:
            table = client.create_table()
            write_small(client, table, "a")
            start = ConsumeRequest(
                start=ConsumeStart(
                    table_name=table.name, group_name="group", starting_position=STARTING_POSITION_TRIM_HORIZON
                )
            )
            call = client.consumers.Consume(iter([start]))
            next(call)
            call.cancel()
            write_small(client, table, "b")
            last = client.records(table.stream_arn)[-1].sequence_number
        eventually(lambda: noted_number(process.data) >= int(last))
        process.kill()
        flip(0.9)(max(process.data.glob("*.log")))
    with (
        BrokerProcess(tmp_path, extra=("--accept-loss",)) as process,
        Client(process.grpc) as client,
        refused("INVALID_ARGUMENT", "VALIDATION", says="reads another stream"),
    ):
        list(client.consumers.Consume(iter([start])))


# A peer that copied the table again would delete from the copy what the source has lost.
def test_replicas_end_with_an_accepted_loss_and_leave_their_copies(tmp_path: Path) -> None:
    with BrokerProcess(tmp_path, environment={"HEADRACE_UPKEEP_INTERVAL_SECONDS": "0.1"}) as process:
        with Client(process.grpc) as client:
            table = client.create_table()
            client.replication.CreateReplica(
                CreateReplicaRequest(replica_name="copy", source_table_name=table.name, target_endpoint="127.0.0.1:1")
            )
            write_small(client, table, "a")
            last = client.records(table.stream_arn)[-1].sequence_number
        eventually(lambda: noted_number(process.data) >= int(last))
        process.kill()
        flip(0.9)(max(process.data.glob("*.log")))
    with BrokerProcess(tmp_path, extra=("--accept-loss",)) as process, Client(process.grpc) as client:
        assert not client.replication.ListReplicas(ListReplicasRequest()).replicas
        assert f"a replica ends, and its copy stays as it is replica=copy table={table.name}" in process.log_tail()
