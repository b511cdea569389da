"""Writes all items of a table, as they were at one sequence number, in the form of AWS's exports of tables to S3.

A line is {"Item": item} in DynamoDB JSON. A folder has AWS's layout, which `headrace import` reads too:

    data/00001.json.gz ...     the items
    manifest-files.json        a line for each of those files: its items, and its MD5
    manifest-summary.json      what was exported; written last, so an export without it is not complete
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import chain, islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, NamedTuple, cast

import grpc

from headrace import dynamodb_json, errors
from headrace._channel import open_channel
from headrace._values import from_item
from headrace.v1 import replication_service_pb2 as pb
from headrace.v1.replication_service_pb2_grpc import ReplicationServiceStub

if TYPE_CHECKING:
    from headrace import TableDescription
    from headrace.v1 import attribute_value_pb2

__all__ = ["Snapshot", "export_to_file", "export_to_folder", "open_snapshot", "write_lines"]

# A file of an exported folder holds so many, that several can be imported at once and none is huge.
FILE_ITEMS_MAX: Final = 1_000_000
# Fast; on text of this kind the highest level gains a few percent.
_GZIP_LEVEL: Final = 6


class Snapshot(NamedTuple):
    """A table as it was at one sequence number; the items are to be read once."""

    sequence_number: str
    items: Iterator[attribute_value_pb2.Item]


@contextmanager
def open_snapshot(endpoint: str | None, table: str) -> Iterator[Snapshot]:
    """Begins to read a table. This and reading on raise a HeadraceError."""
    channel = open_channel(endpoint)
    try:
        responses = ReplicationServiceStub(channel).ReadSnapshot(pb.ReadSnapshotRequest(table_name=table))
        try:
            first = next(responses)
        except grpc.RpcError as error:
            raise errors.from_rpc(error) from error
        yield Snapshot(first.sequence_number, _items(chain((first,), responses)))
    finally:
        channel.close()


def write_lines(items: Iterator[attribute_value_pb2.Item], target: IO[bytes]) -> int:
    """Writes items as lines; returns how many."""
    count = 0
    for item in items:
        document = {"Item": dynamodb_json.from_item(from_item(item))}
        # Sorted, for equal items to make equal lines: a protobuf map has no order.
        line = json.dumps(document, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
        target.write(line.encode() + b"\n")
        count += 1
    return count


def export_to_file(items: Iterator[attribute_value_pb2.Item], path: Path) -> int:
    """Writes items to a file, gzipped if its name ends so; returns how many.

    The file is there, whole and on disk, or not at all.
    """
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as raw:
            if path.suffix.lower() == ".gz":
                # No name and no time: equal items make equal files.
                with gzip.GzipFile("", "wb", _GZIP_LEVEL, raw, mtime=0) as zipped:
                    count = write_lines(items, cast("IO[bytes]", zipped))
            else:
                count = write_lines(items, raw)
            raw.flush()
            os.fsync(raw.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return count


def export_to_folder(snapshot: Snapshot, folder: Path, table: TableDescription) -> int:
    """Writes a table to an empty folder, or a new one, in AWS's layout; returns how many items there are."""
    start_time = datetime.now(UTC)
    data = folder / "data"
    data.mkdir(parents=True)
    files: list[dict[str, Any]] = []
    total = 0
    head = list(islice(snapshot.items, 1))
    # An empty table has one empty file, so that what is exported can be imported.
    while head or not files:
        path = data / f"{len(files) + 1:05}.json.gz"
        count = export_to_file(chain(head, islice(snapshot.items, FILE_ITEMS_MAX - len(head))), path)
        files.append({"itemCount": count, "md5Checksum": _md5(path), "dataFileS3Key": f"data/{path.name}"})
        total += count
        head = list(islice(snapshot.items, 1))
    (folder / "manifest-files.json").write_text("".join(json.dumps(file) + "\n" for file in files))
    summary = {
        "version": "2020-06-30",
        "startTime": _time_text(start_time),
        "endTime": _time_text(datetime.now(UTC)),
        "tableArn": table.table_arn,
        "tableId": table.table_id,
        "manifestFilesS3Key": "manifest-files.json",
        "itemCount": total,
        "outputFormat": "DYNAMODB_JSON",
        "exportType": "FULL_EXPORT",
        # Not AWS's: the items are those after exactly the writes up to this one.
        "sequenceNumber": snapshot.sequence_number,
    }
    (folder / "manifest-summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    return total


def _items(responses: Iterator[pb.ReadSnapshotResponse]) -> Iterator[attribute_value_pb2.Item]:
    try:
        for response in responses:
            for versioned in response.items:
                yield versioned.item
    except grpc.RpcError as error:
        raise errors.from_rpc(error) from error


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        # AWS's checksum of a file; it guards against damage, not against anybody.
        digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False))
    return b64encode(digest.digest()).decode()


def _time_text(time: datetime) -> str:
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")
