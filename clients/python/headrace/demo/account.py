"""The running account: what is written, streamed, handled and replicated so far, a line a second."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self, cast

import click
import grpc

from headrace import AsyncClient, errors
from headrace._channel import UNARY_TIMEOUT_S, open_async_channel
from headrace.demo.processes import Child
from headrace.v1 import replication_service_pb2, trigger_service_pb2
from headrace.v1.replication_service_pb2_grpc import ReplicationServiceStub
from headrace.v1.trigger_service_pb2_grpc import TriggerServiceStub

if TYPE_CHECKING:
    from headrace.v1.replication_service_pb2_grpc import ReplicationServiceAsyncStub
    from headrace.v1.trigger_service_pb2_grpc import TriggerServiceAsyncStub

__all__ = ["Account"]

LINE_INTERVAL_S = 1.0
POLL_INTERVAL_S = 0.1
# With no progress for so long, something is stuck.
STALLED_AFTER_S = 60.0

_LINE = "  {:>7} {:>9} {:>8} {:>9}  {:>9} {:>6} {:>8}  {:>8} {:>9} {:>8}"
_HEADINGS = (
    ("", "", "writes", "records", "trigger", "", "", "replica", "", ""),
    ("time", "written", "per s", "streamed", "handled", "calls", "lag", "copied", "followed", "lag"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far the trigger and the replica are."""

    records_handled: int
    invocations: int
    trigger_lag_ms: int
    # Every record up to here is handled, or applied.
    handled_sequence_number: str
    items_copied: int
    records_followed: int
    replica_lag_ms: int
    followed_sequence_number: str
    # What the trigger's newest batch came to, and what is wrong with the replica.
    trigger_result: str
    replica_error: str


