"""The group commit: the only way anything is written.

All operations that wait are evaluated one after the other, each against the state and what those before it in the group
changed, and become one entry: items, log blocks by shard, documents, counters. While the disk syncs that entry
the next operations gather; the callers are answered, and the watermarks raised, only after the sync. So writes are
serializable without locks, and the cost of a sync is shared by all who wait for it.

What could go wrong in the order, and why it does not:
1. A reader of the log must not see what a crash could take back: it stops at the watermark, which rises after the sync.
2. A reader of an item must not either: `settled` makes it wait when the item's last change is not synced yet.
3. A failed write or sync leaves the disk in an unknown state: the committer refuses all further work and the node
   stops.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from broker.encoding.records import encode_record, encode_time
from broker.model.clock import Clock, HybridClock, RisingClock, Version
from broker.model.errors import (
    CorruptionError,
    DataLossError,
    HeadraceError,
    ThrottlingError,
    UnavailableError,
)
from broker.storage import layout
from broker.storage.journal import Entry
from broker.storage.rocks import Family

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Iterator, Sequence
    from pathlib import Path

    from broker.encoding.items import EncodedItem
    from broker.encoding.keys import ItemKey
    from broker.model.tables import Shard, StreamViewType
    from broker.storage.journal import Journal
    from broker.storage.layout import StoredItem
    from broker.storage.rocks import Cursor, Mutations, Store
    from broker.storage.watermark import Watermarks

# A group is closed when it holds this much, so that one group neither blocks the event loop nor the disk for long.
GROUP_OPERATIONS_MAX: Final = 512
GROUP_BYTES_MAX: Final = 8 * 1024 * 1024
# Or when evaluating it has taken so long: a few updates of large items do.
GROUP_SECONDS_MAX: Final = 0.03
# A log block is closed when it holds this much. A page holds several, also when there are a hundred readers and pages
# are smaller, so that few are read for a part of them only.
BLOCK_BYTES_MAX: Final = 128 * 1024
# What may wait. Beyond it callers are told to come again.
QUEUE_OPERATIONS_MAX: Final = 20_000
QUEUE_BYTES_MAX: Final = 64 * 1024 * 1024
# About what a change of a definition takes in the queue.
CHANGE_BYTES: Final = 1024
_RETRY_AFTER_MS: Final = 50
# A group is begun after turns of the event loop that brought no operation: so many for each operation of the last
# group, but at most so many; and after so many turns in any case.
_GATHER_QUIET_TURNS: Final = 4
_GATHER_QUIET_TURNS_MAX: Final = 64
_GATHER_TURNS_MAX: Final = 400

_log: Final = logging.getLogger(__name__)

Result = TypeVar("Result")


class Operation(Protocol):
    """One write. Its `plan` checks everything first and only then changes the group."""

    @property
    def size_bytes(self) -> int:
        """About how much memory the operation holds; counts against the queue's bound."""

    @property
    def grows(self) -> bool:
        """Whether the store takes more room after it: refused while the disk is nearly full."""

    def plan(self, group: Group) -> Any:
        """Decides what to change, and changes it in the group; returns what the caller gets.

        Raises HeadraceError, before any change, if the operation is refused.
        """


class SpaceCheck(Protocol):
    """The room on the disk: see `space.Space`."""

    def look(self) -> bool:
        """Whether operations that grow are refused now."""

    def refusal(self) -> HeadraceError:
        """The error of one that is."""


class _AmpleSpace:
    def look(self) -> bool:
        return False

    def refusal(self) -> HeadraceError:
        raise AssertionError("nothing is refused")


class Change:
    """An operation that is nothing but its plan, on small documents or on what goes."""

    __slots__ = ("plan", "size_bytes")
    grows: Final = False

    def __init__(self, plan: Callable[[Group], Any], size_bytes: int = CHANGE_BYTES) -> None:
        self.plan = plan
        self.size_bytes = size_bytes


