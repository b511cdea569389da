"""Cutting deliveries into batches."""

from __future__ import annotations

import asyncio
from random import Random

from headrace.consumer import Delivery
from headrace.triggers.batch import Batch, BatchQueue
from tests.triggers.deliveries import REGION, STREAM_ARN, WRITTEN_MS, delivery, numbers


def queue(batch_size: int = 100, waiting_bytes_max: int = 1_000_000) -> BatchQueue:
    return BatchQueue(stream_arn=STREAM_ARN, region=REGION, batch_size=batch_size, waiting_bytes_max=waiting_bytes_max)


async def batches(batch_size: int, *deliveries: Delivery) -> list[Batch]:
    """The batches of these deliveries, which are all there at once."""
    waiting = queue(batch_size)
    for each in deliveries:
        await waiting.put(each)
    taken = []
    while waiting._waiting:
        taken.append(await waiting.take())
    return taken


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


async def test_a_batch_holds_records_of_one_shard_and_one_lease() -> None:
    cut = await batches(100, delivery([1]), delivery([2], shard="shard-2"), delivery([3], shard="shard-2", epoch=2))
    assert [numbers(batch.event) for batch in cut] == [[1], [2], [3]]
    assert [(batch.position.shard_id, batch.position.lease_epoch) for batch in cut] == [
        ("shard-1", 1),
        ("shard-2", 1),
        ("shard-2", 2),
    ]


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


async def test_too_many_bytes_waiting_hold_the_session_back_until_a_batch_is_taken() -> None:
    waiting = queue(batch_size=2, waiting_bytes_max=200)
    await waiting.put(delivery([1, 2]))
    held = asyncio.create_task(waiting.put(delivery([3])))
    await asyncio.sleep(0)
    assert not held.done()
    assert numbers((await waiting.take()).event) == [1, 2]
    await held
    assert numbers((await waiting.take()).event) == [3]


async def test_a_take_that_is_given_up_loses_nothing() -> None:
    waiting = queue()
    given_up = asyncio.create_task(waiting.take())
    await asyncio.sleep(0)
    given_up.cancel()
    await asyncio.wait({given_up})
    await waiting.put(delivery([1]))
    assert numbers((await waiting.take()).event) == [1]
