"""How large a response may be, so that readers who do not take theirs cost little and do not slow the others.

A response that its reader does not take stays in memory, and once more as gRPC's copy. So
1. a reader earns its size: a page is at most an eighth of what it has taken before. One that never reads is stuck with
   a small one, one that reads soon has the largest, whatever others do;
2. what all readers have not taken is bounded: a page takes at most a quarter of what is left. This is for those who
   stall after they have read; who has taken more than any client's window is known to read, and keeps a middling size;
3. as long as little is outstanding the first page may be large, for those who ask for no more than that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from broker.streams.tail import PAGE_BYTES_MAX

if TYPE_CHECKING:
    from broker.rpc.status import Context

BUDGET_BYTES: Final = 20 * 1024 * 1024
FIRST_PAGES_BYTES: Final = 3 * 1024 * 1024
PAGE_BYTES_MIN: Final = 16 * 1024
# gRPC's clients let up to about 5 MB come before they hold a server back.
KNOWN_READER_BYTES: Final = 8 * 1024 * 1024
KNOWN_READER_PAGE_BYTES: Final = 64 * 1024
_SHARE: Final = 4
_EARNED_SHARE: Final = 8


class ResponseBudget:
    """What all readers of a node have not taken."""

    def __init__(self) -> None:
        self.outstanding_bytes = 0


class ReaderBudget:
    """The responses with records of one call."""

    __slots__ = ("_all", "_taken_bytes")

    def __init__(self, all_readers: ResponseBudget) -> None:
        self._all = all_readers
        self._taken_bytes = 0

    @property
    def page_bytes_max(self) -> int:
        """How large the next page may be; one record may be larger."""
        outstanding = self._all.outstanding_bytes
        earned = max(self._taken_bytes // _EARNED_SHARE, (FIRST_PAGES_BYTES - outstanding) // _SHARE)
        is_known = self._taken_bytes >= KNOWN_READER_BYTES
        size = max(
            PAGE_BYTES_MIN,
            KNOWN_READER_PAGE_BYTES if is_known else 0,
            min(earned, (BUDGET_BYTES - outstanding) // _SHARE),
        )
        return min(PAGE_BYTES_MAX, size)

    async def write(self, context: Context, response: bytes) -> None:
        """Writes a response; returns when its reader has room for it."""
        size = len(response)
        self._all.outstanding_bytes += size
        try:
            await context.write(response)
            self._taken_bytes += size
        finally:
            self._all.outstanding_bytes -= size
