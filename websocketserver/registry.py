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
from typing import TYPE_CHECKING, Any, Protocol

from .admission import Admission
from .deadline import Deadline
from .exceptions import Close
from .transport import shutdown

if TYPE_CHECKING:
    from .connection import WebSocketConnection

__all__ = ["Accepted", "Parking", "Registry"]


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

    ``since`` is when it was accepted, or a further request began (``time.monotonic``), ``thread`` which thread
    runs its handler, ``leaving`` whether that handler waits in ``shutdown`` itself. For servers that read request
    heads themselves: ``received`` is what they have read, ``tls`` the socket as they have wrapped it, ``parking``
    where a handler goes instead of waiting. ``admission`` counts it, at ``place``.
    """

    def __init__(self, request: Any, admission: Admission | None = None, place: str | None = None) -> None:
        self.since = time.monotonic()
        self.thread: int | None = None
        self.leaving = False
        self.received = b""
        self.tls: ssl.SSLSocket | None = None
        self.parking: Parking | None = None
        self._admission = admission or Admission()
        self._lock = threading.RLock()  # guards all below; held across shutdown(2), which does not block
        self._place = place
        self._forwarded = False  # the place is that of a request, which has come through a proxy
        self._sock: socket.socket | None = request if isinstance(request, socket.socket) else None
        self._connection: WebSocketConnection | None = None
        self._busy = False
        self._closing: Close | None = None
        self._is_cut = False

    @property
    def connection(self) -> WebSocketConnection | None:
        """The connection, once there is one."""
        return self._connection

    def adopt(self, sock: socket.socket) -> None:
        """The handler has wrapped the socket: this one is to be cut from now on."""
        with self._lock:
            self._sock = sock
            if self._is_cut:
                shutdown(sock, socket.SHUT_RDWR)

    def await_request(self) -> None:
        """The handler waits for a request: if the server shuts down, this is cut at once."""
        with self._lock:
            self._busy = False
            if self._forwarded:
                self._leave_place_locked()
            self._admission.await_request(self)
            if self._closing is not None:
                self._cut_locked()

    def begin_request(self) -> bool:
        """The handler has a request and is going to answer it; return False if the server shuts down."""
        with self._lock:
            self._busy = True
            self._admission.begin_request(self)
            return self._closing is None

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
        if self._sock is not None:
            shutdown(self._sock, socket.SHUT_RDWR)


class Registry:
    """All that a server has accepted and whose handler has not ended. Thread-safe."""

    def __init__(self) -> None:
        self.admission = Admission()
        self._changed = threading.Condition(threading.RLock())  # guards all below and every Accepted.leaving
        self._accepted: dict[Any, Accepted] = {}
        self._closing: Close | None = None

    def __len__(self) -> int:
        return len(self._accepted)

    def add(self, request: Any, place: str | None = None) -> None:
        """A socket was accepted, and counted at this place."""
        accepted = Accepted(request, self.admission, place)
        with self._changed:
            self._accepted[request] = accepted
            closing = self._closing
        if closing is not None:
            accepted.start_closing(closing)

    def get(self, request: Any) -> Accepted | None:
        """Return what is known of an accepted socket, None if nothing is."""
        with self._changed:
            return self._accepted.get(request)

    def remove(self, request: Any) -> None:
        """The socket's handler has ended, and the socket is about to be closed unless it is a connection's."""
        with self._changed:
            accepted = self._accepted.pop(request, None)
            self._changed.notify_all()
        if accepted is not None:
            accepted.leave()

    def connections(self) -> list[WebSocketConnection]:
        """Return the connections there are."""
        return [accepted.connection for accepted in self._all() if accepted.connection is not None]

    def start_closing(self, close: Close) -> None:
        """Begin to end all that is here and all that is still to come, until ``reopen``. Never blocks."""
        with self._changed:
            self._closing = close
        for accepted in self._all():
            accepted.start_closing(close)

    def reopen(self) -> None:
        """End nothing any more that is still to come."""
        with self._changed:
            self._closing = None

    def cut(self) -> None:
        """End all that is here now. Never blocks."""
        for accepted in self._all():
            accepted.cut()

    def leave(self, thread: int) -> bool:
        """The handler in this thread is going to wait for the others; return False if there is no such handler."""
        with self._changed:
            mine = [accepted for accepted in self._accepted.values() if accepted.thread == thread]
            for accepted in mine:
                accepted.leaving = True
            self._changed.notify_all()
            return bool(mine)

    def leaving_threads(self) -> set[int | None]:
        """Return the threads whose handlers wait for the others."""
        return {accepted.thread for accepted in self._all() if accepted.leaving}

    def wait(self, deadline: Deadline, *, leaving: bool = True) -> bool:
        """Wait until all handlers have ended, with leaving=False but those that wait here too; False if too late."""
        with self._changed:
            return self._changed.wait_for(
                lambda: not any(leaving or not accepted.leaving for accepted in self._accepted.values()),
                deadline.left(),
            )

    def _all(self) -> list[Accepted]:
        with self._changed:
            return list(self._accepted.values())
