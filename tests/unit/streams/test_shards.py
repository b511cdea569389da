from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from broker.model.tables import HASH_MAX, Shard, Stream, StreamViewType, Table
from broker.streams.shards import closed_stream, new_stream, public_shard_id
from tests.unit.engine import AT, ID, NOON_MS

TABLE = Table(name="pets", id=1, uuid="u", create_time_ms=0, partition_key=ID, sort_key=AT)


def stream(now_ms: int = NOON_MS, shard_id: int = 2, last_label: str = "") -> Stream:
    return new_stream(TABLE, StreamViewType.NEW_IMAGE, now_ms, shard_id, next_number=10, last_label=last_label)


def test_a_new_stream_has_one_open_shard_over_all_keys() -> None:
    made = stream()
    (shard,) = made.shards
    assert made.is_enabled
    assert (shard.first_hash, shard.last_hash) == (0, HASH_MAX)
    assert (shard.id, shard.starting_sequence_number, shard.ending_sequence_number) == (2, 10, None)
    assert (made.table_name, made.table_id, made.view_type) == ("pets", 1, "NEW_IMAGE")
    assert made.key_attributes == (ID, AT)
    assert made.label == "2023-11-14T22:13:20.000"
    assert made.create_time_ms == NOON_MS


@given(st.lists(st.integers(-5, 5), max_size=10))
def test_labels_only_rise_whatever_the_clock_does(steps: list[int]) -> None:
    now_ms, labels = NOON_MS, [""]
    for step in steps:
        now_ms += step
        labels.append(stream(now_ms, last_label=labels[-1]).label)
    assert labels == sorted(set(labels))


# Source: DynamoDB Streams API Reference: ShardId, length 28 to 65; the form is that of real ids.
@given(st.integers(0, 4_102_444_800_000), st.text(max_size=20))
def test_shard_ids_have_the_form_of_dynamodb(now_ms: int, seed: str) -> None:
    shard_id = public_shard_id(now_ms, seed)
    assert re.fullmatch(r"shardId-[0-9]{20}-[0-9a-f]{8}", shard_id)
    assert 28 <= len(shard_id) <= 65
    assert int(shard_id[8:28]) == now_ms


def test_shards_of_one_millisecond_have_different_ids() -> None:
    assert len({stream(shard_id=number).shards[0].shard_id for number in range(100)}) == 100


def test_a_closed_stream_has_no_open_shard_and_keeps_the_rest() -> None:
    before = stream()
    after = closed_stream(before, 99)
    assert not after.is_enabled
    assert [shard.ending_sequence_number for shard in after.shards] == [99]
    assert (after.label, after.shards[0].shard_id) == (before.label, before.shards[0].shard_id)


def test_a_shard_that_is_closed_stays_closed_where_it_was() -> None:
    assert closed_stream(closed_stream(stream(), 5), 99).shards[0].ending_sequence_number == 5


def test_children_are_those_that_name_the_parent() -> None:
    def child(shard_id: str, parent: str, adjacent: str = "") -> Shard:
        return Shard(
            id=1,
            shard_id=shard_id,
            parent_shard_id=parent,
            adjacent_parent_shard_id=adjacent,
            first_hash=0,
            last_hash=1,
            starting_sequence_number=1,
        )

    shards = (child("a", ""), child("b", ""), child("c", "a"), child("d", "b", "a"), child("e", "c"))
    family = Stream(
        table_name="t",
        table_id=1,
        label="l",
        create_time_ms=0,
        view_type=StreamViewType.KEYS_ONLY,
        key_attributes=(ID,),
        shards=shards,
    )
    assert [shard.shard_id for shard in family.children("a")] == ["c", "d"]
    assert [shard.shard_id for shard in family.children("b")] == ["d"]
    assert family.children("e") == []
