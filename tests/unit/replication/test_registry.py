from __future__ import annotations

from pathlib import Path

import pytest

from broker.model.errors import ResourceInUseError, ResourceNotFoundError
from broker.replication.registry import Replica, ReplicaProgress, Replicas, ReplicaStatus
from broker.storage.commit import Group
from broker.storage.rocks import Store
from tests.unit.engine import NOON_MS, Engine, FakeClock, running

REPLICA = Replica(
    name="copy", source_table_name="pets", target_endpoint="south:7420", target_table_name="pets", create_time_ms=0
)
PROGRESS = ReplicaProgress(
    status=ReplicaStatus.ACTIVE,
    target_region="south",
    snapshot_sequence_number="0" * 21,
    bootstrap_start_key=b"\x00\xff",
    items_copied=2**63 - 1,
    last_error="caf\u00e9",
)


def keep_consumer(_group: Group, _name: str) -> None:
    """The consumer group is not what these tests are about."""


@pytest.fixture
def replicas(engine: Engine) -> Replicas:
    return Replicas(engine.store, engine.committer)


async def test_a_new_replica_is_still_to_be_begun(replicas: Replicas) -> None:
    made = await replicas.create(REPLICA)
    assert made == replicas.get("copy")
    assert (made.create_time_ms, made.progress) == (NOON_MS, ReplicaProgress())
    assert made.progress.status == ReplicaStatus.CREATING
    assert made.group_name == "replica:copy"


async def test_a_name_is_given_once(replicas: Replicas) -> None:
    await replicas.create(REPLICA)
    with pytest.raises(ResourceInUseError, match="copy") as taken:
        await replicas.create(REPLICA)
    assert taken.value.metadata == {"replica_name": "copy"}


async def test_a_report_replaces_the_progress_and_nothing_else(replicas: Replicas) -> None:
    made = await replicas.create(REPLICA)
    await replicas.report("copy", PROGRESS)
    assert replicas.get("copy").progress == PROGRESS
    await replicas.report("copy", ReplicaProgress())
    assert replicas.get("copy") == made


async def test_what_is_not_there_is_named(replicas: Replicas) -> None:
    with pytest.raises(ResourceNotFoundError, match="copy"):
        replicas.get("copy")
    for change in (replicas.report("copy", PROGRESS), replicas.delete("copy", keep_consumer)):
        with pytest.raises(ResourceNotFoundError) as missing:
            await change
        assert missing.value.metadata == {"replica_name": "copy"}


async def test_replicas_are_there_after_a_restart(tmp_path: Path) -> None:
    store = Store(tmp_path)
    async with running(store, FakeClock()) as engine:
        replicas = Replicas(store, engine.committer)
        await replicas.create(REPLICA)
        await replicas.report("copy", PROGRESS)
        kept = replicas.get("copy")
    store.close()
    del store, engine, replicas
    again = Store(tmp_path)
    async with running(again, FakeClock()) as engine:
        assert Replicas(again, engine.committer).get("copy") == kept
        await Replicas(again, engine.committer).delete("copy", keep_consumer)
        assert Replicas(again, engine.committer).documents.all() == []
    again.close()
