"""Servers: socketserver's, with an accept loop that nothing stops and a shutdown that ends in time.

Owns     the listening socket, the accept loop, the registry of what was accepted, and their end.
Never    reads a client's byte in the accepting thread, nor waits there for a client.

``serve_forever``, ``shutdown`` and ``server_close`` are our own: the standard library's poll, hang when
called too early, and wait for handlers for ever. Everything else of socketserver's is in its usual place.
"""

from __future__ import annotations

import errno
import selectors
import socketserver
import ssl
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from .accepting import Backoff, Deputy, Refusals
from .admission import busy_answer, place_of_peer
from .deadline import Deadline
from .ending import NOW, Ending, Stop
from .handler import WebSocketRequestHandler
from .listening import Listening, bar_newcomers
from .threads import Threads
from .tls import check_context, renewed
from .verbs import ConnectionVerbs

__all__ = ["ThreadingWebSocketServer", "WebSocketServer"]

HANDSHAKE = 0.1  # seconds that TCP's handshake may take where a client has begun it before the port is left
TRANSIENT = frozenset(
    getattr(errno, name)  # of one connection, gone before it was accepted (accept(2)): the next may be well
    for name in ("ECONNABORTED", "EPROTO", "ECONNRESET", "EPERM", "EINTR", "ETIMEDOUT", "EHOSTUNREACH", "ENETUNREACH")
    if hasattr(errno, name)
)
WANT = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))  # of what others hold
PATIENCE = 1.0  # seconds that the next has to wait for those to go who have made room for others
ROOM = 16  # how many make room at once then, so that as many can be accepted before there is want again


