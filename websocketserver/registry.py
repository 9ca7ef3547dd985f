"""Registry: what a server has accepted and not yet ended, and how far each has got.

Owns     the list of accepted sockets, the connections among them, and the wait for their end.
Never    closes a descriptor: it cuts, and the owner closes. Never calls a connection with a lock held.

The locks may be taken again by the thread that holds them: a signal handler that asks for the
shutdown may have interrupted a thread inside.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from .admission import Admission
from .counters import Counters, ServerStats
from .deadline import Deadline
from .dump import dump
from .exceptions import Close
from .report import ShutdownReport, look_at
from .transport import shutdown

if TYPE_CHECKING:
    from .connection import WebSocketConnection

__all__ = ["GRACE", "Accepted", "Parking", "Registry"]

GRACE = 0.5  # seconds in which a handler ends whose connection was cut, if it ends at all


class Parking(Protocol):
    """Where a handler goes that has nothing to do until its socket can be read."""

    def park(self, handler: Any, unread: bytes) -> None:
        """Keep a handler, with what has been read from the socket already and not been used."""

    def linger(self) -> None:
        """Read and forget what the handler has left unread, for a moment, before the socket is closed."""

    def announce(self) -> None:
        """The handler's connection has something for it that waiting for the socket does not show. Any thread."""


class Accepted:
    """One accepted socket, from accept until its handler has ended. Thread-safe.

    ``address`` is the client's, ``since`` when it was accepted, or a further request began (``time.monotonic``),
    ``thread`` which thread runs its handler, ``leaving`` whether that handler waits in ``shutdown`` itself,
    ``given_up`` whether a shutdown has waited for it in vain. For servers that read request heads themselves:
    ``received`` is what they have read, ``late`` whether time is up for the rest, ``tls`` the socket as they have
    wrapped it, ``parking`` where a handler goes instead of waiting. These are written by whoever serves it, but for
    ``leaving`` and ``given_up``.
    ``admission`` counts it, at ``place``; ``counters`` are where its handler counts what happens.
    """

    __slots__ = ("__dict__", "__weakref__", "thread")  # express.py writes the last

    def __init__(
        self,
        request: Any,
        address: Any = None,
        admission: Admission | None = None,
        place: str | None = None,
        counters: Counters | None = None,
    ) -> None:
        self.address = address
        self.counters = counters or Counters()
        self.since = time.monotonic()
        self.thread: int | None = None
        self.leaving = False
        self.given_up = False
        self.received = b""
        self.late = False
        self.tls: ssl.SSLSocket | None = None
        self.parking: Parking | None = None
        self._admission = admission or Admission()
        self._lock = threading.RLock()  # guards all below; held across shutdown(2), which does not block
        self._place = place
        self._forwarded = False  # the place is that of a request, which has come through a proxy
        self._sock: socket.socket | None = request if isinstance(request, socket.socket) else None
        self._connection: WebSocketConnection | None = None
        self._busy = False  # a request is being answered
        self._fresh = True  # it is, or will be, the first
        self._draining = False
        self._given_up = False
        self._closing: Close | None = None
        self._is_cut = False
        self._interrupted = False  # it was cut while busy

    def begin(self) -> bool:
        """The calling thread is going to serve it; return False if it was given up before that."""
        with self._lock:
            if not self._given_up:
                self.thread = threading.get_ident()
            return not self._given_up

    def give_up(self) -> bool:
        """Nobody is to serve it any more; return False if another thread does already."""
        with self._lock:
            self._given_up = self.thread in (None, threading.get_ident())
            return self._given_up

    @property
    def connection(self) -> WebSocketConnection | None:
        """The connection, once there is one."""
        return self._connection

    @property
    def busy(self) -> bool:
        """Whether a request is being answered."""
        return self._busy

    def adopt(self, sock: socket.socket) -> None:
        """The handler has wrapped the socket: this one is to be cut from now on."""
        with self._lock:
            self._sock = sock
            if self._is_cut:
                shutdown(sock, socket.SHUT_RDWR)

    def outcome(self) -> bool | None:
        """At the end: whether it was a connection that was closed, or anything that was cut; None if it was neither."""
        if self._connection is not None:
            return self._connection.close_code != 1006
        return False if self._interrupted else None

    def await_request(self, again: bool = False) -> None:
        """The handler waits for a request, or again for one: if the server shuts down, this is cut at once."""
        with self._lock:
            self._fresh = not again
            self._busy = False
            if self._forwarded:
                self._leave_place_locked()
            self._admission.await_request(self)
            if not self._admits_locked():
                self._cut_locked()

    def begin_request(self) -> bool:
        """The handler has a request and is going to answer it; return False if the server shuts down."""
        with self._lock:
            self._busy = True
            self._admission.begin_request(self)
            return self._admits_locked()

    def admits(self) -> bool:
        """Return whether the request that was begun is still to be answered; False if the server shuts down."""
        with self._lock:
            return self._admits_locked()

    def _admits_locked(self) -> bool:
        """Return whether a request is answered: a connection's first also while connections end by themselves."""
        return self._closing is None and (self._fresh or not self._draining)

    def settle(self, place: str | None, limit: int) -> bool:
        """The request comes from this place: count it there unless its peer is; False if there are so many there."""
        with self._lock:
            if self._place is not None:
                return True
            if not self._admission.enter(place, limit):
                return False
            self._place, self._forwarded = place, True
            return True

    def upgrade(self, connection: WebSocketConnection) -> None:
        """The socket is the connection's from now on."""
        with self._lock:
            self._sock = None
            self._connection = connection
            closing, is_cut = self._closing, self._is_cut
        if is_cut:
            connection.abort()
        elif closing is not None:
            connection.start_close(*closing)

    def release(self) -> None:
        """The socket is about to be closed: touch it no more."""
        with self._lock:
            self._sock = None

    def disown(self) -> None:
        """In the child of a fork: it is the parent's."""
        if self._sock is not None:
            self._sock.close()

    def leave(self) -> None:
        """The handler has ended."""
        with self._lock:
            self._sock = None
            self._admission.gone(self)
            self._leave_place_locked()

    def give_way(self) -> bool:
        """Cut it for another's sake, if it waits for a request; return whether it did. Never blocks."""
        with self._lock:
            waits = not self._busy and self._connection is None
            if waits:
                self._cut_locked()
            return waits

    def start_draining(self) -> None:
        """Begin to wait for its own end, without blocking: cut what is kept alive for a further request."""
        with self._lock:
            self._draining = True
            if self._connection is None and not self._busy and not self._fresh:
                self._cut_locked()

    def start_closing(self, close: Close) -> None:
        """Begin the end without blocking: close a connection, cut what waits for a request, let an answer finish."""
        with self._lock:
            self._closing = close
            connection = self._connection
            if connection is None and not self._busy:
                self._cut_locked()
        if connection is not None:
            connection.start_close(*close)

    def cut(self) -> None:
        """End it now. Never blocks."""
        with self._lock:
            self._cut_locked()
            connection = self._connection
        if connection is not None:
            connection.abort()

    def _leave_place_locked(self) -> None:
        self._admission.leave(self._place)
        self._place, self._forwarded = None, False

    def _cut_locked(self) -> None:
        self._is_cut = True
        self._interrupted = self._interrupted or self._busy
        if self._sock is not None:
            shutdown(self._sock, socket.SHUT_RDWR)


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
        known = self.get(request)
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
