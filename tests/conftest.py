"""Fixtures of the black-box tests: real brokers, shared where tests can share them, their logs when a test fails."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator, Iterator
from typing import Final, TypeVar

import pytest

from tests.broker_process import BrokerProcess
from tests.rpc import Client, TestTable

EVENTUALLY_TIMEOUT_S: Final = 10.0
_POLL_S: Final = 0.01
T = TypeVar("T")
_LOG_OFFSETS: Final = pytest.StashKey[dict[BrokerProcess, int]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("headrace")
    group.addoption("--seed", type=int, default=None, help="seed of all randomness; a new one for each run if absent")
    group.addoption("--endpoint", default=None, help="HOST:PORT of a running broker to test instead of one of our own")
    group.addoption("--crash-rounds", type=int, default=12, help="how often each crash test kills its broker")


def pytest_configure(config: pytest.Config) -> None:
    if config.option.seed is None:
        # A worker of xdist takes the seed of the run, so that one option repeats all of it.
        inputs = getattr(config, "workerinput", {})
        config.option.seed = inputs.get("headrace_seed", random.SystemRandom().randrange(2**32))


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: object) -> None:
    node.workerinput["headrace_seed"] = node.config.option.seed  # type: ignore[attr-defined]


def pytest_report_header(config: pytest.Config) -> str:
    return f"headrace: --seed {config.option.seed}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None]:
    item.stash[_LOG_OFFSETS] = {broker: broker.log_size() for broker in BrokerProcess.running}
    yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        report.sections.append(("seed", f"run again with --seed {item.config.option.seed}"))
        offsets = item.stash.get(_LOG_OFFSETS, {})
        for broker in BrokerProcess.running:
            if log := broker.log_tail(offsets.get(broker, 0)):
                report.sections.append((f"log of the broker at {broker.grpc}, region {broker.region}", log))
    return report


def pytest_sessionfinish() -> None:
    for broker in list(BrokerProcess.running):
        broker.kill()


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    """A broker that all tests of this process share. Tests make tables of their own and leave the broker running."""
    with BrokerProcess(tmp_path_factory.mktemp("broker")) as process:
        yield process


@pytest.fixture(scope="session")
def two_regions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[BrokerProcess, BrokerProcess]]:
    """Brokers of two regions, shared by all tests of this process."""
    with (
        BrokerProcess(tmp_path_factory.mktemp("north"), region="eu-north-1") as north,
        BrokerProcess(tmp_path_factory.mktemp("south"), region="us-south-1") as south,
    ):
        yield north, south


@pytest.fixture(scope="session")
def endpoint(request: pytest.FixtureRequest) -> str:
    """Where the broker under test listens: --endpoint, or the shared broker."""
    chosen: str | None = request.config.option.endpoint
    if chosen is not None:
        return chosen
    shared: BrokerProcess = request.getfixturevalue("broker")
    return shared.grpc


@pytest.fixture(scope="session")
def client(endpoint: str) -> Iterator[Client]:
    """Stubs of the broker under test."""
    with Client(endpoint) as stubs:
        yield stubs


@pytest.fixture
def table(client: Client) -> TestTable:
    """A new table with the partition key `id` (S) and a stream of new and old images."""
    return client.create_table()


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """The seed of this run, to be joined with something of the test's own."""
    chosen: int = request.config.option.seed
    return chosen


@pytest.fixture
def rng(seed: int, request: pytest.FixtureRequest) -> random.Random:
    """Randomness that depends on the seed and the test, not on the order of tests."""
    return random.Random(f"{seed}/{request.node.nodeid}")


def eventually(probe: Callable[[], T], *, timeout_s: float = EVENTUALLY_TIMEOUT_S) -> T:
    """The first true answer of a probe, asked again and again; for black-box tests that have no event to wait for.

    Raises AssertionError when the time is up. An AssertionError of the probe counts as "not yet" and is its cause.
    """
    deadline = time.monotonic() + timeout_s
    failure: AssertionError | None = None
    while time.monotonic() < deadline:
        try:
            if answer := probe():
                return answer
        except AssertionError as error:
            failure = error
        time.sleep(_POLL_S)
    raise AssertionError(f"not within {timeout_s} s") from failure
