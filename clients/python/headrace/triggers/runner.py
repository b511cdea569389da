"""Runs one trigger as long as it stays as it is: code, worker, consumer session, reports, and all their failures."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import tempfile
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Final, cast

import grpc
import grpc.aio

from headrace import errors
from headrace._backoff import Backoff
from headrace._channel import ENDPOINT_VARIABLE, UNARY_TIMEOUT_S
from headrace.consumer import ConsumerSession
from headrace.triggers import archive
from headrace.triggers.archive import ArchiveError
from headrace.triggers.deliver import Deliverer
from headrace.triggers.function import Function, wall_clock_us
from headrace.triggers.function_spec import FunctionSpec
from headrace.triggers.log_capture import log_line
from headrace.triggers.report import Reporter
from headrace.v1 import consumer_service_pb2, trigger_service_pb2_grpc
from headrace.v1 import trigger_service_pb2 as pb

if TYPE_CHECKING:
    from headrace.v1.trigger_service_pb2_grpc import TriggerServiceAsyncStub

# Between two tries to reach the broker, the stream or the code.
RECONNECT_INITIAL_S: Final = 0.2
RECONNECT_MAX_S: Final = 15.0

# AWS: most records in one GetRecords response; the broker's own bound of a delivery.
_DELIVERY_RECORDS_MAX: Final = 1_000
# The credit of a session: enough to form the next batches while the function works on this one. It also bounds what a
# trigger holds in memory.
_IN_FLIGHT_BATCHES: Final = 4
_IN_FLIGHT_RECORDS_MAX: Final = 100_000
_IN_FLIGHT_BYTES_MAX: Final = 16 * 1024 * 1024
# A shard that is to move to another host does so as soon as the calls for what was delivered of it are done. As long as
# the broker allows: a call that outlives its lease would put old changes over newer ones.
_REVOKE_TIMEOUT_S: Final = 300
# As in Lambda, a batch that fails is tried for ever.
_ATTEMPTS_UNBOUNDED: Final = 0

_LOGGER: Final = logging.getLogger(__name__)


class StaleCodeError(Exception):
    """The code fetched is not the code that the trigger's description names: it was replaced in between."""


# These heal by themselves: the broker comes back, another host goes on, the new description arrives. They are no
# problem of the trigger.
_PASSING_ERRORS: Final = (
    errors.UnavailableError,
    errors.DeadlineExceededError,
    errors.LeaseFencedError,
    StaleCodeError,
)


