"""HTTP heads: one strict, bounded, linear parser for requests and responses.

Owns     the request line, the status line and header lines, and the size of a head (RFC 9112, sections 2 to 6).
Imports  exceptions, grammar, wholehead. No I/O of its own: bytes, or a blocking ``readline``, come in as arguments.
Never    repairs: a head is taken exactly as it was sent, or refused. Nothing is lost, folded or invented.

The standard library's parser takes a bare CR for a line end and drops every header behind a line that it does not
understand; whatever checks the headers afterwards checks something else than what was sent. This one looks at each
byte a fixed number of times, and refuses a head as soon as one line of it, or its size, is wrong.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable
from http.client import HTTPMessage
from typing import NamedTuple

from ..exceptions import HandshakeError
from .grammar import TOKEN, count_controls, is_token, parse_host
from .wholehead import COMMON_NAMES, Fields, Pairs, Start, Status, add_header, split_request, split_response

__all__ = [
    "MAX_HEAD",
    "MAX_HEADERS",
    "MAX_LINE",
    "HeadError",
    "Pairs",
    "RequestHead",
    "RequestParser",
    "ResponseHead",
    "as_message",
    "match_absolute",
    "parse_request_head",
    "read_request_head",
    "read_response_head",
    "requested_host",
    "serialize_head",
    "take_request_head",
    "take_response_head",
]

MAX_LINE = 8192  # bytes of one line with its CRLF
MAX_HEADERS = 100
MAX_HEAD = 32768  # bytes of a whole head with its empty line
MAX_INTERIM = 10  # interim responses (1xx) ahead of the real one

ReadLine = Callable[[int], bytes]

# No two neighbouring repeats of a pattern match the same character: there is nothing to backtrack into.
_match_request_line = re.compile(rf"({TOKEN}) ([!-~]+) (HTTP/([0-9])\.[0-9])\r\n".encode()).fullmatch  # RFC 9112, 3
_match_simple_request = re.compile(rf"{TOKEN} [!-~]+\r\n".encode()).fullmatch  # HTTP/0.9
_match_status_line = re.compile(rb"(HTTP/[0-9]\.[0-9]) ([1-9][0-9]{2})(?: ([\t -~\x80-\xff]*))?\r\n").fullmatch
match_absolute = re.compile(r"(?:https?|wss?)://([^/?#]*)([^#]*)", re.IGNORECASE).fullmatch  # RFC 9112, 3.2.2


class HeadError(HandshakeError):
    """A head that is refused; ``status`` (int) is how a server answers it: 400, 414, 431 or 505."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message, status)


class RequestHead(NamedTuple):
    """The head of a request, as it was sent.

    ``pairs`` has every header, in order; ``fields`` the same values by lower-case name, for quick look-up.
    """

    method: str
    target: str
    version: str
    request_line: str
    pairs: Pairs
    fields: Fields

    @property
    def headers(self) -> HTTPMessage:
        """Every header as the standard library has them, made anew each time: few ask."""
        return as_message(self.pairs)


class ResponseHead(NamedTuple):
    """The head of a response, as it was sent; ``pairs`` and ``fields`` as in RequestHead."""

    version: str
    status: int
    reason: str
    pairs: Pairs
    fields: Fields

    @property
    def headers(self) -> HTTPMessage:
        """As in RequestHead."""
        return as_message(self.pairs)


def as_message(pairs: Iterable[tuple[str, str]]) -> HTTPMessage:
    """Return headers as the standard library has them."""
    message = HTTPMessage()
    for name, value in pairs:
        message.set_raw(name, value)
    return message


# Reading a head


def read_request_head(readline: ReadLine) -> RequestHead | None:
    """Read one request head and not a byte more; return None if the input ends before one begins.

    ``readline`` blocks and takes a limit, as ``rfile.readline`` does. Raises HeadError, and what readline raises.
    """
    line = readline(MAX_LINE)
    if line == b"\r\n":  # RFC 9112, 2.2: one empty line ahead of the request is ignored
        line = readline(MAX_LINE)
    if not line:
        return None
    start = _parse_request_line(line)
    lines = _HeaderLines(MAX_HEAD - len(line))
    while not lines.feed(readline(lines.room)):
        pass
    return _request_head(start, lines.pairs, lines.fields)


def take_request_head(data: bytes) -> tuple[RequestHead, int] | None:
    """Return the head that these bytes begin with, and where it ends: the quick way, for what has come in one piece.

    None for whatever is unusual: not whole, long, or wrong. ``read_request_head`` then tells what it is.
    """
    taken = split_request(data, MAX_LINE, MAX_HEADERS, COMMON_NAMES)  # so short that no line can be too long
    if taken is None:
        return None
    start, pairs, fields, size = taken
    try:
        return _request_head(start, pairs, fields), size
    except HeadError:
        return None


