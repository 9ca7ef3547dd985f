"""Dialing: from a host and a port to a connected stream, plain or TLS, all under one deadline."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

from .deadline import Deadline
from .streams import Link

__all__ = ["Dialer"]

_AddressInfo = tuple[Any, ...]  # as socket.getaddrinfo() gives it


class Dialer(NamedTuple):
    """Where to connect, and how."""

    host: str
    port: int
    ssl_context: ssl.SSLContext | None = None  #: None for no TLS
    sock: socket.socket | None = None  #: connected already: nothing is dialled; an SSLSocket is taken as it is
    unix_path: str | None = None
    source_address: tuple[str, int] | None = None

    def connect(self, deadline: Deadline) -> Link:
        """Return the connected stream; raises OSError (TimeoutError by the deadline, ssl.SSLError)."""
        link = Link(self._connect(deadline), deadline)
        if self.ssl_context is None or isinstance(link.sock, ssl.SSLSocket):
            return link
        try:
            link.sock = self.ssl_context.wrap_socket(
                link.sock, server_hostname=self.host, do_handshake_on_connect=False
            )
            link.handshake()
        except BaseException:
            link.sock.close()
            raise
        return link

    def _connect(self, deadline: Deadline) -> socket.socket:
        if self.sock is not None:
            return self.sock
        if self.unix_path is not None:
            return self._try_address((socket.AF_UNIX, socket.SOCK_STREAM, 0, "", self.unix_path), deadline)
        addresses = _resolve(self.host, self.port, deadline)
        failures: list[OSError] = []
        for tried, address in enumerate(addresses):
            left = deadline.left()  # shared out: an address that is dead leaves time for the next
            share = None if left is None else left / (len(addresses) - tried)
            try:
                return self._try_address(address, deadline.sooner(share))
            except OSError as error:
                failures.append(error)
        raise failures[-1 if deadline.passed() else 0]

    def _try_address(self, address: _AddressInfo, deadline: Deadline) -> socket.socket:
        family, kind, protocol, _, where = address
        sock = socket.socket(family, kind, protocol)
        try:
            if self.source_address is not None:
                sock.bind(self.source_address)
            left = deadline.left()
            if left == 0:
                raise TimeoutError(f"no time left to connect to {where}")
            sock.settimeout(left)
            sock.connect(where)
        except BaseException:
            sock.close()
            raise
        return sock


def _resolve(host: str, port: int, deadline: Deadline) -> Sequence[_AddressInfo]:
    """Return the addresses of a host. A name may take the system's resolver long: that happens in a thread."""
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        pass
    if deadline.at is None or host == "localhost":
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    results: list[Sequence[_AddressInfo] | Exception] = []

    def resolve() -> None:
        try:
            results.append(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except Exception as error:
            results.append(error)

    thread = threading.Thread(target=resolve, name=f"websocketserver-resolve-{host}", daemon=True)
    thread.start()
    thread.join(deadline.left())
    if not results:
        raise TimeoutError(f"the address of {host} could not be found in time")
    if isinstance(results[0], Exception):
        raise results[0]
    return results[0]
