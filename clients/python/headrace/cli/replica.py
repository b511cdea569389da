"""`headrace replica`: copies of tables in other regions; `headrace replicator`: the process that keeps them equal."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC
from typing import TYPE_CHECKING, Any

import click

from headrace.cli.options import check_endpoint, endpoint_option, output_option
from headrace.cli.render import json_text, print_fields, print_json, print_table

if TYPE_CHECKING:
    from headrace.replication.verify import Kind, Verification
    from headrace.v1 import replication_service_pb2 as pb
    from headrace.v1.replication_service_pb2_grpc import ReplicationServiceStub

__all__ = ["replica", "replicator"]


@click.group()
def replica() -> None:
    """Create, list, describe, verify and delete copies of tables. --endpoint is the source's broker."""


@replica.command()
@click.argument("name")
@click.option("--table", required=True, help="The table to copy; its stream must be on, with new images.")
@click.option(
    "--target",
    required=True,
    metavar="HOST:PORT",
    callback=check_endpoint,
    help="The broker to copy it to, as the replicator reaches it.",
)
@click.option("--target-table", help="The table to copy to, made if it does not exist; named as --table if left out.")
@endpoint_option
@output_option
def create(*, name: str, table: str, target: str, target_table: str | None, endpoint: str | None, output: str) -> None:
    """Have a table copied to another broker, under the name NAME. A replicator does the work."""
    from headrace._channel import UNARY_TIMEOUT_S
    from headrace.v1 import replication_service_pb2 as pb

    request = pb.CreateReplicaRequest(
        replica_name=name, source_table_name=table, target_endpoint=target, target_table_name=target_table
    )
    with _service(endpoint) as service:
        _print_replica(service.CreateReplica(request, timeout=UNARY_TIMEOUT_S).replica, output)


@replica.command(name="list")
@endpoint_option
@output_option
def list_(*, endpoint: str | None, output: str) -> None:
    """List all replicas and how far they are."""
    with _service(endpoint) as service:
        replicas = list(_list_all(service))
    if output == "json":
        print_json([_document(replica) for replica in replicas])
        return
    columns = ("replica_name", "status", "source_table_name", "target_endpoint", "target_table_name")
    figures = ("items_copied", "records_applied", "replication_lag_ms")
    rows = [[_document(replica)[column] for column in (*columns, *figures)] for replica in replicas]
    headings = ["name", "status", "table", "target", "target table", "items copied", "records applied", "lag ms"]
    print_table(headings, rows)


@replica.command()
@click.argument("name")
@endpoint_option
@output_option
def describe(*, name: str, endpoint: str | None, output: str) -> None:
    """Show the replica NAME: its status, how far it is, and what went wrong last."""
    with _service(endpoint) as service:
        _print_replica(_describe(service, name), output)


@replica.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@endpoint_option
def delete(*, name: str, yes: bool, endpoint: str | None) -> None:
    """End the replication of NAME. The copy stays as an ordinary table."""
    if not yes:
        click.confirm(f"End the replication {name}, and forget how far it is?", abort=True, err=True)
    from headrace._channel import UNARY_TIMEOUT_S
    from headrace.v1 import replication_service_pb2 as pb

    with _service(endpoint) as service:
        service.DeleteReplica(pb.DeleteReplicaRequest(replica_name=name), timeout=UNARY_TIMEOUT_S)


@replica.command()
@click.argument("name")
@endpoint_option
@output_option
def verify(*, name: str, endpoint: str | None, output: str) -> None:
    """Compare the replica NAME with its source, item by item; exit with 1 if they differ.

    Both may be written meanwhile: what differs is looked at again after two seconds, and counts if it is the same then.
    """
    with _service(endpoint) as service:
        description = _describe(service, name)
    verification = asyncio.run(_verify(description, endpoint))
    if output == "json":
        print_json(
            {
                "replica_name": name,
                "are_equal": verification.are_equal,
                "source_items": verification.source_items,
                "target_items": verification.target_items,
                **{kind: _kind_document(found) for kind, found in _kinds(verification)},
                "in_motion": verification.in_motion,
            }
        )
    else:
        print_fields(
            {
                "equal": verification.are_equal,
                "source items": verification.source_items,
                "target items": verification.target_items,
                **{kind: _kind_text(found) for kind, found in _kinds(verification)},
                "in motion": verification.in_motion,
            }
        )
    if not verification.are_equal:
        raise click.exceptions.Exit(1)


