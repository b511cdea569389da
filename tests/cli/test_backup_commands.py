"""Backups, exports and imports as a user types them, against a real broker."""

from __future__ import annotations

import gzip
import json
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from headrace import Client
from headrace.importer.formats import SourceError, exported_files
from tests.cli.running import Headrace, done, parsed

# All ten types, nested, at the limits of numbers.
ITEMS: list[dict[str, Any]] = [
    {
        "id": "tëxt",
        "Item": "as the member of a line",
        "n": Decimal("-1.2345678901234567890123456789012345678"),
        "big": Decimal("9.9999999999999999999999999999999999999E+125"),
        "small": Decimal("1E-130"),
        "zero": 0,
        "b": b"\x00\xff",
        "empty": "",
        "yes": True,
        "no": False,
        "nothing": None,
        "ss": {"x", "y"},
        "ns": {1, Decimal("2.5"), Decimal("1E+20")},
        "bs": {b"\x00", b"\x01"},
        "l": [1, "z", [None, {"deep": [b""]}]],
        "m": {"k": [], "e": {}, "line\nbreak": "\u2028\n"},
    },
    {"id": "Item"},
    {"id": "other", "n": 10**37},
]


@pytest.fixture
def sdk(endpoint: str) -> Any:
    with Client(endpoint) as client:
        yield client


@pytest.fixture
def table(sdk: Client) -> str:
    name = f"export-{uuid4()}"
    sdk.create_table(name)
    for item in ITEMS:
        sdk.put_item(name, item)
    return name


def contents(sdk: Client, table: str) -> dict[str, dict[str, Any]]:
    return {item["id"]: item for item, _ in sdk.snapshot(table)}


@pytest.mark.parametrize("target", ["items.json", "items.json.gz", "folder/"])
def test_what_is_exported_and_imported_is_equal(
    headrace: Headrace, sdk: Client, table: str, tmp_path: Path, target: str
) -> None:
    path = f"{tmp_path}/{target}"
    exported = parsed(headrace("export", table, "--to", path, "-o", "json"))
    assert exported["items_exported"] == len(ITEMS)
    assert int(exported["sequence_number"]) >= 0
    copy = f"{table}-copy"
    sdk.create_table(copy)
    assert parsed(headrace("import", copy, path, "-o", "json"))["items_written"] == len(ITEMS)
    assert contents(sdk, copy) == contents(sdk, table) == {item["id"]: item for item in ITEMS}
    # Equal to the byte, not only to Python, for which 1 == True.
    assert done(headrace("export", copy, "--to", "-")) == done(headrace("export", table, "--to", "-"))
    assert not list(tmp_path.rglob("*.part"))


def test_a_folder_has_the_layout_of_aws(headrace: Headrace, table: str, tmp_path: Path) -> None:
    done(headrace("export", table, "--to", f"{tmp_path}/"))
    (entry,) = [json.loads(line) for line in (tmp_path / "manifest-files.json").read_text().splitlines()]
    assert (entry["itemCount"], entry["dataFileS3Key"]) == (3, "data/00001.json.gz")
    summary = json.loads((tmp_path / "manifest-summary.json").read_text())
    assert summary["itemCount"] == 3
    assert summary["tableArn"].endswith(f":table/{table}")
    lines = gzip.decompress((tmp_path / "data" / "00001.json.gz").read_bytes()).splitlines()
    assert all(json.loads(line).keys() == {"Item"} for line in lines)
    again = headrace("export", table, "--to", f"{tmp_path}/")
    assert again.exit_code == 1
    assert "is not an empty folder" in again.stderr


