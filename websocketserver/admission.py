"""Admission: who may come in where there is little room, and who makes room for them.

Owns     how many are here from where, and the order of those that wait for a request.
Never    knows a socket, and calls a guest with no lock held.

Whoever comes when a server is full takes the place of the one that has waited longest for a request,
be it the first (a handshake that gets nowhere) or the next (HTTP kept alive). So any number of clients
that only hold on keep out nobody whose handshake takes less time than as many of them need to come
anew. Connections, and requests that are being answered, never make room.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from ipaddress import IPv6Address, IPv6Network, ip_address
from typing import Any, Protocol

from .deadline import Deadline
from .forwarded import UNIX, is_trusted

__all__ = ["TRY_LATER", "Admission", "Guest", "busy_answer", "place_of", "place_of_peer"]

TRY_LATER = {"Retry-After": "5"}  # seconds that a refused client is told to wait
NETWORK = 64  # bits: the smallest network that an IPv6 customer gets, all of it his own


class Guest(Protocol):
    """Somebody who has come in."""

    def give_way(self) -> bool:
        """End it, if it still waits for a request, without blocking; return whether it did."""


class Admission:
    """Who is here. Thread-safe; a signal handler may come back to it."""

    MOST_LEAVING = 100  # that have given way, and whose handlers have not ended yet

    def __init__(self) -> None:
        self._lock = threading.RLock()  # guards all below
        self._gone = threading.Condition(self._lock)
        self._waiting: OrderedDict[Guest, None] = OrderedDict()  # for a request, the longest first
        self._leaving: set[Guest] = set()
        self._counts: dict[str, int] = {}

    @property
    def leaving(self) -> int:
        """How many have given way and are not gone yet."""
        return len(self._leaving)

    def enter(self, place: str | None, limit: int | None) -> bool:
        """Count one more from a place; False where there are ``limit`` already. None is nowhere, and not counted."""
        if place is None:
            return True
        with self._lock:
            count = self._counts.get(place, 0)
            if limit is not None and count >= limit:
                return False
            self._counts[place] = count + 1
            return True

    def leave(self, place: str | None) -> None:
        """Count one less from a place."""
        if place is None:
            return
        with self._lock:
            self._counts[place] -= 1
            if not self._counts[place]:
                del self._counts[place]

    def await_request(self, guest: Guest) -> None:
        """The guest waits for a request from now on, unless it does already."""
        with self._lock:
            if guest not in self._leaving:
                self._waiting.setdefault(guest)

    def begin_request(self, guest: Guest) -> None:
        """The guest has a request."""
        with self._lock:
            self._waiting.pop(guest, None)

    def gone(self, guest: Guest) -> None:
        """The guest has ended."""
        with self._lock:
            self._waiting.pop(guest, None)
            if guest in self._leaving:
                self._leaving.discard(guest)
                self._gone.notify()

    def make_room(self, patience: Deadline) -> bool:
        """Have the guest that has waited longest give way; False if nobody waits.

        False too if too many are still leaving: that none of them has gone by the end of our ``patience``.
        """
        while True:
            with self._lock:
                while self._waiting and len(self._leaving) >= self.MOST_LEAVING:
                    if not self._gone.wait(patience.left()):
                        return False
                if not self._waiting:
                    return False
                guest, _ = self._waiting.popitem(last=False)
                self._leaving.add(guest)
            if guest.give_way():
                return True
            with self._lock:  # its request came this moment
                self._leaving.discard(guest)


def place_of(address: str) -> str | None:
    """Return where a client is, for counting: its IPv4 address or IPv6 network, None where it has no address.

    An IPv6 client has at least 2**64 addresses of its own to come from, so they count as one: all but those of
    the link, which has only one such network for all.
    """
    try:
        parsed = ip_address(address)
    except ValueError:
        return None
    if isinstance(parsed, IPv6Address) and not parsed.is_link_local:
        return str(parsed.ipv4_mapped or IPv6Network((int(parsed), NETWORK), strict=False))
    return str(parsed)


def place_of_peer(client_address: Any, handler: Callable[..., Any]) -> str | None:
    """Return where the peer of an accepted socket is; None for a proxy that the RequestHandlerClass trusts, whose
    clients are told by their requests."""
    while isinstance(handler, partial):
        handler = handler.func
    address = str(client_address[0]) if isinstance(client_address, tuple) else UNIX
    return None if is_trusted(address, getattr(handler, "trusted_proxies", ())) else place_of(address)


def busy_answer() -> bytes:
    """Return the response to whoever is refused unheard."""
    body = "503 Service Unavailable: the server is busy\n"
    head = (
        "HTTP/1.1 503 Service Unavailable",
        "Connection: close",
        "Content-Type: text/plain; charset=utf-8",
        f"Content-Length: {len(body)}",
        *(f"{name}: {value}" for name, value in TRY_LATER.items()),
    )
    return "\r\n".join((*head, "", body)).encode()
