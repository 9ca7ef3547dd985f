"""What the tests of express have in common: a talk, what makes it not simple, and handlers."""

from __future__ import annotations

import threading
import tracemalloc
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from websocketserver import PoolingWebSocketServer, Role, WebSocketConnection, express
from websocketserver.pump import Turn

from ..serving import Quiet, serving
from ..support import MASK, SOON, RawPeer, frame

HAVE_C = express.receive_at_once.__module__ != express.__name__

Ends = tuple[WebSocketConnection, RawPeer]

#: What makes it not simple to send: by the name of an attribute, and what it may be.
NOT_SENDING: dict[str, object] = {
    "_sent": object(),
    "_input_over": True,
    "_speaker": Turn(),
    "_gathering": 1,
    "_output.queued": [(9, b"")],
    "_output.rest": [b"rest"],
    "_output.broken": "broken",
    "_output.gathered": bytearray(b"gathered"),
    "_output.sender.plain": False,
    "_output.sender._new_key": lambda: b"keys",
    "_output.sender.close_sent": True,
    "_transport.direct": None,
    "_transport": None,
}


def frames(connection: WebSocketConnection, count: int) -> list[bytes]:
    key = b"\x01\x02\x03\x04" if connection.role is Role.SERVER else None
    return [frame(1, b"%d" % number, key=key) for number in range(count)]


def counted(connection: WebSocketConnection) -> tuple[int, int]:
    return connection.stats.messages_received, connection.stats.messages_sent


def growth(talk: Callable[[], None]) -> int:
    """Return by how many bytes the memory in use grows each time: the least of a few, since other threads use some."""
    talk()
    tracemalloc.start()
    try:
        used = []
        for _ in range(4):
            talk()
            used.append(tracemalloc.get_traced_memory()[0])
        return min(after - before for before, after in pairwise(used))
    finally:
        tracemalloc.stop()


def change(connection: WebSocketConnection, path: str, value: object) -> Callable[[], None]:
    """Set an attribute; return how to undo that."""
    *steps, name = path.split(".")
    owner: Any = connection
    for step in steps:
        owner = getattr(owner, step)
    before = getattr(owner, name)
    setattr(owner, name, value)
    return lambda: setattr(owner, name, before)


class Turns(Quiet):
    """Does what the message says, then answers with it."""

    gate: threading.Event

    def on_message(self, message: str | bytes) -> None:
        assert self._accepted.thread == threading.get_ident()  # so a shutdown by a hook does not wait for it
        self.events.append(message)
        if message == "wait":
            self.gate.wait(SOON)
        elif message == "close":
            self.websocket.close(1000, "enough")
        elif message == "fail":
            raise ValueError(message)
        elif message == "exit":
            raise SystemExit
        elif message == "other":
            self.on_message = self.on_other  # type: ignore[method-assign]
        elif message == "broadcast":
            self.server.broadcast("to all")
        elif message == "two":
            self.websocket.send("one")
        elif message == "receive":
            self.events.append(("received", self.websocket.recv()))
        self.websocket.send(message)

    def on_other(self, message: str | bytes) -> None:
        self.events.append(("other", message))
        self.websocket.send(message)


class Pinged(Turns):
    def on_ping(self, payload: bytes) -> None:
        self.events.append(("ping", payload))

    def on_pong(self, payload: bytes) -> None:
        self.events.append(("pong", payload))


class Forgetful(Quiet):
    def on_message(self, message: str | bytes) -> None:
        self.websocket.send(message)


class Overriding(Turns):
    def serve_ready(self, error: BaseException | None = None) -> bool:
        self.events.append("ready")
        return super().serve_ready(error)


def turning(handler: Any = Turns, **options: Any) -> Any:
    return serving(handler, gate=threading.Event(), **options)


def pooling(handler: Any = Turns, **options: Any) -> Any:
    return turning(handler, server_class=PoolingWebSocketServer, **options)


def ask(peer: RawPeer, text: str, answer: str | None = None) -> None:
    peer.frame(1, text.encode())
    assert peer.read_frame().payload.decode() == (text if answer is None else answer)


def ask_together(peer: RawPeer, count: int) -> None:
    texts = [b"%d" % number for number in range(count)]
    peer.send(b"".join(frame(1, text, key=MASK) for text in texts))
    assert [peer.read_frame().payload for _ in texts] == texts
