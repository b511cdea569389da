"""Streams and shards as they begin and end. Pure."""

from __future__ import annotations

from dataclasses import replace

from broker.encoding.keys import partition_hash
from broker.model.clock import iso_label, label_ms
from broker.model.tables import HASH_MAX, Shard, Stream, StreamViewType, Table


def new_stream(
    table: Table, view_type: StreamViewType, now_ms: int, shard_id: int, next_number: int, last_label: str
) -> Stream:
    """An enabled stream with one shard over the whole hash range.

    `shard_id` is the shard's number on disk, `next_number` the first sequence number it can hold, `last_label` the
    label of the newest stream of a table of this name, or empty.
    """
    # No two streams share a label, even if they are made within a millisecond or the clock went back.
    created = max(now_ms, label_ms(last_label) + 1) if last_label else now_ms
    label = iso_label(created)
    shard = Shard(
        id=shard_id,
        shard_id=public_shard_id(created, f"{table.uuid}/{label}/{shard_id}"),
        first_hash=0,
        last_hash=HASH_MAX,
        starting_sequence_number=next_number,
    )
    return Stream(
        table_name=table.name,
        table_id=table.id,
        label=label,
        create_time_ms=created,
        view_type=view_type,
        key_attributes=table.key_attributes,
        shards=(shard,),
    )


def closed_stream(stream: Stream, last_number: int) -> Stream:
    """A stream with all its open shards closed at a sequence number."""
    return replace(
        stream,
        shards=tuple(
            replace(shard, ending_sequence_number=last_number) if shard.is_open else shard for shard in stream.shards
        ),
    )


def public_shard_id(now_ms: int, seed: str) -> str:
    """A shard id in AWS's form: the time it was made, and a hash that keeps ids of one millisecond apart."""
    return f"shardId-{now_ms:020d}-{partition_hash(seed.encode()) >> 32:08x}"
