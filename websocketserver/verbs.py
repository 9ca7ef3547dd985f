"""Verbs: what a server says to its connections, and is told of them.

Owns     broadcasting, closing all, and the server's override points for connections; the
         connections themselves are in registry.py.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from .connection import State, WebSocketConnection
from .counters import ServerStats
from .exceptions import ConnectionClosed, HandshakeError
from .protocol.closecodes import pack_close
from .registry import Registry
from .report import format_address
from .sharing import share

__all__ = ["ConnectionVerbs"]


class ConnectionVerbs:
    """A server's methods that are about its connections."""

    if TYPE_CHECKING:
        registry: Registry

    @property
    def connections(self) -> list[WebSocketConnection]:
        """The WebSocket connections there are: a list of the moment. Any thread."""
        return self.registry.connections()

    @property
    def stats(self) -> ServerStats:
        """Counters so far (ServerStats): those of connections that are over and of those that are open. Any thread."""
        return self.registry.stats()

    def dump(self) -> str:
        """Return all connections, what each has done so far, and the stacks of all threads, as text.

        Any thread, also a signal handler: nothing of it waits. Messages and queries are not in it.
        """
        return self.registry.dump(f"{type(self).__name__} at {format_address(getattr(self, 'server_address', ''))}")

    def broadcast(self, message: str | bytes | bytearray | memoryview) -> int:
        """Send a message to all open connections; return how many took it. Any thread.

        It is serialised, and compressed, once for all that have agreed on the same. Clients that are not read are
        waited for when all others have it, one after the other, and given up after their ``send_timeout``; those that
        are gone are passed over. Where a message is being sent in pieces, this waits for its end. What is broadcast
        while the hook's connection has more messages waiting leaves together, as with ``send``.
        """
        connections = self.connections
        left = share(message, connections)
        count = len(connections) - len(left)
        for connection in left:
            if connection.state is State.OPEN:
                with suppress(ConnectionClosed, TimeoutError):
                    connection.send(message)
                    count += 1
        return count

    def close_connections(self, code: int = 1001, reason: str = "") -> int:
        """Begin to close all open connections; return how many there were. Any thread; never blocks.

        Each has its ``close_timeout`` to end. The server goes on serving, and requests that are being answered are
        not touched: ``shutdown`` ends all. Raises ValueError or TypeError for a code or reason that may not be sent.
        """
        pack_close(code, reason)
        count = 0
        for connection in self.connections:
            if connection.state is State.OPEN:
                connection.start_close(code, reason)
                count += 1
        return count

    # To be overridden. All are called in the handler's thread, many at once; their exceptions go to handle_error.

    def connection_opened(self, connection: WebSocketConnection) -> None:
        """Called when a connection has opened, before the handler's on_open; an exception closes it with 1011.

        It is in ``connections`` from a moment before on.
        """

    def connection_closed(self, connection: WebSocketConnection) -> None:
        """Called when a connection that was opened is over, behind the handler's on_close: exactly once.

        It leaves ``connections`` a moment later.
        """

    def handshake_failed(self, handler: Any, error: HandshakeError) -> None:
        """Called when a request for an upgrade did not become a connection, behind the answer.

        ``error.status`` is what was answered, None where the client had left; ``error`` is what the log says, its
        ``__cause__`` the exception of a hook that failed. ``handler.client_address``, ``handler.path`` and
        ``handler.headers`` tell whose request it was. What cannot be read as a request never comes here.
        """
