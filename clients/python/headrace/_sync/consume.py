# Generated from headrace/_async/consume.py by clients/python/unasync.py; never edited.

"""A durable consumer: sessions of a group, one after the other for as long as connections break."""

from __future__ import annotations

import logging
from collections.abc import Generator, Sequence
from datetime import datetime
from random import Random
from typing import Final, cast

import grpc

from headrace import errors
from headrace._backoff import Reconnect
from headrace._concurrency import sleep
from headrace._lazy import Lazy
from headrace._models import ConsumeOptions, Gap, NackReason
from headrace._records import ChangeRecord
from headrace._sync.consumer import ConsumerSession, Delivery
from headrace.v1 import record_pb2

_LOGGER: Final = logging.getLogger(__name__)

# The session is over, the group is not: what was not acked is delivered again to the next session.
_LOST_SESSION_ERRORS: Final = (errors.UnavailableError, errors.LeaseFencedError)


class ConsumerBatch:
    """Records of one shard, in order, that the group has not acked before. Ack it when they are processed.

    The records of one key come in order over all batches, one batch after the other.
    """

    def __init__(self, session: ConsumerSession, delivery: Delivery) -> None:
        self._session = session
        self._delivery = delivery
        encoded = cast("Lazy[record_pb2.Record]", delivery.records).encoded
        # Decoded when they are first looked at.
        self.records: Final[Sequence[ChangeRecord]] = Lazy(encoded, ChangeRecord)
        self.shard_id: Final = delivery.shard_id
        # LOG; SNAPSHOT for the items a group begins with; PARKED for a key that is redriven.
        self.source: Final = delivery.source
        # What was lost just before these records, for a consumer that skips gaps.
        self.gap: Final[Gap | None] = delivery.gap
        # Rises each time the shard is assigned: a fencing token for side effects.
        self.lease_epoch: Final = delivery.lease_epoch
        self.sequence_number: Final = delivery.sequence_number
        # How long ago the shard's next unread record was written; 0 at the tip.
        self.millis_behind_latest: Final = delivery.millis_behind_latest

    def ack(self, *, durable: bool = False) -> bool:
        """Says that this batch, and all before it of its shard, is processed. `durable` waits until that is on disk.

        Returns False if the session has been lost: then these records are delivered again.
        """
        try:
            self._session.ack(self._delivery, durable=durable)
        except _LOST_SESSION_ERRORS:
            return False
        return True

    def nack(
        self,
        record: ChangeRecord,
        *,
        reason: NackReason = "TRANSIENT",
        retry_delay_s: float | None = None,
        message: str = "",
    ) -> bool:
        """Says that a record of this batch could not be processed, and that all before it are. Then leave the batch.

        TRANSIENT: it comes again, after `retry_delay_s` or a delay that doubles from 0.1 to 30 seconds; the last of
        `max_attempts` parks its key. FATAL parks the key now: the record and all later ones of the key wait in the
        broker until they are redriven, and the shard goes on. SHUTDOWN: another member gets it. `message` is for
        people, and is kept. On disk when this returns.

        Returns False if the session or the shard has been lost: then these records are delivered again.

        Raises: ValidationError if the record is not in this batch, or is acked.
        """
        try:
            self._session.nack(
                self._delivery, record.sequence_number, reason=reason, retry_delay_s=retry_delay_s, message=message
            )
        except _LOST_SESSION_ERRORS:
            return False
        return True


class Consumption:
    """One member of a group: sessions, one after the other for as long as connections break."""

    def __init__(self, channel: grpc.Channel, table: str, options: ConsumeOptions, random: Random) -> None:
        self._channel = channel
        self._table = table
        self._options = options
        self._random = random
        self._is_stopping = False
        # The session, while its next delivery is waited for.
        self._waiting: ConsumerSession | None = None

    def batches(self) -> Generator[ConsumerBatch, None, None]:
        """See Client.consume."""
        reconnect = Reconnect(self._random)
        while True:
            session = self._session()
            try:
                with session:
                    reconnect.connected()
                    while (delivery := self._next(session)) is not None:
                        reconnect.progressed()
                        yield ConsumerBatch(session, delivery)
            except _LOST_SESSION_ERRORS as error:
                if self._is_stopping:
                    return
                delay_s = reconnect.delay_s(error)
                _LOGGER.warning(
                    "session lost, joining again group=%s delay_s=%.1f error=%s", self._options.group, delay_s, error
                )
                sleep(delay_s)
            else:
                return

    def stop(self) -> None:
        """Ends `batches`: at once if the next batch is waited for, else when it is asked for."""
        self._is_stopping = True
        if (session := self._waiting) is not None:
            session.leave()

    def _next(self, session: ConsumerSession) -> Delivery | None:
        """The next delivery, or None to stop."""
        # In this order, and in stop() in the other: so in two threads one of them sees what the other has done.
        self._waiting = session
        try:
            delivery = None if self._is_stopping else next(session)
        finally:
            self._waiting = None
        # Once the session was told to leave, a delivery could not be acked.
        return None if self._is_stopping else delivery

    def _session(self) -> ConsumerSession:
        options, start = self._options, self._options.start
        return ConsumerSession(
            self._channel,
            table_name=self._table,
            group_name=options.group,
            member_name=options.member,
            starting_position="AT_TIMESTAMP" if isinstance(start, datetime) else start,
            starting_timestamp=start if isinstance(start, datetime) else None,
            max_batch_records=options.max_batch_records,
            max_in_flight_records=options.max_in_flight_records,
            max_in_flight_bytes=options.max_in_flight_bytes,
            on_gap=options.on_gap,
            max_attempts=options.max_attempts,
        )