class WebSocketServer(ConnectionVerbs, Listening, Ending):
    """A server of WebSockets and HTTP that serves one client at a time, in the serving thread.

    For all at once use ThreadingWebSocketServer.

    ``server_address`` is (host, port). Port 0 takes a free one. Host "" or "::" means IPv6 and IPv4
    where the system can, a host with a colon IPv6, any other IPv4, unless a subclass sets
    ``address_family``. In place of the address a socket may be given that is bound or listens already; it is
    the server's to close from then on, and server_bind and server_activate are not called. ``RequestHandlerClass``
    is a WebSocketRequestHandler, or any callable that makes one. With ``ssl_context``
    (ServerSSLContext or any ssl.SSLContext) connections are TLS: the handler does the handshake.

    Leaving the ``with`` block ends listener, connections and handlers within ``shutdown_timeout``.
    """

    #: Connections at once. One more takes the place of whoever has waited longest for a request to come or to be
    #: complete; where nobody does, it is refused with 503. None: no limit.
    max_connections: int | None = None
    #: Connections at once from one IPv4 address or one IPv6 network of 64 bits; more are refused with 503. What comes
    #: through ``trusted_proxies`` (of the RequestHandlerClass) counts where its request says. None: no limit.
    max_connections_per_address: int | None = None

    def __init__(
        self,
        server_address: Any,
        RequestHandlerClass: Callable[..., Any],
        bind_and_activate: bool = True,
        *,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        check_context(ssl_context)
        if ssl_context is not None:
            _check_speaks_tls(RequestHandlerClass)
        self.ssl_context = ssl_context
        self._refusals = Refusals()
        self._backoff = Backoff()
        self._log_lock = threading.Lock()  # guards _logged
        self._logged: dict[str, float] = {}  # when a line of each kind was written last
        super().__init__(server_address, RequestHandlerClass, bind_and_activate)

    # For the caller

    def serve_forever(self, poll_interval: float = 0.5) -> None:
        """Serve until ``shutdown`` is called, or at once if it was called before; return when its work is done.

        ``service_actions`` is called at least every ``poll_interval`` seconds.
        """
        self._begin_serving()
        try:
            with self._selector() as selector:
                while self._stop is None:
                    if pause := self._backoff.left():
                        self._waker.wait(min(pause, poll_interval))
                    elif self._is_ready(selector, poll_interval):
                        self._handle_request_noblock()
                    self._refusals.close_due()
                    self.service_actions()
                self._drain(selector, poll_interval)
        finally:
            self._end_serving()

    def handle_request(self) -> None:
        """Serve one connection; or call ``handle_timeout`` after ``timeout`` seconds, or return when shut down."""
        deadline = Deadline(self.socket.gettimeout() or None).sooner(self.timeout)
        self._begin_serving()
        try:
            with self._selector() as selector:
                while self._stop is None:
                    if self._is_ready(selector, deadline.left()):
                        return self._handle_request_noblock()
                    if deadline.passed():
                        return self.handle_timeout()
        finally:
            self._end_serving()

    def reload_certificate(self) -> None:
        """Read the files of the server's ServerSSLContext anew; connections accepted from now on get what they say.

        Those there are go on as they are. Any thread, any time, also a signal handler. Where a file is missing or not
        what it should be, raises OSError (ssl.SSLError), and all stays as it was. Raises RuntimeError for a context
        that was made by hand: that one knows no files; set ``ssl_context`` to a new one instead.
        """
        self.ssl_context = renewed(self.ssl_context)

    # To be overridden, as in socketserver

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve the connection here; while it lasts, a deputy closes it if the server is shut down."""
        with Deputy(self._phases) as deputy:
            self._appoint(deputy)
            try:
                super().process_request(request, client_address)
            finally:
                self._appoint(None)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Make the handler, which serves the connection."""
        accepted = self.registry.get(request)
        if request.fileno() >= 0 if accepted is None else accepted.begin():
            try:
                super().finish_request(request, client_address)
            except Exception:
                self.registry.counters.count("handler_errors")
                raise

    def shutdown_request(self, request: Any) -> None:
        """Close the socket, unless it is a WebSocket connection's."""
        self.registry.remove(request)
        if request.fileno() < 0:  # the connection has taken it over
            self.close_request(request)
        else:
            super().shutdown_request(request)

    def close_request(self, request: Any) -> None:
        """Close the socket; in the parent of a process that serves it (ForkingMixIn) all that there is to do."""
        self.registry.remove(request)
        super().close_request(request)

    def log_message(self, format: str, *args: Any) -> None:
        """Write a line about the server itself to stderr."""
        moment = time.strftime("%d/%b/%Y %H:%M:%S")
        sys.stderr.write(f"{type(self).__name__} - - [{moment}] {format % args}\n")

    # Accepting

    def _selector(self) -> selectors.BaseSelector:
        if self.fileno() < 0:
            raise ValueError("the server is closed: make another")
        selector = selectors.PollSelector() if hasattr(selectors, "PollSelector") else selectors.SelectSelector()
        selector.register(self, selectors.EVENT_READ)
        selector.register(self._waker, selectors.EVENT_READ)
        return selector

    def _is_ready(self, selector: selectors.BaseSelector, timeout: float | None) -> bool:
        """Wait for a connection; False if there is none in time, or when woken."""
        return self._is_called(selector, timeout) and self._stop is None

    def _is_called(self, selector: selectors.BaseSelector, timeout: float | None) -> bool:
        ready = [key.fileobj for key, _ in selector.select(timeout)]
        if self._waker in ready:
            self._waker.drain()
        return self in ready

    def _handle_request_noblock(self) -> None:
        try:
            request, client_address = self.get_request()
        except OSError as error:
            self._accept_failed(error)
            return
        self._backoff.succeeded()
        if self._barred.is_set():
            self._refuse(request, "the server is shutting down")
            return
        try:
            if not self._admit(request, client_address):
                return
            if self.verify_request(request, client_address):
                self.process_request(request, client_address)
            else:
                self.registry.counters.count_one("refused", "verify_request")
                self.shutdown_request(request)
        except Exception:
            self.handle_error(request, client_address)
            self.shutdown_request(request)
        except BaseException:  # Ctrl-C, perhaps while its thread was being started: that one may be serving it by now
            accepted = self.registry.get(request)
            if accepted is None or accepted.give_up():
                self.shutdown_request(request)
            raise

    def _admit(self, request: Any, client_address: Any) -> bool:
        """Register a connection; or refuse it, and return False."""
        admission, total, limit = self.registry.admission, self.max_connections, self.max_connections_per_address
        place = None if limit is None else place_of_peer(client_address, self.RequestHandlerClass)
        if not admission.enter(place, limit):
            why = f"max_connections_per_address ({limit}) reached"
            self._refuse(request, why, f"{why} by {place}")
        elif total is not None and len(self.registry) - admission.leaving >= total and not self._make_room(PATIENCE):
            admission.leave(place)
            self._refuse(request, f"max_connections ({total}) reached")
        else:
            self.registry.add(request, client_address, place)
            return True
        return False

    def _make_room(self, patience: float = 0, count: int = 1) -> bool:
        """Cut so many that have waited longest for a request; False if nobody does.

        ``patience`` is how many seconds to wait where many that were cut before are still there.
        """
        deadline = Deadline(patience)
        made = sum(self.registry.admission.make_room(deadline) for _ in range(count))
        self.registry.counters.count("gave_way", made)
        if made:
            self._log_seldom("room", "too many connections: those that wait longest for a request are cut")
        return made > 0

    def _accept_failed(self, error: OSError) -> None:
        """Wait a while, or it would fail again at once; unless this says nothing about the next connection."""
        if isinstance(error, BlockingIOError) or error.errno in TRANSIENT:
            return
        self._backoff.failed()
        if error.errno in WANT:
            self._make_room(count=ROOM)
        self._log_seldom("accept", "accepting fails, trying again: %s", error.strerror or error)

    def _refuse(self, request: Any, kind: str, why: str | None = None) -> None:
        """Answer 503 without waiting for anything; over TLS, which cannot be spoken here, only close."""
        self.registry.counters.count_one("refused", kind.partition(" (")[0])
        self._refusals.add(request, busy_answer() if self.ssl_context is None else b"")
        self._log_seldom(kind, "connections are refused: %s", why or kind)

    def _log_seldom(self, kind: str, format: str, *args: Any) -> None:
        """Write one line a minute of each kind."""
        now = time.monotonic()
        with self._log_lock:
            due = now - self._logged.get(kind, -60.0) >= 60
            if due:
                self._logged[kind] = now
        if due:
            self.log_message(format, *args)

    # Beginning and end

    def _disown(self) -> None:
        super()._disown()
        self._refusals.forget()

    def _drain(self, selector: selectors.BaseSelector, poll_interval: float) -> None:
        """While connections may end by themselves, turn newcomers away; but those who may come to another process."""
        stop = self._stop
        if stop is None or stop.drain.passed():
            return
        if self.allow_reuse_port and not self._shared:
            self._leave_port(selector, stop)
        self.registry.start_draining(self._waker.wake)
        self._barred.set()
        while not (self._shared or self._stop is not stop or stop.drain.passed()):
            if self.registry.wait(NOW, leaving=False):
                return
            left = stop.drain.left()
            if self._is_called(selector, poll_interval if left is None else min(left, poll_interval)):
                self._handle_request_noblock()
            self._refusals.close_due()
            self.service_actions()

    def _leave_port(self, selector: selectors.BaseSelector, stop: Stop) -> None:
        """Admit all who have come to our socket of a port that others have too, then close it."""
        bar_newcomers(self.socket)
        moment = Deadline(HANDSHAKE)
        while not stop.drain.passed() and (self._is_called(selector, moment.left()) or not moment.passed()):
            self._handle_request_noblock()
            self._waker.wait(self._backoff.left())
        selector.unregister(self)
        self.socket.close()
        self._shared = True

    def _begin_serving(self) -> None:
        super()._begin_serving()
        if self.socket.fileno() >= 0:
            self.socket.setblocking(False)
        if isinstance(self.socket, ssl.SSLSocket) and self.ssl_context is None:  # the idiom of the standard library
            self.ssl_context = self.socket.context

    def _release(self) -> None:
        super()._release()
        self._refusals.close_all()


class ThreadingWebSocketServer(socketserver.ThreadingMixIn, WebSocketServer):
    """A server of WebSockets and HTTP with a thread for each connection. Otherwise as WebSocketServer."""

    daemon_threads = True
    max_connections = 1000
    #: Seconds that a thread waits for another connection when its own is over, which then finds in ``threading.local``
    #: what the earlier one has left there. 0: each connection has a new thread; None: it waits until the server closes.
    keep_threads: float | None = 1.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._handlers = Threads()
        super().__init__(*args, **kwargs)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Have a thread serve the connection; refuse it where there is none to be had."""
        order = self.process_request_thread, request, client_address
        try:
            self._handlers.call(order, self.daemon_threads, self.keep_threads)
        except (RuntimeError, MemoryError) as error:
            self.registry.remove(request)
            self._make_room()  # for the next
            self._refuse(request, f"no thread to be had ({error})")

    def _forked(self) -> None:
        super()._forked()
        self._handlers.disown()

    def _end_connections(self, stop: Stop, *, leaving: bool = True) -> None:
        super()._end_connections(stop, leaving=leaving)
        self._handlers.dismiss()
        if stop.wait:
            self._handlers.join(self._patience(stop), self.registry.threads_not_awaited(leaving))


def _check_speaks_tls(handler: object) -> None:
    if isinstance(handler, type) and not issubclass(handler, WebSocketRequestHandler):
        raise TypeError(f"ssl_context needs a WebSocketRequestHandler: {handler.__name__} would speak plain text")
