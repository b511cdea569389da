"""A durable consumer: sessions of a group, one after the other for as long as connections break."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from random import Random
from typing import Final

import grpc.aio

from headrace import errors
from headrace._async.consumer import AsyncConsumerSession, Delivery
from headrace._backoff import Reconnect
from headrace._concurrency import async_sleep
from headrace._records import ChangeRecord

_LOGGER: Final = logging.getLogger(__name__)

# The session is over, the group is not: what was not acked is delivered again to the next session.
_LOST_SESSION_ERRORS: Final = (errors.UnavailableError, errors.LeaseFencedError)


class AsyncConsumerBatch:
    """Records of one shard, in order, that the group has not acked before. Ack it when they are processed."""

    def __init__(self, session: AsyncConsumerSession, delivery: Delivery) -> None:
        self._session = session
        self._delivery = delivery
        self.records: Final = tuple(map(ChangeRecord, delivery.records))
        self.shard_id: Final = delivery.shard_id
        # Rises each time the shard is assigned: a fencing token for side effects.
        self.lease_epoch: Final = delivery.lease_epoch
        self.sequence_number: Final = delivery.sequence_number
        # How long ago the shard's next unread record was written; 0 at the tip.
        self.millis_behind_latest: Final = delivery.millis_behind_latest

    async def ack(self, *, durable: bool = False) -> bool:
        """Says that this batch, and all before it of its shard, is processed. `durable` waits until that is on disk.

        Returns False if the session has been lost: then these records are delivered again.
        """
        try:
            await self._session.ack(self._delivery, durable=durable)
        except _LOST_SESSION_ERRORS:
            return False
        return True


async def consume(
    channel: grpc.aio.Channel,
    *,
    table: str,
    group: str,
    start: str,
    member: str,
    max_batch_records: int,
    max_in_flight_records: int,
    random: Random,
) -> AsyncGenerator[AsyncConsumerBatch, None]:
    """See AsyncClient.consume."""
    reconnect = Reconnect(random)
    while True:
        session = AsyncConsumerSession(
            channel,
            table_name=table,
            group_name=group,
            member_name=member,
            starting_position=start,
            max_batch_records=max_batch_records,
            max_in_flight_records=max_in_flight_records,
        )
        try:
            async with session:
                reconnect.connected()
                async for delivery in session:
                    reconnect.progressed()
                    yield AsyncConsumerBatch(session, delivery)
        except _LOST_SESSION_ERRORS as error:
            delay_s = reconnect.delay_s(error)
            _LOGGER.warning("session lost, joining again group=%s delay_s=%.1f error=%s", group, delay_s, error)
            await async_sleep(delay_s)
