"""`headrace stream`: list, describe, read, split and merge change streams."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Iterable, Sequence
from contextlib import aclosing, suppress
from functools import partial
from typing import TYPE_CHECKING, Literal

import click

from headrace.cli.options import endpoint_option, output_option, start_option
from headrace.cli.output import OutputError, write_lines, write_text
from headrace.cli.record import json_line, text_line
from headrace.cli.render import byte_count_text, print_fields, print_json, print_table

if TYPE_CHECKING:
    from datetime import datetime

    from headrace import ChangeRecord, Client, Shard

__all__ = ["stream"]

# What a shell reports for a process that Ctrl-C ended.
EXIT_INTERRUPTED = 130

# What the broker takes: the largest batch, the longest name of a member, the last hash of a partition key.
BATCH_RECORDS_MAX = 1_000
MEMBER_NAME_LENGTH_MAX = 128
HASH_MAX = 2**64 - 1


@click.group()
def stream() -> None:
    """List, describe, read, split and merge change streams."""


@stream.command(name="list")
@click.option("--table", "table_name", metavar="TABLE", help="Only the streams of this table.")
@endpoint_option
@output_option
def list_(*, table_name: str | None, endpoint: str | None, output: str) -> None:
    """List all streams, disabled ones included while they are readable."""
    from headrace import Client

    with Client(endpoint) as client:
        streams = list(client.list_streams(table_name))
    if output == "json":
        print_json(streams)
    else:
        print_table(
            ["table", "label", "arn"], [[found.table_name, found.stream_label, found.stream_arn] for found in streams]
        )


@stream.command()
@click.argument("stream_arn", metavar="TABLE|ARN")
@endpoint_option
@output_option
def describe(*, stream_arn: str, endpoint: str | None, output: str) -> None:
    """Show a stream, by its ARN or as the newest of a table, and its shards."""
    from headrace import Client

    with Client(endpoint) as client:
        described = client.describe_stream(_stream_arn(client, stream_arn))
    if output == "json":
        print_json(described)
        return
    print_fields(
        {
            "table": described.table_name,
            "status": described.stream_status,
            "images": described.stream_view_type,
            "created": described.creation_request_date_time,
            "holds": f"{described.retained_records} records, {byte_count_text(described.retained_bytes)}",
            "read": f"{described.read_usage.read_request_units} read request units, "
            f"{described.read_usage.returned_records} records since the node started",
            "arn": described.stream_arn,
        }
    )
    print_table(
        ["shard", "from", "to", "parent"],
        [
            [shard.shard_id, shard.starting_sequence_number, shard.ending_sequence_number, shard.parent_shard_id]
            for shard in described.shards
        ],
    )


@stream.command()
@click.argument("table_name", metavar="TABLE")
@start_option("TRIM_HORIZON", "LATEST", default="LATEST", help_text="Begin at the oldest record, or after the newest.")
@click.option("--follow/--no-follow", default=True, show_default=True, help="Wait for more at the end, or stop there.")
@click.option("-n", "--limit", type=click.IntRange(min=1), help="Stop after so many records.")
@endpoint_option
@output_option
def tail(
    *,
    table_name: str,
    start: Literal["TRIM_HORIZON", "LATEST"] | datetime,
    follow: bool,
    limit: int | None,
    endpoint: str | None,
    output: str,
) -> None:
    """Show the change records of TABLE as they come, until Ctrl-C.

    With -o json each line is a record as in the DynamoDB Streams API.
    """
    from headrace import Client

    with Client(endpoint) as client:
        described = client.describe_stream(_newest_stream_arn(client, table_name))
        line_of = partial(json_line if output == "json" else text_line, described)
        batches = client.tail(table_name, start=start, follow=follow)
        try:
            _write_records((batch.records for batch in batches), line_of, limit)
        except KeyboardInterrupt:
            raise click.exceptions.Exit(EXIT_INTERRUPTED) from None
        finally:
            batches.close()


@stream.command()
@click.argument("table_name", metavar="TABLE")
@click.option("--group", "group_name", metavar="GROUP", required=True, help="The consumer group to be a member of.")
@start_option(
    "TRIM_HORIZON",
    "LATEST",
    "SNAPSHOT",
    default="TRIM_HORIZON",
    help_text="Where the group begins if it is new; SNAPSHOT shows all items of the table first.",
)
@click.option("-n", "--limit", type=click.IntRange(min=1), help="Stop after so many records.")
@endpoint_option
@output_option
def consume(
    *,
    table_name: str,
    group_name: str,
    start: Literal["TRIM_HORIZON", "LATEST", "SNAPSHOT"] | datetime,
    limit: int | None,
    endpoint: str | None,
    output: str,
) -> None:
    """Show the records of TABLE that GROUP has not processed, and ack them, until Ctrl-C.

    What was shown is not shown again; several of these commands share the shards.
    """
    from headrace import Client

    with Client(endpoint) as client:
        described = client.describe_stream(_newest_stream_arn(client, table_name))
    line_of = partial(json_line if output == "json" else text_line, described)
    try:
        asyncio.run(_consume(endpoint, table_name, group_name, start, line_of, limit))
    except KeyboardInterrupt:
        raise click.exceptions.Exit(EXIT_INTERRUPTED) from None


@stream.command()
@click.argument("group_name", metavar="GROUP")
@endpoint_option
@output_option
def explain(*, group_name: str, endpoint: str | None, output: str) -> None:
    """Say why the consumer group GROUP does or does not move, shard by shard."""
    from headrace import Client

    with Client(endpoint) as client:
        explanation = client.explain_consumer_group(group_name)
    if output == "json":
        print_json(explanation)
        return
    write_text(explanation.summary)
    print_table(
        ["shard", "member", "progress", "lag", "lag ms", "in flight", "why"],
        [
            [
                shard.shard_id,
                shard.member_name,
                shard.progress,
                shard.records_behind_latest,
                shard.millis_behind_latest,
                shard.in_flight_records,
                shard.text,
            ]
            for shard in explanation.shards
        ],
    )


@stream.command()
@click.argument("stream_arn", metavar="TABLE|ARN")
@click.argument("shard_id", metavar="SHARD")
@click.option(
    "--at",
    "starting_hash_key",
    metavar="HASH",
    type=click.IntRange(0, HASH_MAX),
    help="The first hash of the second of the two; the middle if left out.",
)
@endpoint_option
@output_option
def split(*, stream_arn: str, shard_id: str, starting_hash_key: int | None, endpoint: str | None, output: str) -> None:
    """Close SHARD and open two in its place."""
    from headrace import Client

    with Client(endpoint) as client:
        shards = client.split_shard(_stream_arn(client, stream_arn), shard_id, starting_hash_key=starting_hash_key)
    _print_shards(shards, output)


@stream.command()
@click.argument("stream_arn", metavar="TABLE|ARN")
@click.argument("shard_id", metavar="SHARD")
@click.argument("adjacent_shard_id", metavar="ADJACENT_SHARD")
@endpoint_option
@output_option
def merge(*, stream_arn: str, shard_id: str, adjacent_shard_id: str, endpoint: str | None, output: str) -> None:
    """Close two neighbouring shards and open one in their place.

    Programs that know one parent of a shard, as those made for DynamoDB Streams, must read it over the HTTP port.
    """
    from headrace import Client

    with Client(endpoint) as client:
        shard = client.merge_shards(_stream_arn(client, stream_arn), shard_id, adjacent_shard_id)
    click.echo(
        "warning: the merged shard has two parents. A reader that knows only one of them loses records of the other; "
        "the HTTP port, which is made for such readers, shows it as two shards.",
        err=True,
    )
    _print_shards((shard,), output)


@stream.command()
@click.argument("stream_arn", metavar="TABLE|ARN")
@endpoint_option
@output_option
def shards(*, stream_arn: str, endpoint: str | None, output: str) -> None:
    """Show the shards of a stream as a family tree.

    A merged shard stands below its first parent, one that follows a rolled shard just under it.
    """
    from headrace import Client

    with Client(endpoint) as client:
        described = client.describe_stream(_stream_arn(client, stream_arn))
    if output == "json":
        print_json(described.shards)
        return
    held = {shard.shard_id for shard in described.shards}
    children: dict[str | None, list[Shard]] = {}
    for shard in described.shards:
        parent = shard.parent_shard_id if shard.parent_shard_id in held else None
        children.setdefault(parent, []).append(shard)
    rows: list[list[object]] = []
    # Without recursion: a lineage may be long.
    ahead = [(shard, 0) for shard in reversed(children.get(None, []))]
    while ahead:
        shard, depth = ahead.pop()
        share = (shard.ending_hash_key - shard.starting_hash_key + 1) / (HASH_MAX + 1)
        rows.append(
            [
                "  " * depth + shard.shard_id,
                "open" if shard.is_open else "closed",
                f"{share:.2%}",
                shard.starting_sequence_number,
                shard.ending_sequence_number,
                shard.adjacent_parent_shard_id,
            ]
        )
        below = children.get(shard.shard_id, [])
        # A shard that was rolled is followed by one of the same hashes, over and over: that is no new level.
        is_rolled = [_hashes(child) for child in below] == [_hashes(shard)]
        ahead += ((child, depth if is_rolled else depth + 1) for child in reversed(below))
    print_table(["shard", "state", "of all hashes", "from", "to", "merged with"], rows)


def _hashes(shard: Shard) -> tuple[int, int]:
    return shard.starting_hash_key, shard.ending_hash_key


def _print_shards(made: Sequence[Shard], output: str) -> None:
    if output == "json":
        print_json(made)
    else:
        print_table(
            ["shard", "first hash", "last hash"],
            [[shard.shard_id, str(shard.starting_hash_key), str(shard.ending_hash_key)] for shard in made],
        )


def _stream_arn(client: Client, table_or_arn: str) -> str:
    """A stream's ARN as it is, or that of the newest stream of a table."""
    return table_or_arn if table_or_arn.startswith("arn:") else _newest_stream_arn(client, table_or_arn)


