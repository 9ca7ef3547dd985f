"""WebSocketRequestHandler: a BaseHTTPRequestHandler whose connections may become WebSockets.

Owns     the upgrade and the hooks. What comes before is httphandler.py's; the connection's life is
         connection.py's. One thread runs the whole handler: every hook runs in it, one at a time.

There is no ``__init__``: as in the standard library everything happens while the object is made,
and SimpleHTTPRequestHandler, with an ``__init__`` of its own, may stand behind this class.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, ClassVar, NamedTuple

from .admission import TRY_LATER
from .connection import State, WebSocketConnection
from .deadline import HASTE
from .exceptions import ConnectionClosed, HandshakeError
from .express import handle_at_once
from .hooks import Hooks
from .httphandler import StrictHTTPRequestHandler
from .logs import ConnectionLog
from .protocol.closecodes import MAX_REASON, CloseCode
from .protocol.endpoint import Role
from .protocol.extensions import Codec, negotiate
from .protocol.handshake import VERSIONS, Request, build_response, check_request, is_upgrade, same_origin
from .settings import Settings, class_value
from .streams import AfterUpgrade, Pace

__all__ = ["WebSocketRequestHandler"]


SWITCHING_PROTOCOLS = HTTPStatus.SWITCHING_PROTOCOLS  # some versions of Python take long to find a member
AFTER_UPGRADE = AfterUpgrade("rfile", "recv()"), AfterUpgrade("wfile", "send(message)")


class _Agreement(NamedTuple):
    """What an opening handshake has come to."""

    request: Request
    settings: Settings
    subprotocol: str | None
    codecs: Sequence[Codec]
    response: bytes  # the 101


class WebSocketRequestHandler(Hooks, ConnectionLog, StrictHTTPRequestHandler):
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

    #: The versions of the protocol that are served.
    websocket_versions: ClassVar[Sequence[int]] = VERSIONS
    #: Subprotocols that are served, in order of preference.
    subprotocols: ClassVar[Sequence[str]] = ()
    #: Origins that are allowed beside the server's own: strings ("https://example.org", "*" for any) and
    #: compiled patterns that must match the whole origin; None for any.
    allowed_origins: ClassVar[Sequence[str | re.Pattern[str]] | None] = ()

    #: What a Router's pattern has matched of the path; None without one.
    match: re.Match[str] | None = None
    #: The connection, from on_open on.
    websocket: WebSocketConnection

    _upgraded = False
    _failure: HandshakeError | None = None  # why the handshake has failed
    _hooks_over = False  # a hook has failed: the others are not called any more

    def __init_subclass__(cls, **options: Any) -> None:
        """Check the settings of a class where it is defined, and not with its first connection."""
        super().__init_subclass__(**options)
        Settings.check(cls)
        _check_origins(class_value(cls, "allowed_origins", ()))

    # The handshake

    def handle_upgrade(self) -> None:
        """Answer the request for an upgrade and, if the answer is 101, run the connection to its end."""
        self.close_connection = True
        self.protocol_version = "HTTP/1.1"  # there is no other way to answer an upgrade
        try:
            agreement = self._agree()
            if agreement is not None:
                self._switch_protocols(agreement)
        except OSError as error:
            self._end_with_peer(error)
        if self._upgraded and not self._park():  # outside: the application's time-outs are its own
            self._serve_websocket()

    def check_origin(self, origin: str | None) -> bool:
        """Return whether pages of this origin may connect; None where the client is not a browser.

        By default: no origin, the server's own, and ``allowed_origins``.
        """
        allowed = self.allowed_origins
        _check_origins(allowed)
        if origin is None or allowed is None or same_origin(self._request.host, origin):
            return True
        return any(
            entry in ("*", origin) if isinstance(entry, str) else entry.fullmatch(origin) is not None
            for entry in allowed
        )

    def authorize(self) -> HTTPStatus | None:
        """Return None to go on, or the status with which to refuse.

        To refuse with more than a status, answer here (``send_error``, ``send_response``).

        It may take its time, which nothing bounds but itself: the client waits, and so does this thread (in a pool one
        of ``max_workers``). A client that leaves meanwhile is noticed afterwards, by on_close with 1006. If the
        server is shut down meanwhile, the answer is 503 whatever is returned, and the socket is cut at the deadline.
        """
        return None

    def select_subprotocol(self, offered: Sequence[str]) -> str | None:
        """Return one of the offered subprotocols, or None for none. By default the first of ``subprotocols``."""
        for name in self.subprotocols:
            if name in offered:
                return name
        return None

    def response_headers(self) -> Iterable[tuple[str, str]] | Mapping[str, str]:
        """Return headers to add to the 101, such as cookies."""
        return ()

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

    def _answer_request(self) -> None:
        if is_upgrade(self._head):
            self.handle_upgrade()
            if not self._upgraded:
                self._linger = True  # what came behind a request that was refused is unread
                self._tell_failure()
        else:
            super()._answer_request()

    def _refuse_method(self) -> None:
        if hasattr(self, "do_GET"):
            super()._refuse_method()
        elif self.command in ("GET", "HEAD"):
            self.ask_to_upgrade()
        else:
            self._refuse(HTTPStatus.METHOD_NOT_ALLOWED, "this is a WebSocket server", {"Allow": "GET"})

    def ask_to_upgrade(self) -> None:
        """Answer an ordinary request with 426 (RFC 9110, 15.5.22): there are only WebSockets here."""
        versions = ", ".join(map(str, self.websocket_versions))
        headers = {"Upgrade": "websocket", "Sec-WebSocket-Version": versions}
        self._refuse(HTTPStatus.UPGRADE_REQUIRED, "this is a WebSocket server", headers)

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
        """Return whether the connection has become a WebSocket."""
        return self._upgraded

    def has_own_loop(self) -> bool:
        """Return whether the connection needs a thread of its own."""
        return self._overrides("handle_websocket")

    def is_served_simply(self) -> bool:
        """Return whether all that serve_ready does with a message is to call on_message, as far as we know."""
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

    # The steps of the handshake

    def _agree(self) -> _Agreement | None:
        """Check the request and ask the hooks; None where the request was refused, with the answer sent."""
        try:
            try:
                agreement = self._negotiate()
            except HandshakeError as error:
                self._refuse_upgrade(error)
                return None
        except Exception as error:
            if error is self._link.error:
                raise
            self._report()
            self._take_back_answer()
            failure = HandshakeError("the application failed", HTTPStatus.INTERNAL_SERVER_ERROR)
            failure.__cause__ = error
            self._refuse_upgrade(failure)
            return None
        if agreement is None and getattr(self, "_headers_buffer", None):
            self.end_headers()  # of an answer that a hook has begun
        return agreement

    def _refuse_upgrade(self, error: HandshakeError) -> None:
        error.status = error.status or HTTPStatus.BAD_REQUEST
        self._failure = error
        if not self._answered:
            self._refuse(error.status, str(error), error.headers)

    def _tell_failure(self) -> None:
        """Tell the server of a handshake that failed."""
        if self._link.error is not None:
            error = HandshakeError("the client left before the answer")
        else:
            error = self._failure or HandshakeError("the application refused", self._answered or None)
        self._accepted.counters.count_one("handshakes_failed", error.status)
        try:
            self._tell_server("handshake_failed", self, error)
        except Exception:
            self._report()

    def _negotiate(self) -> _Agreement | None:
        """Return what client and server agree on; None if a hook has answered. Raises HandshakeError to refuse."""
        self._request = request = check_request(self._head, self.websocket_versions)
        self._require_host()
        if not self.check_origin(request.origin):
            raise HandshakeError(f"origin {request.origin} is not allowed", HTTPStatus.FORBIDDEN)
        status = self.authorize()
        if status is not None and not self._answered:
            raise HandshakeError("the server does not accept this connection", _refusal(status))
        subprotocol = None if self._answered else self.select_subprotocol(request.subprotocols)
        extra = () if self._answered else self.response_headers()
        if extra != () and isinstance(extra, Mapping):
            extra = extra.items()
        if self._answered:
            return None
        if not self._accepted.admits():  # the hooks may have taken long
            raise HandshakeError("the server is shutting down", HTTPStatus.SERVICE_UNAVAILABLE, TRY_LATER)
        settings = Settings.of(self)  # after the hooks: they may set this connection's own
        offered = request.extensions
        extensions, codecs = negotiate(offered, settings.all_extensions) if offered else ("", ())
        response = build_response(
            request,
            subprotocol=subprotocol,
            extensions=extensions,
            extra=extra,
        )
        return _Agreement(request, settings, subprotocol, codecs, response)

    def _switch_protocols(self, agreement: _Agreement) -> None:
        """Send the 101 and make the connection; the bytes that came behind the request are its first input."""
        self.log_request(SWITCHING_PROTOCOLS)
        self._link.limit = Pace(self.timeout)
        self.wfile.write(agreement.response)
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

    def _tell_server(self, name: str, *args: object) -> None:
        """Call an override point of the server, if it is one of ours."""
        method = getattr(self.server, name, None)
        if method is not None:
            method(*args)

    def _report(self) -> None:
        self._accepted.counters.count("handler_errors")
        self.server.handle_error(self.request, self.client_address)


def _check_origins(allowed: object) -> None:
    if isinstance(allowed, str):  # "*" among its characters would let in anybody
        raise TypeError("allowed_origins must be a sequence of origins, not one str")


def _refusal(status: int) -> int:
    """Return the status of a refusal; TypeError or ValueError for what authorize() must not return."""
    if not isinstance(status, int) or isinstance(status, bool):
        raise TypeError(f"authorize() must return None or an HTTPStatus, not {status!r}")
    if not 300 <= status <= 599:
        raise ValueError(f"authorize() must return a status from 300 to 599, or None to go on, not {int(status)}")
    return int(status)
