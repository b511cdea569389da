"""Definitions of tables and of their streams, and their life."""

from __future__ import annotations

import uuid
from bisect import bisect_right
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING

from broker.encoding.keys import KeyCodec, table_prefix
from broker.model.errors import (
    ResourceInUseError,
    ResourceNotFoundError,
    TableAlreadyExistsError,
    ValidationError,
)
from broker.model.tables import (
    KeyAttribute,
    Shard,
    Stream,
    StreamSettings,
    StreamViewType,
    Table,
    stream_arn,
    stream_name,
)
from broker.storage import layout
from broker.storage.documents import Documents
from broker.storage.rocks import Family
from broker.streams.shards import closed_stream, merge_shards, new_stream, split_shard, trimmed_stream
from broker.tables.validate import check_stream_settings, check_table_name

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from broker.storage.commit import Committer, Group
    from broker.storage.rocks import Store
    from broker.streams.tail import Trim


class OpenTable:
    """A table in use: its definition and what is derived from it. Kept true by the catalog while the table exists."""

    __slots__ = ("_first_hashes", "_open_shards", "definition", "is_deleted", "keys", "stream")

    def __init__(self, definition: Table, stream: Stream | None) -> None:
        self.keys = KeyCodec(definition)
        self.is_deleted = False
        self.update(definition, stream)

    def update(self, definition: Table, stream: Stream | None) -> None:
        """Takes over a change of the definition, or of the enabled stream; None if there is none."""
        self.definition = definition
        self.stream = stream
        self._open_shards: list[Shard] = [] if stream is None else stream.open_shards
        self._first_hashes = [shard.first_hash for shard in self._open_shards]

    def shard_of(self, key_hash: int) -> Shard:
        """The one open shard of the enabled stream that records a key. Open shards cover all hashes, each once."""
        return self._open_shards[bisect_right(self._first_hashes, key_hash) - 1]


