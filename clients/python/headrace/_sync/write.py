# Generated from headrace/_async/write.py by clients/python/unasync.py; never edited.

"""The fast way to write: operations flow out in batches while the results of earlier ones flow back."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable
from typing import Final

from headrace import errors
from headrace._concurrency import Duplex, iterate
from headrace._messages import fill_operation, to_write_error
from headrace._models import Operation, WriteResult
from headrace._stubs import Stubs
from headrace._values import from_item
from headrace.v1 import item_service_pb2 as pb

# What the broker takes in one batch, and how many batches ahead of their results.
BATCH_OPERATIONS_MAX: Final = 1_000
BATCHES_IN_FLIGHT_MAX: Final = 16

# A batch is sent when it has reached this size: with one more operation it still fits gRPC's message limit of 4 MiB.
_BATCH_BYTES: Final = 512 * 1024
# No valid item comes near this: of 400 KB by DynamoDB's rules, it takes at most some five times that on the wire.
_OPERATION_BYTES_MAX: Final = 3 * 1024 * 1024


def write_items(
    stubs: Stubs,
    table: str,
    operations: Iterable[Operation],
    *,
    batch_size: int,
    max_batches_in_flight: int,
) -> Generator[WriteResult, None, None]:
    """See Client.write_items."""
    _check_bound("batch_size", batch_size, BATCH_OPERATIONS_MAX)
    _check_bound("max_batches_in_flight", max_batches_in_flight, BATCHES_IN_FLIGHT_MAX)
    duplex: Duplex[pb.WriteItemsRequest, pb.WriteItemsResponse] = Duplex(stubs.items.WriteItems)
    in_flight: deque[list[Operation]] = deque()
    try:
        for request, batch in _batches(table, operations, batch_size):
            if len(in_flight) == max_batches_in_flight:
                for result in _results(in_flight.popleft(), duplex.receive()):
                    yield result
            duplex.send(request)
            in_flight.append(batch)
        duplex.done_sending()
        while in_flight:
            for result in _results(in_flight.popleft(), duplex.receive()):
                yield result
    finally:
        duplex.close()


def _batches(
    table: str, operations: Iterable[Operation], batch_size: int
) -> Generator[tuple[pb.WriteItemsRequest, list[Operation]], None, None]:
    request = pb.WriteItemsRequest(table_name=table)
    batch: list[Operation] = []
    size_bytes = 0
    for operation in iterate(operations):
        encoded = request.operations.add()
        fill_operation(encoded, operation)
        operation_bytes = encoded.ByteSize()
        if operation_bytes > _OPERATION_BYTES_MAX:
            raise errors.ValidationError(
                f"an operation of {operation_bytes} bytes cannot hold a valid item: an item has at most 400 KB",
                metadata={"field": "item", "limit": "409600"},
            )
        batch.append(operation)
        size_bytes += operation_bytes
        if len(batch) == batch_size or size_bytes >= _BATCH_BYTES:
            yield request, batch
            request = pb.WriteItemsRequest(table_name=table)
            batch = []
            size_bytes = 0
    if batch:
        yield request, batch


def _results(batch: list[Operation], response: pb.WriteItemsResponse | None) -> Iterable[WriteResult]:
    if response is None:
        raise errors.UnavailableError("the broker ended the call before all results were sent")
    for operation, result in zip(batch, response.results, strict=True):
        attributes = from_item(result.attributes) if result.HasField("attributes") else None
        yield WriteResult(operation, to_write_error(result), attributes)


def _check_bound(field: str, value: int, limit: int) -> None:
    if not 1 <= value <= limit:
        raise errors.ValidationError(
            f"{field}: {value} is not between 1 and {limit}", metadata={"field": field, "limit": str(limit)}
        )
