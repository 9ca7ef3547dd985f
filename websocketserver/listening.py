"""Listening: the socket on which a server's clients arrive: its own, or one that was there before.

Owns     binding, taking over a socket that somebody else has bound, and leaving a shared port.
Never    closes a socket that it has refused to take.

A restart loses no client where the new process listens before the old one stops: either both have the
same socket (given, or inherited from systemd), or each has its own on one port (``allow_reuse_port``).
"""

from __future__ import annotations

import array
import errno
import os
import socket
import socketserver
import stat
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from http.server import HTTPServer
from typing import Any

from .transport import accept

__all__ = ["Listening", "bar_newcomers", "inherited_sockets"]

FIRST = 3  # the first descriptor that systemd hands over (SD_LISTEN_FDS_START)
MOST = 1024  # far beyond what anybody hands over
VARIABLES = ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")

SO_ATTACH_FILTER = 26  # Linux, <asm-generic/socket.h>
# A classic BPF program that drops the first packet of a TCP handshake (SYN without ACK) and passes all others. What
# it sees begins with the TCP header, whose 14th byte are the flags.
DROP_SYN = (
    (0x30, 0, 0, 13),  # load that byte
    (0x54, 0, 0, 0x12),  # of it, SYN and ACK
    (0x15, 0, 1, 0x02),  # SYN alone?
    (0x06, 0, 0, 0),  # yes: drop
    (0x06, 0, 0, 0xFFFFFFFF),  # no: pass all of it
)


class Listening(HTTPServer):
    """The standard library's server with a listening socket of our own choice."""

    request_queue_size = 128
    allow_reuse_address = os.name == "posix"  # on Windows others could take the port over
    #: Whether other processes may listen on the same port (SO_REUSEPORT), each with a socket of its own.
    allow_reuse_port = False

    def __init__(
        self, server_address: Any, RequestHandlerClass: Callable[..., Any], bind_and_activate: bool = True
    ) -> None:
        self._shared = isinstance(server_address, socket.socket)  # others may accept from it too
        if not self._shared:
            self._choose_family(server_address)
            super().__init__(server_address, RequestHandlerClass, bind_and_activate)
            return
        given: socket.socket = server_address
        if not self._check_given(given) and bind_and_activate:
            given.listen(self.request_queue_size)
        self.address_family = given.family
        super().__init__(given.getsockname(), RequestHandlerClass, bind_and_activate=False)
        self.socket.close()  # the one that was made for us
        self.socket = given
        self._set_names(self.server_address)

    # To be overridden, as in socketserver

    def server_bind(self) -> None:
        """Bind; ``server_name`` is the host as it was given: no name server is asked."""
        host = self.server_address[0]
        if self.address_family == socket.AF_INET6 and host in ("", "::"):
            with suppress(OSError):  # then IPv6 alone
                self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        if self.allow_reuse_port:
            if not hasattr(socket, "SO_REUSEPORT"):
                raise OSError(errno.ENOPROTOOPT, "allow_reuse_port: this system has no SO_REUSEPORT")
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # CPython does from 3.11 on
        socketserver.TCPServer.server_bind(self)
        self._set_names((host, *self.server_address[1:]))

    def get_request(self) -> tuple[Any, Any]:
        """Accept a connection; return its socket, never wrapped, and its address, an IPv4 one as such."""
        request, address = accept(self.socket)  # an SSLSocket's own method would do the handshake here
        if self.address_family == socket.AF_INET6 and address[0].startswith("::ffff:") and "." in address[0]:
            address = (address[0][len("::ffff:") :], address[1])
        return request, address

    # Taking over

    def _choose_family(self, server_address: Any) -> None:
        if self._has_family():
            return
        host = server_address[0]
        if ":" in host or (host == "" and socket.has_dualstack_ipv6()):
            self.address_family = socket.AF_INET6

    def _has_family(self) -> bool:
        """Return whether a subclass has set ``address_family``."""
        mro = type(self).__mro__
        return any("address_family" in vars(kind) for kind in mro[: mro.index(Listening)])

    def _check_given(self, given: socket.socket) -> bool:
        """Check a socket that was given in place of an address; return whether it listens already."""
        if given.type != socket.SOCK_STREAM:
            raise ValueError(f"server_address is a socket of type {_name(given.type)}, and must be a SOCK_STREAM")
        if self._has_family() and given.family != self.address_family:
            family = _name(self.address_family)
            raise ValueError(f"server_address is an {_name(given.family)} socket, and must be an {family} one")
        with suppress(OSError):
            given.getpeername()
            raise ValueError("server_address is a connected socket, and must be one that listens, or is bound")
        if given.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return True
        name = given.getsockname()
        if not (name[1] if isinstance(name, tuple) else name):
            raise ValueError("server_address is a socket that is neither bound nor listening: bind it first")
        return False

    def _set_names(self, address: Any) -> None:
        if isinstance(address, tuple):
            self.server_name, self.server_port = str(address[0]), int(address[1])
        else:
            self.server_name, self.server_port = os.fsdecode(address), 0


