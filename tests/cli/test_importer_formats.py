"""Reading files into rows: the inference rule, line numbers, and bad lines that must not stop the good ones."""

from __future__ import annotations

import csv
import gzip
import io
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.importer.csv_types import SAMPLE_ROWS, infer_type, parse_cell
from headrace.importer.formats import (
    CsvOptions,
    CsvReader,
    SourceError,
    decompressed,
    format_of,
    read_dynamodb_json,
    read_json_lines,
)
from headrace.importer.rows import ReadRow, Rejected, Row


def csv_rows(text: str, *, key_types: dict[str, str] | None = None, **options: Any) -> list[ReadRow]:
    lines = text.encode().splitlines(keepends=True)
    return list(CsvReader(lines, options=CsvOptions(**options), key_types=key_types).rows())


def items(rows: list[ReadRow]) -> list[dict[str, object]]:
    assert all(isinstance(row, Row) for row in rows), rows
    return [dict(row.item) for row in rows if isinstance(row, Row)]


@pytest.mark.parametrize(
    ("cells", "column_type"),
    [
        (["1", "-2", "3.5", "0", "0.5", "1e3", "-1.5E-7"], "N"),
        (["007"], "S"),
        (["+1"], "S"),
        (["1."], "S"),
        ([".5"], "S"),
        (["1_000"], "S"),
        (["\u0661"], "S"),
        (["NaN"], "S"),
        (["1" * 38], "N"),
        (["1" * 39], "S"),
        (["1e125"], "N"),
        (["1e126"], "S"),
        (["1e-131"], "S"),
        (["true", "FALSE"], "BOOL"),
        (["true", "1"], "S"),
        (["1", "N14228"], "S"),
        ([], "S"),
    ],
)
def test_a_columns_type_follows_the_documented_rule(cells: list[str], column_type: str) -> None:
    assert infer_type(cells) == column_type


@given(st.lists(st.text(min_size=1), min_size=1))
def test_every_cell_a_type_was_inferred_from_can_be_parsed_as_that_type(cells: list[str]) -> None:
    column_type = infer_type(cells)

    for cell in cells:
        parse_cell(cell, column_type)


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**15), max_value=10**15, places=10))
def test_numbers_come_out_of_a_cell_unrounded(number: Decimal) -> None:
    text = format(number, "f")

    assert parse_cell(text, "N") == number


@given(
    st.lists(
        st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1), min_size=3, max_size=3),
        min_size=1,
        max_size=20,
    )
)
def test_text_survives_csv_whatever_it_holds(records: list[list[str]]) -> None:
    columns = ["a", "b", "c"]
    written = io.StringIO(newline="")
    csv.writer(written).writerows([columns, *records])
    lines = io.BytesIO(written.getvalue().encode())

    rows = list(CsvReader(lines, options=CsvOptions(types=dict.fromkeys(columns, "S"))).rows())

    assert items(rows) == [dict(zip(columns, record, strict=True)) for record in records]


def test_columns_are_typed_and_empty_cells_are_absent_attributes() -> None:
    rows = csv_rows("id,delay,late,tail\na,5,true,N1\nb,,FALSE,\nc,-1.50,,12\n")

    assert items(rows) == [
        {"id": "a", "delay": 5, "late": True, "tail": "N1"},
        {"id": "b", "late": False},
        {"id": "c", "delay": Decimal("-1.50"), "tail": "12"},
    ]


def test_cells_declared_absent_are_neither_stored_nor_inferred_from() -> None:
    assert items(csv_rows("id,delay\na,NA\nb,7\n", absent=["NA"])) == [{"id": "a"}, {"id": "b", "delay": 7}]


def test_a_given_type_beats_the_tables_key_which_beats_inference() -> None:
    text = "id,code,n\n1,2,3\n"

    assert items(csv_rows(text)) == [{"id": 1, "code": 2, "n": 3}]
    assert items(csv_rows(text, key_types={"id": "S", "other": "S"})) == [{"id": "1", "code": 2, "n": 3}]
    assert items(csv_rows(text, key_types={"id": "S"}, types={"id": "N", "code": "S"})) == [
        {"id": 1, "code": "2", "n": 3}
    ]


def test_binary_cells_are_base64() -> None:
    assert items(csv_rows("id,blob\na,AAE=\n", types={"blob": "B"})) == [{"id": "a", "blob": b"\x00\x01"}]


