"""Memory is given back when the process has grown, and only then."""

from __future__ import annotations

import pytest

from broker.memory import GROWTH_BYTES, FreedMemory, resident_bytes

START = 100_000_000


class Process:
    """What the system says of a process, and what giving memory back makes of it."""

    def __init__(self) -> None:
        self.resident = START
        self.needed = START
        self.times = 0

    def give_back(self) -> None:
        self.times += 1
        self.resident = self.needed


@pytest.fixture
def process() -> Process:
    return Process()


@pytest.fixture
def freed(process: Process) -> FreedMemory:
    return FreedMemory(lambda: process.resident, process.give_back)


async def test_memory_is_given_back_when_the_process_has_grown_by_so_much(process: Process, freed: FreedMemory) -> None:
    process.resident = START + GROWTH_BYTES - 1
    await freed.look()
    assert process.times == 0
    process.resident += 1
    await freed.look()
    assert (process.times, process.resident) == (1, START)


async def test_what_is_in_use_is_not_tried_again_before_there_is_more(process: Process, freed: FreedMemory) -> None:
    process.resident = process.needed = START + GROWTH_BYTES
    await freed.look()
    await freed.look()
    assert process.times == 1
    process.resident = process.needed + GROWTH_BYTES
    await freed.look()
    assert process.times == 2


async def test_growth_counts_from_the_least_there_was(process: Process, freed: FreedMemory) -> None:
    process.resident = START // 2
    await freed.look()
    process.resident += GROWTH_BYTES
    await freed.look()
    assert process.times == 1


def test_the_system_tells_how_much_memory_a_process_has() -> None:
    before = resident_bytes()
    held = bytearray(b"x" * 50_000_000)
    assert 40_000_000 < resident_bytes() - before < 200_000_000
    del held
