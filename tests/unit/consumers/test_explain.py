"""Why a group does or does not move: each word, and what the sentence tells."""

from __future__ import annotations

from typing import Any

import pytest

from broker.consumers.events import SourceKind
from broker.consumers.explain import STUCK_MS, Explanation, Holding, Progress, SourceView, explain, summarize
from broker.model.gaps import Gap

LOST = Gap("shard", 5, 9, 1, 2)


def view(**fields: Any) -> SourceView:
    return SourceView(**({"source_id": "shard", "kind": SourceKind.LOG} | fields))


def held(**fields: Any) -> Holding:
    return Holding(member_name="worker-1", **fields)


# What is known, whether there is a member, the word, and what the sentence must hold.
CASES: dict[str, tuple[SourceView, int, Progress, list[str]]] = {
    "finished": (view(is_finished=True, gap=LOST), 0, Progress.FINISHED, ["end"]),
    "a gap": (view(gap=LOST), 0, Progress.GAP, ["5", "9", "SKIP"]),
    "a gap that the holder is about to skip": (
        view(gap=LOST, records_behind=4, holding=held(skips_gaps=True)),
        1,
        Progress.MOVING,
        ["worker-1"],
    ),
    "behind a snapshot": (view(unread_ranges=3, waits_for=["p"]), 1, Progress.WAITING_FOR_SNAPSHOT, ["3 ranges"]),
    "behind a parent": (view(waits_for=["one", "two"]), 0, Progress.WAITING_FOR_PARENT, ["one and two"]),
    "nobody there": (view(records_behind=4), 0, Progress.NO_MEMBER, ["start a consumer"]),
    "not given yet": (view(records_behind=4), 1, Progress.MOVING, ["about to be given"]),
    "moving away": (
        view(holding=held(revoking_ms=400, in_flight_records=7)),
        2,
        Progress.REVOKING,
        ["worker-1", "7 records", "400 ms"],
    ),
    "a retry": (
        view(attempts=3, last_error="boom", records_behind=4, holding=held(retry_ms=200)),
        1,
        Progress.WAITING_FOR_RETRY,
        ["3 times", "'boom'", "200 ms"],
    ),
    "no room to park": (
        view(holding=held(is_blocked=True)),
        1,
        Progress.WAITING_FOR_RETRY,
        ["parked key", "redrive or discard"],
    ),
    "a retry of a record that is too large to park": (
        view(attempts=3, holding=held(retry_ms=200, attempts_max=3)),
        1,
        Progress.WAITING_FOR_RETRY,
        ["3 times", "redrive or discard"],
    ),
    "a member that does not read": (
        view(records_behind=4, holding=held(sending_ms=STUCK_MS, in_flight_records=1)),
        1,
        Progress.WAITING_FOR_MEMBER,
        ["worker-1", f"{STUCK_MS} ms"],
    ),
    "no credit": (
        view(records_behind=400, holding=held(is_credit_used_up=True, in_flight_records=30, in_flight_age_ms=99)),
        1,
        Progress.WAITING_FOR_ACK,
        ["30 records", "99 ms", "credit"],
    ),
    "all of it sent": (
        view(records_behind=4, holding=held(in_flight_records=4, is_all_sent=True)),
        1,
        Progress.WAITING_FOR_ACK,
        ["4 records"],
    ),
    "all of it sent or parked": (
        view(records_behind=4, holding=held(in_flight_records=3, is_all_sent=True)),
        1,
        Progress.WAITING_FOR_ACK,
        ["3 records"],
    ),
    "all of it parked": (
        view(records_behind=4, holding=held(is_all_sent=True)),
        1,
        Progress.WAITING_FOR_ACK,
        ["position after", "acks"],
    ),
    "its end sent": (view(holding=held(is_end_sent=True)), 1, Progress.WAITING_FOR_ACK, ["the end of the shard"]),
    "moving": (view(records_behind=40, holding=held(in_flight_records=4)), 1, Progress.MOVING, ["4 records"]),
    "a snapshot that moves": (
        view(kind=SourceKind.SNAPSHOT, holding=held(in_flight_records=4)),
        1,
        Progress.MOVING,
        ["4 records"],
    ),
    "at the tip": (view(holding=held()), 1, Progress.AT_TIP, ["processed"]),
}


@pytest.mark.parametrize("case", CASES)
def test_each_state_has_its_word_and_says_what_would_help(case: str) -> None:
    seen, members, progress, words = CASES[case]
    explained = explain(seen, members, is_parking_full=False)
    assert (explained.progress, explained.view) == (progress, seen)
    for word in words:
        assert word in explained.text


def test_every_word_is_reached() -> None:
    assert {progress for _, _, progress, _ in CASES.values()} == set(Progress)


def test_a_record_that_cannot_be_parked_says_so() -> None:
    for holding in (held(is_blocked=True), held(retry_ms=5)):
        assert "redrive or discard" in explain(view(holding=holding), 1, is_parking_full=True).text


def explained(*cases: str) -> list[Explanation]:
    return [explain(CASES[case][0], CASES[case][1], is_parking_full=False) for case in cases]


def test_a_summary_names_what_needs_someone_first() -> None:
    summary = summarize(explained("moving", "no credit", "a gap", "at the tip"), 1, 2)
    assert summary.startswith("1 of 4 shards are GAP; shard: ")
    assert summary.endswith("; 2 keys are parked")


@pytest.mark.parametrize(
    ("cases", "summary"),
    [
        ([], "Everything is processed to its end."),
        (["at the tip"], "Everything is processed; 3 members wait for more."),
        (["at the tip", "moving"], "The group moves: 40 records are not processed."),
    ],
)
def test_a_summary_of_a_group_that_is_well_says_so(cases: list[str], summary: str) -> None:
    assert summarize(explained(*cases), 3, 0) == summary
