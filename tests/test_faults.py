"""Faults: the injecting transport and proxy do what they are told, and two peers between them keep their word.

The word: nothing hangs, what arrives is the beginning of what was sent and all of it where the close was clean, and
nobody hears a close code that nobody has sent, but 1006.
"""

from __future__ import annotations

import contextlib
import socket
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from random import Random
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from websocketserver import ConnectionClosed, Settings, WebSocketClient, WebSocketConnection, WebSocketRequestHandler
from websocketserver.connection import Role
from websocketserver.deadline import Deadline
from websocketserver.pooling import PoolingWebSocketServer
from websocketserver.server import ThreadingWebSocketServer
from websocketserver.transport import PlainTransport

from .faults import ENDS, NO_FAULT, FaultyProxy, FaultyTransport, Plan, faulty
from .support import MS, SOON, Running, certificates, pipe, run_in_thread, running_server, wait_until

QUICK = Settings(ping_interval=0.2, ping_timeout=0.3, send_timeout=0.3, close_timeout=0.3, max_queue_size=4096)


class Echo(WebSocketRequestHandler):
    ping_interval = ping_timeout = 0.3
    close_timeout = 0.3

    def on_message(self, message: str | bytes) -> None:
        self.websocket.send(message)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextlib.contextmanager
def transports(sending: Plan, receiving: Plan, seed: int = 1) -> Iterator[tuple[FaultyTransport, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.settimeout(SOON)
        yield FaultyTransport(PlainTransport(ours), sending, receiving, Random(seed)), theirs


class TestTransport:
    def test_pieces_and_refusals(self) -> None:
        data = bytes(range(256))
        with transports(Plan(piece=3, refusals=0.5), Plan(piece=5, refusals=0.5)) as (transport, peer):
            sent = 0
            while sent < len(data):
                taken = transport.send([data[sent : sent + 7], data[sent + 7 :]])
                assert taken <= 3
                sent += taken
            assert peer.recv(1000) == data
            peer.sendall(data)
            received = b""
            while len(received) < len(data):
                received += (some := transport.receive(100)) or b""
                assert some is None or len(some) <= 5
            assert received == data
            assert all(transport.injected[what] for what in ("read refused", "read split", "write refused"))

    def test_the_same_seed_gives_the_same_faults(self) -> None:
        def story(seed: int) -> list[int]:
            with transports(Plan(piece=2, refusals=0.5), NO_FAULT, seed) as (transport, _):
                return [transport.send([b"abcd"]) for _ in range(30)]

        assert story(7) == story(7) != story(8)

    def test_a_dropped_stream_ends_for_both(self) -> None:
        with transports(NO_FAULT, Plan(end="drop", after=3)) as (transport, peer):
            peer.sendall(b"abcdef")
            assert transport.receive(100) == b"abc"
            assert transport.receive(100) == b""
            assert peer.recv(100) == b""

    @pytest.mark.parametrize(("end", "error"), [("drop", BrokenPipeError), ("reset", ConnectionResetError)])
    def test_a_send_beyond_the_end_fails(self, end: str, error: type[OSError]) -> None:
        with transports(Plan(end=end, after=3), NO_FAULT) as (transport, peer):
            assert transport.send([b"abcdef"]) == 3
            with pytest.raises(error):
                transport.send([b"def"])
            assert peer.recv(100) == b"abc"  # in part

    def test_a_stalled_stream_passes_nothing_until_it_is_cut(self) -> None:
        with transports(Plan(end="stall", after=1), Plan(end="stall", after=1)) as (transport, peer):
            peer.sendall(b"abc")
            assert transport.receive(100) == b"a"
            assert transport.receive(100) is None
            assert transport.send([b"xyz"]) == 1
            assert transport.send([b"yz"]) == 0
            assert transport.wait(True, True, Deadline(10 * MS)) == (False, False)
            waiting = run_in_thread(transport.wait, True, True, Deadline(SOON))
            transport.shutdown()
            assert waiting.result() == (True, True)


@pytest.fixture(params=[ThreadingWebSocketServer, PoolingWebSocketServer], ids=["threading", "pooling"])
def running(request: pytest.FixtureRequest, tls: bool) -> Iterator[Running]:
    with running_server(Echo, server_class=request.param, tls=tls) as running:
        yield running


@contextlib.contextmanager
def through(running: Running, plan: Plan, back: Plan = NO_FAULT, **options: Any) -> Iterator[Any]:
    """Yield a proxy, and a function that connects through it."""

    def connect(**more: Any) -> WebSocketClient:
        url = running.url().replace(str(running.port), str(proxy.port))
        return WebSocketClient(url, **running.client_options, **options, **more)

    with FaultyProxy(running.address, seed=1, plans=lambda random: (plan, back)) as proxy:
        yield proxy, connect


class TestProxy:
    def test_what_is_split_and_held_back_arrives(self, running: Running) -> None:
        plan = Plan(piece=100, delay=0.001)
        with through(running, plan, plan) as (proxy, connect), connect() as websocket:
            for size in (0, 1, 125, 126, 5000):
                websocket.send(bytes(size))
                assert websocket.recv(SOON) == bytes(size)
        assert proxy.injected["piece split"] and proxy.injected["piece held back"]
        assert proxy.connections == 1

    @pytest.mark.parametrize("end", ["drop", "reset"])
    def test_an_end_in_the_middle_of_a_message_ends_both(self, running: Running, end: str) -> None:
        with through(running, Plan(end=end, after=100_000), compression=None) as (proxy, connect):
            websocket = connect()
            with contextlib.suppress(ConnectionClosed):
                for _ in range(5):
                    websocket.send(bytes(30_000))
            with pytest.raises(ConnectionClosed):
                for _ in range(4):  # three are whole before the end
                    assert websocket.recv(SOON) == bytes(30_000)
            assert websocket.close_code == 1006
            websocket.close()
            assert proxy.injected == Counter({end: 1})
            wait_until(lambda: not running.server.connections)

    @pytest.mark.parametrize("back", [False, True], ids=["towards-the-server", "towards-the-client"])
    def test_a_stall_ends_by_the_clock_of_pings(self, running: Running, back: bool) -> None:
        stall = Plan(end="stall", after=20_000)
        plans = (NO_FAULT, stall) if back else (stall, NO_FAULT)
        quick = {"ping_interval": 0.3, "ping_timeout": 0.3, "close_timeout": 0.3, "compression": None}
        with through(running, *plans, **quick) as (_, connect):
            websocket = connect()
            websocket.send(bytes(50_000))
            with pytest.raises(ConnectionClosed):
                websocket.recv(SOON)
            websocket.close()
            wait_until(lambda: not running.server.connections)

    def test_a_target_that_is_gone_resets(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            address = listener.getsockname()
        with FaultyProxy(address, seed=1, plans=lambda random: (NO_FAULT, NO_FAULT)) as proxy:
            with pytest.raises(OSError):
                WebSocketClient(f"ws://127.0.0.1:{proxy.port}/")
        assert proxy.connections == 0


# Two peers against each other


class Side(NamedTuple):
    """What one side does: each of its threads sends messages of these sizes (-1: a ping), then it ends all."""

    threads: list[list[int]]
    end: str | None  # "close", "abort" or None: it leaves that to the other
    fragment_size: int | None
    sending: Plan
    receiving: Plan


class Talker:
    """One side at work, and what it has seen: its threads' messages are numbered, with their length and a filling."""

    def __init__(self, websocket: WebSocketConnection, side: Side, code: int) -> None:
        self.websocket = websocket
        self.code = code
        self.sent: Counter[int] = Counter()  # by thread: messages whose send has returned
        self.received: dict[int, list[bytes | str]] = {}
        self.end: ConnectionClosed | None = None
        self.began_to_close = False
        self._side = side

    def start(self) -> list[Any]:
        senders = [run_in_thread(self._send, number, sizes) for number, sizes in enumerate(self._side.threads)]
        return [*senders, run_in_thread(self._receive), run_in_thread(self._finish, senders)]

    def _send(self, number: int, sizes: list[int]) -> None:
        try:
            for size in sizes:
                if size < 0:
                    self.websocket.ping(b"", timeout=1)
                    continue
                if size % 3 == 1:  # in pieces
                    message = content(number, self.sent[number], size)
                    self.websocket.send_fragments([message[:10], message[10:]])
                else:
                    self.websocket.send(content(number, self.sent[number], size))
                self.sent[number] += 1
        except (ConnectionClosed, TimeoutError):
            pass

    def _receive(self) -> None:
        try:
            while True:
                message = self.websocket.recv()
                self.received.setdefault(int(message[:2]), []).append(message)
        except ConnectionClosed as error:
            self.end = error

    def _finish(self, senders: list[Any]) -> None:
        if self._side.end is None:
            return
        for sender in senders:
            sender.result(10)
        if self._side.end == "abort":
            return self.websocket.abort()
        self.began_to_close = True
        self.websocket.close(self.code)

    def check(self, other: Talker) -> None:
        assert self.end is not None
        codes = {1006, *([other.code] if other.began_to_close else [])}
        if self.end.sent is not None:
            codes.add(self.end.sent.code)  # comes back
            assert self.end.sent.code in {self.code, other.code, 1011}  # 1011: its pings were not answered
        assert self.end.code in codes, self.end
        for number, messages in self.received.items():
            wanted = [content(number, index, int(message[6:11])) for index, message in enumerate(messages)]
            assert messages == wanted, f"thread {number}: {len(messages)} messages came"
            assert len(messages) <= other.sent[number] + 1  # a send that was told to have failed may have been whole
        if self.end.received is not None and not self.began_to_close and other.began_to_close:
            for number, count in other.sent.items():
                assert len(self.received.get(number, ())) >= count, f"thread {number}: {count} were sent"


def content(number: int, index: int, size: int) -> str | bytes:
    text = f"{number:02}{index:04}{size:05}" + "é" * (size // 2) + "x" * size
    return text if size % 2 else text.encode("latin-1")


def plans(ends: tuple[str | None, ...]) -> st.SearchStrategy[Plan]:
    return st.builds(
        Plan,
        piece=st.none() | st.integers(1, 300),
        refusals=st.sampled_from([0.0, 0.0, 0.3]),
        delay=st.sampled_from([0.0, 0.003]),  # a proxy's
        end=st.sampled_from(ends),
        after=st.integers(0, 300) | st.integers(0, 20_000),
    )


def sides(ends: tuple[str | None, ...]) -> st.SearchStrategy[Side]:
    sizes = st.sampled_from([-1, 0, 1, 2, 50, 51, 125, 700, 5000]) | st.integers(0, 5000)
    return st.builds(
        Side,
        threads=st.lists(st.lists(sizes, min_size=3, max_size=8), min_size=1, max_size=3),
        end=st.sampled_from(["close", "close", "abort", None]),
        fragment_size=st.none() | st.integers(10, 1000),  # 4096 of them may be one message
        sending=plans(ends),
        receiving=plans(ends),
    )


def settings_of(left: Side, right: Side) -> tuple[Settings, Settings]:
    return replace(QUICK, fragment_size=left.fragment_size), replace(QUICK, fragment_size=right.fragment_size)


@contextlib.contextmanager
def by_transports(left: Side, right: Side, seed: int, tls: bool) -> Iterator[tuple[WebSocketConnection, ...]]:
    """Two ends whose transports are faulty."""
    both = iter([(left.sending, left.receiving), (right.sending, right.receiving)])
    client, server = settings_of(left, right)
    with faulty(lambda: next(both), seed):
        with pipe(tls=tls, negotiate_extensions=True, client=client, server=server) as connections:
            yield connections


@contextlib.contextmanager
def by_proxy(left: Side, right: Side, seed: int, tls: bool) -> Iterator[tuple[WebSocketConnection, ...]]:
    """Two ends with a faulty proxy between them, which delays too; none, where that ends the TLS handshake."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        plans = lambda random: (left.sending, right.sending)  # noqa: E731
        proxy = stack.enter_context(FaultyProxy(listener.getsockname(), seed=seed, plans=plans))
        ours = stack.enter_context(socket.create_connection(("127.0.0.1", proxy.port), SOON))
        theirs = stack.enter_context(listener.accept()[0])
        if tls:
            try:
                ours, theirs = map(stack.enter_context, handshake(ours, theirs))
            except OSError:
                yield ()
                return
        connections = tuple(
            WebSocketConnection(sock, role=role, settings=settings)
            for sock, role, settings in zip((ours, theirs), Role, settings_of(left, right), strict=True)
        )
        try:
            yield connections
        finally:
            for connection in connections:
                connection.abort()


def handshake(ours: socket.socket, theirs: socket.socket) -> tuple[socket.socket, socket.socket]:
    for sock in (ours, theirs):
        sock.settimeout(300 * MS)
    accepting = run_in_thread(certificates().server.wrap_socket, theirs, server_side=True)
    try:
        client = certificates().client.wrap_socket(ours, server_hostname="localhost")
    except OSError:
        ours.close()
        with contextlib.suppress(OSError):
            accepting.result().close()
        raise
    try:
        return client, accepting.result()
    except OSError:
        client.close()
        raise


def converse(left: Side, right: Side, seed: int, tls: bool, meet: Any = by_transports) -> tuple[Talker, ...]:
    """Let both do what they are to do, to the end; nothing may hang, and no thread may fail."""
    if left.end is None and right.end is None:
        left = left._replace(end="close")
    with meet(left, right, seed, tls) as connections:
        talkers = tuple(map(Talker, connections, (left, right), (3001, 3002)))
        for handle in [handle for talker in talkers for handle in talker.start()]:
            handle.result(15)
        for talker in talkers:
            wait_until(lambda talker=talker: talker.websocket.fileno() < 0 or talker.end is not None)
    return talkers


def check(talkers: tuple[Talker, ...]) -> None:
    if talkers:
        client, server = talkers
        client.check(server)
        server.check(client)


NOTHING: tuple[str | None, ...] = (None,)
SUITE = settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))


class TestTwoPeers:
    """Random schedules of sends, pings, closes, splits and ends, from several threads on both sides."""

    @SUITE
    @given(sides(NOTHING), sides(NOTHING), st.integers(0, 1 << 32), st.booleans())
    def test_over_a_stream_that_lives(self, left: Side, right: Side, seed: int, tls: bool) -> None:
        check(converse(left, right, seed, tls))

    @SUITE
    @given(sides((None, *ENDS)), sides((None, *ENDS)), st.integers(0, 1 << 32), st.booleans())
    def test_over_a_stream_that_may_end_anywhere(self, left: Side, right: Side, seed: int, tls: bool) -> None:
        check(converse(left, right, seed, tls))

    @SUITE
    @given(sides((None, *ENDS)), sides((None, *ENDS)), st.integers(0, 1 << 32), st.booleans())
    def test_with_all_that_may_happen_on_the_way(self, left: Side, right: Side, seed: int, tls: bool) -> None:
        check(converse(left, right, seed, tls, by_proxy))
