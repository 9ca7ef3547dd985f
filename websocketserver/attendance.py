"""Attendance: what the timer and a pool do for a connection while none of its users is there.

The timer sends Pings and gives up dead peers, reads what nobody reads, cuts what does not end, and
has extensions give back memory. A pool polls for input in place of a waiting thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from .channel import Channel
from .deadline import Deadline
from .keepalive import Heartbeat, timer
from .output import PING
from .pings import Pings, PingWaiter
from .protocol.endpoint import Receiver, Role
from .protocol.events import AppEvent, Closed, Pong
from .protocol.extensions import Codec
from .protocol.sender import Sender
from .pump import NEVER, gatherers
from .settings import Settings
from .transport import Transport

__all__ = ["AttendedChannel"]

UNATTENDED = 1.0  # seconds after which the timer reads for a connection that nobody reads
ATTENDED = 5.0  # seconds after which it looks again whether somebody reads, where somebody did
POLLED = 60.0  # the same where a pool waits for input
AGAIN = 0.001  # seconds after which it comes again where it found something; from there the pause doubles


class AttendedChannel(Channel):
    """A channel that is looked after."""

    __slots__ = {  # what help() says of each
        "_heartbeat": None,
        "_messages": None,
        "_messages_sent": None,
        "_pause": None,
        "_pings": None,
        "_quiet_since": None,
        "_release_after": None,
        "extensions": "The extensions agreed on (Codec), in the order of the answer.",
        "latency": "The last round-trip time of a Ping in seconds, None before the first.",
    }

    def __init__(
        self,
        transport: Transport,
        role: Role,
        receiver: Receiver,
        sender: Sender,
        settings: Settings,
        hooks: frozenset[str],
        codecs: Sequence[Codec],
    ) -> None:
        super().__init__(transport, role, receiver, sender, settings, hooks)
        self.extensions = tuple(codecs)
        self.latency: float | None = None
        self._messages_sent = 0  # guarded by the write lock
        self._pings = Pings()  # guarded by the state lock
        now = self._opened_at
        self._heartbeat = Heartbeat(settings.ping_interval, settings.ping_timeout, now)
        self._release_after: float | None = None
        if codecs:
            self._release_after = min((c.release_after for c in codecs if c.release_after is not None), default=None)
        self._pause = UNATTENDED  # until the timer comes again; this and the next two are the timer's
        self._quiet_since = now  # when it last saw messages
        self._messages = 0

    def _on_close(self, event: Closed) -> None:
        super()._on_close(event)
        if self.role is Role.CLIENT and not self._ending:  # the server ends the stream now: nobody else may see it
            self._pause = AGAIN
            timer.schedule(self, time.monotonic() + AGAIN)

    # Pings

    def _on_pong(self, event: Pong) -> None:
        with self._lock:
            round_trip = self._pings.answer(event.payload)
            if round_trip is not None:
                self.latency = round_trip
            if self._waiting:
                self._notify_locked()

    def _await_pong(self, waiter: PingWaiter, deadline: Deadline) -> None:
        self._pump_until(lambda: waiter.round_trip is not None or self._input_over, deadline)
        if waiter.round_trip is None:
            if self._input_over:
                raise self._closed_error()
            raise TimeoutError("no Pong in time")

    # For the timer

    def _come_soon(self) -> None:
        # The pump may be in a read that does the waiting itself, and a pool polls for input only.
        self._pause = AGAIN
        timer.schedule(self, time.monotonic() + AGAIN)

    def visit(self, now: float) -> float | None:
        """For the timer: read what nobody reads, send a Ping, give up a dead peer, cut what does not end."""
        longest = ATTENDED if self._pumping else UNATTENDED
        reads = 0 if self._polled else self._attend()
        self._pause = AGAIN if reads else min(2 * self._pause, longest)
        if self._output.waits or self._output.gathered:
            self._output.flush(gathered=True)
        if self._over:
            self._release()
            return None
        if self._cut_at is not None:
            if now >= self._cut_at or self._eof and not self._output.waits:
                self._cut("the closing handshake did not end in time")
                return None
            return min(self._cut_at, now + self._pause)
        life = self._bytes_received + self._output.drained  # what the system merely takes from us proves nothing
        if self._heartbeat.dead(now, life, stands=self._full()):
            self._fail(1011, f"no answer to a Ping within {self._heartbeat.timeout:g} seconds")
            self._cut("")
            return None
        if self._heartbeat.ping_due(now):
            with self._lock:
                waiter = PingWaiter(self._pings.new_payload(), self._await_pong)
                self._pings.add(waiter)
            self._send_ping(waiter.payload)
        try:
            self._release_windows(now)
        except BaseException:
            self._cut("an extension failed")
            raise
        return self._next_visit(now)

    def _send_ping(self, payload: bytes) -> None:
        """Send a Ping as soon as the socket takes it."""
        self._output.queue(PING, payload)
        self._flush()

    def _next_visit(self, now: float) -> float:
        due = self._heartbeat.next_visit()
        again = now + (POLLED if self._polled and not self._output.waits else self._pause)
        return again if due is None else min(due, again)

    def _release_windows(self, now: float) -> None:
        """Have the extensions of a connection that has been idle for long enough give back memory."""
        if self._release_after is None:
            return
        messages = self._messages_received + self._messages_sent  # Pings come and go for ever
        if messages != self._messages:
            self._messages = messages
            self._quiet_since = now
        elif now - self._quiet_since >= self._release_after:
            if self._output.lock.acquire(False):
                try:
                    for codec in self.extensions:
                        codec.encoder.release()
                finally:
                    self._unlock_output()
            with self._lock:
                if self._pumping or self._over:
                    return
                self._pumping = True
            try:
                for codec in self.extensions:
                    codec.decoder.release()
            finally:
                self._leave_pump()

    # For a pool

    def park(self, announce: Callable[[], None]) -> None:
        """For a pool: it polls the descriptor from now on, which stays open until ``unpark``.

        ``announce()`` is called, from any thread, when there is something that polling does not show.
        """
        with self._lock:
            self._announce = announce
            self._polled = True

    def unpark(self) -> None:
        """For a pool: it has forgotten the descriptor."""
        with self._lock:
            self._announce = None
            self._polled = False
        if self._over:
            self._release()

    def set_polled(self, polled: bool) -> None:
        """For a pool: tell whether it waits for input just now; if not, the timer looks after the connection."""
        self._polled = polled
        if not polled:
            timer.schedule(self, time.monotonic() + UNATTENDED)

    def handle_ready(self, handle: Callable[[AppEvent], None]) -> None:
        """For a pool: call ``handle`` with the events that are here or can be read at once, one by one.

        Never waits for the peer. Gathers as ``events`` does, and raises ConnectionClosed at the end as ``next_event``
        does.
        """
        transport, thread = self._transport, 0
        event = self._next_ready(True)
        try:
            while event is not None:
                if self._inbox and self._sent is None:
                    self._gathering = thread = threading.get_ident()
                    gatherers[thread] = self
                    handle(event)
                else:
                    self._gathering = None
                    handle(event)
                    if self._output.gathered or self._guests:
                        self._gathering = threading.get_ident()
                        self._stop_gathering(NEVER)
                pending = transport.hides and transport.pending()
                if not (pending or self._inbox or self._unparsed or self._input_over):
                    return
                event = self._next_ready(pending)
        finally:
            if thread:
                self._leave_gathering(thread)
        if self.is_ended():
            raise self._closed_error()

    def attend(self) -> bool:
        """For a pool: take in what is there up to the inbox's bound, answering Pings.

        Return whether there are events.
        """
        self._read_now()
        return self.is_ready()

    def is_ready(self) -> bool:
        """For a pool: return whether there is input that polling the descriptor does not show."""
        if self._inbox or self._eof or self._over or self._unparsed and not (self._pumping or self._input_over):
            return True
        return self._transport.hides and self._transport.pending()

    def is_ended(self) -> bool:
        """For a pool: return whether nothing is left but to take note of the end."""
        return self._input_over and not self._inbox

    def drain(self, forget: bool = False) -> bool:
        """For a pool: read, without waiting, what comes at the end.

        Return whether that is over, and nothing left to be taken. With ``forget``, events that nobody has taken are
        dropped.
        """
        if forget:
            with self._lock:
                self._inbox.clear()
                self._inbox_size = 0
        if not self._over:
            self._read_now()
        return (self._eof or self._over) and not self._inbox
