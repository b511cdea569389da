# Generated from headrace/_async/consumer_function.py by clients/python/unasync.py; never edited.

"""A function as a durable consumer: sugar over Client.consume. `headrace.consumes` makes it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any, Final

from headrace._models import ConsumeOptions
from headrace._sync.consume import ConsumerBatch, Consumption
from headrace.errors import ValidationError

if TYPE_CHECKING:
    from headrace._sync.client import Client

_LOGGER: Final = logging.getLogger(__name__)

# As much of an error as the broker keeps.
_MESSAGE_LENGTH_MAX: Final = 1_024


class ConsumerFunction:
    """A function that a group's batches, or records one by one, are given to.

    What it returns from is processed, and acked batch by batch. What it raises for is nacked, the record, or the batch
    from its first record on: it comes again later, and is parked with its key after `max_attempts`.
    """

    def __init__(
        self, function: Callable[[Any], object], table: str, options: ConsumeOptions, *, per_record: bool
    ) -> None:
        self._function = function
        self._table = table
        self._options = options
        self._per_record = per_record
        self._running: set[Consumption] = set()

    def __call__(self, argument: Any) -> object:
        """Calls the function itself, as a test does."""
        return self._function(argument)

    def run(self, client: Client) -> None:
        """Consumes as a member of the group, until stop(); what `client.consume` raises ends it too.

        It may run several times at once: then the members share the shards.
        """
        consumption = client._consumption(self._table, self._options)  # noqa: SLF001 - another file of the client
        self._running.add(consumption)
        try:
            with closing(consumption.batches()) as batches:
                for batch in batches:
                    self._process(batch)
        finally:
            self._running.discard(consumption)

    def stop(self) -> None:
        """Lets each run() end after the batch that it is at, and does not wait for that. The function may call it."""
        for consumption in tuple(self._running):
            consumption.stop()

    def _process(self, batch: ConsumerBatch) -> None:
        record = batch.records[0]
        try:
            if self._per_record:
                for record in batch.records:
                    self._function(record)
            else:
                self._function(batch)
        except Exception as error:
            _LOGGER.warning("a consumer function failed group=%s", self._options.group, exc_info=True)
            message = f"{type(error).__name__}: {error}"
            # The function may have acked the batch by itself before it failed; then there is nothing to try again.
            with suppress(ValidationError):
                batch.nack(record, message=message[:_MESSAGE_LENGTH_MAX])
        else:
            batch.ack()
