"""Memory is given back when the process has grown, and only then."""

from __future__ import annotations

import ctypes

import pytest

from broker.memory import GROWTH_BYTES, FreedMemory, resident_bytes, trim

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


async def test_what_was_in_use_is_given_back_when_it_no_longer_is(process: Process, freed: FreedMemory) -> None:
    process.resident = process.needed = START + GROWTH_BYTES
    await freed.look()
    assert (process.times, process.resident) == (1, START + GROWTH_BYTES)
    process.needed = START
    await freed.look()
    await freed.look()
    assert (process.times, process.resident) == (2, START)


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


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="this library of C cannot be asked")
def test_what_the_library_of_c_keeps_between_what_is_in_use_is_given_back() -> None:
    # So that nothing of what earlier tests have freed is used again.
    trim()
    before = resident_bytes()
    blocks = [b"x" * 100_000 for _ in range(1_000)]
    in_use = blocks[::10]
    del blocks
    assert resident_bytes() - before > 60_000_000
    trim()
    assert resident_bytes() - before < 40_000_000
    assert len(in_use) == 100
