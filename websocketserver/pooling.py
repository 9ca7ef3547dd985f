"""PoolingWebSocketServer: any number of connections, a few threads.

A connection that has nothing to say keeps no thread. A pool (pool.py) polls for all of them; it
reads request heads and steps TLS handshakes without blocking, and runs the same handlers as the
other servers, whose hooks may block.
"""

from __future__ import annotations

import os
import socket
import ssl
import threading
import time
from typing import TYPE_CHECKING, Any

from .accepting import Threads
from .handler import WebSocketRequestHandler
from .httphandler import StrictHTTPRequestHandler
from .pool import Pool, Tenant
from .protocol.closecodes import CloseCode
from .protocol.headers import MAX_HEAD, MAX_LINE
from .registry import Accepted
from .server import WebSocketServer

if TYPE_CHECKING:
    from .connection import WebSocketConnection

__all__ = ["PoolingWebSocketServer"]

READ_SIZE = 16 * 1024


class PoolingWebSocketServer(WebSocketServer):
    """A server of WebSockets and HTTP with a few threads for all connections. Otherwise as WebSocketServer.

    Handlers are the same as elsewhere, and their hooks may block: up to ``max_workers`` at once. What
    belongs to one connection is done in order, one thing at a time, but not always by the same thread.
    A handler that overrides ``handle_websocket`` gets a thread of its own.
    """

    max_connections = 10_000
    #: How many hooks and HTTP requests may be under way at once; the others wait for their turn.
    max_workers: int = min(32, (os.cpu_count() or 1) + 4)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._pool: Pool | None = None
        self._pool_lock = threading.Lock()  # guards _pool
        self._apart = Threads()  # of handlers with a loop of their own
        super().__init__(*args, **kwargs)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Leave the connection to the pool; refuse it where there is none to be had."""
        try:
            pool = self._running_pool()
        except (RuntimeError, MemoryError) as error:
            self.registry.remove(request)
            self._refuse(request, f"no thread to be had ({error})")
            return
        pool.add(_Client(self, pool, request, client_address))

    def _running_pool(self) -> Pool:
        with self._pool_lock:
            if self._pool is None:
                pool = Pool(self.max_workers)
                pool.start()
                self._pool = pool
            return self._pool

    def start_apart(self, thread: threading.Thread, handler: WebSocketRequestHandler) -> None:
        """Start a thread that serves one connection; close the connection where there is none to be had."""
        try:
            self._apart.start(thread)
        except (RuntimeError, MemoryError):
            handler.websocket.start_close(CloseCode.TRY_AGAIN_LATER)
            raise

    def _end_connections(self, stop: Any, *, leaving: bool = True) -> None:
        super()._end_connections(stop, leaving=leaving)
        if leaving and stop.wait and not len(self.registry):
            with self._pool_lock:
                pool, self._pool = self._pool, None
            if pool is not None:
                pool.stop(stop.deadline)
            self._apart.join(stop.deadline, set())


class _Client(Tenant):
    """One accepted socket from accept to its end: TLS handshake, request heads, WebSocket."""

    def __init__(self, server: PoolingWebSocketServer, pool: Pool, request: Any, client_address: Any) -> None:
        self._server = server
        self._pool = pool
        self._request = request
        self._address = client_address
        self._fileno: int = request.fileno()
        self._accepted: Accepted = server.registry.get(request) or Accepted(request)
        self._accepted.park = self._park
        self._sock: socket.socket = request  # what is read: under TLS, the wrapped one
        self._secure = server.ssl_context is None  # no TLS handshake is to be done, or it is done
        self._received = b""  # of the next request head
        self._handler: StrictHTTPRequestHandler | None = None  # while it is parked
        self._connection: WebSocketConnection | None = None
        timeout = getattr(server.RequestHandlerClass, "handshake_timeout", StrictHTTPRequestHandler.handshake_timeout)
        self.expires = None if timeout is None else self._accepted.since + timeout
        request.setblocking(False)
        if server.ssl_context is not None:
            self._sock = tls = server.ssl_context.wrap_socket(request, server_side=True, do_handshake_on_connect=False)
            self._accepted.tls = tls
            self._accepted.adopt(tls)

    # For the pool

    def fileno(self) -> int:
        return self._fileno

    def set_polled(self, polled: bool) -> None:
        if self._connection is not None:
            self._connection.set_polled(polled)

    def is_ready(self) -> bool:
        return self._connection is not None and self._connection.is_ready()

    def is_urgent(self) -> bool:
        return self._connection is None

    def attend(self) -> bool:
        return self._collect() if self._connection is None else self._connection.attend()

    def serve(self) -> None:
        self._accepted.thread = threading.get_ident()
        try:
            if self._connection is not None:
                assert isinstance(self._handler, WebSocketRequestHandler)
                if not self._handler.serve_ready():
                    self._end()
            elif self._collect():
                self._serve_request()
        except Exception:  # of the handler's setup or finish: the hooks' are dealt with there
            self._server.handle_error(self._request, self._address)
            self._end()

    # Until the upgrade

    def _collect(self) -> bool:
        """Read what is there; return whether the handler is to see it: a whole head, or what will never be one."""
        late = self.expires is not None and time.monotonic() >= self.expires
        try:
            if not self._secure:
                assert isinstance(self._sock, ssl.SSLSocket)
                self._sock.do_handshake()
                self._secure = True
            while True:
                data = self._sock.recv(READ_SIZE)
                self._received += data
                if not data or _is_decided(self._received):
                    return True
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            if late and not self._secure:
                self._give_up("timed out")
            return late and self._secure
        except OSError as error:
            self._give_up(getattr(error, "reason", None) or error.strerror or str(error))
            return False

    def _give_up(self, reason: str) -> None:
        if not self._secure:
            reason = "plain HTTP" if reason == "HTTP_REQUEST" else reason
            self._server.log_message("%s - TLS handshake failed: %s", self._address, reason)
        self._end()

    def _serve_request(self) -> None:
        """Let a handler, new or kept alive, serve the request; then see whether it has parked."""
        received, self._received = self._received, b""
        handler, self._handler = self._handler, None
        self.expires = None
        if handler is None:
            self._accepted.received = received
            self._server.finish_request(self._request, self._address)
            self._accepted.received = b""
        else:
            handler.resume(received)
        parked = self._parked()
        if parked is None:
            if handler is not None:
                type(handler).finish(handler)
            self._end()
        elif isinstance(parked, WebSocketRequestHandler) and parked.is_upgraded():
            self._begin_websocket(parked)
        else:
            self._await_request(parked)

    def _parked(self) -> StrictHTTPRequestHandler | None:
        return self._handler

    def _park(self, handler: StrictHTTPRequestHandler) -> None:
        self._handler = handler

    def _await_request(self, handler: StrictHTTPRequestHandler) -> None:
        self._sock.setblocking(False)
        if handler.timeout is not None:
            self.expires = time.monotonic() + handler.timeout
            self._pool.expect(self)

    # From the upgrade on

    def _begin_websocket(self, handler: WebSocketRequestHandler) -> None:
        self._accepted.park = None
        self._accepted.tls = None
        if handler.has_own_loop():
            self._pool.forget(self)
            thread = threading.Thread(target=self._serve_apart, args=(handler,), daemon=True)
            self._server.start_apart(thread, handler)
            return
        self._connection = handler.websocket
        self._connection.park(self._announce)
        handler.serve_open()
        if not handler.serve_ready():
            self._end()

    def _announce(self) -> None:
        self._pool.announce(self)

    def _serve_apart(self, handler: WebSocketRequestHandler) -> None:
        """What a thread of its own runs."""
        self._accepted.thread = threading.get_ident()
        try:
            handler.serve_apart()
        finally:
            self._end()

    def _end(self) -> None:
        """Forget the descriptor, then close it."""
        self._pool.forget(self)
        handler, self._handler = self._handler, None
        try:
            if self._connection is not None:
                self._connection.unpark()
            if handler is not None:
                type(handler).finish(handler)
        finally:
            self._server.shutdown_request(self._request)
            if self._accepted.tls is not None:
                self._accepted.tls.close()


def _is_decided(received: bytes) -> bool:
    """Return whether this is a whole request head, or already one that will be refused."""
    return (
        b"\r\n\r\n" in received
        or received.count(b"\n") != received.count(b"\r\n")
        or len(received) - received.rfind(b"\n") > MAX_LINE
        or len(received) > MAX_HEAD
    )
