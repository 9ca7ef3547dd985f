"""Keepalive: one timer thread for all connections, and the clock of pings and pongs of each.

The timer knows what it visits only by ``visit(now)``, which does what is due without blocking and
returns when (``time.monotonic``) to come again, or None for never. It holds weak references, so a
connection that nobody keeps is not kept by it.
"""

from __future__ import annotations

import atexit
import heapq
import itertools
import logging
import os
import threading
import time
import weakref
from typing import Protocol

__all__ = ["Heartbeat", "Timer", "Visited", "timer"]

THREAD_NAME = "websocketserver-keepalive"
MOST_ENDING = 0.5  # seconds that the end of the interpreter waits for a visit that is under way

logger = logging.getLogger("websocketserver")


class Visited(Protocol):
    """What the timer needs of a connection. ``visit_at`` is the timer's own: when it will come."""

    visit_at: float | None

    def visit(self, now: float) -> float | None:
        """Do what is due at ``now``, without blocking; return when to come again."""

    def disown(self) -> None:
        """In the child of a fork, with one thread: stay with the parent, without a word to the peer."""


class Timer:
    """A daemon thread, started by the first call of ``schedule``, that visits when it is time. Thread-safe."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.RLock()  # guards all below and every visit_at; a signal handler may come back to it
        self._changed = threading.Condition(self._lock)  # only for who waits or notifies: the lock itself is cheaper
        self._heap: list[tuple[float, int, weakref.ref[Visited]]] = []
        self._visiting: weakref.ref[Visited] | None = None  # whoever is not in the heap meanwhile
        self._order = itertools.count()  # so that the heap never compares references
        self._thread: threading.Thread | None = None

    def disown_all(self) -> None:
        """In the child of a fork: leave all to the parent, which has the thread. The locks are as others left them."""
        references = [reference for _, _, reference in self._heap]
        if self._visiting is not None:
            references.append(self._visiting)
        self._reset()
        for reference in references:  # some more than once
            if (visited := reference()) is not None:
                visited.disown()

    def schedule(self, visited: Visited, at: float) -> None:
        """Visit at that time (``time.monotonic``) unless a visit is due before. Never blocks for long."""
        due = visited.visit_at
        if due is not None and due <= at:  # the visit, whose first step is to forget it, is still to come
            return
        with self._lock:
            if visited.visit_at is not None and visited.visit_at <= at:
                return
            visited.visit_at = at
            heapq.heappush(self._heap, (at, next(self._order), weakref.ref(visited)))
            if self._thread is None:
                self._start_locked()
            elif self._heap[0][0] == at:
                self._changed.notify()

    def end(self) -> None:
        """At the end of the interpreter: end the thread, without which no subinterpreter can go.

        Whoever schedules a visit after that starts another.
        """
        with self._changed:
            thread, self._thread = self._thread, None
            self._changed.notify()
        if thread is not None:
            thread.join(MOST_ENDING)

    def _start_locked(self) -> None:
        try:
            self._thread = threading.Thread(target=self._run, name=THREAD_NAME, daemon=True)
            self._thread.start()
        except RuntimeError:  # no thread to be had now: the next call tries again
            self._thread = None

    def _run(self) -> None:
        while self._thread is threading.current_thread():
            visited = self._next_due()
            if visited is None:
                self._forget_gone()
                continue
            try:
                at = visited.visit(time.monotonic())
            except Exception:
                logger.exception("the keepalive timer's visit of %r failed", visited)
                at = None
            if at is not None:
                self.schedule(visited, at)
            del visited  # or a connection would live until the next visit of another

    def _forget_gone(self) -> None:
        """Forget, from the next visit on, those that are gone: else each would cost a wake-up."""
        gone = True
        while gone and self._heap:
            with self._lock:
                visited = self._heap[0][2]()  # let go of without the lock: that may run code of the application
                if gone := visited is None:
                    heapq.heappop(self._heap)

    def _next_due(self) -> Visited | None:
        """Wait for the next visit; None where there turned out to be none, or the end has come."""
        with self._changed:
            while not self._heap or (left := self._heap[0][0] - time.monotonic()) > 0:
                if self._thread is not threading.current_thread():
                    return None
                self._changed.wait(left if self._heap else None)
            at, _, reference = heapq.heappop(self._heap)
            visited = reference()
            if visited is None or visited.visit_at != at:  # gone, or an earlier visit took its place
                return None
            visited.visit_at = None
            self._visiting = reference
            return visited


timer = Timer()
atexit.register(timer.end)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=timer.disown_all)


class Heartbeat:
    """The clock of pings and pongs of one connection; used by the timer's thread alone.

    A Ping leaves every ``interval`` seconds. The peer is dead when one is unanswered for
    ``timeout`` seconds and meanwhile not one byte came and no blocked send went on. None for either
    number turns that part off.
    """

    __slots__ = ("_ping_at", "_progress", "_waiting_since", "interval", "timeout")

    def __init__(self, interval: float | None, timeout: float | None, now: float) -> None:
        self.interval = interval
        self.timeout = timeout
        self._ping_at = None if interval is None else now + interval
        self._waiting_since: float | None = None  # since when nothing has proved that the peer lives
        self._progress = -1

    def ping_due(self, now: float) -> bool:
        """Return whether it is time to send a Ping; if so, it counts as sent."""
        if self.interval is None or self._ping_at is None or now < self._ping_at:
            return False
        self._ping_at = now + self.interval
        if self._waiting_since is None:
            self._waiting_since = now
        return True

    def dead(self, now: float, progress: int, stands: bool) -> bool:
        """Return whether the peer has to be given up.

        ``progress`` grows with every byte received, and with those that a full socket takes; ``stands``
        says that there is input which nobody has read yet: an answer may be in it, so the clock stands.
        """
        if progress != self._progress:
            self._progress = progress
            self._waiting_since = None
        if self._waiting_since is None or self.timeout is None:
            return False
        if stands:
            self._waiting_since = now
        return now - self._waiting_since >= self.timeout

    def next_visit(self) -> float | None:
        """Return when something may be due; None if nothing ever is."""
        if self._waiting_since is None or self.timeout is None:
            return self._ping_at
        dead_at = self._waiting_since + self.timeout
        return dead_at if self._ping_at is None else min(dead_at, self._ping_at)
