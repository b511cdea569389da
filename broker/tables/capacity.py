"""Capacity units: what reads and writes consume by DynamoDB's rules, and how provisioned throughput limits them.

Source: Developer Guide, "DynamoDB read and write operations" and "Burst capacity".
"""

from __future__ import annotations

import math
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from broker.model.errors import ProvisionedThroughputExceededError, ThrottlingError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from broker.model.clock import Clock
    from broker.model.tables import Index, SomeThroughput, Table, Throughput

READ_UNIT_BYTES: Final = 4 * 1024
WRITE_UNIT_BYTES: Final = 1024
# So many seconds' worth of units that were not used may be used later.
BURST_SECONDS: Final = 300
# A stream may be read at this many times the rate at which its table may be written.
STREAM_READS_PER_WRITE: Final = 2

_MILLIS_PER_SECOND: Final = 1000


def read_units(size_bytes: int, *, consistent: bool, transactional: bool = False) -> float:
    """What reading so many bytes consumes: those of one item, or the sum of a page of Query and Scan.

    A missing item counts as one of the smallest size.
    """
    units = max(1, -(-size_bytes // READ_UNIT_BYTES))
    if transactional:
        return 2.0 * units
    return float(units) if consistent else units / 2


def write_units(size_bytes: int, *, transactional: bool = False) -> float:
    """What a write consumes: of the item before or after it the larger size counts, also if nothing is changed."""
    units = max(1, -(-size_bytes // WRITE_UNIT_BYTES))
    return 2.0 * units if transactional else float(units)


class Units:
    """Read and write units, added up."""

    __slots__ = ("reads", "writes")

    def __init__(self) -> None:
        self.reads = 0.0
        self.writes = 0.0


class Consumption:
    """What one call consumes of one table and its indexes."""

    __slots__ = ("indexes", "own", "table")

    def __init__(self, table: Table) -> None:
        self.table = table
        # The table's part without its indexes.
        self.own = Units()
        # By name; those that took any.
        self.indexes: dict[str, tuple[Index, Units]] = {}

    def add(self, other: Consumption) -> None:
        """Adds what another call has consumed of the same table."""
        for index, units in other.parts:
            mine = self._units(index)
            mine.reads += units.reads
            mine.writes += units.writes

    def read(self, units: float, index: Index | None = None) -> None:
        """Adds read units of the table, or of an index."""
        self._units(index).reads += units

    def write(self, units: float, index: Index | None = None) -> None:
        """Adds write units of the table, or of an index."""
        self._units(index).writes += units

    @property
    def parts(self) -> list[tuple[Index | None, Units]]:
        """The table's own part, then those of its indexes."""
        return [(None, self.own), *self.indexes.values()]

    @property
    def total(self) -> Units:
        """The table's part and all indexes'."""
        total = Units()
        for _, units in self.parts:
            total.reads += units.reads
            total.writes += units.writes
        return total

    def _units(self, index: Index | None) -> Units:
        if index is None:
            return self.own
        held = self.indexes.get(index.name)
        if held is None:
            held = self.indexes[index.name] = (index, Units())
        return held[1]


def by_table(consumptions: Iterable[Consumption]) -> list[Consumption]:
    """What several calls, or parts of one, have consumed, added up by table."""
    sums: dict[int, Consumption] = {}
    for consumption in consumptions:
        sums.setdefault(consumption.table.id, Consumption(consumption.table)).add(consumption)
    return list(sums.values())


class Kind(StrEnum):
    """What throughput limits."""

    READ = "read"
    WRITE = "write"
    STREAM_READ = "stream read"

    def rate(self, throughput: Throughput) -> int:
        """How many units a second are provisioned."""
        match self:
            case Kind.READ:
                return throughput.read_units
            case Kind.WRITE:
                return throughput.write_units
            case Kind.STREAM_READ:
                return throughput.write_units * STREAM_READS_PER_WRITE

    def maximum(self, throughput: SomeThroughput) -> int | None:
        """How many units a second may be taken on demand; None: any. A stream on demand may be read at any rate."""
        match self:
            case Kind.READ:
                return throughput.read_units
            case Kind.WRITE:
                return throughput.write_units
            case Kind.STREAM_READ:
                return None


class _Bucket:
    """Units that may be used now, as of a time; below zero they are owed."""

    __slots__ = ("time_ms", "units")

    def __init__(self, units: float, time_ms: int) -> None:
        self.units = units
        self.time_ms = time_ms


class ThroughputLimiter:
    """A bucket of units for each table, index and kind, which fills at a rate a second and begins full.

    What an operation consumes is known when it is done, so one is let in while there is anything in the bucket, and
    what it takes may be owed. Check and charge with no other operation in between, and no more is owed than one takes.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._buckets: dict[tuple[int, Kind], _Bucket] = {}

    def wait_ms(self, id_: int, rate: int, kind: Kind) -> int:
        """How long until an empty bucket holds a unit; 0 if it is not empty."""
        units = self._filled(id_, rate, kind).units
        return 0 if units > 0 else math.ceil((1 - units) * _MILLIS_PER_SECOND / rate)

    def charge(self, id_: int, rate: int, kind: Kind, units: float) -> None:
        """Takes units that were consumed."""
        self._filled(id_, rate, kind).units -= units

    def forget(self, id_: int) -> None:
        """Drops the buckets of a table or index that is gone."""
        for kind in Kind:
            self._buckets.pop((id_, kind), None)

    def _filled(self, id_: int, rate: int, kind: Kind) -> _Bucket:
        now_ms = self._clock.now_ms()
        most = rate * BURST_SECONDS
        bucket = self._buckets.get((id_, kind))
        if bucket is None:
            bucket = self._buckets[id_, kind] = _Bucket(most, now_ms)
        else:
            # The clock may have been set back.
            elapsed_ms = max(0, now_ms - bucket.time_ms)
            bucket.units = min(most, bucket.units + elapsed_ms * rate / _MILLIS_PER_SECOND)
            bucket.time_ms = now_ms
        return bucket


class TableUsage:
    """What was consumed of one table since the node started, its indexes included."""

    __slots__ = ("read_units", "table_name", "throttled_requests", "write_units")

    def __init__(self, table_name: str) -> None:
        self.table_name = table_name
        self.read_units = 0.0
        self.write_units = 0.0
        self.throttled_requests = 0


class CapacityMetering:
    """Counts what is consumed of each table, and refuses what goes beyond its throughput.

    That is what is provisioned, or the maximum that a table or index on demand may have. A local index is limited with
    its table, a global one by itself; a write needs room in the table and in all its global indexes.
    """

    def __init__(self, clock: Clock) -> None:
        self._limiter = ThroughputLimiter(clock)
        self._usages: dict[int, TableUsage] = {}

    def admit_read(self, table: Table, index: Index | None = None) -> None:
        """Before a read of a table, or of an index.

        Raises ProvisionedThroughputExceededError, ThrottlingError.
        """
        limited = table if index is None else _limited(table, index)
        if limited.throughput is not None or limited.on_demand_maximum is not None:
            self._check(table, Kind.READ, index)

    def admit_write(self, table: Table) -> None:
        """Before a write. Raises ProvisionedThroughputExceededError, ThrottlingError."""
        if table.throughput is not None or table.on_demand_maximum is not None:
            self._check(table, Kind.WRITE)
        for index in table.indexes:
            if index.is_global and (index.throughput is not None or index.on_demand_maximum is not None):
                self._check(table, Kind.WRITE, index)

    def admit_stream_read(self, table: Table) -> None:
        """Before a read of a table's stream. Raises ProvisionedThroughputExceededError."""
        if table.throughput is not None:
            self._check(table, Kind.STREAM_READ)

    def stream_read_wait_ms(self, table: Table) -> int:
        """How long a reader of a table's stream must pause; 0 if it need not."""
        if table.throughput is None:
            return 0
        return self._limiter.wait_ms(table.id, Kind.STREAM_READ.rate(table.throughput), Kind.STREAM_READ)

    def consume(self, consumption: Consumption) -> None:
        """Takes note of what a call has consumed."""
        table, usage = consumption.table, self._usage(consumption.table)
        for index, units in consumption.parts:
            usage.read_units += units.reads
            usage.write_units += units.writes
            limited = _limited(table, index)
            if limited.throughput is not None or limited.on_demand_maximum is not None:
                self._charge(limited, Kind.READ, units.reads)
                self._charge(limited, Kind.WRITE, units.writes)

    def count_write(self, table: Table, units: float) -> None:
        """As `consume`, for what most writes are: of a table whose writes are not limited, and of no index."""
        self._usage(table).write_units += units

    def consume_stream_read(self, table: Table, units: int) -> None:
        """Takes note of read request units of a table's stream; metering.py counts them."""
        if table.throughput is not None:
            self._charge(table, Kind.STREAM_READ, units)

    def all(self) -> list[TableUsage]:
        """The usage of each table of which anything was consumed or refused."""
        return list(self._usages.values())

    def forget(self, id_: int) -> None:
        """Drops what is known of a table or index that is gone."""
        self._usages.pop(id_, None)
        self._limiter.forget(id_)

    def _usage(self, table: Table) -> TableUsage:
        usage = self._usages.get(table.id)
        if usage is None:
            usage = self._usages[table.id] = TableUsage(table.name)
        return usage

    def _check(self, table: Table, kind: Kind, index: Index | None = None) -> None:
        limited = _limited(table, index)
        rate = _rate(limited, kind)
        wait_ms = 0 if rate is None else self._limiter.wait_ms(limited.id, rate, kind)
        if wait_ms:
            self._usage(table).throttled_requests += 1
            raise _exceeded(limited, kind, rate, wait_ms, "" if limited is table else limited.name)

    def _charge(self, limited: Table | Index, kind: Kind, units: float) -> None:
        rate = _rate(limited, kind) if units else None
        if rate is not None:
            self._limiter.charge(limited.id, rate, kind, units)


def _limited(table: Table, index: Index | None) -> Table | Index:
    """Whose throughput limits the use of a table or index."""
    return table if index is None or not index.is_global else index


def _rate(limited: Table | Index, kind: Kind) -> int | None:
    """How many units a second a table or index may take; None: any."""
    if limited.throughput is not None:
        return kind.rate(limited.throughput)
    return None if limited.on_demand_maximum is None else kind.maximum(limited.on_demand_maximum)


def _exceeded(
    limited: Table | Index, kind: Kind, rate: int | None, wait_ms: int, index_name: str
) -> ProvisionedThroughputExceededError | ThrottlingError:
    more = {"kind": kind, "limit": rate, **({"index_name": index_name} if index_name else {})}
    if limited.throughput is None:
        return ThrottlingError(
            "Throughput exceeds the maximum OnDemandThroughput configured on table or index. Consider increasing the "
            "maximum with the UpdateTable API",
            retry_after_ms=wait_ms,
            **more,
        )
    whose, level = "the table", "level"
    if index_name:
        whose = "one or more global secondary indexes of the table"
        level = "level for the under-provisioned global secondary indexes"
    return ProvisionedThroughputExceededError(
        f"The level of configured provisioned throughput for {whose} was exceeded. Consider increasing your "
        f"provisioning {level} with the UpdateTable API",
        retry_after_ms=wait_ms,
        **more,
    )
