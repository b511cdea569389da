"""The version of this broker."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Final


def _version() -> str:
    try:
        return version("headrace-broker")
    except PackageNotFoundError:
        # Run from its source, without being installed.
        return "unknown"


VERSION: Final = _version()
