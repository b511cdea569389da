"""`headrace item`: put, get, update and delete single items, and read many of a table or an index."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import click

from headrace.cli.options import endpoint_option, output_option
from headrace.cli.output import write_text
from headrace.cli.render import print_fields, print_json

if TYPE_CHECKING:
    from headrace import Item

__all__ = ["item"]

_Command = TypeVar("_Command", bound=Callable[..., Any])


@click.group(
    epilog="""\b
Items, keys and values are JSON objects: {"id": "a", "delay": 1.5}. Strings,
numbers, true and false, null, arrays and objects become S, N, BOOL, NULL, L
and M. With --dynamodb-json they are DynamoDB JSON instead, which has binary
and sets too: {"id": {"S": "a"}, "tags": {"SS": ["x", "y"]}}. "-" reads from
stdin.
"""
)
def item() -> None:
    """Put, get, update, delete, query and scan items."""


def _dynamodb_json_option(command: _Command) -> _Command:
    return click.option("--dynamodb-json", is_flag=True, help="JSON is DynamoDB JSON, in and out.")(command)


def _expression_options(command: _Command) -> _Command:
    options = (
        click.option("--condition", metavar="EXPRESSION", help="Write only if this holds, as attribute_exists(id)."),
        click.option("--names", metavar="JSON", help='What #placeholders stand for: {"#s": "status"}.'),
        click.option("--values", metavar="JSON", help='What :placeholders stand for: {":s": "late"}.'),
    )
    for option in reversed(options):
        command = option(command)
    return command


@item.command()
@click.argument("table_name", metavar="TABLE")
@click.argument("item_json", metavar="ITEM")
@_dynamodb_json_option
@_expression_options
@endpoint_option
def put(
    *,
    table_name: str,
    item_json: str,
    dynamodb_json: bool,
    condition: str | None,
    names: str | None,
    values: str | None,
    endpoint: str | None,
) -> None:
    """Create ITEM in TABLE, or replace the whole item with the same key."""
    parsed = _parse_item("ITEM", item_json, dynamodb_json=dynamodb_json)
    placeholders = _parse_placeholders(names, values, dynamodb_json=dynamodb_json)
    from headrace import Client

    with Client(endpoint) as client:
        client.put_item(table_name, parsed, condition=condition, **placeholders)


@item.command()
@click.argument("table_name", metavar="TABLE")
@click.argument("key_json", metavar="KEY")
@_dynamodb_json_option
@endpoint_option
@output_option
def get(*, table_name: str, key_json: str, dynamodb_json: bool, endpoint: str | None, output: str) -> None:
    """Show the item of TABLE with this KEY; exit with 1 if there is none."""
    key = _parse_item("KEY", key_json, dynamodb_json=dynamodb_json)
    from headrace import Client
    from headrace.dynamodb_json import from_item

    with Client(endpoint) as client:
        found: Item | None = client.get_item(table_name, key)
    if found is None:
        raise click.ClickException(f"there is no item with the key {key_json} in {table_name}")
    document = from_item(found) if dynamodb_json else found
    # A map has no order of its own: the key first, then by name.
    ordered = {name: document[name] for name in [*key, *sorted(document.keys() - key.keys())]}
    if output == "json":
        print_json(ordered)
    else:
        print_fields(ordered)


@item.command()
@click.argument("table_name", metavar="TABLE")
@click.argument("key_json", metavar="KEY")
@click.option("--update", "expression", metavar="EXPRESSION", required=True, help="As SET delay = :d REMOVE note.")
@_dynamodb_json_option
@_expression_options
@endpoint_option
def update(
    *,
    table_name: str,
    key_json: str,
    expression: str,
    dynamodb_json: bool,
    condition: str | None,
    names: str | None,
    values: str | None,
    endpoint: str | None,
) -> None:
    """Change attributes of the item of TABLE with this KEY; create it if it is missing."""
    key = _parse_item("KEY", key_json, dynamodb_json=dynamodb_json)
    placeholders = _parse_placeholders(names, values, dynamodb_json=dynamodb_json)
    from headrace import Client

    with Client(endpoint) as client:
        client.update_item(table_name, key, update=expression, condition=condition, **placeholders)


@item.command()
@click.argument("table_name", metavar="TABLE")
@click.argument("key_json", metavar="KEY")
@_dynamodb_json_option
@_expression_options
@endpoint_option
def delete(
    *,
    table_name: str,
    key_json: str,
    dynamodb_json: bool,
    condition: str | None,
    names: str | None,
    values: str | None,
    endpoint: str | None,
) -> None:
    """Delete the item of TABLE with this KEY; it is no error if there is none."""
    key = _parse_item("KEY", key_json, dynamodb_json=dynamodb_json)
    placeholders = _parse_placeholders(names, values, dynamodb_json=dynamodb_json)
    from headrace import Client

    with Client(endpoint) as client:
        client.delete_item(table_name, key, condition=condition, **placeholders)


def _read_options(command: _Command) -> _Command:
    options = (
        click.option("--index", metavar="NAME", help="Read this index instead of the table."),
        click.option(
            "--filter", "filter_expression", metavar="EXPRESSION", help="Show only items for which this holds."
        ),
        click.option("--projection", metavar="PATHS", help="Show only these attributes: id, legs[0].airport."),
        click.option("--names", metavar="JSON", help='What #placeholders stand for: {"#s": "status"}.'),
        click.option("--values", metavar="JSON", help='What :placeholders stand for: {":s": "late"}.'),
        click.option("--limit", type=click.IntRange(min=1), help="Show at most so many items."),
        click.option("--count", "is_count", is_flag=True, help="Show only how many items there are."),
        _dynamodb_json_option,
    )
    for option in reversed(options):
        command = option(command)
    return command


@item.command()
@click.argument("table_name", metavar="TABLE")
@click.argument("key_condition", metavar="KEY_CONDITION")
@click.option("--reverse", "is_reverse", is_flag=True, help="The highest sort key first.")
@_read_options
@endpoint_option
def query(*, table_name: str, key_condition: str, is_reverse: bool, endpoint: str | None, **read: Any) -> None:
    """Show the items of one partition key of TABLE, one line of JSON each, in the order of the sort key.

    KEY_CONDITION is like 'carrier = :c AND flight BETWEEN :a AND :b'.
    """
    _show_all(endpoint, table_name, read, method="query", key_condition=key_condition, reverse=is_reverse)


@item.command()
@click.argument("table_name", metavar="TABLE")
@_read_options
@endpoint_option
def scan(*, table_name: str, endpoint: str | None, **read: Any) -> None:
    """Show all items of TABLE, or of an index, one line of JSON each."""
    _show_all(endpoint, table_name, read, method="scan")


def _show_all(endpoint: str | None, table_name: str, read: dict[str, Any], *, method: str, **more: Any) -> None:
    dynamodb_json, limit = read["dynamodb_json"], read["limit"]
    from headrace import Client
    from headrace.cli.render import json_text
    from headrace.dynamodb_json import from_item

    with Client(endpoint) as client:
        items: Iterator[Item] = getattr(client, method)(
            table_name,
            index=read["index"],
            filter=read["filter_expression"],
            projection=read["projection"],
            **_parse_placeholders(read["names"], read["values"], dynamodb_json=dynamodb_json),
            **more,
        )
        shown = islice(items, limit)
        if read["is_count"]:
            write_text(str(sum(1 for _ in shown)))
            return
        for each in shown:
            document = from_item(each) if dynamodb_json else each
            write_text(json_text({name: document[name] for name in sorted(document)}))


def _parse_item(argument: str, text: str, *, dynamodb_json: bool) -> dict[str, Any]:
    """Read an item from an argument, or from stdin. What is no item is wrong usage."""
    from headrace.dynamodb_json import to_item
    from headrace.importer.formats import parse_json_object

    try:
        document = parse_json_object(sys.stdin.read() if text == "-" else text)
        return to_item(document) if dynamodb_json else document
    except ValueError as error:
        raise click.UsageError(f"{argument} {error}") from error


def _parse_placeholders(names: str | None, values: str | None, *, dynamodb_json: bool) -> dict[str, Any]:
    parsed_names = None if names is None else _parse_item("--names", names, dynamodb_json=False)
    if parsed_names is not None and not all(isinstance(name, str) for name in parsed_names.values()):
        raise click.UsageError("--names must map placeholders to strings")
    return {
        "names": parsed_names,
        "values": None if values is None else _parse_item("--values", values, dynamodb_json=dynamodb_json),
    }
