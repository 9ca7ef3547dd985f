"""The kit for tests with sockets: two ends, a running server, a peer that speaks by hand, threads, certificates.

Nothing here sleeps to synchronise, and every wait has a deadline. The hand-written peer builds and reads
frames by code of its own, so that a fault of the package cannot hide in its test.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import itertools
import os
import socket
import ssl
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from websocketserver import Role, Settings, ThreadingWebSocketServer, WebSocketConnection
from websocketserver.protocol.extensions import accept_answer, format_offers, negotiate
from websocketserver.protocol.grammar import parse_extensions

__all__ = [
    "MASK",
    "MS",
    "SOON",
    "Handle",
    "RawFrame",
    "RawPeer",
    "Running",
    "assert_linear",
    "certificates",
    "closed_port",
    "frame",
    "half",
    "opening_request",
    "pipe",
    "raw_client",
    "read_slowly",
    "run_in_thread",
    "running_server",
    "sampled",
    "socket_pair",
    "wait_until",
]

T = TypeVar("T")

# One millisecond of test time: time-outs that are meant to pass are written 50 * MS.
MS = 0.001 * float(os.environ.get("WEBSOCKETSERVER_TEST_SLOWNESS", "1"))
# The deadline of what must happen, on a busy machine too: only what hangs takes so long.
SOON = 15.0

KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # RFC 6455, section 1.3
MASK = b"\x37\xfa\x21\x3d"  # RFC 6455, section 5.7


# Cases


def sampled(*dimensions: Sequence[Any]) -> list[Any]:
    """Return all combinations, for pytest.mark.parametrize: each of all dimensions but the last is run with one value
    of the last, by turns; with the others of it too by pytest -m slow."""
    import pytest  # programs that tests start need other things of this file

    cases: list[Any] = []
    for places in itertools.product(*(range(len(dimension)) for dimension in dimensions)):
        values = [dimension[place] for dimension, place in zip(dimensions, places, strict=True)]
        chosen = sum(places) % len(dimensions[-1]) == 0
        cases.append(pytest.param(*values, marks=() if chosen else pytest.mark.slow))
    return cases


# Waiting


def wait_until(condition: Callable[[], object], timeout: float = SOON, *, fail: bool = True) -> None:
    """Return as soon as the condition holds; fail the test (or, with fail=False, return) when it does not in time.

    For conditions that nothing announces, such as a thread that ends by itself.
    """
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() >= end:
            assert not fail, f"not within {timeout} seconds"
            return
        time.sleep(MS)


class Handle(Generic[T]):
    """A function that runs in a thread of its own."""

    def __init__(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> None:
        self._call = functools.partial(function, *args, **kwargs)
        self._value: T | None = None
        self._error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, name=f"test-{function.__name__}", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self._value = self._call()
        except BaseException as error:
            self._error = error

    @property
    def running(self) -> bool:
        return self.thread.is_alive()

    def result(self, timeout: float = SOON) -> T:
        """Return what the function returned or raise what it raised; fail if it still runs after timeout seconds."""
        self.thread.join(timeout)
        assert not self.thread.is_alive(), f"{self.thread.name} still runs after {timeout} seconds"
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]


def run_in_thread(function: Callable[..., T], *args: Any, **kwargs: Any) -> Handle[T]:
    """Start function(*args, **kwargs) in a thread; the handle's result(timeout) gives what becomes of it."""
    return Handle(function, *args, **kwargs)


def assert_linear(work: Callable[[int], object], size: int) -> None:
    """Fail if work(16 * size) takes not about 16 times the processor time of work(size) but more than 64 times.

    Quadratic work takes 256 times as much. What makes a busy machine slow passes: it gets three tries.
    """

    def cost(size: int) -> float:
        gc.disable()  # it looks at all that is there, not only at what the work makes
        try:
            began = time.thread_time()
            work(size)
            return time.thread_time() - began
        finally:
            gc.enable()

    costs: list[tuple[float, float]] = []
    while len(costs) < 3:
        costs.append((cost(size), cost(16 * size)))
        if costs[-1][1] < 64 * costs[-1][0]:
            return
    raise AssertionError(f"seconds for {size} and {16 * size}: {costs}")


# Certificates


