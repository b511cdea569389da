"""What a table and its indexes are told to be besides their keys: which values there may be, and what a change makes.

Pure. Source: API Reference, "WarmThroughput", "OnDemandThroughput", "SSESpecification", "TableClass".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from broker.model.errors import ValidationError
from broker.model.tables import Encryption, SomeThroughput, Throughput
from broker.tables.validate import CAPACITY_UNITS_MAX, INVALID

KEY_LENGTH_MAX: Final = 2048
# In a request: there shall be no maximum.
NO_MAXIMUM: Final = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexSettings:
    """What to change of a global index; what is None stays as it is."""

    name: str
    throughput: Throughput | None = None
    warm_throughput: SomeThroughput | None = None
    on_demand_maximum: SomeThroughput | None = None


def check_encryption(*, is_enabled: bool, sse_type: str, key: str) -> Encryption | None:
    """The encryption that an SSESpecification asks for; None: off. Raises ValidationError."""
    field = "sse_specification"
    if sse_type not in {"", "KMS"}:
        raise ValidationError(
            f"{INVALID}SSEType {sse_type} is not supported. The only supported SSEType is KMS",
            field=f"{field}.sse_type",
        )
    if not is_enabled:
        if sse_type or key:
            name = "SSEType" if sse_type else "KMSMasterKeyId"
            raise ValidationError(f"{INVALID}{name} can only be specified when Enabled is true", field=field)
        return None
    if len(key) > KEY_LENGTH_MAX:
        raise ValidationError(
            f"{INVALID}KMSMasterKeyId must have at most {KEY_LENGTH_MAX} characters",
            field=f"{field}.kms_master_key_id",
            limit=KEY_LENGTH_MAX,
        )
    return Encryption(key=key)


def changed_encryption(now: Encryption | None, wanted: Encryption | None) -> Encryption | None:
    """The encryption after a change. Raises ValidationError if it would not change."""
    if wanted == now:
        how = "by default" if now is None else "by given KMSMasterKeyId"
        raise ValidationError(f"{INVALID}Table is already encrypted {how}", field="sse_specification")
    return wanted


def warm_throughput(
    wanted: SomeThroughput | None, now: Throughput, provisioned: Throughput | None, index_name: str = ""
) -> Throughput:
    """The warm throughput of a table or index: it is never lowered, and never lower than what is provisioned.

    Raises ValidationError if a request asks for less.
    """
    least = now if provisioned is None else _each_larger(now, provisioned)
    if wanted is None:
        return least
    of = f" for index: {index_name}" if index_name else ""
    if wanted.read_units is None and wanted.write_units is None:
        raise ValidationError(
            f"{INVALID}At least one of ReadUnitsPerSecond and WriteUnitsPerSecond must be specified in "
            f"WarmThroughput{of}",
            field="warm_throughput",
        )
    return Throughput(
        read_units=_warm_units(wanted.read_units, least.read_units, "ReadUnitsPerSecond", of),
        write_units=_warm_units(wanted.write_units, least.write_units, "WriteUnitsPerSecond", of),
    )


def _warm_units(wanted: int | None, least: int, name: str, of: str) -> int:
    if wanted is None:
        return least
    path = "warm_throughput." + ("read_units_per_second" if name.startswith("Read") else "write_units_per_second")
    if wanted < least:
        raise ValidationError(
            f"{INVALID}Requested {name} of WarmThroughput{of} is {wanted}; it must not be lower than {least}: warm "
            "throughput cannot be decreased, and is at least the provisioned throughput",
            field=path,
            limit=least,
        )
    if wanted > CAPACITY_UNITS_MAX:
        raise ValidationError(
            f"Given value {wanted} for {name} of WarmThroughput{of} is out of bounds",
            field=path,
            limit=CAPACITY_UNITS_MAX,
        )
    return wanted


def _each_larger(one: Throughput, other: Throughput) -> Throughput:
    return Throughput(
        read_units=max(one.read_units, other.read_units), write_units=max(one.write_units, other.write_units)
    )


def on_demand_maximum(
    wanted: SomeThroughput | None, now: SomeThroughput | None, *, is_provisioned: bool, index_name: str = ""
) -> SomeThroughput | None:
    """The maximum of a table or index on demand; None: there is none. Raises ValidationError."""
    if is_provisioned:
        if wanted is not None:
            raise ValidationError(
                f"{INVALID}OnDemandThroughput should not be specified for index: {index_name} when BillingMode is "
                "PROVISIONED"
                if index_name
                else f"{INVALID}Neither MaxReadRequestUnits nor MaxWriteRequestUnits can be specified when BillingMode "
                "is PROVISIONED",
                field="on_demand_throughput",
            )
        return None
    if wanted is None:
        return now
    of = f" for index: {index_name}" if index_name else ""
    if wanted.read_units is None and wanted.write_units is None:
        raise ValidationError(
            f"{INVALID}At least one of MaxReadRequestUnits and MaxWriteRequestUnits must be specified in "
            f"OnDemandThroughput{of}",
            field="on_demand_throughput",
        )
    before = now or SomeThroughput()
    after = SomeThroughput(
        read_units=_maximum(wanted.read_units, before.read_units, "MaxReadRequestUnits", of),
        write_units=_maximum(wanted.write_units, before.write_units, "MaxWriteRequestUnits", of),
    )
    return None if after == SomeThroughput() else after


def _maximum(wanted: int | None, now: int | None, name: str, of: str) -> int | None:
    if wanted is None:
        return now
    if wanted == NO_MAXIMUM:
        return None
    if not 1 <= wanted <= CAPACITY_UNITS_MAX:
        path = "max_read_request_units" if name.startswith("MaxRead") else "max_write_request_units"
        raise ValidationError(
            f"Given value {wanted} for {name}{of} is out of bounds: it must be {NO_MAXIMUM}, which removes the "
            f"maximum, or from 1 to {CAPACITY_UNITS_MAX}",
            field=f"on_demand_throughput.{path}",
            limit=1 if wanted < 1 else CAPACITY_UNITS_MAX,
        )
    return wanted
