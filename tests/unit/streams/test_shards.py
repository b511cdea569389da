"""Streams and shards: whatever is split, merged and trimmed, each key is in exactly one open shard."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import count, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.model.errors import (
    HeadraceError,
    LimitExceededError,
    ResourceInUseError,
    ResourceNotFoundError,
    ValidationError,
)
from broker.model.gaps import Gap
from broker.model.tables import HASH_MAX, OPEN_SHARDS_MAX, Shard, Stream, StreamSettings, StreamViewType, Table
from broker.streams.lanes import children, find_lane, lanes, parent_ids
from broker.streams.shards import (
    closed_stream,
    create_time_ms,
    frontier,
    gap_after,
    horizon,
    merge_shards,
    new_stream,
    public_shard_id,
    roll_shards,
    split_shard,
    trimmed_stream,
    with_seams,
)
from tests.unit.engine import AT, ID, NOON_MS

TABLE = Table(name="pets", id=1, uuid="u", create_time_ms=0, partition_key=ID, sort_key=AT)


def stream(now_ms: int = NOON_MS, first_id: int = 2, last_label: str = "", min_shards: int = 1) -> Stream:
    ids = count(first_id)
    table = replace(TABLE, stream_settings=StreamSettings(min_shards=min_shards))
    return new_stream(table, StreamViewType.NEW_IMAGE, now_ms, lambda: next(ids), next_number=10, last_label=last_label)


def check_cover(made: Stream) -> None:
    """Open shards cover every hash once."""
    shards = made.open_shards
    assert (shards[0].first_hash, shards[-1].last_hash) == (0, HASH_MAX)
    assert all(left.last_hash + 1 == right.first_hash for left, right in pairwise(shards))
    assert all(shard.first_hash <= shard.last_hash for shard in shards)


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


@given(st.integers(1, OPEN_SHARDS_MAX))
def test_a_new_stream_has_as_many_shards_as_its_table_wants(min_shards: int) -> None:
    made = stream(min_shards=min_shards)
    assert len(made.shards) == min_shards
    check_cover(made)
    widths = [shard.last_hash - shard.first_hash for shard in made.shards]
    assert max(widths) - min(widths) < OPEN_SHARDS_MAX


@given(st.lists(st.integers(-5, 5), max_size=10))
def test_labels_only_rise_whatever_the_clock_does(steps: list[int]) -> None:
    now_ms, labels = NOON_MS, [""]
    for step in steps:
        now_ms += step
        labels.append(stream(now_ms, last_label=labels[-1]).label)
    assert labels == sorted(set(labels))


# Source: DynamoDB Streams API Reference: ShardId, length 28 to 65; the form is that of real ids.
@given(st.integers(0, 4_102_444_800_000), st.integers(0, 2**32 - 1))
def test_shard_ids_have_the_form_of_dynamodb(now_ms: int, number: int) -> None:
    shard_id = public_shard_id(now_ms, number)
    assert re.fullmatch(r"shardId-[0-9]{20}-[0-9a-f]{8}", shard_id)
    assert 28 <= len(shard_id) <= 65
    assert (int(shard_id[8:28]), int(shard_id[-8:], 16)) == (now_ms, number)


def test_a_closed_stream_has_no_open_shard_and_keeps_the_rest() -> None:
    before = stream()
    after = closed_stream(before, 99, NOON_MS + 5)
    assert not after.is_enabled
    assert [(shard.ending_sequence_number, shard.closed_time_ms) for shard in after.shards] == [(99, NOON_MS + 5)]
    assert (after.label, after.shards[0].shard_id) == (before.label, before.shards[0].shard_id)


def test_a_shard_that_is_closed_stays_closed_where_it_was() -> None:
    twice = closed_stream(closed_stream(stream(), 50, NOON_MS), 99, NOON_MS + 5).shards[0]
    assert (twice.ending_sequence_number, twice.closed_time_ms) == (50, NOON_MS)


def test_a_split_closes_the_parent_and_opens_two_children_at_one_number() -> None:
    before = stream()
    ids = count(7)
    after = split_shard(before, before.shards[0].shard_id, None, 20, NOON_MS + 1, lambda: next(ids))
    parent, left, right = after.shards
    assert (parent.ending_sequence_number, parent.closed_time_ms) == (20, NOON_MS + 1)
    assert [child.starting_sequence_number for child in (left, right)] == [21, 21]
    assert [child.parent_shard_id for child in (left, right)] == [parent.shard_id] * 2
    assert (left.last_hash + 1, right.first_hash) == (2**63, 2**63)
    assert after.children(parent.shard_id) == [left, right]
    check_cover(after)


def test_a_merge_closes_both_parents_and_opens_one_child() -> None:
    before = stream(min_shards=2)
    # The order in which the two are named does not matter for the range.
    left, right = before.shards
    after = merge_shards(before, right.shard_id, left.shard_id, 20, NOON_MS, lambda: 9)
    child = after.shards[-1]
    assert (child.parent_shard_id, child.adjacent_parent_shard_id) == (right.shard_id, left.shard_id)
    assert [shard.ending_sequence_number for shard in after.shards] == [20, 20, None]
    assert after.children(left.shard_id) == after.children(right.shard_id) == [child]
    check_cover(after)


def test_what_cannot_be_split_or_merged_is_refused() -> None:
    made = stream(min_shards=3)
    one, two, three = (shard.shard_id for shard in made.shards)

    def refused(error: type[HeadraceError], field: str, *, split: tuple[str, int | None] | None = None) -> None:
        assert split is not None
        with pytest.raises(error) as told:
            split_shard(made, *split, 20, NOON_MS, lambda: 9)
        assert told.value.metadata.get("field", "") == field

    second = made.shards[1]
    refused(ValidationError, "new_starting_hash_key", split=(two, second.first_hash))
    refused(ValidationError, "new_starting_hash_key", split=(two, second.last_hash + 1))
    refused(ResourceNotFoundError, "", split=("shardId-x", None))
    with pytest.raises(ValidationError) as apart:
        merge_shards(made, one, three, 20, NOON_MS, lambda: 9)
    assert apart.value.metadata["field"] == "adjacent_shard_id"
    with pytest.raises(ValidationError):
        merge_shards(made, one, one, 20, NOON_MS, lambda: 9)
    merged = merge_shards(made, one, two, 20, NOON_MS, lambda: 9)
    with pytest.raises(ResourceInUseError):
        split_shard(merged, one, None, 30, NOON_MS, lambda: 10)
    with pytest.raises(ResourceInUseError):
        merge_shards(merged, three, two, 30, NOON_MS, lambda: 10)
    many = stream(min_shards=OPEN_SHARDS_MAX)
    with pytest.raises(LimitExceededError) as full:
        split_shard(many, many.shards[0].shard_id, None, 20, NOON_MS, lambda: 99)
    assert full.value.metadata["limit"] == str(OPEN_SHARDS_MAX)


@st.composite
def histories(draw: st.DrawFn) -> tuple[Stream, int]:
    """A stream after random splits, rolls and merges, and a number after all of them."""
    ids = count(100)
    made, number = stream(min_shards=draw(st.integers(1, 4))), 20
    for _ in range(draw(st.integers(0, 12))):
        number += draw(st.integers(1, 3))
        shards = made.open_shards
        place = draw(st.integers(0, len(shards) - 1))
        if draw(st.integers(0, 3)) == 0:
            made = roll_shards(made, [shards[place].shard_id], number, NOON_MS + number, lambda: next(ids))
        elif draw(st.booleans()) and place + 1 < len(shards):
            one, other = draw(st.permutations([shards[place].shard_id, shards[place + 1].shard_id]))
            made = merge_shards(made, one, other, number, NOON_MS + number, lambda: next(ids))
        elif len(shards) < OPEN_SHARDS_MAX and shards[place].first_hash < shards[place].last_hash:
            width = shards[place].last_hash - shards[place].first_hash
            middle = draw(st.none() | st.integers(1, width).map(shards[place].first_hash.__add__))
            made = split_shard(made, shards[place].shard_id, middle, number, NOON_MS + number, lambda: next(ids))
    return made, number + 1


@given(histories())
def test_at_any_number_each_hash_is_in_exactly_one_shard(history: tuple[Stream, int]) -> None:
    made, end = history
    check_cover(made)
    for number in range(10, end + 1):
        live = sorted(
            (
                shard
                for shard in made.shards
                if shard.starting_sequence_number <= number
                and (shard.ending_sequence_number is None or number < shard.ending_sequence_number)
            ),
            key=lambda shard: shard.first_hash,
        )
        # A number that closed shards belongs to none: no record has it.
        if any(shard.ending_sequence_number == number for shard in made.shards):
            continue
        assert (live[0].first_hash, live[-1].last_hash) == (0, HASH_MAX)
        assert all(left.last_hash + 1 == right.first_hash for left, right in pairwise(live))


@given(histories(), st.data())
def test_the_frontier_reaches_all_that_is_unread_and_nothing_that_waits_for_it(
    history: tuple[Stream, int], data: st.DataObject
) -> None:
    made, end = history
    after = data.draw(st.integers(-1, end))
    places = frontier(made, after)
    begun = {shard.shard_id for shard, _ in places}
    for shard, position in places:
        assert position >= shard.starting_sequence_number - 1
        assert after < 0 or position >= after
    # What is unread is in the frontier, or follows something that is.
    reached = set(begun)
    for shard in made.shards:
        parents = {parent for parent in (shard.parent_shard_id, shard.adjacent_parent_shard_id) if parent}
        is_unread = shard.is_open or (shard.ending_sequence_number or 0) > after
        if is_unread and shard.shard_id not in begun:
            assert parents & reached
            reached.add(shard.shard_id)
        if shard.shard_id in begun:
            # None of its parents has anything unread.
            assert all((made.shard(parent) or shard).ending_sequence_number <= after for parent in parents)  # type: ignore[operator]


def test_shard_ids_sort_children_behind_their_parents_also_when_the_clock_goes_back() -> None:
    before = stream(min_shards=2)
    left, right = before.shards
    after = merge_shards(before, left.shard_id, right.shard_id, 20, NOON_MS - 5000, lambda: 9)
    assert create_time_ms(after.shards[-1]) >= NOON_MS
    assert max(shard.shard_id for shard in after.shards) == after.shards[-1].shard_id


def test_trimming_moves_the_horizon_and_never_back() -> None:
    before = stream()
    number = before.shards[0].id
    assert horizon(before.shards[0]) == 9
    after = trimmed_stream(before, [(number, 15, NOON_MS)], ())
    assert (horizon(after.shards[0]), after.shards[0].trimmed_time_ms) == (15, NOON_MS)
    again = trimmed_stream(after, [(number, 12, NOON_MS - 5)], ())
    assert again == after


def test_a_closed_shard_vanishes_and_is_remembered_and_an_open_one_never_does() -> None:
    before = stream()
    after = split_shard(before, before.shards[0].shard_id, None, 20, NOON_MS, iter([7, 8]).__next__)
    kept = trimmed_stream(after, [(2, 15, NOON_MS - 10)], ())
    assert len(kept.shards) == 3
    gone = trimmed_stream(kept, [(2, 18, NOON_MS - 5)], {2, 7})
    assert [shard.id for shard in gone.shards] == [7, 8]
    assert (gone.trimmed_to, gone.trimmed_time_ms) == (18, NOON_MS - 5)
    (vanished,) = gone.vanished
    assert (vanished.id, vanished.trimmed_to, vanished.ending_sequence_number) == (2, 18, 20)
    assert [child.id for child in gone.children(vanished.shard_id)] == [7, 8]


def test_a_gap_tells_what_is_lost_and_when_it_was_written() -> None:
    shard = trimmed_stream(stream(), [(2, 15, NOON_MS + 500)], ()).shards[0]
    assert gap_after(shard, 15) is None
    assert gap_after(shard, 14) == Gap(shard.shard_id, 15, 15, NOON_MS, NOON_MS + 500)
    assert gap_after(shard, 9, NOON_MS + 100) == Gap(shard.shard_id, 10, 15, NOON_MS + 100, NOON_MS + 500)


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
    family = replace(stream(), shards=shards)
    assert [shard.shard_id for shard in family.children("a")] == ["c", "d"]
    assert [shard.shard_id for shard in family.children("b")] == ["d"]
    assert family.children("e") == []


def test_a_roll_closes_shards_and_opens_one_of_the_same_hashes_in_place_of_each() -> None:
    before = stream(min_shards=3)
    one, _, three = before.shards
    ids = count(7)
    after = roll_shards(before, [three.shard_id, one.shard_id], 20, NOON_MS + 1, lambda: next(ids))
    assert [shard.ending_sequence_number for shard in after.shards[:3]] == [20, None, 20]
    children = after.shards[3:]
    assert [child.parent_ids for child in children] == [[three.shard_id], [one.shard_id]]
    assert [(child.first_hash, child.last_hash) for child in children] == [
        (three.first_hash, three.last_hash),
        (one.first_hash, one.last_hash),
    ]
    assert [child.starting_sequence_number for child in children] == [21, 21]
    assert after.children(one.shard_id) == [children[1]]
    check_cover(after)
    with pytest.raises(ResourceInUseError):
        roll_shards(after, [one.shard_id], 30, NOON_MS, lambda: next(ids))


def test_a_merged_shard_knows_where_its_parents_adjoin_and_what_follows_it_too() -> None:
    made = stream(min_shards=4)
    ids = count(10)

    def merge(made: Stream, place: int) -> Stream:
        left, right = (shard.shard_id for shard in made.open_shards[place : place + 2])
        return merge_shards(made, right, left, 20, NOON_MS, lambda: next(ids))

    quarter = 2**62
    assert [shard.seams for shard in made.shards] == [()] * 4
    made = merge(made, 0)
    assert made.shards[-1].seams == (quarter,)
    made = merge(merge(made, 1), 0)
    assert made.shards[-1].seams == (quarter, 2 * quarter, 3 * quarter)
    rolled = roll_shards(made, [made.shards[-1].shard_id], 20, NOON_MS, lambda: next(ids))
    assert rolled.shards[-1].seams == (quarter, 2 * quarter, 3 * quarter)
    # A seam that becomes a border is none any more.
    halves = split_shard(rolled, rolled.shards[-1].shard_id, None, 20, NOON_MS, lambda: next(ids))
    assert [shard.seams for shard in halves.open_shards] == [(quarter,), (3 * quarter,)]
    beside = split_shard(rolled, rolled.shards[-1].shard_id, quarter - 5, 20, NOON_MS, lambda: next(ids))
    assert [shard.seams for shard in beside.open_shards] == [(), (quarter, 2 * quarter, 3 * quarter)]


@given(histories())
def test_seams_are_found_from_the_parents_of_shards_that_were_stored_without(history: tuple[Stream, int]) -> None:
    made, _ = history
    old = replace(made, shards=tuple(replace(shard, seams=()) for shard in made.shards))
    assert with_seams(old) == made
    assert with_seams(made) == made


@given(histories())
def test_each_lane_has_one_parent_and_each_lane_of_a_closed_shard_a_child(history: tuple[Stream, int]) -> None:
    made, _ = history
    shown = [lane for shard in made.shards for lane in lanes(shard)]
    by_id = {lane.id: lane for lane in shown}
    assert len(by_id) == len(shown)
    parents = parent_ids(made, shown)
    for lane, parent_id in zip(shown, parents, strict=True):
        assert find_lane(made, lane.id) == lane
        if lane.shard.parent_ids:
            parent = by_id[parent_id]
            assert parent.shard.shard_id in lane.shard.parent_ids
            assert parent.first_hash <= lane.first_hash <= lane.last_hash <= parent.last_hash
            assert lane in children(made, parent)
        if not lane.shard.is_open:
            followers = children(made, lane)
            assert [lane.first_hash, *(each.last_hash + 1 for each in followers)] == [
                *(each.first_hash for each in followers),
                lane.last_hash + 1,
            ]


def test_a_lane_whose_parent_is_no_longer_known_names_it_as_a_shard() -> None:
    made = stream(min_shards=2)
    left, right = made.shards
    made = merge_shards(made, left.shard_id, right.shard_id, 20, NOON_MS, lambda: 9)
    forgotten = replace(made, shards=made.shards[2:])
    assert parent_ids(made, lanes(made.shards[2])) == [left.shard_id, right.shard_id]
    assert parent_ids(forgotten, lanes(made.shards[2])) == [left.shard_id, left.shard_id]


@pytest.mark.parametrize(("opened", "remembered"), [(1, 16), (3, 48), (4, 64), (5, 64)])
def test_so_many_vanished_shards_are_remembered(opened: int, remembered: int) -> None:
    made, ids = stream(min_shards=opened), count(100)
    for number in range(20, 60):
        due = [shard.shard_id for shard in made.open_shards]
        made = roll_shards(made, due, number, NOON_MS + number, lambda: next(ids))
        gone = {shard.id for shard in made.shards if not shard.is_open}
        made = trimmed_stream(made, [(shard, number - 1, NOON_MS + number) for shard in gone], gone)
    assert len(made.shards) == opened
    assert len(made.vanished) == remembered
    # The newest, so that what follows a shard that is read now is known.
    assert {parent for shard in made.shards for parent in shard.parent_ids} <= {s.shard_id for s in made.vanished}
    # Of the others it is known up to where they were lost.
    assert made.trimmed_to == 58
