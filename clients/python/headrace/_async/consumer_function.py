"""A function as a durable consumer: sugar over AsyncClient.consume. `headrace.consumes` makes it."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any, Final

from headrace._async.consume import AsyncConsumerBatch, AsyncConsumption
from headrace._models import ConsumeOptions
from headrace.errors import ValidationError

if TYPE_CHECKING:
    from headrace._async.client import AsyncClient

_LOGGER: Final = logging.getLogger(__name__)

# As much of an error as the broker keeps.
_MESSAGE_LENGTH_MAX: Final = 1_024


class AsyncConsumerFunction:
    """A function that a group's batches, or records one by one, are given to.

    What it returns from is processed, and acked batch by batch. What it raises for is nacked, the record, or the batch
    from its first record on: it comes again later, and is parked with its key after `max_attempts`.
    """

    def __init__(
        self, function: Callable[[Any], Awaitable[object]], table: str, options: ConsumeOptions, *, per_record: bool
    ) -> None:
        self._function = function
        self._table = table
        self._options = options
        self._per_record = per_record
        self._running: set[AsyncConsumption] = set()

    async def __call__(self, argument: Any) -> object:
        """Calls the function itself, as a test does."""
        return await self._function(argument)

    async def run(self, client: AsyncClient) -> None:
        """Consumes as a member of the group, until stop(); what `client.consume` raises ends it too.

        It may run several times at once: then the members share the shards.
        """
        consumption = client._consumption(self._table, self._options)  # noqa: SLF001 - another file of the client
        self._running.add(consumption)
        try:
            async with aclosing(consumption.batches()) as batches:
                async for batch in batches:
                    await self._process(batch)
        finally:
            self._running.discard(consumption)

    async def stop(self) -> None:
        """Lets each run() end after the batch that it is at, and does not wait for that. The function may call it."""
        for consumption in tuple(self._running):
            await consumption.stop()

    async def _process(self, batch: AsyncConsumerBatch) -> None:
        record = batch.records[0]
        try:
            if self._per_record:
                for record in batch.records:
                    await self._function(record)
            else:
                await self._function(batch)
        except Exception as error:
            _LOGGER.warning("a consumer function failed group=%s", self._options.group, exc_info=True)
            message = f"{type(error).__name__}: {error}"
            # The function may have acked the batch by itself before it failed; then there is nothing to try again.
            with suppress(ValidationError):
                await batch.nack(record, message=message[:_MESSAGE_LENGTH_MAX])
        else:
            await batch.ack()
