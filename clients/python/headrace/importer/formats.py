"""Reads files into rows.

A bad line is yielded as Rejected and reading goes on; a file that cannot be understood at all raises SourceError.

Formats: `csv` (the first line names the attributes), `jsonl` (one plain JSON object a line) and `dynamodb-json` (one
object a line in DynamoDB JSON, either the item itself or {"Item": item} as in AWS table exports: a line whose only
member is Item is read as the latter). All text is UTF-8; lines are counted from 1.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO, cast

from headrace import dynamodb_json
from headrace.importer.csv_types import COLUMN_TYPES, SAMPLE_ROWS, infer_column_types, parse_cell
from headrace.importer.rows import ReadRow, Rejected, Row

__all__ = [
    "FORMATS",
    "CsvReader",
    "SourceError",
    "decompressed",
    "exported_files",
    "format_of",
    "parse_json_object",
    "read_dynamodb_json",
    "read_json_lines",
    "read_rows",
]

FORMATS = ("csv", "jsonl", "dynamodb-json")
_FORMAT_BY_SUFFIX = {
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    # What AWS names the data files of a table export.
    ".json": "dynamodb-json",
}
# DynamoDB Developer Guide, "Quotas": an item holds at most 400 KB, so no cell is longer.
CELL_CHARACTERS_MAX = 409_600


class SourceError(ValueError):
    """The file as a whole cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CsvOptions:
    """How a CSV file is to be understood."""

    delimiter: str = ","
    # Column types by name, instead of what would be inferred.
    types: Mapping[str, str] = field(default_factory=dict)
    # Cells with one of these texts are treated as empty.
    absent: Collection[str] = ()


