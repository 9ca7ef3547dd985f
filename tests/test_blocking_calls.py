"""Deadlines that hold: every call that may wait, on every path on which it could wait for ever.

Each pair of a call and an adversity is one test: the call ends by its deadline, in the way the table says. What
makes each call end is tested where it is kept; this is that no pair has been forgotten. Plain or over TLS goes
by turns; each pair with both is run by pytest -m slow.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from websocketserver import (
    ConnectionClosed,
    HandshakeError,
    PoolingWebSocketServer,
    Role,
    Settings,
    State,
    ThreadingWebSocketServer,
    WebSocketClient,
    WebSocketConnection,
    WebSocketServer,
)

from .serving import Quiet, serving
from .support import (
    MASK,
    MS,
    SOON,
    RawPeer,
    Running,
    certificates,
    frame,
    half,
    opening_request,
    run_in_thread,
    sampled,
    wait_until,
)
from .test_dialing import dead_port

TIME = 40 * MS
TLS = [False, True]
BIG = bytes(16 << 20)  # more than the sockets hold
ENDURING = Settings(
    close_timeout=3600, send_timeout=None, ping_interval=None, max_message_size=None, max_queue_size=1 << 16
)


# Calls of a connection


def _leave_block(connection: WebSocketConnection) -> None:
    with connection:
        pass


def _endless() -> Iterator[bytes]:
    while True:
        yield bytes(1 << 16)


CALLS: dict[str, Callable[[WebSocketConnection], object]] = {
    "recv": lambda connection: connection.recv(TIME),
    "next_event": lambda connection: connection.next_event(TIME),
    "recv_fragments": lambda connection: next(connection.recv_fragments(TIME)),
    "send": lambda connection: connection.send(BIG, timeout=TIME),
    "send_fragments": lambda connection: connection.send_fragments(_endless(), timeout=TIME),
    "ping": lambda connection: connection.ping(timeout=TIME),
    "pong": lambda connection: connection.pong(timeout=TIME),
    "ping().wait": lambda connection: connection.ping(timeout=TIME).wait(TIME),
    "close": lambda connection: connection.close(timeout=TIME),
    "with": _leave_block,
    "start_close": lambda connection: connection.start_close(),
    "abort": lambda connection: connection.abort(),
}


# What may befall it. The peer never reads.


@contextlib.contextmanager
def beside(work: Callable[[], object], connection: WebSocketConnection) -> Iterator[None]:
    """Do something in another thread meanwhile; it ends with the connection."""

    def until_the_end() -> None:
        with contextlib.suppress(ConnectionClosed, TimeoutError, OSError):
            work()

    handle = run_in_thread(until_the_end)
    try:
        yield
    finally:
        connection.abort()
        handle.result()


@contextlib.contextmanager
def silence(connection: WebSocketConnection, peer: RawPeer) -> Iterator[None]:
    yield


@contextlib.contextmanager
def trickle(connection: WebSocketConnection, peer: RawPeer) -> Iterator[None]:
    """A byte now and then, of a message without end."""

    begun, over = threading.Event(), threading.Event()

    def drip() -> None:
        peer.send(frame(2, length=1 << 20, key=MASK) + b"x")
        begun.set()
        while not over.wait(TIME / 4):
            peer.send(b"x")

    with beside(drip, connection):
        assert begun.wait(SOON)
        try:
            yield
        finally:
            over.set()


@contextlib.contextmanager
def flood(connection: WebSocketConnection, peer: RawPeer) -> Iterator[None]:
    """Pings, as fast as they go."""

    def pour() -> None:
        pings = frame(9, b"ping", key=MASK) * 100
        while True:
            peer.send(pings)

    with beside(pour, connection):
        yield


@contextlib.contextmanager
def both_send(connection: WebSocketConnection, peer: RawPeer) -> Iterator[None]:
    """Messages, more than the inbox takes."""

    begun = threading.Event()

    def pour() -> None:
        message = frame(2, bytes(1 << 16), key=MASK)
        while True:
            peer.send(message)
            begun.set()

    with beside(pour, connection):
        assert begun.wait(SOON)
        yield


@contextlib.contextmanager
def another_sends(connection: WebSocketConnection, peer: RawPeer) -> Iterator[None]:
    with beside(lambda: connection.send(BIG), connection):
        wait_until(lambda: connection._output.lock.locked() and connection._output.bytes_sent)
        yield


@contextlib.contextmanager
def another_receives(connection: WebSocketConnection, peer: RawPeer) -> Iterator[None]:
    with beside(connection.recv, connection):
        wait_until(lambda: connection._pumping)
        yield


@contextlib.contextmanager
def another_takes_pieces(connection: WebSocketConnection, peer: RawPeer) -> Iterator[None]:
    """It has begun a message in pieces and does not go on."""
    peer.frame(2, b"some", fin=False)
    pieces = connection.recv_fragments(SOON)
    run_in_thread(next, pieces).result()
    yield


@contextlib.contextmanager
def another_sends_pieces(connection: WebSocketConnection, peer: RawPeer) -> Iterator[None]:
    """It has begun a message in pieces, and waits for the next."""
    begun, over = threading.Event(), threading.Event()

    def pieces() -> Iterator[bytes]:
        yield b"some"
        begun.set()
        over.wait()

    with beside(lambda: connection.send_fragments(pieces()), connection):
        assert begun.wait(SOON)
        try:
            yield
        finally:
            over.set()


@contextlib.contextmanager
def another_closes(connection: WebSocketConnection, peer: RawPeer) -> Iterator[None]:
    with beside(connection.close, connection):
        wait_until(lambda: connection._ending)
        yield


@contextlib.contextmanager
def another_is_stuck_in_the_lock(connection: WebSocketConnection, peer: RawPeer) -> Iterator[None]:
    """Two of them: one sends, the other waits for it."""
    with another_sends(connection, peer), beside(lambda: connection.send("x"), connection):
        yield


ADVERSITIES = [
    silence,
    trickle,
    flood,
    both_send,
    another_sends,
    another_receives,
    another_takes_pieces,
    another_sends_pieces,
    another_closes,
    another_is_stuck_in_the_lock,
]


# How they end: "late" is TimeoutError, "over" ConnectionClosed.
WAITING = {silence: "late", trickle: "late", flood: "late", both_send: "returns", None: "late"}
SENDING = {another_closes: "over", None: "late"}
CONTROL = {another_sends: "late", another_is_stuck_in_the_lock: "late", another_closes: "over", None: "returns"}
ENDING = {None: "returns"}
OUTCOMES: dict[str, dict[Any, str]] = {
    "recv": WAITING,
    "next_event": WAITING,
    "recv_fragments": {**WAITING, trickle: "returns"},
    "send": SENDING,
    "send_fragments": SENDING,
    "ping": CONTROL,
    "pong": CONTROL,
    "ping().wait": SENDING,
    "close": ENDING,
    "with": ENDING,
    "start_close": ENDING,
    "abort": ENDING,
}


def case(value: Any) -> str:
    """Return how a parameter is called."""
    return ("plain", "tls")[value] if isinstance(value, bool) else getattr(value, "__name__", value)


def outcome(call: Callable[..., object], *arguments: object) -> str:
    """Return how a call ends; fail if it does not."""
    try:
        run_in_thread(call, *arguments).result()
    except TimeoutError:
        return "late"
    except ConnectionClosed:
        return "over"
    except HandshakeError:
        return "refused"
    return "returns"


@pytest.mark.parametrize("name, adversity, tls", sampled([*CALLS], ADVERSITIES, TLS), ids=case)
def test_of_a_connection(name: str, adversity: Any, tls: bool) -> None:
    settings = Settings(**{**vars(ENDURING), "close_timeout": TIME}) if name == "with" else ENDURING
    expected = OUTCOMES[name].get(adversity, OUTCOMES[name][None])
    with half(Role.SERVER, tls=tls, settings=settings) as (connection, peer), adversity(connection, peer):
        assert outcome(CALLS[name], connection) == expected
        if name in ("close", "with", "abort"):
            assert connection.state is State.CLOSED


def test_of_a_connection_iteration_ends_by_the_ping_timeout(tls: bool = False) -> None:
    settings = Settings(ping_interval=TIME, ping_timeout=TIME)
    with half(Role.SERVER, settings=settings) as (connection, _):
        assert outcome(list, connection) == "over"


# Connecting


@contextlib.contextmanager
def listening(first: bytes = b"", then: bytes = b"") -> Iterator[int]:
    """Yield the port of a server that never reads: it sends each client the first bytes, then the others again."""
    over = threading.Event()
    answering = []

    def answer(sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError):
            sock.sendall(first)
            while not over.wait(TIME / 8):
                sock.sendall(then)

    def accept() -> None:
        while True:
            sock, _ = listener.accept()
            sock.settimeout(SOON)
            answering.append(run_in_thread(answer, sock))
            if over.is_set():
                return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        accepting = run_in_thread(accept)
        try:
            yield listener.getsockname()[1]
        finally:
            over.set()
            socket.create_connection(listener.getsockname(), SOON).close()
            for handle in (accepting, *answering):
                handle.result()


REFUSAL = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 100000\r\n\r\n"
SERVERS: dict[str, tuple[str, tuple[bytes, ...], str]] = {
    "tls, silent": ("wss", (), "late"),
    "tls, a trickle": ("wss", (b"\x16\x03\x03\x3f\xff", b"\x02"), "late"),
    "http, silent": ("ws", (), "late"),
    "http, a trickle": ("ws", (b"HTTP/1.1 101 Switching Protocols\r\nX: ", b"x"), "late"),
    "http, headers without end": ("ws", (b"HTTP/1.1 101 Switching Protocols\r\n", b"X: y\r\n" * 50), "refused"),
    "http, promises without end": ("ws", (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 5), "refused"),
    "body, silent": ("ws", (REFUSAL,), "refused"),
    "body, a trickle": ("ws", (REFUSAL, b"x"), "refused"),
}


@pytest.fixture(params=["dns", "tcp", "unread request", *SERVERS])
def server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield the arguments of a client that connects to what hangs, and how that ends."""
    if request.param == "dns":
        real, over = socket.getaddrinfo, threading.Event()

        def hanging(*args: Any, flags: int = 0, **options: Any) -> Any:
            if flags & socket.AI_NUMERICHOST:
                return real(*args, flags=flags, **options)
            over.wait()
            raise socket.gaierror

        monkeypatch.setattr(socket, "getaddrinfo", hanging)
        yield {"url": "ws://nowhere.example/"}, "late"
        over.set()
    elif request.param == "tcp":
        with dead_port() as port:
            yield {"url": f"ws://127.0.0.1:{port}/"}, "late"
    elif request.param == "unread request":
        with listening() as port:
            yield {"url": f"ws://127.0.0.1:{port}/", "headers": {"X": "x" * len(BIG)}}, "late"
    else:
        scheme, answer, expected = SERVERS[request.param]
        with listening(*answer) as port:
            context = certificates().client if scheme == "wss" else None
            yield {"url": f"{scheme}://127.0.0.1:{port}/", "ssl_context": context}, expected


