"""Messages as JSON in AWS's manner: what a client sends arrives as it was meant."""

from __future__ import annotations

import pytest

from broker.encoding.json_messages import MessageCodec
from broker.model.errors import SerializationError
from headrace.v1 import backup_service_pb2, table_pb2


@pytest.mark.parametrize(
    ("sent", "millis"),
    [
        (0, 0),
        (1_795_878_209, 1_795_878_209_000),
        (1_795_878_209.0, 1_795_878_209_000),
        # No float is exactly so many milliseconds.
        (1_795_878_209.483, 1_795_878_209_483),
        (1_795_878_209.999, 1_795_878_209_999),
    ],
)
def test_a_time_is_seconds_with_or_without_a_fraction(sent: float, millis: int) -> None:
    codec = MessageCodec(backup_service_pb2.RestoreTableToPointInTimeRequest.DESCRIPTOR)
    request = backup_service_pb2.RestoreTableToPointInTimeRequest()
    codec.fill(request, {"RestoreDateTime": sent})
    assert request.restore_date_time.ToMilliseconds() == millis
    assert codec.json_of(request) == {"RestoreDateTime": pytest.approx(sent, abs=1e-6)}


@pytest.mark.parametrize("sent", [-1, 2**40, "2026-11-28", True])
def test_what_is_no_time_is_refused(sent: object) -> None:
    codec = MessageCodec(backup_service_pb2.RestoreTableToPointInTimeRequest.DESCRIPTOR)
    with pytest.raises(SerializationError):
        codec.fill(backup_service_pb2.RestoreTableToPointInTimeRequest(), {"RestoreDateTime": sent})


def test_abbreviations_are_written_in_capitals_as_by_aws() -> None:
    description = table_pb2.TableDescription(
        sse_description=table_pb2.SseDescription(
            status=table_pb2.SSE_STATUS_ENABLED, sse_type=table_pb2.SSE_TYPE_KMS, kms_master_key_arn="arn:k"
        )
    )
    assert MessageCodec(table_pb2.TableDescription.DESCRIPTOR).json_of(description) == {
        "SSEDescription": {"Status": "ENABLED", "SSEType": "KMS", "KMSMasterKeyArn": "arn:k"}
    }
