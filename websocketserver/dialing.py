"""Dialing: from a host and a port to a connected stream, plain or TLS, all under one deadline.

Any thread may abort it meanwhile: whatever is being waited for ends at once.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from .deadline import Deadline
from .streams import Link
from .tls import wrap
from .transport import is_connected, poll, shutdown

__all__ = ["Attempt", "Dialer"]

NON_BLOCKING: int = getattr(socket, "SOCK_NONBLOCK", 0)  # 0 where a socket cannot be made so
_AddressInfo = tuple[Any, ...]  # as socket.getaddrinfo() gives it


class Attempt:
    """One attempt to connect, up to the end of the opening handshake. Thread-safe.

    The socket in use is known here, and ``abort`` shuts it down, which ends whatever waits for it. Where it has been
    aborted, the other methods raise ConnectionAbortedError. ``sock`` is a socket that is used from the beginning.
    """

    def __init__(self, sock: socket.socket | None = None) -> None:
        self._lock = threading.RLock()  # guards all below; signal handlers may come back to it
        self._changed: threading.Condition | None = None  # made by who waits
        self._sock = sock
        self._begun = False
        self._claimed = False
        self.aborted = False
        self.failed = False
        self.connected = False  # it has succeeded, and the socket is another's

    def begin(self) -> None:
        """Begin; raises RuntimeError where that was done before."""
        with self._lock:
            if self._begun:
                raise RuntimeError("a client connects once: make another")
            self._check_locked()
            self._begun = True

    def claim(self) -> None:
        """Be the one that calls the hooks; raises RuntimeError for any other."""
        with self._lock:
            if self._claimed:
                raise RuntimeError("run_forever was called before: make another client")
            self._claimed = True

    def use(self, sock: socket.socket) -> None:
        """Use this socket from now on."""
        with self._lock:
            self._sock = sock
            self._check_locked()

    def close(self, sock: socket.socket) -> None:
        """Close a socket that was used; never raises ConnectionAbortedError."""
        with self._lock:
            self._sock = None  # before its number can be another's
        sock.close()

    def begin_connecting(self, sock: socket.socket, where: Any) -> int:
        """Use this socket, which does not block, and begin to connect it; return what connect_ex does.

        An abort comes before, or finds it connecting.
        """
        with self._lock:
            self._check_locked()
            self._sock = sock
            return sock.connect_ex(where)

    def wait_for(self, condition: Callable[[], object], seconds: float | None) -> None:
        """Wait until the condition holds, looking again at each ``notify``; so many seconds at most."""
        with self._lock:
            self._changed = threading.Condition(self._lock)
            self._changed.wait_for(lambda: self.aborted or condition(), seconds)
            self._check_locked()

    def notify(self) -> None:
        """What somebody waits for may have come."""
        with self._lock:
            self._notify_locked()

    def finish(self) -> None:
        """It has succeeded: from now on there is nothing to abort here."""
        with self._lock:
            self._check_locked()
            self._sock = None
            self.connected = True

    def abort(self) -> bool:
        """Abort; return False where it has succeeded before. Never blocks."""
        with self._lock:
            if self.connected:
                return False
            self.aborted = True
            if self._sock is not None:
                shutdown(self._sock, socket.SHUT_RDWR)
                if not self._begun:  # nobody else will
                    self._sock.close()
            self._notify_locked()
            return True

    def _notify_locked(self) -> None:
        if self._changed is not None:
            self._changed.notify_all()

    def _check_locked(self) -> None:
        if self.aborted:
            raise ConnectionAbortedError("aborted here while connecting")


class Dialer(NamedTuple):
    """Where to connect, and how."""

    host: str
    port: int
    ssl_context: ssl.SSLContext | None = None  #: None for no TLS
    sock: socket.socket | None = None  #: connected already: nothing is dialled; an SSLSocket is taken as it is
    unix_path: str | None = None
    source_address: tuple[str, int] | None = None

    def connect(self, deadline: Deadline, attempt: Attempt | None = None) -> Link:
        """Return the connected stream; raises OSError (TimeoutError by the deadline, ssl.SSLError).

        Its socket is then the attempt's to close.
        """
        attempt = attempt or Attempt()
        link = Link(self._connect(deadline, attempt), deadline)
        if self.ssl_context is None or isinstance(link.sock, ssl.SSLSocket):
            return link
        try:
            link.sock = wrap(self.ssl_context, link.sock, server_hostname=self.host)
            attempt.use(link.sock)
            link.handshake()
        except BaseException:
            attempt.close(link.sock)
            raise
        return link

    def _connect(self, deadline: Deadline, attempt: Attempt) -> socket.socket:
        if self.sock is not None:
            return self.sock
        if self.unix_path is not None:
            return self._try_address((socket.AF_UNIX, socket.SOCK_STREAM, 0, "", self.unix_path), deadline, attempt)
        addresses = _resolve(self.host, self.port, deadline, attempt)
        if len(addresses) == 1:
            return self._try_address(addresses[0], deadline, attempt)
        failures: list[OSError] = []
        for tried, address in enumerate(addresses):
            untried = len(addresses) - tried
            left = deadline.left() if untried > 1 else None  # shared out: a dead address leaves time for the next
            share = deadline if left is None else deadline.sooner(left / untried)
            try:
                return self._try_address(address, share, attempt)
            except OSError as error:
                if attempt.aborted:
                    raise
                failures.append(error)
        raise failures[-1 if deadline.passed() else 0]

    def _try_address(self, address: _AddressInfo, deadline: Deadline, attempt: Attempt) -> socket.socket:
        family, kind, protocol, _, where = address
        sock = socket.socket(family, kind | NON_BLOCKING, protocol)
        try:
            if self.source_address is not None:
                sock.bind(self.source_address)
            left = deadline.left()
            if left == 0:
                raise TimeoutError(f"no time left to connect to {where}")
            if not NON_BLOCKING:
                sock.setblocking(False)
            error = attempt.begin_connecting(sock, where)
            if error == errno.EINPROGRESS or error == errno.EWOULDBLOCK and family != socket.AF_UNIX:
                error = 0 if is_connected(sock) else _wait_connected(sock, deadline)
            elif error == errno.EAGAIN:  # a Unix socket whose backlog is full: only who blocks is queued
                sock.settimeout(left)
                sock.connect(where)
                error = 0
            if error:
                raise OSError(error, os.strerror(error))
            sock.setblocking(True)  # what comes next waits in its own way
        except BaseException:
            attempt.close(sock)
            raise
        return sock


def _wait_connected(sock: socket.socket, deadline: Deadline) -> int:
    """Wait until a socket has connected; return 0, or the error that there was."""
    if not poll(sock.fileno(), False, True, deadline)[1]:
        raise TimeoutError("timed out")
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


def _read_address(host: str, port: int) -> Sequence[_AddressInfo]:
    """Return the one address that a host in numbers is; raises socket.gaierror for a name."""
    return tuple(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST))


_known_address = lru_cache(64)(_read_address)


def _resolve(host: str, port: int, deadline: Deadline, attempt: Attempt) -> Sequence[_AddressInfo]:
    """Return the addresses of a host. A name may take the system's resolver long: that happens in a thread."""
    try:
        return (_read_address if "%" in host else _known_address)(host, port)  # a zone may get another number
    except socket.gaierror:
        pass
    if host == "localhost":
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    results: list[Sequence[_AddressInfo] | Exception] = []

    def resolve() -> None:
        try:
            results.append(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except Exception as error:
            results.append(error)
        attempt.notify()

    threading.Thread(target=resolve, name=f"websocketserver-resolve-{host}", daemon=True).start()
    attempt.wait_for(lambda: results, deadline.left())
    if not results:
        raise TimeoutError(f"the address of {host} could not be found in time")
    if isinstance(results[0], Exception):
        raise results[0]
    return results[0]
