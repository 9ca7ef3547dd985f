"""Upgrade: how a request becomes a WebSocket, or is refused: the opening handshake (RFC 6455, section 4.2).

Owns     the checks and the hooks from the request to the 101. What comes before is httphandler.py's, what comes
         behind it handler.py's.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, ClassVar, NamedTuple

from .admission import TRY_LATER
from .exceptions import HandshakeError
from .httphandler import StrictHTTPRequestHandler
from .protocol.extensions import Codec, negotiate
from .protocol.handshake import VERSIONS, Request, build_response, check_request, is_upgrade, same_origin
from .settings import Settings, class_value
from .streams import Pace

__all__ = ["Agreement", "Upgrading"]

SWITCHING_PROTOCOLS = HTTPStatus.SWITCHING_PROTOCOLS  # some versions of Python take long to find a member


class Agreement(NamedTuple):
    """What an opening handshake has come to."""

    request: Request
    settings: Settings
    subprotocol: str | None
    codecs: Sequence[Codec]
    response: bytes  # the 101


class Upgrading(StrictHTTPRequestHandler):
    """A handler whose connections may become WebSockets, with the attributes that Settings needs."""

    #: The versions of the protocol that are served.
    websocket_versions: ClassVar[Sequence[int]] = VERSIONS
    #: Subprotocols that are served, in order of preference.
    subprotocols: ClassVar[Sequence[str]] = ()
    #: Origins that are allowed beside the server's own: strings ("https://example.org", "*" for any) and
    #: compiled patterns that must match the whole origin; None for any.
    allowed_origins: ClassVar[Sequence[str | re.Pattern[str]] | None] = ()

    _upgraded = False
    _failure: HandshakeError | None = None  # why the handshake has failed

    def __init_subclass__(cls, **options: Any) -> None:
        """Check the origins where they are defined, and not with the first connection."""
        super().__init_subclass__(**options)
        _check_origins(class_value(cls, "allowed_origins", ()))

    @abstractmethod
    def _make_connection(self, agreement: Agreement) -> None:
        """The 101 was sent."""

    @abstractmethod
    def _serve_websocket(self) -> None:
        """Run the connection to its end."""

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

    def ask_to_upgrade(self) -> None:
        """Answer an ordinary request with 426 (RFC 9110, 15.5.22): there are only WebSockets here."""
        versions = ", ".join(map(str, self.websocket_versions))
        headers = {"Upgrade": "websocket", "Sec-WebSocket-Version": versions}
        self._refuse(HTTPStatus.UPGRADE_REQUIRED, "this is a WebSocket server", headers)

    # The steps

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

    def _agree(self) -> Agreement | None:
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

    def _negotiate(self) -> Agreement | None:
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
        return Agreement(request, settings, subprotocol, codecs, response)

    def _switch_protocols(self, agreement: Agreement) -> None:
        """Send the 101."""
        self.log_request(SWITCHING_PROTOCOLS)
        self._link.limit = Pace(self.timeout)
        self.wfile.write(agreement.response)
        self._make_connection(agreement)

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
