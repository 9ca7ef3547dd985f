"""Registry: what a server has accepted and not yet ended.

Owns     the list of accepted sockets, the connections among them, and the wait for their end.
Never    calls an accepted socket with the lock held.

The lock may be taken again by the thread that holds it: a signal handler that asks for the shutdown may have
interrupted a thread inside.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .accepted import Accepted
from .admission import Admission
from .counters import Counters, ServerStats
from .deadline import Deadline
from .dump import dump
from .exceptions import Close
from .report import ShutdownReport, look_at

if TYPE_CHECKING:
    from .connection import WebSocketConnection

__all__ = ["GRACE", "Registry"]

GRACE = 0.5  # seconds in which a handler ends whose connection was cut, if it ends at all


class Registry:
    """All that a server has accepted and whose handler has not ended. Thread-safe."""

    def __init__(self) -> None:
        self.admission = Admission()
        self.counters = Counters()  # of what is over; a connection is there or in the list below, never in both
        self._lock = threading.RLock()  # guards all below, every leaving and every given_up
        self._changed = threading.Condition(self._lock)  # only for who waits or notifies: the lock itself is cheaper
        self._awaited = 0  # threads that wait for the end of all
        self._accepted: dict[Any, Accepted] = {}
        self._draining: Callable[[], None] | None = None  # who is told of each end, while connections end by themselves
        self._closing: Close | None = None
        self._moment = Deadline(0)  # that those have to end who were given up: one for all who wait
        self._closed: list[Any] = []  # addresses of those that have ended since one of the two began
        self._cut: list[Any] = []

    def __len__(self) -> int:
        return len(self._accepted)

    def add(self, request: Any, address: Any = None, place: str | None = None) -> None:
        """A socket was accepted, of the client with this address, and counted at this place."""
        accepted = Accepted(request, address, self.admission, place, self.counters)
        self.counters.count("accepted")
        with self._lock:
            self._accepted[request] = accepted
            draining, closing = self._draining, self._closing
        if draining is not None:
            accepted.start_draining()
        if closing is not None:
            accepted.start_closing(closing)

    def get(self, request: Any) -> Accepted | None:
        """Return what is known of an accepted socket, None if nothing is."""
        return self._accepted.get(request)

    def remove(self, request: Any) -> None:
        """The socket's handler has ended, and the socket is about to be closed unless it is a connection's."""
        known = self._accepted.get(request)
        if known is None:
            return
        connection = known.connection
        stats = None if connection is None else connection.stats
        with self._lock:
            accepted = self._accepted.pop(request, None)
            if accepted is not None and stats is not None:
                self.counters.end(stats)
            draining = self._draining
            if accepted is not None and (draining is not None or self._closing is not None):
                outcome = accepted.outcome()
                if outcome is not None:
                    (self._closed if outcome else self._cut).append(accepted.address)
            if self._awaited:
                self._changed.notify_all()
        if accepted is not None:
            accepted.leave()
        if draining is not None:
            draining()

    def connections(self) -> list[WebSocketConnection]:
        """Return the connections there are."""
        return [connection for accepted in self._all() if (connection := accepted._connection) is not None]

    def dump(self, title: str) -> str:
        """Return what is here, and what all threads do, as text."""
        return dump(title, self._all())

    def stats(self) -> ServerStats:
        """Return what has been counted so far, by connections that are over and by those there are."""
        with self._lock:
            stats = self.counters.copy()
            here = list(self._accepted.values())
        stats.sockets_open = len(here)
        for accepted in here:
            if accepted.connection is not None:
                stats.add_open(accepted.connection.stats)
        return stats

    # The end; nothing of this blocks but ``wait``

    def start_draining(self, tell: Callable[[], None]) -> None:
        """Admit only what has been accepted already, until ``reopen``; ``tell()`` is called at the end of each."""
        with self._lock:
            self._draining = tell
        for accepted in self._all():
            accepted.start_draining()

    def start_closing(self, close: Close) -> None:
        """Begin to end all that is here and all that is still to come, until ``reopen``."""
        with self._lock:
            self._closing = close
        for accepted in self._all():
            accepted.start_closing(close)

    def is_closing(self) -> bool:
        """Return whether all is being ended."""
        return self._closing is not None

    def cut(self) -> None:
        """End all that is here now."""
        for accepted in self._all():
            accepted.cut()

    def give_up(self) -> None:
        """All that is here was cut and has not ended: nobody waits for it for long any more."""
        with self._lock:
            stuck = [accepted for accepted in self._accepted.values() if not accepted.given_up]
            for accepted in stuck:
                accepted.given_up = True
            if stuck:
                self._moment = Deadline(GRACE)
            self._changed.notify_all()

    def has_given_up(self) -> bool:
        """Return whether there is anything left that was given up."""
        return any(accepted.given_up for accepted in self._all())

    def reopen(self) -> None:
        """End nothing any more that is still to come."""
        with self._lock:
            self._draining = self._closing = None
            self._closed, self._cut = [], []

    def disown(self) -> None:
        """In the child of a fork: all is the parent's but what this thread serves. No lock: others may hold it."""
        for accepted in list(self._accepted.values()):
            if accepted.thread != threading.get_ident():
                accepted.disown()

    def report(self) -> ShutdownReport:
        """Return what has become of all, and what those do that are still here."""
        with self._lock:
            handlers = [(each.address, each.thread) for each in self._accepted.values() if not each.leaving]
            closed, cut = tuple(self._closed), tuple(self._cut)
        running = look_at([(address, thread) for address, thread in handlers if thread is not None])
        return ShutdownReport(closed, cut, running)

    def leave(self, thread: int) -> bool:
        """The handler in this thread is going to wait for the others; return False if there is no such handler."""
        with self._lock:
            mine = [accepted for accepted in self._accepted.values() if accepted.thread == thread]
            for accepted in mine:
                accepted.leaving = True
            self._changed.notify_all()
            draining = self._draining
        if draining is not None:
            draining()
        return bool(mine)

    def threads_not_awaited(self, leaving: bool) -> set[int | None]:
        """Return the threads whose handlers were given up and, with leaving=False, those that wait for the others."""
        return {each.thread for each in self._all() if each.given_up or each.leaving and not leaving}

    def wait(self, deadline: Deadline, *, leaving: bool = True) -> bool:
        """Wait until all handlers have ended, with leaving=False but those that wait here too; False if too late.

        Those that were given up have a moment to end, from then on.
        """

        def ended(given_up: bool) -> bool:
            return not any(
                (leaving or not each.leaving) and (given_up or not each.given_up) for each in self._accepted.values()
            )

        with self._lock:
            self._awaited += 1
            try:
                if not self._changed.wait_for(lambda: ended(given_up=False), deadline.left()):
                    return False
                self._changed.wait_for(lambda: ended(given_up=True), deadline.sooner(self._moment.left()).left())
                return True
            finally:
                self._awaited -= 1

    def _all(self) -> list[Accepted]:
        with self._lock:
            return list(self._accepted.values())
