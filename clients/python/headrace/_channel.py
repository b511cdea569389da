"""Opens channels to a broker, all with the same options."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import grpc
    import grpc.aio

ENDPOINT_VARIABLE: Final = "HEADRACE_ENDPOINT"
DEFAULT_ENDPOINT: Final = "127.0.0.1:7420"

# A call that is answered at once must be answered within this time.
UNARY_TIMEOUT_S: Final = 10.0
# A backup waits until what the broker holds in memory is on disk.
BACKUP_TIMEOUT_S: Final = 60.0
# A table is restored before the call is answered, a hundred million items or so in this time.
RESTORE_TIMEOUT_S: Final = 3600.0

# A response holds at most 1 MiB, or a single larger record: two images of 400 KB each by DynamoDB's rules, by which
# small values are smaller than on the wire.
_RESPONSE_BYTES_MAX: Final = 16 * 1024 * 1024

# Notices a broker that vanished without closing its connection. More often than once a minute and a gRPC server with
# default settings would drop the connection for "too many pings".
_KEEPALIVE_INTERVAL_MS: Final = 60_000
_KEEPALIVE_TIMEOUT_MS: Final = 20_000

# Only these may be sent twice without harm. A write that failed with UNAVAILABLE may have happened, and sending
# it again could undo what another writer did in between.
_RETRIED_METHODS: Final = {
    "headrace.v1.TableService": ("DescribeTable", "ListTables", "DescribeTimeToLive", "ListTagsOfResource"),
    # A transaction carries a token, by which the broker knows that it has carried it out.
    "headrace.v1.ItemService": (
        "GetItem",
        "BatchGetItem",
        "Query",
        "Scan",
        "TransactGetItems",
        "TransactWriteItems",
    ),
    "headrace.v1.StreamService": ("ListStreams", "DescribeStream", "GetShardIterator"),
    "headrace.v1.ConsumerService": (
        "DescribeConsumerGroup",
        "ListConsumerGroups",
        "ExplainConsumerGroup",
        "ListParkedKeys",
        "GetParkedRecords",
    ),
    "headrace.v1.TriggerService": ("DescribeTrigger", "ListTriggers"),
    "headrace.v1.BackupService": ("DescribeBackup", "ListBackups"),
    "headrace.v1.ReplicationService": ("DescribeReplica", "ListReplicas"),
}

_SERVICE_CONFIG: Final = {
    "methodConfig": [
        {
            "name": [
                {"service": service, "method": method}
                for service, methods in _RETRIED_METHODS.items()
                for method in methods
            ],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.1s",
                "maxBackoff": "2s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}

_OPTIONS: Final[list[tuple[str, str | int]]] = [
    ("grpc.max_receive_message_length", _RESPONSE_BYTES_MAX),
    ("grpc.keepalive_time_ms", _KEEPALIVE_INTERVAL_MS),
    ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
    # A subscriber may stay silent for hours; it must go on pinging.
    ("grpc.http2.max_pings_without_data", 0),
    # A broker that restarts should be found again within two seconds, not after gRPC's default of up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
]


def resolve_endpoint(endpoint: str | None = None) -> str:
    """HOST:PORT of the broker: `endpoint`, else the environment's HEADRACE_ENDPOINT, else 127.0.0.1:7420."""
    return endpoint or os.environ.get(ENDPOINT_VARIABLE) or DEFAULT_ENDPOINT


def open_async_channel(endpoint: str | None = None) -> grpc.aio.Channel:
    """A channel for asyncio; connects on first use. Close it with `await channel.close()`."""
    import grpc.aio

    return grpc.aio.insecure_channel(resolve_endpoint(endpoint), options=_OPTIONS)


def open_channel(endpoint: str | None = None) -> grpc.Channel:
    """A channel for threads; connects on first use. Close it with `channel.close()`."""
    import grpc

    return grpc.insecure_channel(resolve_endpoint(endpoint), options=_OPTIONS)
