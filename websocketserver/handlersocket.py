"""The socket of a handler: from accept to its end, or until a connection takes it over.

Owns     TLS, ``rfile`` and ``wfile``, the time that the first head may take, the end of the stream.
Never    knows what is asked for and answered; httphandler.py does.
"""

from __future__ import annotations

import io
import socket
import ssl
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler
from typing import Any, ClassVar

from .accepted import Accepted
from .deadline import Deadline
from .registry import Registry
from .streams import Link, Rate, SocketReader, SocketWriter
from .tls import end_refused, failure, peer_certificate, wrap
from .transport import same_kind

__all__ = ["HandlerSocket"]


class HandlerSocket(BaseHTTPRequestHandler):
    """How a handler comes by its streams, and how they end."""

    #: Seconds for TLS and the first request head, counted from accept, and for each further head from its first byte.
    handshake_timeout: ClassVar[float | None] = 10
    #: Bytes a second in which a request head must come once it has begun, beyond 3 seconds; None: at any rate.
    minimum_rate: ClassVar[float | None] = 500
    disable_nagle_algorithm = True

    #: The client's certificate, as ssl.SSLSocket.getpeercert() gives it (dict), if it was asked for one and verified.
    peer_certificate: Mapping[str, Any] | None = None

    _rfile: Any
    _failed = False  # the TLS handshake: there is nobody to talk to

    def _open_socket(self) -> None:
        """Wrap the socket in TLS if the server has an ssl_context, and make rfile and wfile."""
        registry = getattr(self.server, "registry", None)
        known = registry.get(self.request) if isinstance(registry, Registry) else None
        self._accepted = known or Accepted(self.request)
        self.connection = self.request
        self._link = Link(self.request, self._handshake_limit())
        self._owned: socket.socket | None = None  # made here from the request's descriptor, hence closed here
        self._set_nagle()
        context = getattr(self.server, "ssl_context", None)
        if self._accepted.tls is not None:
            self.connection = self._link.sock = self._accepted.tls
        elif context is not None and not isinstance(self.request, ssl.SSLSocket):
            self._start_tls(context)
        certificate = peer_certificate(self.connection)  # now: later other threads use it
        if certificate is not None:
            self.peer_certificate = certificate
        self._set_reader(self._accepted.received)
        self.wfile = SocketWriter(self._link)

    def _end_socket(self, linger: bool) -> None:
        """End the stream, with ``linger`` where there may be unread input, and close the socket if it was made here."""
        if not self._failed:
            parking = self._accepted.parking
            if linger and parking is not None:
                parking.linger()
            self._link.end(linger and parking is None)
        if self._owned is not None:
            self._accepted.release()
            self._owned.close()

    def _take_socket(self) -> socket.socket:
        """Return the socket for good: whoever has it closes it, and the server finds nothing to close any more."""
        if self._owned is None and not isinstance(self.connection, ssl.SSLSocket):
            request: socket.socket = self.request
            blocking = request.gettimeout() is None
            self._owned = same_kind(request, request.detach())
            if not blocking:
                self._owned.setblocking(False)  # as it is already, but the new object does not know
            self.request = self.connection = self._link.sock = self._owned
        taken: socket.socket = self.connection
        return taken

    def _handshake_limit(self) -> Deadline | Rate:
        if self._accepted.late:
            return Deadline(0)
        timeout = self.handshake_timeout
        left = None if timeout is None else timeout - (time.monotonic() - self._accepted.since)
        return Rate(Deadline(left), self.minimum_rate)

    def _set_nagle(self) -> None:
        try:
            self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, self.disable_nagle_algorithm)
        except OSError:  # not TCP, or gone
            pass

    def _start_tls(self, context: ssl.SSLContext) -> None:
        """Wrap the socket, which takes the descriptor from the request, and do the handshake."""
        self._accepted.await_request()  # whoever dawdles here may be cut, and may have to make room
        try:
            self._owned = wrap(context, self.request, server_side=True)
            self.connection = self._owned
            self._accepted.adopt(self._owned)
            self._link.sock = self._owned
            self._link.handshake()
        except OSError as error:
            self._failed = True
            self._accepted.counters.count("tls_handshakes_failed")
            self.log_error("TLS handshake failed: %s", failure(error))
            if end_refused(self._link.sock, error):
                self._link.discard_rest()

    # Reading

    def _set_reader(self, received: bytes) -> None:
        self._reader = SocketReader(self._link, received)
        self._rfile = None

    @property
    def rfile(self) -> Any:
        """What the client sends, as a buffered file: made when it is first asked for, a WebSocket needs none."""
        if self._rfile is None:
            size = self.rbufsize if self.rbufsize > 1 else io.DEFAULT_BUFFER_SIZE
            self._rfile = io.BufferedReader(self._reader, size)
        return self._rfile

    @rfile.setter
    def rfile(self, file: Any) -> None:
        self._rfile = file

    def _peek(self) -> bytes:
        """Return some of what comes next, waiting for a byte; b"" at the end of the stream."""
        if self._rfile is None:
            return self._reader.look()
        some: bytes = self._rfile.peek(1)
        return some

    def _take_unread(self) -> bytes:
        """Return what has been read from the socket and not been used; ``rfile`` has ended then."""
        self._reader.stop()
        unread = self._reader.look() if self._rfile is None else self._rfile.read()
        self._rfile = None  # it has a large buffer
        return unread