class Catalog:
    """All tables and streams of a store."""

    def __init__(self, store: Store, committer: Committer, region: str, random: Random) -> None:
        self.region = region
        self._committer = committer
        self._random = random
        self.tables = Documents(store, "table", Table)
        # Named "<table>/stream/<label>": the end of the ARN, so that they list in the order of their ARNs.
        self.streams = Documents(store, "stream", Stream)
        # Tables that are being filled from a backup: their names are taken, and nobody sees them.
        self.restoring = Documents(store, "restoring", Table)
        self._open = {t.name: OpenTable(t, self._enabled_stream(t)) for t in self.tables.all()}

    def open_table(self, name: str) -> OpenTable:
        """A table to read or write. Raises ResourceNotFoundError, or ValidationError for a name no table can have."""
        opened = self._open.get(name)
        if opened is None:
            check_table_name(name)
            raise ResourceNotFoundError(f"Requested resource not found: Table: {name} not found", table_name=name)
        return opened

    def stream(self, arn: str) -> Stream:
        """A stream, also a disabled one. Raises ValidationError for a malformed ARN and ResourceNotFoundError."""
        head, _, rest = arn.partition(":table/")
        if not head.startswith("arn:aws:dynamodb:") or "/stream/" not in rest:
            raise ValidationError(f"Invalid stream_arn: {arn[:200]!r} is not the ARN of a stream", field="stream_arn")
        stream = self.streams.get(rest)
        if stream is None or self.stream_arn(stream) != arn:
            raise ResourceNotFoundError(f"Requested resource not found: Stream: {arn} not found", stream_arn=arn)
        return stream

    def enabled_stream(self, table_name: str) -> Stream:
        """The enabled stream of a table. Raises ResourceNotFoundError if there is no such table or it has none."""
        stream = self.open_table(table_name).stream
        if stream is None:
            raise ResourceNotFoundError(f"Table {table_name} has no enabled stream", table_name=table_name)
        return stream

    def newest_stream(self, table: Table) -> Stream | None:
        """The stream a table has or had last; None if it never had one."""
        return self.streams.get(stream_name(table.name, table.stream_label))

    def stream_arn(self, stream: Stream) -> str:
        """A stream's public name."""
        return stream_arn(self.region, stream.table_name, stream.label)

    async def create_table(
        self,
        name: str,
        partition_key: KeyAttribute,
        sort_key: KeyAttribute | None,
        view_type: StreamViewType | None,
        settings: StreamSettings | None = None,
    ) -> Table:
        """Creates a table, with a stream if a view type is given. Raises ResourceInUseError if the name is taken."""
        settings = settings or StreamSettings()
        check_stream_settings(settings)
        table_uuid = str(uuid.UUID(int=self._random.getrandbits(128), version=4))

        def plan(group: Group) -> Table:
            if self._is_taken(name):
                raise ResourceInUseError(f"Table already exists: {name}", table_name=name)
            table = Table(
                name=name,
                id=group.next_id(),
                uuid=table_uuid,
                create_time_ms=group.now_ms,
                partition_key=partition_key,
                sort_key=sort_key,
                stream_settings=settings,
            )
            if view_type is not None:
                table = self._enable_stream(group, table, view_type)
            self.tables.put(group, name, table)
            self._open[name] = OpenTable(table, self._enabled_stream(table))
            return table

        return await self._committer.change(plan)

    async def update_table(
        self,
        name: str,
        change_settings: Callable[[StreamSettings], StreamSettings],
        *,
        switch_stream: bool,
        view_type: StreamViewType | None,
    ) -> Table:
        """Changes the settings of a table's streams and then, if it is to be switched, enables a new stream.

        Without a view type switching disables the one there is.

        Raises ResourceNotFoundError, and ValidationError if there is nothing to switch.
        """

        def plan(group: Group) -> Table:
            opened = self.open_table(name)
            stream = opened.stream
            settings = change_settings(opened.definition.stream_settings)
            check_stream_settings(settings)
            if switch_stream and view_type is not None and stream is not None:
                raise ValidationError(
                    f"Table already has an enabled stream: TableName: {name}", field="stream_specification"
                )
            if switch_stream and view_type is None and stream is None:
                raise ValidationError(
                    f"Table has no stream to disable: TableName: {name}", field="stream_specification"
                )
            table = replace(opened.definition, stream_settings=settings)
            for old in self.streams.all():
                # Those of a deleted table of the same name keep the settings they had.
                if old.table_id == table.id and old.settings != settings:
                    self.streams.put(group, old.name, replace(old, settings=settings))
            if switch_stream and view_type is not None:
                table = self._enable_stream(group, table, view_type)
            elif switch_stream and stream is not None:
                self._disable_stream(group, self._current(stream))
            self.tables.put(group, name, table)
            opened.update(table, self._enabled_stream(table))
            return table

        return await self._committer.change(plan)

    async def split_shard(self, stream: Stream, shard_id: str, starting_hash: int | None) -> list[Shard]:
        """Closes an open shard and opens two in its place, at one point of the log.

        Raises ResourceNotFoundError, ResourceInUseError, LimitExceededError, ValidationError.
        """

        def plan(group: Group) -> list[Shard]:
            now, number = self._current(stream), group.next_sequence_number()
            after = split_shard(now, shard_id, starting_hash, number, group.now_ms, group.next_id)
            self._succeed(group, now, after, number)
            return list(after.shards[-2:])

        return await self._committer.change(plan)

    async def merge_shards(self, stream: Stream, shard_id: str, adjacent_shard_id: str) -> Shard:
        """Closes two adjoining open shards and opens one in their place, at one point of the log.

        Raises ResourceNotFoundError, ResourceInUseError, ValidationError.
        """

        def plan(group: Group) -> Shard:
            now, number = self._current(stream), group.next_sequence_number()
            after = merge_shards(now, shard_id, adjacent_shard_id, number, group.now_ms, group.next_id)
            self._succeed(group, now, after, number)
            return after.shards[-1]

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
        """Removes a table and its items, and disables its stream. Raises ResourceNotFoundError."""

        def plan(group: Group) -> Table:
            opened = self.open_table(name)
            table = opened.definition
            if opened.stream is not None:
                self._disable_stream(group, opened.stream)
            self.tables.delete(group, name)
            del self._open[name]
            opened.is_deleted = True
            self._delete_items(group, table)
            return table

        return await self._committer.change(plan)

    async def begin_restore(self, name: str, source: Table) -> OpenTable:
        """Begins a table of the key of another one, which nobody sees until `finish_restore`.

        It has no stream and the default settings. Raises TableAlreadyExistsError.
        """
        table_uuid = str(uuid.UUID(int=self._random.getrandbits(128), version=4))

        def plan(group: Group) -> OpenTable:
            if self._is_taken(name):
                raise TableAlreadyExistsError(f"Table already exists: {name}", table_name=name)
            table = Table(
                name=name,
                id=group.next_id(),
                uuid=table_uuid,
                create_time_ms=group.now_ms,
                partition_key=source.partition_key,
                sort_key=source.sort_key,
            )
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

    def _is_taken(self, table_name: str) -> bool:
        return table_name in self._open or self.restoring.get(table_name) is not None

    def _delete_items(self, group: Group, table: Table) -> None:
        for family in (Family.ITEMS, Family.TOMBSTONES):
            group.delete_range(family, table_prefix(table.id), table_prefix(table.id + 1))

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
