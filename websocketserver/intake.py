"""Intake: what the pump does: reading the socket and telling what the bytes say.

Owns     the receiving half of the endpoint, which is the pump's alone, and all that is known of the
         peer's stream. pump.py decides who is the pump.
Never    waits for anything but the socket, and never runs code of the application.

The state lock is introduced here and shared with the rest of the connection. It is never held
across I/O or code of the application.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence

from .deadline import Deadline, in_main_thread
from .exceptions import Close, ProtocolError
from .output import Output
from .protocol.endpoint import Receiver
from .protocol.events import AppEvent, Closed, Event, Fragment, Message, Ping, Pong
from .settings import Settings
from .transport import Transport

__all__ = ["Intake"]

READ_SIZE = 64 * 1024 + 14  # a message of 64 KiB with its header (5.2): once there has been as much as LITTLE
LITTLE = 4 * 1024  # else: who waits in a read has its buffer meanwhile
MOST_DRAINED = 16 << 20  # bytes read and forgotten after the conversation has ended, before the socket is cut
OVERHEAD = 64  # what an event in the inbox counts beside its data: a flood of empty messages is bounded too
MOST_AHEAD = 64 * 1024  # bytes of messages that are taken in ahead of the one being handled


class Intake(ABC):
    """Every method is for the pump, unless it says otherwise."""

    __slots__ = {  # what help() says of each
        "_bytes_received": None,
        "_changed": None,
        "_drained": None,
        "_eof": None,
        "_events": None,
        "_failed": None,
        "_held": None,
        "_hooks": None,
        "_idle": None,
        "_inbox_size": None,
        "_input_over": None,
        "_lock": None,
        "_messages_received": None,
        "_reads": None,
        "_receiver": None,
        "_room": None,
        "_sent": None,
        "_skipping": None,
        "_transport": None,
        "_unparsed": None,
        "_waiting": None,
        "settings": "What the connection may do (Settings).",
    }

    _output: Output

    def __init__(self, transport: Transport, receiver: Receiver, settings: Settings, hooks: frozenset[str]) -> None:
        self.settings = settings
        self._transport = transport
        self._receiver = receiver  # the pump's, as the next nine
        self._hooks = hooks
        self._events = 0
        self._drained = 0
        self._unparsed = False  # there may be events in what was read
        self._held: Closed | ProtocolError | None = None  # the end, while what came before it is being handled
        self._idle = False  # the pump is waiting: an interrupt now loses nothing
        self._bytes_received = 0
        self._room = LITTLE  # bytes that the next read takes at most
        self._messages_received = 0

        self._lock = threading.Lock()  # the state lock: guards all that follows
        self._changed: threading.Condition | None = None  # made by the first that waits: few ever do
        self._waiting = 0  # threads waiting on the condition
        self._reads = 0  # grows whenever the pump has read what there was
        self._inbox_size = 0  # what the events in the inbox count
        self._skipping = False  # the rest of a message that came in pieces was given up
        self._sent: Close | None = None  # our Close, sent or pending
        self._failed = False  # the peer broke the protocol: its bytes mean nothing any more
        self._eof = False  # the peer's stream has ended
        self._input_over = False  # nothing more will be put into the inbox

    def _notify_locked(self) -> None:
        """Wake all who wait for the state to change."""
        if self._changed is not None:
            self._changed.notify_all()

    # What the rest of the connection does

    @abstractmethod
    def _flush(self) -> None:
        """Send what is pending as far as it goes without blocking."""

    @abstractmethod
    def _on_ping(self, event: Ping) -> None:
        """Answer a Ping."""

    @abstractmethod
    def _on_pong(self, event: Pong) -> None:
        """Note a Pong."""

    @abstractmethod
    def _on_close(self, event: Closed) -> None:
        """Note the peer's Close."""

    @abstractmethod
    def _on_eof(self, detail: str) -> None:
        """Note the end of the peer's stream."""

    @abstractmethod
    def _fail(self, code: int, detail: str) -> None:
        """Fail the connection, because the peer broke the protocol."""

    @abstractmethod
    def _cut(self, detail: str) -> None:
        """End everything now."""

    # What the bytes say

    def _parse(self, hold_end: bool = False) -> AppEvent | None:
        """Return the next event for the application; answer and note the others.

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
                elif isinstance(event, Closed):  # the last (5.5.1)
                    self._unparsed = False
                    self._on_close(event)
                    return None
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

    def _parse_messages(self) -> Sequence[Message]:
        """Return messages that come next, as many as the inbox has room for; maybe none."""
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

    def _is_skipped(self, event: AppEvent) -> bool:
        """Return whether this is a piece of the message that was given up half way; the last piece ends that."""
        if not isinstance(event, Fragment):
            return False
        self._skipping = not event.fin
        return True

    def _full(self) -> bool:
        """Return whether the inbox takes no more; once we have sent a Close it takes nothing, hence all."""
        limit = self.settings.max_queue_size  # an empty inbox is never full: one message always fits
        return limit is not None and 0 < self._inbox_size >= limit and self._sent is None

    # The socket

    def _read(self, deadline: Deadline) -> bool:
        """Read once, waiting for it; False if the deadline came first."""
        try:
            # The read itself may do the waiting where there is no deadline and nothing to send meanwhile; but not
            # in the main thread, where an interrupt could then lose what has just been read.
            output = self._output
            block = deadline.at is None and not (output.queued or output.rest) and not in_main_thread()
            receiver = self._receiver
            size: int | None
            if output.finished and self._input_over and not deadline.passed():
                size = None  # who ends the stream first waits for the peer to do so: that takes a moment
            elif receiver.in_frame or self._input_over:
                size = self._take_in(block)
            else:  # the common case, without a detour
                data = self._transport.receive(self._room, block)
                size = None if data is None else len(data)
                if data:
                    self._unparsed = True
                    receiver.parser.feed(data)
            if size is None:
                size = self._await_input(deadline)
        except OSError as error:
            self._on_eof(error.strerror or str(error) or type(error).__name__)
            return True
        if size is None:
            return False
        self._bytes_received += size
        self._room = LITTLE if size < LITTLE else READ_SIZE
        if not size:
            self._on_eof("the stream ended without a Close")
        return True

    def _await_input(self, deadline: Deadline) -> int | None:
        """Wait for something to read, and write what is pending meanwhile; None if the deadline came first."""
        output = self._output
        while True:
            self._read_ended()
            self._idle = True
            # Who holds the write lock sees to what is pending; to poll for that meanwhile would be to spin.
            pending = output.waits and not output.lock.locked()
            if not pending and deadline.passed():  # there is nothing: no need to ask again
                self._idle = False
                return None
            readable, writable = self._transport.wait(True, pending, deadline)
            self._idle = False
            if writable:
                self._flush()
            size = self._take_in(False) if readable else None
            if size is not None or deadline.passed():
                return size

    def _take_in(self, block: bool) -> int | None:
        """Read what there is: how many bytes, 0 at the end of the stream, None if there is nothing."""
        if self._input_over:
            return self._drain()
        receiver = self._receiver
        buffer = receiver.get_buffer() if receiver.in_frame else None
        if buffer is None:
            data = self._transport.receive(self._room, block)
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
        """Forget what comes after the conversation: unread, it would make the socket's end a reset."""
        size = self._transport.discard(self._room)
        self._drained += size or 0
        if self._drained > MOST_DRAINED:
            self._cut("the peer went on sending after the end")
            return 0
        return size

    def _read_ended(self) -> None:
        """Tell who waits for this read to end that there is nothing more to read now."""
        with self._lock:
            self._reads += 1
            if self._waiting:
                self._notify_locked()

    def _interrupted(self) -> None:
        """On its way out with an exception: unless it was only waiting, bytes may have been lost."""
        if self._idle:
            self._idle = False
        else:
            self._cut("interrupted while reading")