def parse_request_head(data: bytes) -> RequestHead:
    """Return the request head that these bytes are, from request line to empty line; raises HeadError."""
    stream = io.BytesIO(data)
    head = read_request_head(stream.readline)
    if head is None:
        raise HeadError("the request head is empty")
    if stream.tell() != len(data):
        raise HeadError("there are bytes behind the request head")
    return head


class RequestParser:
    """One request head, for whoever cannot wait in ``readline``: the poller of many connections.

    Useless after a HeadError.
    """

    def __init__(self) -> None:
        self._start: Start | None = None
        self._lines = _HeaderLines(MAX_HEAD)
        self._leading = True  # not a line has come yet

    def feed(self, buffer: bytearray) -> RequestHead | None:
        """Take whole lines off the front of ``buffer``; return the head once it is complete, else None.

        What lies behind the head stays in ``buffer``. Raises HeadError as soon as what is there cannot become a head.
        """
        while line := self._take_line(buffer):
            if self._start is not None:
                if self._lines.feed(line):
                    return _request_head(self._start, self._lines.pairs, self._lines.fields)
            elif line != b"\r\n" or not self._leading:
                self._start = _parse_request_line(line)
                self._lines = _HeaderLines(MAX_HEAD - len(line))
            self._leading = False
        return None

    def _take_line(self, buffer: bytearray) -> bytes:
        """Return what readline(room) would, or b"" where it would have to wait."""
        room = self._lines.room
        size = buffer.find(b"\n", 0, room) + 1
        if not size and len(buffer) < room:
            return b""
        line = bytes(buffer[: size or room])
        del buffer[: len(line)]
        return line


def _request_head(start: Start, pairs: Pairs, fields: Fields) -> RequestHead:
    method, target, version, request_line = start
    _check_host(version, fields.get("host", []))
    if "content-length" in fields or "transfer-encoding" in fields:
        _check_framing(version, fields)
    return RequestHead(method, target, version, request_line, pairs, fields)


def read_response_head(readline: ReadLine) -> ResponseHead:
    """Read the head of the final response, and not a byte more; interim ones (1xx) are passed over.

    101 is final. Raises HandshakeError (whose ``status`` is None) where this is not HTTP, and what readline raises.
    """
    try:
        for _ in range(MAX_INTERIM + 1):
            head = _read_one_response_head(readline)
            if head.status >= 200 or head.status == 101:  # RFC 9110, 15.2
                return head
    except HeadError as error:
        raise HandshakeError(f"the server's answer is malformed: {error}") from None
    raise HandshakeError(f"the server sent more than {MAX_INTERIM} interim responses")


def _read_one_response_head(readline: ReadLine) -> ResponseHead:
    line = readline(MAX_LINE)
    if not line:
        raise HandshakeError("the server closed the connection without an answer")
    _check_line_end(line, MAX_LINE, "the status line")
    start = _parse_status_line(line)
    lines = _HeaderLines(MAX_HEAD - len(line))
    while not lines.feed(readline(lines.room)):
        pass
    return ResponseHead(*start, lines.pairs, lines.fields)


def _parse_status_line(line: bytes) -> Status:
    match = _match_status_line(line)
    if match is None:  # RFC 9112, 4
        raise HeadError("malformed status line")
    version, status, reason = match.groups(default=b"")
    return version.decode(), int(status), reason.decode("latin-1")


def take_response_head(data: bytes) -> tuple[ResponseHead, int] | None:
    """As take_request_head, for a final response; ``read_response_head`` does the rest."""
    taken = split_response(data, MAX_LINE, MAX_HEADERS, COMMON_NAMES)
    if taken is None:
        return None
    status, pairs, fields, size = taken
    return ResponseHead(*status, pairs, fields), size


# Its lines


