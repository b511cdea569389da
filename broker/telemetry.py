"""Logs and metrics. Hot paths only bump plain numbers; a scrape of `/metrics` reads them.

The text is written here and not by a metrics library, because a node may have tens of thousands of series and the event
loop that writes them also serves every call (docs/decisions/0023-metrics-text.md).
"""

from __future__ import annotations

import asyncio
import logging
import sys
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from prometheus_client import REGISTRY, generate_latest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

# A scrape gives way to other work after this many rows. Most rows take microseconds; the lag of a consumer group reads
# two blocks of the log.
ROWS_PER_TURN: Final = 20
# It then pauses, for a write that gathers its group waits several turns of the loop and would meet a part of the scrape
# in each. 5,000 tables with two families of metrics take 0.6 s so; Prometheus waits for 10 s.
PAUSE_SECONDS: Final = 0.001

_FORMAT: Final = "time=%(asctime)s level=%(levelname)s logger=%(name)s message=%(message)r"
# Source: Prometheus documentation, "Exposition formats", text format version 0.0.4.
_ESCAPES: Final = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


class RpcCounter:
    """What happened to one method since the start."""

    __slots__ = ("failed", "started")

    def __init__(self) -> None:
        self.started = 0
        self.failed = 0


class Metric(NamedTuple):
    """A number that is exposed. A counter only rises, and its name is shown with `_total` behind it."""

    kind: Literal["counter", "gauge"]
    name: str
    description: str

    @property
    def shown_name(self) -> str:
        """The name in the text."""
        return f"{self.name}_total" if self.kind == "counter" else self.name


class Row(NamedTuple):
    """The values of several metrics that have the same labels."""

    labels: Sequence[str]
    values: Sequence[float]


class _Family(NamedTuple):
    metrics: Sequence[Metric]
    label_names: Sequence[str]
    read: Callable[[], Iterable[Row]]


class Telemetry:
    """The metrics of one node."""

    def __init__(self) -> None:
        self._rpcs: dict[str, RpcCounter] = {}
        self._families: list[_Family] = []
        self._rendering = asyncio.Lock()
        self.series(
            (
                Metric("counter", "headrace_rpcs_started", "Calls, by method"),
                Metric("counter", "headrace_rpcs_failed", "Calls that ended with an error, by method"),
            ),
            ("method",),
            lambda: [Row((method,), (rpc.started, rpc.failed)) for method, rpc in self._rpcs.items()],
        )

    def rpc_counter(self, method: str) -> RpcCounter:
        """Return the numbers of one method."""
        return self._rpcs.setdefault(method, RpcCounter())

    def counter(self, name: str, description: str, read: Callable[[], float]) -> None:
        """Expose a number that only rises."""
        self.series((Metric("counter", name, description),), (), lambda: [Row((), (read(),))])

    def gauge(self, name: str, description: str, read: Callable[[], float]) -> None:
        """Expose a number as it is now."""
        self.series((Metric("gauge", name, description),), (), lambda: [Row((), (read(),))])

    def series(self, metrics: Sequence[Metric], label_names: Sequence[str], read: Callable[[], Iterable[Row]]) -> None:
        """Expose metrics that share their labels, with a value for each metric in each row that `read` returns.

        A scrape gives way to other work between rows, so an iterator must bear changes of what it reads from.
        """
        self._families.append(_Family(metrics, label_names, read))

    async def render(self) -> bytes:
        """Return all metrics in the text format of Prometheus, those of the process included.

        Pauses after every 20 rows of a family, so that other work goes on. One scrape is rendered at a time.
        """
        async with self._rendering:
            parts = [generate_latest(REGISTRY).decode()]
            for family in self._families:
                parts.extend(await _render(family))
            return "".join(parts).encode()


async def _render(family: _Family) -> list[str]:
    """Write the series of a family, metric by metric."""
    parts = [
        [f"# HELP {metric.shown_name} {metric.description}\n# TYPE {metric.shown_name} {metric.kind}\n"]
        for metric in family.metrics
    ]
    names = [metric.shown_name for metric in family.metrics]
    rows = iter(family.read())
    while turn := list(islice(rows, ROWS_PER_TURN)):
        for labels, values in turn:
            shown = _labels(family.label_names, labels)
            for part, name, value in zip(parts, names, values, strict=True):
                part.append(f"{name}{shown} {value}\n")
        await asyncio.sleep(PAUSE_SECONDS if len(turn) == ROWS_PER_TURN else 0)
    return ["".join(part) for part in parts]


def _labels(names: Sequence[str], values: Sequence[str]) -> str:
    if not names:
        return ""
    pairs = [f'{name}="{value.translate(_ESCAPES)}"' for name, value in zip(names, values, strict=True)]
    return f"{{{','.join(pairs)}}}"


class _OneLine(logging.Formatter):
    """An entry as one line of key=value; its traceback, if it has one, is a value with the line breaks escaped."""

    def __init__(self) -> None:
        super().__init__(_FORMAT)

    def format(self, record: logging.LogRecord) -> str:
        """An entry as its line."""
        # What another handler has kept for us to append would be lines of their own.
        record.exc_text = None
        return super().format(record).replace("\r", "\\r").replace("\ntraceback=", " traceback=").replace("\n", "\\n")

    def formatException(self, error: Any) -> str:  # noqa: N802 - the standard library's name
        """A traceback as one more pair of the line."""
        return f"traceback={super().formatException(error)!r}"


def _is_news(record: logging.LogRecord) -> bool:
    """Whether an entry of gRPC tells more than that a client has left its call, as each may at any time."""
    error = record.exc_info[1] if record.exc_info else None
    return type(error).__name__ != "ExecuteBatchError"


def log_to_stderr(level: str) -> None:
    """Send the logs of the process to stderr, one line of key=value each."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OneLine())
    handler.addFilter(_is_news)
    logging.basicConfig(level=level, handlers=[handler])
    # It tells the same trouble again for every call.
    logging.getLogger("grpc").setLevel(logging.ERROR)
