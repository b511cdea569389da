"""The `headrace` command line.

Every subcommand is a module of this package, or an entry point of the group "headrace.commands", which is how the
broker adds `serve` and `dev`. Each is imported only when it runs: `headrace --help` must stay quick.

Exit codes: 0 done, 1 the operation failed, 2 wrong usage or bad configuration.
Data goes to stdout, everything else to stderr.
"""

from __future__ import annotations

from headrace.cli.group import CommandGroup, LazyCommand

__all__ = ["main"]

main = CommandGroup(
    name="headrace",
    help="Tables whose every change is a record in a stream, with triggers and replicas on top.",
    epilog="Commands that talk to a broker take --endpoint HOST:PORT or the variable HEADRACE_ENDPOINT.",
    context_settings={"help_option_names": ["-h", "--help"]},
    entry_point_group="headrace.commands",
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
