"""Triggers: run a user's function on every change of a table.

`TriggerHost` is the process that does it, an ordinary client of the broker. It needs the extra `headrace[triggers]`.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headrace.triggers.host import TriggerHost

__all__ = ["TriggerHost", "TriggersNotInstalledError"]


class TriggersNotInstalledError(ImportError):
    """What runs functions is not installed."""


def __getattr__(name: str) -> Any:
    """Imports the host only when somebody runs one: it brings an HTTP server with it."""
    if name != "TriggerHost":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    missing = [package for package in ("aiohttp", "awslambdaric") if find_spec(package) is None]
    if missing:
        raise TriggersNotInstalledError(
            f"a trigger host needs {' and '.join(missing)}: pip install 'headrace[triggers]'", name=missing[0]
        )
    from headrace.triggers.host import TriggerHost

    return TriggerHost
