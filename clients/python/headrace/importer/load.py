"""Writes rows into a table and keeps account of what was written, what was refused and where to go on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import aclosing
from typing import TYPE_CHECKING

from headrace._models import Put
from headrace.importer.rows import ReadRow, Rejected

if TYPE_CHECKING:
    from headrace import AsyncClient

__all__ = ["Loader"]


class Loader:
    """Loads rows into one table; the figures are right at any time, also after a failure."""

    def __init__(self, client: AsyncClient, table_name: str, *, on_rejected: Callable[[Rejected], None]) -> None:
        """`on_rejected` is called for each line that could not be read and each item the broker refused."""
        self._client = client
        self._table_name = table_name
        self._on_rejected = on_rejected
        # Lines sent and not answered: as many as the client has in flight.
        self._unanswered: deque[int] = deque()
        self.items_written = 0
        self.lines_rejected = 0

    @property
    def first_unanswered_line(self) -> int | None:
        """After a failure: the line to go on from; what is before it is on disk or was rejected."""
        return self._unanswered[0] if self._unanswered else None

    async def load(self, rows: Iterable[ReadRow]) -> None:
        """Write all rows, in order. What one item is refused for does not stop the others.

        Raises what the connection fails with.
        """
        self._unanswered.clear()
        async with aclosing(self._client.write_items(self._table_name, self._operations(rows))) as results:
            async for result in results:
                line_number = self._unanswered.popleft()
                if result.error is None:
                    self.items_written += 1
                else:
                    self._reject(Rejected(line_number=line_number, reason=f"{result.error.reason}: {result.error}"))

    def _operations(self, rows: Iterable[ReadRow]) -> Iterator[Put]:
        for row in rows:
            if isinstance(row, Rejected):
                self._reject(row)
            else:
                self._unanswered.append(row.line_number)
                yield Put(row.item)

    def _reject(self, rejected: Rejected) -> None:
        self.lines_rejected += 1
        self._on_rejected(rejected)
