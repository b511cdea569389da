"""Capacity units, and the throughput that limits them. Source: Developer Guide, read/write capacity, burst capacity."""

from __future__ import annotations

from dataclasses import replace

import pytest

from broker.model.errors import ProvisionedThroughputExceededError, ThrottlingError
from broker.model.tables import Index, ProjectionType, SomeThroughput, Table, Throughput
from broker.tables.capacity import CapacityMetering, Consumption, Kind, ThroughputLimiter, read_units, write_units
from tests.unit.engine import AT, ID, FakeClock

KB = 1024
TEN = Throughput(read_units=10, write_units=10)
ONE = Throughput(read_units=1, write_units=1)
LOCAL = Index(
    name="local", id=2, is_global=False, partition_keys=(ID,), sort_keys=(AT,), projection_type=ProjectionType.KEYS_ONLY
)
GLOBAL = replace(LOCAL, name="global", id=3, is_global=True, sort_keys=(), throughput=ONE)
ON_DEMAND = Table(name="pets", id=1, uuid="", create_time_ms=0, partition_key=ID, sort_key=AT, indexes=(LOCAL,))
PROVISIONED = replace(ON_DEMAND, throughput=TEN, indexes=(LOCAL, GLOBAL))


@pytest.mark.parametrize(
    ("size", "units"), [(0, 1), (1, 1), (4 * KB, 1), (4 * KB + 1, 2), (8 * KB, 2), (400 * KB, 100), (1024 * KB, 256)]
)
def test_a_read_unit_is_4_kb_and_half_if_eventual_and_double_in_a_transaction(size: int, units: int) -> None:
    assert read_units(size, consistent=True) == units
    assert read_units(size, consistent=False) == units / 2
    assert read_units(size, consistent=True, transactional=True) == units * 2
    assert read_units(size, consistent=False, transactional=True) == units * 2


@pytest.mark.parametrize(("size", "units"), [(0, 1), (1, 1), (KB, 1), (KB + 1, 2), (400 * KB, 400)])
def test_a_write_unit_is_1_kb_and_double_in_a_transaction(size: int, units: int) -> None:
    assert write_units(size) == units
    assert write_units(size, transactional=True) == units * 2


def test_a_consumption_adds_up_by_table_and_index() -> None:
    consumption = Consumption(PROVISIONED)
    assert (consumption.total.reads, consumption.total.writes) == (0, 0)
    consumption.read(0.5)
    consumption.read(1)
    consumption.write(2)
    consumption.write(3, LOCAL)
    consumption.write(1, GLOBAL)
    consumption.write(1, GLOBAL)
    assert (consumption.own.reads, consumption.own.writes) == (1.5, 2)
    assert {name: units.writes for name, (_, units) in consumption.indexes.items()} == {"local": 3, "global": 2}
    assert (consumption.total.reads, consumption.total.writes) == (1.5, 7)


def test_300_seconds_of_unused_units_may_be_used_at_once_and_no_more() -> None:
    limiter = ThroughputLimiter(FakeClock())
    limiter.charge(1, 10, Kind.WRITE, 2_999)
    assert limiter.wait_ms(1, 10, Kind.WRITE) == 0
    limiter.charge(1, 10, Kind.WRITE, 1)
    assert limiter.wait_ms(1, 10, Kind.WRITE) == 100
    # The other kinds, and other tables, are not concerned.
    assert limiter.wait_ms(1, 10, Kind.READ) == 0
    assert limiter.wait_ms(2, 10, Kind.WRITE) == 0


def test_a_bucket_fills_with_time_up_to_300_seconds_worth() -> None:
    clock = FakeClock()
    limiter = ThroughputLimiter(clock)
    limiter.charge(1, 10, Kind.READ, 3_000)
    clock.ms += 100
    assert limiter.wait_ms(1, 10, Kind.READ) == 0
    limiter.charge(1, 10, Kind.READ, 1)
    assert limiter.wait_ms(1, 10, Kind.READ) == 100
    clock.ms += 1_000_000
    limiter.charge(1, 10, Kind.READ, 3_000)
    assert limiter.wait_ms(1, 10, Kind.READ) == 100


def test_what_an_operation_takes_beyond_the_bucket_is_owed_until_it_has_filled_again() -> None:
    clock = FakeClock()
    limiter = ThroughputLimiter(clock)
    limiter.charge(1, 10, Kind.WRITE, 3_000 + 19)
    assert limiter.wait_ms(1, 10, Kind.WRITE) == 2_000
    clock.ms += 1_900
    assert limiter.wait_ms(1, 10, Kind.WRITE) == 100
    clock.ms += 100
    assert limiter.wait_ms(1, 10, Kind.WRITE) == 0


def test_a_clock_that_is_set_back_neither_fills_nor_freezes_a_bucket() -> None:
    clock = FakeClock()
    limiter = ThroughputLimiter(clock)
    limiter.charge(1, 10, Kind.WRITE, 3_000)
    clock.ms -= 3_600_000
    assert limiter.wait_ms(1, 10, Kind.WRITE) == 100
    clock.ms += 100
    assert limiter.wait_ms(1, 10, Kind.WRITE) == 0


def test_new_throughput_holds_at_once() -> None:
    limiter = ThroughputLimiter(FakeClock())
    assert limiter.wait_ms(1, 10, Kind.WRITE) == 0
    limiter.charge(1, 1, Kind.WRITE, 300)
    assert limiter.wait_ms(1, 1, Kind.WRITE) == 1_000
    limiter.forget(1)
    assert limiter.wait_ms(1, 1, Kind.WRITE) == 0


