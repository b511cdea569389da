from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from broker.model.clock import HybridClock, RisingClock, Version, iso_label, label_ms

MILLIS = st.integers(0, 4_102_444_800_000)


@given(st.lists(st.tuples(st.booleans(), MILLIS)))
def test_hybrid_times_only_rise_whatever_the_clock_does_and_others_send(steps: list[tuple[bool, int]]) -> None:
    clock = HybridClock(0)
    last = 0
    for is_remote, ms in steps:
        if is_remote:
            clock.observe(ms << 16)
            last = max(last, ms << 16)
        else:
            given_time = clock.next(ms)
            assert given_time > last
            assert given_time >> 16 >= ms
            last = given_time


def test_a_hybrid_clock_goes_on_after_the_time_it_is_opened_with() -> None:
    assert HybridClock(5 << 16).next(now_ms=3) == (5 << 16) + 1


def test_observing_an_old_time_changes_nothing() -> None:
    clock = HybridClock(7)
    clock.observe(3)
    assert clock.last == 7


# The rule of replication: the higher time wins, and the region's bytes decide between equal times.
def test_versions_are_ordered_by_time_then_region() -> None:
    assert Version(2, "a") > Version(1, "z")
    assert Version(1, "b") > Version(1, "a")


@given(MILLIS)
def test_a_label_keeps_every_millisecond(ms: int) -> None:
    assert label_ms(iso_label(ms)) == ms


@given(MILLIS, MILLIS)
def test_labels_sort_by_time(one: int, other: int) -> None:
    assert (iso_label(one) < iso_label(other)) == (one < other)


def test_a_label_has_the_form_of_dynamodb() -> None:
    assert iso_label(1_431_379_293_291) == "2015-05-11T21:21:33.291"
    assert iso_label(1_431_379_293_000) == "2015-05-11T21:21:33.000"


class SteppedClock:
    """A clock whose time is what a test says."""

    def __init__(self, ms: int) -> None:
        self.ms = ms

    def now_ms(self) -> int:
        return self.ms


def test_a_rising_clock_has_the_time_of_the_clock_that_is_not_behind() -> None:
    clock = SteppedClock(1000)
    rising = RisingClock(clock, 1000)
    assert rising.now_ms() == 1000
    clock.ms = 1003
    assert rising.now_ms() == 1003


def test_a_rising_clock_goes_at_half_speed_until_the_clock_has_caught_up() -> None:
    clock = SteppedClock(1000)
    rising = RisingClock(clock, 1100)
    assert rising.now_ms() == 1100
    seen = []
    for clock.ms in (1001, 1002, 1003, 1100, 1199, 1200, 1201):
        seen.append(rising.now_ms())
    assert seen == [1100, 1101, 1101, 1150, 1199, 1200, 1201]


@given(st.lists(st.integers(-5000, 5000)))
def test_a_rising_clock_never_falls_and_is_never_behind(steps: list[int]) -> None:
    clock = SteppedClock(100_000)
    rising = RisingClock(clock, 100_500)
    last = 0
    for step in steps:
        clock.ms += step
        now = rising.now_ms()
        assert now >= last
        assert now >= clock.ms
        last = now
