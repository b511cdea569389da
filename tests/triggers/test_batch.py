"""Cutting deliveries into batches."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from random import Random

from headrace.consumer import Delivery
from headrace.triggers.batch import Batch, BatchQueue
from tests.triggers.deliveries import REGION, STREAM_ARN, WRITTEN_MS, delivery, numbers


def queue(batch_size: int = 100, lost: Collection[str] = ()) -> BatchQueue:
    """A queue whose session does not hold the shards `lost`."""
    return BatchQueue(
        stream_arn=STREAM_ARN,
        region=REGION,
        batch_size=batch_size,
        holds=lambda delivery: delivery.shard_id not in lost,
    )


async def all_of(waiting: BatchQueue) -> list[Batch]:
    """All batches that can be formed now."""
    taken = []
    while waiting._next_shard() is not None:
        taken.append(await waiting.take())
    return taken


async def batches(batch_size: int, *deliveries: Delivery) -> list[Batch]:
    """The batches of these deliveries, which are all there at once."""
    waiting = queue(batch_size)
    for each in deliveries:
        waiting.put(each)
    return await all_of(waiting)


def position(batch: Batch) -> int:
    return int(batch.position.sequence_number)


async def test_a_batch_takes_what_is_there_across_deliveries() -> None:
    (batch,) = await batches(100, delivery([1, 2]), delivery([3]), delivery([4, 5]))
    assert numbers(batch.event) == [1, 2, 3, 4, 5]
    assert batch.record_count == 5
    assert position(batch) == 5
    assert batch.last_record_time_ms == WRITTEN_MS + 5


# A checkpoint inside a delivery is the last record of the batch, not the end of the delivery.
async def test_a_delivery_larger_than_a_batch_is_cut_and_acked_in_parts() -> None:
    cut = await batches(3, delivery([1, 2]), delivery([3, 4, 5, 6, 7]))
    assert [numbers(batch.event) for batch in cut] == [[1, 2, 3], [4, 5, 6], [7]]
    assert [position(batch) for batch in cut] == [3, 6, 7]


# A delivery is read up to its own sequence number, which may lie after its last record.
async def test_the_end_of_a_delivery_is_acked_with_the_delivery() -> None:
    (first, second) = await batches(2, delivery([1, 2, 3], read_to=9))
    assert (position(first), position(second)) == (2, 9)


async def test_shards_take_turns_and_a_batch_has_records_of_one() -> None:
    cut = await batches(
        2,
        delivery([1, 2, 3, 4, 5]),
        delivery([6], shard="shard-2"),
        delivery([7, 8, 9], shard="shard-3"),
        delivery([10], shard="shard-2"),
    )
    assert [numbers(batch.event) for batch in cut] == [[1, 2], [6, 10], [7, 8], [3, 4], [9], [5]]
    assert [batch.position.shard_id for batch in cut] == [f"shard-{n}" for n in (1, 2, 3, 1, 3, 1)]


# A shard that has something all the time must not keep the others from their turns.
async def test_a_shard_that_was_served_comes_after_one_that_has_waited() -> None:
    waiting = queue(1)
    waiting.put(delivery([1, 2]))
    waiting.put(delivery([3], shard="shard-2"))
    assert numbers((await waiting.take()).event) == [1]
    waiting.put(delivery([4]))
    assert [numbers(batch.event) for batch in await all_of(waiting)] == [[3], [2], [4]]


# The broker delivers them again, from the checkpoint on: with the older ones they would be there twice.
async def test_a_newer_lease_replaces_what_waits_of_an_older_one() -> None:
    cut = await batches(100, delivery([1, 2]), delivery([5], shard="shard-2"), delivery([1], epoch=2))
    assert [numbers(batch.event) for batch in cut] == [[1], [5]]
    assert cut[0].position.lease_epoch == 2


async def test_what_waits_of_a_shard_that_is_lost_is_dropped() -> None:
    lost = {"shard-1"}
    waiting = queue(lost=lost)
    waiting.put(delivery([1]))
    waiting.put(delivery([2], shard="shard-2"))
    assert [numbers(batch.event) for batch in await all_of(waiting)] == [[2]]
    assert not waiting._waiting


async def test_a_batch_that_failed_is_cut_as_before_when_it_comes_again() -> None:
    waiting = queue()
    waiting.put(delivery([1, 2]))
    failed = await waiting.take()
    waiting.keep_together(failed)
    waiting.put(delivery([1, 2, 3], epoch=2))
    waiting.put(delivery([7], shard="shard-2"))
    waiting.put(delivery([4], epoch=2))
    again, other, rest = await all_of(waiting)
    assert again.event == failed.event
    assert numbers(other.event) == [7]
    assert numbers(rest.event) == [3, 4]


async def test_a_batch_that_failed_may_come_again_in_parts_but_never_with_more() -> None:
    waiting = queue()
    waiting.put(delivery([1, 2, 3]))
    waiting.keep_together(await waiting.take())
    waiting.put(delivery([1], epoch=2))
    assert numbers((await waiting.take()).event) == [1]
    waiting.put(delivery([2, 3, 4], epoch=2))
    assert [numbers(batch.event) for batch in await all_of(waiting)] == [[2, 3], [4]]


# Another host has processed it in the meantime.
async def test_a_shard_that_comes_back_further_on_is_cut_as_any_other() -> None:
    waiting = queue()
    waiting.put(delivery([1, 2]))
    waiting.keep_together(await waiting.take())
    waiting.put(delivery([3, 4], epoch=3))
    assert [numbers(batch.event) for batch in await all_of(waiting)] == [[3, 4]]


async def test_a_batch_ends_where_the_payload_limit_would_be_passed() -> None:
    big = "x" * 2_500_000
    cut = await batches(100, delivery([1, 2, 3], text=big), delivery([4], text=big), delivery([5]))
    assert [numbers(batch.event) for batch in cut] == [[1, 2], [3, 4, 5]]
    assert [position(batch) for batch in cut] == [2, 5]


# However deliveries come and whatever the batch size: each record once, in order, and positions that only rise.
async def test_no_record_is_lost_doubled_or_turned(rng: Random) -> None:
    for _ in range(100):
        count, batch_size = rng.randrange(1, 60), rng.randrange(1, 20)
        starts = sorted({1, *(rng.randrange(1, count + 1) for _ in range(rng.randrange(10)))})
        ends = [*starts[1:], count + 1]
        cut = await batches(batch_size, *(delivery(range(a, b)) for a, b in zip(starts, ends, strict=True)))
        assert [number for batch in cut for number in numbers(batch.event)] == list(range(1, count + 1))
        assert [position(batch) for batch in cut] == [numbers(batch.event)[-1] for batch in cut]
        assert all(batch.record_count == batch_size for batch in cut[:-1])


async def test_a_take_that_is_given_up_loses_nothing() -> None:
    waiting = queue()
    given_up = asyncio.create_task(waiting.take())
    await asyncio.sleep(0)
    given_up.cancel()
    await asyncio.wait({given_up})
    waiting.put(delivery([1]))
    assert numbers((await waiting.take()).event) == [1]
