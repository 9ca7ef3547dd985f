"""Express: with C the same happens as without, in fewer steps; what is not simple is left alone.

All other tests of connections go this way too, where C is built, and the other with WEBSOCKETSERVER_PURE=1.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import socket
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import pairwise
from typing import Any

import pytest

from websocketserver import (
    ConnectionClosed,
    PerMessageDeflate,
    PoolingWebSocketServer,
    Role,
    Settings,
    ThreadingWebSocketServer,
    WebSocketConnection,
    express,
    sending,
    sharing,
)
from websocketserver import connection as module
from websocketserver import handler as handler_module
from websocketserver import pool as pool_module
from websocketserver.deadline import Deadline
from websocketserver.keepalive import Heartbeat
from websocketserver.output import GATHERED
from websocketserver.protocol.events import AppEvent, Message
from websocketserver.pump import Turn
from websocketserver.trace import TracedFrame
from websocketserver.transport import poll

from .serving import Quiet, events, leave, serving
from .support import MASK, SOON, RawPeer, Running, frame, half, pipe, raw_client, run_in_thread, wait_until

HAVE_C = express.receive_at_once.__module__ != express.__name__

LARGE = 200  # messages of 16 KiB: more than a socket holds


@pytest.fixture(params=["at once", "step by step"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "step by step":
        monkeypatch.setattr(module, "receive_at_once", lambda connection, ahead: None)
        monkeypatch.setattr(module, "ready_at_once", lambda connection, ahead: None)
        monkeypatch.setattr(sending, "send_at_once", lambda connection, message: False)
        monkeypatch.setattr(sending, "ping_at_once", lambda connection, payload: False)
        monkeypatch.setattr(handler_module, "handle_at_once", lambda connection, handler: None)
        monkeypatch.setattr(pool_module, "serve_at_once", lambda pool, worker, ready: ready.popleft())
        monkeypatch.setattr(sharing, "share_at_once", lambda connection, frame, guests: False)
        monkeypatch.setattr(sharing, "flush_at_once", lambda connection: False)
    return str(request.param)


@pytest.fixture(params=list(Role), ids=lambda role: role.value)
def role(request: pytest.FixtureRequest) -> Role:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def ends(role: Role) -> Iterator[tuple[WebSocketConnection, RawPeer]]:
    with half(role, settings=Settings(ping_interval=None)) as pair:
        yield pair


@pytest.fixture
def server() -> Iterator[tuple[WebSocketConnection, RawPeer]]:
    with half(settings=Settings(ping_interval=None)) as pair:
        yield pair


Ends = tuple[WebSocketConnection, RawPeer]


def frames(connection: WebSocketConnection, count: int) -> list[bytes]:
    key = b"\x01\x02\x03\x04" if connection.role is Role.SERVER else None
    return [frame(1, b"%d" % number, key=key) for number in range(count)]


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


def counted(connection: WebSocketConnection) -> tuple[int, int]:
    return connection.stats.messages_received, connection.stats.messages_sent


def test_the_seam_chooses() -> None:
    assert HAVE_C is not bool(os.environ.get("WEBSOCKETSERVER_PURE"))


@pytest.mark.usefixtures("way")
class TestBothWays:
    @pytest.mark.parametrize(
        "message",
        [
            *("", "text", "x" * 125, "x" * 126, "xy" * 8192, "x" * 20000, "é" * 100, "\N{GRINNING FACE}"),
            *(b"", b"bytes", bytes(16384), b"x" * 20000),
        ],
    )
    def test_messages_come_and_go(self, ends: Ends, message: str | bytes) -> None:
        connection, peer = ends
        payload = message.encode() if isinstance(message, str) else message
        opcode = 1 if isinstance(message, str) else 2
        for _ in range(2):
            connection.send(message)
            assert peer.read_frame() == (opcode, payload, True, 0, connection.role is Role.CLIENT)
            peer.frame(opcode, payload)
            assert connection.recv() == message
        assert counted(connection) == (2, 2)
        head = (2 if len(payload) < 126 else 4) + (4 if connection.role is Role.CLIENT else 0)
        assert connection.stats.bytes_sent == 2 * (len(payload) + head)

    @pytest.mark.parametrize("size", [16385, 65535, 65536, 128 << 10, (128 << 10) + 1])
    def test_messages_of_some_size(self, ends: Ends, size: int) -> None:
        connection, peer = ends
        for opcode, message in ((2, bytes(range(256)) * (size // 256 + 1)), (1, "abc" * size), (1, "é" * size)):
            sent = run_in_thread(connection.send, message[:size])
            payload = message[:size].encode() if isinstance(message, str) else message[:size]
            assert peer.read_frame() == (opcode, payload, True, 0, connection.role is Role.CLIENT)
            sent.result()

    def test_what_comes_together(self, ends: Ends) -> None:
        connection, peer = ends
        peer.send(b"".join(frames(connection, 5)))
        assert [connection.recv() for _ in range(5)] == ["0", "1", "2", "3", "4"]
        peer.send(b"".join(frames(connection, 5)))
        for number, event in enumerate(connection.events()):
            assert event == Message(str(number), True)
            connection.send(f"re {number}")
            if number == 4:
                break
        connection._output.flush(gathered=True)
        assert [peer.read_frame().payload for _ in range(5)] == [b"re %d" % number for number in range(5)]
        assert counted(connection) == (10, 5)

    def test_in_a_pool(self, ends: Ends) -> None:
        connection, peer = ends
        announced: list[None] = []
        connection.park(lambda: announced.append(None))
        try:
            seen: list[AppEvent] = []
            connection.handle_ready(seen.append)  # without waiting
            assert not seen

            def echo(event: AppEvent) -> None:
                seen.append(event)
                connection.send(f"re {event[0]!s}")

            for count in (1, 5):
                peer.send(b"".join(frames(connection, count)))
                wait_until(lambda: poll(connection.fileno(), True, False, Deadline(0))[0])
                connection.handle_ready(echo)
                assert seen == [Message(str(number), True) for number in range(count)]
                seen.clear()
                assert [peer.read_frame().payload for _ in range(count)] == [b"re %d" % each for each in range(count)]
            assert counted(connection) == (6, 6)
            assert not announced
            assert not connection.is_ready()
            peer.close_frame()
            wait_until(lambda: poll(connection.fileno(), True, False, Deadline(0))[0])
            with pytest.raises(ConnectionClosed):
                connection.handle_ready(seen.append)
        finally:
            connection.unpark()

    @pytest.mark.parametrize("way_of_pool", [True, False])
    def test_pings_of_the_timer(self, ends: Ends, way_of_pool: bool) -> None:
        connection, peer = ends
        if way_of_pool:
            connection.park(lambda: None)
        connection._heartbeat = Heartbeat(0, None, time.monotonic())
        for number in (1, 2):
            connection.visit(time.monotonic())
            assert peer.read_frame() == (9, number.to_bytes(4, "big"), True, 0, connection.role is Role.CLIENT)
        assert connection._pings.sent == 2
        assert counted(connection) == (0, 0)
        assert connection.stats.bytes_sent == 2 * (6 if connection.role is Role.SERVER else 10)
        connection.send("x")
        assert peer.read_frame().payload == b"x"
        if way_of_pool:
            connection.unpark()

    def test_pings_to_a_full_socket(self, ends: Ends) -> None:
        connection, peer = ends
        connection.park(lambda: None)
        sent = 0
        with pytest.raises(TimeoutError, match="nothing was sent"):
            while True:
                connection.send(bytes(1000), timeout=0)
                sent += 1
        for _ in range(200):  # the last of them find no room, or not for all
            connection._send_ping(b"ping")
        receiving = run_in_thread(lambda: [peer.read_frame() for _ in range(sent + 1)])
        wait_until(lambda: connection._output.flush())
        got = receiving.result()
        assert [each.opcode for each in got[:sent]] == [2] * sent
        assert got[sent][:2] == (9, b"ping")
        connection.unpark()

    def test_text_as_bytes(self, ends: Ends) -> None:
        connection, peer = ends
        peer.frame(1, "é".encode())
        assert connection.recv(decode=False) == "é".encode()

    def test_pieces_of_a_frame(self, ends: Ends) -> None:
        connection, peer = ends
        receiving = run_in_thread(connection.recv)
        for byte in frames(connection, 3)[2]:
            peer.send(bytes([byte]))
        assert receiving.result() == "2"

    def test_control_frames_between(self, ends: Ends) -> None:
        connection, peer = ends
        peer.frame(9, b"ping")
        peer.frame(1, b"text")
        assert connection.recv() == "text"
        assert peer.read_frame().payload == b"ping"

    def test_text_that_is_none(self, ends: Ends) -> None:
        connection, peer = ends
        peer.frame(1, b"\xff")
        with pytest.raises(ConnectionClosed, match="UTF-8"):
            connection.recv()

    def test_end_of_the_stream(self, ends: Ends) -> None:
        connection, peer = ends
        receiving = run_in_thread(connection.recv)
        wait_until(lambda: connection._pumping)
        peer.sock.close()
        with pytest.raises(ConnectionClosed, match="the stream ended without a Close"):
            receiving.result()

    def test_reset(self, role: Role) -> None:
        with half(role, tcp=True) as (connection, peer):
            receiving = run_in_thread(connection.recv)
            wait_until(lambda: connection._pumping)
            peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            peer.sock.close()
            with pytest.raises(ConnectionClosed, match="Connection reset by peer"):
                receiving.result()
            with pytest.raises(ConnectionClosed):
                connection.send("x")

    def test_abort_wakes_who_waits(self, ends: Ends) -> None:
        connection, _ = ends
        receiving = run_in_thread(connection.recv)
        wait_until(lambda: connection._pumping)
        connection.abort()
        with pytest.raises(ConnectionClosed):
            receiving.result()
        assert connection.fileno() == -1

    def test_who_waits_for_the_pump_is_told(self, ends: Ends) -> None:
        connection, peer = ends
        receivers = [run_in_thread(connection.recv) for _ in range(3)]
        wait_until(lambda: connection._waiting == 2)
        for number in range(3):
            peer.frame(1, b"%d" % number)
        assert sorted(receiver.result() for receiver in receivers) == ["0", "1", "2"]

    def test_more_than_the_socket_takes(self, ends: Ends) -> None:
        """Sends that take a part of a message are finished, and nothing comes between."""
        connection, peer = ends
        messages = [bytes([number % 256]) * (16384 - number) for number in range(LARGE)]

        def send_all() -> None:
            for message in messages:
                connection.send(message)

        sending = run_in_thread(send_all)
        wait_until(lambda: connection._output.rest or connection._output.lock.locked())
        assert [peer.read_frame().payload for _ in messages] == messages
        sending.result()
        assert connection.stats.messages_sent == LARGE

    def test_nobody_reads(self, role: Role) -> None:
        with half(role, settings=Settings(send_timeout=0.05)) as (connection, _):
            with pytest.raises(TimeoutError):
                while True:
                    connection.send(bytes(16000))

    @pytest.mark.parametrize("parked", [False, True])
    def test_messages_and_messages_in_pieces_of_several_threads(self, parked: bool) -> None:
        """A lock that was just handed to one who waits for it does not look locked."""
        with half(settings=Settings(ping_interval=None, compression=None)) as (connection, peer):
            if parked:
                connection.park(lambda: None)
            connection._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 20_000)

            def send(text: str) -> None:
                for number in range(60):
                    if number % 6:
                        connection.send(text)
                    else:
                        connection.send_fragments([text, text])

            sending = [run_in_thread(send, text) for text in ("a", "b" * 6000, "c" * 18000)]
            whole = 0
            while whole < 180:
                first = peer.read_frame()
                assert first.opcode == 1
                fin = first.fin
                while not fin:
                    more = peer.read_frame()
                    assert more.opcode == 0
                    fin = more.fin
                whole += 1
            for each in sending:
                each.result()
            assert connection.stats.messages_sent == 180
            if parked:
                connection.unpark()

    def test_what_comes_behind_a_close_of_ours_while_a_thread_waits_is_dropped(self, ends: Ends) -> None:
        connection, peer = ends
        receiving = run_in_thread(connection.recv)
        wait_until(lambda: connection._pumping)
        connection.start_close(1000)
        assert peer.read_close() == 1000
        peer.send(frames(connection, 1)[0])
        peer.close_frame(1000)
        with pytest.raises(ConnectionClosed):
            receiving.result()

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of the two, one can be raised
    def test_the_pump_is_left_where_an_interrupt_meets_another(self, ends: Ends) -> None:
        connection, peer = ends
        shutdown = connection._transport.shutdown

        def interrupted(*args: object) -> None:
            shutdown()
            raise KeyboardInterrupt

        connection._transport.shutdown = interrupted  # type: ignore[method-assign]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(connection), "_look_ahead", interrupted)
            for each in frames(connection, 2):
                peer.send(each)
            wait_until(lambda: connection._transport.wait(True, False, Deadline(0))[0])
            with pytest.raises(KeyboardInterrupt):
                for _ in connection.events():
                    pass
        assert not connection._pumping
        wait_until(lambda: connection.fileno() == -1)

    def test_a_timeout_that_is_none_is_told_at_once(self, ends: Ends) -> None:
        connection, peer = ends
        with pytest.raises(TypeError):
            connection.send("x", timeout="1")  # type: ignore[arg-type]
        assert not connection._output.lock.locked()
        connection.send("y")
        assert peer.read_frame().payload == b"y"

    @pytest.mark.parametrize("parked", [False, True])
    def test_a_socket_that_the_application_has_closed(self, server: Ends, parked: bool) -> None:
        connection, _ = server
        if parked:
            connection.park(lambda: None)
        number = connection._sock.fileno()
        connection._sock.close()
        one, other = socket.socketpair()
        with one, other:
            theirs = {one.fileno(): other, other.fileno(): one}[number]  # the number is another's now
            theirs.setblocking(False)
            theirs.send(frame(1, b"not ours", key=MASK))
            with pytest.raises(ConnectionClosed):
                connection.send("not theirs")
            with pytest.raises(ConnectionClosed):
                connection.recv()
            with pytest.raises(BlockingIOError):
                theirs.recv(1)

    def test_a_guest_that_sends_while_it_is_noted(self, server: Ends) -> None:
        class Hasty(WebSocketConnection):
            __slots__ = ()

            def __hash__(self) -> int:
                self._output.flush_gathered()
                return id(self)

        connection, peer = server
        connection.__class__ = Hasty
        connection._output.gathered += frame(1, b"first")
        message = sharing.SharedMessage("second")
        assert message.frames(connection._output.sender) is not None
        assert connection.offer(message, {}, [])
        assert connection._output.flush_gathered()
        assert [peer.read_frame().payload for _ in range(2)] == [b"first", b"second"]

    def test_several_threads(self) -> None:
        with pipe() as (client, server):
            senders = [run_in_thread(self.send_many, client, name) for name in "abc"]
            got = [server.recv() for _ in range(300)]
            for sender in senders:
                sender.result()
            for name in "abc":
                assert [text for text in got if text[0] == name] == [f"{name}{number}" for number in range(100)]

    def send_many(self, connection: WebSocketConnection, name: str) -> None:
        for number in range(100):
            connection.send(f"{name}{number}")

    @pytest.mark.parametrize("message", ["\ud800", None, 5, [b"x"]])
    def test_what_cannot_be_sent(self, ends: Ends, message: Any) -> None:
        with pytest.raises((TypeError, UnicodeEncodeError)):
            ends[0].send(message)
        ends[0].send("x")
        assert ends[1].read_frame().payload == b"x"


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
        self.websocket.send(message)

    def on_other(self, message: str | bytes) -> None:
        self.events.append(("other", message))
        self.websocket.send(message)


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


def tenants(running: Running) -> list[Any]:
    return list(running.server._pool._tenants.values())


def ask(peer: RawPeer, text: str, answer: str | None = None) -> None:
    peer.frame(1, text.encode())
    assert peer.read_frame().payload.decode() == (text if answer is None else answer)


SERVERS = [ThreadingWebSocketServer, PoolingWebSocketServer]


@pytest.fixture(params=SERVERS, ids=lambda kind: kind.__name__[:-15])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Quiet, "default_server", request.param)


@pytest.mark.usefixtures("way", "kind")
class TestHandling:
    def test_messages_are_answered(self) -> None:
        with turning() as running, raw_client(running) as one, raw_client(running) as other:
            for number in range(20):
                ask(one, f"one {number}")
                ask(other, "grüß")
            wait_until(lambda: [counted(each) for each in running.server.connections] == [(20, 20)] * 2)

    def test_what_comes_together_is_gathered_and_in_order(self) -> None:
        with turning() as running, raw_client(running) as peer:
            texts = [f"{number}" for number in range(30)]
            for _ in range(5):
                ask(peer, "alone")
                peer.send(b"".join(frame(1, text.encode(), key=MASK) for text in texts))
                assert [peer.read_frame().payload.decode() for _ in texts] == texts
            assert events(running) == ["open", *(["alone", *texts] * 5)]

    def test_pieces_pings_and_binary(self) -> None:
        with turning() as running, raw_client(running) as peer:
            ask(peer, "first")
            peer.frame(1, b"he", fin=False)
            peer.frame(9, b"ping")
            assert peer.read_frame()[:2] == (10, b"ping")
            peer.frame(0, b"llo")
            assert peer.read_frame().payload == b"hello"
            peer.frame(2, b"\x00\xff")
            assert peer.read_frame()[:2] == (2, b"\x00\xff")
            for byte in frame(1, b"slowly", key=MASK):
                peer.send(bytes([byte]))
            assert peer.read_frame().payload == b"slowly"
            assert events(running) == ["open", "first", "hello", b"\x00\xff", "slowly"]

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # a thread that ends so
    @pytest.mark.parametrize("message, code", [("fail", 1011), ("exit", 1001)])
    def test_a_hook_that_fails(self, message: str, code: int) -> None:
        with turning(errors_expected=True) as running, raw_client(running) as peer, raw_client(running) as other:
            ask(peer, "well")
            peer.frame(1, message.encode())
            assert peer.read_close() == code
            leave(peer, code)
            wait_until(lambda: len(events(running)) == 5)
            ask(other, "the pool goes on")
            assert sorted(events(running), key=str) == sorted(
                ["open", "open", "well", message, (code, ""), "the pool goes on"], key=str
            )
            assert [(type(error), error.args) for error in running.errors] == (
                [(ValueError, ("fail",))] if message == "fail" else []
            )
            if running.errors:  # where it failed is told, and nothing of that is kept
                trace = running.errors[0].__traceback__
                while trace is not None and trace.tb_next is not None:
                    trace = trace.tb_next
                assert trace is not None and trace.tb_frame.f_code.co_name == "on_message"
                assert running.errors[0].__context__ is None

    def test_a_hook_that_finds_its_connection_closed_ends_as_usual(self) -> None:
        with turning() as running, raw_client(running) as peer:
            ask(peer, "well")
            peer.frame(1, b"close")
            assert peer.read_close() == 1000
            leave(peer)
            wait_until(lambda: events(running)[-1] == (1000, ""))
            assert events(running) == ["open", "well", "close", (1000, "")]
            wait_until(lambda: not running.server.connections)

    def test_a_peer_that_leaves(self) -> None:
        with turning() as running, raw_client(running) as peer, raw_client(running) as other:
            ask(peer, "well")
            leave(peer, 1000, "bye")
            assert peer.read_close() == 1000
            ask(other, "well")
            other.sock.close()
            wait_until(lambda: not running.server.connections)
            assert set(events(running)) == {"open", "well", (1000, "bye"), (1006, "the stream ended without a Close")}

    def test_hooks_that_are_replaced_that_broadcast_and_that_send_twice(self) -> None:
        with turning() as running, raw_client(running) as peer:
            ask(peer, "broadcast", "to all")
            assert peer.read_frame().payload == b"broadcast"
            ask(peer, "two", "one")
            assert peer.read_frame().payload == b"two"
            ask(peer, "other")
            ask(peer, "new")
            assert events(running) == ["open", "broadcast", "two", "other", ("other", "new")]

    def test_what_others_have_gathered_leaves_behind_the_answer(self) -> None:
        with turning() as running, raw_client(running) as peer:
            ask(peer, "well")
            (connection,) = running.server.connections
            output = connection._output
            with output.lock:  # as a broadcast of a host's
                output.gathered += frame(1, b"gathered")
            ask(peer, "next", "gathered")
            assert peer.read_frame().payload == b"next"

    def test_text_is_str_though_somebody_else_has_asked_for_bytes(self) -> None:
        with turning() as running, raw_client(running) as peer:
            for text in ("well", "next", "and \N{SNOWMAN}"):
                ask(peer, text)
                assert events(running)[-1] == text
                (connection,) = running.server.connections
                if running.server.__class__.__name__.startswith("Threading"):
                    wait_until(lambda: connection._pumping)  # noqa: B023
                with pytest.raises(TimeoutError):
                    connection.recv(timeout=0, decode=False)

    def test_a_stream_of_bytes_that_is_none(self) -> None:
        with turning() as running, raw_client(running) as peer:
            ask(peer, "well")
            peer.frame(1, b"\xff")
            assert peer.read_close() == 1007
            leave(peer, 1007)
            wait_until(lambda: len(events(running)) == 3)
            assert events(running)[:2] == ["open", "well"]
            assert events(running)[2][1] == "text is not valid UTF-8"

    def test_many_at_once(self) -> None:
        with turning() as running, ExitStack() as stack:
            peers = [stack.enter_context(raw_client(running)) for _ in range(20)]
            for number in range(30):
                for peer in peers:
                    peer.frame(1, f"{number}".encode())
                assert {peer.read_frame().payload for peer in peers} == {f"{number}".encode()}


@pytest.mark.usefixtures("way")
class TestTurnsInAPool:
    def test_end(self) -> None:
        with pooling() as running, raw_client(running) as one, raw_client(running) as other:
            for number in range(20):
                ask(one, f"one {number}")
                ask(other, "x")
            wait_until(lambda: [each._accepted.thread for each in tenants(running)] == [None, None])
            wait_until(lambda: running.server._pool._leader.tenant is None)
            assert not any(each._connection._pumping for each in tenants(running))

    def test_a_hook_that_blocks_keeps_no_other(self) -> None:
        with pooling() as running, raw_client(running) as peer, raw_client(running) as other:
            gate = running.server.RequestHandlerClass.gate
            for _ in range(3):
                peer.frame(1, b"wait")
                wait_until(lambda: sum(each.away for each in tenants(running)) == 1)
                peer.frame(1, b"behind")
                for number in range(5):
                    ask(other, f"{number}")
                gate.set()
                assert [peer.read_frame().payload for _ in range(2)] == [b"wait", b"behind"]
                gate.clear()
                wait_until(lambda: not any(each.away for each in tenants(running)))

    def test_a_handler_that_serves_in_its_own_way(self) -> None:
        with pooling(Overriding) as running, raw_client(running) as peer:
            for _ in range(3):
                ask(peer, "x")
            wait_until(lambda: events(running).count("ready") == 3)


@pytest.fixture
def schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    """No timer comes between."""
    monkeypatch.setattr("websocketserver.keepalive.timer.schedule", lambda visited, at: None)


#: What makes it not simple to receive, to send: by the name of an attribute, and what it may be.
NOT_RECEIVING: dict[str, object] = {
    "_turn": Turn(),
    "_input_over": True,
    "_pumping": True,
    "_over": True,
    "_announce": lambda: None,
    "_gathering": 1,
    "_sent": object(),
    "_held": object(),
    "_failed": True,
    "_skipping": True,
    "_output.queued": [(9, b"")],
    "_output.rest": [b"rest"],
    "_receiver.in_frame": True,
    "_receiver._in_message": True,
    "_receiver._as_fragments": True,
    "_receiver.closed": True,
    "_transport.direct": None,
    "_transport": None,
}
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


def change(connection: WebSocketConnection, path: str, value: object) -> Callable[[], None]:
    """Set an attribute; return how to undo that."""
    *steps, name = path.split(".")
    owner: Any = connection
    for step in steps:
        owner = getattr(owner, step)
    before = getattr(owner, name)
    setattr(owner, name, value)
    return lambda: setattr(owner, name, before)


if HAVE_C:  # else there is nothing but the other way

    @pytest.mark.usefixtures("schedule")
    class TestNotSimple:
        """Nothing is done then, and nothing waited for."""

        @pytest.mark.parametrize("name", NOT_RECEIVING)
        def test_receiving(self, ends: Ends, name: str) -> None:
            connection, peer = ends
            peer.frame(1, b"text")
            undo = change(connection, name, NOT_RECEIVING[name])
            assert express.receive_at_once(connection, False) is None
            undo()
            assert connection.stats.bytes_received == 0
            assert express.receive_at_once(connection, False) == Message("text", True)
            assert connection.stats.messages_received == 1
            assert not connection._pumping

        @pytest.mark.parametrize("name", NOT_SENDING)
        def test_sending(self, ends: Ends, name: str) -> None:
            connection, peer = ends
            undo = change(connection, name, NOT_SENDING[name])
            assert express.send_at_once(connection, "text") is False
            undo()
            assert counted(connection) == (0, 0)
            assert express.send_at_once(connection, "text") is True
            assert peer.read_frame().payload == b"text"
            assert connection.stats.messages_sent == 1
            assert not connection._output.lock.locked()

        @pytest.mark.parametrize("name", NOT_SENDING)
        def test_sharing(self, server: Ends, name: str) -> None:
            connection, peer = server
            undo = change(connection, name, NOT_SENDING[name])
            assert express.share_at_once(connection, b"\x81\x04text", None) is False
            undo()
            assert counted(connection) == (0, 0)
            assert express.share_at_once(connection, b"\x81\x04text", None) is True
            assert peer.read_frame().payload == b"text"
            assert connection.stats.messages_sent == 1
            assert not connection._output.lock.locked()

        @pytest.mark.parametrize("name", [n for n in NOT_SENDING if n not in ("_gathering", "_output.gathered")])
        def test_sharing_with_guests_and_flushing(self, server: Ends, name: str) -> None:
            connection, peer = server
            output = connection._output
            guests: dict[Any, None] = {}
            undo = change(connection, name, NOT_SENDING[name])
            assert express.share_at_once(connection, b"\x81\x04text", guests) is False
            undo()
            assert not guests and not output.gathered
            assert express.flush_at_once(connection) is False  # there is nothing
            assert express.share_at_once(connection, b"\x81\x04text", guests) is True
            assert list(guests) == [connection]
            if name not in ("_output.sender.plain", "_output.sender._new_key"):
                undo = change(connection, name, NOT_SENDING[name])
                assert express.flush_at_once(connection) is False
                undo()
            assert output.gathered == b"\x81\x04text"
            assert express.flush_at_once(connection) is True
            assert peer.read_frame().payload == b"text"
            assert not output.gathered and not output.lock.locked()
            assert connection.stats.messages_sent == 1
            assert connection.stats.bytes_sent == 6

        def test_a_client_masks_for_itself(self) -> None:
            with half(Role.CLIENT, settings=Settings(ping_interval=None)) as (connection, _):
                assert express.share_at_once(connection, b"\x81\x04text", None) is False

        def test_guests_that_have_enough_to_leave(self, server: Ends) -> None:
            connection, _ = server
            connection._output.gathered += bytes(GATHERED - 6)
            assert express.share_at_once(connection, b"\x81\x04text", {}) is False

        @pytest.mark.parametrize("guests", [None, {}], ids=["at once", "with others"])
        def test_sharing_with_a_full_socket(self, server: Ends, guests: dict[Any, None] | None) -> None:
            """What was not taken is pending, nothing overtakes it, and no lock is held."""
            connection, peer = server
            message = sharing.SharedMessage(bytes(10_000))
            late: list[sharing.SharingChannel] = []
            message.frames(connection._output.sender)
            while connection.offer(message, guests, late) and not connection._output.rest:
                assert not connection._output.lock.locked()
                if guests is not None and not express.flush_at_once(connection):
                    break
            assert bool(late) is (guests is None and bool(connection._output.rest))  # or just nothing more was taken
            sent = connection.stats.messages_sent
            assert guests is not None or not express.share_at_once(connection, message.plain or b"", guests)
            assert not express.flush_at_once(connection)
            catching_up = run_in_thread(connection.catch_up)
            assert all(peer.read_frame().payload == bytes(10_000) for _ in range(sent))
            catching_up.result()
            assert connection.stats.bytes_sent == sent * 10_004

        @pytest.mark.parametrize("name", [*NOT_SENDING, "_announce"])
        def test_pinging(self, name: str) -> None:
            with half() as (connection, peer):
                connection.park(lambda: None)
                undo = change(connection, name, NOT_SENDING.get(name))
                simple = name in ("_gathering", "_output.sender.plain")
                assert express.ping_at_once(connection, b"ping") is simple
                undo()
                if simple:
                    assert peer.read_frame()[:2] == (9, b"ping")
                assert express.ping_at_once(connection, b"pong") is True
                assert peer.read_frame()[:2] == (9, b"pong")
                with connection._output.lock:
                    assert express.ping_at_once(connection, b"ping") is False
                connection.unpark()

        def test_locks_that_others_hold(self, ends: Ends) -> None:
            connection, peer = ends
            peer.frame(1, b"text")
            with connection._lock:
                assert express.receive_at_once(connection, False) is None
            with connection._output.lock:
                assert express.send_at_once(connection, "text") is False
            assert express.receive_at_once(connection, False) == Message("text", True)

        @pytest.mark.parametrize("message", [bytearray(b"x"), memoryview(b"x"), None, "\ud800"])
        def test_messages(self, ends: Ends, message: object) -> None:
            assert express.send_at_once(ends[0], message) is False

        def test_large_messages(self, ends: Ends) -> None:
            """A client masks what it sends, hence copies it in any case."""
            connection, peer = ends
            most = 128 << 10 if connection.role is Role.CLIENT else 16384
            assert express.send_at_once(connection, bytes(most + 1)) is False
            assert express.send_at_once(connection, "é" * (most // 2 + 1)) is False
            assert express.send_at_once(connection, bytes(most // 4)) is True
            assert peer.read_frame().payload == bytes(most // 4)

        def test_tls(self) -> None:
            with half(tls=True) as (connection, peer):
                peer.frame(1, b"text")
                assert express.receive_at_once(connection, False) is None
                assert express.send_at_once(connection, "text") is False

        def test_stand_ins(self, ends: Ends) -> None:
            """A trace has them in place of parser and sender, also one that begins while somebody waits."""
            connection, peer = ends
            receiving = run_in_thread(connection.recv)
            wait_until(lambda: connection._pumping)
            told: list[TracedFrame] = []
            connection.trace(told.append)
            assert express.send_at_once(connection, "text") is False
            peer.frame(1, b"text")
            assert receiving.result() == "text"
            wait_until(lambda: told)
            peer.frame(1, b"more")
            assert express.receive_at_once(connection, False) is None
            connection.trace(None)
            assert express.receive_at_once(connection, False) == Message("more", True)

        def test_compression(self) -> None:
            settings = Settings(compression=PerMessageDeflate(threshold=0))
            with pipe(client=settings, server=settings, negotiate_extensions=True) as (client, server):
                assert express.send_at_once(client, "text") is False
                client.send("text")
                assert server.recv() == "text"

        def test_a_full_socket(self, ends: Ends) -> None:
            """What is begun is left pending; where nothing is taken, nothing is done."""
            connection, peer = ends
            sent = 0
            while (done := express.send_at_once(connection, bytes(16384))) is True:
                sent += 1
            assert connection.stats.messages_sent == sent
            assert not connection._output.lock.locked()
            if done is None:
                assert len(connection._output.rest) == 1
                sending = run_in_thread(connection._send_rest, module.NEVER)
                sent += 1
            else:
                sending = run_in_thread(lambda: None)
            assert not any(peer.read_frame().payload.strip(b"\0") for _ in range(sent))
            sending.result()
            assert not connection._output.lock.locked()

        @pytest.mark.parametrize("arguments", [(), (None, False), (5, "x"), (None,)])
        def test_arguments(self, arguments: tuple[object, ...]) -> None:
            for function in (
                express.receive_at_once,
                express.send_at_once,
                express.share_at_once,
                express.flush_at_once,
                express.handle_at_once,
            ):
                with pytest.raises(TypeError):
                    function(*arguments)  # type: ignore[arg-type,call-arg]

    class TestSimpleHandling:
        @pytest.fixture
        def steps(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
            """What Python has been called for, to serve: nothing."""
            steps: list[str] = []
            serve_ready = Quiet.serve_ready

            def counting(self: Any, error: BaseException | None = None) -> bool:
                steps.append("serve_ready")
                return serve_ready(self, error)

            monkeypatch.setattr("websocketserver.handler.WebSocketRequestHandler.serve_ready", counting)
            return steps

        def test_a_thread_takes_no_step_in_python_but_the_hook(self, monkeypatch: pytest.MonkeyPatch) -> None:
            seen: list[AppEvent] = []
            handle = Quiet._handle_event

            def counting(self: Any, event: AppEvent) -> None:
                seen.append(event)
                handle(self, event)

            monkeypatch.setattr("websocketserver.hooks.Hooks._handle_event", counting)
            with turning(server_class=ThreadingWebSocketServer) as running, raw_client(running) as peer:
                for number in range(50):
                    ask(peer, f"{number}")
                assert seen == [Message("0", True)]

        def test_a_pool_takes_no_step_in_python_but_the_hook(self, steps: list[str]) -> None:
            with pooling() as running, raw_client(running) as peer:
                for number in range(50):
                    ask(peer, f"{number}")
                assert len(steps) < 10  # where the monitor has been asleep
                before = len(steps)
                peer.send(frame(1, b"1", key=MASK) + frame(1, b"2", key=MASK))
                assert [peer.read_frame().payload for _ in range(2)] == [b"1", b"2"]
                assert len(steps) > before

        @pytest.mark.usefixtures("kind")
        def test_nothing_leaks_where_hooks_are_called(self) -> None:
            with turning(Forgetful) as running, raw_client(running) as peer:

                def talk() -> None:
                    for _ in range(300):
                        ask(peer, "some text")

                assert growth(talk) < 2000

        @pytest.mark.parametrize("arguments", [(), (None, None, None), (1, 2)])
        def test_arguments(self, arguments: tuple[object, ...]) -> None:
            with pytest.raises(TypeError):
                express.serve_at_once(*arguments)  # type: ignore[call-arg,arg-type]

    @pytest.mark.usefixtures("schedule")
    class TestSimple:
        def test_what_is_in_the_inbox_comes_first(self, ends: Ends) -> None:
            connection, peer = ends
            peer.send(b"".join(frames(connection, 4)))
            assert express.receive_at_once(connection, True) == Message("0", True)
            assert len(connection._inbox) == 3
            assert connection._inbox_size == 3 * 65
            for number in range(1, 4):
                assert express.receive_at_once(connection, True) == Message(str(number), True)
            assert connection._inbox_size == 0

        def test_without_looking_ahead_it_stays_with_the_parser(self, ends: Ends) -> None:
            connection, peer = ends
            peer.send(b"".join(frames(connection, 2)))
            assert express.receive_at_once(connection, False) == Message("0", True)
            assert connection._unparsed and not connection._inbox
            assert express.receive_at_once(connection, False) == Message("1", True)
            assert not connection._unparsed

        def test_gathering(self, ends: Ends) -> None:
            """The first goes the long way, which has the timer see to it; so does the one that makes it enough."""
            connection, _ = ends
            connection._gathering = threading.get_ident()
            assert express.send_at_once(connection, "one") is False
            connection._output.gathered += b"x"
            assert express.send_at_once(connection, "two") is True
            assert connection._output.gathered.startswith(b"x\x81")
            connection._output.gathered += bytes(1 << 16)
            assert express.send_at_once(connection, "three") is False

        def test_what_is_queued_meanwhile_leaves_too(self, ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
            connection, peer = ends
            lock = connection._output.lock
            sending = run_in_thread(self.send_until_full, connection)
            wait_until(lambda: lock.locked() or not sending.running)
            connection._output.queue(9, b"ping")
            while peer.read_frame().payload != b"ping":
                pass
            connection.abort()
            with pytest.raises(ConnectionClosed):
                sending.result()

        def send_until_full(self, connection: WebSocketConnection) -> None:
            while True:
                connection.send(bytes(16384))

        def test_an_interrupt_while_waiting_loses_nothing(self, ends: Ends) -> None:
            connection, peer = ends
            main = threading.main_thread().ident
            assert main is not None

            def interrupt() -> None:
                wait_until(lambda: connection._pumping)
                signal.pthread_kill(main, signal.SIGINT)

            interrupting = run_in_thread(interrupt)
            with pytest.raises(KeyboardInterrupt):
                express.receive_at_once(connection, False)
            interrupting.result()
            assert not connection._pumping
            peer.frame(1, b"text")
            assert express.receive_at_once(connection, False) == Message("text", True)

        def test_a_signal_that_raises_nothing_is_waited_out(self, ends: Ends) -> None:
            connection, peer = ends
            main = threading.main_thread().ident
            assert main is not None
            seen: list[int] = []
            before = signal.signal(signal.SIGUSR1, lambda number, _: seen.append(number))

            def disturb() -> None:
                wait_until(lambda: connection._pumping)
                signal.pthread_kill(main, signal.SIGUSR1)
                wait_until(lambda: seen)
                peer.frame(1, b"text")

            try:
                disturbing = run_in_thread(disturb)
                assert express.receive_at_once(connection, False) == Message("text", True)
                disturbing.result()
            finally:
                signal.signal(signal.SIGUSR1, before)

        def test_nothing_leaks(self, ends: Ends) -> None:
            connection, peer = ends
            guests: dict[Any, None] = {}

            def talk() -> None:
                for _ in range(256):  # so many masking keys are drawn at once: as many are left afterwards as before
                    peer.frame(1, b"some text")
                    assert connection.recv() == "some text"
                    connection.send(b"some bytes")
                    peer.read_frame()
                    express.send_at_once(connection, "\ud800")
                    if connection.role is Role.SERVER:
                        express.share_at_once(connection, b"\x81\x04text", None)
                        express.share_at_once(connection, b"\x81\x04text", guests)
                        express.flush_at_once(connection)
                        assert peer.read_frame().payload == peer.read_frame().payload == b"text"

            assert growth(talk) < 1000

        def test_of_many_that_have_received_few_wait_for_the_gil(self) -> None:
            """Each that does wakes up again and again to ask for it."""
            libc = ctypes.PyDLL(None)  # its functions keep the GIL
            text = frame(1, b"text", key=b"keys")
            interval = sys.getswitchinterval()
            with ExitStack() as stack:
                ends = [stack.enter_context(half(Role.SERVER)) for _ in range(200)]
                receiving = [run_in_thread(connection.recv) for connection, _ in ends]
                wait_until(lambda: all(connection._pumping for connection, _ in ends))
                sys.setswitchinterval(0.001)
                try:
                    before = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
                    for _, peer in ends:
                        libc.send(peer.sock.fileno(), text, len(text), 0)
                    libc.usleep(100_000)
                    switches = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw - before
                finally:
                    sys.setswitchinterval(interval)
                assert [each.result() for each in receiving] == ["text"] * 200
            assert switches < 7000
