"""Definitions of tables and of their streams, and their life."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace
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
        table: Table = await self._committer.commit(
            _CreateTable(
                catalog=self,
                name=name,
                uuid=table_uuid,
                partition_key=partition_key,
                sort_key=sort_key,
                view_type=view_type,
            )
        )
        return table

    async def set_stream(self, name: str, view_type: StreamViewType | None) -> Table:
        """Enables a new stream, or with None disables the one there is.

        Raises ResourceNotFoundError, and ValidationError if there is nothing to change.
        """
        table: Table = await self._committer.commit(_SetStream(catalog=self, name=name, view_type=view_type))
        return table

    async def delete_table(self, name: str) -> Table:
        """Removes a table and its items, and disables its stream. Raises ResourceNotFoundError."""
        table: Table = await self._committer.commit(_DeleteTable(catalog=self, name=name))
        return table

    # What follows is called by the operations below, while their group is planned.

    def plan_put(self, group: Group, table: Table) -> None:
        """Keeps a table's definition."""
        self.tables.put(group, table.name, table)
        opened = self._open.get(table.name)
        if opened is None:
            self._open[table.name] = OpenTable(table, self._enabled_stream(table))
        else:
            opened.definition = table
            opened.stream = self._enabled_stream(table)

    def plan_enable_stream(self, group: Group, table: Table, view_type: StreamViewType) -> Table:
        """Begins a stream; returns the definition that names it."""
        number = group.next_sequence_number()
        # A table of this name may have been deleted and left streams that are still readable.
        last_label = max((s.label for s in self.streams.all() if s.table_name == table.name), default="")
        stream = new_stream(table, view_type, group.now_ms, group.next_id(), number, last_label)
        self.streams.put(group, _stream_name(stream.table_name, stream.label), stream)
        return replace(table, stream_label=stream.label)

    def plan_disable_stream(self, group: Group, stream: Stream) -> None:
        """Ends a stream: its open shards are closed."""
        number = group.next_sequence_number()
        self.streams.put(group, _stream_name(stream.table_name, stream.label), closed_stream(stream, number))
        for shard in stream.shards:
            if shard.is_open:
                group.close_shard(shard, number)

    def plan_delete(self, group: Group, table: Table) -> None:
        """Forgets a table and deletes its items."""
        self.tables.delete(group, table.name)
        self._open.pop(table.name).is_deleted = True
        begin, end = table_prefix(table.id), table_prefix(table.id + 1)
        for family in (Family.ITEMS, Family.TOMBSTONES):
            group.delete_range(family, begin, end)

    def _enabled_stream(self, table: Table) -> Stream | None:
        stream = self.newest_stream(table)
        return stream if stream is not None and stream.is_enabled else None


def _stream_name(table_name: str, label: str) -> str:
    return f"{table_name}/stream/{label}"


# About what a definition takes in the queue.
_DEFINITION_BYTES = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class _CreateTable:
    catalog: Catalog
    name: str
    uuid: str
    partition_key: KeyAttribute
    sort_key: KeyAttribute | None
    view_type: StreamViewType | None

    @property
    def size_bytes(self) -> int:
        return _DEFINITION_BYTES

    def plan(self, group: Group) -> Table:
        if self.catalog.tables.get(self.name) is not None:
            raise ResourceInUseError(f"Table already exists: {self.name}", table_name=self.name)
        table = Table(
            name=self.name,
            id=group.next_id(),
            uuid=self.uuid,
            create_time_ms=group.now_ms,
            partition_key=self.partition_key,
            sort_key=self.sort_key,
        )
        if self.view_type is not None:
            table = self.catalog.plan_enable_stream(group, table, self.view_type)
        self.catalog.plan_put(group, table)
        return table


@dataclass(frozen=True, slots=True, kw_only=True)
class _SetStream:
    catalog: Catalog
    name: str
    view_type: StreamViewType | None

    @property
    def size_bytes(self) -> int:
        return _DEFINITION_BYTES

    def plan(self, group: Group) -> Table:
        opened = self.catalog.open_table(self.name)
        table, stream = opened.definition, opened.stream
        if self.view_type is not None:
            if stream is not None:
                raise ValidationError(
                    f"Table already has an enabled stream: TableName: {self.name}", field="stream_specification"
                )
            table = self.catalog.plan_enable_stream(group, table, self.view_type)
        elif stream is None:
            raise ValidationError(
                f"Table has no stream to disable: TableName: {self.name}", field="stream_specification"
            )
        else:
            self.catalog.plan_disable_stream(group, stream)
        self.catalog.plan_put(group, table)
        return table


@dataclass(frozen=True, slots=True, kw_only=True)
class _DeleteTable:
    catalog: Catalog
    name: str

    @property
    def size_bytes(self) -> int:
        return _DEFINITION_BYTES

    def plan(self, group: Group) -> Table:
        opened = self.catalog.open_table(self.name)
        if opened.stream is not None:
            self.catalog.plan_disable_stream(group, opened.stream)
        self.catalog.plan_delete(group, opened.definition)
        return opened.definition
