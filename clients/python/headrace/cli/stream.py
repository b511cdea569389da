"""`headrace stream`: list, describe and tail change streams."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import click

from headrace.cli.options import endpoint_option, output_option
from headrace.cli.render import json_text, print_fields, print_json, print_table, time_text

if TYPE_CHECKING:
    from headrace import ChangeRecord, Client, Item, StreamDescription

__all__ = ["stream"]

# What a shell reports for a process that Ctrl-C ended.
EXIT_INTERRUPTED = 130


@click.group()
def stream() -> None:
    """List, describe and tail change streams."""


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
        if not stream_arn.startswith("arn:"):
            stream_arn = _newest_stream_arn(client, stream_arn)
        described = client.describe_stream(stream_arn)
    if output == "json":
        print_json(described)
        return
    print_fields(
        {
            "table": described.table_name,
            "status": described.stream_status,
            "images": described.stream_view_type,
            "created": described.creation_request_date_time,
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
@click.option(
    "--from",
    "start",
    type=click.Choice(["TRIM_HORIZON", "LATEST"], case_sensitive=False),
    default="LATEST",
    show_default=True,
    help="Begin at the oldest record held, or after the newest.",
)
@click.option("--follow/--no-follow", default=True, show_default=True, help="Wait for more at the end, or stop there.")
@click.option("-n", "--limit", type=click.IntRange(min=1), help="Stop after so many records.")
@endpoint_option
@output_option
def tail(
    *,
    table_name: str,
    start: Literal["TRIM_HORIZON", "LATEST"],
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
