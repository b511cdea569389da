"""Long work beside short: who waits for whose turn."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from itertools import pairwise

import pytest

from broker.model.turns import TURN_BYTES, Turns


@pytest.fixture
async def turns() -> AsyncIterator[Turns]:
    made = Turns()
    yield made
    made.close()


async def test_work_that_fits_into_a_turn_is_done_in_it(turns: Turns) -> None:
    begun: list[int] = []

    async def work(number: int) -> None:
        await turns.take(TURN_BYTES // 4)
        begun.append(number)

    for number in range(4):
        # Driven by hand: none of them waits.
        with pytest.raises(StopIteration):
            work(number).send(None)
    assert begun == [0, 1, 2, 3]


async def test_more_work_than_a_turn_holds_is_spread_over_turns_in_the_order_of_its_coming(turns: Turns) -> None:
    begun: list[tuple[int, int]] = []
    turn = 0

    async def work(number: int) -> None:
        await turns.take(TURN_BYTES)
        begun.append((turn, number))

    tasks = [asyncio.create_task(work(number)) for number in range(10)]
    while len(begun) < len(tasks):
        await asyncio.sleep(0)
        turn += 1
        assert turn < 100
    assert [number for _, number in begun] == list(range(10))
    # No turn has two of them, so everybody else is served in between.
    assert len({at for at, _ in begun}) == len(begun)


async def test_work_that_tells_afterwards_how_long_it_was_counts_for_its_turn(turns: Turns) -> None:
    await turns.take(1)
    turns.spend(TURN_BYTES)
    later = turns.take(1)
    # Driven by hand: it waits.
    assert later.send(None) is not None
    later.close()


async def test_of_those_who_wait_only_a_few_begin_in_one_turn_however_little_they_tell(turns: Turns) -> None:
    first, *waiting = [asyncio.create_task(turns.take(size)) for size in (TURN_BYTES, *[1] * 12)]
    begun = []
    for _ in range(20):
        await asyncio.sleep(0)
        begun.append(sum(task.done() for task in waiting))
    assert first.done()
    assert begun[-1] == len(waiting)
    assert max(after - before for before, after in pairwise(begun)) == 4


async def test_who_leaves_while_waiting_holds_nobody_up(turns: Turns) -> None:
    waiting = [asyncio.create_task(turns.take(TURN_BYTES)) for _ in range(5)]
    await asyncio.sleep(0)
    for task in waiting[1:4]:
        task.cancel()
    async with asyncio.timeout(5):
        await waiting[4]
        # And the next one finds an idle loop.
        await turns.take(1)


async def test_work_apart_lets_the_loop_go_on(turns: Turns) -> None:
    gate = threading.Event()
    apart = asyncio.ensure_future(turns.apart(lambda: gate.wait(5)))
    for _ in range(20):
        await asyncio.sleep(0)
    assert not apart.done()
    gate.set()
    assert await apart is True


async def test_what_work_apart_raises_is_raised(turns: Turns) -> None:
    def fail() -> None:
        raise KeyError("apart")

    with pytest.raises(KeyError, match="apart"):
        await turns.apart(fail)
