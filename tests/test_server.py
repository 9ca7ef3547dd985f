"""The servers: where they listen, what they survive, and how they end."""

from __future__ import annotations

import contextlib
import math
import os
import socket
import threading
from http.server import BaseHTTPRequestHandler
from typing import Any, ClassVar

import pytest

from websocketserver.server import ThreadingWebSocketServer, WebSocketServer

from .program import run_program
from .serving import PAGE, Quiet, connected, echo, events, leave, read_to_end, serving
from .support import (
    SOON,
    certificates,
    opening_request,
    raw_client,
    run_in_thread,
    running_server,
    wait_until,
)

TEXT, CLOSE = 1, 8
BOTH = [ThreadingWebSocketServer, WebSocketServer]


@pytest.fixture(params=BOTH, ids=lambda kind: kind.__name__)
def server_class(request: pytest.FixtureRequest) -> Any:
    return request.param


class TestServing:
    @pytest.mark.parametrize("context", ["certificate.pem", True])
    def test_ssl_context_must_be_one(self, context: Any) -> None:
        with pytest.raises(TypeError, match="SSLContext"):
            WebSocketServer(("127.0.0.1", 0), Quiet, ssl_context=context)

    def test_tls_needs_a_handler_that_speaks_it(self) -> None:
        with pytest.raises(TypeError, match="plain text"):
            WebSocketServer(("127.0.0.1", 0), BaseHTTPRequestHandler, ssl_context=certificates().server)

    def test_many_at_once(self) -> None:
        with serving() as running, contextlib.ExitStack() as stack:
            peers = [stack.enter_context(raw_client(running)) for _ in range(50)]
            for number, peer in enumerate(peers):
                peer.frame(TEXT, b"%d" % number)
            for number, peer in enumerate(peers):
                assert peer.read_frame().payload == b"%d" % number
            assert len(running.server.connections) == 50
        assert running.server.connections == []

    def test_a_burst_of_connects(self) -> None:
        with serving() as running, contextlib.ExitStack() as stack:
            socks = [stack.enter_context(connected(running)) for _ in range(100)]
            for sock in socks:
                sock.sendall(PAGE)
            for sock in socks:
                assert read_to_end(sock).startswith(b"HTTP/1.1 426")

    def test_one_at_a_time_in_the_serving_thread(self) -> None:
        class Handler(Quiet):
            def on_open(self) -> None:
                self.events.append(threading.get_ident())

        with serving(Handler, server_class=WebSocketServer) as running:
            with raw_client(running) as first, connected(running) as second:
                second.sendall(opening_request())
                wait_until(lambda: len(events(running)) == 1)
                assert events(running) == [running.server._serving]
                leave(first)
                assert b"101" in second.recv(4096)

    @pytest.mark.parametrize("seconds", [1000.0, math.inf, None, 0.0])
    def test_a_thread_serves_the_next_connection_if_it_comes_in_time(self, seconds: float | None) -> None:
        class Server(ThreadingWebSocketServer):
            keep_threads = seconds
            threads: ClassVar[list[threading.Thread]] = []

            def process_request_thread(self, request: Any, client_address: Any) -> None:
                self.threads.append(threading.current_thread())
                super().process_request_thread(request, client_address)

        keeps = seconds != 0
        with serving(server_class=Server) as running:
            for _ in range(2):
                assert echo(running) == b"x"
                wait_until(lambda: running.server._handlers._spare if keeps else not Server.threads[-1].is_alive())
        assert (Server.threads[0] is Server.threads[1]) is keeps
        assert all(thread.name.endswith(" (process_request_thread)") for thread in Server.threads)
        assert not any(thread.is_alive() for thread in Server.threads)

    def test_override_points_are_in_their_places(self, server_class: Any) -> None:
        called = []

        def note(name: str) -> Any:
            def method(self: Any, *args: Any) -> Any:
                called.append(name)
                return getattr(super(Server, self), name)(*args)

            return method

        names = ["server_bind", "server_activate", "get_request", "verify_request", "process_request"]
        names += ["finish_request", "shutdown_request", "close_request", "server_close"]
        if server_class is ThreadingWebSocketServer:
            names.append("process_request_thread")
        Server = type("Server", (server_class,), {name: note(name) for name in names})
        with serving(server_class=Server) as running:
            assert echo(running) == b"x"
        assert set(called) == set(names)
        at_work = [name for name in called if not name.startswith("server_")]
        expected = ["get_request", "verify_request", "process_request", "process_request_thread", "finish_request"]
        assert at_work == [name for name in [*expected, "shutdown_request", "close_request"] if name in names]

    def test_a_request_may_be_refused_unheard(self, server_class: Any) -> None:
        class Server(server_class):  # type: ignore[misc]
            def verify_request(self, request: Any, client_address: Any) -> bool:
                return False

        with serving(server_class=Server) as running, connected(running) as sock:
            assert read_to_end(sock, cut=True) == b""

    def test_any_callable_makes_handlers(self) -> None:
        Handler = type("Own", (Quiet,), {"events": [], "lines": []})

        def route(request: Any, client_address: Any, server: Any) -> Any:
            return Handler(request, client_address, server)

        with running_server(route, server_class=ThreadingWebSocketServer) as running:
            assert echo(running) == b"x"

    def test_a_pool_of_the_users_own_may_run_the_handlers(self) -> None:
        class Pooled(ThreadingWebSocketServer):
            def process_request(self, request: Any, client_address: Any) -> None:
                self.thread = run_in_thread(self.process_request_thread, request, client_address)

        with serving(server_class=Pooled) as running, raw_client(running) as peer:
            peer.frame(TEXT, b"x")
            assert peer.read_frame().payload == b"x"
            stopped = run_in_thread(running.server.shutdown)
            assert peer.read_close() == 1001
            leave(peer, 1001)
            stopped.result()
            assert len(running.server.registry) == 0

    @pytest.mark.parametrize("method", ["serve_forever", "handle_request"])
    def test_a_closed_one_says_so(self, server_class: Any, method: str) -> None:
        server = server_class(("127.0.0.1", 0), Quiet)
        server.server_close()
        with pytest.raises(ValueError, match="the server is closed"):
            getattr(server, method)()

    def test_service_actions_run_again_and_again(self, server_class: Any) -> None:
        class Server(server_class):  # type: ignore[misc]
            count = 0

            def service_actions(self) -> None:
                self.count += 1

        with Server(("127.0.0.1", 0), Quiet) as server:
            handle = run_in_thread(server.serve_forever, 0.01)
            wait_until(lambda: server.count > 3)
            server.shutdown()
            handle.result()

    def test_handle_request_serves_one(self, server_class: Any) -> None:
        Handler = type("Own", (Quiet,), {"events": [], "lines": []})
        with server_class(("127.0.0.1", 0), Handler) as server:
            handle = run_in_thread(server.handle_request)
            with socket.create_connection(server.server_address, SOON) as sock:
                sock.sendall(PAGE)
                assert read_to_end(sock).startswith(b"HTTP/1.1 426")
            handle.result()

    def test_handle_request_has_a_timeout(self, server_class: Any) -> None:
        class Server(server_class):  # type: ignore[misc]
            timeout = 0.05
            timed_out = 0

            def handle_timeout(self) -> None:
                self.timed_out += 1

        with Server(("127.0.0.1", 0), Quiet) as server:
            server.handle_request()
            server.handle_request()
            assert server.timed_out == 2

    def test_handle_request_ends_with_a_shutdown(self, server_class: Any) -> None:
        with server_class(("127.0.0.1", 0), Quiet) as server:
            handle = run_in_thread(server.handle_request)
            wait_until(lambda: server._serving)
            server.shutdown()
            handle.result()


