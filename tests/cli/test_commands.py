"""The commands against a real broker: what a user types, and what comes back."""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.broker_process import BrokerProcess
from tests.cli.running import Headrace, done, parsed


@pytest.fixture
def name() -> str:
    """The name of a table that does not exist yet."""
    return f"cli-{uuid4()}"


@pytest.fixture
def orders(headrace: Headrace, name: str) -> str:
    """A table with the key id (S), n (N) and a stream."""
    options = ["--partition-key", "id", "--sort-key", "n:N", "--stream", "NEW_AND_OLD_IMAGES"]
    done(headrace("table", "create", name, *options))
    return name


def test_a_broker_is_healthy(headrace: Headrace) -> None:
    assert parsed(headrace("health", "-o", "json"))["status"] == "SERVING"


def test_a_table_lives_from_create_to_delete(headrace: Headrace, name: str) -> None:
    created = parsed(headrace("table", "create", name, "--partition-key", "id", "--sort-key", "n:N", "-o", "json"))
    assert created["table_status"] == "ACTIVE"
    assert created["partition_key"] == {"name": "id", "type": "S"}
    assert created["sort_key"] == {"name": "n", "type": "N"}
    assert created["stream_view_type"] is None
    assert name in parsed(headrace("table", "list", "-o", "json"))
    assert name in done(headrace("table", "list"))

    updated = parsed(headrace("table", "update", name, "--stream", "KEYS_ONLY", "-o", "json"))
    assert updated["stream_view_type"] == "KEYS_ONLY"
    assert "KEYS_ONLY" in done(headrace("table", "describe", name))
    assert parsed(headrace("table", "update", name, "--no-stream", "-o", "json"))["stream_view_type"] is None

    refused = headrace("table", "delete", name, input="n\n")
    assert (refused.exit_code, refused.stdout) == (1, "")
    done(headrace("table", "delete", name, "--yes"))
    gone = headrace("table", "describe", name)
    assert gone.exit_code == 1
    assert gone.stderr.startswith("Error: RESOURCE_NOT_FOUND: ")
    assert gone.stderr.count("\n") == 1


def test_items_are_queried_and_scanned_as_lines_of_json(headrace: Headrace, orders: str) -> None:
    for n in range(5):
        done(headrace("item", "put", orders, json.dumps({"id": "a", "n": n, "stage": "open", "text": "x" * n})))
    done(headrace("item", "put", orders, '{"id": "b", "n": 1}'))

    def lines(*arguments: str) -> list[Any]:
        return [json.loads(line) for line in done(headrace("item", *arguments)).splitlines()]

    condition = ["id = :id AND n BETWEEN :from AND :to", "--values", '{":id": "a", ":from": 1, ":to": 3}']
    found = lines("query", orders, *condition)
    assert [each["n"] for each in found] == [1, 2, 3]
    assert list(found[0]) == ["id", "n", "stage", "text"]
    assert lines("query", orders, *condition, "--reverse", "--projection", "n", "--limit", "2") == [{"n": 3}, {"n": 2}]
    assert len(lines("scan", orders)) == 6
    filtered = ["--filter", "size(#t) >= :s", "--names", '{"#t": "text"}', "--values", '{":s": {"N": "3"}}']
    assert lines("scan", orders, *filtered, "--projection", "n", "--dynamodb-json") == [
        {"n": {"N": "3"}},
        {"n": {"N": "4"}},
    ]
    assert done(headrace("item", "scan", orders, "--count")) == "6\n"
    assert lines("query", orders, "id = :id", "--values", '{":id": "gone"}') == []
    refused = headrace("item", "query", orders, "n = :n", "--values", '{":n": 1}')
    assert refused.exit_code == 1
    assert "Query condition missed key schema element: id" in refused.stderr