def _newest_stream_arn(client: Client, table_name: str) -> str:
    stream_arn = client.describe_table(table_name).latest_stream_arn
    if stream_arn is None:
        raise click.ClickException(
            f"the table {table_name} has no stream: headrace table update {table_name} --stream ..."
        )
    return stream_arn


def _write_records(
    batches: Iterable[Sequence[ChangeRecord]], line_of: Callable[[ChangeRecord], str], limit: int | None
) -> None:
    """Write a line for each record, all of a batch at once, until there are no more or `limit` are written."""
    remaining = limit
    for records in batches:
        shown = records[:remaining]
        write_lines(map(line_of, shown))
        if remaining is not None:
            remaining -= len(shown)
            if not remaining:
                return


async def _consume(
    endpoint: str | None,
    table_name: str,
    group_name: str,
    start: Literal["TRIM_HORIZON", "LATEST", "SNAPSHOT"] | datetime,
    line_of: Callable[[ChangeRecord], str],
    limit: int | None,
) -> None:
    """Write a line for each record and ack it, until there are no more or `limit` are written, or the output is closed.

    With asyncio, because there Ctrl-C cancels the wait for records, and the acks sent before are still taken.
    """
    from headrace import AsyncClient
    from headrace.errors import HeadraceError

    remaining = limit
    async with (
        AsyncClient(endpoint) as client,
        aclosing(
            client.consume(
                table_name,
                group=group_name,
                start=start,
                member=f"{socket.gethostname()}:{os.getpid()}"[:MEMBER_NAME_LENGTH_MAX],
                max_batch_records=BATCH_RECORDS_MAX if limit is None else min(limit, BATCH_RECORDS_MAX),
            )
        ) as batches,
    ):
        async for batch in batches:
            shown = batch.records[:remaining]
            try:
                write_lines(map(line_of, shown))
            except OutputError as error:
                # This acks what has reached the output, and nothing else.
                # Whether it is taken or not, the command ends because of its output.
                with suppress(HeadraceError):
                    await batch.nack(batch.records[error.lines_written], reason="SHUTDOWN")
                raise
            if remaining is None or len(shown) < remaining:
                await batch.ack()
                remaining = None if remaining is None else remaining - len(shown)
                continue
            # Nobody acks after the last one, so only here it is worth the wait for the disk.
            if len(shown) < len(batch.records):
                # This acks what was shown, and nothing else.
                await batch.nack(batch.records[len(shown)], reason="SHUTDOWN")
            else:
                await batch.ack(durable=True)
            return
