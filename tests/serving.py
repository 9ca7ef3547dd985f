"""Handlers that keep what their hooks are told, the servers that run them, and clients of theirs that speak HTTP.

A file of tests that imports ``default_server`` and ``pytest_generate_tests`` runs each of its tests under both of
our servers that serve many clients at once, or under every kind of server where a test takes ``server_class``.
"""

from __future__ import annotations

import contextlib
import http.server
import socket
import threading
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

import pytest

from websocketserver import (
    PoolingWebSocketServer,
    ThreadingWebSocketServer,
    WebSocketRequestHandler,
    WebSocketServer,
)

from .support import SOON, RawPeer, Running, raw_client, running_server

__all__ = [
    "OURS",
    "PAGE",
    "SERVERS",
    "HTTPServer",
    "Page",
    "Quiet",
    "Slow",
    "ThreadingHTTPServer",
    "connected",
    "default_server",
    "echo",
    "events",
    "exchange",
    "leave",
    "lines",
    "log_message",
    "pytest_generate_tests",
    "read_to_end",
    "read_until",
    "server_class",
    "serving",
]

PAGE = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


# Servers


class ThreadingHTTPServer(http.server.ThreadingHTTPServer):
    def serve_forever(self, poll_interval: float = 0.01) -> None:  # it polls for its shutdown
        super().serve_forever(poll_interval)


class HTTPServer(http.server.HTTPServer):
    def serve_forever(self, poll_interval: float = 0.01) -> None:
        super().serve_forever(poll_interval)


OURS = [ThreadingWebSocketServer, PoolingWebSocketServer]
SERVERS = [*OURS, WebSocketServer, ThreadingHTTPServer, HTTPServer]


@pytest.fixture(params=SERVERS, ids=lambda kind: kind.__name__)
def server_class(request: pytest.FixtureRequest) -> Any:
    return request.param


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what is not for every kind of server under both of ours that serve many clients at once."""
    if "server_class" not in metafunc.fixturenames:
        metafunc.parametrize("default_server", OURS, ids=lambda kind: kind.__name__[:-15], indirect=True)


@pytest.fixture(autouse=True)
def default_server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Quiet, "default_server", getattr(request, "param", ThreadingWebSocketServer))


# Handlers


class Quiet(WebSocketRequestHandler):
    """Keeps its log lines and what its hooks were called with, in lists of the test's."""

    default_server: type = ThreadingWebSocketServer
    events: list[Any]
    lines: list[str]

    def log_message(self, format: str, *args: Any) -> None:
        self.lines.append(format % args)

    def on_open(self) -> None:
        self.events.append("open")

    def on_message(self, message: str | bytes) -> None:
        self.events.append(message)
        self.websocket.send(message)

    def on_close(self, code: int, reason: str) -> None:
        self.events.append((code, reason))


class Page(Quiet):
    """Answers with what it was sent, and keeps connections alive."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.answer(self.path.encode())

    def do_POST(self) -> None:
        self.answer(self.rfile.read(int(self.headers["Content-Length"])))

    def answer(self, body: bytes) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Slow(Quiet):
    """A page that takes until the test sets ``go``."""

    go: threading.Event

    def do_GET(self) -> None:
        self.events.append("asked")
        self.go.wait(SOON)
        self.send_response(HTTPStatus.OK)
        self.end_headers()
        self.wfile.write(b"at last")


def serving(handler: Any = Quiet, **options: Any) -> Any:
    """Return a running server for this handler class, with lists of its own: the lines are the server's own too."""
    options.setdefault("server_class", Quiet.default_server)
    if getattr(options["server_class"], "log_message", None) is WebSocketServer.log_message:
        options.setdefault("server_attributes", {"log_message": log_message})
    return running_server(handler, events=[], lines=[], **options)


def log_message(server: Any, format: str, *args: Any) -> None:
    server.RequestHandlerClass.lines.append(format % args)


def events(running: Running) -> list[Any]:
    found: list[Any] = running.server.RequestHandlerClass.events
    return found


def lines(running: Running) -> list[str]:
    found: list[str] = running.server.RequestHandlerClass.lines
    return found


# Clients


def leave(peer: RawPeer, code: int = 1000, reason: str = "") -> None:
    """Send a Close and end the stream, so that nobody waits for that."""
    peer.close_frame(code, reason)
    peer.sock.shutdown(socket.SHUT_WR)


def echo(running: Running, message: bytes = b"x") -> bytes:
    """Send a message as a client of its own, and return the answer."""
    with raw_client(running) as peer:
        peer.frame(1, message)
        answer: bytes = peer.read_frame().payload
        leave(peer)
        return answer


@contextlib.contextmanager
def connected(running: Running) -> Iterator[socket.socket]:
    with socket.create_connection(running.address[:2], SOON) as sock:
        yield sock


def read_to_end(sock: socket.socket, *, cut: bool = False) -> bytes:
    """Return all that comes until the stream ends; with ``cut`` it may be reset too."""
    received = b""
    with contextlib.suppress(ConnectionResetError) if cut else contextlib.nullcontext():
        while data := sock.recv(1 << 16):
            received += data
    return received


def read_until(sock: socket.socket, end: bytes) -> bytes:
    received = b""
    while not received.endswith(end):
        data = sock.recv(1 << 16)
        assert data, f"the stream ended after {received!r}"
        received += data
    return received


def exchange(running: Running, data: bytes) -> bytes:
    """Send bytes, end our half of the stream, and return the whole answer."""
    with connected(running) as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        return read_to_end(sock)
