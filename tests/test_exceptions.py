"""The tree of exceptions, and what each carries and says."""

from __future__ import annotations

import copy
import pickle
from http.client import HTTPMessage

import pytest

from websocketserver import exceptions
from websocketserver.exceptions import (
    Close,
    ConnectionClosed,
    ConnectionClosedOK,
    HandshakeError,
    ProtocolError,
    WebSocketError,
)


def headers() -> HTTPMessage:
    message = HTTPMessage()
    message["Retry-After"] = "5"
    return message


EXAMPLES = [
    WebSocketError("why"),
    HandshakeError("refused", 503, headers(), b"busy"),  # type: ignore[arg-type]
    ProtocolError("bad frame", 1009),
    ConnectionClosed(None, Close(1002, "bad"), "what went wrong"),
    ConnectionClosedOK(Close(1000), Close(1000)),
]


def test_one_tree() -> None:
    public = [getattr(exceptions, name) for name in exceptions.__all__ if name != "Close"]
    assert all(issubclass(kind, WebSocketError) for kind in public)
    assert issubclass(ConnectionClosedOK, ConnectionClosed)
    assert not issubclass(WebSocketError, (OSError, ValueError))


def test_a_handshake_error_has_the_servers_answer() -> None:
    error = HandshakeError("refused", 503, headers(), b"busy")  # type: ignore[arg-type]
    assert (str(error), error.status, error.headers["retry-after"], error.body) == ("refused", 503, "5", b"busy")


def test_a_handshake_error_without_an_answer() -> None:
    error = HandshakeError("nobody there")
    assert (error.status, dict(error.headers), error.body) == (None, {}, b"")


def test_a_protocol_error_has_a_close_code() -> None:
    assert ProtocolError("bad frame").close_code == 1002
    assert ProtocolError("too big", 1009).close_code == 1009


@pytest.mark.parametrize(
    ("received", "sent", "detail", "code", "reason", "text"),
    [
        (Close(1001, "bye"), Close(1001), "", 1001, "bye", "received 1001 bye, sent 1001"),
        (Close(1005), Close(1005), "", 1005, "", "received 1005, sent 1005"),
        (None, Close(1002, "bad"), "bad", 1006, "bad", "no Close received, sent 1002 bad"),
        (None, Close(1002, "bad"), "reset", 1006, "reset", "no Close received, sent 1002 bad (reset)"),
        (None, Close(1001), "reset", 1006, "reset", "no Close received, sent 1001 (reset)"),
        (None, None, "reset", 1006, "reset", "no Close received, none sent (reset)"),
        (None, None, "", 1006, "", "no Close received, none sent"),
        (Close(4000), None, "", 4000, "", "received 4000, none sent"),
    ],
)
def test_a_closed_connection(
    received: Close | None, sent: Close | None, detail: str, code: int, reason: str, text: str
) -> None:  # 7.1.5 and 7.1.6
    error = ConnectionClosed(received, sent, detail)
    assert (error.code, error.reason, str(error)) == (code, reason, text)
    assert (error.received, error.sent) == (received, sent)


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_they_survive_copies(error: WebSocketError) -> None:
    """As between processes: pickled by concurrent.futures and multiprocessing."""
    for other in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(other) is type(error)
        assert str(other) == str(error)
        for name, value in vars(error).items():
            if name == "headers":
                assert dict(getattr(other, name)) == dict(value)
            else:
                assert getattr(other, name) == value


def test_a_peers_reason_cannot_forge_a_line_of_the_log() -> None:
    error = ConnectionClosed(Close(4000, "bye\n\x1b[2Jroot logged in"), None)
    assert str(error).isprintable()
    assert error.reason == "bye\n\x1b[2Jroot logged in"
    assert str(Close(1000, "né")) == "1000 né"