def test_a_large_table_has_several_files(
    headrace: Headrace, sdk: Client, table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace.exporter.FILE_ITEMS_MAX", 2)
    done(headrace("export", table, "--to", f"{tmp_path}/"))
    assert [path.name for path in exported_files(tmp_path)] == ["00001.json.gz", "00002.json.gz"]
    copy = f"{table}-copy"
    sdk.create_table(copy)
    done(headrace("import", copy, str(tmp_path)))
    assert contents(sdk, copy) == contents(sdk, table)


def test_an_empty_table_is_exported_too(headrace: Headrace, sdk: Client, tmp_path: Path) -> None:
    name = f"empty-{uuid4()}"
    sdk.create_table(name)
    assert parsed(headrace("export", name, "--to", f"{tmp_path}/", "-o", "json"))["items_exported"] == 0
    assert parsed(headrace("import", name, str(tmp_path), "-o", "json"))["items_written"] == 0


def test_a_table_that_is_not_there_leaves_no_file(headrace: Headrace, tmp_path: Path) -> None:
    refused = headrace("export", "missing", "--to", f"{tmp_path}/items.json")
    assert refused.exit_code == 1
    assert "RESOURCE_NOT_FOUND" in refused.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_aws_is_imported_by_its_manifest(headrace: Headrace, sdk: Client, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "abc.json.gz").write_bytes(gzip.compress(b'{"Item":{"id":{"S":"a"},"n":{"N":"1"}}}\n'))
    (tmp_path / "data" / "stray.json.gz").write_bytes(b"not of the export")
    (tmp_path / "manifest-files.json").write_text(
        '{"itemCount":1,"md5Checksum":"x","etag":"y","dataFileS3Key":"AWSDynamoDB/0169-2d/data/abc.json.gz"}\n'
    )
    name = f"aws-{uuid4()}"
    sdk.create_table(name)
    done(headrace("import", name, str(tmp_path)))
    assert contents(sdk, name) == {"a": {"id": "a", "n": 1}}


@pytest.mark.parametrize(
    ("manifest", "words"),
    [
        (None, "not a whole exported table"),
        ("no json\n", "not that of an exported table"),
        ('{"itemCount": 1}\n', "not that of an exported table"),
        ('{"dataFileS3Key": "data/a.json.gz"}\n', "missing"),
    ],
)
def test_a_folder_that_is_no_whole_export_is_refused(tmp_path: Path, manifest: str | None, words: str) -> None:
    if manifest is not None:
        (tmp_path / "manifest-files.json").write_text(manifest)
    with pytest.raises(SourceError, match=words):
        exported_files(tmp_path)


def test_a_folder_is_not_read_as_another_format(headrace: Headrace, tmp_path: Path) -> None:
    assert headrace("import", "some-table", str(tmp_path), "--format", "csv").exit_code == 2
    assert headrace("import", "some-table", str(tmp_path)).exit_code == 2


def test_a_backup_from_create_to_delete(headrace: Headrace, sdk: Client, table: str) -> None:
    name = f"nightly-{uuid4()}"
    made = parsed(headrace("backup", "create", name, "-o", "json"))
    assert (made["backup_name"], made["backup_status"]) == (name, "AVAILABLE")
    assert table in made["table_names"]
    backup_id = made["backup_arn"].rpartition("/")[2]
    assert backup_id in done(headrace("backup", "list"))
    assert made["backup_arn"] in [each["backup_arn"] for each in parsed(headrace("backup", "list", "-o", "json"))]
    for reference in (name, backup_id, made["backup_arn"]):
        assert parsed(headrace("backup", "describe", reference, "-o", "json")) == made
    assert name in done(headrace("backup", "describe", name))

    before = contents(sdk, table)
    sdk.put_item(table, {"id": "later"})
    done(headrace("backup", "restore", name, "--table", table, "--as", f"{table}-then"))
    assert contents(sdk, f"{table}-then") == before
    taken = headrace("backup", "restore", name, "--table", table, "--as", table)
    assert (taken.exit_code, "TABLE_ALREADY_EXISTS" in taken.stderr) == (1, True)

    assert parsed(headrace("backup", "create", name, "-o", "json"))["backup_name"] == name
    several = headrace("backup", "delete", name, "--yes")
    assert (several.exit_code, "several backups" in several.stderr) == (1, True)
    kept = headrace("backup", "delete", backup_id, input="n\n")
    assert kept.exit_code == 1
    assert parsed(headrace("backup", "delete", backup_id, "--yes", "-o", "json"))["backup_status"] == "DELETED"
    assert headrace("backup", "describe", made["backup_arn"]).stderr.startswith("Error: BACKUP_NOT_FOUND")
    assert headrace("backup", "describe", backup_id).stderr.startswith("Error: BACKUP_NOT_FOUND")
    done(headrace("backup", "delete", name, "--yes"))