def test_of_connecting(server: tuple[dict[str, Any], str]) -> None:
    arguments, expected = server
    ended = outcome(lambda: WebSocketClient(**arguments, connect_timeout=5 * TIME))
    if ended == "late" and expected != "late":  # the machine stood still
        ended = outcome(lambda: WebSocketClient(**arguments, connect_timeout=SOON / 2))
    assert ended == expected


@pytest.mark.parametrize("ending", ["abort", "close"])
def test_of_run_forever_while_connecting(server: tuple[dict[str, Any], str], ending: str) -> None:
    """Without any deadline, another thread ends it."""
    arguments, expected = server
    client = WebSocketClient(**arguments, connect_timeout=None, connect=False)
    running = run_in_thread(outcome, client.run_forever)
    wait_until(lambda: client._attempt._begun)
    getattr(client, ending)()
    assert running.result() in ("returns", expected if expected == "refused" else "returns")


# Servers


class Enduring(Quiet):
    """A handler without any time-out of its own, for clients that do their worst."""

    handshake_timeout = timeout = minimum_rate = send_timeout = ping_interval = None
    close_timeout = 3600.0
    gate: threading.Event

    def on_message(self, message: str | bytes) -> None:
        if message == "send":
            self.websocket.send(BIG)
        else:
            self.gate.wait()

    def do_GET(self) -> None:
        self.wfile.write(BIG)


