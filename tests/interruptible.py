"""A program whose main thread blocks in one call, for tests/test_interruption.py to press Ctrl-C.

    python3 -m tests.interruptible NAME [--patient]

It prints "blocked" when the main thread waits (and again when it waits elsewhere after Ctrl-C), and "interrupted" when
KeyboardInterrupt has come out of it. All time-outs are an hour; with --patient, so is the haste after Ctrl-C.
"""

from __future__ import annotations

import contextlib
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import websocketserver.client
import websocketserver.connection
import websocketserver.ending
import websocketserver.handler
from websocketserver import (
    PoolingWebSocketServer,
    Role,
    Settings,
    ThreadingWebSocketServer,
    WebSocketClient,
    WebSocketConnection,
    WebSocketRequestHandler,
    WebSocketServer,
)
from websocketserver.protocol.handshake import accept_key

from .support import RawPeer, half, opening_request, run_in_thread, wait_until

HOUR = 3600.0
STILL = 5  # looks, 20 ms apart, at which the main thread must be found in the same place
ENDURING = Settings(close_timeout=HOUR, send_timeout=None, ping_interval=None, max_message_size=None)
SCENARIOS: dict[str, Callable[[], object]] = {}


def scenario(function: Callable[[], object]) -> Callable[[], object]:
    SCENARIOS[function.__name__] = function
    return function


def watch() -> None:
    """Print "blocked" whenever the main thread has come to wait in another place than before."""
    main = threading.main_thread().ident
    reported = last = None
    still = 0
    while True:
        time.sleep(0.02)
        where = []
        frame = sys._current_frames()[main]  # type: ignore[index]
        while frame is not None:
            where.append((frame.f_code, frame.f_lasti))
            frame = frame.f_back  # type: ignore[assignment]
        still = still + 1 if where == last else 0
        last = where
        if still == STILL and where != reported:
            reported = where
            print("blocked", flush=True)


# Connections whose peer neither reads nor writes


def alone(tls: bool = False) -> contextlib.AbstractContextManager[tuple[WebSocketConnection, RawPeer]]:
    return half(Role.CLIENT, tls=tls, settings=ENDURING)


@scenario
def recv() -> None:
    with alone() as (websocket, _):
        websocket.recv()


@scenario
def recv_over_tls() -> None:
    with alone(tls=True) as (websocket, _):
        websocket.recv(timeout=HOUR)


@scenario
def recv_behind_another_thread() -> None:
    with alone() as (websocket, _):
        run_in_thread(websocket.recv)
        websocket.recv()


@scenario
def iteration() -> None:
    with alone() as (websocket, _):
        list(websocket)


@scenario
def recv_fragments() -> None:
    with alone() as (websocket, peer):
        peer.frame(1, b"part of it", fin=False)
        list(websocket.recv_fragments())


@scenario
def send() -> None:
    with alone() as (websocket, _):
        websocket.send(bytes(1 << 24))


@scenario
def send_over_tls() -> None:
    with alone(tls=True) as (websocket, _):
        websocket.send(bytes(1 << 24))


@scenario
def send_behind_another_thread() -> None:
    with alone() as (websocket, _):
        run_in_thread(websocket.send, bytes(1 << 24))
        wait_until(websocket._output.lock.locked)
        websocket.send("x")


@scenario
def send_fragments() -> None:
    with alone() as (websocket, _):
        websocket.send_fragments(bytes(1 << 16) for _ in range(1000))


@scenario
def ping() -> None:
    with alone() as (websocket, _):
        websocket.ping().wait()


@scenario
def close() -> None:
    with alone() as (websocket, _):
        websocket.close()


@scenario
def close_behind_another_thread() -> None:
    with alone() as (websocket, _):
        run_in_thread(websocket.send, bytes(1 << 24))
        wait_until(websocket._output.lock.locked)
        websocket.close()


@scenario
def leaving_the_block() -> None:
    """Ctrl-C in recv, then the closing handshake of the block, which the peer never answers."""
    with alone() as (websocket, _), websocket:
        websocket.recv()


# Connecting


