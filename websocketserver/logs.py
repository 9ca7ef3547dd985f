"""Log lines: what a handler writes about requests and connections, through its ``log_message``.

Owns     what may stand in a line: nothing that a peer could forge one with, of bounded length, and no secrets.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import unquote_plus

from .protocol.closecodes import CloseCode

if TYPE_CHECKING:
    from .connection import WebSocketConnection

__all__ = ["ConnectionLog", "RequestLog", "printable", "redacted"]

MOST_REFUSED = 100  # characters of a request line that was refused, and of the reason
MOST_SERVED = 500  # of one that was served
FAULTS = frozenset((1002, 1003, 1006, 1007, 1008, 1009, 1010))  # close codes that are errors

_parameters = re.compile(r"([?&])([^=&?\s]*)=([^&\s]*)")  # each character has one place: nothing to backtrack into


class RequestLog(BaseHTTPRequestHandler):
    """How a handler writes about requests."""

    #: Parameters of the query whose values are kept out of the log, and of ``requestline``.
    secret_parameters: ClassVar[Sequence[str]] = ("token", "access_token")  # RFC 6750, 2.3

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """As inherited, with a line of bounded length."""
        code = int(code) if isinstance(code, HTTPStatus) else code
        self.log_message('"%s" %s %s', printable(self.requestline, MOST_SERVED), str(code), str(size))


class ConnectionLog(RequestLog):
    """How a handler writes about its connection."""

    if TYPE_CHECKING:
        websocket: WebSocketConnection
        _end_error: Exception | None

    def log_connection(self) -> None:
        """Called when a connection is over: write one line about it, by ``log_error`` where the peer is at fault."""
        websocket = self.websocket
        code = websocket.close_code or CloseCode.ABNORMAL_CLOSURE
        stats = websocket.stats
        line = '"%s" closed %d after %.3f s, received %d messages (%d bytes), sent %d messages (%d bytes)'
        values = (
            printable(self.requestline, MOST_SERVED),
            code,
            stats.duration,
            *(stats.messages_received, stats.bytes_received, stats.messages_sent, stats.bytes_sent),
        )
        if code in FAULTS:
            self.log_error(line + ": %s", *values, printable(str(self._end_error or websocket.close_reason)))
        else:
            self.log_message(line, *values)


def printable(text: str, most: int = MOST_REFUSED) -> str:
    """Return what may stand in a log of a text that has come from the peer."""
    if len(text) > most:
        text = text[:most] + "..."
    if not text.isprintable():
        return ascii(text)[1:-1]
    return text if text.isascii() else text.encode("ascii", "backslashreplace").decode()


def redacted(text: str, names: Sequence[str]) -> str:
    """Return a request line, or a target, with asterisks for the values of these parameters of its query."""
    if isinstance(names, str):
        raise TypeError("secret_parameters must be a sequence of names, not one str")
    if "?" not in text:
        return text
    return _parameters.sub(lambda found: _redacted_parameter(found, names), text)


def _redacted_parameter(found: re.Match[str], names: Sequence[str]) -> str:
    is_secret = unquote_plus(found[2]) in names
    return f"{found[1]}{found[2]}=***" if is_secret else found[0]