def test_an_index_is_added_read_and_removed(headrace: Headrace, orders: str) -> None:
    done(headrace("item", "put", orders, '{"id": "a", "n": 1, "stage": "open", "note": "x"}'))
    created = parsed(
        headrace(
            "table",
            "create-index",
            orders,
            "by-stage",
            "--partition-key",
            "stage",
            "--sort-key",
            "n:N",
            "--project",
            "note",
            "-o",
            "json",
        )
    )
    (index,) = created["global_indexes"]
    assert (index["index_name"], index["index_status"], index["item_count"]) == ("by-stage", "ACTIVE", 1)
    assert (index["projection"], index["non_key_attributes"]) == ("INCLUDE", ["note"])
    assert "by-stage: stage (S), n (N); note; 1 items" in done(headrace("table", "describe", orders))
    line = done(headrace("item", "query", orders, "stage = :s", "--index", "by-stage", "--values", '{":s": "open"}'))
    assert json.loads(line) == {"id": "a", "n": 1, "stage": "open", "note": "x"}
    assert "none" in done(headrace("table", "delete-index", orders, "by-stage"))


def test_capacity_class_and_encryption_are_set_and_shown(headrace: Headrace, orders: str) -> None:
    options = ["--max-write-units", "5", "--warm-read-units", "12001", "--table-class", "STANDARD_INFREQUENT_ACCESS"]
    done(headrace("table", "update", orders, *options, "--encryption", "on"))
    shown = done(headrace("table", "describe", orders))
    assert "on demand, at most 5 write units a second" in shown
    assert "12001 read and 4000 write units" in shown
    assert "STANDARD_INFREQUENT_ACCESS" in shown
    assert "the broker encrypts nothing" in shown
    done(headrace("table", "update", orders, "--max-write-units", "-1", "--encryption", "off"))
    again = parsed(headrace("table", "describe", orders, "-o", "json"))
    assert (again["on_demand_throughput"], again["kms_master_key_arn"]) == (None, None)
    assert again["table_class"] == "STANDARD_INFREQUENT_ACCESS"
    name = f"{orders}-provided"
    created = headrace("table", "create", name, "--partition-key", "id", "--max-read-units", "7", "-o", "json")
    assert parsed(created)["on_demand_throughput"] == {
        "max_read_request_units": 7,
        "max_write_request_units": None,
    }


def test_an_index_may_have_several_key_attributes(headrace: Headrace, orders: str) -> None:
    done(headrace("item", "put", orders, '{"id": "a", "n": 1, "stage": "open", "city": "Oslo"}'))
    keys = ["--partition-key", "stage", "--partition-key", "city", "--sort-key", "n:N", "--sort-key", "id"]
    created = parsed(headrace("table", "create-index", orders, "by-place", *keys, "-o", "json"))
    (index,) = created["global_indexes"]
    assert index["partition_keys"] == [{"name": "stage", "type": "S"}, {"name": "city", "type": "S"}]
    assert index["sort_keys"] == [{"name": "n", "type": "N"}, {"name": "id", "type": "S"}]
    text = "by-place: stage (S) + city (S), n (N) + id (S); ALL; 1 items"
    assert text in done(headrace("table", "describe", orders))
    condition, values = "stage = :s AND city = :c AND n = :n", '{":s": "open", ":c": "Oslo", ":n": 1}'
    line = done(headrace("item", "query", orders, condition, "--index", "by-place", "--values", values))
    assert json.loads(line) == {"id": "a", "n": 1, "stage": "open", "city": "Oslo"}


def test_a_table_is_restored_to_a_point_in_time(headrace: Headrace, orders: str) -> None:
    assert "off" in done(headrace("table", "recovery", orders))
    done(headrace("item", "put", orders, '{"id": "a", "n": 1, "state": "open"}'))
    assert "on, for 2 days" in done(headrace("table", "recovery", orders, "--on", "--days", "2"))
    before = parsed(headrace("table", "recovery", orders, "-o", "json"))["latest_restorable_date_time"]
    while parsed(headrace("table", "recovery", orders, "-o", "json"))["latest_restorable_date_time"] == before:
        pass
    done(headrace("item", "put", orders, '{"id": "a", "n": 1, "state": "paid"}'))
    assert "from its change log" in done(headrace("table", "restore", orders, "--as", f"{orders}-old", "--at", before))
    found = done(headrace("item", "get", f"{orders}-old", '{"id": "a", "n": 1}', "-o", "json"))
    assert json.loads(found)["state"] == "open"
    done(headrace("table", "restore", orders, "--as", f"{orders}-new"))
    refused = headrace("table", "restore", orders, "--as", f"{orders}-early", "--at", "-1000h")
    assert refused.stderr.startswith("Error: INVALID_RESTORE_TIME: ")
    assert "off" in done(headrace("table", "recovery", orders, "--off"))