class TestBroadcast:
    def test_reaches_all_that_are_open(self) -> None:
        with serving() as running, contextlib.ExitStack() as stack:
            peers = [stack.enter_context(raw_client(running)) for _ in range(3)]
            wait_until(lambda: len(running.server.connections) == 3)
            assert running.server.broadcast("to all") == 3
            assert running.server.broadcast(b"\x00") == 3
            for peer in peers:
                assert peer.read_frame()[:2] == (TEXT, b"to all")
                assert peer.read_frame()[:2] == (2, b"\x00")
            leave(peers[0])
            peers[0].read_close()
            wait_until(lambda: len(running.server.connections) == 2)
            assert running.server.broadcast("to the rest") == 2

    def test_one_that_does_not_read_is_given_up(self) -> None:
        message = bytes(64 << 20)  # the system may keep half of that for who does not read
        with serving(send_timeout=60, max_queue_size=None, compression=None) as running, raw_client(running):
            wait_until(lambda: running.server.connections)
            running.server.connections[0]._output._stall = 0.2  # nobody is patient with this one
            with raw_client(running) as other:
                wait_until(lambda: len(running.server.connections) == 2)
                reader = run_in_thread(other.read_frame)
                assert running.server.broadcast(message) in (1, 2)  # even that one has taken some of it, as a rule
                assert reader.result().payload == message
                assert running.server.broadcast("still there") == 1

    @pytest.mark.parametrize("message", [None, 7, ["x"]])
    def test_needs_a_message(self, message: Any) -> None:
        with WebSocketServer(("127.0.0.1", 0), Quiet) as server, pytest.raises(TypeError, match="message must be"):
            server.broadcast(message)


