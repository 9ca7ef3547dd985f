"""Accepted: one accepted socket, and how far its handler has got.

Never    closes a descriptor: it cuts, and the owner closes. Never calls a connection with its lock held.

The lock may be taken again by the thread that holds it: a signal handler that asks for the shutdown may have
interrupted a thread inside.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from typing import TYPE_CHECKING, Any, Protocol

from .admission import Admission
from .counters import Counters
from .exceptions import Close
from .transport import shutdown

if TYPE_CHECKING:
    from .connection import WebSocketConnection

__all__ = ["Accepted", "Parking"]


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
            if self._place is not None:
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
