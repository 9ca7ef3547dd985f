"""Sending: what a connection says: messages, whole or gathered, and Pings and Pongs.

Every method may be called from any thread at any time.
"""

from __future__ import annotations

import threading
import time

from .channel import SLOW
from .deadline import Deadline
from .express import ping_at_once, send_at_once
from .fragments import as_payload
from .keepalive import timer
from .output import PING, PONG, Broken
from .pings import PingWaiter
from .protocol.sender import Buffer
from .pump import MOST_GATHERING, NEVER, gatherers
from .sharing import SharingChannel

__all__ = ["SendingChannel"]


class Clock:
    """Has the timer come to those that have gathered something for a while.

    One for all: batches come and go, and a visit for each would cost more than they do.
    """

    def __init__(self) -> None:
        self.visit_at: float | None = None  # the timer's, as the next
        self._seen: dict[int, bytearray] = {}  # by id: what each batch is gathered in is its own

    def visit(self, now: float) -> float | None:
        """Have those visited at once that gather what they did the last time."""
        before, self._seen = self._seen, {}
        for channel in list(gatherers.values()):
            gathered = channel._output.gathered
            if gathered and id(gathered) not in before:
                self._seen[id(gathered)] = gathered
            elif gathered and isinstance(channel, SendingChannel):
                timer.schedule(channel, now)
        return now + MOST_GATHERING if self._seen else None

    def disown(self) -> None:
        """In the child of a fork, which gathers nothing."""
        self.visit_at, self._seen = None, {}


clock = Clock()


class SendingChannel(SharingChannel):
    """A channel that its users can send on."""

    __slots__ = ()

    def send(
        self,
        message: str | bytes | bytearray | memoryview,
        *,
        text: bool | None = None,
        compress: bool | None = None,
        timeout: float | None = None,
    ) -> None:
        """Send a message: text for str, binary for bytes, bytearray and memoryview.

        ``text`` overrides that choice (bytes sent as text must be UTF-8, which is not checked);
        ``compress`` overrides what compression would decide. Waits while the peer does not read: up to
        ``timeout`` seconds in all, and never longer than ``send_timeout`` without progress. A TimeoutError
        says whether the connection is still usable or, because part of the message had left, was aborted.
        Raises ConnectionClosed, and TypeError for any other kind of message.
        """
        deadline = Deadline(timeout) if timeout is not None else NEVER
        sent = send_at_once(self, message) if text is None else False
        if sent:
            return
        if sent is None:
            self._send_rest(deadline)
            return
        data, is_text = as_payload(message, text)
        self._begin_sending(deadline)
        if self._speaker is not None:
            self._await_speaker(deadline)
        try:
            output = self._output
            sender = output.sender
            try:
                buffers = sender.message(data, text=is_text, compress=compress)
                if self._gathering is None and not output.gathered:
                    whole = output.write(buffers, deadline)
                else:
                    whole = self._write_or_gather(buffers, deadline)
            except BaseException as error:
                raise self._sending_failed(error) from None
            if not whole:
                self._not_sent(sender.encoded)
            self._messages_sent += 1
        finally:
            self._unlock_output()

    def _send_rest(self, deadline: Deadline) -> None:
        """Send what is left of a message that was begun: whoever has had the write lock since has gone on with it."""
        output = self._output
        if not (output.lock.acquire(False) or self._lock_output(deadline)):
            raise self._sending_failed(TimeoutError())
        try:
            try:
                if output.broken:
                    raise Broken(output.broken)
                if not output.write_pending(deadline):
                    raise TimeoutError
            except BaseException as error:
                raise self._sending_failed(error) from None
            self._messages_sent += 1
        finally:
            self._unlock_output()

    def _write_or_gather(self, buffers: list[Buffer], deadline: Deadline) -> bool:
        """Send a message behind what was gathered, or add it to that; False if nothing has left by the deadline."""
        output = self._output
        if self._gathering is not None and self._gathering == threading.get_ident():
            if not output.gathered:
                self._begin_gathering()
            if output.gather(buffers) and not output.write_pending(deadline):
                raise TimeoutError
            return True
        if not output.gathered:
            return output.write(buffers, deadline)
        if not output.write(output.take_gathered() + buffers, deadline):
            raise TimeoutError  # what was gathered counts as sent
        return True

    def _begin_gathering(self) -> None:
        """Have the timer send what is gathered from now on, where that takes too long."""
        timer.schedule(clock, time.monotonic() + MOST_GATHERING)

    def ping(self, payload: str | bytes | bytearray | memoryview = b"", timeout: float | None = None) -> PingWaiter:
        """Send a Ping (RFC 6455, section 5.5.2) and return what to wait on for its Pong.

        ``payload`` is up to 125 bytes; an empty one is replaced by one that no other Ping of this
        connection has. Waits and raises as ``send``.
        """
        data = _control_payload(payload)
        with self._lock:
            waiter = PingWaiter(data or self._pings.new_payload(), self._await_pong)
            self._pings.add(waiter)
        self._send_control(PING, waiter.payload, timeout)
        return waiter

    def pong(self, payload: str | bytes | bytearray | memoryview = b"", timeout: float | None = None) -> None:
        """Send an unsolicited Pong (RFC 6455, section 5.5.3); every Ping is answered without it.

        Waits and raises as ``send``.
        """
        self._send_control(PONG, _control_payload(payload), timeout)

    def _send_ping(self, payload: bytes) -> None:
        sent = ping_at_once(self, payload)
        if sent is None:
            self._flush()
        elif not sent:
            super()._send_ping(payload)

    def _send_control(self, opcode: int, payload: bytes, timeout: float | None) -> None:
        deadline = Deadline(timeout) if timeout is not None else NEVER
        self._begin_sending(deadline)
        try:
            self._output.begin(opcode, payload)
            if not self._write_pending(deadline):
                raise TimeoutError("the frame could not be sent in time; it leaves as soon as the peer reads")
        except Broken:
            raise self._lost_error() from None
        finally:
            self._unlock_output()

    def _begin_sending(self, deadline: Deadline) -> None:
        """Take the write lock and send what is pending before us; on any failure leave the lock."""
        if self._sent is not None:  # no need to wait for the lock to say so
            raise self._closed_error()
        output = self._output
        if not (output.lock.acquire(False) or self._lock_output(deadline)):
            raise TimeoutError("another thread is still sending; nothing was sent, and the connection is usable")
        try:
            if self._sent is not None or self._input_over:
                raise self._closed_error()
            if output.broken:
                raise self._lost_error()
            if (output.queued or output.rest) and not self._write_pending(deadline):
                self._not_sent(False)
        except Broken:
            error = self._lost_error()
            self._unlock_output()
            raise error from None
        except BaseException:
            self._unlock_output()
            raise

    def _not_sent(self, encoded: bool) -> None:
        """Raise TimeoutError for a message of which nothing has left; abort where that cannot be undone."""
        if encoded:  # the compressor has gone on, the peer's has not
            self._cut(f"{SLOW} after compression")
            raise TimeoutError("the message could not be sent in time; the connection was aborted")
        raise TimeoutError("the message could not be sent in time; nothing was sent, and the connection is usable")


def _control_payload(payload: object) -> bytes:
    data = bytes(as_payload(payload, None)[0])
    if len(data) > 125:
        raise ValueError(f"the payload of a Ping or Pong is 125 bytes at most (RFC 6455, section 5.5), not {len(data)}")
    return data
