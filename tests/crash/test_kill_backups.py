"""SIGKILL of a real broker around its backups: what is in them, and what is left of one that was not finished.

A backup holds exactly the records up to its sequence number and the items they make, whatever was being written
meanwhile, and it is there once it was acknowledged. What was being made, or restored, when the process ended is gone.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from headrace.v1.backup_service_pb2 import (
    BackupDetails,
    CreateBackupRequest,
    DeleteBackupRequest,
    ListBackupsRequest,
    PointInTimeRecoverySpecification,
    RestoreTableFromBackupRequest,
    RestoreTableToPointInTimeRequest,
    UpdateContinuousBackupsRequest,
)
from headrace.v1.table_service_pb2 import DeleteTableRequest, ListTablesRequest
from tests.broker_process import BrokerProcess
from tests.crash.load import Load
from tests.guarantees import (
    Logged,
    Write,
    check_atomic,
    check_durable,
    check_ordered,
    check_reliable,
    check_resumable,
    logged,
)
from tests.restoring import backup_folder, restored
from tests.rpc import Client, TestTable, batch, put
from tests.values import Key, item

pytestmark = [pytest.mark.crash, pytest.mark.timeout(900)]

JOIN_TIMEOUT_S = 20.0
# A log grows over all lives of the broker, and each round compares the whole of it.
ROUNDS_PER_TABLE = 3


def check_backup(
    backup: BackupDetails, crashing: BrokerProcess, folder: Path, table: TestTable, log: list[Logged]
) -> list[Logged]:
    """Restores a backup and compares its log with the whole one; returns the records that it holds."""
    with restored(backup_folder(crashing, backup.backup_arn), folder) as copy, Client(copy.grpc) as client:
        held = logged(client.records(table.stream_arn))
        prefix = [entry for entry in log if entry.sequence_number <= backup.sequence_number]
        check_resumable(prefix, [held])
        check_ordered(held)
        check_atomic(held, client.contents(table), table.key_names)
        # It goes on as a store does.
        client.put(table.name, item(id="after"))
        (last,) = logged(client.records(table.stream_arn))[len(held) :]
        assert last.sequence_number > backup.sequence_number
    shutil.rmtree(folder)
    return held


def begin_anew(crashing: BrokerProcess, table: TestTable, rng: random.Random) -> tuple[TestTable, Load]:
    """A new table instead of the one so far, and writers for it."""
    with Client(crashing.grpc) as client:
        client.tables.DeleteTable(DeleteTableRequest(table_name=table.name))
        table = client.create_table()
    return table, Load(table.name, rng)


class BackupUnderLoad:
    """Makes a backup while a load runs, and later kills the broker."""

    def __init__(self, broker: BrokerProcess, load: Load, rng: random.Random) -> None:
        self._broker = broker
        self._load = load
        self._rng = rng
        self.acknowledged_before: set[tuple[Key, str]] = set()
        self.made = BackupDetails()

    def __call__(self) -> None:
        self.acknowledged_before = {identity(write) for write in self._load.writes if write.acknowledged}
        with Client(self._broker.grpc) as client:
            self.made = client.backups.CreateBackup(CreateBackupRequest(backup_name="under-load")).backup_details
        # More is written, of which the backup must hold nothing. The moment of the crash is what the test varies.
        threading.Event().wait(self._rng.uniform(0, 0.2))
        self._broker.kill()

    @property
    def writes(self) -> list[Write]:
        """All writes of the load, acknowledged if they were when the backup was asked for."""
        return [
            # A delete leaves nothing to tell it from others by.
            replace(write, acknowledged=write.outcome is not None and identity(write) in self.acknowledged_before)
            for write in self._load.writes
        ]


def identity(write: Write) -> tuple[Key, str]:
    return write.key, repr(write.outcome)


async def test_a_backup_made_under_load_is_exactly_a_prefix(
    crashing: BrokerProcess, table: TestTable, rng: random.Random, rounds: int, tmp_path: Path
) -> None:
    load = Load(table.name, rng)
    for round_ in range(max(2, rounds // 4)):
        if round_ and round_ % ROUNDS_PER_TABLE == 0:
            table, load = begin_anew(crashing, table, rng)
        backup = BackupUnderLoad(crashing, load, rng)
        await load.run(crashing.grpc, backup, after_s=rng.uniform(0, 0.4))
        crashing.start()
        with Client(crashing.grpc) as client:
            log = logged(client.records(table.stream_arn))
            check_durable(load.writes, client.contents(table))
            check_reliable(load.writes, log, table.key_names)
        held = check_backup(backup.made, crashing, tmp_path / f"restored-{round_}", table, log)
        check_reliable(backup.writes, held, table.key_names)
        assert len(backup.acknowledged_before) > 0
        assert len(held) < len(log)


class BackupMaker(threading.Thread):
    """Makes one backup after the other until the broker is gone."""

    def __init__(self, endpoint: str) -> None:
        super().__init__(daemon=True)
        self._endpoint = endpoint
        self.made: list[BackupDetails] = []
        self.has_made_one = threading.Event()
        self.failure: grpc.RpcError | None = None

    def run(self) -> None:
        try:
            with Client(self._endpoint) as client:
                while True:
                    request = CreateBackupRequest(backup_name="again-and-again")
                    self.made.append(client.backups.CreateBackup(request).backup_details)
                    self.has_made_one.set()
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                self.failure = error


async def test_a_backup_that_a_crash_broke_off_is_gone_and_acknowledged_ones_are_there(
    crashing: BrokerProcess, table: TestTable, rng: random.Random, rounds: int, tmp_path: Path
) -> None:
    load = Load(table.name, rng)
    for round_ in range(max(2, rounds // 4)):
        if round_ and round_ % ROUNDS_PER_TABLE == 0:
            table, load = begin_anew(crashing, table, rng)
        maker = BackupMaker(crashing.grpc)
        maker.start()
        # However slow the machine is: there is one to look at.
        assert await asyncio.to_thread(maker.has_made_one.wait, JOIN_TIMEOUT_S)
        await load.run(crashing.grpc, crashing.kill, after_s=rng.uniform(0.05, 0.4))
        await asyncio.to_thread(maker.join, JOIN_TIMEOUT_S)
        assert maker.failure is None
        crashing.start()
        with Client(crashing.grpc) as client:
            listed = list(client.backups.ListBackups(ListBackupsRequest()).backup_summaries)
            log = logged(client.records(table.stream_arn))
        # One more may be there than was acknowledged.
        assert listed[: len(maker.made)] == maker.made
        assert len(listed) <= len(maker.made) + 1
        folders = {path.name for path in (crashing.data / "backups").iterdir()}
        assert folders == {backup.backup_arn.rpartition("/")[2] for backup in listed}
        check_backup(rng.choice(listed), crashing, tmp_path / f"restored-{round_}", table, log)
        with Client(crashing.grpc) as client:
            for backup in listed:
                client.backups.DeleteBackup(DeleteBackupRequest(backup_arn=backup.backup_arn))


def test_a_restore_that_a_crash_broke_off_is_gone(crashing: BrokerProcess, table: TestTable) -> None:
    with Client(crashing.grpc) as client:
        client.write_items(
            *(
                batch(table.name, *(put(item(id=f"{first + n}")) for n in range(1000)))
                for first in range(0, 20_000, 1000)
            )
        )
        whole = client.contents(table)
        backup = client.backups.CreateBackup(CreateBackupRequest(backup_name="whole")).backup_details
        request = RestoreTableFromBackupRequest(
            backup_arn=backup.backup_arn, source_table_name=table.name, target_table_name="copy"
        )
        with ThreadPoolExecutor() as threads:
            # Of two to one name one is refused, and then the other is under way.
            restores = [threads.submit(code_of, client, request) for _ in range(2)]
            refused = next(as_completed(restores, JOIN_TIMEOUT_S))
            names = list(client.tables.ListTables(ListTablesRequest()).table_names)
            crashing.kill()
        (broken_off,) = set(restores) - {refused}
        assert refused.result() is grpc.StatusCode.FAILED_PRECONDITION
        assert broken_off.result() is grpc.StatusCode.UNAVAILABLE
    assert names == [table.name]
    crashing.start()
    with Client(crashing.grpc) as client:
        assert list(client.tables.ListTables(ListTablesRequest()).table_names) == [table.name]
        client.backups.RestoreTableFromBackup(request)
        assert client.contents(TestTable(name="copy", stream_arn="", key_names=table.key_names)) == whole


def test_a_restore_to_a_point_in_time_that_a_crash_broke_off_is_gone_with_its_copy_of_the_store(
    crashing: BrokerProcess, table: TestTable
) -> None:
    with Client(crashing.grpc) as client:
        for first in range(0, 20_000, 1000):
            client.write_items(batch(table.name, *(put(item(id=f"{first + n}")) for n in range(1000))))
        specification = PointInTimeRecoverySpecification(point_in_time_recovery_enabled=True)
        recovery = client.backups.UpdateContinuousBackups(
            UpdateContinuousBackupsRequest(table_name=table.name, point_in_time_recovery_specification=specification)
        ).continuous_backups_description.point_in_time_recovery_description
        whole = client.contents(table)
        for first in range(0, 10_000, 1000):
            client.write_items(batch(table.name, *(put(item(id=f"{first + n}", again=1)) for n in range(1000))))
        request = RestoreTableToPointInTimeRequest(
            source_table_name=table.name,
            target_table_name="copy",
            restore_date_time=recovery.latest_restorable_date_time,
        )
        with ThreadPoolExecutor() as threads:
            # Of two to one name one is refused, and then the other is under way.
            restores = [threads.submit(code_of, client, request) for _ in range(2)]
            refused = next(as_completed(restores, JOIN_TIMEOUT_S))
            crashing.kill()
        (broken_off,) = set(restores) - {refused}
        assert refused.result() is grpc.StatusCode.FAILED_PRECONDITION
        assert broken_off.result() is grpc.StatusCode.UNAVAILABLE
    crashing.start()
    with Client(crashing.grpc) as client:
        assert list(client.tables.ListTables(ListTablesRequest()).table_names) == [table.name]
        assert list((crashing.data / "backups").iterdir()) == []
        client.backups.RestoreTableToPointInTime(request)
        assert client.contents(TestTable(name="copy", stream_arn="", key_names=table.key_names)) == whole


def code_of(
    client: Client, request: RestoreTableFromBackupRequest | RestoreTableToPointInTimeRequest
) -> grpc.StatusCode:
    try:
        if isinstance(request, RestoreTableFromBackupRequest):
            client.backups.RestoreTableFromBackup(request)
        else:
            client.backups.RestoreTableToPointInTime(request)
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK
