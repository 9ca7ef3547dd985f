"""Pings: those sent and not yet answered, and the round-trip time they tell (RFC 6455, sections 5.5.2 and 5.5.3)."""

from __future__ import annotations

import time
from collections.abc import Callable

from .deadline import Deadline

__all__ = ["PingWaiter", "Pings"]


class PingWaiter:
    """A Ping under way: what ``WebSocketConnection.ping`` returns. Thread-safe."""

    __slots__ = ("_sent_at", "_wait", "payload", "round_trip")

    def __init__(self, payload: bytes, wait: Callable[[PingWaiter, Deadline], None]) -> None:
        self.payload = payload
        self.round_trip: float | None = None  #: seconds until the Pong came; None as long as none has
        self._sent_at = time.monotonic()
        self._wait = wait

    def wait(self, timeout: float | None = None) -> float:
        """Wait for the Pong and return the round-trip time in seconds.

        Raises TimeoutError after ``timeout`` seconds (None: never), and ConnectionClosed if the
        connection ends before. Messages that arrive meanwhile are kept for ``recv``.
        """
        if self.round_trip is None:
            self._wait(self, Deadline(timeout))
        assert self.round_trip is not None
        return self.round_trip

    def answered(self, now: float) -> None:
        """Note the Pong."""
        self.round_trip = now - self._sent_at


class Pings:
    """The unanswered Pings of one connection, oldest first; guarded by its state lock."""

    __slots__ = ("_count", "_unanswered", "sent")

    MOST = 256  # a peer that never answers must not cost memory: older ones are forgotten

    def __init__(self) -> None:
        self._unanswered: list[PingWaiter] = []
        self._count = 0
        self.sent = 0  # how many

    def new_payload(self) -> bytes:
        """Return a payload that no other Ping of this connection has."""
        self._count += 1
        return self._count.to_bytes(4, "big")

    def add(self, waiter: PingWaiter) -> None:
        """Wait for the answer to a Ping."""
        self.sent += 1
        self._unanswered.append(waiter)
        del self._unanswered[: -self.MOST]

    def answer(self, payload: bytes) -> float | None:
        """Note a Pong; it answers its Ping and all before that (5.5.3). Return the round-trip time of its own."""
        if not any(waiter.payload == payload for waiter in self._unanswered):
            return None  # unsolicited: a heartbeat of the peer's (5.5.3)
        now = time.monotonic()
        while True:
            waiter = self._unanswered.pop(0)
            waiter.answered(now)
            if waiter.payload == payload:
                return waiter.round_trip
