"""`headrace consumer`: durable consumer groups and how far they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from headrace.cli.options import endpoint_option, output_option
from headrace.cli.render import print_fields, print_json, print_table

if TYPE_CHECKING:
    from headrace import ConsumerGroup

__all__ = ["consumer"]


@click.group()
def consumer() -> None:
    """List, describe and delete consumer groups."""


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
            ["group", "members", "shards", "lag ms", "stream"],
            [
                [group.group_name, len(group.member_names), len(group.shards), _lag_ms(group), group.stream_arn]
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
            "lag ms": _lag_ms(group),
        }
    )
    print_table(
        ["shard", "checkpoint", "lease epoch", "ended", "lag ms"],
        [
            [shard.shard_id, shard.sequence_number, shard.lease_epoch, shard.shard_end, shard.millis_behind_latest]
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


def _lag_ms(group: ConsumerGroup) -> int:
    return max((shard.millis_behind_latest for shard in group.shards), default=0)