class Certificates(NamedTuple):
    """Contexts for both sides, made once per run; the names are localhost, 127.0.0.1 and ::1."""

    server: ssl.SSLContext
    client: ssl.SSLContext
    authority: Any  # trustme.CA
    issued: Any  # trustme.LeafCert

    def write(self, folder: Any) -> tuple[str, str, str]:
        """Write certificate chain, key and authority as PEM files into the folder; return their paths."""
        paths = [str(folder / name) for name in ("server.pem", "server.key", "authority.pem")]
        for blob in self.issued.cert_chain_pems:
            blob.write_to_path(paths[0], append=True)
        self.issued.private_key_pem.write_to_path(paths[1])
        self.authority.cert_pem.write_to_path(paths[2])
        return paths[0], paths[1], paths[2]


@functools.cache
def certificates() -> Certificates:
    import trustme  # only tests of TLS pay for it

    authority = trustme.CA()
    issued = authority.issue_cert("localhost", "127.0.0.1", "::1")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    issued.configure_cert(server)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(client)
    return Certificates(server, client, authority, issued)


# Frames by hand (RFC 6455, section 5.2)


def frame(
    opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, key: bytes | None = None, length: int = -1
) -> bytes:
    """Return one frame; with a key it is masked, and length may lie about the payload."""
    size = len(payload) if length < 0 else length
    mask = 0x80 if key is not None else 0
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    if size < 126:
        head += bytes([mask | size])
    elif size < 1 << 16:
        head += struct.pack("!BH", mask | 126, size)
    else:
        head += struct.pack("!BQ", mask | 127, size)
    return head + (payload if key is None else key + _mask(payload, key))


