"""How much memory the responses may take that are on their way to their readers.

A response that its reader does not take stays in memory, and once more as gRPC's copy. So each may take a quarter of
what is left of one budget: while few are waiting all are large, which is cheapest; a thousand readers that stall leave
room for small ones, and hold no more than the budget and the least size for each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from broker.streams.tail import PAGE_BYTES_MAX

if TYPE_CHECKING:
    from broker.rpc.status import Context

BUDGET_BYTES: Final = 24 * 1024 * 1024
RESPONSE_BYTES_MIN: Final = 8 * 1024
_SHARE: Final = 4


class ResponseBudget:
    """The responses with records of all calls of a node."""

    def __init__(self) -> None:
        self.outstanding_bytes = 0

    @property
    def page_bytes_max(self) -> int:
        """How large the next page may be; one record may be larger."""
        return min(PAGE_BYTES_MAX, max(RESPONSE_BYTES_MIN, (BUDGET_BYTES - self.outstanding_bytes) // _SHARE))

    async def write(self, context: Context, response: bytes) -> None:
        """Writes a response; returns when its reader has room for it."""
        size = len(response)
        self.outstanding_bytes += size
        try:
            await context.write(response)
        finally:
            self.outstanding_bytes -= size
