# Generated from headrace/_async/consumer.py by clients/python/unasync.py; never edited.

"""One membership in a consumer group: a session over ConsumerService.Consume."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Final, Self

import grpc
from google.protobuf.duration_pb2 import Duration

from headrace import _lazy, errors
from headrace._channel import UNARY_TIMEOUT_S
from headrace._concurrency import Duplex, Lock
from headrace._messages import enum_name, enum_value, to_gap, to_timestamp
from headrace._models import Gap
from headrace._stubs import Stubs
from headrace.v1 import consumer_service_pb2 as pb
from headrace.v1 import record_pb2

_LOGGER: Final = logging.getLogger(__name__)

# Of the shards that are processed to their ends, so many are remembered: a late ack of one of them is no mistake.
_FINISHED_SHARDS_MAX: Final = 1_024
# The longest wait that a nack may ask for.
RETRY_DELAY_MAX_S: Final = 15 * 60

# How long leaving waits for the broker to take the last acks and let go of the shards.
_LEAVE_TIMEOUT_S: Final = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """Records of one shard, in order; at least one."""

    # Decoded when they are first looked at.
    records: Sequence[record_pb2.Record]
    shard_id: str
    # Rises each time the shard is assigned: a fencing token for side effects.
    lease_epoch: int
    # What to ack when the records are processed.
    sequence_number: str
    # How long ago the shard's next unread record was written; 0 at the tip.
    millis_behind_latest: int
    # LOG, SNAPSHOT or PARKED.
    source: str = "LOG"
    # What was lost just before these records, if the session skips gaps.
    gap: Gap | None = None


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
    # What was lost since the last delivery.
    gap: Gap | None = None


@dataclass(slots=True)
class _Nack:
    """A nack that waits for its answer."""

    sequence_number: str
    is_answered: bool = False
    # Why it was refused, if it was.
    refusal: errors.HeadraceError | None = None


class ConsumerSession:
    """A member of a group, from entering to leaving; `for` gives its deliveries.

    Standby, heartbeats, the coming, moving and ending of shards are handled inside: deliveries of a shard that this
    member has lost before they were handed out are dropped. There is no reconnecting: when the connection breaks,
    iterating and acking raise, and whoever owns the session opens another, which goes on after the last checkpoint.
    """

    def __init__(
        self,
        channel: grpc.Channel,
        *,
        group_name: str,
        table_name: str = "",
        stream_arn: str = "",
        starting_position: str = "TRIM_HORIZON",
        starting_sequence_number: str | None = None,
        starting_timestamp: datetime | None = None,
        member_name: str = "",
        max_batch_records: int = 1_000,
        max_in_flight_records: int = 10_000,
        max_in_flight_bytes: int | None = None,
        assignment_mode: str = "SHARED",
        on_gap: str = "FAIL",
        max_attempts: int | None = None,
        revoke_timeout_s: int | None = None,
    ) -> None:
        """Reads the stream `stream_arn`, or the enabled stream of `table_name`.

        `starting_position` counts only while the group is new: TRIM_HORIZON, LATEST, AFTER_SEQUENCE_NUMBER,
        AT_TIMESTAMP or SNAPSHOT. A delivery has at most `max_batch_records`; no more come while so many records or
        bytes are in flight, that is, not acked. With the `assignment_mode` EXCLUSIVE one member holds all shards and
        the others stand by. A shard that is to move to another member is taken away after `revoke_timeout_s` at the
        latest. What is None is left to the broker.
        """
        self._start = pb.ConsumeStart(
            stream_arn=stream_arn,
            table_name=table_name,
            group_name=group_name,
            member_name=member_name,
            starting_position=enum_value(pb.StartingPosition, starting_position, "starting_position"),
            starting_sequence_number=starting_sequence_number,
            starting_timestamp=None if starting_timestamp is None else to_timestamp(starting_timestamp),
            max_batch_records=max_batch_records,
            max_in_flight_records=max_in_flight_records,
            max_in_flight_bytes=max_in_flight_bytes,
            assignment_mode=enum_value(pb.AssignmentMode, assignment_mode, "assignment_mode"),
            on_gap=enum_value(pb.GapPolicy, on_gap, "on_gap"),
            max_attempts=max_attempts,
            revoke_timeout_in_seconds=revoke_timeout_s,
        )
        self._consumers = Stubs(channel).consumers
        self._duplex: Duplex[pb.ConsumeRequest, pb.ConsumeResponse] | None = None
        self._shards: dict[str, _Shard] = {}
        # By shard and epoch: one for each lease at most, for it ends there.
        self._nacks: dict[tuple[str, int], _Nack] = {}
        # Bounded by the credit: the broker sends no more until some of these are acked.
        self._deliveries: deque[Delivery] = deque()
        # Counts responses, so that a caller who waited for another's turn knows that something has happened.
        self._responses_handled = 0
        self._handling = Lock()
        # The acks of a shard must rise, whichever thread they come from.
        self._acking = Lock()
        # Why the session is over, once it is.
        self._ending: errors.HeadraceError | None = None
        self.stream_arn = ""
        self.region = ""
        # True while another member holds the shards and this one waits.
        self.is_standby = False

    def __enter__(self) -> Self:
        """Joins the group.

        Raises: ValidationError, ResourceNotFoundError, UnavailableError.
        """
        self._duplex = Duplex(self._consumers.Consume)
        try:
            self._join(self._duplex)
        except BaseException:
            self._duplex.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leaves the group; acks sent before are taken, unless the connection is broken."""
        self._open_duplex().finish(_LEAVE_TIMEOUT_S)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Delivery:
        """The next delivery of a shard that is held. Cancelling the wait loses nothing.

        Raises: UnavailableError when the broker goes away; LeaseFencedError, TrimmedDataAccessError.
        """
        while True:
            # Only this takes deliveries away: others, in other threads perhaps, make them void by the lease.
            while self._deliveries:
                delivery = self._deliveries.popleft()
                if self.holds(delivery):
                    return delivery
            self._handle_next_response()

    def ack(self, delivery: Delivery, *, durable: bool = False) -> None:
        """Says that this delivery, and all before it of its shard, is processed. `durable` waits until that is on disk.

        An ack is safe to lose: what it covers is delivered again.

        Raises: LeaseFencedError if the shard has moved, or was assigned anew, since; UnavailableError.
        """
        shard = self._held(delivery)
        with self._acking:
            if delivery.sequence_number > shard.acked:
                self._send_ack(delivery.shard_id, shard, delivery.sequence_number)
        while durable and shard.checkpointed < delivery.sequence_number:
            self._handle_next_response()
            if shard.checkpointed < delivery.sequence_number:
                self._held(delivery)

    def nack(
        self,
        delivery: Delivery,
        sequence_number: str,
        *,
        reason: str = "TRANSIENT",
        retry_delay_s: float | None = None,
        message: str = "",
    ) -> None:
        """Says that a record of this delivery could not be processed, and that all before it are.

        TRANSIENT: it is delivered again, after `retry_delay_s` or a delay that doubles; the last attempt parks its key.
        FATAL parks it now. SHUTDOWN: another member gets it. What was delivered of the shard after it is void:
        deliveries that were not handed out are dropped, acks of others raise LeaseFencedError. Returns when the nack is
        on disk.

        Raises: ValidationError if the record is not in this delivery, or is acked; LeaseFencedError if the shard has
        moved, or was assigned anew, since; UnavailableError.
        """
        shard = self._held(delivery)
        nack = pb.ConsumeNack(
            shard_id=delivery.shard_id,
            lease_epoch=shard.lease_epoch,
            sequence_number=sequence_number,
            reason=enum_value(pb.NackReason, reason, "reason"),
            message=message,
        )
        if retry_delay_s is not None:
            if not 0 <= retry_delay_s <= RETRY_DELAY_MAX_S:
                raise errors.ValidationError(
                    f"retry_delay_s: {retry_delay_s} is not between 0 and {RETRY_DELAY_MAX_S}",
                    metadata={"field": "retry_delay_s", "limit": str(RETRY_DELAY_MAX_S)},
                )
            delay = Duration()
            delay.FromMicroseconds(round(retry_delay_s * 1_000_000))
            nack.retry_delay.CopyFrom(delay)
        if not shard.acked < sequence_number <= delivery.sequence_number:
            # The broker would refuse it when all that was delivered since is dropped here already.
            raise errors.ValidationError(
                f"sequence_number: {sequence_number} is not in this delivery, or is acked",
                metadata={"field": "sequence_number"},
            )
        # The broker assigns the shard anew when it has taken the nack.
        del self._shards[delivery.shard_id]
        lease = delivery.shard_id, delivery.lease_epoch
        answer = self._nacks[lease] = _Nack(sequence_number)
        try:
            self._open_duplex().send(pb.ConsumeRequest(nack=nack))
            while not answer.is_answered:
                self._handle_next_response()
        finally:
            del self._nacks[lease]
        if answer.refusal is not None:
            raise answer.refusal

    def leave(self) -> None:
        """Tells the broker that no more acks come: it takes those that were sent, and ends the session."""
        self._open_duplex().done_sending()

    def holds(self, delivery: Delivery) -> bool:
        """Whether the shard of a delivery is still held under the lease it was delivered with."""
        shard = self._shards.get(delivery.shard_id)
        return shard is not None and shard.lease_epoch == delivery.lease_epoch

    def _join(self, duplex: Duplex[pb.ConsumeRequest, pb.ConsumeResponse]) -> None:
        duplex.send(pb.ConsumeRequest(start=self._start))
        response = duplex.receive(UNARY_TIMEOUT_S)
        if response is None or not response.HasField("started"):
            raise errors.UnavailableError("the broker did not answer the start of the session")
        self.stream_arn = response.started.stream_arn
        self.region = response.started.region
        self.is_standby = response.started.standby

    def _send_ack(self, shard_id: str, shard: _Shard, sequence_number: str) -> None:
        # With the last delivery of a closed shard its end is processed too.
        if shard.end and sequence_number >= shard.delivered:
            sequence_number = shard.end
        shard.acked = sequence_number
        ack = pb.ConsumeAck(shard_id=shard_id, lease_epoch=shard.lease_epoch, sequence_number=sequence_number)
        self._open_duplex().send(pb.ConsumeRequest(ack=ack))

    def _handle_next_response(self) -> None:
        """Takes one response from the broker, or waits for the caller who is already doing so."""
        seen = self._responses_handled
        with self._handling:
            if self._responses_handled != seen:
                return
            if self._ending is not None:
                raise self._ending
            try:
                response = self._open_duplex().receive()
                if response is not None:
                    self._handle(response)
            except errors.HeadraceError as error:
                self._ending = error
                raise
            if response is None:
                self._ending = errors.UnavailableError("the broker has ended the session")
                raise self._ending
            self._responses_handled += 1

    def _handle(self, response: pb.ConsumeResponse) -> None:
        shard_id, event = response.shard_id, response.WhichOneof("event")
        if event == "assigned":
            at = response.assigned.checkpoint
            # Put last, so that those which ended first are forgotten first.
            self._shards.pop(shard_id, None)
            self._shards[shard_id] = _Shard(response.lease_epoch, delivered=at, acked=at, checkpointed=at)
            self.is_standby = False
            return
        nack = self._nacks.get((shard_id, response.lease_epoch))
        if nack is not None and event == "nacked":
            nack.is_answered = True
            return
        if nack is not None and event == "refused" and nack.sequence_number == response.sequence_number:
            nack.refusal = self._refusal_of_nack(response)
            nack.is_answered = True
            return
        if event == "refused" and response.refused.reason != errors.LeaseFencedError.reason:
            raise errors.from_message(response.refused)
        shard = self._shards.get(shard_id)
        if shard is None or response.lease_epoch != shard.lease_epoch:
            return  # a heartbeat, or about a lease that was lost since
        if event in {"revoked", "refused"}:
            _LOGGER.info("a shard has moved shard_id=%s lease_epoch=%d", shard_id, shard.lease_epoch)
            del self._shards[shard_id]
            return
        if event == "checkpointed":
            shard.checkpointed = response.sequence_number
            if len(self._shards) > _FINISHED_SHARDS_MAX:
                self._forget_finished_shards()
        elif event == "shard_ended":
            shard.end = response.sequence_number
        elif event == "gap":
            shard.gap = to_gap(response.gap)
            shard.delivered = shard.acked = shard.checkpointed = response.sequence_number
            _LOGGER.warning("records were lost shard_id=%s gap=%s", shard_id, shard.gap)
        elif response.records:
            shard.delivered = response.sequence_number
            self._deliveries.append(
                Delivery(
                    records=_lazy.Lazy(_lazy.encoded_records(response), record_pb2.Record.FromString),
                    shard_id=shard_id,
                    lease_epoch=response.lease_epoch,
                    sequence_number=response.sequence_number,
                    millis_behind_latest=response.millis_behind_latest,
                    source=enum_name(pb.RecordSource, response.source),
                    gap=shard.gap,
                )
            )
            shard.gap = None
            return
        is_news = event == "shard_ended" or (event is None and response.sequence_number > shard.acked)
        with self._acking:
            if is_news and shard.acked >= shard.delivered:
                # Nothing is open, and the shard has ended or the position has moved on without records: without this
                # ack, its children would not begin, or the checkpoint of a quiet shard would age out.
                self._send_ack(shard_id, shard, response.sequence_number)

    def _held(self, delivery: Delivery) -> _Shard:
        shard = self._shards.get(delivery.shard_id)
        if shard is None or shard.lease_epoch != delivery.lease_epoch:
            raise errors.LeaseFencedError(f"shard {delivery.shard_id}: lease {delivery.lease_epoch} is no longer held")
        return shard

    def _forget_finished_shards(self) -> None:
        finished = [
            shard_id for shard_id, shard in self._shards.items() if shard.end and shard.checkpointed >= shard.end
        ]
        for shard_id in finished[:-_FINISHED_SHARDS_MAX]:
            del self._shards[shard_id]

    @staticmethod
    def _refusal_of_nack(response: pb.ConsumeResponse) -> errors.HeadraceError:
        error = errors.from_message(response.refused)
        if not isinstance(error, errors.LeaseFencedError):
            # The record is gone, as when its key was discarded. The lease may go on at the broker, but what came under
            # it since the nack is dropped here: only a new session gets that again.
            raise errors.UnavailableError(f"a nack was refused: {error}")
        return error

    def _open_duplex(self) -> Duplex[pb.ConsumeRequest, pb.ConsumeResponse]:
        if self._duplex is None:
            raise RuntimeError("the session is not entered: use it as `with`")
        return self._duplex
