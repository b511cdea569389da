"""Fixtures of the unit tests: a clock that stands still, a real store in a temporary folder, a committer at work."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from broker.storage.rocks import Store
from tests.unit.engine import Engine, FakeClock, running

# How long an example takes says more about the machine than about the code.
settings.register_profile("headrace", deadline=None, max_examples=50)
settings.load_profile("headrace")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "store")
    yield opened
    opened.close()


@pytest.fixture
async def engine(store: Store, clock: FakeClock) -> AsyncIterator[Engine]:
    async with running(store, clock) as engine:
        yield engine


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("headrace").addoption("--rewrite", action="store_true", help="write tests/golden anew")