def inherited_sockets() -> list[socket.socket]:
    """Return the listening sockets that systemd has handed to this process, in the order of its socket unit.

    Each can stand in place of a server's address. The list is empty where the environment hands nothing to this
    process. The variables (LISTEN_FDS, LISTEN_PID, LISTEN_FDNAMES) are removed, so that no child takes the sockets
    for its own and a second call returns nothing, and the sockets are not inherited further. Raises ValueError for
    variables, or descriptors, that are not what they should be. Source: sd_listen_fds(3).
    """
    count, pid, _ = (os.environ.pop(name, None) for name in VARIABLES)
    if count is None and pid is None:
        return []
    if count is None or pid is None:
        raise ValueError(f"{'LISTEN_FDS' if count is None else 'LISTEN_PID'} is missing from the environment")
    if _number("LISTEN_PID", pid) != os.getpid():  # they were meant for a parent
        return []
    number = _number("LISTEN_FDS", count)
    if number > MOST:
        raise ValueError(f"LISTEN_FDS must be {MOST} at most, not {number}")
    for fileno in range(FIRST, FIRST + number):
        _check_inherited(fileno)
    return [_take_inherited(fileno) for fileno in range(FIRST, FIRST + number)]


def _number(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"{name} must be a number, not {text[:100]!r}")
    return int(text)


def _check_inherited(fileno: int) -> None:
    try:
        if not stat.S_ISSOCK(os.fstat(fileno).st_mode):
            raise ValueError(f"LISTEN_FDS: descriptor {fileno} is not a socket")
    except OSError as error:
        raise ValueError(f"LISTEN_FDS: descriptor {fileno} is not open") from error
    sock = socket.socket(fileno=fileno)
    try:
        if sock.type != socket.SOCK_STREAM or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise ValueError(f"LISTEN_FDS: descriptor {fileno} is not a listening stream socket (Accept=no is needed)")
    finally:
        sock.detach()


def _take_inherited(fileno: int) -> socket.socket:
    sock = socket.socket(fileno=fileno)
    sock.set_inheritable(False)
    return sock


def _name(constant: Any) -> str:
    return getattr(constant, "name", None) or str(constant)


def bar_newcomers(sock: socket.socket) -> None:
    """Have a listening TCP socket overlook those who begin to connect from now on, where the system can.

    With SO_REUSEPORT the system deals newcomers to all sockets of the port. One that is overlooked tries again a second
    later, when there is another one to take it; one that is dealt to a socket in the moment of its end is reset.
    """
    if sys.platform != "linux" or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    program = array.array("B", b"".join(struct.pack("=HBBI", *step) for step in DROP_SYN))
    with suppress(OSError):  # then one may be reset, as elsewhere
        sock.setsockopt(
            socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("@HP", len(DROP_SYN), program.buffer_info()[0])
        )