def test_items_can_be_let_expire(headrace: Headrace, orders: str) -> None:
    done(headrace("table", "expire", orders, "until"))
    again = headrace("table", "expire", orders, "until")
    assert "already enabled" in again.stderr
    done(headrace("table", "expire", orders, "until", "--off"))


@pytest.mark.parametrize(
    "arguments",
    [
        ["table", "create-index", "t-1", "i-1"],
        ["table", "create-index", "t-1", "i-1", "--partition-key", "id:X"],
        ["table", "create-index", "t-1", "i-1", "--partition-key", "id", "--sort-key", "a", "--sort-key", "b:X"],
        ["item", "query", "t-1"],
        ["item", "scan", "t-1", "--limit", "0"],
        ["item", "scan", "t-1", "--values", "{"],
        ["table", "create", "t-1"],
        ["table", "create", "t-1", "--partition-key", "id:X"],
        ["table", "create", "t-1", "--partition-key", "id", "--partition-key", "place"],
        ["table", "create", "t-1", "--partition-key", "id", "--sort-key", "at", "--sort-key", "place"],
        ["table", "create", "t-1", "--partition-key", "id", "--stream", "ALL"],
        ["table", "update", "t-1"],
        ["table", "recovery", "t-1", "--days", "3"],
        ["table", "restore", "t-1"],
        ["table", "restore", "t-1", "--as", "t-2", "--at", "YESTERDAY"],
        ["table", "update", "t-1", "--stream", "KEYS_ONLY", "--no-stream"],
        ["item", "put", "t-1", "{"],
        ["item", "put", "t-1", '{"id": {"X": 1}}', "--dynamodb-json"],
        ["item", "put", "t-1", '{"id": "a"}', "--names", '{"#a": 1}'],
        ["item", "update", "t-1", '{"id": "a"}'],
        ["stream", "tail", "t-1", "--from", "YESTERDAY"],
        ["import", "t-1"],
        ["import", "t-1", "/does/not/exist.csv"],
    ],
)
def test_wrong_usage_is_exit_code_2(headrace: Headrace, arguments: list[str]) -> None:
    result = headrace(*arguments)

    assert (result.exit_code, result.stdout) == (2, "")
    assert "Error: " in result.stderr


def test_an_item_is_put_read_changed_and_deleted(headrace: Headrace, orders: str) -> None:
    key = '{"id": "a", "n": 1}'
    done(headrace("item", "put", orders, '{"id": "a", "n": 1, "price": 12345678901234567890.123456789, "tags": ["x"]}'))
    assert '"price": 12345678901234567890.123456789,' in done(headrace("item", "get", orders, key, "-o", "json"))
    assert list(parsed(headrace("item", "get", orders, key, "-o", "json"))) == ["id", "n", "price", "tags"]

    change = ["--update", "SET #s = :s REMOVE tags", "--names", '{"#s": "status"}', "--values", '{":s": "paid"}']
    done(headrace("item", "update", orders, key, *change, "--condition", "attribute_exists(id)"))
    found = parsed(headrace("item", "get", orders, key, "-o", "json"))
    assert (found["status"], "tags" in found) == ("paid", False)

    refused = headrace("item", "delete", orders, key, "--condition", "attribute_not_exists(id)")
    assert refused.exit_code == 1
    assert refused.stderr.startswith("Error: CONDITIONAL_CHECK_FAILED: ")
    done(headrace("item", "delete", orders, key))
    missing = headrace("item", "get", orders, key)
    assert (missing.exit_code, missing.stdout) == (1, "")


