"""Pooled: one accepted socket of a server with a pool, from accept to its end.

Owns     TLS handshakes, request heads and what is read behind the last answer: stepped, never waited for. What a
         request is about, and all of a WebSocket, is its handler's, the same that other servers have.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any

from .accepted import Accepted
from .connection import State, WebSocketConnection
from .deadline import Deadline
from .handler import WebSocketRequestHandler
from .httphandler import TLS_RECORD, StrictHTTPRequestHandler
from .pool import Pool
from .protocol.closecodes import CloseCode
from .protocol.headers import HeadError, RequestParser
from .server import WebSocketServer
from .streams import LINGER_SIZE, LINGER_TIME, Rate
from .tenancy import Tenant
from .tls import end_refused, failure, wrap
from .transport import DONT_WAIT

__all__ = ["Pooled"]

READ_SIZE = 16 * 1024


class Pooled(Tenant):
    """One accepted socket from accept to its end: TLS handshake, request heads, WebSocket.

    It is the parking of its handler (accepted.Parking).
    """

    __slots__ = ("_accepted", "_connection", "_simple", "away", "gone", "slow")  # what express.py looks at

    def __init__(
        self,
        server: WebSocketServer,
        pool: Pool,
        request: Any,
        client_address: Any,
        serve_apart: Callable[[Pooled], None],
    ) -> None:
        self._server = server
        self._serve_apart = serve_apart  # has a thread of its own call ``serve_apart``
        self._pool = pool
        self._request = request
        self._address = client_address
        self._fileno: int = request.fileno()
        self._accepted: Accepted = server.registry.get(request) or Accepted(request)
        self._accepted.parking = self
        self._sock: socket.socket = request  # what is read: under TLS, the wrapped one
        self._secure = server.ssl_context is None  # no TLS handshake is to be done, or it is done
        self._head = _Head()  # the next request's
        self._lingering: int | None = None  # how much more is read and forgotten before the end
        self._idle = False  # it is kept alive, and nothing of the next head has come
        self._failing = False  # the handler has failed beside its hooks
        self._handler: StrictHTTPRequestHandler | None = None  # while it is parked
        self._upgraded: WebSocketRequestHandler | None = None  # the same, once its connection is a WebSocket
        self._connection: WebSocketConnection | None = None  # that one's
        self._simple: WebSocketRequestHandler | None = None  # the same handler, where express.py may do its turns
        self._rate = _rate(server.RequestHandlerClass, self._accepted.since)  # of the next head
        self.expires = self._rate.deadline.at
        self._flags = DONT_WAIT if self._secure else 0
        self._unblock()
        self._accepted.await_request()

    # For the pool

    def fileno(self) -> int:
        return self._fileno

    def set_polled(self, polled: bool) -> None:
        if self._connection is not None:
            self._connection.set_polled(polled)

    def is_ready(self) -> bool:
        if self._connection is not None:
            return self._connection.is_ready()
        pending = isinstance(self._sock, ssl.SSLSocket) and self._secure and self._sock.pending() > 0
        return pending or self._head.decided

    def is_urgent(self) -> bool:
        return self._connection is None or self._connection.is_ended()

    def attend(self) -> bool:
        if self._connection is not None:
            return self._connection.attend()
        return self._collect()

    def serve(self, error: BaseException | None = None) -> bool:
        self._accepted.thread = threading.get_ident()
        try:
            if self._upgraded is None:
                if self._collect():
                    self._serve_request()
            elif not self._upgraded.serve_ready(error):
                self._end()
        except BaseException as raised:  # what hooks raise has been dealt with
            self._fail(raised)
        finally:
            if not self.gone:
                self._accepted.thread = None
        return not self.gone and self.is_ready()

    def _fail(self, error: BaseException) -> None:
        """Report an error, and see to it that this comes to an end."""
        try:
            if isinstance(error, Exception):
                self._server.handle_error(self._request, self._address)
        finally:
            if self._connection is None:
                self._leave()
            elif self._failing or self._connection.state is State.CLOSED:  # it would only fail again and again
                self._connection.abort()
                self._end()
            else:
                self._failing = True
                self._connection.start_close(CloseCode.INTERNAL_ERROR)

    # Until the upgrade

    def _collect(self) -> bool:
        """Read what is there; return whether the handler is to see it: a whole head, or what will never be one."""
        if self._lingering is not None:
            self._discard()
            return False
        try:
            if not self._secure:
                self._step_handshake()
            while not self._head.decided:
                self._head.add(self._sock.recv(READ_SIZE, self._flags))
            return True
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return self._is_late()
        except OSError as error:
            self._give_up(error)
            return False

    def _step_handshake(self) -> None:
        if self._accepted.tls is None:
            assert self._server.ssl_context is not None
            tls = wrap(self._server.ssl_context, self._request, server_side=True)
            self._sock = self._accepted.tls = tls
            tls.setblocking(False)
            self._accepted.adopt(tls)
        assert isinstance(self._sock, ssl.SSLSocket)
        self._sock.do_handshake()
        self._secure = True

    def _is_late(self) -> bool:
        """There is no whole head yet: return whether the handler is to see that, because time is up."""
        now = time.monotonic()
        if self._head.received:
            if self._idle:  # the first bytes of a further head
                self._idle = False
                self._accepted.since = now
                self._rate = _rate(self._handler, now)
            self._rate.reach(len(self._head.received))
            self._expect_at(self._rate.deadline.at)
        if self.expires is None or now < self.expires:
            return False
        self._accepted.late = self._secure
        if not self._secure:
            self._give_up(TimeoutError("timed out"))
        return self._secure

    def _give_up(self, error: OSError) -> None:
        if not self._secure:
            self._accepted.counters.count("tls_handshakes_failed")
            who = self._address[0] if isinstance(self._address, tuple) else "a client"
            self._server.log_message("%s: TLS handshake failed: %s", who, failure(error))
            if end_refused(self._sock, error):
                self.linger()
        self._leave()

    def _serve_request(self) -> None:
        """Let a handler, new or kept alive, serve the request; then see whether it has parked."""
        received, self._head = self._head.received, _Head()
        self.expires = None
        self._pool.expect(self)
        handler = self._handler
        if handler is None:
            self._accepted.begin_request()  # whoever the handler is
            self._accepted.received = received
            self._server.finish_request(self._request, self._address)
            self._accepted.received = b""
        elif received:
            self._resume(handler, received)
        else:  # idle for long enough, or the peer has left
            self._handler = None
            type(handler).finish(handler)
        if self._handler is None:
            self._leave()
        elif isinstance(self._handler, WebSocketRequestHandler) and self._handler.is_upgraded():
            self._begin_websocket(self._handler)
        else:
            self._unblock()

    def _unblock(self) -> None:
        """Let nothing that is read here wait for the peer."""
        if self._sock.gettimeout() != (None if self._flags else 0.0):
            self._sock.setblocking(bool(self._flags))  # with the flag it does not block in any case

    def _resume(self, handler: StrictHTTPRequestHandler, received: bytes) -> None:
        """Let a handler that was kept alive serve a request; finish it unless it has parked again."""
        if self._idle:  # the head has come as one piece
            self._accepted.since = time.monotonic()
        self._handler = None
        try:
            handler.resume(received)
        except Exception:
            self._accepted.counters.count("handler_errors")
            raise
        finally:
            if self._handler is None:
                type(handler).finish(handler)

    def _expect(self, seconds: float | None) -> None:
        self._expect_at(None if seconds is None else time.monotonic() + seconds)

    def _expect_at(self, moment: float | None) -> None:
        self.expires = moment
        self._pool.expect(self)

    # For the handler

    def park(self, handler: StrictHTTPRequestHandler, unread: bytes) -> None:
        self._handler = handler
        self._head = _Head(unread)
        self._idle = not unread
        if isinstance(handler, WebSocketRequestHandler) and handler.is_upgraded():
            return
        self._accepted.since = time.monotonic()
        if self._idle:
            self._expect(handler.timeout)
        else:
            self._rate = _rate(handler, self._accepted.since)
            self._expect_at(self._rate.deadline.at)

    def linger(self) -> None:
        self._lingering = LINGER_SIZE

    def announce(self) -> None:
        self._pool.announce(self)

    def _leave(self) -> None:
        """The handler has finished: end this, at once unless there may be unread input."""
        if self._lingering is None:
            self._end()
        else:
            self._sock.setblocking(False)
            self._expect(LINGER_TIME)

    def _discard(self) -> None:
        """Read and forget what is there, and end this if it is enough."""
        assert self._lingering is not None
        try:
            while self._lingering > 0 and (data := socket.socket.recv(self._sock, READ_SIZE)):
                self._lingering -= len(data)
        except BlockingIOError:
            if self.expires is None or time.monotonic() < self.expires:
                return
        except OSError:
            pass
        self._end()

    # From the upgrade on

    def _begin_websocket(self, handler: WebSocketRequestHandler) -> None:
        self._accepted.parking = None
        self._accepted.tls = None
        self._accepted.received = b""
        if handler.has_own_loop():
            self._pool.forget(self)
            handler.websocket.unpark()
            self._serve_apart(self)
            return
        self._upgraded, self._connection = handler, handler.websocket
        if self.away:  # and whoever has taken it away may not have seen the connection
            self._connection.set_polled(False)
        handler.serve_open()
        if handler.websocket.is_ready() and not handler.serve_ready():
            self._end()
        elif handler.is_served_simply():
            self._simple = handler

    def serve_apart(self, code: CloseCode | None = None) -> None:
        """Serve the connection to its end, in a thread of its own; with a code, only see it closed."""
        self._accepted.thread = threading.get_ident()
        handler = self._handler
        assert isinstance(handler, WebSocketRequestHandler)
        if code is not None:
            handler.websocket.start_close(code)
        try:
            handler.serve_apart()
        except Exception:
            self._server.handle_error(self._request, self._address)
        finally:
            self._end()

    def _end(self) -> None:
        """Forget the descriptor, then close it."""
        self._pool.forget(self)
        self._accepted.parking = None
        handler, self._handler, self._upgraded = self._handler, None, None
        self._simple = None
        connection = self._accepted.connection
        try:
            if connection is not None:
                connection.unpark()
            if handler is not None:
                type(handler).finish(handler)
        finally:
            self._server.shutdown_request(self._request)
            if connection is None and self._accepted.tls is not None:
                self._accepted.tls.close()


def _rate(handler: object, began: float) -> Rate:
    """Return the limit of a request head that began at this moment; the handler may be any callable."""
    timeout = getattr(handler, "handshake_timeout", StrictHTTPRequestHandler.handshake_timeout)
    minimum = getattr(handler, "minimum_rate", StrictHTTPRequestHandler.minimum_rate)
    return Rate(Deadline(None if timeout is None else timeout - (time.monotonic() - began)), minimum)


class _Head:
    """What has come of a request head, until it is whole or known to be none. ``received`` is all of it."""

    __slots__ = ("_parser", "_unparsed", "decided", "received")

    def __init__(self, received: bytes = b"") -> None:
        self.received = b""
        self.decided = False  # the handler can tell what it is
        self._parser: RequestParser | None = None  # only where the head comes in pieces
        if received:
            self.add(received)

    def add(self, data: bytes) -> None:
        """Take in what has come next, b"" at the end of the stream."""
        self.received += data
        if not data or self._parser is None and (b"\r\n\r\n" in data or data[:1] == TLS_RECORD):
            self.decided = True
            return
        if self._parser is None:
            self._parser, self._unparsed = RequestParser(), bytearray()
        self._unparsed += data
        try:
            self.decided = self._parser.feed(self._unparsed) is not None
        except HeadError:  # the handler will say so
            self.decided = True
