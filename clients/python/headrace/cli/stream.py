"""`headrace stream`: list, describe, read, split and merge change streams."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from headrace.cli.options import endpoint_option, output_option, start_option
from headrace.cli.render import json_text, print_fields, print_json, print_table, time_text

if TYPE_CHECKING:
    from headrace import ChangeRecord, Client, Item, Shard, StreamDescription

__all__ = ["stream"]

# What a shell reports for a process that Ctrl-C ended.
EXIT_INTERRUPTED = 130


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
            "holds": f"{described.retained_records} records, {described.retained_bytes} bytes",
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
    start: Any,
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
        line_of = partial(_json_line if output == "json" else _text_line, described)
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
    *, table_name: str, group_name: str, start: Any, limit: int | None, endpoint: str | None, output: str
) -> None:
    """Show the records of TABLE that GROUP has not processed, and ack them, until Ctrl-C.

    What was shown is not shown again; several of these commands share the shards.
    """
    from headrace import Client

    with Client(endpoint) as client:
        described = client.describe_stream(_newest_stream_arn(client, table_name))
        line_of = partial(_json_line if output == "json" else _text_line, described)
        # Exactly so many are taken, so that none is shown and not acked.
        batch_records = 1_000 if limit is None else min(limit, 1_000)
        batches = client.consume(table_name, group=group_name, start=start, max_batch_records=batch_records)
        remaining = limit
        try:
            for batch in batches:
                records = batch.records[:remaining]
                click.echo("\n".join(map(line_of, records)))
                if remaining is not None and remaining <= len(batch.records):
                    if remaining < len(batch.records):
                        batch.nack(batch.records[remaining], reason="SHUTDOWN")
                    else:
                        batch.ack(durable=True)
                    return
                batch.ack()
                remaining = None if remaining is None else remaining - len(records)
        except KeyboardInterrupt:
            raise click.exceptions.Exit(EXIT_INTERRUPTED) from None
        finally:
            batches.close()


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
    click.echo(explanation.summary)
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
@click.option("--at", "starting_hash_key", type=int, help="The first hash of the second shard; the middle if left out.")
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
    """Close two neighbouring shards and open one in their place."""
    from headrace import Client

    with Client(endpoint) as client:
        shard = client.merge_shards(_stream_arn(client, stream_arn), shard_id, adjacent_shard_id)
    _print_shards((shard,), output)


@stream.command()
@click.argument("stream_arn", metavar="TABLE|ARN")
@endpoint_option
@output_option
def shards(*, stream_arn: str, endpoint: str | None, output: str) -> None:
    """Show the shards of a stream as a family tree; a merged shard stands below its first parent."""
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

    def add(shard: Shard, depth: int) -> None:
        share = (shard.ending_hash_key - shard.starting_hash_key + 1) / 2**64
        state = "open" if shard.is_open else "closed"
        rows.append(["  " * depth + shard.shard_id, state, f"{share:.2%}", shard.adjacent_parent_shard_id])
        for child in children.get(shard.shard_id, []):
            add(child, depth + 1)

    for root in children.get(None, []):
        add(root, 0)
    print_table(["shard", "state", "of all hashes", "merged with"], rows)


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
        click.echo("\n".join(map(line_of, shown)))
        if remaining is not None:
            remaining -= len(shown)
            if not remaining:
                return


def _keys(stream: StreamDescription, record: ChangeRecord) -> Item:
    """The record's key, the partition key first."""
    return {name: record.keys[name] for name in (stream.partition_key, stream.sort_key) if name is not None}


def _text_line(stream: StreamDescription, record: ChangeRecord) -> str:
    return "  ".join(
        [
            time_text(record.approximate_creation_date_time),
            f"{record.event_name:<6}",
            json_text(_keys(stream, record)),
            _difference(record),
        ]
    ).rstrip()


def _difference(record: ChangeRecord) -> str:
    """What the change did to the attributes besides the key, as far as the stream's images tell."""
    new, old = record.new_image, record.old_image
    if record.event_name != "MODIFY" or new is None or old is None:
        image = new if new is not None else old
        rest = {name: value for name, value in sorted((image or {}).items()) if name not in record.keys}
        return json_text(rest) if rest else ""
    parts = []
    for name in sorted(old.keys() | new.keys()):
        if name not in old:
            parts.append(f"{name}: added {json_text(new[name])}")
        elif name not in new:
            parts.append(f"{name}: removed {json_text(old[name])}")
        elif old[name] != new[name]:
            parts.append(f"{name}: {json_text(old[name])} -> {json_text(new[name])}")
    return ", ".join(parts)


def _json_line(stream: StreamDescription, record: ChangeRecord) -> str:
    """A record as the DynamoDB Streams API shows it. Source: Amazon DynamoDB Streams API Reference, "Record"."""
    from headrace.dynamodb_json import from_item
    from headrace.triggers.event import event_id

    change: dict[str, Any] = {
        "ApproximateCreationDateTime": int(record.approximate_creation_date_time.timestamp()),
        "Keys": from_item(_keys(stream, record)),
    }
    if record.new_image is not None:
        change["NewImage"] = from_item(record.new_image)
    if record.old_image is not None:
        change["OldImage"] = from_item(record.old_image)
    change["SequenceNumber"] = record.sequence_number
    change["SizeBytes"] = record.size_bytes
    change["StreamViewType"] = stream.stream_view_type
    _, _, _, region, *_ = stream.stream_arn.split(":")
    return json_text(
        {
            "eventID": event_id(stream.stream_arn, record.sequence_number),
            "eventName": record.event_name,
            "eventVersion": "1.1",
            "eventSource": "aws:dynamodb",
            "awsRegion": region,
            "dynamodb": change,
        }
    )
