from __future__ import annotations

import asyncio

from broker.storage.watermark import Wakeup, Watermark, Watermarks
from tests.unit.engine import TIMEOUT_S


def test_a_watermark_only_rises() -> None:
    mark = Watermark(5)
    for value, expected in ((3, 5), (5, 5), (8, 8), (0, 8)):
        mark.advance(value)
        assert mark.value == expected


def test_each_shard_has_its_own_watermark_and_begins_at_zero() -> None:
    marks = Watermarks()
    marks.of(1).advance(7)
    assert (marks.of(1).value, marks.of(2).value) == (7, 0)


async def test_nothing_in_time_is_false() -> None:
    wakeup = Wakeup(Watermarks())
    wakeup.watch((1,))
    assert not await wakeup.wait(timeout_seconds=0)


async def test_an_advance_wakes_all_who_watch_the_shard() -> None:
    marks = Watermarks()
    wakeups = [Wakeup(marks) for _ in range(3)]
    for wakeup in wakeups:
        wakeup.watch((1, 2))
    waiting = [asyncio.create_task(wakeup.wait(TIMEOUT_S)) for wakeup in wakeups]
    await asyncio.sleep(0)
    marks.of(2).advance(6)
    assert await asyncio.gather(*waiting) == [True, True, True]


async def test_what_comes_between_clearing_and_waiting_is_not_missed() -> None:
    marks = Watermarks()
    wakeup = Wakeup(marks)
    wakeup.watch((1,))
    marks.of(1).advance(1)
    assert await wakeup.wait(timeout_seconds=0)
    wakeup.clear()
    assert not await wakeup.wait(timeout_seconds=0)
    wakeup.notify()
    assert await wakeup.wait(timeout_seconds=0)


async def test_a_shard_that_is_no_longer_watched_wakes_nobody() -> None:
    marks = Watermarks()
    wakeup = Wakeup(marks)
    wakeup.watch((1, 2))
    wakeup.watch((2, 3))
    marks.of(1).advance(1)
    assert not await wakeup.wait(timeout_seconds=0)
    marks.of(3).advance(1)
    assert await wakeup.wait(timeout_seconds=0)
    wakeup.clear()
    wakeup.close()
    marks.of(2).advance(1)
    assert not await wakeup.wait(timeout_seconds=0)
    assert not any(marks.of(shard).readers for shard in (1, 2, 3))


async def test_who_watches_a_shard_that_vanishes_is_woken() -> None:
    marks = Watermarks()
    wakeup = Wakeup(marks)
    wakeup.watch((1,))
    marks.forget(1)
    assert await wakeup.wait(timeout_seconds=0)
    marks.forget(1)