class _HeaderLines:
    """The header lines of one head and the empty line behind them; ``room`` bytes the next one may have."""

    __slots__ = ("_count", "_left", "fields", "pairs", "room")

    def __init__(self, left: int) -> None:
        self.pairs: Pairs = []
        self.fields: Fields = {}
        self.room = MAX_LINE
        self._left = left
        self._count = 0

    def feed(self, line: bytes) -> bool:
        """Take the next line; return whether it was the empty one, which ends the head."""
        if line == b"\r\n":
            return True
        self._count += 1
        if line[-2:] != b"\r\n":
            _check_line_end(line, self.room, f"header line {self._count}")
        self._left -= len(line)
        if self._left <= 0:
            raise HeadError(f"head of more than {MAX_HEAD} bytes", 431)
        if self._left < MAX_LINE:
            self.room = self._left
        if self._count > MAX_HEADERS:
            raise HeadError(f"more than {MAX_HEADERS} headers", 431)
        self._add(line)
        return False

    def _add(self, line: bytes) -> None:
        raw_name, colon, rest = line.partition(b":")
        raw_value = rest[:-2].strip(b" \t")  # RFC 9112, 5.1: blanks around a value are not part of it
        if not colon or count_controls(raw_value):
            raise _malformed(line, self._count)
        name = raw_name.decode("latin-1")
        common = COMMON_NAMES.get(name)
        if common is None:
            if not is_token(name):
                raise _malformed(line, self._count)
            common = name, name.lower()
        add_header(self.pairs, self.fields, common, raw_value.decode("latin-1"))


def _check_line_end(line: bytes, room: int, what: str, too_long: int = 431) -> None:
    """Raise HeadError unless this line, read with ``room`` as its limit, ends in CRLF (RFC 9112, 2.2)."""
    if line.endswith(b"\r\n"):
        return
    if line.endswith(b"\n"):
        raise HeadError(f"{what} ends in a bare LF")
    if len(line) < room:
        raise HeadError(f"the input ended within the head, at {what}")
    if room < MAX_LINE:
        raise HeadError(f"head of more than {MAX_HEAD} bytes", 431)
    raise HeadError(f"{what} is longer than {MAX_LINE} bytes", too_long)


def _malformed(line: bytes, number: int) -> HeadError:
    """Return the error that says what is wrong with a header line, without repeating it: it may hold a secret."""
    name, colon, _ = line[:-2].partition(b":")
    if line[:1] in (b" ", b"\t"):
        fault = "is folded"  # RFC 9112, 5.2
    elif not colon:
        fault = "has no colon"
    elif name[-1:] in (b" ", b"\t"):
        fault = "has a blank before its colon"  # RFC 9112, 5.1
    elif not is_token(name.decode("latin-1")):
        fault = "has a name that is not a token"  # RFC 9110, 5.1
    else:
        fault = "has a control character in its value"  # RFC 9110, 5.5
    return HeadError(f"header line {number} {fault}")


def _parse_request_line(line: bytes) -> Start:
    _check_line_end(line, MAX_LINE, "the request line", 414)
    match = _match_request_line(line)
    if match is None:
        if _match_simple_request(line):
            raise HeadError("HTTP/0.9 is not served")
        raise HeadError("malformed request line")  # RFC 9112, 3
    method, target, version, major = match.groups()
    if major != b"1":
        raise HeadError(f"{version.decode()} is not served; use HTTP/1.1", 505)
    return method.decode(), target.decode(), version.decode(), line[:-2].decode()


def _check_host(version: str, values: list[str]) -> None:
    """RFC 9112, 3.2: one valid Host; before HTTP/1.1 there may be none."""
    if len(values) > 1:
        raise HeadError("more than one Host header")
    if not values and version != "HTTP/1.0":
        raise HeadError("no Host header")
    if values and parse_host(values[0]) is None:
        raise HeadError("malformed Host header")


def requested_host(head: RequestHead) -> str:
    """Return the host that a request is for, as the Host header would have it; "" where it names none."""
    absolute = None if head.target.startswith("/") else match_absolute(head.target)
    if absolute is not None:  # RFC 9112, 3.2.2: the Host header is to be ignored
        return absolute[1]
    return head.fields.get("host", [""])[0]


def _check_framing(version: str, fields: Fields) -> None:
    """RFC 9112, 6: where the body ends must be beyond doubt, or a part of it is taken for the next request."""
    lengths = fields.get("content-length", [])
    codings = fields.get("transfer-encoding", [])
    if lengths and codings:
        raise HeadError("both Content-Length and Transfer-Encoding")
    if len(lengths) > 1:
        raise HeadError("more than one Content-Length header")
    if lengths and not (lengths[0].isascii() and lengths[0].isdigit() and len(lengths[0]) < 20):
        raise HeadError("malformed Content-Length header")
    if codings and version == "HTTP/1.0":
        raise HeadError("Transfer-Encoding in an HTTP/1.0 request")
    if codings and [coding.lower() for coding in codings] != ["chunked"]:
        raise HeadError("Transfer-Encoding other than chunked")


# Writing a head


def serialize_head(start_line: str, fields: Iterable[tuple[str, str]]) -> bytes:
    """Return a head as it is sent, up to and with the empty line; everything in it must have been checked."""
    lines = [start_line, *(f"{name}: {value}" for name, value in fields), "", ""]
    return "\r\n".join(lines).encode("latin-1")
