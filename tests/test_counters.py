"""Counters: what has gone through a server, by connections that are over and by those that are open."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

import pytest

from websocketserver import ServerStats, WebSocketClient, WebSocketRequestHandler
from websocketserver.counters import Counters, Stats
from websocketserver.pooling import PoolingWebSocketServer
from websocketserver.server import ThreadingWebSocketServer

from .serving import OURS, connected, exchange, leave, read_to_end
from .support import MS, SOON, Running, raw_client, run_in_thread, running_server, wait_until

TEXT, CLOSE, PING = 1, 8, 9
ONE = Stats(1, 2, 3, 4, 5, 6, 7.0, 0.25, 1000, 1001, True)


class Echo(WebSocketRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def on_message(self, message: str | bytes) -> None:
        if message == "fail":
            raise LookupError("mine")
        self.websocket.send(message)

    def do_GET(self) -> None:
        if self.path == "/fail":
            raise LookupError("mine")
        self.send_response(HTTPStatus.NO_CONTENT)
        self.end_headers()


@pytest.fixture(params=OURS, ids=lambda kind: kind.__name__)
def server_class(request: pytest.FixtureRequest) -> Any:
    return request.param


@contextlib.contextmanager
def serving(server_class: Any, handler: Any = Echo, **options: Any) -> Iterator[Running]:
    options.setdefault("server_attributes", {}).setdefault("log_message", lambda *args: None)
    with running_server(handler, server_class=server_class, **options) as running:
        yield running


def stats(running: Running) -> ServerStats:
    found: ServerStats = running.server.stats
    return found


class TestSums:
    def test_of_connections(self) -> None:
        sums = ServerStats()
        sums.add(ONE)
        sums.add_open(ONE._replace(close_received=None, close_sent=None, dropped=False))
        assert (sums.connections_opened, sums.connections_open, sums.connections_dropped) == (2, 1, 1)
        assert (sums.bytes_received, sums.bytes_sent) == (2, 4)
        assert (sums.messages_received, sums.messages_sent) == (6, 8)
        assert (sums.pings_received, sums.pings_sent) == (10, 12)
        assert (sums.connection_seconds, sums.latencies) == (14.0, [0.25])
        assert (sums.closes_received, sums.closes_sent) == ({1000: 1}, {1001: 1})

    def test_once_taken_do_not_change(self) -> None:
        counters = Counters()
        counters.end(ONE)
        counters.count_one("refused", "why")
        before = counters.copy()
        counters.end(ONE)
        counters.count("accepted", 3)
        counters.count_one("refused", "why")
        counters.count_one("handshakes_failed", 403)
        counters.count_one("requests_refused", 403)
        assert (before.accepted, before.connections_opened) == (0, 1)
        assert (before.refused, before.handshakes_failed, before.closes_sent) == ({"why": 1}, {}, {1001: 1})
        assert before.requests_refused == {}
        before.refused["mine"] += 1
        assert counters.copy().refused == {"why": 2}

    def test_are_right_whoever_counts(self) -> None:
        counters = Counters()

        def count() -> None:
            for _ in range(500):
                counters.count("accepted")
                counters.count_one("refused", "why")
                counters.end(ONE)

        threads = [run_in_thread(count) for _ in range(4)]
        for thread in threads:
            thread.result()
        sums = counters.copy()
        assert (sums.accepted, sums.refused["why"], sums.bytes_sent) == (2000, 2000, 4000)


class TestOfAServer:
    @pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
    def test_are_those_of_open_connections_and_of_those_that_are_over(self, server_class: Any, tls: bool) -> None:
        with serving(server_class, tls=tls, compression=None) as running:
            options: dict[str, Any] = {"compression": None, **running.client_options}
            with WebSocketClient(running.url(), **options) as over:
                over.send("12345")
                assert over.recv(SOON) == "12345"
                over.close(4000)
            wait_until(lambda: stats(running).sockets_open == 0)
            with WebSocketClient(running.url(), **options) as client:
                client.send("123")
                assert client.recv(SOON) == "123"
                wait_until(lambda: stats(running).messages_sent == 2)  # counted behind the sending
                now = stats(running)
                assert (now.accepted, now.sockets_open) == (2, 1)
                assert (now.connections_opened, now.connections_open) == (2, 1)
                assert now.messages_received == 2
                assert (now.bytes_received, now.bytes_sent) == (6 + 5 + 6 + 2 + 6 + 3, 2 + 5 + 2 + 2 + 2 + 3)
                assert (now.closes_received, now.closes_sent) == ({4000: 1}, {4000: 1})
                assert now.connection_seconds > 0
            wait_until(lambda: stats(running).sockets_open == 0)
            assert stats(running).connections_opened == 2
            assert sum(stats(running).closes_sent.values()) == 2

    def test_never_go_down_while_connections_come_and_go(self, server_class: Any) -> None:
        """Nobody is counted twice, or not at all, on the way from those that are open to those that are over."""
        clients, messages = 20, 5
        with serving(server_class) as running:
            done = threading.Event()

            def churn() -> None:
                for _ in range(clients):
                    with raw_client(running) as peer:
                        for _ in range(messages):
                            peer.frame(TEXT, b"m")
                            assert peer.read_frame().payload == b"m"
                        leave(peer)
                        assert peer.read_close() == 1000

            def watch() -> int:
                seen, looks = (0, 0, 0, 0.0), 0
                while not done.wait(MS / 2):  # without it this thread would hold up the others
                    now = stats(running)
                    found = now.connections_opened, now.messages_sent, now.bytes_received, now.connection_seconds
                    assert all(new >= old for new, old in zip(found, seen, strict=True)), (seen, found)
                    assert now.connections_opened <= now.accepted
                    seen, looks = found, looks + 1
                return looks

            watching = run_in_thread(watch)
            churning = [run_in_thread(churn) for _ in range(3)]
            for each in churning:
                each.result()
            wait_until(lambda: stats(running).sockets_open == 0)
            done.set()
            assert watching.result() > 0
            now = stats(running)
            assert now.accepted == now.connections_opened == 3 * clients
            assert now.messages_received == now.messages_sent == 3 * clients * messages
            assert now.closes_received == now.closes_sent == {1000: 3 * clients}

    def test_of_pings(self, server_class: Any) -> None:
        with serving(server_class, ping_interval=0.05) as running, raw_client(running) as peer:
            peer.frame(PING, b"theirs")
            while (got := peer.read_frame()).opcode != PING:
                pass
            peer.frame(10, got.payload)
            wait_until(lambda: stats(running).latencies)
            now = stats(running)
            assert now.pings_received == 1
            assert now.pings_sent >= 1
            assert len(now.latencies) == 1

    def test_of_who_is_refused(self) -> None:
        attributes = {"max_connections": 1, "verify_request": lambda self, request, address: self.admits}
        attributes["admits"] = True
        with serving(ThreadingWebSocketServer, server_attributes=attributes) as running:
            with raw_client(running), connected(running) as sock:
                assert read_to_end(sock).startswith(b"HTTP/1.1 503 ")
            wait_until(lambda: stats(running).sockets_open == 0)
            running.server.admits = False
            with connected(running) as sock:
                assert read_to_end(sock) == b""
            running.server.max_connections_per_address, running.server.max_connections = 0, None
            with connected(running) as sock:
                assert read_to_end(sock).startswith(b"HTTP/1.1 503 ")
            assert stats(running).refused == {
                "max_connections": 1,
                "verify_request": 1,
                "max_connections_per_address": 1,
            }

    def test_of_threads_that_are_not_to_be_had(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with serving(ThreadingWebSocketServer) as running:

            def start(thread: Any) -> None:
                raise RuntimeError("can't start new thread")

            monkeypatch.setattr(running.server._handlers, "start", start)
            with connected(running) as sock:
                assert read_to_end(sock).startswith(b"HTTP/1.1 503 ")
            assert stats(running).refused == {"no thread to be had": 1}

    def test_of_who_gave_way(self) -> None:
        with serving(ThreadingWebSocketServer, server_attributes={"max_connections": 1}) as running:
            with connected(running) as waiting:
                wait_until(lambda: stats(running).sockets_open == 1)
                wait_until(lambda: running.server.registry.admission._waiting)
                with raw_client(running):
                    assert read_to_end(waiting) == b""
            assert stats(running).gave_way == 1
            assert stats(running).refused == {}

    def test_of_handshakes_that_failed(self, server_class: Any) -> None:
        def authorize(self: Any) -> HTTPStatus | None:
            return HTTPStatus.UNAUTHORIZED if self.path == "/members" else None

        with serving(server_class, authorize=authorize) as running:
            for path, headers, status in [
                ("/", {"Origin": "http://evil.example"}, 403),
                ("/members", {}, 401),
                ("/members", {}, 401),
                ("/", {"Sec-WebSocket-Version": "7"}, 426),
            ]:
                with raw_client(running, path, headers=headers, status=status):
                    pass
            wait_until(lambda: stats(running).sockets_open == 0)
            assert stats(running).handshakes_failed == {403: 1, 401: 2, 426: 1}
            assert stats(running).requests_refused == {403: 1, 426: 1, 401: 2}
            assert stats(running).connections_opened == 0
            assert stats(running).accepted == 4

    def test_of_requests_that_are_refused(self, server_class: Any) -> None:
        with serving(server_class, allowed_hosts=("x",)) as running:
            for line, host in (("junk", "x"), ("GET / HTTP/1.1", "y"), ("PUT / HTTP/1.1", "x")):
                exchange(running, f"{line}\r\nHost: {host}\r\n\r\n".encode())
            assert stats(running).requests_refused == {400: 1, 421: 1, 501: 1}
            assert stats(running).handshakes_failed == {}

    def test_of_tls_handshakes_that_failed(self, server_class: Any) -> None:
        with serving(server_class, tls=True) as running:
            exchange(running, b"\x16\x03\x01 no, not really \r\n\r\n")
            wait_until(lambda: stats(running).tls_handshakes_failed == 1)
            assert stats(running).handshakes_failed == {}

    def test_of_exceptions_of_handlers(self, server_class: Any) -> None:
        with serving(server_class, errors_expected=True) as running:
            with raw_client(running) as peer:
                peer.frame(TEXT, b"fail")
                assert peer.read_close() == 1011
            wait_until(lambda: stats(running).handler_errors == 1)
            assert exchange(running, b"GET /fail HTTP/1.1\r\nHost: x\r\n\r\n") == b""
            wait_until(lambda: stats(running).handler_errors == 2)
            with connected(running) as sock:  # the second request of a connection that is kept alive
                sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                assert sock.recv(1 << 16).startswith(b"HTTP/1.1 204 ")
                sock.sendall(b"GET /fail HTTP/1.1\r\nHost: x\r\n\r\n")
                assert read_to_end(sock) == b""
            wait_until(lambda: stats(running).handler_errors == 3)
            wait_until(lambda: len(running.errors) == 3)
        assert stats(running).handler_errors == 3

    @pytest.mark.parametrize("reads", [False, True])
    def test_of_peers_that_do_not_read(self, server_class: Any, reads: bool) -> None:
        def on_message(self: Any, message: str) -> None:
            self.websocket.send(bytes(1 << 26))

        timeout = 30 if reads else 0.2
        with serving(server_class, send_timeout=timeout, compression=None, on_message=on_message) as running:
            with raw_client(running) as peer:
                peer.frame(TEXT, b"x")
                if reads:  # and leaves in the middle
                    peer.sock.recv(1)
                else:
                    wait_until(lambda: stats(running).connections_dropped == 1)
            wait_until(lambda: stats(running).sockets_open == 0)
            assert stats(running).connections_dropped == (not reads)

    def test_outlive_a_shutdown(self) -> None:
        with serving(PoolingWebSocketServer, close_timeout=0.1) as running:
            with raw_client(running):
                running.server.shutdown()
            wait_until(lambda: stats(running).sockets_open == 0)
            assert stats(running).connections_opened == 1
            assert stats(running).closes_sent == Counter({1001: 1})
