"""Deadline: one moment in time, shared by all the steps of one operation."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["HASTE", "Deadline"]

HASTE = 0.7  # seconds for goodbyes where the program is being ended: all is to be over one second after Ctrl-C

LONGEST = 1_000_000  # seconds (eleven days); what the system can wait for is not much more


class Deadline:
    """A moment in the future; made once at the public method and handed down.

    ``seconds`` is a float, or None for never; more than a million seconds are never too.
    Immutable, hence safe in any thread.
    """

    __slots__ = ("_clock", "at")

    def __init__(self, seconds: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.at = None if seconds is None or not seconds <= LONGEST else clock() + seconds

    def left(self) -> float | None:
        """Return the seconds left, never negative; None if there is no limit."""
        return None if self.at is None else max(0.0, self.at - self._clock())

    def passed(self) -> bool:
        """Return whether the moment has come."""
        return self.at is not None and self._clock() >= self.at

    def sooner(self, seconds: float | None) -> Deadline:
        """Return the earlier of this deadline and one in so many seconds."""
        other = Deadline(seconds, self._clock)
        if other.at is None or (self.at is not None and self.at <= other.at):
            return self
        return other
