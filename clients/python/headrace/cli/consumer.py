"""`headrace consumer`: durable consumer groups and how far they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from headrace.cli.options import endpoint_option, output_option
from headrace.cli.output import write_text
from headrace.cli.record import json_line, text_line
from headrace.cli.render import print_fields, print_json, print_table

if TYPE_CHECKING:
    from headrace import Client, ConsumerGroup

__all__ = ["consumer"]


@click.group()
def consumer() -> None:
    """List, describe and delete consumer groups, and see to what they have set aside."""


@consumer.command(name="list")
@endpoint_option
@output_option
def list_(*, endpoint: str | None, output: str) -> None:
    """List all consumer groups and their lag."""
    from headrace import Client

    with Client(endpoint) as client:
        groups = list(client.list_consumer_groups())
    if output == "json":
        print_json(groups)
    else:
        print_table(
            ["group", "members", "shards", "lag", "lag ms", "parked", "stream"],
            [
                [
                    group.group_name,
                    len(group.member_names),
                    len(group.shards),
                    _lag_records(group),
                    _lag_ms(group),
                    group.parked_records,
                    group.stream_arn,
                ]
                for group in groups
            ],
        )


@consumer.command()
@click.argument("group_name", metavar="GROUP")
@endpoint_option
@output_option
def describe(*, group_name: str, endpoint: str | None, output: str) -> None:
    """Show GROUP: its members and its checkpoint on each shard."""
    from headrace import Client

    with Client(endpoint) as client:
        group = client.describe_consumer_group(group_name)
    if output == "json":
        print_json(group)
        return
    print_fields(
        {
            "group": group.group_name,
            "stream": group.stream_arn,
            "created": group.create_time,
            "members": ", ".join(group.member_names) or None,
            "lag": f"{_lag_records(group)} records, {_lag_ms(group)} ms",
            "parked": f"{group.parked_records} records of {group.parked_keys} keys",
        }
    )
    print_table(
        ["shard", "member", "checkpoint", "lease epoch", "ended", "lag", "lag ms"],
        [
            [
                shard.shard_id,
                shard.member_name,
                shard.sequence_number,
                shard.lease_epoch,
                shard.shard_end,
                shard.records_behind_latest,
                shard.millis_behind_latest,
            ]
            for shard in group.shards
        ],
    )


@consumer.command()
@click.argument("group_name", metavar="GROUP")
@endpoint_option
def delete(*, group_name: str, endpoint: str | None) -> None:
    """Forget GROUP and its checkpoints."""
    from headrace import Client

    with Client(endpoint) as client:
        client.delete_consumer_group(group_name)


@consumer.command()
@click.argument("group_name", metavar="GROUP")
@click.option("--records", "parked_id", metavar="PARKED_ID", help="Show the records of this key, in order.")
@endpoint_option
@output_option
def parked(*, group_name: str, parked_id: str | None, endpoint: str | None, output: str) -> None:
    """Show the keys that GROUP has set aside because a record of them failed, the oldest first."""
    from headrace import Client

    with Client(endpoint) as client:
        if parked_id is not None:
            _show_parked_records(client, group_name, parked_id, output)
            return
        keys = list(client.list_parked_keys(group_name))
    if output == "json":
        print_json(keys)
        return
    print_table(
        ["parked id", "key", "records", "attempts", "since", "redriving", "error"],
        [
            [key.parked_id, key.key, key.records, key.attempts, key.park_time, key.redriving, key.last_error]
            for key in keys
        ],
    )


@consumer.command()
@click.argument("group_name", metavar="GROUP")
@click.argument("parked_id", metavar="[PARKED_ID]", required=False)
@endpoint_option
@output_option
def redrive(*, group_name: str, parked_id: str | None, endpoint: str | None, output: str) -> None:
    """Deliver parked records to GROUP again, in order per key: those of one key, or all."""
    from headrace import Client

    with Client(endpoint) as client:
        count = client.redrive_parked_keys(group_name, parked_id)
    _print_count({"redriven_keys": count}, output)


@consumer.command()
@click.argument("group_name", metavar="GROUP")
@click.argument("parked_id", metavar="PARKED_ID")
@click.option("--yes", is_flag=True, help="Do not ask.")
@endpoint_option
@output_option
def discard(*, group_name: str, parked_id: str, yes: bool, endpoint: str | None, output: str) -> None:
    """Drop the parked records of one key; its newer records are delivered again."""
    if not yes:
        click.confirm(f"Drop the parked records of {parked_id}?", abort=True, err=True)
    from headrace import Client

    with Client(endpoint) as client:
        count = client.discard_parked_key(group_name, parked_id)
    _print_count({"discarded_records": count}, output)


def _show_parked_records(client: Client, group_name: str, parked_id: str, output: str) -> None:
    described = client.describe_stream(client.describe_consumer_group(group_name).stream_arn)
    line_of = json_line if output == "json" else text_line
    for record in client.get_parked_records(group_name, parked_id):
        write_text(line_of(described, record))


def _print_count(count: Mapping[str, int], output: str) -> None:
    if output == "json":
        print_json(count)
    else:
        print_fields({name.replace("_", " "): value for name, value in count.items()})


def _lag_records(group: ConsumerGroup) -> int:
    return sum(shard.records_behind_latest for shard in group.shards)


def _lag_ms(group: ConsumerGroup) -> int:
    return max((shard.millis_behind_latest for shard in group.shards), default=0)
