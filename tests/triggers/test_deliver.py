"""Delivering: ack only after success, the same batch again after a failure, order, and every way to stop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

import pytest

from headrace import errors
from headrace.triggers.deliver import Deliverer
from headrace.triggers.function import InvocationResult
from headrace.triggers.report import Reporter
from headrace.triggers.runtime_api import FunctionError
from headrace.v1 import trigger_service_pb2 as pb
from tests.triggers.deliveries import WRITTEN_MS, FakeSession, delivery, numbers

OK = InvocationResult(error=None, duration_ms=2.0)
FAILED = InvocationResult(error=FunctionError(error_type="ValueError", message="bad"), duration_ms=3.0)


class FakeFunction:
    """Notes the events it is called with and answers what the test planned; then it succeeds."""

    def __init__(self, *planned: InvocationResult) -> None:
        self.events: list[bytes] = []
        self.calls = asyncio.Semaphore(0)
        self.may_return = asyncio.Event()
        self.may_return.set()
        self._planned = list(planned)

    async def invoke(self, event: bytes) -> InvocationResult:
        self.events.append(event)
        self.calls.release()
        await self.may_return.wait()
        return self._planned.pop(0) if self._planned else OK

    async def called(self, times: int = 1) -> None:
        """Returns after so many more calls."""
        async with asyncio.timeout(5):
            for _ in range(times):
                await self.calls.acquire()


async def _nowhere(_: pb.ReportInvocationsRequest) -> None:
    return


class Delivering:
    """A deliverer at work on a fake session."""

    def __init__(self, session: FakeSession, function: FakeFunction, batch_size: int = 100) -> None:
        self.session = session
        self.function = function
        self.reporter = Reporter("orders", _nowhere, random=Random(1))
        self.deliverer = Deliverer(
            function,
            self.reporter,
            batch_size=batch_size,
            now_us=lambda: (WRITTEN_MS + 1_000) * 1_000,
        )
        self.task = asyncio.create_task(self.deliverer.run(session))

    async def settled(self) -> None:
        """Returns when nothing happens any more."""
        for _ in range(50):
            await asyncio.sleep(0)

    async def failure(self) -> BaseException | None:
        """What ended it."""
        await asyncio.wait({self.task}, timeout=5)
        assert self.task.done()
        return self.task.exception()


@asynccontextmanager
async def delivering(session: FakeSession, function: FakeFunction, batch_size: int = 100) -> AsyncIterator[Delivering]:
    running = Delivering(session, function, batch_size)
    try:
        yield running
    finally:
        running.task.cancel()
        await asyncio.wait({running.task})


async def test_batches_are_delivered_in_order_and_acked_one_by_one() -> None:
    async with delivering(FakeSession(delivery([1, 2, 3, 4, 5])), FakeFunction(), batch_size=2) as running:
        await running.function.called(3)
        await running.settled()
        assert [numbers(event) for event in running.function.events] == [[1, 2], [3, 4], [5]]
        assert running.session.acked == [("shard-1", 1, n, False) for n in (2, 4, 5)]
        counts = running.reporter._counts
        assert (counts.invocations, counts.errors, counts.records, counts.duration_ms) == (3, 0, 5, 6.0)
        assert running.reporter._iterator_age_ms == 1_000 - 5


async def test_nothing_is_acked_and_nothing_else_begun_while_the_function_works() -> None:
    function = FakeFunction()
    function.may_return.clear()
    async with delivering(FakeSession(delivery([1, 2]), delivery([3])), function, batch_size=2) as running:
        await function.called()
        await running.settled()
        assert running.session.acked == []
        assert len(function.events) == 1
        function.may_return.set()
        await function.called()
        await running.settled()
        assert [acked[2] for acked in running.session.acked] == [2, 3]


# As in Lambda: the shard is blocked by a batch that fails, until it succeeds. The broker waits, and delivers it again.
async def test_a_batch_that_fails_is_given_back_and_what_follows_is_not_begun() -> None:
    function = FakeFunction(FAILED, FAILED)
    async with delivering(FakeSession(delivery([1, 2]), delivery([3])), function, batch_size=2) as running:
        await function.called()
        await running.settled()
        assert running.session.nacked == [("shard-1", 1, 1)]
        assert len(function.events) == 1
        running.session.put(delivery([1, 2, 3], epoch=2))
        await function.called()
        await running.settled()
        assert running.session.nacked[1:] == [("shard-1", 2, 1)]
        running.session.put(delivery([1, 2, 3], epoch=3))
        await function.called(2)
        await running.settled()
        assert [numbers(event) for event in function.events] == [[1, 2]] * 3 + [[3]]
        assert running.session.acked == [("shard-1", 3, 2, False), ("shard-1", 3, 3, False)]
        counts = running.reporter._counts
        assert (counts.invocations, counts.errors, counts.records) == (4, 2, 3)


async def test_a_batch_that_fails_comes_again_as_it_was_though_more_has_come() -> None:
    function = FakeFunction(FAILED)
    async with delivering(FakeSession(delivery([1, 2])), function) as running:
        await function.called()
        await running.settled()
        running.session.put(delivery([1, 2, 3, 4], epoch=2))
        await function.called(2)
        assert function.events[0] == function.events[1]
        assert numbers(function.events[2]) == [3, 4]


async def test_a_shard_that_fails_lets_the_others_go_on() -> None:
    function = FakeFunction(FAILED)
    session = FakeSession(delivery([1, 2]), *(delivery([number], shard="shard-2") for number in (11, 12, 13)))
    async with delivering(session, function, batch_size=1) as running:
        await function.called(4)
        await running.settled()
        assert [numbers(event) for event in function.events] == [[1], [11], [12], [13]]
        assert session.nacked == [("shard-1", 1, 1)]


async def test_a_batch_that_fails_behind_one_that_was_cut_begins_where_that_ended() -> None:
    function = FakeFunction(OK, FAILED)
    async with delivering(FakeSession(delivery([1, 2, 3])), function, batch_size=2) as running:
        await function.called(2)
        await running.settled()
        assert running.session.acked == [("shard-1", 1, 2, False)]
        assert running.session.nacked == [("shard-1", 1, 3)]


async def test_a_broken_session_ends_the_wait_for_records() -> None:
    async with delivering(FakeSession(), FakeFunction()) as running:
        running.session.put(errors.UnavailableError("gone"))
        assert isinstance(await running.failure(), errors.UnavailableError)


# The lease may be somebody else's by now: nothing of this session may be processed any more.
async def test_a_session_that_breaks_when_a_batch_is_given_back_ends_it() -> None:
    session = FakeSession(delivery([1]), delivery([7], shard="shard-2"))
    session.ack_error = errors.UnavailableError("gone")
    function = FakeFunction(FAILED)
    async with delivering(session, function) as running:
        assert isinstance(await running.failure(), errors.UnavailableError)
        assert [numbers(event) for event in function.events] == [[1]]
        assert running.reporter._counts.errors == 1


async def test_records_of_a_broken_session_that_wait_are_not_delivered() -> None:
    function = FakeFunction()
    function.may_return.clear()
    async with delivering(FakeSession(delivery([1]), delivery([2])), function, batch_size=1) as running:
        await function.called()
        running.session.put(errors.UnavailableError("gone"))
        running.session.ack_error = errors.UnavailableError("gone")
        function.may_return.set()
        assert isinstance(await running.failure(), errors.UnavailableError)
        assert [numbers(event) for event in function.events] == [[1]]


# The credit bounds what waits. If the session were not read, a lease that is lost during a call would go unnoticed.
async def test_the_session_is_read_while_the_function_works() -> None:
    function = FakeFunction()
    function.may_return.clear()
    session = FakeSession(delivery([1]), *(delivery([number], size_bytes=4_000_000) for number in range(2, 20)))
    async with delivering(session, function, batch_size=1) as running:
        await function.called()
        await running.settled()
        assert session.taken == 19
        session.moved.add("shard-1")
        session.put(delivery([30], shard="shard-2"))
        function.may_return.set()
        await function.called()
        await running.settled()
        assert [numbers(event) for event in function.events] == [[1], [30]]


async def test_a_call_is_counted_also_when_its_ack_is_lost() -> None:
    session = FakeSession(delivery([1]))
    session.ack_error = errors.UnavailableError("gone")
    async with delivering(session, FakeFunction()) as running:
        assert isinstance(await running.failure(), errors.UnavailableError)
        assert running.reporter._counts.invocations == 1
        assert running.deliverer.batches_done == 0


# One shard that moves must not take the others of this host along.
async def test_a_shard_that_moves_during_a_call_leaves_the_others_here() -> None:
    session = FakeSession(delivery([1]))
    session.ack_error = errors.LeaseFencedError("taken over")
    function = FakeFunction()
    async with delivering(session, function) as running:
        await function.called()
        await running.settled()
        session.ack_error = None
        session.put(delivery([7], shard="shard-2"))
        await function.called()
        await running.settled()
        assert session.acked == [("shard-2", 1, 7, False)]
        assert running.deliverer.batches_done == 1


async def test_what_waits_of_a_shard_that_has_moved_is_not_delivered() -> None:
    session = FakeSession(delivery([1]), delivery([7], shard="shard-2"))
    session.moved.add("shard-1")
    function = FakeFunction()
    async with delivering(session, function) as running:
        await function.called()
        await running.settled()
        assert [numbers(event) for event in function.events] == [[7]]


async def test_a_failed_batch_is_not_tried_again_when_its_shard_has_moved() -> None:
    session = FakeSession(delivery([1]))
    session.ack_error = errors.LeaseFencedError("taken over")
    function = FakeFunction(FAILED)
    async with delivering(session, function) as running:
        await function.called()
        await running.settled()
        session.moved.add("shard-1")
        session.ack_error = None
        session.put(delivery([7], shard="shard-2"))
        await function.called()
        await running.settled()
        assert [numbers(event) for event in function.events] == [[1], [7]]


async def test_stopping_finishes_the_call_and_waits_until_its_ack_is_on_disk() -> None:
    function = FakeFunction()
    function.may_return.clear()
    async with delivering(FakeSession(delivery([1]), delivery([2])), function, batch_size=1) as running:
        await function.called()
        assert running.deliverer.is_busy
        running.deliverer.stop_after_call()
        function.may_return.set()
        assert await running.failure() is None
        assert running.session.acked == [("shard-1", 1, 1, True)]
        assert len(function.events) == 1


async def test_stopping_does_not_try_a_failed_batch_again_nor_ack_it() -> None:
    function = FakeFunction(FAILED)
    function.may_return.clear()
    async with delivering(FakeSession(delivery([1])), function) as running:
        await function.called()
        running.deliverer.stop_after_call()
        function.may_return.set()
        assert await running.failure() is None
        assert (running.session.acked, running.session.nacked) == ([], [])
        assert running.reporter._counts.errors == 1


@pytest.mark.parametrize("planned", [[], [FAILED]])
async def test_between_calls_it_is_idle_and_can_be_cancelled(planned: list[InvocationResult]) -> None:
    async with delivering(FakeSession(delivery([1])), FakeFunction(*planned)) as running:
        await running.function.called()
        await running.settled()
        assert not running.deliverer.is_busy
        running.task.cancel()
        await asyncio.wait({running.task}, timeout=5)
        assert running.task.cancelled()
