"""The HTTP part of a handler: the standard library's, with a strict parser and limits that hold.

Owns     requests until the end or the upgrade: their heads, refusals, the way to what answers them.
Never    knows what a WebSocket is, handler.py does; nor opens or ends the socket, handlersocket.py does.

A peer that breaks the rules, is too slow or leaves costs one line in the log and never a traceback.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from http.client import HTTPMessage
from typing import Any, ClassVar

from .admission import TRY_LATER, place_of
from .deadline import Deadline
from .exceptions import HandshakeError
from .forwarded import UNIX, believed_addresses, check_trusted
from .handlersocket import HandlerSocket
from .hosts import HostCheck
from .logs import RequestLog, printable, redacted
from .protocol.headers import (
    Pairs,
    RequestHead,
    as_message,
    read_request_head,
    take_request_head,
)
from .responses import CheckedResponses
from .settings import class_value
from .streams import Pace, Rate

__all__ = ["StrictHTTPRequestHandler"]

TLS_RECORD = b"\x16"  # what a TLS client begins with, and no request: maybe without the end of a line, ever
KEPT = frozenset(("_lender", "_lent", "finish"))  # attributes that do not go with a connection that is lent


class StrictHTTPRequestHandler(HandlerSocket, HostCheck, CheckedResponses, RequestLog):
    """BaseHTTPRequestHandler with the package's parser of request heads, and with deadlines.

    Works under any server of ``socketserver``'s kind and in front of SimpleHTTPRequestHandler.
    """

    #: Seconds of waiting for the peer in bodies and answers, for every 64 KiB, and for the next request to begin.
    timeout: ClassVar[float | None] = 30
    #: Addresses and networks of proxies whose X-Forwarded-For is believed; "unix" for a peer on a Unix socket.
    trusted_proxies: ClassVar[Sequence[str]] = ()

    _lender: StrictHTTPRequestHandler | None = None  # who has read the request that this handler is to answer
    _pairs: Pairs  # of the headers
    _headers: HTTPMessage | None
    _lent = False  # the connection is in the hands of another handler
    # Here for all those to whom it never happens: the instances of a class share the table of their attributes' names
    # as long as these are 29 at most, the application's included.
    _linger = False  # there may be unread input at the end
    _refused = False  # the request, by us
    _resumed = False  # a further request is here, a pool has waited for it

    def __init_subclass__(cls, **options: Any) -> None:
        """Check what is given where it is defined, and not with the first connection."""
        super().__init_subclass__(**options)
        check_trusted(class_value(cls, "trusted_proxies", ()))
        redacted("", class_value(cls, "secret_parameters", ()))

    def setup(self) -> None:
        """Wrap the socket in TLS if the server has an ssl_context, and make rfile and wfile.

        Where ``request`` is another handler instead of a socket, take over its connection and its request:
        this one answers it, and gives the connection back in ``finish``.
        """
        if isinstance(self.request, StrictHTTPRequestHandler):
            self._borrow(self.request)
            return
        self._reset_request()
        self._requests = 0
        self._open_socket()

    def handle(self) -> None:
        """Serve requests until the connection is to be closed."""
        if self._lender is not None:
            self.handle_one_request()
        elif not self._failed:
            super().handle()

    def finish(self) -> None:
        """End the stream, and close the socket if it was made here."""
        if self._lent:
            return
        if self._lender is not None:
            self._give_back(self._lender)
            return
        super().finish()
        self._end_socket(self._linger)

    # One request

    def handle_one_request(self) -> None:
        """Read one request and answer it."""
        ready = False
        try:
            if self._lender is not None:
                ready = self._meets_expectation()
            else:
                ready = self._await_request() and self.parse_request()
        except OSError as error:
            self._end_with_peer(error)
        if ready:
            self._answer_request()
        else:
            self.close_connection = True

    def parse_request(self) -> bool:
        """Read and check one request head; False if there is none, or if it was refused and answered."""
        if self._requests:  # else setup has done it
            self._reset_request()
        try:
            head = self._take_head() or self._read_head()
        except HandshakeError as error:
            self._refuse(error.status or HTTPStatus.BAD_REQUEST, str(error))
            return False
        if head is None:
            return False
        self._head = head
        self._requests += 1
        self._link.limit = Pace(self.timeout)
        self.requestline = redacted(head.request_line, self.secret_parameters)
        self.command, self.path = head.method, head.target
        self.request_version, self._pairs = head.version, head.pairs
        self.close_connection = not self._keeps_alive()
        if not self._accepted.begin_request():
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, "the server is shutting down", TRY_LATER)
            return False
        limit = getattr(self.server, "max_connections_per_address", None)
        if limit is not None and not self._accepted.settle(place_of(self.address_string()), limit):
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, f"max_connections_per_address ({limit}) reached", TRY_LATER)
            return False
        return "expect" not in head.fields or self._meets_expectation()

    def _meets_expectation(self) -> bool:
        values = self._head.fields.get("expect")
        if values is None or ",".join(values).lower() != "100-continue" or self.request_version < "HTTP/1.1":
            return True
        return self.handle_expect_100()

    def handle_expect_100(self) -> bool:
        """Tell the client to send its body (RFC 9110, 10.1.1); override to answer otherwise and return False."""
        self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return True

    def _borrow(self, lender: StrictHTTPRequestHandler) -> None:
        vars(self).update({name: value for name, value in vars(lender).items() if name not in KEPT})
        lender._lent = lender.close_connection = True
        self._lender = lender
        self.close_connection = not self._keeps_alive()
        self.requestline = redacted(self._head.request_line, self.secret_parameters)
        self._link.limit = Pace(self.timeout)
        self._set_nagle()

    def _give_back(self, lender: StrictHTTPRequestHandler) -> None:
        for name in (vars(lender).keys() | {"_linger", "_refused"}) - KEPT:
            setattr(lender, name, getattr(self, name))
        lender._lent = False

    def _reset_request(self) -> None:
        self.raw_requestline = b""
        self.requestline, self.path = "", ""
        self.command = ""
        self.request_version = "HTTP/1.1"
        self._pairs = []
        self._headers = None
        self._answered = 0  # the status of the answer that was begun
        if self._refused:
            self._refused = False

    def _await_request(self) -> bool:
        """Wait for the first byte of the next request; False if none comes."""
        if self._resumed:
            self._resumed = False
            return True
        if self._accepted.received and self._requests == 0:
            return True  # a pool has read it
        self._accepted.await_request(again=self._requests > 0)
        if self._requests == 0:
            return True  # the deadline of the head counts from accept
        if self._park():
            return False
        self._link.limit = Deadline(self.timeout)
        try:
            if not self._peek():
                return False
        except TimeoutError:  # kept alive for long enough
            return False
        self._link.limit = Rate(Deadline(self.handshake_timeout), self.minimum_rate)
        return True

    def _take_head(self) -> RequestHead | None:
        """Return the head, in the usual case that it has come as one piece: without a file for it."""
        if self._rfile is not None or (taken := take_request_head(self._reader.look())) is None:
            return None
        head, size = taken
        self._reader.skip(size)
        self.raw_requestline = head.request_line.encode() + b"\r\n"
        return head

    def _read_head(self) -> RequestHead | None:
        if self._peek()[:1] == TLS_RECORD:
            raise HandshakeError("this port does not speak TLS: use http:// or ws://")
        return read_request_head(self._read_line)

    def _read_line(self, limit: int) -> bytes:
        line: bytes = self.rfile.readline(limit)
        if not self.raw_requestline:
            self.raw_requestline = line
        return line

    def _keeps_alive(self) -> bool:
        """Return whether another request may follow this one (RFC 9112, section 9.3)."""
        if self.protocol_version < "HTTP/1.1":
            return False
        values = ",".join(self._head.fields.get("connection", ())).lower()
        if self.request_version >= "HTTP/1.1" and "close" not in values:
            return True
        options = {option.strip(" \t") for option in values.split(",")}
        return "close" not in options and (self.request_version >= "HTTP/1.1" or "keep-alive" in options)

    def _answer_request(self) -> None:
        try:
            try:
                self._require_host()
            except HandshakeError as error:
                self._refuse(HTTPStatus.MISDIRECTED_REQUEST, str(error))
            else:
                self._dispatch()
        except OSError as error:
            self._end_with_peer(error)

    def _dispatch(self) -> None:
        """Call the do_... method for the request."""
        method = self._method()
        if method is None:
            self._refuse_method()
            return
        if self.path.startswith("//"):  # taken for another host by whoever is redirected there (CVE-2021-28861)
            self.path = "/" + self.path.lstrip("/")
        length = int(self._head.fields.get("content-length", ("0",))[0])
        endless = "transfer-encoding" in self._head.fields
        self.connection.settimeout(self.timeout)  # for whoever uses it without rfile and wfile
        begin = self.rfile.tell()
        self._linger = bool(length) or endless
        method()
        self.wfile.flush()
        self._linger = endless or self.rfile.closed or self.rfile.tell() - begin < length
        if self._linger:  # what was left of the body would be taken for the next request
            self.close_connection = True

    def _method(self) -> Callable[[], object] | None:
        """Return what answers the request, None if nothing does."""
        method: Callable[[], object] | None = getattr(self, "do_" + self.command, None)
        return method

    def _refuse_method(self) -> None:
        self._refuse(HTTPStatus.NOT_IMPLEMENTED, f"method {self.command} is not served")

    # Refusing

    def _refuse(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        """Answer with a short text and end the connection; one line in the log."""
        self.close_connection = True
        self._linger = True
        self._link.limit = Pace(self.timeout)
        self.protocol_version = "HTTP/1.1"  # also for clients that take nothing else
        request_line = self.requestline or self.raw_requestline.decode("latin-1").rstrip("\r\n")
        self.log_error(
            '"%s" %d %s', printable(redacted(request_line, self.secret_parameters)), status, printable(message)
        )
        self._refused = True
        self._accepted.counters.count_one("requests_refused", int(status))
        phrase = self.responses[HTTPStatus(status)][0] if status in self.responses else "Refused"
        body = f"{int(status)} {phrase}: {message}\n".encode()
        fields = {
            "Server": self.version_string(),
            "Date": self.date_time_string(),
            "Connection": "close",
            "Content-Type": "text/plain; charset=utf-8",
            "Content-Length": str(len(body)),
            **(headers or {}),
        }
        if "Upgrade" in fields:
            fields["Connection"] = "Upgrade, close"  # RFC 9110, 7.8
        self.send_response_only(status, phrase)
        for name, value in fields.items():
            self.send_header(name, value)
        self.close_connection = True
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _end_with_peer(self, error: OSError) -> None:
        """End the connection, with one line in the log, where the peer is too slow or gone.

        Only errors of this socket count: the application's own are raised again.
        """
        if error is not self._link.error:
            raise error
        self.close_connection = True
        if self._refused or self._requests == 0 and self._reader.tell() == 0:
            return  # that was logged; or nobody has said anything, as browsers' spare connections do
        if isinstance(error, TimeoutError):
            self.log_error("Request timed out: %r", error)
        else:
            self.log_error("Connection lost: %s", error.strerror or error)

    # Who is there

    @property
    def remote_addresses(self) -> list[str]:
        """The addresses that the request came through, the client's first, as far as trusted_proxies may say so."""
        address = self.client_address
        peer = str(address[0]) if isinstance(address, tuple) else UNIX
        forwarded = [value for name, value in self._pairs if name.lower() == "x-forwarded-for"]
        return believed_addresses(peer, forwarded, self.trusted_proxies)

    def address_string(self) -> str:
        """Return the client's address, for the log."""
        return self.remote_addresses[0]

    # In a pool

    def resume(self, received: bytes) -> None:
        """For a pool: serve the request that these bytes begin with."""
        self._set_reader(received)
        self._link.limit = self._handshake_limit()
        self._resumed = True
        self.handle()

    def _park(self) -> bool:
        """Leave the waiting for input to a pool, if there is one; ``finish`` is then called by the pool, at the end."""
        parking = self._accepted.parking
        if parking is None:
            return False
        self.finish = _nothing  # type: ignore[method-assign]
        parking.park(self, self._take_unread())
        return True

    # As in the standard library

    @property  # type: ignore[override]
    def headers(self) -> HTTPMessage:
        """The headers of the request, as in the standard library; made when they are first asked for."""
        if self._headers is None:
            self._headers = as_message(self._pairs)
        return self._headers

    @headers.setter
    def headers(self, headers: HTTPMessage) -> None:
        self._headers = headers


def _nothing() -> None:
    """What shadows ``finish`` while the handler is parked."""