def format_of(path: Path) -> str | None:
    """The format that a file's name tells, with or without .gz; None if it tells none."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] == ".gz":
        suffixes.pop()
    return _FORMAT_BY_SUFFIX.get(suffixes[-1]) if suffixes else None


def exported_files(folder: Path) -> list[Path]:
    """The data files of an exported table in AWS's layout, which its manifest names.

    Raises SourceError if the manifest or one of them is missing: the export has not finished, or its copy has not.
    """
    manifest = folder / "manifest-files.json"
    try:
        entries = [parse_json_object(line) for line in manifest.read_text().splitlines() if line.strip()]
        # In a bucket the key has the path of the export before it.
        files = [folder / "data" / Path(entry["dataFileS3Key"]).name for entry in entries]
    except OSError as error:
        raise SourceError(f"it is not a whole exported table: {error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise SourceError(f"{manifest.name} is not that of an exported table: {error}") from error
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise SourceError(f"{manifest.name} names files that are missing: {len(missing)}, the first is {missing[0]}")
    return files


def decompressed(raw: BinaryIO, path: Path) -> BinaryIO:
    """The content of an open file; unzipped if its name ends in .gz."""
    return cast("BinaryIO", gzip.GzipFile(fileobj=raw)) if path.suffix.lower() == ".gz" else raw


class CsvReader:
    """Rows of a CSV file.

    `columns` and `column_types` are known as soon as it is made; the rows come from `rows()`, once.
    """

    def __init__(
        self,
        lines: Iterable[bytes],
        *,
        options: CsvOptions,
        key_types: Mapping[str, str] | None = None,
    ) -> None:
        """Read the header and the sample that the types are inferred from.

        `key_types`, those of the table's key attributes, replace what would be inferred. Raises SourceError.
        """
        csv.field_size_limit(CELL_CHARACTERS_MAX)
        self._reader = csv.reader(_decoded(lines), delimiter=options.delimiter, strict=True)
        self._absent = frozenset(options.absent)
        self.columns = self._read_header()
        for column, column_type in options.types.items():
            if column not in self.columns:
                raise SourceError(f"there is no column {column!r} to give the type {column_type} to")
            if column_type not in COLUMN_TYPES:
                raise SourceError(f"column {column!r}: the type {column_type!r} is none of {', '.join(COLUMN_TYPES)}")
        self._records = self._read_records()
        self._sample = list(islice(self._records, SAMPLE_ROWS))
        inferred = infer_column_types(self.columns, (record for _, record in self._sample if isinstance(record, list)))
        defaults = {column: type_ for column, type_ in (key_types or {}).items() if column in inferred}
        self._inferred = inferred.keys() - options.types.keys() - defaults.keys()
        self.column_types: Mapping[str, str] = {**inferred, **defaults, **options.types}

    def rows(self) -> Iterator[ReadRow]:
        """The rows in the order of the file."""
        for line_number, record in chain(self._sample, self._records):
            if isinstance(record, str):
                yield Rejected(line_number=line_number, reason=record)
                continue
            try:
                yield Row(line_number=line_number, item=self._item(record))
            except ValueError as error:
                yield Rejected(line_number=line_number, reason=str(error))

    def _item(self, record: list[str]) -> dict[str, Any]:
        item: dict[str, Any] = {}
        for column, cell in zip(self.columns, record, strict=True):
            if cell:
                try:
                    item[column] = parse_cell(cell, self.column_types[column])
                except ValueError as error:
                    raise ValueError(self._explain(column, error)) from error
        return item

    def _explain(self, column: str, error: ValueError) -> str:
        reason = f"column {column}: {error}"
        if column in self._inferred:
            reason += (
                f"; its type {self.column_types[column]} was inferred from the first {SAMPLE_ROWS:,} rows,"
                f" give --type {column}=S to change it"
            )
        return reason

    def _read_header(self) -> list[str]:
        try:
            header = next(self._reader)
        except StopIteration:
            raise SourceError("the file is empty: the first line must name the columns") from None
        except csv.Error as error:
            raise SourceError(f"line 1: {error}") from error
        for position, column in enumerate(header, start=1):
            if not column:
                raise SourceError(f"line 1: column {position} has no name")
            if column in header[: position - 1]:
                raise SourceError(f"line 1: the column {column!r} comes twice")
            if not _is_text(column):
                raise SourceError(f"line 1: the name of column {position} is not UTF-8 text")
        if not header:
            raise SourceError("line 1 is empty: it must name the columns")
        return header

    def _read_records(self) -> Iterator[tuple[int, list[str] | str]]:
        """Cells by line number, absent ones empty; or, for a bad line, the reason as text."""
        while True:
            line_number = self._reader.line_num + 1
            try:
                record = next(self._reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield line_number, str(error)
                continue
            if not record:
                continue
            if len(record) != len(self.columns):
                yield line_number, f"has {len(record)} cells, the header names {len(self.columns)} columns"
            elif not _is_text("".join(record)):
                yield line_number, "is not UTF-8 text"
            else:
                yield line_number, ["" if cell in self._absent else cell for cell in record]


def read_rows(
    lines: Iterable[bytes], *, format_name: str, csv_options: CsvOptions, key_types: Mapping[str, str]
) -> Iterator[ReadRow]:
    """The rows of a file in one of FORMATS. Raises SourceError, at once if the file cannot be understood."""
    match format_name:
        case "csv":
            return CsvReader(lines, options=csv_options, key_types=key_types).rows()
        case "jsonl":
            return read_json_lines(lines)
        case "dynamodb-json":
            return read_dynamodb_json(lines)
    raise SourceError(f"the format {format_name!r} is none of {', '.join(FORMATS)}")


def read_json_lines(lines: Iterable[bytes]) -> Iterator[ReadRow]:
    """One plain JSON object a line: a number becomes N, null NULL, an array L, an object M. Empty lines are skipped."""
    return _read_objects(lines, lambda document: document)


def read_dynamodb_json(lines: Iterable[bytes]) -> Iterator[ReadRow]:
    """One item a line in DynamoDB JSON, as it is or as {"Item": item}. Empty lines are skipped."""

    def item_of(document: dict[str, Any]) -> dict[str, Any]:
        is_wrapped = document.keys() == {"Item"}
        return dynamodb_json.to_item(document["Item"] if is_wrapped else document)

    return _read_objects(lines, item_of)


def _read_objects(lines: Iterable[bytes], item_of: Callable[[dict[str, Any]], dict[str, Any]]) -> Iterator[ReadRow]:
    for line_number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            yield Row(line_number=line_number, item=item_of(parse_json_object(line.decode("utf-8-sig"))))
        except UnicodeDecodeError:
            yield Rejected(line_number=line_number, reason="is not UTF-8 text")
        except (ValueError, RecursionError) as error:
            yield Rejected(line_number=line_number, reason=str(error))


def parse_json_object(text: str) -> dict[str, Any]:
    """Parse a JSON object without rounding its numbers. Raises ValueError."""
    try:
        document = json.loads(text, parse_float=Decimal, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON: {error.msg} at column {error.colno}") from error
    if not isinstance(document, dict):
        raise ValueError("is not a JSON object")  # noqa: TRY004 - one kind of error for one bad line
    # Only an escape can bring in half of a surrogate pair, which no UTF-8 text holds.
    if "\\u" in text and not _is_text(json.dumps(document, ensure_ascii=False, default=str)):
        raise ValueError("holds an escaped lone surrogate, which is not text")
    return document


def _decoded(lines: Iterable[bytes]) -> Iterator[str]:
    """Text without the byte order mark; what is not UTF-8 becomes lone surrogates, to be found cell by cell."""
    remaining = iter(lines)
    for first_line in islice(remaining, 1):
        yield first_line.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape")
    for line in remaining:
        yield line.decode("utf-8", "surrogateescape")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"is not JSON: {name} is no number")


def _is_text(text: str) -> bool:
    """Whether the bytes it was decoded from were UTF-8: others are kept as lone surrogates."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