class TestAdversity:
    def test_accept_survives_every_error(self, server_class: Any) -> None:
        failures = [OSError(number, os.strerror(number)) for number in (103, 71, 104, 1, 24, 23, 105, 12, 5)]

        class Server(server_class):  # type: ignore[misc]
            logged: list[str] = []

            def get_request(self) -> tuple[Any, Any]:
                if failures:
                    raise failures.pop(0)
                return super().get_request()  # type: ignore[no-any-return]

            def log_message(self, format: str, *args: Any) -> None:
                self.logged.append(format % args)

        with serving(server_class=Server) as running:
            assert echo(running) == b"x"
            assert failures == []
            assert len(running.server.logged) == 1  # a minute

    @pytest.mark.parametrize("kind", ["ThreadingWebSocketServer", "PoolingWebSocketServer"])
    def test_accept_waits_out_a_want_of_descriptors(self, kind: str) -> None:
        """It neither spins nor gives up, and shutdown wakes it."""
        done = run_program(f"""
            import os, resource, socket, threading, time
            from tests.support import wait_until
            from websocketserver import {kind}, WebSocketRequestHandler

            class Page(WebSocketRequestHandler):
                def do_GET(self):
                    self.send_response(204)
                    self.end_headers()

            def ask(sock):
                sock.sendall(b"GET / HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
                return sock.recv(4096)[9:12]

            server = {kind}(("127.0.0.1", 0), Page)
            thread = threading.Thread(target=server.serve_forever, daemon=True)
            thread.start()
            with socket.create_connection(server.server_address) as client:  # so that all is there
                ask(client)
            wait_until(lambda: not len(server.registry))
            clients = [socket.socket() for _ in range(2)]
            used = max(map(int, os.listdir("/proc/self/fd")))
            resource.setrlimit(resource.RLIMIT_NOFILE, (used + 4, used + 4))
            spare = []

            def fill():
                try:
                    while True:
                        spare.append(os.dup(0))
                except OSError:
                    pass

            fill()
            for client in clients:
                client.settimeout(10)
            clients[0].connect(server.server_address)
            before = time.process_time()
            time.sleep(0.4)
            print("cpu", time.process_time() - before < 0.05)
            os.close(spare.pop())
            print("served", ask(clients[0]))
            clients[0].close()
            wait_until(lambda: not len(server.registry))
            fill()
            clients[1].connect(server.server_address)
            wait_until(server._backoff.left)
            began = time.monotonic()
            server.shutdown(60)
            print("shut down", time.monotonic() - began < 30)
            thread.join()
            for number in spare:
                os.close(number)  # whoever measures this process writes a file at its end
        """)
        assert done.stdout.split("\n")[:3] == ["cpu True", "served b'204'", "shut down True"], done
        starved = [line for line in done.stderr.splitlines() if "accepting fails" in line]
        assert len(starved) == 1
        assert "Traceback" not in done.stderr

    def test_a_failing_verify_request_ends_nothing(self, server_class: Any) -> None:
        class Server(server_class):  # type: ignore[misc]
            failed = False

            def verify_request(self, request: Any, client_address: Any) -> bool:
                if not self.failed:
                    self.failed = True
                    raise LookupError("verify")
                return True

        with serving(server_class=Server, errors_expected=True) as running:
            with connected(running) as sock:
                assert read_to_end(sock, cut=True) == b""
            assert echo(running) == b"x"
        assert [error.args for error in running.errors] == [("verify",)]

    @pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
    def test_a_thread_that_cannot_start_costs_that_connection(self, tls: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        start = threading.Thread.start

        def fail_for_handlers(thread: threading.Thread) -> None:
            if "process_request_thread" in thread.name and not failed:
                failed.append(thread)
                raise RuntimeError("can't start new thread")
            start(thread)

        failed: list[threading.Thread] = []
        logged: list[str] = []
        attributes = {"log_message": lambda self, format, *args: logged.append(format % args)}
        with serving(tls=tls, server_attributes=attributes) as running:
            monkeypatch.setattr(threading.Thread, "start", fail_for_handlers)
            with connected(running) as sock:
                answer = read_to_end(sock, cut=True)
                assert answer.startswith(b"HTTP/1.1 503 ") or (tls and answer == b"")
            assert failed
            with raw_client(running) as peer:
                peer.close_frame()
                assert peer.read_close() == 1000
        assert len(logged) == 1
        assert "can't start new thread" in logged[0]

    def test_an_exception_in_a_handlers_constructor_ends_nothing(self, server_class: Any) -> None:
        def make(request: Any, client_address: Any, server: Any) -> None:
            raise LookupError("made")

        with running_server(make, server_class=server_class, errors_expected=True) as running:
            for _ in range(2):
                with connected(running) as sock:
                    assert read_to_end(sock, cut=True) == b""
        assert len(running.errors) == 2


class TestMaxConnections:
    def test_more_are_refused_with_503(self) -> None:
        logged: list[str] = []
        attributes = {"max_connections": 2, "log_message": lambda self, format, *args: logged.append(format % args)}
        with serving(server_attributes=attributes) as running:
            with raw_client(running) as first, raw_client(running) as second:
                for _ in range(3):
                    with connected(running) as sock:
                        sock.sendall(opening_request())
                        head, _, body = read_to_end(sock, cut=True).decode().partition("\r\n\r\n")
                        assert head.startswith("HTTP/1.1 503 ")
                        assert "Retry-After: 5" in head.split("\r\n")
                        assert f"Content-Length: {len(body)}" in head.split("\r\n")
                for peer in (first, second):
                    peer.frame(TEXT, b"x")
                    assert peer.read_frame().payload == b"x"
                leave(first)
                first.read_close()
                wait_until(lambda: len(running.server.registry) == 1)
                assert echo(running) == b"x"
        assert len(logged) == 1
        assert "max_connections" in logged[0]

    def test_over_tls_they_are_closed(self) -> None:
        with serving(tls=True, server_attributes={"max_connections": 0, "log_message": lambda *args: None}) as running:
            with connected(running) as sock:
                assert read_to_end(sock, cut=True) == b""

    def test_none_means_no_limit(self) -> None:
        with serving(server_attributes={"max_connections": None}) as running:
            assert echo(running) == b"x"


def test_lines_about_the_server_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with WebSocketServer(("127.0.0.1", 0), Quiet) as server:
        server.log_message("%s and %d", "one", 2)
    line = capsys.readouterr().err
    assert line.startswith("WebSocketServer - - [")
    assert line.endswith("] one and 2\n")
