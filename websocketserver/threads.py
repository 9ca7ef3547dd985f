"""Threads: those that handlers run in, each for one connection after the other."""

from __future__ import annotations

import queue
import threading
from collections import deque
from contextlib import suppress
from contextvars import Context
from typing import Any

from .deadline import Deadline

__all__ = ["HandlerThread", "Threads"]

MOST_SPARE = 16  # threads that wait for another connection; where they come one after the other, a few do

Call = tuple[Any, ...]  # what is called, and with what


class HandlerThread(threading.Thread):
    """A thread that carries out an order, a call, and each further one that it gets within ``patience`` seconds."""

    def __init__(self, threads: Threads, order: Call, daemon: bool, patience: float | None) -> None:
        super().__init__(daemon=daemon)
        with suppress(AttributeError):  # as for a target, which it would keep; a partial has no name
            self.name += f" ({order[0].__name__})"
        self.orders: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        self.orders.put(order)
        self.patience = Deadline(patience).left()  # as much of it as the system can wait for
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
        with self._lock:
            # A thread that is no daemon would keep the program from ending.
            if not (self._keeping and thread.daemon and thread.patience != 0 and len(self._spare) < MOST_SPARE):
                return None
            self._spare.append(thread)
        try:
            return thread.orders.get(timeout=thread.patience)
        except queue.Empty:
            pass
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
