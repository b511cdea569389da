"""`headrace export`: the items of a table into files."""

from __future__ import annotations

import time
from pathlib import Path
from typing import IO, cast

import click

from headrace.cli.options import endpoint_option, output_option
from headrace.cli.output import StdoutFile, write_text
from headrace.cli.render import print_json

__all__ = ["export"]


@click.command(
    epilog="""\b
Examples:
  headrace export orders --to orders.json.gz
  headrace export orders --to exports/orders/
  headrace export orders --to - | jq .Item
""",
)
@click.argument("table_name", metavar="TABLE")
@click.option(
    "--to",
    "target",
    required=True,
    metavar="FILE|FOLDER/|-",
    help="A file, gzipped if its name ends in .gz; a new or empty folder, named with a slash at the end; or - for "
    "stdout.",
)
@endpoint_option
@output_option
def export(*, table_name: str, target: str, endpoint: str | None, output: str) -> None:
    """Write the items of TABLE, as they were at one moment, in DynamoDB JSON as AWS exports it.

    A line is {"Item": item}; a folder has the layout of AWS's exports to S3. `headrace import` reads both. What could
    not be written to its end leaves no file, and no manifest-summary.json in a folder.
    """
    from headrace import Client
    from headrace.exporter import export_to_file, export_to_folder, open_snapshot, write_lines

    started = time.monotonic()
    path = Path(target)
    is_folder = target.endswith("/") or path.is_dir()
    if is_folder and path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise click.ClickException(f"{target} is not an empty folder")
    with Client(endpoint) as client:
        table = client.describe_table(table_name)
    try:
        with open_snapshot(endpoint, table_name) as snapshot:
            if target == "-":
                stdout = StdoutFile()
                count = write_lines(snapshot.items, cast("IO[bytes]", stdout))
                stdout.flush()
            elif is_folder:
                count = export_to_folder(snapshot, path, table)
            else:
                count = export_to_file(snapshot.items, path)
    except OSError as error:
        raise click.ClickException(f"{target}: {error}") from error
    seconds = round(time.monotonic() - started, 2)
    if target == "-":
        click.echo(f"{table_name}: {count:,} items as of {snapshot.sequence_number}", err=True)
    elif output == "json":
        print_json(
            {
                "table_name": table_name,
                "sequence_number": snapshot.sequence_number,
                "items_exported": count,
                "seconds": seconds,
            }
        )
    else:
        write_text(f"{table_name}: {count:,} items as of {snapshot.sequence_number} to {target} in {seconds} s")