def test_dynamodb_json_keeps_all_types_both_ways(headrace: Headrace, orders: str) -> None:
    item = {
        "id": {"S": "a"},
        "n": {"N": "1"},
        "binary": {"B": "AAE="},
        "names": {"SS": ["a", "b"]},
        "numbers": {"NS": ["1", "2.5"]},
        "blobs": {"BS": ["AA==", "AQ=="]},
        "nothing": {"NULL": True},
        "list": {"L": [{"BOOL": False}, {"M": {"deep": {"S": ""}}}]},
    }
    done(headrace("item", "put", orders, "-", "--dynamodb-json", input=json.dumps(item)))

    key = json.dumps({"id": item["id"], "n": item["n"]})
    assert parsed(headrace("item", "get", orders, key, "--dynamodb-json", "-o", "json")) == item


def test_tail_shows_each_change_as_text_and_as_a_dynamodb_record(headrace: Headrace, orders: str) -> None:
    key = '{"id": "a", "n": 1}'
    done(headrace("item", "put", orders, '{"id": "a", "n": 1, "delay": 5, "note": "x"}'))
    done(headrace("item", "update", orders, key, "--update", "SET delay = :d REMOVE note", "--values", '{":d": 7}'))
    done(headrace("item", "delete", orders, key))

    lines = done(headrace("stream", "tail", orders, "--from", "TRIM_HORIZON", "--no-follow")).splitlines()
    assert [line.split()[1] for line in lines] == ["INSERT", "MODIFY", "REMOVE"]
    assert 'delay: 5 -> 7, note: removed "x"' in lines[1]

    tail_json = headrace("stream", "tail", orders, "--from", "TRIM_HORIZON", "--no-follow", "-o", "json")
    insert, modify, remove = [json.loads(line) for line in done(tail_json).splitlines()]
    assert insert["eventName"] == "INSERT"
    assert insert["eventSource"] == "aws:dynamodb"
    assert insert["dynamodb"]["Keys"] == {"id": {"S": "a"}, "n": {"N": "1"}}
    assert insert["dynamodb"]["NewImage"]["delay"] == {"N": "5"}
    assert "OldImage" not in insert["dynamodb"]
    assert modify["dynamodb"]["StreamViewType"] == "NEW_AND_OLD_IMAGES"
    assert modify["dynamodb"]["SequenceNumber"] > insert["dynamodb"]["SequenceNumber"]
    assert "NewImage" not in remove["dynamodb"]
    assert len({record["eventID"] for record in (insert, modify, remove)}) == 3


def test_tail_stops_after_as_many_records_as_asked_for(headrace: Headrace, orders: str) -> None:
    for number in range(5):
        done(headrace("item", "put", orders, json.dumps({"id": "a", "n": number})))

    assert len(done(headrace("stream", "tail", orders, "--from", "TRIM_HORIZON", "-n", "3")).splitlines()) == 3


# The real process: only there can one see that records come while it follows, and that Ctrl-C ends it quietly.
def test_tail_follows_until_it_is_interrupted(headrace: Headrace, orders: str, endpoint: str) -> None:
    command = [sys.executable, "-m", "headrace.cli", "stream", "tail", orders, "--from", "TRIM_HORIZON"]
    done(headrace("item", "put", orders, '{"id": "a", "n": 1}'))
    with subprocess.Popen(
        [*command, "--endpoint", endpoint], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert '"n": 1' in process.stdout.readline()
            done(headrace("item", "put", orders, '{"id": "a", "n": 2}'))
            assert '"n": 2' in process.stdout.readline()
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=10)
        finally:
            process.kill()

    assert (process.returncode, out, err) == (130, "", "")


def test_streams_are_listed_and_described(headrace: Headrace, orders: str) -> None:
    [stream] = parsed(headrace("stream", "list", "--table", orders, "-o", "json"))
    described = parsed(headrace("stream", "describe", orders, "-o", "json"))

    assert described["stream_arn"] == stream["stream_arn"]
    assert parsed(headrace("stream", "describe", stream["stream_arn"], "-o", "json")) == described
    assert described["shards"][0]["shard_id"] in done(headrace("stream", "describe", orders))
    assert orders in done(headrace("stream", "list"))


def test_a_table_without_a_stream_cannot_be_tailed(headrace: Headrace, name: str) -> None:
    done(headrace("table", "create", name, "--partition-key", "id"))

    result = headrace("stream", "tail", name)

    assert result.exit_code == 1
    assert "has no stream" in result.stderr


