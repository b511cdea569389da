"""Requests that nobody should send: every method, with any message its proto allows and with bytes that are none.

Whatever comes, the broker answers with a result or with a reason of its own; it never says INTERNAL, UNKNOWN or
DATA_LOSS, and goes on serving.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import grpc
import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.v1 import (
    backup_service_pb2,
    consumer_service_pb2,
    item_service_pb2,
    replication_service_pb2,
    stream_service_pb2,
    table_service_pb2,
    trigger_service_pb2,
)
from headrace.v1.backup_service_pb2 import CreateBackupRequest
from tests.broker_process import BrokerProcess
from tests.rpc import Client, refusal_of
from tests.values import item

METHODS: Final[dict[str, MethodDescriptor]] = {
    method.full_name: method
    for module in (
        table_service_pb2,
        item_service_pb2,
        stream_service_pb2,
        consumer_service_pb2,
        trigger_service_pb2,
        replication_service_pb2,
        backup_service_pb2,
    )
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
# With the empty one, for a call that is not refused.
REASONS: Final = {
    "",
    "VALIDATION",
    "RESOURCE_NOT_FOUND",
    "RESOURCE_IN_USE",
    "CONDITIONAL_CHECK_FAILED",
    "EXPIRED_ITERATOR",
    "TRIMMED_DATA_ACCESS",
    "LEASE_FENCED",
    "THROTTLING",
    "BACKUP_NOT_FOUND",
    "BACKUP_IN_USE",
    "TABLE_ALREADY_EXISTS",
    "LIMIT_EXCEEDED",
}
TABLE: Final = "hostile"
CALL_TIMEOUT_S: Final = 5.0
# A call that stays open is left after this long.
STREAM_TIMEOUT_S: Final = 0.2
NESTING_MAX: Final = 5

# A backup that there is, unless one of the requests has deleted it.
BACKUP_ARNS: Final[list[str]] = []

TEXTS: Final = st.sampled_from(
    [
        "", "a", TABLE, "hostile-2", "id", ":v", "#n", "SET n = :v", "REMOVE n", "attribute_exists(id)", "-", "1e400",
        "shardId-00000001414562045508-2bac9cd2", "arn:aws:dynamodb:eu-north-1:000000000000:table/hostile/stream/x",
        "arn:aws:dynamodb:eu-north-1:000000000000:table/hostile", "127.0.0.1:1", "module.function", "python",
        "\x00", "\n", "é" * 200, "x" * 5_000, "\U0001f600", "../../etc/passwd", "%s{0}", "0" * 20 + "1", "9" * 21,
    ]
) | st.text(max_size=8) | st.builds(lambda: BACKUP_ARNS[-1])  # fmt: skip
SCALARS: Final[dict[int, st.SearchStrategy[Any]]] = {
    FieldDescriptor.TYPE_STRING: TEXTS,
    FieldDescriptor.TYPE_BYTES: st.binary(max_size=40),
    FieldDescriptor.TYPE_BOOL: st.booleans(),
    FieldDescriptor.TYPE_INT32: st.sampled_from([0, 1, -1, 100, 1_000, 2**31 - 1, -(2**31)]),
    FieldDescriptor.TYPE_INT64: st.sampled_from([0, 1, -1, 2**63 - 1, -(2**63)]),
    FieldDescriptor.TYPE_UINT64: st.sampled_from([0, 1, 2, 2**64 - 1]),
    FieldDescriptor.TYPE_FIXED64: st.sampled_from([0, 1, 65_536, 2**64 - 1]),
    FieldDescriptor.TYPE_DOUBLE: st.floats(),
    FieldDescriptor.TYPE_ENUM: st.integers(0, 6),
}


@st.composite
def messages(draw: st.DrawFn, descriptor: Descriptor | None, level: int = 0) -> Message:
    """Any message of a type: each field there or not, each value likely or not."""
    assert descriptor is not None
    message = message_factory.GetMessageClass(descriptor)()
    for field in descriptor.fields:
        is_message = field.type == FieldDescriptor.TYPE_MESSAGE
        if (is_message and level >= NESTING_MAX) or not draw(st.booleans()):
            continue
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            entries: list[Any] = draw(st.lists(messages(field.message_type, level + 1), max_size=3))
            into = getattr(message, field.name)
            for entry in entries:
                if isinstance(entry.value, Message):
                    into[entry.key].CopyFrom(entry.value)
                else:
                    into[entry.key] = entry.value
        elif field.is_repeated:
            values = messages(field.message_type, level + 1) if is_message else SCALARS[field.type]
            getattr(message, field.name).extend(draw(st.lists(values, max_size=3)))
        elif is_message:
            getattr(message, field.name).CopyFrom(draw(messages(field.message_type, level + 1)))
        else:
            setattr(message, field.name, draw(SCALARS[field.type]))
    return message


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A broker that may be filled with rubbish, and that must still be well at the end."""
    folder: Path = tmp_path_factory.mktemp("hostile")
    with BrokerProcess(folder) as process, Client(process.grpc) as client:
        made = client.backups.CreateBackup(CreateBackupRequest(backup_name="hostile"))
        BACKUP_ARNS.append(made.backup_details.backup_arn)
        yield client
        table = client.create_table(name="still-well")
        client.put(table.name, item(id="a"))
        assert len(client.records(table.stream_arn)) == 1
        client.close()
        assert process.stop() == 0


@pytest.mark.parametrize("name", METHODS)
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_whatever_is_sent_is_answered_with_a_result_or_a_reason(target: Client, name: str, data: st.DataObject) -> None:
    method = METHODS[name]
    ensure_table(target)
    requests = data.draw(
        st.lists(
            messages(method.input_type).map(lambda message: message.SerializeToString()) | st.binary(max_size=30),
            min_size=1,
            max_size=3 if method.client_streaming else 1,
        )
    )
    assert reason_of(lambda: say(target, method, requests)) in REASONS


def ensure_table(target: Client) -> None:
    """One of the requests may have deleted it."""
    assert reason_of(lambda: target.create_table(name=TABLE)) in {"", "RESOURCE_IN_USE"}


def reason_of(call: Callable[[], object]) -> str:
    """Why a call was refused; empty if it was not, also if it was left open until its deadline."""
    try:
        call()
    except grpc.RpcError as error:
        return "" if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED else refusal_of(error).reason
    return ""


def say(target: Client, method: MethodDescriptor, requests: list[bytes]) -> None:
    """Calls a method with bytes, and reads what comes back for a while."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    channel: Any = target.channel
    match method.client_streaming, method.server_streaming:
        case False, False:
            channel.unary_unary(path)(requests[0], timeout=CALL_TIMEOUT_S)
        case False, True:
            list(channel.unary_stream(path)(requests[0], timeout=STREAM_TIMEOUT_S))
        case _:
            list(channel.stream_stream(path)(iter(requests), timeout=STREAM_TIMEOUT_S))
