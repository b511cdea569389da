"""The page "What matches DynamoDB, what differs": each line names a test, and no call is left out."""

from __future__ import annotations

import re
from pathlib import Path

from headrace.v1 import backup_service_pb2, item_service_pb2, stream_service_pb2, table_service_pb2

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "dynamodb.md").read_text()
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("| ")]
# What has no test because there is nothing of it.
ABSENT = ("10 GB per partition key",)


def test_every_line_is_held_by_a_test() -> None:
    lines = [row for row in ROWS if row[-1] != "Held by" and not set(row[0]) <= {"-"}]
    assert len(lines) > 20
    for row in lines:
        assert "::test_" in row[-1] or row[0].startswith(ABSENT), row


def test_no_call_of_tables_items_streams_and_backups_is_left_out() -> None:
    told = {call for row in ROWS for call in re.findall(r"\b[A-Z]\w+", row[0])}
    for module, service in (
        (table_service_pb2, "TableService"),
        (item_service_pb2, "ItemService"),
        (stream_service_pb2, "StreamService"),
        (backup_service_pb2, "BackupService"),
    ):
        calls = {method.name for method in module.DESCRIPTOR.services_by_name[service].methods}
        assert calls <= told, calls - told