def test_consumer_groups_are_listed_described_and_deleted(headrace: Headrace, orders: str, endpoint: str) -> None:
    from headrace import Client

    group = f"group-{orders}"
    done(headrace("item", "put", orders, '{"id": "a", "n": 1}'))
    with Client(endpoint) as client:
        batches = client.consume(orders, group=group)
        next(batches).ack(durable=True)
        batches.close()

    assert group in {found["group_name"] for found in parsed(headrace("consumer", "list", "-o", "json"))}
    assert group in done(headrace("consumer", "list"))
    described = parsed(headrace("consumer", "describe", group, "-o", "json"))
    assert described["shards"][0]["sequence_number"] is not None
    assert described["shards"][0]["sequence_number"] in done(headrace("consumer", "describe", group))
    done(headrace("consumer", "delete", group))
    assert headrace("consumer", "describe", group).exit_code == 1


def items_of(endpoint: str, table: str) -> list[dict[str, Any]]:
    from headrace import Client

    with Client(endpoint) as client:
        return sorted((item for item, _ in client.snapshot(table)), key=lambda item: str(item["id"]))


def test_csv_is_imported_into_a_table_made_for_it(headrace: Headrace, name: str, endpoint: str, tmp_path: Path) -> None:
    path = tmp_path / "orders.csv.gz"
    path.write_bytes(gzip.compress(b"id,price,paid\n1,9.5,true\n2,NA,false\n3,7,\n"))

    arguments = ["--absent", "NA", "--create-table", "--partition-key", "id", "--stream", "NEW_IMAGE"]
    summary = parsed(headrace("import", name, str(path), *arguments, "-o", "json"))

    assert (summary["items_written"], summary["lines_rejected"]) == (3, 0)
    assert parsed(headrace("table", "describe", name, "-o", "json"))["partition_key"] == {"name": "id", "type": "N"}
    assert [json.loads(json.dumps(item, default=float)) for item in items_of(endpoint, name)] == [
        {"id": 1, "price": 9.5, "paid": True},
        {"id": 2, "paid": False},
        {"id": 3, "price": 7},
    ]


def test_a_key_column_takes_the_type_of_the_tables_key(
    headrace: Headrace, name: str, endpoint: str, tmp_path: Path
) -> None:
    done(headrace("table", "create", name, "--partition-key", "id"))
    path = tmp_path / "orders.csv"
    path.write_text("id,n\n1,1\n")

    done(headrace("import", name, str(path)))

    assert items_of(endpoint, name) == [{"id": "1", "n": 1}]


def test_several_files_in_both_json_forms_are_imported(
    headrace: Headrace, name: str, endpoint: str, tmp_path: Path
) -> None:
    plain, export = tmp_path / "a.jsonl", tmp_path / "b.json"
    plain.write_text('{"id": "a", "m": {"x": [1, null]}}\n')
    export.write_text('{"Item": {"id": {"S": "b"}, "s": {"SS": ["x"]}}}\n')

    output = done(headrace("import", name, str(plain), str(export), "--create-table", "--partition-key", "id"))

    assert f"{name}: 2 items written in" in output
    assert items_of(endpoint, name) == [{"id": "a", "m": {"x": [1, None]}}, {"id": "b", "s": {"x"}}]


def test_bad_lines_and_refused_items_are_told_and_the_rest_is_imported(
    headrace: Headrace, orders: str, endpoint: str, tmp_path: Path
) -> None:
    path = tmp_path / "orders.jsonl"
    path.write_text('{"id": "a", "n": 1}\n{"id": \n{"id": "b"}\n{"id": "c", "n": 3}\n{"id": "", "n": 4}\n')

    result = headrace("import", orders, str(path))

    assert result.exit_code == 1
    assert "2 items written" in result.stdout
    assert "3 lines rejected" in result.stdout
    assert f"{path}:2: is not JSON" in result.stderr
    assert f"{path}:3: VALIDATION: " in result.stderr
    assert f"{path}:5: VALIDATION: " in result.stderr
    assert [item["id"] for item in items_of(endpoint, orders)] == ["a", "c"]


