"""One membership in a consumer group: a session over ConsumerService.Consume."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

import grpc.aio

from headrace import errors
from headrace._channel import UNARY_TIMEOUT_S
from headrace._concurrency import AsyncDuplex, AsyncLock
from headrace._messages import enum_value
from headrace._stubs import AsyncStubs
from headrace.v1 import consumer_service_pb2 as pb
from headrace.v1 import record_pb2

# How long leaving waits for the broker to take the last acks and let go of the shards.
_LEAVE_TIMEOUT_S: Final = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """Records of one shard, in order; at least one."""

    records: Sequence[record_pb2.Record]
    shard_id: str
    # Rises each time the shard is assigned: a fencing token for side effects.
    lease_epoch: int
    # What to ack when the records are processed.
    sequence_number: str
    # How long ago the shard's next unread record was written; 0 at the tip.
    millis_behind_latest: int


@dataclass(slots=True)
class _Shard:
    """What this member knows of a shard it holds."""

    lease_epoch: int
    # The sequence numbers of the last delivery, of the last ack sent, and of the last ack that is on disk.
    delivered: str = ""
    acked: str = ""
    checkpointed: str = ""
    # The sequence number of the shard's end, once it is read to there.
    end: str = ""


class AsyncConsumerSession:
    """A member of a group, from entering to leaving; `async for` gives its deliveries.

    Standby, heartbeats and the ends of shards are handled inside. There is no reconnecting: when the connection breaks,
    iterating and acking raise, and whoever owns the session opens another, which goes on after the last checkpoint.
    """

    def __init__(
        self,
        channel: grpc.aio.Channel,
        *,
        group_name: str,
        table_name: str = "",
        stream_arn: str = "",
        starting_position: str = "TRIM_HORIZON",
        starting_sequence_number: str | None = None,
        member_name: str = "",
        max_batch_records: int = 1_000,
        max_in_flight_records: int = 10_000,
    ) -> None:
        """Reads the stream `stream_arn`, or the enabled stream of `table_name`.

        `starting_position` counts only while the group is new: TRIM_HORIZON, LATEST or AFTER_SEQUENCE_NUMBER.
        A delivery has at most `max_batch_records`; no more come while `max_in_flight_records` are not acked.
        """
        self._start = pb.ConsumeStart(
            stream_arn=stream_arn,
            table_name=table_name,
            group_name=group_name,
            member_name=member_name,
            starting_position=enum_value(pb.StartingPosition, starting_position, "starting_position"),
            starting_sequence_number=starting_sequence_number or "",
            max_batch_records=max_batch_records,
            max_in_flight_records=max_in_flight_records,
        )
        self._consumers = AsyncStubs(channel).consumers
        self._duplex: AsyncDuplex[pb.ConsumeRequest, pb.ConsumeResponse] | None = None
        self._shards: dict[str, _Shard] = {}
        # Bounded by the credit: the broker sends no more until some of these are acked.
        self._deliveries: deque[Delivery] = deque()
        # Counts responses, so that a caller who waited for another's turn knows that something has happened.
        self._responses_handled = 0
        self._handling = AsyncLock()
        # Why the session is over, once it is.
        self._ending: errors.HeadraceError | None = None
        self.stream_arn = ""
        self.region = ""
        # True while another member holds the shards and this one waits.
        self.is_standby = False

    async def __aenter__(self) -> Self:
        """Joins the group.

        Raises: ValidationError, ResourceNotFoundError, UnavailableError.
        """
        self._duplex = AsyncDuplex(self._consumers.Consume)
        try:
            await self._join(self._duplex)
        except BaseException:
            await self._duplex.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leaves the group; acks sent before are taken, unless the connection is broken."""
        await self._open_duplex().finish(_LEAVE_TIMEOUT_S)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Delivery:
        """The next delivery. Cancelling the wait loses nothing.

        Raises: UnavailableError when the broker goes away; LeaseFencedError, TrimmedDataAccessError.
        """
        while not self._deliveries:
            await self._handle_next_response()
        return self._deliveries.popleft()

    async def ack(self, delivery: Delivery, *, durable: bool = False) -> None:
        """Says that this delivery, and all before it of its shard, is processed. `durable` waits until that is on disk.

        An ack is safe to lose: what it covers is delivered again.

        Raises: LeaseFencedError if the shard was assigned anew since; UnavailableError.
        """
        shard = self._shards.get(delivery.shard_id)
        if shard is None or shard.lease_epoch != delivery.lease_epoch:
            raise errors.LeaseFencedError(f"shard {delivery.shard_id}: lease {delivery.lease_epoch} is no longer held")
        if delivery.sequence_number > shard.acked:
            await self._send_ack(delivery.shard_id, shard, delivery.sequence_number)
        while durable and shard.checkpointed < delivery.sequence_number:
            await self._handle_next_response()

    async def _join(self, duplex: AsyncDuplex[pb.ConsumeRequest, pb.ConsumeResponse]) -> None:
        await duplex.send(pb.ConsumeRequest(start=self._start))
        response = await duplex.receive(UNARY_TIMEOUT_S)
        if response is None or not response.HasField("started"):
            raise errors.UnavailableError("the broker did not answer the start of the session")
        self.stream_arn = response.started.stream_arn
        self.region = response.started.region
        self.is_standby = response.started.standby

    async def _send_ack(self, shard_id: str, shard: _Shard, sequence_number: str) -> None:
        # With the last delivery of a closed shard its end is processed too.
        if shard.end and sequence_number >= shard.delivered:
            sequence_number = shard.end
        shard.acked = sequence_number
        ack = pb.ConsumeAck(shard_id=shard_id, lease_epoch=shard.lease_epoch, sequence_number=sequence_number)
        await self._open_duplex().send(pb.ConsumeRequest(ack=ack))

    async def _handle_next_response(self) -> None:
        """Takes one response from the broker, or waits for the caller who is already doing so."""
        seen = self._responses_handled
        async with self._handling:
            if self._responses_handled != seen:
                return
            if self._ending is not None:
                raise self._ending
            try:
                response = await self._open_duplex().receive()
                if response is not None:
                    await self._handle(response)
            except errors.HeadraceError as error:
                self._ending = error
                raise
            if response is None:
                self._ending = errors.UnavailableError("the broker has ended the session")
                raise self._ending
            self._responses_handled += 1

    async def _handle(self, response: pb.ConsumeResponse) -> None:
        if not response.shard_id:
            return  # a heartbeat
        shard = self._shards.get(response.shard_id)
        if shard is None or response.lease_epoch > shard.lease_epoch:
            shard = self._shards[response.shard_id] = _Shard(lease_epoch=response.lease_epoch)
        self.is_standby = False
        event = response.WhichOneof("event")
        if event == "assigned":
            shard.delivered = shard.acked = shard.checkpointed = response.assigned.checkpoint
        elif event == "checkpointed":
            shard.checkpointed = response.sequence_number
        elif event == "shard_ended":
            shard.end = response.sequence_number
        if response.records:
            shard.delivered = response.sequence_number
            self._deliveries.append(
                Delivery(
                    records=response.records,
                    shard_id=response.shard_id,
                    lease_epoch=response.lease_epoch,
                    sequence_number=response.sequence_number,
                    millis_behind_latest=response.millis_behind_latest,
                )
            )
        elif shard.acked >= shard.delivered and (event == "shard_ended" or response.sequence_number > shard.acked):
            # Nothing is open, and the shard has ended or the position has moved on without records: without this ack,
            # its children would not begin, or the checkpoint of a quiet shard would age out.
            await self._send_ack(response.shard_id, shard, response.sequence_number)

    def _open_duplex(self) -> AsyncDuplex[pb.ConsumeRequest, pb.ConsumeResponse]:
        if self._duplex is None:
            raise RuntimeError("the session is not entered: use it as `async with`")
        return self._duplex
