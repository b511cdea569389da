"""When to try again, and when to give up."""

from __future__ import annotations

from random import Random

import pytest

from headrace._backoff import Backoff, Reconnect
from headrace.errors import UnavailableError

LOST = UnavailableError("gone")


def test_delays_double_up_to_a_ceiling_and_are_spread() -> None:
    backoff = Backoff(initial_s=0.1, max_s=1.0, random=Random(1))
    delays = [backoff.next_s() for _ in range(8)]
    ceilings = [0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0, 1.0]
    assert all(ceiling / 2 <= delay <= ceiling for delay, ceiling in zip(delays, ceilings, strict=True))
    assert len(set(delays[4:])) == 4
    backoff.reset()
    assert backoff.next_s() <= 0.1


def test_a_connection_that_never_was_is_not_made_again() -> None:
    with pytest.raises(UnavailableError):
        Reconnect(Random(1)).delay_s(LOST)


def test_a_lost_connection_is_tried_for_about_a_quarter_of_an_hour() -> None:
    reconnect = Reconnect(Random(1))
    reconnect.connected()
    waited_s = sum(reconnect.delay_s(LOST) for _ in range(240))
    assert 10 * 60 <= waited_s <= 20 * 60
    with pytest.raises(UnavailableError):
        reconnect.delay_s(LOST)


# A consumer that is let in and thrown out again and again must not hammer the broker.
def test_only_progress_brings_back_short_delays() -> None:
    reconnect = Reconnect(Random(1))
    for _ in range(20):
        reconnect.connected()
        reconnect.delay_s(LOST)
    assert reconnect.delay_s(LOST) >= 2.5
    reconnect.progressed()
    assert reconnect.delay_s(LOST) <= 0.1
