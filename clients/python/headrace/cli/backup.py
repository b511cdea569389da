"""`headrace backup`: backups of all that a broker holds, and tables restored from them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from headrace.cli.options import endpoint_option, output_option
from headrace.cli.render import byte_count_text, print_fields, print_json, print_table

if TYPE_CHECKING:
    from headrace import BackupDescription, BackupDetails, Client

__all__ = ["backup"]


@click.group()
def backup() -> None:
    """Make, list, describe and delete backups, and restore tables from them.

    A backup holds all that a broker does, as it was at one moment, and is kept in a folder of the broker. BACKUP is its
    ARN, the id at the end of that, or its name if only one is called so. `headrace restore` makes a whole store of one.
    """


@backup.command()
@click.argument("name")
@endpoint_option
@output_option
def create(*, name: str, endpoint: str | None, output: str) -> None:
    """Make a backup called NAME while writes go on; it is complete when the command returns."""
    from headrace import Client

    with Client(endpoint) as client:
        _print_backup(client.describe_backup(client.create_backup(name).backup_arn), output)


@backup.command(name="list")
@endpoint_option
@output_option
def list_(*, endpoint: str | None, output: str) -> None:
    """List all backups, the oldest first."""
    from headrace import Client

    with Client(endpoint) as client:
        backups = list(client.list_backups())
    if output == "json":
        print_json(backups)
    else:
        print_table(
            ["backup", "id", "status", "created", "size"],
            [
                [
                    each.backup_name,
                    _id(each),
                    each.backup_status,
                    each.backup_creation_date_time,
                    byte_count_text(each.backup_size_bytes),
                ]
                for each in backups
            ],
        )


@backup.command()
@click.argument("backup_text", metavar="BACKUP")
@endpoint_option
@output_option
def describe(*, backup_text: str, endpoint: str | None, output: str) -> None:
    """Show BACKUP and the tables in it."""
    from headrace import Client

    with Client(endpoint) as client:
        _print_backup(client.describe_backup(_arn(client, backup_text)), output)


@backup.command()
@click.argument("backup_text", metavar="BACKUP")
@click.option("--yes", is_flag=True, help="Do not ask.")
@endpoint_option
@output_option
def delete(*, backup_text: str, yes: bool, endpoint: str | None, output: str) -> None:
    """Delete BACKUP."""
    from headrace import Client

    with Client(endpoint) as client:
        arn = _arn(client, backup_text)
        if not yes:
            click.confirm(f"Delete the backup {arn}?", abort=True, err=True)
        _print_backup(client.delete_backup(arn), output)


@backup.command()
@click.argument("backup_text", metavar="BACKUP")
@click.option("--table", "source", required=True, metavar="TABLE", help="The table in the backup.")
@click.option("--as", "target", required=True, metavar="NEW", help="The table to make.")
@endpoint_option
@output_option
def restore(*, backup_text: str, source: str, target: str, endpoint: str | None, output: str) -> None:
    """Make a new table of one in BACKUP: its key and its items, without a stream.

    The table is there, whole, when the command returns. If it is ended before, there is no such table.
    """
    from headrace import Client
    from headrace.cli.table import print_description

    with Client(endpoint) as client:
        restored = client.restore_table_from_backup(_arn(client, backup_text), source_table=source, target_table=target)
    print_description(restored, output)


def _arn(client: Client, text: str) -> str:
    if text.startswith("arn:"):
        return text
    backups = list(client.list_backups())
    found = [each.backup_arn for each in backups if text in (_id(each), each.backup_name)]
    if not found:
        raise click.ClickException(f"BACKUP_NOT_FOUND: there is no backup {text}")
    if len(found) > 1:
        raise click.ClickException(f"several backups are called {text}, give the id of one: {', '.join(found)}")
    return found[0]


def _id(details: BackupDetails) -> str:
    return details.backup_arn.rpartition("/")[2]


def _print_backup(described: BackupDescription, output: str) -> None:
    if output == "json":
        print_json(described)
        return
    print_fields(
        {
            "backup": described.backup_name,
            "id": _id(described),
            "status": described.backup_status,
            "created": described.backup_creation_date_time,
            "size": byte_count_text(described.backup_size_bytes),
            "sequence number": described.sequence_number,
            "tables": ", ".join(described.table_names) or None,
            "arn": described.backup_arn,
        }
    )
