"""Comparison: finds exactly the differences, however responses are cut, and holds no more than one response of each."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.replication.compare import Comparison, Difference, Side, key_item
from headrace.v1 import record_pb2
from headrace.v1 import replication_service_pb2 as pb
from tests.replication.fake_region import item, start_key

Copy = dict[str, int]
copies = st.dictionaries(st.sampled_from([f"k{n}" for n in range(40)]), st.integers(1, 3))
# How many items each response holds.
cuts = st.lists(st.integers(1, 7), min_size=1, max_size=40)


def versioned(key: str, version: int) -> pb.VersionedItem:
    return pb.VersionedItem(
        item=item(key, str(version)), version=record_pb2.Version(hybrid_time=version, origin_region="north")
    )


def responses(
    copy: Copy, sizes: Sequence[int], after: bytes = b""
) -> Iterator[tuple[list[pb.VersionedItem], bytes | None]]:
    """A copy as its region sends it, and its end."""
    keys = [key for key in sorted(copy, key=start_key) if start_key(key) > after]
    turn = 0
    while keys:
        page, keys = keys[: sizes[turn % len(sizes)]], keys[sizes[turn % len(sizes)] :]
        turn += 1
        yield [versioned(key, copy[key]) for key in page], start_key(page[-1])
    yield [], None


def differences_of(
    left: Copy, right: Copy, left_cuts: Sequence[int], right_cuts: Sequence[int], *, stop_after: int = 1_000
) -> tuple[list[Difference], Comparison]:
    comparison = Comparison(("id",))
    pages = {Side.LEFT: responses(left, left_cuts), Side.RIGHT: responses(right, right_cuts)}
    found: list[Difference] = []
    largest = max(left_cuts) + max(right_cuts)
    while (side := comparison.next_side) is not None and stop_after:
        stop_after -= 1
        found += comparison.add(side, *next(pages[side]))
        assert comparison.pending <= largest
    return found, comparison


def plain(difference: Difference) -> tuple[int | None, int | None]:
    return (
        difference.left.version.hybrid_time if difference.left else None,
        difference.right.version.hybrid_time if difference.right else None,
    )


def key_of(difference: Difference) -> str:
    found = difference.left or difference.right
    assert found is not None
    return found.item.attributes["id"].s


@given(left=copies, right=copies, left_cuts=cuts, right_cuts=cuts)
def test_it_finds_exactly_the_differences(left: Copy, right: Copy, left_cuts: list[int], right_cuts: list[int]) -> None:
    found, comparison = differences_of(left, right, left_cuts, right_cuts)
    expected = {
        key: (left.get(key), right.get(key)) for key in left.keys() | right.keys() if left.get(key) != right.get(key)
    }
    assert {key_of(difference): plain(difference) for difference in found} == expected
    assert len(found) == len(expected)
    assert comparison.position.left_items == len(left)


@given(left=copies, right=copies, left_cuts=cuts, right_cuts=cuts, stop_after=st.integers(0, 20))
def test_a_comparison_that_goes_on_at_the_position_of_another_finds_the_rest(
    left: Copy, right: Copy, left_cuts: list[int], right_cuts: list[int], stop_after: int
) -> None:
    found, first = differences_of(left, right, left_cuts, right_cuts, stop_after=stop_after)
    position = first.position.start_key
    if first.next_side is not None:
        second = Comparison(("id",), start_key=position)
        pages = {
            Side.LEFT: responses(left, left_cuts, position),
            Side.RIGHT: responses(right, right_cuts, position),
        }
        while (side := second.next_side) is not None:
            found += second.add(side, *next(pages[side]))
        assert first.position.left_items + second.position.left_items == len(left)
    expected = {key for key in left.keys() | right.keys() if left.get(key) != right.get(key)}
    assert {key_of(difference) for difference in found} == expected


def test_the_same_content_under_another_version_is_a_difference() -> None:
    comparison = Comparison(("id",))
    newer = versioned("k", 1)
    newer.version.hybrid_time = 2
    assert comparison.add(Side.LEFT, [versioned("k", 1)], b"1") == []
    (difference,) = comparison.add(Side.RIGHT, [newer], b"1")
    assert plain(difference) == (1, 2)


def test_one_side_alone_is_read_without_holding_it() -> None:
    left = {f"k{n}": 1 for n in range(1_000)}
    found, comparison = differences_of(left, {}, [10], [10])
    assert len(found) == 1_000
    assert comparison.pending == 0


def test_the_position_moves_with_every_response_when_the_other_side_is_empty() -> None:
    comparison = Comparison(("id",))
    pages = responses({f"k{n}": 1 for n in range(12)}, [4])
    comparison.add(Side.LEFT, *next(pages))
    comparison.add(Side.RIGHT, [], None)
    assert comparison.position.left_items == 4
    page, bound = next(pages)
    comparison.add(Side.LEFT, page, bound)
    assert (comparison.position.left_items, comparison.position.start_key) == (8, bound)


def test_start_keys_that_do_not_rise_are_a_defect() -> None:
    comparison = Comparison(("id",))
    comparison.add(Side.LEFT, [versioned("a", 1)], b"2")
    with pytest.raises(AssertionError, match="do not rise"):
        comparison.add(Side.LEFT, [versioned("b", 1)], b"1")


def test_a_side_does_not_go_on_after_its_end() -> None:
    comparison = Comparison(("id",))
    comparison.add(Side.LEFT, [], None)
    with pytest.raises(AssertionError, match="after its end"):
        comparison.add(Side.LEFT, [], None)


def test_both_key_attributes_count() -> None:
    comparison = Comparison(("id", "content"))
    comparison.add(Side.LEFT, [versioned("a", 1)], None)
    found = comparison.add(Side.RIGHT, [versioned("a", 2)], None)
    assert sorted(map(plain, found), key=str) == [(1, None), (None, 2)]


def test_a_key_is_cut_out_of_an_item() -> None:
    assert list(key_item(item("a", "x"), ("id",)).attributes) == ["id"]


def test_positions_never_fall() -> None:
    rng = random.Random(7)
    left, right = ({f"k{n}": 1 for n in range(200) if rng.random() < 0.5} for _ in range(2))
    comparison = Comparison(("id",))
    pages = {Side.LEFT: responses(left, [3]), Side.RIGHT: responses(right, [7])}
    positions = [comparison.position]
    while (side := comparison.next_side) is not None:
        comparison.add(side, *next(pages[side]))
        positions.append(comparison.position)
    counts = [position.left_items for position in positions]
    assert counts == sorted(counts)
    assert len(set(counts)) > 10
