"""The trigger host: runs every enabled trigger of a broker, and follows what is created, changed and deleted.

It keeps nothing that matters: which triggers there are, their code and how far they have come is all with the broker.
So it may be killed at any time, and several may run: they share the shards of a trigger's stream, and whoever has none
stands by.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Final

import grpc
import grpc.aio

from headrace import errors
from headrace._backoff import Backoff
from headrace._channel import UNARY_TIMEOUT_S, open_async_channel, resolve_endpoint
from headrace.triggers.peer_user import can_tell_users
from headrace.triggers.runner import TriggerRunner, trigger_stub
from headrace.triggers.work_folder import work_folder
from headrace.v1 import trigger_service_pb2 as pb

# How soon a change of a trigger is noticed.
POLL_INTERVAL_S: Final = 1.0
POLL_RETRY_MAX_S: Final = 5.0

# What the calls that run get to finish when the host is to end. With a broker that does not answer, leaving the group
# and the last report take four seconds more, and Docker kills after ten.
SHUTDOWN_GRACE_S: Final = 5.0

# The longest a function may run (AWS Lambda quotas: 900 seconds), and so the longest a replaced trigger is waited for.
_CALL_S_MAX: Final = 900.0

_LOGGER: Final = logging.getLogger(__name__)


class TriggerHost:
    """Runs the triggers of the broker at an endpoint.

    `on_ready` is called once, when the broker has first told which triggers there are.
    """

    def __init__(
        self, endpoint: str | None = None, *, random: Random, on_ready: Callable[[], None] = lambda: None
    ) -> None:
        self._endpoint = resolve_endpoint(endpoint)
        self._random = random
        self._on_ready = on_ready
        self._stopping = asyncio.Event()
        # By name: the trigger as it was when its runner began, and the runner.
        self._running: dict[str, tuple[bytes, TriggerRunner]] = {}
        # Runners that end because their trigger was changed, disabled or deleted; a name is free again when it is done.
        self._ending: dict[str, asyncio.Task[None]] = {}

    def stop(self) -> None:
        """Makes run() finish: calls that run are completed and acked, or cut off after five seconds."""
        self._stopping.set()

    async def run(self) -> None:
        """Runs triggers until stop(). A broker that is away, now or later, is waited for."""
        if not can_tell_users():
            _LOGGER.warning(
                "the system does not tell whose a connection is: any user of the machine can take events from workers"
            )
        with work_folder() as folder:
            async with open_async_channel(self._endpoint) as channel:
                await self._run(channel, folder)

    async def _run(self, channel: grpc.aio.Channel, folder: Path) -> None:
        polling = asyncio.create_task(self._poll(channel, folder), name="poll triggers")
        stopping = asyncio.create_task(self._stopping.wait(), name="wait for stop")
        try:
            await asyncio.wait({polling, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if polling.done():
                # It goes on until it is cancelled: this raises what broke it.
                polling.result()
        finally:
            polling.cancel()
            stopping.cancel()
            await asyncio.wait({polling, stopping})
            await self._end_all()

    async def _poll(self, channel: grpc.aio.Channel, folder: Path) -> None:
        backoff = Backoff(initial_s=POLL_INTERVAL_S / 4, max_s=POLL_RETRY_MAX_S, random=self._random)
        is_ready = False
        while True:
            try:
                triggers = await self._list_triggers(channel)
            except errors.HeadraceError as error:
                _LOGGER.warning("cannot list triggers endpoint=%s reason=%s", self._endpoint, error)
                await asyncio.sleep(backoff.next_s())
                continue
            backoff.reset()
            self._follow(triggers, channel, folder)
            if not is_ready:
                is_ready = True
                self._on_ready()
            await asyncio.sleep(POLL_INTERVAL_S)

    def _follow(self, triggers: list[pb.TriggerDescription], channel: grpc.aio.Channel, folder: Path) -> None:
        """Makes what runs equal to what is enabled."""
        enabled = {trigger.trigger_name: trigger for trigger in triggers if trigger.state == pb.TRIGGER_STATE_ENABLED}
        for name, (identity, runner) in list(self._running.items()):
            if name in enabled and _identity(enabled[name]) == identity and runner.is_running:
                continue
            _LOGGER.info("a trigger ends trigger=%s", name)
            del self._running[name]
            self._ending[name] = asyncio.create_task(runner.stop(_CALL_S_MAX), name=f"end of trigger {name}")
        for name, task in list(self._ending.items()):
            if task.done():
                del self._ending[name]
        for name, trigger in enabled.items():
            # The old runner of a changed trigger still holds its stream until its last call is acked.
            if name in self._running or name in self._ending:
                continue
            _LOGGER.info("a trigger begins trigger=%s batch_size=%d", name, trigger.batch_size)
            runner = TriggerRunner(trigger, channel, endpoint=self._endpoint, work_folder=folder, random=self._random)
            runner.start()
            self._running[name] = (_identity(trigger), runner)

    async def _list_triggers(self, channel: grpc.aio.Channel) -> list[pb.TriggerDescription]:
        stub = trigger_stub(channel)
        triggers: list[pb.TriggerDescription] = []
        page_token: str | None = None
        while True:
            try:
                response = await stub.ListTriggers(
                    pb.ListTriggersRequest(page_token=page_token), timeout=UNARY_TIMEOUT_S
                )
            except grpc.RpcError as error:
                raise errors.from_rpc(error) from error
            triggers.extend(response.triggers)
            page_token = response.next_page_token
            if not page_token:
                return triggers

    async def _end_all(self) -> None:
        stops = [runner.stop(SHUTDOWN_GRACE_S) for _, runner in self._running.values()]
        ends = [asyncio.wait_for(task, SHUTDOWN_GRACE_S) for task in self._ending.values()]
        self._running.clear()
        self._ending.clear()
        for outcome in await asyncio.gather(*stops, *ends, return_exceptions=True):
            # A TimeoutError is a call that was cut off: its batch comes again.
            if isinstance(outcome, Exception) and not isinstance(outcome, TimeoutError):
                raise outcome


def _identity(trigger: pb.TriggerDescription) -> bytes:
    """Equal as long as the trigger need not be started anew. What it has done so far does not count."""
    kept = pb.TriggerDescription()
    kept.CopyFrom(trigger)
    kept.ClearField("counts")
    kept.ClearField("last_processing_result")
    return kept.SerializeToString(deterministic=True)
