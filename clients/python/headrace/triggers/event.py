"""Change records as the event a Lambda function receives from a DynamoDB stream.

The JSON is the one AWS Lambda sends, member by member, so an unmodified handler reads it. Each record is encoded once;
an event joins encoded records, so a batch can be measured against the payload limit before it is formed.
Source: AWS Lambda Developer Guide, "Using AWS Lambda with Amazon DynamoDB" (example event).
"""

import base64
import hashlib
import json
from collections.abc import Sequence
from typing import Any

from headrace.v1 import attribute_value_pb2, record_pb2

# The payload of a synchronous invocation (AWS Lambda quotas: 6 MB).
EVENT_SIZE_BYTES_MAX = 6 * 1024 * 1024

_EVENT_START = b'{"Records":['
_EVENT_END = b"]}"

# What a DynamoDB attribute value looks like in JSON: {"S": "text"} and so on.
JsonAttribute = dict[str, Any]


def encode_record(record: record_pb2.Record, *, stream_arn: str, region: str) -> bytes:
    """The JSON of one record of an event, in UTF-8."""
    change: dict[str, Any] = {
        "ApproximateCreationDateTime": record.approximate_creation_date_time.seconds,
        "Keys": _attributes(record.keys),
    }
    if record.HasField("new_image"):
        change["NewImage"] = _attributes(record.new_image)
    if record.HasField("old_image"):
        change["OldImage"] = _attributes(record.old_image)
    change["SequenceNumber"] = record.sequence_number
    change["SizeBytes"] = record.size_bytes
    change["StreamViewType"] = _enum_name(record_pb2.StreamViewType.Name(record.stream_view_type), "STREAM_VIEW_TYPE_")

    event_record: dict[str, Any] = {
        "eventID": event_id(stream_arn, record.sequence_number),
        "eventName": _enum_name(record_pb2.EventName.Name(record.event_name), "EVENT_NAME_"),
        "eventVersion": "1.1",
        "eventSource": "aws:dynamodb",
        "awsRegion": region,
    }
    if record.HasField("user_identity"):
        event_record["userIdentity"] = {
            "type": record.user_identity.type,
            "principalId": record.user_identity.principal_id,
        }
    event_record["dynamodb"] = change
    event_record["eventSourceARN"] = stream_arn
    return json.dumps(event_record, ensure_ascii=False, separators=(",", ":")).encode()


def join_records(encoded_records: Sequence[bytes]) -> bytes:
    """The event that holds these records, in this order."""
    return _EVENT_START + b",".join(encoded_records) + _EVENT_END


def count_fitting(encoded_sizes: Sequence[int], size_bytes_max: int = EVENT_SIZE_BYTES_MAX) -> int:
    """How many of the first records fit into one event; at least 1 if there is any.

    A single record that passes the limit (its JSON can be several times its size in the table) goes alone: leaving it
    out would lose a change.
    """
    size = len(_EVENT_START) + len(_EVENT_END) - 1
    for index, encoded_size in enumerate(encoded_sizes):
        size += encoded_size + 1
        if size > size_bytes_max:
            return max(index, 1)
    return len(encoded_sizes)


def event_id(stream_arn: str, sequence_number: str) -> str:
    """The id of a record: the same in every delivery, 32 hexadecimal digits as in AWS."""
    return hashlib.md5(f"{stream_arn}/{sequence_number}".encode(), usedforsecurity=False).hexdigest()


def _enum_name(name: str, prefix: str) -> str:
    return name.removeprefix(prefix)


def _attributes(item: attribute_value_pb2.Item) -> dict[str, JsonAttribute]:
    return {name: _attribute(value) for name, value in item.attributes.items()}


def _attribute(value: attribute_value_pb2.AttributeValue) -> JsonAttribute:
    match value.WhichOneof("kind"):
        case "s":
            return {"S": value.s}
        case "n":
            return {"N": value.n}
        case "b":
            return {"B": _base64(value.b)}
        case "bool":
            return {"BOOL": value.bool}
        case "null":
            return {"NULL": value.null}
        case "ss":
            return {"SS": list(value.ss.values)}
        case "ns":
            return {"NS": list(value.ns.values)}
        case "bs":
            return {"BS": [_base64(element) for element in value.bs.values]}
        case "l":
            return {"L": [_attribute(element) for element in value.l.values]}
        case "m":
            return {"M": _attributes(value.m)}
        case kind:
            # The broker stores only values of a known kind: a new kind needs a new client, and guessing would
            # hand a wrong item to the function.
            raise ValueError(f"attribute value of unknown kind {kind!r}")


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
