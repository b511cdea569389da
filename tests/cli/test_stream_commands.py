"""Commands on shards, settings of streams, and consumer groups, against a real broker."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import termios
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO
from uuid import uuid4

import pytest

import headrace as sdk
from tests.broker_process import BrokerProcess
from tests.cli.running import Headrace, done, parsed
from tests.conftest import eventually

PIPE_BYTES = 4096


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
    ran = headrace("stream", "merge", arn, left["shard_id"], right["shard_id"], "-o", "json")
    merged = json.loads(done(ran))[0]
    # What it means for readers made for DynamoDB is said, and not among the output.
    assert ran.stderr.startswith("warning: the merged shard has two parents.")
    put(headrace, orders, "c")
    lines = done(headrace("stream", "shards", orders)).splitlines()[2:]
    assert [line.split()[:3] for line in lines] == [
        [root["shard_id"], "closed", "100.00%"],
        [left["shard_id"], "closed", "50.00%"],
        [merged["shard_id"], "open", "100.00%"],
        [right["shard_id"], "closed", "50.00%"],
    ]
    assert lines[2].startswith("    " + merged["shard_id"])
    # Where it begins and ends, and with whom it was merged.
    ending = str(int(merged["starting_sequence_number"]) - 1).zfill(21)
    assert lines[1].split()[3:] == [left["starting_sequence_number"], ending, "-"]
    assert lines[2].split()[3:] == [merged["starting_sequence_number"], "-", right["shard_id"]]
    tailed = done(headrace("stream", "tail", orders, "--from", "TRIM_HORIZON", "--no-follow", "-o", "json"))
    assert sorted(json.loads(line)["dynamodb"]["Keys"]["id"]["S"] for line in tailed.splitlines()) == ["a", "b", "c"]
    refused = headrace("stream", "split", orders, root["shard_id"])
    assert refused.exit_code == 1
    assert "is closed" in refused.stderr


def test_tail_may_begin_at_a_time(headrace: Headrace, orders: str) -> None:
    put(headrace, orders, "a")
    later = datetime.now(UTC) + timedelta(hours=1)
    zoneless = later.replace(tzinfo=None).isoformat()
    for start, lines in (("-1h", 1), ("-1d", 1), (later.isoformat(), 0), (zoneless, 0), ("2020-01-01", 1)):
        shown = done(headrace("stream", "tail", orders, "--from", start, "--no-follow"))
        assert len(shown.splitlines()) == lines, start
    for start in ("soon", "SNAPSHOT", "10m", "-999999999d"):
        assert headrace("stream", "tail", orders, "--from", start, "--no-follow").exit_code == 2, start


def test_what_consume_has_shown_it_does_not_show_again(headrace: Headrace, orders: str) -> None:
    put(headrace, orders, "a", "b", "c")

    def consume(*options: str) -> list[str]:
        shown = done(headrace("stream", "consume", orders, "--group", orders, "-o", "json", *options))
        return [json.loads(line)["dynamodb"]["Keys"]["id"]["S"] for line in shown.splitlines()]

    assert consume("-n", "2") == ["a", "b"]
    put(headrace, orders, "d")
    assert consume("-n", "1") == ["c"]
    assert consume("-n", "1") == ["d"]


# With several shards the last batch may have more than was asked for: it is acked as far as it was shown.
def test_consume_acks_exactly_what_it_has_shown(headrace: Headrace, orders: str) -> None:
    (root,) = parsed(headrace("stream", "shards", orders, "-o", "json"))
    done(headrace("stream", "split", orders, root["shard_id"]))
    put(headrace, orders, *"abcdefghijkl")
    shown: list[str] = []
    for limit in ("5", "4", "3"):
        text = done(headrace("stream", "consume", orders, "--group", orders, "-n", limit, "-o", "json"))
        shown += [json.loads(line)["dynamodb"]["Keys"]["id"]["S"] for line in text.splitlines()]
    assert sorted(shown) == list("abcdefghijkl")
    shards = parsed(headrace("consumer", "describe", orders, "-o", "json"))["shards"]
    assert [shard["records_behind_latest"] for shard in shards if not shard["shard_end"]] == [0, 0]


def test_consume_follows_all_shards_of_a_stream(headrace: Headrace, orders: str) -> None:
    (root,) = parsed(headrace("stream", "shards", orders, "-o", "json"))
    put(headrace, orders, *"abcdefgh")
    done(headrace("stream", "split", orders, root["shard_id"], "--at", str(2**62)))
    put(headrace, orders, *"ijklmnop")
    shown = done(headrace("stream", "consume", orders, "--group", orders, "-n", "16", "-o", "json"))
    keys = [json.loads(line)["dynamodb"]["Keys"]["id"]["S"] for line in shown.splitlines()]
    assert keys[:8] == list("abcdefgh")
    assert sorted(keys[8:]) == list("ijklmnop")


# The real process: only there can one see that it is a member while it runs, and that Ctrl-C ends it quietly.
def test_consume_is_a_member_until_it_is_interrupted(headrace: Headrace, orders: str, endpoint: str) -> None:
    put(headrace, orders, "a")
    command = [sys.executable, "-m", "headrace.cli", "stream", "consume", orders, "--group", orders]
    with subprocess.Popen(
        [*command, "--endpoint", endpoint], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert '"id": "a"' in process.stdout.readline()
            group = parsed(headrace("consumer", "describe", orders, "-o", "json"))
            (member,) = group["member_names"]
            assert member.endswith(f":{process.pid}")
            assert [shard["member_name"] for shard in group["shards"]] == [member]
            assert member in done(headrace("consumer", "describe", orders))
            eventually(lambda: "AT_TIP" in done(headrace("stream", "explain", orders)))
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=10)
        finally:
            process.kill()
    assert (process.returncode, out, err) == (130, "", ""), err


# A pipe of one page: when it is full, the command is in the middle of a line, and of a batch.
@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
def test_consume_acks_what_a_closed_pipe_has_taken_and_no_more(
    headrace: Headrace, orders: str, endpoint: str, unbuffered: str
) -> None:
    keys = [f"key-{number:04}" for number in range(400)]
    with sdk.Client(endpoint) as client:
        for key in keys:
            client.put_item(orders, {"id": key})
    command = [sys.executable, "-m", "headrace.cli", "stream", "consume", orders, "--group", orders]
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    read_end, write_end = os.pipe()
    with os.fdopen(read_end, "rb", buffering=0) as pipe:
        assert fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, PIPE_BYTES) == PIPE_BYTES
        process = subprocess.Popen(
            [*command, "--endpoint", endpoint], stdout=write_end, stderr=subprocess.PIPE, text=True, env=environment
        )
        try:
            os.close(write_end)
            taken = b""
            while len(taken) < 2 * PIPE_BYTES:
                taken += pipe.read(PIPE_BYTES)
            eventually(lambda: unread_bytes(pipe) == PIPE_BYTES)
            pipe.close()
            _, err = process.communicate(timeout=20)
        finally:
            process.kill()
            process.wait()
    assert (process.returncode, err) == (141, "")
    # All lines have one length, so it is known how many went into the pipe in full.
    line_bytes = taken.index(b"\n") + 1
    delivered = (len(taken) + PIPE_BYTES) // line_bytes
    rest = keys[delivered:]
    assert rest, "the pipe took everything"
    shown = done(headrace("stream", "consume", orders, "--group", orders, "-o", "json", "-n", str(len(rest))))
    assert [json.loads(line)["dynamodb"]["Keys"]["id"]["S"] for line in shown.splitlines()] == rest


def test_a_shard_that_follows_a_rolled_one_stands_just_under_it(headrace: Headrace, tmp_path: Path) -> None:
    with BrokerProcess(tmp_path, environment={"HEADRACE_UPKEEP_INTERVAL_SECONDS": "0.1"}) as broker:

        def run(*arguments: str) -> str:
            return done(headrace(*arguments, "--endpoint", broker.grpc))

        settings = ("--roll", "1s", "--retention", "5m")
        run("table", "create", "orders", "--partition-key", "id", "--stream", "KEYS_ONLY", *settings)
        run("item", "put", "orders", '{"id": "a"}')
        eventually(lambda: len(run("stream", "shards", "orders").splitlines()) == 2 + 2)
        run("stream", "split", "orders", json.loads(run("stream", "shards", "orders", "-o", "json"))[1]["shard_id"])
        lines = run("stream", "shards", "orders").splitlines()[2:]
        depths = [len(line) - len(line.lstrip()) for line in lines]
        assert [depth - depths[0] for depth in depths] == [0, 0, 2, 2]
        assert [line.split()[1] for line in lines] == ["closed", "closed", "open", "open"]


def unread_bytes(pipe: IO[bytes]) -> int:
    """How many bytes are in a pipe."""
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


@pytest.mark.parametrize(
    "arguments",
    [
        "--help",
        "--version",
        "table --help",
        "stream tail {} --from TRIM_HORIZON",
        "item scan {}",
        "export {} --to -",
        "table describe {}",
        "table describe {} -o json",
    ],
)
@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
def test_a_pipe_without_a_reader_ends_a_command_quietly(
    headrace: Headrace, orders: str, endpoint: str, arguments: str, unbuffered: str
) -> None:
    put(headrace, orders, "a")
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "headrace.cli", *arguments.format(orders).split()],
            stdout=write_end,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered, "HEADRACE_ENDPOINT": endpoint},
            timeout=20,
            check=False,
        )
    finally:
        os.close(write_end)
    assert (ended.returncode, ended.stderr) == (141, b"")


def test_consume_acks_nothing_when_stdout_is_closed(headrace: Headrace, orders: str, endpoint: str) -> None:
    put(headrace, orders, "a")
    command = [sys.executable, "-m", "headrace.cli", "stream", "consume", orders, "--group", orders, "-n", "1"]
    closing = 'exec 1>&-; exec "$@"'
    ended = subprocess.run(
        ["/bin/sh", "-c", closing, "sh", *command, "--endpoint", endpoint], timeout=20, check=False, capture_output=True
    )
    assert (ended.returncode, ended.stderr) == (141, b"")
    assert '"a"' in done(headrace("stream", "consume", orders, "--group", orders, "-n", "1"))


# A table, fields, and a line.
@pytest.mark.parametrize("command", [("table", "list"), ("table", "describe", "orders"), ("health",)])
def test_a_command_without_a_stdout_ends_quietly(orders: str, endpoint: str, command: tuple[str, ...]) -> None:
    arguments = [orders if part == "orders" else part for part in command]
    ended = subprocess.run(
        [
            *("/bin/sh", "-c", 'exec 1>&-; exec "$@"', "sh", sys.executable, "-m", "headrace.cli"),
            *arguments,
            *("--endpoint", endpoint),
        ],
        timeout=20,
        check=False,
        capture_output=True,
    )
    assert (ended.returncode, ended.stderr) == (141, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_consume_acks_nothing_when_the_disk_of_its_output_is_full(
    headrace: Headrace, orders: str, endpoint: str
) -> None:
    put(headrace, orders, "a")
    command = [sys.executable, "-m", "headrace.cli", "stream", "consume", orders, "--group", orders, "-n", "1"]
    with Path("/dev/full").open("wb") as full:
        ended = subprocess.run(
            [*command, "--endpoint", endpoint], stdout=full, stderr=subprocess.PIPE, text=True, timeout=20, check=False
        )
    assert (ended.returncode, ended.stderr) == (1, "Error: cannot write the output: No space left on device\n")
    assert '"a"' in done(headrace("stream", "consume", orders, "--group", orders, "-n", "1"))


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
    assert 'INSERT  {"id": "bad"}' in done(headrace("consumer", "parked", orders, "--records", parked["parked_id"]))
    record = parsed(headrace("consumer", "parked", orders, "--records", parked["parked_id"], "-o", "json"))
    assert record["dynamodb"]["Keys"] == {"id": {"S": "bad"}}
    described = parsed(headrace("consumer", "describe", orders, "-o", "json"))
    assert (described["parked_keys"], described["parked_records"]) == (1, 1)
    assert "1 records of 1 keys" in done(headrace("consumer", "describe", orders))
    assert "1 keys are parked" in done(headrace("stream", "explain", orders))
    assert parsed(headrace("consumer", "redrive", orders, parked["parked_id"], "-o", "json")) == {"redriven_keys": 1}
    assert done(headrace("consumer", "redrive", orders)).split() == ["redriven", "keys", "0"]
    assert headrace("consumer", "discard", orders, parked["parked_id"], input="n\n").exit_code == 1
    discarded = parsed(headrace("consumer", "discard", orders, parked["parked_id"], "--yes", "-o", "json"))
    assert discarded == {"discarded_records": 1}
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
        "automatic_merges": False,
        "shard_roll_period_s": 900,
    }
    updated = parsed(headrace("table", "update", name, "--retention", "7d", "--stream", "KEYS_ONLY", "-o", "json"))
    assert updated["stream_settings"]["retention_s"] == 7 * 24 * 3600
    assert updated["stream_view_type"] == "KEYS_ONLY"
    text = done(headrace("table", "describe", name))
    assert "7d, 1GiB" in text
    assert "2 to 4, rolled after 4h" in text
    changed = headrace("table", "update", name, "--roll", "30m", "--automatic-merges", "-o", "json")
    assert parsed(changed)["stream_settings"]["shard_roll_period_s"] == 1800
    assert "2 to 4, rolled after 30m, merged when quiet" in done(headrace("table", "describe", name))
    done(headrace("table", "update", name, "--roll", "0", "--no-automatic-merges"))
    assert "2 to 4, not rolled" in done(headrace("table", "describe", name))
    assert "merged" not in done(headrace("table", "describe", name))
    described = done(headrace("stream", "describe", name))
    assert "0 records, 0 B" in described
    assert len(parsed(headrace("stream", "shards", name, "-o", "json"))) == 2
    refused = headrace("table", "update", name, "--max-shards", "1")
    assert refused.exit_code == 1
    assert "max_shards" in refused.stderr


@pytest.mark.parametrize(
    "options",
    [
        ["--retention", "soon"],
        ["--retention", "24"],
        ["--retention-bytes", "1XiB"],
        ["--min-shards", "x"],
        ["--roll", "1"],
    ],
)
def test_bad_settings_are_wrong_usage(headrace: Headrace, orders: str, options: list[str]) -> None:
    assert headrace("table", "update", orders, *options).exit_code == 2


@pytest.mark.parametrize("place", ["-1", str(2**64), "middle"])
def test_a_place_that_is_no_hash_is_wrong_usage(headrace: Headrace, orders: str, place: str) -> None:
    assert headrace("stream", "split", orders, "shardId-1", "--at", place).exit_code == 2


def test_describe_counts_what_was_read(headrace: Headrace, orders: str) -> None:
    put(headrace, orders, "a", "b")
    done(headrace("stream", "tail", orders, "--from", "TRIM_HORIZON", "--no-follow"))
    described = parsed(headrace("stream", "describe", orders, "-o", "json"))
    assert described["retained_records"] == described["read_usage"]["returned_records"] == 2
    assert described["read_usage"]["read_request_units"] >= 1
    assert "2 records since the node started" in done(headrace("stream", "describe", orders))
