"""Commands on shards, settings of streams, and consumer groups, against a real broker."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

import headrace as sdk
from tests.cli.running import Headrace, done, parsed


@pytest.fixture
def orders(headrace: Headrace) -> str:
    """A table with a stream of one shard."""
    name = f"cli-{uuid4()}"
    done(headrace("table", "create", name, "--partition-key", "id", "--stream", "NEW_AND_OLD_IMAGES"))
    return name


def put(headrace: Headrace, table: str, *ids: str) -> None:
    for id_ in ids:
        done(headrace("item", "put", table, json.dumps({"id": id_})))


def test_shards_are_split_merged_and_shown_as_a_tree(headrace: Headrace, orders: str) -> None:
    (root,) = parsed(headrace("stream", "shards", orders, "-o", "json"))
    put(headrace, orders, "a", "b")
    left, right = parsed(headrace("stream", "split", orders, root["shard_id"], "-o", "json"))
    assert right["starting_hash_key"] == 2**63
    arn = parsed(headrace("table", "describe", orders, "-o", "json"))["latest_stream_arn"]
    merged = parsed(headrace("stream", "merge", arn, left["shard_id"], right["shard_id"], "-o", "json"))[0]
    put(headrace, orders, "c")
    lines = done(headrace("stream", "shards", orders)).splitlines()[2:]
    assert [line.split()[:3] for line in lines] == [
        [root["shard_id"], "closed", "100.00%"],
        [left["shard_id"], "closed", "50.00%"],
        [merged["shard_id"], "open", "100.00%"],
        [right["shard_id"], "closed", "50.00%"],
    ]
    assert lines[2].startswith("    " + merged["shard_id"])
    tailed = done(headrace("stream", "tail", orders, "--from", "TRIM_HORIZON", "--no-follow", "-o", "json"))
    assert sorted(json.loads(line)["dynamodb"]["Keys"]["id"]["S"] for line in tailed.splitlines()) == ["a", "b", "c"]
    refused = headrace("stream", "split", orders, root["shard_id"])
    assert refused.exit_code == 1
    assert "is closed" in refused.stderr


def test_tail_may_begin_at_a_time(headrace: Headrace, orders: str) -> None:
    put(headrace, orders, "a")
    later = datetime.now(UTC) + timedelta(hours=1)
    for start, lines in (("-1h", 1), ("-1d", 1), (later.isoformat(), 0), ("2020-01-01", 1)):
        shown = done(headrace("stream", "tail", orders, "--from", start, "--no-follow"))
        assert len(shown.splitlines()) == lines, start
    assert headrace("stream", "tail", orders, "--from", "soon", "--no-follow").exit_code == 2


def test_what_consume_has_shown_it_does_not_show_again(headrace: Headrace, orders: str) -> None:
    put(headrace, orders, "a", "b", "c")

    def consume(*options: str) -> list[str]:
        shown = done(headrace("stream", "consume", orders, "--group", orders, "-o", "json", *options))
        return [json.loads(line)["dynamodb"]["Keys"]["id"]["S"] for line in shown.splitlines()]

    assert consume("-n", "2") == ["a", "b"]
    put(headrace, orders, "d")
    assert consume("-n", "1") == ["c"]
    assert consume("-n", "1") == ["d"]


def test_consume_can_begin_with_what_the_table_holds(headrace: Headrace, orders: str) -> None:
    put(headrace, orders, "a")
    shown = done(headrace("stream", "consume", orders, "--group", orders, "--from", "snapshot", "-n", "1"))
    assert 'INSERT  {"id": "a"}' in shown


def test_a_group_is_explained(headrace: Headrace, orders: str, endpoint: str) -> None:
    put(headrace, orders, "a", "b")
    with sdk.Client(endpoint) as client:
        batches = client.consume(orders, group=orders)
        assert next(batches).ack(durable=True)
        batches.close()
    explained = parsed(headrace("stream", "explain", orders, "-o", "json"))
    assert explained["group"]["group_name"] == orders
    (shard,) = explained["shards"]
    assert shard["progress"] in {"NO_MEMBER", "AT_TIP"}
    text = done(headrace("stream", "explain", orders))
    assert text.startswith(explained["summary"])
    assert shard["shard_id"] in text
    assert headrace("stream", "explain", "nobody").exit_code == 1


def test_parked_keys_are_shown_redriven_and_discarded(headrace: Headrace, orders: str, endpoint: str) -> None:
    put(headrace, orders, "bad", "good")
    with sdk.Client(endpoint) as client:
        batches = client.consume(orders, group=orders)
        batch = next(batches)
        assert batch.nack(batch.records[0], reason="FATAL", message="no such customer")
        assert [record.keys for record in next(batches).records] == [{"id": "good"}]
        batches.close()
    (parked,) = parsed(headrace("consumer", "parked", orders, "-o", "json"))
    assert (parked["key"], parked["records"], parked["last_error"]) == ({"id": "bad"}, 1, "no such customer")
    assert "no such customer" in done(headrace("consumer", "parked", orders))
    record = parsed(headrace("consumer", "parked", orders, "--records", parked["parked_id"]))
    assert record["keys"] == {"id": "bad"}
    described = parsed(headrace("consumer", "describe", orders, "-o", "json"))
    assert (described["parked_keys"], described["parked_records"]) == (1, 1)
    assert done(headrace("consumer", "redrive", orders)) == "1 keys are redriven\n"
    assert headrace("consumer", "discard", orders, parked["parked_id"], input="n\n").exit_code == 1
    assert done(headrace("consumer", "discard", orders, parked["parked_id"], "--yes")) == "1 records are dropped\n"
    assert parsed(headrace("consumer", "parked", orders, "-o", "json")) == []


def test_the_settings_of_streams_are_given_and_changed(headrace: Headrace) -> None:
    name = f"cli-{uuid4()}"
    options = ["--retention", "90m", "--retention-bytes", "1GiB", "--min-shards", "2"]
    created = parsed(headrace("table", "create", name, "--partition-key", "id", *options, "-o", "json"))
    assert created["stream_settings"] == {
        "retention_s": 5400,
        "retention_bytes": 2**30,
        "min_shards": 2,
        "max_shards": 4,
    }
    updated = parsed(headrace("table", "update", name, "--retention", "7d", "--stream", "KEYS_ONLY", "-o", "json"))
    assert updated["stream_settings"]["retention_s"] == 7 * 24 * 3600
    assert updated["stream_view_type"] == "KEYS_ONLY"
    text = done(headrace("table", "describe", name))
    assert "604800 s, 1073741824 bytes" in text
    assert "2 to 4" in text
    described = done(headrace("stream", "describe", name))
    assert "0 records, 0 bytes" in described
    assert len(parsed(headrace("stream", "shards", name, "-o", "json"))) == 2
    refused = headrace("table", "update", name, "--max-shards", "1")
    assert refused.exit_code == 1
    assert "max_shards" in refused.stderr


@pytest.mark.parametrize(
    "options", [["--retention", "soon"], ["--retention", "24"], ["--retention-bytes", "1XiB"], ["--min-shards", "x"]]
)
def test_bad_settings_are_wrong_usage(headrace: Headrace, orders: str, options: list[str]) -> None:
    assert headrace("table", "update", orders, *options).exit_code == 2
