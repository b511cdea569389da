"""The oracle and the checkers themselves: a checker that cannot fail proves nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.guarantees import (
    BrokenError,
    Logged,
    Write,
    check_atomic,
    check_converged,
    check_durable,
    check_ordered,
    check_reliable,
    check_resumable,
    check_unique,
)
from tests.model import Change, Condition, Delete, Put, TableModel, Update, ViewType, change, replay
from tests.values import Attributes, Key, attributes, from_item, size_bytes, to_item, value

A: Key = (value("a"),)
KEY_NAMES = ("id",)


def version_of_a(n: int) -> Attributes:
    return attributes(id="a", n=n)


def entry(place: int, old: Attributes | None, new: Attributes | None) -> Logged:
    seen = change(attributes(id="a"), old, new)
    return Logged(sequence_number=f"{place:021d}", version=(place, "north"), change=seen)


LOG = [
    entry(1, None, version_of_a(1)),
    entry(2, version_of_a(1), version_of_a(2)),
    entry(3, version_of_a(2), None),
    entry(5, None, version_of_a(3)),
]
WRITES = [
    Write(key=A, outcome=version_of_a(1)),
    Write(key=A, outcome=version_of_a(2)),
    Write(key=A, outcome=None),
    Write(key=A, outcome=version_of_a(3)),
]
TABLE: dict[Key, Attributes] = {A: version_of_a(3)}


def test_a_faultless_history_passes_every_check() -> None:
    check_ordered(LOG)
    check_unique(LOG)
    check_durable(WRITES, TABLE)
    check_reliable(WRITES, LOG, KEY_NAMES)
    check_atomic(LOG, TABLE, KEY_NAMES)
    check_resumable(LOG, [LOG[:1], [], LOG[1:]])
    check_converged(TABLE, dict(TABLE))


def test_ordered_is_broken_by_a_record_that_is_missing_turned_round_or_misnamed() -> None:
    misnamed = replace(LOG[1], change=replace(LOG[1].change, event_name="INSERT"))
    for log in ([LOG[0], LOG[2]], [LOG[1], LOG[0]], [LOG[0], misnamed], LOG[1:]):
        with pytest.raises(BrokenError, match="broke Ordered"):
            check_ordered(log)


def test_ordered_is_broken_by_a_sequence_number_that_does_not_rise() -> None:
    with pytest.raises(BrokenError, match="broke Ordered: MODIFY of a at 1 follows INSERT of a at 1"):
        check_ordered([LOG[0], replace(LOG[1], sequence_number=LOG[0].sequence_number)])


def test_unique_is_broken_by_a_sequence_number_or_a_version_that_comes_twice() -> None:
    for twin in (replace(LOG[1], version=LOG[0].version), replace(LOG[1], sequence_number=LOG[0].sequence_number)):
        with pytest.raises(BrokenError, match="broke Unique"):
            check_unique([LOG[0], twin])


def test_durable_is_broken_by_an_acknowledged_write_that_is_gone() -> None:
    tables: list[dict[Key, Attributes]] = [{}, {A: version_of_a(2)}]
    for table in tables:
        with pytest.raises(BrokenError, match="broke Durable"):
            check_durable(WRITES, table)


def test_durable_allows_an_unacknowledged_write_to_have_happened_or_not() -> None:
    writes = [Write(key=A, outcome=version_of_a(1)), Write(key=A, outcome=version_of_a(2), acknowledged=False)]
    check_durable(writes, {A: version_of_a(1)})
    check_durable(writes, {A: version_of_a(2)})
    check_durable([writes[1]], {})
    with pytest.raises(BrokenError, match="broke Durable"):
        check_durable(writes, {A: version_of_a(3)})


@pytest.mark.parametrize("lost", range(len(LOG)))
def test_reliable_is_broken_by_any_record_that_is_lost(lost: int) -> None:
    with pytest.raises(BrokenError, match="broke Reliable"):
        check_reliable(WRITES, LOG[:lost] + LOG[lost + 1 :], KEY_NAMES)


def test_reliable_is_broken_by_a_record_that_comes_twice_or_that_nobody_wrote() -> None:
    for log in ([*LOG, LOG[3]], [*LOG, entry(6, version_of_a(3), version_of_a(9))]):
        with pytest.raises(BrokenError, match="broke Reliable"):
            check_reliable(WRITES, log, KEY_NAMES)
    with pytest.raises(BrokenError, match="nobody made"):
        check_reliable([], LOG, KEY_NAMES)


def test_reliable_allows_the_record_of_an_unacknowledged_write_to_be_there_or_not() -> None:
    writes = [WRITES[0], replace(WRITES[1], acknowledged=False), *WRITES[2:]]
    check_reliable(writes, LOG, KEY_NAMES)
    check_reliable(writes, [LOG[0], *LOG[2:]], KEY_NAMES)


def test_atomic_is_broken_by_an_item_without_its_record_or_a_record_without_its_item() -> None:
    for log, table in ((LOG[:-1], TABLE), (LOG, {}), (LOG[2:], TABLE)):
        with pytest.raises(BrokenError, match="broke Atomic"):
            check_atomic(log, table, KEY_NAMES)


def test_resumable_is_broken_by_a_record_read_twice_left_out_or_turned_round() -> None:
    for parts in ([LOG[:2], LOG[1:]], [LOG[:2], LOG[3:]], [LOG[2:], LOG[:2]]):
        with pytest.raises(BrokenError, match="broke Resumable"):
            check_resumable(LOG, parts)


def test_converged_is_broken_by_one_item() -> None:
    with pytest.raises(BrokenError, match="broke Converged"):
        check_converged(TABLE, {A: version_of_a(4)})


def test_the_model_names_events_and_leaves_out_writes_that_change_nothing() -> None:
    table = TableModel(KEY_NAMES)
    table.enable_stream(ViewType.NEW_AND_OLD_IMAGES)
    for operation in (
        Delete(key=attributes(id="a")),
        Put(item=version_of_a(1)),
        Put(item=version_of_a(1)),
        Update(key=attributes(id="a"), sets=attributes(n=2)),
        Update(key=attributes(id="a"), removes=("missing",)),
        Update(key=attributes(id="none"), removes=("missing",)),
        Delete(key=attributes(id="a")),
        Update(key=attributes(id="b")),
    ):
        assert table.apply(operation) == ""
    assert table.stream is not None
    assert [seen.event_name for seen in table.stream.log] == ["INSERT", "MODIFY", "REMOVE", "INSERT"]
    assert table.items == replay(table.stream.log, KEY_NAMES) == {(value("b"),): attributes(id="b")}


def test_the_model_refuses_what_a_condition_forbids() -> None:
    table = TableModel(KEY_NAMES)
    fresh = (Condition(attribute="id", exists=False),)
    assert table.apply(Put(item=version_of_a(1), conditions=fresh)) == ""
    assert table.apply(Put(item=version_of_a(2), conditions=fresh)) == "CONDITIONAL_CHECK_FAILED"
    assert table.items == {A: version_of_a(1)}


@pytest.mark.parametrize("view_type", ViewType)
def test_the_model_shows_only_the_images_of_the_view_type(view_type: ViewType) -> None:
    seen = change(attributes(id="a"), version_of_a(1), version_of_a(2)).seen_as(view_type)
    assert (seen.old_image is not None) == (view_type in {"OLD_IMAGE", "NEW_AND_OLD_IMAGES"})
    assert (seen.new_image is not None) == (view_type in {"NEW_IMAGE", "NEW_AND_OLD_IMAGES"})
    assert isinstance(seen, Change)


def test_sizes_agree_with_the_figures_known_from_the_service() -> None:
    # The guide's sample: INSERT is 26 with keys and new image, MODIFY 59; the second with id "Fred" is 12 and 26.
    keys = attributes(Id=101)
    first, second = attributes(Id=101, Message="New item!"), attributes(Id=101, Message="This item has changed")
    assert size_bytes(keys) + size_bytes(first) == 26
    assert size_bytes(keys) + size_bytes(first) + size_bytes(second) == 59
    assert 2 * size_bytes(attributes(id="Fred")) == 12


def test_values_survive_the_wire() -> None:
    everything = attributes(
        s="é",
        n=-12,
        b=b"\0",
        yes=True,
        nothing=None,
        ss={"a", "b"},
        ns={1, 2},
        bs={b"x"},
        list=[1, [True]],
        map={"a": {"b": 1}},
    )
    assert from_item(to_item(everything)) == everything
    assert value(True) != value(1)  # noqa: FBT003
