"""The decorator that makes a function a durable consumer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from inspect import iscoroutinefunction
from typing import Any, Protocol, overload

from headrace._async.consumer_function import AsyncConsumerFunction
from headrace._models import ConsumeOptions
from headrace._sync.consumer_function import ConsumerFunction


class _Decorator(Protocol):
    # An `async def` is a callable too; the order tells them apart.
    @overload
    def __call__(self, function: Callable[[Any], Awaitable[object]], /) -> AsyncConsumerFunction: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, function: Callable[[Any], object], /) -> ConsumerFunction: ...


def consumes(table: str, *, group: str, per_record: bool = False, **options: Any) -> _Decorator:
    """Makes a function a durable consumer of a table's stream; `options` are those of `consume`.

        @headrace.consumes("orders", group="billing")
        def bill(batch): ...

        bill.run(client)

    The function gets each batch or, with `per_record`, each record. An `async def` runs with an AsyncClient.
    """
    given = ConsumeOptions(group=group, **options)

    def decorate(function: Callable[[Any], Any]) -> Any:
        if iscoroutinefunction(function):
            return AsyncConsumerFunction(function, table, given, per_record=per_record)
        return ConsumerFunction(function, table, given, per_record=per_record)

    return decorate
