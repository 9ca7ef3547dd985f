"""PoolingWebSocketServer: any number of connections, a few threads.

A connection that has nothing to say keeps no thread. A pool (pool.py) polls for all of them, each of
them a tenant there (pooled.py); the handlers are the same as those of the other servers.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from typing import Any

from .deadline import Deadline
from .ending import Stop
from .pool import Pool
from .pooled import Pooled
from .protocol.closecodes import CloseCode
from .server import WebSocketServer
from .threads import Threads

__all__ = ["PoolingWebSocketServer"]


class PoolingWebSocketServer(WebSocketServer):
    """A server of WebSockets and HTTP with a few threads for all connections. Otherwise as WebSocketServer.

    Handlers are the same as elsewhere, and their hooks may block: up to ``max_workers`` at once. What
    belongs to one connection is done in order, one thing at a time, but not always by the same thread.
    A handler that overrides ``handle_websocket`` gets a thread of its own.
    """

    max_connections = 10_000
    #: How many hooks may be under way at once; messages of other connections wait for their turn. Up to as many
    #: threads more answer HTTP requests and see connections to their end meanwhile.
    max_workers: int = min(32, (os.cpu_count() or 1) + 4)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if not isinstance(self.max_workers, int) or self.max_workers < 1:
            raise ValueError(f"max_workers must be an int of at least 1, not {self.max_workers!r}")
        self._pool: Pool | None = None
        self._pool_lock = threading.RLock()  # guards _pool; a signal handler may come back to it
        self._apart = Threads()  # of handlers with a loop of their own
        super().__init__(*args, **kwargs)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Leave the connection to the pool; refuse it where the system gives no pool, or no room in it."""
        try:
            pool = self._running_pool()
            pool.add(Pooled(self, pool, request, client_address, self._serve_apart))
        except (RuntimeError, MemoryError, OSError) as error:
            self.registry.remove(request)
            self._make_room()  # for the next
            self._refuse(request, f"no pool to be had ({error})")

    def _serve_apart(self, client: Pooled) -> None:
        """Serve a connection in a thread of its own; where there is none to be had, close it."""
        thread = threading.Thread(target=self._run_apart, args=(client,), daemon=True)
        try:
            self._apart.start(thread)
        except (RuntimeError, MemoryError) as error:
            self._log_seldom("apart", "connections are closed: no thread to be had (%s)", error)
            client.serve_apart(CloseCode.TRY_AGAIN_LATER)

    def _run_apart(self, client: Pooled) -> None:
        try:
            client.serve_apart()
        finally:
            self._apart.ending()

    def _begin_serving(self) -> None:
        super()._begin_serving()
        with suppress(RuntimeError, MemoryError, OSError):  # the next connection tries again
            self._running_pool()

    def _running_pool(self) -> Pool:
        with self._pool_lock:
            pool = self._pool
            if pool is None or pool.is_stopping():
                pool = Pool(self.max_workers)
                pool.start()
                self._pool = pool
            return pool

    def _disown(self) -> None:
        super()._disown()
        if self._pool is not None:
            self._pool.disown()
        self._pool, self._pool_lock, self._apart = None, threading.RLock(), Threads()

    def _end_connections(self, stop: Stop, *, leaving: bool = True) -> None:
        super()._end_connections(stop, leaving=leaving)
        deadline = self._patience(stop) if leaving and stop.wait else Deadline(0)
        if (pool := self._pool) is not None:
            pool.stop(deadline)
        self._apart.join(deadline, self.registry.threads_not_awaited(leaving))
