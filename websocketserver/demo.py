"""The demo: a page for browsers (demo.html) and the WebSocket it talks to; what the command line serves.

A page speaks the subprotocol "demo", described at the top of demo.html: echo, round trips and a chat.
Whoever connects without it, such as a terminal, gets every message back as it was.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from http import HTTPStatus
from importlib.resources import files
from typing import TYPE_CHECKING, cast

from .connection import State, WebSocketConnection
from .exceptions import ConnectionClosed
from .handler import WebSocketRequestHandler

if TYPE_CHECKING:
    from .server import ThreadingWebSocketServer

__all__ = ["DemoHandler", "DemoPageHandler"]

SUBPROTOCOL = "demo"
SLOW = 0.5  # seconds that a page may hold up the chat, once: then it is cut


class DemoHandler(WebSocketRequestHandler):
    """Echo, and a chat between all open pages."""

    subprotocols = (SUBPROTOCOL,)

    def on_open(self) -> None:
        if self.websocket.subprotocol == SUBPROTOCOL:
            self._tell_count()

    def on_message(self, message: str | bytes) -> None:
        if self.websocket.subprotocol == SUBPROTOCOL and _is_chat(message):
            self._tell_all(message)
        else:
            self.websocket.send(message)

    def on_close(self, code: int, reason: str) -> None:
        if self.websocket.subprotocol == SUBPROTOCOL:
            self._tell_count()

    def _pages(self) -> Iterator[WebSocketConnection]:
        """Yield the connections of all open pages."""
        server = cast("ThreadingWebSocketServer", self.server)
        for connection in server.connections:
            if connection.subprotocol == SUBPROTOCOL and connection.state is State.OPEN:
                yield connection

    def _tell_all(self, message: str | bytes) -> None:
        for page in self._pages():
            try:
                page.send(message, timeout=SLOW)
            except TimeoutError:
                page.abort()
            except ConnectionClosed:
                pass  # it has just left

    def _tell_count(self) -> None:
        """Tell all pages how many they are.

        Two handlers may do so at once; whoever has told an old number last tells the new one.
        """
        told = None
        while told != (count := sum(1 for _ in self._pages())):
            self._tell_all(json.dumps({"type": "pages", "count": count}))
            told = count


class DemoPageHandler(DemoHandler):
    """The demo with its page at ``/``."""

    def do_GET(self) -> None:
        page = self._send_head()
        if page and self.command == "GET":
            self.wfile.write(page)

    do_HEAD = do_GET

    def _send_head(self) -> bytes:
        if self.path.partition("?")[0] != "/":
            self.send_error(HTTPStatus.NOT_FOUND)
            return b""
        page = files(__package__).joinpath("demo.html").read_bytes()
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(page)))
        self.send_header("Cache-Control", "no-cache")
        self.end_headers()
        return page


def _is_chat(message: str | bytes) -> bool:
    try:
        value = json.loads(message)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and value.get("type") == "chat"