def test_more_rejections_than_fit_a_screen_are_counted_not_shown(
    headrace: Headrace, orders: str, tmp_path: Path
) -> None:
    path = tmp_path / "orders.jsonl"
    path.write_text("[]\n" * 50)

    result = headrace("import", orders, str(path))

    assert "50 lines rejected" in result.stdout
    assert result.stderr.count("\n") == 21


@pytest.mark.parametrize(
    ("file_name", "content", "arguments", "exit_code", "words"),
    [
        ("a.txt", "", [], 2, "give --format"),
        ("a.csv", "", [], 1, "the file is empty"),
        ("a.csv", "id,n\n", ["--type", "x=S"], 1, "no column 'x'"),
        ("a.csv", "id,n\n", ["--type", "n=Q"], 2, "'n=Q'"),
        ("a.csv", "id,n\n", ["--delimiter", "ab"], 2, "one character"),
        ("a.csv.gz", "not gzip", [], 1, "a.csv.gz"),
        ("a.csv", "id,n\n", ["--create-table"], 2, "--partition-key"),
        ("a.csv", "id,n\n", ["--sort-key", "n"], 2, "--create-table"),
        ("a.csv", "id,n\n", ["--create-table", "--partition-key", "id"], 1, "no item"),
        ("a.csv", "id,n\na,true\n", ["--create-table", "--partition-key", "n"], 1, "'n'"),
    ],
)
def test_an_import_that_cannot_begin_is_one_line(
    headrace: Headrace,
    orders: str,
    tmp_path: Path,
    file_name: str,
    content: str,
    arguments: list[str],
    exit_code: int,
    words: str,
) -> None:
    path = tmp_path / file_name
    path.write_text(content)

    result = headrace("import", orders, str(path), *arguments)

    assert (result.exit_code, result.stdout) == (exit_code, "")
    assert words in result.stderr


def test_an_import_into_a_table_that_does_not_exist_fails(headrace: Headrace, name: str, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("id\na\n")

    result = headrace("import", name, str(path))

    assert result.exit_code == 1
    assert "RESOURCE_NOT_FOUND" in result.stderr


def test_a_pipe_can_be_imported(headrace: Headrace, orders: str, endpoint: str, tmp_path: Path) -> None:
    path = tmp_path / "orders.csv"
    os.mkfifo(path)
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(path.write_text, "id,n\na,1\nb,2\n")
        done(headrace("import", orders, str(path)))
        writing.result(timeout=10)

    assert [item["id"] for item in items_of(endpoint, orders)] == ["a", "b"]


def test_a_damaged_archive_tells_how_far_the_import_got(headrace: Headrace, orders: str, tmp_path: Path) -> None:
    path = tmp_path / "orders.csv.gz"
    whole = gzip.compress(b"id,n\n" + b"".join(b"a,%d\n" % number for number in range(20_000)))
    path.write_bytes(whole[: len(whole) // 2])

    result = headrace("import", orders, str(path))

    assert (result.exit_code, result.stdout) == (1, "")
    assert re.search(r"items were written, go on from line \d+ of .*orders.csv.gz", result.stderr)


# Lines are known to be done only when they are answered: going on from the line named must lose nothing.
def test_an_import_that_loses_its_broker_says_where_to_go_on(tmp_path: Path) -> None:
    path = tmp_path / "orders.csv"
    os.mkfifo(path)
    with BrokerProcess(tmp_path / "broker") as broker:
        arguments = ["orders", str(path), "--create-table", "--partition-key", "id:N", "--endpoint", broker.grpc]
        command = [sys.executable, "-m", "headrace.cli", "import", *arguments]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            try:
                with path.open("w") as lines:
                    lines.write("id,n\n" + "".join(f"{number},1\n" for number in range(20_000)))
                    broker.kill()
                out, err = process.communicate(timeout=60)
            finally:
                process.kill()
        broker.start()
        found = {item["id"] for item in items_of(broker.grpc, "orders")}

    assert (process.returncode, out) == (1, "")
    told = re.fullmatch(r"Error: UNAVAILABLE: .*; ([\d,]+) items were written, go on from line (\d+) of .*\n", err)
    assert told, err
    first_line = int(told[2])
    assert int(told[1].replace(",", "")) == first_line - 2
    assert set(range(first_line - 2)) <= found
