"""WebSocketClient: a connection that opens itself (RFC 6455, section 4.1).

Joins dialing.py and opening.py under one deadline. What comes after the handshake is the same on both
sides: connection.py, and hooks.py for those who want to be called.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterable, Mapping, Sequence

from .connection import Role, State, WebSocketConnection
from .deadline import HASTE, Deadline
from .dialing import Attempt, Dialer
from .exceptions import HandshakeError
from .hooks import Hooks
from .opening import Opening, Target, parse_url
from .protocol.closecodes import CloseCode, pack_close
from .protocol.extensions import Extension
from .settings import DEFAULT_COMPRESSION, Settings, check_seconds, shared_settings
from .streams import Link
from .tls import check_context, client_context

__all__ = ["WebSocketClient"]


class WebSocketClient(Hooks, WebSocketConnection):
    """Connect to a WebSocket server; the connection is open when the constructor returns.

        with WebSocketClient("ws://localhost:8000/") as websocket:
            websocket.send("hello")
            print(websocket.recv(timeout=5))

    Or be called with what comes: override the hooks that a handler has too (on_open, on_message, on_close and the
    others), and on_error, and call ``run_forever``:

        class Printer(WebSocketClient):
            def on_message(self, message):
                print(message)

        Printer("ws://localhost:8000/", connect=False).run_forever()

    With ``connect=False`` the constructor only checks its arguments: ``run_forever`` connects, or ``connect`` does,
    and ``close`` and ``abort`` from any thread end that too. Until then the object is like a connection that has ended.

    ``url`` is ws:// or wss://, with a user and password for Basic authentication if need be.
    ``subprotocols`` (names, the most wanted first), ``origin``, ``headers`` (a mapping or pairs) and
    ``cookies`` (a mapping or pairs) go into the request. ``ssl_context``, for wss:// alone, replaces the default
    one, which verifies the server's certificate and name. ``connect_timeout`` (seconds, None for no limit) is
    for everything up to the end of the opening handshake; the addresses of a host are tried in turn.
    ``source_address`` is (host, port) to connect from. ``sock`` is a connected socket to use instead of
    connecting (a Unix socket, say, or an SSLSocket), which is the client's to close from then on; ``unix_path``
    the path of a Unix socket to connect to; the URL still says what is asked for. The rest are the connection's
    settings, as in Settings.

    Raises HandshakeError where the server refuses or answers wrongly, TimeoutError, OSError where it cannot
    be reached (ssl.SSLError where it is not trusted), and TypeError or ValueError, before anything is sent,
    for arguments that make no sense.
    """

    def __init__(
        self,
        url: str,
        *,
        subprotocols: Sequence[str] = (),
        origin: str | None = None,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] | None = None,
        cookies: Mapping[str, str] | Iterable[tuple[str, str]] | None = None,
        ssl_context: ssl.SSLContext | None = None,
        connect_timeout: float | None = 10,
        sock: socket.socket | None = None,
        unix_path: str | None = None,
        source_address: tuple[str, int] | None = None,
        websocket_version: int = 13,
        max_message_size: int | None = Settings.max_message_size,
        max_frame_size: int | None = None,
        max_fragments: int | None = Settings.max_fragments,
        max_queue_size: int | None = Settings.max_queue_size,
        fragment_size: int | None = None,
        compression: Extension | None = DEFAULT_COMPRESSION,
        extensions: Sequence[Extension] = (),
        ping_interval: float | None = Settings.ping_interval,
        ping_timeout: float | None = Settings.ping_timeout,
        send_timeout: float | None = Settings.send_timeout,
        close_timeout: float = Settings.close_timeout,
        tcp_keepalive: float | None = None,
        disable_nagle_algorithm: bool = True,
        connect: bool = True,
    ) -> None:
        self._settings = settings = shared_settings(
            max_message_size,
            max_frame_size,
            max_fragments,
            max_queue_size,
            fragment_size,
            compression,
            extensions,
            ping_interval,
            ping_timeout,
            send_timeout,
            close_timeout,
            tcp_keepalive,
            disable_nagle_algorithm,
        )
        check_seconds("connect_timeout", connect_timeout)
        self._connect_timeout = connect_timeout
        self.url = url  #: as it was given
        target = parse_url(url)
        self._dialer = _make_dialer(target, ssl_context, sock, unix_path, source_address)
        self._opening = Opening(
            target,
            version=websocket_version,
            origin=origin,
            subprotocols=subprotocols,
            headers=headers,
            cookies=cookies,
            extensions=settings.all_extensions,
        )
        self._attempt = Attempt(sock)
        if connect:
            self.connect()
        else:
            self._be_ended()

    def connect(self) -> None:
        """Connect, where the constructor was told not to: once. Raises as the constructor does.

        Raises ConnectionAbortedError (an OSError) where ``close`` or ``abort`` was called meanwhile or before, and
        RuntimeError where it has connected, or tried to.
        """
        attempt = self._attempt
        attempt.begin()
        deadline = Deadline(self._connect_timeout)
        try:
            self._take_over(self._dialer.connect(deadline, attempt), deadline)
        except BaseException as error:
            attempt.failed = True
            if attempt.aborted and isinstance(error, (OSError, HandshakeError)):  # however the socket's end showed
                raise ConnectionAbortedError("aborted here while connecting") from None
            raise

    def _take_over(self, link: Link, deadline: Deadline) -> None:
        """Do the opening handshake, and be the connection."""
        try:
            accepted = self._opening.perform(link, deadline)
            super().__init__(
                link.sock,
                role=Role.CLIENT,
                settings=self._settings,
                response=accepted.head,
                subprotocol=accepted.subprotocol,
                codecs=accepted.codecs,
                received=accepted.rest,
                hooks=self._wanted_events(),
                fragments=self._overrides("on_fragment"),
            )
        except BaseException:
            self._attempt.close(link.sock)
            raise
        try:
            self._attempt.finish()
        except ConnectionAbortedError:
            super().abort()
            raise

    # Being called

    def run_forever(self) -> None:
        """Connect, unless that was done; then call the hooks, until the connection is over. Once.

        All hooks are called in this thread: ``on_open``, then the others for what comes, and last, when the connection
        is over, whoever has ended it and however, ``on_close``. ``close`` and ``abort`` from any thread end it,
        while it is connecting too: then it returns without having called a hook.

        An exception of a hook is given to ``on_error``; then the connection is closed with 1011, ``on_close`` called,
        and the exception raised from here. A failure to connect, likewise, but there is nothing to close then. A
        ConnectionClosed of this connection is no error but its end. What is no Exception, such as
        KeyboardInterrupt, passes ``on_error`` by and closes with 1001.

        Raises RuntimeError when called again.
        """
        self._attempt.claim()
        try:
            if not self._attempt.connected:
                self.connect()
        except Exception as error:
            if isinstance(error, ConnectionAbortedError) and self._attempt.aborted:
                return
            self.on_error(error)
            raise
        code, timeout = CloseCode.GOING_AWAY, min(HASTE, self.settings.close_timeout)
        try:
            code, timeout = self._converse()
        except Exception:
            code, timeout = CloseCode.INTERNAL_ERROR, self.settings.close_timeout
            raise
        finally:
            try:
                self.close(code, timeout=timeout)
            finally:
                self._guard(self._call_on_close)

    def on_error(self, error: Exception) -> None:
        """Called with an exception of another hook, or of connecting, before it is raised from run_forever."""

    @property
    def websocket(self) -> WebSocketConnection:  # type: ignore[override]
        """This connection: as in a handler, so that both sides may share hooks."""
        return self

    def _converse(self) -> tuple[CloseCode, float]:
        """Call the hooks until the end; return with what to close."""
        self._guard(self.on_open)
        self._guard(self._handle_events)
        return CloseCode.NORMAL_CLOSURE, self.settings.close_timeout

    def _handle_events(self) -> None:
        for event in self.events():
            self._handle_event(event)

    def _guard(self, step: Callable[[], None]) -> None:
        """Call code of the application, and tell on_error of its failure."""
        try:
            step()
        except Exception as error:
            if not self._is_end(error):
                self.on_error(error)
                raise

    # Until it is connected

    def _be_ended(self) -> None:
        """Until it is connected, be a connection that is over: so who uses it too early gets ConnectionClosed."""
        ours, theirs = socket.socketpair()
        theirs.close()
        super().__init__(ours, role=Role.CLIENT, settings=self._settings)
        self._cut("not connected yet")
        self.visit_at = None  # the timer need not come

    @property
    def state(self) -> State:
        """Whether the client is CONNECTING (or has still to do so), OPEN, CLOSING or CLOSED."""
        if self._attempt.connected:
            return super().state
        return State.CLOSED if self._attempt.aborted or self._attempt.failed else State.CONNECTING

    def start_close(self, code: int = 1000, reason: str = "") -> None:
        """As inherited; ends the connecting too."""
        if not self._attempt.connected:
            pack_close(code, reason)
            if self._attempt.abort():
                return
        super().start_close(code, reason)

    def close(self, code: int = 1000, reason: str = "", timeout: float | None = None) -> None:
        """As inherited; ends the connecting too."""
        if not self._attempt.connected:
            pack_close(code, reason)
            if self._attempt.abort():
                return
        super().close(code, reason, timeout)

    def abort(self) -> None:
        """As inherited; ends the connecting too."""
        if not self._attempt.abort():
            super().abort()


def _make_dialer(
    target: Target,
    ssl_context: ssl.SSLContext | None,
    sock: socket.socket | None,
    unix_path: str | None,
    source_address: tuple[str, int] | None,
) -> Dialer:
    """Return who makes the stream to where a URL says; raises TypeError or ValueError for what makes no sense."""
    check_context(ssl_context)
    if sock is not None and not isinstance(sock, socket.socket):
        raise TypeError(f"sock must be a socket or None, not {type(sock).__name__}")
    if (sock is not None) + (unix_path is not None) + (source_address is not None) > 1:
        raise ValueError("sock, unix_path and source_address exclude each other: give at most one")
    if not target.secure and ssl_context is not None:
        raise ValueError("ssl_context is for wss:// URLs: a ws:// URL asks for a connection without TLS")
    if target.secure and ssl_context is None:
        ssl_context = client_context()
    return Dialer(target.host, target.port, ssl_context, sock, unix_path, source_address)