@click.command()
@endpoint_option
def replicator(*, endpoint: str | None) -> None:
    """Keep all replicas of one source equal to their tables, until SIGTERM or Ctrl-C.

    --endpoint is the source's broker. Prints {"replicator": "ready"} when the source has answered. Several replicators
    may run for one source: one leads for each replica, the others stand by.
    """
    import logging
    import signal
    from random import SystemRandom

    from headrace._channel import resolve_endpoint
    from headrace.replication import Replicator

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")

    async def run() -> None:
        peer = Replicator(resolve_endpoint(endpoint), random=SystemRandom())
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, peer.stop)
        await peer.run(lambda: print_json({"replicator": "ready"}))

    asyncio.run(run())


@contextmanager
def _service(endpoint: str | None) -> Iterator[ReplicationServiceStub]:
    import grpc

    from headrace import errors
    from headrace._channel import open_channel
    from headrace.v1.replication_service_pb2_grpc import ReplicationServiceStub

    with open_channel(endpoint) as channel:
        try:
            yield ReplicationServiceStub(channel)
        except grpc.RpcError as error:
            raise errors.from_rpc(error) from error


def _list_all(service: ReplicationServiceStub) -> Iterator[pb.ReplicaDescription]:
    from headrace._channel import UNARY_TIMEOUT_S
    from headrace.v1 import replication_service_pb2 as pb

    request = pb.ListReplicasRequest()
    while True:
        response = service.ListReplicas(request, timeout=UNARY_TIMEOUT_S)
        yield from response.replicas
        if not response.next_page_token:
            return
        request.page_token = response.next_page_token


def _describe(service: ReplicationServiceStub, name: str) -> pb.ReplicaDescription:
    from headrace._channel import UNARY_TIMEOUT_S
    from headrace.v1 import replication_service_pb2 as pb

    return service.DescribeReplica(pb.DescribeReplicaRequest(replica_name=name), timeout=UNARY_TIMEOUT_S).replica


async def _verify(description: pb.ReplicaDescription, endpoint: str | None) -> Verification:
    from headrace._channel import resolve_endpoint
    from headrace.replication import verify_replica

    with _item_progress("items compared") as show:
        return await verify_replica(description, resolve_endpoint(endpoint), on_progress=show)


@contextmanager
def _item_progress(description: str) -> Iterator[Callable[[int], None]]:
    """Show on stderr how many items are done; without a terminal nothing."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = SpinnerColumn(), TextColumn("{task.completed:,.0f} {task.description}"), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(description, total=None)
        yield lambda count: progress.update(task, completed=count)


def _print_replica(description: pb.ReplicaDescription, output: str) -> None:
    document = _document(description)
    if output == "json":
        print_json(document)
    else:
        print_fields({name.replace("_", " "): value for name, value in document.items()})


def _document(description: pb.ReplicaDescription) -> Mapping[str, Any]:
    from headrace.v1 import replication_service_pb2 as pb

    progress = description.progress
    return {
        "replica_name": description.replica_name,
        "status": pb.ReplicaStatus.Name(progress.status).removeprefix("REPLICA_STATUS_"),
        "source_table_name": description.source_table_name,
        "target_endpoint": description.target_endpoint,
        "target_table_name": description.target_table_name,
        "target_region": progress.target_region or None,
        "create_time": description.create_time.ToDatetime(UTC),
        "items_copied": progress.items_copied,
        "records_applied": progress.records_applied,
        "snapshot_sequence_number": progress.snapshot_sequence_number or None,
        "last_applied_sequence_number": progress.last_applied_sequence_number or None,
        "replication_lag_ms": progress.replication_lag_ms,
        "last_error": progress.last_error or None,
    }


def _kinds(verification: Verification) -> Iterator[tuple[str, Kind]]:
    yield "missing", verification.missing
    yield "extra", verification.extra
    yield "different", verification.different


def _kind_document(kind: Kind) -> Mapping[str, Any]:
    return {"count": kind.count, "sample_keys": _plain_keys(kind)}


def _kind_text(kind: Kind) -> str:
    samples = ", ".join(json_text(key) for key in _plain_keys(kind))
    return f"{kind.count}, for example {samples}" if samples else "0"


def _plain_keys(kind: Kind) -> list[Mapping[str, Any]]:
    from headrace._values import from_item

    return [from_item(key) for key in kind.sample_keys]
