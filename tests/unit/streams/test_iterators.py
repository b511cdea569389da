"""Shard iterators: nobody can make one up, and none lives for ever."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.model.errors import ExpiredIteratorError, ValidationError
from broker.model.tables import OPEN_SHARDS_MAX
from broker.streams.iterators import LIFETIME_MS, Iterators, Place, Position
from tests.unit.engine import NOON_MS, FakeClock

SECRET = b"s" * 32
POSITION = Position(stream_name="pets/stream/2023-11-14T22:13:20.000", places=(Place(7, 1234),))
U64 = st.integers(0, 2**64 - 1)
PLACES = st.lists(st.builds(Place, st.integers(0, 2**32 - 1), U64, U64), max_size=2 * OPEN_SHARDS_MAX).map(tuple)


@given(st.text(min_size=1, max_size=300), PLACES, st.booleans(), st.none() | st.tuples(U64, U64))
def test_an_iterator_is_the_position_it_was_made_of(
    name: str, places: tuple[Place, ...], is_whole_stream: bool, lane: tuple[int, int] | None
) -> None:
    iterators = Iterators(SECRET, FakeClock())
    position = Position(stream_name=name, places=places, is_whole_stream=is_whole_stream, lane=lane)
    assert iterators.check(iterators.mint(position)) == position


# Source: DynamoDB Streams API Reference, GetRecords: ShardIterator, length 1 to 2048.
def test_an_iterator_of_the_longest_names_stays_within_2048_characters() -> None:
    iterators = Iterators(SECRET, FakeClock())
    place = Place(2**32 - 1, 2**64 - 1, 2**64 - 1)
    longest = Position(
        stream_name=f"{'t' * 255}/stream/2023-11-14T22:13:20.000", places=(place,), lane=(2**63, 2**64 - 1)
    )
    text = iterators.mint(longest)
    assert len(text) <= 2048
    assert iterators.check(text) == longest


def test_no_flipped_bit_is_taken() -> None:
    iterators = Iterators(SECRET, FakeClock())
    raw = base64.urlsafe_b64decode(iterators.mint(POSITION))
    for place in range(len(raw)):
        for bit in range(8):
            forged = bytearray(raw)
            forged[place] ^= 1 << bit
            with pytest.raises(ValidationError) as refused:
                iterators.check(base64.urlsafe_b64encode(forged).decode())
            assert refused.value.metadata["field"] == "shard_iterator"


# The last character before the padding has bits that stand for nothing: changing them gives the same bytes.
@pytest.mark.parametrize("name", ["t/stream/1", "tt/stream/1", "ttt/stream/1"])
def test_no_other_text_of_the_same_bytes_is_taken(name: str) -> None:
    iterators = Iterators(SECRET, FakeClock())
    text = iterators.mint(Position(stream_name=name, places=(Place(7, 1234),)))
    for place in range(len(text)):
        for character in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_=+/":
            if character != text[place]:
                with pytest.raises(ValidationError):
                    iterators.check(text[:place] + character + text[place + 1 :])


def test_no_cut_or_longer_iterator_is_taken() -> None:
    iterators = Iterators(SECRET, FakeClock())
    text = iterators.mint(POSITION)
    raw = base64.urlsafe_b64decode(text)
    forged = [raw[:length] for length in range(len(raw))] + [raw + b"x", raw + raw, b"x" + raw]
    texts = [text[:length] for length in range(len(text))] + [text + "A", text + text, text + "=" * 4, " " + text]
    for each in texts + [base64.urlsafe_b64encode(each).decode() for each in forged]:
        with pytest.raises(ValidationError):
            iterators.check(each)


@pytest.mark.parametrize("text", ["", "x", "\u00e9", "\ud800", "=", "A" * 10_000, "A" * 64, "\x00"])
def test_what_is_no_iterator_is_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        Iterators(SECRET, FakeClock()).check(text)


def test_an_iterator_of_another_store_is_refused() -> None:
    with pytest.raises(ValidationError):
        Iterators(SECRET, FakeClock()).check(Iterators(b"t" * 32, FakeClock()).mint(POSITION))


def test_an_iterator_lives_for_15_minutes() -> None:
    clock = FakeClock()
    iterators = Iterators(SECRET, clock)
    text = iterators.mint(POSITION)
    assert LIFETIME_MS == 15 * 60 * 1000
    clock.ms += LIFETIME_MS
    assert iterators.check(text) == POSITION
    clock.ms += 1
    with pytest.raises(ExpiredIteratorError) as expired:
        iterators.check(text)
    assert expired.value.metadata == {"field": "shard_iterator", "limit": str(LIFETIME_MS)}


def test_an_iterator_survives_a_clock_that_goes_back() -> None:
    clock = FakeClock()
    iterators = Iterators(SECRET, clock)
    text = iterators.mint(POSITION)
    clock.ms -= 60_000
    assert iterators.check(text) == POSITION


# The next page starts the 15 minutes anew, with the same position.
def test_iterators_of_one_position_differ_by_their_time() -> None:
    clock = FakeClock()
    iterators = Iterators(SECRET, clock)
    first = iterators.mint(POSITION)
    clock.ms += 1
    second = iterators.mint(POSITION)
    assert first != second
    assert iterators.check(first) == iterators.check(second)


# Those that were handed out before there were lanes are valid for their 15 minutes.
def test_an_iterator_of_a_whole_shard_is_what_it_always_was() -> None:
    text = Iterators(SECRET, FakeClock()).mint(POSITION)
    head = f"02{NOON_MS:016x}00{1:04x}"
    place = f"{7:08x}{1234:016x}{0:016x}"
    assert base64.urlsafe_b64decode(text)[16:] == bytes.fromhex(head + place) + POSITION.stream_name.encode()
