"""Report: what became of a server's connections when it was shut down."""

from __future__ import annotations

import sys
import threading
import traceback
from typing import Any, NamedTuple

__all__ = ["RunningHandler", "ShutdownReport", "look_at"]

MOST_NAMED = 10  # addresses in the text; the tuples have all


class RunningHandler(NamedTuple):
    """A handler that would not end."""

    address: Any  #: of its client
    thread: str  #: the name of the thread that it keeps
    stack: str  #: where that thread was, as in a traceback; "" if it had just ended

    def __str__(self) -> str:
        return f"{format_address(self.address)} in {self.thread}:\n{self.stack}".rstrip()


class ShutdownReport(NamedTuple):
    """What became of the connections of a server that was shut down. Its ``str`` is for people."""

    closed: tuple[Any, ...]  #: addresses of the clients whose connections ended with a closing handshake
    cut: tuple[Any, ...]  #: of those that ended without one, and of those whose requests were not answered to the end
    running: tuple[RunningHandler, ...]  #: the handlers that would not end

    def __str__(self) -> str:
        said = [f"closed {_count(self.closed)}", f"cut {_count(self.cut)}"]
        if not self.running:
            return ", ".join(said)
        said.append(f"still running {len(self.running)}:")
        return "\n".join([", ".join(said), *map(str, self.running)])


def look_at(handlers: list[tuple[Any, int]]) -> tuple[RunningHandler, ...]:
    """Return what the handlers are doing, each given as the client's address and the identifier of its thread."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    frames = sys._current_frames()
    found = []
    for address, ident in handlers:
        frame = frames.get(ident)
        stack = "".join(traceback.format_stack(frame)) if frame is not None else ""
        found.append(RunningHandler(address, names.get(ident) or f"thread {ident}", stack))
    return tuple(found)


def format_address(address: Any) -> str:
    """Return host:port, or whatever else the address of a client is."""
    if isinstance(address, tuple) and len(address) >= 2:
        host, port = address[:2]
        return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"
    return str(address) or "a client"


def _count(addresses: tuple[Any, ...]) -> str:
    if not addresses:
        return "0"
    named = ", ".join(map(format_address, addresses[:MOST_NAMED]))
    more = f" and {len(addresses) - MOST_NAMED} more" if len(addresses) > MOST_NAMED else ""
    return f"{len(addresses)} ({named}{more})"
