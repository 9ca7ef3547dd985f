"""Servers on a Unix socket; where the system has none, this module has no class."""

from __future__ import annotations

import os
import socket
import stat
from contextlib import suppress
from typing import Any

from .server import ThreadingWebSocketServer, WebSocketServer

__all__: list[str] = []

if hasattr(socket, "AF_UNIX"):
    __all__ += ["ThreadingUnixWebSocketServer", "UnixWebSocketServer"]

    class UnixWebSocketServer(WebSocketServer):
        """A WebSocketServer on a Unix socket; ``server_address`` is its path (str or bytes), or the socket itself.

        A socket at that path on which nobody listens any more is replaced (``allow_reuse_address``); ours is
        removed by ``server_close``, but not one that was given. ``client_address`` is "" unless the client has
        bound its socket.
        """

        address_family = socket.AF_UNIX
        _bound: Any = None  # the path that is ours to remove

        def server_bind(self) -> None:
            """Bind to the path; ``server_name`` is the path, ``server_port`` 0."""
            path: Any = self.server_address
            if self.allow_reuse_address and _is_abandoned(path):
                os.unlink(path)
            self.socket.bind(path)
            self._bound = path
            self.server_address = self.socket.getsockname()
            self._set_names(path)

        def _forked(self) -> None:
            self._bound = None  # the parent removes it
            super()._forked()

        def _release(self) -> None:
            super()._release()
            if self._bound is not None:
                with suppress(OSError, ValueError):  # gone already; ValueError: in the abstract namespace
                    os.unlink(self._bound)
                self._bound = None

    class ThreadingUnixWebSocketServer(ThreadingWebSocketServer, UnixWebSocketServer):
        """A ThreadingWebSocketServer on a Unix socket; see UnixWebSocketServer."""


def _is_abandoned(path: Any) -> bool:
    """Return whether there is a socket at this path on which nobody listens."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return False
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            probe.connect(path)
    except ConnectionRefusedError:
        return True
    except (OSError, ValueError):  # not there, ours to see or a path at all: bind will say so
        pass
    return False
