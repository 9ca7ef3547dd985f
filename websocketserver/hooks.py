"""Hooks: what an application overrides to be called with what comes, the same on the server and on the client.

Owns     the way from an event to its hook. When they are called, and in which thread, is said by
         handler.py (WebSocketRequestHandler) and client.py (WebSocketClient.run_forever).
"""

from __future__ import annotations

from .connection import State, WebSocketConnection
from .exceptions import ConnectionClosed
from .protocol.closecodes import CloseCode
from .protocol.events import AppEvent, Fragment, Message, Ping
from .protocol.utf8 import decode

__all__ = ["Hooks"]

WANTED = {
    (False, False): frozenset[str](),
    (False, True): frozenset(("pong",)),
    (True, False): frozenset(("ping",)),
    (True, True): frozenset(("ping", "pong")),
}  # all connections share them


class Hooks:
    """The hooks of one connection, ``websocket``: all are called in one thread, one at a time."""

    websocket: WebSocketConnection

    _end_error: Exception | None = None  # how the connection told us of its end

    def on_open(self) -> None:
        """Called first, when the connection is open."""

    def on_message(self, message: str | bytes) -> None:
        """Called with each message: str for text, bytes for binary."""

    def on_fragment(self, fragment: Fragment) -> None:
        """Called with each piece of a message, as it arrives, instead of on_message; only if overridden."""

    def on_ping(self, payload: bytes) -> None:
        """Called with each Ping, which has been answered already."""

    def on_pong(self, payload: bytes) -> None:
        """Called with each Pong."""

    def on_close(self, code: int, reason: str) -> None:
        """Called last, when the connection is over; 1005 for a Close without a code, 1006 for none at all."""

    def _overrides(self, name: str) -> bool:
        return getattr(type(self), name) is not getattr(Hooks, name) or name in vars(self)

    def _wanted_events(self) -> frozenset[str]:
        """Return which of the events that a connection keeps to itself there are hooks for."""
        kind, own = type(self), vars(self)
        ping = kind.on_ping is not Hooks.on_ping or "on_ping" in own
        return WANTED[ping, kind.on_pong is not Hooks.on_pong or "on_pong" in own]

    def _handle_event(self, event: AppEvent) -> None:
        """Call the hook for an event; where the hook finds the connection closed, those that came before go on."""
        try:
            if isinstance(event, Message):
                data, text = event
                self.on_message(decode(data) if text and isinstance(data, bytes) else data)
            elif isinstance(event, Fragment):
                self.on_fragment(event)
            elif isinstance(event, Ping):
                self.on_ping(event.payload)
            else:
                self.on_pong(event.payload)
        except ConnectionClosed as error:
            if not self._is_end(error):
                raise

    def _call_on_close(self) -> None:
        websocket = self.websocket
        self.on_close(websocket.close_code or CloseCode.ABNORMAL_CLOSURE, websocket.close_reason or "")

    def _is_end(self, error: Exception) -> bool:
        """Return whether this only says that our own connection is over, or that a send to a peer that does not read
        has just ended it."""
        state = self.websocket.state
        is_end = state is not State.OPEN if isinstance(error, ConnectionClosed) else state is State.CLOSED
        if not is_end or not isinstance(error, (ConnectionClosed, TimeoutError)):
            return False
        self._end_error = error.with_traceback(None)  # which would keep all that is here until the next collection
        return True
