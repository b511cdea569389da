"""Carries the records of one consumer session to a function, batch by batch, and checkpoints what it has processed.

At least once, in order, without a gap: a batch is acked only after the function returned, and the next batch is not
begun before. A batch that fails is tried again, the same records in the same event, until it succeeds or the trigger is
stopped; meanwhile its shard waits, as in Lambda.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from random import Random
from typing import Final, Protocol, TypeVar

from headrace import errors
from headrace._backoff import Backoff
from headrace.consumer import Delivery
from headrace.triggers.batch import Batch, BatchQueue
from headrace.triggers.function import InvocationResult, wall_clock_us
from headrace.triggers.report import Reporter

# Between two tries of a batch that fails.
RETRY_INITIAL_S: Final = 0.2
RETRY_MAX_S: Final = 30.0

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

    def holds(self, delivery: Delivery) -> bool:
        """As ConsumerSession.holds."""
        ...


class Invoker(Protocol):
    """What is needed of a function."""

    async def invoke(self, event: bytes) -> InvocationResult:
        """As Function.invoke."""
        ...


class UnreadSessionError(Exception):
    """A batch fails while so much waits behind it that nobody reads the session. It has to be opened anew.

    Else nobody would notice that the session has ended and another host holds the lease, and a late success would put
    old changes over newer ones.
    """


class Deliverer:
    """Delivers sessions to one function, one session after the other."""

    def __init__(
        self,
        function: Invoker,
        reporter: Reporter,
        *,
        batch_size: int,
        random: Random,
        now_us: Callable[[], int] = wall_clock_us,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._function = function
        self._reporter = reporter
        self._batch_size = batch_size
        self._random = random
        self._now_us = now_us
        self._sleep = sleep
        self._is_stopping = False
        self.is_busy = False
        """True from the start of a call of the function until its batch is acked or the call has failed."""
        self.batches_done = 0

    def stop_after_call(self) -> None:
        """Makes run() return when the call that is running is done. If none is, cancel run(): nothing is lost."""
        self._is_stopping = True

    async def run(self, session: Session) -> None:
        """Delivers until told to stop. What was not acked when it raises comes again.

        Raises: what the session raises; UnreadSessionError.
        """
        queue = BatchQueue(stream_arn=session.stream_arn, region=session.region, batch_size=self._batch_size)
        reading = asyncio.create_task(_read(session, queue), name="read deliveries")
        try:
            while not self._is_stopping:
                batch = await _unless_ended(reading, queue.take())
                await self._process(batch, session, queue, reading)
        finally:
            reading.cancel()
            await asyncio.wait({reading})

    async def _process(self, batch: Batch, session: Session, queue: BatchQueue, reading: asyncio.Task[None]) -> None:
        """Calls the function until it succeeds, then acks; returns early if told to stop, or if the shard has moved."""
        backoff = Backoff(initial_s=RETRY_INITIAL_S, max_s=RETRY_MAX_S, random=self._random)
        # Another host has a shard that has moved: a late success here would put old changes over newer ones.
        while session.holds(batch.position):
            self.is_busy = True
            try:
                result = await self._function.invoke(batch.event)
                if result.error is None:
                    await self._succeeded(batch, result, session)
                    return
            finally:
                self.is_busy = False
            self._reporter.add_failure(duration_ms=result.duration_ms)
            if self._is_stopping:
                return
            if queue.is_full:
                raise UnreadSessionError("a batch failed, and the records behind it fill the memory they may take")
            delay_s = backoff.next_s()
            # The message may hold data of items: it goes to the trigger's log only.
            error_type = result.error.error_type
            _LOGGER.info("a batch failed records=%d error=%s retry_s=%.2f", batch.record_count, error_type, delay_s)
            await _unless_ended(reading, self._sleep(delay_s))

    async def _succeeded(self, batch: Batch, result: InvocationResult, session: Session) -> None:
        # 1. Report: the call was made, whatever becomes of the ack.
        age_ms = max(0, self._now_us() // 1000 - batch.last_record_time_ms)
        self._reporter.add_success(
            record_count=batch.record_count, duration_ms=result.duration_ms, iterator_age_ms=age_ms
        )
        # 2. Ack. Nobody acks after the last batch, so only there it is worth the wait for the disk.
        try:
            await session.ack(batch.position, durable=self._is_stopping)
        except errors.LeaseFencedError:
            # The shard has moved: its records are delivered again elsewhere. This host goes on with those it holds.
            _LOGGER.info("a shard has moved during a call shard_id=%s", batch.position.shard_id)
            return
        self.batches_done += 1


async def _read(session: Session, queue: BatchQueue) -> None:
    async for delivery in session:
        await queue.put(delivery)


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
