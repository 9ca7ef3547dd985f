"""Pump: the receiving direction of a channel: the inbox, and who reads the socket for it.

Whoever waits, pumps: the thread that waits for something reads the socket itself if nobody else
does, otherwise it waits on the condition. At most one thread is the pump, and the receiving half of
the endpoint is its own; a message that it waits for itself does not pass through the inbox.
"""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from .deadline import Deadline
from .exceptions import ConnectionClosed
from .intake import MOST_AHEAD, OVERHEAD, Intake
from .protocol.endpoint import Receiver
from .protocol.events import AppEvent, Message
from .settings import Settings
from .transport import Transport

__all__ = ["Pump"]

MOST_LATE = 16  # reads beyond the deadline: what is there is found, but a peer that sends on and on holds nobody
READS_PER_VISIT = 16  # so that one flooding peer does not keep the timer from the others

EMPTY: deque[AppEvent] = deque(maxlen=0)  # the inbox of all that have never needed one, which is most: a deque is large
NOBODY: dict[Any, None] = {}  # stays empty
MOST_GATHERING = 0.002  # seconds that a message waits for the next, gathered; at most twice as long
NOW, NEVER = Deadline(0), Deadline(None)

gatherers: dict[int, Pump] = {}  # by thread: whose events it handles, with more of them at hand


class Turn:
    """Somebody's right to a direction while a message comes or goes in pieces: fragments.py deals with it."""

    __slots__ = ("begun", "given_up", "thread")

    def __init__(self) -> None:
        self.thread: int | None = None  # the one that uses it
        self.begun = False  # a piece was there, and not yet the last
        self.given_up = False


