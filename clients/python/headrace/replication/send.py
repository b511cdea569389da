"""Sends changes to the target, several requests ahead of their answers, and tells in order what is applied."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from headrace import errors
from headrace._concurrency import AsyncDuplex
from headrace.replication.region import Region
from headrace.v1 import record_pb2
from headrace.v1 import replication_service_pb2 as pb

Receipt = TypeVar("Receipt")

# protos: ApplyChangesRequest. By bytes too, so that a request stays well under gRPC's 4 MiB.
REQUEST_CHANGES_MAX: Final = 1_000
REQUEST_BYTES_MAX: Final = 1024 * 1024

# The target takes up to 16 requests ahead of their answers. Half of that keeps its disk busy over a long line, and
# bounds what is sent twice after a crash to 8 MiB.
REQUESTS_AHEAD_MAX: Final = 8

# A target that does not answer a request for so long is taken to be gone.
ANSWER_TIMEOUT_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class _Sent(Generic[Receipt]):
    receipt: Receipt
    is_answered: bool


class ChangeSender(Generic[Receipt]):
    """One stream of changes to one table.

    Each request is sent with a receipt; `applied` gives the receipts back, in the same order, when the target said that
    what they stand for is on its disk.
    """

    def __init__(
        self, target: Region, table_name: str, duplex: AsyncDuplex[pb.ApplyChangesRequest, pb.ApplyChangesResponse]
    ) -> None:
        self._target = target
        self._table_name = table_name
        self._duplex = duplex
        self._sent: asyncio.Queue[_Sent[Receipt] | None] = asyncio.Queue(REQUESTS_AHEAD_MAX)

    async def send(self, request: pb.ApplyChangesRequest, receipt: Receipt) -> None:
        """Sends one request, waiting while too many are not answered."""
        request.table_name = self._table_name
        await self._sent.put(_Sent(receipt, is_answered=True))
        with self._target.blamed():
            await self._duplex.send(request)

    async def pass_on(self, receipt: Receipt) -> None:
        """Gives a receipt for which nothing needs to be sent; it comes back when all before it have."""
        await self._sent.put(_Sent(receipt, is_answered=False))

    async def finish(self) -> None:
        """Says that nothing more is sent: `applied` ends after the last receipt."""
        await self._sent.put(None)

    async def applied(self) -> AsyncIterator[Receipt]:
        """The receipts of what is applied, in order."""
        while (sent := await self._sent.get()) is not None:
            if sent.is_answered:
                with self._target.blamed():
                    if await self._duplex.receive(ANSWER_TIMEOUT_S) is None:
                        raise errors.UnavailableError("the broker ended the stream of changes")
            yield sent.receipt


def requests_of(
    items: Iterable[pb.VersionedItem], removals: Iterable[record_pb2.Record]
) -> Iterator[pb.ApplyChangesRequest]:
    """The requests that carry these changes, none too large."""
    request, size = pb.ApplyChangesRequest(), 0
    changes: list[pb.VersionedItem | record_pb2.Record] = [*items, *removals]
    for change in changes:
        change_bytes = change.ByteSize()
        count = len(request.items) + len(request.records)
        if count and (count >= REQUEST_CHANGES_MAX or size + change_bytes > REQUEST_BYTES_MAX):
            yield request
            request, size = pb.ApplyChangesRequest(), 0
        if isinstance(change, pb.VersionedItem):
            request.items.append(change)
        else:
            request.records.append(change)
        size += change_bytes
    if request.items or request.records:
        yield request