class _ShardLog:
    """The records a group appends to one shard: usually one block, more if they are large."""

    __slots__ = ("_block_bytes", "blocks", "last_sequence_number")

    def __init__(self) -> None:
        self.blocks: list[tuple[list[int], list[bytes]]] = []
        self.last_sequence_number = 0
        self._block_bytes = BLOCK_BYTES_MAX

    def append(self, sequence_number: int, record: bytes) -> None:
        """Adds a record, in a new block if the last one is full."""
        if self._block_bytes >= BLOCK_BYTES_MAX:
            self.blocks.append(([], []))
            self._block_bytes = 0
        numbers, records = self.blocks[-1]
        numbers.append(sequence_number)
        records.append(record)
        self._block_bytes += len(record)
        self.last_sequence_number = sequence_number


class Group:
    """One group commit in the making: a view of the state that includes its own changes."""

    def __init__(
        self,
        store: Store,
        counters: layout.Counters,
        clock: HybridClock,
        now_ms: int,
        region: str,
        log_sizes: dict[int, layout.LogSize],
        sizes: dict[int, layout.Size],
    ) -> None:
        self.now_ms = now_ms
        # How much the records take that the operations so far have made.
        self.record_bytes = 0
        self._store = store
        self._clock = clock
        self._region = region
        self._sequence_number = counters.sequence_number
        self._id = counters.id
        self._time_field = encode_time(now_ms)
        self._items: dict[bytes, bytes | None] = {}
        self._mutations: Mutations = {Family.ITEMS: self._items}
        self._range_deletes: list[tuple[Family, bytes, bytes]] = []
        self._logs: dict[int, _ShardLog] = {}
        # What the groups so far have appended to each shard.
        self._log_sizes = log_sizes
        # How much each table and index holds, and how much more after this group: items and bytes.
        self._sizes = sizes
        self._growth: dict[int, list[int]] = {}
        self._closed_shards: dict[int, int] = {}

    def get(self, family: Family, key: bytes) -> bytes | None:
        """The value of a key as the operations so far have left it."""
        changes = self._mutations.get(family)
        if changes is not None and key in changes:
            return changes[key]
        return self._store.get(family, key)

    def get_item(self, stored_key: bytes) -> StoredItem | None:
        """An item as the operations so far have left it. Raises DataLossError."""
        try:
            value = self._items[stored_key] if stored_key in self._items else self._store.get(Family.ITEMS, stored_key)
            return None if value is None else layout.decode_item(value)
        except CorruptionError as error:
            # A plan reads its item before it changes anything, so it alone is refused.
            _log.error("a write met a damaged item error=%s", error)
            raise DataLossError from error

    def put(self, family: Family, key: bytes, value: bytes | None) -> None:
        """Sets the value of a key; None deletes it."""
        self._mutations.setdefault(family, {})[key] = value

    def put_item(self, stored_key: bytes, item: EncodedItem | None, version: Version) -> None:
        """Replaces an item; None deletes it."""
        self._items[stored_key] = None if item is None else layout.encode_item(item, version)

    def resize(self, table_id: int, old_bytes: int | None, new_bytes: int | None) -> None:
        """Notes that an item or entry of a table or index changes its size; None is no item."""
        growth = self._growth.get(table_id)
        if growth is None:
            growth = self._growth[table_id] = [0, 0]
        if old_bytes is not None:
            growth[0] -= 1
            growth[1] -= old_bytes
        if new_bytes is not None:
            growth[0] += 1
            growth[1] += new_bytes

    def forget_size(self, table_id: int) -> None:
        """Notes that a table or index is gone."""
        self._growth.pop(table_id, None)
        self._sizes.pop(table_id, None)
        self.put(Family.CATALOG, layout.size_key(table_id), None)

    def delete_range(self, family: Family, begin: bytes, end: bytes) -> None:
        """Deletes all keys with begin <= key < end, changes of this group included."""
        changes = self._mutations.get(family, {})
        for key in [key for key in changes if begin <= key < end]:
            del changes[key]
        self._range_deletes.append((family, begin, end))

    def append_record(
        self,
        shard: Shard,
        view_type: StreamViewType,
        key: ItemKey,
        old: EncodedItem | None,
        new: EncodedItem | None,
        version: Version,
        *,
        is_expiry: bool = False,
    ) -> None:
        """Appends the change record of an item to a shard's log."""
        self._sequence_number += 1
        record = encode_record(
            sequence_number=self._sequence_number,
            time_field=self._time_field,
            view_type=view_type,
            key=key,
            old=old,
            new=new,
            version=version,
            is_expiry=is_expiry,
        )
        log = self._logs.get(shard.id)
        if log is None:
            log = self._logs[shard.id] = _ShardLog()
        log.append(self._sequence_number, record)
        self.record_bytes += len(record)

    def next_version(self) -> Version:
        """The version of a write that begins here; newer than all this store has given or applied."""
        return Version(self._clock.next(self.now_ms), self._region)

    def observe_version(self, version: Version) -> None:
        """Notes the version of a write that began elsewhere."""
        self._clock.observe(version.hybrid_time)

    def next_id(self) -> int:
        """An id for a table or shard, never given before."""
        self._id += 1
        return self._id

    def close_shard(self, shard: Shard, last_number: int) -> None:
        """Notes that a shard ends at a sequence number: its watermark rises to it, so that readers find the end."""
        self._closed_shards[shard.id] = last_number

    def next_sequence_number(self) -> int:
        """Takes a sequence number for something that is not a record, such as the begin or end of a shard."""
        self._sequence_number += 1
        return self._sequence_number

    @property
    def last_sequence_number(self) -> int:
        """The last number given to the operations so far: every record of theirs has this one or a lower one."""
        return self._sequence_number

    def changes_item(self, stored_key: bytes) -> bool:
        """Whether the group changes an item."""
        return stored_key in self._items

    def seal(self) -> tuple[Entry, layout.Counters]:
        """The entry to append, and the counters after it."""
        for shard, log in self._logs.items():
            size = self._log_size(shard)
            for numbers, records in log.blocks:
                block = layout.encode_block(numbers, records, self.now_ms, size)
                self.put(Family.LOG, layout.log_key(shard, numbers[-1]), block)
                size = layout.LogSize(size.records + len(records), size.payload_bytes + sum(map(len, records)))
            self._log_sizes[shard] = size
        for table_id, (more_items, more_bytes) in self._growth.items():
            before = self._sizes.get(table_id, layout.NO_ITEMS)
            # A store of before there were sizes has not counted what it held then.
            after = layout.Size(max(0, before.items + more_items), max(0, before.bytes + more_bytes))
            self._sizes[table_id] = after
            self.put(Family.CATALOG, layout.size_key(table_id), layout.encode_size(after))
        counters = layout.Counters(self._sequence_number, self._clock.last, self._id, self.now_ms)
        self.put(Family.CATALOG, layout.COUNTERS_KEY, layout.encode_counters(counters))
        entry = Entry(
            position=counters.sequence_number, mutations=self._mutations, range_deletes=tuple(self._range_deletes)
        )
        return entry, counters

    def _log_size(self, shard: int) -> layout.LogSize:
        """What was appended to a shard before this group; after a restart its last block tells."""
        size = self._log_sizes.get(shard)
        if size is None:
            last = self._store.last_before(Family.LOG, layout.log_prefix(shard), layout.log_end(shard))
            size = layout.EMPTY_LOG if last is None else layout.Block(last[1]).after
        return size

    def watermarks(self) -> dict[int, int]:
        """Up to where each shard that the group changes may be read once the group is durable."""
        return {shard: log.last_sequence_number for shard, log in self._logs.items()} | self._closed_shards