def _mask(payload: bytes, key: bytes) -> bytes:
    pad = (key * (len(payload) // 4 + 1))[: len(payload)]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(pad, "big")).to_bytes(len(payload), "big")


class RawFrame(NamedTuple):
    opcode: int
    payload: bytes
    fin: bool
    rsv: int
    masked: bool


class RawPeer:
    """The other end of a connection, written by hand: sends what it is told, well-formed or not.

    ``masks`` tells whether frame() masks, as a client must.
    """

    def __init__(self, sock: socket.socket, *, masks: bool, received: bytes = b"", head: bytes = b"") -> None:
        self.sock = sock
        self.masks = masks
        self.head = head  # of the answer to the opening request
        self._received = bytearray(received)
        sock.settimeout(SOON)

    def __enter__(self) -> RawPeer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.sock.sendall(data)

    def frame(self, opcode: int, payload: bytes = b"", **options: Any) -> None:
        """Send one frame, masked if this is a client."""
        self.send(frame(opcode, payload, **{"key": MASK if self.masks else None, **options}))

    def numbers(self, count: int, *last: Any) -> None:
        """Send text frames, "0", "1" and so on, and the last, in one go: a socketpair takes few small writes."""
        key = MASK if self.masks else None
        frames = [frame(1, b"%d" % number, key=key) for number in range(count)]
        self.send(b"".join(frames) + (frame(*last, key=key) if last else b""))

    def close_frame(self, code: int = 1000, reason: str = "") -> None:
        """Send a Close frame."""
        self.frame(8, code.to_bytes(2, "big") + reason.encode())

    def read_frame(self) -> RawFrame:
        """Return the next frame; EOFError at the end of the stream, TimeoutError after SOON."""
        first, second = self._read(2)
        size = second & 0x7F
        if size > 125:
            size = int.from_bytes(self._read(2 if size == 126 else 8), "big")
        key = self._read(4) if second & 0x80 else None
        payload = self._read(size)
        if key:
            payload = _mask(payload, key)
        return RawFrame(first & 0x0F, payload, bool(first & 0x80), first >> 4 & 7, key is not None)

    def read_close(self) -> int:
        """Skip to the Close frame and return its code, 1005 if it has none."""
        while (got := self.read_frame()).opcode != 8:
            pass
        return int.from_bytes(got.payload[:2], "big") if got.payload else 1005

    def read_until(self, end: bytes) -> bytes:
        """Return all that comes up to and including these bytes."""
        while end not in self._received:
            self._receive()
        return self._read(self._received.index(end) + len(end))

    def read_to_end(self) -> bytes:
        """Return all that comes until the other end closes the stream (a reset ends it too)."""
        rest = bytes(self._received)
        self._received.clear()
        with contextlib.suppress(ConnectionResetError):
            while data := self.sock.recv(1 << 16):
                rest += data
        return rest

    def _read(self, size: int) -> bytes:
        while len(self._received) < size:
            self._receive()
        taken = bytes(self._received[:size])
        del self._received[:size]
        return taken

    def _receive(self) -> None:
        data = self.sock.recv(1 << 16)
        if not data:
            raise EOFError(f"end of stream after {bytes(self._received)!r:.200}")
        self._received += data


def read_slowly(peer: RawPeer, size: int) -> None:
    """Read and forget so many bytes, about 100 KB every 20 milliseconds."""
    pause, left = threading.Event(), size
    while left > 0:
        pause.wait(20 * MS)
        some = min(left, 100_000)
        while some > 0:
            data = peer.sock.recv(some)
            assert data, f"end of stream, {left} bytes before the end"
            some -= len(data)
            left -= len(data)


# Two ends without a server


def socket_pair(*, tcp: bool = False) -> tuple[socket.socket, socket.socket]:
    """Return two connected sockets: a socketpair, or TCP over the loopback."""
    if not tcp:
        return socket.socketpair()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname(), SOON)
        theirs, _ = listener.accept()
    ours.settimeout(None)
    for sock in (ours, theirs):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return ours, theirs


def _sockets(*, tls: bool, tcp: bool) -> tuple[socket.socket, socket.socket]:
    """Return the client's and the server's socket, with the TLS handshake done."""
    ours, theirs = socket_pair(tcp=tcp)
    if not tls:
        return ours, theirs
    ours.settimeout(SOON)
    theirs.settimeout(SOON)
    server = run_in_thread(certificates().server.wrap_socket, theirs, server_side=True)
    client = certificates().client.wrap_socket(ours, server_hostname="localhost")
    return client, server.result()


@contextlib.contextmanager
def pipe(
    *,
    tls: bool = False,
    tcp: bool = False,
    client: Settings | None = None,
    server: Settings | None = None,
    negotiate_extensions: bool = False,
    **options: Any,
) -> Iterator[tuple[WebSocketConnection, WebSocketConnection]]:
    """Yield two ends of one connection, (client, server); both are cut at the end.

    Their extensions are off unless negotiate_extensions. Other keyword arguments go to both ends:
    ``pipe(hooks=frozenset({"ping"}))``.
    """
    client, server = client or Settings(), server or Settings()
    theirs: list[Any] = []
    ours: list[Any] = []
    if negotiate_extensions:
        offers = parse_extensions(format_offers(client.all_extensions))
        answer, theirs = negotiate(offers, server.all_extensions)
        ours = accept_answer(parse_extensions(answer) if answer else [], client.all_extensions)
    left, right = _sockets(tls=tls, tcp=tcp)
    first = WebSocketConnection(left, role=Role.CLIENT, settings=client, codecs=tuple(ours), **options)
    second = WebSocketConnection(right, role=Role.SERVER, settings=server, codecs=tuple(theirs), **options)
    try:
        yield first, second
    finally:
        first.abort()
        second.abort()


@contextlib.contextmanager
def half(
    role: Role = Role.SERVER, *, tls: bool = False, tcp: bool = False, **options: Any
) -> Iterator[tuple[WebSocketConnection, RawPeer]]:
    """Yield one end (the server's, unless role says Role.CLIENT) and, opposite, a peer by hand.

    The options go to the connection: settings=, codecs=, hooks=, ...
    """
    client, server = _sockets(tls=tls, tcp=tcp)
    ours, theirs = (server, client) if role is Role.SERVER else (client, server)
    connection = WebSocketConnection(ours, role=role, **options)
    with RawPeer(theirs, masks=role is Role.SERVER) as peer:
        try:
            yield connection, peer
        finally:
            connection.abort()


# A running server


class Running:
    """A server that serves in a thread; ``errors`` collects what its handlers raised."""

    def __init__(self, server: Any, tls: bool) -> None:
        self.server = server
        self.tls = tls
        self.errors: list[BaseException] = server.test_errors
        self.address = server.server_address

    @property
    def port(self) -> int:
        return int(self.address[1])

    def url(self, path: str = "/") -> str:
        """Return the ws:// or wss:// URL of a path."""
        return f"{'wss' if self.tls else 'ws'}://{self._host}:{self.port}{path}"

    def http_url(self, path: str = "/") -> str:
        """Return the http:// or https:// URL of a path."""
        return f"{'https' if self.tls else 'http'}://{self._host}:{self.port}{path}"

    @property
    def _host(self) -> str:
        host = str(self.address[0])
        return f"[{host}]" if ":" in host else host

    @property
    def client_options(self) -> dict[str, Any]:
        """What a WebSocketClient needs besides the URL."""
        return {"ssl_context": certificates().client} if self.tls else {}


def _recording(server_class: type) -> type:
    """Return the server class with a handle_error that keeps the exception instead of printing it."""

    def handle_error(self: Any, request: Any, client_address: Any) -> None:
        error = sys.exc_info()[1]
        assert error is not None, "handle_error outside of an except block"
        self.test_errors.append(error)

    return type(server_class.__name__, (server_class,), {"handle_error": handle_error})


@contextlib.contextmanager
def running_server(
    handler_class: Any,
    *,
    server_class: type = ThreadingWebSocketServer,
    address: Any = ("127.0.0.1", 0),
    tls: bool = False,
    server_attributes: dict[str, Any] | None = None,
    errors_expected: bool = False,
    **class_attributes: Any,
) -> Iterator[Running]:
    """Yield a server that serves in a thread, on a port of the system's choice; end it at the end.

    class_attributes are those of a subclass of the handler made for this server, server_attributes those
    of the server. Fails if a handler let an exception escape, unless errors_expected or the test has
    taken it out of ``errors``.
    """
    if class_attributes:
        handler_class = type(handler_class.__name__, (handler_class,), class_attributes)
    attributes = {"test_errors": [], **(server_attributes or {})}
    kind = type(server_class.__name__, (_recording(server_class),), attributes)
    options = {"ssl_context": certificates().server} if tls else {}
    with kind(address, handler_class, **options) as server:
        thread = run_in_thread(server.serve_forever)
        running = Running(server, tls)
        try:
            # Where it is closed before it has begun, it cannot begin any more.
            wait_until(lambda: getattr(server, "_serving", 0) is not None or not thread.running)
            yield running
        finally:
            run_in_thread(server.shutdown).result(2 * SOON)
            thread.result()
    if running.errors and not errors_expected:
        raise AssertionError("a handler raised") from running.errors[0]


# A client by hand


def opening_request(path: str = "/", *, host: str = "localhost", headers: dict[str, str | None] | None = None) -> bytes:
    """Return an opening request; headers are added to the usual ones, replace them, or with None leave one out."""
    fields: dict[str, str | None] = {
        "Host": host,
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": KEY,
        "Sec-WebSocket-Version": "13",
        **(headers or {}),
    }
    lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items() if value is not None)]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


