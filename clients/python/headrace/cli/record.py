"""Change records as lines: for people, or as the DynamoDB Streams API shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headrace.cli.render import json_text, time_text

if TYPE_CHECKING:
    from headrace import ChangeRecord, Item, StreamDescription

__all__ = ["json_line", "text_line"]


def text_line(stream: StreamDescription, record: ChangeRecord) -> str:
    """What happened to which item, and when."""
    return "  ".join(
        [
            time_text(record.approximate_creation_date_time),
            f"{record.event_name:<6}",
            json_text(_keys(stream, record)),
            _difference(record),
        ]
    ).rstrip()


def json_line(stream: StreamDescription, record: ChangeRecord) -> str:
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


def _keys(stream: StreamDescription, record: ChangeRecord) -> Item:
    """The record's key, the partition key first."""
    return {name: record.keys[name] for name in (stream.partition_key, stream.sort_key) if name is not None}


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
