"""Logs and metrics. Hot paths only bump plain numbers; OpenTelemetry reads them when it is asked.

A record call of OpenTelemetry costs several microseconds, so nothing records per item or per call.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Final

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import Resource

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_FORMAT: Final = "time=%(asctime)s level=%(levelname)s logger=%(name)s message=%(message)r"


class RpcCounter:
    """What happened to one method since the start."""

    __slots__ = ("failed", "started")

    def __init__(self) -> None:
        self.started = 0
        self.failed = 0


class Telemetry:
    """The metrics of one node."""

    def __init__(self, region: str) -> None:
        self._rpcs: dict[str, RpcCounter] = {}
        reader = PrometheusMetricReader(disable_target_info=True)
        self._provider = MeterProvider(
            (reader,), resource=Resource({"headrace.region": region}), shutdown_on_exit=False
        )
        self._meter = self._provider.get_meter("headrace")
        self._meter.create_observable_counter(
            "headrace_rpcs_started", [self._observe_started], description="Calls, by method"
        )
        self._meter.create_observable_counter(
            "headrace_rpcs_failed", [self._observe_failed], description="Calls that ended with an error, by method"
        )

    def rpc_counter(self, method: str) -> RpcCounter:
        """The numbers of one method."""
        return self._rpcs.setdefault(method, RpcCounter())

    def counter(self, name: str, description: str, read: Callable[[], int]) -> None:
        """A number that only rises."""
        self._meter.create_observable_counter(name, [_observing(read)], description=description)

    def gauge(self, name: str, description: str, read: Callable[[], int]) -> None:
        """A number as it is now."""
        self._meter.create_observable_gauge(name, [_observing(read)], description=description)

    def labelled_counter(
        self, name: str, description: str, read: Callable[[], Iterable[tuple[float, dict[str, str]]]]
    ) -> None:
        """Numbers that only rise, each with its labels."""
        self._meter.create_observable_counter(name, [_observing_each(read)], description=description)

    def labelled_gauge(
        self, name: str, description: str, read: Callable[[], Iterable[tuple[float, dict[str, str]]]]
    ) -> None:
        """Numbers as they are now, each with its labels."""
        self._meter.create_observable_gauge(name, [_observing_each(read)], description=description)

    def close(self) -> None:
        """Stops reading."""
        self._provider.shutdown()

    def _observe_started(self, _: CallbackOptions) -> Iterable[Observation]:
        return [Observation(rpc.started, {"method": method}) for method, rpc in self._rpcs.items()]

    def _observe_failed(self, _: CallbackOptions) -> Iterable[Observation]:
        return [Observation(rpc.failed, {"method": method}) for method, rpc in self._rpcs.items()]


def _observing(read: Callable[[], int]) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def observe(_: CallbackOptions) -> Iterable[Observation]:
        return [Observation(read())]

    return observe


def _observing_each(
    read: Callable[[], Iterable[tuple[float, dict[str, str]]]],
) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def observe(_: CallbackOptions) -> Iterable[Observation]:
        return [Observation(value, labels) for value, labels in read()]

    return observe


def log_to_stderr(level: str) -> None:
    """Sends the logs of the process to stderr, one line of key=value each."""
    logging.basicConfig(level=level, stream=sys.stderr, format=_FORMAT)
    # It tells the same trouble again for every call.
    logging.getLogger("grpc").setLevel(logging.ERROR)
