"""WebSocketRequestHandler: a BaseHTTPRequestHandler whose connections may become WebSockets.

Owns     the hooks and when they are called. What comes before is upgrade.py's; the connection's life is
         connection.py's. One thread runs the whole handler: every hook runs in it, one at a time.

There is no ``__init__``: as in the standard library everything happens while the object is made,
and SimpleHTTPRequestHandler, with an ``__init__`` of its own, may stand behind this class.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from .connection import State, WebSocketConnection
from .deadline import HASTE
from .exceptions import ConnectionClosed
from .express import handle_at_once
from .hooks import Hooks
from .logs import ConnectionLog
from .protocol.closecodes import MAX_REASON, CloseCode
from .protocol.endpoint import Role
from .settings import Settings
from .streams import AfterUpgrade
from .upgrade import Agreement, Upgrading

__all__ = ["WebSocketRequestHandler"]


AFTER_UPGRADE = AfterUpgrade("rfile", "recv()"), AfterUpgrade("wfile", "send(message)")


class WebSocketRequestHandler(Hooks, ConnectionLog, Upgrading):
    """Serve WebSocket connections and, with ``do_GET`` and the like, ordinary HTTP on the same port.

    One object per connection; its attributes are yours. Configure by class attributes, extend by
    overriding, in the order in which they are called:

    - check_host(host), check_origin(origin), authorize(), select_subprotocol(offered), response_headers():
      the handshake
    - on_open()
    - on_message(message) or on_fragment(fragment), on_ping(payload), on_pong(payload)
    - on_close(code, reason): exactly once for each connection that was opened
    - handle_websocket(): the loop that calls those of the third line; override it for one of your own

    An exception in a hook goes to the server's ``handle_error`` and closes this connection with 1011;
    a ConnectionClosed of this connection is a normal end.
    """

    # The connection's: see Settings.
    max_message_size = Settings.max_message_size
    max_frame_size = Settings.max_frame_size
    max_fragments = Settings.max_fragments
    max_queue_size = Settings.max_queue_size
    fragment_size = Settings.fragment_size
    compression = Settings.compression
    extensions = Settings.extensions
    ping_interval = Settings.ping_interval
    ping_timeout = Settings.ping_timeout
    send_timeout = Settings.send_timeout
    close_timeout = Settings.close_timeout
    tcp_keepalive = Settings.tcp_keepalive

    #: What a Router's pattern has matched of the path; None without one.
    match: re.Match[str] | None = None
    #: The connection, from on_open on.
    websocket: WebSocketConnection

    _hooks_over = False  # a hook has failed: the others are not called any more

    def __init_subclass__(cls, **options: Any) -> None:
        """Check the settings of a class where it is defined, and not with its first connection."""
        super().__init_subclass__(**options)
        Settings.check(cls)

    # The connection

    def handle_websocket(self) -> None:
        """Serve the connection; returns when it is over. Override it for a loop of your own.

        Then only on_open and on_close are called for you; the connection is closed on return.
        """
        websocket = self.websocket
        simple = type(websocket) is WebSocketConnection and self.is_served_simply()  # and no stand-in of a test's
        try:
            for event in websocket.events():
                self._handle_event(event)
                if simple and websocket._gathering is None:  # else more has come already
                    self._handle_messages()
        except ConnectionClosed as error:
            if not self._is_end(error):
                raise

    def _handle_messages(self) -> None:
        """Call on_message with what comes, as long as that is simple: as _handle_event."""
        try:
            handle_at_once(self.websocket, self)
        except ConnectionClosed as error:
            if not self._is_end(error):
                raise

    # Overridden of what is inherited

    def finish(self) -> None:
        """End the connection, within its close_timeout, or the HTTP stream."""
        if not self._upgraded:
            super().finish()
        elif self.websocket.state is not State.CLOSED:
            self.websocket.close()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """As inherited; once the connection is a WebSocket, close it with 1011 instead."""
        if not self._upgraded:
            super().send_error(code, message, explain)
            return
        self.log_error("code %d, message %s", code, message)
        reason = (message or "").encode()[:MAX_REASON].decode(errors="ignore")
        self.websocket.start_close(CloseCode.INTERNAL_ERROR, reason)

    def send_response(self, code: int, message: str | None = None) -> None:
        """As inherited; RuntimeError once the connection is a WebSocket."""
        if self._upgraded:
            raise RuntimeError("HTTP ended with the 101: use self.websocket.send(message) or .close(code, reason)")
        super().send_response(code, message)

    # In a pool

    def serve_open(self) -> None:
        """For a pool: call on_open."""
        try:
            self._open()
        except BaseException as error:
            self._hook_failed(error)

    def serve_ready(self, error: BaseException | None = None) -> bool:
        """For a pool: call the hooks for what is here, without waiting for the peer; False once all is over.

        With an error, on_message has been called already, and has raised it.
        """
        if self._end_error is None and not self._hooks_over:
            try:
                if error is not None:
                    self._raise_unless_end(error)
                self.websocket.handle_ready(self._handle_event)
            except BaseException as raised:
                self._hook_failed(raised)
            error = None  # it knows this frame
            if self._end_error is None and not self._hooks_over:
                return True
        websocket = self.websocket
        if not websocket.drain(forget=self._hooks_over):
            return True
        try:
            if websocket.state is not State.CLOSED:
                websocket.close(timeout=0)
        finally:
            self._say_goodbye()
        return False

    def serve_apart(self) -> None:
        """For a pool: what a thread of its own runs for a handler with a loop of its own."""
        self._serve_websocket()

    def is_upgraded(self) -> bool:
        """For a pool: return whether the connection has become a WebSocket."""
        return self._upgraded

    def has_own_loop(self) -> bool:
        """For a pool: return whether the connection needs a thread of its own."""
        return self._overrides("handle_websocket")

    def is_served_simply(self) -> bool:
        """For a pool: return whether serve_ready only calls on_message with each message, as far as we know."""
        kind = type(self)
        return kind.serve_ready is WebSocketRequestHandler.serve_ready and kind._handle_event is Hooks._handle_event

    def _raise_unless_end(self, error: BaseException) -> None:
        """Raise what on_message has raised, unless it only says that the connection is over: as _handle_event."""
        try:
            if not isinstance(error, ConnectionClosed) or not self._is_end(error):
                raise error
        finally:
            del error  # it knows this frame

    def _hook_failed(self, error: BaseException) -> None:
        """Close the connection, being in the handling of this error; no hook but on_close is called then."""
        if not isinstance(error, Exception):  # SystemExit and its like end what a thread of its own would have served
            self._fail(CloseCode.GOING_AWAY)
        elif not self._is_end(error):
            self._fail(CloseCode.INTERNAL_ERROR)
            self._report()

    def _fail(self, code: CloseCode) -> None:
        self._hooks_over = True
        self.websocket.start_close(code)

    def _take_unread(self) -> bytes:
        return b"" if self._upgraded else super()._take_unread()

    def _make_connection(self, agreement: Agreement) -> None:
        """Make the connection that was agreed on; the bytes that came behind the request are its first input."""
        own_loop = self._overrides("handle_websocket")
        self.websocket = WebSocketConnection(
            self._take_socket(),
            role=Role.SERVER,
            settings=agreement.settings,
            request=agreement.request,
            response=agreement.response,
            subprotocol=agreement.subprotocol,
            codecs=agreement.codecs,
            received=self._take_unread(),
            hooks=frozenset() if own_loop else self._wanted_events(),
            fragments=not own_loop and self._overrides("on_fragment"),
            remote_address=self.client_address,
        )
        self._upgraded = True
        if self._accepted.parking is not None:
            self.websocket.park(self._accepted.parking.announce)  # before anybody else sees it, and may cut it
        self._accepted.upgrade(self.websocket)
        self._rfile, self.wfile = AFTER_UPGRADE  # type: ignore[assignment]
        del self._head, self._reader  # an idle connection keeps nothing of HTTP but the headers

    def _overrides(self, name: str) -> bool:
        return getattr(type(self), name) is not getattr(WebSocketRequestHandler, name) or name in vars(self)

    # The life of the connection

    def _serve_websocket(self) -> None:
        """Call the hooks, then close, then call on_close: on every path, also when the program is being stopped."""
        code, timeout = CloseCode.GOING_AWAY, min(HASTE, self.close_timeout)
        try:
            code, timeout = self._converse(), self.close_timeout
        finally:
            try:
                if self.websocket.state is not State.CLOSED:
                    self.websocket.close(code, timeout=timeout)
            finally:
                self._say_goodbye()

    def _converse(self) -> CloseCode:
        """Call the hooks until the end; return the code to close with."""
        try:
            self._open()
            self.handle_websocket()
        except Exception as error:
            if not self._is_end(error):
                self._report()
                return CloseCode.INTERNAL_ERROR
        return CloseCode.NORMAL_CLOSURE

    def _say_goodbye(self) -> None:
        self._call_last(self.log_connection)
        try:
            self._call_last(self._call_on_close)
        finally:
            self._call_last(self._tell_server, "connection_closed", self.websocket)

    def _open(self) -> None:
        self._tell_server("connection_opened", self.websocket)
        self.on_open()

    def _call_last(self, step: Callable[..., None], *args: object) -> None:
        """Call code of the application that nothing depends on any more."""
        try:
            step(*args)
        except Exception as error:
            if not self._is_end(error):
                self._report()
