"""Every public exception, in one tree::

    WebSocketError
     +-- HandshakeError        the opening handshake failed; no connection came to be
     +-- ProtocolError         the peer broke the protocol; carries the close code to tell it
     +-- ConnectionClosed      the connection is over
          +-- ConnectionClosedOK    ... after a normal closure (1000 or 1001)

Time-outs raise the built-in TimeoutError; bad arguments TypeError or ValueError.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

__all__ = [
    "Close",
    "ConnectionClosed",
    "ConnectionClosedOK",
    "HandshakeError",
    "ProtocolError",
    "WebSocketError",
]


class Close(NamedTuple):
    """What one Close frame said (RFC 6455, section 5.5.1)."""

    code: int
    reason: str = ""

    def __str__(self) -> str:
        reason = self.reason if self.reason.isprintable() else repr(self.reason)  # it may come from the peer
        return f"{self.code} {reason}".rstrip()


class WebSocketError(Exception):
    """The base of every exception of this package."""


class HandshakeError(WebSocketError):
    """The opening handshake failed (RFC 6455, section 4).

    On the client it carries the server's answer as far as there was one: ``status`` (int or
    None), ``headers`` (a mapping, as ``http.client.HTTPMessage``) and ``body`` (bytes, bounded).
    """

    def __init__(
        self,
        message: str,
        status: int | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers: Mapping[str, str] = {} if headers is None else headers
        self.body = body


class ProtocolError(WebSocketError):
    """The peer broke the protocol; ``close_code`` (int) is what it is told (RFC 6455, section 7.4)."""

    def __init__(self, message: str, close_code: int = 1002) -> None:
        super().__init__(message)
        self.close_code = close_code


class ConnectionClosed(WebSocketError):
    """The connection is over: nothing more can be received or sent.

    ``received`` and ``sent`` are the two Close frames (``Close`` or None where there was none);
    ``code`` and ``reason`` are the connection's close code and reason as RFC 6455, section 7.1.5
    defines them: what the peer's Close said, 1005 where it said nothing, 1006 where none came.
    """

    def __init__(self, received: Close | None, sent: Close | None, detail: str = "") -> None:
        self.received = received
        self.sent = sent
        self.code = received.code if received else 1006
        self.reason = received.reason if received else detail
        super().__init__(received, sent, detail)

    def __str__(self) -> str:
        theirs = f"received {self.received}" if self.received else "no Close received"
        ours = f"sent {self.sent}" if self.sent else "none sent"
        detail = self.args[2]
        said = self.sent is not None and self.sent.reason and detail.startswith(self.sent.reason)
        return f"{theirs}, {ours}" + (f" ({detail})" if detail and not said else "")


class ConnectionClosedOK(ConnectionClosed):
    """The connection ended normally, with code 1000 or 1001."""
