"""Counters: what has gone through a connection, and through a server.

Owns     the sums of what is over. A connection counts for itself and is asked when it ends, or when somebody
         looks: no message costs more because there are sums.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

__all__ = ["Counters", "ServerStats", "Stats"]


class Stats(NamedTuple):
    """Counters of a connection, from its 101 on.

    ``duration`` is how long it has been open, or was (seconds), ``latency`` the last round-trip time of a Ping
    (seconds, None before the first), ``close_received`` and ``close_sent`` the codes of the two Closes: 1005
    for one without a code, None as long as there is none. ``dropped`` tells whether it was given up because
    the peer did not read.
    """

    bytes_received: int
    bytes_sent: int
    messages_received: int
    messages_sent: int
    pings_received: int
    pings_sent: int
    duration: float
    latency: float | None
    close_received: int | None
    close_sent: int | None
    dropped: bool


@dataclass
class ServerStats:
    """Counters of a server from its beginning on, as ``server.stats`` gives them: yours to keep.

    Those of messages, bytes, Pings, Closes and seconds are sums over all connections that are open or over, from
    the 101 of each on.
    """

    accepted: int = 0  #: sockets that were accepted and admitted
    refused: Counter[str] = field(default_factory=Counter)  #: sockets that were not, by the reason
    gave_way: int = 0  #: sockets that were cut while they waited for a request, so that others could come in
    tls_handshakes_failed: int = 0
    #: requests, by the status, that got a refusal of the package's: malformed, too large, for another host, handshakes
    requests_refused: Counter[int] = field(default_factory=Counter)
    #: opening handshakes, by the status, also of those that your code has refused; None: the client had left
    handshakes_failed: Counter[int | None] = field(default_factory=Counter)
    handler_errors: int = 0  #: exceptions of handlers
    sockets_open: int = 0  #: of those accepted, now
    connections_opened: int = 0
    connections_open: int = 0  #: now
    connections_dropped: int = 0  #: because the peer did not read
    connection_seconds: float = 0.0
    messages_received: int = 0
    messages_sent: int = 0
    bytes_received: int = 0
    bytes_sent: int = 0
    pings_received: int = 0
    pings_sent: int = 0
    closes_received: Counter[int] = field(default_factory=Counter)  #: by their codes; 1005: without one
    closes_sent: Counter[int] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)  #: last round-trip times of open connections (seconds)

    def add(self, stats: Stats) -> None:
        """Add what a connection has counted."""
        self.connections_opened += 1
        self.connections_dropped += stats.dropped
        self.connection_seconds += stats.duration
        self.messages_received += stats.messages_received
        self.messages_sent += stats.messages_sent
        self.bytes_received += stats.bytes_received
        self.bytes_sent += stats.bytes_sent
        self.pings_received += stats.pings_received
        self.pings_sent += stats.pings_sent
        if stats.close_received is not None:
            self.closes_received[stats.close_received] += 1
        if stats.close_sent is not None:
            self.closes_sent[stats.close_sent] += 1

    def add_open(self, stats: Stats) -> None:
        """Add what a connection has counted that is not over yet."""
        self.add(stats)
        self.connections_open += 1
        if stats.latency is not None:
            self.latencies.append(stats.latency)

    def copy(self) -> ServerStats:
        """Return the same once more."""
        return replace(
            self,
            refused=self.refused.copy(),
            requests_refused=self.requests_refused.copy(),
            handshakes_failed=self.handshakes_failed.copy(),
            closes_received=self.closes_received.copy(),
            closes_sent=self.closes_sent.copy(),
            latencies=self.latencies.copy(),
        )


class Counters:
    """What is over. Thread-safe; a signal handler may come back to it."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # guards _past
        self._past = ServerStats()

    def count(self, name: str, by: int = 1) -> None:
        """Add to a number of ServerStats."""
        with self._lock:
            setattr(self._past, name, getattr(self._past, name) + by)

    def count_one(self, name: str, what: Hashable) -> None:
        """Add one of a kind to a Counter of ServerStats."""
        with self._lock:
            getattr(self._past, name)[what] += 1

    def end(self, stats: Stats) -> None:
        """A connection is over."""
        with self._lock:
            self._past.add(stats)

    def copy(self) -> ServerStats:
        """Return what is over."""
        with self._lock:
            return self._past.copy()
