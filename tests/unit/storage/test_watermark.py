from __future__ import annotations

import asyncio

from broker.storage.watermark import Watermark, Watermarks
from tests.unit.engine import TIMEOUT_S


def test_a_watermark_only_rises() -> None:
    mark = Watermark(5)
    for value, expected in ((3, 5), (5, 5), (8, 8), (0, 8)):
        mark.advance(value)
        assert mark.value == expected


async def test_who_is_behind_need_not_wait() -> None:
    assert await Watermark(5).past(4, timeout_seconds=0)


async def test_nothing_in_time_is_false() -> None:
    assert not await Watermark(5).past(5, timeout_seconds=0)


async def test_an_advance_wakes_all_who_wait() -> None:
    mark = Watermark(5)
    waiting = [asyncio.create_task(mark.past(5, TIMEOUT_S)) for _ in range(3)]
    await asyncio.sleep(0)
    mark.advance(6)
    assert await asyncio.gather(*waiting) == [True, True, True]
    assert not await mark.past(6, timeout_seconds=0)


async def test_who_gives_up_does_not_disturb_the_others() -> None:
    mark = Watermark(0)
    gone, stays = (asyncio.create_task(mark.past(0, TIMEOUT_S)) for _ in range(2))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.sleep(0)
    mark.advance(1)
    assert await stays


def test_each_shard_has_its_own_watermark_and_begins_at_zero() -> None:
    marks = Watermarks()
    marks.of(1).advance(7)
    assert (marks.of(1).value, marks.of(2).value) == (7, 0)