def _client(running: Running) -> socket.socket:
    sock = socket.create_connection(running.address[:2], SOON)
    return certificates().client.wrap_socket(sock, server_hostname="localhost") if running.tls else sock


def _opened(running: Running, *frames: bytes) -> socket.socket:
    """Return the socket of a client whose handler has begun, and may have given up already."""
    sock = _client(running)
    sock.sendall(opening_request() + b"".join(frames))
    head = b""
    while (byte := sock.recv(1)) and not head.endswith(b"\r\n\r"):
        head += byte
    wait_until(lambda: running.server.connections or not len(running.server.registry))
    return sock


def _silent(running: Running) -> socket.socket:
    return socket.create_connection(running.address[:2], SOON)


def _half_head(running: Running) -> socket.socket:
    sock = _client(running)
    sock.sendall(b"GET / HTTP/1.1\r\nHost: ")
    return sock


def _never_answers(running: Running) -> socket.socket:
    return _opened(running)


def _half_a_frame(running: Running) -> socket.socket:
    return _opened(running, frame(2, length=1 << 19, key=MASK))


def _reads_nothing(running: Running) -> socket.socket:
    """The handler is in ``send``."""
    sock = _opened(running, frame(1, b"send", key=MASK))
    wait_until(lambda: all(connection._output.lock.locked() for connection in running.server.connections))
    return sock