class Account:
    """Watches one table's stream, trigger and replica from outside, and prints what it sees."""

    def __init__(
        self,
        *,
        endpoint: str,
        table_name: str,
        trigger_name: str,
        replica_name: str,
        changes_written: Callable[[], int],
        children: Sequence[Child],
    ) -> None:
        """`changes_written` tells how many writes are acknowledged so far."""
        self._client = AsyncClient(endpoint)
        self._channel = open_async_channel(endpoint)
        self._triggers = cast("TriggerServiceAsyncStub", TriggerServiceStub(self._channel))
        self._replication = cast("ReplicationServiceAsyncStub", ReplicationServiceStub(self._channel))
        self._table_name = table_name
        self._trigger_name = trigger_name
        self._replica_name = replica_name
        self._changes_written = changes_written
        self._children = children
        self._started = time.monotonic()
        self.records_streamed = 0
        self.last_sequence_number = ""
        self._trigger_lag_ms_max = 0
        self._replica_lag_ms_max = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()
        await self._channel.close()

    async def count_stream(self) -> None:
        """Read the table's stream as an ordinary subscriber would, until cancelled."""
        async with aclosing(self._client.tail(self._table_name, start="TRIM_HORIZON")) as batches:
            async for batch in batches:
                self.records_streamed += len(batch.records)
                self.last_sequence_number = batch.records[-1].sequence_number

    async def print_lines(self) -> None:
        """Print a line a second until cancelled. Raises ChildFailedError when a child process ends."""
        written_before, time_before = self._changes_written(), time.monotonic()
        while True:
            await asyncio.sleep(LINE_INTERVAL_S)
            progress = await self.progress()
            written, now = self._changes_written(), time.monotonic()
            self._print_line(progress, written, (written - written_before) / (now - time_before))
            written_before, time_before = written, now

    def print_headings(self) -> None:
        """Print what the columns mean."""
        for headings in _HEADINGS:
            click.echo(_LINE.format(*headings).rstrip())

    async def print_summary(self) -> None:
        """Print what has come of it all, and how large the lags were at most."""
        progress = await self.progress()
        click.echo(f"  {self.records_streamed:,} records streamed to a subscriber")
        click.echo(
            f"  {progress.records_handled:,} records handled by the trigger in {progress.invocations:,} invocations,"
            f" at most {self._trigger_lag_ms_max:,} ms behind"
        )
        click.echo(
            f"  {progress.items_copied:,} items copied and {progress.records_followed:,} records followed by the"
            f" replica, at most {self._replica_lag_ms_max:,} ms behind"
        )

    async def caught_up(self, changes: int) -> None:
        """Return when so many changes are streamed, handled by the trigger and applied to the replica.

        Raises TimeoutError if nothing moves for a minute.
        """
        seen: object = None
        stalled_at = time.monotonic() + STALLED_AFTER_S
        while True:
            progress = await self.progress()
            is_streamed = self.records_streamed >= changes
            # The trigger's counts are reported a moment after its checkpoint; at least once means: not fewer.
            is_handled = progress.records_handled >= changes
            if (
                is_streamed
                and is_handled
                and progress.handled_sequence_number >= self.last_sequence_number
                and progress.followed_sequence_number >= self.last_sequence_number
            ):
                return
            now = time.monotonic()
            if seen != (self.records_streamed, progress):
                seen, stalled_at = (self.records_streamed, progress), now + STALLED_AFTER_S
            if now > stalled_at:
                raise TimeoutError(
                    f"nothing moved for {STALLED_AFTER_S:.0f} s; the trigger says {progress.trigger_result!r},"
                    f" the replica {progress.replica_error!r}: {progress}"
                )
            await asyncio.sleep(POLL_INTERVAL_S)

    async def progress(self) -> Progress:
        """How far everything is now. Raises ChildFailedError if a child process has ended."""
        for child in self._children:
            child.check()
        trigger, (handled_sequence_number, trigger_lag_ms), replica = await asyncio.gather(
            self._describe_trigger(), self._trigger_position(), self._describe_replica()
        )
        self._trigger_lag_ms_max = max(self._trigger_lag_ms_max, trigger_lag_ms)
        self._replica_lag_ms_max = max(self._replica_lag_ms_max, replica.replication_lag_ms)
        followed_sequence_number = replica.last_applied_sequence_number
        if not followed_sequence_number and replica.status == replication_service_pb2.REPLICA_STATUS_ACTIVE:
            # A replica whose copy is complete and that had nothing to follow yet.
            followed_sequence_number = replica.snapshot_sequence_number
        return Progress(
            records_handled=trigger.counts.records,
            invocations=trigger.counts.invocations,
            trigger_lag_ms=trigger_lag_ms,
            handled_sequence_number=handled_sequence_number,
            items_copied=replica.items_copied,
            records_followed=replica.records_applied,
            replica_lag_ms=replica.replication_lag_ms,
            followed_sequence_number=followed_sequence_number,
            trigger_result=trigger.last_processing_result,
            replica_error=replica.last_error,
        )

    async def _describe_trigger(self) -> trigger_service_pb2.TriggerDescription:
        request = trigger_service_pb2.DescribeTriggerRequest(trigger_name=self._trigger_name)
        try:
            response = await self._triggers.DescribeTrigger(request, timeout=UNARY_TIMEOUT_S)
        except grpc.RpcError as error:
            raise errors.from_rpc(error) from error
        return response.trigger

    async def _trigger_position(self) -> tuple[str, int]:
        """The trigger's checkpoint, and how old the oldest record is that it has not handled."""
        try:
            group = await self._client.describe_consumer_group(f"trigger:{self._trigger_name}")
        except errors.ResourceNotFoundError:
            # The trigger host has not begun yet.
            return "", 0
        # A shard that has split or merged ends before the last record.
        shards = [shard for shard in group.shards if not shard.shard_end]
        return (
            min((shard.sequence_number or "" for shard in shards), default=""),
            max((shard.millis_behind_latest for shard in shards), default=0),
        )

    async def _describe_replica(self) -> replication_service_pb2.ReplicaProgress:
        """The replica's progress; nothing of all as long as there is no replica."""
        request = replication_service_pb2.DescribeReplicaRequest(replica_name=self._replica_name)
        try:
            response = await self._replication.DescribeReplica(request, timeout=UNARY_TIMEOUT_S)
        except grpc.RpcError as rpc_error:
            error = errors.from_rpc(rpc_error)
            if isinstance(error, errors.ResourceNotFoundError):
                return replication_service_pb2.ReplicaProgress()
            raise error from rpc_error
        return response.replica.progress

    def _print_line(self, progress: Progress, written: int, writes_per_s: float) -> None:
        click.echo(
            _LINE.format(
                f"{time.monotonic() - self._started:.1f} s",
                f"{written:,}",
                f"{writes_per_s:,.0f}",
                f"{self.records_streamed:,}",
                f"{progress.records_handled:,}",
                f"{progress.invocations:,}",
                f"{progress.trigger_lag_ms:,} ms",
                f"{progress.items_copied:,}",
                f"{progress.records_followed:,}",
                f"{progress.replica_lag_ms:,} ms",
            )
        )
