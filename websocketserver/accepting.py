"""Accepting: what an accept loop needs to be woken, to wait out a shortage, to turn somebody away, to hand over.

Each class but the threads of handlers is for the accepting thread, but for what it says of others.
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
from contextvars import Context
from typing import Any, Generic, TypeVar

from .deadline import Deadline
from .transport import poll

__all__ = ["Backoff", "Deputy", "Refusals", "Threads", "Waker"]

MOST_SPARE = 16  # threads that wait for another connection; where they come one after the other, a few do

Order = TypeVar("Order")
Call = tuple[Any, ...]  # what is called, and with what


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


class HandlerThread(threading.Thread):
    """A thread that carries out an order, a call, and each further one that it gets within ``patience`` seconds."""

    def __init__(self, threads: Threads, order: Call, daemon: bool, patience: float | None) -> None:
        super().__init__(daemon=daemon)
        self.name += f" ({order[0].__name__})"  # as for a target, which it would keep
        self.orders: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        self.orders.put(order)
        self.patience = patience
        self._of = threads

    def run(self) -> None:
        """Each time begin as a new thread does, with a context of its own."""
        try:
            order = self.orders.get()
            while order is not None:
                Context().run(*order)
                del order  # who waits holds on to nobody
                order = self._of.next_order(self)
        finally:
            self._of.ending()


class Threads:
    """The threads of handlers. Thread-safe."""

    def __init__(self) -> None:
        self.disown()

    def disown(self) -> None:
        """In the child of a fork: none of them is here."""
        self._lock = threading.RLock()  # guards all below; a signal handler may come back to it
        self._threads: set[threading.Thread] = set()
        self._ended: deque[threading.Thread] = deque()
        self._spare: list[HandlerThread] = []  # whose connections are over, the last of them last
        self._keeping = False  # there may be another connection for them

    def call(self, order: Call, daemon: bool, patience: float | None) -> None:
        """Have a thread that has nothing else to do call ``order[0](*order[1:])``; raises as ``start``."""
        with self._lock:
            self._keeping = True
            if self._spare:
                self._spare.pop().orders.put(order)
                return
        self.start(HandlerThread(self, order, daemon, patience))

    def next_order(self, thread: HandlerThread) -> Call | None:
        """As a thread whose connection is over: wait for another; None if none comes in time."""
        deadline = Deadline(thread.patience)
        with self._lock:
            # A thread that is no daemon would keep the program from ending.
            if not (self._keeping and thread.daemon and thread.patience != 0 and len(self._spare) < MOST_SPARE):
                return None
            self._spare.append(thread)
        with suppress(queue.Empty):
            return thread.orders.get(timeout=deadline.left())
        with self._lock, suppress(queue.Empty):
            if thread in self._spare:
                self._spare.remove(thread)
            return thread.orders.get_nowait()  # that has come this moment
        return None

    def dismiss(self) -> None:
        """There are no more connections: have those end that wait for one, and all others when theirs is over."""
        with self._lock:
            self._keeping = False
            while self._spare:
                self._spare.pop().orders.put(None)

    def start(self, thread: threading.Thread) -> None:
        """Start a thread and remember it; raises RuntimeError or MemoryError where no thread is to be had."""
        self.reap()
        with self._lock:
            self._threads.add(thread)
        try:
            thread.start()
        except (RuntimeError, MemoryError):  # where anything else interrupts this, it may be running
            with self._lock:
                self._threads.discard(thread)
            raise

    def ending(self) -> None:
        """The calling thread is about to end."""
        with self._lock:
            self._ended.append(threading.current_thread())

    def reap(self) -> None:
        """Forget those that have ended."""
        with self._lock:
            while self._ended and not self._ended[0].is_alive():
                self._threads.discard(self._ended.popleft())

    def join(self, deadline: Deadline, but: set[int | None]) -> None:
        """Wait for all to end, but for the calling thread and those with these identifiers."""
        with self._lock:
            threads = list(self._threads)
        for thread in threads:
            if thread.is_alive() and thread is not threading.current_thread() and thread.ident not in but:
                thread.join(deadline.left())
        self.reap()


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
