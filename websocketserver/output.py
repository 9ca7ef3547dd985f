"""Output: the sending direction of a channel, and what was begun or promised and has not left yet.

The write lock serialises writers and is held across the blocking write; the sending half of the
endpoint and the rest of a frame that was begun belong to its holder. Control frames that must not
wait for the lock (a Pong, a keepalive Ping, the Close) are queued first, then sent if the lock is
free and the socket takes them. Whoever releases the lock looks again, and whoever gets it next
finishes what is pending first, so nothing stays behind.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from .deadline import Deadline
from .protocol.frames import Opcode
from .protocol.sender import Buffer, Sender
from .transport import Transport

__all__ = ["CLOSE", "FIN", "PING", "PONG", "Broken", "Output"]

CLOSE, PING, PONG = int(Opcode.CLOSE), int(Opcode.PING), int(Opcode.PONG)
GATHERED = 64 * 1024  # bytes
FIN = -1  # in the queue of control frames: not a frame, but the end of our half of the stream


class Broken(Exception):
    """The stream takes nothing more: the peer or somebody here has cut it."""


class Output:
    """What leaves a channel. ``queue`` and ``flush`` never block; the rest is for the holder of ``lock``.

    ``await_writable(deadline)`` is what a writer does while the socket is full: it returns False
    when the deadline has passed. ``stall`` is how many seconds it may take nothing before a writer gives up.
    """

    __slots__ = (
        "_await_writable",
        "_stall",
        "_state_lock",
        "_stuck",
        "_transport",
        "broken",
        "bytes_sent",
        "drained",
        "finished",
        "gathered",
        "lock",
        "queued",
        "rest",
        "sender",
    )

    def __init__(
        self,
        transport: Transport,
        sender: Sender,
        *,
        state_lock: threading.Lock,
        await_writable: Callable[[Deadline], bool],
        stall: float | None,
    ) -> None:
        self.lock = threading.Lock()  # the write lock: guards sender, broken, gathered, rest
        self.sender = sender
        self.broken = ""  # why nothing can be sent any more
        self.finished = False  # our half of the stream was ended
        self.bytes_sent = 0
        self.drained = 0  # bytes taken by a socket that had been full: the peer is reading
        self._stuck = False  # the socket did not take all of rest
        self._transport = transport
        self.gathered = bytearray()  # whole messages that leave together with the next
        self.rest: list[Buffer] = []  # of what was begun: it goes first
        self._state_lock = state_lock  # guards queued
        self.queued: list[tuple[int, bytes]] = []  # at most one Ping, one Pong, one Close, one FIN
        self._await_writable = await_writable
        self._stall = stall

    def disown(self, state_lock: threading.Lock) -> None:
        """In the child of a fork: end, with locks that nobody holds."""
        self._state_lock, self.lock = state_lock, threading.Lock()
        self.end()

    def end(self) -> None:
        """The descriptor is about to be closed. The caller holds the lock."""
        self.broken = self.broken or "the connection is closed"
        self._await_writable = _never  # so that nothing here holds on to its owner

    @property
    def waits(self) -> bool:
        """Whether anything is pending (``queued`` or ``rest``) that is not gathered on purpose."""
        return bool(self.queued or self.rest)

    def queue(self, opcode: int, payload: bytes = b"") -> None:
        """Make a control frame, or FIN, pending; of Pings and of Pongs only the newest (RFC 6455, section 5.5.3)."""
        with self._state_lock:
            self.queue_locked(opcode, payload)

    def queue_locked(self, opcode: int, payload: bytes = b"") -> None:
        """The same for who holds the state lock."""
        if opcode in (PING, PONG):
            if self.queued and self.queued[-1][0] in (CLOSE, FIN):  # nothing follows a Close (5.5.1)
                return
            for entry in self.queued:
                if entry[0] == opcode:
                    self.queued.remove(entry)
                    break
        self.queued.append((opcode, payload))

    def flush(self, gathered: bool = False) -> bool:
        """Send what is pending as far as it goes now; leave it to the holder if the lock is taken.

        What is gathered goes with it, but only with ``gathered`` for its own sake. Returns False if the
        socket is full: then somebody must wait for room.
        """
        while self.queued or self.rest or gathered and self.gathered:
            if not self.lock.acquire(False):
                return True
            try:
                done = self.write_pending(None)
            except Broken:
                return True
            finally:
                self.lock.release()
            if not done:
                return False
        return True

    def flush_gathered(self) -> bool:
        """As ``flush`` with ``gathered``, in the usual case that nothing else is pending."""
        if self.queued or self.rest or not self.lock.acquire(False):
            return self.flush(gathered=True)
        try:
            if self.gathered and not self.rest:
                self.begin_writing(b"")
        except Broken:
            return True
        finally:
            self.lock.release()
        return self.flush()

    def begin(self, opcode: int, payload: bytes) -> None:
        """Make a control frame the next to leave, behind what was gathered.

        The caller holds the lock, and nothing is pending. Unlike with ``queue``, no other frame takes its
        place, nor does it take another's: an unsolicited Pong must not replace an answer (RFC 6455, section 5.5.2).
        """
        self.rest = [*self.take_gathered(), self.sender.control(opcode, payload)]

    def gather(self, buffers: list[Buffer]) -> bool:
        """Keep a message for the next write; return whether there is enough for one. The caller holds the lock."""
        for buffer in buffers:
            self.gathered += buffer
        return len(self.gathered) >= GATHERED

    def take_gathered(self) -> list[Buffer]:
        """Return what was gathered, as one buffer. The caller holds the lock, and nothing pending goes before it."""
        gathered, self.gathered = self.gathered, bytearray()
        return [gathered] if gathered else []

    def write_pending(self, deadline: Deadline | None) -> bool:
        """Send what is pending: by the deadline, or without one what goes now. Return whether all of it left.

        The caller holds the lock. Raises Broken.
        """
        if self.gathered:
            self.rest += self.take_gathered()
        while self.rest or self.queued and self._begin_next():  # what comes meanwhile, who queued it looks for
            last = bool(self.queued) and self.queued[0][0] == FIN  # the Close and the end leave in one packet
            taken = self._offer(self.rest, more=last)
            if self._stuck:
                self.drained += taken
            self.rest = remaining(self.rest, taken)
            self._stuck = bool(self.rest)
            if taken or not self.rest:
                continue
            if deadline is None or not self._await_writable(deadline.sooner(self._stall)):
                return False
        return True

    def write(self, buffers: list[Buffer], deadline: Deadline) -> bool:
        """Send all buffers by the deadline, the caller holding the lock and nothing pending before them.

        Returns False where the deadline came while not one byte had been taken; raises TimeoutError where
        it came in the middle, and Broken.
        """
        if self.broken:
            raise Broken(self.broken)
        try:
            taken = self._transport.send(buffers)
        except OSError as error:
            raise self._break(error) from error
        self.bytes_sent += taken
        if len(buffers) == 1 and taken == len(buffers[0]):  # the common case
            return True
        began = taken > 0 or not self._transport.retractable
        rest = remaining(buffers, taken)
        stalled = deadline.sooner(self._stall)
        while rest:
            if not self._await_writable(stalled):
                if began:
                    raise TimeoutError("in the middle of a message")
                return False
            taken = self._offer(rest)
            if taken:
                began = True
                self.drained += taken
                rest = remaining(rest, taken)
                stalled = deadline.sooner(self._stall)
        return True

    def begin_writing(self, buffer: Buffer) -> bool:
        """Send a buffer, behind what was gathered, as far as it goes now; the rest of it is pending then.

        False where nothing has left nor needs to. The caller holds the lock, and nothing is pending. Raises Broken.
        """
        begun = False
        if self.gathered:
            begun, gathered = True, self.gathered
            gathered += buffer
            buffer, self.gathered = gathered, bytearray()
        taken = self._offer([buffer])
        if taken == len(buffer):
            return True
        if not (taken or begun) and self._transport.retractable:
            return False
        self.rest = remaining([buffer], taken)
        self._stuck = True
        return True

    def _begin_next(self) -> bool:
        """Take the next control frame from the queue; False if there is none."""
        while True:
            with self._state_lock:
                if not self.queued:
                    return False
                opcode, payload = self.queued.pop(0)
            if opcode == FIN:
                self._transport.shutdown_write()
                self.finished = True
            elif not self.sender.close_sent:  # nothing follows a Close (5.5.1)
                self.rest = [self.sender.control(opcode, payload)]
                return True

    def _offer(self, buffers: Sequence[Buffer], more: bool = False) -> int:
        if self.broken:
            self.rest = []
            raise Broken(self.broken)
        try:
            taken = self._transport.send(buffers, more)
        except OSError as error:
            raise self._break(error) from error
        self.bytes_sent += taken
        return taken

    def _break(self, error: OSError) -> Broken:
        """Forget all that would have been sent; return what to raise."""
        self.broken = error.strerror or str(error) or type(error).__name__
        self.rest = []
        self.take_gathered()
        with self._state_lock:
            self.queued.clear()
        return Broken(self.broken)


def _never(deadline: Deadline) -> bool:
    return False


def remaining(buffers: Sequence[Buffer], taken: int) -> list[Buffer]:
    """Return what is left of the buffers when so many bytes were taken from their front."""
    rest: list[Buffer] = []
    for buffer in buffers:
        size = len(buffer)
        if taken >= size:
            taken -= size
        else:
            rest.append(memoryview(buffer)[taken:] if taken else buffer)
            taken = 0
    return rest
