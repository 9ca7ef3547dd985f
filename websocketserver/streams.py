"""Streams: a socket while HTTP is spoken on it, as the files ``rfile`` and ``wfile`` (before a connection takes over).

Owns     the time limit of whatever waits for the peer, and the memory of how the socket failed.
Never    closes the socket, and is for one thread: this phase is blocking.

A limit is a Deadline, a Rate, for a request head, or a Pace, for bodies of any length. All are
limits on the whole: a peer that sends a byte now and then does not renew them.
"""

from __future__ import annotations

import io
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from .deadline import Deadline
from .transport import DONT_WAIT, shutdown

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

__all__ = [
    "LINGER_SIZE",
    "LINGER_TIME",
    "LOOK_SIZE",
    "AfterUpgrade",
    "Link",
    "Pace",
    "Rate",
    "SocketReader",
    "SocketWriter",
]

SLICE = 64 * 1024
LOOK_SIZE = 8 * 1024
LINGER_SIZE = 1 << 20  # bytes of unread input that are read and forgotten so that an answer arrives
LINGER_TIME = 2.0
GRACE = 3.0  # seconds that a minimum rate leaves in any case: a segment that is lost is sent again in one or two


class Pace:
    """At most so many seconds of waiting for every 64 KiB; None: no limit.

    Only waiting counts, not what the application does between two reads.
    """

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self._left = seconds
        self._moved = 0

    def left(self) -> float | None:
        """Return how many seconds the next wait may last."""
        return self._left

    def count(self, waited: float, moved: int) -> None:
        """Take account of one wait: its seconds, and the bytes it brought."""
        self._moved += moved
        if self._moved >= SLICE:
            self._moved, self._left = 0, self._seconds
        elif self._left is not None:
            self._left = max(0.0, self._left - waited)


