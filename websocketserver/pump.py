"""Pump: the receiving direction of a channel: the inbox, and who reads the socket for it.

Whoever waits, pumps: the thread that waits for something reads the socket itself if nobody else
does, otherwise it waits on the condition. At most one thread is the pump, and the receiving half of
the endpoint is its own; a message that it waits for itself does not pass through the inbox.

The state lock is introduced here and shared with the rest of the connection. It is never held
across I/O or code of the application.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from threading import get_ident

from .deadline import Deadline
from .exceptions import Close, ConnectionClosed, ProtocolError
from .output import Output
from .protocol.endpoint import Receiver
from .protocol.events import AppEvent, Closed, Event, Fragment, Message, Ping, Pong
from .settings import Settings
from .transport import Transport

__all__ = ["Pump"]

READ_SIZE = 64 * 1024
MOST_DRAINED = 16 << 20  # bytes read and forgotten after the conversation has ended, before the socket is cut
OVERHEAD = 64  # what an event in the inbox counts beside its data: a flood of empty messages is bounded too
MOST_AHEAD = 64 * 1024  # bytes of messages that are taken in ahead of the one being handled
MOST_LATE = 16  # reads beyond the deadline: what is there is found, but a peer that sends on and on holds nobody
READS_PER_VISIT = 16  # so that one flooding peer does not keep the timer from the others

NOW, NEVER = Deadline(0), Deadline(None)
MAIN_THREAD = threading.main_thread().ident


class Turn:
    """Somebody's right to a direction while a message comes or goes in pieces: fragments.py deals with it."""

    __slots__ = ("begun", "given_up", "thread")

    def __init__(self) -> None:
        self.thread: int | None = None  # the one that uses it
        self.begun = False  # a piece was there, and not yet the last
        self.given_up = False


