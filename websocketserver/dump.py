"""Dump: what a server holds and what all threads do, as text for whoever wonders why nothing moves.

Never    takes a lock of a connection, nor waits: it may be asked for when everything else is stuck, also by a
         signal handler that has interrupted anything.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol

from .report import format_address, look_at

if TYPE_CHECKING:
    from .connection import WebSocketConnection

__all__ = ["dump"]


class Held(Protocol):
    """What is asked of an accepted socket."""

    address: Any
    since: float
    thread: int | None

    @property
    def busy(self) -> bool:
        """Whether a request is being answered."""

    @property
    def connection(self) -> WebSocketConnection | None:
        """The connection, once there is one."""


def dump(title: str, accepted: Iterable[Held]) -> str:
    """Return a paragraph for each accepted socket, with what the thread does that serves it, and the other threads."""
    held = sorted(accepted, key=lambda each: each.since)
    serving = {each.thread for each in held if each.thread is not None}
    others = {thread.ident for thread in threading.enumerate() if thread.ident is not None} - serving
    stacks = _stacks(serving | others)
    connections = sum(each.connection is not None for each in held)
    return "\n\n".join(
        [
            f"{title}: {len(held)} sockets, {connections} of them WebSockets",
            *(f"{_description(each)}\n{stacks.get(each.thread, '  in no thread')}" for each in held),
            "Other threads:",
            *sorted(stacks[ident] for ident in others),
            "",
        ]
    )


def _description(held: Held) -> str:
    address = format_address(held.address)
    connection = held.connection
    if connection is None:
        what = "a request is being answered" if held.busy else "waits for a request"
        return f"{address} {what}, for {time.monotonic() - held.since:.1f} s"
    stats = connection.stats
    path = connection.request.path if connection.request is not None else ""  # a query may hold a secret
    words = [
        f"{address} {path} {connection.state.value} for {stats.duration:.1f} s",
        f"received {stats.messages_received} messages ({stats.bytes_received} bytes)",
        f"sent {stats.messages_sent} messages ({stats.bytes_sent} bytes)",
    ]
    if connection.subprotocol is not None:
        words.append(f"subprotocol {connection.subprotocol}")
    if stats.latency is not None:
        words.append(f"round trip {1000 * stats.latency:.1f} ms")
    return ", ".join(words)


def _stacks(threads: Iterable[int]) -> dict[int | None, str]:
    """Return what each thread does, by its identifier."""
    idents = list(threads)
    seen = look_at([(None, ident) for ident in idents])
    return {
        ident: f"  in {each.thread}:\n{each.stack}".rstrip() if each.stack else f"  in {each.thread}, which has ended"
        for ident, each in zip(idents, seen, strict=True)
    }
