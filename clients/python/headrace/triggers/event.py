"""Change records as the event a Lambda function receives from a DynamoDB stream.

The JSON is the one AWS Lambda sends, member by member, so an unmodified handler reads it.
Source: AWS Lambda Developer Guide, "Using AWS Lambda with Amazon DynamoDB" (example event).
"""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any, Final

from headrace.v1 import attribute_value_pb2, record_pb2

# The payload of a synchronous invocation (AWS Lambda quotas: 6 MB).
EVENT_SIZE_BYTES_MAX: Final = 6 * 1024 * 1024

_EVENT_START: Final = b'{"Records":['
_SEPARATOR: Final = b","
_EVENT_END: Final = b"]}"

# What a DynamoDB attribute value looks like in JSON: {"S": "text"} and so on.
JsonAttribute = dict[str, Any]


class EventBuilder:
    """Collects records of one shard, in order, for one event."""

    def __init__(self, *, stream_arn: str, region: str, size_bytes_max: int = EVENT_SIZE_BYTES_MAX) -> None:
        self._stream_arn = stream_arn
        self._region = region
        self._size_bytes_max = size_bytes_max
        self._encoded: list[bytes] = []
        # There is one separator fewer than records.
        self._size_bytes = len(_EVENT_START) - len(_SEPARATOR) + len(_EVENT_END)

    @property
    def record_count(self) -> int:
        """How many records the event holds so far."""
        return len(self._encoded)

    def add(self, record: record_pb2.Record) -> bool:
        """Adds a record, unless the event would become larger than an invocation may carry: then False.

        The first record always goes in, also one that alone is too large (its JSON can be several times its size in the
        table): leaving it out would lose a change.
        """
        encoded = _encode_record(record, stream_arn=self._stream_arn, region=self._region)
        size_bytes = self._size_bytes + len(encoded) + len(_SEPARATOR)
        if self._encoded and size_bytes > self._size_bytes_max:
            return False
        self._encoded.append(encoded)
        self._size_bytes = size_bytes
        return True

    def build(self) -> bytes:
        """The event: JSON in UTF-8."""
        return _EVENT_START + _SEPARATOR.join(self._encoded) + _EVENT_END


def event_id(stream_arn: str, sequence_number: str) -> str:
    """The id of a record: the same in every delivery, 32 hexadecimal digits as in AWS."""
    return hashlib.md5(f"{stream_arn}/{sequence_number}".encode(), usedforsecurity=False).hexdigest()


def _encode_record(record: record_pb2.Record, *, stream_arn: str, region: str) -> bytes:
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
    change["StreamViewType"] = record_pb2.StreamViewType.Name(record.stream_view_type).removeprefix("STREAM_VIEW_TYPE_")

    event_record: dict[str, Any] = {
        "eventID": event_id(stream_arn, record.sequence_number),
        "eventName": record_pb2.EventName.Name(record.event_name).removeprefix("EVENT_NAME_"),
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