class Pump(ABC):
    """Every method may be called from any thread unless it says "as the pump"."""

    _output: Output

    def __init__(self, transport: Transport, receiver: Receiver, settings: Settings, hooks: frozenset[str]) -> None:
        self.settings = settings
        self._transport = transport
        self._receiver = receiver  # the pump's, as the next eight
        self._hooks = hooks
        self._events = 0
        self._drained = 0
        self._unparsed = False  # there may be events in what was read
        self._held: Closed | ProtocolError | None = None  # the end, while what came before it is being handled
        self._idle = False  # the pump is waiting: an interrupt now loses nothing
        self._bytes_received = 0
        self._messages_received = 0

        self._gathering: int | None = None  # the thread whose messages are gathered; that thread's
        self._lock = threading.Lock()  # the state lock: guards all that follows
        self._changed = threading.Condition(self._lock)
        self._announce: Callable[[], None] | None = None  # set while a pool has the descriptor in its poll set
        self._polled = False  # the pool waits for input: the timer need not
        self._waiting = 0  # threads waiting on the condition
        self._pumping = False
        self._reads = 0  # grows whenever the pump has read what there was
        self._inbox: deque[AppEvent] = deque()
        self._inbox_size = 0
        self._turn: Turn | None = None  # who receives a message in pieces: all others wait
        self._skipping = False  # the rest of such a message was given up
        self._sent: Close | None = None  # our Close, sent or pending
        self._failed = False  # the peer broke the protocol: its bytes mean nothing any more
        self._eof = False  # the peer's stream has ended
        self._input_over = False  # nothing more will be put into the inbox
        self._over = False  # the socket was cut: nobody may begin to use it

    # What the rest of the connection does

    @abstractmethod
    def _flush(self) -> None:
        """Send what is pending as far as it goes without blocking."""

    @abstractmethod
    def _stop_gathering(self, deadline: Deadline) -> None:
        """If this thread gathers what it sends, send that now, as far as it goes by the deadline."""

    @abstractmethod
    def _await_turn_locked(self, turn: Turn | None, deadline: Deadline) -> None:
        """Wait until this is the turn (None: nobody's); raises TimeoutError and, at the end, ConnectionClosed."""

    @abstractmethod
    def _on_ping(self, event: Ping) -> None:
        """As the pump, answer a Ping."""

    @abstractmethod
    def _on_pong(self, event: Pong) -> None:
        """As the pump, note a Pong."""

    @abstractmethod
    def _on_close(self, event: Closed) -> None:
        """As the pump, note the peer's Close."""

    @abstractmethod
    def _on_eof(self, detail: str) -> None:
        """As the pump, note the end of the peer's stream."""

    @abstractmethod
    def _fail(self, code: int, detail: str) -> None:
        """Fail the connection, because the peer broke the protocol."""

    @abstractmethod
    def _cut(self, detail: str) -> None:
        """End everything now."""

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
            self._changed.notify_all()
        return event

    def _full(self) -> bool:
        """Return whether the inbox takes no more; once we have sent a Close it takes nothing, hence all."""
        limit = self.settings.max_queue_size  # an empty inbox is never full: one message always fits
        return limit is not None and 0 < self._inbox_size >= limit and self._sent is None

    def _wait_locked(self, deadline: Deadline) -> bool:
        """Wait for the state to change; False if the deadline came first."""
        self._waiting += 1
        try:
            return self._changed.wait(deadline.left())
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
            self._fill()
            if self._events == before and not self._eof and self._read(deadline):
                self._fill()
        except BaseException:
            self._interrupted()
            raise
        finally:
            self._leave_pump()
            self._tell_pool()

    def _fill(self) -> None:
        """As the pump, move events into the inbox up to its bound."""
        while not self._full():
            if messages := self._parse_messages():
                self._queue_messages(messages)
            elif (event := self._parse()) is not None:
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
            self._inbox.append(event)
            self._inbox_size += cost(event)
            if self._waiting:
                self._changed.notify_all()

    def _is_skipped(self, event: AppEvent) -> bool:
        """Return whether this is a piece of the message that was given up half way; the last piece ends that."""
        if not isinstance(event, Fragment):
            return False
        self._skipping = not event.fin
        return True

    def _queue_messages(self, messages: Sequence[Message]) -> None:
        """As the pump, put messages into the inbox."""
        size = sum(map(cost, messages))
        with self._lock:
            self._inbox.extend(messages)
            self._inbox_size += size
            if self._waiting:
                self._changed.notify_all()

    def _parse_messages(self) -> Sequence[Message]:
        """As the pump, return messages that come next, as many as the inbox has room for; maybe none."""
        if self._held is not None or self._failed or self._sent is not None:
            return ()
        limit = self.settings.max_queue_size
        room = MOST_AHEAD if limit is None else max(1, min(MOST_AHEAD, limit - self._inbox_size))
        messages = self._receiver.next_messages(room, OVERHEAD)
        if messages:
            self._events += len(messages)
            self._messages_received += len(messages)
            self._unparsed = self._receiver.parser.buffered > 0
        return messages

    def _parse(self, hold_end: bool = False) -> AppEvent | None:
        """As the pump, return the next event for the application; answer and note the others.

        With ``hold_end``, a Close or an error is kept for the next call, and None returned.
        """
        try:
            while not self._failed:
                if hold_end or self._held is not None:
                    event = self._next_event(hold_end)
                else:
                    event = self._receiver.next_event()
                if event is None:
                    self._unparsed = self._held is not None
                    return None
                self._events += 1
                if isinstance(event, (Message, Fragment)):
                    if self._skipping and self._is_skipped(event):
                        continue
                    if self._sent is None:  # after our Close, data is checked and dropped
                        if isinstance(event, Message) or event.fin:
                            self._messages_received += 1
                        self._unparsed = self._receiver.parser.buffered > 0
                        return event
                elif isinstance(event, Closed):
                    self._on_close(event)
                elif isinstance(event, Ping):
                    if self._sent is None:
                        self._on_ping(event)
                        if "ping" in self._hooks:
                            return event
                else:
                    self._on_pong(event)
                    if "pong" in self._hooks and self._sent is None:
                        return event
        except ProtocolError as error:
            self._fail(error.close_code, str(error))
        return None

    def _next_event(self, hold_end: bool) -> Event | None:
        if self._held is None:
            if not hold_end:
                return self._receiver.next_event()
            try:
                event = self._receiver.next_event()
                if not isinstance(event, Closed):
                    return event
                self._held = event
            except ProtocolError as error:
                self._held = error
        if hold_end:
            return None
        held, self._held = self._held, None
        if isinstance(held, ProtocolError):
            raise held
        return held

    def _read(self, deadline: Deadline) -> bool:
        """As the pump, read once, waiting for it; False if the deadline came first."""
        try:
            # The read itself may do the waiting where there is no deadline and nothing to send meanwhile; but not
            # in the main thread, where an interrupt could then lose what has just been read.
            output = self._output
            block = deadline.at is None and not (output.queued or output.rest) and get_ident() != MAIN_THREAD
            receiver = self._receiver
            size: int | None
            if receiver.in_frame or self._input_over:
                size = self._take_in(block)
            else:  # the common case, without a detour
                data = self._transport.receive(READ_SIZE, block)
                size = None if data is None else len(data)
                if data:
                    self._unparsed = True
                    receiver.parser.feed(data)
            while size is None:
                self._read_ended()
                self._idle = True
                # Who holds the write lock sees to what is pending; to poll for that meanwhile would be to spin.
                pending = output.waits and not output.lock.locked()
                readable, writable = self._transport.wait(True, pending, deadline)
                self._idle = False
                if writable:
                    self._flush()
                if readable:
                    size = self._take_in(False)
                if size is None and deadline.passed():
                    return False
        except OSError as error:
            self._on_eof(error.strerror or str(error) or type(error).__name__)
            return True
        self._bytes_received += size
        if not size:
            self._on_eof("the stream ended without a Close")
        return True

    def _take_in(self, block: bool) -> int | None:
        """As the pump, read what there is: how many bytes, 0 at the end of the stream, None if there is nothing."""
        if self._input_over:
            return self._drain()
        receiver = self._receiver
        buffer = receiver.get_buffer() if receiver.in_frame else None
        if buffer is None:
            data = self._transport.receive(READ_SIZE, block)
            if data:
                self._unparsed = True
                receiver.feed(data)
            return None if data is None else len(data)
        with buffer:
            size = self._transport.receive_into(buffer)
            if size:
                self._unparsed = True
                try:
                    receiver.buffer_updated(buffer, size)
                except ProtocolError as error:
                    self._fail(error.close_code, str(error))
        return size

    def _drain(self) -> int | None:
        """As the pump, forget what comes after the conversation: unread, it would make the socket's end a reset."""
        size = self._transport.discard(READ_SIZE)
        self._drained += size or 0
        if self._drained > MOST_DRAINED:
            self._cut("the peer went on sending after the end")
            return 0
        return size

    def _read_ended(self) -> None:
        """As the pump, tell who waits for this read to end that there is nothing more to read now."""
        with self._lock:
            self._reads += 1
            if self._waiting:
                self._changed.notify_all()

    def _leave_pump(self) -> None:
        with self._lock:
            self._pumping = False
            self._reads += 1
            if self._waiting:
                self._changed.notify_all()
        if self._over:
            self._release()

    def _interrupted(self) -> None:
        """As the pump, on its way out with an exception: unless it was only waiting, bytes may have been lost."""
        if self._idle:
            self._idle = False
        else:
            self._cut("interrupted while reading")

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
            self._fill()
            while reads < READS_PER_VISIT and not (self._full() or self._eof) and self._read(NOW):
                reads += 1
                self._fill()
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