def test_bad_lines_are_rejected_by_number_and_the_rest_is_read() -> None:
    lines = [
        b"\xef\xbb\xbfid,n\n",
        b"a,1\n",
        b"b\n",
        b'"c\n',
        b'c",2\n',
        b"\n",
        b"d,\xff\n",
        b'"e"e,3\n',
        b"f,3\n",
    ]

    rows = list(CsvReader(lines, options=CsvOptions(types={"n": "N"})).rows())

    assert [(row.line_number, row.reason) for row in rows if isinstance(row, Rejected)] == [
        (3, "has 1 cells, the header names 2 columns"),
        (7, "is not UTF-8 text"),
        (8, "',' expected after '\"'"),
    ]
    assert [(row.line_number, row.item) for row in rows if isinstance(row, Row)] == [
        (2, {"id": "a", "n": 1}),
        (4, {"id": "c\nc", "n": 2}),
        (9, {"id": "f", "n": 3}),
    ]


# The type of a column is decided from the first rows; a later cell that does not fit must say what to do about it.
def test_a_cell_that_contradicts_the_inferred_type_says_how_to_override_it() -> None:
    text = "id,n\n" + "a,1\n" * SAMPLE_ROWS + "b,x\n" + "c,2\n"

    rows = csv_rows(text)

    [rejected] = [row for row in rows if isinstance(row, Rejected)]
    assert rejected.line_number == SAMPLE_ROWS + 2
    assert "column n" in rejected.reason
    assert "--type n=S" in rejected.reason
    assert rows[-1] == Row(line_number=SAMPLE_ROWS + 3, item={"id": "c", "n": 2})


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        ("", {}, "empty"),
        ("\n", {}, "line 1"),
        ("a,,b\n", {}, "column 2 has no name"),
        ("a,b,a\n", {}, "'a' comes twice"),
        ("a,b\n", {"types": {"c": "S"}}, "no column 'c'"),
        ("a,b\n", {"types": {"a": "L"}}, "'L'"),
    ],
)
def test_a_file_that_cannot_be_understood_is_refused_as_a_whole(text: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(SourceError, match=words):
        csv_rows(text, **options)


def test_json_lines_keep_numbers_exact_and_skip_empty_lines() -> None:
    lines = [
        b'{"id": "\\ud83d\\ude00", "n": 0.1000000000000000055511151231257827}\n',
        b"\n",
        b'{"id": "b", "m": {"l": [1, null]}}',
    ]

    rows = list(read_json_lines(lines))

    assert rows == [
        Row(line_number=1, item={"id": "\U0001f600", "n": Decimal("0.1000000000000000055511151231257827")}),
        Row(line_number=3, item={"id": "b", "m": {"l": [1, None]}}),
    ]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"[1]", "not a JSON object"),
        (b'{"a": ', "not JSON"),
        (b'{"a": NaN}', "NaN"),
        (b"\xff\xfe", "UTF-8"),
        (b'{"a": {"b": ["\\ud800"]}}', "lone surrogate"),
        (b'{"a": ' + b"[" * 100_000, "recursion"),
    ],
)
def test_a_bad_json_line_is_rejected_and_the_next_one_read(line: bytes, words: str) -> None:
    rows = list(read_json_lines([line, b'{"id": 1}']))

    assert isinstance(rows[0], Rejected)
    assert words in rows[0].reason
    assert rows[1:] == [Row(line_number=2, item={"id": 1})]


def test_dynamodb_json_is_read_bare_and_as_in_aws_exports() -> None:
    rows = list(read_dynamodb_json([b'{"id": {"S": "a"}}\n', b'{"Item": {"id": {"N": "2"}}}\n', b'{"id": "c"}\n']))

    assert rows[:2] == [Row(line_number=1, item={"id": "a"}), Row(line_number=2, item={"id": Decimal(2)})]
    assert isinstance(rows[2], Rejected)
    assert "attribute id" in rows[2].reason


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("flights.csv", "csv"),
        ("FLIGHTS.CSV.GZ", "csv"),
        ("a.b.jsonl", "jsonl"),
        ("a.ndjson.gz", "jsonl"),
        ("export.json.gz", "dynamodb-json"),
        ("data.txt", None),
        ("data.gz", None),
        ("data", None),
    ],
)
def test_the_format_follows_from_the_files_name(name: str, expected: str | None) -> None:
    assert format_of(Path(name)) == expected


def test_a_gzipped_file_reads_like_a_plain_one(tmp_path: Path) -> None:
    path = tmp_path / "items.csv.gz"
    path.write_bytes(gzip.compress(b"id\na\n"))

    with path.open("rb") as raw:
        assert items(list(CsvReader(decompressed(raw, path), options=CsvOptions()).rows())) == [{"id": "a"}]