@contextlib.contextmanager
def raw_client(
    running: Running,
    path: str = "/",
    *,
    headers: dict[str, str | None] | None = None,
    request: bytes | None = None,
    glued: bytes = b"",
    status: int = 101,
) -> Iterator[RawPeer]:
    """Yield a client by hand: its opening request (or the bytes of ``request``) sent, with ``glued`` right behind it,
    and the head of the answer read into ``head``; fails if its status is not the expected one."""
    if isinstance(running.address, (str, bytes)):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(SOON)
        sock.connect(running.address)
    else:
        sock = socket.create_connection(running.address[:2], SOON)
    if running.tls:
        sock = certificates().client.wrap_socket(sock, server_hostname="localhost")
    with sock:
        sock.sendall((opening_request(path, headers=headers) if request is None else request) + glued)
        received = b""
        while b"\r\n\r\n" not in received:
            data = sock.recv(1 << 16)
            assert data, f"end of stream within the head: {received!r}"
            received += data
        head, _, rest = received.partition(b"\r\n\r\n")
        peer = RawPeer(sock, masks=True, received=rest, head=head)
        got = int(head.split(None, 2)[1])
        assert got == status, f"status {got}, expected {status}: {head.decode('latin-1')}"
        yield peer


def closed_port() -> int:
    """Return a port of the loopback on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
