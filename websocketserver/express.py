"""Express: the common case of receiving, of sending and of serving, each in one call, where C can do it.

Owns     receive_at_once, send_at_once, handle_at_once, serve_at_once and the like. Python has no shorter way than
         that of their callers (connection.py, sending.py, sharing.py, handler.py, pool.py), so here they mostly say
         that they have done nothing; those then go it. That is the specification: with C the same happens in fewer
         steps, or nothing at all.
Never    does what is not simple: a plain socket, no time-out, no extension, whole messages, nobody in the way.
"""

from __future__ import annotations

import os
from collections import deque
from typing import TYPE_CHECKING, Any

from .fragments import FragmentedChannel
from .protocol.events import AppEvent

__all__ = [
    "flush_at_once",
    "handle_at_once",
    "ping_at_once",
    "poll_at_once",
    "ready_at_once",
    "receive_at_once",
    "send_at_once",
    "serve_at_once",
    "share_at_once",
]


def receive_at_once(connection: FragmentedChannel, ahead: bool, /) -> AppEvent | None:
    """Return the next event, waiting for it without a deadline if need be; None where that is not simple.

    With ``ahead``, what has come with it is put into the inbox. As for recv, an interrupt while waiting loses nothing.
    """
    return None


def ready_at_once(connection: FragmentedChannel, ahead: bool, /) -> AppEvent | None:
    """The same without waiting, for a pool."""
    return None


def send_at_once(connection: FragmentedChannel, message: object, /) -> bool | None:
    """Send a message, behind what is gathered, without waiting, or gather it; return False where nothing was done.

    None: it was begun, and what is left of it is pending.
    """
    return False


def share_at_once(connection: FragmentedChannel, frame: bytes, guests: dict[Any, None] | None, /) -> bool | None:
    """The same for a frame that many are sent, as those have it that neither encode, split nor mask.

    With ``guests``, join those and gather it, unless that is enough to leave.
    """
    return False


def flush_at_once(connection: FragmentedChannel, /) -> bool:
    """Send what is gathered; return whether all of it has left. What has not is pending, or still gathered."""
    return False


def serve_at_once(pool: Any, worker: Any, ready: deque[Any], /) -> Any:
    """As the leader, serve connections that have sent messages; return the first tenant for which that is not all.

    None: nobody is left, or the lead has passed. Where the tenant is the worker's, its turn has begun; so it has where
    an exception comes, which is a hook's.
    """
    return ready.popleft()


def handle_at_once(connection: FragmentedChannel, handler: Any, /) -> None:
    """Call ``handler.on_message`` with messages as they come, waiting for them, as long as that is simple.

    Gathers as ``connection.events``, which is to go on where this ends, does.
    """


def ping_at_once(connection: FragmentedChannel, payload: bytes, /) -> bool | None:
    """Send a Ping with the GIL held, where a pool has the connection: its leader would take it, and not let go soon.

    False where nothing was done; None: it was begun, and what is left of it is pending.
    """
    return False


def poll_at_once(epoll: Any, seconds: float | None, /) -> list[int]:
    """Return which descriptors of an epoll can be read or have failed, once there are any or so many seconds are over.

    Not all, if they are many: the others come with the next call. May return early.
    """
    return [fileno for fileno, _ in epoll.poll(-1 if seconds is None else seconds)]


# The seam. To the type checker and the reader the code above is the specification.
if not TYPE_CHECKING and not os.environ.get("WEBSOCKETSERVER_PURE"):
    try:
        from ._express import (
            flush_at_once,
            handle_at_once,
            ping_at_once,
            poll_at_once,
            ready_at_once,
            receive_at_once,
            renew,
            send_at_once,
            serve_at_once,
            share_at_once,
        )

        os.register_at_fork(after_in_child=renew)
    except ImportError:
        pass
