"""`headrace table`: create, describe, list, update and delete tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from headrace.cli.options import (
    TIME_HELP,
    KeyOption,
    endpoint_option,
    output_option,
    parse_key_attributes,
    parse_only_key_attribute,
    parse_time,
    stream_settings_options,
    table_settings,
    table_settings_options,
    view_type_option,
)
from headrace.cli.render import byte_count_text, duration_text, print_fields, print_json, print_table, size_text

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from headrace import IndexDescription, KeyAttribute, RestoreSummary, StreamSettings, TableDescription
    from headrace._models import KeyType, ProjectionType, ViewType

__all__ = ["print_description", "table"]


@click.group()
def table() -> None:
    """Create, describe, list, change and delete tables and their indexes."""


@table.command()
@click.argument("table_name", metavar="TABLE")
@click.option(
    "--partition-key",
    metavar="NAME[:TYPE]",
    required=True,
    multiple=True,
    callback=parse_only_key_attribute,
    help="TYPE is S, N or B; S if left out.",
)
@click.option(
    "--sort-key", metavar="NAME[:TYPE]", multiple=True, callback=parse_only_key_attribute, help="As --partition-key."
)
@view_type_option(help_text="Enable the table's stream; its records hold these images.")
@stream_settings_options
@table_settings_options
@endpoint_option
@output_option
def create(
    *,
    table_name: str,
    partition_key: KeyOption,
    sort_key: KeyOption | None,
    view_type: ViewType | None,
    endpoint: str | None,
    output: str,
    **settings: Any,
) -> None:
    """Create TABLE; it can be used when the command returns."""
    from headrace import Client, StreamSettings

    others = table_settings(settings)
    with Client(endpoint) as client:
        created = client.create_table(
            table_name,
            partition_key=_with_default_type(partition_key),
            sort_key=None if sort_key is None else _with_default_type(sort_key),
            stream=view_type,
            stream_settings=StreamSettings(**settings),
            **others,
        )
    print_description(created, output)


@table.command()
@click.argument("table_name", metavar="TABLE")
@endpoint_option
@output_option
def describe(*, table_name: str, endpoint: str | None, output: str) -> None:
    """Show TABLE: its key, status, size, indexes and stream."""
    from headrace import Client

    with Client(endpoint) as client:
        described = client.describe_table(table_name)
    print_description(described, output)


@table.command(name="list")
@endpoint_option
@output_option
def list_(*, endpoint: str | None, output: str) -> None:
    """List the names of all tables."""
    from headrace import Client

    with Client(endpoint) as client:
        names = list(client.list_tables())
    if output == "json":
        print_json(names)
    else:
        print_table(["table"], [[name] for name in names])


@table.command()
@click.argument("table_name", metavar="TABLE")
@view_type_option(help_text="Enable a new stream; its records hold these images.")
@click.option("--no-stream", is_flag=True, help="Disable the stream; it stays readable until its records age out.")
@stream_settings_options
@table_settings_options
@endpoint_option
@output_option
def update(
    *,
    table_name: str,
    view_type: ViewType | None,
    no_stream: bool,
    endpoint: str | None,
    output: str,
    **settings: Any,
) -> None:
    """Change settings of TABLE, all that are given or none: its stream, how long that keeps records, its throughput."""
    others = table_settings(settings)
    has_settings = any(setting is not None for setting in settings.values())
    is_switched = no_stream or view_type is not None
    is_changed = has_settings or is_switched or any(setting is not None for setting in others.values())
    if (no_stream and view_type is not None) or not is_changed:
        raise click.UsageError("give --stream VIEW_TYPE or --no-stream, or settings to change")
    from headrace import Client, StreamSettings

    with Client(endpoint) as client:
        updated = client.update_table(
            table_name,
            stream=view_type if is_switched else ...,
            stream_settings=StreamSettings(**settings) if has_settings else None,
            **others,
        )
    print_description(updated, output)


@table.command()
@click.argument("table_name", metavar="TABLE")
@click.option("--yes", is_flag=True, help="Do not ask.")
@endpoint_option
@output_option
def delete(*, table_name: str, yes: bool, endpoint: str | None, output: str) -> None:
    """Delete TABLE and its items; its stream stays readable until its records age out."""
    if not yes:
        click.confirm(f"Delete the table {table_name} and all its items?", abort=True, err=True)
    from headrace import Client

    with Client(endpoint) as client:
        deleted = client.delete_table(table_name)
    print_description(deleted, output)


@table.command(name="create-index")
@click.argument("table_name", metavar="TABLE")
@click.argument("index_name", metavar="INDEX")
@click.option(
    "--partition-key",
    "partition_keys",
    metavar="NAME[:TYPE]",
    required=True,
    multiple=True,
    callback=parse_key_attributes,
    help="As of a table; give it up to 4 times for a key of several attributes.",
)
@click.option(
    "--sort-key",
    "sort_keys",
    metavar="NAME[:TYPE]",
    multiple=True,
    callback=parse_key_attributes,
    help="As --partition-key, in the order in which they sort.",
)
@click.option(
    "--project",
    metavar="ATTRIBUTES",
    default="ALL",
    show_default=True,
    help="What it holds besides keys: ALL, KEYS_ONLY, or names joined by commas.",
)
@click.option("--no-wait", is_flag=True, help="Do not wait until it holds the items there are.")
@endpoint_option
@output_option
def create_index(
    *,
    table_name: str,
    index_name: str,
    partition_keys: tuple[KeyOption, ...],
    sort_keys: tuple[KeyOption, ...],
    project: str,
    no_wait: bool,
    endpoint: str | None,
    output: str,
) -> None:
    """Add the global secondary index INDEX to TABLE; it can be read when the command returns."""
    from headrace import Client, GlobalIndex

    projection: ProjectionType = "ALL" if project == "ALL" else "KEYS_ONLY" if project == "KEYS_ONLY" else "INCLUDE"
    index = GlobalIndex(
        index_name=index_name,
        partition_key=tuple(map(_with_default_type, partition_keys)),
        sort_key=tuple(map(_with_default_type, sort_keys)),
        projection=projection,
        non_key_attributes=tuple(project.split(",")) if projection == "INCLUDE" else (),
    )
    with Client(endpoint) as client:
        updated = client.update_table(table_name, create_index=index)
        if not no_wait:
            updated = client.wait_for_indexes(table_name)
    print_description(updated, output)


@table.command(name="delete-index")
@click.argument("table_name", metavar="TABLE")
@click.argument("index_name", metavar="INDEX")
@endpoint_option
@output_option
def delete_index(*, table_name: str, index_name: str, endpoint: str | None, output: str) -> None:
    """Remove the global secondary index INDEX from TABLE."""
    from headrace import Client

    with Client(endpoint) as client:
        updated = client.update_table(table_name, delete_index=index_name)
    print_description(updated, output)


@table.command()
@click.argument("table_name", metavar="TABLE")
@click.option("--on", "switch", flag_value="on", help="Let TABLE be restored to a point in time.")
@click.option("--off", "switch", flag_value="off", help="Let it be restored no longer.")
@click.option("--days", type=int, help="With --on: how far back a restore may go, 1 to 35.  [default: 35]")
@endpoint_option
@output_option
def recovery(*, table_name: str, switch: str | None, days: int | None, endpoint: str | None, output: str) -> None:
    """Show to which times TABLE can be restored, or switch that on or off.

    Restores take the change log, so they reach as far back as the stream of TABLE holds records with old images.
    """
    if days is not None and switch != "on":
        raise click.UsageError("--days goes with --on")
    from headrace import Client

    with Client(endpoint) as client:
        if switch is None:
            found = client.describe_continuous_backups(table_name)
        else:
            found = client.update_continuous_backups(table_name, enabled=switch == "on", recovery_period_in_days=days)
    if output == "json":
        print_json(found)
        return
    print_fields(
        {
            "table": table_name,
            "recovery": f"on, for {found.recovery_period_in_days} days" if found.enabled else "off",
            "earliest": found.earliest_restorable_date_time,
            "latest": found.latest_restorable_date_time,
        }
    )


@table.command()
@click.argument("table_name", metavar="TABLE")
@click.option("--as", "target", required=True, metavar="NEW", help="The table to make.")
@click.option("--at", metavar="TIME", callback=parse_time, help=f"The time; left out: now. {TIME_HELP}")
@endpoint_option
@output_option
def restore(*, table_name: str, target: str, at: datetime | None, endpoint: str | None, output: str) -> None:
    """Make a new table as TABLE was at a time; `headrace table recovery` shows which times there are.

    The table is there, whole, when the command returns. If it is ended before, there is no such table.
    """
    from headrace import Client

    with Client(endpoint) as client:
        restored = client.restore_table_to_point_in_time(table_name, target, at=at)
    print_description(restored, output)


@table.command()
@click.argument("table_name", metavar="TABLE")
@click.argument("attribute_name", metavar="ATTRIBUTE")
@click.option("--off", "is_off", is_flag=True, help="Let items expire no longer.")
@endpoint_option
def expire(*, table_name: str, attribute_name: str, is_off: bool, endpoint: str | None) -> None:
    """Delete items of TABLE when the seconds since 1970 in ATTRIBUTE have passed."""
    from headrace import Client

    with Client(endpoint) as client:
        client.update_time_to_live(table_name, attribute_name, enabled=not is_off)


def _with_default_type(key: KeyOption) -> tuple[str, KeyType]:
    name, key_type = key
    return name, key_type or "S"


def print_description(table: TableDescription, output: str) -> None:
    """Write what a table is."""
    settings = table.stream_settings
    if output == "json":
        print_json(table)
    else:
        print_fields(
            {
                "table": table.table_name,
                "status": table.table_status,
                "key": _key_text([table.partition_key], [table.sort_key] if table.sort_key else []),
                "items": f"{table.item_count} ({byte_count_text(table.table_size_bytes)})",
                "indexes": "\n".join(map(_index_text, (*table.local_indexes, *table.global_indexes))) or "none",
                "capacity": _capacity_text(table),
                "warm throughput": _units_text(table.warm_throughput),
                "class": table.table_class,
                "encryption": _encryption_text(table.kms_master_key_arn),
                "stream": table.stream_view_type or "off",
                "latest stream": table.latest_stream_arn,
                "retention": _retention_text(settings),
                "shards": _shards_text(settings),
                "created": table.creation_date_time,
                "restored": _restored_text(table.restore_summary),
                "arn": table.table_arn,
            }
        )


def _key_text(partition_keys: Iterable[KeyAttribute], sort_keys: Iterable[KeyAttribute]) -> str:
    """The partition key, then the sort key; the attributes of one are joined by +."""
    parts = (" + ".join(f"{key.name} ({key.type})" for key in keys) for keys in (partition_keys, sort_keys))
    return ", ".join(filter(None, parts))


def _index_text(index: IndexDescription) -> str:
    projected = ", ".join(index.non_key_attributes) or index.projection
    state = "" if index.index_status == "ACTIVE" else f", {index.index_status}"
    key = _key_text(index.partition_keys, index.sort_keys)
    return f"{index.index_name}: {key}; {projected}; {index.item_count} items{state}"


def _capacity_text(table: TableDescription) -> str:
    if table.provisioned_throughput is not None:
        return f"{_units_text(table.provisioned_throughput)} a second"
    if table.on_demand_throughput is None:
        return "on demand"
    return f"on demand, at most {_units_text(table.on_demand_throughput)} a second"


def _units_text(throughput: tuple[int | None, int | None] | None) -> str | None:
    """Read and write units, as far as there is a number of them."""
    if throughput is None:
        return None
    kinds = zip(throughput, ("read", "write"), strict=True)
    return " and ".join(f"{units} {kind}" for units, kind in kinds if units is not None) + " units"


def _encryption_text(key_arn: str | None) -> str:
    return "none" if key_arn is None else f"asked for with {key_arn}; the broker encrypts nothing"


def _restored_text(summary: RestoreSummary | None) -> str | None:
    if summary is None:
        return None
    source = summary.source_backup_arn or "its change log"
    return f"from {source}, {summary.source_table_arn} as of {summary.restore_date_time:%Y-%m-%d %H:%M:%S} UTC"


def _retention_text(settings: StreamSettings) -> str:
    """As the options of create and update take it."""
    parts = [duration_text(settings.retention_s or 0)]
    if settings.retention_bytes:
        parts.append(size_text(settings.retention_bytes))
    return ", ".join(parts)


def _shards_text(settings: StreamSettings) -> str:
    """How many shards a stream has, and how they change by themselves."""
    period_s = settings.shard_roll_period_s
    parts = [
        f"{settings.min_shards} to {settings.max_shards}",
        f"rolled after {duration_text(period_s)}" if period_s else "not rolled",
    ]
    if settings.automatic_merges:
        parts.append("merged when quiet")
    return ", ".join(parts)
