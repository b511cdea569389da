"""How long to wait before trying again, and when to give up."""

from __future__ import annotations

from random import Random
from typing import Final

from headrace.errors import HeadraceError

_RECONNECT_INITIAL_S: Final = 0.1
_RECONNECT_MAX_S: Final = 5.0
# About a quarter of an hour: long enough for a broker to come back, and then someone has to know.
_RECONNECTS_MAX: Final = 240


class Backoff:
    """Delays that double from `initial_s` up to `max_s`, each shortened by up to a half at random.

    The randomness keeps clients that failed together from trying again together.
    """

    def __init__(self, *, initial_s: float, max_s: float, random: Random) -> None:
        self._initial_s = initial_s
        self._max_s = max_s
        self._random = random
        self._ceiling_s = initial_s

    def next_s(self) -> float:
        """The next delay, in seconds."""
        ceiling_s = self._ceiling_s
        self._ceiling_s = min(ceiling_s * 2, self._max_s)
        return ceiling_s * self._random.uniform(0.5, 1.0)

    def reset(self) -> None:
        """Starts again at the shortest delay, after a success."""
        self._ceiling_s = self._initial_s


class Reconnect:
    """Decides whether a lost connection is made again. One that never was is not: the endpoint may be wrong."""

    def __init__(self, random: Random) -> None:
        self._backoff = Backoff(initial_s=_RECONNECT_INITIAL_S, max_s=_RECONNECT_MAX_S, random=random)
        self._remaining = 0

    def connected(self) -> None:
        """Notes that the broker can be reached."""
        self._remaining = _RECONNECTS_MAX

    def progressed(self) -> None:
        """Notes that something has come through: the next loss is a new one, not more of the last."""
        self.connected()
        self._backoff.reset()

    def delay_s(self, error: HeadraceError) -> float:
        """How long to wait before the next try.

        Raises: `error`, when there was no connection or too many tries have failed since.
        """
        if not self._remaining:
            raise error
        self._remaining -= 1
        return self._backoff.next_s()