class TriggerRunner:
    """Runs a trigger from start() to stop(). What fails outside the function is tried again, with growing delays."""

    def __init__(
        self,
        trigger: pb.TriggerDescription,
        channel: grpc.aio.Channel,
        *,
        endpoint: str,
        work_folder: Path,
        random: Random,
    ) -> None:
        self._trigger = trigger
        self._channel = channel
        self._stub = trigger_stub(channel)
        self._endpoint = endpoint
        self._work_folder = work_folder
        self._random = random
        self._reporter = Reporter(trigger.trigger_name, self._send_report, random=random)
        self._deliverer: Deliverer | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to run the trigger in the background."""
        self._task = asyncio.create_task(self._run(), name=f"trigger {self._trigger.trigger_name}")

    @property
    def is_running(self) -> bool:
        """Whether it still runs. Without stop() it ends when its trigger is deleted, or gets no temporary folder."""
        return self._task is not None and not self._task.done()

    async def stop(self, grace_s: float) -> None:
        """Ends everything. A call of the function that is running gets `grace_s` to finish and is then acked.

        Cancelled, it ends the call at once.
        """
        task, self._task = self._task, None
        if task is None:
            return
        try:
            if self._deliverer is not None and self._deliverer.is_busy:
                self._deliverer.stop_after_call()
                await asyncio.wait({task}, timeout=grace_s)
        finally:
            task.cancel()
            await asyncio.wait({task})
            if not task.cancelled() and task.exception() is not None:
                _LOGGER.error("a trigger broke trigger=%s", self._trigger.trigger_name, exc_info=task.exception())

    async def _run(self) -> None:
        async with self._reporter:
            with tempfile.TemporaryDirectory(prefix=f"{self._trigger.trigger_name}-", dir=self._work_folder) as folder:
                await self._run_until_stopped(Path(folder))

    async def _run_until_stopped(self, code_dir: Path) -> None:
        backoff = Backoff(initial_s=RECONNECT_INITIAL_S, max_s=RECONNECT_MAX_S, random=self._random)
        function: Function | None = None
        deliverer: Deliverer | None = None
        try:
            while True:
                batches_done = 0 if deliverer is None else deliverer.batches_done
                try:
                    # A session of a trigger that is gone would make its consumer group anew.
                    if not await self._exists():
                        return
                    if deliverer is None:
                        environment = await self._fetch_code(code_dir)
                        spec = self._function_spec(code_dir, environment)
                        function = Function(spec, self._reporter.add_line, random=self._random)
                        deliverer = Deliverer(function, self._reporter, batch_size=self._trigger.batch_size)
                        self._deliverer = deliverer
                    async with self._open_session() as session:
                        await deliverer.run(session)
                except Exception as error:  # noqa: BLE001 - whatever is wrong with one trigger, the others go on
                    self._note_problem(error)
                else:
                    return
                if deliverer is not None and deliverer.batches_done > batches_done:
                    backoff.reset()
                await asyncio.sleep(backoff.next_s())
        finally:
            if function is not None:
                await function.close()

    def _open_session(self) -> ConsumerSession:
        position = consumer_service_pb2.StartingPosition.Name(self._trigger.starting_position)
        batch_size = self._trigger.batch_size
        return ConsumerSession(
            self._channel,
            stream_arn=self._trigger.event_source_arn,
            group_name=f"trigger:{self._trigger.trigger_name}",
            member_name=f"{socket.gethostname()}:{os.getpid()}"[:128],
            starting_position=position.removeprefix("STARTING_POSITION_"),
            max_batch_records=min(batch_size, _DELIVERY_RECORDS_MAX),
            max_in_flight_records=min(batch_size * _IN_FLIGHT_BATCHES, _IN_FLIGHT_RECORDS_MAX),
            max_in_flight_bytes=_IN_FLIGHT_BYTES_MAX,
            assignment_mode="SHARED",
            max_attempts=_ATTEMPTS_UNBOUNDED,
            revoke_timeout_s=_REVOKE_TIMEOUT_S,
        )

    async def _exists(self) -> bool:
        request = pb.DescribeTriggerRequest(trigger_name=self._trigger.trigger_name)
        try:
            await self._stub.DescribeTrigger(request, timeout=UNARY_TIMEOUT_S)
        except grpc.RpcError as rpc_error:
            error = errors.from_rpc(rpc_error)
            if isinstance(error, errors.ResourceNotFoundError):
                return False
            raise error from rpc_error
        return True

    async def _fetch_code(self, code_dir: Path) -> Mapping[str, str]:
        """Unpacks the function's code; returns its environment, which only hosts are told."""
        try:
            response = await self._stub.GetTriggerCode(
                pb.GetTriggerCodeRequest(trigger_name=self._trigger.trigger_name), timeout=UNARY_TIMEOUT_S
            )
        except grpc.RpcError as error:
            raise errors.from_rpc(error) from error
        if archive.sha256(response.code) != self._trigger.function.code_sha256:
            raise StaleCodeError("the code was replaced while it was fetched")
        await asyncio.to_thread(archive.unpack, response.code, code_dir)
        return response.environment

    def _function_spec(self, code_dir: Path, environment: Mapping[str, str]) -> FunctionSpec:
        function = self._trigger.function
        # arn:aws:dynamodb:REGION:ACCOUNT:table/NAME/stream/LABEL
        _, _, _, region, account, _ = self._trigger.event_source_arn.split(":", 5)
        return FunctionSpec(
            name=self._trigger.trigger_name,
            arn=f"arn:aws:lambda:{region}:{account}:function:{self._trigger.trigger_name}",
            region=region,
            handler=function.handler,
            code_dir=code_dir,
            # A function that uses the client finds the broker it was triggered by.
            environment={ENDPOINT_VARIABLE: self._endpoint} | dict(environment),
            timeout_s=function.timeout_seconds,
            memory_size_mb=function.memory_size_mb,
        )

    def _note_problem(self, error: Exception) -> None:
        name = self._trigger.trigger_name
        if isinstance(error, _PASSING_ERRORS):
            _LOGGER.warning("a trigger lost its stream trigger=%s reason=%s", name, error)
            return
        if isinstance(error, errors.HeadraceError | ArchiveError | OSError):
            _LOGGER.warning("a trigger cannot run trigger=%s reason=%s", name, error)
        else:
            _LOGGER.error("a trigger met a defect of this host trigger=%s", name, exc_info=error)
        text = f"PROBLEM: {str(error) or type(error).__name__}"
        self._reporter.add_problem(text)
        self._reporter.add_line(log_line(wall_clock_us(), text))

    async def _send_report(self, request: pb.ReportInvocationsRequest) -> None:
        try:
            await self._stub.ReportInvocations(request, timeout=UNARY_TIMEOUT_S)
        except grpc.RpcError as error:
            raise errors.from_rpc(error) from error


def trigger_stub(channel: grpc.aio.Channel) -> TriggerServiceAsyncStub:
    """The stub of TriggerService for asyncio."""
    return cast("TriggerServiceAsyncStub", trigger_service_pb2_grpc.TriggerServiceStub(channel))
