"""Carries the records of one consumer session to a function, batch by batch, and checkpoints what it has processed.

At least once, in order, without a gap: a batch is acked only after the function returned, and the next batch is not
begun before. The shards that a host holds take turns. A batch that fails is given back to the broker, which delivers
its records again, after a wait that doubles, until it succeeds or the trigger is stopped. Meanwhile its shard waits, as
in Lambda, and takes no part of the credit, so the other shards go on. What has come since does not join it: it is the
same event again, unless another host gets the shard.

The session is read all the time, for it is the credit that bounds what waits to be batched. So a lease that is lost is
known before the next call, and no call begins with records that another host may be past.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, Protocol, TypeVar

from headrace import errors
from headrace.consumer import Delivery
from headrace.triggers.batch import Batch, BatchQueue
from headrace.triggers.function import InvocationResult, wall_clock_us
from headrace.triggers.report import Reporter

_LOGGER: Final = logging.getLogger(__name__)

Value = TypeVar("Value")


class Session(Protocol):
    """What is needed of headrace.consumer.ConsumerSession."""

    stream_arn: str
    region: str

    def __aiter__(self) -> AsyncIterator[Delivery]: ...

    async def ack(self, delivery: Delivery, *, durable: bool = False) -> None:
        """As ConsumerSession.ack."""
        ...

    async def nack(self, delivery: Delivery, sequence_number: str, *, message: str = "") -> object:
        """As ConsumerSession.nack."""
        ...

    def holds(self, delivery: Delivery) -> bool:
        """As ConsumerSession.holds."""
        ...


class Invoker(Protocol):
    """What is needed of a function."""

    async def invoke(self, event: bytes) -> InvocationResult:
        """As Function.invoke."""
        ...


class Deliverer:
    """Delivers sessions to one function, one session after the other."""

    def __init__(
        self,
        function: Invoker,
        reporter: Reporter,
        *,
        batch_size: int,
        now_us: Callable[[], int] = wall_clock_us,
    ) -> None:
        self._function = function
        self._reporter = reporter
        self._batch_size = batch_size
        self._now_us = now_us
        self._is_stopping = False
        self.is_busy = False
        """True from the start of a call of the function until its batch is acked or given back."""
        self.batches_done = 0

    def stop_after_call(self) -> None:
        """Makes run() return when the call that is running is done. If none is, cancel run(): nothing is lost."""
        self._is_stopping = True

    async def run(self, session: Session) -> None:
        """Delivers until told to stop. What was not acked when it raises comes again.

        Raises: what the session raises.
        """
        queue = BatchQueue(
            stream_arn=session.stream_arn, region=session.region, batch_size=self._batch_size, holds=session.holds
        )
        reading = asyncio.create_task(_read(session, queue), name="read deliveries")
        try:
            while not self._is_stopping:
                batch = await _unless_ended(reading, queue.take())
                # The shard may have moved since the batch was formed.
                if session.holds(batch.position):
                    await self._process(batch, session, queue)
        finally:
            reading.cancel()
            await asyncio.wait({reading})

    async def _process(self, batch: Batch, session: Session, queue: BatchQueue) -> None:
        """Calls the function, then acks the batch or gives it back."""
        self.is_busy = True
        try:
            result = await self._function.invoke(batch.event)
            try:
                if result.error is None:
                    await self._succeeded(batch, result, session)
                else:
                    await self._failed(batch, result.error.error_type, result.duration_ms, session, queue)
            except errors.LeaseFencedError:
                # Its records are delivered again elsewhere. This host goes on with the shards it holds.
                _LOGGER.info("a shard has moved during a call shard_id=%s", batch.position.shard_id)
        finally:
            self.is_busy = False

    async def _succeeded(self, batch: Batch, result: InvocationResult, session: Session) -> None:
        # 1. Report: the call was made, whatever becomes of the ack.
        age_ms = max(0, self._now_us() // 1000 - batch.last_record_time_ms)
        self._reporter.add_success(
            record_count=batch.record_count, duration_ms=result.duration_ms, iterator_age_ms=age_ms
        )
        # 2. Ack. Nobody acks after the last batch, so only there it is worth the wait for the disk.
        await session.ack(batch.position, durable=self._is_stopping)
        self.batches_done += 1

    async def _failed(
        self, batch: Batch, error_type: str, duration_ms: float, session: Session, queue: BatchQueue
    ) -> None:
        self._reporter.add_failure(duration_ms=duration_ms)
        # The message may hold data of items: it goes to the trigger's log only.
        _LOGGER.info(
            "a batch failed shard_id=%s records=%d error=%s", batch.position.shard_id, batch.record_count, error_type
        )
        # Whoever leaves the group gives everything back.
        if not self._is_stopping:
            queue.keep_together(batch)
            message = f"the function failed: {error_type}"
            await session.nack(batch.position, batch.first_sequence_number, message=message)


async def _read(session: Session, queue: BatchQueue) -> None:
    async for delivery in session:
        queue.put(delivery)


async def _unless_ended(reading: asyncio.Task[None], awaitable: Awaitable[Value]) -> Value:
    """The result of an awaitable; raises what ended the session if that comes first."""
    waiting = asyncio.ensure_future(awaitable)
    try:
        await asyncio.wait({reading, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if reading.done():
            reading.result()
            raise AssertionError("a session ended without an error")
        return waiting.result()
    finally:
        if not waiting.done():
            waiting.cancel()
            await asyncio.wait({waiting})