class Rate:
    """A deadline and, from the first byte on, a minimum rate: GRACE seconds, and one for every ``minimum`` bytes.

    ``minimum`` None: the deadline alone.
    """

    def __init__(self, deadline: Deadline, minimum: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._whole = deadline
        self._minimum = minimum
        self._began: float | None = None
        self._total = 0

    @property
    def deadline(self) -> Deadline:
        """What follows from both so far."""
        if self._began is None or self._minimum is None:
            return self._whole
        return self._whole.sooner(self._began + GRACE + self._total / self._minimum - self._clock())

    def left(self) -> float | None:
        """Return how many seconds the next wait may last."""
        return self.deadline.left()

    def count(self, waited: float, moved: int) -> None:
        """Take account of one wait, whatever it lasted, and the bytes it brought."""
        self.reach(self._total + moved)

    def reach(self, total: int) -> None:
        """So many bytes have come in all."""
        if self._began is None and total:
            self._began = self._clock()
        self._total = total


class Link:
    """A connected socket (or SSLSocket) under one time limit, which may be replaced at any time.

    ``error`` is the exception with which the socket or the limit failed last: by it an error of the
    peer's is told from one of the application's.
    """

    def __init__(self, sock: socket.socket, limit: Deadline | Pace | Rate) -> None:
        self.sock = sock
        self.limit = limit
        self.error: OSError | None = None

    def handshake(self) -> None:
        """Do the TLS handshake."""
        assert isinstance(self.sock, ssl.SSLSocket)
        try:
            self._set_timeout()
            self.sock.do_handshake()
        except OSError as error:
            self.error = error
            raise

    def receive(self, size: int) -> bytes:
        """Return what there is, up to so many bytes, waiting for at least one; b"" at the end of the stream."""
        waited = 0.0
        try:
            received: bytes | None = self._at_once(self.sock.recv, size)
            if received is None:
                began = time.monotonic()
                self._set_timeout()
                received = self.sock.recv(size)
                waited = time.monotonic() - began
        except OSError as error:
            self.error = error
            raise
        if not isinstance(self.limit, Deadline):
            self.limit.count(waited, len(received))
        return received

    def receive_into(self, buffer: WriteableBuffer) -> int:
        """Read what there is into the buffer, waiting for at least a byte; 0 at the end of the stream."""
        with memoryview(buffer).cast("B") as view:
            data = self.receive(min(len(view), SLICE))
            view[: len(data)] = data
            return len(data)

    def send(self, data: memoryview) -> None:
        """Send all of it."""
        while data:
            waited = 0.0
            try:
                sent = self._at_once(self.sock.send, data[:SLICE])
                if sent is None:
                    began = time.monotonic()
                    self._set_timeout()
                    sent = self.sock.send(data[:SLICE])
                    waited = time.monotonic() - began
            except OSError as error:
                self.error = error
                raise
            if not isinstance(self.limit, Deadline):
                self.limit.count(waited, sent)
            data = data[sent:]

    def end(self, linger: bool) -> None:
        """End our half of the stream; with ``linger`` read and forget a bounded rest of the peer's. Never raises.

        A socket that is closed with input unread sends a reset, which may overtake the answer
        (RFC 9112, section 9.6).
        """
        if isinstance(self.sock, ssl.SSLSocket):
            try:
                self.sock.setblocking(False)
                self.sock.unwrap()  # sends close_notify; the peer's is not waited for (RFC 8446, section 6.1)
            except (OSError, ValueError):
                pass
        shutdown(self.sock, socket.SHUT_WR)
        if linger and not isinstance(self.error, ConnectionError):
            self.discard_rest()

    def discard_rest(self) -> None:
        """Read and forget what the peer still sends, within LINGER_TIME and LINGER_SIZE. Never raises."""
        deadline, room = Deadline(LINGER_TIME), LINGER_SIZE
        try:
            while room > 0 and (left := deadline.left()):
                self.sock.settimeout(left)
                received = len(socket.socket.recv(self.sock, SLICE))  # under TLS too: nobody looks at it
                if not received:
                    return
                room -= received
        except OSError:
            pass

    def _at_once(self, call: Callable[..., Any], argument: object) -> Any:
        """Do it, with the flags last, if that needs no waiting, which saves two system calls; None if it does, or
        cannot be tried."""
        if not DONT_WAIT or isinstance(self.sock, ssl.SSLSocket) or self.sock.gettimeout() is not None:
            return None
        if self.limit.left() == 0:
            raise TimeoutError("timed out")
        try:
            return call(argument, DONT_WAIT)
        except BlockingIOError:
            return None

    def _set_timeout(self) -> None:
        left = self.limit.left()
        if left is not None and left <= 0:
            raise TimeoutError("timed out")
        self.sock.settimeout(left)


class SocketReader(io.RawIOBase):
    """The raw stream under ``rfile``. ``tell`` counts what came; after ``stop`` the stream has ended.

    ``received`` is what others have read from the socket for it.
    """

    def __init__(self, link: Link, received: bytes = b"") -> None:
        self._link = link
        self._position = 0
        self._stopped = False
        self._received = received

    def look(self) -> bytes:
        """Return what has come and was not read here, waiting for the first bytes; b"" at the end of the stream."""
        if not self._received and not self._stopped:
            self._received = self._link.receive(LOOK_SIZE)
        return self._received

    def skip(self, size: int) -> None:
        """Pass over so many bytes of what ``look`` has returned."""
        self._received = self._received[size:]
        self._position += size

    def stop(self) -> None:
        """Read nothing more from the socket: what is here, or buffered above, is the rest."""
        self._stopped = True

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        if self._received:
            view = memoryview(buffer).cast("B")
            received = min(len(view), len(self._received))
            view[:received], self._received = self._received[:received], self._received[received:]
        elif self._stopped:
            return 0
        else:
            received = self._link.receive_into(buffer)
        self._position += received
        return received

    def tell(self) -> int:
        return self._position

    def fileno(self) -> int:
        return self._link.sock.fileno()


class SocketWriter(io.BufferedIOBase):
    """``wfile``: nothing is kept back, and a write takes all."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def writable(self) -> bool:
        return True

    def write(self, data: ReadableBuffer) -> int:
        view = memoryview(data).cast("B")
        self._link.send(view)
        return view.nbytes

    def fileno(self) -> int:
        return self._link.sock.fileno()


class AfterUpgrade:
    """Stands for ``rfile`` and ``wfile`` once the socket is a WebSocket connection's: explains itself when used."""

    closed = True

    def __init__(self, name: str, instead: str) -> None:
        self._message = f"{name} ended with the HTTP part of the connection (101); use self.websocket.{instead}"

    def flush(self) -> None:
        """There is nothing to flush."""

    def close(self) -> None:
        """There is nothing to close."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(self._message)

    def __iter__(self) -> Iterator[bytes]:
        raise RuntimeError(self._message)
