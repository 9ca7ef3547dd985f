"""PoolingWebSocketServer: connections that keep no thread, hooks that may block, and all that goes on meanwhile.

What it has in common with the other servers is tested by test_handler, test_httphandler, test_router and test_server.
"""

from __future__ import annotations

import contextlib
import os
import resource
import selectors
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from websocketserver import ConnectionClosed, PoolingWebSocketServer, State, WebSocketClient
from websocketserver import pool as pool_module

from .pools import Echo, EchoPage, away, blocked, echo, pooled, pooling_server, tenants, workers
from .serving import PAGE, Page, Quiet, connected, events, leave, lines, log_message, read_to_end, read_until, serving
from .support import (
    MASK,
    MS,
    SOON,
    RawPeer,
    Running,
    frame,
    opening_request,
    raw_client,
    run_in_thread,
    running_server,
    wait_until,
)

__all__ = ["pooling_server"]

TEXT, PING, PONG = 1, 9, 10
ANSWER = b"\r\n\r\n/"  # the end of what Page answers to PAGE


class TestThreads:
    def test_many_connections_have_one(self) -> None:
        with pooled() as running, contextlib.ExitStack() as stack:
            peers = [stack.enter_context(raw_client(running)) for _ in range(50)]
            for peer in peers:
                echo(peer, b"x")
            assert len(running.server.connections) == 50
            assert len(workers()) <= 3

    def test_others_go_on_while_a_hook_blocks(self, gate: threading.Event) -> None:
        with pooled(gate=gate) as running, raw_client(running) as quick, blocked(running, 1) as (slow,):
            for _ in range(20):
                echo(quick, b"x")
            gate.set()
            assert slow.read_frame().payload == b"wait"

    def test_a_hook_may_block_at_any_place(self, gate: threading.Event) -> None:
        class Handler(Echo):
            def on_open(self) -> None:
                if "slow" in self.path:
                    self.gate.wait(SOON)
                self.websocket.send("open")

            def on_close(self, code: int, reason: str) -> None:
                if "slow" in self.path:
                    self.gate.wait(SOON)
                super().on_close(code, reason)

        with (
            pooled(Handler, gate=gate) as running,
            raw_client(running) as quick,
            raw_client(running, "/slow") as slow,
        ):
            assert quick.read_frame().payload == b"open"
            wait_until(lambda: away(running) == 1)
            echo(quick, b"x")
            gate.set()
            assert slow.read_frame().payload == b"open"
            gate.clear()
            leave(slow)
            wait_until(lambda: away(running) == 1)
            echo(quick, b"y")
            gate.set()
            wait_until(lambda: (1000, "") in events(running))

    def test_a_hook_may_wait_for_another_message_itself(self) -> None:
        class Handler(Quiet):
            def on_message(self, message: str | bytes) -> None:
                self.websocket.send(f"{message} {self.websocket.recv(SOON)}")

        with pooled(Handler) as running, raw_client(running) as peer, raw_client(running) as other:
            peer.frame(TEXT, b"1")
            other.send(frame(TEXT, b"a", key=MASK) + frame(TEXT, b"b", key=MASK) + frame(TEXT, b"c", key=MASK))
            assert other.read_frame().payload == b"a b"
            peer.frame(TEXT, b"2")
            assert peer.read_frame().payload == b"1 2"
            other.frame(TEXT, b"d")
            assert other.read_frame().payload == b"c d"

    def test_a_loop_of_ones_own_has_a_thread_of_its_own(self) -> None:
        class Handler(Quiet):
            def handle_websocket(self) -> None:
                for message in self.websocket:
                    self.websocket.send(threading.current_thread().name + str(message))

        with pooled(Handler, max_workers=1) as running, contextlib.ExitStack() as stack:
            peers = [stack.enter_context(raw_client(running)) for _ in range(5)]
            for peer in peers:
                peer.frame(TEXT, b"x")
            names = {peer.read_frame().payload for peer in peers}
            assert len(names) == 5
            assert not any(b"websocketserver-worker" in name for name in names)
            for peer in peers:
                leave(peer)
                assert peer.read_close() == 1000
        assert events(running) == ["open"] * 5 + [(1000, "")] * 5

    def test_where_that_is_not_to_be_had_the_connection_is_closed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Handler(Quiet):
            def handle_websocket(self) -> None:
                for message in self.websocket:
                    self.events.append(message)

        start = threading.Thread.start

        def refuse(thread: threading.Thread) -> None:
            if "_run_apart" in thread.name:
                raise RuntimeError("can't start new thread")
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", refuse)
        with pooled(Handler) as running, raw_client(running) as peer:
            assert peer.read_close() == 1013
            leave(peer, 1013)
            wait_until(lambda: (1013, "") in events(running))
        assert events(running) == ["open", (1013, "")]
        assert any("can't start new thread" in line for line in lines(running))

    @pytest.mark.parametrize("name", ["websocketserver-worker-0", "websocketserver-monitor"])
    def test_without_any_connections_are_refused(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        start = threading.Thread.start

        def refuse(thread: threading.Thread) -> None:
            if thread.name == name:
                raise RuntimeError("can't start new thread")
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", refuse)
        with pooled() as running:
            with raw_client(running, status=503):
                pass
            monkeypatch.setattr(threading.Thread, "start", start)
            with raw_client(running) as peer:
                echo(peer, b"x")
        assert any("can't start new thread" in line for line in lines(running))

    @pytest.mark.parametrize("count", [0, -1, 1.5, None])
    def test_max_workers_must_make_sense(self, count: Any) -> None:
        kind = type("Server", (PoolingWebSocketServer,), {"max_workers": count})
        with pytest.raises(ValueError, match="max_workers"):
            kind(("127.0.0.1", 0), Echo)


class TestWhenAllWorkersAreBlocked:
    def test_messages_wait_and_are_served_in_order(self, gate: threading.Event) -> None:
        with pooled(gate=gate) as running, raw_client(running) as peer, blocked(running):
            for number in range(100):
                peer.frame(TEXT, b"%d" % number)
            wait_until(lambda: away(running) == 3)
            assert "0" not in events(running)
            gate.set()
            assert [peer.read_frame().payload for _ in range(100)] == [b"%d" % number for number in range(100)]

    def test_pings_are_answered(self, gate: threading.Event) -> None:
        with pooled(gate=gate) as running, raw_client(running) as peer, blocked(running):
            for number in range(3):
                peer.frame(PING, b"%d" % number)
                assert peer.read_frame()[:2] == (PONG, b"%d" % number)
            gate.set()

    def test_closes_are_answered_and_the_end_is_noted(self, gate: threading.Event) -> None:
        with pooled(gate=gate) as running, raw_client(running) as peer, blocked(running):
            leave(peer, 1000, "enough")
            assert peer.read_close() == 1000
            assert peer.read_to_end() == b""
            wait_until(lambda: (1000, "enough") in events(running))
            gate.set()

    def test_http_goes_on(self, gate: threading.Event) -> None:
        with pooled(EchoPage, gate=gate) as running, blocked(running), connected(running) as sock:
            for _ in range(3):
                sock.sendall(PAGE)
                assert read_until(sock, ANSWER).startswith(b"HTTP/1.1 200")
            gate.set()

    def test_new_connections_open(self, gate: threading.Event) -> None:
        with pooled(gate=gate) as running, blocked(running), raw_client(running) as peer:
            peer.frame(TEXT, b"x")
            wait_until(lambda: away(running) == 3)
            gate.set()
            assert peer.read_frame().payload == b"x"


def test_a_handler_that_fails_beside_its_hooks_fails_twice_at_most() -> None:
    """And not as long as its connection takes to end."""

    class Broken(Echo):
        def serve_ready(self, error: BaseException | None = None) -> bool:
            raise ValueError("beside the hooks")

    with pooled(Broken, errors_expected=True, close_timeout=SOON) as running:
        with raw_client(running) as peer:
            peer.frame(TEXT, b"x")
            assert peer.read_close() == 1011
            wait_until(lambda: len(running.server.registry) == 0)
        assert len(running.errors) == 2


class TestOrder:
    @pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
    def test_holds_under_stress(self, tls: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        """Many connections, some of whose hooks take long: each is served by one thread at a time, in order."""
        monkeypatch.setattr(pool_module, "TICK", 0.001)
        nap = threading.Event()
        overlaps: list[object] = []

        class Handler(Quiet):
            expected = 0
            inside = False

            def on_message(self, message: str | bytes) -> None:
                if self.inside or int(message) != self.expected:
                    overlaps.append(message)
                self.inside = True
                self.expected += 1
                if self.expected % 17 == 0:
                    nap.wait(0.004)
                self.inside = False
                self.websocket.send(message)

        with pooled(Handler, max_workers=3, tls=tls) as running:
            clients = [run_in_thread(self.talk, running, number) for number in range(8)]
            for client in clients:
                client.result(15)
        assert overlaps == []

    def talk(self, running: Running, salt: int) -> None:
        with WebSocketClient(running.url(), **running.client_options) as websocket:
            sent = received = 0
            while received < 150:
                while sent < min(received + 1 + (received * 7 + salt) % 13, 150):
                    websocket.send(str(sent))
                    sent += 1
                assert websocket.recv(SOON) == str(received)
                received += 1


class TestShutdown:
    def test_from_a_hook_with_a_single_worker(self) -> None:
        class Handler(Quiet):
            def on_message(self, message: str | bytes) -> None:
                self.server.shutdown(SOON)  # type: ignore[attr-defined]
                self.events.append("shut down")

        with pooled(Handler, max_workers=1) as running, raw_client(running) as other, raw_client(running) as peer:
            peer.frame(TEXT, b"x")
            assert other.read_close() == 1001
            leave(other, 1001)
            wait_until(lambda: "shut down" in events(running))
            assert events(running).count((1001, "")) == 1
            assert peer.read_close() == 1001
            leave(peer, 1001)
            wait_until(lambda: events(running).count((1001, "")) == 2)

    def test_only_the_handler_that_asks_for_it_is_not_waited_for(self, gate: threading.Event) -> None:
        """The thread of that handler has served others before."""

        class Handler(Echo):
            def on_message(self, message: str | bytes) -> None:
                if message == "stop":
                    self.server.shutdown(SOON)  # type: ignore[attr-defined]
                    self.events.append(("left", sum(event == (1001, "") for event in self.events)))
                else:
                    super().on_message(message)

        with pooled(Handler, gate=gate) as running, contextlib.ExitStack() as stack:
            others = [stack.enter_context(raw_client(running)) for _ in range(3)]
            for other in others:
                echo(other, b"x")
            peer = stack.enter_context(raw_client(running))
            peer.frame(TEXT, b"stop")
            for other in others:
                assert other.read_close() == 1001
                leave(other, 1001)
            wait_until(lambda: ("left", 3) in events(running))
            leave(peer, 1001)

    def test_keeps_its_deadline_where_hooks_block(self, gate: threading.Event) -> None:
        with pooled(gate=gate) as running, raw_client(running) as idle, blocked(running) as peers:
            began = time.monotonic()
            running.server.shutdown(200 * MS)
            assert time.monotonic() - began < SOON
            assert idle.read_close() == 1001
            for peer in peers:
                assert peer.read_close() == 1001
                assert peer.read_to_end() == b""  # cut
            gate.set()
            wait_until(lambda: not len(running.server.registry))
            wait_until(lambda: not workers())
        assert len(events(running)) == 8

    def test_without_block_on_close_the_pool_ends_by_itself(self, gate: threading.Event) -> None:
        with pooled(gate=gate) as running, blocked(running, 1) as (peer,):
            running.server.block_on_close = False
            running.server.server_close()
            assert peer.read_close() == 1001
            assert workers()
            gate.set()
            leave(peer, 1001)
            wait_until(lambda: not workers())

    def test_ends_idle_http_and_half_handshakes_at_once(self) -> None:
        for tls in (False, True):
            with pooled(Page, tls=tls) as running, connected(running) as half:
                half.sendall(b"" if tls else b"GET /")
                wait_until(lambda: tenants(running))
                running.server.shutdown(SOON)
                read_to_end(half)
                assert not len(running.server.registry)

    def test_may_be_followed_by_serving_again(self) -> None:
        with pooled() as running:
            for _ in range(3):
                with raw_client(running) as peer:
                    echo(peer, b"x")
                    stop = run_in_thread(running.server.shutdown, SOON)
                    assert peer.read_close() == 1001
                    leave(peer, 1001)
                    stop.result()
                assert not workers()
                again = run_in_thread(running.server.serve_forever)
            running.server.shutdown()
            again.result()

    def test_ends_loops_of_ones_own(self) -> None:
        class Handler(Quiet):
            def handle_websocket(self) -> None:
                with contextlib.suppress(ConnectionClosed):
                    self.websocket.recv()
                self.events.append(self.websocket.state is not State.OPEN)

        with pooled(Handler) as running, raw_client(running) as peer:
            wait_until(lambda: "open" in events(running))
            stop = run_in_thread(running.server.shutdown, SOON)
            assert peer.read_close() == 1001
            leave(peer, 1001)
            stop.result()
        assert events(running) == ["open", True, (1001, "")]

    def test_handle_request_leaves_its_connection_to_the_pool(self) -> None:
        handler = type("Own", (Echo,), {"events": [], "lines": []})
        with PoolingWebSocketServer(("127.0.0.1", 0), handler) as server:
            serving_one = run_in_thread(server.handle_request)
            with socket.create_connection(server.server_address, SOON) as sock:
                serving_one.result()
                sock.sendall(opening_request())
                peer = RawPeer(sock, masks=True)
                assert peer.read_until(b"\r\n\r\n").startswith(b"HTTP/1.1 101")
                echo(peer, b"x")
                closing = run_in_thread(server.server_close)
                assert peer.read_close() == 1001
                leave(peer, 1001)
                closing.result()
        assert handler.events == ["open", "x", (1001, "")]  # type: ignore[attr-defined]

    @pytest.mark.parametrize("where", ["serving thread", "other thread"])
    def test_from_a_signal_handler(self, where: str) -> None:
        program = f"""
            import os, signal, threading
            from websocketserver import PoolingWebSocketServer, WebSocketClient, WebSocketRequestHandler

            class Handler(WebSocketRequestHandler):
                def log_message(self, *args): pass
                def on_message(self, message):
                    os.kill(os.getpid(), signal.{"SIGTERM" if where == "serving thread" else "SIGINT"})
                def on_close(self, code, reason):
                    print("on_close", code, flush=True)

            def talk():
                with WebSocketClient(f"ws://127.0.0.1:{{server.server_port}}/") as websocket:
                    websocket.send("x")
                    for message in websocket: pass

            with PoolingWebSocketServer(("127.0.0.1", 0), Handler) as server:
                signal.signal(signal.SIGTERM, lambda *args: server.shutdown())
                signal.signal(signal.SIGINT, lambda *args: server.shutdown())
                client = threading.Thread(target=talk)
                client.start()
                if {where == "serving thread"}:
                    server.serve_forever()
                else:
                    serving = threading.Thread(target=server.serve_forever)
                    serving.start()
                    serving.join()
                client.join()
            names = [thread.name for thread in threading.enumerate()]
            print("left", [name for name in names if name not in ("MainThread", "websocketserver-keepalive")])
        """
        assert signal.SIGTERM  # as named in the program
        root = str(Path(__file__).parent.parent)
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(program)],
            env={**os.environ, "PYTHONPATH": root},
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        assert (done.stdout.split("\n"), done.stderr) == (["on_close 1001", "left []", ""], "")


def test_a_router_or_any_callable_may_make_the_handlers() -> None:
    handler = type("Own", (Echo,), {"events": [], "lines": []})

    def make(*args: Any) -> Any:
        return handler(*args)

    with running_server(make, server_class=PoolingWebSocketServer) as running, raw_client(running) as peer:
        echo(peer, b"x")


@contextlib.contextmanager
def most_descriptors() -> Iterator[int]:
    """Yield how many descriptors there may be: as many as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield hard if hard >= 0 else 1 << 20
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Crowd:
    """Peers that do nothing but answer Pings, in one thread; ``answered`` has those that were asked."""

    def __init__(self) -> None:
        self.answered: set[RawPeer] = set()
        self._over = threading.Event()
        self._selector = selectors.DefaultSelector()

    def __enter__(self) -> Crowd:
        self._ours, self._theirs = socket.socketpair()
        self._selector.register(self._ours, selectors.EVENT_READ)
        self._thread = run_in_thread(self._run)
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._theirs.close()  # wakes it
        self._thread.result()
        self._ours.close()
        self._selector.close()

    def add(self, peer: RawPeer) -> None:
        self._selector.register(peer.sock, selectors.EVENT_READ, peer)

    def _run(self) -> None:
        while not self._over.is_set():
            for key, _ in self._selector.select():
                if (peer := key.data) is not None:
                    ping = peer.read_frame()
                    assert ping.opcode == PING
                    peer.frame(PONG, ping.payload)
                    self.answered.add(peer)


def talk(peer: RawPeer, text: bytes) -> None:
    """Have a message echoed, and answer the Pings before that."""
    peer.frame(TEXT, text)
    while (got := peer.read_frame()).opcode == PING:
        peer.frame(PONG, got.payload)
    assert got[:2] == (TEXT, text)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_an_idle_crowd_is_kept_while_others_talk() -> None:
    """All of them are pinged and have their answers heard: who is visited or heard too late would be given up."""
    limits = {"max_connections": None, "max_workers": 2, "log_message": log_message}
    settings = {"ping_interval": 10, "ping_timeout": 60}
    with contextlib.ExitStack() as stack:
        size = min(10_000, (stack.enter_context(most_descriptors()) - 500) // 2)
        running = stack.enter_context(serving(Echo, server_attributes=limits, **settings))
        with Crowd() as crowd:
            for _ in range(size):
                crowd.add(stack.enter_context(raw_client(running)))
            talkers = [stack.enter_context(raw_client(running)) for _ in range(10)]

            def all_are_heard() -> bool:
                for number, talker in enumerate(talkers):
                    talk(talker, b"%d" % number)
                connections = running.server.connections
                return len(crowd.answered) == size and all(each.latency is not None for each in connections)

            wait_until(all_are_heard, 60)
        assert len(running.server.connections) == size + len(talkers)
