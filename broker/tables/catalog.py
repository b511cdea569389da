"""Definitions of tables and of their streams, and their life."""

from __future__ import annotations

import uuid
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING

from broker.encoding.keys import KeyCodec, table_prefix
from broker.model.errors import ResourceInUseError, ResourceNotFoundError, ValidationError
from broker.model.tables import KeyAttribute, Shard, Stream, StreamViewType, Table, stream_arn
from broker.storage.documents import Documents
from broker.storage.rocks import Family
from broker.streams.shards import closed_stream, new_stream
from broker.tables.validate import check_table_name

if TYPE_CHECKING:
    from broker.storage.commit import Committer, Group
    from broker.storage.rocks import Store


class OpenTable:
    """A table in use: its definition and what is derived from it. Kept true by the catalog while the table exists."""

    __slots__ = ("definition", "is_deleted", "keys", "stream")

    def __init__(self, definition: Table, stream: Stream | None) -> None:
        self.definition = definition
        self.keys = KeyCodec(definition)
        # The enabled stream, or None.
        self.stream = stream
        self.is_deleted = False

    def shard_of(self, stream: Stream, key_hash: int) -> Shard:
        """The open shard that records a key."""
        for shard in stream.shards:
            if shard.is_open and shard.first_hash <= key_hash <= shard.last_hash:
                return shard
        raise AssertionError(f"no open shard of {stream.table_name} covers the hash {key_hash}")


class Catalog:
    """All tables and streams of a store."""

    def __init__(self, store: Store, committer: Committer, region: str, random: Random) -> None:
        self.region = region
        self._committer = committer
        self._random = random
        self.tables = Documents(store, "table", Table)
        # Named "<table>/stream/<label>": the end of the ARN, so that they list in the order of their ARNs.
        self.streams = Documents(store, "stream", Stream)
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
        return self.streams.get(_stream_name(table.name, table.stream_label))

    def stream_arn(self, stream: Stream) -> str:
        """A stream's public name."""
        return stream_arn(self.region, stream.table_name, stream.label)

    async def create_table(
        self, name: str, partition_key: KeyAttribute, sort_key: KeyAttribute | None, view_type: StreamViewType | None
    ) -> Table:
        """Creates a table, with a stream if a view type is given. Raises ResourceInUseError if the name is taken."""
        table_uuid = str(uuid.UUID(int=self._random.getrandbits(128), version=4))

        def plan(group: Group) -> Table:
            if name in self._open:
                raise ResourceInUseError(f"Table already exists: {name}", table_name=name)
            table = Table(
                name=name,
                id=group.next_id(),
                uuid=table_uuid,
                create_time_ms=group.now_ms,
                partition_key=partition_key,
                sort_key=sort_key,
            )
            if view_type is not None:
                table = self._enable_stream(group, table, view_type)
            self.tables.put(group, name, table)
            self._open[name] = OpenTable(table, self._enabled_stream(table))
            return table

        return await self._committer.change(plan)

    async def set_stream(self, name: str, view_type: StreamViewType | None) -> Table:
        """Enables a new stream, or with None disables the one there is.

        Raises ResourceNotFoundError, and ValidationError if there is nothing to change.
        """

        def plan(group: Group) -> Table:
            opened = self.open_table(name)
            table, stream = opened.definition, opened.stream
            if view_type is not None:
                if stream is not None:
                    raise ValidationError(
                        f"Table already has an enabled stream: TableName: {name}", field="stream_specification"
                    )
                table = self._enable_stream(group, table, view_type)
            elif stream is None:
                raise ValidationError(
                    f"Table has no stream to disable: TableName: {name}", field="stream_specification"
                )
            else:
                self._disable_stream(group, stream)
            self.tables.put(group, name, table)
            opened.definition, opened.stream = table, self._enabled_stream(table)
            return table

        return await self._committer.change(plan)

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
            for family in (Family.ITEMS, Family.TOMBSTONES):
                group.delete_range(family, table_prefix(table.id), table_prefix(table.id + 1))
            return table

        return await self._committer.change(plan)

    def _enable_stream(self, group: Group, table: Table, view_type: StreamViewType) -> Table:
        """Begins a stream; returns the definition that names it."""
        number = group.next_sequence_number()
        # A table of this name may have been deleted and left streams that are still readable.
        last_label = max((s.label for s in self.streams.all() if s.table_name == table.name), default="")
        stream = new_stream(table, view_type, group.now_ms, group.next_id(), number, last_label)
        self.streams.put(group, _stream_name(stream.table_name, stream.label), stream)
        return replace(table, stream_label=stream.label)

    def _disable_stream(self, group: Group, stream: Stream) -> None:
        """Ends a stream: its open shards are closed."""
        number = group.next_sequence_number()
        self.streams.put(group, _stream_name(stream.table_name, stream.label), closed_stream(stream, number))
        for shard in stream.shards:
            if shard.is_open:
                group.close_shard(shard, number)

    def _enabled_stream(self, table: Table) -> Stream | None:
        stream = self.newest_stream(table)
        return stream if stream is not None and stream.is_enabled else None


def _stream_name(table_name: str, label: str) -> str:
    return f"{table_name}/stream/{label}"