class Pump(Intake):
    """Every method may be called from any thread unless it says "as the pump"."""

    __slots__ = (
        "_announce",
        "_gathering",
        "_guests",
        "_inbox",
        "_over",
        "_polled",
        "_pumping",
        "_turn",
    )

    def __init__(self, transport: Transport, receiver: Receiver, settings: Settings, hooks: frozenset[str]) -> None:
        super().__init__(transport, receiver, settings, hooks)
        self._gathering: int | None = None  # the thread whose messages are gathered; that thread's, as the next
        self._guests: dict[Any, None] = NOBODY  # others for which it has gathered: sharing.py deals with them
        # The state lock guards all that follows.
        self._announce: Callable[[], None] | None = None  # set while a pool has the descriptor in its poll set
        self._polled = False  # the pool waits for input: the timer need not
        self._pumping = False
        self._inbox = EMPTY
        self._turn: Turn | None = None  # who receives a message in pieces: all others wait
        self._over = False  # the socket was cut: nobody may begin to use it

    # What the rest of the connection does

    @abstractmethod
    def _stop_gathering(self, deadline: Deadline) -> None:
        """If this thread gathers what it sends, send that now, as far as it goes by the deadline."""

    def _leave_gathering(self, thread: int) -> None:
        """The thread takes no more events: what it has gathered for itself the timer sends, if anything is left."""
        self._gathering = None
        if gatherers.get(thread) is self:
            del gatherers[thread]

    @abstractmethod
    def _await_turn_locked(self, turn: Turn | None, deadline: Deadline) -> None:
        """Wait until this is the turn (None: nobody's); raises TimeoutError and, at the end, ConnectionClosed."""

    @abstractmethod
    def _release(self) -> None:
        """Close the descriptor if nobody uses it any more."""

    @abstractmethod
    def _closed_error(self) -> ConnectionClosed:
        """Return what to raise when there is nothing more to come."""

    # Receiving

    def _next(self, deadline: Deadline, ahead: bool = False, turn: Turn | None = None) -> AppEvent:
        """Return the next event for the application, pumping or waiting for whoever pumps.

        With ``ahead``, what has come with it is put into the inbox at once; with a turn, messages come in pieces.
        """
        while True:
            if self._gathering is not None and not self._inbox:
                self._stop_gathering(deadline)
            with self._lock:
                if self._turn is not turn:
                    self._await_turn_locked(turn, deadline)
                if self._inbox:
                    return self._take_locked()
                if self._input_over:
                    raise self._closed_error()
                if self._pumping:
                    if not self._wait_locked(deadline) and not self._inbox and not self._input_over:
                        raise TimeoutError("no message in time")
                    continue
                self._pumping = True
            event = self._pump(deadline, ahead, turn is not None)
            if event is not None:
                return event
            if deadline.passed():
                with self._lock:
                    if not self._inbox and not self._input_over:
                        raise TimeoutError("no message in time")

    def _next_ready(self, read: bool) -> AppEvent | None:
        """Return the next event that is here or, with ``read``, can be read at once; None if there is none.

        Raises as ``_next`` at the end.
        """
        with self._lock:
            if self._turn is not None:  # rare, and never for long if the application takes what it asked for
                self._await_turn_locked(None, NEVER)
            if self._inbox:
                return self._take_locked()
            if self._input_over:
                raise self._closed_error()
            if self._pumping:  # who does will announce what comes of it
                return None
            self._pumping = True
        try:
            event = self._parse() if self._unparsed else None
            if event is None and read and not self._input_over and self._read(NOW):
                event = self._parse()
            if self._unparsed:
                self._look_ahead()
            return event
        except BaseException:
            self._interrupted()
            raise
        finally:
            self._leave_pump()

    def _take_locked(self) -> AppEvent:
        event = self._inbox.popleft()
        self._inbox_size -= cost(event)
        if self._waiting:  # somebody may be waiting for room
            self._notify_locked()
        return event

    def _wait_locked(self, deadline: Deadline) -> bool:
        """Wait for the state to change, or a moment; False if the deadline came first."""
        if self._changed is None:
            self._changed = threading.Condition(self._lock)
        wait = deadline.one_wait()
        self._waiting += 1
        try:
            return self._changed.wait(wait.left()) or not (wait is deadline or deadline.passed())
        finally:
            self._waiting -= 1

    def _pump_until(self, done: Callable[[], bool], deadline: Deadline) -> bool:
        """Wait until ``done()`` holds, asked with the state lock held, and meanwhile read for all."""
        if self._gathering is not None:
            self._stop_gathering(deadline)
        while True:
            with self._lock:
                while not done():
                    if not (self._pumping or self._over or self._full()):
                        self._pumping = True
                        break
                    if not self._wait_locked(deadline):
                        return done()
                else:
                    return True
            self._collect(deadline)
            if deadline.passed():
                with self._lock:
                    return done()

    def _pump_to_end(self, deadline: Deadline) -> None:
        """Wait for the end of the peer's stream, and meanwhile read for all."""
        if self._gathering is not None:
            self._stop_gathering(deadline)
        with self._lock:
            quickly = self._sent is not None and not (self._pumping or self._over or self._eof)
            if quickly:
                self._pumping = True
        if not quickly:
            self._pump_until(lambda: self._eof or self._over, deadline)
            return
        try:
            if self._unparsed:
                self._parse()  # after our Close, nothing of it is the application's
            while self._read(deadline):
                if self._unparsed:
                    self._parse()
                if self._eof or self._over or deadline.passed():
                    break
                self._read_ended()
        except BaseException:
            self._interrupted()
            raise
        finally:
            self._leave_pump()
            self._tell_pool()

    # As the pump

    def _pump(self, deadline: Deadline, ahead: bool, in_pieces: bool) -> AppEvent | None:
        """As the pump, return the next event for the application; None if the deadline or the end came first."""
        try:
            late = 0
            event: AppEvent | None = self._receiver.begin_fragments() if in_pieces else None
            if event is None and self._unparsed:
                event = self._parse()
            while event is None and not self._input_over and late < MOST_LATE and self._read(deadline):
                event = self._parse()
                if event is None:
                    self._read_ended()
                    late += deadline.passed()
            if ahead and self._unparsed:
                self._look_ahead()
            return event
        except BaseException:
            self._interrupted()
            raise
        finally:
            if in_pieces:
                self._receiver.end_fragments()
            self._leave_pump()
            if self._announce is not None:
                self._tell_pool()

    def _collect(self, deadline: Deadline) -> None:
        """As the pump, take what was read before into the inbox, or else read once, waiting for it."""
        try:
            before = self._events
            if self._unparsed:
                self._fill()
            if self._events == before and not self._eof and self._read(deadline) and self._unparsed:
                self._fill()
        except BaseException:
            self._interrupted()
            raise
        finally:
            self._leave_pump()
            self._tell_pool()

    def _fill(self, hold_end: bool = False) -> None:
        """As the pump, move events into the inbox up to its bound; with ``hold_end`` not the end."""
        while not self._full():
            if messages := self._parse_messages():
                self._queue_messages(messages)
            elif (event := self._parse(hold_end)) is not None:
                self._queue(event)
            else:
                return

    def _look_ahead(self) -> None:
        """As the pump, move what has already come into the inbox, but not the end: what comes before it comes first."""
        while self._inbox_size < MOST_AHEAD and not self._full():
            if messages := self._parse_messages():
                self._queue_messages(messages)
            elif (event := self._parse(hold_end=True)) is not None:
                self._queue(event)
            else:
                return

    def _queue(self, event: AppEvent) -> None:
        """As the pump, put an event into the inbox."""
        with self._lock:
            if self._skipping and self._is_skipped(event):  # given up since it was parsed
                return
            self._open_inbox_locked().append(event)
            self._inbox_size += cost(event)
            if self._waiting:
                self._notify_locked()

    def _queue_messages(self, messages: Sequence[Message]) -> None:
        """As the pump, put messages into the inbox."""
        size = sum(map(cost, messages))
        with self._lock:
            self._open_inbox_locked().extend(messages)
            self._inbox_size += size
            if self._waiting:
                self._notify_locked()

    def _open_inbox_locked(self) -> deque[AppEvent]:
        if self._inbox is EMPTY:
            self._inbox = deque()
        return self._inbox

    def _leave_pump(self) -> None:
        with self._lock:
            self._pumping = False
            self._reads += 1
            if self._waiting:
                self._notify_locked()
        if self._over:
            self._release()

    def _attend(self) -> int:
        """For the timer: read, without waiting, what nobody else reads; return how many reads found something.

        Answers Pings and fills the inbox up to its bound.
        """
        reads = self._read_now()
        self._tell_pool()
        return reads

    def _read_now(self) -> int:
        """The same, for the pool that is to be told."""
        with self._lock:
            if self._pumping or self._over or self._eof:
                return 0
            self._pumping = True
        reads = 0
        try:
            hold_end = self._gathering is not None  # whoever gathers has more at hand, which comes before the end
            self._fill(hold_end)
            while reads < READS_PER_VISIT and self._held is None and not (self._full() or self._eof):
                if not self._read(NOW):
                    break
                reads += 1
                self._fill(hold_end)
        except BaseException:
            self._interrupted()
            raise
        finally:
            self._leave_pump()
        return reads

    def _tell_pool(self) -> None:
        """Tell the pool that holds this connection that there is something which its poller cannot see."""
        announce = self._announce
        if announce is not None and (self._inbox or self._unparsed or self._input_over):
            announce()


def cost(event: AppEvent) -> int:
    """Return what an event counts in the inbox."""
    return OVERHEAD + len(event[0])
