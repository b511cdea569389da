"""Who should hold what: every ready source has one holder, shares are even, and nothing moves that need not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from broker.consumers.assignment import AssignmentMode, assign

SHARED, EXCLUSIVE = AssignmentMode.SHARED, AssignmentMode.EXCLUSIVE


def shared(
    ready: Sequence[str],
    held: Mapping[str, int],
    members: Sequence[int],
    preferred: Mapping[str, Sequence[int]] | None = None,
) -> dict[str, int]:
    return assign(SHARED, ready, held, members, preferred or {})


class Rebalancing(RuleBasedStateMachine):
    """Members come and go, sources become ready and are finished; who holds what follows at once."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = iter(range(1_000_000))
        self.members: list[int] = []
        self.ready: list[str] = []
        self.held: dict[str, int] = {}

    def follow(self) -> dict[str, tuple[int | None, int]]:
        """Moves what is to be moved; returns what that was, from whom to whom."""
        targets = shared(self.ready, self.held, self.members)
        moved = {s: (self.held.get(s), m) for s, m in targets.items() if self.held.get(s) != m}
        # What stays keeps its place in the order of leases.
        self.held = {s: m for s, m in self.held.items() if s in targets and s not in moved}
        self.held |= {source: new for source, (_, new) in moved.items()}
        return moved

    @initialize(sources=st.integers(0, 20))
    def begin(self, sources: int) -> None:
        self.ready = [f"s{next(self.numbers)}" for _ in range(sources)]

    @rule()
    def join(self) -> None:
        member = next(self.numbers)
        self.members.append(member)
        had_nobody = len(self.members) == 1
        moved = self.follow()
        assert {new for _, new in moved.values()} <= {member}
        if not had_nobody:
            assert len(moved) <= -(-len(self.ready) // len(self.members))

    @precondition(lambda self: self.members)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        member = data.draw(st.sampled_from(self.members))
        self.members.remove(member)
        orphans = {source for source, holder in self.held.items() if holder == member}
        self.held = {source: holder for source, holder in self.held.items() if holder != member}
        moved = self.follow()
        assert moved.keys() == (orphans if self.members else set())

    @rule(count=st.integers(1, 3))
    def become_ready(self, count: int) -> None:
        new = [f"s{next(self.numbers)}" for _ in range(count)]
        self.ready += new
        assert self.follow().keys() == (set(new) if self.members else set())

    @precondition(lambda self: self.ready)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        source = data.draw(st.sampled_from(self.ready))
        self.ready.remove(source)
        self.held.pop(source, None)
        # One that had most may now have two less than another, and gets one.
        assert len(self.follow()) <= 1

    @invariant()
    def each_ready_source_has_one_holder_if_there_are_members(self) -> None:
        assert self.held.keys() == (set(self.ready) if self.members else set())
        assert set(self.held.values()) <= set(self.members)

    @invariant()
    def shares_are_even(self) -> None:
        shares = Counter(self.held.values())
        if self.members:
            sizes = [shares[member] for member in self.members]
            assert max(sizes) - min(sizes) <= 1

    @invariant()
    def nothing_moves_without_a_reason(self) -> None:
        assert shared(self.ready, self.held, self.members) == self.held


TestRebalancing = Rebalancing.TestCase

SOURCES = st.lists(st.sampled_from([f"s{n}" for n in range(12)]), unique=True)
MEMBERS = st.lists(st.integers(0, 5), unique=True)


@given(SOURCES, st.dictionaries(st.sampled_from([f"s{n}" for n in range(12)]), st.integers(0, 8)), MEMBERS)
def test_whatever_was_held_each_source_has_a_holder_and_shares_are_even(
    ready: list[str], held: dict[str, int], members: list[int]
) -> None:
    targets = shared(ready, held, members)
    # 1. Who holds something and may be given nothing more keeps it.
    apart = {source: holder for source, holder in held.items() if source in ready and holder not in members}
    assert apart.items() <= targets.items()
    if not members:
        assert targets.keys() == held.keys() & set(ready)
        return
    # 2. All others are spread evenly.
    assert targets.keys() == set(ready)
    shares = Counter(member for source, member in targets.items() if source not in apart)
    assert max(shares[member] for member in members) - min(shares[member] for member in members) <= 1
    # 3. Nobody who keeps within the share loses anything.
    quota = (len(ready) - len(apart)) // len(members)
    for member in members:
        mine = [source for source, holder in held.items() if holder == member and source in ready]
        assert all(targets[source] == member for source in mine[:quota])


@given(SOURCES, st.dictionaries(st.sampled_from([f"s{n}" for n in range(12)]), st.integers(0, 8)), MEMBERS)
def test_exclusively_the_oldest_member_has_everything(
    ready: list[str], held: dict[str, int], members: list[int]
) -> None:
    targets = assign(EXCLUSIVE, ready, held, members, {})
    if members:
        assert targets == dict.fromkeys(ready, members[0])


def test_who_is_above_its_share_gives_up_what_it_got_last() -> None:
    held = {"a": 1, "b": 1, "c": 1, "d": 1}
    assert shared(["d", "c", "b", "a"], held, [1, 2]) == {"a": 1, "b": 1, "d": 2, "c": 2}
    assert shared(["a", "b", "c"], {"c": 1, "a": 1, "b": 1}, [1, 2]) == {"c": 1, "a": 1, "b": 2}


def test_among_equals_the_favourite_is_chosen_and_then_who_came_first() -> None:
    assert shared(["child"], {}, [1, 2, 3], {"child": [3]}) == {"child": 3}
    assert shared(["child"], {}, [1, 2, 3]) == {"child": 1}
    # Favour is no reason for uneven shares.
    assert shared(["a", "child"], {"a": 3}, [1, 2, 3], {"child": [3]}) == {"a": 3, "child": 1}
