"""The `headrace` command line.

Every subcommand is a module of this package, or an entry point of the group "headrace.commands", which is how the
broker adds `serve` and `dev`. Each is imported only when it runs: `headrace --help` must stay quick.

Exit codes: 0 done, 1 the operation failed, 2 wrong usage or bad configuration, 141 nobody reads the output any more.
Data goes to stdout, everything else to stderr.
"""

from __future__ import annotations

import click

from headrace.cli.group import CommandGroup, LazyCommand, version_text
from headrace.cli.output import write_text

__all__ = ["main"]


def _show_version(ctx: click.Context, _param: click.Parameter, is_asked: bool) -> None:
    """A click callback."""
    if is_asked and not ctx.resilient_parsing:
        write_text(version_text())
        ctx.exit()


main = CommandGroup(
    name="headrace",
    help="Tables whose every change is a record in a stream, with triggers and replicas on top.",
    epilog="Commands that talk to a broker take --endpoint HOST:PORT or the variable HEADRACE_ENDPOINT.",
    context_settings={"help_option_names": ["-h", "--help"]},
    entry_point_group="headrace.commands",
    broker_commands=("serve", "dev", "restore"),
    params=[
        click.Option(
            ["--version"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_show_version,
            help="Show the version and exit.",
        )
    ],
    commands=[
        LazyCommand("table", "headrace.cli.table:table", "Create, describe, list, change and delete tables."),
        LazyCommand("item", "headrace.cli.item:item", "Put, get, update and delete items."),
        LazyCommand("import", "headrace.cli.import_:import_", "Load CSV, JSON Lines or DynamoDB JSON into a table."),
        LazyCommand("export", "headrace.cli.export:export", "Write the items of a table to files, in DynamoDB JSON."),
        LazyCommand("backup", "headrace.cli.backup:backup", "Make backups, and restore tables from them."),
        LazyCommand("stream", "headrace.cli.stream:stream", "List, read, explain, split and merge change streams."),
        LazyCommand(
            "consumer",
            "headrace.cli.consumer:consumer",
            "Consumer groups: how far they are, and what they have set aside.",
        ),
        LazyCommand("trigger", "headrace.cli.trigger:trigger", "Run a function on every change of a table."),
        LazyCommand("trigger-host", "headrace.cli.trigger:trigger_host", "Run the process that invokes triggers."),
        LazyCommand("replica", "headrace.cli.replica:replica", "Keep a copy of a table in another region."),
        LazyCommand("replicator", "headrace.cli.replica:replicator", "Run the process that keeps replicas equal."),
        LazyCommand("health", "headrace.cli.health:health", "Check whether a broker serves."),
        LazyCommand("demo", "headrace.cli.demo:demo", "Watch two regions at work on real flight data."),
    ],
)
