"""Sharing: one message for many connections, serialised and compressed once for all that take the same bytes.

Owns     the first try at each connection, which never waits; who could not be served then is waited for afterwards,
         so that a peer that does not read holds up nobody but those that do not read either.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import TypeVar

from .deadline import Deadline
from .express import flush_at_once, share_at_once
from .fragments import as_payload
from .keepalive import timer
from .output import GATHERED, Broken
from .protocol.sender import PLAIN, Sender
from .pump import MOST_GATHERING, NEVER, NOBODY, gatherers
from .trace import TracedChannel

Channel = TypeVar("Channel", bound="SharingChannel")

__all__ = ["SharedMessage", "SharingChannel", "share"]


class SharedMessage:
    """A message that many connections send."""

    __slots__ = ("_known", "data", "plain", "text")

    def __init__(self, message: str | bytes | bytearray | memoryview) -> None:
        self.data, self.text = as_payload(message, None)
        self.plain: bytes | None = None  # as most senders have it: of those that encode and split nothing
        self._known: dict[object, tuple[bytes, bool]] = {}

    def frames(self, sender: Sender) -> bytes | None:
        """Return what this sender, whose write lock is held, is to send; None where that is its connection's own."""
        sharing = sender.sharing
        if sharing is None:
            return None
        known = self._known.get(sharing)
        if known is not None:
            if known[1]:
                sender.forget()
            return known[0]
        buffers = sender.message(self.data, text=self.text)
        if sender.encoded:  # it may refer to what this connection alone was sent: make another, which cannot
            sender.forget()
            buffers = sender.message(self.data, text=self.text)
        frames = b"".join(buffers)
        self._known[sharing] = frames, sender.encoded
        if sharing is PLAIN:
            self.plain = frames
        return frames


class SharingChannel(TracedChannel):
    """A channel that sends shared messages."""

    __slots__ = ()

    def offer(
        self, message: SharedMessage, guests: dict[SharingChannel, None] | None, late: list[SharingChannel]
    ) -> bool:
        """For a broadcast: send a message as far as it goes now.

        With ``guests``, join those: it waits there to be sent with others. False where that cannot be: not a byte has
        left then, and who sends in the ordinary way learns why. Those of which something is left that should have
        gone are added to ``late``.
        """
        if message.plain is not None:
            sent = share_at_once(self, message.plain, guests)
            if sent is None:
                late.append(self)
            if sent is not False:
                return True
        output = self._output
        if self._sent is not None or not output.lock.acquire(False):
            return False
        try:
            if self._sent is not None or self._input_over or self._speaker is not None or output.queued or output.rest:
                return False
            frames = message.plain if output.sender.sharing is PLAIN else None
            if frames is None and (frames := message.frames(output.sender)) is None:
                return False
            if guests is not None:
                guests[self] = None  # also of a second host: the first may just be passing by, the lock being ours
                output.gathered += frames
                if len(output.gathered) >= GATHERED:
                    late.append(self)
            elif not output.begin_writing(frames):
                return False
            elif output.rest:
                late.append(self)
            self._messages_sent += 1
            return True
        except Broken:
            return False
        except BaseException:
            self._cut("interrupted while sending")
            raise
        finally:
            output.lock.release()
            if output.queued or self._over:
                self._flush()

    def catch_up(self) -> None:
        """For a broadcast: send what was offered; a peer that takes none of it for ``send_timeout`` is cut."""
        self._send_gathered(NEVER)

    def _stop_gathering(self, deadline: Deadline) -> None:
        super()._stop_gathering(deadline)
        if self._guests:
            self._see_guests_off()

    def _leave_gathering(self, thread: int) -> None:
        super()._leave_gathering(thread)
        if self._guests:
            self._see_guests_off()

    def _see_guests_off(self) -> None:
        """Send what was gathered for other connections: first to those that take it at once."""
        guests, self._guests = self._guests, NOBODY
        for guest in [guest for guest in guests if not (flush_at_once(guest) or guest._output.flush_gathered())]:
            guest.catch_up()

    def visit(self, now: float) -> float | None:
        """As inherited; sends what a hook that takes long has gathered for others."""
        for guest in list(self._guests):
            if not guest._output.flush(gathered=True):
                guest._come_soon()
        return super().visit(now)


def share(message: str | bytes | bytearray | memoryview, connections: Sequence[Channel]) -> list[Channel]:
    """Send a message to these connections without waiting; return those that it has to be sent to one by one.

    Where more messages are at hand for the hook that runs in this thread, it leaves together with what they bring.
    """
    shared = SharedMessage(message)
    thread = threading.get_ident()
    host = gatherers.get(thread)
    guests = None
    if isinstance(host, SharingChannel) and host._gathering == thread:
        if host._guests is NOBODY:
            host._guests = {}
            timer.schedule(host, time.monotonic() + MOST_GATHERING)
        guests = host._guests
    late: list[SharingChannel] = []
    left = [connection for connection in connections if not connection.offer(shared, guests, late)]
    for connection in late:
        connection.catch_up()
    return left
