"""Settings of tables: which values there may be, and what a change makes of them, with the times that tell of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from broker.model.errors import ValidationError
from broker.model.tables import (
    WARM_THROUGHPUT_DEFAULT,
    Encryption,
    SomeThroughput,
    Table,
    TableClass,
    Throughput,
    key_arn,
)
from broker.tables.definition import BillingMode, TableChange
from broker.tables.settings import check_encryption, on_demand_maximum, warm_throughput
from tests.unit.engine import ID, NOON_MS

DAY_MS = 86_400_000
# The first moment of a day in UTC.
MIDNIGHT_MS = NOON_MS // DAY_MS * DAY_MS
ON_DEMAND = Table(name="pets", id=1, uuid="", create_time_ms=5, partition_key=ID, sort_key=None)
PROVISIONED = replace(ON_DEMAND, throughput=Throughput(read_units=10, write_units=10))


def provision(table: Table, reads: int, writes: int, now_ms: int) -> Table:
    return TableChange(throughput=Throughput(read_units=reads, write_units=writes)).apply(table, now_ms)


def told(table: Table, now_ms: int) -> tuple[int | None, int | None, int]:
    changes = table.throughput_changes
    return changes.last_increase_ms, changes.last_decrease_ms, changes.decreases_on_day_of(now_ms)


def test_the_last_increase_and_the_last_decrease_of_throughput_are_remembered() -> None:
    assert told(PROVISIONED, NOON_MS) == (None, None, 0)
    raised = provision(PROVISIONED, 15, 10, NOON_MS)
    assert told(raised, NOON_MS) == (NOON_MS, None, 0)
    lowered = provision(raised, 15, 3, NOON_MS + 1)
    assert told(lowered, NOON_MS + 1) == (NOON_MS, NOON_MS + 1, 1)
    both = provision(lowered, 14, 4, NOON_MS + 2)
    assert told(both, NOON_MS + 2) == (NOON_MS + 2, NOON_MS + 2, 2)


def test_decreases_are_counted_by_the_utc_day() -> None:
    last_of_day = MIDNIGHT_MS - 1
    table = provision(PROVISIONED, 10, 9, last_of_day)
    table = provision(table, 10, 8, last_of_day)
    assert told(table, last_of_day)[2] == 2
    assert told(table, MIDNIGHT_MS)[2] == 0
    table = provision(table, 10, 7, MIDNIGHT_MS)
    assert told(table, MIDNIGHT_MS)[2] == 1
    assert told(table, MIDNIGHT_MS + DAY_MS - 1)[2] == 1
    assert told(table, MIDNIGHT_MS + DAY_MS)[2] == 0


def test_a_table_remembers_when_it_was_last_put_on_demand() -> None:
    assert PROVISIONED.last_on_demand_ms is None
    assert ON_DEMAND.last_on_demand_ms == ON_DEMAND.create_time_ms
    once = TableChange(billing_mode=BillingMode.PAY_PER_REQUEST).apply(PROVISIONED, NOON_MS)
    assert once.last_on_demand_ms == NOON_MS
    again = TableChange(billing_mode=BillingMode.PAY_PER_REQUEST, table_class=TableClass.STANDARD).apply(
        once, NOON_MS + 1
    )
    assert again.last_on_demand_ms == NOON_MS
    units = Throughput(read_units=1, write_units=1)
    back = TableChange(billing_mode=BillingMode.PROVISIONED, throughput=units).apply(ON_DEMAND, NOON_MS)
    assert back.last_on_demand_ms == ON_DEMAND.create_time_ms


@pytest.mark.parametrize(
    ("wanted", "becomes"),
    [
        (SomeThroughput(read_units=12_000), (12_000, 4_000)),
        (SomeThroughput(write_units=4_001), (12_000, 4_001)),
        (SomeThroughput(read_units=10**12, write_units=10**12), (10**12, 10**12)),
        (None, (12_000, 4_000)),
    ],
)
def test_warm_throughput_is_raised_and_what_is_not_named_stays(
    wanted: SomeThroughput | None, becomes: tuple[int, int]
) -> None:
    warm = warm_throughput(wanted, WARM_THROUGHPUT_DEFAULT, None)
    assert (warm.read_units, warm.write_units) == becomes


@pytest.mark.parametrize(
    ("wanted", "field", "limit"),
    [
        (SomeThroughput(read_units=11_999), "warm_throughput.read_units_per_second", 12_000),
        (SomeThroughput(write_units=3_999), "warm_throughput.write_units_per_second", 4_000),
        (SomeThroughput(read_units=10**12 + 1), "warm_throughput.read_units_per_second", 10**12),
        (SomeThroughput(), "warm_throughput", None),
    ],
)
def test_warm_throughput_is_neither_lowered_nor_without_bounds(
    wanted: SomeThroughput, field: str, limit: int | None
) -> None:
    with pytest.raises(ValidationError) as refused:
        warm_throughput(wanted, WARM_THROUGHPUT_DEFAULT, None, "by-name")
    assert refused.value.metadata.get("field") == field
    assert refused.value.metadata.get("limit") == (None if limit is None else str(limit))
    assert "by-name" in refused.value.message


def test_warm_throughput_is_never_lower_than_what_is_provisioned() -> None:
    raised = provision(PROVISIONED, 20_000, 1, NOON_MS)
    assert raised.warm_throughput == Throughput(read_units=20_000, write_units=4_000)
    lowered = provision(raised, 5, 1, NOON_MS)
    assert lowered.warm_throughput == raised.warm_throughput
    with pytest.raises(ValidationError, match="must not be lower than 20000"):
        TableChange(warm_throughput=SomeThroughput(read_units=19_999)).apply(lowered, NOON_MS)


def test_a_maximum_is_set_for_one_kind_and_removed_again() -> None:
    first = on_demand_maximum(SomeThroughput(read_units=1), None, is_provisioned=False)
    assert first == SomeThroughput(read_units=1)
    both = on_demand_maximum(SomeThroughput(write_units=10**12), first, is_provisioned=False)
    assert both == SomeThroughput(read_units=1, write_units=10**12)
    one = on_demand_maximum(SomeThroughput(read_units=-1), both, is_provisioned=False)
    assert one == SomeThroughput(write_units=10**12)
    assert on_demand_maximum(SomeThroughput(write_units=-1), one, is_provisioned=False) is None
    assert on_demand_maximum(None, one, is_provisioned=False) == one
    assert on_demand_maximum(None, one, is_provisioned=True) is None


@pytest.mark.parametrize("units", [0, -2, 10**12 + 1])
def test_a_maximum_has_bounds(units: int) -> None:
    for wanted in (SomeThroughput(read_units=units), SomeThroughput(write_units=units)):
        with pytest.raises(ValidationError, match="out of bounds"):
            on_demand_maximum(wanted, None, is_provisioned=False)


def test_a_maximum_names_a_kind_and_is_not_for_provisioned_tables() -> None:
    with pytest.raises(ValidationError, match="At least one of MaxReadRequestUnits and MaxWriteRequestUnits"):
        on_demand_maximum(SomeThroughput(), None, is_provisioned=False)
    with pytest.raises(ValidationError, match="when BillingMode is PROVISIONED"):
        on_demand_maximum(SomeThroughput(read_units=5), None, is_provisioned=True)


def test_encryption_is_asked_for_with_a_key_or_without() -> None:
    assert check_encryption(is_enabled=True, sse_type="", key="") == Encryption()
    assert check_encryption(is_enabled=True, sse_type="KMS", key="k" * 2048) == Encryption(key="k" * 2048)
    assert check_encryption(is_enabled=False, sse_type="", key="") is None


@pytest.mark.parametrize(
    ("is_enabled", "sse_type", "key", "says"),
    [
        (True, "AES256", "", "SSEType AES256 is not supported"),
        (False, "KMS", "", "SSEType can only be specified when Enabled is true"),
        (False, "", "k", "KMSMasterKeyId can only be specified when Enabled is true"),
        (True, "", "k" * 2049, "at most 2048 characters"),
    ],
)
def test_encryption_with_a_fault_is_refused(*, is_enabled: bool, sse_type: str, key: str, says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        check_encryption(is_enabled=is_enabled, sse_type=sse_type, key=key)


def test_encryption_that_would_not_change_is_refused_as_in_dynamodb() -> None:
    encrypted = TableChange(switches_encryption=True, encryption=Encryption(key="k")).apply(ON_DEMAND, NOON_MS)
    assert encrypted.encryption == Encryption(key="k")
    with pytest.raises(ValidationError, match="Table is already encrypted by given KMSMasterKeyId"):
        TableChange(switches_encryption=True, encryption=Encryption(key="k")).apply(encrypted, NOON_MS)
    with pytest.raises(ValidationError, match="Table is already encrypted by default"):
        TableChange(switches_encryption=True).apply(ON_DEMAND, NOON_MS)
    assert TableChange(switches_encryption=True).apply(encrypted, NOON_MS).encryption is None


@pytest.mark.parametrize(
    ("key", "arn"),
    [
        ("", "arn:aws:kms:north:000000000000:key/00000000-0000-0000-0000-000000000000"),
        ("1234", "arn:aws:kms:north:000000000000:key/1234"),
        ("alias/mine", "arn:aws:kms:north:000000000000:alias/mine"),
        ("arn:aws:kms:x:1:key/2", "arn:aws:kms:x:1:key/2"),
    ],
)
def test_a_key_is_shown_as_an_arn_however_it_was_named(key: str, arn: str) -> None:
    assert key_arn("north", key) == arn


def test_the_class_of_a_table_has_the_time_of_its_last_change() -> None:
    named = TableChange(table_class=TableClass.STANDARD).apply(ON_DEMAND, NOON_MS)
    assert (named.table_class, named.table_class_time_ms) == (TableClass.STANDARD, None)
    rare = TableChange(table_class=TableClass.STANDARD_INFREQUENT_ACCESS).apply(named, NOON_MS + 1)
    again = TableChange(table_class=TableClass.STANDARD_INFREQUENT_ACCESS).apply(rare, NOON_MS + 2)
    assert again.table_class_time_ms == rare.table_class_time_ms == NOON_MS + 1
