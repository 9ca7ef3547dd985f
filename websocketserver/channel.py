"""Channel: one endpoint on one transport, used by any number of threads at once.

Owns     the closing handshake and the end of the descriptor; joins pump.py and output.py.
Never    has a thread of its own, and never runs code of the application. connection.py is its face.

Locks are taken in the order write lock (output.py), state lock (pump.py), never the reverse. The
descriptor is closed by the last to leave: never while somebody pumps or writes.
"""

from __future__ import annotations

import threading
import time
from abc import abstractmethod
from collections.abc import Callable

from .deadline import Deadline, in_main_thread
from .exceptions import Close, ConnectionClosed, ConnectionClosedOK
from .intake import LITTLE
from .keepalive import timer
from .output import CLOSE, FIN, PONG, Broken, Output
from .protocol.closecodes import MAX_REASON, pack_close
from .protocol.endpoint import Receiver, Role
from .protocol.events import Closed, Ping
from .protocol.sender import Sender
from .pump import NOW, Pump
from .settings import Settings
from .transport import Transport

__all__ = ["SLOW", "Channel"]

MOST_LOCKED = 0.5  # seconds, far more than anybody needs who has the state lock
SLOW = "sending timed out"  # how it is said that the peer does not read


class Channel(Pump):
    """What connection.py builds on. Every method may be called from any thread unless it says "as the pump"."""

    __slots__ = {  # what help() says of each
        "_cut_at": None,
        "_cutting": None,
        "_detail": None,
        "_ended_at": None,
        "_ending": None,
        "_opened_at": None,
        "_output": None,
        "_pings_received": None,
        "_received": None,
        "_released": None,
        "_unread": None,
        "role": "Which side of the connection this is (Role).",
        "visit_at": "For the timer (keepalive.Visited): when it comes, by time.monotonic; None: not at all.",
    }

    def __init__(
        self,
        transport: Transport,
        role: Role,
        receiver: Receiver,
        sender: Sender,
        settings: Settings,
        hooks: frozenset[str],
    ) -> None:
        super().__init__(transport, receiver, settings, hooks)
        self.visit_at: float | None = None  # the timer's
        self.role = role
        self._received: Close | None = None  # the peer's Close; this and what follows: guarded by the state lock
        self._detail = ""  # why the connection ended, where no Close says so
        self._cutting = False  # somebody is shutting the socket down
        self._released = False  # the descriptor was closed
        self._cut_at: float | None = None  # when the timer cuts the socket (time.monotonic)
        self._opened_at = time.monotonic()
        self._ended_at: float | None = None  # when it was cut
        self._pings_received = 0  # the pump's
        self._ending = False  # somebody waits for the end of the stream
        self._unread = False  # the writer has left input unread; guarded by the write lock
        self._output = Output(
            transport,
            sender,
            state_lock=self._lock,
            await_writable=self._await_writable,
            stall=settings.send_timeout,
        )

    # Sending

    def _flush(self) -> None:
        """Send what is pending as far as it goes without blocking."""
        try:
            done = self._output.flush()
        except BaseException:
            self._cut("interrupted while sending")
            raise
        if not done:
            self._come_soon()
        if self._over:
            self._release()

    def _stop_gathering(self, deadline: Deadline) -> None:
        if self._gathering == threading.get_ident():
            self._gathering = None
            if self._output.gathered:
                self._send_gathered(deadline)

    def _send_gathered(self, deadline: Deadline) -> None:
        """Send what was gathered, and what is pending before it; what is late the timer sends."""
        if self._lock_output(deadline):
            try:
                if not self._write_pending(deadline) and not deadline.passed():
                    self._cut(f"{SLOW} in the middle of a message")
            except Broken:
                pass  # whoever sends or receives next learns of it
            finally:
                self._unlock_output()

    def _write_pending(self, deadline: Deadline) -> bool:
        """Send what is pending, holding the write lock; False if the deadline came first. Raises Broken."""
        try:
            return self._output.write_pending(deadline)
        except Broken:
            raise
        except BaseException:  # nobody knows what has left
            self._cut("interrupted while sending")
            raise

    def _lock_output(self, deadline: Deadline) -> bool:
        """Take the write lock; False if the deadline came first."""
        lock = self._output.lock
        if lock.acquire(False):
            return True
        while True:
            wait = deadline.one_wait()
            left = wait.left()
            if lock.acquire(timeout=-1 if left is None else left):
                return True
            if wait is deadline or deadline.passed():
                return False

    def _unlock_output(self) -> None:
        """Leave the write lock and look again at what was queued meanwhile."""
        output = self._output
        unread = self._unread
        if unread:
            self._unread = False
        output.lock.release()
        if unread:  # the peer may be waiting for us to read all that it sends, now or in a moment
            self._come_soon()
        if output.queued or output.rest or self._over:
            self._flush()

    def _await_writable(self, deadline: Deadline) -> bool:
        """What a writer does while the socket is full: wait for room, and read for all meanwhile.

        If it only waited, two such peers would wait for each other for ever.
        """
        while True:
            with self._lock:
                reads = self._reads
                readable = not (self._eof or self._over or self._full())
            can_read, can_write = self._transport.wait(readable, True, deadline)
            if can_write:
                self._unread = self._unread or can_read
                return True
            if not can_read or deadline.passed():  # a peer that sends on and on must not hold a writer
                return False
            with self._lock:
                while self._pumping and self._reads == reads:  # somebody reads that: wait for the read to end
                    if not self._wait_locked(deadline):
                        return False
                if self._pumping or self._over:
                    continue
                self._pumping = True
            self._collect(NOW)
            self._unread = True

    def _lost_error(self) -> ConnectionClosed:
        """Return what to raise where the stream takes nothing more: what has come may say why."""
        self._attend()
        return self._closed_error()

    def _sending_failed(self, error: BaseException) -> BaseException:
        """Return what to raise for a message that met this error; unless the stream was gone, it is cut."""
        if isinstance(error, Broken):
            return self._lost_error()
        if isinstance(error, TimeoutError):
            self._cut(f"{SLOW} in the middle of a message")
            return TimeoutError("the message could not be sent in time; the connection was aborted")
        self._cut("interrupted while sending")  # or an extension failed: nobody knows what has left
        return error

    def _on_ping(self, event: Ping) -> None:
        self._pings_received += 1
        self._output.queue(PONG, event.payload)  # 5.5.2; of several that wait, the newest is answered (5.5.3)
        self._flush()

    @abstractmethod
    def _come_soon(self) -> None:
        """Have the timer come soon, and again with growing pauses: maybe nobody waits for room, or for input."""

    # Closing

    @abstractmethod
    def visit(self, now: float) -> float | None:
        """What the timer does (keepalive.Visited)."""

    def _on_close(self, event: Closed) -> None:
        """As the pump, note the peer's Close and echo its code (5.5.1)."""
        with self._lock:
            self._received = Close(event.code, event.reason)
            if self._sent is None:
                self._sent = Close(event.code)
                self._output.queue_locked(CLOSE, pack_close(event.code))
            self._end_input_locked(fin=self.role is Role.SERVER)  # 7.1.1: the server ends the stream first
        self._flush_ending()
        if self._output.finished and self._has_heard_all():
            with self._lock:
                self._eof = True
            self._cut_off("")

    def _has_heard_all(self) -> bool:
        """As the pump, behind the peer's Close, return whether its stream need not be awaited any further.

        Nothing follows a Close (5.5.1), so a plain socket whose input was read can be closed: what it has been given
        arrives. With input unread its end would be a reset, which overtakes that; over TLS a close_notify comes yet.
        """
        return self._room == LITTLE and not (self._receiver.buffered or self._transport.hides)

    def _fail(self, code: int, detail: str) -> None:
        """Fail the connection (7.1.7): say why, end our half of the stream, hear no more."""
        with self._lock:
            if self._input_over:
                return
            self._failed = True
            self._detail = detail
            if self._sent is None:
                self._sent = Close(code, _cut_reason(detail))
                self._output.queue_locked(CLOSE, pack_close(*self._sent))
            self._end_input_locked(fin=True)
        self._flush_ending()

    def _on_eof(self, detail: str) -> None:
        """As the pump, note the end of the peer's stream."""
        with self._lock:
            self._eof = True
            if self._received is None and not self._detail:
                self._detail = detail
            self._end_input_locked(fin=False)
        self._flush_ending()

    def start_close(self, code: int = 1000, reason: str = "") -> None:
        """Begin the closing handshake (RFC 6455, section 7.1.2) without waiting for anything.

        The Close is sent as soon as the socket takes it; the timer cuts the connection
        ``close_timeout`` seconds later. Does nothing where the connection is ending already. Raises
        ValueError or TypeError for a code or reason that may not be sent.
        """
        payload = pack_close(code, reason)
        if self._passes_on(self.start_close, code, reason):
            return
        with self._lock:
            if self._sent is not None or self._input_over:
                return
            self._sent = Close(code, reason)
            self._output.queue_locked(CLOSE, payload)
            self._cut_at = time.monotonic() + self.settings.close_timeout
            if self._waiting:
                self._notify_locked()
        self._flush_ending()

    def _passes_on(self, method: Callable[..., object], *args: object) -> bool:
        """Have another thread call a method where this one holds the state lock: a signal handler has interrupted it.

        Nobody else holds it for as long as this waits. Return whether that was so.
        """
        if not (self._lock.locked() and in_main_thread()):
            return False
        if self._lock.acquire(timeout=MOST_LOCKED):
            self._lock.release()
            return False
        threading.Thread(target=method, args=args, name="websocketserver-closing", daemon=True).start()
        return True

    def _end_input_locked(self, fin: bool) -> None:
        self._input_over = True
        if fin:
            self._output.queue_locked(FIN)
        if self._cut_at is None:
            self._cut_at = time.monotonic() + self.settings.close_timeout
        if self._waiting:
            self._notify_locked()

    def _flush_ending(self) -> None:
        if self._output.queued or self._output.rest:
            self._flush()
        if self._cut_at is not None:
            timer.schedule(self, self._cut_at)

    def _end(self, deadline: Deadline) -> None:
        """Finish what is pending, wait for the end of the peer's stream, then cut; all by the deadline."""
        self._ending = True
        try:
            if self._output.waits and self._lock_output(deadline):
                try:
                    self._output.write_pending(deadline)
                except Broken:
                    pass
                finally:
                    self._unlock_output()
            self._pump_to_end(deadline)
        finally:
            self._cut("the closing handshake did not end in time")

    def _cut(self, detail: str) -> None:
        """End everything now; never blocks."""
        self._cut_off(detail)
        self._tell_pool()

    def _cut_off(self, detail: str) -> None:
        """The same for the pump, which tells the pool in any case."""
        with self._lock:
            if self._over:
                return
            self._over = self._input_over = self._cutting = True
            self._ended_at = time.monotonic()
            if self._received is None and not self._detail:
                self._detail = detail
            if self._waiting:
                self._notify_locked()
        try:
            if not (self._eof and self._output.finished):  # else both directions have ended already
                self._transport.shutdown()  # wakes the pump and the writer
        finally:
            self._cutting = False
            self._release()

    def _release(self) -> None:
        """Close the descriptor once the connection is over and nobody uses it: the last to leave does."""
        while not (self._released or self._in_use()):  # the pump, the pool or whoever cuts comes here when it leaves
            if not self._output.lock.acquire(False):
                return  # its holder comes here when it leaves
            try:
                with self._lock:
                    last = not (self._in_use() or self._released)
                    self._released = self._released or last
                if last:
                    self._output.end()
                    self._transport.close()
            finally:
                self._output.lock.release()
            if last:
                return

    def disown(self) -> None:
        """In the child of a fork (keepalive.Visited): the connection is the parent's, and only over for this process.

        Else the peer would see no end of the stream before the child's own, and two processes could write to it.
        """
        self._lock = threading.Lock()  # whoever held the other, or waits, is not here
        self._changed, self._waiting, self._pumping, self._cutting = None, 0, False, False
        self._announce = self._turn = None
        self._eof = self._over = self._input_over = self._released = True
        self._detail = self._detail or "the process was forked, and the connection stayed with the parent"
        self._output.disown(self._lock)
        self._transport.close()

    def _in_use(self) -> bool:
        """Return whether anybody but a writer uses the descriptor."""
        return self._pumping or self._cutting or self._announce is not None

    def _closed_error(self) -> ConnectionClosed:
        normal = self._received is not None and self._received.code in (1000, 1001)
        detail = self._detail or self._output.broken
        return (ConnectionClosedOK if normal else ConnectionClosed)(self._received, self._sent, detail)


def _cut_reason(detail: str) -> str:
    """Return as much of a text as a Close frame takes."""
    return detail.encode()[:MAX_REASON].decode(errors="ignore")
