"""Transports: byte streams over a connected socket, plain or TLS, for several threads at once.

Owns     the socket, its readiness and, for TLS, the one lock around every call into OpenSSL.
Never    waits inside a send or a receive (but for ``receive`` when told to): ``wait`` waits, and
         takes no lock. ``settimeout`` is never called: it would be shared by both directions.
"""

from __future__ import annotations

import select
import socket
import ssl
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from .deadline import Deadline

__all__ = ["PlainTransport", "TlsTransport", "Transport", "make_transport"]

Buffer = bytes | bytearray | memoryview

MORE = int(getattr(socket, "MSG_MORE", 0))  # plain ints: flags of an enumeration are slow to combine
DONT_WAIT = int(getattr(socket, "MSG_DONTWAIT", 0))  # 0 where the system has none: the socket itself must not block
KEEPALIVE_OPTIONS = [name for name in ("TCP_KEEPIDLE", "TCP_KEEPALIVE", "TCP_KEEPINTVL") if hasattr(socket, name)]
SLICE = 16 * 1024  # the most that one TLS record holds
RETRY = 0.01  # seconds after which a write that wants to read is tried again
MOST_BUFFERS = 64  # far below the system's limit of buffers for one call


class Transport(ABC):
    """What a connection needs of its socket.

    One thread may send while another receives. Whoever uses the transport sees to it that nobody
    does when it is closed: descriptors are numbers, and the next one may be somebody else's.
    """

    #: Whether a send that took nothing has left no trace, so that its bytes need not be sent again.
    retractable = True

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    @abstractmethod
    def receive(self, size: int, block: bool = False) -> bytes | None:
        """Return up to ``size`` bytes, b"" at the end of the stream, None if there is nothing now.

        With ``block``, may wait for ever instead of returning None. Raises OSError.
        """

    @abstractmethod
    def receive_into(self, buffer: memoryview) -> int | None:
        """Read into the buffer and return how many bytes, 0 at the end of the stream, None if there is nothing now."""

    @abstractmethod
    def send(self, buffers: Sequence[Buffer], more: bool = False) -> int:
        """Send from the front of the buffers and return how many bytes were taken, 0 if none can be now.

        With ``more``, they may be kept back for a moment, to leave in one packet with what follows at once.
        What was not taken must be offered again, unchanged and first, before anything else. Raises OSError.
        """

    def wait(self, readable: bool, writable: bool, deadline: Deadline) -> tuple[bool, bool]:
        """Wait until the stream can be read or written, as asked; (False, False) once the deadline has passed."""
        return poll(self._sock.fileno(), readable, writable, deadline)

    #: Whether ``pending`` can be true.
    hides = False

    def pending(self) -> bool:
        """Return whether there is input that waiting for the descriptor does not show."""
        return False

    def shutdown_write(self) -> None:
        """Tell the peer that nothing more will be sent. Never blocks, never raises."""
        shutdown(self._sock, socket.SHUT_WR)

    def shutdown(self) -> None:
        """Cut both directions and wake whoever waits for either. Never blocks, never raises."""
        shutdown(self._sock, socket.SHUT_RDWR)

    def discard(self, size: int) -> int | None:
        """Read and forget up to ``size`` bytes: how many, 0 at the end of the stream, None if there is nothing now."""
        try:
            return len(socket.socket.recv(self._sock, size, DONT_WAIT))
        except BlockingIOError:
            return None

    def close(self) -> None:
        """Give the descriptor back."""
        self._sock.close()

    def fileno(self) -> int:
        """Return the descriptor, -1 once closed."""
        return self._sock.fileno()


class PlainTransport(Transport):
    """A stream socket as it is."""

    __slots__ = ("direct",)

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        #: the socket for those who may use its descriptor themselves (express.py), None where that is not the usual way
        self.direct = sock if DONT_WAIT and type(sock) is socket.socket else None
        if (sock.gettimeout() is None) is not bool(DONT_WAIT):
            sock.setblocking(bool(DONT_WAIT))

    def receive(self, size: int, block: bool = False) -> bytes | None:
        try:
            return self._sock.recv(size, 0 if block else DONT_WAIT)
        except BlockingIOError:
            return None

    def receive_into(self, buffer: memoryview) -> int | None:
        try:
            return self._sock.recv_into(buffer, 0, DONT_WAIT)
        except BlockingIOError:
            return None

    def send(self, buffers: Sequence[Buffer], more: bool = False) -> int:
        flags = DONT_WAIT | MORE if more else DONT_WAIT
        try:
            if len(buffers) == 1 or not hasattr(self._sock, "sendmsg"):
                return self._sock.send(buffers[0], flags)
            return self._sock.sendmsg(buffers[:MOST_BUFFERS], (), flags)
        except BlockingIOError:
            return 0


