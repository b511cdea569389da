"""How long to wait before trying again."""

from random import Random


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