def _is_waited_for(running: Running) -> socket.socket:
    """The handler is in code of the application that does not end."""
    return _opened(running, frame(1, b"stuck", key=MASK))


def _reads_no_page(running: Running) -> socket.socket:
    sock = _client(running)
    sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    wait_until(lambda: any(accepted._busy for accepted in running.server.registry._all()))
    return sock


CLIENTS = [_silent, _half_head, _never_answers, _half_a_frame, _reads_nothing, _is_waited_for, _reads_no_page]


ENDS = ["shutdown", "server_close", "close_connections"]
KINDS = [WebSocketServer, ThreadingWebSocketServer, PoolingWebSocketServer]


@contextlib.contextmanager
def beset(server_class: type, client: Callable[[Running], socket.socket], tls: bool) -> Iterator[Running]:
    """Yield a server with one such client beside a harmless one."""
    gate = threading.Event()
    handler = type("Handler", (Enduring,), {"gate": gate})
    with serving(handler, server_class=server_class, tls=tls) as running:
        running.server.shutdown_timeout = 5 * TIME
        try:
            with client(running):
                yield running
        finally:
            gate.set()


@pytest.mark.parametrize("call, server_class, client, tls", sampled(ENDS, KINDS, CLIENTS, TLS), ids=case)
def test_of_a_server(call: str, server_class: type, client: Any, tls: bool) -> None:
    with beset(server_class, client, tls) as running:
        assert outcome(getattr(running.server, call)) == "returns"
        if call != "close_connections" and client is not _is_waited_for:  # whom nobody can end
            wait_until(lambda: not len(running.server.registry))


@pytest.mark.parametrize("server_class", [ThreadingWebSocketServer, PoolingWebSocketServer])
@pytest.mark.parametrize("client", CLIENTS)
def test_of_broadcast(server_class: type, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each client has its send_timeout."""
    monkeypatch.setattr(Enduring, "send_timeout", TIME)
    with beset(server_class, client, False) as running:
        assert outcome(running.server.broadcast, "x") == "returns"


@pytest.mark.parametrize("client", [_silent, _half_head, _never_answers, _reads_no_page])
def test_of_handle_request(client: Any) -> None:
    """Of the server that serves in its own thread: what bounds it are the handler's time-outs."""
    limits = {"handshake_timeout": TIME, "timeout": TIME, "ping_interval": TIME, "ping_timeout": TIME}
    handler = type("Handler", (Enduring,), {**limits, "close_timeout": TIME, "events": [], "lines": []})
    kind = type("Server", (WebSocketServer,), {"test_errors": []})
    with kind(("127.0.0.1", 0), handler) as serving:
        handling = run_in_thread(serving.handle_request)
        with contextlib.closing(client(Running(serving, False))):
            handling.result()