def test_a_refusal_says_which_level_was_exceeded_and_when_to_come_again() -> None:
    metering = CapacityMetering(FakeClock())
    metering.consume(consumed(PROVISIONED, writes=3_000))
    with pytest.raises(ProvisionedThroughputExceededError, match="for the table was exceeded") as refused:
        metering.admit_write(PROVISIONED)
    assert refused.value.retry_after_ms == 100
    assert refused.value.metadata == {"kind": "write", "limit": "10"}


def test_a_stream_is_read_at_twice_the_rate_of_writes() -> None:
    clock = FakeClock()
    metering = CapacityMetering(clock)
    metering.consume_stream_read(PROVISIONED, 2 * 10 * 300)
    with pytest.raises(ProvisionedThroughputExceededError):
        metering.admit_stream_read(PROVISIONED)
    clock.ms += 50
    metering.admit_stream_read(PROVISIONED)


def consumed(table: Table, *, reads: float = 0, writes: float = 0, index: Index | None = None) -> Consumption:
    consumption = Consumption(table)
    consumption.read(reads, index)
    consumption.write(writes, index)
    return consumption


def test_without_provisioned_throughput_nothing_is_refused_and_all_is_counted() -> None:
    metering = CapacityMetering(FakeClock())
    for _ in range(2):
        metering.admit_write(ON_DEMAND)
        metering.admit_read(ON_DEMAND, LOCAL)
        metering.admit_stream_read(ON_DEMAND)
        metering.consume(consumed(ON_DEMAND, reads=1e9, writes=1e9))
        metering.consume(consumed(ON_DEMAND, reads=0.5, index=LOCAL))
        metering.consume_stream_read(ON_DEMAND, 10**9)
    (usage,) = metering.all()
    assert (usage.table_name, usage.read_units, usage.write_units) == ("pets", 2e9 + 1, 2e9)
    assert usage.throttled_requests == 0
    metering.forget(ON_DEMAND.id)
    assert metering.all() == []


def test_a_local_index_is_limited_with_its_table() -> None:
    metering = CapacityMetering(FakeClock())
    metering.consume(consumed(PROVISIONED, reads=3_000, index=LOCAL))
    for index in (None, LOCAL):
        with pytest.raises(ProvisionedThroughputExceededError, match="for the table"):
            metering.admit_read(PROVISIONED, index)
    metering.admit_read(PROVISIONED, GLOBAL)
    assert metering.all()[0].throttled_requests == 2


def test_a_global_index_without_room_refuses_the_writes_of_its_table_but_not_its_reads() -> None:
    metering = CapacityMetering(FakeClock())
    metering.admit_write(PROVISIONED)
    metering.consume(consumed(PROVISIONED, writes=300, index=GLOBAL))
    with pytest.raises(ProvisionedThroughputExceededError, match="one or more global secondary indexes") as refused:
        metering.admit_write(PROVISIONED)
    assert refused.value.metadata["index_name"] == "global"
    metering.admit_read(PROVISIONED)
    metering.admit_read(PROVISIONED, GLOBAL)


def with_maximum(*, reads: int | None = None, writes: int | None = None) -> Table:
    return replace(ON_DEMAND, on_demand_maximum=SomeThroughput(read_units=reads, write_units=writes))


def test_a_table_on_demand_takes_300_seconds_of_its_maximum_at_once_and_no_more() -> None:
    metering, table = CapacityMetering(FakeClock()), with_maximum(reads=5, writes=2)
    metering.consume(consumed(table, reads=1_499.5, writes=599))
    metering.admit_read(table)
    metering.admit_write(table)
    metering.consume(consumed(table, reads=0.5, writes=1))
    with pytest.raises(ThrottlingError, match="exceeds the maximum OnDemandThroughput") as refused:
        metering.admit_read(table)
    assert (refused.value.reason, refused.value.retry_after_ms) == ("THROTTLING", 200)
    with pytest.raises(ThrottlingError) as refused:
        metering.admit_write(table)
    assert refused.value.metadata == {"kind": "write", "limit": "2"}
    assert metering.all()[0].throttled_requests == 2


def test_a_maximum_of_one_kind_does_not_limit_the_other() -> None:
    metering, table = CapacityMetering(FakeClock()), with_maximum(writes=1)
    metering.consume(consumed(table, reads=1e9, writes=300))
    metering.admit_read(table)
    metering.admit_stream_read(table)
    with pytest.raises(ThrottlingError):
        metering.admit_write(table)


def test_a_local_index_is_limited_by_the_maximum_of_its_table() -> None:
    metering, table = CapacityMetering(FakeClock()), with_maximum(reads=1)
    metering.consume(consumed(table, reads=300, index=LOCAL))
    with pytest.raises(ThrottlingError):
        metering.admit_read(table, LOCAL)


def test_a_global_index_has_a_maximum_of_its_own_also_if_its_table_has_none() -> None:
    limited = replace(GLOBAL, throughput=None, on_demand_maximum=SomeThroughput(read_units=1, write_units=1))
    table = replace(ON_DEMAND, indexes=(LOCAL, limited))
    metering = CapacityMetering(FakeClock())
    metering.admit_write(table)
    metering.consume(consumed(table, reads=300, writes=300, index=limited))
    with pytest.raises(ThrottlingError) as refused:
        metering.admit_write(table)
    assert refused.value.metadata["index_name"] == "global"
    with pytest.raises(ThrottlingError):
        metering.admit_read(table, limited)
    metering.admit_read(table)