class _Submission:
    """Operations of one caller, the results of those evaluated so far, and the future that gets them all."""

    __slots__ = ("future", "operations", "results")

    def __init__(self, operations: Sequence[Operation], future: asyncio.Future[list[Any]]) -> None:
        self.operations = operations
        self.results: list[Any] = []
        self.future = future


class _Unsettled:
    """A group on its way to the disk: whose callers it completes, and the future of those who wait to read."""

    __slots__ = ("completed", "group", "synced")

    def __init__(self, group: Group, synced: asyncio.Future[None]) -> None:
        self.group = group
        self.completed: list[_Submission] = []
        self.synced = synced


class _Settling:
    """The syncs that were under way at one moment; who awaits it may be cancelled without harm to them."""

    __slots__ = ("_syncs",)

    def __init__(self, syncs: list[asyncio.Future[None]]) -> None:
        self._syncs = syncs

    def __await__(self) -> Generator[Any, None, None]:
        for sync in self._syncs:
            yield from asyncio.shield(sync).__await__()


class Committer:
    """Owns all writes of a store.

    Responsibilities: 1. bound what waits; 2. evaluate operations in order; 3. make each group durable as one entry;
    4. answer the callers and wake the readers afterwards; 5. stop for good after a failure of the disk.
    """

    def __init__(
        self,
        store: Store,
        journal: Journal,
        watermarks: Watermarks,
        clock: Clock,
        region: str,
        space: SpaceCheck | None = None,
    ) -> None:
        """Without `space` the disk is never full."""
        self._space = space or _AmpleSpace()
        self._store = store
        self._journal = journal
        self._watermarks = watermarks
        self._region = region
        self._counters = store.counters()
        # The times of a log's blocks never fall, so that a time is a place in it.
        self.clock = RisingClock(clock, self._counters.time_ms)
        self._system_clock = clock
        self._hybrid_clock = HybridClock(self._counters.hybrid_time)
        self._queue: deque[_Submission] = deque()
        self._queued_operations = 0
        self._queued_bytes = 0
        self._work = asyncio.Event()
        self._taken = asyncio.Event()
        self._closing = False
        self._failure: BaseException | None = None
        # Groups that are evaluated and not synced yet: at most two.
        self._unsettled: deque[_Unsettled] = deque()
        self._last_group_operations = 1
        # What was ever appended to each shard that was written to since the start.
        self.log_sizes: dict[int, layout.LogSize] = {}
        # What every table and index holds.
        self.sizes = {
            layout.sized_id(key): layout.decode_size(value)
            for key, value in store.scan(Family.CATALOG, layout.SIZES_PREFIX, layout.SIZES_END)
        }
        self.groups_total = 0
        self.operations_total = 0

    @property
    def last_sequence_number(self) -> int:
        """The last sequence number given; it may not be durable yet."""
        return self._counters.sequence_number

    @property
    def now_ms(self) -> int:
        """The time as group commits have it: it never falls, and may be ahead of the clock."""
        return self.clock.now_ms()

    @property
    def counters(self) -> layout.Counters:
        """What only rises, as the last planned group leaves it."""
        return self._counters

    @property
    def ahead_ms(self) -> int:
        """How far the newest time that was stored is ahead of the clock."""
        return max(0, self._counters.newest_ms - self._system_clock.now_ms())

    def forget_log_sizes(self, open_shards: set[int]) -> None:
        """Drops the sizes of logs that nothing is appended to any more."""
        for shard in self.log_sizes.keys() - open_shards:
            del self.log_sizes[shard]

    @property
    def queued_operations(self) -> int:
        """How many operations wait now."""
        return self._queued_operations

    async def commit(self, operation: Operation) -> Any:
        """Carries out one operation; returns when it is durable. Raises what its plan raised, or ThrottlingError."""
        (result,) = await self.submit((operation,))
        if isinstance(result, HeadraceError):
            raise result
        return result

    async def change(self, plan: Callable[[Group], Result], size_bytes: int = CHANGE_BYTES) -> Result:
        """Carries out a rare operation, such as one on a definition, given as its plan. Raises as `commit` does."""
        result: Result = await self.commit(Change(plan, size_bytes))
        return result

    async def change_when_room(self, plan: Callable[[Group], Result], size_bytes: int = CHANGE_BYTES) -> Result:
        """As `change`, but waits for room among the writes, for what must be done also when they are too many."""
        (result,) = await (await self.submit_when_room((Change(plan, size_bytes),)))
        if isinstance(result, HeadraceError):
            raise result
        changed: Result = result
        return changed

    def submit(self, operations: Sequence[Operation]) -> asyncio.Future[list[Any]]:
        """Queues operations, to be carried out in order.

        The future gets, when all are durable, for each operation its result or its HeadraceError.

        Raises ThrottlingError if too much waits already and UnavailableError if the node stops; then nothing was
        queued.
        """
        if self._failure is not None or self._closing:
            raise UnavailableError("The node is stopping")
        size_bytes = _size_bytes(operations)
        if not self._has_room(len(operations), size_bytes):
            raise ThrottlingError(
                f"Too many writes are waiting: limit {QUEUE_OPERATIONS_MAX} operations, {QUEUE_BYTES_MAX} bytes",
                retry_after_ms=_RETRY_AFTER_MS,
                limit=QUEUE_OPERATIONS_MAX,
            )
        future: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self._queue.append(_Submission(operations, future))
        self._queued_operations += len(operations)
        self._queued_bytes += size_bytes
        self._work.set()
        return future

    async def submit_when_room(self, operations: Sequence[Operation]) -> asyncio.Future[list[Any]]:
        """As `submit`, but waits for room: for callers that can make their own callers wait.

        Returns when the operations are queued. Raises UnavailableError.
        """
        size_bytes = _size_bytes(operations)
        while not self._has_room(len(operations), size_bytes) and self._failure is None:
            self._taken.clear()
            await self._taken.wait()
        return self.submit(operations)

    def _has_room(self, operations: int, size_bytes: int) -> bool:
        # What is too large to ever fit is let in when nothing else waits.
        return not self._queue or (
            self._queued_operations + operations <= QUEUE_OPERATIONS_MAX
            and self._queued_bytes + size_bytes <= QUEUE_BYTES_MAX
        )

    async def settled(self, stored_key: bytes) -> None:
        """Returns when the last change of an item, if there is one under way, is durable."""
        for unsettled in list(self._unsettled):
            if unsettled.group.changes_item(stored_key):
                await asyncio.shield(unsettled.synced)

    def all_settled(self) -> Awaitable[None]:
        """To be awaited, now or later: returns when all changes that can be read now are durable."""
        return _Settling([unsettled.synced for unsettled in self._unsettled])

    async def snapshot(self, family: Family, begin: bytes, end: bytes) -> tuple[int, Iterator[tuple[bytes, bytes]]]:
        """The entries with begin <= key < end at one sequence number: exactly the writes up to it, all durable."""
        number, entries = self._counters.sequence_number, self._store.scan(family, begin, end)
        await self.all_settled()
        return number, entries

    async def cursors(self, family: Family, ranges: Sequence[tuple[bytes, bytes]]) -> tuple[int, list[Cursor]]:
        """As `snapshot`, of several ranges of keys, each to be read again and again."""
        number, cursors = self._counters.sequence_number, [self._store.cursor(family, *keys) for keys in ranges]
        await self.all_settled()
        return number, cursors

    async def checkpoint(self, path: Path) -> int:
        """Makes a store of its own in a new folder: exactly the writes up to the sequence number returned, all durable.

        As it is made between two group commits, before the first wait, all families agree, and what is in memory does.
        """
        number = self._counters.sequence_number
        self._store.checkpoint(path)
        await self.all_settled()
        return number

    async def run(self) -> None:
        """Commits groups until `close`. Raises what the disk raised; then nothing more is accepted."""
        syncing: asyncio.Task[None] | None = None
        try:
            while True:
                if not self._queue:
                    if self._closing:
                        break
                    self._work.clear()
                    await self._work.wait()
                    continue
                await self._gather()
                # 1. Evaluate and write the next group; it is visible to the next evaluation, and not yet durable.
                entry, self._counters = self._plan_group().seal()
                self._journal.append(entry)
                # 2. One sync at a time; it covers everything written before it starts.
                if syncing is not None:
                    await syncing
                syncing = asyncio.create_task(self._sync())
                # 3. If a full group waits already, evaluate it during the sync; otherwise let more operations gather.
                if self._queued_operations < GROUP_OPERATIONS_MAX:
                    await syncing
                    syncing = None
            if syncing is not None:
                await syncing
        except BaseException as error:
            # A sync under way ends first, so that the groups it covers get their true answer.
            if syncing is not None:
                await asyncio.wait((syncing,))
            self._fail(error)
            raise

    def close(self) -> None:
        """Refuses new work; `run` returns when all that waits is durable."""
        self._closing = True
        self._work.set()

    async def _gather(self) -> None:
        """Lets operations that are on their way arrive, unless a full group waits already.

        A group costs about the same with one operation as with thirty, and a call takes a few turns of the event loop
        from its socket to the queue. So this waits as long as turns bring more, not by the clock: an idle loop turns in
        microseconds. It is the more patient the more operations the last group held: a lone caller waits for nobody.
        """
        patience = min(_GATHER_QUIET_TURNS_MAX, _GATHER_QUIET_TURNS * self._last_group_operations)
        quiet = waiting = 0
        for _ in range(_GATHER_TURNS_MAX):
            quiet = quiet + 1 if self._queued_operations == waiting else 0
            waiting = self._queued_operations
            if quiet >= patience or waiting >= GROUP_OPERATIONS_MAX:
                return
            await asyncio.sleep(0)

    def _plan_group(self) -> Group:
        group = Group(
            self._store, self._counters, self._hybrid_clock, self.now_ms, self._region, self.log_sizes, self.sizes
        )
        unsettled = _Unsettled(group, asyncio.get_running_loop().create_future())
        self._unsettled.append(unsettled)
        operations = size_bytes = 0
        is_full = False
        is_short = self._space.look()
        clock = asyncio.get_running_loop().time
        end = clock() + GROUP_SECONDS_MAX
        while self._queue and not is_full:
            # A submission that does not fit goes on in the next group; its last group completes it.
            submission = self._queue[0]
            results = submission.results
            for operation in islice(submission.operations, len(results), None):
                try:
                    is_refused = is_short and operation.grows
                    results.append(self._space.refusal() if is_refused else operation.plan(group))
                except HeadraceError as error:
                    results.append(error)
                operations += 1
                size_bytes += operation.size_bytes
                is_full = (
                    operations >= GROUP_OPERATIONS_MAX
                    or size_bytes + group.record_bytes >= GROUP_BYTES_MAX
                    or clock() > end
                )
                if is_full:
                    break
            if len(results) == len(submission.operations):
                self._queue.popleft()
                unsettled.completed.append(submission)
        self._queued_operations -= operations
        self._queued_bytes -= size_bytes
        self._taken.set()
        self._last_group_operations = operations
        self.groups_total += 1
        self.operations_total += operations
        return group

    async def _sync(self) -> None:
        """Makes the oldest unsettled group durable, then tells everybody."""
        await self._journal.sync()
        unsettled = self._unsettled.popleft()
        # 1. Readers of items may see it.
        unsettled.synced.set_result(None)
        # 2. Readers of the log.
        for shard, number in unsettled.group.watermarks().items():
            self._watermarks.of(shard).advance(number)
        # 3. The callers.
        for submission in unsettled.completed:
            if not submission.future.done():
                submission.future.set_result(submission.results)

    def _fail(self, error: BaseException) -> None:
        self._failure = error
        self._taken.set()
        submissions = [submission for unsettled in self._unsettled for submission in unsettled.completed]
        submissions += self._queue
        self._queue.clear()
        futures = [submission.future for submission in submissions] + [u.synced for u in self._unsettled]
        for future in futures:
            if not future.done():
                failure = UnavailableError("The node has failed; whether the write is kept is unknown")
                failure.__cause__ = error
                future.set_exception(failure)
                # Nobody may be waiting: that is no reason to warn about an exception never retrieved.
                future.exception()


def _size_bytes(operations: Sequence[Operation]) -> int:
    return sum([operation.size_bytes for operation in operations])