class TlsTransport(Transport):
    """An SSLSocket whose handshake is done.

    OpenSSL forbids two threads inside one SSL object, and either direction may want the other:
    every call is made under one lock that is never held while waiting.
    """

    hides = True
    retractable = False  # OpenSSL has already made a record of what was offered

    def __init__(self, sock: ssl.SSLSocket) -> None:
        super().__init__(sock)
        sock.setblocking(False)
        self._tls = sock
        self._discarding = False  # nobody reads any more: what was decrypted already does not count
        self._lock = threading.RLock()  # guards the SSL object and the two flags; a signal handler may come back to it
        self._read_wants_write = False
        self._write_wants_read = False

    def receive(self, size: int, block: bool = False) -> bytes | None:
        with self._lock:
            self._read_wants_write = False
            try:
                return self._tls.recv(size)
            except ssl.SSLWantReadError:
                return None
            except ssl.SSLWantWriteError:
                self._read_wants_write = True
                return None

    def receive_into(self, buffer: memoryview) -> int | None:
        with self._lock:
            self._read_wants_write = False
            try:
                return self._tls.recv_into(buffer)
            except ssl.SSLWantReadError:
                return None
            except ssl.SSLWantWriteError:
                self._read_wants_write = True
                return None

    def send(self, buffers: Sequence[Buffer], more: bool = False) -> int:
        record = _first_slice(buffers)
        with self._lock:
            self._write_wants_read = False
            try:
                return self._tls.send(record)
            except ssl.SSLWantWriteError:
                return 0
            except ssl.SSLWantReadError:
                self._write_wants_read = True
                return 0

    def wait(self, readable: bool, writable: bool, deadline: Deadline) -> tuple[bool, bool]:
        with self._lock:
            if readable and not self._discarding and self._tls.pending():  # decrypted: the system knows nothing of it
                return True, False
            read_wants_write = readable and self._read_wants_write
            write_wants_read = writable and self._write_wants_read
        # A direction waits for what it wants, and for that alone: what it cannot use would wake it without end.
        room = read_wants_write or writable and not write_wants_read
        step = deadline.sooner(RETRY) if write_wants_read else deadline
        news = write_wants_read or readable and not read_wants_write
        can_read, can_write = poll(self._tls.fileno(), news, room, step)
        if write_wants_read and not (can_read or can_write):  # what it wants may have gone to another's read
            return False, not deadline.passed()
        return (
            readable and (can_write if read_wants_write else can_read),
            writable and (can_read if write_wants_read else can_write),
        )

    def discard(self, size: int) -> int | None:
        self._discarding = True
        return super().discard(size)

    def pending(self) -> bool:
        with self._lock:
            return not self._discarding and self._tls.pending() > 0

    def shutdown_write(self) -> None:
        with self._lock:
            try:
                self._tls.unwrap()  # sends close_notify; the peer's is never waited for (RFC 8446, 6.1)
            except (OSError, ValueError):
                pass
        super().shutdown_write()


def make_transport(sock: socket.socket, *, nagle: bool = False, keepalive: float | None = None) -> Transport:
    """Return the transport for a connected socket, over TLS if it is an SSLSocket.

    ``nagle`` lets TCP hold small writes back (RFC 9293, 3.7.4); with ``keepalive`` it asks after so many seconds of
    silence, and then again and again, whether the peer is there (RFC 9293, 3.8.4). Other sockets know neither.
    """
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, not nagle)
        if keepalive is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name in KEEPALIVE_OPTIONS:
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), max(1, round(keepalive)))
    except OSError:  # not TCP
        pass
    return TlsTransport(sock) if isinstance(sock, ssl.SSLSocket) else PlainTransport(sock)


def poll(fileno: int, readable: bool, writable: bool, deadline: Deadline) -> tuple[bool, bool]:
    """Wait until a descriptor is ready; an error or a hang-up counts as ready for what was asked."""
    while True:
        wait = deadline.one_wait()
        ready = _poll_once(fileno, readable, writable, wait.left())
        if wait is deadline or ready != (False, False) or deadline.passed():
            return ready


def _poll_once(fileno: int, readable: bool, writable: bool, left: float | None) -> tuple[bool, bool]:
    if not hasattr(select, "poll"):  # Windows
        ready = select.select([fileno] if readable else [], [fileno] if writable else [], [], left)
        return bool(ready[0]), bool(ready[1])
    poller = select.poll()
    poller.register(fileno, (select.POLLIN if readable else 0) | (select.POLLOUT if writable else 0))
    ready_events = poller.poll(None if left is None else left * 1000)
    if not ready_events:
        return False, False
    events = ready_events[0][1]
    broken = events & ~(select.POLLIN | select.POLLOUT)
    return (
        readable and bool(events & select.POLLIN or broken),
        writable and bool(events & select.POLLOUT or broken),
    )


def is_connected(sock: socket.socket) -> bool:
    """Return whether a socket has a peer: one that was connecting has it at once where that is on the same machine."""
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


_plain: Any = socket.SocketType  # what sockets are without the members of enumerations, which take long to make


def same_kind(sock: socket.socket, fileno: int) -> socket.socket:
    """Return a socket object for a descriptor that is of the same kind as this socket's."""
    return socket.socket(_plain.family.__get__(sock), _plain.type.__get__(sock), sock.proto, fileno=fileno)


def accept(listener: socket.socket) -> tuple[socket.socket, Any]:
    """As ``listener.accept()``, in fewer steps; what an SSLSocket accepts is not wrapped."""
    if not hasattr(_plain, "_accept") or listener.gettimeout():
        return socket.socket.accept(listener)
    fileno, address = _plain._accept(listener)
    return same_kind(listener, fileno), address


def shutdown(sock: socket.socket, how: int) -> None:
    """Shut a socket down; SSLSocket's own method would drop its TLS state, which others may be using."""
    try:
        socket.socket.shutdown(sock, how)
    except OSError:  # not connected any more
        pass


def _first_slice(buffers: Sequence[Buffer]) -> Buffer:
    """Return the first 16 KiB of the buffers as one: always the same for the same buffers."""
    first = buffers[0]
    if len(first) >= SLICE or len(buffers) == 1:
        return memoryview(first)[:SLICE]
    parts, room = [], SLICE
    for buffer in buffers:
        parts.append(memoryview(buffer)[:room])
        room -= len(parts[-1])
        if not room:
            break
    return b"".join(parts)
