"""Deadline: one moment in time, shared by all the steps of one operation."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

__all__ = ["HASTE", "MAIN_THREAD", "Deadline", "in_main_thread"]

MAIN_THREAD = threading.main_thread().ident
LOOK_UP = 0.2  # seconds that the main thread waits at once

HASTE = 0.7  # seconds for goodbyes where the program is being ended: all is to be over one second after Ctrl-C

LONGEST = 1_000_000  # seconds (eleven days); what the system can wait for is not much more


def in_main_thread() -> bool:
    """Return whether this is the thread that finds out about signals."""
    return threading.get_ident() == MAIN_THREAD


def _forked() -> None:
    """In the child of a fork: its only thread is the main one, whichever it was in the parent."""
    global MAIN_THREAD
    MAIN_THREAD = threading.get_ident()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


class Deadline:
    """A moment in the future; made once at the public method and handed down.

    ``seconds`` is a float, or None for never; more than a million seconds are never too.
    Immutable, hence safe in any thread. Raises TypeError for what is no number.
    """

    __slots__ = ("_clock", "at")

    def __init__(self, seconds: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        try:
            self.at = None if seconds is None or not seconds <= LONGEST else clock() + seconds
        except TypeError:
            raise TypeError(f"a time-out must be a number of seconds or None, not {seconds!r}") from None

    def left(self) -> float | None:
        """Return the seconds left, never negative; None if there is no limit."""
        return None if self.at is None else max(0.0, self.at - self._clock())

    def passed(self) -> bool:
        """Return whether the moment has come."""
        return self.at is not None and self._clock() >= self.at

    def one_wait(self) -> Deadline:
        """Return until when to wait at once: this deadline, or in the main thread a moment if that is sooner.

        A signal that comes just before a wait, or to another thread, does not end that wait; and only the main thread,
        between two waits, can find out that it is to raise KeyboardInterrupt.
        """
        return self.sooner(LOOK_UP) if in_main_thread() else self

    def sooner(self, seconds: float | None) -> Deadline:
        """Return the earlier of this deadline and one in so many seconds."""
        other = Deadline(seconds, self._clock)
        if other.at is None or (self.at is not None and self.at <= other.at):
            return self
        return other
