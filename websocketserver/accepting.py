"""Accepting: what an accept loop needs to be woken, to wait out a shortage, and to turn somebody away.

Each class is for the accepting thread but for what it says of others.
"""

from __future__ import annotations

import math
import queue
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Generic, TypeVar

from .deadline import Deadline
from .transport import poll

__all__ = ["Backoff", "Deputy", "Refusals", "Waker"]

Order = TypeVar("Order")


class Waker:
    """A pair of sockets: whoever calls ``wake``, from any thread or signal handler, ends a wait for the other end."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # so that nobody writes to a number that is somebody else's by now
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)

    def fileno(self) -> int:
        """Return the descriptor that becomes readable."""
        return self._reader.fileno()

    def wake(self) -> None:
        """End the wait that is under way, or else the next one. Never blocks."""
        with self._lock, suppress(OSError):  # full: it will wake; closed: nobody waits
            self._writer.send(b"\0")

    def wait(self, seconds: float) -> None:
        """Wait to be woken, so many seconds at most."""
        poll(self._reader.fileno(), True, False, Deadline(seconds))

    def drain(self) -> None:
        """Forget that it was woken."""
        with suppress(OSError):
            self._reader.recv(4096)

    def close(self) -> None:
        """Give both descriptors back."""
        with self._lock:
            self._reader.close()
            self._writer.close()

    def disown(self) -> None:
        """In the child of a fork: close our copies, with a lock that nobody holds."""
        self._lock = threading.RLock()
        self.close()


class Backoff:
    """How long to wait after accept() has failed: 10 ms, doubled each time up to a third of a second."""

    SHORTEST, LONGEST = 0.01, 1 / 3

    def __init__(self) -> None:
        self._pause = 0.0
        self._until = 0.0

    def failed(self) -> None:
        """accept() has failed for want of something: wait, and longer than the last time."""
        self._pause = min(max(self._pause * 2, self.SHORTEST), self.LONGEST)
        self._until = time.monotonic() + self._pause

    def succeeded(self) -> None:
        """accept() works again."""
        self._pause = self._until = 0.0

    def left(self) -> float:
        """Return the seconds left to wait, 0 if none."""
        return max(0.0, self._until - time.monotonic()) if self._until else 0.0


class Refusals:
    """Sockets that got a refusal and are given a moment to read it: closed at once with the peer's request
    unread, they would send a reset, which overtakes the answer."""

    MOMENT = 1.0
    MOST = 128

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the other: not only the serving thread may close the server
        self._waiting: deque[tuple[float, socket.socket]] = deque()

    def add(self, sock: socket.socket, answer: bytes) -> None:
        """Send the answer, as far as the socket takes it now, and close the socket in a moment. Never blocks."""
        with suppress(OSError):
            sock.setblocking(False)
            if answer:
                sock.send(answer)
            sock.shutdown(socket.SHUT_WR)
        with self._lock:
            self._waiting.append((time.monotonic() + self.MOMENT, sock))
            oldest = self._waiting.popleft()[1] if len(self._waiting) > self.MOST else None
        if oldest is not None:
            self._close(oldest)

    def close_due(self) -> None:
        """Close those that have waited for their moment."""
        if self._waiting:
            self._close_until(time.monotonic())

    def close_all(self) -> None:
        """Close all."""
        self._close_until(math.inf)

    def forget(self) -> None:
        """In the child of a fork: close our copies, and read nothing that is the parent's to read."""
        self._lock = threading.Lock()
        for _, sock in self._waiting:
            sock.close()
        self._waiting.clear()

    def _close_until(self, moment: float) -> None:
        while (sock := self._take(moment)) is not None:
            self._close(sock)

    def _take(self, moment: float) -> socket.socket | None:
        with self._lock:
            due = bool(self._waiting) and self._waiting[0][0] <= moment
            return self._waiting.popleft()[1] if due else None

    def _close(self, sock: socket.socket) -> None:
        with suppress(OSError):
            sock.recv(1 << 16)
        sock.close()


class Deputy(Generic[Order]):
    """A thread that waits beside a serving thread which is inside a handler, for an order that this one cannot
    carry out: it goes through the order's ``phases``, each until its deadline, unless the handler has ended.

    Used as a context manager around the handler.
    """

    def __init__(self, phases: Callable[[Order], Iterator[Deadline]]) -> None:
        self._phases = phases
        self._orders: queue.SimpleQueue[Order | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = threading.Thread(target=self._run, daemon=True)

    def order(self, order: Order) -> None:
        """Give the order, from any thread or signal handler; it takes the place of the one that is being done."""
        self._orders.put(order)

    def __enter__(self) -> Deputy[Order]:
        assert self._thread is not None
        try:
            self._thread.start()
        except (RuntimeError, MemoryError):  # none to be had: an order has to wait for the handler
            self._thread = None
        return self

    def __exit__(self, *error: object) -> None:
        self._orders.put(None)
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        order = self._orders.get()
        while order is not None:
            order = self._carry_out(order)

    def _carry_out(self, order: Order) -> Order | None:
        """Go through the phases of an order; return what is ordered next."""
        for deadline in self._phases(order):
            try:
                return self._orders.get(timeout=deadline.left())
            except queue.Empty:
                pass
        return self._orders.get()