@contextlib.contextmanager
def server_that(answers: Callable[[socket.socket], object]) -> Iterator[int]:
    """Yield the port of a server that does this with what it accepts, and then keeps it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        kept: list[socket.socket] = []

        def serve() -> None:
            kept.append(listener.accept()[0])
            answers(kept[0])

        run_in_thread(serve)
        yield listener.getsockname()[1]


def connect(url: str) -> None:
    WebSocketClient(url, connect_timeout=HOUR)


@scenario
def connect_dns() -> None:
    real = socket.getaddrinfo

    def hanging(*args: Any, flags: int = 0, **options: Any) -> Any:
        if flags & socket.AI_NUMERICHOST:
            return real(*args, flags=flags, **options)
        while True:  # as in C, where no signal ends it
            with contextlib.suppress(KeyboardInterrupt):
                threading.Event().wait()

    socket.getaddrinfo = hanging  # type: ignore[assignment]
    connect("ws://nowhere.example/")


@scenario
def connect_tcp() -> None:
    """The listener's queue is full, and nobody accepts."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for sock in waiting:
            sock.setblocking(False)
            sock.connect_ex(full.getsockname())
        connect(f"ws://127.0.0.1:{full.getsockname()[1]}/")


@scenario
def connect_tls() -> None:
    with server_that(lambda sock: None) as port:
        connect(f"wss://127.0.0.1:{port}/")


@scenario
def connect_http() -> None:
    with server_that(lambda sock: sock.sendall(b"HTTP/1.1 101 Switching")) as port:
        connect(f"ws://127.0.0.1:{port}/")


@scenario
def run_forever() -> None:
    """Ctrl-C while it waits for messages, then the closing handshake, which the server never answers."""

    def accept(sock: socket.socket) -> None:
        key = re.findall(rb"(?i)sec-websocket-key: *(\S+)", sock.recv(4096))[0].decode()
        sock.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                     b"Sec-WebSocket-Accept: %s\r\n\r\n" % accept_key(key).encode())  # fmt: skip

    with server_that(accept) as port:
        WebSocketClient(f"ws://127.0.0.1:{port}/", connect=False, close_timeout=HOUR).run_forever()


@scenario
def run_forever_connecting() -> None:
    with server_that(lambda sock: None) as port:
        WebSocketClient(f"ws://127.0.0.1:{port}/", connect=False, connect_timeout=HOUR).run_forever()


# Servers


class Stuck(WebSocketRequestHandler):
    """Neither ends nor reads what would end it."""

    close_timeout = HOUR
    ping_interval = send_timeout = None

    def handle_websocket(self) -> None:
        threading.Event().wait()

    def log_message(self, format: str, *args: Any) -> None:
        """Nobody reads it."""


class Silent(Stuck):
    def handle_websocket(self) -> None:
        self.websocket.recv()


def server(kind: type[WebSocketServer], handler: type[Stuck]) -> Any:
    return type(kind.__name__, (kind,), {"shutdown_timeout": HOUR})(("127.0.0.1", 0), handler)


def stuck_client(server: Any) -> socket.socket:
    """Return a client that says no more than its opening request."""
    sock = socket.create_connection(server.server_address)
    sock.sendall(opening_request())
    return sock


def serve_forever(kind: type[WebSocketServer], handler: type[Stuck] = Stuck) -> None:
    with server(kind, handler) as serving, stuck_client(serving):
        serving.serve_forever()


@scenario
def serve_forever_threaded() -> None:
    serve_forever(ThreadingWebSocketServer)


@scenario
def serve_forever_pooled() -> None:
    serve_forever(PoolingWebSocketServer)


@scenario
def serve_forever_in_a_handler() -> None:
    """One client at a time: the main thread is in its recv."""
    serve_forever(WebSocketServer, Silent)


@scenario
def handle_request() -> None:
    with server(ThreadingWebSocketServer, Stuck) as serving:
        serving.handle_request()


@contextlib.contextmanager
def served() -> Iterator[Any]:
    serving = server(ThreadingWebSocketServer, Stuck)
    run_in_thread(serving.serve_forever)
    with stuck_client(serving):
        wait_until(lambda: serving.connections)
        yield serving


@scenario
def shutdown() -> None:
    with served() as serving:
        serving.shutdown()


@scenario
def server_close() -> None:
    with served() as serving:
        serving.server_close()


@scenario
def broadcast() -> None:
    with served() as serving:
        serving.broadcast(bytes(1 << 24))


def main() -> None:
    if "--patient" in sys.argv:
        for module in (
            websocketserver.client,
            websocketserver.connection,
            websocketserver.ending,
            websocketserver.handler,
        ):
            module.HASTE = HOUR  # type: ignore[attr-defined]
    threading.Thread(target=watch, daemon=True).start()
    try:
        SCENARIOS[sys.argv[1]]()
    except KeyboardInterrupt:
        print("interrupted", flush=True)


if __name__ == "__main__":
    main()
