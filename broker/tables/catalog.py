"""Definitions of tables and of their streams, and their life."""

from __future__ import annotations

import asyncio
import uuid
from bisect import bisect_right
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING, Final

from broker.encoding.keys import KeyCodec, table_prefix
from broker.model.errors import (
    LimitExceededError,
    ResourceInUseError,
    ResourceNotFoundError,
    TableAlreadyExistsError,
    TableNotFoundError,
    ValidationError,
)
from broker.model.tables import (
    Shard,
    Stream,
    StreamViewType,
    Table,
    TimeToLive,
    stream_arn,
    stream_name,
    table_arn,
    upgrade_table,
)
from broker.storage import layout
from broker.storage.documents import Documents
from broker.storage.rocks import Family
from broker.streams.shards import (
    closed_stream,
    merge_shards,
    new_stream,
    roll_shards,
    split_shard,
    trimmed_stream,
    with_seams,
)
from broker.tables.definition import NewTable, TableChange, restored_table, with_ids
from broker.tables.indexes import Indexes, drop_entries
from broker.tables.validate import TAGS_MAX, check_table_name, table_name_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from broker.model.tables import Restoration
    from broker.storage.commit import Committer, Group
    from broker.storage.rocks import Store
    from broker.streams.tail import Trim

# How much of an ARN that is not ours a message repeats.
_QUOTED_MAX: Final = 200


def table_documents(store: Store, kind: str = "table") -> Documents[Table]:
    """The definitions of a store's tables, as whichever version has written them."""
    return Documents(store, kind, Table, upgrade=upgrade_table)


class OpenTable:
    """A table in use: its definition and what is derived from it. Kept true by the catalog while the table exists."""

    __slots__ = ("_first_hashes", "_open_shards", "definition", "indexes", "is_deleted", "keys", "stream")

    def __init__(self, definition: Table, stream: Stream | None) -> None:
        self.keys = KeyCodec(definition)
        self.is_deleted = False
        self.update(definition, stream)

    def check_exists(self) -> None:
        """Raises ResourceNotFoundError if the table was deleted since it was opened."""
        if self.is_deleted:
            raise TableNotFoundError(self.definition.name)

    def update(self, definition: Table, stream: Stream | None) -> None:
        """Takes over a change of the definition, or of the enabled stream; None if there is none."""
        self.definition = definition
        self.indexes = Indexes(definition, self.keys)
        self.stream = stream
        self._open_shards: list[Shard] = [] if stream is None else stream.open_shards
        self._first_hashes = [shard.first_hash for shard in self._open_shards]

    def shard_of(self, key_hash: int) -> Shard:
        """The one open shard of the enabled stream that records a key. Open shards cover all hashes, each once."""
        return self._open_shards[bisect_right(self._first_hashes, key_hash) - 1]


