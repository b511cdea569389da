"""`headrace import`: files of items into a table."""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from headrace.cli.options import KeyOption, endpoint_option, output_option, parse_only_key_attribute, view_type_option
from headrace.cli.output import write_text
from headrace.cli.render import print_json

if TYPE_CHECKING:
    from headrace import AsyncClient
    from headrace._models import KeyType, ViewType
    from headrace.cli.progress import ByteProgress
    from headrace.importer.formats import CsvOptions
    from headrace.importer.load import Loader
    from headrace.importer.rows import ReadRow, Rejected

__all__ = ["import_"]

# Enough to see what is wrong; how many there are in all is told at the end.
REJECTED_SHOWN_MAX = 20
# How many rows pass between two moves of the progress bar.
PROGRESS_ROWS = 500


def _parse_types(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    from headrace.importer.csv_types import COLUMN_TYPES

    types: dict[str, str] = {}
    for value in values:
        column, equals, column_type = value.rpartition("=")
        if not equals or not column or column_type not in COLUMN_TYPES:
            raise click.BadParameter(
                f"{value!r} is not NAME=TYPE with a type of {', '.join(COLUMN_TYPES)}", ctx=ctx, param=param
            )
        types[column] = column_type
    return types


def _check_delimiter(ctx: click.Context, param: click.Parameter, value: str) -> str:
    character = "\t" if value == "\\t" else value
    if len(character) != 1 or character in '"\r\n':
        raise click.BadParameter(f"{value!r} is not one character (\\t is a tab)", ctx=ctx, param=param)
    return character


@click.command(
    name="import",
    epilog="""\b
Types of CSV columns are decided once, from the non-empty cells of the first
1,000 rows: N if all are decimal numbers (at most 38 digits, no leading zeros,
no plus sign), BOOL if all are true or false, else S. Key attributes have the
type of the table's key. --type beats both. An empty cell is no attribute.

\b
Examples:
  headrace import flights flights.csv.gz --absent NA --type flight=S
  headrace import orders orders.jsonl --create-table --partition-key id
  headrace import orders AWSDynamoDB/01693685827463-2d8752fd/
""",
)
@click.argument("table_name", metavar="TABLE")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--format",
    "format_name",
    type=click.Choice(["csv", "jsonl", "dynamodb-json"]),
    help="By default from the file's name: .csv, .jsonl or .ndjson, .json for DynamoDB JSON; each also with .gz.",
)
@click.option(
    "--type", "types", multiple=True, metavar="NAME=TYPE", callback=_parse_types, help="CSV: a column's type."
)
@click.option("--absent", multiple=True, metavar="TEXT", help="CSV: treat cells with this text as empty.")
@click.option(
    "--delimiter", default=",", show_default=True, callback=_check_delimiter, help="CSV: what parts the cells."
)
@click.option("--create-table", is_flag=True, help="Make the table first, with --partition-key.")
@click.option(
    "--partition-key",
    metavar="NAME[:TYPE]",
    multiple=True,
    callback=parse_only_key_attribute,
    help="With --create-table; TYPE is S, N or B, if left out that of the first item.",
)
@click.option(
    "--sort-key", metavar="NAME[:TYPE]", multiple=True, callback=parse_only_key_attribute, help="With --create-table."
)
@view_type_option(help_text="With --create-table: enable the table's stream, with these images.")
@endpoint_option
@output_option
def import_(
    *,
    table_name: str,
    files: tuple[Path, ...],
    format_name: str | None,
    types: dict[str, str],
    absent: tuple[str, ...],
    delimiter: str,
    create_table: bool,
    partition_key: KeyOption | None,
    sort_key: KeyOption | None,
    view_type: ViewType | None,
    endpoint: str | None,
    output: str,
) -> None:
    """Load FILES into TABLE: CSV, JSON Lines or DynamoDB JSON.

    A folder is read as an exported table: of `headrace export`, or of AWS the folder that holds manifest-files.json and
    data/.

    A bad line or a refused item is told with its line number and does not stop the others; the exit code is then 1.
    """
    from headrace.importer.formats import CsvOptions

    if create_table and partition_key is None:
        raise click.UsageError("--create-table needs --partition-key")
    if not create_table and (partition_key or sort_key or view_type):
        raise click.UsageError("--partition-key, --sort-key and --stream describe the table of --create-table")
    new_table = None
    if partition_key is not None:
        new_table = _NewTable(partition_key=partition_key, sort_key=sort_key, view_type=view_type)
    sources = [source for path in files for source in _sources_of(path, format_name)]
    options = CsvOptions(delimiter=delimiter, types=types, absent=absent)
    summary = asyncio.run(_import(table_name, sources, options, new_table, endpoint))
    if output == "json":
        print_json({"table_name": table_name, **summary})
    else:
        write_text(
            f"{table_name}: {summary['items_written']:,} items written in {summary['seconds']} s"
            f" ({summary['items_per_second']:,} items/s), {summary['lines_rejected']:,} lines rejected"
        )
    if summary["lines_rejected"]:
        raise click.exceptions.Exit(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    path: Path
    format_name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _NewTable:
    """The table to make; a key attribute without a type takes that of the first item."""

    partition_key: KeyOption
    sort_key: KeyOption | None
    view_type: ViewType | None

    @property
    def keys(self) -> list[KeyOption]:
        return [key for key in (self.partition_key, self.sort_key) if key is not None]

    @property
    def given_types(self) -> dict[str, str]:
        return {name: key_type for name, key_type in self.keys if key_type is not None}


async def _import(
    table_name: str,
    sources: list[_Source],
    csv_options: CsvOptions,
    new_table: _NewTable | None,
    endpoint: str | None,
) -> dict[str, Any]:
    from headrace import AsyncClient
    from headrace.cli.progress import byte_progress
    from headrace.errors import HeadraceError
    from headrace.importer.formats import SourceError, decompressed, read_rows
    from headrace.importer.load import Loader

    started = time.monotonic()
    bytes_before = 0
    total_bytes = sum(source.path.stat().st_size for source in sources)
    async with AsyncClient(endpoint) as client:
        key_types = await _key_types(client, table_name) if new_table is None else new_table.given_types
        with byte_progress(f"importing {table_name}", total_bytes) as progress:
            rejections = _Rejections(progress)
            loader = Loader(client, table_name, on_rejected=rejections.add)
            for source in sources:
                rejections.path = source.path
                with source.path.open("rb") as raw:
                    try:
                        rows = read_rows(
                            decompressed(raw, source.path),
                            format_name=source.format_name,
                            csv_options=csv_options,
                            key_types=key_types,
                        )
                        if new_table is not None:
                            rows = await _create_table(client, table_name, new_table, rows)
                            new_table = None
                        await loader.load(_shown(rows, progress, raw, bytes_before))
                    except SourceError as error:
                        raise click.ClickException(f"{source.path}: {error}") from error
                    except (OSError, EOFError, zlib.error) as error:
                        raise click.ClickException(
                            f"{source.path}: {error}; {_how_far(source.path, loader)}"
                        ) from error
                    except HeadraceError as error:
                        raise click.ClickException(
                            f"{error.reason}: {error}; {_how_far(source.path, loader)}"
                        ) from error
                    except asyncio.CancelledError:
                        progress.note(f"interrupted; {_how_far(source.path, loader)}")
                        raise
                bytes_before += source.path.stat().st_size
    seconds = time.monotonic() - started
    return {
        "items_written": loader.items_written,
        "lines_rejected": loader.lines_rejected,
        "seconds": round(seconds, 2),
        "items_per_second": round(loader.items_written / seconds),
    }


def _sources_of(path: Path, format_name: str | None) -> list[_Source]:
    from headrace.importer.formats import SourceError, exported_files

    if not path.is_dir():
        return [_Source(path=path, format_name=_format_of(path, format_name))]
    if format_name not in {None, "dynamodb-json"}:
        raise click.UsageError(f"{path} is a folder, and those are read as dynamodb-json only")
    try:
        return [_Source(path=file, format_name="dynamodb-json") for file in exported_files(path)]
    except SourceError as error:
        raise click.UsageError(f"{path}: {error}") from error


def _format_of(path: Path, format_name: str | None) -> str:
    from headrace.importer.formats import format_of

    found = format_name or format_of(path)
    if found is None:
        raise click.UsageError(f"the name of {path} does not tell its format: give --format")
    return found


async def _key_types(client: AsyncClient, table_name: str) -> dict[str, str]:
    table = await client.describe_table(table_name)
    return {key.name: key.type for key in (table.partition_key, table.sort_key) if key is not None}


async def _create_table(
    client: AsyncClient, table_name: str, new_table: _NewTable, rows: Iterator[ReadRow]
) -> Iterator[ReadRow]:
    """Make the table; key types left open are those of the first item. Return all rows, the first included."""
    from headrace.importer.formats import SourceError
    from headrace.importer.rows import Row

    passed: list[ReadRow] = []
    first_item: dict[str, Any] = {}
    for row in rows:
        passed.append(row)
        if isinstance(row, Row):
            first_item = dict(row.item)
            break
    else:
        raise SourceError("there is no item in it to make a table for")
    keys = [(name, key_type or _key_type_of(name, first_item)) for name, key_type in new_table.keys]
    await client.create_table(
        table_name, partition_key=keys[0], sort_key=keys[1] if len(keys) > 1 else None, stream=new_table.view_type
    )
    return chain(passed, rows)


def _key_type_of(name: str, item: dict[str, Any]) -> KeyType:
    from headrace.importer.formats import SourceError

    match item.get(name):
        case str():
            return "S"
        case bool():
            pass
        case int() | Decimal():
            return "N"
        case bytes():
            return "B"
    raise SourceError(f"the first item has no string, number or binary {name!r} for the table's key")


def _how_far(path: Path, loader: Loader) -> str:
    written = f"{loader.items_written:,} items were written"
    if loader.first_unanswered_line is None:
        return written
    return f"{written}, go on from line {loader.first_unanswered_line} of {path}"


class _Rejections:
    """Tells what was rejected, up to a bound."""

    def __init__(self, progress: ByteProgress) -> None:
        self.path = Path()
        self._progress = progress
        self._count = 0

    def add(self, rejected: Rejected) -> None:
        self._count += 1
        if self._count <= REJECTED_SHOWN_MAX:
            self._progress.note(f"{self.path}:{rejected.line_number}: {rejected.reason}")
        elif self._count == REJECTED_SHOWN_MAX + 1:
            self._progress.note("more lines are rejected; they are counted but not shown")


def _shown(rows: Iterable[ReadRow], progress: ByteProgress, raw: BinaryIO, bytes_before: int) -> Iterator[ReadRow]:
    """The rows; the progress bar follows them."""
    has_position = raw.seekable()  # A pipe has none.
    for number, row in enumerate(rows):
        if has_position and number % PROGRESS_ROWS == 0:
            progress.move_to(bytes_before + raw.tell())
        yield row
