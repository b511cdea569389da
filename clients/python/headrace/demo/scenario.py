"""The story of the demo, told while it happens."""

from __future__ import annotations

import asyncio
import contextlib
import shlex
import tempfile
import textwrap
import time
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import click

from headrace import AsyncClient
from headrace.demo.account import Account
from headrace.demo.flights import PARTITION_KEY, REQUIREMENT, SORT_KEY, read_flights
from headrace.demo.processes import Broker, Child, ChildFailedError, run_headrace, running_broker, running_headrace
from headrace.demo.verify import ExpectedFlights, Flight, compare_items, compare_totals
from headrace.errors import HeadraceError
from headrace.importer.load import Loader
from headrace.importer.rows import Rejected, Row

__all__ = ["DemoFailedError", "run"]

HOME_REGION = "us-east-1"
AWAY_REGION = "eu-north-1"
FLIGHTS = "flights"
TOTALS = "carrier_totals"
TRIGGER = "carrier-totals"
REPLICA = "flights-in-europe"
HANDLER = Path(__file__).with_name("carrier_totals.py")

# The replica is made when so many flights are there: it begins with a copy of them and follows the stream from then on.
FLIGHTS_BEFORE_REPLICA = 10_000
# Every 20th flight gets a later arrival; every 50th is deleted, some of these after they were changed.
DELAYED_EVERY = 20
DELETED_EVERY = 50
MORE_DELAY_MINUTES = 15
WRITERS = 8
CARRIERS_SHOWN = 3
# How soon after the end of a process it is known that it has ended.
NOTICED_WITHIN_S = 0.5
COMMAND_WIDTH = 100
NO_BREAK_SPACE = "\xa0"


class DemoFailedError(RuntimeError):
    """The demo did not get to its end, or two things that must be equal are not."""