class Catalog:
    """All tables and streams of a store."""

    def __init__(
        self,
        store: Store,
        committer: Committer,
        region: str,
        random: Random,
        forget: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Opens the tables of a store. `forget` is told the id of each table and index that goes."""
        self.region = region
        self._forget = forget
        self._committer = committer
        self._random = random
        self.tables = table_documents(store)
        # Named "<table>/stream/<label>": the end of the ARN, so that they list in the order of their ARNs.
        self.streams = Documents(store, "stream", Stream, with_seams)
        # Tables that are being filled from a backup: their names are taken, and nobody sees them.
        self.restoring = table_documents(store, "restoring")
        self._open = {t.name: OpenTable(t, self._enabled_stream(t)) for t in self.tables.all()}
        # Set when an index, or the one by time of expiry, is to be filled with the items there are.
        self.backfill_wanted = asyncio.Event()

    @property
    def now_ms(self) -> int:
        """The time as the definitions have it: it never falls."""
        return self._committer.now_ms

    def open_table(self, name: str) -> OpenTable:
        """A table to read or write, by its name or ARN.

        Raises TableNotFoundError, or ValidationError for a name no table can have or the ARN of no table of this node.
        """
        opened = self._open.get(name)
        if opened is None:
            name = self.table_name(name)
            opened = self._open.get(name)
            if opened is None:
                raise TableNotFoundError(name)
        return opened

    def table_name(self, name_or_arn: str, field: str = "table_name") -> str:
        """The name in what names a table, there or not: its name or its ARN.

        Raises ValidationError as `open_table` does.
        """
        name = table_name_of(name_or_arn, self.region, field)
        check_table_name(name, field)
        return name

    def find_table(self, name: str) -> OpenTable | None:
        """The table of a name, or None."""
        return self._open.get(name)

    def open_table_of_arn(self, arn: str) -> OpenTable:
        """The table of an ARN. Raises ValidationError for a malformed one and ResourceNotFoundError."""
        head, _, name = arn.partition(":table/")
        if not head.startswith("arn:aws:dynamodb:") or not name:
            raise ValidationError(
                f"Invalid TableArn: Invalid ResourceArn provided as input {arn[:_QUOTED_MAX]}", field="resource_arn"
            )
        opened = self._open.get(name)
        if opened is None or table_arn(self.region, name) != arn:
            # The spelling is DynamoDB's.
            raise ResourceNotFoundError(
                f"Requested resource not found: ResourcArn: {arn[:_QUOTED_MAX]} not found", resource_arn=arn
            )
        return opened

    def size_of(self, id_: int) -> tuple[int, int]:
        """How many items a table or index of an id holds, and their size in bytes."""
        return self._committer.sizes.get(id_, layout.NO_ITEMS)

    def stream(self, arn: str) -> Stream:
        """A stream, also a disabled one. Raises ValidationError for a malformed ARN and ResourceNotFoundError."""
        head, _, rest = arn.partition(":table/")
        if not head.startswith("arn:aws:dynamodb:") or "/stream/" not in rest:
            raise ValidationError(
                f"Invalid StreamArn: {arn[:_QUOTED_MAX]!r} is not the ARN of a stream", field="stream_arn"
            )
        stream = self.streams.get(rest)
        if stream is None or self.stream_arn(stream) != arn:
            raise ResourceNotFoundError(f"Requested resource not found: Stream: {arn} not found", stream_arn=arn)
        return stream

    def enabled_stream(self, table_name: str) -> Stream:
        """The enabled stream of a table. Raises ResourceNotFoundError if there is no such table or it has none."""
        stream = self.open_table(table_name).stream
        if stream is None:
            name = self.table_name(table_name)
            raise ResourceNotFoundError(f"Table {name} has no enabled stream", table_name=name)
        return stream

    def newest_stream(self, table: Table) -> Stream | None:
        """The stream a table has or had last; None if it never had one."""
        return self.streams.get(stream_name(table.name, table.stream_label))

    def table_of(self, stream: Stream) -> Table | None:
        """The table whose changes a stream records; None if it was deleted."""
        opened = self._open.get(stream.table_name)
        return opened.definition if opened is not None and opened.definition.id == stream.table_id else None

    def stream_arn(self, stream: Stream) -> str:
        """A stream's public name."""
        return stream_arn(self.region, stream.table_name, stream.label)

    async def create_table(self, new: NewTable) -> Table:
        """Creates a table. Raises ValidationError, and ResourceInUseError if the name is taken."""
        wanted = new.table(str(uuid.UUID(int=self._random.getrandbits(128), version=4)))

        def plan(group: Group) -> Table:
            if self._is_taken(new.name):
                raise ResourceInUseError(f"Table already exists: {new.name}", table_name=new.name)
            table = replace(with_ids(wanted, group.next_id), create_time_ms=group.now_ms)
            if new.view_type is not None:
                table = self._enable_stream(group, table, new.view_type)
            self.tables.put(group, table.name, table)
            self._open[table.name] = OpenTable(table, self._enabled_stream(table))
            return table

        return await self._committer.change(plan)

    async def update_table(self, name: str, change: TableChange) -> Table:
        """Changes a table, all of it or nothing: its definition, the settings of its streams, then its stream's switch.

        Raises ResourceNotFoundError, ValidationError, ResourceInUseError, LimitExceededError.
        """

        def plan(group: Group) -> Table:
            opened = self.open_table(name)
            before, stream = opened.definition, opened.stream
            table = change.apply(before, group.now_ms)
            if change.switches_stream and change.view_type is not None and stream is not None:
                raise ValidationError(
                    f"Table already has an enabled stream: TableName: {name}", field="stream_specification"
                )
            if change.switches_stream and change.view_type is None and stream is None:
                raise ValidationError(
                    f"Table has no stream to disable: TableName: {name}", field="stream_specification"
                )
            table = with_ids(table, group.next_id)
            kept = {index.id for index in table.indexes}
            for index in before.indexes:
                if index.id not in kept:
                    self._delete_entries(group, index.id)
            for old in self.streams.all():
                # Those of a deleted table of the same name keep the settings they had.
                if old.table_id == table.id and old.settings != table.stream_settings:
                    self.streams.put(group, old.name, replace(old, settings=table.stream_settings))
            if change.switches_stream and change.view_type is not None:
                table = self._enable_stream(group, table, change.view_type)
            elif change.switches_stream and stream is not None:
                self._disable_stream(group, self._current(stream))
            return self._put_table(group, opened, table)

        table = await self._committer.change(plan)
        self.backfill_wanted.set()
        return table

    async def finish_backfill(self, table_name: str, id_: int) -> None:
        """Notes that the index of an id, or the one by time of expiry, holds all items. Nothing if it is gone.

        Waits for room among the writes.
        """

        def plan(group: Group) -> None:
            opened = self._open.get(table_name)
            if opened is None:
                return
            table = opened.definition
            expiry = table.time_to_live
            if expiry is not None and expiry.id == id_:
                expiry = replace(expiry, is_backfilling=False)
            indexes = tuple(replace(i, is_backfilling=False) if i.id == id_ else i for i in table.indexes)
            after = replace(table, indexes=indexes, time_to_live=expiry)
            if after != table:
                self._put_table(group, opened, after)

        await self._committer.change_when_room(plan)

    async def update_time_to_live(self, name: str, attribute: str, *, is_enabled: bool) -> Table:
        """Lets items expire by an attribute, or ends that. Raises ResourceNotFoundError, ValidationError."""

        def plan(group: Group) -> Table:
            opened = self.open_table(name)
            expiry = opened.definition.time_to_live
            if expiry is not None and expiry.attribute != attribute:
                raise ValidationError(
                    f"TimeToLive is active on a different AttributeName: current AttributeName is {expiry.attribute}",
                    field="time_to_live_specification.attribute_name",
                )
            if is_enabled is (expiry is not None):
                raise ValidationError(
                    f"TimeToLive is already {'enabled' if is_enabled else 'disabled'}",
                    field="time_to_live_specification.enabled",
                )
            if expiry is not None:
                self._delete_entries(group, expiry.id)
            after = TimeToLive(attribute=attribute, id=group.next_id()) if is_enabled else None
            return self._put_table(group, opened, replace(opened.definition, time_to_live=after))

        table = await self._committer.change(plan)
        self.backfill_wanted.set()
        return table

    async def update_recovery(self, name: str, period_days: int | None) -> Table:
        """Switches point-in-time recovery on for so many days, or with None off. Raises ResourceNotFoundError."""

        def plan(group: Group) -> Table:
            opened = self.open_table(name)
            return self._put_table(group, opened, replace(opened.definition, recovery_period_days=period_days))

        return await self._committer.change(plan)

    async def tag_table(self, arn: str, tags: Mapping[str, str]) -> None:
        """Adds tags to a table, or replaces those with the same keys.

        Raises ValidationError, ResourceNotFoundError, LimitExceededError.
        """

        def plan(group: Group) -> None:
            opened = self.open_table_of_arn(arn)
            after = {**opened.definition.tags, **tags}
            if len(after) > TAGS_MAX:
                raise LimitExceededError(
                    f"Number of tags exceeds the limit of {TAGS_MAX} for the resource: {arn}",
                    field="tags",
                    limit=TAGS_MAX,
                )
            self._put_table(group, opened, replace(opened.definition, tags=after))

        await self._committer.change(plan)

    async def untag_table(self, arn: str, keys: Collection[str]) -> None:
        """Removes the tags with these keys that there are. Raises ValidationError, ResourceNotFoundError."""

        def plan(group: Group) -> None:
            opened = self.open_table_of_arn(arn)
            after = {key: value for key, value in opened.definition.tags.items() if key not in keys}
            self._put_table(group, opened, replace(opened.definition, tags=after))

        await self._committer.change(plan)

    async def split_shard(self, stream: Stream, shard_id: str, starting_hash: int | None) -> list[Shard]:
        """Closes an open shard and opens two in its place, at one point of the log.

        Raises ResourceNotFoundError, ResourceInUseError, LimitExceededError, ValidationError.
        """

        def plan(group: Group) -> list[Shard]:
            now, number = self._current(stream), _boundary(group)
            after = split_shard(now, shard_id, starting_hash, number, group.now_ms, group.next_id)
            self._succeed(group, now, after, number)
            return list(after.shards[-2:])

        return await self._committer.change(plan)

    async def merge_shards(self, stream: Stream, shard_id: str, adjacent_shard_id: str) -> Shard:
        """Closes two adjoining open shards and opens one in their place, at one point of the log.

        Raises ResourceNotFoundError, ResourceInUseError, ValidationError.
        """

        def plan(group: Group) -> Shard:
            now, number = self._current(stream), _boundary(group)
            after = merge_shards(now, shard_id, adjacent_shard_id, number, group.now_ms, group.next_id)
            self._succeed(group, now, after, number)
            return after.shards[-1]

        return await self._committer.change(plan)

    async def roll_shards(self, stream: Stream, shard_ids: Collection[str]) -> list[Shard]:
        """Closes open shards and opens one in place of each, all at one point of the log.

        Raises ResourceNotFoundError, ResourceInUseError, LimitExceededError.
        """

        def plan(group: Group) -> list[Shard]:
            now, number = self._current(stream), _boundary(group)
            after = roll_shards(now, shard_ids, number, group.now_ms, group.next_id)
            self._succeed(group, now, after, number)
            return list(after.shards[-len(shard_ids) :])

        return await self._committer.change(plan)

    async def trim(self, stream: Stream, trims: Iterable[Trim], vanishing: Collection[int]) -> list[Shard]:
        """Drops the oldest records of a stream, whole blocks by one range each, and closed shards that hold none.

        Waits for room among the writes. Returns the shards that vanished; a stream vanishes when it has none left.
        """
        trims = list(trims)

        def plan(group: Group) -> list[Shard]:
            before = self.streams.get(stream.name)
            if before is None:
                return []
            after = trimmed_stream(
                before, [(trim.shard, trim.last_sequence_number, trim.time_ms) for trim in trims], vanishing
            )
            kept = {shard.id for shard in after.shards}
            gone = [shard for shard in before.shards if shard.id not in kept]
            trimmed_to = {shard.id: shard.trimmed_to for shard in before.shards}
            for trim in trims:
                # From where the last range ended: ranges that overlap make every scan after them slower.
                begin = layout.log_key(trim.shard, trimmed_to[trim.shard])
                group.delete_range(Family.LOG, begin, layout.log_key(trim.shard, trim.last_sequence_number + 1))
            if after.shards:
                self._put_stream(group, after)
            else:
                self.streams.delete(group, stream.name)
            return gone

        return await self._committer.change_when_room(plan)

    async def delete_table(self, name: str) -> Table:
        """Removes a table, its items and indexes, and disables its stream.

        Raises ResourceNotFoundError, and ValidationError if it is protected.
        """

        def plan(group: Group) -> Table:
            opened = self.open_table(name)
            table = opened.definition
            if table.is_protected:
                raise ValidationError(
                    "Resource cannot be deleted as it is currently protected against deletion. Disable deletion "
                    "protection first.",
                    field="table_name",
                    table_name=table.name,
                )
            if opened.stream is not None:
                self._disable_stream(group, opened.stream)
            self.tables.delete(group, table.name)
            del self._open[table.name]
            opened.is_deleted = True
            self._delete_items(group, table)
            return table

        return await self._committer.change(plan)

    async def begin_restore(
        self, name: str, source: Table, restored_from: Restoration, overrides: TableChange
    ) -> OpenTable:
        """Begins a table as another one was, which nobody sees until `finish_restore`.

        Raises TableAlreadyExistsError, ValidationError.
        """
        table_uuid = str(uuid.UUID(int=self._random.getrandbits(128), version=4))

        def plan(group: Group) -> OpenTable:
            self.check_free(name)
            wanted = restored_table(
                source,
                name=name,
                uuid=table_uuid,
                restored_from=restored_from,
                now_ms=group.now_ms,
                overrides=overrides,
            )
            table = with_ids(wanted, group.next_id)
            self.restoring.put(group, name, table)
            return OpenTable(table, None)

        return await self._committer.change(plan)

    async def finish_restore(self, restored: OpenTable) -> Table:
        """Lets a restored table be seen, whole."""
        table = restored.definition

        def plan(group: Group) -> Table:
            self.restoring.delete(group, table.name)
            self.tables.put(group, table.name, table)
            self._open[table.name] = restored
            return table

        return await self._committer.change_when_room(plan)

    async def abandon_restore(self, name: str) -> None:
        """Removes a table whose restore came to no end, and its items."""

        def plan(group: Group) -> None:
            table = self.restoring.get(name)
            if table is not None:
                self.restoring.delete(group, name)
                self._delete_items(group, table)

        await self._committer.change_when_room(plan)

    def check_free(self, name: str) -> None:
        """Raises TableAlreadyExistsError if no table can be restored under a name."""
        if self._is_taken(name):
            raise TableAlreadyExistsError(f"Table already exists: {name}", table_name=name)

    def _is_taken(self, table_name: str) -> bool:
        return table_name in self._open or self.restoring.get(table_name) is not None

    def _put_table(self, group: Group, opened: OpenTable, table: Table) -> Table:
        """Replaces the definition of a table in use."""
        self.tables.put(group, table.name, table)
        opened.update(table, self._enabled_stream(table))
        return table

    def _delete_items(self, group: Group, table: Table) -> None:
        """Removes the items of a table, and the entries of its indexes."""
        for family in (Family.ITEMS, Family.TOMBSTONES):
            group.delete_range(family, table_prefix(table.id), table_prefix(table.id + 1))
        self._delete_entries(group, table.id)
        for index in table.indexes:
            self._delete_entries(group, index.id)
        if table.time_to_live is not None:
            self._delete_entries(group, table.time_to_live.id)

    def _delete_entries(self, group: Group, id_: int) -> None:
        """Removes the entries of an index, or of the one by time of expiry, or the sizes of item collections."""
        drop_entries(group, id_)
        self._forget(id_)

    def _enable_stream(self, group: Group, table: Table, view_type: StreamViewType) -> Table:
        """Begins a stream; returns the definition that names it."""
        number = group.next_sequence_number()
        # A table of this name may have been deleted and left streams that are still readable.
        last_label = max((s.label for s in self.streams.all() if s.table_name == table.name), default="")
        stream = new_stream(table, view_type, group.now_ms, group.next_id, number, last_label)
        self.streams.put(group, stream.name, stream)
        return replace(table, stream_label=stream.label)

    def _disable_stream(self, group: Group, stream: Stream) -> None:
        """Ends a stream: its open shards are closed."""
        number = group.next_sequence_number()
        self.streams.put(group, stream.name, closed_stream(stream, number, group.now_ms))
        for shard in stream.open_shards:
            group.close_shard(shard, number)

    def _current(self, stream: Stream) -> Stream:
        """A stream as it is now. Raises ResourceNotFoundError if it is gone."""
        now = self.streams.get(stream.name)
        if now is None:
            arn = self.stream_arn(stream)
            raise ResourceNotFoundError(f"Requested resource not found: Stream: {arn} not found", stream_arn=arn)
        return now

    def _succeed(self, group: Group, before: Stream, after: Stream, number: int) -> None:
        """Puts a stream in which some shards were closed at a sequence number and others opened."""
        still_open = {shard.id for shard in after.open_shards}
        for shard in before.open_shards:
            if shard.id not in still_open:
                group.close_shard(shard, number)
        self._put_stream(group, after)

    def _put_stream(self, group: Group, stream: Stream) -> None:
        self.streams.put(group, stream.name, stream)
        opened = self._open.get(stream.table_name)
        if opened is not None and opened.stream is not None and opened.stream.name == stream.name:
            opened.update(opened.definition, stream)

    def _enabled_stream(self, table: Table) -> Stream | None:
        stream = self.newest_stream(table)
        return stream if stream is not None and stream.is_enabled else None


def _boundary(group: Group) -> int:
    """The number at which shards end; others begin at the next one.

    No record has either: so a reader that goes on after the number at which a shard begins misses nothing.
    """
    number = group.next_sequence_number()
    group.next_sequence_number()
    return number
