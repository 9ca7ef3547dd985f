"""Ending: how a server comes to its end, by one deadline.

Owns     the phases of a shutdown: admit nobody, drain, close, wait, cut; who carries them out; ``run``.
Never    waits without the deadline, nor runs anything but setting a flag in a signal handler.

The locks are in registry.py. What is here is written by whoever asks for the end, and by the serving thread.
"""

from __future__ import annotations

import os
import queue
import signal
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import HTTPServer
from types import EllipsisType
from typing import Any, NamedTuple

from .accepting import Deputy, Waker
from .deadline import HASTE, Deadline
from .exceptions import Close
from .protocol.closecodes import CloseCode, pack_close
from .registry import GRACE, Registry
from .report import ShutdownReport

__all__ = ["NOW", "Ending", "Stop"]

NOW = Deadline(0)
SIGNALS = ("SIGINT", "SIGTERM")

_News = queue.SimpleQueue["BaseException | int | None"]  # of run: the number of a signal, or how serving has ended


class Stop(NamedTuple):
    """A shutdown that was asked for; ``wait``: for the handlers to end, or only for the accept loop."""

    close: Close
    deadline: Deadline
    drain: Deadline = NOW  # until then connections may end by themselves
    wait: bool = True


class Ending(HTTPServer):
    """The standard library's server with an end of our own."""

    #: Seconds for shutdown() and server_close(); None: no limit.
    shutdown_timeout: float | None = 10
    #: Whether server_close() waits for the handlers to end.
    block_on_close = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.registry = Registry()
        self._waker = Waker()
        self._ordering = threading.RLock()  # guards the next two; a signal handler may come back to it
        self._deputy: Deputy[Stop] | None = None
        self._stop: Stop | None = None  # asked for, and not done yet
        self._serving: int | None = None  # the thread inside serve_forever or handle_request
        self._barred = threading.Event()  # nobody admits connections
        self._barred.set()
        self._stopped = threading.Event()  # nobody serves
        self._stopped.set()
        self._close_at_end = False
        _servers.add(self)
        super().__init__(*args, **kwargs)

    def shutdown(  # type: ignore[override]  # None in the standard library
        self, timeout: float | EllipsisType | None = ..., code: int = 1001, reason: str = "", *, drain: float = 0
    ) -> ShutdownReport | None:
        """Stop serving: close all connections with this code and reason, wait for the handlers, cut what remains.

        All of it within ``timeout`` seconds (None: no limit; by default ``shutdown_timeout``). For the first ``drain``
        seconds of them nobody is closed: connections may end by themselves, while new requests get 503.
        Any thread, any time, also from a handler, which is not waited for, and from a signal handler. In the
        serving thread it returns None at once, and serve_forever does the work on its way out; elsewhere it returns
        what became of the connections. Raises ValueError or TypeError for a code or reason that may not be sent,
        ValueError for a drain that leaves nothing of the timeout.
        """
        return self._shut_down(self._make_stop(timeout, code, reason, drain))

    def run(
        self, timeout: float | EllipsisType | None = ..., code: int = 1001, reason: str = "", *, drain: float = 0
    ) -> ShutdownReport:
        """Serve until SIGINT (Ctrl-C) or SIGTERM, shut down as ``shutdown`` does, and return what became of all.

        A second signal cuts at once all that is left. The handlers of both signals are as before when this
        returns; one that the program was started to ignore is ignored. Connections are served in other threads
        than this one. Ends, too, where somebody calls ``shutdown``. Raises RuntimeError but in the main thread,
        where signals arrive, and for the arguments as ``shutdown`` does.
        """
        self._make_stop(timeout, code, reason, drain)  # wrong arguments are told of now
        news: _News = queue.SimpleQueue()
        thread = threading.Thread(target=self._serve, args=(news,), name="websocketserver-serving", daemon=True)
        with _signals(news.put):
            try:
                thread.start()
                if _is_signal(news, Deadline(None)):
                    stop = self._make_stop(timeout, code, reason, drain)
                    self._order(stop)
                    if _is_signal(news, stop.deadline):
                        self._cut(stop)
            except BaseException:
                self._shut_down(Stop(Close(CloseCode.GOING_AWAY), Deadline(GRACE)))
                raise
        self.registry.give_up()
        thread.join(GRACE)
        return self.registry.report()

    def server_close(self) -> None:
        """End the listener, and all connections and handlers, within ``shutdown_timeout``."""
        self._close_within(self.shutdown_timeout)

    def __exit__(self, *error: Any) -> None:
        """As ``server_close``; where something like Ctrl-C has ended the block, within a second."""
        if error[0] is None or issubclass(error[0], Exception):
            self.server_close()
        else:
            self._close_within(HASTE if self.shutdown_timeout is None else min(HASTE, self.shutdown_timeout))

    def _close_within(self, seconds: float | None) -> None:
        self._close_at_end = True
        try:
            self._shut_down(Stop(Close(CloseCode.GOING_AWAY), Deadline(seconds), wait=self.block_on_close))
        finally:  # also where Ctrl-C has ended the wait
            if self._serving != threading.get_ident():
                self._release()

    def _release(self) -> None:
        """Close what the server itself has open."""
        super().server_close()
        self._waker.close()

    # In the child of a fork

    def _forked(self) -> None:
        """Leave the server to the parent if that serves; or be ready to serve here."""
        self._ordering = threading.RLock()
        self._waker.disown()
        if self._serving in (None, threading.get_ident()):  # not begun, or this thread goes on with a handler
            self._waker = Waker()
        else:
            self._disown()

    def _disown(self) -> None:
        """Close our copies of what the parent has open. There is one thread, and the locks are as others left them."""
        self.socket.close()
        self.registry.disown()
        self.registry = Registry()
        self._deputy = self._stop = self._serving = None
        self._barred, self._stopped = threading.Event(), threading.Event()
        self._barred.set()
        self._stopped.set()

    # For the serving thread

    def _begin_serving(self) -> None:
        self._stopped.clear()
        self._barred.clear()
        self._serving = threading.get_ident()
        if self._stop is None:
            self.registry.reopen()

    def _end_serving(self) -> None:
        """Do the work of a shutdown; handlers that wait in it themselves are waited for last."""
        self._barred.set()
        stop = self._stop
        if stop is not None:
            self._end_connections(stop, leaving=False)
        self._stop = self._serving = None
        self._stopped.set()
        if stop is not None:
            self._end_connections(stop)
        if self._close_at_end:
            self._release()

    def _serve(self, news: _News) -> None:
        """Serve in a thread of ``run``, and tell of the end."""
        try:
            self.serve_forever()
        except BaseException as error:
            news.put(error)
        else:
            news.put(None)

    # The phases

    def _make_stop(self, timeout: float | EllipsisType | None, code: int, reason: str, drain: float) -> Stop:
        pack_close(code, reason)
        seconds = self.shutdown_timeout if isinstance(timeout, EllipsisType) else timeout
        if drain < 0 or seconds is not None and 0 < drain >= seconds:
            raise ValueError(f"drain must be from 0 to less than the timeout of {seconds} seconds, not {drain}")
        return Stop(Close(code, reason), Deadline(seconds), Deadline(drain))

    def _order(self, stop: Stop) -> None:
        # On the serving thread nothing but this may happen: a signal handler may have interrupted it anywhere.
        with self._ordering:
            self._stop = stop
            deputy = self._deputy
        self._waker.wake()
        if deputy is not None:
            deputy.order(stop)

    def _shut_down(self, stop: Stop) -> ShutdownReport | None:
        self._order(stop)
        me = threading.get_ident()
        if self._serving == me:
            return None
        handler = self.registry.leave(me)
        self._barred.wait(self._patience(stop).left())
        self._end_connections(stop, leaving=not handler)
        self._stopped.wait(self._patience(stop).left())
        if not handler:
            self._end_connections(stop)  # whom the serving thread had not known of before
        return self.registry.report()

    def _appoint(self, deputy: Deputy[Stop] | None) -> None:
        """Have a deputy from now on, or none; it gets an order, too, that was given before."""
        with self._ordering:
            self._deputy, stop = deputy, self._stop
        if deputy is not None and stop is not None:
            deputy.order(stop)

    def _phases(self, stop: Stop) -> Iterator[Deadline]:
        """Begin phase after phase; after each, the handlers have until the deadline to end. Never blocks."""
        if not stop.drain.passed():
            self.registry.start_draining(self._waker.wake)
            yield stop.drain
        self.registry.start_closing(stop.close)
        left = stop.deadline.left()
        yield Deadline(None if left is None else max(left - GRACE, left / 2))
        self.registry.cut()
        yield stop.deadline

    def _end_connections(self, stop: Stop, *, leaving: bool = True) -> None:
        """Go through the phases until all handlers have ended, with leaving=False: all but those that wait here."""
        for deadline in self._phases(stop):
            ended = not stop.wait or self.registry.wait(deadline, leaving=leaving)
            if ended and self.registry.is_closing():
                return
        if leaving:
            self.registry.give_up()

    def _cut(self, stop: Stop) -> None:
        """Cut all at once; what ends by that has a moment for it."""
        self.registry.start_closing(stop.close)
        self.registry.cut()
        self._end_connections(Stop(stop.close, Deadline(GRACE)))

    def _patience(self, stop: Stop) -> Deadline:
        """Return until when to wait for what comes behind the handlers: not for long where some have been given up."""
        return stop.deadline.sooner(GRACE) if self.registry.has_given_up() else stop.deadline


_servers: weakref.WeakSet[Ending] = weakref.WeakSet()  # all of this process


def _leave_to_parent() -> None:
    for server in list(_servers):
        server._forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)


def _is_signal(news: _News, deadline: Deadline) -> bool:
    """Wait for a signal; return False where serving ends first, or the deadline comes. Raises what serving raised."""
    while not deadline.passed():
        try:
            what = news.get(timeout=deadline.one_wait().left())
        except queue.Empty:
            continue
        if isinstance(what, BaseException):
            raise what
        return what is not None
    return False


@contextmanager
def _signals(tell: Callable[[int], None]) -> Iterator[None]:
    """Tell of SIGINT and SIGTERM, but for those that are ignored."""
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError(
            "run() works in the main thread only, where signals arrive; elsewhere use serve_forever() and shutdown()"
        )
    with ExitStack() as stack:
        for name in SIGNALS:
            number = getattr(signal, name)
            before = signal.getsignal(number)
            if before not in (signal.SIG_IGN, None):  # None: not Python's, and could not be put back
                signal.signal(number, lambda number, frame: tell(number))
                stack.callback(signal.signal, number, before)
        yield
