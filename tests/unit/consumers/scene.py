"""A table with a stream, a group that reads it, and members whose outlets keep what they are given."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from broker.consumers import events
from broker.consumers.consume import MemberSettings, Session
from broker.consumers.events import Event, SourceEvent
from broker.consumers.groups import ConsumerGroups, Failure, NackReason, ShardState, Start
from broker.consumers.members import Members
from broker.encoding.items import canonicalize
from broker.model.tables import Shard
from broker.storage.commit import Group
from broker.streams.tail import PAGE_BYTES_MAX
from broker.tables.operations import Put
from broker.tables.read import ItemReader
from headrace.v1.stream_service_pb2 import GetRecordsResponse
from tests.unit.engine import TIMEOUT_S, Do, Engine
from tests.values import item

E = TypeVar("E", bound=Event)

OLDEST = Start(after=-1)
GROUP = "totals"


@dataclass(frozen=True, slots=True)
class Got:
    """A batch that a member was sent."""

    source_id: str
    epoch: int
    number: int
    # Sequence number, key and value of each record.
    records: tuple[tuple[int, str, int], ...]

    @property
    def numbers(self) -> list[int]:
        return [number for number, _, _ in self.records]

    @property
    def values(self) -> list[int]:
        return [value for _, _, value in self.records]


class Outlet:
    """Keeps the events of a session for the test to take one by one."""

    def __init__(self) -> None:
        self.sent: asyncio.Queue[Event | Got] = asyncio.Queue()
        # Events are handed over only while this is set, as by a connection whose other end reads.
        self.is_open = asyncio.Event()
        self.is_open.set()
        self.batch_bytes_max = PAGE_BYTES_MAX

    async def send(self, event: Event) -> None:
        await self.is_open.wait()
        self.sent.put_nowait(_got(event) if isinstance(event, events.Records) else event)


@dataclass(slots=True)
class Someone:
    """A member that runs, and what it was sent."""

    session: Session
    outlet: Outlet
    running: asyncio.Task[None]
    # The newest epoch of each source it was assigned and has not lost.
    epochs: dict[str, int] = field(default_factory=dict)

    async def next(self) -> Event | Got:
        """The next event that is no heartbeat."""
        while True:
            async with asyncio.timeout(TIMEOUT_S):
                taking = asyncio.ensure_future(self.outlet.sent.get())
                done, _ = await asyncio.wait((taking, self.running), return_when=asyncio.FIRST_COMPLETED)
                if taking not in done:
                    taking.cancel()
                    await self.running
                event = await taking
            if isinstance(event, events.Assigned):
                self.epochs[event.source_id] = event.epoch
            if isinstance(event, events.Revoked):
                self.epochs.pop(event.source_id, None)
            if not isinstance(event, events.Heartbeat):
                return event

    async def take(self, kind: type[E]) -> E:
        """The next event, which must be of a kind."""
        event = await self.next()
        assert isinstance(event, kind), f"{event} instead of {kind.__name__}"
        return event

    async def until(self, kind: type[E]) -> E:
        """The next event of a kind, whatever comes before."""
        while not isinstance(event := await self.next(), kind):
            pass
        return event

    async def batch(self) -> Got:
        """The next event, which must be records."""
        event = await self.next()
        assert isinstance(event, Got), event
        return event

    async def begin(self) -> events.Assigned:
        """Takes the events up to the first lease."""
        await self.take(events.Started)
        return await self.take(events.Assigned)

    async def nothing(self) -> None:
        """Checks that nothing is sent until something else happens."""
        for _ in range(50):
            await asyncio.sleep(0)
        while not self.outlet.sent.empty():
            assert isinstance(event := self.outlet.sent.get_nowait(), events.Heartbeat), event

    async def say_ack(self, about: SourceEvent | Got, number: int | None = None) -> None:
        await self.session.acknowledge(about.source_id, about.epoch, about.number if number is None else number)  # type: ignore[union-attr]

    async def ack(self, about: SourceEvent | Got, number: int | None = None) -> None:
        """Acknowledges, and takes the answer, which must be the next event."""
        await self.say_ack(about, number)
        await self.take(events.Checkpointed)

    async def say_nack(self, about: Got, number: int, reason: NackReason = NackReason.TRANSIENT, **fields: Any) -> None:
        fields = {"attempts_max": self.session.settings.attempts_max, "retry_seconds": 0.0} | fields
        failure = Failure(number=number, reason=reason, **fields)
        await self.session.fail(about.source_id, about.epoch, failure)

    async def nack(
        self, about: Got, number: int, reason: NackReason = NackReason.TRANSIENT, **fields: Any
    ) -> events.Failed:
        """Says that a record failed, and takes the answer, which must be the next event."""
        await self.say_nack(about, number, reason, **fields)
        return await self.take(events.Failed)

    async def leave(self) -> None:
        self.running.cancel()
        await asyncio.wait({self.running})


class Scene:
    """A table with a stream, and a group that reads it."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.groups = ConsumerGroups(engine.store, engine.committer, engine.catalog, {})
        self.members = Members(
            self.groups,
            engine.catalog,
            engine.log,
            ItemReader(engine.store, engine.committer),
            engine.committer,
            engine.watermarks,
            engine.clock,
        )
        self.arn = ""

    async def open(self, start: Start | None = OLDEST, **settings: Any) -> Scene:
        """Makes the table and, unless there is no start, the group."""
        table = await self.engine.table(**settings)
        assert table.stream is not None
        self.arn = self.engine.catalog.stream_arn(table.stream)
        if start is not None:
            await self.groups.ensure(GROUP, self.arn, start)
        return self

    async def write(self, *keys: str, count: int = 1, text: str = "") -> list[int]:
        """Puts each key so many times, in one group commit; returns the records' sequence numbers."""
        table = self.engine.catalog.open_table("pets")

        def put(key: str, group: Group) -> int:
            # Members may take numbers for their leases in the same group.
            number = group.next_sequence_number() + 1
            whole = item({"id": key, "n": number} | ({"text": text} if text else {}))
            Put(table, table.keys.of_item(whole), canonicalize(whole), None).plan(group)
            return number

        return await self.engine.committer.submit([Do(does=partial(put, key)) for key in keys * count])

    @property
    def shards(self) -> tuple[Shard, ...]:
        return self.engine.catalog.stream(self.arn).shards

    @property
    def open_shards(self) -> list[Shard]:
        return self.engine.catalog.stream(self.arn).open_shards

    def key_of(self, shard: Shard) -> str:
        """A key whose changes a shard records."""
        keys = self.engine.catalog.open_table("pets").keys
        names = (f"k{number}" for number in range(1_000))
        return next(n for n in names if shard.first_hash <= keys.of_key(item(id=n)).hash <= shard.last_hash)

    async def split(self, shard: Shard | None = None) -> list[Shard]:
        """Splits a shard, the first if none is named, and returns the two that follow it."""
        stream = self.engine.catalog.stream(self.arn)
        return await self.engine.catalog.split_shard(stream, (shard or stream.shards[0]).shard_id, None)

    async def merge(self, left: Shard, right: Shard) -> Shard:
        stream = self.engine.catalog.stream(self.arn)
        return await self.engine.catalog.merge_shards(stream, left.shard_id, right.shard_id)

    async def trim(self, shard: Shard, *, vanish: bool = False) -> None:
        """Drops all blocks of a shard, and the shard itself if it is closed and to vanish."""
        self.engine.clock.ms += 1000
        trim = self.engine.log.trim_by_time(shard, self.engine.clock.ms)
        stream = self.engine.catalog.stream(self.arn)
        await self.engine.catalog.trim(stream, [trim] if trim else [], {shard.id} if vanish else ())

    async def join(self, name: str = "one", start: Start = OLDEST, **settings: Any) -> Someone:
        outlet = Outlet()
        given = MemberSettings(group_name=GROUP, member_name=name, **settings)
        session = await self.members.session(given, self.arn, start, outlet)
        return Someone(session, outlet, asyncio.create_task(session.run()))

    @asynccontextmanager
    async def joined(self, name: str = "one", **settings: Any) -> AsyncIterator[Someone]:
        someone = await self.join(name, **settings)
        try:
            yield someone
        finally:
            await someone.leave()

    def state(self, source_id: str | None = None) -> ShardState:
        """The group's state on a source, the first shard if none is named."""
        return self.groups.get(GROUP).shards[source_id or self.shards[0].shard_id]

    async def plan(self, does: Callable[[Any], Any]) -> Any:
        return await self.engine.do(does)


def _got(event: events.Records) -> Got:
    count, number = event.batch.count, event.batch.last_sequence_number
    records = GetRecordsResponse.FromString(b"".join(event.batch.take())).records
    assert len(records) == count
    return Got(
        event.source_id,
        event.epoch,
        number,
        tuple(
            (int(r.sequence_number), r.keys.attributes["id"].s, int(r.new_image.attributes["n"].n or 0))
            for r in records
        ),
    )