async def run(archive: Path, *, limit: int | None) -> None:
    """Play the demo with the first `limit` flights, or all.

    Raises FlightsMissingError, ChildFailedError, DemoFailedError.
    """
    started = time.monotonic()
    flights = read_flights(archive, limit=limit)
    how_many = "All" if limit is None else f"The first {limit:,}"
    click.secho(f"{how_many} flights that left New York City in 2013 ({REQUIREMENT})", bold=True)
    with tempfile.TemporaryDirectory(prefix="headrace-demo-") as folder:
        async with _running_processes(Path(folder)) as processes, AsyncClient(processes.home.grpc) as client:
            story = _Story(processes, client)
            try:
                await story.tell(flights)
            except (HeadraceError, TimeoutError, ChildFailedError) as error:
                # It may have failed because a process is gone; then the end of that one's log tells more.
                await asyncio.sleep(NOTICED_WITHIN_S)
                for child in processes.children:
                    child.check()
                raise DemoFailedError(str(error)) from error
    click.secho(f"\nAll is equal. {time.monotonic() - started:.0f} s in all.", bold=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Processes:
    """Two regions, and what runs triggers and replicas of the first."""

    home: Broker
    away: Broker
    trigger_host: Child
    replicator: Child

    @property
    def children(self) -> list[Child]:
        return [self.home.child, self.away.child, self.trigger_host, self.replicator]


@contextlib.asynccontextmanager
async def _running_processes(folder: Path) -> AsyncIterator[_Processes]:
    _heading("Two regions, a trigger host and a replicator, each a process")
    async with (
        running_broker(region=HOME_REGION, data=folder / HOME_REGION, logs=folder) as home,
        running_broker(region=AWAY_REGION, data=folder / AWAY_REGION, logs=folder) as away,
        running_headrace("trigger-host", ["trigger-host", "--endpoint", home.grpc], logs=folder) as trigger_host,
        running_headrace("replicator", ["replicator", "--endpoint", home.grpc], logs=folder) as replicator,
    ):
        for broker in (home, away):
            _note(f"broker        pid {broker.child.pid:<7}  region {broker.region:<10}  gRPC {broker.grpc}")
        for child in (trigger_host, replicator):
            _note(f"{child.name:<12}  pid {child.pid}")
        yield _Processes(home=home, away=away, trigger_host=trigger_host, replicator=replicator)


class _Story:
    """What is done to the flights, and what must have come of it."""

    def __init__(self, processes: _Processes, client: AsyncClient) -> None:
        self._processes = processes
        self._client = client
        self._expected = ExpectedFlights()
        self._loader = Loader(client, FLIGHTS, on_rejected=_refuse)
        self._delayed: list[tuple[Flight, Flight]] = []
        self._deleted: list[Flight] = []
        self._changes_made = 0

    async def tell(self, flights: Iterator[Row]) -> None:
        """Play it all. Raises DemoFailedError if anything is not as it must be."""
        account = Account(
            endpoint=self._processes.home.grpc,
            table_name=FLIGHTS,
            trigger_name=TRIGGER,
            replica_name=REPLICA,
            changes_written=lambda: self._loader.items_written + self._changes_made,
            children=self._processes.children,
        )
        async with account:
            _heading("A table with a stream, and a trigger that keeps totals per carrier in another table")
            await self._make_tables_and_trigger()
            _heading("Import; from the 10,000th flight on with a replica in the other region")
            account.print_headings()
            async with _alongside(account.count_stream(), account.print_lines()):
                await self._import(flights)
                await self._change()
                await account.caught_up(self._loader.items_written + self._changes_made)
            await account.print_summary()
        await self._verify()

    async def _make_tables_and_trigger(self) -> None:
        await self._headrace(
            "table", "create", FLIGHTS, "--partition-key", PARTITION_KEY, "--sort-key", SORT_KEY,
            "--stream", "NEW_AND_OLD_IMAGES",
        )  # fmt: skip
        await self._headrace("table", "create", TOTALS, "--partition-key", "carrier")
        await self._headrace(
            "trigger", "create", TRIGGER, "--table", FLIGHTS, "--handler", f"{HANDLER}:handler", "--batch-size", "1000",
            "--from", "TRIM_HORIZON", "--env", f"TOTALS_TABLE={TOTALS}",
            "--env", f"HEADRACE_ENDPOINT={self._processes.home.grpc}",
        )  # fmt: skip

    async def _import(self, flights: Iterator[Row]) -> None:
        started = time.monotonic()
        await self._loader.load(self._noted(islice(flights, FLIGHTS_BEFORE_REPLICA)))
        await self._headrace("replica", "create", REPLICA, "--table", FLIGHTS, "--target", self._processes.away.grpc)
        await self._loader.load(self._noted(flights))
        seconds = time.monotonic() - started
        written = self._loader.items_written
        _note(f"{written:,} flights imported: {written / seconds:,.0f} durable writes per second")

    def _noted(self, rows: Iterable[Row]) -> Iterator[Row]:
        """The rows; on their way they are noted as expected, and some for a later change."""
        for row in rows:
            flight = row.item
            self._expected.add(flight)
            number = len(self._expected)
            if number % DELAYED_EVERY == 0:
                self._delayed.append((flight, _with_more_delay(flight)))
            if number % DELETED_EVERY == 0:
                is_delayed = number % DELAYED_EVERY == 0
                self._deleted.append(self._delayed[-1][1] if is_delayed else flight)
            yield row

    async def _change(self) -> None:
        """Update and delete single items, several at a time; first all updates, then all deletes."""
        started = time.monotonic()
        await _concurrently(self._delay(old, new) for old, new in self._delayed)
        await _concurrently(self._delete(flight) for flight in self._deleted)
        seconds = time.monotonic() - started
        _note(
            f"{len(self._delayed):,} flights updated and {len(self._deleted):,} deleted, one call each, {WRITERS} at a"
            f" time: {self._changes_made / seconds:,.0f} durable writes per second"
        )

    async def _delay(self, old: Flight, new: Flight) -> None:
        await self._client.update_item(
            FLIGHTS, _key(old), update="SET arr_delay = :delay", values={":delay": new["arr_delay"]}
        )
        self._expected.remove(old)
        self._expected.add(new)
        self._changes_made += 1

    async def _delete(self, flight: Flight) -> None:
        await self._client.delete_item(FLIGHTS, _key(flight))
        self._expected.remove(flight)
        self._changes_made += 1

    async def _verify(self) -> None:
        _heading("Is it all equal?")
        async with AsyncClient(self._processes.away.grpc) as away:
            async with contextlib.aclosing(self._client.snapshot(FLIGHTS)) as items:
                _check(f"{HOME_REGION} holds exactly the flights written", await self._expected.difference(items))
            async with (
                contextlib.aclosing(self._client.snapshot(FLIGHTS)) as items,
                contextlib.aclosing(away.snapshot(FLIGHTS)) as replicated,
            ):
                what = (
                    f"{AWAY_REGION} holds the same {len(self._expected):,} flights, item by item, in the same versions"
                )
                _check(what, await compare_items(items, replicated))
        async with contextlib.aclosing(self._client.snapshot(TOTALS)) as totals:
            kept = [item async for item, _ in totals]
        what = f"the totals of {len(kept)} carriers, kept by the trigger, equal a direct computation"
        _check(what, compare_totals(kept, self._expected.totals))
        _note("for example:")
        for item in sorted(kept, key=lambda item: -item["flights"])[:CARRIERS_SHOWN]:
            mean_minutes = item["arrival_delay_minutes"] / max(item["flights"], 1)
            _note(f"  {item['carrier']}  {item['flights']:>6,} flights, on average {mean_minutes:+.1f} minutes late")

    async def _headrace(self, *arguments: str) -> None:
        """Show and run a command against the first region."""
        click.secho(f"  $ {_command_text(arguments)}", dim=True)
        await run_headrace([*arguments, "--endpoint", self._processes.home.grpc])


def _command_text(arguments: Iterable[str]) -> str:
    """A command as one would type it, folded between its options."""
    words = ["headrace"]
    for argument in arguments:
        # The folder of the handler is long and says nothing.
        word = shlex.quote(argument.replace(f"{HANDLER.parent}/", ""))
        if words[-1].startswith("--") and not word.startswith("--"):
            words[-1] += NO_BREAK_SPACE + word
        else:
            words.append(word)
    lines = textwrap.wrap(" ".join(words), COMMAND_WIDTH, break_long_words=False, break_on_hyphens=False)
    return " \\\n      ".join(lines).replace(NO_BREAK_SPACE, " ")


@contextlib.asynccontextmanager
async def _alongside(*coroutines: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run coroutines for as long as the block runs; if one fails, the block is cancelled and the failure raised."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(coroutine) for coroutine in coroutines]
            yield
            for task in tasks:
                task.cancel()
    except ExceptionGroup as failures:
        failure: Exception = failures
        while isinstance(failure, ExceptionGroup):
            failure = failure.exceptions[0]
        raise failure from None


async def _concurrently(coroutines: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run coroutines, WRITERS at a time."""
    waiting = iter(coroutines)

    async def run_waiting() -> None:
        for coroutine in waiting:
            await coroutine

    async with asyncio.TaskGroup() as group:
        for _ in range(WRITERS):
            group.create_task(run_waiting())


def _key(flight: Flight) -> dict[str, Any]:
    return {PARTITION_KEY: flight[PARTITION_KEY], SORT_KEY: flight[SORT_KEY]}


def _with_more_delay(flight: Flight) -> Flight:
    return {**flight, "arr_delay": flight.get("arr_delay", 0) + MORE_DELAY_MINUTES}


def _refuse(rejected: Rejected) -> None:
    raise DemoFailedError(f"a flight was refused: line {rejected.line_number} {rejected.reason}")


def _check(what: str, difference: str | None) -> None:
    if difference is not None:
        click.echo(f"  NO   {what}")
        raise DemoFailedError(difference)
    click.echo(f"  yes  {what}")


def _heading(text: str) -> None:
    click.secho(f"\n{text}", bold=True)


def _note(text: str) -> None:
    click.echo(f"  {text}")
